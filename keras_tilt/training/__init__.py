"""Training by the generative gradient, the discriminative one, or a mix of both."""

from keras_tilt.training import evaluation
from keras_tilt.training.calibration import Calibration
from keras_tilt.training.centering import CenteredLogits, center_logits, recenter
from keras_tilt.training.classifier import GenerativeClassifier
from keras_tilt.training.losses import discriminative_loss, generative_loss, mixed_loss
from keras_tilt.training.optimizers import CaffeSGD, Continued, InverseDecay, WarmUp
from keras_tilt.training.runs.lost_workers import WorkerLost
from keras_tilt.training.runs.phases import Phase
from keras_tilt.training.runs.run import train
from keras_tilt.training.runs.watch import Stopped

__all__ = [
    "CaffeSGD",
    "Calibration",
    "CenteredLogits",
    "Continued",
    "GenerativeClassifier",
    "InverseDecay",
    "Phase",
    "Stopped",
    "WarmUp",
    "WorkerLost",
    "center_logits",
    "discriminative_loss",
    "evaluation",
    "generative_loss",
    "mixed_loss",
    "recenter",
    "train",
]
