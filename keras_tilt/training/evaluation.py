"""How good a trained classifier is: errors, calibration, and log densities of images.

    p(y|x)  = mean over crops of softmax_y((F_y(x) + b_y) / T)
    log p(x) / q(x) = log sum_y rho_y exp(F_y(x)) / Z_y = logsumexp_y(F_y(x) + b_y)

T is 1 unless a temperature was fitted. The second line is why
`GenerativeClassifier.calibrate` sets b = log rho - log Z: a calibrated output is a
joint log density of image and class, and its logsumexp that of the image.

Source: crops, Krizhevsky, Sutskever, Hinton 2012, section 4.1 (theirs are also
mirrored; Dai, Lu, Wu 2015 take the center and the corners); ECE, Guo et al. 2017; log
densities that tell images of other kinds, Grathwohl et al. 2020, section 5.3.
"""

__all__ = [
    "Predictions",
    "area_under_roc",
    "at_temperature",
    "calibration_error",
    "cross_tempered",
    "fitted_temperature",
    "predictions",
    "top_error",
]

import functools
import typing
from collections.abc import Callable, Iterable

import keras
import numpy as np
import scipy.optimize
import scipy.special
import scipy.stats
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tilt import workers
from keras_tilt.training.batch_checks import class_indices
from keras_tilt.training.shares import logits_of_crops, shared_logits
from keras_tilt.validation import check_seed, one_pass

_LARGEST_TEMPERATURE = 100.0


class Predictions(typing.NamedTuple):
    """What a model predicts for the images of a data set.

    Attributes:
        probabilities: `[n, classes]` p(y|x), mean over the crops of an image.
        scores: `[n]` nats, log density of the image relative to q, log p(x) / q(x),
            mean over its crops; unnormalized if the model is not calibrated.
        labels: int32 `[n]`; -1 = unlabelled.
    """

    probabilities: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


def predictions(
    model: Callable[..., tf.Tensor], dataset: Iterable | Callable
) -> Predictions:
    """Return the predictions of a classifier for a data set.

    Args:
        model: `keras.Model`, images to logits `[batch, classes]`; of a
            `GenerativeClassifier` the temperature is taken.
        dataset: `tf.data.Dataset` of (images `[batch, height, width, channels]`, or
            `[batch, crops, height, width, channels]`; labels as `fit` takes them),
            that ends; or a function that returns it, of the
            `tf.distribute.InputContext` of one of several workers, its part alone, or
            of None, all of it. Several workers must then all call this.

    Returns:
        predictions: `Predictions`; of all workers, of parts as `keras_tilt.batches`
            makes them in the order of one process.

    Raises:
        ValueError: if the data set is empty or has no end, or logits are not finite:
            `top_error` would count NaN as right.
    """
    temperature = _temperature_of(model)
    if not callable(dataset):
        batches = _logits(model, dataset)
    elif isinstance(model, keras.Model) and workers.several(model.distribute_strategy):
        batches = shared_logits(model, dataset)
    else:
        batches = _logits(model, dataset(None))
    parts = [_of_batch(z, y, temperature) for z, y in batches if len(y)]
    if not parts:
        raise ValueError(
            "Expected a data set with at least one batch. Received: none. "
            "Pass the images to evaluate on."
        )
    return _finite(Predictions(*map(np.concatenate, zip(*parts, strict=True))))


def _logits(model, dataset):
    """Yield logits `[batch, crops, classes]` and labels of each batch."""
    found = None
    for images, labels in one_pass("dataset", dataset, "predicting"):
        if found is None:  # of any number of images like these, traced once
            spec = tf.TensorSpec([None, *images.shape[1:]], images.dtype)
            found = tf.function(functools.partial(logits_of_crops, model), [spec])
        outputs = found(images)
        yield outputs, class_indices(labels, outputs.shape[2])


def _temperature_of(model):
    """Return that of a `GenerativeClassifier`; 1 of any other model."""
    found = getattr(model, "temperature", None)
    if not isinstance(found, keras.Variable):
        return 1.0
    return float(tf.convert_to_tensor(found))  # under a strategy it is on replicas


def _of_batch(outputs, labels, temperature):
    outputs = np.float64(outputs)
    probabilities = scipy.special.softmax(outputs / temperature, axis=2).mean(axis=1)
    scores = scipy.special.logsumexp(outputs, axis=2).mean(axis=1)
    return probabilities, scores, labels.numpy()


def _finite(predictions):
    bad = np.count_nonzero(~np.isfinite(predictions.scores))
    if bad:
        raise ValueError(
            f"Expected finite logits. Received: {bad} of {len(predictions.scores)} "
            "images with NaN or infinite ones. Check the images; if they are finite, "
            "the weights have diverged."
        )
    return predictions


def top_error(predictions: Predictions, k: int = 1) -> float:
    """Return the share of images whose label is not among the k most probable classes.

    A class as probable as the label counts as more probable. Unlabelled images do not
    count.

    Returns:
        error: in [0, 1].
    """
    probabilities, _, labels = _labelled(predictions)
    own = np.take_along_axis(probabilities, labels[:, np.newaxis], axis=1)
    rank = np.sum(probabilities >= own, axis=1) - 1
    return float(np.mean(rank >= k))


def calibration_error(predictions: Predictions, num_bins: int = 15) -> float:
    """Return the expected calibration error, over bins of equal width.

        ECE = sum over bins b of n_b / n abs(mean of 1[right] - mean of max_y p(y|x))

    Args:
        predictions: `Predictions`.
        num_bins: number of bins of the confidence max_y p(y|x).

    Returns:
        error: in [0, 1].
    """
    probabilities, _, labels = _labelled(predictions)
    confidence = probabilities.max(axis=1)
    excess = (probabilities.argmax(axis=1) == labels) - confidence
    bins = np.minimum((num_bins * confidence).astype(int), num_bins - 1)
    return float(np.abs(np.bincount(bins, excess)).sum() / len(labels))


def fitted_temperature(predictions: Predictions) -> float:
    """Return the temperature at which labelled images are most probable.

        T = argmax over T of the sum of log p_T(y_i|x_i),    p_T(y|x) ~ p(y|x)^(1 / T)

    Above 1 the probabilities are too far from each other, below 1 too near. Fit it to
    images that were not trained on.

    Args:
        predictions: `Predictions`.

    Returns:
        temperature: between 1/100 and 100.

    Source: Guo et al. 2017, section 4.2.
    """
    probabilities, _, labels = _labelled(predictions)
    logits = _log(probabilities)
    own = np.take_along_axis(logits, labels[:, np.newaxis], axis=1)[:, 0]

    def loss(log_inverse):
        inverse = np.exp(log_inverse)
        normalizers = scipy.special.logsumexp(inverse * logits, axis=1)
        return np.mean(normalizers - inverse * own)

    # The loss is convex in 1 / T, and so has one minimum in its logarithm.
    bounds = (-np.log(_LARGEST_TEMPERATURE), np.log(_LARGEST_TEMPERATURE))
    found = scipy.optimize.minimize_scalar(loss, bounds=bounds, method="bounded")
    return float(np.exp(-found.x))


def at_temperature(predictions: Predictions, temperature: float) -> Predictions:
    """Return the predictions with p(y|x)^(1 / T) in place of p(y|x), normalized.

    Args:
        predictions: `Predictions`.
        temperature: T, above 0; 1 changes nothing.
    """
    logits = _log(predictions.probabilities) / temperature
    probabilities = scipy.special.softmax(logits, axis=1)
    return predictions._replace(probabilities=probabilities)


def cross_tempered(
    predictions: Predictions, seed: int = 0
) -> tuple[Predictions, float]:
    """Return each half of the predictions at the temperature fitted to the other.

    No image is then judged by a temperature that it had a part in.

    Args:
        predictions: `Predictions`.
        seed: of how they are halved.

    Returns:
        predictions: `Predictions`, in another order.
        temperature: geometric mean of the two.
    """
    check_seed(seed)
    order = np.random.default_rng(seed).permutation(len(predictions.labels))
    halves = [
        Predictions(*(part[places] for part in predictions))
        for places in np.array_split(order, 2)
    ]
    first, second = map(fitted_temperature, halves)
    parts = at_temperature(halves[0], second), at_temperature(halves[1], first)
    both = Predictions(*map(np.concatenate, zip(*parts, strict=True)))
    return both, float(np.sqrt(first * second))


def _log(probabilities):
    """Return their logarithms, finite where a probability is 0."""
    return np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))


def area_under_roc(scores: ArrayLike, others: ArrayLike) -> float:
    """Return how well log densities separate images from those of another kind.

        area = P(one of `scores` > one of `others`) + P(equal) / 2

    Args:
        scores: `[n]`, of images like the training images.
        others: `[m]`, of other images.

    Returns:
        area: in [0, 1]; 1/2 if they do not separate them.
    """
    scores, others = np.asarray(scores), np.asarray(others)
    u = scipy.stats.mannwhitneyu(scores, others, method="asymptotic").statistic
    return float(u / (len(scores) * len(others)))


def _labelled(predictions):
    kept = predictions.labels >= 0
    if not kept.any():
        raise ValueError(
            "Expected labelled images. Received: none. Pass a data set with labels."
        )
    return Predictions(*(part[kept] for part in predictions))
