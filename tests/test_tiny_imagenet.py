"""Tiny ImageNet is read as it is distributed, and told apart from what is not."""

import itertools
import os

import numpy as np
import pytest
from test_sources import as_file, pixels_of

from keras_tilt.data import batches, sources

WNIDS = ["n02124075", "n01443537", "n09246464"]  # in no order, as distributed
WORDS = "n01443537\tgoldfish, Carassius\nn02124075\tEgyptian cat\nn00000001\tx\n"


def write(folder, size=64, numbers=(10, 2), num_held_out=3):
    """Training images of each class, and others, of a gray value each."""
    (folder / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    (folder / "words.txt").write_text(WORDS)
    values = itertools.cycle(range(0, 250, 10))
    for wnid in WNIDS:
        images = folder / "train" / wnid / "images"
        images.mkdir(parents=True)
        (images.parent / f"{wnid}_boxes.txt").write_text("boxes\n")
        for i in numbers:
            save(images / f"{wnid}_{i}.JPEG", next(values), size)
    images = folder / "val" / "images"
    images.mkdir(parents=True)
    labels = (WNIDS[::-1] * num_held_out)[:num_held_out]
    rows = [f"val_{i}.JPEG\t{w}\t0\t0\t9\t9" for i, w in enumerate(labels)]
    (folder / "val" / "val_annotations.txt").write_text("\n".join(rows) + "\n")
    for i in range(num_held_out):
        save(images / f"val_{i}.JPEG", next(values), size)
    (folder / "test" / "images").mkdir(parents=True)
    save(folder / "test" / "images" / "test_0.JPEG", next(values), size)
    return folder


def save(path, value, size):
    """Some images are gray, as in the distribution."""
    pixels = np.full([size, size, 1], value, np.uint8)
    path.write_bytes(as_file(pixels, "JPEG"))


@pytest.fixture
def folder(tmp_path):
    """The layout, with three classes."""
    return write(tmp_path)


def test_classes_are_those_of_wnids_in_its_order_with_their_first_names(folder):
    source = sources.tiny_imagenet(folder)
    assert source.class_names == ["Egyptian cat", "goldfish", "n09246464"]
    assert source.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert source.image_shape == (64, 64, 3)
    first = os.path.join("train", WNIDS[0], "images", f"{WNIDS[0]}_10.JPEG")
    assert source.name(0) == first
    values = [pixels[5, 5].tolist() for pixels in pixels_of(source)]
    assert values == [[v] * 3 for v in (0, 10, 20, 30, 40, 50)]


def test_validation_labels_are_those_of_the_annotations(folder):
    source = sources.tiny_imagenet(folder, "validation")
    assert source.labels.tolist() == [2, 1, 0]
    assert source.class_names == sources.tiny_imagenet(folder).class_names
    assert [pixels[0, 0, 0] for pixels in pixels_of(source)] == [60, 70, 80]


def test_images_of_the_test_split_have_no_label(folder):
    source = sources.tiny_imagenet(folder, "test")
    assert source.labels.tolist() == [-1]
    assert source.class_names == sources.tiny_imagenet(folder).class_names


def test_equal_names_are_told_apart_by_their_wnids(folder):
    (folder / "words.txt").write_text(f"{WNIDS[0]}\tcrane\n{WNIDS[2]}\tcrane, bird\n")
    names = sources.tiny_imagenet(folder).class_names
    assert names == [f"crane ({WNIDS[0]})", WNIDS[1], f"crane ({WNIDS[2]})"]


def test_an_image_of_another_size_is_left_out_by_its_name(folder):
    source = sources.tiny_imagenet(folder)
    save(folder / source.name(3), 9, 63)
    corrupt = batches.Corrupt(0.5)
    dataset = batches.training_batches(
        source, range(6), 6, seed=0, epoch=0, crop=(64, 64), pad=8, corrupt=corrupt
    )
    ((images, labels),) = dataset.as_numpy_iterator()
    assert images.shape == (5, 64, 64, 3) and labels.tolist() == [0, 0, 1, 2, 2]
    assert corrupt.names == [source.name(3)]


def test_what_is_missing_is_said(folder):
    with pytest.raises(ValueError, match="one of train, validation, test"):
        sources.tiny_imagenet(folder, "val")
    with pytest.raises(FileNotFoundError, match="Received: no wnids.txt"):
        sources.tiny_imagenet(folder / "train")
    for path in (folder / "train" / WNIDS[1] / "images").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="none of 1 of them"):
        sources.tiny_imagenet(folder)
    os.rmdir(folder / "train" / WNIDS[1] / "images")
    with pytest.raises(FileNotFoundError, match=f"no {WNIDS[1]}|no train"):
        sources.tiny_imagenet(folder)
    with open(folder / "val" / "val_annotations.txt", "a") as file:
        file.write("val_9.JPEG\tn99999999\n")
    with pytest.raises(ValueError, match="4 lines, 1 of them"):
        sources.tiny_imagenet(folder, "validation")


def test_images_of_another_size_are_refused(tmp_path):
    write(tmp_path, size=32)
    with pytest.raises(ValueError, match=r"64 x 64 pixels. Received: .*\(32, 32, 3\)"):
        sources.tiny_imagenet(tmp_path)


def test_a_folder_is_known_by_its_files(folder):
    assert sources.is_tiny_imagenet(folder)
    assert not sources.is_tiny_imagenet(folder / "train")
