"""Images scaled, and cut to the size that a network takes: at random, center, or five.

    scaled   the shorter side has `shorter_side` pixels
    cut      `crop` pixels from corner floor(u (room + 1)) on, u uniform in [0, 1),
             room = side + 2 pad - crop

Source: Krizhevsky et al. 2012 for random crops and mirror images; He et al. 2016 for
padding, by the mean where we reflect; Dai, Lu and Wu 2015 for five crops.
"""

__all__ = ["cut_at_center", "cut_at_random", "cut_five_times", "scaling"]

import tensorflow as tf


def scaling(source, shorter_side, crop, pad=0):
    """Return the function of images, and of their indices, that scales the images.

    Args:
        source: a `sources.Source`.
        shorter_side: pixels; None leaves the size, and an image that is smaller than
            the crop is then an error that names it.
        crop: (height, width), pixels.
        pad: pixels by which a side will be extended.
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
    # Smoothing costs more than decoding, and shows in what is more than halved.
    return tf.cond(
        shorter > 2 * shorter_side,
        lambda: tf.image.resize(images, target, antialias=True),
        lambda: tf.image.resize(images, target),
    )


def _large_enough(source, crop, pad):
    """Return a function: an image, its number -> the image, or an error naming it."""

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


def cut_at_random(images, crop, pad, rows):
    """Return an image cut where a row [3] says, or a batch where rows [batch, 3] say.

    The first pixel down is floor(u (room + 1)), of a side that is extended by `pad`
    and has `room` more than the crop; so across. Mirrored if the third is below 1/2.
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
    """Cut a batch at as many places; for small images 5 times as fast as one by one."""
    side = _size(images)
    down = _reflected(first[:, :1] + tf.range(crop[0]), side[0])
    across = _reflected(first[:, 1:] + tf.range(crop[1]), side[1])
    across = tf.where(mirrored[:, None], across[:, ::-1], across)
    images = tf.gather(images, down, axis=1, batch_dims=1)
    return tf.gather(images, across, axis=2, batch_dims=1)


def _reflected(places, side):
    """Indices into a side of those into its extension: -1 is 1, side is side - 2."""
    return (side - 1) - tf.abs((side - 1) - tf.abs(places))


def cut_at_center(images, crop):
    """Return the central (height, width) = `crop` pixels."""
    return _cut(images, (_size(images) - crop) // 2, crop)


def cut_five_times(images, crop):
    """Return center, top left and right, bottom left and right: [..., 5, *crop, c]."""
    room = _size(images) - crop
    corners = [room * corner for corner in ([0, 0], [0, 1], [1, 0], [1, 1])]
    cuts = [_cut(images, corner, crop) for corner in (room // 2, *corners)]
    return tf.stack(cuts, axis=-4)


def _cut(images, corner, crop):
    (top, left), (height, width) = tf.unstack(corner), crop
    cut = images[..., top : top + height, left : left + width, :]
    return tf.ensure_shape(cut, [*images.shape[:-3], *crop, images.shape[-1]])


def _size(images):
    """Height and width of images [..., height, width, channels], int32 [2]."""
    return tf.shape(images)[-3:-1]
