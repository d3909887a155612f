"""Stochastic gradient descent as in Caffe: coupled weight decay, faster biases.

    v <- momentum v - lr m (gradient + d l2 w),    w <- w + v

with m = d = 1 for weights, `bias_multiplier` and `bias_l2_multiplier` for biases, and
the learning-rate policy "inv": lr(t) = lr (1 + gamma t)^-power.

Source: Jia et al., "Caffe: Convolutional Architecture for Fast Feature Embedding",
2014, and its LeNet solver.
"""

__all__ = [
    "CaffeSGD",
    "Continued",
    "InverseDecay",
    "WarmUp",
    "gradients_to_apply",
    "scales_loss",
]

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_tilt.networks.keras_internals import index_in_optimizer


@keras.saving.register_keras_serializable("keras_tilt")
class CaffeSGD(keras.optimizers.SGD):
    """SGD with weight decay in the momentum and a higher learning rate for biases.

    Keras's own `weight_decay` is decoupled (it does not enter the momentum), and no
    Keras optimizer scales the learning rate per variable.

    Args:
        learning_rate: float or schedule, lr per step.
        momentum: float in [0, 1).
        l2: coefficient of the penalty l2 |w|^2 / 2 on every variable, biases included.
        bias_multiplier: factor of the learning rate for variables named "bias".
        bias_l2_multiplier: factor of l2 for them; 0 in Caffe's AlexNet.
        name: of the optimizer.
        **kwargs: passed to `keras.optimizers.SGD`.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.01,
        momentum: float = 0.9,
        l2: float = 5e-4,
        bias_multiplier: float = 2.0,
        bias_l2_multiplier: float = 1.0,
        name: str = "caffe_sgd",
        **kwargs: Any,
    ):
        super().__init__(learning_rate, momentum=momentum, name=name, **kwargs)
        self.l2 = l2
        self.bias_multiplier = bias_multiplier
        self.bias_l2_multiplier = bias_l2_multiplier

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Create the momenta and look up which variables are biases."""
        of_bias = (self.bias_multiplier, self.bias_l2_multiplier)
        self._factors = [
            of_bias if variable.name == "bias" else (1.0, 1.0) for variable in variables
        ]
        super().build(variables)

    def update_step(
        self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor
    ) -> None:
        """Take one step of the module's formula for one variable."""
        factor, l2_factor = self._factors[index_in_optimizer(self, variable)]
        if l2 := self.l2 * l2_factor:
            gradient = ops.cast(gradient, variable.dtype) + l2 * variable
        super().update_step(gradient, variable, learning_rate * factor)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments."""
        config = super().get_config()
        return {
            **config,
            "l2": self.l2,
            "bias_multiplier": self.bias_multiplier,
            "bias_l2_multiplier": self.bias_l2_multiplier,
        }


@keras.saving.register_keras_serializable("keras_tilt")
class InverseDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Caffe's policy "inv": lr(t) = lr (1 + gamma t)^-power, t in steps.

    Args:
        initial_learning_rate: lr at step 0.
        gamma: decay per step.
        power: exponent.
    """

    def __init__(
        self, initial_learning_rate: float, gamma: float = 1e-4, power: float = 0.75
    ):
        self.initial_learning_rate = initial_learning_rate
        self.gamma = gamma
        self.power = power

    def __call__(self, step: tf.Tensor | int) -> tf.Tensor:
        """Return the learning rate at `step`."""
        step = ops.cast(step, "float32")
        return self.initial_learning_rate * (1.0 + self.gamma * step) ** -self.power

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments."""
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "gamma": self.gamma,
            "power": self.power,
        }


class _OfSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule made of another one and a number of steps."""

    def __init__(self, schedule: Callable, steps: int):
        self.schedule = schedule
        self.steps = steps

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments."""
        schedule = keras.optimizers.schedules.serialize(self.schedule)
        return {"schedule": schedule, "steps": self.steps}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "_OfSchedule":
        """Return the schedule that has this configuration."""
        schedule = keras.optimizers.schedules.deserialize(config["schedule"])
        return cls(schedule, config["steps"])


@keras.saving.register_keras_serializable("keras_tilt")
class Continued(_OfSchedule):
    """A schedule from a later step on: lr(t) = schedule(steps + t).

    An optimizer counts its own steps. With this schedule a new one that takes over in
    the middle of a training continues the learning rate of the old one.

    Args:
        schedule: Keras learning-rate schedule of the whole training.
        steps: number of steps before this optimizer's first.
    """

    def __call__(self, step: tf.Tensor | int) -> tf.Tensor:
        """Return the learning rate at `step`."""
        return self.schedule(step + self.steps)


@keras.saving.register_keras_serializable("keras_tilt")
class WarmUp(_OfSchedule):
    """A schedule with a linear warm-up: lr(t) = schedule(t) min(1, (t + 1) / steps).

    Args:
        schedule: Keras learning-rate schedule.
        steps: number of steps of the warm-up.

    Source: Goyal et al., "Accurate, large minibatch SGD", 2017, section 2.2.
    """

    def __call__(self, step: tf.Tensor | int) -> tf.Tensor:
        """Return the learning rate at `step`."""
        share = (ops.cast(step, "float32") + 1.0) / self.steps
        return self.schedule(step) * ops.minimum(1.0, share)


# Loss scaling


def scales_loss(optimizer: keras.optimizers.Optimizer) -> bool:
    """Return whether it scales the loss, so that small gradients do not underflow."""
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


def gradients_to_apply(
    optimizer: keras.optimizers.Optimizer, gradients: list[tf.Tensor], replicas: int
) -> list[tf.Tensor]:
    """Return the gradients that an optimizer is given, in a replica context.

    Loss scaling looks for overflow on one replica only. Under several it is given the
    sum over replicas, divided by their number since the optimizer sums again.

    Args:
        optimizer: Keras optimizer.
        gradients: those of this replica.
        replicas: their number.
    """
    if replicas == 1 or not scales_loss(optimizer):
        return gradients
    context = tf.distribute.get_replica_context()
    summed = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
    return [gradient / replicas for gradient in summed]
