"""Logits F of a network, and log p(y | x) that its output activation makes of them.

    log softmax(F)_y = F_y - logsumexp F,     log sigmoid(F)_y = -log(1 + exp(-F_y))

F is read by leaving out the output activation, as `output_activations` finds it.
"""

__all__ = ["log_of", "log_probabilities", "logits"]

from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

from keras_tilt.networks import graph, layer_views, output_activations

_LOG_PROBABILITIES = {
    "softmax": tf.nn.log_softmax,
    "log_softmax": tf.nn.log_softmax,
    "sigmoid": tf.math.log_sigmoid,
    "log_sigmoid": tf.math.log_sigmoid,
}


def logits(
    network: keras.Model,
    feeds: Mapping[str, tf.Tensor],
    after: Callable[[tf.Tensor], tf.Tensor] | None = None,
) -> tf.Tensor:
    """Return the logits [n, classes], the output without its output activation.

    A separate softmax or sigmoid is left out, a fused one made linear; what reshapes
    its result is kept. A model without a graph has none to leave out.

    Args:
        network: functional, Sequential or subclassed `keras.Model` with one output.
        feeds: as in `inner_values.layer_values`.
        after: None, or a function of the logits, to stand where the activation was.
    """
    finish = after or tf.identity
    last, _ = output_activations.output_activation(network)
    if last is None:
        return finish(graph.output_values(network, feeds))

    def finished(inputs):
        fused = layer_views.has_fused_activation(last.operation)
        linear = layer_views.linear(last.operation)
        return finish(graph.call(last, inputs, linear) if fused else inputs[0])

    key = graph.output_key(network)
    return graph.run(graph.steps(network), feeds, key, instead={last.outputs: finished})


def log_probabilities(activation: str, values: tf.Tensor) -> tf.Tensor:
    """Return log p(y | x) <= 0 of logits, by the output activation.

    Args:
        activation: "softmax", "sigmoid", ..., as `output_activation` names it.
        values: logits F, [n, classes], nats.

    Returns:
        log_p: float32 [n, classes], nats.
    """
    values = tf.cast(values, tf.float32)
    if activation in _LOG_PROBABILITIES:
        return _LOG_PROBABILITIES[activation](values)
    return log_of(output_activations.probabilities(activation, values))


def log_of(values: tf.Tensor) -> tf.Tensor:
    """Return log p, at least -87.3, the logarithm of the smallest normal float32."""
    return tf.math.log(tf.maximum(values, np.finfo(np.float32).tiny))
