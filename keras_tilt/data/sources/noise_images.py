"""Images of noise, generated on demand, for benchmarks and trials at any size.

    pixels of image i ~ uniform on 0..255, drawn from (seed, i)

No data is needed, and none is held in memory.
"""

__all__ = ["synthetic"]

import functools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_tilt.data.sources.image_source import Source, names_or_numbers
from keras_tilt.validation import check_count


def synthetic(
    image_shape: Sequence[int], num_classes: int, num_images: int, seed: int = 0
) -> Source:
    """Return a source of noise images, generated on demand: any size, without data.

    Image i is uniform on 0..255, drawn from (seed, i); its label is i mod num_classes.

    Args:
        image_shape: (height, width, channels), pixels.
        num_classes: number of classes.
        num_images: number of images.
        seed: integer.

    Example:
        >>> source = synthetic((256, 256, 3), 1000, 1_281_167)
        >>> source.decode(source.fetch([5])[0]).shape
        TensorShape([256, 256, 3])
    """
    check_count("num_classes", num_classes, 1)
    check_count("num_images", num_images, 1)
    image_shape = tuple(image_shape)

    def made(number):
        pixels = tf.random.stateless_uniform(
            image_shape, [seed, number], 0, 256, tf.int32
        )
        return tf.cast(pixels, tf.uint8)

    return Source(
        labels=np.arange(num_images) % num_classes,
        class_names=names_or_numbers([num_classes - 1], None),
        image_shape=image_shape,
        fetch=functools.partial(tf.cast, dtype=tf.int64),
        decode=made,
        name="image {}".format,
    )
