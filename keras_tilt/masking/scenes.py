"""Data sets of images with a class for every pixel, read one image at a time.

    labels[v, u]      the class of a pixel, -1 = void: of no class, never judged
    instances[v, u]   the object that a pixel belongs to, 0 = none

PASCAL VOC 2012 with the annotations of SBD, PASCAL-Context, COCO panoptic, and .npz
files, each as it is distributed. Nothing is ever downloaded.

Source: Everingham et al. 2010; Hariharan et al. 2011; Mottaghi et al. 2014; Kirillov
et al. 2019.
"""

__all__ = [
    "Scene",
    "Scenes",
    "coco_panoptic",
    "npz",
    "objects",
    "pascal_context",
    "synthetic",
    "voc",
    "voc_and_sbd",
]

import collections.abc
import dataclasses
import functools
import io
import pathlib

import numpy as np
import scipy.io
from PIL import Image
from skimage import measure

from keras_tilt.data import npz_archives, tfds_builders
from keras_tilt.validation import as_label_map, as_names, check_count

_VOC_CLASSES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable "
    "dog horse motorbike person pottedplant sheep sofa train tvmonitor"
).split()

# The 59 classes of PASCAL-Context, as labels.txt names them. Which are stuff is our
# choice: what has a counterpart in the stuff of COCO-Stuff (Caesar, Uijlings, Ferrari
# 2018), as sidewalk = pavement, track = railroad, bedclothes = blanket. Objects are the
# 20 classes of VOC, and what has one only among the 91 objects of COCO (Lin et al.
# 2014), as plate, sign = street sign, computer = laptop.
_CONTEXT_OBJECTS = frozenset(
    (
        "aeroplane bicycle bird boat bottle bus car cat chair cow table dog horse "
        "motorbike person pottedplant sheep sofa train tvmonitor "
        "bag bed bench book computer cup keyboard mouse plate sign truck"
    ).split()
)
_CONTEXT_STUFF = frozenset(
    (
        "bedclothes building cabinet ceiling cloth curtain door fence floor flower "
        "food grass ground light mountain platform road rock shelves sidewalk sky "
        "snow track tree wall water window wood"
    ).split()
)
# 59_labels.txt and labels.txt call three classes differently (Long et al. 2015, code).
_CONTEXT_NAMES = {"diningtable": "table", "bedcloth": "bedclothes", "clothes": "cloth"}

_COCO = "coco/2017_panoptic"
_COCO_OBJECTS = 80  # of 133 classes, ordered by category id; the rest is stuff

_VOID = 255  # where a data set does not say otherwise
_VOID_NAMES = ("unlabelled", "unlabeled", "void")
_UNREADABLE = (
    *npz_archives.UNREADABLE,
    Image.DecompressionBombError,
    scipy.io.matlab.MatReadError,
    IndexError,
    KeyError,
    NotImplementedError,  # a .mat file of MATLAB 7.3
    SyntaxError,  # a damaged PNG
)


@dataclasses.dataclass(frozen=True)
class Scene:
    """One image.

    Attributes:
        image: pixels, uint8 [height, width, 3].
        labels: classes, int32 [height, width]; -1 is void. Integers of any type become
            int32.
        instances: numbers of objects, int32 [height, width]; 0 is no object. None if
            the data set does not tell objects of a class apart.
    """

    image: np.ndarray
    labels: np.ndarray
    instances: np.ndarray | None

    def __post_init__(self):
        object.__setattr__(self, "labels", as_label_map("labels", self.labels))
        if self.instances is not None:
            instances = as_label_map("instances", self.instances)
            object.__setattr__(self, "instances", instances)


@dataclasses.dataclass(frozen=True)
class Scenes:
    """A data set: `len(scenes)` images, of which `scenes[i]` reads one, a `Scene`.

    Attributes:
        class_names: list of str, by class.
        stuff: frozenset of the classes that are stuff, as sky; the others are objects.
        background: the class of what is none of the classes, or None.
        keys: list of what the images are called in the data set.
        read: function of a key that returns a `Scene`.
        called: function of a key that returns a name for errors and files.
    """

    class_names: list
    stuff: frozenset
    background: int | None
    keys: list
    read: collections.abc.Callable
    called: collections.abc.Callable = str

    def __post_init__(self):
        names = as_names("class_names", self.class_names)
        object.__setattr__(self, "class_names", names)

    def __len__(self):
        return len(self.keys)

    def __getitem__(self, i):
        return self.read(self.keys[i])

    def name(self, i):
        """What to call image i, in an error or as a file."""
        return self.called(self.keys[i])

    def select(self, indices):
        """The images of some numbers, in their order.

        Args:
            indices: integers [k], k >= 1, such as range(100) for the first 100.

        Raises:
            ValueError: if one of them is no number of an image.
        """
        indices = np.asarray(indices)
        _check_indices(indices, len(self))
        return dataclasses.replace(self, keys=[self.keys[i] for i in indices])


def objects(scene, classes):
    """Return the segments of objects in a scene, in the order of their numbers.

    Where the scene has instances, a segment is all of one, and its class the one that
    most of its pixels have. Where it has none, a segment is a connected component of
    the pixels of one class, neighbours at corners included: objects that touch are
    one, and one that is cut in two by another counts twice.

    Args:
        scene: a `Scene`.
        classes: numbers of the classes to return, usually those of objects.

    Returns:
        segments: list of (class, mask), bool [height, width].

    Example:
        >>> labels = np.array([[1, 0, 1], [1, 0, 1]])
        >>> scene = Scene(np.zeros([2, 3, 3], np.uint8), labels, None)
        >>> [(c, mask.tolist()) for c, mask in objects(scene, [1])][0]
        (1, [[True, False, False], [True, False, False]])
    """
    classes = [int(c) for c in classes]
    numbers = scene.instances
    if numbers is None:
        labels = np.where(np.isin(scene.labels, classes), scene.labels, -1)
        numbers = measure.label(labels, background=-1, connectivity=2)
    masks = [numbers == number for number in np.unique(numbers[numbers > 0])]
    segments = [(_class_of(scene.labels[mask]), mask) for mask in masks]
    return [(c, mask) for c, mask in segments if c in classes]


def _class_of(labels):
    """Return the most frequent class, -1 if all is void."""
    counts = np.bincount(labels + 1)
    counts[0] = 0
    return int(counts.argmax()) - 1 if counts.any() else -1


# Made


def synthetic(num_images, image_shape=(60, 80), seed=0):
    """Return scenes that are made when asked for: discs and squares before a landscape.

    Sky, ground and trees are stuff, told apart by colour and texture; discs and squares
    are objects of random colours, which only their form tells apart. Scene i is a
    function of (seed, i).

    Args:
        num_images: how many.
        image_shape: (height, width), pixels.
        seed: integer.

    Example:
        >>> scenes = synthetic(10)
        >>> scenes.class_names
        ['sky', 'ground', 'tree', 'disc', 'square']
        >>> scenes[3].image.shape
        (60, 80, 3)
    """
    check_count("num_images", num_images, 1)
    height, width = image_shape

    def made(number):
        rng = np.random.default_rng([seed, number])
        return _landscape(height, width, rng)

    return Scenes(
        class_names=["sky", "ground", "tree", "disc", "square"],
        stuff=frozenset([0, 1, 2]),
        background=None,
        keys=list(range(num_images)),
        read=made,
        called="scene_{}".format,
    )


_STUFF_COLOURS = np.array([[120, 170, 230], [130, 110, 80], [50, 110, 50]])
_STUFF_GRAIN = np.array([4.0, 18.0, 30.0])  # sd of the noise of a pixel


def _landscape(height, width, rng):
    rows, columns = np.indices([height, width])
    horizon = height * rng.uniform(0.35, 0.65)
    tops = horizon - height * 0.2 * np.sin(columns / width * 6 + rng.uniform(0, 6))
    labels = np.where(rows < np.minimum(tops, horizon), 0, 2)
    labels[rows >= horizon] = 1
    colours = (
        _STUFF_COLOURS[labels]
        + rng.normal(size=[height, width, 1]) * (_STUFF_GRAIN[labels][..., np.newaxis])
    )
    instances = np.zeros([height, width], np.int32)
    for number in range(1, rng.integers(2, 5)):
        size = height * rng.uniform(0.08, 0.2)
        row, column = rng.uniform(size, [height - size, width - size])
        distance = np.abs(rows - row), np.abs(columns - column)
        label = rng.integers(3, 5)
        inside = (np.hypot if label == 3 else np.maximum)(*distance) <= size
        labels[inside], instances[inside] = label, number
        colours[inside] = rng.uniform(30, 226, 3)
    image = np.clip(colours + rng.normal(scale=4, size=colours.shape), 0, 255)
    return Scene(image.astype(np.uint8), labels.astype(np.int32), instances)


# PASCAL VOC


def voc(directory, split):
    """Return PASCAL VOC 2012: 20 classes of objects, and background.

    Args:
        directory: the folder VOCdevkit, or VOC2012 in it.
        split: a list in ImageSets/Segmentation: "train" (1,464 images), "val" (1,449)
            or "trainval".
    """
    directory = _voc_folder(directory, "VOC2012")
    keys = _ids(directory / "ImageSets" / "Segmentation" / f"{split}.txt")
    return _of_voc(keys, functools.partial(_read_voc, directory))


def voc_and_sbd(directory, sbd_directory):
    """Return the training set of the field: VOC 2012 train, and SBD without VOC val.

    10,582 images. Those of VOC train have the annotation of VOC; others that of SBD,
    in whose files GTcls.Segmentation has the classes and GTinst.Segmentation the
    objects. (GTinst.Categories has their classes once more.)

    Args:
        directory: the folder VOCdevkit, or VOC2012 in it.
        sbd_directory: the folder benchmark_RELEASE, dataset in it, or what holds it.

    Source: Hariharan et al. 2011; Chen et al. 2015 for the number.
    """
    directory = _voc_folder(directory, "VOC2012")
    sbd = _sbd_folder(sbd_directory)
    lists = directory / "ImageSets" / "Segmentation"
    train, val = _ids(lists / "train.txt"), frozenset(_ids(lists / "val.txt"))
    both = train + _ids(sbd / "train.txt") + _ids(sbd / "val.txt")
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
    image = _pixels(directory / "JPEGImages" / f"{key}.jpg")
    classes = directory / "SegmentationClass" / f"{key}.png"
    numbers = directory / "SegmentationObject" / f"{key}.png"
    labels = _of_size(classes, _palette_indices(classes), image)
    instances = _of_size(numbers, _palette_indices(numbers), image)
    instances[instances == _VOID] = 0
    return Scene(image, _voc_labels(classes, labels), instances)


def _read_sbd(directory, voc_images, key):
    file = voc_images / f"{key}.jpg"
    image = _pixels(file if file.is_file() else directory / "img" / f"{key}.jpg")
    classes, numbers = (directory / kind / f"{key}.mat" for kind in ("cls", "inst"))
    labels = _of_size(classes, _matrix(classes, "GTcls", "Segmentation"), image)
    instances = _of_size(numbers, _matrix(numbers, "GTinst", "Segmentation"), image)
    return Scene(image, _voc_labels(classes, labels), instances)


def _voc_labels(file, labels):
    labels[labels == _VOID] = -1
    return _in_range(file, labels, len(_VOC_CLASSES))


def _voc_folder(directory, year):
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


def _ids(file):
    """Return the names of images in a list, the first word of every line."""
    if not file.is_file():
        others = [f.stem for f in file.parent.glob("*.txt") if "_" not in f.stem]
        raise FileNotFoundError(
            f"Expected a list of images. Received: {file}, which is none. Lists there: "
            f"{', '.join(sorted(others)) or 'none'}."
        )
    ids = [line.split()[0] for line in _lines(file)]
    if not ids:
        raise ValueError(
            f"Expected {file} to name images. Received: an empty list. Unpack it again."
        )
    return ids


def _lines(file):
    """Return the lines of a text that are not empty."""
    try:
        lines = file.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"Expected {file} to be text in UTF-8. Received: {error}. Save it as UTF-8."
        ) from error
    return [line for line in lines if line.strip()]


# PASCAL-Context


def pascal_context(directory, voc_directory, split):
    """Return PASCAL-Context: the images of VOC 2010 with 59 classes.

    Pixels of the other 400 classes, and of none, are void. Objects of a class are not
    told apart.

    Args:
        directory: the folder with trainval/<image>.mat, labels.txt and 59_labels.txt.
        voc_directory: the folder VOCdevkit, or VOC2010 in it.
        split: a list in ImageSets/Main of VOC 2010: "train" (4,998 images) or "val"
            (5,105). (Those in ImageSets/Segmentation have a fifth of them.)

    Source: Mottaghi et al. 2014; Long et al. 2015 for the lists. Which classes are
    stuff is a choice of ours: `_CONTEXT_STUFF`.
    """
    directory = pathlib.Path(directory).expanduser()
    voc = _voc_folder(voc_directory, "VOC2010")
    names = list(_numbered_names(directory / "59_labels.txt").values())
    known = [_CONTEXT_NAMES.get(name, name) for name in names]
    _check_context_names(directory / "59_labels.txt", known)
    class_of = _context_classes(directory / "labels.txt", known)
    return Scenes(
        class_names=names,
        stuff=frozenset(c for c, name in enumerate(known) if name in _CONTEXT_STUFF),
        background=None,
        keys=_ids(voc / "ImageSets" / "Main" / f"{split}.txt"),
        read=functools.partial(_read_context, directory, voc, class_of),
    )


def _read_context(directory, voc, class_of, key):
    image = _pixels(voc / "JPEGImages" / f"{key}.jpg")
    file = directory / "trainval" / f"{key}.mat"
    numbers = _of_size(file, _matrix(file, "LabelMap"), image)
    return Scene(image, class_of[_in_range(file, numbers, len(class_of), 0)], None)


def _context_classes(file, class_names):
    """Return the class by the number in a LabelMap, int32 [460]; -1 is void."""
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
    """Return the names in a list of lines as "1: air conditioner", by number > 0."""
    if not file.is_file():
        raise FileNotFoundError(
            f"Expected {file.name} of PASCAL-Context. Received: {file}, which is none. "
            "Put trainval, labels.txt and 59_labels.txt into one folder."
        )
    lines = _lines(file)
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
    expected = _CONTEXT_OBJECTS | _CONTEXT_STUFF
    if len(names) != len(expected) or set(names) != expected:
        other = sorted(set(names) ^ expected)
        raise ValueError(
            f"Expected {file} to name the {len(expected)} classes of PASCAL-Context. "
            f"Received: {len(names)} names; {', '.join(other[:3]) or 'some twice'} too "
            "many or too few. Fetch it again."
        )


# COCO


def coco_panoptic(data_dir, split):
    """Return COCO 2017 panoptic, as prepared by TFDS: 80 classes of objects, 53 stuff.

    The number of a segment is R + 256 G + 256^2 B of the panoptic image, 0 is void. A
    crowd has its class and is no instance.

    Files of array_record are read image by image. Those of tfrecord cannot be: up to
    2 GiB are held in memory, more must be converted.

    Args:
        data_dir: the folder of TFDS, that holds coco/2017_panoptic/<version>.
        split: "train" (118,287 images), "validation" (5,000), or a part, such as
            "train[:10%]".

    Source: Kirillov et al. 2019; classes by category id: panoptic_coco_categories.json.
    """
    builder = tfds_builders.required(_COCO, data_dir)
    tfds_builders.check_split(builder, split)
    rows = _rows(builder, split)
    names = builder.info.features["panoptic_objects"]["label"].names
    return Scenes(
        class_names=list(names),
        stuff=frozenset(range(_COCO_OBJECTS, len(names))),
        background=None,
        keys=list(range(len(rows))),
        read=lambda i: _read_coco(f"image {i} of {split} in {data_dir}", rows[i]),
        called=lambda i: pathlib.Path(rows[i]["image/filename"].decode()).stem,
    )


def _read_coco(place, row):
    where = f"{row['image/filename'].decode()} ({place})"
    image = _pixels(where, row["image"])
    segments = _pixels(where, row["panoptic_image"]) @ [1, 256, 256**2]
    _of_size(where, segments, image)
    return _of_segments(where, image, segments, row["panoptic_objects"])


def _of_segments(where, image, segments, described):
    numbers, places = np.unique(segments, return_inverse=True)
    places = places.reshape(segments.shape)
    classes, instances = _classes_and_instances(described)
    unknown = set(numbers.tolist()) - classes.keys()
    if unknown:
        raise ValueError(
            f"Expected the segments of {where} to be described. Received: "
            f"{', '.join(map(str, sorted(unknown)[:3]))}, which are not. "
            "Prepare the data set again."
        )
    labels = np.array([classes[n] for n in numbers.tolist()], np.int32)
    counts = np.array([instances.get(n, 0) for n in numbers.tolist()], np.int32)
    return Scene(image, labels[places], counts[places])


def _classes_and_instances(described):
    """Return class and instance by number of segment, from what TFDS describes."""
    columns = (np.array(described[name]) for name in ("id", "label", "is_crowd"))
    numbers, labels, crowds = columns
    classes = {0: -1} | dict(zip(numbers.tolist(), labels.tolist(), strict=True))
    things = numbers[(labels < _COCO_OBJECTS) & ~crowds.astype(bool)].tolist()
    return classes, {number: i for i, number in enumerate(things, 1)}


def _rows(builder, split):
    """Return the sequence of examples, of which images are left encoded."""
    import tensorflow_datasets as tfds

    images = ("image", "panoptic_image")
    decoders = {name: tfds.decode.SkipDecoding() for name in images}
    array_record = tfds.core.FileFormat.ARRAY_RECORD
    if array_record in builder.info.available_file_formats():
        return builder.as_data_source(
            split, decoders=decoders, file_format=array_record
        )
    tfds_builders.check_room(builder, split)
    return list(builder.as_dataset(split, decoders=decoders).as_numpy_iterator())


# npz


def npz(path, split, stuff=(), background=None, void=None):
    """Return the images of an .npz file with arrays y_<split> and class_names.

    Images are arrays x_<split>, uint8 [n, height, width, 3], or encoded in
    <split>_buf, <split>_off: image i is the bytes buf[off[i] : off[i + 1]]. Label maps
    are y_<split>, integers [n, height, width]. Objects are not told apart.

    Args:
        path: the file.
        split: "train", "test", ...
        stuff: names of the classes that are stuff.
        background: name of the class of what is none of the classes, or None.
        void: number or name of what is void; by default 255, and any class called
            unlabelled, unlabeled or void. If it is the last class, it is none of
            `class_names` then.
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
        numbers = _of_size(where, labels[i], pixels)
        is_void = np.isin(numbers, voids)
        known = _in_range(where, np.where(is_void, 0, numbers), len(names))
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
    """Return the numbers that are void."""
    if void is None:
        called = (c for c, name in enumerate(names) if name.lower() in _VOID_NAMES)
        return [_VOID, *called]
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
    """Return the function of a place, for errors, and a number, that returns pixels."""
    pixels, buffer = found.get(f"x_{split}"), found.get(f"{split}_buf")
    if pixels is not None:
        return lambda where, i: pixels[i].copy()
    offsets = found[f"{split}_off"]
    return lambda where, i: _pixels(
        where, npz_archives.encoded_image(buffer, offsets, i)
    )


def _read_npz(path, split):
    """Return the arrays of a split, by name, and class_names."""
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


# Files of images and matrices


def _pixels(where, content=None):
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


def _palette_indices(file):
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


def _matrix(file, variable, field=None):
    """Return a matrix of a .mat file, int32, or a field of the struct that is there."""
    _check_there(file)
    try:
        found = scipy.io.loadmat(file, variable_names=[variable])[variable]
        matrix = found if field is None else found[field].item()
        return np.array(matrix).astype(np.int32)
    except _UNREADABLE as error:
        raise _unreadable(file, error) from error


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


# Checks


def _of_size(where, numbers, image):
    """Return an array of a number per pixel, if its size is that of the image."""
    if numbers.shape != image.shape[:2]:
        raise ValueError(
            f"Expected the labels of {where} to have the size of the image, "
            f"{list(image.shape[:2])}. Received: {list(numbers.shape)}. Take both "
            "as distributed, neither scaled nor cropped."
        )
    return numbers


def _in_range(where, labels, num_classes, lowest=-1):
    """Return labels, if all are classes."""
    if labels.min() < lowest or labels.max() >= num_classes:
        raise ValueError(
            f"Expected the labels of {where} to be in {lowest}..{num_classes - 1}. "
            f"Received: {labels.min()}..{labels.max()}. Check that they are of this "
            "data set, and what is void there."
        )
    return labels


def _check_indices(indices, count):
    right = indices.dtype.kind in "iu" and indices.ndim == 1 and indices.size
    if not right or indices.min() < 0 or indices.max() >= count:
        raise ValueError(
            f"`indices` must be numbers of images in 0..{count - 1}, at least one. "
            f"Received: {indices.dtype} {str(indices)[:60]}. Pass for example range(1)."
        )
