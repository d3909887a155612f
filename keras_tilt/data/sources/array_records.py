"""Files in array_record format, the format of TFDS with random access.

    fetch(I) = feature "image" of the records I, read in C++

Labels are needed all at once: they are read once, then saved beside the records.
"""

__all__ = ["allow_open_files", "of_array_record"]

import contextlib
import pathlib
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
from tqdm import auto as tqdm

from keras_tilt import storage
from keras_tilt.data.image_files import decoder
from keras_tilt.data.sources.image_source import Source

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder


_FILES_BESIDE = 256  # open files left for everything but the data set


def of_array_record(builder: "DatasetBuilder", split: str) -> Source:
    """Return the source of a split in array_record format.

    Args:
        builder: of TFDS, with features image and label.
        split: such as "train" or "train[:10%]".
    """
    from array_record.python import array_record_data_source

    instructions = builder.info.splits[split].file_instructions
    allow_open_files(len(instructions))
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
    """Return the records of some indices, int64 [k] -> strings [k], read in C++."""

    def read(numbers):
        found = files.__getitems__(numbers.tolist()) if numbers.size else []
        return np.array(found, object)

    return tf.ensure_shape(tf.numpy_function(read, [numbers], tf.string), [None])


def allow_open_files(count: int) -> None:
    """Raise the limit of open files: ImageNet has 1,024, which all stay open.

    Args:
        count: number of files of the data set.
    """
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
    """Return the labels of a split, int64 [n], from the file saved beside it.

    To write it, every record has to be read once, of ImageNet 140 GB.
    """
    file = pathlib.Path(directory) / f"labels {split}.npy"
    with contextlib.suppress(OSError, EOFError, ValueError):  # missing or damaged
        labels = np.load(file)
        if labels.shape == (count,):
            return labels
    labels = _read_labels(read, count)
    with contextlib.suppress(OSError):  # a read-only folder
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
