"""A label for every pixel, of the scores of segments: score, suppress, paste.

    segments by their scores, the best first:
        suppress  those that overlap a better one, kept before, by an IoU above a bound
        paste     the class of the segment on its pixels that have none yet

Segments are unions of atoms, so that atoms are pasted instead of pixels, in a graph or
outside.

Source: Dai, He and Sun, CVPR 2015; Hariharan et al., ECCV 2014. Where
every pixel has a class, those that no kept segment covers are left to the suppressed
ones, the best first (`fill`).
"""

__all__ = ["found_objects", "label_map", "paste"]

import numpy as np
import tensorflow as tf


def paste(members, sizes, scores, max_iou=0.1, threshold=float("-inf"), fill=False):
    """Return the class of every atom, and the segment that it is of.

    Args:
        members: bool [segments, atoms].
        sizes: pixels of the atoms, [atoms].
        scores: float32 [segments, classes]; the class of a segment is the highest.
        max_iou: IoU with a better segment above which one is suppressed.
        threshold: score below which a segment is not pasted.
        fill: whether suppressed segments are pasted after all others.

    Returns:
        labels: int32 [atoms], -1 where nothing is pasted.
        owners: int32 [atoms], the segment, or -1.

    Example:
        >>> members = [[True, True, False], [False, True, True]]
        >>> labels, owners = paste(members, [5, 2, 9], [[0.2, 0.9], [0.6, 0.1]], 0.5)
        >>> labels.numpy(), owners.numpy()
        (array([1, 1, 0], dtype=int32), array([0, 0, 1], dtype=int32))
    """
    scores = tf.convert_to_tensor(scores, tf.float32)
    order = _order(
        members, sizes, tf.reduce_max(scores, axis=1), max_iou, threshold, fill
    )
    nobody = tf.ones([1, tf.shape(members)[1]], tf.bool)
    pasted = tf.concat([tf.gather(members, order), nobody], axis=0)
    first = tf.argmax(tf.cast(pasted, tf.int32), axis=0)
    classes = tf.argmax(scores, axis=1, output_type=tf.int32)
    return (
        tf.gather(tf.concat([tf.gather(classes, order), [-1]], axis=0), first),
        tf.gather(tf.concat([order, [-1]], axis=0), first),
    )


def label_map(segments, scores, **arguments):
    """Return the class of every pixel, int32 [height, width], -1 where none is pasted.

    Args:
        segments: `Segments`.
        scores: [segments, classes].
        **arguments: of `paste`.
    """
    labels, _ = paste(segments.members, segments.sizes, scores, **arguments)
    return np.append(labels.numpy(), -1)[segments.atoms].astype(np.int32)


def found_objects(segments, scores, max_iou=0.3, most=100):
    """Return the segments that are objects of one class, the best first.

    Args:
        segments: `Segments`.
        scores: of that class, [segments].
        max_iou: IoU with a better segment above which one is left out.
        most: how many, at most.

    Returns:
        found: numbers of segments, int64 [at most `most`].
    """
    best = np.argsort(-np.asarray(scores), kind="stable")[: 4 * most]
    some = segments.select(best)
    kept = tf.image.non_max_suppression_overlaps(
        some.iou(some).astype(np.float32),
        np.asarray(scores, np.float32)[best],
        most,
        max_iou,
    )
    return best[kept.numpy()]


def _order(members, sizes, best, max_iou, threshold, fill):
    """Return the segments to be pasted, int32 [k], the first one first."""
    number = tf.shape(best)[0]
    kept = tf.image.non_max_suppression_overlaps(
        _iou(members, sizes), best, number, max_iou, threshold
    )
    if not fill:
        return kept
    by_score = tf.argsort(best, direction="DESCENDING", stable=True)
    by_score = tf.boolean_mask(by_score, tf.gather(best, by_score) >= threshold)
    is_kept = tf.scatter_nd(kept[:, tf.newaxis], tf.ones_like(kept), [number]) > 0
    rest = tf.boolean_mask(by_score, ~tf.gather(is_kept, by_score))
    return tf.concat([kept, rest], axis=0)


def _iou(members, sizes):
    """Return IoU of every segment with every other, float32 [segments, segments]."""
    members = tf.cast(members, tf.float32)
    common = tf.matmul(members * tf.cast(sizes, tf.float32), members, transpose_b=True)
    areas = tf.linalg.diag_part(common)
    return common / tf.maximum(areas[:, tf.newaxis] + areas - common, 1)
