"""Checks of batches: their labels, sample weights, images and logits.

What can be told from shapes is an exception as a step is traced; what only values tell
is an assertion in the graph, which `plain_errors` turns into the same ValueError.
Labels of every form are class indices from here on.
"""

__all__ = [
    "SingleImages",
    "checked_arguments",
    "class_numbers",
    "finite_logits",
    "first_of",
    "loss_of_several",
    "plain_errors",
    "refuse_text",
    "step_of_several",
    "unpacked",
    "with_valid_labels",
]

import contextlib
import re
import warnings

import keras
import numpy as np
import tensorflow as tf

from keras_tilt.validation import given, sentence_of

_TOO_FEW = (
    "The generative objective needs at least two images in a batch: with one the "
    "softmax over images is 1 and the gradient zero. Received: 1 image. Use a larger "
    "batch size, or drop the remainder of the data set."
)


def refuse_text(labels, validation=None):
    """Keras itself only says that a dtype is invalid."""
    every = [labels, *validation[1:2]] if isinstance(validation, tuple) else [labels]
    if any(np.asarray(each).dtype.kind in "SU" for each in every):
        raise ValueError(
            "`y` must be class indices or one-hot rows. Received: text. Class names "
            "become indices by `np.unique(y, return_inverse=True)[1]`."
        )


def first_of(images):
    """The images, or the first of several inputs."""
    return keras.tree.flatten(images)[0]


def unpacked(data, num_classes):
    """Images, labels as int32 `[batch]`, and sample weights or None."""
    images, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    if labels is None:
        raise ValueError(
            "Training and evaluation need labels: a data set of (images, labels). "
            "Received: images only. Mark unlabelled images by the label -1."
        )
    return images, class_numbers(labels, num_classes), sample_weight


def finite_logits(images, logits, where, index=-1):
    """The logits, once images and logits are known to be finite.

    XLA has no assertions: there `keras.callbacks.TerminateOnNaN` is the check.
    """
    sums = _image_sums(images)
    finite = tf.math.is_finite(tf.reduce_sum(sums) + tf.reduce_sum(logits))
    return given(logits, finite, f"not finite in {where}", index, sums)


def _image_sums(images):
    """[batch]. Logits alone do not tell bad images: a ReLU can swallow NaN."""
    return tf.add_n([_sums(each) for each in keras.tree.flatten(images)])


def _sums(images):
    if not images.dtype.is_floating:
        return tf.zeros(tf.shape(images)[:1])
    axes = list(range(1, images.shape.rank))
    return tf.reduce_sum(tf.cast(images, tf.float32), axes)


# Batches of one image


class SingleImages(keras.callbacks.Callback):
    """Says once that batches of one image were left out; an error if all were."""

    def on_epoch_begin(self, epoch, logs=None):
        """Of every epoch anew."""
        self._before, self._num_batches = self._num_left_out(), 0

    def on_train_batch_end(self, batch, logs=None):
        """Numbers of batches begin at 0."""
        self._num_batches = batch + 1

    def on_epoch_end(self, epoch, logs=None):
        """Before anything is written of the epoch."""
        left_out = self._num_left_out() - self._before
        if left_out and left_out == self._num_batches:
            raise ValueError(_TOO_FEW)
        if left_out and not self.model.has_warned:
            self.model.has_warned = True
            warnings.warn(
                "A batch of a single image has no generative gradient. Received: "
                f"{left_out} of {self._num_batches} batches of an epoch, which were "
                "left out. Choose another batch size, or drop the remainder.",
                stacklevel=2,
            )

    def _num_left_out(self):
        return int(tf.convert_to_tensor(self.model.num_left_out))


def step_of_several(model, step):
    """A step on a batch that leaves out, and counts, a batch of one image.

    Args:
        model: `GenerativeClassifier`.
        step: function of a batch, as `fit` hands it on.
    """

    def left_out():
        model.num_left_out.assign_add(1)
        return model.get_metrics_result()

    def step_or_none(data):
        images, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        several = tf.shape(first_of(images))[0] > 1
        return tf.cond(several, lambda: step(data), left_out)

    return step_or_none


def loss_of_several(model, loss, num_images):
    """The loss; 0 of a single image under replicas, where no step is conditional.

    Such a step is one without a gradient.
    """
    several = num_images > 1.0
    model.num_left_out.assign_add(tf.cast(~several, tf.int32))
    return tf.where(several, loss, 0.0)


# Labels, weights and logits of a loss


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


def checked_arguments(labels, logits, sample_weight):
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


def with_valid_labels(labels, logits):
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


# Errors


@contextlib.contextmanager
def plain_errors():
    """Raises our own in-graph errors as ValueError, without TensorFlow's wrapping."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        sentence = sentence_of(error)
        if sentence is None:
            raise
        raise ValueError(_not_finite(sentence) or sentence) from error


def _not_finite(sentence):
    """The error of `_checked` in words, or None if it is another one.

    Counting the bad images here costs the training step nothing.
    """
    found = re.fullmatch(r"not finite in ([a-z ]+) (-?\d+) (.+)", sentence)
    if found is None:
        return None
    where, index, sums = found.groups()
    where = where if index == "-1" else f"{where} {index}"
    sums = sums.split()
    bad = sum("nan" in value or "inf" in value for value in sums)
    return (
        f"Images and logits must be finite. Received: in {where}, {bad} of {len(sums)} "
        "images with NaN or infinite pixels. If there is none, the weights have "
        "diverged: lower the learning rate. The weights are those before this batch."
    )
