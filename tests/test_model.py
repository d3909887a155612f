"""GenerativeClassifier in `fit`: laws of the step, calibration, saving, bad input."""

import functools

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from cases import slow

import keras_tilt as kt

RANDOM = np.random.default_rng(0)
PROTOTYPES = RANDOM.uniform(size=[3, 6, 6, 1])
LABELS = RANDOM.integers(0, 3, 90).astype(np.int32)
IMAGES = (PROTOTYPES[LABELS] + 0.3 * RANDOM.standard_normal([90, 6, 6, 1])).astype(
    np.float32
)


def build_network(activation=None, num_classes=3, regularizer=None):
    """Convolution, dropout-free, to logits; equal weights at every call."""
    seeds = iter(range(3))

    def initializer():
        return keras.initializers.GlorotUniform(next(seeds))

    images = keras.Input([6, 6, 1])
    x = keras.layers.Conv2D(4, 3, activation="relu", kernel_initializer=initializer())(
        images
    )
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(
        num_classes,
        activation,
        kernel_initializer=initializer(),
        kernel_regularizer=regularizer,
        name="top",
    )(x)
    return keras.Model(images, x)


def build_model(objective="generative", optimizer=None, **options):
    """A compiled model on the small network."""
    model = kt.GenerativeClassifier(build_network())
    optimizer = optimizer or keras.optimizers.SGD(0.05, momentum=0.9)
    model.compile(optimizer, objective, metrics=["accuracy"], **options)
    return model


def falling(first, last, steps):
    return keras.optimizers.schedules.PolynomialDecay(first, steps, last)


def config_of(objective):
    return keras.saving.serialize_keras_object(objective)


@functools.cache
def kept_model(objective, **options):
    """A compiled model, and its state while it is new."""
    model = build_model(objective, **options)
    state = [tf.convert_to_tensor(variable) for variable in model.training_state]
    return model, state


def new_again(objective="generative", learning_rate=0.05, **options):
    """The one model with these options, put back to what `build_model` makes.

    Its graphs are traced once for all who use it, which must not compile it.
    """
    model, state = kept_model(objective, **options)
    for variable, value in zip(model.training_state, state, strict=True):
        variable.assign(value)
    model.optimizer.learning_rate = learning_rate
    return model


def fit(model, images=IMAGES, labels=LABELS, epochs=1, **options):
    """History of a short, unshuffled fit."""
    options = {"batch_size": 30, "shuffle": False, "verbose": 0, **options}
    return model.fit(images, labels, epochs=epochs, **options).history


def weights_of(model):
    """Trainable weights as arrays."""
    return [np.asarray(weight) for weight in model.trainable_variables]


def assert_same(first, second, **tolerance):
    """All arrays of two lists agree."""
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one, other, **tolerance)


def test_a_step_descends_the_generative_loss():
    model = new_again(learning_rate=0.1)
    before = weights_of(model)
    with tf.GradientTape() as tape:
        loss = kt.generative_loss(LABELS, model.network(IMAGES))
    gradients = tape.gradient(loss, model.trainable_variables)
    logs = fit(model, batch_size=90)
    expected = [w - 0.1 * g.numpy() for w, g in zip(before, gradients, strict=True)]
    assert_same(weights_of(model), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        logs["generative_loss"][0], loss.numpy() - np.log(90), rtol=1e-4, atol=1e-6
    )


def test_a_discriminative_fit_equals_stock_keras():
    ours = new_again("discriminative")
    stock = build_network()
    stock.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    weights = RANDOM.uniform(0.5, 2.0, 90).astype(np.float32)
    history = fit(ours, epochs=3, sample_weight=weights)
    expected = fit(stock, epochs=3, sample_weight=weights)
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-5)
    np.testing.assert_array_equal(history["accuracy"], expected["accuracy"])
    assert_same(weights_of(ours), weights_of(stock), rtol=1e-5, atol=1e-6)


def test_generative_training_separates_the_classes():
    history = fit(new_again(learning_rate=0.1), epochs=15)
    assert history["generative_loss"][-1] < history["generative_loss"][0] - 0.5
    assert history["calibrated_accuracy"][-1] > 0.95


@pytest.mark.parametrize(
    ("objective", "name"),
    [
        ("generative", "generative"),
        ("discriminative", "discriminative"),
        (0.3, "mixed"),
    ],
)
def test_the_logged_loss_says_which_objective_it_is(objective, name):
    logs = fit(new_again(objective), validation_data=(IMAGES, LABELS))
    assert {f"{name}_loss", f"val_{name}_loss", "loss", "val_loss"} <= logs.keys()
    assert ("kish_ess" in logs) == (objective != "discriminative")


def test_the_generative_loss_is_comparable_across_batch_sizes():
    """At zero logits it is 0, log of a ratio of equal densities, for every batch."""
    model = new_again()
    model.network.get_layer("top").kernel.assign(tf.zeros([64, 3]))
    for batch_size in (10, 90):
        logs = model.evaluate(
            IMAGES, LABELS, batch_size=batch_size, verbose=0, return_dict=True
        )
        np.testing.assert_allclose(logs["generative_loss"], 0.0, atol=1e-6)


def test_penalties_are_in_the_loss_and_not_in_the_objective():
    network = build_network(regularizer=keras.regularizers.L2(0.1))
    model = kt.GenerativeClassifier(network)
    model.compile("sgd", "generative")
    logs = model.evaluate(IMAGES, LABELS, batch_size=90, verbose=0, return_dict=True)
    penalty = 0.1 * np.sum(np.square(network.get_layer("top").kernel))
    np.testing.assert_allclose(logs["loss"] - logs["generative_loss"], penalty, 1e-5)


def test_metrics_of_a_batch_are_those_of_its_weights():
    model = new_again()
    labels = np.where(LABELS == 2, -1, LABELS)
    logs = model.evaluate(IMAGES, labels, batch_size=90, verbose=0, return_dict=True)
    logits = model.network.predict(IMAGES, verbose=0)
    kish = np.exp(
        2 * scipy.special.logsumexp(logits, axis=0)
        - scipy.special.logsumexp(2 * logits, axis=0)
    )
    np.testing.assert_allclose(logs["kish_ess"], kish[:2].mean(), rtol=1e-5)
    np.testing.assert_allclose(logs["absent_classes"], 1 / 3, rtol=1e-6)
    labelled = labels >= 0
    accuracy = np.mean(logits.argmax(1)[labelled] == labels[labelled])
    np.testing.assert_allclose(logs["accuracy"], accuracy, rtol=1e-6)


def test_the_output_bias_does_not_move_in_generative_training():
    """Neither by Adam, which moves by the sign of rounding, nor by SGD."""
    for model in (build_model(optimizer="adam"), new_again()):
        fit(model, epochs=5)
        bias = model.network.get_layer("top").bias
        name = model.optimizer.name
        np.testing.assert_array_equal(bias, np.zeros(3), err_msg=name)


def test_unlabelled_images_only_enter_the_sums_over_images():
    """Labels of -1 everywhere leave every weight as it is; some of them do not."""
    model = new_again()
    before = weights_of(model)
    fit(model, labels=np.full(90, -1))
    assert_same(weights_of(model), before, rtol=0)
    fit(model, labels=np.where(np.arange(90) % 2, LABELS, -1))
    assert not np.allclose(weights_of(model)[0], before[0])


# Calibration


def test_calibration_is_bayes_rule_over_the_data_set():
    model = new_again()
    fit(model)
    labels = np.where(np.arange(90) < 80, LABELS, -1)
    calibration = model.calibrate(IMAGES, labels, batch_size=7)
    logits = model.network.predict(IMAGES, verbose=0).astype(np.float64)
    log_partition = scipy.special.logsumexp(logits, axis=0) - np.log(90)
    log_prior = np.log(np.bincount(LABELS[:80]) / 80)
    np.testing.assert_allclose(calibration.log_partition, log_partition, rtol=1e-5)
    np.testing.assert_allclose(calibration.bias, log_prior - log_partition, rtol=1e-5)
    kish_ess = np.exp(logits).sum(0) ** 2 / np.exp(2 * logits).sum(0)
    np.testing.assert_allclose(calibration.kish_ess, kish_ess, rtol=1e-5)
    np.testing.assert_allclose(
        model.predict(IMAGES, verbose=0),
        logits + calibration.bias,
        rtol=1e-4,
        atol=1e-5,
    )


def test_calibration_turns_log_densities_into_the_exact_posterior():
    """F_y = log p_y(x)/q(x) + any constants: predictions become p(y|x)."""
    means, prior = np.array([-1.0, 0.0, 2.0]), np.array([0.2, 0.3, 0.5])
    labels = np.random.default_rng(0).choice(3, 20000, p=prior)
    x = means[labels] + np.random.default_rng(1).standard_normal(20000)
    log_density = -((x[:, None] - means) ** 2) / 2
    log_mixture = scipy.special.logsumexp(log_density + np.log(prior), axis=1)
    logits = log_density - log_mixture[:, None] + np.array([5.0, -7.0, 1.0])
    inputs = keras.Input([3])
    model = kt.GenerativeClassifier(
        keras.Model(inputs, keras.layers.Activation("linear")(inputs))
    )
    calibration = model.calibrate(logits.astype(np.float32), labels, prior=prior)
    exact = np.array([-5.0, 7.0, -1.0]) + np.log(prior)
    weights = np.exp(logits - logits.max(axis=0))
    relative = weights.std(axis=0) / weights.mean(axis=0) / np.sqrt(len(x))
    assert (np.abs(calibration.bias - exact) < 4 * relative).all()


def test_calibrating_twice_is_calibrating_once():
    model = new_again()
    first = model.calibrate(IMAGES, LABELS)
    assert_same(model.calibrate(IMAGES, LABELS), first, rtol=0)


def test_an_error_of_the_data_set_ends_a_calibration_in_its_sentence():
    def refuse(images):
        tf.debugging.Assert(False, ["keras_tilt: Too many images are unreadable."])
        return images, tf.zeros([4], tf.int32)

    batches = tf.data.Dataset.from_tensors(IMAGES[:4]).map(refuse)
    with pytest.raises(ValueError, match="^Too many images are unreadable"):
        new_again().calibrate(batches)


def test_discriminative_training_starts_from_the_calibrated_bias():
    model = build_model()
    fit(model, epochs=5)
    model.calibrate(IMAGES, LABELS)
    expected = kt.discriminative_loss(LABELS, model.predict(IMAGES, verbose=0))
    model.compile("sgd", "discriminative")
    logs = fit(model, batch_size=90)
    np.testing.assert_allclose(logs["loss"][0], expected, rtol=1e-5)


def test_the_running_calibration_agrees_with_the_exact_one_at_rest():
    """With frozen weights the running Z_y is the mean over the batches seen."""
    model = new_again(learning_rate=0.0)
    fit(model)
    log_share, log_partition = np.asarray(model.running_log_means)
    exact = model.calibrate(IMAGES, LABELS)
    np.testing.assert_allclose(log_partition, exact.log_partition, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(log_share, exact.log_prior, rtol=1e-5, atol=1e-6)


def test_the_running_calibration_starts_anew_from_an_exact_one():
    """Relative to the calibrated outputs Z_y is then the prior: accuracies agree."""
    model = new_again()
    fit(model, epochs=3)
    labels = np.where(np.arange(90) % 3, LABELS, -1)
    model.calibrate(IMAGES, labels)
    logs = model.evaluate(IMAGES, labels, verbose=0, return_dict=True)
    assert logs["calibrated_accuracy"] == pytest.approx(logs["accuracy"])
    exact = np.log(np.mean(np.exp(model.predict(IMAGES, verbose=0)), axis=0))
    shares = np.bincount(labels[labels >= 0]) / 90
    expected = [np.log(shares), exact]
    np.testing.assert_allclose(model.running_log_means, expected, atol=1e-4)


def test_bad_calibrations_are_refused_in_words():
    model = new_again()
    with pytest.raises(ValueError, match=r"every class.*\[1, 2\].*`prior`"):
        model.calibrate(IMAGES, np.zeros(90, np.int32))
    with pytest.raises(ValueError, match="3 positive class probabilities"):
        model.calibrate(IMAGES, LABELS, prior=[0.5, 0.5, 0.0])
    with pytest.raises(ValueError, match="at least one batch"):
        model.calibrate(tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).take(0))
    broken = IMAGES.copy()
    broken[40] = np.nan
    with pytest.raises(ValueError, match="calibration batch 1, 1 of 30 images"):
        model.calibrate(broken, LABELS, batch_size=30)
    with pytest.raises(ValueError, match=r"`labels` must lie in \[-1, 3\)"):
        model.calibrate(IMAGES, LABELS + 1)
    with pytest.raises(TypeError, match="must be integers"):
        model.calibrate(IMAGES, LABELS.astype(np.float32))
    np.testing.assert_array_equal(model.calibration_bias, np.zeros(3))


# Keras's own ways


@pytest.mark.parametrize(
    "objective", [0.3, falling(1.0, 0.2, 12)], ids=["number", "schedule"]
)
def test_a_saved_model_comes_back_in_the_middle_of_training(tmp_path, objective):
    """Weights, optimizer state, calibration, objective: training goes on the same."""
    model = build_model(objective, optimizer="adam")
    fit(model, epochs=2)
    model.calibrate(IMAGES, LABELS)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert config_of(loaded.objective) == config_of(objective)
    for attribute in ("calibration_bias", "running_log_means"):
        np.testing.assert_array_equal(
            getattr(loaded, attribute), getattr(model, attribute)
        )
    assert int(loaded.optimizer.iterations) == 6
    np.testing.assert_array_equal(
        loaded.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0)
    )
    assert fit(loaded, epochs=2) == fit(model, epochs=2)
    assert_same(weights_of(loaded), weights_of(model), rtol=0)


def test_the_config_round_trips():
    model = build_model()
    twin = kt.GenerativeClassifier.from_config(model.get_config())
    assert twin.get_config() == model.get_config()
    assert twin.name == model.name and twin.num_classes == 3


def test_steps_per_execution_changes_nothing():
    one = fit(new_again(), epochs=2)
    many_model = build_model(steps_per_execution=3)
    many = fit(many_model, epochs=2)
    np.testing.assert_allclose(many["loss"], one["loss"], rtol=1e-6)


def test_callbacks_stop_and_checkpoint(tmp_path):
    model = new_again()
    path = tmp_path / "best.keras"
    history = fit(
        model,
        epochs=20,
        validation_data=(IMAGES, LABELS),
        callbacks=[
            keras.callbacks.EarlyStopping("val_loss", min_delta=10.0),
            keras.callbacks.ModelCheckpoint(path, save_best_only=True),
            keras.callbacks.BackupAndRestore(tmp_path / "backup"),
        ],
    )
    assert len(history["loss"]) == 2
    assert keras.models.load_model(path).objective == "generative"


def test_mixed_precision_trains_with_float32_logits():
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = build_model()
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert model.network(IMAGES[:2]).dtype == tf.float16
    assert model(IMAGES[:2]).dtype == tf.float32
    history = fit(model, epochs=10)
    assert history["generative_loss"][-1] < history["generative_loss"][0] - 0.2


def test_eager_steps_equal_graph_steps():
    eager, graph = fit(build_model(run_eagerly=True)), fit(new_again())
    for name, value in graph.items():
        np.testing.assert_allclose(eager[name], value, rtol=1e-5, err_msg=name)


@pytest.mark.slow
def test_xla_steps_equal_graph_steps():
    """The quick test is of those with a queue."""
    xla, graph = fit(build_model(jit_compile=True)), fit(new_again())
    for name, value in graph.items():
        np.testing.assert_allclose(xla[name], value, atol=1e-5, err_msg=name)


def test_weighted_metrics_get_the_weights_of_labelled_images():
    model = kt.GenerativeClassifier(build_network())
    model.compile("sgd", weighted_metrics=["accuracy"])
    labels = np.where(np.arange(90) % 2, LABELS, -1)
    weights = RANDOM.uniform(size=90).astype(np.float32)
    logs = model.evaluate(
        IMAGES, labels, sample_weight=weights, verbose=0, return_dict=True
    )
    right = model.predict(IMAGES, verbose=0).argmax(1) == labels
    expected = np.sum((right * weights)[1::2]) / np.sum(weights[1::2])
    np.testing.assert_allclose(logs["accuracy"], expected, rtol=1e-5)


# A queue of past batches


def pooled_gradient(labels, logits, past):
    """dL_G/dF of a batch, Z and rho those of all images so far, in float64; L_G."""
    everyone = np.concatenate([each[1] for each in [(labels, logits), *past]])
    all_labels = np.concatenate([labels, *(each[0] for each in past)])
    log_sum = scipy.special.logsumexp(everyone, axis=0)
    log_sum += np.log(len(logits) / len(everyone))
    mass = len(logits) * np.bincount(all_labels, minlength=3) / len(everyone)
    own = np.eye(3)[labels]
    value = np.mean((log_sum - logits)[own > 0])
    return (mass * np.exp(logits - log_sum) - own) / len(logits), value


@pytest.mark.parametrize("generative_weight", [1.0, 0.3])
def test_a_step_with_a_queue_pools_the_logits_of_past_batches(generative_weight):
    """Two steps; the second knows of the first, and its gradient only of itself."""
    a = generative_weight
    sgd = keras.optimizers.SGD(0.5)
    model, alone = (
        build_model(a, keras.optimizers.SGD(0.5), queue=queue) for queue in (1, 0)
    )
    network, past, objectives = build_network(), [], []
    sgd.build(network.trainable_variables)
    for images, labels in ((IMAGES[i : i + 30], LABELS[i : i + 30]) for i in (0, 30)):
        with tf.GradientTape() as tape:
            logits = network(images)
        F = logits.numpy().astype(np.float64)
        generative, value = pooled_gradient(labels, F, past)
        log_softmax = scipy.special.log_softmax(F, axis=1)
        own = np.eye(3)[labels]
        of_rows = (np.exp(log_softmax) - own) / len(labels)
        upstream = tf.constant(a * generative + (1 - a) * of_rows, tf.float32)
        variables = network.trainable_variables[: 3 if a == 1.0 else 4]
        gradients = tape.gradient(logits, variables, output_gradients=upstream)
        sgd.apply(gradients, variables)
        nll = -np.mean(log_softmax[own > 0])
        objectives.append(a * (value - np.log(len(labels))) + (1 - a) * nll)
        past = [(labels, F)]
    logs = fit(model, IMAGES[:60], LABELS[:60])
    fit(alone, IMAGES[:60], LABELS[:60])
    expected = [np.asarray(weight) for weight in network.trainable_variables]
    assert_same(weights_of(model), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(logs["loss"], np.mean(objectives), rtol=1e-5, atol=1e-6)
    assert np.abs(weights_of(alone)[2] - expected[2]).max() > 1e-3


def test_the_queue_holds_the_statistics_of_the_last_batches_at_their_own_weights():
    model = new_again("generative", 0.0, queue=2)
    fit(model, IMAGES[:80], LABELS[:80])
    F = model.network.predict(IMAGES, verbose=0).astype(np.float64)
    rows = model.reference_queue.rows.numpy()
    for row, kept in zip(rows, (slice(60, 80), slice(30, 60)), strict=True):
        log_sum = scipy.special.logsumexp(F[kept], axis=0)
        squares = np.exp(scipy.special.logsumexp(2 * F[kept], axis=0) - 2 * log_sum)
        mass = np.bincount(LABELS[kept], minlength=3)
        expected = np.concatenate([log_sum, squares, mass, [len(F[kept])]])
        np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-6)


def test_weights_at_rest_do_not_drift():
    """At a learning rate of 0 a batch of all images repeats itself."""
    model = new_again("generative", 0.0, queue=2)
    logs = fit(model, batch_size=90, epochs=5)
    np.testing.assert_allclose(logs["queue_drift"], 0.0, atol=1e-6)
    moving = new_again("generative", queue=2)
    assert np.abs(fit(moving, batch_size=90, epochs=5)["queue_drift"][-1]) > 1e-3


@pytest.mark.parametrize("objective", ["generative", slow(0.3)])
def test_the_drift_is_logged_where_there_is_a_queue_and_only_in_training(objective):
    options = {"validation_data": (IMAGES, LABELS)}
    assert "queue_drift" not in fit(new_again(objective), **options)
    model = new_again(objective, queue=2)
    logs = fit(model, **options)
    assert "queue_drift" in logs and "val_queue_drift" not in logs
    before = model.reference_queue.rows.numpy()
    results = model.evaluate(IMAGES, LABELS, verbose=0, return_dict=True)
    assert "queue_drift" not in results
    np.testing.assert_array_equal(model.reference_queue.rows, before)
    without = new_again(objective)
    without.set_weights(model.get_weights())
    expected = without.evaluate(IMAGES, LABELS, verbose=0, return_dict=True)
    assert results == expected


def test_a_queue_without_an_objective_that_uses_it_is_refused():
    for objective in ("discriminative", 0.0):
        with pytest.raises(ValueError, match="`queue` is for.*queue=2.*Leave it out"):
            build_model(objective, queue=2)
    assert build_model("discriminative", queue=0).reference_queue is None


@pytest.mark.parametrize("queue", [-1, 1.5, True, "3", None], ids=repr)
def test_lengths_of_a_queue_are_counts(queue):
    with pytest.raises((TypeError, ValueError), match="`queue` must be"):
        build_model(queue=queue)


def test_the_queue_is_state_of_the_training_and_not_of_the_model(tmp_path):
    """It is not in the file; its length is, and it starts empty."""
    model = new_again(queue=2)
    empty = model.reference_queue.rows.numpy()
    fit(model, epochs=2)
    assert model.training_state[-1] is model.reference_queue.rows
    assert len(model.training_state) == len(new_again().training_state) + 2
    assert len(model.variables) == len(new_again().variables)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.reference_queue.rows, empty)
    predicted = model.predict(IMAGES, verbose=0)
    np.testing.assert_array_equal(loaded.predict(IMAGES, verbose=0), predicted)
    bare = keras.models.load_model(tmp_path / "model.keras", compile=False)
    assert bare.reference_queue is None
    np.testing.assert_array_equal(bare.predict(IMAGES, verbose=0), predicted)
    assert loaded.get_compile_config()["queue"] == 2
    loaded.reference_queue.rows.assign(model.reference_queue.rows)
    assert fit(loaded) == fit(model)
    assert_same(weights_of(loaded), weights_of(model), rtol=0)


def test_compiling_anew_empties_the_queue():
    model = build_model(queue=2)
    empty = model.reference_queue.rows.numpy()
    fit(model)
    model.compile("sgd", queue=2)
    np.testing.assert_array_equal(model.reference_queue.rows, empty)
    model.compile("sgd", "discriminative")
    assert model.reference_queue is None
    assert "queue_drift" not in fit(model)


@pytest.mark.parametrize(
    "options",
    [slow({"jit_compile": True}), {"run_eagerly": True}, {"steps_per_execution": 3}],
    ids=str,
)
def test_steps_with_a_queue_are_the_same_however_they_are_run(options):
    models = [build_model(queue=2, **options), new_again(queue=2)]
    ours, expected = (fit(model, epochs=2) for model in models)
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(ours[name], value, atol=1e-5, err_msg=name)
    rows = [model.reference_queue.rows.numpy() for model in models]
    np.testing.assert_allclose(*rows, rtol=1e-5, atol=1e-5)


# Bad input


def test_nan_images_stop_the_fit_name_the_batch_and_leave_the_weights():
    """In a graph, and run eagerly."""
    images = IMAGES.copy()
    images[[65, 70]] = np.nan
    model = new_again()
    fit(model, IMAGES[:60], LABELS[:60])
    expected = weights_of(model)
    for model in (new_again(), build_model(run_eagerly=True)):
        with pytest.raises(
            ValueError, match="batch of training step 2, 2 of 30 images"
        ):
            fit(model, images)
        assert_same(weights_of(model), expected, rtol=1e-6)


def test_diverged_weights_are_told_from_bad_images():
    model = new_again()
    model.network.get_layer("top").kernel.assign(np.full([64, 3], np.nan, np.float32))
    with pytest.raises(ValueError, match="0 of 30 images.*lower the learning rate"):
        fit(model)
    with pytest.raises(ValueError, match="an evaluation batch"):
        model.evaluate(IMAGES, LABELS, verbose=0)


def test_images_of_any_number_type_are_accepted():
    """Integers, and pixels whose sum over an image no float16 can hold.

    As data sets: Keras turns arrays into float32 itself.
    """

    pixels = 2000 + np.round(10 * IMAGES)  # every one exact in float16

    def losses(dtype):
        images = pixels.astype(dtype)
        data = tf.data.Dataset.from_tensor_slices((images, LABELS)).batch(30)
        model = new_again(learning_rate=1e-7)
        return model.fit(data, shuffle=False, verbose=0).history["loss"]

    expected = losses(np.float32)
    for dtype in (np.float16, np.int32):
        np.testing.assert_allclose(losses(dtype), expected, rtol=1e-6)


def test_the_last_checkpoint_survives_a_bad_batch(tmp_path):
    images = np.concatenate([IMAGES, IMAGES])
    images[100] = np.inf
    model = new_again()
    checkpoint = keras.callbacks.ModelCheckpoint(
        tmp_path / "step{batch}.keras", save_freq=1
    )
    with pytest.raises(ValueError, match="training step 3"):
        fit(model, images, np.tile(LABELS, 2), callbacks=[checkpoint])
    loaded = keras.models.load_model(tmp_path / "step3.keras")
    assert np.isfinite(loaded.predict(IMAGES, verbose=0)).all()


def test_labels_are_checked_against_the_classes():
    with pytest.raises(ValueError, match=r"\[-1, 3\)"):
        fit(new_again(), labels=LABELS + 1)
    with pytest.raises(TypeError, match="must be integers"):
        fit(new_again(), labels=LABELS.astype(np.float32))
    with pytest.raises(ValueError, match="need labels"):
        new_again().fit(IMAGES, verbose=0)
    with pytest.raises(ValueError, match=r"one class index per row.*, 4\)"):
        fit(build_model(), labels=np.eye(4, dtype=np.int32)[LABELS])


def test_a_schedule_is_the_weight_of_every_step():
    """Of one step each, by models that are compiled anew: a = 1, 3/4, 1/2, 1/4, 0."""
    scheduled, by_hand = build_model(falling(1.0, 0.0, 4)), build_model(1.0)
    for step in range(5):
        by_hand.compile(keras.optimizers.SGD(0.05), 1.0 - step / 4)
        expected = by_hand.train_on_batch(IMAGES, LABELS, return_dict=True)
        if not step:
            scheduled.compile(keras.optimizers.SGD(0.05), falling(1.0, 0.0, 4))
        found = scheduled.train_on_batch(IMAGES, LABELS, return_dict=True)
        np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-5)
        # A constant per class stays as it is in generative training alone.
        assert_same(weights_of(scheduled), weights_of(by_hand), rtol=1e-4, atol=1e-6)
    evaluated = [m.evaluate(IMAGES, LABELS, verbose=0) for m in (scheduled, by_hand)]
    np.testing.assert_allclose(evaluated[0][0], evaluated[1][0], rtol=1e-5)


def test_its_loss_is_mixed_whatever_the_weight_is():
    logs = fit(new_again(falling(1.0, 0.0, 4)), validation_data=(IMAGES, LABELS))
    assert {"mixed_loss", "val_mixed_loss", "kish_ess"} <= logs.keys()


def test_a_schedule_that_leaves_the_unit_interval_is_told_and_moves_no_weight():
    model = build_model(falling(1.0, -1.0, 2))
    for _ in range(2):
        model.train_on_batch(IMAGES, LABELS)
    before = weights_of(model)
    with pytest.raises(ValueError, match=r"in \[0, 1\].*Received: -1 at step 2\. Pass"):
        fit(model)
    assert_same(weights_of(model), before, rtol=0)


@pytest.mark.parametrize("objective", ["energy", -0.1, 1.5, None])
def test_unknown_objectives_are_refused(objective):
    with pytest.raises(ValueError, match='"generative", "discriminative" or a number'):
        build_model(objective)


def test_networks_without_logits_are_refused():
    images = keras.Input([6, 6, 1])
    with pytest.raises(ValueError, match=r"\[batch, classes\].*\(None, 4, 4, 2\)"):
        kt.GenerativeClassifier(keras.Model(images, keras.layers.Conv2D(2, 3)(images)))
    with pytest.raises(ValueError, match="must end in logits.*'top'"):
        kt.GenerativeClassifier(build_network("softmax"))
    with pytest.raises(ValueError, match="two classes"):
        kt.GenerativeClassifier(build_network(num_classes=1))
    with pytest.raises(ValueError, match="keras.Model.*function"):
        kt.GenerativeClassifier(lambda x: x)


class Subclassed(keras.Model):
    """A model with a call of its own."""

    def __init__(self):
        super().__init__()
        self.network = build_network()

    def call(self, images):
        return self.network(images)


@pytest.mark.parametrize("is_built", [False, True])
def test_a_subclassed_network_is_trained_as_the_error_says(is_built):
    network, images = Subclassed(), keras.Input([6, 6, 1])
    if is_built:
        network(IMAGES)
    with pytest.raises(
        ValueError, match=r"Subclassed without a graph.*keras.Model\(x,"
    ):
        kt.GenerativeClassifier(network)
    model = kt.GenerativeClassifier(keras.Model(images, network(images)))
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "generative")
    ours = fit(model)["loss"]
    np.testing.assert_allclose(ours, fit(new_again())["loss"], rtol=1e-5)
