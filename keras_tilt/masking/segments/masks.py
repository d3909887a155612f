"""Segments from masks and from label maps.

    masks       atoms = sets of pixels that lie in the same masks
    label map   atoms = segments = its values from 0 on

Pixels outside all segments are in no atom, -1.
"""

__all__ = ["of_label_map", "of_masks"]

import numpy as np
from numpy.typing import ArrayLike

from keras_tilt.masking.segments.atoms import (
    Segments,
    checked_binary,
    over_few_atoms,
)
from keras_tilt.validation import as_label_map


def of_masks(masks: ArrayLike) -> Segments:
    """Return the segments given by masks.

    Args:
        masks: bool, or 0 and 1, [segments, height, width].

    Returns:
        segments: `Segments`; their atoms are the sets of pixels that lie in the same
            masks.

    Raises:
        ValueError: masks of other values or of different sizes, or an empty one.

    Example:
        >>> segments = of_masks([[[1, 1, 0]], [[0, 1, 0]]])
        >>> segments.atoms
        array([[ 0,  1, -1]], dtype=int32)
        >>> segments.members
        array([[ True,  True],
               [False,  True]])
    """
    masks = checked_binary("masks", masks, "[segments, height, width]")
    height, width = masks.shape[1:]
    pixels = np.arange(height * width).reshape(height, width)
    return over_few_atoms(pixels, masks.reshape(len(masks), height * width))


def of_label_map(labels: ArrayLike) -> Segments:
    """Return the segments of a label map: one for each value from 0 on, in order.

    Args:
        labels: integers, [height, width]; -1 where there is no segment.

    Raises:
        ValueError: labels that are not integers, or not a map.

    Example:
        >>> of_label_map([[7, 7, -1, 3]]).areas
        array([1, 2])
    """
    labels = as_label_map("labels", labels)
    values, atoms = np.unique(labels, return_inverse=True)
    count = int(np.count_nonzero(values >= 0))
    return Segments(atoms - (len(values) - count), np.eye(count, dtype=bool))
