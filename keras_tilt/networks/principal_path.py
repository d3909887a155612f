"""The straight line between codes and images that principal components give.

    logits(code) = mean + (size code) directions
    code(x)      = directions (logit(x) - mean) / size
    spread       = 1 / sqrt(1 + (slope size / sigma)^2)

Mean and directions are those of the logits of images; size is their standard deviation
along a direction, so that codes of images have unit variance. The spread is that of the
codes of one image, where its pixels are known up to sigma, and slope is d pixel / d
logit. A generator adds what its networks know: they need not learn what needs none.

Source: Tipping and Bishop (1999), "Probabilistic principal component analysis"; as the
start of an autoencoder, Hinton and Salakhutdinov (2006).
"""

__all__ = ["PrincipalPath"]

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

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


def _logits(shares):
    inside = tf.clip_by_value(tf.convert_to_tensor(shares), _EDGE, 1 - _EDGE)
    return tf.math.log(inside) - tf.math.log1p(-inside)
