"""Convolutional feature masking: objects and stuff from one pass of a network.

    image -> features, once            image -> segments, their masks on the features
    masked features of a segment -> pyramid -> classes;    classes of segments -> labels

Source: Dai, He and Sun, "Convolutional feature masking for joint object and stuff
segmentation", CVPR 2015.
"""

from keras_tilt.masking import (
    examples,
    proposals,
    scenes,
    scores,
    segments,
    superpixels,
    svm,
)
from keras_tilt.masking.assignment import Assignment, assign, purities, pursue
from keras_tilt.masking.backbones import backbone
from keras_tilt.masking.labelling import RULES, found_objects, label_map, paste, vote
from keras_tilt.masking.layers import (
    FeatureMasking,
    MaskProjection,
    SpatialPyramidPooling,
)
from keras_tilt.masking.pooling import pyramid_pool
from keras_tilt.masking.projection import (
    Cells,
    cells_of,
    project_masks,
    project_segments,
)
from keras_tilt.masking.segmenter import DESIGNS, Segmenter
from keras_tilt.masking.segments.atoms import Segments

__all__ = [
    "DESIGNS",
    "RULES",
    "Assignment",
    "Cells",
    "FeatureMasking",
    "MaskProjection",
    "Segmenter",
    "Segments",
    "SpatialPyramidPooling",
    "assign",
    "backbone",
    "cells_of",
    "examples",
    "found_objects",
    "label_map",
    "paste",
    "project_masks",
    "project_segments",
    "proposals",
    "purities",
    "pursue",
    "pyramid_pool",
    "scenes",
    "scores",
    "segments",
    "superpixels",
    "svm",
    "vote",
]
