"""Superpixels and their unions, made inside a TensorFlow graph.

    pixel p        (L, a, b, compactness / step * row, compactness / step * column)
    superpixel(p)  = argmin over c in the 3 x 3 cells around p of |p - m_c|^2, where m_c
                     is the mean of the pixels that c has had so far; at first its cell
    cost(s, t)     = n_s n_t / (n_s + n_t) |m_s - m_t|^2, of superpixels or unions that
                     touch; those of the smallest are merged, up to the whole image
    segments       the superpixels, and the unions of two trees: m of colour, texture
                     and place, and m of colour and texture alone

Of stock operations only and for images of any size, so that a SavedModel can segment.

Source: superpixels, SLIC, Achanta et al. 2012, section 3. Ours are told the mean of
their cell first, not a pixel of it, and remain as they are found: a superpixel may have
pixels apart from the others. Unions: Ward 1963, as in `proposals`.
"""

__all__ = ["lab", "merge_tree", "segments_of", "slic"]

import numpy as np
import tensorflow as tf

from keras_tilt.masking.examples import resize_labels
from keras_tilt.validation import check_count

# Units of CIE Lab per step between superpixels. Of 2 to 25 with the best label of each
# superpixel on CamVid; 10 to 20 differ little.
_COMPACTNESS = 15.0
_ITERATIONS = 10
# What differences count as when merging: as in `proposals`.
_OF_TEXTURE = 5.0  # per unit of lightness and pixel
_OF_PLACE = 150.0  # per longer side of the image

# Linear sRGB to CIE XYZ; the white of D65 as seen by the observer of 2 degrees.
_XYZ = np.array(
    [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])


def segments_of(image, number=500, side=320):
    """Return superpixels of an image, and the unions of two trees of them.

    Args:
        image: pixels in [0, 255], [height, width, 3], not empty.
        number: how many superpixels there may be at most.
        side: of the image when they are found, at most, in pixels: a larger one is made
            smaller, and they are as coarse as its pixels then.

    Returns:
        atoms: the superpixel of every pixel, int32 [height, width], from 0 to k - 1.
        members: the superpixels of every segment, bool [segments, k], each once: first
            each superpixel by itself, then unions, at most 2k - 2 of them.

    Raises:
        ValueError: for no number of superpixels, or pixels.

    Example:
        >>> image = np.full([4, 6, 3], 200, np.uint8)
        >>> atoms, members = segments_of(image, number=2)
        >>> atoms.numpy()[0], members.numpy().astype(int)
        (array([0, 0, 0, 1, 1, 1], dtype=int32), array([[1, 0],
               [0, 1],
               [1, 1]]))
    """
    check_count("side", side, 1)
    seen = _shrunk(image, side)
    atoms = slic(seen, number)
    first, second = (merge_tree(seen, atoms, place) for place in (_OF_PLACE, 0.0))
    atoms = resize_labels(atoms, tf.shape(image)[:2])
    return atoms, tf.concat([first, _new(second, first)], axis=0)


def _shrunk(image, side):
    """An image, float32, with no side above this."""
    image = tf.cast(image, tf.float32)
    shape = tf.shape(image)[:2]
    scale = side / tf.maximum(tf.reduce_max(shape), side)
    smaller = tf.cast(tf.round(scale * tf.cast(shape, tf.float64)), tf.int32)
    return tf.image.resize(image, tf.maximum(smaller, 1), antialias=True)


def _new(members, known):
    """The segments that are none of the known ones."""
    some, others = (tf.cast(each, tf.float32) for each in (members, known))
    common = tf.matmul(some, others, transpose_b=True)
    sizes = tf.reduce_sum(some, axis=1, keepdims=True), tf.reduce_sum(others, axis=1)
    is_known = tf.reduce_any((common == sizes[0]) & (common == sizes[1]), axis=1)
    return tf.boolean_mask(members, ~is_known)


# Colour


def lab(image):
    """Return CIE Lab of sRGB, of white D65 and the observer of 2 degrees.

    Args:
        image: pixels in [0, 255], [..., 3].

    Returns:
        lab: lightness in [0, 100], green to red, blue to yellow; float32 [..., 3].

    Source: IEC 61966-2-1 for sRGB; CIE 15.
    """
    srgb = tf.cast(image, tf.float32) / 255
    linear = tf.where(srgb > 0.04045, ((srgb + 0.055) / 1.055) ** 2.4, srgb / 12.92)
    xyz = tf.tensordot(linear, tf.constant(_XYZ.T / _WHITE, tf.float32), 1)
    x, y, z = tf.unstack(
        tf.where(xyz > 0.008856, xyz ** (1 / 3), 7.787 * xyz + 16 / 116), axis=-1
    )
    return tf.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


# Superpixels


def slic(image, number):
    """Return superpixels of an image: local k-means of colour and place.

    Args:
        image: pixels in [0, 255], [height, width, 3], not empty.
        number: how many there may be at most; about as many are found.

    Returns:
        atoms: the superpixel of every pixel, int32 [height, width], numbered from 0 in
            the order of their first pixels. The same image gives the same ones.

    Raises:
        ValueError: for no number of superpixels.
    """
    check_count("number", number, 1)
    height, width = tf.unstack(tf.shape(image)[:2])
    rows, columns = _grid(height, width, number)
    cells = _cells(height, width, rows, columns)
    pixels = _pixels(image, rows * columns)

    def assign(labels):
        means = _means(pixels, labels, (rows + 2) * (columns + 2))
        return (_nearest(pixels, tf.cast(means, tf.float32), cells, columns + 2),)

    (labels,) = tf.while_loop(
        lambda _: True, assign, (cells,), maximum_iterations=_ITERATIONS
    )
    atoms = tf.unique(tf.reshape(labels, [-1])).idx
    return tf.reshape(atoms, tf.shape(labels))


def _grid(height, width, number):
    """Rows and columns of cells, rows * columns <= number: about square, no empty."""
    ratio = tf.cast(height, tf.float64) / tf.cast(width, tf.float64)
    rows = tf.cast(tf.round(tf.sqrt(number * ratio)), tf.int32)
    rows = tf.clip_by_value(rows, 1, tf.minimum(height, number))
    return rows, tf.minimum(width, number // rows)


def _cells(height, width, rows, columns):
    """The cell of every pixel, int32 [height, width], a margin of cells around all."""
    of_rows = 1 + tf.range(height) * rows // height
    of_columns = 1 + tf.range(width) * columns // width
    return of_rows[:, tf.newaxis] * (columns + 2) + of_columns


def _pixels(image, count):
    """What pixels are compared by, float32 [height, width, 5]: colour and place."""
    shape = tf.shape(image)[:2]
    step = tf.sqrt(tf.cast(tf.reduce_prod(shape) / count, tf.float32))
    return tf.concat([lab(image), _COMPACTNESS / step * _places(shape)], axis=-1)


def _places(shape):
    """Row and column of every pixel, float32 [height, width, 2]."""
    rows, columns = tf.meshgrid(tf.range(shape[0]), tf.range(shape[1]), indexing="ij")
    return tf.cast(tf.stack([rows, columns], axis=-1), tf.float32)


def _nearest(pixels, centers, cells, per_row):
    """The nearest of the 3 x 3 centers around each pixel, int32 [height, width].

    One of the 9 after the other: all at once are 9 times the memory.
    """
    nearest, distance = cells, tf.fill(tf.shape(cells), np.float32(np.inf))
    for offset in [i * per_row + j for i in (-1, 0, 1) for j in (-1, 0, 1)]:
        others = cells + offset
        to_others = tf.reduce_sum((pixels - tf.gather(centers, others)) ** 2, axis=-1)
        nearer = to_others < distance  # never so for NaN, a center without pixels
        nearest = tf.where(nearer, others, nearest)
        distance = tf.where(nearer, to_others, distance)
    return nearest


def _means(values, labels, count):
    """Means over the pixels of every label, float64 [count, channels]; NaN of none."""
    ones = tf.ones_like(values[..., :1])
    sums = tf.math.unsorted_segment_sum(
        tf.cast(tf.concat([values, ones], axis=-1), tf.float64), labels, count
    )
    return sums[:, :-1] / sums[:, -1:]


# Unions


def merge_tree(image, atoms, place=_OF_PLACE):
    """Return superpixels and the unions that Ward's method merges one by one.

    Every superpixel counts alike, n = 1, however many pixels it has.

    Args:
        image: pixels in [0, 255], [height, width, 3].
        atoms: the superpixel of every pixel, int32 [height, width]; each of 0..k - 1
            has a pixel.
        place: what a difference in place of the longer side of the image counts as,
            against those of colour in units of CIE Lab.

    Returns:
        members: the superpixels of every segment, bool [2k - 1, k]: first each by
            itself, then the unions in the order of merging.
    """
    count = tf.reduce_max(atoms) + 1
    means = _means(_channels(image, place), atoms, count)
    return _ward(means, *_adjacent(atoms, count))


def _channels(image, of_place):
    """What superpixels are compared by, [height, width, 7]: colour, texture, place."""
    colour, shape = lab(image), tf.shape(image)[:2]
    place = _places(shape) / tf.cast(tf.reduce_max(shape), tf.float32)
    texture = tf.abs(_gradient(colour[..., 0]))
    return tf.concat([colour, _OF_TEXTURE * texture, of_place * place], axis=-1)


def _gradient(values):
    """Per pixel along rows and columns, by Sobel's masks, [height, width, 2]."""
    values = tf.pad(values, [[1, 1], [1, 1]], "SYMMETRIC")
    down = (values[2:] - values[:-2]) / 2
    right = (values[:, 2:] - values[:, :-2]) / 2
    down = (down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]) / 4
    right = (right[:-2] + 2 * right[1:-1] + right[2:]) / 4
    return tf.stack([down, right], axis=-1)


def _adjacent(atoms, count):
    """Superpixels that touch along a side of a pixel: two of int32 [pairs]."""
    firsts = tf.concat([_flat(atoms[1:]), _flat(atoms[:, 1:])], axis=0)
    seconds = tf.concat([_flat(atoms[:-1]), _flat(atoms[:, :-1])], axis=0)
    count = tf.cast(count, tf.int64)
    pairs = tf.minimum(firsts, seconds) * count + tf.maximum(firsts, seconds)
    pairs = tf.unique(tf.boolean_mask(pairs, firsts != seconds)).y
    return tf.cast(pairs // count, tf.int32), tf.cast(pairs % count, tf.int32)


def _ward(means, firsts, seconds):
    """Superpixels by their means and which touch, and their unions: `merge_tree`.

    A union takes the number of one of its two parts, so that a merge changes only who
    owns a superpixel, and whom the pairs that touch are of.
    """
    count = tf.shape(means)[0]
    superpixels = tf.range(count)
    members = tf.TensorArray(tf.bool, 2 * count - 1, element_shape=[None])
    members = members.scatter(superpixels, tf.eye(count, dtype=tf.bool))

    def merge(i, firsts, seconds, numbers, sums, owners, members):
        cheapest = tf.argmin(_costs(firsts, seconds, numbers, sums))
        kept, gone = firsts[cheapest], seconds[cheapest]
        numbers = tf.tensor_scatter_nd_add(numbers, [[kept]], [numbers[gone]])
        sums = tf.tensor_scatter_nd_add(sums, [[kept]], [sums[gone]])
        firsts, seconds, owners = (
            tf.where(some == gone, kept, some) for some in (firsts, seconds, owners)
        )
        members = members.write(i, owners == kept)
        return i + 1, firsts, seconds, numbers, sums, owners, members

    ones = tf.ones([count], means.dtype)
    start = (count, firsts, seconds, ones, means, superpixels, members)
    return tf.while_loop(lambda i, *_: i < 2 * count - 1, merge, start)[-1].stack()


def _costs(firsts, seconds, numbers, sums):
    """Of merging, float64 [pairs]; infinite within a union."""
    means = sums / numbers[:, tf.newaxis]
    difference = tf.gather(means, firsts) - tf.gather(means, seconds)
    n, m = tf.gather(numbers, firsts), tf.gather(numbers, seconds)
    costs = n * m / (n + m) * tf.reduce_sum(difference**2, axis=1)
    return tf.where(firsts == seconds, np.float64(np.inf), costs)


def _flat(values):
    return tf.reshape(tf.cast(values, tf.int64), [-1])
