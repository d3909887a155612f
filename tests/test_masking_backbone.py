"""A backbone is the network itself up to a layer, on images of any size."""

import keras
import numpy as np
import pytest
import small_network

import keras_tilt as kt
from keras_tilt.masking import backbone
from keras_tilt.networks import inner_values


def images(*shape):
    return np.random.default_rng(0).normal(size=[2, *shape]).astype(np.float32)


def test_of_the_networks_own_size_it_gives_the_values_of_the_layer():
    network = small_network.small_network()
    found = backbone(network, "conv1")(images(*small_network.SHAPE))
    feeds = {network.inputs[0].name: images(*small_network.SHAPE)}
    expected = inner_values.layer_values(network, feeds, "conv1", False)
    np.testing.assert_array_equal(found, expected)


def test_weights_are_those_of_the_network():
    network = small_network.small_network()
    part = backbone(network, "conv1", (20, 12))
    assert part.output_shape == (None, 18, 10, 4)
    assert part.weights[0] is network.get_layer("conv1").kernel
    assert len(part.weights) == 2


def test_a_window_of_a_larger_image_has_the_features_of_the_small_one():
    """Without padding, cell by cell."""
    network = small_network.small_network()
    large = images(20, 12, 1)
    whole = backbone(network, "conv1", (20, 12))(large).numpy()
    part = backbone(network, "conv1")(large[:, 5:13, 2:10])
    np.testing.assert_allclose(whole[:, 5:11, 2:8], part, rtol=1e-5, atol=1e-6)


def test_nested_networks_and_trained_models_are_taken_apart(tmp_path):
    inner = small_network.small_network()
    outside = keras.Input(small_network.SHAPE)
    outer = keras.Model(outside, inner(keras.layers.Rescaling(0.5)(outside)))
    model = kt.GenerativeClassifier(outer)
    part = backbone(model, f"{inner.name}/conv1", (16, 16))
    part.save(tmp_path / "part.keras")
    again = keras.models.load_model(tmp_path / "part.keras")
    np.testing.assert_array_equal(again(images(16, 16, 1)), part(images(16, 16, 1)))
    expected = backbone(inner, "conv1", (16, 16))(images(16, 16, 1) / 2)
    np.testing.assert_allclose(part(images(16, 16, 1)), expected, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_taken_is_an_error():
    network = small_network.small_network()
    with pytest.raises(ValueError, match="Layers: "):
        backbone(network, "conv9")
    with pytest.raises(ValueError, match=r"take images of \(20, 20\)"):
        backbone(network, "ip1", (20, 20))
    with pytest.raises(ValueError, match="Expected a size for images"):
        backbone(network, "conv1", (20, None))
    two = keras.Model([keras.Input((8, 8, 1)), other := keras.Input((8, 8, 1))], other)
    with pytest.raises(ValueError, match="of one input"):
        backbone(two, "conv1")
