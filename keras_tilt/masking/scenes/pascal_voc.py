"""PASCAL VOC 2012: 20 classes of objects and background; SBD adds annotations.

    VOC   SegmentationClass, SegmentationObject   palette images, 255 is void
    SBD   cls, inst                               .mat files with GTcls, GTinst

Source: Everingham et al. 2010; Hariharan et al. 2011.
"""

__all__ = ["image_names", "voc", "voc_and_sbd", "voc_folder"]

import functools
import os
import pathlib

from keras_tilt.masking.scenes.annotation_files import (
    VOID,
    in_range,
    lines_of,
    matrix_of,
    of_size,
    palette_indices,
    pixels_of,
)
from keras_tilt.masking.scenes.labelled_images import Scene, Scenes

_VOC_CLASSES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable "
    "dog horse motorbike person pottedplant sheep sofa train tvmonitor"
).split()


def voc(directory: str | os.PathLike[str], split: str) -> Scenes:
    """Return the scenes of PASCAL VOC 2012: 20 classes of objects, and background.

    Args:
        directory: the folder VOCdevkit, or VOC2012 in it.
        split: a list in ImageSets/Segmentation: "train" (1,464 images), "val" (1,449)
            or "trainval".

    Raises:
        FileNotFoundError: a folder or a list is missing.
    """
    directory = voc_folder(directory, "VOC2012")
    keys = image_names(directory / "ImageSets" / "Segmentation" / f"{split}.txt")
    return _of_voc(keys, functools.partial(_read_voc, directory))


def voc_and_sbd(
    directory: str | os.PathLike[str], sbd_directory: str | os.PathLike[str]
) -> Scenes:
    """Return the usual training set, VOC 2012 train and SBD without VOC val.

    10,582 images. Those of VOC train have the annotations of VOC, the others those of
    SBD: GTcls.Segmentation holds the classes, GTinst.Segmentation the objects, and
    GTinst.Categories their classes once more.

    Args:
        directory: the folder VOCdevkit, or VOC2012 in it.
        sbd_directory: the folder benchmark_RELEASE, its folder dataset, or its parent.

    Source: Hariharan et al. 2011; Chen et al. 2015 for the number.
    """
    directory = voc_folder(directory, "VOC2012")
    sbd = _sbd_folder(sbd_directory)
    lists = directory / "ImageSets" / "Segmentation"
    train = image_names(lists / "train.txt")
    val = frozenset(image_names(lists / "val.txt"))
    both = train + image_names(sbd / "train.txt") + image_names(sbd / "val.txt")
    keys = [key for key in dict.fromkeys(both) if key not in val]
    own = frozenset(train)

    def read(key):
        if key in own:
            return _read_voc(directory, key)
        return _read_sbd(sbd, directory / "JPEGImages", key)

    return _of_voc(keys, read)


def _of_voc(keys, read):
    return Scenes(
        class_names=list(_VOC_CLASSES),
        stuff=frozenset(),
        background=0,
        keys=keys,
        read=read,
    )


def _read_voc(directory, key):
    image = pixels_of(directory / "JPEGImages" / f"{key}.jpg")
    classes = directory / "SegmentationClass" / f"{key}.png"
    numbers = directory / "SegmentationObject" / f"{key}.png"
    labels = of_size(classes, palette_indices(classes), image)
    instances = of_size(numbers, palette_indices(numbers), image)
    instances[instances == VOID] = 0
    return Scene(image, _voc_labels(classes, labels), instances)


def _read_sbd(directory, voc_images, key):
    file = voc_images / f"{key}.jpg"
    image = pixels_of(file if file.is_file() else directory / "img" / f"{key}.jpg")
    classes, numbers = (directory / kind / f"{key}.mat" for kind in ("cls", "inst"))
    labels = of_size(classes, matrix_of(classes, "GTcls", "Segmentation"), image)
    instances = of_size(numbers, matrix_of(numbers, "GTinst", "Segmentation"), image)
    return Scene(image, _voc_labels(classes, labels), instances)


def _voc_labels(file, labels):
    labels[labels == VOID] = -1
    return in_range(file, labels, len(_VOC_CLASSES))


def voc_folder(directory: str | os.PathLike[str], year: str) -> pathlib.Path:
    """Return the folder of a year of PASCAL VOC.

    Args:
        directory: the folder VOCdevkit, or that of the year in it.
        year: "VOC2010" or "VOC2012".

    Raises:
        FileNotFoundError: `directory` is neither.
    """
    directory = pathlib.Path(directory).expanduser()
    for folder in (directory / year, directory):
        if (folder / "JPEGImages").is_dir():
            return folder
    raise FileNotFoundError(
        f"Expected the folder {year} of PASCAL VOC, with JPEGImages. Received: "
        f"{directory}, which neither is nor holds it. Pass VOCdevkit, unpacked from "
        "the archive of the training and validation data."
    )


def _sbd_folder(directory):
    directory = pathlib.Path(directory).expanduser()
    for part in (".", "dataset", "benchmark_RELEASE/dataset"):
        if (directory / part / "cls").is_dir():
            return directory / part
    raise FileNotFoundError(
        "Expected the folder dataset of SBD, with cls. Received: "
        f"{directory}, which neither is nor holds it. Pass benchmark_RELEASE, unpacked "
        "from the archive of SBD."
    )


def image_names(file: pathlib.Path) -> list[str]:
    """Return the names of images in a list, the first word of every line.

    Args:
        file: the list.

    Raises:
        FileNotFoundError: there is no such file; the message names the others.
        ValueError: it is empty, or not UTF-8.
    """
    if not file.is_file():
        others = [f.stem for f in file.parent.glob("*.txt") if "_" not in f.stem]
        raise FileNotFoundError(
            f"Expected a list of images. Received: {file}, which is not a file. "
            f"Lists there: {', '.join(sorted(others)) or 'none'}."
        )
    ids = [line.split()[0] for line in lines_of(file)]
    if not ids:
        raise ValueError(
            f"Expected {file} to name images. Received: an empty list. Unpack it again."
        )
    return ids
