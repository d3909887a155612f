"""Values inside a network: the output of one layer.

    layer_values: images -> [n, ...], before or after the layer's activation

A layer of the graph is read by running the steps below it. A layer that another one
calls by itself has no step: its `call` is replaced while the model runs (`capture`).
"""

__all__ = ["capture", "layer_values"]

import contextlib
import functools
import threading
from collections.abc import Callable, Mapping

import keras
import tensorflow as tf

from keras_tilt.networks import graph, layer_views


def layer_values(
    network: keras.Model,
    feeds: Mapping[str, tf.Tensor],
    path: str,
    pre_activation: bool,
) -> tf.Tensor:
    """Return the output of a layer, [n, ...], before or after its activation.

    Args:
        network: functional, Sequential or subclassed `keras.Model`.
        feeds: {name of input: its value [n, ...]}; of a subclassed model the images
            alone, under any name.
        path: as in `graph.find`.
        pre_activation: whether to stop before the activation.
    """
    target = graph.find(network, path)
    if target.kind == "inside":
        evaluate = functools.partial(_call_outer, network, feeds, target.path)
        return capture(target.operation, evaluate, pre_activation)

    instead = {}
    if pre_activation and layer_views.has_fused_activation(target.operation):
        linear = layer_views.linear(target.operation)
        instead[target.outputs] = lambda inputs: graph.call(target, inputs, linear)
    found = graph.steps(network)
    return graph.run(found, feeds, target.outputs[0], instead=instead)


# Layers outside of a graph

_CAPTURING = threading.RLock()


def capture(
    layer: keras.layers.Layer, evaluate: Callable[[], object], pre_activation: bool
) -> tf.Tensor:
    """Return the output of a layer while `evaluate()` runs a model that calls it.

    The layer's `call` is replaced meanwhile, under a lock; calls by other threads pass
    through.

    Args:
        layer: that is called by the model, but is no step of its graph.
        evaluate: function that runs the model.
        pre_activation: whether to stop before the activation.

    Raises:
        ValueError: if the layer is not called exactly once, or inside a tf.function of
            the model, whose values cannot be read from outside.
    """
    with _CAPTURING:
        values: list = []
        read = layer_views.linear(layer).call if pre_activation else None
        recorded = _recording(layer.call, read, values)
        with _replaced(layer, "call", recorded):
            evaluate()
    _check_captured(layer, values)
    return values[0]


def _recording(call, read, values):
    """Return `call`, which adds what it returns, or `read` in its place, to values."""
    reader = threading.get_ident()

    @functools.wraps(call)
    def recorded(*args, **kwargs):
        outputs = call(*args, **kwargs)
        if threading.get_ident() == reader:
            values.append(read(*args, **kwargs) if read else outputs)
        return outputs

    return recorded


def _call_outer(network, feeds, path):
    """Run the model, or the step of its graph, inside of which the path leads."""
    found = graph.steps(network) if graph.has_graph(network) else []
    outer = [step for step in found if path.startswith(f"{step.path}/")]
    if not outer:
        return graph.output_values(network, feeds)
    return graph.run(found, feeds, outer[-1].outputs[0])


@contextlib.contextmanager
def _replaced(layer, name, value):
    before = dict(layer.__dict__)
    layer.__dict__[name] = value
    try:
        yield
    finally:
        del layer.__dict__[name]
        layer.__dict__.update({name: before[name]} if name in before else {})


def _check_captured(layer, values):
    hidden = tf.executing_eagerly() and any(map(tf.is_symbolic_tensor, values))
    if len(values) != 1 or hidden:
        calls = "a call inside a tf.function" if hidden else f"{len(values)} calls"
        raise ValueError(
            f"Expected layer {layer.name!r} to be called once by the model, in plain "
            f"Python. Received: {calls}. Read another layer, or write the model as a "
            "functional one."
        )
