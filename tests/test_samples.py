"""Samples that are written and read again are the same, bit for bit, and ArviZ's."""

import dataclasses

import arviz
import numpy as np
import pytest
import tensorflow as tf
from cases import slow_but
from small_network import SHAPE, small_network

import keras_tilt as kt

CASES = {
    "split": {},
    "without energy": {"kernel": "mala"},
    "ladder and thin": {"inverse_temperatures": (1.0, 0.5), "thin": 3},
    "a single chain, not to be judged": {"num_chains": 1},
    "states given to a callback": {"callback": lambda number, noise: None},
}


def samples_of(**kwargs):
    tilt = kt.Tilt(kt.unit(small_network(), class_index=1), kt.white_noise(SHAPE))
    arguments = {"num_chains": 3, "num_results": 6, "num_burnin_steps": 3, "seed": 1}
    return kt.sample(tilt, progress=False, **arguments | kwargs)


@pytest.mark.parametrize("case", slow_but([*CASES][2::2], CASES))
def test_what_is_saved_is_loaded_bit_for_bit(case, tmp_path):
    samples = samples_of(**CASES[case])
    samples.save(tmp_path / "samples.nc")
    loaded = kt.Samples.load(tmp_path / "samples.nc")
    apart = {"to_images", "saved_images", "functionals", "diagnostics"}
    for field in dataclasses.fields(samples):
        if field.name in apart:
            continue
        value, again = getattr(samples, field.name), getattr(loaded, field.name)
        assert type(np.asarray(value)[...]) is type(np.asarray(again)[...])
        np.testing.assert_array_equal(again, value)
        assert np.asarray(again).dtype == np.asarray(value).dtype
    assert loaded.functionals.keys() == samples.functionals.keys()
    for name, values in samples.functionals.items():
        np.testing.assert_array_equal(loaded.functionals[name], values)
    np.testing.assert_array_equal(loaded.images, np.asarray(samples.images))
    assert repr(loaded.diagnostics) == repr(samples.diagnostics)  # NaN included
    assert repr(loaded) == repr(samples)


def test_mean_images_are_those_of_the_draws_of_each_chain(tmp_path):
    samples = samples_of(thin=2)
    assert len(samples.images) == 3
    means = samples.mean_images
    every = np.asarray(samples.images)
    np.testing.assert_allclose(means, every.mean(axis=0), rtol=1e-5, atol=1e-5)
    assert means.dtype == every.dtype and means.shape == (3, *SHAPE)
    samples.save(tmp_path / "samples.nc")
    loaded = kt.Samples.load(tmp_path / "samples.nc")
    np.testing.assert_array_equal(loaded.mean_images, means)


def test_mean_images_of_many_draws_are_of_some_two_hundred_of_them():
    draws = np.arange(450.0)[:, None, None] * np.ones([1, 2, 3])
    samples = dataclasses.replace(samples_of(), to_images=None, saved_images=draws)
    np.testing.assert_allclose(samples.mean_images, np.arange(0, 450, 3).mean())


def test_a_loaded_sample_is_saved_and_judged_as_the_first(tmp_path):
    samples = samples_of()
    samples.save(tmp_path / "samples.nc")
    loaded = kt.Samples.load(tmp_path / "samples.nc")
    loaded.save(tmp_path / "again.nc")
    again = kt.Samples.load(tmp_path / "again.nc")
    np.testing.assert_array_equal(again.images, samples.images)
    one, other = (float(arviz.rhat(s.to_arviz())["f"]) for s in (samples, again))
    assert one == other == samples.diagnostics.r_hat


def test_arviz_reads_the_file(tmp_path):
    samples = samples_of()
    samples.save(str(tmp_path / "samples.nc"))
    data = arviz.from_netcdf(tmp_path / "samples.nc")
    np.testing.assert_array_equal(data.posterior["f"].values.T, samples.f)
    images = data["states"]["images"].values
    np.testing.assert_array_equal(np.swapaxes(images, 0, 1), samples.images)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    samples = samples_of()
    samples.save(tmp_path / "samples.nc")
    before = (tmp_path / "samples.nc").read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(arviz.InferenceData, "to_netcdf", full)
    with pytest.raises(OSError, match="The old file is intact"):
        samples.save(tmp_path / "samples.nc")
    assert (tmp_path / "samples.nc").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["samples.nc"]


def test_a_file_that_holds_no_samples_is_named(tmp_path):
    (tmp_path / "notes.nc").write_text("no numbers")
    other = arviz.from_dict(posterior={"f": np.zeros([2, 4])})
    other.to_netcdf(str(tmp_path / "other.nc"))
    for name, message in (
        ("missing.nc", "a netCDF file that ArviZ reads"),
        ("notes.nc", "a netCDF file that ArviZ reads"),
        ("other.nc", "a file of samples"),
    ):
        with pytest.raises(ValueError, match=f"Expected {message}. Received: .*{name}"):
            kt.Samples.load(tmp_path / name)


def test_samples_of_a_generator_are_saved_with_their_images(tmp_path):
    reference = kt.latent(lambda z: tf.reshape(tf.tanh(z), [-1, *SHAPE]), [64])
    tilt = kt.Tilt(kt.unit(small_network(), class_index=1), reference)
    samples = kt.sample(tilt, 2, 4, 2, seed=1, progress=False)
    samples.save(tmp_path / "samples.nc")
    loaded = kt.Samples.load(tmp_path / "samples.nc")
    np.testing.assert_array_equal(loaded.images, samples.images)
    assert np.abs(loaded.images).max() <= 1
