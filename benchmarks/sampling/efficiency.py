"""Effective samples of f per gradient, through `kt.sample`."""

import functools

import keras_tilt as kt

from networks import digit_tilt, gray_noise, trained_lenet
from rounds import in_turns, ratio_of
from runs import ACCEPTS, KEPT, best_of, mean_of, scan, worth

# "kept" is split with a share of the momentum kept.
SAMPLERS = ("hmc", "split", "kept")


def ess_weak(unit, **settings):
    """SqueezeNet under white noise: f hardly bends what the chains do."""
    return ess(kt.Tilt(unit, gray_noise(unit)), **settings)


def ess_lenet(**settings):
    """LeNet under white noise."""
    return ess(digit_tilt(trained_lenet()), **settings)


def ess(tilt, num_chains, num_gradients, num_burnin_steps, rounds, steps, seed):
    """All samplers through `kt.sample`, each at its own best settings."""

    def run(how, seed, num_steps):
        num_results = max(10, num_gradients // num_steps)
        samples = kt.sample(
            tilt,
            num_chains,
            num_results,
            num_burnin_steps,
            seed=seed,
            num_leapfrog_steps=num_steps,
            thin=num_results,
            progress=False,
            **how,
        )
        accept_rate = samples.is_accepted.mean()
        found = worth(samples.f, num_steps, samples.step_size, accept_rate)
        return how | found

    first_pass = {
        name: [
            found
            for how in variants(name)
            for found in scan(f"{name} {how}", steps, functools.partial(run, how, seed))
        ]
        for name in SAMPLERS
    }
    best = {name: best_of(first_pass[name]) for name in SAMPLERS}
    judged = {name: [] for name in SAMPLERS}
    for turn, name in in_turns(SAMPLERS, rounds, "rounds"):
        how = {key: best[name][key] for key in variants(name)[0]}
        found = run(how, seed + 1 + turn, best[name]["num_steps"])
        judged[name].append({k: v for k, v in found.items() if k not in how})
    return {
        "first_pass": first_pass,
        "best": {
            name: {key: best[name][key] for key in variants(name)[0]}
            | mean_of(judged[name])
            for name in SAMPLERS
        },
        "ess_per_gradient": {
            f"{one} / {other}": ratio_of(judged, one, other, "ess_per_1000_gradients")
            for one, other in (("split", "hmc"), ("kept", "hmc"), ("kept", "split"))
        },
    }


def variants(name):
    """The settings of a sampler that are tried, besides the number of steps."""
    kernel = "hmc" if name == "hmc" else "split"
    shares = KEPT if name == "kept" else (0.0,)
    return [
        {
            "kernel": kernel,
            "momentum_persistence": kept,
            "target_accept_prob": accept,
        }
        for kept in shares
        for accept in ACCEPTS
    ]
