"""Where images are stored: image indices in, pixels or encoded bytes out.

    labels[i]   the class of image i, -1 if it has none
    fetch(I)    the elements of the images I, [k] -> [k, ...]
    decode(z)   the pixels of one element, uint8 [height, width, channels]

`keras_tilt.data.batches` makes batches of a source. Nothing is ever downloaded.
"""

from keras_tilt.data.sources.combined import (
    concatenated,
    unlabelled,
    with_labelled_fraction,
)
from keras_tilt.data.sources.image_folders import folder
from keras_tilt.data.sources.image_source import Source
from keras_tilt.data.sources.imagenet_archives import imagenet
from keras_tilt.data.sources.in_memory import arrays, npz
from keras_tilt.data.sources.noise_images import synthetic
from keras_tilt.data.sources.tfds_sources import tfds_named
from keras_tilt.data.sources.tiny_imagenet import is_tiny_imagenet, tiny_imagenet

__all__ = [
    "Source",
    "arrays",
    "concatenated",
    "folder",
    "imagenet",
    "is_tiny_imagenet",
    "npz",
    "synthetic",
    "tfds_named",
    "tiny_imagenet",
    "unlabelled",
    "with_labelled_fraction",
]
