"""A training in phases that can be killed at any moment, and resumed.

    state after step t + 1 = step(state after step t, batch (epoch, t))

The state is weights, calibration, states of random generators, optimizer, metrics and
queue; a batch is a function of epoch and step alone. A resumed run therefore equals the
uninterrupted one, bit for bit where the steps are deterministic.

Source: the phases, Dai, Lu, Wu 2015, section 3.
"""

__all__ = ["Stopped", "train"]

import contextlib
import dataclasses
import functools
import importlib.util
import json
import os
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tilt import storage
from keras_tilt.training.calibration import (
    ColumnSums,
    column_sums,
    sum_of_passes,
)
from keras_tilt.training.classifier import GenerativeClassifier
from keras_tilt.training.phases import Phase, PhaseSequence
from keras_tilt.training.progress import ProgressBar
from keras_tilt.validation import check_count

_AGREE_EVERY = 10  # steps between two agreements of several workers whether to stop


class Stopped(SystemExit):
    """The run was asked to stop; its state is saved, and it can be resumed."""


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
    epoch. If one is lost, the others fail with an error of TensorFlow within a minute
    or so: start all of them again.

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
    training = _Training(model, PhaseSequence(phases, first_epoch), metrics, run)
    training.start_or_resume(first_epoch)
    total, done = training.steps()
    bar = ProgressBar(total, done, batch_size, progress and training.writes)
    with bar, _Signals() as signals:
        watch = _Watch(training, bar, signals, save_every)
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
    watch.last_step = step + int(read().cardinality())
    training.model.fit(
        training.in_parts(read) if phase.reads_parts else read(),
        validation_data=training.in_parts(validation),
        initial_epoch=epoch,
        epochs=epoch + 1,
        callbacks=[*callbacks, watch],
        shuffle=False,  # the order is that of the batches
        verbose=0,
    )


@dataclasses.dataclass
class _Place:
    """How far a run is; `phase` is -1 before the first one."""

    epoch: int
    phase: int = -1
    step: int = 0
    seconds: float = 0.0
    best: float = -1.0
    rows: list = dataclasses.field(default_factory=list)


class _Training:
    """A model in a run of several phases, and the folder of that run."""

    def __init__(self, model, phases, metrics, run):
        self.model, self.phases, self.run = model, phases, run
        self._metrics = list(metrics)
        self.place = None
        self.writes = model.distribute_strategy.extended.should_checkpoint
        self._in_epoch = None
        self._curves = None

    def start_or_resume(self, first_epoch):
        """Start a new run, or resume the one that the folder holds."""
        saved = self.run.load()
        self._check_shared(saved)
        self.place = _Place(first_epoch)
        if saved is not None:
            self._resume(saved)
        self._open()

    def next_phase(self):
        """Return the index of the phase of the next epoch; None after the last."""
        return self.phases.number_of(self.place.epoch)

    def steps(self):
        """Return the numbers of steps of the whole run, and of those that are done."""
        total, before = self.phases.steps_before(self.place.epoch)
        return total, before + self.place.step

    def of_workers(self, numbers):
        """Return the numbers of every replica, `[replicas, ...]`; alone, its own.

        This is a collective: all workers must call it, and each waits for the others.
        """
        own = tf.convert_to_tensor(numbers)[tf.newaxis]
        return (self._gathered(own) if self.model.has_workers else own).numpy()

    @tf.function
    def _gathered(self, own):
        def of_replica():
            here = tf.identity(own)  # on the device of the replica
            return tf.distribute.get_replica_context().all_gather(here, axis=0)

        strategy = self.model.distribute_strategy
        return strategy.experimental_local_results(strategy.run(of_replica))[0]

    def in_parts(self, read):
        """Return the data set of a function of a context: of this worker's parts.

        What is no function is a data set that is read whole.
        """
        if not callable(read):
            return read
        if not self.model.has_workers:
            return read(None)
        strategy = self.model.distribute_strategy
        return strategy.distribute_datasets_from_function(read)

    def _check_shared(self, saved):
        """Check that all workers resume one state, before any of them writes."""
        place = b"" if saved is None else str(saved["place"]).encode()
        found = self.of_workers(np.int64(zlib.crc32(place)))
        if len(set(found)) > 1:
            raise ValueError(
                "`directory` must be one folder that all workers share. Received: "
                f"{self.run.directory}, which is not in the same state for each. Pass "
                "one on a shared file system."
            )

    def begin(self, number, calibration, prior):
        """Begin a phase: calibrate if it asks for that, and compile."""
        if self.phases[number].calibrate:
            self._calibrate(calibration, prior)
        self._compile(number)
        self.place.phase = number

    def _calibrate(self, images, prior):
        """Calibrate by one pass, which several workers share if it can be shared.

        If moving statistics differ, their networks do; the calibration is one.
        """
        model = self.model
        if callable(images):
            images = images(model.input_context() if model.has_workers else None)
        sums = column_sums(model.network, images, model.num_classes)
        number = np.full(model.num_classes, sums.num_images)
        found = self.of_workers(np.float64([*sums[:3], number]))
        parts = [ColumnSums(*rows[:3], rows[3][0]) for rows in found]
        model.calibrate_by(sum_of_passes(parts), prior)

    def _compile(self, number):
        phase = self.phases[number]
        with self.model.distribute_strategy.scope():
            optimizer = phase.optimizer()
        self.model.compile(
            optimizer, phase.objective, queue=phase.queue, metrics=self._metrics
        )

    def _resume(self, saved):
        """Restore the model from a saved state."""
        self.place = _Place(**json.loads(str(saved["place"])))
        self._compile(self.place.phase)
        arrays = storage.parts_within(saved, "state ")
        self._assign(arrays)
        self._in_epoch = arrays if self.place.step else None

    def restore_metrics(self):
        """Restore what `fit` resets at its start, in the middle of an epoch."""
        if self._in_epoch is not None:
            self._assign(self._in_epoch)
            self._in_epoch = None

    def _assign(self, arrays):
        variables = self.model.training_state
        expected = [tuple(variable.shape) for variable in variables]
        received = [array.shape for array in arrays]
        if received != expected:
            raise ValueError(
                "`directory` must hold a run of this model. Received: "
                f"{self.run.directory}, of {len(received)} arrays; the model has "
                f"{len(expected)}, or other shapes. Pass another folder."
            )
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)

    def keep(self):
        """Replace the state on disk."""
        arrays = [
            tf.convert_to_tensor(variable).numpy()
            for variable in self.model.training_state
        ]
        if self.writes:
            place = np.array(json.dumps(dataclasses.asdict(self.place)))
            states = storage.under("state ", arrays)
            self.run.checkpoint({"place": place, **states})

    def end_epoch(self, row):
        """Add the row and save, models first: they are never older than the state."""
        place, accuracy = self.place, row.get("val_accuracy", -1.0)
        place.rows.append(row)
        if self.writes:
            storage.save_model(self.run.directory / "last.keras", self.model)
        if accuracy > place.best:
            place.best = accuracy
            with self.model.calibrated_by_recent_batches() as model:
                if self.writes:
                    storage.save_model(self.run.directory / "best.keras", model)
        place.epoch, place.step, place.seconds = place.epoch + 1, 0, 0.0
        self.keep()
        if self.writes:
            self._show([row])

    def _open(self):
        """Make the folder, with the rows of the state and no others."""
        if self.writes:
            self.run.create()
            self._curves = _new_curves(self.run.directory / "tensorboard")
            self._show(self.place.rows)

    def _show(self, rows):
        if self.place.rows:
            storage.write_table(self.run.directory / "summary.csv", self.place.rows)
        for row in rows:
            with self._curves.as_default(row["epoch"]):
                for name, value in row.items():
                    if isinstance(value, float):
                        tf.summary.scalar(name, value)
        self._curves.flush()


def _new_curves(directory):
    """Return a writer for TensorBoard, whose file replaces those of before."""
    if importlib.util.find_spec("tensorboard") is None:
        return tf.summary.create_noop_writer()
    for path in directory.glob("events.out.tfevents.*"):
        path.unlink()
    return tf.summary.create_file_writer(str(directory))


class _Watch(keras.callbacks.Callback):
    """Saves the state, stops the run after a signal, and moves the bar."""

    def __init__(self, training, bar, signals, save_every):
        super().__init__()
        self._training, self._bar, self._signals = training, bar, signals
        self._save_every, self._unsaved = save_every, 0
        self.last_step = None  # of the epoch

    def on_epoch_begin(self, epoch, logs=None):
        """Restore the metrics of an epoch that is resumed."""
        place = self._training.place
        self._training.restore_metrics()
        self._first_step, self._before = place.step, place.seconds
        self._started = time.monotonic()
        self._name = f"epoch {epoch + 1}/{self._training.phases.last_epoch}"
        self._bar.begin(self._name)

    def on_test_begin(self, logs=None):
        """Show it, as it can take long."""
        self._bar.rename(f"{self._name}, validating")

    def on_train_batch_end(self, batch, logs=None):
        """Save every so many steps, and stop after a signal."""
        place = self._training.place
        steps = self._first_step + batch + 1 - place.step
        place.step += steps
        place.seconds = self._before + time.monotonic() - self._started
        self._unsaved += steps
        self._bar.advance(steps)
        self._bar.show(logs, self.model.loss_name)
        if place.step == self.last_step:
            return  # saved after the epoch: a resumed `fit` would have no step left
        asked = self._asked(place.step)
        if self._unsaved >= self._save_every or asked:
            self._training.keep()
            self._unsaved = 0
        self._stop_if(asked)

    def on_epoch_end(self, epoch, logs=None):
        """Save the models, the row of the epoch, and the state."""
        place = self._training.place
        row = {
            "epoch": epoch + 1,
            "objective": self.model.objective,
            **logs,
            "learning_rate": float(
                tf.convert_to_tensor(self.model.optimizer.learning_rate)
            ),
            "seconds": round(place.seconds, 2),
        }
        self._bar.rename(self._name)
        self._training.end_epoch(row)
        self._unsaved = 0
        self._stop_if(self._asked(place.step))

    def _asked(self, step):
        """Return the signal to stop after, or 0: the same on every worker.

        If one stopped alone, the others would wait for it.
        """
        received = self._signals.received
        if not self.model.has_workers:
            return received
        if step % _AGREE_EVERY:
            return 0
        return int(self._training.of_workers(received).max())

    def _stop_if(self, number):
        place = self._training.place
        if not number:
            return
        if self._training.writes:
            self._bar.say(
                f"Stopped by {signal.Signals(number).name} and saved after epoch "
                f"{place.epoch}, step {place.step}. Run the same command to resume."
            )
        raise Stopped(128 + number)


class _Signals(contextlib.AbstractContextManager):
    """A context in which SIGTERM and SIGINT are noted; a second one acts as usual."""

    def __init__(self):
        self.received = 0
        self._before = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number, frame):
        self.received = number
        self._put_back()

    def __exit__(self, *error):
        self._put_back()

    def _put_back(self):
        while self._before:
            signal.signal(*self._before.popitem())
