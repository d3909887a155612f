"""Readings: what is read of a network, in one pass.

    reading: network, inputs -> [n, channels]

A unit is a weighted sum over the channels of one reading or of several. Channels of a
layer at one place, or their mean (`Channels`), or of one cell of a map from its pixels
alone (`Cell`); all classes: logits F (`Logits`), log p(y | x) (`LogPosterior`), a sum
of both (`LogitsAndPosterior`), or outputs that are probabilities (`LogOutput`).
"""

__all__ = [
    "Cell",
    "Channels",
    "LogOutput",
    "LogPosterior",
    "Logits",
    "LogitsAndPosterior",
    "Reading",
]

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import keras
import tensorflow as tf

from keras_tilt.networks import (
    graph,
    inner_values,
    log_posteriors,
    output_activations,
)
from keras_tilt.networks.receptive_fields.intervals import Interval
from keras_tilt.networks.receptive_fields.single_cells import cell_values
from keras_tilt.units.positions import Place, at_place, default_place


class Reading(Protocol):
    """What is read of a network: a function of it and its inputs, and its name.

        reading(network, inputs) -> [n, channels]

    Readings are frozen dataclasses: equal ones read the same, so that units of equal
    features share a pass.
    """

    def __call__(
        self, network: keras.Model, feeds: Mapping[str, tf.Tensor]
    ) -> tf.Tensor:
        """Return what is read, [n, channels].

        Args:
            network: functional, Sequential or subclassed.
            feeds: {name of input: its value [n, ...]}.
        """

    def label(self, channel: int | str) -> str:
        """Return the name of one channel: "conv5:12", "class 3"."""

    def __hash__(self) -> int:
        """Return a number that equal readings share."""


# Of a layer


@dataclasses.dataclass(frozen=True)
class Channels:
    """All channels of a layer, [n, places ..., channels], at one place or their mean.

    Attributes:
        layer: its path.
        place: "center", "mean", or a tuple of an index for each axis of places.
        post: whether they are read after the activation.
        axes: number of axes of places: 0 of a vector, 1 of a sequence, 2 of a map.
    """

    layer: str
    place: Place
    post: bool
    axes: int = 2

    def __call__(
        self, network: keras.Model, feeds: Mapping[str, tf.Tensor]
    ) -> tf.Tensor:
        values = inner_values.layer_values(network, feeds, self.layer, not self.post)
        return at_place(keras.tree.flatten(values)[0], self.place)

    def label(self, channel: int | str) -> str:
        place = self.place
        where = place if isinstance(place, str) else ",".join(map(str, place))
        where = "" if where == default_place(self.axes) else f"@{where}"
        return f"{self.layer}:{channel}{where}{' post' * self.post}"


@dataclasses.dataclass(frozen=True)
class Cell:
    """All channels of one cell of a layer's map, from the pixels in a window.

    Attributes:
        layer: its path.
        cell: (row, column).
        post: whether they are read after the activation.
        window: ((first row, end), (first column, end)) of pixels that the images show.
    """

    layer: str
    cell: Sequence[int]
    post: bool
    window: Sequence[Interval]

    def __call__(
        self, network: keras.Model, feeds: Mapping[str, tf.Tensor]
    ) -> tf.Tensor:
        (patch,) = feeds.values()
        return cell_values(
            network, patch, self.layer, self.cell, self.window, not self.post
        )

    def label(self, channel: int | str) -> str:
        return f"{self.layer}:{channel}{' post' * self.post} crop"


# Of all classes


@dataclasses.dataclass(frozen=True)
class Logits:
    """All logits."""

    def __call__(
        self, network: keras.Model, feeds: Mapping[str, tf.Tensor]
    ) -> tf.Tensor:
        return log_posteriors.logits(network, feeds)

    def label(self, channel: int | str) -> str:
        return f"class {channel}"


@dataclasses.dataclass(frozen=True)
class LogPosterior:
    """log p(y | x) of all classes, by the output activation, or of a calibrated model.

        log softmax(F)_y = F_y - logsumexp F,     log sigmoid(F)_y = -log(1 + exp(-F_y))

    Attributes:
        calibrated: `GenerativeClassifier` of the network, or None.
    """

    calibrated: keras.Model | None = None

    def __call__(
        self, network: keras.Model, feeds: Mapping[str, tf.Tensor]
    ) -> tf.Tensor:
        return log_posteriors.logits(network, feeds, self.of_logits(network))

    def of_logits(self, network: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
        """Return the function that makes log p(y | x) of the logits F."""
        if self.calibrated is not None:
            bias = self.calibrated.calibration_bias
            return lambda values: log_posteriors.log_probabilities(
                "softmax", tf.cast(values, tf.float32) + bias
            )
        _, activation = output_activations.output_activation(network)
        return functools.partial(
            log_posteriors.log_probabilities, activation or "softmax"
        )

    def label(self, channel: int | str) -> str:
        return f"log p(class {channel})"


@dataclasses.dataclass(frozen=True)
class LogitsAndPosterior:
    """F_y + weight log p(y | x) of all classes, in one pass.

    Attributes:
        weight: of log p(y | x).
        posterior: `LogPosterior` that is added.
    """

    weight: float
    posterior: LogPosterior

    def __call__(
        self, network: keras.Model, feeds: Mapping[str, tf.Tensor]
    ) -> tf.Tensor:
        log_posterior = self.posterior.of_logits(network)

        def sum_of(values):
            return tf.cast(values, tf.float32) + self.weight * log_posterior(values)

        return log_posteriors.logits(network, feeds, sum_of)

    def label(self, channel: int | str) -> str:
        sign = "-" if self.weight < 0 else "+"
        return f"(class {channel} {sign} {abs(self.weight):g} log p)"


@dataclasses.dataclass(frozen=True)
class LogOutput:
    """log p(y | x) of all classes, of outputs that are p or log p.

    Of probabilities at least -87.3, the logarithm of the smallest normal float32.

    Attributes:
        is_log: whether the outputs are logarithms.
    """

    is_log: bool = False

    def __call__(
        self, network: keras.Model, feeds: Mapping[str, tf.Tensor]
    ) -> tf.Tensor:
        outputs = tf.cast(graph.output_values(network, feeds), tf.float32)
        return outputs if self.is_log else log_posteriors.log_of(outputs)

    def label(self, channel: int | str) -> str:
        return f"log p(class {channel})"
