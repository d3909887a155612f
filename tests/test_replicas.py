"""On N replicas the loss and every gradient equal those of one device.

N is 2, or the environment variable REPLICAS. The gradient is read from the momenta of
SGD after one step from rest: m = -lr g.
"""

import functools
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import slow_but

import keras_tilt as kt
from keras_tilt.training import evaluation, losses

IMAGES = np.random.default_rng(0).uniform(size=[64, 8, 8, 1]).astype(np.float32)
LABELS = np.random.default_rng(1).integers(-1, 4, 64).astype(np.int32)


def build_model(objective, **options):
    """A small network with convolution, penalty and output bias; compiled."""
    initializers = [keras.initializers.GlorotUniform(seed) for seed in range(2)]
    images = keras.Input([8, 8, 1])
    x = keras.layers.Conv2D(
        6, 3, activation="relu", kernel_initializer=initializers[0], name="conv"
    )(images)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(
        4, kernel_initializer=initializers[1], kernel_regularizer="l2", name="logits"
    )(x)
    model = kt.GenerativeClassifier(keras.Model(images, x))
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(optimizer, objective, metrics=["accuracy"], **options)
    return model


def built_model(strategy, objective, **options):
    """On all replicas, or without a strategy; and the state of a new one."""
    with (strategy or tf.distribute.get_strategy()).scope():
        model = build_model(objective, **options)
    return model, [tf.convert_to_tensor(each) for each in model.training_state]


kept_model = functools.cache(built_model)


def trained(objective, *data, strategy=None, epochs=1, **options):
    """Logs and state of a model that is new again: its graphs are traced once."""
    return fitted(*kept_model(strategy, objective, **options), *data, epochs=epochs)


def fitted(model, state, num_images, batch_size=64, epochs=1):
    """Logs of the last epoch; the optimizer's momenta, weights and queue."""
    for variable, value in zip(model.training_state, state, strict=True):
        variable.assign(value)
    dataset = tf.data.Dataset.from_tensor_slices(
        (IMAGES[:num_images], LABELS[:num_images])
    ).batch(batch_size)
    logs = model.fit(dataset, epochs=epochs, shuffle=False, verbose=0).history
    queue = model.reference_queue
    state = [*model.optimizer.momentums, *model.trainable_variables]
    state = [np.asarray(each) for each in state]
    rows = [] if queue is None else [queue.rows.numpy()]
    return {name: value[-1] for name, value in logs.items()}, state + rows


def relative_difference(ours, theirs):
    """|difference| / |tensor|, worst tensor; zero tensors must agree exactly."""
    return max(
        np.linalg.norm(a - b) / max(np.linalg.norm(b), np.finfo(np.float32).tiny)
        for a, b in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize(
    ("objective", "num_images", "batch_size"),
    slow_but(
        [("generative", 3, 64), (0.3, 50, 16), ("discriminative", 61, 64)],
        [
            (objective, *sizes)
            for objective in ("generative", "discriminative", 0.3)
            for sizes in ((61, 64), (3, 64), (50, 16))
        ],
    ),
)
def test_replicas_equal_one_device(strategy, objective, num_images, batch_size):
    """Of four replicas one gets nothing of three images, two nothing of two."""
    one = trained(objective, num_images, batch_size)
    many = trained(objective, num_images, batch_size, strategy=strategy)
    assert one[0].keys() == many[0].keys()
    for name, value in one[0].items():
        np.testing.assert_allclose(many[0][name], value, rtol=1e-5, err_msg=name)
    assert relative_difference(many[1], one[1]) < 1e-5


def test_an_empty_replica_changes_nothing(strategy):
    one = trained("discriminative", 33, 32)
    many = trained("discriminative", 33, 32, strategy=strategy)
    assert relative_difference(many[1], one[1]) < 1e-5


@pytest.mark.parametrize(
    "objective", [0.3, pytest.param("generative", marks=pytest.mark.slow)]
)
def test_replicas_with_a_queue_equal_one_device(strategy, objective):
    """Two epochs of batches of 16, 16, 16 and 2 images; the queue, too, is the same.

    The quick one is of both objectives at once.
    """
    options = {"epochs": 2, "queue": 3}
    one = trained(objective, 50, 16, **options)
    many = trained(objective, 50, 16, strategy=strategy, **options)
    assert "queue_drift" in one[0] and one[0].keys() == many[0].keys()
    for name, value in one[0].items():
        np.testing.assert_allclose(many[0][name], value, rtol=1e-5, err_msg=name)
    assert relative_difference(many[1], one[1]) < 1e-5


def test_replicas_with_a_scheduled_weight_equal_one_device(strategy):
    schedule = keras.optimizers.schedules.PolynomialDecay(1.0, 6, 0.0)
    one = trained(schedule, 50, 16, epochs=2)
    many = trained(schedule, 50, 16, epochs=2, strategy=strategy)
    for name, value in one[0].items():
        np.testing.assert_allclose(many[0][name], value, rtol=1e-5, err_msg=name)
    assert relative_difference(many[1], one[1]) < 1e-5


@pytest.mark.slow
def test_the_same_holds_for_four_replicas():
    """In a process of its own, as it needs a strategy of its own: minutes."""
    tests = "equal_one_device or test_a_softmax_local"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-k", tests]
    run = subprocess.run(
        [*command, __file__],
        env={**os.environ, "REPLICAS": "4"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:]


@pytest.mark.slow
def test_a_softmax_local_to_each_replica_would_be_seen(strategy, monkeypatch):
    """Of 64 images, and of 61."""
    true_ones = [trained("generative", num_images) for num_images in (64, 61)]
    monkeypatch.setattr(losses, "_num_replicas", lambda: 1)
    local = built_model(strategy, "generative")
    for num_images, one in zip((64, 61), true_ones, strict=True):
        naive = fitted(*local, num_images)
        ours, true = naive[0]["generative_loss"], one[0]["generative_loss"]
        assert abs(ours - true) > 1e-2 * abs(true), num_images
        assert relative_difference(naive[1], one[1]) > 1e-2, num_images


def test_only_numbers_per_class_are_gathered_across_replicas(strategy):
    gathered = []

    def step(labels, logits):
        context = tf.distribute.get_replica_context()
        original = context.all_gather

        def spy(value, axis):
            gathered.append(value.shape.num_elements())
            return original(value, axis)

        context.all_gather = spy
        return kt.generative_loss(labels, logits)

    tf.function(lambda: strategy.run(step, (LABELS, tf.zeros([64, 4]))))()
    assert gathered == 2 * [3 * 4 + 3]


def test_calibration_under_replicas_equals_one_device(strategy):
    labels = np.maximum(LABELS, 0)
    one = build_model("generative").calibrate(IMAGES, labels, batch_size=16)
    with strategy.scope():
        model = build_model("generative")
    two = model.calibrate(IMAGES, labels, batch_size=16)
    np.testing.assert_allclose(two.bias, one.bias, rtol=1e-5)
    np.testing.assert_allclose(
        model.predict(IMAGES, verbose=0),
        model.network.predict(IMAGES, verbose=0) + one.bias,
        rtol=1e-4,
        atol=1e-5,
    )


def test_so_do_predictions_and_a_calibration_by_functions_of_a_context(strategy):
    """Of a worker: of a process alone it is None, however many replicas it has."""
    labels = np.maximum(LABELS, 0)
    images = tf.data.Dataset.from_tensor_slices((IMAGES, labels)).batch(16)
    contexts = []

    def read(context):
        contexts.append(context)
        return images

    one = build_model("generative")
    with strategy.scope():
        two = build_model("generative")
    biases = one.calibrate(images).bias, two.calibrate(read).bias
    np.testing.assert_allclose(*biases, rtol=1e-5)
    expected = evaluation.predictions(one, images)
    for model in (one, two):
        found = evaluation.predictions(model, read)
        for part, of_one in zip(found, expected, strict=True):
            np.testing.assert_allclose(part, of_one, rtol=1e-4, atol=1e-5)
    assert contexts == [None] * 3


@pytest.mark.parametrize(
    "options", [{"steps_per_execution": 2}, {"jit_compile": True}], ids=str
)
def test_options_keras_cannot_replicate_are_refused(strategy, options):
    with strategy.scope():
        with pytest.raises(ValueError, match=f"{next(iter(options))}.*one device"):
            build_model("generative", **options)


@pytest.mark.parametrize(
    "options", [{"clipnorm": 1.0}, {"gradient_accumulation_steps": 2}], ids=str
)
def test_optimizers_keras_cannot_replicate_are_refused(strategy, options):
    with strategy.scope():
        model = build_model("generative")
        with pytest.raises(ValueError, match=f"optimizer.{next(iter(options))}"):
            model.compile(keras.optimizers.SGD(0.1, **options))


def test_loss_scaling_under_replicas_skips_the_step_on_all_of_them(strategy):
    """An overflow on the second replica only must leave every weight as it was."""
    labels = np.where(np.arange(64) < 32, -1, 1)  # no gradient on the first replica
    with strategy.scope():
        model = build_model("discriminative")
        optimizer = keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(0.1), initial_scale=1e38
        )
        model.compile(optimizer, objective="discriminative")
    before = [np.asarray(w) for w in model.trainable_variables]
    model.fit(1e4 * IMAGES, labels, batch_size=64, shuffle=False, verbose=0)
    after = [np.asarray(w) for w in model.trainable_variables]
    for first, second in zip(before, after, strict=True):
        np.testing.assert_array_equal(first, second)
