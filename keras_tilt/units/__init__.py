"""Units f: one number per image, read from a network."""

from keras_tilt.units.selection import Unit, unit

__all__ = [
    "Unit",
    "unit",
]
