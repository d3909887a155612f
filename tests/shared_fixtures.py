"""Four logical CPU devices, set before TensorFlow starts, and one shared strategy."""

import gc
import os
import random

# Its threads spin while they wait, and tests share the cores; read by NumPy at import.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import keras_tilt as kt  # (first: it sets TensorFlow's environment defaults)
import keras
import numpy as np
import pytest
import small_network
import tensorflow as tf

from keras_tilt import masking, serving
from keras_tilt.serving import requests, servable

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    4 * [tf.config.LogicalDeviceConfiguration()],
)


# Keras draws the seeds of initial weights and of dropout by Python's generator: the
# same in every run, of a module, of its fixtures and of a test.
random.seed(0)


@pytest.fixture(scope="module", autouse=True)
def what_is_there_stays():
    """What was imported or is kept: the garbage collector need not look at it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def same_fixtures_in_every_run(request):
    """Others in another module."""
    random.seed(request.node.nodeid)


@pytest.fixture(autouse=True)
def same_weights_in_every_run(request):
    """Others in another test."""
    random.seed(request.node.nodeid)


@pytest.fixture(scope="session")
def strategy():
    """The one MirroredStrategy of this process, over REPLICAS (2) logical devices.

    A second one on the same devices can collide with it in the collective executor,
    after which every collective of the process fails.
    """
    replicas = int(os.environ.get("REPLICAS", 2))
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])


@pytest.fixture(scope="session")
def small_sampler():
    """Chains of the three classes of the small network, of 3 leapfrog steps or so."""
    network = small_network.small_network()
    noise = kt.white_noise(small_network.SHAPE, stddev=2.0)
    tilts = [kt.Tilt(kt.unit(network, class_index=k), noise) for k in range(3)]
    schedule = serving.planned([0.3, 0.4, 0.5], [3, 4, 3], 5, (0, 7))
    return serving.ServedSampler(tilts, schedule, -6.0, 6.0, [True, True, False])


@pytest.fixture(scope="session")
def served(small_sampler, tmp_path_factory):
    """The folder of a servable of that sampler, "small", with one version."""
    folder = tmp_path_factory.mktemp("served") / "small"
    golden = {
        "unit": np.array([0, 1, 2], np.int32),
        "seed": np.array([[1, 2], [3, 4], [-5, 2**31 - 1]], np.int32),
        "temperature": np.array([1.0, 0.3, 2.5], np.float32),
    }
    servable.write_servable(
        folder,
        small_sampler,
        ("serving_default", golden),
        [(name, golden) for name in ("serving_default", "sample_png", "sample_each")],
        {"certificate.json": {}},
        requests.MOST_REQUESTS,
        "{start}",
    )
    return folder


@pytest.fixture(scope="session")
def small_segmenter():
    """A segmenter of three classes, new weights, of images of 24 x 32 pixels."""
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input((24, 32, 3)),
            keras.layers.Rescaling(1 / 128, -1),
            keras.layers.Conv2D(4, 3, 2, "same", activation="relu", name="conv1"),
        ]
    )
    return masking.Segmenter(network, "conv1", 3, hidden=(6,), levels=(3, 1), chunk=16)
