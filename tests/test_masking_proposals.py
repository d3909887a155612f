"""Proposals are unions of superpixels, each the one that is missing most."""

import numpy as np
import pytest
from data_files import data_file
from skimage import measure

from keras_tilt.masking import proposals, scenes, segments

IMAGE = scenes.synthetic(3, (90, 120))[2].image


def test_proposals_are_the_same_for_the_same_image():
    one, other = proposals.proposals(IMAGE), proposals.proposals(IMAGE)
    np.testing.assert_array_equal(one.atoms, other.atoms)
    np.testing.assert_array_equal(one.members, other.members)


def test_no_two_proposals_have_the_same_pixels_and_the_first_is_the_image():
    found = proposals.proposals(IMAGE)
    assert found.areas[0] == IMAGE[..., 0].size
    assert len({mask.tobytes() for mask in found.masks()}) == len(found) > 100


def test_superpixels_are_among_the_proposals_and_they_are_connected():
    found = proposals.proposals(IMAGE, 10_000)
    for partition in proposals.superpixels(IMAGE):
        pieces = segments.of_label_map(partition)
        assert pieces.areas.sum() == partition.size
        assert np.all(segments.recall(found, pieces, 1.0))
        for mask in pieces.masks():
            assert measure.label(mask, connectivity=2).max() == 1


def test_every_union_is_of_two_others():
    """Of a tree: each proposal that is no superpixel splits into two that are there."""
    one = proposals.superpixels(IMAGE)[-1]
    count = one.max() + 1
    tree = proposals._tree(proposals._channels(IMAGE), one).members
    assert len(tree) == 2 * count - 1
    for union in tree[count:]:
        inside = tree[(tree <= union).all(axis=1) & (tree != union).any(axis=1)]
        rest = {(union & ~part).tobytes() for part in inside}
        assert rest & {part.tobytes() for part in inside}


def test_every_union_is_connected():
    """Through sides and corners of pixels, as superpixels are."""
    for mask in proposals.proposals(IMAGE).masks():
        assert measure.label(mask, connectivity=2).max() == 1


def test_superpixels_are_compared_by_their_means():
    rng = np.random.default_rng(0)
    partition = rng.integers(0, 5, [7, 11])
    channels = rng.normal(size=[7, 11, 3])
    expected = [channels[partition == i].mean(axis=0) for i in range(5)]
    np.testing.assert_allclose(proposals._means(channels, partition), expected)


def test_superpixels_touch_along_sides_of_pixels():
    partition = np.array([[0, 0, 1], [2, 3, 1], [2, 4, 4]])
    touching = {(0, 1), (0, 2), (0, 3), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)}
    found = proposals._adjacent(partition).toarray() > 0
    np.testing.assert_array_equal(found, found.T)
    assert set(zip(*np.nonzero(np.triu(found, 1)), strict=True)) == touching


def test_what_looks_alike_is_one_proposal_although_others_are_nearer():
    """A thin band of pieces in two reds, on pieces in two blues, above and below."""
    odd = np.arange(80)[:, np.newaxis] // 20 % 2
    image = np.tile(np.where(odd, [20, 60, 160], [40, 90, 220]), [60, 1, 1])
    image[27:33] = np.where(odd, [200, 40, 40], [255, 90, 60])
    band = np.zeros([1, 60, 80], bool)
    band[:, 27:33] = True
    found = proposals.proposals(image.astype(np.uint8))
    pieces = proposals.superpixels(image.astype(np.uint8))[0][30]
    assert len(np.unique(pieces)) >= 4
    assert segments.best_iou(found, segments.of_masks(band)) > 0.9


def test_fewer_proposals_are_the_first_of_more():
    many, few = proposals.proposals(IMAGE, 200), proposals.proposals(IMAGE, 30)
    assert len(few) == 30
    np.testing.assert_array_equal(few.masks(), many.masks(np.arange(30)))


def test_each_proposal_is_the_one_that_is_missing_most():
    found = proposals.proposals(IMAGE, 10_000)
    iou, weights = found.iou(found), np.cbrt(found.areas)
    for k in range(1, 40):
        missing = weights * (1 - iou[:, :k].max(axis=1))
        assert missing[k] == pytest.approx(missing.max())


@pytest.mark.parametrize("shape", [(1, 50), (50, 1), (1, 1), (2, 2), (20, 30)])
def test_images_without_anything_in_them_have_at_least_themselves(shape):
    for value in (0, 255):
        found = proposals.proposals(np.full([*shape, 3], value, np.uint8))
        assert found.areas[0] == np.prod(shape)
    noise = np.random.default_rng(0).integers(0, 256, [*shape, 3], np.uint8)
    assert proposals.proposals(noise).areas[0] == np.prod(shape)


def test_trees_are_bounded_and_keep_their_largest_segments():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, [50, 50, 3], np.uint8)
    partition = proposals.superpixels(image)[0]
    assert partition.max() >= proposals._NODES
    tree = proposals._tree(proposals._channels(image), partition)
    assert len(tree) == proposals._NODES and tree.areas.max() == 2500
    assert tree.areas.min() > np.bincount(partition.ravel()).min()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros([9, 9], np.uint8), "Repeat a gray channel"),
        (np.zeros([9, 9, 3]), "must be pixels uint8"),
        (np.zeros([0, 9, 3], np.uint8), "must have pixels"),
    ],
)
def test_what_is_no_image_is_an_error(image, message):
    with pytest.raises(ValueError, match=message):
        proposals.proposals(image)
    with pytest.raises(ValueError, match=message):
        proposals.superpixels(image)


def test_a_number_of_segments_is_a_whole_number():
    with pytest.raises(ValueError, match="`max_segments` must be a whole number"):
        proposals.proposals(IMAGE, 0)


@pytest.mark.slow
def test_large_objects_of_a_street_are_proposed():
    """Of cars and cyclists of 300 pixels or more on CamVid, most with IoU of half."""
    streets = scenes.npz(data_file("camvid_180x240_jpg.npz"), "train")
    found = []
    for i in range(0, len(streets), 40):
        objects = [m for _, m in scenes.objects(streets[i], [8, 10]) if m.sum() >= 300]
        if objects:
            true = segments.of_masks(np.stack(objects))
            found.extend(segments.recall(proposals.proposals(streets[i].image), true))
    assert len(found) > 5
    assert np.mean(found) > 0.5
