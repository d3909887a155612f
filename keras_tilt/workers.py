"""Several workers of one program: which this one is, and what all of them have.

A worker is a process, one of those that TF_CONFIG lists; each has one replica of a
model or more. Functions that say so are collectives: all workers must call them, and
each waits for the others.
"""

__all__ = ["context_of", "gathered", "in_parts", "several"]

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike


def several(strategy: tf.distribute.Strategy) -> bool:
    """Return whether the replicas of a strategy are in several processes.

    Args:
        strategy: that of a model, `distribute_strategy`.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return False
    return sum(_numbers(strategy)) > 1


def context_of(strategy: tf.distribute.Strategy) -> tf.distribute.InputContext | None:
    """Return which of several workers this one is, or None.

    Args:
        strategy: that of a model.
    """
    if not several(strategy):
        return None
    chiefs, workers = _numbers(strategy)
    resolver = strategy.cluster_resolver
    before = chiefs if resolver.task_type == "worker" else 0
    return tf.distribute.InputContext(
        num_input_pipelines=chiefs + workers,
        input_pipeline_id=before + resolver.task_id,
        num_replicas_in_sync=strategy.num_replicas_in_sync,
    )


def _numbers(strategy):
    """Return those of chiefs and of workers."""
    cluster = strategy.cluster_resolver.cluster_spec().as_dict()
    return [len(cluster.get(job, [])) for job in ("chief", "worker")]


def in_parts(strategy: tf.distribute.Strategy, read: Callable) -> Any:
    """Return a data set of which each of several workers has its parts alone.

    Args:
        strategy: that of a model.
        read: function of a context, as `context_of` returns it, that returns the data
            set.
    """
    if not several(strategy):
        return read(None)
    return strategy.distribute_datasets_from_function(read)


def gathered(strategy: tf.distribute.Strategy, numbers: ArrayLike) -> np.ndarray:
    """Return the numbers of every worker, `[workers, ...]`; alone, its own.

    A collective.

    Args:
        strategy: that of a model.
        numbers: of this worker, of a shape that is the same on all.
    """
    own = tf.convert_to_tensor(numbers)[tf.newaxis]
    if not several(strategy):
        return own.numpy()
    of_replicas = _gathering(strategy)(own).numpy()
    return of_replicas[:: len(of_replicas) // sum(_numbers(strategy))]


@functools.cache
def _gathering(strategy):
    """Return the function that gathers, traced once for each kind of number."""

    def of_replica(own):
        here = tf.identity(own)  # on the device of the replica
        return tf.distribute.get_replica_context().all_gather(here, axis=0)

    @tf.function
    def gather(own):
        of_all = strategy.run(of_replica, (own,))
        return strategy.experimental_local_results(of_all)[0]

    return gather
