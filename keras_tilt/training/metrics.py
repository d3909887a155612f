"""What a step logs: averages of its own numbers, and the metrics of `compile`.

    average = sum over steps of w_t v_t / sum of w_t
    metric(class indices, logits)   becomes   metric(one_hot(class indices), logits)

Metrics of Keras that compare rows are told of labels as one-hot rows. Labels of a
classifier may come as indices or as rows, and are indices from then on.
`SparseCategoricalAccuracy` takes them so; `CategoricalAccuracy` would find an argmax in
them, and return some number.
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

import keras
import tensorflow as tf

GENERATIVE_METRICS = (  # in the order of `sums_of_step`
    "calibrated_accuracy",
    "kish_ess",
    "absent_classes",
    "uncalibrated_accuracy",
    "queue_drift",
)
# Of Keras's own, what starts with "Sparse" and these compare something else.
_NOT_OF_ROWS = """
    Accuracy IoU MeanIoU Mean MeanMetricWrapper Metric Sum
""".split()


# Averages of a step's own numbers


class Averages(keras.metrics.Metric):
    """Weighted averages of several numbers in one variable, one assignment a step.

    A step of a small network feels every operation; a `Mean` each has many.
    """

    def __init__(self, names, name="averages"):
        super().__init__(name=name, dtype="float32")
        self._names = names
        self._sums = self.add_variable([2 * len(names)], "zeros", name="sums")

    def update_state(self, sums, weights):
        """Adds sums of weighted values and sums of weights; missing ones are 0."""
        missing = [0.0] * (len(self._names) - len(sums))
        self._sums.assign_add(tf.stack([*sums, *missing, *weights, *missing]))

    def result(self):
        """Averages by name."""
        sums, weights = tf.split(self._sums, 2)
        averages = tf.unstack(tf.math.divide_no_nan(sums, weights))
        return dict(zip(self._names, averages, strict=True))


def sums_of_step(
    labels, logits, loss, penalties=(), statistics=None, bias=0.0, drift=None
):
    """Sums of weighted values, and of weights, that a step adds to its averages.

    Args:
        labels: int32 `[batch]`; -1 = unlabelled.
        logits: `[batch, classes]`.
        loss: `[]` nats, the objective.
        penalties: of weights, one for each layer that has one.
        statistics: `ColumnStatistics` of the loss; None without a generative part.
        bias: `[classes]` nats that calibrates the logits.
        drift: `[]` nats of the queue; None without one.

    Returns:
        sums, weights: lists of `[]`: of loss with penalties, of the objective, and with
            a generative part of `GENERATIVE_METRICS`, or the first of these.
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
        tf.reduce_sum(kish_ess),
        num_classes - num_present,
        _num_right(labels, logits),
    ]
    weights += [count, num_present, float(num_classes), count]
    if drift is not None:
        sums.append(drift)
        weights.append(1.0)
    return sums, weights


def of_labelled(labels, logits, sample_weight=None):
    """The three of the labelled images alone; None stays None."""
    kept = tf.squeeze(tf.where(labels >= 0), axis=1)
    return [
        None if part is None else tf.gather(part, kept)
        for part in (labels, logits, sample_weight)
    ]


def _num_right(labels, logits):
    """Images whose label is the class of the largest logit; none of the unlabelled."""
    predictions = tf.argmax(logits, axis=1, output_type=labels.dtype)
    return tf.reduce_sum(tf.cast(predictions == labels, tf.float32))


# Metrics that compare rows


def given_rows(metrics):
    """The same metrics; those of Keras that compare rows are wrapped by `OfRows`.

    Metrics of one's own, also those derived from `keras.metrics.Metric`, `Mean` and
    `Sum`, are left as they are, and are told class indices.

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
    """Whether the class of Keras it is or comes from, or the function, does."""
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
    """A metric of (one-hot rows, logits) as one of (class indices, logits).

    Args:
        metric: a Keras metric.
        name: that of the metric, if none is given.
    """

    def __init__(self, metric, name=None):
        super().__init__(name=name or metric.name, dtype=metric.dtype)
        self.metric = metric

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds the labels [n] and logits [n, classes], with weights [n]."""
        rows = tf.one_hot(y_true, y_pred.shape[-1], dtype=y_pred.dtype)
        self.metric.update_state(rows, y_pred, sample_weight)

    def result(self):
        """What the metric says."""
        return self.metric.result()

    def reset_state(self):
        """Starts anew."""
        self.metric.reset_state()

    def get_config(self):
        """Constructor arguments."""
        metric = keras.saving.serialize_keras_object(self.metric)
        return {"metric": metric, "name": self.name}

    @classmethod
    def from_config(cls, config):
        """The inverse of `get_config`."""
        metric = keras.saving.deserialize_keras_object(config["metric"])
        return cls(metric, config["name"])
