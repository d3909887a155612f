"""The networks of the papers as functional Keras models, layers named as in Caffe.

    images, pixels [batch, height, width, channels] -> logits F [batch, classes], nats

Each function gives its source. Two layers are here that Keras lacks, or has slower.
"""

__all__ = [
    "ILSVRC_MEAN",
    "LocalResponseNormalization",
    "SplitConv2D",
    "alexnet",
    "lenet",
    "small_alexnet",
    "zf_fast",
]

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import layers, ops

# Of the training images of ILSVRC-2012: red, green, blue, pixels in [0, 255].
ILSVRC_MEAN = (123.68, 116.779, 103.939)

_LAST = "channels_last"  # is where channels are, whatever Keras's default is
_STREAMS = 10  # of random numbers in a network: eight layers' weights, two dropouts


# MNIST


def lenet(
    input_shape: Sequence[int] = (28, 28, 1),
    num_classes: int = 10,
    seed: int = 0,
    scale: float = 1.0,
) -> keras.Model:
    """Return LeNet as Caffe ships it: images in [0, 1) to logits [batch, classes].

    conv1 20@5x5, max pool 2/2, conv2 50@5x5, max pool 2/2, ip1 500, ReLU, ip2. No ReLU
    after the convolutions, no dropout. Weights uniform in +-sqrt(3 / fan_in) (Caffe's
    "xavier"), biases 0. 431,080 parameters for 28x28x1 images and 10 classes.

    Args:
        input_shape: (height, width, channels), at least 16 pixels a side.
        num_classes: number of logits.
        seed: integer; equal seeds give equal initial weights.
        scale: of pixels before the first layer; 1 / 256 for images in [0, 255].

    Returns:
        network: `keras.Model`, logits in nats.

    Source: Jia et al., Caffe, 2014, examples/mnist/lenet_train_test.prototxt.
    """
    initializers = (
        keras.initializers.VarianceScaling(
            1.0, mode="fan_in", distribution="uniform", seed=4 * seed + layer
        )
        for layer in range(4)
    )
    convolution = functools.partial(layers.Conv2D, kernel_size=5, data_format=_LAST)
    images = keras.Input(input_shape, name="images")
    x = images if scale == 1.0 else layers.Rescaling(scale, name="rescale")(images)
    x = convolution(20, kernel_initializer=next(initializers), name="conv1")(x)
    x = layers.MaxPooling2D(2, data_format=_LAST, name="pool1")(x)
    x = convolution(50, kernel_initializer=next(initializers), name="conv2")(x)
    x = layers.MaxPooling2D(2, data_format=_LAST, name="pool2")(x)
    x = layers.Flatten(_LAST, name="flatten")(x)
    x = layers.Dense(500, kernel_initializer=next(initializers), name="ip1")(x)
    x = layers.ReLU(name="relu1")(x)
    x = layers.Dense(num_classes, kernel_initializer=next(initializers), name="ip2")(x)
    return keras.Model(images, x, name="lenet")


# ImageNet


def alexnet(
    input_shape: Sequence[int] = (227, 227, 3),
    num_classes: int = 1000,
    seed: int = 0,
    mean: Sequence[float] = ILSVRC_MEAN,
) -> keras.Model:
    """Return AlexNet as Caffe ships it: pixels in [0, 255] to logits [batch, classes].

    conv1 96@11x11/4, conv2 256@5x5 in two groups, conv3 384@3x3, conv4 384@3x3 and
    conv5 256@3x3 in two groups, each with a ReLU; normalization across channels after
    the first two, max pool 3/2 after these and the last; fc6 4096 and fc7 4096 with
    ReLU and dropout 0.5, fc8. Weights N(0, 0.01^2), in fc6 and fc7 N(0, 0.005^2);
    biases 0.1 in conv2, conv4, conv5, fc6 and fc7, elsewhere 0. 60,965,224 parameters.

    The first layer subtracts the mean of each channel, where Caffe's data layer
    subtracts a mean image. Poolings round up, as Caffe's.

    Args:
        input_shape: (height, width, channels), at least 39 pixels a side.
        num_classes: number of logits.
        seed: integer; equal seeds give equal initial weights and equal dropout.
        mean: of each channel, pixels in [0, 255]; the default is of RGB images.

    Returns:
        network: `keras.Model`, logits in nats.

    Raises:
        ValueError: images too small, or not one mean per channel.

    Source: Krizhevsky, Sutskever and Hinton 2012; Jia et al., Caffe, 2014,
    models/bvlc_alexnet/train_val.prototxt.
    """
    _check_images(input_shape, mean, least=39)
    seeds = itertools.count(_STREAMS * seed)
    chain = [
        _subtract(mean),
        *_convolution(1, 96, 11, next(seeds), strides=4),
        *_norm_and_pool(1),
        *_convolution(2, 256, 5, next(seeds), bias=0.1, padding="same", groups=2),
        *_norm_and_pool(2),
        *_convolution(3, 384, 3, next(seeds), padding="same"),
        *_convolution(4, 384, 3, next(seeds), bias=0.1, padding="same", groups=2),
        *_convolution(5, 256, 3, next(seeds), bias=0.1, padding="same", groups=2),
        _pool(5),
        *_classifier(num_classes, seeds, 4096, _gaussian(0.005), bias=0.1),
    ]
    return _model("alexnet", input_shape, chain)


def zf_fast(
    input_shape: Sequence[int] = (224, 224, 3),
    num_classes: int = 1000,
    seed: int = 0,
    mean: Sequence[float] = ILSVRC_MEAN,
) -> keras.Model:
    """Return the "fast" network of Zeiler and Fergus: pixels in [0, 255] to logits.

    conv1 96@7x7/2 with a border of one pixel, conv2 256@5x5/2, conv3 384@3x3, conv4
    384@3x3, conv5 256@3x3, each with a ReLU; normalization across channels after the
    first two, max pool 3/2 after these and the last; fc6 4096 and fc7 4096 with ReLU
    and dropout 0.5, fc8. Weights N(0, 0.01^2), biases 0. 62,357,608 parameters.

    Poolings round up, as Caffe's: 224 pixels make maps of 110, 55, 26, 13 and 6 cells,
    those of Zeiler and Fergus, figure 3. Rounded down, the last would have 5. Detectors
    built on this network later pad conv1 by 3 and the poolings by 1, for maps of 112,
    57, 29 and 15 cells, and normalize within channels; here as AlexNet.

    Args:
        input_shape: (height, width, channels), at least 47 pixels a side.
        num_classes: number of logits.
        seed: integer; equal seeds give equal initial weights and equal dropout.
        mean: of each channel, pixels in [0, 255]; the default is of RGB images.

    Returns:
        network: `keras.Model`, logits in nats [batch, classes].

    Raises:
        ValueError: images too small, or not one mean per channel.

    Source: Zeiler and Fergus 2014, figure 3 and section 3; He et al. 2014, "Spatial
    pyramid pooling", table 1, ZF-5.
    """
    _check_images(input_shape, mean, least=47)
    seeds = itertools.count(_STREAMS * seed)
    chain = [
        _subtract(mean),
        layers.ZeroPadding2D(1, _LAST, name="pad1"),
        *_convolution(1, 96, 7, next(seeds), strides=2),
        *_norm_and_pool(1),
        *_convolution(2, 256, 5, next(seeds), strides=2),
        *_norm_and_pool(2),
        *_convolution(3, 384, 3, next(seeds), padding="same"),
        *_convolution(4, 384, 3, next(seeds), padding="same"),
        *_convolution(5, 256, 3, next(seeds), padding="same"),
        _pool(5),
        *_classifier(num_classes, seeds, 4096, _narrow),
    ]
    return _model("zf_fast", input_shape, chain)


def small_alexnet(
    input_shape: Sequence[int] = (64, 64, 3),
    num_classes: int = 100,
    seed: int = 0,
    mean: Sequence[float] = ILSVRC_MEAN,
) -> keras.Model:
    """Return AlexNet for small photographs: a quarter as wide, of smaller windows.

    The layers of `alexnet`, of the same names: conv1 24@5x5/2 with a border, conv2
    64@5x5 in two groups, conv3 96@3x3, conv4 96@3x3 and conv5 64@3x3 in two groups, fc6
    1024, fc7 1024, fc8. 64 pixels make maps of 32, 16 and 8 cells, and of 4 after the
    last pooling. Weights N(0, 2 / fan_in), in fc8 N(0, 0.01^2); biases 0: with a
    quarter of the channels, weights N(0, 0.01^2) would let little through. These keep
    the scale of the images, so pixels are divided by 64 once the mean is subtracted,
    and alpha of the normalization, 1e-4, is multiplied by 64^2. 2,347,460 parameters
    for 64x64x3 images and 100 classes.

    Args:
        input_shape: (height, width, channels), at least 15 pixels a side.
        num_classes: number of logits.
        seed: integer; equal seeds give equal initial weights and equal dropout.
        mean: of each channel, pixels in [0, 255]; the default is of RGB images.

    Returns:
        network: `keras.Model`, logits in nats [batch, classes].

    Raises:
        ValueError: images too small, or not one mean per channel.

    Source: Krizhevsky, Sutskever and Hinton 2012, for the layers; He et al. 2015,
    "Delving deep into rectifiers", for the weights. Sizes are our own.
    """
    _check_images(input_shape, mean, least=15)
    seeds = itertools.count(_STREAMS * seed)
    convolution = functools.partial(_convolution, kernel=_he, padding="same")
    norm_and_pool = functools.partial(_norm_and_pool, alpha=1e-4 * 64**2)
    chain = [
        _subtract(mean, scale=1 / 64),
        *convolution(1, 24, 5, next(seeds), strides=2),
        *norm_and_pool(1),
        *convolution(2, 64, 5, next(seeds), groups=2),
        *norm_and_pool(2),
        *convolution(3, 96, 3, next(seeds)),
        *convolution(4, 96, 3, next(seeds), groups=2),
        *convolution(5, 64, 3, next(seeds), groups=2),
        _pool(5),
        *_classifier(num_classes, seeds, 1024, _he),
    ]
    return _model("small_alexnet", input_shape, chain)


# Their parts


def _model(name, input_shape, chain):
    """Return the model of functions that follow each other."""
    images = keras.Input(input_shape, name="images")
    logits = functools.reduce(lambda x, function: function(x), chain, images)
    return keras.Model(images, logits, name=name)


def _subtract(mean, scale=1.0):
    offsets = [-scale * float(m) for m in mean]
    return layers.Rescaling(scale, offsets, name="subtract_mean")


def _gaussian(stddev):
    """Return what draws weights N(0, stddev^2), by a seed."""
    return functools.partial(keras.initializers.RandomNormal, 0.0, stddev)


_narrow = _gaussian(0.01)
# Of weights N(0, 2 / fan_in), by a seed.
_he = functools.partial(
    keras.initializers.VarianceScaling, 2.0, "fan_in", "untruncated_normal"
)


def _convolution(
    number, filters, size, seed, kernel=_narrow, bias=0.0, groups=1, **arguments
):
    """Return a convolution and its ReLU."""
    kind = layers.Conv2D if groups == 1 else SplitConv2D
    convolution = kind(
        filters,
        size,
        data_format=_LAST,
        groups=groups,
        kernel_initializer=kernel(seed=seed),
        bias_initializer=keras.initializers.Constant(bias),
        name=f"conv{number}",
        **arguments,
    )
    return convolution, layers.ReLU(name=f"relu{number}")


def _norm_and_pool(number, alpha=1e-4):
    norm = LocalResponseNormalization(alpha=alpha, name=f"norm{number}")
    return norm, _pool(number)


def _pool(number):
    return functools.partial(_max_pool, name=f"pool{number}")


def _max_pool(x, name):
    """Max pool 3/2 of maps that are not negative: ceil((size - 3) / 2) + 1 cells.

    The last window may reach over the edge, by one cell where the size is even. There
    padding="same" adds just this cell; if only one side is even, a row of zeros does.
    """
    even = [size % 2 == 0 for size in x.shape[1:3]]
    if any(even) and not all(even):
        beyond = [(0, int(is_even)) for is_even in even]
        x, even = layers.ZeroPadding2D(beyond, _LAST, name=f"{name}_edge")(x), [False]
    padding = "same" if all(even) else "valid"
    return layers.MaxPooling2D(3, 2, padding, _LAST, name=name)(x)


def _classifier(num_classes, seeds, width, kernel, bias=0.0):
    """Return the layers from pool5 to the logits; weights of fc8 N(0, 0.01^2)."""
    hidden = [_dropped(number, seeds, width, kernel, bias) for number in (6, 7)]
    last = _narrow(seed=next(seeds))
    logits = layers.Dense(num_classes, kernel_initializer=last, name="fc8")
    return [layers.Flatten(_LAST, name="flatten"), *itertools.chain(*hidden), logits]


def _dropped(number, seeds, width, kernel, bias):
    """Return a dense layer, its ReLU and its dropout."""
    dense = layers.Dense(
        width,
        kernel_initializer=kernel(seed=next(seeds)),
        bias_initializer=keras.initializers.Constant(bias),
        name=f"fc{number}",
    )
    dropout = layers.Dropout(0.5, seed=next(seeds), name=f"drop{number}")
    return dense, layers.ReLU(name=f"relu{number}"), dropout


def _check_images(input_shape, mean, least):
    *sides, channels = input_shape
    if len(sides) != 2 or None in sides or min(sides) < least:
        raise ValueError(
            f"Expected images [height, width, channels] of at least {least} pixels a "
            "side, so that a cell is left on the last map. Received: input_shape "
            f"{tuple(input_shape)}. Enlarge the images."
        )
    if len(mean) != channels:
        raise ValueError(
            f"Expected `mean` to hold one number for each of {channels} channels. "
            f"Received: {mean!r}. Pass for example mean={(127.5,) * channels}."
        )


# Layers that Keras does not have, or has slower


@keras.saving.register_keras_serializable("keras_tilt")
class LocalResponseNormalization(layers.Layer):
    """Each response divided by a power of those around it, across channels.

        b_c = a_c / (1 + alpha / size sum_c' a_c'^2)^beta,    |c' - c| <= (size - 1) / 2

    Channels beyond the first and the last count as 0. The sums are a product with a
    matrix of ones along its diagonal: forward and backward two to three times as fast
    on a CPU as `tf.nn.local_response_normalization`, whose alpha is not divided by the
    size.

    Args:
        size: channels in a window, odd.
        alpha: weight of the mean square in the window.
        beta: the power.
        **kwargs: of `keras.layers.Layer`.

    Raises:
        ValueError: a window that has no middle.

    Example:
        >>> norm = keras_tilt.networks.LocalResponseNormalization(3, 3.0, 1.0)
        >>> norm(np.ones([1, 1, 1, 4])).numpy().round(3).ravel()
        array([0.333, 0.25 , 0.25 , 0.333], dtype=float32)

    Source: Krizhevsky, Sutskever and Hinton 2012, section 3.3, with 1 in place of k = 2
    and alpha / size in place of alpha, as in Caffe's LRN layer.
    """

    pointwise = True  # to `receptive_field`: each cell sees its own cell alone

    def __init__(
        self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if size < 1 or size % 2 == 0:
            raise ValueError(
                "Expected `size` to be odd: a channel and as many on either side. "
                f"Received: {size!r}. Pass for example 5."
            )
        self.size, self.alpha, self.beta = size, alpha, beta

    def call(self, maps: tf.Tensor) -> tf.Tensor:
        """Return the maps [..., channels] normalized.

        Args:
            maps: responses [..., channels].
        """
        # Scaled before it is squared: at 300 a square leaves the range of float16.
        scaled = math.sqrt(self.alpha / self.size) * maps
        sums = ops.matmul(scaled * scaled, self._band(maps))
        return maps * ops.exp(-self.beta * ops.log1p(sums))

    def _band(self, maps):
        """Return ones where two channels are in one window: [channels, channels]."""
        channels = ops.arange(maps.shape[-1])
        distance = ops.abs(channels[:, None] - channels)
        return ops.cast(distance <= self.size // 2, maps.dtype)

    def compute_output_shape(self, input_shape: Sequence[int]) -> Sequence[int]:
        """Return the shape of the maps.

        Args:
            input_shape: shape of the maps.
        """
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        arguments = {"size": self.size, "alpha": self.alpha, "beta": self.beta}
        return {**super().get_config(), **arguments}


@keras.saving.register_keras_serializable("keras_tilt")
class SplitConv2D(layers.Conv2D):
    """`keras.layers.Conv2D` with groups, which are convolved one by one.

    The same function of the same weights, about ten times as fast on a CPU, where the
    native gradient of a grouped convolution is slow.
    """

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Return the maps of all groups, one after the other.

        Args:
            inputs: maps [batch, height, width, channels].
            kernel: [rows, columns, channels / groups, filters].
        """
        parts = (ops.split(tensor, self.groups, axis=-1) for tensor in (inputs, kernel))
        convolve = super().convolution_op
        maps = [convolve(part, filters) for part, filters in zip(*parts, strict=True)]
        return ops.concatenate(maps, axis=-1)
