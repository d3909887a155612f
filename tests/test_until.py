"""Sampling until the draws have converged: one run, which its verdict goes on with."""

import math
import time
import types

import numpy as np
import pytest
import tensorflow as tf

import keras_tilt as kt
from keras_tilt.sampling import until

WEIGHTS = np.random.default_rng(0).standard_normal((4, 4, 1)).astype(np.float32)


def bent(images):
    return tf.nn.softplus(tf.reduce_sum(images * WEIGHTS, axis=[1, 2, 3]))


def two_modes(images):
    return 6 * tf.abs(tf.reduce_sum(images * WEIGHTS, axis=[1, 2, 3]))


def tilt(unit=bent):
    return kt.Tilt(unit, kt.white_noise([4, 4, 1]))


OPTIONS = dict(num_results=10, num_burnin_steps=30, seed=5, progress=False)


def test_draws_are_added_until_the_verdict_is_converged():
    seen = []
    samples = kt.sample_until_converged(tilt(), **OPTIONS, on_verdict=seen.append)
    assert samples.diagnostics.converged and seen[-1] is samples
    assert not any(one.diagnostics.converged for one in seen[:-1])
    lengths = [len(one.f) for one in seen]
    assert lengths[0] == 10 and len(lengths) > 1
    for shorter, longer in zip(lengths, lengths[1:], strict=False):
        assert 1.2 * shorter <= longer <= 4 * shorter  # of 10 draws the quarter is 2


@pytest.mark.parametrize(
    ("wanted", "more"), [(1, 25), (40, 40), (1e6, 300), (math.nan, 100)]
)
def test_a_part_is_as_long_as_the_advice_says_within_limits(wanted, more):
    advice = types.SimpleNamespace(more_draws=wanted)
    diagnostics = types.SimpleNamespace(advice=advice)
    samples = types.SimpleNamespace(f=np.zeros([100, 4]), diagnostics=diagnostics)
    assert until._next(samples, affordable=1e9, thin=1) == 100 + more
    assert until._next(samples, affordable=7, thin=5) == 105


@pytest.mark.parametrize("kept", [0.0, 0.6])
def test_they_are_those_of_one_run_of_that_length(tmp_path, kept):
    options = OPTIONS | {"momentum_persistence": kept}
    samples = kt.sample_until_converged(tilt(), **options, directory=tmp_path / "run")
    length = len(samples.f)
    whole = kt.sample(tilt(), 4, **options | {"num_results": length})
    np.testing.assert_array_equal(samples.f, whole.f)
    np.testing.assert_array_equal(samples.noise, whole.noise)
    seen = []
    again = kt.sample_until_converged(
        tilt(), **options, directory=tmp_path / "run", on_verdict=seen.append
    )
    assert [len(one.f) for one in seen] == [length]  # read, and judged once
    np.testing.assert_array_equal(again.f, samples.f)


def test_when_the_time_is_over_the_same_call_goes_on(tmp_path, monkeypatch):
    """Of chains in two modes, which do not converge; time goes by in draws."""
    drawn = [0]
    sample = until.sample

    def counted(*args, **kwargs):
        samples = sample(*args, **kwargs)
        drawn[0] = max(drawn[0], len(samples.f))
        return samples

    monkeypatch.setattr(until, "sample", counted)
    monkeypatch.setattr(time, "monotonic", lambda: 60.0 * drawn[0] / 100)
    options = OPTIONS | dict(directory=tmp_path / "run", thin=5, max_minutes=1.0)
    first = kt.sample_until_converged(tilt(two_modes), **options)
    assert not first.diagnostics.converged
    assert 90 <= len(first.f) <= 110 and len(first.f) % 5 == 0
    assert len(first.noise) == len(first.f) // 5
    second = kt.sample_until_converged(tilt(two_modes), **options)
    assert 1.5 * len(first.f) <= len(second.f) <= 2.2 * len(first.f)
    np.testing.assert_array_equal(second.f[: len(first.f)], first.f)


def test_an_interrupt_ends_it(monkeypatch):
    sample, calls = until.sample, []

    def interrupted(*args, **kwargs):
        samples = sample(*args, **kwargs)
        calls.append(samples)
        if len(calls) == 2:
            object.__setattr__(samples.diagnostics, "num_missing", 3)
        return samples

    monkeypatch.setattr(until, "sample", interrupted)
    samples = kt.sample_until_converged(tilt(two_modes), **OPTIONS)
    assert len(calls) == 2 and samples is calls[-1]


@pytest.mark.parametrize("minutes", [0, -1.0, float("inf"), float("nan")])
def test_minutes_must_be_positive(minutes):
    with pytest.raises(ValueError, match="`max_minutes` must be positive. Received"):
        kt.sample_until_converged(tilt(), **OPTIONS, max_minutes=minutes)


def test_several_tilts_are_sampled_one_by_one():
    with pytest.raises(TypeError, match="must be one keras_tilt.Tilt. Received"):
        kt.sample_until_converged([tilt(), tilt()], **OPTIONS)
