"""What a network returns: logits, or probabilities that an activation makes of them.

    images -> logits F [n, classes] -> output activation -> outputs [n, classes]

The last step that is an output activation can be left out: softmax, sigmoid, their
logarithms, or a like function. What a step is, its values tell: the same numbers in
another shape, or softmax of whatever it is given. So it does not matter by which of the
many names a softmax is called, or what stands behind it.

Probabilities may also be made in a way that cannot be left out: an average of several
softmaxes, a Lambda, a layer or model with a `call` of its own. That, too, their values
tell: rows that sum to 1, or numbers that never leave [0, 1], whatever the layers with
weights hand on.
"""

__all__ = ["Output", "of_labels", "output_activation", "output_of", "probabilities"]

import functools
import typing

import keras
import numpy as np
import tensorflow as tf

from keras_tilt.networks import graph, layer_views, probes

# Output activations by what they are called, with the probabilities that each stands
# for; the first whose values agree is the one.
_ACTIVATIONS = {
    "softmax": tf.nn.softmax,
    "log_softmax": tf.nn.log_softmax,
    "sigmoid": tf.sigmoid,
    "log_sigmoid": tf.math.log_sigmoid,
    "hard_sigmoid": keras.activations.hard_sigmoid,
    "sparse_sigmoid": keras.activations.sparse_sigmoid,
    "sparsemax": keras.activations.sparsemax,
}
_PROBABILITIES = _ACTIVATIONS | {
    "log_softmax": tf.nn.softmax,
    "log_sigmoid": tf.sigmoid,
}
_OF_LABELS = ("sigmoid", "log_sigmoid", "hard_sigmoid", "sparse_sigmoid")

_SUM = 0.01  # rows of probabilities in half precision sum to 1 to within this


class Output(typing.NamedTuple):
    """What the outputs of a network are.

    Attributes:
        activation: "softmax", "sigmoid", ..., or None: the outputs are logits.
        step: `graph.Step` that applies it, or None where it cannot be left out.
        layer: path of the layer that makes the outputs.
    """

    activation: str | None
    step: graph.Step | None
    layer: str


def output_of(network: keras.Model, values: tf.Tensor | None = None) -> Output:
    """Return what the outputs of a network are: logits, or which probabilities.

    Args:
        network: functional, Sequential or subclassed `keras.Model` with one output.
        values: of a model without a graph, what it returned for images of
            `probes.probe`; by default it is run on those of its own input shape.
    """
    if not graph.has_graph(network):
        values = probes.made_by_model(network) if values is None else values
        return Output(_kind(values, may_be_sigmoid=True), None, network.name)
    found, target = graph.steps(network), graph.output_key(network)
    step = _last_step(found, target)
    name = _activation(step)
    if name is not None:
        return Output(name, step, step.path)
    return Output(_kind_by_values(found, target), None, step.path)


def output_activation(
    network: keras.Model,
) -> tuple[graph.Step, str] | tuple[None, None]:
    """Return the step that is the output activation, and its name; or (None, None).

    It can be left out. A model without a graph has none that can.
    """
    if not graph.has_graph(network):
        return None, None
    step = _last_step(graph.steps(network), graph.output_key(network))
    name = _activation(step)
    return (step, name) if name else (None, None)


def of_labels(activation: str | None) -> bool:
    """Return whether each output is the probability of a label of its own.

    Args:
        activation: name of an output activation, or None.
    """
    return activation in _OF_LABELS


def probabilities(activation: str | None, logits: tf.Tensor) -> tf.Tensor:
    """Return p(y | x) of logits [n, classes], by the output activation.

    Args:
        activation: "softmax", "sigmoid", ..., as `output_activation` names it; None: a
            softmax.
        logits: F, [n, classes], nats.

    Returns:
        p: [n, classes], in [0, 1].
    """
    return _PROBABILITIES[activation or "softmax"](logits)


# Steps, by their values


def _last_step(found, target):
    """Return the last step that does more than hand values on, in whatever shape."""
    made_by = {key: step for step in found for key in step.outputs}
    step = made_by[target]
    while _keeps_values(step) and step.inputs[0] in made_by:
        step = made_by[step.inputs[0]]
    return step


def _keeps_values(step):
    """Whether a step returns the numbers that it is given, in the same order."""
    if step.kind != "call":
        return True
    if not _is_function(step):
        return False
    before = probes.noise(step.node.input_tensors[0].shape)
    after = probes.made_by_step(step, [before])
    if after.shape.num_elements() != np.size(before):
        return False
    with tf.init_scope():
        return _is_close(tf.reshape(after, before.shape), before)


def _activation(step):
    """Return which output activation a step ends in, or None."""
    function = layer_views.fused_activation(step.operation)
    if function is None:
        if not _is_function(step) or layer_views.is_opaque(step.operation):
            return None
        before, after = step.node.input_tensors[0], step.node.output_tensors[0]
        if before.shape != after.shape:
            return None
        function = functools.partial(_of_one, step)
    return _named(function, step.node.output_tensors[0].shape)


def _named(function, shape):
    """Return the name of the output activation that a function is, or None."""
    with tf.init_scope():
        given = tf.constant(probes.noise(shape))
        made = tf.convert_to_tensor(function(given))
        if made.shape != given.shape:
            return None
        for name, activation in _ACTIVATIONS.items():
            if _is_close(made, activation(given)):
                return name
    return None


def _is_function(step):
    """Whether a step makes one value of one other, without weights."""
    node, operation = step.node, step.operation
    return (
        step.kind == "call"
        and len(node.input_tensors) == len(node.output_tensors) == 1
        and not getattr(operation, "weights", ())
    )


def _of_one(step, value):
    return graph.call(step, [value])


def _is_close(made, expected):
    """Whether values agree in the precision of what made them."""
    precision = 1e-5 if made.dtype in (tf.float32, tf.float64) else 0.02
    made, expected = (tf.cast(value, tf.float32) for value in (made, expected))
    return np.allclose(made, expected, rtol=precision, atol=0.1 * precision)


# Outputs, by their values


def _kind_by_values(found, target):
    """Return which probabilities the steps behind all weights make, or None.

    The layers with weights are not run: noise stands for what they could hand on.
    """
    tail, ends, feeds = [], [], {}
    keys, random = {target}, np.random.default_rng(1)
    for step in reversed(graph.needed(found, target)):
        if not keys.intersection(step.outputs):
            continue
        if _has_weights_of_keras(step):
            ends.append(step)
            for key, tensor in zip(step.outputs, step.node.output_tensors, strict=True):
                noise = random.permuted(probes.noise(tensor.shape), axis=-1)
                feeds[key] = _through(step, noise)
        else:
            tail.insert(0, step)
            keys.update(step.inputs)
            if step.kind == "enter" and isinstance(step.inputs[0], str):
                shape = step.node.output_tensors[0].shape
                feeds[step.inputs[0]] = probes.noise(shape)
    with tf.init_scope():
        feeds = {key: tf.constant(value) for key, value in feeds.items()}
        values = graph.run(tail, feeds, target)
    return _kind(values, any(map(_may_squash, tail + ends)))


def _has_weights_of_keras(step):
    if step.kind != "call" or not getattr(step.operation, "weights", ()):
        return False
    return not layer_views.is_opaque(step.operation)


def _through(step, values):
    """Return values through the activation of a layer with weights, if it has one."""
    activation = layer_views.fused_activation(step.operation)
    if activation is None:
        return values
    with tf.init_scope():
        return tf.convert_to_tensor(activation(tf.constant(values))).numpy()


def _may_squash(step):
    """Whether a step is an output activation itself, or may contain one."""
    if step.kind != "call":
        return False
    function = layer_views.fused_activation(step.operation)
    of_keras = function is None or function.__module__.split(".")[0] == "keras"
    is_unknown = layer_views.is_opaque(step.operation) or not of_keras
    return is_unknown or _activation(step) is not None


def _kind(values, may_be_sigmoid):
    """Return what values [n, classes] look like: which probabilities, or None: logits.

    Logits may lie in [0, 1] by chance, by a bound, or as vectors of length 1. They are
    probabilities of labels only where something may have made them so, and if they
    change from image to image.
    """
    values = np.asarray(tf.cast(values, tf.float32))
    values = values[np.all(np.isfinite(values), axis=-1)]
    if not len(values):
        return None
    sums = np.sum(values, axis=-1)
    several = values.shape[-1] > 1
    if several and np.min(values) >= 0 and np.max(np.abs(sums - 1)) < _SUM:
        return "softmax"
    log_sums = tf.reduce_logsumexp(values, axis=-1)
    if several and np.max(values) <= 0 and np.max(np.abs(log_sums)) < _SUM:
        return "log_softmax"
    within = np.min(values) >= 0 and np.max(values) <= 1
    lengths = np.linalg.norm(values[np.any(values, axis=-1)], axis=-1)
    normalized = np.all(np.abs(lengths - 1) < _SUM)
    changing = np.ptp(values, axis=0).max() > 0
    is_sigmoid = may_be_sigmoid and within and changing and not normalized
    return "sigmoid" if is_sigmoid else None
