"""The warm-up finds the step size; no mean trajectory is longer than pi / 2."""

import numpy as np
import pytest
from scipy import stats

from keras_tilt.sampling.adaptation import (
    QUARTER_TURN,
    StepSize,
    annealed_scale,
    jittered,
    leapfrog_steps,
)

TARGET = 0.8


def adapted(accept_of, num_burnin_steps, rows=1, first=0.5):
    """The step frozen when step e is accepted with probability accept_of(e)."""
    step = StepSize.first(first, [rows])
    for iteration in range(num_burnin_steps):
        step = step.learn(accept_of(step.current), TARGET, iteration, num_burnin_steps)
    return step


def noisy(accept_of, seed=0):
    """Acceptance as a handful of chains shows it."""
    random = np.random.default_rng(seed)
    return lambda e: random.binomial(16, accept_of(e)) / 16


def exponential(scale):
    return lambda e: np.exp(-e / scale)


@pytest.mark.parametrize("scale", [0.01, 0.3, 50.0])
@pytest.mark.parametrize("num_burnin_steps", [100, 400])
def test_the_frozen_step_is_the_one_accepted_as_often_as_wanted(
    scale, num_burnin_steps
):
    step = adapted(noisy(exponential(scale)), num_burnin_steps)
    accepted = exponential(scale)(step.settled)
    # A reading has a standard deviation of .1, and the mean is over 30 or more.
    assert accepted == pytest.approx(TARGET, abs=0.07)


@pytest.mark.parametrize("num", [100, 300])
@pytest.mark.parametrize("guess", [1 / 8, 1 / 4, 1, 8])
def test_a_step_that_is_learned_late_is_found_from_any_guess(guess, num):
    """In the last three tenths of a warm-up; a step too short grows by a fifth."""
    begun, steps = round(0.7 * num), []
    for seed in range(40):
        accept_of = noisy(exponential(0.3), seed)
        step = StepSize.first(guess * 0.067, [1])
        for i in range(begun, num):
            step = step.learn(accept_of(step.current), TARGET, i, num, begun=begun)
        assert step.num_settled == (num - begun) / 2
        steps.append(step.settled[0])
    accepted = exponential(0.3)(np.array(steps))
    # Over runs a standard deviation of .02: six standard errors of their mean.
    assert accepted.mean() == pytest.approx(TARGET, abs=0.02)
    assert accepted.std() < 0.07


def test_rows_that_are_learned_late_are_adapted_apart():
    scales = np.array([0.02, 0.2, 2.0])
    step = StepSize.first(0.05, [3])
    for i in range(140, 200):
        step = step.learn(np.exp(-step.current / scales), TARGET, i, 200, begun=140)
    np.testing.assert_allclose(np.exp(-step.settled / scales), TARGET, atol=0.02)


def test_the_frozen_step_is_the_geometric_mean_of_the_settled_ones():
    """Those of the second half of the iterations at the full tilt: 70 to 99 of 100."""
    step, used = StepSize.first(0.5, [1]), []
    accept_of = noisy(exponential(0.3))
    for i in range(100):
        step = step.learn(accept_of(step.current), TARGET, i, 100)
        used.append(step.current[0])
    assert step.num_settled == 30 and np.std(used[70:]) > 1e-3
    assert step.settled[0] == pytest.approx(stats.gmean(used[70:]), rel=1e-9)


def test_noise_of_few_chains_does_not_bias_the_step():
    steps = [
        adapted(noisy(exponential(0.3), seed), 100).settled[0] for seed in range(200)
    ]
    accepted = exponential(0.3)(np.array(steps))
    error = accepted.std(ddof=1) / np.sqrt(200)
    assert error < 0.003
    assert abs(accepted.mean() - TARGET) < 0.01


def test_rows_are_adapted_apart():
    scales = np.array([0.02, 0.2, 2.0])
    step = adapted(lambda e: np.exp(-e / scales), 200, rows=3)
    np.testing.assert_allclose(step.settled, -scales * np.log(TARGET), rtol=0.02)


def test_the_step_follows_a_tilt_that_rises():
    """What is frozen is the step for the full tilt, not a mean over weaker ones."""
    num = 100
    step = StepSize.first(0.5, [1])
    for i in range(num):
        scale = 0.5 / annealed_scale(i, num)
        step = step.learn(np.exp(-step.current / scale), TARGET, i, num)
    # The first weaker tilts take steps up to 25 times as long.
    assert np.exp(-step.settled[0] / 0.5) == pytest.approx(TARGET, abs=0.03)


def test_what_a_weak_tilt_would_allow_is_forgotten_at_once():
    """While the tilt is weak any step is accepted, and none is longer than allowed."""
    num, longest, scale = 100, 0.1, 0.2

    def frozen(limit):
        step = StepSize.first(0.05, [1])
        for i in range(num):
            used = np.minimum(step.current, longest)
            stiff = annealed_scale(i, num) ** 8
            accepted = np.exp(-stiff * used / scale)
            step = step.learn(accepted, TARGET, i, num, limit)
        return np.exp(-np.minimum(step.settled[0], longest) / scale)

    assert frozen(limit=longest) == pytest.approx(TARGET, abs=0.03)
    assert frozen(limit=np.inf) < TARGET - 0.05


@pytest.mark.parametrize("num_burnin_steps", [1, 2, 3])
def test_a_warm_up_of_few_iterations_freezes_a_finite_step(num_burnin_steps):
    step = adapted(exponential(0.1), num_burnin_steps)
    assert 0.05 < step.settled[0] < 0.5


@pytest.mark.parametrize("num", [1, 2, 7, 100])
def test_the_tilt_rises_to_one_and_stays(num):
    scales = [annealed_scale(i, num) for i in range(num)]
    assert np.all(np.diff(scales) >= 0) and 0 < scales[0] <= scales[-1] <= 1
    assert num < 2 or scales[-1] == 1
    assert num < 10 or np.mean(np.equal(scales, 1.0)) == pytest.approx(0.6, abs=0.1)


@pytest.mark.parametrize("step, steps", [(2.0, 1), (QUARTER_TURN, 1), (0.5, 4)])
def test_the_smallest_step_says_how_many_make_a_trajectory(step, steps):
    assert leapfrog_steps(np.array([step, 9.0]), QUARTER_TURN, most=64) == steps
    assert steps * step >= QUARTER_TURN - 1e-12 or steps == 1


def test_there_are_never_more_steps_than_allowed():
    assert leapfrog_steps(np.array([1e-4]), QUARTER_TURN, most=64) == 64


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_jittered_counts_are_uniform_around_their_mean(steps):
    counts = np.array([jittered(steps, (5, -3), i) for i in range(4_000)])
    lowest, highest = steps - steps // 2, steps + steps // 2
    values, found = np.unique(counts, return_counts=True)
    np.testing.assert_array_equal(values, np.arange(lowest, highest + 1))
    share = 1 / len(values)
    error = np.sqrt(share * (1 - share) / 4_000)
    np.testing.assert_allclose(found / 4_000, share, atol=4 * error + 1e-12)


def test_jitter_depends_on_seed_and_iteration_alone():
    def counts(seed):
        return [jittered(50, seed, i) for i in range(10)]

    assert counts((1, 2)) == counts((1, 2)) != counts((2, 1))
    assert jittered(50, (1, 2), 7) == counts((1, 2))[7]
