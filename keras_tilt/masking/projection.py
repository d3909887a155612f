"""Segments projected onto a feature map: every pixel belongs to the nearest cell.

    cell(pixel)    = argmin over cells of |center of its receptive field - pixel|
    share[s, cell] = pixels of segment s in the cell / all pixels of the cell
    mask[s, cell]  = share[s, cell] >= 1/2

Centers lie on a grid, so that the nearest is found for rows and columns separately. The
share of a cell without pixels is 0. A segment much smaller than the cells has an empty
mask.

Source: Dai, He and Sun, "Convolutional feature masking for joint object and stuff
segmentation", CVPR 2015. Of two centers at equal distance the first one counts, and a
share of exactly one half is in the mask; the paper leaves both open.
"""

__all__ = [
    "Cells",
    "boxes_of",
    "cells_of",
    "project_masks",
    "project_segments",
    "segment_counts",
    "thresholded",
]

import dataclasses

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tilt.networks import graph
from keras_tilt.networks.receptive_fields.fields import receptive_field


@dataclasses.dataclass(frozen=True)
class Cells:
    """The cell of a feature map that every pixel belongs to, by rows and columns.

    Attributes:
        rows: the row of cells of every row of pixels.
        columns: the column of cells of every column of pixels.
        map_shape: (rows, columns) of the feature map.
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    map_shape: tuple[int, ...]

    @property
    def image_shape(self) -> tuple[int, int]:
        """Return (height, width) of the images, in pixels."""
        return len(self.rows), len(self.columns)

    @property
    def totals(self) -> np.ndarray:
        """Return the number of pixels of every cell, int64 [rows, columns]."""
        per_row, per_column = (
            np.bincount(cells, minlength=size)
            for cells, size in zip(
                (self.rows, self.columns), self.map_shape, strict=True
            )
        )
        return np.outer(per_row, per_column)


def cells_of(network: keras.Model, layer: str) -> Cells:
    """Return the cells of a layer's feature map that the pixels belong to.

    Args:
        network: functional or Sequential `keras.Model` of images [n, h, w, channels] of
            one size.
        layer: "conv5", or "backbone/conv5" inside a nested network.

    Returns:
        cells: `Cells`, for pixels of the network's input.

    Raises:
        ValueError: as `keras_tilt.receptive_field`; a layer without a feature map;
            images without a fixed size.

    Example:
        >>> import keras
        >>> network = keras.Sequential([
        ...     keras.Input((6, 8, 1)), keras.layers.MaxPooling2D(2, name="pool"),
        ... ])
        >>> cells_of(network, "pool").columns
        (0, 0, 1, 1, 2, 2, 3, 3)
    """
    image_shape = tuple(network.input_shape[1:3])
    if None in image_shape:
        raise ValueError(
            "Expected a network of images of one size, to place the cells of its "
            f"layers. Received: input shape {network.input_shape}. Build it with "
            "keras.Input((height, width, channels))."
        )
    field = receptive_field(network, layer)
    shape = graph.find(network, layer).node.output_tensors[0].shape
    if len(shape) != 4 or 0 in field.stride:
        raise ValueError(
            "Expected a layer whose cells see different parts of the image. Received: "
            f"{layer!r}, of shape {tuple(shape)} and stride {field.stride}. Name a "
            "convolution or pooling below."
        )
    centers = field.center(*map(np.arange, shape[1:3]))
    rows, columns = map(_nearest, centers, image_shape)
    return Cells(rows, columns, tuple(shape[1:3]))


def _nearest(centers, pixels):
    """Return the nearest center of each pixel 0 .. pixels - 1, the first of two."""
    distances = np.abs(np.arange(pixels)[:, np.newaxis] - centers)
    return tuple(distances.argmin(axis=1).tolist())


def project_masks(
    masks: ArrayLike | tf.Tensor | tf.RaggedTensor, cells: Cells, threshold: float = 0.5
) -> tf.Tensor | tf.RaggedTensor:
    """Return masks of pixels as masks of cells.

    Args:
        masks: bool or numbers in [0, 1], [..., height, width], of the size of the
            network's images; or a `tf.RaggedTensor` [images, (segments), height,
            width].
        cells: `Cells`.
        threshold: share of its pixels at or above which a cell is in the mask.

    Returns:
        masks: bool [..., rows, columns], ragged if the masks are.

    Raises:
        ValueError: masks of another size.

    Example:
        >>> left = np.tile([1, 1, 1, 1, 0, 0, 0, 0], [6, 1])
        >>> quarters = Cells((0, 0, 0, 1, 1, 1), (0, 0, 0, 0, 1, 1, 1, 1), (2, 2))
        >>> project_masks(left, quarters).numpy()
        array([[ True, False],
               [ True, False]])
    """
    if isinstance(masks, tf.RaggedTensor):
        return masks.with_flat_values(
            project_masks(masks.flat_values, cells, threshold)
        )
    masks = tf.cast(masks, tf.float32)
    if not masks.shape[-2:].is_compatible_with(cells.image_shape):
        raise ValueError(
            f"Expected masks of {cells.image_shape} pixels, as the images of the "
            f"network. Received: shape {masks.shape}. Resize them first."
        )
    rows = tf.one_hot(cells.rows, cells.map_shape[0])
    columns = tf.one_hot(cells.columns, cells.map_shape[1])
    along_rows = tf.matmul(masks, columns)
    counts = tf.einsum("hr,...hc->...rc", rows, along_rows)
    return thresholded(counts, cells.totals, threshold)


def project_segments(
    atoms: ArrayLike | tf.Tensor,
    members: ArrayLike | tf.Tensor | tf.RaggedTensor,
    cells: Cells,
    threshold: float = 0.5,
) -> tf.Tensor | tf.RaggedTensor:
    """Return the masks of cells of segments that are unions of atoms.

    Args:
        atoms: int32 [images, height, width], of the size of the network's images; -1
            where there is no segment.
        members: bool [images, segments, atoms], or a `tf.RaggedTensor` [images,
            (segments), atoms].
        cells: `Cells`.
        threshold: as in `project_masks`.

    Returns:
        masks: bool [images, segments, rows, columns], ragged if members are.
    """
    if isinstance(members, tf.RaggedTensor):
        masks = project_segments(atoms, members.to_tensor(), cells, threshold)
        return tf.RaggedTensor.from_tensor(masks, lengths=members.row_lengths())
    counts = segment_counts(atoms, members, cells)
    return thresholded(counts, cells.totals, threshold)


def segment_counts(
    atoms: ArrayLike | tf.Tensor, members: ArrayLike | tf.Tensor, cells: Cells
) -> tf.Tensor:
    """Return the number of pixels of every segment in every cell.

    Args:
        atoms: as in `project_segments`.
        members: bool [images, segments, atoms].
        cells: `Cells`.

    Returns:
        counts: integers as float32 [images, segments, rows, columns].
    """
    members = tf.cast(members, tf.float32)
    rows, columns = cells.map_shape
    number = tf.shape(members)[-1]
    cell = columns * tf.constant(cells.rows)[:, tf.newaxis] + tf.constant(cells.columns)
    atoms = tf.ensure_shape(tf.cast(atoms, tf.int32), [None, *cells.image_shape])

    def of_image(both):
        atoms, members = both
        # An atom has pixels in few cells, so the matrix [cells, atoms] is sparse.
        places = tf.boolean_mask(cell * number + atoms, atoms >= 0)
        places, _, pixels = tf.unique_with_counts(places)
        places = tf.stack([places // number, places % number], axis=1)
        counts = tf.SparseTensor(
            tf.cast(places, tf.int64),
            tf.cast(pixels, tf.float32),
            tf.cast([rows * columns, number], tf.int64),
        )
        return tf.sparse.sparse_dense_matmul(counts, members, adjoint_b=True)

    counts = tf.map_fn(of_image, (atoms, members), fn_output_signature=tf.float32)
    counts = tf.linalg.matrix_transpose(counts)
    return tf.reshape(
        counts, tf.concat([tf.shape(members)[:2], cells.map_shape], axis=0)
    )


def thresholded(
    counts: tf.Tensor, totals: ArrayLike | tf.Tensor, threshold: float
) -> tf.Tensor:
    """Return which cells, or bins of cells, are in the masks of segments.

    Args:
        counts: pixels of the segment in each, float32 [..., rows, columns].
        totals: all pixels of each, [..., rows, columns], broadcast against `counts`.
        threshold: as in `project_masks`.

    Returns:
        masks: bool, of the shape of `counts`.
    """
    totals = tf.cast(totals, tf.float32)
    return (counts >= threshold * totals) & (totals > 0)


def boxes_of(present: ArrayLike | tf.Tensor) -> tf.Tensor:
    """Return the bounding boxes of the cells that are present.

    For the cells where `segment_counts` is above 0, these are the cells of the pixels
    of the segment's bounding box, as the nearest cell is monotonic along each axis.

    Args:
        present: bool [..., rows, columns].

    Returns:
        boxes: top, left, bottom, right, int32 [..., 4], the last two exclusive; zeros
            where no cell is present.

    Example:
        >>> boxes_of([[False, False, False], [False, True, True]]).numpy()
        array([1, 1, 2, 3], dtype=int32)
    """
    tops, bottoms = _first_and_end(tf.reduce_any(present, axis=-1))
    lefts, rights = _first_and_end(tf.reduce_any(present, axis=-2))
    return tf.stack([tops, lefts, bottoms, rights], axis=-1)


def _first_and_end(present):
    """Return the first index present along the last axis, and the last plus one."""
    numbers = tf.range(1, tf.shape(present)[-1] + 1)
    end = tf.reduce_max(tf.where(present, numbers, 0), axis=-1)
    first = tf.argmax(present, axis=-1, output_type=tf.int32)
    return first, end
