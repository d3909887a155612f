"""Pyramids are maxima over bins, masked features are features times masks."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_tilt.masking import pooling
from keras_tilt.masking.layers import (
    FeatureMasking,
    MaskProjection,
    SpatialPyramidPooling,
)
from keras_tilt.masking.pooling import pyramid_pool
from keras_tilt.masking.projection import Cells

IMAGES, SEGMENTS, ROWS, COLUMNS, CHANNELS = 2, 9, 11, 14, 3


def problem(seed=0):
    """Features of both signs, boxes of all sizes with an empty one, masks."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=[IMAGES, ROWS, COLUMNS, CHANNELS]).astype(np.float32)
    boxes = np.zeros([IMAGES, SEGMENTS, 4], np.int32)
    for box in boxes.reshape(-1, 4)[1:]:
        box[[0, 2]] = np.sort(rng.choice(ROWS + 1, 2, replace=False))
        box[[1, 3]] = np.sort(rng.choice(COLUMNS + 1, 2, replace=False))
    boxes[1, 0] = 0, 0, ROWS, COLUMNS
    masks = rng.random([IMAGES, SEGMENTS, ROWS, COLUMNS]) < 0.6
    masks[1, 1] = False
    return features, boxes, masks


def bins_by_hand(box, level):
    """(rows, columns) of each bin, as slices, by real numbers."""
    top, left, bottom, right = box
    for i, j in np.ndindex(level, level):
        yield tuple(
            slice(
                start + int(np.floor(k * size / level + 1e-9)),
                start + int(np.ceil((k + 1) * size / level - 1e-9)),
            )
            for start, size, k in ((top, bottom - top, i), (left, right - left, j))
        )


def pooled_by_hand(features, boxes, levels):
    """Features [n, s, rows, columns, c], one map for every segment."""
    return np.array(
        [
            [
                [
                    values[bin].max(axis=(0, 1), initial=-np.inf)
                    if values[bin].size
                    else np.zeros(values.shape[-1])
                    for level in levels
                    for bin in bins_by_hand(box, level)
                ]
                for values, box in zip(maps, some, strict=True)
            ]
            for maps, some in zip(features, boxes, strict=True)
        ]
    )


@pytest.mark.parametrize("levels", [(6, 3, 2, 1), (4, 3), (5,), (1,)], ids=str)
def test_bins_hold_maxima(levels):
    features, boxes, _ = problem()
    whole = np.broadcast_to(
        features[:, None], [IMAGES, SEGMENTS, ROWS, COLUMNS, CHANNELS]
    )
    found = tf.function(pyramid_pool)(features, boxes, levels=levels)
    np.testing.assert_array_equal(found, pooled_by_hand(whole, boxes, levels))


@pytest.mark.parametrize("levels", [(6, 3, 2, 1), (4, 3)], ids=str)
def test_masked_bins_hold_maxima_of_masked_features(levels):
    features, boxes, masks = problem(1)
    masked = features[:, None] * masks[..., None]
    found = pyramid_pool(features, boxes, masks, levels)
    np.testing.assert_array_equal(found, pooled_by_hand(masked, boxes, levels))
    layers = SpatialPyramidPooling(levels)([features, boxes, masks])
    np.testing.assert_array_equal(layers, found)
    np.testing.assert_array_equal(FeatureMasking()([features, masks]), masked)


def test_a_full_mask_is_the_identity_and_an_empty_one_zero():
    features, boxes, masks = problem(2)
    full, empty = np.ones_like(masks), np.zeros_like(masks)
    np.testing.assert_array_equal(
        pyramid_pool(features, boxes, full), pyramid_pool(features, boxes)
    )
    assert not np.any(pyramid_pool(features, boxes, empty))
    one = FeatureMasking()([features, full[:, 0]])
    np.testing.assert_array_equal(one, features)
    assert not np.any(FeatureMasking()([features * np.inf, empty[:, 0]]))


def slope(function, values, direction, step=1e-3):
    """Symmetric difference quotient, in float64."""
    ahead, behind = (function(values + sign * step * direction) for sign in (1, -1))
    return float(ahead - behind) / (2 * step)


@pytest.mark.parametrize("masked", [True, False])
def test_the_gradient_to_the_features_is_that_of_finite_differences(masked):
    features, boxes, masks = problem(3)
    # Distances of at least .01 between values, so that no step changes a maximum.
    rng = np.random.default_rng(4)
    ranks = rng.permutation(features.size).reshape(features.shape)
    features = tf.constant((ranks - features.size / 2 + 0.5) / 50, tf.float64)
    weights = tf.constant(rng.normal(size=[IMAGES, SEGMENTS, 50, CHANNELS]))
    masks = masks if masked else None

    def total(features):
        return tf.reduce_sum(weights * pyramid_pool(features, boxes, masks))

    with tf.GradientTape() as tape:
        tape.watch(features)
        value = total(features)
    gradient = tape.gradient(value, features).numpy()
    for _ in range(5):
        direction = rng.uniform(-1, 1, features.shape)
        expected = slope(total, features, direction)
        np.testing.assert_allclose(np.sum(gradient * direction), expected, rtol=1e-8)


def test_the_gradient_of_masking_is_the_mask_times_that_from_above():
    features, _, masks = problem(5)
    features = tf.constant(features)
    above = np.random.default_rng(6).normal(size=[*masks.shape, CHANNELS])
    with tf.GradientTape() as tape:
        tape.watch(features)
        value = tf.reduce_sum(FeatureMasking()([features, masks]) * above)
    expected = np.sum(masks[..., None] * above, axis=1)
    np.testing.assert_allclose(tape.gradient(value, features), expected, rtol=1e-5)


def test_ragged_boxes_are_pooled_as_each_alone():
    features, boxes, masks = problem(7)
    lengths = [2, 5]
    ragged = tf.RaggedTensor.from_tensor(boxes, lengths=lengths)
    ragged_masks = tf.RaggedTensor.from_tensor(masks, lengths=lengths)
    found = pyramid_pool(features, ragged, ragged_masks)
    whole = pyramid_pool(features, boxes, masks).numpy()
    assert found.row_lengths().numpy().tolist() == lengths
    for i, length in enumerate(lengths):
        np.testing.assert_array_equal(found[i], whole[i, :length])


def test_no_segments_are_pooled_to_nothing():
    features, _, _ = problem()
    none = np.zeros([IMAGES, 0, 4], np.int32)
    assert pyramid_pool(features, none).shape == [IMAGES, 0, 50, CHANNELS]


@pytest.mark.parametrize("bins", [1, 2, 6])
def test_sums_of_bins_are_those_by_hand(bins):
    rng = np.random.default_rng(8)
    _, boxes, _ = problem(8)
    values = rng.integers(0, 30, [IMAGES, SEGMENTS, ROWS, COLUMNS])
    expected = [
        [
            [cells[bin].sum() for bin in bins_by_hand(box, bins)]
            for cells, box in zip(maps, some, strict=True)
        ]
        for maps, some in zip(values, boxes, strict=True)
    ]
    found = pooling.bin_sums(values, boxes, bins)
    np.testing.assert_array_equal(
        np.reshape(found, [IMAGES, SEGMENTS, bins**2]), expected
    )


def test_a_model_of_these_layers_is_saved_and_loaded_whole(tmp_path):
    cells = Cells(tuple(np.arange(22) // 2), tuple(np.arange(28) // 2), (11, 14))
    features = keras.Input((ROWS, COLUMNS, CHANNELS))
    boxes = keras.Input((None, 4), dtype="int32")
    masks = keras.Input((None, 22, 28), dtype="bool")
    of_cells = MaskProjection(cells, 0.3)(masks)
    pooled = SpatialPyramidPooling((2, 1))([features, boxes, of_cells])
    masked = FeatureMasking()([features, of_cells])
    model = keras.Model([features, boxes, masks], [pooled, masked])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert model.output_shape[0] == (None, None, 5, CHANNELS)
    values, some, _ = problem(9)
    pixels = np.random.default_rng(9).random([IMAGES, SEGMENTS, 22, 28]) < 0.4
    before = model([values, some, pixels])
    for one, other in zip(before, again([values, some, pixels]), strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.any(before[0])
