"""Receptive fields: what a cell sees is where its gradient is, and all it needs."""

import functools
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import slow_but
from keras import layers

import keras_tilt as kt
from keras_tilt.cli import named
from keras_tilt.networks import graph
from keras_tilt.networks.receptive_fields import (
    ReceptiveField,
    layers_of,
    receptive_field,
)
from keras_tilt.units.selection import unit

SHAPE = (30, 26, 2)
SEEDS = range(24)
# Of random graphs a sixth is quick; the slow ones are more of the same.
some_seeds = pytest.mark.parametrize("seed", slow_but(range(3), SEEDS))


# Random graphs


def positive(rng, layer, **arguments):
    """A layer of positive weights: no path from a pixel to a cell cancels another."""
    weights = keras.initializers.RandomUniform(0.5, 1.5, seed=int(rng.integers(1e6)))
    names = {
        layers.Conv2D: ["kernel_initializer"],
        layers.Conv2DTranspose: ["kernel_initializer"],
        layers.DepthwiseConv2D: ["depthwise_initializer"],
        layers.SeparableConv2D: ["depthwise_initializer", "pointwise_initializer"],
    }
    return layer(**dict.fromkeys(names[layer], weights), **arguments)


def convolution(rng, x):
    kernel = tuple(int(k) for k in rng.integers(1, 5, size=2))
    stride = int(rng.integers(1, 3))
    dilation = int(rng.integers(1, 3)) if stride == 1 else 1
    arguments = {
        "kernel_size": kernel,
        "strides": stride,
        "dilation_rate": dilation,
        "padding": rng.choice(["valid", "same"]),
        "activation": "relu",
    }
    kind = rng.choice([layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D])
    if kind is not layers.DepthwiseConv2D:
        arguments["filters"] = 2
    return positive(rng, kind, **arguments)(x)


def pooling(rng, x):
    kind = rng.choice([layers.MaxPooling2D, layers.AveragePooling2D])
    size = tuple(int(k) for k in rng.integers(1, 4, size=2))
    stride, padding = int(rng.integers(1, 3)), rng.choice(["valid", "same"])
    return kind(size, strides=stride, padding=padding)(x)


def shift(rng, x):
    (top, bottom, left, right) = (int(p) for p in rng.integers(0, 3, size=4))
    kind = rng.choice([layers.ZeroPadding2D, layers.Cropping2D])
    return kind(((top, bottom), (left, right)))(x)


def enlarging(rng, x):
    """Kernels at least as long as the stride: every cell of the result is reached."""
    up = tuple(int(k) for k in rng.integers(1, 4, size=2))
    if rng.random() < 0.5:
        kind = rng.choice(["nearest", "bilinear"])
        return layers.UpSampling2D(up, interpolation=kind)(x)
    kernel = tuple(s + int(k) for s, k in zip(up, rng.integers(0, 4, 2), strict=True))
    arguments = {"kernel_size": kernel, "strides": up, "filters": 2}
    arguments["padding"] = rng.choice(["valid", "same"])
    if rng.random() < 0.3:
        arguments["output_padding"] = tuple(s - 1 for s in up)
    return positive(rng, layers.Conv2DTranspose, **arguments)(x)


def pointwise(rng, x):
    kinds = [
        lambda x: layers.BatchNormalization()(x),
        lambda x: layers.ReLU()(layers.Rescaling(2.0, 1.0)(x)),
        lambda x: layers.LeakyReLU()(layers.Dropout(0.5)(x)),
        lambda x: keras.ops.relu(x * 3.0 + np.ones(2, "float32")),
        lambda x: keras.ops.sqrt(x[..., ::-1]),
        lambda x: keras.ops.concatenate(keras.ops.split(x, 2, axis=-1)[::-1], axis=-1),
    ]
    return kinds[rng.integers(len(kinds))](x)


def residual(rng, x):
    kernel = int(rng.integers(2, 4))
    y = positive(rng, layers.Conv2D, filters=2, kernel_size=kernel, padding="same")(x)
    merge = rng.choice([layers.Add, layers.Average, layers.Maximum])
    return merge()([x, layers.ReLU()(y)])


def inception(rng, x):
    """Branches of kernels 1, 3 and a pooling, of one stride."""
    stride = int(rng.integers(1, 3))
    same = {"strides": stride, "padding": "same"}
    one = positive(rng, layers.Conv2D, filters=1, kernel_size=1, **same)(x)
    three = positive(rng, layers.Conv2D, filters=2, kernel_size=1)(x)
    three = positive(rng, layers.Conv2D, filters=1, kernel_size=3, **same)(three)
    pooled = layers.MaxPooling2D(2, **same)(x)
    x = layers.Concatenate()([one, three, pooled])
    return positive(rng, layers.Conv2D, filters=2, kernel_size=1)(x)


def nested(rng, x):
    inputs = keras.Input(x.shape[1:])
    return keras.Model(inputs, convolution(rng, residual(rng, inputs)))(x)


BLOCKS = [convolution, convolution, pooling, shift, pointwise]
BLOCKS += [residual, inception, nested]


def random_network(seed, shape=SHAPE, signed=False, last=()):
    """A random graph of four blocks, or fewer and the last; its last layer is "top"."""
    rng = np.random.default_rng(seed)
    inputs = x = keras.Input(shape)
    size = 1 if last else 4
    first = rng.choice(len(BLOCKS), size=size, replace=False)
    for block in (*(BLOCKS[i] for i in first), *last):
        x = block(rng, x)
    network = keras.Model(inputs, layers.Activation("linear", name="top")(x))
    if signed:
        for weight in network.trainable_weights:
            weight.assign(rng.normal(size=weight.shape) / np.sqrt(weight.shape[0]))
    return network


def shape_of(network):
    return tuple(int(s) for s in network.output.shape[1:3])


# The gradient's support


def seen_pixels(f, shape):
    """Where the gradient of f is not zero: [rows, columns].

    Each pixel in turn is by far the brightest of its image, so that maxima choose what
    it contributes to.
    """
    rows, columns, channels = shape
    spikes = 1e12 * np.eye(rows * columns).reshape(-1, rows, columns, 1)
    images = tf.constant(np.ones(shape) + spikes, tf.float32)

    @tf.function  # which leaves out the gradients of the weights
    def gradient_of(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            values = f(images)
        return tape.gradient(values, images)

    gradient = tf.reduce_sum(tf.abs(gradient_of(images)), axis=3)
    own = tf.linalg.diag_part(tf.reshape(gradient, [rows * columns] * 2))
    return own.numpy().reshape(rows, columns) != 0


def box(seen):
    """((first row, end), (first column, end)) of what is seen."""
    places = (np.flatnonzero(seen.any(axis=other)) for other in (1, 0))
    return tuple((int(p[0]), int(p[-1]) + 1) for p in places)


def clipped(window, shape):
    return tuple(
        (max(a, 0), min(end, s)) for (a, end), s in zip(window, shape, strict=False)
    )


def is_inside(window, shape, margin=6):
    """Far enough from the edges, so that no layer between reads padding either."""
    return all(
        margin <= a and end <= size - margin
        for (a, end), size in zip(window, shape, strict=False)
    )


@some_seeds
def test_a_cell_sees_the_pixels_where_its_gradient_is(seed):
    network = random_network(seed)
    field = receptive_field(network, "top")
    rows, columns = shape_of(network)
    for cell in ((rows // 2, columns // 2), (0, 0), (rows - 1, columns - 1)):
        window = field.window(*cell)
        seen = seen_pixels(unit(network, "top:0", position=cell), SHAPE)
        (top, bottom), (left, right) = clipped(window, SHAPE)
        assert not np.delete(seen, np.s_[top:bottom], axis=0).any()
        assert not np.delete(seen, np.s_[left:right], axis=1).any()
        if is_inside(window, SHAPE):
            assert box(seen) == window


def test_many_of_the_random_graphs_have_a_cell_inside():
    """Otherwise the test above would say little."""
    inside = 0
    for seed in SEEDS:
        network = random_network(seed)
        rows, columns = shape_of(network)
        field = receptive_field(network, "top")
        inside += is_inside(field.window(rows // 2, columns // 2), SHAPE)
    assert inside >= len(SEEDS) // 2


def test_the_edges_of_the_image_cut_the_window():
    inputs = keras.Input(SHAPE)
    rng = np.random.default_rng(0)
    x = positive(rng, layers.Conv2D, filters=1, kernel_size=5, padding="same")(inputs)
    network = keras.Model(inputs, layers.Identity(name="top")(x))
    field = receptive_field(network, "top")
    assert field.window(0, 25) == ((-2, 3), (23, 28))
    seen = seen_pixels(unit(network, "top:0", position=(0, 25)), SHAPE)
    assert box(seen) == clipped(field.window(0, 25), SHAPE) == ((0, 3), (23, 26))


@pytest.mark.parametrize("size", [9, 10, 11, 12])
def test_same_padding_depends_on_the_size_of_the_image(size):
    """TensorFlow: (ceil(n / s) - 1) s + k - n cells, the smaller half in front."""
    inputs = keras.Input((size, 20, 1))
    layer = layers.Conv2D(1, (4, 3), (3, 2), padding="same", name="conv")
    field = receptive_field(keras.Model(inputs, layer(inputs)), "conv")
    added = {9: 1, 10: 3, 11: 2, 12: 1}[size]
    assert field == ReceptiveField((4, 3), (3, 2), (-(added // 2), 0))


# Closed forms


# Enlarged maps

SMALL = (16, 14, 2)


def decoder(seed, shape=SMALL, signed=False):
    """A random graph that ends in layers of which two make the map larger."""
    last = [enlarging, residual, enlarging, pooling]
    return random_network(seed, shape, signed, last[seed % 2 :])


@pytest.mark.parametrize("seed", slow_but(range(2), range(8)))
def test_a_cell_of_an_enlarged_map_sees_the_pixels_where_its_gradient_is(seed):
    network = decoder(seed)
    field = receptive_field(network, "top")
    rows, columns = shape_of(network)
    middle = rows // 2, columns // 2
    for cell in (middle, (middle[0] + 1, middle[1] - 1), (0, columns - 1)):
        window = field.window(*cell)
        seen = seen_pixels(unit(network, "top:0", position=cell), SMALL)
        (top, bottom), (left, right) = clipped(window, SMALL)
        assert not np.delete(seen, np.s_[top:bottom], axis=0).any()
        assert not np.delete(seen, np.s_[left:right], axis=1).any()
        if is_inside(window, SMALL, margin=2):
            assert box(seen) == window
            assert all(
                end - a <= size
                for (a, end), size in zip(window, field.size, strict=True)
            )


@pytest.mark.parametrize("seed", slow_but(range(2), range(8)))
def test_the_crop_of_an_enlarged_map_is_its_unit(seed):
    shape = (60, 56, 2)
    network = decoder(seed, shape, signed=True)
    field = receptive_field(network, "top")
    rows, columns = shape_of(network)
    x = normal_images(shape)
    for step in range(3):
        cell = rows // 2 + step, columns // 2 - step
        (top, bottom), (left, right) = window = field.window(*cell)
        assert is_inside(window, shape)
        f = unit(network, "top:1", position=cell)
        assert f.crop().input_shape == (bottom - top, right - left, 2)
        cropped = crop_and_patch(f, field, cell, x)
        scale = np.max(np.abs(network(x)))
        np.testing.assert_allclose(cropped, f(x), rtol=1e-5, atol=1e-5 * scale)


def test_cells_of_an_enlarged_map_see_windows_that_repeat():
    inputs = keras.Input((8, 9, 1))
    x = layers.UpSampling2D((2, 3))(inputs)
    x = layers.Conv2D(1, (3, 3), padding="same", name="conv")(x)
    x = layers.MaxPooling2D((2, 3), name="pool")(x)
    network = keras.Model(inputs, x)
    field = receptive_field(network, "conv")
    assert (field.size, field.stride) == ((2, 2), (1 / 2, 1 / 3))
    columns = [field.window(0, i)[1] for i in range(5)]
    assert columns == [(-1, 1), (0, 1), (0, 2), (0, 2), (1, 2)]
    rows, _ = field.center(np.arange(4), 0)
    np.testing.assert_array_equal(rows, [-0.5, 0.5, 0.5, 1.5])
    assert receptive_field(network, "pool") == ReceptiveField((3, 3), (1, 1), (-1, -1))


def test_a_skip_connection_of_a_segmentation_network_meets_an_enlarged_map():
    """As in a U-Net."""
    rng = np.random.default_rng(0)
    inputs = keras.Input((24, 24, 1))
    same = {"kernel_size": 3, "padding": "same", "filters": 1}
    x = fine = positive(rng, layers.Conv2D, **same)(inputs)
    x = positive(rng, layers.Conv2D, **same)(layers.MaxPooling2D(2)(x))
    x = positive(rng, layers.Conv2DTranspose, filters=1, kernel_size=2, strides=2)(x)
    network = keras.Model(inputs, layers.Concatenate(name="top")([fine, x]))
    field = receptive_field(network, "top")
    images = normal_images((24, 24, 1))
    for cell in ((11, 12), (12, 11)):
        f = unit(network, "top:0", position=cell) + unit(
            network, "top:1", position=cell
        )
        assert box(seen_pixels(f, (24, 24, 1))) == field.window(*cell)
        cropped = crop_and_patch(f, field, cell, images)
        np.testing.assert_allclose(cropped, f(images), rtol=1e-5)


def test_interpolation_by_more_than_two_cells_is_not_known():
    inputs = keras.Input((12, 12, 1))
    bicubic = layers.UpSampling2D(2, interpolation="bicubic", name="up")
    with pytest.raises(ValueError, match="layer 'up', UpSampling2D, which moves"):
        receptive_field(keras.Model(inputs, bicubic(inputs)), "up")


# Layers that are not known


@keras.saving.register_keras_serializable("tests")
class Scaled(layers.Layer):
    """Each channel times a weight, which may be 0 before training."""

    def __init__(self, mix=None, shape=None, **kwargs):
        super().__init__(**kwargs)
        self.mix, self.shape = mix, shape

    def build(self, shape):
        self.scale = self.add_weight(
            shape=self.shape or shape[-1:], initializer="zeros"
        )

    def call(self, x):
        return x + self.scale * (x if self.mix is None else self.mix(x))

    def compute_output_shape(self, shape):
        return shape


def attention(x):
    tokens = keras.ops.reshape(x, (-1, x.shape[1] * x.shape[2], x.shape[3]))
    weights = keras.ops.softmax(tokens @ keras.ops.swapaxes(tokens, 1, 2) / 10.0)
    return keras.ops.reshape(weights @ tokens, keras.ops.shape(x))


def with_a_layer(layer, shape=(12, 11, 2)):
    inputs = keras.Input(shape)
    x = layer(layers.Conv2D(3, 3, name="conv")(inputs))
    return keras.Model(inputs, layers.Conv2D(2, 3, name="top")(x))


@pytest.mark.parametrize(
    "layer",
    [
        lambda: Scaled(),
        lambda: Scaled(keras.ops.tanh),
        lambda: layers.Lambda(lambda x: x[..., ::-1] ** 2),
        lambda: layers.TimeDistributed(layers.TimeDistributed(layers.Dense(4))),
        lambda: layers.EinsumDense("nhwc,cd->nhwd", (None, None, 4)),
        lambda: keras.Sequential([layers.Dense(4, "relu"), layers.Dense(3)]),
    ],
)
def test_a_layer_is_found_to_act_on_each_place_alone(layer):
    network = with_a_layer(layer())
    assert receptive_field(network, "top") == ReceptiveField((5, 5), (1, 1), (0, 0))
    f = unit(network, "top:1", position=(3, 4))
    assert box(support(f, (12, 11, 2))) == ((3, 8), (4, 9))
    x = normal_images((12, 11, 2))
    np.testing.assert_allclose(f.crop()(x[:, 3:8, 4:9]), f(x), rtol=1e-4, atol=1e-5)


def support(f, shape):
    """Where the gradient of f is not zero at an image without pattern."""
    x = normal_images(shape, n=1)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = f(x)
    return np.any(tape.gradient(y, x)[0] != 0, axis=-1)


def gate(x):
    return x * keras.ops.sigmoid(keras.ops.mean(x, axis=(1, 2), keepdims=True))


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.GroupNormalization(1),
        lambda: layers.LayerNormalization(axis=(1, 2, 3)),
        lambda: Scaled(attention),
        lambda: Scaled(gate),
        lambda: layers.Lambda(gate),
    ],
)
def test_a_layer_is_found_to_see_the_whole_map_whatever_its_weights(layer):
    network = with_a_layer(layer())
    whole = ReceptiveField((12, 11), (0, 0), (0, 0))
    assert receptive_field(network, "top") == whole
    with pytest.raises(ValueError, match="which makes it see the whole"):
        unit(network, "top:0").crop()
    for weight in network.layers[2].weights:  # a scale of 0 hides what it mixes
        weight.assign_add(tf.fill(weight.shape, 0.5))
    assert support(unit(network, "top:0"), (12, 11, 2)).all()


@pytest.mark.parametrize(
    "layer",
    [
        lambda: Scaled(lambda x: keras.ops.flip(x, axis=1)),
        lambda: Scaled(lambda x: keras.ops.roll(x, 1, axis=2)),
        lambda: Scaled(lambda x: keras.ops.max_pool(x, 3, 1, "same")),
        lambda: Scaled(lambda x: 1e-3 * keras.ops.max(x, axis=1, keepdims=True)),
        lambda: layers.Lambda(lambda x: keras.ops.transpose(x, (0, 2, 1, 3))),
        lambda: layers.Lambda(lambda x: x[:, ::2, ::2]),
    ],
)
def test_a_layer_that_mixes_some_places_is_named(layer):
    network = with_a_layer(layer())
    name = network.layers[2].name
    with pytest.raises(ValueError, match=f"'{name}', .*, which moves places of its"):
        receptive_field(network, "top")
    assert receptive_field(network, "conv").size == (3, 3)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: Scaled(shape=(10, 9, 3)),
        lambda: Scaled(shape=(9, 1)),
        lambda: layers.BatchNormalization(axis=1),
    ],
)
def test_a_layer_of_weights_for_each_place_has_a_receptive_field_and_no_crop(layer):
    network = with_a_layer(layer())
    assert receptive_field(network, "top").size == (5, 5)
    with pytest.raises(ValueError, match="with weights for each place"):
        unit(network, "top:0").crop()


class Standardised(layers.Conv2D):
    """A convolution with a `call` of its own, that sees what a convolution sees."""

    def call(self, x):
        mean, variance = tf.nn.moments(self.kernel.value, [0, 1, 2])
        kernel = (self.kernel - mean) / tf.sqrt(variance + 1e-6)
        made = tf.nn.conv2d(x, kernel, self.strides, self.padding.upper())
        return self.activation(made + self.bias)


class Blurred(layers.Conv2D):
    """One that sees more than it says."""

    def call(self, x):
        return super().call(keras.ops.average_pool(x, 3, 1, "same"))


class Turned(layers.MaxPooling2D):
    """One that says where it does not see."""

    def call(self, x):
        return super().call(keras.ops.flip(x, axis=1))


class Mirrored(layers.Activation):
    """No activation but by name."""

    def call(self, x):
        return super().call(keras.ops.flip(x, axis=2))


class Doubled(layers.Activation):
    """An activation with a `call` of its own."""

    def call(self, x):
        return 2.0 * super().call(x)


class Shifted(layers.ZeroPadding2D):
    """No padding but by name."""

    def call(self, x):
        return keras.ops.roll(super().call(x), 1, axis=1)


class Mean(layers.GlobalAveragePooling2D):
    """A mean of all places that keeps its axes, and adds them to the map."""

    def call(self, x):
        return x + keras.ops.mean(x, axis=(1, 2), keepdims=True)

    def compute_output_shape(self, shape):
        return shape


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("strides", [1, 2])
def test_a_convolution_with_a_call_of_its_own_is_one_if_it_sees_as_one(
    padding, strides
):
    mine = Standardised(3, 3, strides, padding, activation="relu", name="mine")
    plain = layers.Conv2D(3, 3, strides, padding, activation="relu", name="plain")
    shape = (24, 23, 2)
    field = receptive_field(with_a_layer(mine, shape), "top")
    assert field == receptive_field(with_a_layer(plain, shape), "top")
    f = unit(with_a_layer(mine, shape), "top:0", position=(4, 4))
    crop, images = f.crop(), np.random.default_rng(0).normal(size=(2, *shape))
    (top, end), (left, right) = field.window(4, 4)
    images = images.astype(np.float32)
    patch = images[:, top:end, left:right]
    np.testing.assert_allclose(crop(patch), f(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: Blurred(3, 3, padding="same", name="mine"),
        lambda: Blurred(3, 3, kernel_initializer="zeros", name="mine"),
        lambda: Turned(2, name="mine"),
        lambda: Mirrored("relu", name="mine"),
        lambda: Shifted(1, name="mine"),
    ],
)
def test_a_layer_whose_call_does_something_else_than_its_kind_is_named(layer):
    network = with_a_layer(layer())
    with pytest.raises(ValueError, match="Received: layer 'mine', .*, which "):
        receptive_field(network, "top")
    assert receptive_field(network, "conv").size == (3, 3)


def test_an_activation_with_a_call_of_its_own_acts_on_each_place():
    network = with_a_layer(Doubled("relu"))
    assert receptive_field(network, "top").size == (5, 5)
    assert unit(network, "top:0").crop().input_shape == (5, 5, 2)


def test_a_mean_that_keeps_its_places_sees_the_whole():
    whole = ReceptiveField((12, 11), (0, 0), (0, 0))
    assert receptive_field(with_a_layer(Mean()), "top") == whole


def refuse(x):
    tf.debugging.assert_less(x, 0.0)
    return x


def test_a_layer_that_cannot_be_tried_is_named_and_may_say_what_it_is():
    for mine, why in (
        (layers.Lambda(lambda x: x * np.nan), "makes no finite numbers"),
        (layers.Lambda(refuse, output_shape=(10, 9, 3)), "fails when"),
    ):
        network = with_a_layer(mine)
        with pytest.raises(ValueError, match=f"Lambda, which {why}.*`pointwise = Tr"):
            receptive_field(network, "top")
        mine.pointwise = True
        assert receptive_field(network, "top").size == (5, 5)


def test_a_trial_changes_no_weight_and_is_made_once_also_while_a_graph_is_built():
    calls = []
    network = with_a_layer(Scaled(lambda x: calls.append(1) or x))
    before = network.get_weights()
    calls.clear()
    f = tf.function(unit(network, "top:0").crop().__call__)
    first = len(calls)
    f(tf.zeros([2, 5, 5, 2]))
    assert 0 < first < len(calls) < first + 3
    for one, other in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("name", "layer", "size"),
    [
        ("ConvNeXtTiny", "convnext_tiny_stage_0_block_1_identity", 52),
        pytest.param("InceptionResNetV2", "block35_1_ac", 95, marks=pytest.mark.slow),
    ],
)
def test_blocks_of_keras_applications_are_cropped(name, layer, size):
    """They scale their residuals by layers of their own."""
    keras.utils.set_random_seed(0)  # of its weights: a ReLU may be off for good
    shape = (size + 64, size + 64, 3)
    builder = getattr(keras.applications, name)
    network = builder(weights=None, include_top=False, input_shape=shape)
    field = receptive_field(network, layer)
    rows, columns = network.get_layer(layer).output.shape[1:3]
    cell = rows // 2, columns // 2
    f, x = unit(network, f"{layer}:3", position=cell), normal_images(shape, n=2)
    assert field.size == (size, size)
    assert box(support(f, shape)) == field.window(*cell)
    cropped = crop_and_patch(f, field, cell, x)
    np.testing.assert_allclose(cropped, f(x), rtol=1e-3, atol=1e-4)


# The layers of a network


def can_be_cropped(network, path):
    try:
        unit(network, f"{path}:0").crop()
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("make", [random_network, decoder])
def test_layers_are_listed_with_what_they_see_and_whether_they_can_be_cropped(make):
    for seed in range(4):
        network = make(seed)
        listed = layers_of(network)
        assert {layer.name for layer in network.layers[1:]} <= {x.path for x in listed}
        for path, shape, channels, field, cropped in listed:
            assert shape == graph.find(network, path).node.output_tensors[0].shape[1:]
            assert channels == shape[-1]
            assert field == receptive_field(network, path).size
            assert cropped == can_be_cropped(network, path)


def test_layers_of_all_kinds_are_listed():
    inputs = keras.Input((12, 12, 1))
    x = layers.Conv2D(2, 3, name="conv")(inputs)
    shared = layers.Dense(2, name="shared")
    x = shared(shared(x))
    inner = keras.Sequential([keras.Input((10, 10, 2)), layers.ReLU(name="relu")])
    inner.name = "inner"
    x = layers.Lambda(lambda x: x[:, ::-1], name="flip")(inner(x))
    tokens = layers.Reshape((100, 2), name="tokens")(x)
    network = keras.Model(inputs, layers.Flatten(name="flat")(tokens))
    assert layers_of(network) == [
        ("conv", (10, 10, 2), 2, (3, 3), True),
        ("inner/relu", (10, 10, 2), 2, (3, 3), True),
        ("inner", (10, 10, 2), 2, (3, 3), True),
        ("flip", (10, 10, 2), 2, None, False),
        ("tokens", (100, 2), 2, None, False),
        ("flat", (200,), 200, None, False),
    ]
    assert layers_of(kt.GenerativeClassifier(alexnet(99))) == layers_of(alexnet(99))
    with pytest.raises(ValueError, match="functional or Sequential"):
        layers_of(keras.Sequential([layers.Dense(3)]))


def test_layers_of_several_inputs_or_of_unknown_size_have_no_receptive_field():
    one, other = keras.Input((12, 12, 1)), keras.Input((12, 12, 1))
    x = layers.Conv2D(2, 3, name="conv")(one)
    both = layers.Add(name="both")([one, other])
    network = keras.Model([one, other], [x, both])
    fields = {layer.path: layer.receptive_field for layer in layers_of(network)}
    assert fields == {"conv": (3, 3), "both": None}
    inputs = keras.Input((None, None, 1))
    x = layers.Conv2D(2, 3, padding="same", name="conv")(inputs)
    pooled = layers.GlobalMaxPooling2D(name="pool")(x)
    conv, pool = layers_of(keras.Model(inputs, pooled))
    assert conv == ("conv", (None, None, 2), 2, (3, 3), True)
    assert pool == ("pool", (2,), 2, None, False)


def test_hundreds_of_layers_are_listed_in_a_moment():
    network = keras.applications.EfficientNetB0(weights=None)
    start = time.perf_counter()
    listed = layers_of(network)
    assert time.perf_counter() - start < 5.0
    assert len(listed) > 200 and listed[-1].path == "predictions"
    assert None not in [layer.receptive_field for layer in listed]


@functools.cache
def alexnet(size=227):
    return kt.alexnet((size, size, 3), num_classes=5)


def test_alexnet_sees_11_51_99_131_163_pixels():
    network = alexnet()
    names = [f"conv{i}" for i in range(1, 6)]
    found = [receptive_field(network, name) for name in names]
    assert [f.size for f in found] == [(n, n) for n in (11, 51, 99, 131, 163)]
    assert [f.stride[0] for f in found] == [4, 8, 16, 16, 16]
    assert [f.start[0] for f in found] == [0, -16, -32, -48, -64]
    crops = [unit(network, f"{name}:3").crop().input_shape for name in names]
    assert crops == [(n, n, 3) for n in (11, 51, 99, 131, 163)]


def test_the_center_is_the_middle_of_the_window():
    field = ReceptiveField((3, 4), (2, 8), (-1, 5))
    assert field.window(0, 1) == ((-1, 2), (13, 17))
    assert field.center(0, 1) == (0.0, 14.5)
    rows, columns = field.center(np.arange(3), np.arange(2))
    np.testing.assert_array_equal(rows, [0, 2, 4])
    np.testing.assert_array_equal(columns, [6.5, 14.5])


@pytest.mark.parametrize("name", ["flat", "fc6", "gap", "kept", "average", "vector"])
def test_past_a_flatten_or_a_global_pooling_every_cell_sees_the_whole_image(name):
    inputs = keras.Input((28, 20, 1))
    x = layers.Conv2D(4, 3, 2, padding="same")(inputs)
    heads = [
        layers.Dense(3, name="fc6")(layers.Flatten(name="flat")(x)),
        layers.GlobalAveragePooling2D(name="gap")(x),
        layers.Conv2D(2, 1, name="kept")(layers.GlobalMaxPooling2D(keepdims=True)(x)),
        layers.Identity(name="average")(keras.ops.mean(x, axis=(1, 2))),
        layers.Reshape((-1,), name="vector")(x),
    ]
    field = receptive_field(keras.Model(inputs, heads), name)
    assert field == ReceptiveField((28, 20), (0, 0), (0, 0))


def test_a_gate_by_a_global_pooling_sees_the_whole_image():
    """Squeeze and excitation."""
    inputs = keras.Input((28, 20, 1))
    x = layers.Conv2D(4, 3)(inputs)
    gate = layers.Dense(4)(layers.GlobalAveragePooling2D(keepdims=True)(x))
    network = keras.Model(inputs, layers.Multiply(name="gated")([x, gate]))
    field = receptive_field(network, "gated")
    assert field == ReceptiveField((28, 20), (0, 0), (0, 0))


def test_a_map_of_one_cell_that_is_added_everywhere_is_seen_everywhere():
    inputs = keras.Input((12, 12, 1))
    one = layers.Conv2D(2, 12)(inputs)
    network = keras.Model(inputs, layers.Conv2D(2, 3)(inputs) + one)
    network = keras.Model(inputs, layers.Identity(name="sum")(network(inputs)))
    field = receptive_field(network, "sum")
    assert field == ReceptiveField((12, 12), (0, 0), (0, 0))


def test_a_nested_layer_is_named_by_its_path():
    inputs, inner = keras.Input((28, 28, 1)), keras.Input((26, 26, 2))
    backbone = keras.Sequential([inner, layers.Conv2D(2, 3, 2, name="conv")], name="b")
    x = backbone(layers.Conv2D(2, 3)(inputs))
    network = keras.Model(inputs, layers.Conv2D(1, 2, name="top")(x))
    assert receptive_field(network, "b/conv") == ReceptiveField((5, 5), (2, 2), (0, 0))
    assert receptive_field(network, "b") == receptive_field(network, "b/conv")
    assert receptive_field(network, "top") == ReceptiveField((7, 7), (2, 2), (0, 0))


def test_a_network_of_any_size_has_receptive_fields_where_they_depend_on_none():
    inputs = keras.Input((None, None, 1))
    x = layers.Conv2D(2, 3, 2, name="valid")(inputs)
    x = layers.Conv2D(2, 3, padding="same", name="same")(x)
    x = layers.MaxPooling2D(2, padding="same", name="strided")(x)
    network = keras.Model(inputs, [x, layers.GlobalMaxPooling2D(name="gap")(x)])
    assert receptive_field(network, "same") == ReceptiveField((7, 7), (2, 2), (-2, -2))
    with pytest.raises(ValueError, match="'strided' on maps of any size"):
        receptive_field(network, "strided")
    with pytest.raises(ValueError, match="of known size"):
        receptive_field(network, "gap")


# Crops


def crop_and_patch(f, field, position, images):
    """The response of the crop to the part of the images that f sees."""
    (top, bottom), (left, right) = field.window(*position)
    return f.crop()(images[:, top:bottom, left:right])


def normal_images(shape, n=4, seed=0):
    rng = np.random.default_rng(seed)
    return tf.constant(rng.normal(size=(n, *shape)), tf.float32)


@pytest.mark.parametrize("seed", slow_but(range(4, 8), SEEDS))
def test_the_crop_is_the_unit_wherever_it_sees_no_padding(seed):
    shape = (46, 42, 2)
    network = random_network(seed, shape, signed=True)
    field = receptive_field(network, "top")
    rows, columns = shape_of(network)
    inside = [
        (i, j)
        for i in range(rows)
        for j in range(columns)
        if is_inside(field.window(i, j), shape)
    ]
    x = normal_images(shape)
    assert inside
    for position in (inside[0], inside[len(inside) // 2], inside[-1]):
        f = unit(network, "top:1", position=position)
        assert f.crop().input_shape == (*field.size, 2)
        cropped = crop_and_patch(f, field, position, x)
        scale = np.max(np.abs(network(x)))
        np.testing.assert_allclose(cropped, f(x), rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("name", ["conv1", "conv2", "conv3", "conv5"])
@pytest.mark.parametrize("activation", ["pre", "post"])
def test_the_crop_of_alexnet_is_its_unit_in_the_middle(name, activation):
    network = alexnet()
    x = 100.0 * normal_images((227, 227, 3), n=2)
    shape = network.get_layer(name).output.shape
    middle = shape[1] // 2, shape[2] // 2
    f = unit(network, f"{name}:3", activation=activation)
    cropped = crop_and_patch(f, receptive_field(network, name), middle, x)
    np.testing.assert_allclose(cropped, f(x), rtol=1e-4, atol=1e-5)


def test_a_crop_sees_new_weights_and_leaves_the_network_as_it_is():
    network = kt.alexnet((99, 99, 3), num_classes=5)
    f, x = unit(network, "conv2:1"), 100.0 * normal_images((51, 51, 3))
    before, whole = f.crop(), network(normal_images((99, 99, 3)))
    old = before(x).numpy()
    np.testing.assert_array_equal(network(normal_images((99, 99, 3))), whole)
    assert network.get_layer("conv3").padding == "same"
    network.get_layer("conv2").bias.assign_add(tf.fill([256], 3.0))
    np.testing.assert_allclose(before(x), old + 3.0, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(f.crop()(x), before(x))


def test_a_crop_prepares_its_pixels_as_the_unit_does():
    network = random_network(1, (46, 42, 2), signed=True)
    field = receptive_field(network, "top")
    position = tuple(s // 2 for s in shape_of(network))
    f = unit(network, "top:0", preprocess=lambda x: (x[..., ::-1] - 100.0) / 50.0)
    x = 100.0 + 50.0 * normal_images((46, 42, 2))
    cropped = crop_and_patch(f, field, position, x)
    np.testing.assert_allclose(cropped, f(x), rtol=1e-4, atol=1e-4)


def test_the_crop_of_a_sum_keeps_places_and_weights():
    network = alexnet(size=131)
    f = unit(network, "conv3:2") - 0.5 * unit(network, "conv1:1", position=(12, 14))
    parts = [
        receptive_field(network, "conv3").window(3, 3),
        receptive_field(network, "conv1").window(12, 14),
    ]
    rows, columns = (
        (min(a for a, _ in axis), max(b for _, b in axis))
        for axis in zip(*parts, strict=True)
    )
    x = 100.0 * normal_images((131, 131, 3), n=2)
    patch = x[:, rows[0] : rows[1], columns[0] : columns[1]]
    crop = f.crop()
    assert crop.input_shape == tuple(patch.shape[1:])
    np.testing.assert_allclose(crop(patch), f(x), rtol=1e-4, atol=1e-5)


def test_the_crop_of_parts_that_need_different_windows_is_their_unit():
    """Halves of the channels, of which one goes on; a network applied twice."""
    inner = keras.Input((None, None, 1))
    y = layers.Conv2D(1, 3, padding="same", activation="relu")(inner)
    twice = keras.Model(inner, y)
    inputs = keras.Input((20, 20, 2))
    one, other = keras.ops.split(inputs, 2, axis=-1)
    x = layers.Concatenate(name="top")([twice(twice(one)), other])
    network, x = keras.Model(inputs, x), normal_images((20, 20, 2))
    for channel in range(2):
        f = unit(network, f"top:{channel}")
        assert f.crop().input_shape == (5, 5, 2)
        cropped = f.crop()(x[:, 8:13, 8:13])
        np.testing.assert_allclose(cropped, f(x), rtol=1e-5, atol=1e-6)


def test_a_crop_of_a_network_of_any_size_is_its_window():
    inputs = keras.Input((None, None, 1))
    x = layers.Conv2D(2, 3, padding="same", activation="relu")(inputs)
    network = keras.Model(inputs, layers.Conv2D(2, 3, padding="same", name="top")(x))
    f, x = unit(network, "top:1"), normal_images((11, 11, 1))
    assert f.crop().input_shape == (5, 5, 1)
    np.testing.assert_allclose(f.crop()(x[:, 3:8, 3:8]), f(x), rtol=1e-5, atol=1e-6)
    assert (f + unit(network, "top:0")).crop().input_shape == (5, 5, 1)
    with pytest.raises(ValueError, match="to place the parts of a sum"):
        (f + unit(network, "top:0", position=(5, 5))).crop()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_index": 2}, "'class channel' in 'class 2', which sees the whole"),
        ({"layer_channel": "fc6:2"}, "'fc6:channel' in 'fc6:2', which sees the whole"),
        ({"layer_channel": "conv5:2", "position": "mean"}, "'conv5:2@mean', which"),
    ],
)
def test_a_unit_that_sees_the_whole_image_has_no_crop(arguments, message):
    with pytest.raises(ValueError, match=message):
        unit(alexnet(size=99), **arguments).crop()


def test_a_unit_that_sees_padding_wherever_it_is_has_no_crop():
    network = keras.applications.MobileNetV2(
        (96, 96, 3), weights=None, include_top=False
    )
    with pytest.raises(
        ValueError,
        match="'out_relu', which sees 491 x 491 pixels, of images of 96 x 96.*whole im",
    ):
        unit(network, "out_relu:0").crop()
    whole = unit(network, "out_relu:0")
    assert named.unit_of(network, "out_relu:0", "tf").input_shape == whole.input_shape
    assert unit(network, "block_1_expand:0").crop().input_shape == (7, 7, 3)


@pytest.mark.parametrize(("size", "fits"), [(7, True), (5, False)])
def test_a_crop_needs_one_place_without_padding(size, fits):
    """Strides of 2 from -1: windows of 5 pixels begin at -1, 1, 3; not at 0."""
    inputs = keras.Input((size, 12, 1))
    x = layers.Conv2D(1, 3, (2, 1), padding="same")(inputs)
    network = keras.Model(inputs, layers.Conv2D(1, (2, 1), name="top")(x))
    first = receptive_field(network, "top").start[0]
    starts = [first + 2 * i for i in range(network.output.shape[1])]
    inside = any(0 <= start and start + 5 <= size for start in starts)
    assert first == -1
    assert can_be_cropped(network, "top") == inside == fits
    assert layers_of(network)[-1].can_be_cropped == fits


def test_a_map_that_was_cut_and_padded_again_sees_padding_where_it_was_cut():
    inputs = keras.Input((11, 11, 1))
    x = layers.ZeroPadding2D(2)(layers.Cropping2D(2)(inputs))
    network = keras.Model(inputs, layers.Conv2D(1, 9, name="top")(x))
    assert receptive_field(network, "top").window(1, 1) == ((1, 10), (1, 10))
    with pytest.raises(ValueError, match="9 x 9 pixels, of images of 11 x 11"):
        unit(network, "top:0", position=(1, 1)).crop()


def test_parts_of_a_sum_that_are_further_apart_than_the_image_have_no_crop():
    inputs = keras.Input((12, 12, 1))
    conv = layers.Conv2D(2, 5, padding="same", name="conv")
    network = keras.Model(inputs, conv(inputs))
    f, g = (unit(network, "conv:0", position=(i, 5)) for i in (0, 11))
    assert f.crop().input_shape == (5, 5, 1)
    with pytest.raises(ValueError, match="sees 16 x 5 pixels, of images of 12 x 12"):
        (f + g).crop()


def test_a_crop_of_what_is_not_the_same_everywhere_is_refused():
    inputs = keras.Input((12, 12, 1))
    x = layers.Conv2D(2, 3, name="conv")(inputs)
    gate = layers.GlobalAveragePooling2D(keepdims=True, name="gap")(x)
    slopes = layers.PReLU(name="slopes")(x)
    map_ = keras.ops.add(x, np.ones((10, 10, 1), "float32"))
    tops = [layers.Multiply(name="gated")([x, gate]), slopes]
    tops.append(layers.Identity(name="shifted")(map_))
    network = keras.Model(inputs, tops)
    for name, message in (
        ("gated", "'gated', which makes it see the whole"),
        ("gap", "'gap', which makes it see the whole"),
        ("slopes", "'slopes' with weights for each place"),
        ("shifted", "'add.*' with weights for each place"),
    ):
        with pytest.raises(ValueError, match=message):
            unit(network, f"{name}:0").crop()


def test_a_crop_of_resized_images_is_refused():
    inputs = keras.Input((12, 12, 1))
    network = keras.Model(inputs, layers.Conv2D(2, 3, name="conv")(inputs))

    def half(images):
        return tf.image.resize(images, [12, 12])

    f = unit(network, "conv:0", preprocess=half, input_shape=(24, 24, 1))
    with pytest.raises(ValueError, match=r"images \(24, 24, 1\), .* takes \(12, 12, 1"):
        f.crop()


# Errors


@pytest.mark.parametrize(
    "layer",
    [
        layers.Permute((2, 1, 3), name="odd"),
        layers.Softmax(axis=1, name="odd"),
        layers.Resizing(5, 5, name="odd"),
    ],
)
def test_layers_that_mix_or_move_places_are_no_pointwise_ones(layer):
    inputs = keras.Input((12, 12, 1))
    network = keras.Model(inputs, layer(layers.Conv2D(1, 3)(inputs)))
    with pytest.raises(ValueError, match="layer 'odd'"):
        receptive_field(network, "odd")


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: keras.ops.flip(x, axis=1),
        lambda x: keras.ops.softmax(x, axis=1),
        lambda x: keras.ops.concatenate([x, x], axis=1),
        lambda x: x[:, ::2],
    ],
)
def test_operations_that_mix_or_move_places_are_no_pointwise_ones(operation):
    inputs = keras.Input((12, 12, 1))
    x = operation(layers.Conv2D(1, 3)(inputs))
    network = keras.Model(inputs, layers.Identity(name="top")(x))
    with pytest.raises(ValueError, match="act on each place"):
        receptive_field(network, "top")


def test_branches_of_different_strides_have_no_receptive_field():
    inputs = keras.Input((12, 12, 1))
    one = layers.Conv2D(1, 3, 2)(inputs)
    other = layers.Conv2D(1, 8)(inputs)
    network = keras.Model(inputs, layers.Add(name="sum")([one, other]))
    with pytest.raises(ValueError, match=r"strides \[1, 2\] at layer 'sum'"):
        receptive_field(network, "sum")


def test_what_is_no_layer_of_images_is_refused():
    one, other = keras.Input((12, 12, 1), name="one"), keras.Input((12, 12, 1))
    network = keras.Model([one, other], layers.Add(name="sum")([one, other]))
    with pytest.raises(ValueError, match=r"depend on one input.*\['one', "):
        receptive_field(network, "sum")
    vector = keras.Sequential([keras.Input((12,)), layers.Dense(3, name="fc")])
    with pytest.raises(ValueError, match=r"shape \(None, 12\)"):
        receptive_field(vector, "fc")
    with pytest.raises(ValueError, match="Received: 'conv9'. Layers: "):
        receptive_field(alexnet(size=99), "conv9")
    with pytest.raises(ValueError, match="functional or Sequential"):
        receptive_field(keras.Sequential([layers.Dense(3)]), "dense")
