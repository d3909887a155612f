"""Private calls of Keras and TFP: all of the package's, each with its reason.

A function here stands for one thing that no public name of Keras or TFP offers; its
docstring says why. With a new version of either, this is the file to read.
"""

__all__ = [
    "LogsItsSteps",
    "arguments_of",
    "build_compiled_metrics",
    "compiled_metrics",
    "index_in_optimizer",
    "layers_within",
    "node_of",
    "share_of_penalty",
]

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_tilt import workers


def node_of(tensor: keras.KerasTensor) -> Any:
    """Return the node of a Keras graph that made a symbolic tensor.

    A node is one application of an operation: `operation`, `input_tensors`,
    `output_tensors`, `arguments`, `is_input`. In public, `keras.Model` and
    `keras.Function` run a graph as a whole, and `Layer.output` is of a layer that is
    applied once; which application made a tensor, of which others, only the history of
    the tensor says.

    Args:
        tensor: `keras.KerasTensor`.
    """
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def arguments_of(
    node: Any, inputs: Sequence[tf.Tensor]
) -> tuple[tuple, dict[str, Any]]:
    """Return (args, kwargs) of a node's call, with values for its symbolic tensors.

    The other arguments of a call, and the places of the tensors among them, are kept in
    the node alone: `get_config` of a model has them as text.

    Args:
        node: as `node_of` returns.
        inputs: list of values, one for each of the node's `input_tensors`.
    """
    tensors = map(id, node.input_tensors)
    return node.arguments.fill_in(dict(zip(tensors, inputs, strict=True)))


def layers_within(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Return the layers that a layer or model holds as its own, not those in them.

    `Model.layers` is of models alone; a layer that holds others in its attributes lists
    only their variables in public.

    Args:
        layer: `keras.layers.Layer`.
    """
    return list(layer._flatten_layers(include_self=False, recursive=False))


# Training


class LogsItsSteps(keras.Model):
    """A model whose own `train_step` and `test_step` return the logs.

    Keras lets both be overridden in public, but not what happens around them. It logs
    the metrics only if a step returns all of them by name, and otherwise what the last
    step returned, on one replica. It builds a model with the first batch, which must
    then split evenly over replicas. And a step is wrapped within `make_train_function`,
    which can only be replaced as a whole.
    """

    _makes_train_function = False

    def around_train_step(self, step: Callable) -> Callable:
        """Return the function of a batch that `fit` runs; by default Keras's own."""
        return step

    def make_train_function(self, force: bool = False) -> None:
        """Make the function that `fit` runs, with `around_train_step` applied."""
        self._makes_train_function = True
        super().make_train_function(force)
        self._makes_train_function = False

    def _autoconvert_optionals(self, step_function):
        """Return Keras's step on a batch, wrapped outside of what XLA compiles."""
        step = super()._autoconvert_optionals(step_function)
        return self.around_train_step(step) if self._makes_train_function else step

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Do nothing: `compile` has built all there is."""

    def logs_of_step(self) -> dict[str, tf.Tensor]:
        """Return the metrics in the form that a step returns."""
        results = self.get_metrics_result()
        if workers.several(self.distribute_strategy):
            # Keras averages over them along the first axis.
            results = {name: value[tf.newaxis] for name, value in results.items()}
        return results

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Keras's metrics but for its loss, which the steps average themselves."""
        return [m for m in super().metrics if m is not self._loss_tracker]

    def _get_metrics_result_or_logs(self, logs):
        """Return the metrics that a step logs, over all replicas."""
        results = self.get_metrics_result()
        return {name: value for name, value in results.items() if name in logs}

    def _flatten_metrics_in_order(self, logs):
        """Return the loss, as in Keras, the metrics of `compile`, then all others."""
        compiled = compiled_metrics(self)
        names = [] if compiled is None else [metric.name for metric in compiled.metrics]
        first = [name for name in ("loss", *names) if name in logs]
        return [logs[name] for name in (*first, *sorted(logs.keys() - set(first)))]


def compiled_metrics(model: keras.Model) -> keras.metrics.Metric | None:
    """Return the metrics of `compile` as one metric, or None without any.

    In public `Model.metrics` lists it among others, from which only its name tells it.
    """
    return model._compile_metrics


def build_compiled_metrics(model: keras.Model, num_classes: int) -> None:
    """Create the variables of the metrics of `compile`, for labels and logits.

    Keras creates them with a first batch, that is too late under several replicas.

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
    # Some create their variables only with a first label.
    compiled.update_state(tf.zeros([1], tf.int32), tf.zeros([1, num_classes]))
    compiled.reset_state()


def share_of_penalty(model: keras.Model, penalty: tf.Tensor) -> tf.Tensor:
    """Return a replica's share of a penalty; summed over replicas it is the penalty.

    In public only `Model.compute_loss` divides it so, together with losses of Keras.
    """
    return model._aggregate_additional_loss(penalty)


def index_in_optimizer(
    optimizer: keras.optimizers.Optimizer, variable: keras.Variable
) -> int:
    """Return the index of a variable among those that an optimizer was built for.

    `update_step`, which a derived optimizer overrides, is given the variable alone.
    """
    return optimizer._get_variable_index(variable)
