"""Proposals: segments that may be objects or stuff, from superpixels and their unions.

    partition(k) = superpixels of `felzenszwalb` at scale k
    tree(k)      = the partition, and the unions of touching superpixels that Ward's
                   method merges one by one, up to the whole image
    next         = argmax over nodes s of all trees of
                   area(s)^(1/3) (1 - max over the proposals p so far of IoU(s, p))

Proposals come in the order of the last line, each as different as possible from those
before it: the first k of many are those one gets by asking for k.

Source: Felzenszwalb and Huttenlocher 2004; unions of superpixels at several scales as
candidates, Uijlings et al. 2013, "Selective search", who merge by colour, texture and
size; the order, without the area, Gonzalez 1985. The paper uses selective search.
"""

__all__ = ["proposals", "superpixels"]

import numpy as np
import scipy.ndimage
import scipy.sparse
from numpy.typing import ArrayLike
from skimage.color import rgb2lab
from skimage.segmentation import felzenszwalb
from sklearn.cluster import ward_tree

from keras_tilt.masking.segments.atoms import Segments, joined
from keras_tilt.masking.superpixels import PLACE_WEIGHT, TEXTURE_WEIGHT
from keras_tilt.validation import check_count

_SCALES = (30, 60, 120, 240, 480)
_SIGMA = 0.4  # of the blur, pixels
_SMALLEST = 1 / 2000  # area of a superpixel, share of the image
_NODES = 1000  # the largest of a tree; few photographs have more


def proposals(image: ArrayLike, max_segments: int = 1500) -> Segments:
    """Return segments of an image that may be objects or stuff.

    Args:
        image: pixels in [0, 255], uint8 [height, width, 3].
        max_segments: number of segments, at most.

    Returns:
        proposals: `Segments`, no two of the same pixels; the first is the whole image.
            They are a function of the image.

    Raises:
        ValueError: an array that is not an image, or `max_segments` below 1.

    Example:
        >>> image = np.full([60, 80, 3], 200, np.uint8)
        >>> proposals(image).areas
        array([4800])
    """
    check_count("max_segments", max_segments, 1)
    image = _checked_image(image)
    partitions = superpixels(image)
    channels = _channels(image)
    trees = [_tree(channels, partition) for partition in partitions]
    overlap = np.block([[one.overlap(other) for other in trees] for one in trees])
    return _in_order(trees, _order(overlap, max_segments))


def superpixels(image: ArrayLike) -> list[np.ndarray]:
    """Return partitions of an image into pieces of nearly one colour.

    Args:
        image: pixels in [0, 255], uint8 [height, width, 3].

    Returns:
        partitions: list of label maps, int64 [height, width], from fine to coarse.

    Raises:
        ValueError: an array that is not an image.
    """
    image = _checked_image(image)
    smallest = round(_SMALLEST * image.shape[0] * image.shape[1])
    return [felzenszwalb(image, scale, _SIGMA, smallest) for scale in _SCALES]


# Trees


def _channels(image):
    """Return what superpixels are compared by: colour, texture, place, [h, w, 7]."""
    colour = rgb2lab(image)
    gradient = [scipy.ndimage.sobel(colour[..., 0], axis) / 8 for axis in (0, 1)]
    place = np.indices(image.shape[:2]) / max(image.shape)
    return np.dstack(
        [colour, *(TEXTURE_WEIGHT * np.abs(gradient)), *(PLACE_WEIGHT * place)]
    )


def _tree(channels, partition):
    """Return superpixels, then their unions by Ward's method, as `Segments`."""
    count = partition.max() + 1
    members = list(np.eye(count, dtype=bool))
    if count > 1:
        means = _means(channels, partition)
        for one, other in ward_tree(means, connectivity=_adjacent(partition))[0]:
            members.append(members[one] | members[other])
    tree = Segments(partition, np.stack(members))
    largest = np.argsort(-tree.areas, kind="stable")[:_NODES]
    return tree.select(np.sort(largest))


def _means(channels, partition):
    """Return the means over every superpixel, [superpixels, channels]."""
    labels = partition.ravel()
    sums = [
        np.bincount(labels, channel.ravel()) for channel in np.moveaxis(channels, 2, 0)
    ]
    return np.stack(sums, axis=1) / np.bincount(labels)[:, np.newaxis]


def _adjacent(partition):
    """Return which superpixels touch along a side of a pixel, sparse and symmetric."""
    count = partition.max() + 1
    firsts = np.concatenate([partition[1:].ravel(), partition[:, 1:].ravel()])
    seconds = np.concatenate([partition[:-1].ravel(), partition[:, :-1].ravel()])
    touch = np.ones(len(firsts))
    touching = scipy.sparse.coo_array((touch, (firsts, seconds)), (count, count))
    return (touching + touching.T).tocsr()


# The order


def _order(overlap, count):
    """Return indices of segments, [k <= count], each the one that is missing most.

    Args:
        overlap: pixels that segments share, [n, n].
        count: number of segments, at most.
    """
    areas = np.diagonal(overlap)
    iou = overlap / (areas[:, np.newaxis] + areas - overlap)
    weights, nearest, order = np.cbrt(areas), np.zeros(len(areas)), []
    for _ in range(min(count, len(areas))):
        missing = weights * (1 - nearest)
        order.append(np.argmax(missing))
        if missing[order[-1]] == 0:  # only duplicates are left
            return order[:-1]
        nearest = np.maximum(nearest, iou[order[-1]])
    return order


def _in_order(several, order):
    """Return segments of several sets in an order of indices into all of them."""
    of_set = np.repeat(np.arange(len(several)), [len(s) for s in several])[order]
    within = np.concatenate([np.arange(len(s)) for s in several])[order]
    parts = [s.select(within[of_set == i]) for i, s in enumerate(several)]
    places = np.argsort(np.argsort(of_set, kind="stable"))
    return joined(*parts).select(places)


# Checks


def _checked_image(image: ArrayLike) -> np.ndarray:
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            "`image` must be pixels uint8 [height, width, 3]. Received: "
            f"{image.dtype} {list(image.shape)}. Repeat a gray channel three times."
        )
    if not image.size:
        raise ValueError(
            f"`image` must have pixels. Received: {list(image.shape)}. Leave it out."
        )
    return image
