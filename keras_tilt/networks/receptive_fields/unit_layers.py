"""The layers of a network whose channels are units, and what their cells see.

layer -> path, shape, channels, receptive field, whether its units can be cropped
"""

__all__ = ["LayerOfUnits", "layers_of"]

import collections
from typing import NamedTuple

import keras

from keras_tilt.networks import graph
from keras_tilt.networks.receptive_fields.fields import (
    all_pixels_seen,
    check_graph,
    has_clean_cell,
)


class LayerOfUnits(NamedTuple):
    """A layer whose channels are units.

    Attributes:
        path: "conv5", "backbone/conv5".
        shape: of its output, without the batch axis.
        channels: how many units it has at one place.
        receptive_field: (rows, columns) of pixels that a cell sees, padding included;
            None if it is not known.
        can_be_cropped: whether a cell sees a part of the image, the same function of it
            at every place, and at some place no padding: whether `Unit.crop` works.
    """

    path: str
    shape: tuple[int | None, ...]
    channels: int
    receptive_field: tuple[int, int] | None
    can_be_cropped: bool


def layers_of(network: keras.Model) -> list[LayerOfUnits]:
    """Return the layers whose channels are units, with what their cells see.

    Layers that another layer calls by itself are left out, and those that are applied
    several times, whose names stand for several places in the network.

    Args:
        network: functional or Sequential `keras.Model`, or a `GenerativeClassifier` of
            one.

    Returns:
        layers: list of `LayerOfUnits`, in the order of the network.

    Raises:
        ValueError: a network without a graph of layers.

    Example:
        >>> for layer in layers_of(keras_tilt.lenet())[:3]:
        ...     print(layer.path, layer.shape, layer.receptive_field)
        conv1 (24, 24, 20) (5, 5)
        pool1 (12, 12, 20) (6, 6)
        conv2 (8, 8, 50) (14, 14)
    """
    network = graph.network_of(network)
    check_graph(network)
    found = graph.steps(network)
    applied = collections.Counter(step.path for step in found)
    rows, columns = (all_pixels_seen(found, axis) for axis in (1, 2))
    return [
        _layer_of_units(step, rows[step.outputs[0]], columns[step.outputs[0]])
        for step in found
        if step.kind != "enter" and applied[step.path] == 1 and _has_channels(step)
    ]


def _has_channels(step):
    return step.node.output_tensors[0].shape[1:][-1:] not in ((), (None,))


def _layer_of_units(step, *axes):
    shape = tuple(step.node.output_tensors[0].shape[1:])
    known = None not in axes and None not in [axis.size for axis in axes]
    return LayerOfUnits(
        path=step.path,
        shape=shape,
        channels=shape[-1],
        receptive_field=tuple(axis.size for axis in axes) if known else None,
        can_be_cropped=known and len(shape) == 3 and has_clean_cell(axes),
    )
