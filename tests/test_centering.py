"""Logits centered over the batch: their law, their gradients, and who may use them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tilt as kt
from keras_tilt.networks.class_constants import constants_per_class
from keras_tilt.training import CenteredLogits

CLASSES = 5
IMAGES = np.random.default_rng(0).uniform(0, 255, [12, 16, 16, 3]).astype(np.float32)
LABELS = np.arange(12) % 4  # of class 4 there is none
LOGITS = np.random.default_rng(1).normal(2.0, 3.0, [12, CLASSES]).astype(np.float32)


def plain(seed=0):
    return kt.pooled_convnet((16, 16, 3), CLASSES, seed, widths=(8, 16))


def centered(seed=0, **kwargs):
    return kt.center_logits(plain(seed), **kwargs)


def gradients(network, loss, images=IMAGES, labels=LABELS):
    with tf.GradientTape() as tape:
        value = loss(labels, network(images, training=True))
    found = tape.gradient(value, network.trainable_variables)
    return dict(zip([v.path for v in network.trainable_variables], found, strict=True))


def set_bias(network):
    bias = np.arange(CLASSES, dtype=np.float32)
    network.get_layer("centered_logits").bias.assign(bias)
    return bias


# The law


def test_in_training_logits_are_less_the_mean_of_the_batch_plus_the_bias():
    network = centered()
    bias = set_bias(network)
    logits = plain()(IMAGES).numpy()
    expected = logits - logits.mean(0) + bias
    np.testing.assert_allclose(network(IMAGES, training=True), expected, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_in_use_logits_are_less_the_moving_mean(momentum):
    """Of batches 1 to n: sum_k (1 - m) m^(n - k) mean_k."""
    layer, means = CenteredLogits(momentum), []
    for k in range(4):
        batch = np.roll(LOGITS, k, axis=1) + k
        layer(batch, training=True)
        means.append(batch.mean(0))
    weights = (1 - momentum) * momentum ** np.arange(4.0)[::-1]
    moving = np.sum(weights[:, None] * means, axis=0)
    np.testing.assert_allclose(layer.moving_mean, moving, rtol=1e-5)
    np.testing.assert_allclose(layer(LOGITS), LOGITS - moving, rtol=1e-4, atol=1e-5)


def test_a_layer_that_is_not_trained_uses_the_moving_mean_and_keeps_it():
    layer = CenteredLogits()
    layer(LOGITS, training=True)
    layer.trainable, before = False, layer.moving_mean.numpy()
    np.testing.assert_allclose(layer(LOGITS, training=True), LOGITS - before, rtol=1e-5)
    np.testing.assert_array_equal(layer.moving_mean, before)


def test_a_single_image_is_the_bias_and_moves_it_alone():
    network = centered()
    bias = set_bias(network)
    np.testing.assert_array_equal(network(IMAGES[:1], training=True), [bias])
    found = gradients(network, kt.discriminative_loss, IMAGES[:1], LABELS[:1])
    moved = [path for path, gradient in found.items() if np.any(gradient)]
    assert moved == ["centered_logits/bias"]


# Exact means


def as_pairs(images):
    return tf.data.Dataset.from_tensor_slices((images, LABELS)).batch(5)


@pytest.mark.parametrize(
    "form",
    [
        np.asarray,
        tf.convert_to_tensor,
        as_pairs,
        lambda images: tf.data.Dataset.from_tensor_slices(images).batch(5),
    ],
    ids=["array", "tensor", "pairs", "images"],
)
@pytest.mark.parametrize("change", [lambda net: net, kt.GenerativeClassifier])
def test_a_recentered_network_has_the_biases_as_means_in_use(form, change):
    """Of 12 images in batches of 5, 5 and 2: each counts once."""
    network = centered()
    network(IMAGES[:2], training=True)
    before, bias = network(IMAGES).numpy(), set_bias(network)
    change_of_means = kt.recenter(change(network), form(IMAGES))
    found = network(IMAGES).numpy()
    np.testing.assert_allclose(found.mean(0), bias, atol=1e-5)
    np.testing.assert_allclose(found, network(IMAGES, training=True), atol=1e-5)
    expected = before + bias - change_of_means
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_network_of_replicas_is_recentered_on_each(strategy):
    with strategy.scope():
        network = centered()
    layer = network.get_layer("centered_logits")
    kt.recenter(network, as_pairs(IMAGES))
    expected = plain()(IMAGES).numpy().mean(0)
    for copy in strategy.experimental_local_results(layer.moving_mean.value):
        np.testing.assert_allclose(copy, expected, atol=1e-5)


def test_only_what_has_centered_logits_is_recentered():
    with pytest.raises(ValueError, match=r"`center_logits`.*'pooled_convnet'"):
        kt.recenter(plain(), IMAGES)


def test_images_to_recenter_by_are_some_and_finite_and_nothing_is_lost():
    network = centered()
    kt.recenter(network, IMAGES)
    before = network(IMAGES).numpy()
    bad = np.where(np.arange(12)[:, None, None, None] == 7, np.nan, IMAGES)
    for images, message in (
        (IMAGES[:0], "at least one batch. Received: none"),
        (as_pairs(IMAGES).repeat(), "without an end"),
        (bad, r"batch to recenter by 0, 1 of 12 images with NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            kt.recenter(network, images)
    np.testing.assert_array_equal(network(IMAGES), before)


# Its gradients


def test_weights_follow_what_differs_between_images_and_the_bias_class_counts():
    """dW = sum_i (d_i - mean d) h_i^T and db = sum_i d_i, d the gradient of z."""
    network = centered()
    found = gradients(network, kt.discriminative_loss)
    features = keras.Model(network.input, network.get_layer("mean").output)(IMAGES)
    p = tf.nn.softmax(network(IMAGES, training=True)).numpy()
    d = (p - np.eye(CLASSES)[LABELS]) / len(LABELS)
    weights = features.numpy().T @ (d - d.mean(0))
    scale = np.abs(features.numpy().T @ d).max()
    np.testing.assert_allclose(found["classes/kernel"], weights, atol=1e-5 * scale)
    np.testing.assert_allclose(found["centered_logits/bias"], d.sum(0), atol=1e-6)
    np.testing.assert_allclose(found["classes/bias"], 0.0, atol=1e-6)
    assert np.abs(weights - features.numpy().T @ d).max() > 0.1 * scale


def test_images_that_are_all_alike_move_no_weight():
    """Whatever their labels; without it, class counts move all of them."""
    same = np.repeat(IMAGES[:1], 12, axis=0)
    for network, moves in ((centered(), False), (plain(), True)):
        found = gradients(network, kt.discriminative_loss, same)
        found.pop("centered_logits/bias", None)
        found.pop("classes/bias")
        sizes = np.array([np.abs(gradient).max() for gradient in found.values()])
        assert np.all(sizes > 1e-4) if moves else np.all(sizes < 1e-5)


def test_the_generative_objective_does_not_see_it():
    """Loss and gradients are those of the network: what is subtracted cancels."""
    one, other = centered(), plain()
    set_bias(one)
    loss = kt.generative_loss
    values = [loss(LABELS, net(IMAGES, training=True)) for net in (one, other)]
    np.testing.assert_allclose(*values, rtol=1e-5)
    found, expected = (gradients(net, loss) for net in (one, other))
    for path, gradient in expected.items():
        np.testing.assert_allclose(found[path], gradient, rtol=1e-3, atol=1e-5)


def test_neither_bias_is_moved_by_generative_training():
    found = {variable.path for variable in constants_per_class(centered())}
    assert found == {"centered_logits/bias", "classes/bias"}


# Who may use it


def of_replicas(labels, images):
    """Weights after three discriminative steps, and what the model then says."""
    model = kt.GenerativeClassifier(centered())
    model.compile(keras.optimizers.SGD(0.01), "discriminative")
    for _ in range(3):
        dataset = tf.data.Dataset.from_tensors((images, labels))
        model.fit(dataset, verbose=0)
    return model.get_weights(), model.predict(images, verbose=0)


def test_replicas_take_the_mean_of_the_whole_batch(strategy):
    """Of 11 images, six on one and five on the other."""
    images, labels = IMAGES[:11], LABELS[:11]
    expected, outputs = of_replicas(labels, images)
    with strategy.scope():
        found, of_both = of_replicas(labels, images)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(of_both, outputs, rtol=1e-4, atol=1e-5)


def test_densities_are_those_of_the_network():
    """A unit is moved by a constant, which no image changes."""
    network = centered()
    network(IMAGES, training=True)
    one, other = (kt.unit(net, class_index=3)(IMAGES) for net in (network, plain()))
    difference = one.numpy() - other.numpy()
    np.testing.assert_allclose(difference, difference[0], atol=1e-5)


def test_a_calibrated_model_is_saved_and_comes_back(tmp_path):
    model = kt.GenerativeClassifier(centered(momentum=0.8))
    model.compile("adam", "discriminative")
    model.fit(IMAGES, LABELS, epochs=2, verbose=0)
    model.calibrate(IMAGES, LABELS, prior=np.full(CLASSES, 1 / CLASSES))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(IMAGES), model(IMAGES))
    assert loaded.network.get_layer("centered_logits").momentum == 0.8


def test_half_precision_keeps_its_means_in_float32():
    layer = CenteredLogits(dtype="mixed_float16")
    found = layer(LOGITS.astype(np.float16), training=True)
    assert found.dtype == tf.float16 and layer.moving_mean.dtype == "float32"
    np.testing.assert_allclose(found, LOGITS - LOGITS.mean(0), atol=2e-2)


def test_a_sequential_network_will_do():
    network = keras.Sequential([keras.Input([4]), keras.layers.Dense(CLASSES)])
    images, found = np.eye(4), kt.center_logits(network)
    logits = network(images).numpy()
    expected = logits - logits.mean(0)
    np.testing.assert_allclose(found(images, training=True), expected, atol=1e-5)


@pytest.mark.parametrize("momentum", [-0.1, 1.0, 2])
def test_a_momentum_that_never_moves_is_refused(momentum):
    with pytest.raises(ValueError, match=r"`momentum` in \[0, 1\).*Received: "):
        kt.center_logits(plain(), momentum)


def test_probabilities_are_refused():
    network = keras.Sequential([keras.Input([4]), keras.layers.Dense(3, "softmax")])
    with pytest.raises(ValueError, match="softmax"):
        kt.center_logits(network)
