"""What is logged as accuracy while a model trains generatively is what it can do."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_model import IMAGES, LABELS, build_model, build_network, fit

import keras_tilt as kt
from keras_tilt.training import calibration

TRAINED, HELD_OUT = (IMAGES[:60], LABELS[:60]), (IMAGES[60:], LABELS[60:])
METRICS = [
    "accuracy",
    keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2"),
    keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="nll"),
]


def metrics():
    """New ones of the same kinds."""
    return [
        m if isinstance(m, str) else type(m).from_config(m.get_config())
        for m in METRICS
    ]


def skewed_model(objective="generative", learning_rate=0.0):
    """Its output bias tells nothing of the classes, and much of the accuracy."""
    model = kt.GenerativeClassifier(build_network())
    model.network.get_layer("top").bias.assign([0.0, 4.0, -4.0])
    optimizer = keras.optimizers.SGD(learning_rate)
    model.compile(
        optimizer, objective, metrics=metrics(), weighted_metrics=[metrics()[2]]
    )
    return model


def logs_of(model, data=HELD_OUT):
    return model.evaluate(*data, verbose=0, return_dict=True)


def rested():
    """Seen by a fit that moved nothing, so that the running Z is the exact one."""
    model = skewed_model()
    return model, fit(model, *TRAINED, batch_size=60, validation_data=HELD_OUT)


@pytest.fixture(scope="module")
def kept():
    """Such a model, its history, and its state behind that fit."""
    model, history = rested()
    state = [tf.convert_to_tensor(variable) for variable in model.training_state]
    return model, history, state


@pytest.fixture
def at_rest(kept):
    """That model and history; who asks for it may calibrate, and not compile it."""
    model, history, state = kept
    for variable, value in zip(model.training_state, state, strict=True):
        variable.assign(value)
    return model, history


def calibrated_twin(model):
    """The same, calibrated by a pass over the images that it has seen."""
    twin = kt.GenerativeClassifier(model.network)
    twin.calibrate(*TRAINED)
    twin.compile("sgd", "discriminative", metrics=metrics())
    return twin


def test_every_metric_is_that_of_the_model_after_calibrate(at_rest):
    model, history = at_rest
    expected = logs_of(calibrated_twin(model))
    for name in ("accuracy", "top2", "nll"):
        assert history[f"val_{name}"][0] == pytest.approx(expected[name], abs=1e-4)
    assert expected["accuracy"] > history["val_uncalibrated_accuracy"][0] + 0.05
    assert history["val_calibrated_accuracy"] == history["val_accuracy"]


def test_the_other_accuracy_is_that_of_the_outputs_as_they_stand(at_rest):
    model, history = at_rest
    for (images, labels), name in ((HELD_OUT, "val_"), (TRAINED, "")):
        predicted = model.predict(images, verbose=0).argmax(axis=1)
        found = history[f"{name}uncalibrated_accuracy"][0]
        assert found == pytest.approx(np.mean(predicted == labels))


def test_an_explicit_calibration_is_not_applied_twice(at_rest):
    model, _ = at_rest
    model.calibrate(*TRAINED)
    logs = logs_of(model)
    predicted = model.predict(HELD_OUT[0], verbose=0).argmax(axis=1)
    expected = pytest.approx(np.mean(predicted == HELD_OUT[1]))
    for name in ("accuracy", "calibrated_accuracy", "uncalibrated_accuracy"):
        assert logs[name] == expected
    assert logs["nll"] == pytest.approx(logs_of(calibrated_twin(model))["nll"], 1e-4)


def test_a_prior_that_was_given_stays_in_the_metrics(at_rest):
    model, _ = at_rest
    model.calibrate(*TRAINED, prior=[0.98, 0.01, 0.01])
    predicted = model.predict(HELD_OUT[0], verbose=0).argmax(axis=1)
    assert logs_of(model)["accuracy"] == pytest.approx(
        np.mean(predicted == HELD_OUT[1])
    )


def test_it_is_the_same_after_saving(at_rest, tmp_path):
    model, _ = at_rest
    model.save(tmp_path / "model.keras")
    assert logs_of(keras.models.load_model(tmp_path / "model.keras")) == logs_of(model)


@pytest.mark.slow
def test_it_is_the_same_under_replicas(strategy, at_rest):
    _, expected = at_rest
    with strategy.scope():
        model = skewed_model()
    found = fit(model, *TRAINED, batch_size=60, validation_data=HELD_OUT)
    rounding = 10 * np.finfo(np.float32).eps  # of numbers about log 60
    for name, value in expected.items():
        np.testing.assert_allclose(
            found[name], value, rtol=1e-4, atol=rounding, err_msg=name
        )


@pytest.mark.parametrize("objective", ["discriminative", 0.5])
def test_other_objectives_have_the_accuracy_of_their_outputs(objective):
    model = skewed_model(objective, learning_rate=0.01)
    history = fit(model, *TRAINED, validation_data=HELD_OUT)
    predicted = model.predict(HELD_OUT[0], verbose=0).argmax(axis=1)
    expected = pytest.approx(np.mean(predicted == HELD_OUT[1]))
    assert history["val_accuracy"][0] == expected
    assert ("val_uncalibrated_accuracy" in history) == (objective == 0.5)


def test_biases_that_were_learned_are_not_calibrated_by_what_was_before():
    model, _ = rested()
    model.compile("sgd", "discriminative", metrics=metrics())
    fit(model, *TRAINED)
    model.compile("sgd", "generative", metrics=metrics())
    predicted = model.predict(HELD_OUT[0], verbose=0).argmax(axis=1)
    assert logs_of(model)["accuracy"] == pytest.approx(
        np.mean(predicted == HELD_OUT[1])
    )


@pytest.mark.slow
def test_the_running_calibration_keeps_up_with_weights_that_move():
    """Within four standard errors, of 30 images, of the exact one after every epoch."""
    model = build_model(optimizer=keras.optimizers.SGD(0.1, momentum=0.9))
    found, exact, twin = [], [], calibrated_twin(model)

    class Exact(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            found.append(logs["val_accuracy"])
            twin.calibrate(*TRAINED)
            exact.append(logs_of(twin)["accuracy"])

    fit(model, *TRAINED, 8, validation_data=HELD_OUT, callbacks=[Exact()])
    assert np.abs(np.subtract(found, exact)).max() <= 4 * 0.5 / np.sqrt(30)
    assert np.abs(np.mean(np.subtract(found, exact))) < 0.05


def test_callbacks_follow_what_the_model_can_do(tmp_path):
    """A checkpoint of the best val_accuracy has it again, once it is calibrated."""
    model = build_model(optimizer=keras.optimizers.SGD(0.02, momentum=0.9))
    path = tmp_path / "best.keras"
    best = keras.callbacks.ModelCheckpoint(
        path, "val_accuracy", save_best_only=True, mode="max"
    )
    history = fit(model, *TRAINED, 10, validation_data=HELD_OUT, callbacks=[best])
    loaded = keras.models.load_model(path)
    assert logs_of(loaded)["accuracy"] == max(history["val_accuracy"])


def test_the_best_model_of_a_run_predicts_with_the_accuracy_it_was_chosen_by(tmp_path):
    """A generative run; the last model is as it was trained."""

    def batches(epoch, step):
        return tf.data.Dataset.from_tensor_slices(TRAINED).batch(30).skip(step)

    model = kt.GenerativeClassifier(build_network())
    model.network.get_layer("top").bias.assign([0.0, 4.0, -4.0])
    phase = kt.Phase("generative", 3, lambda: keras.optimizers.SGD(0.05), batches)
    rows = kt.train(
        model,
        [phase],
        tmp_path / "run",
        settings={},
        validation=tf.data.Dataset.from_tensor_slices(HELD_OUT).batch(30),
        progress=False,
    )
    best = keras.models.load_model(tmp_path / "run" / "best.keras")
    predicted = best.predict(HELD_OUT[0], verbose=0).argmax(axis=1)
    expected = max(row["val_accuracy"] for row in rows)
    assert np.mean(predicted == HELD_OUT[1]) == pytest.approx(expected)
    assert logs_of(best)["accuracy"] == pytest.approx(expected), "not twice"
    last = keras.models.load_model(tmp_path / "run" / "last.keras")
    np.testing.assert_array_equal(last.calibration_bias, 0.0)
    np.testing.assert_array_equal(model.calibration_bias, 0.0)


def test_a_pass_that_is_shared_calibrates_as_one():
    """Sums of the parts of three workers, one of them short, are those of a pass."""
    model = build_model()
    images, labels = TRAINED
    ends = [0, len(images) // 2, len(images) - 3, len(images)]
    parts = [
        calibration.column_sums(
            model.network,
            tf.data.Dataset.from_tensor_slices((images[a:b], labels[a:b])).batch(8),
            model.num_classes,
        )
        for a, b in itertools.pairwise(ends)
    ]
    whole = model.calibrate(images, labels)
    found = calibration.calibration_of(calibration.sum_of_passes(parts))
    for name in ("bias", "log_partition", "log_prior", "kish_ess", "num_images"):
        expected = getattr(whole, name)
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-5, atol=1e-6)
