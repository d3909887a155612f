"""The two gradients of one logits matrix: softmax over classes, softmax over images.

    generative      L_G = -(1/n) sum_i [F[i, y_i] - logsumexp_j F[j, y_i]]
    discriminative  L_D = -(1/n) sum_i [F[i, y_i] - logsumexp_c F[i, c]]

F is the logits matrix [batch, classes]; a label of -1 marks an unlabelled image, which
contributes only to the normalizer. Under a `tf.distribute` strategy every sum runs over
the global batch; O(classes) numbers per replica are gathered across replicas.

Source: Dai, Lu, Wu, "Generative Modeling of Convolutional Neural Networks", ICLR 2015,
section 3 (generative gradient by importance sampling within the batch).
"""

__all__ = [
    "ColumnStatistics",
    "column_statistics",
    "discriminative_loss",
    "generative_loss",
    "loss_per_image",
    "mixed_loss",
]

import typing

import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tilt.training.batch_checks import checked_arguments, with_valid_labels


class ColumnStatistics(typing.NamedTuple):
    """The softmax down each column of F, over the images of the global batch.

    Attributes:
        importance_weights: `[batch, classes]` W[j, c] = exp(F[j, c] - log_sum[c]), of
            this replica's images; a column sums to 1 over the global batch.
        log_sum: `[classes]` nats, logsumexp_j F[j, c].
        square_sum: `[classes]` sum_j W[j, c]^2, the inverse of the Kish ESS.
        mass: `[classes]` sum of the sample weights of the images labelled c, or N_c,
            their number, where no sample weights are given.
        excess: `[]` nats, sum over labelled images i of w_i (log_sum[y_i] - F[i, y_i]).
        num_labelled: `[]` number of labelled images.
        num_images: `[]` number of images, unlabelled ones included.
    """

    importance_weights: tf.Tensor
    log_sum: tf.Tensor
    square_sum: tf.Tensor
    mass: tf.Tensor
    excess: tf.Tensor
    num_labelled: tf.Tensor
    num_images: tf.Tensor


def generative_loss(
    labels: ArrayLike,
    logits: ArrayLike,
    sample_weight: ArrayLike | None = None,
    statistics: ColumnStatistics | None = None,
) -> tf.Tensor:
    """Return minus the mean log importance weight of an image under its own class.

        L_G = -(1/n) sum_i w_i [F[i, y_i] - logsumexp_j F[j, y_i]]
        dL_G/dF[j, c] = (1/n) (N_c W[j, c] - w_j 1[y_j = c]),   W = softmax_j(F[:, c])

    With w the mean of the w_i, `L_G - w log(number of images)` estimates the mean of
    -w_i log p_y(x)/q(x) in nats and is comparable across batch sizes. At zero logits
    L_G = w log(number of images); its minimum is (1/n) sum_c N_c log N_c. The gradient
    is given in closed form, so the backward pass holds one `[batch, classes]` matrix
    and needs no communication.

    In a replica context every replica returns the value of the global batch and the
    gradient of its own share: summed over replicas it is exact.

    Args:
        labels: `[batch]` or `[batch, 1]` integers of any type, in [-1, classes);
            -1 = unlabelled. Or one-hot rows `[batch, classes]`.
        logits: `[batch, classes]` float, F in nats.
        sample_weight: optional `[batch]` weights w_i, finite and not negative, of the
            terms of the sum over i; the normalizers are not weighted.
        statistics: optional result of `column_statistics` for the same arguments.

    Returns:
        loss: `[]` float32 nats, mean over the labelled images of the global batch.

    Raises:
        TypeError: float labels or integer logits.
        ValueError: wrong ranks or lengths, or a batch of a single image, whose
            generative gradient is zero.
        tf.errors.InvalidArgumentError: labels outside [-1, classes), rows that are not
            one-hot, or a weight that is negative or not finite.

    Example:
        >>> float(generative_loss([0, 1], tf.zeros([2, 3])))  # log 2
        0.6931...

    Source: Dai, Lu, Wu 2015, section 3.
    """
    labels, logits, sample_weight = checked_arguments(labels, logits, sample_weight)
    if statistics is None:
        _require_several_images(logits)
        statistics = column_statistics(labels, logits, sample_weight)
    statistics = ColumnStatistics(*map(tf.stop_gradient, statistics))

    @tf.custom_gradient
    def loss(logits):
        def gradient(upstream):
            expected = statistics.mass * statistics.importance_weights
            own = _own_class(labels, logits, sample_weight)
            scale = tf.math.divide_no_nan(upstream, statistics.num_labelled)
            return tf.cast(scale * (expected - own), logits.dtype)

        value = tf.math.divide_no_nan(statistics.excess, statistics.num_labelled)
        return value, gradient

    return loss(logits)


def discriminative_loss(
    labels: ArrayLike, logits: ArrayLike, sample_weight: ArrayLike | None = None
) -> tf.Tensor:
    """Return the cross-entropy of the softmax over classes.

        L_D = -(1/n) sum_i w_i [F[i, y_i] - logsumexp_c F[i, c]]

    The sum is over the labelled images; unlabelled ones (label -1) contribute nothing.
    In a replica context every replica returns the value of the global batch and the
    gradient of its own share: summed over replicas it is exact.

    Args:
        labels: as in `generative_loss`.
        logits: `[batch, classes]` float, nats.
        sample_weight: optional `[batch]` weights w_i, finite and not negative.

    Returns:
        loss: `[]` float32 nats, mean over the labelled images of the global batch.

    Raises:
        TypeError, ValueError, tf.errors.InvalidArgumentError: as in `generative_loss`,
            but a single image is allowed.

    Example:
        >>> float(discriminative_loss([0, 1], tf.zeros([2, 3])))  # log 3
        1.0986...
    """
    labels, logits, sample_weight = checked_arguments(labels, logits, sample_weight)
    logits = with_valid_labels(labels, logits)
    cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(
        tf.maximum(labels, 0), tf.cast(logits, tf.float32)
    )
    labelled = tf.cast(tf.greater_equal(labels, 0), tf.float32)
    weight = labelled if sample_weight is None else labelled * sample_weight
    local_sum = tf.reduce_sum(weight * cross_entropy)
    local_count = tf.reduce_sum(labelled)
    if _num_replicas() == 1:
        return tf.math.divide_no_nan(local_sum, local_count)
    sums = _gather(tf.stop_gradient(tf.stack([local_sum, local_count])))
    total, count = tf.unstack(tf.reduce_sum(sums, axis=0))
    share = tf.math.divide_no_nan(local_sum, count)
    value = tf.math.divide_no_nan(total, count)
    return share + tf.stop_gradient(value - share)


def mixed_loss(
    labels: ArrayLike,
    logits: ArrayLike,
    generative_weight: float | tf.Tensor,
    sample_weight: ArrayLike | None = None,
    statistics: ColumnStatistics | None = None,
) -> tf.Tensor:
    """Return a mix of both losses of the same logits.

        L = (1 - a) L_D + a L_G

    Args:
        labels: as in `generative_loss`.
        logits: `[batch, classes]` float, nats.
        generative_weight: a, in [0, 1]; of the numbers 0 and 1 only the one loss is
            computed, of a tensor `[]` always both, and its range is not checked.
        sample_weight: optional `[batch]` weights of the images in both losses.
        statistics: optional result of `column_statistics` for the same arguments.

    Returns:
        loss: `[]` float32 nats.

    Raises:
        ValueError: a outside [0, 1], and as in `generative_loss`.
    """
    varies = tf.is_tensor(generative_weight)
    if not varies and not 0.0 <= generative_weight <= 1.0:
        raise ValueError(
            "`generative_weight` must be a number in [0, 1]. "
            f"Received: {generative_weight}. "
            "0 is the discriminative loss, 1 the generative one."
        )
    if not varies and generative_weight == 0.0:
        return discriminative_loss(labels, logits, sample_weight)
    generative = generative_loss(labels, logits, sample_weight, statistics)
    if not varies and generative_weight == 1.0:
        return generative
    discriminative = discriminative_loss(labels, logits, sample_weight)
    return (1.0 - generative_weight) * discriminative + generative_weight * generative


def loss_per_image(
    labels: ArrayLike,
    logits: ArrayLike,
    generative_weight: float | tf.Tensor,
    sample_weight: ArrayLike | None = None,
    statistics: ColumnStatistics | None = None,
    normalizers: ColumnStatistics | None = None,
) -> tf.Tensor:
    """Return the mixed loss, with its generative part comparable across batch sizes.

    L - a w log(number of images),    w the mean of the w_i

    The generative part then estimates the mean of -w_i log p_y(x)/q(x).

    Args:
        labels: as in `generative_loss`.
        logits: `[batch, classes]` float, nats.
        generative_weight: a, in [0, 1], as in `mixed_loss`.
        sample_weight: optional `[batch]` weights of the images in both losses.
        statistics: `ColumnStatistics` of the batch; None if a = 0.
        normalizers: `ColumnStatistics` that the loss is to use, of the batch alone or
            pooled with past ones; None if a = 0.

    Returns:
        loss: `[]` float32 nats.
    """
    loss = mixed_loss(labels, logits, generative_weight, sample_weight, normalizers)
    if statistics is None:
        return loss
    mass = tf.reduce_sum(statistics.mass)
    mean_weight = tf.math.divide_no_nan(mass, statistics.num_labelled)
    return loss - generative_weight * mean_weight * tf.math.log(statistics.num_images)


def column_statistics(
    labels: ArrayLike, logits: ArrayLike, sample_weight: ArrayLike | None = None
) -> ColumnStatistics:
    """Return what the softmax over the images of the global batch needs of each class.

    log_column_sum[c] = logsumexp over replicas of logsumexp_j F_local[j, c]

    One vector of 3 classes + 3 numbers per replica is gathered across replicas; an
    empty replica contributes -inf to the log sums and 0 to the rest.

    Args:
        labels: as in `generative_loss`.
        logits: `[batch, classes]` float, nats; this replica's images.
        sample_weight: optional `[batch]` weights of the labelled images.

    Returns:
        statistics: `ColumnStatistics` of the global batch.
    """
    labels, logits, sample_weight = checked_arguments(labels, logits, sample_weight)
    logits = tf.cast(with_valid_labels(labels, logits), tf.float32)
    largest = tf.reduce_max(logits, axis=0)
    shifted = logits - largest
    exponentials = tf.exp(shifted)
    column_sum = tf.reduce_sum(exponentials, axis=0)
    log_column_sum = tf.math.log(column_sum)
    importance_weights = exponentials / column_sum
    own = _own_class(labels, logits, sample_weight)
    local = ColumnStatistics(
        importance_weights=importance_weights,
        log_sum=largest + log_column_sum,
        square_sum=tf.reduce_sum(tf.square(importance_weights), axis=0),
        mass=tf.reduce_sum(own, axis=0),
        excess=tf.reduce_sum(tf.math.multiply_no_nan(log_column_sum - shifted, own)),
        num_labelled=tf.reduce_sum(tf.cast(tf.greater_equal(labels, 0), tf.float32)),
        num_images=tf.cast(tf.size(labels), tf.float32),
    )
    return local if _num_replicas() == 1 else _merged(local)


def _merged(local):
    """Merge the statistics of all replicas into those of the global batch.

    The excess over the global sum is the excess over the local sum plus mass times
    (global - local log sum): differences of numbers of like size, so that no precision
    is lost for large logits.
    """
    numbers = tf.stack([local.excess, local.num_labelled, local.num_images])
    flat = tf.concat([local.log_sum, local.square_sum, local.mass, numbers], axis=0)
    num_classes = local.mass.shape[0]
    gathered = _gather(flat)  # [replicas, 3 classes + 3]
    columns, numbers = tf.split(gathered, [3 * num_classes, 3], axis=1)
    log_sums, square_sums, masses = tf.split(columns, 3, axis=1)
    excess, num_labelled, num_images = tf.unstack(tf.reduce_sum(numbers, axis=0))
    log_sum = tf.reduce_logsumexp(log_sums, axis=0)
    shares = tf.exp(log_sums - log_sum)
    shifts = tf.math.multiply_no_nan(log_sum - log_sums, masses)
    return ColumnStatistics(
        importance_weights=local.importance_weights * tf.exp(local.log_sum - log_sum),
        log_sum=log_sum,
        square_sum=tf.reduce_sum(tf.square(shares) * square_sums, axis=0),
        mass=tf.reduce_sum(masses, axis=0),
        excess=excess + tf.reduce_sum(shifts),
        num_labelled=num_labelled,
        num_images=num_images,
    )


def _num_replicas():
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def _gather(vector):
    """Return the vectors of all replicas, `[replicas, length]`."""
    context = tf.distribute.get_replica_context()
    gathered = context.all_gather(vector[tf.newaxis], axis=0)
    return tf.ensure_shape(gathered, [context.num_replicas_in_sync, *vector.shape])


def _own_class(labels, logits, sample_weight):
    """Return w_j 1[y_j = c], `[batch, classes]`; 0 for unlabelled images."""
    own = tf.one_hot(labels, logits.shape[1], dtype=tf.float32)
    return own if sample_weight is None else own * sample_weight[:, tf.newaxis]


def _require_several_images(logits):
    if logits.shape[0] == 1 and _num_replicas() == 1:
        raise ValueError(
            "The generative loss needs a batch of at least two images: with one image "
            "the softmax over images is 1 and the gradient zero. Received: logits "
            f"{logits.shape}. Use a larger batch."
        )
