"""Microcanonical dynamics with the Gaussian part solved exactly, beside Hamilton's.

    kick    turns the momentum towards grad f and keeps its norm
    rotate  (z, momentum), as in `keras_tilt.sampling.kernels`
    kick

The kick by a time h is the flow of du/dt = |momentum| (1 - u u') grad f / (d - 1),
where u is the direction of the momentum, in d dimensions. It changes the volume of
directions by the factor (cosh delta + e.u sinh delta)^(1 - d), with e the direction of
grad f and

    delta = h |grad f| |momentum| / (d - 1),

and minus the logarithm of that takes the place of the kinetic energy that Hamilton's
kick adds. |momentum|^2 is d to within sqrt(2 d), and the two agree to that share: from
784 pixels on they are nearly the same chains.

Source: Robnik, De Luca, Silverstein and Seljak (2023), "Microcanonical Hamiltonian
Monte Carlo", for the dynamics, and Ver Steeg and Galstyan (2021), "Hamiltonian
dynamics with non-Newtonian momentum for rapid sampling".
"""

import functools

import keras_tilt as kt
import numpy as np
import tensorflow as tf
from keras_tilt.sampling.kernels import (
    SplitHamiltonianMonteCarlo,
    Trajectory,
    trajectory,
)
from keras_tilt.sampling.response import Response, differentiated
from tqdm.auto import tqdm

from networks import digit_tilt, natural_noise, trained_lenet
from rounds import in_turns, ratio_of
from runs import mean_of, worth

KERNELS = ("split", "isokinetic")


class IsokineticMonteCarlo(SplitHamiltonianMonteCarlo):
    """The same kernel with kicks that keep the norm of the momentum; mass 1."""

    def _end(self, noise, momentum, here):
        f, (gradient,) = here.target_log_prob, here.grads_target_log_prob
        return isokinetic(
            self.parameters["tilt_fn"],
            Trajectory(noise, momentum, f, gradient, tf.zeros_like(f)),
            self.parameters["step_size"],
            self.parameters["num_leapfrog_steps"],
        )


def isokinetic(tilt_fn, start, step_size, num_leapfrog_steps):
    """A trajectory of the module, whose `kicks` are minus the log of the volume."""
    f_and_gradient = differentiated(tilt_fn)
    cosine, sine, half = tf.cos(step_size), tf.sin(step_size), tf.tan(step_size / 2)
    at = kick(start, half)
    for left in reversed(range(num_leapfrog_steps)):
        noise = cosine * at.noise + sine * at.momentum
        momentum = cosine * at.momentum - sine * at.noise
        at = Trajectory(noise, momentum, *f_and_gradient(noise), at.kicks)
        at = kick(at, 2 * half if left else half)
    return at


def kick(at, time):
    """Turn the momentum for a time."""
    events = list(range(at.f.shape.rank, at.noise.shape.rank))
    dimensions = at.noise[0].shape.num_elements()

    def norm_of(values):
        return tf.sqrt(tf.reduce_sum(values**2, axis=events, keepdims=True))

    norm, slope = norm_of(at.momentum), norm_of(at.gradient)
    u = at.momentum / norm
    e = tf.math.divide_no_nan(at.gradient, slope)
    delta = time * slope * norm / (dimensions - 1)
    along = tf.reduce_sum(u * e, axis=events, keepdims=True)
    bent = 2 * tf.sinh(delta / 2) ** 2  # cosh - 1
    grown = bent + along * tf.sinh(delta)
    turned = (u + e * (tf.sinh(delta) + along * bent)) / (1 + grown)
    log_volume = (dimensions - 1) * tf.math.log1p(tf.squeeze(grown, events))
    return at._replace(momentum=norm * turned, kicks=at.kicks + log_volume)


def microcanonical_lenet(
    num_chains, num_burnin_steps, num_gradients, rounds, settings, seed
):
    """Effective samples per gradient on LeNet, both kernels at each of the settings.

    `settings` are (step size, leapfrog steps, share of the momentum kept).
    """
    tilt = digit_tilt(trained_lenet())
    noise = kt.sample(
        tilt, num_chains, 10, num_burnin_steps, seed=seed, progress=False
    ).noise[-1]
    found = {}
    for step_size, num_steps, kept in settings:
        run = {
            kernel: functools.partial(
                drawn, tilt, kernel, noise, step_size, num_steps, kept, num_gradients
            )
            for kernel in KERNELS
        }
        by_round = {kernel: [] for kernel in KERNELS}
        name = f"step {step_size}, {num_steps} steps, kept {kept}"
        for turn, kernel in in_turns(KERNELS, rounds, name):
            by_round[kernel].append(run[kernel](seed + 1 + turn))
        ratio = ratio_of(by_round, "isokinetic", "split", "ess_per_1000_gradients")
        best = {kernel: mean_of(runs) for kernel, runs in by_round.items()}
        found[name] = best | {"isokinetic / split": ratio}
    return found


def drawn(tilt, kernel, noise, step_size, num_steps, kept, num_gradients, seed):
    """What the draws of a kernel are worth."""
    advance, results = kernel_of(tilt, kernel, noise, step_size, num_steps, kept)
    f, is_accepted = [], []
    for i in range(num_gradients // num_steps):
        noise, results = advance(noise, results, tf.constant([i, seed]))
        f.append(results.accepted_results.target_log_prob.numpy() / tilt.scale)
        is_accepted.append(results.is_accepted)
    return worth(np.stack(f), num_steps, step_size, np.mean(is_accepted))


@functools.lru_cache(maxsize=2)
def response_of(tilt):
    """scale f of noise, as a graph of its own."""
    return Response(lambda z: tilt.scale * tilt.response(tilt.to_images(z)))


def kernel_of(tilt, name, noise, step_size, num_steps, kept):
    """A graph that advances by one iteration, and the kernel's results at noise."""
    make = SplitHamiltonianMonteCarlo if name == "split" else IsokineticMonteCarlo
    kernel = make(response_of(tilt), step_size, num_steps, momentum_persistence=kept)
    results = tf.function(kernel.bootstrap_results)(noise)
    advance = tf.function(lambda z, results, seed: kernel.one_step(z, results, seed))
    return advance, results


def microcanonical_picture(unit, start, num_draws, step_sizes, num_steps, seed):
    """How far apart the two trajectories from one place with one momentum end.

    The energy errors of both, and the distance of the ends as a share of the way from
    the start, where pictures form.
    """
    if not start.is_file():
        raise SystemExit(
            f"Expected {start}. Received: none. Run --parts ess --regimes spectral "
            "before, which makes it."
        )
    tilt = kt.Tilt(unit, natural_noise(unit), scale=10.0)
    noise = tf.constant(np.load(start)["noise"])
    response = response_of(tilt)
    follow = [tf.function(way) for way in (trajectory, isokinetic)]
    f, gradient = tf.function(response.value_and_gradient)(noise)
    rng, found = np.random.default_rng(seed), {}
    for step_size in step_sizes:
        errors, apart = [], []
        for _ in tqdm(range(num_draws), f"step {step_size}"):
            momentum = tf.constant(rng.standard_normal(noise.shape, np.float32))
            begin = Trajectory(noise, momentum, f, gradient, tf.zeros_like(f))
            ends = [way(response, begin, step_size, num_steps) for way in follow]
            errors.append([end.f - f - end.kicks for end in ends])
            apart.append(
                np.linalg.norm(ends[0].noise - ends[1].noise)
                / np.linalg.norm(ends[0].noise - noise)
            )
        one, other = np.moveaxis(errors, 1, 0)
        found[f"step {step_size}"] = {
            "rms_energy_error": np.sqrt(np.mean(np.square(one))),
            "rms_energy_error_isokinetic": np.sqrt(np.mean(np.square(other))),
            "rms_difference": np.sqrt(np.mean(np.square(one - other))),
            "ends_apart": np.mean(apart),
        }
    return found
