"""Every kernel keeps every tilted density, and the rotation is as exact as it says."""

import functools
import itertools

import keras
import numpy as np
import pytest
import targets
import tensorflow as tf
import tensorflow_probability as tfp
from cases import slow_but
from scipy import stats

from keras_tilt.reference.distributions import (
    spectral_noise,
    squash,
)
from keras_tilt.reference.generators import latent
from keras_tilt.reference.heavy_tails import wavelet_noise
from keras_tilt.sampling.kernels import (
    KERNELS,
    SplitHamiltonianMonteCarlo,
    Trajectory,
    chain_seeds,
    trajectory,
    transition_kernel,
)
from keras_tilt.sampling.response import Response, value_and_gradient
from keras_tilt.tilt import Tilt

SHAPE = targets.SHAPE
SIZE = int(np.prod(SHAPE))
CHAINS = 10_000
LADDER = (1.0, 0.7)

# Steps for which one iteration renews most of the state and still rejects some.
STEPS = {
    "split": {"linear": 1.1, "quadratic": 0.65, "relu": 1.1, "box": 1.1},
    "hmc": {"linear": 0.9, "quadratic": 0.55, "relu": 0.9, "box": 0.8},
    "mala": {"linear": 0.5, "quadratic": 0.42, "relu": 0.57, "box": 0.57},
}
LEAPFROG_STEPS = {"split": 2, "hmc": 2, "mala": 1}


def tilt_of(target):
    return Tilt(target.unit, target.reference())


def wavy(shape=(6,), dtype=tf.float32, scale=1.0):
    """A smooth f without symmetry: sum of sin(w z) and a slope."""
    weights = np.random.default_rng(2).normal(size=shape)

    def f(noise):
        weight = tf.constant(weights, noise.dtype)
        values = tf.sin(2 * weight * noise + weight) + 0.5 * weight * noise
        return scale * tf.reduce_sum(values, axis=list(range(-len(shape), 0)))

    return f


def start_of(f, chains=5, shape=(6,), dtype=tf.float64, seed=0):
    rng = np.random.default_rng(seed)
    noise, momentum = (
        tf.constant(rng.standard_normal([chains, *shape]), dtype) for _ in range(2)
    )
    f, gradient = value_and_gradient(f, noise)
    return Trajectory(noise, momentum, f, gradient, tf.zeros_like(f))


def gaussian_energy(at):
    return (_square(at.noise) + _square(at.momentum)) / 2


def _square(values):
    return tf.reduce_sum(values**2, axis=list(range(1, values.shape.rank)))


MASS = np.array([0.5, 1.0, 2.0, 4.0, 1.0, 3.0])
every_mass = pytest.mark.parametrize("mass", [1.0, MASS], ids=["unit mass", "masses"])


# The trajectory


@every_mass
def test_a_trajectory_run_backwards_returns_to_its_start(mass):
    f = wavy()
    start = start_of(f)
    end = trajectory(f, start, 0.3, 7, mass)
    back = trajectory(f, end._replace(momentum=-end.momentum), 0.3, 7, mass)
    np.testing.assert_allclose(back.noise, start.noise, atol=1e-12)
    np.testing.assert_allclose(back.momentum, -start.momentum, atol=1e-12)
    np.testing.assert_allclose(back.kicks, 0.0, atol=1e-12)
    assert np.abs(end.noise - start.noise).min() > 1e-3


@every_mass
def test_a_trajectory_keeps_the_volume(mass):
    f = wavy()
    start = start_of(f, chains=1)
    with tf.GradientTape() as tape:
        place = tf.concat([start.noise, start.momentum], axis=-1)
        tape.watch(place)
        noise, momentum = tf.split(place, 2, axis=-1)
        at = start._replace(noise=noise, momentum=momentum)
        at = at._replace(gradient=value_and_gradient(f, noise)[1])
        end = trajectory(f, at, 0.4, 3, mass)
        reached = tf.concat([end.noise, end.momentum], axis=-1)
    jacobian = tf.reshape(tape.jacobian(reached, place), [12, 12])
    assert np.linalg.det(jacobian) == pytest.approx(1.0, abs=1e-9)
    assert np.linalg.cond(jacobian) > 10


@every_mass
def test_the_energy_error_from_kicks_is_the_direct_difference(mass):
    f = wavy()
    start = start_of(f)
    end = trajectory(f, start, 0.3, 9, mass)
    direct = gaussian_energy(end) - end.f - gaussian_energy(start) + start.f
    from_kicks = start.f - end.f + end.kicks
    np.testing.assert_allclose(from_kicks, direct, atol=1e-12)
    assert np.abs(direct).min() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("mass", [1.0, MASS], ids=["unit mass", "masses"])
def test_the_energy_error_falls_as_the_square_of_the_step(mass):
    f = wavy()
    start = start_of(f, chains=200)

    def error(steps):
        end = trajectory(f, start, 1.2 / steps, steps, mass)
        return np.sqrt(np.mean((start.f - end.f + end.kicks) ** 2))

    ratios = np.array([error(n) / error(2 * n) for n in (16, 32, 64)])
    np.testing.assert_allclose(ratios, 4.0, rtol=0.05)


def test_hamilton_s_equations_are_followed():
    """Against tiny plain Euler steps of dz = momentum / m, in float64."""
    f = wavy()
    start = start_of(f, chains=2)
    steps = 4_000

    @tf.function
    def euler(noise, momentum):  # symplectic, error of first order
        for _ in tf.range(steps):
            momentum += (value_and_gradient(f, noise)[1] - noise) / steps
            noise += momentum / MASS / steps
        return noise, momentum

    noise, momentum = euler(start.noise, start.momentum * np.sqrt(MASS))
    end = trajectory(f, start, 1.0 / 200, 200, MASS)
    np.testing.assert_allclose(end.noise, noise, atol=3e-3)
    np.testing.assert_allclose(end.momentum * np.sqrt(MASS), momentum, atol=3e-3)


def test_steps_may_differ_from_chain_to_chain():
    f = wavy()
    start = start_of(f)
    steps = tf.constant([[0.1], [0.2], [0.3], [0.2], [0.1]], tf.float64)
    together = trajectory(f, start, steps, 3)
    for i in range(3):
        one = Trajectory(*(values[i : i + 1] for values in start))
        alone = trajectory(f, one, steps[i], 3)
        np.testing.assert_allclose(together.noise[i], alone.noise[0], rtol=1e-12)


# f = 0


def zero(noise):
    return tf.zeros_like(noise[:, 0])


def test_without_a_tilt_every_proposal_is_accepted_and_the_noise_only_turns():
    noise = start_of(zero, dtype=tf.float32).noise
    kernel = SplitHamiltonianMonteCarlo(zero, 0.3, 4)
    results = kernel.bootstrap_results(noise)
    seeds = chain_seeds([0, 7], tf.range(5))
    turned, results = kernel.one_step(noise, results, seed=seeds)
    np.testing.assert_array_equal(results.log_accept_ratio, 0.0)
    assert np.all(results.is_accepted)
    quarter = SplitHamiltonianMonteCarlo(zero, np.pi / 2, 1)
    momentum, _ = quarter.one_step(noise, quarter.bootstrap_results(noise), seed=seeds)
    np.testing.assert_allclose(
        turned, np.cos(1.2) * noise + np.sin(1.2) * momentum, atol=1e-6
    )


def test_a_trajectory_of_pi_over_2_without_a_tilt_is_an_independent_draw():
    kernel = SplitHamiltonianMonteCarlo(zero, np.pi / 2, 1)
    noise = tf.fill([500, 3], 5.0)
    drawn, _ = kernel.one_step(noise, kernel.bootstrap_results(noise), seed=[0, 1])
    assert stats.kstest(np.ravel(drawn), stats.norm.cdf).pvalue > 1e-3


# One step leaves the density as it is


def one_step(name, f, base, step, ladder=None):
    """(noise, *arguments of f) -> where one iteration takes it, and what it says."""

    @tf.function
    def run(noise, *arguments):
        kernel = transition_kernel(
            *(name, lambda noise: f(noise, *arguments), base, tf.constant(step)),
            *(LEAPFROG_STEPS[name], 1.0, ladder),
        )
        return kernel.one_step(noise, kernel.bootstrap_results(noise), seed=[0, 3])

    return run


def raised(tilt):
    """f such that exp(f) base = (exp(f) base)^power, in noise coordinates."""

    def f(noise, power):
        log_base = tilt.base.log_prob(noise)
        return power * tilt.response(tilt.to_images(noise)) + (power - 1) * log_base

    return f


@functools.cache
def steps_of(target, name):
    """A tilt, and the graph of an iteration for its density to any power."""
    tilt = tilt_of(target)
    return tilt, one_step(name, raised(tilt), tilt.base, STEPS[name][target.name])


def after_one_step(target, name, power=1.0):
    """Exact draws of a target after one iteration for its density to a power."""
    tilt, run = steps_of(target, name)
    start = tilt.to_noise(target.draw(CHAINS, seed=5))
    end, results = run(start, tf.constant(power))
    return tilt.to_images(end).numpy(), float(np.mean(results.is_accepted))


def crossed(others, quick):
    """Each of the others with each kernel: quick are all with ours, and some."""
    cases = [*itertools.product(others, KERNELS)]
    return slow_but([(one, "split") for one in others] + quick, cases)


LINEAR, QUADRATIC, RELU, BOX = targets.all_targets()[:4]
every_kernel_and_target = pytest.mark.parametrize(
    "target, name",
    crossed([LINEAR, QUADRATIC, RELU, BOX], [(RELU, "hmc"), (BOX, "mala")]),
    ids=lambda value: getattr(value, "name", value),
)


def shown(name, target, accept_rate, p_values):
    """The smallest p-value; all of them with `pytest -rP`."""
    listed = " ".join(f"{p:.2g}" for p in p_values)
    print(f"{name} on {target}: accepted {accept_rate:.0%}, p-values {listed}")
    return min(p_values)


def p_values_of(target, images):
    """KS along the direction and of the radius, and of mean and variance along it."""
    exact_mean = np.sum(target.mean * target.direction)
    along = target.project(images)
    spread = along - along.mean()
    errors = [
        (along.mean() - exact_mean) / (spread.std() / np.sqrt(CHAINS)),
        (spread.var() - exact_variance(target)) / ((spread**2).std() / np.sqrt(CHAINS)),
    ]
    return (*target.p_values(images), *(2 * stats.norm.sf(np.abs(errors))))


def exact_variance(target):
    """Along the direction, by quadrature of its distribution function."""
    t = np.linspace(-40, 40, 400_001)
    cdf = target.cdf(t)
    middle, mass = (t[1:] + t[:-1]) / 2, np.diff(cdf)
    return np.sum(mass * middle**2) - np.sum(mass * middle) ** 2


def check_accepted(accept_rate, is_exact):
    """All where f is linear and the rotation exact, else neither all nor few."""
    assert accept_rate == 1 if is_exact else 0.5 < accept_rate < 0.99


@every_kernel_and_target
def test_one_step_leaves_the_tilted_density_invariant(target, name):
    images, accept_rate = after_one_step(target, name)
    check_accepted(accept_rate, is_exact=name == "split" and target is LINEAR)
    found = p_values_of(target, images)
    assert shown(name, target.name, accept_rate, found) > 1e-4


@every_kernel_and_target
def test_one_step_for_a_tenth_more_log_density_is_found_out(target, name):
    images, accept_rate = after_one_step(target, name, power=1.1)
    assert 0.4 < accept_rate < 0.99
    found = p_values_of(target, images)
    assert shown(name, f"{target.name}, 1.1 log p", accept_rate, found) < 2e-5


# Momenta that are kept: the law is that of noise and momentum together.

KEPT = 0.7
every_nonlinear_target = pytest.mark.parametrize(
    "target", [QUADRATIC, RELU, BOX], ids=lambda target: target.name
)


def after_kept_momenta(target, power=1.0, iterations=5):
    """Exact draws after some iterations of long steps; momenta, and acceptance."""
    tilt = tilt_of(target)
    f, step = raised(tilt), 1.5 * STEPS["split"][target.name]

    @tf.function
    def run(noise, power):
        kernel = SplitHamiltonianMonteCarlo(
            lambda z: f(z, power), step, 2, momentum_persistence=KEPT
        )
        results, accepted = kernel.bootstrap_results(noise), 0.0
        for i in range(iterations):
            noise, results = kernel.one_step(noise, results, seed=[i, 4])
            accepted += tf.reduce_mean(tf.cast(results.is_accepted, tf.float32))
        return noise, results.momentum, accepted / iterations

    start = tilt.to_noise(target.draw(CHAINS, seed=6))
    noise, momentum, accept_rate = run(start, tf.constant(power))
    return tilt.to_images(noise).numpy(), momentum.numpy(), float(accept_rate)


@every_nonlinear_target
def test_kept_momenta_leave_the_tilted_density_invariant(target):
    images, momentum, accept_rate = after_kept_momenta(target)
    assert 0.2 < accept_rate < 0.97
    found = p_values_of(target, images)
    assert shown("kept momenta", target.name, accept_rate, found) > 1e-4
    flat = momentum.reshape(CHAINS, -1)
    radius = stats.chi2(flat.shape[1])
    assert stats.kstest(np.sum(flat**2, axis=1), radius.cdf).pvalue > 1e-4
    assert stats.kstest(flat[:, 0], stats.norm.cdf).pvalue > 1e-4


@every_nonlinear_target
def test_kept_momenta_for_a_tenth_more_log_density_are_found_out(target):
    images, _, accept_rate = after_kept_momenta(target, power=1.1)
    found = p_values_of(target, images)
    assert shown("kept momenta", f"{target.name}, 1.1", accept_rate, found) < 2e-5


def test_a_share_of_the_momentum_is_kept_and_turned_around_if_rejected():
    noise = tf.random.stateless_normal([2000, 3], [0, 1])
    for height, sign in [(0.0, 1.0), (1e9, -1.0)]:  # nothing, or all, is rejected

        def f(z, height=height):
            return -height * tf.reduce_sum(tf.abs(z), axis=1) ** 2

        kernel = SplitHamiltonianMonteCarlo(f, 0.3, 1, momentum_persistence=KEPT)
        _, first = kernel.one_step(noise, kernel.bootstrap_results(noise), [0, 2])
        assert np.all(first.is_accepted == (sign > 0))
        still = SplitHamiltonianMonteCarlo(
            lambda z: 0.0 * z[:, 0], 1e-6, 1, momentum_persistence=KEPT
        )
        _, drawn = still.one_step(noise, still.bootstrap_results(noise), [0, 2])
        before = still.bootstrap_results(noise)._replace(
            momentum=first.momentum, has_momentum=first.has_momentum
        )
        _, second = still.one_step(noise, before, [0, 3])
        kept = np.mean(first.momentum * second.momentum) / np.mean(first.momentum**2)
        assert kept == pytest.approx(KEPT, abs=4 / np.sqrt(6000))
        if sign < 0:
            np.testing.assert_allclose(first.momentum, -drawn.momentum, atol=1e-4)
    fresh = kernel.bootstrap_results(noise)
    assert not np.any(fresh.has_momentum) and np.all(first.has_momentum)


# Every reference: for f linear in what is a linear map of the noise, p(z) = N(m, I).

IMAGE = (4, 5, 3)


def spectral_tilt(weights):
    """f = w.x where x = mean + B z."""
    reference = spectral_noise(IMAGE, mean=1.0, stddev=0.8, exponent=1.1)
    return Tilt(lambda images: linear_in(images, weights), reference)


def squashed_tilt(weights):
    """f = w.y, and the image that the network sees is a squashed y = mean + B z."""
    noise = spectral_noise(IMAGE, mean=1.0, stddev=0.8, exponent=1.1)
    to_box = tfp.bijectors.Chain(squash(noise, 0, 2, scale=0.9).bijector.bijectors[:3])
    return Tilt(
        lambda images: linear_in(to_box.inverse(tf.identity(images)), weights),
        squash(noise, 0, 2, scale=0.9),
    )


def wavelet_tilt(weights):
    """f = w.z of the noise of heavy-tailed coefficients, found again by the inverse."""
    reference = wavelet_noise(IMAGE)
    inverse = reference.bijector.inverse
    return Tilt(
        lambda images: linear_in(inverse(tf.identity(images)), weights), reference
    )


def latent_tilt(weights):
    """f = w.x where x = A z has fewer pixels than z has numbers."""
    matrix = np.random.default_rng(8).normal(size=[70, np.prod(IMAGE)]) / 10
    generator = tf.constant(matrix, tf.float32)
    reference = latent(lambda z: tf.reshape(z @ generator, [-1, *IMAGE]), [70])
    return Tilt(lambda images: linear_in(images, weights), reference)


def linear_in(images, weights):
    return tf.tensordot(images, tf.constant(weights, tf.float32), axes=3)


@functools.cache
def steps_of_a_reference(make, name):
    """A tilt, and the graph of an iteration for its density to any power."""
    tilt = make(0.2 * np.random.default_rng(9).normal(size=IMAGE))
    step = {"split": 1.2, "hmc": 0.5, "mala": 0.35}[name]
    return tilt, one_step(name, raised(tilt), tilt.base, step)


def after_one_step_of_a_reference(make, name, power=1.0):
    """z - m [chains, numbers] after one iteration from exact draws; m; acceptance."""
    tilt, run = steps_of_a_reference(make, name)
    origin = tf.zeros([1, *tilt.base.event_shape])
    with tf.GradientTape() as tape:
        tape.watch(origin)
        f = tilt.response(tilt.to_images(origin))
    mean = tape.gradient(f, origin).numpy()  # of f linear in z, everywhere
    start = mean + tilt.base.sample(CHAINS, seed=[0, 5])
    end, results = run(start, tf.constant(power))
    centred = (end - mean).numpy().reshape(CHAINS, -1)
    return centred, mean.ravel(), float(np.mean(results.is_accepted))


every_kernel_and_reference = pytest.mark.parametrize(
    "make, name",
    crossed(
        [spectral_tilt, squashed_tilt, latent_tilt, wavelet_tilt],
        [(squashed_tilt, "hmc"), (wavelet_tilt, "split")],
    ),
    ids=lambda value: getattr(value, "__name__", value),
)


def p_values_of_noise(centred, mean):
    """KS along m, of the radius across, and of mean and variance along m."""
    direction = mean / np.linalg.norm(mean)
    along = centred @ direction
    across = np.sum(centred**2, axis=1) - along**2
    radius = stats.chi2(mean.size - 1)
    errors = along.mean() * np.sqrt(CHAINS), (along.var() - 1) * np.sqrt(CHAINS / 2)
    return (
        stats.kstest(along, stats.norm.cdf).pvalue,
        stats.kstest(across, radius.cdf).pvalue,
        *(2 * stats.norm.sf(np.abs(errors))),
    )


@every_kernel_and_reference
def test_one_step_leaves_a_tilt_of_every_reference_invariant(make, name):
    centred, mean, accept_rate = after_one_step_of_a_reference(make, name)
    assert 0.5 < np.linalg.norm(mean)
    check_accepted(accept_rate, is_exact=name == "split")
    found = p_values_of_noise(centred, mean)
    assert shown(name, make.__name__, accept_rate, found) > 1e-4


@every_kernel_and_reference
def test_a_tenth_more_log_density_is_found_out_with_every_reference(make, name):
    centred, mean, accept_rate = after_one_step_of_a_reference(make, name, 1.1)
    assert 0.4 < accept_rate < 0.99
    found = p_values_of_noise(centred, mean)
    assert shown(name, f"{make.__name__}, 1.1 log p", accept_rate, found) < 2e-5


HOT = 0.6
LADDERS = [targets.linear, targets.relu, targets.box_linear]


@pytest.mark.parametrize(
    "make, name, swap",
    slow_but(
        [
            *((targets.linear, name, "right") for name in KERNELS),
            (targets.relu, "split", "right"),
            *((targets.linear, name, "wrong") for name in ("split", "hmc")),
        ],
        itertools.product(LADDERS, KERNELS, ("right", "wrong")),
    ),
    ids=lambda value: getattr(value, "__name__", value),
)
def test_swaps_on_a_ladder_leave_its_first_step_invariant(make, name, swap):
    """Wrong ones are found out with every target and kernel; quickly with two."""
    target = make()
    scale = make.__defaults__[-1]  # of w: f is homogeneous in it
    hotter = make(scale=HOT * scale)
    tilt = tilt_of(target)
    start = tf.stack(
        [
            tilt.to_noise(target.draw(CHAINS, seed=5)),
            tilt.to_noise(hotter.draw(CHAINS, seed=6)),
        ]
    )

    def f(noise):
        columns = tf.reshape(noise, [-1, *SHAPE])
        return tf.reshape(tilt.response(tilt.to_images(columns)), noise.shape[:2])

    ladder = (1.0, HOT if swap == "right" else 0.1)
    tiny = 1e-3  # so that all that happens is the swap
    end, results = one_step(name, f, tilt.base, tiny, ladder)(start)
    accepted = np.mean(results.is_swap_accepted_adjacent)
    assert 0.2 < accepted < 0.95
    smallest = min(target.p_values(tilt.to_images(end[0]).numpy()))
    assert smallest > 1e-3 if swap == "right" else smallest < 2e-5


# In high dimension


def test_in_float32_the_energy_error_of_150_528_dimensions_is_that_of_float64():
    shape = (150_528,)
    rng = np.random.default_rng(1)
    slope = rng.normal(size=shape) / np.sqrt(shape[0]) * 3
    axis = rng.normal(size=shape) / np.sqrt(shape[0])

    def f(noise):
        along, curved = (
            tf.linalg.matvec(noise, tf.constant(v, noise.dtype)) for v in (slope, axis)
        )
        return along - 2.0 * curved**2

    exact = start_of(f, chains=8, shape=shape)
    single = tf.nest.map_structure(lambda x: tf.cast(x, tf.float32), exact)
    ends = [trajectory(f, start, 0.5, 3) for start in (exact, single)]
    errors = [
        np.float64(end.f) - np.float64(start.f) - np.float64(end.kicks)
        for start, end in zip((exact, single), ends, strict=True)
    ]
    assert np.std(errors[0]) > 0.05
    np.testing.assert_allclose(errors[1], errors[0], atol=2e-4)
    # The difference of the two energies would not do.
    naive = (ends[1].f - gaussian_energy(ends[1])) - (
        single.f - gaussian_energy(single)
    )
    assert np.abs(naive - errors[0]).max() > 5e-3


def test_the_acceptance_of_a_step_does_not_depend_on_the_number_of_pixels():
    def accept_prob(pixels):
        def f(noise):
            return -2.0 * noise[:, 0] ** 2 + noise[:, 1]

        kernel = SplitHamiltonianMonteCarlo(f, 0.6, 3)
        noise = tf.random.stateless_normal([500, pixels], [0, 2])
        noise = noise * ([1 / np.sqrt(5.0)] + [1.0] * (pixels - 1))
        _, results = kernel.one_step(
            noise, kernel.bootstrap_results(noise), seed=[1, 2]
        )
        return np.exp(np.minimum(results.log_accept_ratio, 0))

    few, many = accept_prob(2), accept_prob(1_000)
    error = np.hypot(np.std(few), np.std(many)) / np.sqrt(500)
    assert abs(few.mean() - many.mean()) < 4 * error
    assert few.mean() < 0.95


# Chains on their own


def test_a_chain_with_a_seed_of_its_own_is_the_same_wherever_it_stands():
    f = wavy()
    noise = start_of(f, dtype=tf.float32).noise
    kernel = SplitHamiltonianMonteCarlo(f, 0.1, 3)
    seeds = chain_seeds([0, 7], tf.range(5))
    together, _ = kernel.one_step(noise, kernel.bootstrap_results(noise), seed=seeds)
    for i in (0, 3):
        one = noise[i : i + 1]
        alone, _ = kernel.one_step(
            one, kernel.bootstrap_results(one), seed=seeds[i : i + 1]
        )
        np.testing.assert_allclose(alone[0], together[i], atol=1e-6)
    moves = np.reshape(together - noise, [5, -1])
    assert np.linalg.matrix_rank(moves) == 5


def test_chains_have_momenta_of_their_own():
    kernel = SplitHamiltonianMonteCarlo(zero, np.pi / 2, 1)
    noise = tf.zeros([1_000, 1])
    seeds = chain_seeds([0, 7], tf.range(1_000))
    momenta, _ = kernel.one_step(noise, kernel.bootstrap_results(noise), seed=seeds)
    assert stats.kstest(np.ravel(momenta), stats.norm.cdf).pvalue > 1e-3


def test_a_langevin_step_is_as_long_as_a_leapfrog_step():
    base = tfp.distributions.Sample(tfp.distributions.Normal(0.0, 1.0), [3])
    noise = tf.zeros([4_000, 3])
    kernel = transition_kernel("mala", zero, base, tf.constant(0.1), 1)
    results = kernel.bootstrap_results(noise)
    _, results = kernel.one_step(noise, results, seed=[0, 7])
    moves = np.ravel(results.proposed_state)
    assert stats.kstest(moves, stats.norm(0.0, 0.1).cdf).pvalue > 1e-3


def test_one_seed_for_all_is_a_seed_for_each():
    f = wavy()
    noise = start_of(f, dtype=tf.float32).noise
    kernel = SplitHamiltonianMonteCarlo(f, 0.1, 3)
    results = kernel.bootstrap_results(noise)
    pair = tfp.random.sanitize_seed([0, 7])
    one, _ = kernel.one_step(noise, results, seed=pair)
    each, _ = kernel.one_step(noise, results, seed=chain_seeds(pair, tf.range(5)))
    np.testing.assert_array_equal(one, each)
    other, _ = kernel.one_step(noise, results, seed=[0, 8])
    assert np.all(one != other)


@pytest.mark.parametrize("broken", ["f", "gradient"])
def test_what_is_not_finite_is_rejected_and_does_not_spread(broken):
    def bad(noise):
        return tf.where(noise[:, 0] > 0.3, np.nan, 0.0)

    def f(noise):
        sound = tf.reduce_sum(noise, axis=1)
        if broken == "f":
            return sound + bad(noise)
        return _with_gradient(sound, bad(noise), noise)

    noise = tf.zeros([200, 4])
    kernel = SplitHamiltonianMonteCarlo(f, 0.4, 2)
    end, results = kernel.one_step(noise, kernel.bootstrap_results(noise), seed=[0, 1])
    rejected = np.isneginf(results.log_accept_ratio)
    assert 20 < rejected.sum() < 180
    assert not np.any(results.is_accepted[rejected])
    np.testing.assert_array_equal(end[rejected], noise[rejected])
    assert np.all(np.isfinite(end))
    assert np.all(np.isfinite(results.accepted_results.grads_target_log_prob[0]))
    sound = SplitHamiltonianMonteCarlo(lambda z: tf.reduce_sum(z, axis=1), 0.4, 2)
    other, _ = sound.one_step(noise, sound.bootstrap_results(noise), seed=[0, 1])
    np.testing.assert_array_equal(end[~rejected], other[~rejected])


def _with_gradient(values, of_gradient, noise):
    """`values`, with something added to their gradient."""

    @tf.custom_gradient
    def identity(values):
        return values, lambda upstream: upstream + of_gradient

    return identity(values)


# Beside TFP's own


def sampled(kernel, start, num_results, num_burnin_steps, trace_fn=None):
    @tf.function
    def run():
        return tfp.mcmc.sample_chain(
            num_results,
            start,
            kernel=kernel,
            num_burnin_steps=num_burnin_steps,
            trace_fn=trace_fn,
            seed=[0, 7],
        )

    return run()


def test_tfp_s_step_size_adaptation_takes_the_kernel():
    f = wavy()
    kernel = SplitHamiltonianMonteCarlo(f, 3.0, 3, store_parameters_in_results=True)
    adapted = tfp.mcmc.DualAveragingStepSizeAdaptation(kernel, 150)
    _, steps = sampled(
        adapted,
        tf.zeros([20, 6]),
        100,
        150,
        lambda _, results: (results.new_step_size, results.inner_results.is_accepted),
    )
    assert 0.1 < steps[0][-1] < 1.0
    assert 0.6 < np.mean(steps[1]) < 0.9


@pytest.mark.slow
def test_the_split_kernel_and_tfp_s_find_the_same_means():
    f = wavy()
    base = tfp.distributions.Sample(tfp.distributions.Normal(0.0, 1.0), [6])
    draws = [
        sampled(transition_kernel(name, f, base, step, 4), tf.zeros([50, 6]), 400, 50)
        for name, step in (("split", 0.4), ("hmc", 0.35))
    ]
    chain_means = [np.mean(d, axis=0) for d in draws]
    means = [m.mean(axis=0) for m in chain_means]
    errors = np.sqrt(sum(m.var(axis=0, ddof=1) / 50 for m in chain_means))
    np.testing.assert_array_less(np.abs(means[0] - means[1]), 4 * errors)
    assert np.abs(means[0]).max() > 10 * errors.max()


# The graph


@pytest.mark.parametrize(
    "kernel, ladder",
    slow_but(
        [("split", None), ("hmc", None), ("mala", LADDER)],
        itertools.product(KERNELS, (None, LADDER)),
    ),
)
def test_the_gradient_of_a_network_is_not_in_the_cycle_of_a_loop(kernel, ladder):
    """It shares a function, which TensorFlow does not take apart, with the network.

    Otherwise it depends on chance whether a max pooling, which has a gradient of its
    own in oneDNN, finds it: see `value_and_gradient`.
    """
    base = tfp.distributions.Sample(tfp.distributions.Normal(0.0, 1.0), [4, 4, 1])
    weight = tf.Variable(2.0)

    def f(noise):
        flat = tf.reshape(weight * noise, [-1, 4, 4, 1])
        pooled = tf.reduce_sum(tf.nn.max_pool2d(flat, 2, 2, "VALID"), axis=[1, 2, 3])
        return tf.reshape(pooled, tf.shape(noise)[:-3])

    @tf.function
    def advance(noise):
        one = transition_kernel(kernel, f, base, 0.1, 3, ladder=ladder)
        return one.one_step(noise, one.bootstrap_results(noise), seed=[0, 7])[0]

    shape = [2, 4, 4, 1] if ladder is None else [len(ladder), 2, 4, 4, 1]
    graph = advance.get_concrete_function(tf.TensorSpec(shape)).graph.as_graph_def()
    assert "MaxPoolGrad" not in {node.op for node in graph.node}
    apart = [
        function
        for function in graph.library.function
        if "MaxPoolGrad" in {node.op for node in function.node_def}
    ]
    assert apart
    for function in apart:
        assert "MaxPool" in {node.op for node in function.node_def}
        assert function.attr["_noinline"].b


@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
def test_all_kernels_are_given_the_same_gradient(kernel, in_graph):
    """d/dz of f alone, or of f - |z|^2 / 2."""
    base = tfp.distributions.Sample(tfp.distributions.Normal(0.0, 1.0), SHAPE)
    one = transition_kernel(kernel, wavy(SHAPE), base, 0.1, 2)
    bootstrap = (
        tf.function(one.bootstrap_results) if in_graph else one.bootstrap_results
    )
    noise = base.sample([4, 3], seed=[0, 7])
    found = tf.nest.flatten(bootstrap(noise).accepted_results.grads_target_log_prob)[0]
    weight = np.random.default_rng(2).normal(size=SHAPE)
    exact = 2 * weight * np.cos(2 * weight * noise + weight) + 0.5 * weight
    exact -= 0 if kernel == "split" else noise
    np.testing.assert_allclose(found, exact, atol=1e-5)


def test_only_the_gradient_by_the_noise_is_traced():
    """Of a dense layer: f, and one product for the slope; none for its weights."""
    network = keras.Sequential([keras.Input([3]), keras.layers.Dense(2)])
    response = Response(lambda noise: network(noise)[:, 0])

    @tf.function
    def both(noise):
        return response.value_and_gradient(noise)

    graph = both.get_concrete_function(tf.TensorSpec([4, 3])).graph
    (inner,) = graph.as_graph_def().library.function
    kinds = [node.op for node in inner.node_def]
    assert kinds.count("MatMul") == 2


@pytest.mark.parametrize("is_adjusted", [False, True])
def test_without_the_test_many_coordinates_may_lose_more_energy(is_adjusted):
    """1,000 nats, or a quarter for each coordinate if that is more."""
    coordinates, limit = 40_000, 10_000.0
    curvature = tf.constant(np.linspace(2.0, 14.0, 12))[:, None]

    def f(noise):
        return -tf.reduce_sum(curvature * noise**2, axis=-1) / 2

    kernel = SplitHamiltonianMonteCarlo(f, 0.5, 1, is_adjusted=is_adjusted)
    rng = np.random.default_rng(0)
    # From the density itself, where energy errors are losses.
    noise = rng.normal(size=[12, coordinates]) / np.sqrt(1 + curvature.numpy())
    noise = tf.constant(noise)
    results = kernel.bootstrap_results(noise)
    _, end = kernel.one_step(noise, results, seed=[0, 1])
    ratio = end.log_accept_ratio.numpy()
    assert np.any((ratio < -1_000) & (ratio > -limit)) and np.any(ratio < -limit)
    expected = np.full(12, False) if is_adjusted else ratio > -limit
    np.testing.assert_array_equal(end.is_accepted, expected)
