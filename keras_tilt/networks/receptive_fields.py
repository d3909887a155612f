"""Receptive fields: the pixels that a cell of an inner map can see.

    cell o of a layer reads    (o stride - pad) // up
                            .. (o stride - pad + size - 1) // up, cells of the map below
    cell i of a map sees       start + i stride .. start + i stride + size - 1, pixels

Only a layer that makes a map larger has an `up` other than 1. Going up, a layer
(k, s, p, 1) makes of (size, stride, start)

    (size + (k - 1) stride,  stride s,  start - p stride)

Past an enlarged map neighbouring cells may see windows of different sizes, which repeat
after a few cells. Branches that meet see the union. Going down from one cell gives its
window in every map below, and so the network that computes this one cell from its
pixels alone. What an unknown layer reads is found out by trial: its inputs are changed
at some places, and its outputs tell where it was seen.

Source: Araujo, Norris and Sim, "Computing receptive fields of convolutional neural
networks", Distill 2019; padding "same" as in TensorFlow, where it depends on the size.
"""

__all__ = [
    "Cell",
    "LayerOfUnits",
    "ReceptiveField",
    "cell_and_window",
    "hull",
    "layers_of",
    "receptive_field",
]

import collections
import dataclasses
import fractions
import math
import sys
import typing
import weakref

import keras
import numpy as np
import tensorflow as tf

from keras_tilt.networks import graph, layer_views

_CONVOLUTIONS = (
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
)
_POOLINGS = (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D)
_SHIFTS = (keras.layers.ZeroPadding2D, keras.layers.Cropping2D)
_ENLARGING = (keras.layers.UpSampling2D, keras.layers.Conv2DTranspose)

# Every cell of the result sees all that the input sees.
_WHOLE = (
    keras.layers.Flatten,
    keras.layers.Reshape,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
)
_REDUCTIONS = ("Amax", "Amin", "Logsumexp", "Max", "Mean", "Min", "Std", "Sum", "Var")

# Each cell sees the same cell below, whatever the arguments.
_POINTWISE = (
    keras.layers.Activation,
    keras.layers.ActivityRegularization,
    keras.layers.Add,
    keras.layers.AlphaDropout,
    keras.layers.Average,
    keras.layers.Dense,
    keras.layers.Dropout,
    keras.layers.ELU,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.Identity,
    keras.layers.LeakyReLU,
    keras.layers.Maximum,
    keras.layers.Minimum,
    keras.layers.Multiply,
    keras.layers.PReLU,
    keras.layers.ReLU,
    keras.layers.Rescaling,
    keras.layers.SpatialDropout2D,
    keras.layers.Subtract,
)
# The same if their `axis` is that of the channels.
_ALONG_CHANNELS = (
    keras.layers.BatchNormalization,
    keras.layers.Concatenate,
    keras.layers.LayerNormalization,
    keras.layers.Normalization,
    keras.layers.RMSNormalization,
    keras.layers.Softmax,
    keras.layers.UnitNormalization,
)
_OPERATIONS_ALONG_CHANNELS = ("Concatenate", "LogSoftmax", "Softmax", "Split")
_POINTWISE_OPERATIONS = """
    Abs Absolute Add Arctan Cast Ceil Celu Clip ConvertToTensor Copy Cos Divide
    DivideNoNan Elu Equal Erf Exp Expm1 Floor Gelu Greater GreaterEqual HardSigmoid
    HardSilu HardTanh Identity LeakyRelu Less LessEqual Log Log1p LogSigmoid Logaddexp
    Maximum Minimum Multiply Negative Power Reciprocal Relu Relu6 Round Rsqrt Selu
    Sigmoid Sign Silu Sin Softplus Softsign Sqrt Square StopGradient Subtract Tanh
    TrueDivide Where
""".split()


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

    size: tuple
    stride: tuple
    start: tuple
    windows: tuple = ((), ())

    def window(self, row, column):
        """Return ((first row, end), (first column, end)), pixels; the end is outside.

        Args:
            row: row of the cell.
            column: column of the cell.
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

    def center(self, row, column):
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


class LayerOfUnits(typing.NamedTuple):
    """A layer whose channels are units.

    Attributes:
        path: "conv5", "backbone/conv5".
        shape: of what it makes, without the batch axis.
        channels: how many units it has at one place.
        receptive_field: (rows, columns) of pixels that a cell sees, padding included;
            None if it is not known.
        can_be_cropped: whether a cell sees a part of the image, the same function of it
            at every place, and at some place no padding: whether `Unit.crop` works.
    """

    path: str
    shape: tuple
    channels: int
    receptive_field: tuple | None
    can_be_cropped: bool


class _Reads(typing.NamedTuple):
    """What cell o of a step reads, along one axis.

    cells (o stride - pad) // up .. (o stride - pad + size - 1) // up
    """

    size: int
    stride: int
    pad: int
    up: int = 1

    def first(self, cell):
        return (cell * self.stride - self.pad) // self.up

    def last(self, cell):
        return (cell * self.stride - self.pad + self.size - 1) // self.up

    def full(self, first, end):
        """Return (first, end) of the cells that read only cells first .. end - 1."""
        return (
            -(-(first * self.up + self.pad) // self.stride),
            (end * self.up + self.pad - self.size) // self.stride + 1,
        )


class _Sees(typing.NamedTuple):
    """What the cells of a map see along one axis.

    cell i sees pixels windows[i % n], moved by i // n step

    Attributes:
        windows: ((first, end), ...) of cells 0 .. n - 1.
        step: pixels by which the windows of the next n cells are further on.
        clean: (first, end) of the cells that can be cropped: they see a part of the
            image, and no padding.
        image: (name, pixels along the axis or None) of the input that these are of.
    """

    windows: tuple
    step: int
    clean: tuple
    image: tuple

    def window(self, cell):
        """Return (first, end) of the pixels that a cell sees."""
        moved = cell // len(self.windows) * self.step
        first, end = self.windows[cell % len(self.windows)]
        return first + moved, end + moved

    @property
    def stride(self):
        return fractions.Fraction(self.step, len(self.windows))

    @property
    def size(self):
        """The most pixels that a cell sees; None if it sees all of unknown number."""
        (first, end), *others = self.windows
        return None if end is None else max([end - first, *(b - a for a, b in others)])


_NOWHERE = (0, 0)  # no cell can be cropped


def receptive_field(network, layer_name):
    """Return the receptive field of the cells of a layer.

    Follows convolutions, poolings, padding, cropping, enlarging, and whatever acts on
    each place of a map alone, or sees all of them: of a layer that is not known, also
    of your own, it is found out by trial. Past a global pooling, a Flatten or a Reshape
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
    found, target = _below(graph.network_of(network), layer_name)
    return _field([_sees(found, target, axis) for axis in (1, 2)])


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


def layers_of(network):
    """Return the layers whose channels are units, with what their cells see.

    Layers that another layer calls by itself are left out, and those that are applied
    several times: their names say no single place in the network.

    Args:
        network: functional or Sequential `keras.Model`, or a `GenerativeClassifier` of
            one.

    Returns:
        layers: list of `LayerOfUnits`, in the order of the network.

    Raises:
        ValueError: a network without a graph of layers.

    Example:
        >>> for layer in layers_of(keras_tilt.lenet())[:3]:
        ...     print(layer.path, layer.shape, layer.receptive_field)
        conv1 (24, 24, 20) (5, 5)
        pool1 (12, 12, 20) (6, 6)
        conv2 (8, 8, 50) (14, 14)
    """
    network = graph.network_of(network)
    _check_graph(network)
    found = graph.steps(network)
    applied = collections.Counter(step.path for step in found)
    rows, columns = (_all_seen(found, axis) for axis in (1, 2))
    return [
        _layer_of_units(step, rows[step.outputs[0]], columns[step.outputs[0]])
        for step in found
        if step.kind != "enter" and applied[step.path] == 1 and _has_channels(step)
    ]


def _has_channels(step):
    return step.node.output_tensors[0].shape[1:][-1:] not in ((), (None,))


def _layer_of_units(step, *axes):
    shape = tuple(step.node.output_tensors[0].shape[1:])
    known = None not in axes and None not in [axis.size for axis in axes]
    return LayerOfUnits(
        path=step.path,
        shape=shape,
        channels=shape[-1],
        receptive_field=tuple(axis.size for axis in axes) if known else None,
        can_be_cropped=known and len(shape) == 3 and _has_clean_cell(axes),
    )


def _has_clean_cell(axes):
    """Whether some cell can be cropped."""
    return all(first < end for first, end in (axis.clean for axis in axes))


# Up: from the image to the map


def _sees(found, target, axis):
    """Return what the cells of the target see, along axis 1 (rows) or 2 (columns)."""
    seen = {}
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


def _all_seen(found, axis):
    """Return {key: what its cells see along an axis, or None where it is not known}."""
    seen = {}
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
    return _Sees(((0, 1),), 1, (0, shape[axis] or sys.maxsize), image)


def _whole(below):
    """Return what cells see that see the whole image."""
    return _Sees(((0, below.image[1]),), 0, _NOWHERE, below.image)


def _through(step, index, axis, below):
    """Return what a cell sees through one input, of what the cells below see."""
    reads = _reads(step, axis)
    if reads is None:
        return _whole(below)
    if _is_broadcast(step, index, axis):
        return _Sees((below.window(0),), 0, _NOWHERE, below.image)
    count = len(below.windows)
    period = reads.up * count // math.gcd(reads.stride, reads.up * count)
    ends = [(reads.first(cell), reads.last(cell)) for cell in range(period)]
    windows = tuple((below.window(a)[0], below.window(b)[1]) for a, b in ends)
    moved = period * reads.stride // (reads.up * count) * below.step
    return _Sees(
        *_shortest(windows, moved), _clean(step, axis, reads, below), below.image
    )


def _clean(step, axis, reads, below):
    """Return (first, end) of the cells that can be cropped, of those below."""
    if _has_weights_per_place(step):
        return _NOWHERE
    first, end = reads.full(*below.clean)
    cells = step.node.output_tensors[0].shape[axis] or sys.maxsize
    return max(first, 0), min(end, cells)


def _shortest(windows, step):
    """Return the same windows of as few cells as say all, and their step."""
    cells = len(windows)
    for count in range(1, cells):
        moved = step * count // cells
        short = [
            (a + i // count * moved, b + i // count * moved)
            for i, (a, b) in enumerate(windows[:count] * (cells // count))
        ]
        if tuple(short) == windows and moved * cells == step * count:
            return windows[:count], moved
    return windows, step


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
    if len(strides) > 1 and 0 in strides or _whole(fields[0]) in fields:
        return _whole(fields[0])
    if len(strides) > 1:
        raise ValueError(
            "Expected branches that meet with equal strides, in pixels. Received: "
            f"strides {_numbers(sorted(strides))} at layer {step.path!r}. What its "
            "cells see does not move with them. Name a layer below."
        )
    count = math.lcm(*(len(field.windows) for field in fields))
    windows = tuple(
        hull([(field.window(cell),) for field in fields])[0] for cell in range(count)
    )
    starts, ends = zip(*(field.clean for field in fields), strict=True)
    moved = int(strides.pop() * count)
    return _Sees(windows, moved, (max(starts), min(ends)), fields[0].image)


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


def hull(several):
    """Return the smallest window that holds several windows."""
    axes = [list(zip(*axis, strict=True)) for axis in zip(*several, strict=True)]
    return tuple((min(first), max(end)) for first, end in axes)


def _read_window(step, made):
    """Return what the step reads of its inputs to make this window of its output."""
    _check_moves(step)
    both = [_reads(step, axis) for axis in (1, 2)]
    return tuple(
        (reads.first(first), reads.last(end - 1) + 1)
        for reads, (first, end) in zip(both, made, strict=True)
    )


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
        if isinstance(step.operation, _SHIFTS):
            return inputs[0]
        layer = last if step is found[-1] else step.operation
        if isinstance(layer, _CONVOLUTIONS + _POOLINGS):
            layer = layer_views.view(layer, padding="valid")
        if isinstance(layer, keras.layers.Conv2DTranspose):
            layer = layer_views.view(layer, padding="valid", output_padding=None)
        made = graph.call(step, inputs, layer)
        if isinstance(layer, _ENLARGING):
            made = _cut(made, _enlarged(step, read), needs[step.outputs[0]])
        return made

    return graph.run(found, {images: patch}, target, apply)


def _enlarged(step, read):
    """Return the first row and column that an enlarging layer makes of a window."""
    layer = step.operation
    if isinstance(layer, keras.layers.UpSampling2D):
        return tuple(
            (first * up, None) for up, (first, _) in zip(layer.size, read, strict=True)
        )
    return tuple(
        (first * up - _left_out(layer, axis), None)
        for axis, up, (first, _) in zip((1, 2), layer.strides, read, strict=True)
    )


def _cut(value, window, part):
    """Return a part of the window of a map that `value` holds."""
    (top, _), (left, _) = window
    (row, last_row), (column, last_column) = part
    return value[:, row - top : last_row - top, column - left : last_column - left]


@dataclasses.dataclass(frozen=True)
class Cell:
    """All channels of one cell of a layer's map, of the pixels in a window."""

    layer: str
    cell: tuple
    post: bool
    window: tuple  # ((first row, end), (first column, end)) that the images show

    def __call__(self, network, feeds):
        (patch,) = feeds.values()
        found, target = _below(network, self.layer)
        last = found[-1].operation
        last = last if self.post else layer_views.linear(last)
        maps = _run_on_window(found, patch, target, self.cell, self.window, last)
        return maps[:, 0, 0]

    def label(self, channel):
        return f"{self.layer}:{channel}{' post' * self.post} crop"


def cell_and_window(network, layer, place, alone=True):
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
    found, target = _below(network, layer)
    shape = found[-1].node.output_tensors[0].shape
    cell = place
    if place == "center" and None not in shape[1:3]:
        cell = shape[1] // 2, shape[2] // 2
    elif place == "center" and alone:
        cell = 0, 0
    elif place == "center":
        raise ValueError(
            "Expected a network of images of known size, to place the parts of a sum. "
            f"Received: maps {tuple(shape)} of layer {layer!r}. Build the network "
            "with keras.Input(shape), or name positions."
        )
    name = found[0].inputs[0]
    window = _windows(found, target, cell)[name]
    _check_clean(found, target)
    return cell, window, name


# One step


def _reads(step, axis):
    """Return what a cell of a step reads, along axis 1 or 2; None: the whole map."""
    layer = step.operation
    if step.kind != "call":
        return _Reads(1, 1, 0)
    if isinstance(layer, _CONVOLUTIONS + _POOLINGS):
        _check_slides(step)
        return _sliding(step, axis)
    if _is_layer(layer, keras.layers.ZeroPadding2D):
        return _Reads(1, 1, layer.padding[axis - 1][0])
    if _is_layer(layer, keras.layers.Cropping2D):
        return _Reads(1, 1, -layer.cropping[axis - 1][0])
    if _is_layer(layer, keras.layers.Conv2DTranspose):
        return _transposed(layer, axis)
    if _is_layer(layer, keras.layers.UpSampling2D) and layer.interpolation in _UP:
        return _UP[layer.interpolation](layer.size[axis - 1])
    reads = {"alone": _Reads(1, 1, 0), "whole": None}
    how = _how_places_act(step)
    if how in reads:
        return reads[how]
    raise ValueError(
        "Expected convolutions, poolings, padding, cropping, enlarging, or layers "
        "that act on each place of a map alone or on the whole. Received: layer "
        f"{step.path!r}, {type(layer).__name__}, {how}. If it acts on each place "
        "alone, set its attribute `pointwise = True`; or name a layer below."
    )


def _sliding(step, axis):
    """What a convolution or pooling reads; "same" pads the smaller half in front."""
    layer, (tensor,) = step.operation, step.node.input_tensors
    size, stride = _size(layer, axis), layer.strides[axis - 1]
    if layer.padding.lower() == "valid":
        return _Reads(size, stride, 0)
    return _Reads(size, stride, _same(step, tensor.shape[axis], size, stride) // 2)


def _size(layer, axis):
    """Return the cells that a kernel or a pool spans along an axis."""
    if isinstance(layer, _POOLINGS):
        return layer.pool_size[axis - 1]
    return (layer.kernel_size[axis - 1] - 1) * layer.dilation_rate[axis - 1] + 1


# What a cell of an enlarged map reads, of the factor. Between two cells the value is a
# straight line through their middles: 2 o + 1 - up over 2 up is where cell o lies.
_UP = {
    "nearest": lambda up: _Reads(1, 1, 0, up),
    "bilinear": lambda up: _Reads(2 * up, 2, up - 1, 2 * up),
}


def _transposed(layer, axis):
    """What a transposed convolution reads: i with i stride <= o + left out < + size."""
    stride = layer.strides[axis - 1]
    more = max(_size(layer, axis) - stride, 0)
    return _Reads(more + 1, 1, more - _left_out(layer, axis), stride)


def _left_out(layer, axis):
    """Return how many first cells padding="same" leaves out of the full result."""
    if layer.padding.lower() == "valid":
        return 0
    size, last = _size(layer, axis), layer.strides[axis - 1]
    if layer.output_padding is not None:
        last = layer.kernel_size[axis - 1] % 2 + layer.output_padding[axis - 1]
    return max(size - last, 0) // 2


def _same(step, cells, size, stride):
    """Return how many cells padding="same" adds: output size = ceil(cells / stride)."""
    if stride == 1:
        return size - 1
    if cells is None:
        raise ValueError(
            "Expected a network of images of known size: with padding='same' and "
            f"strides the padding depends on it. Received: layer {step.path!r} on maps "
            "of any size. Build the network with keras.Input(shape)."
        )
    return max((-(-cells // stride) - 1) * stride + size - cells, 0)


def _how_places_act(step):
    """Return "alone", "whole", or a sentence on why neither is known.

    alone: each cell is made of the same cell below; whole: each of all cells.
    """
    layer = step.operation
    if _is_known_pointwise(step):
        return "alone"
    if _is_layer(layer, _WHOLE) or _is_operation(layer, _REDUCTIONS):
        return "whole"
    if len(step.node.output_tensors[0].shape) != 4:
        return "whole"
    return _tried(step).how


def _acts_alone(step):
    """Whether a layer, other than those that slide, acts on each place alone."""
    slides = _CONVOLUTIONS + _POOLINGS + _SHIFTS + _ENLARGING
    if step.kind != "call" or isinstance(step.operation, slides):
        return False
    return _how_places_act(step) == "alone"


def _is_known_pointwise(step):
    """Whether each cell is made of the same cell below, as one can tell by the kind."""
    layer = step.operation
    if _is_layer(layer, _POINTWISE) or getattr(layer, "pointwise", False) is True:
        return True
    if _is_layer(layer, _ALONG_CHANNELS):
        return _is_along_channels(step)
    if _is_operation(layer, _OPERATIONS_ALONG_CHANNELS + _REDUCTIONS):
        return _is_along_channels(step)
    if _is_operation(layer, ["GetItem"]):
        return _takes_channels(step)
    return _is_operation(layer, _POINTWISE_OPERATIONS)


def _is_layer(layer, kinds):
    """Whether it is a layer of these kinds, and does not override what they compute."""
    return isinstance(layer, kinds) and layer_views.is_called_as_in_keras(layer)


def _is_operation(operation, names):
    """Whether it is one of these keras.ops; layers may have the same names."""
    is_layer = isinstance(operation, keras.layers.Layer)
    return not is_layer and type(operation).__name__ in names


def _is_along_channels(step):
    """Whether the axis of the operation is the last."""
    axes = keras.tree.flatten(step.operation.axis)
    last = (-1, len(step.node.input_tensors[0].shape) - 1)
    if isinstance(step.operation, keras.layers.Normalization):
        return all(axis is None or axis in last for axis in axes)
    return all(axis in last for axis in axes)


def _takes_channels(step):
    """Whether x[..., key] takes channels and leaves every place where it is."""
    arguments = step.node.arguments
    key = arguments.kwargs.get("key", arguments.args[-1])
    places = key[:-1] if isinstance(key, tuple) else ()
    rank = len(step.node.input_tensors[0].shape)
    return places == (Ellipsis,) or places == (slice(None),) * (rank - 1)


def _is_broadcast(step, index, axis):
    """Whether one cell of an input goes to all cells along the axis."""
    if not _acts_alone(step):
        return False
    before, after = step.node.input_tensors[index], step.node.output_tensors[0]
    both_maps = len(before.shape) == len(after.shape) == 4
    return both_maps and before.shape[axis] == 1 != after.shape[axis]


# Trials: what an unknown layer does

_TRIED = weakref.WeakKeyDictionary()  # {node: _Tried}


def _check_slides(step):
    """Raise if a convolution or pooling with a `call` of its own sees as none does.

    Away from padding, a cell must be what the layer makes of its window alone.
    """
    layer = step.operation
    if layer_views.is_called_as_in_keras(layer):
        return
    if step.node not in _TRIED:
        try:
            with tf.init_scope():
                how = "alone" if _slides(step) else "which sees other places"
        except _FAILURES as error:
            how = f"which fails when it is tried ({type(error).__name__})"
        _TRIED[step.node] = _Tried(how)
    if _TRIED[step.node].how != "alone":
        raise ValueError(
            "Expected convolutions and poolings that see what their kernel size, "
            f"strides and padding say. Received: layer {step.path!r}, "
            f"{type(layer).__name__}, with a `call` of its own, "
            f"{_TRIED[step.node].how}. Name a layer below."
        )


def _slides(step):
    """Whether an inner cell of random maps is made of its window, without padding."""
    layer, (tensor,) = step.operation, step.node.input_tensors
    window, cell, sides = [], [], []
    for axis in (1, 2):
        size, stride, pad, _ = _sliding(step, axis)
        # As many more cells as leave the padding as it is.
        more = stride * math.ceil(2 * size / stride)
        sides.append((tensor.shape[axis] or size) + more)
        cell.append(sides[-1] // (3 * stride))  # not its own mirror image
        first = cell[-1] * stride - pad
        window.append(slice(first, first + size))
    maps = np.random.default_rng(0).normal(size=(1, *sides, tensor.shape[-1]))
    whole = _with_new_weights(step, np.random.default_rng(1))([maps])
    without_padding = layer_views.view(layer, padding="valid")
    alone = _with_new_weights(step, np.random.default_rng(1), without_padding)
    made = alone([maps[:, window[0], window[1]]])
    expected = whole[:, cell[0] : cell[0] + 1, cell[1] : cell[1] + 1]
    return made.shape == expected.shape and not np.any(_differ(expected, made))


class _Tried(typing.NamedTuple):
    """What was found out about a layer.

    Attributes:
        how: as of `_how_places_act`.
        everywhere: whether it does the same at every place.
    """

    how: str
    everywhere: bool = False


def _tried(step):
    """Return what a trial of an unknown layer tells, which is made once."""
    if step.node not in _TRIED:
        try:
            with tf.init_scope():  # values, also while a graph is built
                _TRIED[step.node] = _trial(step)
        except _FAILURES as error:
            why = f"which fails when it is tried ({type(error).__name__})"
            _TRIED[step.node] = _Tried(why)
    return _TRIED[step.node]


_FAILURES = (ArithmeticError, AttributeError, LookupError, NotImplementedError)
_FAILURES += (TypeError, ValueError, tf.errors.OpError)


_MIXES = "which moves places of its map, or mixes some of them"


def _trial(step):
    """Try a layer on maps that are changed at some places, with new weights.

    New, because today's may hide what it does: a gate that starts at 0 does nothing.
    """
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=_filled(t.shape)) for t in step.node.input_tensors]
    call = _with_new_weights(step, rng)
    made = call(maps)
    places = made.shape[1:3]
    if not all(_has_places(values, places) for values in maps):
        return _Tried(_MIXES)
    if not np.any(np.isfinite(made)):
        return _Tried("which makes no finite numbers of those that it was tried on")
    kept = [_some(rng, size) for size in places]
    changed = call([_changed(rng, values, kept, False) for values in maps])
    if not np.any(_differ(made, changed)[:, *np.ix_(*kept)]):
        return _Tried("alone", _is_same_everywhere(call, maps, made))
    for i in (0, -1):
        corner = [np.arange(size) == i % size for size in places]
        changed = call([_changed(rng, values, corner, True) for values in maps])
        if not np.all(_differ(made, changed)):
            return _Tried(_MIXES)
    return _Tried("whole")


def _filled(shape):
    """Return a shape of one image, with sizes where there is any."""
    return 1, *(size or 5 + axis for axis, size in enumerate(shape[1:], start=1))


def _has_places(values, places):
    """Whether an input is no map, or one of the same places, or of one for all."""
    sizes = zip(values.shape[1:3], places, strict=False)
    return values.ndim != 4 or all(size in (1, count) for size, count in sizes)


def _some(rng, size):
    """Return which of so many places are chosen, not all, and not the same mirrored."""
    chosen = rng.random(size) < 0.5
    chosen[-1], chosen[0] = False, True
    return chosen


def _changed(rng, values, axes, inside):
    """Return values that are others inside (or outside) of chosen rows and columns."""
    if values.ndim != 4:
        return values
    axes = [
        chosen if len(chosen) == size else np.ones(size, bool)
        for chosen, size in zip(axes, values.shape[1:3], strict=True)
    ]
    change = np.outer(*axes) == inside
    return np.where(change[..., None], rng.uniform(50, 100, values.shape), values)


def _with_new_weights(step, rng, layer=None):
    """Return the function of values that a step is, of weights drawn anew.

    Args:
        step: of a graph.
        rng: NumPy's, of the weights.
        layer: to call in place of the step's own, a view of it.
    """
    variables = getattr(step.operation, "variables", [])
    drawn = [(variable, _drawn(rng, variable)) for variable in variables]

    def call(maps):
        inputs = [
            tf.cast(values, tensor.dtype)
            for values, tensor in zip(maps, step.node.input_tensors, strict=True)
        ]
        with keras.StatelessScope(state_mapping=drawn):
            made = keras.tree.flatten(graph.call(step, inputs, layer))
        return tf.concat([tf.cast(part, tf.float32) for part in made], -1).numpy()

    return call


def _drawn(rng, variable):
    """Return values for a variable: positive, of sums that stay about as they are."""
    if not tf.as_dtype(variable.dtype).is_floating:
        return variable.value
    count = math.prod(variable.shape[:-1])
    return tf.cast(rng.uniform(0.5, 1.5, variable.shape) / count**0.5, variable.dtype)


def _differ(made, other):
    """Return the places where two maps differ by more than they are rounded."""
    rounding = 1e-5 * np.max(np.abs(made), where=np.isfinite(made), initial=0.0)
    same = np.isclose(made, other, rtol=1e-5, atol=rounding, equal_nan=True)
    return ~np.all(same, axis=-1)


def _is_same_everywhere(call, maps, made):
    """Whether the first and the last place are made alike of their cells alone."""
    for place in (slice(None, 1), slice(-1, None)):
        alone = [v[:, place, place] if v.ndim == 4 else v for v in maps]
        try:
            if np.any(_differ(made[:, place, place], call(alone))):
                return False
        except _FAILURES:
            return False
    return True


# Checks


def _below(network, layer_name):
    """Return the steps that a layer needs, and the key of what it makes.

    Raises:
        ValueError: a network without a graph, an unknown layer, or one of several
            inputs or of inputs that are no images.
    """
    _check_graph(network)
    step = graph.find(network, layer_name)
    if step.kind == "inside":
        raise ValueError(
            "Expected a layer of the network's graph. Received: "
            f"{layer_name!r}, which another layer calls by itself. Name that one."
        )
    found = graph.needed(graph.steps(network), step.outputs[0])
    _check_images(found)
    return found, step.outputs[0]


def _check_graph(network):
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


def _check_clean(found, target):
    """Raise if the cells see padding wherever they are."""
    axes = [_sees(found, target, axis) for axis in (1, 2)]
    if not _has_clean_cell(axes):
        rows, columns = (axis.size for axis in axes)
        height, width = (axis.image[1] for axis in axes)
        raise ValueError(
            "Expected a layer that sees no padding at some place. Received: "
            f"{found[-1].path!r}, which sees {rows} x {columns} pixels, of images of "
            f"{height} x {width}, and padding wherever it is. Leave crop() out and "
            "read it on the whole image, or build the network for larger images."
        )


def _check_moves(step):
    """Raise if a cell of a step is not the same function of its window everywhere."""
    indices = range(len(step.inputs))
    if None in (_reads(step, 1), _reads(step, 2)) or any(
        _is_broadcast(step, i, axis) for i in indices for axis in (1, 2)
    ):
        raise ValueError(
            "Expected a cell that sees a part of the image. Received: layer "
            f"{step.path!r}, which makes it see the whole. Crop a convolution below."
        )
    if _has_weights_per_place(step):
        raise ValueError(
            "Expected layers that do the same at every place. Received: layer "
            f"{step.path!r} with weights for each place. Crop a layer below."
        )


def _has_weights_per_place(step):
    if _acts_alone(step) and not _is_known_pointwise(step):
        return not _tried(step).everywhere
    if isinstance(step.operation, keras.layers.PReLU):
        constants = [step.operation.alpha]
    elif step.kind == "call" and _is_known_pointwise(step):
        arguments = (step.node.arguments.args, step.node.arguments.kwargs)
        constants = keras.tree.flatten(arguments)
    else:
        constants = []
    shapes = [
        tuple(constant.shape)
        for constant in constants
        if hasattr(constant, "shape") and not isinstance(constant, keras.KerasTensor)
    ]
    return any(set(shape[-3:-1]) - {1} for shape in shapes)
