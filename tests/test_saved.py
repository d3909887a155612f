"""Files written before the package had wings load, and give what they gave.

`tests/saved` holds a classifier and a segmenter as `save` wrote them when every module
of the package was in one folder, and `expected.npz`, what both gave on that day. Their
classes are found by the names that they are registered under, not by their modules.
"""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tilt as kt
from keras_tilt import masking
from keras_tilt.networks import LocalResponseNormalization, SplitConv2D
from keras_tilt.training.metrics import OfRows

SAVED = pathlib.Path(__file__).parent / "saved"
BATCH, STEPS = 8, 4  # of the one epoch that the classifier had been trained for
# Of the numbers: kernels of another processor add the same products in another order.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def expected():
    with np.load(SAVED / "expected.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def classifier():
    return keras.models.load_model(SAVED / "classifier.keras")


def data_of(expected):
    """The images and labels it was trained, calibrated and evaluated on."""
    arrays = expected["all_images"], expected["labels"]
    return tf.data.Dataset.from_tensor_slices(arrays).batch(BATCH)


def test_a_saved_classifier_is_one_of_today(classifier):
    assert type(classifier) is kt.GenerativeClassifier
    layers = [type(layer) for layer in classifier.network.layers]
    assert layers[1:3] == [SplitConv2D, LocalResponseNormalization]


def test_its_logits_are_those_of_before(classifier, expected):
    logits = classifier(expected["images"])
    np.testing.assert_allclose(logits, expected["logits"], **TOLERANCE)


def test_its_calibration_is_that_of_its_images(classifier, expected):
    """b = log rho - log Z, as another pass over the same images finds it."""
    saved = np.asarray(classifier.calibration_bias)
    assert np.ptp(saved) > 0.01
    again = classifier.calibrate(data_of(expected))
    np.testing.assert_allclose(saved, again.bias, **TOLERANCE)


def test_its_optimizer_is_where_it_was(classifier):
    """Steps, momenta, and lr(t) = 0.01 (1 + t / 10^4)^-0.75 min(1, (t + 1) / 5)."""
    optimizer = classifier.optimizer
    assert type(optimizer) is kt.CaffeSGD
    assert int(optimizer.iterations) == STEPS
    momenta = optimizer.variables[1:]
    assert len(momenta) == len(classifier.trainable_variables)
    assert all(np.any(momentum != 0.0) for momentum in momenta)
    schedule = optimizer.get_config()["learning_rate"]
    assert schedule["registered_name"] == "keras_tilt>WarmUp"
    rate = 0.01 * (1 + 1e-4 * STEPS) ** -0.75
    assert float(optimizer.learning_rate) == pytest.approx(rate, rel=1e-6)


def test_it_is_compiled_as_it_was(classifier, expected):
    """Objective, queue and metrics; the loss of its images is the one of before."""
    assert classifier.objective == 0.5
    assert classifier.reference_queue.num_batches == 2
    logs = classifier.evaluate(data_of(expected), verbose=0, return_dict=True)
    np.testing.assert_allclose(logs["loss"], expected["evaluated"], **TOLERANCE)
    config = classifier.get_compile_config()["metrics"]
    assert config[0] == "accuracy" and config[1]["class_name"] == OfRows.__name__
    assert logs["accuracy"] == logs["categorical_accuracy"]


def test_it_trains_on(classifier, expected):
    """A further epoch at the full learning rate lowers the loss."""
    data = data_of(expected)
    fitted = classifier.fit(data, epochs=3, shuffle=False, verbose=0)
    assert int(classifier.optimizer.iterations) == 4 * STEPS
    assert fitted.history["loss"][-1] < expected["evaluated"]


def segments_of(expected):
    """The inputs that the segmenter was given."""
    prefix = "segments_"
    return {k.removeprefix(prefix): v for k, v in expected.items() if prefix in k}


def test_a_saved_segmenter_scores_segments_as_before(expected):
    segmenter = keras.models.load_model(SAVED / "segmenter.keras")
    assert type(segmenter) is masking.Segmenter
    logits = segmenter(segments_of(expected))
    np.testing.assert_allclose(logits, expected["segment_logits"], **TOLERANCE)


IN_A_NEW_PROCESS = """
import sys
import keras
import keras_tilt
print(type(keras.models.load_model(sys.argv[1])))
import keras_tilt.masking
print(type(keras.models.load_model(sys.argv[2])))
"""


@pytest.mark.slow
def test_a_new_process_loads_them_by_the_import_alone():
    """Also where Keras was imported before; a segmenter by that of its wing."""
    files = [SAVED / "classifier.keras", SAVED / "segmenter.keras"]
    done = subprocess.run(
        [sys.executable, "-c", IN_A_NEW_PROCESS, *files],
        env=os.environ | {"PYTHONPATH": str(SAVED.parents[1])},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    expected = [kt.GenerativeClassifier, masking.Segmenter]
    assert done.stdout.splitlines() == list(map(str, expected))
