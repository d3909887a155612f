"""Scores of label maps and of found objects.

    IoU of class c   pixels of c both found and true / pixels of c found or true
    AP^r             area under precision of recall, over objects found by their masks

Pixels without a true label are not evaluated; one left without a label is wrong.

Source: Everingham et al., "The PASCAL visual object classes challenge", IJCV 2010;
AP of regions: Hariharan et al., "Simultaneous detection and segmentation", ECCV 2014.
"""

__all__ = ["average_precision", "class_iou", "confusion", "matched"]

import numpy as np
from numpy.typing import ArrayLike


def confusion(truth: ArrayLike, found: ArrayLike, num_classes: int) -> np.ndarray:
    """Return pixels by true and found class, int64 [num_classes, num_classes + 1].

    Args:
        truth: true classes, int [...]; -1 is not evaluated.
        found: found classes, int [...]; -1, no class, is in the last column.
        num_classes: number of classes.

    Example:
        >>> confusion([0, 0, 1, -1], [0, 1, -1, 0], 2)
        array([[1, 1, 0],
               [0, 0, 1]])
    """
    truth, found = np.asarray(truth), np.asarray(found)
    judged = truth >= 0
    columns = np.where(found < 0, num_classes, found)[judged]
    places = truth[judged] * (num_classes + 1) + columns
    counts = np.bincount(places, minlength=num_classes * (num_classes + 1))
    return counts.reshape(num_classes, num_classes + 1)


def class_iou(counts: ArrayLike) -> np.ndarray:
    """Return the IoU of every class, [num_classes]; NaN if neither true nor found.

    Args:
        counts: the sum of `confusion` over images.

    Example:
        >>> class_iou(np.array([[1, 1, 0], [0, 0, 1]]))
        array([0.5, 0. ])
    """
    counts = np.asarray(counts)
    hits = counts.diagonal()
    union = counts.sum(axis=1) + counts[:, :-1].sum(axis=0) - hits
    return np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)


def matched(iou: np.ndarray, scores: ArrayLike, threshold: float) -> np.ndarray:
    """Return which of the objects found in an image are true, bool [found].

    In order of score, each takes the true object not yet taken that it overlaps most.

    Args:
        iou: IoU of the masks, [found, true].
        scores: scores, [found].
        threshold: the lowest IoU that counts, usually .5 or .7.

    Example:
        >>> matched(np.array([[0.6, 0.2], [0.9, 0.1]]), [0.8, 0.7], 0.5)
        array([ True, False])
    """
    free = np.ones(iou.shape[1], bool)
    hits = np.zeros(len(iou), bool)
    for i in np.argsort(scores)[::-1]:
        overlaps = np.where(free, iou[i], 0.0)
        if overlaps.max(initial=0.0) >= threshold:
            hits[i] = True
            free[overlaps.argmax()] = False
    return hits


def average_precision(hits: ArrayLike, scores: ArrayLike, number: int) -> float:
    """Return the average precision of one class, over the objects of all images.

        sum over hits of the highest precision at that or a higher recall / number

    Args:
        hits: the results of `matched`, bool [found].
        scores: scores, [found].
        number: number of true objects; the result is NaN without any.

    Example:
        >>> average_precision([True, False, True], [0.9, 0.8, 0.7], 2)
        0.8333333333333333
    """
    if not number:
        return float("nan")
    hits = np.asarray(hits, bool)[np.argsort(scores)[::-1]]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    return float(highest[hits].sum() / number)
