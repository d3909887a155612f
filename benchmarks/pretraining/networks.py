"""Networks of the benchmark, by name.

convnet                    three convolutions and a dense layer
pooled_convnet             four, each normalized, and a mean over the last map
pooled_convnet_batch_head  the same, and a batch norm of that mean
convnext                   blocks of Liu et al. 2022, "A ConvNet for the 2020s", few
small_alexnet              AlexNet for 64 pixels
..._centered               the same, its logits centered by `kt.center_logits`

and, in a pooled_convnet, batch normalization of two more kinds:

ghost   by means and variances of a quarter of the batch, 32 images of 128
moving  by moving means and variances in training, too, so that the logits of an image
        depend on no other image
"""

__all__ = ["network"]

import functools

import keras
import tensorflow as tf
from keras import layers

import keras_tilt as kt

GHOSTS = 4  # in a batch


def batch_head(*args, **kwargs):
    """Features centered and scaled over the batch, before the last layer alone."""
    body = kt.pooled_convnet(*args, **kwargs)
    features = body.get_layer("mean").output
    norm = layers.BatchNormalization(center=False, scale=False, name="head_norm")
    logits = body.get_layer("classes")(norm(features))
    return keras.Model(body.input, logits, name="pooled_convnet_batch_head")


def convnext(input_shape, num_classes, seed, normalization):
    """Two stages of two blocks; depthwise 7x7, layer norm, four times as wide inside.

    The stem cuts patches of 2 x 2 pixels, or of 4 x 4 of images of 64 pixels or more.
    """
    if normalization != "layer":
        raise ValueError(f"Expected --normalization layer. Received: {normalization}.")
    kernels = (keras.initializers.HeNormal(100 * seed + i) for i in range(100))
    patch = 4 if min(input_shape[:2]) >= 64 else 2
    images = keras.Input(input_shape, name="images")
    x = layers.Rescaling(1 / 64, offset=-2.0)(images)
    for stage, (width, stride) in enumerate(((48, patch), (96, 2))):
        x = layers.LayerNormalization(epsilon=1e-6)(x) if stage else x
        kernel = next(kernels)
        x = layers.Conv2D(width, stride, stride, kernel_initializer=kernel)(x)
        for _ in range(2):
            x = layers.Add()([x, _block(x, width, kernels)])
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    x = layers.LayerNormalization(epsilon=1e-6)(x)
    x = layers.Dense(num_classes, kernel_initializer=next(kernels), name="classes")(x)
    return keras.Model(images, x, name="convnext")


def _block(x, width, kernels):
    depthwise = functools.partial(layers.DepthwiseConv2D, 7, padding="same")
    x = depthwise(depthwise_initializer=next(kernels))(x)
    x = layers.LayerNormalization(epsilon=1e-6)(x)
    x = layers.Dense(4 * width, "gelu", kernel_initializer=next(kernels))(x)
    x = layers.Dense(width, kernel_initializer=next(kernels))(x)
    # A tenth of each block, where the paper learns a share per channel.
    return layers.Rescaling(0.1)(x)


@keras.saving.register_keras_serializable("pretraining")
class GhostBatchNormalization(layers.BatchNormalization):
    """Batch normalization of a part of the batch at a time, in training.

    Source: Hoffer, Hubara and Soudry 2017, "Train longer, generalize better".
    """

    def call(self, inputs, training=None, mask=None):
        """Return maps [batch, height, width, channels] normalized."""
        if not training:
            return super().call(inputs, training=False)
        call, parts = super().call, tf.split(inputs, GHOSTS)
        return tf.concat([call(part, training=True) for part in parts], axis=0)


@keras.saving.register_keras_serializable("pretraining")
class MovingBatchNormalization(layers.BatchNormalization):
    """Batch normalization by moving means and variances, in training, too."""

    def call(self, inputs, training=None, mask=None):
        """Return maps [batch, height, width, channels] normalized."""
        normalized = super().call(inputs, training=False)
        if training:
            super().call(inputs, training=True)  # moves them, for the next batch
        return normalized


KINDS = {"ghost": GhostBatchNormalization, "moving": MovingBatchNormalization}


def pooled(shape, num_classes, seed, normalization):
    """`kt.pooled_convnet`, of these kinds of batch normalization, too."""
    kind = KINDS.get(normalization)
    found = kt.pooled_convnet(
        shape, num_classes, seed, "batch" if kind else normalization
    )
    if not kind:
        return found

    def copy(layer):
        if isinstance(layer, layers.BatchNormalization):
            return kind.from_config({**layer.get_config(), "momentum": 0.9})
        return layer.from_config(layer.get_config())

    return keras.models.clone_model(found, clone_function=copy)


NETWORKS = {
    "pooled_convnet": pooled,
    "pooled_convnet_batch_head": batch_head,
    "convnext": convnext,
}


def network(run, num_classes):
    """The network of a run, of weights by its seed."""
    shape, norm = (run["size"], run["size"], 3), run["normalization"]
    plain = run["network"].removesuffix("_centered")
    found = uncentered(plain, (shape, num_classes, run["seed"]), norm)
    return found if plain == run["network"] else kt.center_logits(found)


def uncentered(name, arguments, norm):
    """One by its name, from (shape of an image, classes, seed) and a normalization."""
    if name == "convnet":
        return kt.convnet(*arguments, batch_norm=norm == "batch")
    if name == "small_alexnet":
        return kt.small_alexnet(*arguments)
    return NETWORKS[name](*arguments, None if norm == "none" else norm)
