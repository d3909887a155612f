"""How good a trained classifier is: errors, calibration, and its log p(x) as a score.

    p(y|x)  = mean over crops of softmax_y(F_y(x) + b_y)
    log p(x) / q(x) = log sum_y rho_y exp(F_y(x)) / Z_y = logsumexp_y(F_y(x) + b_y)

The second line is what b = log rho - log Z of `GenerativeClassifier.calibrate` is for:
a calibrated output is a joint log density, and its logsumexp that of the image.

Source: crops, Krizhevsky, Sutskever, Hinton 2012, section 4.1 (theirs are mirrored,
too; the paper takes the center and the corners); ECE, Guo et al. 2017; the score,
Grathwohl et al. 2020, section 5.3.
"""

__all__ = [
    "Predictions",
    "area_under_roc",
    "calibration_error",
    "predictions",
    "top_error",
]

import typing

import numpy as np
import scipy.special
import scipy.stats
import tensorflow as tf

from keras_tilt.training.batch_checks import class_numbers
from keras_tilt.validation import one_pass


class Predictions(typing.NamedTuple):
    """What a model says of a data set.

    Attributes:
        probabilities: `[n, classes]` p(y|x), mean over the crops of an image.
        scores: `[n]` nats, log p(x) / q(x), mean over the crops; up to a constant
            where the model is not calibrated.
        labels: int32 `[n]`; -1 = unlabelled.
    """

    probabilities: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


def predictions(model, dataset):
    """Runs a classifier over a data set.

    Args:
        model: `keras.Model`, images to logits `[batch, classes]`.
        dataset: `tf.data.Dataset` of (images `[batch, height, width, channels]`, or
            `[batch, crops, height, width, channels]`; labels as `fit` takes them),
            that ends.

    Returns:
        predictions: `Predictions`.

    Raises:
        ValueError: if the data set is empty or has no end, or logits are not finite:
            NaN would count as right in `top_error`.
    """
    parts, logits = [], None
    for images, labels in one_pass("dataset", dataset, "predicting"):
        logits = logits or _logits(model, images)
        parts.append(_of_batch(logits, images, labels))
    if not parts:
        raise ValueError(
            "Expected a data set with at least one batch. Received: none. "
            "Pass the images to evaluate on."
        )
    return _finite(Predictions(*map(np.concatenate, zip(*parts, strict=True))))


def _logits(model, images):
    """A function of images of these, however many: traced once."""
    spec = tf.TensorSpec([None, *images.shape[-3:]], images.dtype)
    return tf.function(lambda images: model(images, training=False), [spec])


def _of_batch(logits, images, labels):
    crops = images.shape[1] if images.shape.rank == 5 else 1
    outputs = logits(tf.reshape(images, [-1, *images.shape[-3:]]))
    outputs = np.float64(outputs).reshape(len(labels), crops, -1)
    probabilities = scipy.special.softmax(outputs, axis=2).mean(axis=1)
    scores = scipy.special.logsumexp(outputs, axis=2).mean(axis=1)
    labels = class_numbers(labels, outputs.shape[2])
    return probabilities, scores, labels.numpy()


def _finite(predictions):
    bad = np.count_nonzero(~np.isfinite(predictions.scores))
    if bad:
        raise ValueError(
            f"Expected finite logits. Received: {bad} of {len(predictions.scores)} "
            "images with NaN or infinite ones. Look at the images; if they are good, "
            "the weights have diverged."
        )
    return predictions


def top_error(predictions, k=1):
    """Share of labelled images whose label is not among the k most probable classes.

    A class as probable as the label counts as more probable.

    Returns:
        error: in [0, 1].
    """
    probabilities, _, labels = _labelled(predictions)
    own = np.take_along_axis(probabilities, labels[:, np.newaxis], axis=1)
    rank = np.sum(probabilities >= own, axis=1) - 1
    return float(np.mean(rank >= k))


def calibration_error(predictions, num_bins=15):
    """Expected calibration error: mean of abs(accuracy - confidence) over bins.

    ECE = sum_bins n_b / n abs(mean of 1[right] - mean of max_y p(y|x)),   equal widths

    Returns:
        error: in [0, 1].
    """
    probabilities, _, labels = _labelled(predictions)
    confidence = probabilities.max(axis=1)
    excess = (probabilities.argmax(axis=1) == labels) - confidence
    bins = np.minimum((num_bins * confidence).astype(int), num_bins - 1)
    return float(np.abs(np.bincount(bins, excess)).sum() / len(labels))


def area_under_roc(scores, others):
    """P(score of one of the first > score of one of the others), ties half.

    Args:
        scores: `[n]`, of images of the kind trained on.
        others: `[m]`, of images of another kind.

    Returns:
        area: in [0, 1]; 1/2 where the scores tell nothing.
    """
    u = scipy.stats.mannwhitneyu(scores, others, method="asymptotic").statistic
    return float(u / (len(scores) * len(others)))


def _labelled(predictions):
    kept = predictions.labels >= 0
    if not kept.any():
        raise ValueError(
            "Expected labelled images. Received: none. An error needs labels."
        )
    return Predictions(*(part[kept] for part in predictions))
