"""Wavelet noise has the stated law: exact density, moments and kurtosis by band."""

import dataclasses
import functools

import numpy as np
import pytest
import pywt
import tensorflow as tf
from cases import slow
from data_files import data_file
from scipy import stats

import keras_tilt as kt
from keras_tilt.reference.heavy_tails import steepness
from keras_tilt.reference.photographs import photographs
from keras_tilt.reference.wavelet_transform import (
    analysis_matrix,
    bands_of_coefficients,
    default_levels,
    transforms,
)

# Small images, all of whose coefficients see the seam, are meant.
pytestmark = pytest.mark.filterwarnings("ignore:Level value:UserWarning")

# Even, odd, not square, and smaller than the filters.
SIZES = [(16, 24), (15, 22), (9, 9), (14, 7), (2, 3), (5, 2)]
LARGE = [slow(*size) for size in [(224, 224), (227, 227), (299, 299), (112, 227)]]


def record(levels=2, channels=2, kurtosis=6.0, wavelet="sym8"):
    """No two bands alike."""
    rng = np.random.default_rng(levels)
    shape = [levels, 3, channels]
    return kt.Wavelets(
        mean=np.arange(1.0, channels + 1),
        colours=np.linalg.qr(rng.normal(size=[channels, channels]))[0],
        amplitude=rng.uniform(0.5, 2.0, shape),
        kurtosis=3 + (kurtosis - 3) * rng.uniform(0.5, 1.0, shape),
        approximation_amplitude=rng.uniform(2.0, 3.0, channels),
        approximation_kurtosis=np.full(channels, 3 + (kurtosis - 3) / 2),
        wavelet=wavelet,
    )


def gaussian(levels=2, channels=2):
    return record(levels, channels, kurtosis=3.0)


def coefficients_of(images, wavelets):
    """By PyWavelets, of the decorrelated colours: [n, channels, height, width]."""
    by_colour = np.moveaxis((images - wavelets.mean) @ wavelets.colours, -1, 1)
    found = pywt.wavedec2(
        by_colour.astype(np.float64),
        wavelets.wavelet,
        mode="periodization",
        level=wavelets.levels,
    )
    return pywt.coeffs_to_array(found, axes=(-2, -1))[0]


def tables(wavelets, height, width):
    """Amplitude and kurtosis of each coefficient: [channels, height, width]."""
    tables = np.empty([2, len(wavelets.mean), height, width])
    for band in bands_of_coefficients(height, width, wavelets.levels):
        if band.orientation is None:
            values = wavelets.approximation_amplitude, wavelets.approximation_kurtosis
        else:
            of_band = band.level - 1, band.orientation
            values = wavelets.amplitude[of_band], wavelets.kurtosis[of_band]
        tables[:, :, band.rows, band.columns] = np.array(values)[:, :, None, None]
    return tables


def draws(reference, count, seed):
    return reference.sample(count, seed=[0, seed]).numpy()


# The transform


@pytest.mark.parametrize("size", [2, 3, 5, 6, 7, 8, 14, 15, 28, 57, 113, 227])
@pytest.mark.parametrize("wavelet", ["haar", "db4", "sym8"])
def test_every_level_is_orthonormal(size, wavelet):
    matrix = analysis_matrix(size, wavelet)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-12)


@pytest.mark.parametrize("wavelet", ["haar", "sym8"])
def test_an_odd_level_differs_from_an_even_one_near_the_seam_alone(wavelet):
    """Rows in the middle are the filters, as on a circle of another size."""
    odd, even = analysis_matrix(227, wavelet), analysis_matrix(228, wavelet)
    np.testing.assert_allclose(odd[40:70], even[40:70, :227], atol=1e-6)
    np.testing.assert_allclose(odd[114:][30:80], even[114:][30:80, :227], atol=1e-6)


@pytest.mark.parametrize("size", [5, 9, 16, 57, 227])
def test_a_constant_has_no_details(size):
    details = analysis_matrix(size, "sym8")[(size + 1) // 2 :]
    np.testing.assert_allclose(details.sum(axis=1), 0.0, atol=1e-10)


@pytest.mark.parametrize("height, width", [*SIZES, *LARGE])
def test_the_transform_keeps_lengths_and_has_its_inverse(height, width):
    levels = default_levels(height, width)
    analysis, synthesis = transforms("sym8", levels)
    images = np.random.default_rng(0).normal(size=[2, 3, height, width])
    found = analysis(tf.constant(images))
    squares = [np.sum(x**2, axis=(2, 3)) for x in (images, found.numpy())]
    np.testing.assert_allclose(*squares, rtol=1e-11)
    np.testing.assert_allclose(synthesis(found), images, atol=1e-11)


@pytest.mark.parametrize("wavelet", ["haar", "db4", "sym8", "coif2"])
@pytest.mark.parametrize("height, width", [(16, 24), (32, 16), slow(224, 224)])
def test_of_even_sizes_it_is_the_periodised_transform_of_pywavelets(
    height, width, wavelet
):
    """With its order and its signs: those of `coeffs_to_array`."""
    levels = 3
    images = np.random.default_rng(1).normal(size=[2, 3, height, width])
    exact = pywt.wavedec2(images, wavelet, mode="periodization", level=levels)
    exact, places = pywt.coeffs_to_array(exact, axes=(-2, -1))
    analysis, _ = transforms(wavelet, levels)
    np.testing.assert_allclose(analysis(tf.constant(images)), exact, atol=1e-10)
    bands = bands_of_coefficients(height, width, levels)
    for level in range(1, levels + 1):
        found = [band for band in bands[1:] if band.level == level]
        for band, name in zip(found, ["da", "ad", "dd"], strict=True):
            rows, columns = places[levels + 1 - level][name][-2:]
            assert band.rows == slice(*rows.indices(height)[:2])
            assert band.columns == slice(*columns.indices(width)[:2])


@pytest.mark.parametrize("size", [(16, 24), (15, 22), slow((227, 224))])
def test_the_gradient_of_the_transform_is_its_transpose(size):
    analysis, synthesis = transforms("sym8", 1)
    for transform, other in [(analysis, synthesis), (synthesis, analysis)]:
        planes, weights = tf.random.stateless_normal([2, 3, 2, *size], seed=[0, 1])[:2]
        with tf.GradientTape() as tape:
            tape.watch(planes)
            f = tf.reduce_sum(weights * transform(planes))
        np.testing.assert_allclose(
            tape.gradient(f, planes), other(weights), rtol=1e-4, atol=1e-5
        )


def test_by_default_about_seven_by_seven_approximations_are_left():
    sizes = [(224, 224), (227, 300), (299, 299), (28, 28), (32, 64), (12, 9), (2, 2)]
    assert [default_levels(*size) for size in sizes] == [5, 5, 5, 2, 2, 1, 1]


# The law


@pytest.mark.parametrize("kurtosis", [3.0, 3.2, 6.0, 60.0])
def test_g_has_unit_variance_and_the_kurtosis_it_is_made_for(kurtosis):
    k = steepness(kurtosis)
    nodes, weights = np.polynomial.hermite_e.hermegauss(150)
    weights = weights / weights.sum()
    g = np.sinh(k * nodes) / np.sqrt(np.expm1(2 * k**2) / 2)
    np.testing.assert_allclose(weights @ g**2, 1.0, rtol=1e-6)
    np.testing.assert_allclose(weights @ g**4, kurtosis, rtol=1e-5)


def exact_log_prob(wavelets, images):
    """By PyWavelets and SciPy: z ~ N(0, 1) at every coefficient, dz / dc."""
    coefficients = coefficients_of(images, wavelets)
    amplitude, kurtosis = tables(wavelets, *images.shape[1:3])
    u = np.sqrt(2 * kurtosis - 2) - 1
    k = np.maximum(np.sqrt(np.log(u) / 2), 1e-9)
    size = amplitude / np.sqrt(np.expm1(2 * k**2) / 2)
    z = np.arcsinh(coefficients / size) / k
    log_slope = np.log(size * k) + 0.5 * np.log1p((coefficients / size) ** 2)
    return np.sum(stats.norm.logpdf(z) - log_slope, axis=(1, 2, 3))


@pytest.mark.parametrize("kurtosis", [3.0, 6.0, 60.0])
def test_log_prob_is_that_of_independent_coefficients(kurtosis):
    wavelets = record(kurtosis=kurtosis)
    reference = kt.wavelet_noise([16, 24, 2], wavelets=wavelets)
    images = draws(reference, 10, seed=1)
    elsewhere = np.random.default_rng(0).normal(1.0, 2.0, images.shape)
    for x in (images, elsewhere.astype(np.float32)):
        np.testing.assert_allclose(
            reference.log_prob(x), exact_log_prob(wavelets, x), rtol=1e-4
        )


def test_without_heavy_tails_it_is_a_gaussian():
    wavelets = gaussian()
    reference = kt.wavelet_noise([8, 10, 2], wavelets=wavelets)
    noise = tf.reshape(tf.eye(160), [160, 8, 10, 2])
    centre = reference.bijector.forward(tf.zeros([1, 8, 10, 2]))
    matrix = (reference.bijector.forward(noise) - centre).numpy().reshape(160, 160)
    mean = np.broadcast_to(wavelets.mean, [8, 10, 2]).ravel()
    exact = stats.multivariate_normal(mean, matrix.T @ matrix)
    images = draws(reference, 5, seed=1)
    np.testing.assert_allclose(
        reference.log_prob(images), exact.logpdf(images.reshape(5, -1)), rtol=1e-4
    )


def assert_has_moments(coefficients, amplitude, kurtosis):
    """Of [n, places] independent ones; the eighth moment is that of sinh(k z)."""
    count = coefficients.size
    scaled = coefficients / amplitude
    k = steepness(kurtosis)
    nodes, weights = np.polynomial.hermite_e.hermegauss(150)
    g = np.sinh(k * nodes) / np.sqrt(np.expm1(2 * k**2) / 2)
    eighth = weights / weights.sum() @ g**8
    assert abs(np.mean(scaled)) < 5 * np.sqrt(1 / count)
    assert abs(np.mean(scaled**2) - 1) < 5 * np.sqrt((kurtosis - 1) / count)
    assert abs(np.mean(scaled**4) - kurtosis) < 5 * np.sqrt(
        (eighth - kurtosis**2) / count
    )


def test_draws_have_the_stated_moments_in_every_band():
    wavelets = record(kurtosis=6.0)
    images = draws(kt.wavelet_noise([16, 24, 2], wavelets=wavelets), 2_000, seed=2)
    coefficients = coefficients_of(images, wavelets)
    amplitude, kurtosis = tables(wavelets, 16, 24)
    for band in bands_of_coefficients(16, 24, 2):
        for colour in range(2):
            place = colour, band.rows, band.columns
            first = (colour, band.rows.start, band.columns.start)
            assert_has_moments(
                coefficients[:, *place], amplitude[first], kurtosis[first]
            )


@pytest.mark.parametrize("height, width", [(16, 24), (15, 22), (2, 3)])
@pytest.mark.parametrize("kurtosis", [3.0, 60.0])
def test_the_inverse_returns_the_noise(height, width, kurtosis):
    wavelets = record(1, kurtosis=kurtosis)
    bijector = kt.wavelet_noise([height, width, 2], wavelets=wavelets).bijector
    noise = tf.random.stateless_normal([50, height, width, 2], seed=[0, 3])
    images = tf.constant(bijector.forward(noise).numpy())
    # Coefficients share the rounding of the largest of them.
    np.testing.assert_allclose(bijector.inverse(images), noise, atol=1e-3)


def test_eight_standard_deviations_of_heavy_tails_are_finite():
    reference = kt.wavelet_noise([4, 4, 2], wavelets=record(1, kurtosis=60.0))
    for z in (-8.0, 8.0):
        noise = tf.fill([1, 4, 4, 2], z)
        images = reference.bijector.forward(noise)
        assert np.all(np.isfinite(images)) and np.isfinite(reference.log_prob(images))


@pytest.mark.parametrize("squashed", [False, True])
def test_the_gradient_is_that_of_finite_differences(squashed):
    for field in (None, 0.5):
        reference = kt.wavelet_noise([6, 7, 2], wavelets=record(1), field=field)
        reference = kt.squash(reference, -2.0, 5.0) if squashed else reference
        bijector, shape = reference.bijector, reference.distribution.event_shape
        noise = tf.random.stateless_normal([1, *shape], seed=[0, 1])
        way = tf.random.stateless_normal([1, *shape], seed=[0, 2])

        def f(noise, bijector=bijector):
            return tf.reduce_sum(tf.sin(bijector.forward(tf.identity(noise))))

        def slope_of(noise, f=f):
            with tf.GradientTape() as tape:
                tape.watch(noise)
                value = f(noise)
            return tape.gradient(value, noise)

        in_graph = tf.function(slope_of, autograph=False)(noise)
        np.testing.assert_allclose(in_graph, slope_of(noise), rtol=1e-4, atol=1e-4)
        step = 2e-3  # error: step^2 and eps / step
        difference = (f(noise + step * way) - f(noise - step * way)) / (2 * step)
        np.testing.assert_allclose(
            tf.reduce_sum(in_graph * way), difference, rtol=1e-2, atol=2e-2
        )


def test_any_sample_shape_is_passed():
    reference = kt.wavelet_noise([6, 7, 2], wavelets=record(1))
    assert reference.sample(seed=[0, 1]).shape == (6, 7, 2)
    assert reference.sample([2, 3], seed=[0, 1]).shape == (2, 3, 6, 7, 2)
    assert reference.log_prob(tf.zeros([2, 3, 6, 7, 2])).shape == (2, 3)
    graph = tf.function(
        lambda noise: reference.bijector.forward(noise),
        input_signature=[tf.TensorSpec([None, 6, 7, 2])],
    )
    shape = graph.get_concrete_function().output_shapes.as_list()
    assert shape == [None, 6, 7, 2]


def test_a_graph_may_take_and_return_wavelet_noise():
    reference = kt.wavelet_noise([6, 7, 2], wavelets=record(1))
    images = draws(reference, 3, seed=4)
    found = tf.function(lambda q: q.log_prob(images))(reference)
    np.testing.assert_allclose(found, reference.log_prob(images), rtol=1e-5)


def test_a_linear_tilt_without_heavy_tails_has_its_log_partition_in_closed_form():
    wavelets = gaussian(1)
    reference = kt.wavelet_noise([6, 8, 2], wavelets=wavelets, mean=0.0)
    weights = 0.05 * np.random.default_rng(5).normal(size=[6, 8, 2])
    tilt = kt.Tilt(
        lambda images: tf.tensordot(images, tf.constant(weights, tf.float32), axes=3),
        reference,
    )
    by_band = coefficients_of(weights[None] + wavelets.mean, wavelets)
    amplitude, _ = tables(wavelets, 6, 8)
    exact = np.sum((by_band * amplitude) ** 2) / 2
    found = kt.log_partition(tilt, "importance", seed=7, progress=False)
    assert abs(found.value - exact) < 5 * found.standard_error + 1e-3


# Standard deviations and colours


@pytest.mark.parametrize("size", [(16, 24), (15, 22)])
@pytest.mark.parametrize("field", [None, 0.7])
def test_the_standard_deviation_of_a_pixel_is_the_stated_one(size, field):
    """The mean over pixels of the variance, by draws."""
    reference = kt.wavelet_noise([*size, 2], 0.0, 2.5, record(), field=field)
    square = np.mean(draws(reference, 4_000, seed=3) ** 2, axis=(1, 2, 3))
    assert abs(square.mean() - 2.5**2) < 5 * square.std() / np.sqrt(len(square))


def test_a_record_states_the_covariance_of_the_colours_of_a_pixel():
    wavelets = record(3, kurtosis=4.0)
    images = draws(kt.wavelet_noise([16, 24, 2], wavelets=wavelets), 2_000, seed=4)
    centred = images - wavelets.mean
    by_image = np.einsum("nhwi,nhwj->nij", centred, centred) / (16 * 24)
    stderr = by_image.std(axis=0) / np.sqrt(len(images))
    error = by_image.mean(axis=0) - wavelets.colour_covariance
    assert np.abs(error / stderr).max() < 5


@pytest.mark.parametrize("levels", [1, 2, 4, 6])
def test_at_other_levels_the_covariance_of_a_pixel_is_the_same(levels):
    wavelets = record(3)
    other = wavelets.at_levels(levels)
    assert other.levels == levels and other.wavelet == wavelets.wavelet
    np.testing.assert_allclose(other.colour_covariance, wavelets.colour_covariance)
    shared = min(levels, 3)
    np.testing.assert_array_equal(other.amplitude[:shared], wavelets.amplitude[:shared])


def test_at_fewer_levels_a_gaussian_has_the_variance_of_its_coarser_coefficients():
    wavelets = gaussian(3)
    images = draws(kt.wavelet_noise([16, 24, 2], wavelets=wavelets), 2_000, seed=5)
    fewer = wavelets.at_levels(1)
    found = coefficients_of(images, fewer)[:, :, :8, :12]
    square = np.mean(found**2, axis=(2, 3))
    stderr = square.std(axis=0) / np.sqrt(len(square))
    error = square.mean(axis=0) - fewer.approximation_amplitude**2
    assert np.abs(error / stderr).max() < 5


def test_by_default_it_has_the_colours_and_the_mean_of_photographs():
    for channels in (1, 2, 3):
        reference = kt.wavelet_noise([28, 32, channels])
        known = photographs(channels)
        centre = reference.bijector.forward(tf.zeros([28, 32, channels]))
        np.testing.assert_allclose(centre[3, 4], known.mean, rtol=1e-5)
        assert np.allclose(known.colours.T @ known.colours, np.eye(channels))
    # sd of red, green and blue, and of the luminance of each of other channels.
    stddev = np.sqrt(np.diag(photographs(3).colour_covariance))
    np.testing.assert_allclose(stddev, [69.0, 67.3, 70.1], rtol=0.01)
    gray = np.sqrt(photographs(1).colour_covariance)
    np.testing.assert_allclose(gray, 113 / np.sqrt(3), rtol=0.01)


# Fields of scales


def test_with_a_field_coefficients_keep_their_variance_and_have_its_kurtosis():
    """Places of an image share the field: draws are independent, coefficients not."""
    wavelets, strength = gaussian(), 0.4
    reference = kt.wavelet_noise([16, 16, 2], wavelets=wavelets, field=strength)
    images = draws(reference, 6_000, seed=6)
    coefficients = coefficients_of(images, wavelets)
    amplitude, _ = tables(wavelets, 16, 16)
    scaled = coefficients / amplitude
    for band in bands_of_coefficients(16, 16, 2):
        is_detail = band.orientation is not None
        exact = 3 * np.exp(4 * strength**2) if is_detail else 3.0
        for power, moment in [(2, 1.0), (4, exact)]:
            by_image = np.mean(
                scaled[:, :, band.rows, band.columns] ** power, (1, 2, 3)
            )
            stderr = by_image.std() / np.sqrt(len(images))
            assert abs(by_image.mean() - moment) < 5 * stderr


def test_a_field_takes_its_part_of_the_kurtosis():
    kurtosis, strength = 12.0, 0.3
    wavelets = record(1, kurtosis=kurtosis)
    reference = kt.wavelet_noise([8, 8, 2], wavelets=wavelets, field=strength)
    generator = reference.bijector
    plain = kt.wavelet_noise([8, 8, 2], wavelets=wavelets)
    noise = tf.random.stateless_normal([8_000, 8, 8, 2], seed=[0, 1])
    u = tf.random.stateless_normal([8_000, 49], seed=[0, 2])
    flat = tf.concat([tf.reshape(noise, [-1, 128]), u], axis=1)
    for images in (plain.bijector.forward(noise), generator.forward(flat)):
        diagonal = coefficients_of(images.numpy(), wavelets)[:, :, 4:, 4:]
        scaled = diagonal / wavelets.amplitude[0, 2][:, None, None]
        by_image = np.mean(scaled**4, axis=(2, 3))
        stderr = by_image.std(axis=0) / np.sqrt(len(by_image))
        error = by_image.mean(axis=0) - wavelets.kurtosis[0, 2]
        assert np.abs(error / stderr).max() < 5


def test_a_field_is_shared_by_the_bands_of_one_place_and_smooth():
    reference = kt.wavelet_noise([32, 32, 1], wavelets=gaussian(2, 1), field=1.0)
    coefficients = coefficients_of(draws(reference, 400, seed=7), gaussian(2, 1))[:, 0]
    log_scale = np.log(coefficients**2)
    fine = log_scale[:, 16:, 16:]
    same = np.corrcoef(fine.ravel(), log_scale[:, 16:, :16].ravel())[0, 1]
    near = np.corrcoef(fine[:, :, 1:].ravel(), fine[:, :, :-1].ravel())[0, 1]
    far = np.corrcoef(fine[:, :8].ravel(), fine[:, 8:].ravel())[0, 1]
    # Variance of log h^2 is 4 s^2, of log z^2 pi^2 / 2.
    whole = 4 / (4 + np.pi**2 / 2)
    assert abs(same - whole) < 0.05
    assert far + 0.1 < near < whole + 0.05


def test_with_a_field_images_have_no_density_and_the_error_says_who_has():
    for squashed in (False, True):
        reference = kt.wavelet_noise([4, 4, 1], wavelets=record(1, 1), field=0.5)
        reference = kt.squash(reference) if squashed else reference
        images = tf.constant(draws(reference, 2, seed=1))
        assert images.shape == (2, 4, 4, 1)
        assert reference.distribution.event_shape == (16 + 49,)
        for call in (reference.log_prob, reference.bijector.inverse):
            with pytest.raises(
                NotImplementedError, match="Received: .*Tilt.noise_log_prob"
            ):
                call(images)


# Bands


@pytest.mark.parametrize("field", [None, 0.5])
def test_bands_are_the_levels_of_every_colour(field):
    reference = kt.wavelet_noise([16, 24, 2], wavelets=record(2), field=field)
    for q in (reference, kt.squash(reference)):
        bands = kt.frequency_bands(q)
        assert bands.dtype == np.int32
        assert bands.shape == q.distribution.event_shape
        np.testing.assert_array_equal(np.unique(bands), np.arange(6 + bool(field)))
        coefficients = bands.ravel()[: 16 * 24 * 2].reshape(16, 24, 2)
        np.testing.assert_array_equal(coefficients[..., 1], coefficients[..., 0] + 3)
        assert np.all(coefficients[:4, :6, 0] == 0)
        assert coefficients[4, 0, 0] == coefficients[7, 11, 0] == 1
        assert coefficients[8, 0, 0] == coefficients[0, 12, 0] == 2
        if field:
            assert np.all(bands[-49:] == 6)


# Fits


@functools.cache
def fitted(pooled):
    known = record(2, kurtosis=6.0)
    images = draws(kt.wavelet_noise([16, 24, 2], wavelets=known), 2_000, seed=8)
    return known, images, kt.fit_wavelets(images, levels=2, pooled=pooled)


def aligned(known, found):
    """The order of the known colours, of which a fit says the largest first."""
    alignment = np.abs(known.colours.T @ found.colours)
    np.testing.assert_allclose(alignment.max(axis=1), 1.0, atol=5e-3)
    return alignment.argmax(axis=1)


def test_a_fit_recovers_the_law_of_its_images():
    known, images, found = fitted(pooled=True)
    order = aligned(known, found)
    coefficients = coefficients_of(images, known)
    for band in bands_of_coefficients(16, 24, 2)[1:]:
        of_band = band.level - 1, band.orientation
        places = coefficients[:, :, band.rows, band.columns]
        count = places[:, 0].size
        amplitude, kurtosis = known.amplitude[of_band], known.kurtosis[of_band]
        scaled = places / amplitude[:, None, None]
        error = found.amplitude[of_band][order] ** 2 / amplitude**2 - 1
        assert np.all(np.abs(error) < 5 * np.sqrt((kurtosis - 1) / count) + 1e-2)
        stderr = (scaled**4).std(axis=(0, 2, 3)) / np.sqrt(count)
        error = found.kurtosis[of_band][order] - kurtosis
        assert np.all(np.abs(error) < 6 * stderr + 0.05)
    ratio = found.approximation_amplitude[order] / known.approximation_amplitude
    assert np.all(np.abs(ratio - 1) < 0.03)
    assert np.all(np.abs(found.mean - known.mean) < 0.1)


@pytest.mark.parametrize("pooled", [False, True])
def test_a_fit_has_the_moments_of_its_images(pooled):
    """The same by PyWavelets, image by image."""
    images = np.random.default_rng(3).gamma(2.0, 30.0, [20, 16, 8, 3])
    images *= np.random.default_rng(4).uniform(0.2, 2.0, [20, 1, 1, 1])
    found = kt.fit_wavelets(images, "db4", levels=2, pooled=pooled)
    np.testing.assert_allclose(found.mean, images.mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(
        found.colour_covariance, np.cov(images.reshape(-1, 3).T, ddof=0), rtol=1e-9
    )
    coefficients = coefficients_of(images, found)
    for band in bands_of_coefficients(16, 8, 2):
        places = coefficients[:, :, band.rows, band.columns]
        square, fourth = (np.mean(places**power, axis=(2, 3)) for power in (2, 4))
        is_detail = band.orientation is not None
        kurtosis = fourth.mean(axis=0) / square.mean(axis=0) ** 2
        if is_detail and not pooled:
            kurtosis = np.mean(fourth / square**2, axis=0)
        values = found.approximation_amplitude, found.approximation_kurtosis
        if is_detail:
            of_band = band.level - 1, band.orientation
            values = found.amplitude[of_band], found.kurtosis[of_band]
        np.testing.assert_allclose(values[0] ** 2, square.mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(values[1], np.maximum(kurtosis, 3.0), rtol=1e-9)


def test_contrast_that_varies_makes_the_pooled_kurtosis_the_larger():
    images = np.random.default_rng(5).normal(size=[400, 16, 16, 1])
    images *= np.exp(np.random.default_rng(6).normal(size=[400, 1, 1, 1]))
    by_image, pooled = (kt.fit_wavelets(images, pooled=p) for p in (False, True))
    assert by_image.kurtosis.max() < 3.2 and pooled.kurtosis.min() > 20


def test_a_data_set_read_in_batches_gives_the_same_fit_as_an_array():
    images = np.random.default_rng(3).integers(0, 256, [41, 8, 9, 3]).astype(np.uint8)
    expected = kt.fit_wavelets(images)
    labelled = tf.data.Dataset.from_tensor_slices((images, np.zeros(41))).batch(7)
    for batches in (labelled, (images[i : i + 9] for i in range(0, 41, 9))):
        found = kt.fit_wavelets(batches)
        for name in ("mean", "amplitude", "kurtosis", "approximation_kurtosis"):
            np.testing.assert_allclose(
                getattr(found, name), getattr(expected, name), rtol=1e-9
            )


def test_gray_photographs_among_others_do_not_count_in_colours_they_lack():
    rng = np.random.default_rng(7)
    images = rng.normal(size=[40, 8, 8, 2])
    images[:20, ..., 1] = 0.0
    found = kt.fit_wavelets(images, levels=1)
    assert np.all(found.kurtosis < 3.5) and np.all(np.isfinite(found.kurtosis))


@pytest.mark.slow
def test_the_constants_are_those_of_photographs():
    from test_reference import photographs as read

    with np.load(data_file("imagenet_sample1000_256.npz")):
        images = read(count=300, size=256)[:, 16:240, 16:240]
    found, known = kt.fit_wavelets(images), photographs(3)
    ratio = found.amplitude[..., 0] / known.amplitude[..., 0]
    assert np.abs(np.log(ratio)).max() < 0.15
    tails = found.kurtosis[..., 0] / known.kurtosis[..., 0]
    assert np.abs(np.log(tails)).max() < 0.4


# Errors

NOISE = np.random.default_rng(9).normal(size=[6, 8, 8, 2])


@pytest.mark.parametrize(
    "images, options, message",
    [
        (NOISE[:1], {}, "`images` must be two images or more. Received: 1"),
        (NOISE[0], {}, r"`images` must .*\[n, height, width, channels\]. Received: sh"),
        ([NOISE, NOISE[:, :4]], {}, r"one image shape \(8, 8, 2\). Received: shape"),
        (np.where(NOISE == NOISE.max(), np.nan, NOISE), {}, "finite. Received: 1 of"),
        (np.ones([3, 8, 8, 1]), {}, "must vary in every decorrelated colour.*1 of 1"),
        (np.ones([3, 8, 8, 3]) * [[[[0]]], [[[1]]], [[[2]]]], {}, "must vary in every"),
        (NOISE[:, :1], {}, "at least 2 x 2 pixels.*Received: 1 x 8. Use white_noise"),
        (NOISE, {"levels": 4}, "`levels` must be at most 3 .*Received: 4. Pass fewer"),
        (NOISE, {"levels": 0}, "`levels` must be a whole number from 1. Received: 0"),
        (NOISE, {"levels": 1.5}, "`levels` must be a whole number from 1. Rec.*: 1.5"),
        (NOISE, {"wavelet": "sym99"}, "`wavelet` must name .*Received: 'sym99'. Pass"),
        (NOISE, {"wavelet": "bior2.2"}, "`wavelet` must name an orthogonal wavelet"),
    ],
)
def test_images_that_fit_no_wavelets_are_an_error(images, options, message):
    with pytest.raises(ValueError, match=message):
        kt.fit_wavelets(images, **options)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: kt.wavelet_noise([8, 8]), "`shape` must be the height, .*Received"),
        (lambda: kt.wavelet_noise([1, 8, 3]), "at least 2 x 2 pixels.*Received: 1 x 8"),
        (
            lambda: kt.wavelet_noise([8, 8, 3], wavelets=record(channels=2)),
            "`wavelets` must be of images of 3 channels.*Received: one of 2. Fit",
        ),
        (
            lambda: kt.wavelet_noise([8, 8, 2], wavelets=record(levels=4)),
            r"`wavelets` must have levels .*Received: 4 levels, 8 x 8.*at_levels\(1\)",
        ),
        (lambda: kt.wavelet_noise([8, 8, 3], stddev=0.0), "`stddev` must be a positiv"),
        (lambda: kt.wavelet_noise([8, 8, 3], stddev="1"), "`stddev` must be a number"),
        (lambda: kt.wavelet_noise([8, 8, 3], field=-1), "`field` must be a positive"),
        (lambda: kt.wavelet_noise([8, 8, 3], field=np.nan), "`field` must be a posit"),
        (lambda: kt.wavelet_noise([8, 8, 3], mean=np.nan), "`mean` must be finite"),
        (lambda: kt.wavelet_noise([8, 8, 3], np.zeros(4)), "`mean` must be a scalar"),
        (lambda: record().at_levels(0), "`levels` must be a whole number from 1"),
    ],
)
def test_a_bad_parameter_is_an_error_that_names_it(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_something_else_than_a_record_is_a_type_error():
    with pytest.raises(
        TypeError, match="`wavelets` must be a Wavelets. Received: .*Pa"
    ):
        kt.wavelet_noise([8, 8, 3], wavelets=np.ones(3))


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("amplitude", np.ones([2, 2, 2]), r"shape \[levels, 3, channels\]. Received"),
        ("amplitude", np.zeros([2, 3, 2]), "positive and finite. Received: smallest"),
        (
            "kurtosis",
            np.full([2, 3, 2], 2.9),
            "3 or more. Received: smallest value 2.9",
        ),
        ("kurtosis", np.full([1, 3, 2], 4.0), r"shape \(2, 3, 2\).*Received: shape"),
        ("mean", np.zeros(3), r"`mean` must have shape \(2,\).*Received: shape \(3,\)"),
        ("mean", [0.0, np.nan], "`mean` must be finite. Received"),
        ("approximation_amplitude", [1.0, np.inf], "positive and finite. Received"),
        ("colours", [[1, 1], [0, 1]], "`colours` must be orthonormal columns"),
        ("wavelet", "sym99", "`wavelet` must name an orthogonal wavelet"),
    ],
)
def test_what_is_no_record_of_wavelets_is_an_error(name, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(record(), **{name: value})
