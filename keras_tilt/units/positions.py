"""Where on a layer's map a unit is read: a place, or the mean over all places.

    values [n, places ..., channels] -> [n, channels]

A place is an index for each axis of places: none of a vector, one of a sequence, two
of a map.
"""

__all__ = [
    "Place",
    "at_place",
    "checked_position",
    "default_place",
    "indices",
    "integer",
]

import operator
from collections.abc import Sequence
from typing import Any, Literal

import tensorflow as tf

# An index for each axis of places, or where it is by name.
Place = Literal["center", "mean"] | tuple[int, ...]


def default_place(axes: int) -> Place:
    """Return where a layer is read by default: "mean" of a sequence, else "center".

    The middle token of a sequence says less than any other choice: beside patches in
    rows there may be a token of the class, and the mean is of all of them.
    """
    return "mean" if axes == 1 else "center"


def at_place(values: tf.Tensor, place: Place) -> tf.Tensor:
    """Return values [n, places ..., channels] at one place, or their mean.

    The center is half of every size, rounded down.
    """
    axes = range(1, len(values.shape) - 1)
    if place == "mean":
        return tf.reduce_mean(tf.cast(values, tf.float32), axis=list(axes))
    if place == "center":
        return values[:, *[tf.shape(values)[axis] // 2 for axis in axes]]
    return values[:, *place]


# Checks


def checked_position(name: str, shape: Sequence[int | None], position: Any) -> Place:
    """Return the place that a position means, after checks.

    Args:
        name: of the layer.
        shape: of what it makes, (None, places ..., channels).
        position: as in `kt.unit`; None: by default.
    """
    size = shape[1:-1]
    if position is None:
        return default_place(len(size))
    if isinstance(position, str) and position == "center":
        return "center"
    if isinstance(position, str) and position == "mean" and size:
        return "mean"
    place = indices(position) or ()
    inside = bool(size) and len(place) == len(size)
    inside = inside and all(
        0 <= p and (s is None or p < s) for p, s in zip(place, size, strict=True)
    )
    if not inside:
        wanted, received = _POSITIONS.get(len(size), _POSITIONS[None])
        received = received.format(" x ".join(map(str, size)))
        raise ValueError(
            f"Expected `position` to be {wanted} of {name!r}. "
            f"Received: {position!r}. Its output is {received}."
        )
    return place


# What a position may be, and what the layer makes, by the number of axes of places.
_POSITIONS = {
    0: ("left out: there is only one place", "a vector, without a map"),
    1: ("'mean', 'center' or an index in the sequence", "a sequence of {}"),
    2: ("'center', 'mean' or (row, column) on the map", "a map of {}"),
    None: ("'center', 'mean' or a tuple of an index for each axis", "an array of {}"),
}


def indices(position: Any) -> tuple[int, ...] | None:
    """Return the integers of a sequence, or of one integer, as a tuple; or None."""
    if isinstance(position, str):
        return None
    one = integer(position)
    try:
        found = [integer(part) for part in position] if one is None else [one]
    except TypeError:
        return None
    known = tuple(part for part in found if part is not None)
    return known if len(known) == len(found) else None


def integer(value: Any) -> int | None:
    """Return the integer that a number or its text stands for, or None."""
    if isinstance(value, bool):
        return None
    try:
        return int(value) if isinstance(value, str) else operator.index(value)
    except (TypeError, ValueError):
        return None
