"""A label for every pixel from the scores of segments: by pasting, or by a vote.

    paste   segments by score, the best first:
                suppress  those whose IoU with a better one is above a bound
                paste     the class of the segment on its pixels that have none yet
    vote    argmax over classes c of
                sum over segments s with the pixel of score(s, c) / sqrt(pixels of s)

Segments are unions of atoms, so that atoms are labelled instead of pixels, in a graph
or outside.

Source: Dai, He and Sun, CVPR 2015; Hariharan et al., ECCV 2014, for pasting. Where
every pixel has a class, pixels that no kept segment covers get that of a suppressed
one, the best first (`fill`). The vote is ours: no segment decides alone, and large
ones, which locate boundaries less well, count less.
"""

__all__ = ["RULES", "found_objects", "label_map", "paste", "vote"]

from typing import Any, Literal

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tilt.masking.segments.atoms import Segments

RULES = ("paste", "vote")


def paste(
    members: ArrayLike | tf.Tensor,
    sizes: ArrayLike | tf.Tensor,
    scores: ArrayLike | tf.Tensor,
    max_iou: float = 0.1,
    threshold: float = float("-inf"),
    fill: bool = False,
    background: int | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the class of every atom, and the segment it comes from.

    Args:
        members: bool [segments, atoms].
        sizes: areas of the atoms, pixels [atoms].
        scores: float32 [segments, classes]; a segment has the class that scores best.
        max_iou: IoU with a better segment above which a segment is suppressed.
        threshold: score below which a segment is not pasted.
        fill: whether suppressed segments are pasted after all others.
        background: class whose segments are not pasted; it labels what is left.

    Returns:
        labels: int32 [atoms]; the background, or -1, where nothing is pasted.
        owners: int32 [atoms], the pasted segment, or -1.

    Example:
        >>> members = [[True, True, False], [False, True, True]]
        >>> labels, owners = paste(members, [5, 2, 9], [[0.2, 0.9], [0.6, 0.1]], 0.5)
        >>> labels.numpy(), owners.numpy()
        (array([1, 1, 0], dtype=int32), array([0, 0, 1], dtype=int32))
    """
    scores = tf.convert_to_tensor(scores, tf.float32)
    classes = tf.argmax(scores, axis=1, output_type=tf.int32)
    nothing = -1 if background is None else background
    candidates = tf.boolean_mask(tf.range(tf.shape(scores)[0]), classes != nothing)
    members = tf.gather(members, candidates)
    best = tf.gather(tf.reduce_max(scores, axis=1), candidates)
    order = _order(members, sizes, best, max_iou, threshold, fill)
    nobody = tf.ones([1, tf.shape(members)[1]], tf.bool)
    pasted = tf.concat([tf.gather(members, order), nobody], axis=0)
    first = tf.argmax(tf.cast(pasted, tf.int32), axis=0)
    order = tf.gather(candidates, order)
    return (
        tf.gather(tf.concat([tf.gather(classes, order), [nothing]], axis=0), first),
        tf.gather(tf.concat([order, [-1]], axis=0), first),
    )


def vote(
    members: ArrayLike | tf.Tensor,
    sizes: ArrayLike | tf.Tensor,
    scores: ArrayLike | tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the class that the segments of every atom vote for.

    Args:
        members: bool [segments, atoms].
        sizes: areas of the atoms, pixels [atoms].
        scores: float32 [segments, classes], probabilities or margins: a constant added
            to all classes of a segment changes nothing.

    Returns:
        labels: int32 [atoms]; -1 for an atom in no segment.
        means: float32 [atoms, classes], the mean scores of its segments, weighted as in
            the vote; 0 for an atom in no segment.

    Example:
        >>> members = [[True, True, False], [True, False, False]]
        >>> labels, means = vote(members, [4, 5, 9], [[0.2, 0.7], [0.9, 0.1]])
        >>> labels.numpy(), means.numpy().round(2)
        (array([ 0,  1, -1], dtype=int32), array([[0.62, 0.34],
               [0.2 , 0.7 ],
               [0.  , 0.  ]], dtype=float32))
    """
    members = tf.cast(members, tf.float32)
    areas = tf.linalg.matvec(members, tf.cast(sizes, tf.float32))
    weights = members * tf.math.rsqrt(tf.maximum(areas, 1))[:, tf.newaxis]
    votes = tf.matmul(weights, tf.cast(scores, tf.float32), transpose_a=True)
    means = tf.math.divide_no_nan(votes, tf.reduce_sum(weights, axis=0)[:, tf.newaxis])
    labels = tf.argmax(means, axis=1, output_type=tf.int32)
    return tf.where(tf.reduce_any(members > 0, axis=0), labels, -1), means


def label_map(
    segments: Segments,
    scores: ArrayLike | tf.Tensor,
    rule: Literal["paste", "vote"] = "paste",
    background: int | None = None,
    **bounds: Any,
) -> np.ndarray:
    """Return the class of every pixel, int32 [height, width].

    Args:
        segments: `Segments`.
        scores: [segments, classes].
        rule: "paste" or "vote".
        background: class of the pixels that no segment labels; by default -1. Segments
            of this class are not pasted; they vote like all others.
        **bounds: further arguments of `paste`.

    Raises:
        ValueError: another rule, or bounds for "vote".
    """
    if rule not in RULES:
        raise ValueError(
            f"`rule` must be one of {', '.join(RULES)}. Received: {rule!r}. Take the "
            'paper\'s, "paste", or "vote".'
        )
    if rule == "vote" and bounds:
        raise ValueError(
            f'"vote" must have no bounds. Received: {", ".join(bounds)}. Omit them.'
        )
    if rule == "vote":
        labels, _ = vote(segments.members, segments.sizes, scores)
    else:
        labels, _ = paste(
            segments.members, segments.sizes, scores, background=background, **bounds
        )
    labels = np.append(labels.numpy(), -1)[segments.atoms].astype(np.int32)
    return labels if background is None else np.where(labels < 0, background, labels)


def found_objects(
    segments: Segments, scores: ArrayLike, max_iou: float = 0.3, most: int = 100
) -> np.ndarray:
    """Return the segments that are objects of one class, the best first.

    Args:
        segments: `Segments`.
        scores: scores of that class, [segments].
        max_iou: IoU with a better segment above which a segment is left out.
        most: number of segments, at most.

    Returns:
        found: indices of segments, int64 [at most `most`].
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
    """Return the segments to paste, int32 [k], in order."""
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
