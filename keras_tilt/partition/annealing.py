"""Forward and reverse annealed importance sampling: walks from q to p and back to q.

    p_b(z) ~ exp(b scale f(T(z))) base(z),      b_0 = 0 < b_1 < ... < b_K = 1

    forward  z_0 ~ q,  z_k from z_(k-1) by a transition that leaves p_(b_k) as it is
             w = sum over k of (b_(k+1) - b_k) scale f(z_k),        E[exp(w)]  = Z
    reverse  the same backwards from draws of p,                    E[exp(-w)] = 1 / Z

A pilot raises the tilt once, and finds the step sizes of the leapfrog and a path of
constant thermodynamic speed. The reverse walks start where the forward ones have come
to, K transitions later.

Source: Neal (2001), "Annealed importance sampling"; Grosse, Ancha and Roy (2016),
"Measuring the reliability of MCMC inference with bidirectional Monte Carlo".

The transitions are TensorFlow Probability's, or ours with the same interface, but the
walk is not `tfp.mcmc.sample_annealed_importance_chain`: it gives a kernel the log
density of the last state under the previous b, which makes its Metropolis test wrong.
"""

__all__ = [
    "MOST_STEPS",
    "NUM_PILOT",
    "Annealed",
    "Path",
    "Walks",
    "number_on_path",
    "planned_path",
]

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from keras_tilt.sampling.adaptation import StepSize
from keras_tilt.sampling.chains import State
from keras_tilt.sampling.schedule import Plan
from keras_tilt.sampling.tilt_groups import chains_of, check_start
from keras_tilt.storage.loop import Checkpoints, iterate
from keras_tilt.storage.run_folder import (
    Record,
    Run,
    fingerprint,
    parts_within,
    under,
    within,
)
from keras_tilt.tilt import Tilt

NUM_PILOT = 64  # iterations that find the step sizes and the spread of f on the way
MOST_STEPS = 100_000
_SMOOTHED = 5  # iterations of the pilot that are averaged
_FEWEST_STEPS = 32
# Walks of K steps have log weights of variance (thermodynamic length)^2 / K if every
# transition makes an independent draw, and of more otherwise.
_VARIANCE = 0.5


class Path(NamedTuple):
    """The densities from q to p, and the step sizes for them.

    Attributes:
        share: [K + 1], of the tilt: b_0 = 0 ... b_K = 1.
        step_size: [K + 1, tilts], of the leapfrog.
    """

    share: np.ndarray
    step_size: np.ndarray

    @property
    def num_steps(self) -> int:
        """K."""
        return len(self.share) - 1


class Annealed(NamedTuple):
    """f along the forward and reverse walks of one tilt.

    Attributes:
        share: [K + 1], of the tilt: b_0 = 0 ... b_K = 1.
        f: [1 + 3 K, walks], scale f at the start and after each iteration: K forward,
            K at p, K reverse; nats.
        is_accepted: [3 K, walks], booleans.
    """

    share: np.ndarray
    f: np.ndarray
    is_accepted: np.ndarray


class _Position(NamedTuple):
    """The iterations done, the state of the walks, and their path."""

    iteration: int
    state: State
    path: Path


class Walks:
    """Walks of some tilts in one graph: a pilot, then forward, at p, and in reverse.

    Args:
        tilts: list of `Tilt`, one group of `sampled_together`.
        places: of the tilts in their list, by which their chains draw.
        plan: a `keras_tilt.sampling.schedule.Plan`, whose warm-up is the pilot.
        num_steps: K; None for log weights with a variance of about a half.
        directory: folder, or None.
    """

    def __init__(
        self,
        tilts: Sequence[Tilt],
        places: Sequence[int],
        plan: Plan,
        num_steps: int | None,
        directory: str | os.PathLike | None,
    ) -> None:
        self.tilts, self.places, self.plan = tilts, places, plan
        self.num_steps = num_steps
        self.scale = np.array([tilt.scale for tilt in tilts])
        self.chains = chains_of(tilts, plan.kernel, places, plan.num_chains, plan.mass)
        self.start, self.f_at_start = self.drawn(part=0)
        self.store = None if directory is None else Run(directory, self.identity())

    def run(self, progress: bool) -> list[Annealed]:
        """Return an `Annealed` per tilt; the run of a folder is resumed."""
        checkpoints = Checkpoints(self.store, self.packed, self.unpacked)
        position = checkpoints.resumed() or self.begun(progress)
        checkpoints.keep(position)
        first, total = position.iteration, 3 * position.path.num_steps
        with tqdm(total=total, initial=first, disable=not progress, unit="it") as bar:
            position = iterate(
                position,
                self.advance,
                is_over=lambda at: at.iteration >= total,
                show=lambda at: self.show(at, bar),
                keep=checkpoints.keep,
            )
        return [self.seen(i, position.path) for i in range(len(self.tilts))]

    def seen(self, index: int, path: Path) -> Annealed:
        """Return f along the walks of one tilt."""
        f = self.scale[index] * self.record["f"][:, index].astype(np.float64)
        return Annealed(path.share, f, self.record["is_accepted"][1:, index])

    def begun(self, progress: bool) -> "_Position":
        """Return walks at the beginning of the path that a pilot finds."""
        path = self.pilot(progress)
        state, f = self.drawn(part=1)
        self.record = Record(1 + 3 * path.num_steps)
        self.record.add(0, {"f": f, "is_accepted": np.ones_like(f, bool)})
        return _Position(0, state, path)

    def drawn(self, part: int) -> tuple[State, np.ndarray]:
        """Return chains at exact draws of q, not yet tilted, and f there."""
        base, plan = self.tilts[0].base, self.plan
        seeds = [
            tf.random.fold_in(plan.seeds[0], 2 * place + part) for place in self.places
        ]
        noise = np.stack([base.sample(plan.num_chains, seed=seed) for seed in seeds])
        step_size = np.full(len(self.places), plan.first_step(noise[0, 0].size))
        parameters = plan.parameters_with(step_size, 0, 0.0 * self.scale)
        state, numbers = self.chains.start(noise, parameters)
        check_start(self.tilts, numbers)
        return state, numbers["f"]

    def pilot(self, progress: bool) -> Path:
        """Raise the tilt once, and return the path that follows from it."""
        plan, state = self.plan, self.start
        num_pixels = math.prod(self.tilts[0].base.event_shape)
        step = StepSize.first(plan.first_step(num_pixels), [len(self.places)])
        seed, count = tf.random.fold_in(plan.seeds[1], 0), plan.num_burnin_steps
        shares = np.arange(1, count + 1) / count
        f, step_sizes = [self.f_at_start], []
        for i, share in enumerate(tqdm(shares, "pilot", disable=not progress)):
            parameters = plan.kernel_parameters(i, step, share * self.scale)
            step_sizes.append(parameters.step_size)
            state, numbers = self.chains.advance(
                state, parameters, tf.random.fold_in(seed, i)
            )
            accept_prob = numbers["accept_prob"].mean(axis=1)
            step = step.learn(
                accept_prob, plan.target_accept_prob, 0, count, plan.longest_step
            )
            f.append(numbers["f"])
        spread = np.std(self.scale[:, None] * np.array(f, np.float64), axis=2, ddof=1)
        return planned_path(spread, np.stack(step_sizes), self.num_steps)

    def advance(self, position: "_Position") -> "_Position":
        """Advance by one iteration: forward, at p, or in reverse."""
        iteration, state, path = position
        number = number_on_path(iteration, path.num_steps)
        place = min(number, path.num_steps)
        parameters = self.plan.parameters_with(
            path.step_size[place], number, path.share[place] * self.scale
        )
        seed = tf.random.fold_in(tf.random.fold_in(self.plan.seeds[1], 1), iteration)
        state, numbers = self.chains.advance(state, parameters, seed)
        kept = {name: numbers[name] for name in ("f", "is_accepted")}
        self.record.add(iteration + 1, kept)
        return _Position(iteration + 1, state, path)

    def show(self, position: "_Position", bar: tqdm) -> None:
        """Show direction, acceptance in the last steps, and mean f, in the bar."""
        part = (position.iteration - 1) // position.path.num_steps
        bar.set_description(("forward", "at p", "reverse")[part], refresh=False)
        last = slice(max(1, position.iteration - 20), position.iteration + 1)
        bar.set_postfix(
            accepted=f"{self.record['is_accepted'][last].mean():.0%}",
            f=f"{self.record['f'][position.iteration].mean():.4g}",
            refresh=False,
        )
        bar.update()

    # A run on disk

    def identity(self) -> dict[str, Any]:
        """Return what a run depends on, to compare with that of the run in a folder."""
        return self.plan.identity(self.tilts) | {
            "num_steps": self.num_steps,
            "f_at_start": fingerprint(self.f_at_start),
            "num_replicas": self.chains.num_replicas,
        }

    def packed(self, position: "_Position") -> dict[str, Any]:
        """Return all that `unpacked` needs, by name."""
        return (
            {"iteration": position.iteration}
            | under("path.", position.path._asdict())
            | under("state.", self.chains.pack(position.state))
            | under("record.", self.record.first(position.iteration + 1))
        )

    def unpacked(self, saved: Mapping[str, np.ndarray]) -> "_Position":
        """Return the position that was saved, and restore the record."""
        path = Path(**within(saved, "path."))
        state = self.chains.unpack(parts_within(saved, "state."), self.start)
        self.record = Record(1 + 3 * path.num_steps)
        self.record.restore(within(saved, "record."))
        return _Position(int(saved["iteration"]), state, path)


def planned_path(
    spread: np.ndarray, step_sizes: np.ndarray, num_steps: int | None = None
) -> Path:
    """Return the path whose b_k are at equal steps of thermodynamic length.

        length(b) = integral of sd_b(scale f) db up to b,     K = length(1)^2 / variance

    Args:
        spread: [pilot + 1, tilts], sd of scale f at equally spaced shares 0 ... 1.
        step_sizes: [pilot, tilts], of the leapfrog at all of them but the first.
        num_steps: K; None for log weights with a variance of about a half.

    Returns:
        path: a `Path`.

    Raises:
        ValueError: if f spreads too widely for 100,000 steps.

    Source: Gelman and Meng (1998), "Simulating normalizing constants".
    """
    shares = np.linspace(0.0, 1.0, len(spread))
    widest = np.sqrt(np.max(_smooth(np.square(spread)), axis=1))
    with np.errstate(over="ignore", invalid="ignore"):
        pieces = (widest[1:] + widest[:-1]) / 2 * np.diff(shares)
        length = np.concatenate([[0.0], np.cumsum(pieces)])
        wanted = length[-1] ** 2 / _VARIANCE
    if num_steps is None and not wanted <= MOST_STEPS:
        raise ValueError(
            "The tilt must be such that E_q[exp(scale f)] can be found in "
            f"{MOST_STEPS} steps. Received: one that would need {wanted:.3g}, whose f "
            f"spreads over {widest[-1]:.3g} nats. It is too strong, or not integrable "
            "under the reference: weaken it, or pass `num_steps` and read the verdict."
        )
    if not np.all(np.isfinite(length)):
        length = np.zeros_like(length)
    num_steps = num_steps or max(_FEWEST_STEPS, math.ceil(wanted))
    # What is flat must rise a little, so that every length has one share.
    length += 1e-3 * (1 + length[-1]) * shares
    share = np.interp(np.linspace(0.0, length[-1], num_steps + 1), length, shares)
    share[0], share[-1] = 0.0, 1.0
    log_steps = _smooth(np.log(step_sizes))
    step_size = [np.interp(share, shares[1:], of_row) for of_row in log_steps.T]
    return Path(share, np.exp(np.stack(step_size, axis=1)))


def _smooth(values):
    """Running means along axis 0, of fewer values at both ends."""
    reach = _SMOOTHED // 2
    return np.stack(
        [
            np.mean(values[max(0, i - reach) : i + reach + 1], axis=0)
            for i in range(len(values))
        ]
    )


def number_on_path(iteration: int, num_steps: int) -> int:
    """Return k of an iteration: 1 ... K forward, K or more at p, K ... 1 in reverse.

    The number of leapfrog steps varies by it: in reverse it must equal that of forward.
    """
    return min(iteration + 1, 3 * num_steps - iteration)
