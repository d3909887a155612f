"""Data: the cut, the order of every pass, the scale, and what is said of bad files."""

import hashlib
import itertools
import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf
from cases import slow_but
from data_files import data_file

import keras_tilt as kt
from keras_tilt import data

ROOT = pathlib.Path(__file__).resolve().parent.parent
EMBEDDED = ROOT / "keras_tilt" / "data" / "embedded"


def tiny_arrays(train=6, test=3):
    rng = np.random.default_rng(0)
    return {
        f"{name}_{split}": rng.integers(0, 10, shape).astype(np.uint8)
        for split, n in (("train", train), ("test", test))
        for name, shape in (("x", (n, 28, 28)), ("y", (n,)))
    }


def numbered_images(n):
    """Images [n, 2, 2, 1] whose pixels, and whose labels, are the image's number."""
    numbers = np.arange(n, dtype=np.int32)
    pixels = np.tile(numbers.astype(np.uint8)[:, None, None, None], (1, 2, 2, 1))
    return pixels, numbers


def passes(dataset, count):
    return [
        np.concatenate([labels.numpy() for _, labels in dataset]).tolist()
        for _ in range(count)
    ]


# The embedded subset


def test_the_embedded_subset_holds_500_and_100_images_of_every_class():
    (x_train, y_train), (x_test, y_test) = data.embedded_mnist()
    assert x_train.shape == (5000, 28, 28, 1) and x_test.shape == (1000, 28, 28, 1)
    assert x_train.dtype == x_test.dtype == np.uint8
    assert y_train.dtype == y_test.dtype == np.int32
    assert np.bincount(y_train).tolist() == [500] * 10
    assert np.bincount(y_test).tolist() == [100] * 10


def test_the_embedded_file_is_the_one_its_readme_describes_and_is_small():
    content = (EMBEDDED / "mnist_6000.npz").read_bytes()
    assert hashlib.sha256(content).hexdigest() in (EMBEDDED / "README.md").read_text()
    assert len(content) <= 1.5e6


def test_the_embedded_subset_is_the_stated_cut_of_the_full_set():
    full = data.load_mnist(data_file("mnist.npz").parent)
    for (images, labels), (cut_images, cut_labels), count in zip(
        full, data.embedded_mnist(), (500, 100), strict=True
    ):
        firsts = [np.flatnonzero(labels == c)[:count] for c in range(10)]
        chosen = np.sort(np.concatenate(firsts))
        np.testing.assert_array_equal(cut_images, images[chosen])
        np.testing.assert_array_equal(cut_labels, labels[chosen])


# Reading the full set


def test_an_npz_file_comes_back_as_written(tmp_path):
    arrays = tiny_arrays()
    np.savez_compressed(tmp_path / "mnist.npz", **arrays)
    (x_train, y_train), (x_test, y_test) = data.load_mnist(tmp_path)
    np.testing.assert_array_equal(x_train[..., 0], arrays["x_train"])
    np.testing.assert_array_equal(y_test, arrays["y_test"])
    assert x_test.shape == (3, 28, 28, 1) and y_train.dtype == np.int32


def test_the_environment_variable_names_the_default_directory(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "mnist.npz", **tiny_arrays())
    monkeypatch.setenv("KERAS_TILT_DATA", str(tmp_path))
    assert len(data.load_mnist()[0][1]) == 6


def test_prepared_tfds_data_equal_the_npz_file(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    arrays = tiny_arrays()
    digits = tfds.features.ClassLabel(num_classes=10)
    image = tfds.features.Image(shape=(28, 28, 1))
    tfds.dataset_builders.store_as_tfds_dataset(
        name="mnist",
        version="3.0.1",
        features=tfds.features.FeaturesDict({"image": image, "label": digits}),
        data_dir=tmp_path,
        split_datasets={
            split: tf.data.Dataset.from_tensor_slices(
                {
                    "image": arrays[f"x_{split}"][..., None],
                    "label": arrays[f"y_{split}"].astype(np.int64),
                }
            )
            for split in ("train", "test")
        },
        disable_shuffling=True,
    )
    (x_train, y_train), (x_test, y_test) = data.load_mnist(tmp_path)
    np.testing.assert_array_equal(x_train[..., 0], arrays["x_train"])
    np.testing.assert_array_equal(y_train, arrays["y_train"])
    np.testing.assert_array_equal(x_test[..., 0], arrays["x_test"])
    assert y_test.dtype == np.int32


def test_no_directory_at_all_names_the_variable_to_set(monkeypatch):
    monkeypatch.delenv("KERAS_TILT_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="KERAS_TILT_DATA is not set"):
        data.load_mnist()


def test_a_missing_file_is_named_with_how_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        data.load_mnist(tmp_path)
    assert str(tmp_path / "mnist.npz") in str(error.value)
    assert "keras.datasets.mnist.load_data()" in str(error.value)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_named_as_truncated(tmp_path, kept):
    content = (EMBEDDED / "mnist_6000.npz").read_bytes()
    path = tmp_path / "mnist.npz"
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match="truncated") as error:
        data.load_mnist(tmp_path)
    assert str(path) in str(error.value)


def test_a_flipped_byte_is_noticed(tmp_path):
    content = bytearray((EMBEDDED / "mnist_6000.npz").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "mnist.npz").write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read"):
        data.load_mnist(tmp_path)


def test_a_single_array_is_not_an_archive(tmp_path):
    with (tmp_path / "mnist.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match="complete .npz archive"):
        data.load_mnist(tmp_path)


def test_damaged_tfds_data_name_their_folder(tmp_path):
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{")
    with pytest.raises(ValueError, match=re.escape(str(folder))):
        data.load_mnist(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_test": None}, "to hold the arrays x_train, y_train"),
        ({"x_train": np.zeros((6, 27, 28), np.uint8)}, r"\[6, 27, 28\]"),
        ({"x_train": np.zeros((5, 28, 28), np.uint8)}, r"\[5, 28, 28\]"),
        ({"x_test": np.zeros((3, 28, 28), np.float32)}, "test: float32 images"),
        (
            {"y_train": np.zeros(6, np.float32)},
            "y_train of .*mnist.npz` must be integers.*float32",
        ),
        ({"y_train": np.full(6, 10, np.uint8)}, "labels in 0..9"),
        ({"y_train": np.array(3, np.uint8)}, r"y_train of .*must have shape \[n\]"),
        ({"y_train": np.array(list("012345"))}, "y_train of .*Class names become"),
    ],
)
def test_arrays_that_are_not_mnist_are_described(tmp_path, change, message):
    arrays = {k: v for k, v in (tiny_arrays() | change).items() if v is not None}
    np.savez_compressed(tmp_path / "mnist.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        data.load_mnist(tmp_path)


# The pipeline


def test_pixels_are_scaled_by_exactly_one_256th():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    ((images, labels),) = data.pipeline(pixels, np.array([-1]), 1)
    assert images.dtype == tf.float32 and labels.dtype == tf.int32
    np.testing.assert_array_equal(images, pixels / np.float32(256))


def test_without_a_seed_the_order_is_that_of_the_arrays():
    dataset = data.pipeline(*numbered_images(10), 4)
    assert passes(dataset, 2) == [list(range(10))] * 2
    assert [len(labels) for _, labels in dataset] == [4, 4, 2]


def test_drop_remainder_gives_full_batches_of_static_size():
    dataset = data.pipeline(*numbered_images(10), 4, drop_remainder=True)
    assert dataset.element_spec[0].shape == (4, 2, 2, 1)
    assert [len(labels) for _, labels in dataset] == [4, 4]
    assert int(dataset.cardinality()) == 2


def test_every_pass_shows_every_image_once_with_its_own_label():
    dataset = data.pipeline(*numbered_images(50), 8, shuffle_seed=1)
    assert sorted(passes(dataset, 1)[0]) == list(range(50))
    for images, labels in dataset:
        np.testing.assert_array_equal(256 * images[:, 0, 0, 0], labels)


def test_the_order_is_a_function_of_seed_and_pass():
    images_labels = numbered_images(50)
    one = passes(data.pipeline(*images_labels, 8, shuffle_seed=1), 3)
    np.random.seed(0)
    tf.random.set_seed(0)
    again = passes(data.pipeline(*images_labels, 8, shuffle_seed=1), 3)
    other = passes(data.pipeline(*images_labels, 8, shuffle_seed=2), 3)
    assert one == again
    assert len({tuple(order) for order in one + other}) == 6


def test_the_order_does_not_depend_on_the_batch_size():
    images_labels = numbered_images(50)
    small = passes(data.pipeline(*images_labels, 7, shuffle_seed=1), 2)
    assert small == passes(data.pipeline(*images_labels, 50, shuffle_seed=1), 2)


def test_a_resumed_training_sees_the_order_of_an_uninterrupted_one():
    images_labels = numbered_images(50)
    whole = passes(data.pipeline(*images_labels, 8, shuffle_seed=1), 5)
    resumed = data.pipeline(*images_labels, 8, shuffle_seed=1, first_epoch=3)
    assert passes(resumed, 2) == whole[3:]


@pytest.mark.parametrize(
    "shuffle_seed, first_step",
    slow_but([(None, 7), (1, 1), (1, 6)], itertools.product((None, 1), (1, 6, 7))),
)
def test_a_pass_resumed_at_a_step_is_the_rest_of_it_and_later_ones_are_whole(
    shuffle_seed, first_step
):
    arguments = (*numbered_images(50), 8)
    whole = passes(data.pipeline(*arguments, shuffle_seed=shuffle_seed), 5)
    resumed = data.pipeline(
        *arguments, shuffle_seed=shuffle_seed, first_epoch=3, first_step=first_step
    )
    rest = [labels.numpy().tolist() for _, labels in resumed]
    assert sum(rest, []) == whole[3][first_step * 8 :]
    assert passes(resumed, 1) == whole[4:]


def test_keras_fit_uses_one_pass_per_epoch():
    import keras

    images_labels = numbered_images(20)
    network = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten()])
    network.add(keras.layers.Dense(20))
    network.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    train = data.pipeline(*images_labels, 8, shuffle_seed=1)
    network.fit(
        train, validation_data=train.take(1), epochs=2, verbose=0, shuffle=False
    )
    # Two epochs and two validations are four passes: this one is the fifth.
    expected = data.pipeline(*images_labels, 8, shuffle_seed=1, first_epoch=4)
    assert passes(train, 1) == passes(expected, 1)


def test_a_network_that_scales_pixels_trains_alike_bit_for_bit():
    """So that whoever meets an image finds it in 0 ... 255; 1/256 is a power of two."""
    train, _ = data.embedded_mnist()
    found = []
    for scale_of_network, scale in ((1.0, data.PIXEL_SCALE), (data.PIXEL_SCALE, 1.0)):
        model = kt.GenerativeClassifier(kt.lenet(scale=scale_of_network))
        model.compile(optimizer=kt.CaffeSGD(kt.InverseDecay(0.01)))
        batches = data.pipeline(*train, 64, shuffle_seed=0, scale=scale)
        model.fit(batches.take(3), verbose=0)
        found.append(model.network.get_weights())
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_unlabelled_images_pass_through():
    pixels, labels = numbered_images(10)
    labels[::2] = -1
    order = passes(data.pipeline(pixels, labels, 3, shuffle_seed=0), 1)[0]
    assert order.count(-1) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": np.zeros((4, 28, 28), np.uint8)}, r"Reshape gray images"),
        ({"labels": np.zeros(3, np.int32)}, r"labels \[3\]"),
        ({"labels": np.zeros(4, np.float32)}, "must be integers.* Received: float32"),
        ({"labels": [0.0, 1.0, 2.0, 3.0]}, "must be integers.* Received: float"),
        ({"batch_size": 5}, "1..4, the number of images. Received: 5"),
        ({"batch_size": 0}, "Received: 0"),
        ({"shuffle_seed": -1}, "non-negative. Received: -1"),
        ({"shuffle_seed": 0, "first_epoch": -2}, "Received: 0 and -2"),
        ({"first_step": 3}, "`first_step` must be a whole number from 0 to 2"),
    ],
)
def test_bad_arguments_of_the_pipeline_are_quoted(arguments, message):
    defaults = {
        "images": np.zeros((4, 28, 28, 1), np.uint8),
        "labels": np.zeros(4, np.int32),
        "batch_size": 2,
    }
    with pytest.raises(ValueError, match=message):
        data.pipeline(**(defaults | arguments))
