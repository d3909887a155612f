"""How good label maps and found objects are.

    IoU of class c   pixels of c found and true / pixels of c found or true
    AP^r             area under precision of recall, over objects found by their masks

Pixels without a true label are not judged; one that was given no label is wrong.

Source: Everingham et al., "The PASCAL visual object classes challenge", IJCV 2010;
AP of regions: Hariharan et al., "Simultaneous detection and segmentation", ECCV 2014.
"""

__all__ = ["average_precision", "class_iou", "confusion", "matched"]

import numpy as np


def confusion(truth, found, num_classes):
    """Return pixels by true and found class, int64 [num_classes, num_classes + 1].

    Args:
        truth: true classes, int [...]; -1 is not judged.
        found: found classes, int [...]; -1, none, is in the last column.
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


def class_iou(counts):
    """Return IoU of every class, [num_classes]; NaN of one neither true nor found.

    Args:
        counts: sum of `confusion` over images.

    Example:
        >>> class_iou(np.array([[1, 1, 0], [0, 0, 1]]))
        array([0.5, 0. ])
    """
    counts = np.asarray(counts)
    hits = counts.diagonal()
    union = counts.sum(axis=1) + counts[:, :-1].sum(axis=0) - hits
    return np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)


def matched(iou, scores, threshold):
    """Return which of the objects found in an image are true ones, bool [found].

    The best scored first, each takes the free true object that it overlaps most.

    Args:
        iou: [found, true], of the masks.
        scores: [found].
        threshold: smallest IoU, .5 or .7 as a rule.

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


def average_precision(hits, scores, number):
    """Return the area under the precision of the objects of a class, of all images.

        sum over hits of the highest precision at that recall or a higher one / number

    Args:
        hits: bool [found], of `matched`.
        scores: [found].
        number: how many true objects there are; NaN if none.

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
