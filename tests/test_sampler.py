"""The sampler leaves the tilted density invariant, finds it, and says when it fails."""

import functools
import gc
import itertools
import weakref

import arviz
import keras
import numpy as np
import pytest
import targets
import tensorflow as tf
import tensorflow_probability as tfp
from cases import slow_but
from scipy import stats
from small_network import small_network

from keras_tilt.partition.estimators import log_partition
from keras_tilt.reference.distributions import (
    spectral_noise,
    squash,
    white_noise,
)
from keras_tilt.reference.generators import latent
from keras_tilt.sampling.kernels import KERNELS, chain_seeds, transition_kernel
from keras_tilt.sampling.sampler import PAPER_LENET, sample
from keras_tilt.sampling.samples import Images
from keras_tilt.sampling.schedule import stateless_seed
from keras_tilt.tilt import Tilt
from keras_tilt.units.selection import unit

SHAPE = targets.SHAPE
FEW = 4.0  # standard errors


def tilt_of(target):
    return Tilt(target.unit, target.reference())


def quick(tilt, num_chains=4, num_results=10, num_burnin_steps=0, **kwargs):
    settings = {"seed": 7, "step_size": 0.3, "num_leapfrog_steps": 3, "progress": False}
    settings |= kwargs
    return sample(tilt, num_chains, num_results, num_burnin_steps, **settings)


@functools.cache
def relu_tilt():
    """Of a network of one unit, with which the graphs that are traced are kept."""
    keras.utils.set_random_seed(0)
    layers = [keras.Input(SHAPE), keras.layers.Flatten()]
    layers += [keras.layers.Dense(1, "relu", name="relu")]
    return Tilt(unit(keras.Sequential(layers), "relu:0"), white_noise(SHAPE, stddev=2))


@pytest.fixture(scope="module")
def long_run():
    target = targets.linear((5, 5, 1))
    tilt = tilt_of(target)
    return target, sample(tilt, 64, 100, 60, seed=7)


def deviations(values, exact):
    """(mean - exact) / MCSE for each pixel of values [draws, chains, ...]."""
    flat = np.float64(values).reshape(*values.shape[:2], -1)
    means = flat.mean(axis=(0, 1)) - np.ravel(exact)
    errors = [arviz.mcse(flat[..., i].T, method="mean") for i in range(flat.shape[-1])]
    return means / np.array(errors)


def test_a_linear_unit_moves_the_mean_by_s2_w_and_keeps_the_variance(long_run):
    target, samples = long_run
    assert np.abs(deviations(samples.images, target.mean)).max() < FEW
    squares = (samples.images - target.mean) ** 2
    assert np.abs(deviations(squares, target.variance)).max() < FEW
    assert np.abs(deviations(squares, 1.1 * target.variance)).max() > FEW
    assert np.abs(deviations(samples.images, 1.1 * target.mean)).max() > FEW


def test_the_record_is_consistent_with_itself(long_run):
    target, samples = long_run
    tilt = tilt_of(target)
    assert samples.images.shape == samples.noise.shape == (100, 64, 5, 5, 1)
    assert samples.warmup_f.shape == (60, 64)
    np.testing.assert_allclose(samples.images[3], tilt.to_images(samples.noise[3]))
    np.testing.assert_allclose(
        samples.f[3], target.unit(samples.images[3]), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(
        samples.log_prob[3], tilt.noise_log_prob(samples.noise[3]), rtol=1e-5
    )
    moved = np.any(np.diff(samples.noise, axis=0) != 0, axis=(2, 3, 4))
    np.testing.assert_array_equal(moved, samples.is_accepted[1:])
    assert samples.diagnostics.accept_rate == samples.is_accepted.mean()
    assert str(samples.diagnostics) in repr(samples)


@pytest.mark.parametrize(
    "kernel, target_accept_prob",
    slow_but([("split", 0.65)], itertools.product(KERNELS, (0.65, 0.85))),
)
def test_the_adapted_step_accepts_about_as_often_as_asked(kernel, target_accept_prob):
    """Of an f curved so strongly that the step stays below pi / 2."""
    samples = sample(
        *(tilt_of(targets.quadratic(stddev=10.0)), 100, 40, 100),
        **{"seed": 7, "kernel": kernel, "progress": False},
        target_accept_prob=target_accept_prob,
    )
    accept_rate = samples.diagnostics.accept_rate
    assert abs(accept_rate - target_accept_prob) < 0.06
    assert samples.diagnostics.step_size == samples.step_size
    assert samples.diagnostics.num_nonfinite == 0


def test_r_hat_and_ess_are_those_of_arviz(long_run):
    _, samples = long_run
    data = samples.to_arviz()
    assert samples.diagnostics.r_hat == pytest.approx(float(arviz.rhat(data)["f"]))
    assert samples.diagnostics.ess == pytest.approx(float(arviz.ess(data)["f"]))
    np.testing.assert_array_equal(data.sample_stats["lp"].T, samples.log_prob)


@pytest.mark.parametrize("kernel", slow_but(["split", "hmc"], KERNELS))
def test_after_the_warm_up_every_draw_is_a_step_of_the_kernel_from_the_one_before(
    kernel,
):
    tilt = relu_tilt()
    samples = quick(
        tilt, num_results=5, num_burnin_steps=30, step_size=None, kernel=kernel
    )
    _, seed = tfp.random.split_seed(tf.constant(stateless_seed(7)), n=2)

    def largest_error(step_size):
        advance = transition_kernel(
            kernel,
            lambda noise: tilt.response(tilt.to_images(noise)),
            tilt.base,
            tf.constant(step_size),
            3,
        )
        errors = []
        for i in range(4):
            noise = tf.constant(samples.noise[i])
            results = advance.bootstrap_results(noise)
            of_iteration = tf.random.fold_in(seed, 30 + i + 1)
            of_chains = chain_seeds(of_iteration, tf.range(4))
            following, _ = advance.one_step(
                noise, results, seed=of_chains if kernel == "split" else of_iteration
            )
            errors.append(np.abs(following - samples.noise[i + 1]).max())
        return max(errors)

    assert largest_error(samples.step_size) < 1e-5
    assert largest_error(1.01 * samples.step_size) > 1e-3


def test_equal_seeds_give_identical_samples_and_other_seeds_do_not():
    tilt = relu_tilt()
    adapted = {"step_size": None, "num_burnin_steps": 10}
    first, second = (quick(tilt, seed=3, **adapted) for _ in range(2))
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.warmup_f, second.warmup_f)
    assert first.step_size == second.step_size
    np.testing.assert_array_equal(
        first.images, quick(tilt, seed=[0, 3], **adapted).images
    )
    for other in (4, 3 + 2**31, [3, 0]):
        assert np.all(first.images[-1] != quick(tilt, seed=other, **adapted).images[-1])


def test_a_longer_run_repeats_a_shorter_one():
    tilt = relu_tilt()
    short, long = (quick(tilt, num_results=n) for n in (5, 9))
    np.testing.assert_array_equal(short.noise, long.noise[:5])


def test_a_zero_tilt_samples_the_reference():
    target = targets.constant()
    samples = quick(tilt_of(target), 500, 4, step_size=0.5)
    assert np.all(samples.f == 0.0)
    assert min(target.p_values(samples.images[-1])) > 1e-3
    assert not samples.diagnostics.converged
    assert "constant" in samples.diagnostics.verdict


def test_chains_start_from_exact_draws_of_the_base_unless_told_otherwise():
    tilt = tilt_of(targets.linear())
    still = quick(tilt, 2_000, 1, step_size=1e-6, num_leapfrog_steps=1)
    assert stats.kstest(still.noise.ravel(), stats.norm.cdf).pvalue > 1e-3
    start = tf.ones([4, *SHAPE])
    still = quick(tilt, 4, 1, step_size=1e-6, initial_noise=start)
    np.testing.assert_allclose(still.noise[0], start, atol=1e-4)


def nan_beyond(threshold):
    """A linear unit that is NaN where the first pixel exceeds a threshold."""
    unit = targets.linear(stddev=1.0).unit

    def broken(images):
        return tf.where(images[:, 0, 0, 0] > threshold, np.nan, unit(images))

    return Tilt(broken, white_noise(SHAPE)), Tilt(unit, white_noise(SHAPE))


def test_a_nan_proposal_is_rejected_counted_and_does_not_spread():
    broken, sound = nan_beyond(1.0)
    start = tf.zeros([200, *SHAPE])
    settings = {"initial_noise": start, "step_size": 0.6}
    with_nan = quick(broken, 200, 1, **settings)
    without = quick(sound, 200, 1, **settings)
    proposed_nan = without.noise[0, :, 0, 0, 0] > 1.0
    assert 0 < proposed_nan.sum() <= with_nan.diagnostics.num_nonfinite < 200
    stayed = ~with_nan.is_accepted[0]
    np.testing.assert_array_equal(with_nan.noise[0, stayed], start[: stayed.sum()])
    assert np.all(stayed[proposed_nan])
    np.testing.assert_array_equal(with_nan.noise[0, ~stayed], without.noise[0, ~stayed])


def test_chains_beside_a_nan_region_keep_to_the_finite_part():
    broken, _ = nan_beyond(0.5)
    start = tf.zeros([50, *SHAPE])
    samples = quick(
        broken, 50, 40, 20, initial_noise=start, step_size=None, num_leapfrog_steps=2
    )
    assert np.all(np.isfinite(samples.f)) and np.all(np.isfinite(samples.log_prob))
    assert samples.images[:, :, 0, 0, 0].max() <= 0.5
    assert samples.diagnostics.num_nonfinite > 0
    assert samples.diagnostics.num_nonfinite_warmup > 0
    assert "non-finite" in samples.diagnostics.verdict
    assert np.isfinite(samples.step_size)


def test_chains_that_cannot_start_are_counted_in_the_error():
    broken, _ = nan_beyond(0.5)
    start = np.zeros([4, *SHAPE], np.float32)
    start[1:] = 1.0
    with pytest.raises(ValueError, match="Received: 3 of 4 chains"):
        quick(broken, initial_noise=start)


def test_the_graph_does_not_grow_with_the_number_of_iterations():
    def calls(num_results):
        count = []

        def unit(images):
            count.append(1)
            return targets.linear().unit(images)

        quick(Tilt(unit, white_noise(SHAPE)), num_results=num_results)
        return len(count)

    assert calls(3) == calls(30)


def test_the_progress_bar_shows_acceptance_and_mean_f(capsys):
    quick(tilt_of(targets.linear()), progress=True)
    bar = capsys.readouterr().err
    assert "sampling" in bar and "accepted=" in bar and "f=" in bar
    quick(tilt_of(targets.linear()), progress=False)
    assert capsys.readouterr().err == ""


def test_the_paper_preset_is_its_step_in_units_of_noise():
    step, mass, stddev = 1e-4, 1e-4, 10.0
    assert PAPER_LENET["step_size"] == pytest.approx(step / np.sqrt(mass) / stddev)
    target = targets.linear(stddev=stddev, scale=0.01)
    samples = sample(
        tilt_of(target), 2, seed=1, progress=False, **PAPER_LENET | {"num_results": 4}
    )
    assert samples.step_size == 0.001 and samples.num_leapfrog_steps == 100
    assert samples.diagnostics.accept_rate == 1.0
    assert not samples.diagnostics.converged


@pytest.mark.parametrize(
    "name, value",
    [
        ("num_chains", 0),
        ("num_chains", 2.0),
        ("num_results", -1),
        ("num_burnin_steps", -1),
        ("num_leapfrog_steps", 0),
        ("num_leapfrog_steps", True),
        ("target_accept_prob", 0.0),
        ("target_accept_prob", 1.0),
        ("step_size", 0.0),
        ("step_size", -0.1),
        ("step_size", np.nan),
        ("initial_noise", np.zeros([3, *SHAPE])),
        ("initial_noise", np.full([4, *SHAPE], np.nan)),
        ("seed", -1),
    ],
)
def test_an_argument_out_of_range_is_an_error_that_names_it(name, value):
    with pytest.raises(ValueError, match=rf"`{name}` must .* Received: "):
        quick(tilt_of(targets.linear()), **{name: value})


def test_adaptation_without_a_warm_up_is_an_error():
    with pytest.raises(ValueError, match="num_burnin_steps"):
        quick(tilt_of(targets.linear()), step_size=None, num_burnin_steps=0)


@pytest.mark.parametrize("seed", [None, 1.5, "7", [1, 2, 3], True])
def test_a_seed_that_is_not_whole_numbers_is_a_type_error(seed):
    with pytest.raises(TypeError, match="`seed` must .* Received: "):
        quick(tilt_of(targets.linear()), seed=seed)


@pytest.mark.parametrize(
    "name",
    ["step_size", "target_accept_prob", "mass", "initial_noise"]
    + ["inverse_temperatures"],
)
@pytest.mark.parametrize("value", ["0.1", [[1.0], [1.0, 2.0]], 1j])
def test_what_is_no_number_is_an_error_that_names_the_argument(name, value):
    with pytest.raises(ValueError, match=rf"`{name}` must be a number"):
        quick(tilt_of(targets.linear()), **{name: value})


@pytest.mark.parametrize("pair", [(2**40, 1), (0, -(2**31) - 1)])
def test_a_pair_of_seeds_is_not_cut_to_32_bits(pair):
    with pytest.raises(ValueError, match="`seed` must be a pair .* of 32 bits"):
        quick(tilt_of(targets.linear()), seed=pair)


@pytest.mark.parametrize(
    "unit, message",
    [
        (lambda x: None, "Received: None"),
        (lambda x: x, "one number per image"),
        (lambda x: np.sum(np.asarray(x), axis=(1, 2, 3)), "Write it without"),
    ],
    ids=["nothing", "an image", "numpy"],
)
def test_a_function_that_is_no_unit_is_an_error_without_a_graph_in_it(unit, message):
    with pytest.raises(ValueError, match=message) as raised:
        quick(Tilt(unit, white_noise(SHAPE)))
    assert "in user code" not in str(raised.value)


@pytest.mark.parametrize(
    "kernel, ladder",
    slow_but(
        [("split", None), ("mala", (1.0, 0.5))],
        itertools.product(KERNELS, (None, (1.0, 0.5))),
    ),
)
def test_a_reference_in_float64_is_sampled_in_float64(kernel, ladder):
    flat = tfp.distributions.Normal(np.zeros((8, 8, 1)), 1.0)
    reference = tfp.distributions.Independent(flat, 3)
    classifier = small_network()
    units = [unit(classifier, class_index=k) for k in range(2)]
    samples = quick(
        [Tilt(one, reference) for one in units],
        kernel=kernel,
        inverse_temperatures=ladder,
    )
    for one, f in zip(samples, units, strict=True):
        assert one.noise.dtype == np.float64
        np.testing.assert_allclose(one.f[-1], f(one.noise[-1]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("callback", ["states.npy", 3])
def test_a_callback_that_cannot_be_called_is_a_type_error(callback):
    with pytest.raises(TypeError, match="`callback` must be a function"):
        quick(tilt_of(targets.linear()), callback=callback)


@pytest.mark.parametrize("number", [1, 3])
def test_a_list_of_tilts_starts_from_a_list_of_noises(number):
    tilts = [tilt_of(targets.linear()), relu_tilt()]
    starts = np.random.default_rng(0).normal(size=[3, 4, *SHAPE])
    still = {"step_size": 1e-6, "num_results": 1}
    samples = quick(tilts, initial_noise=starts[:2], **still)
    for one, start in zip(samples, starts, strict=False):
        np.testing.assert_allclose(one.noise[-1], start, atol=1e-4)
    (one,) = quick(tilts[:1], initial_noise=starts[:1], **still)
    np.testing.assert_array_equal(one.noise, samples[0].noise)
    with pytest.raises(ValueError, match=f"Received: {number} of them for 2 tilts"):
        quick(tilts, initial_noise=starts[:number], **still)


def test_something_else_than_a_tilt_is_a_type_error():
    with pytest.raises(TypeError, match="`tilt` must be a Tilt"):
        quick(targets.linear().unit)


# Several tilts


def tilts_of(units, scale=1.0):
    reference = white_noise((8, 8, 1), stddev=2.0)
    return [Tilt(one, reference, scale) for one in units]


def test_tilts_sampled_together_are_those_sampled_alone():
    classifier = small_network()
    units = [unit(classifier, class_index=k) for k in range(3)]
    together = quick(tilts_of(units))
    first = quick(tilts_of(units)[:1])[0]
    alone = quick(tilts_of(units)[0])
    np.testing.assert_array_equal(first.noise, alone.noise)
    np.testing.assert_allclose(together[0].noise, alone.noise, atol=1e-4)
    for samples, one in zip(together, units, strict=True):
        np.testing.assert_allclose(
            samples.f[3], one(samples.images[3]), rtol=1e-4, atol=1e-4
        )
    assert np.all(together[0].noise != together[1].noise)


def test_tilts_of_a_list_keep_their_references():
    """Although their units share a layer, and could be sampled in one graph."""
    classifier = small_network()
    units = [unit(classifier, class_index=k) for k in (0, 1, 0)]
    near, far = (white_noise((8, 8, 1), mean, stddev=0.1) for mean in (0.0, 50.0))
    tilts = [Tilt(*pair) for pair in zip(units, (near, far, near), strict=True)]
    samples = quick(tilts)
    for tilt, one, mean in zip(tilts, samples, (0.0, 50.0, 0.0), strict=True):
        assert abs(np.mean(one.images[-1]) - mean) < 1.0
        f = tilt.response(one.images[-1])
        np.testing.assert_allclose(one.f[-1], f, rtol=1e-4, atol=1e-4)
    assert np.all(samples[0].noise != samples[2].noise)


@pytest.mark.slow
def test_every_tilt_of_a_list_has_a_step_of_its_own_and_its_place():
    classifier = small_network()
    weak, strong = unit(classifier, class_index=0), 60 * unit(classifier, class_index=0)
    inner = unit(classifier, "conv1:2")
    settings = {"step_size": None, "num_burnin_steps": 50, "num_chains": 40}
    samples = quick(tilts_of([weak, inner, strong]), num_results=20, **settings)
    steps = [one.step_size for one in samples]
    assert steps[2] < 0.5 * steps[0]
    assert abs(samples[2].diagnostics.accept_rate - 0.8) < 0.1
    for one, f in zip(samples, (weak, inner, strong), strict=True):
        np.testing.assert_allclose(one.f[-1], f(one.images[-1]), rtol=1e-4, atol=1e-3)


def test_units_that_share_a_layer_take_one_pass():
    calls = []

    class Counted(keras.layers.Layer):
        def call(self, x):
            calls.append(x.shape)
            return x

    layers = [keras.Input((8, 8, 1)), Counted(), keras.layers.Flatten()]
    counted = keras.Sequential([*layers, keras.layers.Dense(5)])

    def traced(classes):
        units = [unit(counted, class_index=k) for k in classes]
        calls.clear()
        quick(tilts_of(units))
        return len(calls)

    assert traced([0, 1, 2, 3]) == traced([0, 1])
    assert calls[-1][0] in (2 * 4, None)


# Scale and temperature


def test_the_scale_tempers_the_tilt():
    target = targets.linear((5, 5, 1))
    colder = targets.linear((5, 5, 1), scale=3 * 0.25)
    tilt = Tilt(target.unit, target.reference(), scale=3.0)
    samples = sample(tilt, 64, 50, 40, seed=7, progress=False)
    assert np.abs(deviations(samples.images, colder.mean)).max() < FEW
    assert np.abs(deviations(samples.images, target.mean)).max() > FEW
    np.testing.assert_allclose(
        samples.f[-1], target.unit(samples.images[-1]), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        samples.log_prob[-1], tilt.noise_log_prob(samples.noise[-1]), rtol=1e-5
    )


def two_modes():
    """f = 6 |z_0|: modes at -6 and 6, and e^-18 of their density between them."""
    return Tilt(lambda z: 6.0 * tf.abs(z[:, 0]), white_noise([3]))


def share_above(samples):
    return np.mean(samples.noise[60:, :, 0] > 0, axis=0)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["split", "hmc"])
def test_a_ladder_of_temperatures_crosses_between_modes(kernel):
    tilt = two_modes()
    start = np.zeros([40, 3], np.float32) + np.float32([5.0, 0, 0])
    settings = {
        "initial_noise": start,
        "kernel": kernel,
        "num_leapfrog_steps": 4,
    }
    stuck = quick(tilt, 40, 120, **settings)
    # Down to where nothing stands in the way.
    ladder = (1.0, 0.75, 0.5, 0.3, 0.02)
    swapping = quick(tilt, 40, 250, inverse_temperatures=ladder, **settings)
    assert np.all(share_above(stuck) == 1.0)
    assert swapping.swap_accept_rate.shape == (4,)
    assert np.all(swapping.swap_accept_rate > 0.1)
    shares = share_above(swapping)
    error = np.std(shares, ddof=1) / np.sqrt(40)
    assert error < 0.1
    assert abs(shares.mean() - 0.5) < FEW * error
    absolute = np.abs(swapping.noise[60:, :, 0])
    # |z_0| is N(6, 1), but for e^-18.
    assert np.abs(deviations(absolute[..., None], 6.0)).max() < FEW
    assert not len(stuck.swap_accept_rate)


def test_given_states_are_not_molten_by_the_warm_up():
    tilt = two_modes()
    start = np.zeros([4, 3], np.float32) + np.float32([6.0, 0, 0])
    settings = {"step_size": None, "num_burnin_steps": 40}
    kept = quick(tilt, initial_noise=start, **settings)
    assert kept.warmup_f.min() > 6.0 * 1.0
    molten = quick(tilt, **settings)
    assert molten.warmup_f.min() < 6.0 * 1.0


def test_a_mass_below_one_shortens_the_trajectory():
    tilt = tilt_of(targets.constant())
    settings = {"step_size": None, "num_burnin_steps": 20, "num_leapfrog_steps": None}
    heavy = np.ones(SHAPE, np.float32)
    light = heavy.copy()
    light[0, 0, 0] = 0.25
    # Without a tilt any step is accepted: it is as long as the turn.
    assert quick(tilt, mass=heavy, **settings).step_size == pytest.approx(np.pi / 2)
    assert quick(tilt, mass=light, **settings).step_size == pytest.approx(np.pi / 4)


@pytest.mark.slow
def test_several_samplers_in_a_process_are_quiet(caplog):
    for _ in range(6):
        quick(tilt_of(targets.constant()), num_results=4)
    assert "retracing" not in caplog.text


# The unadjusted warm-up, and superchains


@pytest.mark.slow
def test_an_unadjusted_warm_up_ends_in_exact_draws():
    """Long steps without a test, then the adapted ones with it."""
    target = targets.linear()
    samples = sample(
        tilt_of(target),
        num_chains=200,
        num_results=40,
        num_burnin_steps=60,
        approach_step_size=0.5,
        seed=5,
        progress=False,
    )
    last = samples.images[-1]
    assert min(target.p_values(last)) > 1e-4
    assert samples.step_size < 1.5


def test_an_unadjusted_warm_up_accepts_all_proposals_but_the_divergent():
    def moves(curvature, step):
        tilt = Tilt(
            lambda x: -curvature * tf.reduce_sum(x**2, [1, 2, 3]) / 2,
            white_noise(SHAPE, stddev=1.0),
        )
        settings = {"num_burnin_steps": 20, "step_size": None, "num_leapfrog_steps": 4}
        run = quick(tilt, num_chains=20, approach_step_size=step, **settings)
        assert np.all(np.isfinite(run.f))
        f = run.warmup_f[:8]  # of a chain that stays, up to rounding: the scale rises
        return np.mean(~np.isclose(f[1:], f[:-1], rtol=1e-5, atol=0.0))

    assert moves(4.0, 0.8) == 1.0  # of which the test would take two thirds
    assert moves(1e4, 0.8) < 0.3  # unstable: z grows a thousandfold a step


@pytest.mark.parametrize(
    "change",
    [
        {"approach_step_size": 0.0},
        {"approach_step_size": 0.1, "kernel": "hmc"},
        {"approach_step_size": 0.1, "inverse_temperatures": (1.0, 0.5)},
        {"approach_step_size": 0.1, "initial_noise": np.zeros([4, *SHAPE])},
    ],
)
def test_an_invalid_unadjusted_warm_up_is_an_error(change):
    with pytest.raises(ValueError, match="`approach_step_size`"):
        quick(tilt_of(targets.linear()), **change)


def test_superchains_share_their_start_and_have_a_nested_r_hat():
    tilt = relu_tilt()
    starts = quick(
        tilt, num_chains=6, num_superchains=3, num_burnin_steps=1, step_size=1e-6
    ).noise[0]
    pairs = starts.reshape(3, 2, *SHAPE)
    np.testing.assert_allclose(pairs[:, 0], pairs[:, 1], atol=1e-4)
    assert np.all(np.abs(pairs[0, 0] - pairs[1, 0]) > 1e-4)
    samples = quick(tilt, num_chains=6, num_superchains=3)
    assert np.isfinite(samples.diagnostics.nested_r_hat)
    assert np.isnan(quick(tilt).diagnostics.nested_r_hat)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_superchains": 3}, "`num_superchains` must divide `num_chains`"),
        ({"num_superchains": 1}, "`num_superchains` must be a whole number from 2"),
        (
            {"num_superchains": 2, "initial_noise": np.eye(4, 9).reshape(4, *SHAPE)},
            "same for all chains of a superchain",
        ),
    ],
)
def test_superchains_that_cannot_be_are_errors(change, message):
    with pytest.raises(ValueError, match=message):
        quick(relu_tilt(), num_chains=4, **change)


def test_the_numbers_of_arviz_for_its_own_record_are_ours():
    samples = quick(relu_tilt(), num_results=60, num_burnin_steps=30)
    data, ours = samples.to_arviz(), samples.diagnostics
    assert arviz.rhat(data)["f"] == ours.r_hat
    assert arviz.ess(data)["f"] == ours.ess
    assert arviz.ess(data, method="tail")["f"] == ours.ess_tail
    assert arviz.mcse(data)["f"] == ours.mcse
    assert arviz.bfmi(data).min() == pytest.approx(ours.e_bfmi, rel=1e-5)
    for name, one in ours.scalars.items():
        assert arviz.rhat(data)[name] == one.r_hat
    assert data.sample_stats["diverging"].sum() == ours.num_divergences


# Where the states go


def test_thinned_states_are_every_other_one_and_the_numbers_all():
    tilt = relu_tilt()
    whole, thinned = (quick(tilt, num_results=12, thin=n) for n in (1, 3))
    np.testing.assert_array_equal(thinned.noise, whole.noise[2::3])
    np.testing.assert_array_equal(thinned.f, whole.f)
    assert thinned.diagnostics.scalars == whole.diagnostics.scalars
    assert thinned.images.shape == (4, 4, *SHAPE)


def test_a_callback_gets_the_states_in_place_of_memory():
    tilt = relu_tilt()
    whole = quick(tilt, num_results=12)
    got = {}
    samples = quick(
        tilt,
        num_results=12,
        thin=3,
        callback=lambda draw, noise: got.update({draw: noise}),
    )
    assert list(got) == [2, 5, 8, 11]
    for draw, noise in got.items():
        np.testing.assert_array_equal(noise[0], whole.noise[draw])
    np.testing.assert_array_equal(samples.noise, whole.noise[-1:])
    assert samples.diagnostics.scalars == whole.diagnostics.scalars
    assert np.isnan(samples.diagnostics.worst_pixel_r_hat)  # of images not kept
    assert whole.diagnostics.worst_pixel_r_hat > 1


@pytest.mark.parametrize("kernel", slow_but(["hmc"], KERNELS))
def test_a_unit_may_be_a_function_with_conditions_and_loops_on_tensors(kernel):
    """They need the conversion that tf.function does, on every way to the gradient."""

    def unit(images):
        f = tf.reduce_sum(images, axis=1)
        if tf.reduce_max(f) > 1e9:
            f = tf.zeros_like(f)
        while tf.reduce_max(f) > 1e9:
            f = f / 2
        return f

    reference = white_noise([3])
    plain = Tilt(lambda images: tf.reduce_sum(images, axis=1), reference)
    one, other = (quick(t, kernel=kernel) for t in (Tilt(unit, reference), plain))
    np.testing.assert_array_equal(one.noise, other.noise)


@pytest.mark.parametrize("kernel", KERNELS)
def test_so_may_the_decoder_of_a_reference_beside_a_unit_that_is_a_function(kernel):
    def decode(noise):
        images = tf.tanh(noise)
        if tf.reduce_max(images) > 1e9:
            images = tf.zeros_like(images)
        return images

    def unit(images):
        return tf.reduce_sum(images, axis=1)

    references = (latent(decode, [3]), latent(tf.tanh, [3]))
    one, other = (quick(Tilt(unit, q), kernel=kernel) for q in references)
    np.testing.assert_array_equal(one.noise, other.noise)
    np.testing.assert_array_equal(one.images[-1], other.images[-1])


def test_images_are_made_when_asked_for():
    made = []

    def to_images(noise):
        made.append(len(noise))
        return 2.0 * noise

    noise = np.random.default_rng(0).normal(size=[5, 4, 2, 3])
    images = Images(noise, to_images, (2, 3))
    assert images.shape == (5, 4, 2, 3) and images.ndim == 4 and len(images) == 5
    assert not made
    np.testing.assert_array_equal(images[-1], 2 * noise[-1])
    np.testing.assert_array_equal(images[1, 2], 2 * noise[1, 2])
    np.testing.assert_array_equal(images[:, 0], 2 * noise[:, 0])
    np.testing.assert_array_equal(images[1:3], 2 * noise[1:3])
    assert made == [4, 1, 5, 4, 4]
    np.testing.assert_array_equal(images[:0], noise[:0])
    assert made == [4, 1, 5, 4, 4]
    np.testing.assert_array_equal(images, 2 * noise)
    np.testing.assert_array_equal(images - noise, noise)


# References that are no transports of white noise


INDICES = {
    "rows backwards": np.s_[-1, :, ::-1],
    "channels backwards": np.s_[:, :, :, :, ::-1],
    "a row": np.s_[0, 0, 0],
    "the first channel": np.s_[..., 0],
    "some rows": np.s_[:, :, 2:4],
    "a column of a chain": np.s_[:, 1, :, 3],
    "a pixel": np.s_[2, 1, 3, 4, 1],
    "a chain, dots": np.s_[:, 1, ...],
    "dots alone": np.s_[...],
    "some draws": np.s_[[0, 2], 1, 1:3],
    "a mask of draws": np.s_[[True, False, True]],
    "no draw": np.s_[:0, :, 2:4],
}


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_images_are_indexed_as_the_array_of_all_of_them(index):
    reference = spectral_noise((6, 5, 3), 0.5, 0.3)
    noise = reference.distribution.sample([3, 2], seed=[0, 1]).numpy()
    images = Images(noise, reference.bijector.forward, (6, 5, 3))
    exact = reference.bijector.forward(noise).numpy()[index]
    assert images[index].shape == exact.shape
    np.testing.assert_allclose(images[index], exact, atol=1e-5)


@pytest.mark.parametrize(
    "index",
    [np.s_[None], np.s_[..., ...], np.s_[0, 0, [1, 2]], np.s_[0, 0, 0, 0, 0, 0]]
    + [np.ones([3, 2], bool)],
)
def test_another_index_of_images_is_an_error_that_names_the_way_out(index):
    images = Images(np.zeros([3, 2, 6, 5, 3]), tf.identity, (6, 5, 3))
    with pytest.raises(IndexError, match="take np.asarray"):
        images[index]


def test_a_reference_of_another_kind_is_sampled_by_tfp_s_kernel():
    # Pixels of the size of a hundred: the step has a long way to go.
    gamma = tfp.distributions.Gamma(3.0, 0.04)
    reference = tfp.distributions.Sample(gamma, [4])
    tilt = Tilt(lambda images: 0.02 * tf.reduce_sum(images, axis=1), reference)
    samples = sample(tilt, 64, 150, 150, seed=7, progress=False)
    # Gamma(3, 0.04) tilted by 0.02 x is Gamma(3, 0.02).
    assert np.abs(deviations(samples.images, np.full(4, 150.0))).max() < FEW
    assert samples.num_leapfrog_steps == 10
    assert samples.noise.min() > 0
    with pytest.raises(ValueError, match="kernel='hmc'"):
        sample(tilt, 2, 4, 4, seed=7, kernel="split", progress=False)


# More errors


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("kernel", "nuts", "one of 'split', 'hmc', 'mala'"),
        ("thin", 3, "must divide `num_results`"),
        ("thin", 0, "whole number from 1"),
        ("max_leapfrog_steps", 0, "whole number from 1"),
        ("mass", 0.0, "positive and finite. Received: smallest 0"),
        ("mass", np.inf, "positive and finite"),
        ("mass", np.ones(4), r"broadcast to .*\(3, 3, 1\). Received: shape \(4,\)"),
        ("inverse_temperatures", (1.0,), "decrease from 1"),
        ("inverse_temperatures", (0.9, 0.5), "decrease from 1"),
        ("inverse_temperatures", (1.0, 0.5, 0.5), "decrease from 1"),
        ("inverse_temperatures", (1.0, 0.0), "all positive"),
        ("num_chains", 2**16 + 1, "from 1 to 65536"),
    ],
)
def test_an_option_out_of_range_is_an_error_that_says_what_would_do(
    name, value, message
):
    with pytest.raises(ValueError, match=rf"`{name}` .*{message}|{message}"):
        quick(tilt_of(targets.linear()), **{name: value})


def test_a_mass_without_the_split_kernel_is_an_error():
    with pytest.raises(ValueError, match="`mass` needs the kernel 'split'"):
        quick(tilt_of(targets.linear()), mass=2.0, kernel="hmc")


def test_an_empty_list_of_tilts_is_an_error():
    with pytest.raises(ValueError, match="an empty list"):
        quick([])


@pytest.mark.parametrize(
    "blind", [tf.round, lambda x: tf.cast(tf.argmax(x, 1), tf.float32)]
)
def test_a_unit_without_a_gradient_is_an_error_and_a_constant_one_is_none(blind):
    reference = white_noise([6])

    def f(images):
        values = blind(images)
        return values if values.shape.rank == 1 else tf.reduce_sum(values, axis=1)

    with pytest.raises(ValueError, match="gradient is zero in all 4 chains although"):
        quick(Tilt(f, reference))
    constant = Tilt(lambda images: tf.zeros_like(images[:, 0]), reference)
    assert quick(constant).diagnostics.accept_rate == 1.0


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_unit_with_an_infinite_gradient_at_the_start_is_an_error(kernel):
    tilt = Tilt(lambda images: tf.sqrt(tf.abs(images[:, 0])), white_noise([2]))
    with pytest.raises(
        ValueError, match="1 of 4 chains where .* the first of them chain 2"
    ):
        start = np.ones([4, 2], np.float32)
        start[2] = 0.0
        quick(tilt, initial_noise=start, kernel=kernel)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kernel, kind",
    [*itertools.product(KERNELS, ("white", "squashed spectral"))],
)
def test_no_graph_outlives_its_run(kernel, kind):
    """Of an ImageNet network it would be hundreds of megabytes for every unit."""
    reference = white_noise(SHAPE)
    if kind != "white":
        reference = squash(spectral_noise(SHAPE, stddev=0.3, exponent=1.0), -1.0, 1.0)
    graphs = []

    def total(images):
        if not tf.executing_eagerly():
            graphs.append(weakref.ref(tf.compat.v1.get_default_graph()))
        return tf.reduce_sum(images, axis=[1, 2, 3])

    tilt = Tilt(total, reference)
    sample(tilt, 2, 4, 4, seed=7, kernel=kernel, progress=False)
    log_partition(
        tilt, num_chains=20, num_steps=2, seed=7, kernel=kernel, progress=False
    )
    gc.collect()
    assert graphs and [graph() for graph in graphs if graph()] == []
