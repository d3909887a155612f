"""The state of a training: a model, how far it is, and the folder that keeps both.

state = weights, calibration, random generators, optimizer, metrics, queue, place
"""

__all__ = ["Place", "Training"]

import dataclasses
import importlib.util
import json
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tilt import storage, workers
from keras_tilt.training.classifier import GenerativeClassifier
from keras_tilt.training.runs.phases import PhaseSequence, as_tensorflow


@dataclasses.dataclass
class Place:
    """How far a run is.

    Attributes:
        epoch: number of epochs that are done.
        phase: index of the phase that has begun; -1 before the first one.
        step: number of steps of this epoch that are done.
        seconds: that they took.
        best: highest val_accuracy so far.
        rows: of the epochs that are done.
    """

    epoch: int
    phase: int = -1
    step: int = 0
    seconds: float = 0.0
    best: float = -1.0
    rows: list = dataclasses.field(default_factory=list)


class Training:
    """A model in a run of several phases, and the folder of that run.

    Args:
        model: `GenerativeClassifier`.
        phases: `PhaseSequence`.
        metrics: as in `GenerativeClassifier.compile`.
        run: the folder.

    Attributes:
        place: how far it is.
        kept: epochs, and steps of the next one, of the state in the folder.
        writes: whether this is the one of several workers that does.
    """

    def __init__(
        self,
        model: GenerativeClassifier,
        phases: PhaseSequence,
        metrics: Iterable,
        run: storage.Run,
    ):
        self.model, self.phases, self.run = model, phases, run
        self._metrics = list(metrics)
        self.place = Place(0)
        self.kept: tuple[int, int] | None = None
        self.writes = model.distribute_strategy.extended.should_checkpoint
        self._in_epoch = None
        self._curves = None

    def start_or_resume(self, first_epoch: int) -> None:
        """Start a new run, or resume the one that the folder holds."""
        saved = self.run.load()
        self._check_shared(saved)
        self.place = Place(first_epoch)
        if saved is not None:
            self._resume(saved)
        self._open()

    def next_phase(self) -> int | None:
        """Return the index of the phase of the next epoch; None after the last."""
        return self.phases.number_of(self.place.epoch)

    def steps(self) -> tuple[int, int]:
        """Return the numbers of steps of the whole run, and of those that are done."""
        total, before = self.phases.steps_before(self.place.epoch)
        return total, before + self.place.step

    def said(self) -> str:
        """Return a sentence on what the folder holds."""
        if self.kept is None:
            return f"Nothing was saved in {self.run.directory} yet."
        epoch, step = self.kept
        return f"{self.run.directory} holds the state after epoch {epoch}, step {step}."

    def in_parts(self, read: Callable | Iterable | None) -> Any:
        """Return the data set of a function of a context: of this worker's parts.

        What is no function is a data set that is read whole.
        """
        if not callable(read):
            return as_tensorflow(read)
        return workers.in_parts(self.model.distribute_strategy, read)

    def _check_shared(self, saved):
        """Check that all workers resume one state, before any of them writes."""
        place = b"" if saved is None else str(saved["place"]).encode()
        own = np.int64(zlib.crc32(place))
        found = workers.gathered(self.model.distribute_strategy, own)
        if len(set(found)) > 1:
            raise ValueError(
                "`directory` must be one folder that all workers share. Received: "
                f"{self.run.directory}, which is not in the same state for each. Pass "
                "one on a shared file system."
            )

    def begin(
        self,
        number: int,
        calibration: Callable | Iterable | None,
        prior: ArrayLike | None,
    ) -> None:
        """Begin a phase: calibrate if it asks for that, and compile."""
        if self.phases[number].calibrate:
            self.model.calibrate(calibration, prior=prior)
        self._compile(number)
        self.place.phase = number

    def _compile(self, number):
        phase = self.phases[number]
        with self.model.distribute_strategy.scope():
            optimizer = phase.optimizer()
        self.model.compile(
            optimizer, phase.objective, queue=phase.queue, metrics=self._metrics
        )

    def _resume(self, saved):
        """Restore the model from a saved state."""
        self.place = Place(**json.loads(str(saved["place"])))
        self.kept = self.place.epoch, self.place.step
        self._compile(self.place.phase)
        arrays = storage.parts_within(saved, "state ")
        self._assign(arrays)
        self._in_epoch = arrays if self.place.step else None

    def restore_metrics(self) -> None:
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

    def keep(self) -> None:
        """Replace the state on disk."""
        arrays = [
            tf.convert_to_tensor(variable).numpy()
            for variable in self.model.training_state
        ]
        if self.writes:
            place = np.array(json.dumps(dataclasses.asdict(self.place)))
            states = storage.under("state ", arrays)
            self.run.checkpoint({"place": place, **states})
        self.kept = self.place.epoch, self.place.step

    def end_epoch(self, row: dict[str, Any]) -> None:
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
