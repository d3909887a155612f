"""Images of the benchmark: to train on, to test on, and of other kinds."""

__all__ = ["opened", "strangers", "with_outliers"]

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


def with_outliers(source, count, side, kinds):
    """More images, without label, that are unlike those of the source."""
    some = batches.evaluation_batches(source, 500, crop=(side, side)).take(10)
    draws = kt.outliers(some, count, 0, kinds)
    pixels, classes = np.uint8(np.round(draws)), np.zeros(count, np.int32)
    outliers = sources.arrays(pixels, classes, source.class_names)
    return sources.concatenated(held(source), sources.unlabelled(outliers))


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
