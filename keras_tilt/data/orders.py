"""Orders in which the images of a source are seen in one epoch.

    order of epoch e = a function of (seed, e), image indices int64 [steps * batch_size]

so a training that was stopped at any step finds the order it had.
"""

__all__ = ["by_classes", "by_labelled", "uniform_order"]

import numpy as np

from keras_tilt.validation import as_labels, check_count

# The stream of random numbers of (seed, epoch) that settles batches; `uniform_order`
# has the one without a number, `batches` the one of cuts.
_BATCHES = 1


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
