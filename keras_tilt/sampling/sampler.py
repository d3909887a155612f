"""Samples of tilted densities by Hamiltonian Monte Carlo in noise coordinates.

    p(z) = exp(scale f(T(z))) base(z) / Z,     x = T(z)

Every iteration draws a momentum from N(0, I), follows Hamilton's equations, and accepts
the end with probability min(1, exp(H_start - H_end)): see
`keras_tilt.sampling.kernels`. A warm-up finds the step size
(`keras_tilt.sampling.adaptation`), which is then frozen.

Source: Dai, Lu and Wu (2015), section on generative visualization; Neal (2011), "MCMC
using Hamiltonian dynamics". The paper samples images with a fixed step; we sample the
noise, in which the reference has the same scale in every direction.
"""

__all__ = ["PAPER_LENET", "sample"]

import os
import pathlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike
from tqdm.auto import tqdm

from keras_tilt.sampling.adaptation import StepSize
from keras_tilt.sampling.chains import State
from keras_tilt.sampling.kernels import Kernel
from keras_tilt.sampling.plan_checks import checked_starts
from keras_tilt.sampling.samples import Samples, samples_of
from keras_tilt.sampling.schedule import Leapfrog, plan_of
from keras_tilt.sampling.states import KeptStates
from keras_tilt.sampling.tilt_groups import (
    chains_of,
    check_start,
    checked_tilts,
    sampled_together,
)
from keras_tilt.sampling.verdict.functionals import MIN_DRAWS
from keras_tilt.storage.loop import Checkpoints, iterate
from keras_tilt.storage.run_folder import (
    Record,
    Run,
    check_holds_only,
    fingerprint,
    parts_within,
    under,
    within,
)
from keras_tilt.tilt import Tilt
from keras_tilt.units.random_views import RunOfViews
from keras_tilt.validation import few

# The paper's run on the last layer of LeNet, for use with the reference
# white_noise(shape, mean=0.0, stddev=10.0). Numbers of the paper as remembered, not
# verified: 300 iterations of 100 leapfrog steps of size 1e-4 with mass 1e-4, started
# from N(0, 10^2), no adaptation. A momentum N(0, m I) and a step e move x by
# e / m * sqrt(m) * N(0, I): mass m is mass 1 with the step e / sqrt(m) = 0.01 pixel
# units, and 0.01 / 10 = 0.001 in units of noise. That is not enough to reach
# equilibrium, and the diagnostics say so.
PAPER_LENET = {
    "kernel": "hmc",
    "num_results": 300,
    "num_burnin_steps": 0,
    "num_leapfrog_steps": 100,
    "step_size": 0.001,
}


@overload
def sample(tilt: Tilt, *args: Any, **kwargs: Any) -> Samples: ...
@overload
def sample(tilt: Sequence[Tilt], *args: Any, **kwargs: Any) -> list[Samples]: ...
def sample(
    tilt: Tilt | Sequence[Tilt],
    num_chains: int = 16,
    num_results: int = 200,
    num_burnin_steps: int = 200,
    *,
    seed: int | Sequence[int],
    kernel: Kernel | None = None,
    num_leapfrog_steps: int | None = None,
    max_leapfrog_steps: int = 64,
    step_size: float | None = None,
    target_accept_prob: float = 0.8,
    mass: ArrayLike = 1.0,
    inverse_temperatures: Sequence[float] | None = None,
    initial_noise: ArrayLike | Sequence[ArrayLike] | None = None,
    num_superchains: int | None = None,
    approach_step_size: float | None = None,
    momentum_persistence: float = 0.0,
    thin: int = 1,
    callback: Callable[[int, np.ndarray], object] | None = None,
    directory: str | os.PathLike | None = None,
    progress: bool = True,
) -> Samples | list[Samples]:
    """Draw from p(z) = exp(scale f(T(z))) base(z) / Z by Hamiltonian Monte Carlo.

    The chains run in parallel in one graph. In the warm-up the tilt rises from zero to
    its full scale while the step size is adapted; both are then frozen, because an
    adapting chain has no stationary density. Tilts of one reference whose units share a
    layer are sampled together, each with its own step size, and with as many leapfrog
    steps as the smallest of these needs.

    Under a `tf.distribute` strategy (call within `strategy.scope()`) the chains are
    split over the replicas, and are those of a single device up to rounding.

    Ctrl-C returns the draws, if there are 4 and all tilts share a graph. With a
    `directory` a killed process loses nothing, either: the same call resumes the run,
    and returns the numbers of the uninterrupted run, bit for bit on one machine.

    Args:
        tilt: a `Tilt`, or a list of them.
        num_chains: chains of each tilt.
        num_results: draws of each chain.
        num_burnin_steps: iterations before the first draw.
        seed: a whole number or a pair of them; equal seeds give equal samples. The
            random numbers of a chain depend only on the place of its tilt in the list
            and on its index among the chains.
        kernel: "split", exact rotations and the default where the noise is N(0, I);
            "hmc", the leapfrog of the paper, the default elsewhere; "mala", Langevin.
        num_leapfrog_steps: gradients of f per iteration. None for a trajectory length
            of pi / 2 (10 steps where the noise is not N(0, I)), varied by half of that
            from iteration to iteration. Ignored by "mala", which takes one.
        max_leapfrog_steps: limit on their mean, if `num_leapfrog_steps` is None.
        step_size: of the leapfrog, in units of noise; None to adapt it.
        target_accept_prob: acceptance that the adaptation aims at. It can be higher:
            no step is longer than the trajectory.
        mass: of the kernel "split", scalar or array like the noise of a chain.
        inverse_temperatures: factors of the scale, the first of them 1, of a ladder of
            replicas of every chain that swap states (parallel tempering), each at the
            cost of a chain. The draws are those at 1.
        initial_noise: [num_chains, ...], with a list of tilts [tilts, num_chains, ...];
            the tilt is then at its full scale from the start. None for exact draws of
            the base, which are over-dispersed.
        num_superchains: number of groups of chains with one start each, judged by
            nested R-hat: for many short chains. None for a start for every chain.
        approach_step_size: step size of an unadjusted warm-up, without Metropolis test
            in its first 0.7, at the end of which steps are half as long; None for the
            test from the start. The kinks of a network make the test reject all but
            short steps; without it, 0.08 reaches a strong tilt in a few hundred
            gradients. A unit behind `keras_tilt.RandomViews` has another view in each
            of these trajectories. The draws after it are still exact.
        momentum_persistence: share of the momentum that an iteration keeps of the one
            before, of the kernel "split", in [0, 1) (Horowitz 1991). For iterations of
            few leapfrog steps, such as `num_leapfrog_steps=8` with 0.8.
        thin: the state of every thin-th draw is kept; numbers are kept of all draws.
            States take num_results / thin * num_chains * pixels * 4 bytes of memory
            for each tilt, unless there is a `callback` or a `directory`.
        callback: called with the index of a draw and its noise, [tilts, num_chains,
            ...] of the tilts sampled together, instead of keeping states. A resumed run
            calls it again for the draws after the last checkpoint, at most half a
            minute.
        directory: folder for the states and all that is needed to resume. Tilts of a
            list that cannot be sampled together have folders in it, tilt0, tilt3, ...
            A run is resumed with the same arguments, and a finished one is read. Only
            `num_results` may differ: with more the run continues, and its first draws
            stay; with fewer, the first of them are read.
        progress: whether to show a bar with acceptance, mean f and the time left.

    Returns:
        samples: a `Samples`; for a list of tilts a list of them.

    Raises:
        TypeError: if `tilt` is not a `Tilt`, `seed` is not one or two integers, or
            `callback` is not a function.
        ValueError: for an argument out of range, an `initial_noise` of the wrong shape
            or not finite, a unit without a gradient, an f or gradient that is not
            finite where a chain starts, or a `directory` with another run.

    Example:
        >>> from keras_tilt.reference.distributions import white_noise
        >>> total = lambda images: tf.reduce_sum(images, axis=[1, 2, 3])
        >>> tilt = Tilt(total, white_noise([2, 2, 1]))
        >>> samples = sample(tilt, 4, 10, 10, seed=7, progress=False)
        >>> samples.images.shape
        (10, 4, 2, 2, 1)

    Source: Dai, Lu and Wu (2015), section on generative visualization; Neal (2011),
    "MCMC using Hamiltonian dynamics".
    """
    leapfrog = Leapfrog(kernel, num_leapfrog_steps, max_leapfrog_steps, step_size, mass)
    plan = plan_of(
        checked_tilts(tilt),
        leapfrog,
        seed=seed,
        num_chains=num_chains,
        num_results=num_results,
        num_burnin_steps=num_burnin_steps,
        target_accept_prob=target_accept_prob,
        ladder=inverse_temperatures,
        is_annealed=initial_noise is None,
        num_superchains=num_superchains,
        approach_step_size=approach_step_size,
        momentum_persistence=momentum_persistence,
        thin=thin,
    )
    return _drawn(tilt, plan, initial_noise, callback, directory, progress)


def _drawn(tilt, plan, initial_noise, callback, directory, progress):
    """`Samples` of a tilt, or a list of them, those that share a layer in one graph."""
    _check_callback(callback)
    tilts, alone = checked_tilts(tilt), isinstance(tilt, Tilt)
    if initial_noise is None:
        starts = [plan.exact_draws(one.base, i) for i, one in enumerate(tilts)]
    else:
        starts = [initial_noise] if alone else initial_noise
        starts = checked_starts(tilts, plan, starts)
    groups = sampled_together(tilts)
    if directory is not None and len(groups) > 1:
        check_holds_only(directory, {_own_folder(group) for group in groups})
    # Every run can start, and write to its folder, before the first one begins.
    runs = [
        _Together(
            [tilts[i] for i in group],
            group,
            plan,
            np.stack([starts[i] for i in group]),
            callback,
            _folder(directory, group, tilts),
        )
        for group in groups
    ]
    found = {}
    for group, run in zip(groups, runs, strict=True):
        with run.views.at_rest_again():
            samples = run.run(progress, may_stop=len(groups) == 1)
        found |= zip(group, samples, strict=True)
    return found[0] if alone else [found[i] for i in sorted(found)]


class _Position(NamedTuple):
    """All that the next iteration depends on."""

    iteration: int
    state: State
    step: StepSize


class _Together:
    """Tilts sampled in one graph: of one reference, with units that share a layer."""

    def __init__(self, tilts, places, plan, noise, callback, folder):
        self.tilts, self.plan, self.noise = tilts, plan, noise
        self.scale = np.array([tilt.scale for tilt in tilts])
        self.chains = chains_of(
            tilts, plan.kernel, places, plan.num_chains, plan.mass, plan.ladder
        )
        self.record = Record(plan.num_iterations)
        self.run_seed = plan.seeds[1]
        units = [tilt.unit for tilt in tilts]
        self.views = RunOfViews(units, plan.is_unadjusted, plan.seeds[0])
        self.callback = callback
        self.store = None
        if folder is not None:
            self.store = Run(folder, self.identity(), lengths=["num_results"])
        self.start = self.begin()

    def run(self, progress, may_stop):
        """Return a `Samples` per tilt; the run of a folder is resumed."""
        burnin, total = self.plan.num_burnin_steps, self.plan.num_iterations
        checkpoints = Checkpoints(self.store, self.packed, self.unpacked)
        position = checkpoints.resumed() or self.start
        self.states = KeptStates(self.plan, self.noise, self.callback, self.store)
        first = min(position.iteration, total)
        with tqdm(total=total, initial=first, disable=not progress, unit="it") as bar:
            position = iterate(
                position,
                self.advance,
                is_over=lambda at: at.iteration >= total,
                show=lambda at: self.show(at, bar),
                keep=checkpoints.keep,
                # Fewer draws have no R-hat, and are not returned.
                may_stop=lambda at: may_stop and at.iteration >= burnin + MIN_DRAWS,
            )
        if position.iteration < total:
            warnings.warn(
                f"Sampling was interrupted: {total - position.iteration} of "
                f"{self.plan.num_results} draws per chain are missing.",
                stacklevel=4,
            )
        return [self.samples(i, position) for i in range(len(self.tilts))]

    def begin(self):
        """Return the chains at their start, where f and its gradient must be finite."""
        count, ladder = len(self.tilts), self.plan.ladder
        shape = [count] if ladder is None else [count, len(ladder)]
        first_step = self.plan.first_step(self.noise[0, 0].size)
        step = StepSize.first(first_step, shape)
        parameters = self.plan.kernel_parameters(0, step, self.scale)
        first = self.tilts[0]
        try:
            state, numbers = self.chains.start(self.noise, parameters)
        except NotImplementedError as error:
            raise ValueError(
                "The unit must be made of TensorFlow or keras.ops operations. "
                f"Received: {first.unit!r}, which asks for the value of a "
                "tensor while a graph is made, as NumPy does. Write it without."
            ) from error
        except Exception:
            # Once more without a graph, whose errors are long.
            first.response(first.to_images(self.noise[0, :1]))
            raise
        check_start(self.tilts, numbers)
        return _Position(0, state, step)

    def advance(self, position):
        """Advance by one iteration, write it down, and learn from it in the warm-up."""
        iteration, state, step = position
        parameters = self.plan.kernel_parameters(iteration, step, self.scale)
        seed = tf.random.fold_in(self.run_seed, iteration)
        if self.views.show(iteration):
            state = state._replace(results=None)  # f is another
        state, numbers = self.chains.advance(state, parameters, seed)
        self.record.add(iteration, numbers)
        if self.plan.is_warmup(iteration):
            step = self.learned(step, numbers["accept_prob"], iteration)
        else:
            draw = iteration - self.plan.num_burnin_steps
            self.states.add(draw, lambda: self.chains.noise_of(state))
        return _Position(iteration + 1, state, step)

    def learned(self, step, accept_prob, iteration):
        """Return the step sizes after an iteration of the warm-up."""
        if self.plan.is_unadjusted(iteration):
            return step
        return step.learn(
            accept_prob.mean(axis=1),
            self.plan.target_accept_prob,
            iteration,
            self.plan.num_burnin_steps,
            self.plan.longest_step,
            self.plan.end_of_unadjusted,
        )

    def show(self, position, bar):
        """Show phase, acceptance in this phase, and mean f, in the bar."""
        warm = self.plan.is_warmup(position.iteration - 1)
        first = 0 if warm else self.plan.num_burnin_steps
        phase = slice(first, position.iteration)
        bar.set_description("warm-up" if warm else "sampling", refresh=False)
        bar.set_postfix(
            accepted=f"{self.record['is_accepted'][phase].mean():.0%}",
            f=f"{self.record['f'][position.iteration - 1].mean():.4g}",
            refresh=False,
        )
        bar.update()

    # A run on disk

    def identity(self):
        """Return what a run depends on, to compare with that of the run in a folder."""
        return self.plan.identity(self.tilts) | {
            "keeps_states": self.callback is None,
            "initial_noise": fingerprint(self.noise),
            "num_replicas": self.chains.num_replicas,
        }

    def packed(self, position):
        """Return all that `unpacked` needs, by name, once the states are on disk."""
        self.states.flush()
        return (
            {"iteration": position.iteration, **position.step._asdict()}
            | under("state.", self.chains.pack(position.state))
            | under("record.", self.record.first(position.iteration))
        )

    def unpacked(self, saved):
        """Return the position that was saved, if it belongs to this run."""
        packed = parts_within(saved, "state.")
        state = self.chains.unpack(packed, self.start.state)
        step = StepSize.restored(saved)
        position = _Position(int(saved["iteration"]), state, step)
        self._check_callback_has_all(position)
        self.record.restore(within(saved, "record."))
        self._check_same_density(position)
        return position

    def _check_callback_has_all(self, position):
        """Without states, a longer run cannot be cut: only its last state is left."""
        made = position.iteration - self.plan.num_burnin_steps
        if self.callback is not None and made > self.plan.num_results:
            raise ValueError(
                f"`num_results` must be {made} or more, the draws that the run in "
                "`directory` has made, whose states went to a callback. Received: "
                f"{self.plan.num_results}. Pass {made}, or another folder."
            )

    def _check_same_density(self, position):
        """Compare network and reference by f and log p at the saved states."""
        if not position.iteration:
            return
        parameters = position.state.parameters
        noise = self.chains.noise_of(position.state)
        self.views.show(position.iteration - 1)
        _, numbers = self.chains.start(noise, parameters)
        log_base = self.tilts[0].base.log_prob(noise)
        here = {
            "f": numbers["f"],
            "log_prob": parameters.scale[:, None] * numbers["f"] + log_base,
        }
        for name, values in here.items():
            saved = self.record[name][position.iteration - 1]
            if not np.allclose(values, saved, rtol=1e-3, atol=1e-3):
                raise ValueError(
                    "`directory` must hold the run that is to be resumed. Received: "
                    f"one whose chains have {name} {few(saved)}, where the tilt has "
                    f"{few(values)}. The network or the reference differs: pass "
                    "those of that run."
                )

    # The result

    def samples(self, index, position):
        """Return what the chains of one tilt have drawn."""
        done = min(position.iteration, self.plan.num_iterations)
        numbers = {name: values[:done, index] for name, values in self.record.items()}
        num_draws = done - self.plan.num_burnin_steps
        noise = self.states.of(
            index, num_draws, lambda: self.chains.noise_of(position.state)
        )
        step_sizes = self.plan.frozen_step_sizes(position.step)
        return samples_of(
            self.tilts[index], self.plan, noise, numbers, step_sizes, index
        )


def _folder(directory, group, tilts):
    """Return a folder for every run that a list of tilts takes."""
    if directory is None or len(group) == len(tilts):
        return directory
    return pathlib.Path(directory) / _own_folder(group)


def _own_folder(group):
    return f"tilt{group[0]}"


def _check_callback(callback):
    if callback is not None and not callable(callback):
        raise TypeError(
            "`callback` must be a function of the index of a draw and its noise. "
            f"Received: {callback!r}. Leave it out to keep the states."
        )
