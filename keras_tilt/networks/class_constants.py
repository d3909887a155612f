"""Trainable variables that add a constant to the logits, of each class.

    F_y(x) + c_y,    c a function of the variable and not of the image

Generative training does not determine them: they only move log Z_y. Which variables
they are, a trial of each step tells.
"""

__all__ = ["constants_per_class"]

from collections.abc import Hashable

import keras
import numpy as np
import tensorflow as tf

from keras_tilt.networks import graph, layer_views, probes


def constants_per_class(network: keras.Model) -> list[keras.Variable]:
    """Return the trainable variables that add constants to the logits, of each class.

        F_y(x) + c_y,    c a function of the variable and not of the image

    The bias of the last layer is one, whatever linear step, wrapper or network stands
    around or behind it, as is the beta of a batch normalization. Each step is tried, as
    in training: the variable moves the output of its layer by the same for all images,
    and the steps above pass that on.

    Args:
        network: functional, Sequential or subclassed `keras.Model` with one output.

    Returns:
        variables: list of `keras.Variable`.
    """
    if not graph.has_graph(network):
        return _constants_of_model(network)
    target = graph.output_key(network)
    found = graph.needed(graph.steps(network), target)
    reached: set[Hashable] = {target}
    spoiled: set[Hashable] = set()
    constant: list[keras.Variable] = []
    other: set[int] = set()
    for step in reversed(found):
        outputs = set(step.outputs)
        handed_on = outputs & reached and not outputs & spoiled
        variables = _trainable(step)
        moving = [v for v in variables if handed_on and _moves_all_alike(step, v)]
        constant += moving
        other.update(id(v) for v in variables if not any(v is m for m in moving))
        (reached if handed_on and _is_affine(step) else spoiled).update(step.inputs)
    unique = {id(variable): variable for variable in constant}
    return [variable for key, variable in unique.items() if key not in other]


def _trainable(step):
    is_layer = step.kind == "call" and isinstance(step.operation, keras.layers.Layer)
    return step.operation.trainable_variables if is_layer else []


def _is_affine(step):
    """Whether what is added to the inputs of a step only adds to its output.

    Tried with weights at random: those of now may be zero. A layer of one's own with
    weights is not tried, for it may take no random ones; it may say so by its attribute
    `affine = True`.
    """
    if step.kind != "call" or getattr(step.operation, "affine", False) is True:
        return True
    has_weights = bool(getattr(step.operation, "weights", ()))
    is_own = has_weights and layer_views.is_opaque(step.operation)
    if is_own or len(step.outputs) != 1:
        return False
    inputs = _inputs(step)
    shifts = [np.random.default_rng(2).normal(size=value.shape[1:]) for value in inputs]
    moved = [
        value + shift.astype(np.float32)
        for value, shift in zip(inputs, shifts, strict=True)
    ]
    weights = [(v, _random(v)) for v in _trainable(step)]
    before, after = (_trained(step, i, weights) for i in (inputs, moved))
    return _differ_alike(before, after)


def _moves_all_alike(step, variable):
    """Whether another value of a variable moves all rows of the output by the same."""
    is_larger = np.prod(variable.shape) > _row_size(step)
    if len(step.outputs) != 1 or is_larger:  # a kernel
        return False
    others = [] if layer_views.is_opaque(step.operation) else _trainable(step)
    weights = [(v, _random(v)) for v in others if v is not variable]
    inputs, value = _inputs(step), tf.convert_to_tensor(variable.value)
    moved = value + tf.cast(_random(variable), value.dtype)
    before = _trained(step, inputs, weights)
    after = _trained(step, inputs, [*weights, (variable, moved)])
    return _differ_alike(before, after) and not np.array_equal(before, after)


def _constants_of_model(network):
    """The same of a model that can only be run, on its own weights."""
    classes = network.output_shape[-1]
    before, found = probes.made_by_model(network), []
    for variable in network.trainable_variables:
        if tuple(variable.shape) != (classes,):
            continue
        value = tf.convert_to_tensor(variable.value)
        with keras.StatelessScope([(variable, value + _random(variable))]):
            after = probes.made_by_model(network)
        if _differ_alike(before, after) and not np.array_equal(before, after):
            found.append(variable)
    return found


def _row_size(step):
    """Return how many numbers a step makes of an image."""
    shape = step.node.output_tensors[0].shape[1:]
    return np.prod([size or probes.ANY_SIZE for size in shape])


def _inputs(step):
    return [probes.noise(tensor.shape) for tensor in step.node.input_tensors]


def _random(variable):
    return tf.random.stateless_normal(variable.shape, (0, 3), dtype=variable.dtype)


def _trained(step, inputs, weights):
    """Return what a step makes of inputs in training with such weights."""
    with keras.StatelessScope(weights):
        return probes.made_by_step(step, inputs, training=True)


def _differ_alike(before, after):
    """Whether two values differ by the same in all rows, but for rounding."""
    precision = 1e-4 if after.dtype in (tf.float32, tf.float64) else 0.05
    before, after = (np.asarray(tf.cast(v, tf.float32)) for v in (before, after))
    axes = tuple(range(1, after.ndim))
    sizes = np.max(np.abs(before) + np.abs(after), axis=axes, keepdims=True)
    difference = after - before
    smallest = difference[np.argmin(sizes.ravel())]
    allowed = precision * (sizes + np.max(np.abs(difference)))
    return bool(np.all(np.abs(difference - smallest) <= allowed))
