"""Images of the benchmark: to train on, to test on, and of other kinds."""

__all__ = ["opened", "strangers", "with_noise"]

import pathlib

import numpy as np
import tensorflow as tf

import keras_tilt as kt
from keras_tilt.data import batches, sources


def opened(dataset, data_dir, smoke=False):
    """The images to train on and those to test on, held in memory as pixels."""
    if smoke:
        train, test = kt.data.embedded_mnist()
        few = (train[0][:1280], train[1][:1280]), (test[0][:500], test[1][:500])
        return tuple(sources.arrays(in_colour(x, 32), y) for x, y in few)
    if not data_dir:
        raise ValueError(
            "Expected --data-dir, the folder of the data sets. Received: none, and "
            "KERAS_TILT_DATA is not set. Or try --smoke."
        )
    path = pathlib.Path(data_dir) / dataset
    if dataset.endswith(".npz"):
        return sources.npz(path, "train"), sources.npz(path, "test")
    if sources.is_tiny_imagenet(path):
        splits = "train", "validation"
        return tuple(held(sources.tiny_imagenet(path, split)) for split in splits)
    return tuple(sources.tfds_named(dataset, data_dir, s) for s in ("train", "test"))


def held(source):
    """The same images, decoded once."""
    read = batches.evaluation_batches(source, 500, crop=source.image_shape[:2])
    pixels = [np.uint8(images) for images, _ in read.as_numpy_iterator()]
    return sources.arrays(np.concatenate(pixels), source.labels, source.class_names)


def with_noise(source, count, side, with_shapes=False):
    """More images without label: Gaussians of the spectrum of the images, as many of
    the amplitudes and kurtosis of their Haar wavelets, down to one cell, and, where
    they are wanted, as many shapes."""
    some = batches.evaluation_batches(source, 500, crop=(side, side)).take(10)
    images = np.concatenate([x for x, _ in some.as_numpy_iterator()])
    shape, seed = images.shape[1:], np.array([0, 0])
    haar = kt.fit_wavelets(images, "haar", levels=int(np.log2(side)))
    references = (
        kt.spectral_noise(shape, spectrum=kt.fit_spectrum(images)),
        kt.wavelet_noise(shape, wavelets=haar),
    )
    each = count // (len(references) + with_shapes)
    draws = [q.sample(each, seed=seed) for q in references]
    draws = np.concatenate(draws + [shapes(each, side)] * with_shapes)
    pixels = np.uint8(np.round(np.clip(draws, 0, 255)))
    classes = np.zeros(len(pixels), np.int32)
    noise = sources.arrays(pixels, classes, source.class_names)
    return sources.concatenated(held(source), sources.unlabelled(noise))


def shapes(count, side):
    """Images of two colours, half of them gray: where smooth noise is above a level.

    As the "blobs" of Hendrycks, Mazeika and Dietterich 2019, "Deep anomaly detection
    with outlier exposure", of more sizes.
    """
    rng = np.random.default_rng(0)
    frequencies = np.fft.fftfreq(side)
    squared = frequencies[:, None] ** 2 + frequencies**2
    blur = rng.uniform(0.5, 4.0, [count, 1, 1]) * side / 32  # pixels
    white = np.fft.fft2(rng.normal(size=[count, side, side]))
    smooth = np.fft.ifft2(white * np.exp(-2 * (np.pi * blur) ** 2 * squared)).real
    smooth /= smooth.std((1, 2), keepdims=True)
    level = rng.uniform(0.0, 1.5, [count, 1, 1])
    inside = np.clip(0.5 + 2 * (smooth - level), 0, 1)[..., None]  # soft edges
    ground, colour = rng.uniform(0, 255, [2, count, 1, 1, 3])
    gray = np.arange(count) % 2 == 0
    ground[gray], colour[gray] = ground[gray, ..., :1], colour[gray, ..., :1]
    return (ground + inside * (colour - ground)).astype(np.float32)


def strangers(names, data_dir, side):
    """Images of other kinds by name: digits, noise, and test images of data sets."""
    _, (digits, _) = kt.data.embedded_mnist()
    noise = np.random.default_rng(0).integers(0, 256, [1000, side, side, 3], np.uint8)
    found = {"digits": in_colour(digits, side), "noise": noise}
    for name in names:
        _, test = opened(name, data_dir)
        views = batches.evaluation_batches(
            test, 500, crop=(side, side), shorter_side=side
        )
        pixels = [np.uint8(np.round(x)) for x, _ in views.as_numpy_iterator()]
        found[pathlib.Path(name).stem] = np.concatenate(pixels)
    return {
        name: sources.arrays(pixels, np.zeros(len(pixels), np.int32), ["stranger"])
        for name, pixels in found.items()
    }


def in_colour(digits, side):
    """Gray images [n, 28, 28, 1] as uint8 [n, side, side, 3]."""
    large = tf.image.resize(tf.repeat(digits, 3, axis=3), (side, side))
    return tf.cast(tf.round(large), tf.uint8).numpy()
