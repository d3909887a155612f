"""Receptive fields: what a cell sees is where its gradient is, and all it needs."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_tilt as kt
from keras_tilt.receptive_field import ReceptiveField, receptive_field
from keras_tilt.units import unit

SHAPE = (30, 26, 2)
SEEDS = range(24)


# Random graphs


def positive(rng, layer, **arguments):
    """A layer of positive weights: no path from a pixel to a cell cancels another."""
    weights = keras.initializers.RandomUniform(0.5, 1.5, seed=int(rng.integers(1e6)))
    names = {
        layers.Conv2D: ["kernel_initializer"],
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


def random_network(seed, shape=SHAPE, signed=False):
    """A random graph of four blocks; its last layer is "top"."""
    rng = np.random.default_rng(seed)
    inputs = x = keras.Input(shape)
    for block in rng.choice(len(BLOCKS), size=4, replace=False):
        x = BLOCKS[block](rng, x)
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
    with tf.GradientTape() as tape:
        tape.watch(images)
        values = f(images)
    gradient = tf.reduce_sum(tf.abs(tape.gradient(values, images)), axis=3)
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


@pytest.mark.parametrize("seed", SEEDS)
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


@pytest.mark.parametrize("seed", SEEDS)
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


def test_a_layer_that_is_not_known_is_named():
    inputs = keras.Input((12, 12, 1))
    unknown = layers.Lambda(lambda x: x, name="mine")
    network = keras.Model(inputs, layers.Conv2D(1, 3, name="conv")(unknown(inputs)))
    with pytest.raises(ValueError, match="'mine', Lambda. If it acts on each place"):
        receptive_field(network, "conv")
    unknown.pointwise = True
    assert receptive_field(network, "conv").size == (3, 3)


@pytest.mark.parametrize(
    "layer",
    [
        layers.UpSampling2D(2, name="odd"),
        layers.Conv2DTranspose(1, 2, 2, name="odd"),
        layers.GroupNormalization(1, name="odd"),
        layers.Permute((2, 1, 3), name="odd"),
        layers.BatchNormalization(axis=1, name="odd"),
        layers.Softmax(axis=1, name="odd"),
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
