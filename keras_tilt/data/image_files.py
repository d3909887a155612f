"""Files of images as pixels: one decoder of what is trained on and what is served.

    bytes of a JPEG, PNG, GIF or BMP -> pixels, uint8 [height, width, channels]

TensorFlow reads some files of BMP as other images, in silence: these are refused. It
reads photographs as they are stored, often on their side: `upright` turns them.

Source: TIFF 6.0, section 8, and Exif 2.3, section 4.6.4, for the orientation.
"""

__all__ = ["decoded", "decoder", "upright"]

import functools

import tensorflow as tf

_BMP_HEADER = 66  # bytes that say how pixels of a BMP file are stored
_BLUE_FIRST = [0, 0, 255, 0, 0, 255, 0, 0, 255, 0, 0, 0]  # masks of red, green, blue
_EXIF_WITHIN = 2**12  # first bytes of a JPEG file, in which its EXIF data begin
_DIRECTORY = 2**11  # bytes of EXIF data in which their first directory lies
_ENTRIES = 64  # of that directory, each of 12 bytes, that are looked at
_ORIENTATION = 0x112


def decoded(data, channels):
    """Return the pixels of a file as stored, uint8 [height, width, channels].

    An alpha channel is left out, of 16 bits the upper 8 are kept, and of an animation
    the first image.

    Args:
        data: bytes of a JPEG, PNG, GIF, or BMP file; in a graph.
        channels: 1 or 3.

    Raises:
        tf.errors.InvalidArgumentError: for what is no image, and BMP files with a
            palette, whose numbers TensorFlow takes for gray, or with colours in
            another order, at which it does not look.
    """
    with tf.control_dependencies([_check_bmp(data)]):
        data = tf.identity(data)
    pixels = tf.io.decode_image(data, channels, expand_animations=False)
    return tf.ensure_shape(pixels, [None, None, channels])


def upright(data, channels):
    """Return the same turned as the EXIF data of a JPEG file say, as viewers show it.

    Orientation 1 is upright; from 5 on rows are stored as columns; 2, 3, 6 and 7 are
    mirrored left to right after that, and 3, 4, 7 and 8 top to bottom.
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
def decoder(channels):
    """Return `upright` to that many channels; two of one number are the same object."""
    return functools.partial(upright, channels=channels)


def _orientation(data):
    """Return the orientation, int64 in 1..8; 1 where nothing is said."""
    start = tf.strings.substr(data, 0, _EXIF_WITHIN)
    parts = tf.strings.split(start, b"Exif\0\0", maxsplit=1)
    is_said = (tf.strings.substr(data, 0, 2) == b"\xff\xd8") & (tf.size(parts) > 1)
    upright = tf.constant(1, tf.int64)
    return tf.cond(is_said, lambda: _orientation_in(parts[1]), lambda: upright)


def _orientation_in(exif):
    """Return what an entry of the first directory of EXIF data says, or 1."""
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
    of_windows = header[14] >= 40  # older headers have other places for all of this
    return tf.debugging.Assert(
        is_other | (of_windows & (bits >= 24) & in_order),
        [
            "A BMP file must have 24 or 32 bits a pixel, blue first, and no palette. "
            "Save it as PNG. Received, bits and compression: ",
            tf.stack([bits, compression]),
        ],
    )
