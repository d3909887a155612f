"""Effective samples of f per gradient, through `kt.sample`."""

import functools

import keras_tilt as kt

from networks import digit_tilt, gray_noise, trained_lenet
from rounds import in_turns, ratio_of
from runs import ACCEPT, KERNELS, best_of, mean_of, scan, worth


def ess_weak(unit, **settings):
    """SqueezeNet under white noise: f hardly bends what the chains do."""
    return ess(kt.Tilt(unit, gray_noise(unit)), **settings)


def ess_lenet(**settings):
    """LeNet under white noise."""
    return ess(digit_tilt(trained_lenet()), **settings)


def ess(tilt, num_chains, num_gradients, num_burnin_steps, rounds, steps, seed):
    """Both kernels through `kt.sample`, each at its own best number of steps."""

    def run(kernel, seed, num_steps):
        num_results = max(10, num_gradients // num_steps)
        samples = kt.sample(
            tilt,
            num_chains,
            num_results,
            num_burnin_steps,
            seed=seed,
            kernel=kernel,
            num_leapfrog_steps=num_steps,
            target_accept_prob=ACCEPT,
            thin=num_results,
            progress=False,
        )
        accept_rate = samples.is_accepted.mean()
        return worth(samples.f, num_steps, samples.step_size, accept_rate)

    first_pass = {
        kernel: scan(kernel, steps, functools.partial(run, kernel, seed))
        for kernel in KERNELS
    }
    best = {kernel: best_of(first_pass[kernel])["num_steps"] for kernel in KERNELS}
    judged = {kernel: [] for kernel in KERNELS}
    for turn, kernel in in_turns(KERNELS, rounds, "rounds"):
        judged[kernel].append(run(kernel, seed + 1 + turn, best[kernel]))
    return {
        "first_pass": first_pass,
        "best": {kernel: mean_of(judged[kernel]) for kernel in KERNELS},
        "ess_per_gradient": ratio_of(judged, *KERNELS, "ess_per_1000_gradients"),
    }
