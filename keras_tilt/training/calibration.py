"""Calibration by Bayes' rule: from one pass over a data set, or from recent batches.

    b_y = log rho_y - log Z_y,    Z_y = mean_x exp F_y(x),    rho_y = share of class y

A generatively trained logit F_y is a log density up to a constant per class, which b_y
supplies. In training, means of N_y / n and of exp F_y over recent batches give a bias
without a pass; for calibrated outputs both are rho_y and the bias is 0.

Source: Dai, Lu, Wu 2015, section 2 (the bias carries the normalizers).
"""

__all__ = [
    "Calibration",
    "ColumnSums",
    "bias_of_log_means",
    "calibration_of",
    "column_sums",
    "log_means_at_rest",
    "shared_sums",
    "sum_of_passes",
    "updated_log_means",
]

import typing
from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tilt import workers
from keras_tilt.training.batch_checks import finite_logits, plain_errors, unpacked
from keras_tilt.training.losses import ColumnStatistics, column_statistics
from keras_tilt.validation import one_pass

_STEPS_OF_SHARES = 100  # over which the shares of classes are averaged
_IMAGES_PER_CLASS = 32  # over which Z is averaged: it changes with the weights
_NO_MASS = 1e-30  # keeps the logarithm of an absent class finite


class Calibration(typing.NamedTuple):
    """What one pass over a data set finds of each class.

        bias = log_prior - log_partition

    Attributes:
        bias: `[classes]` nats b, which the classifier adds to its logits.
        log_partition: `[classes]` nats, log Z_y = log mean_x exp F_y(x).
        log_prior: `[classes]` nats, log rho_y.
        kish_ess: `[classes]` effective number of images in each log Z_y.
        num_images: number of images in the pass.
    """

    bias: np.ndarray
    log_partition: np.ndarray
    log_prior: np.ndarray
    kish_ess: np.ndarray
    num_images: int


# One pass over a data set


class ColumnSums(typing.NamedTuple):
    """Sums over all images of a data set.

    Attributes:
        log_sum: `[classes]` nats, logsumexp of F_y.
        log_square_sum: `[classes]` nats, logsumexp of 2 F_y.
        counts: `[classes]` number of images labelled y.
        num_images: number of images, unlabelled ones included.
    """

    log_sum: np.ndarray
    log_square_sum: np.ndarray
    counts: np.ndarray
    num_images: int


def column_sums(
    network: Callable[..., tf.Tensor], dataset: Iterable, num_classes: int
) -> ColumnSums:
    """Return the sums of one pass of a network over a data set.

    Args:
        network: `keras.Model`, images to logits.
        dataset: `tf.data.Dataset` of batches (images, labels), that ends.
        num_classes: number of logits.

    Raises:
        ValueError: an endless data set, or logits not finite.
    """

    def of_batch(images, labels, step):
        logits = tf.cast(network(images, training=False), tf.float32)
        logits = finite_logits(images, logits, "calibration batch", step)
        statistics = column_statistics(labels, logits)
        return statistics.log_sum, statistics.square_sum, statistics.mass

    of_batch = tf.function(of_batch, reduce_retracing=True)
    log_sums = np.full([2, num_classes], -np.inf)
    counts, num_images = np.zeros(num_classes), 0
    with plain_errors():  # of the data set, too
        batches = one_pass("x", dataset, "calibrating")
        for step, batch in enumerate(batches):
            images, labels, _ = unpacked(batch, num_classes)
            if not len(labels):
                continue  # the part of a worker, which some kernels fail on
            sums = of_batch(images, labels, tf.constant(step))
            log_sum, square_sum, mass = map(np.float64, sums)
            log_square_sum = 2.0 * log_sum + np.log(square_sum)
            log_sums = np.logaddexp(log_sums, [log_sum, log_square_sum])
            counts, num_images = counts + mass, num_images + len(labels)
    log_sum, log_square_sum = log_sums
    return ColumnSums(log_sum, log_square_sum, counts, num_images)


def shared_sums(
    network: Callable[..., tf.Tensor],
    dataset: Iterable | Callable,
    num_classes: int,
    strategy: tf.distribute.Strategy,
) -> ColumnSums:
    """Return the sums of one pass, which several workers share if they can.

    A collective. If moving statistics differ between workers, their networks do; the
    sums are one.

    Args:
        network: as in `column_sums`.
        dataset: as in `column_sums`, read whole by each worker, of which the sums of
            the first are taken; or a function that returns it, of the
            `tf.distribute.InputContext` of a worker, its part alone, or of None.
        num_classes: number of logits.
        strategy: that of the model.

    Raises:
        ValueError: an empty or endless data set, or logits not finite.
    """
    shared = callable(dataset)
    images = dataset(workers.context_of(strategy)) if callable(dataset) else dataset
    *own, number = column_sums(network, images, num_classes)
    rows = np.stack([*own, np.full(num_classes, number)])
    found = workers.gathered(strategy, rows)
    parts = [ColumnSums(a, b, c, int(counts[0])) for a, b, c, counts in found]
    total = sum_of_passes(parts if shared else parts[:1])
    if total.num_images == 0:
        raise ValueError(
            "`calibrate` needs a data set with at least one batch. Received: none. "
            "Pass the training images."
        )
    return total


def sum_of_passes(parts: Iterable[ColumnSums]) -> ColumnSums:
    """Return the sums over the images of several passes of one network.

    Args:
        parts: `ColumnSums` of each.
    """
    log_sums, log_square_sums, counts, numbers = zip(*parts, strict=True)
    return ColumnSums(
        np.logaddexp.reduce(log_sums),
        np.logaddexp.reduce(log_square_sums),
        np.sum(counts, axis=0),
        int(np.sum(numbers)),
    )


def calibration_of(sums: ColumnSums, prior: ArrayLike | None = None) -> Calibration:
    """Return the calibration by the sums of a pass.

    log Z_y = log_sum_y - log(number of images)

    Args:
        sums: `ColumnSums`.
        prior: optional `[classes]` probabilities rho in place of the shares of labels.

    Raises:
        ValueError: a class without images and no `prior`, or a prior that is not
            positive.
    """
    log_partition = sums.log_sum - np.log(sums.num_images)
    log_prior = _log_prior(sums.counts, prior)
    return Calibration(
        bias=(log_prior - log_partition).astype(np.float32),
        log_partition=log_partition.astype(np.float32),
        log_prior=log_prior.astype(np.float32),
        kish_ess=np.exp(2.0 * sums.log_sum - sums.log_square_sum).astype(np.float32),
        num_images=sums.num_images,
    )


def _log_prior(counts, prior):
    if prior is None:
        if not (counts > 0).all():
            raise ValueError(
                "`calibrate` needs every class among the labels, or a `prior`. "
                f"Received: no image of class {np.flatnonzero(counts == 0).tolist()}. "
                "Pass more images, or the class probabilities as `prior`."
            )
        return np.log(counts) - np.log(counts.sum())
    prior = np.asarray(prior, np.float64)
    if prior.shape != counts.shape or not (prior > 0).all():
        raise ValueError(
            f"`prior` must be {len(counts)} positive class probabilities. "
            f"Received: {prior}. A uniform prior is `np.full(classes, 1 / classes)`."
        )
    return np.log(prior) - np.log(prior.sum())


# Recent batches


def updated_log_means(
    log_means: tf.Tensor, statistics: ColumnStatistics, step: tf.Tensor
) -> tf.Tensor:
    """Return the running means of N_y / n and Z_y with another batch.

    mean <- (1 - rate) mean + rate value

    Equal weights at first, then an exponential average. The shares of classes do not
    change in training, so that a hundred batches are averaged; Z does, with the
    weights, so that only as many are as give 32 images per class.

    Args:
        log_means: `[2, classes]`, log of both means before this batch.
        statistics: `ColumnStatistics` of the batch.
        step: `[]` number of batches before it.

    Returns:
        log_means: `[2, classes]`, with this batch.
    """
    least = 1.0 / _STEPS_OF_SHARES
    num_classes = statistics.mass.shape[0]
    share = statistics.num_images / (_IMAGES_PER_CLASS * num_classes)
    rates = tf.stack([least, tf.clip_by_value(share, least, 0.5)])[:, tf.newaxis]
    rate = tf.maximum(rates, 1.0 / tf.cast(step + 1, tf.float32))
    log_sums = [tf.math.log(statistics.mass + _NO_MASS), statistics.log_sum]
    new = tf.stack(log_sums) + tf.math.log(rate / statistics.num_images)
    old = log_means + tf.math.log1p(-rate)
    return new + tf.math.softplus(old - new)


def bias_of_log_means(log_means: tf.Tensor) -> tf.Tensor:
    """Return log rho - log Z of recent batches, `[classes]` nats.

    It is 0 for outputs that are calibrated.
    """
    log_share, log_partition = tf.unstack(log_means)
    return tf.nn.log_softmax(log_share) - log_partition


def log_means_at_rest(log_prior: np.ndarray, log_share: float = 0.0) -> np.ndarray:
    """Return the log means of N_y / n and Z_y for calibrated outputs, `[2, classes]`.

    N_y / n = share rho_y,    Z_y = E_q exp(F_y + b_y) = rho_y

    Args:
        log_prior: `[classes]`, log rho.
        log_share: log of the share of labelled images.
    """
    return np.stack([log_share + log_prior, log_prior])
