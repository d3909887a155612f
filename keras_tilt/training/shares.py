"""Logits of batches of which each replica has a share."""

__all__ = ["logits_of_crops", "logits_of_share", "shared_logits"]

from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_tilt import workers
from keras_tilt.training.batch_checks import class_indices, first_of
from keras_tilt.validation import one_pass

_OF_BLANK = -2  # label of an image that stands in for none


def logits_of_share(model: keras.Model, images: Any, training: bool) -> tf.Tensor:
    """Return the output for a replica's share of a batch, which may be empty.

    Convolutions of empty batches fail in some kernels, and their batch statistics are
    NaN: a blank image stands in, and its logits are dropped.

    Args:
        model: of the replicas.
        images: the share, as the network takes it.
        training: whether layers run as in training.
    """
    if model.distribute_strategy.num_replicas_in_sync == 1:
        return model(images, training=training)
    num_images = tf.shape(first_of(images))[0]
    blank = keras.tree.map_structure(_blank, images)
    images = tf.cond(num_images > 0, lambda: images, lambda: blank)
    return model(images, training=training)[:num_images]


def _blank(images):
    """Return one image of zeros."""
    blank = tf.zeros(tf.concat([[1], tf.shape(images)[1:]], 0), images.dtype)
    return tf.ensure_shape(blank, [1, *images.shape[1:]])


def shared_logits(
    model: keras.Model, read: Callable
) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """Yield logits and labels of each batch, of which every worker reads its parts.

    A collective, as each batch is. The order of the images is that of one process for
    parts as `keras_tilt.batches` makes them.

    Args:
        model: images `[batch, height, width, channels]` to logits `[batch, classes]`.
        read: function of a `tf.distribute.InputContext` that returns the data set of
            (images, or `[batch, crops, ...]`; labels as `fit` takes them).

    Yields:
        logits: `[batch, crops, classes]` float64, which holds those of any type.
        labels: `[batch]` int32.
    """
    strategy = model.distribute_strategy

    def of_replica(images, labels):
        is_empty = tf.shape(images)[0] == 0
        images = tf.cond(is_empty, lambda: _blank(images), lambda: images)
        logits = tf.cast(logits_of_crops(model, images), tf.float64)
        of_blank = tf.constant([_OF_BLANK])
        labels = class_indices(labels, logits.shape[2])
        labels = tf.cond(is_empty, lambda: of_blank, lambda: labels)
        gather = tf.distribute.get_replica_context().all_gather
        # Where all parts are empty a gather would end the process.
        return [gather(tf.identity(part), axis=0) for part in (logits, labels)]

    @tf.function(reduce_retracing=True)
    def of_batch(images, labels):
        of_all = strategy.run(of_replica, (images, labels))
        parts = [strategy.experimental_local_results(part)[0] for part in of_all]
        return [tf.boolean_mask(part, parts[1] != _OF_BLANK) for part in parts]

    dataset = workers.in_parts(strategy, read)
    for images, labels in one_pass("dataset", dataset, "predicting"):
        yield tuple(of_batch(images, labels))


def logits_of_crops(model: Callable[..., tf.Tensor], images: tf.Tensor) -> tf.Tensor:
    """Return logits `[batch, crops, classes]`, of the type of the model's outputs.

    Args:
        model: as in `shared_logits`.
        images: `[batch, height, width, channels]` or `[batch, crops, ...]`.
    """
    crops = images.shape[1] if images.shape.rank == 5 else 1
    logits = model(tf.reshape(images, [-1, *images.shape[-3:]]), training=False)
    return tf.reshape(logits, [tf.shape(images)[0], crops, logits.shape[-1]])
