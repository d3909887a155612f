"""Units f: one number per image, read from a network."""

from keras_tilt.units.algebra import Unit
from keras_tilt.units.random_views import RandomViews
from keras_tilt.units.selection import unit
from keras_tilt.units.statistics import FeatureStatistics, fit_feature_statistics

__all__ = [
    "FeatureStatistics",
    "RandomViews",
    "Unit",
    "fit_feature_statistics",
    "unit",
]
