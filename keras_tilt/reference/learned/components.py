"""Principal components of images: a reference of their own, and the start of a fit.

T(u) = low + (high - low) sigmoid(mean + (size u) directions),      u ~ N(0, I)
"""

__all__ = ["fit_components", "start_at_components"]

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from keras_tilt.networks.image_generator import ImageGenerator
from keras_tilt.networks.principal_path import PrincipalGenerator
from keras_tilt.reference.learned import images as reading
from keras_tilt.reference.learned.images import Pictures
from keras_tilt.validation import check_count

_MOST = 20_000  # images that components are taken from,
_MOST_LARGE = 4000  # or fewer, if they are large: the smaller matrix is solved
_SMALL = 4096  # numbers of such an image
_MEASURED, _AT_ONCE = 2000, 200  # images
_SIGMA = 0.1  # share of white; no image of the generator depends on it


def fit_components(
    images: ArrayLike | Iterable,
    *,
    held_out: ArrayLike | Iterable | None = None,
    low: float = 0.0,
    high: float = 255.0,
    latent_size: int = 300,
    seed: int = 0,
) -> PrincipalGenerator:
    """Return a generator of images with the principal components of some images.

        T(u) = low + (high - low) sigmoid(mean + (size u) directions),   u ~ N(0, I)

    Mean, directions and sizes are those of the logits of the images. Their layouts and
    colours are known by some hundred numbers, in which chains mix that in the noise of
    all pixels do not. `generator.resized` makes larger images of them. A fit takes
    seconds: the components are those of at most 20,000 images, or of 4,000 if an image
    has more than 4,096 numbers.

    Args:
        images: [n, height, width, channels], or an iterable of such batches, such as a
            `tf.data.Dataset`, also of pairs (images, labels). They are kept in memory.
        held_out: images to measure by, in the same form; by default every tenth of
            `images`, which is then left out of the fit. `generator.law` has what is
            lost of them: "unexplained", a share of their variance, and
            "reconstruction_error", the root mean square as a share of white.
        low: black, in units of a pixel.
        high: white.
        latent_size: components, from 2.
        seed: of the choice of images, where there are more than are needed.

    Returns:
        generator: a `PrincipalGenerator`, to be passed to `latent`.

    Raises:
        ValueError: for images that are too few, constant, not finite, outside of the
            range, or of different shapes, or an argument out of its range.

    Example:
        >>> images = np.random.default_rng(0).uniform(0, 255, [40, 8, 8, 1])
        >>> generator = fit_components(images, latent_size=2)
        >>> tuple(generator(tf.zeros([3, 2])).shape)
        (3, 8, 8, 1)

    Source: Tipping and Bishop (1999), "Probabilistic principal component analysis".
    """
    check_count("latent_size", latent_size, 2)
    check_count("seed", seed, 0)
    fitted, unseen = reading.fitted_and_held_out(images, held_out, low, high)
    shape = fitted.images.shape[1:]
    generator = PrincipalGenerator(shape, latent_size, low=low, high=high)
    _fit(generator.components, fitted, _SIGMA, seed)
    generator.law = _left_out(generator, unseen)
    return generator


def _left_out(generator, unseen):
    """What is lost of images that are decoded."""
    real = unseen.shares(slice(_MEASURED))
    width = generator.high - generator.low
    decoded = [
        generator(generator.encode(generator.low + width * part))
        for part in np.array_split(real, -(-len(real) // _AT_ONCE))
    ]
    lost = (np.concatenate(decoded) - generator.low) / width - real
    error = float(np.mean(lost**2))
    return {
        "reconstruction_error": math.sqrt(error),
        "unexplained": error / float(np.mean(np.var(real, axis=0))),
    }


def start_at_components(
    generator: ImageGenerator, fitted: Pictures, stddev: float, seed: int
) -> None:
    """Give a generator the components of images, and networks that say nothing.

    Args:
        generator: without `principal` it is left as it is.
        fitted: images.
        stddev: sigma, a share of white.
        seed: of the choice of images, where there are more than are needed.

    Raises:
        ValueError: for fewer images, or numbers of an image, than components.
    """
    if generator.principal is None:
        return
    _fit(generator.principal, fitted, stddev, seed)
    for network in (generator.encoder, generator.decoder):
        last = [layer for layer in network.layers if layer.weights][-1]
        last.kernel.assign(np.zeros(last.kernel.shape))


def _fit(path, fitted, stddev, seed):
    """Give a path the components of images, or of as many as are needed."""
    number, size = len(fitted.images), path.latent_size
    if number <= size:
        raise ValueError(
            f"`images` must be more than the {size} principal components. Received: "
            f"{number}. Lower `latent_size`."
        )
    if path.num_pixels < size:
        raise ValueError(
            f"`latent_size` must be at most {path.num_pixels}, the numbers in an image,"
            f" for principal components. Received: {size}. Lower it."
        )
    most = _MOST if path.num_pixels <= _SMALL else _MOST_LARGE
    order = np.random.default_rng([seed, _MOST]).permutation(number)
    path.fit(fitted.shares(np.sort(order[:most])), stddev)
