"""Arguments as numbers: what is none is an error that names the argument."""

__all__ = [
    "as_array",
    "as_label_map",
    "as_labels",
    "as_names",
    "as_number",
    "check_count",
    "few",
]

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


def as_labels(name, labels):
    """Class numbers, int32 [n], of integers of any type.

    Args:
        name: of the argument, for an error.
        labels: integers [n] or a column [n, 1]; what a class number may be is left to
            the caller, -1 commonly marks an unlabelled image.

    Returns:
        labels: int32 [n], the same numbers.

    Raises:
        ValueError: for text, floats or one-hot rows, or a number beyond int32, that
            would become another one.

    Example:
        >>> as_labels("labels", np.array([[3], [7]], np.uint8))
        array([3, 7], dtype=int32)
    """
    array = np.asarray(labels)
    if array.dtype.kind not in "iu":
        raise ValueError(
            f"`{name}` must be integers, a class number each. Received: "
            f"{array.dtype} {list(array.shape)}, {_short(labels)}. Class names become "
            f"numbers by `np.unique({name}, return_inverse=True)[1]`, floats by "
            "`astype('int32')`, one-hot rows by `argmax(axis=-1)`."
        )
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(
            f"`{name}` must have shape [n], a class number each. Received: shape "
            f"{list(array.shape)}. One-hot rows become class numbers by "
            "`argmax(axis=-1)`."
        )
    whole = array.astype(np.int32)
    other = whole != array
    if np.any(other):
        raise ValueError(
            f"`{name}` must be class numbers. Received: {array[other][0]}, which is "
            "beyond int32. Number the classes from 0."
        )
    return whole


def as_label_map(name, values):
    """A label of every pixel, int32 [height, width], of integers of any type.

    Raises:
        ValueError: for another shape, for floats, or for a number below -1 or beyond
            int32, that would become another one.
    """
    values = np.asarray(values)
    if values.dtype.kind not in "iu" or values.ndim != 2 or not values.size:
        raise ValueError(
            f"`{name}` must be integers [height, width]. Received: {values.dtype} "
            f"{list(values.shape)}. Number what is there from 0; -1 is nothing."
        )
    if values.min() < -1 or values.max() >= 2**31:
        raise ValueError(
            f"`{name}` must be from -1 to 2^31 - 1. Received: {values.min()} to "
            f"{values.max()}. Number what is there from 0; -1 is nothing."
        )
    return values.astype(np.int32, copy=False)


def as_names(name, values):
    """A list of text, of names that may be bytes in UTF-8 or numbers.

    NumPy holds names as bytes, too, and stores them so; `str` of such a name is another
    one, "b'cat'".

    Raises:
        ValueError: for a single text, or bytes that are not UTF-8.

    Example:
        >>> as_names("class_names", np.array([b"cat", b"dog"]))
        ['cat', 'dog']
    """
    if isinstance(values, str | bytes | np.ndarray) and np.ndim(values) != 1:
        raise ValueError(
            f"`{name}` must be a list of names. Received: {_short(values)}. "
            "Pass a list, also of one name."
        )
    return [_as_text(name, value) for value in values]


def _as_text(name, value):
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"`{name}` must be text, or bytes in UTF-8. Received: {bytes(value)!r}. "
            "Decode them first, for example with name.decode('latin-1')."
        ) from error


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
