"""The plan of a run: the arguments of the sampler, checked, and what follows from them.

    num_burnin_steps    iterations that adapt the step size, while the tilt rises
    num_results         iterations with the step size that was found, now frozen

How long a trajectory is, how many steps it takes and how strong the tilt is in an
iteration depend only on these arguments and on the step size adapted so far.
"""

__all__ = ["Leapfrog", "Plan", "plan_of", "stateless_seed"]

import dataclasses
import math
import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from numpy.typing import ArrayLike
from tensorflow_probability import distributions as tfd

from keras_tilt.reference.distributions import is_standard_normal
from keras_tilt.sampling.adaptation import (
    QUARTER_TURN,
    StepSize,
    annealed_scale,
    jittered,
    leapfrog_steps,
)
from keras_tilt.sampling.chains import KernelParameters
from keras_tilt.sampling.kernels import Kernel
from keras_tilt.sampling.plan_checks import check_plan
from keras_tilt.sampling.verdict.advice import Trajectories
from keras_tilt.storage.run_folder import fingerprint
from keras_tilt.tilt import Tilt

_STEPS_ELSEWHERE = 10  # where the noise is not N(0, I), and pi / 2 has no meaning


# Shares of a warm-up with an `approach_step_size`.
_WHOLE_STEPS = 0.55  # while the tilt rises, and a little longer
_UNADJUSTED = 0.7  # up to here by half of that step, then the test adapts its own


@dataclasses.dataclass(frozen=True)
class Plan:
    """The arguments of `keras_tilt.sample`, and what follows from them alone."""

    num_chains: int
    num_results: int
    num_burnin_steps: int
    seed: tuple[int, int]
    kernel: Kernel
    is_normal: bool
    is_annealed: bool
    num_leapfrog_steps: int | None = None
    max_leapfrog_steps: int = 64
    step_size: float | None = None
    target_accept_prob: float = 0.8
    mass: ArrayLike = 1.0
    ladder: Sequence[float] | None = None
    num_superchains: int | None = None
    thin: int = 1
    approach_step_size: float | None = None
    momentum_persistence: float = 0.0

    def identity(self, tilts: Sequence[Tilt]) -> dict[str, Any]:
        """Return what a run with this plan depends on, as values that JSON knows."""
        arguments = {
            name: np.asarray(value).tolist()
            for name, value in dataclasses.asdict(self).items()
        }
        return arguments | {
            "mass": fingerprint(self.mass),
            "units": [getattr(tilt.unit, "name", "function") for tilt in tilts],
            "scales": [float(tilt.scale) for tilt in tilts],
            "reference": tilts[0].reference.name,
        }

    @property
    def num_iterations(self) -> int:
        """Of the warm-up and after it."""
        return self.num_burnin_steps + self.num_results

    @property
    def seeds(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Seeds of the starts of the chains, and of their iterations."""
        return tfp.random.split_seed(tf.constant(self.seed), n=2)

    def exact_draws(self, base: tfd.Distribution, index: int) -> np.ndarray:
        """Return the noise at which the chains of one tilt start, [chains, ...]."""
        seed = tf.random.fold_in(self.seeds[0], index)
        num_starts = self.num_superchains or self.num_chains
        starts = base.sample(num_starts, seed=seed).numpy()
        return np.repeat(starts, self.num_chains // num_starts, axis=0)

    def is_warmup(self, iteration: int) -> bool:
        """Return whether an iteration is before the first draw."""
        return iteration < self.num_burnin_steps

    def is_unadjusted(self, iteration: int) -> bool:
        """Return whether there is no Metropolis test, as early in a warm-up."""
        return iteration < self.end_of_unadjusted

    @property
    def end_of_unadjusted(self) -> float:
        """The iteration with which Metropolis tests begin, and step sizes adapt."""
        share = 0.0 if self.approach_step_size is None else _UNADJUSTED
        return share * self.num_burnin_steps

    def first_step(self, num_pixels: int) -> float:
        """Return the step size at which the adaptation begins: one for a weak tilt."""
        if self.approach_step_size is not None:
            return self.approach_step_size / 4  # about what the test accepts
        return 0.5 if self.kernel == "split" else num_pixels**-0.25

    def kernel_parameters(
        self, iteration: int, step: StepSize, scale: np.ndarray
    ) -> KernelParameters:
        """Return the parameters of an iteration, given the step size adapted so far."""
        frozen = not self.is_warmup(iteration)
        if self.is_annealed and not frozen:
            scale = scale * annealed_scale(iteration, self.num_burnin_steps)
        if self.approach_step_size is not None and self.is_unadjusted(iteration):
            is_late = iteration >= _WHOLE_STEPS * self.num_burnin_steps
            length = self.approach_step_size / (2 if is_late else 1)
            step_size = np.full_like(step.log_step, length)
            parameters = self._jittered(step_size, iteration, scale)
            return parameters._replace(is_adjusted=False)
        step_size = step.settled if frozen else step.current
        return self.parameters_with(step_size, iteration, scale)

    def parameters_with(
        self, step_size: np.ndarray, iteration: int, scale: np.ndarray
    ) -> KernelParameters:
        """Return the same for given step sizes: equal iterations have equal lengths."""
        step_size = self.within_length(step_size)
        return self._jittered(step_size, iteration, scale)

    def _jittered(self, step_size, iteration, scale):
        num_steps = self.mean_steps(step_size)
        if self.num_leapfrog_steps is None:
            num_steps = jittered(num_steps, self.seed, iteration)
        persistence = self.momentum_persistence
        return KernelParameters(step_size, num_steps, scale, True, persistence)

    def frozen_step_sizes(self, step: StepSize) -> np.ndarray:
        """Return the step sizes after the warm-up."""
        return self.within_length(step.settled)

    def within_length(self, step_size: np.ndarray) -> np.ndarray:
        """Return step sizes with which no mean trajectory exceeds its length."""
        if self.step_size is not None:
            return np.full_like(step_size, self.step_size)
        return np.minimum(step_size, self.length / self.mean_steps(step_size))

    @property
    def length(self) -> float:
        """Trajectory length: pi / 2 for the lightest coordinate of an N(0, I)."""
        if not self.is_normal:
            return math.inf
        return QUARTER_TURN * math.sqrt(np.min(self.mass))

    @property
    def longest_step(self) -> float:
        """The step size of a trajectory of full length with the fewest steps."""
        return self.length / (self.num_leapfrog_steps or 1)

    def mean_steps(self, step_size: np.ndarray) -> int:
        """Return the mean number of leapfrog steps per iteration."""
        if self.kernel == "mala":
            return 1
        if self.num_leapfrog_steps is not None:
            return self.num_leapfrog_steps
        if not self.is_normal:
            return min(_STEPS_ELSEWHERE, self.max_leapfrog_steps)
        return leapfrog_steps(step_size, self.length, self.max_leapfrog_steps)

    def trajectories(self, step_size: np.ndarray) -> Trajectories:
        """Return how chains move with these step sizes."""
        steps = self.mean_steps(step_size)
        moved = Trajectories(
            int(steps * self.num_chains)
            * len([1] if self.ladder is None else self.ladder),
            renewed=1 - self.momentum_persistence**2,
        )
        if self.kernel == "mala" or self.num_leapfrog_steps or not self.is_normal:
            return moved
        turn = steps * float(np.min(step_size)) / self.length
        wanted = math.ceil(steps / turn) if turn < 1 else steps
        return moved._replace(turn=turn, wanted_steps=wanted)


def stateless_seed(seed: int | Sequence[int]) -> tuple[int, int]:
    """Return a pair of int32, from a whole number or a pair of them.

    TFP would take a single number as the seed of a hidden, advancing state.

    Raises:
        TypeError: if it is neither.
        ValueError: if it is negative or too large.
    """
    parts: Any = seed
    if isinstance(seed, numbers.Integral) and not isinstance(seed, bool):
        whole = int(seed)
        if not 0 <= whole < 2**62:
            raise ValueError(
                f"`seed` must lie in [0, 2^62). Received: {seed}. Pass for example 7."
            )
        parts = [whole >> 31, whole & (2**31 - 1)]
    pair = np.asarray(parts)
    if pair.shape != (2,) or not np.issubdtype(pair.dtype, np.integer):
        raise TypeError(
            "`seed` must be a whole number or a pair of them. "
            f"Received: {seed!r}. Pass for example seed=7."
        )
    if np.any(pair < -(2**31)) or np.any(pair >= 2**32):
        raise ValueError(
            "`seed` must be a pair of whole numbers of 32 bits. "
            f"Received: {seed!r}. Pass smaller ones."
        )
    pair = tfp.random.sanitize_seed(pair.astype(np.int32), salt="keras_tilt.sample")
    first, second = (int(part) for part in pair)
    return first, second


class Leapfrog(NamedTuple):
    """The arguments about the leapfrog, alike in `sample` and `log_partition`."""

    kernel: Kernel | None
    num_leapfrog_steps: int | None
    max_leapfrog_steps: int
    step_size: float | None
    mass: ArrayLike


def plan_of(
    tilts: Sequence[Tilt],
    leapfrog: Leapfrog,
    *,
    seed: int | Sequence[int],
    **others: Any,
) -> Plan:
    """Return the `Plan` of a run, checked.

    Args:
        tilts: list of `Tilt`.
        leapfrog: a `Leapfrog`; its kernel may be None, for the default of these tilts.
        seed: as in `keras_tilt.sample`.
        **others: further attributes of the plan.

    Raises:
        TypeError: if `seed` is not whole numbers.
        ValueError: for an argument out of range, or not possible for these tilts.
    """
    is_normal = all(is_standard_normal(one.base) for one in tilts)
    kernel: Kernel = leapfrog.kernel or ("split" if is_normal else "hmc")
    plan = Plan(
        **leapfrog._replace(kernel=kernel)._asdict(),
        **others,
        seed=stateless_seed(seed),
        is_normal=is_normal,
    )
    check_plan(plan, tilts)
    return plan
