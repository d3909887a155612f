"""Networks by name or by file, and what their shapes say.

    MODEL.keras     a network, or a `GenerativeClassifier` of one
    alexnet         a network to be trained, or ResNet50, of keras.applications

New weights are drawn by a seed; a saved network keeps its own.
"""

__all__ = [
    "image_shape",
    "load_model",
    "load_network",
    "network",
    "num_classes",
    "saved_model",
]

import functools
import inspect
import pathlib
import random
import re
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from keras_tilt.cli.named.similar import listed
from keras_tilt.networks import architectures, convnets, graph, output_activations

# Functions of (input_shape, num_classes, seed).
_NETWORKS: dict[str, Callable[..., keras.Model]] = {
    "lenet": functools.partial(architectures.lenet, scale=1 / 256),
    "convnet": convnets.convnet,
    "pooled_convnet": convnets.pooled_convnet,
    "alexnet": architectures.alexnet,
    "zf_fast": architectures.zf_fast,
    "small_alexnet": architectures.small_alexnet,
}
_APPLICATIONS = dict(inspect.getmembers(keras.applications, inspect.isfunction))


def load_model(path: pathlib.Path) -> keras.Model:
    """Return the model of a .keras file.

    Raises:
        ValueError: if there is no file, or Keras cannot load it.
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
            "Expected a .keras file that Keras can load. Received: "
            f"{path}: {_reason(error)}"
        ) from error


def _reason(error):
    """Return why Keras loads no model, without the configuration that it shows."""
    unknown = re.search(r"Could not locate (class|function) ('[^']*')", f"{error}")
    if unknown:
        return (
            f"the {unknown[1]} {unknown[2]} is not Keras's own. Name the module or the "
            "file that has it: --import MODULE."
        )
    return next(iter(f"{error}".splitlines()), type(error).__name__)


def load_network(path: pathlib.Path) -> keras.Model:
    """Return the network of a .keras file, or that of a classifier; uncalibrated."""
    return graph.network_of(load_model(path))


def network(
    text: str, input_shape: Sequence[int], num_classes: int, seed: int = 0
) -> keras.Model:
    """Return the network that --network names: images to logits `[batch, classes]`.

        lenet, convnet, alexnet, ...   of `keras_tilt.networks`, new weights
        ResNet50, VGG16, ...           of `keras.applications`, new weights
        NETWORK.keras                  as it was saved

    Pixels are in [0, 255], for the first; what the others take, their makers say.

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
        f"{text!r}. {listed(text, [*_NETWORKS, *_APPLICATIONS], 'Networks')}"
    )


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


def saved_model(
    path: pathlib.Path, input_shape: Sequence[int], num_classes: int
) -> keras.Model:
    """Return the model of a .keras file, which takes such images and ends in logits.

    Args:
        path: of the file.
        input_shape: (height, width, channels) of the images.
        num_classes: number of logits.

    Raises:
        ValueError: for a model of other images or outputs.
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
    output = output_activations.output_of(found)
    if output.activation is not None:
        raise ValueError(
            f"Expected a network that ends in logits. Received: {path}, which ends in "
            f"a {output.activation}, by layer {output.layer!r}. Build its last layer "
            "without an activation."
        )
    return model


def num_classes(network: keras.Model) -> int | None:
    """Return the number of outputs of a network of one output [n, classes], or None."""
    shapes = [tensor.shape for tensor in getattr(network, "outputs", None) or ()]
    single = len(shapes) == 1 and len(shapes[0]) == 2
    return shapes[0][1] if single else None


def image_shape(network: keras.Model) -> tuple[int, int, int]:
    """Return that of the network's one input, [height, width, channels].

    Raises:
        ValueError: for several inputs, or images of no one size.
    """
    shape = getattr(network, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4 or None in shape[1:]:
        raise ValueError(
            "Expected a network of one input, images of one size. Received: input "
            f"shape {shape}. Build it with an Input of [height, width, channels]."
        )
    return shape[1:]
