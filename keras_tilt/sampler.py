"""Samples of a tilted density by Hamiltonian Monte Carlo in noise coordinates.

    H(z, momentum) = -f(T(z)) - log base(z) + |momentum|^2 / 2

Every iteration draws a momentum from N(0, I), follows Hamilton's equations by the
leapfrog, and accepts the end with probability min(1, exp(H_start - H_end)).

Source: Dai, Lu and Wu (2015), section on generative visualization; Neal (2011), "MCMC
using Hamiltonian dynamics". The paper works on images with a fixed step; we work on the
noise, where the reference has the same scale in every direction, and adapt the step.
"""

__all__ = ["PAPER_LENET", "Samples", "sample"]

import dataclasses
import functools
import math
import numbers
import warnings
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tqdm import tqdm

from keras_tilt.diagnostics import Diagnostics, diagnose, inference_data
from keras_tilt.tilt import Tilt

# The paper's run on the last layer of LeNet, to be used with the reference
# white_noise(shape, mean=0.0, stddev=10.0). Numbers of the paper as remembered, not
# verified: 300 iterations of 100 leapfrog steps of size 1e-4 with mass 1e-4, started
# from N(0, 10^2), no adaptation. A momentum N(0, m I) and a step e move x by
# e / m * sqrt(m) * N(0, I): mass m is mass 1 with the step e / sqrt(m) = 0.01 pixel
# units, and 0.01 / 10 = 0.001 in units of noise. That is not enough to reach
# equilibrium, and the diagnostics say so.
PAPER_LENET = {
    "num_results": 300,
    "num_burnin_steps": 0,
    "num_leapfrog_steps": 100,
    "step_size": 0.001,
}

_MIN_DRAWS = 4  # fewer draws have no R-hat, so an interrupted run does not return them


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Samples:
    """The draws of several chains, with everything needed to judge them.

    Attributes:
        noise: [num_results, num_chains, ...], states z of the chains.
        f: [num_results, num_chains], the unit's response in nats.
        log_prob: [num_results, num_chains], f(T(z)) + log base(z), in nats.
        is_accepted: [num_results, num_chains], booleans.
        warmup_f: [num_burnin_steps, num_chains], f before the first draw, in nats.
        step_size: of the leapfrog, in units of noise, the same for all chains.
        num_leapfrog_steps: per iteration.
        diagnostics: a `keras_tilt.diagnostics.Diagnostics`.
        to_images: T, noise [n, ...] -> images [n, ...].
    """

    noise: np.ndarray
    f: np.ndarray
    log_prob: np.ndarray
    is_accepted: np.ndarray
    warmup_f: np.ndarray
    step_size: float
    num_leapfrog_steps: int
    diagnostics: Diagnostics
    to_images: Callable

    @functools.cached_property
    def images(self):
        """T(z): [num_results, num_chains, ...], computed when first asked for."""
        return np.stack([np.asarray(self.to_images(noise)) for noise in self.noise])

    def to_arviz(self):
        """An `arviz.InferenceData`: see `keras_tilt.diagnostics.inference_data`."""
        return inference_data(self.f, self.noise, self.log_prob, self.is_accepted)

    def __repr__(self):
        return f"Samples of shape {list(self.noise.shape[2:])}: {self.diagnostics}"


def sample(
    tilt,
    num_chains=16,
    num_results=200,
    num_burnin_steps=200,
    *,
    seed,
    num_leapfrog_steps=5,
    step_size=None,
    target_accept_prob=0.8,
    initial_noise=None,
    progress=True,
):
    """Draw from p(z) = exp(f(T(z))) base(z) / Z by Hamiltonian Monte Carlo.

    The chains run side by side in one graph and share one step size. With
    `step_size=None` it is adapted during the burn-in by dual averaging and then frozen:
    an adapting chain has no stationary density. Ctrl-C returns what has been drawn.

    Args:
        tilt: a `Tilt`.
        num_chains: chains, in one batch.
        num_results: draws kept per chain.
        num_burnin_steps: iterations before the first kept draw.
        seed: a whole number or a pair of them; equal seeds give equal samples.
        num_leapfrog_steps: leapfrog steps, each one gradient of f, per iteration. Under
            a weak tilt the noise oscillates with period 2 pi; a trajectory, steps times
            step size, near pi only turns z into -z: five stay below it, ten do not.
        step_size: of the leapfrog, in units of noise; None to adapt it.
        target_accept_prob: acceptance that the adaptation aims at.
        initial_noise: [num_chains, ...]; None for exact draws of the base.
        progress: whether to show a bar with acceptance, mean f and the time left.

    Returns:
        samples: a `Samples`.

    Raises:
        TypeError: if `tilt` is not a `Tilt` or `seed` not whole numbers.
        ValueError: for a count, a step size or an acceptance out of range, an
            `initial_noise` of the wrong shape, or chains that cannot start because f or
            its gradient is not finite there.

    Example:
        >>> from keras_tilt.reference import white_noise
        >>> total = lambda images: tf.reduce_sum(images, axis=[1, 2, 3])
        >>> tilt = Tilt(total, white_noise([2, 2, 1]))
        >>> samples = sample(tilt, 4, 10, 10, seed=7, progress=False)
        >>> samples.images.shape
        (10, 4, 2, 2, 1)

    Source: Hoffman and Gelman (2014), section 3.2, for the dual averaging.
    """
    _check_tilt(tilt)
    _check_count("num_chains", num_chains, 1)
    _check_count("num_results", num_results, 1)
    _check_count("num_burnin_steps", num_burnin_steps, 0)
    _check_count("num_leapfrog_steps", num_leapfrog_steps, 1)
    _check_step_size(step_size, target_accept_prob, num_burnin_steps)
    start_seed, seed = tfp.random.split_seed(_stateless_seed(seed), n=2)
    noise = _initial_noise(tilt, num_chains, initial_noise, start_seed)

    hmc = functools.partial(
        tfp.mcmc.HamiltonianMonteCarlo,
        tilt.noise_log_prob,
        num_leapfrog_steps=num_leapfrog_steps,
    )
    iterations = range(num_burnin_steps + num_results)
    with tqdm(iterations, disable=not progress, unit="it") as bar:
        if step_size is None:
            kernel = _adaptive(hmc, noise, num_burnin_steps, target_accept_prob)
        else:
            kernel = hmc(step_size=step_size)
        chains = _Chains(kernel, tilt, noise)
        _check_start(_metropolis_results(chains.kernel_results))
        warmup = _record(chains, iterations[:num_burnin_steps], seed, bar, "warm-up")
        if step_size is None:
            step_size = float(chains.kernel_results.new_step_size)
            chains = _Chains(hmc(step_size=step_size), tilt, chains.noise)
        draws = _record(chains, iterations[num_burnin_steps:], seed, bar, "sampling")

    num_missing = num_results - len(draws["f"])
    if num_missing:
        warnings.warn(
            f"Sampling was interrupted: {num_missing} of {num_results} draws per chain "
            "are missing.",
            stacklevel=2,
        )
    return _samples(tilt, warmup, draws, step_size, num_leapfrog_steps, num_missing)


def _samples(tilt, warmup, draws, step_size, num_leapfrog_steps, num_missing):
    return Samples(
        noise=draws["noise"],
        f=draws["f"],
        log_prob=draws["log_prob"],
        is_accepted=draws["is_accepted"],
        warmup_f=warmup["f"],
        step_size=float(step_size),
        num_leapfrog_steps=num_leapfrog_steps,
        diagnostics=diagnose(
            draws["f"],
            draws["noise"],
            draws["is_accepted"],
            step_size,
            num_nonfinite=np.sum(~draws["is_finite"]),
            num_nonfinite_warmup=np.sum(~warmup["is_finite"]),
            num_missing=num_missing,
        ),
        to_images=tilt.to_images,
    )


class _Chains:
    """The chains between two iterations, and the one graph that advances them."""

    def __init__(self, kernel, tilt, noise):
        self.noise = noise
        self.kernel_results = kernel.bootstrap_results(noise)

        @tf.function
        def one_step(noise, kernel_results, seed):
            noise, kernel_results = kernel.one_step(noise, kernel_results, seed=seed)
            # f anew, and not as log_prob - log base(z): that difference of two numbers
            # of the size of the image has its own rounding noise.
            f = tilt.response(tilt.to_images(noise))
            return noise, kernel_results, f

        self._one_step = one_step

    def empty_history(self, num_iterations, with_noise):
        per_chain = [num_iterations, self.noise.shape[0]]
        real = self.noise.dtype.as_numpy_dtype
        history = {
            "f": np.empty(per_chain, real),
            "log_prob": np.empty(per_chain, real),
            "is_accepted": np.empty(per_chain, bool),
            "is_finite": np.empty(per_chain, bool),
        }
        if with_noise:
            history["noise"] = np.empty([num_iterations, *self.noise.shape], real)
        return history

    def advance(self, seed):
        """One iteration; returns its trace, each entry [num_chains, ...]."""
        self.noise, self.kernel_results, f = self._one_step(
            self.noise, self.kernel_results, seed
        )
        results = _metropolis_results(self.kernel_results)
        return {
            "noise": self.noise.numpy(),
            "f": f.numpy(),
            "log_prob": results.accepted_results.target_log_prob.numpy(),
            "is_accepted": results.is_accepted.numpy(),
            # TFP turns an energy that is not finite into a ratio of exactly -inf.
            "is_finite": np.isfinite(results.log_accept_ratio.numpy()),
        }


def _record(chains, iterations, seed, bar, phase):
    """The traces of many iterations, each [iterations, num_chains, ...].

    On Ctrl-C, the traces of the iterations done, if they are draws and enough to be
    judged. The noise of the warm-up is not kept.
    """
    history = chains.empty_history(len(iterations), with_noise=phase == "sampling")
    done = 0
    bar.set_description(phase)
    try:
        for iteration in iterations:
            # The seed depends on the iteration alone: a longer run repeats a shorter.
            trace = chains.advance(tf.random.fold_in(seed, iteration))
            for name in history:
                history[name][done] = trace[name]
            done += 1
            accepted = np.mean(history["is_accepted"][:done])
            bar.set_postfix(
                accepted=f"{accepted:.0%}",
                f=f"{np.mean(trace['f']):.4g}",
                refresh=False,
            )
            bar.update()
    except KeyboardInterrupt:
        if phase != "sampling" or done < _MIN_DRAWS:
            raise
    return {name: values[:done] for name, values in history.items()}


def _adaptive(hmc, noise, num_burnin_steps, target_accept_prob):
    """Dual averaging around HMC, from the step that suits white noise of this size."""
    pixels = tf.size(noise[0], out_type=tf.int64)
    return tfp.mcmc.DualAveragingStepSizeAdaptation(
        hmc(step_size=tf.cast(pixels, noise.dtype) ** -0.25),
        num_adaptation_steps=num_burnin_steps,
        target_accept_prob=tf.cast(target_accept_prob, noise.dtype),
    )


def _metropolis_results(kernel_results):
    """The results of the Metropolis step, inside the adaptation or not."""
    return getattr(kernel_results, "inner_results", kernel_results)


def _stateless_seed(seed):
    """A pair of int32. A whole number is not handed to TFP, which would use it as the
    seed of a hidden, advancing state."""
    if isinstance(seed, numbers.Integral) and not isinstance(seed, bool):
        if not 0 <= seed < 2**62:
            raise ValueError(
                f"`seed` must lie in [0, 2^62). Received: {seed}. Pass a smaller one."
            )
        seed = [int(seed) >> 31, int(seed) & (2**31 - 1)]
    pair = np.asarray(seed)
    if pair.shape != (2,) or not np.issubdtype(pair.dtype, np.integer):
        raise TypeError(
            "`seed` must be a whole number or a pair of them. "
            f"Received: {seed!r}. Pass for example seed=7."
        )
    return tfp.random.sanitize_seed(pair.astype(np.int32), salt="keras_tilt.sample")


def _initial_noise(tilt, num_chains, initial_noise, seed):
    if initial_noise is None:
        return tilt.base.sample(num_chains, seed=seed)
    noise = tf.convert_to_tensor(initial_noise, tilt.base.dtype)
    expected = (num_chains, *tilt.base.event_shape)
    if tuple(noise.shape) != expected:
        raise ValueError(
            f"`initial_noise` must have shape {expected}, one state per chain. "
            f"Received: shape {tuple(noise.shape)}. Pass tilt.to_noise(images)."
        )
    return noise


def _check_start(results):
    gradients = results.accepted_results.grads_target_log_prob
    finite = np.isfinite(results.accepted_results.target_log_prob.numpy())
    for gradient in gradients:
        pixels = tuple(range(1, gradient.shape.rank))
        finite &= np.isfinite(gradient.numpy()).all(axis=pixels)
    if not finite.all():
        raise ValueError(
            "f(x) + log q(x) and its gradient must be finite where a chain starts. "
            f"Received: {np.sum(~finite)} of {finite.size} chains where they are not. "
            "Check the unit for NaN, or pass another `initial_noise`."
        )


def _check_tilt(tilt):
    if not isinstance(tilt, Tilt):
        raise TypeError(
            f"`tilt` must be a Tilt. Received: {tilt!r}. Pass Tilt(unit, reference)."
        )


def _check_count(name, value, smallest):
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < smallest:
        raise ValueError(
            f"`{name}` must be a whole number, {smallest} or more. "
            f"Received: {value!r}. Pass for example {name}={max(10, smallest)}."
        )


def _check_step_size(step_size, target_accept_prob, num_burnin_steps):
    if not 0 < target_accept_prob < 1:
        raise ValueError(
            "`target_accept_prob` must lie between 0 and 1. "
            f"Received: {target_accept_prob!r}. Pass for example 0.8."
        )
    if step_size is None and num_burnin_steps == 0:
        raise ValueError(
            "`num_burnin_steps` must be positive when the step size is adapted. "
            "Received: num_burnin_steps=0, step_size=None. Pass one of them."
        )
    if step_size is not None and not 0 < step_size < math.inf:
        raise ValueError(
            "`step_size` must be None, to adapt it, or a positive number. "
            f"Received: {step_size!r}. Pass a length in units of noise."
        )
