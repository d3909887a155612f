"""Images as bytes: the files that clients send, and 0 ... 255 for black ... white.

    pixel = low + (high - low) byte / 255

A file says in its header how many pixels it has, and is refused before it is decoded if
they are too many. What the graph refuses is INVALID_ARGUMENT with a message.
"""

__all__ = ["MOST_PIXELS", "PixelRange", "checked_file", "decoded", "upright"]

import dataclasses
import math

import numpy as np
import tensorflow as tf

from keras_tilt.data import image_files
from keras_tilt.serving.requests import provided

MOST_PIXELS = 2**24  # of an image: float32 counts of more are not exact


@dataclasses.dataclass(frozen=True)
class PixelRange:
    """The pixels of a network that are black and white as bytes.

    Attributes:
        low: pixel that byte 0 stands for.
        high: pixel that byte 255 stands for.

    Raises:
        ValueError: unless both are finite, black below white.
    """

    low: float
    high: float

    def __post_init__(self):
        low, high = self.low, self.high
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(
                "`low` and `high` must be finite pixels, black below white. Received: "
                f"{low!r}, {high!r}. Pass for example 0 and 255."
            )

    def pixels_of(self, bytes_of_images: tf.Tensor) -> tf.Tensor:
        """Return the pixels of the network, float32, of numbers in [0, 255]."""
        low, high = self._as_float32()
        return low + (high - low) * bytes_of_images / 255.0

    def bytes_of(self, images: tf.Tensor) -> tf.Tensor:
        """Return pixels of the network as uint8; those out of the range are clipped."""
        low, high = self._as_float32()
        shares = tf.clip_by_value((images - low) / (high - low), 0.0, 1.0)
        return tf.cast(tf.round(255.0 * shares), tf.uint8)

    def _as_float32(self):
        return np.array([self.low, self.high], np.float32)


# Files


def decoded(data: tf.Tensor, channels: int) -> tf.Tensor:
    """Return the pixels of a JPEG, PNG or BMP file as stored, uint8 [h, w, channels].

    For answers that are maps of pixels: their labels are for pixels as the client has
    them.
    """
    return image_files.decoded(checked_file(data), channels)


def upright(data: tf.Tensor, channels: int) -> tf.Tensor:
    """Return the same, turned upright where the EXIF data of the file say so."""
    return image_files.upright(checked_file(data), channels)


def checked_file(data: tf.Tensor) -> tf.Tensor:
    """Return the bytes of an image file whose header does not claim too many pixels.

    A small file may hold an image that takes all memory. A GIF may hold any number of
    images, and is refused.
    """
    data = provided(
        tf.strings.length(data) >= _HEADER,
        data,
        f"An image must be a file of {_HEADER} bytes or more. Received: ",
        tf.strings.length(data),
    )
    kind = tf.strings.substr(data, 0, 4)
    data = provided(
        kind != b"GIF8", data, "Files must be JPEG, PNG or BMP. Received: ", kind
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
    return provided(
        tf.reduce_prod(shape) <= MOST_PIXELS,
        data,
        f"An image must have at most {MOST_PIXELS} pixels. Received: ",
        shape,
    )


_HEADER = 30  # bytes that any file of an image has
_PNG_SIZE = 16  # where its width and height are, 4 bytes each


def _big_endian(data, first):
    """Return two whole numbers of 4 bytes each, int64 [2]."""
    digits = tf.io.decode_raw(
        tf.strings.substr(data, first, 8), tf.uint8, fixed_length=8
    )
    digits = tf.reshape(tf.cast(digits, tf.int64), [2, 4])
    return tf.linalg.matvec(digits, tf.constant([2**24, 2**16, 2**8, 1], tf.int64))
