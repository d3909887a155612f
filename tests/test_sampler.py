"""The sampler leaves the tilted density invariant, finds it, and says when it fails."""

import dataclasses

import arviz
import numpy as np
import pytest
import targets
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

from keras_tilt import sampler
from keras_tilt.reference import white_noise
from keras_tilt.sampler import PAPER_LENET, sample
from keras_tilt.tilt import Tilt

SHAPE = targets.SHAPE
FEW = 4.0  # standard errors

# Steps for which one iteration refreshes most of the state and still rejects some.
ONE_STEP = {
    "linear": {"step_size": 0.9, "num_leapfrog_steps": 2},
    "quadratic": {"step_size": 0.55, "num_leapfrog_steps": 2},
    "relu": {"step_size": 0.9, "num_leapfrog_steps": 2},
    "box": {"step_size": 0.8, "num_leapfrog_steps": 2},
}
curved_targets = pytest.mark.parametrize(
    "target", targets.all_targets()[:4], ids=lambda target: target.name
)


def tilt_of(target):
    return Tilt(target.unit, target.reference())


def quick(tilt, num_chains=4, num_results=10, num_burnin_steps=0, **kwargs):
    settings = {"seed": 7, "step_size": 0.3, "num_leapfrog_steps": 3, "progress": False}
    settings |= kwargs
    return sample(tilt, num_chains, num_results, num_burnin_steps, **settings)


@dataclasses.dataclass(frozen=True)
class Sharpened(Tilt):
    """A wrong tilt: 1.1 times the log density."""

    def noise_log_prob(self, noise):
        return 1.1 * super().noise_log_prob(noise)


def after_one_step(tilt, target):
    """Exact draws of the target, and where one HMC iteration takes them."""
    start = tilt.to_noise(target.draw(8_000, seed=5))
    samples = quick(tilt, 8_000, 1, initial_noise=start, **ONE_STEP[target.name])
    return samples.images[0], samples.diagnostics.accept_rate


def p_values(target, images):
    """Kolmogorov-Smirnov along one direction, and of the radius of the scores."""
    radius = np.sum(target.scores(images) ** 2, axis=1)
    return (
        stats.kstest(target.project(images), target.cdf).pvalue,
        stats.kstest(radius, stats.chi2(target.mean.size).cdf).pvalue,
    )


@curved_targets
def test_one_step_leaves_the_tilted_density_invariant(target):
    images, accept_rate = after_one_step(tilt_of(target), target)
    assert 0.5 < accept_rate < 0.99
    assert min(p_values(target, images)) > 1e-3


@curved_targets
def test_one_step_of_a_tenth_more_log_density_is_found_out(target):
    wrong = Sharpened(target.unit, target.reference())
    images, accept_rate = after_one_step(wrong, target)
    assert 0.5 < accept_rate < 0.99
    assert min(p_values(target, images)) < 2e-5


@pytest.fixture(scope="module")
def long_run():
    target = targets.linear((5, 5, 1))
    tilt = tilt_of(target)
    return target, sample(tilt, 16, 400, 200, seed=7, num_leapfrog_steps=3)


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
    assert samples.images.shape == samples.noise.shape == (400, 16, 5, 5, 1)
    assert samples.warmup_f.shape == (200, 16)
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


def test_the_adapted_step_accepts_about_as_often_as_asked(long_run):
    _, samples = long_run
    assert 0.7 < samples.diagnostics.accept_rate < 0.9
    assert samples.diagnostics.step_size == samples.step_size
    assert samples.diagnostics.num_nonfinite == 0


def test_r_hat_and_ess_are_those_of_arviz(long_run):
    _, samples = long_run
    data = samples.to_arviz()
    assert samples.diagnostics.r_hat == pytest.approx(float(arviz.rhat(data)["f"]))
    assert samples.diagnostics.ess == pytest.approx(float(arviz.ess(data)["f"]))
    np.testing.assert_array_equal(data.sample_stats["lp"].T, samples.log_prob)


def test_after_the_warm_up_every_draw_is_a_plain_hmc_step_from_the_one_before():
    tilt = tilt_of(targets.relu())
    samples = quick(tilt, num_results=5, num_burnin_steps=30, step_size=None)
    _, seed = tfp.random.split_seed(sampler._stateless_seed(7), n=2)

    def largest_error(step_size):
        kernel = tfp.mcmc.HamiltonianMonteCarlo(tilt.noise_log_prob, step_size, 3)
        errors = []
        for i in range(4):
            noise = tf.constant(samples.noise[i])
            results = kernel.bootstrap_results(noise)
            iteration_seed = tf.random.fold_in(seed, 30 + i + 1)
            following, _ = kernel.one_step(noise, results, seed=iteration_seed)
            errors.append(np.abs(following - samples.noise[i + 1]).max())
        return max(errors)

    assert largest_error(samples.step_size) < 1e-5
    assert largest_error(1.01 * samples.step_size) > 1e-3


def test_equal_seeds_give_identical_samples_and_other_seeds_do_not():
    tilt = tilt_of(targets.relu())
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
    tilt = tilt_of(targets.relu())
    short, long = (quick(tilt, num_results=n) for n in (5, 9))
    np.testing.assert_array_equal(short.noise, long.noise[:5])


def test_a_zero_tilt_samples_the_reference():
    target = targets.constant()
    samples = quick(tilt_of(target), 500, 4, step_size=0.5)
    assert np.all(samples.f == 0.0)
    assert min(p_values(target, samples.images[-1])) > 1e-3
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


def interrupted_after(monkeypatch, iterations):
    class Bar(sampler.tqdm):
        def update(self, n=1):
            self.done = getattr(self, "done", 0) + n
            if self.done == iterations:
                raise KeyboardInterrupt

    monkeypatch.setattr(sampler, "tqdm", Bar)


def test_ctrl_c_while_sampling_returns_the_draws_made(monkeypatch):
    tilt = tilt_of(targets.linear())
    whole = quick(tilt, num_results=20, num_burnin_steps=5)
    interrupted_after(monkeypatch, 5 + 12)
    with pytest.warns(UserWarning, match="interrupted: 8 of 20"):
        part = quick(tilt, num_results=20, num_burnin_steps=5)
    np.testing.assert_array_equal(part.images, whole.images[:12])
    assert part.f.shape == part.is_accepted.shape == (12, 4)
    assert "interrupted 8 draws before the end" in part.diagnostics.verdict


@pytest.mark.parametrize("iterations", [2, 5 + 3])
def test_ctrl_c_before_there_are_four_draws_stops(monkeypatch, iterations):
    interrupted_after(monkeypatch, iterations)
    with pytest.raises(KeyboardInterrupt):
        quick(tilt_of(targets.linear()), num_results=20, num_burnin_steps=5)


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


def test_something_else_than_a_tilt_is_a_type_error():
    with pytest.raises(TypeError, match="`tilt` must be a Tilt"):
        quick(targets.linear().unit)
