"""Every pixel goes to the nearest receptive-field center; cells count what they get."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tilt as kt
from keras_tilt.masking import projection
from keras_tilt.masking.projection import Cells

# kernel, stride, padding of the layers; their sizes and strides are what may go wrong
NETWORKS = [
    [(3, 1, "same")],
    [(3, 2, "same"), (3, 2, "same")],
    [(5, 3, "valid"), (2, 1, "same")],
    [(7, 4, "same"), (3, 2, "valid")],
    [(1, 5, "valid")],
]


def network_of(layers, shape):
    """A network of random convolutions; the last layer is "map"."""
    images = values = keras.Input((*shape, 1))
    for number, (kernel, stride, padding) in enumerate(layers):
        last = number == len(layers) - 1
        name = "map" if last else f"conv{number}"
        layer = keras.layers.Conv2D(2, kernel, stride, padding, name=name)
        values = layer(values)
    return keras.Model(images, values)


def projected_by_hand(network, mask, threshold=0.5):
    """The rule of the paper, pixel by pixel over all centers."""
    field = kt.receptive_field(network, "map")
    rows, columns = network.output_shape[1:3]
    centers = [(r, c, *field.center(r, c)) for r in range(rows) for c in range(columns)]
    inside, count = np.zeros([2, rows, columns])
    for y, x in np.ndindex(mask.shape):
        distances = [(cy - y) ** 2 + (cx - x) ** 2 for _, _, cy, cx in centers]
        r, c, _, _ = centers[int(np.argmin(distances))]
        inside[r, c] += mask[y, x]
        count[r, c] += 1
    return (count > 0) & (inside >= threshold * count)


def random_masks(rng, number, shape):
    """Rectangles, noise, all and nothing."""
    masks = rng.random([number, *shape]) < rng.random([number, 1, 1])
    masks[0], masks[1] = True, False
    for mask in masks[2 : number // 2]:
        top, left = rng.integers(0, np.array(shape) - 1)
        mask[:] = False
        mask[top : top + rng.integers(1, 9), left : left + rng.integers(1, 9)] = True
    return masks


every_network = pytest.mark.parametrize("layers", NETWORKS, ids=str)


@every_network
@pytest.mark.parametrize("shape", [(17, 23), (24, 16)])
def test_masks_are_projected_as_by_hand(layers, shape):
    network = network_of(layers, shape)
    rng = np.random.default_rng([len(layers), *shape])
    masks = random_masks(rng, 10, shape)
    cells = projection.cells_of(network, "map")
    for threshold in (0.5, 0.2):
        expected = [projected_by_hand(network, mask, threshold) for mask in masks]
        found = projection.project_masks(masks, cells, threshold)
        np.testing.assert_array_equal(found, expected)


@every_network
def test_segments_of_atoms_are_projected_as_their_masks(layers):
    shape = (18, 25)
    cells = projection.cells_of(network_of(layers, shape), "map")
    rng = np.random.default_rng(3)
    atoms = rng.integers(-1, 6, [2, *shape])
    members = rng.random([2, 7, 6]) < 0.4
    masks = np.stack(
        [np.pad(m, [(0, 0), (0, 1)])[:, a] for a, m in zip(atoms, members, strict=True)]
    )
    found = tf.function(projection.project_segments)(atoms, members, cells)
    np.testing.assert_array_equal(found, projection.project_masks(masks, cells))


def test_ragged_sets_are_projected_as_each_alone():
    cells = projection.cells_of(network_of(NETWORKS[1], (12, 16)), "map")
    rng = np.random.default_rng(4)
    atoms = rng.integers(0, 5, [3, 12, 16])
    sets = [rng.random([count, 5]) < 0.5 for count in (2, 0, 4)]
    ragged = tf.RaggedTensor.from_row_lengths(np.concatenate(sets), [2, 0, 4])
    found = projection.project_segments(atoms, ragged, cells)
    assert found.row_lengths().numpy().tolist() == [2, 0, 4]
    for i, members in enumerate(sets):
        alone = projection.project_segments(atoms[i : i + 1], members[None], cells)
        np.testing.assert_array_equal(found[i], alone[0])
    masks = tf.cast(tf.gather(np.concatenate(sets), atoms[0], axis=1), tf.float32)
    ragged = tf.RaggedTensor.from_row_lengths(masks, [2, 0, 4])
    flat = projection.project_masks(ragged, cells).flat_values
    np.testing.assert_array_equal(flat, projection.project_masks(masks, cells))


def test_all_pixels_belong_to_one_cell_each():
    cells = projection.cells_of(network_of(NETWORKS[3], (21, 30)), "map")
    assert cells.totals.sum() == 21 * 30
    full = tf.ones([1, 1, 1], bool)
    counts = projection.segment_counts(np.zeros([1, 21, 30]), full, cells)
    np.testing.assert_array_equal(counts[0, 0], cells.totals)


def test_of_two_centers_as_near_the_first_counts():
    network = network_of([(1, 2, "valid")], (5, 5))  # centers at 0, 2, 4
    assert projection.cells_of(network, "map").rows == (0, 0, 1, 1, 2)


def test_a_share_of_one_half_is_in_the_mask_and_an_empty_cell_is_not():
    cells = Cells((0, 0, 2, 2), (0, 0), (3, 1))
    masks = projection.project_masks([[1, 1], [0, 0], [1, 0], [0, 0]], cells)
    assert masks.numpy().ravel().tolist() == [True, False, False]


def test_a_nested_layer_is_found_and_has_the_cells_of_the_inner_network():
    inner = network_of(NETWORKS[1], (20, 28))
    images = keras.Input((20, 28, 1))
    outer = keras.Model(images, inner(keras.layers.Rescaling(2.0)(images)))
    found = projection.cells_of(outer, f"{inner.name}/map")
    assert found == projection.cells_of(inner, "map")


def test_cells_of_an_enlarged_map_lie_where_they_look():
    images = keras.Input((12, 10, 1))
    values = keras.layers.AveragePooling2D(2)(images)
    up = keras.layers.UpSampling2D(2, interpolation="bilinear", name="map")
    network = keras.Model(images, up(values))
    cells = projection.cells_of(network, "map")
    assert cells.map_shape == (12, 10)
    masks = random_masks(np.random.default_rng(0), 8, (12, 10))
    projected = projection.project_masks(masks, cells)
    for mask, found in zip(masks, projected, strict=True):
        np.testing.assert_array_equal(found, projected_by_hand(network, mask))


def test_boxes_hold_the_cells_of_all_pixels_of_a_segment():
    cells = projection.cells_of(network_of(NETWORKS[1], (40, 48)), "map")
    rng = np.random.default_rng(5)
    masks = random_masks(rng, 20, (40, 48))
    counts = tf.stack(
        [
            projection.segment_counts(mask.astype(int)[None] - 1, [[[True]]], cells)
            for mask in masks
        ]
    )[:, 0]
    boxes = projection.boxes_of(counts > 0).numpy()[:, 0]
    for mask, box in zip(masks, boxes, strict=True):
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        if not mask.any():
            assert box.tolist() == [0, 0, 0, 0]
            continue
        expected = [
            cells.rows[rows[0]],
            cells.columns[columns[0]],
            cells.rows[rows[-1]] + 1,
            cells.columns[columns[-1]] + 1,
        ]
        assert box.tolist() == expected


def test_masks_of_another_size_are_an_error():
    cells = projection.cells_of(network_of(NETWORKS[0], (8, 9)), "map")
    with pytest.raises(ValueError, match=r"Expected masks of \(8, 9\) pixels"):
        projection.project_masks(np.ones([2, 9, 8]), cells)


def test_a_layer_without_a_map_is_an_error():
    network = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(2, 3),
            keras.layers.GlobalAveragePooling2D(keepdims=True, name="mean"),
            keras.layers.Flatten(name="flat"),
        ]
    )
    for layer in ("mean", "flat"):
        with pytest.raises(ValueError, match="cells see different parts"):
            projection.cells_of(network, layer)


def test_images_of_any_size_are_an_error():
    network = keras.Sequential(
        [keras.Input((None, None, 1)), keras.layers.Conv2D(2, 3, name="map")]
    )
    with pytest.raises(ValueError, match="images of one size"):
        projection.cells_of(network, "map")
