"""Batches: orders, resumed epochs, cuts of a ramp whose pixels tell where they were."""

import dataclasses
import functools
import io
import itertools
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import slow, slow_but
from PIL import Image

import keras_tilt as kt
from keras_tilt.data import batches, sources

LABELS = np.repeat([0, 1, 2, 3, 4, -1], [20, 20, 20, 20, 9, 31])


def ramp(height, width):
    """An image whose red is the row and whose green is the column of each pixel."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return np.stack([rows, columns, 0 * rows], axis=-1).astype(np.uint8)


def numbered_ramps(count, height=12, width=16):
    """Ramps whose blue is the number of the image; labels are numbers modulo 7."""
    images = np.stack([ramp(height, width)] * count)
    images[..., 2] = np.arange(count)[:, None, None]
    return images, np.arange(count) % 7


def encoded(images, format="PNG"):
    """A list of files, as bytes."""
    files = []
    for pixels in images:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format)
        files.append(file.getvalue())
    return files


def source_of_files(files, labels=None, image_shape=None):
    """A source of encoded images in memory, which are decoded when asked for."""
    labels = np.zeros(len(files), np.int32) if labels is None else labels
    return sources.Source(
        labels=labels,
        class_names=[str(c) for c in range(max(labels) + 1)],
        image_shape=image_shape,
        fetch=functools.partial(tf.gather, tf.constant(files)),
        decode=functools.partial(
            tf.io.decode_image, channels=3, expand_animations=False
        ),
        name="file {}".format,
    )


def noise_source(kind, count=23):
    """Images of noise, all of 14 x 12 pixels, or 14 x 12 and 12 x 15 in turn."""
    rng = np.random.default_rng(0)
    shapes = [(14, 12, 3), (12, 15, 3)]
    images = [
        rng.integers(0, 256, shapes[i % 2 * (kind == "files")], np.uint8)
        for i in range(count)
    ]
    labels = np.arange(count) % 3
    if kind == "pixels":
        return sources.arrays(np.stack(images), labels)
    return source_of_files(encoded(images), labels)


def numpy_batches(dataset):
    return [(images.numpy(), labels.numpy()) for images, labels in dataset]


def assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for part, other_part in zip(one, other, strict=True):
            np.testing.assert_array_equal(part, other_part)


def trained_on(source, batch_size=4, epoch=2, order=None, **arguments):
    """Batches of an epoch, in an order of its own unless one is given."""
    if order is None:
        order = batches.uniform_order(len(source.labels), 5, epoch)
    defaults = {"seed": 5, "crop": (8, 10)}
    return batches.training_batches(
        source, order, batch_size, epoch=epoch, **(defaults | arguments)
    )


# Orders


def test_the_uniform_order_is_a_permutation_for_every_seed_and_epoch():
    orders = [batches.uniform_order(100, s, e) for s in range(3) for e in range(3)]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert len({tuple(order) for order in orders}) == 9


@pytest.mark.parametrize(("share", "classes"), [(1, 5), (4, 3), (6, 2), (12, 1)])
def test_every_batch_has_k_classes_equally_often_and_all_images_take_turns(
    share, classes
):
    """Of 89 labelled images, so that permutations end within batches."""
    size = share * classes
    order = batches.by_classes(LABELS, size, classes, seed=3, epoch=1)
    assert order.dtype == np.int64 and len(order) == 89 // size * size
    for batch in order.reshape(-1, size):
        found, counts = np.unique(LABELS[batch], return_counts=True)
        assert len(found) == classes and np.all(counts == share) and found[0] >= 0
        assert len(np.unique(batch)) == size or share > 9
    turns = np.bincount(LABELS[order], minlength=5) // share
    assert turns.max() - turns.min() <= 1
    for c in range(5):
        used = np.bincount(order, minlength=len(LABELS))[LABELS == c]
        assert used.max() - used.min() <= 1


@pytest.mark.parametrize("labelled", [0, 5, 16])
def test_every_batch_has_m_labelled_images_and_all_images_take_turns(labelled):
    labels = np.where(np.arange(120) % 4, -1, 0)
    order = batches.by_labelled(labels, 16, labelled, seed=3, epoch=1)
    assert len(order) == 120 // 16 * 16
    for batch in order.reshape(-1, 16):
        assert np.sum(labels[batch] >= 0) == labelled
        assert len(np.unique(batch)) == 16
    used = np.bincount(order, minlength=120)
    for kind, there in ((labels >= 0, labelled), (labels < 0, 16 - labelled)):
        assert used[kind].max() - used[kind].min() <= 1
        assert bool(used[kind].any()) == bool(there)


@pytest.mark.parametrize(
    "draw",
    [
        functools.partial(batches.by_classes, LABELS, 12, 3),
        functools.partial(batches.by_labelled, LABELS, 12, 5),
    ],
)
def test_orders_are_functions_of_seed_and_epoch(draw):
    orders = {tuple(draw(s, e)) for s in range(3) for e in range(3) for _ in range(2)}
    assert len(orders) == 9


def test_labelled_images_are_spread_over_a_batch():
    """Replicas take parts of it. In 1,000 batches each place has 500, sd 16."""
    labels = np.where(np.arange(4000) % 4, -1, 0)
    order = batches.by_labelled(labels, 4, 2, seed=0, epoch=0).reshape(-1, 4)
    counts = np.sum(labels[order] >= 0, axis=0)
    assert np.all(np.abs(counts - 500) < 5 * np.sqrt(1000 / 4))


# Resuming


@pytest.mark.parametrize(
    "kind, drop_remainder",
    slow_but(
        [("files", False)],
        itertools.product(("pixels", "files"), (False, True)),
    ),
)
def test_an_epoch_resumed_at_any_step_is_bit_for_bit_the_rest_of_it(
    kind, drop_remainder
):
    source = noise_source(kind, count=14)
    arguments = {"shorter_side": 11, "pad": 2, "drop_remainder": drop_remainder}
    whole = numpy_batches(trained_on(source, **arguments))
    assert len(whole) == 3 + (not drop_remainder)
    for step in range(len(whole) + 1):
        resumed = trained_on(source, first_step=step, **arguments)
        assert int(resumed.cardinality()) == len(whole) - step
        assert_same(numpy_batches(resumed), whole[step:])


@pytest.mark.parametrize("kind", [slow("pixels"), "files"])
def test_batches_do_not_depend_on_threads_or_on_hidden_state(kind, monkeypatch):
    source = noise_source(kind)
    tf.random.set_seed(1)
    dataset = trained_on(source, shorter_side=11)
    first = numpy_batches(dataset)
    monkeypatch.setattr(batches, "_THREADS", 7)
    tf.random.set_seed(2)
    np.random.seed(2)
    assert_same(numpy_batches(trained_on(source, shorter_side=11)), first)
    assert_same(numpy_batches(dataset), first)


def test_cuts_differ_between_epochs_and_seeds():
    source, order = noise_source("pixels"), np.arange(23)
    found = {
        numpy_batches(trained_on(source, 23, order=order, seed=s, epoch=e))[0][
            0
        ].tobytes()
        for s in range(2)
        for e in range(2)
    }
    assert len(found) == 4


# Cuts


def where(image, crop):
    """First row, first column and mirroring of a cut of a ramp, all checked."""
    mirrored = image[0, 0, 1] > image[0, 1, 1]
    across = image[:, ::-1] if mirrored else image
    top, left = across[0, 0, :2].astype(int)
    whole = ramp(top + crop[0], left + crop[1])[top:, left:]
    np.testing.assert_array_equal(across[..., :2], whole[..., :2])
    return top, left, bool(mirrored)


@pytest.mark.parametrize("kind", ["pixels", "files"])
def test_cuts_are_where_the_table_of_seed_and_epoch_says(kind):
    images, labels = numbered_ramps(40)
    source = sources.arrays(images, labels)
    if kind == "files":
        source = source_of_files(encoded(images), labels)
    order = batches.uniform_order(40, 5, 2)
    ((cut, found),) = numpy_batches(trained_on(source, 40))
    np.testing.assert_array_equal(cut[:, 0, 0, 2], order)
    np.testing.assert_array_equal(found, labels[order])
    table = np.random.default_rng([5, 2, 2]).random([40, 3])
    for image, (down, across, mirror) in zip(cut, table, strict=True):
        expected = int(5 * down), int(7 * across), mirror < 0.5
        assert where(image, (8, 10)) == expected


def test_all_places_occur_equally_often_and_half_the_images_are_mirrored():
    """35 places and two sides: chi-square on 69 degrees of freedom, sd 11.7."""
    source = sources.arrays(np.stack([ramp(12, 16)] * 7000), np.zeros(7000, int))
    ((cut, _),) = numpy_batches(trained_on(source, 7000))
    counts = np.zeros([5, 7, 2])
    for image in cut:
        counts[where(image, (8, 10))[:2] + (int(image[0, 0, 1] > image[0, 1, 1]),)] += 1
    assert np.sum((counts - 100) ** 2 / 100) < 69 + 5 * np.sqrt(2 * 69)
    assert abs(counts[..., 1].sum() - 3500) < 5 * np.sqrt(7000 / 4)


def test_without_mirror_none_is_mirrored_and_places_are_the_same():
    source = sources.arrays(*numbered_ramps(40))
    ((cut, _),) = numpy_batches(trained_on(source, 40))
    ((straight, _),) = numpy_batches(trained_on(source, 40, mirror=False))
    for image, other in zip(cut, straight, strict=True):
        assert where(other, (8, 10)) == (*where(image, (8, 10))[:2], False)


@pytest.mark.parametrize("kind", ["pixels", "files"])
def test_padding_reflects_the_image_at_its_border(kind):
    images, labels = numbered_ramps(40)
    source = sources.arrays(images, labels)
    if kind == "files":
        source = source_of_files(encoded(images), labels)
    ((cut, _),) = numpy_batches(trained_on(source, 40, crop=(12, 16), pad=3))
    table = np.random.default_rng([5, 2, 2]).random([40, 3])
    order = batches.uniform_order(40, 5, 2)
    for image, number, (down, across, mirror) in zip(cut, order, table, strict=True):
        padded = np.pad(images[number], [(3, 3), (3, 3), (0, 0)], "reflect")
        top, left = int(7 * down), int(7 * across)
        expected = padded[top : top + 12, left : left + 16]
        expected = expected[:, ::-1] if mirror < 0.5 else expected
        np.testing.assert_array_equal(image, expected)


def test_the_shorter_side_is_scaled_bilinearly_and_the_longer_in_proportion():
    """A ramp stays one, with pixel i of n at (i + 1/2) m / n - 1/2 of m: 33 to 17."""
    image = ramp(24, 33)
    source = source_of_files(encoded([image]))
    ((cut, _),) = numpy_batches(
        batches.evaluation_batches(source, 1, crop=(12, 12), shorter_side=12)
    )
    np.testing.assert_allclose(cut[0, :, 0, 0], 2 * np.arange(12) + 0.5, atol=1e-5)
    across = (np.arange(2, 14) + 0.5) * 33 / 17 - 0.5
    np.testing.assert_allclose(cut[0, 0, :, 1], across, atol=1e-4)


def test_what_is_scaled_far_down_is_smoothed_first():
    """Stripes of one pixel, a quarter of the size: gray, not black or white."""
    stripes = np.zeros([96, 96, 3], np.uint8)
    stripes[:, ::2] = 255
    source = source_of_files(encoded([stripes]))
    ((cut, _),) = numpy_batches(
        batches.evaluation_batches(source, 1, crop=(20, 20), shorter_side=24)
    )
    assert np.all(np.abs(cut - 127.5) < 10)


def test_five_crops_are_the_center_and_the_corners_as_written():
    images, labels = numbered_ramps(3)
    expected = [(2, 3), (0, 0), (0, 6), (4, 0), (4, 6)]
    for source in (
        sources.arrays(images, labels),
        source_of_files(encoded(images), labels),
    ):
        ((cut, found),) = numpy_batches(
            batches.evaluation_batches(source, 3, crop=(8, 10), crops="five")
        )
        assert cut.shape == (3, 5, 8, 10, 3)
        for image in cut:
            assert [where(part, (8, 10))[:2] for part in image] == expected
        ((center, _),) = numpy_batches(
            batches.evaluation_batches(source, 3, crop=(8, 10))
        )
        np.testing.assert_array_equal(center, cut[:, 0])
        np.testing.assert_array_equal(found, labels)


def test_evaluation_reads_every_image_once_in_the_order_of_the_source():
    source = sources.arrays(*numbered_ramps(23))
    dataset = batches.evaluation_batches(source, 8, crop=(12, 16))
    assert int(dataset.cardinality()) == 3
    numbers = [images[:, 0, 0, 2] for images, _ in numpy_batches(dataset)]
    assert [len(part) for part in numbers] == [8, 8, 7]
    assert np.concatenate(numbers).tolist() == list(range(23))


def test_full_batches_of_pixels_have_a_static_shape():
    source = sources.arrays(*numbered_ramps(24))
    spec = trained_on(source, 8).element_spec
    assert spec[0].shape == (8, 8, 10, 3) and spec[0].dtype == tf.float32
    assert spec[1].shape == (8,) and spec[1].dtype == tf.int32
    assert trained_on(source, 7).element_spec[0].shape == (None, 8, 10, 3)


# Images that cannot be read


def photo(mode="RGB", format="JPEG", **arguments):
    rng = np.random.default_rng(0)
    rough = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
    file = io.BytesIO()
    image = rough.resize((40, 32), Image.BICUBIC).convert(mode)
    image.save(file, format, **arguments)
    return file.getvalue()


DECODABLE = {
    "a gray JPEG": photo("L"),
    "a CMYK JPEG": photo("CMYK"),
    "a progressive JPEG": photo(progressive=True),
    "a JPEG with bytes after its end": photo() + b"more",
    "a PNG": photo(format="PNG"),
    "a PNG with alpha": photo("RGBA", "PNG"),
    "a gray PNG with alpha": photo("LA", "PNG"),
    "a GIF": photo("P", "GIF"),
    "an animated GIF": photo(
        "P", "GIF", save_all=True, append_images=[Image.new("RGB", (40, 32))]
    ),
    "a BMP": photo(format="BMP"),
}
BROKEN = {
    "a truncated JPEG": photo()[:-100],
    "a JPEG without its last byte": photo()[:-1],
    "a truncated PNG": photo(format="PNG")[:-100],
    "nothing": b"",
    "text": b"404 not found",
    "a TIFF": photo(format="TIFF"),
}


def test_other_formats_in_a_file_named_jpeg_are_decoded_to_rgb(tmp_path):
    for i, content in enumerate(DECODABLE.values()):
        (tmp_path / f"{i}.JPEG").write_bytes(content)
    source = sources.folder(tmp_path)
    ((found, _),) = numpy_batches(batches.evaluation_batches(source, 10, crop=(32, 40)))
    for (name, content), image in zip(DECODABLE.items(), found, strict=True):
        expected = Image.open(io.BytesIO(content)).convert("RGB")
        difference = image - np.asarray(expected, np.float32)
        assert np.abs(difference).max() <= 8, name  # of two JPEG decoders


def test_what_cannot_be_decoded_is_left_out_and_named(tmp_path):
    """Every other file is broken, each in a way of its own."""
    for i in range(12):
        (tmp_path / f"{i:02}.jpg").write_bytes(photo(quality=50 + i))
    expected = numpy_batches(trained_on(sources.folder(tmp_path), 3))
    for i, content in enumerate(BROKEN.values()):
        (tmp_path / f"{2 * i:02}.jpg").write_bytes(content)
    source, corrupt = sources.folder(tmp_path), batches.Corrupt(limit=1)
    found = numpy_batches(trained_on(source, 3, corrupt=corrupt))
    assert sorted(corrupt.names) == [f"{2 * i:02}.jpg" for i in range(6)]
    readable = batches.uniform_order(12, 5, 2).reshape(4, 3) % 2 == 1
    expected = [
        tuple(part[kept] for part in batch)
        for batch, kept in zip(expected, readable, strict=True)
    ]
    assert_same(found, expected)


def corrupted(count, bad):
    """A source of files of which some hold text."""
    images, labels = numbered_ramps(count)
    files = encoded(images)
    for i in bad:
        files[i] = b"text"
    return source_of_files(files, labels)


def test_a_batch_of_which_nothing_is_left_is_empty_and_the_next_keeps_its_number():
    corrupt = batches.Corrupt(limit=1)
    dataset = batches.evaluation_batches(
        corrupted(6, [2, 3]), 2, crop=(12, 16), corrupt=corrupt
    )
    found = [images[:, 0, 0, 2].tolist() for images, _ in numpy_batches(dataset)]
    assert found == [[0, 1], [], [4, 5]]


@pytest.mark.slow
def test_resuming_stays_exact_where_images_are_missing():
    source = corrupted(20, [3, 8, 9])
    whole = numpy_batches(trained_on(source, corrupt=batches.Corrupt(1)))
    assert len(whole) == 5
    for step in range(5):
        resumed = trained_on(source, corrupt=batches.Corrupt(1), first_step=step)
        assert_same(numpy_batches(resumed), whole[step:])


def test_one_image_more_than_the_limit_ends_the_iteration_with_their_names():
    """Of 20 images 0.06 are 1.2, rounded up 2; the same two may be met again."""
    corrupt, two = batches.Corrupt(0.06), corrupted(20, [3, 9])
    for epoch in range(3):
        assert len(numpy_batches(trained_on(two, epoch=epoch, corrupt=corrupt))) == 5
    assert corrupt.names == ["file 3", "file 9"]
    three = corrupted(20, [3, 9, 11])
    message = r"keras_tilt: At most 2 of 20 .*limit 0.06.*: 3, file 11, file 3, file 9"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        numpy_batches(trained_on(three, corrupt=batches.Corrupt(0.06)))


def test_without_a_record_no_image_may_be_unreadable():
    with pytest.raises(tf.errors.InvalidArgumentError, match="At most 0 of 20"):
        numpy_batches(trained_on(corrupted(20, [3])))


def test_training_on_too_many_unreadable_images_ends_with_a_plain_error():
    network = keras.Sequential(
        [keras.Input((8, 10, 3)), keras.layers.Flatten(), keras.layers.Dense(7)]
    )
    model = kt.GenerativeClassifier(network)
    model.compile("sgd")
    with pytest.raises(ValueError, match="^At most 1 of 20 images.*the limit.$"):
        model.fit(
            trained_on(corrupted(20, [3, 9]), corrupt=batches.Corrupt()), verbose=0
        )


def test_a_source_counts_its_own_unreadable_images():
    corrupt = batches.Corrupt()
    kept = [corrupted(20, [3]), corrupted(20, [4])]
    for source in kept:
        numpy_batches(trained_on(source, corrupt=corrupt))
    assert corrupt.names == ["file 3", "file 4"]


# Replicas


def test_replicas_share_every_batch_and_lose_no_image(strategy):
    """A missing image makes its own batch smaller and moves none to another."""
    source = corrupted(24, [3])
    arguments = {"batch_size": 8, "corrupt": batches.Corrupt()}
    expected = numpy_batches(trained_on(source, **arguments))
    dataset = strategy.experimental_distribute_dataset(trained_on(source, **arguments))
    found = []
    for parts in dataset:
        images, labels = map(strategy.experimental_local_results, parts)
        found.append((np.concatenate(images), np.concatenate(labels)))
    assert_same(found, expected)


# Bad arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be a whole number from 1"),
        ({"first_step": 7}, "`first_step` must be a whole number from 0 to 6"),
        ({"crop": 8}, "pair .height, width.. Received: 8"),
        ({"crop": (0, 8)}, "`crop` must be a whole number from 1"),
        ({"crop": (15, 10)}, "Received: crop=.15, 10., pad=0"),
        ({"crop": (12, 12), "shorter_side": 11}, "at least 11 pixels"),
        ({"crop": (8, 8), "pad": 12}, "pad=12"),
        ({"order": np.array([0, 23])}, "integers in 0..22"),
        ({"order": np.array([[0, 1]])}, r"Received: int64 \[1, 2\]"),
        ({"order": np.array([0.0])}, "Received: float64"),
    ],
)
def test_bad_arguments_of_the_batches_are_quoted(arguments, message):
    with pytest.raises(ValueError, match=message):
        trained_on(noise_source("pixels"), **arguments)


def test_an_image_smaller_than_the_crop_is_named():
    source = source_of_files(encoded([ramp(12, 16), ramp(7, 16)]))
    message = r"keras_tilt: Images must .*\(8, 10\).* Received: file 1, \(7, 16\)"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        numpy_batches(batches.evaluation_batches(source, 2, crop=(8, 10)))


def test_bad_crops_and_limits_are_quoted():
    source = noise_source("pixels")
    with pytest.raises(ValueError, match="one of center, five. Received: 'ten'"):
        batches.evaluation_batches(source, 4, crop=(8, 8), crops="ten")
    with pytest.raises(ValueError, match="in 0..1. Received: 5"):
        batches.Corrupt(5)


def test_bad_arguments_of_orders_are_quoted():
    with pytest.raises(ValueError, match="at most 5, .* divide .*12. Received: 6"):
        batches.by_classes(LABELS, 12, 6, 0, 0)
    with pytest.raises(ValueError, match="Received: 5. Choose a smaller divisor"):
        batches.by_classes(LABELS, 12, 5, 0, 0)
    with pytest.raises(ValueError, match="whole number from 0 to 12. Received: 13"):
        batches.by_labelled(LABELS, 12, 13, 0, 0)
    with pytest.raises(ValueError, match="Expected unlabelled images, 2 for each"):
        batches.by_labelled(np.zeros(20, int), 12, 10, 0, 0)


# Parts of several workers


def context_of(worker, workers, replicas):
    """That of one of several workers, with replicas in all."""
    return tf.distribute.InputContext(workers, worker, replicas)


@pytest.mark.parametrize(
    ("kind", "workers", "each", "first_step"),
    [
        ("pixels", 3, 1, 0),
        ("files", 2, 2, 1),
        ("pixels", 1, 4, 0),
        slow("files", 5, 1, 2),
        slow("pixels", 2, 3, 1),
        slow("files", 1, 1, 0),
    ],
)
def test_parts_of_all_replicas_make_up_every_batch(kind, workers, each, first_step):
    """In their order, as even as can be; a last batch of 3 leaves some without."""
    source = noise_source(kind)
    settings = dict(seed=3, epoch=2, crop=(8, 9), first_step=first_step, pad=2)
    order = batches.uniform_order(23, 3, 2)
    read = functools.partial(
        batches.training_batches, source, order, batch_size=5, **settings
    )
    whole, replicas = numpy_batches(read()), workers * each
    parts = [
        numpy_batches(read(context=context_of(worker, workers, replicas)))
        for worker in range(workers)
    ]
    for step, (images, labels) in enumerate(whole):
        here = [part for of in parts for part in of[each * step : each * (step + 1)]]
        sizes = [len(part[1]) for part in here]
        assert len(sizes) == replicas and max(sizes) - min(sizes) <= 1
        np.testing.assert_array_equal(np.concatenate([p[0] for p in here]), images)
        np.testing.assert_array_equal(np.concatenate([p[1] for p in here]), labels)
    assert all(len(part) == each * len(whole) for part in parts)


@pytest.mark.parametrize("workers", [2, 3])
def test_a_worker_decodes_its_parts_alone(workers):
    """Every image once in all: also of the pass for evaluation."""
    decoded, lock = [], threading.Lock()
    source = noise_source("files")

    def note(element):
        with lock:
            decoded.append(element)
        return np.int32(0)

    def decode(element):
        done = tf.numpy_function(note, [element], tf.int32)
        with tf.control_dependencies([done]):
            return source.decode(element)

    noted = dataclasses.replace(source, decode=decode)
    files = source.fetch(np.arange(23)).numpy().tolist()
    read = functools.partial(batches.evaluation_batches, noted, 4, crop=(8, 8))
    for worker in range(workers):
        before = len(decoded)
        list(read(context=context_of(worker, workers, workers)))
        share = (len(decoded) - before) / 23
        assert abs(share - 1 / workers) < 0.15
    assert sorted(decoded) == sorted(files)


def test_parts_of_replicas_are_distributed_in_the_order_of_the_batch(strategy):
    """As a strategy of two replicas in one process reads them."""
    source = noise_source("pixels")
    order = batches.uniform_order(23, 0, 0)
    read = functools.partial(
        batches.training_batches, source, order, 4, seed=0, epoch=0, crop=(8, 8)
    )
    distributed = strategy.distribute_datasets_from_function(
        lambda context: read(context=context)
    )
    for (images, labels), (parts, part_labels) in zip(
        numpy_batches(read()), distributed, strict=True
    ):
        found = strategy.experimental_local_results(parts)
        np.testing.assert_array_equal(np.concatenate(found), images)
        found = strategy.experimental_local_results(part_labels)
        np.testing.assert_array_equal(np.concatenate(found), labels)
