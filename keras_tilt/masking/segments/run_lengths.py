"""Segments from run lengths, as COCO writes them.

    counts = pixels outside, inside, outside, ..., down one column after the other

Source: Lin et al., "Microsoft COCO: common objects in context", 2014.
"""

__all__ = ["of_rle"]

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np

from keras_tilt.masking.segments.atoms import Segments, check_same_size
from keras_tilt.masking.segments.masks import of_masks


def of_rle(
    encoded: Sequence[Mapping[str, Any]], shape: Sequence[int] | None = None
) -> Segments:
    """Return the segments given by run lengths, as COCO writes them.

    Args:
        encoded: dicts of "size", [height, width], and "counts": compressed, bytes or
            str, or run lengths, integers [k].
        shape: (height, width) of the image; by default the "size" of the first.

    Raises:
        ValueError: run lengths of another size, or that do not fill the image.

    Example:
        >>> of_rle([{"size": [2, 2], "counts": [1, 2, 1]}]).masks().astype(int)
        array([[[0, 1],
                [1, 0]]])
    """
    height, width = _size_of_all(encoded, shape)
    masks = np.zeros([len(encoded), height, width], bool)
    for number, rle in enumerate(encoded):
        masks[number] = _decoded(rle["counts"], height, width, number)
    return of_masks(masks)


def _decoded(counts, height, width, number):
    """Return the mask, [height, width], of the run lengths of one segment."""
    from pycocotools import mask

    size = [height, width]
    try:
        counts = np.asarray(counts).tolist()  # text stays text
        if not isinstance(counts, str | bytes):
            counts = _checked_lengths(counts)
            counts = mask.frPyObjects({"counts": counts, "size": size}, *size)["counts"]
        # pycocotools raises for too many pixels. Too few it would decode, and leave the
        # rest of the memory as it was.
        if _decodes({"counts": counts, "size": [height * width - 1, 1]}):
            raise ValueError("these are fewer pixels")
        return mask.decode({"counts": counts, "size": size})
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(
            f"Expected run lengths of {height} x {width} pixels. Received: for segment "
            f"{number} {str(counts)[:40]} ({error}). Alternate between pixels outside "
            "and inside, down one column after the other."
        ) from error


def _checked_lengths(counts):
    if not all(isinstance(count, Integral) for count in np.ravel(counts).tolist()):
        raise ValueError("these are not whole numbers")
    return counts


def _decodes(rle):
    from pycocotools import mask

    try:
        mask.decode(rle)
    except ValueError:
        return False
    return True


def _size_of_all(encoded, shape):
    """Return (height, width) of run lengths, which must be the same for all."""
    for rle in encoded:
        if not isinstance(rle, dict) or not {"size", "counts"} <= rle.keys():
            raise ValueError(
                "Expected run lengths as a dict of size and counts. Received: "
                f"{str(rle)[:60]}. Polygons must be turned into these first."
            )
    sizes = [shape] * (shape is not None) + [rle["size"] for rle in encoded]
    if not sizes:
        raise ValueError(
            "Expected run lengths, or the size of the image. Received: none and no "
            "size. Pass shape=(height, width)."
        )
    sizes = [_checked_size(size) for size in sizes]
    for size in sizes:
        check_same_size(sizes[0], size)
    return sizes[0]


def _checked_size(size):
    """Return (height, width) as int, from a list, a tuple or an array."""
    numbers = np.asarray(size)
    if numbers.shape != (2,) or numbers.dtype.kind not in "iu" or numbers.min() < 1:
        raise ValueError(
            "Expected a size, [height, width] in pixels. Received: "
            f"{str(size)[:60]}. Pass two positive whole numbers."
        )
    return tuple(numbers.tolist())
