"""Signatures of a servable: graphs of rows, which check what a client sends.

    row -> answer, of every row by itself: a row is the same whatever stands beside it

A server does not hold what it feeds against the shapes of a signature, so that the
graph does; what it refuses is INVALID_ARGUMENT with a sentence.
"""

__all__ = ["MOST_ROWS", "after", "checked_rows", "decoded", "read_once", "traced"]

import keras
import tensorflow as tf

MOST_ROWS = 64  # of a request; a server that batches makes no larger ones either


class read_once(keras.StatelessScope):  # noqa: N801 (a context)
    """Within it the variables are tensors that were read outside of all loops.

    TensorFlow runs the iterations of a loop that reads variables one after the other,
    and those of a loop that does not, the rows, beside each other.
    """

    def __init__(self, variables):
        super().__init__([(one, tf.convert_to_tensor(one.value)) for one in variables])


def traced(function, *specs, **named_specs):
    """Return the one graph of a function, which is made now and never again."""
    graph = tf.function(function, autograph=False)
    return graph.get_concrete_function(*specs, **named_specs)


def after(checks, rows):
    """Return the same rows, once the checks have passed."""
    with tf.control_dependencies(checks):
        return {name: tf.identity(values) for name, values in rows.items()}


def checked_rows(**inputs):
    """Return the inputs, as many rows of each, and no more than there may be."""
    inputs = {name: tf.ensure_shape(rows, rows.shape) for name, rows in inputs.items()}
    sizes = [tf.shape(rows)[0] for rows in inputs.values()]
    names = ", ".join(f"`{name}`" for name in inputs)
    checks = [
        tf.debugging.Assert(
            tf.reduce_all(tf.stack(sizes) == sizes[0]),
            [f"{names} must have as many rows. Received: ", tf.stack(sizes)],
        ),
        tf.debugging.Assert(
            sizes[0] <= MOST_ROWS,
            [f"A request has at most {MOST_ROWS} rows. Received: ", sizes[0]],
        ),
    ]
    return after(checks, inputs)


def decoded(data, channels):
    """Return the pixels of a JPEG, PNG, GIF or BMP file, uint8 [h, w, channels]."""
    image = tf.io.decode_image(data, channels, expand_animations=False)
    image.set_shape([None, None, channels])
    return image
