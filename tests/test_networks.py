"""LeNet is Caffe's: its layers, its number of parameters, its initial weights."""

import itertools

import keras
import numpy as np
import pytest

import keras_tilt as kt

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


def output_of(network, layer):
    """Responses of one layer to IMAGES."""
    return keras.Model(network.input, network.get_layer(layer).output)(IMAGES).numpy()


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
