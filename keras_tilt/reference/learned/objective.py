"""The objective of a learned reference: a variational bound on log p(image).

    log p(x) >= E_q(code|x)[ log N(x; decode(code), sigma^2 I)
                             + log p_flow(code) - log q(code | x) ]
    log p_flow(code) = log N(u; 0, I) + log |du / dcode|,   u = flow^-1(code)

The flow is the prior of the codes. It learns how codes of images are spread, so that
noise becomes images and not something between them: with N(0, I) in its place, half of
the draws of digits were none. sigma is how far a pixel may be off. As a parameter of
its own it falls as far as the images are few, and the codes become too many for the
flow: the draws are then worse in most of what `law` measures.

Source: Kingma and Welling (2014), the bound; Chen et al. (2017), a flow as the prior.
"""

__all__ = ["Terms", "bound", "terms"]

import math
from typing import NamedTuple

import tensorflow as tf

from keras_tilt.networks.image_generator import ImageGenerator


class Terms(NamedTuple):
    """What the bound is made of, of each image of a batch.

    Attributes:
        squared_error: [n], mean over pixels, of pixels in [0, 1].
        divergence: [n], log q(code | x) - log p_flow(code), nats.
    """

    squared_error: tf.Tensor
    divergence: tf.Tensor


def terms(generator: ImageGenerator, shares: tf.Tensor, normal: tf.Tensor) -> Terms:
    """Return the terms of the bound.

    Args:
        generator: with encoder, flow and decoder.
        shares: images as shares of white, [n, height, width, channels] in [0, 1].
        normal: [n, latent_size], draws of N(0, I).
    """
    mean, log_variance = generator.codes(shares)
    code = mean + tf.exp(0.5 * log_variance) * normal
    noise, log_det = generator.flow.to_noise(code)
    # Both Gaussians without log(2 pi) / 2, which cancels.
    log_posterior = -0.5 * tf.reduce_sum(normal**2 + log_variance, axis=-1)
    log_prior = -0.5 * tf.reduce_sum(noise**2, axis=-1) + log_det
    decoded = generator.decode(code)
    error = tf.reduce_mean((decoded - shares) ** 2, axis=[1, 2, 3])
    return Terms(error, log_posterior - log_prior)


def bound(found: Terms, stddev: float, num_pixels: int) -> tf.Tensor:
    """Return the mean over images of the bound, [] nats.

    Args:
        found: of a batch.
        stddev: sigma, of a pixel around the decoded one, as a share of white.
        num_pixels: of an image, times channels.
    """
    error = tf.reduce_mean(found.squared_error)
    log_likelihood = -0.5 * (error / stddev**2 + math.log(2 * math.pi * stddev**2))
    return num_pixels * log_likelihood - tf.reduce_mean(found.divergence)
