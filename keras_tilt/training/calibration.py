"""Calibration by Bayes' rule: from one pass over a data set, or from recent batches.

    b_y = log rho_y - log Z_y,    Z_y = mean_x exp F_y(x),    rho_y = share of class y

A generatively trained logit F_y is a log density up to a constant; b_y is the constant.
While a model trains, log means of N_y / n and of exp F_y are kept over its batches, and
give a bias at no cost; of calibrated outputs they are log rho_y both.

Source: Dai, Lu, Wu 2015, section 2 (the bias carries the normalizers).
"""

__all__ = [
    "Calibration",
    "ColumnSums",
    "bias_of_log_means",
    "calibration_of",
    "column_sums",
    "log_means_at_rest",
    "updated_log_means",
]

import typing

import numpy as np
import tensorflow as tf

from keras_tilt.training.batch_checks import finite_logits, plain_errors, unpacked
from keras_tilt.training.losses import column_statistics
from keras_tilt.validation import one_pass

_STEPS_OF_SHARES = 100  # over which the shares of classes are averaged
_IMAGES_PER_CLASS = 32  # over which Z is: weights move, and it with them
_NO_MASS = 1e-30  # keeps the logarithm of an absent class finite


class Calibration(typing.NamedTuple):
    """One pass over a data set, per class: b = log_prior - log_partition.

    Attributes:
        bias: `[classes]` nats, what the classifier adds to its logits.
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
        log_sum: `[classes]` nats, logsumexp of F.
        log_square_sum: `[classes]` nats, logsumexp of 2F.
        counts: `[classes]` number of images labelled so.
        num_images: number of images, unlabelled ones included.
    """

    log_sum: np.ndarray
    log_square_sum: np.ndarray
    counts: np.ndarray
    num_images: int


def column_sums(network, dataset, num_classes):
    """Run a network over a data set: `ColumnSums`."""

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
            sums = of_batch(images, labels, tf.constant(step))
            log_sum, square_sum, mass = map(np.float64, sums)
            log_square_sum = 2.0 * log_sum + np.log(square_sum)
            log_sums = np.logaddexp(log_sums, [log_sum, log_square_sum])
            counts, num_images = counts + mass, num_images + len(labels)
    if num_images == 0:
        raise ValueError(
            "`calibrate` needs a data set with at least one batch. Received: none. "
            "Pass the training images."
        )
    return ColumnSums(*log_sums, counts, num_images)


def calibration_of(sums, prior=None):
    """Return the `Calibration` that follows from `ColumnSums`.

    Args:
        sums: `ColumnSums`.
        prior: optional `[classes]` probabilities rho in place of the shares of labels.
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


def updated_log_means(log_means, statistics, step):
    """Average N_y / n and Z_y over batches: all so far, then the last of them.

    The shares of classes stay as they are, so that a hundred batches are averaged; Z is
    that of past weights, so that they are as few as are enough.

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


def bias_of_log_means(log_means):
    """`[classes]` nats: log rho - log Z of recent batches; 0 of calibrated outputs."""
    log_share, log_partition = tf.unstack(log_means)
    return tf.nn.log_softmax(log_share) - log_partition


def log_means_at_rest(log_prior, log_share=0.0):
    """`[2, classes]`: both means of outputs that are calibrated, exp(F_y + b_y).

    Args:
        log_prior: `[classes]`, log rho.
        log_share: log of the share of labelled images.
    """
    return np.stack([log_share + log_prior, log_prior])
