"""The laws of the generative gradient, and both losses against float64 oracles."""

import re

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from cases import slow_but

from keras_tilt import discriminative_loss, generative_loss, kish_ess, mixed_loss
from keras_tilt.training.losses import column_statistics
from keras_tilt.validation import sentence_of

FLOAT32 = np.finfo(np.float32).eps


def batch(num_images=24, num_classes=5, scale=2.0, seed=0, lowest_label=0):
    """Random labels `[num_images]` and logits `[num_images, num_classes]`."""
    random = np.random.default_rng(seed)
    labels = random.integers(lowest_label, num_classes, num_images)
    logits = scale * random.standard_normal((num_images, num_classes))
    return labels.astype(np.int32), logits.astype(np.float32)


def value_and_gradient(loss, logits):
    """Value `[]` and gradient `[batch, classes]` of a loss of the logits."""
    logits = tf.convert_to_tensor(logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = loss(logits)
    return value.numpy(), tape.gradient(value, logits).numpy()


def generative_oracle(labels, logits, weights=None):
    """The definition, image by image, in float64; gradient by its formula."""
    logits = np.asarray(logits, np.float64)
    weights = np.ones(len(labels)) if weights is None else weights
    log_sum = scipy.special.logsumexp(logits, axis=0)
    labelled = np.flatnonzero(labels >= 0)
    terms = [weights[i] * (log_sum[y] - logits[i, y]) for i, y in own(labels)]
    own_class = np.zeros_like(logits)
    for i, y in own(labels):
        own_class[i, y] = weights[i]
    softmax = np.exp(logits - log_sum)
    gradient = (own_class.sum(0) * softmax - own_class) / len(labelled)
    return np.sum(terms) / len(labelled), gradient


def own(labels):
    """(image, class) of the labelled images."""
    return [(i, y) for i, y in enumerate(labels) if y >= 0]


@pytest.mark.parametrize("lowest_label", [0, -1], ids=["labelled", "unlabelled"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("graph", [False, True])
def test_generative_loss_and_gradient_equal_the_definition(
    lowest_label, weighted, graph
):
    labels, logits = batch(lowest_label=lowest_label)
    weights = np.random.default_rng(1).uniform(0.5, 2.0, 24) if weighted else None
    value, gradient = generative_oracle(labels, logits, weights)

    def loss(logits):
        return generative_loss(labels, logits, weights)

    ours = value_and_gradient(tf.function(loss) if graph else loss, logits)
    np.testing.assert_allclose(ours[0], value, rtol=20 * FLOAT32)
    np.testing.assert_allclose(ours[1], gradient, atol=20 * FLOAT32)


def test_closed_form_gradient_equals_automatic_differentiation():
    labels, logits = batch(lowest_label=-1)
    pairs = np.array(own(labels))

    def by_the_tape(logits):
        log_sum = tf.reduce_logsumexp(logits, axis=0)
        chosen = tf.gather_nd(logits, pairs)
        return tf.reduce_mean(tf.gather(log_sum, pairs[:, 1]) - chosen)

    expected = value_and_gradient(by_the_tape, logits)
    ours = value_and_gradient(lambda f: generative_loss(labels, f), logits)
    np.testing.assert_allclose(ours[0], expected[0], rtol=20 * FLOAT32)
    np.testing.assert_allclose(ours[1], expected[1], atol=20 * FLOAT32)


def test_every_column_of_the_generative_gradient_sums_to_zero():
    labels, logits = batch(lowest_label=-1)
    _, gradient = value_and_gradient(lambda f: generative_loss(labels, f), logits)
    np.testing.assert_allclose(gradient.sum(axis=0), 0.0, atol=len(labels) * FLOAT32)
    assert np.abs(gradient.sum(axis=1)).max() > 1e-3


def test_every_row_of_the_discriminative_gradient_sums_to_zero():
    labels, logits = batch(lowest_label=-1)
    _, gradient = value_and_gradient(lambda f: discriminative_loss(labels, f), logits)
    np.testing.assert_allclose(gradient.sum(axis=1), 0.0, atol=5 * FLOAT32)
    assert np.abs(gradient.sum(axis=0)).max() > 1e-3


def test_a_constant_per_class_changes_nothing_in_the_generative_objective():
    labels, logits = batch()
    shifted = logits + np.float32([3.0, -2.0, 0.5, 7.0, -11.0])
    ours = value_and_gradient(lambda f: generative_loss(labels, f), logits)
    moved = value_and_gradient(lambda f: generative_loss(labels, f), shifted)
    np.testing.assert_allclose(ours[0], moved[0], rtol=100 * FLOAT32)
    np.testing.assert_allclose(ours[1], moved[1], atol=100 * FLOAT32)
    moved_row = discriminative_loss(labels, shifted)
    assert abs(moved_row - discriminative_loss(labels, logits)) > 0.1


def test_a_constant_per_image_changes_nothing_in_the_discriminative_objective():
    labels, logits = batch()
    shift = np.linspace(-5.0, 5.0, len(labels), dtype=np.float32)[:, np.newaxis]
    first, second = (discriminative_loss(labels, f) for f in (logits, logits + shift))
    np.testing.assert_allclose(first, second, rtol=100 * FLOAT32)


def test_a_class_absent_from_the_batch_gets_no_generative_gradient():
    labels, logits = batch()
    labels[labels == 3] = 1
    _, gradient = value_and_gradient(lambda f: generative_loss(labels, f), logits)
    assert not gradient[:, 3].any()
    assert gradient[:, 1].any()


def test_zero_logits_give_the_log_of_the_number_of_images():
    labels = np.array([0, 1, 2, -1, 1, 0])
    np.testing.assert_allclose(
        generative_loss(labels, tf.zeros([6, 3])), np.log(6.0), rtol=5 * FLOAT32
    )


def test_the_minimum_is_reached_by_columns_spread_over_their_own_class():
    labels = np.array([0, 0, 0, 1, 1, 2])
    logits = 100.0 * np.eye(3, dtype=np.float32)[labels]
    value, gradient = value_and_gradient(lambda f: generative_loss(labels, f), logits)
    minimum = (3 * np.log(3.0) + 2 * np.log(2.0)) / 6
    np.testing.assert_allclose(value, minimum, rtol=20 * FLOAT32)
    np.testing.assert_allclose(gradient, 0.0, atol=5 * FLOAT32)
    assert generative_loss(labels, logits + batch(6, 3, 0.1)[1]) > minimum


def test_unlabelled_images_contribute_only_to_the_normalizer():
    labels, logits = batch(8)
    extra = np.full([4, 5], 0.7, np.float32)
    both = np.concatenate([logits, extra])
    padded = np.concatenate([labels, np.full(4, -1, np.int32)])
    value, gradient = value_and_gradient(lambda f: generative_loss(padded, f), both)
    np.testing.assert_allclose(
        value, generative_oracle(padded, both)[0], rtol=20 * FLOAT32
    )
    assert value > generative_loss(labels, logits)
    assert (gradient[8:] >= 0.0).all() and gradient[8:].any()
    np.testing.assert_allclose(
        discriminative_loss(padded, both),
        discriminative_loss(labels, logits),
        rtol=5 * FLOAT32,
    )


def test_a_batch_without_any_label_has_zero_loss_and_gradient():
    _, logits = batch()
    labels = np.full(24, -1)
    for loss in (generative_loss, discriminative_loss):
        value, gradient = value_and_gradient(lambda f, g=loss: g(labels, f), logits)
        assert value == 0.0 and not gradient.any()


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_losses_are_finite_and_right_for_logits_of_ten_thousand(sign):
    labels, logits = batch()
    logits = sign * 1e4 + 3.0 * logits
    for ours, oracle in (
        (generative_loss, generative_oracle),
        (discriminative_loss, discriminative_oracle),
    ):
        value, gradient = value_and_gradient(lambda f, g=ours: g(labels, f), logits)
        expected = oracle(labels, logits)
        rounding = 1e4 * FLOAT32  # of one logit, in nats
        np.testing.assert_allclose(value, expected[0], atol=4 * rounding)
        np.testing.assert_allclose(gradient, expected[1], atol=4 * rounding)


def test_losses_are_finite_for_logits_of_both_signs_and_ten_thousand():
    labels, logits = batch(scale=1e4)
    for ours, oracle in (
        (generative_loss, generative_oracle),
        (discriminative_loss, discriminative_oracle),
    ):
        value, gradient = value_and_gradient(lambda f, g=ours: g(labels, f), logits)
        np.testing.assert_allclose(value, oracle(labels, logits)[0], rtol=1e-5)
        assert np.isfinite(gradient).all()


def discriminative_oracle(labels, logits):
    """Cross-entropy in float64."""
    logits = np.asarray(logits, np.float64)
    log_row_sum = scipy.special.logsumexp(logits, axis=1, keepdims=True)
    images = np.arange(len(labels))
    value = np.mean(log_row_sum[:, 0] - logits[images, labels])
    own_class = np.eye(logits.shape[1])[labels]
    return value, (np.exp(logits - log_row_sum) - own_class) / len(labels)


def test_half_precision_logits_are_reduced_in_float32():
    labels, logits = batch(scale=1e4)
    half = logits.astype(np.float16)
    for loss in (generative_loss, discriminative_loss):
        ours = value_and_gradient(lambda f, g=loss: g(labels, f), half)
        single = value_and_gradient(
            lambda f, g=loss: g(labels, f), half.astype(np.float32)
        )
        assert ours[1].dtype == np.float16 and np.isfinite(ours[1]).all()
        np.testing.assert_allclose(ours[0], single[0], rtol=5 * FLOAT32)
        np.testing.assert_allclose(ours[1], single[1], atol=np.finfo(np.float16).eps)


def test_no_tensor_is_larger_than_batch_times_classes():
    labels, logits = batch(300, 7)

    @tf.function
    def step(logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = generative_loss(labels, logits)
        return tape.gradient(loss, logits)

    graph = step.get_concrete_function(tf.TensorSpec(logits.shape)).graph
    sizes = [
        t.shape.num_elements() for op in graph.get_operations() for t in op.outputs
    ]
    assert None not in sizes
    assert max(sizes) == 300 * 7


def test_discriminative_loss_equals_keras_with_sample_weights():
    labels, logits = batch()
    weights = np.random.default_rng(2).uniform(0.0, 2.0, 24).astype(np.float32)
    keras_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    expected = value_and_gradient(
        lambda f: keras_loss(labels, f, sample_weight=weights), logits
    )
    ours = value_and_gradient(lambda f: discriminative_loss(labels, f, weights), logits)
    np.testing.assert_allclose(ours[0], expected[0], rtol=10 * FLOAT32)
    np.testing.assert_allclose(ours[1], expected[1], atol=10 * FLOAT32)


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_the_mix_is_linear_in_its_two_losses(weight):
    labels, logits = batch(lowest_label=-1)
    generative, discriminative, mixed = (
        value_and_gradient(loss, logits)
        for loss in (
            lambda f: generative_loss(labels, f),
            lambda f: discriminative_loss(labels, f),
            lambda f: mixed_loss(labels, f, weight),
        )
    )
    for part in range(2):
        expected = (1 - weight) * discriminative[part] + weight * generative[part]
        np.testing.assert_allclose(mixed[part], expected, atol=10 * FLOAT32)


def test_column_statistics_count_images_and_mass():
    labels = np.array([0, 0, 2, -1])
    statistics = column_statistics(labels, np.zeros([4, 3], np.float32), [1, 3, 1, 5])
    np.testing.assert_array_equal(statistics.mass, [4.0, 0.0, 1.0])
    assert statistics.num_labelled == 3 and statistics.num_images == 4


def test_column_statistics_hold_the_softmax_over_images_and_its_kish_ess():
    labels, logits = batch()
    statistics = column_statistics(labels, logits)
    weights = scipy.special.softmax(logits.astype(np.float64), axis=0)
    np.testing.assert_allclose(statistics.importance_weights, weights, rtol=1e-5)
    np.testing.assert_allclose(
        statistics.log_sum, scipy.special.logsumexp(logits, axis=0), rtol=1e-5
    )
    np.testing.assert_allclose(1.0 / statistics.square_sum, kish_ess(logits), rtol=1e-5)


LOSSES = [
    generative_loss,
    discriminative_loss,
    lambda labels, logits, weights=None: mixed_loss(labels, logits, 0.3, weights),
]
GRAPHS = [tf.function(loss) for loss in LOSSES]
INTEGERS = sorted({np.dtype(code) for code in np.typecodes["AllInteger"]}, key=str)


def losses_of(graph):
    """Each loss, and the function to call: itself, or its graph."""
    return zip(LOSSES, GRAPHS if graph else LOSSES, strict=True)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("dtype", slow_but(INTEGERS[::4], INTEGERS), ids=str)
def test_labels_of_every_integer_type_give_the_same_loss(dtype, graph):
    """A vector or a column, as in keras.datasets."""
    labels, logits = batch()
    for loss, call in losses_of(graph):
        for form in (labels.astype(dtype), labels.astype(dtype)[:, np.newaxis]):
            assert call(tf.constant(form), logits) == loss(labels, logits)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "int64", "bool"])
def test_one_hot_rows_are_their_classes(dtype, graph):
    labels, logits = batch()
    for loss, call in losses_of(graph):
        one_hot = tf.constant(np.eye(5)[labels].astype(dtype))
        assert call(one_hot, logits) == loss(labels, logits)


@pytest.mark.parametrize("loss", LOSSES, ids=["generative", "discriminative", "mix"])
def test_a_graph_that_knows_no_rank_takes_labels_and_weights_of_every_form(loss):
    """As that of a `fit` which was given a vector and then a column."""
    labels, logits = batch()
    weights = np.random.default_rng(4).uniform(0.5, 2.0, len(labels)).astype("f")
    unknown = tf.TensorSpec(None, tf.int32), tf.TensorSpec(None, tf.float32)
    graph = tf.function(lambda y, w: loss(y, logits, w), input_signature=unknown)
    expected = loss(labels, logits, weights)
    for y in (labels, labels[:, np.newaxis], np.eye(5, dtype=np.int32)[labels]):
        for w in (weights, weights[:, np.newaxis]):
            np.testing.assert_allclose(graph(y, w), expected, rtol=1e-6)
    with pytest.raises(tf.errors.InvalidArgumentError, match="`sample_weight` must"):
        graph(labels, np.stack([weights, weights], axis=1))


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize(
    "row",
    [
        [0, 0, 0, 0, 0],
        [0, 1, 1, 0, 0],
        [0, 2, 0, 0, 0],
        [-1, 1, 1, 0, 0],
        [0.1, 0.6, 0.1, 0.1, 0.1],
        [0, 1, np.nan, 0, 0],
    ],
    ids=str,
)
def test_rows_that_are_not_one_hot_are_refused(row, graph):
    labels, logits = batch()
    rows = np.eye(5, dtype=np.float32)[labels]
    rows[7] = row
    for _, call in losses_of(graph):
        with pytest.raises(tf.errors.InvalidArgumentError, match="must be one-hot"):
            call(tf.constant(rows), logits)


@pytest.mark.parametrize(
    ("label", "dtype"),
    [(2**32, "int64"), (-(2**32), "int64"), (2**32 - 1, "uint32"), (255, "uint8")]
    + [(value, "uint64") for value in (2**32, 2**32 - 1, 2**63, 2**64 - 1)],
)
def test_a_label_beyond_int32_is_no_class(label, dtype):
    """As int32 some of them would be 0 or -1."""
    labels, logits = batch()
    labels = labels.astype(dtype)
    labels[7] = label
    for loss in LOSSES:
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[-1, 5\)"):
            loss(labels, logits)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("label", [-1, 2])
@pytest.mark.parametrize("weight", [np.nan, np.inf, -np.inf, -0.5])
def test_a_weight_that_is_none_is_named(weight, label, graph):
    """Of an unlabelled image, too."""
    labels, logits = batch()
    weights = np.ones(24, np.float32)
    labels[7], weights[7] = label, weight
    expected = f"`sample_weight` must be.* Received: {weight} of image 7"
    for _, call in losses_of(graph):
        with pytest.raises(tf.errors.InvalidArgumentError) as raised:
            call(labels, logits, weights)
        assert re.search(expected, sentence_of(raised.value))


@pytest.mark.parametrize("loss", [generative_loss, discriminative_loss])
@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("label", [-2, 5])
def test_labels_out_of_range_are_refused_with_the_range(loss, graph, label):
    labels, logits = batch()
    labels[7] = label
    call = tf.function(loss) if graph else loss
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[-1, 5\).*unlabelled"):
        call(tf.constant(labels), tf.constant(logits))


@pytest.mark.parametrize("loss", [generative_loss, discriminative_loss])
def test_wrong_kinds_and_shapes_are_refused_in_words(loss):
    labels, logits = batch()
    with pytest.raises(TypeError, match="`labels` must be integers.*float32"):
        loss(labels.astype(np.float32), logits)
    with pytest.raises(TypeError, match="`logits` must be floating.*int32"):
        loss(labels, logits.astype(np.int32))
    with pytest.raises(ValueError, match=r"\[batch, classes\].*\(24, 5, 1\)"):
        loss(labels, logits[..., np.newaxis])
    with pytest.raises(ValueError, match=r"\[batch, 5\].*\(24, 6\).*`argmax"):
        loss(np.eye(6, dtype=np.int32)[labels], logits)
    with pytest.raises(ValueError, match=r"labels \(23,\), logits \(24, 5\)"):
        loss(labels[1:], logits)
    with pytest.raises(ValueError, match=r"`sample_weight`.*\(24, 5\)"):
        loss(labels, logits, np.ones([24, 5]))


def test_a_single_image_is_refused_because_its_gradient_is_zero():
    with pytest.raises(ValueError, match="at least two images.*gradient zero"):
        generative_loss([0], tf.zeros([1, 3]))


def test_a_mixing_weight_outside_its_range_is_refused():
    labels, logits = batch()
    with pytest.raises(ValueError, match=r"\[0, 1\].*1.5"):
        mixed_loss(labels, logits, 1.5)
