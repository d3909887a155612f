"""Names of units, as formulas of what they read.

"conv1:3 - 2 conv1:5"         a difference of two channels
"class 3 over 28, 14 px"      the mean of a class over two sizes of the images
"conv5:direction 3f2a1b"      a direction of many channels
"""

__all__ = ["name_of"]

import hashlib
from collections.abc import Sequence

import numpy as np

from keras_tilt.units.features import Features

_LISTED = 4  # more channels than this have one name, "conv5:direction 3f2a1b"


def name_of(terms: Sequence[tuple[Features, np.ndarray]]) -> str:
    """Return the name of a sum over terms, in the order of its terms.

    Networks are named where there are several. Terms that differ only in how images
    reach the network are one part of the name: the mean over sizes, for example.

    Args:
        terms: of the `Unit`.
    """
    several = len({id(features.network) for features, _ in terms}) > 1
    found: dict[str, list] = {}  # label -> [(weight, features)]
    for features, weights in terms:
        prefix = f"{features.network.name}/" * several
        for weight, channel in _listed(weights):
            label = prefix + features.reading.label(channel)
            found.setdefault(label, []).append((weight, features))
    parts = [part for label, ways in found.items() for part in _parts(label, ways)]
    return "".join(
        _signed(weight, first=i == 0) + label for i, (weight, label) in enumerate(parts)
    )


def _parts(label, ways):
    """Return (weight, label) of the parts that are read in several ways.

    Args:
        label: of what is read.
        ways: list of (weight, `Features`).
    """
    if len(ways) == 1:
        ((weight, features),) = ways
        size = "" if features.inputs.resize is None else f" at {_size(features)} px"
        return [(weight, label + size)]
    weights, several = zip(*ways, strict=True)
    names, unit = _ways(several)
    if len(set(weights)) == 1:
        return [(sum(weights), f"{label} over {', '.join(names)}{unit}")]
    names = [f"{label} at {name}{unit}" for name in names]
    return list(zip(weights, names, strict=True))


def _ways(several):
    """Return what tells ways of the images apart, and the unit of it.

    Their sizes; or the functions that prepare them; or both; or numbers.
    """
    sizes, functions = map(_size, several), map(_function, several)
    pairs = list(zip(sizes, functions, strict=True))
    for names, unit in (
        ([size for size, _ in pairs], " px"),
        ([function for _, function in pairs], ""),
        ([f"{size} px {function}" for size, function in pairs], ""),
    ):
        if len(set(names)) == len(several):
            return names, unit
    return [f"input {i}" for i in range(1, len(several) + 1)], ""


def _size(features):
    """Return "28" or "28x20", rows and columns of the images that a network gets."""
    sizes = features.inputs.resize or features.input_shape[:-1]
    square = len(sizes) == 2 and sizes[0] == sizes[1]
    return "x".join(str(size) for size in (sizes[:1] if square else sizes))


def _function(features):
    """Return the name of a `preprocess`."""
    preprocess = features.preprocess
    named = preprocess is None or hasattr(preprocess, "__name__")
    return getattr(preprocess if named else type(preprocess), "__name__", "as it is")


def _listed(weights):
    """Return (weight, channel) of each channel, or one pair for a direction of many.

    Two directions have two names: its end is of their weights.
    """
    channels = np.flatnonzero(weights)
    if len(channels) > _LISTED:
        digest = hashlib.sha256(weights.tobytes()).hexdigest()
        return [(1.0, f"direction {digest[:6]}")]
    return [(weights[c], c) for c in channels] or [(0.0, 0)]


def _signed(weight, first):
    sign = ("-" if weight < 0 else "") if first else (" - " if weight < 0 else " + ")
    size = f"{abs(weight):g}"
    return sign if size == "1" else f"{sign}{size} "
