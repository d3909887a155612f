"""The two gradients of one logits matrix: softmax over classes, softmax over images.

    generative      L_G = -(1/n) sum_i [F[i, y_i] - logsumexp_j F[j, y_i]]
    discriminative  L_D = -(1/n) sum_i [F[i, y_i] - logsumexp_c F[i, c]]

F is the logits matrix [batch, classes]; a label of -1 marks an unlabelled image, which
contributes only to the normalizer. Under a `tf.distribute` strategy every
sum runs over the global batch; O(classes) numbers per replica cross the wire.

Source: Dai, Lu, Wu, "Generative Modeling of Convolutional Neural Networks", ICLR 2015,
section 3 (generative gradient by importance sampling within the batch).
"""

import typing

import tensorflow as tf

from keras_tilt.validation import given

__all__ = [
    "ColumnStatistics",
    "class_numbers",
    "column_statistics",
    "discriminative_loss",
    "generative_loss",
    "mixed_loss",
]


class ColumnStatistics(typing.NamedTuple):
    """The softmax down each column of F, over the images of the global batch.

    Attributes:
        importance_weights: `[batch, classes]` W[j, c] = exp(F[j, c] - log_sum[c]), of
            this replica's images; a column sums to 1 over the global batch.
        log_sum: `[classes]` nats, logsumexp_j F[j, c].
        square_sum: `[classes]` sum_j W[j, c]^2, the inverse of the Kish ESS.
        mass: `[classes]` sum of the sample weights of the images labelled c;
            N_c, their number, where no sample weights are given.
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


def generative_loss(labels, logits, sample_weight=None, statistics=None):
    """Minus the mean log importance weight of each image under its own class.

    L_G = -(1/n) sum_i w_i [F[i, y_i] - logsumexp_j F[j, y_i]]
    dL_G/dF[j, c] = (1/n) (N_c W[j, c] - w_j 1[y_j = c]),   W = softmax_j(F[:, c])

    With w the mean of the w_i, `L_G - w log(number of images)` estimates the mean of
    -w_i log p_y(x)/q(x) in nats and is comparable across batch sizes. At zero logits
    L_G = w log(number of images); its minimum is (1/n) sum_c N_c log N_c. The gradient
    is given in closed form, so the backward pass holds one `[batch, classes]` matrix
    and communicates nothing.

    Inside a replica context the value is that of the global batch on every replica,
    and the gradient is this replica's share: summed over replicas it is exact.

    Args:
        labels: `[batch]` or `[batch, 1]` integers of any type, in [-1, classes);
            -1 = unlabelled. Or one-hot rows `[batch, classes]`.
        logits: `[batch, classes]` float, F in nats.
        sample_weight: optional `[batch]` factors w_i of the numerators, finite and not
            negative.
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
    labels, logits, sample_weight = _checked(labels, logits, sample_weight)
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


def discriminative_loss(labels, logits, sample_weight=None):
    """Cross-entropy of the softmax over classes, mean over the labelled images.

    L_D = -(1/n) sum_i w_i [F[i, y_i] - logsumexp_c F[i, c]]

    Unlabelled images (label -1) contribute nothing. Inside a replica context the value
    is that of the global batch on every replica and the gradient is this replica's
    share: summed over replicas it is exact.

    Args:
        labels: as `generative_loss`.
        logits: `[batch, classes]` float, nats.
        sample_weight: optional `[batch]` factors w_i, finite and not negative.

    Returns:
        loss: `[]` float32 nats.

    Raises:
        TypeError, ValueError, tf.errors.InvalidArgumentError: as `generative_loss`,
            but a single image is allowed.

    Example:
        >>> float(discriminative_loss([0, 1], tf.zeros([2, 3])))  # log 3
        1.0986...
    """
    labels, logits, sample_weight = _checked(labels, logits, sample_weight)
    logits = _given_valid_labels(labels, logits)
    cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(
        tf.maximum(labels, 0), tf.cast(logits, tf.float32)
    )
    labelled = tf.cast(labels >= 0, tf.float32)
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


def mixed_loss(labels, logits, generative_weight, sample_weight=None, statistics=None):
    """(1 - a) discriminative + a generative, on the same logits.

    Args:
        labels: as `generative_loss`.
        logits: `[batch, classes]` float, nats.
        generative_weight: a, in [0, 1]; the pure losses are computed alone.
        sample_weight: optional `[batch]` factors of both numerators.
        statistics: optional result of `column_statistics` for the same arguments.

    Returns:
        loss: `[]` float32 nats.

    Raises:
        ValueError: a outside [0, 1], and as `generative_loss`.
    """
    if not 0.0 <= generative_weight <= 1.0:
        raise ValueError(
            "`generative_weight` must be a number in [0, 1]. "
            f"Received: {generative_weight}. "
            "0 is the discriminative loss, 1 the generative one."
        )
    if generative_weight == 0.0:
        return discriminative_loss(labels, logits, sample_weight)
    generative = generative_loss(labels, logits, sample_weight, statistics)
    if generative_weight == 1.0:
        return generative
    discriminative = discriminative_loss(labels, logits, sample_weight)
    return (1.0 - generative_weight) * discriminative + generative_weight * generative


def column_statistics(labels, logits, sample_weight=None):
    """Per class, what the softmax over the images of the global batch needs.

    log_column_sum[c] = logsumexp over replicas of logsumexp_j F_local[j, c]

    One vector of 3 classes + 3 numbers per replica is gathered; an empty replica
    contributes -inf to the log sums and 0 to the rest.

    Args:
        labels: as `generative_loss`.
        logits: `[batch, classes]` float, nats; this replica's rows.
        sample_weight: optional `[batch]` factors of the numerators.

    Returns:
        statistics: `ColumnStatistics` of the global batch.
    """
    labels, logits, sample_weight = _checked(labels, logits, sample_weight)
    logits = tf.cast(_given_valid_labels(labels, logits), tf.float32)
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
        num_labelled=tf.reduce_sum(tf.cast(labels >= 0, tf.float32)),
        num_images=tf.cast(tf.size(labels), tf.float32),
    )
    return local if _num_replicas() == 1 else _merged(local)


def _merged(local):
    """Joins the statistics of all replicas into those of the global batch.

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
    """The vectors of all replicas, [replicas, length]."""
    context = tf.distribute.get_replica_context()
    gathered = context.all_gather(vector[tf.newaxis], axis=0)
    return tf.ensure_shape(gathered, [context.num_replicas_in_sync, *vector.shape])


def _own_class(labels, logits, sample_weight):
    """w_j 1[y_j = c], [batch, classes]; rows of unlabelled images are zero."""
    own = tf.one_hot(labels, logits.shape[1], dtype=tf.float32)
    return own if sample_weight is None else own * sample_weight[:, tf.newaxis]


def class_numbers(labels, num_classes):
    """Labels in every form that training takes, as int32 `[batch]`.

    Args:
        labels: integers of any type, `[batch]` or a column `[batch, 1]`, or one-hot
            rows `[batch, num_classes]`, of any type.
        num_classes: number of logits.

    Returns:
        labels: int32 `[batch]`. A number beyond int32 becomes the one closest to it,
            which is no class.

    Raises:
        TypeError: labels that are no integers and no rows.
        ValueError: other shapes.
        tf.errors.InvalidArgumentError: rows that are not one-hot.
    """
    labels = tf.convert_to_tensor(labels)
    shape = labels.shape
    if shape.rank == 2 and shape[1] == num_classes and labels.dtype != tf.string:
        return _from_one_hot(labels)
    if not labels.dtype.is_integer:
        raise TypeError(
            "`labels` must be integers, a class index each or -1 for unlabelled. "
            f"Received: dtype {labels.dtype.name}. Class names become indices by "
            "`np.unique(labels, return_inverse=True)[1]`, floats by "
            "`labels.astype('int32')`."
        )
    if shape.rank == 2 and shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape.rank != 1:
        raise ValueError(
            "`labels` must have shape [batch], one class index per row of `logits`, or "
            f"be one-hot rows, [batch, {num_classes}]. Received: labels {shape}. "
            "One-hot rows of other classes become indices by `argmax(axis=-1)`."
        )
    return _as_int32(labels)


def _from_one_hot(rows):
    """The places of the ones; a row is one-hot if its largest entry is all of it."""
    rows = tf.cast(rows, tf.float32)
    largest = tf.reduce_max(rows, axis=1)
    total = tf.reduce_sum(tf.abs(rows), axis=1)
    return given(
        tf.argmax(rows, axis=1, output_type=tf.int32),
        tf.reduce_all((largest == 1.0) & (total == 1.0)),
        "`labels` of shape [batch, classes] must be one-hot, a single 1 in each row. "
        "Received: rows that sum to",
        tf.reduce_min(total),
        "to",
        tf.reduce_max(total),
        "with largest entries",
        tf.reduce_min(largest),
        "to",
        tf.reduce_max(largest),
        ". Shares of several classes do not apply; unlabelled images are marked by -1 "
        "among class indices, `argmax(axis=-1)`.",
    )


def _as_int32(labels):
    if labels.dtype in (tf.uint32, tf.uint64):
        wide = tf.cast(labels, tf.int64)
        labels = tf.where(wide < 0, tf.int64.max, wide)
    return tf.saturate_cast(labels, tf.int32)


def _checked(labels, logits, sample_weight):
    logits = tf.convert_to_tensor(logits)
    if not logits.dtype.is_floating:
        raise TypeError(
            "`logits` must be floating point. "
            f"Received: dtype {logits.dtype.name}. Pass the network's float outputs."
        )
    if logits.shape.rank != 2 or logits.shape[1] is None:
        raise ValueError(
            "`logits` must have shape [batch, classes]. "
            f"Received: {logits.shape}. Flatten maps or pool them first."
        )
    labels = class_numbers(labels, logits.shape[1])
    if not labels.shape.is_compatible_with(logits.shape[:1]):
        raise ValueError(
            "`labels` must have shape [batch], one class index per row of `logits`. "
            f"Received: labels {labels.shape}, logits {logits.shape}. "
            "Pass both of the same images."
        )
    return labels, logits, _checked_weight(sample_weight)


def _checked_weight(sample_weight):
    """float32 `[batch]`, known to be finite and not negative; or None."""
    if sample_weight is None:
        return None
    sample_weight = tf.cast(sample_weight, tf.float32)
    if sample_weight.shape.rank == 2 and sample_weight.shape[1] == 1:
        sample_weight = sample_weight[:, 0]
    if sample_weight.shape.rank != 1:
        raise ValueError(
            "`sample_weight` must have shape [batch], one factor per image. "
            f"Received: {sample_weight.shape}. Weights per pixel or class do not apply."
        )
    valid = tf.math.is_finite(sample_weight) & (sample_weight >= 0.0)
    bad = tf.where(~valid)[:1, 0]  # the first, if there is one
    return given(
        sample_weight,
        tf.reduce_all(valid),
        "`sample_weight` must be finite and not negative. Received:",
        tf.gather(sample_weight, bad),
        "of image",
        bad,
        "of the batch. Look where weights of samples or classes come from.",
    )


def _given_valid_labels(labels, logits):
    """The logits, once the labels are known to lie in [-1, classes)."""
    classes = logits.shape[1]
    lowest, highest = tf.reduce_min(labels), tf.reduce_max(labels)
    return given(
        logits,
        (lowest >= -1) & (highest < classes),
        f"`labels` must lie in [-1, {classes}), of which -1 marks an unlabelled image. "
        "Received: labels from",
        lowest,
        "to",
        highest,
        f". Number the classes from 0, and as many as the network has outputs, "
        f"{classes}.",
    )


def _require_several_images(logits):
    if logits.shape[0] == 1 and _num_replicas() == 1:
        raise ValueError(
            "The generative loss needs a batch of at least two images: with one image "
            "the softmax over images is 1 and the gradient zero. Received: logits "
            f"{logits.shape}. Use a larger batch."
        )
