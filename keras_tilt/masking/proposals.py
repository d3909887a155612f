"""Proposals: segments that may be objects or stuff, from superpixels and their unions.

    partition(k) = superpixels of `felzenszwalb` at scale k
    tree(k)      = the partition, and the unions that Ward's method merges one by one,
                   of superpixels that touch, up to the whole image
    next         = argmax over nodes s of all trees of
                   area(s)^(1/3) (1 - max over the proposals p so far of IoU(s, p))

Proposals come in the order of the last line, so that the first k of many are those that
are made if k are asked for: each tells something that those before it do not.

Source: Felzenszwalb and Huttenlocher 2004; unions of superpixels at several scales as
candidates, Uijlings et al. 2013, "Selective search", who merge by colour, texture and
size; the order, without the area, Gonzalez 1985. The paper takes selective search.
"""

__all__ = ["proposals", "superpixels"]

import numpy as np
import scipy.ndimage
import scipy.sparse
from skimage.color import rgb2lab
from skimage.segmentation import felzenszwalb
from sklearn.cluster import ward_tree

from keras_tilt.masking.segments.atoms import Segments, joined
from keras_tilt.validation import check_count

_SCALES = (30, 60, 120, 240, 480)
_SIGMA = 0.4  # of the blur, pixels
_SMALLEST = 1 / 2000  # share of the image
_NODES = 1000  # of a tree, the largest; few photographs have more
# What differences count as, against those of colour in units of CIE Lab.
_OF_TEXTURE = 5.0  # per unit of lightness and pixel
_OF_PLACE = 150.0  # per longer side of the image


def proposals(image, max_segments=1500):
    """Return segments of an image that may be objects or stuff.

    Args:
        image: pixels in [0, 255], uint8 [height, width, 3].
        max_segments: how many there may be at most.

    Returns:
        proposals: `Segments`, no two of the same pixels; the first is the whole image.
            The same image gives the same ones.

    Raises:
        ValueError: for what is no image, or no number of segments.

    Example:
        >>> image = np.full([60, 80, 3], 200, np.uint8)
        >>> proposals(image).areas
        array([4800])
    """
    check_count("max_segments", max_segments, 1)
    partitions = superpixels(image)
    channels = _channels(image)
    trees = [_tree(channels, partition) for partition in partitions]
    overlap = np.block([[one.overlap(other) for other in trees] for one in trees])
    return _in_order(trees, _order(overlap, max_segments))


def superpixels(image):
    """Return partitions of an image into pieces of about one colour.

    Args:
        image: pixels in [0, 255], uint8 [height, width, 3].

    Returns:
        partitions: list of label maps, int64 [height, width], from fine to coarse.

    Raises:
        ValueError: for what is no image.
    """
    image = _checked_image(image)
    smallest = round(_SMALLEST * image.shape[0] * image.shape[1])
    return [felzenszwalb(image, scale, _SIGMA, smallest) for scale in _SCALES]


# Trees


def _channels(image):
    """What superpixels are compared by, [height, width, 7]: colour, texture, place."""
    colour = rgb2lab(image)
    gradient = [scipy.ndimage.sobel(colour[..., 0], axis) / 8 for axis in (0, 1)]
    place = np.indices(image.shape[:2]) / max(image.shape)
    return np.dstack([colour, *(_OF_TEXTURE * np.abs(gradient)), *(_OF_PLACE * place)])


def _tree(channels, partition):
    """Superpixels, then their unions by Ward's method, as `Segments`."""
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
    """Means over every superpixel, [superpixels, channels]."""
    labels = partition.ravel()
    sums = [
        np.bincount(labels, channel.ravel()) for channel in np.moveaxis(channels, 2, 0)
    ]
    return np.stack(sums, axis=1) / np.bincount(labels)[:, np.newaxis]


def _adjacent(partition):
    """Which superpixels touch along a side of a pixel: sparse, symmetric."""
    count = partition.max() + 1
    firsts = np.concatenate([partition[1:].ravel(), partition[:, 1:].ravel()])
    seconds = np.concatenate([partition[:-1].ravel(), partition[:, :-1].ravel()])
    touch = np.ones(len(firsts))
    touching = scipy.sparse.coo_array((touch, (firsts, seconds)), (count, count))
    return (touching + touching.T).tocsr()


# The order


def _order(overlap, count):
    """Numbers of segments, [k <= count], each the one that is missing most.

    Args:
        overlap: pixels that segments have in common, [n, n].
        count: how many there may be at most.
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
    """Segments of several sets, numbered through from the first to the last set."""
    of_set = np.repeat(np.arange(len(several)), [len(s) for s in several])[order]
    within = np.concatenate([np.arange(len(s)) for s in several])[order]
    parts = [s.select(within[of_set == i]) for i, s in enumerate(several)]
    places = np.argsort(np.argsort(of_set, kind="stable"))
    return joined(*parts).select(places)


# Checks


def _checked_image(image):
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            "`image` must be pixels uint8 [height, width, 3]. Received: "
            f"{image.dtype} {list(image.shape)}. Repeat a gray channel three times."
        )
    if not image.size:
        raise ValueError(
            "`image` must have pixels. Received: "
            f"{list(image.shape)}. Leave out what is empty."
        )
    return image
