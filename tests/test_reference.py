"""A reference is the law of x = T(z), and its density is the stated one."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

from keras_tilt.reference import box, white_noise

SHAPE = (2, 3, 1)
REFERENCES = {
    "white noise": lambda: white_noise(SHAPE, mean=0.5, stddev=3.0),
    "white noise by pixel": lambda: white_noise(
        SHAPE, mean=np.arange(6.0).reshape(SHAPE), stddev=[[0.5], [1.0], [2.0]]
    ),
    "box": lambda: box(SHAPE, low=-1.0, high=255.0),
    "box by pixel": lambda: box(SHAPE, low=-np.ones([2, 1, 1]), high=[[1.0]]),
}
every_reference = pytest.mark.parametrize("name", REFERENCES)


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
    )


@every_reference
def test_the_inverse_transport_returns_the_noise(name):
    reference = REFERENCES[name]()
    noise = reference.distribution.sample(100, seed=[0, 3])
    images = tf.constant(reference.bijector.forward(noise).numpy())
    # One ulp of x moves z by at most 1e-7 (high - low) / T'(z): 2e-3 at |z| = 4.5.
    np.testing.assert_allclose(reference.bijector.inverse(images), noise, atol=2e-3)


@every_reference
def test_log_det_jacobian_is_the_derivative_of_the_transport(name):
    bijector = REFERENCES[name]().bijector
    noise = tf.random.stateless_normal([50, *SHAPE], seed=[0, 4])
    with tf.GradientTape() as tape:
        tape.watch(noise)
        images = bijector.forward(noise)
    slope = tape.gradient(images, noise)
    np.testing.assert_allclose(
        tf.reduce_sum(tf.math.log(slope), axis=[1, 2, 3]),
        bijector.forward_log_det_jacobian(noise, event_ndims=3),
        rtol=1e-4,
        atol=1e-4,
    )


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


@pytest.mark.parametrize("make", [white_noise, box])
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
