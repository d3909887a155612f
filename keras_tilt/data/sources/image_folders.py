"""Folders of image files: one subfolder per class, or unlabelled images alone.

    label of <folder>/<class>/<file> = the index of <class> among the class names

Files are read on demand, in a graph.
"""

__all__ = ["decode_file", "folder", "images_in", "of_files"]

import functools
import os
import pathlib
import re
from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tilt.data.image_files import decoder
from keras_tilt.data.sources.image_source import Source
from keras_tilt.validation import as_names

_FILES = re.compile(r"\.(jpe?g|png)", re.IGNORECASE)


def folder(
    directory: str | os.PathLike[str], class_names: Iterable[str] | None = None
) -> Source:
    """Return the source of .jpg, .jpeg or .png files, one subfolder per class.

    A folder of images without subfolders is a source of unlabelled images. Photographs
    are rotated upright by their EXIF orientation; `image_files` says how a file is
    decoded.

    Args:
        directory: the folder; its subfolders are named after the classes.
        class_names: names by class. For a validation folder pass those of the training
            source, so that class indices agree; by default the subfolders, sorted.

    Raises:
        FileNotFoundError: `directory` is not a folder.
        ValueError: a subfolder that is no class or has no images, or images beside
            subfolders.
    """
    directory = pathlib.Path(directory).expanduser()
    if not directory.is_dir():
        raise FileNotFoundError(
            f"Expected a folder of images. Received: {directory}, which is not a "
            "folder. Pass the one that holds a subfolder for each class."
        )
    found = sorted(entry.name for entry in directory.iterdir() if entry.is_dir())
    found = [name for name in found if not name.startswith(".")]
    if class_names is None:
        class_names = [_legible(name) for name in found]
    names = as_names("class_names", class_names)
    _check_classes(directory, found, names)
    files = [(c, file) for c in found for file in images_in(directory / c)]
    loose = images_in(directory)
    _check_files(directory, found, files, loose)
    numbers = {name: number for number, name in enumerate(names)}
    return of_files(
        directory,
        [os.path.join(*file) for file in files] or loose,
        [numbers[_legible(c)] for c, _ in files] or [-1] * len(loose),
        names,
    )


def of_files(
    directory: pathlib.Path,
    files: Sequence[str],
    labels: ArrayLike,
    class_names: list[str],
) -> Source:
    """Return the source of files, which are read on demand.

    Args:
        directory: that they are in.
        files: their paths in it.
        labels: classes, -1 for an image without label.
        class_names: names by class.
    """
    with tf.device("CPU"):
        paths = tf.constant([os.fsencode(directory / file) for file in files])
    return Source(
        labels=np.asarray(labels),
        class_names=class_names,
        image_shape=None,
        fetch=functools.partial(tf.gather, paths),
        decode=decode_file,
        name=lambda i: _legible(files[i]),
    )


def decode_file(path: tf.Tensor) -> tf.Tensor:
    """Return the pixels of an image file in colour, uint8 [height, width, 3].

    Args:
        path: of the file, string [].
    """
    return decoder(3)(tf.io.read_file(path))


def _legible(name):
    """Return a file name as text, bytes that are not UTF-8 written in hexadecimal.

    Python holds such bytes as surrogates, which can neither be printed nor stored.
    """
    return os.fsencode(name).decode(errors="backslashreplace")


def images_in(directory: str | os.PathLike[str]) -> list[str]:
    """Return the names of the .jpg, .jpeg or .png files in a folder, sorted.

    Args:
        directory: the folder.
    """
    with os.scandir(directory) as entries:
        return sorted(
            entry.name
            for entry in entries
            if _FILES.fullmatch(os.path.splitext(entry.name)[1])
            and not entry.name.startswith(".")
        )


def _check_classes(directory, found, class_names):
    unknown = sorted(set(map(_legible, found)) - set(class_names))
    if unknown:
        raise ValueError(
            f"Expected the folders in {directory} to be named as the "
            f"{len(class_names)} classes. Received: {', '.join(unknown[:3])}. "
            "Rename them, or pass the `class_names` of the training source."
        )


def _check_files(directory, found, files, loose):
    empty = sorted(set(found) - {name for name, _ in files})
    if empty or bool(files) == bool(loose):
        raise ValueError(
            f"Expected {directory} to hold .jpg, .jpeg or .png images in one folder "
            f"per class, or images alone. Received: {len(found)} folders, "
            f"{len(empty)} of them without images ({', '.join(empty[:3]) or 'none'}), "
            f"and {len(loose)} images beside them. Move or remove what does not belong."
        )
