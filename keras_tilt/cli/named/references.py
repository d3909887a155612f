"""References by name: noise between black and white, or a generator in a file.

    spectral            noise of a 1/f spectrum, within the range
    wavelets            with the wavelet coefficients of photographs, within it
    box                 uniform in it
    white               Gaussian around its middle, which leaves it
    latent:FILE.keras   images of a generator, such as `keras-tilt reference` fits

Black and white are pixels as the network takes them, before any preprocessing.
Principal components (`keras-tilt reference --components`) are enlarged to the image of
the unit.
"""

__all__ = ["noise"]

import functools
import pathlib
from collections.abc import Sequence

from tensorflow_probability import distributions as tfd

from keras_tilt.cli.named.networks import load_model
from keras_tilt.networks.image_generator import ImageGenerator
from keras_tilt.networks.principal_path import PrincipalGenerator
from keras_tilt.reference.distributions import (
    box,
    spectral_noise,
    squash,
    white_noise,
)
from keras_tilt.reference.generators import latent
from keras_tilt.reference.heavy_tails import wavelet_noise

_LATENT = "latent:"
_LOOKED_AT = 64  # images of a generator, whose pixels are held against the range


def noise(
    kind: str,
    shape: Sequence[int],
    low: float,
    high: float,
    contrast: float = 0.3,
    exponent: float = 1.5,
    cutoff: float = 45.0,
) -> tfd.Distribution:
    """Return the reference of images whose pixels lie between black and white.

    Args:
        kind: "spectral", a 1/f spectrum within the range, in the colours of photographs
            if there are three; "wavelets", with the coefficients of photographs; "box",
            uniform in it; "white", Gaussian around its middle, which leaves it;
            "latent:FILE.keras", images of a generator.
        shape: of one image.
        low: black.
        high: white.
        contrast: standard deviation of a pixel, as a share of the range.
        exponent: of 1/f, of a spectrum.
        cutoff: cycles along the longer edge, above which details of a spectrum fade.

    Raises:
        ValueError: for a file that holds no generator, or one of other images.
    """
    if kind.startswith(_LATENT):
        path = pathlib.Path(kind.removeprefix(_LATENT))
        return _learned(path, tuple(shape), low, high)
    middle, width = (low + high) / 2, high - low
    if kind == "white":
        return white_noise(shape, middle, contrast * width)
    if kind == "box":
        return box(shape, low, high)
    stddev = contrast * width
    if kind == "wavelets":
        natural = wavelet_noise(shape, middle, stddev)
    else:
        fade = cutoff / max(shape[:2])
        natural = spectral_noise(shape, middle, stddev, exponent, cutoff=fade)
    return squash(natural, low, high, scale=0.3 * width, law="student")


@functools.lru_cache(maxsize=1)  # units of one run share it, and its graph
def _learned(path, shape, low, high):
    """Return the distribution of the images of a generator in a file."""
    generator = load_model(path)
    _check_is_generator(path, generator)
    if isinstance(generator, PrincipalGenerator):
        reference = latent(generator.resized(shape, low, high))
    elif isinstance(generator, ImageGenerator):
        reference = latent(_within(generator, low, high))
    else:
        reference = latent(generator)
    if tuple(reference.event_shape) != shape:
        raise ValueError(
            f"Expected a generator of images {shape}, as the unit takes them. "
            f"Received: {path}, of images {tuple(reference.event_shape)}. Fit one to "
            "images of that shape, or name another unit: a channel is drawn on the "
            "patch that it sees."
        )
    images = reference.sample(_LOOKED_AT, seed=[0, 0]).numpy()
    slack = 1e-3 * (high - low)
    if images.min() < low - slack or images.max() > high + slack:
        raise ValueError(
            f"Expected a generator of pixels from black, {low:g}, to white, {high:g}. "
            f"Received: {path}, of pixels from {images.min():g} to {images.max():g}. "
            "Pass its own as --low and --high, or end it in a sigmoid of that range."
        )
    return reference


def _check_is_generator(path, model):
    """Raise a ValueError unless a model takes noise [n, size] and returns images."""
    shape = getattr(model, "input_shape", None)
    is_one = isinstance(shape, tuple) and len(shape) == 2 and shape[1]
    if not is_one:
        raise ValueError(
            "Expected a generator, a model of noise [n, size] that returns images. "
            f"Received: {path}, a {type(model).__name__} of inputs {shape}. Fit one "
            "with: keras-tilt reference DATA --out q.keras"
        )


def _within(generator, low, high):
    """Return a generator of the same images in another range of pixels."""
    if (generator.low, generator.high) == (low, high):
        return generator
    config = generator.get_config() | {"low": low, "high": high}
    other = ImageGenerator.from_config(config)
    other.set_weights(generator.get_weights())
    return other
