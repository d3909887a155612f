"""A run on disk: what was asked for, how far it has come, and the states drawn.

    run.json   the settings; a run is only ever resumed with the same
    state.npz  everything the next iteration depends on, and the numbers so far
    noise.npy  the states drawn

state.npz is replaced as a whole, so that a run killed at any moment leaves a good one.
This is the only module that writes files.
"""

__all__ = ["Run"]

import json
import os
import pathlib

import numpy as np


class Run:
    """The folder of one run, new or found.

    Args:
        directory: folder; made if it does not exist.
        settings: dict of what the result depends on, of values that JSON knows.

    Raises:
        ValueError: if the folder holds another run, or anything else. Nothing in it is
            changed then.
    """

    def __init__(self, directory, settings):
        self.directory = pathlib.Path(directory)
        settings = json.loads(json.dumps(settings))
        file = self.directory / "run.json"
        if file.exists():
            _check_same(self.directory, json.loads(file.read_text()), settings)
            return
        if self.directory.exists() and any(self.directory.iterdir()):
            raise ValueError(
                "`directory` must be new, empty, or hold the run to resume. Received: "
                f"{self.directory}, which holds other files. Pass another one."
            )
        self.directory.mkdir(parents=True, exist_ok=True)
        _replace(file, lambda part: part.write(json.dumps(settings, indent=1).encode()))

    def load(self):
        """The arrays saved last, by name; None before the first save."""
        file = self.directory / "state.npz"
        if not file.exists():
            return None
        with np.load(file) as arrays:
            return dict(arrays)

    def checkpoint(self, arrays):
        """Replace what was saved."""
        _replace(self.directory / "state.npz", lambda part: np.savez(part, **arrays))

    def draws(self, shape, dtype):
        """An array on disk, [draws, ...]: the one of before, or a new one."""
        file = self.directory / "noise.npy"
        if not file.exists():
            part = file.with_name(file.name + ".part")
            np.lib.format.open_memmap(part, mode="w+", dtype=dtype, shape=shape)
            os.replace(part, file)
        return np.lib.format.open_memmap(file, mode="r+")


def _replace(file, write):
    """Write a file so that at any moment either the old or the new one is there."""
    part = file.with_name(file.name + ".part")
    with open(part, "wb") as opened:
        write(opened)
        opened.flush()
        os.fsync(opened.fileno())
    os.replace(part, file)


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
