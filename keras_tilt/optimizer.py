"""Stochastic gradient descent as Caffe has it: coupled weight decay, faster biases.

    v <- momentum v - lr m (gradient + weight_decay w),    w <- w + v

with m = 1 for weights and `bias_multiplier` for biases, and the learning-rate policy
"inv": lr(t) = lr (1 + gamma t)^-power.

Source: Jia et al., "Caffe: Convolutional Architecture for Fast Feature Embedding",
2014, and its LeNet solver.
"""

import keras
from keras import ops

__all__ = ["CaffeSGD", "InverseDecay"]


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
        **kwargs: passed to `keras.optimizers.SGD`.
    """

    def __init__(
        self,
        learning_rate=0.01,
        momentum=0.9,
        l2=5e-4,
        bias_multiplier=2.0,
        name="caffe_sgd",
        **kwargs,
    ):
        super().__init__(learning_rate, momentum=momentum, name=name, **kwargs)
        self.l2 = l2
        self.bias_multiplier = bias_multiplier

    def build(self, variables):
        """Creates the momenta and looks up which variables are biases."""
        self._rate_factors = [
            self.bias_multiplier if variable.name == "bias" else 1.0
            for variable in variables
        ]
        super().build(variables)

    def update_step(self, gradient, variable, learning_rate):
        """One step of the module's formula for one variable."""
        factor = self._rate_factors[self._get_variable_index(variable)]
        gradient = ops.cast(gradient, variable.dtype) + self.l2 * variable
        super().update_step(gradient, variable, learning_rate * factor)

    def get_config(self):
        """Constructor arguments."""
        config = super().get_config()
        return {**config, "l2": self.l2, "bias_multiplier": self.bias_multiplier}


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
