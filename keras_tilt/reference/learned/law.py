"""How far the law of a generator is from that of images it has not seen.

    reconstruction_error   root mean square over pixels of held-out images and decoded
                           ones, as a share of white
    unexplained            its square over the variance of the held-out images
    bound                  on log p of held-out images, nats a pixel
    two_sample_accuracy    of a network that tells generated from held-out images, on
                           others than it was trained on: 1/2 where the laws are equal
    two_sample_coarse      the same of images made four times smaller
    coverage               share of held-out images that have a generated one as near as
                           their fifth neighbour among held-out ones
    coverage_of_images     the same of the images it was fitted to, in its place: what
                           an exact law would have
    class_distance         total variation between the shares of classes among generated
                           and held-out images, both by their nearest labelled image;
                           if labels are known

Source: Lopez-Paz and Oquab (2017), the two-sample test; Naeem et al. (2020), coverage.
"""

__all__ = ["law_of", "two_sample_accuracies"]

import math

import keras
import numpy as np
import tensorflow as tf

from keras_tilt.networks.image_generator import ImageGenerator
from keras_tilt.networks.initial_weights import initialize
from keras_tilt.reference.learned.images import Pictures
from keras_tilt.reference.learned.objective import bound, terms

_MOST = 2000  # images that are compared
_LABELLED = 5000  # fitted images of known classes among which the nearest is sought
_AT_ONCE = 100
_COARSE = 4
_NEIGHBOURS = 5
_PASSES = 15  # of the network of the two-sample test
_BATCH = 32


def law_of(
    generator: ImageGenerator,
    fitted: Pictures,
    unseen: Pictures,
    stddev: float,
    seed: int,
) -> dict[str, float]:
    """Return the distances of a law, by name.

    Args:
        generator: whose law it is.
        fitted: images that it was fitted to.
        unseen: images that it was not fitted to.
        stddev: sigma of the bound.
        seed: of draws and of the two-sample test.
    """
    number = min(_MOST, len(unseen.images))
    real = unseen.shares(slice(number))
    drawn = _drawn(generator, number, seed)
    like_real = fitted.shares(slice(number))
    found = _of_reconstruction(generator, real, stddev, seed)
    fine, coarse = two_sample_accuracies(real, drawn, seed)
    found |= {
        "two_sample_accuracy": fine,
        "two_sample_coarse": coarse,
        "coverage": _coverage(real, drawn),
        "coverage_of_images": _coverage(real, like_real),
    }
    if fitted.labels is not None and unseen.labels is not None:
        found["class_distance"] = _class_distance(fitted, real, drawn)
    return found


def _drawn(generator, number, seed):
    """Images of the generator, as shares of white."""
    parts = [
        generator(
            tf.random.stateless_normal([_AT_ONCE, generator.latent_size], [seed, i])
        )
        for i in range(-(-number // _AT_ONCE))
    ]
    pixels = np.concatenate(parts)[:number]
    return (pixels - generator.low) / (generator.high - generator.low)


def _of_reconstruction(generator, real, stddev, seed):
    """The error of decoded images, and the bound."""
    errors, found = [], []
    for i in range(0, len(real), _AT_ONCE):
        shares = tf.constant(real[i : i + _AT_ONCE])
        code, _ = generator.codes(shares)
        errors.append((generator.decode(code) - shares) ** 2)
        normal = tf.random.stateless_normal(code.shape, [seed, i])
        found.append(terms(generator, shares, normal))
    error = float(np.mean(np.concatenate(errors)))
    whole = type(found[0])(*(tf.concat(part, 0) for part in zip(*found, strict=True)))
    num_pixels = math.prod(real.shape[1:])
    return {
        "reconstruction_error": math.sqrt(error),
        "unexplained": error / float(np.mean(np.var(real, axis=0))),
        "bound": float(bound(whole, stddev, num_pixels)) / num_pixels,
    }


# Two samples


def two_sample_accuracies(
    real: np.ndarray, drawn: np.ndarray, seed: int
) -> tuple[float, float]:
    """Return the accuracies of a network that tells drawn images from real ones.

    It is trained on every second image of each, and tested on the others.

    Args:
        real: [n, height, width, channels], shares of white.
        drawn: [m, height, width, channels].
        seed: of its initial weights and of the order.

    Returns:
        fine: of the images, 1/2 where the laws are equal.
        coarse: of images made four times smaller.
    """
    return (
        _two_sample_accuracy(real, drawn, seed),
        _two_sample_accuracy(_coarse(real), _coarse(drawn), seed),
    )


def _two_sample_accuracy(real, drawn, seed):
    """Accuracy of a network on the second half, trained on the first."""
    images = np.concatenate([real, drawn])
    is_real = np.repeat([1.0, 0.0], [len(real), len(drawn)]).astype(np.float32)
    half = np.concatenate([np.arange(len(real)), np.arange(len(drawn))]) % 2 == 0
    network = _judge(images.shape[1:], seed)
    fitted = images[half], is_real[half]
    for epoch in range(_PASSES):
        order = np.random.default_rng([seed, epoch]).permutation(len(fitted[0]))
        for i in range(0, len(order) - _BATCH + 1, _BATCH):
            chosen = order[i : i + _BATCH]
            network.train_on_batch(fitted[0][chosen], fitted[1][chosen])
    logits = network.predict(images[~half], verbose=0)[:, 0]
    return float(np.mean((logits > 0) == (is_real[~half] > 0)))


def _judge(shape, seed):
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input(shape),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2, padding="same"),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2, padding="same"),
            layers.Flatten(),
            layers.Dense(32, activation="relu"),
            layers.Dense(1),
        ]
    )
    initialize(network.trainable_variables, seed)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    network.compile("adam", loss, jit_compile=False)
    return network


def _coarse(images):
    edges = [max(1, round(edge / _COARSE)) for edge in images.shape[1:3]]
    return tf.image.resize(images, edges, antialias=True).numpy()


# Neighbours


def _coverage(real, others):
    """Share of real images with one of the others within their fifth neighbour."""
    within = np.sort(_distances(real, real), axis=1)
    radius = within[:, _NEIGHBOURS]  # the first is the image itself
    return float(np.mean(np.min(_distances(real, others), axis=1) <= radius))


def _class_distance(fitted, real, drawn):
    """Total variation between shares of classes, by the nearest fitted image."""
    number = min(_LABELLED, len(fitted.images))
    labelled = fitted.shares(slice(number))
    classes = np.unique(fitted.labels)
    shares = []
    for images in (real, drawn):
        nearest = np.argmin(_distances(images, labelled), axis=1)
        labels = fitted.labels[nearest]
        shares.append(np.mean(labels[:, None] == classes, axis=0))
    return float(0.5 * np.sum(np.abs(shares[0] - shares[1])))


def _distances(images, others):
    """Squared distances of all pairs, [images, others]."""
    a = images.reshape(len(images), -1).astype(np.float64)
    b = others.reshape(len(others), -1).astype(np.float64)
    squares = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1)
    return np.maximum(squares - 2 * a @ b.T, 0.0)
