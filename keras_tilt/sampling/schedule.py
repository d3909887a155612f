"""The plan of a run: the arguments of the sampler, checked, and what follows from them.

    num_burnin_steps    iterations that adapt the step size, while the tilt rises
    num_results         iterations with the step size that was found, now frozen

How long a trajectory is, how many steps it takes and how strong the tilt is in an
iteration depend only on these arguments and on the step size adapted so far.
"""

__all__ = ["Leapfrog", "Plan", "checked_starts", "plan_of", "stateless_seed"]

import dataclasses
import math
import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from numpy.typing import ArrayLike

from keras_tilt.reference.distributions import is_standard_normal
from keras_tilt.sampling.adaptation import (
    QUARTER_TURN,
    StepSize,
    annealed_scale,
    jittered,
    leapfrog_steps,
)
from keras_tilt.sampling.chains import MOST_CHAINS, KernelParameters
from keras_tilt.sampling.kernels import KERNELS, Kernel
from keras_tilt.storage.run_folder import fingerprint
from keras_tilt.tilt import Tilt
from keras_tilt.validation import as_array, as_number, check_count

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

    def is_warmup(self, iteration: int) -> bool:
        """Return whether an iteration is before the first draw."""
        return iteration < self.num_burnin_steps

    def is_unadjusted(self, iteration: int) -> bool:
        """Return whether there is no Metropolis test, as early in a warm-up."""
        is_early = iteration < _UNADJUSTED * self.num_burnin_steps
        return self.approach_step_size is not None and is_early

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
        return KernelParameters(step_size, num_steps, scale)

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
    _check_plan(plan, tilts)
    return plan


# Checks


def _check_plan(plan, tilts):
    """Raise a ValueError for an argument out of range, or not for these tilts."""
    check_count("num_chains", plan.num_chains, 1, MOST_CHAINS)
    check_count("num_results", plan.num_results, 1)
    check_count("num_burnin_steps", plan.num_burnin_steps, 0)
    check_count("max_leapfrog_steps", plan.max_leapfrog_steps, 1)
    check_count("thin", plan.thin, 1)
    if plan.num_leapfrog_steps is not None:
        check_count("num_leapfrog_steps", plan.num_leapfrog_steps, 1)
    if plan.num_superchains is not None:
        check_count("num_superchains", plan.num_superchains, 2, plan.num_chains)
        if plan.num_chains % plan.num_superchains:
            raise ValueError(
                "`num_superchains` must divide `num_chains`. Received: "
                f"num_superchains={plan.num_superchains}, num_chains="
                f"{plan.num_chains}. Change one of them."
            )
    if plan.num_results % plan.thin:
        raise ValueError(
            "`thin` must divide `num_results`. Received: "
            f"thin={plan.thin}, num_results={plan.num_results}. Change one of them."
        )
    _check_step_size(plan)
    _check_unadjusted(plan)
    _check_kernel(plan, tilts)
    _check_ladder(plan.ladder)
    _check_replicas(plan)


def _check_step_size(plan):
    if not 0 < as_number("target_accept_prob", plan.target_accept_prob) < 1:
        raise ValueError(
            "`target_accept_prob` must lie between 0 and 1. "
            f"Received: {plan.target_accept_prob!r}. Pass for example 0.8."
        )
    if plan.step_size is None and plan.num_burnin_steps == 0:
        raise ValueError(
            "`num_burnin_steps` must be positive when the step size is adapted. "
            "Received: num_burnin_steps=0, step_size=None. Pass one of them."
        )
    if plan.step_size is not None and not (
        0 < as_number("step_size", plan.step_size) < math.inf
    ):
        raise ValueError(
            "`step_size` must be None, to adapt it, or a positive number. "
            f"Received: {plan.step_size!r}. Pass a length in units of noise."
        )


def _check_unadjusted(plan):
    if plan.approach_step_size is None:
        return
    if not 0 < as_number("approach_step_size", plan.approach_step_size) < math.inf:
        raise ValueError(
            "`approach_step_size` must be None, or a positive number. "
            f"Received: {plan.approach_step_size!r}. Pass for example 0.08."
        )
    if plan.kernel != "split" or plan.ladder is not None or not plan.is_annealed:
        raise ValueError(
            "`approach_step_size` needs the kernel 'split', no ladder, and a tilt "
            f"that rises. Received: kernel={plan.kernel!r}, inverse_temperatures="
            f"{plan.ladder}, or an `initial_noise`. Leave one of them out."
        )


def _check_kernel(plan, tilts):
    if plan.kernel not in KERNELS:
        raise ValueError(
            f"`kernel` must be one of {', '.join(map(repr, KERNELS))}. "
            f"Received: {plan.kernel!r}. Leave it out for the default."
        )
    if plan.kernel == "split" and not plan.is_normal:
        other = next(tilt for tilt in tilts if not is_standard_normal(tilt.base))
        raise ValueError(
            "`kernel` may be 'split' only where the noise is N(0, I). Received: a "
            f"reference {other.reference.name!r} with the noise "
            f"{other.base.name!r}. Pass kernel='hmc'."
        )
    mass = as_array("mass", plan.mass)
    if not np.all(mass > 0) or not np.all(np.isfinite(mass)):
        raise ValueError(
            "`mass` must be positive and finite. Received: smallest "
            f"{np.min(mass)}, largest {np.max(mass)}. Leave it out for mass 1."
        )
    for event in {tuple(tilt.base.event_shape) for tilt in tilts}:
        if not _broadcasts(mass, event):
            raise ValueError(
                f"`mass` must broadcast to the noise of a chain, {event}. "
                f"Received: shape {mass.shape}. Reshape it."
            )
    if plan.kernel != "split" and not np.all(mass == 1):
        raise ValueError(
            "`mass` needs the kernel 'split'. Received: a mass and kernel="
            f"{plan.kernel!r}. Leave one of them out."
        )


def _broadcasts(array, shape):
    try:
        np.broadcast_to(array, shape)
    except ValueError:
        return False
    return True


def _check_ladder(ladder):
    if ladder is None:
        return
    ladder = as_array("inverse_temperatures", ladder)
    falling = ladder.ndim == 1 and len(ladder) > 1 and ladder[0] == 1
    if not falling or np.any(np.diff(ladder) >= 0) or ladder[-1] <= 0:
        raise ValueError(
            "`inverse_temperatures` must decrease from 1, all positive. "
            f"Received: {ladder.tolist()}. Pass for example (1.0, 0.6, 0.3)."
        )


def _check_replicas(plan):
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if replicas == 1:
        return
    if plan.kernel != "split" or plan.ladder is not None:
        raise ValueError(
            "Chains can be split over replicas with the kernel 'split' and without a "
            f"ladder. Received: kernel={plan.kernel!r}, inverse_temperatures="
            f"{plan.ladder}. Sample outside of `strategy.scope()`."
        )
    if plan.num_chains < replicas:
        raise ValueError(
            f"`num_chains` must be {replicas} or more, one for every replica. "
            f"Received: {plan.num_chains}. Add chains, or sample outside of the scope."
        )


def checked_starts(
    tilts: Sequence[Tilt], plan: Plan, starts: Sequence[ArrayLike]
) -> list[np.ndarray]:
    """Return the noise to start from, [chains, ...] per tilt, or raise a ValueError."""
    if len(starts) != len(tilts):
        raise ValueError(
            "`initial_noise` must hold the noise of every tilt of the list, "
            f"[{len(tilts)}, num_chains, ...]. Received: {len(starts)} of them for "
            f"{len(tilts)} tilts. Pass a list, or leave it out."
        )
    checked = [
        _checked_noise(start, plan.num_chains, tilt.base)
        for start, tilt in zip(starts, tilts, strict=True)
    ]
    if plan.num_superchains is not None:
        for start in checked:
            _check_same_in_superchains(start, plan.num_superchains)
    return checked


def _check_same_in_superchains(start, num_superchains):
    grouped = start.reshape(num_superchains, -1, *start.shape[1:])
    if np.any(grouped != grouped[:, :1]):
        raise ValueError(
            "`initial_noise` must be the same for all chains of a superchain, "
            f"{len(start) // num_superchains} in a row. Received: other noise within "
            "one. Pass np.repeat of one start each, or leave one of them out."
        )


def _checked_noise(noise, num_chains, base):
    noise = as_array("initial_noise", noise, base.dtype.as_numpy_dtype)
    expected = (num_chains, *base.event_shape)
    if noise.shape != expected:
        raise ValueError(
            f"`initial_noise` must have shape {expected}, one state per chain. "
            f"Received: shape {noise.shape}. Pass tilt.to_noise(images)."
        )
    if not np.all(np.isfinite(noise)):
        raise ValueError(
            "`initial_noise` must be finite. Received: "
            f"{np.sum(~np.isfinite(noise))} of {noise.size} numbers that are not. "
            "Leave it out for exact draws of the base."
        )
    return noise
