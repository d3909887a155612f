"""An image with a class for every pixel, a data set of them, and the true objects.

    objects(scene, classes) = instances, or connected components of a class

Source: connected components at 8 neighbours, `skimage.measure.label`.
"""

__all__ = ["Scene", "Scenes", "objects"]

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from skimage import measure

from keras_tilt.validation import as_label_map, as_names


@dataclasses.dataclass(frozen=True)
class Scene:
    """One image with a class for every pixel.

    Attributes:
        image: pixels, uint8 [height, width, 3].
        labels: classes, int32 [height, width]; -1 is void. Integers of any type are
            converted.
        instances: ids of objects, int32 [height, width]; 0 is no object. None if the
            data set does not separate objects of a class.
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
    """A data set of `len(scenes)` images; `scenes[i]` reads one, a `Scene`.

    Attributes:
        class_names: names by class.
        stuff: classes that are stuff, such as sky; the others are objects.
        background: the class of pixels that belong to no other class, or None.
        keys: names of the images in the data set.
        read: function of a key that returns a `Scene`.
        called: function of a key that returns a name for errors and files.
    """

    class_names: list[str]
    stuff: frozenset[int]
    background: int | None
    keys: Sequence[Any]
    read: Callable[[Any], Scene]
    called: Callable[[Any], str] = str

    def __post_init__(self):
        names = as_names("class_names", self.class_names)
        object.__setattr__(self, "class_names", names)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, i: int) -> Scene:
        return self.read(self.keys[i])

    def name(self, i: int) -> str:
        """Return the name of image i, for errors and files."""
        return self.called(self.keys[i])

    def select(self, indices: ArrayLike) -> "Scenes":
        """Return the data set of some of the images, in this order.

        Args:
            indices: image indices, integers [k], k >= 1, such as range(100).

        Raises:
            ValueError: an index out of range.
        """
        indices = np.asarray(indices)
        _check_indices(indices, len(self))
        return dataclasses.replace(self, keys=[self.keys[i] for i in indices])


def _check_indices(indices, count):
    right = indices.dtype.kind in "iu" and indices.ndim == 1 and indices.size
    if not right or indices.min() < 0 or indices.max() >= count:
        raise ValueError(
            f"`indices` must be image indices in 0..{count - 1}, at least one. "
            f"Received: {indices.dtype} {str(indices)[:60]}. Pass for example range(1)."
        )


def objects(scene: Scene, classes: Iterable[int]) -> list[tuple[int, np.ndarray]]:
    """Return the objects in a scene, in the order of their ids.

    If the scene has instances, each is an object, of the class that most of its pixels
    have. Otherwise an object is a connected component of the pixels of one class, by 8
    neighbours: objects that touch are one, and one that another cuts in two is two.

    Args:
        scene: a `Scene`.
        classes: class indices to return, usually those of objects.

    Returns:
        segments: (class, mask) of each object, masks bool [height, width].

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
    """Return the most frequent class, or -1 if all pixels are void."""
    counts = np.bincount(labels + 1)
    counts[0] = 0
    return int(counts.argmax()) - 1 if counts.any() else -1
