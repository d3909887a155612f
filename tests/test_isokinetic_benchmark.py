"""The microcanonical kernel of `benchmarks/sampling`, by the laws of our own."""

import numpy as np
import pytest
import tensorflow as tf
from benchmark_folders import modules_of

from keras_tilt.sampling.kernels import Trajectory, trajectory
from keras_tilt.sampling.response import value_and_gradient

SLOPE = np.array([1.2, -0.6, 0.4, 0.0, 0.0])


@pytest.fixture(scope="module")
def found():
    """What the module defines."""
    for modules in modules_of("sampling", "isokinetic"):
        yield modules["isokinetic"]


def wavy(noise):
    return (
        tf.sin(tf.linalg.matvec(noise, SLOPE)) + tf.reduce_mean(noise**3, axis=-1) / 9
    )


def end_of(found, place):
    """(noise, momentum) in one -> the same at the end, and the kicks."""
    noise, momentum = tf.split(place, 2, axis=-1)
    f, gradient = value_and_gradient(wavy, noise)
    start = Trajectory(noise, momentum, f, gradient, tf.zeros_like(f))
    end = found["isokinetic"](wavy, start, tf.constant(0.4, tf.float64), 3)
    return tf.concat([end.noise, end.momentum], axis=-1), end.kicks


def test_the_kicks_are_minus_the_logarithm_of_the_volume(found):
    place = tf.constant(np.random.default_rng(0).standard_normal([1, 10]))
    with tf.GradientTape() as tape:
        tape.watch(place)
        end, kicks = end_of(found, place)
    jacobian = tf.reshape(tape.jacobian(end, place), [10, 10])
    assert np.linalg.slogdet(jacobian)[1] == pytest.approx(-kicks[0].numpy(), abs=1e-9)
    assert abs(kicks[0]) > 0.1


def test_a_trajectory_run_backwards_returns_to_its_start(found):
    signs = np.repeat([1.0, -1.0], 5)
    place = np.random.default_rng(1).standard_normal([4, 10])
    end, _ = end_of(found, place)
    back, _ = end_of(found, signs * end)
    np.testing.assert_allclose(signs * back, place, atol=1e-12)
    assert np.abs(end - place).max() > 0.1


def test_in_many_dimensions_the_trajectory_is_hamilton_s(found):
    """|momentum|^2 is d to within sqrt(2 d), by which the kicks differ."""
    d = 10_000

    def f(noise):
        return np.sqrt(d) * tf.sin(tf.reduce_mean(noise, axis=-1) + 1)

    noise, momentum = tf.constant(np.random.default_rng(3).standard_normal([2, 4, d]))
    value, gradient = value_and_gradient(f, noise)
    start = Trajectory(noise, momentum, value, gradient, tf.zeros_like(value))
    step = tf.constant(0.4, tf.float64)
    ends = [follow(f, start, step, 3) for follow in (trajectory, found["isokinetic"])]
    angle, share = 3 * 0.4, 5 * np.sqrt(2 / d)
    turned = [
        end.momentum - np.cos(angle) * momentum + np.sin(angle) * noise for end in ends
    ]
    size = np.linalg.norm(turned[0], axis=-1)
    assert np.all(np.linalg.norm(turned[1] - turned[0], axis=-1) < share * size)
    # A kick of this size along a direction in which the momentum is N(0, 1).
    np.testing.assert_allclose(ends[1].kicks, ends[0].kicks, atol=share * size.max())
    assert size.min() > 0.1


@pytest.mark.parametrize("volume", [1.0, 0.0], ids=["with volume", "without"])
def test_a_linear_tilt_stays_as_it_is_if_the_volume_counts(found, volume):
    def weighted(at, time, kick=found["kick"]):
        end = kick(at, time)
        return end._replace(kicks=at.kicks + volume * (end.kicks - at.kicks))

    def f(noise):
        return tf.linalg.matvec(noise, SLOPE)

    chains = 20_000
    noise = np.random.default_rng(2).standard_normal([chains, 5])
    noise = tf.constant(SLOPE + noise)
    kernel = found["IsokineticMonteCarlo"](f, tf.constant(0.9, tf.float64), 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(found["isokinetic"].__globals__, "kick", weighted)
        results = kernel.bootstrap_results(noise)
        advance = tf.function(kernel.one_step, autograph=False)
        for i in range(4):
            noise, results = advance(noise, results, seed=tf.constant([i, 5]))
    errors = np.sqrt(chains) * np.mean(noise - SLOPE, axis=0)
    assert 0.3 < np.mean(results.is_accepted)
    assert (np.abs(errors).max() < 5) == volume, errors
