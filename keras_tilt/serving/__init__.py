"""Samplers and classifiers as SavedModels that TensorFlow Serving runs."""

from keras_tilt.serving import servable
from keras_tilt.serving.classifier import ServedClassifier
from keras_tilt.serving.sampler import ServedSampler
from keras_tilt.serving.schedule import Schedule, planned

__all__ = [
    "Schedule",
    "ServedClassifier",
    "ServedSampler",
    "planned",
    "servable",
]
