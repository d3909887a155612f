"""Segments of scenes: proposed once and kept in files, and what they are trained as."""

__all__ = ["Proposals", "Reader", "assignments"]

import functools
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tqdm import auto as tqdm

from keras_tilt import storage
from keras_tilt.masking import proposals, segments, superpixels
from keras_tilt.masking import scenes as labelled
from keras_tilt.masking.assignment import Assignment, assign
from keras_tilt.masking.scenes import Scenes
from keras_tilt.masking.segments import Segments

# The image of a number, and what its segments are trained as.
Reader = Callable[[int], tuple[np.ndarray, Assignment]]


class Proposals(NamedTuple):
    """Files of the proposed segments of images, OUT/SPLIT/NAME.npz."""

    folder: pathlib.Path
    proposed_by: str  # "proposals", or "superpixels", those that a server makes

    def make(self, scenes: Scenes, split: str) -> None:
        """Write the proposals of each image of a split that has none yet."""
        (self.folder / split).mkdir(parents=True, exist_ok=True)
        files = [self._file(scenes, split, i) for i in range(len(scenes))]
        missing = [i for i, file in enumerate(files) if not file.exists()]
        of_image = {
            "proposals": proposals.proposals,
            "superpixels": _superpixels(),
        }[self.proposed_by]
        for i in tqdm.tqdm(missing, desc=f"Proposals of {split}", unit="image"):
            found = segments.arrays(of_image(scenes[i].image))
            storage.replace(files[i], functools.partial(_write, arrays=found))

    def read(self, scenes: Scenes, split: str, i: int) -> Segments:
        """Return the proposals of an image."""
        return segments.of_file(self._file(scenes, split, i))

    def _file(self, scenes, split, i):
        return self.folder / split / f"{scenes.name(i)}.npz"


def _write(file, arrays):
    np.savez_compressed(file, **arrays)


def _superpixels():
    """Return the function of an image that gives the segments that a server makes."""
    pixels = tf.TensorSpec([None, None, 3], tf.uint8)
    graph = tf.function(superpixels.segments_of, [pixels], autograph=False)
    return lambda image: Segments(*(part.numpy() for part in graph(image)))


def assignments(
    scenes: Scenes, proposed: Proposals, pursuit: bool, smallest: int
) -> Reader:
    """Propose the segments of all scenes, and return a reader of their assignments.

    Args:
        scenes: to train on.
        proposed: the files of their segments.
        pursuit: whether segments of stuff are pursued; else stuff is an object.
        smallest: object that is trained on, pixels.
    """
    proposed.make(scenes, "train")
    stuff = scenes.stuff if pursuit else ()
    known = {}

    def read(i):
        scene = scenes[i]
        if i not in known:
            found = proposed.read(scenes, "train", i)
            known[i] = _assigned(scene, found, scenes, stuff, smallest)
        return scene.image, known[i]

    for i in tqdm.trange(len(scenes), desc="True segments", unit="image"):
        read(i)
    return read


def _assigned(scene, proposed, scenes, stuff, smallest):
    """Return proposals and true objects of a scene, and what they are trained as."""
    num_classes = len(scenes.class_names)
    classes = set(range(num_classes)) - {scenes.background}
    objects = labelled.objects(scene, classes - set(scenes.stuff))
    objects = [(c, mask) for c, mask in objects if mask.sum() >= smallest]
    for c in set(scenes.stuff) - set(stuff):
        objects += [(c, scene.labels == c)] * bool(np.any(scene.labels == c))
    if objects:
        true = segments.of_masks(np.stack([mask for _, mask in objects]))
        proposed = segments.joined(proposed, true)
    return assign(proposed, scene.labels, objects, num_classes, stuff)
