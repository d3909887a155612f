"""Checks of batches: their labels, sample weights, images and logits.

    labels of any form -> class indices int32 [batch], -1 = unlabelled

What shapes tell is an exception while a step is traced; what only values tell is an
assertion in the graph, which `plain_errors` raises as a ValueError.
"""

__all__ = [
    "SingleImages",
    "checked_arguments",
    "class_indices",
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
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tilt.validation import given, sentence_of

_TOO_FEW = (
    "The generative objective needs at least two images in a batch: with one the "
    "softmax over images is 1 and the gradient zero. Received: 1 image. Use a larger "
    "batch size, or drop the remainder of the data set."
)


def refuse_text(labels: Any, validation: Any = None) -> None:
    """Raise a ValueError for labels that are text, of which Keras names no cause.

    Args:
        labels: `y` of `fit` or `evaluate`.
        validation: optional `validation_data` of `fit`.
    """
    every = [labels, *validation[1:2]] if isinstance(validation, tuple) else [labels]
    if any(np.asarray(each).dtype.kind in "SU" for each in every):
        raise ValueError(
            "`y` must be class indices or one-hot rows. Received: text. Class names "
            "become indices by `np.unique(y, return_inverse=True)[1]`."
        )


def first_of(images: Any) -> tf.Tensor:
    """Return the images, or the first of several inputs."""
    return keras.tree.flatten(images)[0]


def unpacked(data: Any, num_classes: int) -> tuple[Any, tf.Tensor, tf.Tensor | None]:
    """Return the parts of a batch of Keras, once it is known to have labels.

    Args:
        data: tuple of images, labels and, optionally, sample weights.
        num_classes: number of logits.

    Returns:
        images: tensor, or a structure of several.
        labels: int32 `[batch]` class indices; -1 = unlabelled.
        sample_weight: `[batch]` or None.

    Raises:
        ValueError: if there are no labels.
    """
    images, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    if labels is None:
        raise ValueError(
            "Training and evaluation need labels: a data set of (images, labels). "
            "Received: images only. Mark unlabelled images by the label -1."
        )
    return images, class_indices(labels, num_classes), _of_known_rank(sample_weight)


def _of_known_rank(sample_weight):
    """Weights as `[batch]` where a graph is given columns, too, and knows no rank."""
    if not tf.is_tensor(sample_weight) or sample_weight.shape.rank is not None:
        return sample_weight
    return given(
        tf.reshape(sample_weight, [-1]),
        tf.equal(tf.size(sample_weight), tf.shape(sample_weight)[0]),
        "`sample_weight` must have shape [batch], one factor per image. Received:",
        tf.shape(sample_weight),
        ". Weights per pixel or class are not supported.",
    )


def finite_logits(
    images: Any, logits: tf.Tensor, where: str, index: tf.Tensor | int = -1
) -> tf.Tensor:
    """Return the logits, once images and logits are known to be finite.

    XLA has no assertions: there `keras.callbacks.TerminateOnNaN` is the check.

    Args:
        images: `[batch, ...]` tensor, or a structure of several.
        logits: `[batch, classes]`.
        where: name of the batch in the error, of lower-case words.
        index: number of the batch in the error; -1 = none.

    Raises:
        tf.errors.InvalidArgumentError: if they are not, when the graph runs.
    """
    sums = _image_sums(images)
    finite = tf.math.is_finite(tf.reduce_sum(sums) + tf.reduce_sum(logits))
    return given(logits, finite, f"not finite in {where}", index, sums)


def _image_sums(images):
    """Return `[batch]` sums. Logits alone hide bad images: a ReLU can swallow NaN."""
    return tf.add_n([_sums(each) for each in keras.tree.flatten(images)])


def _sums(images):
    if not images.dtype.is_floating:
        return tf.zeros(tf.shape(images)[:1])
    axes = list(range(1, images.shape.rank))
    return tf.reduce_sum(tf.cast(images, tf.float32), axes)


# Batches of one image


class SingleImages(keras.callbacks.Callback):
    """A callback that warns once of batches left out, and raises if all were."""

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Start counting anew."""
        self._before, self._num_batches = self._num_left_out(), 0

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Count; the first batch is number 0."""
        self._num_batches = batch + 1

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Warn or raise, before callbacks that write anything about the epoch."""
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


def step_of_several(model: keras.Model, step: Callable) -> Callable:
    """Return a step that leaves out, and counts, batches of one image.

    Args:
        model: `GenerativeClassifier`.
        step: function of a batch that returns the logs of a step.
    """

    def left_out():
        model.num_left_out.assign_add(1)
        return model.get_metrics_result()

    def step_or_none(data):
        images, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        several = tf.shape(first_of(images))[0] > 1
        return tf.cond(several, lambda: step(data), left_out)

    return step_or_none


def loss_of_several(
    model: keras.Model, loss: tf.Tensor, num_images: tf.Tensor
) -> tf.Tensor:
    """Return the loss, or 0 and so no gradient for a global batch of one image.

    Under several replicas a step cannot be conditional, so that it is taken.

    Args:
        model: `GenerativeClassifier`, which counts such batches.
        loss: `[]` nats.
        num_images: `[]`, in the global batch.
    """
    several = num_images > 1.0
    model.num_left_out.assign_add(tf.cast(~several, tf.int32))
    return tf.where(several, loss, 0.0)


# Labels, weights and logits of a loss


def class_indices(labels: ArrayLike, num_classes: int) -> tf.Tensor:
    """Return labels of any form that training takes as class indices.

    Args:
        labels: integers of any type, `[batch]` or a column `[batch, 1]`, or one-hot
            rows `[batch, num_classes]` of any type.
        num_classes: number of logits.

    Returns:
        labels: int32 `[batch]`. A number beyond int32 becomes the closest int32, which
            is no class index.

    Raises:
        TypeError: labels that are neither integers nor rows.
        ValueError: other shapes.
        tf.errors.InvalidArgumentError: rows that are not one-hot.
    """
    tensor = tf.convert_to_tensor(labels)
    shape = tensor.shape
    if shape.rank is None and tensor.dtype != tf.string:
        return _of_any_form(tensor, num_classes)
    if shape.rank == 2 and shape[1] == num_classes and tensor.dtype != tf.string:
        return _from_one_hot(tensor)
    if not tensor.dtype.is_integer:
        raise TypeError(
            "`labels` must be integers, a class index each or -1 for unlabelled. "
            f"Received: dtype {tensor.dtype.name}. Class names become indices by "
            "`np.unique(labels, return_inverse=True)[1]`, floats by "
            "`labels.astype('int32')`."
        )
    if shape.rank == 2 and shape[1] == 1:
        tensor = tensor[:, 0]
    if tensor.shape.rank != 1:
        raise ValueError(
            "`labels` must have shape [batch], one class index per row of `logits`, or "
            f"be one-hot rows, [batch, {num_classes}]. Received: labels {shape}. "
            "One-hot rows of other classes become indices by `argmax(axis=-1)`."
        )
    return _as_int32(tensor)


def _of_any_form(labels, num_classes):
    """Class indices where a graph is given several forms, and knows no rank."""
    count = tf.shape(labels)[0]
    width = tf.size(labels) // tf.maximum(count, 1)
    is_one_hot = tf.equal(width, num_classes)
    is_indices = tf.equal(width, 1) & labels.dtype.is_integer
    rows = given(
        tf.reshape(labels, [count, width]),
        (is_one_hot | is_indices | tf.equal(count, 0)) & (tf.rank(labels) <= 2),
        "`labels` must be integers of shape [batch], one class index per row of "
        f"`logits`, or one-hot rows, [batch, {num_classes}]. Received: "
        f"{labels.dtype.name} of shape",
        tf.shape(labels),
        ". One-hot rows of other classes become indices by `argmax(axis=-1)`.",
    )
    indices = tf.cond(
        is_one_hot,
        lambda: _from_one_hot(rows),
        lambda: _as_int32(tf.reshape(rows[:, :1], [-1])),
    )
    return tf.ensure_shape(indices, [None])


def _from_one_hot(rows):
    """Return where the ones are; in a one-hot row the largest entry is the sum."""
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
        ". Soft labels are not supported; unlabelled images are marked by -1 "
        "among class indices, `argmax(axis=-1)`.",
    )


def _as_int32(labels):
    if labels.dtype in (tf.uint32, tf.uint64):
        wide = tf.cast(labels, tf.int64)
        labels = tf.where(wide < 0, tf.int64.max, wide)
    return tf.saturate_cast(labels, tf.int32)


def checked_arguments(
    labels: ArrayLike, logits: ArrayLike, sample_weight: ArrayLike | None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
    """Return the arguments of a loss as tensors of known ranks.

    Returns:
        labels: int32 `[batch]`.
        logits: `[batch, classes]` float.
        sample_weight: float32 `[batch]`, known to be finite and not negative; or None.

    Raises:
        TypeError: float labels or integer logits.
        ValueError: wrong ranks or lengths.
    """
    outputs = tf.convert_to_tensor(logits)
    if not outputs.dtype.is_floating:
        raise TypeError(
            "`logits` must be floating point. "
            f"Received: dtype {outputs.dtype.name}. Pass the network's float outputs."
        )
    if outputs.shape.rank != 2 or outputs.shape[1] is None:
        raise ValueError(
            "`logits` must have shape [batch, classes]. "
            f"Received: {outputs.shape}. Flatten maps or pool them first."
        )
    indices = class_indices(labels, outputs.shape[1])
    if not indices.shape.is_compatible_with(outputs.shape[:1]):
        raise ValueError(
            "`labels` must have shape [batch], one class index per row of `logits`. "
            f"Received: labels {indices.shape}, logits {outputs.shape}. "
            "Pass both for the same images."
        )
    return indices, outputs, _checked_weight(sample_weight)


def _checked_weight(sample_weight):
    """Return float32 `[batch]`, known to be finite and not negative; or None."""
    if sample_weight is None:
        return None
    sample_weight = tf.cast(_of_known_rank(sample_weight), tf.float32)
    if sample_weight.shape.rank == 2 and sample_weight.shape[1] == 1:
        sample_weight = sample_weight[:, 0]
    if sample_weight.shape.rank != 1:
        raise ValueError(
            "`sample_weight` must have shape [batch], one factor per image. "
            f"Received: {sample_weight.shape}. Weights per pixel or class are not "
            "supported."
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
        "of the batch. Check where the sample or class weights come from.",
    )


def with_valid_labels(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return the logits, once the labels are known to lie in [-1, classes)."""
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
        f". Number the classes from 0; the number of outputs of the network is "
        f"{classes}.",
    )


# Errors


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Raise this package's own errors in a graph as ValueError, in their own words."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        sentence = sentence_of(error)
        if sentence is None:
            raise
        raise ValueError(_not_finite(sentence) or sentence) from error


def _not_finite(sentence):
    """Return the message for an error of `finite_logits`, or None for another one.

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
