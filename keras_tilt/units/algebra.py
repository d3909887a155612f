"""Units f of a network, which form a vector space: the exponent of the tilted density.

    p(x) = exp(f(x)) q(x) / Z,      f: images [n, height, width, channels] -> [n], nats
    f(x) = sum over terms of  features(x) . weights

Sums, differences and multiples of units are units, whose terms are those of both with
equal features merged.
"""

__all__ = [
    "Unit",
    "common_shape",
    "nonzero",
    "read_out",
    "unit_of",
    "weighted_sum",
]

import dataclasses
import math
import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tilt.networks.receptive_fields.intervals import hull
from keras_tilt.units.cropping import check_within, cropped, seen_by
from keras_tilt.units.features import Features, values_of
from keras_tilt.units.unit_names import name_of


@dataclasses.dataclass(frozen=True, eq=False)
class Unit:
    """One number of a network as a function of the image; units form a vector space.

        f: images [n, height, width, channels] -> [n], nats
        f(x) = sum over terms of  features(x) . weights

    u + v, u - v, -u, 2.0 * u and u / 2.0 are units. Units are equal if they read the
    same features with the same weights.

    Attributes:
        name: "class 3", "conv5:12", "conv5:12@0,4" at a position, "u - 2 v"; "class 3
            at 14 px" of resized images, "class 3 over 28, 14 px" of the mean over
            sizes, "conv5:direction 3f2a1b" of more than four channels.
        input_shape: (height, width, channels); None where the network takes any size.
        terms: tuple of (`Features`, weights [channels] float64), no features twice.
            They read the network's own weights: an update of these changes the unit.
    """

    name: str
    input_shape: tuple[Any, ...]
    terms: tuple[tuple[Features, np.ndarray], ...] = dataclasses.field(repr=False)

    # numpy numbers and arrays leave the arithmetic to the unit.
    __array_ufunc__ = None

    def __call__(self, images: ArrayLike) -> tf.Tensor:
        """Return f(images): float32 [n], nats."""
        several, weights = zip(*self.terms, strict=True)
        values = values_of(several, images)
        return tf.add_n(list(map(read_out, values, weights)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Unit):
            return NotImplemented
        mine, theirs = dict(self.terms), dict(other.terms)
        return mine.keys() == theirs.keys() and all(
            np.array_equal(mine[features], theirs[features]) for features in mine
        )

    def __hash__(self) -> int:
        return hash(self.features)

    @property
    def features(self) -> frozenset[Features]:
        """The `Features` that the unit reads, a frozenset."""
        return frozenset(features for features, _ in self.terms)

    def __add__(self, other: Any) -> "Unit":
        if isinstance(other, numbers.Number) and other == 0:  # the start of sum(units)
            return self
        return _sum(self, other) if isinstance(other, Unit) else NotImplemented

    __radd__ = __add__

    def __sub__(self, other: "Unit") -> "Unit":
        return self + -other if isinstance(other, Unit) else NotImplemented

    def __neg__(self) -> "Unit":
        return _scaled(self, -1.0)

    def __mul__(self, scalar: float) -> "Unit":
        return _scaled(self, _finite_number(scalar))

    __rmul__ = __mul__

    def __truediv__(self, scalar: float) -> "Unit":
        if _finite_number(scalar) == 0.0:
            raise ValueError(
                "Expected a number other than zero, to divide a unit by. Received: "
                f"{scalar!r}. Write for example unit / 2.0."
            )
        return _scaled(self, _finite_number(1.0 / scalar))

    def crop(self) -> "Unit":
        """Return the same unit as a function of only the pixels that it sees.

            f_crop(patch) = f(image),   patch the part of the image that f sees

        wherever f sees no padding. The network's own layers run without padding, each
        on the window it needs, so that the response of a map is one cell. A sum of
        several units keeps their places relative to each other: its patch is the
        smallest that holds all they see.

        Returns:
            unit: `Unit` with input_shape (rows, columns, channels) of the patch.

        Raises:
            ValueError: a unit that sees the whole image (a class, a dense layer, the
                mean of a map), or whose receptive field is not known; one that sees
                padding at every place, as where its receptive field is larger than the
                network's image. Such a unit is read on the whole image, without crop.

        Example:
            >>> f = keras_tilt.unit(keras_tilt.lenet(), "conv2:7").crop()
            >>> f.input_shape
            (14, 14, 1)
        """
        alone = len(self.terms) == 1
        seen = [seen_by(features, self.name, alone) for features, _ in self.terms]
        patch = hull([window for _, window in seen])
        check_within(patch, self.name, self.input_shape)
        return unit_of(
            (cropped(features, cell, patch), weights)
            for (cell, _), (features, weights) in zip(seen, self.terms, strict=True)
        )


# The vector space


def unit_of(terms: Iterable[tuple[Features, np.ndarray]]) -> Unit:
    """Return the unit of some terms: equal features merged, those of weight 0 left out.

    Args:
        terms: pairs of `Features` and weights [channels].
    """
    merged: dict[Features, np.ndarray] = {}
    for features, weights in terms:
        merged[features] = merged.get(features, 0.0) + weights
    kept = {features: w for features, w in merged.items() if np.any(w)}
    both = tuple((kept or dict([*merged.items()][:1])).items())
    return Unit(name_of(both), common_shape(merged), both)


def _sum(one, other):
    return unit_of(one.terms + other.terms)


def _scaled(unit, scalar):
    return unit_of((features, scalar * weights) for features, weights in unit.terms)


def _finite_number(scalar):
    """Return a scalar as a float."""
    if not isinstance(scalar, numbers.Real) or isinstance(scalar, bool):
        raise TypeError(
            "Expected a number to scale a unit by. Received: "
            f"{scalar!r}. Write for example 2.0 * unit."
        )
    if not math.isfinite(scalar):
        raise ValueError(
            "Expected a finite number to scale a unit by. Received: "
            f"{scalar!r}. Write for example 2.0 * unit."
        )
    return float(scalar)


def common_shape(several: Iterable[Features]) -> tuple[int | None, ...]:
    """Return the one input shape of all features, sizes filled in where one is any."""
    shape = tf.TensorShape(None)
    for features in several:
        if not shape.is_compatible_with(features.input_shape):
            raise ValueError(
                "Expected units of images of one shape. Received: "
                f"{tuple(shape)} and {features.input_shape}. Make both of the same "
                "image, with `preprocess` and `input_shape` of kt.unit."
            )
        shape = shape.merge_with(features.input_shape)
    return tuple(shape)


# Sums over channels


def read_out(values: tf.Tensor, weights: np.ndarray) -> tf.Tensor:
    """Return sum_c values[n, c] weights[c]: [n].

    Channels of weight 0 are not read, whatever they hold, and one channel of weight 1
    is returned bit by bit.

    Args:
        values: float32 [n, channels].
        weights: array [channels].
    """
    channels, weights = nonzero(weights)
    return weighted_sum(tf.gather(values, channels, axis=-1), weights)


def nonzero(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the channels that have a weight, and their weights: both [..., most].

    Where there are fewer, channels of weight 0 fill up the row.
    """
    count = int(np.max(np.count_nonzero(weights, axis=-1)))
    channels = np.argsort(weights == 0, axis=-1, kind="stable")[..., :count]
    return channels, np.take_along_axis(weights, channels, axis=-1).astype(np.float32)


def weighted_sum(values: tf.Tensor, weights: ArrayLike) -> tf.Tensor:
    """Return the sum of values by weights over the last axis, where 0 NaN = 0."""
    products = tf.math.multiply_no_nan(values, weights)
    alone = products.shape[-1] == 1
    return products[..., 0] if alone else tf.reduce_sum(products, axis=-1)
