"""Segments are sets of pixels: every number is that of their masks."""

import json

import numpy as np
import pytest
import tensorflow as tf
from pycocotools import mask as coco

from keras_tilt.masking import segments as sg
from keras_tilt.masking.segments import Segments

SHAPE = (9, 13)


def random_masks(seed, number=7):
    """Noise, rectangles, all pixels, and one twice."""
    rng = np.random.default_rng(seed)
    masks = rng.random([number, *SHAPE]) < rng.random([number, 1, 1])
    masks[1], masks[2] = True, False
    masks[2, 2:5, 3:9] = True
    masks[3] = masks[2]
    masks[:, 0, 0] |= ~masks.any(axis=(1, 2))
    return masks


# What they are


def test_masks_come_back():
    masks = random_masks(0)
    np.testing.assert_array_equal(sg.of_masks(masks).masks(), masks)
    np.testing.assert_array_equal(sg.of_masks(masks).masks([4, 1]), masks[[4, 1]])


def test_areas_boxes_and_overlaps_are_those_of_the_masks():
    one, other = random_masks(1), random_masks(2)
    first, second = sg.of_masks(one), sg.of_masks(other)
    np.testing.assert_array_equal(first.areas, one.sum(axis=(1, 2)))
    for mask, box in zip(one, first.boxes, strict=True):
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        assert box.tolist() == [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]
    both = np.array([[(a & b).sum() for b in other] for a in one])
    either = np.array([[(a | b).sum() for b in other] for a in one])
    np.testing.assert_array_equal(first.overlap(second), both)
    np.testing.assert_allclose(first.iou(second), both / either, rtol=1e-15)
    np.testing.assert_allclose(sg.best_iou(first, second), (both / either).max(axis=0))
    np.testing.assert_array_equal(
        sg.recall(first, second, 0.6), (both / either).max(axis=0) >= 0.6
    )


def test_atoms_are_the_classes_of_pixels_in_the_same_masks():
    masks = random_masks(3)
    segments = sg.of_masks(masks)
    kinds = {tuple(kind) for kind in masks.reshape(len(masks), -1).T if kind.any()}
    assert segments.members.shape == (len(masks), len(kinds))
    assert {tuple(column) for column in segments.members.T} == kinds


def test_pixels_are_counted_by_label_and_void_is_not():
    masks = random_masks(4)
    labels = np.random.default_rng(4).integers(-1, 5, SHAPE)
    found = sg.of_masks(masks).pixels_by_label(labels, 5)
    expected = [[(mask & (labels == c)).sum() for c in range(5)] for mask in masks]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", [np.dtype(c) for c in "bBhHiIqQ"], ids=str)
def test_label_maps_of_every_integer_type_are_the_same(dtype):
    labels = np.random.default_rng(4).integers(0, 5, SHAPE)
    segments = sg.of_label_map(labels.astype(dtype))
    np.testing.assert_array_equal(segments.masks(), sg.of_label_map(labels).masks())
    found = segments.pixels_by_label(labels.astype(dtype), 5)
    np.testing.assert_array_equal(found, np.diag(np.bincount(labels.ravel())))


def test_selected_segments_are_the_same_over_fewer_atoms():
    masks = random_masks(5)
    segments = sg.of_masks(masks)
    some = segments.select([2, 5])
    np.testing.assert_array_equal(some.masks(), masks[[2, 5]])
    assert some.members.shape[1] <= 3 < segments.members.shape[1]
    none = segments.select([])
    assert len(none) == 0 and none.masks().shape == (0, *SHAPE)
    assert none.iou(segments).shape == (0, len(masks))


def test_joined_sets_hold_every_segment_once_in_order():
    one, other = random_masks(6), random_masks(7)
    found = sg.joined(sg.of_masks(one), sg.of_masks(other)).masks()
    expected = list(dict.fromkeys(mask.tobytes() for mask in [*one, *other]))
    assert [mask.tobytes() for mask in found] == expected


def test_sets_that_leave_pixels_out_are_joined_without_taking_them_in():
    one = np.array([[1, 0, 0, 0], [0, 0, 0, 1]], bool)[:, np.newaxis]
    other = np.array([[0, 1, 0, 1]], bool)[:, np.newaxis]
    found = sg.joined(sg.of_masks(one), sg.of_masks(other))
    np.testing.assert_array_equal(found.masks(), [*one, *other])
    assert found.atoms[0, 2] == -1


def test_an_iou_equal_to_the_threshold_is_found():
    truth = sg.of_masks([[[1, 1, 0, 0]]])
    half = sg.of_masks([[[1, 0, 0, 0]]])
    assert sg.recall(half, truth, 0.5).tolist() == [True]
    assert sg.recall(half, truth, 0.51).tolist() == [False]


# Where they come from


def test_a_label_map_has_a_segment_for_each_value():
    labels = np.random.default_rng(8).integers(-1, 4, SHAPE) * 3
    labels[labels < 0] = -1
    values = np.unique(labels[labels >= 0])
    expected = labels == values[:, np.newaxis, np.newaxis]
    np.testing.assert_array_equal(sg.of_label_map(labels).masks(), expected)


KINDS = {
    "bytes": bytes,
    "text": bytes.decode,
    "NumPy's bytes": np.bytes_,
    "an array of bytes": np.array,
    "list": list,
    "tuple": tuple,
    "array": np.array,
    "uint32": np.uint32,
    "uint64": np.uint64,
    "objects": lambda counts: np.array(counts, object),
    "list of NumPy's": lambda counts: [np.int64(count) for count in counts],
    "tensor": tf.constant,
}
COMPRESSED = list(KINDS)[:4]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [list, tuple, np.array, np.uint16])
def test_run_lengths_are_those_of_coco(kind, size):
    masks = random_masks(9)
    encoded = [coco.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    counts = [rle["counts"] for rle in encoded]
    if kind not in COMPRESSED:
        counts = [run_lengths(mask) for mask in masks]
    encoded = [{"size": size(SHAPE), "counts": KINDS[kind](one)} for one in counts]
    np.testing.assert_array_equal(sg.of_rle(encoded).masks(), masks)
    np.testing.assert_array_equal(sg.of_rle(encoded, size(SHAPE)).masks(), masks)


def run_lengths(mask):
    """Of columns one after the other, first of pixels outside."""
    values = np.concatenate([[False], mask.T.ravel()])
    changes = np.flatnonzero(np.diff(values.astype(int)))
    return np.diff([0, *changes, mask.size]).tolist()


def test_files_of_each_layout_hold_the_segments(tmp_path):
    masks = random_masks(10)
    segments = sg.of_masks(masks)
    encoded = [{"size": list(SHAPE), "counts": run_lengths(mask)} for mask in masks]
    np.savez(tmp_path / "masks.npz", masks=masks)
    np.savez(tmp_path / "atoms.npz", **sg.arrays(segments))
    (tmp_path / "rle.json").write_text(json.dumps(encoded))
    (tmp_path / "coco.json").write_text(
        json.dumps([{"segmentation": rle, "score": 1} for rle in encoded])
    )
    for name in ("masks.npz", "atoms.npz", "rle.json", "coco.json"):
        found = sg.of_file(tmp_path / name, SHAPE)
        np.testing.assert_array_equal(found.masks(), masks)
    np.savez(tmp_path / "labels.npz", labels=np.array([[0, 1], [-1, 1]]))
    assert sg.of_file(tmp_path / "labels.npz").areas.tolist() == [1, 2]


def test_arrays_are_small_and_come_back_exactly():
    segments = sg.of_masks(random_masks(11, number=20))
    arrays = sg.arrays(segments)
    again = sg.of_arrays(arrays)
    np.testing.assert_array_equal(again.atoms, segments.atoms)
    np.testing.assert_array_equal(again.members, segments.members)
    assert arrays["atoms"].dtype == np.int8 or segments.members.shape[1] > 127
    assert arrays["members"].nbytes <= segments.members.nbytes / 8 + len(segments)


def test_arrays_hold_any_number_of_atoms():
    for count in (127, 128, 129, 40_000):
        one = Segments(np.arange(count)[np.newaxis], np.ones([1, count]))
        again = sg.of_arrays(sg.arrays(one))
        np.testing.assert_array_equal(again.atoms, one.atoms)
        np.testing.assert_array_equal(again.members, one.members)


# What is none


def test_an_image_without_segments_is_a_set_of_none():
    none = sg.of_masks(np.zeros([0, *SHAPE], bool))
    assert len(none) == 0 and none.shape == SHAPE
    assert none.boxes.shape == (0, 4) and none.areas.size == 0
    some = sg.of_masks(random_masks(12))
    assert not sg.recall(none, some).any()
    assert len(sg.joined(none, some)) == len(sg.joined(some))
    assert len(sg.of_rle([], SHAPE)) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: sg.of_masks(np.eye(3)[[0, 1, 1]][:, None] * [[0], [1]] * 0),
            "segments of a pixel or more.*number 0, 1, 2",
        ),
        (lambda: sg.of_masks(np.full([1, 2, 2], 2)), "bool, or 0 and 1"),
        (lambda: sg.of_masks([np.ones([2, 2]), np.ones([2, 3])]), "different sizes"),
        (lambda: sg.of_masks(np.ones([2, 2])), r"\[segments, height, width\]"),
        (lambda: sg.of_label_map(np.ones([2, 2])), "must be integers"),
        (lambda: sg.of_label_map(np.full([2, 2], -2)), "from -1 to"),
        (lambda: Segments([[0, 2]], [[1, 1, 1]]), "Number the atoms without gaps"),
        (lambda: Segments([[0, 1]], [[1, 0], [0, 0]]), "number 1, 1 of 2"),
        (lambda: sg.of_rle([{"size": [2, 2], "counts": [4]}], (3, 2)), "one image"),
        (lambda: sg.of_rle([{"size": [2, 2], "counts": [1, 2]}]), "fewer pixels"),
        (lambda: sg.of_rle([{"size": [2, 2], "counts": [1, 9]}]), "run lengths of 2"),
        (lambda: sg.of_rle([[1, 2, 3]]), "a dict of size and counts"),
        (lambda: sg.of_rle([{"size": [2, 2], "counts": [1.5, 2, 0.5]}]), "not whole"),
        (lambda: sg.of_rle([{"size": [2, 2], "counts": [[1, 2], [1]]}]), "lengths of"),
        (lambda: sg.of_rle([{"size": [2, 2], "counts": [-1, 5]}]), "lengths of 2"),
        (lambda: sg.of_rle([{"size": [2.0, 2], "counts": [4]}]), "Expected a size"),
        (lambda: sg.of_rle([{"size": [2, 2, 1], "counts": [4]}]), "Expected a size"),
        (lambda: sg.of_rle([{"size": [0, 2], "counts": [4]}]), "Expected a size"),
        (lambda: sg.of_rle([{"size": "22", "counts": [4]}]), "Expected a size"),
        (lambda: sg.of_rle([]), r"Pass shape="),
        (lambda: sg.joined(), "one set of segments or more"),
        (lambda: sg.of_arrays({"atoms": np.zeros([2, 2], int)}), "`members`"),
    ],
)
def test_what_is_no_segment_is_an_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_maps_of_another_size_or_class_are_errors():
    segments = sg.of_masks(random_masks(13))
    with pytest.raises(ValueError, match="height and width of one image"):
        segments.pixels_by_label(np.zeros([3, 3], int), 2)
    with pytest.raises(ValueError, match=r"in -1\.\.1"):
        segments.pixels_by_label(np.full(SHAPE, 2), 2)
    with pytest.raises(ValueError, match="height and width of one image"):
        segments.iou(sg.of_masks(np.ones([1, 2, 2])))


def test_bad_files_are_errors_that_name_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="no.npz, which is not a file"):
        sg.of_file(tmp_path / "no.npz")
    for name, content in {"text.npz": b"hello", "broken.json": b"[{"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} to hold the segments"):
            sg.of_file(tmp_path / name)
    np.savez(tmp_path / "other.npz", x=1)
    with pytest.raises(ValueError, match="Received: x"):
        sg.of_file(tmp_path / "other.npz")
    np.savez(tmp_path / "small.npz", labels=np.array([[0]]))
    with pytest.raises(ValueError, match="small.npz.*one image"):
        sg.of_file(tmp_path / "small.npz", SHAPE)
