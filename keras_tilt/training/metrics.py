"""Metrics of Keras that compare rows: what they are told of labels is one-hot rows.

    metric(class indices, logits)   becomes   metric(one_hot(class indices), logits)

Labels of a classifier may come as indices or as rows, and are indices from then on.
`SparseCategoricalAccuracy` takes them so; `CategoricalAccuracy` would find an argmax in
them, and return some number.
"""

__all__ = ["OfRows", "given_rows"]

import inspect

import keras
import tensorflow as tf

# Of Keras's own, what starts with "Sparse" and these compare something else.
_NOT_OF_ROWS = """
    Accuracy IoU MeanIoU Mean MeanMetricWrapper Metric Sum
""".split()


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
