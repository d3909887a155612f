"""Many chains in one graph, on one device or split over the replicas of a strategy.

    (state, parameters, seed) -> state, and the numbers that the chains are judged by

States have the shape [tilts, chains, ...]; every tilt has a step size of its own. Every
chain draws its random numbers by its own id, so that it is the same chain wherever it
runs. Only the numbers leave the device at every iteration.
"""

__all__ = [
    "MOST_CHAINS",
    "ChainGraphs",
    "Chains",
    "KernelParameters",
    "State",
]

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike
from tensorflow_probability import distributions as tfd

from keras_tilt.sampling.kernels import (
    DIVERGENCE,
    Kernel,
    SplitHamiltonianMonteCarlo,
    chain_seeds,
    kinetic_energy,
    transition_kernel,
)
from keras_tilt.sampling.response import Response
from keras_tilt.sampling.verdict import functionals as scalars

MOST_CHAINS = 2**16  # of a tilt: chain j of tilt i has the id i * MOST_CHAINS + j


class KernelParameters(NamedTuple):
    """The parameters of the kernel, which may change from iteration to iteration.

    Attributes:
        step_size: [tilts], or on a ladder [tilts, ladder], in units of noise.
        num_leapfrog_steps: a whole number.
        scale: [tilts], factor of f.
        is_adjusted: whether there is a Metropolis test, of the kernel "split".
        momentum_persistence: share of the momentum that is kept, of "split".
    """

    step_size: np.ndarray
    num_leapfrog_steps: int
    scale: np.ndarray
    is_adjusted: bool = True
    momentum_persistence: float = 0.0


class State(NamedTuple):
    """Where the chains are, the kernel's results there, and its parameters."""

    noise: Any
    results: Any  # None if f is another since
    parameters: KernelParameters


class ChainGraphs:
    """The graphs that start chains and advance them by one iteration.

    They hold nothing of a single run: several runs, also in several threads, may share
    them. Where the unit is an argument of the graph, runs of several units may, too.

    Under the `tf.distribute` strategy in scope the chains are split over its replicas.

    Args:
        response: f, (noise [tilts, chains, ...], *read_outs) -> [tilts, chains], nats.
        to_images: T, noise [n, ...] -> images [n, ...].
        base: distribution of the noise of one chain.
        kernel: name, as of `transition_kernel`.
        inverse_temperatures: None, or factors of f on a ladder of replicas of every
            chain, the first of them 1. States are then [ladder, tilts, chains, ...].
        autograph: as in `keras_tilt.sampling.response.Response`.
    """

    def __init__(
        self,
        response: Callable[..., tf.Tensor],
        to_images: Callable[[tf.Tensor], tf.Tensor],
        base: tfd.Distribution,
        kernel: Kernel,
        inverse_temperatures: Sequence[float] | None = None,
        autograph: bool = True,
    ) -> None:
        self.kernel_name = kernel
        self.base = base
        self.ladder = inverse_temperatures
        self.strategy = tf.distribute.get_strategy()
        self._f = Response(self._on_ladder(response), autograph)
        self._response = tf.function(response, autograph=autograph)
        self._to_images = tf.function(to_images, autograph=autograph)
        # Then the kernel's results hold f and its gradient; chains have their seeds.
        self.knows_f = kernel == "split" and inverse_temperatures is None
        self._directions = tf.constant(
            scalars.projection_directions(base.event_shape), base.dtype
        )
        self._known = self._on_replicas(self._known_on_replica)
        self._rescaled = tf.function(self._known, autograph=False)
        self._unknown = self._on_replicas(self._unknown_on_replica)
        if self.strategy.num_replicas_in_sync > 1:  # where nothing should run eagerly
            self._known = self._rescaled
            self._unknown = tf.function(self._unknown, autograph=False)
        start, advance = map(
            self._on_replicas, (self._start_on_replica, self._advance_on_replica)
        )
        self._start = tf.function(start, autograph=False)
        self._advance = tf.function(advance, autograph=False)

    # On the host

    def start(
        self,
        noise: tf.Tensor,
        ids: tf.Tensor,
        read_outs: tuple[tf.Tensor, ...],
        mass: tf.Tensor,
        parameters: KernelParameters,
    ) -> tuple[Any, dict[str, tf.Tensor]]:
        """Return the kernel's results at a state, and f and its slope there.

        Args:
            noise: [tilts, chains, ...], on a ladder [ladder, tilts, chains, ...].
            ids: [tilts, chains] int32, by which the chains draw.
            read_outs: tuple of tensors, further arguments of f.
            mass: tensor.
            parameters: `KernelParameters` of tensors.

        Returns:
            results: of the kernel.
            numbers: dict of [tilts, chains].
        """
        if not self.knows_f:
            return self._start(noise, read_outs, parameters)
        # A trajectory of length zero ends where it starts, and returns f there. A graph
        # of its own would hold the network a second time, and preparing it to run takes
        # about as long as tracing it.
        unknown = self._unknown(noise)
        still = parameters._replace(
            step_size=tf.zeros_like(parameters.step_size),
            num_leapfrog_steps=tf.constant(1),
            scale=tf.ones_like(parameters.scale),
        )
        run = tf.constant([0, 0]), ids, read_outs, mass, still
        _, results, _ = self.advance(noise, unknown, *run)
        there = results.proposed_results
        return self._known(noise, there, parameters.scale, parameters)

    def rescaled(
        self, noise: tf.Tensor, results: Any, factor: tf.Tensor, parameters: Any
    ) -> Any:
        """Return the kernel's results at a state, f times a factor [tilts].

        Only where the results hold f; the parameters are those with the new scale.
        """
        here = results.accepted_results
        return self._rescaled(noise, here, factor, parameters)[0]

    def advance(
        self,
        noise: tf.Tensor,
        results: Any,
        seed: tf.Tensor,
        ids: tf.Tensor,
        read_outs: tuple[tf.Tensor, ...],
        mass: tf.Tensor,
        parameters: KernelParameters,
    ) -> tuple[tf.Tensor, Any, dict[str, tf.Tensor]]:
        """Advance by one iteration.

        Args:
            noise: as in `start`.
            results: of the kernel at this noise, with these parameters.
            seed: [2] int32.
            ids: as in `start`.
            read_outs: as in `start`.
            mass: as in `start`.
            parameters: as in `start`.

        Returns:
            noise: like `noise`.
            results: of the kernel at the new noise.
            numbers: dict of [tilts, chains].
        """
        return self._advance(noise, results, seed, ids, read_outs, mass, parameters)

    def _on_replicas(self, function):
        """A function of values of all replicas, which runs on each."""
        return lambda *args: self.strategy.run(function, args=args)

    # On one replica

    def _start_on_replica(self, noise, read_outs, parameters):
        response = self._f.at(read_outs)
        results = self._kernel(response, 1.0, *parameters).bootstrap_results(noise)
        f, gradient = response.value_and_gradient(noise)
        numbers = {"f": f, "slope": scalars.slope(f, gradient)}
        if self.ladder is not None:
            numbers = {name: values[0] for name, values in numbers.items()}
        return results, numbers

    def _unknown_on_replica(self, noise):
        kernel = SplitHamiltonianMonteCarlo(self._f, 0.0, 1)
        f = tf.zeros(noise.shape[:2], noise.dtype)
        return kernel.results_of(noise, f, tf.zeros_like(noise))

    def _known_on_replica(self, noise, place, factor, parameters):
        f, (gradient,) = place.target_log_prob, place.grads_target_log_prob
        of_noise = tf.reshape(factor, [-1, *[1] * (noise.shape.rank - 1)])
        kernel = self._kernel(self._f, 1.0, *parameters)
        results = kernel.results_of(noise, factor[:, None] * f, of_noise * gradient)
        return results, {"f": f, "slope": scalars.slope(f, gradient)}

    def _advance_on_replica(
        self, noise, results, seed, ids, read_outs, mass, parameters
    ):
        kernel = self._kernel(self._f.at(read_outs), mass, *parameters)
        if self.knows_f:
            seed = chain_seeds(seed, ids)
        start, results_at_start = noise, results
        noise, results = kernel.one_step(start, results_at_start, seed=seed)
        numbers = self._numbers(noise, results, read_outs, parameters.scale)
        if self.ladder is None and self.kernel_name != "mala":
            log_prob = results_at_start.accepted_results.target_log_prob
            if self.kernel_name == "split":  # which is given f only
                log_prob += self.base.log_prob(start)
            numbers["energy"] = kinetic_energy(results) - log_prob
        return noise, results, numbers

    def _kernel(self, response, mass, step_size, num_steps, scale, *of_split):
        pixels = [1] * len(self.base.event_shape)
        return transition_kernel(
            self.kernel_name,
            response.times(scale[:, None]),
            self.base,
            tf.reshape(tf.transpose(step_size), [*step_size.shape[::-1], 1, *pixels]),
            num_steps,
            mass,
            self.ladder,
            *of_split,
        )

    def _on_ladder(self, response):
        """f of states [ladder, tilts, chains, ...], if there is a ladder."""
        if self.ladder is None:
            return response

        def of_all(noise, *read_outs):
            columns = tf.concat(tf.unstack(noise), axis=1)
            f = response(columns, *read_outs)
            return tf.stack(tf.split(f, len(self.ladder), axis=1))

        return of_all

    def _numbers(self, noise, results, read_outs, scale):
        numbers = {}
        if self.ladder is not None:
            noise = noise[0]
            swaps = tf.cast(results.is_swap_accepted_adjacent, noise.dtype)
            swaps = tf.where(results.is_swap_proposed_adjacent, swaps, np.nan)
            numbers["swap_accepted"] = _ladder_last(swaps)
            results = results.pre_swap_replica_results
        accept_prob = tf.exp(tf.minimum(results.log_accept_ratio, 0.0))
        is_finite = tf.math.is_finite(results.log_accept_ratio)
        is_divergent = ~(results.log_accept_ratio >= -DIVERGENCE)
        is_accepted = results.is_accepted
        if self.ladder is not None:
            accept_prob = _ladder_last(accept_prob)
            is_accepted, is_finite = is_accepted[0], tf.reduce_all(is_finite, axis=0)
            is_divergent = tf.reduce_any(is_divergent, axis=0)
        if self.knows_f:
            f = results.accepted_results.target_log_prob / scale[:, None]
        else:
            # Anew, and not as log_prob - log base(z): that difference of two numbers of
            # the size of the image has its own rounding noise.
            f = self._response(noise, *read_outs)
        images = self._images(noise)
        return numbers | {
            "f": f,
            "log_prob": scale[:, None] * f + self.base.log_prob(noise),
            "is_accepted": is_accepted,
            "is_finite": is_finite,
            "is_divergent": is_divergent,
            "accept_prob": accept_prob,
            **scalars.functionals(noise, images, self.base, self._directions),
        }

    def _images(self, noise):
        """T of noise [tilts, chains, ...]."""
        flat = self._to_images(tf.reshape(noise, [-1, *noise.shape[2:]]))
        return tf.reshape(flat, [*noise.shape[:2], *flat.shape[1:]])


class Chains:
    """The chains of one run: their graphs, and what goes into them.

    Args:
        graphs: `ChainGraphs`.
        places: of the tilts in their list, by which their chains draw.
        read_outs: tuple of arrays, further arguments of the response.
        mass: of the kernel "split", broadcastable to the noise of one chain.
    """

    def __init__(
        self,
        graphs: ChainGraphs,
        places: ArrayLike,
        read_outs: Sequence[ArrayLike] = (),
        mass: ArrayLike = 1.0,
    ) -> None:
        self._graphs, self._strategy = graphs, graphs.strategy
        self._places = np.asarray(places)
        self._read_outs = tuple(map(tf.constant, read_outs))
        self._mass = tf.constant(mass, graphs.base.dtype)

    @property
    def num_replicas(self) -> int:
        """Number of replicas of the strategy."""
        return self._strategy.num_replicas_in_sync

    def start(
        self, noise: np.ndarray, parameters: KernelParameters
    ) -> tuple[State, dict[str, np.ndarray]]:
        """Start chains at given noise.

        Args:
            noise: [tilts, chains, ...], array.
            parameters: `KernelParameters`.

        Returns:
            state: a `State`.
            numbers: dict of arrays [tilts, chains]: f in nats, and slope, the largest
                |df/dz_i|, which is not finite if any of them is not.
        """
        ids = MOST_CHAINS * self._places[:, None] + np.arange(noise.shape[1])
        self._ids = self._split(ids.astype(np.int32))
        noise = self._split(noise)
        if self._graphs.ladder is not None:
            noise = tf.repeat(noise[None], len(self._graphs.ladder), axis=0)
        results, numbers = self._graphs.start(
            noise, self._ids, self._read_outs, self._mass, self._tensors(parameters)
        )
        return State(noise, results, parameters), self._joined(numbers)

    def advance(
        self, state: State, parameters: KernelParameters, seed: tf.Tensor
    ) -> tuple[State, dict[str, np.ndarray]]:
        """Advance by one iteration.

        Args:
            state: a `State`.
            parameters: `KernelParameters`, not necessarily those of the state.
            seed: [2].

        Returns:
            state: a `State`.
            numbers: dict of arrays [tilts, chains]: f and log_prob in nats,
                is_accepted, is_finite and is_divergent (the energy of the proposal),
                accept_prob, the functionals, and energy, at the start of the
                trajectory, of kernels with a momentum. On a ladder they are those of
                its first step, without the energy, except for accept_prob [tilts,
                chains, ladder] and swap_accepted [tilts, chains, ladder - 1], which is
                NaN where no swap was proposed.
        """
        noise, results, tensors = state.noise, state.results, self._tensors(parameters)
        of_run = self._ids, self._read_outs, self._mass, tensors
        if results is None or self._results_differ(parameters, state.parameters):
            results = self._results_at(noise, results, of_run, state.parameters)
        noise, results, numbers = self._graphs.advance(noise, results, seed, *of_run)
        return State(noise, results, parameters), self._joined(numbers)

    def _tensors(self, parameters):
        """As tensors, so that a new value does not retrace."""
        dtype = self._graphs.base.dtype
        return KernelParameters(
            tf.constant(parameters.step_size, dtype),
            tf.constant(parameters.num_leapfrog_steps, tf.int32),
            tf.constant(parameters.scale, dtype),
            tf.constant(bool(parameters.is_adjusted)),
            tf.constant(parameters.momentum_persistence, dtype),
        )

    def _results_at(self, noise, results, of_run, before):
        """The kernel's results for new parameters; f anew where it is not known."""
        if results is None or not (self._graphs.knows_f and np.all(before.scale)):
            return self._graphs.start(noise, *of_run)[0]
        factor = of_run[-1].scale / tf.constant(before.scale, of_run[-1].scale.dtype)
        return self._graphs.rescaled(noise, results, factor, of_run[-1])

    def _results_differ(self, one, other):
        """Whether the kernel has other results at the same noise."""
        if not np.array_equal(one.scale, other.scale):
            return True
        # The drift of a Langevin step is part of the results.
        same_steps = np.array_equal(one.step_size, other.step_size)
        return self._graphs.kernel_name == "mala" and not same_steps

    def noise_of(self, state: State) -> np.ndarray:
        """Return the noise of all chains as one array, [tilts, chains, ...]."""
        on_ladder = self._graphs.ladder is not None
        return self._joined(state.noise[0] if on_ladder else state.noise)

    def pack(self, state: State) -> list[np.ndarray]:
        """Return the state as a list of arrays, replica by replica."""
        local = self._strategy.experimental_local_results
        places = tf.nest.flatten((state.noise, state.results))
        parts = [part.numpy() for whole in places for part in local(whole)]
        return [*parts, *(np.asarray(value) for value in state.parameters)]

    def unpack(self, arrays: Sequence[Any], like: State) -> State:
        """Return the state that was packed, in the structure of another one."""
        count = len(KernelParameters._fields)
        parts, parameters = arrays[:-count], KernelParameters(*arrays[-count:])
        replicas = self.num_replicas
        places = [
            self._placed(parts[i : i + replicas])
            for i in range(0, len(parts), replicas)
        ]
        noise, results = tf.nest.pack_sequence_as((like.noise, like.results), places)
        return State(noise, results, parameters)

    # Of the replicas

    def _placed(self, parts):
        return self._strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(parts[context.replica_id_in_sync_group])
        )

    def _split(self, array):
        """An array [tilts, chains, ...] with its chains spread over the replicas."""
        return self._placed(np.array_split(array, self.num_replicas, axis=1))

    def _joined(self, values):
        def join(value):
            parts = self._strategy.experimental_local_results(value)
            return np.concatenate([part.numpy() for part in parts], axis=1)

        return tf.nest.map_structure(join, values)


def _ladder_last(values):
    """[ladder, tilts, chains] -> [tilts, chains, ladder]."""
    return tf.transpose(values, [1, 2, 0])
