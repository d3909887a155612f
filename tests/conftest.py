"""Four logical CPU devices, set before TensorFlow starts, and one shared strategy."""

import os

import keras_tilt  # noqa: F401  (first: it sets TensorFlow's environment defaults)
import pytest
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    4 * [tf.config.LogicalDeviceConfiguration()],
)


@pytest.fixture(scope="session")
def strategy():
    """The one MirroredStrategy of this process, over REPLICAS (2) logical devices.

    A second one on the same devices can collide with it in the collective executor,
    after which every collective of the process fails.
    """
    replicas = int(os.environ.get("REPLICAS", 2))
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
