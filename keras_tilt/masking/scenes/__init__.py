"""Data sets of images with a class for every pixel, read one image at a time.

    labels[v, u]      the class of a pixel, -1 = void: no class, not evaluated
    instances[v, u]   the object that a pixel belongs to, 0 = none

PASCAL VOC 2012 with the annotations of SBD, PASCAL-Context, COCO panoptic, and .npz
files, each as distributed. Nothing is ever downloaded.
"""

from keras_tilt.masking.scenes.coco import coco_panoptic
from keras_tilt.masking.scenes.context import pascal_context
from keras_tilt.masking.scenes.labelled_images import Scene, Scenes, objects
from keras_tilt.masking.scenes.landscapes import synthetic
from keras_tilt.masking.scenes.npz_files import npz
from keras_tilt.masking.scenes.pascal_voc import voc, voc_and_sbd

__all__ = [
    "Scene",
    "Scenes",
    "coco_panoptic",
    "npz",
    "objects",
    "pascal_context",
    "synthetic",
    "voc",
    "voc_and_sbd",
]
