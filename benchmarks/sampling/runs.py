"""Chains that are advanced from here, and what their draws are worth."""

from keras_tilt.sampling.adaptation import QUARTER_TURN, StepSize
from keras_tilt.sampling import tilt_groups
from keras_tilt.sampling.chains import KernelParameters
import arviz
import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

KERNELS = ("split", "hmc")
ACCEPT = 0.8


class Run:
    """The chains of `kt.sample` in its own graph, advanced one iteration at a time.

    `chains` may be shared by several runs. No adapted step makes a trajectory longer
    than `longest`. `kept` is the share of the momentum that an iteration keeps.
    """

    def __init__(
        self,
        chains,
        scale,
        noise,
        num_steps,
        step_size,
        seed,
        longest=QUARTER_TURN,
        kept=0.0,
        accept=ACCEPT,
    ):
        self.kept, self.accept = kept, accept
        self.chains, self.scale = chains, np.array([scale])
        self.num_steps, self.step_size = num_steps, step_size
        self.longest = longest
        self.seed, self.iteration = tf.constant([0, seed]), 0
        self.state, _ = chains.start(np.asarray(noise)[None], self.settings)

    @property
    def settings(self):
        """What `Chains` runs under."""
        return KernelParameters(
            np.array([self.step_size]),
            self.num_steps,
            self.scale,
            momentum_persistence=self.kept,
        )

    @property
    def noise(self):
        """Where the chains are, [num_chains, ...]."""
        return self.chains.noise_of(self.state)[0]

    def advance(self):
        """One iteration; its numbers, name -> [num_chains]."""
        seed = tf.random.fold_in(self.seed, self.iteration)
        self.iteration += 1
        self.state, numbers = self.chains.advance(self.state, self.settings, seed)
        return {name: values[0] for name, values in numbers.items()}

    def adapt(self, iterations, turn=None):
        """Find the step that is accepted as often as is aimed at, at the full tilt.

        With `turn` the number of steps follows, so that trajectories are that long.
        """
        step = StepSize.first(self.step_size, 1)
        for iteration in range(iterations):
            self.set_step(step.current, turn)
            accept_prob = self.advance()["accept_prob"].mean(keepdims=True)
            step = step.learn(accept_prob, self.accept, iteration, iterations)
        self.set_step(step.settled, turn)

    def set_step(self, step_size, turn=None):
        """A step no longer than the longest."""
        if turn is not None:
            self.num_steps = max(1, round(turn / step_size.item()))
        self.step_size = min(step_size.item(), self.longest / self.num_steps)

    def draws(self, num_draws):
        """f [num_draws, num_chains], and the share of proposals that was accepted."""
        numbers = [self.advance() for _ in range(num_draws)]
        f = np.stack([of_draw["f"] for of_draw in numbers])
        return f, np.mean([of_draw["is_accepted"] for of_draw in numbers])


def chains_of(tilt, kernel, mass=1.0):
    """The graph in which `kt.sample` advances the chains of one tilt."""
    return tilt_groups.chains_of([tilt], kernel, [0], None, mass)


def scan(name, steps, run):
    """Runs with more and more steps, until no more of them can be better."""
    found = []
    for num_steps in tqdm(steps, desc=name):
        if found and 1000 / num_steps < best_of(found)["ess_per_1000_gradients"]:
            break  # even if every draw were an independent one
        found.append(run(num_steps))
    return found


def best_of(found, number="ess_per_1000_gradients"):
    """The run with the largest of some number."""
    return max(found, key=lambda run: run[number])


def worth(f, num_steps, step_size, accept_rate):
    """What the draws of a run are worth; f [draws, chains]."""
    per_draw = bulk_ess(f) / f.size
    return {
        "num_steps": num_steps,
        "step_size": step_size,
        "accept_rate": accept_rate,
        "mean_f": f.mean(),
        "r_hat": arviz.rhat(np.float64(f.T)),
        "ess_per_draw": per_draw,
        "ess_per_1000_gradients": 1000 * per_draw / num_steps,
    }


def bulk_ess(values):
    """Effective number of all the draws of values [draws, chains] together."""
    if np.ptp(values) == 0:  # nothing has moved
        return 0.0
    return float(arviz.ess(np.float64(values.T), method="bulk"))


def mean_of(runs):
    """Means of all numbers over runs."""
    return {name: np.mean([run[name] for run in runs]) for name in runs[0]}
