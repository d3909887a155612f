"""The tilt found moves the noise by the share of its norm that was asked for."""

import math

import numpy as np
import pytest
import targets
import tensorflow as tf
import tensorflow_probability as tfp

from keras_tilt.reference.distributions import squash, white_noise
from keras_tilt.sampling import tilt_scale
from keras_tilt.sampling.tilt_scale import scale_for_signal
from keras_tilt.tilt import Tilt

SHAPE = (20, 20, 1)


def fitted(tilt, *args, **kwargs):
    return scale_for_signal(tilt, *args, **{"seed": 1, "progress": False} | kwargs)


@pytest.mark.parametrize("signal", [0.2, 0.5])
def test_a_linear_unit_has_the_scale_of_its_closed_form(signal):
    """scale |g| = signal sqrt(dimensions)."""
    target = targets.linear(SHAPE, bias=3.0)
    slope = np.linalg.norm(target.mean / np.sqrt(target.variance))
    exact = signal * math.sqrt(400) / slope
    found = fitted(Tilt(target.unit, target.reference()), signal).scale
    assert exact / 1.2 < found < exact * 1.7


def test_few_chains_do_not_make_the_scale_a_matter_of_luck():
    """With this seed f of the first two draws differs by a hundredth of its spread."""
    slope = np.random.default_rng(0).standard_normal(SHAPE)
    unit = lambda images: tf.reduce_sum(slope * images, axis=[1, 2, 3])  # noqa: E731
    exact = 0.2 * 20 / np.linalg.norm(slope)
    found = fitted(Tilt(unit, white_noise(SHAPE)), 0.2, num_chains=2, seed=249).scale
    assert exact / 1.3 < found < exact * 1.9


def scaled(unit, factor):
    return lambda images: factor * unit(images)


def test_the_unit_of_f_and_the_scale_of_the_tilt_do_not_matter():
    target = targets.linear(SHAPE)
    reference = target.reference()
    one = fitted(Tilt(target.unit, reference), 0.3)
    for factor in (0.01, 100.0):
        other = fitted(Tilt(scaled(target.unit, factor), reference, 5.0), 0.3)
        assert other.scale * factor == pytest.approx(one.scale, rel=0.4)
    assert one.unit is target.unit and one.reference is reference


def test_a_bounded_reference_has_a_scale_as_well():
    target = targets.linear(SHAPE)
    tilt = fitted(Tilt(target.unit, squash(target.reference(), -2.0, 2.0)), 0.3)
    assert 0 < tilt.scale < np.inf


def test_progress_shows_the_scale(capsys):
    target = targets.linear(SHAPE)
    fitted(Tilt(target.unit, target.reference()), 0.3, progress=True)
    assert "scale=" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change, message",
    [
        ({"signal": 0.0}, "`signal` must lie between 0 and 1"),
        ({"signal": 1.0}, "`signal` must lie between 0 and 1"),
        ({"num_chains": 0}, "`num_chains` must be a whole number from 1"),
        ({"step_size": 2.0}, "`step_size` must lie between 0 and pi / 2"),
    ],
)
def test_what_makes_no_sense_is_an_error(change, message):
    target = targets.linear(SHAPE)
    with pytest.raises(ValueError, match=message):
        fitted(Tilt(target.unit, target.reference()), **change)


def test_units_and_references_without_a_scale_are_errors():
    target = targets.linear(SHAPE)
    constant = Tilt(lambda x: 0.0 * x[:, 0, 0, 0] + 1.0, target.reference())
    with pytest.raises(ValueError, match="must respond to the reference"):
        fitted(constant)
    tfd = tfp.distributions
    gamma = tfd.Independent(tfd.Gamma(tf.fill([3], 4.0), 2.0), 1)
    with pytest.raises(ValueError, match=r"must be N\(0, I\)"):
        fitted(Tilt(lambda x: x[:, 0], gamma))
    for wrong in ("tilt", [constant, constant]):
        with pytest.raises(TypeError, match="`tilt` must be a Tilt"):
            fitted(wrong)


def test_an_f_that_does_not_rise_as_far_is_an_error(monkeypatch):
    monkeypatch.setattr(tilt_scale, "_ENOUGH", 10.0)  # more than chains can move
    target = targets.linear(SHAPE)
    with pytest.raises(ValueError, match="f must rise far enough"):
        fitted(Tilt(target.unit, target.reference()))
