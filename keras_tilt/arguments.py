"""Arguments as numbers: what is none is an error that names the argument."""

__all__ = ["as_array", "as_number", "check_count", "few"]

import numbers

import numpy as np


def as_array(name, value, dtype=np.float64, what="a number or an array of numbers"):
    """A number, or an array of numbers; text and None are neither.

    Raises:
        ValueError: if it is not.
    """
    try:
        array = np.asarray(value)
        if array.dtype.kind in "OSUMmc":
            raise TypeError(f"Numbers are no {array.dtype}.")
        return array.astype(dtype, copy=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{name}` must be {what}. Received: {_short(value)}. "
            "Numbers are no text, and rows have one length."
        ) from error


def as_number(name, value):
    """A float.

    Raises:
        ValueError: if it is not a single number.
    """
    number = as_array(name, value, what="a number")
    if number.ndim:
        raise ValueError(
            f"`{name}` must be a number. Received: an array of shape {number.shape}. "
            "Pass a single one."
        )
    return float(number)


def check_count(name, value, smallest, largest=2**31 - 1):
    """Raise a ValueError unless it is a whole number within a range."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or not smallest <= value <= largest:
        raise ValueError(
            f"`{name}` must be a whole number from {smallest} to {largest}. "
            f"Received: {value!r}. Pass for example {name}={max(10, smallest)}."
        )


def few(values):
    """The first numbers of an array, for an error."""
    return ", ".join(f"{value:.4g}" for value in np.ravel(values)[:4])


def _short(value):
    text = repr(value)
    return text if len(text) < 80 else f"{text[:76]} ..."
