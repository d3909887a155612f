"""Labels in every form Keras's users have them, and weights, in `fit` and beside it."""

import functools

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from cases import slow_but
from test_model import IMAGES, LABELS, build_model, fit, new_again, weights_of

import keras_tilt as kt

FORMS = {
    **{name: LABELS.astype(name) for name in ("uint8", "int16", "uint64")},
    "a column of bytes": LABELS.astype(np.uint8)[:, np.newaxis],
    "one-hot": keras.utils.to_categorical(LABELS, 3),
    "one-hot integers": np.eye(3, dtype=np.int64)[LABELS],
}


@functools.cache
def expected(objective):
    """Logs of fit and evaluate, and weights, of int32 labels."""
    return results(objective, LABELS)


def results(objective, labels):
    """Logs and weights of a model that was given no other form of labels."""
    model = (new_again if labels.ndim == 1 else build_model)(objective)
    logs = fit(model, labels=labels)
    evaluated = model.evaluate(IMAGES, labels, verbose=0, return_dict=True)
    return logs, evaluated, weights_of(model)


@pytest.mark.parametrize(
    ("form", "objective"),
    slow_but(
        [("a column of bytes", "generative"), ("one-hot", 0.3)],
        [
            *((form, "generative") for form in FORMS),
            ("uint8", "discriminative"),
            ("a column of bytes", 0.3),
            ("one-hot", 0.3),
        ],
    ),
)
def test_labels_of_every_form_train_the_same(form, objective):
    found = results(objective, FORMS[form])
    for ours, theirs in zip(found, expected(objective), strict=True):
        np.testing.assert_equal(ours, theirs)


@pytest.mark.slow
def test_one_model_is_given_them_one_after_the_other():
    """Its graph is then of any shape, as Keras traces as little as it can."""
    model = build_model("generative", keras.optimizers.SGD(0.0))
    weights = np.random.default_rng(0).uniform(1.0, 2.0, len(LABELS))
    weights = weights.astype(np.float32)
    first = fit(model, labels=LABELS, sample_weight=weights)["loss"]
    forms = [LABELS.reshape(-1, 1), np.eye(3, dtype=np.int32)[LABELS], LABELS]
    for labels in forms + [FORMS["one-hot"], FORMS["a column of bytes"]]:
        for weight in (weights, weights.reshape(-1, 1)):
            again = fit(model, labels=labels, sample_weight=weight)["loss"]
            np.testing.assert_allclose(again, first, rtol=1e-6)
    wrong = [LABELS.reshape(-1, 1, 1), np.eye(5, dtype=np.int32)[LABELS]]
    for labels in wrong:
        with pytest.raises(ValueError, match=r"one-hot rows, \[batch, 3\]. Received:"):
            fit(model, labels=labels)
    with pytest.raises(ValueError, match=r"one factor per image. Received: 30 2\."):
        fit(model, labels=LABELS, sample_weight=np.stack([weights, weights], axis=1))


@pytest.mark.slow
def test_so_they_do_under_replicas(strategy):
    with strategy.scope():
        model = build_model()
    logs = fit(model, labels=FORMS["one-hot"])
    for name, value in expected("generative")[0].items():
        np.testing.assert_allclose(logs[name], value, rtol=1e-4, err_msg=name)


def test_labels_of_every_form_calibrate_the_same():
    model = new_again()
    expected = model.calibrate(IMAGES, LABELS)
    for form, labels in FORMS.items():
        found = model.calibrate(IMAGES, labels)
        np.testing.assert_array_equal(found.bias, expected.bias, err_msg=form)


def test_labels_of_every_form_are_predicted_the_same():
    model = new_again()
    for labels in FORMS.values():
        batches = tf.data.Dataset.from_tensor_slices((IMAGES, labels)).batch(30)
        found = kt.evaluation.predictions(model, batches).labels
        assert found.dtype == np.int32 and found.tolist() == LABELS.tolist()


def test_soft_labels_and_text_are_refused_with_a_way_out():
    soft = 0.9 * FORMS["one-hot"] + 0.1 / 3
    model = build_model()
    for call in (lambda y: fit(model, labels=y), lambda y: model.calibrate(IMAGES, y)):
        with pytest.raises(ValueError, match=r"must be one-hot.* Received: .*argmax"):
            call(soft)
        with pytest.raises((TypeError, ValueError), match="np.unique"):
            call(np.array(["cat", "dog", "cow"])[LABELS])


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_a_label_out_of_range_is_a_whole_sentence(run_eagerly):
    """In `fit`, in `evaluate` and in `calibrate`."""
    labels = LABELS.copy()
    labels[70] = 7
    model = build_model(run_eagerly=True) if run_eagerly else new_again()
    before = weights_of(model)
    expected = (
        "`labels` must lie in [-1, 3), of which -1 marks an unlabelled image. "
        "Received: labels from 0 to 7. Number the classes from 0; the number of "
        "outputs of the network is 3."
    )
    for call in (
        lambda: fit(model, labels=labels, batch_size=90),
        lambda: model.evaluate(IMAGES, labels, verbose=0),
        lambda: model.calibrate(IMAGES, labels),
    ):
        with pytest.raises(ValueError) as raised:
            call()
        assert str(raised.value) == expected
    np.testing.assert_equal(weights_of(model), before)


# Weights of images and classes


@pytest.mark.parametrize(
    ("objective", "weight", "queue"),
    slow_but(
        [("generative", 2.0, 0), (0.3, 2.0, 2)],
        [("generative", 2.0, 0), ("generative", 0.25, 2), (0.3, 2.0, 2), (0.3, 1.0, 0)],
    ),
)
def test_an_untrained_network_logs_its_mean_weight_times_what_it_knows(
    objective, weight, queue
):
    """At zero logits -log p_y/q is 0, and the cross-entropy log 3, times the weight."""
    model = new_again(objective, 0.0, **({"queue": queue} if queue else {}))
    model.network.get_layer("top").kernel.assign(tf.zeros([64, 3]))
    weights = np.full(90, weight, np.float32)
    a = model.generative_weight
    data = {"validation_data": (IMAGES, LABELS, weights)}
    logs = fit(model, sample_weight=weights, epochs=2, **data)
    value = weight * (1 - a) * np.log(3)
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(logs[name], value, atol=1e-5)


def weighted_loss(labels, logits, weights):
    """Mean of w_i [log mean_j exp F[j, y_i] - F[i, y_i]] over labelled images."""
    log_means = scipy.special.logsumexp(logits, axis=0) - np.log(len(logits))
    labelled = labels >= 0
    own = np.take_along_axis(logits, np.maximum(labels, 0)[:, np.newaxis], 1)[:, 0]
    return np.mean((weights * (log_means[labels] - own))[labelled])


def test_the_logged_loss_is_the_weighted_mean_of_log_ratios():
    """Some images unlabelled; weights of classes are weights of their images."""
    labels = np.where(np.arange(90) % 4, LABELS, -1)
    weights = np.random.default_rng(3).uniform(0.0, 3.0, 90).astype(np.float32)
    by_class = {0: 0.5, 1: 2.0, 2: 4.0}
    logits = new_again().network.predict(IMAGES, verbose=0).astype(np.float64)
    for given, labels_, w in (
        ({"sample_weight": weights}, labels, weights),
        ({"class_weight": by_class}, LABELS, np.array([0.5, 2.0, 4.0])[LABELS]),
    ):
        model = new_again(learning_rate=0.0)
        logs = fit(model, labels=labels_, batch_size=90, **given)
        expected = weighted_loss(labels_, logits, w)
        np.testing.assert_allclose(logs["generative_loss"], expected, rtol=1e-4)


@pytest.mark.slow
def test_so_it_is_under_replicas(strategy):
    weights = np.random.default_rng(3).uniform(0.0, 3.0, 90).astype(np.float32)
    options = {"sample_weight": weights, "epochs": 2}
    one = fit(new_again(0.3, queue=2), **options)
    with strategy.scope():
        model = build_model(0.3, queue=2)
    for name, value in fit(model, **options).items():
        np.testing.assert_allclose(value, one[name], rtol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("objective", "weight"),
    slow_but(
        [("generative", np.nan)],
        [("generative", np.nan), ("discriminative", np.inf), (0.3, -1.0)],
    ),
)
def test_a_bad_weight_ends_the_fit_and_leaves_the_weights(objective, weight):
    """Those before the batch: the first of three is as good as ever."""
    weights = np.ones(90, np.float32)
    weights[40] = weight
    model = new_again(objective)
    fit(model, IMAGES[:30], LABELS[:30], sample_weight=weights[:30])
    expected = weights_of(model)
    model = new_again(objective)
    with pytest.raises(ValueError, match=f"`sample_weight`.*{weight:g} of image 10 "):
        fit(model, sample_weight=weights)
    np.testing.assert_equal(weights_of(model), expected)
    with pytest.raises(ValueError, match="`sample_weight` must be finite"):
        model.evaluate(IMAGES, LABELS, sample_weight=weights, verbose=0)


def test_a_bad_weight_of_a_class_is_one_of_its_images():
    model = new_again()
    before = weights_of(model)
    with pytest.raises(ValueError, match="`sample_weight`.*nan"):
        fit(model, class_weight={0: 1.0, 1: np.nan, 2: 1.0})
    np.testing.assert_equal(weights_of(model), before)
