"""Several workers of one training: when one is lost, the others end with a sentence.

A step is a collective of all workers. If one does not answer, TensorFlow aborts the
collectives of all others: at once where its connections break, after missing
heartbeats else.
"""

__all__ = ["WorkerLost", "ends_if_one_is_lost"]

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from keras_tilt import workers
from keras_tilt.training.runs.state import Training

# What TensorFlow says where a worker does not answer, but not of errors of its own.
_SIGNS = ("Collective ops is aborted", "oordination service", "CoordinationService")


class WorkerLost(ConnectionError):  # noqa: N818 (as Stopped: what happened)
    """Another worker was lost. The state that was saved last can be resumed."""


@contextlib.contextmanager
def ends_if_one_is_lost(training: Training) -> Iterator[None]:
    """Within it the loss of another worker raises `WorkerLost`.

    Args:
        training: of which the folder is named.
    """
    try:
        yield
    except tf.errors.OpError as error:
        context = workers.context_of(training.model.distribute_strategy)
        if context is None or not any(sign in error.message for sign in _SIGNS):
            raise
        raise WorkerLost(
            f"Expected all {context.num_input_pipelines} "
            "workers to go on. Received: one or more of the others were lost, or ended "
            f"with an error of their own. {_said(training)} Start the same command on "
            "all workers, or on those that are left with a TF_CONFIG of them alone."
        ) from error


def _said(training):
    """Return a sentence on what the folder holds."""
    if training.kept is None:
        return f"Nothing was saved in {training.run.directory} yet."
    epoch, step = training.kept
    saved = f"the state after epoch {epoch}, step {step}"
    return f"{training.run.directory} holds {saved}."
