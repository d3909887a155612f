"""The transition kernel of this library: split Hamiltonian Monte Carlo.

    H(z, momentum) = -f(z) + |z|^2 / 2 + momentum . momentum / (2 mass)

The Gaussian part of Hamilton's equations is a rotation, and is solved exactly; only the
gradient of f enters the leapfrog. So the step size depends on f and not on the number
of pixels:

    kick    momentum += tan(step / 2) grad f(z)
    rotate  (z, momentum) <- (cos(step) z + sin(step) momentum,
                              cos(step) momentum - sin(step) z)
    kick    momentum += tan(step / 2) grad f(z)

By the tangent, which is step / 2 up to its cube, a linear f has no energy error at any
step: the kicks and the rotation about 0 are then the rotation about grad f.

An iteration may keep a share of the momentum of the one before, whose direction short
trajectories then go on with; where one is rejected, the chain turns back.

Source: Shahbaba, Lan, Johnson and Neal (2014), "Split Hamiltonian Monte Carlo",
section 3.1; Beskos, Pinski, Sanz-Serna and Stuart (2011), "Hybrid Monte Carlo on
Hilbert spaces", for its independence of the dimension; Horowitz (1991), "A generalized
guided Monte Carlo algorithm", for momenta that are kept.
"""

__all__ = [
    "DIVERGENCE",
    "KERNELS",
    "Kernel",
    "SplitHamiltonianMonteCarlo",
    "Trajectory",
    "chain_seeds",
    "kinetic_energy",
    "trajectory",
    "transition_kernel",
]

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from numpy.typing import ArrayLike
from tensorflow_probability import distributions as tfd

from keras_tilt.sampling.response import (
    Response,
    TiltFn,
    differentiated,
    value_and_gradient,
)

Kernel = Literal["split", "hmc", "mala"]
KERNELS: tuple[str, ...] = get_args(Kernel)
DIVERGENCE = 1000.0  # nats, as in Stan: such an energy error is a step too long


class Trajectory(NamedTuple):
    """A point in phase space, and the energy that the kicks before it have added.

    Attributes:
        noise: z, [..., event].
        momentum: [..., event], in units of sqrt(mass): N(0, I) at equilibrium.
        f: [...], nats.
        gradient: of f with respect to z, [..., event].
        kicks: [...], nats of kinetic energy that the kicks have added.
    """

    noise: tf.Tensor
    momentum: tf.Tensor
    f: tf.Tensor
    gradient: tf.Tensor
    kicks: tf.Tensor


def trajectory(
    tilt_fn: TiltFn,
    start: Trajectory,
    step_size: ArrayLike,
    num_leapfrog_steps: int | tf.Tensor,
    mass: ArrayLike = 1.0,
) -> Trajectory:
    """Follow Hamilton's equations: half a kick, then rotations and kicks in turn.

    With a mass the rotation is by step / sqrt(mass), coordinate by coordinate. The two
    half kicks between two rotations are one kick. A rotation conserves
    (|z|^2 + |momentum|^2) / 2, so that the energy error

        H(end) - H(start) = f(start) - f(end) + kicks
        kicks = sum over kicks of (|momentum + kick|^2 - |momentum|^2) / 2

    is not a difference of numbers that grow with the image.

    Args:
        tilt_fn: noise [..., event] -> f [...], nats.
        start: a `Trajectory`; its kicks are added to.
        step_size: positive, [] or broadcastable to the noise, in units of noise.
        num_leapfrog_steps: positive, [] int32: gradients of f.
        mass: positive, [] or broadcastable to the noise.

    Returns:
        end: a `Trajectory`.
    """
    dtype, f_and_gradient = start.noise.dtype, differentiated(tilt_fn)
    angle = tf.cast(step_size, dtype) * tf.math.rsqrt(tf.cast(mass, dtype))
    cosine, sine, half = tf.cos(angle), tf.sin(angle), tf.tan(angle / 2)

    def kick(at, size):
        change = size * at.gradient
        momentum = at.momentum + change
        twice = _dot(at.momentum, change, at.f) + _dot(momentum, change, at.f)
        return at._replace(momentum=momentum, kicks=at.kicks + twice / 2)

    def rotate(at):
        noise = cosine * at.noise + sine * at.momentum
        momentum = cosine * at.momentum - sine * at.noise
        f, gradient = f_and_gradient(noise)
        return Trajectory(noise, momentum, f, gradient, at.kicks)

    def move(left, at):
        return left - 1, kick(rotate(at), tf.where(left > 1, 2 * half, half))

    _, at = tf.while_loop(
        lambda left, at: left > 0,
        move,
        (tf.convert_to_tensor(num_leapfrog_steps), kick(start, half)),
        parallel_iterations=1,
    )
    return at


class SplitHamiltonianMonteCarlo(tfp.mcmc.TransitionKernel):
    """Hamiltonian Monte Carlo for p(z) = exp(f(z)) N(z; 0, I) / Z, by exact rotations.

    One iteration draws a momentum from N(0, I), follows a `trajectory`, and accepts its
    end with probability min(1, exp(H_start - H_end)). An end whose energy is not finite
    is rejected. With a `momentum_persistence` a the momentum is

        a momentum + sqrt(1 - a^2) N(0, I)

    of the iteration before, turned around if that one was rejected.

    It replaces `tfp.mcmc.HamiltonianMonteCarlo` in TFP's `sample_chain`, step size
    adaptations and `ReplicaExchangeMC`, with two differences. It takes f, not the log
    density, and `target_log_prob` in its results is f as well: for replica exchange
    pass f as `target_log_prob_fn`, which is all that the swap needs. And `seed` may be
    one pair for all chains, or a pair for each, [..., 2]: a chain with its own seed
    draws the same numbers at any place in a batch.

    Args:
        tilt_fn: noise [..., event] -> f [...], nats.
        step_size: positive, [] or broadcastable to the noise, in units of noise.
        num_leapfrog_steps: positive: gradients of f per iteration.
        mass: positive, [] or broadcastable to the noise; large for coordinates that
            should move less in a step.
        is_adjusted: boolean, may be a tensor. False leaves out the Metropolis test:
            every end is accepted unless it lost both 1,000 nats and half of its kinetic
            energy, a quarter of a nat for each coordinate; the stationary density is
            only close to that of exp(f).
        momentum_persistence: a, in [0, 1), may be a tensor.
        store_parameters_in_results: whether step size and number of steps are kept in
            the results and read from there, as TFP's adaptation needs.

    Example:
        >>> kernel = SplitHamiltonianMonteCarlo(
        ...     lambda noise: tf.reduce_sum(noise, axis=-1),
        ...     step_size=0.5,
        ...     num_leapfrog_steps=3,
        ... )
        >>> draws = tf.function(tfp.mcmc.sample_chain)(
        ...     1000, tf.zeros([4, 2]), kernel=kernel, trace_fn=None, seed=[0, 7]
        ... )
        >>> draws.shape
        TensorShape([1000, 4, 2])

    Source: Shahbaba, Lan, Johnson and Neal (2014), "Split Hamiltonian Monte Carlo",
    section 3.1.
    """

    def __init__(
        self,
        tilt_fn: TiltFn,
        step_size: ArrayLike,
        num_leapfrog_steps: int | tf.Tensor,
        mass: ArrayLike = 1.0,
        is_adjusted: bool | tf.Tensor = True,
        momentum_persistence: float | tf.Tensor = 0.0,
        store_parameters_in_results: bool = False,
    ) -> None:
        self._parameters = {
            "tilt_fn": tilt_fn,
            "step_size": step_size,
            "num_leapfrog_steps": num_leapfrog_steps,
            "mass": mass,
            "is_adjusted": is_adjusted,
            "momentum_persistence": momentum_persistence,
            "store_parameters_in_results": store_parameters_in_results,
        }

    @property
    def parameters(self) -> dict[str, Any]:
        """The arguments of the constructor, by name."""
        return self._parameters

    @property
    def is_calibrated(self) -> bool:
        """True: the Metropolis test is part of every iteration."""
        return True

    def bootstrap_results(self, init_state: Any) -> "_KernelResults":
        """Return f, its gradient, and the step, for a first call of `one_step`."""
        (noise,) = tf.nest.flatten(init_state)
        f, gradient = value_and_gradient(self.parameters["tilt_fn"], noise)
        return self.results_of(init_state, f, gradient)

    def results_of(
        self, init_state: Any, f: tf.Tensor, gradient: tf.Tensor
    ) -> "_KernelResults":
        """Return the same where f and its gradient are known."""
        here = _Place(f, [gradient], step_size=[], num_leapfrog_steps=[])
        if self.parameters["store_parameters_in_results"]:
            here = here._replace(
                step_size=tf.cast(self.parameters["step_size"], f.dtype),
                num_leapfrog_steps=tf.cast(
                    self.parameters["num_leapfrog_steps"], tf.int32
                ),
            )
        return _KernelResults(
            accepted_results=here,
            is_accepted=tf.ones_like(f, tf.bool),
            log_accept_ratio=tf.zeros_like(f),
            proposed_state=init_state,
            proposed_results=here,
            initial_kinetic=tf.zeros_like(f),
            momentum=tf.zeros_like(gradient),
            has_momentum=tf.zeros_like(f, tf.bool),
        )

    def one_step(
        self,
        current_state: Any,
        previous_kernel_results: "_KernelResults",
        seed: ArrayLike | None = None,
    ) -> tuple[Any, "_KernelResults"]:
        """Propose the end of a trajectory, and accept it or stay."""
        (noise,) = tf.nest.flatten(current_state)
        here = previous_kernel_results.accepted_results
        drawn, log_uniform = _draw(seed, here.target_log_prob, noise)
        momentum = self._momentum(previous_kernel_results, drawn)
        end = self._end(noise, momentum, here)
        log_accept_ratio = end.f - here.target_log_prob - end.kicks
        log_accept_ratio = tf.where(
            tf.math.is_finite(log_accept_ratio), log_accept_ratio, -np.inf
        )
        is_accepted = log_uniform < log_accept_ratio
        is_taken = tf.logical_not(self.parameters["is_adjusted"])
        coordinates = noise.shape[log_accept_ratio.shape.rank :].num_elements()
        most_lost = max(DIVERGENCE, (coordinates or 0) / 4)
        is_accepted |= is_taken & (log_accept_ratio > -most_lost)
        there = here._replace(
            target_log_prob=end.f, grads_target_log_prob=[end.gradient]
        )
        results = _KernelResults(
            accepted_results=here._replace(
                target_log_prob=tf.where(is_accepted, end.f, here.target_log_prob),
                grads_target_log_prob=[
                    _choose(is_accepted, end.gradient, here.grads_target_log_prob[0])
                ],
            ),
            is_accepted=is_accepted,
            log_accept_ratio=log_accept_ratio,
            proposed_state=tf.nest.pack_sequence_as(current_state, [end.noise]),
            proposed_results=there,
            initial_kinetic=_dot(momentum, momentum, end.f) / 2,
            momentum=_choose(is_accepted, end.momentum, -momentum),
            has_momentum=tf.ones_like(is_accepted),
        )
        next_noise = _choose(is_accepted, end.noise, noise)
        return tf.nest.pack_sequence_as(current_state, [next_noise]), results

    def _momentum(self, previous, drawn):
        """The momentum of the iteration before, renewed in part, or as a whole."""
        kept = tf.cast(self.parameters["momentum_persistence"], drawn.dtype)
        renewed = kept * previous.momentum + tf.sqrt(1 - kept**2) * drawn
        return _choose(previous.has_momentum, renewed, drawn)

    def _end(self, noise, momentum, here):
        """The end of the trajectory from a place with a momentum."""
        stored = self.parameters["store_parameters_in_results"]
        steps = here._asdict() if stored else self.parameters
        f, (gradient,) = here.target_log_prob, here.grads_target_log_prob
        return trajectory(
            self.parameters["tilt_fn"],
            Trajectory(noise, momentum, f, gradient, tf.zeros_like(f)),
            steps["step_size"],
            steps["num_leapfrog_steps"],
            self.parameters["mass"],
        )


def transition_kernel(
    name: Kernel,
    tilt_fn: TiltFn,
    base: tfd.Distribution,
    step_size: float | np.ndarray | tf.Tensor,
    num_leapfrog_steps: int | tf.Tensor,
    mass: ArrayLike = 1.0,
    ladder: Sequence[float] | None = None,
    is_adjusted: bool | tf.Tensor = True,
    momentum_persistence: float | tf.Tensor = 0.0,
) -> tfp.mcmc.TransitionKernel:
    """Return the kernel of p(z) = exp(f(z)) base(z) / Z of a given name.

    Args:
        name: "split" for `SplitHamiltonianMonteCarlo`, which is correct for a base
            N(0, I) only; "hmc" and "mala" for TFP's `HamiltonianMonteCarlo`, the kernel
            of the paper, and `MetropolisAdjustedLangevinAlgorithm`.
        tilt_fn: noise [..., event] -> f [...], nats.
        base: a `tfd.Distribution` of the noise.
        step_size: of the leapfrog, broadcastable to the noise. A leapfrog step e is a
            Langevin step e^2 in the convention of TFP.
        num_leapfrog_steps: of "split" and "hmc".
        mass: of "split".
        ladder: None, or inverse temperatures [ladder] that multiply f. The kernel is
            then a `ReplicaExchangeMC` on states [ladder, ..., event].
        is_adjusted: of "split".
        momentum_persistence: of "split".

    Returns:
        kernel: a `tfp.mcmc.TransitionKernel`.
    """
    alone = name == "split" and ladder is None
    if not (alone or tf.executing_eagerly() or isinstance(tilt_fn, Response)):
        tilt_fn = Response(tilt_fn)

    def log_prob(noise):
        return tilt_fn(noise) + base.log_prob(noise)

    make = {
        "split": lambda f: SplitHamiltonianMonteCarlo(
            f, step_size, num_leapfrog_steps, mass, is_adjusted, momentum_persistence
        ),
        "hmc": lambda log_prob: tfp.mcmc.HamiltonianMonteCarlo(
            log_prob, step_size, num_leapfrog_steps
        ),
        "mala": lambda log_prob: tfp.mcmc.MetropolisAdjustedLangevinAlgorithm(
            log_prob, step_size**2
        ),
    }[name]
    # "split" has the base in itself: for it, and for its swaps, f is the whole target.
    if ladder is not None:
        return _on_ladder(make, tilt_fn, base, ladder, knows_base=name == "split")
    return make(tilt_fn if name == "split" else log_prob)


def _on_ladder(make, tilt_fn, base, ladder, knows_base):
    """Replica exchange of kernels that `make` makes, with or without the base in it."""
    if knows_base:
        target = {"target_log_prob_fn": tilt_fn}
    else:
        target = {
            "target_log_prob_fn": None,
            "tempered_log_prob_fn": tilt_fn,
            "untempered_log_prob_fn": base.log_prob,
        }
    return tfp.mcmc.ReplicaExchangeMC(
        inverse_temperatures=tf.constant(ladder, base.dtype),
        make_kernel_fn=make,
        state_includes_replicas=True,
        **target,
    )


def kinetic_energy(results: Any) -> tf.Tensor:
    """Return that of the momenta drawn last by "split" or "hmc", [...], nats."""
    if isinstance(results, _KernelResults):
        return results.initial_kinetic
    (momentum,) = results.proposed_results.initial_momentum
    pixels = list(range(results.is_accepted.shape.rank, momentum.shape.rank))
    return tf.reduce_sum(momentum**2, axis=pixels) / 2


class _Place(NamedTuple):
    """f and its gradient at a state, under the names that TFP's wrappers look for."""

    target_log_prob: tf.Tensor
    grads_target_log_prob: list
    step_size: tf.Tensor | list
    num_leapfrog_steps: tf.Tensor | list


class _KernelResults(NamedTuple):
    """As `tfp.mcmc.MetropolisHastings` returns them, and one more."""

    accepted_results: _Place
    is_accepted: tf.Tensor
    log_accept_ratio: tf.Tensor
    proposed_state: tf.Tensor
    proposed_results: _Place
    initial_kinetic: tf.Tensor  # |momentum|^2 / 2 at the start, [...], nats
    momentum: tf.Tensor  # at the end, [..., event]; turned around if rejected
    has_momentum: tf.Tensor  # [...] booleans; False before the first iteration


def chain_seeds(seed: ArrayLike, chains: tf.Tensor) -> tf.Tensor:
    """Return a seed per chain, [..., 2], that depends only on `seed` and the chain.

    Args:
        seed: [2] int32.
        chains: [...] int32, an id for each chain.
    """
    key = tf.random.stateless_uniform([2], seed, None, None, tf.int32)
    # All 64 bits of the key: of 32, two would be equal after some 65,536 iterations.
    return tf.stack([tf.fill(tf.shape(chains), key[0]), key[1] + chains], axis=-1)


def _draw(seed, f, noise):
    """Momentum like `noise` and log of a uniform number like `f`, chain by chain."""
    if seed is None or len(np.shape(seed)) < 2:
        seed = tfp.random.sanitize_seed(seed)
        seed = chain_seeds(seed, tf.reshape(tf.range(tf.size(f)), tf.shape(f)))
    event = noise.shape[f.shape.rank :]

    def draw_one(pair):
        of_momentum, of_test = tf.unstack(tf.random.split(pair, 2))
        return (
            tf.random.stateless_normal(event, of_momentum, dtype=noise.dtype),
            tf.random.stateless_uniform([], of_test, dtype=noise.dtype),
        )

    momentum, uniform = tf.map_fn(
        draw_one, tf.reshape(seed, [-1, 2]), fn_output_signature=(noise.dtype,) * 2
    )
    momentum = tf.reshape(momentum, tf.shape(noise))
    return momentum, tf.math.log(tf.reshape(uniform, tf.shape(f)))


def _dot(a, b, f):
    """Scalar product over the event, of the shape of `f`."""
    flat = tf.concat([tf.shape(f), [1, -1]], axis=0)
    product = tf.matmul(tf.reshape(a, flat), tf.reshape(b, flat), transpose_b=True)
    return tf.reshape(product, tf.shape(f))


def _choose(is_accepted, end, start):
    """`end` where accepted, over the whole event."""
    events = end.shape.rank - is_accepted.shape.rank
    mask = tf.reshape(is_accepted, is_accepted.shape.as_list() + [1] * events)
    return tf.where(mask, end, start)
