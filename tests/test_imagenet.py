"""train/imagenet.py does what its flags say, goes on where it stood, and says why not.

Mostly in this process, on 160 images of 16 x 16 pixels in four colours.
"""

import csv
import functools
import io
import json
import pathlib
import shutil
import signal
import tarfile
import time

import children
import keras
import numpy as np
import pytest
import tensorflow as tf
import test_tiny_imagenet
from data_files import data_file
from PIL import Image
from test_scripts import beside_progress, run_script

import keras_tilt as kt
from keras_tilt.cli import imagenet, process
from keras_tilt.cli.jobs import image_batches, image_sources, image_training
from keras_tilt.cli.named import classes, networks
from keras_tilt.data import batches
from keras_tilt.training.runs import lost_workers
from keras_tilt.training.runs import run as training

ROOT = pathlib.Path(__file__).parents[1]
SCRIPT = "train/imagenet.py"
SMALL = ("--network", "convnet", "--epochs", 2, "--generative-epochs", 1)
SMALL += ("--batch-size", 16)
SHORT = (*SMALL, "--epochs", 1)  # generative
STEPS = 10  # of an epoch


def made(count, size, seed):
    """Noise in four colours, and which one."""
    colours = np.array([[40, 80, 160], [160, 40, 40], [60, 160, 60], [150, 150, 150]])
    labels = np.arange(count) % 4
    noise = np.random.default_rng(seed).integers(0, 60, (count, size, size, 3))
    return np.uint8(noise + colours[labels][:, None, None]), labels


def write_folders(directory, count, seed):
    """A folder for each class; files of 24 x 24 pixels."""
    for i, (pixels, label) in enumerate(zip(*made(count, 24, seed), strict=True)):
        folder = directory / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{i}.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """tiny.npz, and folders train and val."""
    folder = tmp_path_factory.mktemp("data")
    (x_train, y_train), (x_test, y_test) = made(160, 16, 0), made(40, 16, 1)
    names = ("x_train", "y_train", "x_test", "y_test")
    arrays = zip(names, (x_train, y_train, x_test, y_test), strict=True)
    np.savez(folder / "tiny.npz", **dict(arrays))
    write_folders(folder / "train", 32, 2)
    write_folders(folder / "val", 8, 3)
    return folder


@pytest.fixture(scope="module", autouse=True)
def devices_as_they_are():
    """The script runs on the devices of this process."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(process, "chosen_strategy", tf.distribute.get_strategy)
        yield


@pytest.fixture(scope="module")
def run(data):
    """A function that runs it with flags; on tiny.npz unless they say otherwise."""

    def run(*flags, dataset="tiny.npz", callbacks=()):
        of_data = ["--data-dir", data, "--dataset", dataset]
        with pytest.MonkeyPatch.context() as patched:
            if callbacks:
                patched.setattr(training, "train", with_callbacks(callbacks))
            imagenet.main([*map(str, [*of_data, *flags])])

    return run


def with_callbacks(more):
    """The same training with more callbacks."""
    train = training.train

    def trained(*args, callbacks, **options):
        return train(*args, callbacks=[*callbacks, *more], **options)

    return trained


class Sender(keras.callbacks.Callback):
    """Sends this process a signal after so many steps."""

    def __init__(self, steps, number):
        super().__init__()
        self.left, self.number = steps, number

    def on_train_batch_end(self, batch, logs=None):
        """Counts."""
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(self.number)


@pytest.fixture(scope="module")
def shown(data, tmp_path_factory):
    """The uninterrupted run, in a process of its own, as a user has it, and its folder.

    The one of all that is; the others are of this process.
    """
    out = tmp_path_factory.mktemp("whole") / "out"
    flags = (*SMALL, "--queue", 32, "--data-dir", data, "--dataset", "tiny.npz")
    shown = run_script(SCRIPT, *flags, "--out", out)
    assert shown.returncode == 0, shown.stderr
    return out, shown


@pytest.fixture(scope="module")
def whole(shown):
    """Its folder, and what it printed."""
    return shown[0], shown[1].stdout


def rows_of(out):
    with open(out / "run" / "summary.csv", newline="") as file:
        return list(csv.DictReader(file))


def weights_of(out):
    return keras.models.load_model(out / "run" / "last.keras").get_weights()


def table_in(text):
    """Numbers by the name of their line."""
    lines = [line.rsplit(maxsplit=4) for line in text.splitlines()]
    return {
        line[0].strip(): [float(number) for number in line[1:]]
        for line in lines
        if len(line) == 5 and line[0].startswith("center")
    }


# Training


def test_generative_epochs_are_followed_by_discriminative_ones(whole):
    out, printed = whole
    rows = rows_of(out)
    assert [row["objective"] for row in rows] == ["generative", "discriminative"]
    assert set(table_in(printed)) == {"center crop", "center + 4 corners"}
    assert "40 images" in printed and str(out / "run") in printed
    last = keras.models.load_model(out / "run" / "last.keras")
    assert np.any(last.calibration_bias.numpy() != 0.0)


STOPS = [(STEPS // 2, signal.SIGTERM), (STEPS + 3, signal.SIGINT)]


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "number"), STOPS)
def test_stopped_in_the_middle_of_an_epoch_and_run_again_it_is_the_whole_run(
    whole, run, tmp_path, capsys, steps, number
):
    flags = (*SMALL, "--queue", 32, "--out", tmp_path / "out")
    with pytest.raises(SystemExit) as stopped:
        run(*flags, callbacks=[Sender(steps, number)])
    assert stopped.value.code == 128 + number
    assert f"epoch {steps // STEPS}, step {steps % STEPS}." in capsys.readouterr().err
    run(*flags)
    for ours, theirs in zip(
        *map(weights_of, (tmp_path / "out", whole[0])), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert table_in(capsys.readouterr().out) == table_in(whole[1])


def test_interrupted_outside_of_the_training_it_says_so(run, monkeypatch, capsys):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(networks, "network", interrupted)
    with pytest.raises(SystemExit) as stopped:
        run(*SMALL)
    assert stopped.value.code == 130
    assert "Run the same command to resume." in capsys.readouterr().err


def test_evaluation_alone_finds_the_errors_of_the_run(whole, run, capsys):
    out, printed = whole
    run("--eval-only", out / "run" / "last.keras")
    assert table_in(capsys.readouterr().out) == table_in(printed)


@pytest.mark.slow
def test_a_generative_run_shows_its_errors_calibrated_first_and_is_saved_without(
    run, tmp_path, capsys
):
    run(*SHORT, "--out", tmp_path / "out")
    first = capsys.readouterr().out
    names = ["center crop", "center + 4 corners"]
    assert list(table_in(first)) == [*names, *(f"{n}, uncalibrated" for n in names)]
    last = keras.models.load_model(tmp_path / "out" / "run" / "last.keras")
    np.testing.assert_array_equal(last.calibration_bias, 0.0)
    run(*SHORT, "--out", tmp_path / "out")  # finished before
    assert capsys.readouterr().out == first


@pytest.mark.slow
def test_a_run_of_folders_needs_no_other_flag_than_these(run, tmp_path, capsys):
    run(*SHORT, "--out", tmp_path / "out", dataset="imagenet2012")
    printed = capsys.readouterr()
    assert "8 images" in printed.out
    assert beside_progress(printed.err) == []


def check_shown(shown):
    """The bar, the table and nothing else."""
    assert shown.returncode == 0, shown.stderr
    assert beside_progress(shown.stderr) == []
    for text in ("epoch 1/2", "validating", "calibrating", "Kish ESS", "img/s", "left"):
        assert text in shown.stderr
    assert "generative loss" in shown.stderr and "discriminative loss" in shown.stderr
    assert len(table_in(shown.stdout)) == 2


def test_a_user_sees_the_bar_the_table_and_nothing_else(shown):
    check_shown(shown[1])


@pytest.mark.slow
def test_so_does_a_new_user(tmp_path):
    """Of --smoke, without data."""
    flags = ("--smoke", "--network", "convnet", "--out", tmp_path)
    check_shown(run_script(SCRIPT, *flags))


# What flags mean


@pytest.fixture
def asked(run, monkeypatch):
    """A function of flags: what the training would be called with."""

    def asked(*flags, **options):
        calls = []

        class CalledError(Exception):
            pass

        def train(model, phases, directory, **kwargs):
            calls.append((model, phases, kwargs))
            raise CalledError

        monkeypatch.setattr(training, "train", train)
        with pytest.raises(CalledError):
            run(*SMALL, *flags, **options)
        return calls[0]

    return asked


def labels_of(phase, epoch=0):
    """Of every batch of an epoch."""
    return [labels.numpy() for _, labels in phase.batches(epoch, 0)]


def test_an_epoch_has_every_image_once_at_a_place_of_its_own(asked):
    _, phases, _ = asked()
    assert [phase.objective for phase in phases] == ["generative", "discriminative"]
    epochs = [list(phases[0].batches(epoch, 0)) for epoch in (0, 1, 0)]
    assert all(len(epoch) == STEPS for epoch in epochs)
    first, second, again = (np.concatenate([x for x, _ in e]) for e in epochs)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, second)
    rest = list(phases[0].batches(0, 7))
    np.testing.assert_array_equal(rest[0][0], epochs[0][7][0])


def test_steps_are_the_batches_of_an_epoch(data):
    """A last one that is not full is left out, unless it is the only one."""
    images = images_of(data, "none")
    for size, steps in ((16, 10), (33, 4), (200, 1)):
        some = images._replace(batch_size=size)
        assert some.steps(False) == int(some.epoch(False, 0, 0).cardinality()) == steps


def test_few_labelled_images_are_half_of_a_batch_and_then_all_of_it(asked):
    flags = ("--labelled-fraction", 0.2, "--labelled-per-batch", 8)
    _, (generative, discriminative), options = asked(*flags)
    found = labels_of(generative)
    assert [np.sum(labels >= 0) for labels in found] == STEPS * [8]
    assert [len(labels) for labels in labels_of(discriminative)] == [16, 16]
    np.testing.assert_allclose(options["prior"], 0.25)


def test_a_folder_without_labels_adds_draws_of_q(asked, data):
    flags = ("--unlabelled", data / "val")
    _, (generative, discriminative), _ = asked(*flags, dataset="imagenet2012")
    found = np.concatenate(labels_of(generative))
    assert len(found) == 32 and np.sum(found == -1) in range(2, 9)  # of 40 images
    assert np.concatenate(labels_of(discriminative)).min() >= 0


@pytest.mark.parametrize("dataset", ["tiny.npz", "imagenet2012"])
def test_outliers_are_draws_of_q(asked, dataset, monkeypatch):
    """In memory and in files; those of the seed, as they were drawn."""
    drawn, draw = [], image_sources.outliers

    def outliers(images, count, seed):
        drawn.append((count, seed, draw(images, count, seed)))
        return drawn[-1][-1]

    monkeypatch.setattr(image_sources, "outliers", outliers)
    flags = ("--outliers", 30, "--pad", 0, "--no-mirror", "--seed", 5)
    _, (generative, discriminative), options = asked(*flags, dataset=dataset)
    ((count, seed, made),) = drawn
    assert (count, seed, len(made)) == (30, 5, 30)
    if dataset == "tiny.npz":
        expected = {np.round(one).astype(np.float32).tobytes() for one in made}
    for images, labels in generative.batches(0, 0):
        found = images.numpy()[labels.numpy() == -1]
        assert 0 < len(found) < 16
        if dataset == "tiny.npz":
            assert {one.tobytes() for one in found} <= expected
    assert np.concatenate(labels_of(discriminative)).min() >= 0
    np.testing.assert_allclose(options["prior"], 0.25)


def test_outliers_are_fitted_to_what_can_be_read(asked, damaged):
    folder = damaged(train=("class1/5.png",))
    flags = ("--outliers", 6, "--data-dir", folder, "--max-corrupt", 0.5)
    _, (generative, _), _ = asked(*flags, **FOLDERS)
    found = [labels for epoch in (0, 1) for labels in labels_of(generative, epoch)]
    assert np.sum(np.concatenate(found) == -1) > 0


def test_a_run_of_before_there_were_outliers_can_be_resumed(asked):
    *_, options = asked()
    assert "--seed" in options["settings"] and "--outliers" not in options["settings"]
    *_, options = asked("--outliers", 30)
    assert options["settings"]["--outliers"] == 30


@pytest.mark.parametrize(
    "objective", ["generative", "discriminative", "mix", "annealed"]
)
def test_a_batch_of_any_phase_has_as_many_classes_as_were_asked_for(asked, objective):
    """Of images with labels alone, also where others have none."""
    flags = ("--objective", objective, "--classes-per-batch", 2)
    for more in ((), ("--labelled-fraction", 0.5)):
        _, phases, _ = asked(*flags, *more)
        for labels in np.concatenate([labels_of(phase) for phase in phases]):
            assert np.unique(labels, return_counts=True)[1].tolist() == [8, 8]


@pytest.mark.parametrize(
    ("flags", "objectives", "queues"),
    [
        (("--queue", 64), ["generative", "discriminative"], [4, 0]),
        (("--generative-epochs", 2), ["generative"], [0]),
        (("--objective", "discriminative"), ["discriminative"], [0]),
        (("--objective", "mix", "--queue", 32), [0.5], [2]),
        (("--objective", "mix", "--mix-weight", 0.2), [0.2], [0]),
    ],
)
def test_phases_are_those_of_the_objective(asked, flags, objectives, queues):
    _, phases, _ = asked(*flags)
    assert [phase.objective for phase in phases] == objectives
    assert [phase.queue for phase in phases] == queues
    assert sum(phase.epochs for phase in phases) == 2
    calibrated = [phase.calibrate for phase in phases]
    assert calibrated == [False, True][: len(phases)]


def rates(phase, steps):
    """Learning rates at steps of a phase."""
    optimizer, found = phase.optimizer(), []
    for step in steps:
        optimizer.iterations.assign(step)
        found.append(float(tf.convert_to_tensor(optimizer.learning_rate)))
    return found


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("step", [1.0, 1.0, 0.1, 0.1, 0.01]),
        ("inverse", [(1 + 1e-4 * step) ** -0.75 for step in (0, 3, 4, 7, 9)]),
        ("cosine", [(1 + np.cos(np.pi * s / STEPS)) / 2 for s in (0, 3, 4, 7, 9)]),
        ("constant", [1.0, 1.0, 1.0, 1.0, 1.0]),
        ("cooldown", [1.0, 1.0, 1.0, (1 + 0.5**0.5) / 2, (1 - 0.5**0.5) / 2]),
    ],
)
def test_rates_fall_as_the_schedule_says_in_each_phase(asked, schedule, expected):
    steps = (0, 3, 4, 7, 9) if schedule != "step" else (0, 3, 4, 7, 8)
    flags = ("--schedule", schedule, "--decay-steps", 4)
    _, phases, _ = asked(*flags)
    for phase, start in zip(phases, (0.01, 0.003), strict=True):
        assert rates(phase, steps) == pytest.approx(
            start * np.array(expected), rel=1e-4
        )
    _, (warm, _), _ = asked(*flags, "--warmup-steps", 4)
    share = np.minimum(1.0, (np.array(steps) + 1) / 4)
    assert rates(warm, steps) == pytest.approx(0.01 * share * expected, rel=1e-4)


def test_generative_epochs_may_have_a_schedule_of_their_own(asked):
    flags = ("--schedule", "cosine", "--generative-schedule", "constant")
    _, (generative, discriminative), _ = asked(*flags)
    assert rates(generative, (0, 9)) == pytest.approx([0.01, 0.01])
    expected = [0.003, 0.003 * (1 + np.cos(0.9 * np.pi)) / 2]
    assert rates(discriminative, (0, 9)) == pytest.approx(expected, rel=1e-4)
    _, (mix,), _ = asked(*flags, "--objective", "mix")
    assert rates(mix, (2 * STEPS,)) == pytest.approx([0.0], abs=1e-8)


def test_logits_are_centered_where_that_is_asked_for(asked):
    for flags, names in ((("--center-logits",), ["centered_logits"]), ((), [])):
        model, _, _ = asked("--network", "pooled_convnet", *flags)
        layers = [layer.name for layer in model.network.layers]
        assert layers[layers.index("classes") + 1 :] == names


def test_adamw_decays_kernels_alone(asked):
    """Without a gradient a step is w - rate decay w."""
    flags = ("--optimizer", "adamw", "--weight-decay", 0.5, "--schedule", "constant")
    model, (phase, _), _ = asked(*flags, "--network", "pooled_convnet")
    optimizer, variables = phase.optimizer(), model.network.trainable_variables
    before = [variable.numpy() for variable in variables]
    optimizer.apply([tf.zeros_like(variable) for variable in variables], variables)
    for variable, value in zip(variables, before, strict=True):
        kept = 1.0 - 0.01 * 0.5 if variable.name == "kernel" else 1.0
        np.testing.assert_allclose(variable, kept * value, rtol=1e-5)


def test_tiny_imagenet_is_taken_as_it_is(asked, tmp_path):
    """Cut at its own size, with a border, and with the names of its classes."""
    test_tiny_imagenet.write(tmp_path)
    flags = ("--data-dir", tmp_path, "--network", "pooled_convnet", "--size", 64)
    _, (phase, _), options = asked(*flags, dataset="imagenet2012")
    ((images, labels),) = phase.batches(0, 0)
    assert images.shape == (6, 64, 64, 3) and sorted(labels) == [0, 0, 1, 1, 2, 2]
    ((_, labels),) = options["validation"](None)
    assert labels.numpy().tolist() == [2, 1, 0]
    np.testing.assert_allclose(options["prior"], 1 / 3)


def test_an_annealed_weight_falls_over_the_generative_epochs(asked):
    _, (phase,), _ = asked("--objective", "annealed", "--queue", 32)
    weights = [float(phase.objective(step)) for step in (0, STEPS // 2, STEPS, 15)]
    np.testing.assert_allclose(weights, [1.0, 0.5, 0.0, 0.0], atol=1e-6)
    assert (phase.epochs, phase.queue, phase.calibrate) == (2, 2, False)


def test_an_annealed_run_is_planned_trained_and_written_down(run, tmp_path, capsys):
    flags = (*SMALL, "--objective", "annealed", "--out", tmp_path)
    run(*flags, "--dry-run")
    assert f"2 epochs of {STEPS} steps of 16: scheduled" in capsys.readouterr().out
    run(*flags)
    rows = rows_of(tmp_path)
    assert [row["objective"] for row in rows] == ["scheduled", "scheduled"]
    assert float(rows[-1]["val_accuracy"]) > 0.5


@pytest.mark.slow
def test_a_schedule_that_rises_and_falls_trains_a_mix(run, tmp_path):
    flags = ("--schedule", "cosine", "--warmup-steps", 3, "--objective", "mix")
    run(*SMALL, *flags, "--out", tmp_path)
    rows = rows_of(tmp_path)
    assert [row["objective"] for row in rows] == ["0.5", "0.5"]
    assert float(rows[-1]["val_accuracy"]) > 0.5
    assert float(rows[-1]["learning_rate"]) < 1e-5


def test_pixels_are_prepared_everywhere_as_keras_does(asked):
    """To train on, to validate and to calibrate, in every mode."""
    found = {}
    for mode in ("none", "tf", "caffe", "torch"):
        _, (phase, *_), options = asked("--epochs", 1, "--preprocess", mode)
        images = [next(iter(phase.batches(0, 3)))[0]]
        for name in ("validation", "calibration"):
            images.append(next(iter(options[name](None)))[0])
        found[mode] = images
    unprepared = found.pop("none")
    for mode, images in found.items():
        prepare = functools.partial(
            keras.applications.imagenet_utils.preprocess_input, mode=mode
        )
        for plain, prepared in zip(unprepared, images, strict=True):
            expected = prepare(np.array(plain))
            np.testing.assert_allclose(
                prepared, expected, rtol=1e-5, atol=1e-4, err_msg=mode
            )


def test_five_crops_are_prepared_as_one_is(data):
    images = images_of(data, "torch")
    (center, _), *_ = images.evaluation()
    (five, _), *_ = images.evaluation("five")
    np.testing.assert_allclose(five[:, 0], center[: len(five)], rtol=1e-5, atol=1e-5)


def images_of(data, preprocess):
    train, test = image_sources.named_images("tiny.npz", data, 0)
    corrupt = batches.Corrupt()
    views = ((12, 12), None, 0, True)
    rest = (*views, preprocess, None, None)
    return image_batches.Images(train, test, corrupt, 16, 0, *rest)


def test_batch_norm_is_synchronized_with_the_same_weights_in_nested_networks_too():
    layers = [keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3)]
    inner = keras.Sequential([*layers, keras.layers.BatchNormalization()])
    head = [keras.layers.Flatten(), keras.layers.Dense(4)]
    network = keras.Sequential([keras.Input((8, 8, 3)), inner, *head])
    found = image_training.synchronized(network)
    images = tf.random.stateless_uniform([3, 8, 8, 3], [0, 1])
    np.testing.assert_array_equal(found(images), network(images))
    norms = [
        layer
        for layer in found._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert [norm.synchronized for norm in norms] == [True]


@pytest.mark.parametrize(
    ("network", "image_shape", "expected"),
    [
        ("alexnet", None, ((227, 227), 256, 0)),
        ("zf_fast", None, ((224, 224), 256, 0)),
        ("ResNet50", None, ((224, 224), 256, 0)),
        ("lenet", None, ((28, 28), 32, 0)),
        ("convnet", (32, 32, 3), ((32, 32), None, 4)),
        ("lenet", (20, 30, 1), ((20, 20), None, 2)),
        ("alexnet", (256, 256, 3), ((227, 227), None, 0)),
    ],
)
def test_crops_suit_network_and_images(network, image_shape, expected):
    source = kt.sources.synthetic(image_shape or (9, 9, 3), 2, 4)
    if image_shape is None:
        source = kt.sources.concatenated(source, kt.sources.synthetic((8, 9, 3), 2, 4))
    assert image_batches.views(source, network, None, None, None) == expected


def test_a_saved_network_is_given_images_of_its_size(asked, tmp_path):
    path = tmp_path / "network.keras"
    kt.convnet((14, 12, 3), 4).save(path)
    model, (phase, _), _ = asked("--network", path, "--seed", 5)
    assert next(iter(phase.batches(0, 0)))[0].shape == (16, 14, 12, 3)
    assert model.network.input_shape == (None, 14, 12, 3)


# A dry run


@pytest.mark.slow
def test_a_dry_run_plans_the_paper_s_training_without_any_data(run, tmp_path, capsys):
    run("--dry-run", "--data-dir", tmp_path, dataset="imagenet2012")
    text = capsys.readouterr().out
    assert "Its tars are made into records first" in text
    for part in (
        "1,281,167 images to train on, 0 of them without label; 50,000 to test on",
        "Shorter side 256, border 0, crop 227 x 227, mirrored",
        "alexnet: 60,965,224 parameters",
        "45 epochs of 5,004 steps of 256: generative, learning rate 0.01, at the end "
        "0.0001",
        "25 epochs of 5,004 steps of 256: discriminative, learning rate 0.003, at the "
        "end 0.0003, calibrated before",
    ):
        assert part in text
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_what_is_then_done(whole, run, tmp_path, capsys):
    run(*SMALL, "--queue", 32, "--dry-run", "--out", tmp_path / "out")
    text = capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    model = keras.models.load_model(whole[0] / "run" / "last.keras")
    assert f"convnet: {model.network.count_params():,} parameters" in text
    assert f"1 epoch of {STEPS} steps of 16: generative" in text
    assert "queue of 2 batches" in text
    for layer in model.network.layers:
        shape = " x ".join(map(str, layer.output.shape[1:]))
        assert any(
            line.split()[:1] == [layer.name] and line.endswith(shape)
            for line in text.splitlines()
        )


def test_a_dry_run_counts_outliers_and_makes_none(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(image_sources, "outliers", None)
    flags = ("--outliers", 40_000, "--dry-run", "--data-dir", tmp_path)
    run(*flags, dataset="imagenet2012")
    text = capsys.readouterr().out
    assert "1,321,167 images to train on, 40,000 of them without label" in text


def test_a_dry_run_knows_nested_networks_and_rates_that_rise(run, tmp_path, capsys):
    inner = kt.convnet((16, 16, 3), 8)
    layers = [keras.Input((16, 16, 3)), inner, keras.layers.Dense(4)]
    keras.Sequential(layers).save(tmp_path / "network.keras")
    flags = ("--network", tmp_path / "network.keras", "--warmup-steps", 5)
    run(*SMALL, *flags, "--schedule", "cosine", "--dry-run")
    text = capsys.readouterr().out
    assert "convnet/conv1" in text
    assert "learning rate 0.002, rising to 0.0065" in text


# Images that cannot be read


@pytest.fixture
def damaged(data, tmp_path):
    """A function: folders of images of which some files are cut off."""

    def damaged(**names):
        for split in ("train", "val"):
            shutil.copytree(data / split, tmp_path / "data" / split)
            for name in names.get(split, ()):
                file = tmp_path / "data" / split / name
                file.write_bytes(file.read_bytes()[:40])
        return tmp_path / "data"

    return damaged


FOLDERS = {"dataset": "imagenet2012"}
TINY = (*SHORT, "--size", 20)


@pytest.mark.slow
def test_unreadable_images_are_left_out_counted_and_listed(
    run, damaged, tmp_path, capsys
):
    folder = damaged(train=("class1/5.png", "class2/30.png"))
    flags = (*TINY, "--data-dir", folder, "--out", tmp_path / "out")
    run(*flags, "--max-corrupt", 0.05, **FOLDERS)
    listed = tmp_path / "out" / "unreadable.txt"
    assert listed.read_text() == "class1/5.png\nclass2/30.png\n"
    printed = capsys.readouterr()
    assert str(listed) in printed.err and "8 images" in printed.out


@pytest.mark.slow
def test_too_many_unreadable_images_end_the_run_and_are_listed(run, damaged, tmp_path):
    files = ("class1/5.png", "class2/30.png", "class3/7.png")
    folder = damaged(train=files)
    flags = (*TINY, "--data-dir", folder, "--out", tmp_path / "out")
    with pytest.raises(SystemExit, match="At most 1 of 32 images may be unreadable"):
        run(*flags, **FOLDERS)
    found = (tmp_path / "out" / "unreadable.txt").read_text().splitlines()
    assert len(found) >= 2 and set(found) <= set(files)
    (tmp_path / "out" / "unreadable.txt").write_text("before.png\n")
    with pytest.raises(SystemExit, match="unreadable"):
        run(*flags, **FOLDERS)
    assert "before.png" in (tmp_path / "out" / "unreadable.txt").read_text()


def test_unreadable_images_end_an_evaluation_in_a_sentence(
    whole, run, damaged, tmp_path
):
    folder = damaged(val=("class1/5.png", "class2/6.png"))
    flags = ("--data-dir", folder, "--eval-only", whole[0] / "run" / "last.keras")
    with pytest.raises(SystemExit, match=r"^At most 1 of 8 images may be unreadable"):
        run(*flags, **FOLDERS)


# What is wrong


def refused(run, capsys, *flags, **options):
    """The sentence it ends with."""
    with pytest.raises(SystemExit) as stopped:
        run(*flags, **options)
    if stopped.value.code == 2:  # of argparse
        return capsys.readouterr().err
    assert "\n" not in stopped.value.code
    return stopped.value.code


@pytest.mark.parametrize(
    ("flags", "dataset", "message"),
    [
        ((), "none.npz", "none.npz, which is not a file"),
        ((), "cifar10", "Expected cifar10 prepared by TFDS"),
        (("--data-dir", "nowhere"), "imagenet2012", "no imagenet2012, and no ILSVRC"),
        (("--network", "alexnet"), "tiny.npz", "--size of at most 16 pixels"),
        (("--network", "resnet50"), "tiny.npz", "Near it: ResNet50"),
        (("--network", "none.keras"), "tiny.npz", "none.keras, which is not there"),
        (("--eval-only", "none.keras"), "tiny.npz", "none.keras, which is not there"),
        (("--unlabelled", "nowhere"), "tiny.npz", "nowhere, which is not a folder"),
        (("--labelled-per-batch", 8), "tiny.npz", "Expected unlabelled images"),
        (("--classes-per-batch", 3), "tiny.npz", "divide `batch_size`"),
        (("--pad", 16), "tiny.npz", "`crop` must fit"),
        (("--queue", 24), "tiny.npz", "--queue must be a multiple of --batch-size, 16"),
        (("--generative-epochs", 3), "tiny.npz", "must not exceed --epochs"),
        (("--generative-epochs", 3, "--objective", "annealed"), "tiny.npz", "exceed"),
        (("--generative-epochs", 0), "tiny.npz", "a whole number from 1. Received: 0."),
        (("--warmup-steps", -1), "tiny.npz", "a whole number from 0. Received: -1."),
        (("--learning-rate", "nan"), "tiny.npz", "number above 0. Received: nan."),
        (("--max-corrupt", 2), "tiny.npz", "from 0 to 1. Received: 2."),
        (
            ("--queue", 32, "--objective", "discriminative"),
            "tiny.npz",
            "--queue is for an --objective with a generative part",
        ),
        (
            ("--outliers", 32, "--objective", "discriminative"),
            "tiny.npz",
            "--outliers is for an --objective with a generative part",
        ),
        (("--outliers", 2), "tiny.npz", "--outliers must be 0 or at least 3"),
        (
            ("--outliers", 32, "--classes-per-batch", 4),
            "tiny.npz",
            "labels alone. Received: --outliers, too.",
        ),
        (
            ("--classes-per-batch", 4, "--labelled-per-batch", 8),
            "tiny.npz",
            "labels alone. Received: --labelled-per-batch, too.",
        ),
    ],
)
def test_what_cannot_be_done_ends_in_a_sentence(
    run, tmp_path, capsys, flags, dataset, message
):
    text = refused(
        run, capsys, *SMALL, "--out", tmp_path / "out", *flags, dataset=dataset
    )
    assert message in text
    assert not (tmp_path / "out").exists()


def test_a_worker_that_is_lost_at_the_end_ends_the_others_with_a_sentence(
    run, tmp_path, monkeypatch
):
    """When the errors are measured: the model is saved."""

    def lost(*_):
        raise tf.errors.UnavailableError(None, None, "Collective ops is aborted by ...")

    monkeypatch.setattr(image_training, "errors", lost)
    of_two = tf.distribute.InputContext(2, 0, 2)
    flags = (*SHORT, "--objective", "discriminative", "--out", tmp_path / "out")
    with pytest.raises(tf.errors.UnavailableError):  # alone it is none of this
        run(*flags)
    monkeypatch.setattr(lost_workers.workers, "context_of", lambda _: of_two)
    with pytest.raises(SystemExit, match="all 2 workers to go on.* holds the model"):
        run(*flags)


def test_without_data_it_says_where_to_name_them(monkeypatch):
    monkeypatch.delenv("KERAS_TILT_DATA", raising=False)
    with pytest.raises(SystemExit, match="KERAS_TILT_DATA is not set"):
        imagenet.main([])


def test_arrays_that_are_not_there_are_named(run, tmp_path, capsys):
    np.savez(tmp_path / "other.npz", pixels=np.zeros(3))
    text = refused(run, capsys, "--data-dir", tmp_path, dataset="other.npz")
    assert "x_train and y_train" in text and "Received: pixels." in text


def test_labels_of_no_class_are_refused(run, tmp_path, capsys):
    (x, y), names = made(8, 16, 0), ("x_train", "y_train", "x_test", "y_test")
    arrays = zip(names, (x, y, x, y + 1), strict=True)
    np.savez(tmp_path / "more.npz", **dict(arrays))
    text = refused(run, capsys, *SMALL, "--data-dir", tmp_path, dataset="more.npz")
    assert "Expected labels in -1..3" in text


def test_folders_that_are_no_classes_are_refused(run, data, tmp_path, capsys):
    ask = functools.partial(refused, run, capsys, *SMALL, "--data-dir", tmp_path)
    shutil.copytree(data / "train", tmp_path / "train")
    assert f"{tmp_path / 'val'}, which is not a folder" in ask(**FOLDERS)
    shutil.copytree(data / "val", tmp_path / "val")
    (tmp_path / "val" / "other").mkdir()
    assert "named as the 4 classes. Received: other" in ask(**FOLDERS)
    (tmp_path / "val" / "other").rmdir()
    (tmp_path / "train" / "empty").mkdir()
    assert "1 of them without images (empty)" in ask(**FOLDERS)
    (tmp_path / "train" / "empty").rmdir()
    for label in range(1, 4):
        for split in ("train", "val"):
            shutil.rmtree(tmp_path / split / f"class{label}")
    assert "two classes or more" in ask(**FOLDERS)


def test_a_class_without_an_image_is_refused_before_the_training(
    run, asked, data, tmp_path, capsys
):
    arrays = dict(np.load(data / "tiny.npz"))
    arrays["class_names"] = np.array(["a", "b", "c", "d", "e"])
    np.savez(tmp_path / "five.npz", **arrays)
    flags = (*SMALL, "--data-dir", tmp_path, "--out", tmp_path / "out")
    text = refused(run, capsys, *flags, dataset="five.npz")
    assert "none of 1 of 5 classes: e. " in text and "--no-calibrate" in text
    _, phases, _ = asked("--data-dir", tmp_path, "--no-calibrate", dataset="five.npz")
    assert [phase.calibrate for phase in phases] == [False, False]


def test_gray_images_have_no_mean_of_three_colours(run, tmp_path, capsys):
    (x, y), names = made(8, 16, 0), ("x_train", "y_train", "x_test", "y_test")
    arrays = zip(names, (x[..., 0], y, x[..., 0], y), strict=True)
    np.savez(tmp_path / "gray.npz", **dict(arrays))
    flags = (*SMALL, "--data-dir", tmp_path, "--preprocess", "caffe")
    text = refused(run, capsys, *flags, dataset="gray.npz")
    assert "images in colour" in text and "(16, 16, 1)" in text


def test_a_model_of_other_images_or_classes_is_not_evaluated(run, tmp_path, capsys):
    path = tmp_path / "other.keras"
    kt.GenerativeClassifier(kt.convnet((16, 16, 3), 5)).save(path)
    text = refused(run, capsys, "--eval-only", path)
    assert "ends in 4 logits" in text and "(None, 5)" in text
    kt.GenerativeClassifier(kt.convnet((16, 16, 1), 4)).save(path)
    assert "images (16, 16, 3)" in refused(run, capsys, "--eval-only", path)


def test_the_folder_of_another_run_is_refused_with_the_flag_that_differs(
    whole, run, tmp_path, capsys
):
    out = shutil.copytree(whole[0], tmp_path / "out")
    before = (out / "run" / "run.json").read_text()
    flags = (*SMALL, "--queue", 32, "--out", out)
    text = refused(run, capsys, *flags, "--learning-rate", 0.02)
    assert "which holds another: --learning-rate 0.01 there, 0.02 here." in text
    assert (out / "run" / "run.json").read_text() == before


def test_a_folder_that_cannot_be_written_is_refused(run, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    text = refused(run, capsys, *SMALL, "--out", tmp_path / "file")
    assert f"Received: {tmp_path / 'file'}, which is a file." in text


def test_the_names_of_the_classes_are_beside_a_run(whole):
    out = whole[0]
    for model in (out / "run").glob("*.keras"):
        names = classes.names_of(None, model)
        assert names and list(names) == list(range(len(names)))
    assert json.loads((out / "class_names.json").read_text()) == list(names.values())


# The whole way


def write_archives(photos, directory, num_val):
    """The two tars of ILSVRC-2012, with a photo of each class, and some to test on."""
    with np.load(photos) as arrays:
        wnids = arrays["wnids"][arrays["y"]]
        files = np.split(arrays["buf"], arrays["off"][1:-1])
    contents = [file.tobytes() for file in files]
    inner = {
        f"{wnid}.tar": tar_of({f"{wnid}_1.JPEG": content})
        for wnid, content in zip(wnids, contents, strict=True)
    }
    val = {
        f"ILSVRC2012_val_{i + 1:08d}.JPEG": content
        for i, content in enumerate(contents[:num_val])
    }
    (directory / "ILSVRC2012_img_train.tar").write_bytes(tar_of(inner))
    (directory / "ILSVRC2012_img_val.tar").write_bytes(tar_of(val))


def tar_of(files):
    """A tar file, as bytes, of contents by name."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def killed_in_the_second_phase(command, out, log):
    """Runs the script, and kills it after its first save in the second epoch."""
    process = children.Child(command, cwd=ROOT, stdout=log, stderr=log)
    state, ended = out / "run" / "state.npz", 0
    while process.poll() is None:
        time.sleep(0.2)
        if not ended and (out / "run" / "summary.csv").exists():
            ended = time.time_ns()
        if ended and state.stat().st_mtime_ns > ended:
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_from_the_tars_of_imagenet_to_an_image_of_a_served_class(tmp_path):
    """AlexNet, GG, DG, killed, run again, evaluated, exported, asked."""
    photos = data_file("imagenet_sample1000_256.npz")
    write_archives(photos, tmp_path, num_val=60)
    out = tmp_path / "out"
    command = (SCRIPT, "--data-dir", tmp_path, "--out", out, "--epochs", 2)
    command += ("--generative-epochs", 1, "--batch-size", 50, "--save-every", 4)
    command += ("--calibration-images", 100)
    with open(tmp_path / "log.txt", "wb") as log:
        killed_in_the_second_phase(command, out, log)
    assert len(rows_of(out)) == 1
    place = json.loads(str(np.load(out / "run" / "state.npz")["place"]))
    assert (place["epoch"], place["phase"]) == (1, 1) and place["step"] % 4 == 0
    resumed = run_script(*command)
    assert resumed.returncode == 0, resumed.stderr
    assert beside_progress(resumed.stderr) == []
    rows = rows_of(out)
    assert [row["objective"] for row in rows] == ["generative", "discriminative"]
    assert float(rows[1]["loss"]) < 1.1 * np.log(1000)

    model = out / "run" / "last.keras"
    judged = run_script(SCRIPT, "--data-dir", tmp_path, "--eval-only", model)
    assert judged.returncode == 0, judged.stderr
    assert table_in(judged.stdout) == table_in(resumed.stdout)

    served = tmp_path / "served"
    exported = run_script(
        *("export/sampler.py", model, "--unit", "class:207", "--out", served),
        *("--reference", "spectral", "--smoke"),
    )
    assert exported.returncode == 0, exported.stderr
    image = tmp_path / "image.png"
    asked = run_script("export/ask.py", served, "--unit", 0, "--out", image)
    assert asked.returncode == 0, asked.stderr
    pixels = np.asarray(Image.open(image))
    assert pixels.shape[2] == 3 and min(pixels.shape[:2]) >= 227 and pixels.std() > 10
