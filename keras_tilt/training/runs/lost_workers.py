"""Several workers of one training: when one is lost, the others end with a sentence.

A step is a collective of all workers. If one does not answer, TensorFlow aborts the
collectives of all others: at once where its connections break, after missing
heartbeats else.
"""

__all__ = ["WorkerLost", "ends_if_one_is_lost"]

import contextlib
from collections.abc import Callable, Iterator

import tensorflow as tf

from keras_tilt import workers

# What TensorFlow says where a worker does not answer, but not of errors of its own.
_SIGNS = ("Collective ops is aborted", "oordination service", "CoordinationService")


class WorkerLost(ConnectionError):  # noqa: N818 (as Stopped: what happened)
    """Another worker was lost. The state that was saved last can be resumed."""


@contextlib.contextmanager
def ends_if_one_is_lost(
    strategy: tf.distribute.Strategy, said: Callable[[], str]
) -> Iterator[None]:
    """Within it the loss of another worker raises `WorkerLost`.

    Args:
        strategy: that of the model.
        said: returns a sentence on what is saved.
    """
    try:
        yield
    except tf.errors.OpError as error:
        context = workers.context_of(strategy)
        if context is None or not any(sign in error.message for sign in _SIGNS):
            raise
        raise WorkerLost(
            f"Expected all {context.num_input_pipelines} workers to go on. Received: "
            "one or more of the others were lost, or ended with an error of their own. "
            f"{said()} Start the same command on all workers, or on those that are "
            "left with a TF_CONFIG of them alone."
        ) from error
