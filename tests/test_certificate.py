"""A certificate is given to ends drawn from the density, and to no others."""

import dataclasses
import math

import numpy as np
import pytest
import targets

import keras_tilt as kt
from keras_tilt.serving import certificate

ENOUGH = 100  # iterations at the full tilt


@pytest.fixture(scope="module")
def tilt():
    target = targets.linear()
    return kt.Tilt(target.unit, target.reference())


@pytest.fixture(scope="module")
def long_run(tilt):
    """Long chains that have converged."""
    samples = kt.sample(tilt, 16, 400, 60, seed=7, progress=False)
    assert samples.diagnostics.converged
    return samples


def ends_of(tilt, images):
    """The scalars of ends that are given as images."""
    noise = tilt.to_noise(images)
    return certificate.scalars_of(tilt, noise, tilt.response(images))


def judged(long_run, ends, num_iterations=ENOUGH):
    accepted = np.full(len(ends["f"]), 0.8)
    return certificate.certificate_of("f", 1, long_run, ends, accepted, num_iterations)


def test_exact_ends_are_certified(tilt, long_run):
    """Differences are those of standard normal numbers: over 20 sets few are large."""
    target, differences = targets.linear(), []
    for seed in range(20):
        found = judged(long_run, ends_of(tilt, target.draw(64, seed)))
        assert found.converged and found.verdict == "converged."
        differences.append(found.largest_difference)
    assert 1.0 < np.median(differences) < found.limit


def test_ends_of_another_density_are_not(tilt, long_run):
    other = targets.linear(scale=0.2)  # its mean is a fifth nearer to q
    found = judged(long_run, ends_of(tilt, other.draw(640, seed=1)))
    assert not found.converged
    assert f"the mean {found.differing} of the ends is" in found.verdict
    assert found.largest_difference > found.limit


def test_the_ends_of_short_chains_are_draws_of_q_and_are_not(tilt, long_run):
    draws = tilt.reference.sample(64, seed=[0, 1])
    assert not judged(long_run, ends_of(tilt, draws)).converged


def test_ends_that_are_no_numbers_are_not(tilt, long_run):
    ends = ends_of(tilt, targets.linear().draw(64, seed=2))
    ends["f"] = ends["f"].copy()
    ends["f"][3] = np.nan
    found = judged(long_run, ends)
    assert not found.converged and found.differing == "f"


def test_chains_that_forget_too_little_are_not(tilt, long_run):
    time = certificate.autocorrelation_time(long_run)
    enough = math.ceil(certificate.LENGTHS * time)
    ends = ends_of(tilt, targets.linear().draw(64, seed=3))
    assert judged(long_run, ends, enough).converged
    found = judged(long_run, ends, enough - 1)
    assert not found.converged and "autocorrelation times (< 10)" in found.verdict


def test_long_chains_that_have_not_converged_certify_nothing(tilt):
    short = kt.sample(tilt, 4, 10, 10, seed=7, progress=False)
    found = judged(short, ends_of(tilt, targets.linear().draw(64, seed=4)), 10**6)
    assert not found.converged and "the long chains have not" in found.verdict


def test_the_certificate_says_what_the_long_chains_say(tilt, long_run):
    found = judged(long_run, ends_of(tilt, targets.linear().draw(64, seed=5)))
    diagnostics = long_run.diagnostics
    assert found.r_hat == diagnostics.r_hat and found.ess == diagnostics.ess
    assert found.worst_r_hat == diagnostics.worst_r_hat
    assert found.num_ends == 64 and found.served_accept_rate == pytest.approx(0.8)
    assert found.unit == "f" and found.temperature == 1.0
    values = dataclasses.asdict(found).values()
    assert all(isinstance(value, bool | int | float | str) for value in values)


def test_the_autocorrelation_time_is_that_of_the_slowest_scalar(long_run):
    names = ["f", *long_run.functionals]
    slowest = min(long_run.diagnostics.scalars[name].ess for name in names)
    assert certificate.autocorrelation_time(long_run) == max(1, 16 * 400 / slowest)


@pytest.mark.parametrize("time", [1.0, 2.3, 7.0])
def test_as_many_iterations_are_planned_as_are_needed_and_no_more(time):
    found = certificate.needed_iterations(time, most=10**4)

    def full(count):
        rise = [kt.sampling.adaptation.annealed_scale(i, count) for i in range(count)]
        return sum(share == 1 for share in rise)

    assert full(found) >= certificate.LENGTHS * time > full(found - 1)
    assert certificate.needed_iterations(time, most=15) == 15
    assert certificate.needed_iterations(math.inf, most=200) == 200
