"""Networks, units and references that the parts share."""

import functools
import importlib.util

import keras_tilt as kt
import numpy as np
import tensorflow as tf

DIGIT = 3  # class of LeNet
PIZZA = 963  # class of SqueezeNet
CAFFE_MEAN = np.float32([103.939, 116.779, 123.68])  # blue, green, red
# Of the pixels of 1,000 photographs, one of each ImageNet class: red, green, blue.
COLOUR_COVARIANCE = [[4852, 4247, 3865], [4247, 4647, 4403], [3865, 4403, 5075]]


def trained_lenet():
    """LeNet after one epoch of generative training on 5,000 embedded digits."""
    train, _ = kt.data.embedded_mnist()
    model = kt.GenerativeClassifier(kt.lenet())
    model.compile("adam", objective="generative")
    batches = kt.data.pipeline(*train, batch_size=64, shuffle_seed=0)
    model.fit(batches, shuffle=False, verbose=0)
    return model.network


def digit_tilt(network):
    """White noise of standard deviation 1, where digits are images in [0, 1)."""
    unit = kt.unit(network, class_index=DIGIT)
    return kt.Tilt(unit, kt.white_noise(unit.input_shape))


def colour_unit(network, data_dir):
    """One class of SqueezeNet, or to try the script LeNet's, of RGB in [0, 255]."""
    if network == "lenet":
        unit = functools.partial(kt.unit, kt.lenet([32, 32, 3]), class_index=DIGIT)
    else:
        unit = functools.partial(kt.unit, squeezenet(data_dir), class_index=PIZZA)
    return unit(preprocess=as_caffe)


def squeezenet(data_dir):
    """SqueezeNet 1.1 for images of 227 x 227, trained on ImageNet."""
    code, weights = (data_dir / f"squeezenet_keras.{end}" for end in ("py", "npz"))
    if not (code.is_file() and weights.is_file()):
        raise SystemExit(
            f"Expected {code}, and squeezenet_keras.npz beside it. Received: a folder "
            "without them. Pass --data-dir, or leave out the cases that need it."
        )
    spec = importlib.util.spec_from_file_location(code.stem, code)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load(weights)


def as_caffe(images):
    """RGB in [0, 255] -> BGR minus mean."""
    return tf.reverse(images, [-1]) - CAFFE_MEAN


def gray_noise(unit):
    """White noise on the pixel range."""
    return kt.white_noise(unit.input_shape, mean=127.0, stddev=30.0)


def natural_noise(unit):
    """Noise with the correlations of photographs, on the pixel range for ever."""
    noise = kt.spectral_noise(
        unit.input_shape,
        mean=127.5,
        exponent=1.1,
        colour_covariance=COLOUR_COVARIANCE,
    )
    return kt.squash(noise, 0, 255, scale=80)
