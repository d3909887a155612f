"""Sources: every form of storage gives the same pixels, and says what is wrong."""

import dataclasses
import io
import json
import os
import pathlib
import re
import resource
import shutil
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from cases import slow, slow_but
from data_files import data_file
from PIL import Image

from keras_tilt.data import batches, sources, tfds_builders
from keras_tilt.data.sources import array_records, in_memory

ROOT = pathlib.Path(__file__).resolve().parent.parent


def images_of_one_size(count=6, shape=(9, 8, 3)):
    return np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)


def as_file(pixels, format="PNG", **arguments):
    file = io.BytesIO()
    mode = {1: "L", 3: "RGB"}[pixels.shape[-1]]
    image = Image.fromarray(pixels.squeeze()).convert(mode)
    image.save(file, format, **arguments)
    return file.getvalue()


def pixels_of(source, numbers=None):
    """A list of what images look like."""
    numbers = np.arange(len(source.labels)) if numbers is None else np.array(numbers)
    elements = source.fetch(tf.constant(numbers, tf.int64))
    decode = source.decode or (lambda element: element)
    return [decode(element).numpy() for element in elements]


def assert_images(source, images, numbers=None):
    for found, expected in zip(pixels_of(source, numbers), images, strict=True):
        np.testing.assert_array_equal(found, expected)


# In memory


def test_arrays_are_fetched_by_number():
    images = images_of_one_size()
    source = sources.arrays(images, [0, 1, 2, 0, 1, -1], ["a", "b", "c"])
    assert_images(source, images[[4, 0, 4]], [4, 0, 4])
    assert source.labels.dtype == np.int32 and source.class_names == ["a", "b", "c"]
    assert source.image_shape == (9, 8, 3) and source.name(3) == "image 3"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros([2, 4, 4, 3]), [0, 1]), "Received: float64"),
        ((np.zeros([2, 4, 4, 3], np.uint8), [0]), "and 1 labels"),
        ((np.zeros([2, 4], np.uint8), [0, 1]), r"uint8 \[2, 4\]"),
        ((np.zeros([2, 4, 4], np.uint8), [0.0, 1.0]), "Received: float64"),
        ((np.zeros([0, 4, 4], np.uint8), np.zeros(0, int)), "n >= 1"),
        ((np.zeros([2, 4, 4], np.uint8), [0, -2]), "Received: -2..0"),
        ((np.zeros([2, 4, 4], np.uint8), [0, 2], ["a", "b"]), r"-1..1.*0..2"),
    ],
)
def test_bad_arrays_are_quoted(arguments, message):
    with pytest.raises(ValueError, match=message):
        sources.arrays(*arguments)


def test_synthetic_images_are_functions_of_seed_and_number():
    source = sources.synthetic((20, 30, 3), 10, 1000, seed=1)
    assert (
        len(source.labels) == 1000 and np.bincount(source.labels).tolist() == [100] * 10
    )
    five, six, again = pixels_of(source, [5, 6, 5])
    np.testing.assert_array_equal(five, again)
    assert five.dtype == np.uint8 and five.shape == source.image_shape
    assert np.mean(five == six) < 0.05
    other = pixels_of(sources.synthetic((20, 30, 3), 10, 1000, seed=2), [5])[0]
    assert np.mean(five == other) < 0.05
    assert abs(five.mean() - 127.5) < 5 * 74 / np.sqrt(five.size)


INTEGERS = [np.dtype(code) for code in "bBhHiIqQ"]


def check_labels(dtype, shape, tmp_path):
    """Of this type they are the same classes, wherever they go."""
    images = images_of_one_size()
    labels = np.array([0, 1, 2, 0, 2, 1])
    given = labels.astype(dtype).reshape(shape)
    np.savez(tmp_path / "x.npz", x_train=images, y_train=given)
    write_encoded(tmp_path / "files.npz", list(map(as_file, images)), given)
    found = [
        sources.arrays(images, given),
        sources.arrays(images, given, ["a", "b", "c"]),
        sources.npz(tmp_path / "x.npz", "train"),
        sources.npz(tmp_path / "files.npz", "train"),
        dataclasses.replace(sources.arrays(images, labels), labels=given),
    ]
    for source in found:
        assert source.labels.tolist() == labels.tolist()
        assert source.labels.dtype == np.int32 and len(source.class_names) == 3
        assert sources.concatenated(source, source).labels.tolist() == 2 * [*labels]
    expected = batches.by_classes(labels, 4, 2, 0, 0)
    np.testing.assert_array_equal(batches.by_classes(given, 4, 2, 0, 0), expected)
    order = np.array([4, 0, 1]).astype(dtype)
    dataset = batches.training_batches(
        found[2], order, 3, seed=0, epoch=0, crop=(9, 8), mirror=False
    )
    ((pixels, classes),) = dataset.as_numpy_iterator()
    np.testing.assert_array_equal(pixels, images[[4, 0, 1]])
    assert classes.tolist() == [2, 0, 1]


@pytest.mark.parametrize("dtype", slow_but(INTEGERS[:1], INTEGERS), ids=str)
def test_labels_of_every_integer_type_are_the_same_classes(dtype, tmp_path):
    check_labels(dtype, [-1], tmp_path)


def test_a_column_of_labels_is_the_same_classes(tmp_path):
    """As CIFAR of `keras.datasets` has them."""
    check_labels(np.uint8, [-1, 1], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_columns_of_every_integer_type_are_the_same_classes(dtype, tmp_path):
    """The quick tests are of rows of every type, and of columns of one."""
    check_labels(dtype, [-1, 1], tmp_path)


@pytest.mark.parametrize("labels", [["cat", "dog"], np.array([b"cat", b"dog"])])
def test_text_labels_get_a_sentence_that_names_their_file(labels, tmp_path):
    images = images_of_one_size(2)
    advice = "Class names become indices by `np.unique"
    with pytest.raises(ValueError, match=f"`labels` must be integers.*{advice}"):
        sources.arrays(images, labels)
    np.savez(tmp_path / "x.npz", x_train=images, y_train=labels)
    with pytest.raises(ValueError, match=f"`y_train of .*x.npz` must .*{advice}"):
        sources.npz(tmp_path / "x.npz", "train")


NAMES = [
    ["cat", "Stra\xdfe"],
    [b"cat", "Stra\xdfe".encode()],
    np.array([b"cat", "Stra\xdfe".encode()]),
    np.array([b"cat", "Stra\xdfe".encode()], object),
    np.array(["cat", "Stra\xdfe"]),
    ("cat", np.str_("Stra\xdfe")),
    iter(["cat", "Stra\xdfe"]),
]


@pytest.mark.parametrize("names", NAMES, ids=range(len(NAMES)))
def test_class_names_as_bytes_are_the_same_names(names, tmp_path):
    images = images_of_one_size(2)
    expected = ["cat", "Stra\xdfe"]
    if isinstance(names, np.ndarray) and names.dtype != object:
        for key in ("class_names", "wnids"):
            arrays = {key: names, "x_train": images, "y_train": [0, 1]}
            np.savez(tmp_path / "x.npz", **arrays)
            assert sources.npz(tmp_path / "x.npz", "train").class_names == expected
    if isinstance(names, list):
        write_folder(tmp_path, ["cat/1.png"])
        assert sources.folder(tmp_path, names).class_names == expected
    assert sources.arrays(images, [0, 1], names).class_names == expected


def test_names_that_are_no_list_of_text_are_quoted():
    images = images_of_one_size(2)
    for names in ("cat", b"cat", np.array("cat"), np.array([["a", "b"]])):
        with pytest.raises(ValueError, match="`class_names` must be a list of names"):
            sources.arrays(images, [0, 1], names)
    with pytest.raises(ValueError, match=r"in UTF-8. Received: b'\\xdf'"):
        sources.arrays(images, [0, 1], ["a", b"\xdf"])


# npz


def write_encoded(path, files, labels, prefix="train_", **others):
    offsets = np.cumsum([0, *map(len, files)])
    arrays = {
        f"{prefix}buf": np.frombuffer(b"".join(files), np.uint8),
        f"{prefix}off": offsets,
        f"y_{prefix[:-1]}" if prefix else "y": np.asarray(labels),
    }
    np.savez(path, **(arrays | others))


@pytest.mark.parametrize("shape", [(9, 8), (9, 8, 1), (9, 8, 3)])
def test_npz_arrays_come_back_as_written(tmp_path, shape):
    images = images_of_one_size(shape=shape)
    np.savez(tmp_path / "x.npz", x_test=images, y_test=np.arange(6))
    source = sources.npz(tmp_path / "x.npz", "test")
    assert_images(source, images.reshape(6, 9, 8, -1))
    assert source.labels.tolist() == list(range(6))


@pytest.mark.parametrize(("split", "prefix"), [("train", "train_"), (None, "")])
def test_encoded_images_of_one_size_become_pixels(tmp_path, split, prefix):
    images = images_of_one_size()
    path = tmp_path / "x.npz"
    names = np.array(["a", "b"])
    files = [as_file(image) for image in images]
    write_encoded(path, files, [0, 1] * 3, prefix, class_names=names)
    source = sources.npz(path, split)
    assert source.decode is None and source.class_names == ["a", "b"]
    assert_images(source, images)


@pytest.mark.parametrize("case", ["other size", "unreadable", "large"])
def test_other_encoded_images_stay_encoded(tmp_path, case, monkeypatch):
    images = list(images_of_one_size())
    files = [as_file(image) for image in images]
    if case == "other size":
        images[2] = images[2][:5]
        files[2] = as_file(images[2])
    if case == "unreadable":
        files[2] = b"text"
    if case == "large":
        monkeypatch.setattr(in_memory, "_LARGEST_IN_MEMORY", 100)
    write_encoded(tmp_path / "x.npz", files, [0] * 6)
    source = sources.npz(tmp_path / "x.npz", "train")
    assert source.decode is not None and source.image_shape is None
    numbers = [i for i in (5, 2, 0) if case != "unreadable" or i != 2]
    assert_images(source, [images[i] for i in numbers], numbers)


def test_bad_npz_files_are_told_apart(tmp_path):
    path = tmp_path / "x.npz"
    with pytest.raises(FileNotFoundError, match=r"x.npz, which is not a file"):
        sources.npz(path, "train")
    path.write_bytes(b"PK")
    with pytest.raises(ValueError, match="2 bytes that cannot be read"):
        sources.npz(path, "train")
    np.savez(path, x_test=1, y_test=2)
    message = "x_train and y_train, or train_buf.*Received: x_test, y_test"
    with pytest.raises(ValueError, match=message):
        sources.npz(path, "train")
    write_encoded(path, [], np.zeros(0, int))
    with pytest.raises(ValueError, match="n >= 1"):
        sources.npz(path, "train")
    np.savez(path, train_buf=np.zeros(3, np.uint8), train_off=[0, 4], y_train=[0])
    with pytest.raises(ValueError, match="1 labels and 2 offsets up to 4"):
        sources.npz(path, "train")


# Folders


def write_folder(directory, files):
    """Files by relative path, each a PNG of a number that is its place in the list."""
    for i, file in enumerate(files):
        (directory / file).parent.mkdir(parents=True, exist_ok=True)
        (directory / file).write_bytes(as_file(np.full([4, 5, 3], i, np.uint8)))


def test_classes_of_a_folder_are_its_folders_in_order(tmp_path):
    files = ["b/2.PNG", "b/10.jpeg", "a/x.JPG", "c/1.png", "c/readme.txt", ".git/1.png"]
    write_folder(tmp_path, files)
    source = sources.folder(tmp_path)
    assert source.class_names == ["a", "b", "c"]
    assert source.labels.tolist() == [0, 1, 1, 2]
    found = [source.name(i) for i in range(4)]
    assert found == [
        os.path.join(*f.split("/")) for f in (files[i] for i in (2, 1, 0, 3))
    ]
    assert [image[0, 0, 0] for image in pixels_of(source)] == [2, 1, 0, 3]


def test_a_validation_folder_has_the_numbers_of_the_training_classes(tmp_path):
    write_folder(tmp_path, ["c/1.png", "a/1.png"])
    source = sources.folder(tmp_path, class_names=["a", "b", "c"])
    assert source.labels.tolist() == [0, 2] and source.class_names == ["a", "b", "c"]
    with pytest.raises(ValueError, match="as the 2 classes. Received: c"):
        sources.folder(tmp_path, class_names=["a", "b"])


def test_a_folder_of_images_alone_is_unlabelled(tmp_path):
    write_folder(tmp_path, ["2.png", "1.png"])
    source = sources.folder(tmp_path)
    assert source.labels.tolist() == [-1, -1] and source.class_names == []
    assert [image[0, 0, 0] for image in pixels_of(source)] == [1, 0]


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
@pytest.mark.parametrize(
    "name", [b"caf\xe9", *map(slow, (b"\xff", "\u7f8e".encode("euc-jp")))]
)
def test_names_of_files_that_are_not_utf8_are_read_and_told(name, tmp_path):
    """As of archives from systems that wrote Latin-1, and whatever else a disk has."""
    folder, legible = os.fsencode(tmp_path), repr(name)[2:-1]
    for c in (b"a", name):
        os.mkdir(os.path.join(folder, c))
        for i in range(2):
            with open(os.path.join(folder, c, name + b"%d.png" % i), "wb") as file:
                file.write(as_file(np.full([4, 5, 3], i, np.uint8)))
    with open(os.path.join(folder, name, name + b"9.png"), "wb") as file:
        file.write(b"text")
    source = sources.folder(tmp_path)
    assert source.class_names == ["a", legible]
    assert source.labels.tolist() == [0, 0, 1, 1, 1]
    assert [image[0, 0, 0] for image in pixels_of(source, range(4))] == [0, 1, 0, 1]
    corrupt = batches.Corrupt(0.2)
    dataset = batches.evaluation_batches(source, 5, crop=(4, 5), corrupt=corrupt)
    ((images, _),) = dataset.as_numpy_iterator()
    assert len(images) == 4
    assert corrupt.names == [os.path.join(legible, legible + "9.png")]
    corrupt.names[0].encode()  # can be printed and stored
    again = sources.folder(tmp_path, source.class_names)
    assert again.labels.tolist() == source.labels.tolist()
    with pytest.raises(ValueError, match=re.escape(f"Received: {legible}.")):
        sources.folder(tmp_path, ["a"])


def test_bad_folders_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match="none, which is not a folder"):
        sources.folder(tmp_path / "none")
    with pytest.raises(ValueError, match="0 folders, 0 of them .* and 0 images"):
        sources.folder(tmp_path)
    write_folder(tmp_path, ["a/1.png", "b/1.png"])
    (tmp_path / "b" / "1.png").unlink()
    with pytest.raises(ValueError, match=r"2 folders, 1 of them without images \(b\)"):
        sources.folder(tmp_path)
    write_folder(tmp_path, ["b/1.png", "1.png"])
    with pytest.raises(ValueError, match="and 1 images beside them"):
        sources.folder(tmp_path)


# TFDS


def prepared_set(data_dir, file_format, shape=(9, 8, 3), encoding="png"):
    """A data set of TFDS of 6 images, 4 in train and 2 in test; the images."""
    import tensorflow_datasets as tfds

    images = images_of_one_size(shape=tuple(8 if s is None else s for s in shape))
    image = tfds.features.Image(shape=shape, encoding_format=encoding)
    label = tfds.features.ClassLabel(names=["a", "b", "c"])
    rows = {"image": images, "label": np.arange(6) % 3}
    tfds.dataset_builders.store_as_tfds_dataset(
        name="tiny",
        version="1.0.0",
        features=tfds.features.FeaturesDict({"image": image, "label": label}),
        data_dir=data_dir,
        split_datasets={
            split: tf.data.Dataset.from_tensor_slices(
                {name: values[part] for name, values in rows.items()}
            )
            for split, part in (("train", slice(4)), ("test", slice(4, 6)))
        },
        file_format=file_format,
        disable_shuffling=True,
    )
    return images


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
@pytest.mark.parametrize("channels", [slow(1), 3])
def test_a_prepared_set_has_the_same_images_in_both_formats(
    tmp_path, file_format, channels
):
    images = prepared_set(tmp_path, file_format, (9, 8, channels))
    for _ in range(2):  # the second time with labels that have been saved
        source = sources.tfds_named("tiny", tmp_path, "train")
        assert source.labels.tolist() == [0, 1, 2, 0]
        assert source.class_names == ["a", "b", "c"]
        assert source.image_shape == (9, 8, channels)
        assert_images(source, images[[3, 0, 3]], [3, 0, 3])
    part = sources.tfds_named("tiny:1.0.0", tmp_path, "test[1:]")
    assert part.labels.tolist() == [2]
    assert_images(part, images[5:])


def test_a_set_converted_beside_its_first_format_is_read_at_random(tmp_path):
    """As `tfds convert_format` leaves it: files of both, an alternative format."""
    images = prepared_set(tmp_path, "tfrecord")
    prepared_set(tmp_path / "other", "array_record")
    folder = tmp_path / "tiny" / "1.0.0"
    for file in (tmp_path / "other" / "tiny" / "1.0.0").glob("*array_record*"):
        file.rename(folder / file.name)
    info = json.loads((folder / "dataset_info.json").read_text())
    info["alternativeFileFormats"] = ["array_record"]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    source = sources.tfds_named("tiny", tmp_path, "train")
    assert source.decode is not None  # those of tfrecord have become pixels
    assert_images(source, images[[3, 0]], [3, 0])


def test_labels_are_read_once_and_again_when_damaged(tmp_path):
    prepared_set(tmp_path, "array_record")
    expected = sources.tfds_named("tiny", tmp_path, "train").labels
    (file,) = tmp_path.rglob("labels*.npy")
    saved = np.load(file)
    np.save(file, saved[::-1].copy())
    found = sources.tfds_named("tiny", tmp_path, "train").labels
    np.testing.assert_array_equal(found, expected[::-1])
    for damage in (b"", file.read_bytes()[:-1]):
        file.write_bytes(damage)
        found = sources.tfds_named("tiny", tmp_path, "train").labels
        np.testing.assert_array_equal(found, expected)


def test_a_set_that_cannot_be_read_at_random_must_be_small(tmp_path, monkeypatch):
    prepared_set(tmp_path, "tfrecord")
    monkeypatch.setattr(tfds_builders, "_LARGEST_IN_MEMORY", 100)
    message = "tfds convert_format --dataset_version_dir=.*tiny/1.0.0 --out_file_format"
    with pytest.raises(ValueError, match=message):
        sources.tfds_named("tiny", tmp_path, "train")


def test_bad_sets_are_told_apart(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"tfds.builder\('tiny', data_dir='.*array_record"
    ):
        sources.tfds_named("tiny", tmp_path, "train")
    prepared_set(tmp_path, "array_record")
    for split in ("validation", "train[4:]"):
        with pytest.raises(ValueError, match="Choose among train, test"):
            sources.tfds_named("tiny", tmp_path, split)


def test_a_set_without_images_of_classes_is_refused(tmp_path):
    import tensorflow_datasets as tfds

    tfds.dataset_builders.store_as_tfds_dataset(
        name="text",
        version="1.0.0",
        features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
        data_dir=tmp_path,
        split_datasets={"train": tf.data.Dataset.from_tensor_slices({"text": ["a"]})},
    )
    with pytest.raises(ValueError, match="features image.*with text. Choose a set"):
        sources.tfds_named("text", tmp_path, "train")


def test_there_may_be_more_files_than_a_process_may_open_at_first():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (600, before[1]))
        array_records.allow_open_files(300)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 600
        array_records.allow_open_files(1024)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 1024 + 256
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# The archives of ImageNet

WNIDS = ["n01440764", "n01443537", "n02105855", "n01739381"]
CMYK, PNG = "n01739381_1309.JPEG", "n02105855_2933.JPEG"  # two of the real set


def tar_of(files):
    """A tar file, as bytes, of contents by name."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def photo(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(pixels).resize((40, 32), Image.BICUBIC))


def contents():
    """The two archives in small: JPEG by name for each wnid, and for validation."""
    train = {
        wnid: {f"{wnid}_{i}.JPEG": as_file(photo(3 * k + i), "JPEG") for i in range(3)}
        for k, wnid in enumerate(WNIDS)
    }
    file = io.BytesIO()
    Image.fromarray(photo(20)).convert("CMYK").save(file, "JPEG")
    train[WNIDS[3]][CMYK] = file.getvalue()
    train[WNIDS[2]][PNG] = as_file(photo(21))
    names = [f"ILSVRC2012_val_{i + 1:08d}.JPEG" for i in range(5)]
    return train, {name: as_file(photo(30 + i), "JPEG") for i, name in enumerate(names)}


def write_archives(directory, train=None, val=None):
    found = contents()
    train = found[0] if train is None else train
    val = found[1] if val is None else val
    inner = {f"{wnid}.tar": tar_of(files) for wnid, files in train.items()}
    (directory / "ILSVRC2012_img_train.tar").write_bytes(tar_of(inner))
    (directory / "ILSVRC2012_img_val.tar").write_bytes(tar_of(val))


def test_imagenet_is_built_of_its_archives_and_then_found(tmp_path):
    """With the builder of TFDS, which mends the images of other formats."""
    write_archives(tmp_path)
    source = sources.imagenet(tmp_path, "train")
    assert len(source.class_names) == 1000
    names = [source.name(i).split()[0] for i in range(14)]
    wnids = [source.class_names[label] for label in source.labels]
    assert [name.split("_")[0] for name in names] == wnids
    train, val = contents()
    files = {name: file for members in train.values() for name, file in members.items()}
    assert sorted(names) == sorted(files)
    for name, found in zip(names, pixels_of(source), strict=True):
        expected = Image.open(io.BytesIO(files[name])).convert("RGB")
        difference = found - np.asarray(expected, np.float32)
        assert np.abs(difference).max() <= (40 if name in (CMYK, PNG) else 8)
    for archive in tmp_path.glob("*.tar"):
        archive.unlink()
    validation = sources.imagenet(tmp_path, "validation")
    names = [validation.name(i).split()[0] for i in range(5)]
    assert sorted(names) == sorted(val)
    # Image 1 of the real validation set is a snake, n01751748, of the packaged list.
    first = validation.labels[names.index("ILSVRC2012_val_00000001.JPEG")]
    assert validation.class_names[first] == "n01751748"


def test_classes_of_imagenet_are_in_the_order_of_keras(tmp_path):
    import tensorflow_datasets as tfds

    classes = json.loads(data_file("imagenet_classes.json").read_text())
    expected = [wnid for wnid, _ in classes]
    label = tfds.builder("imagenet2012", data_dir=tmp_path).info.features["label"]
    assert label.names == expected == sorted(expected)


def test_missing_archives_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no ILSVRC2012_img_train.tar and no"):
        sources.imagenet(tmp_path, "train")
    write_archives(tmp_path)
    (tmp_path / "ILSVRC2012_img_val.tar").unlink()
    with pytest.raises(FileNotFoundError, match="and no ILSVRC2012_img_val.tar"):
        sources.imagenet(tmp_path, "train")


@pytest.mark.parametrize("name", ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"])
@pytest.mark.parametrize("left", [0, 100, 0.5, "member"])
def test_truncated_archives_are_refused(tmp_path, name, left):
    write_archives(tmp_path)
    content = (tmp_path / name).read_bytes()
    with tarfile.open(tmp_path / name) as archive:
        last = archive.getmembers()[-1].offset
    size = {0: 0, 100: 100, 0.5: len(content) // 2, "member": last}[left]
    (tmp_path / name).write_bytes(content[:size])
    with pytest.raises(ValueError, match=rf"complete tar file.*of {size} bytes"):
        sources.imagenet(tmp_path, "train")


def test_archives_with_other_files_are_refused(tmp_path):
    train, val = contents()
    write_archives(tmp_path, train={"cats": {}, **train})
    with pytest.raises(ValueError, match="5 files, of which 1 .* cats.tar"):
        sources.imagenet(tmp_path, "train")
    del val["ILSVRC2012_val_00000002.JPEG"]  # would shift the labels after it
    write_archives(tmp_path, val=val)
    with pytest.raises(ValueError, match="4 files, of which 1 .*_00000005.JPEG"):
        sources.imagenet(tmp_path, "train")


def test_a_damaged_inner_archive_ends_the_build_and_a_whole_one_mends_it(tmp_path):
    write_archives(tmp_path)
    path = tmp_path / "ILSVRC2012_img_train.tar"
    whole = path.read_bytes()
    train, _ = contents()
    inner = {f"{wnid}.tar": tar_of(files) for wnid, files in train.items()}
    inner["n01443537.tar"] = inner["n01443537.tar"][:700]
    path.write_bytes(tar_of(inner))
    with pytest.raises(ValueError, match="to become a data set.*ReadError"):
        sources.imagenet(tmp_path, "train")
    path.write_bytes(whole)
    (tmp_path / "imagenet2012" / "incomplete.x_5.1.0").mkdir()  # as if killed
    assert len(sources.imagenet(tmp_path, "train").labels) == 14


def test_a_full_disk_is_told_before_the_build(tmp_path, monkeypatch):
    write_archives(tmp_path)
    (tmp_path / "imagenet2012" / "incomplete.x_5.1.0").mkdir(parents=True)
    full = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(OSError, match="Received: 1000 bytes.*killed build.*incomplete"):
        sources.imagenet(tmp_path, "train")


# Of other sources


def file_source(tmp_path, numbers):
    write_folder(tmp_path, [f"{number}.png" for number in numbers])
    return sources.folder(tmp_path)


def test_concatenated_images_are_those_of_both():
    images = images_of_one_size(7)
    first = sources.arrays(images[:4], [0, 1, 2, 0])
    second = sources.arrays(images[4:], [1, -1, 0], ["0", "1", "2"])
    both = sources.concatenated(first, second)
    assert both.labels.tolist() == [0, 1, 2, 0, 1, -1, 0]
    numbers = [6, 0, 4, 3, 5]
    assert_images(both, images[numbers], numbers)
    assert_images(both, images[:2], [0, 1])
    assert both.image_shape == (9, 8, 3) and both.name(6) == "image 2"


def test_concatenated_files_may_be_of_two_kinds(tmp_path):
    """Records of TFDS, bytes of another size, and paths; each decoded by its own."""
    images = prepared_set(tmp_path, "array_record")
    first = sources.tfds_named("tiny", tmp_path, "train")
    write_folder(tmp_path / "files", ["1.png", "0.png"])
    second = sources.folder(tmp_path / "files")
    both = sources.concatenated(first, second)
    assert both.labels.tolist() == [0, 1, 2, 0, -1, -1] and both.image_shape is None
    found = pixels_of(both, [5, 0, 3, 4])
    np.testing.assert_array_equal(found[1], images[0])
    np.testing.assert_array_equal(found[2], images[3])
    assert found[0].shape == (4, 5, 3) and found[0].max() == 0
    assert found[3].min() == 1 and both.name(4) == "0.png"
    again = sources.concatenated(first, sources.tfds_named("tiny", tmp_path, "test"))
    assert_images(again, images[[5, 1]], [5, 1])


@pytest.mark.parametrize("files_first", [False, True])
def test_pixels_and_what_is_decoded_are_concatenated(files_first, tmp_path):
    """Files of many sizes may have pixels of any size after them."""
    images = images_of_one_size(4)
    pixels = sources.arrays(images, [0, 1, 0, 1])
    made = sources.synthetic(images.shape[1:], 2, 3)
    write_folder(tmp_path, ["0.png", "1.png"])
    files = sources.folder(tmp_path)
    if files_first:
        both = sources.concatenated(files, sources.unlabelled(pixels))
        found = pixels_of(both, [3, 1, 2])
        np.testing.assert_array_equal(found[1], pixels_of(files, [1])[0])
        np.testing.assert_array_equal([found[0], found[2]], images[[1, 0]])
        assert both.image_shape is None
        return
    both = sources.concatenated(pixels, made)
    assert both.image_shape == images.shape[1:]
    found = pixels_of(both, [5, 2, 4])
    np.testing.assert_array_equal(found[1], images[2])
    np.testing.assert_array_equal([found[0], found[2]], pixels_of(made, [1, 0]))


def test_sources_that_do_not_fit_are_not_concatenated(tmp_path):
    first = sources.arrays(images_of_one_size(), [0, 1] * 3)
    with pytest.raises(ValueError, match="images of one shape"):
        smaller = sources.arrays(np.zeros([1, 4, 4, 3], np.uint8), [0])
        sources.concatenated(first, smaller)
    gray = sources.unlabelled(sources.arrays(np.zeros([1, 4, 4], np.uint8), [0]))
    with pytest.raises(ValueError, match="equally many channels. Received: 3 and 1"):
        sources.concatenated(file_source(tmp_path, "1"), gray)
    with pytest.raises(ValueError, match="images of one shape"):
        sources.concatenated(first, file_source(tmp_path, "1"))
    other = sources.arrays(images_of_one_size(), [0, 1] * 3, ["a", "b"])
    with pytest.raises(ValueError, match="class names of both"):
        sources.concatenated(first, other)
    both = sources.concatenated(first, sources.unlabelled(other))
    assert both.labels.tolist() == [0, 1] * 3 + [-1] * 6


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 1.0])
def test_a_fraction_of_every_class_keeps_its_labels(fraction):
    labels = np.repeat([0, 1, 2, -1], [40, 20, 3, 10])
    source = sources.arrays(np.zeros([73, 2, 2], np.uint8), labels)
    found = sources.with_labelled_fraction(source, fraction, seed=1).labels
    kept = found >= 0
    np.testing.assert_array_equal(found[kept], labels[kept])
    expected = [max(1, round(fraction * n)) for n in (40, 20, 3)]
    assert np.bincount(found[kept]).tolist() == expected


def test_a_smaller_fraction_is_part_of_a_larger_one_and_seeds_differ():
    source = sources.arrays(np.zeros([60, 2, 2], np.uint8), np.arange(60) % 3)
    kept = [
        set(np.flatnonzero(sources.with_labelled_fraction(source, f, s).labels >= 0))
        for f, s in ((0.2, 1), (0.5, 1), (0.2, 2))
    ]
    assert kept[0] < kept[1] and kept[0] != kept[2]
    with pytest.raises(ValueError, match="in 0..1. Received: 10"):
        sources.with_labelled_fraction(source, 10, 1)
