"""Every reference through every way of drawing from it, as a user would call it.

    reference x kernel x way of `kt.sample`;  reference x everything else that takes one

Complete by construction: a new reference, kernel or argument of `kt.sample` fails a
test until it is entered here.
"""

import gc
import inspect
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from cases import slow, slow_but
from small_network import SHAPE, small_network

import keras_tilt as kt
from keras_tilt.cli import ask, export_sampler, flags
from keras_tilt.reference import distributions, generators, heavy_tails, sums
from keras_tilt.sampling import kernels

CHAINS, DRAWS, BURNIN = 4, 4, 3


def generator():
    """A small trained-looking decoder: 6 numbers to images in (-1, 1)."""
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input([6]),
            keras.layers.Dense(64, activation="tanh"),
            keras.layers.Reshape(SHAPE),
        ]
    )


# How each reference is made; by the names of its wing, and what else there is:
# compositions, and a distribution that is nobody's transport.
REFERENCES = {
    "white_noise": lambda: kt.white_noise(SHAPE, 0.2, 0.7),
    "box": lambda: kt.box(SHAPE, -1.0, 1.0),
    "spectral_noise": lambda: kt.spectral_noise(SHAPE, 0.1, 0.5),
    "spectral_noise fitted": lambda: kt.spectral_noise(
        SHAPE, spectrum=kt.fit_spectrum(np.random.default_rng(0).random((99, *SHAPE)))
    ),
    "squash": lambda: kt.squash(kt.spectral_noise(SHAPE, stddev=0.5), -1.0, 1.0),
    "wavelet_noise": lambda: kt.wavelet_noise(SHAPE, 0.1, 0.5),
    "wavelet_noise with a field": lambda: kt.squash(
        kt.wavelet_noise(SHAPE, 0.0, 0.5, field=0.5), -1.0, 1.0
    ),
    "latent": lambda: kt.latent(generator()),
    "latent of a function": lambda: kt.latent(
        lambda z: tf.reshape(tf.tanh(z), [-1, *SHAPE]), [64]
    ),
    "fit_latent": lambda: kt.latent(kt.ImageGenerator(SHAPE, 5, 4, 0.0, 1.0)),
    "fit_components": lambda: kt.latent(
        kt.PrincipalGenerator(SHAPE, 5, None, 0.0, 1.0)
    ),
    "squash of latent": lambda: kt.squash(kt.latent(generator()), -1.0, 1.0),
    "sum_of": lambda: kt.squash(
        kt.sum_of(kt.latent(generator()), kt.wavelet_noise(SHAPE, 0.0, 0.3)), -1.0, 1.0
    ),
    "other": lambda: tfp.distributions.Independent(
        tfp.distributions.Laplace(np.zeros(SHAPE, np.float32), 0.5), 3
    ),
}
# Of the names of those modules.
NO_REFERENCES = {
    *("Generator", "NormalToWavelets", "ScaledWavelets", "standard_normal"),
    *("checked_parameter", "checked_shape", "frequency_bands"),
    *("generators_of", "has_density", "check_transport", "is_standard_normal"),
}
WITHOUT_DENSITY = {
    *("latent", "latent of a function", "fit_latent", "squash of latent"),
    "fit_components",
    *("wavelet_noise with a field", "sum_of"),
}
NOT_NORMAL = {"other"}

_made = {}


@pytest.fixture(scope="module")
def network():
    return small_network()


def tilt_of(network, name, class_index=1):
    """The same reference for all ways, so that they can be compared and share graphs.

    A scale of its own shows that one is not forgotten anywhere.
    """
    if name not in _made:
        _made[name] = REFERENCES[name]()
    return kt.Tilt(kt.unit(network, class_index=class_index), _made[name], scale=1.5)


def draw(tilt, kernel, **kwargs):
    arguments = {"num_results": DRAWS, "seed": 7, "max_leapfrog_steps": 3}
    arguments |= {"num_chains": CHAINS, "num_burnin_steps": BURNIN, "progress": False}
    return kt.sample(tilt, kernel=kernel, **arguments | kwargs)


def assert_is_a_sample(samples, tilt):
    """The record agrees with the tilt, of arrays: images, f, log p."""
    assert samples.f.shape == (DRAWS, CHAINS) and np.all(np.isfinite(samples.f))
    images = np.asarray(samples.images)
    assert images.shape == (len(samples.noise), CHAINS, *SHAPE)
    np.testing.assert_allclose(
        tilt.to_images(np.asarray(samples.noise[-1])), images[-1], atol=1e-5
    )
    np.testing.assert_allclose(tilt.unit(images[-1]), samples.f[-1], atol=1e-3)
    np.testing.assert_allclose(
        tilt.noise_log_prob(np.asarray(samples.noise[-1])),
        samples.log_prob[-1],
        rtol=1e-4,
        atol=1e-2,
    )
    assert samples.diagnostics.verdict


# The ways of kt.sample. Each is given (tilt, kernel, a draw of the plain kind, folder,
# strategy), and says which arguments of kt.sample it is about.


def one(tilt, kernel, plain, folder, strategy):
    assert_is_a_sample(plain, tilt)
    again = draw(tilt, kernel)
    np.testing.assert_array_equal(again.noise, plain.noise)


def several(tilt, kernel, plain, folder, strategy):
    other = kt.Tilt(
        kt.unit(tilt.unit.terms[0][0].network, class_index=2), tilt.reference
    )
    settings = {"num_leapfrog_steps": 2, "step_size": 0.1}
    found = draw([tilt, other, tilt], kernel, **settings)
    assert_is_a_sample(found[1], other)
    assert_is_a_sample(found[2], tilt)
    if kernel == "split":  # of others the random numbers are those of the whole batch
        alone = draw(tilt, kernel, **settings)
        np.testing.assert_allclose(found[0].noise, alone.noise, atol=1e-4)


def directory(tilt, kernel, plain, folder, strategy):
    np.testing.assert_array_equal(
        draw(tilt, kernel, directory=folder).noise, plain.noise
    )


def resumed(tilt, kernel, plain, folder, strategy):
    short = draw(tilt, kernel, num_results=2, directory=folder)
    np.testing.assert_array_equal(short.noise, plain.noise[:2])
    whole = draw(tilt, kernel, directory=folder)
    np.testing.assert_array_equal(whole.noise, plain.noise)
    np.testing.assert_array_equal(whole.f, plain.f)


def callback(tilt, kernel, plain, folder, strategy):
    seen = []
    draw(tilt, kernel, callback=lambda number, noise: seen.append((number, noise[0])))
    assert [number for number, _ in seen] == list(range(DRAWS))
    np.testing.assert_array_equal([noise for _, noise in seen], plain.noise)


def thinned(tilt, kernel, plain, folder, strategy):
    found = draw(tilt, kernel, thin=2)
    np.testing.assert_array_equal(found.noise, plain.noise[1::2])
    np.testing.assert_array_equal(found.f, plain.f)


def ladder(tilt, kernel, plain, folder, strategy):
    found = draw(tilt, kernel, inverse_temperatures=(1.0, 0.4))
    assert_is_a_sample(found, tilt)
    assert found.swap_accept_rate.shape == (1,)


def superchains(tilt, kernel, plain, folder, strategy):
    found = draw(tilt, kernel, num_superchains=2, step_size=1e-6, num_burnin_steps=0)
    assert_is_a_sample(found, tilt)
    groups = found.noise[0].reshape(2, 2, -1)
    np.testing.assert_allclose(groups[:, 0], groups[:, 1], atol=1e-3)


def given_start(tilt, kernel, plain, folder, strategy):
    start = np.asarray(plain.noise[-1])
    found = draw(tilt, kernel, initial_noise=start, step_size=1e-6)
    np.testing.assert_allclose(found.noise[-1], start, atol=1e-3)


def replicas(tilt, kernel, plain, folder, strategy):
    with strategy.scope():
        if kernel != "split":
            with pytest.raises(ValueError, match="over replicas"):
                draw(tilt, kernel)
            return
        found = draw(tilt, kernel)
    np.testing.assert_allclose(found.noise, plain.noise, atol=1e-3)


def of_split_alone(tilt, kernel, plain, folder, strategy):
    """Some arguments are of one kernel, and refused by the others."""
    for argument in (
        {"mass": 2.0},
        {"approach_step_size": 0.1},
        {"momentum_persistence": 0.5},
    ):
        if kernel == "split":
            assert_is_a_sample(draw(tilt, kernel, **argument), tilt)
        else:
            with pytest.raises(ValueError, match=f"{next(iter(argument))}"):
                draw(tilt, kernel, **argument)


def with_bar(tilt, kernel, plain, folder, strategy):
    found = draw(tilt, kernel, progress=True, target_accept_prob=0.6)
    assert_is_a_sample(found, tilt)


WAYS = {
    one: {"tilt", "num_chains", "num_results", "num_burnin_steps", "seed", "kernel"},
    several: {"num_leapfrog_steps", "step_size"},
    directory: {"directory"},
    resumed: {"directory"},
    callback: {"callback"},
    thinned: {"thin"},
    ladder: {"inverse_temperatures"},
    superchains: {"num_superchains"},
    given_start: {"initial_noise"},
    replicas: set(),
    of_split_alone: {"mass", "approach_step_size", "momentum_persistence"},
    with_bar: {"progress", "target_accept_prob", "max_leapfrog_steps"},
}


@pytest.fixture(scope="module")
def plain(network):
    """The plain sample of a reference and a kernel, drawn once."""
    drawn = {}

    def of(name, kernel):
        if (name, kernel) not in drawn:
            drawn[name, kernel] = draw(tilt_of(network, name), kernel)
        return drawn[name, kernel]

    return of


def test_every_reference_kernel_and_argument_is_entered():
    modules = distributions, generators, heavy_tails, sums
    functions = {name for each in modules for name in each.__all__} - NO_REFERENCES
    assert functions == functions & {name.split()[0] for name in REFERENCES}
    assert set().union(*WAYS.values()) == set(inspect.signature(kt.sample).parameters)


def cases():
    """Every way, reference and kernel; quick are 37 by which these meet:

    every kernel with every way, and every reference with ours.

    With our kernel both go round together; with the others the reference is one. Ways
    of one reference and kernel follow each other, as they share the graphs that are
    kept.
    """
    numbered = [list(enumerate(axis)) for axis in (REFERENCES, kernels.KERNELS, WAYS)]
    period = min(len(REFERENCES), len(WAYS))
    for (j, name), (_, kernel), (i, way) in itertools.product(*numbered):
        is_quick = (i - j) % period == 0 if kernel == "split" else j == 0
        case = f"{way.__name__}-{name}-{kernel}"
        marks = [] if is_quick else [pytest.mark.slow]
        yield pytest.param(way, name, kernel, id=case, marks=marks)


def test_every_kernel_meets_every_way_and_ours_every_reference_in_a_quick_case():
    quick = [case.values for case in cases() if not case.marks]
    met = {(way, kernel) for way, _, kernel in quick}
    assert met == set(itertools.product(WAYS, kernels.KERNELS))
    assert {name for _, name, kernel in quick if kernel == "split"} == {*REFERENCES}


@pytest.mark.parametrize("way, name, kernel", [*cases()])
def test_every_reference_is_sampled_in_every_way(
    way, name, kernel, network, plain, strategy, tmp_path
):
    tilt = tilt_of(network, name)
    if name in NOT_NORMAL and kernel == "split":
        with pytest.raises(ValueError, match=r"only where the noise is N\(0, I\)"):
            draw(tilt, kernel)
        return
    way(tilt, kernel, plain(name, kernel), tmp_path / "run", strategy)


def test_a_ladder_is_a_tuple_a_list_or_an_array(network):
    tilt, ladder = tilt_of(network, "white_noise"), (1.0, 0.4)
    found, *others = (
        draw(tilt, "split", inverse_temperatures=form)
        for form in (ladder, list(ladder), np.array(ladder))
    )
    for other in others:
        np.testing.assert_array_equal(other.noise, found.noise)


# Everything else that takes a reference


# A transport, one without a density of images, and one that is nobody's transport.
OF_EVERY_KIND = ("squash", "latent", "other")
of_every_kind = pytest.mark.parametrize("name", slow_but(OF_EVERY_KIND, REFERENCES))


@of_every_kind
def test_log_partition_takes_every_reference(name, network):
    tilt = tilt_of(network, name)
    annealed = kt.log_partition(
        tilt, num_chains=24, num_steps=16, seed=3, progress=False
    )
    by_importance = kt.log_partition(tilt, "importance", seed=3, progress=False)
    assert annealed.is_reliable and by_importance.is_reliable
    error = np.hypot(annealed.standard_error, by_importance.standard_error)
    assert abs(annealed.value - by_importance.value) < 5 * error
    images = tilt.to_images(np.asarray(tilt.base.sample(3, seed=[0, 1]))).numpy()
    if name in WITHOUT_DENSITY:
        with pytest.raises(NotImplementedError, match="neither a density"):
            annealed.log_prob(images)
    else:
        assert np.all(np.isfinite(annealed.log_prob(images)))


@pytest.mark.parametrize("name", REFERENCES)
def test_signal_to_noise_takes_every_reference(name, network):
    tilt = tilt_of(network, name)
    noise = np.asarray(tilt.base.sample(3, seed=[0, 1]))
    found = tilt.signal_to_noise(noise=noise)
    weaker = kt.Tilt(tilt.unit, tilt.reference).signal_to_noise(noise=noise)
    np.testing.assert_allclose(found, 1.5 * weaker, rtol=1e-5)
    if name not in WITHOUT_DENSITY:
        images = np.asarray(tilt.to_images(noise))
        np.testing.assert_allclose(
            tilt.signal_to_noise(images), found, rtol=1e-2, atol=1e-4
        )


@of_every_kind
def test_scale_for_signal_takes_every_reference(name, network):
    tilt = tilt_of(network, name)
    if name in NOT_NORMAL:
        with pytest.raises(ValueError, match=r"must be N\(0, I\)"):
            kt.scale_for_signal(tilt, seed=3, progress=False)
        return
    found = kt.scale_for_signal(tilt, 0.1, seed=3, progress=False)
    assert found.unit is tilt.unit and 0 < found.scale < np.inf
    stronger = kt.scale_for_signal(tilt, 0.2, seed=3, progress=False)
    assert stronger.scale > found.scale


@pytest.mark.parametrize("names", [OF_EVERY_KIND, slow(tuple(REFERENCES))])
def test_unit_samples_take_every_reference(names, network, tmp_path):
    tilts = {name: tilt_of(network, name) for name in names}
    callback = kt.UnitSamples(
        tmp_path, tilts, seed=5, num_chains=2, num_results=4, num_burnin_steps=2
    )
    model = kt.GenerativeClassifier(network)
    model.compile(keras.optimizers.SGD(0.0))
    images = np.random.default_rng(0).random((16, *SHAPE), np.float32)
    model.fit(images, np.arange(16) % 3, batch_size=8, callbacks=[callback], verbose=0)
    (events,) = tmp_path.iterdir()
    written = {
        value.tag
        for event in tf.compat.v1.train.summary_iterator(str(events))
        for value in event.summary.value
    }
    assert {f"{name}/samples" for name in names} <= written


@pytest.mark.parametrize("name", REFERENCES)
def test_the_sampler_that_is_served_takes_every_reference_or_says_why_not(
    name, network
):
    tilts = [tilt_of(network, name, k) for k in range(2)]
    schedule = kt.serving.planned([0.2, 0.2], [2, 2], 4, (0, 7))

    def served():
        return kt.serving.ServedSampler(tilts, schedule, -1.0, 1.0)

    if name in NOT_NORMAL:
        with pytest.raises(ValueError, match=r"must be N\(0, I\)"):
            served()
        return
    rows = {
        "unit": np.array([0, 1], np.int32),
        "seed": np.array([[1, 2], [3, 4]], np.int32),
        "temperature": np.ones(2, np.float32),
    }
    answer = served().sample(**rows)
    assert answer["image"].shape == (2, *SHAPE) and np.all(np.isfinite(answer["f"]))


def test_a_function_with_conditions_on_tensors_is_served():
    """They need the conversion that tf.function does."""

    def plain(images):
        return tf.reduce_sum(images, axis=[1, 2, 3])

    def unit(images):
        f = plain(images)
        if tf.reduce_max(f) > 1e9:
            f = tf.zeros_like(f)
        return f

    def answer(f):
        tilt = kt.Tilt(f, kt.white_noise(SHAPE))
        schedule = kt.serving.planned([0.2], [2], 4, (0, 7))
        served = kt.serving.ServedSampler([tilt], schedule, -1.0, 1.0)
        return served.start(
            np.zeros(1, np.int32), np.array([[1, 2]], np.int32), np.ones(1, np.float32)
        )

    one, other = answer(unit), answer(plain)
    np.testing.assert_allclose(one["noise"], other["noise"], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*flags.NOISES, "latent:{}/q.keras"])
def test_every_reference_of_the_command_line_is_exported_and_asked(
    kind, network, tmp_path
):
    network.save(tmp_path / "network.keras")
    kt.ImageGenerator(SHAPE, 5, 4).save(tmp_path / "q.keras")
    kind = kind.format(tmp_path)
    command = [tmp_path / "network.keras", "--unit", "class:1", "--smoke"]
    command += ["--reference", kind, "--low", "0", "--high", "1"]
    export_sampler.main(list(map(str, [*command, "--out", tmp_path / "served"])))
    readme = (tmp_path / "served" / "README.md").read_text()
    assert ("N(z; 0, I)" in readme) == kind.startswith("latent")
    assert ("log_q" in readme) != kind.startswith("latent")
    asked = tmp_path / "asked.png"
    ask.main([str(tmp_path / "served"), "--unit", "0", "--out", str(asked)])
    assert asked.stat().st_size > 0


def test_nothing_of_a_network_is_left_when_it_is_dropped():
    """Whatever graphs were kept for it: see `keras_tilt.sampling.kept`."""
    import weakref

    dropped = small_network(seed=5)
    reference = kt.white_noise(SHAPE)
    kt.sample(
        kt.Tilt(kt.unit(dropped, class_index=0), reference),
        2,
        4,
        2,
        seed=1,
        progress=False,
    )
    alive = weakref.ref(dropped), weakref.ref(dropped.layers[0].kernel)
    del dropped
    gc.collect()
    assert [one() for one in alive] == [None, None]
