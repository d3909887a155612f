"""Weights sum to one, ignore constants and excluded draws, and give exact answers."""

import numpy as np
import pytest
import targets
import tensorflow as tf

from keras_tilt.partition.importance import (
    expectation,
    kish_ess,
    normalized_log_weights,
    normalized_weights,
)

ULP = np.finfo(np.float32).eps
RANDOM = np.random.default_rng(0).normal(size=[50, 4]).astype(np.float32)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_weights_sum_to_one_along_the_axis(axis):
    weights = normalized_weights(RANDOM, axis=axis)
    np.testing.assert_allclose(tf.reduce_sum(weights, axis), 1.0, rtol=50 * ULP)
    np.testing.assert_allclose(
        tf.exp(normalized_log_weights(RANDOM, axis=axis)), weights, rtol=ULP
    )


@pytest.mark.parametrize("constant", [-1e4, 1e4])
def test_a_constant_of_ten_thousand_nats_changes_nothing(constant):
    log_weights = tf.round(8 * RANDOM) / 8  # exact in float32 after the shift
    for function in (normalized_log_weights, kish_ess):
        np.testing.assert_array_equal(
            function(log_weights + constant), function(log_weights)
        )


def test_weights_far_apart_are_finite():
    log_weights = [-1e4, 0.0, 1e4]
    np.testing.assert_array_equal(normalized_weights(log_weights), [0.0, 0.0, 1.0])
    assert kish_ess(log_weights) == 1.0
    assert np.all(np.isfinite(normalized_log_weights(log_weights)))


def test_equal_weights_have_an_ess_of_all_draws():
    np.testing.assert_allclose(
        kish_ess(np.full(1000, 1e4, np.float32)), 1000, rtol=1e-5
    )


def test_kish_ess_is_the_square_of_the_sum_over_the_sum_of_squares():
    weights = np.exp(np.float64(RANDOM))
    exact = weights.sum(axis=0) ** 2 / (weights**2).sum(axis=0)
    np.testing.assert_allclose(kish_ess(RANDOM), exact, rtol=1e-5)


def test_an_excluded_draw_leaves_no_trace():
    with_excluded = np.concatenate([RANDOM, np.full([3, 4], -np.inf, np.float32)])
    np.testing.assert_allclose(kish_ess(with_excluded), kish_ess(RANDOM), rtol=4 * ULP)
    values = np.concatenate([RANDOM, np.full([3, 4], np.nan, np.float32)])
    np.testing.assert_allclose(
        expectation(with_excluded, values), expectation(RANDOM, RANDOM), rtol=1e-5
    )


def test_nothing_but_excluded_draws_has_no_expectation_and_an_ess_of_zero():
    nobody = tf.fill([5], -np.inf)
    assert kish_ess(nobody) == 0.0
    assert np.all(np.isnan(normalized_weights(nobody)))


def test_expectation_averages_over_the_axis_and_keeps_further_axes():
    values = np.random.default_rng(1).normal(size=[50, 4, 3]).astype(np.float32)
    weights = np.exp(RANDOM)
    for axis in (0, 1, -1):
        total = (weights[..., None] * values).sum(axis=axis % 2)
        exact = total / weights.sum(axis=axis % 2)[:, None]
        np.testing.assert_allclose(
            expectation(RANDOM, values, axis=axis), exact, rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("target", targets.all_targets(), ids=lambda t: t.name)
def test_kish_ess_per_draw_tends_to_its_limit(target):
    images = target.reference().sample(200_000, seed=[0, 2])
    log_weights = target.unit(images)
    weights = np.exp(np.float64(log_weights) - target.log_partition)
    # Delta method on (mean w)^2 / mean w^2, both means known exactly.
    square = 1 / target.kish_limit
    influence = 2 * (weights - 1) / square - (weights**2 - square) / square**2
    error = influence.std() / np.sqrt(len(weights))
    ratio = float(kish_ess(log_weights)) / len(weights)
    assert abs(ratio - target.kish_limit) < 5 * error + 1e-5
