"""Phases of a training: epochs with one objective and one optimizer, in a row.

    epochs of phase k:  first + sum of epochs before k, ..., first + sum up to k - 1

Source: Dai, Lu, Wu 2015, section 3: generative epochs, then discriminative ones with
another learning rate.
"""

__all__ = ["Phase", "PhasesInARow"]

import typing
from collections.abc import Callable

import numpy as np


class Phase(typing.NamedTuple):
    """Epochs with one objective and one optimizer.

    Attributes:
        objective: of `GenerativeClassifier.compile`.
        epochs: how many.
        optimizer: function of nothing that makes the Keras optimizer.
        batches: function (epoch, step) -> `tf.data.Dataset` of (images, labels), what
            is left of that epoch of the run from that step on, of known cardinality.
        queue: past batches kept as draws of q, of `GenerativeClassifier.compile`.
        calibrate: whether the model is calibrated before it.
    """

    objective: str | float
    epochs: int
    optimizer: Callable
    batches: Callable
    queue: int = 0
    calibrate: bool = False


class PhasesInARow:
    """Which phase an epoch of a run belongs to, and how many steps there are.

    Args:
        phases: list of `Phase`.
        first_epoch: number of epochs before the first of them.
    """

    def __init__(self, phases, first_epoch=0):
        self._phases = list(phases)
        self._ends = first_epoch + np.cumsum([phase.epochs for phase in phases])

    def __getitem__(self, number):
        return self._phases[number]

    @property
    def last_epoch(self):
        """Number of epochs at the end of the last phase."""
        return int(self._ends[-1])

    def number_of(self, epoch):
        """Return the number of an epoch's phase, from 0; None behind the last."""
        number = int(np.searchsorted(self._ends, epoch, side="right"))
        return number if number < len(self._phases) else None

    def steps_before(self, epoch):
        """Return the number of steps of the whole run, and of those before an epoch."""
        total = done = 0
        for phase, end in zip(self._phases, self._ends, strict=True):
            first = int(end) - phase.epochs
            steps = int(phase.batches(first, 0).cardinality())
            total += phase.epochs * steps
            done += steps * int(np.clip(epoch - first, 0, phase.epochs))
        return total, done
