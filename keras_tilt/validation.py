"""Checks of arguments, of tensors in a graph, and of data that is read once.

An error names the argument and says what was expected, what was received, and what to
do. In a graph it is an assertion of TensorFlow, which prints its parts in brackets;
`sentence_of` finds the message in them.
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
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, DTypeLike
from tqdm import auto as tqdm

_MARK = "keras_tilt: "
_ALL = 2**31 - 1  # entries of a tensor that a failed assertion prints
_QUIET = 10.0  # seconds before the bar of a pass is shown


def as_array(
    name: str,
    value: ArrayLike,
    dtype: DTypeLike = np.float64,
    what: str = "a number or an array of numbers",
) -> np.ndarray:
    """Return a number, or an array of numbers, as an array.

    Args:
        name: of the argument, for an error.
        value: what was received.
        dtype: of the array.
        what: what was expected, for an error.

    Raises:
        ValueError: for anything else, such as text or None.
    """
    try:
        array = np.asarray(value)
        if array.dtype.kind in "OSUMmc":
            raise TypeError(f"Expected numbers. Received: {array.dtype}.")
        return array.astype(dtype, copy=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{name}` must be {what}. Received: {_short(value)}. "
            "Convert text to numbers, and give all rows one length."
        ) from error


def as_number(name: str, value: ArrayLike) -> float:
    """Return a single number as a float.

    Raises:
        ValueError: for anything else.
    """
    number = as_array(name, value, what="a number")
    if number.ndim:
        raise ValueError(
            f"`{name}` must be a number. Received: an array of shape {number.shape}. "
            "Pass a single one."
        )
    return float(number)


def as_labels(name: str, labels: ArrayLike) -> np.ndarray:
    """Return class indices of any integer type as int32.

    Args:
        name: of the argument, for an error.
        labels: integers `[n]` or a column `[n, 1]`. The caller checks their range; -1
            commonly marks an unlabelled image.

    Returns:
        labels: int32 `[n]`, the same numbers.

    Raises:
        ValueError: for text, floats or one-hot rows, or a number beyond int32, which
            would become another one.

    Example:
        >>> as_labels("labels", np.array([[3], [7]], np.uint8))
        array([3, 7], dtype=int32)
    """
    array = np.asarray(labels)
    if array.dtype.kind not in "iu":
        raise ValueError(
            f"`{name}` must be integers, a class index each. Received: "
            f"{array.dtype} {list(array.shape)}, {_short(labels)}. Class names become "
            f"indices by `np.unique({name}, return_inverse=True)[1]`, floats by "
            "`astype('int32')`, one-hot rows by `argmax(axis=-1)`."
        )
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(
            f"`{name}` must have shape [n], a class index each. Received: shape "
            f"{list(array.shape)}. One-hot rows become class indices by "
            "`argmax(axis=-1)`."
        )
    whole = array.astype(np.int32)
    other = whole != array
    if np.any(other):
        raise ValueError(
            f"`{name}` must be class indices. Received: {array[other][0]}, which is "
            "beyond int32. Number the classes from 0."
        )
    return whole


def as_label_map(name: str, values: ArrayLike) -> np.ndarray:
    """Return a map of labels of any integer type as int32 `[height, width]`.

    Raises:
        ValueError: for another shape, for floats, or for a number below -1 or beyond
            int32, which would become another one.
    """
    values = np.asarray(values)
    if values.dtype.kind not in "iu" or values.ndim != 2 or not values.size:
        raise ValueError(
            f"`{name}` must be integers [height, width]. Received: {values.dtype} "
            f"{list(values.shape)}. Number from 0; -1 marks pixels without one."
        )
    if values.min() < -1 or values.max() >= 2**31:
        raise ValueError(
            f"`{name}` must be from -1 to 2^31 - 1. Received: {values.min()} to "
            f"{values.max()}. Number from 0; -1 marks pixels without one."
        )
    return values.astype(np.int32, copy=False)


def as_names(name: str, values: Iterable) -> list[str]:
    """Return names, which may be text, bytes in UTF-8 or numbers, as a list of text.

    NumPy may hold names as bytes, and stores them so; `str` would turn b'cat' into the
    text "b'cat'".

    Raises:
        ValueError: for a single text, or bytes that are not UTF-8.

    Example:
        >>> as_names("class_names", np.array([b"cat", b"dog"]))
        ['cat', 'dog']
    """
    if isinstance(values, str | bytes | np.ndarray) and np.ndim(values) != 1:
        raise ValueError(
            f"`{name}` must be a list of names. Received: {_short(values)}. "
            "Pass a list, even for a single name."
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


def check_count(name: str, value: int, smallest: int, largest: int = 2**31 - 1) -> None:
    """Raise a ValueError unless a value is a whole number within a range."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or not smallest <= value <= largest:
        raise ValueError(
            f"`{name}` must be a whole number from {smallest} to {largest}. "
            f"Received: {value!r}. Pass for example {name}={max(10, smallest)}."
        )


def check_seed(seed: int) -> None:
    """Raise a ValueError unless NumPy can draw by a seed."""
    check_count("seed", seed, 0, 2**63 - 1)


def few(values: ArrayLike) -> str:
    """Return the first numbers of an array as text, for an error."""
    return ", ".join(f"{value:.4g}" for value in np.ravel(values)[:4])


# Tensors in a graph


def given(tensor: tf.Tensor, condition: tf.Tensor, *parts: Any) -> tf.Tensor:
    """Return a tensor, once a condition holds.

    XLA has no assertions: there the condition is not checked.

    Args:
        tensor: any tensor.
        condition: bool `[]`.
        *parts: of the message of the error, text and tensors, joined by spaces; there
            is no space before a part that begins with a full stop.

    Raises:
        tf.errors.InvalidArgumentError: if it does not hold; in a graph when it runs.
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


def sentence_of(error: tf.errors.OpError) -> str | None:
    """Return the message of an error that this package raised in a graph, or None.

    Args:
        error: as TensorFlow raises it, of `given`, or of a Python function in a graph
            that raised an error beginning with "keras_tilt: ".
    """
    message = error.message or ""
    asserted = re.search(rf"assertion failed: \[{_MARK}([^\n]*)\]", message)
    if asserted is not None:
        words = asserted[1].replace("] [", " ")
        return _joined(re.sub(r"\\(['\"\\])", r"\1", words))
    raised = re.search(rf"{_MARK}([^\n]*)", message)
    return None if raised is None else raised[1]


def _as_printed(part):
    """Return a part as TensorFlow prints it in a graph."""
    return part if isinstance(part, str) else " ".join(map(str, np.ravel(part)))


def _joined(words):
    return words.replace(" . ", ". ")


# Data


def one_pass(name: str, batches: Iterable, doing: str) -> Iterable:
    """Return the batches of a data set, one after the other, with a progress bar.

    The bar is shown if a pass takes more than 10 seconds.

    Args:
        name: of the argument, for an error.
        batches: `tf.data.Dataset` or another iterable.
        doing: what is done, for the bar.

    Raises:
        ValueError: for a data set whose cardinality is infinite.
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
