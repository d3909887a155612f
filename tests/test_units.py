"""Units: the logit before any softmax, the channel before any activation."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_tilt.units import Unit, unit

SHAPE = (12, 12, 1)
CLASSES = 5


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


def test_a_wrapper_lends_its_network():
    class Wrapper(keras.Model):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def call(self, x):
            return self.network(x) + 100.0

    network = network_of(bare_logits)
    f = unit(Wrapper(network), class_index=1)
    np.testing.assert_array_equal(f(images()), network(images())[:, 1])


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


def test_a_network_without_a_graph_is_refused():
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


def test_a_layer_without_vector_or_map_is_refused():
    inputs = keras.Input(SHAPE)
    x = layers.Reshape((12, 12), name="rows")(inputs)
    network = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    with pytest.raises(ValueError, match=r"'rows' .* Received: \[\(None, 12, 12\)\]"):
        unit(network, "rows:0")


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
