"""Numbers are taken as they come, and what is none is an error that names it."""

import numpy as np
import pytest
import tensorflow as tf

import keras_tilt as kt
from keras_tilt import masking, sources
from keras_tilt.training import evaluation
from keras_tilt.validation import as_array, as_labels, as_number, check_count


@pytest.mark.parametrize(
    "value", [3, 3.0, True, np.float32(3), np.int64(3), np.array(3), tf.constant(3.0)]
)
def test_numbers_of_any_kind_are_numbers(value):
    number = as_number("size", value)
    assert number == float(value) and type(number) is float


def test_arrays_keep_their_shape_and_take_the_type():
    array = as_array("size", [[1, 2], [3, 4]], np.float32)
    assert array.dtype == np.float32 and array.tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    "value",
    ["3", b"3", None, 1j, object(), ["a"], [[1], [1, 2]], np.datetime64(3, "s")],
)
def test_what_is_no_number_is_named_and_quoted(value):
    with pytest.raises(ValueError, match=r"`size` must be a number.* Received: "):
        as_array("size", value)
    with pytest.raises(ValueError, match="`size` must be a number. Received: "):
        as_number("size", value)


def test_an_array_is_no_single_number():
    with pytest.raises(ValueError, match=r"`size` must be a number.* shape \(2,\)"):
        as_number("size", [1.0, 2.0])


def test_a_long_value_is_quoted_in_part():
    with pytest.raises(ValueError) as raised:
        as_array("size", ["a"] * 1000)
    assert len(str(raised.value)) < 200


INTEGERS = [np.dtype(code) for code in np.typecodes["AllInteger"]]


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_labels_of_every_integer_type_are_the_same_int32(dtype):
    for shape in ([-1], [-1, 1]):
        labels = as_labels("labels", np.arange(100, dtype=dtype).reshape(shape))
        assert labels.dtype == np.int32 and labels.tolist() == list(range(100))


def test_labels_may_be_lists_tensors_and_unlabelled():
    for labels in ([2, -1], (2, -1), tf.constant([2, -1]), [np.uint8(2), np.int64(-1)]):
        assert as_labels("labels", labels).tolist() == [2, -1]
    assert as_labels("labels", np.zeros([0], np.uint8)).shape == (0,)


@pytest.mark.parametrize(
    ("labels", "advice"),
    [
        (["cat", "dog"], "np.unique"),
        (np.array([b"cat"]), "np.unique"),
        ([1.0, 2.0], "astype"),
        (np.eye(3), "argmax"),
        (np.eye(3, dtype=int), "argmax"),
        (3, r"shape \[n\]"),
        (None, "Received"),
        ([True, False], "bool"),
    ],
)
def test_what_is_no_class_number_is_named_with_advice(labels, advice):
    with pytest.raises(ValueError, match=f"(?s)`labels` must.*{advice}"):
        as_labels("labels", labels)


@pytest.mark.parametrize(
    "label",
    [
        np.uint64(2**32 + 1),
        np.uint64(2**64 - 1),
        np.int64(-(2**32) + 1),
        np.uint32(2**32 - 1),
        2**31,
    ],
)
def test_a_label_beyond_int32_does_not_become_another_class(label):
    with pytest.raises(ValueError, match=f"Received: {int(label)}, .* beyond int32"):
        as_labels("labels", np.array([0, label], np.asarray(label).dtype))


# Whole numbers


@pytest.mark.parametrize("value", [2, np.int64(3), np.uint8(5)])
def test_a_whole_number_within_its_range_passes(value):
    check_count("num_chains", value, 2, 5)


@pytest.mark.parametrize("value", [1, 6, 2.0, True, "3", None])
def test_any_other_number_is_named_with_its_range(value):
    with pytest.raises(ValueError, match=r"`num_chains` .* from 2 to 5. Received: "):
        check_count("num_chains", value, 2, 5)


# Seeds, by which NumPy draws

FEW = np.random.default_rng(0).integers(0, 255, [12, 8, 8, 3], np.uint8)
LABELS = np.arange(12) % 2
SEEDED = {
    "outliers": lambda seed: kt.outliers(FEW, 3, seed),
    "fit_latent": lambda seed: kt.fit_latent(FEW, seed=seed),
    "uniform_order": lambda seed: kt.batches.uniform_order(12, seed, 0),
    "by_classes": lambda seed: kt.batches.by_classes(LABELS, 4, 2, seed, 0),
    "by_labelled": lambda seed: kt.batches.by_labelled(LABELS, 4, 4, seed, 0),
    "training_batches": lambda seed: kt.batches.training_batches(
        sources.arrays(FEW, LABELS), np.arange(12), 4, seed=seed, epoch=0, crop=(8, 8)
    ),
    "with_labelled_fraction": lambda seed: sources.with_labelled_fraction(
        sources.arrays(FEW, LABELS), 0.5, seed
    ),
    "cross_tempered": lambda seed: evaluation.cross_tempered(None, seed),
    "landscapes": lambda seed: masking.scenes.synthetic(1, seed=seed),
}


@pytest.mark.parametrize("name", SEEDED)
@pytest.mark.parametrize("seed", [-1, 1.5, None])
def test_a_seed_that_numpy_cannot_draw_by_is_named(name, seed):
    with pytest.raises(ValueError, match=rf"`seed` must be .* Received: {seed}"):
        SEEDED[name](seed)
