"""Errors, calibration and scores against loops, and log p(x)/q(x) against its law."""

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf

import keras_tilt as kt
from keras_tilt.training import evaluation

EPSILON = np.finfo(np.float32).eps
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.standard_normal([40, 6, 6, 1]).astype(np.float32)
LABELS = RANDOM.integers(0, 3, 40)


def build_model(scale=1.0):
    """A classifier of three classes with fixed weights; uncalibrated, uncompiled."""
    images = keras.Input([6, 6, 1])
    initializer = keras.initializers.GlorotUniform(1)
    x = keras.layers.Rescaling(scale)(keras.layers.Flatten()(images))
    x = keras.layers.Dense(3, kernel_initializer=initializer, name="top")(x)
    return kt.GenerativeClassifier(keras.Model(images, x))


def dataset(images=IMAGES, labels=LABELS, batch_size=16):
    """Batches of images and labels, the last one smaller."""
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(batch_size)


def made(probabilities, labels):
    """Predictions without a model."""
    probabilities = np.asarray(probabilities, np.float64)
    return evaluation.Predictions(
        probabilities, np.zeros(len(labels)), np.asarray(labels)
    )


# Predictions


def test_predictions_are_softmax_and_logsumexp_of_the_output():
    model = build_model()
    model.calibration_bias.assign([0.5, -1.0, 2.0])
    found = evaluation.predictions(model, dataset())
    logits = model.predict(IMAGES, verbose=0).astype(np.float64)
    tolerance = {"rtol": 0.0, "atol": 32 * EPSILON}
    softmax, score = scipy.special.softmax, scipy.special.logsumexp
    np.testing.assert_allclose(found.probabilities, softmax(logits, 1), **tolerance)
    np.testing.assert_allclose(found.scores, score(logits, 1), **tolerance)
    np.testing.assert_array_equal(found.labels, LABELS)


def test_outputs_of_double_precision_are_not_rounded():
    """Large ones of single precision would be known to 1e-4 only."""

    def model(images, training):
        return 1e3 + tf.reduce_sum(tf.cast(images, tf.float64), [1, 2]) / [[1, 3, 7]]

    images = np.repeat(IMAGES, 3, axis=3)
    found = evaluation.predictions(model, dataset(images))
    logits = 1e3 + np.sum(np.float64(images), axis=(1, 2)) / [1, 3, 7]
    expected = scipy.special.logsumexp(logits, axis=1)
    np.testing.assert_allclose(found.scores, expected, rtol=1e-14)


def test_predictions_over_crops_are_means_over_those_of_each_crop():
    """Of probabilities, not of logits; of eight images of five crops."""
    model = build_model()
    crops = IMAGES.reshape([8, 5, 6, 6, 1])
    found = evaluation.predictions(model, dataset(crops, LABELS[:8], 3))
    each = [
        evaluation.predictions(model, dataset(crops[:, k], LABELS[:8], 3))
        for k in range(5)
    ]
    for name in ("probabilities", "scores"):
        expected = np.mean([getattr(one, name) for one in each], axis=0)
        np.testing.assert_allclose(getattr(found, name), expected, atol=32 * EPSILON)
    logits = model.predict(IMAGES, verbose=0).reshape(8, 5, 3).mean(1)
    of_mean_logits = scipy.special.softmax(logits, axis=1)
    assert np.abs(found.probabilities - of_mean_logits).max() > 1e-3


def test_a_batch_of_which_nothing_could_be_read_is_left_out():
    """And the model may be any function, the data set that of a context."""
    model = build_model()
    empty = dataset(IMAGES[:1], LABELS[:1]).map(lambda x, y: (x[:0], y[:0]))
    both = empty.concatenate(dataset()).concatenate(empty)
    expected = evaluation.predictions(model, dataset())
    for one in (model, lambda images, training: model(images)):
        for given in (both, lambda context: both):
            found = evaluation.predictions(one, given)
            for part, of_all in zip(found, expected, strict=True):
                np.testing.assert_array_equal(part, of_all)
    with pytest.raises(ValueError, match="at least one batch. Received: none"):
        evaluation.predictions(model, empty)


def test_labels_as_a_column_are_accepted():
    found = evaluation.predictions(build_model(), dataset(labels=LABELS[:, None]))
    np.testing.assert_array_equal(found.labels, LABELS)


def test_an_empty_data_set_is_refused():
    with pytest.raises(ValueError, match="at least one batch. Received: none"):
        evaluation.predictions(build_model(), dataset(IMAGES[:0], LABELS[:0]))


def test_logits_that_are_not_finite_are_refused_and_counted():
    """No probability is more than NaN: it would be the right class."""
    bad = IMAGES.copy()
    bad[[3, 20]] = np.nan
    with pytest.raises(ValueError, match="finite logits. Received: 2 of 40 images"):
        evaluation.predictions(build_model(), dataset(bad))


# Scores


@pytest.mark.parametrize("unlabelled", [0, 15])
def test_scores_of_a_calibrated_model_are_log_ratios_to_q(unlabelled):
    """q uniform on the 40 images: mean exp score = sum_y rho_y Z_y / Z_y = 1."""
    model = build_model()
    labels = np.where(np.arange(40) < unlabelled, -1, LABELS)
    raw = evaluation.predictions(model, dataset()).scores
    calibration = model.calibrate(IMAGES, labels, batch_size=7)
    found = evaluation.predictions(model, dataset(labels=labels))
    np.testing.assert_allclose(np.exp(found.scores).mean(), 1.0, rtol=64 * EPSILON)
    logits = model.network.predict(IMAGES, verbose=0).astype(np.float64)
    ratios = 40 * scipy.special.softmax(logits, axis=0)  # p_y(x) / q(x)
    expected = np.log(ratios @ np.exp(calibration.log_prior))
    np.testing.assert_allclose(found.scores, expected, atol=64 * EPSILON)
    assert abs(np.exp(raw).mean() - 1.0) > 0.5


# Errors


def test_top_errors_equal_a_loop():
    random = np.random.default_rng(1)
    probabilities = random.dirichlet(np.ones(5), 200)
    labels = random.integers(-1, 5, 200)
    found = made(probabilities, labels)
    for k in range(1, 6):
        wrong = [
            y not in np.argsort(-p)[:k]
            for p, y in zip(probabilities, labels, strict=True)
            if y >= 0
        ]
        assert evaluation.top_error(found, k) == np.mean(wrong)
    assert evaluation.top_error(found, 5) == 0.0
    assert 0.7 < evaluation.top_error(found, 1) < 0.9


def test_a_tie_counts_against_the_label():
    found = made([[0.4, 0.4, 0.2]], [0])
    assert [evaluation.top_error(found, k) for k in (1, 2)] == [1.0, 0.0]
    uniform = made(np.full([7, 4], 0.25), np.arange(7) % 4)
    assert [evaluation.top_error(uniform, k) for k in (1, 3, 4)] == [1.0, 1.0, 0.0]


def test_errors_of_unlabelled_images_are_refused():
    found = made(np.full([3, 2], 0.5), [-1, -1, -1])
    for error in (evaluation.top_error, evaluation.calibration_error):
        with pytest.raises(ValueError, match="labelled images. Received: none"):
            error(found)


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_the_calibration_error_equals_a_loop_over_bins(num_bins):
    random = np.random.default_rng(1)
    probabilities = random.dirichlet(np.ones(4), 300)
    labels = random.integers(-1, 4, 300)
    # The last bin: right at a confidence of 0.97, wrong at one of 1.
    probabilities[:20], labels[:20] = [0.97, 0.01, 0.01, 0.01], 0
    probabilities[20:23], labels[20:23] = [1.0, 0.0, 0.0, 0.0], 1
    kept = labels >= 0
    confidence = probabilities[kept].max(1)
    right = probabilities[kept].argmax(1) == labels[kept]
    expected = 0.0
    for k in range(num_bins):
        lower, upper = k / num_bins, (k + 1) / num_bins
        inside = (confidence >= lower) & (confidence < upper)
        if k == num_bins - 1:
            inside |= confidence == 1.0
        if inside.any():
            gap = abs(right[inside].mean() - confidence[inside].mean())
            expected += inside.mean() * gap
    ours = evaluation.calibration_error(made(probabilities, labels), num_bins)
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


def test_the_calibration_error_of_right_probabilities_is_that_of_sampling():
    """Labels drawn from the probabilities themselves, and from sharper ones.

    A bin whose excess has variance V gives abs of a normal: mean sqrt(2 V / pi),
    variance V (1 - 2 / pi). Confidence r where 1/2 is right is an error of r - 1/2.
    """
    n, num_bins = 20000, 15
    random = np.random.default_rng(1)
    probabilities = random.dirichlet(np.ones(4), n)
    labels = (random.uniform(size=[n, 1]) > probabilities.cumsum(1)).sum(1)
    confidence = probabilities.max(1)
    bins = np.minimum((num_bins * confidence).astype(int), num_bins - 1)
    variance = np.bincount(bins, confidence * (1 - confidence))
    mean = np.sum(np.sqrt(2 * variance / np.pi)) / n
    deviation = np.sqrt(np.sum(variance) * (1 - 2 / np.pi)) / n
    ours = evaluation.calibration_error(made(probabilities, labels), num_bins)
    assert abs(ours - mean) < 4 * deviation
    assert mean < 0.02
    sure = np.where(random.uniform(size=n) < 0.5, 0, 1)
    overconfident = made(np.tile([0.9, 0.1], [n, 1]), sure)
    error = evaluation.calibration_error(overconfident, num_bins)
    np.testing.assert_allclose(error, 0.4, atol=4 * 0.5 / np.sqrt(n))


# Another kind of images


@pytest.mark.parametrize("levels", [3, 1000])
def test_the_area_under_roc_is_the_share_of_ordered_pairs(levels):
    """Three levels are nearly all ties."""
    random = np.random.default_rng(1)
    scores, others = random.integers(0, levels, 50), random.integers(0, levels, 70)
    pairs = scores[:, None] - others
    expected = np.mean((pairs > 0) + 0.5 * (pairs == 0))
    ours = evaluation.area_under_roc(scores, others)
    np.testing.assert_allclose(ours, expected, rtol=1e-12)
    np.testing.assert_allclose(
        evaluation.area_under_roc(others, scores), 1 - expected, rtol=1e-12
    )


def test_areas_of_normal_scores_are_those_of_the_binormal_curve():
    """P(a > b) = Phi(d / sqrt 2) at a distance d; 1 apart, 1/2 alike."""
    random = np.random.default_rng(2)
    scores, others = random.standard_normal([2, 4000])
    expected = scipy.stats.norm.cdf(1 / np.sqrt(2))
    ours = evaluation.area_under_roc(scores + 1.0, others)
    at_most = np.sqrt(expected * (1 - expected) / 4000)  # standard error, at most
    assert abs(ours - expected) < 4 * at_most
    assert evaluation.area_under_roc(scores + 100.0, others) == 1.0
    assert evaluation.area_under_roc(scores, scores) == 0.5


# Temperatures


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_fitted_temperature_is_that_which_the_labels_were_drawn_at(temperature):
    """Labels drawn of p, predictions p^T: the temperature is T, to standard errors.

    The curvature of the mean loss in log T is the variance of log p under p.
    """
    rng = np.random.default_rng(3)
    logits = 2.0 * rng.standard_normal([20_000, 5])
    true = scipy.special.softmax(logits, axis=1)
    labels = (rng.uniform(size=[20_000, 1]) > true.cumsum(axis=1)).sum(axis=1)
    sharpened = scipy.special.softmax(temperature * logits, axis=1)
    found = evaluation.fitted_temperature(made(sharpened, labels))
    log_true = np.log(true)
    mean = np.sum(true * log_true, axis=1, keepdims=True)
    information = np.sum(true * (log_true - mean) ** 2)
    assert abs(np.log(found / temperature)) < 4.0 / np.sqrt(information)


def test_predictions_at_the_fitted_temperature_have_temperature_one():
    probabilities = RANDOM.dirichlet(np.full(4, 0.2), 300)
    probabilities[0] = [1.0, 0.0, 0.0, 0.0]  # rounded to zero
    right = RANDOM.uniform(size=300) < 0.8
    labels = np.where(right, probabilities.argmax(axis=1), RANDOM.integers(-1, 4, 300))
    labels[0] = 0
    before = made(probabilities, labels)
    after = evaluation.at_temperature(before, evaluation.fitted_temperature(before))
    np.testing.assert_allclose(after.probabilities.sum(axis=1), 1.0)
    assert evaluation.fitted_temperature(after) == pytest.approx(1.0, abs=1e-3)
    assert evaluation.top_error(after) == evaluation.top_error(before)


def test_at_temperature_one_nothing_changes():
    before = made(RANDOM.dirichlet(np.ones(4), 30), np.zeros(30, int))
    after = evaluation.at_temperature(before, 1.0)
    np.testing.assert_allclose(after.probabilities, before.probabilities)


def test_each_half_is_judged_by_the_temperature_of_the_other():
    """Each image once; probabilities that are right stay nearly as they are."""
    rng = np.random.default_rng(5)
    true = rng.dirichlet(np.full(3, 0.5), 4000)
    labels = (rng.uniform(size=[4000, 1]) > true.cumsum(axis=1)).sum(axis=1)
    before = made(true, labels)
    after, temperature = evaluation.cross_tempered(before)
    assert sorted(after.labels) == sorted(labels)
    assert evaluation.top_error(after) == pytest.approx(evaluation.top_error(before))
    assert temperature == pytest.approx(1.0, abs=0.1)
    sharp = scipy.special.softmax(3.0 * np.log(true), axis=1)
    tempered, temperature = evaluation.cross_tempered(made(sharp, labels))
    assert temperature == pytest.approx(3.0, rel=0.1)
    errors = [evaluation.calibration_error(p) for p in (made(sharp, labels), tempered)]
    assert errors[1] < 0.5 * errors[0]


# Of a model


def overconfident():
    """A model whose logits are thrice those that its labels are drawn of, and these."""
    model = build_model()
    kernel, bias = model.network.get_layer("top").get_weights()
    model.network.get_layer("top").set_weights([9.0 * kernel, bias])
    rng = np.random.default_rng(1)
    images = rng.standard_normal([3000, 6, 6, 1]).astype(np.float32)
    true = scipy.special.softmax(model.predict(images, verbose=0) / 3.0, axis=1)
    labels = (rng.uniform(size=[3000, 1]) > true.cumsum(axis=1)).sum(axis=1)
    return model, images, labels


@pytest.mark.parametrize("form", ["arrays", "data set"])
def test_a_model_fits_its_temperature_and_its_outputs_stay(form):
    model, images, labels = overconfident()
    outputs = model.predict(images, verbose=0)
    before = evaluation.predictions(model, dataset(images, labels))
    held_out = (images, labels) if form == "arrays" else dataset(images, labels, 100)
    found = model.fit_temperature(held_out)
    assert found == pytest.approx(3.0, rel=0.1)
    assert float(model.temperature) == np.float32(found)
    np.testing.assert_array_equal(model.predict(images, verbose=0), outputs)
    after = evaluation.predictions(model, dataset(images, labels))
    np.testing.assert_array_equal(after.scores, before.scores)
    expected = scipy.special.softmax(np.float64(outputs) / found, axis=1)
    np.testing.assert_allclose(after.probabilities, expected, atol=1e-6)
    assert model.fit_temperature(held_out) == pytest.approx(found)


def test_calibrate_fits_the_temperature_with_its_bias_or_resets_it(tmp_path):
    model, images, labels = overconfident()
    model.calibrate(images, labels, held_out=(images, labels))
    found = float(model.temperature)
    assert found == pytest.approx(model.fit_temperature((images, labels)))
    assert found > 1.5 and np.ptp(model.calibration_bias) > 0.1
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert float(again.temperature) == found
    model.calibrate(images, labels)
    assert float(model.temperature) == 1.0


def test_a_temperature_needs_labels():
    model, images, _ = overconfident()
    with pytest.raises(ValueError, match="Expected labelled images"):
        model.fit_temperature((images, np.full(len(images), -1)))
