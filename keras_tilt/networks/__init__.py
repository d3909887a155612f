"""Convolutional networks of the papers, and how any network is read."""

from keras_tilt.networks.architectures import (
    ILSVRC_MEAN,
    LocalResponseNormalization,
    SplitConv2D,
    alexnet,
    lenet,
    small_alexnet,
    zf_fast,
)
from keras_tilt.networks.convnets import convnet, pooled_convnet
from keras_tilt.networks.image_generator import ImageGenerator
from keras_tilt.networks.principal_path import PrincipalGenerator
from keras_tilt.networks.receptive_fields import (
    ReceptiveField,
    layers_of,
    receptive_field,
)

__all__ = [
    "ILSVRC_MEAN",
    "ImageGenerator",
    "PrincipalGenerator",
    "LocalResponseNormalization",
    "ReceptiveField",
    "SplitConv2D",
    "alexnet",
    "convnet",
    "layers_of",
    "lenet",
    "pooled_convnet",
    "receptive_field",
    "small_alexnet",
    "zf_fast",
]
