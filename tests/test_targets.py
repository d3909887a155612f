"""The exact answers are exact: quadrature in two pixels, Monte Carlo in nine."""

import numpy as np
import pytest
import targets
from scipy import special, stats

PAIR = (2, 1, 1)
FEW = 5.0  # standard errors


def by_name(cases):
    return pytest.mark.parametrize("target", cases, ids=lambda target: target.name)


def grid(reference):
    """Nodes [n, 2, 1, 1] and log weights [n] of the midpoint rule, and its spacing."""
    bijector = reference.bijector
    low, high = getattr(bijector, "low", -15.0), getattr(bijector, "high", 15.0)
    count = 1200
    width = float(high - low) / count
    nodes = float(low) + width * (np.arange(count) + 0.5)
    images = np.stack(np.meshgrid(nodes, nodes), axis=-1).reshape(-1, *PAIR)
    return images.astype(np.float32), 2 * np.log(width), width


@by_name(targets.all_targets(PAIR))
def test_quadrature_gives_every_stated_number(target):
    images, log_area, width = grid(target.reference())
    log_q = target.reference().log_prob(images).numpy().astype(np.float64) + log_area
    f = target.unit(images).numpy().astype(np.float64)
    log_partition = special.logsumexp(f + log_q)
    density = np.exp(f + log_q - log_partition)
    pixels = images.reshape(-1, 2).astype(np.float64)
    mean = density @ pixels
    tolerance = {"rtol": 1e-5, "atol": width**2}  # float32, and the midpoint rule
    np.testing.assert_allclose(log_partition, target.log_partition, **tolerance)
    np.testing.assert_allclose(mean, target.mean.ravel(), **tolerance)
    np.testing.assert_allclose(
        density @ pixels**2 - mean**2, target.variance.ravel(), **tolerance
    )
    np.testing.assert_allclose(
        np.exp(2 * log_partition - special.logsumexp(2 * f + log_q)),
        target.kish_limit,
        **tolerance,
    )


@by_name(targets.all_targets())
def test_importance_sampling_agrees_within_standard_errors(target):
    images = target.reference().sample(200_000, seed=[0, 1]).numpy()
    weights = np.exp(np.float64(target.unit(images)) - target.log_partition)
    weights = weights.reshape(-1, 1)
    pixels = np.float64(images.reshape(len(images), -1))
    centered = pixels - target.mean.ravel()

    def assert_zero_mean(terms):
        error = terms.std(axis=0) / np.sqrt(len(terms))
        assert np.all(np.abs(terms.mean(axis=0)) <= FEW * error + 1e-6)

    assert_zero_mean(weights - 1)
    assert_zero_mean(weights * centered)
    assert_zero_mean(weights * (centered**2 - target.variance.ravel()))


@by_name(targets.all_targets())
def test_exact_draws_follow_the_stated_moments_and_cdf(target):
    images = target.draw(20_000, seed=2)
    pixels = np.float64(images.reshape(len(images), -1))
    error = np.sqrt(target.variance.ravel() / len(images))
    assert np.all(np.abs(pixels.mean(axis=0) - target.mean.ravel()) < FEW * error)
    squares = (pixels - target.mean.ravel()) ** 2
    error = squares.std(axis=0) / np.sqrt(len(images))
    assert np.all(np.abs(squares.mean(axis=0) - target.variance.ravel()) < FEW * error)
    assert stats.kstest(target.project(images), target.cdf).pvalue > 1e-3


@by_name(targets.all_targets())
def test_scores_invert_exact_draws(target):
    scores = np.random.default_rng(3).standard_normal([500, target.mean.size])
    there_and_back = target.scores(target.from_scores(scores))
    np.testing.assert_allclose(there_and_back, scores, atol=1e-6)


@by_name(targets.all_targets()[:4])
def test_draws_of_the_reference_fail_the_test_that_exact_draws_pass(target):
    images = target.reference().sample(20_000, seed=[0, 4]).numpy()
    assert stats.kstest(target.project(images), target.cdf).pvalue < 2e-5
