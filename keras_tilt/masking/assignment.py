"""Training labels of the segments of an image: a class, no class, or not used.

              measure                  its class               no class
    object    IoU with a true object   >= .5                   .1 to .3
    stuff     purity                   > .6, and if pursued    .1 to .3

    purity(s, c) = IoU of s with what class c covers of the bounding box of s

Stuff has no extent of its own; it is covered by segments. Pursuit selects few and large
ones: the largest of the pure segments, then the largest of those that hardly overlap
it, and so on, until the next is smaller than the mean of all. The stochastic pursuit
draws each with a probability proportional to its area.

Source: Dai, He and Sun, CVPR 2015. A segment has no class here if no measure gives it
one: the highest IoU or purity of all classes is from .1 to .3. Pixels without a label
do not count in the purity.
"""

__all__ = ["Assignment", "assign", "purities", "pursue"]

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from keras_tilt.masking.segments.atoms import Segments
from keras_tilt.masking.segments.masks import of_masks

POSITIVE_IOU, NEGATIVE = 0.5, (0.1, 0.3)
PURE = 0.6
APART = 0.2  # IoU at or above which two segments are not both pursued


@dataclasses.dataclass(frozen=True)
class Assignment:
    """How well the segments of one image fit every class, and so their labels.

    Attributes:
        segments: `Segments`.
        measures: float32 [segments, num_classes]; for a class of stuff the purity, for
            a class of objects the highest IoU with one of them.
        stuff: class indices that segments are pursued for.
    """

    segments: Segments
    measures: np.ndarray
    stuff: tuple[int, ...]

    @property
    def num_classes(self) -> int:
        """Return the number of classes; as a label it means no class."""
        return self.measures.shape[1]

    def labels(
        self,
        seed: Sequence[int] | None = None,
        negative: tuple[float, float] = NEGATIVE,
    ) -> np.ndarray:
        """Return the label of every segment, int32 [segments]; -1 for one not used.

        Args:
            seed: integers, of the stochastic pursuit; None for the deterministic one.
            negative: the range of the highest measure in which a segment has no class.
        """
        highest = self.measures.max(axis=1, initial=0.0)
        of_none = (highest >= negative[0]) & (highest <= negative[1])
        labels = np.where(of_none, self.num_classes, -1).astype(np.int32)
        objects = self.measures.copy()
        objects[:, self.stuff] = 0
        found = objects.max(axis=1, initial=0.0) >= POSITIVE_IOU
        labels[found] = objects[found].argmax(axis=1)
        for label in self.stuff:
            (pure,) = np.nonzero((self.measures[:, label] > PURE) & ~found)
            rng = None if seed is None else np.random.default_rng([*seed, label])
            candidates = self.segments.select(pure)
            chosen = pursue(candidates.areas, candidates.iou(candidates), rng)
            labels[pure[chosen]] = label
        return labels


def assign(
    segments: Segments,
    labels: ArrayLike,
    objects: Sequence[tuple[int, np.ndarray]],
    num_classes: int,
    stuff: Iterable[int] = (),
) -> Assignment:
    """Return how well the segments of an image fit every class.

    Args:
        segments: `Segments`, such as proposals and the true objects.
        labels: true class of every pixel, int [height, width]; -1 for none.
        objects: (class, mask) of the true objects, masks bool [height, width].
        num_classes: number of classes.
        stuff: class indices that segments are pursued for.

    Returns:
        assignment: `Assignment`.
    """
    stuff = tuple(sorted(stuff))
    measures = np.zeros([len(segments), num_classes], np.float32)
    measures[:, stuff] = purities(segments, labels, num_classes)[:, stuff]
    if objects:
        iou = segments.iou(of_masks(np.stack([mask for _, mask in objects])))
        classes = np.array([label for label, _ in objects])
        for label in set(classes.tolist()) - set(stuff):
            measures[:, label] = iou[:, classes == label].max(axis=1)
    return Assignment(segments, measures, stuff)


def purities(segments: Segments, labels: ArrayLike, num_classes: int) -> np.ndarray:
    """Return the IoU of every segment with every class inside its box, [s, classes].

    Args:
        segments: `Segments`.
        labels: class of every pixel, [height, width]; -1 for none.
        num_classes: number of classes.

    Example:
        >>> segments = keras_tilt.masking.segments.of_masks([[[1, 1, 0], [1, 1, 0]]])
        >>> purities(segments, np.array([[0, 0, 0], [0, 1, -1]]), 2)
        array([[0.75, 0.25]])
    """
    inside = segments.pixels_by_label(labels, num_classes)
    of_class = np.asarray(labels)[..., np.newaxis] == np.arange(num_classes)
    sums = np.pad(of_class, [(1, 0), (1, 0), (0, 0)]).cumsum(0).cumsum(1)
    tops, lefts, bottoms, rights = segments.boxes.T
    in_box = sums[bottoms, rights] - sums[tops, rights]
    in_box = in_box - sums[bottoms, lefts] + sums[tops, lefts]
    union = inside.sum(axis=1, keepdims=True) + in_box - inside
    return inside / np.maximum(union, 1)


def pursue(
    areas: ArrayLike, iou: np.ndarray, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Return the segments that pursuit selects, in the order of selection.

    Args:
        areas: areas of the candidates, pixels [k].
        iou: IoU of every candidate with every other, [k, k].
        rng: generator of the stochastic pursuit; None for the deterministic one.

    Returns:
        chosen: indices of candidates, int64 [at most k].

    Example:
        >>> iou = np.array([[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]])
        >>> pursue(np.array([8, 6, 7]), iou)
        array([0, 2])
    """
    areas = np.asarray(areas, float)
    smallest = areas.mean() if len(areas) else 0.0
    left, chosen = np.ones(len(areas), bool), []
    while left.any() and areas[left].max() >= smallest:
        weights = np.where(left, areas, 0.0)
        next_one = (
            weights.argmax()
            if rng is None
            else rng.choice(len(areas), p=weights / weights.sum())
        )
        chosen.append(next_one)
        left &= iou[next_one] < APART
        left[next_one] = False
    return np.array(chosen, int)
