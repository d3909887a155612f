"""Logits centered over the batch, so that training follows no class counts.

    z = F - m + b,    m = mean of F over the images of the batch;  in use, moving means

The gradient of z in F is centered, too: down each column it sums to zero, as does that
of the generative objective, which does not see m at all. What all images of a batch
have in common, and their class counts with it, moves b alone.

Source: Schraudolph 1998, "Centering neural network gradient factors", which centers the
errors of each unit over the images.
"""

__all__ = ["CenteredLogits", "center_logits", "recenter"]

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_tilt.training.batch_checks import finite_logits, plain_errors
from keras_tilt.training.compile_checks import num_classes_of
from keras_tilt.validation import one_pass


def center_logits(network: keras.Model, momentum: float = 0.9) -> keras.Model:
    """Return a network whose logits are centered over the batch, with biases of theirs.

        z = F - m + b

    Train it in place of a network without batch normalization. The discriminative
    gradient of what all images have in common follows the class counts of the batch,
    which are mostly noise: 128 images of 100 classes are 1.3 +- 1.1 of each. The
    densities of its classes are those of the network: in use, what is subtracted
    depends on no image.

    Args:
        network: functional or Sequential `keras.Model`, images to logits
            `[batch, classes]`, no softmax or sigmoid at its end. Its weights are
            shared.
        momentum: of the moving means, as in `CenteredLogits`.

    Returns:
        centered: functional `keras.Model` of the same name, logits `[batch, classes]`.

    Raises:
        ValueError: a network whose output is not `[batch, classes]` logits, or a
            momentum outside [0, 1).

    Example:
        >>> network = keras_tilt.center_logits(keras_tilt.pooled_convnet())
        >>> model = keras_tilt.GenerativeClassifier(network)
        >>> model.compile("adamw", objective="discriminative", metrics=["accuracy"])

    Source: Schraudolph 1998.
    """
    num_classes_of(network)
    layer = CenteredLogits(momentum, name="centered_logits")
    is_sequential = isinstance(network, keras.Sequential)
    inputs = network.inputs if is_sequential else network.input
    return keras.Model(inputs, layer(network.outputs[0]), name=network.name)


def recenter(model: keras.Model, images: Any, batch_size: int = 256) -> np.ndarray:
    """Set what is subtracted in use to the means over a data set, in one pass.

        m = (1/n) sum_j F[j, :]

    While the learning rate is large, the moving means lag behind, and follow single
    batches; recenter such a network before it is evaluated or saved. After a schedule
    that has lowered the rate it makes hardly a difference.

    Args:
        model: network of `center_logits`, or a `GenerativeClassifier` of it.
        images: those of training, as the network takes them: `tf.data.Dataset` of
            batches of images, or of (images, labels), that ends; or an array.
        batch_size: images per batch if `images` is an array.

    Returns:
        change: `[classes]` nats, m - the moving means that were.

    Raises:
        ValueError: a model without the layer, an empty or endless data set, or images
            or logits not finite.

    Example:
        >>> network = keras_tilt.center_logits(keras_tilt.lenet())
        >>> (images, _), _ = keras_tilt.data.embedded_mnist()
        >>> change = keras_tilt.recenter(network, images)

    Source: as for batch normalization, Ioffe and Szegedy 2015, algorithm 2.
    """
    network = getattr(model, "network", model)
    found = [each for each in network.layers if isinstance(each, CenteredLogits)]
    if not found:
        raise ValueError(
            "Expected a network of `center_logits`, or a classifier of it. Received: "
            f"{network.name!r}, which has no `CenteredLogits`."
        )
    if not isinstance(images, tf.data.Dataset):
        images = tf.data.Dataset.from_tensor_slices(images).batch(batch_size)
    layer = found[-1]
    uncentered = keras.Model(network.input, layer.input)
    totals, count = _sums_of(uncentered, images)
    before = layer.moving_mean.numpy()
    layer.moving_mean.assign(totals / count)
    return layer.moving_mean.numpy() - before


def _sums_of(network, dataset):
    """Return the sums [classes] of logits over a data set, and how many there are."""

    def of_batch(images, step):
        logits = tf.cast(network(images, training=False), tf.float32)
        logits = finite_logits(images, logits, "batch to recenter by", step)
        return tf.reduce_sum(logits, axis=0), tf.shape(logits)[0]

    of_batch, found = tf.function(of_batch, reduce_retracing=True), []
    with plain_errors():  # of the data set, too
        for step, batch in enumerate(one_pass("images", dataset, "recentering")):
            images, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
            total, number = of_batch(images, tf.constant(step))
            found.append((np.float64(total), int(number)))
    if not found:
        raise ValueError(
            "Expected `images` of at least one batch. Received: none. Pass the "
            "training images."
        )
    totals, numbers = zip(*found, strict=True)
    return np.sum(totals, axis=0), sum(numbers)


@keras.saving.register_keras_serializable("keras_tilt")
class CenteredLogits(keras.layers.Layer):
    """Logits less their mean over the batch, plus a bias per class.

        z = F - m + b,    m = (1/n) sum_j F[j, :],    dL/dF = dL/dz - mean of dL/dz

    In training m is that of the batch, over all replicas; a batch of one image has z =
    b, and no gradient but that of b. In use, and in training with `trainable = False`,
    m is a moving mean over batches. It lags behind while the learning rate is large:
    end with a schedule that lowers the rate, or `recenter`. m is subtracted from the
    logits, not only from their gradients: otherwise nothing holds what all logits of a
    class have in common.

    Args:
        momentum: weight of the means so far in the moving means, in [0, 1). A smaller
            one lags less, and follows single batches more.
        **kwargs: of `keras.layers.Layer`.

    Attributes:
        bias: variable `[classes]` nats, b, from 0.
        moving_mean: variable `[classes]` nats, from 0.

    Raises:
        ValueError: a momentum outside [0, 1).

    Example:
        >>> layer = keras_tilt.training.CenteredLogits()
        >>> layer(np.array([[1.0, 5.0], [3.0, 0.0]]), training=True).numpy()
        array([[-1. ,  2.5],
               [ 1. , -2.5]], dtype=float32)

    Source: Schraudolph 1998.
    """

    affine = True  # to `constants_per_class`: what is added to F is added to z, less m

    def __init__(self, momentum: float = 0.9, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= momentum < 1:
            raise ValueError(
                "Expected `momentum` in [0, 1), the weight of the means so far. "
                f"Received: {momentum!r}. Pass for example 0.9."
            )
        self.momentum = momentum

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Make the bias and the moving mean.

        Args:
            input_shape: of the logits, (batch, classes).
        """
        shape = {"shape": input_shape[-1:], "dtype": "float32", "autocast": False}
        self.bias = self.add_weight(name="bias", initializer="zeros", **shape)
        self.moving_mean = self.add_weight(
            name="moving_mean",
            initializer="zeros",
            trainable=False,
            aggregation="mean",
            **shape,
        )

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return the logits `[batch, classes]` centered.

        Args:
            inputs: logits `[batch, classes]`, nats.
            training: whether by the mean of the batch.
        """
        logits, mean = tf.cast(inputs, tf.float32), self.moving_mean.value
        if training and self.trainable:
            mean = _mean_over_replicas(logits)
            self.moving_mean.assign(
                self.momentum * self.moving_mean + (1 - self.momentum) * mean
            )
        return tf.cast(logits - mean + self.bias, inputs.dtype)

    def compute_output_shape(self, input_shape: Sequence[int]) -> Sequence[int]:
        """Return the shape of the logits.

        Args:
            input_shape: of the logits.
        """
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "momentum": self.momentum}


def _mean_over_replicas(logits):
    """Return the mean [classes] over the images of the global batch."""
    count = tf.cast(tf.shape(logits)[0], logits.dtype)
    totals = tf.concat([tf.reduce_sum(logits, axis=0), [count]], axis=0)
    context = tf.distribute.get_replica_context()
    if context is not None and context.num_replicas_in_sync > 1:
        totals = context.all_reduce(tf.distribute.ReduceOp.SUM, totals)
    return totals[:-1] / tf.maximum(totals[-1], 1.0)
