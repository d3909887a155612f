"""Pixels by name: how a network takes them, black and white, the noise between.

    caffe           pixels as keras.applications prepares them for a network
    spectral        noise of a 1/f spectrum between black and white

Black and white are pixels as the network takes them, before any preprocessing.
"""

__all__ = ["noise", "pixel_range", "preprocessing", "printed_range"]

import functools
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_tilt.networks import graph
from keras_tilt.reference.distributions import (
    box,
    spectral_noise,
    squash,
    white_noise,
)
from keras_tilt.reference.photographs import COLOUR_COVARIANCE


@functools.cache
def preprocessing(mode: str) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return the function of images that prepares them as keras.applications does."""
    if mode == "none":
        return tf.identity
    return lambda images: keras.applications.imagenet_utils.preprocess_input(
        images, data_format="channels_last", mode=mode
    )


def pixel_range(
    network: keras.Model,
    low: float | None = None,
    high: float | None = None,
    mode: str = "none",
) -> tuple[float, float, str]:
    """Return black and white as pixels of a network, and how they are known.

        given, else 255 of a --preprocess, else the white of which the first Rescaling
        or Normalization makes a number near 1, else 255

    Args:
        network: a `keras.Model` of images.
        low: black, if it is given; else 0.
        high: white, if it is given.
        mode: of `preprocessing`.

    Returns:
        low, high: numbers.
        reason: text.

    Raises:
        ValueError: unless black is below white.

    Example:
        >>> layers = [keras.Input((8, 8, 3)), keras.layers.Rescaling(1 / 127.5, -1)]
        >>> pixel_range(keras.Sequential(layers))[:2]
        (0.0, 255.0)
    """
    white, reason = 255.0, "assumed; --low and --high say otherwise"
    if high is not None:
        white, reason = high, "as --high says"
    elif mode != "none":
        reason = f"as --preprocess {mode} takes them"
    else:
        layer = _scaling_layer(network)
        found = None if layer is None else _white_of(_gain(layer))
        if found is not None:
            white, reason = found, f"as its layer {layer.name!r} takes them"
    black = 0.0 if low is None else low
    if not black < white:
        raise ValueError(
            f"Expected --low below --high. Received: {black:g}, {white:g}. Swap them, "
            "or pass both."
        )
    return black, white, reason


def printed_range(
    network: keras.Model,
    low: float | None,
    high: float | None,
    mode: str,
    reason: str | None = None,
) -> tuple[float, float]:
    """Return black and white of `pixel_range`, and print how they are known.

    Args:
        network: as in `pixel_range`, as are low, high and mode.
        low: black.
        high: white.
        mode: of `preprocessing`.
        reason: in place of that of `pixel_range`, or None.
    """
    low, high, found = pixel_range(network, low, high, mode)
    print(f"Pixels: black {low:g}, white {high:g}, {reason or found}", flush=True)
    return low, high


def _scaling_layer(network):
    """Return the Rescaling or Normalization that pixels meet before any weights."""
    scaling = (keras.layers.Rescaling, keras.layers.Normalization)
    for step in graph.steps(network) if graph.has_graph(network) else ():
        if isinstance(step.operation, scaling):
            return step.operation
        if getattr(step.operation, "weights", ()):
            return None
    return None


def _gain(layer):
    """Return the factor of a Rescaling or a Normalization, a mean over channels."""
    if isinstance(layer, keras.layers.Rescaling):
        return float(np.mean(np.abs(layer.scale)))
    return float(np.mean(np.asarray(layer.variance) ** -0.5))


def _white_of(gain):
    """Return the white, 1 or 255, that a factor brings near 1, or to 255; or None."""
    fits = [w for w in (1.0, 255.0) if 0.5 <= w * gain <= 15 or 250 <= w * gain <= 260]
    return fits[0] if len(fits) == 1 else None


def noise(
    kind: str,
    shape: Sequence[int],
    low: float,
    high: float,
    contrast: float = 0.3,
    exponent: float = 1.7,
) -> tfd.Distribution:
    """Return the reference of images whose pixels lie between black and white.

    Args:
        kind: "spectral", a 1/f spectrum within the range, in the colours of photographs
            if there are three; "box", uniform in it; "white", Gaussian around its
            middle, which leaves it.
        shape: of one image.
        low: black.
        high: white.
        contrast: standard deviation of a pixel, as a share of the range.
        exponent: of 1/f.
    """
    middle, width = (low + high) / 2, high - low
    if kind == "white":
        return white_noise(shape, middle, contrast * width)
    if kind == "box":
        return box(shape, low, high)
    colours = np.array(COLOUR_COVARIANCE) if shape[2] == 3 else np.eye(shape[2])
    colours = colours * (contrast * width) ** 2 / np.trace(colours) * shape[2]
    natural = spectral_noise(
        shape, mean=middle, exponent=exponent, colour_covariance=colours
    )
    return squash(natural, low, high, scale=0.3 * width)
