"""A segmenter is its three designs, whatever the chunks, padding and company."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import slow_but

from keras_tilt.masking import examples, segments, svm
from keras_tilt.masking.assignment import assign
from keras_tilt.masking.layers import FeatureMasking
from keras_tilt.masking.pooling import pyramid_pool
from keras_tilt.masking.projection import boxes_of, cells_of, project_masks
from keras_tilt.masking.segmenter import DESIGNS, Segmenter

SIZE = (24, 32)


def backbone():
    """A network with a map of 6 x 8, 5 channels."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((*SIZE, 3)),
            keras.layers.Rescaling(1 / 128, -1),
            keras.layers.Conv2D(4, 3, 2, "same", activation="relu", name="conv1"),
            keras.layers.Conv2D(5, 3, 2, "same", name="conv2"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )


def segmenter_of(design, **arguments):
    return Segmenter(
        backbone(), "conv2", 3, design, hidden=(6,), levels=(3, 1), **arguments
    )


def batch(seed=0, number=9, images=2, atoms=12):
    """Inputs with segments of random atoms; the first of each image is padding."""
    rng = np.random.default_rng(seed)
    members = rng.random([images, number, atoms]) < 0.3
    members[:, 0] = False
    return {
        "image": rng.uniform(0, 255, [images, *SIZE, 3]).astype(np.float32),
        "atoms": rng.integers(-1, atoms, [images, *SIZE]).astype(np.int32),
        "members": members,
    }


def logits_by_hand(segmenter, inputs):
    """Each segment alone, by masks of pixels, of the layers' own definition."""
    features = segmenter.features(inputs["image"])
    cells = cells_of(segmenter.network, "conv2")
    found = []
    for i, members in enumerate(inputs["members"]):
        for member in members:
            mask = np.append(member, False)[inputs["atoms"][i]]
            some = project_masks(mask, cells, 1e-9)
            box = boxes_of(some)[tf.newaxis, tf.newaxis]
            whole = pyramid_pool(features[i : i + 1], box, levels=(3, 1))
            kept = project_masks(mask, cells)[tf.newaxis]
            masked = FeatureMasking()([features[i : i + 1], kept])
            pooled = [whole]
            if segmenter.design == "A":
                pooled.append(pyramid_pool(masked, box, levels=(3, 1)))
            if segmenter.design == "B":
                bins = kept_bins(mask, cells, box.numpy()[0, 0])
                fine = tf.where(bins[None, None, :, None], whole[:, :, :9], 0)
                pooled = [tf.concat([fine, whole[:, :, 9:]], axis=2)]
            parts = [
                pathway(one[0])
                for pathway, one in zip(segmenter.pathways, pooled, strict=True)
            ]
            found.append(segmenter.classifier(tf.concat(parts, axis=-1))[0])
    return np.reshape(found, [*inputs["members"].shape[:2], 4])


def kept_bins(mask, cells, box):
    """Bins of 3 x 3 with at least half of their cells' pixels in the mask, bool [9]."""
    top, left, bottom, right = box
    rows, columns = np.array(cells.rows), np.array(cells.columns)
    kept = []
    for i, j in np.ndindex(3, 3):
        first, end = (
            top + i * (bottom - top) // 3,
            top - (-(i + 1) * (bottom - top) // 3),
        )
        left_, right_ = (
            left + j * (right - left) // 3,
            left - (-(j + 1) * (right - left) // 3),
        )
        pixels = mask[(rows >= first) & (rows < end)]
        pixels = pixels[:, (columns >= left_) & (columns < right_)]
        kept.append(pixels.size > 0 and pixels.mean() >= 0.5 and pixels.any())
    return np.array(kept)


every_design = pytest.mark.parametrize("design", DESIGNS)


@pytest.mark.parametrize("design", slow_but(DESIGNS[-1:], DESIGNS))
def test_logits_are_those_of_each_segment_alone(design):
    segmenter, inputs = segmenter_of(design), batch()
    found = tf.function(segmenter)(inputs)
    assert found.shape == [2, 9, 4]
    np.testing.assert_allclose(
        found, logits_by_hand(segmenter, inputs), rtol=1e-4, atol=1e-5
    )


def test_designs_differ_and_only_boxes_ignore_the_mask():
    """Of a segment and its full box."""
    inputs = batch()
    atoms = np.zeros([1, *SIZE], np.int32)
    atoms[0, 4:20, 4:28] = 1
    atoms[0, 8:20, 12:28] = 2  # within the box of atom 1
    inputs |= {"atoms": atoms, "image": inputs["image"][:1]}
    inputs["members"] = np.array([[[0, 1, 0], [0, 1, 1]]], bool)
    for design in DESIGNS:
        one, other = segmenter_of(design)(inputs)[0].numpy()
        assert np.allclose(one, other) == (design == "box")


@pytest.mark.parametrize("chunk", slow_but([4, 64], [1, 4, 9, 64]))
def test_chunks_change_nothing(chunk):
    whole = segmenter_of("A", chunk=9)
    parts = segmenter_of("A", chunk=chunk)
    np.testing.assert_allclose(parts(batch()), whole(batch()), rtol=1e-5, atol=1e-6)


@every_design
def test_segments_and_images_do_not_know_of_each_other(design):
    segmenter, inputs = segmenter_of(design), batch()
    whole = segmenter(inputs).numpy()
    alone = {name: values[1:] for name, values in inputs.items()}
    alone["members"] = alone["members"][:, [4]]
    np.testing.assert_allclose(
        segmenter(alone)[0, 0], whole[1, 4], rtol=1e-5, atol=1e-6
    )


def test_an_image_without_segments_has_no_logits():
    assert segmenter_of("B")(batch(number=1)).shape == [2, 1, 4]
    inputs = batch()
    inputs["members"] = inputs["members"][:, :0]
    assert segmenter_of("A")(inputs).shape == [2, 0, 4]


@every_design
def test_a_segmenter_is_saved_and_loaded_whole(design, tmp_path):
    segmenter = segmenter_of(design, train_network=True)
    segmenter.save(tmp_path / "segmenter.keras")
    again = keras.models.load_model(tmp_path / "segmenter.keras")
    np.testing.assert_array_equal(again(batch()), segmenter(batch()))
    assert again.get_config().keys() == segmenter.get_config().keys()
    assert len(again.trainable_variables) == len(segmenter.trainable_variables)


def test_scores_are_probabilities_of_the_classes_or_margins():
    segmenter, inputs = segmenter_of("A"), batch()
    scores = segmenter.scores(inputs).numpy()
    logits = segmenter(inputs).numpy()
    none = np.exp(logits[..., 3]) / np.exp(logits).sum(axis=-1)
    np.testing.assert_allclose(scores.sum(axis=-1), 1 - none, rtol=1e-5)
    rng = np.random.default_rng(0)
    svms = svm.LinearSVMs(rng.normal(size=[12, 3]), rng.normal(size=3))
    segmenter.set_svms(svms)
    expected = svms.margins(segmenter.embed(inputs).numpy())
    np.testing.assert_allclose(segmenter.scores(inputs), expected, rtol=1e-4, atol=1e-5)
    assert segmenter.get_config()["margins"]


def test_first_names_of_linear_svms_stay():
    assert svm.Machines is svm.LinearSVMs
    assert Segmenter.set_machines is Segmenter.set_svms


def test_the_network_is_trained_only_if_asked_for_and_its_statistics_never():
    labels = np.random.default_rng(0).integers(0, 4, [2, 9])
    for train_network in (False, True):
        segmenter = segmenter_of("A", train_network=train_network)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        segmenter.compile(keras.optimizers.SGD(0.1), loss, jit_compile=False)
        kernel = segmenter.network.get_layer("conv1").kernel.numpy()
        mean = segmenter.network.get_layer("norm").moving_mean.numpy()
        segmenter.fit(batch(), labels, sample_weight=np.ones([2, 9]), verbose=0)
        moved = np.any(segmenter.network.get_layer("conv1").kernel.numpy() != kernel)
        assert moved == train_network
        found = segmenter.network.get_layer("norm").moving_mean.numpy()
        np.testing.assert_array_equal(found, mean)


def test_the_gradient_reaches_the_image_through_masks_alone():
    """With masks that keep a cell, pixels that no kept cell sees have no gradient."""
    segmenter, inputs = segmenter_of("A"), batch(images=1)
    inputs["atoms"] = np.zeros([1, *SIZE], np.int32)
    inputs["atoms"][0, :8, :8] = 1
    inputs["members"] = np.array([[[False, True]]])
    image = tf.constant(inputs["image"])
    with tf.GradientTape() as tape:
        tape.watch(image)
        value = tf.reduce_sum(segmenter(inputs | {"image": image}) ** 2)
    gradient = tape.gradient(value, image).numpy()[0]
    assert np.any(gradient[:8, :8])
    assert not np.any(gradient[16:]) and not np.any(gradient[:, 16:])


def test_a_segmenter_learns_what_only_the_mask_tells():
    """Which half of one box, light or dark, the segment covers."""
    image = np.zeros([1, *SIZE, 3], np.float32)
    image[:, :, 16:] = 255
    row = np.arange(SIZE[1]) // 16
    atoms = np.tile(row, [1, SIZE[0], 1]).astype(np.int32)
    atoms[:, 0], atoms[:, -1] = 1 - row, 1 - row  # so that both have one box
    inputs = {"image": image, "atoms": atoms}
    inputs["members"] = np.array([[[True, False], [False, True]]])
    accuracies = {}
    for design in DESIGNS:
        segmenter = segmenter_of(design, dropout=0.0)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        segmenter.compile(keras.optimizers.Adam(0.02), loss, jit_compile=False)
        labels = np.array([[0, 1]])
        steps = tf.data.Dataset.from_tensors((inputs, labels)).repeat(40)
        segmenter.fit(steps, verbose=0)
        found = segmenter(inputs).numpy().argmax(axis=-1)
        accuracies[design] = np.mean(found == labels)
    assert accuracies == {"box": 0.5, "A": 1.0, "B": 1.0}


def test_bad_arguments_are_errors():
    with pytest.raises(ValueError, match="`design` must be one of box, A, B"):
        segmenter_of("C")
    with pytest.raises(ValueError, match="`chunk` must be a whole number"):
        segmenter_of("A", chunk=0)
    with pytest.raises(ValueError, match="levels"):
        Segmenter(backbone(), "conv2", 3, levels=(1, 3))
    with pytest.raises(ValueError, match="conv9"):
        Segmenter(backbone(), "conv9", 3)


# Batches


def scenes(number=5, shape=(30, 50)):
    """Images of another size than the network's, with segments and a truth."""
    found = []
    for i in range(number):
        rng = np.random.default_rng(i)
        image = rng.integers(0, 256, [*shape, 3], np.uint8)
        labels = np.zeros(shape, int)
        labels[:, 25:] = 1
        corners = rng.integers(0, 25, [20, 2])
        masks = np.zeros([20, *shape], bool)
        for mask, (top, left) in zip(masks, corners, strict=True):
            mask[top : top + 5, left : left + 9] = True
        found.append((image, assign(segments.of_masks(masks), labels, [], 3, [0, 1])))
    return found


def batches_of(epoch=0, **arguments):
    return list(
        examples.training_batches(
            scenes().__getitem__, 5, SIZE, seed=3, epoch=epoch, images=2, **arguments
        )
    )


def test_batches_have_all_images_once_and_are_functions_of_seed_and_epoch():
    one, same, other = (batches_of(epoch, segments=8) for epoch in (0, 0, 1))
    assert [len(labels) for _, labels, _ in one] == [2, 2, 1]
    for (inputs, labels, weights), again in zip(one, same, strict=True):
        keras.tree.map_structure(
            np.testing.assert_array_equal, (inputs, labels, weights), again
        )
        assert labels.shape[1] == inputs["members"].shape[1] == 8
    assert any(
        np.any(a[0]["image"] != b[0]["image"])
        for a, b in zip(one[:2], other, strict=False)
    )


def test_every_epoch_has_an_order_of_its_own():
    """Images are told apart by their means, which mirroring keeps."""
    orders = []
    for epoch in range(4):
        images = np.concatenate([inputs["image"] for inputs, _, _ in batches_of(epoch)])
        orders.append(np.argsort(images.mean(axis=(1, 2, 3))).tolist())
    assert len({tuple(order) for order in orders}) > 1


def test_segments_too_many_are_padding_of_weight_zero():
    for inputs, labels, weights in batches_of(segments=40):
        present = tf.reduce_any(inputs["members"], axis=-1)
        np.testing.assert_array_equal(present, weights == 1)
        assert np.all((labels >= 0) & (labels <= 3))


def test_an_image_fits_the_network_and_its_segments_lie_where_they_were():
    """Of 30 x 50 pixels to 24 x 32: 19 x 32 and 5 rows of gray, of no segment."""
    image, assignment = scenes()[0]
    inputs = examples.inputs_of(image, assignment.segments, SIZE)
    assert inputs["image"].shape == [1, *SIZE, 3]
    assert np.all(inputs["image"][0, 19:] == 127.5)
    assert np.all(inputs["atoms"][0, 19:] == -1)
    shares = assignment.segments.masks().mean(axis=(1, 2))
    of_atoms = np.pad(inputs["members"][0], [(0, 0), (0, 1)])
    found = of_atoms[:, inputs["atoms"][0]][:, :19].mean(axis=(1, 2))
    np.testing.assert_allclose(found, shares, atol=0.012)


def test_labels_are_scaled_by_whole_pixels_and_an_image_of_that_size_stays():
    labels = np.arange(6).reshape(2, 3)
    expected = np.repeat(np.repeat(labels, 4, axis=0), 4, axis=1)
    np.testing.assert_array_equal(examples.fit_labels(labels, (8, 12)), expected)
    # Middles of 3 pixels lie at 0.8, 2.5 and 4.2 of 5.
    fewer = examples.fit_labels(np.tile(np.arange(5), [5, 1]), (3, 3))
    np.testing.assert_array_equal(fewer, np.tile([0, 2, 4], [3, 1]))
    image = np.random.default_rng(0).uniform(0, 255, [*SIZE, 3]).astype(np.float32)
    np.testing.assert_allclose(examples.fit_image(image, SIZE), image, atol=1e-3)


def test_long_maps_have_their_last_pixel_at_the_end():
    """Places are products of sizes, which 32 bits do not hold."""
    long = examples.resize_labels(np.arange(320)[np.newaxis], (1, 4_000_000))
    assert long[0, 0] == 0 and long[0, 2_000_000] == 160 and long[0, -1] == 319


def test_mirrored_images_have_mirrored_segments():
    """The darkest atom stays on the darkest pixels."""
    image = np.full([24, 32, 3], 200, np.uint8)
    image[:, :10] = 0
    mask = np.zeros([1, 24, 32], bool)
    mask[0, :, :10] = True
    found = assign(segments.of_masks(mask), mask[0] - 1, [], 1, [0])
    sides = set()
    for epoch in range(8):
        (inputs, _, _), *_ = examples.training_batches(
            lambda i: (image, found), 1, SIZE, seed=0, epoch=epoch, segments=4
        )
        inside = inputs["atoms"][0] == 0
        assert np.all((inputs["image"][0, ..., 0] < 100) == inside)
        sides.add(bool(inside[0, 0]))
    assert sides == {True, False}


@pytest.mark.parametrize("margins", [False, True])
def test_the_score_of_the_background_is_that_of_none(margins):
    plain = segmenter_of("A", margins=margins)
    known = segmenter_of("A", margins=margins, background=1)
    known.set_weights(plain.get_weights())
    logits = plain(batch())
    values = logits if margins else tf.nn.softmax(logits)
    np.testing.assert_array_equal(plain.scores(batch()), values[..., :3])
    expected = np.stack([values[..., c] for c in (0, 3, 2)], axis=-1)
    np.testing.assert_array_equal(known.scores(batch()), expected)
    again = Segmenter.from_config(known.get_config())
    assert again.background == 1
    with pytest.raises(ValueError, match="classes 0..2. Received: 3"):
        segmenter_of("A", background=3)
