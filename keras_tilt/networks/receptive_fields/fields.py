"""Receptive fields: the pixels that a cell of an inner map can see.

    cell i of a map sees       start + i stride .. start + i stride + size - 1, pixels

Going up from the image, each layer widens what the cells below see by what it reads of
them (`intervals`, `layer_rules`).

Source: Araujo, Norris and Sim, "Computing receptive fields of convolutional neural
networks", Distill 2019.
"""

__all__ = [
    "ReceptiveField",
    "all_pixels_seen",
    "check_graph",
    "has_clean_cell",
    "pixels_seen",
    "receptive_field",
    "steps_below",
]

import dataclasses
import sys
from collections.abc import Hashable, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from keras_tilt.networks import graph
from keras_tilt.networks.receptive_fields.intervals import (
    NOWHERE,
    Interval,
    PixelsSeen,
    composed,
    united,
    whole_image,
)
from keras_tilt.networks.receptive_fields.layer_rules import (
    cells_read,
    has_weights_per_place,
    is_broadcast,
)


@dataclasses.dataclass(frozen=True)
class ReceptiveField:
    """The pixels that the cells of a map see, along (rows, columns).

        cell i sees pixels start + i stride .. start + i stride + size - 1

    Past a layer that enlarges a map (UpSampling2D, Conv2DTranspose) the stride may be a
    fraction; then `window` says what each cell sees.

    Attributes:
        size: (rows, columns) that a cell sees, padding included; the most, where they
            see different ones.
        stride: pixels between neighbouring cells, on average; 0 where all see the same.
        start: first pixel that cell 0 sees; negative where it sees padding.
        windows: ((first, end), ...) of cells 0 .. n - 1, along each axis, where n of
            them see different windows, which then repeat n stride pixels further; else
            empty.
    """

    size: tuple[int, int]
    stride: tuple[int | float, int | float]
    start: tuple[int, int]
    windows: tuple[tuple[Interval, ...], tuple[Interval, ...]] = ((), ())

    def window(self, row: ArrayLike, column: ArrayLike) -> tuple[tuple, tuple]:
        """Return ((first row, end), (first column, end)), pixels; the end is outside.

        Args:
            row: row of the cell, or an array of rows.
            column: column of the cell, or an array of columns.
        """
        axes = zip(
            self.start,
            self.stride,
            self.size,
            self.windows,
            (row, column),
            strict=True,
        )
        return tuple(_window(*axis) for axis in axes)

    def center(self, row: ArrayLike, column: ArrayLike) -> tuple[Any, Any]:
        """Return (row, column) of the middle of what a cell sees, in pixels.

        The middle of pixel 3 is 3.0, that of pixels 3 and 4 is 3.5.

        Args:
            row: row of the cell, or an array of rows.
            column: column of the cell, or an array of columns.
        """
        return tuple((a + end - 1) / 2 for a, end in self.window(row, column))


def _window(start, stride, size, windows, cell):
    """Return (first pixel, end) that cells see along one axis."""
    if not windows:
        return start + stride * cell, start + stride * cell + size
    count = len(windows)
    moved = cell // count * round(stride * count)
    first, end = np.moveaxis(np.array(windows)[cell % count], -1, 0)
    return first + moved, end + moved


def receptive_field(network: keras.Model, layer_name: str) -> ReceptiveField:
    """Return the receptive field of the cells of a layer.

    Convolutions, poolings, padding, cropping, enlarging, and all that acts on each
    place of a map alone or on the whole are followed; any other layer, your own
    included, is tried on random inputs. Past a global pooling, a Flatten or a Reshape
    every cell sees the whole image (stride 0). A layer that acts on each place alone
    may say so by its attribute `pointwise = True`, and is not tried.

    Args:
        network: functional or Sequential `keras.Model` of images [n, h, w, channels],
            or a `GenerativeClassifier`.
        layer_name: "conv5", or "backbone/conv5" inside a nested network.

    Returns:
        field: `ReceptiveField`, in pixels of the network's input.

    Raises:
        ValueError: an unknown layer; one whose receptive field is not known, or depends
            on an unknown size; branches of different strides; several inputs.

    Example:
        >>> network = keras.Sequential([
        ...     keras.Input((28, 28, 1)),
        ...     keras.layers.Conv2D(20, 5, name="conv1"),
        ...     keras.layers.MaxPooling2D(2, name="pool1"),
        ...     keras.layers.Conv2D(50, 5, name="conv2"),
        ... ])
        >>> field = receptive_field(network, "conv2")
        >>> field
        ReceptiveField(size=(14, 14), stride=(2, 2), start=(0, 0), windows=((), ()))
        >>> field.center(0, 7)
        (6.5, 20.5)
    """
    found, target = steps_below(graph.network_of(network), layer_name)
    return _field([pixels_seen(found, target, axis) for axis in (1, 2)])


def _field(axes):
    """Return what is seen along both axes as one `ReceptiveField`."""
    return ReceptiveField(
        size=tuple(axis.size for axis in axes),
        stride=tuple(_numbers(axis.stride for axis in axes)),
        start=tuple(axis.windows[0][0] for axis in axes),
        windows=tuple(axis.windows if axis.windows[1:] else () for axis in axes),
    )


def _numbers(fractions_):
    return [int(f) if f.denominator == 1 else float(f) for f in fractions_]


# Up: from the image to the map


def pixels_seen(found: Sequence[graph.Step], target: Hashable, axis: int) -> PixelsSeen:
    """Return what the cells of the target see, along axis 1 (rows) or 2 (columns)."""
    seen: dict[Hashable, PixelsSeen] = {}
    for step in found:
        seen |= dict.fromkeys(step.outputs, _seen_by(step, seen, axis))
    if seen[target].size is None:
        raise ValueError(
            "Expected a network of images of known size, to name the pixels of the "
            f"whole image, which {found[-1].path!r} sees. Received: input shape "
            f"{found[0].node.output_tensors[0].shape}. Build it with "
            "keras.Input(shape)."
        )
    return seen[target]


def all_pixels_seen(
    found: Sequence[graph.Step], axis: int
) -> dict[Hashable, PixelsSeen | None]:
    """Return {key: what its cells see along an axis, or None where it is not known}."""
    seen: dict[Hashable, PixelsSeen | None] = {}
    for step in found:
        try:
            below = None in [seen.get(key, ()) for key in step.inputs]
            made = None if below else _seen_by(step, seen, axis)
        except ValueError:
            made = None
        seen |= dict.fromkeys(step.outputs, made)
    return seen


def _seen_by(step, seen, axis):
    """Return what the cells that a step makes see along an axis.

    Args:
        step: `Step`.
        seen: {key: what the cells see} of its inputs, unless it is the image's.
        axis: 1 (rows) or 2 (columns).
    """
    if step.kind == "enter" and isinstance(step.inputs[0], str):
        return _of_image(step, axis)
    below = [seen[key] for key in step.inputs]
    if any(field.step for field in below):
        below = [_through(step, i, axis, below[i]) for i in range(len(below))]
    return _union(step, below)


def _of_image(step, axis):
    """Return what the pixels of an input see: themselves."""
    shape = step.node.output_tensors[0].shape
    if len(shape) != 4:
        raise ValueError(
            "Expected images [n, height, width, channels]. Received: input "
            f"{step.path!r} of shape {tuple(shape)}. Name a layer of the images alone."
        )
    image = step.inputs[0], shape[axis]
    return PixelsSeen(((0, 1),), 1, (0, shape[axis] or sys.maxsize), image)


def _through(step, index, axis, below):
    """Return what a cell sees through one input, of what the cells below see."""
    reads = cells_read(step, axis)
    if reads is None:
        return whole_image(below)
    if is_broadcast(step, index, axis):
        return PixelsSeen((below.window(0),), 0, NOWHERE, below.image)
    return composed(reads, below, _clean(step, axis, reads, below))


def _clean(step, axis, reads, below):
    """Return (first, end) of the cells that can be cropped, of those below."""
    if has_weights_per_place(step):
        return NOWHERE
    first, end = reads.full(*below.clean)
    cells = step.node.output_tensors[0].shape[axis] or sys.maxsize
    return max(first, 0), min(end, cells)


def _union(step, fields):
    """Return what a cell sees through several inputs."""
    images = {field.image for field in fields}
    strides = {field.stride for field in fields}
    if len(images) > 1:
        raise ValueError(
            "Expected layers of one input, images. Received: layer "
            f"{step.path!r} of inputs {sorted(name for name, _ in images)}. Name a "
            "layer that depends on the images alone."
        )
    if len(strides) > 1 and 0 in strides or whole_image(fields[0]) in fields:
        return whole_image(fields[0])
    if len(strides) > 1:
        raise ValueError(
            "Expected branches that meet with equal strides, in pixels. Received: "
            f"strides {_numbers(sorted(strides))} at layer {step.path!r}. What its "
            "cells see does not move with them. Name a layer below."
        )
    return united(fields)


def has_clean_cell(axes: Sequence[PixelsSeen]) -> bool:
    """Return whether some cell sees a part of the image, and no padding."""
    return all(first < end for first, end in (axis.clean for axis in axes))


# The steps below a layer


def steps_below(
    network: keras.Model, layer_name: str
) -> tuple[list[graph.Step], Hashable]:
    """Return the steps that a layer needs, and the key of what it makes.

    Raises:
        ValueError: a network without a graph, an unknown layer, or one of several
            inputs or of inputs that are no images.
    """
    check_graph(network)
    step = graph.find(network, layer_name)
    if step.kind == "inside":
        raise ValueError(
            "Expected a layer of the network's graph. Received: "
            f"{layer_name!r}, which another layer calls internally. Name the outer one."
        )
    found = graph.needed(graph.steps(network), step.outputs[0])
    _check_images(found)
    return found, step.outputs[0]


def check_graph(network: keras.Model) -> None:
    """Raise for a network without a graph of layers."""
    if not graph.has_graph(network):
        raise ValueError(
            "Expected `network` to be a functional or Sequential keras.Model with "
            f"known input shape. Received: {network!r}. Receptive fields are read from "
            "the graph of layers: build it with keras.Input and keras.Model."
        )


def _check_images(found):
    names = [step.inputs[0] for step in found if isinstance(step.inputs[0], str)]
    shape = tuple(found[0].node.output_tensors[0].shape)
    if len(names) != 1 or len(shape) != 4:
        raise ValueError(
            f"Expected layer {found[-1].path!r} to depend on one input, images "
            f"[n, height, width, channels]. Received: inputs {names}, the first of "
            f"shape {shape}. Name a layer that depends on the images alone."
        )
