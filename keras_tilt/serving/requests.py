"""Signatures of a servable: graphs of a batch of requests, which check each of them.

    request -> answer, each by itself: the same whatever else is in the batch

A server merges requests into a batch, and does not validate inputs against the
signature. The graph does: what it refuses is INVALID_ARGUMENT with a message.
"""

__all__ = [
    "MOST_REQUESTS",
    "Signatures",
    "after",
    "checked_requests",
    "each_request",
    "provided",
    "read_once",
    "traced",
]

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

MOST_REQUESTS = 64  # of a batch; a server that merges them makes no larger ones either


def traced(function: Callable, *specs: tf.TensorSpec, **named_specs: tf.TensorSpec):
    """Return the graph of a function, made now, once for all inputs of these types.

    Args:
        function: of tensors, and a dict of tensors its value.
        *specs: of its arguments, whose names are those of the signature.
        **named_specs: of those that are passed by name.

    Returns:
        graph: `tf.types.experimental.ConcreteFunction`.
    """
    graph = tf.function(function, autograph=False)
    return graph.get_concrete_function(*specs, **named_specs)


class Signatures(Mapping[str, tf.types.experimental.ConcreteFunction]):
    """Graphs of signatures by name, each made when it is first asked for.

    Args:
        functions: name -> (function, *specs of its arguments), as `traced` takes them.
    """

    def __init__(self, functions: Mapping[str, tuple[Any, ...]]):
        self._functions = dict(functions)
        self._graphs: dict[str, tf.types.experimental.ConcreteFunction] = {}

    def __getitem__(self, name: str) -> tf.types.experimental.ConcreteFunction:
        if name not in self._graphs:
            self._graphs[name] = traced(*self._functions[name])
        return self._graphs[name]

    def __contains__(self, name: object) -> bool:
        return name in self._functions

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    def __len__(self) -> int:
        return len(self._functions)


class read_once(keras.StatelessScope):  # noqa: N801 (a context)
    """Within it, variables are tensors that were read outside of all loops.

    TensorFlow runs the iterations of a loop that reads variables one after the other,
    and those of a loop that does not side by side.
    """

    def __init__(self, variables: Iterable[keras.Variable]):
        super().__init__([(one, tf.convert_to_tensor(one.value)) for one in variables])


def each_request(
    function: Callable[..., dict[str, tf.Tensor]],
    requests: Mapping[str, tf.Tensor],
    specs: Mapping[str, tf.TensorSpec],
    variables: Iterable[keras.Variable],
    at_once: int,
) -> dict[str, tf.Tensor]:
    """Return the answers of a function to the requests of a batch, one by one.

    Args:
        function: called as function(**request), with tensors of one request.
        requests: tensors [requests, ...] by name.
        specs: of one answer, by name.
        variables: those that the function reads.
        at_once: how many requests may run side by side.

    Returns:
        answers: tensors [requests, ...] by name.
    """
    with read_once(variables):
        return tf.map_fn(
            lambda request: function(**request),
            requests,
            fn_output_signature=specs,
            parallel_iterations=at_once,
        )


# Checks


def after(
    checks: Iterable[tf.Operation], requests: Mapping[str, tf.Tensor]
) -> dict[str, tf.Tensor]:
    """Return the same requests, once the checks have passed."""
    with tf.control_dependencies(checks):
        return {name: tf.identity(values) for name, values in requests.items()}


def provided(
    condition: tf.Tensor,
    value: tf.Tensor,
    *message: Any,
    summarize: int | None = None,
) -> tf.Tensor:
    """Return the value if a condition holds; else the graph ends with a message.

    The message is for clients: it has no mark of this package, as those of
    `keras_tilt.validation.given` have.

    Args:
        condition: bool [].
        value: of any shape.
        *message: text and tensors.
        summarize: how many entries of each tensor the message shows.
    """
    check = tf.debugging.Assert(condition, [*message], summarize=summarize)
    return after([check], {"value": value})["value"]


def checked_requests(least: int = 0, **inputs: tf.Tensor) -> dict[str, tf.Tensor]:
    """Return the inputs of a batch, if all have as many requests, and not too many.

    Args:
        least: requests of a batch.
        **inputs: tensors [requests, ...] by name.
    """
    inputs = {n: tf.ensure_shape(values, values.shape) for n, values in inputs.items()}
    sizes = [tf.shape(values)[0] for values in inputs.values()]
    names = ", ".join(f"`{name}`" for name in inputs)
    checks = [
        tf.debugging.Assert(
            tf.reduce_all(tf.stack(sizes) == sizes[0]),
            [f"{names} must have as many requests. Received: ", tf.stack(sizes)],
        ),
        tf.debugging.Assert(
            (sizes[0] >= least) & (sizes[0] <= MOST_REQUESTS),
            [
                f"A batch has at least {least} and at most {MOST_REQUESTS} requests. "
                "Received: ",
                sizes[0],
            ],
        ),
    ]
    return after(checks, inputs)
