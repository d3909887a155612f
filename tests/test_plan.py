"""A plan says how long, how strong and how fine an iteration is."""

import numpy as np
import pytest

from keras_tilt.sampling.adaptation import QUARTER_TURN, StepSize
from keras_tilt.sampling.schedule import Plan

SCALE = np.array([2.0, 3.0])


def plan_of(**changes):
    arguments = dict(
        num_chains=4,
        num_results=10,
        num_burnin_steps=20,
        seed=(1, 2),
        kernel="split",
        num_leapfrog_steps=None,
        max_leapfrog_steps=64,
        step_size=None,
        target_accept_prob=0.8,
        mass=1.0,
        ladder=None,
        num_superchains=None,
        thin=1,
        is_normal=True,
        is_annealed=True,
    )
    return Plan(**arguments | changes)


def learned(*step_sizes):
    """What a warm-up that has settled on these step sizes has learned."""
    log_step = np.log(step_sizes)
    return StepSize(
        log_step, log_step, np.array(5), *np.zeros([2, *np.shape(log_step)])
    )


@pytest.mark.parametrize("mass", [1.0, 0.25, np.array([4.0, 9.0])])
@pytest.mark.parametrize("first", [0.03, 0.2, 0.523, 0.53, 1.0, 1.5, 5.0, 400.0])
def test_the_mean_trajectory_is_pi_over_2_and_never_longer(first, mass):
    plan = plan_of(mass=mass)
    turn = QUARTER_TURN * np.sqrt(np.min(mass))
    step = learned(first, 2 * first)
    sizes = plan.frozen_step_sizes(step)
    length = sizes * plan.mean_steps(sizes)
    assert np.all(length <= turn * (1 + 1e-12))
    assert np.all(sizes <= np.exp(step.log_step) * (1 + 1e-12))
    if plan.mean_steps(sizes) < plan.max_leapfrog_steps:
        assert length.max() == pytest.approx(turn)


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_a_given_number_of_steps_is_kept_and_shortens_the_step(steps):
    plan = plan_of(num_leapfrog_steps=steps)
    assert plan.longest_step == QUARTER_TURN / steps
    for iteration in range(30):
        parameters = plan.kernel_parameters(iteration, learned(0.1, 9.0), SCALE)
        assert parameters.num_leapfrog_steps == steps
        np.testing.assert_allclose(parameters.step_size, [0.1, QUARTER_TURN / steps])


def test_the_tilt_rises_in_the_warm_up_and_all_is_frozen_after_it():
    plan = plan_of(num_leapfrog_steps=2)
    warm = learned(0.1, 0.2)._replace(log_step=np.log([0.3, 0.4]))
    scales = [plan.kernel_parameters(i, warm, SCALE).scale[0] for i in range(30)]
    assert scales[0] < 0.3 and np.all(np.diff(scales) >= 0)
    np.testing.assert_array_equal(scales[10:], SCALE[0])
    np.testing.assert_allclose(
        plan.kernel_parameters(19, warm, SCALE).step_size, [0.3, 0.4]
    )
    np.testing.assert_allclose(
        plan.kernel_parameters(20, warm, SCALE).step_size, [0.1, 0.2]
    )
    given = plan_of(num_leapfrog_steps=2, is_annealed=False)
    np.testing.assert_array_equal(given.kernel_parameters(0, warm, SCALE).scale, SCALE)


def test_the_number_of_steps_varies_by_iteration_and_seed_around_its_mean():
    plan = plan_of(max_leapfrog_steps=10)
    step = learned(0.01, 0.02)

    def counts(plan):
        return [
            plan.kernel_parameters(i, step, SCALE).num_leapfrog_steps
            for i in range(400)
        ]

    assert counts(plan) == counts(plan) != counts(plan_of(seed=(1, 3)))
    assert set(counts(plan)) == set(range(5, 16))
    # Uniform on 11 numbers: standard deviation sqrt(10), standard error 0.16.
    assert abs(np.mean(counts(plan)) - 10) < 5 * np.sqrt(10 / 400)


@pytest.mark.parametrize("kernel, steps", [("mala", 1), ("hmc", 10)])
def test_noise_that_does_not_turn_has_no_longest_trajectory(kernel, steps):
    plan = plan_of(kernel=kernel, is_normal=False)
    sizes = plan.frozen_step_sizes(learned(50.0, 60.0))
    np.testing.assert_allclose(sizes, [50.0, 60.0])
    assert plan.mean_steps(sizes) == steps
