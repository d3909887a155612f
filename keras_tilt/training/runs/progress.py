"""The progress bar of a training: epoch, loss, Kish ESS, accuracy, time left."""

__all__ = ["ProgressBar"]

import contextlib
import sys
import time
from collections.abc import Mapping
from typing import Any

from tqdm import auto as tqdm

_FORMAT = "{desc}{percentage:3.0f}%|{bar}| {remaining} left, {rate_fmt}{postfix}"
_SHOWN = {"kish_ess": "Kish ESS", "accuracy": "accuracy"}  # beside the loss
_REFRESH = 0.5  # seconds between two updates of the numbers


class ProgressBar(contextlib.AbstractContextManager):
    """A bar over the images of a whole training, closed at the end of the context.

    Args:
        total: number of steps of the training.
        done: number of steps that were done before.
        batch_size: images in a step.
        shown: whether to show it.
    """

    def __init__(self, total: int, done: int, batch_size: int, shown: bool):
        self._batch_size, self._looked = batch_size, 0.0
        self._bar = tqdm.tqdm(
            total=batch_size * total,
            initial=batch_size * done,
            unit="img",
            unit_scale=True,
            bar_format=_FORMAT,
            disable=not shown,
        )

    def __exit__(self, *error):
        self._bar.close()

    def begin(self, name: str) -> None:
        """Show the name of what begins, without the numbers of what was before."""
        self._bar.set_postfix_str("", refresh=False)
        self.rename(name)

    def rename(self, name: str) -> None:
        """Show another name beside the same numbers."""
        self._bar.set_description(name)

    def advance(self, steps: int) -> None:
        """Move by a number of steps."""
        self._bar.update(steps * self._batch_size)

    def show(self, logs: Mapping[str, Any], loss_name: str) -> None:
        """Show the loss and other logs of a step, at most twice a second."""
        if time.monotonic() < self._looked + _REFRESH:
            return
        self._looked = time.monotonic()
        names = {loss_name: loss_name.replace("_", " "), **_SHOWN}
        numbers = [f"{names[n]} {float(logs[n]):.3g}" for n in names if n in logs]
        self._bar.set_postfix_str(", ".join(numbers), refresh=False)

    def say(self, text: str) -> None:
        """Write a line to standard error, above the bar."""
        self._bar.write(text, file=sys.stderr)
