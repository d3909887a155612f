"""What a served chain does in every iteration, all of it settled before it is served.

    tilt in iteration i     rise_i scale f,   rise_i in (0, 1], 1 from some i on
    leapfrog in iteration i num_leapfrog_steps_i steps of step_size_i

Nothing is adapted: an adapting chain has no stationary density, and how long a chain is
must not depend on what a client sends.
"""

__all__ = ["Schedule", "planned"]

import dataclasses

import numpy as np

from keras_tilt.sampling.adaptation import (
    QUARTER_TURN,
    annealed_scale,
    jittered,
    leapfrog_steps,
)
from keras_tilt.validation import check_count


@dataclasses.dataclass(frozen=True)
class Schedule:
    """What a chain does in every iteration, unit by unit.

    Attributes:
        rise: [iterations], factor of the tilt, in (0, 1]; 1 from some iteration on.
        step_size: [units, iterations], of the leapfrog, in units of noise.
        num_leapfrog_steps: [units, iterations].
        is_adjusted: [iterations], whether the Metropolis test is made.
    """

    rise: np.ndarray
    step_size: np.ndarray
    num_leapfrog_steps: np.ndarray
    is_adjusted: np.ndarray

    @property
    def num_rising(self):
        """Iterations before the tilt is at its full scale."""
        return int(np.argmax(self.rise == 1))

    @property
    def num_iterations(self):
        return len(self.rise)

    @property
    def num_full(self):
        """Iterations at the full scale."""
        return self.num_iterations - self.num_rising

    @property
    def num_gradients(self):
        """[units], of f in a whole chain."""
        return 1 + self.num_leapfrog_steps.sum(axis=1)


def planned(
    step_size, num_leapfrog_steps, num_iterations, seed, approach_step_size=None
):
    """Return the `Schedule` of chains whose steps are known.

    The tilt rises as in a warm-up of as many iterations, and the numbers of steps vary
    as they do there; nothing is adapted.

    Args:
        step_size: [units], frozen, of the lowest temperature.
        num_leapfrog_steps: [units], their mean.
        num_iterations: of a chain, the rise of the tilt included.
        seed: pair of whole numbers, of the variation.
        approach_step_size: None, or the step without Metropolis test while the tilt
            rises, with as many steps at most.

    Raises:
        ValueError: for less than two iterations, of which none has the full tilt.
    """
    check_count("num_iterations", num_iterations, 2)
    iterations = range(num_iterations)
    rise = np.array([annealed_scale(i, num_iterations) for i in iterations])
    frozen = np.asarray(num_leapfrog_steps)
    is_adjusted = np.ones(num_iterations, bool)
    step_size = np.tile(np.asarray(step_size)[:, None], [1, num_iterations])
    means = np.tile(frozen[:, None], [1, num_iterations])
    if approach_step_size is not None:
        is_adjusted = rise == 1
        step_size[:, ~is_adjusted] = approach_step_size
        steps = leapfrog_steps(approach_step_size, QUARTER_TURN, int(frozen.max()))
        means[:, ~is_adjusted] = steps
    counts = [[jittered(int(n), seed, i) for i, n in enumerate(row)] for row in means]
    return Schedule(
        rise.astype(np.float32),
        step_size.astype(np.float32),
        np.array(counts, np.int32),
        is_adjusted,
    )
