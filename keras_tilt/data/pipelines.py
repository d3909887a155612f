"""Batches of images held in memory, scaled for a network.

    x = scale * pixels,      scale = PIXEL_SCALE = 1/256 (Caffe's LeNet), or 1
    order of pass e = permutation drawn from (seed, e)

Images are uint8 pixels in [0, 255] until the pipeline scales them. With scale = 1 the
network does, such as `lenet(scale=PIXEL_SCALE)`, and pixels are in [0, 255] everywhere
outside it; both train to the same bits. Label -1 marks an unlabelled image: it
contributes only to the normalizer of the generative loss (Dai, Lu and Wu 2015).
"""

__all__ = ["PIXEL_SCALE", "pipeline"]

import itertools

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tilt.data.orders import uniform_order
from keras_tilt.validation import as_labels, check_count

PIXEL_SCALE = 1 / 256


def pipeline(
    images: ArrayLike,
    labels: ArrayLike,
    batch_size: int,
    *,
    shuffle_seed: int | None = None,
    first_epoch: int = 0,
    first_step: int = 0,
    drop_remainder: bool = False,
    scale: float = PIXEL_SCALE,
) -> tf.data.Dataset:
    """Return the batches of images held in memory, scaled for a network.

    Without a seed the order is that of the arrays. With a seed every pass has its own
    order, permutation(n) drawn from (shuffle_seed, e) with e = first_epoch,
    first_epoch + 1, ...: a run resumed with `first_epoch` sees the order of an
    uninterrupted one. A pass begins when its first batch is read, so reading a single
    batch, if only to look at it, uses up a pass.

    Args:
        images: pixels in [0, 255], uint8 [n, height, width, channels].
        labels: classes, integers [n] or [n, 1]; -1 marks an unlabelled image.
        batch_size: images per batch.
        shuffle_seed: a non-negative integer, or None for the order of the arrays.
        first_epoch: index of the first pass over the returned data set.
        first_step: number of batches of that pass to skip, as they were seen before;
            later passes are whole. The cardinality is then unknown.
        drop_remainder: whether to leave out a last batch smaller than `batch_size`.
        scale: factor of the pixels; 1 for a network that scales them itself.

    Returns:
        dataset: of (images float32 [batch, height, width, channels], in [0, 255 scale];
            labels int32 [batch]).

    Raises:
        ValueError: arrays of other shapes, or a batch larger than the data set.

    Example:
        >>> train, test = kt.data.embedded_mnist()
        >>> batches = pipeline(*train, batch_size=64, shuffle_seed=0)
        >>> int(batches.cardinality())
        79
    """
    labels = as_labels("labels", labels)
    _check_pipeline(images, labels, batch_size, shuffle_seed, first_epoch)
    count = len(labels)
    stop = count - count % batch_size if drop_remainder else count
    steps = -(-stop // batch_size)
    check_count("first_step", first_step, 0, steps)
    with tf.device("CPU"):
        images = tf.convert_to_tensor(images)
        labels = tf.constant(labels)

    def batch(order, start):
        chosen = order[start : start + batch_size]
        if drop_remainder:
            chosen = tf.ensure_shape(chosen, [batch_size])
        pixels = tf.cast(tf.gather(images, chosen), tf.float32)
        return scale * pixels, tf.gather(labels, chosen)

    def batches(order, first):
        starts = tf.data.Dataset.range(first * batch_size, stop, batch_size)
        return starts.map(lambda start: batch(order, start))

    dataset = _passes(count, shuffle_seed, first_epoch, first_step).flat_map(batches)
    if not first_step:  # otherwise the first pass has fewer
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(steps))
    return dataset.prefetch(2)


def _passes(count, seed, first_epoch, first_step):
    """Return a data set of one element: order of this pass, int64 [count], first step.

    Iterating over it again begins the next pass.
    """
    if seed is None and not first_step:
        order = tf.range(count, dtype=tf.int64)
        return tf.data.Dataset.from_tensors((order, np.int64(0)))
    firsts = itertools.chain([first_step], itertools.repeat(0))
    passes = zip(itertools.count(first_epoch), firsts, strict=False)

    def draw():
        epoch, first = next(passes)
        order = np.arange(count) if seed is None else uniform_order(count, seed, epoch)
        return order, np.int64(first)

    def next_pass(_):
        order, first = tf.numpy_function(draw, [], (tf.int64, tf.int64))
        return tf.ensure_shape(order, [count]), tf.ensure_shape(first, [])

    return tf.data.Dataset.from_tensors(0).map(next_pass)


def _check_pipeline(images, labels, batch_size, shuffle_seed, first_epoch):
    images_shape, labels_shape = np.shape(images), np.shape(labels)
    if len(images_shape) != 4 or labels_shape != images_shape[:1]:
        raise ValueError(
            "Expected images [n, height, width, channels] and labels [n]. Received: "
            f"images {list(images_shape)} and labels {list(labels_shape)}. "
            "Reshape gray images to one channel: images[..., np.newaxis]."
        )
    if not 1 <= batch_size <= images_shape[0]:
        raise ValueError(
            f"Expected `batch_size` to lie in 1..{images_shape[0]}, the number of "
            f"images. Received: {batch_size}. Choose a batch no larger than the set."
        )
    if (shuffle_seed is not None and shuffle_seed < 0) or first_epoch < 0:
        raise ValueError(
            "Expected `shuffle_seed` and `first_epoch` to be non-negative. Received: "
            f"{shuffle_seed} and {first_epoch}. Number seeds and epochs from 0."
        )
