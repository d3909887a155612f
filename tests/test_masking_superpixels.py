"""Superpixels of a graph are those of loops over pixels; their unions, of sklearn."""

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf
from skimage.color import rgb2lab
from sklearn.cluster import ward_tree

from keras_tilt.masking import proposals, scenes, segments, superpixels

IMAGE = scenes.synthetic(3, (60, 80))[2].image
SHAPES = [(1, 1), (1, 50), (50, 1), (2, 2), (3, 200), (40, 60)]


def traced(number):
    """`segments_of` as a SavedModel would have it."""
    return tf.function(
        lambda image: superpixels.segments_of(image, number),
        input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)],
    )


SEGMENT = traced(60)


def random_image(seed, shape=(24, 31)):
    """Blurred noise: neighbours are alike, and nothing is twice at one distance."""
    noise = np.random.default_rng(seed).normal(size=[*shape, 3])
    smooth = scipy.ndimage.gaussian_filter(noise, [2, 2, 0])
    return np.clip(128 + 60 * smooth / smooth.std(), 0, 255).astype(np.uint8)


# Colour


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_lab_is_that_of_skimage(dtype):
    levels = np.concatenate([np.arange(0, 16, 3), np.arange(16, 256, 21), [255]])
    image = np.stack(np.meshgrid(levels, levels, levels), axis=-1).astype(dtype)
    found, expected = superpixels.lab(image), rgb2lab(image.astype(float) / 255)
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, expected, atol=1e-3)


# Superpixels


def slic_by_hand(image, rows, columns):
    """Pixel by pixel; ties go to the first of the neighbours, row by row."""
    height, width = image.shape[:2]
    step = np.sqrt(np.float32(height * width / (rows * columns)))
    place = np.moveaxis(np.indices([height, width], np.float32), 0, -1)
    place *= np.float32(superpixels._COMPACTNESS) / step
    pixels = np.concatenate([superpixels.lab(image).numpy(), place], axis=-1)
    cells = {
        (y, x): (y * rows // height, x * columns // width)
        for y in range(height)
        for x in range(width)
    }
    labels = dict(cells)
    for _ in range(superpixels._ITERATIONS):
        of_label = {}
        for (y, x), label in labels.items():
            of_label.setdefault(label, []).append(pixels[y, x])
        means = {
            label: np.mean(values, axis=0, dtype=np.float64).astype(np.float32)
            for label, values in of_label.items()
        }
        for (y, x), (i, j) in cells.items():
            near = [(i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
            distances = {
                c: ((pixels[y, x] - means[c]) ** 2).sum() for c in near if c in means
            }
            labels[y, x] = min(distances, key=distances.get)
    numbers = {}
    flat = [numbers.setdefault(label, len(numbers)) for label in labels.values()]
    return np.reshape(flat, [height, width])


@pytest.mark.parametrize(
    ("shape", "number", "grid"),
    [
        ((24, 31), 20, (4, 5)),
        ((31, 24), 20, (5, 4)),
        ((17, 40), 9, (2, 4)),
        ((9, 9), 1, (1, 1)),
        ((6, 7), 1000, (6, 7)),
        ((1, 40), 8, (1, 8)),
        ((40, 1), 8, (8, 1)),
    ],
)
def test_superpixels_are_those_of_loops_over_pixels(shape, number, grid):
    for seed in range(4):
        image = random_image(seed, shape)
        found = superpixels.slic(image, number)
        np.testing.assert_array_equal(found, slic_by_hand(image, *grid))


def test_superpixels_of_one_colour_are_those_of_loops_over_pixels():
    """Where only place counts."""
    for shape in [(24, 30), (25, 31)]:
        image = np.full([*shape, 3], 90, np.uint8)
        found = superpixels.slic(image, 20)
        np.testing.assert_array_equal(found, slic_by_hand(image, 4, 5))


def test_where_every_pixel_is_alike_superpixels_are_cells():
    found = superpixels.slic(np.full([12, 16, 3], 90, np.uint8), 12).numpy()
    cells = np.arange(12).reshape(3, 4).repeat(4, axis=0).repeat(4, axis=1)
    np.testing.assert_array_equal(found, cells)


def test_superpixels_end_where_colours_do():
    """An edge inside a column of cells."""
    image = np.full([12, 16, 3], 20, np.uint8)
    image[:, 11:] = [220, 180, 30]
    atoms = superpixels.slic(image, 12).numpy()
    assert not set(atoms[:, :11].ravel()) & set(atoms[:, 11:].ravel())


def test_a_pixel_between_two_centers_goes_to_the_first():
    """A white column in the middle of a black cell, between two white cells."""
    image = np.full([3, 9, 3], 255, np.uint8)
    image[:, [3, 5]] = 0
    found = superpixels.slic(image, 3)
    np.testing.assert_array_equal(found, 3 * [[0, 0, 0, 1, 0, 1, 2, 2, 2]])


def test_superpixels_are_numbered_by_their_first_pixels_without_gaps():
    image = np.random.default_rng(0).integers(0, 256, [40, 50, 3], np.uint8)
    for number in (1, 7, 100, 500, 5000):
        atoms = superpixels.slic(image, number)
        values, first = np.unique(atoms, return_index=True)
        assert atoms.dtype == tf.int32
        assert len(values) <= number
        np.testing.assert_array_equal(values, np.arange(len(values)))
        assert np.all(np.diff(first) > 0)


def test_centers_without_pixels_disappear():
    """Where cells are of two pixels, some lose both, for some images."""
    gone = []
    for seed in range(8):
        image = random_image(seed, (12, 12))
        found = superpixels.slic(image, 72).numpy().max() + 1
        rows, columns = (
            int(n) for n in superpixels._grid(tf.constant(12), tf.constant(12), 72)
        )
        assert found == slic_by_hand(image, rows, columns).max() + 1
        gone.append(rows * columns - found)
    assert max(gone) > 0


def test_cells_are_about_square_and_not_more_than_asked_for():
    for height in (1, 2, 9, 50, 180, 1000):
        for width in (1, 3, 20, 240, 999):
            for number in (1, 2, 10, 500, 10**6):
                grid = superpixels._grid(
                    tf.constant(height), tf.constant(width), number
                )
                rows, columns = (int(n) for n in grid)
                assert 1 <= rows <= height and 1 <= columns <= width
                assert rows * columns <= number
                if height * width <= number:
                    assert (rows, columns) == (height, width)
    grid = superpixels._grid(tf.constant(180), tf.constant(240), 500)
    assert [int(n) for n in grid] == [19, 26]


def test_a_number_of_superpixels_is_a_whole_number():
    with pytest.raises(ValueError, match="`number` must be a whole number"):
        superpixels.slic(IMAGE, 0)


# Unions


def unions(members):
    return {union.tobytes() for union in np.asarray(members)}


def test_unions_are_those_of_sklearn_in_its_order():
    for seed in range(2):
        image = random_image(seed, (40, 50))
        atoms = superpixels.slic(image, 80).numpy()
        count = atoms.max() + 1
        means = superpixels._means(superpixels._channels(image, 150.0), atoms, count)
        expected = list(np.eye(count, dtype=bool))
        touching = proposals._adjacent(atoms)
        for one, other in ward_tree(means.numpy(), connectivity=touching)[0]:
            expected.append(expected[one] | expected[other])
        found = superpixels.merge_tree(image, atoms)
        np.testing.assert_array_equal(found, expected)


def test_unions_are_those_of_the_proposals():
    """Of the same superpixels, from the image on."""
    for seed in range(2, 4):
        image = random_image(seed, (40, 50))
        atoms = superpixels.slic(image, 80).numpy()
        expected = proposals._tree(proposals._channels(image), atoms)
        assert unions(superpixels.merge_tree(image, atoms)) == unions(expected.members)


def test_superpixels_are_merged_by_what_the_proposals_compare():
    for image in (IMAGE, random_image(0, (5, 3)), random_image(0, (1, 9))):
        found, expected = (
            superpixels._channels(image, 150.0),
            proposals._channels(image),
        )
        np.testing.assert_allclose(found, expected, atol=5e-3)


def test_superpixels_touch_along_sides_of_pixels():
    partition = np.array([[0, 0, 1], [2, 3, 1], [2, 4, 4]])
    found = np.stack(superpixels._adjacent(tf.constant(partition), 5), axis=1).tolist()
    assert sorted(found) == [
        [0, 1], [0, 2], [0, 3], [1, 3], [1, 4], [2, 3], [2, 4], [3, 4]
    ]  # fmt: skip


def test_every_union_is_of_two_segments_before_it_and_the_last_is_the_image():
    atoms, _ = SEGMENT(IMAGE)
    members = superpixels.merge_tree(IMAGE, atoms).numpy()
    count = members.shape[1]
    assert len(members) == 2 * count - 1 > 2
    np.testing.assert_array_equal(members[:count], np.eye(count))
    free = unions(members[:count])
    for i in range(count, len(members)):
        inside = [p for p in members[:i] if p.tobytes() in free and p[members[i]].any()]
        assert len(inside) == 2
        np.testing.assert_array_equal(inside[0] | inside[1], members[i])
        assert not np.any(inside[0] & inside[1])
        free = free - unions(inside) | unions(members[i : i + 1])
    assert members[-1].all()


def test_segments_are_those_of_two_trees_each_once():
    """Of one with place and one without, which have some unions in common."""
    atoms, members = SEGMENT(IMAGE)
    trees = [superpixels.merge_tree(IMAGE, atoms, place) for place in (150.0, 0.0)]
    np.testing.assert_array_equal(members[: len(trees[0])], trees[0])
    assert unions(members) == unions(trees[0]) | unions(trees[1])
    assert len(members) == len(unions(members)) < len(unions(trees[0])) + len(trees[1])
    assert not unions(trees[1]) <= unions(trees[0])


def test_large_images_are_seen_smaller():
    """With no side above 16: superpixels of the image made smaller, as blocks."""
    image = random_image(3, (16, 12)).repeat(4, 0).repeat(4, 1)
    atoms, members = superpixels.segments_of(image, 12, side=16)
    small = tf.image.resize(image, [16, 12], antialias=True)
    expected = superpixels.segments_of(small, 12, side=16)
    blocks = expected[0].numpy().repeat(4, 0).repeat(4, 1)
    np.testing.assert_array_equal(atoms, blocks)
    np.testing.assert_array_equal(members, expected[1])
    with pytest.raises(ValueError, match="side"):
        superpixels.segments_of(image, 12, side=0)


# Both


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("value", [0, 255, None])
def test_images_of_any_size_have_segments(shape, value):
    image = np.full([*shape, 3], value or 0, np.uint8)
    if value is None:
        image = np.random.default_rng(0).integers(0, 256, [*shape, 3], np.uint8)
    found = segments.Segments(*(part.numpy() for part in SEGMENT(image)))
    assert found.shape == shape
    count = found.members.shape[1]
    assert 2 * count - 1 <= len(found) <= max(1, 3 * count - 2)
    assert found.areas.max() == np.prod(shape)
    assert found.sizes.sum() == np.prod(shape)
    if np.prod(shape) <= 60 and value is None:
        assert found.sizes.tolist() == [1] * np.prod(shape)


@pytest.mark.slow
def test_segments_are_the_same_for_the_same_image():
    """Large enough for several threads."""
    image = random_image(0, (180, 240))
    segment = traced(500)
    atoms, members = segment(image)
    for _ in range(3):
        again = segment(image)
        np.testing.assert_array_equal(atoms, again[0])
        np.testing.assert_array_equal(members, again[1])


def test_segments_are_the_same_in_a_graph_and_outside():
    for image in (IMAGE, random_image(1), np.full([9, 30, 3], 7, np.uint8)):
        for found, expected in zip(
            SEGMENT(image), superpixels.segments_of(image, 60), strict=True
        ):
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)


def test_segments_of_a_batch_are_those_of_its_images():
    images = np.stack([random_image(seed) for seed in range(3)])
    kinds = (
        tf.TensorSpec([None, None], tf.int32),
        tf.RaggedTensorSpec([None, None], tf.bool, ragged_rank=1),
    )

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
    def segment(images):
        def one(image):
            atoms, members = superpixels.segments_of(image, 60)
            return atoms, tf.RaggedTensor.from_tensor(members)

        return tf.map_fn(one, images, fn_output_signature=kinds)

    atoms, members = segment(images)
    for i, image in enumerate(images):
        expected = SEGMENT(image)
        np.testing.assert_array_equal(atoms[i], expected[0])
        np.testing.assert_array_equal(members[i].to_tensor(), expected[1])


def test_a_saved_model_segments_without_python(tmp_path):
    module = tf.Module()
    module.segment = SEGMENT
    tf.saved_model.save(module, tmp_path)
    graph = tf.saved_model.load(tmp_path).segment
    for found, expected in zip(graph(IMAGE), SEGMENT(IMAGE), strict=True):
        np.testing.assert_array_equal(found, expected)
    functions = graph.concrete_functions[0].graph.as_graph_def()
    nodes = [
        *functions.node,
        *(n for f in functions.library.function for n in f.node_def),
    ]
    assert len(nodes) > 100
    assert not [node.op for node in nodes if "Py" in node.op or "Var" in node.op]
