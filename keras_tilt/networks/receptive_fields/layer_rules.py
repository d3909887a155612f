"""The rule of each kind of layer: which cells of the map below one cell depends on.

    alone: on the same cell below,   whole: on all cells,   or on a window that slides

A layer of an unknown kind is tried.
"""

__all__ = [
    "cells_read",
    "check_moves",
    "has_weights_per_place",
    "is_broadcast",
]

import keras

from keras_tilt.networks import graph, layer_views
from keras_tilt.networks.receptive_fields.intervals import CellsRead
from keras_tilt.networks.receptive_fields.sliding_layers import (
    CONVOLUTIONS,
    ENLARGING,
    POOLINGS,
    SHIFTS,
    enlarged,
    has_rule,
    shifted,
    sliding,
)
from keras_tilt.networks.receptive_fields.trials import check_slides, tried

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


def cells_read(step: graph.Step, axis: int) -> CellsRead | None:
    """Return which cells below a cell depends on, along axis 1 or 2; None: on all."""
    layer = step.operation
    if step.kind != "call":
        return CellsRead(1, 1, 0)
    if isinstance(layer, CONVOLUTIONS + POOLINGS):
        check_slides(step)
        return sliding(step, axis)
    if _is_layer(layer, SHIFTS):
        return shifted(layer, axis)
    if _is_layer(layer, ENLARGING) and has_rule(layer):
        return enlarged(layer, axis)
    reads = {"alone": CellsRead(1, 1, 0), "whole": None}
    how = _how_places_act(step)
    if how in reads:
        return reads[how]
    raise ValueError(
        "Expected convolutions, poolings, padding, cropping, enlarging, or layers "
        "that act on each place of a map alone or on the whole. Received: layer "
        f"{step.path!r}, {type(layer).__name__}, {how}. If it acts on each place "
        "alone, set its attribute `pointwise = True`; or name a layer below."
    )


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
    return tried(step).how


def _acts_alone(step):
    """Whether a layer, other than those that slide, acts on each place alone."""
    slides = CONVOLUTIONS + POOLINGS + SHIFTS + ENLARGING
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


def is_broadcast(step: graph.Step, index: int, axis: int) -> bool:
    """Return whether an input of one cell along the axis is broadcast to all cells."""
    if not _acts_alone(step):
        return False
    before, after = step.node.input_tensors[index], step.node.output_tensors[0]
    both_maps = len(before.shape) == len(after.shape) == 4
    return both_maps and before.shape[axis] == 1 != after.shape[axis]


# Whether a cell is the same function everywhere


def check_moves(step: graph.Step) -> None:
    """Raise unless each cell of a step is the same function of its own window."""
    indices = range(len(step.inputs))
    if None in (cells_read(step, 1), cells_read(step, 2)) or any(
        is_broadcast(step, i, axis) for i in indices for axis in (1, 2)
    ):
        raise ValueError(
            "Expected a cell that sees a part of the image. Received: layer "
            f"{step.path!r}, which makes it see the whole. Crop a convolution below."
        )
    if has_weights_per_place(step):
        raise ValueError(
            "Expected layers that do the same at every place. Received: layer "
            f"{step.path!r} with weights for each place. Crop a layer below."
        )


def has_weights_per_place(step: graph.Step) -> bool:
    """Return whether a step acts differently at different places of a map."""
    if _acts_alone(step) and not _is_known_pointwise(step):
        return not tried(step).everywhere
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
