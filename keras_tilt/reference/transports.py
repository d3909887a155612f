"""Transports x = T(z) of white noise, and densities that TFP would get wrong.

    forward, inverse   T(z) and its inverse, without TFP's cache
    NormalToBox        N(0, 1) to a uniform distribution, coordinate by coordinate
    StudentToBox       a Student law to it
    NormalToSpectrum   N(0, I) to a stationary Gaussian, frequency by frequency

Source: Bracewell (1983), "Discrete Hartley transform", for the basis of frequencies.
"""

__all__ = [
    "Box",
    "NormalToBox",
    "NormalToSpectrum",
    "Squashed",
    "StudentToBox",
    "forward",
    "hartley",
    "hartley_of_planes",
    "in_a_graph_of_its_own",
    "inverse",
    "is_chain",
]

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from numpy.typing import ArrayLike
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from keras_tilt.reference.planes import from_planes, to_planes
from keras_tilt.reference.spectrum import log_rings

_SLOPE = np.float32(np.sqrt(2 / np.pi))  # of 2 F(z) - 1 at 0
_SMALL = 64 * 64  # pixels of a plane, up to which the complex FFT is the faster one


def forward(bijector: tfb.Bijector, noise: tf.Tensor) -> tf.Tensor:
    """Return T(z) without TFP's cache.

    `bijector.forward` caches z as long as T(z) exists. Tensors of a graph exist as long
    as the graph, which z refers to: no graph would ever be freed, nor the network in
    it. And its forward(inverse(x)) is that very x, which has no gradient with respect
    to z.

    Args:
        bijector: a `tfb.Bijector`.
        noise: z, [n, ...].

    Returns:
        images: T(z), [n, ...].
    """
    if not is_chain(bijector):
        return bijector._forward(noise)
    for part in reversed(bijector.bijectors):
        noise = forward(part, noise)
    return noise


def inverse(bijector: tfb.Bijector, images: tf.Tensor) -> tf.Tensor:
    """Return the noise of images [n, ...] without TFP's cache: see `forward`."""
    if not is_chain(bijector):
        return bijector._inverse(images)
    for part in bijector.bijectors:
        images = inverse(part, images)
    return images


def is_chain(bijector: tfb.Bijector) -> bool:
    """Return whether a bijector is a chain.

    Of parts that are no composite tensors, such as a generator, TFP makes an object of
    the class below `tfb.Chain`.
    """
    return isinstance(bijector, tfb.Chain.__mro__[1])


class NormalToBox(tfb.AutoCompositeTensorBijector):
    """Transport of N(0, 1) to the uniform distribution on [low, high], by coordinate.

        T(z) = low + (high - low) Phi(z)  =  high - (high - low) Phi(-z)

    The form with the smaller Phi is used, so that T(z) keeps its precision near both
    ends and cannot step over either by a rounding error. The gradient is written down,
    T'(z) = (high - low) N(z; 0, 1), so that one erfc serves both ends.
    """

    def __init__(
        self,
        low: ArrayLike,
        high: ArrayLike,
        validate_args: bool = False,
        name: str = "normal_to_box",
    ) -> None:
        parameters = dict(locals())
        with tf.name_scope(name) as name:
            self.low = tf.convert_to_tensor(low, tf.float32)
            self.high = tf.convert_to_tensor(high, tf.float32)
            super().__init__(
                forward_min_event_ndims=0,
                validate_args=validate_args,
                parameters=parameters,
                name=name,
            )

    @classmethod
    def _parameter_properties(cls, dtype):
        properties = tfp.util.ParameterProperties
        return {"low": properties(), "high": properties()}

    @classmethod
    def _is_increasing(cls):
        return True

    def _forward(self, z):
        return _to_box(z, self.low, self.high)

    def _inverse(self, x):
        width = self.high - self.low
        below, above = (x - self.low) / width, (self.high - x) / width
        return tf.where(below < above, tf.math.ndtri(below), -tf.math.ndtri(above))

    def _forward_log_det_jacobian(self, z):
        log_normal = -0.5 * z**2 - 0.5 * np.log(2 * np.pi)
        return tf.math.log(self.high - self.low) + log_normal


class StudentToBox(NormalToBox):
    """Transport of a Student law to the uniform distribution on [low, high].

        T(z) = low + (high - low) (1 + u / sqrt(1 + u^2)) / 2,    u = sqrt(2 / pi) z

    The law of u sqrt(2) has two degrees of freedom; the slope of T is that of
    `NormalToBox` at 0, and far from it falls as |z|^-3 in place of exp(-z^2 / 2).
    """

    def _forward(self, z):
        return _student_to_box(z, self.low, self.high)

    def _inverse(self, x):
        width = self.high - self.low
        below, above = (x - self.low) / width, (self.high - x) / width
        tail = tf.minimum(below, above)
        size = (0.5 - tail) / tf.sqrt(tail * (1.0 - tail))
        return tf.where(below < above, -size, size) / _SLOPE

    def _forward_log_det_jacobian(self, z):
        log_width = tf.math.log(self.high - self.low)
        return log_width + np.log(_SLOPE / 2) - 1.5 * tf.math.log1p((_SLOPE * z) ** 2)


class NormalToSpectrum(tfb.AutoCompositeTensorBijector):
    """Transport of N(0, I) to a stationary Gaussian, frequency by frequency.

        T(z) = mean + colours @ H(amplitude z),   log |det T'| = sum(log amplitude)

    H is the orthonormal discrete Hartley transform of both image axes, and the columns
    of `colours` [channels, channels] are orthonormal: neither changes a volume.
    """

    def __init__(
        self,
        mean: ArrayLike,
        amplitude: ArrayLike,
        colours: ArrayLike,
        validate_args: bool = False,
        name: str = "normal_to_spectrum",
    ) -> None:
        parameters = dict(locals())
        with tf.name_scope(name) as name:
            self.mean = tf.convert_to_tensor(mean, tf.float32)
            self.amplitude = tf.convert_to_tensor(amplitude, tf.float32)
            self.colours = tf.convert_to_tensor(colours, tf.float32)
            super().__init__(
                forward_min_event_ndims=3,
                is_constant_jacobian=True,
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
            "colours": properties(event_ndims=2),
        }

    def _forward(self, z):
        spectrum = hartley_of_planes(to_planes(self.amplitude * z))
        return self.mean + from_planes(spectrum, z, self.colours / self._norm)

    def _inverse(self, x):
        by_colour = tf.tensordot(x - self.mean, self.colours, [[-1], [0]])
        return hartley(by_colour) / self.amplitude

    def _forward_log_det_jacobian(self, z):
        return tf.reduce_sum(tf.math.log(self.amplitude))

    def frequency_bands(self) -> np.ndarray:
        """Return the ring of each frequency, the innermost first, and its colour."""
        height, width, channels = self.amplitude.shape
        rings = log_rings(height, width)
        colours = np.arange(channels, dtype=np.int32)
        return rings[:, :, None] + (rings.max() + 1) * colours

    @property
    def _norm(self):
        height, width, _ = self.amplitude.shape
        return np.sqrt(height * width)


class Box(tfd.TransformedDistribution):
    """The distribution of T(z), with the density written down instead of derived.

    TFP derives log q(x) = log N(z) - log T'(z): two numbers that are equal up to a
    constant, and NaN where z is infinite.
    """

    def _log_prob(self, x):
        low, high = self.bijector.low, self.bijector.high
        shape = self.event_shape.as_list()
        pixels = range(-len(shape), 0)
        inside = tf.reduce_all((low <= x) & (x <= high), axis=list(pixels))
        log_volume = tf.reduce_sum(
            tf.broadcast_to(tf.math.log(high - low), shape), axis=list(pixels)
        )
        return tf.where(inside, -log_volume, -np.inf)


class Squashed(tfd.TransformedDistribution):
    """The distribution of a transport that ends in a NormalToBox, finite in the box."""

    def _log_prob(self, x):
        box = self.bijector.bijectors[0]
        shape = self.event_shape.as_list()
        pixels = list(range(-len(shape), 0))
        lowest, highest = _interior(box.low, box.high)
        inside = tf.reduce_all((box.low <= x) & (x <= box.high), axis=pixels)
        log_prob = super()._log_prob(tf.clip_by_value(x, lowest, highest))
        return tf.where(inside, log_prob, -np.inf)


def _interior(low, high):
    """The smallest and largest float32 that Phi can be inverted at.

    Next to `low` and `high`; but next to 0 are numbers that TensorFlow flushes to 0.
    """
    least = (high - low) * np.finfo(np.float32).tiny
    lowest = tf.maximum(tf.math.nextafter(low, high), low + least)
    highest = tf.minimum(tf.math.nextafter(high, low), high - least)
    return lowest, highest


def in_a_graph_of_its_own(function: Callable) -> Callable:
    """Return a function whose gradient is written down, made once for all graphs.

    TensorFlow never forgets a gradient that was written down in a graph, and with it
    that graph, and the network in it. This one is small, and one for each shape.

    Args:
        function: of tensors, decorated by `tf.custom_gradient`.
    """

    @functools.cache
    def made(*specs):
        with tf.init_scope():
            return tf.function(function, autograph=False).get_concrete_function(*specs)

    @functools.wraps(function)
    def called(*tensors):
        if tf.executing_eagerly():
            return function(*tensors)
        return made(*(tf.TensorSpec(one.shape, one.dtype) for one in tensors))(*tensors)

    return called


@in_a_graph_of_its_own
@tf.custom_gradient
def _to_box(z, low, high):
    """low + (high - low) Phi(z), of which z alone has a gradient."""
    tail = (high - low) * _phi(-tf.abs(z))

    def gradient(upstream):
        slope = (high - low) * tf.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
        return upstream * slope, None, None

    return tf.where(z < 0, low + tail, high - tail), gradient


@in_a_graph_of_its_own
@tf.custom_gradient
def _student_to_box(z, low, high):
    """low + (high - low) F(z), of which z alone has a gradient."""
    u = _SLOPE * z
    norm = tf.sqrt(1.0 + u**2)
    tail = (high - low) / (2.0 * norm * (norm + tf.abs(u)))

    def gradient(upstream):
        return upstream * (high - low) * (_SLOPE / 2) / norm**3, None, None

    return tf.where(z < 0, low + tail, high - tail), gradient


def hartley(images: tf.Tensor) -> tf.Tensor:
    """H(u) = (Re DFT2(u) - Im DFT2(u)) / sqrt(height width), channel by channel."""
    height, width, _ = images.shape[-3:]
    transform = hartley_of_planes(to_planes(images)) / np.sqrt(height * width)
    return from_planes(transform, images)


@in_a_graph_of_its_own
@tf.custom_gradient
def hartley_of_planes(planes: tf.Tensor) -> tuple[tf.Tensor, Callable]:
    """Return sqrt(height width) H of planes [..., height, width].

        Re DFT2(u) - Im DFT2(u) = Re DFT2((1 + i) u)

    Symmetric, so that it is its own gradient. Of large images the real FFT of one half
    of the columns is faster, the other by DFT(-k) = conj(DFT(k)); of small ones the
    least number of operations. (As products with matrices it is slower at any size.)
    """
    height, width = planes.shape[-2:]
    if height * width <= _SMALL:
        return tf.math.real(tf.signal.fft2d(tf.complex(planes, planes))), (
            hartley_of_planes
        )
    half = tf.signal.rfft2d(planes)
    cosines, sines = tf.math.real(half), -tf.math.imag(half)
    others = tf.reverse((cosines - sines)[..., 1 : (width + 1) // 2], [-2, -1])
    columns = [cosines + sines, tf.roll(others, 1, axis=-2)]
    return tf.concat(columns, axis=-1), hartley_of_planes


def _phi(z):
    return 0.5 * tf.math.erfc(-z / np.sqrt(2.0))
