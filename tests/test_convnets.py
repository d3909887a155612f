"""Small networks for photographs: sizes, and which images a logit depends on."""

import keras
import numpy as np
import pytest

import keras_tilt as kt
from keras_tilt import pooled_convnet

IMAGES = np.random.default_rng(0).uniform(0, 255, [6, 16, 16, 3]).astype(np.float32)
NORMALIZATIONS = ["group", "layer", "batch", None]


def test_parameters_are_those_of_kernels_norms_and_the_last_layer():
    """A kernel each, two numbers a channel of a norm; as many as documented."""
    widths = (3, 32, 64, 128, 128)
    kernels = sum(9 * a * b for a, b in zip(widths, widths[1:], strict=False))
    norms, dense = 2 * sum(widths[1:]), 128 * 10 + 10
    assert pooled_convnet().count_params() == kernels + norms + dense == 242_474
    assert pooled_convnet((64, 64, 3), 100).count_params() == 255_620
    without = pooled_convnet(normalization=None)  # a bias a channel in place of a norm
    assert without.count_params() == kernels + norms // 2 + dense


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_logits_depend_on_other_images_under_batch_normalization_alone(normalization):
    network = pooled_convnet((16, 16, 3), 4, normalization=normalization)
    together = network(IMAGES, training=True).numpy()
    first = network(IMAGES[:2], training=True).numpy()
    apart = np.abs(together[:2] - first).max()
    assert apart > 0.01 if normalization == "batch" else apart < 1e-4


@pytest.mark.parametrize(("normalization", "groups"), [("group", 8), ("layer", 1)])
def test_maps_of_a_group_have_mean_zero_and_variance_one(normalization, groups):
    network = pooled_convnet((16, 16, 3), 4, normalization=normalization)
    maps = keras.Model(network.input, network.get_layer("norm2").output)(IMAGES)
    maps = maps.numpy().reshape(len(IMAGES), 8 * 8, groups, -1)
    np.testing.assert_allclose(maps.mean(axis=(1, 3)), 0.0, atol=1e-5)
    np.testing.assert_allclose(maps.var(axis=(1, 3)), 1.0, rtol=0.01)  # epsilon 1e-3


def test_large_images_are_halved_by_the_first_convolution():
    def side(size):
        network = pooled_convnet((size, size, 3))
        return network.get_layer("conv1").output.shape[1]

    assert [side(size) for size in (32, 63, 64)] == [32, 63, 32]


def test_equal_seeds_give_equal_weights_and_others_give_others():
    weights = [pooled_convnet(seed=seed).get_weights() for seed in (3, 3, 4)]
    for one, same in zip(*weights[:2], strict=True):
        np.testing.assert_array_equal(one, same)
    assert np.abs(weights[0][0] - weights[2][0]).max() > 0.1


def test_kernels_have_the_variance_of_he_and_the_last_that_of_glorot():
    """A draw's variance has a relative standard error of at most sqrt(2 / n)."""
    network = pooled_convnet(seed=1)
    for i, fan_in in enumerate((27, 288, 576, 1152)):
        kernel = network.get_layer(f"conv{i + 1}").kernel.numpy()
        ratio = kernel.var() * fan_in / 2
        assert abs(ratio - 1.0) < 4.0 * np.sqrt(2 / kernel.size)
    kernel = network.get_layer("classes").kernel.numpy()
    assert abs(kernel.var() * 138 / 2 - 1.0) < 4.0 * np.sqrt(2 / kernel.size)


def test_what_cannot_be_built_is_refused():
    with pytest.raises(ValueError, match="group, layer, batch, or None. Received: 'x'"):
        pooled_convnet(normalization="x")
    for widths in ((), (8,) * 10):
        with pytest.raises(ValueError, match="1 to 9 convolutions"):
            pooled_convnet(widths=widths)


def test_a_saved_network_is_the_same(tmp_path):
    network = kt.pooled_convnet((16, 16, 3), 4)
    network.save(tmp_path / "network.keras")
    again = keras.models.load_model(tmp_path / "network.keras")
    np.testing.assert_array_equal(network(IMAGES), again(IMAGES))
