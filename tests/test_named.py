"""Networks, units and noise are what their names on a command line say."""

import inspect
import json
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tilt as kt
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


# Networks


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("lenet", (28, 28, 1)),
        ("convnet", (8, 8, 3)),
        ("alexnet", (39, 39, 3)),
        ("zf_fast", (47, 47, 3)),
    ],
)
def test_a_network_of_this_library_is_named_as_its_function(name, shape):
    network = named.network(name, shape, 7, seed=3)
    same = getattr(kt, name)(shape, 7, seed=3)
    assert network.name == name
    for one, other in zip(network.get_weights(), same.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_lenet_by_name_takes_pixels_of_0_to_255():
    images = tf.random.stateless_uniform([2, 28, 28, 1], [0, 1], 0.0, 255.0)
    lenet = named.network("lenet", (28, 28, 1), 10)
    np.testing.assert_array_equal(lenet(images), kt.lenet()(images / 256))
    assert lenet.count_params() == 431_080


def test_a_network_of_keras_applications_ends_in_logits_of_new_weights():
    network = named.network("MobileNet", (32, 48, 3), 7)
    assert network.input_shape == (None, 32, 48, 3)
    assert network.output_shape == (None, 7)
    logits = network(tf.random.stateless_normal([4, 32, 48, 3], [0, 1])).numpy()
    assert np.abs(logits.sum(axis=1) - 1).min() > 0.1  # no probabilities


def test_equal_seeds_give_equal_applications_and_leave_python_s_generator_alone():
    state = random.getstate()
    first, same, other = (
        named.network("MobileNet", (32, 32, 3), 7, seed).get_weights()
        for seed in (0, 0, 1)
    )
    assert random.getstate() == state
    for one, two in zip(first, same, strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(first[0], other[0])


def test_every_application_can_be_asked_for_logits():
    builders = inspect.getmembers(keras.applications, inspect.isfunction)
    assert {"ResNet50", "VGG16", "ConvNeXtTiny"} <= dict(builders).keys()
    for _, builder in builders:
        arguments = inspect.signature(builder).parameters.keys()
        assert {"weights", "input_shape", "classes"} <= arguments
        assert "classifier_activation" in arguments


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resnet50", r"'resnet50'\. Near it: ResNet50, "),
        ("LeNet", r"Near it: lenet[.,]"),
        ("zffast", r"Near it: zf_fast[.,]"),
        ("?", r"Networks: lenet, convnet, .*, ConvNeXtBase.*, Xception\.$"),
        ("network.h5", r"name a network, or a \.keras file"),
        ("nowhere/network.keras", "which is not there"),
    ],
)
def test_an_unknown_network_is_an_error_that_names_those_near(text, message):
    with pytest.raises(ValueError, match=message):
        named.network(text, (28, 28, 1), 10)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_saved_network_is_named_by_its_path(tmp_path, wrapped):
    lenet = kt.lenet(num_classes=3, seed=1)
    path = tmp_path / "network.keras"
    (kt.GenerativeClassifier(lenet) if wrapped else lenet).save(path)
    network = named.network(str(path), (28, 28, 1), 3)
    images = tf.random.stateless_uniform([2, 28, 28, 1], [0, 1])
    np.testing.assert_array_equal(network(images), lenet(images))


@pytest.mark.parametrize(
    ("shape", "classes", "activation", "message"),
    [
        ((8, 8, 1), 3, None, r"ends in 4 logits.* and outputs \[\(None, 3\)\]"),
        ((8, 9, 1), 4, None, r"images \(8, 8, 1\).* of inputs \[\(None, 8, 9, 1\)\]"),
        ((8, 8, 1), 4, "softmax", "ends in a softmax.* without an activation"),
        ((8, 8, 1), 4, "sigmoid", "ends in a sigmoid"),
    ],
)
def test_a_saved_network_of_other_images_or_outputs_is_refused(
    tmp_path, shape, classes, activation, message
):
    flat = [keras.Input(shape), keras.layers.Flatten()]
    top = keras.layers.Dense(classes, activation=activation)
    keras.Sequential([*flat, top]).save(tmp_path / "network.keras")
    with pytest.raises(ValueError, match=message):
        named.network(str(tmp_path / "network.keras"), (8, 8, 1), 4)


def test_a_saved_network_without_a_graph_is_refused(tmp_path):
    path = tmp_path / "network.keras"
    keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(4)]).save(path)
    with pytest.raises(ValueError, match=r"functional or Sequential.*, Sequential\."):
        named.network(str(path), (8, 8, 1), 4)
