"""Tiny ImageNet, photographs of 64 x 64 pixels, in the layout it is distributed in.

    wnids.txt                     the classes, a WordNet id (wnid) on each line
    words.txt                     names by wnid
    train/WNID/images/*.JPEG      the class is the folder
    val/images/*.JPEG             the classes are in val/val_annotations.txt
    test/images/*.JPEG            no labels

Source: Stanford course CS231N, tiny-imagenet-200.
"""

__all__ = ["is_tiny_imagenet", "tiny_imagenet"]

import dataclasses
import os
import pathlib
from typing import Literal

import tensorflow as tf

from keras_tilt.data.sources.image_folders import decode_file, images_in, of_files
from keras_tilt.data.sources.image_source import Source

_SHAPE = (64, 64, 3)
_ANNOTATIONS = os.path.join("val", "val_annotations.txt")


def is_tiny_imagenet(directory: str | os.PathLike[str]) -> bool:
    """Return whether a folder has the layout of Tiny ImageNet.

    Args:
        directory: the folder.
    """
    directory = pathlib.Path(directory).expanduser()
    return all((directory / name).is_file() for name in ("wnids.txt", _ANNOTATIONS))


def tiny_imagenet(
    directory: str | os.PathLike[str],
    split: Literal["train", "validation", "test"] = "train",
) -> Source:
    """Return the source of a split of Tiny ImageNet, unpacked as it is distributed.

    Any number of classes: those of wnids.txt, in its order. Files are read on demand.

    Args:
        directory: folder with wnids.txt, train and val.
        split: "train", "validation", or "test", whose images have no label.

    Returns:
        source: `Source` of images of 64 x 64 pixels; class names are the first of each
            class in words.txt, such as "goldfish", or the wnid where it has none.

    Raises:
        FileNotFoundError: a file or folder of the layout is not there.
        ValueError: a class without images, images of unknown classes or another size,
            or another split.
    """
    directory = pathlib.Path(directory).expanduser()
    readers = {"train": _train, "validation": _validation, "test": _test}
    if split not in readers:
        raise ValueError(
            f"`split` must be one of {', '.join(readers)}. Received: {split!r}. "
            "Pass split='train'."
        )
    wnids = _text(directory, "wnids.txt").split()
    files, labels = readers[split](directory, {w: i for i, w in enumerate(wnids)})
    source = of_files(directory, files, labels, _names(directory, wnids))
    _check_first(source)
    return dataclasses.replace(source, image_shape=_SHAPE, decode=_decode)


def _train(directory, numbers):
    found = [
        (os.path.join("train", wnid, "images", file), number)
        for wnid, number in numbers.items()
        for file in images_in(_folder(directory, "train", wnid, "images"))
    ]
    missing = len(numbers) - len({number for _, number in found})
    if missing or not found:
        raise ValueError(
            f"Expected images of all {len(numbers)} classes of wnids.txt in "
            f"{directory / 'train'}. Received: none of {missing} of them. Unpack the "
            "archive again."
        )
    files, labels = zip(*found, strict=True)
    return list(files), list(labels)


def _validation(directory, numbers):
    rows = [line.split("\t") for line in _text(directory, _ANNOTATIONS).splitlines()]
    known = [row for row in rows if len(row) > 1 and row[1] in numbers]
    if not rows or len(known) < len(rows):
        raise ValueError(
            f"Expected {directory / _ANNOTATIONS} to name on each line a file and one "
            f"of the {len(numbers)} classes of wnids.txt. Received: {len(rows)} lines, "
            f"{len(rows) - len(known)} of them without such a class. Unpack the "
            "archive again."
        )
    files = [os.path.join("val", "images", row[0]) for row in known]
    return files, [numbers[row[1]] for row in known]


def _test(directory, numbers):
    files = images_in(_folder(directory, "test", "images"))
    return [os.path.join("test", "images", file) for file in files], [-1] * len(files)


def _names(directory, wnids):
    """Return the first name of each class; where two are equal, both and their wnids.

    The file is of all of WordNet as it is distributed; some have no line in others.
    """
    path = directory / "words.txt"
    lines = path.read_text().splitlines() if path.is_file() else []
    rows = dict(line.split("\t", 1) for line in lines if "\t" in line)
    names = [rows.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]
    return [
        name if names.count(name) == 1 else f"{name} ({wnid})"
        for name, wnid in zip(names, wnids, strict=True)
    ]


def _text(directory, name):
    path = directory / name
    if not path.is_file():
        raise FileNotFoundError(_expected(directory, f"no {name}"))
    return path.read_text()


def _folder(directory, *parts):
    path = directory.joinpath(*parts)
    if not path.is_dir():
        raise FileNotFoundError(_expected(directory, f"no {os.path.join(*parts)}"))
    return path


def _expected(directory, received):
    return (
        f"Expected {directory} to hold wnids.txt, train/WNID/images and val/images, as "
        f"tiny-imagenet-200 does. Received: {received}. Pass the folder that the "
        "archive unpacks to."
    )


def _decode(path):
    """Return the pixels of a file, or raise if they are not as many as they must be."""
    pixels = decode_file(path)
    with tf.control_dependencies([tf.debugging.assert_equal(tf.shape(pixels), _SHAPE)]):
        return tf.ensure_shape(tf.identity(pixels), _SHAPE)


def _check_first(source):
    """Check the size of one image; of others a wrong one is an unreadable image."""
    try:
        shape = tuple(decode_file(source.fetch([0])[0]).shape)
    except tf.errors.OpError:
        return  # unreadable: left to `batches`
    if shape != _SHAPE:
        raise ValueError(
            f"Expected images of {_SHAPE[0]} x {_SHAPE[1]} pixels. Received: "
            f"{source.name(0)}, {shape}. Read them with `sources.folder`."
        )
