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
    """Advance a run to its end, and return the last position.

    Args:
        position: at which the run begins or resumes.
        advance: function, position -> the next one. If it is interrupted, the position
            stays the one before.
        is_over: function of a position, whether it is the last.
        show: function of every new position, for a progress bar.
        keep: function of a position that saves it, or None.
        may_stop: function of a position, whether an interrupt returns it; by default
            an interrupt is always raised.

    Raises:
        KeyboardInterrupt: unless the run may stop at the position.
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
        """Return the position saved last, or None, and create the folder."""
        saved = self.run.load() if self.run else None
        position = self.unpack(saved) if saved else None
        if self.run:
            self.run.create()
        return position

    def keep(self, position: Any) -> None:
        """Save a position in place of the last one."""
        if self.run:
            self.run.checkpoint(self.pack(position))


class KeptStates:
    """Where the states of the draws go: memory, a file, or a callback.

    Args:
        plan: a `keras_tilt.sampling.schedule.Plan`.
        noise: [tilts, chains, ...], an array like the states.
        callback: None, or a function of the index of a draw and its noise.
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
        """Keep the state after a draw, if it is one of every `thin`-th."""
        index, remainder = divmod(draw + 1, self.thin)
        if remainder:
            return
        if self.kept is not None:
            self.kept[index - 1] = noise_of()
        elif self.callback is not None:
            self.callback(draw, noise_of())

    def of(
        self, index: int, num_draws: int, noise_of: Callable[[], np.ndarray]
    ) -> np.ndarray:
        """Return the kept states of a tilt, [draws, chains, ...], or only the last."""
        if self.kept is None:
            return noise_of()[None, index]
        states = self.kept[: num_draws // self.thin, index]
        states.flags.writeable = False  # on the disk they are those of the run
        return states

    def flush(self) -> None:
        """Write the states to disk, if they are kept there."""
        if isinstance(self.kept, np.memmap):
            self.kept.flush()
