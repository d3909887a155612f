"""A function and its gradient, and a ValueError that names what has no gradient.

    f(z), df/dz,     z: [..., event] -> f: [...]

TensorFlow only names the operation: "gradient registry has no entry for: ResizeArea".
"""

__all__ = ["differentiate", "named_if_missing"]

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf


def differentiate(
    function: Callable[..., tf.Tensor],
    argument: tf.Tensor,
    *others: tf.Tensor,
    named: tuple[str, str] = ("The unit", "the image"),
    unconnected: tf.UnconnectedGradients = tf.UnconnectedGradients.ZERO,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return a function's value and its gradient with respect to one argument.

    Args:
        function: of tensors.
        argument: the tensor to differentiate with respect to.
        *others: further arguments.
        named: both of them in words, for the error.
        unconnected: the gradient where the value does not depend on the argument.

    Returns:
        value: what the function returns.
        gradient: of the sum of the value, like `argument`.

    Raises:
        ValueError: if TensorFlow has no gradient of an operation.
    """
    # Weights unwatched: a quarter of the gradient of a large network would be theirs.
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(argument)
        value = function(argument, *others)
    with named_if_missing(*named):
        return value, tape.gradient(value, argument, unconnected_gradients=unconnected)


@contextlib.contextmanager
def named_if_missing(function: str, variable: str) -> Iterator[None]:
    """Turn a gradient that TensorFlow does not have into a ValueError, within it.

    Args:
        function: what is differentiated, in words: "The unit".
        variable: with respect to what, in words: "the image".
    """
    try:
        yield
    except LookupError as error:
        said: Any = ValueError(
            f"{function} must have a gradient with respect to {variable}. Received: "
            f"an operation that has none ({error}). Write it with another, for example "
            "resize with interpolation='bilinear' and antialias=True in place of "
            "'area', or read a layer before it."
        )
        said.ag_pass_through = True  # tf.function adds no lines of code to it
        raise said from error
