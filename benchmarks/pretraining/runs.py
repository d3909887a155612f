"""A run of the benchmark: a network, trained by a scheme, and what it then is."""

__all__ = ["trained"]

import dataclasses
import functools
import hashlib
import json

import tensorflow as tf
from images import with_outliers
from networks import network
from schemes import OUTLIERS, phases

import keras_tilt as kt
from keras_tilt.data import batches, sources
from keras_tilt.training import evaluation

CALIBRATED_ON = 10_000  # training images, as they are
OUTLIERS_DRAWN = 10_000


def trained(run, train, test, strangers, out):
    """The record of a run: its settings, its course, and errors at the end."""
    if "10%" in run["scheme"]:
        train = sources.with_labelled_fraction(train, 0.1, run["seed"])
    some = functools.partial(first, train, CALIBRATED_ON, run["seed"])
    if run["scheme"] in OUTLIERS:
        kinds = OUTLIERS[run["scheme"]]
        train = with_outliers(train, OUTLIERS_DRAWN, run["size"], kinds)
    model = kt.GenerativeClassifier(network(run, len(train.class_names)))
    digest = hashlib.sha256(json.dumps(run).encode()).hexdigest()[:8]
    name = "".join(c if c.isalnum() else "-" for c in run["scheme"])
    views = functools.partial(
        batches.evaluation_batches, batch_size=500, crop=(run["size"], run["size"])
    )
    some = views(some())
    rows = kt.train(
        model,
        phases(run, train),
        out / f"{name}-seed{run['seed']}-{digest}",
        settings=run,
        validation=views(test),
        calibration=some,
        batch_size=run["batch_size"],
    )
    found = {
        "train_accuracy": rows[-1]["accuracy"],
        "seconds": round(sum(row["seconds"] for row in rows), 1),
        "course": course(rows),
        "raw": measured(evaluation.predictions(model, views(test))),
    }
    model.calibrate(some)
    predicted = evaluation.predictions(model, views(test))
    others = {
        name: evaluation.predictions(model, views(images)).scores
        for name, images in strangers.items()
    }
    return {
        **run,
        **found,
        "calibrated": measured(predicted) | {"auroc": areas(predicted.scores, others)},
    }


def first(source, count, seed):
    """So many images of an order at random; labels that are missing stay so."""
    order = batches.uniform_order(len(source.labels), seed, 0)[:count]
    return dataclasses.replace(
        source,
        labels=source.labels[order],
        fetch=lambda numbers: source.fetch(tf.gather(order, numbers)),
    )


def course(rows):
    """Epoch by epoch: test errors in %, of outputs as they are and calibrated by those
    of recent batches, and Kish's effective sample size, of a batch of images."""
    return [
        {
            "error": round(100 * (1 - row["val_accuracy"]), 2),
            "uncalibrated": row.get("val_uncalibrated_accuracy")
            and round(100 * (1 - row["val_uncalibrated_accuracy"]), 2),
            "kish_ess": row.get("kish_ess") and round(row["kish_ess"], 2),
        }
        for row in rows
    ]


def measured(found):
    """Errors in %, of probabilities as they are and at the best temperature."""
    tempered, temperature = evaluation.cross_tempered(found)
    return {
        "error": round(100 * evaluation.top_error(found), 3),
        "top5": round(100 * evaluation.top_error(found, 5), 3),
        "ece": round(100 * evaluation.calibration_error(found), 3),
        "tempered_ece": round(100 * evaluation.calibration_error(tempered), 3),
        "temperature": round(temperature, 3),
    }


def areas(scores, others):
    """Those under the ROC curve of log p(x), of the test images against others."""
    return {
        name: round(evaluation.area_under_roc(scores, of_others), 4)
        for name, of_others in others.items()
    }
