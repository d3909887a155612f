"""Every metric of Keras says of a classifier what it says of its logits and labels."""

import inspect
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import slow_but

import keras_tilt as kt

CLASSES = 3
rng = np.random.default_rng(0)
IMAGES = rng.normal(size=(60, 4, 4, 1)).astype(np.float32)
LABELS = rng.integers(0, CLASSES, 60)
WEIGHTS = rng.uniform(0.5, 2.0, 60).astype(np.float32)
FORMS = {"indices": LABELS, "one-hot": keras.utils.to_categorical(LABELS, CLASSES)}
M = keras.metrics
# A metric, and whether it is told one-hot rows; those of probabilities take logits of
# any sign for numbers, as they do of any network.
METRICS = {
    "categorical_accuracy": (M.CategoricalAccuracy, True),
    "CategoricalAccuracy": (M.CategoricalAccuracy, True),
    "top2": (lambda: M.TopKCategoricalAccuracy(2), True),
    "nll": (lambda: M.CategoricalCrossentropy(from_logits=True), True),
    "mse": (M.MeanSquaredError, True),
    "categorical_hinge": (M.CategoricalHinge, True),
    "f1": (lambda: M.F1Score("macro", threshold=0.2), True),
    "one hot iou": (lambda: M.OneHotMeanIoU(CLASSES), True),
    "auc": (lambda: M.AUC(multi_label=True, from_logits=True), True),
    "function": (lambda: M.categorical_accuracy, True),
    "derived": (lambda: Derived(name="derived"), True),
    "accuracy": (M.SparseCategoricalAccuracy, False),
    "sparse_categorical_accuracy": (M.SparseCategoricalAccuracy, False),
    "sparse_top2": (lambda: M.SparseTopKCategoricalAccuracy(2), False),
    "sparse function": (lambda: M.sparse_categorical_accuracy, False),
    "own": (lambda: mean_index, False),
    "own sum": (lambda: IndexSum(name="own"), False),
    "own mean": (lambda: M.MeanMetricWrapper(mean_index, name="own mean"), False),
}
FUNCTIONS = ("function", "sparse function", "own")  # of the names of other metrics
TOGETHER = [[name for name in METRICS if name not in FUNCTIONS], FUNCTIONS]
BY_NAME = ("categorical_accuracy", "CategoricalAccuracy", "mse", "accuracy")


@keras.saving.register_keras_serializable("test_row_metrics")
class Derived(keras.metrics.CategoricalAccuracy):
    """A user's own, of a metric that compares rows."""


@keras.saving.register_keras_serializable("test_row_metrics")
class IndexSum(keras.metrics.Sum):
    """A user's own, of class indices."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        super().update_state(y_true, sample_weight)


@keras.saving.register_keras_serializable("test_row_metrics")
def mean_index(labels, logits):
    return tf.cast(labels, logits.dtype) + 0.0 * logits[:, 0]


def build(metrics, objective="discriminative", **arguments):
    keras.utils.set_random_seed(1)
    shape = IMAGES.shape[1:]
    layers = [keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(CLASSES)]
    model = kt.GenerativeClassifier(keras.Sequential(layers))
    model.compile("sgd", objective, metrics=metrics, **arguments)
    return model


def passed(name):
    return name if name in BY_NAME else METRICS[name][0]()


def expected(name, logits, labels, weights=None):
    """What the metric itself says of them."""
    make, of_rows = METRICS[name]
    metric = make()
    if not isinstance(metric, M.Metric):
        metric = M.MeanMetricWrapper(metric)
    labels = np.eye(CLASSES, dtype=np.float32)[labels] if of_rows else labels
    metric.update_state(labels, logits, weights)
    return np.asarray(metric.result())


def name_in_logs(metric):
    """Of what was passed."""
    if isinstance(metric, M.Metric):
        return metric.name
    return metric if isinstance(metric, str) else metric.__name__


@pytest.mark.parametrize(
    "names, form",
    slow_but(
        [(TOGETHER[1], "indices")],
        itertools.product(TOGETHER, FORMS),
    ),
    ids=lambda value: value if isinstance(value, str) else str(len(value)),
)
def test_a_metric_is_that_of_logits_and_labels(names, form):
    metrics = [passed(name) for name in names]
    model = build(metrics)
    for count in (20, 60):  # the second starts anew
        images, labels = IMAGES[:count], FORMS[form][:count]
        logs = model.evaluate(images, labels, verbose=0, return_dict=True)
    logits = model.predict(IMAGES, verbose=0)
    assert len(logs) == 2 + len(names), "two are losses"
    for name, metric in zip(names, metrics, strict=True):
        found, right = logs[name_in_logs(metric)], expected(name, logits, LABELS)
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6, err_msg=name)


def test_right_and_sparse_agree_in_fit_and_right_is_not_chance():
    model = build(["categorical_accuracy", "sparse_categorical_accuracy", "acc"])
    model.optimizer.learning_rate = 0.3
    history = model.fit(IMAGES, LABELS, epochs=9, verbose=0).history
    assert history["categorical_accuracy"] == history["sparse_categorical_accuracy"]
    assert history["categorical_accuracy"] == history["acc"]
    assert history["acc"][-1] > 0.5


def test_unlabelled_images_are_left_out_and_weights_count():
    labels = np.where(np.arange(60) % 4, LABELS, -1)
    kept = labels >= 0
    model = build(
        {"output": [M.CategoricalAccuracy(name="plain")]},
        weighted_metrics=[M.CategoricalCrossentropy(from_logits=True, name="nll")],
    )
    logs = model.evaluate(
        IMAGES, labels, sample_weight=WEIGHTS, verbose=0, return_dict=True
    )
    logits = model.predict(IMAGES[kept], verbose=0)
    found = [logs["plain"], logs["nll"]]
    right = [
        expected("categorical_accuracy", logits, labels[kept]),
        expected("nll", logits, labels[kept], WEIGHTS[kept]),
    ]
    np.testing.assert_allclose(found, right, rtol=1e-5)


def test_the_metric_of_the_user_is_the_one_that_counts():
    metric = M.CategoricalAccuracy()
    model = build([metric])
    logs = model.evaluate(IMAGES, LABELS, verbose=0, return_dict=True)
    assert float(metric.result()) == pytest.approx(logs["categorical_accuracy"])


def test_generative_training_logs_them_calibrated():
    model = build(["accuracy", "categorical_accuracy"], "generative")
    history = model.fit(
        IMAGES, LABELS, validation_data=(IMAGES, LABELS), epochs=2, verbose=0
    ).history
    assert history["categorical_accuracy"] == history["accuracy"]
    assert history["val_categorical_accuracy"] == history["val_accuracy"]


def test_replicas_agree_with_one_device(strategy):
    with strategy.scope():
        model = build(["categorical_accuracy", M.F1Score("macro")])
    found, right = (
        m.evaluate(IMAGES, LABELS, batch_size=30, verbose=0, return_dict=True)
        for m in (model, build(["categorical_accuracy", M.F1Score("macro")]))
    )
    for name in ("categorical_accuracy", "f1_score"):
        assert found[name] == pytest.approx(right[name])


def test_a_saved_model_has_them(tmp_path):
    metrics = [passed(name) for name in ("categorical_accuracy", "derived", "top2")]
    model = build(metrics)
    model.evaluate(IMAGES, LABELS, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    found, right = (
        m.evaluate(IMAGES, LABELS, verbose=0, return_dict=True) for m in (loaded, model)
    )
    assert found.keys() > set(map(name_in_logs, metrics)) and found == right


def test_every_metric_of_keras_of_which_it_is_said_is_one():
    """The names of those that compare no rows are names of Keras's metrics."""
    from keras_tilt.training.metrics import _NOT_OF_ROWS

    known = {name for name, of in vars(M).items() if inspect.isclass(of)}
    assert known.issuperset(_NOT_OF_ROWS)
