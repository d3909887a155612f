"""The networks are Caffe's: layers, numbers of parameters, initial weights."""

import functools
import itertools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import slow, slow_but

import keras_tilt as kt
from keras_tilt.networks.architectures import (
    ILSVRC_MEAN,
    LocalResponseNormalization,
    SplitConv2D,
)

FEW = 4.0  # standard errors
# Number of inputs of one output, per layer with weights.
FAN_IN = {"conv1": 25, "conv2": 500, "ip1": 800, "ip2": 500}
IMAGES = np.random.default_rng(0).uniform(size=[16, 28, 28, 1]).astype(np.float32)


def kernels_of(network):
    """Kernels by layer, in units of their bound sqrt(3 / fan_in)."""
    return {
        name: network.get_layer(name).kernel.numpy() / np.sqrt(3 / fan_in)
        for name, fan_in in FAN_IN.items()
    }


def output_of(network, layer, images=IMAGES, training=False):
    """Responses of one layer to images."""
    below = keras.Model(network.input, network.get_layer(layer).output)
    return below(images, training=training).numpy()


# LeNet


def test_lenet_has_431080_parameters():
    assert kt.lenet().count_params() == 431_080


def test_layers_and_shapes_are_caffes():
    layers = [(layer.name, layer.output.shape[1:]) for layer in kt.lenet().layers]
    assert layers == [
        ("images", (28, 28, 1)),
        ("conv1", (24, 24, 20)),
        ("pool1", (12, 12, 20)),
        ("conv2", (8, 8, 50)),
        ("pool2", (4, 4, 50)),
        ("flatten", (800,)),
        ("ip1", (500,)),
        ("relu1", (500,)),
        ("ip2", (10,)),
    ]


def test_other_image_sizes_and_class_counts_are_built():
    network = kt.lenet([32, 20, 3], num_classes=7)
    assert network.input_shape == (None, 32, 20, 3)
    assert network.output_shape == (None, 7)


@pytest.mark.parametrize("layer", FAN_IN)
def test_initial_weights_are_uniform_with_variance_one_over_fan_in(layer):
    """In units of the bound: U(-1, 1), variance 1/3, fourth moment 1/5."""
    kernel = kernels_of(kt.lenet())[layer].ravel().astype(np.float64)
    n = kernel.size
    assert np.abs(kernel).max() <= 1 + np.finfo(np.float32).eps
    assert np.abs(kernel.mean()) < FEW * np.sqrt(1 / 3 / n)
    variance, error = np.mean(kernel**2), np.sqrt((1 / 5 - 1 / 9) / n)
    assert np.abs(variance - 1 / 3) < FEW * error
    fourth, error = np.mean(kernel**4), np.sqrt((1 / 9 - 1 / 25) / n)
    assert np.abs(fourth - 1 / 5) < FEW * error


@pytest.mark.parametrize("layer", FAN_IN)
def test_initial_biases_are_zero(layer):
    bias = kt.lenet().get_layer(layer).bias
    np.testing.assert_array_equal(bias, np.zeros(bias.shape))


def test_equal_seeds_give_equal_weights():
    first, second = kt.lenet(seed=3), kt.lenet(seed=3)
    for one, other in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_weights_of_other_seeds_and_layers_are_uncorrelated():
    """Twelve streams, four layers times three seeds, pairwise; 5 standard errors."""
    streams = [
        kernel.ravel()[:500]
        for seed in range(3)
        for kernel in kernels_of(kt.lenet(seed=seed)).values()
    ]
    for one, other in itertools.combinations(streams, 2):
        assert np.abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(500)


def test_the_output_is_logits():
    """Linear in the last weights: no softmax behind them."""
    network = kt.lenet()
    logits = network(IMAGES).numpy()
    last = network.get_layer("ip2")
    np.testing.assert_array_equal(logits, output_of(network, "ip2"))
    last.kernel.assign(-4.0 * last.kernel)
    np.testing.assert_array_equal(network(IMAGES).numpy(), -4.0 * logits)


def test_only_ip1_is_rectified():
    network = kt.lenet()
    for layer in ("conv1", "pool1", "conv2", "pool2", "ip1", "ip2"):
        assert output_of(network, layer).min() < 0
    rectified = np.maximum(output_of(network, "ip1"), 0)
    np.testing.assert_array_equal(output_of(network, "relu1"), rectified)


def test_a_saved_lenet_comes_back(tmp_path):
    network = kt.lenet(seed=5)
    network.save(tmp_path / "lenet.keras")
    loaded = keras.models.load_model(tmp_path / "lenet.keras")
    np.testing.assert_array_equal(loaded(IMAGES).numpy(), network(IMAGES).numpy())


# AlexNet and the network of Zeiler and Fergus

# Shape of the weights, their standard deviation, and the bias.
ALEXNET = {
    "conv1": ((11, 11, 3, 96), 0.01, 0.0),
    "conv2": ((5, 5, 96 // 2, 256), 0.01, 0.1),
    "conv3": ((3, 3, 256, 384), 0.01, 0.0),
    "conv4": ((3, 3, 384 // 2, 384), 0.01, 0.1),
    "conv5": ((3, 3, 384 // 2, 256), 0.01, 0.1),
    "fc6": ((6 * 6 * 256, 4096), 0.005, 0.1),
    "fc7": ((4096, 4096), 0.005, 0.1),
    "fc8": ((4096, 1000), 0.01, 0.0),
}
ZF_FAST = {
    "conv1": ((7, 7, 3, 96), 0.01, 0.0),
    "conv2": ((5, 5, 96, 256), 0.01, 0.0),
    "conv3": ((3, 3, 256, 384), 0.01, 0.0),
    "conv4": ((3, 3, 384, 384), 0.01, 0.0),
    "conv5": ((3, 3, 384, 256), 0.01, 0.0),
    "fc6": ((6 * 6 * 256, 4096), 0.01, 0.0),
    "fc7": ((4096, 4096), 0.01, 0.0),
    "fc8": ((4096, 1000), 0.01, 0.0),
}
SMALL_ALEXNET = {
    name: (shape, math.sqrt(2 / math.prod(shape[:-1])), 0.0)
    for name, shape in {
        "conv1": (5, 5, 3, 24),
        "conv2": (5, 5, 24 // 2, 64),
        "conv3": (3, 3, 64, 96),
        "conv4": (3, 3, 96 // 2, 96),
        "conv5": (3, 3, 96 // 2, 64),
        "fc6": (4 * 4 * 64, 1024),
        "fc7": (1024, 1024),
    }.items()
} | {"fc8": ((1024, 100), 0.01, 0.0)}
LAYERS = {kt.alexnet: ALEXNET, kt.zf_fast: ZF_FAST, kt.small_alexnet: SMALL_ALEXNET}
EACH = pytest.mark.parametrize("build", LAYERS, ids=lambda build: build.__name__)
# Where they are built by the same lines, and a new one takes a second.
ONE = pytest.mark.parametrize(
    "build", slow_but([kt.zf_fast], LAYERS), ids=lambda build: build.__name__
)
LEAST = {kt.alexnet: 39, kt.zf_fast: 47, kt.small_alexnet: 15}  # pixels a side
SCALE = {kt.alexnet: 1, kt.zf_fast: 1, kt.small_alexnet: 1 / 64}  # of pixels
PARAMETERS = {
    kt.alexnet: 60_965_224,
    kt.zf_fast: 62_357_608,
    kt.small_alexnet: 2_347_460,
}


@functools.cache
def whole(build):
    return build()


@functools.cache
def small(build, seed=0):
    """Of the smallest images, five classes."""
    return build((LEAST[build], LEAST[build], 3), 5, seed)


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, shape).astype(np.float32)


def smallest_images(build):
    return pixels(2, LEAST[build], LEAST[build], 3)


@EACH
def test_every_layer_has_the_parameters_of_its_formula(build):
    """Kernel rows x columns x channels per group x filters, and a bias per filter."""
    for name, (shape, _, _) in LAYERS[build].items():
        layer = whole(build).get_layer(name)
        assert tuple(layer.kernel.shape) == shape
        assert layer.count_params() == math.prod(shape) + shape[-1]


@EACH
def test_the_number_of_parameters_is_as_stated(build):
    shapes = [shape for shape, _, _ in LAYERS[build].values()]
    total = sum(math.prod(shape) + shape[-1] for shape in shapes)
    assert whole(build).count_params() == total == PARAMETERS[build]


def test_the_layers_of_alexnet_are_caffes():
    layers = [(x.name, x.output.shape[1:]) for x in whole(kt.alexnet).layers]
    top = [(f"{name}{i}", (4096,)) for i in (6, 7) for name in ("fc", "relu", "drop")]
    assert layers == [
        ("images", (227, 227, 3)),
        ("subtract_mean", (227, 227, 3)),
        *((name, (55, 55, 96)) for name in ("conv1", "relu1", "norm1")),
        ("pool1", (27, 27, 96)),
        *((name, (27, 27, 256)) for name in ("conv2", "relu2", "norm2")),
        ("pool2", (13, 13, 256)),
        *((name, (13, 13, 384)) for name in ("conv3", "relu3", "conv4", "relu4")),
        *((name, (13, 13, 256)) for name in ("conv5", "relu5")),
        ("pool5", (6, 6, 256)),
        ("flatten", (9216,)),
        *top,
        ("fc8", (1000,)),
    ]


def test_the_maps_of_zf_fast_are_those_of_zeiler_and_fergus():
    names = "conv1 pool1 conv2 pool2 conv3 conv4 conv5 pool5".split()
    shapes = [whole(kt.zf_fast).get_layer(name).output.shape for name in names]
    assert [shape[1] for shape in shapes] == [110, 55, 26, 13, 13, 13, 13, 6]
    assert [shape[3] for shape in shapes] == [96, 96, 256, 256, 384, 384, 256, 256]


def test_the_layers_of_small_alexnet_are_those_of_alexnet():
    """Of the same names; the normalization sees pixels that are 64 times as small."""
    one, other = whole(kt.small_alexnet), whole(kt.alexnet)
    assert [x.name for x in one.layers] == [x.name for x in other.layers]
    assert [one.get_layer(f"pool{i}").output.shape[1] for i in (1, 2, 5)] == [16, 8, 4]
    maps = np.random.default_rng(0).normal(0, 99, [2, 3, 3, 24]).astype(np.float32)
    np.testing.assert_allclose(
        64 * one.get_layer("norm1")(maps / 64), other.get_layer("norm1")(maps), 1e-4
    )


@EACH
def test_initial_weights_are_normal(build):
    """In units of the standard deviation: variance 1, fourth moment 3."""
    for name, (_, stddev, bias) in LAYERS[build].items():
        layer = whole(build).get_layer(name)
        np.testing.assert_array_equal(layer.bias, np.full(layer.bias.shape, bias, "f"))
        kernel = layer.kernel.numpy().ravel()[:1_000_000].astype(np.float64) / stddev
        n = kernel.size
        assert np.abs(kernel.mean()) < FEW / np.sqrt(n)
        assert np.abs(np.mean(kernel**2) - 1) < FEW * np.sqrt(2 / n)
        assert np.abs(np.mean(kernel**4) - 3) < FEW * np.sqrt(96 / n)


@pytest.mark.slow
@EACH
def test_equal_seeds_give_equal_networks_and_others_do_not(build):
    one, other, third = small(build), small.__wrapped__(build), small(build, seed=1)
    streams = []
    for layer in LAYERS[build]:
        first, second, new = (
            network.get_layer(layer).kernel.numpy() for network in (one, other, third)
        )
        np.testing.assert_array_equal(first, second)
        streams += [first.ravel()[:10_000], new.ravel()[:10_000]]
    for first, second in itertools.combinations(streams, 2):
        n = min(len(first), len(second))
        assert np.abs(np.corrcoef(first[:n], second[:n])[0, 1]) < 5 / np.sqrt(n)


@EACH
def test_the_network_takes_plain_pixels(build):
    images = smallest_images(build)
    size, scale = LEAST[build], SCALE[build]
    for shown, mean in ((images, ILSVRC_MEAN), (images[..., :1], [100.0])):
        network = build((size, size, shown.shape[3]), 5, mean=mean)
        np.testing.assert_allclose(
            output_of(network, "subtract_mean", shown),
            scale * (shown - np.float32(mean)),
            atol=2e-5,
        )


@EACH
def test_the_smallest_images_leave_one_cell_and_smaller_ones_are_refused(build):
    least = LEAST[build]
    assert small(build).get_layer("pool5").output.shape[1:3] == (1, 1)
    for shape in ((least - 1, 300, 3), (300, least - 1, 3), (None, None, 3), (300, 3)):
        with pytest.raises(ValueError, match=f"at least {least} .* Received: input_sh"):
            build(shape)
    with pytest.raises(ValueError, match=r"each of 1 channels.*mean=\(127.5,\)"):
        build((least, least, 1))


@pytest.mark.parametrize("shape", [(64, 67, 3), (67, 67, 3), (64, 64, 3)])
def test_poolings_round_up_as_caffes(shape):
    """Cell i is the maximum of rows and columns 2 i to 2 i + 2, as far as they go."""
    network, images = kt.alexnet(shape, num_classes=5), pixels(2, *shape)
    maps = output_of(network, "norm1", images)
    rows, columns = (math.ceil((size - 3) / 2) + 1 for size in maps.shape[1:3])
    expected = [
        [
            maps[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((1, 2))
            for j in range(columns)
        ]
        for i in range(rows)
    ]
    pooled = output_of(network, "pool1", images)
    np.testing.assert_array_equal(pooled, np.moveaxis(expected, 2, 0))


@EACH
def test_dropout_is_off_in_inference_and_drops_half_in_training(build):
    network, images = small(build), smallest_images(build)
    for number in (6, 7):
        kept = output_of(network, f"relu{number}", images)
        dropped = output_of(network, f"drop{number}", images)
        np.testing.assert_array_equal(dropped, kept)
    kept = output_of(network, "relu6", images)
    dropped = output_of(network, "drop6", images, training=True)
    on = dropped != 0
    np.testing.assert_allclose(dropped[on], 2 * kept[on], rtol=1e-6)
    share, n = on[kept > 0].mean(), np.sum(kept > 0)
    assert np.abs(share - 1 / 2) < FEW * np.sqrt(1 / 4 / n)


@ONE
def test_dropout_follows_the_seed_and_differs_between_layers(build):
    one, other = (small.__wrapped__(build, seed=2) for _ in range(2))
    images = smallest_images(build)
    masks = [
        output_of(network, "drop6", images, training=True) for network in (one, other)
    ]
    np.testing.assert_array_equal(*masks)
    assert one.get_layer("drop6").seed != one.get_layer("drop7").seed


@ONE
def test_a_saved_network_comes_back(build, tmp_path):
    network, images = small(build), smallest_images(build)
    network.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras")
    np.testing.assert_array_equal(loaded(images).numpy(), network(images).numpy())
    for name in ("drop6", "drop7"):
        assert loaded.get_layer(name).seed == network.get_layer(name).seed


def test_zf_fast_sees_7_27_75_107_139_pixels():
    names = [f"conv{i}" for i in range(1, 6)]
    found = [kt.receptive_field(small(kt.zf_fast), name) for name in names]
    assert [f.size for f in found] == [(n, n) for n in (7, 27, 75, 107, 139)]
    assert [f.stride[0] for f in found] == [2, 8, 16, 16, 16]
    assert [f.start[0] for f in found] == [-1, -1, -17, -33, -49]


@pytest.mark.parametrize("channel", [12, 200])
def test_a_channel_of_a_split_convolution_is_one_of_all_its_maps(channel):
    """Numbered over both groups, and read before the ReLU."""
    network, images = whole(kt.alexnet), pixels(2, 227, 227, 3)
    maps = output_of(network, "conv2", images)
    unit = kt.unit(network, f"conv2:{channel}")
    np.testing.assert_allclose(unit(images), maps[:, 13, 13, channel], rtol=1e-5)
    assert maps.min() < 0
    (top, bottom), (left, right) = kt.receptive_field(network, "conv2").window(13, 13)
    patch = images[:, top:bottom, left:right]
    np.testing.assert_allclose(unit.crop()(patch), unit(images), rtol=1e-4, atol=1e-4)


def test_the_crop_of_zf_fast_is_its_unit():
    network = kt.zf_fast((160, 170, 3), num_classes=5)  # with a row of zeros at pool1
    images = pixels(2, 160, 170, 3)
    for name in ("conv2", "conv4"):
        shape = network.get_layer(name).output.shape
        window = kt.receptive_field(network, name).window(shape[1] // 2, shape[2] // 2)
        (top, bottom), (left, right) = window
        unit = kt.unit(network, f"{name}:7")
        patch = images[:, top:bottom, left:right]
        np.testing.assert_allclose(unit.crop()(patch), unit(images), rtol=1e-4)


# Local response normalization


def normalized(maps, size, alpha, beta):
    """b_c = a_c / (1 + alpha / size sum_c' a_c'^2)^beta, channel by channel."""
    sums = [
        np.sum(maps[..., max(c - size // 2, 0) : c + size // 2 + 1] ** 2, axis=-1)
        for c in range(maps.shape[-1])
    ]
    return maps / (1 + alpha / size * np.stack(sums, axis=-1)) ** beta


NORMS = pytest.mark.parametrize(
    ("size", "alpha", "beta", "channels"),
    [(5, 1e-4, 0.75, 96), (5, 2.0, 0.75, 7), (3, 1.0, 1.3, 4), (1, 3.0, 0.5, 5)]
    + [(9, 2.0, 0.75, 3)],  # wider than there are channels
)


@NORMS
def test_normalization_is_the_formula(size, alpha, beta, channels):
    maps = np.random.default_rng(0).normal(size=[2, 3, 4, channels]) * 30
    norm = LocalResponseNormalization(size, alpha, beta)
    expected = normalized(maps, size, alpha, beta)
    assert np.abs(expected - maps).max() > 0.01
    np.testing.assert_allclose(norm(maps.astype("f")), expected, rtol=1e-5)


@NORMS
def test_the_gradient_of_normalization_is_that_of_finite_differences(
    size, alpha, beta, channels
):
    maps, *others = np.random.default_rng(1).normal(size=[3, 1, 2, 2, channels])
    weights, direction = others
    norm = LocalResponseNormalization(size, alpha, beta, dtype="float64")

    def f(x):
        return tf.reduce_sum(weights * norm(x))

    x, h = tf.constant(maps), 1e-5
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = f(x)
    slope = np.sum(tape.gradient(value, x) * direction)
    difference = (f(x + h * direction) - f(x - h * direction)) / (2 * h)
    np.testing.assert_allclose(slope, difference, rtol=1e-7, atol=1e-9)


def test_normalization_sees_its_own_cell_alone():
    """It commutes with a permutation of the cells; receptive fields are left as is."""
    maps = pixels(2, 3, 4, 6)
    norm = LocalResponseNormalization(alpha=1.0)
    places = np.random.default_rng(0).permutation(12)

    def permuted(x):
        return np.reshape(x, [2, 12, 6])[:, places]

    np.testing.assert_allclose(permuted(norm(maps)), norm(permuted(maps)), rtol=1e-6)


def test_half_precision_holds_large_responses():
    """A square of 1000 is out of the range of float16."""
    maps = 10.0 * pixels(1, 2, 2, 8)
    half = LocalResponseNormalization(dtype="float16")(maps)
    np.testing.assert_allclose(half, normalized(maps, 5, 1e-4, 0.75), rtol=1e-2)


def test_normalization_comes_back_from_its_config():
    norm = LocalResponseNormalization(3, 2e-4, 0.5, name="norm7")
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(norm)
    )
    assert type(again) is LocalResponseNormalization
    assert again.get_config() == norm.get_config()
    assert (again.size, again.alpha, again.beta, again.name) == (3, 2e-4, 0.5, "norm7")


@pytest.mark.parametrize("size", [0, 4, -1])
def test_a_window_without_a_middle_is_refused(size):
    with pytest.raises(ValueError, match=f"odd.* Received: {size}"):
        LocalResponseNormalization(size)


# Convolutions in groups


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_a_split_convolution_is_keras_convolution_in_groups(groups):
    arguments = {"filters": 6, "kernel_size": (3, 2), "strides": 2, "padding": "same"}
    arguments |= {"groups": groups, "activation": "tanh"}
    split, native = SplitConv2D(**arguments), keras.layers.Conv2D(**arguments)
    x = tf.random.stateless_normal([2, 9, 8, 6], [0, 1])
    maps = []
    for layer in (split, native):
        layer.build(x.shape)
        layer.set_weights(split.get_weights())
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        maps += [[y, *tape.gradient(y, [x, layer.kernel.value, layer.bias.value])]]
    for one, other in zip(*maps, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (kt.lenet, (28, 28, 1)),
        (kt.convnet, (32, 32, 3)),
        (kt.alexnet, (67, 68, 3)),
        slow(kt.zf_fast, (64, 64, 3)),
        slow(kt.small_alexnet, (15, 64, 3)),
    ],
)
def test_channels_are_last_whatever_keras_is_set_to(network, shape):
    """The same function, of the same configuration."""
    images = np.random.default_rng(0).uniform(0.0, 255.0, (2, *shape))
    expected = network(shape, seed=1)
    keras.config.set_image_data_format("channels_first")
    try:
        found = network(shape, seed=1)
        twin = keras.Model.from_config(found.get_config())
        logits = found(images)
    finally:
        keras.config.set_image_data_format("channels_last")
    assert found.get_config() == expected.get_config() == twin.get_config()
    np.testing.assert_array_equal(logits, expected(images))
