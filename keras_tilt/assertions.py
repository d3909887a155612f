"""What must hold of tensors, checked in the graph, and the sentence where it does not.

TensorFlow prints the parts of an assertion in brackets of its own, between the name of
a function and that of a node: `sentence_of` finds the sentence in that.
"""

__all__ = ["given", "sentence_of"]

import re

import numpy as np
import tensorflow as tf

_MARK = "keras_tilt: "
_ALL = 2**31 - 1  # entries of a tensor that a failed assertion prints


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
