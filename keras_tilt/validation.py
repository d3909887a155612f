"""Checks of arguments, of tensors in a graph, and of data that is read once.

An argument that is not what it must be is an error that names it: what was expected,
what was received, what to do. In a graph the same is an assertion of TensorFlow, which
prints its parts in brackets of its own; `sentence_of` finds the sentence in that.
"""

__all__ = [
    "as_array",
    "as_label_map",
    "as_labels",
    "as_names",
    "as_number",
    "check_count",
    "few",
    "given",
    "one_pass",
    "sentence_of",
]

import numbers
import re
from collections.abc import Iterable

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike
from tqdm import auto as tqdm

_MARK = "keras_tilt: "
_ALL = 2**31 - 1  # entries of a tensor that a failed assertion prints
_QUIET = 10.0  # seconds before the bar of a pass is shown


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


def as_labels(name: str, labels: ArrayLike) -> np.ndarray:
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


def as_label_map(name: str, values: ArrayLike) -> np.ndarray:
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


def as_names(name: str, values: Iterable) -> list[str]:
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


# Tensors in a graph


def given(tensor, condition, *parts):
    """The tensor, once a condition holds.

    XLA has no assertions: there it is the tensor whatever holds.

    Args:
        tensor: what is needed only then.
        condition: bool `[]`.
        *parts: of the sentence of the error, str and tensors, joined by spaces; one
            that begins with a full stop ends what is before it.

    Raises:
        tf.errors.InvalidArgumentError: if it does not hold, in a graph when it runs.
    """
    data = [f"{_MARK}{parts[0]}", *parts[1:]]
    if tf.executing_eagerly():
        if not condition:
            words = " ".join(map(_as_printed, data))
            raise tf.errors.InvalidArgumentError(None, None, _joined(words))
        return tensor
    check = tf.debugging.Assert(condition, data, summarize=_ALL)
    with tf.control_dependencies([check]):
        return tf.identity(tensor)


def sentence_of(error):
    """What an error of TensorFlow says if it began as one of ours, or None.

    Args:
        error: of `given`, or of a Python function in a graph whose own error begins
            with "keras_tilt: ".
    """
    message = error.message or ""
    asserted = re.search(rf"assertion failed: \[{_MARK}([^\n]*)\]", message)
    if asserted is not None:
        words = asserted[1].replace("] [", " ")
        return _joined(re.sub(r"\\(['\"\\])", r"\1", words))
    raised = re.search(rf"{_MARK}([^\n]*)", message)
    return None if raised is None else raised[1]


def _as_printed(part):
    """As TensorFlow prints a part in a graph."""
    return part if isinstance(part, str) else " ".join(map(str, np.ravel(part)))


def _joined(words):
    return words.replace(" . ", ". ")


# Data


def one_pass(name, batches, doing):
    """The batches of a data set, one after the other.

    Args:
        name: of the argument, for an error.
        batches: `tf.data.Dataset` or another iterable.
        doing: word of the bar.

    Raises:
        ValueError: a data set that says of itself that it has no end.
    """
    cardinality = getattr(batches, "cardinality", None)
    count = int(cardinality() if callable(cardinality) else cardinality or -2)
    if count == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            f"`{name}` must be a data set that ends, as it is read once from the first "
            "batch to the last. Received: one without an end. Leave out `repeat()`, or "
            "pass a part, `.take(steps)`."
        )
    total = count if count >= 0 else None  # that of a generator is not known
    return tqdm.tqdm(batches, doing, total, unit="batch", leave=False, delay=_QUIET)


def _short(value):
    text = repr(value)
    return text if len(text) < 80 else f"{text[:76]} ..."
