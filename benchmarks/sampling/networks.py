"""Networks, units and references that the parts share."""

import functools
import importlib.util

import keras
import keras_tilt as kt
import numpy as np
import tensorflow as tf
from keras_tilt.cli import named

DIGIT = 3  # class of LeNet
CLASSES = {"pizza": 963, "goldfish": 1, "worm fence": 912}  # of SqueezeNet
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


def colour_unit(network, data_dir, name="pizza", width=0.0, images=None):
    """One class of SqueezeNet, or to try the script LeNet's, of RGB in [0, 255].

    With a `width` that of the network `smoothed` by it, at some images.
    """
    is_lenet = network == "lenet"
    made = colour_lenet() if is_lenet else squeezenet(data_dir)
    if width:
        made = smoothed(made, width, as_caffe(images))
    label = DIGIT if is_lenet else CLASSES[name]
    return kt.unit(made, class_index=label, preprocess=as_caffe)


def smoothed(network, width, inputs):
    """The network with w softplus(x / w) for every ReLU, and the same weights.

    w is `width` standard deviations of what comes out of the ReLU at some inputs.
    """
    relus = {
        layer.name: layer.output
        for layer in network.layers
        if isinstance(layer, keras.layers.ReLU)
        or getattr(layer, "activation", None) is keras.activations.relu
    }
    outputs = keras.Model(network.input, relus)(inputs)
    widths = {name: width * float(np.std(of)) for name, of in outputs.items()}

    def clone(layer):
        new = layer.__class__.from_config(layer.get_config())
        if layer.name not in widths:
            return new
        rounded = functools.partial(softplus, width=widths[layer.name])
        if isinstance(layer, keras.layers.ReLU):
            return keras.layers.Activation(rounded, name=layer.name)
        new.activation = rounded
        return new

    smooth = keras.models.clone_model(network, clone_function=clone)
    smooth.set_weights(network.get_weights())
    return smooth


def softplus(values, width):
    """max(values, 0), with a corner that is as round as `width`."""
    return width * tf.nn.softplus(values / width)


@functools.cache
def colour_lenet():
    """LeNet for images of 32 x 32 in colour, not trained."""
    return kt.lenet([32, 32, 3])


@functools.cache
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


def natural_noise(unit, kind="spectral"):
    """Noise with the correlations of photographs, on the pixel range for ever.

    Or another `kind` of reference by its name on the command line.
    """
    if kind != "spectral":
        return named.noise(kind, unit.input_shape, 0.0, 255.0)
    noise = kt.spectral_noise(
        unit.input_shape,
        mean=127.5,
        exponent=1.1,
        colour_covariance=COLOUR_COVARIANCE,
    )
    return kt.squash(noise, 0, 255, scale=80)
