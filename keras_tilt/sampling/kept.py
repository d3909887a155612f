"""Graphs that are kept with the network they were traced from.

    kept(networks, key, make)    the graph of an equal key, or make()

Tracing a large network takes seconds. A graph refers to its network: kept anywhere
else, it would keep the network from ever being freed. Kept with the network, both are
freed together.

A graph holds the network as it was when traced, but for its weights. So a key must name
all that a graph depends on: the layers and their attributes, the values that a
preprocessing returns, the parameters of a reference.
"""

__all__ = ["kept", "state_of_features", "state_of_reference"]

import collections
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_tilt.networks import graph
from keras_tilt.units.features import Features

T = TypeVar("T")

_MOST = 8  # graphs of one network; those used last stay
_NAME = "_keras_tilt_kept"
_LOCK = threading.Lock()
# Of every model, and nothing that its layers compute with.
_OF_EVERY_MODEL = frozenset(vars(keras.Model(name="model"))) | {_NAME}


def kept(networks: Sequence[keras.Model], key: Hashable, make: Callable[[], T]) -> T:
    """Return what was kept under an equal key, or make() and keep it.

    Args:
        networks: list of `keras.Model`; for several nothing is kept, because none of
            them may refer to the others.
        key: hashable.
        make: function without arguments.
    """
    if len(networks) != 1:
        return make()
    with _LOCK:
        held = vars(networks[0]).setdefault(_NAME, collections.OrderedDict())
        if key not in held:
            held[key] = make()
        held.move_to_end(key)
        while len(held) > _MOST:
            held.popitem(last=False)
        return held[key]


def state_of_features(features: Features) -> tuple:
    """Return what a graph of `Features` depends on besides weights, as a key."""
    return features, _state_of_network(features.network), _preprocessed(features)


def _state_of_network(network):
    """Return all layers and their attributes, as they are now, in one flat tuple."""
    found = []
    for layer in [network, *graph.inner_layers(network).values()]:
        found.append(layer)
        skipped = _OF_EVERY_MODEL if isinstance(layer, keras.Model) else ()
        for name, value in vars(layer).items():
            if name not in skipped and _is_plain(value):
                found += name, _frozen(value)
    return tuple(found)


def _is_plain(value):
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    plain = isinstance(value, str | bytes | int | float | None)
    return (plain or callable(value)) and value.__hash__ is not None


def _frozen(value):
    """Return a plain value as one that can be part of a key."""
    if isinstance(value, tuple | list):
        return tuple(map(_frozen, value))
    if isinstance(value, dict):
        return tuple((key, _frozen(part)) for key, part in value.items())
    return value


def _preprocessed(features):
    """Return the bytes that `preprocess` makes of one image of noise, or None."""
    if features.preprocess is None:
        return None
    shape = [size or 64 for size in features.input_shape]
    noise = tf.random.stateless_uniform([1, *shape], [0, 0], 0.0, 255.0)
    return np.asarray(features.preprocess(noise)).tobytes()


def state_of_reference(reference: tfd.Distribution) -> Hashable:
    """Return what a graph of a reference depends on, as a key.

    References of equal type and parameters are equal; those that do not expose their
    parameters are only equal to themselves.
    """
    parts = tf.nest.flatten(reference, expand_composites=True)
    if parts == [reference]:
        return reference
    values = tuple(np.asarray(part).tobytes() for part in parts)
    return type(reference), tf.type_spec_from_value(reference), values
