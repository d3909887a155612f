"""How images reach a network: resized, prepared, beside fixed inputs.

    images [n, height, width, channels] -> {name of input: value [n, ...]}

What a network is given with `kt.unit` is checked here: its images' shape, the function
that prepares them, a size for them, and constants for its other inputs.
"""

__all__ = ["NetworkInputs", "check_preprocess", "checked_inputs", "input_tensors"]

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tilt.networks import graph
from keras_tilt.reference.gradients import named_if_missing
from keras_tilt.units.positions import indices


@dataclasses.dataclass(frozen=True)
class NetworkInputs:
    """All inputs of a network as a function of the images.

        images [n, height, width, channels] -> {name of input: value [n, ...]}

    Equal if they prepare the images alike for the same network.

    Attributes:
        network: the `keras.Model`; compared by identity, as `preprocess`.
        input_shape: shape of one image, before `preprocess`.
        preprocess: function of the images, or None.
        fixed_inputs: tuple of (name, constant) for all inputs but the images.
        resize: (height, width) that images are brought to before `preprocess`, or None.
    """

    network: keras.Model
    input_shape: tuple[int | None, ...]
    preprocess: Callable[[tf.Tensor], tf.Tensor] | None = None
    fixed_inputs: tuple[tuple[str, Callable[[Any], tf.Tensor]], ...] = ()
    resize: tuple[int, ...] | None = None

    def __call__(self, images: ArrayLike) -> graph.Feeds:
        """Return {name of input: value}, which the network is called with."""
        images = tf.convert_to_tensor(images)
        _check_images(images, self.input_shape)
        if self.resize is not None:
            images = tf.cast(images, tf.float32)
            images = tf.image.resize(images, self.resize, antialias=True)
        if self.preprocess is not None:
            images = self.preprocess(tf.cast(images, tf.float32))
        feeds = {name: fixed(tf.shape(images)[0]) for name, fixed in self.fixed_inputs}
        names = [name for name in _input_names(self.network) if name not in feeds]
        return graph.Feeds({names[0]: images, **feeds})


@dataclasses.dataclass(frozen=True)
class _Constant:
    """A fixed input, compared by value: number of images n -> [n, ...]."""

    dtype: str
    shape: tuple
    data: bytes

    def __call__(self, n: Any) -> tf.Tensor:
        value = np.frombuffer(self.data, self.dtype).reshape(self.shape)
        return tf.broadcast_to(value, tf.concat([[n], self.shape], axis=0))


def checked_inputs(
    network: keras.Model,
    preprocess: Callable[[tf.Tensor], tf.Tensor] | None,
    fixed_inputs: Mapping[str, ArrayLike] | None,
    input_shape: Sequence[int | None] | None,
    resize: Sequence[int] | None = None,
) -> NetworkInputs:
    """Return `NetworkInputs`, after checks; the arguments are those of `kt.unit`."""
    _check_network(network)
    fixed = _constants(network, fixed_inputs or {})
    taken = _taken_shape(network, fixed)
    shape = taken if input_shape is None else _shape(input_shape)
    if shape is None:
        raise ValueError(_NO_GRAPH.format(network))
    size = None if resize is None else _checked_size(resize, shape)
    if size is not None:
        seen, taken = (*size, shape[2]), taken and (None, None, taken[2])
    else:
        seen = shape
    if preprocess is not None:
        check_preprocess(preprocess, seen, taken)
    elif graph.has_graph(network):
        _check_taken(seen, taken)
    inputs = NetworkInputs(network, shape, preprocess, fixed, size)
    if size is not None:
        _check_resized(inputs)
    return inputs


def _input_names(network):
    if not graph.has_graph(network):
        return ["images"]
    return [tensor.name for tensor in network.inputs]


def _taken_shape(network, fixed):
    """Return the shape of one image as the network takes it; None if not known."""
    fixed = dict(fixed)
    inputs = getattr(network, "inputs", None) or []  # also where `call` is its own
    shapes = [tensor.shape[1:] for tensor in inputs if tensor.name not in fixed]
    if len(shapes) == 1:
        return tuple(shapes[0])
    config = network.get_build_config() if network.built else None
    shape = (config or {}).get("input_shape")
    return tuple(shape[1:]) if isinstance(shape, tuple | list) else None


def _constants(network, fixed_inputs):
    """Return fixed inputs as a tuple of (name, constant): all but one, the images."""
    if not isinstance(fixed_inputs, dict):
        raise ValueError(
            "Expected `fixed_inputs` to be a dict of arrays by the name of an input. "
            f"Received: {fixed_inputs!r}. The inputs are {_input_names(network)}."
        )
    names = _input_names(network)
    left = [name for name in names if name not in fixed_inputs]
    if len(left) != 1 or len(left) + len(fixed_inputs) != len(names):
        raise ValueError(
            "Expected a network with one input, the images, and all others in "
            f"`fixed_inputs`. Received: {len(left)} inputs, {left}, and fixed "
            f"{list(fixed_inputs)}. The network's inputs are {names}."
        )
    shapes = {name: tensor.shape for name, tensor in input_tensors(network).items()}
    return tuple(
        (name, _constant(name, value, shapes[name]))
        for name, value in sorted(fixed_inputs.items())
    )


def input_tensors(network: keras.Model) -> dict[str, keras.KerasTensor]:
    """Return {name: symbolic tensor} of a network's inputs."""
    return dict(
        zip(_input_names(network), getattr(network, "inputs", ()), strict=False)
    )


def _constant(name, value, shape):
    value = np.asarray(value)
    value = value[0] if value.ndim == len(shape) and len(value) == 1 else value
    if not tf.TensorShape(shape[1:]).is_compatible_with(value.shape):
        raise ValueError(
            f"Expected fixed input {name!r} to have shape {tuple(shape[1:])}, the same "
            f"for all images. Received: shape {value.shape}. Leave out the batch axis."
        )
    return _Constant(value.dtype.str, value.shape, value.tobytes())


# Checks


_NO_GRAPH = (
    "Expected `network` to be a functional or Sequential keras.Model with known input "
    "shape, or a subclassed one that is built. Received: {!r}. Build it with "
    "keras.Input and keras.Model(inputs, outputs), or pass `input_shape`."
)


def _check_network(network):
    if not isinstance(network, keras.Model):
        raise ValueError(_NO_GRAPH.format(network))
    layers = graph.inner_layers(network)
    if graph.has_graph(network):
        layers |= {step.path: step.operation for step in graph.steps(network)}
    for path, layer in layers.items():
        if getattr(layer, "data_format", None) == "channels_first":
            raise ValueError(
                "Expected images and maps [n, height, width, channels]. Received: "
                f"layer {path!r} with data_format='channels_first'. "
                "Build the network with channels last."
            )


def _check_images(images, shape):
    if not images.shape.is_compatible_with([None, *shape]):
        raise ValueError(
            f"Expected images [n, {', '.join(map(str, shape))}]. Received: shape "
            f"{tuple(images.shape)}, incompatible with the layers. Bring the images to "
            "the unit's input_shape."
        )


def _check_taken(shape, taken):
    if not tf.TensorShape(taken).is_compatible_with(shape):
        raise ValueError(
            "Expected the network's own `input_shape`, as there is no `preprocess`. "
            f"Received: {shape}, the network takes {taken}. Pass a `preprocess` that "
            "converts one into the other."
        )


def _shape(input_shape):
    """Return the shape of one image as a tuple of integers or None."""
    try:
        return tuple(tf.TensorShape(input_shape).as_list())
    except (TypeError, ValueError) as error:
        raise ValueError(
            "Expected `input_shape` to be (height, width, channels). Received: "
            f"{input_shape!r}. Pass for example (224, 224, 3)."
        ) from error


def _checked_size(resize, shape):
    """Return (height, width), or raise; of images with rows and columns alone."""
    size = indices(resize)
    if size is None or len(size) != 2 or min(size) < 1 or len(shape) != 3:
        raise ValueError(
            "Expected `resize` to be (height, width) of images [height, width, "
            f"channels]. Received: {resize!r}, images {tuple(shape)}. Pass for example "
            "(112, 112)."
        )
    return size


def _check_resized(inputs):
    """Raise if the network's layers cannot be run on images of another size.

    Too small a map has no cells left, whose mean is no number.
    """
    shape = [2, *(size or 64 for size in inputs.input_shape)]
    noise = tf.random.stateless_uniform(shape, [0, 0])
    try:
        outputs = graph.output_values(inputs.network, inputs(noise))
        fault = "" if np.any(np.isfinite(outputs)) else "its outputs are not finite"
    except (ValueError, tf.errors.OpError) as error:
        fault = str(error)
    if fault:
        raise ValueError(
            "Expected a network whose layers take images of any size, as convolutions "
            "and global pooling do. Received: one that fails on "
            f"{inputs.resize}. Pass a larger `resize`, or leave it out. ({fault})"
        )


def check_preprocess(
    preprocess: Callable[[tf.Tensor], tf.Tensor],
    shape: Sequence[int | None],
    taken: Sequence[int | None] | None,
) -> None:
    """Raise unless `preprocess` is a function of tensors, with a gradient, to a shape.

    Args:
        preprocess: function of images [n, ...].
        shape: of one image, before it.
        taken: shape of one image as the network takes it; None if not known.
    """
    try:
        traced = tf.function(_with_a_gradient(preprocess), autograph=False)
        concrete = traced.get_concrete_function(tf.TensorSpec([None, *shape]))
        made = tf.TensorShape(concrete.output_shapes)
        if concrete.structured_outputs is None:
            raise TypeError("it returns nothing")
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            "Expected `preprocess` to be a function of tensors, with a gradient. "
            f"Received: {preprocess!r}, which fails on one: {error}. Write it with "
            "TensorFlow or keras.ops operations, for example "
            "tf.reverse(images, [-1]) - mean in place of numpy's."
        ) from error
    wanted = tf.TensorShape(taken and [None, *taken])
    if taken is not None and not wanted.is_compatible_with(made):
        raise ValueError(
            f"Expected `preprocess` to return images of shape {tuple(taken)}. "
            f"Received: {tuple(made[1:])} of images {tuple(shape)}. Pass the shape "
            "that it takes as `input_shape`."
        )


def _with_a_gradient(preprocess):
    """Return the same function, which fails if an operation in it has no gradient."""

    def prepared(images):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            made = preprocess(images)
        if tf.is_tensor(made) and made.dtype.is_floating:
            with named_if_missing("`preprocess`", "the images"):
                tape.gradient(made, images)
        return made

    return prepared
