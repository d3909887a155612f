"""MNIST from a file, from TFDS, or the subset stored in the package.

    ((x_train, y_train), (x_test, y_test)), x uint8 [n, 28, 28, 1], y int32 [n] in 0..9

Nothing is ever downloaded.

Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits", 1998.
"""

__all__ = ["embedded_mnist", "load_mnist"]

import importlib.resources
import os
import pathlib

import numpy as np

from keras_tilt.data.npz_archives import keys_of, read_npz
from keras_tilt.validation import as_labels

Split = tuple[np.ndarray, np.ndarray]  # images and labels

_DATA_DIR_VARIABLE = "KERAS_TILT_DATA"

_KEYS = ("x_train", "y_train", "x_test", "y_test")
_HOW_TO_GET = (
    "`keras.datasets.mnist.load_data()` downloads mnist.npz to ~/.keras/datasets; "
    "`embedded_mnist()` needs no file (a subset of 6,000 images)."
)


def load_mnist(data_dir: str | os.PathLike[str] | None = None) -> tuple[Split, Split]:
    """Return all of MNIST, from `mnist.npz` or from data prepared by TFDS.

    Nothing is ever downloaded.

    Args:
        data_dir: folder that holds `mnist.npz` (layout of `keras.datasets.mnist`) or
            `mnist/<version>` prepared by TFDS. By default the environment variable
            KERAS_TILT_DATA.

    Returns:
        (x_train, y_train), (x_test, y_test): images uint8 [n, 28, 28, 1], pixels in
            [0, 255]; labels int32 [n], in 0..9.

    Raises:
        FileNotFoundError: the folder holds neither.
        ValueError: the file is truncated, or is not MNIST.
    """
    data_dir = data_dir or os.environ.get(_DATA_DIR_VARIABLE)
    if not data_dir:
        raise FileNotFoundError(
            "Expected a folder with mnist.npz. Received: no `data_dir`, and "
            f"{_DATA_DIR_VARIABLE} is not set. {_HOW_TO_GET}"
        )
    directory = pathlib.Path(data_dir).expanduser()
    if (directory / "mnist.npz").is_file():
        return _read_npz(directory / "mnist.npz")
    prepared = sorted(directory.glob("mnist/*/dataset_info.json"))
    if prepared:
        return _read_tfds(prepared[-1].parent)
    raise FileNotFoundError(
        f"Expected {directory / 'mnist.npz'}, or TFDS data prepared under "
        f"{directory / 'mnist'}. Received: a path with neither of them. {_HOW_TO_GET}"
    )


def embedded_mnist() -> tuple[Split, Split]:
    """Return the subset of MNIST stored in the package, 500 + 100 images per class.

    These are the first 500 training and the first 100 test images of every class, in
    file order.

    Returns:
        (x_train, y_train), (x_test, y_test): images uint8 [5000 or 1000, 28, 28, 1],
            pixels in [0, 255]; labels int32 [5000 or 1000], in 0..9.

    Example:
        >>> (x_train, y_train), (x_test, y_test) = embedded_mnist()
        >>> x_train.shape, x_test.shape
        ((5000, 28, 28, 1), (1000, 28, 28, 1))
    """
    package = importlib.resources.files(__package__)
    with importlib.resources.as_file(package / "embedded" / "mnist_6000.npz") as path:
        return _read_npz(path)


def _read_npz(path):
    arrays = read_npz(path, _KEYS, advice=_HOW_TO_GET)
    if len(arrays) < len(_KEYS):
        raise ValueError(
            f"Expected {path} to hold the arrays {', '.join(_KEYS)}. "
            f"Received: {keys_of(path)}. {_HOW_TO_GET}"
        )
    return tuple(
        _checked_split(path, split, arrays[f"x_{split}"], arrays[f"y_{split}"])
        for split in ("train", "test")
    )


def _read_tfds(path):
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(path)
        splits = {
            split: tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1))
            for split in ("train", "test")
        }
    except Exception as error:
        raise ValueError(
            f"Expected {path} to be MNIST as prepared by TFDS. Received: a folder that "
            f"cannot be read ({type(error).__name__}: {error}). Prepare it again with "
            f"`tfds.load('mnist', data_dir=...)`, or: {_HOW_TO_GET}"
        ) from error
    return tuple(
        _checked_split(path, split, arrays["image"], arrays["label"])
        for split, arrays in splits.items()
    )


def _checked_split(path, split, images, labels):
    """Return images [n, 28, 28, 1] and int32 labels [n], once they are checked."""
    labels = as_labels(f"y_{split} of {path}", labels)
    count = len(labels)
    if (
        images.dtype != np.uint8
        or images.shape not in [(count, 28, 28), (count, 28, 28, 1)]
        or not np.all((labels >= 0) & (labels < 10))
    ):
        raise ValueError(
            f"Expected MNIST in {path}: uint8 images [n, 28, 28] and n integer labels "
            f"in 0..9. Received in {split}: {images.dtype} images "
            f"{list(images.shape)}, {labels.dtype} labels {list(labels.shape)}. "
            f"{_HOW_TO_GET}"
        )
    return images.reshape(-1, 28, 28, 1), labels
