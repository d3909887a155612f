"""How probable the features of an image are among those of photographs.

    g(x) = - sum_s (d + 1) / 2 log(1 + t_s^2 / d),    t_s = (s(x) - mean_s) / stddev_s

Statistics s are the mean and the standard deviation over the places of each channel of
some layers. With g added to the exponent,

    p(x) = exp(scale f(x) + g(x)) q(x) / Z,

q(x) exp(g(x)) is the reference: noise whose features are those of photographs. A unit
alone may be answered by features that no photograph has together.

Source: Zhu, Wu and Mumford (1998), "Filters, random fields and maximum entropy"; Lu,
Zhu and Wu (2016), "Learning FRAME models using CNN filters"; Yin et al. (2020),
"Dreaming to distill", for the statistics of all layers of one classifier. Our g has
long tails (a Student law of d = 4), since one image is not the mean of all.
"""

__all__ = ["FeatureStatistics", "fit_feature_statistics"]

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tilt.networks import graph, inner_values, layer_views
from keras_tilt.reference.image_batches import check_number_of_images, image_batches
from keras_tilt.units.algebra import Unit, unit_of
from keras_tilt.units.features import Features
from keras_tilt.units.network_inputs import NetworkInputs, checked_inputs

_DEGREES = 4.0  # of freedom
_LEAST = 0.01  # of the mean standard deviation of all statistics: that of any
_SMALLEST_VARIANCE = 1e-12  # over places; at 0 its root has no gradient


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Mean and standard deviation, over images, of statistics of a network's features.

    Made by `fit_feature_statistics`. Equal if they hold the same numbers.

    Attributes:
        layers: paths of the layers that are read.
        mean: [statistics], over images: of each layer in turn the mean over places of
            its channels, then their standard deviation over places.
        stddev: [statistics], of images around it.
        num_images: that they were fitted to.
    """

    layers: tuple[str, ...]
    mean: np.ndarray = dataclasses.field(repr=False)
    stddev: np.ndarray = dataclasses.field(repr=False)
    num_images: int

    def __post_init__(self):
        mean, stddev = (np.asarray(x, np.float64) for x in (self.mean, self.stddev))
        is_known = np.all(np.isfinite(mean)) and np.all(
            (0 < stddev) & (stddev < np.inf)
        )
        if mean.ndim != 1 or mean.shape != stddev.shape or not is_known:
            raise ValueError(
                "`mean` and `stddev` must be finite, a number for every statistic, and "
                f"`stddev` positive. Received: shapes {mean.shape} and {stddev.shape}. "
                "Pass those of fit_feature_statistics."
            )

    def unit(
        self,
        network: keras.Model,
        *,
        preprocess: Callable[[tf.Tensor], tf.Tensor] | None = None,
        input_shape: Sequence[int | None] | None = None,
        resize: Sequence[int] | None = None,
    ) -> Unit:
        """Return g as a unit, to be added to those of the same network.

        Args:
            network: whose features they are.
            preprocess: as it was fitted, or one that also moves or mirrors the images.
            input_shape: as in `keras_tilt.unit`.
            resize: as in `keras_tilt.unit`: that of the fit.

        Returns:
            unit: `Unit`, images [n, height, width, channels] -> float32 [n], nats, at
            most 0.

        Raises:
            ValueError: for a network without those layers, or one with others of the
                same names; and as `keras_tilt.unit`.
        """
        network = graph.network_of(network)
        inputs = checked_inputs(network, preprocess, None, input_shape, resize)
        found = _statistics_of_blank(inputs, self.layers)
        if found.shape[1:] != self.mean.shape:
            raise ValueError(
                f"Expected a network with {self.mean.size} statistics of the layers "
                f"{self._layers}. Received: {network.name!r}, with {found.shape[1]}. "
                "Fit them to this network, with fit_feature_statistics."
            )
        return unit_of([(Features(inputs, _Plausibility(self)), np.ones(1))])

    def log_prob(self, statistics: ArrayLike) -> tf.Tensor:
        """Return g of statistics [n, statistics]: float32 [n], nats, 0 at the mean."""
        found = tf.convert_to_tensor(statistics, tf.float32)
        t = (found - self.mean.astype(np.float32)) / self.stddev.astype(np.float32)
        log_terms = tf.math.log1p(t**2 / _DEGREES)
        return -(_DEGREES + 1) / 2 * tf.reduce_sum(log_terms, axis=-1)

    def save(self, path: str | pathlib.Path) -> None:
        """Write a file that ends in .npz, which `load` reads."""
        np.savez(
            path,
            mean=self.mean,
            stddev=self.stddev,
            layers=np.array(self.layers),
            num_images=np.array(self.num_images),
        )

    @classmethod
    def load(cls, path: str | pathlib.Path) -> "FeatureStatistics":
        """Return the statistics in a .npz file that `save` wrote.

        Raises:
            ValueError: for a file of something else.
        """
        with np.load(path) as file:
            expected = {"mean", "stddev", "layers", "num_images"}
            if expected - {*file.files}:
                raise ValueError(
                    f"Expected a file of FeatureStatistics, with {sorted(expected)}. "
                    f"Received: {path}, with {sorted(file.files)}. Write one with save."
                )
            layers = tuple(map(str, file["layers"]))
            return cls(layers, file["mean"], file["stddev"], int(file["num_images"]))

    @property
    def _layers(self):
        return ", ..., ".join(dict.fromkeys([self.layers[0], self.layers[-1]]))

    @functools.cached_property
    def digest(self) -> str:
        """Six characters that tell statistics apart."""
        record = repr(self.layers).encode() + self.mean.tobytes()
        return hashlib.sha256(record + self.stddev.tobytes()).hexdigest()[:6]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FeatureStatistics):
            return NotImplemented
        return self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


@dataclasses.dataclass(frozen=True)
class _Plausibility:
    """The reading g, of one channel.

    Attributes:
        statistics: `FeatureStatistics`.
    """

    statistics: FeatureStatistics

    def __call__(
        self, network: keras.Model, feeds: Mapping[str, tf.Tensor]
    ) -> tf.Tensor:
        found = _statistics(network, feeds, self.statistics.layers)
        return self.statistics.log_prob(found)[:, None]

    def label(self, channel: int | str) -> str:
        return f"statistics {self.statistics.digest}"


def fit_feature_statistics(
    network: keras.Model,
    images: ArrayLike | Iterable,
    *,
    layers: Sequence[str] | None = None,
    preprocess: Callable[[tf.Tensor], tf.Tensor] | None = None,
    input_shape: Sequence[int | None] | None = None,
    resize: Sequence[int] | None = None,
) -> FeatureStatistics:
    """Return mean and standard deviation of statistics of a network's features.

    A thousand photographs are enough: only two numbers of each statistic are fitted.

    Args:
        network: functional or Sequential `keras.Model`, or `GenerativeClassifier`.
        images: [n, height, width, channels], or an iterable of such batches, such as a
            `tf.data.Dataset`, also of pairs (images, labels).
        layers: paths of layers with maps [n, rows, columns, channels]; by default those
            that normalise a batch, or end in an activation, but not the last layer with
            weights.
        preprocess: as in `keras_tilt.unit`.
        input_shape: as in `keras_tilt.unit`.
        resize: as in `keras_tilt.unit`.

    Returns:
        statistics: `FeatureStatistics`.

    Raises:
        ValueError: for a network without such layers, an unknown layer, one without a
            map, fewer than two images, or pixels that are not finite.

    Example:
        >>> network = keras_tilt.lenet()
        >>> digits = np.random.default_rng(0).uniform(0, 255, [20, 28, 28, 1])
        >>> statistics = fit_feature_statistics(network, digits, layers=["conv1"])
        >>> statistics.unit(network)(digits[:3]).shape
        TensorShape([3])
    """
    network = graph.network_of(network)
    inputs = checked_inputs(network, preprocess, None, input_shape, resize)
    layers = tuple(_default_layers(network) if layers is None else layers)
    _check_maps(inputs, layers)

    @tf.function(autograph=False, reduce_retracing=True)
    def statistics(batch):
        return _statistics(network, inputs(batch), layers)

    found = (statistics(tf.constant(x, tf.float32)) for x in image_batches(images))
    mean, stddev, count = _moments(one.numpy().astype(np.float64) for one in found)
    return FeatureStatistics(layers, mean, _not_too_small(stddev), count)


def _moments(batches):
    """Return mean and standard deviation over all rows of batches, and their number."""
    count, offset, total, squares = 0, None, 0.0, 0.0
    for batch in batches:
        if offset is None:  # near the mean, so that centring cancels few digits
            offset = batch.mean(axis=0)
        count += len(batch)
        total = total + (batch - offset).sum(axis=0)
        squares = squares + ((batch - offset) ** 2).sum(axis=0)
    check_number_of_images(count)
    mean = total / count
    stddev = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
    return offset + mean, stddev, count


def _not_too_small(stddev):
    """A channel that is silent in all images may say a little in another."""
    if not np.any(stddev > 0):
        raise ValueError(
            "`images` must differ in their features. Received: images that are equal. "
            "Pass photographs, in the pixels that the network or `preprocess` takes."
        )
    return np.maximum(stddev, _LEAST * np.mean(stddev))


def _statistics(network, feeds, layers):
    """Return mean and standard deviation over places of all layers: [n, statistics]."""
    found = []
    for layer in layers:
        values = inner_values.layer_values(network, feeds, layer, False)
        maps = tf.cast(keras.tree.flatten(values)[0], tf.float32)
        mean, variance = tf.nn.moments(maps, axes=[1, 2])
        found += [mean, tf.sqrt(tf.maximum(variance, _SMALLEST_VARIANCE))]
    return tf.concat(found, axis=1)


def _statistics_of_blank(inputs: NetworkInputs, layers):
    """Return the statistics of a black image."""
    shape = [1, *(size or 64 for size in inputs.input_shape)]
    return _statistics(inputs.network, inputs(tf.zeros(shape)), layers)


# Layers


def _default_layers(network):
    """Return the paths of layers whose maps are features."""
    found = graph.steps(network) if graph.has_graph(network) else []
    weighted = [step for step in found if getattr(step.operation, "weights", ())]
    paths = [step.path for step in found]
    layers = [
        step.path
        for step in weighted[:-1]
        if _makes_features(step) and paths.count(step.path) == 1
    ]
    if not layers:
        raise ValueError(
            "Expected a functional or Sequential network of layers with maps. "
            f"Received: {network.name!r}. Name them in `layers`."
        )
    return layers


def _makes_features(step):
    """Return whether a step normalises maps, or ends in an activation of maps."""
    (output, *_) = step.node.output_tensors
    if len(output.shape) != 4:
        return False
    activation = layer_views.fused_activation(step.operation)
    is_bent = activation not in (None, keras.activations.linear)
    return is_bent or isinstance(step.operation, keras.layers.BatchNormalization)


def _check_maps(inputs, layers):
    """Raise unless all layers have maps; `layer_values` raises for those not there."""
    if not layers:
        raise ValueError("`layers` must name a layer. Received: none. Add one.")
    shape = [1, *(size or 64 for size in inputs.input_shape)]
    feeds = inputs(tf.zeros(shape))
    for layer in layers:
        values = inner_values.layer_values(inputs.network, feeds, layer, False)
        shape = keras.tree.flatten(values)[0].shape
        if len(shape) != 4:
            raise ValueError(
                "Expected layers with maps [n, rows, columns, channels]. Received: "
                f"{layer!r}, of {tuple(shape[1:])}. Name a convolution."
            )
