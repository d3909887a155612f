"""Served rows are draws of their density, each by itself, whatever stands beside it."""

import io
import json

import keras
import numpy as np
import pytest
import small_network
import targets
import tensorflow as tf
import tensorflow_probability as tfp
from cases import slow
from PIL import Image, ImageOps

import keras_tilt as kt
from keras_tilt import serving
from keras_tilt.reference.transports import forward
from keras_tilt.serving import requests

ROWS = requests.MOST_REQUESTS


def rows_of(seeds, unit=0, temperature=1.0):
    """Rows of one unit, or of units [rows], with seeds (0, seed)."""
    seeds = np.asarray(seeds, np.int32)
    ones = np.ones(len(seeds))
    return {
        "unit": tf.constant(unit * ones, tf.int32),
        "seed": tf.constant(np.stack([0 * seeds, seeds], axis=1), tf.int32),
        "temperature": tf.constant(temperature * ones, tf.float32),
    }


def parts(inputs, rows):
    return {name: value[rows] for name, value in inputs.items()}


def arrays(outputs):
    """Arrays, of bytes of one length where they are strings."""
    found = {name: value.numpy() for name, value in outputs.items()}
    return {
        k: np.array(v.tolist()) if v.dtype == object else v for k, v in found.items()
    }


def mixed(n, seed=0):
    """Rows of all three units at several temperatures."""
    random = np.random.default_rng(seed)
    return rows_of(
        random.integers(0, 2**31, n),
        random.integers(0, 3, n),
        random.uniform(0.3, 3.0, n),
    )


# The density


def served(target, num_iterations=12, step=0.5, num_steps=3, low=-6.0, high=6.0):
    tilt = kt.Tilt(target.unit, target.reference())
    schedule = serving.planned([step], [num_steps], num_iterations, (0, 7))
    return serving.ServedSampler([tilt], schedule, low, high)


def saved(sampler, folder):
    """The signatures of the sampler as they come back from the disk."""
    tf.saved_model.save(sampler, str(folder), signatures=sampler.functions)
    return tf.saved_model.load(str(folder)).signatures


def ends(signature, num_rows, first=0, **row):
    """Noise of the ends of chains with seeds of their own."""
    blocks = [
        signature(**rows_of(range(i, i + ROWS), **row))
        for i in range(first, first + num_rows, ROWS)
    ]
    return np.concatenate([block["noise"] for block in blocks])


def images_of(target, noise):
    return forward(target.reference().bijector, tf.constant(noise)).numpy()


@pytest.mark.parametrize(
    "target",
    [targets.linear(), *map(slow, (targets.box_linear(), targets.relu()))],
    ids=lambda target: target.name,
)
def test_what_is_loaded_draws_from_the_density(target, tmp_path):
    """Means and variances of pixels, and Kolmogorov-Smirnov in two directions."""
    signatures = saved(served(target), tmp_path)
    images = images_of(target, ends(signatures["start"], 16 * ROWS))
    errors = np.sqrt(target.variance / len(images))
    assert np.max(np.abs(images.mean(axis=0) - target.mean) / errors) < 4.5
    assert min(target.p_values(images)) > 1e-4
    if target.name == "linear":  # for Gaussians the error of a variance is known
        ratio = images.var(axis=0, ddof=1) / target.variance - 1
        assert np.max(np.abs(ratio)) < 4.5 * np.sqrt(2 / len(images))


def test_chains_that_are_too_short_do_not():
    """The negative control of the test above: two short steps from q."""
    target = targets.linear()
    sampler = served(target, num_iterations=2, step=0.1, num_steps=1)
    images = images_of(target, ends(sampler.functions["start"], 4 * ROWS))
    assert min(target.p_values(images)) < 1e-6


def test_a_temperature_divides_f():
    target, temperature = targets.linear(), 2.5
    cooled = targets.linear(scale=0.25 / temperature, bias=0.0)
    start = served(target).functions["start"]
    images = images_of(target, ends(start, 8 * ROWS, temperature=temperature))
    assert min(cooled.p_values(images)) > 1e-4
    assert min(target.p_values(images)) < 1e-6


def test_resuming_leaves_the_density_as_it_is():
    """Exact draws, one row each, are exact draws some iterations later, elsewhere."""
    target = targets.relu()
    sampler = served(target, num_iterations=6)
    noise = target.draw(8 * ROWS, seed=3) / 1.5
    found = [
        sampler.functions["resume"](
            noise=tf.constant(noise[i : i + ROWS]), **rows_of(range(i, i + ROWS))
        )["noise"]
        for i in range(0, len(noise), ROWS)
    ]
    moved = np.concatenate(found)
    assert np.mean(moved != noise) > 0.5
    assert min(target.p_values(images_of(target, moved))) > 1e-4


def test_resuming_with_the_seed_of_the_start_has_other_random_numbers():
    """A trajectory of length pi/2 ends at the momentum, and equal ones at one place."""
    target = targets.constant()
    sampler = served(target, num_iterations=2, step=np.pi / 2, num_steps=1)
    rows = rows_of(range(ROWS))
    start = sampler.functions["start"](**rows)["noise"]
    resumed = sampler.functions["resume"](noise=start, **rows)["noise"]
    correlation = np.corrcoef(np.ravel(start), np.ravel(resumed))[0, 1]
    assert abs(correlation) < 5 / np.sqrt(tf.size(start))


def test_what_is_said_of_an_image_is_so(small_sampler):
    """f, log densities and accepted steps, by the library that made the graph."""
    network = small_network.small_network()
    noise = kt.white_noise(small_network.SHAPE, stddev=2.0)
    rows = mixed(12)
    answer = arrays(small_sampler.functions["start"](**rows))
    images = tf.constant(2.0 * answer["noise"])
    every = np.stack([kt.unit(network, class_index=k)(images) for k in range(3)], 1)
    f = every[np.arange(12), rows["unit"]]
    log_q = noise.log_prob(images)
    np.testing.assert_allclose(answer["f"], f, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        answer["log_density"], f / rows["temperature"] + log_q, rtol=1e-5
    )
    pixels = np.round(255 * np.clip((images + 6.0) / 12.0, 0, 1))
    np.testing.assert_array_equal(answer["image"], pixels)
    shares = answer["accept_rate"] * small_sampler.schedule.num_full
    np.testing.assert_allclose(shares, np.round(shares), atol=1e-5)
    evaluated = arrays(small_sampler.functions["evaluate"](image=images))
    np.testing.assert_allclose(evaluated["f"], every, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(evaluated["log_q"], log_q, rtol=1e-5)
    np.testing.assert_allclose(
        evaluated["log_density"], every + log_q[:, None], rtol=1e-5
    )


def test_a_row_has_converged_where_its_unit_and_temperature_are_certified():
    sampler = served(targets.linear())
    tilts = [kt.Tilt(u, sampler._first.reference) for u in [sampler._first.unit] * 2]
    schedule = serving.planned([0.5] * 2, [3] * 2, 4, (0, 7))
    sampler = serving.ServedSampler(
        tilts, schedule, -1.0, 1.0, certified=[True, False], temperatures=[0.7, 2.0]
    )
    answer = sampler.functions["serving_default"]
    found = answer(**rows_of(range(6), [0, 0, 0, 0, 1, 0], [0.7, 1, 2, 0.6, 1, 2.1]))
    assert (found["accept_rate"].numpy() > 0).all()
    assert found["converged"].numpy().tolist() == [True] * 3 + [False] * 3


def test_log_prob_is_normalized_where_log_z_is_known():
    target = targets.linear()
    tilt = kt.Tilt(target.unit, target.reference())
    schedule = serving.planned([0.5], [3], 4, (0, 7))
    log_z = np.array([[target.log_partition], [np.nan]])
    sampler = serving.ServedSampler(
        tilt, schedule, -1.0, 1.0, temperatures=[1.0, 3.0], log_partition=log_z
    )
    answer = sampler.functions["start"](
        **rows_of(range(3), temperature=[1.0, 2.0, 3.0])
    )
    images = images_of(target, answer["noise"][:1])
    spread = np.sqrt(target.variance)
    exact = -np.sum(target.scores(images) ** 2) / 2 - np.sum(
        np.log(spread * np.sqrt(2 * np.pi))
    )
    assert abs(answer["log_prob"][0] - exact) < 1e-4 * abs(exact)
    assert np.isnan(answer["log_prob"][1:]).all()
    evaluated = sampler.functions["evaluate"](image=images)
    assert abs(evaluated["log_prob"][0, 0] - exact) < 1e-4 * abs(exact)


def test_a_signature_is_traced_when_it_is_asked_for():
    traced = []

    def unit(images):
        traced.append(len(images))
        return tf.reduce_sum(images, axis=[1, 2, 3])

    schedule = serving.planned([0.3], [3], 4, (0, 7))
    tilt = kt.Tilt(unit, kt.white_noise(small_network.SHAPE))
    sampler = serving.ServedSampler(tilt, schedule, -1.0, 1.0)
    before = len(traced)
    assert "sample_png" in sampler.functions and "sample_gif" not in sampler.functions
    assert sorted(sampler.functions) == sorted(
        ["serving_default", "sample_each", "start", "resume", "evaluate", "sample_png"]
    )
    assert len(traced) == before
    start = sampler.functions["start"]
    assert len(traced) > before and sampler.functions["start"] is start
    with pytest.raises(KeyError, match="sample_gif"):
        sampler.functions["sample_gif"]


# One row by itself


@pytest.mark.parametrize("signature", ["start", "sample_png", "sample_each"])
def test_a_row_is_the_same_alone_and_at_any_place_of_any_batch(
    small_sampler, signature
):
    function, rows = small_sampler.functions[signature], mixed(9)
    alone = [arrays(function(**parts(rows, slice(i, i + 1)))) for i in range(9)]
    order = np.random.default_rng(1).permutation(np.resize(np.arange(9), ROWS))
    together = arrays(function(**{k: tf.gather(v, order) for k, v in rows.items()}))
    for place, i in enumerate(order):
        for name, values in together.items():
            assert np.array(values[place]).tobytes() == alone[i][name].tobytes(), name


def test_rows_of_several_networks_stand_beside_each_other():
    """Units that share no layer are branches of the graph."""
    one, other = small_network.small_network(0), small_network.small_network(1)
    noise = kt.white_noise(small_network.SHAPE)
    units = [
        kt.unit(one, class_index=0),
        kt.unit(other, class_index=2, posterior=True),
        kt.unit(one, "conv1:1"),
        lambda images: -tf.reduce_sum(images**2, axis=[1, 2, 3]),
    ]
    schedule = serving.planned([0.3] * 4, [3] * 4, 4, (0, 7))
    tilts = [kt.Tilt(unit, noise) for unit in units]
    several = serving.ServedSampler(tilts, schedule, -3.0, 3.0)
    answer = arrays(several.functions["start"](**rows_of(range(4), range(4))))
    for i, tilt in [*enumerate(tilts)][1::2]:
        schedule = serving.planned([0.3], [3], 4, (0, 7))
        alone = serving.ServedSampler(tilt, schedule, -3.0, 3.0).functions["start"]
        of_row = arrays(alone(**rows_of([i])))
        np.testing.assert_allclose(of_row["f"], answer["f"][[i]], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(of_row["noise"], answer["noise"][[i]], atol=1e-4)


def test_equal_seeds_are_equal_images_and_other_seeds_are_others(small_sampler):
    seeds = [[0, 1], [0, 1], [1, 0], [0, 2], [1, 1], [-1, 1]]
    rows = rows_of(range(6)) | {"seed": tf.constant(seeds, tf.int32)}
    images = small_sampler.functions["serving_default"](**rows)["image"].numpy()
    np.testing.assert_array_equal(images[0], images[1])
    flat = images[1:].reshape(5, -1).astype(float)
    assert np.max(np.corrcoef(flat) - np.eye(5)) < 5 / np.sqrt(flat.shape[1])


def test_the_second_half_of_a_seed_does_not_shift_the_iterations(small_sampler):
    """Seeds (a, b) and (a, b + 1) share no random numbers; of q, whose mean is 0."""
    rows = rows_of(range(ROWS), unit=1, temperature=1e10)
    noise = small_sampler.functions["start"](**rows)["noise"].numpy()
    flat = noise.reshape(ROWS, -1)
    neighbours = np.mean(flat[1:] * flat[:-1])
    assert abs(neighbours) < 5 / np.sqrt(flat[1:].size)


def test_rows_of_no_number_are_no_rows(small_sampler):
    answer = small_sampler.functions["serving_default"](**rows_of([]))
    assert answer["image"].shape == (0, 8, 8, 1) and answer["f"].shape == (0,)


@pytest.mark.parametrize("temperature", [1e-37, 1e-10, 1e10, 3e38])
def test_answers_are_finite_at_any_temperature(small_sampler, temperature):
    answer = arrays(small_sampler.functions["start"](**rows_of([1, 2], 0, temperature)))
    for name in ("noise", "f", "accept_rate"):
        assert np.isfinite(answer[name]).all()
    if temperature > 1:  # p is q
        np.testing.assert_array_equal(answer["accept_rate"], 1.0)


# What is refused


@pytest.mark.parametrize(
    "name, value, sentence",
    [
        ("unit", 3, "`unit` must lie in 0..2. Received: 3."),
        ("unit", -1, "`unit` must lie in 0..2. Received: -1."),
        ("temperature", 0.0, "`temperature` must be positive and finite. Received: 0."),
        ("temperature", -2.5, "must be positive and finite. Received: -2.5."),
        ("temperature", np.inf, "must be positive and finite. Received: inf."),
        ("temperature", np.nan, "must be positive and finite. Received: nan."),
    ],
)
def test_a_bad_row_is_named_and_spoils_no_other(small_sampler, name, value, sentence):
    rows = arrays(mixed(3))
    rows[name][1] = value
    rows = {name: tf.constant(values) for name, values in rows.items()}
    for signature in ("serving_default", "sample_png", "start"):
        with pytest.raises(tf.errors.InvalidArgumentError) as raised:
            small_sampler.functions[signature](**rows)
        assert "Request 1: `" in raised.value.message
        assert sentence in raised.value.message
    each = arrays(small_sampler.functions["sample_each"](**rows))
    good = {k: tf.gather(v, [0, 2]) for k, v in rows.items()}
    expected = arrays(small_sampler.functions["serving_default"](**good))
    for key, values in expected.items():
        np.testing.assert_array_equal(each[key][[0, 2]], values)
    assert sentence in each["error"][1].decode()
    assert each["error"].tolist()[::2] == [b"", b""]
    assert np.isnan(each["f"][1]) and not each["image"][1].any()


def test_noise_and_images_must_be_finite_and_rows_of_one_number(small_sampler):
    functions, rows = small_sampler.functions, rows_of([0, 1])
    noise = np.zeros([2, 8, 8, 1], np.float32)
    noise[1, 3, 3] = np.nan
    for refused in (
        lambda: functions["resume"](noise=tf.constant(noise), **rows),
        lambda: functions["evaluate"](image=tf.constant(noise)),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match="must be finite"):
            refused()
    rows["unit"] = tf.zeros([3], tf.int32)
    with pytest.raises(tf.errors.InvalidArgumentError, match="as many requests"):
        functions["serving_default"](**rows)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=f"at most {ROWS} requests"
    ):
        functions["serving_default"](**rows_of(range(ROWS + 1)))


def test_what_cannot_be_served_is_refused():
    shape = small_network.SHAPE
    unit = kt.unit(small_network.small_network(), class_index=0)
    schedule = serving.planned([0.3], [3], 4, (0, 7))

    def make(tilts, low=0.0, high=1.0):
        serving.ServedSampler(tilts, schedule, low, high)

    one, other = (kt.Tilt(unit, kt.white_noise(shape)) for _ in range(2))
    with pytest.raises(ValueError, match="have one reference"):
        make([one, other])
    normal = tfp.distributions.Sample(tfp.distributions.Normal(0.0, 2.0), shape)
    with pytest.raises(ValueError, match=r"must be N\(0, I\)"):
        make(kt.Tilt(unit, normal))
    flat = kt.white_noise([4])
    with pytest.raises(ValueError, match=r"\[height, width, channels\]"):
        make(kt.Tilt(lambda x: tf.reduce_sum(x, axis=1), flat))
    for low, high in ((1.0, 0.0), (0.0, np.inf), (np.nan, 1.0)):
        with pytest.raises(ValueError, match="black below white"):
            make(one, low, high)
    with pytest.raises(TypeError, match="must be a Tilt"):
        make([unit])


# The plan and what is kept


def test_a_schedule_rises_like_a_warm_up_and_then_stays():
    schedule = serving.planned([0.2, 0.4], [6, 3], 20, (0, 7))
    assert schedule.num_rising == 8 and schedule.num_full == 12
    assert (np.diff(schedule.rise[:9]) > 0).all() and (schedule.rise[8:] == 1).all()
    np.testing.assert_allclose(schedule.step_size, [[0.2] * 20, [0.4] * 20])
    for counts, mean in zip(schedule.num_leapfrog_steps, (6, 3), strict=True):
        assert counts.min() >= mean - mean // 2 and counts.max() <= mean + mean // 2
        assert len({*counts.tolist()}) > 1
    assert schedule.is_adjusted.all()
    assert (schedule.num_gradients == 1 + schedule.num_leapfrog_steps.sum(1)).all()


def test_a_chain_has_two_iterations_or_more():
    with pytest.raises(ValueError, match="`num_iterations` must be a whole number"):
        serving.planned([0.2], [6], 1, (0, 7))


def test_an_approach_has_steps_of_its_own_and_no_test():
    schedule = serving.planned([0.01], [20], 20, (0, 7), approach_step_size=0.1)
    rising = schedule.rise < 1
    np.testing.assert_array_equal(schedule.is_adjusted, ~rising)
    np.testing.assert_allclose(schedule.step_size[0], np.where(rising, 0.1, 0.01))
    # A length of pi/2 in steps of .1, on average, or nearly.
    assert 8 <= schedule.num_leapfrog_steps[0, rising].min()
    sampler = served(targets.linear())
    tilt = kt.Tilt(sampler._first.unit, sampler._first.reference)
    answer = serving.ServedSampler(tilt, schedule, -1.0, 1.0).functions["start"]
    assert np.isfinite(answer(**rows_of([1]))["f"]).all()


def test_weights_are_kept_once(served_variables):
    network = small_network.small_network()
    assert sorted(served_variables) == sorted(tuple(v.shape) for v in network.variables)


@pytest.fixture
def served_variables(served):
    """Shapes of what the SavedModel keeps."""
    found = tf.train.list_variables(str(served / "1" / "variables" / "variables"))
    return [tuple(shape) for name, shape in found if "VARIABLE_VALUE" in name]


@pytest.mark.slow
def test_compiled_chains_draw_from_the_density_too():
    """XLA has random numbers of its own."""
    target = targets.linear(shape=(2, 2, 1))
    tilt = kt.Tilt(target.unit, target.reference())
    schedule = serving.planned([0.5], [3], 8, (0, 7))
    sampler = serving.ServedSampler(tilt, schedule, -1.0, 1.0, jit_compile=True)
    images = images_of(target, ends(sampler.functions["start"], 8 * ROWS))
    assert min(target.p_values(images)) > 1e-4


# The classifier


@pytest.fixture(scope="module")
def classifier():
    """A calibrated model of three classes, of pixels -1 ... 1, and what serves it."""
    model = kt.GenerativeClassifier(small_network.small_network())
    model.calibration_bias.assign([0.5, -1.0, 0.25])
    names = ["one", "two", "three"]
    return model, serving.ServedClassifier(model, -1.0, 1.0, names)


def byte_images(n, channels=1):
    random = np.random.default_rng(n)
    return random.integers(0, 256, [n, 8, 8, channels], np.uint8)


def test_the_classifier_is_that_of_the_calibrated_model(classifier):
    model, served = classifier
    images = byte_images(5)
    answer = arrays(served.functions["serving_default"](image=tf.constant(images)))
    logits = model(images / 127.5 - 1.0).numpy()
    np.testing.assert_allclose(answer["logits"], logits, rtol=1e-4, atol=1e-5)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(answer["probabilities"], probabilities, rtol=1e-4)
    log_density = np.log(np.exp(logits).sum(axis=1))
    np.testing.assert_allclose(answer["log_density"], log_density, rtol=1e-4, atol=1e-5)
    names = np.array([b"one", b"two", b"three"])
    np.testing.assert_array_equal(answer["class_name"], names[logits.argmax(axis=1)])


def test_files_of_images_are_classified_as_their_pixels(classifier):
    _, served = classifier
    images = byte_images(3)
    files = [tf.io.encode_png(image) for image in images]
    of_files = arrays(served.functions["classify_bytes"](image_bytes=tf.stack(files)))
    of_pixels = arrays(served.functions["serving_default"](image=tf.constant(images)))
    for name in ("logits", "log_density"):
        np.testing.assert_allclose(of_files[name], of_pixels[name], rtol=1e-5)
    large = tf.io.encode_jpeg(np.full([20, 30, 3], 99, np.uint8))  # colour, resized
    gray = tf.constant(np.full([1, 8, 8, 1], 99, np.uint8))
    np.testing.assert_allclose(
        served.functions["classify_bytes"](image_bytes=large[None])["logits"],
        served.functions["serving_default"](image=gray)["logits"],
        rtol=0.05,
        atol=0.05,
    )
    with pytest.raises(tf.errors.InvalidArgumentError):
        served.functions["classify_bytes"](image_bytes=tf.constant([b"no image"]))


def test_a_photograph_on_its_side_is_classified_upright(classifier):
    _, served = classifier
    image = np.arange(0, 256, 4, np.uint8).reshape(8, 8, 1)
    stored = Image.fromarray(np.rot90(image)[..., 0])  # as a camera held upright does
    exif = Image.Exif()
    exif[0x112] = 6
    file = io.BytesIO()
    stored.save(file, "JPEG", quality=100, exif=exif)
    found = served.functions["classify_bytes"](image_bytes=[file.getvalue()])
    shown = np.asarray(ImageOps.exif_transpose(Image.open(file)))[np.newaxis, ..., None]
    assert np.abs(shown[0].astype(int) - image).max() < 10  # JPEG, and upright
    expected = served.functions["serving_default"](image=shown)
    np.testing.assert_allclose(found["logits"], expected["logits"], atol=0.06)


def test_a_file_with_a_palette_that_is_read_as_gray_is_refused(classifier):
    _, served = classifier
    file = io.BytesIO()
    Image.fromarray(byte_images(1)[0, ..., 0]).convert("P").save(file, "BMP")
    with pytest.raises(tf.errors.InvalidArgumentError, match="no palette"):
        served.functions["classify_bytes"](image_bytes=[file.getvalue()])


def test_a_softmax_at_the_end_is_left_out():
    layers = [
        keras.Input((8, 8, 1)),
        keras.layers.Flatten(),
        keras.layers.Dense(3, activation="softmax"),
    ]
    network = keras.Sequential(layers)
    served = serving.ServedClassifier(network, 0.0, 1.0, ["a", "b", "c"])
    images = byte_images(4)
    answer = arrays(served.functions["serving_default"](image=tf.constant(images)))
    np.testing.assert_allclose(
        answer["probabilities"], network(images / 255.0), rtol=1e-4
    )
    assert (answer["logits"].sum(axis=1) != 1).any()


def test_a_classifier_has_names_for_two_classes_or_more():
    network = small_network.small_network()
    with pytest.raises(ValueError, match="3 names, one for each class"):
        serving.ServedClassifier(network, 0.0, 1.0, ["a", "b"])
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(1)]
    with pytest.raises(ValueError, match="two classes or more"):
        serving.ServedClassifier(keras.Sequential(layers), 0.0, 1.0, ["a"])


def test_a_certificate_is_json_in_the_servable(served):
    assert json.loads((served / "1" / "assets" / "certificate.json").read_text()) == {}
