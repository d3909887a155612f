"""The reference q of the tilt, as a transport of white noise.

    x = T(z),   z ~ N(0, I)

Source: Dai, Lu and Wu (2015), where q = N(0, sigma^2 I). `box` is ours: a network
is only trained on the pixel range, so a strong tilt should not be able to leave it.
"""

__all__ = ["white_noise", "box"]

import numbers

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

tfb = tfp.bijectors
tfd = tfp.distributions


def white_noise(shape, mean=0.0, stddev=1.0):
    """Gaussian white noise, the reference of the paper.

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
    shape = _checked_shape(shape)
    mean = _checked_parameter("mean", mean, shape)
    stddev = _checked_parameter("stddev", stddev, shape)
    if not np.all(stddev > 0):
        raise ValueError(
            f"`stddev` must be positive. Received: smallest value {np.min(stddev)}. "
            "Pass a standard deviation in units of a pixel."
        )
    transport = tfb.Shift(mean)(tfb.Scale(stddev))
    return tfd.TransformedDistribution(
        _standard_normal(shape), transport, name="white_noise"
    )


def box(shape, low=0.0, high=1.0):
    """The uniform density on a box of pixel values, which no sample ever leaves.

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
    shape = _checked_shape(shape)
    low = _checked_parameter("low", low, shape)
    high = _checked_parameter("high", high, shape)
    if not np.all(low < high):
        low, high = np.broadcast_arrays(low, high)
        first = np.argmax((low >= high).ravel())
        raise ValueError(
            "`low` must be below `high` for every pixel. Received: "
            f"low={low.ravel()[first]}, high={high.ravel()[first]}. Swap or widen them."
        )
    return _Box(_standard_normal(shape), NormalToBox(low, high), name="box")


class NormalToBox(tfb.AutoCompositeTensorBijector):
    """Carries N(0, 1) to the uniform law on [low, high], coordinate by coordinate.

        T(z) = low + (high - low) Phi(z)  =  high - (high - low) Phi(-z)

    The form with the smaller Phi is used, so that T(z) keeps its precision near both
    ends and cannot step over either by a rounding error.
    """

    def __init__(self, low, high, validate_args=False, name="normal_to_box"):
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
        width = self.high - self.low
        return tf.where(z < 0, self.low + width * _phi(z), self.high - width * _phi(-z))

    def _inverse(self, x):
        width = self.high - self.low
        below, above = (x - self.low) / width, (self.high - x) / width
        return tf.where(below < above, tf.math.ndtri(below), -tf.math.ndtri(above))

    def _forward_log_det_jacobian(self, z):
        log_normal = -0.5 * z**2 - 0.5 * np.log(2 * np.pi)
        return tf.math.log(self.high - self.low) + log_normal


class _Box(tfd.TransformedDistribution):
    """The law of T(z), with the density written down instead of derived.

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


def _standard_normal(shape):
    return tfd.Sample(tfd.Normal(0.0, 1.0), sample_shape=shape)


def _phi(z):
    return 0.5 * tf.math.erfc(-z / np.sqrt(2.0))


def _checked_shape(shape):
    sizes = tuple(shape) if np.iterable(shape) else (shape,)
    whole = all(isinstance(size, numbers.Integral) and size > 0 for size in sizes)
    if not sizes or not whole:
        raise ValueError(
            "`shape` must be the sizes of one image, all positive whole numbers. "
            f"Received: {shape!r}. Pass for example [height, width, channels]."
        )
    return tuple(int(size) for size in sizes)


def _checked_parameter(name, value, shape):
    """A float32 array that is either a scalar or of the full shape of an image."""
    value = np.asarray(value, dtype=np.float32)
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
