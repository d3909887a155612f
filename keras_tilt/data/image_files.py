"""The decoder of image files, for training and serving alike.

    bytes of a JPEG, PNG, GIF or BMP -> pixels, uint8 [height, width, channels]

TensorFlow silently misreads some BMP files: these are refused. It reads photographs as
they are stored, often on their side: `upright` rotates them.

Source: TIFF 6.0, section 8, and Exif 2.3, section 4.6.4, for the orientation.
"""

__all__ = ["decoded", "decoder", "upright"]

import functools
from collections.abc import Callable

import tensorflow as tf

_BMP_HEADER = 66  # bytes that say how the pixels of a BMP file are stored
_BLUE_FIRST = [0, 0, 255, 0, 0, 255, 0, 0, 255, 0, 0, 0]  # masks of red, green, blue
_EXIF_WITHIN = 2**12  # bytes of a JPEG file within which its EXIF data begin
_DIRECTORY = 2**11  # bytes of EXIF data within which their first directory lies
_ENTRIES = 64  # of that directory that are read, 12 bytes each
_ORIENTATION = 0x112


def decoded(data: tf.Tensor, channels: int) -> tf.Tensor:
    """Return the pixels of a file as stored, uint8 [height, width, channels].

    An alpha channel is dropped; of 16 bits the upper 8 are kept, of an animation the
    first image.

    Args:
        data: bytes of a JPEG, PNG, GIF or BMP file, string [].
        channels: 1 or 3.

    Raises:
        tf.errors.InvalidArgumentError: data that is not an image; BMP files with a
            palette, whose indices TensorFlow would take for gray values, or with
            colours in another order, which it would ignore.
    """
    with tf.control_dependencies([_check_bmp(data)]):
        data = tf.identity(data)
    pixels = tf.io.decode_image(data, channels, expand_animations=False)
    return tf.ensure_shape(pixels, [None, None, channels])


def upright(data: tf.Tensor, channels: int) -> tf.Tensor:
    """Return the pixels rotated by the EXIF orientation of a JPEG, as viewers show it.

    Orientation 1 is upright; from 5 on rows are stored as columns; 2, 3, 6 and 7 are
    then mirrored left to right, and 3, 4, 7 and 8 top to bottom.

    Args:
        data: bytes of a file, string [].
        channels: 1 or 3.

    Raises:
        tf.errors.InvalidArgumentError: as `decoded`.
    """
    pixels, orientation = decoded(data, channels), _orientation(data)

    def turned():
        right = tf.cond(
            orientation >= 5, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels
        )
        across = tf.where(tf.reduce_any(orientation == [2, 3, 6, 7]), -1, 1)
        down = tf.where(tf.reduce_any(orientation == [3, 4, 7, 8]), -1, 1)
        return right[::down, ::across]

    turned_or_not = tf.cond(orientation > 1, turned, lambda: pixels)
    return tf.ensure_shape(turned_or_not, [None, None, channels])


@functools.cache
def decoder(channels: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return `upright` for so many channels, the same object every time."""
    return functools.partial(upright, channels=channels)


def _orientation(data):
    """Return the orientation, int64 in 1..8; 1 if the file has none."""
    start = tf.strings.substr(data, 0, _EXIF_WITHIN)
    parts = tf.strings.split(start, b"Exif\0\0", maxsplit=1)
    is_said = (tf.strings.substr(data, 0, 2) == b"\xff\xd8") & (tf.size(parts) > 1)
    upright = tf.constant(1, tf.int64)
    return tf.cond(is_said, lambda: _orientation_in(parts[1]), lambda: upright)


def _orientation_in(exif):
    """Return the orientation in the first directory of EXIF data, or 1."""
    exif = tf.io.decode_raw(exif, tf.uint8, fixed_length=_DIRECTORY)
    exif = tf.cast(exif, tf.int64)
    is_little_endian = exif[0] == ord("I")

    def number(first, size):
        places = tf.minimum(first[..., tf.newaxis] + tf.range(size), _DIRECTORY - 1)
        digits = 256 ** tf.range(size)
        digits = tf.where(is_little_endian, digits, digits[::-1])
        return tf.reduce_sum(tf.gather(exif, places) * digits, axis=-1)

    four, two = tf.constant(4, tf.int64), tf.constant(2, tf.int64)
    directory, numbers = number(four, four), tf.range(_ENTRIES, dtype=tf.int64)
    entries = directory + 2 + 12 * numbers
    is_it = (number(entries, two) == _ORIENTATION) & (numbers < number(directory, two))
    said = tf.reduce_max(tf.where(is_it, number(entries + 8, two), 1))
    return tf.where((said >= 1) & (said <= 8), said, 1)


def _check_bmp(data):
    header = tf.io.decode_raw(
        tf.strings.substr(data, 0, _BMP_HEADER), tf.uint8, fixed_length=_BMP_HEADER
    )
    bits, compression = header[28], header[30]
    in_order = (compression == 0) | (
        (compression == 3) & tf.reduce_all(header[54:66] == _BLUE_FIRST)
    )
    is_other = tf.strings.substr(data, 0, 2) != b"BM"
    of_windows = header[14] >= 40  # older headers store all of this elsewhere
    return tf.debugging.Assert(
        is_other | (of_windows & (bits >= 24) & in_order),
        [
            "A BMP file must have 24 or 32 bits a pixel, blue first, and no palette. "
            "Received, bits and compression: ",
            tf.stack([bits, compression]),
            ". Save it as PNG.",
        ],
    )
