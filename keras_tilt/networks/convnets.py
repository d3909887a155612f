"""Small convolutional networks for small photographs, as functional Keras models.

    images, pixels [batch, height, width, channels] -> logits F [batch, classes], nats

They scale the pixels themselves. Weights are those of He et al. 2015, in the last layer
those of Glorot and Bengio 2010; biases are 0.
"""

__all__ = ["convnet", "pooled_convnet"]

import functools
from collections.abc import Sequence
from typing import Literal

import keras
from keras import layers

LAST = "channels_last"  # is where channels are, whatever Keras's default is
GROUPS = 8
STREAMS = 10  # of random numbers in a network: the last layer's, and nine others

Normalization = Literal["group", "layer", "batch"] | None


def convnet(
    input_shape: Sequence[int] = (32, 32, 3),
    num_classes: int = 10,
    seed: int = 0,
    batch_norm: bool = True,
) -> keras.Model:
    """Return a small modern network: pixels in [0, 255] to logits [batch, classes].

    Three times convolution 3x3, batch norm, ReLU, max pool 2/2, with 32, 64 and 128
    channels; then a dense layer. Weights of He et al., in the last layer of Glorot and
    Bengio; biases 0. 114,410 parameters for 32x32x3 images and 10 classes, 113,738
    without batch norm.

    Args:
        input_shape: (height, width, channels), at least 8 pixels a side.
        num_classes: number of logits.
        seed: integer; equal seeds give equal initial weights.
        batch_norm: False leaves it out and gives the convolutions biases.

    Returns:
        network: `keras.Model`, logits in nats.

    Source: He et al. 2015, "Delving deep into rectifiers"; Glorot and Bengio 2010.
    """
    images = keras.Input(input_shape, name="images")
    x = layers.Rescaling(1 / 64, offset=-2.0, name="rescale")(images)
    for i, channels in enumerate((32, 64, 128)):
        kernel = keras.initializers.HeNormal(4 * seed + i)
        x = layers.Conv2D(
            channels,
            3,
            padding="same",
            data_format=LAST,
            use_bias=not batch_norm,
            kernel_initializer=kernel,
            name=f"conv{i + 1}",
        )(x)
        if batch_norm:
            x = layers.BatchNormalization(name=f"norm{i + 1}")(x)
        x = layers.ReLU(name=f"relu{i + 1}")(x)
        x = layers.MaxPooling2D(2, data_format=LAST, name=f"pool{i + 1}")(x)
    x = layers.Flatten(LAST, name="flatten")(x)
    kernel = keras.initializers.GlorotUniform(4 * seed + 3)
    x = layers.Dense(num_classes, kernel_initializer=kernel, name="classes")(x)
    return keras.Model(images, x, name="convnet")


def pooled_convnet(
    input_shape: Sequence[int] = (32, 32, 3),
    num_classes: int = 10,
    seed: int = 0,
    normalization: Normalization = "group",
    widths: Sequence[int] = (32, 64, 128, 128),
) -> keras.Model:
    """Return convolutions, each normalized, and a mean over the last map.

    Convolution 3x3, normalization, ReLU, for each of `widths`, max pool 2/2 between
    them; then the mean over all cells, and a dense layer. The first convolution is 5x5
    with strides 2 where images have 64 pixels a side or more. 242,474 parameters for
    32x32x3 images and 10 classes, 255,620 for 64x64x3 images and 100 classes.

    Group and layer normalization take means and variances within one image, so that its
    logits depend on no other image of the batch. Batch normalization makes them depend
    on the images that the softmax of the generative gradient then runs over.

    Args:
        input_shape: (height, width, channels), at least 8 pixels a side.
        num_classes: number of logits.
        seed: integer; equal seeds give equal initial weights.
        normalization: "group" of 8 groups of channels, "layer" of all of them in one,
            "batch", or None, which gives the convolutions biases.
        widths: channels of the convolutions, at most nine, each a multiple of 8 with
            "group".

    Returns:
        network: `keras.Model`, logits in nats.

    Raises:
        ValueError: another normalization, or too many widths.

    Source: Wu and He 2018, "Group normalization", whose layer normalization is one
    group.
    """
    _check(normalization, widths)
    strided = min(input_shape[:2]) >= 64
    images = keras.Input(input_shape, name="images")
    x = layers.Rescaling(1 / 64, offset=-2.0, name="rescale")(images)
    for i, channels in enumerate(widths):
        begins = i == 0 and strided
        x = layers.Conv2D(
            channels,
            kernel_size=5 if begins else 3,
            strides=2 if begins else 1,
            padding="same",
            data_format=LAST,
            use_bias=normalization is None,
            kernel_initializer=keras.initializers.HeNormal(STREAMS * seed + i),
            name=f"conv{i + 1}",
        )(x)
        x = _normalized(x, normalization, name=f"norm{i + 1}")
        x = layers.ReLU(name=f"relu{i + 1}")(x)
        if i + 1 < len(widths):
            x = layers.MaxPooling2D(2, data_format=LAST, name=f"pool{i + 1}")(x)
    x = layers.GlobalAveragePooling2D(LAST, name="mean")(x)
    kernel = keras.initializers.GlorotUniform(STREAMS * seed + STREAMS - 1)
    x = layers.Dense(num_classes, kernel_initializer=kernel, name="classes")(x)
    return keras.Model(images, x, name="pooled_convnet")


_NORMALIZATIONS = {
    "group": functools.partial(layers.GroupNormalization, GROUPS),
    "layer": functools.partial(layers.GroupNormalization, 1),
    "batch": layers.BatchNormalization,
}


def _normalized(maps, normalization, name):
    if normalization is None:
        return maps
    return _NORMALIZATIONS[normalization](name=name)(maps)


def _check(normalization, widths):
    if normalization is not None and normalization not in _NORMALIZATIONS:
        raise ValueError(
            f"`normalization` must be one of {', '.join(_NORMALIZATIONS)}, or None. "
            f"Received: {normalization!r}. Pass normalization='group'."
        )
    if not 0 < len(widths) < STREAMS:
        raise ValueError(
            f"`widths` must be the channels of 1 to {STREAMS - 1} convolutions. "
            f"Received: {tuple(widths)!r}. Pass for example widths=(32, 64, 128, 128)."
        )
