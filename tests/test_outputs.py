"""What a network returns: every softmax is found, no head of logits is taken for one.

Through `kt.GenerativeClassifier`, `kt.unit`, the files that scripts read and what a
server answers.
"""

import functools
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import slow, slow_but

import keras_tilt as kt
from keras_tilt import serving
from keras_tilt.cli import named

L = keras.layers
SHAPE, CLASSES = (8, 8, 3), 3
IMAGES = np.random.default_rng(0).normal(size=(32, *SHAPE)).astype(np.float32)
LABELS = (np.arange(32) % CLASSES).astype(np.int32)


@pytest.fixture(autouse=True)
def seeded():
    """The same random weights every time."""
    keras.utils.set_random_seed(1)


def net(*top):
    return keras.Sequential([keras.Input(SHAPE), L.Flatten(), *top])


def functional(head):
    """A network of two layers below a function of their tensor."""
    images = keras.Input(SHAPE)
    hidden = L.Dense(6, activation="relu")(L.Flatten()(images))
    return keras.Model(images, head(hidden))


def convolutional(*top):
    conv = L.Conv2D(CLASSES, 1, name="conv10", bias_initializer="normal")
    return keras.Sequential([keras.Input(SHAPE), conv, *top])


def dense(activation=None, bias_initializer="normal", **options):
    return L.Dense(CLASSES, activation, bias_initializer=bias_initializer, **options)


def constant(value):
    return keras.initializers.Constant(value)


@keras.saving.register_keras_serializable("test_outputs")
class Half(L.Layer):
    """Another function in a layer of one's own."""

    def call(self, x):
        return x / 2.0


class Squashed(L.Layer):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, x):
        return self.function(x)


class Head(L.Layer):
    """A dense layer and what comes behind it, in one layer of one's own."""

    def __init__(self, function=None, **options):
        super().__init__()
        self.dense, self.function = dense(**options), function or (lambda x: x)

    def call(self, x):
        return self.function(self.dense(x))


class DividingSequential(keras.Sequential):
    def call(self, x, training=None, mask=None):
        return super().call(x / 255.0, training=training)


class DividingFunctional(keras.Model):
    def call(self, x, training=None, mask=None):
        return super().call(x / 255.0, training=training)


# Probabilities whose activation can be left out


def in_a_nested_network(x):
    inputs = keras.Input((6,))
    return keras.Model(inputs, dense("softmax")(inputs))(x)


def under_two_nested_networks(x):
    inner = keras.Sequential([keras.Input((6,)), dense(), L.Softmax()])
    outer = keras.Sequential([keras.Input((6,)), inner, L.Reshape((CLASSES,))])
    return L.Activation("linear")(outer(x))


def per_step(x):
    x = L.Reshape((1, 6))(x)
    return L.Flatten()(L.TimeDistributed(dense("softmax"))(x))


SOFTMAXES = {
    "fused": lambda x: dense("softmax")(x),
    "of TensorFlow": lambda x: dense(tf.nn.softmax)(x),
    "a layer as activation": lambda x: dense(L.Softmax())(x),
    "an activation layer as activation": lambda x: dense(L.Activation("softmax"))(x),
    "a function": lambda x: dense(lambda z: keras.ops.softmax(z, axis=-1))(x),
    "a partial": lambda x: dense(functools.partial(tf.nn.softmax, axis=-1))(x),
    "then reshaped": lambda x: L.Reshape((CLASSES,))(dense("softmax")(x)),
    "then reshaped by an operation": lambda x: keras.ops.reshape(
        dense("softmax")(x), (-1, CLASSES)
    ),
    "then nothing": lambda x: L.Identity()(dense("softmax")(x)),
    "then cast": lambda x: keras.ops.cast(dense("softmax")(x), "float64"),
    "then linear": lambda x: L.Activation("linear", dtype="float32")(
        dense("softmax", dtype="mixed_float16")(x)
    ),
    "then dropout and noise": lambda x: L.GaussianNoise(1.0)(
        L.Dropout(0.5)(L.Softmax()(dense()(x)))
    ),
    "then no gradient": lambda x: keras.ops.stop_gradient(dense("softmax")(x)),
    "over axis 1": lambda x: L.Softmax(axis=1)(dense()(x)),
    "an operation": lambda x: keras.ops.softmax(dense()(x)),
    "spectral": lambda x: L.SpectralNormalization(dense("softmax"))(x),
    "per step": per_step,
    "of a convolution": lambda x: L.GlobalAveragePooling2D()(
        L.Conv2D(CLASSES, 1, activation="softmax")(L.Reshape((1, 1, 6))(x))
    ),
    "of an einsum": lambda x: L.EinsumDense(
        "ab,bc->ac", CLASSES, bias_axes="c", activation="softmax"
    )(x),
    "in a nested network": in_a_nested_network,
    "under two nested networks": under_two_nested_networks,
}
LOG_SOFTMAXES = {
    "fused": lambda x: dense("log_softmax")(x),
    "of TensorFlow": lambda x: dense(tf.nn.log_softmax)(x),
    "an operation": lambda x: keras.ops.log_softmax(dense()(x)),
}
SIGMOIDS = {
    "fused": lambda x: dense("sigmoid")(x),
    "of TensorFlow": lambda x: dense(tf.sigmoid)(x),
    "a layer as activation": lambda x: dense(L.Activation("sigmoid"))(x),
    "then cast": lambda x: keras.ops.cast(dense("sigmoid")(x), "float64"),
    "an operation": lambda x: keras.ops.sigmoid(dense()(x)),
    "spectral": lambda x: L.SpectralNormalization(dense("sigmoid"))(x),
    "per step": lambda x: L.Flatten()(
        L.TimeDistributed(dense("sigmoid"))(L.Reshape((1, 6))(x))
    ),
    "its logarithm": lambda x: dense("log_sigmoid")(x),
    "hard": lambda x: dense("hard_sigmoid")(x),
    "hard, an operation": lambda x: keras.ops.hard_sigmoid(dense()(x)),
    "sparse": lambda x: dense("sparse_sigmoid")(x),
}

# Probabilities whose logits are out of reach


def mean_of_several(x):
    return L.Average()([dense("softmax")(x), dense("softmax")(x)])


def mean_by_operations(x):
    return 0.3 * dense("softmax")(x) + 0.7 * keras.ops.softmax(dense()(x))


def softmax_by_operations(x):
    x = keras.ops.exp(dense()(x))
    return x / keras.ops.sum(x, axis=-1, keepdims=True)


def mean_over_places(x):
    maps = L.Conv2D(CLASSES, 1, activation="softmax")(L.Reshape((2, 3, 1))(x))
    return L.GlobalAveragePooling2D()(maps)


def in_a_nested_subclass(x):
    inner = DividingSequential([keras.Input((6,)), dense("softmax")])
    return inner(x)


STUCK = {
    "a Lambda": lambda x: L.Lambda(lambda z: tf.nn.softmax(z))(dense()(x)),
    "a Lambda, then reshaped": lambda x: L.Reshape((CLASSES,))(
        L.Lambda(tf.nn.softmax)(dense()(x))
    ),
    "a layer of one's own": lambda x: Squashed(tf.nn.softmax)(dense()(x)),
    "a head of one's own": lambda x: Head(tf.nn.softmax)(x),
    "a head of one's own without weights yet": lambda x: Head(
        tf.nn.softmax, kernel_initializer="zeros"
    )(x),
    "the mean of several": mean_of_several,
    "the mean by operations": mean_by_operations,
    "by operations": softmax_by_operations,
    "the mean over places": mean_over_places,
    "at a temperature": lambda x: dense(lambda z: tf.nn.softmax(z / 2.0))(x),
    "a nested subclass": in_a_nested_subclass,
    "half precision": lambda x: L.Lambda(tf.nn.softmax, dtype="bfloat16")(dense()(x)),
    "logarithms": lambda x: L.Lambda(tf.nn.log_softmax)(dense()(x)),
    "sparsemax, then clipped": lambda x: keras.ops.clip(
        dense("sparsemax")(x), 1e-7, 1.0
    ),
    "sigmoids in a Lambda": lambda x: L.Lambda(tf.sigmoid)(dense()(x)),
    "sigmoids, clipped": lambda x: keras.ops.clip(dense("sigmoid")(x), 0.01, 0.99),
    "sigmoids in a layer of one's own": lambda x: Squashed(tf.sigmoid)(dense()(x)),
    "sigmoids, the mean of two": lambda x: L.Average()(
        [dense("sigmoid")(x), dense("sigmoid")(x)]
    ),
    "sigmoids, the largest of places": lambda x: L.GlobalMaxPooling2D()(
        L.Conv2D(CLASSES, 1, activation="sigmoid")(L.Reshape((2, 3, 1))(x))
    ),
}

# Heads of logits


def attention_over_places(x):
    """Logits of places, their mean by a softmax over the places."""
    maps = L.Conv2D(CLASSES, 1)(L.Reshape((2, 3, 1))(x))
    weights = L.Softmax(axis=[1, 2])(L.Conv2D(1, 1)(L.Reshape((2, 3, 1))(x)))
    return keras.ops.sum(maps * weights, axis=(1, 2))


HEADS = {
    "plain": lambda x: dense()(x),
    "scaled": lambda x: dense()(x) * 0.001,
    "scaled by a layer": lambda x: L.Rescaling(1 / 255)(dense()(x)),
    "capped": lambda x: 30.0 * keras.ops.tanh(dense()(x) / 30.0),
    "capped to 1": lambda x: dense("tanh")(x),
    "capped in a Lambda": lambda x: L.Lambda(lambda z: 10.0 * tf.tanh(z))(dense()(x)),
    "normalized": lambda x: L.UnitNormalization()(dense()(x)),
    "normalized without a negative": lambda x: L.UnitNormalization()(dense("relu")(x)),
    "normalized in a Lambda": lambda x: L.Lambda(
        lambda z: tf.math.l2_normalize(tf.nn.relu(z), axis=-1)
    )(dense()(x)),
    "layer norm": lambda x: L.LayerNormalization()(dense()(x)),
    "batch norm": lambda x: L.BatchNormalization()(dense()(x)),
    "cast": lambda x: keras.ops.cast(dense(dtype="mixed_float16")(x), "float32"),
    "zeros": lambda x: L.Dense(CLASSES, kernel_initializer="zeros")(x),
    "zeros in a Lambda": lambda x: L.Lambda(lambda z: z)(
        L.Dense(CLASSES, kernel_initializer="zeros")(x)
    ),
    "zeros in a layer of one's own": lambda x: Head(kernel_initializer="zeros")(x),
    "one constant": lambda x: L.Dense(
        CLASSES, kernel_initializer="zeros", bias_initializer="ones"
    )(x),
    "one constant in a layer of one's own": lambda x: Head(
        kernel_initializer="zeros", bias_initializer=constant(0.25)
    )(x),
    "relu": lambda x: dense("relu")(x),
    "relu, capped to 1": lambda x: L.ReLU(max_value=1.0)(dense()(x)),
    "softplus": lambda x: dense("softplus")(x),
    "relu, then the mean": lambda x: L.GlobalAveragePooling2D()(
        L.Conv2D(CLASSES, 1, activation="relu")(L.Reshape((2, 3, 1))(x))
    ),
    "distances": lambda x: -keras.ops.square(dense()(x)),
    "mean of several": lambda x: L.Average()([dense()(x), dense()(x)]),
    "gated": lambda x: dense()(x) * dense("sigmoid")(x),
    "gated from zero": lambda x: (
        L.Dense(CLASSES, kernel_initializer="zeros")(x) * dense("sigmoid")(x)
    ),
    "attention over places": attention_over_places,
    "softmax below": lambda x: dense()(L.Softmax()(x)),
    "a layer of one's own": lambda x: Half()(dense()(x)),
    "a head of one's own": lambda x: Head()(x),
    "logarithm of a sum": lambda x: keras.ops.logaddexp(dense()(x), dense()(x)),
    "nested": lambda x: keras.Sequential([keras.Input((6,)), dense()])(x),
}


@pytest.mark.parametrize("kind", [SOFTMAXES, LOG_SOFTMAXES, SIGMOIDS, STUCK])
def test_a_classifier_takes_no_network_that_returns_probabilities(kind):
    for name, head in kind.items():
        with pytest.raises(ValueError, match="must end in logits"):
            kt.GenerativeClassifier(functional(head))
            pytest.fail(name)


@pytest.mark.parametrize("name", HEADS)
def test_no_head_of_logits_is_taken_for_probabilities(name):
    network = functional(HEADS[name])
    kt.GenerativeClassifier(network)
    f = kt.unit(network, class_index=1)
    np.testing.assert_allclose(f(IMAGES), network(IMAGES)[:, 1], rtol=1e-3, atol=1e-5)


ROUNDING = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-24}


@pytest.mark.parametrize("kind", [slow(HEADS), SOFTMAXES, slow(SIGMOIDS)])
def test_a_class_is_read_inside_of_a_graph_as_outside(kind):
    """To a few roundings of the coarsest layer: a graph may fuse what it computes."""
    for name, head in kind.items():
        network = functional(head)
        f = kt.unit(network, class_index=1)
        inside = tf.function(f.__call__, autograph=False)(IMAGES)
        off = 4 * max(ROUNDING[layer.compute_dtype] for layer in network.layers)
        np.testing.assert_allclose(
            inside, f(IMAGES), 1e-4 + off, 1e-5 + off, err_msg=name
        )


def test_logits_of_an_application_are_not_taken_for_probabilities():
    network = keras.applications.MobileNetV2(
        weights=None, input_shape=(32, 32, 3), classes=4, classifier_activation=None
    )
    kt.GenerativeClassifier(network)


def test_logits_in_zero_to_one_on_ordinary_images_are_logits():
    """Of a model that can only be run, in [0, 1] on all images of pixels 0 ... 1."""
    for kind in (DividingFunctional, DividingSequential):
        images = keras.Input(SHAPE)
        top = L.Dense(CLASSES, bias_initializer=constant(0.5))
        network = (
            kind([images, L.Flatten(), top])
            if kind is DividingSequential
            else kind(images, top(L.Flatten()(images)))
        )
        within = network(np.abs(IMAGES) / np.abs(IMAGES).max())
        assert np.min(within) >= 0 and np.max(within) <= 1
        kt.GenerativeClassifier(network)


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_models_that_can_only_be_run_are_told_apart_by_what_they_return(activation):
    """Normalized, so that no image makes their logits large."""
    for seed in range(6):
        keras.utils.set_random_seed(seed)
        below = [keras.Input(SHAPE), L.Flatten(), L.LayerNormalization()]
        top = L.Dense(2 + seed % 2, activation)
        network = DividingSequential([*below, L.Dense(8), L.LayerNormalization(), top])
        if activation is None:
            kt.GenerativeClassifier(network)
            continue
        with pytest.raises(ValueError, match="sigmoid, by layer"):
            kt.GenerativeClassifier(network)


def assert_left_out(network, activation):
    """The activation of the class units is the output, and they are not the output."""
    units = [kt.unit(network, class_index=c) for c in range(CLASSES)]
    logits = np.stack([np.asarray(f(IMAGES)) for f in units], axis=1)
    output = tf.cast(network(IMAGES), tf.float32)
    made = activation(tf.constant(logits))
    np.testing.assert_allclose(made, output, rtol=2e-3, atol=1e-4)
    assert np.abs(logits - output).max() > 0.1


@pytest.mark.parametrize("name", SOFTMAXES)
def test_a_softmax_is_left_out_by_whatever_name(name):
    assert_left_out(functional(SOFTMAXES[name]), tf.nn.softmax)


@pytest.mark.parametrize("name", LOG_SOFTMAXES)
def test_a_log_softmax_is_left_out_by_whatever_name(name):
    assert_left_out(functional(LOG_SOFTMAXES[name]), tf.nn.log_softmax)


@pytest.mark.parametrize("name", SIGMOIDS)
def test_a_sigmoid_is_left_out_by_whatever_name(name):
    activation = {
        "its logarithm": tf.math.log_sigmoid,
        "hard": keras.activations.hard_sigmoid,
        "hard, an operation": keras.activations.hard_sigmoid,
        "sparse": keras.activations.sparse_sigmoid,
    }
    assert_left_out(functional(SIGMOIDS[name]), activation.get(name, tf.sigmoid))


@pytest.mark.parametrize("name", STUCK)
def test_probabilities_whose_logit_is_out_of_reach_are_refused_but_for_their_logarithm(
    name,
):
    network = functional(STUCK[name])
    with pytest.raises(ValueError, match="outputs that are probabilities.*posterior="):
        kt.unit(network, class_index=1)
    output = np.float32(network(IMAGES)[:, 1])
    log_p = output if name == "logarithms" else np.log(output)
    f = kt.unit(network, class_index=1, posterior=True)
    np.testing.assert_allclose(f(IMAGES), log_p, rtol=1e-2)


def test_the_posterior_of_every_sigmoid_is_the_logarithm_of_its_label():
    for name, head in SIGMOIDS.items():
        network = functional(head)
        f = kt.unit(network, class_index=1, posterior=True)
        output = np.float32(network(IMAGES)[:, 1])
        p = np.exp(output) if name == "its logarithm" else output
        log_p = np.log(np.maximum(p, np.finfo(np.float32).tiny))
        np.testing.assert_allclose(f(IMAGES), log_p, rtol=1e-4, atol=1e-6)


def test_one_sigmoid_is_a_unit_and_no_classifier():
    network = net(L.Dense(1, activation=L.Activation("sigmoid")))
    logit = kt.unit(network, class_index=0)(IMAGES)
    np.testing.assert_allclose(tf.sigmoid(logit), network(IMAGES)[:, 0], rtol=1e-5)
    with pytest.raises(ValueError, match="two classes"):
        kt.GenerativeClassifier(network)


def test_the_error_of_a_network_of_labels_says_why():
    with pytest.raises(ValueError, match="a label .* in \\[0, 1\\].* sigmoid"):
        kt.GenerativeClassifier(net(dense("sigmoid")))


def test_what_a_network_of_several_inputs_returns_is_found_as_well():
    inputs = [keras.Input(SHAPE, name="left"), keras.Input(SHAPE, name="right")]
    top = dense()(L.Flatten()(L.Add()(inputs)))
    kt.GenerativeClassifier(keras.Model(inputs, top))
    with pytest.raises(ValueError, match="must end in logits"):
        kt.GenerativeClassifier(keras.Model(inputs, L.Softmax()(top)))


def test_a_class_is_read_where_the_network_has_an_output_activation_inside_a_graph():
    """Also where the unit is traced, and where the images may have any size."""
    images = keras.Input((None, None, 3))
    top = L.Conv2D(CLASSES, 3, activation=L.Softmax())(images)
    top = L.Flatten()(L.GlobalAveragePooling2D(keepdims=True)(top))
    network = keras.Model(images, top)
    with pytest.raises(ValueError, match="outputs that are probabilities"):
        kt.unit(network, class_index=1, input_shape=SHAPE)
    network = functional(SOFTMAXES["a layer as activation"])
    f = kt.unit(network, class_index=1)
    np.testing.assert_allclose(tf.function(f.__call__)(IMAGES), f(IMAGES), rtol=1e-5)


def test_a_saved_network_that_returns_probabilities_is_named(tmp_path):
    path = tmp_path / "network.keras"
    for top, message in (
        ([dense("softmax", name="top"), L.Reshape((CLASSES,))], "a softmax, .*'top'"),
        ([L.SpectralNormalization(dense("sigmoid"), name="top")], "a sigmoid, .*'top'"),
    ):
        net(*top).save(path)
        with pytest.raises(ValueError, match=message):
            named.network(str(path), SHAPE, CLASSES)


# The bias that adds a constant per class


def nested(*layers_of_top):
    return keras.Sequential([keras.Input((192,)), *layers_of_top], name="nested")


def with_bias(name):
    """A network, and the variables that a generative step must leave as they are."""
    if name == "convolution":
        network = convolutional(L.GlobalAveragePooling2D())
        return network, [network.get_layer("conv10").bias]
    if name == "einsum":
        network = net(L.EinsumDense("ab,bc->ac", CLASSES, bias_axes="c"))
        return network, [network.layers[-1].bias]
    if name == "spectral":
        network = net(L.SpectralNormalization(dense()))
        return network, [network.layers[-1].layer.bias]
    if name == "per step":
        per_step = L.TimeDistributed(dense())
        network = net(L.Reshape((1, 192)), per_step, L.Reshape((CLASSES,)))
        return network, [per_step.layer.bias]
    if name == "batch normalization":
        network = net(dense(), L.BatchNormalization(beta_initializer="normal"))
        return network, [network.layers[-1].beta]
    if name == "mean of two":
        one, other = dense(), dense()
        images = keras.Input(SHAPE)
        x = L.Flatten()(images)
        network = keras.Model(images, L.Average()([one(x), other(x)]))
        return network, [one.bias, other.bias]
    if name == "linear twice":
        below, top = L.Dense(5, bias_initializer="normal"), dense()
        return net(below, top), [below.bias, top.bias]
    if name == "subclass":
        top = dense()
        network = DividingSequential([keras.Input(SHAPE), L.Flatten(), top])
        return network, [top.bias]
    top = dense()
    tops = {
        "plain": lambda: [top],
        "linear": lambda: [top, L.Activation("linear", dtype="float32")],
        "identity": lambda: [top, L.Identity()],
        "reshape": lambda: [top, L.Reshape((CLASSES,))],
        "scaled": lambda: [top, L.Rescaling(3.0)],
        "nested": lambda: [nested(L.Dense(5, activation="relu"), top)],
        "temperature": lambda: [top, L.Lambda(lambda z: z / 10.0)],
        "nested subclass": lambda: [DividingSequential([keras.Input((192,)), top])],
        "below a dropout": lambda: [L.Dropout(0.5), top],
    }
    return net(*tops[name]()), [top.bias]


CONSTANT = """
    plain linear identity reshape scaled temperature nested convolution einsum spectral
    subclass
""".split()
CONSTANT += ["per step", "batch normalization", "mean of two", "linear twice"]
CONSTANT += ["nested subclass", "below a dropout"]


def after_adam(network, objective="generative", steps=8):
    model = kt.GenerativeClassifier(network)
    model.compile(keras.optimizers.Adam(0.01), objective)
    model.fit(IMAGES, LABELS, batch_size=len(IMAGES) // steps, verbose=0)
    return model


@pytest.mark.parametrize("name", slow_but(CONSTANT[::6], CONSTANT))
def test_a_constant_per_class_stays_bit_for_bit_in_generative_training(name):
    network, biases = with_bias(name)
    before = [bias.numpy() for bias in biases]
    others = [v for v in network.trainable_variables if not any(v is b for b in biases)]
    moving = [variable.numpy() for variable in others]
    after_adam(network)
    for bias, value in zip(biases, before, strict=True):
        np.testing.assert_array_equal(bias, value)
    kernels = [
        (v, value)
        for v, value in zip(others, moving, strict=True)
        if v.name in ("kernel", "gamma")
    ]
    assert kernels and all(np.abs(v - value).max() > 0 for v, value in kernels)


def test_a_mixed_objective_trains_the_bias():
    network, (bias,) = with_bias("nested")
    before = bias.numpy()
    after_adam(network, 0.5)
    assert np.abs(bias - before).min() > 1e-3


def below_relu():
    conv = L.Conv2D(CLASSES, 1, activation="relu", bias_initializer="ones")
    return keras.Sequential(
        [keras.Input(SHAPE), conv, L.GlobalAveragePooling2D()]
    ), conv


def below_tanh():
    top = dense()
    return net(top, L.Activation("tanh")), top


def below_a_small_tanh():
    top = dense()
    return net(top, L.Lambda(lambda z: 1e-4 * tf.tanh(z)), L.Rescaling(1e4)), top


def below_dropout():
    """In training some images miss the bias, and others have it twice."""
    top = dense()
    return net(top, L.Dropout(0.5)), top


def used_twice():
    """Its output is the logits, and feeds a layer that is not linear."""
    top, images = dense(), keras.Input(SHAPE)
    x = top(L.Flatten()(images))
    return keras.Model(images, x + L.Dense(CLASSES)(L.Activation("relu")(x))), top


def applied_twice():
    """The same layer as the last one and below a relu."""
    top, images = dense(), keras.Input((1, 1, CLASSES))
    return keras.Model(images, top(L.ReLU()(top(L.Flatten()(images))))), top


def gated(sign):
    """Beside a branch whose weight must have a sign."""

    class Gate(L.Layer):
        def build(self, shape):
            self.weight = self.add_weight((), constant(sign), name="weight")

        def call(self, x):
            return tf.nn.relu(sign * self.weight) * tf.nn.relu(x)

    hidden, images = dense(), keras.Input(SHAPE)
    x = L.Flatten()(images)
    return keras.Model(images, L.Dense(CLASSES)(x) + Gate()(hidden(x))), hidden


def gated_by_a_positive_weight():
    return gated(1.0)


def gated_by_a_negative_weight():
    return gated(-1.0)


MOVED = [
    below_relu,
    below_tanh,
    below_a_small_tanh,
    below_dropout,
    used_twice,
    applied_twice,
    gated_by_a_positive_weight,
    gated_by_a_negative_weight,
]


@pytest.mark.parametrize("make", slow_but(MOVED[::4], MOVED))
def test_a_bias_that_is_no_constant_per_class_is_trained(make):
    network, layer = make()
    before = layer.bias.numpy()
    model = kt.GenerativeClassifier(network)
    model.compile(keras.optimizers.Adam(0.01), "generative")
    shape = network.input_shape[1:]
    images = np.random.default_rng(0).normal(size=(32, *shape)).astype(np.float32)
    model.fit(images, LABELS, batch_size=16, epochs=4, verbose=0)
    assert np.abs(layer.bias - before).min() > 1e-3


def test_building_a_classifier_changes_no_variable_of_the_network():
    network = net(
        L.SpectralNormalization(dense()), L.BatchNormalization(), L.Dropout(0.5)
    )
    before = [variable.numpy() for variable in network.variables]
    kt.GenerativeClassifier(network)
    for variable, value in zip(network.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


# A `call` of one's own


def subclasses():
    """Networks that divide pixels before their graph, and how each says it."""
    images = keras.Input(SHAPE)
    return [
        DividingSequential([keras.Input(SHAPE), L.Flatten(), dense()]),
        DividingFunctional(images, dense()(L.Flatten()(images))),
        keras.Sequential(
            [
                keras.Input(SHAPE),
                DividingSequential([keras.Input(SHAPE), L.Flatten(), L.Dense(4)]),
                dense(),
            ]
        ),
    ]


@pytest.mark.parametrize("number", range(3))
def test_a_model_with_a_call_of_its_own_is_read_by_its_call(number):
    network = subclasses()[number]
    images = 255.0 * IMAGES
    f = kt.unit(network, class_index=1)
    np.testing.assert_allclose(f(images), network(images)[:, 1], rtol=1e-5, atol=1e-5)
    log_p = kt.unit(network, class_index=1, posterior=True)
    expected = tf.nn.log_softmax(network(images))[:, 1]
    np.testing.assert_allclose(log_p(images), expected, rtol=1e-4, atol=1e-5)
    model = kt.GenerativeClassifier(network)
    np.testing.assert_array_equal(kt.unit(model, class_index=1)(images), f(images))


@pytest.mark.parametrize("kind", [DividingFunctional, DividingSequential])
def test_layers_inside_of_a_model_with_a_call_of_its_own_are_read_in_it(kind):
    images, conv = keras.Input(SHAPE), L.Conv2D(4, 3, activation="relu", name="conv")
    top = dense()
    network = (
        kind([images, conv, L.Flatten(), top])
        if kind is DividingSequential
        else kind(images, top(L.Flatten()(conv(images))))
    )
    outer = keras.Sequential([keras.Input(SHAPE), network, L.Dense(2)])
    expected = keras.ops.conv(IMAGES, conv.kernel)[:, 2, 1, 3]
    for f in (
        kt.unit(network, "conv:3", position=(2, 1)),
        kt.unit(outer, f"{network.name}/conv:3", position=(2, 1)),
    ):
        np.testing.assert_allclose(f(255.0 * IMAGES), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="graph of layers"):
        kt.receptive_field(network, "conv")


def test_a_subclass_that_ends_in_a_softmax_is_refused_but_for_its_logarithm():
    network = DividingSequential([keras.Input(SHAPE), L.Flatten(), dense("softmax")])
    with pytest.raises(ValueError, match="probabilities.*'layer:channel'"):
        kt.unit(network, class_index=1)
    with pytest.raises(ValueError, match="must end in logits"):
        kt.GenerativeClassifier(network)
    f = kt.unit(network, class_index=1, posterior=True)
    np.testing.assert_allclose(f(IMAGES), np.log(network(IMAGES))[:, 1], rtol=1e-5)


def test_a_subclass_of_any_other_method_has_its_graph():
    class Named(keras.Sequential):
        def train_step(self, data):
            return super().train_step(data)

    network = Named([keras.Input(SHAPE), L.Flatten(), dense("softmax")])
    assert_left_out(network, tf.nn.softmax)


def test_an_attribute_called_network_is_not_the_model():
    class Holder(keras.Model):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def call(self, x):
            return 2.0 * self.network(x)

    holder = Holder(net(dense()))
    f = kt.unit(holder, class_index=1, input_shape=SHAPE)
    np.testing.assert_allclose(f(IMAGES), holder(IMAGES)[:, 1], rtol=1e-5)
    network = net(dense())
    network.network = net(dense())
    f = kt.unit(network, class_index=1)
    np.testing.assert_array_equal(f(IMAGES), network(IMAGES)[:, 1])


def test_a_classifier_lends_its_network_unless_a_subclass_calls_something_else():
    class Same(kt.GenerativeClassifier):
        """Another training step, the same call."""

    class Doubled(kt.GenerativeClassifier):
        def call(self, images, training=False):
            return 2.0 * super().call(images, training)

    network = net(dense())
    plain = kt.unit(network, class_index=1)
    assert kt.unit(kt.GenerativeClassifier(network), class_index=1) == plain
    assert kt.unit(Same(network), class_index=1) == plain
    doubled = kt.unit(Doubled(network), class_index=1, input_shape=SHAPE)
    np.testing.assert_allclose(doubled(IMAGES), 2.0 * plain(IMAGES), rtol=1e-5)


# Before the activation


def convolution_channel(layer, **options):
    network = keras.Sequential([keras.Input(SHAPE), layer, L.Flatten(), dense()])
    return network, kt.unit(network, f"{layer.name}:1", position=(2, 3), **options)


def reads_before(activation):
    conv = functools.partial(L.Conv2D, 4, 3, bias_initializer="normal")
    as_object = L.Activation(activation)
    return [
        conv(activation=activation),
        conv(activation=as_object),
        L.SpectralNormalization(conv(activation=activation)),
        L.SpectralNormalization(conv(activation=as_object)),
        L.SpectralNormalization(L.SpectralNormalization(conv(activation=activation))),
    ]


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "softmax"])
@pytest.mark.parametrize("number", range(5))
def test_a_channel_is_read_before_an_activation_in_wrappers_and_objects(
    number, activation
):
    layer = reads_before(activation)[number]
    network, f = convolution_channel(layer)
    inner = layer
    while isinstance(inner, L.Wrapper):
        inner = inner.layer
    value = keras.ops.conv(IMAGES, inner.kernel) + inner.bias
    np.testing.assert_allclose(f(IMAGES), value[:, 2, 3, 1], rtol=1e-4, atol=1e-5)
    post = kt.unit(network, f"{layer.name}:1", position=(2, 3), activation="post")
    expected = keras.activations.get(activation)(value)[:, 2, 3, 1]
    np.testing.assert_allclose(post(IMAGES), expected, rtol=1e-4, atol=1e-5)


class OwnDense(L.Dense):
    def call(self, x):
        return 2.0 * super().call(x)


class OwnBlock(L.Layer):
    def __init__(self, activation, **options):
        super().__init__(**options)
        self.dense, self.activation = L.Dense(4), keras.activations.get(activation)

    def call(self, x):
        return self.activation(self.dense(x))


@pytest.mark.parametrize("make", [OwnBlock, functools.partial(OwnDense, 4)])
def test_a_layer_of_one_s_own_with_an_activation_is_not_read_before_it(make):
    network = net(make(activation="relu", name="own"), dense())
    with pytest.raises(ValueError, match="'own'.*activation='post'"):
        kt.unit(network, "own:1")
    f = kt.unit(network, "own:1", activation="post")
    expected = network.get_layer("own")(L.Flatten()(IMAGES))[:, 1]
    np.testing.assert_allclose(f(IMAGES), expected, rtol=1e-5)
    weightless = net(Squashed(tf.nn.relu), dense())
    weightless.layers[1].activation = tf.nn.relu
    kt.unit(weightless, f"{weightless.layers[1].name}:1")
    network = net(make(activation="linear", name="own"), dense())
    f = kt.unit(network, "own:1")
    expected = network.get_layer("own")(L.Flatten()(IMAGES))[:, 1]
    np.testing.assert_allclose(f(IMAGES), expected, rtol=1e-5)


# Served


@pytest.mark.parametrize("name", ["fused", "spectral", "hard", "its logarithm"])
def test_labels_are_served_with_their_own_probabilities(name):
    network = functional(SIGMOIDS[name])
    served = serving.ServedClassifier(network, 0.0, 1.0, ["a", "b", "c"])
    images = np.random.default_rng(0).integers(0, 256, (5, *SHAPE)).astype(np.uint8)
    answer = served.functions["serving_default"](image=tf.constant(images))
    assert sorted(answer) == ["logits", "probabilities"]
    output = network(images / np.float32(255))
    output = tf.exp(output) if name == "its logarithm" else output
    np.testing.assert_allclose(answer["probabilities"], output, rtol=1e-4)


def test_one_label_is_served_and_one_class_is_not():
    served = serving.ServedClassifier(
        net(L.Dense(1, activation="sigmoid")), 0.0, 1.0, ["face"]
    )
    assert not served.has_classes
    with pytest.raises(ValueError, match="two classes or more"):
        serving.ServedClassifier(net(L.Dense(1)), 0.0, 1.0, ["face"])


def test_a_calibration_of_another_model_is_not_added_twice():
    class Own(keras.Sequential):
        def build(self, shape):
            super().build(shape)
            self.calibration_bias = self.add_weight(
                shape=(CLASSES,), initializer="ones", name="own"
            )

        def call(self, x, training=None, mask=None):
            return super().call(x) + self.calibration_bias * 5.0

    network = Own([keras.Input(SHAPE), L.Flatten(), dense()])
    served = serving.ServedClassifier(network, 0.0, 255.0, ["a", "b", "c"])
    images = np.zeros([2, *SHAPE], np.uint8)
    answer = served.functions["serving_default"](image=tf.constant(images))
    np.testing.assert_allclose(answer["logits"], network(images * 1.0), rtol=1e-5)


def test_a_network_of_several_outputs_is_not_served_and_no_classifier():
    images = keras.Input(SHAPE)
    x = L.Flatten()(images)
    network = keras.Model(images, [dense()(x), dense("softmax")(x)])
    for use in (
        lambda: kt.unit(network, class_index=1),
        lambda: serving.ServedClassifier(network, 0.0, 1.0, ["a", "b", "c"]),
        lambda: kt.GenerativeClassifier(network),
    ):
        with pytest.raises(
            ValueError, match=r"one output.*None, 3.*None, 3.*outputs\[0"
        ):
            use()


def test_reading_outputs_is_silent(recwarn):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kt.unit(functional(SOFTMAXES["fused"]), class_index=1)(IMAGES)
        kt.GenerativeClassifier(functional(HEADS["gated"]))
