"""A Keras network as a list of steps, and the values that they make.

    step:  outputs = operation(inputs),      run: images -> value of one tensor

The steps are the network's own layers, called as in inference: weights are shared,
nothing is added to the network and no attribute of a layer is changed, so that threads
may read at the same time. Nested networks are unfolded; what is above the wanted tensor
is not computed.
"""

__all__ = [
    "Feeds",
    "Step",
    "adds_calibration",
    "call",
    "find",
    "has_graph",
    "inner_layers",
    "listing",
    "needed",
    "network_of",
    "output_key",
    "output_shapes",
    "output_values",
    "run",
    "steps",
]

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import keras
import tensorflow as tf

from keras_tilt.networks import keras_internals, layer_views


class Step(NamedTuple):
    """One application of an operation: outputs = operation(inputs).

    Attributes:
        path: "conv5", or "backbone/conv5" inside a nested network.
        operation: the layer or operation.
        node: the Keras node of this application, with its other arguments.
        inputs: keys of the values that it reads.
        outputs: keys of the values that it makes.
        kind: "call"; "enter" for an input of a network, which casts to its type;
            "leave" for an output of a nested network; "inside" for a layer that
            another one calls by itself, which has no node in the graph.
    """

    path: str
    operation: Any
    node: Any
    inputs: tuple[Hashable, ...]
    outputs: tuple[Hashable, ...]
    kind: Literal["call", "enter", "leave", "inside"]


# The graph


def has_graph(network: Any) -> bool:
    """Return whether a network computes what its graph of layers says.

    True of a functional or Sequential one with known inputs, unless its class has a
    `call` of its own, which may do more, or something else.
    """
    is_model = isinstance(network, keras.Model) and bool(
        getattr(network, "inputs", None)
    )
    return is_model and layer_views.is_called_as_in_keras(network)


def adds_calibration(call: Callable) -> Callable:
    """Mark the `call` of a model: its `network`, plus its `calibration_bias`."""
    call.adds_calibration = True  # type: ignore[attr-defined]
    return call


def network_of(model: keras.Model) -> keras.Model:
    """Return the network that a classifier of this library trains, or the model itself.

    Another model may have an attribute `network`, too, and do anything with it; so may
    a subclass with a `call` of its own.
    """
    marked = getattr(getattr(type(model), "call", None), "adds_calibration", False)
    return model.network if marked else model


def steps(network: keras.Model) -> list[Step]:
    """Return all steps of the network, each after those whose values it reads.

    The network's own inputs are read under their names.
    """
    return _steps(network, [tensor.name for tensor in network.inputs], (), "")


def output_key(network: keras.Model) -> Hashable:
    """Return the key of the network's first output."""
    return (), id(network.outputs[0])


def _steps(network, feeds, scope, prefix):
    """The steps of one (nested) network; `scope` tells its applications apart."""
    feeds = {id(tensor): key for tensor, key in zip(network.inputs, feeds, strict=True)}
    found = []
    for node in _nodes(network):
        operation, kind = node.operation, "call"
        inputs = tuple((scope, id(tensor)) for tensor in node.input_tensors)
        outputs = tuple((scope, id(tensor)) for tensor in node.output_tensors)
        path = prefix + operation.name
        if node.is_input:
            inputs, kind = (feeds[outputs[0][1]],), "enter"
        elif _is_nested(node):
            found += _unfolded(operation, node, inputs, outputs, scope, path)
            continue
        found.append(Step(path, operation, node, inputs, outputs, kind))
    return found


def _unfolded(network, node, inputs, outputs, scope, path):
    """The steps of a nested network, and one that hands on each of its outputs."""
    inner = (*scope, id(node))
    last = [
        Step(path, network, node, ((inner, id(tensor)),), (key,), "leave")
        for tensor, key in zip(network.outputs, outputs, strict=True)
    ]
    return _steps(network, inputs, inner, f"{path}/") + last


def _nodes(network):
    """Return the nodes of this network's graph, each after those that it reads.

    A layer may have further nodes, in other networks that share it.
    """
    found, waiting = (
        {},
        [keras_internals.node_of(tensor) for tensor in reversed(network.outputs)],
    )
    while waiting:
        node = waiting[-1]
        before = [
            keras_internals.node_of(tensor) for tensor in reversed(node.input_tensors)
        ]
        before = [other for other in before if id(other) not in found]
        if before:
            waiting.extend(before)
        else:
            found.setdefault(id(node), waiting.pop())
    return list(found.values())


def _is_nested(node):
    network = node.operation
    return has_graph(network) and len(node.input_tensors) == len(network.inputs)


def needed(found: Sequence[Step], *targets: Hashable) -> list[Step]:
    """Return the steps that the values of the target keys depend on."""
    keys, kept = set(targets), []
    for step in reversed(found):
        if keys.intersection(step.outputs):
            keys.update(step.inputs)
            kept.append(step)
    return kept[::-1]


# One layer, by its path


def find(network: keras.Model, path: str) -> Step:
    """Return the one step with this path.

    Args:
        network: functional, Sequential or subclassed `keras.Model`.
        path: "conv5", "backbone/conv5"; inside a subclassed model or layer also by the
            name of the attribute.

    Returns:
        step: `Step`.

    Raises:
        ValueError: an unknown path (lists what exists), or one applied several times.
    """
    found = steps(network) if has_graph(network) else []
    found = [step for step in found if step.path == path]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"Expected layer {path!r} to be applied once in the network. "
            f"Received: {len(found)} applications. Name a layer that follows one "
            f"of them. {listing(network)}"
        )
    return _find_inside(network, path)


def _find_inside(network, path):
    layers = inner_layers(network)
    layer = layers.get(path, _attribute(network, path))
    for name, other in layers.items():
        if other is layer:
            return Step(name, layer, None, (), (), "inside")
    raise ValueError(
        "Expected the name of a layer of the network, 'outer/inner' for a layer "
        f"inside another. Received: {path!r}. {listing(network)}"
    )


def inner_layers(
    layer: keras.layers.Layer, prefix: str = ""
) -> dict[str, keras.layers.Layer]:
    """Return {path: layer} of all layers inside a layer, at any depth."""
    found: dict[str, keras.layers.Layer] = {}
    for inner in _children(layer):
        path = prefix + inner.name
        found |= {path: inner} | inner_layers(inner, f"{path}/") | found
    return found


def _attribute(layer, path):
    """Return the layer inside by a path of names of layers or attributes, or None."""
    for name in path.split("/"):
        named = [inner for inner in _children(layer) if inner.name == name]
        layer = named[0] if named else getattr(layer, name, None)
    return layer


def _children(layer):
    if not isinstance(layer, keras.layers.Layer):
        return []
    return keras_internals.layers_within(layer)


def listing(network: keras.Model) -> str:
    """Return "Layers: conv1, pool1, ..." for an error message."""
    paths = [step.path for step in steps(network)] if has_graph(network) else []
    unique = dict.fromkeys([*paths, *inner_layers(network)])
    return f"Layers: {', '.join(unique)}."


# Values


class Feeds(dict):
    """{name of input: its value [n, ...]}, and the values made of them so far.

    What several readings of the same images need, one pass makes.

    Attributes:
        made: {key: value} of steps that ran as the network says.
    """

    def __init__(self, feeds: Mapping[str, tf.Tensor]) -> None:
        super().__init__(feeds)
        self.made: dict[Hashable, Any] = {}


def run(
    found: Sequence[Step],
    feeds: Mapping[Any, tf.Tensor],
    target: Hashable,
    apply: Callable[[Step, list], Any] | None = None,
    instead: Mapping[tuple[Hashable, ...], Callable[[Sequence], Any]] | None = None,
) -> tf.Tensor:
    """Return the value of one tensor of the graph.

    Args:
        found: the network's `steps`.
        feeds: {name of input: its value [n, ...]}; of `Feeds`, steps run once for all
            that is read of them.
        target: key of the tensor.
        apply: function of a step and its input values, in place of `call`; then nothing
            is kept in `Feeds`.
        instead: {outputs of a step: function of its input values, in its place}.

    Returns:
        value: [n, ...], in the precision of the layer that makes it.
    """
    made = feeds.made if isinstance(feeds, Feeds) and apply is None else {}
    apply, instead, values = apply or call, instead or {}, dict(feeds)
    others: set[Hashable] = set()  # keys of what a function of `instead` leads to
    for step in needed(found, target):
        inputs = [values[key] for key in step.inputs]
        if step.outputs in instead or others.intersection(step.inputs):
            others.update(step.outputs)
        elif all(key in made for key in step.outputs):
            values.update((key, made[key]) for key in step.outputs)
            continue
        own = instead.get(step.outputs)
        results = keras.tree.flatten(own(inputs) if own else apply(step, inputs))
        values.update(zip(step.outputs, results, strict=True))
        if not others.intersection(step.outputs):
            made.update((key, values[key]) for key in step.outputs)
    return values[target]


def call(
    step: Step,
    inputs: Sequence[tf.Tensor],
    operation: Callable | None = None,
    training: bool = False,
) -> Any:
    """Return the outputs of a step for values of its inputs.

    Args:
        step: `Step`.
        inputs: list of values, one for each of the step's inputs.
        operation: a view of the step's operation, to be called in its place.
        training: whether as in training; by default as in inference.

    Returns:
        values: [n, ...], one or a structure of several.
    """
    if step.kind == "enter":
        return tf.cast(inputs[0], step.node.output_tensors[0].dtype)
    if step.kind == "leave":
        return inputs
    args, kwargs = keras_internals.arguments_of(step.node, inputs)
    if isinstance(step.operation, keras.layers.Layer):
        kwargs = {**kwargs, "training": training}
    return (operation or step.operation)(*args, **kwargs)


# The outputs


def output_values(network: keras.Model, feeds: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Return the network's output; of several the first, and no other is computed."""
    if has_graph(network):
        return run(steps(network), feeds, output_key(network))
    (images,) = feeds.values()
    return network(images, training=False)


def output_shapes(network: keras.Model, values: Any) -> list[list[int | None]]:
    """Return the shapes of all outputs, [None, ...].

    Args:
        network: functional, Sequential or subclassed `keras.Model`.
        values: what a model without graph returned.
    """
    tensors = network.outputs if has_graph(network) else keras.tree.flatten(values)
    return [[None, *tensor.shape[1:]] for tensor in tensors]
