"""A network up to one of its feature maps, for images of another size.

    backbone = network up to a layer, its layers and weights shared

Convolutions take images of any size; what is above them does not. Masks need a fine
feature map, so images are larger here than those the network was trained on.
"""

__all__ = ["backbone"]

from collections.abc import Sequence

import keras

from keras_tilt.networks import graph


def backbone(
    network: keras.Model, layer: str, size: Sequence[int] | None = None
) -> keras.Model:
    """Return the network up to a layer, for images of some size.

    Args:
        network: functional or Sequential `keras.Model` of one input, images, or a
            `GenerativeClassifier` of one.
        layer: "conv5", or "backbone/conv5" inside a nested network.
        size: (height, width) of the images; by default those of the network.

    Returns:
        network: functional `keras.Model`; its layers are those of the network, and the
            last one is the named layer, by the last part of its name.

    Raises:
        ValueError: a network without a graph, or of several inputs; an unknown layer;
            no image size, or one that the network cannot take.

    Example:
        >>> network = keras.Sequential([
        ...     keras.Input((28, 28, 1)),
        ...     keras.layers.Conv2D(8, 5, 2, name="conv1"),
        ...     keras.layers.Flatten(),
        ...     keras.layers.Dense(10),
        ... ])
        >>> backbone(network, "conv1", (100, 60)).output_shape
        (None, 48, 28, 8)
    """
    network = graph.network_of(network)
    _check_network(network)
    channels = network.inputs[0].shape[-1]
    size = network.inputs[0].shape[1:3] if size is None else tuple(size)
    if len(size) != 2 or None in size:
        raise ValueError(
            "Expected a size for images, (height, width). Received: "
            f"{size}. Pass for example size=(480, 640)."
        )
    images = keras.Input((*size, channels), name="images")
    target = graph.find(network, layer).outputs[0]
    try:
        maps = graph.run(
            graph.steps(network), {network.inputs[0].name: images}, target, _apply
        )
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"Expected layers up to {layer!r} that take images of {size}. Received: "
            f"{error}. Name a layer below, or images of the network's own size."
        ) from error
    return keras.Model(images, maps, name=network.name)


def _apply(step, inputs):
    """Call one step, as `graph.call`, on symbolic tensors."""
    if step.kind == "enter":
        return inputs[0]
    return graph.call(step, inputs)


def _check_network(network):
    if not graph.has_graph(network) or len(network.inputs) != 1:
        raise ValueError(
            "Expected a functional or Sequential network of one input, images. "
            f"Received: {network!r}. Build it with keras.Model(images, outputs)."
        )
