"""What segments are trained as: IoU with objects, purity of stuff, and pursuit."""

import numpy as np
import pytest

from keras_tilt.masking import assignment, examples, svm
from keras_tilt.masking.assignment import assign, purities, pursue
from keras_tilt.masking.segments import of_masks

ROAD, CAR, SKY = range(3)


def rectangle(shape, top, left, bottom, right):
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    return mask


def rectangles(shape, *boxes):
    return of_masks(np.stack([rectangle(shape, *box) for box in boxes]))


def test_purity_is_iou_with_what_stuff_covers_of_the_box():
    """Of random masks, by the definition."""
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 3, [12, 15])
    masks = np.stack(
        [
            rng.random([12, 15]) < 0.5 if i < 4 else rectangle((12, 15), i, 2, i + 3, 9)
            for i in range(8)
        ]
    )
    found = purities(of_masks(masks), labels, 3)
    for mask, row in zip(masks, found, strict=True):
        rows, columns = np.nonzero(mask)
        box = rectangle(
            mask.shape, rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
        )
        for label in range(3):
            stuff = (labels == label) & box
            judged = mask & (labels >= 0)
            expected = (stuff & judged).sum() / (stuff | judged).sum()
            assert row[label] == pytest.approx(expected, rel=1e-12)


def test_a_piece_of_stuff_is_pure_however_small_and_little_of_an_object():
    labels = np.zeros([20, 20], int)
    segments = rectangles((20, 20), (3, 3, 5, 5))
    assert purities(segments, labels, 1) == 1
    car = assign(segments, labels, [(CAR, np.ones([20, 20], bool))], 2)
    assert car.measures[0, CAR] == pytest.approx(4 / 400)


# Pursuit

SEPARATE = np.eye(4)


def test_pursuit_takes_the_largest_first_and_stops_below_the_mean_area():
    assert pursue([9, 40, 30, 1], SEPARATE).tolist() == [1, 2]  # mean 20


def test_pursuit_drops_what_overlaps_a_pursued_one():
    iou = SEPARATE + 0.2 * (np.eye(4, k=1) + np.eye(4, k=-1))
    assert pursue([10, 9, 8, 1], iou).tolist() == [0, 2]  # mean 7: 3 is too small
    assert pursue([10, 9, 8, 1], iou * 0.99 + 0.01 * SEPARATE).tolist() == [0, 1, 2]


def test_equal_segments_are_all_pursued_and_no_segments_none():
    assert sorted(pursue([5, 5, 5, 5], SEPARATE)) == [0, 1, 2, 3]
    assert pursue([], np.zeros([0, 0])).size == 0


def test_stochastic_pursuit_begins_with_each_in_proportion_to_its_area():
    areas = np.array([10, 20, 30, 40])
    rng = np.random.default_rng(1)
    first = [pursue(areas, SEPARATE, rng)[0] for _ in range(20_000)]
    shares = np.bincount(first, minlength=4) / 20_000
    errors = np.sqrt(areas / 100 * (1 - areas / 100) / 20_000)
    assert np.all(np.abs(shares - areas / 100) < 5 * errors)


def test_stochastic_pursuit_goes_on_until_what_is_left_is_small():
    """It may take small ones, too, never two that overlap, and leaves no large one."""
    rng = np.random.default_rng(2)
    areas = rng.integers(1, 100, 30)
    overlap = rng.random([30, 30]) < 0.1
    iou = np.where(overlap | overlap.T, 0.3, 0.0)
    np.fill_diagonal(iou, 1)
    taken = set()
    for seed in range(50):
        chosen = pursue(areas, iou, np.random.default_rng(seed))
        assert len(set(chosen)) == len(chosen)
        pairs = iou[np.ix_(chosen, chosen)] - np.eye(len(chosen))
        assert pairs.max(initial=0) < assignment.APART
        free = np.all(iou[chosen] < assignment.APART, axis=0)
        assert areas[free].max(initial=0) < areas.mean()
        taken |= set(chosen.tolist())
    assert areas[list(taken)].min() < areas.mean()
    assert len(taken) > len(pursue(areas, iou))


# Labels

SHAPE = (20, 40)


def street():
    """Sky above, road below, and a car of 10 x 10 in the road; 4 columns of void."""
    labels = np.full(SHAPE, ROAD)
    labels[:8] = SKY
    labels[9:19, 10:20] = CAR
    labels[:, 36:] = -1
    return labels, [(CAR, labels == CAR)]


BOXES = {
    "the car": (9, 10, 19, 20),
    "most of the car": (9, 10, 19, 16),
    "less than half of it": (9, 10, 19, 14),
    "a corner of it, on the road": (9, 8, 12, 20),
    "a small part of it": (10, 11, 12, 13),
    "all sky": (0, 0, 8, 36),
    "half of the sky": (0, 0, 8, 18),
    "a bit of sky": (0, 0, 2, 2),
    "road at the right": (8, 20, 20, 36),
    "void alone": (0, 36, 20, 40),
}


def test_segments_of_a_street_are_labelled_as_the_rules_say():
    labels, objects = street()
    segments = rectangles(SHAPE, *BOXES.values())
    found = assign(segments, labels, objects, 3, stuff=[SKY, ROAD]).labels()
    assert dict(zip(BOXES, found.tolist(), strict=True)) == {
        "the car": CAR,
        "most of the car": CAR,
        "less than half of it": -1,  # IoU .4
        "a corner of it, on the road": 3,  # IoU .24, purity of road .29
        "a small part of it": -1,  # IoU .04, of a piece with nothing else
        "all sky": SKY,
        "half of the sky": -1,  # pure, but overlaps the larger one by half
        "a bit of sky": -1,  # pure and apart, but smaller than the mean
        "road at the right": ROAD,
        "void alone": -1,
    }


def test_without_pursuit_stuff_is_an_object():
    labels, objects = street()
    segments = rectangles(SHAPE, *BOXES.values())
    objects = [*objects, (SKY, labels == SKY)]
    found = assign(segments, labels, objects, 3).labels()
    named = dict(zip(BOXES, found.tolist(), strict=True))
    assert named["all sky"] == named["half of the sky"] == SKY  # IoU 1 and .5
    assert named["a bit of sky"] == -1
    assert named["road at the right"] == -1  # no object


def test_an_object_is_none_of_the_stuff_that_it_is_pure_of():
    """A car whose pixels are labelled as road, beside a piece of road."""
    labels = np.full((10, 20), ROAD)
    car = rectangle((10, 20), 0, 0, 10, 10)
    segments = rectangles((10, 20), (0, 0, 10, 10), (0, 10, 10, 20))
    found = assign(segments, labels, [(CAR, car)], 3, stuff=[ROAD])
    assert np.all(found.measures[:, ROAD] == 1)
    assert found.labels().tolist() == [CAR, ROAD]


def test_the_best_of_two_objects_gives_the_class():
    labels = np.zeros([10, 10], int)
    masks = [rectangle((10, 10), 0, 0, 10, 6), rectangle((10, 10), 0, 0, 10, 8)]
    objects = [(CAR, masks[0]), (SKY, masks[1])]
    segments = rectangles((10, 10), (0, 0, 10, 7))
    assert assign(segments, labels, objects, 3).labels().tolist() == [SKY]


def test_deterministic_labels_are_the_same_and_stochastic_ones_those_of_their_seed():
    rng = np.random.default_rng(3)
    labels = np.zeros([40, 40], int)
    boxes = [(*corner, *(corner + 12)) for corner in rng.integers(0, 28, [60, 2])]
    found = assign(rectangles((40, 40), *boxes), labels, [], 1, stuff=[ROAD])
    np.testing.assert_array_equal(found.labels(), found.labels())
    drawn = [found.labels((0, epoch)) for epoch in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.any(drawn[0] != drawn[2])


def test_an_image_without_segments_has_no_labels():
    nothing = of_masks(np.zeros([0, *SHAPE], bool))
    labels, objects = street()
    assert assign(nothing, labels, objects, 3, stuff=[SKY]).labels().size == 0


# Drawing


def test_drawn_segments_are_as_many_as_wanted_each_once():
    labels = np.repeat([0, 1, 2, -1], [50, 3, 100, 20])  # 2 classes, 2 is none
    chosen = examples.draw(labels, 2, 40, 0.5, np.random.default_rng(0))
    assert len(set(chosen)) == len(chosen) == 40
    assert (labels[chosen] == 2).sum() == 20
    assert (labels[chosen] >= 0).all()
    few = examples.draw(labels[50:53], 2, 40, 0.5, np.random.default_rng(0))
    assert sorted(few) == [0, 1, 2]
    nothing = examples.draw(np.full(3, -1), 2, 40, 0.5, np.random.default_rng(0))
    assert nothing.size == 0


def test_a_rare_class_is_drawn_first_as_often_as_a_frequent_one():
    labels = np.repeat([0, 1], [90, 10])
    first = [
        labels[examples.draw(labels, 2, 1, 1.0, np.random.default_rng(i))[0]]
        for i in range(2000)
    ]
    assert abs(np.mean(first) - 0.5) < 5 * 0.5 / np.sqrt(2000)


# Linear SVMs


def test_answers_are_for_true_ones_against_what_is_little_and_nothing_between():
    labels, objects = street()
    segments = rectangles(SHAPE, *BOXES.values())
    answers = svm.answers_of(assign(segments, labels, objects, 3, stuff=[SKY, ROAD]))
    named = dict(zip(BOXES, answers.tolist(), strict=True))
    assert named["the car"] == [-1, 1, -1]
    assert named["most of the car"][CAR] == 0
    assert named["all sky"] == [-1, -1, 1]
    assert named["half of the sky"] == [-1, -1, 0]
    assert named["a small part of it"][CAR] == -1


def separable(seed=0, images=6):
    """Vectors of segments whose class is the sign of a coordinate each."""
    rng = np.random.default_rng(seed)
    vectors = [rng.normal(size=[40, 5]) for _ in range(images)]

    def assignment_of(i):
        masks = np.eye(40, dtype=bool).reshape(40, 5, 8)
        measures = (vectors[i][:, :2] > 0).astype(np.float32)
        return assignment.Assignment(of_masks(masks), measures, ())

    return vectors, assignment_of


def test_linear_svms_find_the_planes_that_separate():
    vectors, assignment_of = separable()
    svms = svm.fit(
        vectors.__getitem__, assignment_of, 6, seed=0, penalty=10.0, progress=False
    )
    margins = svms.margins(np.concatenate(vectors))
    truth = np.concatenate(vectors)[:, :2] > 0
    assert np.mean((margins > 0) == truth) > 0.97
    assert np.abs(svms.kernel[:2].diagonal()).min() > 5 * np.abs(svms.kernel[2:]).max(
        initial=0
    )


def test_hard_negatives_are_used():
    """With one segment of an image to begin with, the others must come later."""
    vectors, assignment_of = separable(1)
    wrong = []
    for hard in (0, 50):
        svms = svm.fit(
            vectors.__getitem__,
            assignment_of,
            6,
            seed=0,
            penalty=10.0,
            negatives=1,
            hard_negatives=hard,
            progress=False,
        )
        margins = svms.margins(np.concatenate(vectors))
        wrong.append(np.mean((margins > 0) != (np.concatenate(vectors)[:, :2] > 0)))
    assert wrong[1] < wrong[0] / 2


def test_a_class_that_never_occurs_has_margins_of_minus_one():
    vectors, assignment_of = separable()

    def without_first(i):
        found = assignment_of(i)
        found.measures[:, 0] = 0
        return found

    svms = svm.fit(vectors.__getitem__, without_first, 6, seed=0, progress=False)
    np.testing.assert_array_equal(svms.margins(vectors[0])[:, 0], -1)


def test_no_example_at_all_is_an_error():
    nothing = assignment.Assignment(
        of_masks(np.ones([1, 2, 2], bool)), np.zeros([1, 2], np.float32), ()
    )
    with pytest.raises(ValueError, match="with an object or pure segments"):
        svm.fit(lambda i: np.ones([1, 3]), lambda i: nothing, 2, seed=0, progress=False)
