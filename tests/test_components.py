"""A reference of principal components: its law, other sizes, files, and commands."""

import json

import children
import keras
import numpy as np
import pytest
import tensorflow as tf
import test_tiny_imagenet
from small_network import small_network
from test_principal_path import images, logits_of

import keras_tilt as kt
from keras_tilt.cli import commands, reference, visualize


@pytest.fixture(scope="module")
def generator():
    return kt.fit_components(images(600), held_out=images(200, seed=1), latent_size=8)


def test_draws_have_mean_and_covariance_of_the_logits_of_the_images(generator):
    """Exactly those of the images: the logits of draws are mean + linear in noise."""
    of_images = logits_of(images(600).astype(np.float64) / 255)
    noise = tf.concat([tf.zeros([1, 8]), tf.eye(8)], axis=0)
    shares = generator(noise).numpy().astype(np.float64) / 255
    of_noise = np.log(shares / (1 - shares)).reshape(9, -1)
    mean, directions = of_noise[0], of_noise[1:] - of_noise[0]
    np.testing.assert_allclose(mean, of_images.mean(axis=0), atol=1e-2)
    covariance = np.cov(of_images.T, bias=True)
    left = covariance - directions.T @ directions  # what eight patterns leave out
    assert np.trace(left) < 0.02 * np.trace(covariance)


def test_what_is_lost_falls_with_the_number_of_components(generator):
    few = kt.fit_components(images(600), held_out=images(200, seed=1), latent_size=2)
    assert generator.law["unexplained"] < 0.02 < few.law["unexplained"]
    assert generator.law["reconstruction_error"] < few.law["reconstruction_error"]


def test_images_of_noise_are_encoded_as_that_noise(generator):
    noise = tf.random.stateless_normal([20, 8], [0, 3]) / 2
    found = generator.encode(generator(noise))
    np.testing.assert_allclose(found, noise, atol=0.02)


def test_larger_images_are_the_same_logits_between_the_pixels(generator):
    larger = generator.resized((18, 10, 2), -1.0, 1.0)
    noise = tf.random.stateless_normal([3, 8], [0, 4])
    shares = generator(noise) / 255
    logits = tf.math.log(shares) - tf.math.log1p(-shares)
    expected = 2 * tf.sigmoid(tf.image.resize(logits, [18, 10], "bicubic")) - 1
    np.testing.assert_allclose(larger(noise), expected, atol=1e-4)
    assert kt.latent(larger).event_shape == (18, 10, 2)
    np.testing.assert_allclose(
        larger.encode(generator(noise) / 127.5 - 1), noise, atol=0.1
    )


def test_a_file_keeps_all_of_it(generator, tmp_path):
    generator.resized((12, 10, 2), 0.0, 1.0).save(tmp_path / "q.keras")
    loaded = keras.saving.load_model(tmp_path / "q.keras")
    noise = tf.random.stateless_normal([3, 8], [0, 4])
    np.testing.assert_array_equal(
        loaded(noise), generator.resized((12, 10, 2), 0.0, 1.0)(noise)
    )
    assert loaded.law == generator.law and loaded.high == 1.0


def test_batches_of_a_data_set_are_taken_like_an_array(generator):
    batches = tf.data.Dataset.from_tensor_slices(images(600)).batch(50)
    other = kt.fit_components(batches, held_out=images(200, seed=1), latent_size=8)
    noise = tf.random.stateless_normal([3, 8], [0, 4])
    np.testing.assert_array_equal(other(noise), generator(noise))


def test_a_tilt_of_it_is_sampled(generator):
    """Of f linear in logits, which are linear in noise: p(z) = N(gradient, I)."""
    noise = tf.zeros([1, 8])
    reference = kt.latent(generator.resized((12, 10, 2), 0.0, 1.0))

    def f(shares):
        return 5 * (tf.math.log(shares) - tf.math.log1p(-shares))[:, 5, 5, 0]

    tilt = kt.Tilt(f, reference)
    with tf.GradientTape() as tape:
        tape.watch(noise)
        value = tilt.response(tilt.to_images(noise))
    gradient = tape.gradient(value, noise)[0].numpy()
    samples = kt.sample(tilt, 50, 40, 20, seed=1, progress=False)
    mean = np.mean(samples.noise, axis=(0, 1))
    assert np.linalg.norm(gradient) > 0.3
    np.testing.assert_allclose(mean, gradient, atol=5 / np.sqrt(2000))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda g: kt.fit_components(images(40), latent_size=50), "must be more than"),
        (lambda g: kt.fit_components(images(40), latent_size=1), "latent_size"),
        (lambda g: kt.fit_components(images(40), latent_size=2, low=200.0), "`low`"),
        (lambda g: g.resized((5, 5, 2), 0, 1), "as large as the images"),
        (lambda g: g.resized((6, 5, 3), 0, 1), "as large as the images"),
    ],
)
def test_what_cannot_be_fitted_or_resized_is_an_error(generator, call, message):
    with pytest.raises(ValueError, match=message) as raised:
        call(generator)
    assert "Received" in str(raised.value)


def test_the_command_enlarges_them_and_goes_on_until_converged(tmp_path):
    small_network().save(tmp_path / "network.keras")
    gray = images(600)[..., :1]
    kt.fit_components(gray, latent_size=8).save(tmp_path / "q.keras")
    flags = [tmp_path / "network.keras", "--unit", "class:1"]
    flags += ["--sizes", "1", "--scale", "0.001", "--out", tmp_path / "out"]
    flags += ["--reference", f"latent:{tmp_path / 'q.keras'}"]
    flags += ["--draws", "4", "--burnin", "30", "--approach-step", "0.5"]
    short = children.call(visualize.main, flags)
    assert short.returncode == 0, short.stderr
    (report,) = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert not report["converged"] and report["advice"] in short.stdout
    folder = tmp_path / "out" / "class_1"
    assert (folder / "far_apart.png").stat().st_size > 0
    with np.load(folder / "numbers.npz") as numbers:
        assert numbers["images"].shape == (4, 8, 8, 1)
    (folder / "report.json").write_text(json.dumps(report | {"seconds": 1000}))
    until = [*flags, "--until-converged", "--max-minutes", "5"]
    run = children.call(visualize.main, until)
    assert run.returncode == 0, run.stderr
    (report,) = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert report["converged"] and report["advice"] is None
    own = report["draws"]["own"]
    assert own["images"] >= 400 and own["first"] <= own["among_five"]
    assert report["seconds"] >= 1000  # of both calls
    assert report["num_draws"] > 100 and not (folder / "far_apart.png").exists()
    again = children.call(visualize.main, until)
    assert again.returncode == 0 and "warm-up" not in again.stderr


def test_components_are_fitted_by_name(tmp_path):
    out = tmp_path / "q.keras"
    flags = ["digits", "--components", "--latent-size", "20", "--out", out]
    run = children.call(reference.main, flags)
    assert run.returncode == 0, run.stderr
    assert "of the variance of held-out images is lost" in run.stdout
    loaded = keras.saving.load_model(out)
    assert isinstance(loaded, kt.PrincipalGenerator) and loaded.latent_size == 20
    assert out.with_suffix(".png").stat().st_size > 0


def test_components_are_fitted_to_tiny_imagenet_as_it_is_distributed(tmp_path):
    data, out = tmp_path / "data", tmp_path / "q.keras"
    data.mkdir()
    test_tiny_imagenet.write(data, numbers=range(8), num_held_out=20)
    commands.main(
        ["reference", str(data), "--components", "--latent-size=2", f"--out={out}"]
    )
    loaded = keras.saving.load_model(out)
    assert tuple(loaded(np.zeros([3, 2])).shape) == (3, 64, 64, 3)
    assert loaded.law["reconstruction_error"] < 0.2  # from one gray to another
