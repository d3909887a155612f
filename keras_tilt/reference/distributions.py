"""The reference q of the tilt, as a transport of white noise.

    x = T(z),   z ~ N(0, I)

Source: Dai, Lu and Wu (2015), where q = N(0, sigma^2 I). The others are ours. A network
is only trained on the pixel range: a strong tilt of `box`, or of any `squash`, cannot
leave it. `spectral_noise` has the correlations of natural images; for the law of a
generator network's images see `keras_tilt.reference.generators`.
"""

__all__ = [
    "box",
    "check_transport",
    "checked_parameter",
    "checked_shape",
    "frequency_bands",
    "is_standard_normal",
    "spectral_noise",
    "squash",
    "standard_normal",
    "white_noise",
]

import math
import numbers
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from keras_tilt.reference.photographs import colour_correlation
from keras_tilt.reference.spectrum import (
    Spectrum,
    check_left_out,
    power_law,
)
from keras_tilt.reference.transports import (
    Box,
    NormalToBox,
    NormalToSpectrum,
    Squashed,
    StudentToBox,
    is_chain,
)
from keras_tilt.validation import as_array


def white_noise(
    shape: Sequence[int], mean: ArrayLike = 0.0, stddev: ArrayLike = 1.0
) -> tfd.Distribution:
    """Return Gaussian white noise, the reference of the paper.

        T(z) = mean + stddev z,   q(x) = N(x; mean, stddev^2 I)

    Args:
        shape: shape of one image, such as [height, width, channels].
        mean: scalar or array that broadcasts to `shape`, in units of a pixel.
        stddev: positive scalar or array that broadcasts to `shape`, in the same unit.

    Returns:
        reference: a `tfd.TransformedDistribution` with event shape `shape`.

    Raises:
        ValueError: for a bad shape, a parameter that is not finite or does not
            broadcast to `shape`, or a `stddev` that is not positive.

    Example:
        >>> q = white_noise([28, 28, 1], mean=0.1, stddev=0.3)
        >>> tuple(q.sample(2, seed=[0, 7]).shape)
        (2, 28, 28, 1)
    """
    shape = checked_shape(shape)
    mean = checked_parameter("mean", mean, shape)
    stddev = _checked_positive("stddev", stddev, shape)
    transport = tfb.Shift(mean)(tfb.Scale(stddev))
    return tfd.TransformedDistribution(
        standard_normal(shape), transport, name="white_noise"
    )


def box(
    shape: Sequence[int], low: ArrayLike = 0.0, high: ArrayLike = 1.0
) -> tfd.Distribution:
    """Return the uniform density on a box of pixel values, which no sample leaves.

        T(z) = low + (high - low) Phi(z),   q(x) = 1 / prod(high - low) inside

    `log_prob` is the same finite number on the whole closed box, also where Phi
    saturates in float32, and -inf outside.

    Args:
        shape: shape of one image, such as [height, width, channels].
        low: scalar or array that broadcasts to `shape`, in units of a pixel.
        high: scalar or array that broadcasts to `shape`, above `low`.

    Returns:
        reference: a `tfd.TransformedDistribution` with event shape `shape`.

    Raises:
        ValueError: for a bad shape, a parameter that is not finite or does not
            broadcast to `shape`, or a `low` that is not below `high`.

    Example:
        >>> q = box([2, 2, 1], low=0.0, high=255.0)
        >>> corner = tf.fill([2, 2, 1], 255.0)
        >>> q.log_prob(corner).numpy() == q.log_prob(corner / 2).numpy()
        np.True_
    """
    shape = checked_shape(shape)
    low = checked_parameter("low", low, shape)
    high = checked_parameter("high", high, shape)
    _check_low_is_below_high(low, high)
    return Box(standard_normal(shape), NormalToBox(low, high), name="box")


def spectral_noise(
    shape: Sequence[int],
    mean: ArrayLike | None = None,
    stddev: float | None = None,
    exponent: float | None = None,
    colour_covariance: ArrayLike | None = None,
    spectrum: Spectrum | None = None,
    cutoff: float | None = None,
) -> tfd.Distribution:
    """Return a stationary Gaussian with the 1/f spectrum of natural images, or another.

        T(z) = mean + colours @ H(amplitude z)
        amplitude ~ exp(-(f / cutoff)^2 / 2) / f^exponent
        H(u) = (Re DFT2(u) - Im DFT2(u)) / sqrt(height width)

    Each coordinate of the noise z is one frequency of one decorrelated colour: H, the
    discrete Hartley transform, is real, symmetric, orthonormal and its own inverse. The
    Gaussian lives on the torus: opposite edges of an image are neighbours. At f = 0 the
    amplitude is that of the lowest other frequency. `stddev` or `colour_covariance`
    holds exactly, for every pixel. Three channels are correlated as red, green and blue
    are in photographs, unless `colour_covariance` or `spectrum` says otherwise.

    Args:
        shape: [height, width, channels] of one image.
        mean: scalar or array that broadcasts to `shape`, in units of a pixel; by
            default 0, or the mean of `spectrum`.
        stddev: positive scalar, of one pixel in every channel, in the same unit; by
            default 1.
        exponent: of the fall of the amplitude; by default 1, about that of photographs.
            0 is white noise.
        colour_covariance: [channels, channels], of one pixel, symmetric and positive
            definite, in units of pixel^2. Excludes `stddev`. stddev**2 * np.eye(3) is
            for three channels that are independent.
        spectrum: a `Spectrum`, such as `fit_spectrum(images)`. Excludes `stddev`,
            `exponent`, `colour_covariance` and `cutoff`.
        cutoff: positive scalar, cycles per pixel, above which details fade, as in a
            photograph that is not quite sharp; by default none do.

    Returns:
        reference: a `tfd.TransformedDistribution` with event shape `shape`.

    Raises:
        TypeError: if `spectrum` is not a `Spectrum`.
        ValueError: for a bad shape or one other than `spectrum.shape`, a parameter
            out of its range or of a wrong shape, or two that exclude each other.

    Example:
        >>> q = spectral_noise([32, 32, 3], mean=127.5, stddev=60.0)
        >>> tuple(q.sample(2, seed=[0, 7]).shape)
        (2, 32, 32, 3)

    Source: Field (1987), for 1/f; Bracewell (1983), "Discrete Hartley transform".
    """
    shape = checked_shape(shape)
    if spectrum is None and colour_covariance is None and shape[2:] == (3,):
        spectrum = _in_colours_of_photographs(shape, stddev, exponent, cutoff)
    elif spectrum is None:
        spectrum = power_law(shape, stddev, exponent, colour_covariance, cutoff)
    else:
        stated = {
            "stddev": stddev,
            "exponent": exponent,
            "colour_covariance": colour_covariance,
            "cutoff": cutoff,
        }
        _check_spectrum(spectrum, shape, stated)
    mean = checked_parameter("mean", spectrum.mean if mean is None else mean, shape)
    amplitude = checked_parameter("amplitude", spectrum.amplitude, shape)
    if not np.all(amplitude > 0):
        raise ValueError(
            "The amplitude of every frequency must be positive, in float32. Received: "
            f"smallest value {np.min(amplitude)}. Make the spectrum "
            "less steep, or raise `cutoff`."
        )
    transport = NormalToSpectrum(
        np.broadcast_to(mean, shape), amplitude, spectrum.colours
    )
    return tfd.TransformedDistribution(
        standard_normal(shape), transport, name="spectral_noise"
    )


def squash(
    reference: tfd.Distribution,
    low: ArrayLike = 0.0,
    high: ArrayLike = 255.0,
    scale: ArrayLike | None = None,
    law: Literal["normal", "student"] = "normal",
) -> tfd.Distribution:
    """Return a transport squashed onto a box of pixel values, which no sample leaves.

        x = low + (high - low) F((y - (low + high) / 2) / scale),   y ~ reference

    F is the distribution function of N(0, 1). If the pixels of y are Gaussian around
    the middle with the standard deviation `scale`, each pixel of x is uniform, whatever
    its correlations with others. Or it is that of a Student law, whose tails are long:
    near black and white a strong tilt still has a gradient. With the default scale the
    slope in the middle is one: mid-gray keeps its value and contrast.

    `log_prob` is -inf outside the box. At exactly `low` or `high`, where F saturates
    in float32 and the exact density may be 0 or infinite, it is that of the nearest
    value inside, a finite number.

    Args:
        reference: `white_noise`, `spectral_noise`, `latent`, or another distribution
            that is a bijector of a base; y is in units of a pixel.
        low: scalar or array that broadcasts to an image, in units of a pixel.
        high: scalar or array that broadcasts to an image, above `low`.
        scale: positive scalar or array that broadcasts to an image, in the same unit;
            by default (high - low) / sqrt(2 pi).
        law: "normal", or "student", F(t) = (1 + u / sqrt(1 + u^2)) / 2 at
            u = sqrt(2 / pi) t, a Student law of two degrees of freedom with the slope
            of the normal one in the middle.

    Returns:
        reference: a `tfd.TransformedDistribution` of the same noise.

    Raises:
        TypeError: if `reference` is not a transport.
        ValueError: for a parameter that is not finite or does not broadcast to an
            image, a `low` that is not below `high`, a `scale` that is not positive, or
            another `law`.

    Example:
        >>> y = spectral_noise([32, 32, 3], mean=127.5, stddev=80.0)
        >>> x = squash(y, low=0.0, high=255.0).sample(2, seed=[0, 7])
        >>> bool(tf.reduce_all((0.0 <= x) & (x <= 255.0)))
        True
    """
    check_transport(reference)
    shape = tuple(reference.event_shape)
    lowest = checked_parameter("low", low, shape)
    highest = checked_parameter("high", high, shape)
    _check_low_is_below_high(lowest, highest)
    scale = (highest - lowest) / np.sqrt(2 * np.pi) if scale is None else scale
    stretch = _checked_positive("scale", scale, shape)
    middle = (lowest + highest) / 2
    to_box = _to_box_by(law)(lowest, highest)
    return Squashed(
        reference.distribution,
        tfb.Chain(
            [to_box, tfb.Scale(1 / stretch), tfb.Shift(-middle), reference.bijector]
        ),
        name="squash",
    )


def frequency_bands(reference: tfd.Distribution) -> np.ndarray | None:
    """Return the frequency bands that the coordinates of the noise belong to.

        band = ring + num_rings * colour

    Of spectral noise about 16 rings, equally wide in the logarithm of the radial
    frequency, for every decorrelated colour; the innermost also has f = 0. Of wavelet
    noise its levels, from the approximations to the finest details; the noise of a
    field of scales is one band more. No band is empty.

    Args:
        reference: any; `squash` keeps the noise, and so the bands, of its argument.

    Returns:
        bands: int32, of the shape of the noise, with numbers 0, ..., n - 1; or None if
            its coordinates are not frequencies.

    Example:
        >>> bands = frequency_bands(squash(spectral_noise([4, 4, 1])))
        >>> bands[:, :, 0]
        array([[0, 0, 2, 0],
               [0, 1, 3, 1],
               [2, 3, 4, 3],
               [0, 1, 3, 1]], dtype=int32)
        >>> frequency_bands(white_noise([4, 4, 1])) is None
        True
    """
    bijector: Any = getattr(reference, "bijector", None)
    while is_chain(bijector):
        bijector = bijector.bijectors[-1]
    bands = getattr(bijector, "frequency_bands", None)
    return None if bands is None else bands()


def standard_normal(shape: Sequence[int]) -> tfd.Distribution:
    """Return N(0, I) over arrays of a shape."""
    return tfd.Sample(tfd.Normal(0.0, 1.0), sample_shape=shape)


def is_standard_normal(base: tfd.Distribution) -> bool:
    """Return whether a distribution is N(0, I), by its density at three points."""
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


def checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of one image as a tuple, or raise a ValueError."""
    sizes = tuple(shape) if np.iterable(shape) else (shape,)
    whole = all(isinstance(size, numbers.Integral) and size > 0 for size in sizes)
    if not sizes or not whole:
        raise ValueError(
            "`shape` must be the sizes of one image, all positive whole numbers. "
            f"Received: {shape!r}. Pass for example [height, width, channels]."
        )
    return tuple(int(size) for size in sizes)


def checked_parameter(
    name: str, value: ArrayLike, shape: tuple[int, ...]
) -> np.ndarray:
    """Return a float32 array that is either a scalar or of the full shape of an image.

    Raises:
        ValueError: unless it is finite and broadcasts to the shape.
    """
    value = as_array(name, value, np.float32)
    if not np.all(np.isfinite(value)):
        raise ValueError(
            f"`{name}` must be finite. Received: "
            f"{np.sum(~np.isfinite(value))} of {value.size} values that are not. "
            "Check where it was computed."
        )
    try:
        full = np.broadcast_to(value, shape)
    except ValueError:
        raise ValueError(
            f"`{name}` must be a scalar or broadcast to the image shape {shape}. "
            f"Received: shape {value.shape}. Reshape it."
        ) from None
    return full if value.ndim else value


def _checked_positive(name, value, shape):
    value = checked_parameter(name, value, shape)
    if not np.all(value > 0):
        raise ValueError(
            f"`{name}` must be positive. Received: smallest value {np.min(value)}. "
            "Pass a standard deviation in units of a pixel."
        )
    return value


def _check_low_is_below_high(low, high):
    if not np.all(low < high):
        low, high = np.broadcast_arrays(low, high)
        first = np.argmax((low >= high).ravel())
        raise ValueError(
            "`low` must be below `high` for every pixel. Received: "
            f"low={low.ravel()[first]}, high={high.ravel()[first]}. Swap or widen them."
        )


def _to_box_by(law):
    laws = {"normal": NormalToBox, "student": StudentToBox}
    if law not in laws:
        raise ValueError(
            f"`law` must be one of {', '.join(map(repr, laws))}. Received: {law!r}. "
            "Pass 'normal' for pixels that are uniform."
        )
    return laws[law]


def _in_colours_of_photographs(shape, stddev, exponent, cutoff):
    """The law of a power of f; its check of `stddev` is that of all channels alike."""
    alike = power_law(shape, stddev, exponent)
    covariance = alike.colour_covariance[0, 0] * colour_correlation()
    return power_law(shape, None, exponent, covariance, cutoff)


def _check_spectrum(spectrum, shape, stated):
    if not isinstance(spectrum, Spectrum):
        raise TypeError(
            "`spectrum` must be a Spectrum. "
            f"Received: {spectrum!r}. Pass for example fit_spectrum(images)."
        )
    for name, value in stated.items():
        check_left_out(name, value, where="spectrum")
    if spectrum.shape != shape:
        raise ValueError(
            f"`spectrum` must be of images of the shape {shape}. Received: one of "
            f"{spectrum.shape}. Fit it to images of that shape."
        )


def check_transport(reference: tfd.Distribution) -> None:
    """Raise a TypeError unless a reference is a bijector of a base."""
    base = getattr(reference, "distribution", None)
    if base is None or not hasattr(reference, "bijector"):
        raise TypeError(
            "`reference` must be a transport, with a base and a bijector. "
            f"Received: {reference!r}. Pass for example spectral_noise(shape)."
        )
