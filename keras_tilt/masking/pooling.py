"""Spatial pyramid pooling of the boxes of segments, masked or not.

    bin i of b along an axis of a box of k cells:  floor(i k / b) .. ceil((i + 1) k / b)
    pooled[bin, channel] = max over the cells of the bin of  mask[cell] feature[cell, .]

Only cells inside masks are read: a bin that also has cells outside takes the maximum
with 0. Levels of the pyramid that divide its finest level are pooled from the bins of
that level, exactly, as their bin edges are among its edges.

Source: He, Zhang, Ren and Sun, "Spatial pyramid pooling in deep convolutional networks
for visual recognition", ECCV 2014; masks: Dai, He and Sun, CVPR 2015.
"""

__all__ = ["PYRAMID", "bin_edges", "bin_sums", "pyramid_pool"]

from collections.abc import Sequence

import tensorflow as tf
from numpy.typing import ArrayLike

PYRAMID = (6, 3, 2, 1)


def bin_edges(sizes: ArrayLike | tf.Tensor, bins: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the edges of the bins of boxes, along one axis.

    Args:
        sizes: sizes of the boxes, cells int32 [...].
        bins: number of bins.

    Returns:
        firsts, ends: int32 [..., bins]; ends are exclusive.

    Example:
        >>> firsts, ends = bin_edges(4, 3)
        >>> firsts.numpy(), ends.numpy()
        (array([0, 1, 2], dtype=int32), array([2, 3, 4], dtype=int32))
    """
    sizes = tf.convert_to_tensor(sizes)[..., tf.newaxis]
    numbers = tf.range(bins)
    return numbers * sizes // bins, ((numbers + 1) * sizes + bins - 1) // bins


def pyramid_pool(
    features: ArrayLike | tf.Tensor,
    boxes: ArrayLike | tf.Tensor | tf.RaggedTensor,
    masks: tf.Tensor | tf.RaggedTensor | None = None,
    levels: Sequence[int] = PYRAMID,
) -> tf.Tensor | tf.RaggedTensor:
    """Return the maxima of features in the bins of a pyramid over each box.

    Args:
        features: [images, rows, columns, channels].
        boxes: top, left, bottom, right in cells, int32 [images, segments, 4], the last
            two exclusive; or a `tf.RaggedTensor` [images, (segments), 4].
        masks: bool [images, segments, rows, columns], ragged if boxes are; None pools
            whole boxes.
        levels: bins along each axis, one number per level of the pyramid.

    Returns:
        pooled: [images, segments, bins, channels], ragged if boxes are; the bins of
            each level row by row, level after level. An empty box gives zeros.

    Example:
        >>> features = tf.reshape(tf.range(12.0), [1, 3, 4, 1])
        >>> pyramid_pool(features, [[[0, 0, 2, 3]]], levels=(2, 1))[0, 0, :, 0].numpy()
        array([1., 2., 5., 6., 6.], dtype=float32)
    """
    if isinstance(boxes, tf.RaggedTensor):
        lengths = boxes.row_lengths()
        masks = None if masks is None else masks.to_tensor()
        pooled = pyramid_pool(features, boxes.to_tensor(), masks, levels)
        return tf.RaggedTensor.from_tensor(pooled, lengths=lengths)
    features, boxes = tf.convert_to_tensor(features), tf.cast(boxes, tf.int32)
    images, segments = tf.unstack(tf.shape(boxes)[:2])
    if masks is not None:
        cells = tf.math.reduce_prod(tf.shape(features)[1:3])
        masks = tf.reshape(masks, [images * segments, cells])
    owners = tf.repeat(tf.range(images), segments)
    pooled = _pyramid(features, owners, tf.reshape(boxes, [-1, 4]), masks, levels)
    bins = sum(level**2 for level in levels)
    return tf.reshape(pooled, [images, segments, bins, features.shape[-1]])


def _pyramid(features, images, boxes, masks, levels):
    """Return [segments, bins, channels], given the image index of every segment."""
    finest = max(levels)
    fine = _pooled(features, images, boxes, masks, finest)
    return tf.concat(
        [
            _coarser(fine, level)
            if finest % level == 0
            else _flat(_pooled(features, images, boxes, masks, level))
            for level in levels
        ],
        axis=1,
    )


def _coarser(fine, level):
    """Return the bins of a level of the pyramid, from those of a finer one."""
    step, width = fine.shape[1] // level, fine.shape[2] * fine.shape[3]
    # Rows, then columns: adjacent axes are reduced several times as fast.
    rows = tf.reduce_max(tf.reshape(fine, [-1, level, step, width]), axis=2)
    blocks = tf.reshape(rows, [-1, level**2, step, fine.shape[-1]])
    return tf.reduce_max(blocks, axis=2)


def _flat(pooled):
    return tf.reshape(pooled, [tf.shape(pooled)[0], -1, pooled.shape[-1]])


def _pooled(features, images, boxes, masks, bins):
    """Return [segments, bins, bins, channels]."""
    shape = tf.shape(features)
    inside = _inside(boxes, shape[1], shape[2])
    if masks is not None:
        inside &= tf.reshape(masks, tf.shape(inside))
    cells, owners = _pairs(tf.cast(tf.where(inside), tf.int32), boxes, bins)
    cells = (tf.gather(images, cells[0]) * shape[1] + cells[1]) * shape[2] + cells[2]
    # A cell of zeros is added to every bin that has a cell outside the mask.
    number = tf.shape(boxes)[0] * bins**2
    found = tf.math.unsorted_segment_sum(tf.ones_like(owners), owners, number)
    partly = tf.reshape(tf.where(found < _bin_areas(boxes, bins)), [-1])
    flat = tf.pad(tf.reshape(features, [-1, features.shape[-1]]), [[0, 1], [0, 0]])
    zero = tf.fill(tf.shape(partly), tf.reduce_prod(shape[:3]))
    highest = tf.math.unsorted_segment_max(
        tf.gather(flat, tf.concat([cells, zero], axis=0)),
        tf.concat([owners, tf.cast(partly, tf.int32)], axis=0),
        number,
    )
    return tf.reshape(highest, [-1, bins, bins, features.shape[-1]])


def _inside(boxes, rows, columns):
    """Return which cells of a map are in the boxes, bool [segments, rows, columns]."""
    tops, lefts, bottoms, rights = tf.unstack(boxes[..., tf.newaxis], axis=1)
    in_rows = (tf.range(rows) >= tops) & (tf.range(rows) < bottoms)
    in_columns = (tf.range(columns) >= lefts) & (tf.range(columns) < rights)
    return in_rows[:, :, tf.newaxis] & in_columns[:, tf.newaxis]


def _pairs(cells, boxes, bins):
    """Return all pairs of a cell and a bin that holds it; bins overlap by a cell.

    Args:
        cells: int32 [cells, 3]: segment, row, column.
        boxes: int32 [segments, 4].
        bins: number of bins along each axis.

    Returns:
        cells: int32 [3, pairs].
        owners: int32 [pairs], (segment bins + row of bins) bins + column of bins.
    """
    segments = cells[:, 0]
    tops, lefts, bottoms, rights = tf.unstack(tf.gather(boxes, segments), axis=1)
    rows, in_rows = _bins_of(cells[:, 1] - tops, bottoms - tops, bins)
    columns, in_columns = _bins_of(cells[:, 2] - lefts, rights - lefts, bins)
    times = in_rows * in_columns
    which = tf.repeat(tf.range(tf.shape(cells)[0]), times)
    number = tf.range(tf.shape(which)[0]) - tf.gather(tf.cumsum(times) - times, which)
    across = tf.gather(in_columns, which)
    row = tf.gather(rows, which) + number // across
    column = tf.gather(columns, which) + number % across
    cells = tf.transpose(tf.gather(cells, which))
    return cells, (cells[0] * bins + row) * bins + column


def _bins_of(places, sizes, bins):
    """Return the first bin that holds a place in a box, and how many bins do.

        floor(place b / k) .. ceil((place + 1) b / k) - 1,

    which inverts the two inequalities of `bin_edges`.
    """
    firsts = places * bins // sizes
    return firsts, ((places + 1) * bins + sizes - 1) // sizes - firsts


def _bin_areas(boxes, bins):
    """Return the cells of each bin, at least 1: int32 [segments bins bins]."""
    tops, lefts, bottoms, rights = tf.unstack(boxes, axis=1)
    firsts, ends = bin_edges(bottoms - tops, bins)
    heights = ends - firsts
    firsts, ends = bin_edges(rights - lefts, bins)
    areas = heights[:, :, tf.newaxis] * (ends - firsts)[:, tf.newaxis]
    return tf.reshape(tf.maximum(areas, 1), [-1])


def bin_sums(
    values: ArrayLike | tf.Tensor, boxes: ArrayLike | tf.Tensor, bins: int
) -> tf.Tensor:
    """Return the sums of values over the cells of the bins of one level.

    Args:
        values: a number per cell, [..., rows, columns]; "..." as in boxes, or empty.
        boxes: int32 [..., 4], as in `pyramid_pool`.
        bins: number of bins along each axis.

    Returns:
        sums: float32 [..., bins, bins].

    Example:
        >>> bin_sums(tf.ones([4, 4]), [[0, 0, 4, 3]], bins=2)[0].numpy()
        array([[4., 4.],
               [4., 4.]], dtype=float32)
    """
    values, boxes = tf.cast(values, tf.float32), tf.convert_to_tensor(boxes)
    tops, lefts, bottoms, rights = tf.unstack(boxes, axis=-1)
    rows, columns = tf.unstack(tf.shape(values)[-2:])
    in_rows = _in_bins(tops, bottoms - tops, bins, rows)
    in_columns = _in_bins(lefts, rights - lefts, bins, columns)
    return in_rows @ values @ tf.linalg.matrix_transpose(in_columns)


def _in_bins(starts, sizes, bins, cells):
    """Return which cells of an axis are in each bin, float32 [..., bins, cells]."""
    firsts, ends = bin_edges(sizes, bins)
    places = tf.range(cells) - starts[..., tf.newaxis]
    places = places[..., tf.newaxis, :]
    inside = (places >= firsts[..., tf.newaxis]) & (places < ends[..., tf.newaxis])
    return tf.cast(inside, tf.float32)
