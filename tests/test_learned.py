"""A learned reference: an exact flow, the bound, a fit that resumes, a measured law."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from cases import slow
from small_network import SHAPE, small_network

import keras_tilt as kt
from keras_tilt import serving, storage
from keras_tilt.cli import commands, digits, flags, named
from keras_tilt.cli import reference as command
from keras_tilt.networks.coupling_flow import CouplingFlow
from keras_tilt.networks.initial_weights import initialize
from keras_tilt.reference.learned import fitting, images, law
from keras_tilt.reference.learned.objective import bound, terms

tfd = tfp.distributions
EDGE = 8


def squares(number, seed=0, share=0.75):
    """Images [n, 8, 8, 1]: a bright square on the left, or with 1 - share right.

    Its brightness is uniform in 150 ... 250, around it is noise. Labels: 0 left, 1
    right.
    """
    rng = np.random.default_rng(seed)
    is_right = rng.random(number) >= share
    pixels = rng.uniform(0, 80, [number, EDGE, EDGE, 1]).astype(np.float32)
    brightness = rng.uniform(150, 250, number)
    for image, right, white in zip(pixels, is_right, brightness, strict=True):
        image[2:6, 4 * right : 4 * right + 4] = white
    return pixels, is_right.astype(int)


def fit(number=60, **arguments):
    defaults = {"latent_size": 3, "width": 4, "epochs": 2, "batch_size": 20}
    return kt.fit_latent(squares(number)[0], progress=False, **defaults | arguments)


def random_generator(shape=SHAPE, seed=0, low=0.0, high=255.0):
    """With weights in the last layers of its couplings, too."""
    generator = kt.ImageGenerator(shape, 4, 4, low, high)
    for i, variable in enumerate(generator.weights):
        normal = tf.random.stateless_normal(variable.shape, [seed, i])
        variable.assign(0.1 * normal)
    return generator


# The flow


@pytest.mark.parametrize("size", [2, 3, 8])
def test_a_flow_is_inverted_and_its_log_determinant_is_that_of_its_jacobian(size):
    flow = CouplingFlow(size, couplings=4, hidden=8)
    flow.build((None, size))
    for i, variable in enumerate(flow.weights):
        variable.assign(0.4 * tf.random.stateless_normal(variable.shape, [1, i]))
    noise = tf.random.stateless_normal([5, size], [0, 7])
    with tf.GradientTape() as tape:
        tape.watch(noise)
        code = flow(noise)
    jacobian = tape.batch_jacobian(code, noise)
    back, log_det = flow.to_noise(code)
    np.testing.assert_allclose(back, noise, atol=1e-4)
    expected = -np.linalg.slogdet(jacobian.numpy().astype(float))[1]
    np.testing.assert_allclose(log_det, expected, atol=1e-4)
    assert np.ptp(expected) > 0.1  # no constant would do


def test_a_new_flow_is_the_identity_but_for_the_order():
    flow = CouplingFlow(6)
    flow.build((None, 6))
    noise = tf.random.stateless_normal([3, 6], [0, 7])
    np.testing.assert_allclose(np.sort(flow(noise)), np.sort(noise), atol=1e-6)


# The bound


def test_the_bound_is_that_of_its_densities_by_another_library():
    """log N(x; decoded, s^2) + log prior(code) - log q(code)."""
    generator = random_generator()
    shares = tf.random.stateless_uniform([7, *SHAPE], [0, 7])
    normal = tf.random.stateless_normal([7, 4], [1, 7])
    mean, log_variance = generator.codes(shares)
    posterior = tfd.MultivariateNormalDiag(mean, tf.exp(0.5 * log_variance))
    code = mean + tf.exp(0.5 * log_variance) * normal
    noise, log_det = generator.flow.to_noise(code)
    prior = tfd.MultivariateNormalDiag(tf.zeros(4)).log_prob(noise) + log_det
    decoded = tf.sigmoid(generator.decoder(code))
    likelihood = tfd.Independent(tfd.Normal(decoded, 0.2), 3).log_prob(shares)
    expected = tf.reduce_mean(likelihood + prior - posterior.log_prob(code))
    found = bound(terms(generator, shares, normal), 0.2, int(np.prod(SHAPE)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_images_of_a_generator_lie_in_its_range_and_can_be_encoded():
    generator = random_generator(low=-1.0, high=3.0)
    drawn = np.asarray(kt.latent(generator).sample(50, seed=[0, 7]))
    assert drawn.shape == (50, *SHAPE) and drawn.min() >= -1 and drawn.max() <= 3
    noise = generator.encode(drawn)
    code, _ = generator.codes((drawn + 1) / 4)
    np.testing.assert_allclose(generator.flow(noise), code, atol=1e-4)


@pytest.mark.parametrize(
    "shape", [(28, 28, 1), (32, 32, 3), (5, 9, 2), (3, 3, 1), slow((64, 48, 3))]
)
def test_a_generator_has_images_of_any_shape(shape):
    generator = kt.ImageGenerator(shape, latent_size=3, width=2)
    assert tuple(generator(np.zeros([2, 3], np.float32)).shape) == (2, *shape)
    assert tuple(generator.encode(np.zeros([2, *shape])).shape) == (2, 3)


# The fit


def assert_same_weights(one, other):
    for a, b in zip(one.weights, other.weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def unmeasured(monkeypatch):
    """A fit takes less time without its law."""
    monkeypatch.setattr(fitting, "law_of", lambda *_: {})


@pytest.fixture(scope="module")
def whole():
    """A fit of eight steps that nothing stops."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fitting, "law_of", lambda *_: {})
        return fit(number=80)


def test_equal_arguments_give_equal_generators_and_another_seed_another(
    whole, unmeasured
):
    assert_same_weights(whole, fit(number=80))
    other = fit(number=80, seed=1)
    assert any(
        np.any(a != b) for a, b in zip(whole.weights, other.weights, strict=True)
    )


class StoppedError(Exception):
    """Raised in the middle of a fit."""


@pytest.mark.parametrize("after", [slow(1), 3, slow(5)])
def test_a_fit_that_was_stopped_resumes_bit_for_bit(
    tmp_path, monkeypatch, whole, unmeasured, after
):
    advance = fitting._Fit._advance

    def stopping(self, step):
        if step == after:
            raise StoppedError
        return advance(self, step)

    monkeypatch.setattr(fitting._Fit, "_advance", stopping)
    with pytest.raises(StoppedError):
        fit(number=80, directory=tmp_path / "fit")
    monkeypatch.setattr(fitting._Fit, "_advance", advance)
    resumed = fit(number=80, directory=tmp_path / "fit")
    assert_same_weights(whole, resumed)
    with pytest.raises(ValueError, match="run that is to be resumed"):
        fit(number=80, epochs=3, directory=tmp_path / "fit")


def test_the_state_is_of_a_whole_step_when_an_interrupt_comes_after_it(
    tmp_path, monkeypatch, whole, unmeasured
):
    """Between the graph of a step and the loop: the optimizer has counted it."""
    step_of = fitting._Fit._step

    def interrupted(self, shares, seed):
        found = step_of(self, shares, seed)
        if int(self.optimizer.iterations) == 2:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(fitting._Fit, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(number=80, directory=tmp_path / "fit")
    monkeypatch.setattr(fitting._Fit, "_step", step_of)
    resumed = fit(number=80, directory=tmp_path / "fit")
    assert_same_weights(whole, resumed)


@pytest.fixture(scope="module")
def fitted():
    """A generator of squares, fitted in seconds, and images it has not seen."""
    pairs, unseen = squares(1000), squares(400, seed=1)
    generator = kt.fit_latent(
        pairs,
        held_out=unseen,
        latent_size=3,
        width=8,
        epochs=40,
        batch_size=50,
        progress=False,
    )
    return generator, unseen


@pytest.mark.slow
def test_a_fitted_law_has_the_shares_and_the_brightness_of_the_images(fitted):
    generator, (unseen, _) = fitted
    drawn = np.asarray(kt.latent(generator).sample(1000, seed=[0, 7]))
    halves = drawn[:, 2:6, :4].mean((1, 2, 3)), drawn[:, 2:6, 4:].mean((1, 2, 3))
    left, brightness = halves[0] > halves[1], np.maximum(*halves)
    # Of 1,000 images it was fitted to and 1,000 draws; .03 more for the fit itself.
    assert abs(left.mean() - 0.75) < 4 * np.sqrt(0.75 * 0.25 / 500) + 0.03
    true = np.maximum(
        unseen[:, 2:6, :4].mean((1, 2, 3)), unseen[:, 2:6, 4:].mean((1, 2, 3))
    )
    # Half of their standard deviation; over six seeds of the fit it is 2 to 7, and the
    # ratio below .97 to 1.17.
    assert abs(brightness.mean() - true.mean()) < 15
    assert 0.7 < brightness.std() / true.std() < 1.3


@pytest.mark.slow
def test_what_is_measured_of_a_good_law_is_good(fitted):
    generator, _ = fitted
    found = generator.law
    assert found["unexplained"] < 0.25 and found["coverage"] > 0.9
    assert found["class_distance"] < 4 * np.sqrt(2 * 0.75 * 0.25 / 400) + 0.03
    assert 0.4 < found["two_sample_coarse"] < 0.8


@pytest.mark.slow
def test_a_poor_law_is_told_from_a_good_one(fitted):
    good, poor = fitted[0].law, fit(number=400).law
    assert poor["two_sample_accuracy"] > 0.95
    assert poor["coverage"] < good["coverage"] and poor["bound"] < good["bound"]
    assert poor["unexplained"] > 3 * good["unexplained"]


def test_saved_and_loaded_it_is_the_same_with_its_law(monkeypatch, tmp_path):
    monkeypatch.setattr(fitting, "law_of", lambda *_: {"bound": 1.25, "coverage": 0.5})
    generator = fit(number=80, latent_size=3)
    assert generator.law["bound"] == 1.25
    generator.save(tmp_path / "q.keras")
    loaded = keras.models.load_model(tmp_path / "q.keras")
    noise = np.random.default_rng(0).normal(size=[4, 3]).astype(np.float32)
    np.testing.assert_array_equal(loaded(noise), generator(noise))
    assert loaded.law == generator.law and loaded.image_shape == (EDGE, EDGE, 1)


def test_batches_pairs_and_arrays_are_read_alike():
    pixels, labels = squares(60)
    batched = tf.data.Dataset.from_tensor_slices((pixels, labels)).batch(25)
    read = [
        images.fitted_and_held_out(given, None, 0.0, 255.0)
        for given in (pixels, (pixels, labels), [pixels, labels], batched)
    ]
    for fitted_images, unseen in read:
        np.testing.assert_array_equal(fitted_images.images, read[0][0].images)
        np.testing.assert_array_equal(unseen.images, read[0][1].images)
    assert read[0][0].labels is None
    assert all(one[1].labels.tolist() == labels[2::3].tolist() for one in read[1:])
    assert len(read[0][0].images) == 40 and len(read[0][1].images) == 20


# What a law is measured by


def test_a_two_sample_test_of_one_law_is_a_toss_and_of_two_laws_none():
    one, same = squares(300)[0] / 255, squares(300, seed=5)[0] / 255
    accuracy = law._two_sample_accuracy(one, same, seed=0)
    assert abs(accuracy - 0.5) < 4 * np.sqrt(0.25 / 300)
    assert law._two_sample_accuracy(one, np.fliplr(same) * 0.5, seed=0) > 0.9


def test_coverage_and_distance_of_classes_by_hand():
    """On a line: the fifth neighbour is 1 ... 5 away, one sample covers its sides."""
    line = np.arange(10.0).reshape(10, 1, 1, 1)
    assert law._coverage(line, line) == 1.0
    assert law._coverage(line, line[:1] - 100) == 0.0
    # The fifth neighbour of 0, 1, 2, ... is 5, 4, 3, 3, 3, 3, 3, 3, 4, 5 away.
    assert law._coverage(line, np.zeros([1, 1, 1, 1])) == 0.4
    pixels, labels = squares(40)
    known = images.Pictures(pixels, labels, 0.0, 255.0)
    left, right = (pixels[labels == k] / 255 for k in (0, 1))
    mixed = np.concatenate([left[:3], right[:1]])
    assert law._class_distance(known, mixed, right[:4]) == 0.75
    assert law._class_distance(known, mixed, mixed) == 0.0


def test_initial_weights_follow_their_seed_and_zeros_stay():
    networks = [
        keras.Sequential(
            [keras.Input([4]), keras.layers.Dense(3), keras.layers.Dense(2)]
        )
        for _ in range(3)
    ]
    for network, seed in zip(networks, (0, 0, 1), strict=True):
        network.layers[1].kernel.assign(tf.zeros([3, 2]))
        initialize(network.weights, seed)
    first, second, other = (network.get_weights() for network in networks)
    np.testing.assert_array_equal(first[0], second[0])
    assert np.any(first[0] != other[0]) and not np.any(first[2])
    assert np.abs(first[0]).max() <= np.sqrt(6 / 7)


# Bad input


@pytest.mark.parametrize(
    "given, arguments, said",
    [
        (np.zeros([3, 8, 8, 1]), {}, "20 images or more.*Received: 3"),
        (squares(30)[0], {}, "40 images or more.*Received: 30"),
        (np.zeros([50, 8, 8, 1]), {}, "differ from each other.*50 images, all equal"),
        (np.full([50, 8, 8, 1], np.nan), {}, "must be finite.*3200 of 3200"),
        (squares(50)[0] - 100, {}, "from `low`, 0, to `high`, 255.*-99.* to"),
        (np.zeros([50, 8, 8]), {}, r"\[n, height, width, channels\].*\(50, 8, 8\)"),
        ([squares(30)[0], np.zeros([9, 4, 4, 1])], {}, r"one image shape \(8, 8, 1\)"),
        ([], {}, "20 images or more.*Received: 0"),
        (np.zeros([0, 8, 8, 1]), {}, "20 images or more.*Received: 0"),
        (squares(50)[0], {"low": 300.0}, "`low` must be below `high`"),
        (squares(50)[0], {"latent_size": 1}, "`latent_size`.*from 2"),
        (squares(50)[0], {"epochs": 0}, "`epochs`.*from 1"),
        (squares(50)[0], {"stddev": 0.0}, "share of white, above 0.*Received: 0"),
        (squares(50)[0], {"width": 1.5}, "`width`.*whole number"),
        (
            squares(50)[0],
            {"held_out": np.zeros([30, 4, 4, 1])},
            "`held_out`.*(shape of `images`|differ)",
        ),
        (squares(50)[0], {"held_out": squares(3)[0]}, "`held_out` must be 20 images"),
        (np.random.rand(50, 97, 8, 1), {}, "at most 96 pixels"),
    ],
)
def test_bad_images_are_told_what_is_wrong(given, arguments, said):
    with pytest.raises(ValueError, match=said):
        kt.fit_latent(given, progress=False, **arguments)


# By name


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "q.keras"
    random_generator().save(path)
    return path


def test_a_generator_by_name_takes_the_pixels_of_the_network(saved):
    """By `forward` of TFP, too, which keeps what equal bijectors made of a noise."""
    as_saved = named.noise(f"latent:{saved}", SHAPE, 0.0, 255.0)
    in_shares = named.noise(f"latent:{saved}", SHAPE, 0.0, 1.0)
    noise = as_saved.distribution.sample(3, seed=[0, 7])
    one, other = (q.bijector.forward(noise) for q in (as_saved, in_shares))
    np.testing.assert_allclose(one / 255, other, atol=1e-6)


def test_what_is_no_generator_is_told(saved, tmp_path):
    with pytest.raises(ValueError, match=r"images \(9, 9, 1\).*of images \(8, 8"):
        named.noise(f"latent:{saved}", (9, 9, 1), 0.0, 255.0)
    network = tmp_path / "network.keras"
    small_network().save(network)
    with pytest.raises(ValueError, match=r"a model of noise \[n, size\]"):
        named.noise(f"latent:{network}", SHAPE, 0.0, 1.0)
    wide = tmp_path / "wide.keras"
    keras.Sequential(
        [
            keras.Input([4]),
            keras.layers.Dense(int(np.prod(SHAPE)), kernel_initializer="ones"),
            keras.layers.Reshape(SHAPE),
        ]
    ).save(wide)
    with pytest.raises(ValueError, match="from black, 0, to white, 1. .*sigmoid"):
        named.noise(f"latent:{wide}", SHAPE, 0.0, 1.0)
    damaged = tmp_path / "damaged.keras"
    damaged.write_bytes(b"no model")
    with pytest.raises(ValueError, match="that Keras can load"):
        named.noise(f"latent:{damaged}", SHAPE, 0.0, 1.0)


@pytest.mark.parametrize("text", ["latent:", "latent:none.keras", "clouds"])
def test_a_reference_by_another_name_is_refused_at_once(text):
    with pytest.raises(flags.argparse.ArgumentTypeError, match="^Expected .*Received"):
        flags.reference(text)


@pytest.fixture(scope="module")
def few_digits(tmp_path_factory):
    """A file of 300 digits to fit to, and 100 held out."""
    path = tmp_path_factory.mktemp("digits") / "few.npz"
    (x_train, y_train), (x_test, y_test) = kt.data.embedded_mnist()
    train = {"x_train": x_train[:300], "y_train": y_train[:300]}
    np.savez(path, **train, x_test=x_test[:100], y_test=y_test[:100])
    return str(path)


@pytest.mark.parametrize("data", ["few digits", slow("digits")])
def test_the_command_writes_generator_law_and_picture_and_nothing_else(
    data, few_digits, tmp_path, capsys
):
    out, data = tmp_path / "q.keras", few_digits if data == "few digits" else data
    commands.main(["reference", data, "--smoke", "--out", str(out)])
    printed = capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {
        "q.json",
        "q.keras",
        "q.png",
    }
    loaded = keras.models.load_model(out)
    assert json.loads(out.with_suffix(".json").read_text())["law"] == loaded.law
    assert f"--reference latent:{out}" in printed and "accuracy of a network" in printed
    made_at = out.stat().st_mtime_ns
    commands.main(["reference", data, "--smoke", "--out", str(out)])
    assert out.stat().st_mtime_ns == made_at and capsys.readouterr().out == printed
    with pytest.raises(SystemExit, match="Expected a new --out"):
        commands.main(["reference", data, "--smoke", "--seed=1", f"--out={out}"])


def test_the_command_refuses_what_it_cannot_read_and_leaves_what_is_there(tmp_path):
    out = tmp_path / "q.keras"
    out.write_text("kept")
    for data, said in [("none.npz", "none.npz"), ("nothing", "nothing|--data-dir")]:
        with pytest.raises(SystemExit, match=said):
            command.main([data, "--force", "--out", str(out)])
    with pytest.raises(SystemExit, match="Expected a new --out"):
        command.main(["digits", "--out", str(out)])
    with pytest.raises(SystemExit):
        command.parse_flags(["digits", "--out", str(tmp_path / "q.h5")])
    assert out.read_text() == "kept"


# Served


def test_a_served_draw_has_the_log_density_of_its_noise():
    """scale f(T(z)) + log N(z; 0, I), and a generator that is in the file once."""
    generator = random_generator(high=1.0)
    tilt = kt.Tilt(
        kt.unit(small_network(), class_index=1), kt.latent(generator), scale=2.0
    )
    schedule = serving.planned([0.3], [3], 4, (0, 7))
    sampler = serving.ServedSampler(tilt, schedule, 0.0, 1.0)
    answer = sampler.functions["start"](
        unit=np.zeros(3, np.int32),
        seed=np.array([[0, 1], [0, 2], [0, 1]], np.int32),
        temperature=np.ones(3, np.float32),
    )
    np.testing.assert_allclose(
        answer["log_density"], tilt.noise_log_prob(answer["noise"]), rtol=1e-4
    )
    drawn = tilt.to_images(answer["noise"])
    np.testing.assert_allclose(answer["f"], tilt.unit(drawn), atol=1e-4)
    np.testing.assert_array_equal(answer["image"][0], answer["image"][2])
    found = sampler.functions["evaluate"](image=np.asarray(drawn))
    assert set(found) == {"f"}
    np.testing.assert_allclose(found["f"][:, 0], answer["f"], atol=1e-4)


def test_a_loop_that_is_stopped_keeps_what_it_has():
    """Of storage: the position is kept at the end, by an error and by an interrupt."""
    kept = []
    with pytest.raises(StoppedError):
        storage.iterate(
            0,
            lambda i: i + 1 if i < 3 else (_ for _ in ()).throw(StoppedError()),
            is_over=lambda i: i == 9,
            show=lambda i: None,
            keep=kept.append,
        )
    assert kept == [3]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([8, 8], 4, 4), "`image_shape` must be"),
        (([8, 0, 1], 4, 4), "`image_shape` must be"),
        (([8, 8, 1], 1, 4), "`latent_size` must be"),
        (([8, 8, 1], 4, 0), "`width` must be"),
        (([8, 8, 1], 4, 4, 1.0, 1.0), "`low` must be below `high`"),
    ],
)
def test_a_generator_of_what_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        kt.ImageGenerator(*arguments)


@pytest.mark.parametrize("flag", ["--paper", "--stddev=2", "--signal-to-noise=1"])
def test_flags_of_white_noise_are_refused_beside_another_reference(
    flag, tmp_path, capsys
):
    q = tmp_path / "q.keras"
    q.touch()
    flags = ["network.keras", "--reference", f"latent:{q}", flag]
    with pytest.raises(SystemExit):
        digits.parse_flags(flags)
    assert f"Expected {flag.partition('=')[0]} with white" in capsys.readouterr().err
