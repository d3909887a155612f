"""The time of a leapfrog step over that of a bare gradient."""

import functools

import keras_tilt as kt
import numpy as np
import tensorflow as tf

from networks import digit_tilt, gray_noise, natural_noise
from rounds import in_turns, median_ratio, timed
from runs import Run, chains_of


def cost_of_lenet(**settings):
    """Of an untrained LeNet, which computes as much as a trained one."""
    tilt = digit_tilt(kt.lenet())
    return cost(tilt.unit, {"white noise": tilt.reference}, **settings)


def cost_of_squeezenet(unit, **settings):
    """Under white noise and, for information, under the reference of pictures."""
    references = {"white noise": gray_noise(unit), "natural noise": natural_noise(unit)}
    return cost(unit, references, **settings)


def cost(unit, references, num_chains, num_steps, rounds, seed):
    """Time of a leapfrog step of the split kernel over that of a bare gradient.

    The bare gradients are taken at images of the first reference.
    """
    calls = {}
    for name, reference in references.items():
        noise = reference.distribution.sample(num_chains, seed=[0, seed])
        chains = chains_of(kt.Tilt(unit, reference), "split")
        calls[name] = Run(chains, 1.0, noise, num_steps, 0.01, seed).advance
    images = next(iter(references.values())).sample(num_chains, seed=[0, seed])
    calls["bare"] = functools.partial(bare_gradients(unit), images, num_steps)
    times = {name: [] for name in calls}
    for turn, name in in_turns(calls, 2 + rounds, "cost"):
        seconds, _ = timed(calls[name])
        if turn >= 2:  # the first ones trace the graphs
            times[name].append(seconds / num_steps)
    return {
        "milliseconds_per_gradient": {
            name: 1e3 * np.median(times[name]) for name in times
        },
        "time_over_bare": {
            name: median_ratio(times[name], times["bare"]) for name in references
        },
    }


def bare_gradients(unit):
    """A function that takes f and its gradient by the image, again and again."""

    @tf.function
    def gradient(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            f = unit(images)
        return f, tape.gradient(f, images)

    def run(images, count):
        for _ in range(count):
            gradient(images)[0].numpy()

    return run
