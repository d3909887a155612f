"""A sweep over training schemes and seeds on MNIST, which goes on where it stood.

    GG to epoch s, calibrated = the start of GG+DG, which shares those records and model

so that the generative epochs of both schemes are trained once.
"""

__all__ = ["images", "sweep", "table", "table_of"]

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from tqdm import auto as tqdm

from keras_tilt import storage
from keras_tilt.data import mnist, pipelines
from keras_tilt.networks.architectures import lenet
from keras_tilt.training import results
from keras_tilt.training.classifier import GenerativeClassifier
from keras_tilt.training.optimizers import CaffeSGD, InverseDecay
from keras_tilt.training.runs import run as training

PAPER_ERROR = {"DG": 1.03, "GG": 0.85, "GG+DG": 0.76}  # from memory, unverified
PAPER_IMAGES = 60_000  # that it trains on
SWITCH = "generative_epochs"

Split = tuple[np.ndarray, np.ndarray]  # images and labels
Run = Mapping[str, Any]  # scheme, seed, and settings by the names of flags


class EpochEnd(keras.callbacks.Callback):
    """Moves the bar after every epoch, and keeps the model where it is wanted."""

    def __init__(self, run: Run, out: pathlib.Path, progress: tqdm.tqdm):
        super().__init__()
        self.run, self.out, self.progress = run, out, progress
        self.before = progress.n

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Keep of GG the model that GG+DG begins with, and of all the last."""
        done = epoch + 1
        begins_another = self.run["scheme"] == "GG" and done == self.run[SWITCH]
        if begins_another or done == self.run["epochs"]:
            storage.save_model(_checkpoint(self.run, self.out, done), self.model)
        error = _percent(logs["val_accuracy"])
        self.progress.set_postfix_str(f"test error {error:.2f} %", refresh=False)
        self.progress.n = self.before + done  # some of them before an interruption
        self.progress.refresh()


def images(embedded: bool, data_dir: str | None) -> tuple[Split, Split]:
    """Return the images and labels to train on, and those to test on.

    Raises:
        SystemExit: if there are none, with a message that says how to get them.
    """
    if embedded:
        return mnist.embedded_mnist()
    try:
        return mnist.load_mnist(data_dir)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f"{error}\nOr run with --embedded.") from error


def sweep(
    runs: Sequence[Run],
    train: Split,
    test: Split,
    records: pathlib.Path,
    out: pathlib.Path,
) -> None:
    """Train what is missing of each run, and record it.

    Args:
        runs: scheme, seed and settings of each.
        train: images and labels.
        test: the same.
        records: the file of what is found.
        out: the folder of models and runs.
    """
    total = sum(run["epochs"] for run in runs)
    with tqdm.tqdm(total=total, unit="epoch") as progress:
        for run in runs:
            progress.set_description(f"{run['scheme']} seed {run['seed']}")
            _train_run(run, train, test, records, out, progress)


def _train_run(run, train, test, file, out, progress):
    """Train one scheme with one seed from wherever it stands, and record it."""
    done, before = len(results.records_of(run, file)), progress.n
    if done == run["epochs"]:
        progress.update(done)
        return
    model, plan, shared = _starting_point(run, _phases(run, train), file, out)
    first_epoch = run["epochs"] - sum(phase.epochs for phase in plan)
    rows = training.train(
        model,
        plan,
        out / "runs" / (_name(run) + "-after-gg" * bool(shared)),
        settings=run,
        validation=_pixels(test, 500),
        calibration=_pixels(train, 500),
        first_epoch=first_epoch,
        callbacks=[EpochEnd(run, out, progress)],
        progress=False,
    )
    records = [*shared, *(_record(run, row) for row in rows)]
    if run["scheme"] == "GG":
        records[-1]["test_error_calibrated"] = _calibrated_error(model, train, test)
    results.append_records(file, records[done:])
    progress.n = before + run["epochs"]
    progress.refresh()


def _pixels(images_and_labels, batch_size, **order):
    """Return batches of pixels in [0, 255], which the network itself scales."""
    return pipelines.pipeline(*images_and_labels, batch_size, scale=1.0, **order)


def _phases(run, train):
    """Return DG, GG, or one after the other."""
    switch, last = run[SWITCH], run["epochs"]

    def phase(objective, epochs, rate, calibrate=False):
        def optimizer():
            return CaffeSGD(InverseDecay(rate))

        def batches(epoch, step):
            order = {"shuffle_seed": run["seed"], "first_epoch": epoch}
            return _pixels(train, run["batch_size"], **order, first_step=step)

        return training.Phase(
            objective, epochs, optimizer, batches, calibrate=calibrate
        )

    if run["scheme"] == "DG":
        return [phase("discriminative", last, run["learning_rate"])]
    if run["scheme"] == "GG":
        return [phase("generative", last, run["learning_rate"])]
    rates = run["learning_rate"], run["refining_learning_rate"]
    return [
        phase("generative", switch, rates[0]),
        phase("discriminative", last - switch, rates[1], run["calibrate"]),
    ]


def _starting_point(run, plan, file, out):
    """Return a new model and its phases; for GG+DG, GG's of that epoch and records."""
    shared = results.records_of({**run, "scheme": "GG"}, file)[: run[SWITCH]]
    path = _checkpoint({**run, "scheme": "GG"}, out, run[SWITCH])
    network = lenet(seed=run["seed"], scale=pipelines.PIXEL_SCALE)
    model = GenerativeClassifier(network)
    if run["scheme"] == "GG+DG" and len(shared) == run[SWITCH] and path.exists():
        model.set_weights(keras.models.load_model(path).get_weights())
        return model, plan[1:], [{**one, **run} for one in shared]
    return model, plan, []


def _record(run, row):
    """Return what is recorded of an epoch."""
    generative = row["objective"] == "generative"
    as_trained = "val_uncalibrated_accuracy" if generative else "val_accuracy"
    return {
        **run,
        "epoch": row["epoch"],
        "objective": row["objective"],
        "loss": row["loss"],
        "test_error": _percent(row[as_trained]),
        "test_error_calibrated": _percent(row["val_accuracy"]) if generative else None,
        "seconds": row["seconds"],
    }


def _calibrated_error(model, train, test):
    """Return it by a pass over the training images; epochs have the running Z_y."""
    model.calibrate(_pixels(train, 500))
    logits = model.predict(_pixels(test, 500), verbose=0)
    return _percent(np.mean(logits.argmax(axis=1) == test[1]))


def _percent(accuracy):
    """Return the error in %, of an accuracy in [0, 1]."""
    return round(100.0 * (1.0 - accuracy), 3)


def _name(run):
    """Return what the files of a run are called."""
    return f"{run['scheme'].lower().replace('+', '-')}-seed{run['seed']}"


def _checkpoint(run, out, epoch):
    """Return where the model of a run is kept after so many epochs."""
    return out / f"{_name(run)}-epoch{epoch:02d}.keras"


def table_of(records: pathlib.Path, settings: Run) -> str:
    """Return the table of a file of records."""
    return table(results.read_records(records), settings)


def table(records: Sequence[Run], settings: Run) -> str:
    """Return mean +- sd of the final test error per scheme, and DG paired with GG+DG.

    Args:
        records: of epochs.
        settings: of the runs that count.
    """
    of_paper = settings["train_images"] == PAPER_IMAGES
    final = {
        scheme: {
            r["seed"]: r
            for r in records
            if {"scheme": scheme, "epoch": settings["epochs"], **settings}.items()
            <= r.items()
        }
        for scheme in PAPER_ERROR
    }
    lines = [
        f"Test error in % after {settings['epochs']} epochs, mean +- sd over seeds",
        f"{'scheme':8}{'seeds':>6}{'as trained':>16}{'calibrated':>16}"
        f"{'paper*' if of_paper else '':>9}".rstrip(),
    ]
    for scheme, runs in final.items():
        raw = [r["test_error"] for r in runs.values()]
        calibrated = [r["test_error_calibrated"] for r in runs.values()]
        lines.append(
            f"{scheme:8}{len(runs):6}{results.mean_sd(raw):>16}"
            f"{results.mean_sd(calibrated):>16}"
            + (f"{PAPER_ERROR[scheme]:9.2f}" if of_paper else "")
        )
    if of_paper:
        lines.append("* from memory, unverified; one run")
    return "\n".join([*lines, *_compared(final["DG"], final["GG+DG"])])


def _compared(discriminative, refined):
    """Return the line of the paired test."""
    return results.paired_test(
        "DG", discriminative, "GG+DG", refined, lambda record: record["test_error"]
    )
