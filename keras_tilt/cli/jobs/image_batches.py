"""Batches of images to train on and to test on: how they are cut, ordered, prepared."""

__all__ = ["Images", "opened", "prior_of", "views"]

import pathlib
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

from keras_tilt.cli.jobs.image_sources import (
    named_images,
    with_labels_of,
    with_outliers,
)
from keras_tilt.cli.named.networks import load_network
from keras_tilt.cli.named.pixels import preprocessing
from keras_tilt.data import batches
from keras_tilt.data.sources import Source

# Pixels of the crop. Others take the size of the images, or else of SMALL, or 224.
SIZES = {
    "alexnet": 227,
    "zf_fast": 224,
    "InceptionResNetV2": 299,
    "InceptionV3": 299,
    "Xception": 299,
    "NASNetLarge": 331,
}
SMALL = {"lenet": 28, "convnet": 32, "pooled_convnet": 32, "small_alexnet": 64}

# Of one of several workers.
Context: TypeAlias = tf.distribute.InputContext | None


class Images(NamedTuple):
    """Images to train on and to test on, and how they are cut and put in batches."""

    train: Source
    test: Source
    corrupt: batches.Corrupt
    batch_size: int
    seed: int
    crop: tuple[int, int]  # height and width, pixels
    shorter_side: int | None  # pixels, before the crop
    pad: int  # pixels
    mirror: bool
    preprocess: str  # of `named.preprocessing`
    classes_per_batch: int | None
    labelled_per_batch: int | None

    def epoch(
        self, labelled_only: bool, epoch: int, step: int, context: Context = None
    ) -> tf.data.Dataset:
        """Return the batches of an epoch from a step on, or parts of a worker."""
        return self._batches(self._order(labelled_only, epoch), epoch, step, context)

    def steps(self, labelled_only: bool) -> int:
        """Return the number of batches of an epoch, without making them."""
        return max(1, len(self._order(labelled_only, 0)) // self.batch_size)

    def calibration(self, count: int, context: Context = None) -> tf.data.Dataset:
        """Return so many images of the first epoch, whose crops are draws of q."""
        order = batches.uniform_order(len(self.train.labels), self.seed, 0)[:count]
        return self._batches(order, 0, 0, context)

    def evaluation(
        self, crops: Literal["center", "five"] = "center", context: Context = None
    ) -> tf.data.Dataset:
        """Return the test images, one crop or five each."""
        images = self.batch_size if crops == "center" else -(-self.batch_size // 5)
        return self._prepared(
            batches.evaluation_batches(
                self.test,
                images,
                crop=self.crop,
                shorter_side=self.shorter_side,
                crops=crops,
                corrupt=self.corrupt,
                context=context,
            )
        )

    def shape(self) -> tuple[int, int, int]:
        """Return that of what the network sees; files are read in colour."""
        channels = self.train.image_shape[2] if self.train.image_shape else 3
        return (*self.crop, channels)

    def class_shares(self) -> np.ndarray:
        """Return rho [classes], of the labelled images."""
        labels = self.train.labels[self.train.labels >= 0]
        counts = np.bincount(labels, minlength=len(self.train.class_names))
        return counts / counts.sum()

    def _order(self, labelled_only, epoch):
        labels, place = self.train.labels, (self.seed, epoch)
        if self.classes_per_batch:  # leaves images without label out
            share = self.classes_per_batch
            return batches.by_classes(labels, self.batch_size, share, *place)
        if labelled_only and labels.min() < 0:
            labelled = np.flatnonzero(labels >= 0)
            return labelled[batches.uniform_order(len(labelled), *place)]
        if self.labelled_per_batch and not labelled_only:
            share = self.labelled_per_batch
            return batches.by_labelled(labels, self.batch_size, share, *place)
        return batches.uniform_order(len(labels), *place)

    def _batches(self, order, epoch, step, context):
        return self._prepared(
            batches.training_batches(
                self.train,
                order,
                self.batch_size,
                seed=self.seed,
                epoch=epoch,
                crop=self.crop,
                first_step=step,
                shorter_side=self.shorter_side,
                pad=self.pad,
                mirror=self.mirror,
                corrupt=self.corrupt,
                drop_remainder=len(order) >= self.batch_size,
                context=context,
            )
        )

    def _prepared(self, dataset):
        if self.preprocess == "none":
            return dataset
        prepare = preprocessing(self.preprocess)

        @tf.autograph.experimental.do_not_convert
        def prepared(images, labels):
            return prepare(images), labels

        return dataset.map(prepared)


def opened(
    network: str,
    *,
    dataset: str,
    data_dir: pathlib.Path | None,
    dry_run: bool,
    labelled_fraction: float | None,
    unlabelled: pathlib.Path | None,
    outliers: int,
    size: int | None,
    shorter_side: int | None,
    pad: int | None,
    max_corrupt: float,
    seed: int,
    **others,
) -> Images:
    """Return the images of a data set, cut as suits a network.

    Args:
        network: name or .keras file of the network that is to see them.
        dataset: name, as in `keras_tilt.cli.jobs.image_sources`.
        data_dir: the folder of the images.
        dry_run: whether made-up images of the same shape will do.
        labelled_fraction: share of each class that keeps its label, or None.
        unlabelled: a folder of more images, or None.
        outliers: number of images unlike them, without label.
        size: of the crop, pixels; None for the network's own.
        shorter_side: before the crop, pixels, or None.
        pad: border, pixels, or None.
        max_corrupt: share of the images that may be unreadable.
        seed: of made-up images, and of the order.
        **others: of `Images`.

    Raises:
        ValueError: for images that cannot be used.
    """
    train, test = named_images(dataset, data_dir, seed, dry_run)
    train = with_labels_of(train, labelled_fraction, unlabelled, seed)
    crop, shorter_side, pad = views(train, network, size, shorter_side, pad)
    if outliers:
        side = shorter_side or max(crop)
        corrupt = batches.Corrupt(max_corrupt)
        train = with_outliers(train, outliers, side, seed, corrupt, dry_run)
    images = Images(
        train,
        test,
        batches.Corrupt(max_corrupt),
        crop=crop,
        shorter_side=shorter_side,
        pad=pad,
        seed=seed,
        **others,
    )
    _check(images)
    return images


def views(
    source: Source,
    network: str,
    size: int | None,
    shorter_side: int | None,
    pad: int | None,
) -> tuple[tuple[int, int], int | None, int]:
    """Return crop, shorter side and border: those given, or what suits the images.

    Args:
        source: of the images.
        network: name or .keras file.
        size: of the crop, pixels, or None.
        shorter_side: of the image before the crop, pixels, or None.
        pad: border, pixels, or None.

    Raises:
        ValueError: for a crop that is larger than the images.
    """
    smallest = min(source.image_shape[:2]) if source.image_shape else None
    own = _taken_by(network) or 2 * (smallest or SMALL.get(network, 224),)
    crop = (size, size) if size else own
    size = max(crop)
    if shorter_side is None and smallest is None:
        shorter_side = 8 * round(size / 7)  # 256 of AlexNet's 227
    if smallest is not None and shorter_side is None and size > smallest:
        raise ValueError(
            f"Expected --size of at most {smallest} pixels, those of the images. "
            f"Received: {size}, of --network {network} unless it was given. Pass "
            "--shorter-side to enlarge the images, or another --network."
        )
    if pad is None:
        pad = size // 8 if size == smallest else 0
    return crop, shorter_side, pad


def _taken_by(network):
    """Return height and width of a network's own images; None of one for any."""
    if not network.endswith(".keras"):
        size = SIZES.get(network)
        return size and (size, size)
    found = load_network(pathlib.Path(network))
    shape = getattr(found, "input_shape", None)
    known = isinstance(shape, tuple) and len(shape) == 4 and None not in shape[1:3]
    return shape[1:3] if known else None


def _check(images):
    """Raise unless there are two classes, whose crops fit, and colours if need be."""
    names = images.train.class_names
    if len(names) < 2 or images.train.labels.max() < 0:
        raise ValueError(
            "Expected labelled images of two classes or more, of each a folder. "
            f"Received: {len(names)} classes. Put every class into a folder of its own."
        )
    if images.preprocess in ("caffe", "torch") and images.shape()[2] != 3:
        raise ValueError(
            "Expected images in colour, of which --preprocess "
            f"{images.preprocess} takes the mean. Received: images of shape "
            f"{images.shape()}. Pass --preprocess tf or none."
        )
    images.calibration(1)  # none is read, but its crop is checked


def prior_of(images: Images, needed: bool) -> np.ndarray | None:
    """Return rho [classes], or None where a class has no image and it is not needed.

    Raises:
        ValueError: if it is needed and a class has no image.
    """
    shares = images.class_shares()
    absent = [images.train.class_names[c] for c in np.flatnonzero(shares == 0)]
    if absent and needed:
        raise ValueError(
            "Expected an image of every class, of which the biases are calibrated. "
            f"Received: none of {len(absent)} of {len(shares)} classes: "
            f"{', '.join(absent[:3])}. Complete the images, or pass --no-calibrate."
        )
    return None if absent else shares
