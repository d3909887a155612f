"""The start of a fit at principal components, to which its networks add nothing."""

__all__ = ["start_at_components"]

import numpy as np

from keras_tilt.networks.image_generator import ImageGenerator
from keras_tilt.reference.learned.images import Pictures

_MOST = 20_000  # images that components are taken from,
_MOST_LARGE = 4000  # or fewer, if they are large: the smaller matrix is solved
_SMALL = 4096  # numbers of such an image


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
    path, number = generator.principal, len(fitted.images)
    if path is None:
        return
    if number <= generator.latent_size:
        raise ValueError(
            f"`images` must be more than the {generator.latent_size} principal "
            f"components. Received: {number}. Lower `latent_size`."
        )
    if path.num_pixels < generator.latent_size:
        raise ValueError(
            f"`latent_size` must be at most {path.num_pixels}, the numbers in an image,"
            f" for principal components. Received: {generator.latent_size}. Lower it."
        )
    most = _MOST if path.num_pixels <= _SMALL else _MOST_LARGE
    order = np.random.default_rng([seed, _MOST]).permutation(number)
    shares = fitted.shares(np.sort(order[:most]))
    path.fit(shares, stddev)
    for network in (generator.encoder, generator.decoder):
        last = [layer for layer in network.layers if layer.weights][-1]
        last.kernel.assign(np.zeros(last.kernel.shape))
