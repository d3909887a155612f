"""What networks call images, and how far these are apart: a report of each method."""

__all__ = ["Judge", "judged", "judges_of", "share", "shares_of_draws"]

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy.spatial.distance import pdist

from keras_tilt.cli.named.networks import load_network, num_classes
from keras_tilt.cli.named.pixels import preprocessing
from keras_tilt.cli.named.units import class_number
from keras_tilt.units.selection import Unit

_MOST_DRAWS = 200  # of each chain, that are judged
COARSE = 16  # pixels along an edge of the images whose distances are compared


class Judge:
    """What a network calls images of any size."""

    def __init__(self, network: keras.Model, mode: str):
        self.network, self.preprocess = network, preprocessing(mode)
        self.num_classes = num_classes(network) or 0  # of several outputs

    def __call__(self, images: tf.Tensor) -> np.ndarray:
        """Return outputs, [n, classes]."""
        size = self.network.input_shape[1:3]
        resized = tf.image.resize(images, size, antialias=True)
        return self.network(self.preprocess(resized), training=False).numpy()


def judges_of(
    network: keras.Model, mode: str, other: pathlib.Path | None, other_mode: str
) -> dict[str, Judge]:
    """Return the network itself as a judge, and another one if there is one.

    Args:
        network: whose units are drawn.
        mode: of its pixels, as in `named.preprocessing`.
        other: .keras file of another network, or None.
        other_mode: of its pixels.

    Raises:
        ValueError: if the other one has other classes, or there is only one class.
    """
    own = Judge(network, mode)
    judges = {"own": own} if own.num_classes > 1 else {}
    if not other:
        return judges
    judge = Judge(load_network(other), other_mode)
    if not judge.num_classes == own.num_classes > 1:
        raise ValueError(
            f"Expected a --judge of the {own.num_classes} classes of the network, two "
            f"or more. Received: one of {judge.num_classes}. Leave it out."
        )
    return judges | {"judge": judge}


def judged(
    images: np.ndarray,
    unit: Unit,
    label: str,
    judges: Mapping[str, Judge],
    low: float,
    high: float,
) -> dict[str, Any]:
    """Return f of images, how far they are apart, and what networks call them.

    Args:
        images: [n, height, width, channels].
        unit: f.
        label: "class:3", or that of a channel, which no network calls anything.
        judges: by name.
        low: black.
        high: white.
    """
    outside = (images < low) | (images > high)
    report = {
        "f": [float(f) for f in unit(tf.constant(images))],
        "outside": float(np.mean(outside)),
        "distance": _distance(images),
        "coarse_distance": _distance(
            tf.image.resize(images, [COARSE, COARSE], antialias=True).numpy()
        ),
    }
    index = class_number(label)
    if index is None:
        return report
    for name, judge in judges.items():
        outputs = judge(images)
        report[name] = {
            "rank": _ranks(outputs, index).tolist(),
            "output": [float(value) for value in outputs[:, index]],
            "called": np.argmax(outputs, axis=1).tolist(),
        }
    return report


def shares_of_draws(
    images: Sequence[np.ndarray], label: str, judges: Mapping[str, Judge]
) -> dict[str, dict[str, float]]:
    """Return how many of all draws that were kept networks call their class.

    Args:
        images: [draws, chains, ...], computed on access.
        label: as in `judged`; of channels nothing is returned.
        judges: by name.

    Returns:
        shares: of each judge, "first", "among_five", "median_rank" and "images".
    """
    index = class_number(label)
    if index is None:
        return {}
    found = {}
    for name, judge in judges.items():
        ranks = np.concatenate([_ranks(judge(images[i]), index) for i in _some(images)])
        found[name] = {
            "first": float(np.mean(ranks < 1)),
            "among_five": float(np.mean(ranks < 5)),
            "median_rank": float(np.median(ranks)),
            "images": len(ranks),
        }
    return found


def _some(images):
    """Indices of draws, spread over all of them."""
    return range(0, len(images), -(-len(images) // _MOST_DRAWS))


def _ranks(outputs, index):
    """How many outputs are higher than that of a class, [n]."""
    return np.sum(outputs > outputs[:, index : index + 1], axis=1)


def _distance(images):
    """Return the mean over pairs of the root mean square difference of their pixels."""
    flat = images.reshape(len(images), -1)
    if len(flat) < 2:
        return math.nan
    return float(np.mean(pdist(flat)) / math.sqrt(flat.shape[1]))


def share(report: Mapping[str, Any], name: str, ranks: int = 1) -> float | None:
    """Return the share of the images that a network calls their class, or nearly.

    Args:
        report: of `judged`.
        name: of the judge.
        ranks: among how many of the highest outputs the class is to be.

    Returns:
        share: in [0, 1]; None for channels.
    """
    judged_by = report.get(name)
    return judged_by and float(np.mean(np.array(judged_by["rank"]) < ranks))
