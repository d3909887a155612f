"""PASCAL-Context: the images of VOC 2010 with 59 classes of objects and stuff.

    class of a pixel = class_of[LabelMap], -1 for the 400 labels left out

Source: Mottaghi et al. 2014; Long et al. 2015 for the lists of images and classes.
"""

__all__ = ["pascal_context"]

import functools
import os
import pathlib

import numpy as np

from keras_tilt.masking.scenes.annotation_files import (
    in_range,
    lines_of,
    matrix_of,
    of_size,
    pixels_of,
)
from keras_tilt.masking.scenes.labelled_images import Scene, Scenes
from keras_tilt.masking.scenes.pascal_voc import image_names, voc_folder

# The 59 classes of PASCAL-Context, as labels.txt names them. Which are stuff is our
# choice: those with a counterpart in the stuff of COCO-Stuff (Caesar, Uijlings, Ferrari
# 2018), as sidewalk = pavement, track = railroad, bedclothes = blanket. Objects are the
# 20 classes of VOC, and those with one only among the 91 objects of COCO (Lin et al.
# 2014), as plate, sign = street sign, computer = laptop.
_OBJECTS = frozenset(
    (
        "aeroplane bicycle bird boat bottle bus car cat chair cow table dog horse "
        "motorbike person pottedplant sheep sofa train tvmonitor "
        "bag bed bench book computer cup keyboard mouse plate sign truck"
    ).split()
)
_STUFF = frozenset(
    (
        "bedclothes building cabinet ceiling cloth curtain door fence floor flower "
        "food grass ground light mountain platform road rock shelves sidewalk sky "
        "snow track tree wall water window wood"
    ).split()
)
# 59_labels.txt and labels.txt call three classes differently (Long et al. 2015, code).
_NAMES = {"diningtable": "table", "bedcloth": "bedclothes", "clothes": "cloth"}


def pascal_context(
    directory: str | os.PathLike[str], voc_directory: str | os.PathLike[str], split: str
) -> Scenes:
    """Return the scenes of PASCAL-Context: images of VOC 2010 with 59 classes.

    Pixels of the other 400 classes, and of none, are void. Objects of a class are not
    separated.

    Args:
        directory: the folder with trainval/<image>.mat, labels.txt and 59_labels.txt.
        voc_directory: the folder VOCdevkit, or VOC2010 in it.
        split: a list in ImageSets/Main of VOC 2010: "train" (4,998 images) or "val"
            (5,105). The lists in ImageSets/Segmentation have only a fifth of them.

    Raises:
        FileNotFoundError: a folder or a list is missing.
        ValueError: a list that is damaged or has other classes.

    Source: Mottaghi et al. 2014; Long et al. 2015 for the lists. Which classes
    are stuff is our choice: those that are in the stuff of COCO-Stuff.
    """
    directory = pathlib.Path(directory).expanduser()
    voc = voc_folder(voc_directory, "VOC2010")
    names = list(_numbered_names(directory / "59_labels.txt").values())
    known = [_NAMES.get(name, name) for name in names]
    _check_context_names(directory / "59_labels.txt", known)
    class_of = _context_classes(directory / "labels.txt", known)
    return Scenes(
        class_names=names,
        stuff=frozenset(c for c, name in enumerate(known) if name in _STUFF),
        background=None,
        keys=image_names(voc / "ImageSets" / "Main" / f"{split}.txt"),
        read=functools.partial(_read_context, directory, voc, class_of),
    )


def _read_context(directory, voc, class_of, key):
    image = pixels_of(voc / "JPEGImages" / f"{key}.jpg")
    file = directory / "trainval" / f"{key}.mat"
    numbers = of_size(file, matrix_of(file, "LabelMap"), image)
    return Scene(image, class_of[in_range(file, numbers, len(class_of), 0)], None)


def _context_classes(file, class_names):
    """Return the class for every label of a LabelMap, int32 [460]; -1 is void."""
    numbers = {name: number for number, name in _numbered_names(file).items()}
    missing = [name for name in class_names if name not in numbers]
    if missing:
        raise ValueError(
            f"Expected {file} to number the 59 classes. Received: a list without "
            f"{', '.join(missing[:3])}. Pass labels.txt of PASCAL-Context."
        )
    class_of = np.full(max(numbers.values()) + 1, -1, np.int32)
    class_of[[numbers[name] for name in class_names]] = np.arange(len(class_names))
    return class_of


def _numbered_names(file):
    """Return names by number > 0, from lines such as "1: accordion"."""
    if not file.is_file():
        raise FileNotFoundError(
            f"Expected {file.name} of PASCAL-Context. Received: {file}, which is not a "
            "file. Put trainval, labels.txt and 59_labels.txt into one folder."
        )
    lines = lines_of(file)
    try:
        pairs = [line.split(":") for line in lines]
        named = {int(number): name.replace(" ", "") for number, name in pairs}
    except ValueError as error:
        raise ValueError(
            f'Expected {file} to have lines as "1: accordion". Received: {error}. '
            "Fetch it again."
        ) from error
    return {number: named[number] for number in sorted(named) if number > 0}


def _check_context_names(file, names):
    expected = _OBJECTS | _STUFF
    if len(names) != len(expected) or set(names) != expected:
        other = sorted(set(names) ^ expected)
        raise ValueError(
            f"Expected {file} to name the {len(expected)} classes of PASCAL-Context. "
            f"Received: {len(names)} names; {', '.join(other[:3]) or 'some twice'} too "
            "many or too few. Fetch it again."
        )
