"""A run on disk: what it is, how far it has come, and the states drawn.

    run.json   its identity; a run is only ever resumed with the same
    state.npz  everything the next iteration depends on, and the numbers so far
    noise.npy  the states drawn

state.npz is replaced as a whole, so that a run killed at any moment leaves a good one.
"""

__all__ = [
    "Record",
    "Run",
    "check_holds_only",
    "fingerprint",
    "parts_within",
    "under",
    "within",
]

import contextlib
import hashlib
import json
import os
import pathlib
import zipfile
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from keras_tilt.storage.files import part_of, replace


class Run:
    """The folder of one run, new or found. Nothing is written before `create`.

    Args:
        directory: folder, which need not exist; "~" is the home of the user.
        identity: dict of what the result depends on, of values that JSON knows.
        lengths: names in it that say how long the run is, and may have other values.

    Raises:
        ValueError: if the folder holds another run, a damaged one, or anything else.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        identity: Mapping[str, Any],
        lengths: Sequence[str] = (),
    ) -> None:
        self.directory = pathlib.Path(directory).expanduser()
        self.identity = json.loads(json.dumps(identity))
        if self.file.exists():
            with _whole(self.file):
                saved = json.loads(self.file.read_text())
            same = {name: saved.get(name) for name in lengths if name in saved}
            _check_same(self.directory, saved, self.identity | same)
        else:
            check_holds_only(self.directory, {part_of(self.file).name})

    @property
    def file(self) -> pathlib.Path:
        """The file of the identity."""
        return self.directory / "run.json"

    def create(self) -> None:
        """Create the folder and write the identity, if it is new."""
        if not self.file.exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            identity = json.dumps(self.identity, indent=1).encode()
            replace(self.file, lambda part: part.write(identity))

    def load(self) -> dict[str, np.ndarray] | None:
        """Return the arrays saved last, by name; None before the first save."""
        file = self.directory / "state.npz"
        if not file.exists():
            return None
        with _whole(file), np.load(file) as arrays:
            return dict(arrays)

    def checkpoint(self, arrays: Mapping[str, Any]) -> None:
        """Save arrays in place of the last ones."""
        replace(self.directory / "state.npz", lambda part: np.savez(part, **arrays))

    def draws(self, shape: Sequence[int], dtype: DTypeLike) -> np.ndarray:
        """Return an array on disk, [draws, ...] or longer: as saved, or new."""
        file = self.directory / "noise.npy"
        shape = tuple(map(int, shape))  # a header with NumPy's own is not read
        before = None
        if (self.directory / "state.npz").exists():
            with _whole(file):  # "r+" would fill up a short one
                before = np.lib.format.open_memmap(file, mode="r")
        if before is None or len(before) < shape[0]:
            part = part_of(file)
            longer = np.lib.format.open_memmap(part, "w+", dtype, shape)
            if before is not None:
                longer[: len(before)] = before
            longer.flush()
            os.replace(part, file)
        return np.lib.format.open_memmap(file, mode="r+")


class Record(dict):
    """The numbers of every iteration, name -> [iterations, tilts, chains]."""

    def __init__(self, num_iterations: int) -> None:
        super().__init__()
        self.num_iterations = num_iterations

    def add(self, iteration: int, numbers: Mapping[str, np.ndarray]) -> None:
        """Write down the numbers of an iteration."""
        for name, values in numbers.items():
            if name not in self:
                self[name] = np.zeros(
                    [self.num_iterations, *values.shape], values.dtype
                )
            self[name][iteration] = values

    def first(self, count: int) -> dict[str, np.ndarray]:
        """Return those of the first iterations, name -> [count, tilts, chains]."""
        return {name: values[:count] for name, values in self.items()}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over the numbers of the first iterations."""
        for name, values in arrays.items():
            whole = [max(self.num_iterations, len(values)), *values.shape[1:]]
            self[name] = np.zeros(whole, values.dtype)
            self[name][: len(values)] = values


def under(prefix: str, arrays: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    """Return arrays by name, or a list of them by index, under a prefix."""
    named = arrays if isinstance(arrays, Mapping) else dict(enumerate(arrays))
    return {f"{prefix}{name}": array for name, array in named.items()}


def parts_within(arrays: Mapping[str, np.ndarray], prefix: str) -> list[np.ndarray]:
    """Return the list of arrays that was put `under` a prefix."""
    found = within(arrays, prefix)
    return [found[str(i)] for i in range(len(found))]


def within(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays whose names begin with a prefix, without it."""
    found = [name for name in arrays if name.startswith(prefix)]
    return {name.removeprefix(prefix): arrays[name] for name in found}


def fingerprint(values: ArrayLike | None) -> str | None:
    """Return shape and hash of an array in a few characters; None for None."""
    if values is None:
        return None
    values = np.ascontiguousarray(values)
    return f"{list(values.shape)} {hashlib.sha256(values.tobytes()).hexdigest()[:16]}"


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


def check_holds_only(directory: str | os.PathLike, names: Set[str]) -> None:
    """Raise a ValueError unless a folder is new, or holds only files of some names.

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


def _check_same(directory, saved, identity):
    other = [
        f"{name} {saved.get(name)!r} there, {identity.get(name)!r} here"
        for name in sorted(saved.keys() | identity.keys())
        if saved.get(name) != identity.get(name)
    ]
    if other:
        raise ValueError(
            "`directory` must hold the run that is to be resumed. Received: "
            f"{directory}, which holds another: {'; '.join(other)}. "
            "Pass another folder, or the arguments of that run."
        )
