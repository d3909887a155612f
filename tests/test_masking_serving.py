"""Served label maps are those that the library makes, row by row."""

import functools
import io
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import slow_but
from PIL import Image

from keras_tilt import masking
from keras_tilt.masking.serving import MOST_SEGMENTS, ServedSegmenter
from keras_tilt.masking.superpixels import segments_of
from keras_tilt.serving.requests import traced

NAMES = ["sky", "road", "car"]
SIZE = (24, 32)


@functools.cache
def served_of(segmenter, rule):
    return ServedSegmenter(segmenter, NAMES, rule, superpixels=20, side=40)


@functools.cache
def graph_of(segmenter, signature, rule="vote"):
    """A signature's function of NumPy arrays."""
    function = served_of(segmenter, rule).functions[signature]

    def call(**inputs):
        found = function(**{k: tf.constant(v) for k, v in inputs.items()})
        return {name: value.numpy() for name, value in found.items()}

    return call


def images(*shape, seed=0):
    """Smooth images, so that superpixels have shapes."""
    rng = np.random.default_rng(seed)
    noise = tf.image.resize(rng.uniform(0, 255, [shape[0], 5, 6, 3]), shape[1:])
    return noise.numpy().astype(np.uint8)


def numbers(*shape, number=6, seed=0):
    """Maps of segments in blocks, some without any."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(-1, number, [shape[0], 4, 4])
    return blocks.repeat(-(-shape[1] // 4), 1)[:, : shape[1]].repeat(
        -(-shape[2] // 4), 2
    )[:, :, : shape[2]]


def labelled_by_the_library(segmenter, image, segments, rule):
    """Label map and scores of segments, of the functions for arrays."""
    inputs = masking.examples.inputs_of(image, segments, SIZE)
    scores = segmenter.scores(inputs)[0].numpy()
    bounds = {"max_iou": 0.3, "fill": segmenter.background is None}
    bounds = bounds if rule == "paste" else {}
    background = segmenter.background
    return masking.label_map(segments, scores, rule, background, **bounds), scores


@functools.cache
def in_other_background(segmenter, background):
    """The same segmenter, whose background is another class."""
    if background == segmenter.background:
        return segmenter
    config = segmenter.get_config() | {"background": background}
    other = masking.Segmenter.from_config(config)
    other.set_weights(segmenter.get_weights())
    return other


every_rule_and_background = pytest.mark.parametrize(
    "rule, background",
    slow_but([("paste", 1)], itertools.product(masking.RULES, (None, 1))),
)


@every_rule_and_background
def test_labels_are_those_of_superpixels_and_their_unions(
    rule, background, small_segmenter
):
    """Of images that are no larger than what superpixels see."""
    segmenter = in_other_background(small_segmenter, background)
    rows = images(2, 30, 40)
    found = graph_of(segmenter, "serving_default", rule)(image=rows)
    for i, image in enumerate(rows):
        atoms, members = segments_of(image, 20)
        segments = masking.Segments(atoms.numpy(), members.numpy())
        labels, _ = labelled_by_the_library(segmenter, image, segments, rule)
        np.testing.assert_array_equal(found["label_map"][i], labels)
        share = np.bincount(labels.ravel(), minlength=3) / labels.size
        np.testing.assert_allclose(found["share"][i], share, atol=1e-6)
        for c in range(3):
            scores = found["score_map"][i][labels == c]
            mean = scores.mean() if scores.size else 0
            assert found["score"][i, c] == pytest.approx(mean, abs=1e-5)
    assert len(np.unique(found["label_map"])) > 1


@every_rule_and_background
def test_segments_of_a_client_are_scored_and_labelled_one_by_one(
    rule, background, small_segmenter
):
    segmenter = in_other_background(small_segmenter, background)
    rows, maps = images(3, 50, 60), numbers(3, 50, 60)
    maps[0][maps[0] == 2] = 3  # a number that is not there
    maps[1] = -1  # no segment at all
    found = graph_of(segmenter, "label_segments", rule)(
        image=rows, segments=maps.astype(np.int32)
    )
    assert found["segment_scores"].shape == (3, 6, 3)
    for i, (image, pieces) in enumerate(zip(rows, maps, strict=True)):
        present = np.unique(pieces[pieces >= 0])
        segments = masking.segments.of_label_map(pieces)
        labels, scores = labelled_by_the_library(segmenter, image, segments, rule)
        np.testing.assert_array_equal(found["label_map"][i], labels)
        expected = np.zeros([6, 3])
        expected[present] = scores
        np.testing.assert_allclose(found["segment_scores"][i], expected, atol=1e-5)
        highest = np.append(expected.max(axis=1), 0)[pieces]
        shown = labels != background if background == 1 and rule == "paste" else True
        np.testing.assert_allclose(found["score_map"][i], highest * shown, atol=1e-5)


def test_where_no_segment_is_there_is_no_class(small_segmenter):
    nothing = np.full([1, 8, 9], -1, np.int32)
    for background, expected in ((None, -1), (1, 1)):
        segmenter = in_other_background(small_segmenter, background)
        found = graph_of(segmenter, "label_segments", "vote")(
            image=images(1, 8, 9), segments=nothing
        )
        assert np.all(found["label_map"] == expected)
        assert not found["score_map"].any()
        assert found["segment_scores"].shape == (1, 0, 3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (90, 7), (200, 150)])
def test_images_have_any_size_and_their_maps_have_it_too(shape, small_segmenter):
    found = graph_of(small_segmenter, "serving_default")(image=images(2, *shape))
    assert found["label_map"].shape == found["score_map"].shape == (2, *shape)
    assert found["label_map"].min() >= 0 and found["score_map"].min() > 0
    np.testing.assert_allclose(found["share"].sum(axis=1), 1, rtol=1e-5)


def test_superpixels_of_large_images_are_those_of_smaller_ones(small_segmenter):
    """Twice as large without anything new: labels of every pixel four times."""
    large = images(1, 40, 32).repeat(2, 1).repeat(2, 2)
    found = graph_of(small_segmenter, "serving_default")(image=large)["label_map"]
    (blocks,) = found.reshape(1, 40, 2, 32, 2)
    assert np.all(blocks == blocks[:, :1, :, :1])


def test_a_row_is_the_same_alone_and_beside_others(small_segmenter):
    rows, maps = images(3, 30, 40), numbers(3, 30, 40).astype(np.int32)
    maps[2] += 20 * (maps[2] >= 0)  # more numbers than the others have
    for signature, inputs in {
        "serving_default": {"image": rows},
        "label_segments": {"image": rows, "segments": maps},
    }.items():
        call = graph_of(small_segmenter, signature)
        together = call(**inputs)
        for i in range(3):
            alone = call(**{name: value[i : i + 1] for name, value in inputs.items()})
            for name, value in alone.items():
                count = value.shape[1] if name == "segment_scores" else None
                assert together[name][i][:count].tobytes() == value[0].tobytes(), name


# Files


def png(pixels):
    return tf.io.encode_png(pixels).numpy()


def test_files_of_several_sizes_are_labelled_as_their_pixels(small_segmenter):
    rows = [images(1, 30, 40)[0], images(1, 21, 17)[0]]
    found = graph_of(small_segmenter, "label_bytes")(
        image_bytes=np.array([png(row) for row in rows])
    )
    for i, row in enumerate(rows):
        expected = graph_of(small_segmenter, "serving_default")(image=row[None])
        labels = tf.io.decode_png(found["label_png_bytes"][i], dtype=tf.uint8)[..., 0]
        np.testing.assert_array_equal(labels, expected["label_map"][0])
        for name in ("share", "score"):
            np.testing.assert_array_equal(found[name][i], expected[name][0])


@pytest.mark.parametrize("pixel", [np.uint8, np.uint16])
def test_segments_in_files_are_their_numbers(pixel, small_segmenter):
    rows, maps = images(2, 30, 40), numbers(2, 30, 40)
    none = np.iinfo(pixel).max
    files = [png(np.where(m < 0, none, m).astype(pixel)[..., None]) for m in maps]
    found = graph_of(small_segmenter, "label_segments_bytes")(
        image_bytes=np.array([png(row) for row in rows]),
        segments_bytes=np.array(files),
    )
    expected = graph_of(small_segmenter, "label_segments")(
        image=rows, segments=maps.astype(np.int32)
    )
    np.testing.assert_array_equal(found["segment_scores"], expected["segment_scores"])
    for encoded, labels in zip(
        found["label_png_bytes"], expected["label_map"], strict=True
    ):
        decoded = tf.io.decode_png(encoded, dtype=tf.uint8).numpy()[..., 0]
        np.testing.assert_array_equal(decoded, np.where(labels < 0, 255, labels))


def test_maps_of_many_classes_are_files_of_16_bits(small_segmenter):
    config = small_segmenter.get_config() | {"num_classes": 300, "name": "many"}
    many = masking.Segmenter.from_config(config)
    kernel, bias = many.classifier.get_weights()
    many.classifier.set_weights([0 * kernel, np.arange(301.0)])  # none, then the last
    served = ServedSegmenter(many, list(map(str, range(300))), superpixels=4)
    files = tf.TensorSpec([None], tf.string)
    found = traced(served.label_segments_bytes, files, files)(
        image_bytes=tf.constant([png(images(1, 8, 8)[0])]),
        segments_bytes=tf.constant([png(np.uint8([[[0]] * 4 + [[255]] * 4] * 8))]),
    )
    labels = tf.io.decode_png(found["label_png_bytes"][0], dtype=tf.uint16)[..., 0]
    assert np.all(labels[:, :4] == 299) and np.all(labels[:, 4:] == 65535)


# What cannot be


def palette(pixels, kind="PNG"):
    """A file of numbers into a palette, as those of VOC are."""
    image = Image.fromarray(pixels).convert("P")
    content = io.BytesIO()
    image.save(content, kind)
    return content.getvalue()


def png_header(width, height):
    """The beginning of a PNG file of so many gray pixels."""
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + size + b"\x08\0\0\0\0\0"


@pytest.mark.parametrize(
    "signature, inputs, sentence",
    [
        (
            "label_segments",
            {"segments": np.zeros([1, 30, 41], np.int32)},
            "`segments` must have the size of their image. ... [30 41][30 40]",
        ),
        (
            "label_segments",
            {"segments": np.full([1, 30, 40], MOST_SEGMENTS, np.int32)},
            "numbers in 0..4095, or -1 where there is none. ... [-1 4096]",
        ),
        (
            "label_segments",
            {"segments": np.full([1, 30, 40], -2, np.int32)},
            "Received, from and to: ... [-2 -1]",
        ),
        (
            "label_segments",
            {"segments": np.zeros([2, 30, 40], np.int32)},
            "`image`, `segments` must have as many requests",
        ),
        (
            "serving_default",
            {"image": np.zeros([1, 0, 40, 3], np.uint8)},
            "1..16777216",
        ),
        ("serving_default", {"image": np.zeros([65, 1, 1, 3], np.uint8)}, "at most 64"),
        (
            "label_segments_bytes",
            {"segments_bytes": np.array([palette(np.zeros([30, 40], np.uint8))])},
            "must be PNG files of gray pixels of 8 or 16 bits",
        ),
        (
            "label_segments_bytes",
            {"segments_bytes": np.array([png(np.zeros([30, 40, 3], np.uint8))])},
            "must be PNG files of gray pixels of 8 or 16 bits",
        ),
        (
            "label_segments_bytes",
            {"segments_bytes": np.array([b"GIF"])},
            "a file of 30 bytes or more",
        ),
        (
            "label_segments_bytes",
            {"segments_bytes": np.array([b"RIFF" + 20 * b"." + b"\x08\x00...."])},
            "must be PNG files",
        ),
        (
            "label_segments_bytes",
            {"segments_bytes": np.array([png_header(4097, 4096)], object)},
            "at most 16777216 pixels. ... [4097 4096]",
        ),
        (
            "label_bytes",
            {"image_bytes": np.array([png_header(70000, 70000)], object)},
            "at most 16777216 pixels",
        ),
        (
            "label_bytes",
            {"image_bytes": np.array([b"GIF89a" + bytes(30)], object)},
            "Files must be JPEG, PNG or BMP",
        ),
        (
            "label_bytes",
            {"image_bytes": np.array([palette(np.zeros([9, 9], np.uint8), "BMP")])},
            "A BMP file must have 24 or 32 bits a pixel ... [8 0]",
        ),
        (
            "label_bytes",
            {"image_bytes": np.array([bytes(30)], object)},
            "Unknown image file",
        ),
        ("label_bytes", {"image_bytes": np.zeros([0], "S1")}, "at least 1 and at most"),
        ("serving_default", {"image": np.zeros([0, 3, 3, 3], np.uint8)}, "at least 1"),
        (
            "serving_default",
            {"image": np.zeros([33, 1024, 512, 3], np.uint8)},
            "at most 16777216 pixels together",
        ),
    ],
    ids=lambda value: None if isinstance(value, dict) else str(value)[:20],
)
def test_what_cannot_be_labelled_is_refused_with_a_sentence(
    signature, inputs, sentence, small_segmenter
):
    image = images(1, 30, 40)
    given = {
        "serving_default": {},
        "label_segments": {"image": image},
        "label_bytes": {},
        "label_segments_bytes": {"image_bytes": np.array([png(image[0])])},
    }
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        graph_of(small_segmenter, signature)(**given[signature] | inputs)
    message = " ".join(raised.value.message.split())
    assert all(part in message for part in sentence.split(" ... "))


def test_what_is_no_segmenter_is_not_served(small_segmenter):
    with pytest.raises(TypeError, match="Expected a Segmenter. Received: Sequential"):
        ServedSegmenter(keras.Sequential(), NAMES)
    with pytest.raises(ValueError, match="must be 3 names.*Received: 2"):
        ServedSegmenter(small_segmenter, NAMES[:2])
    with pytest.raises(ValueError, match="one of paste, vote. Received: 'shout'"):
        ServedSegmenter(small_segmenter, NAMES, rule="shout")
    for name, value in (("superpixels", 0), ("side", 0), ("max_iou", 7.0)):
        with pytest.raises(ValueError, match=f"`{name}` must"):
            ServedSegmenter(small_segmenter, NAMES, **{name: value})
    gray = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(2, 3)])
    name = gray.layers[0].name
    with pytest.raises(ValueError, match="3 channels.*Received: one of 1"):
        ServedSegmenter(masking.Segmenter(gray, name, 3), NAMES)
