"""What the segments of an image are trained as: a class, none of them, or nothing.

    object   IoU with a true object     of its class from .5 on        none: .1 to .3
    stuff    purity                     above .6, and if pursued       none: .1 to .3
    purity(s, c) = IoU of s with what class c covers of the bounding box of s

Stuff has no extent of its own, and is made of segments. Pursuit selects few and large
ones that cover it: the largest of the pure ones, then the largest of those that hardly
overlap it, and so on, as long as one is not smaller than the mean of all. The
stochastic pursuit draws each with a probability proportional to its area.

Source: Dai, He and Sun, CVPR 2015. A segment is "none" here if no measure says
otherwise: it is at most .3 of every object and of all stuff, and at least .1 of one.
Pixels without a label count in no purity.
"""

__all__ = ["Assignment", "assign", "purities", "pursue"]

import dataclasses

import numpy as np

from keras_tilt.masking.segments.atoms import Segments
from keras_tilt.masking.segments.masks import of_masks

POSITIVE_IOU, NEGATIVE = 0.5, (0.1, 0.3)
PURE = 0.6
APART = 0.2  # IoU from which on two segments are not both pursued


@dataclasses.dataclass(frozen=True)
class Assignment:
    """What the segments of one image may be trained as.

    Attributes:
        segments: `Segments`.
        measures: float32 [segments, num_classes], of each segment and class the purity
            if the class is stuff, else the highest IoU with an object of that class.
        stuff: tuple of the numbers of the classes that segments are pursued for.
    """

    segments: Segments
    measures: np.ndarray
    stuff: tuple

    @property
    def num_classes(self):
        """Number of classes; as a label it stands for none of them."""
        return self.measures.shape[1]

    def labels(self, seed=None, negative=NEGATIVE):
        """Return what each segment is trained as, int32 [segments], -1 for nothing.

        Args:
            seed: of the stochastic pursuit, integers; None: the deterministic one.
            negative: between which two measures, the highest of all classes, a segment
                is none of them.
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


def assign(segments, labels, objects, num_classes, stuff=()):
    """Return what the segments of an image may be trained as.

    Args:
        segments: `Segments`, such as proposals and the true objects.
        labels: true class of every pixel, int [height, width]; -1 for none.
        objects: list of (class, mask), the true objects; of stuff there are none.
        num_classes: number of classes.
        stuff: numbers of the classes that segments are pursued for.

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


def purities(segments, labels, num_classes):
    """Return IoU of every segment with every class inside its box, [s, num_classes].

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
    of_class = labels[..., np.newaxis] == np.arange(num_classes)
    sums = np.pad(of_class, [(1, 0), (1, 0), (0, 0)]).cumsum(0).cumsum(1)
    tops, lefts, bottoms, rights = segments.boxes.T
    in_box = sums[bottoms, rights] - sums[tops, rights]
    in_box = in_box - sums[bottoms, lefts] + sums[tops, lefts]
    union = inside.sum(axis=1, keepdims=True) + in_box - inside
    return inside / np.maximum(union, 1)


def pursue(areas, iou, rng=None):
    """Return the segments that are pursued, in the order in which they are.

    Args:
        areas: pixels of the candidates, [k].
        iou: of every candidate with every other, [k, k].
        rng: `np.random.Generator` of the stochastic pursuit; None: the deterministic.

    Returns:
        chosen: numbers of candidates, int64 [at most k].

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
