"""The step of 80 % acceptance against the number of pixels."""

import keras_tilt as kt
import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from keras_tilt.sampling.adaptation import QUARTER_TURN
from runs import KERNELS, Run, chains_of


def pixels(num_chains, num_steps, num_pixels, num_burnin_steps, num_results, seed):
    """The step of 80 % acceptance for more and more pixels, and its slope.

    Not by `kt.sample`, which would cut the step where a trajectory exceeded a quarter
    turn. The leapfrog's error in d dimensions has the variance

        d step^4 sin(step num_steps)^2 / 16,

    so that the step of hmc falls as d^(-1/4) at a given length of the trajectory, and
    as d^(-1/6) at a given number of steps, as trajectories shorten with the step.
    """
    found = {
        "quarter turn": {kernel: [] for kernel in KERNELS},
        f"{num_steps} steps": {kernel: [] for kernel in KERNELS},
    }
    for size in tqdm(num_pixels, desc="pixels"):
        tilt = kt.Tilt(quadratic(size), kt.white_noise([size]))
        noise = tilt.base.sample(num_chains, seed=[0, seed])
        for kernel in KERNELS:
            chains = chains_of(tilt, kernel)
            first = 0.5 if kernel == "split" else size**-0.25
            for length, of_kernel in found.items():
                run = Run(chains, 1.0, noise, num_steps, first, seed, longest=np.inf)
                turn = QUARTER_TURN if length == "quarter turn" else None
                run.adapt(num_burnin_steps, turn)
                _, accept_rate = run.draws(num_results)
                of_kernel[kernel].append(
                    {
                        "pixels": size,
                        "num_steps": run.num_steps,
                        "step_size": run.step_size,
                        "accept_rate": accept_rate,
                    }
                )
    slopes = {
        length: {kernel: slope(of_kernel[kernel]) for kernel in KERNELS}
        for length, of_kernel in found.items()
    }
    return {"steps": found, "slopes": slopes}


def quadratic(size):
    """A function of images [n, size] with the same law for every even size.

    f(x) = w.x - 2 (u.x)^2,   |w| = |u| = 1,   w.u = 0
    """
    w = np.full(size, size**-0.5)
    u = w * (-1.0) ** np.arange(size)
    directions = tf.constant(np.stack([w, u], axis=1), tf.float32)

    def f(images):
        along_w, along_u = tf.unstack(images @ directions, axis=1)
        return along_w - 2.0 * along_u**2

    return f


def slope(found):
    """Of log step by log pixels, by least squares."""
    x = np.log([run["pixels"] for run in found])
    y = np.log([run["step_size"] for run in found])
    x, y = x - x.mean(), y - y.mean()
    value = x @ y / (x @ x)
    variance = np.sum((y - value * x) ** 2) / max(1, len(x) - 2)
    return {"value": value, "standard_error": np.sqrt(variance / (x @ x))}
