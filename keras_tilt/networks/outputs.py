"""What a network returns: logits, or probabilities that an activation makes of them.

    images -> logits F [n, classes] -> output activation -> outputs [n, classes]

F is read by leaving out the last step that is an output activation: softmax, sigmoid,
their logarithms, or a like function. What a step is, its values tell: the same numbers
in another shape, or softmax of whatever it is given. So it does not matter by which of
the many names a softmax is called, or what stands behind it.

Probabilities may also be made in a way that cannot be left out: an average of several
softmaxes, a Lambda, a layer or model with a `call` of its own. That, too, their values
tell: rows that sum to 1, or numbers that never leave [0, 1], whatever the layers with
weights hand on.
"""

__all__ = [
    "LogOutput",
    "LogPosterior",
    "Logits",
    "LogitsAndPosterior",
    "Output",
    "constants_per_class",
    "logits",
    "of_labels",
    "output_activation",
    "output_of",
    "probabilities",
    "probe",
]

import dataclasses
import functools
import typing

import keras
import numpy as np
import tensorflow as tf

from keras_tilt.networks import graph

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
_LOG_PROBABILITIES = {
    "softmax": tf.nn.log_softmax,
    "log_softmax": tf.nn.log_softmax,
    "sigmoid": tf.math.log_sigmoid,
    "log_sigmoid": tf.math.log_sigmoid,
}
_OF_LABELS = ("sigmoid", "log_sigmoid", "hard_sigmoid", "sparse_sigmoid")

# Rows that a step is tried on: two flat ones, and noise from small to saturating.
_FLAT = (0.0, 0.5)
_SCALES = (1.0, 1.0, 10.0, 10.0, 100.0, 100.0)
_ANY_SIZE = 64  # of an axis that may have any size
_SUM = 0.01  # rows of probabilities in half precision sum to 1 to within this


class Output(typing.NamedTuple):
    """What the numbers are that a network returns.

    Attributes:
        activation: "softmax", "sigmoid", ..., or None: the numbers are logits.
        step: `graph.Step` that applies it, or None where it cannot be left out.
        layer: path of the layer that makes the numbers.
    """

    activation: str | None
    step: graph.Step | None
    layer: str


def output_of(network, values=None):
    """Return what the numbers are that a network returns: `Output`.

    Args:
        network: functional, Sequential or subclassed `keras.Model` with one output.
        values: of a model without a graph, what it returned for `probe` images; by
            default it is run on those of its own input shape.
    """
    if not graph.has_graph(network):
        values = _values_of(network) if values is None else values
        return Output(_kind(values, may_be_sigmoid=True), None, network.name)
    found, target = graph.steps(network), graph.output_key(network)
    step = _last_step(found, target)
    name = _activation(step)
    if name is not None:
        return Output(name, step, step.path)
    return Output(_kind_by_values(found, target), None, step.path)


def output_activation(network):
    """Return the step that is the output activation, and its name; or (None, None).

    It can be left out. That of a model without a graph cannot, and is not returned.
    """
    if not graph.has_graph(network):
        return None, None
    step = _last_step(graph.steps(network), graph.output_key(network))
    name = _activation(step)
    return (step, name) if name else (None, None)


def of_labels(activation):
    """Whether each output is the probability of a label, beside others."""
    return activation in _OF_LABELS


def probabilities(activation, logits):
    """Return p [n, classes] of logits, by an output activation; None: a softmax."""
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
    before = _noise(step.node.input_tensors[0].shape)
    after = _run(step, [before])
    if after.shape.num_elements() != np.size(before):
        return False
    with tf.init_scope():
        return _is_close(tf.reshape(after, before.shape), before)


def _activation(step):
    """Return which output activation a step ends in, or None."""
    function = graph.fused_activation(step.operation)
    if function is None:
        if not _is_function(step) or graph.is_opaque(step.operation):
            return None
        before, after = step.node.input_tensors[0], step.node.output_tensors[0]
        if before.shape != after.shape:
            return None
        function = functools.partial(_of_one, step)
    return _named(function, step.node.output_tensors[0].shape)


def _named(function, shape):
    """Return the name of the output activation that a function is, or None."""
    with tf.init_scope():
        given = tf.constant(_noise(shape))
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


def _run(step, inputs, training=False):
    """Return what a step makes of arrays, as tensors outside of all graphs."""
    with tf.init_scope():
        inputs = [tf.constant(value) for value in inputs]
        return tf.convert_to_tensor(graph.call(step, inputs, training=training))


def _is_close(made, expected):
    """Whether values agree in the precision of what made them."""
    precision = 1e-5 if made.dtype in (tf.float32, tf.float64) else 0.02
    made, expected = (tf.cast(value, tf.float32) for value in (made, expected))
    return np.allclose(made, expected, rtol=precision, atol=0.1 * precision)


def probe(shape):
    """Return what a step or network is tried on: float32 [rows, *shape].

    Two flat rows, and noise of several scales.

    Args:
        shape: of one row; None for an axis of any size.
    """
    return _noise((None, *shape))


def _noise(shape):
    rows = len(_FLAT) + len(_SCALES)
    full = [size or _ANY_SIZE for size in shape[1:]]
    noise = np.random.default_rng(0).normal(size=(len(_SCALES), *full))
    scales = np.reshape(_SCALES, [-1] + [1] * len(full))
    flat = [np.full(full, value) for value in _FLAT]
    values = np.concatenate([flat, scales * noise]).astype(np.float32)
    return np.resize(values, (shape[0] or rows, *full))


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
            feeds |= {
                key: _through(step, random.permuted(_noise(tensor.shape), axis=-1))
                for key, tensor in zip(
                    step.outputs, step.node.output_tensors, strict=True
                )
            }
        else:
            tail.insert(0, step)
            keys.update(step.inputs)
            if step.kind == "enter" and isinstance(step.inputs[0], str):
                shape = step.node.output_tensors[0].shape
                feeds[step.inputs[0]] = _noise(shape)
    with tf.init_scope():
        feeds = {key: tf.constant(value) for key, value in feeds.items()}
        values = graph.run(tail, feeds, target)
    return _kind(values, any(map(_may_squash, tail + ends)))


def _has_weights_of_keras(step):
    weights = getattr(step.operation, "weights", ())
    return step.kind == "call" and bool(weights) and not graph.is_opaque(step.operation)


def _through(step, values):
    """Return values through the activation of a layer with weights, if it has one."""
    activation = graph.fused_activation(step.operation)
    if activation is None:
        return values
    with tf.init_scope():
        return tf.convert_to_tensor(activation(tf.constant(values))).numpy()


def _may_squash(step):
    """Whether a step is an output activation itself, or may contain one."""
    if step.kind != "call":
        return False
    function = graph.fused_activation(step.operation)
    of_keras = function is None or function.__module__.split(".")[0] == "keras"
    is_unknown = graph.is_opaque(step.operation) or not of_keras
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


def _values_of(network):
    """Return what a model without a graph makes of noise of its input shapes."""
    with tf.init_scope():
        inputs = [tf.constant(_noise(tensor.shape)) for tensor in network.inputs]
        return network(inputs if len(inputs) > 1 else inputs[0], training=False)


# What adds a constant per class


def constants_per_class(network):
    """Return the trainable variables that add constants to the logits, of each class.

        F_y(x) + c_y,    c a function of the variable and not of the image

    The bias of the last layer is one, whatever linear step, wrapper or network stands
    around or behind it, as is the beta of a batch normalization. Found by trial of each
    step, in training: the variable moves the output of its layer by the same for all
    images, and the steps behind hand that on.

    Args:
        network: functional, Sequential or subclassed `keras.Model` with one output.

    Returns:
        variables: list of `keras.Variable`.
    """
    if not graph.has_graph(network):
        return _constants_of_model(network)
    target = graph.output_key(network)
    found = graph.needed(graph.steps(network), target)
    reached, spoiled, constant, other = {target}, set(), [], set()
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
    weights is not tried, for it may take no random ones.
    """
    if step.kind != "call":
        return True
    is_own = graph.is_opaque(step.operation) and getattr(step.operation, "weights", ())
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
    others = [] if graph.is_opaque(step.operation) else _trainable(step)
    weights = [(v, _random(v)) for v in others if v is not variable]
    inputs, value = _inputs(step), tf.convert_to_tensor(variable.value)
    moved = value + tf.cast(_random(variable), value.dtype)
    before = _trained(step, inputs, weights)
    after = _trained(step, inputs, [*weights, (variable, moved)])
    return _differ_alike(before, after) and not np.array_equal(before, after)


def _constants_of_model(network):
    """The same of a model that can only be run, on its own weights."""
    classes = network.output_shape[-1]
    before, found = _values_of(network), []
    for variable in network.trainable_variables:
        if tuple(variable.shape) != (classes,):
            continue
        value = tf.convert_to_tensor(variable.value)
        with keras.StatelessScope([(variable, value + _random(variable))]):
            after = _values_of(network)
        if _differ_alike(before, after) and not np.array_equal(before, after):
            found.append(variable)
    return found


def _row_size(step):
    """Return how many numbers a step makes of an image."""
    shape = step.node.output_tensors[0].shape[1:]
    return np.prod([size or _ANY_SIZE for size in shape])


def _inputs(step):
    return [_noise(tensor.shape) for tensor in step.node.input_tensors]


def _random(variable):
    return tf.random.stateless_normal(variable.shape, (0, 3), dtype=variable.dtype)


def _trained(step, inputs, weights):
    """Return what a step makes of inputs in training with such weights."""
    with keras.StatelessScope(weights):
        return _run(step, inputs, training=True)


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


# Readings: functions of a network and its inputs, [n, classes]


def logits(network, feeds, after=None):
    """Return the logits [n, classes], the output without its output activation.

    A separate softmax or sigmoid is left out, a fused one made linear; what reshapes
    its result is kept. A model without a graph has none to leave out.

    Args:
        network: functional, Sequential or subclassed `keras.Model` with one output.
        feeds: as in `graph.layer_values`.
        after: None, or a function of the logits, to stand where the activation was.
    """
    after = after or tf.identity
    last, _ = output_activation(network)
    if last is None:
        return after(graph.output_values(network, feeds))

    def apply(step, inputs):
        if step.outputs != last.outputs:
            return graph.call(step, inputs)
        fused = graph.has_fused_activation(step.operation)
        linear = graph.linear(step.operation)
        return after(graph.call(step, inputs, linear) if fused else inputs[0])

    return graph.run(graph.steps(network), feeds, graph.output_key(network), apply)


@dataclasses.dataclass(frozen=True)
class Logits:
    """All logits."""

    def __call__(self, network, feeds):
        return logits(network, feeds)

    def label(self, channel):
        return f"class {channel}"


@dataclasses.dataclass(frozen=True)
class LogPosterior:
    """log p(y | x) of all classes, by the output activation, or of a calibrated model.

    log softmax(F)_y = F_y - logsumexp F,     log sigmoid(F)_y = -log(1 + exp(-F_y))
    """

    calibrated: keras.Model | None = None

    def __call__(self, network, feeds):
        return logits(network, feeds, self.of_logits(network))

    def of_logits(self, network):
        """The function that makes log p(y | x) of the logits F."""
        if self.calibrated is not None:
            bias = self.calibrated.calibration_bias
            return lambda values: _log_probabilities(
                "softmax", tf.cast(values, tf.float32) + bias
            )
        _, activation = output_activation(network)
        return functools.partial(_log_probabilities, activation or "softmax")

    def label(self, channel):
        return f"log p(class {channel})"


@dataclasses.dataclass(frozen=True)
class LogitsAndPosterior:
    """F_y + weight log p(y | x) of all classes, in one pass."""

    weight: float
    posterior: LogPosterior

    def __call__(self, network, feeds):
        log_posterior = self.posterior.of_logits(network)

        def sum_of(values):
            return tf.cast(values, tf.float32) + self.weight * log_posterior(values)

        return logits(network, feeds, sum_of)

    def label(self, channel):
        sign = "-" if self.weight < 0 else "+"
        return f"(class {channel} {sign} {abs(self.weight):g} log p)"


@dataclasses.dataclass(frozen=True)
class LogOutput:
    """log p(y | x) of all classes, of outputs that are probabilities or logarithms.

    At least the logarithm of the smallest normal float32, -87.3, of the former.
    """

    is_log: bool = False

    def __call__(self, network, feeds):
        outputs = tf.cast(graph.output_values(network, feeds), tf.float32)
        return outputs if self.is_log else _log(outputs)

    def label(self, channel):
        return f"log p(class {channel})"


def _log_probabilities(activation, values):
    values = tf.cast(values, tf.float32)
    if activation in _LOG_PROBABILITIES:
        return _LOG_PROBABILITIES[activation](values)
    return _log(probabilities(activation, values))


def _log(values):
    return tf.math.log(tf.maximum(values, np.finfo(np.float32).tiny))
