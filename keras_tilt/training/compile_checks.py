"""Checks of a network, and of the arguments that a classifier is compiled with.

Each is a ValueError or TypeError before anything is built, in place of a training that
fails at its first step, or that silently computes something else.
"""

__all__ = [
    "Objective",
    "check_queue",
    "dtype_policy_of",
    "generative_weight_of",
    "name_of_loss",
    "num_classes_of",
    "objective_in_words",
    "refuse_others",
    "refuse_unreplicable",
    "weight_at",
]

import numbers
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import keras
import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule

from keras_tilt.networks import output_activations
from keras_tilt.training.optimizers import scales_loss
from keras_tilt.validation import check_count, given

_OBJECTIVES = {"discriminative": 0.0, "generative": 1.0}

# Of a training; a number or a schedule is the weight of the generative loss in a mix.
Objective: TypeAlias = (
    Literal["generative", "discriminative"] | float | LearningRateSchedule
)


# The network


def dtype_policy_of(network: keras.Model) -> keras.DTypePolicy:
    """Return the dtype policy of a network, or raise a ValueError for no model."""
    if not isinstance(network, keras.Model):
        raise ValueError(
            "`network` must be a keras.Model from images to logits. "
            f"Received: {type(network).__name__}. Wrap a function in a Model first."
        )
    return network.dtype_policy


def num_classes_of(network: keras.Model) -> int:
    """Return the number of logits of a network.

    Raises:
        ValueError: for outputs that are not `[batch, classes]` logits of at least two
            classes.
    """
    shape: Any = getattr(network, "output_shape", None)
    if isinstance(shape, list | dict):
        raise ValueError(
            "`network` must have one output, logits [batch, classes]. Received: "
            f"outputs {shape}. Build one with the intended output: "
            "keras.Model(network.inputs, network.outputs[0])."
        )
    if shape is None:
        raise ValueError(
            "`network` must be a functional or Sequential model, built. Received: "
            f"{type(network).__name__} without a graph. Build it, or make one of its "
            "call: x = keras.Input(shape); keras.Model(x, network(x))."
        )
    is_logits = isinstance(shape, tuple) and len(shape) == 2 and shape[1]
    if not is_logits or shape[1] < 2:
        raise ValueError(
            "`network` must have one output, logits [batch, classes]. Received: output "
            f"shape {shape}. Flatten or pool maps first, and end in at least two "
            "classes."
        )
    _check_logits(network)
    return shape[1]


def _check_logits(network):
    """Raise a ValueError for outputs that are probabilities or their logarithms."""
    output = output_activations.output_of(network)
    if output.activation is None:
        return
    if output_activations.of_labels(output.activation):
        why = "each output is the probability of a label beside others, in [0, 1]"
    else:
        why = "both objectives apply their own softmax"
    raise ValueError(
        f"`network` must end in logits: {why}. Received: outputs with the values of a "
        f"{output.activation}, by layer {output.layer!r}. Remove it, or build the last "
        "layer with activation=None."
    )


# Arguments of `compile`


def generative_weight_of(objective: Objective) -> float | LearningRateSchedule:
    """Return the weight a of the generative loss in an objective, or its schedule.

    Raises:
        ValueError: for neither a name, a number in [0, 1] nor a schedule.
    """
    if isinstance(objective, LearningRateSchedule):
        return objective
    if isinstance(objective, str) and objective in _OBJECTIVES:
        return _OBJECTIVES[objective]
    if isinstance(objective, numbers.Real) and 0.0 <= float(objective) <= 1.0:
        return float(objective)
    raise ValueError(
        '`objective` must be "generative", "discriminative" or a number a in [0, 1] '
        "for (1 - a) discriminative + a generative, or a schedule of Keras for a. "
        f"Received: {objective!r}. Pass for example 0.5 for an equal mix."
    )


def weight_at(
    weight: float | LearningRateSchedule, step: tf.Tensor
) -> float | tf.Tensor:
    """Return a weight as it is, or that of a schedule at a step, float32 `[]`.

    Args:
        weight: of `generative_weight_of`.
        step: integer `[]`, from 0.

    Raises:
        tf.errors.InvalidArgumentError: when it runs, for a schedule that leaves [0, 1].
    """
    if not isinstance(weight, LearningRateSchedule):
        return weight
    found = tf.cast(weight(step), tf.float32)
    return given(
        found,
        (found >= 0.0) & (found <= 1.0),
        "Expected a schedule of `objective` in [0, 1], the weight a of the generative "
        "loss. Received:",
        found,
        "at step",
        step,
        ". Pass for example PolynomialDecay(1.0, steps, 0.0).",
    )


def name_of_loss(weight: float | LearningRateSchedule) -> str:
    """Return the name of an objective, in nats, in logs."""
    if weight == 1.0:
        return "generative_loss"
    return "discriminative_loss" if weight == 0.0 else "mixed_loss"


def objective_in_words(objective: Objective) -> str | float:
    """Return an objective as a table shows it; a schedule is "scheduled"."""
    scheduled = isinstance(objective, LearningRateSchedule)
    return "scheduled" if scheduled else objective


def check_queue(num_batches: int, objective: Objective) -> None:
    """Raise a ValueError unless it is a count, and 0 for a discriminative objective."""
    check_count("queue", num_batches, 0)
    if num_batches and not generative_weight_of(objective):
        raise ValueError(
            "`queue` is for the sums of an objective with a generative part. "
            f"Received: queue={num_batches}, objective={objective!r}. "
            "Leave it out."
        )


def refuse_others(arguments: Mapping[str, Any]) -> None:
    """Raise a TypeError for arguments of Keras's `compile` that have no place here."""
    if arguments:
        received = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise TypeError(
            "`compile` of a GenerativeClassifier takes `objective=` in place of a "
            f"loss, and the network's outputs are logits. Received: {received}. "
            'Pass for example objective="generative", or "discriminative" for the '
            "cross-entropy."
        )


def refuse_unreplicable(
    optimizer: keras.optimizers.Optimizer,
    steps_per_execution: int,
    jit_compile: bool | str,
) -> None:
    """Raise a ValueError for options that Keras cannot run under several replicas.

    They fail in Keras itself, or silently compute something else.
    """
    inner = optimizer.inner_optimizer if scales_loss(optimizer) else optimizer
    refused = {
        "steps_per_execution": steps_per_execution > 1,
        "jit_compile": jit_compile is True,
        "optimizer.gradient_accumulation_steps": inner.gradient_accumulation_steps,
        "optimizer.clipnorm": inner.clipnorm,
        "optimizer.global_clipnorm": inner.global_clipnorm,
        "optimizer.clipvalue": inner.clipvalue,
    }
    received = [name for name, value in refused.items() if value]
    if received:
        raise ValueError(
            "Under several replicas Keras cannot run these options, or applies them to "
            f"each replica's share of the gradient. Received: {', '.join(received)}. "
            "Leave them out, or train on one device."
        )
