"""Data sets of images and labels that TFDS has prepared.

Files in array_record format are read image by image; those in tfrecord format, which
have no random access, are held in memory.
"""

__all__ = ["of_builder", "tfds_named"]

import os
from typing import TYPE_CHECKING

import numpy as np

from keras_tilt.data import tfds_builders
from keras_tilt.data.sources.array_records import of_array_record
from keras_tilt.data.sources.image_source import Source
from keras_tilt.data.sources.in_memory import of_encoded

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder


def tfds_named(name: str, data_dir: str | os.PathLike[str], split: str) -> Source:
    """Return the source of a data set prepared by TFDS, with features image and label.

    Files in array_record format are read image by image. The tfrecord format has no
    random access: sets of up to 2 GiB are held in memory, larger ones must be
    converted.

    Args:
        name: such as "cifar10", "imagenet_resized/64x64" or "mnist:3.0.1".
        data_dir: the folder of TFDS, which holds <name>/<version>.
        split: such as "train", "validation" or "train[:10%]".

    Raises:
        FileNotFoundError: the data set is not prepared; the message says how.
        ValueError: another split, other features, or too large for memory.
    """
    builder = tfds_builders.required(name, data_dir)
    return of_builder(builder, split)


def of_builder(builder: "DatasetBuilder", split: str) -> Source:
    """Return the source of a split of a prepared data set.

    Args:
        builder: of TFDS.
        split: such as "train" or "train[:10%]".

    Raises:
        ValueError: another split, other features, or too large for memory.
    """
    import tensorflow_datasets as tfds

    builder = _as_array_record(builder)
    _check_features(builder, tfds.features.Image, tfds.features.ClassLabel)
    tfds_builders.check_split(builder, split)
    if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
        return of_array_record(builder, split)
    return _of_tfrecord(builder, split)


def _as_array_record(builder):
    """Return the builder, of the format with random access if it has two."""
    import tensorflow_datasets as tfds

    array_record = tfds.core.FileFormat.ARRAY_RECORD
    if array_record in builder.info.alternative_file_formats:
        builder.info.set_file_format(
            array_record, override=True, override_if_initialized=True
        )
    return builder


def _of_tfrecord(builder, split):
    import tensorflow_datasets as tfds

    tfds_builders.check_room(builder, split)
    undecoded = {"image": tfds.decode.SkipDecoding()}
    dataset = builder.as_dataset(split=split, decoders=undecoded)
    rows = [(row["image"], row["label"]) for row in tfds.as_numpy(dataset)]
    images, labels = zip(*rows, strict=True)
    return of_encoded(
        list(images),
        np.asarray(labels),
        builder.info.features["label"].names,
        builder.info.features["image"].shape[-1],
        f"image {{}} of {split} in {builder.data_path}".format,
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
