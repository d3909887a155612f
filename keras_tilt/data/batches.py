"""Batches of images whose every bit follows from three numbers: seed, epoch and step.

    order of epoch e   = a function of (seed, e), int64 [steps * batch_size]
    batch t of epoch e = images order[t b], ..., order[t b + b - 1], b = batch_size,
                         image order[p] cut where row p of table(seed, e) says

Nothing is drawn while batches are read, so a training stopped at any step goes on from
the two whole numbers (epoch, step), whatever the number of threads. Images that cannot
be decoded are left out of their batch; the place of every other image stays.
"""

__all__ = [
    "Corrupt",
    "by_classes",
    "by_labelled",
    "evaluation_batches",
    "training_batches",
    "uniform_order",
]

import math
import os

import numpy as np
import tensorflow as tf

from keras_tilt.validation import as_labels, check_count

# Streams of random numbers of one (seed, epoch); uniform_order has the one without.
_BATCHES, _CUTS = 1, 2
_THREADS = os.cpu_count()
_SHOWN = 10  # names in an error


class Corrupt:
    """The images that could not be decoded, and how many of them are too many.

    Pass one object to the batches of every epoch: an image is counted once.

    Args:
        limit: share of the images of a source, in 0..1, that may be left out, rounded
            up to whole images: any limit above 0 allows one image, 0 allows none.
    """

    def __init__(self, limit=0.001):
        if not 0 <= limit <= 1:
            raise ValueError(
                "`limit` must be a share of the images, in 0..1. "
                f"Received: {limit!r}. Pass for example limit=0.001."
            )
        self.limit = limit
        self._found = {}  # by id of the source: it, and names by number

    @property
    def names(self):
        """What the sources call the images left out so far, sorted."""
        return sorted(
            {name for _, names in self._found.values() for name in names.values()}
        )

    def add(self, source, numbers):
        """Record images of a source; raise a ValueError once they are too many."""
        _, names = self._found.setdefault(id(source), (source, {}))
        names.update({int(i): source.name(int(i)) for i in numbers})
        allowed = math.ceil(self.limit * len(source.labels))
        if len(names) > allowed:
            first = sorted(names.values())
            more = ["..."] * (len(first) > _SHOWN)
            raise ValueError(
                f"keras_tilt: At most {allowed} of {len(source.labels)} images may be "
                f"unreadable (limit {self.limit:g}). Received: {len(names)}, "
                f"{', '.join(first[:_SHOWN] + more)}. Save them as PNG or JPEG, or "
                "raise the limit."
            )


# Orders


def uniform_order(count, seed, epoch):
    """Return a permutation of all images, int64 [count]."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def by_classes(labels, batch_size, classes_per_batch, seed, epoch):
    """Return the order in which every batch has K classes, equally many images of each.

    The K = `classes_per_batch` classes of a batch follow one another through
    permutations of all classes, so that every class has its turn before any returns;
    so do the images of a class. Images without label do not take part.

    Args:
        labels: classes, integers [n]; -1 marks an unlabelled image.
        batch_size: images per batch, a multiple of K.
        classes_per_batch: K.
        seed: a non-negative integer.
        epoch: number of the pass, from 0.

    Returns:
        order: int64 [labelled // batch_size * batch_size].
    """
    labels = as_labels("labels", labels)
    members = [np.flatnonzero(labels == c) for c in np.unique(labels[labels >= 0])]
    _check_classes(len(members), batch_size, classes_per_batch)
    rng = np.random.default_rng([seed, epoch, _BATCHES])
    steps = sum(map(len, members)) // batch_size
    share = batch_size // classes_per_batch
    classes = _cycled(rng, np.arange(len(members)), steps, classes_per_batch)
    order = np.empty([steps, classes_per_batch, share], np.int64)
    for c, images in enumerate(members):
        turns = classes == c
        order[turns] = _cycled(rng, images, turns.sum(), share)
    return _mixed(rng, order.reshape(steps, batch_size))


def by_labelled(labels, batch_size, labelled_per_batch, seed, epoch):
    """Return the order in which every batch has M labelled images.

    Labelled and unlabelled images each follow one another through permutations of
    their own: few labelled images are seen more often than the many others.

    Args:
        labels: classes, integers [n]; -1 marks an unlabelled image.
        batch_size: images per batch.
        labelled_per_batch: M, at most `batch_size`.
        seed: a non-negative integer.
        epoch: number of the pass, from 0.

    Returns:
        order: int64 [n // batch_size * batch_size].
    """
    labels = as_labels("labels", labels)
    check_count("batch_size", batch_size, 1)
    check_count("labelled_per_batch", labelled_per_batch, 0, batch_size)
    shares = [labelled_per_batch, batch_size - labelled_per_batch]
    kinds = [np.flatnonzero(labels >= 0), np.flatnonzero(labels < 0)]
    _check_kinds(kinds, shares)
    rng = np.random.default_rng([seed, epoch, _BATCHES])
    steps = len(labels) // batch_size
    rows = [
        _cycled(rng, images, steps, share)
        for images, share in zip(kinds, shares, strict=True)
        if share
    ]
    return _mixed(rng, np.concatenate(rows, axis=1))


def _cycled(rng, items, rows, length):
    """Return items [rows, length], each used as often as any other, up to one.

    The items are gone through in permutations. Where a row ends one and begins the
    next, the items it holds come last in the next: with length <= len(items), the rest
    of the row is at most the len(items) - held others, so no row holds one twice.
    """
    needed, count = rows * length, 0
    used = np.empty(needed + len(items), np.int64)
    while count < needed:
        held = used[count - count % length : count]
        fresh = rng.permutation(items)
        again = np.isin(fresh, held)
        used[count : count + len(items)] = np.r_[fresh[~again], fresh[again]]
        count += len(items)
    return used[:needed].reshape(rows, length)


def _mixed(rng, order):
    """Shuffle within each batch: replicas that share one get the same kind of part."""
    return rng.permuted(order, axis=1).ravel()


# Batches


def training_batches(
    source,
    order,
    batch_size,
    *,
    seed,
    epoch,
    crop,
    first_step=0,
    shorter_side=None,
    pad=0,
    mirror=True,
    corrupt=None,
    drop_remainder=False,
):
    """Return the batches of one epoch: images at random places, mirrored half the time.

    An image is scaled so that its shorter side is `shorter_side`, extended on every
    side by `pad` pixels of its own reflection, cut to `crop`, and mirrored with
    probability 1/2. The reflection, where He et al. pad with the mean, leaves q, the
    distribution of the images, without frames of one colour.

    Args:
        source: a `sources.Source`.
        order: numbers of the images in the order of this epoch, int64 [m].
        batch_size: images per batch.
        seed: a non-negative integer.
        epoch: number of this pass, from 0; `order` is to be that of the same pass.
        crop: (height, width) of the returned images, in pixels.
        first_step: batches of the epoch that have been seen; the data set begins with
            the batch of that number.
        shorter_side: pixels, 256 for ImageNet (Krizhevsky et al. 2012); None leaves
            the size. Bilinear; what is more than halved is smoothed before.
        pad: pixels, 4 for CIFAR (He et al. 2016).
        mirror: whether images are mirrored at random, left to right.
        corrupt: a `Corrupt`, where the names of unreadable images are collected; None
            allows none. A batch is smaller by those.
        drop_remainder: whether to leave out a last batch smaller than `batch_size`.

    Returns:
        dataset: of (images float32 [batch, height, width, channels], pixels in
            [0, 255]; labels int32 [batch], -1 for an unlabelled image).

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
    order = _checked_order(source, order)
    _check_batches(source, batch_size, crop, shorter_side, pad)
    steps = len(order) // batch_size if drop_remainder else -(-len(order) // batch_size)
    check_count("first_step", first_step, 0, steps)
    table = np.random.default_rng([seed, epoch, _CUTS]).random([len(order), 3])
    if not mirror:
        table[:, 2] = 1.0
    here = slice(first_step * batch_size, steps * batch_size)
    scaled = _scaling(source, shorter_side, crop, pad)

    def cut(images, numbers, rows):
        return _cut_at_random(scaled(images, numbers), crop, pad, rows)

    return _batches(source, (order[here], table[here]), batch_size, cut, corrupt)


def evaluation_batches(
    source, batch_size, *, crop, shorter_side=None, crops="center", corrupt=None
):
    """Return the batches of one pass in the order of the source, nothing at random.

    "five" are the center and the four corners of the whole scaled image, for the mean
    of five predictions (Dai, Lu and Wu 2015); Krizhevsky et al. (2012) first cut the
    image to its central square.

    Args:
        source: a `sources.Source`.
        batch_size: images per batch.
        crop: (height, width) of the returned images, in pixels.
        shorter_side: pixels, as in `training_batches`.
        crops: "center" or "five".
        corrupt: a `Corrupt`, as in `training_batches`.

    Returns:
        dataset: of (images float32 [batch, height, width, channels], or with "five"
            [batch, 5, height, width, channels] - center, top left, top right, bottom
            left, bottom right -, pixels in [0, 255]; labels int32 [batch]).
    """
    _check_batches(source, batch_size, crop, shorter_side)
    cuts = {"center": _cut_at_center, "five": _cut_five_times}
    if crops not in cuts:
        raise ValueError(
            f"`crops` must be one of {', '.join(cuts)}. Received: {crops!r}. "
            "Pass crops='center' for one image each."
        )
    scaled = _scaling(source, shorter_side, crop)

    def cut(images, numbers, _):
        return cuts[crops](scaled(images, numbers), crop)

    numbers = np.arange(len(source.labels))
    rows = (numbers, np.zeros([len(numbers), 0]))
    return _batches(source, rows, batch_size, cut, corrupt)


def _batches(source, rows, batch_size, cut, corrupt):
    """Return the data set of rows (numbers of images [m], random numbers [m, k])."""
    with tf.device("CPU"):
        labels = tf.constant(source.labels, tf.int32)

    def fetched(numbers, table):
        return source.fetch(numbers), numbers, table

    def cut_out(images, numbers, table):
        return cut(images, numbers, table), numbers

    def labelled(images, numbers):
        return tf.cast(images, tf.float32), tf.gather(labels, numbers)

    count = len(rows[0])
    batches = (
        tf.data.Dataset.from_tensor_slices(rows)
        .batch(batch_size, drop_remainder=count % batch_size == 0)
        .map(fetched, num_parallel_calls=2)
    )
    if source.decode is None:
        batches = batches.map(cut_out, num_parallel_calls=_THREADS)
    else:
        batches = _decoded(batches, source, batch_size, cut_out, corrupt)
    steps = -(-count // batch_size)
    return (
        batches.map(labelled)
        .apply(tf.data.experimental.assert_cardinality(steps))
        .prefetch(1)
        .with_options(_options())
    )


def _decoded(batches, source, batch_size, cut_out, corrupt):
    """Return the batches of what can be decoded: pixels, numbers of the images.

    A data set for each batch, of which `ignore_errors` drops what fails, leaves every
    other image in its own batch, and costs nothing measurable for each image.
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
    """A data set of one batch of no elements: a batch of which none is left."""
    return tf.data.Dataset.from_tensors(
        tuple(tf.zeros([0, *part.shape], part.dtype) for part in spec)
    )


def _reporter(source, corrupt):
    """Return a function: numbers of a batch, numbers kept -> the latter, rest reported.

    Python is called only when an image is missing.
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
    # Several workers each read the whole order and take their part of every batch:
    # there are no files to be split between them.
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    return options


# Images


def _scaling(source, shorter_side, crop, pad=0):
    """Return a function: images, their numbers -> images large enough for the crop."""
    if shorter_side is not None:
        return lambda images, numbers: _scaled(images, shorter_side)
    if source.image_shape is not None:
        return lambda images, numbers: images
    return _large_enough(source, crop, pad)


def _scaled(images, shorter_side):
    """Scale images [..., height, width, channels] to a shorter side, in pixels."""
    size = _size(images)
    shorter = tf.reduce_min(size)
    target = (size * shorter_side + shorter // 2) // shorter
    # Smoothing costs more than decoding, and shows in what is more than halved.
    return tf.cond(
        shorter > 2 * shorter_side,
        lambda: tf.image.resize(images, target, antialias=True),
        lambda: tf.image.resize(images, target),
    )


def _large_enough(source, crop, pad):
    """Return a function: an image, its number -> the image, or an error naming it."""

    def refuse(size, number):
        raise ValueError(
            f"keras_tilt: Images must have at least the size of `crop`, {crop}. "
            f"Received: {source.name(int(number))}, {tuple(size.tolist())}. "
            "Pass `shorter_side`, or a smaller crop."
        )

    def checked(image, number):
        size = _size(image)
        done = tf.cond(
            tf.reduce_all((size + 2 * pad >= crop) & (size > pad)),
            lambda: tf.constant(0),
            lambda: tf.numpy_function(refuse, [size, number], tf.int32),
        )
        with tf.control_dependencies([done]):
            return tf.identity(image)

    return checked


def _cut_at_random(images, crop, pad, rows):
    """Cut an image where a row [3] says, or a batch where rows [batch, 3] say.

    The first pixel down is floor(u (room + 1)), of a side that is extended by `pad`
    and has `room` more than the crop; so across. Mirrored if the third is below 1/2.
    """
    room = _size(images) + 2 * pad - crop
    first = tf.cast(rows[..., :2] * tf.cast(room + 1, rows.dtype), tf.int32)
    mirrored = rows[..., 2] < 0.5
    if images.shape.rank == 4:
        return _gathered(images, first - pad, crop, mirrored)
    if pad:
        images = tf.pad(images, [[pad, pad], [pad, pad], [0, 0]], "REFLECT")
    image = _cut(images, first, crop)
    return tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: image)


def _gathered(images, first, crop, mirrored):
    """Cut a batch at as many places; for small images 5 times as fast as one by one."""
    side = _size(images)
    down = _reflected(first[:, :1] + tf.range(crop[0]), side[0])
    across = _reflected(first[:, 1:] + tf.range(crop[1]), side[1])
    across = tf.where(mirrored[:, None], across[:, ::-1], across)
    images = tf.gather(images, down, axis=1, batch_dims=1)
    return tf.gather(images, across, axis=2, batch_dims=1)


def _reflected(places, side):
    """Indices into a side of those into its extension: -1 is 1, side is side - 2."""
    return (side - 1) - tf.abs((side - 1) - tf.abs(places))


def _cut_at_center(images, crop):
    return _cut(images, (_size(images) - crop) // 2, crop)


def _cut_five_times(images, crop):
    """Center, top left, top right, bottom left, bottom right: [..., 5, *crop, c]."""
    room = _size(images) - crop
    corners = [room * corner for corner in ([0, 0], [0, 1], [1, 0], [1, 1])]
    cuts = [_cut(images, corner, crop) for corner in (room // 2, *corners)]
    return tf.stack(cuts, axis=-4)


def _cut(images, corner, crop):
    (top, left), (height, width) = tf.unstack(corner), crop
    cut = images[..., top : top + height, left : left + width, :]
    return tf.ensure_shape(cut, [*images.shape[:-3], *crop, images.shape[-1]])


def _size(images):
    """Height and width of images [..., height, width, channels], int32 [2]."""
    return tf.shape(images)[-3:-1]


# Checks


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
                f"extended by less than that. Received: crop={crop}, pad={pad}. "
                "Pass a smaller one."
            )


def _checked_order(source, order):
    """Numbers of images, int64 [m], of integers of any type."""
    count = len(source.labels)
    order = np.asarray(order)
    whole = order.ndim == 1 and order.dtype.kind in "iu"
    if not whole or np.any((order < 0) | (order >= count)):
        raise ValueError(
            f"`order` must be numbers of images, integers in 0..{count - 1}. Received: "
            f"{order.dtype} {list(order.shape)}. Draw it from the labels of `source`."
        )
    return order.astype(np.int64)


def _check_classes(num_classes, batch_size, classes_per_batch):
    check_count("batch_size", batch_size, 1)
    check_count("classes_per_batch", classes_per_batch, 1)
    if classes_per_batch > num_classes or batch_size % classes_per_batch:
        raise ValueError(
            f"`classes_per_batch` must be at most {num_classes}, the classes with "
            f"images, and divide `batch_size`, {batch_size}. "
            f"Received: {classes_per_batch}. Choose a smaller divisor."
        )


def _check_kinds(kinds, shares):
    for kind, images, share in zip(
        ("labelled", "unlabelled"), kinds, shares, strict=True
    ):
        if share and not len(images):
            raise ValueError(
                f"Expected {kind} images, {share} for each batch. Received: labels "
                "without any. Change `labelled_per_batch`."
            )
