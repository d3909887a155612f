"""Past batches as draws of q: sums as of one large batch, and what they do to the mean.

The expectations are exact: over all 495 batches of 4 of the 12 images of a population.
"""

import itertools

import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from cases import slow_but

from keras_tilt import generative_loss
from keras_tilt.training.losses import column_statistics
from keras_tilt.training.reference_queue import ReferenceQueue, pooled

EPSILON = np.finfo(np.float32).eps
NUM_CLASSES = 6


def batch(num_images, seed=0, scale=2.0, offset=0.0):
    """Labels, some of them -1, logits `[num_images, 6]`, sample weights."""
    random = np.random.default_rng(seed)
    labels = random.integers(-1, NUM_CLASSES, num_images).astype(np.int32)
    logits = offset + scale * random.standard_normal((num_images, NUM_CLASSES))
    return labels, np.float32(logits), np.float32(random.uniform(0.5, 2.0, num_images))


def filled(batches, length):
    """A queue that was given these batches, the oldest first."""
    queue = ReferenceQueue(length, NUM_CLASSES)
    for each in batches:
        queue.push(column_statistics(*each))
    return queue


def own_class(labels, logits, weights=None):
    """w_j 1[y_j = c], `[batch, classes]`."""
    own = np.float64(labels[:, np.newaxis] == np.arange(logits.shape[1]))
    return own if weights is None else own * weights[:, np.newaxis]


def oracle(now, past):
    """The formulas over the logits of all images, in float64, by name."""
    everyone = [now, *past]
    logits = np.concatenate([each[1] for each in everyone]).astype(np.float64)
    own = np.concatenate([own_class(*each) for each in everyone])
    here = own_class(*now)
    num_images, num_labelled = len(now[0]), np.sum(now[0] >= 0)
    log_sum = scipy.special.logsumexp(logits, axis=0) + np.log(num_images / len(logits))
    weights = np.exp(now[1] - log_sum)
    mass = num_images * own.mean(axis=0)
    excess = np.sum(here * (log_sum - now[1]))
    return {
        "log_sum": log_sum,
        "importance_weights": weights,
        "mass": mass,
        "square_sum": np.sum(scipy.special.softmax(logits, axis=0) ** 2, axis=0),
        "excess": excess,
        "num_labelled": num_labelled,
        "num_images": num_images,
        "loss": excess / num_labelled,
        "gradient": (mass * weights - here) / num_labelled,
    }


def value_and_gradient(labels, logits, sample_weight, statistics):
    """Of the generative loss."""
    logits = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = generative_loss(labels, logits, sample_weight, statistics)
    return loss.numpy(), tape.gradient(loss, logits).numpy()


# Sums


PASTS = {
    "nothing": ([], 1.0),
    "uneven sizes": ([batch(n, n) for n in (1, 30, 7)], 1.0),
    "logits about 80": ([batch(n, n, 3.0, 80.0) for n in (5, 12)], 80.0),
    "logits about -80": ([batch(n, n, 3.0, -80.0) for n in (5, 12)], 80.0),
    "logits of both signs": ([batch(n, n, 40.0) for n in (9, 4, 20)], 120.0),
}


@pytest.mark.parametrize("past, size", PASTS.values(), ids=PASTS.keys())
@pytest.mark.parametrize("now", [batch(16), batch(16, 1, 3.0, 80.0)], ids=["2", "80"])
def test_pooled_statistics_are_those_of_all_images_at_once(past, size, now):
    """A logit of size s is known to s eps nats, and its exp to a share of s eps."""
    rounding = 16 * max(size, np.abs(now[1]).max()) * EPSILON
    expected = oracle(now, past)
    ours = pooled(column_statistics(*now), filled(past, 4).rows)
    close = {"log_sum": "atol", "excess": "atol"}
    for name, value in ours._asdict().items():
        scale = np.abs(expected["mass"]).sum() if name == "excess" else 1.0
        tolerance = {"rtol": 0.0, close.get(name, "rtol"): rounding * scale}
        np.testing.assert_allclose(
            value, expected[name], **{"atol": 1e-37, **tolerance}, err_msg=name
        )
    loss, gradient = value_and_gradient(*now, ours)
    np.testing.assert_allclose(loss, expected["loss"], atol=2 * rounding, rtol=rounding)
    largest = np.abs(expected["gradient"]).max()
    np.testing.assert_allclose(
        gradient, expected["gradient"], rtol=rounding, atol=rounding * largest
    )


def test_an_empty_queue_changes_no_bit():
    for now in (batch(16), batch(16, 1, 3.0, 80.0), batch(16, 2, 40.0)):
        alone = column_statistics(*now)
        ours = pooled(alone, ReferenceQueue(3, NUM_CLASSES).rows)
        for name, value in ours._asdict().items():
            np.testing.assert_array_equal(value, getattr(alone, name), err_msg=name)


def test_the_oldest_batch_falls_out():
    batches = [batch(n, n) for n in (5, 6, 7, 8, 9)]
    rows = filled(batches, 3).rows
    np.testing.assert_array_equal(rows, filled(batches[2:], 3).rows)
    np.testing.assert_array_equal(rows[:, -1], [9.0, 8.0, 7.0])


@pytest.mark.parametrize(
    "pushed", slow_but([2, 132, 133], [1, 2, 3, 130, 132, 133, 300])
)
def test_a_long_queue_is_that_of_its_batches_in_64_rows_at_most(pushed):
    """130 batches, three to a row, in 44 rows: 130 to 132 of the last are there."""
    batches = [batch(2, n, 3.0) for n in range(pushed)]
    queue = filled(batches, 130)
    kept = int(queue.rows.numpy()[:, -1].sum()) // 2
    assert min(pushed, 130) <= kept <= min(pushed, 132)
    assert queue.rows.shape[0] == 44 and int(queue.pushed) == pushed
    now = batch(16, pushed)
    expected = oracle(now, batches[pushed - kept :])
    ours = pooled(column_statistics(*now), queue.rows)
    for name in ("log_sum", "square_sum", "mass"):
        found = getattr(ours, name)
        np.testing.assert_allclose(found, expected[name], rtol=1e-4, atol=1e-5)


def test_the_order_of_the_queue_does_not_matter():
    batches, now = [batch(n, n) for n in (5, 6, 7)], column_statistics(*batch(16))
    forth, back = (filled(each, 3).rows for each in (batches, batches[::-1]))
    for one, other in zip(pooled(now, forth), pooled(now, back), strict=True):
        np.testing.assert_allclose(one, other, rtol=16 * EPSILON)


# Drift


def test_the_drift_of_logits_that_repeat_is_zero():
    queue = filled(4 * [batch(10)], 4)
    np.testing.assert_allclose(queue.drift(), 0.0, atol=8 * EPSILON)


@pytest.mark.parametrize("rise", [0.5, -3.0])
@pytest.mark.parametrize("length", [2, 5, 8])
def test_the_drift_is_what_logits_rise_by_between_the_halves(rise, length):
    labels, logits, _ = batch(10)
    older = (length - length // 2) * [(labels, logits)]
    newer = (length // 2) * [(labels, logits + np.float32(rise))]
    queue = filled(older + newer, length)
    np.testing.assert_allclose(queue.drift(), rise, atol=64 * EPSILON)


def test_the_drift_does_not_depend_on_the_sizes_of_batches():
    labels, logits, _ = batch(10)
    twice = np.tile(labels, 2), np.tile(logits, [2, 1])
    queue = filled([twice, twice, (labels, logits), (labels, logits)], 4)
    np.testing.assert_allclose(queue.drift(), 0.0, atol=16 * EPSILON)


def test_there_is_no_drift_until_both_halves_hold_images():
    labels, logits, _ = batch(10)
    batches = [(labels, logits + np.float32(k)) for k in range(4)]
    drifts = [float(filled(batches[:count], 4).drift()) for count in range(5)]
    mean = np.logaddexp([0.0, 1.0, 2.0], [1.0, 2.0, 3.0]) - np.log(2.0)
    expected = [0.0, 0.0, 0.0, mean[1] - 0.0, mean[2] - mean[0]]
    np.testing.assert_allclose(drifts, expected, atol=64 * EPSILON)
    assert float(filled(batches, 1).drift()) == 0.0


# Expectation


LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 4, 5], np.int32)
LOGITS = np.float32(
    np.random.default_rng(0).standard_normal([12, 6]) + 1.5 * np.eye(6)[LABELS]
)
BATCHES = np.array(list(itertools.combinations(range(12), 4)))
PRIOR = np.bincount(LABELS) / 12
DENSITY = scipy.special.softmax(LOGITS.astype(np.float64), axis=0)  # p_c of an image


def population_gradient():
    """-E_data[dF_y] + sum_c rho_c E_p_c[dF_c], per image and class `[12, 6]`."""
    return PRIOR * DENSITY - np.eye(6)[LABELS] / 12


def mean_gradient(statistics_of):
    """Of the generative loss over all batches of four, per image and class `[12, 6]`.

    Args:
        statistics_of: function from the statistics of a batch to those to use.
    """

    @tf.function
    def gradient(labels, logits):
        statistics = statistics_of(column_statistics(labels, logits))
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = generative_loss(labels, logits, statistics=statistics)
        return tape.gradient(loss, logits)

    total = np.zeros([12, 6])
    for images in BATCHES:
        total[images] += gradient(LABELS[images], LOGITS[images]).numpy()
    return total / len(BATCHES)


def rows_of_the_population(copies):
    """One past batch that holds every image of the population so many times."""
    statistics = column_statistics(LABELS, LOGITS)
    numbers = [
        statistics.log_sum + np.log(copies),
        statistics.square_sum / copies,
        copies * statistics.mass,
        [12.0 * copies],
    ]
    return tf.concat([tf.cast(each, tf.float32) for each in numbers], 0)[tf.newaxis]


def relative_bias(gradient):
    """|gradient - that of the population| / |that of the population|."""
    exact = population_gradient()
    return np.linalg.norm(gradient - exact) / np.linalg.norm(exact)


def test_with_all_draws_in_the_queue_the_mean_gradient_is_that_of_the_population():
    """The batch itself is 4 draws beside 12 copies, which is all that it is off by."""
    copies = 2.0**22
    rows = rows_of_the_population(copies)
    ours = mean_gradient(lambda statistics: pooled(statistics, rows))
    np.testing.assert_allclose(ours, population_gradient(), atol=4 * EPSILON)


def test_a_queue_of_many_batches_has_a_bias_of_one_over_their_number():
    """Z and rho of K batches and one more are off by at most 2 / (K + 1) of them.

    Every image is in as many of the 495 batches, so that the queue is the population;
    a sum over 4 of 12 images is at most 3 times its mean. Z off by a share d and rho by
    e change rho W by (1 + e) / (1 + d) - 1.
    """
    queue = ReferenceQueue(len(BATCHES), NUM_CLASSES)
    push = tf.function(lambda f, y: queue.push(column_statistics(y, f)))
    for images in BATCHES:
        push(LOGITS[images], LABELS[images])
    ours = mean_gradient(lambda statistics: pooled(statistics, queue.rows))
    most, least = 1 + 2 / (len(BATCHES) + 1), 1 - 1 / (len(BATCHES) + 1)
    bound = (most / least - 1) * PRIOR * DENSITY + 4 * EPSILON
    assert (np.abs(ours - population_gradient()) <= bound).all()


def test_the_batch_alone_is_biased():
    """An image alone in its class, p of it, rises by 1 - E[W] where 1 - p is due.

    W = e / (e + sum of 3 others) has by Jensen a mean above e / (e + 3 mean others),
    and p is e / (e + 11 mean others). Classes 3, 4 and 5 are of one image.
    """
    ours = mean_gradient(lambda statistics: statistics)
    assert relative_bias(ours) > 0.25
    images, classes = [9, 10, 11], [3, 4, 5]
    others = (1 / DENSITY[images, classes] - 1) / 11
    at_most = -(1 - 1 / (1 + 3 * others)) / 12
    assert (ours[images, classes] > at_most).all()
    assert (at_most > 0.7 * population_gradient()[images, classes]).all()


def test_the_number_of_a_class_in_the_batch_instead_of_its_share_is_biased():
    """Given image j, its class has 1 + 3 (n_c - 1) / 11 images in the batch, not n_c/3.

    E[N_c 1[j in batch]] = (4 / 12) (1[y_j = c] + 3 (n_c - 1[y_j = c]) / 11)
    """
    rows = rows_of_the_population(2.0**22)

    def of_the_batch(statistics):
        return pooled(statistics, rows)._replace(mass=statistics.mass)

    ours = mean_gradient(of_the_batch)
    own = np.eye(6)[LABELS]
    number = own + 3 * (np.bincount(LABELS) - own) / 11
    expected = DENSITY * number / 4 - own / 12
    np.testing.assert_allclose(ours, expected, atol=4 * EPSILON)
    assert relative_bias(ours) > 0.25
