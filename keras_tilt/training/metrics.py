"""What a step logs: averages of its own numbers, and the metrics of `compile`.

    average = sum over steps of w_t v_t / sum of w_t
    metric(class indices, logits)   becomes   metric(one_hot(class indices), logits)

Labels of a classifier may be class indices or one-hot rows, and a step has them as
indices. `SparseCategoricalAccuracy` takes these; `CategoricalAccuracy` would take their
argmax, and return a meaningless number, so that such metrics are given one-hot rows.
"""

__all__ = [
    "GENERATIVE_METRICS",
    "Averages",
    "OfRows",
    "given_rows",
    "of_labelled",
    "sums_of_step",
]

import inspect
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_tilt.training.losses import ColumnStatistics

GENERATIVE_METRICS = (  # in the order of `sums_of_step`
    "calibrated_accuracy",
    "kish_ess",
    "absent_classes",
    "uncalibrated_accuracy",
    "queue_drift",
)
# Keras's metrics compare rows, but for these and those that start with "Sparse".
_NOT_OF_ROWS = """
    Accuracy IoU MeanIoU Mean MeanMetricWrapper Metric Sum
""".split()


# Averages of a step's own numbers


class Averages(keras.metrics.Metric):
    """Weighted averages of several numbers in one variable, assigned once a step.

    For a small network a `Mean` for each of them would take much of a step's time.

    Args:
        names: of the numbers.
        name: of the metric.
    """

    def __init__(self, names: Sequence[str], name: str = "averages"):
        super().__init__(name=name, dtype="float32")
        self._names = names
        self._sums = self.add_variable([2 * len(names)], "zeros", name="sums")

    def update_state(
        self, sums: Sequence[tf.Tensor], weights: Sequence[tf.Tensor | float]
    ) -> None:
        """Add sums of weighted values, and of weights, of the first of the names."""
        missing = [0.0] * (len(self._names) - len(sums))
        self._sums.assign_add(tf.stack([*sums, *missing, *weights, *missing]))

    def result(self) -> dict[str, tf.Tensor]:
        """Return the averages by name."""
        sums, weights = tf.split(self._sums, 2)
        averages = tf.unstack(tf.math.divide_no_nan(sums, weights))
        return dict(zip(self._names, averages, strict=True))


def sums_of_step(
    labels: tf.Tensor,
    logits: tf.Tensor,
    loss: tf.Tensor,
    penalties: Sequence[tf.Tensor] = (),
    statistics: ColumnStatistics | None = None,
    bias: tf.Tensor | float = 0.0,
    drift: tf.Tensor | None = None,
    replicas: int = 1,
) -> tuple[list[tf.Tensor], list[tf.Tensor | float]]:
    """Return what a step adds to the averages of its own numbers.

    Args:
        labels: int32 `[batch]`; -1 = unlabelled.
        logits: `[batch, classes]`.
        loss: `[]` nats, the objective.
        penalties: those that regularizers of the network add to the loss.
        statistics: `ColumnStatistics` of the loss; None without a generative part.
        bias: `[classes]` nats that calibrates the logits.
        drift: `[]` nats, of the queue; None without one.
        replicas: their number. Each has the same numbers of the whole batch, and adds
            its share: an epoch may go on with more replicas, or fewer.

    Returns:
        sums: list of weighted values, each `[]`: the loss with penalties, the
            objective, and, if it has a generative part, `GENERATIVE_METRICS`, of which
            the last is left out without a queue.
        weights: list of the sums of their weights.
    """
    count = tf.reduce_sum(tf.cast(labels >= 0, tf.float32))
    total = tf.add_n([loss, *map(tf.reduce_sum, penalties)])
    sums, weights = [count * total, count * loss], [count, count]
    if statistics is None:
        return sums, weights
    present = tf.cast(statistics.mass > 0.0, tf.float32)
    num_classes, num_present = present.shape[0], tf.reduce_sum(present)
    kish_ess = tf.math.divide_no_nan(present, statistics.square_sum)
    sums += [
        _num_right(labels, logits + bias),
        tf.reduce_sum(kish_ess) / replicas,
        (num_classes - num_present) / replicas,
        _num_right(labels, logits),
    ]
    weights += [count, num_present / replicas, num_classes / replicas, count]
    if drift is not None:
        sums.append(drift / replicas)
        weights.append(1.0 / replicas)
    return sums, weights


def of_labelled(
    labels: tf.Tensor, logits: tf.Tensor, sample_weight: tf.Tensor | None = None
) -> list[tf.Tensor | None]:
    """Return labels, logits and weights of the labelled images alone; None is kept."""
    kept = tf.squeeze(tf.where(labels >= 0), axis=1)
    return [
        None if part is None else tf.gather(part, kept)
        for part in (labels, logits, sample_weight)
    ]


def _num_right(labels, logits):
    """Return the number of images whose label is the class of the largest logit."""
    predictions = tf.argmax(logits, axis=1, output_type=labels.dtype)
    return tf.reduce_sum(tf.cast(predictions == labels, tf.float32))


# Metrics that compare rows


def given_rows(metrics: Any) -> Any:
    """Return metrics, of which Keras's that compare rows are wrapped by `OfRows`.

    A user's own, also those derived from `keras.metrics.Metric`, `Mean` and `Sum`, are
    left as they are, and are given class indices.

    Args:
        metrics: as `compile` takes them: None, or metrics, names and functions in a
            list, a tuple or a dict.
    """
    return metrics and keras.tree.map_structure(_given_rows, metrics)


def _given_rows(one):
    if isinstance(one, str):
        if one.lower() in ("accuracy", "acc"):  # Keras has looked at the labels
            return one
        found = keras.metrics.get(one)
    else:
        found = one
    if isinstance(found, OfRows) or not _compares_rows(found):
        return one
    if not isinstance(found, keras.metrics.Metric):
        found = keras.metrics.MeanMetricWrapper(found, name=found.__name__)
    return OfRows(found, name=one if isinstance(one, str) else None)


def _compares_rows(metric):
    """Whether the function, or the class of Keras that a metric derives from, does."""
    if isinstance(metric, keras.metrics.Metric):
        bases = [base for base in type(metric).__mro__ if _is_of_keras(base)]
        name = bases[0].__name__
    elif inspect.isfunction(metric) and _is_of_keras(metric):
        name = metric.__name__
    else:
        return False
    return not name.lower().startswith("sparse") and name not in _NOT_OF_ROWS


def _is_of_keras(thing):
    return thing.__module__.split(".")[0] == "keras"


@keras.saving.register_keras_serializable("keras_tilt")
class OfRows(keras.metrics.Metric):
    """A metric of class indices and logits, made of one of one-hot rows and logits.

    Args:
        metric: a Keras metric.
        name: by default that of the metric.
    """

    def __init__(self, metric: keras.metrics.Metric, name: str | None = None):
        super().__init__(name=name or metric.name, dtype=metric.dtype)
        self.metric = metric

    def update_state(
        self,
        y_true: tf.Tensor,
        y_pred: tf.Tensor,
        sample_weight: tf.Tensor | None = None,
    ) -> None:
        """Add labels `[n]` and logits `[n, classes]`, with weights `[n]`."""
        rows = tf.one_hot(y_true, y_pred.shape[-1], dtype=y_pred.dtype)
        self.metric.update_state(rows, y_pred, sample_weight)

    def result(self) -> Any:
        """Return that of the metric."""
        return self.metric.result()

    def reset_state(self) -> None:
        """Start anew."""
        self.metric.reset_state()

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments."""
        metric = keras.saving.serialize_keras_object(self.metric)
        return {"metric": metric, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "OfRows":
        """Return the metric that has this configuration."""
        metric = keras.saving.deserialize_keras_object(config["metric"])
        return cls(metric, config["name"])
