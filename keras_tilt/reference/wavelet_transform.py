"""The two-dimensional orthonormal wavelet transform, of images of any size.

    W x:  level by level, from the finest,  block <- A_h block A_w^T,  A = [L; H]

`block` is the corner of approximations, [height, width] of the image at first. A
[n, n] has ceil(n / 2) rows of the low-pass filter L and floor(n / 2) of the high-pass
filter H, each moved by two samples along a circle of n. Coefficients of one image are
in one array of its size, nested as usual: approximations in the upper left corner,
right of them vertical details, below horizontal, across diagonal.

For even n this is the periodised transform of `pywt.wavedec2(mode="periodization")`.
For odd n the circle closes between two rows of L that are one sample apart, and two
of H that are three apart: they are not orthonormal there. First H becomes so among
itself, (H H^T)^(-1/2) H, which keeps its rows orthogonal to constants; then L, within
what H leaves. Both are the nearest rows that are, and differ near the seam alone: the
condition numbers are 1.2 and 2.7 for "sym8", at any n from 9.

Source: Mallat (1989), "A theory for multiresolution signal decomposition"; Loewdin
(1950) for the symmetric orthogonalisation.
"""

__all__ = [
    "analysis_matrix",
    "bands_of_coefficients",
    "check_wavelet",
    "default_levels",
    "sizes_of_levels",
    "transforms",
]

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pywt
import tensorflow as tf

from keras_tilt.reference.transports import in_a_graph_of_its_own

_COARSEST = 7  # pixels along the smaller side of the approximations, by default
_BLOCK = 28  # rows of a product at once, of which the filters see few columns
_ZERO = 1e-13  # of an entry of A, which is of order 1


@functools.cache
def analysis_matrix(size: int, wavelet: str) -> np.ndarray:
    """Return A [size, size] of one level, orthonormal: its inverse is its transpose."""
    filters = pywt.Wavelet(wavelet)
    start, half = filters.dec_len // 2, (size + 1) // 2
    matrix = np.zeros([size, size])
    for rows, taps in [
        (range(half), filters.dec_lo),
        (range(half, size), filters.dec_hi),
    ]:
        for i, row in enumerate(rows):
            columns = (2 * i + start - np.arange(filters.dec_len)) % size
            np.add.at(matrix[row], columns, taps)
    low, high = matrix[:half], _orthonormal(matrix[half:])
    matrix = np.concatenate([_orthonormal(low - low @ high.T @ high), high])
    matrix.setflags(write=False)
    return matrix


def _orthonormal(rows):
    """The nearest rows that are orthonormal, (A A^T)^(-1/2) A."""
    left, _, right = np.linalg.svd(rows, full_matrices=False)
    return left @ right


def check_wavelet(wavelet: str) -> None:
    """Raise a ValueError unless PyWavelets has an orthogonal wavelet of that name."""
    names = pywt.wavelist(kind="discrete")
    orthogonal = [name for name in names if pywt.Wavelet(name).orthogonal]
    if wavelet not in orthogonal:
        few = ", ".join(name for name in orthogonal if name[-1] in "48")
        raise ValueError(
            "`wavelet` must name an orthogonal wavelet of PyWavelets. Received: "
            f"{wavelet!r}. Pass for example one of {few}."
        )


def sizes_of_levels(height: int, width: int, levels: int) -> list[tuple[int, int]]:
    """Return [height, width] of the image and of the approximations of each level."""
    sizes = [(height, width)]
    for _ in range(levels):
        height, width = (height + 1) // 2, (width + 1) // 2
        sizes.append((height, width))
    return sizes


def default_levels(height: int, width: int) -> int:
    """Return the number of levels that leaves about 7 x 7 approximations, or none."""
    smaller, levels = min(height, width), 0
    while smaller > 1 and (levels == 0 or (smaller + 1) // 2 >= _COARSEST):
        smaller, levels = (smaller + 1) // 2, levels + 1
    return levels


class Band(NamedTuple):
    """Where in the array of coefficients those of one band are.

    Attributes:
        level: from 1, the finest; that of the approximations is the coarsest.
        orientation: 0 horizontal, 1 vertical, 2 diagonal; None of the approximations.
        rows, columns: slices.
    """

    level: int
    orientation: int | None
    rows: slice
    columns: slice


def bands_of_coefficients(height: int, width: int, levels: int) -> list[Band]:
    """Return the bands of coefficients: approximations, then details, finest first."""
    sizes = sizes_of_levels(height, width, levels)
    low = [slice(0, size) for size in sizes[-1]]
    bands = [Band(levels, None, *low)]
    for level in range(1, levels + 1):
        outer, inner = sizes[level - 1], sizes[level]
        low = [slice(0, size) for size in inner]
        high = [slice(*ends) for ends in zip(inner, outer, strict=True)]
        bands += [
            Band(level, 0, high[0], low[1]),
            Band(level, 1, low[0], high[1]),
            Band(level, 2, high[0], high[1]),
        ]
    return bands


@functools.cache
def transforms(wavelet: str, levels: int) -> tuple[Callable, Callable]:
    """Return W and its inverse W^T, of planes [..., height, width].

    Each is the other's gradient, written down: derived, it copies every block twice,
    and a gradient takes 1.5 times as long.
    """

    @in_a_graph_of_its_own
    @tf.custom_gradient
    def analysis(planes):
        return _in_three_axes(_analysis, planes, wavelet, levels), synthesis

    @in_a_graph_of_its_own
    @tf.custom_gradient
    def synthesis(planes):
        return _in_three_axes(_synthesis, planes, wavelet, levels), analysis

    return analysis, synthesis


def _in_three_axes(transform, planes, wavelet, levels):
    height, width = planes.shape[-2:]
    sizes = tuple(sizes_of_levels(height, width, levels))
    block = transform(tf.reshape(planes, [-1, height, width]), wavelet, sizes)
    return tf.reshape(block, tf.shape(planes))


def _analysis(block, wavelet, sizes):
    """W of planes [n, height, width], where sizes are of the levels to come."""
    if len(sizes) == 1:
        return block
    (height, width), (rows, columns) = sizes[:2]
    block = _along_rows(analysis_matrix(height, wavelet), block)
    block = _along_columns(analysis_matrix(width, wavelet), block)
    low = _analysis(block[:, :rows, :columns], wavelet, sizes[1:])
    return _with_corner(block, low, rows, columns)


def _synthesis(block, wavelet, sizes):
    """W^T of coefficients [n, height, width]."""
    if len(sizes) == 1:
        return block
    (height, width), (rows, columns) = sizes[:2]
    low = _synthesis(block[:, :rows, :columns], wavelet, sizes[1:])
    block = _with_corner(block, low, rows, columns)
    block = _along_columns(analysis_matrix(width, wavelet).T, block)
    return _along_rows(analysis_matrix(height, wavelet).T, block)


def _with_corner(block, low, rows, columns):
    top = tf.concat([low, block[:, :rows, columns:]], axis=2)
    return tf.concat([top, block[:, rows:]], axis=1)


def _along_columns(matrix, block):
    """block matrix^T."""
    size = matrix.shape[0]
    rows = tf.reshape(block, [-1, size])
    product = tf.matmul(rows, tf.constant(matrix.T, block.dtype))
    return tf.reshape(product, tf.shape(block))


def _along_rows(matrix, block):
    """matrix block, some rows of the product at a time where few columns count."""
    columns, parts = _parts(matrix.tobytes(), matrix.shape[0])
    if columns is None:
        return tf.matmul(tf.constant(matrix, block.dtype), block)
    width, (count, _, used) = block.shape[2], parts.shape
    seen = tf.gather(block, tf.constant(columns.ravel()), axis=1)
    seen = tf.reshape(seen, [-1, count, used, width])
    product = tf.matmul(tf.constant(parts, block.dtype), seen)
    product = tf.reshape(product, [-1, parts.shape[1] * count, width])
    return tf.ensure_shape(product[:, : matrix.shape[0]], block.shape)


@functools.cache
def _parts(content, size):
    """Columns [parts, used] of a matrix that count in each part [parts, rows, used].

    None if they are more than half of all: one dense product is faster.
    """
    matrix = np.frombuffer(content).reshape(size, size)
    count = max(1, round(size / _BLOCK))
    rows = -(-size // count)
    padded = np.pad(matrix, [(0, count * rows - size), (0, 0)])
    parts = padded.reshape(count, rows, size)
    weight = np.abs(parts).max(axis=1)
    used = int(np.max(np.sum(weight > _ZERO, axis=1)))
    if 2 * used > size:
        return None, None
    columns = np.sort(np.argsort(-weight, axis=1, kind="stable")[:, :used], axis=1)
    return columns.astype(np.int32), np.take_along_axis(parts, columns[:, None], 2)
