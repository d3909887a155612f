"""Learned references: generators fitted to images, and how near their laws are."""

from keras_tilt.reference.learned.components import fit_components
from keras_tilt.reference.learned.fitting import fit_latent

__all__ = ["fit_components", "fit_latent"]
