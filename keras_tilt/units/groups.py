"""Groups of units in one pass: each on images of its own, or one chosen in the graph.

    stack     images [units, n, ...] -> f [units, n],     f[u] = unit u of images[u]
    choice    images [n, ...], index -> f [n],            f = unit `index` of images

Units that read the same features share the pass of the network.
"""

__all__ = ["UnitChoice", "UnitStack", "choice", "shared", "stack", "variables_of"]

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tilt.units.algebra import (
    Unit,
    common_shape,
    nonzero,
    weighted_sum,
)
from keras_tilt.units.features import values_of
from keras_tilt.units.random_views import RandomViews


@dataclasses.dataclass(frozen=True)
class UnitStack:
    """Several units side by side, each on its own images.

        images [units, chains, height, width, channels] -> f [units, chains], nats
        f[u] = unit u of images[u]

    Units that read the same features share the pass of the network. Channels and
    weights may be arguments of the graph, `read_outs`, so that a new value does not
    retrace.

    Attributes:
        units: tuple of `Unit`, or of functions images [n, ...] -> f [n].
    """

    units: tuple[Callable, ...]

    @property
    def input_shape(self) -> tuple[int | None, ...] | None:
        """Shape of one image; None if no unit says it."""
        return _input_shape(self.units)

    @property
    def groups(self) -> tuple[tuple[tuple[int, ...], Any], ...]:
        """What is read, and by which of the units: a tuple that can be a key.

        Stacks with equal groups are the same function of images and `read_outs`.
        """
        return tuple(
            (tuple(group), _read_by(self.units[group[0]]))
            for group in shared(self.units)
        )

    @property
    def read_outs(self) -> tuple[np.ndarray, ...]:
        """Channels and weights of all features in turn, arrays [units, most].

        most: the largest number of channels that one of the units reads.
        """
        return tuple(
            part
            for group, read in self.groups
            for features in (read if isinstance(read, tuple) else ())
            for part in nonzero(_weights(features, [self.units[i] for i in group]))
        )

    def __call__(self, images: ArrayLike, *read_outs: ArrayLike) -> tf.Tensor:
        """Return f: float32 [units, chains].

        Args:
            images: [units, chains, height, width, channels].
            *read_outs: those of a stack with equal groups; by default its own.
        """
        tensor = tf.convert_to_tensor(images)
        if tensor.shape[0] != len(self.units):
            raise ValueError(
                f"Expected images [{len(self.units)}, chains, height, width, channels],"
                f" one set for each unit. Received: shape {tensor.shape}."
            )
        groups, rows = self.groups, tf.unstack(tensor, len(self.units))
        parts = iter(read_outs or self.read_outs)
        f: dict[int, tf.Tensor] = {}
        for group, read in groups:
            together = (
                tensor if len(groups) == 1 else tf.stack([rows[i] for i in group])
            )
            values = _side_by_side(read, together, parts)
            f.update(zip(group, tf.unstack(values, len(group)), strict=True))
        return tf.stack([f[i] for i in range(len(f))])


def _read_by(unit):
    """Return the features of a unit, a tuple; of anything else the function it is."""
    if not isinstance(unit, Unit):
        return unit
    return tuple(features for features, _ in unit.terms)


def _side_by_side(read, images, read_outs):
    """Return f of the units of one group, each on its own images: [units, n]."""
    if not isinstance(read, tuple):
        return tf.cast(read(images[0]), tf.float32)[None]
    rows = tf.shape(images)[:2]
    flat = tf.reshape(images, tf.concat([[-1], tf.shape(images)[2:]], axis=0))
    flat.set_shape([None, *images.shape[2:]])
    parts = []
    for values in values_of(read, flat):
        channels, weights = next(read_outs), next(read_outs)
        by_unit = tf.reshape(values, [*tf.unstack(rows), tf.shape(values)[1]])
        by_unit.set_shape([*images.shape[:2], None])
        chosen = tf.gather(by_unit, channels, axis=-1, batch_dims=1)
        parts.append(weighted_sum(chosen, weights[:, None]))
    return tf.add_n(parts)


@dataclasses.dataclass(frozen=True)
class UnitChoice:
    """One of several units by its index, which may be a tensor.

        images [n, height, width, channels], index -> f [n], nats

    A network with many classes is in the graph once, not once for every class.

    Attributes:
        units: tuple of `Unit`, or of functions images [n, ...] -> f [n].
    """

    units: tuple[Callable, ...]

    @property
    def is_of_networks(self) -> bool:
        """Whether none of the units is a plain function."""
        return all(isinstance(unit, Unit) for unit in self.units)

    def __call__(self, images: ArrayLike, index: ArrayLike) -> tf.Tensor:
        """Return f of the unit `index`, [] int32, in 0 ... units - 1: float32 [n]."""
        groups = shared(self.units)
        if len(groups) == 1:
            return self._of_group(groups[0], images, index)
        group_of, place_in = np.zeros([2, len(self.units)], np.int32)
        for number, group in enumerate(groups):
            group_of[group], place_in[group] = number, range(len(group))
        place = tf.gather(place_in, index)
        branches = [
            lambda group=group: self._of_group(group, images, place) for group in groups
        ]
        return tf.switch_case(tf.gather(group_of, index), branches)

    def every(self, images: ArrayLike) -> tf.Tensor:
        """Return f of all units: float32 [n, units]."""
        found: dict[int, tf.Tensor] = {}
        for group in shared(self.units):
            units = [self.units[i] for i in group]
            f = _columns(units, images)
            found.update(zip(group, tf.unstack(f, len(group), axis=1), strict=True))
        return tf.stack([found[i] for i in sorted(found)], axis=1)

    def _of_group(self, group, images, place):
        units = [self.units[i] for i in group]
        if not isinstance(units[0], Unit):
            return tf.cast(units[0](images), tf.float32)
        parts = []
        for values, (channels, weights) in _read(units, images):
            chosen = tf.gather(values, tf.gather(channels, place), axis=1)
            parts.append(weighted_sum(chosen, tf.gather(weights, place)))
        return tf.add_n(parts)


def _columns(units, images):
    """Return f of the units of one group, all on the same images: [n, units]."""
    if not isinstance(units[0], Unit):
        return tf.cast(units[0](images), tf.float32)[:, None]
    return tf.add_n(
        [
            weighted_sum(tf.gather(values, channels, axis=1), weights)
            for values, (channels, weights) in _read(units, images)
        ]
    )


def _read(units, images):
    """Return (values, (channels, weights)) of the features of units of one group."""
    several = _read_by(units[0])
    read_outs = [nonzero(_weights(features, units)) for features in several]
    return list(zip(values_of(several, images), read_outs, strict=True))


def _weights(features, units):
    """Return the weights that units of one group give some features."""
    return np.stack([dict(unit.terms)[features] for unit in units])


def choice(units: Iterable[Callable]) -> UnitChoice:
    """Return a function of images and the index of a unit.

    Args:
        units: several `Unit`s of images of one shape; functions of images [n, ...] to
            f [n] may be among them.

    Returns:
        choice: `UnitChoice`, images [n, ...], index -> f [n].

    Example:
        >>> network = keras_tilt.lenet()
        >>> units = [keras_tilt.unit(network, class_index=c) for c in range(10)]
        >>> digits = choice(units)
        >>> digits(tf.zeros([2, 28, 28, 1]), 3).shape
        TensorShape([2])
    """
    return UnitChoice(_checked(units))


def stack(units: Iterable[Callable]) -> UnitStack:
    """Return a function of all units, each on its own images.

    Args:
        units: several `Unit`s of images of one shape; functions of images [n, ...] to
            f [n] may be among them.

    Returns:
        stack: `UnitStack`, images [units, chains, ...] -> f [units, chains].

    Example:
        >>> network = keras_tilt.lenet()
        >>> units = [keras_tilt.unit(network, class_index=c) for c in range(10)]
        >>> digits = stack(units)
        >>> digits(tf.zeros([10, 2, 28, 28, 1])).shape
        TensorShape([10, 2])
    """
    return UnitStack(_checked(units))


def shared(units: Sequence[Callable]) -> list[list[int]]:
    """Return the groups of units that read the same features, as lists of indices.

    Args:
        units: sequence; a function that is not a `Unit` is a group of its own.

    Returns:
        groups: list of lists of indices, in order of their first units.
    """
    groups: dict[Hashable, list[int]] = {}
    for i, unit in enumerate(units):
        key = unit.features if isinstance(unit, Unit) else i
        groups.setdefault(key, []).append(i)
    return list(groups.values())


def variables_of(record: Any) -> list[keras.Variable]:
    """Return the Keras variables of all networks and views within a record, each once.

    Args:
        record: a `Unit`, any other dataclass, a network, or a tuple of such.
    """
    return list({id(variable): variable for variable in _variables(record)}.values())


def _variables(record):
    if isinstance(record, keras.Model):
        return record.variables
    if isinstance(record, RandomViews):
        return [record.view]
    if isinstance(record, tuple | list):
        parts = record
    elif dataclasses.is_dataclass(record):
        parts = [getattr(record, field.name) for field in dataclasses.fields(record)]
    else:
        parts = []
    return [variable for part in parts for variable in _variables(part)]


def _input_shape(units):
    """Return the shape of the images of all units; None if no unit states one."""
    units = [unit for unit in units if isinstance(unit, Unit)]
    return common_shape(f for unit in units for f, _ in unit.terms) if units else None


def _checked(units):
    units = tuple(units)
    if not units or not all(map(callable, units)):
        raise ValueError(
            "Expected one or several units. Received: "
            f"{units!r}. Pass for example [kt.unit(network, class_index=3)]."
        )
    _input_shape(units)  # raises if the units disagree
    return units
