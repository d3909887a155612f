"""Draws of p(x) = exp(f(x)) q(x) / Z by Hamiltonian Monte Carlo, and their verdict."""

from keras_tilt.sampling.callbacks import UnitSamples
from keras_tilt.sampling.sampler import PAPER_LENET, sample
from keras_tilt.sampling.samples import Samples
from keras_tilt.sampling.tilt_scale import scale_for_signal
from keras_tilt.sampling.until import sample_until_converged
from keras_tilt.sampling.verdict.diagnostics import Diagnostics

__all__ = [
    "Diagnostics",
    "PAPER_LENET",
    "Samples",
    "UnitSamples",
    "sample",
    "sample_until_converged",
    "scale_for_signal",
]
