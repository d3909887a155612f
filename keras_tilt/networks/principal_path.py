"""The straight line between codes and images that principal components give.

    logits(code) = mean + (size code) directions
    code(x)      = directions (logit(x) - mean) / size
    spread       = 1 / sqrt(1 + (slope size / sigma)^2)

Mean and directions are those of the logits of images; size is their standard deviation
along a direction, so that codes of images have unit variance. The spread is that of the
codes of one image, where its pixels are known up to sigma, and slope is d pixel / d
logit. A generator adds what its networks know: they need not learn what needs none.
Alone the line is a generator as well, of images of any size:

    T(u) = low + (high - low) sigmoid(enlarged(logits(u))),      u ~ N(0, I)

Source: Tipping and Bishop (1999), "Probabilistic principal component analysis"; as the
start of an autoencoder, Hinton and Salakhutdinov (2006).
"""

__all__ = ["PrincipalGenerator", "PrincipalPath"]

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

_EDGE = 0.02  # shares nearer to black or white than this are moved to it
_LEAST = 1e-3  # of the largest standard deviation: that of any direction


@keras.saving.register_keras_serializable("keras_tilt")
class PrincipalPath(keras.layers.Layer):
    """Layer of codes [n, size] -> logits [n, height, width, channels], not trained.

    Args:
        image_shape: [height, width, channels].
        latent_size: of a code.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(
        self, image_shape: Sequence[int], latent_size: int, **kwargs: Any
    ) -> None:
        super().__init__(trainable=False, **kwargs)
        self.image_shape, self.latent_size = tuple(image_shape), latent_size
        self.num_pixels = math.prod(self.image_shape)

    def build(self, input_shape: Any) -> None:
        """Make the weights, which say nothing before `fit`."""
        shapes = {
            "mean": (self.num_pixels,),
            "directions": (self.latent_size, self.num_pixels),
            "size": (self.latent_size,),
            "spread": (self.latent_size,),
        }
        self.mean, self.directions, self.size, self.spread = (
            self.add_weight(name=name, shape=shape, initializer="ones")
            for name, shape in shapes.items()
        )

    def call(self, code: tf.Tensor) -> tf.Tensor:
        """Return the logits of codes [n, latent_size]."""
        flat = self.mean + (self.size * code) @ self.directions
        return tf.reshape(flat, [-1, *self.image_shape])

    def posterior(
        self, shares: tf.Tensor, shift: tf.Tensor, log_ratio: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return mean and log variance of the codes of images.

        Args:
            shares: [n, height, width, channels], shares of white.
            shift: what is added to their mean, [n, latent_size], in spreads.
            log_ratio: of their variance to the square of the spread, [n, latent_size].
        """
        flat = tf.reshape(_logits(shares), [-1, self.num_pixels])
        code = (flat - self.mean) @ tf.transpose(self.directions) / self.size
        return code + self.spread * shift, log_ratio + 2 * tf.math.log(self.spread)

    def fit(self, shares: np.ndarray, stddev: float) -> None:
        """Take all weights from images, more of them than a code has numbers.

        Args:
            shares: [n, height, width, channels], shares of white.
            stddev: sigma, a share of white.
        """
        flat = np.reshape(_logits(shares), [len(shares), -1]).astype(np.float64)
        mean = flat.mean(axis=0)
        flat -= mean
        is_wide = len(flat) < self.num_pixels
        products = flat @ flat.T if is_wide else flat.T @ flat
        variances, vectors = np.linalg.eigh(products / len(flat))
        largest = np.argsort(-variances)[: self.latent_size]
        size = np.sqrt(np.maximum(variances[largest], 0.0))
        size = np.maximum(size, _LEAST * size[0])
        directions = vectors[:, largest].T
        if is_wide:
            directions = directions @ flat / np.sqrt(len(flat)) / size[:, None]
        self.mean.assign(mean)
        self.directions.assign(directions)
        self.size.assign(size)
        slope = np.mean(shares * (1 - shares))
        self.spread.assign(1 / np.sqrt(1 + (slope * size / stddev) ** 2))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        own = {"image_shape": list(self.image_shape), "latent_size": self.latent_size}
        return super().get_config() | own


@keras.saving.register_keras_serializable("keras_tilt")
class PrincipalGenerator(keras.Model):
    """Noise [n, latent_size] -> images [n, height, width, channels] in a pixel range.

    Made by `fit_components`, and passed to `latent`. `save` and
    `keras.saving.load_model` keep all of it in a .keras file.

    Args:
        fitted_shape: [height, width, channels] of the images it was fitted to.
        latent_size: numbers of noise of one image.
        image_shape: of its own images, the same or larger; None for the same.
        low: black, in units of a pixel.
        high: white.
        law: numbers by name that say what it leaves out; None before the fit.
        **kwargs: of `keras.Model`.

    Raises:
        ValueError: for an `image_shape` that is smaller, or of other channels.

    Attributes:
        law: as passed.
        image_shape: of one image, a tuple.
        low, high: as passed.
    """

    def __init__(
        self,
        fitted_shape: Sequence[int],
        latent_size: int,
        image_shape: Sequence[int] | None = None,
        low: float = 0.0,
        high: float = 255.0,
        law: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.fitted_shape, self.latent_size = tuple(fitted_shape), latent_size
        self.image_shape = tuple(image_shape or fitted_shape)
        _check_is_larger(self.image_shape, self.fitted_shape)
        self.low, self.high = float(low), float(high)
        self.law = None if law is None else dict(law)
        self.components = PrincipalPath(self.fitted_shape, latent_size)
        self.components.build((None, latent_size))
        self._rows, self._columns = (
            _enlarging(*sizes)
            for sizes in zip(self.fitted_shape[:2], self.image_shape[:2], strict=True)
        )
        self.built = True

    @property
    def input_shape(self) -> tuple[None, int]:
        """The shape of noise."""
        return (None, self.latent_size)

    def call(self, noise: tf.Tensor) -> tf.Tensor:
        """Return the images of noise [n, latent_size]."""
        logits = self.components(noise)
        if self.image_shape != self.fitted_shape:
            logits = tf.einsum("ri,nijc->nrjc", self._rows, logits)
            logits = tf.einsum("sj,nrjc->nrsc", self._columns, logits)
        return self.low + (self.high - self.low) * tf.sigmoid(logits)

    def encode(self, images: ArrayLike) -> tf.Tensor:
        """Return the noise whose images are nearest to some images: [n, latent_size].

        Chains can start there, `initial_noise` of `keras_tilt.sample`.

        Args:
            images: [n, height, width, channels], from `low` to `high`, of any size.
        """
        pixels = tf.convert_to_tensor(images, tf.float32)
        small = tf.image.resize(pixels, self.fitted_shape[:2], antialias=True)
        shares = (small - self.low) / (self.high - self.low)
        nothing = tf.zeros([])
        return self.components.posterior(shares, nothing, nothing)[0]

    def resized(
        self, image_shape: Sequence[int], low: float, high: float
    ) -> "PrincipalGenerator":
        """Return a generator of the same images of another size and range of pixels.

        Args:
            image_shape: as in the constructor.
            low: black.
            high: white.
        """
        own = {"image_shape": list(image_shape), "low": low, "high": high}
        other = PrincipalGenerator.from_config(self.get_config() | own)
        other.set_weights(self.get_weights())
        return other

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        own = {
            "fitted_shape": list(self.fitted_shape),
            "latent_size": self.latent_size,
            "image_shape": list(self.image_shape),
            "low": self.low,
            "high": self.high,
            "law": self.law,
        }
        return super().get_config() | own


def _check_is_larger(image_shape, fitted_shape):
    sizes = zip(image_shape[:2], fitted_shape[:2], strict=True)
    same_channels = image_shape[2:] == fitted_shape[2:]
    if not same_channels or any(size < fitted for size, fitted in sizes):
        raise ValueError(
            "`image_shape` must be as large as the images it was fitted to, "
            f"{fitted_shape}, or larger. Received: {image_shape}. Fit to smaller ones."
        )


def _enlarging(size, larger):
    """The matrix of bicubic interpolation along an edge, [larger, size]."""
    unit = tf.eye(size)[:, :, None]
    return tf.image.resize(unit, [larger, size], method="bicubic")[:, :, 0]


def _logits(shares):
    inside = tf.clip_by_value(tf.convert_to_tensor(shares), _EDGE, 1 - _EDGE)
    return tf.math.log(inside) - tf.math.log1p(-inside)
