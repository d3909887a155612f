"""A segmenter as functions of a server: images in, a label for every pixel out.

    image [, segments] -> scores of segments -> label map, scores of pixels

Without segments of the client, superpixels and their unions are made in the graph. Each
image is labelled by itself: its labels do not depend on the others in a batch.

Source: Dai, He and Sun (2015); see `segmenter`, `superpixels` and `labelling`.
"""

__all__ = ["MOST_SEGMENTS", "ServedSegmenter", "write_segmenter"]

import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import tensorflow as tf

from keras_tilt.masking.examples import fit_image, fit_labels
from keras_tilt.masking.labelling import RULES, paste, vote
from keras_tilt.masking.segmenter import Segmenter
from keras_tilt.masking.superpixels import segments_of
from keras_tilt.serving import servable
from keras_tilt.serving.image_bytes import MOST_PIXELS, checked_file, decoded
from keras_tilt.serving.requests import (
    MOST_REQUESTS,
    Signatures,
    after,
    checked_requests,
    each_request,
    provided,
)
from keras_tilt.validation import as_names, check_count

MOST_SEGMENTS = 4096  # that a client may number
_AT_ONCE = 2  # requests that run side by side: their images are in memory
_DEPTH_AT, _GRAY = 24, 0  # in a PNG file: bits, and after it the kind of pixels


class ServedSegmenter(tf.Module):
    """Label maps of images of any size.

    Args:
        segmenter: `Segmenter` of colour images, fitted.
        class_names: list of text, one for each class.
        rule: by which segments label pixels, "vote" or "paste".
        superpixels: how many at most, where a client sends no segments.
        side: of the image that superpixels are made of, at most, in pixels.
        max_iou: of `paste`.

    Attributes:
        functions: mapping, name of a signature -> the graph of its function, made when
            it is first asked for.
        class_names: of the classes, in their order.
        size: (height, width) of an image as the network takes it.
        rule: as passed, as are superpixels and side.

    Raises:
        TypeError: for anything but a `Segmenter`.
        ValueError: for an unknown rule, another number of names, a network of images
            without colours, or numbers out of range.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        class_names: Sequence[str],
        rule: Literal["vote", "paste"] = "vote",
        superpixels: int = 500,
        side: int = 320,
        max_iou: float = 0.3,
    ):
        super().__init__(name="segmenter")
        _check(segmenter, class_names, rule)
        check_count("superpixels", superpixels, 1)
        check_count("side", side, 1)
        if not 0 <= max_iou <= 1:
            raise ValueError(
                "`max_iou` must be a number in [0, 1]. Received: "
                f"{max_iou!r}. Pass for example 0.3."
            )
        self._labelled = _Labelled(segmenter, rule, superpixels, side, max_iou)
        self._weights = [variable.value for variable in segmenter.variables]
        self.class_names = tuple(as_names("class_names", class_names))
        self.size = segmenter.cells.image_shape
        self.rule, self.superpixels, self.side = rule, superpixels, side

    @property
    def pixel_of_labels(self) -> tf.DType:
        """Type of the pixels of label files; the highest value stands for no class."""
        return tf.uint8 if len(self.class_names) < tf.uint8.max else tf.uint16

    # Signatures

    @functools.cached_property
    def functions(self) -> Mapping[str, tf.types.experimental.ConcreteFunction]:
        """The graphs of all signatures, by name."""
        image = tf.TensorSpec([None, None, None, 3], tf.uint8, "image")
        segments = tf.TensorSpec([None, None, None], tf.int32, "segments")
        image_bytes = tf.TensorSpec([None], tf.string, "image_bytes")
        pieces = tf.TensorSpec([None], tf.string, "segments_bytes")
        functions = {
            "serving_default": (self.label, image),
            "label_segments": (self.label_segments, image, segments),
            "label_bytes": (self.label_bytes, image_bytes),
            "label_segments_bytes": (self.label_segments_bytes, image_bytes, pieces),
        }
        return Signatures(functions)

    def label(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return labels of images, by superpixels and their unions.

        Args:
            image: [requests, height, width, 3] uint8.

        Returns:
            label_map: [requests, height, width] int32, -1 where there is no class.
            score_map: [requests, height, width], scores of these labels.
            share: [requests, classes], of the pixels.
            score: [requests, classes], mean of the score map over these pixels.
        """
        requests = _checked_pixels(checked_requests(1, image=image))
        return self._each(self._labelled, requests, _MAPS)

    def label_segments(
        self, image: tf.Tensor, segments: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Return the same by a client's segments, and the scores of these.

        Args:
            image: [requests, height, width, 3] uint8.
            segments: [requests, height, width] int32, numbers from 0; -1 for none.

        Returns:
            segment_scores: [requests, segments, classes].
        """
        requests = checked_requests(1, image=image, segments=segments)
        requests = _checked_pixels(requests)
        number = _checked_number(requests["segments"])
        labelled = functools.partial(self._labelled, number=number)
        return self._each(labelled, requests, _MAPS | _SEGMENTS)

    def label_bytes(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return what `label` does, of files of images of any sizes.

        Returns:
            label_png_bytes: [requests], gray PNG files, in place of the two maps.
        """
        requests = checked_requests(1, image_bytes=image_bytes)
        return self._each(self._labelled_file, requests, _FILES)

    def label_segments_bytes(
        self, image_bytes: tf.Tensor, segments_bytes: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Return what `label_segments` does, of files of images and of segments."""
        requests = checked_requests(
            1, image_bytes=image_bytes, segments_bytes=segments_bytes
        )
        numbers = tf.map_fn(
            lambda data: _checked_number(_segments_in(data)),
            requests["segments_bytes"],
            fn_output_signature=tf.int32,
        )
        number = tf.reduce_max(numbers)
        labelled = functools.partial(self._labelled_file, number=number)
        return self._each(labelled, requests, _FILES | _SEGMENTS)

    def _labelled_file(self, image_bytes, segments_bytes=None, number=None):
        """One request with files in and a file out."""
        image = decoded(image_bytes, 3)
        segments = None if segments_bytes is None else _segments_in(segments_bytes)
        answer = self._labelled(image, segments, number)
        del answer["score_map"]
        labels = answer.pop("label_map")
        pixel = self.pixel_of_labels
        pixels = tf.where(labels < 0, pixel.max, labels)[..., tf.newaxis]
        return answer | {"label_png_bytes": tf.io.encode_png(tf.cast(pixels, pixel))}

    def _each(self, function, requests, specs):
        variables = self._labelled.segmenter.variables
        return each_request(function, requests, specs, variables, _AT_ONCE)


@dataclasses.dataclass(frozen=True)
class _Labelled:
    """One image: its label map, and what is known of it.

    No part of the module, which would save the segmenter with all its functions.
    """

    segmenter: Segmenter
    rule: str
    superpixels: int
    side: int
    max_iou: float

    def __call__(self, image, segments=None, number=None):
        """label_map, score_map, share, score, and of a client's segments their own."""
        image = _checked_image(image)
        if segments is None:
            atoms, members = segments_of(image, self.superpixels, self.side)
        else:
            atoms, numbers = _renumbered(_checked_size(segments, image))
            members = tf.eye(tf.size(numbers), dtype=tf.bool)
        scores = self._scores(image, atoms, members)
        labels, certain = self._of_atoms(atoms, members, scores)
        label_map, score_map = _under(labels, atoms), _under(certain, atoms)
        answer = {"label_map": label_map, "score_map": score_map}
        if segments is not None:
            shape = tf.stack([number, tf.shape(scores)[1]])
            of_numbers = tf.scatter_nd(numbers[:, tf.newaxis], scores, shape)
            answer["segment_scores"] = of_numbers
        return answer | _of_classes(label_map, score_map, self.segmenter.num_classes)

    def _scores(self, image, atoms, members):
        """Scores of the segments, [segments, classes]."""
        size = self.segmenter.cells.image_shape
        inputs = {
            "image": fit_image(image, size)[tf.newaxis],
            "atoms": fit_labels(atoms, size)[tf.newaxis],
            "members": members[tf.newaxis],
        }
        return self.segmenter.scores(inputs)[0]

    def _of_atoms(self, atoms, members, scores):
        """Class of every atom, and its score; at the end those of no atom."""
        sizes = tf.math.bincount(
            tf.reshape(atoms + 1, [-1]), minlength=tf.shape(members)[1] + 1
        )[1:]
        background = self.segmenter.background
        if self.rule == "vote":
            labels, means = vote(members, sizes, scores)
            certain = tf.reduce_max(means, axis=1)
        else:
            # Every atom is a segment, too, so that nothing is left to be filled.
            labels, owners = paste(
                members, sizes, scores, self.max_iou, background=background
            )
            best = tf.concat([tf.reduce_max(scores, axis=1), [0.0]], axis=0)
            certain = _under(best, owners)
        labels, certain = tf.concat([labels, [-1]], 0), tf.concat([certain, [0.0]], 0)
        if background is not None:
            labels = tf.where(labels < 0, background, labels)
        return labels, certain


_OF_CLASSES = {
    "share": tf.TensorSpec([None], tf.float32),
    "score": tf.TensorSpec([None], tf.float32),
}
_MAPS = _OF_CLASSES | {
    "label_map": tf.TensorSpec([None, None], tf.int32),
    "score_map": tf.TensorSpec([None, None], tf.float32),
}
_FILES = _OF_CLASSES | {"label_png_bytes": tf.TensorSpec([], tf.string)}
_SEGMENTS = {"segment_scores": tf.TensorSpec([None, None], tf.float32)}


def _under(values, atoms):
    """The value of the atom of every pixel; the last value where there is none."""
    last = tf.shape(values)[0] - 1
    return tf.gather(values, tf.where(atoms < 0, last, atoms))


def _of_classes(label_map, score_map, num_classes):
    """Share of the pixels of every class, and the mean score of these."""
    places = tf.reshape(label_map + 1, [-1])  # -1, of no class, comes first
    pixels, scores = (
        tf.math.unsorted_segment_sum(values, places, num_classes + 1)[1:]
        for values in (tf.ones_like(places, tf.float32), tf.reshape(score_map, [-1]))
    )
    return {
        "share": pixels / tf.cast(tf.size(label_map), tf.float32),
        "score": tf.math.divide_no_nan(scores, pixels),
    }


# Segments of a client


def _renumbered(segments):
    """Atoms of the segments that have pixels, one each, and the segments' numbers."""
    numbers, index = tf.unique(tf.reshape(segments, [-1]))
    is_one = numbers >= 0
    atoms = tf.where(is_one, tf.cumsum(tf.cast(is_one, tf.int32)) - 1, -1)
    atoms = tf.reshape(tf.gather(atoms, index), tf.shape(segments))
    return atoms, tf.boolean_mask(numbers, is_one)


def _segments_in(data):
    """The numbers in a gray PNG file of 8 or 16 bits; the highest they have is -1."""
    data = checked_file(data)
    depth, kind = tf.unstack(
        tf.io.decode_raw(
            tf.strings.substr(data, _DEPTH_AT, 2), tf.uint8, fixed_length=2
        )
    )
    data = provided(
        tf.strings.regex_full_match(tf.strings.substr(data, 1, 3), "PNG")
        & (kind == _GRAY)
        & (depth >= 8),
        data,
        "`segments_bytes` must be PNG files of gray pixels of 8 or 16 bits, as "
        'Pillow\'s modes "L" and "I;16" are. Received, bits and kind of pixels: ',
        tf.stack([depth, kind]),
    )
    return tf.cond(
        depth == 16,
        lambda: _numbers_in(data, tf.uint16),
        lambda: _numbers_in(data, tf.uint8),
    )


def _numbers_in(data, pixel):
    numbers = tf.cast(tf.io.decode_png(data, 1, pixel)[..., 0], tf.int32)
    return tf.where(numbers == pixel.max, -1, numbers)


# Checks


def _checked_number(segments):
    """One more than the highest number of a segment, if all are in their range."""
    segments = tf.concat([tf.reshape(segments, [-1]), [-1]], axis=0)
    first, last = tf.reduce_min(segments), tf.reduce_max(segments)
    return provided(
        (first >= -1) & (last < MOST_SEGMENTS),
        last + 1,
        f"`segments` must be numbers in 0..{MOST_SEGMENTS - 1}, or -1 where there is "
        "none. Received, from and to: ",
        tf.stack([first, last]),
    )


def _checked_pixels(requests):
    """The requests, if their images together have not too many pixels."""
    shape = tf.shape(requests["image"])
    pixels = tf.reduce_prod(tf.cast(shape[:3], tf.int64))
    message = (
        f"The images of a batch must have at most {MOST_PIXELS} pixels together. "
        "Send fewer. Received: "
    )
    check = tf.debugging.Assert(pixels <= MOST_PIXELS, [message, shape], summarize=4)
    return after([check], requests)


def _checked_image(image):
    shape = tf.shape(image)
    pixels = tf.reduce_prod(tf.cast(shape[:2], tf.int64))
    can_be = (pixels > 0) & (pixels <= MOST_PIXELS)
    message = f"An image must have 1..{MOST_PIXELS} pixels. Received: "
    return provided(can_be, image, message, shape[:2])


def _checked_size(segments, image):
    shapes = tf.stack([tf.shape(segments), tf.shape(image)[:2]])
    is_same = tf.reduce_all(shapes[0] == shapes[1])
    message = ("`segments` must have the size of their image. Received: ", shapes)
    count = shapes.shape.num_elements()
    return provided(is_same, segments, *message, summarize=count)


def _check(segmenter, class_names, rule):
    if not isinstance(segmenter, Segmenter):
        raise TypeError(
            f"Expected a Segmenter. Received: {type(segmenter).__name__}. Fit one with "
            "`keras-tilt segment`."
        )
    if rule not in RULES:
        raise ValueError(
            f"`rule` must be one of {', '.join(RULES)}. Received: {rule!r}. Take "
            '"vote" unless labels are to be those of single segments.'
        )
    if len(class_names) != segmenter.num_classes:
        raise ValueError(
            f"`class_names` must be {segmenter.num_classes} names, one for each class. "
            f"Received: {len(class_names)}. Name them all."
        )
    channels = segmenter.network.input_shape[-1]
    if channels != 3:
        raise ValueError(
            "Expected a segmenter of images of 3 channels, as files in colour have. "
            f"Received: one of {channels}. Put a layer before its network."
        )


# On disk

_SCORES = {
    "vote": "the highest mean over its segments, small ones counting more",
    "paste": "that of the segment that is pasted there, 0 where none is",
}


def write_segmenter(
    folder: str | os.PathLike, segmenter: ServedSegmenter, image: np.ndarray
) -> pathlib.Path:
    """Write the next version of a servable of a segmenter.

    Args:
        folder: of the servable; its name is that of the model.
        segmenter: what is served.
        image: [height, width, 3] uint8, of the golden request.

    Returns:
        version: its path.
    """
    size = image.shape[:2]
    golden = {"image_bytes": np.array([tf.io.encode_png(image).numpy()])}
    piece = tf.io.encode_png(np.zeros([*size, 1], np.uint8)).numpy()
    pixels = {"image": image[np.newaxis]}
    warmup = {
        "label_bytes": golden,
        "serving_default": pixels,
        "label_segments": pixels | {"segments": np.zeros([1, *size], np.int32)},
        "label_segments_bytes": golden | {"segments_bytes": np.array([piece])},
    }
    return servable.write_servable(
        folder,
        segmenter,
        ("label_bytes", golden),
        list(warmup.items()),
        {"class_names.json": list(segmenter.class_names)},
        MOST_REQUESTS,
        _readme(segmenter),
    )


def _readme(segmenter):
    files = 'response.outputs["label_png_bytes"].string_val'
    program = f'open("labels.png", "wb").write({files}[0])'
    values = {
        "asking": servable.asking("label_bytes", program),
        "classes": len(segmenter.class_names),
        "most": MOST_REQUESTS,
        "pixels": f"{MOST_PIXELS:,}",
        "last": MOST_SEGMENTS - 1,
        "rule": _SCORES[segmenter.rule],
        "superpixels": segmenter.superpixels,
        "side": segmenter.side,
        "none": segmenter.pixel_of_labels.max,
        "size": " x ".join(map(str, segmenter.size)),
    }
    return servable.readme("segmenter.md", values)
