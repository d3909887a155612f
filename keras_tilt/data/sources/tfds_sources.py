"""Data sets of images and labels that TFDS has prepared.

Files of array_record are read image by image; those of tfrecord, which can only be read
from the start, are held in memory.
"""

__all__ = ["of_builder", "tfds_named"]

import numpy as np

from keras_tilt.data import tfds_builders
from keras_tilt.data.sources.array_records import of_array_record
from keras_tilt.data.sources.in_memory import of_encoded


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
    return of_builder(builder, split)


def of_builder(builder, split):
    """Return the source of a split of a data set that is prepared.

    Args:
        builder: of TFDS.
        split: such as "train" or "train[:10%]".

    Raises:
        ValueError: for other features, an unknown split, or files of tfrecord that are
            too large to be held in memory.
    """
    import tensorflow_datasets as tfds

    builder = _as_array_record(builder)
    _check_features(builder, tfds.features.Image, tfds.features.ClassLabel)
    tfds_builders.check_split(builder, split)
    if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
        return of_array_record(builder, split)
    return _of_tfrecord(builder, split)


def _as_array_record(builder):
    """Return the builder; of files in two formats, of those for random access."""
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
