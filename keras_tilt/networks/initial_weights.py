"""Initial weights by a seed. Keras would draw them by Python's generator.

    uniform in +- sqrt(6 / (fan_in + fan_out))

Source: Glorot and Bengio (2010), equation 16.
"""

__all__ = ["initialize"]

from collections.abc import Iterable

import keras
import numpy as np


def initialize(weights: Iterable[keras.Variable], seed: int) -> None:
    """Draw matrices and kernels anew, each by a seed of its own.

    What is 0 stays so: biases, and the last layers of couplings.

    Args:
        weights: variables of a network.
        seed: of all of them.
    """
    for i, variable in enumerate(weights):
        if len(variable.shape) > 1 and np.any(variable):
            own = int(np.random.SeedSequence([seed, i]).generate_state(1)[0] % 2**31)
            draw = keras.initializers.GlorotUniform(seed=own)
            variable.assign(draw(tuple(variable.shape)))
