"""Noise with the heavy tails of photographs: sparse wavelet coefficients.

    T(z) = mean + colours @ W^T(amplitude g(z)),   g(z) = sinh(k z) / c

g is odd and of unit variance, c^2 = (exp(2 k^2) - 1) / 2. With u = exp(2 k^2) its
kurtosis is K = (u^2 + 2 u + 3) / 2, from which u = sqrt(2 K - 2) - 1: for every K from
3 (g(z) = z) there is one k, in closed form. W is orthonormal, and g has an inverse and
a derivative: the density of T(z) is exact.

Source: Wainwright and Simoncelli (2000), "Scale mixtures of Gaussians and the
statistics of natural images", and Portilla et al. (2003), for the field of scales; the
sinh is one of Johnson's (1949) transformations.
"""

__all__ = ["NormalToWavelets", "ScaledWavelets", "wavelet_noise"]

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from numpy.typing import ArrayLike
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from keras_tilt.reference.distributions import (
    checked_parameter,
    checked_shape,
    standard_normal,
)
from keras_tilt.reference.generators import Generator
from keras_tilt.reference.photographs import photographs
from keras_tilt.reference.planes import from_planes, to_planes
from keras_tilt.reference.transports import in_a_graph_of_its_own
from keras_tilt.reference.wavelet_transform import (
    bands_of_coefficients,
    sizes_of_levels,
    transforms,
)
from keras_tilt.reference.wavelets import Wavelets, checked_levels
from keras_tilt.validation import as_number

_LEAST = 1e-4  # k in place of 0: g(z) = z up to rounding, for |z| below 10
_CYCLES = 3  # of the field of scales across an image, at most


def wavelet_noise(
    shape: Sequence[int],
    mean: ArrayLike | None = None,
    stddev: float | None = None,
    wavelets: Wavelets | None = None,
    field: float | None = None,
) -> tfd.Distribution:
    """Return noise with the statistics of photographs: edges and calm surfaces.

        T(z) = mean + colours @ W^T(amplitude g(z)),   g(z) = sinh(k z) / c

    Each coordinate of the noise z is one wavelet coefficient of one decorrelated
    colour, and g gives the coefficients of a band their kurtosis. W, the wavelet
    transform, is orthonormal: the density is exact. The noise lives on the torus:
    opposite edges of an image are neighbours.

    With a `field` every detail is multiplied by exp(s h - s^2), where h is a smooth
    Gaussian field of unit variance, the same for all bands at one place: there are busy
    and calm regions, and busy and calm images. The variance stays; g has the kurtosis
    K / exp(4 s^2), at least 3, so that a detail has K again, or 3 exp(4 s^2) if that is
    more. The field has noise of its own: there are more numbers z than pixels, and as
    of `latent` images have no density.

    Args:
        shape: [height, width, channels] of one image.
        mean: scalar or array that broadcasts to `shape`, in units of a pixel; by
            default that of `wavelets`.
        stddev: positive scalar: the square root of the variance of a pixel, a mean over
            pixels and channels, which then is exactly so; by default by `wavelets`.
        wavelets: a `Wavelets`, such as `fit_wavelets(images)`; by default that of
            photographs, of channels from 0 to 255. Of other numbers of channels than
            three these are independent, each with the luminance of photographs.
        field: s, the standard deviation of the logarithm of the scales. At 0.6 the
            field alone has the kurtosis of photographs, 3 exp(4 s^2) = 13; the
            logarithm of the contrast of their patches varies by 0.9. None: no field.

    Returns:
        reference: a `tfd.Distribution` with event shape `shape`.

    Raises:
        TypeError: if `wavelets` is not a `Wavelets`.
        ValueError: for a bad shape, one too small for the levels or with other channels
            than `wavelets`, or a parameter out of its range.

    Example:
        >>> q = wavelet_noise([32, 32, 3])
        >>> images = q.sample(2, seed=[0, 7])
        >>> tuple(images.shape), tuple(q.log_prob(images).shape)
        ((2, 32, 32, 3), (2,))
        >>> wavelet_noise([32, 32, 3], field=0.5).distribution.event_shape
        TensorShape([3121])

    Source: Wainwright and Simoncelli (2000); Portilla et al. (2003).
    """
    height, width, channels = _checked_image_shape(shape)
    wavelets = _checked_wavelets(wavelets, height, width, channels)
    strength = 0.0 if field is None else _checked_positive("field", field)
    amplitude, kurtosis = _by_coefficient(wavelets, height, width)
    if stddev is not None:
        stddev = _checked_positive("stddev", stddev)
        amplitude = amplitude * stddev / np.sqrt(np.mean(amplitude**2))
    mean = wavelets.mean if mean is None else mean
    mean = checked_parameter("mean", mean, (height, width, channels))
    transport = NormalToWavelets(
        np.broadcast_to(mean, (height, width, channels)),
        amplitude,
        steepness(kurtosis / np.exp(4 * strength**2)),
        wavelets.colours,
        wavelets.wavelet,
        wavelets.levels,
    )
    if field is None:
        base = standard_normal([height, width, channels])
        return tfd.TransformedDistribution(base, transport, name="wavelet_noise")
    scaled = ScaledWavelets(transport, strength)
    return tfd.TransformedDistribution(
        standard_normal(scaled.noise_shape),
        Generator(scaled, scaled.noise_shape, (height, width, channels)),
        name="wavelet_noise",
    )


def steepness(kurtosis: ArrayLike) -> np.ndarray:
    """Return k of the g(z) = sinh(k z) / c of a kurtosis; 3 in place of less.

    Example:
        >>> u = np.exp(2 * steepness(10.0) ** 2)
        >>> float((u**2 + 2 * u + 3).round(6)) / 2
        10.0
    """
    u = np.sqrt(2 * np.maximum(kurtosis, 3.0) - 2) - 1
    return np.maximum(np.sqrt(np.log(u) / 2), _LEAST)


class NormalToWavelets(tfb.AutoCompositeTensorBijector):
    """Transport of N(0, I) to sparse wavelet coefficients, and these to images.

        T(z) = mean + colours @ W^T(amplitude sinh(k z) / c)
        log |det T'| = sum(log amplitude k / c + log cosh(k z))

    W and the columns of `colours` are orthonormal: neither changes a volume. mean is
    [height, width, channels], as are amplitude and steepness, k, in the order of
    coefficients: see `wavelet_transform`.
    """

    def __init__(
        self,
        mean: ArrayLike,
        amplitude: ArrayLike,
        steepness: ArrayLike,
        colours: ArrayLike,
        wavelet: str,
        levels: int,
        validate_args: bool = False,
        name: str = "normal_to_wavelets",
    ) -> None:
        parameters = dict(locals())
        with tf.name_scope(name) as name:
            self.mean = tf.convert_to_tensor(mean, tf.float32)
            self.amplitude = tf.convert_to_tensor(amplitude, tf.float32)
            self.steepness = tf.convert_to_tensor(steepness, tf.float32)
            self.colours = tf.convert_to_tensor(colours, tf.float32)
            self.wavelet, self.levels = wavelet, levels
            normalizer = tf.sqrt(tf.math.expm1(2 * self.steepness**2) / 2)
            self.size = self.amplitude / normalizer
            super().__init__(
                forward_min_event_ndims=3,
                validate_args=validate_args,
                parameters=parameters,
                name=name,
            )

    @classmethod
    def _parameter_properties(cls, dtype):
        properties = tfp.util.ParameterProperties
        return {
            "mean": properties(event_ndims=3),
            "amplitude": properties(event_ndims=3),
            "steepness": properties(event_ndims=3),
            "colours": properties(event_ndims=2),
        }

    def coefficients(self, z: tf.Tensor) -> tf.Tensor:
        """Return amplitude g(z), of z [..., height, width, channels]."""
        return _heavy_tailed(z, self.steepness, self.size / 2)

    def images(self, coefficients: tf.Tensor) -> tf.Tensor:
        """Return mean + colours @ W^T(coefficients)."""
        _, synthesis = transforms(self.wavelet, self.levels)
        planes = synthesis(to_planes(coefficients))
        return self.mean + from_planes(planes, coefficients, self.colours)

    def _forward(self, z):
        return self.images(self.coefficients(z))

    def _inverse(self, x):
        analysis, _ = transforms(self.wavelet, self.levels)
        by_colour = from_planes(to_planes(x - self.mean), x, tf.transpose(self.colours))
        coefficients = from_planes(analysis(to_planes(by_colour)), x)
        return tf.asinh(coefficients / self.size) / self.steepness

    def _forward_log_det_jacobian(self, z):
        log_size = tf.math.log(self.size * self.steepness)
        return tf.reduce_sum(log_size + _log_cosh(self.steepness * z), [-3, -2, -1])

    def frequency_bands(self) -> np.ndarray:
        """Return the level of each coefficient, the coarsest first, and its colour."""
        height, width, channels = self.amplitude.shape
        ranks = np.zeros([height, width], np.int32)
        for band in bands_of_coefficients(height, width, self.levels)[1:]:
            ranks[band.rows, band.columns] = self.levels + 1 - band.level
        colours = np.arange(channels, dtype=np.int32)
        return ranks[:, :, None] + (self.levels + 1) * colours


class ScaledWavelets:
    """Images of noise [n, pixels + frequencies]: wavelets times a field of scales.

        x = images(exp(s h(u) - s^2) amplitude g(z)),   h(u) = R (a u) C^T

    The columns of R and C, cas(2 pi k place), are those of the Hartley transform at few
    frequencies k, at the places of a band's coefficients. a falls as 1 / (1 + |k|^2): a
    third of the variance is that of whole images, k = 0, and in photographs about two
    fifths. It is the same at k and -k in either axis, where the sines cancel: h has the
    variance sum(a^2) = 1 at every place.
    """

    def __init__(self, transport: NormalToWavelets, strength: float) -> None:
        self._transport = transport
        self._strength = strength
        frequency = np.arange(-_CYCLES, _CYCLES + 1)
        fall = 1 / (1 + frequency[:, None] ** 2 + frequency**2)
        self._frequency = frequency
        self._fall = fall / np.sqrt(np.sum(fall**2))

    @property
    def noise_shape(self) -> tuple[int]:
        """The shape of the noise of one image."""
        return (int(np.prod(self._transport.amplitude.shape)) + self._fall.size,)

    def __call__(self, noise: tf.Tensor) -> tf.Tensor:
        """Return images [n, height, width, channels] of noise [n, ...]."""
        shape = self._transport.amplitude.shape
        z, u = tf.split(noise, [shape.num_elements(), self._fall.size], axis=1)
        coefficients = self._transport.coefficients(tf.reshape(z, [-1, *shape]))
        u = tf.reshape(u, [-1, *self._fall.shape]) * tf.constant(self._fall, tf.float32)
        return self._transport.images(tf.exp(self._log_scale(u)) * coefficients)

    def frequency_bands(self) -> np.ndarray:
        """Return the bands of the coefficients, and one more of the field's noise."""
        bands = self._transport.frequency_bands().ravel()
        field = np.full(self._fall.size, bands.max() + 1, np.int32)
        return np.concatenate([bands, field])

    def _log_scale(self, u):
        """s h - s^2 of the details and 0 of approximations, [n, height, width, 1]."""
        height, width, _ = self._transport.amplitude.shape
        levels = self._transport.levels
        sizes = sizes_of_levels(height, width, levels)
        log_scale = tf.zeros([tf.shape(u)[0], *sizes[-1]])
        for outer, inner in zip(sizes[-2::-1], sizes[:0:-1], strict=True):
            low, high = inner, np.subtract(outer, inner)
            top = [log_scale, self._at(u, low[0], high[1])]
            bottom = [self._at(u, high[0], low[1]), self._at(u, *high)]
            halves = [tf.concat(half, axis=2) for half in (top, bottom)]
            log_scale = tf.concat(halves, axis=1)
        return log_scale[..., None]

    def _at(self, u, rows, columns):
        """s h - s^2 at the places of a band, [n, rows, columns]."""
        along, across = self._waves(rows), self._waves(columns)
        field = tf.einsum("rk,nkl,cl->nrc", along, u, across)
        return self._strength * field - self._strength**2

    def _waves(self, count):
        """cas of few frequencies at the places of a band: [count, frequencies]."""
        place = (np.arange(count) + 0.5) / count
        phase = 2 * np.pi * np.outer(place, self._frequency)
        return tf.constant(np.cos(phase) + np.sin(phase), tf.float32)


@in_a_graph_of_its_own
@tf.custom_gradient
def _heavy_tailed(
    z: tf.Tensor, steepness: tf.Tensor, half_size: tf.Tensor
) -> tuple[tf.Tensor, Callable]:
    """size sinh(k z), of which z alone has a gradient.

    By expm1, so that it is as precise where k z is small.
    """
    above = tf.math.expm1(steepness * z)
    inverse = tf.math.reciprocal(above + 1)

    def gradient(upstream):
        slope = (half_size * steepness) * (above + 1 + inverse)
        return upstream * slope, None, None

    return half_size * (above + above * inverse), gradient


def _log_cosh(x):
    return tf.abs(x) + tf.math.softplus(-2 * tf.abs(x)) - np.log(2.0)


def _by_coefficient(wavelets, height, width):
    """Amplitude and kurtosis of each coefficient, [height, width, channels]."""
    shape = (height, width, len(wavelets.mean))
    amplitude, kurtosis = np.empty(shape), np.empty(shape)
    low, *details = bands_of_coefficients(height, width, wavelets.levels)
    amplitude[low.rows, low.columns] = wavelets.approximation_amplitude
    kurtosis[low.rows, low.columns] = wavelets.approximation_kurtosis
    for band in details:
        of_band = band.level - 1, band.orientation
        amplitude[band.rows, band.columns] = wavelets.amplitude[of_band]
        kurtosis[band.rows, band.columns] = wavelets.kurtosis[of_band]
    return amplitude, kurtosis


def _checked_image_shape(shape):
    shape = checked_shape(shape)
    if len(shape) != 3:
        raise ValueError(
            "`shape` must be the height, width and channels of one image. "
            f"Received: {shape}. Pass for example [224, 224, 3]."
        )
    return shape


def _checked_wavelets(wavelets, height, width, channels):
    if wavelets is None:
        return photographs(channels).at_levels(checked_levels(None, height, width))
    if not isinstance(wavelets, Wavelets):
        raise TypeError(
            "`wavelets` must be a Wavelets. "
            f"Received: {wavelets!r}. Pass for example fit_wavelets(images)."
        )
    if len(wavelets.mean) != channels:
        raise ValueError(
            f"`wavelets` must be of images of {channels} channels, as `shape` says. "
            f"Received: one of {len(wavelets.mean)}. Fit it to images of that kind."
        )
    try:
        checked_levels(wavelets.levels, height, width)
    except ValueError:
        at = checked_levels(None, height, width)
        raise ValueError(
            "`wavelets` must have levels that the image has room for, at least a pixel "
            f"at the coarsest. Received: {wavelets.levels} levels, {height} x {width} "
            f"pixels. Pass wavelets.at_levels({at})."
        ) from None
    return wavelets


def _checked_positive(name, value):
    number = as_number(name, value)
    if not 0 < number < np.inf:
        raise ValueError(
            f"`{name}` must be a positive number. Received: {number}. Leave it out for "
            "the default."
        )
    return number
