"""One cell of a map, from its pixels alone.

    cell -> its window in every map below -> its pixels

Going down from one cell gives its window in every map below, and so the network that
computes this one cell from its pixels.
"""

__all__ = ["cell_and_window", "cell_values"]


from collections.abc import Sequence
from typing import Literal

import keras
import tensorflow as tf

from keras_tilt.networks import graph, layer_views
from keras_tilt.networks.receptive_fields.fields import (
    has_clean_cell,
    pixels_seen,
    steps_below,
)
from keras_tilt.networks.receptive_fields.intervals import Interval, hull
from keras_tilt.networks.receptive_fields.layer_rules import cells_read, check_moves
from keras_tilt.networks.receptive_fields.sliding_layers import (
    CONVOLUTIONS,
    ENLARGING,
    POOLINGS,
    SHIFTS,
    first_made,
)


def cell_and_window(
    network: keras.Model,
    layer: str,
    place: Literal["center"] | Sequence[int],
    alone: bool = True,
) -> tuple[Sequence[int], tuple[Interval, ...], str]:
    """Return (row, column) of a place on a layer's map, and the pixels that it sees.

    Args:
        network: functional or Sequential `keras.Model`.
        layer: "conv5", "backbone/conv5".
        place: (row, column), or "center".
        alone: on maps of any size the center is then the first cell.

    Returns:
        cell: (row, column).
        window: ((first row, end), (first column, end)), pixels.
        name: name of the input that these are pixels of.

    Raises:
        ValueError: what `receptive_field` raises; a layer whose cells see the whole
            image, or padding at every place.
    """
    found, target = steps_below(network, layer)
    shape = found[-1].node.output_tensors[0].shape
    cell: Sequence[int]
    if place != "center":
        cell = place
    elif None not in shape[1:3]:
        cell = shape[1] // 2, shape[2] // 2
    elif alone:
        cell = 0, 0
    else:
        raise ValueError(
            "Expected a network of images of known size, to place the parts of a sum. "
            f"Received: maps {tuple(shape)} of layer {layer!r}. Build the network "
            "with keras.Input(shape), or name positions."
        )
    name = str(found[0].inputs[0])
    window = _windows(found, target, cell)[name]
    _check_clean(found, target)
    return cell, window, name


def _check_clean(found, target):
    """Raise if the cells see padding wherever they are."""
    axes = [pixels_seen(found, target, axis) for axis in (1, 2)]
    if not has_clean_cell(axes):
        rows, columns = (axis.size for axis in axes)
        height, width = (axis.image[1] for axis in axes)
        raise ValueError(
            "Expected a layer that sees no padding at some place. Received: "
            f"{found[-1].path!r}, which sees {rows} x {columns} pixels, of images of "
            f"{height} x {width}, and padding wherever it is. Leave crop() out and "
            "read it on the whole image, or build the network for larger images."
        )


# Down: from one cell to its pixels


def _windows(found, target, cell):
    """Return the part of every map that one cell of the target is made of.

    Args:
        found: the steps that the target needs.
        target: key of the map.
        cell: (row, column).

    Returns:
        windows: {key: ((first row, end), (first column, end))}; under the name of the
            input, in pixels. May lie outside the map, where the cell sees padding.

    Raises:
        ValueError: a step that sees the whole image, or not the same everywhere.
    """
    needs = {target: tuple((i, i + 1) for i in cell)}
    for step in reversed(found):
        made = hull([needs[key] for key in step.outputs if key in needs])
        needs |= dict.fromkeys(step.outputs, made)
        read = _read_window(step, made)
        for key in step.inputs:
            needs[key] = hull([needs.get(key, read), read])
    return needs


def _read_window(step, made):
    """Return what the step reads of its inputs to make this window of its output."""
    check_moves(step)
    both = [cells_read(step, axis) for axis in (1, 2)]
    return tuple(
        (reads.first(first), reads.last(end - 1) + 1)
        for reads, (first, end) in zip(both, made, strict=True)
    )


# The network of one cell


def cell_values(
    network: keras.Model,
    patch: tf.Tensor,
    layer: str,
    cell: Sequence[int],
    window: Sequence[Interval],
    pre_activation: bool,
) -> tf.Tensor:
    """Return all channels of one cell of a layer's map, from its pixels alone.

    Args:
        network: functional or Sequential `keras.Model`.
        patch: the pixels, [n, rows, columns, channels].
        layer: "conv5", "backbone/conv5".
        cell: (row, column).
        window: ((first row, end), (first column, end)) of pixels that the patch shows;
            at least what the cell sees.
        pre_activation: whether to stop before the activation of the layer.

    Returns:
        values: [n, channels].
    """
    found, target = steps_below(network, layer)
    last = found[-1].operation
    last = layer_views.linear(last) if pre_activation else last
    return _run_on_window(found, patch, target, cell, window, last)[:, 0, 0]


def _run_on_window(found, patch, target, cell, window, last):
    """Return one cell of the target, [n, 1, 1, channels], from its pixels alone.

    All padding is off: every step runs on the window that it needs, cut out of what
    the step below has made. At a cell that sees no padding, the value is the network's.

    Args:
        found: the steps that the target needs.
        patch: the pixels, [n, rows, columns, channels].
        target: key of the map.
        cell: (row, column).
        window: ((first row, end), (first column, end)) of pixels that the patch shows;
            at least what the cell sees.
        last: what to call as last step: the layer of the target or a view of it.
    """
    images = found[0].inputs[0]
    needs = _windows(found, target, cell) | {images: window}

    def apply(step, inputs):
        read = _read_window(step, needs[step.outputs[0]])
        inputs = [
            _cut(value, needs[key], read)
            for value, key in zip(inputs, step.inputs, strict=True)
        ]
        if isinstance(step.operation, SHIFTS):
            return inputs[0]
        layer = last if step is found[-1] else step.operation
        if isinstance(layer, CONVOLUTIONS + POOLINGS):
            layer = layer_views.view(layer, padding="valid")
        if isinstance(layer, keras.layers.Conv2DTranspose):
            layer = layer_views.view(layer, padding="valid", output_padding=None)
        made = graph.call(step, inputs, layer)
        if isinstance(layer, ENLARGING):
            first = [first_made(step.operation, i + 1, read[i][0]) for i in (0, 1)]
            made = _cut(made, [(i, None) for i in first], needs[step.outputs[0]])
        return made

    return graph.run(found, {images: patch}, target, apply)


def _cut(value, window, part):
    """Return a part of the window of a map that `value` holds."""
    (top, _), (left, _) = window
    (row, last_row), (column, last_column) = part
    return value[:, row - top : last_row - top, column - left : last_column - left]
