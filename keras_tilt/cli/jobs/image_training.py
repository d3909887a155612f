"""A classifier of images: built, trained from wherever its run stands, evaluated."""

__all__ = [
    "Plan",
    "Unreadable",
    "built",
    "errors",
    "evaluated",
    "synchronized",
    "table",
    "trained",
]

import contextlib
import functools
import json
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_tilt import storage
from keras_tilt.cli.jobs.image_batches import Images
from keras_tilt.cli.named import networks
from keras_tilt.data import batches
from keras_tilt.training import centering, evaluation
from keras_tilt.training.classifier import GenerativeClassifier
from keras_tilt.training.runs import run
from keras_tilt.training.runs.lost_workers import ends_if_one_is_lost

CROPS: Mapping[Literal["center", "five"], str] = {
    "center": "center crop",
    "five": "center + 4 corners",
}


class Plan(NamedTuple):
    """What is trained, and what a run of it depends on."""

    phases: Sequence[run.Phase]
    settings: Mapping[str, Any]  # by the names of flags
    save_every: int  # steps
    calibration: Callable[..., tf.data.Dataset]  # of the context of a worker, or None
    prior: np.ndarray | None  # rho [classes]


def built(
    network: str, images: Images, sync_batch_norm: bool, center_logits: bool
) -> GenerativeClassifier:
    """Return the model to train, of the network that is named."""
    classes = len(images.train.class_names)
    found = networks.network(network, images.shape(), classes, images.seed)
    if sync_batch_norm:
        found = synchronized(found)
    if center_logits:
        found = centering.center_logits(found)
    return GenerativeClassifier(found)


def synchronized(network: keras.Model) -> keras.Model:
    """Return a network of the same weights, with batch statistics of all replicas."""

    def copied(layer):
        config = layer.get_config()
        if isinstance(layer, keras.layers.BatchNormalization):
            config["synchronized"] = True
        return layer.__class__.from_config(config)

    found = keras.models.clone_model(network, clone_function=copied, recursive=True)
    found.set_weights(network.get_weights())
    return found


def trained(
    model: GenerativeClassifier, images: Images, out: pathlib.Path, plan: Plan
) -> dict[str, tuple[float, ...]]:
    """Train from wherever the run stands, and return the errors, by name.

    Of a model whose last phase is generative they are calibrated first, and then as it
    was trained; what was saved stays as it was trained.
    """
    writes = model.distribute_strategy.extended.should_checkpoint  # one of the workers
    if writes:
        _save_names(images.train.class_names, out)
    with Unreadable(images.corrupt, out / "unreadable.txt") as unreadable:
        run.train(
            model,
            plan.phases,
            out / "run",
            settings=_by_flag(plan.settings, images),
            validation=lambda context: images.evaluation(context=context),
            calibration=plan.calibration,
            prior=plan.prior,
            save_every=plan.save_every,
            batch_size=images.batch_size,
            callbacks=[unreadable],
            metrics=["accuracy", "sparse_top_k_categorical_accuracy"],
        )
        strategy, kept = model.distribute_strategy, f"{out / 'run'} holds the model."
        with ends_if_one_is_lost(strategy, lambda: f"The training is done; {kept}"):
            return _errors_at_end(model, images, plan)


def _errors_at_end(model, images, plan):
    if plan.phases[-1].objective != "generative":
        return errors(model, images)
    found = errors(model, images, ", uncalibrated")
    if plan.prior is not None:
        model.calibrate(plan.calibration, prior=plan.prior)
        found = errors(model, images) | found
    return found


def _by_flag(values, images):
    """Return what the result depends on, by flag."""
    settings = {
        f"--{name.replace('_', '-')}": value
        if isinstance(value, int | float)
        else str(value)
        for name, value in values.items()
    }
    return {**settings, "training images": len(images.train.labels)}


def _save_names(class_names: Sequence[str], out: pathlib.Path) -> None:
    """Write class_names.json, of which commands take the names of a model's classes."""
    text = json.dumps(list(class_names)) + "\n"
    out.mkdir(parents=True, exist_ok=True)
    storage.replace(out / "class_names.json", lambda part: part.write(text.encode()))


class Unreadable(keras.callbacks.Callback, contextlib.AbstractContextManager):
    """Writes down which images could not be read: after an epoch, and at the end.

    Of several workers each adds those of its parts to the file that they share.
    """

    def __init__(self, corrupt: batches.Corrupt, path: pathlib.Path):
        super().__init__()
        self.corrupt, self.path = corrupt, path

    def on_epoch_end(self, epoch: int | None, logs: Any = None) -> None:
        """Write all names so far, those of before an interruption among them."""
        if not self.corrupt.names:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with storage.locked(self.path.with_suffix(".lock")):
            before = self.path.read_text().splitlines() if self.path.exists() else []
            text = "\n".join(sorted({*before, *self.corrupt.names})) + "\n"
            storage.replace(self.path, lambda part: part.write(text.encode()))

    def __exit__(self, *error):
        self.on_epoch_end(None)
        if self.corrupt.names:
            print(f"Images that could not be read: {self.path}", file=sys.stderr)


def evaluated(path: pathlib.Path, images: Images) -> str:
    """Return the table of a saved model's errors.

    Raises:
        ValueError: for a model of other images or classes.
    """
    classes = len(images.train.class_names)
    model = networks.saved_model(path, images.shape(), classes)
    return table(errors(model, images), images)


def errors(
    model: keras.Model, images: Images, suffix: str = ""
) -> dict[str, tuple[float, ...]]:
    """Return top-1 and top-5 error, ECE, and ECE at a temperature, by name of crops."""
    found: dict[str, tuple[float, ...]] = {}
    for crops, name in CROPS.items():
        parts = functools.partial(images.evaluation, crops)
        predicted = evaluation.predictions(model, parts)
        found[name + suffix] = (
            evaluation.top_error(predicted, 1),
            evaluation.top_error(predicted, 5),
            evaluation.calibration_error(predicted),
            evaluation.calibration_error(evaluation.cross_tempered(predicted)[0]),
        )
    return found


def table(found: Mapping[str, tuple[float, ...]], images: Images) -> str:
    """Return a line for each way to cut and to calibrate."""
    columns = ("top-1 error", "top-5 error", "ECE", "tempered ECE")
    lines = [f"{'':34}" + "".join(f"{name:>13}" for name in columns)]
    for name, shares in found.items():
        lines.append(f"{name:34}" + "".join(f"{100 * s:13.2f}" for s in shares))
    return "\n".join(
        [
            *lines,
            f"in %, {len(images.test.labels):,} images; ECE: expected calibration "
            "error, of the probabilities as",
            "they are, and of each half of the images at the temperature of the other",
        ]
    )
