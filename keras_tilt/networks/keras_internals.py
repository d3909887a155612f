"""Private calls of Keras and TFP: all of the package's, each with its reason.

A function here stands for one thing that no public name of Keras or TFP offers; its
docstring says why. With a new version of either, this is the file to read.
"""

__all__ = [
    "LogsItsSteps",
    "build_compiled_metrics",
    "compiled_metrics",
    "index_in_optimizer",
    "share_of_penalty",
]

import keras
import tensorflow as tf

# Training


class LogsItsSteps:
    """Mixin of a `keras.Model` whose steps log numbers of their own.

    It overrides what the trainer of Keras calls between a batch and the logs of `fit`
    and `evaluate`. In public `train_step` and `test_step` may be overridden, but Keras
    takes their logs for the metrics only if their names are those of all metrics, and
    under several replicas for those of one of them. It also builds a model by a first
    batch, which must then split evenly over the replicas; and of the function that runs
    a step, `make_train_function`, only the whole can be replaced.
    """

    _makes_train_function = False

    def around_train_step(self, step):
        """Return the function of a batch that `fit` runs; Keras's own by default."""
        return step

    def make_train_function(self, force=False):
        """As Keras; the function runs `around_train_step` of its own."""
        self._makes_train_function = True
        super().make_train_function(force)
        self._makes_train_function = False

    def _autoconvert_optionals(self, step_function):
        """Keras's step on a batch, outside of what XLA compiles."""
        step = super()._autoconvert_optionals(step_function)
        return self.around_train_step(step) if self._makes_train_function else step

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Nothing is left to build: `compile` has done it."""

    @property
    def has_workers(self):
        """Whether its replicas are in several processes, as TF_CONFIG has them."""
        strategy = self.distribute_strategy
        several = tf.distribute.MultiWorkerMirroredStrategy
        if not isinstance(strategy, several):
            return False
        cluster = strategy.cluster_resolver.cluster_spec().as_dict()
        return sum(len(cluster.get(job, [])) for job in ("chief", "worker")) > 1

    def logs_of_step(self):
        """The metrics, as a step returns them."""
        results = self.get_metrics_result()
        if self.has_workers:  # Keras averages over them along the first axis
            results = {name: value[tf.newaxis] for name, value in results.items()}
        return results

    @property
    def metrics(self):
        """Keras's metrics; the loss is not among them, as the steps average it."""
        return [m for m in super().metrics if m is not self._loss_tracker]

    def _get_metrics_result_or_logs(self, logs):
        """The metrics that a step logs, over all replicas.

        Keras has it only where the step logs them all, which `test_step` need not; and
        a step's own numbers are those of its replica.
        """
        results = self.get_metrics_result()
        return {name: value for name, value in results.items() if name in logs}

    def _flatten_metrics_in_order(self, logs):
        """The loss, as all of Keras's have it, the metrics of `compile`, all others."""
        compiled = compiled_metrics(self)
        names = [] if compiled is None else [metric.name for metric in compiled.metrics]
        first = [name for name in ("loss", *names) if name in logs]
        return [logs[name] for name in (*first, *sorted(logs.keys() - set(first)))]


def compiled_metrics(model):
    """Return the metrics of `compile` as one metric, or None where there are none.

    `Model.metrics` lists it among others; only `compute_metrics` would update it, which
    hands on neither which images have labels nor the sample weights of these alone.
    """
    return model._compile_metrics


def build_compiled_metrics(model, num_classes):
    """Make the variables of the metrics of `compile`, for labels and logits.

    Keras makes them from a first batch.

    Args:
        model: compiled `keras.Model`.
        num_classes: number of logits.
    """
    compiled = compiled_metrics(model)
    if compiled is None:
        return
    compiled.build(
        keras.KerasTensor([None], "int32"),
        keras.KerasTensor([None, num_classes], "float32"),
    )
    # Some make their variables only where they are told of a first label.
    compiled.update_state(tf.zeros([1], tf.int32), tf.zeros([1, num_classes]))
    compiled.reset_state()


def share_of_penalty(model, penalty):
    """Return a replica's share of a penalty on weights, that the sum is the penalty.

    Keras divides so in its own `train_step`; in public `compute_loss` does, together
    with losses of its own.
    """
    return model._aggregate_additional_loss(penalty)


def index_in_optimizer(optimizer, variable):
    """Return the place of a variable among those that an optimizer was built for.

    `update_step`, which a derived optimizer overrides, is given the variable alone.
    """
    return optimizer._get_variable_index(variable)
