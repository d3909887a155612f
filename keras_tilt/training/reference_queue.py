"""More draws of q than the batch: a queue of the sums over past batches, per class.

    Z_c = mean exp F[j, c],    rho_c = mean 1[y_j = c]    over the batch and the queue
    dL_G/dF[j, c] = (1/n) (m rho_c W[j, c] - 1[y_j = c]),    W = exp(F) / (m Z)

with m images in the batch, n of them labelled. The generative gradient of an image
needs the other images only through sums, so that a past batch is three numbers per
class, whatever its size. Past logits are constants, computed with past weights.

Without a queue these are the formulas of `keras_tilt.training.losses`. With one, the
images of the batch remain the draws that estimate E_p[dF/dw], while Z and rho are
averaged over many more. If the queue counted among the draws of E_p, too, the negative
term would lose weight to images whose gradient is lost, and the positive one would not.
rho is averaged like Z, since a class is overrepresented in the very batches in which it
occurs.

Source: Liu and Abbeel, "Hybrid Discriminative-Generative Training via Contrastive
Learning", 2020, for queues (their past logits are in the denominator only).
"""

__all__ = ["ReferenceQueue", "pooled"]

import tensorflow as tf

from keras_tilt.training.losses import ColumnStatistics

_MOST_ROWS = 64


class ReferenceQueue:
    """Sums over past batches, the newest first; the oldest are dropped.

    A queue of more than 64 batches merges several into each of its 64 rows, so that its
    cost does not grow; the batches of the oldest row are dropped together.

    Args:
        num_batches: number of batches to keep; in a long queue to within one row.
        num_classes: number of logits.

    Attributes:
        rows: variable `[rows, 3 classes + 1]`: log_sum in nats, square_sum and mass of
            every class, as in `ColumnStatistics`; number of images. Rows not yet filled
            have no images.
        pushed: variable `[]`, number of batches so far. Both variables are part of the
            state of a training, not of the model.
    """

    def __init__(self, num_batches: int, num_classes: int):
        self.num_batches = num_batches
        self._batches_per_row = -(-num_batches // _MOST_ROWS)
        num_rows = -(-num_batches // self._batches_per_row)
        rows = tf.tile(_no_image(num_classes), [num_rows, 1])
        self.rows = _variable(rows, "reference_queue")
        self.pushed = _variable(tf.constant(0, tf.int64), "batches_pushed")

    @property
    def variables(self) -> list[tf.Variable]:
        """The state of the queue, [pushed, rows]."""
        return [self.pushed, self.rows]

    def push(self, statistics: ColumnStatistics) -> None:
        """Add a batch as the newest."""
        numbers = [statistics.log_sum, statistics.square_sum, statistics.mass]
        row = tf.concat([*numbers, [statistics.num_images]], axis=0)[tf.newaxis]
        rows = tf.convert_to_tensor(self.rows)
        new = tf.concat([row, rows[:-1]], axis=0)
        if self._batches_per_row > 1:
            begins = self.pushed % self._batches_per_row == 0
            joined = _joined(tf.concat([row, rows[:1]], axis=0))
            new = tf.where(begins, new, tf.concat([joined, rows[1:]], axis=0))
        self.rows.assign(new)
        self.pushed.assign(self.pushed + 1)

    def drift(self) -> tf.Tensor:
        """Return how stale the queue is, by the change of log Z within it.

        drift = log Z of its newer half - log Z of its older half

        Returns:
            drift: `[]` nats, mean over classes; 0 until both halves have images.
        """
        middle = self.rows.shape[0] // 2
        newer, older = map(_log_means, (self.rows[:middle], self.rows[middle:]))
        drift = tf.reduce_mean(newer - older)
        return tf.where(tf.math.is_finite(drift), drift, 0.0)


def pooled(statistics: ColumnStatistics, rows: tf.Tensor) -> ColumnStatistics:
    """Return the statistics of a batch with Z and rho of past batches and this one.

    Args:
        statistics: `ColumnStatistics` of the global batch.
        rows: `[rows, 3 classes + 1]`, of a `ReferenceQueue`.

    Returns:
        pooled: `ColumnStatistics` with

            log_sum: log(m Z_c), the log sum that a batch of m images has at this Z.
            importance_weights: exp(F - log_sum).
            mass: m rho_c.
            square_sum: the inverse of the Kish ESS of batch and queue together.
            excess: by the new log_sum.
            num_labelled, num_images: those of the batch.
    """
    log_sums, square_sums, masses, counts = _split(rows)
    num_images = statistics.num_images + tf.reduce_sum(counts)
    share = statistics.num_images / num_images
    past = tf.reduce_logsumexp(log_sums, axis=0) - statistics.log_sum
    added = tf.math.softplus(past)  # log of the sum over all / over the batch
    total = statistics.log_sum + added
    risen = added + tf.math.log(share)
    shift = tf.math.multiply_no_nan(risen, statistics.mass)
    past_square_sum = tf.exp(2.0 * (log_sums - total)) * square_sums
    return statistics._replace(
        importance_weights=statistics.importance_weights * tf.exp(-risen),
        log_sum=statistics.log_sum + risen,
        square_sum=tf.exp(-2.0 * added) * statistics.square_sum
        + tf.reduce_sum(past_square_sum, axis=0),
        mass=share * (statistics.mass + tf.reduce_sum(masses, axis=0)),
        excess=statistics.excess + tf.reduce_sum(shift),
    )


def _variable(value, name):
    return tf.Variable(
        value,
        trainable=False,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        name=name,
    )


def _joined(rows):
    """Return one row for all images of several."""
    log_sums, square_sums, masses, counts = _split(rows)
    log_sum = tf.reduce_logsumexp(log_sums, axis=0)
    square_sum = tf.reduce_sum(tf.exp(2.0 * (log_sums - log_sum)) * square_sums, axis=0)
    numbers = [log_sum, square_sum, tf.reduce_sum(masses, axis=0)]
    return tf.concat([*numbers, [tf.reduce_sum(counts)]], axis=0)[tf.newaxis]


def _no_image(num_classes):
    log_sum = tf.fill([1, num_classes], -float("inf"))
    return tf.concat([log_sum, tf.zeros([1, 2 * num_classes + 1])], axis=1)


def _split(rows):
    """Return log sums, square sums, masses `[rows, classes]` and counts `[rows]`."""
    num_classes = (rows.shape[1] - 1) // 3
    *columns, counts = tf.split(rows, [*3 * [num_classes], 1], axis=1)
    return *columns, counts[:, 0]


def _log_means(rows):
    log_sums, _, _, counts = _split(rows)
    return tf.reduce_logsumexp(log_sums, axis=0) - tf.math.log(tf.reduce_sum(counts))
