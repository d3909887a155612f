"""COCO 2017 panoptic, as prepared by TFDS: 80 classes of objects, 53 of stuff.

    id of a segment = R + 256 G + 256^2 B of the panoptic image, 0 is void

Source: Kirillov et al. 2019.
"""

__all__ = ["coco_panoptic"]

import os
import pathlib

import numpy as np

from keras_tilt.data import tfds_builders
from keras_tilt.masking.scenes.annotation_files import of_size, pixels_of
from keras_tilt.masking.scenes.labelled_images import Scene, Scenes

_COCO = "coco/2017_panoptic"
_COCO_OBJECTS = 80  # of 133 classes, in order of category id; the rest is stuff


def coco_panoptic(data_dir: str | os.PathLike[str], split: str) -> Scenes:
    """Return the scenes of COCO 2017 panoptic: 80 classes of objects, 53 of stuff.

    The id of a segment is R + 256 G + 256^2 B of the panoptic image; 0 is void. A crowd
    has a class, but is not an instance.

    Files in array_record format are read image by image. The tfrecord format has no
    random access: up to 2 GiB are held in memory, more must be converted.

    Args:
        data_dir: the folder of TFDS, which holds coco/2017_panoptic/<version>.
        split: "train" (118,287 images), "validation" (5,000), or a part, such as
            "train[:10%]".

    Raises:
        FileNotFoundError: the data set is not prepared; the message says how.
        ValueError: another split, or too large for memory.

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
    image = pixels_of(where, row["image"])
    segments = pixels_of(where, row["panoptic_image"]) @ [1, 256, 256**2]
    of_size(where, segments, image)
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
    """Return class and instance by segment id, from the descriptions of TFDS."""
    columns = (np.array(described[name]) for name in ("id", "label", "is_crowd"))
    numbers, labels, crowds = columns
    classes = {0: -1} | dict(zip(numbers.tolist(), labels.tolist(), strict=True))
    things = numbers[(labels < _COCO_OBJECTS) & ~crowds.astype(bool)].tolist()
    return classes, {number: i for i, number in enumerate(things, 1)}


def _rows(builder, split):
    """Return the sequence of examples, their images still encoded."""
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
