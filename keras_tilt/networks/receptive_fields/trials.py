"""Trials of unknown layers: which places of its input an output depends on.

    alone: a change at some places changes the output at just these
    whole: a change at one place changes the output everywhere

The layer is run with new weights, because today's may hide what it does.
"""

__all__ = ["Tried", "check_slides", "tried"]

import math
import typing
import weakref

import keras
import numpy as np
import tensorflow as tf

from keras_tilt.networks import graph, layer_views
from keras_tilt.networks.receptive_fields.sliding_layers import sliding

_TRIED: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # {node: Tried}

_FAILURES = (
    ArithmeticError,
    AttributeError,
    LookupError,
    NotImplementedError,
    TypeError,
    ValueError,
    tf.errors.OpError,
)


class Tried(typing.NamedTuple):
    """What a trial has shown about a layer.

    Attributes:
        how: "alone", "whole", or a sentence on why neither is known.
        everywhere: whether it does the same at every place.
    """

    how: str
    everywhere: bool = False


def tried(step: graph.Step) -> Tried:
    """Return what a trial of an unknown layer tells; each node is tried once."""
    if step.node not in _TRIED:
        try:
            with tf.init_scope():  # values, also while a graph is built
                _TRIED[step.node] = _trial(step)
        except _FAILURES as error:
            why = f"which fails when it is tried ({type(error).__name__})"
            _TRIED[step.node] = Tried(why)
    return _TRIED[step.node]


# Layers that may act on each place alone

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
        return Tried(_MIXES)
    if not np.any(np.isfinite(made)):
        return Tried("which makes no finite numbers of those that it was tried on")
    kept = [_some(rng, size) for size in places]
    changed = call([_changed(rng, values, kept, False) for values in maps])
    if not np.any(_differ(made, changed)[:, *np.ix_(*kept)]):
        return Tried("alone", _is_same_everywhere(call, maps, made))
    for i in (0, -1):
        corner = [np.arange(size) == i % size for size in places]
        changed = call([_changed(rng, values, corner, True) for values in maps])
        if not np.all(_differ(made, changed)):
            return Tried(_MIXES)
    return Tried("whole")


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


# Convolutions and poolings with a `call` of their own


def check_slides(step: graph.Step) -> None:
    """Raise if a convolution or pooling with a `call` of its own does not slide.

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
        _TRIED[step.node] = Tried(how)
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
        size, stride, pad, _ = sliding(step, axis)
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


# Of both


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
