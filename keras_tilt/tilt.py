"""A tilted density: the one equation of this library.

    p(x) = exp(scale f(x)) q(x) / Z

and the same in noise coordinates, when the reference q is the law of x = T(z):

    p(z) = exp(scale f(T(z))) base(z) / Z

No Jacobian appears in the second line, because the tilt is relative to q.

Source: Dai, Lu and Wu (2015), section on the model; the noise coordinates are ours.
"""

__all__ = ["Tilt"]

import dataclasses
import math
import numbers
from collections.abc import Callable

import tensorflow as tf
from numpy.typing import ArrayLike
from tensorflow_probability import distributions as tfd

from keras_tilt.reference.gradients import differentiate
from keras_tilt.reference.transports import forward, inverse


@dataclasses.dataclass(frozen=True)
class Tilt:
    """The density p(x) = exp(scale f(x)) q(x) / Z of a unit f and a reference q.

    Args:
        unit: callable, images [n, ...] -> f [n], in nats.
        reference: a `tfd.Distribution` over one image, with empty batch shape. The base
            and the bijector of a transformed distribution define the noise coordinates;
            for any other distribution noise and image are the same. Write a bounded
            density as a transport, such as `box`: otherwise trajectories leave its
            support and are rejected.
        scale: positive number, 1 in the paper: how strongly f tilts q, an inverse
            temperature.

    Raises:
        TypeError: if `unit` is not callable or `reference` is not a `tfd.Distribution`
            of floating-point images.
        ValueError: if `reference` has a batch shape, if `unit.input_shape` exists and
            is not the shape of an image of `reference`, or if `scale` is not a positive
            number.

    Example:
        >>> q = tfd.Independent(tfd.Normal(tf.zeros([3]), 2.0), 1)
        >>> tilt = Tilt(lambda images: tf.reduce_sum(images, axis=1), q)
        >>> tilt.signal_to_noise(tf.zeros([1, 3])).numpy()
        array([1.], dtype=float32)
    """

    unit: Callable[[tf.Tensor], tf.Tensor]
    reference: tfd.Distribution
    scale: float = 1.0

    def __post_init__(self):
        if not callable(self.unit):
            raise TypeError(
                "`unit` must be callable, images [n, ...] -> f [n]. "
                f"Received: {self.unit!r}. Pass a unit of a network or a function."
            )
        if not isinstance(self.reference, tfd.Distribution):
            raise TypeError(
                "`reference` must be a tfp.distributions.Distribution. "
                f"Received: {self.reference!r}. Pass for example white_noise(shape)."
            )
        dtype = self.reference.dtype
        if not (isinstance(dtype, tf.DType) and dtype.is_floating):
            raise TypeError(
                "`reference` must be a distribution of one floating-point array. "
                f"Received: {self.reference!r}. Pass for example white_noise(shape)."
            )
        if self.reference.batch_shape.rank != 0:
            raise ValueError(
                "`reference` must have an empty batch shape. Received: batch shape "
                f"{self.reference.batch_shape}, event shape "
                f"{self.reference.event_shape}. Wrap it in tfd.Independent."
            )
        if not isinstance(self.scale, numbers.Real) or not 0 < self.scale < math.inf:
            raise ValueError(
                "`scale` must be a positive number. "
                f"Received: {self.scale!r}. Pass 1.0 for the density of the paper."
            )
        self._check_shapes_agree()

    def _check_shapes_agree(self):
        expected = getattr(self.unit, "input_shape", None)
        if not tf.TensorShape(expected).is_compatible_with(self.reference.event_shape):
            raise ValueError(
                "`unit` and `reference` must take images of one shape. Received: "
                f"unit.input_shape {tuple(expected)}, reference.event_shape "
                f"{self.event_shape}. Pass kt.unit(network, ...) as unit, and build "
                "the reference with its input_shape."
            )

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        return tuple(self.reference.event_shape)

    @property
    def base(self) -> tfd.Distribution:
        """The distribution of the noise z."""
        return self.reference.distribution if self._is_transport else self.reference

    @property
    def _is_transport(self):
        # By attributes: when the bijector is no composite tensor, TFP returns a private
        # class that is not a tfd.TransformedDistribution. A base with a batch shape is
        # one that its bijector joins into a single event.
        base = getattr(self.reference, "distribution", None)
        has_bijector = hasattr(self.reference, "bijector")
        return has_bijector and base is not None and base.batch_shape.rank == 0

    def to_images(self, noise: ArrayLike) -> tf.Tensor:
        """Return T(z): noise [n, ...] -> images [n, ...]."""
        noise = tf.convert_to_tensor(noise, self.base.dtype)
        if not self._is_transport:
            return noise
        return forward(self.reference.bijector, noise)

    def to_noise(self, images: ArrayLike) -> tf.Tensor:
        """Return the inverse of T: images [n, ...] -> noise [n, ...]."""
        images = tf.convert_to_tensor(images, self.reference.dtype)
        if not self._is_transport:
            return images
        return inverse(self.reference.bijector, images)

    def response(self, images: ArrayLike) -> tf.Tensor:
        """Return f(x): images [n, ...] -> f [n], in nats.

        Raises:
            ValueError: if the unit does not return one number per image. (A column
                [n, 1] added to log q(x) [n] would silently broadcast to a matrix.)
        """
        x = tf.convert_to_tensor(images, self.reference.dtype)
        f = self.unit(x)
        if f is None:
            raise ValueError(
                f"`unit` must return one number per image, shape {x.shape[:1]}. "
                "Received: None. End the function with a `return`."
            )
        f = tf.convert_to_tensor(f)
        if not f.shape.is_compatible_with(x.shape[:1]):
            raise ValueError(
                f"`unit` must return one number per image, shape {x.shape[:1]}. "
                f"Received: shape {f.shape}. Select one output, as kt.unit does of a "
                "network, or sum over the others."
            )
        return tf.cast(f, self.reference.dtype)

    def unnormalized_log_prob(self, images: ArrayLike) -> tf.Tensor:
        """Return scale f(x) + log q(x): images [n, ...] -> [n], in nats."""
        return self.scale * self.response(images) + self.reference.log_prob(images)

    def energy(self, images: ArrayLike) -> tf.Tensor:
        """Return -scale f(x) - log q(x): images [n, ...] -> [n], in nats."""
        return -self.unnormalized_log_prob(images)

    def noise_log_prob(self, noise: ArrayLike) -> tf.Tensor:
        """Return scale f(T(z)) + log base(z): noise [n, ...] -> [n], in nats."""
        f = self.response(self.to_images(noise))
        return self.scale * f + self.base.log_prob(noise)

    def signal_to_noise(
        self, images: ArrayLike | None = None, *, noise: ArrayLike | None = None
    ) -> tf.Tensor:
        """Return how strongly the tilt acts on a pixel, relative to the reference.

            SNR(x) = scale sqrt(mean_i (d f(T(z)) / d z_i)^2)   at z = T^-1(x)

        For q = N(0, s^2 I) a pixel contributes s |df/dx_i|: a linear f = w.x moves its
        mean by s^2 w_i, relative to a standard deviation of s. Far below 1 the unit is
        lost in the noise of the reference: choose the scale of the reference by this
        number. Where q is not a transport of white noise, z = x and the number is per
        unit of x.

        Args:
            images: images [n, ...] inside the support of the reference; or
            noise: their noise [n, ...], as `samples.noise[-1]`. For a `latent`
                reference only the noise will do: T has no inverse.

        Returns:
            signal_to_noise: [n], root mean square over pixels, nats per unit of noise.

        Raises:
            ValueError: unless exactly one of the two is passed.
        """
        if noise is None and images is not None:
            z = self.to_noise(images)
        elif images is None and noise is not None:
            z = tf.convert_to_tensor(noise, self.base.dtype)
        else:
            raise ValueError(
                "Expected either images or their noise. Received: both or neither. "
                "Pass for example noise=samples.noise[-1]."
            )
        _, gradient = differentiate(lambda z: self.response(self.to_images(z)), z)
        pixels = tf.range(1, tf.rank(gradient))
        return self.scale * tf.sqrt(tf.reduce_mean(gradient**2, axis=pixels))
