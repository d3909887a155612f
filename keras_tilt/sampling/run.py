"""One loop for every run: advanced, shown, saved, interrupted and resumed.

    position <- advance(position)      until it is over

A position holds all that the next iteration depends on. It is saved every half a
minute, and whenever the loop is left: at the end, by an interrupt, by an error. A run
that goes on from it is the uninterrupted run, bit for bit.
"""

__all__ = ["Checkpoints", "KeptStates", "iterate"]

import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from keras_tilt.sampling.schedule import Plan
from keras_tilt.storage.run_folder import Run

P = TypeVar("P")

_SAVE_EVERY = 30.0  # seconds


def iterate(
    position: P,
    advance: Callable[[P], P],
    *,
    is_over: Callable[[P], bool],
    show: Callable[[P], None],
    keep: Callable[[P], None] | None = None,
    may_stop: Callable[[P], bool] | None = None,
) -> P:
    """Return the last position of a run.

    Args:
        position: where it begins, or goes on.
        advance: function, position -> the next one. Interrupted within, the position
            is the one before.
        is_over: function of a position, whether it is the last.
        show: function of every new position, for a progress bar.
        keep: function of a position that saves it, or None.
        may_stop: function of a position, whether an interrupt there returns it; by
            default an interrupt is always raised.
    """
    saved_at = time.monotonic()
    try:
        while not is_over(position):
            position = advance(position)
            show(position)
            if keep and time.monotonic() > saved_at + _SAVE_EVERY:
                keep(position)
                saved_at = time.monotonic()
    except KeyboardInterrupt:
        if not (may_stop and may_stop(position)):
            raise
    finally:
        if keep:
            keep(position)
    return position


class Checkpoints:
    """The positions of a run in its folder, if it has one.

    Args:
        run: a `keras_tilt.storage.run_folder.Run`; None saves nothing.
        pack: function, position -> dict of arrays.
        unpack: function, dict of arrays -> position.
    """

    def __init__(
        self,
        run: Run | None,
        pack: Callable[[Any], dict],
        unpack: Callable[[dict], Any],
    ) -> None:
        self.run, self.pack, self.unpack = run, pack, unpack

    def resumed(self) -> Any:
        """The position saved last, or None; from now on there is a folder."""
        saved = self.run.load() if self.run else None
        position = self.unpack(saved) if saved else None
        if self.run:
            self.run.create()
        return position

    def keep(self, position: Any) -> None:
        """Replace what was saved."""
        if self.run:
            self.run.checkpoint(self.pack(position))


class KeptStates:
    """Where the states of the draws go: memory, a file, or a callback.

    Args:
        plan: a `keras_tilt.sampling.schedule.Plan`.
        noise: [rows, chains, ...], of which the states are more.
        callback: None, or a function of the number of a draw and its noise.
        run: None, or the `keras_tilt.storage.run_folder.Run` of the file.
    """

    def __init__(
        self,
        plan: Plan,
        noise: np.ndarray,
        callback: Callable[[int, np.ndarray], object] | None,
        run: Run | None,
    ) -> None:
        self.thin, self.callback = plan.thin, callback
        self.kept: np.ndarray | None = None
        if callback is None:
            shape = (plan.num_results // plan.thin, *noise.shape)
            make = run.draws if run else np.empty
            self.kept = make(shape, noise.dtype)

    def add(self, draw: int, noise_of: Callable[[], np.ndarray]) -> None:
        """Hand on the state after a draw, if it is one of those to be kept."""
        index, remainder = divmod(draw + 1, self.thin)
        if remainder:
            return
        if self.kept is not None:
            self.kept[index - 1] = noise_of()
        elif self.callback is not None:
            self.callback(draw, noise_of())

    def of(
        self, row: int, num_draws: int, noise_of: Callable[[], np.ndarray]
    ) -> np.ndarray:
        """The states kept of one tilt, [draws, chains, ...], or the last alone."""
        if self.kept is None:
            return noise_of()[None, row]
        states = self.kept[: num_draws // self.thin, row]
        states.flags.writeable = False  # on the disk they are those of the run
        return states

    def flush(self) -> None:
        """To the disk, if the states are there."""
        if isinstance(self.kept, np.memmap):
            self.kept.flush()
