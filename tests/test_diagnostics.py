"""The verdict follows R-hat and ESS of ArviZ, and no number hides a broken chain."""

import importlib
import math
import sys
import warnings

import arviz
import numpy as np
import pytest
import tensorflow as tf
from arviz_stats.base import array_stats

import keras_tilt as kt
from keras_tilt.sampling.samples import inference_data
from keras_tilt.sampling.verdict import estimates
from keras_tilt.sampling.verdict import functionals as scalars
from keras_tilt.sampling.verdict.diagnostics import diagnose
from keras_tilt.sampling.verdict.functionals import worst_pixel

DRAWS, CHAINS, PIXELS = 500, 8, 12


def chains(draws=DRAWS, chains=CHAINS, correlation=0.0, seed=0):
    """f and noise of first-order autoregressive chains with law N(0, 1)."""
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal([draws, chains, PIXELS])
    for i in range(1, draws):
        noise[i] = correlation * noise[i - 1] + np.sqrt(1 - correlation**2) * noise[i]
    return noise.sum(axis=-1) / np.sqrt(PIXELS), noise.astype(np.float32)


def functionals(f, noise):
    return {"f": f, **{f"pixel {i}": noise[..., i] for i in range(PIXELS)}}


def verdict_on(f, noise, **kwargs):
    accepted = np.ones(f.shape, bool)
    return diagnose(functionals(f, noise), accepted, step_size=0.1, **kwargs)


def test_independent_draws_are_converged():
    result = verdict_on(*chains())
    assert result.converged
    assert result.verdict == "converged."
    assert result.worst_r_hat < 1.01 and result.smallest_ess > 400
    assert result.mcse == pytest.approx(1 / np.sqrt(DRAWS * CHAINS), rel=0.1)


def test_the_numbers_are_those_of_arviz():
    f, noise = chains(correlation=0.7)
    result = verdict_on(f, noise)
    assert result.r_hat == arviz.rhat(f.T)
    assert result.ess == arviz.ess(f.T, method="bulk")
    assert result.ess_tail == arviz.ess(f.T, method="tail")
    assert result.mcse == arviz.mcse(f.T, method="mean")
    assert math.isnan(result.nested_r_hat) and math.isnan(result.e_bfmi)
    for name, values in functionals(f, noise).items():
        one = result.scalars[name]
        values = np.float64(values).T
        assert one.r_hat == arviz.rhat(values)
        assert one.ess == arviz.ess(values, method="bulk")
        assert one.ess_tail == arviz.ess(values, method="tail")
    assert result.worst_r_hat == max(one.r_hat for one in result.scalars.values())
    assert result.smallest_ess == min(min(one[1:]) for one in result.scalars.values())


def test_e_bfmi_is_that_of_arviz_for_the_worst_chain():
    f, noise = chains()
    energy, _ = chains(correlation=0.9, seed=1)
    result = verdict_on(f, noise, energy=energy)
    assert result.e_bfmi == arviz.bfmi(energy.T).min()
    assert result.e_bfmi < 0.3
    assert f"E-BFMI is {result.e_bfmi:.2g} (< 0.3)" in result.verdict
    assert verdict_on(f, noise, energy=f).converged
    assert math.isnan(verdict_on(f, noise, energy=np.zeros_like(f)).e_bfmi)


def test_of_chains_too_short_for_an_autocorrelation_each_counts_as_one_draw():
    for draws in (4, 9):
        f = chains(draws, correlation=0.999)[0]
        result = diagnose({"f": f}, np.ones(f.shape, bool), 0.1)
        assert arviz.ess(f.T) > draws * CHAINS  # more than independent draws have
        assert result.ess == result.ess_tail == CHAINS
        assert result.mcse == pytest.approx(f.std(ddof=1) / math.sqrt(CHAINS))
        assert f"ESS of f is {CHAINS} (< 400)" in result.verdict
    f = chains(10, correlation=0.999)[0]
    result = diagnose({"f": f}, np.ones(f.shape, bool), 0.1)
    assert result.ess == arviz.ess(f.T) < 3 * CHAINS


def test_short_thirds_of_slow_chains_are_no_rise():
    for seed in range(100):
        f = chains(21, correlation=0.9, seed=seed)[0]
        result = diagnose({"f": f}, np.ones(f.shape, bool), 0.1)
        assert "still" not in result.verdict, seed


# Superchains


def superchains(draws=10, groups=8, size=64, distance=0.0):
    """Independent draws, the mean of every superchain `distance` off at random."""
    generator = np.random.default_rng(3)
    starts = np.repeat(generator.standard_normal(groups), size)
    return generator.standard_normal([draws, groups * size]) + distance * starts


def test_nested_r_hat_is_that_of_arviz_stats():
    f = superchains(distance=0.3)
    result = diagnose({"f": f}, np.ones(f.shape, bool), 0.1, num_superchains=8)
    groups = np.repeat(np.arange(8), 64)
    assert result.nested_r_hat == array_stats.rhat_nested(f.T, superchain_ids=groups)
    assert result.scalars["f"].r_hat == result.nested_r_hat
    assert result.r_hat == arviz.rhat(f.T)
    assert not result.converged


def test_many_short_chains_can_converge_by_nested_r_hat_alone():
    f, _ = chains(draws=6, chains=2048, correlation=0.9)
    accepted = np.ones(f.shape, bool)
    assert diagnose({"f": f}, accepted, 0.1).r_hat > 1.1
    result = diagnose({"f": f}, accepted, 0.1, num_superchains=8)
    assert result.converged, result.verdict


def test_short_chains_that_remember_their_start_are_seen_by_nested_r_hat():
    f = superchains(draws=6, distance=0.5)
    result = diagnose({"f": f}, np.ones(f.shape, bool), 0.1, num_superchains=8)
    assert not result.converged
    assert "R-hat of f" in result.verdict


@pytest.mark.parametrize("draws", [6, 10, 11])
@pytest.mark.parametrize("num_superchains", [None, 8])
def test_short_chains_that_all_rise_are_seen(draws, num_superchains):
    """All alike, they differ neither from each other nor between superchains."""
    f, _ = chains(draws=draws, chains=2048)
    accepted = np.ones(f.shape, bool)
    still = diagnose({"f": f}, accepted, 0.1, num_superchains=num_superchains)
    f += np.linspace(0.0, 1.0, draws)[:, None]
    rising = diagnose({"f": f}, accepted, 0.1, num_superchains=num_superchains)
    assert rising.scalars["f"].r_hat < 1.01 or num_superchains is None
    assert "f still rises, by 0." in rising.verdict
    assert "f still" not in still.verdict


# What speaks against convergence beside R-hat and ESS


@pytest.mark.parametrize("sign, word", [(1.0, "rises"), (-1.0, "falls")])
def test_a_rise_too_small_for_r_hat_is_seen(sign, word):
    f, noise = chains()
    f += sign * np.linspace(0.0, 0.4, DRAWS)[:, None]
    result = verdict_on(f, noise)
    assert result.worst_r_hat < 1.01 and result.smallest_ess > 400
    assert not result.converged
    rise = abs(f[-166:].mean() - f[:166].mean())
    assert f"f still {word}, by {rise:.3g} +- " in result.verdict


def test_a_chain_that_hardly_moves_is_seen():
    f, noise = chains()
    accepted = np.ones(f.shape, bool)
    accepted[:, 2] = np.arange(DRAWS) % 11 == 0
    result = diagnose(functionals(f, noise), accepted, 0.1)
    assert not result.converged
    assert "1 of 8 chains moved in less than 10% of the draws" in result.verdict


def test_divergences_are_a_reason():
    result = verdict_on(*chains(), num_divergences=2)
    assert not result.converged
    assert "2 proposals were divergent" in result.verdict


# The worst pixel


def split_r_hat_excess(values):
    """R-hat^2 - 1 of split chains, from its definition."""
    half = len(values) // 2
    halves = np.concatenate([values[:half], values[len(values) - half :]], axis=1)
    return halves.mean(axis=0).var(ddof=1) / halves.var(axis=0, ddof=1).mean()


@pytest.mark.parametrize("draws", [40, 41])
@pytest.mark.parametrize("block", [2**24, 200])
def test_the_worst_pixel_is_found_block_by_block(draws, block, monkeypatch):
    monkeypatch.setattr(scalars, "_BLOCK", block)
    images = np.random.default_rng(0).standard_normal([draws, 5, 3, 4, 2])
    images += 100.0
    images[:, :, 0, 0, 0] = 7.0  # a pixel that stays as it is
    excess = np.zeros(images.shape[2:])
    for index in np.ndindex(3, 4, 2):
        if index != (0, 0, 0):
            excess[index] = split_r_hat_excess(images[(..., *index)])
    worst = np.unravel_index(excess.argmax(), excess.shape)
    np.testing.assert_array_equal(worst_pixel(images), images[(..., *worst)])


def test_the_worst_pixel_of_superchains_is_by_nested_r_hat():
    """A slow pixel, spread as it should be, does not hide one that knows its start."""
    noise = chains(draws=6, chains=512)[1]
    noise[..., 0] = noise[:1, :, 0] + 0.1 * noise[..., 0]
    starts = np.random.default_rng(5).standard_normal(8)
    noise[..., 7] += 0.7 * np.repeat(starts, 64)
    np.testing.assert_array_equal(worst_pixel(noise), noise[..., 0])
    pixel = worst_pixel(noise, num_superchains=8)
    np.testing.assert_array_equal(pixel, noise[..., 7])
    nested = [estimates.r_hat(noise[..., i], 8) for i in range(PIXELS)]
    assert np.argmax(nested) == 7
    alone = worst_pixel(noise[:, ::64], num_superchains=8)  # groups of one
    assert alone.shape == (6, 8)


def test_a_pixel_that_never_moves_but_differs_is_the_worst():
    images = np.random.default_rng(0).standard_normal([40, 5, 3, 4, 2])
    images[:, :, 1, 2, 1] = np.arange(5)
    pixel = worst_pixel(images)
    np.testing.assert_array_equal(pixel, images[:, :, 1, 2, 1])
    f, noise = chains()
    assert "the worst pixel" in verdict_on(f, noise, pixel=pixel).verdict


def test_images_that_say_nothing_have_no_worst_pixel():
    assert worst_pixel(np.zeros([3, 5, 2, 2, 1])) is None
    assert worst_pixel(np.random.default_rng(0).random([9, 1, 2, 2, 1])) is None
    assert worst_pixel(np.zeros([9, 5, 2, 2, 1])) is None
    assert math.isnan(verdict_on(*chains(), pixel=None).worst_pixel_r_hat)


def test_a_patch_where_chains_differ_is_seen_although_f_has_mixed():
    f, noise = chains()
    images = np.random.default_rng(1).standard_normal([DRAWS, CHAINS, 20, 20, 1])
    images[:, :3, 5, 5] += 1.0
    result = verdict_on(f, noise, pixel=worst_pixel(images), num_pixels=400)
    assert not result.converged
    assert result.worst_r_hat < 1.01 < result.worst_pixel_r_hat
    assert "R-hat of the worst pixel" in result.verdict


def test_the_worst_of_many_pixels_of_exact_draws_is_no_reason():
    """It exceeds the limit of a single one in more than half of all runs."""
    alone, of_all = 0, 0
    for seed in range(2):
        generator = np.random.default_rng(seed)
        images = generator.standard_normal([150, 8, 30_000], dtype=np.float32)
        pixel = worst_pixel(images)
        f, noise = chains(draws=400, seed=seed)
        alone += not verdict_on(f, noise, pixel=pixel).converged
        of_all += not verdict_on(f, noise, pixel=pixel, num_pixels=30_000).converged
    assert (alone, of_all) == (2, 0)


def test_ess_of_an_autoregressive_chain_is_its_closed_form():
    f, noise = chains(draws=4000, correlation=0.5)
    exact = 4000 * CHAINS * (1 - 0.5) / (1 + 0.5)
    assert verdict_on(f, noise).ess == pytest.approx(exact, rel=0.1)


def test_one_chain_elsewhere_is_named_in_the_verdict():
    f, noise = chains()
    f[:, 0] += 3.0
    result = verdict_on(f, noise)
    assert not result.converged
    assert result.r_hat > 1.01
    assert f"R-hat of f is {result.r_hat:.3g} (> 1.01)" in result.verdict


def test_noise_that_has_not_mixed_is_seen_although_f_has():
    f, noise = chains()
    noise[:, 0] += 2.0
    result = verdict_on(f, noise)
    assert result.r_hat < 1.01 < result.worst_r_hat
    assert not result.converged


def test_slow_chains_are_short_of_effective_draws():
    result = verdict_on(*chains(correlation=0.99))
    assert not result.converged
    assert result.smallest_ess < 400
    assert "ESS of" in result.verdict


def test_stuck_chains_have_an_infinite_r_hat():
    f, noise = chains()
    result = verdict_on(np.tile(f[:1], [DRAWS, 1]), np.tile(noise[:1], [DRAWS, 1, 1]))
    assert not result.converged
    assert not result.r_hat <= 1e3


@pytest.mark.parametrize(
    "broken, why",
    [
        (lambda f, noise: (np.full_like(f, 0.1), noise), "f: it is constant"),
        (lambda f, noise: (f[:3], noise[:3]), "3 draws a chain are fewer than 4"),
        (lambda f, noise: (f[:, :1], noise[:, :1]), "one chain has no other"),
        (lambda f, noise: (np.where(f > 2, np.nan, f), noise), "values are not finite"),
    ],
)
def test_what_cannot_be_judged_has_words_and_no_number(broken, why):
    result = verdict_on(*broken(*chains()))
    assert not result.converged
    assert why in result.verdict
    numbers = [result.r_hat, result.ess, result.ess_tail, result.mcse]
    assert "f" not in result.scalars
    assert all(map(math.isnan, numbers))


def test_non_finite_energies_and_interruptions_are_in_the_verdict():
    result = verdict_on(
        *chains(), num_nonfinite=3, num_nonfinite_warmup=2, num_missing=7
    )
    assert "3 proposals had a non-finite energy" in result.verdict
    assert "2 such proposals in the warm-up" in result.verdict
    assert "interrupted 7 draws before the end" in result.verdict
    assert (result.num_nonfinite, result.num_nonfinite_warmup) == (3, 2)


def test_the_summary_is_one_line_with_the_verdict():
    result = verdict_on(*chains())
    assert "\n" not in str(result)
    assert "R-hat" in str(result) and result.verdict in str(result)


def test_inference_data_holds_the_functionals_by_chain_and_draw():
    f, noise = chains()
    data = inference_data(functionals(f, noise), 2 * f, f > 0, f > 2, 3 * f)
    assert dict(data.posterior.sizes) == {"chain": CHAINS, "draw": DRAWS}
    np.testing.assert_array_equal(data.posterior["f"], f.T)
    np.testing.assert_array_equal(data.posterior["pixel 3"], noise[..., 3].T)
    np.testing.assert_array_equal(data.sample_stats["lp"], 2 * f.T)
    np.testing.assert_array_equal(data.sample_stats["accepted"], f.T > 0)
    np.testing.assert_array_equal(data.sample_stats["diverging"], f.T > 2)
    np.testing.assert_array_equal(data.sample_stats["energy"], 3 * f.T)
    without = inference_data(functionals(f, noise), f, f > 0, f > 2)
    assert "energy" not in without.sample_stats


def test_the_daily_notice_of_arviz_does_not_reach_the_user(monkeypatch, tmp_path):
    def caught(import_arviz, cache):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / cache))
        monkeypatch.delitem(sys.modules, "arviz")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import_arviz()
        return [warning.category for warning in caught]

    assert FutureWarning in caught(lambda: importlib.import_module("arviz"), "a")
    assert caught(estimates.import_arviz, "b") == []


def test_energies_of_kept_momenta_are_judged_by_the_share_that_is_renewed():
    """E-BFMI does not depend on how much of the momentum is kept, of independent f."""

    def softened(images):
        return tf.nn.softplus(tf.reduce_sum(images, axis=[1, 2, 3]) / 2)

    tilt = kt.Tilt(softened, kt.white_noise([4, 4, 1]))
    found = [
        kt.sample(
            *(tilt, 8, 600, 40),
            seed=1,
            num_leapfrog_steps=2,
            step_size=0.4,
            momentum_persistence=kept,
            thin=600,
            progress=False,
        ).diagnostics.e_bfmi
        for kept in (0.0, 0.9)
    ]
    # Of 8 chains of about 60 independent energies the smallest is known to .2 or .3;
    # without the share it would be a fifth.
    assert found[1] == pytest.approx(found[0], rel=0.5)
