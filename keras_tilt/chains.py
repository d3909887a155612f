"""Many chains in one graph, on one device or split over the replicas of a strategy.

    (state, settings, seed) -> state, and the numbers that the chains are judged by

States have the shape [rows, chains, ...]: a row is one tilt, with a step size of its
own. Every chain draws its random numbers by its own number, so that it is the same
chain wherever it runs. Only the numbers leave the device at every iteration.
"""

__all__ = [
    "MOST_CHAINS",
    "Chains",
    "Settings",
    "State",
    "check_start",
    "functional_names",
    "functionals",
    "is_standard_normal",
    "projection_directions",
]

import functools
import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_tilt.arguments import few
from keras_tilt.kernels import (
    DIVERGENCE,
    chain_seeds,
    kinetic_energy,
    transition_kernel,
    value_and_gradient,
)

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


class Chains:
    """The graphs that start chains and advance them by one iteration.

    Under the `tf.distribute` strategy in scope the chains are split over its replicas.

    Args:
        response: f, noise [rows, chains, ...] -> [rows, chains], nats.
        to_images: T, noise [n, ...] -> images [n, ...].
        base: distribution of the noise of one chain.
        kernel: a name that `transition_kernel` knows.
        rows: the numbers of the rows, by which their chains draw.
        mass: of the kernel "split", broadcastable to the noise of one chain.
        inverse_temperatures: None, or factors of f on a ladder of replicas of every
            chain, the first of them 1. States are then [ladder, rows, chains, ...].
    """

    def __init__(
        self,
        response,
        to_images,
        base,
        kernel,
        rows,
        mass=1.0,
        inverse_temperatures=None,
    ):
        self._rows = np.asarray(rows)
        self._response = response
        self._to_images = to_images
        self._base = base
        self._kernel_name = kernel
        self._mass = mass
        self._ladder = inverse_temperatures
        self._chain_by_chain = kernel == "split" and inverse_temperatures is None
        self._directions = tf.constant(
            projection_directions(base.event_shape), base.dtype
        )
        self._strategy = tf.distribute.get_strategy()
        self._look = self._on_replicas(self._look_on_replica)
        self._start = self._on_replicas(self._start_on_replica)
        self._advance = self._on_replicas(self._advance_on_replica)

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
        if self._ladder is not None:
            noise = tf.repeat(noise[None], len(self._ladder), axis=0)
        results = self._start(noise, *self._tensors(settings))
        return State(noise, results, settings), self._joined(self._look(noise))

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
        noise, results = state.noise, state.results
        if self._results_differ(settings, state.settings):
            results = self._start(noise, *self._tensors(settings))
        noise, results, numbers = self._advance(
            noise, results, seed, self._ids, *self._tensors(settings)
        )
        return State(noise, results, settings), self._joined(numbers)

    def _tensors(self, settings):
        """As tensors, so that another value is no other graph."""
        return (
            tf.constant(settings.step_size, self._base.dtype),
            tf.constant(settings.num_leapfrog_steps, tf.int32),
            tf.constant(settings.scale, self._base.dtype),
            tf.constant(bool(settings.is_adjusted)),
        )

    def _results_differ(self, one, other):
        """Whether the kernel knows something else of the same place."""
        if not np.array_equal(one.scale, other.scale):
            return True
        # The drift of a Langevin step is kept with its place.
        same_steps = np.array_equal(one.step_size, other.step_size)
        return self._kernel_name == "mala" and not same_steps

    def noise_of(self, state):
        """The states as one array, [rows, chains, ...]."""
        return self._joined(state.noise if self._ladder is None else state.noise[0])

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

    # On the replicas

    def _on_replicas(self, function):
        # Of a partial TensorFlow does not think that it is the one traced before, and
        # does not warn of retracing when there are several samplers in a process.
        return tf.function(functools.partial(self._run, function))

    def _run(self, function, *args):
        return self._strategy.run(function, args=args)

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

    # On one replica

    def _start_on_replica(self, noise, *settings):
        kernel = self._kernel(*settings)
        return kernel.bootstrap_results(noise)

    def _look_on_replica(self, noise):
        f, gradient = value_and_gradient(self._f, noise)
        pixels = list(range(f.shape.rank, noise.shape.rank))
        slope = tf.reduce_max(tf.abs(gradient), axis=pixels)
        # The maximum of numbers among which there is a NaN need not be NaN.
        slope += 0.0 * tf.reduce_sum(gradient, axis=pixels)
        numbers = {"f": f, "slope": slope}
        if self._ladder is not None:
            numbers = {name: values[0] for name, values in numbers.items()}
        return numbers

    def _advance_on_replica(self, noise, results, seed, ids, *settings):
        settings = Settings(*settings)
        kernel = self._kernel(*settings)
        if self._chain_by_chain:
            seed = chain_seeds(seed, ids)
        start, results_at_start = noise, results
        noise, results = kernel.one_step(start, results_at_start, seed=seed)
        numbers = self._numbers(noise, results, settings.scale)
        if self._ladder is None and self._kernel_name != "mala":
            log_prob = results_at_start.accepted_results.target_log_prob
            if self._kernel_name == "split":  # which is told f alone
                log_prob += self._base.log_prob(start)
            numbers["energy"] = kinetic_energy(results) - log_prob
        return noise, results, numbers

    def _kernel(self, step_size, num_leapfrog_steps, scale, is_adjusted):
        pixels = [1] * len(self._base.event_shape)
        return transition_kernel(
            self._kernel_name,
            lambda noise: scale[:, None] * self._f(noise),
            self._base,
            tf.reshape(tf.transpose(step_size), [*step_size.shape[::-1], 1, *pixels]),
            num_leapfrog_steps,
            self._mass,
            self._ladder,
            is_adjusted,
        )

    def _f(self, noise):
        """f of states [rows, chains, ...], or of a ladder of them."""
        if self._ladder is None:
            return self._response(noise)
        columns = tf.concat(tf.unstack(noise), axis=1)
        return tf.stack(tf.split(self._response(columns), len(self._ladder), axis=1))

    def _numbers(self, noise, results, scale):
        numbers = {}
        if self._ladder is not None:
            noise = noise[0]
            swaps = tf.cast(results.is_swap_accepted_adjacent, noise.dtype)
            swaps = tf.where(results.is_swap_proposed_adjacent, swaps, np.nan)
            numbers["swap_accepted"] = _ladder_last(swaps)
            results = results.pre_swap_replica_results
        accept_prob = tf.exp(tf.minimum(results.log_accept_ratio, 0.0))
        is_finite = tf.math.is_finite(results.log_accept_ratio)
        is_divergent = ~(results.log_accept_ratio >= -DIVERGENCE)
        is_accepted = results.is_accepted
        if self._ladder is not None:
            accept_prob = _ladder_last(accept_prob)
            is_accepted, is_finite = is_accepted[0], tf.reduce_all(is_finite, axis=0)
            is_divergent = tf.reduce_any(is_divergent, axis=0)
        if self._chain_by_chain:
            f = results.accepted_results.target_log_prob / scale[:, None]
        else:
            # Anew, and not as log_prob - log base(z): that difference of two numbers of
            # the size of the image has its own rounding noise.
            f = self._response(noise)
        return numbers | {
            "f": f,
            "log_prob": scale[:, None] * f + self._base.log_prob(noise),
            "is_accepted": is_accepted,
            "is_finite": is_finite,
            "is_divergent": is_divergent,
            "accept_prob": accept_prob,
            **functionals(noise, self._images(noise), self._base, self._directions),
        }

    def _images(self, noise):
        """T of noise [rows, chains, ...]."""
        flat = self._to_images(tf.reshape(noise, [-1, *noise.shape[2:]]))
        return tf.reshape(flat, [*noise.shape[:2], *flat.shape[1:]])


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
