"""A layer stopped before its activation, as a view: the layer itself is left as it is.

    layer(x) = activation(linear(layer)(x))

Of Keras's own layers one can tell by their kind what they compute; a layer or model
with a `call` of its own may do anything.
"""

__all__ = [
    "fused_activation",
    "has_fused_activation",
    "hides_activation",
    "is_called_as_in_keras",
    "is_opaque",
    "linear",
    "view",
]

from collections.abc import Callable
from typing import Any

import keras

# Layers that apply `activation` once, to the value they compute from their weights.
_WITH_FUSED_ACTIVATION = (
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)


# What the kind of a layer tells


def is_called_as_in_keras(operation: keras.Operation) -> bool:
    """Return whether an operation computes a `call` of Keras, not an override."""
    module = getattr(type(operation).call, "__module__", None) or ""
    return module.split(".")[0] == "keras"


def is_opaque(operation: keras.Operation) -> bool:
    """Return whether only values tell what a layer or operation computes.

    A function within it, or a class of one's own, may do anything.
    """
    if not is_called_as_in_keras(operation) or isinstance(
        operation, keras.layers.Lambda
    ):
        return True
    return isinstance(operation, keras.layers.Wrapper) and is_opaque(operation.layer)


def fused_activation(operation: keras.Operation) -> Callable | None:
    """Return the activation of a layer with weights, or of one in a wrapper, or None.

    SpectralNormalization and TimeDistributed return what the layer inside makes.
    """
    if is_opaque(operation):
        return None
    if isinstance(operation, keras.layers.Wrapper):
        return fused_activation(operation.layer)
    if isinstance(operation, _WITH_FUSED_ACTIVATION):
        return operation.activation
    return None


def has_fused_activation(operation: keras.Operation) -> bool:
    """Return whether an operation applies an activation to what its weights make."""
    return fused_activation(operation) is not None


def hides_activation(layer: keras.layers.Layer) -> bool:
    """Return whether a layer has weights, an activation and a `call` of its own."""
    if isinstance(layer, keras.layers.Wrapper) and hides_activation(layer.layer):
        return True
    activation = getattr(layer, "activation", None)
    if not callable(activation) or activation is keras.activations.linear:
        return False
    return is_opaque(layer) and bool(getattr(layer, "weights", ()))


# Views


def view(layer: keras.layers.Layer, /, **attributes: Any) -> keras.layers.Layer:
    """Return a layer that shares the weights of `layer`, with some attributes changed.

    The layer itself is left as it is, also for other threads. Set past `__setattr__`:
    Keras shall not track the weights a second time.
    """
    twin = object.__new__(type(layer))
    twin.__dict__.update(layer.__dict__, **attributes)
    return twin


def linear(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Return a view of a layer that stops before its activation, if it has one."""
    if not has_fused_activation(layer):
        return layer
    if isinstance(layer, keras.layers.Wrapper):
        return view(layer, layer=linear(layer.layer))
    return view(layer, activation=keras.activations.linear)
