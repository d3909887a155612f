"""The verdict follows R-hat and ESS of ArviZ, and no number hides a broken chain."""

import importlib
import math
import sys
import warnings

import arviz
import numpy as np
import pytest

from keras_tilt import diagnostics
from keras_tilt.diagnostics import diagnose, inference_data

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
    data = inference_data(functionals(f, noise), 2 * f, f > 0)
    assert dict(data.posterior.sizes) == {"chain": CHAINS, "draw": DRAWS}
    np.testing.assert_array_equal(data.posterior["f"], f.T)
    np.testing.assert_array_equal(data.posterior["pixel 3"], noise[..., 3].T)
    np.testing.assert_array_equal(data.sample_stats["lp"], 2 * f.T)
    np.testing.assert_array_equal(data.sample_stats["accepted"], f.T > 0)


def test_the_daily_notice_of_arviz_does_not_reach_the_user(monkeypatch, tmp_path):
    def caught(import_arviz, cache):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / cache))
        monkeypatch.delitem(sys.modules, "arviz")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import_arviz()
        return [warning.category for warning in caught]

    assert FutureWarning in caught(lambda: importlib.import_module("arviz"), "a")
    assert caught(diagnostics._import_arviz, "b") == []
