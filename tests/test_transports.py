"""The Hartley transform is the one of its formula, and Phi is precise at both ends."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from keras_tilt.reference import transports
from keras_tilt.reference.transports import NormalToBox, hartley

SIZES = [(4, 5), (5, 4), (3, 3), (6, 6), (1, 4), (5, 1), (1, 1), (2, 2)]
PRECISION = 100 * np.finfo(np.float32).eps


@pytest.mark.parametrize("height, width", SIZES)
def test_the_hartley_transform_is_a_symmetric_orthonormal_involution(height, width):
    size = height * width
    unit = tf.reshape(tf.eye(size), [size, height, width, 1])
    matrix = hartley(unit).numpy().reshape(size, size)
    rows, columns = np.indices([height, width]).reshape(2, -1)
    phase = np.outer(rows, rows) / height + np.outer(columns, columns) / width
    cas = np.cos(2 * np.pi * phase) + np.sin(2 * np.pi * phase)
    np.testing.assert_allclose(matrix, cas / np.sqrt(size), atol=1e-6)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-6)
    np.testing.assert_allclose(matrix @ matrix, np.eye(size), atol=1e-6)


def test_the_hartley_transform_has_the_precision_of_its_argument():
    images = np.random.default_rng(1).normal(size=[2, 7, 8, 3])
    transform = np.fft.fft2(images, axes=(1, 2))
    exact = (transform.real - transform.imag) / np.sqrt(56)
    np.testing.assert_allclose(hartley(tf.constant(images)), exact, atol=1e-14)
    single = hartley(tf.constant(images, tf.float32))
    assert single.dtype == tf.float32
    np.testing.assert_allclose(single, exact, atol=1e-5)


@pytest.mark.parametrize("height, width", SIZES)
def test_both_ways_to_the_hartley_transform_agree(height, width, monkeypatch):
    images = tf.constant(np.random.default_rng(2).normal(size=[2, height, width, 3]))
    of_small = hartley(images)
    monkeypatch.setattr(transports, "_SMALL", 0)
    np.testing.assert_allclose(hartley(images), of_small, atol=1e-14)


def test_a_box_is_entered_with_full_precision_from_both_ends():
    """Phi(-9) = exp(-40.5) ... has 40 times the relative error of a single number."""
    z = np.linspace(-9.0, 9.0, 37, dtype=np.float32)
    to_box = NormalToBox(0.0, 1.0)
    from_low = to_box.forward(tf.constant(z))
    np.testing.assert_allclose(
        from_low[z < 0], stats.norm.cdf(z[z < 0]), rtol=PRECISION
    )
    assert tf.reduce_all((0.0 <= from_low) & (from_low <= 1.0))
    np.testing.assert_allclose(
        NormalToBox(-1.0, 0.0).forward(tf.constant(z))[z > 0],
        -stats.norm.sf(z[z > 0]),
        rtol=PRECISION,
    )


def test_the_gradient_of_a_box_is_the_normal_density_times_its_width():
    z = tf.constant(np.linspace(-9.0, 9.0, 37), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(z)
        x = NormalToBox(-1.0, 2.0).forward(z)
    exact = 3.0 * stats.norm.pdf(z.numpy().astype(np.float64))
    np.testing.assert_allclose(tape.gradient(x, z), exact, rtol=PRECISION)
