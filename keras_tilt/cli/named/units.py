"""Units by name: classes and channels, the views at which a class is read, the list.

    class:3         a class, read at one or several sizes of the image
    class:goldfish  the same by its name
    conv5:0-7       channels of a layer, on the pixels that they see; conv5:all

Sizes are shares of the image, 1 as the network takes it.
"""

__all__ = ["class_number", "labels", "layer_table", "readable_sizes", "unit_of"]

import contextlib
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_tilt.cli.named.classes import class_named
from keras_tilt.cli.named.networks import image_shape, num_classes
from keras_tilt.cli.named.pixels import preprocessing
from keras_tilt.networks.receptive_fields import layers_of
from keras_tilt.units.random_views import RandomViews
from keras_tilt.units.selection import Unit, unit


def labels(
    specifications: Iterable[str],
    network: keras.Model | None = None,
    names: Mapping[int, str] | None = None,
) -> list[str]:
    """Return labels of single units: "class:0-2" -> class:0, class:1, class:2.

    Args:
        specifications: list of "class:3", "class:0-9", "class:goldfish", "class:all",
            "LAYER:12", "LAYER:0-7" or "LAYER:all".
        network: `keras.Model`, of which "all" counts the channels.
        names: dict of the names of the classes by their numbers.

    Raises:
        ValueError: for a text of another form, and a name that no class has, or several
            have; an unknown name is told those near it.
    """
    return [
        f"{layer}:{number}"
        for text in specifications
        for layer, number in _single_units(text, network, names or {})
    ]


def _single_units(text, network, names):
    """Return (layer, number) of every unit that a text names."""
    layer, _, channels = text.rpartition(":")
    if text.startswith("class:"):
        layer, channels = "class", text.removeprefix("class:")
    if layer and channels == "all":
        return [(layer, number) for number in range(_num_units(network, layer))]
    first, _, last = channels.partition("-")
    if layer and first.isdecimal() and (last or first).isdecimal():
        numbers = range(int(first), int(last or first) + 1)
        if not numbers:
            raise ValueError(
                f"Expected a range that rises, as 0-7. Received: {text}. Swap its ends."
            )
        return [(layer, number) for number in numbers]
    if layer == "class":
        return [(layer, class_named(channels, names))]
    raise ValueError(
        "Expected --unit class:3, class:0-9, class:NAME, LAYER:12, LAYER:0-7 or "
        f"LAYER:all. Received: {text}."
    )


def _num_units(network, layer):
    """Return how many classes a network, or channels a layer, has."""
    if layer == "class":
        one = unit(network, class_index=0)
    else:
        one = unit(network, f"{layer}:0")
    ((_, weights),) = one.terms
    return len(weights)


def layer_table(network: keras.Model) -> str:
    """Return the layers of a network as text: a line for each whose channels are units.

    Columns: how to name all its channels as --unit, its shape, and the patch of the
    image that one cell of it sees, in pixels; or that it is drawn on the whole image.

    Args:
        network: functional or Sequential `keras.Model`.

    Raises:
        ValueError: a network without a graph of layers.
    """
    rows = [("--unit", "shape", "sees", "drawn on")]
    for layer in layers_of(network):
        sees = layer.receptive_field
        rows.append(
            (
                f"{layer.path}:0-{layer.channels - 1}",
                " x ".join(map(str, layer.shape)),
                "-" if sees is None else " x ".join(map(str, sees)),
                "what it sees" if layer.can_be_cropped else "the whole image",
            )
        )
    if number := num_classes(network):
        rows.append((f"class:0-{number - 1}", f"{number}", "-", "the whole image"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def class_number(label: str) -> int | None:
    """Return 3 of "class:3"; None of another unit."""
    layer, _, number = label.rpartition(":")
    return int(number) if layer == "class" else None


def unit_of(
    network: keras.Model,
    label: str,
    mode: str = "none",
    sizes: Sequence[float] = (1.0,),
    posterior_weight: float = 0.0,
    moving: bool = False,
) -> Unit:
    """Return a class in several views, or a channel on what it sees.

    Args:
        network: a `keras.Model` of images of one size.
        label: "class:3" or "LAYER:12".
        mode: of `preprocessing`.
        sizes: of the image at which a class is read, 1 as the network takes it; every
            other one mirrored.
        posterior_weight: of log p(class | x), as in `keras_tilt.unit`.
        moving: whether a class is seen in random views while a strong tilt rises.

    Raises:
        ValueError: for a unit that is not there.
    """
    if class_number(label) is None:
        return _layer_unit(network, label, preprocessing(mode))
    try:
        views = [
            _class_view(network, label, posterior_weight, i, size, mode, moving)
            for i, size in enumerate(sizes)
        ]
    except ValueError as error:
        if "resize" not in str(error):
            raise
        raise ValueError(f"{error} Here: pass --sizes 1.") from error
    return sum(views) / len(views)


def _class_view(network, label, posterior_weight, *view):
    """Return a class as it is read at one size of the image."""
    return unit(
        network,
        class_index=class_number(label),
        posterior_weight=posterior_weight,
        **view_of(network, *view),
    )


def view_of(
    network: keras.Model, number: int, size: float, mode: str, moving: bool
) -> dict[str, Any]:
    """Return how images are prepared for one of the views of a class, for `kt.unit`.

    Args:
        network: a `keras.Model` of images of one size.
        number: of the view; odd ones are mirrored.
        size: of the image, 1 as the network takes it.
        mode: of `preprocessing`.
        moving: whether it is another in every trajectory of an unadjusted warm-up.
    """
    height, width, _ = image_shape(network)
    resize = (round(size * height), round(size * width))
    return {
        "preprocess": _view(mode, bool(number % 2), moving),
        "resize": resize if resize != (height, width) else None,
    }


def _layer_unit(network, label, preprocess):
    """Return a channel on its receptive field, or on the whole image if it has no crop.

    As that of a dense layer, of tokens, or of a map that sees padding everywhere.
    """
    whole = unit(network, label, preprocess=preprocess)
    try:
        return whole.crop()
    except ValueError:
        return whole


def readable_sizes(
    network: keras.Model, sizes: Iterable[float], mode: str = "none"
) -> list[float]:
    """Return those of the sizes at which the network's classes can be read.

    A network with a Flatten and a Dense takes images of one size alone, 1.

    Args:
        network: a `keras.Model` of images of one size.
        sizes: list, of the image, 1 as the network takes it.
        mode: of `preprocessing`.

    Returns:
        sizes: list, [1.0] if there are no others.
    """
    found = []
    for size in sizes:
        with contextlib.suppress(ValueError):
            _class_view(network, "class:0", 0.0, 0, size, mode, False)
            found.append(size)
    return found or [1.0]


@functools.cache  # units of equal views share a graph
def _view(mode, mirrored, moving):
    """Return the preprocessing of an image, or of its mirror image."""
    preprocess = preprocessing(mode)
    if moving:
        return RandomViews(preprocess, rests_mirrored=mirrored)
    if not mirrored:
        return preprocess
    return lambda images: preprocess(tf.reverse(images, [2]))
