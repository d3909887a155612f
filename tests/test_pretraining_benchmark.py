"""Networks, images and phases of `benchmarks/pretraining`, which are controls.

What a control changes, and that it changes nothing else.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from benchmark_folders import modules_of

import keras_tilt as kt

IMAGES = np.random.default_rng(0).uniform(0, 255, [8, 16, 16, 3]).astype(np.float32)


@pytest.fixture(scope="module")
def found():
    """What the modules of the benchmark define, by module."""
    names = "networks", "images", "schemes", "common_part"
    yield from modules_of("pretraining", *names)


def built(found, network="pooled_convnet", normalization="group"):
    run = {"network": network, "normalization": normalization, "size": 16, "seed": 1}
    return found["networks"]["network"](run, 5)


def in_training(network, images=IMAGES):
    return network(images, training=True).numpy()


@pytest.mark.parametrize(
    ("network", "normalization", "depends"),
    [
        ("pooled_convnet", "group", False),
        ("pooled_convnet", "layer", False),
        ("pooled_convnet", "none", False),
        ("pooled_convnet", "moving", False),
        ("convnext", "layer", False),
        ("pooled_convnet", "batch", True),
        ("pooled_convnet", "ghost", True),
        ("pooled_convnet_batch_head", "group", True),
        ("pooled_convnet_centered", "group", True),
    ],
)
def test_logits_depend_on_the_batch_where_statistics_are_its_own(
    found, network, normalization, depends
):
    of_all = in_training(built(found, network, normalization))
    of_four = in_training(built(found, network, normalization), IMAGES[:4])
    assert np.allclose(of_all[:4], of_four, atol=1e-3) != depends


def test_a_ghost_is_the_batch_norm_of_a_quarter_of_the_batch(found):
    ghost, batch = (built(found, normalization=kind) for kind in ("ghost", "batch"))
    quarters = [in_training(batch, images) for images in np.split(IMAGES, 4)]
    np.testing.assert_allclose(in_training(ghost), np.concatenate(quarters), atol=1e-3)


@pytest.mark.parametrize("kind", ["ghost", "moving"])
def test_moving_statistics_become_those_of_the_images(found, kind):
    """So that an image is seen in use as it was in training."""
    norm = found["networks"]["KINDS"][kind](momentum=0.9)
    maps = np.random.default_rng(0).normal(3.0, 2.0, [8, 4, 4, 1]).astype(np.float32)
    for _ in range(200):
        norm(maps, training=True)
    parts = np.split(maps, found["networks"]["GHOSTS"]) if kind == "ghost" else [maps]
    np.testing.assert_allclose(norm.moving_mean, maps.mean(), rtol=0.02)
    variance = np.mean([part.var() for part in parts])
    np.testing.assert_allclose(norm.moving_variance, variance, rtol=0.05)


def test_outliers_follow_the_images_without_labels(found):
    source = kt.sources.arrays(np.uint8(np.tile(IMAGES, [10, 1, 1, 1])), [0, 1] * 40)
    kinds = found["schemes"]["OUTLIERS"]["mix+outliers"]
    both = found["images"]["with_outliers"](source, 30, 16, kinds)
    np.testing.assert_array_equal(both.labels, [0, 1] * 40 + [-1] * 30)
    expected = kt.outliers(source.fetch(tf.range(80)), 30, 0, kinds)
    found_pixels = both.fetch(tf.range(80, 110)).numpy()
    np.testing.assert_array_equal(found_pixels, np.uint8(np.round(expected)))


@pytest.mark.parametrize(
    "scheme", ["DG", "GG+DG", "mix+noise", "mix+outliers", "GG(u)+DG 10%", "ramp"]
)
def test_schemes_have_as_many_steps_whatever_their_images(found, scheme):
    labels = np.arange(320) % 5
    labels = np.where(np.arange(320) < 64, labels, -1) if "10%" in scheme else labels
    source = kt.sources.arrays(np.zeros([320, 16, 16, 3], np.uint8), labels)
    if scheme in ("mix+noise", "mix+outliers"):
        more = kt.sources.arrays(np.zeros([500, 16, 16, 3], np.uint8), [0] * 500)
        source = kt.sources.concatenated(source, kt.sources.unlabelled(more))
    run = {
        **{"scheme": scheme, "seed": 0, "batch_size": 32, "train_images": 320},
        **{"epochs": 4, "switch": 2, "mix_weight": 0.5, "queue": 2, "size": 16},
        **{"classes_per_batch": None, "pad": 2, "optimizer": "adamw"},
        **{"schedule": "restart", "learning_rate": 0.1, "refining_rate": 0.1},
        "weight_decay": 0.0,
    }
    phases = found["schemes"]["phases"](run, source)
    assert sum(phase.epochs for phase in phases) == 4
    for phase in phases:
        batches = [labels.numpy() for _, labels in phase.batches(0, 0)]
        assert len(batches) == 10
        shares = {np.mean(labels >= 0) for labels in batches}
        expected = 0.75 if scheme in ("mix+noise", "mix+outliers") else 1.0
        if scheme.startswith("GG(u)") and phase.objective == "generative":
            expected = 0.5
        assert shares == {expected}


@pytest.mark.parametrize("switch", [1, 2])
def test_a_cooldown_is_the_last_third_of_a_run_whatever_its_phases(found, switch):
    run = {
        **{"scheme": "GG+DG", "seed": 0, "batch_size": 32, "train_images": 320},
        **{"epochs": 3, "switch": switch, "queue": 0, "classes_per_batch": None},
        **{"optimizer": "adamw", "weight_decay": 0.0, "schedule": "cooldown"},
        "learning_rate": 0.1,
    }
    rates = []
    for phase in found["schemes"]["phases"](run, None):
        optimizer = phase.optimizer()
        for step in range(10 * phase.epochs):
            optimizer.iterations.assign(step)
            rates.append(float(optimizer.learning_rate))
    falling = 0.05 * (1 + np.cos(np.pi * np.arange(10) / 10))
    np.testing.assert_allclose(rates, [*np.full(20, 0.1), *falling], rtol=1e-5)


def test_what_is_centered_is_the_gradient_less_its_common_part(found):
    """Of z = W^T x: g = X^T d / n and c = X^T (d - mean d) / n."""
    linear = keras.Sequential([keras.Input([6]), keras.layers.Dense(4)])
    kernels, labels = linear.trainable_variables[:1], np.arange(8) % 3
    x = np.random.default_rng(0).normal(1.0, 1.0, [8, 6]).astype(np.float32)
    whole, centered = found["common_part"]["gradients"](linear, kernels, x, labels)
    d = tf.nn.softmax(linear(x)).numpy() - np.eye(4)[labels]
    np.testing.assert_allclose(whole[0], x.T @ d / 8, atol=1e-6)
    np.testing.assert_allclose(centered[0], x.T @ (d - d.mean(0)) / 8, atol=1e-6)


@pytest.mark.parametrize(("spread", "left"), [(0.0, 0.0), (1.0, None)])
def test_noise_of_images_that_are_alike_is_all_common(found, spread, left):
    """Otherwise it is the ratio of the traces, here of what NumPy finds."""
    linear = keras.Sequential([keras.Input([6]), keras.layers.Dense(4, name="classes")])
    rng = np.random.default_rng(0)
    x = 1 + spread * rng.normal(size=[5, 8, 6]).astype(np.float32)
    labels = rng.integers(0, 4, [5, 8])
    dataset = tf.data.Dataset.from_tensor_slices((x, labels))
    noise = found["common_part"]["noise_left"](linear, dataset)
    d = tf.nn.softmax(linear(x.reshape(-1, 6))).numpy().reshape(5, 8, 4)
    d -= np.eye(4)[labels]
    whole, centered = (
        np.einsum("bni,bnk->bik", x, part).var(0).sum()
        for part in (d, d - d.mean(1, keepdims=True))
    )
    expected = centered / whole if left is None else left
    np.testing.assert_allclose(list(noise.values()), [expected], atol=1e-3)


def test_a_gradient_that_is_always_zero_has_no_share_and_says_so(found):
    """Behind a ReLU that is off for every image."""
    dead = keras.Sequential(
        [keras.Input([6]), keras.layers.Dense(4), keras.layers.ReLU()]
    )
    dead.layers[0].bias.assign([-100.0] * 4)
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=[5, 8, 6]), rng.integers(0, 4, [5, 8])
    dataset = tf.data.Dataset.from_tensor_slices((x.astype(np.float32), labels))
    with pytest.raises(ValueError, match=r"dense.*/kernel that differs.*variance 0"):
        found["common_part"]["noise_left"](dead, dataset)


def test_noise_of_errors_that_know_no_feature_is_as_predicted(found):
    """Random labels, weights of 0: d and h are independent.

    Standard errors: of variances of 16,000 features .6 %, of the ratio of traces over
    2,000 batches and 9 dimensions 1.5 %. Allowed are four of them and more.
    """
    images = keras.Input([3])
    logits = keras.layers.Dense(4, kernel_initializer="zeros")(images)
    linear, rng = keras.Model(images, logits), np.random.default_rng(0)
    x = rng.normal([2.0, 0.0, 1.0], 1.0, [2000, 8, 3]).astype(np.float32)
    dataset = tf.data.Dataset.from_tensor_slices((x, rng.integers(0, 4, [2000, 8])))
    predicted = found["common_part"]["spread_of_features"](linear, dataset)
    np.testing.assert_allclose(predicted, 3 / (4 + 0 + 1 + 3), rtol=0.03)
    noise = found["common_part"]["noise_left"](linear, dataset)
    # Of n images, 1/n of what is centered goes with their mean.
    np.testing.assert_allclose(list(noise.values()), predicted * 7 / 8, rtol=0.06)
