"""Units f: one number per image, read from a network."""

from keras_tilt.units.algebra import Unit
from keras_tilt.units.selection import unit

__all__ = [
    "Unit",
    "unit",
]
