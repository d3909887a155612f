"""The pixels that a unit sees, and the same features of these pixels alone.

    f_crop(patch) = f(image),   patch the part of the image that f sees

The layers of the network run without padding, each on the window that it needs.
"""

__all__ = ["check_within", "cropped", "seen_by"]

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_tilt.networks.receptive_fields.intervals import Interval
from keras_tilt.networks.receptive_fields.single_cells import cell_and_window
from keras_tilt.units.features import Features
from keras_tilt.units.network_inputs import (
    NetworkInputs,
    check_preprocess,
    input_tensors,
)
from keras_tilt.units.readings import Cell, Channels


def seen_by(
    features: Features, name: str, alone: bool
) -> tuple[Sequence[int], tuple[Interval, ...]]:
    """Return the cell that features read, and the window of pixels that it sees.

    Args:
        features: of one place of a map.
        name: of the unit, for errors.
        alone: whether the unit reads nothing else.

    Raises:
        ValueError: features of a whole image, or of images that are prepared.
    """
    reading: Any = features.reading
    is_place = isinstance(reading, Channels) and reading.place != "mean"
    if not is_place or reading.axes != 2:
        raise ValueError(
            "Expected a unit at one place of a map [n, height, width, channels]. "
            f"Received: {reading.label('channel')!r} in {name!r}, "
            f"{_why_no_crop(reading)}. Leave crop() out and read it on the whole "
            "image, or crop a unit of a convolution layer, 'layer:channel'."
        )
    network = features.network
    cell, window, image = cell_and_window(network, reading.layer, reading.place, alone)
    taken = tf.TensorShape(input_tensors(network)[image].shape[1:])
    fits = taken.is_compatible_with(features.input_shape)
    fits = fits and features.inputs.resize is None
    if not fits or image in dict(features.inputs.fixed_inputs):
        raise ValueError(
            "Expected a unit of the pixels that the network takes. Received: images "
            f"{features.input_shape}, the network's input {image!r} takes "
            f"{tuple(taken)}. Crop the unit without `preprocess`, `input_shape` and "
            "`resize`."
        )
    return cell, window


def _why_no_crop(reading):
    if isinstance(reading, Cell):
        return "which is a crop already"
    axes = getattr(reading, "axes", 0)
    if axes in (0, 2):
        return "which sees the whole image"
    return f"of a layer with {axes} {'axis' if axes == 1 else 'axes'} of places"


def check_within(
    patch: Sequence[Interval], name: str, input_shape: Sequence[int | None]
) -> None:
    """Raise if a patch is larger than the images, so that it sees padding everywhere.

    The parts of a sum may see none, each at a place of its own.

    Args:
        patch: ((first row, end), (first column, end)), pixels.
        name: of the unit, for errors.
        input_shape: of the unit's images.
    """
    rows, columns = (end - first for first, end in patch)
    height, width = input_shape[:2]
    if rows > (height or rows) or columns > (width or columns):
        raise ValueError(
            "Expected a unit that sees no padding at some place. Received: "
            f"{name!r}, which sees {rows} x {columns} pixels, of images of "
            f"{height} x {width}. Leave crop() out and read it on the whole image, or "
            "build the network for larger images."
        )


def cropped(
    features: Features, cell: Sequence[int], window: Sequence[Interval]
) -> Features:
    """Return the same features of the pixels in a window.

    Args:
        features: of `Channels` at one place of a map.
        cell: (row, column) of that place.
        window: ((first row, end), (first column, end)), pixels.
    """
    shape = *(end - first for first, end in window), features.input_shape[-1]
    if features.preprocess is not None:
        check_preprocess(features.preprocess, shape, shape)
    channels: Any = features.reading
    reading = Cell(channels.layer, cell, channels.post, window)
    inputs = NetworkInputs(features.network, shape, features.preprocess)
    return Features(inputs, reading)
