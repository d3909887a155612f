"""Phases of a training, each of some epochs with one objective and one optimizer.

    phase k ends at epoch e_k = first + sum of the epochs of phases 0, ..., k

Source: Dai, Lu, Wu 2015, section 3: generative epochs, then discriminative ones with
another learning rate.
"""

__all__ = ["Phase", "PhaseSequence"]

import typing
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import tensorflow as tf


class Phase(typing.NamedTuple):
    """Epochs with one objective and one optimizer.

    Attributes:
        objective: as in `GenerativeClassifier.compile`.
        epochs: number of epochs.
        optimizer: function without arguments that returns a new Keras optimizer.
        batches: function (epoch, step) -> `tf.data.Dataset` of (images, labels), the
            rest of that epoch of the run from that step on, of known cardinality.
        queue: number of past batches kept, as in `GenerativeClassifier.compile`.
        calibrate: whether to calibrate the model before the phase.
        reads_parts: whether `batches` takes a third argument, a
            `tf.distribute.InputContext` or None, and returns of every batch the parts
            of that worker's replicas, as `keras_tilt.batches.training_batches` does.
            Without it each of several workers reads whole batches.
    """

    objective: Literal["generative", "discriminative"] | float
    epochs: int
    optimizer: Callable
    batches: Callable[..., tf.data.Dataset]
    queue: int = 0
    calibrate: bool = False
    reads_parts: bool = False


class PhaseSequence:
    """The phases of a run, found by its epochs.

    Args:
        phases: list of `Phase`.
        first_epoch: number of epochs before the first of them.
    """

    def __init__(self, phases: Sequence[Phase], first_epoch: int = 0):
        self._phases = list(phases)
        self._ends = first_epoch + np.cumsum([phase.epochs for phase in phases])

    def __getitem__(self, number: int) -> Phase:
        return self._phases[number]

    @property
    def last_epoch(self) -> int:
        """Number of epochs at the end of the last phase."""
        return int(self._ends[-1])

    def number_of(self, epoch: int) -> int | None:
        """Return the index of the phase that an epoch is in; None after the last."""
        number = int(np.searchsorted(self._ends, epoch, side="right"))
        return number if number < len(self._phases) else None

    def steps_before(self, epoch: int) -> tuple[int, int]:
        """Return the numbers of all steps of a run, and of those before an epoch."""
        total = done = 0
        for phase, end in zip(self._phases, self._ends, strict=True):
            first = int(end) - phase.epochs
            steps = int(phase.batches(first, 0).cardinality())
            total += phase.epochs * steps
            done += steps * int(np.clip(epoch - first, 0, phase.epochs))
        return total, done
