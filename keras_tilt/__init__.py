"""Any convolutional classifier as probability densities: p(x) = exp(f(x)) q(x) / Z."""

from keras_tilt import _start  # noqa: F401  (first: it imports TensorFlow quietly)
from keras_tilt import data, plotting, serving
from keras_tilt.data import batches, sources
from keras_tilt.networks import alexnet, convnet, lenet, receptive_field, zf_fast
from keras_tilt.partition import (
    LogPartition,
    expectation,
    generative_log_prob,
    kish_ess,
    log_partition,
    normalized_weights,
)
from keras_tilt.reference import (
    Spectrum,
    box,
    fit_spectrum,
    frequency_bands,
    latent,
    spectral_noise,
    squash,
    white_noise,
)
from keras_tilt.sampling import (
    PAPER_LENET,
    Diagnostics,
    Samples,
    UnitSamples,
    sample,
    scale_for_signal,
)
from keras_tilt.serving import servable
from keras_tilt.tilt import Tilt
from keras_tilt.training import (
    Calibration,
    CaffeSGD,
    Continued,
    GenerativeClassifier,
    InverseDecay,
    Phase,
    WarmUp,
    discriminative_loss,
    evaluation,
    generative_loss,
    mixed_loss,
    train,
)
from keras_tilt.units import Unit, unit

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
