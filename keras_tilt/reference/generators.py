"""Learned references: the distribution of the images of a generator network.

    x = T(z) = generator(z),     z ~ N(0, I)

T has neither an inverse nor a density, and sampling needs neither: the tilted density
of the noise is p(z) = exp(scale f(T(z))) N(z; 0, I) / Z.

Source: Nguyen et al. (2017), "Plug & Play Generative Networks".
"""

__all__ = ["Generator", "generators_of", "has_density", "latent"]

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from keras_tilt.reference.distributions import checked_shape, standard_normal
from keras_tilt.reference.gradients import differentiate
from keras_tilt.reference.transports import is_chain


def latent(
    generator: Callable[..., tf.Tensor], latent_shape: Sequence[int] | None = None
) -> tfd.Distribution:
    """Return the distribution of the images of a generator network.

        T(z) = generator(z),   z ~ N(0, I) of the latent shape

    Images have no density: `log_prob` and the inverse of T raise an error. The noise
    has one, which is all that sampling needs: see `Tilt.noise_log_prob`.

    Args:
        generator: callable, noise [n, ...] -> images [n, ...], such as a
            `keras.Model`. If it takes `training`, it is passed False.
        latent_shape: shape of the noise of one image; by default from
            `generator.input_shape`.

    Returns:
        reference: a `tfd.Distribution` with the event shape of one image.

    Raises:
        TypeError: if `generator` is not callable.
        ValueError: for a `latent_shape` that is neither passed nor stated by the
            generator, or that contradicts it, or a generator that does not return one
            image per noise.

    Example:
        >>> q = latent(lambda z: tf.reshape(tf.tanh(z), [-1, 2, 2, 1]), [4])
        >>> q.sample(3, seed=[0, 7]).shape, q.distribution.event_shape
        (TensorShape([3, 2, 2, 1]), TensorShape([4]))
    """
    if not callable(generator):
        raise TypeError(
            "`generator` must be callable, noise [n, ...] -> images [n, ...]. "
            f"Received: {generator!r}. Pass a keras.Model or a function."
        )
    latent_shape = _checked_latent_shape(generator, latent_shape)
    generate = _in_inference(generator)
    image_shape = _image_shape(generate, latent_shape)
    return tfd.TransformedDistribution(
        standard_normal(latent_shape),
        Generator(generate, latent_shape, image_shape, [generator]),
        name="latent",
    )


def generators_of(reference: tfd.Distribution) -> list[Callable]:
    """Return the generators that a reference is made by, as they were passed.

    Args:
        reference: any; `squash` keeps the generator of its argument, and `sum_of`
            those of its own.
    """
    bijector: Any = getattr(reference, "bijector", None)
    parts = bijector.bijectors if is_chain(bijector) else [bijector]
    found = [part.generators for part in parts if isinstance(part, Generator)]
    return sum(found, [])


def has_density(reference: tfd.Distribution) -> bool:
    """Return whether images of a reference have a density, `log_prob`.

    Args:
        reference: any distribution.
    """
    images = reference.sample(1, seed=[0, 0])
    try:
        reference.log_prob(images)
    except NotImplementedError:
        return False
    return True


class Generator(tfb.Bijector):
    """Transport of noise to images by a function, which has no inverse."""

    def __init__(
        self,
        generate: Callable[[tf.Tensor], tf.Tensor],
        latent_shape: Sequence[int],
        image_shape: Sequence[int],
        generators: Sequence[Callable[..., tf.Tensor]] = (),
    ) -> None:
        parameters = dict(locals())  # TFP takes bijectors of equal ones for the same
        self._generate = generate
        # Layer by layer, a network of Keras takes ten times as long.
        self._in_graph = tf.function(generate, reduce_retracing=True)
        self.generators = list(generators)
        self._latent_shape = tf.TensorShape(latent_shape)
        self._image_shape = tf.TensorShape(image_shape)
        super().__init__(
            forward_min_event_ndims=self._latent_shape.rank,
            inverse_min_event_ndims=self._image_shape.rank,
            dtype=tf.float32,
            parameters=parameters,
            name="generator",
        )

    def frequency_bands(self) -> np.ndarray | None:
        """Return the bands of the noise, if the generator knows them."""
        bands = getattr(self._generate, "frequency_bands", None)
        return None if bands is None else bands()

    def _forward_event_shape(self, _):
        return self._image_shape

    def _forward_event_shape_tensor(self, _):
        return tf.constant(self._image_shape.as_list(), tf.int32)

    def _inverse_event_shape(self, _):
        return self._latent_shape

    def _inverse_event_shape_tensor(self, _):
        return tf.constant(self._latent_shape.as_list(), tf.int32)

    def _forward(self, z):
        generate = self._in_graph if tf.executing_eagerly() else self._generate
        images = generate(tf.reshape(z, [-1, *self._latent_shape]))
        samples = z.shape.rank - self._latent_shape.rank
        shape = tf.concat([tf.shape(z)[:samples], self._image_shape], axis=0)
        static_shape = z.shape[:samples].concatenate(self._image_shape)
        return tf.ensure_shape(tf.reshape(images, shape), static_shape)

    def _inverse(self, _):
        raise NotImplementedError(_NO_DENSITY)

    def _forward_log_det_jacobian(self, _):
        raise NotImplementedError(_NO_DENSITY)

    def _inverse_log_det_jacobian(self, _):
        raise NotImplementedError(_NO_DENSITY)


_NO_DENSITY = (
    "The images of a generator must be reached from their noise: they have neither a "
    "density nor an inverse. Received: a call that needs one. Work in noise "
    "coordinates: sample them with keras_tilt.sample, or use Tilt.noise_log_prob."
)


def _checked_latent_shape(generator, latent_shape):
    stated = getattr(generator, "input_shape", None)
    stated = None if stated is None else tuple(stated)[1:]
    if latent_shape is None and stated is None:
        raise ValueError(
            "`latent_shape` must be passed where the generator has no `input_shape`. "
            f"Received: None, {generator!r}. Pass the shape of the noise of one image."
        )
    latent_shape = stated if latent_shape is None else latent_shape
    try:
        latent_shape = checked_shape(latent_shape)
    except ValueError:
        raise ValueError(
            "`latent_shape` must be positive whole numbers, the noise of one image. "
            f"Received: {latent_shape!r}. Pass for example [128]."
        ) from None
    if stated is not None and not tf.TensorShape(stated).is_compatible_with(
        latent_shape
    ):
        raise ValueError(
            f"`latent_shape` must agree with generator.input_shape, {stated} for one "
            f"image. Received: {latent_shape}. Leave it out."
        )
    return latent_shape


def _in_inference(generator):
    """The generator, noise -> images in float32, without dropout and the like."""
    parameters = inspect.signature(getattr(generator, "call", generator)).parameters
    arguments = {"training": False} if "training" in parameters else {}
    return lambda z: tf.cast(generator(z, **arguments), tf.float32)


def _image_shape(generate, latent_shape):
    """Shape of one image, found by generating two, which must have a gradient."""

    def generated(noise):
        try:
            return generate(noise)
        except (ValueError, tf.errors.OpError) as error:
            raise ValueError(
                f"`generator` must take noise {['n', *latent_shape]}. Received: an "
                f"error for two of them: {error} Check `latent_shape`."
            ) from error

    images, gradient = differentiate(
        generated,
        tf.zeros([2, *latent_shape]),
        named=("`generator`", "the noise"),
        unconnected=tf.UnconnectedGradients.NONE,
    )
    if gradient is None:
        raise ValueError(
            "`generator` must have a gradient with respect to the noise. Received: one "
            "without. Write it with TensorFlow or keras.ops operations, not NumPy's."
        )
    if images.shape.rank < 2 or images.shape[0] != 2:
        raise ValueError(
            "`generator` must return one image per noise: [n, ...] for "
            f"{['n', *latent_shape]}. Received: shape {images.shape} for two. Wrap it "
            "in a function that reshapes."
        )
    return images.shape[1:]
