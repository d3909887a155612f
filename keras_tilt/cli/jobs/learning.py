"""A reference learned from images by name, and what a newcomer is told of its law.

    DATA -> images, held-out images -> generator, its law as lines, a picture

DATA is as `keras-tilt reference` takes it.
"""

__all__ = [
    "held_out_arrays",
    "image_pairs",
    "law_of_before",
    "law_table",
    "write",
]

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_tilt import plotting, storage
from keras_tilt.cli.jobs.image_sources import named_images
from keras_tilt.data import batches, sources
from keras_tilt.data.mnist import embedded_mnist
from keras_tilt.networks.image_generator import ImageGenerator
from keras_tilt.networks.principal_path import PrincipalGenerator

EMBEDDED = "digits"
_BATCH = 100
_SHOWN = 24  # draws in the picture, in rows of 12
# Of `ImageGenerator.law`: how each number is said.
_WORDS = {
    "two_sample_accuracy": "accuracy of a network that tells its images from real ones",
    "two_sample_coarse": "the same of images made four times smaller",
    "coverage": "of held-out images have one of its as near as their fifth other",
    "coverage_of_images": "the same of images of the data in its place",
    "class_distance": "distance of the shares of classes, 0 to 1",
    "unexplained": "of the variance of held-out images is lost when they are decoded",
    "reconstruction_error": "root mean square of what is lost, as a share of white",
    "bound": "nats a pixel: bound on log p of held-out images",
}


def image_pairs(
    data: str, data_dir: pathlib.Path | None, size: int | tuple[int, int] | None
) -> tuple[Any, Any]:
    """Return images with labels to fit to, and those held out, None for a tenth.

    Args:
        data: "digits", the embedded ones; NAME.npz; a folder of images, or of train and
            val, or Tiny ImageNet; or a data set that TFDS has prepared.
        data_dir: of the last.
        size: pixels along an edge, or (height, width), to which the images are scaled
            and cropped; None for images of one size as they are.

    Raises:
        ValueError: for images that are not there, or of several sizes without `size`.
    """
    train, test = _sources_of(data, data_dir)
    return _pairs_of(train, size), None if test is None else _pairs_of(test, size)


def _sources_of(data, data_dir):
    """Images to fit to, and those held out or None."""
    path = pathlib.Path(data)
    if data == EMBEDDED:
        return [sources.arrays(*pair) for pair in embedded_mnist()]
    if path.is_dir() and not (path / "train").is_dir():
        return sources.folder(path), None
    if path.is_dir():
        return named_images("imagenet2012", path, seed=0)  # or in the layout of it
    if data.endswith(".npz"):
        data, data_dir = path.name, path.parent
    return named_images(data, data_dir, seed=0)


def held_out_arrays(data: str, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the held-out images and labels of a data set, in memory.

    Args:
        data: as in `image_pairs`, with held-out images.
        high: white, of the pixels that are returned; black is 0.

    Raises:
        ValueError: for images that are not there, or a folder without val.
    """
    _, held_out = image_pairs(data, None, None)
    if held_out is None:
        raise ValueError(
            f"Expected a data set with held-out images. Received: {data}. Pass a "
            "folder of train and val, digits, or NAME.npz."
        )
    parts = held_out.as_numpy_iterator()
    images, labels = map(np.concatenate, zip(*parts, strict=True))
    return images.astype(np.float32) * (high / 255), labels


def _pairs_of(source, size):
    """Batches of images and labels of a source."""
    if size is None and source.image_shape is None:
        raise ValueError(
            "Expected --size for images of several sizes. Received: none. Pass the "
            "pixels along an edge, for example --size 32."
        )
    if size is None:
        crop = source.image_shape[:2]
        return batches.evaluation_batches(source, _BATCH, crop=crop)
    crop = (size, size) if isinstance(size, int) else size
    longer = max(crop)  # so that any image has a part of this shape
    return batches.evaluation_batches(source, _BATCH, crop=crop, shorter_side=longer)


def law_table(law: Mapping[str, float] | None) -> str:
    """Return the law of a generator as text, a line for each number; None has none."""
    law = law or {}
    return "\n".join(
        f"{law[name]:8.3f}  {words}" for name, words in _WORDS.items() if name in law
    )


def law_of_before(
    out: pathlib.Path, settings: Mapping[str, Any]
) -> Mapping[str, float] | None:
    """Return the law of the generator that is there, or None if there is none.

    Args:
        out: .keras file.
        settings: by which one is to be fitted.

    Raises:
        ValueError: for a file of something else, or a generator of other settings.
    """
    if not out.exists():
        return None
    record = out.with_suffix(".json")
    found = json.loads(record.read_text()) if record.is_file() else {}
    if found.get("settings") != dict(settings):
        raise ValueError(
            f"Expected a new --out, or the one of these settings. Received: {out}, "
            f"which holds something else: {found.get('settings')}. Pass another file, "
            "or --force to write over it."
        )
    return found["law"]


def write(
    out: pathlib.Path,
    generator: ImageGenerator | PrincipalGenerator,
    settings: Mapping[str, Any],
) -> None:
    """Write the generator, and beside it its law and a picture of its images.

    Args:
        out: .keras file.
        generator: fitted.
        settings: by which it was.
    """
    storage.save_model(out, generator)
    numbers = {"settings": settings, "law": generator.law}
    out.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n")
    noise = tf.random.stateless_normal([_SHOWN, generator.latent_size], [0, 7])
    plotting.image_grid(
        generator(noise),
        columns=_SHOWN // 2,
        low=generator.low,
        high=generator.high,
        title="Draws of the learned reference",
    ).savefig(out.with_suffix(".png"), dpi=80)
