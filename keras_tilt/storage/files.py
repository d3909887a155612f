"""Files that are replaced as a whole: at any moment the old or the new one exists.

Nothing else writes files but `keras_tilt.storage.run_folder`,
`keras_tilt.serving.servable` and TensorBoard's writers.
"""

__all__ = [
    "locked",
    "part_of",
    "replace",
    "replace_path",
    "save_model",
    "write_table",
]

import contextlib
import csv
import fcntl
import io
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO


def part_of(file: pathlib.Path) -> pathlib.Path:
    """Return the name of a file until it is complete."""
    return file.with_name(file.name + ".part")


def replace(file: pathlib.Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that at any moment either the old or the new one exists.

    Args:
        file: path.
        write: function of the opened new file.

    Raises:
        OSError: if it cannot be written; the old file is kept.
    """
    with _replacing(file, part_of(file)) as part, open(part, "wb") as opened:
        write(opened)
        _flush(opened)


def save_model(file: pathlib.Path, model: Any) -> None:
    """Save a `keras.Model` to a .keras file, replaced as a whole; see `replace`."""
    replace_path(file, model.save)


def replace_path(file: pathlib.Path, write: Callable[[pathlib.Path], object]) -> None:
    """Write a file by its path, replaced as a whole; see `replace`.

    Args:
        file: path.
        write: function of the path of the new file, which has the same extension.
    """
    with _replacing(file, file.with_stem(file.stem + ".part")) as part:
        write(part)
        with open(part, "rb+") as opened:
            _flush(opened)


@contextlib.contextmanager
def _replacing(file, part):
    """Within it the part is written; after it, it is the file."""
    try:
        yield part
        os.replace(part, file)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise OSError(
            error.errno,
            "Expected a folder with room to write to. Received: "
            f"{error.strerror or error}. The old file is intact. Make room, or "
            "fix the permissions, and run the same command again",
            str(file),
        ) from error


def _flush(opened):
    opened.flush()
    os.fsync(opened.fileno())


@contextlib.contextmanager
def locked(file: str | os.PathLike) -> Iterator[None]:
    """Hold a lock on a file: one process at a time."""
    with open(file, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write_table(file: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a comma-separated table, replaced as a whole; missing values are empty.

    Args:
        file: path.
        rows: list of dicts by name of column.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    table = csv.DictWriter(text, names, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    replace(file, lambda part: part.write(text.getvalue().encode()))
