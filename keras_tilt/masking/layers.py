"""Masking and pooling as layers, for models of one's own.

    MaskProjection           masks of pixels -> masks of cells
    FeatureMasking           masked[cell, channel] = mask[cell] feature[cell, channel]
    SpatialPyramidPooling    boxes, masked or not -> vectors of one length

Source: Dai, He and Sun, CVPR 2015; their layer had no backward pass. Here
the gradient to the features is the mask times the gradient from above.
"""

__all__ = ["FeatureMasking", "MaskProjection", "SpatialPyramidPooling"]

import keras
import tensorflow as tf

from keras_tilt.masking.pooling import PYRAMID, pyramid_pool
from keras_tilt.masking.projection import Cells, project_masks


@keras.saving.register_keras_serializable("keras_tilt")
class MaskProjection(keras.layers.Layer):
    """Projects masks of pixels to a layer's map: [n, s, h, w] -> [n, s, rows, columns].

    Args:
        cells: `Cells` of the layer, of `cells_of(network, layer)`.
        threshold: share of a cell's pixels from which on it is in the mask.
    """

    def __init__(self, cells, threshold=0.5, **kwargs):
        super().__init__(**kwargs)
        self.cells = Cells(*map(tuple, cells)) if isinstance(cells, list) else cells
        self.threshold = threshold

    def call(self, masks):
        """Masks of cells, bool."""
        return project_masks(masks, self.cells, self.threshold)

    def compute_output_spec(self, masks):
        """Shape [..., rows, columns], bool."""
        return keras.KerasTensor((*masks.shape[:-2], *self.cells.map_shape), "bool")

    def get_config(self):
        """Constructor arguments."""
        cells = [self.cells.rows, self.cells.columns, self.cells.map_shape]
        return {
            **super().get_config(),
            "cells": [list(part) for part in cells],
            "threshold": self.threshold,
        }


@keras.saving.register_keras_serializable("keras_tilt")
class FeatureMasking(keras.layers.Layer):
    """Multiplies masks into every channel of a map: [features, masks] -> masked.

    features [n, rows, columns, channels], masks [n, rows, columns] or
    [n, s, rows, columns], of 0 and 1 -> [n, rows, columns, channels] or
    [n, s, rows, columns, channels]. A full mask is the identity, an empty one gives 0.

    Example:
        >>> features = tf.constant([[[[1.0, -2.0]], [[3.0, 4.0]]]])
        >>> FeatureMasking()([features, tf.constant([[[True], [False]]])]).numpy()
        array([[[[ 1., -2.]],
        <BLANKLINE>
                [[ 0.,  0.]]]], dtype=float32)
    """

    def call(self, inputs):
        """Masked features."""
        features, masks = inputs
        if len(masks.shape) == 4:
            features = features[:, tf.newaxis]
        # Not a product: 0 times infinity, and -0, are none of the paper's zeros.
        return tf.where(tf.cast(masks, tf.bool)[..., tf.newaxis], features, 0)

    def compute_output_spec(self, inputs):
        """Shape of the masks, and the channels."""
        features, masks = inputs
        shape = (*masks.shape, features.shape[-1])
        return keras.KerasTensor(shape, features.dtype)


@keras.saving.register_keras_serializable("keras_tilt")
class SpatialPyramidPooling(keras.layers.Layer):
    """Pools boxes: [features, boxes] or [features, boxes, masks] -> [n, s, bins, c].

    With masks it is what pooling of `FeatureMasking` gives, without its array of
    [n, s, rows, columns, channels]. See `pyramid_pool`.

    Args:
        levels: bins along each axis of the levels of the pyramid.
    """

    def __init__(self, levels=PYRAMID, **kwargs):
        super().__init__(**kwargs)
        self.levels = tuple(levels)

    def call(self, inputs):
        """Maxima over the bins."""
        return pyramid_pool(*inputs, levels=self.levels)

    def compute_output_spec(self, inputs):
        """Shape [images, segments, bins, channels]."""
        bins = sum(level**2 for level in self.levels)
        shape = (*inputs[1].shape[:2], bins, inputs[0].shape[-1])
        return keras.KerasTensor(shape, inputs[0].dtype)

    def get_config(self):
        """Constructor arguments."""
        return {**super().get_config(), "levels": list(self.levels)}
