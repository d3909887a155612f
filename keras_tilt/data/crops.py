"""Images scaled and cropped to the size a network takes: at random, center, or five.

    scale   so that the shorter side has `shorter_side` pixels
    crop    `crop` pixels from floor(u (room + 1)) on, u uniform in [0, 1),
            room = side + 2 pad - crop

Source: Krizhevsky et al. 2012 for random crops and mirroring; He et al. 2016 for
padding, with the mean where we reflect; Dai, Lu and Wu 2015 for five crops.
"""

__all__ = ["cut_at_center", "cut_at_random", "cut_five_times", "scaling"]

from collections.abc import Callable

import tensorflow as tf

from keras_tilt.data.sources.image_source import Source


def scaling(
    source: Source, shorter_side: int | None, crop: tuple[int, int], pad: int = 0
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Return the function of images and their indices that scales the images.

    Args:
        source: a `sources.Source`.
        shorter_side: pixels; None keeps the size, and an image smaller than the crop
            is then an error that names it.
        crop: (height, width), pixels.
        pad: pixels by which every side will be padded.
    """
    if shorter_side is not None:
        return lambda images, numbers: _scaled(images, shorter_side)
    if source.image_shape is not None:
        return lambda images, numbers: images
    return _large_enough(source, crop, pad)


def _scaled(images, shorter_side):
    """Scale images [..., height, width, channels] to a shorter side, in pixels."""
    size = _size(images)
    shorter = tf.reduce_min(size)
    target = (size * shorter_side + shorter // 2) // shorter
    # Antialiasing costs more than decoding, and shows only where an image is more
    # than halved.
    return tf.cond(
        shorter > 2 * shorter_side,
        lambda: tf.image.resize(images, target, antialias=True),
        lambda: tf.image.resize(images, target),
    )


def _large_enough(source, crop, pad):
    """Return a function of an image and its index: the image, or an error naming it."""

    def refuse(size, number):
        raise ValueError(
            f"keras_tilt: Images must have at least the size of `crop`, {crop}. "
            f"Received: {source.name(int(number))}, {tuple(size.tolist())}. "
            "Pass `shorter_side`, or a smaller crop."
        )

    def checked(image, number):
        size = _size(image)
        done = tf.cond(
            tf.reduce_all((size + 2 * pad >= crop) & (size > pad)),
            lambda: tf.constant(0),
            lambda: tf.numpy_function(refuse, [size, number], tf.int32),
        )
        with tf.control_dependencies([done]):
            return tf.identity(image)

    return checked


def cut_at_random(
    images: tf.Tensor, crop: tuple[int, int], pad: int, rows: tf.Tensor
) -> tf.Tensor:
    """Return random crops of one image, or of each of a batch.

    The first row is floor(u (room + 1)), u = rows[0], where the padded image has `room`
    rows more than the crop; columns alike with rows[1]. Mirrored if rows[2] < 1/2.

    Args:
        images: [height, width, channels] or [batch, height, width, channels].
        crop: (height, width), pixels.
        pad: pixels of reflection on every side.
        rows: uniform numbers in [0, 1), [3] or [batch, 3].
    """
    room = _size(images) + 2 * pad - crop
    first = tf.cast(rows[..., :2] * tf.cast(room + 1, rows.dtype), tf.int32)
    mirrored = rows[..., 2] < 0.5
    if images.shape.rank == 4:
        return _gathered(images, first - pad, crop, mirrored)
    if pad:
        images = tf.pad(images, [[pad, pad], [pad, pad], [0, 0]], "REFLECT")
    image = _cut(images, first, crop)
    return tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: image)


def _gathered(images, first, crop, mirrored):
    """Return one crop of each image; small ones 5 times as fast as one by one."""
    side = _size(images)
    down = _reflected(first[:, :1] + tf.range(crop[0]), side[0])
    across = _reflected(first[:, 1:] + tf.range(crop[1]), side[1])
    across = tf.where(mirrored[:, None], across[:, ::-1], across)
    images = tf.gather(images, down, axis=1, batch_dims=1)
    return tf.gather(images, across, axis=2, batch_dims=1)


def _reflected(places, side):
    """Return indices into a side for those into its reflection: -1 is 1."""
    return (side - 1) - tf.abs((side - 1) - tf.abs(places))


def cut_at_center(images: tf.Tensor, crop: tuple[int, int]) -> tf.Tensor:
    """Return the central crop (height, width), [..., *crop, channels]."""
    return _cut(images, (_size(images) - crop) // 2, crop)


def cut_five_times(images: tf.Tensor, crop: tuple[int, int]) -> tf.Tensor:
    """Return the crops at the center, top left and right, and bottom left and right.

    Args:
        images: [..., height, width, channels].
        crop: (height, width), pixels.

    Returns:
        crops: [..., 5, *crop, channels].
    """
    room = _size(images) - crop
    corners = [room * corner for corner in ([0, 0], [0, 1], [1, 0], [1, 1])]
    cuts = [_cut(images, corner, crop) for corner in (room // 2, *corners)]
    return tf.stack(cuts, axis=-4)


def _cut(images, corner, crop):
    (top, left), (height, width) = tf.unstack(corner), crop
    cut = images[..., top : top + height, left : left + width, :]
    return tf.ensure_shape(cut, [*images.shape[:-3], *crop, images.shape[-1]])


def _size(images):
    """Return height and width of images [..., height, width, channels], int32 [2]."""
    return tf.shape(images)[-3:-1]
