"""Readers of images, labels and lists, with errors that name the file.

    pixels_of         pixels of an image, uint8 [height, width, 3]
    palette_indices   labels in an image with a palette, int32 [height, width]
    matrix_of         labels in a .mat file, int32 [height, width]

Labels must have the size of their image (`of_size`) and be classes (`in_range`).
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
import pathlib

import numpy as np
import scipy.io
from PIL import Image

from keras_tilt.data import npz_archives

VOID = 255  # the label of void pixels, unless a data set says otherwise
_UNREADABLE = (
    *npz_archives.UNREADABLE,
    Image.DecompressionBombError,
    scipy.io.matlab.MatReadError,
    IndexError,
    KeyError,
    NotImplementedError,  # a .mat file of MATLAB 7.3
    SyntaxError,  # a damaged PNG
)


def pixels_of(where: pathlib.Path | str, content: bytes | None = None) -> np.ndarray:
    """Return the pixels of an image, uint8 [height, width, 3].

    Args:
        where: the file; its name in errors, if `content` is given.
        content: bytes of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, or has pixels beyond 16 bits.
    """
    image = _decoded(where, content)
    if image.mode.startswith(("I", "F")):  # Pillow would clip these at 255
        return _of_16_bits(where, image)
    return np.array(image.convert("RGB"))


def _of_16_bits(where, image):
    """Return the upper 8 bits of gray pixels of 16 bits, as Pillow does for colours."""
    values = np.asarray(image)
    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() >= 2**16:
        raise ValueError(
            f"Expected {where} to have pixels of 8 or 16 bits. Received: "
            f"{values.dtype} from {values.min()} to {values.max()}. Scale them first."
        )
    return np.repeat(values[..., np.newaxis] >> 8, 3, axis=2).astype(np.uint8)


def palette_indices(file: pathlib.Path) -> np.ndarray:
    """Return the palette indices of an image, int32 [height, width].

    In a gray image, its values.

    Args:
        file: the image.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, or has neither a palette nor gray values.
    """
    image = _decoded(file)
    if image.mode not in ("P", "L"):
        raise ValueError(
            f"Expected {file} to have a palette, whose indices are the labels. "
            f"Received: an image of mode {image.mode}. Take the file as distributed; "
            "image editors may store the colours instead."
        )
    return np.array(image, np.int32)


def _decoded(where, content=None):
    """Return the Pillow image of a file, or of its bytes."""
    if content is None:
        _check_there(where)
    try:
        with Image.open(where if content is None else io.BytesIO(content)) as image:
            image.load()
            return image
    except _UNREADABLE as error:
        raise _unreadable(where, error) from error


def matrix_of(
    file: pathlib.Path, variable: str, field: str | None = None
) -> np.ndarray:
    """Return a matrix of a .mat file, int32.

    Args:
        file: the file.
        variable: name of the matrix, or of a struct.
        field: name of the matrix in the struct.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read.
    """
    _check_there(file)
    try:
        found = scipy.io.loadmat(file, variable_names=[variable])[variable]
        matrix = found if field is None else found[field].item()
        return np.array(matrix).astype(np.int32)
    except _UNREADABLE as error:
        raise _unreadable(file, error) from error


def lines_of(file: pathlib.Path) -> list[str]:
    """Return the lines of a text file that are not empty.

    Args:
        file: the file.

    Raises:
        ValueError: it is not UTF-8.
    """
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


def of_size(
    where: pathlib.Path | str, numbers: np.ndarray, image: np.ndarray
) -> np.ndarray:
    """Return labels, once their size is that of the image.

    Args:
        where: name of the labels in errors.
        numbers: [height, width].
        image: [height, width, 3].

    Raises:
        ValueError: another size.
    """
    if numbers.shape != image.shape[:2]:
        raise ValueError(
            f"Expected the labels of {where} to have the size of the image, "
            f"{list(image.shape[:2])}. Received: {list(numbers.shape)}. Take both "
            "as distributed, neither scaled nor cropped."
        )
    return numbers


def in_range(
    where: pathlib.Path | str, labels: np.ndarray, num_classes: int, lowest: int = -1
) -> np.ndarray:
    """Return labels, once all are in lowest..num_classes - 1.

    Args:
        where: name of the labels in errors.
        labels: integers [height, width].
        num_classes: number of classes.
        lowest: the lowest label allowed.

    Raises:
        ValueError: another label.
    """
    if labels.min() < lowest or labels.max() >= num_classes:
        raise ValueError(
            f"Expected the labels of {where} to be in {lowest}..{num_classes - 1}. "
            f"Received: {labels.min()}..{labels.max()}. Check that they are of this "
            "data set, and what is void there."
        )
    return labels
