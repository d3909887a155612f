"""Images that a generator is fitted to, in memory, and those that are held out.

share of white = (pixel - low) / (high - low)
"""

__all__ = ["LEAST", "Pictures", "fitted_and_held_out"]

import dataclasses
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from keras_tilt.reference.image_batches import check_shape
from keras_tilt.validation import one_pass

LEAST = 20  # images to measure a law by
_EVERY = 10  # of the images is held out


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Images, and what classes they are of if that is known.

    Attributes:
        images: [n, height, width, channels], bytes or float32, in units of a pixel.
        labels: [n], or None.
        low: black.
        high: white.
    """

    images: np.ndarray
    labels: np.ndarray | None
    low: float
    high: float

    def shares(self, chosen: np.ndarray | slice) -> np.ndarray:
        """Return some of the images, as float32 shares of white."""
        pixels = self.images[chosen].astype(np.float32)
        return (pixels - self.low) / np.float32(self.high - self.low)

    def part(self, chosen: np.ndarray) -> "Pictures":
        """Return some of the images.

        Args:
            chosen: [n], bool.
        """
        labels = None if self.labels is None else self.labels[chosen]
        return dataclasses.replace(self, images=self.images[chosen], labels=labels)


def fitted_and_held_out(
    images: ArrayLike | Iterable,
    held_out: ArrayLike | Iterable | None,
    low: float,
    high: float,
) -> tuple[Pictures, Pictures]:
    """Return the images to fit to, and those to measure by.

    Args:
        images: as in `fit_latent`.
        held_out: the same, or None for every tenth of `images`.
        low: black.
        high: white.

    Raises:
        ValueError: as `fit_latent`.
    """
    if not low < high:
        raise ValueError(
            f"`low` must be below `high`. Received: low={low}, high={high}. Pass black "
            "and white, in units of a pixel."
        )
    found = _read("images", images, low, high)
    if held_out is not None:
        unseen = _read("held_out", held_out, low, high)
        if unseen.images.shape[1:] != found.images.shape[1:]:
            raise ValueError(
                "`held_out` must be images of the shape of `images`, "
                f"{found.images.shape[1:]}. Received: {unseen.images.shape[1:]}. "
                "Resize or crop them."
            )
        return found, unseen
    _check_number("images", len(found.images), 2 * LEAST)
    every = min(_EVERY, len(found.images) // LEAST)
    is_unseen = np.arange(len(found.images)) % every == every - 1
    return found.part(~is_unseen), found.part(is_unseen)


def _read(name, images, low, high):
    """All images of an array, of pairs or of batches, checked."""
    batches, labels = [], []
    for batch in _batches(name, images):
        with_labels = isinstance(batch, tuple | list)
        pixels = np.asarray(batch[0] if with_labels else batch)
        first = batches[0] if batches else pixels
        check_shape(name, pixels, first.shape[1:])
        batches.append(pixels if pixels.dtype == np.uint8 else np.float32(pixels))
        labels.append(np.ravel(batch[1]) if with_labels else None)
    if not batches:
        _check_number(name, 0, LEAST)
    pixels = np.concatenate(batches)
    _check_number(name, len(pixels), LEAST)
    _check_pixels(name, pixels, low, high)
    known = all(one is not None for one in labels)
    return Pictures(pixels, np.concatenate(labels) if known else None, low, high)


def _batches(name, images):
    """Batches, or pairs of them with their labels."""
    is_pair = isinstance(images, tuple | list) and len(images) == 2
    if is_pair and np.ndim(images[0]) == 4 and np.ndim(images[1]) < 3:
        return [images]
    if hasattr(images, "shape"):
        return [images]
    return one_pass(name, images, "reading")


def _check_pixels(name, pixels, low, high):
    smallest, largest = np.min(pixels), np.max(pixels)
    if not np.all(np.isfinite([smallest, largest])):
        raise ValueError(
            f"`{name}` must be finite. Received: {np.sum(~np.isfinite(pixels))} of "
            f"{pixels.size} pixels that are not. Check where they come from."
        )
    if smallest < low or largest > high:
        raise ValueError(
            f"`{name}` must have pixels from `low`, {low:g}, to `high`, {high:g}. "
            f"Received: {smallest:g} to {largest:g}. Pass black and white of yours."
        )
    if np.all(pixels == pixels[:1]):
        raise ValueError(
            f"`{name}` must differ from each other. Received: {len(pixels)} images, "
            "all equal. Pass more images."
        )


def _check_number(name, count, least):
    if count < least:
        raise ValueError(
            f"`{name}` must be {least} images or more, a generator being fitted and "
            f"measured by them. Received: {count}. Pass more; thousands are better."
        )
