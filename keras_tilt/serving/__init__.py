"""Samplers and classifiers as SavedModels that TensorFlow Serving runs."""

from keras_tilt.serving import servable
from keras_tilt.serving.sampler import (
    Schedule,
    ServedClassifier,
    ServedSampler,
    planned,
)

__all__ = [
    "Schedule",
    "ServedClassifier",
    "ServedSampler",
    "planned",
    "servable",
]
