"""A reference is the law of x = T(z), and its density is the stated one."""

import dataclasses
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from data_files import data_file
from scipy import stats

from keras_tilt.data.mnist import embedded_mnist
from keras_tilt.reference.distributions import (
    box,
    frequency_bands,
    spectral_noise,
    squash,
    white_noise,
)
from keras_tilt.reference.generators import latent
from keras_tilt.reference.heavy_tails import wavelet_noise
from keras_tilt.reference.photographs import COLOUR_COVARIANCE
from keras_tilt.reference.spectrum import (
    Spectrum,
    fit_spectrum,
    power_law,
)
from keras_tilt.reference.transports import NormalToSpectrum
from keras_tilt.tilt import Tilt

SHAPE = (2, 3, 1)
REFERENCES = {
    "white noise": lambda: white_noise(SHAPE, mean=0.5, stddev=3.0),
    "white noise by pixel": lambda: white_noise(
        SHAPE, mean=np.arange(6.0).reshape(SHAPE), stddev=[[0.5], [1.0], [2.0]]
    ),
    "box": lambda: box(SHAPE, low=-1.0, high=255.0),
    "box by pixel": lambda: box(SHAPE, low=-np.ones([2, 1, 1]), high=[[1.0]]),
    "spectral noise": lambda: spectral_noise(SHAPE, mean=2.0, stddev=3.0),
    "spectral noise by pixel": lambda: spectral_noise(
        SHAPE, mean=np.arange(6.0).reshape(SHAPE), exponent=0.5
    ),
    "wavelet noise": lambda: wavelet_noise(SHAPE, mean=2.0, stddev=3.0),
    "squashed wavelet noise": lambda: squash(wavelet_noise(SHAPE), 0.0, 255.0),
    "squashed white noise": lambda: squash(white_noise(SHAPE, 100.0, 50.0)),
    "squashed spectral noise": lambda: squash(spectral_noise(SHAPE), -1.0, 3.0, 2.0),
    "squashed by pixel": lambda: squash(
        spectral_noise(SHAPE), low=-np.ones([2, 1, 1]), high=[[1.0]], scale=[[[1.5]]]
    ),
    "squashed by a Student law": lambda: squash(
        spectral_noise(SHAPE, cutoff=0.3), -1.0, 3.0, 2.0, law="student"
    ),
    "squashed twice": lambda: squash(squash(white_noise(SHAPE), -2.0, 2.0), -3.0, 3.0),
}
LAWS = {"normal": stats.norm, "student": stats.t(2, scale=np.sqrt(np.pi / 4))}
every_law = pytest.mark.parametrize("law", LAWS)
every_reference = pytest.mark.parametrize("name", REFERENCES)

# Heights and widths odd and even, and without a second frequency.
COLOURED = (4, 5, 2)
SIZES = [(4, 5), (5, 4), (3, 3), (6, 6), (1, 4), (5, 1), (1, 1), (2, 2)]
COVARIANCE = np.array([[4.0, 1.5], [1.5, 2.0]])
RGB_COVARIANCE = np.array([[9.0, 4.0, 2.0], [4.0, 6.0, 1.0], [2.0, 1.0, 3.0]])


def displacement_phase(height, width):
    """2 pi k.(i - j): [pixels, pixels, frequencies]."""
    rows, columns = (a.ravel() for a in np.indices([height, width]))
    along = np.subtract.outer(rows, rows)[:, :, None] * rows / height
    across = np.subtract.outer(columns, columns)[:, :, None] * columns / width
    return 2 * np.pi * (along + across)


def stationary_covariance(power, colours):
    """[pixels * channels, pixels * channels] of the power [height, width, channels]."""
    height, width, channels = power.shape
    wave = np.cos(displacement_phase(height, width)) / (height * width)
    by_colour = wave @ power.reshape(-1, channels)
    covariance = np.einsum("ijm,am,bm->iajb", by_colour, colours, colours)
    return covariance.reshape([power.size, power.size])


def one_over_f_covariance(shape, exponent, covariance):
    """The same of the stated law, from its words and without the library."""
    power = np.empty(shape[:2])
    for k in itertools.product(*map(range, shape[:2])):
        cycles = [min(ki, n - ki) / n for ki, n in zip(k, shape[:2], strict=True)]
        power[k] = np.hypot(*cycles)
    power[0, 0] = np.sort(power.ravel())[1]
    power = power ** (-2 * exponent)
    scalar = stationary_covariance(power[:, :, None] / power.mean(), np.eye(1))
    return np.kron(scalar, covariance)


def matrix_of(bijector, shape):
    """The matrix of an affine transport: [pixels, coordinates of noise]."""
    size = int(np.prod(shape))
    unit = tf.reshape(tf.eye(size), [size, *shape])
    images = bijector.forward(unit) - bijector.forward(tf.zeros([1, *shape]))
    return images.numpy().reshape(size, size).T.astype(np.float64)


def coordinates_per_frequency(height, width):
    """1 where the DFT is real, else 2, for itself and the opposite frequency."""
    real = [{0, n // 2} if n % 2 == 0 else {0} for n in (height, width)]
    return np.array(
        [[1 if i in real[0] and j in real[1] else 2 for j in range(width)]
         for i in range(height)]
    )  # fmt: skip


def draws(reference, count, seed):
    return reference.sample(count, seed=[0, seed]).numpy()


def log_prob_by_change_of_variables(reference, noise):
    jacobian = reference.bijector.forward_log_det_jacobian(noise, event_ndims=3)
    return reference.distribution.log_prob(noise) - jacobian


@every_reference
def test_a_reference_is_a_transport_of_standard_normal_noise(name):
    reference = REFERENCES[name]()
    assert isinstance(reference, tfp.distributions.TransformedDistribution)
    assert reference.dtype == tf.float32
    assert tuple(reference.event_shape) == SHAPE
    assert tuple(reference.distribution.event_shape) == SHAPE
    assert reference.batch_shape.rank == 0
    noise = reference.distribution.sample(2_000, seed=[0, 1]).numpy()
    assert stats.kstest(noise.ravel(), stats.norm.cdf).pvalue > 1e-3


@every_reference
def test_log_prob_obeys_the_change_of_variables(name):
    reference = REFERENCES[name]()
    noise = reference.distribution.sample(100, seed=[0, 2])
    np.testing.assert_allclose(
        reference.log_prob(reference.bijector.forward(noise)),
        log_prob_by_change_of_variables(reference, noise),
        rtol=1e-5,
        atol=1e-5,  # a sum of terms that may cancel
    )


@every_reference
def test_the_inverse_transport_returns_the_noise(name):
    reference = REFERENCES[name]()
    noise = reference.distribution.sample(100, seed=[0, 3])
    images = tf.constant(reference.bijector.forward(noise).numpy())
    # One ulp of x moves z by at most 1e-7 (high - low) / T'(z): 2e-3 at |z| = 4.5.
    np.testing.assert_allclose(reference.bijector.inverse(images), noise, atol=2e-3)


@every_reference
def test_log_det_jacobian_is_that_of_the_derivative_of_the_transport(name):
    bijector = REFERENCES[name]().bijector
    noise = tf.random.stateless_normal([50, *SHAPE], seed=[0, 4])
    with tf.GradientTape() as tape:
        tape.watch(noise)
        images = bijector.forward(noise)
    jacobian = tf.reshape(tape.batch_jacobian(images, noise), [50, 6, 6])
    np.testing.assert_allclose(
        np.linalg.slogdet(jacobian.numpy().astype(np.float64)).logabsdet,
        bijector.forward_log_det_jacobian(noise, event_ndims=3),
        rtol=1e-4,
        atol=1e-4,
    )


@every_reference
def test_a_graph_may_close_over_a_reference(name):
    reference = REFERENCES[name]()
    noise = reference.distribution.sample(3, seed=[0, 6])

    @tf.function
    def graph(noise):
        images = reference.bijector.forward(noise)
        return images, reference.log_prob(tf.identity(images))

    images, log_prob = graph(noise)
    expected = reference.bijector.forward(noise).numpy()
    np.testing.assert_allclose(images, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(log_prob, reference.log_prob(expected), rtol=1e-5)


def test_white_noise_density_is_that_of_independent_gaussians():
    mean = np.arange(6.0).reshape(SHAPE)
    images = np.random.default_rng(0).normal(size=[10, *SHAPE]).astype(np.float32)
    exact = stats.norm(mean, 3.0).logpdf(images).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(
        white_noise(SHAPE, mean, 3.0).log_prob(images), exact, rtol=1e-5
    )


def test_box_density_is_one_finite_number_also_where_phi_saturates():
    reference = box(SHAPE, low=0.0, high=255.0)
    noise = tf.constant([-np.inf, -40.0, -8.0, 0.0, 8.0, 40.0, np.inf])
    images = reference.bijector.forward(
        tf.ones([7, *SHAPE]) * noise[:, None, None, None]
    )
    log_prob = reference.log_prob(images).numpy()
    np.testing.assert_array_equal(log_prob, log_prob[0])
    np.testing.assert_allclose(log_prob[0], -6 * np.log(255.0), rtol=1e-6)
    np.testing.assert_array_equal(images[0], tf.zeros(SHAPE))
    np.testing.assert_array_equal(images[-1], tf.fill(SHAPE, 255.0))


def test_box_density_is_zero_outside_by_any_single_pixel():
    reference = box(SHAPE, low=0.0, high=1.0)
    images = np.full([4, *SHAPE], 0.5, np.float32)
    images[0, 0, 0, 0] = np.nextafter(np.float32(1), np.float32(2))
    images[1, 1, 2, 0] = -1e-6
    images[2, 0, 1, 0] = np.nan
    log_prob = reference.log_prob(images).numpy()
    np.testing.assert_array_equal(log_prob, [-np.inf, -np.inf, -np.inf, 0.0])


@pytest.mark.parametrize("low, high", [(0.1, 0.7), (-1 / 3, 1e-3), (100.3, 100.9)])
def test_the_box_transport_never_leaves_the_box(low, high):
    reference = box([1], low, high)
    noise = tf.linspace(-12.0, 12.0, 20_001)[:, None]
    images = reference.bijector.forward(noise).numpy()
    assert images.min() == np.float32(low) and images.max() == np.float32(high)
    assert np.all(np.isfinite(reference.log_prob(images)))
    assert np.all(np.diff(images[:, 0]) >= 0)


def test_box_samples_are_uniform():
    images = box([4], low=-2.0, high=3.0).sample(5_000, seed=[0, 5]).numpy()
    assert stats.kstest(images.ravel(), stats.uniform(-2, 5).cdf).pvalue > 1e-3


def test_the_box_transport_has_a_slope_at_zero_noise():
    noise = tf.zeros([1, 1])
    with tf.GradientTape() as tape:
        tape.watch(noise)
        images = box([1]).bijector.forward(noise)
    slope = tape.gradient(images, noise)
    np.testing.assert_allclose(slope, [[stats.norm.pdf(0)]], rtol=1e-6)


@pytest.mark.parametrize("make", [white_noise, box, spectral_noise])
@pytest.mark.parametrize("shape", [(), 0, [0, 2], [-1], [2.5], [None, 3], "ab"])
def test_a_bad_shape_is_an_error_that_quotes_it(make, shape):
    with pytest.raises(ValueError, match=r"`shape` must .* Received: .* Pass"):
        make(shape)


@pytest.mark.parametrize(
    "make, parameter",
    [
        (lambda: white_noise([2], stddev=0.0), "stddev"),
        (lambda: white_noise([2], stddev=[1.0, -1.0]), "stddev"),
        (lambda: white_noise([2], stddev=np.nan), "stddev"),
        (lambda: white_noise([2], mean=np.inf), "mean"),
        (lambda: white_noise([2], mean=[1.0, 2.0, 3.0]), "mean"),
        (lambda: white_noise([2], mean=np.zeros([4, 2])), "mean"),
        (lambda: box([2], low=1.0, high=1.0), "low"),
        (lambda: box([2], low=[0.0, 3.0], high=2.0), "low"),
        (lambda: box([2], high=np.inf), "high"),
        (lambda: box([2], low=[np.nan, 0.0]), "low"),
    ],
)
def test_a_bad_parameter_is_an_error_that_names_it(make, parameter):
    with pytest.raises(ValueError, match=rf"`{parameter}` must .* Received: "):
        make()


# Spectral noise


@pytest.mark.parametrize("height, width", SIZES)
def test_the_gradient_of_spectral_noise_is_the_transposed_matrix(height, width):
    shape = (height, width, 2)
    bijector = spectral_noise(shape, colour_covariance=COVARIANCE).bijector
    noise = tf.random.stateless_normal([3, *shape], seed=[0, 1])
    weights = tf.random.stateless_normal([3, *shape], seed=[0, 2])
    with tf.GradientTape() as tape:
        tape.watch(noise)
        f = tf.reduce_sum(weights * bijector.forward(noise))
    exact = weights.numpy().reshape(3, -1) @ matrix_of(bijector, shape)
    gradient = tape.gradient(f, noise).numpy().reshape(3, -1)
    np.testing.assert_allclose(gradient, exact, rtol=1e-4, atol=1e-5)


@every_law
def test_the_gradient_through_a_squash_is_that_of_finite_differences(law):
    bijector = squash(spectral_noise(SHAPE, 2.0), -1.0, 3.0, law=law).bijector
    noise = tf.random.stateless_normal([1, *SHAPE], seed=[0, 1])
    way = tf.random.stateless_normal([1, *SHAPE], seed=[0, 2])

    def f(noise):
        return tf.reduce_sum(tf.sin(bijector.forward(tf.identity(noise))))

    with tf.GradientTape() as tape:
        tape.watch(noise)
        value = f(noise)
    slope = tf.reduce_sum(tape.gradient(value, noise) * way)
    step = 1e-2  # error: step^2 and eps / step
    difference = (f(noise + step * way) - f(noise - step * way)) / (2 * step)
    np.testing.assert_allclose(slope, difference, atol=1e-3)


@pytest.mark.parametrize("exponent", [0.0, 0.7, 1.0, 2.0, -1.0])
@pytest.mark.parametrize("height, width", [(4, 5), (5, 4), (6, 2), (1, 4)])
def test_spectral_noise_has_the_covariance_of_a_power_of_f(height, width, exponent):
    shape = (height, width, 2)
    q = spectral_noise(shape, exponent=exponent, colour_covariance=COVARIANCE)
    matrix = matrix_of(q.bijector, shape)
    exact = one_over_f_covariance(shape, exponent, COVARIANCE)
    np.testing.assert_allclose(matrix @ matrix.T, exact, atol=1e-5)
    one_pixel = np.diag(np.diag(exact))[:2, :2]
    np.testing.assert_allclose(np.diag(one_pixel), np.diag(COVARIANCE))


def test_frequencies_are_in_cycles_per_pixel_along_both_axes():
    amplitude = power_law([8, 16, 1]).amplitude[:, :, 0]
    np.testing.assert_allclose(amplitude[1, 0], amplitude[0, 2])
    np.testing.assert_allclose(amplitude[0, 1], 2 * amplitude[1, 0])
    np.testing.assert_allclose(amplitude[0, 0], amplitude[0, 1])
    np.testing.assert_allclose(amplitude[4, 8], amplitude[0, 1] / 16 / np.sqrt(0.5))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("cutoff", [None, 0.2])
def test_the_standard_deviation_of_every_pixel_is_the_stated_one(channels, cutoff):
    shape = (3, 7, channels)
    q = spectral_noise(shape, mean=5.0, stddev=2.5, exponent=1.3, cutoff=cutoff)
    matrix = matrix_of(q.bijector, shape)
    variance = np.sum(matrix**2, axis=1)
    np.testing.assert_allclose(variance, 2.5**2, rtol=1e-5)
    np.testing.assert_allclose(q.bijector.forward(tf.zeros(shape)), 5.0)


def test_above_the_cutoff_the_spectrum_falls_as_a_gaussian():
    shape, cutoff = (6, 9, 3), 0.15
    frequency = np.hypot(np.fft.fftfreq(6)[:, None], np.fft.fftfreq(9))
    for channels in (1, 3):
        size = (*shape[:2], channels)
        faded = spectral_noise(size, exponent=1.2, cutoff=cutoff).bijector.amplitude
        sharp = spectral_noise(size, exponent=1.2).bijector.amplitude
        ratio = (faded / sharp)[:, :, 0].numpy()
        exact = np.exp(-((frequency / cutoff) ** 2) / 2)
        np.testing.assert_allclose(ratio / ratio[0, 0], exact, rtol=1e-5)


def test_three_channels_are_correlated_as_in_photographs_and_others_are_not():
    photos = np.array(COLOUR_COVARIANCE)
    stddev = np.sqrt(np.diag(photos))
    exact = 2.5**2 * photos / np.outer(stddev, stddev)
    for channels, covariance in [(3, exact), (2, 2.5**2 * np.eye(2))]:
        shape = (3, 5, channels)
        matrix = matrix_of(spectral_noise(shape, stddev=2.5).bijector, shape)
        one_pixel = (matrix @ matrix.T)[:channels, :channels]
        np.testing.assert_allclose(one_pixel, covariance, rtol=1e-5, atol=1e-5)
    independent = spectral_noise([3, 5, 3], colour_covariance=4 * np.eye(3))
    matrix = matrix_of(independent.bijector, (3, 5, 3))
    exact = one_over_f_covariance((3, 5, 3), 1.0, 4 * np.eye(3))
    np.testing.assert_allclose(matrix @ matrix.T, exact, atol=1e-5)


def test_log_prob_is_that_of_a_gaussian_with_the_full_covariance():
    mean = np.arange(40.0).reshape(COLOURED)
    q = spectral_noise(COLOURED, mean, exponent=1.2, colour_covariance=COVARIANCE)
    exact = stats.multivariate_normal(
        mean.ravel(), one_over_f_covariance(COLOURED, 1.2, COVARIANCE)
    )
    images = draws(q, 20, seed=1)
    elsewhere = np.random.default_rng(0).normal(mean, 3.0, [20, *COLOURED])
    for x in (images, elsewhere.astype(np.float32)):
        np.testing.assert_allclose(
            q.log_prob(x), exact.logpdf(x.reshape(20, -1)), rtol=1e-4
        )


def test_spectral_noise_with_exponent_zero_is_white_noise():
    images = np.random.default_rng(0).normal(size=[10, *COLOURED]).astype(np.float32)
    np.testing.assert_allclose(
        spectral_noise(COLOURED, 1.0, 2.0, exponent=0.0).log_prob(images),
        white_noise(COLOURED, 1.0, 2.0).log_prob(images),
        rtol=1e-5,
    )


def test_samples_have_the_stated_moments():
    q = spectral_noise(COLOURED, 3.0, colour_covariance=COVARIANCE)
    images = draws(q, 20_000, seed=2).reshape(20_000, -1)
    exact = one_over_f_covariance(COLOURED, 1.0, COVARIANCE)
    variance = np.diag(exact)
    z_of_mean = (images.mean(axis=0) - 3.0) / np.sqrt(variance / 20_000)
    # Variance of a sample covariance of Gaussians: (C_ii C_jj + C_ij^2) / n.
    stderr = np.sqrt((np.outer(variance, variance) + exact**2) / 20_000)
    z_of_covariance = (np.cov(images.T) - exact) / stderr
    # 5 standard errors: 3e-7 each, 4e-4 for all 820 together.
    assert np.abs(z_of_mean).max() < 5
    assert np.abs(z_of_covariance).max() < 5


def test_the_power_of_samples_is_chi_squared_around_the_stated_one():
    shape, count = (9, 10, 2), 400
    spectrum = power_law(shape, colour_covariance=COVARIANCE)
    images = draws(spectral_noise(shape, spectrum=spectrum), count, seed=3)
    transform = np.fft.fft2(images @ spectrum.colours, axes=(1, 2)) / np.sqrt(90)
    power = np.mean(np.abs(transform) ** 2, axis=0)
    degrees = coordinates_per_frequency(9, 10)[:, :, None] * count
    # One of each pair of opposite frequencies, which are equal.
    one_of_each = np.arange(90).reshape(9, 10) <= (
        (-np.arange(9) % 9)[:, None] * 10 + -np.arange(10) % 10
    )
    quantiles = stats.chi2(degrees).cdf(degrees * power / spectrum.amplitude**2)
    assert one_of_each.sum() == 90 - (90 - 2) // 2
    assert stats.kstest(quantiles[one_of_each].ravel(), "uniform").pvalue > 1e-3
    assert 1e-5 < quantiles.min() and quantiles.max() < 1 - 1e-5


def test_each_noise_coordinate_is_one_frequency_of_one_decorrelated_colour():
    shape = (6, 7, 3)
    spectrum = power_law(shape, colour_covariance=RGB_COVARIANCE)
    noise = np.zeros([1, *shape], np.float32)
    noise[0, 2, 3, 1] = 1.0
    image = spectral_noise(shape, spectrum=spectrum).bijector.forward(noise)[0]
    by_colour = image.numpy() @ spectrum.colours
    power = np.abs(np.fft.fft2(by_colour, axes=(0, 1))) ** 2 / 42
    expected = np.zeros(shape)
    expected[2, 3, 1] = expected[-2, -3, 1] = spectrum.amplitude[2, 3, 1] ** 2 / 2
    np.testing.assert_allclose(power, expected, atol=1e-6)


def test_decorrelated_colours_are_ordered_by_variance_and_untouched_if_equal():
    variance = np.mean(power_law([4, 4, 3], 2.0).amplitude ** 2, axis=(0, 1))
    np.testing.assert_allclose(variance, 4.0)
    np.testing.assert_array_equal(power_law([4, 4, 3], 2.0).colours, np.eye(3))
    spectrum = power_law([4, 4, 3], colour_covariance=RGB_COVARIANCE)
    variance = np.mean(spectrum.amplitude**2, axis=(0, 1))
    assert np.all(np.diff(variance) < 0)
    np.testing.assert_allclose(spectrum.colour_covariance, RGB_COVARIANCE, atol=1e-12)


def test_a_graph_may_take_and_return_spectral_noise():
    q = spectral_noise(COLOURED, stddev=2.0)
    images = draws(q, 3, seed=4)
    assert isinstance(q.bijector, NormalToSpectrum)
    np.testing.assert_allclose(
        tf.function(lambda q: q.log_prob(images))(q), q.log_prob(images), rtol=1e-6
    )
    same = tf.function(lambda: spectral_noise(COLOURED, stddev=2.0))()
    np.testing.assert_allclose(same.log_prob(images), q.log_prob(images), rtol=1e-6)
    assert same.batch_shape == [] and same.event_shape == COLOURED


def test_spectral_noise_passes_any_sample_shape():
    q = spectral_noise(COLOURED)
    assert q.sample(seed=[0, 1]).shape == COLOURED
    assert q.sample([2, 3], seed=[0, 1]).shape == (2, 3, *COLOURED)
    assert q.log_prob(tf.zeros([2, 3, *COLOURED])).shape == (2, 3)


# Fitted spectra


def known_spectrum(shape=(12, 15, 3)):
    """Neither isotropic nor separable in frequency and colour."""
    spectrum = power_law(shape, exponent=0.8, colour_covariance=RGB_COVARIANCE)
    slope = np.array([0.0, 0.1, -0.1])
    amplitude = spectrum.amplitude * (spectrum.amplitude[:, :, :1] ** slope)
    amplitude[:, 0] *= 1.2
    mean = np.array([10.0, 20.0, 15.0])
    return dataclasses.replace(spectrum, mean=mean, amplitude=amplitude)


def rings_of(height, width):
    rows, columns = np.indices([height, width])
    rows, columns = (
        np.minimum(rows, height - rows),
        np.minimum(columns, width - columns),
    )
    return np.rint(np.hypot(rows / height, columns / width) * max(height, width))


def test_a_fit_recovers_every_power_of_a_known_spectrum():
    known, count = known_spectrum(), 2_000
    fitted = fit_spectrum(draws(spectral_noise(known.shape, spectrum=known), count, 1),
                          isotropic=False)  # fmt: skip
    degrees = coordinates_per_frequency(12, 15)[:, :, None] * count
    z = (fitted.amplitude**2 / known.amplitude**2 - 1) * np.sqrt(degrees / 2)
    assert np.abs(z).max() < 5
    # f = 0 is fitted around the images' own mean.
    stderr = np.sqrt(known.amplitude[0, 0] ** 2 / (count * 180)) @ np.abs(known.colours)
    assert np.all(np.abs(fitted.mean - known.mean) < 5 * np.abs(stderr))
    alignment = np.abs(np.sum(fitted.colours * known.colours, axis=0))
    np.testing.assert_allclose(alignment, 1.0, atol=1e-3)


def test_an_isotropic_fit_recovers_the_mean_power_of_every_ring():
    known, count = known_spectrum(), 100
    fitted = fit_spectrum(draws(spectral_noise(known.shape, spectrum=known), count, 2))
    rings = rings_of(12, 15)
    for ring in np.unique(rings):
        power = known.amplitude[rings == ring] ** 2
        assert np.ptp(fitted.amplitude[rings == ring], axis=0).max() < 1e-9
        stderr = np.sqrt(2 * np.sum(power**2, axis=0) / count) / len(power)
        error = fitted.amplitude[rings == ring][0] ** 2 - power.mean(axis=0)
        assert np.all(np.abs(error) < 5 * stderr)


@pytest.mark.parametrize("isotropic", [True, False])
def test_under_a_fit_the_noise_of_its_images_has_mean_square_one(isotropic):
    """Where the derivative of the likelihood by an amplitude is zero."""
    shape = (6, 7, 3)
    images = np.random.default_rng(0).gamma(2.0, 30.0, [40, *shape])
    fitted = fit_spectrum(images, isotropic)
    q = spectral_noise(shape, spectrum=fitted)
    noise = q.bijector.inverse(images.astype(np.float32)).numpy()
    square = np.mean(noise**2, axis=0)
    if isotropic:
        rings = rings_of(6, 7)
        square = np.stack([square[rings == i].mean(axis=0) for i in np.unique(rings)])
    else:
        square = (square + np.roll(square[::-1, ::-1], [1, 1], [0, 1])) / 2
    np.testing.assert_allclose(square, 1.0, rtol=1e-4)


def test_a_fit_has_the_moments_of_its_images():
    images = np.random.default_rng(1).gamma(2.0, 30.0, [20, 6, 7, 3])
    pixels = images.reshape(-1, 3)
    for fitted in (fit_spectrum(images), fit_spectrum(images, isotropic=False)):
        np.testing.assert_allclose(fitted.mean, pixels.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(
            fitted.colour_covariance, np.cov(pixels.T, ddof=0), rtol=1e-9, atol=1e-9
        )
        assert fitted.shape == (6, 7, 3)
        reference = spectral_noise([6, 7, 3], spectrum=fitted)
        center = reference.bijector.forward(tf.zeros([6, 7, 3]))
        np.testing.assert_allclose(center[2, 3], fitted.mean, rtol=1e-6)
        moved = spectral_noise([6, 7, 3], mean=1.0, spectrum=fitted)
        np.testing.assert_allclose(moved.bijector.forward(tf.zeros([6, 7, 3])), 1.0)


def test_no_perturbed_spectrum_makes_the_images_more_likely():
    shape, rng = (4, 5, 2), np.random.default_rng(2)
    images = rng.gamma(2.0, 1.0, [30, *shape]).astype(np.float32)

    def log_likelihood(spectrum):
        q = spectral_noise(shape, spectrum=spectrum)
        return np.mean(q.log_prob(images).numpy(), dtype=np.float64)

    fitted = fit_spectrum(images, isotropic=False)
    for _ in range(20):
        change = rng.normal(size=shape)
        change += np.roll(change[::-1, ::-1], [1, 1], [0, 1])  # of k as of -k
        other = dataclasses.replace(
            fitted,
            amplitude=fitted.amplitude * np.exp(0.1 * change),
            mean=fitted.mean + 0.01 * rng.normal(size=2),
        )
        assert log_likelihood(other) < log_likelihood(fitted)


def test_a_data_set_read_in_batches_gives_the_same_fit_as_an_array():
    images = np.random.default_rng(3).integers(0, 256, [41, 5, 6, 3]).astype(np.uint8)
    labels = np.zeros(41, np.int32)
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(7)
    expected = fit_spectrum(images)
    for batches in (
        dataset,
        dataset.map(lambda images, _: images),
        (images[i : i + 9] for i in range(0, 41, 9)),
        tf.constant(images),
    ):
        fitted = fit_spectrum(batches)
        np.testing.assert_allclose(fitted.mean, expected.mean, rtol=1e-12)
        np.testing.assert_allclose(fitted.amplitude, expected.amplitude, rtol=1e-9)


def test_a_mean_far_from_zero_costs_no_digits():
    images = np.random.default_rng(4).normal(size=[20, 4, 5, 1])
    far = fit_spectrum(images + 1e7)
    np.testing.assert_allclose(far.mean - 1e7, fit_spectrum(images).mean, atol=1e-8)
    np.testing.assert_allclose(far.amplitude, fit_spectrum(images).amplitude, rtol=1e-7)


def held_out_gain(images):
    """Nats per pixel by which a fit to one half predicts the other above white noise.

    The white noise is also fitted: its mean and covariance of the colours.
    """
    half = len(images) // 2
    shape = images.shape[1:]
    fitted = fit_spectrum(images[:half])
    white = spectral_noise(
        shape, fitted.mean, exponent=0.0, colour_covariance=fitted.colour_covariance
    )
    q = spectral_noise(shape, spectrum=fitted)
    gain = q.log_prob(images[half:]) - white.log_prob(images[half:])
    return gain.numpy() / np.prod(shape)


def test_a_fit_predicts_held_out_draws_better_than_white_noise():
    known = known_spectrum()
    images = draws(spectral_noise(known.shape, spectrum=known), 200, 5)
    gain = held_out_gain(images)
    variance = np.mean(known.amplitude**2, axis=(0, 1))
    exact = np.mean(0.5 * np.log(variance) - np.log(known.amplitude))
    # The fit costs half a nat per parameter and image of the first half: 33 of them.
    stderr = gain.std() / np.sqrt(100)
    assert 0 < gain.mean() < exact + 4 * stderr
    assert gain.mean() > exact - 0.02 - 4 * stderr


def test_a_fit_predicts_held_out_digits_better_than_white_noise():
    (digits, _), _ = embedded_mnist()
    gain = held_out_gain(digits[:400].astype(np.float32))
    assert gain.min() > 0.3


def photographs(count=120, size=64):
    with np.load(data_file("imagenet_sample1000_256.npz")) as file:
        bytes_, offsets = file["buf"], file["off"]
    images = [
        tf.io.decode_jpeg(bytes_[start:end].tobytes(), channels=3)
        for start, end in itertools.pairwise(offsets[: count + 1])
    ]
    return tf.image.resize(tf.stack(images), [size, size], "area").numpy()


def test_photographs_have_amplitudes_that_fall_about_as_one_over_f():
    images = photographs()
    fitted = fit_spectrum(images)
    luminance = fitted.amplitude[1:17, 0, 0]  # up to half the Nyquist frequency
    slope = np.polyfit(np.log(np.arange(1, 17)), np.log(luminance), 1)[0]
    assert -1.4 < slope < -0.9
    assert held_out_gain(images).min() > 0


# Squash


@every_law
def test_a_squash_is_the_distribution_function_of_its_law(law):
    noise = tf.constant(np.linspace(-30, 30, 501)[:, None], tf.float32)
    q = squash(white_noise([1], 1.0, 0.5), -1.0, 3.0, scale=0.5, law=law)
    shares = LAWS[law].cdf(noise.numpy().astype(float))
    images = Tilt(tf.reduce_sum, q).to_images(noise).numpy()
    np.testing.assert_allclose(images, 4 * shares - 1, atol=1e-6)
    np.testing.assert_allclose(
        np.float64(3 - images[280:300]), 4 * LAWS[law].sf(noise[280:300]), atol=5e-7
    )


def test_far_tails_of_a_student_squash_keep_a_gradient():
    q = squash(white_noise([1]), -0.5, 0.5, scale=1.0, law="student")
    noise = tf.constant([[-20.0], [0.0], [20.0]])
    with tf.GradientTape() as tape:
        tape.watch(noise)
        images = Tilt(tf.reduce_sum, q).to_images(noise)
    slope = LAWS["student"].pdf(noise.numpy())
    np.testing.assert_allclose(tape.gradient(images, noise), slope, rtol=1e-5)


@pytest.mark.parametrize("low, high", [(0.0, 255.0), (-1.0, 0.0), (0.1, 0.7)])
def test_gaussian_pixels_of_the_scale_are_squashed_to_uniform_ones(low, high):
    scale = 0.3 * (high - low)
    middle = (low + high) / 2
    for y in (
        white_noise([4, 4, 3], middle, scale),
        spectral_noise([4, 4, 3], middle, scale),
    ):
        x = draws(squash(y, low, high, scale), 4_000, seed=1)
        # Pixels of one image depend on each other, images do not.
        for pixel in (x[:, 0, 0, 0], x[:, 2, 3, 2]):
            uniform = stats.uniform(low, high - low).cdf
            assert stats.kstest(pixel, uniform).pvalue > 1e-3


@every_law
def test_by_default_mid_gray_keeps_its_value_and_contrast(law):
    y = spectral_noise(COLOURED, mean=127.5, stddev=1e-2)
    noise = tf.random.stateless_normal([5, *COLOURED], seed=[0, 1])
    linear = y.bijector.forward(noise)
    squashed = squash(y, law=law).bijector.forward(noise)
    np.testing.assert_allclose(squashed, linear, rtol=1e-6)
    np.testing.assert_array_equal(
        squash(y, law=law).bijector.forward(tf.zeros(COLOURED)),
        tf.fill(COLOURED, 127.5),
    )
    with tf.GradientTape() as tape:
        pixels = tf.Variable(tf.fill([1, 1], 127.5))
        x = squash(white_noise([1]), law=law).bijector.bijectors[0].forward(
            (pixels - 127.5) / (255.0 / np.sqrt(2 * np.pi))
        )  # fmt: skip
    np.testing.assert_allclose(tape.gradient(x, pixels), [[1.0]], rtol=1e-6)


@pytest.mark.parametrize("low, high", [(0.0, 255.0), (0.1, 0.7), (-1 / 3, 1e-3)])
@pytest.mark.parametrize("make", [white_noise, spectral_noise])
@every_law
def test_a_squash_never_leaves_the_box_and_its_density_is_a_number(
    law, make, low, high
):
    q = squash(make(COLOURED, stddev=3.0 * (high - low)), low, high, law=law)
    noise = q.distribution.sample(50, seed=[0, 1])
    size = tf.constant([1.0, 10.0, 1e3, 1e30])[:, None, None, None, None]
    images = q.bijector.forward(size * noise).numpy()
    assert np.all((np.float32(low) <= images) & (images <= np.float32(high)))
    assert images.min() == np.float32(low) and images.max() == np.float32(high)
    assert np.all(np.isfinite(q.log_prob(images)))


@every_law
def test_the_density_of_squashed_white_noise_is_in_closed_form(law):
    q = squash(white_noise(SHAPE, mean=0.3, stddev=0.5), -1.0, 2.0, 0.8, law=law)
    x = np.random.default_rng(0).uniform(-0.99, 1.99, [30, *SHAPE]).astype(np.float32)
    unit = LAWS[law].ppf((x.astype(np.float64) + 1) / 3)
    log_slope = LAWS[law].logpdf(unit) + np.log(3 / 0.8)
    log_prob = stats.norm(0.3, 0.5).logpdf(0.5 + 0.8 * unit) - log_slope
    np.testing.assert_allclose(q.log_prob(x), log_prob.sum((1, 2, 3)), rtol=1e-5)


@every_law
def test_the_density_of_a_squash_integrates_to_one(law):
    y = spectral_noise([1, 2, 1], 0.4, 0.3, exponent=1.0)
    q = squash(y, 0.0, 1.0, 0.4, law=law)
    nodes, weights = np.polynomial.legendre.leggauss(200)
    nodes, weights = (nodes + 1) / 2, weights / 2
    images = np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 1, 2, 1)
    density = np.exp(q.log_prob(images.astype(np.float32)).numpy())
    np.testing.assert_allclose(np.outer(weights, weights).ravel() @ density, 1, 1e-5)


def test_the_density_of_a_squash_is_zero_outside_by_any_single_pixel():
    q = squash(spectral_noise(SHAPE), 0.0, 1.0)
    images = np.full([4, *SHAPE], 0.5, np.float32)
    images[0, 0, 0, 0] = np.nextafter(np.float32(1), np.float32(2))
    images[1, 1, 2, 0] = -1e-6
    images[2, 0, 1, 0] = np.nan
    log_prob = q.log_prob(images).numpy()
    np.testing.assert_array_equal(log_prob[:3], 3 * [-np.inf])
    assert np.isfinite(log_prob[3])


@every_law
def test_at_the_ends_a_squash_has_the_density_of_the_nearest_value_inside(law):
    for low, high in [(0.0, 255.0), (-3.0, 0.0), (1.0, 2.0)]:
        y = white_noise([2], mean=low, stddev=high - low)
        q = squash(y, low, high, law=law)
        ends = tf.constant([[low, high]], tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(ends)
            log_prob = q.log_prob(ends)
        inside = np.nextafter(np.float32([low, high]), np.float32([high, low]))
        least = (high - low) * np.finfo(np.float32).tiny
        inside = np.where(ends == 0, np.sign(inside) * least, inside)
        assert np.isfinite(log_prob)
        np.testing.assert_allclose(log_prob, q.log_prob(inside), rtol=1e-6)
        assert np.all(np.isfinite(tape.gradient(log_prob, ends)))


@every_law
def test_a_squash_has_the_noise_of_what_it_squashes(law):
    y = spectral_noise(COLOURED)
    q = squash(y, law=law)
    assert q.distribution is y.distribution
    tilt = Tilt(lambda images: tf.reduce_sum(images, [1, 2, 3]), q)
    noise = draws(y.distribution, 3, seed=1)
    back = tilt.to_noise(tf.constant(tilt.to_images(noise).numpy()))
    np.testing.assert_allclose(back, noise, atol=1e-3)


# Latent


def small_generator(latent_size=3):
    """Dropout and BatchNormalization behave differently in training."""
    layers = [
        keras.layers.Dense(16, activation="tanh"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.5, seed=1),
        keras.layers.Dense(16, kernel_initializer="glorot_uniform"),
        keras.layers.Reshape([4, 2, 2]),
    ]
    keras.utils.set_random_seed(5)
    return keras.Sequential([keras.Input([latent_size]), *layers])


def test_latent_is_the_law_of_the_images_of_a_generator():
    generator = small_generator()
    q = latent(generator)
    assert isinstance(q, tfp.distributions.Distribution)
    assert q.event_shape == (4, 2, 2) and q.batch_shape == []
    assert q.distribution.event_shape == (3,)
    noise = q.distribution.sample(50, seed=[0, 1])
    images = generator(noise, training=False)
    # A graph, and one image or many, may be summed in another order.
    np.testing.assert_allclose(q.bijector.forward(noise), images, atol=1e-6)
    np.testing.assert_allclose(q.sample(50, seed=[0, 1]), images, atol=1e-6)
    np.testing.assert_allclose(q.bijector.forward(noise[0]), images[0], atol=1e-6)
    assert q.sample([2, 3], seed=[0, 1]).shape == (2, 3, 4, 2, 2)
    assert not np.allclose(generator(noise, training=True), images)


def test_a_linear_generator_of_noise_gives_its_gaussian():
    weights = np.random.default_rng(0).normal(size=[3, 4]).astype(np.float32)
    q = latent(lambda z: tf.reshape(z @ weights, [-1, 2, 2, 1]), [3])
    images = draws(q, 20_000, seed=1).reshape(20_000, 4)
    exact = weights.T @ weights
    variance = np.diag(exact)
    stderr = np.sqrt((np.outer(variance, variance) + exact**2) / 20_000)
    assert np.abs((np.cov(images.T) - exact) / stderr).max() < 5


def test_a_tilt_of_latent_noise_has_a_density_and_a_gradient():
    generator = small_generator()
    for q in (latent(generator), squash(latent(generator), -1.0, 1.0)):
        tilt = Tilt(lambda images: tf.reduce_sum(images, [1, 2, 3]), q)
        assert tilt.event_shape == (4, 2, 2)

        @tf.function
        def value_and_gradient(noise, tilt=tilt):
            with tf.GradientTape() as tape:
                tape.watch(noise)
                log_prob = tilt.noise_log_prob(noise)
            return log_prob, tape.gradient(log_prob, noise)

        noise = tilt.base.sample(5, seed=[0, 1])
        log_prob, gradient = value_and_gradient(noise)
        expected = stats.norm.logpdf(noise).sum(axis=1)
        expected += tf.reduce_sum(tilt.to_images(noise), [1, 2, 3])
        np.testing.assert_allclose(log_prob, expected, rtol=1e-5)
        assert gradient.shape == (5, 3) and np.all(gradient + noise != 0)


def test_images_of_a_generator_have_a_static_shape_in_a_graph():
    q = latent(small_generator())
    graph = tf.function(
        lambda noise: q.bijector.forward(noise),
        input_signature=[tf.TensorSpec([None, 3])],
    )
    assert graph.get_concrete_function().output_shapes.as_list() == [None, 4, 2, 2]


def test_a_squashed_generator_never_leaves_the_box():
    q = squash(latent(lambda z: 1e3 * tf.reshape(z, [-1, 2, 2, 1]), [4]), 0.1, 0.7)
    images = draws(q, 100, seed=1)
    assert images.shape == (100, 2, 2, 1)
    assert images.min() == np.float32(0.1) and images.max() == np.float32(0.7)


@pytest.mark.parametrize("squashed", [False, True])
def test_images_of_a_generator_have_no_density_and_the_error_says_who_has(squashed):
    q = latent(small_generator())
    q = squash(q) if squashed else q
    images = tf.constant(q.sample(2, seed=[0, 1]).numpy())
    tilt = Tilt(lambda images: tf.reduce_sum(images, [1, 2, 3]), q)
    for call in (
        lambda: q.log_prob(images),
        lambda: q.bijector.inverse(images),
        lambda: q.bijector.forward_log_det_jacobian(tf.zeros([2, 3]), 1),
        lambda: tilt.signal_to_noise(images),
    ):
        with pytest.raises(
            NotImplementedError, match=r"Received: .*Tilt.noise_log_prob"
        ):
            call()


@pytest.mark.parametrize(
    "generator, message",
    [
        (lambda z: tf.reshape(z, [-1, 3, 3, 1]), "must take noise .* error"),
        (lambda z: tf.constant(np.asarray(z)), "must have a gradient"),
        (lambda z: tf.round(z), "must have a gradient"),
    ],
    ids=["of another shape", "numpy", "rounded"],
)
def test_a_generator_that_fails_or_has_no_gradient_is_an_error(generator, message):
    with pytest.raises(ValueError, match=message):
        latent(generator, [4])


@pytest.mark.parametrize("value", ["big", None, 1j, [[1.0], [1.0, 2.0]]])
def test_a_parameter_that_is_no_number_is_an_error_that_names_it(value):
    with pytest.raises(ValueError, match="`mean` must be a number"):
        white_noise(SHAPE, mean=value)
    with pytest.raises(ValueError, match="`low` must be a number"):
        box(SHAPE, low=value)
    if value is not None:  # the default
        with pytest.raises(ValueError, match="`exponent` must be a number"):
            spectral_noise(COLOURED, exponent=value)
        with pytest.raises(ValueError, match="`colour_covariance` must be a number"):
            spectral_noise(COLOURED, colour_covariance=value)


def test_a_generator_may_be_any_callable_that_takes_training_or_not():
    def generator(noise, training=True):
        assert training is False
        return noise[:, :, None, None]

    class WithShape:
        input_shape = (None, 2)

        def __call__(self, noise):
            return tf.cast(noise[:, :, None, None], tf.float16)

    assert latent(generator, [2]).event_shape == (2, 1, 1)
    assert latent(WithShape()).event_shape == (2, 1, 1)
    assert latent(WithShape()).sample(seed=[0, 1]).dtype == tf.float32
    assert latent(tf.function(lambda z: z), 5).event_shape == (5,)


# Frequency bands


@pytest.mark.parametrize("shape", [(32, 32, 3), (20, 31, 1), (4, 5, 2), (1, 1, 2)])
def test_bands_are_rings_of_every_colour_and_none_is_empty(shape):
    q = spectral_noise(shape)
    bands = frequency_bands(q)
    assert bands.dtype == np.int32 and bands.shape == q.distribution.event_shape
    np.testing.assert_array_equal(np.unique(bands), np.arange(bands.max() + 1))
    num_rings = (bands.max() + 1) // shape[2]
    rings = bands[:, :, 0]
    assert rings.max() == num_rings - 1 <= 15
    np.testing.assert_array_equal(
        bands, rings[:, :, None] + num_rings * np.arange(shape[2])
    )
    # The further out, the higher: the amplitude falls with f alone.
    order = np.argsort(-power_law(shape).amplitude[:, :, 0].ravel(), kind="stable")
    assert np.all(np.diff(rings.ravel()[order]) >= 0)
    np.testing.assert_array_equal(rings, np.roll(rings[::-1, ::-1], [1, 1], [0, 1]))


def test_bands_are_equally_wide_in_log_frequency():
    rings = frequency_bands(spectral_noise([227, 227, 1]))[:, :, 0]
    assert rings.max() == 15
    along = rings[0, 1:114]
    width = np.log(np.sqrt(2) * 113) / 16
    np.testing.assert_array_equal(along, np.log(np.arange(1, 114)) // width)
    assert rings[0, 0] == 0


def test_bands_are_seen_through_a_squash_and_elsewhere_there_are_none():
    bands = frequency_bands(spectral_noise(COLOURED))
    twice = squash(squash(spectral_noise(COLOURED)))
    np.testing.assert_array_equal(frequency_bands(twice), bands)
    for reference in (
        white_noise(COLOURED),
        box(COLOURED),
        squash(white_noise(COLOURED)),
        squash(latent(small_generator())),
        latent(small_generator()),
        tfp.distributions.Normal(0.0, 1.0),
    ):
        assert frequency_bands(reference) is None


# Errors


@pytest.mark.parametrize(
    "make, parameter",
    [
        (lambda: spectral_noise([4, 4]), "shape"),
        (lambda: spectral_noise([2, 4, 4, 1]), "shape"),
        (lambda: spectral_noise(COLOURED, mean=np.nan), "mean"),
        (lambda: spectral_noise(COLOURED, mean=np.zeros(3)), "mean"),
        (lambda: spectral_noise(COLOURED, stddev=0.0), "stddev"),
        (lambda: spectral_noise(COLOURED, stddev=np.nan), "stddev"),
        (lambda: spectral_noise(COLOURED, stddev=[1.0, 2.0]), "stddev"),
        (lambda: spectral_noise(COLOURED, exponent=np.inf), "exponent"),
        (lambda: spectral_noise(COLOURED, exponent=[1.0]), "exponent"),
        (lambda: spectral_noise(COLOURED, colour_covariance=np.eye(3)), "colour_cov"),
        (lambda: spectral_noise(COLOURED, colour_covariance=4.0), "colour_covariance"),
        (
            lambda: spectral_noise(COLOURED, colour_covariance=[[1, 1], [1, 1]]),
            "colour_covariance",
        ),
        (
            lambda: spectral_noise(COLOURED, colour_covariance=[[1, 0.5], [0, 1]]),
            "colour_covariance",
        ),
        (
            lambda: spectral_noise(COLOURED, colour_covariance=[[np.nan, 0], [0, 1]]),
            "colour_covariance",
        ),
        (
            lambda: spectral_noise(COLOURED, stddev=1, colour_covariance=COVARIANCE),
            "stddev",
        ),
        (lambda: spectral_noise([4, 4, 2], spectrum=power_law(COLOURED)), "spectrum"),
        (
            lambda: spectral_noise(COLOURED, exponent=1, spectrum=power_law(COLOURED)),
            "exponent",
        ),
        (
            lambda: spectral_noise(COLOURED, stddev=1.0, spectrum=power_law(COLOURED)),
            "stddev",
        ),
        (
            lambda: spectral_noise(COLOURED, cutoff=0.1, spectrum=power_law(COLOURED)),
            "cutoff",
        ),
        (lambda: spectral_noise(COLOURED, cutoff=0.0), "cutoff"),
        (lambda: spectral_noise(COLOURED, cutoff=np.nan), "cutoff"),
        (lambda: squash(white_noise([2]), law="cauchy"), "law"),
        (lambda: squash(white_noise([2]), low=1.0, high=1.0), "low"),
        (lambda: squash(white_noise([2]), high=np.zeros(3)), "high"),
        (lambda: squash(white_noise([2]), scale=0.0), "scale"),
        (lambda: squash(white_noise([2]), scale=np.inf), "scale"),
        (lambda: latent(lambda z: z), "latent_shape"),
        (lambda: latent(lambda z: z, [0]), "latent_shape"),
        (lambda: latent(small_generator(), [4]), "latent_shape"),
        (lambda: latent(keras.layers.Flatten(), [None]), "latent_shape"),
        (
            lambda: latent(keras.Sequential([keras.Input([None, 3])])),
            "latent_shape",
        ),
        (lambda: latent(lambda z: tf.reduce_sum(z), [3]), "generator"),
        (lambda: latent(lambda z: tf.transpose(z), [3]), "generator"),
    ],
)
def test_a_bad_parameter_of_a_transport_is_an_error_that_names_it(make, parameter):
    with pytest.raises(ValueError, match=rf"`{parameter}\w*` must .* Received: .*\. "):
        make()


ONES = np.ones([3, 4, 2])


@pytest.mark.parametrize(
    "mean, colours, amplitude, name",
    [
        (np.zeros(2), np.eye(2), np.ones([3, 4]), "amplitude"),
        (np.zeros(2), np.eye(2), 0 * ONES, "amplitude"),
        (np.zeros(2), np.eye(2), np.nan * ONES, "amplitude"),
        (np.zeros(2), np.eye(2), ONES * [[[1], [2], [1], [1]]], "amplitude"),
        (np.zeros(2), np.eye(2), ONES * [[[1]], [[1]], [[2]]], "amplitude"),
        (np.zeros(2), 2 * np.eye(2), ONES, "colours"),
        (np.zeros(2), [[1, 1], [0, 1]], ONES, "colours"),
        (np.zeros(2), np.eye(3), ONES, "colours"),
        (np.zeros(3), np.eye(2), ONES, "mean"),
    ],
)
def test_what_is_no_spectrum_of_stationary_images_is_an_error(
    mean, colours, amplitude, name
):
    with pytest.raises(ValueError, match=rf"`{name}` must .* Received: .*\. "):
        Spectrum(mean, colours, amplitude)
    Spectrum(np.zeros(2), np.eye(2), ONES * [[[3], [2], [1], [2]]])


def test_a_spectrum_too_steep_for_float32_is_an_error():
    steep = Spectrum(np.zeros(1), np.eye(1), np.full([2, 2, 1], 1e-60))
    with pytest.raises(ValueError, match="amplitude .* positive.*Received: .* 0.0"):
        spectral_noise([2, 2, 1], spectrum=steep)


@pytest.mark.parametrize(
    "make, name",
    [
        (lambda: spectral_noise([2, 2, 1], spectrum=np.ones([2, 2, 1])), "spectrum"),
        (lambda: squash(tfp.distributions.Normal(0.0, 1.0)), "reference"),
        (lambda: squash("white_noise"), "reference"),
        (lambda: latent("generator.keras"), "generator"),
    ],
)
def test_arguments_of_other_kinds_are_type_errors(make, name):
    with pytest.raises(TypeError, match=rf"(?s)`{name}` must .* Received: .*\. Pass"):
        make()


NOISE = np.random.default_rng(9).normal(size=[6, 4, 5, 2])


@pytest.mark.parametrize(
    "images, message",
    [
        (NOISE[:1], "two images or more. Received: 1"),
        ([], "two images or more. Received: 0"),
        (NOISE[:0], "two images or more. Received: 0"),
        (NOISE[0], r"\[n, height, width, channels\]. Received: shape \(4, 5, 2\)"),
        (list(NOISE), r"\[n, height, width, channels\]. Received: shape \(4, 5, 2\)"),
        (
            [NOISE, NOISE[:, :3]],
            r"one image shape \(4, 5, 2\). Received: shape \(6, 3, 5, 2\)",
        ),
        (np.where(NOISE == NOISE.max(), np.nan, NOISE), "finite. Received: 1 of 240"),
        (NOISE * [1.0, 0.0], "vary in every decorrelated colour.* Received: 1 of 2"),
        (NOISE[..., :1] + np.zeros(2), "vary in every decorrelated colour.*: 1 of 2"),
        (np.ones([3, 2, 2, 1]), "vary in every decorrelated colour.*: 1 of 1"),
        (
            NOISE - NOISE.mean(axis=(1, 2), keepdims=True),
            "vary in every frequency.* Received: 2 of 40",
        ),
    ],
)
def test_images_that_fit_no_spectrum_are_an_error(images, message):
    with pytest.raises(ValueError, match=rf"`images` must .*{message}"):
        fit_spectrum(images)
