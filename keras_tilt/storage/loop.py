"""One loop for every run: advanced, shown, saved, interrupted and resumed.

    position <- advance(position)      until it is over

A position holds all that the next iteration depends on. It is saved every half a
minute, and whenever the loop is left: at the end, by an interrupt, by an error. A run
that goes on from it is the uninterrupted run, bit for bit.
"""

__all__ = ["Checkpoints", "iterate"]

import time
from collections.abc import Callable
from typing import Any, TypeVar

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
