"""What a source is: the labels of images, and how to get the pixels of image i.

    decode(fetch([i])[0]) = the pixels of image i, uint8 [height, width, channels]

Where `fetch` returns pixels, there is no `decode`.
"""

__all__ = ["Source", "names_or_numbers"]

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tilt.validation import as_labels, as_names


@dataclasses.dataclass(frozen=True)
class Source:
    """Labels of images, and how to read an image by its index.

    Attributes:
        labels: classes, int32 [n]; -1 marks an unlabelled image. Integers of any type,
            [n] or [n, 1], are converted.
        class_names: names by class; bytes are decoded as UTF-8.
        image_shape: (height, width, channels), or None if sizes differ.
        fetch: function of image indices, int64 [k], that returns elements [k, ...]:
            pixels, uint8, or what `decode` turns into pixels. Runs in a graph.
        decode: function of one element that returns pixels, uint8 [height, width,
            channels], or raises. Runs in a graph. None where `fetch` returns pixels.
        name: function of an image index that returns the name of the image in an error.
    """

    labels: np.ndarray
    class_names: list[str]
    image_shape: tuple[int, ...] | None
    fetch: Callable[[tf.Tensor], tf.Tensor]
    decode: Callable[[tf.Tensor], tf.Tensor] | None
    name: Callable[[int], str]

    def __post_init__(self):
        labels = as_labels("labels", self.labels)
        names = as_names("class_names", self.class_names)
        _check_labels(labels, len(names))
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "class_names", names)


def names_or_numbers(labels: ArrayLike, class_names: Iterable[str] | None) -> list[str]:
    """Return the names of the classes; by default "0" up to the largest label.

    Args:
        labels: classes, integers [n].
        class_names: names by class, or None.
    """
    if class_names is not None:
        return as_names("class_names", class_names)
    return [str(c) for c in range(int(np.max(labels, initial=-1)) + 1)]


def _check_labels(labels, num_classes):
    if not labels.size:
        raise ValueError(
            "Expected labels, integers [n], n >= 1. Received: none. "
            "Pass class indices, -1 for an unlabelled image."
        )
    if labels.min() < -1 or labels.max() >= num_classes:
        raise ValueError(
            f"Expected labels in -1..{num_classes - 1}, as there are {num_classes} "
            f"class names. Received: {labels.min()}..{labels.max()}. "
            "Number the classes from 0."
        )
