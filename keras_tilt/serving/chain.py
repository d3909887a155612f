"""One served chain: from its first noise z to its last, of one unit at one temperature.

    p_i(z) = exp(rise_i scale f(T(z))) N(z; 0, I) / Z_i,    i = 1 ... iterations

Iteration i leaves p_i invariant, but where it skips the Metropolis test while the tilt
rises. Its steps are those of a `Schedule`, its random numbers those of its seed.

Source: Kirkpatrick, Gelatt and Vecchi (1983) for the rise of the tilt; for the kernel
see `keras_tilt.sampling.kernels`.
"""

__all__ = ["end_of_chain"]

import tensorflow as tf

from keras_tilt.sampling.kernels import (
    Response,
    SplitHamiltonianMonteCarlo,
    chain_seeds,
)

# Factors of f below this are this: the smallest float32 are flushed to 0, by which f
# could not be told any more. At so high a temperature p is q all the same.
_WEAKEST = 1e-30


def end_of_chain(f, schedule, unit, noise, scale, seed, first=0):
    """Return the end of a chain, and how often it moved.

    Args:
        f: function, noise [1, ...] -> f of the unit [1], nats.
        schedule: a `Schedule`.
        unit: [], its place in the schedule.
        noise: [1, ...], where the chain starts.
        scale: [], of the tilt, divided by the temperature.
        seed: [2], of the chain.
        first: iteration to start with; `schedule.num_rising` for the full tilt alone.

    Returns:
        noise: [1, ...].
        f: [], at that noise, nats.
        accept_rate: [], share of the iterations at the full tilt that were accepted.
    """
    response = Response(f)
    step_size = tf.gather(schedule.step_size, unit)
    num_steps = tf.gather(schedule.num_leapfrog_steps, unit)
    seeds = chain_seeds(seed, tf.range(schedule.num_iterations))

    def iterate(i, noise, f, gradient, num_accepted):
        factor = tf.maximum(scale * tf.gather(schedule.rise, i), _WEAKEST)
        kernel = SplitHamiltonianMonteCarlo(
            response.times(factor),
            step_size[i],
            num_steps[i],
            is_adjusted=tf.gather(schedule.is_adjusted, i),
        )
        here = kernel.results_of(noise, factor * f, factor * gradient)
        noise, results = kernel.one_step(noise, here, seed=seeds[i][None])
        there = results.accepted_results
        (gradient,) = there.grads_target_log_prob
        counts = tf.cast(i >= schedule.num_rising, tf.float32)
        num_accepted += counts * tf.cast(results.is_accepted[0], tf.float32)
        f = there.target_log_prob / factor
        return i + 1, noise, f, gradient / factor, num_accepted

    f, gradient = response.value_and_gradient(noise)
    _, noise, f, _, num_accepted = tf.while_loop(
        lambda i, *_: i < schedule.num_iterations,
        iterate,
        (first, noise, f, gradient, 0.0),
        parallel_iterations=1,
    )
    return noise, f[0], num_accepted / schedule.num_full
