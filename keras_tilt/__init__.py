"""Any convolutional classifier as probability densities: p(x) = exp(f(x)) q(x) / Z."""

from keras_tilt import _start  # noqa: F401  (first: it imports TensorFlow quietly)
from keras_tilt import data, plotting
from keras_tilt.diagnostics import Diagnostics
from keras_tilt.importance import expectation, kish_ess, normalized_weights
from keras_tilt.model import Calibration, GenerativeClassifier
from keras_tilt.networks import lenet
from keras_tilt.objective import discriminative_loss, generative_loss, mixed_loss
from keras_tilt.optimizer import CaffeSGD, InverseDecay
from keras_tilt.reference import box, white_noise
from keras_tilt.sampler import PAPER_LENET, Samples, sample
from keras_tilt.tilt import Tilt
from keras_tilt.units import Unit, unit

__all__ = [
    "PAPER_LENET",
    "Calibration",
    "CaffeSGD",
    "Diagnostics",
    "GenerativeClassifier",
    "InverseDecay",
    "Samples",
    "Tilt",
    "Unit",
    "box",
    "data",
    "discriminative_loss",
    "expectation",
    "generative_loss",
    "kish_ess",
    "lenet",
    "mixed_loss",
    "normalized_weights",
    "plotting",
    "sample",
    "unit",
    "white_noise",
]
