"""Sources held in memory: arrays of pixels, .npz files, and lists of encoded images.

    fetch(I) = images[I], pixels or encoded

Encoded images of equal size are decoded once, if their pixels fit into 2 GiB.
"""

__all__ = ["arrays", "npz", "of_encoded"]

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tilt.data import npz_archives
from keras_tilt.data.image_files import decoder
from keras_tilt.data.sources.image_source import Source, names_or_numbers
from keras_tilt.validation import as_labels

_LARGEST_IN_MEMORY = 2**31  # bytes of decoded images; larger sets stay encoded


def arrays(
    images: ArrayLike, labels: ArrayLike, class_names: Iterable[str] | None = None
) -> Source:
    """Return the source of images held in memory.

    Args:
        images: pixels in [0, 255], uint8 [n, height, width, channels], or gray
            [n, height, width].
        labels: classes, integers [n] or [n, 1]; -1 marks an unlabelled image.
        class_names: names by class; by default "0", "1", ...

    Example:
        >>> source = arrays(np.zeros([3, 8, 8], np.uint8), [0, 1, -1])
        >>> source.image_shape, source.class_names
        ((8, 8, 1), ['0', '1'])
    """
    images, labels = np.asarray(images), as_labels("labels", labels)
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) != labels.size:
        raise ValueError(
            "Expected images uint8 [n, height, width, channels] and labels [n]. "
            f"Received: {images.dtype} {list(images.shape)} and {labels.size} labels. "
            "Pass pixels as whole numbers in 0..255, and one label for each image."
        )
    with tf.device("CPU"):
        held = tf.constant(images)
    return Source(
        labels=labels,
        class_names=names_or_numbers(labels, class_names),
        image_shape=images.shape[1:],
        fetch=functools.partial(tf.gather, held),
        decode=None,
        name="image {}".format,
    )


def npz(
    path: str | os.PathLike[str],
    split: str | None = None,
    class_names: Iterable[str] | None = None,
) -> Source:
    """Return the source of an .npz file, in one of two layouts.

    Arrays x_<split>, y_<split>: as `keras.datasets` stores them, uint8
    [n, height, width] or [n, height, width, channels], and labels [n] or [n, 1].
    Encoded images <split>_buf, <split>_off, y_<split>: image i is the bytes
    buf[off[i] : off[i + 1]]; images of equal size that fit into 2 GiB are decoded
    once.

    Args:
        path: the file.
        split: "train", "test", ...; None for encoded images buf, off, y.
        class_names: names by class; by default `class_names` or `wnids` of the file,
            or else "0", "1", ...

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or has other arrays.
    """
    path = pathlib.Path(path).expanduser()
    pixels = f"x_{split}"
    buffer, offsets = (f"{split}_{k}" if split else k for k in ("buf", "off"))
    labels = f"y_{split}" if split else "y"
    found = npz_archives.read_npz(
        path, (pixels, buffer, offsets, labels, "class_names", "wnids")
    )
    names = found.get("class_names", found.get("wnids"))
    class_names = names if class_names is None else class_names
    if labels in found:
        found[labels] = as_labels(f"{labels} of {path}", found[labels])
    if pixels in found and labels in found:
        return arrays(found[pixels], found[labels], class_names)
    if not {buffer, offsets, labels} <= found.keys():
        raise ValueError(
            f"Expected {path} to hold the arrays {pixels} and {labels}, or {buffer}, "
            f"{offsets} and {labels}. Received: {npz_archives.keys_of(path)}. "
            "Name one of its splits."
        )
    images = _slices(path, found[buffer], found[offsets], len(found[labels]))
    return of_encoded(images, found[labels], class_names, 3, "image {}".format)


def _slices(path, buffer, offsets, count):
    """Return the encoded images in a buffer, a list of bytes."""
    if not npz_archives.are_encoded(buffer, offsets, count):
        raise ValueError(
            f"Expected {path} to hold a buffer of bytes, n labels, and n + 1 offsets "
            f"that rise from 0 to its length. Received: {buffer.dtype} "
            f"{list(buffer.shape)}, {count} labels and {len(offsets)} offsets up to "
            f"{offsets[-1]}. Write the file again."
        )
    return [npz_archives.encoded_image(buffer, offsets, i) for i in range(count)]


def of_encoded(
    images: list[bytes],
    labels: np.ndarray,
    class_names: Iterable[str] | None,
    channels: int,
    name: Callable[[int], str],
) -> Source:
    """Return the source of encoded images, decoded once if the pixels fit in memory.

    Args:
        images: list of bytes, each a JPEG, PNG, GIF or BMP file.
        labels: classes, integers [n]; -1 marks an unlabelled image.
        class_names: names by class; by default "0", "1", ...
        channels: 1 or 3.
        name: function of an image index, as in `Source`.
    """
    pixels = _pixels_of_one_size(images, channels)
    if pixels is not None:
        return dataclasses.replace(arrays(pixels, labels, class_names), name=name)
    with tf.device("CPU"):
        held = tf.constant(images)
    return Source(
        labels=labels,
        class_names=names_or_numbers(labels, class_names),
        image_shape=None,
        fetch=functools.partial(tf.gather, held),
        decode=decoder(channels),
        name=name,
    )


def _pixels_of_one_size(images, channels):
    """Return the pixels of encoded images, uint8 [n, ...], or None if that fails."""
    decode = decoder(channels)
    if not images:
        return None
    try:
        shape = decode(images[0]).shape
        if len(images) * shape.num_elements() > _LARGEST_IN_MEMORY:
            return None
        decoded = tf.data.Dataset.from_tensor_slices(images).map(
            lambda image: tf.ensure_shape(decode(image), shape),
            num_parallel_calls=os.cpu_count(),
        )
        held = np.concatenate(list(decoded.batch(256).as_numpy_iterator()))
    except tf.errors.OpError:  # sizes differ, or one is unreadable: left to `batches`
        return None
    return held
