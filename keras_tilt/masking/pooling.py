"""Spatial pyramid pooling of the boxes of segments, masked or not.

    bin i of b along an axis of a box of k cells:  floor(i k / b) .. ceil((i + 1) k / b)
    pooled[bin, channel] = max over the cells of the bin of  mask[cell] feature[cell, .]

Only cells within masks are read: a bin that also has cells outside takes the maximum
with 0. The levels of a pyramid that divide its finest level are maxima of that one's
bins, exactly, as the borders of their bins are among its borders.

Source: He, Zhang, Ren and Sun, "Spatial pyramid pooling in deep convolutional networks
for visual recognition", ECCV 2014, appendix A; masks: Dai, He and Sun, CVPR 2015.
"""

__all__ = ["PYRAMID", "bin_edges", "bin_sums", "pyramid_pool"]

import tensorflow as tf

PYRAMID = (6, 3, 2, 1)


def bin_edges(sizes, bins):
    """Return where the bins of boxes begin and end, along one axis.

    Args:
        sizes: int32 [...], cells of the boxes.
        bins: number of bins.

    Returns:
        firsts, ends: int32 [..., bins]; the end is outside.

    Example:
        >>> firsts, ends = bin_edges(4, 3)
        >>> firsts.numpy(), ends.numpy()
        (array([0, 1, 2], dtype=int32), array([2, 3, 4], dtype=int32))
    """
    sizes = tf.convert_to_tensor(sizes)[..., tf.newaxis]
    numbers = tf.range(bins)
    return numbers * sizes // bins, ((numbers + 1) * sizes + bins - 1) // bins


def pyramid_pool(features, boxes, masks=None, levels=PYRAMID):
    """Return the maxima of features in the bins of a pyramid over each box.

    Args:
        features: [images, rows, columns, channels].
        boxes: int32 [images, segments, 4], cells: top, left, bottom, right, the last
            two outside; or a `tf.RaggedTensor` [images, (segments), 4].
        masks: bool [images, segments, rows, columns], of the same kind; None: boxes
            without masks.
        levels: bins along each axis of the levels of the pyramid.

    Returns:
        pooled: [images, segments, bins, channels], ragged where boxes are; bins of the
            levels one after the other, each row by row. An empty box gives zeros.

    Example:
        >>> features = tf.reshape(tf.range(12.0), [1, 3, 4, 1])
        >>> pyramid_pool(features, [[[0, 0, 2, 3]]], levels=(2, 1))[0, 0, :, 0].numpy()
        array([5., 6., 5., 6., 6.], dtype=float32)
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
    """Return [segments, bins, channels] of segments of the images of these numbers."""
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
    """Return the bins of a level of a pyramid, of those of a level that it divides."""
    shape = tf.shape(fine)
    step = fine.shape[1] // level
    blocks = tf.reshape(fine, [shape[0], level, step, level, step, fine.shape[-1]])
    return _flat(tf.reduce_max(blocks, axis=(2, 4)))


def _flat(pooled):
    return tf.reshape(pooled, [tf.shape(pooled)[0], -1, pooled.shape[-1]])


def _pooled(features, images, boxes, masks, bins):
    """Return [segments, bins, bins, channels]."""
    cells, inside = _cells_of_bins(boxes, bins, tf.shape(features)[2])
    kept = inside
    if masks is not None:
        kept &= tf.gather(masks, tf.where(inside, cells, 0), batch_dims=1)
    # Cells of all images, one after the other.
    flat = tf.reshape(features, [-1, features.shape[-1]])
    firsts = images * tf.math.reduce_prod(tf.shape(features)[1:3])
    cells += firsts[:, tf.newaxis, tf.newaxis, tf.newaxis]
    number = tf.shape(boxes)[0] * bins**2
    owners = tf.broadcast_to(
        tf.reshape(tf.range(number), [-1, bins, bins, 1]), tf.shape(cells)
    )
    highest = tf.math.unsorted_segment_max(
        tf.gather(flat, tf.boolean_mask(cells, kept)),
        tf.boolean_mask(owners, kept),
        number,
    )
    highest = tf.reshape(highest, [-1, bins, bins, features.shape[-1]])
    whole = tf.reduce_all(kept == inside, -1) & tf.reduce_any(inside, -1)
    return tf.where(whole[..., tf.newaxis], highest, tf.maximum(highest, 0))


def _cells_of_bins(boxes, bins, columns):
    """Return the numbers of the cells of each bin, and which of them are in it.

    Returns:
        cells: int32 [segments, bins, bins, most cells of a bin], row by row of the map.
        inside: bool, of the same shape.
    """
    tops, lefts, bottoms, rights = tf.unstack(boxes, axis=-1)
    rows, in_rows = _places(tops, bottoms - tops, bins)
    across, in_columns = _places(lefts, rights - lefts, bins)
    cells = rows[:, :, None, :, None] * columns + across[:, None, :, None, :]
    inside = in_rows[:, :, None, :, None] & in_columns[:, None, :, None, :]
    shape = tf.concat([tf.shape(cells)[:3], [-1]], axis=0)
    return tf.reshape(cells, shape), tf.reshape(inside, shape)


def _places(starts, sizes, bins):
    """Return the rows of each bin, [segments, bins, most], and which are in it."""
    firsts, ends = bin_edges(sizes, bins)
    most = tf.maximum(tf.reduce_max(ends - firsts), 1)
    places = firsts[..., tf.newaxis] + tf.range(most)
    return (
        places + starts[:, tf.newaxis, tf.newaxis],
        places < ends[..., tf.newaxis],
    )


def bin_sums(values, boxes, bins):
    """Return the sums of values over the cells of the bins of one level.

    Args:
        values: [..., rows, columns], numbers of cells; "..." as of boxes, or none.
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
