"""References q: distributions of images x = T(z), as transports of white noise z."""

from keras_tilt.reference.distributions import (
    box,
    frequency_bands,
    spectral_noise,
    squash,
    white_noise,
)
from keras_tilt.reference.generators import latent
from keras_tilt.reference.heavy_tails import wavelet_noise
from keras_tilt.reference.learned import fit_components, fit_latent
from keras_tilt.reference.outliers import outliers
from keras_tilt.reference.spectrum import Spectrum, fit_spectrum, power_law
from keras_tilt.reference.sums import sum_of
from keras_tilt.reference.wavelets import Wavelets, fit_wavelets

__all__ = [
    "Spectrum",
    "Wavelets",
    "box",
    "fit_components",
    "fit_latent",
    "fit_spectrum",
    "fit_wavelets",
    "frequency_bands",
    "latent",
    "outliers",
    "power_law",
    "spectral_noise",
    "squash",
    "sum_of",
    "wavelet_noise",
    "white_noise",
]
