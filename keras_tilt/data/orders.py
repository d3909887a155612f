"""Orders in which the images of a source are seen in an epoch.

    order of epoch e = a function of (seed, e), image indices int64 [m]

so that a run stopped at any step resumes in the same order.
"""

__all__ = ["by_classes", "by_labelled", "uniform_order"]

import numpy as np
from numpy.typing import ArrayLike

from keras_tilt.validation import as_labels, check_count, check_seed

# The random stream of (seed, epoch) that composes batches; `uniform_order` has that of
# (seed, epoch) alone, `batches` another one for crops.
_BATCHES = 1


def uniform_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """Return a random permutation of all image indices, int64 [count].

    Args:
        count: number of images.
        seed: a non-negative integer.
        epoch: index of the epoch, from 0.
    """
    check_seed(seed)
    return np.random.default_rng([seed, epoch]).permutation(count)


def by_classes(
    labels: ArrayLike, batch_size: int, classes_per_batch: int, seed: int, epoch: int
) -> np.ndarray:
    """Return an order in which every batch has K classes, equally many images of each.

    Batches take their K = `classes_per_batch` classes from random permutations of all
    classes, one after the other, so that every class comes once before any comes again;
    the same holds for the images of a class. Unlabelled images are left out.

    Args:
        labels: classes, integers [n]; -1 marks an unlabelled image.
        batch_size: images per batch, a multiple of K.
        classes_per_batch: K.
        seed: a non-negative integer.
        epoch: index of the epoch, from 0.

    Returns:
        order: image indices, int64 [labelled // batch_size * batch_size].

    Raises:
        ValueError: K that is larger than the number of classes or does not divide the
            batch.
    """
    check_seed(seed)
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


def by_labelled(
    labels: ArrayLike, batch_size: int, labelled_per_batch: int, seed: int, epoch: int
) -> np.ndarray:
    """Return an order in which every batch has M labelled images.

    Labelled and unlabelled images come from random permutations of their own, one after
    the other: few labelled images are seen more often than many unlabelled ones.

    Args:
        labels: classes, integers [n]; -1 marks an unlabelled image.
        batch_size: images per batch.
        labelled_per_batch: M, at most `batch_size`.
        seed: a non-negative integer.
        epoch: index of the epoch, from 0.

    Returns:
        order: image indices, int64 [n // batch_size * batch_size].

    Raises:
        ValueError: M beyond the batch, or no image of a kind that is asked for.
    """
    check_seed(seed)
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
    """Return items [rows, length]; how often two of them are used differs by 1 at most.

    Rows are filled from random permutations, one after the other. Where a row ends one
    and begins the next, the items it holds are moved to the end of the next: with
    length <= len(items) the rest of the row needs at most the len(items) - held others,
    so no row holds an item twice.
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
    """Shuffle each batch, so that replicas get similar parts of it."""
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
