"""Effective samples of f per gradient, through `kt.sample`."""

import functools

import keras_tilt as kt

from networks import digit_tilt, gray_noise, trained_lenet
from rounds import in_turns, ratio_of
from runs import best_of, mean_of, scan, worth

# "kept" is split with a share of the momentum kept.
SAMPLERS = ("hmc", "split", "kept")
PAIRS = (("split", "hmc"), ("kept", "hmc"), ("kept", "split"))
HOW = ("kernel", "momentum_persistence", "target_accept_prob")


def ess_weak(unit, **settings):
    """SqueezeNet under white noise: f hardly bends what the chains do."""
    return ess(kt.Tilt(unit, gray_noise(unit)), **settings)


def ess_lenet(**settings):
    """LeNet under white noise."""
    return ess(digit_tilt(trained_lenet()), **settings)


def ess(tilt, rounds, steps, seed, accepts, shares, **settings):
    """All samplers through `kt.sample`, each at its own best settings."""
    run = functools.partial(drawn, tilt, **settings)
    first_pass = {
        name: [
            how | found
            for how in variants(name, accepts, shares)
            for found in scan(f"{name} {how}", steps, functools.partial(run, how, seed))
        ]
        for name in SAMPLERS
    }
    found = {name: best_of(first_pass[name]) for name in SAMPLERS}
    best = {name: {k: found[name][k] for k in HOW} for name in SAMPLERS}
    judged = {name: [] for name in SAMPLERS}
    for turn, name in in_turns(SAMPLERS, rounds, "rounds"):
        num_steps = found[name]["num_steps"]
        judged[name].append(run(best[name], seed + 1 + turn, num_steps))
    return {
        "first_pass": first_pass,
        "best": {name: best[name] | mean_of(judged[name]) for name in SAMPLERS},
        "ess_per_gradient": {
            f"{one} / {other}": ratio_of(judged, one, other, "ess_per_1000_gradients")
            for one, other in PAIRS
        },
    }


def drawn(tilt, how, seed, num_steps, num_chains, num_gradients, num_burnin_steps):
    """What the draws of a sampler are worth."""
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
    return worth(samples.f, num_steps, samples.step_size, accept_rate)


def variants(name, accepts, shares):
    """The settings of a sampler that are tried, besides the number of steps."""
    kernel = "hmc" if name == "hmc" else "split"
    return [
        dict(zip(HOW, (kernel, kept, accept), strict=True))
        for kept in (shares if name == "kept" else (0.0,))
        for accept in accepts
    ]
