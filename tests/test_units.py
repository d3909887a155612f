"""Units: the logit before any softmax, the channel before any activation, sums."""

import inspect
import re
import runpy
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import slow
from data_files import data_file
from keras import layers
from small_transformer import small_transformer

import keras_tilt as kt
from keras_tilt.cli import named
from keras_tilt.networks import inner_values
from keras_tilt.training.classifier import GenerativeClassifier
from keras_tilt.units import readings
from keras_tilt.units.algebra import Unit
from keras_tilt.units.groups import UnitStack, shared, stack
from keras_tilt.units.selection import unit

SHAPE = (12, 12, 1)
CLASSES = 5


@pytest.fixture(autouse=True)
def seeded():
    """The same random weights every time."""
    keras.utils.set_random_seed(1)


def body(x):
    x = layers.Conv2D(4, 3, activation="relu", name="conv1")(x)
    x = layers.MaxPooling2D(2, name="pool1")(x)
    x = layers.Conv2D(6, 3, activation="relu", name="conv2")(x)
    x = layers.Flatten(name="flat")(x)
    return layers.Dense(8, activation="relu", name="ip1")(x)


def logits_layer(x):
    return layers.Dense(CLASSES, bias_initializer="normal", name="ip2")(x)


def network_of(head):
    inputs = keras.Input(SHAPE, name="images")
    return keras.Model(inputs, head(body(inputs)))


def images(n=3, seed=0, scale=1.0, shape=SHAPE):
    rng = np.random.default_rng(seed)
    return tf.constant(scale * rng.normal(size=(n, *shape)), tf.float32)


def logits_of(network, x):
    """The units of all classes, side by side: [n, classes]."""
    return np.stack([unit(network, class_index=c)(x) for c in range(CLASSES)], axis=1)


def fused_softmax(x):
    return layers.Dense(CLASSES, activation="softmax", name="ip2")(x)


def fused_tf_softmax(x):
    return layers.Dense(CLASSES, activation=tf.nn.softmax, name="ip2")(x)


def fused_log_softmax(x):
    return layers.Dense(CLASSES, activation="log_softmax", name="ip2")(x)


def fused_sigmoid(x):
    return layers.Dense(CLASSES, activation="sigmoid", name="ip2")(x)


def softmax_layer(x):
    return layers.Softmax()(logits_layer(x))


def softmax_activation(x):
    return layers.Activation("softmax")(logits_layer(x))


def softmax_operation(x):
    return keras.ops.softmax(logits_layer(x))


def softmax_in_float32(x):
    return layers.Activation("linear", dtype="float32")(softmax_layer(x))


def softmax_then_dropout(x):
    return layers.Dropout(0.5)(layers.Identity()(softmax_layer(x)))


def softmax_before_flatten(x):
    x = layers.Reshape((1, 1, 8))(x)
    x = layers.Conv2D(CLASSES, 1, activation="softmax", name="ip2")(x)
    return layers.Flatten()(x)


def softmax_before_reshape(x):
    x = layers.Reshape((1, 1, 8))(x)
    x = layers.Softmax()(layers.Conv2D(CLASSES, 1, name="ip2")(x))
    return layers.Reshape((CLASSES,))(x)


def softmax_after_pooling(x):
    x = layers.Reshape((1, 2, 4))(x)
    x = layers.Conv2D(CLASSES, 1, name="ip2")(x)
    return layers.Softmax()(layers.GlobalAveragePooling2D()(x))


def softmax_in_a_nested_network(x):
    inputs = keras.Input(x.shape[1:])
    return keras.Model(inputs, fused_softmax(inputs), name="top")(x)


def softmax_in_a_nested_sequential(x):
    top = [keras.Input(x.shape[1:]), layers.Dense(CLASSES), layers.Softmax()]
    return layers.Identity()(keras.Sequential(top)(x))


def bare_logits(x):
    return logits_layer(x)


WITH_SOFTMAX = [
    fused_softmax,
    fused_tf_softmax,
    softmax_layer,
    softmax_activation,
    softmax_operation,
    softmax_in_float32,
    softmax_then_dropout,
    softmax_before_flatten,
    softmax_before_reshape,
    softmax_after_pooling,
    softmax_in_a_nested_network,
    softmax_in_a_nested_sequential,
]


def linear_twin(head):
    """The same head with every softmax taken out, as one would have written it."""
    twin_heads = {
        softmax_before_flatten: lambda x: layers.Flatten()(
            layers.Conv2D(CLASSES, 1)(layers.Reshape((1, 1, 8))(x))
        ),
        softmax_before_reshape: lambda x: layers.Flatten()(
            layers.Conv2D(CLASSES, 1)(layers.Reshape((1, 1, 8))(x))
        ),
        softmax_after_pooling: lambda x: layers.GlobalAveragePooling2D()(
            layers.Conv2D(CLASSES, 1)(layers.Reshape((1, 2, 4))(x))
        ),
    }
    return network_of(twin_heads.get(head, logits_layer))


# Class logits


@pytest.mark.parametrize("head", [bare_logits, *WITH_SOFTMAX, fused_log_softmax])
def test_the_class_unit_is_the_logit_of_the_linear_twin(head):
    network, twin = network_of(head), linear_twin(head)
    twin.set_weights(network.get_weights())
    x = images()
    np.testing.assert_allclose(logits_of(network, x), twin(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("head", WITH_SOFTMAX)
def test_the_softmax_of_the_class_units_is_the_output(head):
    network = network_of(head)
    x = images()
    expected = tf.nn.softmax(logits_of(network, x))
    np.testing.assert_allclose(network(x), expected, rtol=1e-5, atol=1e-7)


def test_the_sigmoid_of_the_class_unit_is_the_output():
    network = network_of(fused_sigmoid)
    x = images()
    expected = tf.sigmoid(logits_of(network, x))
    np.testing.assert_allclose(network(x), expected, rtol=1e-5)


def test_the_class_unit_is_finite_and_has_a_gradient_where_log_softmax_saturates():
    network = network_of(fused_softmax)
    x = images(scale=1e4)
    probabilities = network(x).numpy()
    assert np.any(probabilities == 0) and np.any(probabilities == 1)
    loser = int(np.argmin(probabilities[0]))
    with tf.GradientTape() as tape:
        tape.watch(x)
        f = unit(network, class_index=loser)(x)
    assert np.all(np.isfinite(f)) and np.std(logits_of(network, x)[0]) > 1
    assert np.any(tape.gradient(f, x)[0] != 0)


def test_the_class_unit_differs_from_log_softmax_by_a_function_of_the_image():
    network = network_of(fused_softmax)
    x = images(scale=3.0)
    shift = logits_of(network, x) - np.log(network(x))
    np.testing.assert_allclose(shift, shift[:, :1] + np.zeros(CLASSES), atol=1e-5)
    assert np.ptp(shift[:, 0]) > 0.1


def test_sequential_and_functional_networks_have_the_same_units():
    inputs = keras.Input(SHAPE)
    chain = [layers.Conv2D(3, 3, name="conv1"), layers.Flatten(), layers.Dense(CLASSES)]
    sequential = keras.Sequential([inputs, *chain])
    x = inputs
    for layer in chain:
        x = layer(x)
    functional = keras.Model(inputs, x)
    for name in ({"class_index": 2}, {"layer_channel": "conv1:1"}):
        one, other = unit(sequential, **name), unit(functional, **name)
        np.testing.assert_array_equal(one(images()), other(images()))


def test_softmax_over_pixels_inside_the_network_stays():
    """Only the last softmax goes; attention inside is part of the unit."""
    inputs = keras.Input(SHAPE)
    x = layers.Softmax(name="attention")(layers.Flatten()(inputs))
    network = keras.Model(inputs, layers.Dense(CLASSES)(x))
    np.testing.assert_allclose(logits_of(network, images()), network(images()))


# Channels of layers


def test_a_convolution_channel_is_the_sum_over_its_window():
    network = network_of(bare_logits)
    kernel, bias = (w.numpy() for w in network.get_layer("conv1").weights)
    bias[:] = 0.7
    network.get_layer("conv1").bias.assign(bias)
    x = images().numpy()
    for position, (row, column) in (("center", (5, 5)), ((0, 9), (0, 9))):
        window = x[:, row : row + 3, column : column + 3, :]
        expected = np.einsum("nhwc,hwc->n", window, kernel[..., 2]) + bias[2]
        f = unit(network, "conv1:2", position=position)
        np.testing.assert_allclose(f(x), expected, rtol=1e-5, atol=1e-6)


def test_a_dense_channel_is_the_weighted_sum_of_its_inputs():
    network = network_of(bare_logits)
    below = keras.Model(network.input, network.get_layer("flat").output)
    kernel, bias = network.get_layer("ip1").get_weights()
    expected = below(images()).numpy() @ kernel[:, 4] + bias[4]
    f = unit(network, "ip1:4")
    np.testing.assert_allclose(f(images()), expected, rtol=1e-5, atol=1e-6)


def test_the_center_of_a_map_is_half_its_height_and_width():
    network = network_of(bare_logits)
    center, named = (
        unit(network, "pool1:1", position=p) for p in ("center", (5 // 2, 5 // 2))
    )
    np.testing.assert_array_equal(center(images()), named(images()))


def test_a_layer_without_weights_is_read_as_it_is():
    network = network_of(bare_logits)
    expected = network.get_layer("pool1").output
    expected = keras.Model(network.input, expected)(images())[:, 1, 3, 2]
    f = unit(network, "pool1:2", position=(1, 3))
    np.testing.assert_array_equal(f(images()), expected)


def test_an_inactive_relu_does_not_hide_the_gradient():
    network = network_of(bare_logits)
    x = images()
    for name in ("conv1", "conv2", "ip1"):
        layer = network.get_layer(name)
        layer.bias.assign(tf.fill(layer.bias.shape, -100.0))
        after = keras.Model(network.input, layer.output)(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            f = unit(network, f"{name}:0")(x)
        assert np.all(after == 0) and np.all(f < -50)
        assert np.any(tape.gradient(f, x) != 0)
        layer.bias.assign(tf.zeros_like(layer.bias))


def test_the_activation_is_back_after_every_call():
    network = network_of(fused_softmax)
    before = network(images()).numpy()
    logit, channel = unit(network, class_index=0), unit(network, "conv1:0")
    logit(images()), channel(images())
    assert network.get_layer("ip2").activation is keras.activations.softmax
    assert network.get_layer("conv1").activation is keras.activations.relu
    np.testing.assert_array_equal(network(images()), before)


def test_the_activation_is_back_after_a_failed_call():
    layer = layers.Dense(CLASSES, activation="softmax")
    network = keras.Sequential([keras.Input((4,)), layer])
    f = unit(network, class_index=0)
    with pytest.raises(ValueError, match="incompatible with the layer"):
        f(tf.zeros([2, 7]))
    assert layer.activation is keras.activations.softmax


def test_a_unit_of_a_network_of_any_size_reads_the_center_of_the_map_it_gets():
    inputs = keras.Input((None, None, 1))
    network = keras.Model(inputs, layers.Conv2D(2, 3, name="conv1")(inputs))
    f = unit(network, "conv1:1")
    assert f.input_shape == (None, None, 1)
    for size in (5, 8):
        x = images(shape=(size, size, 1))
        middle = (size - 2) // 2
        np.testing.assert_allclose(f(x), network(x)[:, middle, middle, 1], rtol=1e-6)


def test_a_layer_shared_with_another_network_is_read_in_its_own():
    shared = layers.Conv2D(3, 3, name="conv1")
    one, other = (
        keras.Sequential([keras.Input(SHAPE), first, shared])
        for first in (layers.Rescaling(1.0), layers.Rescaling(2.0))
    )
    shared.bias.assign([0.1, 0.2, 0.3])
    x = images()
    one, other = (unit(network, "conv1:1")(x) for network in (one, other))
    np.testing.assert_allclose(other - 0.2, 2 * (one - 0.2), rtol=1e-5, atol=1e-6)


# What every unit is


@pytest.mark.parametrize("name", [{"class_index": 2}, {"layer_channel": "ip1:2"}])
def test_a_unit_sees_new_weights(name):
    network = network_of(fused_softmax)
    eager = unit(network, **name)
    traced = tf.function(eager.__call__)
    before = traced(images()).numpy()
    for weight in network.weights:
        weight.assign(0.5 * weight + 0.1)
    np.testing.assert_allclose(eager(images()), traced(images()), rtol=1e-6)
    assert np.all(np.abs(before - eager(images())) > 1e-3)


@pytest.mark.parametrize("name", [{"class_index": 2}, {"layer_channel": "ip1:2"}])
def test_dropout_and_batch_normalization_run_as_in_inference(name):
    inputs = keras.Input(SHAPE)
    x = layers.Dropout(0.5)(layers.BatchNormalization(name="norm")(inputs))
    x = layers.Dense(8, name="ip1")(layers.Flatten()(x))
    network = keras.Model(inputs, fused_softmax(layers.Dropout(0.5)(x)))
    norm = network.get_layer("norm")
    norm.moving_mean.assign([3.0])
    x = images()
    f = unit(network, **name)
    with_batch, alone = f(x), tf.concat([f(x[:1]), f(x[1:])], axis=0)
    np.testing.assert_allclose(with_batch, f(x), rtol=0)
    np.testing.assert_allclose(with_batch, alone, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(norm.moving_mean, [3.0])


def test_units_of_a_mixed_precision_network_are_float32_and_keep_its_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        network = network_of(fused_softmax)
        inside = unit(network, class_index=1)
    finally:
        keras.config.set_dtype_policy("float32")
    outside = unit(network, class_index=1)
    full = network_of(fused_softmax)
    full.set_weights(network.get_weights())
    exact = unit(full, class_index=1)(images())
    for f in (inside, outside, unit(network, "conv1:1"), unit(network, "pool1:1")):
        assert f(images()).dtype == tf.float32
    for f in (inside, outside):
        np.testing.assert_allclose(f(images()), exact, atol=0.05)
        assert np.any(f(images()) != exact)


def test_names_shapes_and_immutability():
    network = network_of(bare_logits)
    f = unit(network, "conv1:3", position=(0, 4))
    assert isinstance(f, Unit) and f.input_shape == SHAPE
    assert f.name == "conv1:3@0,4"
    assert unit(network, "conv1:3").name == "conv1:3"
    assert unit(network, class_index=np.int64(3)).name == "class 3"
    with pytest.raises(AttributeError):
        f.name = "other"


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either `layer_channel` or `class_index`. Received: None and None"),
        ({"layer_channel": "conv1:0", "class_index": 1}, "'conv1:0' and 1"),
        ({"layer_channel": "conv9:0"}, "Received: 'conv9'. Layers: images, conv1, po"),
        ({"layer_channel": "conv1"}, "'layer:channel'. Received: 'conv1'. .*Layers: "),
        ({"layer_channel": "conv1:x"}, "Received: 'conv1:x'"),
        ({"layer_channel": "conv1:"}, "Received: 'conv1:'"),
        ({"layer_channel": 3}, "Received: 3"),
        ({"layer_channel": "conv1:4"}, "0..3. Received: 4. The layer has 4 channels"),
        ({"layer_channel": "conv1:-1"}, "0..3. Received: -1"),
        ({"class_index": 5}, "0..4. Received: 5. The network has 5 classes"),
        ({"class_index": -1}, "Received: -1"),
        ({"class_index": 1.0}, "Received: 1.0"),
        ({"class_index": 1, "position": (0, 0)}, r"no map. Received: \(0, 0\)"),
        ({"layer_channel": "conv1:0", "position": (0, 10)}, "a map of 10 x 10"),
        ({"layer_channel": "conv1:0", "position": (-1, 0)}, r"Received: \(-1, 0\)"),
        ({"layer_channel": "conv1:0", "position": "middle"}, "Received: 'middle'"),
        ({"layer_channel": "conv1:0", "position": 3}, "Received: 3"),
        ({"layer_channel": "ip1:0", "position": (0, 0)}, "a vector, without a map"),
    ],
)
def test_what_does_not_exist_is_quoted_with_what_does(arguments, message):
    with pytest.raises(ValueError, match=message):
        unit(network_of(bare_logits), **arguments)


def test_a_network_without_a_graph_that_is_not_built_is_refused():
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    for network in (Subclassed(), keras.Sequential([layers.Dense(3)]), lambda x: x):
        with pytest.raises(ValueError, match="functional or Sequential"):
            unit(network, class_index=0)


def test_a_network_of_several_inputs_is_refused():
    one, other = keras.Input(SHAPE, name="left"), keras.Input(SHAPE, name="right")
    network = keras.Model([one, other], layers.Add()([one, other]))
    with pytest.raises(ValueError, match="2 inputs, .'left', 'right'."):
        unit(network, class_index=0)


def test_a_class_of_a_network_without_a_classes_axis_is_refused():
    inputs = keras.Input(SHAPE)
    maps = keras.Model(inputs, layers.Conv2D(2, 3)(inputs))
    with pytest.raises(ValueError, match=r"outputs \[\[None, 10, 10, 2\]\]"):
        unit(maps, class_index=0)
    features = body(inputs)
    two = keras.Model(inputs, [logits_layer(features), features])
    with pytest.raises(ValueError, match=r"outputs \[\[None, 5\], \[None, 8\]\]"):
        unit(two, class_index=0)


def test_a_softmax_that_cannot_be_taken_out_is_refused():
    hidden = layers.Lambda(lambda x: tf.nn.softmax(x), name="hidden")
    network = network_of(lambda x: hidden(logits_layer(x)))
    with pytest.raises(ValueError, match="probabilities, made by 'hidden'"):
        unit(network, class_index=0)


def test_a_layer_without_channels_is_refused():
    inputs = keras.Input(SHAPE)
    sums = layers.Lambda(lambda x: tf.reduce_sum(x, axis=(1, 2, 3)), name="sums")
    network = keras.Model(inputs, sums(inputs))
    with pytest.raises(ValueError, match=r"'sums' to be .* Received: \(None,\)\."):
        unit(network, "sums:0")


def test_a_layer_applied_twice_is_refused():
    inputs = keras.Input(SHAPE)
    twice = layers.Conv2D(1, 3, padding="same", name="twice")
    network = keras.Model(inputs, twice(twice(inputs)))
    with pytest.raises(ValueError, match="applied once .* Received: 2 applications"):
        unit(network, "twice:0")


def test_channels_first_is_refused():
    inputs = keras.Input((1, 12, 12))
    first = layers.Conv2D(2, 3, data_format="channels_first", name="first")
    network = keras.Model(inputs, layers.Flatten()(first(inputs)))
    with pytest.raises(ValueError, match="'first' with data_format"):
        unit(network, class_index=0)


# The vector space of units


def conv1(channel, network, **options):
    return unit(network, f"conv1:{channel}", **options)


def test_arithmetic_of_units_is_that_of_their_values():
    network, x = network_of(bare_logits), images()
    u, v, w = conv1(0, network), conv1(2, network), unit(network, class_index=1)
    cases = [
        (u + v, u(x) + v(x)),
        (u - w, u(x) - w(x)),
        (-v, -v(x)),
        (2.0 * u, 2.0 * u(x)),
        (u * np.float32(3), 3.0 * u(x)),
        (np.float64(3) * u, 3.0 * u(x)),
        (u / 4, u(x) / 4.0),
        (sum([u, v, w]) / 3, (u(x) + v(x) + w(x)) / 3.0),
        (0.5 * (u - 2 * v) + w, 0.5 * u(x) - v(x) + w(x)),
    ]
    for f, expected in cases:
        assert isinstance(f, Unit) and f.input_shape == SHAPE
        np.testing.assert_allclose(f(x), expected, rtol=1e-5, atol=1e-6)


def test_units_form_a_vector_space():
    network = network_of(bare_logits)
    u, v, w = conv1(0, network), conv1(2, network), unit(network, class_index=1)
    assert u + v == v + u
    assert (u + v) + w == u + (v + w)
    assert u + w - w == u == u / 2 * 2 == -1 * -u
    assert 2 * (u + w) == 2 * u + 2 * w
    assert u != v and u != w and u != 2 * u and u != "conv1:0"
    assert len({u, conv1(0, network), u + w - w}) == 1


def test_zero_times_a_unit_is_zero_with_a_zero_gradient():
    network, x = network_of(bare_logits), images()
    for zero in (0 * conv1(1, network), conv1(1, network) - conv1(1, network)):
        with tf.GradientTape() as tape:
            tape.watch(x)
            f = zero(x)
        np.testing.assert_array_equal(f, np.zeros(3))
        np.testing.assert_array_equal(tape.gradient(f, x), np.zeros_like(x))


def test_names_are_read_as_formulas():
    network = network_of(bare_logits)
    u, v, w = conv1(3, network), conv1(1, network), unit(network, class_index=2)
    assert (u - 2 * v).name == "-2 conv1:1 + conv1:3"
    assert (w - 2 * v).name == "class 2 - 2 conv1:1"
    assert (-w / 4).name == "-0.25 class 2"
    assert (u - u).name == "0 conv1:0"
    assert conv1(0, network, position="mean").name == "conv1:0@mean"
    assert conv1(0, network, position=(1, 2), activation="post").name == (
        "conv1:0@1,2 post"
    )
    assert unit(network, class_index=2, posterior=True).name == "log p(class 2)"
    names = [unit(network, "ip1", direction=k * np.ones(8)).name for k in (1, 1.0, 2)]
    assert names[0] == names[1] != names[2]
    assert re.fullmatch("ip1:direction [0-9a-f]{6}", names[0])
    one, other = (keras.Model(network.input, network.output, name=n) for n in "ab")
    both = unit(one, class_index=0) + unit(other, class_index=0)
    assert both.name == "a/class 0 + b/class 0"


def test_equal_features_are_one_term_and_one_pass():
    calls = []
    network = network_of(bare_logits)
    counted = layers.Lambda(lambda x: calls.append(1) or x)
    network = keras.Sequential([keras.Input(SHAPE), counted, network])
    name = network.layers[-1].name
    parts = [unit(network, f"{name}/conv1:{c}") for c in range(4)]
    total = sum(parts)
    assert len(total.terms) == 1
    np.testing.assert_array_equal(total.terms[0][1], np.ones(4))
    calls.clear()
    total(images())
    assert len(calls) == 1
    another = total + unit(network, f"{name}/conv1:0", position=(0, 0))
    assert len(another.terms) == 2


@pytest.mark.parametrize("kind", sorted({*readings.__all__} - {"Reading"}))
def test_every_kind_of_reading_follows_the_protocol(kind):
    for method in ("__call__", "label"):
        wanted = inspect.signature(getattr(readings.Reading, method))
        assert inspect.signature(getattr(getattr(readings, kind), method)) == wanted
    assert getattr(readings, kind).__hash__  # equal ones share a pass


def test_features_are_equal_if_they_read_the_same_in_the_same_way():
    network, preprocess = network_of(bare_logits), tf.identity

    def features(network=network, name="conv1:1", **options):
        ((features, _),) = unit(network, name, **options).terms
        return features

    reference = features()
    assert features(name="conv1:0") == reference == features(activation="pre")
    assert hash(features(name="conv1:0")) == hash(reference)
    others = [
        features(network_of(bare_logits)),
        features(name="conv2:1"),
        features(position=(5, 5)),
        features(position="mean"),
        features(activation="post"),
        features(preprocess=preprocess),
    ]
    assert len({reference, *others}) == len(others) + 1
    assert features(preprocess=preprocess) == others[-1]
    pooled = [features(name="pool1:1", activation=a) for a in ("pre", "post")]
    assert pooled[0] == pooled[1]


def test_an_ensemble_is_the_mean_of_its_networks():
    one, other = network_of(bare_logits), network_of(fused_softmax)
    x = images()
    f = (unit(one, class_index=2) + unit(other, class_index=2)) / 2
    expected = (logits_of(one, x)[:, 2] + logits_of(other, x)[:, 2]) / 2
    np.testing.assert_allclose(f(x), expected, rtol=1e-5)


def test_a_direction_is_the_weighted_sum_of_its_channels():
    network, x = network_of(bare_logits), images()
    for name, channels in (("conv1", 4), ("ip1", 8)):
        direction = np.random.default_rng(0).normal(size=channels)
        f = unit(network, name, direction=direction)
        parts = [w * unit(network, f"{name}:{c}") for c, w in enumerate(direction)]
        assert f == sum(parts)
        expected = sum(part(x) for part in parts)
        np.testing.assert_allclose(f(x), expected, rtol=1e-5, atol=1e-6)


def test_a_channel_is_read_bit_by_bit_whatever_the_others_hold():
    network, x = network_of(bare_logits), images()
    bias = network.get_layer("conv1").bias
    bias.assign([np.inf, 0.3, np.nan, -0.1])
    maps = keras.Model(network.input, network.get_layer("conv1").output)(x)
    for channel in (1, 3):
        f = conv1(channel, network, activation="post", position=(2, 7))
        np.testing.assert_array_equal(f(x), maps[:, 2, 7, channel])
    assert np.all(np.isfinite((conv1(1, network) - 2 * conv1(3, network))(x)))


@pytest.mark.parametrize("scalar", ["2", None, True, 1j, np.ones(2)])
def test_what_is_no_number_does_not_scale_a_unit(scalar):
    u = conv1(0, network_of(bare_logits))
    for scaled in (lambda: u * scalar, lambda: scalar * u, lambda: u / scalar):
        with pytest.raises(TypeError):
            scaled()


@pytest.mark.parametrize("scalar", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_does_not_scale_a_unit(scalar):
    u = conv1(0, network_of(bare_logits))
    for scaled in (lambda: u * scalar, lambda: scalar * u, lambda: u / scalar):
        with pytest.raises(ValueError, match="finite number"):
            scaled()
    with pytest.raises(ValueError, match="other than zero"):
        u / 0


def test_only_units_are_added_to_units():
    u = conv1(0, network_of(bare_logits))
    for other in (1.0, "u", len, np.ones(3)):
        with pytest.raises(TypeError):
            u + other
        with pytest.raises(TypeError):
            u - other
    with pytest.raises(TypeError, match="Expected a number"):
        u * u


def test_units_of_images_of_different_shapes_have_no_sum():
    inputs = keras.Input((8, 8, 1))
    small = keras.Model(inputs, layers.Conv2D(2, 3, name="conv1")(inputs))
    anything = keras.Input((None, None, 1))
    free = keras.Model(anything, layers.Conv2D(2, 3, name="conv1")(anything))
    u = conv1(0, network_of(bare_logits))
    with pytest.raises(ValueError, match=r"\(12, 12, 1\) and \(8, 8, 1\)"):
        u + conv1(0, small)
    assert (conv1(0, free) + u).input_shape == SHAPE


# Places and activations


def test_the_mean_over_the_map_is_that_of_all_positions():
    network, x = network_of(bare_logits), images()
    places = [(i, j) for i in range(3) for j in range(3)]
    each = [unit(network, "conv2:4", position=p)(x) for p in places]
    f = unit(network, "conv2:4", position="mean")
    np.testing.assert_allclose(f(x), np.mean(each, axis=0), rtol=1e-5, atol=1e-7)


def test_after_the_activation_a_unit_is_the_output_of_its_layer():
    network, x = network_of(bare_logits), images()
    for name in ("conv1", "conv2", "ip1"):
        pre, post = (unit(network, f"{name}:1", activation=a) for a in ("pre", "post"))
        np.testing.assert_allclose(post(x), np.maximum(pre(x), 0.0), rtol=1e-6)
    assert np.any(unit(network, "conv1:1")(x) < 0)


# Layers of any number of axes


def at_layer(network, name, x, linear=True):
    """What a layer makes, before its activation, read by a second model."""
    layer = network.get_layer(name)
    if not hasattr(layer, "activation") or not linear:
        made = keras.Model(network.input, layer.output)(x)
        return keras.tree.flatten(made)[0].numpy()
    activation, layer.activation = layer.activation, keras.activations.linear
    try:
        return layer(keras.Model(network.input, layer.input)(x)).numpy()
    finally:
        layer.activation = activation


def sequences():
    """Steps of a signal [n, steps, channels]."""
    inputs = keras.Input((20, 2))
    x = layers.Conv1D(4, 3, activation="relu", name="conv")(inputs)
    x = layers.Flatten()(layers.MaxPooling1D(2, name="pool")(x))
    return keras.Model(inputs, layers.Dense(CLASSES, activation="softmax")(x))


def volumes():
    """Maps of volumes [n, depth, height, width, channels]."""
    inputs = keras.Input((7, 8, 9, 1))
    x = layers.Conv3D(4, 3, activation="relu", name="conv")(inputs)
    x = layers.Flatten()(layers.AveragePooling3D(2, name="pool")(x))
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


ANY_RANK = [
    (sequences, "conv", [(0,), (17,)], "mean", "1 axis of places"),
    (sequences, "pool", [(8,)], "mean", "1 axis of places"),
    (volumes, "conv", [(0, 1, 2), (4, 5, 6)], "center", "3 axes of places"),
    (volumes, "pool", [(1, 2, 0)], "center", "3 axes of places"),
    (small_transformer, "tokens", [(0,), (15,)], "mean", "1 axis of places"),
    (small_transformer, "block1", [(0,), (16,)], "mean", "1 axis of places"),
    (small_transformer, "block2_mlp", [(0,), (9,)], "mean", "1 axis of places"),
    (small_transformer, "block1_attention", [(0,), (3,)], "mean", "1 axis of places"),
    (
        lambda: small_transformer(return_attention_scores=True),
        "block2_attention",
        [(0,), (3,)],
        "mean",
        "1 axis of places",
    ),
]


@pytest.mark.parametrize(
    ("make", "name", "places", "default", "axes"),
    [*ANY_RANK[:4], *(slow(*case) for case in ANY_RANK[4:])],
)
def test_a_layer_of_any_number_of_axes_is_read_at_a_place_or_in_the_mean(
    make, name, places, default, axes
):
    network = make()
    x = images(shape=network.input_shape[1:], scale=50.0)
    values = at_layer(network, name, x)
    among = tuple(range(1, values.ndim - 1))
    middle = tuple(size // 2 for size in values.shape[1:-1])
    expected = {
        "mean": values.mean(axis=among)[:, 2],
        "center": values[(slice(None), *middle, 2)],
    } | {place: values[(slice(None), *place, 2)] for place in places}
    expected[None] = expected[default]
    names = {None: "", default: ""}
    for position, value in expected.items():
        f = unit(network, f"{name}:2", position=position)
        scale = np.max(np.abs(values))
        np.testing.assert_allclose(f(x), value, rtol=1e-4, atol=1e-5 * scale)
        where = (
            position
            if isinstance(position, str | None)
            else ",".join(map(str, position))
        )
        assert f.name == f"{name}:2" + names.get(position, f"@{where}")
        assert np.any(gradient_of(f, x) != 0)
        with pytest.raises(ValueError, match=f"'{name}:2.*{axes}.*the whole image"):
            f.crop()
    assert unit(network, f"{name}:2") == unit(network, f"{name}:2", position=default)


def test_a_place_of_a_sequence_is_an_index_or_a_tuple_of_one():
    network = sequences()
    f = unit(network, "conv:1", position=5)
    assert f.name == "conv:1@5"
    for same in ((5,), [5], np.int64(5), np.array([5])):
        assert unit(network, "conv:1", position=same) == f


def test_a_direction_and_an_activation_are_read_of_tokens_too():
    network, x = small_transformer(), images(shape=(16, 16, 3), scale=50.0)
    direction = np.random.default_rng(0).normal(size=24)
    f = unit(network, "block1_mlp", direction=direction, position=0)
    expected = at_layer(network, "block1_mlp", x)[:, 0] @ direction
    np.testing.assert_allclose(f(x), expected, rtol=1e-4, atol=1e-4)
    f = unit(network, "block1_mlp:3", position=2, activation="post")
    expected = at_layer(network, "block1_mlp", x, linear=False)[:, 2, 3]
    np.testing.assert_allclose(f(x), expected, rtol=1e-4, atol=1e-5)
    assert f.name == "block1_mlp:3@2 post"


def test_a_layer_inside_an_attention_is_read_too():
    """Its queries are [n, tokens, heads, width]."""
    network, x = small_transformer(), images(shape=(16, 16, 3), scale=50.0)
    attention = network.get_layer("block2_attention")
    below = at_layer(network, "block2_norm1", x)
    queries = attention.query_dense(below).numpy()
    f = unit(network, "block2_attention/query:4", position=(3, 1))
    np.testing.assert_allclose(f(x), queries[:, 3, 1, 4], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "name", "position", "message"),
    [
        (sequences, "conv", 18, "an index in the seq.*Received: 18.* a sequence of 18"),
        (sequences, "conv", -1, "Received: -1"),
        (sequences, "conv", (0, 1), r"Received: \(0, 1\). Its output is a sequence"),
        (sequences, "conv", "middle", "Received: 'middle'"),
        (sequences, "conv", "3", "Received: '3'"),
        (sequences, "conv", 1.5, "Received: 1.5"),
        (volumes, "conv", (0, 0), r"an index for each axis.* an array of 5 x 6 x 7\."),
        (volumes, "conv", (0, 0, 7), r"Received: \(0, 0, 7\)"),
        (volumes, "conv", 3, "Received: 3"),
    ],
)
def test_a_place_that_is_not_there_is_quoted(make, name, position, message):
    with pytest.raises(ValueError, match=message):
        unit(make(), f"{name}:0", position=position)


def test_a_sequence_of_any_length_is_read_where_it_is():
    inputs = keras.Input((None, 2))
    network = keras.Model(inputs, layers.Conv1D(3, 3, name="conv")(inputs))
    for steps in (5, 8):
        x = images(shape=(steps, 2))
        values = network(x).numpy()
        np.testing.assert_allclose(
            unit(network, "conv:1")(x), values[:, :, 1].mean(axis=1), rtol=1e-5
        )
        center = unit(network, "conv:1", position="center")
        assert center.name == "conv:1@center"
        np.testing.assert_allclose(center(x), values[:, (steps - 2) // 2, 1], rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (sequences, ["conv:1"]),
        (volumes, ["conv:1"]),
        slow(small_transformer, ["block1:3", "block2_attention:1"]),
    ],
)
def test_units_of_any_number_of_axes_are_sampled(make, names):
    network = make()
    q = kt.white_noise(network.input_shape[1:], 0.0, 20.0)
    units = [unit(network, name) for name in names]
    noise, tilts = q.sample(200, seed=[0, 1]), []
    for f in units:
        tilts.append(kt.Tilt(f, q, scale=float(3.0 / np.std(f(noise)))))
    for tilt, samples in zip(tilts, kt.sample(tilts, 4, 6, 12, seed=1), strict=True):
        assert samples.images.shape[2:] == network.input_shape[1:]
        f, before = tilt.unit(samples.images[-1]), tilt.unit(noise)
        np.testing.assert_allclose(f, samples.f[-1], rtol=1e-3, atol=1e-3)
        assert np.mean(samples.f) > np.mean(before) + np.std(before)


# Posteriors


def posterior_of(network, x, **options):
    classes = [
        unit(network, class_index=c, posterior=True, **options) for c in range(CLASSES)
    ]
    return np.stack([f(x) for f in classes], axis=1)


@pytest.mark.parametrize("head", [*WITH_SOFTMAX, fused_sigmoid])
def test_the_posterior_unit_is_the_logarithm_of_the_output(head):
    network, x = network_of(head), images()
    expected = np.log(network(x))
    np.testing.assert_allclose(posterior_of(network, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", [bare_logits, fused_log_softmax])
def test_the_posterior_unit_of_logits_is_their_log_softmax(head):
    network, x = network_of(head), images()
    expected = tf.nn.log_softmax(network(x))
    np.testing.assert_allclose(posterior_of(network, x), expected, rtol=1e-4, atol=1e-5)


def test_a_softmax_over_each_place_of_a_map_stays_one_over_each_place():
    """Flattened, [2, 2, classes] are 4 softmaxes and not one."""
    inputs = keras.Input((2, 2, 3))
    x = layers.Conv2D(CLASSES, 1, activation="softmax")(inputs)
    network = keras.Model(inputs, layers.Flatten()(x))
    x = images(shape=(2, 2, 3))
    f = unit(network, class_index=7, posterior=True)
    np.testing.assert_allclose(f(x), np.log(network(x))[:, 7], rtol=1e-5)


@pytest.mark.parametrize("head", [fused_softmax, bare_logits, fused_sigmoid])
def test_the_posterior_unit_is_bounded_by_zero_and_finite_where_p_is_not(head):
    network, x = network_of(head), images(scale=1e4)
    log_p = posterior_of(network, x)
    assert np.all(log_p <= 0) and np.all(np.isfinite(log_p)) and log_p.min() < -200
    loser = int(np.argmin(log_p[0]))
    with tf.GradientTape() as tape:
        tape.watch(x)
        f = unit(network, class_index=loser, posterior=True)(x)
    assert np.any(tape.gradient(f, x)[0] != 0)


def test_the_posterior_of_a_classifier_is_calibrated_and_its_logits_are_not():
    network, x = network_of(bare_logits), images()
    model = GenerativeClassifier(network)
    posterior = unit(model, class_index=1, posterior=True)
    before = posterior(x).numpy()
    model.calibration_bias.assign([3.0, -2.0, 0.0, 1.0, 0.5])
    np.testing.assert_allclose(posterior(x), tf.nn.log_softmax(model(x))[:, 1])
    assert np.all(np.abs(posterior(x) - before) > 0.5)
    np.testing.assert_array_equal(
        unit(model, class_index=1)(x), unit(network, class_index=1)(x)
    )
    assert unit(model, class_index=1) == unit(network, class_index=1)
    assert posterior != unit(network, class_index=1, posterior=True)


def test_the_posterior_of_probabilities_is_their_logarithm():
    hidden = layers.Lambda(lambda x: tf.nn.softmax(x), name="hidden")
    network, x = network_of(lambda x: hidden(logits_layer(x))), images()
    expected = np.log(network(x))
    np.testing.assert_allclose(posterior_of(network, x), expected, rtol=1e-5)
    assert np.all(posterior_of(network, 1e5 * x) >= -87.4)


def test_one_logit_has_no_posterior():
    inputs = keras.Input(SHAPE)
    for head in (layers.Dense(1), layers.Dense(1, activation="softmax")):
        network = keras.Model(inputs, head(layers.Flatten()(inputs)))
        with pytest.raises(ValueError, match="Received: one logit"):
            unit(network, class_index=0, posterior=True)
    sigmoid = layers.Dense(1, activation="sigmoid")(layers.Flatten()(inputs))
    network, x = keras.Model(inputs, sigmoid), images()
    f = unit(network, class_index=0, posterior=True)
    np.testing.assert_allclose(f(x), np.log(network(x))[:, 0], rtol=1e-5)


# Images in other units than the network's


def test_preprocessing_is_part_of_the_unit():
    network, x = network_of(fused_softmax), 255.0 * tf.nn.sigmoid(images())

    def prepared(pixels):
        return (pixels - 127.0) / 128.0

    for name in ({"class_index": 2}, {"layer_channel": "conv2:3"}):
        f = unit(network, preprocess=prepared, **name)
        expected = unit(network, **name)(prepared(x))
        np.testing.assert_array_equal(f(x), expected)
        integers = np.round(x).astype(np.uint8)
        np.testing.assert_array_equal(f(integers), f(np.float64(integers)))
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = f(x)
        assert np.any(tape.gradient(y, x) != 0)


def test_preprocessing_may_be_a_keras_layer_and_may_resize():
    network, x = network_of(bare_logits), images(shape=(24, 20, 1))
    resize = layers.Resizing(12, 12)
    f = unit(network, class_index=1, preprocess=resize, input_shape=(24, 20, 1))
    assert f.input_shape == (24, 20, 1)
    np.testing.assert_allclose(f(x), network(resize(x))[:, 1], rtol=1e-5)
    with pytest.raises(ValueError, match=r"shape \(12, 12, 1\). .*\(10, 10, 1\) of"):
        unit(network, class_index=1, preprocess=layers.Resizing(10, 10))


def test_images_of_integers_are_numbers_as_others_are():
    inputs = keras.Input(SHAPE)
    divided = keras.Model(inputs, body(inputs / 255.0))
    x = np.round(50.0 + 10.0 * images().numpy())
    for network, name in ((divided, "ip1:2"), (network_of(bare_logits), "conv1:1")):
        f = unit(network, name)
        np.testing.assert_array_equal(f(x.astype(np.uint8)), f(np.float32(x)))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: np.asarray(x)[..., ::-1] - 100.0,
        lambda x: x.astype("float32") / 255.0,
        lambda x: np.subtract(x, 100.0),
    ],
)
def test_preprocessing_by_numpy_is_refused(function):
    with pytest.raises(ValueError, match="TensorFlow or keras.ops operations"):
        unit(network_of(bare_logits), class_index=0, preprocess=function)


def test_a_network_of_any_size_may_be_given_one():
    inputs = keras.Input((None, None, 1))
    network = keras.Model(inputs, layers.Conv2D(2, 3, name="conv1")(inputs))
    assert conv1(1, network, input_shape=[8, 9, 1]).input_shape == (8, 9, 1)
    with pytest.raises(ValueError, match=r"\(8, 9, 3\), the network takes \(None"):
        conv1(1, network, input_shape=(8, 9, 3))


def test_images_of_another_shape_are_refused():
    f = conv1(1, network_of(bare_logits))
    with pytest.raises(ValueError, match=r"images \[n, 12, 12, 1\]. .*\(3, 14, 14, 1"):
        f(images(shape=(14, 14, 1)))


# Several inputs


def two_inputs():
    """A network that scales the maps of an image by a second input."""
    left, right = keras.Input(SHAPE, name="left"), keras.Input((4,), name="right")
    x = layers.Conv2D(4, 3, name="conv1")(left)
    x = layers.Multiply(name="scaled")([x, layers.Reshape((1, 1, 4))(right)])
    x = layers.Dense(CLASSES, activation="softmax")(layers.Flatten()(x))
    return keras.Model([left, right], x)


@pytest.mark.parametrize("preprocess", ["tf", 3, lambda images: None])
def test_preprocessing_that_is_no_function_of_tensors_is_refused(preprocess):
    with pytest.raises(ValueError, match="Expected `preprocess` to be a function"):
        unit(network_of(bare_logits), class_index=0, preprocess=preprocess)


def test_fixed_inputs_that_are_no_dict_are_refused():
    with pytest.raises(ValueError, match="Expected `fixed_inputs` to be a dict"):
        unit(network_of(logits_layer), class_index=0, fixed_inputs=[[1.0]])


def test_true_is_no_class():
    with pytest.raises(ValueError, match="Expected `class_index` to lie in"):
        unit(network_of(logits_layer), class_index=True)


def test_a_direction_that_is_no_numbers_is_refused():
    with pytest.raises(ValueError, match="`direction` must be a number"):
        unit(network_of(logits_layer), "conv1", direction=["a", "b"])


def test_inputs_but_the_images_are_fixed():
    network, x = two_inputs(), images()
    right = np.array([1.0, 2.0, 3.0, 4.0])
    full = np.log(network([x, tf.constant(3 * [right], tf.float32)]))
    for fixed in (right, right[None], right.tolist(), np.float32(right)):
        f = unit(network, class_index=2, posterior=True, fixed_inputs={"right": fixed})
        np.testing.assert_allclose(f(x), full[:, 2], rtol=1e-4, atol=1e-5)
    plain = unit(network, "conv1:2", fixed_inputs={"right": right})
    scaled = unit(network, "scaled:2", fixed_inputs={"right": right})
    np.testing.assert_allclose(scaled(x), 3.0 * plain(x), rtol=1e-6)
    assert plain == unit(network, "conv1:2", fixed_inputs={"right": right.copy()})
    assert plain != unit(network, "conv1:2", fixed_inputs={"right": 2 * right})


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        ({}, r"2 inputs, \['left', 'right'\]"),
        ({"left": np.zeros(SHAPE), "right": np.zeros(4)}, r"0 inputs, \[\]"),
        ({"rigth": np.zeros(4)}, r"'rigth'\]. The network's inputs are \['left', 'ri"),
        (
            {"right": np.zeros(5)},
            r"'right' to have shape \(4,\), .* Received: shape \(5,\)",
        ),
    ],
)
def test_fixed_inputs_that_do_not_fit_are_quoted(fixed, message):
    with pytest.raises(ValueError, match=message):
        unit(two_inputs(), class_index=0, fixed_inputs=fixed)


# Networks inside networks, and without a graph


def test_a_layer_of_a_nested_network_is_named_by_its_path():
    inner = keras.Sequential(
        [
            keras.Input((10, 10, 4)),
            layers.Conv2D(6, 3, activation="relu", name="conv5"),
            layers.BatchNormalization(name="norm"),
        ],
        name="inner",
    )
    middle_in = keras.Input((10, 10, 4))
    middle = keras.Model(middle_in, inner(layers.ReLU()(middle_in)), name="backbone")
    inputs = keras.Input(SHAPE)
    x = middle(layers.Conv2D(4, 3, name="conv1")(inputs))
    x = layers.Dense(CLASSES)(layers.Flatten()(x))
    network, x = keras.Model(inputs, x), images()

    below = keras.Model(network.input, network.get_layer("conv1").output)
    maps = inner.get_layer("conv5")(tf.nn.relu(below(x)))
    f = unit(network, "backbone/inner/conv5:3", activation="post", position=(1, 2))
    np.testing.assert_allclose(f(x), maps[:, 1, 2, 3], rtol=1e-5, atol=1e-6)
    out = unit(network, "backbone/inner/norm:3"), unit(network, "backbone:3")
    np.testing.assert_array_equal(out[0](x), out[1](x))
    with pytest.raises(
        ValueError, match="Layers: .*backbone/inner/conv5, .*backbone, "
    ):
        unit(network, "backbone/conv9:0")


def test_a_network_applied_twice_has_no_single_inner_layer():
    inner = keras.Sequential([keras.Input(SHAPE), layers.Dense(1, name="d")], name="in")
    inputs = keras.Input(SHAPE)
    network = keras.Model(inputs, inner(inner(inputs)))
    with pytest.raises(ValueError, match="applied once .* 2 applications"):
        unit(network, "in/d:0")
    np.testing.assert_allclose(
        unit(keras.Sequential([network, layers.Identity(name="top")]), "top:0")(
            images()
        ),
        network(images())[:, 6, 6, 0],
        rtol=1e-5,
    )


def gradient_of(f, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = f(x)
    return tape.gradient(y, x)


class Block(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Conv2D(4, 3, activation="relu")
        self.rest = [layers.Dropout(0.5), layers.BatchNormalization(name="norm")]

    def call(self, x):
        for layer in [self.first, *self.rest]:
            x = layer(x)
        return x


class Subclassed(keras.Model):
    def __init__(self, activation=None):
        super().__init__()
        self.block = Block(name="block")
        self.flat = layers.Flatten()
        self.top = layers.Dense(CLASSES, activation=activation)

    def call(self, x):
        return self.top(self.flat(self.block(x)))


def twin_of(model):
    """The functional network of the same layers."""
    inputs = keras.Input(SHAPE)
    x = model.block.first(inputs)
    for layer in model.block.rest:
        x = layer(x)
    return keras.Model(inputs, model.top(model.flat(x)))


def test_a_subclassed_model_has_the_units_of_its_functional_twin():
    model, x = Subclassed(), images()
    with pytest.raises(ValueError, match="subclassed one that is built"):
        unit(model, class_index=0)
    f = unit(model, class_index=3, input_shape=SHAPE)
    assert f.input_shape == SHAPE
    model(x)
    model.block.rest[1].moving_mean.assign([0.1, 0.2, 0.3, 0.4])
    twin = twin_of(model)
    first = model.block.first.name
    assert f == unit(model, class_index=3)
    pairs = [
        (f, unit(twin, class_index=3)),
        (unit(model, f"block/{first}:1"), unit(twin, f"{first}:1")),
        (unit(model, "block/first:1"), unit(twin, f"{first}:1")),
        (
            unit(model, "block/norm:2", position=(0, 3)),
            unit(twin, "norm:2", position=(0, 3)),
        ),
        (
            unit(model, "block:2", position="mean"),
            unit(twin, "norm:2", position="mean"),
        ),
        (
            unit(model, "block/first:1", activation="post"),
            unit(twin, f"{first}:1", activation="post"),
        ),
        (
            unit(model, class_index=3, posterior=True),
            unit(twin, class_index=3, posterior=True),
        ),
    ]
    for ours, expected in pairs:
        np.testing.assert_allclose(ours(x), expected(x), rtol=1e-5, atol=1e-6)
        traced = tf.function(ours.__call__)
        np.testing.assert_allclose(traced(x), expected(x), rtol=1e-5, atol=1e-6)
        gradient, expected = gradient_of(ours, x), gradient_of(expected, x)
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)
    assert unit(model, "block/first:1") == unit(model, f"block/{first}:1")
    assert "call" not in vars(model.block.first)


def test_a_layer_inside_a_layer_of_a_graph_is_read():
    inputs, x = keras.Input(SHAPE), images()
    block = Block(name="block")
    head = layers.Dense(CLASSES)(layers.Flatten()(block(layers.Rescaling(2.0)(inputs))))
    network = keras.Model(inputs, head)
    f = unit(network, "block/first:3", position=(2, 2))
    expected = keras.ops.conv(2.0 * x, block.first.kernel)[:, 2, 2, 3]
    np.testing.assert_allclose(f(x), expected, rtol=1e-5, atol=1e-6)


def test_the_output_of_a_subclassed_model_must_be_logits_or_have_its_logarithm_taken():
    model, x = Subclassed("softmax"), images()
    model(x)
    with pytest.raises(ValueError, match="posterior=True"):
        unit(model, class_index=1)
    np.testing.assert_allclose(posterior_of(model, x), np.log(model(x)), rtol=1e-5)


def test_a_layer_that_a_subclassed_model_does_not_call_once_is_refused():
    class Repeated(Subclassed):
        def call(self, x):
            return self.top(self.flat(self.block(x))) + self.top(
                self.flat(self.block(x))
            )

    class Traced(Subclassed):
        @tf.function
        def call(self, x):
            return self.top(self.flat(self.block(x)))

    for kind, message in ((Repeated, "2 calls"), (Traced, "inside a tf.function")):
        model = kind()
        model(images())
        with pytest.raises(ValueError, match=message):
            unit(model, "block:0")
        assert "call" not in vars(model.block)
    network = network_of(bare_logits)
    network.unused = layers.Dense(3, name="unused")
    with pytest.raises(ValueError, match="Received: 0 calls"):
        unit(network, "unused:0")


def test_a_model_that_adds_its_own_calibration_is_read_as_it_is():
    class Calibrated(Subclassed):
        def __init__(self):
            super().__init__()
            self.calibration_bias = self.add_weight(shape=(CLASSES,))

        def call(self, x):
            return super().call(x) + self.calibration_bias

    model, x = Calibrated(), images()
    expected = tf.nn.log_softmax(model(x))
    np.testing.assert_allclose(posterior_of(model, x), expected, rtol=1e-5)


# What is left as it was: layers, files, threads


def test_a_loaded_network_has_the_units_of_the_saved_one(tmp_path):
    network, x = network_of(softmax_in_a_nested_network), images()
    before = unit(network, "conv1:2")(x), unit(network, class_index=1)(x)
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    np.testing.assert_array_equal(unit(loaded, "conv1:2")(x), before[0])
    np.testing.assert_array_equal(unit(loaded, class_index=1)(x), before[1])


def test_reading_adds_nothing_to_the_layers():
    network, x = network_of(fused_softmax), images()
    layer = network.get_layer("conv1")
    before = {name: id(value) for name, value in vars(layer).items()}
    nodes, weights = len(layer._inbound_nodes), len(network.weights)
    unit(network, "conv1:2")(x), unit(network, "conv1:2").crop()
    unit(network, class_index=1)(x)
    assert {name: id(value) for name, value in vars(layer).items()} == before
    assert (len(layer._inbound_nodes), len(network.weights)) == (nodes, weights)


def test_a_unit_is_served_with_the_weights_of_its_network(tmp_path):
    network, x = network_of(fused_softmax), images()
    f = unit(network, "conv1:2") + unit(network, class_index=1)
    module = tf.Module()
    module.network = network
    signature = tf.TensorSpec([None, *SHAPE], tf.float32)
    module.f = tf.function(f.__call__, input_signature=[signature])
    expected = module.f(x)
    tf.saved_model.save(module, str(tmp_path))
    served = tf.saved_model.load(str(tmp_path))
    np.testing.assert_allclose(served.f(x), expected, rtol=1e-6)


def test_threads_read_before_and_after_the_activation_at_the_same_time():
    network, x = network_of(fused_softmax), images()
    model = Subclassed()
    model(x)
    reads = [
        unit(network, "conv1:2"),
        unit(network, "conv1:2", activation="post"),
        unit(network, class_index=1),
        lambda x: network(x)[:, 0],
        unit(model, "block/first:2"),
        unit(model, "block/first:2", activation="post"),
        lambda x: model(x)[:, 0],
    ]
    expected, wrong = [f(x).numpy() for f in reads], []

    def read(i):
        for _ in range(20):
            if not np.array_equal(reads[i](x), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(len(reads))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_call_by_another_thread_is_not_what_a_reader_sees():
    layer, x = layers.Dense(3), images(shape=(4,))
    expected = layer(x)

    def evaluate():
        other = threading.Thread(target=layer, args=(x + 1.0,))
        other.start(), other.join()
        layer(x)

    np.testing.assert_array_equal(
        inner_values.capture(layer, evaluate, False), expected
    )


def test_two_readers_of_a_layer_outside_a_graph_take_turns():
    layer, x, seen = layers.Dense(3), images(shape=(4,)), []
    expected = layer(x)
    second_inside, first_done = threading.Event(), threading.Event()

    def second():
        def evaluate():
            second_inside.set()
            first_done.wait(timeout=5)
            layer(x)

        seen.append(inner_values.capture(layer, evaluate, False))

    def evaluate():
        thread.start()
        second_inside.wait(timeout=0.5)
        layer(x)

    thread = threading.Thread(target=second)
    seen.append(inner_values.capture(layer, evaluate, False))
    first_done.set()
    thread.join()
    assert len(seen) == 2
    for values in seen:
        np.testing.assert_array_equal(values, expected)


@pytest.mark.slow
def test_tracing_a_unit_is_silent(capfd):
    network = network_of(fused_softmax)
    both = stack([unit(network, "conv1:2").crop(), unit(network, "conv1:3").crop()])
    tf.function(both.__call__)(tf.zeros([2, 1, 3, 3, 1]))
    tf.function(unit(network, class_index=1, posterior=True).__call__)(images())
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


# Several units in one pass


def counting_network(head=fused_softmax):
    """A network and the list of the sizes of the batches that it was given."""
    sizes = []

    def count(x):
        sizes.append(int(x.shape[0]))
        return x

    inputs = keras.Input(SHAPE)
    x = body(layers.Lambda(count, output_shape=SHAPE)(inputs))
    network = keras.Model(inputs, head(x))
    return network, sizes


def rows_of_images(units, chains=2, seed=0):
    return images(units * chains, seed, shape=(*SHAPE,)), [units, chains, *SHAPE]


def test_a_stack_is_each_unit_alone_on_its_row():
    network, _ = counting_network()
    other = network_of(bare_logits)
    units = [
        unit(network, class_index=0),
        unit(network, "conv1:1"),
        unit(network, class_index=3) - 2.0 * unit(network, class_index=1),
        lambda images: tf.reduce_sum(images, axis=(1, 2, 3)),
        unit(network, "conv1:2") + unit(network, class_index=0),
        unit(other, class_index=0),
        unit(network, class_index=2) - unit(network, "conv1", direction=np.ones(4)),
        unit(network, class_index=0),
    ]
    x, shape = rows_of_images(len(units))
    x = tf.reshape(x, shape)
    expected = [f(row) for f, row in zip(units, x, strict=True)]
    several = stack(units)
    assert isinstance(several, UnitStack) and several.input_shape == SHAPE
    assert shared(units) == [[0, 2, 7], [1], [3], [4, 6], [5]]
    np.testing.assert_allclose(several(x), expected, rtol=1e-6, atol=1e-6)
    traced = tf.function(several.__call__)
    np.testing.assert_allclose(traced(x), expected, rtol=1e-5, atol=1e-5)


def test_a_stack_reads_each_of_its_features_once_on_all_its_images():
    network, sizes = counting_network()
    classes = [unit(network, class_index=c) for c in range(CLASSES)]
    maps = [unit(network, f"conv1:{c}") for c in range(2)]
    for units, expected in (
        (classes, [10]),
        (classes + maps, [10, 4]),
        ([f + maps[0] for f in classes], [10]),
        ([classes[0], maps[0], classes[1]], [4, 2]),
    ):
        x, shape = rows_of_images(len(units))
        several, x = stack(units), tf.reshape(x, shape)
        sizes.clear()
        several(x)
        assert sizes == expected


def test_the_gradient_of_a_stack_is_that_of_each_unit():
    network = network_of(fused_softmax)
    units = [unit(network, class_index=c) - unit(network, "conv1:0") for c in range(3)]
    x, shape = rows_of_images(3)
    x = tf.reshape(x, shape)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        together = stack(units)(x)
        alone = tf.stack([f(x[i]) for i, f in enumerate(units)])
    np.testing.assert_allclose(
        tape.gradient(together, x), tape.gradient(alone, x), rtol=1e-4, atol=1e-6
    )


def test_a_stack_of_what_are_no_units_of_one_image_is_refused():
    network = network_of(bare_logits)
    f = unit(network, class_index=0)
    for units in ([], [f, 3]):
        with pytest.raises(ValueError, match="one or several units"):
            stack(units)
    with pytest.raises(ValueError, match=r"\(12, 12, 1\) and \(3, 3, 1\)"):
        stack([f, unit(network, "conv1:1").crop()])
    with pytest.raises(ValueError, match=r"images \[1, chains.* \(2, 3, 12, 12, 1\)"):
        stack([f])(tf.zeros([2, 3, *SHAPE]))


# More errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_index": 1, "activation": "post"}, "'post' and None. For log p"),
        ({"class_index": 1, "direction": [1.0]}, "'pre' and .1.0."),
        ({"class_index": 1, "position": "mean"}, "no map. Received: 'mean'"),
        ({"layer_channel": "conv1:1", "posterior": True}, "Received: True. Name a cl"),
        ({"layer_channel": "conv1:1", "activation": "both"}, "Received: 'both'"),
        ({"layer_channel": "conv1", "direction": [1.0]}, "4 finite weights.*'conv1'"),
        ({"layer_channel": "conv1", "direction": [1, 2, 3, np.nan]}, "4 finite"),
        ({"layer_channel": "conv9", "direction": [1.0]}, "'conv9'. Layers: images"),
        ({"layer_channel": "ip1:1", "position": "mean"}, "a vector, without a map"),
        ({"layer_channel": "ip1:1", "position": ""}, "a vector, without a map"),
        ({"class_index": 1, "input_shape": "abc"}, "Received: 'abc'"),
        ({"class_index": 1, "input_shape": (8, 8, 1)}, "takes .12, 12, 1."),
    ],
)
def test_options_that_do_not_fit_are_quoted(arguments, message):
    with pytest.raises(ValueError, match=message):
        unit(network_of(bare_logits), **arguments)


# Real networks


def test_squeezenet_tells_the_same_through_units_of_pixels():
    definition = runpy.run_path(str(data_file("squeezenet_keras.py")))
    network = definition["load"](data_file("squeezenet_keras.npz"))
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 255, size=(2, 227, 227, 3)).astype(np.float32)

    def preprocess(pixels):
        return pixels[..., ::-1] - [103.939, 116.779, 123.68]

    with pytest.raises(ValueError, match="keras.ops operations"):
        unit(network, class_index=0, preprocess=definition["preprocess"])
    log_p = unit(network, class_index=950, posterior=True, preprocess=preprocess)
    expected = np.log(network(definition["preprocess"](x)))[:, 950]
    np.testing.assert_allclose(log_p(x), expected, rtol=1e-4)
    f = unit(network, "fire5_expand3x3:7", preprocess=preprocess)
    assert f.crop().input_shape == (63, 63, 3)


@pytest.mark.parametrize("head", [*WITH_SOFTMAX, bare_logits, fused_sigmoid])
def test_a_weighted_posterior_is_added_to_the_logit_in_one_pass(head):
    network, x = network_of(head), images()
    both = unit(network, class_index=2, posterior_weight=1.5)
    logit = unit(network, class_index=2)
    log_p = unit(network, class_index=2, posterior=True)
    np.testing.assert_allclose(both(x), logit(x) + 1.5 * log_p(x), rtol=1e-4, atol=1e-5)
    assert len(both.terms) == 1
    assert both.name == "(class 2 + 1.5 log p)"
    other = unit(network, class_index=2, posterior_weight=-2.0)
    assert other.name == "(class 2 - 2 log p)"


def test_the_weighted_posterior_of_a_classifier_is_calibrated():
    network, x = network_of(bare_logits), images()
    model = GenerativeClassifier(network)
    model.calibration_bias.assign([3.0, -2.0, 0.0, 1.0, 0.5])
    both = unit(model, class_index=1, posterior_weight=2.0)
    expected = network(x)[:, 1] + 2.0 * tf.nn.log_softmax(model(x))[:, 1]
    np.testing.assert_allclose(both(x), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"posterior": True, "posterior_weight": 1.0}, "without `posterior`"),
        ({"posterior_weight": np.inf}, "a finite number"),
        ({"posterior_weight": "2"}, "`posterior_weight` must be a number"),
    ],
)
def test_weights_of_a_posterior_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        unit(network_of(bare_logits), class_index=1, **arguments)
    with pytest.raises(ValueError, match="no `posterior`"):
        unit(network_of(bare_logits), "conv1:1", posterior_weight=1.0)


def test_probabilities_have_no_logit_to_add_a_posterior_to():
    hidden = layers.Lambda(lambda x: tf.nn.softmax(x), name="hidden")
    network = network_of(lambda x: hidden(logits_layer(x)))
    with pytest.raises(ValueError, match="outputs that are probabilities"):
        unit(network, class_index=1, posterior_weight=1.0)


# Other sizes


def pooling_network(size):
    """Layers that take any size, on an input of one."""
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((size, size, 2)),
            layers.Conv2D(6, 3, activation="relu", name="conv1"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, activation="softmax", name="classes"),
        ]
    )


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.5])
def test_a_resized_unit_is_the_unit_of_the_network_of_that_size(factor):
    network, size = pooling_network(12), int(12 * factor)
    other = pooling_network(size)
    x = images(shape=(12, 12, 2))
    resized = tf.image.resize(x, (size, size), antialias=True)
    for choice in (
        {"class_index": 1},
        {"class_index": 1, "posterior": True},
        {"class_index": 1, "posterior_weight": 2.0},
        {"layer_channel": "conv1:4"},
        {"layer_channel": "conv1:4", "position": "mean"},
        {"layer_channel": "conv1:4", "position": (size - 3, 0)},
    ):
        f = unit(network, **choice, resize=(size, size))
        assert f.input_shape == (12, 12, 2)
        np.testing.assert_allclose(f(x), unit(other, **choice)(resized), rtol=1e-4)


def test_the_mean_over_sizes_is_a_unit_that_classes_share():
    network, x = pooling_network(12), images(shape=(12, 12, 2))
    sizes = [(12, 12), (8, 8)]

    def mean_of(c):
        units = [unit(network, class_index=c, resize=size) for size in sizes]
        return sum(units) / 2

    parts = [unit(network, class_index=1, resize=size)(x) for size in sizes]
    np.testing.assert_allclose(mean_of(1)(x), (parts[0] + parts[1]) / 2, rtol=1e-5)
    assert shared([mean_of(1), mean_of(3)]) == [[0, 1]]
    assert unit(network, class_index=1, resize=(8, 8)) != unit(network, class_index=1)


def test_names_say_the_sizes_of_the_images_and_merge_what_is_the_same():
    network = pooling_network(12)

    def of_size(*size, index=1, **options):
        resize = size or None
        return unit(network, class_index=index, resize=resize, **options)

    assert of_size(8, 8).name == "class 1 at 8 px"
    assert of_size(8, 10).name == "class 1 at 8x10 px"
    assert unit(network, "conv1:4", resize=(8, 8)).name == "conv1:4 at 8 px"
    sizes = [(), (9, 9), (8, 6)]
    views = [of_size(*size) for size in sizes]
    assert (sum(views) / 3).name == "class 1 over 12, 9, 8x6 px"
    assert sum(views).name == "3 class 1 over 12, 9, 8x6 px"
    weighted = [of_size(*size, posterior_weight=4.0) for size in sizes]
    assert (sum(weighted) / 3).name == "(class 1 + 4 log p) over 12, 9, 8x6 px"
    other = sum(of_size(*size, index=2) for size in sizes) / 3
    assert (sum(views) / 3 - other).name == (
        "class 1 over 12, 9, 8x6 px - class 2 over 12, 9, 8x6 px"
    )
    assert (views[0] - 0.5 * views[1]).name == "class 1 at 12 px - 0.5 class 1 at 9 px"
    assert (views[0] + of_size(index=2)).name == "class 1 + class 2"


def test_names_tell_preprocessing_apart_where_the_sizes_are_the_same():
    network = pooling_network(12)

    def mirrored(images):
        return tf.reverse(images, [2])

    def halved(images):
        return images / 2

    f, g, h = (
        unit(network, class_index=1, preprocess=p) for p in (None, mirrored, halved)
    )
    assert f.name == g.name == "class 1"
    assert ((f + g) / 2).name == "class 1 over as it is, mirrored"
    assert (g - 2 * h).name == "class 1 at mirrored - 2 class 1 at halved"
    small = unit(network, class_index=1, preprocess=mirrored, resize=(8, 8))
    assert ((f + g + small) / 3).name == (
        "class 1 over 12 px as it is, 12 px mirrored, 8 px mirrored"
    )
    one, other = (
        unit(network, class_index=1, preprocess=lambda x, k=k: k * x) for k in (1, 2)
    )
    assert (one + other).name == "2 class 1 over input 1, input 2"
    layer = unit(network, class_index=1, preprocess=layers.Rescaling(2.0))
    assert (f + layer).name == "2 class 1 over as it is, Rescaling"


def test_a_class_in_several_sizes_has_one_short_name_from_the_command_line():
    network = pooling_network(20)
    logits = keras.Sequential([*network.layers[:-1], layers.Dense(4)])
    f = named.unit_of(
        keras.Sequential([keras.Input((20, 20, 2)), *logits.layers]),
        "class:3",
        sizes=(1.0, 0.7, 0.5),
        posterior_weight=4.0,
    )
    assert f.name == "(class 3 + 4 log p) over 20, 14, 10 px"


def test_preprocessing_comes_after_resizing():
    network, x = pooling_network(12), images(shape=(20, 20, 2))
    f = unit(
        network,
        class_index=1,
        resize=(12, 12),
        preprocess=lambda images: 3.0 * images,
        input_shape=(20, 20, 2),
    )
    resized = tf.image.resize(x, (12, 12), antialias=True)
    np.testing.assert_allclose(
        f(x), unit(network, class_index=1)(3.0 * resized), rtol=1e-5
    )


@pytest.mark.parametrize("resize", [(0, 8), 8, "large", (8, 8, 2), (8.5, 8)])
def test_sizes_that_are_none_are_refused(resize):
    with pytest.raises(ValueError, match="`resize` to be"):
        unit(pooling_network(12), class_index=1, resize=resize)


def network_with(*pooling):
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(4, 3, name="conv1"),
            *pooling,
            layers.Dense(3),
        ]
    )


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (4, 5), (2, 40)])
@pytest.mark.parametrize(
    "pooling",
    [
        lambda: [layers.MaxPooling2D(4), layers.GlobalMaxPooling2D()],
        lambda: [layers.AveragePooling2D(4), layers.GlobalAveragePooling2D()],
        lambda: [layers.Conv2D(4, 5), layers.GlobalAveragePooling2D()],
        lambda: [layers.DepthwiseConv2D(4), layers.GlobalMaxPooling2D()],
        lambda: [layers.Cropping2D(3), layers.GlobalMaxPooling2D()],
        lambda: [layers.Flatten()],
    ],
)
def test_images_too_small_for_a_network_are_refused(size, pooling):
    network = network_with(*pooling())
    for name in ({"class_index": 1}, {"layer_channel": "conv1:0"}):
        with pytest.raises(ValueError, match="Pass a larger `resize`, or leave it out"):
            unit(network, **name, resize=size)


def test_a_map_without_a_place_is_refused():
    network = network_with(
        layers.AveragePooling2D(4, name="pool"),
        layers.Lambda(lambda x: keras.ops.sum(x, axis=(1, 2))),
    )
    with pytest.raises(ValueError, match=r"'pool' to have a place.*\(None, 0, 0, 4\)"):
        unit(network, "pool:0", resize=(5, 5))


def by_area():
    return layers.Resizing(8, 8, interpolation="area")


def test_an_operation_without_a_gradient_is_named():
    q = kt.white_noise((16, 16, 3))
    inputs = keras.Input((16, 16, 3))
    x = layers.Flatten()(by_area()(inputs))
    tilt = kt.Tilt(unit(keras.Model(inputs, layers.Dense(3)(x)), class_index=1), q)
    for evaluate in (
        lambda: kt.sample(tilt, 4, 4, 4, seed=1),
        lambda: kt.scale_for_signal(tilt, 0.2, seed=1),
        lambda: tilt.signal_to_noise(q.sample(2, seed=[0, 1])),
    ):
        with pytest.raises(
            ValueError, match="^The unit must have a gradient.*ResizeAr"
        ):
            evaluate()
    small = keras.Input((8, 8, 3))
    network = keras.Model(small, layers.Dense(3)(layers.Flatten()(small)))
    with pytest.raises(ValueError, match="`preprocess`.*images.*none .*ResizeArea"):
        unit(network, class_index=1, preprocess=by_area(), input_shape=(16, 16, 3))
    with pytest.raises(ValueError, match="^`generator` must have .*noise.*ResizeArea"):
        kt.latent(keras.Sequential([inputs, by_area()]), (16, 16, 3))


def test_the_signal_of_what_does_not_depend_on_the_image_is_zero():
    q = kt.white_noise((4, 4, 1))
    tilt = kt.Tilt(lambda images: tf.zeros(len(images)), q)
    np.testing.assert_array_equal(
        tilt.signal_to_noise(q.sample(2, seed=[0, 1])), [0, 0]
    )


def test_noise_too_small_for_a_generator_is_refused():
    generator = layers.MaxPooling2D(4)
    with pytest.raises(ValueError, match="(?s)`generator` must take.*Check `latent"):
        kt.latent(lambda z: generator(z), (3, 3, 1))


def test_a_network_of_one_size_cannot_be_resized_and_a_resized_unit_not_cropped():
    with pytest.raises(ValueError, match="take images of any size"):
        unit(network_of(bare_logits), class_index=1, resize=(5, 5))
    f = unit(pooling_network(12), "conv1:4", resize=(8, 8))
    with pytest.raises(ValueError, match="`resize`"):
        f.crop()
