"""Partition functions Z = E_q[exp f], and what they normalize."""

from keras_tilt.partition.densities import generative_log_prob
from keras_tilt.partition.estimators import LogPartition, log_partition
from keras_tilt.partition.importance import (
    expectation,
    kish_ess,
    normalized_log_weights,
    normalized_weights,
)

__all__ = [
    "LogPartition",
    "expectation",
    "generative_log_prob",
    "kish_ess",
    "log_partition",
    "normalized_log_weights",
    "normalized_weights",
]
