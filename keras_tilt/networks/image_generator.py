"""A generator of images that `fit_latent` fits, with the encoder it is fitted with.

    T(u) = low + (high - low) sigmoid(logits(flow(u))),      u ~ N(0, I)
    u(x) = flow^-1(mean of the codes of x)                   T(u(x)) is near x

The networks are small enough for two cores: transposed convolutions from about 4 x 4
cells up to the image.
"""

__all__ = ["ImageGenerator"]

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tilt.networks.coupling_flow import CouplingFlow
from keras_tilt.networks.principal_path import PrincipalPath
from keras_tilt.validation import check_count

_COARSEST = 4  # cells along the shorter edge of the image, at least
_HIDDEN = 256  # units between a code and the coarsest cells
_LEAST_HIDDEN = 128  # units of a layer of the flow
_LOG_VARIANCES = (-10.0, 3.0)  # of a code given an image


@keras.saving.register_keras_serializable("keras_tilt")
class ImageGenerator(keras.Model):
    """Noise [n, latent_size] -> images [n, height, width, channels] in a pixel range.

    Made by `fit_latent`, and passed to `latent`. `save` and `keras.saving.load_model`
    keep all of it in a .keras file.

    Args:
        image_shape: [height, width, channels] of one image.
        latent_size: numbers of noise of one image.
        width: channels of the finest cells; they double with every halving of an edge.
        low: black, in units of a pixel.
        high: white.
        principal: whether the logits are those of principal components, and the decoder
            adds to them; see `keras_tilt.networks.principal_path`.
        law: numbers by name that say how far its images are from those it was fitted
            to, as `fit_latent` measures them; None before.
        **kwargs: of `keras.Model`.

    Raises:
        ValueError: for an argument out of its range.

    Attributes:
        law: as passed.
        image_shape: as passed, a tuple.
        low, high: as passed.

    Source: Kingma and Welling (2014), "Auto-encoding variational Bayes"; for the flow
    see `keras_tilt.networks.coupling_flow`.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_size: int,
        width: int = 32,
        low: float = 0.0,
        high: float = 255.0,
        principal: bool = False,
        law: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _check(image_shape, latent_size, width, low, high)
        self.image_shape = tuple(map(int, image_shape))
        self.latent_size, self.width = latent_size, width
        self.low, self.high = float(low), float(high)
        self.law = None if law is None else dict(law)
        hidden = max(_LEAST_HIDDEN, 2 * latent_size)
        self.flow = CouplingFlow(latent_size, hidden=hidden, name="flow")
        self.decoder = _decoder(self.image_shape, latent_size, width)
        self.encoder = _encoder(self.image_shape, latent_size, width)
        self.flow.build((None, latent_size))
        self.principal = None
        if principal:
            self.principal = PrincipalPath(self.image_shape, latent_size)
            self.principal.build((None, latent_size))
        self.built = True

    @property
    def input_shape(self) -> tuple[None, int]:
        """The shape of noise."""
        return (None, self.latent_size)

    def call(self, noise: tf.Tensor) -> tf.Tensor:
        """Return the images of noise [n, latent_size]."""
        shares = self.decode(self.flow(noise))
        return self.low + (self.high - self.low) * shares

    def decode(self, code: tf.Tensor) -> tf.Tensor:
        """Return the images of codes [n, latent_size], as shares of white."""
        logits = self.decoder(code)
        if self.principal is not None:
            logits += self.principal(code)
        return tf.sigmoid(logits)

    def encode(self, images: ArrayLike) -> tf.Tensor:
        """Return noise whose images are near some images: [n, latent_size].

        Chains can start there, `initial_noise` of `keras_tilt.sample`.

        Args:
            images: [n, height, width, channels], from `low` to `high`.
        """
        pixels = tf.convert_to_tensor(images, tf.float32)
        code, _ = self.codes((pixels - self.low) / (self.high - self.low))
        return self.flow.to_noise(code)[0]

    def codes(self, shares: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return mean and log variance of the codes of images, [n, latent_size] each.

        Args:
            shares: images as shares of white, [n, height, width, channels] in [0, 1].
        """
        mean, log_variance = tf.split(self.encoder(shares), 2, axis=-1)
        if self.principal is not None:
            mean, log_variance = self.principal.posterior(shares, mean, log_variance)
        return mean, tf.clip_by_value(log_variance, *_LOG_VARIANCES)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        own = {
            "image_shape": list(self.image_shape),
            "latent_size": self.latent_size,
            "width": self.width,
            "low": self.low,
            "high": self.high,
            "principal": self.principal is not None,
            "law": self.law,
        }
        return super().get_config() | own


def _check(image_shape, latent_size, width, low, high):
    """Raise a ValueError for what no network can be made of."""
    shape = tuple(image_shape)
    whole = all(isinstance(size, numbers.Integral) and size > 0 for size in shape)
    if len(shape) != 3 or not whole:
        raise ValueError(
            "`image_shape` must be [height, width, channels], positive whole numbers. "
            f"Received: {image_shape!r}. Pass for example [28, 28, 1]."
        )
    check_count("latent_size", latent_size, 2)
    check_count("width", width, 1)
    if not low < high:
        raise ValueError(
            "`low` must be below `high`, black and white. Received: "
            f"low={low!r}, high={high!r}. Swap or widen them."
        )


def _encoder(image_shape, latent_size, width):
    """A network of images in [0, 1] to mean and log variance of their codes."""
    layers = keras.layers
    stack = [keras.Input(tuple(image_shape))]
    for halving in range(_halvings(image_shape)):
        channels = max(1, width // 2) * 2**halving
        stack.append(
            layers.Conv2D(channels, 4, strides=2, padding="same", activation="relu")
        )
    stack += [layers.Flatten(), layers.Dense(_HIDDEN, activation="relu")]
    return keras.Sequential([*stack, layers.Dense(2 * latent_size)], name="encoder")


def _decoder(image_shape, latent_size, width):
    """A network of codes to logits of pixels."""
    layers = keras.layers
    halvings = _halvings(image_shape)
    *edges, channels = image_shape
    cells = [math.ceil(edge / 2**halvings) for edge in edges]
    coarsest = width * 2 ** max(halvings - 1, 0)
    stack = [
        keras.Input((latent_size,)),
        layers.Dense(_HIDDEN, activation="relu"),
        layers.Dense(math.prod(cells) * coarsest, activation="relu"),
        layers.Reshape((*cells, coarsest)),
    ]
    for halving in reversed(range(1, halvings)):
        stack.append(_upwards(width * 2 ** (halving - 1), activation="relu"))
    if halvings:
        stack.append(_upwards(channels))
    else:
        stack.append(layers.Conv2D(channels, 3, padding="same"))
    beyond = [
        (0, cell * 2**halvings - edge) for cell, edge in zip(cells, edges, strict=True)
    ]
    if any(end for _, end in beyond):
        stack.append(layers.Cropping2D(beyond))
    return keras.Sequential(stack, name="decoder")


def _upwards(channels, **options):
    return keras.layers.Conv2DTranspose(
        channels, 4, strides=2, padding="same", **options
    )


def _halvings(image_shape):
    """How often the edges of an image are halved."""
    shortest = min(image_shape[:2])
    return max(0, int(math.log2(shortest / _COARSEST))) if shortest > _COARSEST else 0
