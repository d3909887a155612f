"""Networks, units and noise are what their names on a command line say."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_tilt import named


def test_names_are_a_list_or_a_dict_of_names_or_pairs(tmp_path):
    path = tmp_path / "names.json"
    for names in (["cat", ["n1", "dog"]], {"0": ["n0", "cat"], "1": "dog"}):
        path.write_text(json.dumps(names))
        assert named.load_names(path) == {0: "cat", 1: "dog"}
    assert named.load_names(None) == {}


def test_a_unit_of_a_dense_layer_is_read_on_the_whole_image():
    network = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(2, 3, name="conv"),
            keras.layers.Flatten(),
            keras.layers.Dense(4, name="hidden"),
            keras.layers.Dense(3),
        ]
    )
    unit = named.unit_of(network, "hidden:2", "tf")
    images = tf.random.stateless_uniform([5, 8, 8, 1], [0, 1], 0.0, 255.0)
    hidden = keras.Model(network.inputs, network.get_layer("hidden").output)
    np.testing.assert_allclose(
        unit(images), hidden(images / 127.5 - 1.0)[:, 2], rtol=1e-4, atol=1e-5
    )
    patch = named.unit_of(network, "conv:1", "tf")
    assert patch.input_shape == (3, 3, 1)
    conv = keras.Model(network.inputs, network.get_layer("conv").output)
    np.testing.assert_allclose(
        patch(images[:, 2:5, 4:7]),
        conv(images / 127.5 - 1.0)[:, 2, 4, 1],
        rtol=1e-4,
        atol=1e-5,
    )
    with pytest.raises(ValueError, match="Here: pass --sizes 1"):
        named.unit_of(network, "class:0", sizes=(1.0, 0.5))
    assert named.unit_of(network, "class:0").input_shape == (8, 8, 1)
    with pytest.raises(ValueError, match=r"0\.\.2\. Received: 7.* 3 classes\.$"):
        named.unit_of(network, "class:7")


def test_a_class_in_several_sizes_is_the_mean_of_its_views():
    network = keras.Sequential(
        [
            keras.Input((16, 16, 1)),
            keras.layers.Conv2D(2, 3),
            keras.layers.GlobalMaxPooling2D(),
        ]
    )
    images = tf.random.stateless_uniform([3, 16, 16, 1], [0, 1])
    half = tf.image.resize(images, [8, 8], antialias=True)
    moved = tf.roll(tf.reverse(half, [2]), [1, 1], axis=[1, 2])
    any_size = keras.Sequential([keras.Input((None, None, 1)), *network.layers])
    expected = (network(images) + any_size(moved)) / 2
    unit = named.unit_of(network, "class:1", sizes=(1.0, 0.5))
    np.testing.assert_allclose(unit(images), expected[:, 1], rtol=1e-5, atol=1e-6)


def test_a_network_without_a_size_is_an_error():
    pooling = [keras.Input((None, None, 3)), keras.layers.GlobalAveragePooling2D()]
    with pytest.raises(ValueError, match="images of one size"):
        named.unit_of(keras.Sequential(pooling), "class:0")
    inputs = [keras.Input((8, 8, 3)), keras.Input((8, 8, 3))]
    with pytest.raises(ValueError, match="a network of one input"):
        named.unit_of(keras.Model(inputs, keras.layers.Add()(inputs)), "class:0")


def test_labels_name_single_units():
    assert named.labels(["class:0-2", "a/b:7"]) == [
        "class:0",
        "class:1",
        "class:2",
        "a/b:7",
    ]
    assert named.class_number("class:12") == 12
    assert named.class_number("conv:12") is None


@pytest.mark.parametrize("kind", named.NOISES)
@pytest.mark.parametrize("channels", [1, 3])
def test_noise_has_the_middle_and_the_contrast_asked_for(kind, channels):
    reference = named.noise(kind, (32, 32, channels), -1.0, 3.0, contrast=0.1)
    images = reference.sample(200, seed=[0, 1]).numpy()
    means = images.mean(axis=(1, 2, 3))
    assert abs(means.mean() - 1.0) < 4 * means.std() / np.sqrt(200)
    if kind != "white":
        assert -1.0 <= images.min() and images.max() <= 3.0
    if kind != "spectral":
        spread = 0.4 if kind == "white" else 4.0 / np.sqrt(12)
        assert abs(images.std() / spread - 1) < 0.02
