"""A training in phases that can be killed at any moment, and resumed.

    state after step t + 1 = step(state after step t, batch (epoch, t))

The state is weights, calibration, states of random generators, optimizer, metrics and
queue; a batch is a function of epoch and step alone. A resumed run therefore equals the
uninterrupted one, bit for bit where the steps are deterministic.

Source: the phases, Dai, Lu, Wu 2015, section 3.
"""

__all__ = ["train"]

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
from numpy.typing import ArrayLike

from keras_tilt import storage
from keras_tilt.training.classifier import GenerativeClassifier
from keras_tilt.training.runs.lost_workers import ends_if_one_is_lost
from keras_tilt.training.runs.phases import (
    Phase,
    PhaseSequence,
    as_tensorflow,
    num_batches,
)
from keras_tilt.training.runs.progress import ProgressBar
from keras_tilt.training.runs.signals import Signals
from keras_tilt.training.runs.state import Training
from keras_tilt.training.runs.watch import Watch
from keras_tilt.validation import check_count


def train(
    model: GenerativeClassifier,
    phases: Sequence[Phase],
    directory: str | os.PathLike,
    *,
    settings: Mapping[str, Any],
    validation: Iterable | Callable[..., Iterable] | None = None,
    calibration: Iterable | Callable[..., Iterable] | None = None,
    prior: ArrayLike | None = None,
    first_epoch: int = 0,
    save_every: int = 1000,
    batch_size: int = 1,
    callbacks: Iterable[keras.callbacks.Callback] = (),
    metrics: Iterable = ("accuracy",),
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Train a model in phases, or resume the training that a folder holds.

    SIGTERM and SIGINT let the step finish, save the state and raise `Stopped`; in the
    last step of an epoch and in its validation, they do so after the validation. A run
    that is killed otherwise loses at most `save_every` steps. Files in the folder, each
    replaced as a whole: run.json and state.npz; summary.csv, a row per epoch, and the
    same numbers in tensorboard/ if TensorBoard is installed; best.keras (highest
    val_accuracy) and last.keras. The accuracy of a generative epoch is that of outputs
    calibrated by rho and Z of its last batches; best.keras is calibrated so, last.keras
    is not. Under several replicas batch norm that is not synchronized has moving
    statistics of its own on each, as in Keras: those of the first replica are kept.

    With several workers, `tf.distribute.MultiWorkerMirroredStrategy`, each of them
    calls it with the same arguments, and a folder that they share. The chief writes and
    shows the bar. Each worker reads the parts of every batch that its replicas train
    on, where phases say `reads_parts`; else it reads whole batches. A signal to any of
    them stops all of them at the same step, the next multiple of ten or the end of the
    epoch. If one is lost, the others raise `WorkerLost` within a minute; as many
    workers as before, or fewer or more, go on from the state that was saved last.

    Args:
        model: `GenerativeClassifier`, new.
        phases: list of `Phase`.
        directory: folder of the run; new, empty, or that of the same run.
        settings: dict, of values that JSON can hold, of all that the result depends on.
            A run is resumed only with equal settings.
        validation: data set to evaluate after every epoch, or None; or a function that
            is called as the `batches` of a phase that reads parts, by a context alone.
        calibration: data set to calibrate by, or such a function; needed if a phase
            calibrates.
        prior: `[classes]` class probabilities; by default the shares in `calibration`.
        first_epoch: number of epochs that the model was trained for before.
        save_every: steps between two saves; the state is also saved after each epoch.
        batch_size: images in a step, for the progress bar.
        callbacks: Keras callbacks. There is a `fit` for each epoch; they are called
            before the state is saved, and again for the end of an epoch if the run is
            killed in between.
        metrics: as in `GenerativeClassifier.compile`.
        progress: whether to show a bar.

    Returns:
        rows: list of a dict for every epoch, by name: epoch (from 1), objective, the
            logs of `fit`, learning_rate and seconds.

    Raises:
        Stopped: after a signal.
        WorkerLost: a `ConnectionError`, if another worker was lost.
        ValueError: a folder that holds another run or a damaged one; bad batches;
            workers that do not see the same folder.
        OSError: the folder cannot be written; the state saved last is intact.
    """
    check_count("save_every", save_every, 1)
    if calibration is None and any(phase.calibrate for phase in phases):
        raise ValueError(
            "`calibration` must be a data set where a phase calibrates. Received: "
            "None. Pass the training images, without augmentation."
        )
    run = storage.Run(directory, settings)
    training = Training(model, PhaseSequence(phases, first_epoch), metrics, run)
    with ends_if_one_is_lost(model.distribute_strategy, training.said):
        training.start_or_resume(first_epoch)
        total, done = training.steps()
        bar = ProgressBar(total, done, batch_size, progress and training.writes)
        with bar, Signals() as signals:
            watch = Watch(training, bar, signals, save_every)
            while (number := training.next_phase()) is not None:
                if number != training.place.phase:
                    bar.begin("calibrating" if phases[number].calibrate else "")
                    training.begin(number, calibration, prior)
                _fit_epoch(training, phases[number], validation, callbacks, watch)
    return training.place.rows


def _fit_epoch(training, phase, validation, callbacks, watch):
    """Train on the rest of an epoch, and validate."""
    epoch, step = training.place.epoch, training.place.step
    read = functools.partial(phase.batches, epoch, step)
    watch.last_step = step + num_batches(read())
    training.model.fit(
        training.in_parts(read) if phase.reads_parts else as_tensorflow(read()),
        validation_data=training.in_parts(validation),
        initial_epoch=epoch,
        epochs=epoch + 1,
        callbacks=[*callbacks, watch],
        shuffle=False,  # the order is that of the batches
        verbose=0,
    )
