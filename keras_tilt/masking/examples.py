"""Batches of images, each with some of its segments, to train a segmenter on.

    batch(seed, epoch, step) = images and segments, labels [n, s], weights [n, s]

Images of any size are scaled to fit that of the network and padded with gray, where
there is no segment. Where segments are missing, others of weight 0 are added.

Source: Dai, He and Sun, CVPR 2015.
"""

__all__ = [
    "draw",
    "fit_image",
    "fit_labels",
    "input_signature",
    "inputs_of",
    "resize_labels",
    "training_batches",
]

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tilt.masking.assignment import NEGATIVE, Assignment
from keras_tilt.masking.segments.atoms import Segments
from keras_tilt.validation import check_seed

_GRAY = 127.5


def fit_image(image: ArrayLike | tf.Tensor, size: Sequence[int]) -> tf.Tensor:
    """Return an image scaled to fit a size, and padded: float32 [height, width, c].

    Args:
        image: [height, width, channels], pixels in [0, 255].
        size: (height, width) of the network.
    """
    fitted = _fitted_size(tf.shape(image), size)
    image = tf.image.resize(tf.cast(image, tf.float32), fitted, antialias=True)
    return _filled_up(image, size, _GRAY)


def fit_labels(labels: ArrayLike | tf.Tensor, size: Sequence[int]) -> tf.Tensor:
    """Return a label map scaled alike, by nearest pixels, and padded with -1: int32.

    Args:
        labels: integers [height, width].
        size: (height, width) of the network.
    """
    labels = resize_labels(labels, _fitted_size(tf.shape(labels), size))
    return _filled_up(tf.cast(labels, tf.int32), size, -1)


def resize_labels(
    labels: ArrayLike | tf.Tensor, shape: Sequence[int] | tf.Tensor
) -> tf.Tensor:
    """Return a label map at another size, by nearest pixels.

    Args:
        labels: [height, width, ...].
        shape: the new (height, width).
    """
    labels = tf.convert_to_tensor(labels)
    rows, columns = (
        _nearest(new, old)
        for new, old in zip(
            tf.unstack(shape), tf.unstack(tf.shape(labels)[:2]), strict=True
        )
    )
    return tf.gather(tf.gather(labels, rows, axis=0), columns, axis=1)


def _fitted_size(shape, size):
    """Return the largest (height, width) of that aspect ratio that fits into `size`."""
    shape, size = tf.cast(shape[:2], tf.float64), tf.constant(size, tf.float64)
    scale = tf.reduce_min(size / shape)
    return tf.cast(tf.maximum(tf.round(scale * shape), 1), tf.int32)


def _nearest(count, pixels):
    """Return, for the centers of `count` new pixels, the old pixels they lie in."""
    count, pixels = tf.cast(count, tf.int64), tf.cast(pixels, tf.int64)
    return (2 * tf.range(count) + 1) * pixels // (2 * count)


def _filled_up(values, size, filling):
    missing = tf.constant(size) - tf.shape(values)[:2]
    pads = [[0, missing[0]], [0, missing[1]]] + [[0, 0]] * (values.shape.rank - 2)
    values = tf.pad(values, pads, constant_values=filling)
    return tf.ensure_shape(values, [*size, *values.shape[2:]])


def inputs_of(
    image: np.ndarray, segments: Segments, size: Sequence[int]
) -> dict[str, tf.Tensor]:
    """Return a batch of one image and all its segments, for a `Segmenter`.

    Args:
        image: uint8 [height, width, 3].
        segments: `Segments` of it.
        size: (height, width) of the network.
    """
    return {
        "image": fit_image(image, size)[tf.newaxis],
        "atoms": fit_labels(segments.atoms, size)[tf.newaxis],
        "members": tf.constant(segments.members)[tf.newaxis],
    }


def input_signature(size: Sequence[int]) -> list[dict[str, tf.TensorSpec]]:
    """Return the signature of a graph that takes what `inputs_of` returns.

    Args:
        size: (height, width) of the network.
    """
    return [
        {
            "image": tf.TensorSpec([1, *size, 3]),
            "atoms": tf.TensorSpec([1, *size], tf.int32),
            "members": tf.TensorSpec([1, None, None], tf.bool),
        }
    ]


def training_batches(
    read: Callable[[int], tuple[np.ndarray, Assignment]],
    number: int,
    size: Sequence[int],
    *,
    seed: int,
    epoch: int,
    images: int = 4,
    segments: int = 64,
    positive: float = 0.75,
    stochastic: bool = True,
    negative: tuple[float, float] = NEGATIVE,
) -> tf.data.Dataset:
    """Return the batches of one epoch, each image once, in a new order.

    Args:
        read: function of an image index that returns (image uint8 [h, w, 3],
            `Assignment`).
        number: number of images.
        size: (height, width) of the network.
        seed: integer; with the epoch it determines order, pursuit, segments, mirroring.
        epoch: index of the epoch.
        images: images per batch.
        segments: segments per image.
        positive: share of them with a class, at most.
        stochastic: whether stuff is pursued at random, anew in each epoch.
        negative: as in `Assignment.labels`.

    Returns:
        dataset: of (inputs, labels, weights), as `Segmenter.fit` takes them.
    """
    check_seed(seed)
    order = np.random.default_rng([seed, epoch]).permutation(number)

    def examples():
        for i in order.tolist():
            rng = np.random.default_rng([seed, epoch, i])
            image, assignment = read(i)
            own = (seed, epoch, i) if stochastic else None
            labels = assignment.labels(own, negative)
            chosen = draw(labels, assignment.num_classes, segments, positive, rng)
            some = assignment.segments.select(chosen)
            turn = slice(None, None, -1 if rng.random() < 0.5 else None)
            yield image[:, turn], some.atoms[:, turn], some.members, labels[chosen]

    dataset = _fitted_batches(examples, size, images, segments)
    return dataset.apply(
        tf.data.experimental.assert_cardinality(-(-number // images))
    ).prefetch(2)


def _fitted_batches(examples, size, images, segments):
    """Return batches of images of one size, each with equally many segments.

    Args:
        examples: function that yields (image, atoms, members, labels) of any size.
        size: (height, width) of the network.
        images: images per batch.
        segments: segments per image; an image with fewer is padded, with weight 0.
    """

    def fitted(image, atoms, members, labels):
        missing = segments - tf.shape(labels)[0]
        inputs = {
            "image": fit_image(image, size),
            "atoms": fit_labels(atoms, size),
            "members": tf.pad(members, [[0, missing], [0, 0]]),
        }
        weights = tf.pad(tf.ones(tf.shape(labels)), [[0, missing]])
        return inputs, tf.pad(labels, [[0, missing]]), weights

    dataset = tf.data.Dataset.from_generator(
        examples,
        output_signature=(
            tf.TensorSpec([None, None, 3], tf.uint8),
            tf.TensorSpec([None, None], tf.int32),
            tf.TensorSpec([None, None], tf.bool),
            tf.TensorSpec([None], tf.int32),
        ),
    )
    shapes = (
        {"image": [*size, 3], "atoms": [*size], "members": [segments, None]},
        [segments],
        [segments],
    )
    return dataset.map(fitted).padded_batch(images, shapes)


def draw(
    labels: ArrayLike,
    num_classes: int,
    count: int,
    positive: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return segments to train on: every class equally often, and some of no class.

    Args:
        labels: label of every segment, [segments]; `num_classes` is no class, -1 is
            not used.
        num_classes: number of classes.
        count: number of segments, at most.
        positive: share of them with a class, at most.
        rng: the generator that draws them.

    Returns:
        chosen: indices of segments, int64 [at most count], without repetition; drawn
            with weights 1 / (segments of the class).

    Example:
        >>> draw(np.array([0, 1, 2, -1]), 2, 4, 0.5, np.random.default_rng(0)).size
        3
    """
    labels = np.asarray(labels)
    of_class = np.flatnonzero((labels >= 0) & (labels < num_classes))
    of_none = np.flatnonzero(labels == num_classes)
    weights = 1 / np.bincount(labels[of_class], minlength=1)[labels[of_class]]
    number = min(len(of_class), int(positive * count))
    chosen = rng.choice(
        of_class, number, replace=False, p=weights / weights.sum() if number else None
    )
    others = rng.permutation(of_none)[: count - number]
    return np.concatenate([chosen, others]).astype(int)
