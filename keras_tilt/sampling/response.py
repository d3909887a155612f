"""f and its gradient as one graph, which all graphs that call it share.

    factor f(z, arguments),     z: noise [..., event] -> [...], nats

On a CPU, TensorFlow replaces the gradient of a max pooling by oneDNN's, which is
several times as fast, only if it has replaced the pooling before; and in the cycle of a
loop there is no before. In a graph of their own there is.
"""

__all__ = ["Response", "TiltFn", "differentiated", "value_and_gradient"]

import copy
import functools
from collections.abc import Callable, Sequence

import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tilt.reference.gradients import differentiate

TiltFn = Callable[..., tf.Tensor]  # (noise [..., event], *arguments) -> f [...], nats


class Response:
    """f and its gradient as a graph of their own: see the module.

    Args:
        tilt_fn: f, (noise [..., event], *arguments) -> f [...], nats.
        autograph: whether Python's `if` and `for` on tensors in `tilt_fn` are
            converted; tracing a large network then takes longer.
    """

    def __init__(self, tilt_fn: TiltFn, autograph: bool = True) -> None:
        self._together = tf.function(
            functools.partial(differentiate, tilt_fn),
            autograph=autograph,
            experimental_attributes={"_noinline": True},
        )
        self._arguments, self._factor = (), None

    def at(self, arguments: Sequence[tf.Tensor]) -> "Response":
        """Return the function at given further arguments, a sequence of tensors."""
        return self._with(_arguments=tuple(arguments))

    def times(self, factor: ArrayLike) -> "Response":
        """Return the function with a factor, broadcastable to f, outside its graph."""
        return self._with(_factor=factor)

    def _with(self, **attributes):
        twin = copy.copy(self)
        vars(twin).update(attributes)
        return twin

    def value_and_gradient(self, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return f and its gradient."""
        f, gradient = self._together(noise, *self._arguments)
        if self._factor is None:
            return f, gradient
        factor = tf.convert_to_tensor(self._factor)
        of_events = [1] * (noise.shape.rank - f.shape.rank)
        of_noise = tf.reshape(factor, [*factor.shape, *of_events])
        return factor * f, of_noise * gradient

    def __call__(self, noise):
        """Return f with its gradient attached, for an outer tape.

        Not as a custom gradient, which TensorFlow never frees, nor the graph that it is
        in: as a linear function with the value and the gradient of f.
        """
        value, gradient = map(tf.stop_gradient, self.value_and_gradient(noise))
        events = range(value.shape.rank, noise.shape.rank)
        moved = noise - tf.stop_gradient(noise)  # by zero
        return value + tf.reduce_sum(moved * gradient, axis=[*events])


def value_and_gradient(
    tilt_fn: TiltFn, noise: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return f and its gradient, which is zero where f does not depend on the noise.

    In a graph they are a function of their own: see `Response`.
    """
    return differentiated(tilt_fn)(noise)


def differentiated(
    tilt_fn: TiltFn,
) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """Return the function noise -> (f, gradient), traced at most once in a graph."""
    if isinstance(tilt_fn, Response):
        return tilt_fn.value_and_gradient
    if tf.executing_eagerly():
        return lambda noise: differentiate(tilt_fn, noise)
    return Response(tilt_fn).value_and_gradient
