"""Networks, units and noise by the names that a command line gives them.

    MODEL.keras     a network, or a `GenerativeClassifier` of one
    alexnet         a network to be trained, or ResNet50, of keras.applications
    class:3         a class, read at one or several sizes of the image
    conv5:0-7       channels of a layer, on the pixels that they see
    caffe           pixels as keras.applications prepares them for a network

The scripts read the flags; what they mean is the same for all of them.
"""

__all__ = [
    "MODES",
    "NOISES",
    "as_exit",
    "class_names",
    "class_number",
    "count",
    "image_shape",
    "labels",
    "load_model",
    "load_names",
    "network",
    "noise",
    "preprocessing",
    "saved_model",
    "unit_of",
    "use_threads",
]

import contextlib
import difflib
import functools
import inspect
import json
import pathlib
import random

import keras
import numpy as np
import tensorflow as tf

from keras_tilt import graph, networks, outputs
from keras_tilt.reference import box, spectral_noise, squash, white_noise
from keras_tilt.units import unit

MODES = ("none", "caffe", "tf", "torch")  # of keras.applications
NOISES = ("spectral", "box", "white")

# Functions of (input_shape, num_classes, seed).
_NETWORKS = {
    "lenet": functools.partial(networks.lenet, scale=1 / 256),
    "convnet": networks.convnet,
    "alexnet": networks.alexnet,
    "zf_fast": networks.zf_fast,
}
_APPLICATIONS = dict(inspect.getmembers(keras.applications, inspect.isfunction))

# Of the pixels of 1,000 photographs, one of each ImageNet class: red, green, blue.
_PHOTOS_COVARIANCE = [[4852, 4247, 3865], [4247, 4647, 4403], [3865, 4403, 5075]]


@contextlib.contextmanager
def as_exit():
    """Within it a ValueError ends the script, with its sentence alone."""
    try:
        yield
    except ValueError as error:
        raise SystemExit(f"{error}") from error


def count(text):
    """Return a whole number from 1, or raise a ValueError: the type of a flag."""
    if not int(text) >= 1:
        raise ValueError
    return int(text)


def use_threads(number):
    """Let TensorFlow use so many threads; None: all cores. Before it has started."""
    if number:
        tf.config.threading.set_intra_op_parallelism_threads(number)
        tf.config.threading.set_inter_op_parallelism_threads(number)


def load_model(path):
    """Return the model of a .keras file.

    Raises:
        ValueError: if there is none, or Keras cannot load it.
    """
    if not path.is_file():
        raise ValueError(
            f"Expected a .keras file. Received: {path}, which is not there. "
            "Save a network with: network.save('network.keras')"
        )
    try:
        return keras.models.load_model(path, compile=False)
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(
            f"Expected a .keras file that Keras can load. Received: {path}: {error}"
        ) from error


def network(text, input_shape, num_classes, seed=0):
    """Return the network that --network names: images to logits `[batch, classes]`.

        lenet, convnet, alexnet, zf_fast   of `keras_tilt.networks`, new weights
        ResNet50, VGG16, ...               of `keras.applications`, new weights
        NETWORK.keras                      as it was saved

    Pixels are in [0, 255], for the first four; what the others take, their makers say.

    Args:
        text: one of these; upper and lower case as there.
        input_shape: (height, width, channels) of the images.
        num_classes: number of logits.
        seed: integer; equal seeds give equal new weights.

    Returns:
        network: `keras.Model`, logits in nats.

    Raises:
        ValueError: an unknown name (the error names those near); a saved network of
            other images or with other outputs; images that the network cannot take.
    """
    if text.endswith(".keras"):
        model = saved_model(pathlib.Path(text), input_shape, num_classes)
        return graph.network_of(model)
    if text in _NETWORKS:
        return _NETWORKS[text](input_shape, num_classes, seed)
    if text in _APPLICATIONS:
        return _application(text, input_shape, num_classes, seed)
    raise ValueError(
        "Expected --network to name a network, or a .keras file. Received: "
        f"{text!r}. {_listed(text, [*_NETWORKS, *_APPLICATIONS])}"
    )


def _listed(text, names):
    """Return "Near it: ResNet50." of names like the text, or "Networks: " and all."""
    lower = {name.lower(): name for name in names}
    near = [lower[name] for name in difflib.get_close_matches(text.lower(), lower)]
    return f"{'Near it' if near else 'Networks'}: {', '.join(near or names)}."


def _application(name, input_shape, num_classes, seed):
    """Return a network of keras.applications; its layers' seeds are drawn from seed."""
    state = random.getstate()
    random.seed(seed)
    try:
        return _APPLICATIONS[name](
            weights=None,
            input_shape=tuple(input_shape),
            classes=num_classes,
            classifier_activation=None,
        )
    finally:
        random.setstate(state)


def saved_model(path, input_shape, num_classes):
    """Return the model of a .keras file that takes such images and ends in logits.

    Raises:
        ValueError: if it is another one.
    """
    model = load_model(path)
    found = graph.network_of(model)
    if not graph.has_graph(found):
        raise ValueError(
            "Expected a functional or Sequential network with known inputs. Received: "
            f"{path}, {type(found).__name__}. Save one made by keras.Model(inputs, "
            "outputs)."
        )
    images = [tuple(tensor.shape) for tensor in found.inputs]
    made = [tuple(tensor.shape) for tensor in found.outputs]
    taken = tf.TensorShape(images[0]).is_compatible_with((None, *input_shape))
    if len(images) != 1 or not taken or made != [(None, num_classes)]:
        raise ValueError(
            f"Expected a network of images {tuple(input_shape)} that ends in "
            f"{num_classes} logits. Received: {path}, of inputs {images} and outputs "
            f"{made}. Save one that fits, or pass other data."
        )
    output = outputs.output_of(found)
    if output.activation is not None:
        raise ValueError(
            f"Expected a network that ends in logits. Received: {path}, which ends in "
            f"a {output.activation}, by layer {output.layer!r}. Build its last layer "
            "without an activation."
        )
    return model


def class_names(path, number):
    """Return the names of so many classes, "class 3" where the file has none.

    Raises:
        ValueError: what `load_names` raises, or for names of other classes.
    """
    names = load_names(path)
    if not set(names) <= set(range(number)):
        raise ValueError(
            f"Expected --names of the classes 0..{number - 1}. Received: "
            f"{len(names)} names, up to number {max(names)}. Leave out the others."
        )
    return [names.get(i, f"class {i}") for i in range(number)]


def load_names(path):
    """Return the names of classes by their numbers, of a JSON file; {} of None.

    Raises:
        ValueError: if it is neither a list nor a dict of names, or of pairs that end
            in one.
    """
    if path is None:
        return {}
    try:
        names = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"Expected a JSON file of --names. Received: {path}: {error}"
        ) from error
    if isinstance(names, list):
        names = dict(enumerate(names))
    try:
        # Of a pair, as Keras has them for ImageNet, the last is the name.
        found = {
            int(number): name if isinstance(name, str) else name[-1]
            for number, name in names.items()
        }
    except (AttributeError, TypeError, ValueError, IndexError):
        found = {None: None}
    if not all(isinstance(name, str) for name in found.values()):
        raise ValueError(
            f"Expected --names of text, in a list or by number. Received: {path}, "
            'with something else. Write for example ["cat", "dog"].'
        )
    return found


def labels(specifications):
    """Return labels of single units: "class:0-2" -> class:0, class:1, class:2.

    Raises:
        ValueError: for a text of another form.
    """
    found = []
    for text in specifications:
        layer, _, channels = text.rpartition(":")
        first, _, last = channels.partition("-")
        if not (layer and first.isdigit() and (last or first).isdigit()):
            raise ValueError(
                "Expected --unit class:3, class:0-9, LAYER:12 or LAYER:0-7. "
                f"Received: {text}."
            )
        numbers = range(int(first), int(last or first) + 1)
        if not numbers:
            raise ValueError(
                f"Expected a range that rises, as 0-7. Received: {text}. Turn it round."
            )
        found += [f"{layer}:{k}" for k in numbers]
    return found


def class_number(label):
    """Return 3 of "class:3"; None of another unit."""
    layer, _, number = label.rpartition(":")
    return int(number) if layer == "class" else None


def unit_of(network, label, mode="none", sizes=(1.0,), posterior_weight=0.0):
    """Return a class in several views, or a channel on what it sees.

    Args:
        network: a `keras.Model` of images of one size.
        label: "class:3" or "LAYER:12".
        mode: of `preprocessing`.
        sizes: of the image at which a class is read, 1 as the network takes it; every
            other one mirrored and moved by an eighth of the image.
        posterior_weight: of log p(class | x), as in `keras_tilt.unit`.

    Raises:
        ValueError: for a unit that is not there.
    """
    if class_number(label) is None:
        return _layer_unit(network, label, preprocessing(mode))
    try:
        views = [
            _class_view(network, label, i, size, mode, posterior_weight)
            for i, size in enumerate(sizes)
        ]
    except ValueError as error:
        if "resize" not in str(error):
            raise
        raise ValueError(f"{error} Here: pass --sizes 1.") from error
    return sum(views) / len(views)


def _class_view(network, label, number, size, mode, posterior_weight):
    """Return a class as it is read at one size of the image."""
    height, width, _ = image_shape(network)
    resize = (round(size * height), round(size * width))
    return unit(
        network,
        class_index=class_number(label),
        posterior_weight=posterior_weight,
        preprocess=_view(mode, mirrored=bool(number % 2)),
        resize=resize if resize != (height, width) else None,
    )


def _layer_unit(network, label, preprocess):
    """Return a channel on its receptive field, or on the whole image if it has no crop.

    As that of a dense layer, of tokens, or of a map that sees padding everywhere.
    """
    whole = unit(network, label, preprocess=preprocess)
    try:
        return whole.crop()
    except ValueError:
        return whole


def image_shape(network):
    """Return that of the one input that is an image of a known size, or raise."""
    shape = network.input_shape
    if isinstance(shape, list) or len(shape) != 4 or None in shape[1:]:
        raise ValueError(
            "Expected a network of one input, images of one size. Received: input "
            f"shape {shape}. Build it with an Input of [height, width, channels]."
        )
    return shape[1:]


@functools.cache
def _view(mode, mirrored):
    """Return the preprocessing of an image, or of its mirror image, moved."""
    preprocess = preprocessing(mode)
    if not mirrored:
        return preprocess

    def of_other_side(images):
        eighths = [size // 8 for size in images.shape[1:3]]
        return preprocess(tf.roll(tf.reverse(images, [2]), eighths, axis=[1, 2]))

    return of_other_side


@functools.cache
def preprocessing(mode):
    """Return the function of images that prepares them as keras.applications does."""
    if mode == "none":
        return tf.identity
    return lambda images: keras.applications.imagenet_utils.preprocess_input(
        images, data_format="channels_last", mode=mode
    )


def noise(kind, shape, low, high, contrast=0.3, exponent=1.7):
    """Return the reference of images whose pixels lie between black and white.

    Args:
        kind: "spectral", a 1/f spectrum within the range, in the colours of photographs
            if there are three; "box", uniform in it; "white", Gaussian around its
            middle, which leaves it.
        shape: of one image.
        low: black.
        high: white.
        contrast: standard deviation of a pixel, as a share of the range.
        exponent: of 1/f.
    """
    middle, width = (low + high) / 2, high - low
    if kind == "white":
        return white_noise(shape, middle, contrast * width)
    if kind == "box":
        return box(shape, low, high)
    colours = np.array(_PHOTOS_COVARIANCE) if shape[2] == 3 else np.eye(shape[2])
    colours = colours * (contrast * width) ** 2 / np.trace(colours) * shape[2]
    natural = spectral_noise(
        shape, mean=middle, exponent=exponent, colour_covariance=colours
    )
    return squash(natural, low, high, scale=0.3 * width)
