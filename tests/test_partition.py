"""log Z is exact within its own error; what cannot be known is said in words."""

import functools
import math

import numpy as np
import pytest
import targets
import tensorflow as tf
import tensorflow_probability as tfp
from cases import slow, slow_but
from scipy import special, stats
from small_network import SHAPE as NETWORK_SHAPE
from small_network import small_network

import keras_tilt
from keras_tilt.partition import annealing, estimators
from keras_tilt.partition.annealing import number_on_path, planned_path
from keras_tilt.partition.bennett import bennett, log_weights
from keras_tilt.partition.densities import generative_log_prob
from keras_tilt.partition.estimators import log_partition
from keras_tilt.partition.importance import kish_ess
from keras_tilt.reference.distributions import white_noise
from keras_tilt.reference.generators import latent
from keras_tilt.sampling import schedule
from keras_tilt.tilt import Tilt
from keras_tilt.units.selection import unit

SMALL = (2, 1, 1)
MIDDLE = (5, 10, 1)
LARGE = (32, 32, 3)
FEW = 3.0  # standard errors


def tilt_of(target):
    return Tilt(target.unit, target.reference())


def estimate(tilt, *args, **kwargs):
    return log_partition(tilt, *args, **{"seed": 1, "progress": False} | kwargs)


_estimated = {}


def annealed(target):
    """log Z of a target by annealing, found once for all tests that read it."""
    key = target.name, target.mean.size, target.log_partition
    if key not in _estimated:
        _estimated[key] = estimate(tilt_of(target))
    return _estimated[key]


@functools.cache
def class_tilt():
    """Of a network, with which the graph that is traced is kept."""
    return Tilt(unit(small_network(), class_index=1), white_noise(NETWORK_SHAPE))


def curved(shape):
    """All targets but the constant ones."""
    return targets.all_targets(shape)[:4]


BENT = curved(SMALL) + curved(MIDDLE)  # of each shape: linear, quadratic, relu, box


def by_name(cases):
    return pytest.mark.parametrize(
        "target", cases, ids=lambda one: f"{one.name} {one.mean.size}"
    )


# The closed forms


@by_name(slow_but(BENT[:2] + BENT[7:], BENT))
def test_annealing_finds_log_z_within_its_error(target):
    found = annealed(target)
    assert found.is_reliable, found.verdict
    assert abs(found.value - target.log_partition) < FEW * found.standard_error
    assert found.standard_error < 0.15
    assert bracketed(found, target.log_partition)
    ess = [kish_ess(w) for w in (found.log_weights, -found.reverse_log_weights)]
    assert found.ess == pytest.approx(min(ess))


@pytest.mark.slow
@by_name(curved(LARGE))
def test_annealing_finds_log_z_in_3072_dimensions(target):
    found = estimate(tilt_of(target))
    print(f"\n{target.name}: exactly {target.log_partition:.4f}; {found}")
    assert found.is_reliable, found.verdict
    error = found.standard_error + 1e-3  # of f in float32
    assert abs(found.value - target.log_partition) < FEW * error
    assert bracketed(found, target.log_partition)


def bracketed(found, exact):
    """Whether the truth lies between both directions, up to their own errors."""
    below, above = found.log_weights, found.reverse_log_weights
    errors = [np.std(w, ddof=1) / math.sqrt(len(w)) + 1e-3 for w in (below, above)]
    return (
        found.lower - FEW * errors[0] < exact
        and exact < found.upper + FEW * errors[1]
        and found.lower == np.mean(below)
        and found.upper == np.mean(above)
    )


@by_name(
    [
        *map(slow, targets.all_targets(SMALL)[4:]),
        *targets.all_targets(MIDDLE)[4:],
        *map(slow, targets.all_targets(LARGE)[4:]),
    ]
)
@pytest.mark.parametrize("method", estimators.METHODS)
def test_a_constant_is_its_own_log_z_if_it_is_constant(target, method):
    steps = {"num_steps": 4} if method == "annealed" else {}
    found = estimate(tilt_of(target), method, **steps)
    assert found.value == pytest.approx(target.log_partition, abs=1e-6)
    assert found.ess == pytest.approx(len(found.log_weights))
    assert not found.is_reliable and "exact only if it is constant" in found.verdict


@pytest.mark.parametrize("method", estimators.METHODS)
def test_a_unit_that_no_draw_has_roused_is_not_to_be_trusted(method):
    rare = Tilt(lambda x: 10 * tf.nn.relu(x[:, 0] - 4.5), white_noise([1]))
    found = estimate(rare, method)  # log Z is 5
    assert not found.is_reliable and found.standard_error == math.inf


@by_name(curved(SMALL))
def test_importance_sampling_finds_log_z_of_a_weak_tilt(target):
    found = estimate(tilt_of(target), "importance")
    assert found.is_reliable, found.verdict
    assert abs(found.value - target.log_partition) < FEW * found.standard_error
    limit = target.kish_limit * 10_000
    assert found.ess == pytest.approx(limit, rel=0.1)
    assert found.lower < target.log_partition


def test_the_error_of_importance_sampling_is_that_of_a_mean_of_weights():
    target = targets.linear(SMALL)
    values = [
        estimate(tilt_of(target), "importance", seed=seed, num_draws=400)
        for seed in range(100)
    ]
    spread = np.std([one.value for one in values], ddof=1)
    stated = np.mean([one.standard_error for one in values])
    assert stated == pytest.approx(spread, rel=4 / math.sqrt(2 * 100))


@pytest.mark.slow
@by_name(curved(SMALL) + curved(MIDDLE))
def test_intervals_cover_at_their_nominal_rate(target):
    """Of 100 repetitions, groups of 64 of as many walks, within 1.96 and 1 errors."""
    found = estimate(tilt_of(target), num_chains=6400)
    pairs = zip(
        np.split(found.log_weights, 100),
        np.split(found.reverse_log_weights, 100),
        strict=True,
    )
    check_coverage(target, *np.array([bennett(*pair) for pair in pairs]).T)


@pytest.mark.slow
def test_intervals_of_whole_runs_cover_at_their_nominal_rate():
    """Of 100 seeds, each with a pilot and a path of its own."""
    target = targets.relu(MIDDLE)
    found = [estimate(tilt_of(target), seed=seed) for seed in range(100)]
    assert all(one.is_reliable for one in found)
    check_coverage(
        target, *np.array([(one.value, one.standard_error) for one in found]).T
    )


def check_coverage(target, values, errors):
    """Whether 1.96 and 1 standard errors hold as many of 100 as they should."""
    z = (values - target.log_partition) / errors
    inside = [int(np.sum(np.abs(z) < width)) for width in (1.96, 1.0)]
    print(
        f"\n{target.name} {target.mean.size}: {inside[0]} and {inside[1]} of 100, "
        f"mean z {z.mean():.2f}, sd {z.std(ddof=1):.2f}"
    )
    for number, share in zip(inside, (0.95, 0.6827), strict=True):
        assert stats.binomtest(number, 100, share).pvalue > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["hmc", "mala"])
def test_every_other_kernel_leads_to_the_same_log_z(kernel):
    target = targets.relu(SMALL)
    found = estimate(tilt_of(target), kernel=kernel)
    assert found.is_reliable, found.verdict
    assert abs(found.value - target.log_partition) < FEW * found.standard_error


def test_the_scale_is_part_of_the_tilt():
    weak = targets.linear(SMALL, scale=0.25, bias=0.0)
    twice = targets.linear(SMALL, scale=0.5, bias=0.0)
    found = estimate(Tilt(weak.unit, weak.reference(), scale=2.0), "importance")
    assert abs(found.value - twice.log_partition) < FEW * found.standard_error


def test_a_reference_that_is_no_transport_is_walked_in_pixels():
    tfd = tfp.distributions
    student = tfd.Independent(tfd.Gamma(tf.fill([3], 4.0), 2.0), 1)
    tilt = Tilt(lambda x: -tf.reduce_sum(x, axis=1), student)
    found = estimate(tilt)
    assert found.is_reliable, found.verdict
    exact = -3 * 4.0 * math.log1p(1 / 2.0)
    assert abs(found.value - exact) < FEW * found.standard_error


@pytest.mark.slow
def test_the_walks_of_tfp_are_not_used_because_they_go_wrong():
    """Their kernel compares a density of one temperature with one of the next.

    If this fails, TensorFlow Probability has mended its annealing.
    """
    curvature = tf.constant(np.random.default_rng(0).uniform(0.5, 2, 50), tf.float32)

    def log_base(z):
        return -0.5 * tf.reduce_sum(z**2, axis=-1)

    @tf.function
    def walk(seed):
        return tfp.mcmc.sample_annealed_importance_chain(
            20,
            log_base,
            lambda z: log_base(z) - 0.5 * tf.reduce_sum(curvature * z**2, axis=-1),
            tf.random.stateless_normal([200, 50], seed),
            lambda log_prob: tfp.mcmc.HamiltonianMonteCarlo(log_prob, 0.45, 3),
            seed=seed,
        )[2].inner_results.is_accepted

    assert np.mean(walk(tf.constant([0, 1]))) < 0.05
    tilt = Tilt(
        lambda z: -0.5 * tf.reduce_sum(curvature * z**2, axis=-1), white_noise([50])
    )
    found = estimate(tilt, num_steps=20, kernel="hmc")
    exact = -np.sum(np.log1p(curvature)) / 2
    assert found.lower < exact < found.upper


# The parts


def gaussian_walks(num, spread, log_z=3.0, seed=0):
    """Log weights that satisfy Crooks's relation: N(log Z -+ s^2 / 2, s^2)."""
    draw = np.random.default_rng(seed).standard_normal
    forward = log_z - spread**2 / 2 + spread * draw(num)
    return forward, log_z + spread**2 / 2 + spread * draw(num)


@pytest.mark.parametrize("spread", [0.3, 1.0, 2.5])
def test_bennetts_ratio_is_unbiased_and_knows_its_error(spread):
    found = np.array(
        [bennett(*gaussian_walks(200, spread, seed=seed)) for seed in range(300)]
    )
    values, errors = found.T
    assert abs(values.mean() - 3.0) < 4 * values.std() / math.sqrt(300)
    assert errors.mean() == pytest.approx(values.std(), rel=4 / math.sqrt(600))


def test_bennetts_error_knows_of_reverse_walks_that_depend_on_forward_ones():
    def one(seed):
        forward, reverse = gaussian_walks(200, 1.0, seed=seed)
        return bennett(forward, forward + 1.0), bennett(forward, 6.0 - forward)

    alike, opposite = np.swapaxes([one(seed) for seed in range(300)], 0, 1)
    for values, errors in (alike.T, opposite.T):
        assert errors.mean() == pytest.approx(values.std(), rel=4 / math.sqrt(600))


def test_bennetts_ratio_solves_its_equation():
    forward, reverse = gaussian_walks(50, 1.0)
    value, _ = bennett(forward, reverse)
    ahead = special.expit(forward - value).mean()
    assert ahead == pytest.approx(special.expit(value - reverse).mean(), abs=1e-9)


def test_walks_that_do_not_overlap_have_no_error():
    forward, reverse = np.zeros(50) - 100.0, np.zeros(50) + 100.0
    value, error = bennett(forward, reverse)
    assert -101 <= value <= 101 and error == math.inf
    assert bennett(np.full(5, np.nan), reverse[:5])[1] == math.inf


def test_weights_are_integrals_of_f_along_the_walk():
    share = np.array([0.0, 0.1, 0.4, 1.0])
    f = np.arange(10.0)[:, None] ** 2 * [1.0, -2.0]
    forward, reverse = log_weights(f, share)
    # z_0, z_1, z_2 forward; the reverse walk leaves z_7, z_8, z_9 behind steps 3, 2, 1.
    np.testing.assert_allclose(
        forward, (0.1 * 0 + 0.3 * 1 + 0.6 * 4) * np.array([1, -2])
    )
    np.testing.assert_allclose(
        reverse, (0.6 * 49 + 0.3 * 64 + 0.1 * 81) * np.array([1, -2])
    )


def test_the_walk_goes_forward_stays_at_p_and_goes_in_reverse():
    numbers = [number_on_path(i, 6) for i in range(18)]
    assert numbers[:6] == numbers[:-7:-1] == [1, 2, 3, 4, 5, 6]
    assert min(numbers[5:13]) == 6 and len(set(numbers[5:13])) == 4  # steps vary at p


def test_the_path_has_equal_lengths():
    shares = np.linspace(0, 1, 65)
    spread = np.stack([30 * np.exp(-3 * shares), 0.1 + 0 * shares], axis=1)
    steps = np.exp(-np.stack([shares[1:], 2 * shares[1:]], axis=1))
    path = planned_path(spread, steps)
    length = 30 * (1 - math.exp(-3)) / 3
    assert path.num_steps == pytest.approx(length**2 / 0.5, rel=0.1)
    assert path.share[0] == 0 and path.share[-1] == 1
    pieces = -30 / 3 * np.diff(np.exp(-3 * path.share))
    np.testing.assert_allclose(pieces, length / path.num_steps, rtol=0.1)
    inner = path.share > 0.05
    np.testing.assert_allclose(
        path.step_size[inner],
        np.exp(-np.stack([path.share, 2 * path.share], axis=1))[inner],
        rtol=0.06,
    )
    assert planned_path(spread, steps, num_steps=7).num_steps == 7


def test_a_flat_f_has_a_path_of_equal_steps():
    path = planned_path(np.zeros([65, 1]), np.ones([64, 1]))
    np.testing.assert_allclose(path.share, np.linspace(0, 1, path.num_steps + 1))


# Several tilts, seeds, interruptions


def test_tilts_that_share_a_layer_are_walked_together_and_alone_alike():
    one = class_tilt()
    tilts = [one, Tilt(-1.0 * one.unit, one.reference, scale=2.0)]
    settings = {"num_chains": 20, "num_steps": 24, "num_leapfrog_steps": 3}
    both = estimate(tilts, **settings)
    assert [one.tilt for one in both] == tilts
    alone = estimate(tilts[1], **settings)
    assert all(one.is_reliable for one in (*both, alone))
    error = math.hypot(both[1].standard_error, alone.standard_error)
    assert both[1].value == pytest.approx(alone.value, abs=4 * error)
    assert error < 0.1
    exact = estimate(one, "importance")
    error = math.hypot(both[0].standard_error, exact.standard_error)
    assert both[0].value == pytest.approx(exact.value, abs=4 * error)


def test_equal_seeds_give_equal_numbers_and_others_do_not():
    for method, few in (("annealed", {"num_steps": 2}), ("importance", {})):
        few |= {"num_chains": 20} if method == "annealed" else {}
        one, same, other = (
            estimate(class_tilt(), method, seed=seed, **few) for seed in (5, 5, 6)
        )
        assert one.value == same.value != other.value


def test_an_interrupted_annealing_goes_on_to_the_same_number(tmp_path, monkeypatch):
    tilt = class_tilt()
    settings = {"num_steps": 12, "num_chains": 20}
    whole = estimate(tilt, **settings)
    directory = tmp_path / "run"
    number = annealing.number_on_path
    for stop in (3, 17, 30):

        def interrupted(iteration, num_steps, stop=stop):
            if iteration == stop:
                raise KeyboardInterrupt
            return number(iteration, num_steps)

        monkeypatch.setattr(annealing, "number_on_path", interrupted)
        with pytest.raises(KeyboardInterrupt):
            estimate(tilt, directory=directory, **settings)
    monkeypatch.setattr(annealing, "number_on_path", number)
    resumed = estimate(tilt, directory=directory, **settings)
    np.testing.assert_array_equal(resumed.log_weights, whole.log_weights)
    np.testing.assert_array_equal(
        resumed.reverse_log_weights, whole.reverse_log_weights
    )
    assert estimate(tilt, directory=directory, **settings).value == whole.value
    other = Tilt(1.5 * tilt.unit, tilt.reference)
    with pytest.raises(ValueError, match="f_at_start"):
        estimate(other, directory=directory, **settings)


def test_what_the_pilot_found_is_saved_before_the_first_walk(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(
        annealing.Run, "checkpoint", lambda run, parts: saved.append(parts)
    )
    settings = {"num_steps": 2, "num_chains": 20, "directory": tmp_path / "run"}
    estimate(class_tilt(), **settings)
    assert [parts["iteration"] for parts in saved] == [0, 6]


def test_leapfrog_steps_are_numbered_along_the_path_and_beyond_it_at_p(monkeypatch):
    numbers = []
    parameters_with = schedule.Plan.parameters_with

    def spy(plan, step_size, number, scale):
        numbers.append(number)
        return parameters_with(plan, step_size, number, scale)

    monkeypatch.setattr(schedule.Plan, "parameters_with", spy)
    estimate(class_tilt(), num_steps=4, num_chains=20)
    assert numbers[-12:] == [1, 2, 3, 4, 5, 6, 6, 5, 4, 3, 2, 1]


def test_progress_says_where_the_walk_is(capsys):
    estimate(class_tilt(), num_chains=20, num_steps=4, progress=True)
    shown = capsys.readouterr().err
    for word in ("pilot", "reverse", "accepted", "f="):
        assert word in shown
    estimate(class_tilt(), "importance", progress=True)
    assert "draws of q" in capsys.readouterr().err


# What follows from log Z


def test_log_prob_is_the_exact_density():
    target = targets.linear(SMALL)
    found = annealed(target)
    images = target.draw(20, seed=0)
    exact = stats.norm(target.mean, np.sqrt(target.variance)).logpdf(images)
    np.testing.assert_allclose(
        found.log_prob(images),
        exact.sum(axis=(1, 2, 3)),
        atol=4 * found.standard_error,
    )


def test_the_ratio_of_two_densities_is_exact_with_and_without_one_reference():
    one, other = targets.linear(SMALL), targets.quadratic(SMALL, stddev=2.0)
    reference = one.reference()
    images = one.draw(20, seed=0)
    exact = stats.norm(one.mean, np.sqrt(one.variance)).logpdf(images)
    exact = exact - stats.norm(other.mean, np.sqrt(other.variance)).logpdf(images)
    exact = exact.sum(axis=(1, 2, 3))
    first = estimate(Tilt(one.unit, reference), "importance")
    for tilt in (Tilt(other.unit, reference), tilt_of(other)):
        second = estimate(tilt, "importance")
        ratio = first.log_density_ratio(second, images)
        error = math.hypot(first.standard_error, second.standard_error)
        np.testing.assert_allclose(ratio, exact, atol=4 * error)


def test_the_ratio_of_latent_densities_needs_no_density_of_images():
    generator = lambda z: tf.reshape(tf.tanh(z), [-1, 2, 2, 1])  # noqa: E731
    reference = latent(generator, [4])
    tilts = [
        Tilt(lambda x, a=a: a * tf.reduce_sum(x, axis=[1, 2, 3]), reference)
        for a in (0.5, -0.5)
    ]
    up, down = (estimate(tilt, "importance") for tilt in tilts)
    images = np.full([1, 2, 2, 1], 0.3, np.float32)
    ratio = up.log_density_ratio(down, images)
    expected = 1.2 - up.value + down.value
    np.testing.assert_allclose(ratio, [expected], rtol=1e-5)


def test_generative_log_prob_is_log_p_of_x_given_y_and_gives_the_posterior():
    network = keras_tilt.lenet()
    reference = white_noise((28, 28, 1), stddev=0.5)
    tilts = [Tilt(unit(network, class_index=k), reference) for k in range(10)]
    found = estimate(tilts, "importance", num_draws=300)
    images = reference.sample(6, seed=[0, 3])
    log_prob = generative_log_prob(found, images)
    assert log_prob.shape == (6, 10)
    np.testing.assert_allclose(log_prob[:, 4], found[4].log_prob(images))
    differences = log_prob[:, 4] - log_prob[:, 5]
    ratio = found[4].log_density_ratio(found[5], images)
    np.testing.assert_allclose(differences, ratio, rtol=1e-9, atol=1e-9)
    calibrated = network(images) - [one.value for one in found]
    np.testing.assert_allclose(
        special.softmax(log_prob, axis=1),
        special.softmax(calibrated, axis=1),
        rtol=1e-3,
    )


def test_normalized_densities_are_of_results_and_of_images_of_their_shape():
    tilt = tilt_of(targets.linear(SMALL))
    found = estimate(tilt, "importance", num_draws=100)
    with pytest.raises(TypeError, match="`log_partitions` must come from"):
        generative_log_prob(found, np.zeros([3, *SMALL]))
    with pytest.raises(TypeError, match="`other` must come from"):
        found.log_density_ratio(tilt, np.zeros([3, *SMALL]))
    network = keras_tilt.lenet()
    tilt = Tilt(unit(network, class_index=3), white_noise((28, 28, 1)))
    found = estimate(tilt, "importance", num_draws=100)
    with pytest.raises(ValueError, match="images"):
        found.log_prob(np.zeros([2, 32, 32, 1]))


# What cannot be known


def test_a_tail_without_a_mean_is_said():
    """E exp(a z^2 / 2) is infinite for a >= 1; its square already for a >= 1/2."""
    reference = white_noise([2])
    for a in (0.8, 1.2):
        tilt = Tilt(lambda x, a=a: a * tf.reduce_sum(x**2, axis=1) / 2, reference)
        found = estimate(tilt, "importance")
        assert not found.is_reliable
        assert "Pareto's k" in found.verdict
        assert found.standard_error == math.inf


def test_few_draws_of_q_that_carry_all_weight_are_said():
    found = estimate(tilt_of(targets.linear(LARGE)), "importance", num_draws=1000)
    assert "ESS of the weights is" in found.verdict and found.ess < 10
    assert found.standard_error == math.inf


@pytest.mark.parametrize("a", slow_but([3.0], [1.05, 1.5, 3.0]))
def test_annealing_to_what_is_not_integrable_is_an_error_or_not_to_be_trusted(a):
    tilt = Tilt(lambda x: a * tf.reduce_sum(x**2, axis=1) / 2, white_noise([3]))
    try:
        found = estimate(tilt)
    except ValueError as error:
        assert "not integrable" in str(error)
    else:
        assert not found.is_reliable
        assert found.standard_error == math.inf
    found = estimate(tilt, num_steps=40)
    assert not found.is_reliable, found
    assert "not to be trusted" in str(found)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 5, 6])
def test_a_density_on_the_edge_of_having_a_norm_is_not_to_be_trusted(seed):
    """Forward it is as if log Z were 2; reverse walks have weights without a mean."""
    tilt = Tilt(lambda x: tf.reduce_sum(x**2, axis=1) / 2, white_noise([1]))
    found = estimate(tilt, seed=seed)
    assert "as if one of them had no mean" in found.verdict
    assert found.standard_error == math.inf


def test_too_few_steps_are_said_and_the_bracket_still_holds():
    target = targets.linear(LARGE)
    found = estimate(tilt_of(target), num_steps=10, num_chains=20)
    assert not found.is_reliable
    assert "ESS of the weights" in found.verdict
    assert found.lower < target.log_partition < found.upper


@pytest.mark.parametrize(
    "rise, accepted, reason",
    [
        (0.0, 1.0, None),
        (0.5, 1.0, "f still rises at the full tilt"),
        (-0.5, 1.0, "f still falls at the full tilt"),
        (0.0, 0.05, "only 5% of the steps were accepted"),
    ],
)
def test_walks_that_turn_before_they_have_come_to_p_are_seen(rise, accepted, reason):
    f = np.random.default_rng(0).standard_normal([60, 400])
    f += np.linspace(0, rise, 60)[:, None]
    is_accepted = np.arange(100) < 100 * accepted
    reasons = estimators._walk_reasons(f, is_accepted)
    assert reasons == ([] if reason is None else [reason])


def test_the_bracket_of_normal_weights_is_no_reason():
    for seed in range(1000):
        for spread in (0.2, 0.7, 2.0):
            forward, reverse = gaussian_walks(64, spread, seed=seed)
            value, _ = bennett(forward, reverse)
            assert estimators._bracket_reasons(forward, reverse, value) == [], (
                seed,
                spread,
            )


def test_walks_back_that_began_elsewhere_are_seen():
    forward, reverse = gaussian_walks(200, 0.5)
    assert estimators._weight_reasons(forward, reverse, 100.0, 0.1) == []
    (reason,) = estimators._weight_reasons(forward, reverse - 1.0, 100.0, 0.1)
    assert "nats more than reverse walks" in reason


@pytest.mark.parametrize(
    "change, message",
    [
        ({"method": "harmonic"}, "`method` must be one of 'annealed', 'importance'"),
        ({"num_chains": 19}, "`num_chains` must be a whole number from 20"),
        ({"num_steps": 0}, "`num_steps` must be a whole number from 1"),
        ({"method": "importance", "num_draws": 50}, "`num_draws`"),
        ({"kernel": "nuts"}, "`kernel` must be one of"),
        ({"mass": -1.0}, "`mass` must be positive"),
    ],
)
def test_what_makes_no_sense_is_an_error(change, message):
    with pytest.raises(ValueError, match=message):
        estimate(tilt_of(targets.linear(SMALL)), **change)


def test_other_wrong_arguments_are_errors():
    tilt = tilt_of(targets.linear(SMALL))
    with pytest.raises(TypeError, match="`tilt` must be a Tilt"):
        estimate("tilt")
    with pytest.raises(TypeError, match="`seed` must be"):
        estimate(tilt, seed=None)
    other = tilt_of(targets.quadratic(SMALL))
    with pytest.raises(ValueError, match="`directory` holds one run"):
        estimate([tilt, other], directory="somewhere")


@pytest.mark.parametrize("method", estimators.METHODS)
def test_a_unit_that_is_not_finite_under_q_is_an_error(method):
    tilt = Tilt(lambda x: tf.math.log(x[:, 0]), white_noise([2]))
    with pytest.raises(ValueError, match="must be finite"):
        estimate(tilt, method)
