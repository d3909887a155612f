"""Units drawn with the features of photographs: their statistics, at every size.

    g(x) = weight mean over sizes and statistics of their log density

The statistics are those of the features of x. Classes are read in views, and so are
they. A network has six thousand of them or forty: as a mean they weigh alike.
"""

__all__ = ["Photographs", "fitted"]

import hashlib
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import keras

from keras_tilt.cli.jobs import learning
from keras_tilt.cli.named.networks import image_shape
from keras_tilt.cli.named.units import view_of
from keras_tilt.units.algebra import Unit
from keras_tilt.units.statistics import FeatureStatistics, fit_feature_statistics


class Photographs(NamedTuple):
    """What makes a draw plausible, as a unit.

    Attributes:
        unit: g, images of the network's size -> nats.
        digest: of the statistics at all sizes.
    """

    unit: Unit
    digest: str


def fitted(
    network: keras.Model,
    model: pathlib.Path,
    data: str,
    mode: str,
    sizes: Sequence[float],
    pixels: tuple[float, float],
    weight: float,
    folder: pathlib.Path,
) -> Photographs:
    """Return the statistics of photographs as a unit; those in the folder are read.

    Args:
        network: of the units.
        model: its file.
        data: a folder of photographs, NAME.npz, or digits.
        mode: of the network's pixels, as in `named.preprocessing`.
        sizes: at which classes are read.
        pixels: black and white.
        weight: of the mean log density.
        folder: where a file of each size is kept.

    Raises:
        ValueError: for photographs that cannot be read, or a network without maps.
    """
    of_what = repr((_files_of(data), mode, pixels)).encode() + model.read_bytes()
    key = hashlib.sha256(of_what).hexdigest()[:6]
    found = [
        _at_size(
            network, data, view_of(network, 0, size, mode, False), pixels, folder, key
        )
        for size in sizes
    ]
    units = [
        one.unit(network, **view_of(network, number, size, mode, True))
        for number, (one, size) in enumerate(zip(found, sizes, strict=True))
    ]
    digest = " ".join(one.digest for one in found)
    number = sum(one.mean.size for one in found)
    return Photographs(sum(units) * (weight / number), digest)


def _files_of(data):
    """Return what tells photographs apart: names and sizes of their files."""
    path = pathlib.Path(data)
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [(one.name, one.stat().st_size) for one in files if one.is_file()]


def _at_size(network, data, view, pixels, folder, key):
    """Return the statistics at one size, fitted unless there is a file of them."""
    height, width, _ = image_shape(network)
    rows, columns = view["resize"] or (height, width)
    path = folder / f"statistics_{key}_{rows}x{columns}.npz"
    if path.is_file():
        return FeatureStatistics.load(path)
    print(f"Statistics of {data} at {rows} x {columns} pixels", flush=True)
    images = _as_pixels(learning.image_pairs(data, None, (height, width))[0], *pixels)
    found = fit_feature_statistics(network, images, **view)
    folder.mkdir(parents=True, exist_ok=True)
    found.save(path)
    return found


def _as_pixels(batches, low, high):
    """Yield images of pairs, from black to white, where they are from 0 to 255."""
    for images, _ in batches.as_numpy_iterator():
        yield low + (high - low) / 255 * images
