"""Principal components below a generator: their algebra, and what a fit adds."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tilt as kt
from keras_tilt.networks.principal_path import PrincipalPath
from keras_tilt.reference.learned import components, fitting

SHAPE = (6, 5, 2)
PIXELS = 60


def images(number=300, seed=0):
    """Bytes: sigmoids of eight smooth patterns of unequal strength."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(99).normal(size=[8, PIXELS])
    strengths = 0.6 ** np.arange(8)
    logits = 0.5 + (rng.normal(size=[number, 8]) * strengths) @ patterns
    shares = 1 / (1 + np.exp(-0.5 * logits))
    return np.uint8(255 * shares.reshape(-1, *SHAPE))


def logits_of(shares):
    """[n, pixels]."""
    inside = np.clip(shares, 0.02, 0.98).reshape(len(shares), -1)
    return np.log(inside / (1 - inside))


def fitted_path(number, latent_size=5, stddev=0.1):
    path = PrincipalPath(SHAPE, latent_size)
    path.build((None, latent_size))
    shares = images(number).astype(np.float32) / 255
    path.fit(shares, stddev)
    return path, shares


@pytest.mark.parametrize("number", [40, 300])  # fewer images than pixels, and more
def test_it_projects_logits_onto_their_largest_components(number):
    path, shares = fitted_path(number)
    logits = logits_of(shares).astype(float)
    mean = logits.mean(axis=0)
    _, values, vectors = np.linalg.svd(logits - mean, full_matrices=False)
    np.testing.assert_allclose(path.size, values[:5] / np.sqrt(number), rtol=1e-4)
    code, _ = path.posterior(shares, 0.0, 0.0)
    expected = mean + (logits - mean) @ vectors[:5].T @ vectors[:5]
    found = np.reshape(path(code), [number, -1])
    np.testing.assert_allclose(found, expected, atol=1e-3)
    np.testing.assert_allclose(np.cov(code.numpy().T, bias=True), np.eye(5), atol=1e-3)


def test_the_spread_is_that_of_codes_in_a_linear_gaussian_model():
    """code ~ N(0, 1), pixel = slope size code + sigma noise along a direction."""
    path, shares = fitted_path(300, stddev=0.2)
    slope = np.mean(shares.astype(float) * (1 - shares))
    joint = [
        np.array([[1.0, slope * size], [slope * size, (slope * size) ** 2 + 0.2**2]])
        for size in np.asarray(path.size)
    ]
    variance = [1 - one[0, 1] ** 2 / one[1, 1] for one in joint]
    np.testing.assert_allclose(path.spread, np.sqrt(variance), rtol=1e-4)
    shift, log_ratio = np.float32([[1, 0, 0, 0, 2]]), np.float32([[0, 3, 0, 0, 0]])
    code, _ = path.posterior(shares[:1], 0.0, 0.0)
    moved, log_variance = path.posterior(shares[:1], shift, log_ratio)
    np.testing.assert_allclose(moved - code, shift * path.spread, atol=1e-5)
    expected = np.log(variance) + log_ratio[0]
    np.testing.assert_allclose(log_variance[0], expected, rtol=1e-4)


def fit(number=300, **arguments):
    defaults = {"latent_size": 5, "width": 4, "batch_size": 50, "principal": True}
    defaults |= {"epochs": 1, "stddev": 0.1, "held_out": images(200, seed=1)}
    pixels = images(number)
    return kt.fit_latent(pixels, progress=False, **defaults | arguments)


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch):
    """A fit takes less time without its law."""
    monkeypatch.setattr(fitting, "law_of", lambda *_: {})


def reconstruction(generator, pixels):
    """Root mean square, of shares."""
    again = generator(generator.encode(pixels.astype(np.float32))).numpy()
    return np.sqrt(np.mean((again - pixels) ** 2)) / 255


def test_a_fit_begins_at_the_components_and_keeps_them(monkeypatch):
    begun = []
    start = components.start_at_components

    def kept(generator, *rest):
        start(generator, *rest)
        weights = generator.principal and generator.principal.get_weights()
        begun.append((weights, reconstruction(generator, images(200, seed=1))))

    monkeypatch.setattr(fitting, "start_at_components", kept)
    generator = fit(epochs=20)
    weights, error = begun[0]
    for before, after in zip(weights, generator.principal.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    shares = images(200, seed=1).astype(np.float32) / 255
    path = fitted_path(300)[0]
    code, _ = path.posterior(shares, 0.0, 0.0)
    expected = np.sqrt(np.mean((tf.sigmoid(path(code)) - shares) ** 2))
    assert abs(error - expected) < 1e-4
    # Networks alone are far from them as yet.
    learned, alone = (
        reconstruction(one, images(200, seed=1))
        for one in (generator, fit(epochs=20, principal=False))
    )
    assert max(learned, error) < alone / 2


def test_it_is_saved_resumed_and_differentiated(tmp_path):
    generator = fit(directory=tmp_path / "fit")
    again = fit(directory=tmp_path / "fit")
    for one, other in zip(generator.weights, again.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    generator.save(tmp_path / "q.keras")
    loaded = keras.models.load_model(tmp_path / "q.keras")
    noise = tf.random.stateless_normal([3, 5], [0, 1])
    np.testing.assert_array_equal(loaded(noise), generator(noise))
    assert loaded.get_config() == generator.get_config()
    q = kt.latent(loaded)
    with tf.GradientTape() as tape:
        tape.watch(noise)
        total = tf.reduce_sum(q.bijector.forward(noise))
    assert np.all(tape.gradient(total, noise) != 0)
    assert not loaded.principal.trainable_variables
    with pytest.raises(ValueError, match="run that is to be resumed"):
        fit(directory=tmp_path / "fit", principal=False)


def test_fewer_images_than_components_are_an_error():
    with pytest.raises(ValueError, match=r"more than the 40 principal.*Received: 40"):
        fit(number=40, latent_size=40)
    with pytest.raises(ValueError, match="`latent_size` must be at most 60.*: 61"):
        fit(latent_size=61)
