"""Masking and pooling as Keras layers, for models of your own.

    MaskProjection           masks of pixels -> masks of cells
    FeatureMasking           masked[cell, channel] = mask[cell] feature[cell, channel]
    SpatialPyramidPooling    boxes, masked or not -> vectors of one length

Source: Dai, He and Sun, CVPR 2015; their layer had no backward pass. Here the gradient
of the features is the mask times the gradient of the masked features.
"""

__all__ = ["FeatureMasking", "MaskProjection", "SpatialPyramidPooling"]

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_tilt.masking.pooling import PYRAMID, pyramid_pool
from keras_tilt.masking.projection import Cells, project_masks


@keras.saving.register_keras_serializable("keras_tilt")
class MaskProjection(keras.layers.Layer):
    """Projects masks onto a feature map: [n, s, h, w] -> [n, s, rows, columns].

    Args:
        cells: `Cells` of the layer, from `cells_of(network, layer)`.
        threshold: share of its pixels at or above which a cell is in the mask.
    """

    def __init__(
        self, cells: Cells | list, threshold: float = 0.5, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.cells = Cells(*map(tuple, cells)) if isinstance(cells, list) else cells
        self.threshold = threshold

    def call(self, masks: tf.Tensor) -> tf.Tensor:
        """Return the masks of cells, bool [..., rows, columns]."""
        return project_masks(masks, self.cells, self.threshold)

    def compute_output_spec(self, masks: keras.KerasTensor) -> keras.KerasTensor:
        """Return the specification of the output, bool [..., rows, columns]."""
        return keras.KerasTensor((*masks.shape[:-2], *self.cells.map_shape), "bool")

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        cells = [self.cells.rows, self.cells.columns, self.cells.map_shape]
        return {
            **super().get_config(),
            "cells": [list(part) for part in cells],
            "threshold": self.threshold,
        }


@keras.saving.register_keras_serializable("keras_tilt")
class FeatureMasking(keras.layers.Layer):
    """Multiplies every channel of a feature map by masks: [features, masks] -> masked.

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

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """Return the masked features."""
        features, masks = inputs
        if len(masks.shape) == 4:
            features = features[:, tf.newaxis]
        # Not a product: 0 times infinity is not 0, and 0 times -1 is -0.
        return tf.where(tf.cast(masks, tf.bool)[..., tf.newaxis], features, 0)

    def compute_output_spec(
        self, inputs: Sequence[keras.KerasTensor]
    ) -> keras.KerasTensor:
        """Return the specification of the output, [*masks, channels]."""
        features, masks = inputs
        shape = (*masks.shape, features.shape[-1])
        return keras.KerasTensor(shape, features.dtype)


@keras.saving.register_keras_serializable("keras_tilt")
class SpatialPyramidPooling(keras.layers.Layer):
    """Pools boxes: [features, boxes] or [features, boxes, masks] -> [n, s, bins, c].

    With masks the result is that of pooling the output of `FeatureMasking`, without its
    array [n, s, rows, columns, channels]. See `pyramid_pool`.

    Args:
        levels: bins along each axis, one number per level of the pyramid.
    """

    def __init__(self, levels: Sequence[int] = PYRAMID, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.levels = tuple(levels)

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """Return the maxima over the bins, [images, segments, bins, channels]."""
        features, boxes = inputs[:2]
        (masks,) = inputs[2:] or (None,)
        return pyramid_pool(features, boxes, masks, self.levels)

    def compute_output_spec(
        self, inputs: Sequence[keras.KerasTensor]
    ) -> keras.KerasTensor:
        """Return the specification of the output."""
        bins = sum(level**2 for level in self.levels)
        shape = (*inputs[1].shape[:2], bins, inputs[0].shape[-1])
        return keras.KerasTensor(shape, inputs[0].dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "levels": list(self.levels)}
