"""Pixels, labels and lists of images from files, or an error that names the file.

    pixels_of        uint8 [height, width, 3] of any image
    palette_indices  int32 [height, width], the numbers of the colours of a PNG file
    matrix_of        int32 [height, width], a variable of a .mat file

Labels have the size of their image (`of_size`) and are classes (`in_range`).
"""

__all__ = [
    "VOID",
    "in_range",
    "lines_of",
    "matrix_of",
    "of_size",
    "palette_indices",
    "pixels_of",
]

import io

import numpy as np
import scipy.io
from PIL import Image

from keras_tilt.data import npz_archives

VOID = 255  # where a data set does not say otherwise
_UNREADABLE = (
    *npz_archives.UNREADABLE,
    Image.DecompressionBombError,
    scipy.io.matlab.MatReadError,
    IndexError,
    KeyError,
    NotImplementedError,  # a .mat file of MATLAB 7.3
    SyntaxError,  # a damaged PNG
)


def pixels_of(where, content=None):
    """Return pixels, uint8 [height, width, 3], of a file or of the bytes of one."""
    image = _decoded(where, content)
    if image.mode.startswith(("I", "F")):  # which Pillow cuts off at 255
        return _of_16_bits(where, image)
    return np.array(image.convert("RGB"))


def _of_16_bits(where, image):
    """Return gray pixels of 16 bits, of which the upper 8 are kept, as of colours."""
    values = np.asarray(image)
    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() >= 2**16:
        raise ValueError(
            f"Expected {where} to have pixels of 8 or 16 bits. Received: "
            f"{values.dtype} from {values.min()} to {values.max()}. Scale them first."
        )
    return np.repeat(values[..., np.newaxis] >> 8, 3, axis=2).astype(np.uint8)


def palette_indices(file):
    """Return the numbers of colours in an image, int32 [height, width].

    A file of gray values is taken as one of numbers too.
    """
    image = _decoded(file)
    if image.mode not in ("P", "L"):
        raise ValueError(
            f"Expected {file} to have a palette, whose numbers are the labels. "
            f"Received: an image of mode {image.mode}. Take the file as distributed; "
            "programs for images may store the colours instead."
        )
    return np.array(image, np.int32)


def _decoded(where, content=None):
    """Return the image of a file, or of the bytes of one."""
    if content is None:
        _check_there(where)
    try:
        with Image.open(where if content is None else io.BytesIO(content)) as image:
            image.load()
            return image
    except _UNREADABLE as error:
        raise _unreadable(where, error) from error


def matrix_of(file, variable, field=None):
    """Return a matrix of a .mat file, int32, or a field of the struct that is there."""
    _check_there(file)
    try:
        found = scipy.io.loadmat(file, variable_names=[variable])[variable]
        matrix = found if field is None else found[field].item()
        return np.array(matrix).astype(np.int32)
    except _UNREADABLE as error:
        raise _unreadable(file, error) from error


def lines_of(file):
    """Return the lines of a text that are not empty."""
    try:
        lines = file.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"Expected {file} to be text in UTF-8. Received: {error}. Save it as UTF-8."
        ) from error
    return [line for line in lines if line.strip()]


def _check_there(file):
    if not file.is_file():
        raise FileNotFoundError(
            f"Expected the file {file}. Received: a folder without it. Unpack the "
            "data set again, or choose a split that has labels."
        )


def _unreadable(where, error):
    return ValueError(
        f"Expected {where} to be whole. Received: {type(error).__name__}: {error}. "
        "It may be truncated: fetch it again."
    )


def of_size(where, numbers, image):
    """Return an array of a number per pixel, if its size is that of the image."""
    if numbers.shape != image.shape[:2]:
        raise ValueError(
            f"Expected the labels of {where} to have the size of the image, "
            f"{list(image.shape[:2])}. Received: {list(numbers.shape)}. Take both "
            "as distributed, neither scaled nor cropped."
        )
    return numbers


def in_range(where, labels, num_classes, lowest=-1):
    """Return labels, if all are classes."""
    if labels.min() < lowest or labels.max() >= num_classes:
        raise ValueError(
            f"Expected the labels of {where} to be in {lowest}..{num_classes - 1}. "
            f"Received: {labels.min()}..{labels.max()}. Check that they are of this "
            "data set, and what is void there."
        )
    return labels
