"""The progress bar of a training: epoch, loss, what matters beside it, time left."""

__all__ = ["ProgressBar"]

import contextlib
import sys
import time

from tqdm import auto as tqdm

_FORMAT = "{desc}{percentage:3.0f}%|{bar}| {remaining} left, {rate_fmt}{postfix}"
_SHOWN = {"kish_ess": "Kish ESS", "accuracy": "accuracy"}  # beside the loss
_REFRESH = 0.5  # seconds between two looks at the numbers


class ProgressBar(contextlib.AbstractContextManager):
    """A bar over the images of a whole training, closed at the end of the context.

    Args:
        total: number of steps of the training.
        done: number of those before it is shown.
        batch_size: images in a step.
        shown: whether there is one to see.
    """

    def __init__(self, total, done, batch_size, shown):
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

    def begin(self, name):
        """Say what is done from here on; numbers of before are no longer shown."""
        self._bar.set_postfix_str("", refresh=False)
        self.rename(name)

    def rename(self, name):
        """Say what is done, beside the numbers as they are."""
        self._bar.set_description(name)

    def advance(self, steps):
        """Move by a number of steps."""
        self._bar.update(steps * self._batch_size)

    def show(self, logs, loss_name):
        """Show the loss and other numbers of the logs of a step, now and then."""
        if time.monotonic() < self._looked + _REFRESH:
            return
        self._looked = time.monotonic()
        names = {loss_name: loss_name.replace("_", " "), **_SHOWN}
        numbers = [f"{names[n]} {float(logs[n]):.3g}" for n in names if n in logs]
        self._bar.set_postfix_str(", ".join(numbers), refresh=False)

    def say(self, text):
        """Write a line to standard error, above the bar."""
        self._bar.write(text, file=sys.stderr)
