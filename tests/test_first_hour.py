"""What every Keras user tries with a GenerativeClassifier in the first hour."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import slow, slow_but
from test_model import (
    IMAGES,
    LABELS,
    assert_same,
    build_model,
    build_network,
    fit,
    weights_of,
)

import keras_tilt as kt

# Batches of one image


def trained(num_images, strategy=None, objective="generative", **options):
    """A model after two epochs in batches of 8; momentum, penalty, queue."""
    with (strategy or tf.distribute.get_strategy()).scope():
        model = kt.GenerativeClassifier(build_network(regularizer="l2"))
        optimizer = keras.optimizers.SGD(0.05, momentum=0.9, weight_decay=0.01)
        model.compile(optimizer, objective, queue=2, metrics=["accuracy"], **options)
    data = IMAGES[:num_images], LABELS[:num_images]
    return model, fit(model, *data, batch_size=8, epochs=2)


def state_of(model):
    return [np.asarray(tf.convert_to_tensor(each)) for each in model.training_state]


@pytest.mark.filterwarnings("ignore:A batch of a single image")
@pytest.mark.parametrize(
    "options",
    [
        {},
        slow({"objective": 0.5}),
        slow({"run_eagerly": True}),
        slow({"jit_compile": True}),
        {"steps_per_execution": 2},
    ],
    ids=str,
)
def test_a_leftover_image_is_left_out(options):
    """Weights, momenta, queue, metrics and running means are those without it."""
    (model, logs), (expected, theirs) = (trained(n, **options) for n in (33, 32))
    for ours, other in zip(state_of(model), state_of(expected), strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-6, atol=1e-7)
    for name, value in theirs.items():
        np.testing.assert_allclose(logs[name], value, rtol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:A batch of a single image")
def test_a_leftover_image_is_left_out_under_replicas(strategy):
    """A global batch of one: all replicas but one have none of it."""
    models = []
    for count in (33, 32):
        with strategy.scope():
            network = build_network(regularizer="l2")
            models.append(kt.GenerativeClassifier(network))
            models[-1].compile(keras.optimizers.SGD(0.05), 0.5)
        fit(models[-1], IMAGES[:count], LABELS[:count], batch_size=8)
    ours, expected = (
        [tf.convert_to_tensor(w) for w in model.trainable_variables] for model in models
    )
    assert_same(ours, expected, rtol=1e-6)
    with strategy.scope(), pytest.raises(ValueError, match="at least two images"):
        fit(models[0], IMAGES[:4], LABELS[:4], batch_size=1, epochs=9)


def test_it_is_said_once():
    model = build_model()
    with pytest.warns(UserWarning, match="1 of 3 batches of an epoch") as found:
        fit(model, IMAGES[:61], LABELS[:61], epochs=3)
        fit(model, IMAGES[:61], LABELS[:61])
    assert len(found) == 1


@pytest.mark.parametrize("objective", ["generative", 0.3])
def test_nothing_but_single_images_is_an_error(objective):
    model = build_model(objective)
    before = weights_of(model)
    with pytest.raises(ValueError, match="at least two images.*gradient zero"):
        fit(model, IMAGES[:4], LABELS[:4], batch_size=1, epochs=100)
    np.testing.assert_equal(weights_of(model), before)


def test_discriminative_training_takes_single_images():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = build_model("discriminative")
        fit(model, IMAGES[:3], LABELS[:3], batch_size=1)
    assert int(model.optimizer.iterations) == 3


def test_a_single_image_is_evaluated():
    """Its loss is 0, as the sum over images is that of itself; its accuracy counts."""
    model = build_model()
    logs = model.evaluate(IMAGES[:1], LABELS[:1], verbose=0, return_dict=True)
    assert logs["generative_loss"] == 0.0 and logs["accuracy"] in (0.0, 1.0)
    logs = [
        model.evaluate(IMAGES[:31], LABELS[:31], b, verbose=0, return_dict=True)
        for b in (30, 31)
    ]
    assert logs[0]["accuracy"] == pytest.approx(logs[1]["accuracy"])


# Keras's other ways


@pytest.mark.parametrize(
    "argument", [{"loss": "mse"}, {"from_logits": True}, {"loss_weights": [1.0]}]
)
def test_a_loss_is_told_to_be_the_objective(argument):
    with pytest.raises(TypeError, match=f"`objective=`.*Received: {[*argument][0]}="):
        build_model(**argument)


@pytest.mark.parametrize("suffix", [".h5", ".hdf5"])
def test_hdf5_is_refused_before_anything_is_written(tmp_path, suffix):
    with pytest.raises(ValueError, match=r"must end in .keras.*Save it as model.keras"):
        build_model().save(tmp_path / f"model{suffix}")
    assert not list(tmp_path.iterdir())


def test_shapes_are_those_of_the_network():
    model = build_model()
    assert model.input_shape == (None, 6, 6, 1) and model.output_shape == (None, 3)


@pytest.mark.parametrize("objective", ["generative", "discriminative"])
def test_evaluate_gives_the_loss_first_and_the_metrics_next(objective):
    model = build_model(objective)
    logs = model.evaluate(IMAGES, LABELS, verbose=0, return_dict=True)
    numbers = model.evaluate(IMAGES, LABELS, verbose=0)
    assert numbers[:2] == [logs["loss"], logs["accuracy"]]
    assert sorted(numbers) == sorted(logs.values())


@pytest.mark.parametrize("state", ["new", "fitted", "loaded"])
def test_the_model_exports_its_calibrated_outputs(tmp_path, state):
    model = build_model()
    if state == "fitted":
        fit(model)
        model.calibrate(IMAGES, LABELS)
    if state == "loaded":
        model.calibrate(IMAGES, LABELS)
        model.save(tmp_path / "model.keras")
        model = keras.models.load_model(tmp_path / "model.keras")
    model.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported")
    for count in (1, 5):
        expected = model.predict(IMAGES[:count], verbose=0)
        found = served.serve(tf.constant(IMAGES[:count]))
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_another_signature_can_be_exported(tmp_path):
    signature = [keras.InputSpec(shape=(2, 6, 6, 1), dtype="float32")]
    model = build_model()
    model.export(tmp_path / "exported", input_signature=signature, verbose=False)
    served = tf.saved_model.load(tmp_path / "exported")
    with pytest.raises(TypeError, match="2, 6, 6, 1"):
        served.serve(tf.constant(IMAGES[:3]))


# Networks of several inputs


def two_inputs():
    """Images and a number each, by name."""
    images, numbers = keras.Input([6, 6, 1], name="image"), keras.Input([2], name="at")
    x = keras.layers.Flatten()(images)
    x = keras.layers.Dense(4, "relu", kernel_initializer=zeros_but_few(1))(x)
    x = keras.layers.Concatenate()([x, numbers])
    x = keras.layers.Dense(3, kernel_initializer=zeros_but_few(2))(x)
    return {"image": images, "at": numbers}, x


def zeros_but_few(seed):
    return keras.initializers.GlorotUniform(seed)


NUMBERS = np.random.default_rng(5).normal(size=[90, 2]).astype(np.float32)
INPUTS = {"dict": {"image": IMAGES, "at": NUMBERS}, "list": [IMAGES, NUMBERS]}


def model_of(kind):
    inputs, logits = two_inputs()
    inputs = inputs if kind == "dict" else [inputs["image"], inputs["at"]]
    model = kt.GenerativeClassifier(keras.Model(inputs, logits))
    model.compile(keras.optimizers.SGD(0.05), metrics=["accuracy"])
    return model


def data_set(x, y=LABELS):
    x = tuple(x) if isinstance(x, list) else x
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(30)


@pytest.mark.parametrize("kind", slow_but(["dict"], INPUTS))
def test_several_inputs_train_evaluate_predict_calibrate_and_export(kind, tmp_path):
    x, model = INPUTS[kind], model_of(kind)
    history = fit(model, x)
    again = model_of(kind)
    assert again.fit(data_set(x), verbose=0).history == history
    logits = model.predict(x, verbose=0)
    calibration = model.calibrate(x, LABELS)
    np.testing.assert_allclose(
        model.predict(x, verbose=0) - logits,
        np.tile(calibration.bias, [90, 1]),
        atol=1e-5,
    )
    assert again.calibrate(data_set(x)).bias == pytest.approx(calibration.bias)
    assert model.evaluate(x, LABELS, verbose=0)[1] > 0
    assert model.input_shape == model.network.input_shape
    model.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported")
    tensors = tf.nest.map_structure(tf.constant, x)
    np.testing.assert_allclose(
        served.serve(tensors), model.predict(x, verbose=0), rtol=1e-5, atol=1e-5
    )


@pytest.mark.slow
def test_several_inputs_train_under_replicas(strategy):
    """The last batch leaves one of the replicas without an image."""
    x = {name: value[:31] for name, value in INPUTS["dict"].items()}
    one = fit(model_of("dict"), x, LABELS[:31], batch_size=28)
    with strategy.scope():
        model = model_of("dict")
    found = fit(model, x, LABELS[:31], batch_size=28)
    for name, value in one.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, err_msg=name)


def test_a_value_that_is_not_finite_is_found_in_any_input():
    broken = NUMBERS.copy()
    broken[40] = np.nan
    x = {"image": IMAGES, "at": broken}
    with pytest.raises(ValueError, match="training step 1, 1 of 30 images"):
        fit(model_of("dict"), x)
    with pytest.raises(ValueError, match="calibration batch 0, 1 of 90 images"):
        model_of("dict").calibrate(x, LABELS)


def test_a_data_set_of_images_alone_is_no_calibration():
    """The names of a dict are no images and labels."""
    batches = tf.data.Dataset.from_tensor_slices(INPUTS["dict"]).batch(30)
    with pytest.raises(ValueError, match="need labels"):
        model_of("dict").calibrate(batches)


# Precisions


POLICIES = ["mixed_float16", "mixed_bfloat16", "bfloat16", "float16", "float64"]


@pytest.mark.parametrize("policy", slow_but(POLICIES[::4], POLICIES))
def test_networks_of_every_precision_are_calibrated(policy):
    """To within its rounding of logits of about 1."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        network = build_network()
    finally:
        keras.config.set_dtype_policy(before)
    model = kt.GenerativeClassifier(network)
    model.compile("sgd", "generative")
    calibration = model.calibrate(IMAGES, LABELS)
    logits = np.float64(network.predict(IMAGES, verbose=0))
    expected = np.log(np.bincount(LABELS) / 90) - np.log(np.exp(logits).mean(axis=0))
    np.testing.assert_allclose(calibration.bias, expected, rtol=1e-5, atol=1e-6)
    if policy != "float16":  # slow on a CPU
        fit(model)
        model.calibrate(IMAGES, LABELS)


# Data without an end


def endless(labels=True):
    data = (IMAGES, LABELS) if labels else IMAGES
    return tf.data.Dataset.from_tensor_slices(data).batch(30).repeat()


@pytest.mark.parametrize(
    ("pass_over", "name"),
    [
        (lambda data: build_model().calibrate(data), "x"),
        (lambda data: kt.evaluation.predictions(build_model(), data), "dataset"),
        (kt.fit_spectrum, "images"),
    ],
    ids=["calibrate", "predictions", "fit_spectrum"],
)
def test_data_without_an_end_are_refused_at_once(pass_over, name):
    with pytest.raises(
        ValueError, match=rf"`{name}` must be a data set that ends.*take"
    ):
        pass_over(endless())
    pass_over(endless().take(3))


def test_what_does_not_say_that_it_ends_shows_a_bar(monkeypatch, capfd):
    """A generator: whether it ends cannot be known, that it goes on can be seen."""
    monkeypatch.setattr(kt.validation, "_QUIET", 0.0)

    def images():
        for number in range(3):
            yield np.random.default_rng(number).normal(size=[30, 6, 6, 1])

    kt.fit_spectrum(images())
    assert "fitting: " in capfd.readouterr().err
