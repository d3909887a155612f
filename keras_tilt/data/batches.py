"""Batches of images that are functions of three integers: seed, epoch and step.

    order of epoch e   = a function of (seed, e), image indices int64 [m]
    batch t of epoch e = images order[t b], ..., order[t b + b - 1], b = batch_size,
                         image order[p] cropped by row p of table(seed, e)

Nothing is drawn while batches are read: a run stopped at any step resumes from
(epoch, step), whatever the number of threads. Images that cannot be decoded are left
out of their batch; all others stay in theirs. Of several workers each reads its parts
of every batch alone:

    part r of a batch of b images = those from ceil(r b / R) to ceil((r + 1) b / R),
                                    of R replicas
"""

__all__ = [
    "Corrupt",
    "by_classes",
    "by_labelled",
    "evaluation_batches",
    "training_batches",
    "uniform_order",
]

import os
from typing import Literal

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tilt.data.corrupt import Corrupt
from keras_tilt.data.crops import (
    cut_at_center,
    cut_at_random,
    cut_five_times,
    scaling,
)
from keras_tilt.data.orders import by_classes, by_labelled, uniform_order
from keras_tilt.data.sources.image_source import Source
from keras_tilt.validation import check_count, check_seed

# The random stream of (seed, epoch) that places crops; `orders` has others.
_CUTS = 2
_THREADS = os.cpu_count()


def training_batches(
    source: Source,
    order: ArrayLike,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    crop: tuple[int, int],
    first_step: int = 0,
    shorter_side: int | None = None,
    pad: int = 0,
    mirror: bool = True,
    corrupt: Corrupt | None = None,
    drop_remainder: bool = False,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Return the batches of one epoch: random crops, mirrored half the time.

    An image is scaled so that its shorter side is `shorter_side`, padded on every side
    by `pad` pixels of its own reflection, cropped to `crop`, and mirrored with
    probability 1/2. He et al. pad with the mean; by reflection q, the distribution of
    the images, has no frames of one colour.

    Args:
        source: a `sources.Source`.
        order: image indices in the order of this epoch, int64 [m].
        batch_size: images per batch.
        seed: a non-negative integer.
        epoch: index of the epoch, from 0; `order` must be that of the same epoch.
        crop: (height, width) of the returned images, in pixels.
        first_step: number of batches of the epoch to skip, as they were seen before.
        shorter_side: pixels, 256 for ImageNet (Krizhevsky et al. 2012); None keeps
            the size. Bilinear, with antialiasing where an image is more than halved.
        pad: pixels, 4 for CIFAR (He et al. 2016).
        mirror: whether images are mirrored at random, left to right.
        corrupt: a `Corrupt` that collects the names of unreadable images, which are
            left out of their batch; None allows none.
        drop_remainder: whether to leave out a last batch smaller than `batch_size`.
        context: of one of several workers, which `distribute_datasets_from_function`
            of a strategy gives: the data set is then of the parts of its replicas, one
            after the other, a step of the strategy as many elements as it has replicas
            on that worker. Other images are neither read nor decoded.

    Returns:
        dataset: of (images float32 [batch, height, width, channels], pixels in
            [0, 255]; labels int32 [batch], -1 for an unlabelled image).

    Raises:
        ValueError: an `order` out of range, or a crop that does not fit; in the data
            set, more unreadable images than allowed.

    Example:
        >>> import numpy as np
        >>> from keras_tilt import sources
        >>> images = np.zeros([60, 32, 32, 3], np.uint8)
        >>> source = sources.arrays(images, np.arange(60) % 10)
        >>> order = uniform_order(60, seed=0, epoch=2)
        >>> dataset = training_batches(
        ...     source, order, 16, seed=0, epoch=2, first_step=1, crop=(32, 32), pad=4)
        >>> int(dataset.cardinality())
        3
    """
    check_seed(seed)
    order = _checked_order(source, order)
    _check_batches(source, batch_size, crop, shorter_side, pad)
    steps = len(order) // batch_size if drop_remainder else -(-len(order) // batch_size)
    check_count("first_step", first_step, 0, steps)
    table = np.random.default_rng([seed, epoch, _CUTS]).random([len(order), 3])
    if not mirror:
        table[:, 2] = 1.0
    here = slice(first_step * batch_size, steps * batch_size)
    scaled = scaling(source, shorter_side, crop, pad)

    def cut(images, numbers, rows):
        return cut_at_random(scaled(images, numbers), crop, pad, rows)

    rows = (order[here], table[here])
    return _batches(source, rows, batch_size, cut, corrupt, context)


def evaluation_batches(
    source: Source,
    batch_size: int,
    *,
    crop: tuple[int, int],
    shorter_side: int | None = None,
    crops: Literal["center", "five"] = "center",
    corrupt: Corrupt | None = None,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Return the batches of one pass in the order of the source, nothing at random.

    "five" takes the center and the four corners of the whole scaled image, to average
    five predictions (Dai, Lu and Wu 2015); Krizhevsky et al. (2012) first crop the
    image to its central square.

    Args:
        source: a `sources.Source`.
        batch_size: images per batch.
        crop: (height, width) of the returned images, in pixels.
        shorter_side: pixels, as in `training_batches`.
        crops: "center" or "five".
        corrupt: a `Corrupt`, as in `training_batches`.
        context: of one of several workers, as in `training_batches`.

    Returns:
        dataset: of (images float32 [batch, height, width, channels], or with "five"
            [batch, 5, height, width, channels] - center, top left, top right, bottom
            left, bottom right -, pixels in [0, 255]; labels int32 [batch]).
    """
    _check_batches(source, batch_size, crop, shorter_side)
    cuts = {"center": cut_at_center, "five": cut_five_times}
    if crops not in cuts:
        raise ValueError(
            f"`crops` must be one of {', '.join(cuts)}. Received: {crops!r}. "
            "Pass crops='center' for one image each."
        )
    scaled = scaling(source, shorter_side, crop)

    def cut(images, numbers, _):
        return cuts[crops](scaled(images, numbers), crop)

    numbers = np.arange(len(source.labels))
    rows = (numbers, np.zeros([len(numbers), 0]))
    return _batches(source, rows, batch_size, cut, corrupt, context)


def _batches(source, rows, batch_size, cut, corrupt, context):
    """Return the data set of rows (image indices [m], random numbers [m, k])."""
    with tf.device("CPU"):
        labels = tf.constant(source.labels, tf.int32)

    def fetched(numbers, table):
        return source.fetch(numbers), numbers, table

    def cut_out(images, numbers, table):
        return cut(images, numbers, table), numbers

    def labelled(images, numbers):
        return tf.cast(images, tf.float32), tf.gather(labels, numbers)

    elements = _elements(rows, batch_size, context)
    batches = elements.map(fetched, num_parallel_calls=2)
    if source.decode is None:
        batches = batches.map(cut_out, num_parallel_calls=_THREADS)
    else:
        batches = _decoded(batches, source, batch_size, cut_out, corrupt)
    return (
        batches.map(labelled)
        .apply(tf.data.experimental.assert_cardinality(int(elements.cardinality())))
        .prefetch(1 if context is None else _replicas_of(context))
        .with_options(_options())
    )


def _elements(rows, batch_size, context):
    """Return the data set of the rows of each batch, or of parts of it."""
    count = len(rows[0])
    if context is None:
        dataset = tf.data.Dataset.from_tensor_slices(rows)
        return dataset.batch(batch_size, drop_remainder=count % batch_size == 0)
    with tf.device("CPU"):
        rows = [tf.constant(part) for part in rows]

    def part(bounds):
        return tuple(part[bounds[0] : bounds[1]] for part in rows)

    return tf.data.Dataset.from_tensor_slices(_bounds(count, batch_size, context)).map(
        part
    )


def _bounds(count, batch_size, context):
    """Return first and last place of every part, one after the other: int64 [m, 2]."""
    own, total = _replicas_of(context), context.num_replicas_in_sync
    first = np.arange(0, count, batch_size)[:, np.newaxis]
    sizes = np.minimum(batch_size, count - first)
    replicas = own * context.input_pipeline_id + np.arange(own + 1)
    ends = first + -(-replicas * sizes // total)
    return np.stack([ends[:, :-1], ends[:, 1:]], axis=2).reshape(-1, 2)


def _replicas_of(context):
    """Return the number of replicas on the worker, the same on each."""
    return context.num_replicas_in_sync // context.num_input_pipelines


def _decoded(batches, source, batch_size, cut_out, corrupt):
    """Return the batches of what can be decoded: pixels and image indices.

    Each batch is a data set of its own, of which `ignore_errors` drops what fails:
    every other image stays in its batch, at no measurable cost per image.
    """
    report = _reporter(source, corrupt or Corrupt(0.0))

    def decoded(element, number, row):
        return source.decode(element), number, row

    def one_batch(elements, numbers, table):
        images = (
            tf.data.Dataset.from_tensor_slices((elements, numbers, table))
            .map(decoded, num_parallel_calls=_THREADS)
            .ignore_errors()
            .map(cut_out, num_parallel_calls=_THREADS)
        )
        batch = images.batch(batch_size).concatenate(_empty(images.element_spec))
        images, kept = batch.take(1).get_single_element()
        return images, report(numbers, kept)

    return batches.map(one_batch, num_parallel_calls=2)


def _empty(spec):
    """Return a data set of one batch without elements, for when none can be decoded."""
    return tf.data.Dataset.from_tensors(
        tuple(tf.zeros([0, *part.shape], part.dtype) for part in spec)
    )


def _reporter(source, corrupt):
    """Return the function of a batch's indices and those kept that returns the latter.

    It reports the others to `corrupt`; Python is called only if there are any.
    """

    def report(missing):
        corrupt.add(source, missing)
        return np.int32(0)

    def reported(numbers, kept):
        missing = tf.raw_ops.ListDiff(x=numbers, y=kept).out
        done = tf.cond(
            tf.size(missing) > 0,
            lambda: tf.numpy_function(report, [missing], tf.int32),
            lambda: tf.constant(0),
        )
        with tf.control_dependencies([done]):
            return tf.identity(kept)

    return reported


def _options():
    options = tf.data.Options()
    options.deterministic = True
    # Without a context each of several workers reads the whole order and takes its part
    # of every batch: there are no files to split among them.
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    return options


def _check_batches(source, batch_size, crop, shorter_side, pad=0):
    check_count("batch_size", batch_size, 1)
    check_count("pad", pad, 0)
    if np.shape(crop) != (2,):
        raise ValueError(
            f"`crop` must be a pair (height, width). Received: {crop!r}. "
            "Pass for example crop=(32, 32)."
        )
    for side in crop:
        check_count("crop", side, 1)
    if shorter_side is not None:
        check_count("shorter_side", shorter_side, 1)
        sides = (shorter_side, shorter_side)
    else:
        sides = source.image_shape or (None, None)
    for side, cut in zip(sides[:2], crop, strict=True):
        if side is not None and (cut > side + 2 * pad or pad >= side):
            raise ValueError(
                f"`crop` must fit into the images, of at least {side} pixels here and "
                f"padded by less than that. Received: crop={crop}, pad={pad}. "
                "Pass a smaller one."
            )


def _checked_order(source: Source, order: ArrayLike) -> np.ndarray:
    """Return image indices, int64 [m], from integers of any type."""
    count = len(source.labels)
    order = np.asarray(order)
    whole = order.ndim == 1 and order.dtype.kind in "iu"
    if not whole or np.any((order < 0) | (order >= count)):
        raise ValueError(
            f"`order` must be image indices, integers in 0..{count - 1}. Received: "
            f"{order.dtype} {list(order.shape)}. Draw it from the labels of `source`."
        )
    return order.astype(np.int64)
