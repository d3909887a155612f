"""A tilt is f + log q, in image and in noise coordinates."""

import dataclasses

import keras
import numpy as np
import pytest
import targets
import tensorflow as tf
import tensorflow_probability as tfp

from keras_tilt.reference.distributions import box, white_noise
from keras_tilt.reference.generators import latent
from keras_tilt.tilt import Tilt

tfb, tfd = tfp.bijectors, tfp.distributions
SHAPE = targets.SHAPE
every_target = pytest.mark.parametrize(
    "target", targets.all_targets(), ids=lambda target: target.name
)


def tilt_of(target):
    return Tilt(target.unit, target.reference())


def total(images):
    return tf.reduce_sum(images, axis=tf.range(1, tf.rank(images)))


@every_target
def test_the_density_is_exp_f_times_q(target):
    tilt = tilt_of(target)
    images = target.draw(20, seed=1)
    expected = target.unit(images) + target.reference().log_prob(images)
    np.testing.assert_allclose(tilt.unnormalized_log_prob(images), expected, rtol=1e-6)
    np.testing.assert_allclose(tilt.energy(images), -expected, rtol=1e-6)
    np.testing.assert_allclose(tilt.response(images), target.unit(images))


@every_target
def test_coordinates_change_the_log_density_by_the_jacobian_of_q_alone(target):
    tilt = tilt_of(target)
    noise = tilt.base.sample(20, seed=[0, 1])
    images = tilt.to_images(noise)
    jacobian = tilt.reference.bijector.forward_log_det_jacobian(noise, event_ndims=3)
    np.testing.assert_allclose(
        tilt.noise_log_prob(noise),
        tilt.unnormalized_log_prob(images) + jacobian,
        rtol=1e-4,
    )


def test_the_scale_multiplies_f_and_leaves_q_alone():
    target = targets.relu()
    once, thrice = (Tilt(target.unit, target.reference(), scale=s) for s in (1.0, 3.0))
    images = target.draw(20, seed=1)
    noise = once.to_noise(images)
    twice_f = 2 * target.unit(images)
    for method, place, sign in (
        ("unnormalized_log_prob", images, 1),
        ("energy", images, -1),
        ("noise_log_prob", noise, 1),
    ):
        difference = getattr(thrice, method)(place) - getattr(once, method)(place)
        np.testing.assert_allclose(difference, sign * twice_f, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(thrice.response(images), once.response(images))
    np.testing.assert_allclose(
        thrice.signal_to_noise(images), 3 * once.signal_to_noise(images), rtol=1e-6
    )


@pytest.mark.parametrize("scale", [0.0, -1.0, np.inf, np.nan, "2", None])
def test_a_scale_that_is_no_positive_number_is_an_error(scale):
    with pytest.raises(ValueError, match="`scale` must be a positive number. Received"):
        Tilt(total, white_noise(SHAPE), scale)


@every_target
def test_to_noise_inverts_to_images(target):
    tilt = tilt_of(target)
    images = target.draw(20, seed=2)
    np.testing.assert_allclose(
        tilt.to_images(tilt.to_noise(images)), images, rtol=1e-5, atol=1e-6
    )


def test_a_reference_that_is_no_transport_is_its_own_noise():
    reference = tfd.Independent(tfd.Gamma(tf.fill(SHAPE, 2.0), 1.0), 3)
    tilt = Tilt(total, reference)
    images = reference.sample(3, seed=[0, 1])
    assert tilt.base is reference
    assert tilt.to_images(images) is images and tilt.to_noise(images) is images
    np.testing.assert_array_equal(
        tilt.noise_log_prob(images), tilt.unnormalized_log_prob(images)
    )


def test_a_transport_by_a_plain_bijector_has_noise_coordinates():
    # TFP then returns a class that is not a tfd.TransformedDistribution.
    class Double(tfb.Bijector):
        def __init__(self):
            super().__init__(forward_min_event_ndims=0, parameters={})

        def _forward(self, z):
            return 2.0 * z

    base = tfd.Sample(tfd.Normal(0.0, 1.0), sample_shape=[3])
    tilt = Tilt(total, tfd.TransformedDistribution(base, Double()))
    np.testing.assert_array_equal(tilt.to_images(tf.ones([1, 3])), [[2.0, 2.0, 2.0]])
    assert tilt.base is base
    assert tilt.event_shape == (3,)


def test_signal_to_noise_of_a_linear_unit_is_the_stddev_times_the_weight():
    target = targets.linear(stddev=2.0)
    weights = target.mean / 2.0**2
    exact = 2.0 * np.sqrt(np.mean(weights**2))
    snr = tilt_of(target).signal_to_noise(target.draw(4, seed=3))
    np.testing.assert_allclose(snr, np.full(4, exact), rtol=1e-6)


def test_signal_to_noise_may_be_asked_for_at_a_noise():
    """The only way to that of a generator's images."""
    tilt = tilt_of(targets.box_linear())
    images = targets.box_linear().draw(4, seed=3)
    np.testing.assert_allclose(
        tilt.signal_to_noise(noise=tilt.to_noise(images)),
        tilt.signal_to_noise(images),
        rtol=1e-4,
    )
    matrix = tf.constant([[2.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, -1.0]])
    generated = Tilt(total, latent(lambda z: z @ matrix, [2]))
    # df/dz = (4, 0)
    np.testing.assert_allclose(
        generated.signal_to_noise(noise=tf.zeros([3, 2])), np.sqrt(8.0), rtol=1e-6
    )
    for arguments in ({}, {"images": images, "noise": images}):
        with pytest.raises(ValueError, match="either images or their noise"):
            tilt.signal_to_noise(**arguments)


@pytest.mark.parametrize(
    "reference",
    [
        lambda: tfd.Independent(tfd.Bernoulli(tf.zeros(SHAPE)), 3),
        lambda: tfd.JointDistributionSequential([tfd.Normal(0.0, 1.0)]),
    ],
    ids=["whole numbers", "joint"],
)
def test_a_reference_that_is_no_density_of_images_is_an_error(reference):
    with pytest.raises(TypeError, match="one floating-point array"):
        Tilt(total, reference())


def test_a_model_in_place_of_a_unit_is_told_to_be_made_one():
    model = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten()])
    with pytest.raises(ValueError, match=r"Pass kt.unit\(network, ...\)"):
        Tilt(model, white_noise(SHAPE))


def test_signal_to_noise_in_a_box_is_the_slope_of_the_transport_and_zero_at_the_walls():
    tilt = Tilt(lambda images: 3.0 * total(images), box(SHAPE, 0.0, 2.0))
    images = tf.stack([tf.ones(SHAPE), tf.zeros(SHAPE), tf.fill(SHAPE, 2.0)])
    middle = 3.0 * 2.0 / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(tilt.signal_to_noise(images), [middle, 0, 0], rtol=1e-6)


def test_signal_to_noise_at_images_that_came_from_noise_has_a_gradient():
    # TFP's bijectors remember their last results; see Tilt.to_images.
    tilt = tilt_of(targets.relu())
    images = tilt.to_images(tilt.base.sample(3, seed=[0, 4]))
    copies = tf.constant(images.numpy())
    np.testing.assert_allclose(
        tilt.signal_to_noise(images), tilt.signal_to_noise(copies), rtol=1e-5
    )


def test_float16_units_are_added_to_q_in_float32():
    tilt = Tilt(lambda images: tf.cast(total(images), tf.float16), white_noise(SHAPE))
    assert tilt.unnormalized_log_prob(tf.zeros([2, *SHAPE])).dtype == tf.float32


def test_a_tilt_is_frozen():
    tilt = tilt_of(targets.constant())
    with pytest.raises(dataclasses.FrozenInstanceError):
        tilt.unit = total


def test_units_and_references_of_other_kinds_are_type_errors():
    with pytest.raises(TypeError, match="`unit` must be callable.*Received: 'conv5'"):
        Tilt("conv5", white_noise(SHAPE))
    with pytest.raises(TypeError, match="`reference` must be .* Received: None"):
        Tilt(total, None)


def test_a_batch_of_references_is_an_error():
    with pytest.raises(ValueError, match=r"empty batch shape. Received: .*\(3,\)"):
        Tilt(total, tfd.Normal(tf.zeros([3]), 1.0))


def test_shapes_that_disagree_are_an_error_that_says_both():
    class Unit:
        input_shape = (28, 28, 1)

        def __call__(self, images):
            return total(images)

    with pytest.raises(ValueError, match=r"\(28, 28, 1\).*\(3, 3, 1\)"):
        Tilt(Unit(), white_noise(SHAPE))
    assert Tilt(Unit(), white_noise([28, 28, 1])).event_shape == (28, 28, 1)


@pytest.mark.parametrize("axes", [[1, 2], [0, 1, 2, 3], [3]])
def test_a_unit_with_more_or_less_than_one_number_per_image_is_an_error(axes):
    tilt = Tilt(lambda images: tf.reduce_sum(images, axes), white_noise(SHAPE))
    with pytest.raises(ValueError, match="one number per image"):
        tilt.unnormalized_log_prob(tf.zeros([2, *SHAPE]))
