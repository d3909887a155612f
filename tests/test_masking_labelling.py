"""Pasting and voting are what one would do by hand; scores are those of VOC."""

import numpy as np
import pytest
import tensorflow as tf

from keras_tilt.masking import scores, segments
from keras_tilt.masking.labelling import label_map, paste, vote


def pasted_by_hand(members, sizes, values, max_iou, threshold, fill):
    """Segment by segment, atom by atom."""
    members = np.asarray(members)
    order = sorted(range(len(members)), key=lambda s: -values[s].max())
    order = [s for s in order if values[s].max() >= threshold]

    def iou(s, t):
        both, either = members[s] & members[t], members[s] | members[t]
        return sizes[both].sum() / sizes[either].sum()

    kept = []
    for s in order:
        if all(iou(s, t) <= max_iou for t in kept):
            kept.append(s)
    rest = [s for s in order if s not in kept] if fill else []
    owners = np.full(members.shape[1], -1)
    for s in reversed(kept + rest):
        owners[members[s]] = s
    classes = np.append(values.argmax(axis=1), -1)
    return classes[owners], owners


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("max_iou", [0.0, 0.1, 0.5, 1.0])
def test_segments_are_pasted_as_by_hand(max_iou, fill):
    pasting = tf.function(paste)
    for seed in range(8):
        rng = np.random.default_rng([seed, int(10 * max_iou)])
        members = rng.random([30, 25]) < rng.uniform(0.05, 0.4)
        members[:, seed] |= ~members.any(axis=1)
        sizes = rng.integers(1, 50, 25)
        values = rng.normal(size=[30, 4]).astype(np.float32)
        for threshold in (-np.inf, 0.7):
            expected = pasted_by_hand(members, sizes, values, max_iou, threshold, fill)
            found = pasting(members, sizes, values, max_iou, threshold, fill)
            np.testing.assert_array_equal(found[0], expected[0])
            np.testing.assert_array_equal(found[1], expected[1])


def test_of_no_segments_nothing_is_pasted():
    labels, owners = paste(np.zeros([0, 3], bool), [1, 2, 3], np.zeros([0, 2]))
    assert labels.numpy().tolist() == owners.numpy().tolist() == [-1, -1, -1]


def test_of_the_background_nothing_is_pasted_nor_suppressed():
    """The best of all segments is of the background, and is as if it were not."""
    members = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1]], bool)
    values = np.array([[0.9, 0.0], [0.1, 0.3], [0.2, 0.1]], np.float32)
    labels, owners = paste(members, [5] * 4, values, 0.1, fill=True, background=0)
    assert labels.numpy().tolist() == [1, 1, 0, 0]
    assert owners.numpy().tolist() == [1, 1, -1, -1]


def test_votes_are_counted_segment_by_segment():
    voting = tf.function(vote)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        members = rng.random([30, 25]) < 0.1
        members[:, 3] = False
        sizes = rng.integers(1, 50, 25)
        values = rng.normal(size=[30, 4]).astype(np.float32)
        expected, means = np.full(25, -1), np.zeros([25, 4])
        for atom in np.flatnonzero(members.any(axis=0)):
            voters = np.flatnonzero(members[:, atom])
            weights = [1 / np.sqrt(sizes[members[s]].sum()) for s in voters]
            means[atom] = np.average(values[voters], axis=0, weights=weights)
            expected[atom] = means[atom].argmax()
        assert (expected == -1).any() and len(set(expected)) == 5
        found = voting(members, sizes, values)
        np.testing.assert_array_equal(found[0], expected)
        np.testing.assert_allclose(found[1], means, atol=1e-5)


def test_label_maps_are_of_pixels_and_of_the_background_elsewhere():
    pieces = segments.of_masks([[[1, 1, 0, 0]], [[0, 1, 0, 0]], [[0, 0, 1, 0]]])
    values = np.array([[0.1, 0.6, 0.0], [0.2, 0.0, 0.55], [0.9, 0.1, 0.1]], np.float32)
    for rule, expected in {"paste": [1, 1, 0, -1], "vote": [1, 2, 0, -1]}.items():
        bounds = {"fill": True} if rule == "paste" else {}
        assert label_map(pieces, values, rule, **bounds).tolist() == [expected]
        expected = [0 if label == -1 else label for label in expected]
        assert label_map(pieces, values, rule, 0, **bounds).tolist() == [expected]
    with pytest.raises(ValueError, match="one of paste, vote. Received: 'shout'"):
        label_map(pieces, values, "shout")
    with pytest.raises(ValueError, match="no bounds. Received: max_iou"):
        label_map(pieces, values, "vote", max_iou=0.3)


# Scores


def test_iou_is_that_of_sets_of_pixels():
    rng = np.random.default_rng(0)
    truth, found = rng.integers(-1, 4, [2, 30, 40])
    counts = scores.confusion(truth, found, 4)
    assert counts.sum() == (truth >= 0).sum()
    for label, iou in enumerate(scores.class_iou(counts)):
        true, said = truth == label, (found == label) & (truth >= 0)
        assert iou == (true & said).sum() / (true | said).sum()


def test_a_class_that_is_nowhere_has_no_iou():
    iou = scores.class_iou(scores.confusion([0, 0], [0, 0], 2))
    assert iou[0] == 1 and np.isnan(iou[1])


def test_average_precision_is_one_if_all_come_first_and_the_envelope_else():
    assert scores.average_precision([True, True, False], [3, 2, 1], 2) == 1
    # Precisions 0, 1/2, 2/3 at the hits, the highest later one counts.
    assert scores.average_precision([False, True, True], [3, 2, 1], 2) == 2 / 3
    assert scores.average_precision([True, False], [3, 2], 4) == 1 / 4
    assert scores.average_precision([], [], 2) == 0
    assert np.isnan(scores.average_precision([], [], 0))


def test_average_precision_is_that_of_scikit_learn_where_precision_only_falls():
    """Of all true objects found, and no envelope needed."""
    from sklearn.metrics import average_precision_score

    hits = np.array([True] * 6 + [False] * 3 + [True])
    values = np.arange(10, 0, -1)
    assert scores.average_precision(hits, values, 7) == pytest.approx(
        average_precision_score(hits, values)
    )


def test_a_true_object_is_found_once_by_the_best_scored():
    iou = np.array([[0.9], [0.8], [0.2]])
    assert scores.matched(iou, [0.5, 0.9, 1.0], 0.5).tolist() == [False, True, False]
    assert scores.matched(np.zeros([2, 0]), [1, 2], 0.5).tolist() == [False, False]
