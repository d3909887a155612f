"""CaffeSGD is its formula, on one device and on several, and survives its config."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tilt as kt
from keras_tilt.training.optimizers import Continued, WarmUp

EPSILON = np.finfo(np.float32).eps
SHAPES = {"kernel": [3, 4], "bias": [4]}
FACTORS = [1.0, 2.0]


def gradients_of(num_steps):
    """Random gradients, one [3, 4] and one [4] per step."""
    random = np.random.default_rng(0)
    return [
        [random.standard_normal(shape).astype(np.float32) for shape in SHAPES.values()]
        for _ in range(num_steps)
    ]


def variables_of(value):
    """A kernel and a bias filled with one number."""
    return [
        keras.Variable(np.full(shape, value, np.float32), name=name)
        for name, shape in SHAPES.items()
    ]


def caffe_recursion(weights, gradients, rates, momentum, l2, of_bias=1.0):
    """v <- momentum v - lr m (g + d l2 w), w <- w + v in float64; d = `of_bias`."""
    weights = [w.astype(np.float64) for w in weights]
    velocities = [np.zeros_like(w) for w in weights]
    for rate, step in zip(rates, gradients, strict=True):
        for w, v, g, m, d in zip(
            weights, velocities, step, FACTORS, [1.0, of_bias], strict=True
        ):
            v[:] = momentum * v - rate * m * (g + d * l2 * w)
            w += v
    return weights


def inverse_decay(step, initial, gamma, power):
    return initial * (1 + gamma * np.asarray(step, np.float64)) ** -power


@pytest.fixture(params=["one device", "replicas"])
def any_strategy(request):
    """The default strategy, and the shared one of several replicas."""
    if request.param == "replicas":
        return request.getfixturevalue("strategy")
    return tf.distribute.get_strategy()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_weights_follow_caffes_recursion(any_strategy, momentum):
    """Each replica hands in its share of the gradient; the shares add up."""
    decay = {"gamma": 0.5, "power": 0.75}
    with any_strategy.scope():
        variables = variables_of(1.0)
        schedule = kt.InverseDecay(0.1, **decay)
        optimizer = kt.CaffeSGD(schedule, momentum=momentum, l2=0.2)
        optimizer.build(variables)
    start = [variable.numpy() for variable in variables]

    def replica_step(*gradients):
        shares = [g / any_strategy.num_replicas_in_sync for g in gradients]
        optimizer.apply(shares, variables)

    @tf.function
    def step(*gradients):
        any_strategy.run(replica_step, gradients)

    gradients = gradients_of(8)
    for gradient in gradients:
        step(*map(tf.constant, gradient))
    rates = inverse_decay(np.arange(8), 0.1, **decay)
    expected = caffe_recursion(start, gradients, rates, momentum, 0.2)
    for variable, weights in zip(variables, expected, strict=True):
        np.testing.assert_allclose(variable.numpy(), weights, atol=100 * EPSILON)


def test_weight_decay_enters_the_momentum():
    """Without gradients: v1 = -lr l2 w0, and its echo remains in the second step."""
    variable = keras.Variable(np.ones([5], np.float32), name="kernel")
    optimizer = kt.CaffeSGD(0.1, momentum=0.5, l2=0.4)
    path = []
    for _ in range(2):
        optimizer.apply([tf.zeros([5])], [variable])
        path.append(variable.numpy()[0])
    first = 1 - 0.1 * 0.4
    second = first + 0.5 * (first - 1) - 0.1 * 0.4 * first
    np.testing.assert_allclose(path, [first, second], rtol=4 * EPSILON)


@pytest.mark.parametrize("of_bias", [0.0, 0.5, 1.0, 3.0])
def test_the_penalty_of_biases_has_a_factor_of_its_own(of_bias):
    variables = variables_of(1.0)
    optimizer = kt.CaffeSGD(0.1, momentum=0.9, l2=0.2, bias_l2_multiplier=of_bias)
    start = [variable.numpy() for variable in variables]
    gradients = gradients_of(8)
    for gradient in gradients:
        optimizer.apply(gradient, variables)
    expected = caffe_recursion(start, gradients, np.full(8, 0.1), 0.9, 0.2, of_bias)
    for variable, weights in zip(variables, expected, strict=True):
        np.testing.assert_allclose(variable.numpy(), weights, atol=100 * EPSILON)


def test_unless_told_biases_are_penalized_as_weights_are():
    paths = []
    for options in ({}, {"bias_l2_multiplier": 1.0}, {"bias_l2_multiplier": 0.0}):
        variables = variables_of(1.0)
        optimizer = kt.CaffeSGD(0.1, l2=0.2, **options)
        for gradient in gradients_of(3):
            optimizer.apply(gradient, variables)
        paths.append(np.concatenate([np.ravel(v.numpy()) for v in variables]))
    np.testing.assert_array_equal(paths[0], paths[1])
    np.testing.assert_array_equal(paths[0][:12], paths[2][:12])
    assert (np.abs(paths[0][12:] - paths[2][12:]) > 0.01).all()


def test_biases_learn_twice_as_fast():
    """From rest a unit gradient moves a kernel by -lr and a bias by -2 lr."""
    network = kt.lenet()
    variables = network.trainable_variables
    before = [variable.numpy() for variable in variables]
    optimizer = kt.CaffeSGD(0.125, l2=0.0)
    optimizer.apply([tf.ones(variable.shape) for variable in variables], variables)
    for variable, old in zip(variables, before, strict=True):
        factor = {"kernel": 1.0, "bias": 2.0}[variable.name]
        move = (variable.numpy() - old) / -0.125
        np.testing.assert_allclose(
            move, factor, rtol=8 * EPSILON, err_msg=variable.path
        )


def test_a_bias_multiplier_of_one_treats_all_alike():
    variables = variables_of(0.0)
    optimizer = kt.CaffeSGD(0.25, bias_multiplier=1.0)
    optimizer.apply([tf.ones(variable.shape) for variable in variables], variables)
    for variable in variables:
        np.testing.assert_array_equal(variable.numpy(), np.full(variable.shape, -0.25))


@pytest.mark.parametrize("step", [0, 1, 10, 23450])
def test_inverse_decay_is_caffes_inv(step):
    schedule = kt.InverseDecay(0.01, gamma=1e-4, power=0.75)
    expected = inverse_decay(step, 0.01, 1e-4, 0.75)
    np.testing.assert_allclose(schedule(tf.constant(step)), expected, rtol=8 * EPSILON)


def test_inverse_decay_is_constant_without_power_or_gamma():
    for still in ({"gamma": 0.0}, {"power": 0.0}):
        schedule = kt.InverseDecay(0.5, **still)
        np.testing.assert_array_equal(schedule(1000), np.float32(0.5))


SCHEDULES = {
    "inverse": kt.InverseDecay(0.1, gamma=0.2, power=0.75),
    "steps": keras.optimizers.schedules.PiecewiseConstantDecay(
        [3, 7], [0.1, 0.01, 0.001]
    ),
    "cosine": keras.optimizers.schedules.CosineDecay(0.1, 10),
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
@pytest.mark.parametrize("steps", [0, 4, 9])
def test_continued_is_the_tail_of_the_schedule(schedule, steps):
    continued = Continued(schedule, steps)
    for step in range(5):
        ours, expected = (
            continued(tf.constant(step)),
            schedule(tf.constant(steps + step)),
        )
        np.testing.assert_array_equal(ours, expected)


def test_a_new_optimizer_continues_the_path_of_the_old_one():
    """Without momentum the rate is all that an optimizer remembers."""
    gradients, schedule = gradients_of(7), SCHEDULES["inverse"]
    whole, parts = variables_of(1.0), variables_of(1.0)
    rates = [schedule, schedule, Continued(schedule, 3)]
    one, first, second = (kt.CaffeSGD(rate, momentum=0.0) for rate in rates)
    for step, gradient in enumerate(gradients):
        one.apply(gradient, whole)
        (first if step < 3 else second).apply(gradient, parts)
    for ours, expected in zip(parts, whole, strict=True):
        np.testing.assert_array_equal(ours.numpy(), expected.numpy())


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
@pytest.mark.parametrize("steps", [1, 4])
def test_warm_up_rises_in_equal_steps_to_the_schedule(schedule, steps):
    ours = [float(WarmUp(schedule, steps)(tf.constant(step))) for step in range(9)]
    expected = [
        float(schedule(tf.constant(step))) * min(1.0, (step + 1) / steps)
        for step in range(9)
    ]
    np.testing.assert_allclose(ours, expected, rtol=4 * EPSILON)


def test_an_optimizer_counts_its_steps_into_the_warm_up():
    """Unit gradients and no momentum: a weight falls by the sum of the rates."""
    kernel = keras.Variable(np.zeros([2], np.float32), name="kernel")
    schedule = WarmUp(kt.InverseDecay(0.5, power=0.0), 4)
    optimizer = kt.CaffeSGD(schedule, momentum=0.0, l2=0.0)
    for _ in range(6):
        optimizer.apply([tf.ones([2])], [kernel])
    total = 0.5 * (1 + 2 + 3 + 4 + 4 + 4) / 4
    np.testing.assert_allclose(kernel.numpy(), -total, rtol=8 * EPSILON)


def arguments_of(*classes):
    """Names of the constructor arguments of a class and of those it passes on to."""
    names = {name for c in classes for name in inspect.signature(c).parameters}
    return names - {"kwargs"}


@pytest.mark.parametrize(
    "original, arguments",
    [
        (kt.InverseDecay(0.1, gamma=0.2, power=0.3), arguments_of(kt.InverseDecay)),
        (
            kt.CaffeSGD(
                kt.InverseDecay(0.1, gamma=0.2, power=0.3),
                momentum=0.4,
                l2=0.5,
                bias_multiplier=0.6,
                bias_l2_multiplier=0.8,
                clipnorm=0.7,
                name="other",
            ),
            arguments_of(kt.CaffeSGD, keras.optimizers.SGD),
        ),
        (Continued(SCHEDULES["inverse"], 5), arguments_of(Continued)),
        (WarmUp(Continued(SCHEDULES["cosine"], 5), 7), arguments_of(WarmUp)),
    ],
    ids=["InverseDecay", "CaffeSGD", "Continued", "WarmUp"],
)
def test_configs_round_trip(original, arguments):
    config = original.get_config()
    assert config.keys() == arguments
    serialized = keras.saving.serialize_keras_object(original)
    assert serialized["registered_name"].startswith("keras_tilt>")
    twin = keras.saving.deserialize_keras_object(serialized)
    assert type(twin) is type(original)
    assert twin.get_config() == config
    assert type(original).from_config(original.get_config()).get_config() == config


def test_the_arguments_arrive():
    """A config that dropped an argument on both ways would also round-trip."""
    expected = {
        "learning_rate": 0.25,
        "momentum": 0.5,
        "l2": 0.75,
        "bias_multiplier": 3.0,
        "bias_l2_multiplier": 0.125,
    }
    assert expected.items() <= kt.CaffeSGD(**expected).get_config().items()


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_schedules_made_of_others_compute_the_same_after_a_round_trip(schedule):
    original = WarmUp(Continued(schedule, 5), 3)
    serialized = keras.saving.serialize_keras_object(original)
    twin = keras.saving.deserialize_keras_object(serialized)
    assert type(twin.schedule) is Continued
    for step in range(6):
        np.testing.assert_array_equal(twin(step), original(step))


def test_a_model_saved_with_them_trains_on_the_same(tmp_path):
    random = np.random.default_rng(0)
    images = random.standard_normal([20, 3]).astype(np.float32)
    labels = random.integers(0, 2, 20)
    inputs = keras.Input([3])
    model = kt.GenerativeClassifier(
        keras.Model(inputs, keras.layers.Dense(2, name="top")(inputs))
    )
    schedule = WarmUp(Continued(SCHEDULES["inverse"], 2), 6)
    optimizer = kt.CaffeSGD(schedule, l2=0.1, bias_l2_multiplier=0.0)
    model.compile(optimizer, "discriminative")
    options = {"batch_size": 5, "shuffle": False, "verbose": 0}
    model.fit(images, labels, **options)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    for each in (model, loaded):
        each.fit(images, labels, **options)
    np.testing.assert_array_equal(loaded.predict(images), model.predict(images))
    expected = inverse_decay(8 + 2, 0.1, 0.2, 0.75)
    np.testing.assert_allclose(loaded.optimizer.learning_rate, expected, rtol=1e-6)
