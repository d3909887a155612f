"""One served chain: from its first noise z to its last, of one unit at one temperature.

    p_i(z) = exp(rise_i scale f(T(z))) N(z; 0, I) / Z_i,    i = 1 ... iterations

Iteration i leaves p_i invariant, unless it is one of an unadjusted warm-up. Its steps
are those of a `Schedule`, its random numbers those of the seed of the chain.

Source: Kirkpatrick, Gelatt and Vecchi (1983) for the rise of the tilt; for the kernel
see `keras_tilt.sampling.kernels`.
"""

__all__ = ["end_of_chain"]

from collections.abc import Callable

import tensorflow as tf

from keras_tilt.sampling.kernels import (
    Response,
    SplitHamiltonianMonteCarlo,
    chain_seeds,
)
from keras_tilt.serving.schedule import Schedule

# No factor of f is below this: the smallest float32 are flushed to 0, and f could not
# be divided out again. At so high a temperature p is q all the same.
_WEAKEST = 1e-30


def end_of_chain(
    f: Callable[[tf.Tensor], tf.Tensor],
    schedule: Schedule,
    unit: tf.Tensor,
    noise: tf.Tensor,
    scale: tf.Tensor,
    seed: tf.Tensor,
    first: int = 0,
    autograph: bool = True,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return the end of a chain, and how often it moved.

    Args:
        f: noise [1, ...] -> f of the unit [1], nats.
        schedule: of all units.
        unit: [], place of the unit in the schedule.
        noise: [1, ...], where the chain starts.
        scale: [], of the tilt, divided by the temperature.
        seed: [2], of the chain.
        first: iteration to start with; `schedule.num_rising` for the full tilt alone.
        autograph: as in `keras_tilt.sampling.response.Response`.

    Returns:
        noise: [1, ...].
        f: [], at that noise, nats.
        accept_rate: [], share of the iterations at the full tilt that were accepted.
    """
    response = Response(f, autograph)
    step_size = tf.gather(schedule.step_size, unit)
    num_steps = tf.gather(schedule.num_leapfrog_steps, unit)
    seeds = chain_seeds(seed, tf.range(schedule.num_iterations))

    def iterate(i, noise, value, gradient, num_accepted):
        factor = tf.maximum(scale * tf.gather(schedule.rise, i), _WEAKEST)
        kernel = SplitHamiltonianMonteCarlo(
            response.times(factor),
            step_size[i],
            num_steps[i],
            is_adjusted=tf.gather(schedule.is_adjusted, i),
        )
        here = kernel.results_of(noise, factor * value, factor * gradient)
        noise, results = kernel.one_step(noise, here, seed=seeds[i][None])
        there = results.accepted_results
        (gradient,) = there.grads_target_log_prob
        counts = tf.cast(i >= schedule.num_rising, tf.float32)
        num_accepted += counts * tf.cast(results.is_accepted[0], tf.float32)
        value = there.target_log_prob / factor
        return i + 1, noise, value, gradient / factor, num_accepted

    value, gradient = response.value_and_gradient(noise)
    _, noise, value, _, num_accepted = tf.while_loop(
        lambda i, *_: i < schedule.num_iterations,
        iterate,
        (first, noise, value, gradient, 0.0),
        parallel_iterations=1,
    )
    return noise, value[0], num_accepted / schedule.num_full
