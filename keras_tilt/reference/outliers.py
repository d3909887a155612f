"""Images unlike those of a data set: noise that is fitted to them, and shapes.

    q' = (1 - s) q + s u,    u: Gaussians, wavelets, shapes;  s: their share of a batch

A classifier that is trained generatively with draws of u among its images has log
densities that are low there: -1 as the label of a draw enters it in the normalizers
alone.

Source: Hendrycks, Mazeika and Dietterich 2019, "Deep anomaly detection with outlier
exposure", for training on outliers; its "blobs" for the shapes, which have more sizes.
"""

__all__ = ["KINDS", "outliers"]

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from keras_tilt.reference.distributions import spectral_noise
from keras_tilt.reference.heavy_tails import wavelet_noise
from keras_tilt.reference.image_batches import image_batches
from keras_tilt.reference.spectrum import fit_spectrum
from keras_tilt.reference.wavelets import fit_wavelets
from keras_tilt.validation import check_count, check_seed

KINDS = "gaussians", "wavelets", "shapes"

_BLUR = 1 / 64, 1 / 8  # of the shapes, of the longer side of an image
_HIGHEST = 1.5  # level of the shapes, standard deviations
_AT_ONCE = 2**24  # values that are drawn at once
_SLOPE = 2.0  # of their edges, per standard deviation


def outliers(
    images: ArrayLike | Iterable,
    count: int,
    seed: int,
    kinds: Sequence[str] = KINDS,
) -> np.ndarray:
    """Return images unlike the given ones, but of their size and range.

    "gaussians" have the spectrum of the images, "wavelets" the amplitudes and kurtosis
    of their Haar wavelets, and "shapes" have two random colours, gray every other time,
    one of them where smooth noise is above a level:

        x = ground + clip(1/2 + 2 (z - level), 0, 1) (colour - ground)

    with z Gaussian noise of unit variance, blurred by 1/64 to 1/8 of the longer side,
    and level in [0, 1.5]. All are clipped to the range of the images.

    Train with them: they go into the batches as images without label, -1.

    Args:
        images: [n, height, width, channels], or an iterable of such batches, such as a
            `tf.data.Dataset`, also of pairs (images, labels), that ends; a few thousand
            will do. They are kept in memory.
        count: number of images to return, at least one of each kind.
        seed: a whole number; equal seeds give equal images.
        kinds: which; by default all three.

    Returns:
        outliers: `[count, height, width, channels]` float32, equally many of each kind,
        one kind after the other; the last has the rest.

    Raises:
        ValueError: an unknown kind, too small a `count`, or images that no noise can be
            fitted to: see `fit_spectrum` and `fit_wavelets`.

    Example:
        >>> (images, _), _ = keras_tilt.data.embedded_mnist()
        >>> keras_tilt.outliers(images, 300, seed=0).shape
        (300, 28, 28, 1)

    Source: Hendrycks, Mazeika and Dietterich 2019.
    """
    _check(count, seed, kinds)
    images = np.concatenate(list(image_batches(images))).astype(np.float32)
    found = np.empty([count, *images.shape[1:]], np.float32)
    each = count // len(kinds)
    for i, kind in enumerate(kinds):
        last = (i + 1) * each if i < len(kinds) - 1 else count
        draw, first = _DRAWS[kind](images), i * each
        chunk = max(2, _AT_ONCE // images[0].size // 2 * 2)  # of shapes every other one
        for k, start in enumerate(range(first, last, chunk)):
            number = min(chunk, last - start)
            place = [seed, KINDS.index(kind) + k * len(KINDS)]
            found[start : start + number] = draw(number, place)
    return np.clip(found, images.min(), images.max(), out=found)


def _check(count, seed, kinds):
    check_seed(seed)
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown or not kinds or isinstance(kinds, str):
        raise ValueError(
            f"Expected `kinds` of {', '.join(map(repr, KINDS))}. Received: {kinds!r}. "
            "Leave it out for all."
        )
    check_count("count", count, len(kinds))


def _gaussians(images):
    noise = spectral_noise(images.shape[1:], spectrum=fit_spectrum(images))
    return lambda count, seed: noise.sample(count, seed=seed)


def _wavelets(images):
    haar = fit_wavelets(images, "haar", levels=_halvings(images.shape[1:3]))
    noise = wavelet_noise(images.shape[1:], wavelets=haar)
    return lambda count, seed: noise.sample(count, seed=seed)


def _halvings(sides):
    """How often both sides can be halved; at least once."""
    sides = np.gcd(*sides)
    return max(1, int(sides & -sides).bit_length() - 1)


def _shapes(images):
    shape, colours = images.shape[1:], (images.min(), images.max())
    return lambda count, seed: _drawn_shapes(shape, colours, count, seed)


def _drawn_shapes(shape, between, count, seed):
    height, width, channels = shape
    rng = np.random.default_rng(seed)
    squared = np.fft.fftfreq(height)[:, None] ** 2 + np.fft.fftfreq(width) ** 2
    blur = rng.uniform(*_BLUR, [count, 1, 1]) * max(height, width)
    white = np.fft.fft2(rng.normal(size=[count, height, width]))
    smooth = np.fft.ifft2(white * np.exp(-2 * (np.pi * blur) ** 2 * squared)).real
    smooth /= smooth.std((1, 2), keepdims=True)
    level = rng.uniform(0.0, _HIGHEST, [count, 1, 1])
    inside = np.clip(0.5 + _SLOPE * (smooth - level), 0, 1)[..., None]
    ground, colour = rng.uniform(*between, [2, count, 1, 1, channels])
    gray = np.arange(count) % 2 == 0
    ground[gray], colour[gray] = ground[gray, ..., :1], colour[gray, ..., :1]
    return ground + inside * (colour - ground)


_DRAWS = dict(zip(KINDS, (_gaussians, _wavelets, _shapes), strict=True))
