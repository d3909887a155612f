"""Scalars of a state by which chains are compared: f can look settled while x drifts.

    log q           log base(z): log q in noise coordinates, nats
    image norm      root mean square of the pixels of x = T(z)
    low frequency   means of x times cosines over rows and columns, 0,0 the mean
    projection      of z on fixed random directions of length 1
    worst pixel     the pixel of x whose chains differ the most

The first four are computed at every iteration, the last one from the states kept.
"""

__all__ = [
    "MIN_DRAWS",
    "functional_names",
    "functionals",
    "meaning",
    "projection_directions",
    "slope",
    "worst_pixel",
]

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

MIN_DRAWS = 4  # the shortest chain that can be split in two halves with a variance

_NUM_PROJECTIONS = 8
_PROJECTION_SEED = 20150107
_PROJECTIONS = tuple(f"projection {i}" for i in range(_NUM_PROJECTIONS))
# Half periods per image, along rows and columns.
_LOW_FREQUENCIES = ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0))
_MEANINGS = {
    "f": "the response of the unit",
    "log q": "how probable the noise is under the reference",
    "image norm": "the root mean square of the pixels",
    "worst pixel": "the pixel whose chains differ most",
    "low frequency 0,0": "the mean of the pixels",
    "low frequency 0,1": "the left of the image against the right",
    "low frequency 1,0": "the top of the image against the bottom",
    "low frequency 1,1": "one diagonal of the image against the other",
    "low frequency 0,2": "the left and right of the image against its middle",
    "low frequency 2,0": "the top and bottom of the image against its middle",
}
_BLOCK = 2**24  # pixels read at a time


def functional_names(event_shape: Sequence[int]) -> tuple[str, ...]:
    """Return the names of the `functionals` of images of a shape, in order."""
    low = (f"low frequency {i},{j}" for i, j in _low_frequencies(event_shape))
    return ("log q", "image norm", *low, *_PROJECTIONS)


def meaning(name: str) -> str:
    """Return what a scalar is, in words, by its name."""
    return _MEANINGS.get(name, "a fixed random direction of the noise")


def functionals(
    noise: tf.Tensor, images: tf.Tensor, base: tfd.Distribution, directions: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Return the scalars by which chains are compared besides f: see the module.

    Args:
        noise: z, [tilts, chains, ...].
        images: x, [tilts, chains, ...].
        base: distribution of the noise of one chain.
        directions: [pixels, 8], from `projection_directions`.

    Returns:
        functionals: dict, name -> [tilts, chains].
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


def projection_directions(event_shape: Sequence[int]) -> np.ndarray:
    """Return fixed random directions of length 1, [pixels, 8]."""
    draw = np.random.Generator(np.random.Philox(_PROJECTION_SEED)).standard_normal
    size = (math.prod(event_shape), _NUM_PROJECTIONS)
    directions = draw(size, dtype=np.float32)
    return directions / np.linalg.norm(directions, axis=0)


def worst_pixel(
    images: Sequence, num_superchains: int | None = None
) -> np.ndarray | None:
    """Return the pixel whose chains differ most, by the plain R-hat of split chains.

        R-hat^2 - 1 = variance of the means of the halves / mean variance within

    up to terms of one over the number of draws; or by the plain nested R-hat,

        nested^2 - 1 = variance of the means of superchains / mean variance within one

    Args:
        images: [draws, chains, ...], sliced along the draws block by block, so that
            images computed on access are never all in memory.
        num_superchains: as in `diagnose`.

    Returns:
        pixel: [draws, chains], the values of that pixel; None for fewer than four
            draws, one chain, or pixels that all stay as they are.
    """
    num_draws, num_chains, *event = np.shape(images)
    half = num_draws // 2
    if num_draws < MIN_DRAWS or num_chains < 2:
        return None
    size = max(1, _BLOCK // max(1, num_chains * math.prod(event)))
    starts, length = [0, num_draws - half], half
    if num_superchains is not None:
        starts, length = [0], num_draws
    moments = [_moments(images, size, range(i, i + length)) for i in starts]
    means, squares = (np.concatenate(parts) for parts in zip(*moments, strict=True))
    within = np.mean(squares, axis=0) / (length - 1)
    if num_superchains is not None:
        groups = means.reshape(num_superchains, -1, *event)
        means = groups.mean(axis=1)
        within += np.var(groups, axis=1, ddof=min(1, groups.shape[1] - 1)).mean(axis=0)
    between = np.var(means, axis=0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(between > 0, between / within, 0.0)
    if not np.any(between > 0):
        return None
    index = np.unravel_index(np.argmax(ratio), ratio.shape)
    blocks = _blocks(images, size, range(num_draws))
    return np.concatenate(
        [block[(slice(None), slice(None), *index)] for block in blocks]
    )


def _blocks(images, size, draws):
    """The images of a range of draws, some of them at a time."""
    for start in range(draws.start, draws.stop, size):
        yield np.asarray(images[start : min(start + size, draws.stop)])


def _moments(images, size, draws):
    """Mean and sum of squared deviations over a range of draws, [chains, ...]."""
    count, mean, squares = 0, 0.0, 0.0
    for block in _blocks(images, size, draws):
        new = np.mean(block, axis=0, dtype=np.float64)
        total = count + len(block)
        squares += np.sum((block - new) ** 2, axis=0)
        squares += (new - mean) ** 2 * count * len(block) / total
        mean += (new - mean) * len(block) / total
        count = total
    return mean, squares


def slope(f: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
    """Return the largest |df/dz_i| of each chain, not finite where one of them is not.

    Args:
        f: [...], nats.
        gradient: [..., event], of f with respect to the noise z.
    """
    pixels = list(range(f.shape.rank, gradient.shape.rank))
    largest = tf.reduce_max(tf.abs(gradient), axis=pixels)
    # The maximum of numbers among which there is a NaN need not be NaN.
    return largest + 0.0 * tf.reduce_sum(gradient, axis=pixels)
