"""Phases of a training, each of some epochs with one objective and one optimizer.

    phase k ends at epoch e_k = first + sum of the epochs of phases 0, ..., k

Source: Dai, Lu, Wu 2015, section 3: generative epochs, then discriminative ones with
another learning rate.
"""

__all__ = ["Phase", "PhaseSequence", "as_tensorflow", "num_batches"]

import typing
from collections.abc import Callable, Iterable, Sequence, Sized
from typing import Any

import numpy as np
import tensorflow as tf

from keras_tilt.training.compile_checks import Objective


class Phase(typing.NamedTuple):
    """Epochs with one objective and one optimizer.

    Attributes:
        objective: as in `GenerativeClassifier.compile`.
        epochs: number of epochs.
        optimizer: function without arguments that returns a new Keras optimizer.
        batches: function (epoch, step) -> `tf.data.Dataset` of (images, labels), the
            rest of that epoch of the run from that step on, of known cardinality; or a
            `grain.MapDataset` of such batches.
        queue: number of past batches kept, as in `GenerativeClassifier.compile`.
        calibrate: whether to calibrate the model before the phase.
        reads_parts: whether `batches` takes a third argument, a
            `tf.distribute.InputContext` or None, and returns of every batch the parts
            of that worker's replicas, as `keras_tilt.batches.training_batches` does.
            Without it each of several workers reads whole batches.
    """

    objective: Objective
    epochs: int
    optimizer: Callable
    batches: Callable[..., Iterable]
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
            steps = num_batches(phase.batches(first, 0))
            total += phase.epochs * steps
            done += steps * int(np.clip(epoch - first, 0, phase.epochs))
        return total, done


# Data sets of a phase


def num_batches(dataset: Iterable) -> int:
    """Return the number of batches of a data set, none of which is read.

    Args:
        dataset: `tf.data.Dataset`, or of Grain, which has a length.

    Raises:
        ValueError: if that is not known.
    """
    if isinstance(dataset, tf.data.Dataset):
        found = int(dataset.cardinality())
    else:
        found = len(dataset) if isinstance(dataset, Sized) else -1
    if found < 0:
        raise ValueError(
            "`batches` of a phase must return data sets of a known number of batches. "
            f"Received: {dataset}. Apply tf.data.experimental.assert_cardinality, or "
            "return a grain.MapDataset."
        )
    return found


def as_tensorflow(dataset: Any) -> Any:
    """Return a data set of Grain as one of TensorFlow, of as many batches.

    Keras, too, reads data sets of Grain, and does not know where they end: it takes a
    step more, which moves random generators on.

    Args:
        dataset: a `grain.MapDataset`; what is not of Grain is returned.
    """
    if type(dataset).__module__.partition(".")[0] != "grain":
        return dataset
    count = num_batches(dataset)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    return (
        tf.data.Dataset.from_generator(
            lambda: map(tuple, dataset),
            output_signature=tuple(tf.nest.map_structure(_spec, tuple(dataset[0]))),
        )
        .apply(tf.data.experimental.assert_cardinality(count))
        .prefetch(1)
        .with_options(options)
    )


def _spec(array):
    array = np.asarray(array)
    return tf.TensorSpec([None, *array.shape[1:]], array.dtype)
