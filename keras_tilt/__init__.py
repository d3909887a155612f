"""Any convolutional classifier as probability densities: p(x) = exp(f(x)) q(x) / Z."""

from keras_tilt import _start  # noqa: F401  (first: it imports TensorFlow quietly)
from keras_tilt import data, plotting, serving
from keras_tilt.serving import servable
from keras_tilt.training import evaluation
from keras_tilt.data import batches
from keras_tilt.data import sources
from keras_tilt.sampling.callbacks import UnitSamples
from keras_tilt.sampling.diagnostics import Diagnostics
from keras_tilt.partition.importance import expectation, kish_ess, normalized_weights
from keras_tilt.training.classifier import Calibration, GenerativeClassifier
from keras_tilt.networks.architectures import alexnet, convnet, lenet, zf_fast
from keras_tilt.training.losses import discriminative_loss, generative_loss, mixed_loss
from keras_tilt.training.optimizers import CaffeSGD, Continued, InverseDecay, WarmUp
from keras_tilt.partition.estimators import (
    LogPartition,
    generative_log_prob,
    log_partition,
)
from keras_tilt.networks.receptive_fields import receptive_field
from keras_tilt.reference.distributions.distributions import (
    box,
    frequency_bands,
    latent,
    spectral_noise,
    squash,
    white_noise,
)
from keras_tilt.sampling.sampler import PAPER_LENET, sample
from keras_tilt.sampling.samples import Samples
from keras_tilt.sampling.tilt_scale import scale_for_signal
from keras_tilt.reference.distributions.spectrum import Spectrum, fit_spectrum
from keras_tilt.tilt import Tilt
from keras_tilt.training.run import Phase, train
from keras_tilt.units.selection.selection import Unit, unit

__all__ = [
    "PAPER_LENET",
    "Calibration",
    "CaffeSGD",
    "Continued",
    "Diagnostics",
    "GenerativeClassifier",
    "InverseDecay",
    "LogPartition",
    "Phase",
    "Samples",
    "Spectrum",
    "Tilt",
    "Unit",
    "UnitSamples",
    "WarmUp",
    "alexnet",
    "batches",
    "box",
    "convnet",
    "data",
    "discriminative_loss",
    "evaluation",
    "expectation",
    "fit_spectrum",
    "frequency_bands",
    "generative_log_prob",
    "generative_loss",
    "kish_ess",
    "latent",
    "lenet",
    "log_partition",
    "mixed_loss",
    "normalized_weights",
    "plotting",
    "receptive_field",
    "sample",
    "scale_for_signal",
    "servable",
    "serving",
    "sources",
    "spectral_noise",
    "squash",
    "train",
    "unit",
    "white_noise",
    "zf_fast",
]
