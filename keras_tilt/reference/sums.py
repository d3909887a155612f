"""The sum of independent references: learned images, and detail beside them.

    x = T_1(z_1) + ... + T_k(z_k),     z = (z_1, ..., z_k) ~ N(0, I)

A small generator leaves details out. Added to it, noise with the law of what it leaves
out, fitted by `fit_wavelets`, gives its images a texture like that of the others.

Source: ours; the model of a variational autoencoder has white noise for the detail.
"""

__all__ = ["sum_of"]

import math

import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_tilt.reference.distributions import (
    check_transport,
    frequency_bands,
    is_standard_normal,
    standard_normal,
)
from keras_tilt.reference.generators import Generator, generators_of
from keras_tilt.reference.transports import forward


def sum_of(*references: tfd.Distribution) -> tfd.Distribution:
    """Return the distribution of the sum of independent images of several references.

        T(z) = T_1(z_1) + ... + T_k(z_k)

    The noise of the sum is flat, that of the first reference first. As of `latent` it
    has a density, and images have none.

    Args:
        *references: two or more, of images of one shape, each a transport of N(0, I):
            `white_noise`, `spectral_noise`, `wavelet_noise`, `latent`, a `squash` or a
            sum. Their means add, too: give all but one of them the mean 0.

    Returns:
        reference: a `tfd.Distribution` with the event shape of one image; `squash` it
        if its images should not leave a range.

    Raises:
        TypeError: if one is not a transport.
        ValueError: for fewer than two references, images of several shapes, or a noise
            that is not N(0, I).

    Example:
        >>> from keras_tilt.reference.distributions import spectral_noise, white_noise
        >>> q = sum_of(spectral_noise([8, 8, 3], mean=127.5), white_noise([8, 8, 3]))
        >>> q.sample(2, seed=[0, 7]).shape, q.distribution.event_shape
        (TensorShape([2, 8, 8, 3]), TensorShape([384]))
    """
    _check(references)
    add = _Sum(references)
    return tfd.TransformedDistribution(
        standard_normal(add.noise_shape),
        Generator(
            add,
            add.noise_shape,
            references[0].event_shape,
            sum(map(generators_of, references), []),
        ),
        name="sum",
    )


class _Sum:
    """Noise [n, numbers] -> the sum of the images of its parts."""

    def __init__(self, references):
        self._references = references
        self._sizes = [math.prod(one.distribution.event_shape) for one in references]

    @property
    def noise_shape(self) -> tuple[int]:
        """The shape of the noise of one image."""
        return (sum(self._sizes),)

    def __call__(self, noise: tf.Tensor) -> tf.Tensor:
        """Return images [n, ...]."""
        parts = tf.split(noise, self._sizes, axis=1)
        return tf.add_n(
            [
                forward(
                    one.bijector, tf.reshape(z, [-1, *one.distribution.event_shape])
                )
                for one, z in zip(self._references, parts, strict=True)
            ]
        )

    def frequency_bands(self) -> np.ndarray | None:
        """Return the bands of all parts, or one of a part that has none.

        None if no part has any.
        """
        found = [frequency_bands(one) for one in self._references]
        if all(bands is None for bands in found):
            return None
        parts, first = [], 0
        for bands, size in zip(found, self._sizes, strict=True):
            of_part = np.zeros(size, np.int32) if bands is None else bands.ravel()
            parts.append(first + of_part)
            first += of_part.max() + 1
        return np.concatenate(parts).astype(np.int32)


def _check(references):
    if len(references) < 2:
        raise ValueError(
            f"`references` must be two or more. Received: {len(references)}. Pass "
            "each as an argument: sum_of(one, another)."
        )
    for one in references:
        check_transport(one)
        if not is_standard_normal(one.distribution):
            raise ValueError(
                "`references` must be transports of noise N(0, I). Received: "
                f"{one.name!r}, of {one.distribution.name!r}. Pass for example "
                "spectral_noise(shape)."
            )
    shapes = [tuple(one.event_shape) for one in references]
    if len({*shapes}) > 1:
        raise ValueError(
            f"`references` must be of images of one shape. Received: {shapes}. Make "
            "all of them for the same images."
        )
