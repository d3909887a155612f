"""Scenes of an .npz file: images, encoded or not, label maps, and class names.

    x_<split>, or <split>_buf and <split>_off;    y_<split>;    class_names

Void is a label, or a class of some name.
"""

__all__ = ["npz"]

import os
import pathlib
from collections.abc import Iterable

import numpy as np

from keras_tilt.data import npz_archives
from keras_tilt.masking.scenes.annotation_files import (
    VOID,
    in_range,
    of_size,
    pixels_of,
)
from keras_tilt.masking.scenes.labelled_images import Scene, Scenes
from keras_tilt.validation import as_names, check_count

_VOID_NAMES = ("unlabelled", "unlabeled", "void")


def npz(
    path: str | os.PathLike[str],
    split: str,
    stuff: Iterable[str] = (),
    background: str | None = None,
    void: int | str | None = None,
) -> Scenes:
    """Return the scenes of an .npz file with arrays y_<split> and class_names.

    Images are x_<split>, uint8 [n, height, width, 3], or encoded in <split>_buf,
    <split>_off: image i is the bytes buf[off[i] : off[i + 1]]. Label maps are
    y_<split>, integers [n, height, width]. Objects of a class are not separated.

    Args:
        path: the file.
        split: "train", "test", ...
        stuff: names of the classes that are stuff.
        background: name of the class of pixels that belong to no other class, or None.
        void: label or class name of void pixels; by default 255, and any class called
            unlabelled, unlabeled or void. If it is the last class, it is left out of
            `class_names`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or has other arrays, or an unknown class name.
    """
    path = pathlib.Path(path).expanduser()
    found = _read_npz(path, split)
    names = as_names(f"class_names of {path}", found["class_names"])
    voids = _voids(path, names, void)
    if len(names) - 1 in voids:
        names.pop()
    labels, image = found[f"y_{split}"], _image_reader(path, split, found)

    def read(i):
        where = f"image {i} of {split} in {path}"
        pixels = image(where, i)
        numbers = of_size(where, labels[i], pixels)
        is_void = np.isin(numbers, voids)
        known = in_range(where, np.where(is_void, 0, numbers), len(names))
        return Scene(pixels, np.where(is_void, -1, known.astype(np.int32)), None)

    return Scenes(
        class_names=names,
        stuff=frozenset(_number_of(path, names, name) for name in stuff),
        background=None if background is None else _number_of(path, names, background),
        keys=list(range(len(labels))),
        read=read,
        called=f"{split}_{{}}".format,
    )


def _voids(path, names, void):
    """Return the labels that are void."""
    if void is None:
        called = (c for c, name in enumerate(names) if name.lower() in _VOID_NAMES)
        return [VOID, *called]
    if isinstance(void, str):
        return [_number_of(path, names, void)]
    check_count("void", void, 0)
    return [int(void)]


def _number_of(path, names, name):
    if name not in names:
        raise ValueError(
            f"Expected the name of a class of {path}. Received: {name!r}. "
            f"Classes: {', '.join(names)}."
        )
    return names.index(name)


def _image_reader(path, split, found):
    """Return the function of a name for errors and an image index: its pixels."""
    pixels, buffer = found.get(f"x_{split}"), found.get(f"{split}_buf")
    if pixels is not None:
        return lambda where, i: pixels[i].copy()
    offsets = found[f"{split}_off"]
    return lambda where, i: pixels_of(
        where, npz_archives.encoded_image(buffer, offsets, i)
    )


def _read_npz(path, split):
    """Return the arrays of a split and class_names, by name."""
    pixels, labels = f"x_{split}", f"y_{split}"
    encoded = {f"{split}_buf", f"{split}_off"}
    found = npz_archives.read_npz(path, {pixels, labels, "class_names", *encoded})
    has_images = pixels in found or encoded <= found.keys()
    if not has_images or not {labels, "class_names"} <= found.keys():
        raise ValueError(
            f"Expected {path} to hold {labels}, class_names, and {pixels} or "
            f"{' and '.join(sorted(encoded))}. Received: {npz_archives.keys_of(path)}. "
            "Name one of its splits."
        )
    _check_arrays(path, split, found)
    return found


def _check_arrays(path, split, found):
    labels = found[f"y_{split}"]
    pixels = found.get(f"x_{split}")
    if pixels is None:
        buffer, offsets = found[f"{split}_buf"], found[f"{split}_off"]
        count = len(labels) if labels.ndim else 0
        right = npz_archives.are_encoded(buffer, offsets, count)
        received = f"{split}_buf {_kind(buffer)}, {split}_off {_kind(offsets)}"
    else:
        right = pixels.dtype == np.uint8 and pixels.shape == (*labels.shape, 3)
        received = f"x_{split} {_kind(pixels)}"
    if not right or labels.ndim != 3 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"Expected {path} to hold label maps, integers [n, height, width], and as "
            "many images: uint8 [n, height, width, 3], or encoded, with n + 1 offsets "
            "that rise from 0 to the length of their buffer. Received: "
            f"y_{split} {_kind(labels)}, {received}. Write the file again."
        )


def _kind(array):
    return f"{array.dtype} {list(array.shape)}"
