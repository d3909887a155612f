"""Signatures of a servable: graphs of rows, which check what a client sends.

    row -> answer, of every row by itself: a row is the same whatever stands beside it

A server does not hold what it feeds against the shapes of a signature, so that the
graph does; what it refuses is INVALID_ARGUMENT with a sentence.
"""

__all__ = [
    "MOST_PIXELS",
    "MOST_ROWS",
    "after",
    "checked_file",
    "checked_rows",
    "decoded",
    "read_once",
    "traced",
    "upright",
]

import keras
import tensorflow as tf

from keras_tilt.data import image_files

MOST_PIXELS = 2**24  # of an image: float32 counts of more are not exact
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


def decoded(data, channels):
    """Return the pixels of a JPEG, PNG or BMP file as stored, uint8 [h, w, channels].

    Whoever answers with a map of pixels takes these, as its labels are for pixels as
    the client has them.
    """
    return image_files.decoded(checked_file(data), channels)


def upright(data, channels):
    """Return the same, turned upright where the EXIF data of a file say so."""
    return image_files.upright(checked_file(data), channels)


def checked_file(data):
    """Return a file of an image, if its header says that it has not too many pixels.

    A small file may be of an image that takes all memory. One of GIF may have any
    number of them, and is refused.
    """
    data = _after_check(
        tf.strings.length(data) >= _HEADER,
        [f"An image must be a file of {_HEADER} bytes or more. Received: "],
        tf.strings.length(data),
        data,
    )
    kind = tf.strings.substr(data, 0, 4)
    data = _after_check(
        kind != b"GIF8", ["Send JPEG, PNG or BMP files. Received: "], kind, data
    )
    shape = tf.case(
        [
            (kind == b"\x89PNG", lambda: _big_endian(data, _PNG_SIZE)),
            (
                tf.strings.substr(data, 0, 2) == b"\xff\xd8",
                lambda: tf.cast(tf.io.extract_jpeg_shape(data)[:2], tf.int64),
            ),
        ],
        default=lambda: tf.zeros([2], tf.int64),  # of a file as large as its pixels
    )
    return _after_check(
        tf.reduce_prod(shape) <= MOST_PIXELS,
        [f"An image must have at most {MOST_PIXELS} pixels. Received: "],
        shape,
        data,
    )


_HEADER = 30  # bytes that any file of an image has
_PNG_SIZE = 16  # where its width and height are, 4 bytes each


def _big_endian(data, first):
    """Two whole numbers of 4 bytes each, int64 [2]."""
    digits = tf.io.decode_raw(
        tf.strings.substr(data, first, 8), tf.uint8, fixed_length=8
    )
    digits = tf.reshape(tf.cast(digits, tf.int64), [2, 4])
    return tf.linalg.matvec(digits, tf.constant([2**24, 2**16, 2**8, 1], tf.int64))


def _after_check(condition, sentence, received, data):
    check = tf.debugging.Assert(condition, [*sentence, received])
    return after([check], {"data": data})["data"]
