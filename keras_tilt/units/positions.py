"""Where on a layer's map a unit is read: a place, or the mean over all places.

    values [n, places ..., channels] -> [n, channels]

A place is an index for each axis of places: none of a vector, one of a sequence, two
of a map.
"""

__all__ = ["at_place", "checked_position", "default_place", "indices", "integer"]

import operator

import tensorflow as tf


def default_place(axes):
    """Return where a layer is read by default: "mean" of a sequence, else "center".

    The middle token of a sequence says less than any other choice: beside patches in
    rows there may be a token of the class, and the mean is of all of them.
    """
    return "mean" if axes == 1 else "center"


def at_place(values, place):
    """Return values [n, places ..., channels] at one place, or their mean.

    The center is half of every size, rounded down.
    """
    axes = range(1, len(values.shape) - 1)
    if place == "mean":
        return tf.reduce_mean(tf.cast(values, tf.float32), axis=list(axes))
    if place == "center":
        place = [tf.shape(values)[axis] // 2 for axis in axes]
    return values[:, *place]


# Checks


def checked_position(name, shape, position):
    """Return "center", "mean", or an index for each axis of places; None: by default.

    Args:
        name: of the layer.
        shape: of what it makes, (None, places ..., channels).
        position: as it was passed.
    """
    size = shape[1:-1]
    if position is None or (position == "center" and isinstance(position, str)):
        return position or default_place(len(size))
    if size and isinstance(position, str) and position == "mean":
        return position
    place = indices(position)
    inside = bool(size) and place is not None and len(place) == len(size)
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


def indices(position):
    """Return the integers of a sequence, or of one integer, as a tuple; or None."""
    if isinstance(position, str):
        return None
    one = integer(position)
    try:
        found = tuple(map(integer, position)) if one is None else (one,)
    except TypeError:
        return None
    return None if None in found else found


def integer(value):
    """Return the integer a number or its text stands for, or None."""
    if isinstance(value, bool):
        return None
    try:
        return int(value) if isinstance(value, str) else operator.index(value)
    except (TypeError, ValueError):
        return None
