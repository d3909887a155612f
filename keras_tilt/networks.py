"""The papers' networks as functional Keras graphs, every layer named as in Caffe."""

import keras
from keras import layers

__all__ = ["lenet"]


def lenet(input_shape=(28, 28, 1), num_classes=10, seed=0):
    """LeNet as Caffe ships it; images in [0, 1) to logits `[batch, classes]`.

    conv1 20@5x5, max pool 2/2, conv2 50@5x5, max pool 2/2, ip1 500, ReLU, ip2. No ReLU
    behind the convolutions, no dropout. Weights uniform in +-sqrt(3 / fan_in) (Caffe's
    "xavier"), biases 0. 431,080 parameters for 28x28x1 images and 10 classes.

    Args:
        input_shape: (height, width, channels), at least 16 pixels a side.
        num_classes: number of logits.
        seed: integer; equal seeds give equal initial weights.

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
    images = keras.Input(input_shape, name="images")
    x = layers.Conv2D(20, 5, kernel_initializer=next(initializers), name="conv1")(
        images
    )
    x = layers.MaxPooling2D(2, name="pool1")(x)
    x = layers.Conv2D(50, 5, kernel_initializer=next(initializers), name="conv2")(x)
    x = layers.MaxPooling2D(2, name="pool2")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(500, kernel_initializer=next(initializers), name="ip1")(x)
    x = layers.ReLU(name="relu1")(x)
    x = layers.Dense(num_classes, kernel_initializer=next(initializers), name="ip2")(x)
    return keras.Model(images, x, name="lenet")
