"""A certificate is given to ends drawn from the density, and to no others."""

import dataclasses
import math
import types

import numpy as np
import pytest
import targets

import keras_tilt as kt
from keras_tilt.serving import certificate, certify

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
    """Differences are those of standard normal numbers: over ten sets few are large."""
    target, differences = targets.linear(), []
    for seed in range(10):
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


# The sampler that is served


def run_of(step_size, ess):
    """What is read of long chains of 4 x 100 draws: steps, and the ESS of f."""
    scalars = {"f": types.SimpleNamespace(ess=ess)}
    return types.SimpleNamespace(
        f=np.zeros([100, 4]),
        functionals={},
        diagnostics=types.SimpleNamespace(scalars=scalars),
        step_size=step_size,
        num_leapfrog_steps=4,
    )


def test_the_schedule_has_the_coldest_steps_and_time_for_the_slowest_unit():
    runs = {
        2.0: [run_of(0.4, ess=200), run_of(0.5, ess=100)],
        0.5: [run_of(0.2, ess=400), run_of(0.3, ess=200)],
    }
    schedule = certify.schedule_of(runs, most_iterations=200, seed=7)
    np.testing.assert_allclose(schedule.step_size[:, -1], [0.2, 0.3])
    time = 400 / 100  # of the second unit at the higher temperature
    assert schedule.num_iterations == certificate.needed_iterations(time, most=200)
    shorter = certify.schedule_of(runs, most_iterations=12, seed=7)
    assert shorter.num_iterations == 12


def test_a_unit_has_converged_if_it_does_at_every_temperature(tilt, long_run):
    good = judged(long_run, ends_of(tilt, targets.linear().draw(64, seed=6)))
    named = [dataclasses.replace(tilt, unit=Named(tilt.unit, n)) for n in "ab"]
    certificates = [
        dataclasses.replace(good, unit=unit, temperature=t, converged=converged)
        for t, unit, converged in [
            (1.0, "a", True),
            (1.0, "b", True),
            (2.0, "a", False),
            (2.0, "b", True),
        ]
    ]
    sampler = certify.CertifiedSampler(named, None, 0.0, 1.0, [1.0, 2.0], certificates)
    assert sampler.names == ["a", "b"] and sampler.converged == [False, True]
    assert sampler.refused == [certificates[2]]


@dataclasses.dataclass(frozen=True)
class Named:
    """A unit with a name."""

    unit: object
    name: str

    def __call__(self, images):
        return self.unit(images)


def test_at_a_temperature_f_is_divided_by_it(tilt):
    images = targets.linear().draw(3, seed=8)
    (cooled,) = certify.at_temperature([tilt], 0.5)
    log_q = tilt.reference.log_prob(images)
    np.testing.assert_allclose(
        cooled.unnormalized_log_prob(images) - log_q,
        2 * (tilt.unnormalized_log_prob(images) - log_q),
        rtol=1e-4,
    )
