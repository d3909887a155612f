"""Sequential Monte Carlo along the tilt, judged by repetitions of it.

    weight by exp((b' - b) scale f), b' such that half of the particles count;
    resample;  move by the split kernel under b';  ... until b' = 1, and move once more

Source: Del Moral, Doucet and Jasra (2006), "Sequential Monte Carlo samplers".
"""

import keras_tilt as kt
import numpy as np
from scipy.optimize import brentq
from scipy.special import logsumexp
from tqdm.auto import tqdm

from networks import digit_tilt, natural_noise, trained_lenet
from runs import ACCEPT, Run, chains_of

HALF = 0.5  # of the particles count after a weighting


def smc_lenet(**settings):
    """LeNet under white noise."""
    return smc(digit_tilt(trained_lenet()), **settings)


def smc_picture(unit, **settings):
    """SqueezeNet under spectral noise."""
    return smc(kt.Tilt(unit, natural_noise(unit), scale=10.0), **settings)


def smc(tilt, repetitions, num_particles, moves, num_steps, seed):
    """What repetitions have in common, for every number of moves between weightings.

    Particles are worth as many independent draws as the variance of f over particles
    is of that of the mean of f over repetitions.
    """
    chains = chains_of(tilt, "split")
    found = {}
    for num_moves in moves:
        runs = [
            particles(tilt, chains, num_particles, num_moves, num_steps, [seed, i])
            for i in tqdm(range(repetitions), f"{num_moves} moves")
        ]
        f = np.stack([run["f"] for run in runs])
        log_z = [run["log_z"] for run in runs]
        gradients = np.mean([run["gradients"] for run in runs])
        worth = f.var(axis=1, ddof=1).mean() / f.mean(axis=1).var(ddof=1)
        found[f"{num_moves} moves"] = {
            "mean_f": f.mean(),
            "error_of_mean_f": f.mean(axis=1).std(ddof=1) / np.sqrt(repetitions),
            "log_z": np.mean(log_z),
            "sd_of_log_z": np.std(log_z, ddof=1),
            "stages": np.mean([run["stages"] for run in runs]),
            "ancestors": np.mean([run["ancestors"] for run in runs]),
            "gradients": gradients,
            "ess": worth,
            "ess_per_1000_gradients": 1000 * worth / gradients,
        }
    return found


def particles(tilt, chains, num_particles, num_moves, num_steps, seed):
    """One run. A gradient is one of all particles at once."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal([num_particles, *tilt.event_shape], np.float32)
    f = np.float64(tilt.response(tilt.to_images(noise)))
    step_size, log_z, share, stages, moved = 0.5, 0.0, 0.0, 0, 0
    ancestors = np.arange(num_particles)
    while share < 1:
        more = next_share(tilt.scale * f, 1 - share)
        log_w = more * tilt.scale * f
        log_z += logsumexp(log_w) - np.log(num_particles)
        chosen = systematic(np.exp(log_w - logsumexp(log_w)), rng)
        ancestors, share, stages = ancestors[chosen], share + more, stages + 1
        run = Run(
            chains,
            share * tilt.scale,
            noise[chosen],
            num_steps,
            step_size,
            seed[1] * 10_000 + stages,
        )
        for _ in range(num_moves):
            numbers = run.advance()
            error = numbers["accept_prob"].mean() - ACCEPT
            run.set_step(np.array(run.step_size * np.exp(error)))
            moved += 1
        f, noise, step_size = np.float64(numbers["f"]), run.noise, run.step_size
    return {
        "f": f,
        "log_z": log_z,
        "stages": stages,
        "ancestors": len(np.unique(ancestors)),
        "gradients": moved * num_steps,
    }


def next_share(f, left):
    """How much stronger the tilt can be, so that half of the particles count."""

    def excess(more):
        log_w = more * f
        count = np.exp(2 * logsumexp(log_w) - logsumexp(2 * log_w))
        return count - HALF * len(f)

    return left if excess(left) >= 0 else brentq(excess, 0.0, left)


def systematic(weights, rng):
    """Indices, each as often as its weight says, to within one."""
    places = (np.arange(len(weights)) + rng.uniform()) / len(weights)
    return np.minimum(np.searchsorted(np.cumsum(weights), places), len(weights) - 1)
