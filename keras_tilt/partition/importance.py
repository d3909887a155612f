"""Importance sampling: from log weights to expectations, all in logs.

    E_p[g] ~= sum_j W_j g(x_j),   W_j = exp(w_j) / sum_k exp(w_k),   x_j ~ q

with w_j = f(x_j) for a tilt of q. An excluded draw has log weight -inf.

Source: Dai, Lu and Wu (2015), the estimate behind the generative gradient; Kish (1965)
for the effective sample size.
"""

__all__ = [
    "expectation",
    "kish_ess",
    "normalized_log_weights",
    "normalized_weights",
    "pareto_k",
]

import math
import warnings

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tilt.sampling.verdict.estimates import import_arviz


def normalized_log_weights(log_weights: ArrayLike, axis: int = 0) -> tf.Tensor:
    """Return log weights that sum to one: w - logsumexp(w).

    NaN where every draw is excluded: there is nothing to average.

    Args:
        log_weights: log weights in nats, up to a constant along `axis`.
        axis: the axis that counts the draws.

    Returns:
        log_weights: the same shape, with exp summing to 1 along `axis`.
    """
    return tf.nn.log_softmax(_shifted(log_weights, axis), axis=axis)


def normalized_weights(log_weights: ArrayLike, axis: int = 0) -> tf.Tensor:
    """Return weights that sum to one: exp(w) / sum exp(w).

    Args:
        log_weights: log weights in nats, up to a constant along `axis`.
        axis: the axis that counts the draws.

    Returns:
        weights: the same shape, summing to 1 along `axis`.
    """
    return tf.exp(normalized_log_weights(log_weights, axis))


def expectation(log_weights: ArrayLike, values: ArrayLike, axis: int = 0) -> tf.Tensor:
    """Return the self-normalized estimate of E_p[values]: sum_j W_j values_j.

    Args:
        log_weights: log weights in nats, such as [draws] or [draws, classes].
        values: what is averaged; its leading axes are those of `log_weights`, more may
            follow. The value of an excluded draw is ignored.
        axis: the axis of `log_weights` that counts the draws.

    Returns:
        expectation: the shape of `values` without `axis`.

    Example:
        >>> expectation([0.0, 0.0, -float("inf")], [1.0, 3.0, float("nan")]).numpy()
        np.float32(2.0)
    """
    weights = normalized_weights(log_weights, axis)
    tensor = tf.convert_to_tensor(values, weights.dtype)
    missing = tensor.shape.rank - weights.shape.rank
    axis = axis % weights.shape.rank
    weights = tf.reshape(weights, tf.concat([tf.shape(weights), [1] * missing], axis=0))
    return tf.reduce_sum(tf.math.multiply_no_nan(tensor, weights), axis=axis)


def kish_ess(log_weights: ArrayLike, axis: int = 0) -> tf.Tensor:
    """Return the effective sample size (sum_j exp w_j)^2 / sum_j exp(2 w_j).

    It is n for n equal weights, 1 when one draw outweighs all others, 0 when every draw
    is excluded. For chains of correlated draws see the `ess` of the diagnostics.

    Args:
        log_weights: log weights in nats, up to a constant along `axis`.
        axis: the axis that counts the draws.

    Returns:
        ess: number of draws, the shape of `log_weights` without `axis`.

    Example:
        >>> kish_ess([7.0, 7.0, 7.0, -float("inf")]).numpy().round(3)
        np.float32(3.0)
    """
    shifted = _shifted(log_weights, axis)
    log_ess = 2.0 * tf.reduce_logsumexp(shifted, axis=axis)
    log_ess -= tf.reduce_logsumexp(2.0 * shifted, axis=axis)
    nobody = tf.reduce_all(tf.equal(shifted, -float("inf")), axis=axis)
    return tf.where(nobody, tf.zeros_like(log_ess), tf.exp(log_ess))


def pareto_k(log_weights: np.ndarray) -> float:
    """Return the shape k of the tail of weights: above 0.7 their mean is unreliable.

    Weights have as many moments as 1 / k. -inf for equal weights, NaN for weights that
    are not finite.

    Args:
        log_weights: [draws], nats.

    Source: Vehtari, Simpson, Gelman, Yao and Gabry (2024), "Pareto smoothed importance
    sampling", by ArviZ.
    """
    if not np.all(np.isfinite(log_weights)):
        return math.nan
    if np.ptp(log_weights) == 0:
        return -math.inf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of what the verdict says
        return float(import_arviz().psislw(np.array(log_weights))[1])


def _shifted(log_weights, axis):
    """Log weights with their largest at 0.

    A logsumexp near 1e4 has an ulp of 1e-3 in float32; near 0 it has one of 1e-7.
    """
    log_weights = tf.convert_to_tensor(log_weights)
    largest = tf.reduce_max(log_weights, axis=axis, keepdims=True)
    return log_weights - tf.where(
        tf.math.is_finite(largest), largest, tf.zeros_like(largest)
    )
