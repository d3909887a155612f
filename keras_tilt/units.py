"""Units f of a network: the exponent of the tilted density, in nats.

    p(x) = exp(f(x)) q(x) / Z,      f: images [n, height, width, channels] -> [n]

f is a class logit, the value *before* the softmax, or the response of one channel of an
inner layer, before its activation (Dai, Lu and Wu 2015, section 2: an inner node is a
class of its own). log softmax is another function: it subtracts the log-sum-exp over
classes, and with it the part of f that the density p_y is made of.
"""

__all__ = ["Unit", "unit"]

import contextlib
import dataclasses
import operator
from collections.abc import Callable

import keras
import tensorflow as tf

# Activations that end a classifier and whose argument is the logit, by the names of
# functions ("softmax_v2" is tf.nn.softmax) and of layers or operations.
_LINKS = ("softmax", "softmax_v2", "log_softmax", "log_softmax_v2", "sigmoid")
_LINK_OPERATIONS = ("Softmax", "LogSoftmax", "Sigmoid")

# Layers that apply `activation` once, to the value they compute from their weights.
_WITH_FUSED_ACTIVATION = (
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Conv2D,
    keras.layers.Conv2DTranspose,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
)


@dataclasses.dataclass(frozen=True)
class Unit:
    """One number of a network as a function of the image.

        f: images [n, height, width, channels] -> [n], nats

    Attributes:
        name: "class 3", "conv5:12", or "conv5:12@0,4" at a position.
        input_shape: (height, width, channels); None where the network takes any size.
        response: the function itself. It reads the network's own weights: after a
            weight update the unit is the new one.
    """

    name: str
    input_shape: tuple
    response: Callable = dataclasses.field(repr=False)

    def __call__(self, images):
        """Return f(images): float32 [n], nats."""
        return tf.cast(self.response(images), tf.float32)


def unit(network, layer_channel=None, *, class_index=None, position="center"):
    """Return one unit of a network: a class logit, or a channel of a layer.

    The network runs as in inference: dropout off, BatchNorm with its moving statistics.
    A layer with weights is read before its activation, because a unit behind a ReLU has
    no gradient where it is off. A softmax (or sigmoid) at the end is left out.

    Args:
        network: functional or Sequential `keras.Model` with one input, or a model that
            holds one as its attribute `network`, which is then used without the
            calibration bias.
        layer_channel: "layer:channel", for example "conv5:12".
        class_index: number of the class, in place of `layer_channel`.
        position: "center" of the layer's map, or (row, column).

    Returns:
        unit: callable, images [n, height, width, channels] -> float32 [n], nats.

    Raises:
        ValueError: a network without a graph of layers, with several inputs, or with
            channels first; an unknown layer, channel, class or position.

    Example:
        >>> network = keras.Sequential([
        ...     keras.Input((28, 28, 1)),
        ...     keras.layers.Conv2D(20, 5, activation="relu", name="conv1"),
        ...     keras.layers.Flatten(),
        ...     keras.layers.Dense(10, activation="softmax"),
        ... ])
        >>> unit(network, class_index=3)(tf.zeros([2, 28, 28, 1])).shape
        TensorShape([2])
        >>> unit(network, "conv1:12", position=(0, 4)).name
        'conv1:12@0,4'

    Source: Dai, Lu and Wu 2015, sections 2 and 4.
    """
    network = getattr(network, "network", network)
    _check_network(network)
    if (layer_channel is None) == (class_index is None):
        raise ValueError(
            "Expected either `layer_channel` or `class_index`. Received: "
            f"{layer_channel!r} and {class_index!r}. "
            "Pass unit(network, 'conv5:12') or unit(network, class_index=3)."
        )
    if class_index is not None:
        return _class_unit(network, class_index, position)
    return _channel_unit(network, layer_channel, position)


def _class_unit(network, class_index, position):
    index = _check_class_index(network, class_index)
    if position != "center":
        raise ValueError(
            "Expected no `position` for a class logit, which has no map. "
            f"Received: {position!r}. Leave it out."
        )
    logits = _logits_fn(network, network.outputs[0])
    _refuse_probabilities(network, logits)
    return Unit(
        name=f"class {index}",
        input_shape=tuple(network.input_shape[1:]),
        response=lambda images: logits(images)[:, index],
    )


def _channel_unit(network, layer_channel, position):
    layer, channel = _layer_and_channel(network, layer_channel)
    node = _only_node(network, layer)
    shape = _vector_or_map(layer, node)
    _check_channel(layer, shape, channel)
    place = _check_position(layer, shape, position)
    values = (
        _linear_fn(network, layer, node)
        if _has_fused_activation(layer)
        else _function(network, node.output_tensors[0])
    )
    return Unit(
        name=f"{layer.name}:{channel}" + (f"@{place[0]},{place[1]}" if place else ""),
        input_shape=tuple(network.input_shape[1:]),
        response=lambda images: _at(values(images)[..., channel], place),
    )


def _at(values, place):
    """Return values [n] as they are, or one place of maps [n, height, width].

    The center is (height // 2, width // 2).
    """
    if values.shape.rank == 1:
        return values
    row, column = place or (tf.shape(values)[1] // 2, tf.shape(values)[2] // 2)
    return values[:, row, column]


# The logits: the graph without its last softmax


def _logits_fn(network, tensor):
    """Return images -> logits, the value of `tensor` [n, classes] before a softmax.

    Walks back over layers that only reshape, to a separate softmax (left out), a layer
    with a fused softmax (made linear), a nested network (the same again inside), or
    logits already.
    """
    operation, node = _producer(tensor)
    if isinstance(operation, keras.layers.Flatten | keras.layers.Reshape):
        return _compose(operation, _logits_fn(network, node.input_tensors[0]))
    if _is_identity(operation):
        return _logits_fn(network, node.input_tensors[0])
    if _is_link(operation, tensor):
        return _function(network, node.input_tensors[0])
    if _has_fused_activation(operation) and _name(operation.activation) in _LINKS:
        return _linear_fn(network, operation, node)
    if _is_nested(operation, node):
        inner = _logits_fn(operation, operation.outputs[0])
        return _compose(inner, _function(network, node.input_tensors[0]))
    return _function(network, tensor)


def _is_identity(operation):
    """Whether the operation changes nothing at inference."""
    if isinstance(operation, keras.layers.Activation):
        return operation.activation is keras.activations.linear
    return isinstance(operation, keras.layers.Dropout | keras.layers.Identity)


def _is_link(operation, tensor):
    """Whether the operation is a softmax over the last axis, and nothing else."""
    if isinstance(operation, keras.layers.Activation):
        return _name(operation.activation) in _LINKS
    last_axis = (-1, len(tensor.shape) - 1)
    return (
        type(operation).__name__ in _LINK_OPERATIONS
        and getattr(operation, "axis", -1) in last_axis
    )


def _is_nested(operation, node):
    return (
        isinstance(operation, keras.Model)
        and len(getattr(operation, "outputs", None) or ()) == 1
        and len(node.input_tensors) == 1
    )


def _has_fused_activation(operation):
    return isinstance(operation, _WITH_FUSED_ACTIVATION)


def _name(function):
    return getattr(function, "__name__", None)


# Functions of the images that read a tensor of the network's graph


def _function(network, tensor):
    """Return images -> value of a tensor of the graph, with training=False."""
    if tensor is network.inputs[0]:
        return lambda images: images
    below = keras.Model(network.inputs, tensor)
    return lambda images: below(images, training=False)


def _linear_fn(network, layer, node):
    """Return images -> what the layer computes before its activation.

    The layer itself is called, so its weights are shared and its precision is its own.
    Its activation is away only while it is being called, or traced.
    """
    below = _function(network, node.input_tensors[0])

    def pre_activation(images):
        values = below(images)
        with _without_activation(layer):
            return layer(values)

    return pre_activation


@contextlib.contextmanager
def _without_activation(layer):
    activation, layer.activation = layer.activation, keras.activations.linear
    try:
        yield
    finally:
        layer.activation = activation


def _compose(outer, inner):
    return lambda images: outer(inner(images))


def _producer(tensor):
    """Return the operation that made a tensor of the graph, and its node there."""
    history = tensor._keras_history
    return history.operation, history.operation._inbound_nodes[history.node_index]


def _nodes(network):
    """Return the (operation, node) pairs of this network's graph.

    A layer may have further nodes, in other networks that share it.
    """
    found, waiting = {}, list(network.outputs)
    while waiting:
        operation, node = _producer(waiting.pop())
        if id(node) not in found:
            found[id(node)] = operation, node
            waiting.extend(node.input_tensors)
    return list(found.values())


# Checks


def _check_network(network):
    if not isinstance(network, keras.Model) or not getattr(network, "inputs", None):
        raise ValueError(
            "Expected `network` to be a functional or Sequential keras.Model with "
            f"known input shape. Received: {network!r}. Units are read from the graph "
            "of layers: build it with keras.Input and keras.Model(inputs, outputs)."
        )
    if len(network.inputs) != 1:
        raise ValueError(
            "Expected a network with one input, the images. Received: "
            f"{len(network.inputs)} inputs, {[i.name for i in network.inputs]}. "
            "Make a keras.Model of the images alone."
        )
    for layer in network.layers:
        if getattr(layer, "data_format", None) == "channels_first":
            raise ValueError(
                "Expected images and maps [n, height, width, channels]. Received: "
                f"layer {layer.name!r} with data_format='channels_first'. "
                "Build the network with channels last."
            )


def _check_class_index(network, class_index):
    shapes = [list(tensor.shape) for tensor in network.outputs]
    if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][1] is None:
        raise ValueError(
            "Expected a network with output [batch, classes] to read a class from. "
            f"Received: outputs {shapes}. Name a layer instead, 'layer:channel'."
        )
    classes = shapes[0][1]
    index = _integer(class_index)
    if index is None or not 0 <= index < classes:
        raise ValueError(
            f"Expected `class_index` to lie in 0..{classes - 1}. "
            f"Received: {class_index!r}. The network has {classes} classes."
        )
    return index


def _refuse_probabilities(network, logits):
    """Raise if what should be logits are probabilities: a softmax was not recognized.

    Two images, black and gray, to exclude a coincidence.
    """
    shape = [size or 64 for size in network.input_shape[1:]]
    values = logits(tf.stack([tf.zeros(shape), tf.fill(shape, 0.5)]))
    values = tf.cast(values, tf.float32)
    off = tf.reduce_max(tf.abs(tf.reduce_sum(values, axis=-1) - 1.0))
    if values.shape[-1] > 1 and tf.reduce_min(values) >= 0.0 and off < 1e-3:
        raise ValueError(
            "Expected a network that ends in logits, or in a softmax that can be left "
            "out. Received: outputs that are probabilities, made by "
            f"{_producer(network.outputs[0])[0].name!r}. Use "
            "Dense(..., activation='softmax') or keras.layers.Softmax() as last layer."
        )


def _layer_and_channel(network, layer_channel):
    name, colon, channel = str(layer_channel).rpartition(":")
    if not colon or _integer(channel) is None:
        raise ValueError(
            "Expected `layer_channel` to read 'layer:channel'. Received: "
            f"{layer_channel!r}. Write for example 'conv5:12'. {_layers(network)}"
        )
    for layer in network.layers:
        if layer.name == name:
            return layer, _integer(channel)
    raise ValueError(
        "Expected `layer_channel` to name a layer of the network. "
        f"Received: {name!r}. {_layers(network)}"
    )


def _only_node(network, layer):
    nodes = [node for operation, node in _nodes(network) if operation is layer]
    if len(nodes) != 1:
        raise ValueError(
            f"Expected layer {layer.name!r} to be applied once in the network. "
            f"Received: {len(nodes)} applications. Name a layer that follows one "
            f"of them. {_layers(network)}"
        )
    return nodes[0]


def _vector_or_map(layer, node):
    shapes = [tuple(tensor.shape) for tensor in node.output_tensors]
    if len(shapes) != 1 or len(shapes[0]) not in (2, 4) or shapes[0][-1] is None:
        raise ValueError(
            f"Expected the output of layer {layer.name!r} to be [n, channels] or "
            f"[n, height, width, channels]. Received: {shapes}. "
            "Name a dense, convolution or pooling layer."
        )
    return shapes[0]


def _check_channel(layer, shape, channel):
    if not 0 <= channel < shape[-1]:
        raise ValueError(
            f"Expected the channel of {layer.name!r} to lie in 0..{shape[-1] - 1}. "
            f"Received: {channel}. The layer has {shape[-1]} channels."
        )


def _check_position(layer, shape, position):
    """Return None for the center, or (row, column) on the map of this shape."""
    if isinstance(position, str) and position == "center":
        return None
    place = _pair(position)
    size = shape[1:-1]
    inside = place is not None and len(size) == 2
    inside = inside and all(
        0 <= p and (s is None or p < s) for p, s in zip(place, size, strict=True)
    )
    if not inside:
        where = f"a map of {size[0]} x {size[1]}" if size else "a vector, without a map"
        raise ValueError(
            f"Expected `position` to be 'center' or (row, column) on the map of "
            f"{layer.name!r}. Received: {position!r}. Its output is {where}."
        )
    return place


def _pair(position):
    try:
        row, column = (_integer(p) for p in position)
    except (TypeError, ValueError):
        return None
    return None if None in (row, column) else (row, column)


def _integer(value):
    """Return the integer a number or its text stands for, or None."""
    try:
        return int(value) if isinstance(value, str) else operator.index(value)
    except (TypeError, ValueError):
        return None


def _layers(network):
    return "Layers: " + ", ".join(layer.name for layer in network.layers) + "."
