"""A classifier of three classes on 8 x 8 images, small enough for a test."""

import keras

SHAPE = (8, 8, 1)


def small_network(seed=0):
    """conv1, 4 channels with ReLU; ip1, the logits."""
    keras.utils.set_random_seed(seed)
    layers = [
        keras.Input(SHAPE),
        keras.layers.Conv2D(4, 3, activation="relu", name="conv1"),
        keras.layers.Flatten(),
        keras.layers.Dense(3, name="ip1"),
    ]
    return keras.Sequential(layers)
