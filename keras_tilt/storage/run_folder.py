"""A run on disk: what was asked for, how far it has come, and the states drawn.

    run.json   the settings; a run is only ever resumed with the same
    state.npz  everything the next iteration depends on, and the numbers so far
    noise.npy  the states drawn

state.npz is replaced as a whole, so that a run killed at any moment leaves a good one.
Nothing else writes files, but `keras_tilt.serving.servable` and TensorBoard's writers.
"""

__all__ = [
    "Record",
    "Run",
    "check_holds_only",
    "fingerprint",
    "locked",
    "parts_within",
    "replace",
    "replace_path",
    "save_model",
    "under",
    "within",
    "write_table",
]

import contextlib
import csv
import fcntl
import hashlib
import io
import json
import os
import pathlib
import zipfile

import numpy as np


class Run:
    """The folder of one run, new or found. Nothing is written before `create`.

    Args:
        directory: folder, which need not exist; "~" is the home of the user.
        settings: dict of what the result depends on, of values that JSON knows.
        lengths: names of settings that say how long the run is, and may be others.

    Raises:
        ValueError: if the folder holds another run, a damaged one, or anything else.
    """

    def __init__(self, directory, settings, lengths=()):
        self.directory = pathlib.Path(directory).expanduser()
        self.settings = json.loads(json.dumps(settings))
        if self.file.exists():
            with _whole(self.file):
                saved = json.loads(self.file.read_text())
            same = {name: saved.get(name) for name in lengths if name in saved}
            _check_same(self.directory, saved, self.settings | same)
        else:
            check_holds_only(self.directory, {_part_of(self.file).name})

    @property
    def file(self):
        """Where the settings are."""
        return self.directory / "run.json"

    def create(self):
        """Make the folder and write the settings, if it is new."""
        if not self.file.exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            settings = json.dumps(self.settings, indent=1).encode()
            replace(self.file, lambda part: part.write(settings))

    def load(self):
        """The arrays saved last, by name; None before the first save."""
        file = self.directory / "state.npz"
        if not file.exists():
            return None
        with _whole(file), np.load(file) as arrays:
            return dict(arrays)

    def checkpoint(self, arrays):
        """Replace what was saved."""
        replace(self.directory / "state.npz", lambda part: np.savez(part, **arrays))

    def draws(self, shape, dtype):
        """An array on disk, [draws, ...] or longer: that of before, or a new one."""
        file = self.directory / "noise.npy"
        shape = tuple(map(int, shape))  # a header with NumPy's own is not read
        before = None
        if (self.directory / "state.npz").exists():
            with _whole(file):  # "r+" would fill up a short one
                before = np.lib.format.open_memmap(file, mode="r")
        if before is None or len(before) < shape[0]:
            part = _part_of(file)
            longer = np.lib.format.open_memmap(part, "w+", dtype, shape)
            if before is not None:
                longer[: len(before)] = before
            longer.flush()
            os.replace(part, file)
        return np.lib.format.open_memmap(file, mode="r+")


class Record(dict):
    """The numbers of every iteration, name -> [iterations, rows, chains]."""

    def __init__(self, num_iterations):
        super().__init__()
        self.num_iterations = num_iterations

    def add(self, iteration, numbers):
        for name, values in numbers.items():
            if name not in self:
                self[name] = np.zeros(
                    [self.num_iterations, *values.shape], values.dtype
                )
            self[name][iteration] = values

    def first(self, count):
        """The numbers of as many iterations, name -> [count, rows, chains]."""
        return {name: values[:count] for name, values in self.items()}

    def restore(self, arrays):
        for name, values in arrays.items():
            whole = [max(self.num_iterations, len(values)), *values.shape[1:]]
            self[name] = np.zeros(whole, values.dtype)
            self[name][: len(values)] = values


def under(prefix, arrays):
    """Arrays by their names, or a list of them by their places, under a prefix."""
    if not isinstance(arrays, dict):
        arrays = dict(enumerate(arrays))
    return {f"{prefix}{name}": array for name, array in arrays.items()}


def parts_within(arrays, prefix):
    """The list of arrays that was put `under` a prefix."""
    found = within(arrays, prefix)
    return [found[str(i)] for i in range(len(found))]


def within(arrays, prefix):
    """The arrays whose names begin with a prefix, without it."""
    found = [name for name in arrays if name.startswith(prefix)]
    return {name.removeprefix(prefix): arrays[name] for name in found}


def fingerprint(values):
    """What tells arrays apart, in a few characters; None for None."""
    if values is None:
        return None
    values = np.ascontiguousarray(values)
    return f"{list(values.shape)} {hashlib.sha256(values.tobytes()).hexdigest()[:16]}"


def _part_of(file):
    """What a file is called until it is whole."""
    return file.with_name(file.name + ".part")


def replace(file, write):
    """Write a file so that at any moment either the old or the new one is there.

    Args:
        file: path.
        write: function of the opened new file.

    Raises:
        OSError: if it cannot be written; the old one is still there.
    """
    with _replacing(file, _part_of(file)) as part, open(part, "wb") as opened:
        write(opened)
        _flush(opened)


def save_model(file, model):
    """Replace a .keras file as a whole; errors as `replace`."""
    replace_path(file, model.save)


def replace_path(file, write):
    """The same as `replace` of what is written by its path.

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
            f"{error.strerror or error}. What was there before is whole. Make room, or "
            "mend the rights, and run the same again",
            str(file),
        ) from error


def _flush(opened):
    opened.flush()
    os.fsync(opened.fileno())


@contextlib.contextmanager
def locked(file):
    """Within it no other process is within it with the same file."""
    with open(file, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write_table(file, rows):
    """Replace a table: comma-separated, a column for every name, empty where missing.

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


@contextlib.contextmanager
def _whole(file):
    """An error that names the file, if what is read from it makes no sense."""
    try:
        yield
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"`directory` must hold a whole run. Received: {file}, which is missing or "
            f"damaged ({error}). Restore it from a copy, or pass another folder."
        ) from error


def check_holds_only(directory, names):
    """Raise a ValueError unless a folder is new or empty but for files of some names.

    Args:
        directory: folder, which need not exist.
        names: a set, of files and folders.
    """
    directory = pathlib.Path(directory).expanduser()
    if not directory.exists():
        return
    if not directory.is_dir():
        found = "which is a file"
    elif others := sorted({path.name for path in directory.iterdir()} - names):
        found = f"which holds other files, {', '.join(others[:3])}"
    else:
        return
    raise ValueError(
        "`directory` must be new, empty, or hold the run to resume. Received: "
        f"{directory}, {found}. Pass another one."
    )


def _check_same(directory, saved, settings):
    other = [
        f"{name} {saved.get(name)!r} there, {settings.get(name)!r} here"
        for name in sorted(saved.keys() | settings.keys())
        if saved.get(name) != settings.get(name)
    ]
    if other:
        raise ValueError(
            "`directory` must hold the run that is to be resumed. Received: "
            f"{directory}, which holds another: {'; '.join(other)}. "
            "Pass another folder, or the settings of that run."
        )
