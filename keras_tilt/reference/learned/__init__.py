"""Learned references: generators fitted to images, and how near their laws are."""

from keras_tilt.reference.learned.fitting import fit_latent

__all__ = ["fit_latent"]
