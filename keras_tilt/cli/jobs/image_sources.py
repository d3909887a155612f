"""Images by the name of a data set: those to train on, and those to test on.

    synthetic       made-up images, a colour for each class
    imagenet2012    the tars of ILSVRC-2012, what TFDS prepared, folders train and val,
                    or Tiny ImageNet as it is distributed
    NAME.npz        arrays
    cifar10         or another data set that TFDS has prepared

Nothing is downloaded.
"""

__all__ = ["named_images", "with_labels_of", "with_outliers"]

import dataclasses
import functools
import pathlib

import numpy as np

from keras_tilt.data import batches, sources
from keras_tilt.data.sources import Source
from keras_tilt.reference.outliers import outliers

ILSVRC = (1_281_167, 50_000)  # images, of 1,000 classes
SYNTHETIC = 256  # pixels along an edge
FITTED = 1_000  # images that outliers are fitted to, less if they have more values
LARGEST_FITTED = 2**26  # than this in all


def named_images(
    dataset: str, data_dir: pathlib.Path | None, seed: int, dry_run: bool = False
) -> tuple[Source, Source]:
    """Return the images to train on and those to test on.

    Args:
        dataset: a name, as above.
        data_dir: the folder of the images.
        seed: of made-up images.
        dry_run: whether images of the number and kind of ILSVRC-2012's will do, where
            it is not ready to be read.

    Raises:
        ValueError: for images that are not there, or cannot be used.
    """
    if dataset == "synthetic":
        made = functools.partial(sources.synthetic, (SYNTHETIC, SYNTHETIC, 3))
        return made(8, 128, seed), made(8, 32, seed + 1)
    if dry_run and dataset == "imagenet2012" and not _is_ready(data_dir):
        return _assumed_imagenet()
    if data_dir is None:
        raise ValueError(
            "Expected --data-dir, the folder of the images. Received: none, and "
            "KERAS_TILT_DATA is not set. Or try --dataset synthetic."
        )
    if dataset.endswith(".npz"):
        train = sources.npz(data_dir / dataset, "train")
        return train, sources.npz(data_dir / dataset, "test", train.class_names)
    if dataset != "imagenet2012":
        train, test = (
            sources.tfds_named(dataset, data_dir, s) for s in ("train", "test")
        )
        return train, test
    if sources.is_tiny_imagenet(data_dir):
        train, test = (
            sources.tiny_imagenet(data_dir, s) for s in ("train", "validation")
        )
        return train, test
    if (data_dir / "train").is_dir():
        train = sources.folder(data_dir / "train")
        return train, sources.folder(data_dir / "val", train.class_names)
    train, test = (sources.imagenet(data_dir, s) for s in ("train", "validation"))
    return train, test


def _is_ready(data_dir):
    """Return whether a folder has images that can be read at once."""
    found = ("train", "imagenet2012")
    return data_dir is not None and any((data_dir / name).is_dir() for name in found)


def _assumed_imagenet():
    """Return images of the number and the kind of ILSVRC-2012's, to plan for."""
    print("Assumed: ILSVRC-2012. Its tars are made into records first, 150 GB more.")
    made = functools.partial(sources.synthetic, (SYNTHETIC, SYNTHETIC, 3), 1000)
    return tuple(dataclasses.replace(made(n), image_shape=None) for n in ILSVRC)


def with_labels_of(
    train: Source,
    fraction: float | None,
    unlabelled: pathlib.Path | None,
    seed: int,
) -> Source:
    """Return the images with fewer labels, and with more images that have none.

    Args:
        train: the images.
        fraction: share of each class that keeps its label; None for all.
        unlabelled: a folder of more images, or None.
        seed: of which ones keep it.
    """
    if fraction is not None:
        train = sources.with_labelled_fraction(train, fraction, seed)
    if unlabelled is not None:
        train = sources.concatenated(
            train, sources.unlabelled(sources.folder(unlabelled))
        )
    return train


def with_outliers(
    train: Source,
    count: int,
    side: int,
    seed: int,
    corrupt: batches.Corrupt,
    dry_run: bool,
) -> Source:
    """Return the images and more, without label, that are unlike them.

    Args:
        train: the images.
        count: number of `keras_tilt.outliers`, which are kept in memory.
        side: shorter one of images of many sizes, pixels; outliers are squares of it.
        seed: of the outliers, and of which images they are fitted to.
        corrupt: what is done with images that cannot be read.
        dry_run: whether other noise will do, to which nothing is fitted.
    """
    height, width, channels = train.image_shape or (side, side, 3)
    if dry_run:
        made = sources.synthetic((height, width, channels), 1, count)
        return sources.concatenated(train, sources.unlabelled(made))
    fitted = min(FITTED, LARGEST_FITTED // (height * width * channels))
    some = batches.training_batches(
        train,
        batches.uniform_order(len(train.labels), seed, 0)[:fitted],
        100,
        seed=seed,
        epoch=0,
        crop=(height, width),
        shorter_side=None if train.image_shape else side,
        mirror=False,
        corrupt=corrupt,
    )
    pixels = np.uint8(np.round(outliers(some, count, seed)))
    made = sources.arrays(pixels, np.full(count, -1), train.class_names)
    return sources.concatenated(train, made)
