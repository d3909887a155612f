"""Features: what one pass of a network yields, and how the images reach it.

    features: images [n, height, width, channels] -> [n, channels]

A reading (`keras_tilt.networks.graph`) says where in the network they are read; here
are the preparation of the images, the other inputs, and what there is to read.
"""

__all__ = [
    "Features",
    "check_preprocess",
    "class_reading",
    "inputs_of",
    "integer",
    "layer_reading",
    "prepare",
]

import dataclasses
import operator
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from keras_tilt.networks import (
    graph,
    inner_values,
    layer_views,
    log_posteriors,
    output_activations,
    probes,
)
from keras_tilt.reference.gradients import named_if_missing


@dataclasses.dataclass(frozen=True)
class Features:
    """Numbers of a network that one pass yields: images [n, ...] -> [n, channels].

    Equal if they read the same of the same network through the same preparation of the
    images, so that units can share the pass.

    Attributes:
        network: the `keras.Model`; compared by identity, as `preprocess`.
        reading: what is read: a layer's channels at a place, or all classes.
        input_shape: shape of one image, before `preprocess`.
        preprocess: function of the images, or None.
        fixed_inputs: tuple of (name, constant) for all inputs but the images.
        resize: (height, width) that images are brought to before `preprocess`, or None.
    """

    network: keras.Model
    reading: Callable
    input_shape: tuple
    preprocess: Callable | None = None
    fixed_inputs: tuple = ()
    resize: tuple | None = None

    def __call__(self, images):
        """Return the features: float32 [n, channels]."""
        images = tf.convert_to_tensor(images)
        _check_images(images, self.input_shape)
        return tf.cast(self.reading(self.network, self.feeds(images)), tf.float32)

    def feeds(self, images):
        """Return {name of input: value}, what the network is to be called with."""
        if self.resize is not None:
            images = tf.cast(images, tf.float32)
            images = tf.image.resize(images, self.resize, antialias=True)
        if self.preprocess is not None:
            images = self.preprocess(tf.cast(images, tf.float32))
        feeds = {name: fixed(tf.shape(images)[0]) for name, fixed in self.fixed_inputs}
        names = [name for name in _input_names(self.network) if name not in feeds]
        return {names[0]: images, **feeds}


@dataclasses.dataclass(frozen=True)
class _Constant:
    """A fixed input, compared by value: number of images n -> [n, ...]."""

    dtype: str
    shape: tuple
    data: bytes

    def __call__(self, n):
        value = np.frombuffer(self.data, self.dtype).reshape(self.shape)
        return tf.broadcast_to(value, tf.concat([[n], self.shape], axis=0))


# What there is to read


def prepare(network, preprocess, fixed_inputs, input_shape, resize=None):
    """Return `Features` of all but the reading, which must be added, after checks."""
    _check_network(network)
    fixed = _constants(network, fixed_inputs or {})
    taken = _taken_shape(network, fixed)
    shape = taken if input_shape is None else _shape(input_shape)
    if shape is None:
        raise ValueError(_NO_GRAPH.format(network))
    if resize is not None:
        resize = _checked_size(resize, shape)
        seen, taken = (*resize, shape[2]), taken and (None, None, taken[2])
    else:
        seen = shape
    if preprocess is not None:
        check_preprocess(preprocess, seen, taken)
    elif graph.has_graph(network):
        _check_taken(seen, taken)
    prepared = Features(network, None, shape, preprocess, fixed, resize)
    if resize is not None:
        _check_bears(prepared)
    return prepared


def _input_names(network):
    if not graph.has_graph(network):
        return ["images"]
    return [tensor.name for tensor in network.inputs]


def _taken_shape(network, fixed):
    """Return the shape of one image as the network takes it; None if not known."""
    fixed = dict(fixed)
    inputs = getattr(network, "inputs", None) or []  # also where `call` is its own
    shapes = [tensor.shape[1:] for tensor in inputs if tensor.name not in fixed]
    if len(shapes) == 1:
        return tuple(shapes[0])
    config = network.get_build_config() if network.built else None
    shape = (config or {}).get("input_shape")
    return tuple(shape[1:]) if isinstance(shape, tuple | list) else None


def _constants(network, fixed_inputs):
    """Return fixed inputs as a tuple of (name, constant): all but one, the images."""
    if not isinstance(fixed_inputs, dict):
        raise ValueError(
            "Expected `fixed_inputs` to be a dict of arrays by the name of an input. "
            f"Received: {fixed_inputs!r}. The inputs are {_input_names(network)}."
        )
    names = _input_names(network)
    left = [name for name in names if name not in fixed_inputs]
    if len(left) != 1 or len(left) + len(fixed_inputs) != len(names):
        raise ValueError(
            "Expected a network with one input, the images, and all others in "
            f"`fixed_inputs`. Received: {len(left)} inputs, {left}, and fixed "
            f"{list(fixed_inputs)}. The network's inputs are {names}."
        )
    shapes = {name: tensor.shape for name, tensor in inputs_of(network).items()}
    return tuple(
        (name, _constant(name, value, shapes[name]))
        for name, value in sorted(fixed_inputs.items())
    )


def inputs_of(network):
    """Return {name: symbolic tensor} of a network's inputs."""
    return dict(
        zip(_input_names(network), getattr(network, "inputs", ()), strict=False)
    )


def _constant(name, value, shape):
    value = np.asarray(value)
    value = value[0] if value.ndim == len(shape) and len(value) == 1 else value
    if not tf.TensorShape(shape[1:]).is_compatible_with(value.shape):
        raise ValueError(
            f"Expected the fixed input {name!r} of shape {tuple(shape[1:])}, the same "
            f"for all images. Received: shape {value.shape}. Leave out the batch axis."
        )
    return _Constant(value.dtype.str, value.shape, value.tobytes())


def _blank(prepared):
    """Return what the network reads of two images, black and gray."""
    shape = [size or 64 for size in prepared.input_shape]
    return prepared.feeds(tf.stack([tf.zeros(shape), tf.fill(shape, 0.5)]))


def class_reading(model, prepared, posterior, posterior_weight=0.0):
    """Return how all classes are read, and their number."""
    network = prepared.network
    values = None if graph.has_graph(network) else _probed(prepared)
    classes = _check_classes(graph.output_shapes(network, values))
    output = output_activations.output_of(network, values)
    is_label = output_activations.of_labels(output.activation)
    if (posterior or posterior_weight) and classes == 1 and not is_label:
        raise ValueError(
            "Expected several classes, or a sigmoid, to read log p(class | x) from. "
            "Received: one logit, whose softmax is always 1. Leave `posterior` out."
        )
    if output.activation is not None and output.step is None:
        _check_log_wanted(output, posterior and not posterior_weight)
        return log_posteriors.LogOutput(output.activation == "log_softmax"), classes
    log_posterior = log_posteriors.LogPosterior(None if model is network else model)
    if posterior_weight:
        return log_posteriors.LogitsAndPosterior(
            posterior_weight, log_posterior
        ), classes
    return log_posterior if posterior else log_posteriors.Logits(), classes


def _probed(prepared):
    """Return what the network makes of images of several kinds, as it takes them."""
    images = tf.constant(probes.probe(prepared.input_shape))
    return graph.output_values(prepared.network, prepared.feeds(images))


def layer_reading(prepared, name, position, activation):
    """Return how the channels of a layer are read, and their number."""
    step = graph.find(prepared.network, name)
    if activation == "pre":
        _check_reachable(step)
    shape = _check_channels(step, _shapes(prepared, step)[0])
    place = _check_position(step.path, shape, position)
    post = activation == "post" and layer_views.has_fused_activation(step.operation)
    return inner_values.Channels(step.path, place, post, len(shape) - 2), shape[-1]


def _shapes(prepared, step):
    """Return the shapes of what a layer makes; without a graph, of a first call."""
    if step.kind != "inside" and prepared.resize is None:
        return [tuple(tensor.shape) for tensor in step.node.output_tensors]
    feeds = _blank(prepared)
    values = inner_values.layer_values(prepared.network, feeds, step.path, False)
    shapes = [tuple(value.shape[1:]) for value in keras.tree.flatten(values)]
    if None in prepared.input_shape:
        shapes = [(*[None] * (len(shape) - 1), *shape[-1:]) for shape in shapes]
    return [(None, *shape) for shape in shapes]


# Checks

_NO_GRAPH = (
    "Expected `network` to be a functional or Sequential keras.Model with known input "
    "shape, or a subclassed one that is built. Received: {!r}. Build it with "
    "keras.Input and keras.Model(inputs, outputs), or pass `input_shape`."
)


def _check_network(network):
    if not isinstance(network, keras.Model):
        raise ValueError(_NO_GRAPH.format(network))
    layers = graph.inner_layers(network)
    if graph.has_graph(network):
        layers |= {step.path: step.operation for step in graph.steps(network)}
    for path, layer in layers.items():
        if getattr(layer, "data_format", None) == "channels_first":
            raise ValueError(
                "Expected images and maps [n, height, width, channels]. Received: "
                f"layer {path!r} with data_format='channels_first'. "
                "Build the network with channels last."
            )


def _check_log_wanted(output, posterior):
    """Raise for outputs that are probabilities unless their logarithm is wanted."""
    if not posterior:
        name = output.activation
        raise ValueError(
            "Expected a network that ends in logits, or in a softmax or sigmoid that "
            "can be left out. Received: outputs that are probabilities, made by "
            f"{output.layer!r}: they have the values of a {name}. In a functional or "
            "Sequential model use Dense(..., activation='softmax') or "
            "keras.layers.Softmax() as last layer; of a subclassed one name the last "
            "layer, 'layer:channel', which is read before its activation. Or pass "
            "posterior=True for the logarithm."
        )


def _check_reachable(step):
    """Raise for a layer whose value before the activation cannot be read."""
    if layer_views.hides_activation(step.operation):
        raise ValueError(
            "Expected a layer of Keras, to read it before its activation. Received: "
            f"{step.path!r}, {type(step.operation).__name__}, with an activation and a "
            "`call` of its own. Pass activation='post', or name a layer inside of it."
        )


def _check_classes(shapes):
    """Return the number of classes, or raise if the output is not [n, classes]."""
    if len(shapes) > 1:
        raise ValueError(
            "Expected a network of one output, [batch, classes], to read a class from. "
            f"Received: outputs {shapes}. Build one of the output that is meant, "
            "keras.Model(network.inputs, network.outputs[0]), or name a layer, "
            "'layer:channel'."
        )
    if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][1] is None:
        raise ValueError(
            "Expected a network with output [batch, classes] to read a class from. "
            f"Received: outputs {shapes}. Name a layer instead, 'layer:channel'."
        )
    return shapes[0][1]


def _check_channels(step, shape):
    """Return the shape of what a layer makes, or raise if it has no channels."""
    if len(shape) < 2 or shape[-1] is None:
        raise ValueError(
            f"Expected the output of layer {step.path!r} to be [n, channels], or [n, "
            "places ..., channels] with one axis of places or several. Received: "
            f"{shape}. Name a layer that makes channels, of a known number."
        )
    if 0 in shape:
        raise ValueError(
            f"Expected the output of layer {step.path!r} to have a place to read. "
            f"Received: {shape}, of images too small for it. Pass a larger `resize` or "
            "`input_shape`, or name a layer below."
        )
    return shape


def _check_position(name, shape, position):
    """Return "center", "mean", or an index for each axis of places; None: by default.

    Args:
        name: of the layer.
        shape: of what it makes, (None, places ..., channels).
        position: as it was passed.
    """
    size = shape[1:-1]
    if position is None or (position == "center" and isinstance(position, str)):
        return position or inner_values.default_place(len(size))
    if size and isinstance(position, str) and position == "mean":
        return position
    place = _indices(position)
    inside = bool(size) and place is not None and len(place) == len(size)
    inside = inside and all(
        0 <= p and (s is None or p < s) for p, s in zip(place, size, strict=True)
    )
    if not inside:
        wanted, received = _POSITIONS.get(len(size), _POSITIONS[None])
        received = received.format(" x ".join(map(str, size)))
        raise ValueError(
            f"Expected `position` to be {wanted} of {name!r}. "
            f"Received: {position!r}. Its output is {received}."
        )
    return place


# What a position may be, and what the layer makes, by the number of axes of places.
_POSITIONS = {
    0: ("left out: there is only one place", "a vector, without a map"),
    1: ("'mean', 'center' or an index in the sequence", "a sequence of {}"),
    2: ("'center', 'mean' or (row, column) on the map", "a map of {}"),
    None: ("'center', 'mean' or a tuple of an index for each axis", "an array of {}"),
}


def _check_images(images, shape):
    if not images.shape.is_compatible_with([None, *shape]):
        raise ValueError(
            f"Expected images [n, {', '.join(map(str, shape))}]. Received: shape "
            f"{tuple(images.shape)}, incompatible with the layers. Bring the images to "
            "the unit's input_shape."
        )


def _check_taken(shape, taken):
    if not tf.TensorShape(taken).is_compatible_with(shape):
        raise ValueError(
            "Expected `input_shape` to be that of the network without a `preprocess`. "
            f"Received: {shape}, the network takes {taken}. Pass the function that "
            "makes one of the other."
        )


def _checked_size(resize, shape):
    """Return (height, width), or raise; of images with rows and columns alone."""
    size = _indices(resize)
    if size is None or len(size) != 2 or min(size) < 1 or len(shape) != 3:
        raise ValueError(
            "Expected `resize` to be (height, width) of images [height, width, "
            f"channels]. Received: {resize!r}, images {tuple(shape)}. Pass for example "
            "(112, 112)."
        )
    return size


def _check_bears(prepared):
    """Raise if the network's layers cannot be run on images of another size.

    Too small a map has no cells left, whose mean is no number.
    """
    shape = [2, *(size or 64 for size in prepared.input_shape)]
    noise = tf.random.stateless_uniform(shape, [0, 0])
    try:
        outputs = graph.output_values(prepared.network, prepared.feeds(noise))
        fault = "" if np.any(np.isfinite(outputs)) else "its outputs are not finite"
    except (ValueError, tf.errors.OpError) as error:
        fault = str(error)
    if fault:
        raise ValueError(
            "Expected a network whose layers take images of any size, as convolutions "
            "and global pooling do. Received: one that fails on "
            f"{prepared.resize}. Pass a larger `resize`, or leave it out. ({fault})"
        )


def check_preprocess(preprocess, shape, taken):
    """Raise if a function of images is none of tensors, or makes another shape."""
    try:
        traced = tf.function(_with_a_gradient(preprocess), autograph=False)
        concrete = traced.get_concrete_function(tf.TensorSpec([None, *shape]))
        made = tf.TensorShape(concrete.output_shapes)
        if concrete.structured_outputs is None:
            raise TypeError("it returns nothing")
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            "Expected `preprocess` to be a function of tensors, with a gradient. "
            f"Received: {preprocess!r}, which fails on one: {error}. Write it with "
            "TensorFlow or keras.ops operations, for example "
            "tf.reverse(images, [-1]) - mean in place of numpy's."
        ) from error
    if not tf.TensorShape(taken and [None, *taken]).is_compatible_with(made):
        raise ValueError(
            f"Expected `preprocess` to return images of shape {tuple(taken)}. "
            f"Received: {tuple(made[1:])} of images {tuple(shape)}. Pass the shape "
            "that it takes as `input_shape`."
        )


def _with_a_gradient(preprocess):
    """Return the same function, which fails if an operation in it has no gradient."""

    def prepared(images):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            made = preprocess(images)
        if tf.is_tensor(made) and made.dtype.is_floating:
            with named_if_missing("`preprocess`", "the images"):
                tape.gradient(made, images)
        return made

    return prepared


def _shape(input_shape):
    """Return the shape of one image as a tuple of integers or None."""
    try:
        return tuple(tf.TensorShape(input_shape).as_list())
    except (TypeError, ValueError) as error:
        raise ValueError(
            "Expected `input_shape` to be (height, width, channels). Received: "
            f"{input_shape!r}. Pass for example (224, 224, 3)."
        ) from error


def _indices(position):
    """Return the integers of a sequence, or of one integer, as a tuple; or None."""
    if isinstance(position, str):
        return None
    one = integer(position)
    try:
        found = tuple(map(integer, position)) if one is None else (one,)
    except TypeError:
        return None
    return None if None in found else found


def integer(value):
    """Return the integer a number or its text stands for, or None."""
    if isinstance(value, bool):
        return None
    try:
        return int(value) if isinstance(value, str) else operator.index(value)
    except (TypeError, ValueError):
        return None
