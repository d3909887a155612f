"""Images unlike a data set: of its moments, or of two colours, in its range."""

import importlib

import numpy as np
import pytest
import tensorflow as tf

import keras_tilt as kt

RNG = np.random.default_rng(0)
COLOURS = np.array([[20.0, 0.0, 0.0], [12.0, 9.0, 0.0], [8.0, 4.0, 10.0]])
# White noise in correlated colours, whose range is wider than that of most draws.
IMAGES = 128 + RNG.normal(size=[400, 16, 16, 3]) @ COLOURS.T
IMAGES[0, 0, 0], IMAGES[0, 0, 1] = 0, 255
KINDS = "gaussians", "wavelets", "shapes"


def drawn(*kinds, count=60, seed=0):
    return kt.outliers(IMAGES, count, seed, kinds)


@pytest.mark.parametrize("kind", ["gaussians", "wavelets"])
def test_noise_has_the_colours_of_the_images(kind):
    """Means and covariances of 16 * 16 * 200 pixels, within 5 standard errors."""
    pixels = drawn(kind, count=200).reshape(-1, 3)
    of_images = IMAGES.reshape(-1, 3)
    variance = of_images.var(0)
    error = np.sqrt(variance / len(pixels))
    np.testing.assert_array_less(np.abs(pixels.mean(0) - of_images.mean(0)), 5 * error)
    found, expected = np.cov(pixels.T), np.cov(of_images.T)
    error = np.sqrt(2 * np.outer(variance, variance) / len(pixels))
    np.testing.assert_array_less(np.abs(found - expected), 5 * error)


def test_shapes_have_two_colours_and_every_other_one_is_gray():
    """All pixels of an image lie on the line between two colours."""
    pixels = drawn("shapes").reshape(60, -1, 3)
    values = np.linalg.svd(pixels - pixels.mean(1, keepdims=True), compute_uv=False)
    assert np.all(values[:, 0] > 1) and np.all(values[:, 1] < 1e-3 * values[:, 0])
    gray = np.all(np.ptp(pixels, axis=2) < 1e-3, axis=1)
    np.testing.assert_array_equal(gray, np.arange(60) % 2 == 0)


def test_shapes_are_of_many_sizes():
    """Neighbours are alike, less so where the blur is small: both occur."""
    pixels = drawn("shapes", count=300)[..., 0]
    steps = np.abs(np.diff(pixels, axis=2)).mean((1, 2))
    roughness = steps / np.ptp(pixels, axis=(1, 2))
    assert np.quantile(roughness, 0.1) < 0.1 < 0.2 < np.quantile(roughness, 0.9)


def test_kinds_follow_one_another_and_the_last_has_the_rest():
    found = drawn(*KINDS, count=62)
    assert found.shape == (62, 16, 16, 3) and found.dtype == np.float32
    np.testing.assert_array_equal(found, kt.outliers(IMAGES, 62, 0))
    for kind, part in zip(KINDS, np.split(found, [20, 40]), strict=True):
        np.testing.assert_array_equal(part, drawn(kind, count=len(part)))


def test_many_are_drawn_in_chunks_of_which_none_repeats_another(monkeypatch):
    module = importlib.import_module("keras_tilt.reference.outliers")
    monkeypatch.setattr(module, "_AT_ONCE", 11 * IMAGES[0].size)  # 10 at once
    found = drawn(*KINDS, count=75)
    assert len(np.unique(found.reshape(75, -1), axis=0)) == 75
    for kind, part in zip(KINDS, np.split(found, 3), strict=True):
        np.testing.assert_array_equal(part[:10], drawn(kind, count=10))
    gray = np.all(np.ptp(found[50:], axis=3) < 1e-3, axis=(1, 2))
    np.testing.assert_array_equal(gray, np.arange(25) % 2 == 0)


def test_all_lie_in_the_range_of_the_images():
    """That of digits, black for the most part, clips every draw of noise."""
    (digits, _), _ = kt.data.embedded_mnist()
    for part in np.split(kt.outliers(digits[:300], 60, 0), 3):
        assert np.all((part >= 0) & (part <= 255))
    assert np.mean(kt.outliers(digits[:300], 60, 0)[:40] == 0) > 0.1


def test_units_of_pixels_make_no_difference():
    found = kt.outliers(IMAGES / 255, 300, 0)
    np.testing.assert_allclose(found * 255, drawn(*KINDS, count=300), atol=0.1)


def test_equal_seeds_give_equal_images():
    np.testing.assert_array_equal(drawn(*KINDS, seed=3), drawn(*KINDS, seed=3))
    same = drawn(*KINDS, seed=3) == drawn(*KINDS, seed=4)
    assert same.mean() < 0.01


def test_images_come_as_a_data_set_too():
    dataset = tf.data.Dataset.from_tensor_slices((IMAGES, np.zeros(400))).batch(100)
    np.testing.assert_allclose(kt.outliers(dataset, 9, 1), kt.outliers(IMAGES, 9, 1))


def test_gray_images_of_any_size_will_do():
    (digits, _), _ = kt.data.embedded_mnist()
    assert kt.outliers(digits[:200], 30, seed=0).shape == (30, 28, 28, 1)
    narrow = RNG.uniform(0, 1, [50, 12, 20, 1])
    assert kt.outliers(narrow, 5, seed=0).shape == (5, 12, 20, 1)


@pytest.mark.parametrize(
    ("count", "kinds", "message"),
    [
        (2, KINDS, "`count` must be a whole number from 3.*Received: 2"),
        (9, ("shapes", "text"), "`kinds` of 'gaussians', 'wavelets', 'shapes'.*text"),
        (9, "shapes", "`kinds`.*Received: 'shapes'"),
        (9, (), r"`kinds`.*Received: \(\)"),
    ],
)
def test_what_cannot_be_drawn_is_refused(count, kinds, message):
    with pytest.raises(ValueError, match=message):
        kt.outliers(IMAGES, count, 0, kinds)
