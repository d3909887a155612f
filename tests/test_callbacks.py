"""Samples of units are in TensorBoard's file, of the weights of every epoch."""

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import keras_tilt as kt
from keras_tilt.sampling.callbacks import UnitSamples

SHAPE = (6, 6, 1)


def network_of():
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Conv2D(3, 3, name="conv"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2, name="logits"),
        ]
    )


def tilts_of(model):
    reference = kt.box(SHAPE)
    return {
        "one": kt.Tilt(kt.unit(model, class_index=1), reference, scale=3.0),
        "channel": kt.Tilt(kt.unit(model, "conv:2"), reference),
    }


def fitted(tilts, log_dir, epochs=2, **kwargs):
    keras.utils.set_random_seed(0)
    model = network_of()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    callback = UnitSamples(
        log_dir,
        tilts(model) if tilts is not tilts_of else tilts,
        **{"seed": 7, "num_chains": 3, "num_burnin_steps": 4, "num_results": 4}
        | kwargs,
    )
    x = np.random.default_rng(0).random([8, *SHAPE], np.float32)
    y = np.arange(8) % 2
    model.fit(x, y, epochs=epochs, verbose=0, callbacks=[callback])
    events = EventAccumulator(str(log_dir), {"tensors": 0})
    events.Reload()
    return model, callback, events


def values_of(events, tag):
    return {e.step: tf.make_ndarray(e.tensor_proto) for e in events.Tensors(tag)}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A training of two epochs: model, callback, events, and (start, end) of chains."""
    starts, original = [], kt.sampling.callbacks.sample

    def spy(tilt, *args, initial_noise=None, **kwargs):
        samples = original(tilt, *args, initial_noise=initial_noise, **kwargs)
        starts.append((initial_noise, samples.noise[-1]))
        return samples

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kt.sampling.callbacks, "sample", spy)
        return *fitted(tilts_of, tmp_path_factory.mktemp("logs")), starts


def test_images_curves_and_verdicts_of_every_epoch_are_there(first):
    model, _, events, starts = first
    for name in ("one", "channel"):
        images = values_of(events, f"{name}/samples")
        assert list(images) == [1, 2]
        assert len(images[2]) == 2 + 3  # width, height, a PNG of each chain
        assert tf.io.decode_png(images[2][2]).shape == SHAPE
        for tag in ("f", "R-hat of f"):
            assert list(values_of(events, f"{name}/{tag}")) == [1, 2]
        verdict = values_of(events, f"{name}/verdict")[2][()].decode()
        assert "not converged" in verdict
    _, last = starts[2]
    tilt = tilts_of(model)["one"]
    shown = tf.io.decode_png(values_of(events, "one/samples")[2][2]).numpy()
    np.testing.assert_allclose(shown / 255, tilt.to_images(last)[0], atol=1 / 255)


def test_chains_go_on_from_the_epoch_before(first):
    *_, starts = first
    assert starts[0][0] is None and starts[1][0] is None
    for before, after in ((0, 2), (1, 3)):
        np.testing.assert_array_equal(starts[after][0], starts[before][1])


def test_every_other_epoch_and_tilts_made_beforehand(tmp_path):
    one = lambda model: {"one": tilts_of(model)["one"]}  # noqa: E731
    _, _, events = fitted(one, tmp_path, 4, every=2)
    assert list(values_of(events, "one/f")) == [2, 4]


def test_a_second_training_samples_the_model_it_is_of(first):
    model, callback, _, _ = first
    second = network_of()
    second.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = np.zeros([8, *SHAPE], np.float32)
    second.fit(x, np.arange(8) % 2, epochs=1, verbose=0, callbacks=[callback])
    tilt, images = callback._tilts["one"], x + 0.5
    np.testing.assert_allclose(tilt.unit(images), second(images)[:, 1], rtol=1e-5)
    assert not np.allclose(second(images), model(images))


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"tilts": {}}, TypeError, "`tilts` must be a dict"),
        ({"tilts": {"a": "tilt"}}, TypeError, "`tilts` must be a dict"),
        ({"seed": 0.5}, ValueError, "`seed` must be a whole number"),
        ({"num_chains": 0}, ValueError, "`num_chains`"),
        ({"num_results": 3}, ValueError, "`num_results`"),
        ({"num_burnin_steps": 0}, ValueError, "`num_burnin_steps`"),
        ({"every": 0}, ValueError, "`every`"),
        ({"low": 1.0}, ValueError, "`low` must be below `high`"),
    ],
)
def test_what_makes_no_sense_is_an_error_before_the_training(change, error, message):
    arguments = {"log_dir": "logs", "tilts": tilts_of, "seed": 1} | change
    with pytest.raises(error, match=message):
        UnitSamples(**arguments)


def test_without_tensorboard_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        UnitSamples("logs", tilts_of, seed=1)
