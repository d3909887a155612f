"""What a scene is, and a data set of them; the true objects in one.

    objects(scene, classes) = instances, or connected components of a class

Source: connected components at 8 neighbours, `skimage.measure.label`.
"""

__all__ = ["Scene", "Scenes", "objects"]

import collections.abc
import dataclasses

import numpy as np
from skimage import measure

from keras_tilt.validation import as_label_map, as_names


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


def _check_indices(indices, count):
    right = indices.dtype.kind in "iu" and indices.ndim == 1 and indices.size
    if not right or indices.min() < 0 or indices.max() >= count:
        raise ValueError(
            f"`indices` must be numbers of images in 0..{count - 1}, at least one. "
            f"Received: {indices.dtype} {str(indices)[:60]}. Pass for example range(1)."
        )


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
