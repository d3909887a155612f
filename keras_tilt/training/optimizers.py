"""Stochastic gradient descent as Caffe has it: coupled weight decay, faster biases.

    v <- momentum v - lr m (gradient + d l2 w),    w <- w + v

with m = d = 1 for weights, `bias_multiplier` and `bias_l2_multiplier` for biases, and
the learning-rate policy "inv": lr(t) = lr (1 + gamma t)^-power.

Source: Jia et al., "Caffe: Convolutional Architecture for Fast Feature Embedding",
2014, and its LeNet solver.
"""

import keras
import tensorflow as tf
from keras import ops

from keras_tilt.networks.keras_internals import index_in_optimizer

__all__ = [
    "CaffeSGD",
    "Continued",
    "InverseDecay",
    "WarmUp",
    "gradients_to_apply",
    "scales_loss",
]


@keras.saving.register_keras_serializable("keras_tilt")
class CaffeSGD(keras.optimizers.SGD):
    """SGD whose weight decay enters the momentum and whose biases learn faster.

    Keras's own `weight_decay` is decoupled (it does not enter the momentum), and no
    Keras optimizer scales the learning rate per variable.

    Args:
        learning_rate: float or schedule, lr per step.
        momentum: float in [0, 1).
        l2: coefficient of the penalty l2 |w|^2 / 2 on every variable, biases included.
        bias_multiplier: factor of the learning rate for variables named "bias".
        bias_l2_multiplier: factor of l2 for them; Caffe's AlexNet has 0.
        **kwargs: passed to `keras.optimizers.SGD`.
    """

    def __init__(
        self,
        learning_rate=0.01,
        momentum=0.9,
        l2=5e-4,
        bias_multiplier=2.0,
        bias_l2_multiplier=1.0,
        name="caffe_sgd",
        **kwargs,
    ):
        super().__init__(learning_rate, momentum=momentum, name=name, **kwargs)
        self.l2 = l2
        self.bias_multiplier = bias_multiplier
        self.bias_l2_multiplier = bias_l2_multiplier

    def build(self, variables):
        """Creates the momenta and looks up which variables are biases."""
        of_bias = (self.bias_multiplier, self.bias_l2_multiplier)
        self._factors = [
            of_bias if variable.name == "bias" else (1.0, 1.0) for variable in variables
        ]
        super().build(variables)

    def update_step(self, gradient, variable, learning_rate):
        """One step of the module's formula for one variable."""
        factor, l2_factor = self._factors[index_in_optimizer(self, variable)]
        if l2 := self.l2 * l2_factor:
            gradient = ops.cast(gradient, variable.dtype) + l2 * variable
        super().update_step(gradient, variable, learning_rate * factor)

    def get_config(self):
        """Constructor arguments."""
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

    def __init__(self, initial_learning_rate, gamma=1e-4, power=0.75):
        self.initial_learning_rate = initial_learning_rate
        self.gamma = gamma
        self.power = power

    def __call__(self, step):
        """Learning rate at `step`."""
        step = ops.cast(step, "float32")
        return self.initial_learning_rate * (1.0 + self.gamma * step) ** -self.power

    def get_config(self):
        """Constructor arguments."""
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "gamma": self.gamma,
            "power": self.power,
        }


class _OfSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """What another schedule and a number of steps make."""

    def __init__(self, schedule, steps):
        self.schedule = schedule
        self.steps = steps

    def get_config(self):
        """Constructor arguments."""
        schedule = keras.optimizers.schedules.serialize(self.schedule)
        return {"schedule": schedule, "steps": self.steps}

    @classmethod
    def from_config(cls, config):
        """The same schedule."""
        schedule = keras.optimizers.schedules.deserialize(config["schedule"])
        return cls(schedule, config["steps"])


@keras.saving.register_keras_serializable("keras_tilt")
class Continued(_OfSchedule):
    """A schedule from a later step on: lr(t) = schedule(steps + t).

    An optimizer counts its own steps; a new one that takes over in the middle of a
    training goes on with the learning rate of the old one.

    Args:
        schedule: Keras learning-rate schedule of the whole training.
        steps: how many were done before.
    """

    def __call__(self, step):
        """Learning rate at `step`."""
        return self.schedule(step + self.steps)


@keras.saving.register_keras_serializable("keras_tilt")
class WarmUp(_OfSchedule):
    """A schedule that rises at first: lr(t) = schedule(t) min(1, (t + 1) / steps).

    Args:
        schedule: Keras learning-rate schedule.
        steps: after which the rate is that of the schedule.

    Source: Goyal et al., "Accurate, large minibatch SGD", 2017, section 2.2.
    """

    def __call__(self, step):
        """Learning rate at `step`."""
        share = (ops.cast(step, "float32") + 1.0) / self.steps
        return self.schedule(step) * ops.minimum(1.0, share)


# Loss scaling


def scales_loss(optimizer):
    """Whether it multiplies the loss, so that small gradients do not underflow."""
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


def gradients_to_apply(optimizer, gradients, replicas):
    """Gradients as the optimizer is to see them, on one of so many replicas.

    Loss scaling looks for overflow on one replica only, so that under several it is
    given the sum over replicas, divided since the optimizer will sum again.
    """
    if replicas == 1 or not scales_loss(optimizer):
        return gradients
    context = tf.distribute.get_replica_context()
    summed = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
    return [gradient / replicas for gradient in summed]
