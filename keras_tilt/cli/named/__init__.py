"""Networks, units and noise by the names that a command line gives them."""

from keras_tilt.cli.named.classes import class_names, load_names, names_of
from keras_tilt.cli.named.networks import (
    image_shape,
    load_model,
    load_network,
    network,
    num_classes,
    saved_model,
)
from keras_tilt.cli.named.pixels import (
    pixel_range,
    preprocessing,
    printed_range,
)
from keras_tilt.cli.named.references import noise
from keras_tilt.cli.named.units import (
    class_number,
    labels,
    layer_table,
    readable_sizes,
    unit_of,
)

__all__ = [
    "class_names",
    "class_number",
    "image_shape",
    "labels",
    "layer_table",
    "load_model",
    "load_network",
    "load_names",
    "names_of",
    "network",
    "noise",
    "num_classes",
    "pixel_range",
    "preprocessing",
    "printed_range",
    "readable_sizes",
    "saved_model",
    "unit_of",
]
