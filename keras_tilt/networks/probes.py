"""Noise that a step or a network is tried on, to tell from values what it computes.

    rows [n, ...]: two flat ones, and noise from small to saturating

Steps run outside of graphs that are being built, so that there are values to look at.
"""

__all__ = ["ANY_SIZE", "made_by_model", "made_by_step", "noise", "probe"]

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_tilt.networks import graph

# Rows that a step is tried on: two flat ones, and noise from small to saturating.
_FLAT = (0.0, 0.5)
_SCALES = (1.0, 1.0, 10.0, 10.0, 100.0, 100.0)
ANY_SIZE = 64  # of an axis that may have any size


def probe(shape: Sequence[int | None]) -> np.ndarray:
    """Return the rows that a step or network is tried on: float32 [rows, *shape].

    Two flat rows, and noise of several scales.

    Args:
        shape: of one row; None for an axis of any size.
    """
    return noise((None, *shape))


def noise(shape: Sequence[int | None]) -> np.ndarray:
    """Return such rows of a shape that has a batch axis: float32 [n, ...].

    Args:
        shape: of a batch; None for an axis of any size.
    """
    rows = len(_FLAT) + len(_SCALES)
    full = [size or ANY_SIZE for size in shape[1:]]
    normal = np.random.default_rng(0).normal(size=(len(_SCALES), *full))
    scales = np.reshape(_SCALES, [-1] + [1] * len(full))
    flat = [np.full(full, value) for value in _FLAT]
    values = np.concatenate([flat, scales * normal]).astype(np.float32)
    return np.resize(values, (shape[0] or rows, *full))


def made_by_step(
    step: graph.Step, inputs: Sequence[np.ndarray], training: bool = False
) -> tf.Tensor:
    """Return the output of a step for arrays, outside of all graphs."""
    with tf.init_scope():
        tensors = [tf.constant(value) for value in inputs]
        return tf.convert_to_tensor(graph.call(step, tensors, training=training))


def made_by_model(network: keras.Model) -> tf.Tensor:
    """Return the output of a model without a graph for noise of its input shapes."""
    with tf.init_scope():
        inputs = [tf.constant(noise(tensor.shape)) for tensor in network.inputs]
        return network(inputs if len(inputs) > 1 else inputs[0], training=False)
