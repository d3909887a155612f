"""A flow between white noise and the codes of images, layer by layer invertible.

    code = T_1(T_2(... T_n(u)))        u ~ N(0, I)
    T(a, b) = (a, b exp(s(a)) + t(a))  a, b: halves of the numbers, in another order
                                       for every layer; s, t: a small network

so that log p(code) = log N(u; 0, I) - sum s is known, and so is the way back.

Source: Dinh, Sohl-Dickstein and Bengio (2017), "Density estimation using Real NVP".
"""

__all__ = ["CouplingFlow"]

from typing import Any

import keras
import numpy as np
import tensorflow as tf

_MOST = 2.0  # |s|: no layer stretches by more than exp(2)


@keras.saving.register_keras_serializable("keras_tilt")
class CouplingFlow(keras.layers.Layer):
    """Invertible layer of noise [n, size] to codes [n, size], a Real NVP.

    Args:
        size: of a code, from 2.
        couplings: how many halves are transformed, one after the other.
        hidden: units in each of the two hidden layers of a coupling.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(
        self, size: int, couplings: int = 6, hidden: int = 128, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.size, self.couplings, self.hidden = size, couplings, hidden
        self._orders = [
            np.random.default_rng(i).permutation(size) for i in range(couplings)
        ]
        self._networks = [_network(size, hidden) for _ in range(couplings)]

    def build(self, input_shape: Any) -> None:
        """Make the weights of all couplings."""
        for network in self._networks:
            network.build((None, self.size // 2))
        self.built = True

    def call(self, noise: tf.Tensor) -> tf.Tensor:
        """Return the codes of noise [n, size]."""
        code = noise
        for order, network in zip(
            reversed(self._orders), reversed(self._networks), strict=True
        ):
            a, b = self._halves(code)
            scale, shift = _scale_and_shift(network, a)
            code = tf.concat([a, b * tf.exp(scale) + shift], axis=-1)
            code = tf.gather(code, np.argsort(order), axis=-1)
        return code

    def to_noise(self, code: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the inverse and its log determinant.

        Args:
            code: [n, size].

        Returns:
            noise: u, [n, size].
            log_det: log |du / dcode|, [n].
        """
        noise, log_det = code, tf.zeros_like(code[:, 0])
        for order, network in zip(self._orders, self._networks, strict=True):
            a, b = self._halves(tf.gather(noise, order, axis=-1))
            scale, shift = _scale_and_shift(network, a)
            noise = tf.concat([a, (b - shift) * tf.exp(-scale)], axis=-1)
            log_det -= tf.reduce_sum(scale, axis=-1)
        return noise, log_det

    def _halves(self, values):
        half = self.size // 2
        return values[:, :half], values[:, half:]

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        own = {
            "size": self.size,
            "couplings": self.couplings,
            "hidden": self.hidden,
        }
        return super().get_config() | own


def _network(size, hidden):
    """The network of a coupling; with zeros in its last layer it changes nothing."""
    dense = keras.layers.Dense
    return keras.Sequential(
        [
            dense(hidden, activation="relu"),
            dense(hidden, activation="relu"),
            dense(2 * (size - size // 2), kernel_initializer="zeros"),
        ]
    )


def _scale_and_shift(network, half):
    scale, shift = tf.split(network(half), 2, axis=-1)
    return _MOST * tf.tanh(scale / _MOST), shift
