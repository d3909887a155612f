"""What a served chain does in every iteration, all of it settled before it is served.

    tilt in iteration i     rise_i scale f,   rise_i in (0, 1], 1 from some i on
    leapfrog in iteration i num_leapfrog_steps_i steps of step_size_i

Nothing is adapted: an adapting chain has no stationary density, and how long a chain is
must not depend on what a client sends.
"""

__all__ = ["Schedule", "planned"]

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from keras_tilt.sampling.adaptation import (
    QUARTER_TURN,
    annealed_scale,
    jittered,
    leapfrog_steps,
)
from keras_tilt.validation import check_count


@dataclasses.dataclass(frozen=True)
class Schedule:
    """What a chain does in every iteration, for each unit.

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
    def num_iterations(self) -> int:
        """Iterations of a chain."""
        return len(self.rise)

    @property
    def num_rising(self) -> int:
        """Iterations before the tilt is at its full scale."""
        return int(np.argmax(self.rise == 1))

    @property
    def num_full(self) -> int:
        """Iterations at the full scale."""
        return self.num_iterations - self.num_rising

    @property
    def num_gradients(self) -> np.ndarray:
        """Gradients of f in a whole chain, [units]."""
        return 1 + self.num_leapfrog_steps.sum(axis=1)


def planned(
    step_size: ArrayLike,
    num_leapfrog_steps: ArrayLike,
    num_iterations: int,
    seed: tuple[int, int],
    approach_step_size: float | None = None,
) -> Schedule:
    """Return the `Schedule` of chains whose steps are known.

    The tilt rises as in a warm-up of as many iterations, and the number of leapfrog
    steps varies as it does there; nothing is adapted.

    Args:
        step_size: [units], of the leapfrog at the lowest temperature.
        num_leapfrog_steps: [units], their mean.
        num_iterations: of a chain, the rise of the tilt included.
        seed: pair of whole numbers, by which the number of steps varies.
        approach_step_size: None, or the step of an unadjusted warm-up: there is no
            Metropolis test while the tilt rises, and on average at most
            as many steps as the largest of `num_leapfrog_steps`.

    Raises:
        ValueError: for fewer than two iterations, as none would have the full tilt.

    Example:
        >>> schedule = planned([0.3, 0.4], [3, 4], num_iterations=20, seed=(0, 7))
        >>> schedule.num_rising, schedule.num_full
        (8, 12)
    """
    check_count("num_iterations", num_iterations, 2)
    rise = np.array([annealed_scale(i, num_iterations) for i in range(num_iterations)])
    is_adjusted = np.ones(num_iterations, bool)
    step_sizes = np.tile(np.asarray(step_size)[:, None], [1, num_iterations])
    frozen = np.asarray(num_leapfrog_steps)
    means = np.tile(frozen[:, None], [1, num_iterations])
    if approach_step_size is not None:
        is_adjusted = rise == 1
        step_sizes[:, ~is_adjusted] = approach_step_size
        steps = leapfrog_steps(approach_step_size, QUARTER_TURN, int(frozen.max()))
        means[:, ~is_adjusted] = steps
    counts = [[jittered(int(n), seed, i) for i, n in enumerate(row)] for row in means]
    return Schedule(
        rise.astype(np.float32),
        step_sizes.astype(np.float32),
        np.array(counts, np.int32),
        is_adjusted,
    )
