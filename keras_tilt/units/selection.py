"""Selection of a unit f of a network: the exponent of the tilted density, in nats.

    p(x) = exp(f(x)) q(x) / Z,      f: images [n, height, width, channels] -> [n]

f is a class logit, the value *before* the softmax, or the response of one channel of an
inner layer, before its activation (Dai, Lu and Wu 2015, section 2: an inner node is a
class of its own); and every weighted sum of such. log softmax is another function: it
subtracts the log-sum-exp over classes, and with it the part of f that the density p_y
is made of. As a bounded f, log p(y|x), it is there on request.
"""

__all__ = ["unit"]

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tilt.networks import graph
from keras_tilt.units.algebra import Unit, unit_of
from keras_tilt.units.features import class_features, layer_features
from keras_tilt.units.network_inputs import checked_inputs
from keras_tilt.units.positions import integer
from keras_tilt.validation import as_array, as_number


def unit(
    network: keras.Model,
    layer_channel: str | None = None,
    *,
    class_index: int | None = None,
    direction: ArrayLike | None = None,
    position: Literal["center", "mean"] | int | Sequence[int] | None = None,
    activation: Literal["pre", "post"] = "pre",
    posterior: bool = False,
    posterior_weight: float = 0.0,
    preprocess: Callable[[tf.Tensor], tf.Tensor] | None = None,
    fixed_inputs: Mapping[str, ArrayLike] | None = None,
    input_shape: Sequence[int | None] | None = None,
    resize: Sequence[int] | None = None,
) -> Unit:
    """Return one unit of a network: a class, or a channel or direction of a layer.

    The network runs as in inference: dropout off, BatchNorm with its moving statistics.
    A layer with weights is read before its activation, because a unit behind a ReLU has
    no gradient where it is off. A softmax, a sigmoid or the like at the end of a
    functional or Sequential model is left out, whatever its name.

    Args:
        network: functional or Sequential `keras.Model`, or a `GenerativeClassifier`,
            whose network is then used without the calibration bias. Of a subclassed
            model, or of one with a `call` of its own, the output and the layers it
            calls can be read, in full passes; it must be built, or `input_shape` given.
        layer_channel: "layer:channel", for example "conv5:12"; "outer/inner:channel"
            inside a nested network; "layer" alone with a `direction`.
        class_index: index of the class, in place of `layer_channel`.
        direction: [channels] weights of the layer's channels.
        position: where the layer is read. Of a map [n, height, width, channels]
            "center" (the default), (row, column), or "mean" over all places; of tokens
            or steps [n, places, channels] "mean" (the default), an index, or "center";
            of more axes "center" (the default), an index for each, or "mean". In
            transformers place 0 is often the class token.
        activation: "pre" or "post": before or after the layer's own activation.
        posterior: True for f = log p(class | x) <= 0, by the network's softmax or
            sigmoid (of one output: of the label 1), by a softmax of its logits, or by
            the calibrated output of a `GenerativeClassifier`.
        posterior_weight: a number a for f = logit + a log p(class | x): the logit alone
            may rise with those of other classes.
        preprocess: function of the images, of TensorFlow or keras.ops operations, from
            the unit's pixels, as float32, to what the network takes.
        fixed_inputs: {name: array} for all inputs but the images, without batch axis.
        input_shape: shape of one image, where it is not that of the network's input: if
            `preprocess` changes it, or the network takes any size.
        resize: (height, width) that images are brought to before `preprocess`. The
            layers then run on that size, whichever the network was built for, if they
            can. The mean of a class over several sizes, sum(units) / len(units), asks
            for the class at a coarse and at a fine scale.

    Returns:
        unit: `Unit`, images [n, height, width, channels] -> float32 [n], nats.

    Raises:
        ValueError: an unknown layer, channel, class, position or input (the error lists
            what exists); channels first; a network without a graph of layers that is
            not built; outputs that are probabilities and whose logits are out of reach;
            a layer with an activation and a `call` of its own, before the activation.

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
        >>> (unit(network, class_index=3) - 2 * unit(network, class_index=5)).name
        'class 3 - 2 class 5'
        >>> f = unit(network, class_index=3, posterior=True)  # at most 0
        >>> f = unit(network, "conv1", direction=np.ones(20), position="mean")

    Source: Dai, Lu and Wu 2015, sections 2 and 4.
    """
    model, network = network, graph.network_of(network)
    _check_one_choice(layer_channel, class_index)
    inputs = checked_inputs(network, preprocess, fixed_inputs, input_shape, resize)
    if class_index is not None:
        _check_class_options(position, activation, direction)
        weight = _checked_posterior_weight(posterior, posterior_weight)
        features, classes = class_features(model, inputs, posterior, weight)
        weights = _one_hot(_check_class_index(class_index, classes), classes)
    else:
        _check_layer_options(activation, posterior or posterior_weight)
        name, channel = _layer_and_channel(network, layer_channel, direction)
        features, channels = layer_features(inputs, name, position, activation)
        weights = _weights(name, channel, direction, channels)
    return unit_of([(features, weights)])


def _weights(name, channel, direction, channels):
    """Return weights [channels] float64 of a direction, or of one channel."""
    if direction is None:
        return _one_hot(_check_channel(name, channel, channels), channels)
    weights = as_array("direction", direction)
    if weights.shape != (channels,) or not np.all(np.isfinite(weights)):
        raise ValueError(
            f"Expected `direction` to hold {channels} finite weights, one for each "
            f"channel of {name!r}. Received: {direction!r}. Pass [channels] numbers."
        )
    return weights


def _one_hot(index, count):
    return np.eye(1, count, index)[0]


# Checks


def _check_one_choice(layer_channel, class_index):
    if (layer_channel is None) == (class_index is None):
        raise ValueError(
            "Expected either `layer_channel` or `class_index`. Received: "
            f"{layer_channel!r} and {class_index!r}. "
            "Pass unit(network, 'conv5:12') or unit(network, class_index=3)."
        )


def _check_class_options(position, activation, direction):
    if position is not None and not np.array_equal(position, "center"):
        raise ValueError(
            "Expected no `position` for a class logit, which has no map. "
            f"Received: {position!r}. Leave it out."
        )
    if activation != "pre" or direction is not None:
        raise ValueError(
            "Expected no `activation` and no `direction` for a class. Received: "
            f"{activation!r} and {direction!r}. For log p(class | x) pass "
            "posterior=True; add units for a direction."
        )


def _checked_posterior_weight(posterior, weight):
    weight = as_number("posterior_weight", weight)
    if not math.isfinite(weight) or (posterior and weight):
        raise ValueError(
            "Expected `posterior_weight` to be a finite number, without `posterior`. "
            f"Received: {weight!r}, posterior={posterior!r}. Scale the tilt for the "
            "log posterior alone."
        )
    return weight


def _check_layer_options(activation, posterior):
    if activation not in ("pre", "post"):
        raise ValueError(
            "Expected `activation` to be 'pre' or 'post', before or after the layer's "
            f"own. Received: {activation!r}. Leave it out for 'pre'."
        )
    if posterior:
        raise ValueError(
            "Expected no `posterior` for a channel of a layer. Received: "
            f"{posterior!r}. Name a class, kt.unit(network, class_index=3, "
            "posterior=True)."
        )


def _check_class_index(class_index, classes):
    index = integer(class_index)
    if index is None or not 0 <= index < classes:
        raise ValueError(
            f"Expected `class_index` to lie in 0..{classes - 1}. "
            f"Received: {class_index!r}. The network has {classes} classes."
        )
    return index


def _layer_and_channel(network, layer_channel, direction):
    """Return (layer, channel) of "layer:channel"; no channel with a direction."""
    if direction is not None:
        return str(layer_channel), None
    name, colon, channel = str(layer_channel).rpartition(":")
    if not colon or integer(channel) is None:
        raise ValueError(
            "Expected `layer_channel` to read 'layer:channel'. Received: "
            f"{layer_channel!r}. Write for example 'conv5:12', or 'conv5' with a "
            f"`direction`. {graph.listing(network)}"
        )
    return name, integer(channel)


def _check_channel(name, channel, channels):
    if not 0 <= channel < channels:
        raise ValueError(
            f"Expected the channel of {name!r} to lie in 0..{channels - 1}. "
            f"Received: {channel}. The layer has {channels} channels."
        )
    return channel
