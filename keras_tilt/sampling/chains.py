"""Many chains in one graph, on one device or split over the replicas of a strategy.

    (state, settings, seed) -> state, and the numbers that the chains are judged by

States have the shape [rows, chains, ...]: a row is one tilt, with a step size of its
own. Every chain draws its random numbers by its own number, so that it is the same
chain wherever it runs. Only the numbers leave the device at every iteration.
"""

__all__ = [
    "MOST_CHAINS",
    "ChainGraphs",
    "Chains",
    "Settings",
    "State",
    "check_start",
    "functional_names",
    "functionals",
    "is_standard_normal",
    "projection_directions",
]

import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_tilt.sampling.kernels import (
    DIVERGENCE,
    Response,
    SplitHamiltonianMonteCarlo,
    chain_seeds,
    kinetic_energy,
    transition_kernel,
)
from keras_tilt.validation import few

MOST_CHAINS = 2**16  # of a row: chain j of row i has the number i * MOST_CHAINS + j

_NUM_PROJECTIONS = 8
_PROJECTION_SEED = 20150107
_PROJECTIONS = tuple(f"projection {i}" for i in range(_NUM_PROJECTIONS))
# Half periods per image, along rows and columns.
_LOW_FREQUENCIES = ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0))


class Settings(NamedTuple):
    """What may change from one iteration to the next.

    Attributes:
        step_size: [rows], or on a ladder [rows, ladder], in units of noise.
        num_leapfrog_steps: a whole number.
        scale: [rows], factor of f.
        is_adjusted: whether the Metropolis test is made, with the kernel "split".
    """

    step_size: np.ndarray
    num_leapfrog_steps: int
    scale: np.ndarray
    is_adjusted: bool = True


class State(NamedTuple):
    """Where the chains are, what the kernel knows of these places, and under what."""

    noise: Any
    results: Any
    settings: Settings


class ChainGraphs:
    """The graphs that start chains and advance them by one iteration.

    They know nothing of a single run: several runs, also in several threads, may share
    them. Where the unit is an argument of the graph, so may runs of several units.

    Under the `tf.distribute` strategy in scope the chains are split over its replicas.

    Args:
        response: f, (noise [rows, chains, ...], *parameters) -> [rows, chains], nats.
        to_images: T, noise [n, ...] -> images [n, ...].
        base: distribution of the noise of one chain.
        kernel: a name that `transition_kernel` knows.
        inverse_temperatures: None, or factors of f on a ladder of replicas of every
            chain, the first of them 1. States are then [ladder, rows, chains, ...].
        autograph: as in `keras_tilt.sampling.kernels.Response`.
    """

    def __init__(
        self,
        response,
        to_images,
        base,
        kernel,
        inverse_temperatures=None,
        autograph=True,
    ):
        self.kernel_name = kernel
        self.base = base
        self.ladder = inverse_temperatures
        self.strategy = tf.distribute.get_strategy()
        self._f = Response(self._on_ladder(response), autograph)
        self._response = response
        self._to_images = to_images
        self._chain_by_chain = kernel == "split" and inverse_temperatures is None
        self._directions = tf.constant(
            projection_directions(base.event_shape), base.dtype
        )
        self._start = tf.function(self._run_start, autograph=autograph)
        self._advance = tf.function(self._run_advance, autograph=autograph)

    # On the host

    def start(self, noise, ids, parameters, mass, settings):
        """What the kernel knows of a place, and f and slope there.

        Args:
            noise: [rows, chains, ...], on a ladder [ladder, rows, chains, ...].
            ids: [rows, chains] int32, by which the chains draw.
            parameters: tuple of tensors, of f.
            mass: tensor.
            settings: `Settings` of tensors.

        Returns:
            results: of the kernel.
            numbers: dict of [rows, chains].
        """
        if not self._chain_by_chain:
            return self._start(noise, parameters, settings)
        # A trajectory of length zero ends where it starts, and knows f there. A graph
        # of its own would hold the network a second time, and to prepare it for running
        # takes about as long as to trace it.
        unknown = self.strategy.run(self._unknown_on_replica, args=(noise,))
        still = Settings(
            tf.zeros_like(settings.step_size),
            tf.constant(1),
            tf.ones_like(settings.scale),
            settings.is_adjusted,
        )
        _, results, _ = self.advance(
            noise, unknown, tf.constant([0, 0]), ids, parameters, mass, still
        )
        there = results.proposed_results
        return self.strategy.run(self._known_on_replica, args=(noise, there, settings))

    def advance(self, noise, results, seed, ids, parameters, mass, settings):
        """One iteration.

        Args:
            noise: as in `start`, as all that follow but two.
            results: of the kernel at this place, under these settings.
            seed: [2] int32.
            ids: see there.
            parameters: see there.
            mass: see there.
            settings: see there.

        Returns:
            noise: like `noise`.
            results: of the kernel there.
            numbers: dict of [rows, chains].
        """
        return self._advance(noise, results, seed, ids, parameters, mass, settings)

    def _run_start(self, *args):
        return self.strategy.run(self._start_on_replica, args=args)

    def _run_advance(self, *args):
        return self.strategy.run(self._advance_on_replica, args=args)

    # On one replica

    def _start_on_replica(self, noise, parameters, settings):
        response = self._f.at(parameters)
        results = self._kernel(response, 1.0, *settings).bootstrap_results(noise)
        f, gradient = response.value_and_gradient(noise)
        numbers = {"f": f, "slope": _slope(f, gradient)}
        if self.ladder is not None:
            numbers = {name: values[0] for name, values in numbers.items()}
        return results, numbers

    def _unknown_on_replica(self, noise):
        kernel = SplitHamiltonianMonteCarlo(self._f, 0.0, 1)
        f = tf.zeros(noise.shape[:2], noise.dtype)
        return kernel.results_of(noise, f, tf.zeros_like(noise))

    def _known_on_replica(self, noise, there, settings):
        f, (gradient,) = there.target_log_prob, there.grads_target_log_prob
        scale = settings.scale[:, None]
        of_noise = tf.reshape(scale, [-1, *[1] * (noise.shape.rank - 1)])
        kernel = self._kernel(self._f, 1.0, *settings)
        results = kernel.results_of(noise, scale * f, of_noise * gradient)
        return results, {"f": f, "slope": _slope(f, gradient)}

    def _advance_on_replica(
        self, noise, results, seed, ids, parameters, mass, settings
    ):
        kernel = self._kernel(self._f.at(parameters), mass, *settings)
        if self._chain_by_chain:
            seed = chain_seeds(seed, ids)
        start, results_at_start = noise, results
        noise, results = kernel.one_step(start, results_at_start, seed=seed)
        numbers = self._numbers(noise, results, parameters, settings.scale)
        if self.ladder is None and self.kernel_name != "mala":
            log_prob = results_at_start.accepted_results.target_log_prob
            if self.kernel_name == "split":  # which is told f alone
                log_prob += self.base.log_prob(start)
            numbers["energy"] = kinetic_energy(results) - log_prob
        return noise, results, numbers

    def _kernel(self, response, mass, step_size, num_steps, scale, is_adjusted):
        pixels = [1] * len(self.base.event_shape)
        return transition_kernel(
            self.kernel_name,
            response.times(scale[:, None]),
            self.base,
            tf.reshape(tf.transpose(step_size), [*step_size.shape[::-1], 1, *pixels]),
            num_steps,
            mass,
            self.ladder,
            is_adjusted,
        )

    def _on_ladder(self, response):
        """f of states [ladder, rows, chains, ...], if there is a ladder."""
        if self.ladder is None:
            return response

        def of_all(noise, *parameters):
            columns = tf.concat(tf.unstack(noise), axis=1)
            f = response(columns, *parameters)
            return tf.stack(tf.split(f, len(self.ladder), axis=1))

        return of_all

    def _numbers(self, noise, results, parameters, scale):
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
        if self._chain_by_chain:
            f = results.accepted_results.target_log_prob / scale[:, None]
        else:
            # Anew, and not as log_prob - log base(z): that difference of two numbers of
            # the size of the image has its own rounding noise.
            f = self._response(noise, *parameters)
        return numbers | {
            "f": f,
            "log_prob": scale[:, None] * f + self.base.log_prob(noise),
            "is_accepted": is_accepted,
            "is_finite": is_finite,
            "is_divergent": is_divergent,
            "accept_prob": accept_prob,
            **functionals(noise, self._images(noise), self.base, self._directions),
        }

    def _images(self, noise):
        """T of noise [rows, chains, ...]."""
        flat = self._to_images(tf.reshape(noise, [-1, *noise.shape[2:]]))
        return tf.reshape(flat, [*noise.shape[:2], *flat.shape[1:]])


class Chains:
    """The chains of one run: their graphs, and what goes into them.

    Args:
        graphs: `ChainGraphs`.
        rows: the numbers of the rows, by which their chains draw.
        parameters: tuple of arrays, of the response.
        mass: of the kernel "split", broadcastable to the noise of one chain.
    """

    def __init__(self, graphs, rows, parameters=(), mass=1.0):
        self._graphs, self._strategy = graphs, graphs.strategy
        self._rows = np.asarray(rows)
        self._parameters = tuple(map(tf.constant, parameters))
        self._mass = tf.constant(mass, graphs.base.dtype)

    # On the host

    @property
    def num_replicas(self):
        """Of the strategy."""
        return self._strategy.num_replicas_in_sync

    def start(self, noise, settings):
        """Chains at given places.

        Args:
            noise: [rows, chains, ...], array.
            settings: `Settings`.

        Returns:
            state: a `State`.
            numbers: dict of arrays [rows, chains]: f in nats, and slope, the largest
                |df/dz_i|, which is not finite where one of them is not.
        """
        ids = MOST_CHAINS * self._rows[:, None] + np.arange(noise.shape[1])
        self._ids = self._split(ids.astype(np.int32))
        noise = self._split(noise)
        if self._graphs.ladder is not None:
            noise = tf.repeat(noise[None], len(self._graphs.ladder), axis=0)
        results, numbers = self._graphs.start(
            noise, self._ids, self._parameters, self._mass, self._tensors(settings)
        )
        return State(noise, results, settings), self._joined(numbers)

    def advance(self, state, settings, seed):
        """One iteration.

        Args:
            state: a `State`.
            settings: `Settings`, not necessarily those of the state.
            seed: [2].

        Returns:
            state: a `State`.
            numbers: dict of arrays [rows, chains]: f and log_prob in nats, is_accepted,
                is_finite and is_divergent (the energy of the proposal), accept_prob,
                the functionals, and energy, at the start of the trajectory, of kernels
                with a momentum. On a ladder they are those of its first step, without
                the energy, except for accept_prob [rows, chains, ladder] and
                swap_accepted [rows, chains, ladder - 1], which is NaN where no swap was
                proposed.
        """
        noise, results, tensors = state.noise, state.results, self._tensors(settings)
        of_run = self._ids, self._parameters, self._mass, tensors
        if self._results_differ(settings, state.settings):
            results, _ = self._graphs.start(noise, *of_run)
        noise, results, numbers = self._graphs.advance(noise, results, seed, *of_run)
        return State(noise, results, settings), self._joined(numbers)

    def _tensors(self, settings):
        """As tensors, so that a new value does not retrace."""
        dtype = self._graphs.base.dtype
        return Settings(
            tf.constant(settings.step_size, dtype),
            tf.constant(settings.num_leapfrog_steps, tf.int32),
            tf.constant(settings.scale, dtype),
            tf.constant(bool(settings.is_adjusted)),
        )

    def _results_differ(self, one, other):
        """Whether the kernel knows something else of the same place."""
        if not np.array_equal(one.scale, other.scale):
            return True
        # The drift of a Langevin step is kept with its place.
        same_steps = np.array_equal(one.step_size, other.step_size)
        return self._graphs.kernel_name == "mala" and not same_steps

    def noise_of(self, state):
        """The states as one array, [rows, chains, ...]."""
        on_ladder = self._graphs.ladder is not None
        return self._joined(state.noise[0] if on_ladder else state.noise)

    def pack(self, state):
        """The state as a list of arrays, replica by replica."""
        local = self._strategy.experimental_local_results
        places = tf.nest.flatten((state.noise, state.results))
        parts = [part.numpy() for whole in places for part in local(whole)]
        return [*parts, *(np.asarray(value) for value in state.settings)]

    def unpack(self, arrays, like):
        """The state that was packed, in the structure of another one."""
        count = len(Settings._fields)
        parts, settings = arrays[:-count], arrays[-count:]
        replicas = self.num_replicas
        parts = [parts[i : i + replicas] for i in range(0, len(parts), replicas)]
        places = [self._placed(part) for part in parts]
        places = tf.nest.pack_sequence_as((like.noise, like.results), places)
        return State(*places, Settings(*settings))

    # Of the replicas

    def _placed(self, parts):
        return self._strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(parts[context.replica_id_in_sync_group])
        )

    def _split(self, array):
        """An array [rows, chains, ...] with its chains spread over the replicas."""
        return self._placed(np.array_split(array, self.num_replicas, axis=1))

    def _joined(self, values):
        def join(value):
            parts = self._strategy.experimental_local_results(value)
            return np.concatenate([part.numpy() for part in parts], axis=1)

        return tf.nest.map_structure(join, values)


def _slope(f, gradient):
    """The largest |df/dz_i| of each chain, not finite where one of them is not."""
    pixels = list(range(f.shape.rank, gradient.shape.rank))
    slope = tf.reduce_max(tf.abs(gradient), axis=pixels)
    # The maximum of numbers among which there is a NaN need not be NaN.
    return slope + 0.0 * tf.reduce_sum(gradient, axis=pixels)


def _ladder_last(values):
    """[ladder, rows, chains] -> [rows, chains, ladder]."""
    return tf.transpose(values, [1, 2, 0])


def is_standard_normal(base):
    """Whether a distribution is N(0, I): by its density at the origin and elsewhere."""
    size = math.prod(base.event_shape)
    places = np.random.default_rng(0).standard_normal([3, size])
    places[0] = 0.0
    try:
        log_prob = base.log_prob(
            tf.constant(places.reshape([3, *base.event_shape]), base.dtype)
        )
    except (NotImplementedError, ValueError, tf.errors.OpError):
        return False
    exact = -np.sum(places**2 + np.log(2 * np.pi), axis=1) / 2
    return bool(np.allclose(log_prob, exact, rtol=1e-5, atol=1e-5))


def functional_names(event_shape):
    """The names of the `functionals` of images of one shape, in their order."""
    low = (f"low frequency {i},{j}" for i, j in _low_frequencies(event_shape))
    return ("log q", "image norm", *low, *_PROJECTIONS)


def functionals(noise, images, base, directions):
    """The scalars by which chains are compared besides f.

        log q           log base(z): log q in noise coordinates, nats
        image norm      root mean square of the pixels of x = T(z)
        low frequency   means of x times cosines over rows and columns, 0,0 the mean
        projection      of z on fixed random directions of length 1

    Args:
        noise: z, [rows, chains, ...].
        images: x, [rows, chains, ...].
        base: distribution of the noise of one chain.
        directions: [pixels, 8], from `projection_directions`.

    Returns:
        functionals: dict, name -> [rows, chains].
    """
    batch, event = images.shape[:2], images.shape[2:]
    flat_noise = tf.reshape(noise, [*batch, -1])
    flat_images = tf.reshape(images, [*batch, -1])
    with tf.init_scope():  # held beside the graph, not written into it
        cosines = tf.constant(_cosines(event), images.dtype)
    values = [
        base.log_prob(noise),
        tf.sqrt(tf.reduce_mean(flat_images**2, axis=-1)),
        *tf.unstack(tf.tensordot(flat_images, cosines, axes=1), axis=-1),
        *tf.unstack(tf.tensordot(flat_noise, directions, axes=1), axis=-1),
    ]
    return dict(zip(functional_names(event), values, strict=True))


def _low_frequencies(event_shape):
    """Those that an image of the shape has: none along an axis of one pixel."""
    height, width, _ = _as_image(event_shape)
    return [(i, j) for i, j in _LOW_FREQUENCIES if i < height and j < width]


def _as_image(event_shape):
    """Height, width and channels; what is no image is a column of pixels."""
    sizes = [*event_shape, 1, 1, 1]
    return sizes[0], sizes[1], math.prod(sizes[2:])


def _cosines(event_shape):
    """Cosines of low frequency over the pixels of an image, [pixels, frequencies]."""
    height, width, channels = _as_image(event_shape)
    rows, columns = (
        np.cos(np.pi * np.outer(np.arange(3), np.arange(size) + 0.5) / size)
        for size in (height, width)
    )
    waves = [
        np.repeat(np.outer(rows[i], columns[j]).ravel(), channels)
        for i, j in _low_frequencies(event_shape)
    ]
    return np.stack(waves, axis=1) / (height * width * channels)


def projection_directions(event_shape):
    """Fixed random directions of length 1, [pixels, 8]."""
    draw = np.random.Generator(np.random.Philox(_PROJECTION_SEED)).standard_normal
    size = (math.prod(event_shape), _NUM_PROJECTIONS)
    directions = draw(size, dtype=np.float32)
    return directions / np.linalg.norm(directions, axis=0)


def check_start(tilts, start):
    """f and its gradient are finite, and there is a gradient, at every chain."""
    for tilt, f, slope in zip(tilts, start["f"], start["slope"], strict=True):
        name = getattr(tilt.unit, "name", "the unit")
        bad = np.flatnonzero(~(np.isfinite(f) & np.isfinite(slope)))
        if bad.size:
            raise ValueError(
                "f(x) and its gradient must be finite where a chain starts. Received: "
                f"{bad.size} of {f.size} chains where those of {name} are not, the "
                f"first of them chain {bad[0]} with f = {f[bad[0]]}. Check the unit "
                "for NaN, or pass another `initial_noise`."
            )
        if np.ptp(f) > 0 and not slope.any():
            raise ValueError(
                "The unit must have a gradient with respect to the image. Received: "
                f"{name}, whose gradient is zero in all {f.size} chains although f is "
                f"not the same, {few(f)}. Look for argmax, rounding, integers or "
                "NumPy in the network or in `preprocess`; read a layer before them."
            )
