"""Receptive fields: the pixels that a cell of an inner map can see.

    cell o of a layer reads cells   o stride - pad .. o stride - pad + size - 1   below
    cell i of a map sees pixels     start + i stride .. start + i stride + size - 1

Going up, a layer (k, s, p) makes of (size, stride, start)

    (size + (k - 1) stride,  stride s,  start - p stride)

Branches that meet see the union. Going down from one cell gives its window in every map
below, and so the network that computes this one cell from its pixels alone.

Source: Araujo, Norris and Sim, "Computing receptive fields of convolutional neural
networks", Distill 2019; padding "same" as in TensorFlow, where it depends on the size.
"""

__all__ = ["Cell", "ReceptiveField", "cell_and_window", "hull", "receptive_field"]

import dataclasses
import typing

import keras

from keras_tilt import graph

_CONVOLUTIONS = (
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
)
_POOLINGS = (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D)
_SHIFTS = (keras.layers.ZeroPadding2D, keras.layers.Cropping2D)

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

    Attributes:
        size: (rows, columns) that a cell sees, padding included.
        stride: pixels between neighbouring cells; 0 where all see the same.
        start: first pixel that cell 0 sees; negative where it sees padding.
    """

    size: tuple
    stride: tuple
    start: tuple

    def window(self, row, column):
        """Return ((first row, end), (first column, end)), pixels; the end is outside.

        Args:
            row: row of the cell.
            column: column of the cell.
        """
        axes = zip(self.start, self.stride, self.size, (row, column), strict=True)
        return tuple((a + s * i, a + s * i + size) for a, s, size, i in axes)

    def center(self, row, column):
        """Return (row, column) of the middle of what a cell sees, in pixels.

        The middle of pixel 3 is 3.0, that of pixels 3 and 4 is 3.5.

        Args:
            row: row of the cell, or an array of rows.
            column: column of the cell, or an array of columns.
        """
        return tuple((a + end - 1) / 2 for a, end in self.window(row, column))


class _Reads(typing.NamedTuple):
    """Cell o of a step reads cells o stride - pad + 0 .. size - 1, along one axis."""

    size: int
    stride: int
    pad: int


class _Sees(typing.NamedTuple):
    """Cell i sees pixels start + i stride + 0 .. size - 1, along one axis."""

    size: int
    stride: int
    start: int


def receptive_field(network, layer_name):
    """Return the receptive field of the cells of a layer.

    Follows convolutions, poolings, padding, cropping, and whatever acts on each place
    of a map alone. Past a global pooling, a Flatten or a Reshape every cell sees the
    whole image (stride 0). A layer of your own that acts on each place alone says so by
    its attribute `pointwise = True`.

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
        ReceptiveField(size=(14, 14), stride=(2, 2), start=(0, 0))
        >>> field.center(0, 7)
        (6.5, 20.5)
    """
    found, target = _below(graph.network_of(network), layer_name)
    axes = [_sees(found, target, axis) for axis in (1, 2)]
    return ReceptiveField(*zip(*axes, strict=True))


# Up: from the image to the map


def _sees(found, target, axis):
    """Return what the cells of the target see, along axis 1 (rows) or 2 (columns)."""
    images = found[0]
    whole = _Sees(images.node.output_tensors[0].shape[axis], 0, 0)
    seen = {images.inputs[0]: _Sees(1, 1, 0)}
    for step in found:
        below = [seen[key] for key in step.inputs]
        if any(field.stride for field in below):
            below = [
                _through(step, i, axis, below[i], whole) for i in range(len(below))
            ]
        seen |= dict.fromkeys(step.outputs, _union(step, below, whole))
    if seen[target].size is None:
        raise ValueError(
            "Expected a network of images of known size, to name the pixels of the "
            f"whole image, which {found[-1].path!r} sees. Received: input shape "
            f"{images.node.output_tensors[0].shape}. Build it with keras.Input(shape)."
        )
    return seen[target]


def _through(step, index, axis, below, whole):
    """Return what a cell sees through one input, of what the cells below see."""
    reads = _reads(step, axis)
    if reads is None:
        return whole
    if _is_broadcast(step, index, axis):
        return below._replace(stride=0)
    return _Sees(
        size=below.size + (reads.size - 1) * below.stride,
        stride=below.stride * reads.stride,
        start=below.start - reads.pad * below.stride,
    )


def _union(step, fields, whole):
    """Return what a cell sees through several inputs."""
    strides = {field.stride for field in fields}
    if len(strides) > 1 and 0 in strides:
        return whole
    if len(strides) > 1:
        raise ValueError(
            "Expected branches that meet with equal strides, in pixels. Received: "
            f"strides {sorted(strides)} at layer {step.path!r}. What its cells see "
            "does not move with them. Name a layer below."
        )
    start = min(field.start for field in fields)
    end = max(field.start + field.size for field in fields)
    return _Sees(end - start, strides.pop(), start)


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
    firsts = [a * r.stride - r.pad for r, (a, _) in zip(both, made, strict=True)]
    lasts = [(b - 1) * r.stride - r.pad for r, (_, b) in zip(both, made, strict=True)]
    return tuple(
        (first, last + reads.size)
        for first, last, reads in zip(firsts, lasts, both, strict=True)
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
            layer = graph.view(layer, padding="valid")
        return graph.call(step, inputs, layer)

    return graph.run(found, {images: patch}, target, apply)


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
        last = last if self.post else graph.linear(last)
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
    return cell, _windows(found, target, cell)[name], name


# One step


def _reads(step, axis):
    """Return what a cell of a step reads, along axis 1 or 2; None: the whole map."""
    layer = step.operation
    if step.kind != "call" or _is_pointwise(step):
        return _Reads(1, 1, 0)
    if isinstance(layer, _CONVOLUTIONS + _POOLINGS):
        return _sliding(step, axis)
    if isinstance(layer, keras.layers.ZeroPadding2D):
        return _Reads(1, 1, layer.padding[axis - 1][0])
    if isinstance(layer, keras.layers.Cropping2D):
        return _Reads(1, 1, -layer.cropping[axis - 1][0])
    if isinstance(layer, _WHOLE) or _is_operation(layer, _REDUCTIONS):
        return None
    raise ValueError(
        "Expected convolutions, poolings, padding, cropping, or layers that act on "
        "each place of a map alone. Received: layer "
        f"{step.path!r}, {type(layer).__name__}. If it acts on each place alone, set "
        "its attribute `pointwise = True`; or name a layer below."
    )


def _sliding(step, axis):
    """What a convolution or pooling reads; "same" pads the smaller half in front."""
    layer, (tensor,) = step.operation, step.node.input_tensors
    pooling = isinstance(layer, _POOLINGS)
    window = layer.pool_size if pooling else layer.kernel_size
    dilation = 1 if pooling else layer.dilation_rate[axis - 1]
    size = (window[axis - 1] - 1) * dilation + 1
    stride = layer.strides[axis - 1]
    if layer.padding.lower() == "valid":
        return _Reads(size, stride, 0)
    return _Reads(size, stride, _same(step, tensor.shape[axis], size, stride) // 2)


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


def _is_pointwise(step):
    """Whether each cell is made of the same cell below."""
    layer = step.operation
    if isinstance(layer, _POINTWISE) or getattr(layer, "pointwise", False) is True:
        return True
    if isinstance(layer, _ALONG_CHANNELS):
        return _is_along_channels(step)
    if _is_operation(layer, _OPERATIONS_ALONG_CHANNELS + _REDUCTIONS):
        return _is_along_channels(step)
    if _is_operation(layer, ["GetItem"]):
        return _takes_channels(step)
    return _is_operation(layer, _POINTWISE_OPERATIONS)


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
    if step.kind != "call" or not _is_pointwise(step):
        return False
    before, after = step.node.input_tensors[index], step.node.output_tensors[0]
    return before.shape[axis] == 1 != after.shape[axis]


# Checks


def _below(network, layer_name):
    """Return the steps that a layer needs, and the key of what it makes.

    Raises:
        ValueError: a network without a graph, an unknown layer, or one of several
            inputs or of inputs that are no images.
    """
    if not graph.has_graph(network):
        raise ValueError(
            "Expected `network` to be a functional or Sequential keras.Model with "
            f"known input shape. Received: {network!r}. Receptive fields are read from "
            "the graph of layers: build it with keras.Input and keras.Model."
        )
    step = graph.find(network, layer_name)
    if step.kind == "inside":
        raise ValueError(
            "Expected a layer of the network's graph. Received: "
            f"{layer_name!r}, which another layer calls by itself. Name that one."
        )
    found = graph.needed(graph.steps(network), step.outputs[0])
    _check_images(found)
    return found, step.outputs[0]


def _check_images(found):
    names = [step.inputs[0] for step in found if isinstance(step.inputs[0], str)]
    shape = tuple(found[0].node.output_tensors[0].shape)
    if len(names) != 1 or len(shape) != 4:
        raise ValueError(
            f"Expected layer {found[-1].path!r} to depend on one input, images "
            f"[n, height, width, channels]. Received: inputs {names}, the first of "
            f"shape {shape}. Name a layer that depends on the images alone."
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
    if isinstance(step.operation, keras.layers.PReLU):
        constants = [step.operation.alpha]
    elif step.kind == "call" and _is_pointwise(step):
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
