"""Superpixels and their unions, computed inside a TensorFlow graph.

    pixel p       = (L, a, b, compactness / step * row, compactness / step * column)
    superpixel(p) = argmin over c in the 3 x 3 cells around p of |p - m_c|^2, m_c the
                    mean of the pixels of c, at first those of its cell
    cost(s, t)    = n_s n_t / (n_s + n_t) |m_s - m_t|^2, of superpixels or unions that
                    touch; the two of lowest cost are merged, up to the whole image
    segments      = the superpixels, and the unions of two trees: m of colour, texture
                    and place, and m of colour and texture alone

Only stock operations are used, for images of any size, so that a SavedModel can segment
images.

Source: superpixels, SLIC, Achanta et al. 2012, section 3. Ours start from the mean of
their cell, not from a pixel, and are not made connected afterwards. Unions: Ward 1963,
as in `proposals`.
"""

__all__ = [
    "PLACE_WEIGHT",
    "TEXTURE_WEIGHT",
    "lab",
    "merge_tree",
    "segments_of",
    "slic",
]

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tilt.masking.examples import resize_labels
from keras_tilt.validation import check_count

# Units of CIE Lab per step between superpixels. Chosen from 2 to 25 by the best label
# of each superpixel on CamVid; 10 to 20 differ little.
_COMPACTNESS = 15.0
_ITERATIONS = 10
# What differences count as when merging, against those of colour in units of CIE Lab.
TEXTURE_WEIGHT = 5.0  # per unit of lightness and pixel
PLACE_WEIGHT = 150.0  # per longer side of the image

# Linear sRGB to CIE XYZ; white point D65, 2 degree observer.
_XYZ = np.array(
    [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])


def segments_of(
    image: ArrayLike | tf.Tensor, number: int = 500, side: int = 320
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return superpixels of an image, and the unions of two trees of them.

    Args:
        image: pixels in [0, 255], [height, width, 3], not empty.
        number: number of superpixels, at most.
        side: longest side, in pixels, at which superpixels are found: a larger image is
            scaled down first, so that their boundaries are coarser.

    Returns:
        atoms: the superpixel of every pixel, int32 [height, width], from 0 to k - 1.
        members: the superpixels of every segment, bool [segments, k], each once: first
            every superpixel, then unions, at most 2k - 2 of them.

    Raises:
        ValueError: `number` or `side` below 1.

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
    first, second = (merge_tree(seen, atoms, place) for place in (PLACE_WEIGHT, 0.0))
    atoms = resize_labels(atoms, tf.shape(image)[:2])
    return atoms, tf.concat([first, _new(second, first)], axis=0)


def _shrunk(image, side):
    """Return the image as float32, scaled so that no side is above `side`."""
    image = tf.cast(image, tf.float32)
    shape = tf.shape(image)[:2]
    scale = side / tf.maximum(tf.reduce_max(shape), side)
    smaller = tf.cast(tf.round(scale * tf.cast(shape, tf.float64)), tf.int32)
    return tf.image.resize(image, tf.maximum(smaller, 1), antialias=True)


def _new(members, known):
    """Return the segments that are not among the known ones."""
    some, others = (tf.cast(each, tf.float32) for each in (members, known))
    common = tf.matmul(some, others, transpose_b=True)
    sizes = tf.reduce_sum(some, axis=1, keepdims=True), tf.reduce_sum(others, axis=1)
    is_known = tf.reduce_any((common == sizes[0]) & (common == sizes[1]), axis=1)
    return tf.boolean_mask(members, ~is_known)


# Colour


def lab(image: ArrayLike | tf.Tensor) -> tf.Tensor:
    """Return CIE Lab of sRGB, white point D65, 2 degree observer.

    Args:
        image: pixels in [0, 255], [..., 3].

    Returns:
        lab: L in [0, 100], a from green to red, b from blue to yellow; float32
            [..., 3].

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


def slic(image: ArrayLike | tf.Tensor, number: int) -> tf.Tensor:
    """Return the superpixels of an image, by local k-means of colour and place.

    Args:
        image: pixels in [0, 255], [height, width, 3], not empty.
        number: number of superpixels, at most; about as many are found.

    Returns:
        atoms: the superpixel of every pixel, int32 [height, width], numbered from 0 in
            the order of their first pixels. They are a function of the image.

    Raises:
        ValueError: `number` below 1.
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
    """Return rows and columns of nearly square cells, rows * columns <= number."""
    ratio = tf.cast(height, tf.float64) / tf.cast(width, tf.float64)
    rows = tf.cast(tf.round(tf.sqrt(number * ratio)), tf.int32)
    rows = tf.clip_by_value(rows, 1, tf.minimum(height, number))
    return rows, tf.minimum(width, number // rows)


def _cells(height, width, rows, columns):
    """Return the cell of every pixel, int32 [height, width], with a margin of cells."""
    of_rows = 1 + tf.range(height) * rows // height
    of_columns = 1 + tf.range(width) * columns // width
    return of_rows[:, tf.newaxis] * (columns + 2) + of_columns


def _pixels(image, count):
    """Return what pixels are compared by, colour and place, float32 [h, w, 5]."""
    shape = tf.shape(image)[:2]
    step = tf.sqrt(tf.cast(tf.reduce_prod(shape) / count, tf.float32))
    return tf.concat([lab(image), _COMPACTNESS / step * _places(shape)], axis=-1)


def _places(shape):
    """Return row and column of every pixel, float32 [height, width, 2]."""
    rows, columns = tf.meshgrid(tf.range(shape[0]), tf.range(shape[1]), indexing="ij")
    return tf.cast(tf.stack([rows, columns], axis=-1), tf.float32)


def _nearest(pixels, centers, cells, per_row):
    """Return the nearest of the 3 x 3 centers around each pixel, int32 [height, width].

    One of the 9 after the other: all at once take 9 times the memory.
    """
    nearest, distance = cells, tf.fill(tf.shape(cells), np.float32(np.inf))
    for offset in [i * per_row + j for i in (-1, 0, 1) for j in (-1, 0, 1)]:
        others = cells + offset
        to_others = tf.reduce_sum((pixels - tf.gather(centers, others)) ** 2, axis=-1)
        nearer = to_others < distance  # never for NaN, a center without pixels
        nearest = tf.where(nearer, others, nearest)
        distance = tf.where(nearer, to_others, distance)
    return nearest


def _means(values, labels, count):
    """Return the means over each label, float64 [count, channels]; NaN if empty."""
    ones = tf.ones_like(values[..., :1])
    sums = tf.math.unsorted_segment_sum(
        tf.cast(tf.concat([values, ones], axis=-1), tf.float64), labels, count
    )
    return sums[:, :-1] / sums[:, -1:]


# Unions


def merge_tree(
    image: ArrayLike | tf.Tensor, atoms: tf.Tensor, place: float = PLACE_WEIGHT
) -> tf.Tensor:
    """Return superpixels and their unions, merged one by one by Ward's method.

    Every superpixel has the same weight, n = 1, however many pixels it has.

    Args:
        image: pixels in [0, 255], [height, width, 3].
        atoms: the superpixel of every pixel, int32 [height, width]; each of 0..k - 1
            has a pixel.
        place: the difference in colour, in units of CIE Lab, that a difference in
            place of the longer side of the image is worth.

    Returns:
        members: the superpixels of every segment, bool [2k - 1, k]: first every
            superpixel, then the unions in the order of merging.
    """
    count = tf.reduce_max(atoms) + 1
    means = _means(_channels(image, place), atoms, count)
    return _ward(means, *_adjacent(atoms, count))


def _channels(image, of_place):
    """Return what superpixels are compared by: colour, texture, place, [h, w, 7]."""
    colour, shape = lab(image), tf.shape(image)[:2]
    place = _places(shape) / tf.cast(tf.reduce_max(shape), tf.float32)
    texture = tf.abs(_gradient(colour[..., 0]))
    return tf.concat([colour, TEXTURE_WEIGHT * texture, of_place * place], axis=-1)


def _gradient(values):
    """Return the gradient down and right, by Sobel's filters, [height, width, 2]."""
    values = tf.pad(values, [[1, 1], [1, 1]], "SYMMETRIC")
    down = (values[2:] - values[:-2]) / 2
    right = (values[:, 2:] - values[:, :-2]) / 2
    down = (down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]) / 4
    right = (right[:-2] + 2 * right[1:-1] + right[2:]) / 4
    return tf.stack([down, right], axis=-1)


def _adjacent(atoms, count):
    """Return the pairs of superpixels that touch, two arrays int32 [pairs]."""
    firsts = tf.concat([_flat(atoms[1:]), _flat(atoms[:, 1:])], axis=0)
    seconds = tf.concat([_flat(atoms[:-1]), _flat(atoms[:, :-1])], axis=0)
    count = tf.cast(count, tf.int64)
    pairs = tf.minimum(firsts, seconds) * count + tf.maximum(firsts, seconds)
    pairs = tf.unique(tf.boolean_mask(pairs, firsts != seconds)).y
    return tf.cast(pairs // count, tf.int32), tf.cast(pairs % count, tf.int32)


def _ward(means, firsts, seconds):
    """Return `merge_tree`, given the means of superpixels and the pairs that touch.

    A union takes the index of one of its two parts, so that a merge only replaces one
    index by another in the owners of superpixels and in the pairs.
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
    """Return the cost of merging each pair, float64 [pairs]; infinite in a union."""
    means = sums / numbers[:, tf.newaxis]
    difference = tf.gather(means, firsts) - tf.gather(means, seconds)
    n, m = tf.gather(numbers, firsts), tf.gather(numbers, seconds)
    costs = n * m / (n + m) * tf.reduce_sum(difference**2, axis=1)
    return tf.where(firsts == seconds, np.float64(np.inf), costs)


def _flat(values):
    return tf.reshape(tf.cast(values, tf.int64), [-1])
