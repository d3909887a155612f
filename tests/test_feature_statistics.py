"""Statistics of features: fitted as NumPy fits them, and a unit in closed form."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from small_network import SHAPE, small_network

import keras_tilt as kt

MAPS = {"conv1": 4, "norm": 5}  # channels of the layers that are read by default


def network(seed=0):
    """Two layers of maps, of which the second normalises, then logits by place."""
    keras.utils.set_random_seed(seed)
    layers = [
        keras.Input(SHAPE),
        keras.layers.Conv2D(4, 3, activation="relu", name="conv1"),
        keras.layers.Conv2D(5, 3, name="conv2"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.ReLU(name="bend"),
        keras.layers.Conv2D(3, 1, activation="relu", name="maps_of_classes"),
        keras.layers.GlobalAveragePooling2D(name="logits"),
    ]
    made = keras.Sequential(layers)
    moved = np.random.default_rng(seed).normal(size=[2, 5])
    made.get_layer("norm").moving_mean.assign(moved[0])
    made.get_layer("norm").moving_variance.assign(np.exp(moved[1]))
    return made


def images(n=60, seed=1):
    return np.random.default_rng(seed).normal(size=[n, *SHAPE]).astype(np.float32)


def statistics_of(model, x, layers=MAPS, scale=1.0):
    """By Keras and NumPy: [n, statistics]."""
    outputs = [model.get_layer(name).output for name in layers]
    maps = keras.Model(model.inputs, outputs).predict(scale * x, verbose=0)
    parts = [f(one, axis=(1, 2)) for one in maps for f in (np.mean, np.std)]
    return np.concatenate(parts, axis=1)


def as_batches(x):
    return tf.data.Dataset.from_tensor_slices((x, np.zeros(len(x)))).batch(7)


@pytest.mark.parametrize("kind", [np.asarray, tf.constant, as_batches])
def test_mean_and_deviation_are_those_of_numpy(kind):
    model, x = network(), images()
    found = kt.fit_feature_statistics(model, kind(x))
    exact = statistics_of(model, x)
    assert found.layers == tuple(MAPS) and found.num_images == len(x)
    np.testing.assert_allclose(found.mean, exact.mean(0), rtol=1e-5, atol=1e-6)
    least = 0.01 * exact.std(0).mean()
    stddev = np.maximum(exact.std(0), least)
    np.testing.assert_allclose(found.stddev, stddev, rtol=1e-4)


def test_the_unit_is_a_product_of_student_laws():
    model, x = network(), images()
    statistics = kt.fit_feature_statistics(model, x)
    others = 3 * images(20, seed=2)
    t = (statistics_of(model, others) - statistics.mean) / statistics.stddev
    student = stats.t(df=4)
    exact = np.sum(student.logpdf(t) - student.logpdf(0), axis=1)
    g = statistics.unit(model)
    np.testing.assert_allclose(g(others), exact, rtol=1e-4)
    np.testing.assert_allclose(g(tf.constant(others)), exact, rtol=1e-4)
    assert g.input_shape == SHAPE
    at_mean = statistics.log_prob(statistics.mean[None].astype(np.float32))
    np.testing.assert_array_equal(at_mean, [0.0])


def test_images_reach_the_network_as_they_did_in_the_fit():
    model, x = network(), images()
    prepared = {"preprocess": lambda images: 0.1 * images}
    found = kt.fit_feature_statistics(model, x, **prepared)
    exact = statistics_of(model, x, scale=0.1)
    np.testing.assert_allclose(found.mean, exact.mean(0), rtol=1e-5, atol=1e-6)
    t = (exact[:3] - found.mean) / found.stddev
    expected = -2.5 * np.log1p(t**2 / 4).sum(1)
    np.testing.assert_allclose(found.unit(model, **prepared)(x[:3]), expected, 1e-3)
    small = {"resize": (7, 7)}
    at_size = kt.fit_feature_statistics(model, x, **small)
    resized = tf.image.resize(x, [7, 7], antialias=True)
    by_hand = kt.fit_feature_statistics(model, resized, input_shape=(7, 7, 1), **small)
    np.testing.assert_allclose(at_size.mean, by_hand.mean, rtol=1e-5, atol=1e-6)
    assert at_size.unit(model, **small)(x[:2]).shape == [2]


def test_where_maps_are_constant_the_gradient_is_a_number():
    model = network()
    g = kt.fit_feature_statistics(model, images()).unit(model)
    flat = tf.zeros([2, *SHAPE])
    with tf.GradientTape() as tape:
        tape.watch(flat)
        value = g(flat)
    assert np.all(np.isfinite(value)) and np.all(value < 0)
    assert np.all(np.isfinite(tape.gradient(value, flat)))


def test_a_sum_with_a_class_is_one_pass():
    calls = []

    class Counting(keras.layers.Layer):
        def call(self, x):
            calls.append(tuple(x.shape))
            return x

    stack = [keras.Input(SHAPE), Counting(), *small_network().layers]
    model = keras.Sequential(stack)
    statistics = kt.fit_feature_statistics(model, images(), layers=["conv1"])
    several = [
        kt.unit(model, class_index=c) + 0.5 * statistics.unit(model) for c in (0, 2)
    ]
    x = images(4)
    calls.clear()
    total = several[1](x)
    assert len(calls) == 1
    apart = kt.unit(model, class_index=2)(x) + 0.5 * statistics.unit(model)(x)
    np.testing.assert_allclose(total, apart, rtol=1e-5)
    # Classes of one network keep sharing their graph.
    assert several[0].features == several[1].features


def test_layers_named_by_hand_are_those_read():
    model, x = network(), images()
    found = kt.fit_feature_statistics(model, x, layers=["bend", "conv2"])
    exact = statistics_of(model, x, ["bend", "conv2"])
    np.testing.assert_allclose(found.mean, exact.mean(0), rtol=1e-5, atol=1e-6)


def test_a_file_keeps_them(tmp_path):
    model = network()
    one = kt.fit_feature_statistics(model, images())
    one.save(tmp_path / "statistics.npz")
    same = kt.FeatureStatistics.load(tmp_path / "statistics.npz")
    assert same == one and hash(same) == hash(one) and same.num_images == 60
    assert same.unit(model) == one.unit(model)
    other = kt.fit_feature_statistics(model, images(seed=3))
    assert other != one and other.unit(model).name != one.unit(model).name
    np.savez(tmp_path / "other.npz", mean=one.mean)
    with pytest.raises(ValueError, match="file of FeatureStatistics"):
        kt.FeatureStatistics.load(tmp_path / "other.npz")


def test_chains_draw_noise_with_the_features_of_the_images():
    """E g under p(x) = exp(g(x)) q(x) / Z, by weights of draws of q and by chains."""
    model = small_network()
    statistics = kt.fit_feature_statistics(model, images(), layers=["conv1"])
    g = statistics.unit(model)
    tilt = kt.Tilt(g, kt.white_noise(SHAPE, 0.3, 1.4))
    runs = kt.sample_until_converged(tilt, 16, 250, 150, seed=5, progress=False)
    assert runs.diagnostics.converged
    f = g(tilt.reference.sample(40_000, seed=[0, 1])).numpy().astype(float)
    weights = np.exp(f - f.max())
    weights /= weights.sum()
    exact = weights @ f
    error_of_weights = np.sqrt(weights**2 @ (f - exact) ** 2)
    error_of_chains = np.std(runs.f) / np.sqrt(runs.diagnostics.ess)
    assert np.mean(f) < exact - 1
    error = np.hypot(error_of_weights, error_of_chains)
    assert abs(np.mean(runs.f) - exact) < 5 * error


def conv(**options):
    return keras.Sequential([keras.Input(SHAPE), keras.layers.Conv2D(**options)])


@pytest.mark.parametrize(
    "fit, message",
    [
        (lambda: kt.fit_feature_statistics(conv(filters=2, kernel_size=3), images()),
         "layers with maps"),
        (lambda: kt.fit_feature_statistics(network(), images(), layers=["logits"]),
         "Name a convolution"),
        (lambda: kt.fit_feature_statistics(network(), images(), layers=["conv9"]),
         "conv9"),
        (lambda: kt.fit_feature_statistics(network(), images(), layers=[]),
         "must name a layer"),
        (lambda: kt.fit_feature_statistics(network(), images(1)), "two images or more"),
        (lambda: kt.fit_feature_statistics(network(), np.ones([5, *SHAPE])),
         "must differ in their features"),
        (lambda: kt.fit_feature_statistics(network(), np.full([5, *SHAPE], np.nan)),
         "must be finite"),
        (lambda: kt.fit_feature_statistics(network(), images()[:, 1:]), "Expected"),
    ],
)  # fmt: skip
def test_what_cannot_be_fitted_is_an_error_that_says_why(fit, message):
    with pytest.raises(ValueError, match=message):
        fit()


@pytest.mark.parametrize(
    "mean, stddev",
    [
        ([0.0], [0.0]),
        ([np.nan], [1.0]),
        ([0.0, 1.0], [1.0]),
        (0.0, 1.0),
        ([0.0], [-1.0]),
    ],
)
def test_numbers_that_no_fit_returns_are_refused(mean, stddev):
    with pytest.raises(ValueError, match="`mean` and `stddev` must be finite"):
        kt.FeatureStatistics(("conv1",), np.array(mean), np.array(stddev), 2)


def test_a_network_of_other_layers_is_refused():
    statistics = kt.fit_feature_statistics(network(), images())
    with pytest.raises(ValueError, match="conv9|norm"):
        statistics.unit(small_network())
    alone = kt.fit_feature_statistics(small_network(), images(), layers=["conv1"])
    wider = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Conv2D(6, 3, name="conv1"),
            keras.layers.ReLU(),
        ]
    )
    with pytest.raises(ValueError, match="Expected a network with 8 statistics"):
        alone.unit(wider)
    with pytest.raises(ValueError, match="crop"):
        alone.unit(small_network()).crop()
