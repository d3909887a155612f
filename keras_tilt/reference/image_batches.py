"""Images that statistics are fitted to: read once, in small batches, and checked.

mean over images of a statistic  =  sum over batches / number of images
"""

__all__ = [
    "check_has_variance",
    "check_number_of_images",
    "check_shape",
    "image_batches",
]

from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_tilt.validation import one_pass

_BATCH = 16  # images transformed at once


def image_batches(images: Any) -> Iterator[np.ndarray]:
    """Yield small float64 batches [n, height, width, channels] of one shape.

    Args:
        images: [n, height, width, channels], or an iterable of such batches, such as a
            `tf.data.Dataset`, also of pairs (images, labels).

    Raises:
        ValueError: for a data set without end, batches that differ in shape, or pixels
            that are not finite.
    """
    expected = None
    one_array = hasattr(images, "shape")
    for batch in [images] if one_array else one_pass("images", images, "fitting"):
        batch = np.asarray(batch[0] if isinstance(batch, tuple | list) else batch)
        expected = expected or batch.shape[1:]
        check_shape("images", batch, expected)
        for start in range(0, len(batch), _BATCH):
            part = batch[start : start + _BATCH].astype(np.float64)
            _check_finite(part)
            yield part


def check_shape(name: str, batch: np.ndarray, expected: tuple[int, ...]) -> None:
    """Raise a ValueError unless a batch is of images of one shape.

    Args:
        name: of the argument, for the error.
        batch: what should be [n, height, width, channels].
        expected: shape of an image of the first batch.
    """
    if batch.ndim != 4 or 0 in batch.shape[1:] or batch.shape[1:] != expected:
        wanted = "[n, height, width, channels]"
        if len(expected) == 3:
            wanted += f", of one image shape {expected}"
        raise ValueError(
            f"`{name}` must be an array or batches {wanted}. Received: shape "
            f"{batch.shape}. Reshape, crop or batch them."
        )


def _check_finite(batch):
    if not np.all(np.isfinite(batch)):
        raise ValueError(
            f"`images` must be finite. Received: {np.sum(~np.isfinite(batch))} of "
            f"{batch.size} pixels of a batch that are not. Check where they come from."
        )


def check_number_of_images(count: int) -> None:
    """Raise a ValueError for fewer than two images."""
    if count < 2:
        raise ValueError(
            f"`images` must be two images or more. Received: {count}. One image has no "
            "variance around its own mean; pass others like it."
        )


def check_has_variance(name: str, values: np.ndarray) -> None:
    """Raise a ValueError where a variance is zero, up to rounding.

    Colours of gray images saved as RGB are equal to about eps.

    Args:
        name: what each of the values belongs to, for the error.
        values: variances.
    """
    without = values <= 1e-12 * np.max(values)
    if np.any(without):
        raise ValueError(
            f"`images` must vary in every {name}, or they have no density. Received: "
            f"{np.sum(without)} of {values.size} without variance. Drop constant or "
            "repeated channels, pass more images, or add a little white noise."
        )
