"""Features: what one pass of a network yields.

    features: images [n, height, width, channels] -> [n, channels]

The channels of a layer, or all classes, of images that reach the network in one way.
"""

__all__ = ["Features", "class_features", "layer_features", "values_of"]

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tilt.networks import (
    graph,
    inner_values,
    layer_views,
    output_activations,
    probes,
)
from keras_tilt.units.network_inputs import NetworkInputs
from keras_tilt.units.positions import checked_position
from keras_tilt.units.readings import (
    Channels,
    Logits,
    LogitsAndPosterior,
    LogOutput,
    LogPosterior,
    Reading,
)


@dataclasses.dataclass(frozen=True)
class Features:
    """Numbers of a network that one pass yields: images [n, ...] -> [n, channels].

    Equal if they read the same of the same network through the same preparation of the
    images, so that units can share the pass.

    Attributes:
        inputs: `NetworkInputs`, how the images reach the network.
        reading: `Reading`, what is read: a layer's channels at a place, or all classes.
    """

    inputs: NetworkInputs
    reading: Reading

    def __call__(self, images: ArrayLike) -> tf.Tensor:
        """Return the features: float32 [n, channels]."""
        return values_of([self], images)[0]

    @property
    def network(self) -> keras.Model:
        """The network that is read."""
        return self.inputs.network

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Shape of one image, before `preprocess`."""
        return self.inputs.input_shape

    @property
    def preprocess(self) -> Callable[[tf.Tensor], tf.Tensor] | None:
        """Function of the images before the network, or None."""
        return self.inputs.preprocess


def values_of(several: Sequence[Features], images: ArrayLike) -> list[tf.Tensor]:
    """Return the values of several features of the same images: [n, channels] each.

    What they read of one network through equal inputs, one pass of it makes.

    Args:
        several: of images of one shape.
        images: [n, height, width, channels].
    """
    feeds: dict[NetworkInputs, graph.Feeds] = {}
    found = []
    for one in several:
        if one.inputs not in feeds:
            feeds[one.inputs] = one.inputs(images)
        read = one.reading(one.network, feeds[one.inputs])
        found.append(tf.cast(read, tf.float32))
    return found


def class_features(
    model: keras.Model,
    inputs: NetworkInputs,
    posterior: bool,
    posterior_weight: float = 0.0,
) -> tuple[Features, int]:
    """Return `Features` of all classes, and their number.

    Args:
        model: what was given as network: it, or a `GenerativeClassifier` of it.
        inputs: `NetworkInputs`.
        posterior: whether log p(y | x) is read in place of the logits.
        posterior_weight: weight of log p(y | x) beside the logits.
    """
    network = inputs.network
    values = None if graph.has_graph(network) else _probed(inputs)
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
        reading: Reading = LogOutput(output.activation == "log_softmax")
    else:
        log_posterior = LogPosterior(None if model is network else model)
        reading = _of_classes(log_posterior, posterior, posterior_weight)
    return Features(inputs, reading), classes


def _of_classes(log_posterior, posterior, posterior_weight):
    if posterior_weight:
        return LogitsAndPosterior(posterior_weight, log_posterior)
    return log_posterior if posterior else Logits()


def _probed(inputs):
    """Return what the network makes of images of several kinds, as it takes them."""
    images = tf.constant(probes.probe(inputs.input_shape))
    return graph.output_values(inputs.network, inputs(images))


def layer_features(
    inputs: NetworkInputs,
    name: str,
    position: Any,
    activation: Literal["pre", "post"],
) -> tuple[Features, int]:
    """Return `Features` of the channels of a layer, and their number.

    Args:
        inputs: `NetworkInputs`.
        name: path of the layer.
        position: as in `kt.unit`.
        activation: "pre" or "post".
    """
    step = graph.find(inputs.network, name)
    if activation == "pre":
        _check_reachable(step)
    shape = _check_channels(step, _shapes(inputs, step)[0])
    place = checked_position(step.path, shape, position)
    post = activation == "post" and layer_views.has_fused_activation(step.operation)
    reading = Channels(step.path, place, post, len(shape) - 2)
    return Features(inputs, reading), shape[-1]


def _shapes(inputs, step):
    """Return the shapes of what a layer makes; without a graph, of a first call."""
    if step.kind != "inside" and inputs.resize is None:
        return [tuple(tensor.shape) for tensor in step.node.output_tensors]
    feeds = _blank(inputs)
    values = inner_values.layer_values(inputs.network, feeds, step.path, False)
    shapes = [tuple(value.shape[1:]) for value in keras.tree.flatten(values)]
    if None in inputs.input_shape:
        shapes = [(*[None] * (len(shape) - 1), *shape[-1:]) for shape in shapes]
    return [(None, *shape) for shape in shapes]


def _blank(inputs):
    """Return what the network reads of two images, black and gray."""
    shape = [size or 64 for size in inputs.input_shape]
    return inputs(tf.stack([tf.zeros(shape), tf.fill(shape, 0.5)]))


# Checks


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
            "Expected a built-in Keras layer, to read before its activation. Received: "
            f"{step.path!r}, {type(step.operation).__name__}, with an activation and a "
            "`call` of its own. Pass activation='post', or name a layer inside of it."
        )


def _check_classes(shapes):
    """Return the number of classes, or raise if the output is not [n, classes]."""
    if len(shapes) > 1:
        raise ValueError(
            "Expected a network of one output, [batch, classes], to read a class from. "
            f"Received: outputs {shapes}. Build one with the intended output, "
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
            f"{shape}. Name a layer with a known number of channels."
        )
    if 0 in shape:
        raise ValueError(
            f"Expected the output of layer {step.path!r} to have a place to read. "
            f"Received: {shape}, of images too small for it. Pass a larger `resize` or "
            "`input_shape`, or name a layer below."
        )
    return shape
