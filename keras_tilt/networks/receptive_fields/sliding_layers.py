"""Layers that slide over a map: what a cell reads, by size, stride and padding.

    convolution, pooling     o stride - pad .. o stride - pad + size - 1
    enlarging by `up`        (o - pad) // up .. (o - pad + size - 1) // up

Padding "same" is as in TensorFlow, where it depends on the size of the map.
"""

__all__ = [
    "CONVOLUTIONS",
    "ENLARGING",
    "POOLINGS",
    "SHIFTS",
    "enlarged",
    "first_made",
    "has_rule",
    "shifted",
    "sliding",
]

import keras

from keras_tilt.networks import graph
from keras_tilt.networks.receptive_fields.intervals import CellsRead

CONVOLUTIONS = (
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
)
POOLINGS = (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D)
SHIFTS = (keras.layers.ZeroPadding2D, keras.layers.Cropping2D)
ENLARGING = (keras.layers.UpSampling2D, keras.layers.Conv2DTranspose)


def sliding(step: graph.Step, axis: int) -> CellsRead:
    """Return what a cell of a convolution or pooling reads.

    Padding "same" puts the smaller half in front.
    """
    layer, (tensor,) = step.operation, step.node.input_tensors
    size, stride = _size(layer, axis), layer.strides[axis - 1]
    if layer.padding.lower() == "valid":
        return CellsRead(size, stride, 0)
    return CellsRead(size, stride, _same(step, tensor.shape[axis], size, stride) // 2)


def _size(layer, axis):
    """Return the cells that a kernel or a pool spans along an axis."""
    if isinstance(layer, POOLINGS):
        return layer.pool_size[axis - 1]
    return (layer.kernel_size[axis - 1] - 1) * layer.dilation_rate[axis - 1] + 1


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


def shifted(layer: keras.layers.Layer, axis: int) -> CellsRead:
    """Return what a cell of ZeroPadding2D or Cropping2D reads."""
    if isinstance(layer, keras.layers.ZeroPadding2D):
        return CellsRead(1, 1, layer.padding[axis - 1][0])
    return CellsRead(1, 1, -layer.cropping[axis - 1][0])


# What a cell of an enlarged map reads, of the factor. Between two cells the value is a
# straight line through their middles: 2 o + 1 - up over 2 up is where cell o lies.
_INTERPOLATIONS = {
    "nearest": lambda up: CellsRead(1, 1, 0, up),
    "bilinear": lambda up: CellsRead(2 * up, 2, up - 1, 2 * up),
}


def has_rule(layer: keras.layers.Layer) -> bool:
    """Return whether `enlarged` knows what a layer reads that enlarges a map."""
    if isinstance(layer, keras.layers.UpSampling2D):
        return layer.interpolation in _INTERPOLATIONS
    return True


def enlarged(layer: keras.layers.Layer, axis: int) -> CellsRead:
    """Return what a cell of UpSampling2D or Conv2DTranspose reads.

    The latter reads cells i with i stride <= o + left out < i stride + size.
    """
    if isinstance(layer, keras.layers.UpSampling2D):
        return _INTERPOLATIONS[layer.interpolation](layer.size[axis - 1])
    stride = layer.strides[axis - 1]
    more = max(_size(layer, axis) - stride, 0)
    return CellsRead(more + 1, 1, more - _left_out(layer, axis), stride)


def first_made(layer: keras.layers.Layer, axis: int, first: int) -> int:
    """Return the first cell that an enlarging layer makes of a window, unpadded.

    Args:
        layer: UpSampling2D or Conv2DTranspose.
        axis: 1 (rows) or 2 (columns).
        first: first cell of the window.
    """
    if isinstance(layer, keras.layers.UpSampling2D):
        return first * layer.size[axis - 1]
    return first * layer.strides[axis - 1] - _left_out(layer, axis)


def _left_out(layer, axis):
    """Return how many first cells padding="same" leaves out of the full result."""
    if layer.padding.lower() == "valid":
        return 0
    size, last = _size(layer, axis), layer.strides[axis - 1]
    if layer.output_padding is not None:
        last = layer.kernel_size[axis - 1] % 2 + layer.output_padding[axis - 1]
    return max(size - last, 0) // 2
