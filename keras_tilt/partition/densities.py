"""Densities normalized by their partition functions, side by side.

    log p(x | y) = scale f_y(x) + log q(x) - log Z_y

Source: Dai, Lu and Wu (2015), section on the model.
"""

__all__ = ["generative_log_prob"]

from collections.abc import Sequence

import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tilt.partition.estimators import LogPartition, check_log_partitions


def generative_log_prob(
    log_partitions: Sequence[LogPartition], images: ArrayLike
) -> tf.Tensor:
    """Return log p(x | y) of images under the densities of several classes.

        log p(x | y) = scale f_y(x) + log q(x) - log Z_y

    Args:
        log_partitions: list of `LogPartition`, one for each class.
        images: [n, ...].

    Returns:
        log_prob: [n, classes], nats.

    Raises:
        TypeError: for anything but a list of `LogPartition`.
    """
    check_log_partitions("log_partitions", log_partitions)
    return tf.stack([one.log_prob(images) for one in log_partitions], axis=1)
