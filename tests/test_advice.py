"""What a run lacks is extrapolated from it, and longer ones show that it is right."""

import math

import numpy as np
import pytest
import tensorflow as tf

import keras_tilt as kt
from keras_tilt.sampling.verdict.advice import Advice, needed_share
from keras_tilt.sampling.verdict.diagnostics import diagnose

CHAINS = 4


def autoregressive(draws, correlation, seed, centre=0.0):
    """Chains of law N(centre, 1), [draws, chains]."""
    generator = np.random.default_rng(seed)
    values = generator.standard_normal([draws, CHAINS])
    for i in range(1, draws):
        values[i] = correlation * values[i - 1] + values[i] * math.sqrt(
            1 - correlation**2
        )
    return values + centre


def judged(**scalars):
    first = next(iter(scalars.values()))
    return diagnose(scalars, np.ones(first.shape, bool), 0.1)


def test_as_many_draws_as_are_said_to_be_needed_reach_the_limits():
    correlation, short = 0.8, 300  # t = (1 + .8) / (1 - .8) = 9 draws
    needed = []
    for seed in range(20):
        advice = judged(f=autoregressive(short, correlation, seed)).advice
        needed.append(short + advice.more_draws)
        assert not advice.are_apart
    # 400 independent draws are 900 of each of four chains; so is R-hat - 1 = .01.
    assert 900 < np.median(needed) < 2700
    long = int(2 * np.median(needed))
    found = [judged(f=autoregressive(long, correlation, s)).converged for s in range(8)]
    assert sum(found) >= 6


def test_what_has_converged_needs_no_advice():
    result = judged(f=autoregressive(1000, 0.0, 0))
    assert result.converged and result.advice is None
    assert str(result).endswith("converged.")


def test_chains_in_places_of_their_own_are_said_to_be_so():
    centre = np.array([-5.0, 0.0, 5.0, 0.0])
    one = autoregressive(400, 0.5, 0)
    other = autoregressive(400, 0.5, 1, centre)
    advice = judged(**{"f": one, "low frequency 0,1": other}).advice
    assert advice.worst == "low frequency 0,1" and advice.are_apart
    assert advice.meaning == "the left of the image against the right"
    assert advice.far_chains == (0, 2)
    text = str(advice)
    assert "chains 0 and 2 differ most" in text and "in places of their own" in text
    assert "At least" in text and "Weaken the tilt" in text


def test_of_too_few_draws_nothing_is_extrapolated():
    assert judged(f=np.zeros([3, CHAINS])).advice is None
    stuck = np.tile(np.arange(CHAINS, dtype=float), [20, 1])
    advice = judged(f=stuck).advice
    assert math.isnan(advice.more_draws) and "more draws" not in str(advice)


@pytest.mark.parametrize(
    "r_hat, ess, expected", [(1.0, 100, 4), (1.03, 400, 3), (1.0, 800, 0.5)]
)
def test_the_share_is_that_of_the_stricter_limit(r_hat, ess, expected):
    assert needed_share(r_hat, ess, 1.01, 400) == pytest.approx(expected)
    assert math.isnan(needed_share(math.inf, ess, 1.01, 400))


def test_the_worst_pixel_counts_by_its_own_limit():
    f, slow = autoregressive(1000, 0.0, 0), autoregressive(1000, 0.97, 1)
    accepted = np.ones(f.shape, bool)
    result = diagnose({"f": f}, accepted, 0.1, pixel=slow, num_pixels=1000)
    advice = result.advice
    assert advice.worst == "worst pixel" and "whose chains differ most" in str(advice)
    assert advice.more_draws > 1000
    more = diagnose({"f": f}, accepted, 0.1, pixel=slow, num_pixels=1)
    assert more.advice.more_draws > 1.5 * advice.more_draws


def test_reasons_that_draws_do_not_help_have_sentences_of_their_own():
    f = autoregressive(1000, 0.0, 0)
    accepted = np.ones(f.shape, bool)
    advice = diagnose({"f": f}, accepted, 0.1, num_divergences=3).advice
    assert advice.more_draws == 0 and "more draws" not in str(advice)
    assert "target_accept_prob" in str(advice)
    rising = f + np.linspace(0, 0.4, 1000)[:, None]
    assert "num_burnin_steps" in str(judged(f=rising).advice)
    accepted[50:, 1] = False
    assert "step_size" in str(diagnose({"f": f}, accepted, 0.1).advice)


# Through the public face


def slope(images):
    return 3 * tf.abs(
        tf.reduce_sum(images[:, :, :2] - images[:, :, 2:], axis=[1, 2, 3])
    )


@pytest.fixture(scope="module")
def two_modes():
    tilt = kt.Tilt(slope, kt.white_noise([4, 4, 1]))
    return tilt, kt.sample(tilt, CHAINS, 100, 40, seed=5, progress=False)


def test_a_run_in_two_modes_shows_two_images_that_differ(two_modes):
    tilt, samples = two_modes
    advice = samples.diagnostics.advice
    assert isinstance(advice, Advice) and advice.are_apart
    steps = samples.num_leapfrog_steps
    assert advice.more_gradients == advice.more_draws * steps * CHAINS
    low, high = samples.far_images
    one, other = advice.far_chains
    np.testing.assert_array_equal(low, samples.images[-1][one])
    np.testing.assert_array_equal(high, samples.images[-1][other])
    halves = [np.sum(image[:, :2]) - np.sum(image[:, 2:]) for image in (low, high)]
    assert halves[0] * halves[1] < 0
    assert str(advice) in repr(samples)


def test_short_trajectories_are_named_with_the_steps_that_whole_ones_take():
    tilt = kt.Tilt(
        lambda x: -20 * tf.reduce_sum(x**2, [1, 2, 3]), kt.white_noise([3, 3, 1])
    )
    samples = kt.sample(
        tilt, CHAINS, 20, 60, seed=1, max_leapfrog_steps=2, progress=False
    )
    (change,) = samples.diagnostics.advice.changes
    wanted = math.ceil(math.pi / 2 / samples.step_size)
    assert f"max_leapfrog_steps={wanted}" in change and wanted > 2


def test_advice_is_kept_in_a_file(two_modes, tmp_path):
    _, samples = two_modes
    samples.save(tmp_path / "samples.nc")
    loaded = kt.Samples.load(tmp_path / "samples.nc")
    assert loaded.diagnostics.advice == samples.diagnostics.advice
    np.testing.assert_array_equal(loaded.far_images, samples.far_images)


def test_far_images_of_what_has_converged_are_an_error():
    tilt = kt.Tilt(lambda x: tf.reduce_sum(x, [1, 2, 3]), kt.white_noise([2, 2, 1]))
    samples = kt.sample(tilt, CHAINS, 1500, 60, seed=2, progress=False)
    assert samples.diagnostics.converged
    with pytest.raises(ValueError, match="have not converged"):
        print(samples.far_images)
