"""A Keras callback that saves a run, moves its bar, and stops it after a signal."""

__all__ = ["AGREE_EVERY", "Stopped", "Watch"]

import signal
import time
from typing import Any

import keras
import tensorflow as tf

from keras_tilt import workers
from keras_tilt.training.compile_checks import objective_in_words
from keras_tilt.training.runs.progress import ProgressBar
from keras_tilt.training.runs.signals import Signals
from keras_tilt.training.runs.state import Training

AGREE_EVERY = 10  # steps between two agreements of several workers whether to stop


class Stopped(SystemExit):
    """The run was asked to stop; its state is saved, and it can be resumed."""


class Watch(keras.callbacks.Callback):
    """Saves the state, stops the run after a signal, and moves the bar.

    Args:
        training: what is trained.
        bar: its progress bar.
        signals: that are noted.
        save_every: steps between two saves.

    Attributes:
        last_step: number of steps of the epoch.
    """

    def __init__(
        self, training: Training, bar: ProgressBar, signals: Signals, save_every: int
    ):
        super().__init__()
        self._training, self._bar, self._signals = training, bar, signals
        self._save_every, self._unsaved = save_every, 0
        self.last_step = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Restore the metrics of an epoch that is resumed."""
        place = self._training.place
        self._training.restore_metrics()
        self._first_step, self._before = place.step, place.seconds
        self._started = time.monotonic()
        self._name = f"epoch {epoch + 1}/{self._training.phases.last_epoch}"
        self._bar.begin(self._name)

    def on_test_begin(self, logs: Any = None) -> None:
        """Show it, as it can take long."""
        self._bar.rename(f"{self._name}, validating")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
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

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Save the models, the row of the epoch, and the state."""
        place = self._training.place
        row = {
            "epoch": epoch + 1,
            "objective": objective_in_words(self.model.objective),
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
        strategy = self.model.distribute_strategy
        if not workers.several(strategy):
            return received
        if step % AGREE_EVERY:
            return 0
        return int(workers.gathered(strategy, received).max())

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
