"""What is wrong with the arguments of a run, in words, before it begins."""

__all__ = ["check_plan", "checked_starts"]

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tilt.reference.distributions import is_standard_normal
from keras_tilt.sampling.chains import MOST_CHAINS
from keras_tilt.sampling.kernels import KERNELS
from keras_tilt.tilt import Tilt
from keras_tilt.validation import as_array, as_number, check_count


def check_plan(plan: Any, tilts: Sequence[Tilt]) -> None:
    """Check all arguments but the starts.

    Raises:
        ValueError: for an argument out of range, or not possible for these tilts.
    """
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
    _check_persistence(plan)
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


def _check_persistence(plan):
    if not 0 <= as_number("momentum_persistence", plan.momentum_persistence) < 1:
        raise ValueError(
            "`momentum_persistence` must lie in [0, 1). "
            f"Received: {plan.momentum_persistence!r}. Pass for example 0.6."
        )
    if plan.momentum_persistence and not (
        plan.kernel == "split" and plan.ladder is None
    ):
        raise ValueError(
            "`momentum_persistence` needs the kernel 'split' and no ladder. Received: "
            f"kernel={plan.kernel!r}, inverse_temperatures={plan.ladder}. Leave one "
            "of them out."
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
    tilts: Sequence[Tilt], plan: Any, starts: Sequence[ArrayLike]
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
