"""The verdict, in trials: exact draws pass, stuck and rising chains never do."""

import numpy as np
import pytest
import targets
import tensorflow as tf

import keras_tilt as kt
from keras_tilt.reference.distributions import white_noise
from keras_tilt.sampling.sampler import sample
from keras_tilt.sampling.verdict.diagnostics import diagnose
from keras_tilt.sampling.verdict.functionals import (
    functional_names,
    functionals,
    projection_directions,
    worst_pixel,
)
from keras_tilt.tilt import Tilt

SHAPE = (8, 8, 3)
DRAWS, CHAINS = 200, 16  # those of `sample` if nothing else is asked for

trials = pytest.mark.parametrize(
    "num_trials", [4, pytest.param(100, marks=pytest.mark.slow)]
)


def exact_draws(seed):
    """Independent draws of N(0, I): [draws, chains, ...]."""
    draw = np.random.default_rng(seed).standard_normal
    return draw([DRAWS, CHAINS, *SHAPE], np.float32)


def verdict_on(noise, is_accepted=None):
    """As `sample` judges draws of white noise, f a linear unit."""
    base = white_noise(SHAPE).distribution
    weights = np.random.default_rng(0).standard_normal(SHAPE) / 10
    found = functionals(
        tf.constant(noise), tf.constant(noise), base, projection_directions(SHAPE)
    )
    f = np.tensordot(noise, weights, axes=3)
    accepted = np.ones(f.shape, bool) if is_accepted is None else is_accepted
    return diagnose(
        {"f": f, **{name: values.numpy() for name, values in found.items()}},
        accepted,
        step_size=0.1,
        pixel=worst_pixel(noise),
        num_pixels=int(np.prod(SHAPE)),
    )


def converged(judge, num_trials):
    """In how many of the trials the verdict is "converged", and the others' reasons."""
    found = [judge(seed) for seed in range(num_trials)]
    reasons = [one.verdict for one in found if not one.converged]
    print(f"\n{num_trials - len(reasons)} of {num_trials} converged")
    return num_trials - len(reasons), reasons


@trials
def test_exact_draws_are_called_converged(num_trials):
    passed, reasons = converged(lambda seed: verdict_on(exact_draws(seed)), num_trials)
    assert passed >= 0.95 * num_trials, reasons


@trials
def test_one_stuck_chain_of_sixteen_is_never_called_converged(num_trials):
    def stuck(seed):
        noise = exact_draws(seed)
        noise[:, seed % CHAINS] = noise[0, seed % CHAINS]
        accepted = np.ones([DRAWS, CHAINS], bool)
        accepted[:, seed % CHAINS] = False
        return verdict_on(noise, accepted)

    passed, reasons = converged(stuck, num_trials)
    assert passed == 0
    assert all("1 of 16 chains moved" in reason for reason in reasons)


@trials
def test_a_chain_stuck_in_another_mode_is_never_called_converged(num_trials):
    """It moves like the others, around a place 6 standard deviations away."""

    def elsewhere(seed):
        noise = exact_draws(seed)
        direction = np.random.default_rng(seed + 1).standard_normal(SHAPE)
        noise[:, 0] += 6.0 * direction / np.linalg.norm(direction)
        return verdict_on(noise)

    assert converged(elsewhere, num_trials)[0] == 0


@trials
def test_a_slowly_rising_f_is_never_called_converged(num_trials):
    """By one of its standard deviations over the run, too little for R-hat alone."""

    def rising(seed):
        noise = exact_draws(seed)
        weights = np.random.default_rng(0).standard_normal(SHAPE)
        rise = np.linspace(0.0, 1.0, DRAWS)[:, None, None, None, None]
        noise += (rise * weights / np.linalg.norm(weights)).astype(np.float32)
        return verdict_on(noise)

    passed, reasons = converged(rising, num_trials)
    assert passed == 0
    assert all("f still rises" in reason for reason in reasons)


@pytest.fixture(scope="module")
def groups_of_chains():
    """Function of arguments of `sample`: verdicts on 100 groups of 8 chains each."""

    def judged(tilt, **settings):
        samples = sample(tilt, 800, progress=False, **settings)
        names = functional_names(tilt.event_shape)
        images = np.asarray(samples.images)
        return [
            diagnose(
                {
                    "f": samples.f[:, group],
                    **{name: samples.functionals[name][:, group] for name in names},
                },
                samples.is_accepted[:, group],
                samples.step_size,
                pixel=worst_pixel(images[:, group]),
                num_pixels=images[0, 0].size,
            )
            for group in np.split(np.arange(800), 100)
        ]

    return judged


@pytest.mark.slow
def test_short_steps_from_draws_of_q_are_never_called_converged(groups_of_chains):
    """As the paper's budget: f still rises at the end."""
    target = targets.linear()
    tilt = Tilt(target.unit, target.reference())
    found = groups_of_chains(
        tilt,
        num_results=200,
        num_burnin_steps=0,
        step_size=0.01,
        num_leapfrog_steps=3,
        seed=1,
    )
    assert not any(one.converged for one in found)


@pytest.mark.slow
def test_chains_in_two_modes_that_f_cannot_tell_are_never_called_converged(
    groups_of_chains,
):
    """f = |w.x|, half of the chains on either side, none ever on the other."""
    target = targets.linear(scale=0.8)
    weights = target.mean / target.variance
    start = np.tile([1.0, -1.0], 400)[:, None, None, None] * target.mean
    tilt = Tilt(
        lambda x: tf.abs(
            tf.reduce_sum(x * tf.constant(weights, tf.float32), [1, 2, 3])
        ),
        target.reference(),
    )
    found = groups_of_chains(
        tilt,
        num_results=300,
        num_burnin_steps=0,
        step_size=0.3,
        num_leapfrog_steps=5,
        initial_noise=tilt.to_noise(start.astype(np.float32)),
        seed=1,
    )
    assert not any(one.converged for one in found)
    assert max(one.r_hat for one in found) < 1.05  # f knows nothing of it


@pytest.mark.slow
def test_the_budget_of_the_paper_is_not_converged():
    """LeNet after one epoch; 300 iterations of 100 steps of 0.001."""
    train, _ = kt.data.embedded_mnist()
    model = kt.GenerativeClassifier(kt.lenet())
    model.compile("adam", objective="generative")
    batches = kt.data.pipeline(*train, batch_size=64, shuffle_seed=0)
    model.fit(batches, shuffle=False, verbose=0)
    unit = kt.unit(model, class_index=3)
    tilt = Tilt(unit, white_noise(unit.input_shape, stddev=10.0))
    samples = sample(tilt, 4, seed=7, progress=False, **kt.PAPER_LENET)
    assert samples.diagnostics.accept_rate > 0.95
    assert not samples.diagnostics.converged
    assert samples.diagnostics.r_hat > 1.1
