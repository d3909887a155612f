"""Signatures of a servable: graphs of requests, which check what a client sends.

    request -> answer, each by itself: the same whatever stands beside it

A server merges requests into a batch, and does not validate inputs against the
signature, so that the graph does; what it refuses is INVALID_ARGUMENT with a message.
"""

__all__ = [
    "MOST_ROWS",
    "after",
    "checked_rows",
    "each_row",
    "provided",
    "read_once",
    "traced",
]

import keras
import tensorflow as tf

MOST_ROWS = 64  # of a request; a server that batches makes no larger ones either


def traced(function, *specs, **named_specs):
    """Return the one graph of a function, which is made now and never again."""
    graph = tf.function(function, autograph=False)
    return graph.get_concrete_function(*specs, **named_specs)


class read_once(keras.StatelessScope):  # noqa: N801 (a context)
    """Within it the variables are tensors that were read outside of all loops.

    TensorFlow runs the iterations of a loop that reads variables one after the other,
    and those of a loop that does not, the rows, beside each other.
    """

    def __init__(self, variables):
        super().__init__([(one, tf.convert_to_tensor(one.value)) for one in variables])


def each_row(function, rows, specs, variables, at_once):
    """Return the answers of a function to rows that are answered one by one.

    Args:
        function: dict of tensors of one row -> dict of tensors, called as
            function(**row).
        rows: dict of tensors [rows, ...].
        specs: dict of `tf.TensorSpec` of one answer.
        variables: those of Keras that it reads.
        at_once: how many rows may run beside each other.
    """
    with read_once(variables):
        return tf.map_fn(
            lambda row: function(**row),
            rows,
            fn_output_signature=specs,
            parallel_iterations=at_once,
        )


# Checks


def after(checks, rows):
    """Return the same rows, once the checks have passed."""
    with tf.control_dependencies(checks):
        return {name: tf.identity(values) for name, values in rows.items()}


def provided(condition, value, *message, summarize=None):
    """Return the tensor, or an error with a message if a condition does not hold.

    Args:
        condition: bool [].
        value: tensor.
        *message: text and tensors.
        summarize: how many entries of each tensor the message shows.
    """
    check = tf.debugging.Assert(condition, [*message], summarize=summarize)
    return after([check], {"value": value})["value"]


def checked_rows(least=0, **inputs):
    """Return the inputs, as many rows of each, and as many as there may be."""
    inputs = {name: tf.ensure_shape(rows, rows.shape) for name, rows in inputs.items()}
    sizes = [tf.shape(rows)[0] for rows in inputs.values()]
    names = ", ".join(f"`{name}`" for name in inputs)
    checks = [
        tf.debugging.Assert(
            tf.reduce_all(tf.stack(sizes) == sizes[0]),
            [f"{names} must have as many rows. Received: ", tf.stack(sizes)],
        ),
        tf.debugging.Assert(
            (sizes[0] >= least) & (sizes[0] <= MOST_ROWS),
            [
                f"A request has at least {least} and at most {MOST_ROWS} rows. "
                "Received: ",
                sizes[0],
            ],
        ),
    ]
    return after(checks, inputs)
