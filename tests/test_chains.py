"""The graph of the chains: split over replicas, packed and unpacked, judged alike."""

import itertools

import numpy as np
import pytest
import targets
import tensorflow as tf
import tensorflow_probability as tfp
from cases import slow_but
from scipy import stats

from keras_tilt.reference.distributions import box, is_standard_normal, white_noise
from keras_tilt.sampling.chains import (
    ChainGraphs,
    Chains,
    KernelParameters,
)
from keras_tilt.sampling.kernels import KERNELS
from keras_tilt.sampling.sampler import sample
from keras_tilt.sampling.verdict.functionals import (
    functional_names,
    functionals,
    projection_directions,
)
from keras_tilt.tilt import Tilt

tfd = tfp.distributions
SHAPE = targets.SHAPE
LADDER = (1.0, 0.5)


def tilt_of(target):
    return Tilt(target.unit, target.reference())


def chains_of(tilt, kernel="split", **kwargs):
    def response(noise):
        return tilt.response(tilt.to_images(tf.reshape(noise, [-1, *SHAPE])))[None]

    graphs = ChainGraphs(response, tilt.to_images, tilt.base, kernel, **kwargs)
    return Chains(graphs, [0])


def settings_of(step=0.3, scale=1.0, steps=3, ladder=None):
    shape = [1] if ladder is None else [1, len(ladder)]
    return KernelParameters(np.full(shape, step), steps, np.full([1], scale))


def noise_of(num_chains=6, seed=0):
    draw = np.random.default_rng(seed).standard_normal
    return draw([1, num_chains, *SHAPE]).astype(np.float32)


def advanced(chains, state, settings, iterations):
    for i in iterations:
        state, numbers = chains.advance(state, settings, tf.constant([0, i]))
    return state, numbers


# Split over the replicas of a strategy


@pytest.mark.parametrize("num_chains", slow_but([5], [6, 5]))
def test_chains_split_over_replicas_are_those_of_one_device(strategy, num_chains):
    tilt = tilt_of(targets.relu())
    settings = {
        "num_chains": num_chains,
        "num_results": 8,
        "num_burnin_steps": 6,
        "seed": 3,
        "progress": False,
    }
    alone = sample(tilt, **settings)
    with strategy.scope():
        split = sample(tilt, **settings)
    assert split.step_size == pytest.approx(alone.step_size, rel=1e-6)
    np.testing.assert_allclose(split.noise, alone.noise, atol=1e-4)
    np.testing.assert_allclose(split.f, alone.f, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(split.is_accepted, alone.is_accepted)
    for name in functional_names(SHAPE):
        np.testing.assert_allclose(
            split.functionals[name], alone.functionals[name], rtol=1e-3, atol=1e-4
        )


def test_under_a_strategy_nothing_of_a_run_is_eager(strategy, monkeypatch):
    """There TensorFlow is slow, and says so. Alone, a start is quicker eagerly."""
    eager = []
    for name in ("_unknown_on_replica", "_known_on_replica", "_advance_on_replica"):
        run = getattr(ChainGraphs, name)

        def recorded(graphs, *args, run=run):
            eager.append(tf.executing_eagerly())
            return run(graphs, *args)

        monkeypatch.setattr(ChainGraphs, name, recorded)
    with strategy.scope():
        chains = chains_of(tilt_of(targets.relu()))
        state, _ = chains.start(noise_of(4), settings_of())
        advanced(chains, state, settings_of(scale=0.5), [0])
    assert eager and not any(eager)


def test_every_replica_has_its_own_part_of_the_chains(strategy):
    with strategy.scope():
        chains = chains_of(tilt_of(targets.relu()))
        state, _ = chains.start(noise_of(5), settings_of())
    parts = strategy.experimental_local_results(state.noise)
    assert [part.shape[1] for part in parts] == [3, 2]
    np.testing.assert_array_equal(chains.noise_of(state), noise_of(5))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"kernel": "hmc"}, "kernel 'split' and without a ladder"),
        ({"inverse_temperatures": (1.0, 0.5)}, "without a ladder"),
        ({"num_chains": 1}, "must be 2 or more, one for every replica"),
    ],
)
def test_what_cannot_be_split_is_an_error(strategy, options, message):
    settings = {"num_chains": 4, "num_results": 4, "seed": 1, "progress": False}
    with strategy.scope(), pytest.raises(ValueError, match=message):
        sample(tilt_of(targets.relu()), **settings | options)


# Kept and changed states


@pytest.mark.parametrize(
    "kernel, ladder",
    slow_but(
        [("split", None), ("hmc", LADDER)], itertools.product(KERNELS, (None, LADDER))
    ),
)
def test_a_packed_state_goes_on_bit_for_bit(kernel, ladder):
    tilt = tilt_of(targets.relu())
    settings = settings_of(ladder=ladder)
    chains = chains_of(tilt, kernel, inverse_temperatures=ladder)
    start, _ = chains.start(noise_of(), settings)
    half, _ = advanced(chains, start, settings, range(3))
    packed = [np.array(part) for part in chains.pack(half)]
    whole, numbers = advanced(chains, half, settings, range(3, 6))
    other = chains_of(tilt, kernel, inverse_temperatures=ladder)
    template, _ = other.start(noise_of(), settings)
    resumed, again = advanced(
        other, other.unpack(packed, template), settings, range(3, 6)
    )
    np.testing.assert_array_equal(chains.noise_of(whole), other.noise_of(resumed))
    for name, values in numbers.items():
        np.testing.assert_array_equal(values, again[name])


@pytest.mark.parametrize("kernel", KERNELS)
def test_another_scale_or_step_makes_a_new_start(kernel):
    """What the kernel remembers of a place under one setting is not used in another."""
    chains = chains_of(tilt_of(targets.relu()), kernel)
    first, second = settings_of(), settings_of(step=0.2, scale=0.4)
    state, _ = chains.start(noise_of(), first)
    changed, _ = advanced(chains, state, second, [0])
    fresh, _ = chains.start(noise_of(), second)
    expected, _ = advanced(chains, fresh, second, [0])
    np.testing.assert_allclose(
        chains.noise_of(changed), chains.noise_of(expected), atol=1e-6
    )
    stale, _ = advanced(chains, state._replace(parameters=second), second, [0])
    if kernel != "hmc":
        assert np.abs(chains.noise_of(stale) - chains.noise_of(expected)).max() > 1e-3


def test_at_another_scale_f_is_not_computed_anew_unless_it_was_nothing(monkeypatch):
    """From a scale of 0, which leaves nothing of f, it is."""
    chains = chains_of(tilt_of(targets.quadratic()))
    start, started = ChainGraphs.start, []
    monkeypatch.setattr(
        ChainGraphs, "start", lambda *args: started.append(1) or start(*args)
    )
    new = settings_of(step=0.45, scale=3.0)  # of which some ends are rejected
    for before, count in ((2.0, 0), (0.0, 1)):
        state, _ = chains.start(noise_of(40), settings_of(scale=before))
        started.clear()
        found, numbers = advanced(chains, state, new, [0])
        assert len(started) == count
        fresh, _ = chains.start(noise_of(40), new)
        expected, same = advanced(chains, fresh, new, [0])
        assert 0 < np.mean(same["is_accepted"]) < 1
        np.testing.assert_allclose(
            chains.noise_of(found), chains.noise_of(expected), atol=1e-6
        )
        np.testing.assert_allclose(numbers["f"], same["f"], rtol=1e-5, atol=1e-6)


def test_a_langevin_step_of_another_length_makes_a_new_start():
    chains = chains_of(tilt_of(targets.relu()), "mala")
    first, second = settings_of(), settings_of(step=0.8)
    state, _ = chains.start(noise_of(), first)
    changed, _ = advanced(chains, state, second, [0])
    fresh, _ = chains.start(noise_of(), second)
    expected, _ = advanced(chains, fresh, second, [0])
    np.testing.assert_allclose(
        chains.noise_of(changed), chains.noise_of(expected), atol=1e-6
    )


def test_rows_draw_by_their_own_numbers():
    base = white_noise(SHAPE).distribution
    noise = np.zeros([2, 3, *SHAPE], np.float32)
    settings = KernelParameters(np.full([2], 0.5), 1, np.ones([2]))

    def moved(rows):
        flat = lambda z: tf.zeros(z.shape[:2])  # noqa: E731
        chains = Chains(ChainGraphs(flat, tf.identity, base, "split"), rows)
        state, _ = chains.start(noise, settings)
        return chains.noise_of(advanced(chains, state, settings, [0])[0])

    first, other = moved([0, 1]), moved([0, 5])
    np.testing.assert_array_equal(first[0], other[0])
    assert np.all(first[0] != first[1]) and np.all(first[1] != other[1])


# The numbers


def test_functionals_are_what_their_names_say():
    base = white_noise(SHAPE).distribution
    directions = projection_directions(SHAPE)
    np.testing.assert_array_equal(directions, projection_directions(SHAPE))
    np.testing.assert_allclose(np.linalg.norm(directions, axis=0), 1.0, rtol=1e-5)
    assert np.linalg.matrix_rank(directions) == 8
    noise = noise_of(50)
    images = 3.0 * noise + 1.0
    observed = functionals(tf.constant(noise), tf.constant(images), base, directions)
    assert tuple(observed) == functional_names(SHAPE)
    flat = noise.reshape(50, -1)
    wave = np.cos(np.pi * np.outer([1, 2], [1, 3, 5]) / 6)  # of three pixels
    expected = {
        "log q": -((flat**2).sum(1) + 9 * np.log(2 * np.pi)) / 2,
        "image norm": np.sqrt((images[0] ** 2).mean(axis=(1, 2, 3))),
        "low frequency 0,0": images[0].mean(axis=(1, 2, 3)),
        "low frequency 0,1": (images[0, ..., 0] @ wave[0]).mean(axis=1) / 3,
        "low frequency 1,1": np.einsum("nij,i,j", images[0, ..., 0], wave[0], wave[0])
        / 9,
        "low frequency 2,0": np.einsum("nij,i->n", images[0, ..., 0], wave[1]) / 9,
        **{f"projection {i}": flat @ directions[:, i] for i in range(8)},
    }
    for name, values in expected.items():
        np.testing.assert_allclose(observed[name][0], values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "shape, low", [([], 1), ([7], 3), ([1, 2, 1], 2), ([2, 2], 4), ([5, 5, 3], 6)]
)
def test_any_shape_has_the_low_frequencies_that_it_can_hold(shape, low):
    base = white_noise(shape).distribution if shape else tfd.Normal(0.0, 1.0)
    noise = tf.ones([1, 4, *shape])
    observed = functionals(noise, noise, base, projection_directions(shape))
    names = [name for name in observed if name.startswith("low")]
    assert len(names) == low
    np.testing.assert_allclose(observed["low frequency 0,0"], 1.0, rtol=1e-6)
    for name in names[1:]:
        np.testing.assert_allclose(observed[name], 0.0, atol=1e-6)


@pytest.mark.parametrize("kernel", ["split", "hmc"])
def test_the_energy_is_that_of_the_start_of_a_trajectory(kernel):
    """With a momentum N(0, I) it is the potential and half a chi-squared number."""
    target = targets.linear()
    chains = chains_of(tilt_of(target), kernel)
    noise = np.repeat(noise_of(1), 4000, axis=1)
    state, _ = chains.start(noise, settings_of())
    _, numbers = advanced(chains, state, settings_of(), [0])
    potential = -tilt_of(target).noise_log_prob(noise[0, :1]).numpy()
    kinetic = numbers["energy"][0] - potential
    assert stats.kstest(2 * kinetic, stats.chi2(9).cdf).pvalue > 1e-3


def test_energies_are_of_kernels_with_a_momentum():
    for kernel, ladder in (("mala", None), ("split", LADDER)):
        chains = chains_of(tilt_of(targets.relu()), kernel, inverse_temperatures=ladder)
        state, _ = chains.start(noise_of(), settings_of(ladder=ladder))
        _, numbers = advanced(chains, state, settings_of(ladder=ladder), [0])
        assert "energy" not in numbers


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_proposal_far_from_the_shell_of_its_energy_is_divergent(kernel):
    tilt = Tilt(lambda x: -1e3 * tf.reduce_sum(x**2, [1, 2, 3]), white_noise(SHAPE))
    chains = chains_of(tilt, kernel)
    for step, divergent in ((0.01, False), (1.5, True)):
        state, _ = chains.start(0.01 * noise_of(), settings_of(step=step))
        _, numbers = advanced(chains, state, settings_of(step=step), [0])
        assert np.all(numbers["is_divergent"] == divergent)


def test_the_slope_at_the_start_is_the_largest_derivative_or_not_finite():
    weights = tf.reshape(tf.range(9.0) - 3.0, SHAPE)
    tilt = Tilt(
        lambda x: tf.reduce_sum(weights * tf.sqrt(x), axis=[1, 2, 3]),
        white_noise(SHAPE),
    )
    noise = np.ones([1, 3, *SHAPE], np.float32)
    noise[0, 1, 0, 0, 0] = -1.0
    noise[0, 2, 2, 2, 0] = 0.0
    _, numbers = chains_of(tilt).start(noise, settings_of())
    assert numbers["slope"][0, 0] == 2.5  # 5 / 2
    assert not np.isfinite(numbers["slope"][0, 1:]).any()


def test_a_standard_normal_is_known_by_its_density():
    normal = tfd.Normal(0.0, 1.0)
    assert is_standard_normal(tfd.Sample(normal, SHAPE))
    assert is_standard_normal(tfd.MultivariateNormalDiag(tf.zeros([3])))
    assert is_standard_normal(white_noise(SHAPE).distribution)
    for other in (
        tfd.Sample(tfd.Normal(0.0, 1.01), SHAPE),
        tfd.Sample(tfd.Normal(0.01, 1.0), SHAPE),
        tfd.Sample(tfd.StudentT(30.0, 0.0, 1.0), SHAPE),
        tfd.Sample(tfd.Gamma(2.0, 1.0), SHAPE),
        box(SHAPE),
    ):
        assert not is_standard_normal(other)
