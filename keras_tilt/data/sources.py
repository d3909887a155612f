"""Where images are: numbers of images in, pixels or encoded bytes out, nothing drawn.

    labels[i]   the class of image i, -1 if it has none
    fetch(I)    the elements of the images I, [k] -> [k, ...], one call for many
    decode(z)   the pixels of one element, uint8 [height, width, channels]

`batches` makes batches of a source. Nothing is ever downloaded.
"""

__all__ = [
    "Source",
    "arrays",
    "concatenated",
    "folder",
    "imagenet",
    "npz",
    "synthetic",
    "tfds_named",
    "unlabelled",
    "with_labelled_fraction",
]

import collections.abc
import contextlib
import dataclasses
import functools
import os
import pathlib
import re
import shutil
import tarfile

import numpy as np
import tensorflow as tf
from tqdm import auto as tqdm

from keras_tilt import storage
from keras_tilt.data import npz_archives, tfds_builders
from keras_tilt.data.image_files import decoder
from keras_tilt.validation import as_labels, as_names, check_count

_LARGEST_IN_MEMORY = 2**31  # bytes of decoded images; larger sets stay encoded
_FILES_BESIDE = 256  # open files that are left to everything but a data set
_FILES = re.compile(r"\.(jpe?g|png)", re.IGNORECASE)
_ARCHIVES = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")


@dataclasses.dataclass(frozen=True)
class Source:
    """Images by number, and their labels.

    Attributes:
        labels: classes, int32 [n]; -1 marks an unlabelled image. Integers of any type,
            [n] or [n, 1], become these.
        class_names: list of str, by class; names as bytes become text.
        image_shape: (height, width, channels), or None if sizes differ.
        fetch: function of numbers, int64 [k], that returns elements [k, ...]: pixels,
            uint8, or whatever `decode` makes pixels of; in a graph.
        decode: function of one element that returns pixels, uint8 [height, width,
            channels], or fails; in a graph. None where `fetch` returns pixels.
        name: function of a number that returns what to call the image in an error.
    """

    labels: np.ndarray
    class_names: list
    image_shape: tuple | None
    fetch: collections.abc.Callable
    decode: collections.abc.Callable | None
    name: collections.abc.Callable

    def __post_init__(self):
        labels = as_labels("labels", self.labels)
        names = as_names("class_names", self.class_names)
        _check_labels(labels, len(names))
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "class_names", names)


# In memory


def arrays(images, labels, class_names=None):
    """Return the source of images held in memory.

    Args:
        images: pixels in [0, 255], uint8 [n, height, width, channels], or gray
            [n, height, width].
        labels: classes, integers [n] or [n, 1]; -1 marks an unlabelled image.
        class_names: names by class; by default the numbers.

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
        class_names=_names(labels, class_names),
        image_shape=images.shape[1:],
        fetch=functools.partial(tf.gather, held),
        decode=None,
        name="image {}".format,
    )


def npz(path, split=None, class_names=None):
    """Return the source of an .npz file, in one of two layouts.

    Arrays x_<split>, y_<split>: as `keras.datasets` stores them, uint8
    [n, height, width] or [n, height, width, channels], and labels [n] or [n, 1].
    Encoded images <split>_buf, <split>_off, y_<split>: image i is the bytes
    buf[off[i] : off[i + 1]]; where all have one size, and fit into 2 GiB, they are
    decoded once.

    Args:
        path: the file.
        split: "train", "test", ...; None for encoded images buf, off, y.
        class_names: names by class; by default `class_names` or `wnids` of the file,
            or else the numbers.
    """
    path = pathlib.Path(path).expanduser()
    pixels = f"x_{split}"
    buffer, offsets = (f"{split}_{k}" if split else k for k in ("buf", "off"))
    labels = f"y_{split}" if split else "y"
    found = npz_archives.read_npz(
        path, (pixels, buffer, offsets, labels, "class_names", "wnids")
    )
    if class_names is None:
        class_names = found.get("class_names", found.get("wnids"))
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
    return _in_memory(images, found[labels], class_names, 3, "image {}".format)


def synthetic(image_shape, num_classes, num_images, seed=0):
    """Return a source of noise, made when asked for: full size and no data needed.

    Image i is uniform on 0..255, drawn from (seed, i); its label is i mod num_classes.

    Example:
        >>> source = synthetic((256, 256, 3), 1000, 1_281_167)
        >>> source.decode(source.fetch([5])[0]).shape
        TensorShape([256, 256, 3])
    """
    check_count("num_classes", num_classes, 1)
    check_count("num_images", num_images, 1)
    image_shape = tuple(image_shape)

    def made(number):
        pixels = tf.random.stateless_uniform(
            image_shape, [seed, number], 0, 256, tf.int32
        )
        return tf.cast(pixels, tf.uint8)

    return Source(
        labels=np.arange(num_images) % num_classes,
        class_names=_names([num_classes - 1], None),
        image_shape=image_shape,
        fetch=functools.partial(tf.cast, dtype=tf.int64),
        decode=made,
        name="image {}".format,
    )


def _in_memory(images, labels, class_names, channels, name):
    """Return the source of encoded images, a list of bytes; as pixels if that fits."""
    pixels = _pixels_of_one_size(images, channels)
    if pixels is not None:
        return dataclasses.replace(arrays(pixels, labels, class_names), name=name)
    with tf.device("CPU"):
        held = tf.constant(images)
    return Source(
        labels=labels,
        class_names=_names(labels, class_names),
        image_shape=None,
        fetch=functools.partial(tf.gather, held),
        decode=decoder(channels),
        name=name,
    )


def _pixels_of_one_size(images, channels):
    """Return pixels uint8 [n, ...] of encoded images, None unless all can be had."""
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
    except tf.errors.OpError:  # another size, or unreadable: `batches` knows how to
        return None
    return held


# Files


def folder(directory, class_names=None):
    """Return the source of a folder with one folder of .jpg, .jpeg or .png per class.

    A folder of images without folders is a source of unlabelled images. Photographs
    are turned upright where their EXIF data say so; see `image_files` for what else
    becomes of a file.

    Args:
        directory: the folder; in it, folders named as the classes.
        class_names: names by class, for a validation folder those of the training
            source, so that numbers agree; by default the folders, sorted.
    """
    directory = pathlib.Path(directory).expanduser()
    if not directory.is_dir():
        raise FileNotFoundError(
            f"Expected a folder of images. Received: {directory}, which is none. "
            "Pass the folder that holds the folders of the classes."
        )
    found = sorted(entry.name for entry in directory.iterdir() if entry.is_dir())
    found = [name for name in found if not name.startswith(".")]
    if class_names is None:
        class_names = map(_legible, found)
    names = as_names("class_names", class_names)
    _check_classes(directory, found, names)
    files = [(c, file) for c in found for file in _images_in(directory / c)]
    loose = _images_in(directory)
    _check_files(directory, found, files, loose)
    numbers = {name: number for number, name in enumerate(names)}
    return _of_files(
        directory,
        [os.path.join(*file) for file in files] or loose,
        [numbers[_legible(c)] for c, _ in files] or [-1] * len(loose),
        names,
    )


def _of_files(directory, files, labels, class_names):
    with tf.device("CPU"):
        paths = tf.constant([os.fsencode(directory / file) for file in files])
    return Source(
        labels=labels,
        class_names=class_names,
        image_shape=None,
        fetch=functools.partial(tf.gather, paths),
        decode=_decode_file,
        name=lambda i: _legible(files[i]),
    )


def _legible(name):
    """Return a name of a file as text, of whose bytes those that are not UTF-8 are hex.

    Python holds such bytes as surrogates, which can neither be printed nor stored.
    """
    return os.fsencode(name).decode(errors="backslashreplace")


def _images_in(directory):
    with os.scandir(directory) as entries:
        return sorted(
            entry.name
            for entry in entries
            if _FILES.fullmatch(os.path.splitext(entry.name)[1])
            and not entry.name.startswith(".")
        )


def _decode_file(path):
    return decoder(3)(tf.io.read_file(path))


# TFDS


def tfds_named(name, data_dir, split):
    """Return the source of a data set prepared by TFDS, with features image and label.

    Files of array_record are read image by image. Those of tfrecord cannot be: sets of
    up to 2 GiB are held in memory, larger ones must be converted.

    Args:
        name: such as "cifar10", "imagenet_resized/64x64" or "mnist:3.0.1".
        data_dir: the folder of TFDS, that holds <name>/<version>.
        split: such as "train", "validation" or "train[:10%]".
    """
    builder = tfds_builders.required(name, data_dir)
    return _of_builder(builder, split)


def imagenet(data_dir, split):
    """Return ImageNet (ILSVRC 2012), prepared by TFDS when it is asked for first.

    If `data_dir` does not hold imagenet2012/<version>, the builder of TFDS makes it of
    the two archives as they are distributed; it takes as much room as these. A build
    that is interrupted begins anew.

    Args:
        data_dir: folder with imagenet2012, or with ILSVRC2012_img_train.tar and
            ILSVRC2012_img_val.tar.
        split: "train" (1,281,167 images), "validation" (50,000), or a part, such as
            "train[:10%]".

    Returns:
        source: class names are the 1,000 wnids in order, such as "n01440764".
    """
    data_dir = pathlib.Path(data_dir).expanduser()
    builder = tfds_builders.find("imagenet2012", data_dir) or _built_imagenet(data_dir)
    return _of_builder(builder, split)


def _as_array_record(builder):
    """Return the builder; of files in two formats, of those for random access."""
    import tensorflow_datasets as tfds

    array_record = tfds.core.FileFormat.ARRAY_RECORD
    if array_record in builder.info.alternative_file_formats:
        builder.info.set_file_format(
            array_record, override=True, override_if_initialized=True
        )
    return builder


def _of_builder(builder, split):
    import tensorflow_datasets as tfds

    builder = _as_array_record(builder)
    _check_features(builder, tfds.features.Image, tfds.features.ClassLabel)
    tfds_builders.check_split(builder, split)
    if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
        return _of_array_record(builder, split)
    return _of_tfrecord(builder, split)


def _of_tfrecord(builder, split):
    import tensorflow_datasets as tfds

    tfds_builders.check_room(builder, split)
    undecoded = {"image": tfds.decode.SkipDecoding()}
    dataset = builder.as_dataset(split=split, decoders=undecoded)
    rows = [(row["image"], row["label"]) for row in tfds.as_numpy(dataset)]
    images, labels = zip(*rows, strict=True)
    return _in_memory(
        list(images),
        np.asarray(labels),
        builder.info.features["label"].names,
        builder.info.features["image"].shape[-1],
        f"image {{}} of {split} in {builder.data_path}".format,
    )


def _of_array_record(builder, split):
    from array_record.python import array_record_data_source

    instructions = builder.info.splits[split].file_instructions
    _allow_open_files(len(instructions))
    files = array_record_data_source.ArrayRecordDataSource(instructions)
    image = builder.info.features["image"]

    def part(name, dtype):
        feature = {name: tf.io.FixedLenFeature([], dtype)}
        return lambda i: tf.io.parse_example(_records(files, i), feature)[name]

    def name(i):
        example = tf.train.Example.FromString(files[i]).features.feature
        known = [n.decode() for n in example["file_name"].bytes_list.value]
        return " ".join([*known, f"(image {i} of {split})"])

    count = builder.info.splits[split].num_examples
    labels = _saved_labels(builder.data_path, split, count, part("label", tf.int64))
    return Source(
        labels=labels,
        class_names=builder.info.features["label"].names,
        image_shape=None if None in image.shape else image.shape,
        fetch=part("image", tf.string),
        decode=decoder(image.shape[-1]),
        name=name,
    )


def _records(files, numbers):
    """Return records, strings [k], by their numbers, int64 [k]; C++ reads them."""

    def read(numbers):
        found = files.__getitems__(numbers.tolist()) if numbers.size else []
        return np.array(found, object)

    return tf.ensure_shape(tf.numpy_function(read, [numbers], tf.string), [None])


def _allow_open_files(count):
    """Raise the limit of open files: ImageNet has 1,024, each of which stays open."""
    try:
        import resource
    except ImportError:  # no such limit on Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft + count + _FILES_BESIDE
    if hard != resource.RLIM_INFINITY:
        enough = min(enough, hard)
    if soft != resource.RLIM_INFINITY and soft < count + _FILES_BESIDE:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))


def _saved_labels(directory, split, count, read):
    """Return the labels of a split, int64 [n], as saved beside it, or read and saved.

    Every record has to be read for them, of ImageNet 140 GB.
    """
    file = pathlib.Path(directory) / f"labels {split}.npy"
    with contextlib.suppress(OSError, EOFError, ValueError):  # not there, not whole
        labels = np.load(file)
        if labels.shape == (count,):
            return labels
    labels = _read_labels(read, count)
    with contextlib.suppress(OSError):  # a folder where this user may not write
        storage.replace(file, lambda part: np.lib.format.write_array(part, labels))
    return labels


def _read_labels(read, count):
    batches = tf.data.Dataset.range(count).batch(256).map(read, num_parallel_calls=4)
    batches = tqdm.tqdm(
        batches.prefetch(4).as_numpy_iterator(),
        desc="reading labels",
        unit="x 256 images",
        total=-(-count // 256),
        delay=2,
    )
    return np.concatenate(list(batches))


# The archives of ImageNet


def _built_imagenet(data_dir):
    """Return the builder of TFDS after it has turned the two archives into files."""
    import tensorflow_datasets as tfds

    archives = [data_dir / name for name in _ARCHIVES]
    _check_present(data_dir, archives)
    builder = tfds.builder(
        "imagenet2012",
        data_dir=data_dir,
        file_format=tfds.core.FileFormat.ARRAY_RECORD,
    )
    _check_train_archive(archives[0], builder.info.features["label"].names)
    _check_val_archive(archives[1])
    _check_room(data_dir, sum(archive.stat().st_size for archive in archives))
    _allow_open_files(1024)  # TFDS sorts in 1,000 files
    try:
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(manual_dir=data_dir)
        )
    except Exception as error:
        raise ValueError(
            f"Expected {' and '.join(_ARCHIVES)} in {data_dir} to become a data set "
            f"there. Received: {type(error).__name__}: {error}. Compare their MD5 "
            "sums with those of image-net.org, and see that the disk has room."
        ) from error
    return builder


def _check_present(data_dir, archives):
    missing = [archive.name for archive in archives if not archive.is_file()]
    if missing:
        raise FileNotFoundError(
            f"Expected {data_dir} to hold imagenet2012 prepared by TFDS, or the "
            f"archives {' and '.join(_ARCHIVES)}. Received: no imagenet2012, and no "
            f"{' and no '.join(missing)}. Whoever registers at image-net.org may "
            "download them there."
        )


def _check_train_archive(path, wnids):
    names = _members(path)
    _check_members(path, names, {f"{wnid}.tar" for wnid in wnids}, "n01440764.tar")


def _check_val_archive(path):
    """Labels are given to validation images by the rank of their names: none may miss.

    `names` may be fewer than 50,000, if the first ones are all there.
    """
    names = _members(path)
    expected = {f"ILSVRC2012_val_{i + 1:08d}.JPEG" for i in range(len(names))}
    _check_members(path, names, expected, "ILSVRC2012_val_00000001.JPEG, one by one")


def _members(path):
    """Return the names in a tar file, after a look at the zeros that end it."""
    try:
        with tarfile.open(path, "r:") as archive, path.open("rb") as file:
            members = archive.getmembers()
            blocks = -(-members[-1].size // tarfile.BLOCKSIZE)
            file.seek(members[-1].offset_data + blocks * tarfile.BLOCKSIZE)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("its end is missing")
    except (tarfile.TarError, OSError, IndexError) as error:
        raise ValueError(
            f"Expected {path} to be a complete tar file. Received: one of "
            f"{path.stat().st_size} bytes that is not ({error}). It may be truncated: "
            "fetch it again."
        ) from error
    return [member.name for member in members]


def _check_members(path, names, expected, example):
    other = sorted(set(names) - expected)
    if other or len(set(names)) < len(names):
        raise ValueError(
            f"Expected {path} to hold files named {example}. Received: {len(names)} "
            f"files, of which {len(other)} are named otherwise, such as "
            f"{', '.join(other[:3]) or 'none'}. Fetch it again."
        )


def _check_room(data_dir, size):
    free = shutil.disk_usage(data_dir).free
    if free < size:
        left = sorted(map(str, (data_dir / "imagenet2012").glob("incomplete.*")))
        raise OSError(
            f"Expected room for {size} bytes in {data_dir}. Received: {free} bytes. "
            f"Make room{', or remove what a killed build left: ' * bool(left)}"
            f"{', '.join(left)}."
        )


# Of other sources


def concatenated(first, second):
    """Return the source of the images of one source, then those of another.

    Both must give pixels of one shape, or both encoded images. Their classes must be
    the same, unless the second has no labels.
    """
    _check_alike(first, second)
    fetch, decode = _joined_reading(first, second)
    count = len(first.labels)
    return Source(
        labels=np.concatenate([first.labels, second.labels]),
        class_names=first.class_names,
        image_shape=first.image_shape
        if first.image_shape == second.image_shape
        else None,
        fetch=fetch,
        decode=decode,
        name=lambda i: first.name(i) if i < count else second.name(i - count),
    )


def _joined_reading(first, second):
    """Return `fetch` and `decode` of both; an element of strings says whose it is."""
    count = len(first.labels)
    same = first.decode == second.decode

    def fetch(numbers):
        here = numbers < count
        parts = [
            first.fetch(tf.boolean_mask(numbers, here)),
            second.fetch(tf.boolean_mask(numbers - count, ~here)),
        ]
        if not same:
            parts = [
                tf.strings.join([mark, z]) for mark, z in zip("12", parts, strict=True)
            ]
        sorted_places = tf.argsort(tf.cast(~here, tf.int32), stable=True)
        return tf.gather(tf.concat(parts, 0), tf.math.invert_permutation(sorted_places))

    def decode(element):
        rest = tf.strings.substr(element, 1, 2**31 - 1)
        return tf.cond(
            tf.strings.substr(element, 0, 1) == "1",
            lambda: first.decode(rest),
            lambda: second.decode(rest),
        )

    return fetch, first.decode if same else decode


def unlabelled(source):
    """Return the same images without their labels."""
    return dataclasses.replace(source, labels=np.full_like(source.labels, -1))


def with_labelled_fraction(source, fraction, seed):
    """Return the same images, of which only some keep their labels.

    Of the n_c images of class c, max(1, round(fraction n_c)) do, the first of a
    permutation drawn from (seed, c): a smaller fraction keeps a part of a larger one's.

    Args:
        source: a `Source`.
        fraction: share of labelled images, in 0..1.
        seed: a non-negative integer.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(
            "`fraction` must be a share of the labelled images, in 0..1. "
            f"Received: {fraction!r}. Pass for example fraction=0.1."
        )
    labels = np.full_like(source.labels, -1)
    for c in np.unique(source.labels[source.labels >= 0]):
        members = np.flatnonzero(source.labels == c)
        count = max(1, round(fraction * len(members)))
        kept = np.random.default_rng([seed, c]).permutation(members)[:count]
        labels[kept] = c
    return dataclasses.replace(source, labels=labels)


# Checks


def _names(labels, class_names):
    """Names by class; by default the numbers up to the largest label."""
    if class_names is not None:
        return class_names
    return [str(c) for c in range(int(np.max(labels, initial=-1)) + 1)]


def _check_labels(labels, num_classes):
    if not labels.size:
        raise ValueError(
            "Expected labels, integers [n], n >= 1. Received: none. "
            "Pass class numbers, -1 for an unlabelled image."
        )
    if labels.min() < -1 or labels.max() >= num_classes:
        raise ValueError(
            f"Expected labels in -1..{num_classes - 1}, as there are {num_classes} "
            f"class names. Received: {labels.min()}..{labels.max()}. "
            "Number the classes from 0."
        )


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


def _check_features(builder, image, label):
    features = builder.info.features
    found = [dict(features).get(name) for name in ("image", "label")]
    right = isinstance(found[0], image) and isinstance(found[1], label)
    if not right or found[0].np_dtype != np.uint8 or found[0].shape[-1] not in (1, 3):
        raise ValueError(
            "Expected a data set of TFDS with the features image, uint8 of 1 or 3 "
            f"channels, and label. Received: {builder.data_path}, with "
            f"{', '.join(features)}. "
            "Choose a set for image classification."
        )


def _check_alike(first, second):
    pixels = [source.decode is None for source in (first, second)]
    if any(pixels) and (
        pixels[0] != pixels[1] or first.image_shape != second.image_shape
    ):
        raise ValueError(
            "Expected two sources of pixels of one shape, or two of encoded images. "
            f"Received: shapes {first.image_shape} and {second.image_shape}. "
            "Store them alike."
        )
    if first.class_names != second.class_names and np.any(second.labels >= 0):
        raise ValueError(
            "Expected the class names of both sources to be the same. Received: "
            f"{', '.join(first.class_names[:3])}, ... and "
            f"{', '.join(second.class_names[:3])}, .... Pass `class_names` of the "
            "first to the second, or `unlabelled(second)`."
        )
