"""Segments of an image, sets of pixels that may overlap: what they are, and readers.

They are held as unions of atoms, the pieces of a partition of the pixels.
"""

from keras_tilt.masking.segments.atoms import Segments, best_iou, joined, recall
from keras_tilt.masking.segments.files import arrays, of_arrays, of_file
from keras_tilt.masking.segments.masks import of_label_map, of_masks
from keras_tilt.masking.segments.run_lengths import of_rle

__all__ = [
    "Segments",
    "arrays",
    "best_iou",
    "joined",
    "of_arrays",
    "of_file",
    "of_label_map",
    "of_masks",
    "of_rle",
    "recall",
]
