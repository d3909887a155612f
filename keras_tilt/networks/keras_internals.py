"""Private calls of Keras and TFP: all of the package's, each with its reason.

A function here stands for one thing that no public name of Keras or TFP offers; its
docstring says why. With a new version of either, this is the file to read.
"""

__all__ = ["arguments_of", "layers_within", "node_of"]

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


def node_of(tensor: keras.KerasTensor) -> Any:
    """Return the node of a Keras graph that made a symbolic tensor.

    A node is one application of an operation: `operation`, `input_tensors`,
    `output_tensors`, `arguments`, `is_input`. In public, `keras.Model` and
    `keras.Function` run a graph as a whole, and `Layer.output` is of a layer that is
    applied once; which application made a tensor, of which others, only the history of
    the tensor says.

    Args:
        tensor: `keras.KerasTensor`.
    """
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def arguments_of(
    node: Any, inputs: Sequence[tf.Tensor]
) -> tuple[tuple, dict[str, Any]]:
    """Return (args, kwargs) of a node's call, with values for its symbolic tensors.

    The other arguments of a call, and the places of the tensors among them, are kept in
    the node alone: `get_config` of a model has them as text.

    Args:
        node: as `node_of` returns.
        inputs: list of values, one for each of the node's `input_tensors`.
    """
    tensors = map(id, node.input_tensors)
    return node.arguments.fill_in(dict(zip(tensors, inputs, strict=True)))


def layers_within(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Return the layers that a layer or model holds as its own, not those in them.

    `Model.layers` is of models alone; a layer that holds others in its attributes lists
    only their variables in public.

    Args:
        layer: `keras.layers.Layer`.
    """
    return list(layer._flatten_layers(include_self=False, recursive=False))
