"""Sums of independent references: their law, their noise, and what else they know."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import keras_tilt as kt
from keras_tilt.reference.generators import generators_of
from keras_tilt.reference.transports import hartley

SHAPE = (8, 6, 3)
QUIET = {"progress": False, "seed": 3}


def generator(latent_size=5):
    """Noise to images of a shape, in (-1, 1)."""
    keras.utils.set_random_seed(latent_size)
    layers = [keras.layers.Dense(144, activation="tanh")]
    layers += [keras.layers.Reshape(SHAPE)]
    return keras.Sequential([keras.Input([latent_size]), *layers])


def test_images_are_the_sum_of_those_of_all_parts():
    network = generator()
    parts = [
        kt.latent(network),
        kt.wavelet_noise(SHAPE, 0.0, 0.3),
        kt.box(SHAPE, -0.2, 0.4),
    ]
    q = kt.sum_of(*parts)
    noise = q.distribution.sample(7, seed=[0, 1]).numpy()
    assert q.event_shape == SHAPE and noise.shape == (7, 5 + 2 * 144)
    z = noise[:, :5], *noise[:, 5:].reshape(7, 2, *SHAPE).swapaxes(0, 1)
    expected = sum(
        one.bijector.forward(part).numpy() for one, part in zip(parts, z, strict=True)
    )
    np.testing.assert_allclose(q.bijector.forward(noise), expected, atol=1e-5)
    np.testing.assert_allclose(q.bijector.forward(noise[0]), expected[0], atol=1e-5)
    assert q.sample([2, 4], seed=[0, 1]).shape == (2, 4, *SHAPE)


def test_gaussians_add_their_means_and_spectra():
    number = 4000
    spectrum = kt.reference.power_law(SHAPE, stddev=2.0, exponent=1.0)
    smooth = kt.spectral_noise(SHAPE, mean=3.0, spectrum=spectrum)
    q = kt.sum_of(smooth, kt.white_noise(SHAPE, mean=-1.0, stddev=0.5))
    coefficients = hartley(q.sample(number, seed=[0, 5]) - 2.0).numpy()
    variance = spectrum.amplitude**2 + 0.5**2
    z = coefficients.mean(axis=0) / np.sqrt(variance / number)
    assert np.abs(z).max() < 5  # of 144 numbers
    found = coefficients.var(axis=0)
    z = (found / variance - 1) / np.sqrt(2 / number)
    assert np.abs(z).max() < 5


def test_chains_under_a_linear_unit_move_the_noise_of_every_part():
    """f = a . x of two white noises: z has the mean scale stddev a, and f the sum."""
    direction = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    direction /= np.linalg.norm(direction)

    def f(images):
        return tf.reduce_sum(images * direction, axis=[1, 2, 3])

    stddevs = (1.0, 0.5)
    q = kt.sum_of(*(kt.white_noise(SHAPE, 0.0, stddev) for stddev in stddevs))
    tilt = kt.Tilt(f, q, scale=2.0)
    samples = kt.sample(tilt, 32, 250, 50, **QUIET)
    assert samples.diagnostics.converged
    error = np.sqrt(1.25 / samples.diagnostics.smallest_ess)
    assert abs(np.mean(samples.f) - 2.0 * 1.25) < 5 * error
    noise = np.asarray(samples.noise).reshape(-1, 2, 144) @ direction.ravel()
    expected = 2.0 * np.array(stddevs)
    error = 1 / np.sqrt(samples.diagnostics.smallest_ess)
    assert np.abs(noise.mean(axis=0) - expected).max() < 5 * error


def test_a_sum_of_sums_squashed_stays_in_the_box_and_has_no_density():
    inner = kt.sum_of(kt.white_noise(SHAPE), kt.spectral_noise(SHAPE))
    outer = kt.sum_of(inner, kt.white_noise(SHAPE, stddev=30.0))
    q = kt.squash(outer, -1.0, 1.0)
    images = q.sample(50, seed=[0, 2]).numpy()
    assert images.min() >= -1 and images.max() <= 1 and images.std() > 0.5
    for reference in (inner, q):
        with pytest.raises(NotImplementedError, match="noise_log_prob"):
            reference.log_prob(images)


def test_bands_and_generators_are_those_of_all_parts():
    network, other = generator(), generator(2)
    detail = kt.wavelet_noise(SHAPE)
    q = kt.squash(kt.sum_of(kt.latent(network), detail, kt.latent(other)))
    assert generators_of(q) == [network, other]
    bands = kt.frequency_bands(q)
    own = kt.frequency_bands(detail).ravel()
    assert bands.shape == q.distribution.event_shape and bands.dtype == np.int32
    np.testing.assert_array_equal(bands[:5], 0)
    np.testing.assert_array_equal(bands[5:-2], 1 + own)
    np.testing.assert_array_equal(bands[-2:], own.max() + 2)
    assert kt.frequency_bands(kt.sum_of(*2 * [kt.white_noise(SHAPE)])) is None


@pytest.mark.parametrize(
    "parts, error, message",
    [
        (lambda: [], ValueError, "two or more"),
        (lambda: [kt.white_noise(SHAPE)], ValueError, "two or more. Received: 1"),
        (lambda: [[kt.white_noise(SHAPE)] * 2], ValueError, "two or more"),
        (
            lambda: [kt.white_noise(SHAPE), kt.white_noise([6, 8, 3])],
            ValueError,
            r"one shape. Received: \[\(8, 6, 3\), \(6, 8, 3\)\]",
        ),
        (
            lambda: [kt.white_noise(SHAPE), tfp.distributions.Normal(0.0, 1.0)],
            TypeError,
            "must be a transport",
        ),
        (lambda: [kt.white_noise(SHAPE), generator()], TypeError, "transport"),
        (
            lambda: [
                kt.white_noise(SHAPE),
                tfp.distributions.TransformedDistribution(
                    tfp.distributions.Sample(
                        tfp.distributions.Laplace(0.0, 1.0), SHAPE
                    ),
                    tfp.bijectors.Scale(2.0),
                ),
            ],
            ValueError,
            r"N\(0, I\)",
        ),
    ],
    ids=["none", "one", "a list", "shapes", "no transport", "network", "Laplace"],
)
def test_what_cannot_be_added_is_an_error(parts, error, message):
    with pytest.raises(error, match=message):
        kt.sum_of(*parts())
