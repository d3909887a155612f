"""Receptive fields: the pixels that a cell of an inner map can see."""

from keras_tilt.networks.receptive_fields.fields import ReceptiveField, receptive_field
from keras_tilt.networks.receptive_fields.unit_layers import LayerOfUnits, layers_of

__all__ = ["LayerOfUnits", "ReceptiveField", "layers_of", "receptive_field"]
