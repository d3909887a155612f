"""Images and labels: where they are stored, their order, and their batches."""

from keras_tilt.data import batches, sources
from keras_tilt.data.mnist import embedded_mnist, load_mnist
from keras_tilt.data.pipelines import PIXEL_SCALE, pipeline

__all__ = [
    "PIXEL_SCALE",
    "batches",
    "embedded_mnist",
    "load_mnist",
    "pipeline",
    "sources",
]
