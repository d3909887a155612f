"""A training in phases is the same however often it is stopped, killed or refused."""

import csv
import errno
import functools
import json
import shutil
import signal
import time

import children
import grain
import keras
import numpy as np
import pytest
import tensorflow as tf
import trained_child
from trained_child import BATCH, SAVE_EVERY, STEPS, batches, new_model, phases, train

import keras_tilt as kt
from keras_tilt import storage, training

TOTAL = 4 * STEPS  # steps of the whole run


class KilledError(Exception):
    """What a callback raises in the middle of a run."""


class KillAfter(keras.callbacks.Callback):
    """Ends the run after so many steps, as a signal that cannot be caught would."""

    def __init__(self, steps, end=None):
        super().__init__()
        self.left, self.end = steps, end or self.kill

    def on_train_batch_end(self, batch, logs=None):
        """Counts."""
        self.left -= 1
        if self.left == 0:
            self.end()

    def kill(self):
        """Nothing after this runs."""
        raise KilledError


def state_of(model):
    """Everything the next step would depend on, as arrays."""
    return [tf.convert_to_tensor(variable).numpy() for variable in model.training_state]


def assert_same_run(one, other):
    """Weights and all other state bit for bit; rows but for their seconds."""
    for ours, theirs in zip(state_of(one[0]), state_of(other[0]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert without_seconds(one[1]) == without_seconds(other[1])


def without_seconds(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


class KillInValidation(KillAfter):
    """Ends the run as a validation begins, of which there is one after each epoch."""

    def on_train_batch_end(self, batch, logs=None):
        """Is not counted."""

    def on_test_begin(self, logs=None):
        """Counts."""
        super().on_train_batch_end(0)


class Copy(keras.callbacks.Callback):
    """Copies the folder of a run after so many steps: what a kill there would leave."""

    def __init__(self, run, steps, copy):
        super().__init__()
        self.run, self.left, self.copy = run, steps, copy

    def on_train_batch_begin(self, batch, logs=None):
        """Counts."""
        if self.left == 0:
            shutil.copytree(self.run, self.copy)
        self.left -= 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted run: folder, model, rows."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    copy = Copy(folder, 2 * STEPS, folder.with_name("halfway"))
    return folder, train(folder, [copy])


@pytest.fixture
def halfway(whole, tmp_path):
    """A copy of the folder of that run, as it was between the phases."""
    return shutil.copytree(whole[0].with_name("halfway"), tmp_path / "run")


def test_phases_are_fits_one_after_the_other(whole):
    """Compile, fit, calibrate, compile, fit by hand."""
    model = new_model()
    rows = []
    for number, phase in enumerate(phases()):
        if phase.calibrate:
            model.calibrate(batches(0, 0))
        model.compile(
            phase.optimizer(), phase.objective, queue=phase.queue, metrics=["accuracy"]
        )
        for epoch in range(2 * number, 2 * number + 2):
            fitted = model.fit(
                batches(epoch, 0),
                validation_data=batches(0, 0),
                shuffle=False,
                verbose=0,
            )
            rows.append({name: values[0] for name, values in fitted.history.items()})
    assert_same_run((model, []), (whole[1][0], []))
    for ours, theirs in zip(whole[1][1], rows, strict=True):
        assert theirs.items() <= ours.items()


def annealed(batches):
    """One phase of two epochs, from generative to discriminative."""
    falling = keras.optimizers.schedules.PolynomialDecay(1.0, 2 * STEPS, 0.0)
    adam = functools.partial(keras.optimizers.Adam, 0.002)
    return [training.Phase(falling, 2, adam, batches)]


def test_a_scheduled_weight_goes_on_where_it_was(tmp_path):
    one = train(tmp_path / "one", phases=annealed)
    with pytest.raises(KilledError):
        train(tmp_path / "other", [KillAfter(STEPS + SAVE_EVERY + 1)], phases=annealed)
    other = train(tmp_path / "other", phases=annealed)
    assert_same_run(one, other)
    assert [row["objective"] for row in other[1]] == 2 * ["scheduled"]


# Each goes on from where the one before has left the run: epoch and step on disk.
KILLS = [
    (KillAfter(1), None),
    (KillAfter(STEPS), (0, SAVE_EVERY)),
    (KillInValidation(1), (0, SAVE_EVERY)),
    (KillAfter(2 * STEPS - SAVE_EVERY), (1, SAVE_EVERY)),
    (KillInValidation(1), (1, SAVE_EVERY)),
    (KillAfter(STEPS - SAVE_EVERY + 1), (2, 0)),
    (KillAfter(STEPS + SAVE_EVERY + 2), (3, SAVE_EVERY)),
    (KillAfter(STEPS - SAVE_EVERY - 1), (3, SAVE_EVERY)),
    (KillInValidation(1), (3, SAVE_EVERY)),
]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run with all these kills: folder, places, model and rows, steps of the last."""
    folder, places = tmp_path_factory.mktemp("killed") / "run", []
    for kill, _ in KILLS:
        with pytest.raises(KilledError):
            train(folder, [kill])
        places.append(place_in(folder))
    seen = KillAfter(TOTAL)
    return folder, places, train(folder, [seen]), TOTAL - seen.left


def place_in(folder):
    """Epoch and step of the state on disk, or None."""
    if not (folder / "state.npz").exists():
        return None
    with np.load(folder / "state.npz") as state:
        place = json.loads(str(state["place"]))
    return place["epoch"], place["step"]


def test_killed_after_any_step_and_in_validations_it_is_the_whole_run(whole, killed):
    """After the first and the last step of an epoch, a phase, and the run, and within.

    Behind the last step of an epoch nothing is left, whatever was saved last.
    """
    folder, _, result, _ = killed
    assert_same_run(result, whole[1])
    assert table_in(folder) == table_in(whole[0])


def test_at_most_save_every_steps_are_lost(killed):
    """Nor is a step done again that was saved."""
    _, places, _, steps = killed
    assert places == [place for _, place in KILLS]
    assert steps == STEPS - SAVE_EVERY


def test_a_finished_run_trains_no_more(whole):
    assert_same_run(train(whole[0], [KillAfter(1)]), whole[1])


def table_in(folder):
    with open(folder / "summary.csv", newline="") as file:
        return without_seconds(csv.DictReader(file))


def test_the_table_has_one_row_for_every_epoch(whole):
    rows = table_in(whole[0])
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    objectives = 2 * ["generative"] + 2 * ["discriminative"]
    assert [row["objective"] for row in rows] == objectives
    for row, exact in zip(rows, whole[1][1], strict=True):
        assert float(row["loss"]) == exact["loss"]


def test_tensorboard_has_every_epoch_once_however_often_killed(killed):
    events = [
        (value.tag, event.step)
        for path in (killed[0] / "tensorboard").iterdir()
        for record in tf.data.TFRecordDataset(str(path))
        for event in [tf.compat.v1.Event.FromString(record.numpy())]
        for value in event.summary.value
    ]
    assert sorted(step for tag, step in events if tag == "loss") == [1, 2, 3, 4]
    assert len(set(events)) == len(events)


def test_a_signal_lets_the_step_end_and_saves(whole, halfway, capsys):
    """In the last step of an epoch it lets the epoch end."""
    for number, steps, place in (
        (signal.SIGTERM, STEPS, "epoch 3, step 0"),
        (signal.SIGTERM, 3, "epoch 3, step 3"),
        (signal.SIGINT, 2, "epoch 3, step 5"),
    ):
        ask = KillAfter(steps, lambda number=number: signal.raise_signal(number))
        with pytest.raises(training.Stopped) as stopped:
            train(halfway, [ask])
        assert stopped.value.code == 128 + number
        assert f"after {place}." in capsys.readouterr().err
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    seen = KillAfter(TOTAL)
    assert_same_run(train(halfway, [seen]), whole[1])
    assert seen.left == TOTAL - (STEPS - 5), "no step is done twice"


def test_a_full_disk_leaves_the_last_state(whole, halfway):
    before = (halfway / "state.npz").read_bytes()
    (halfway / "state.npz.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="Make room.*state.npz") as error:
        train(halfway)
    assert error.value.errno == errno.ENOSPC
    assert (halfway / "state.npz").read_bytes() == before
    assert_same_run(train(halfway), whole[1])


def test_a_model_that_cannot_be_written_leaves_the_old_one(whole, tmp_path):
    model, file = whole[1][0], tmp_path / "model.keras"
    storage.save_model(file, model)
    before = file.read_bytes()
    (tmp_path / "model.part.keras").symlink_to("/dev/full")
    with pytest.raises(OSError, match="Make room"):
        storage.save_model(file, model)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]


def test_best_and_last_model_are_there(whole, tmp_path):
    folder, (model, rows) = whole
    images = trained_child.IMAGES[:10]
    last = keras.models.load_model(folder / "last.keras")
    np.testing.assert_array_equal(last(images), model(images))
    best = max(row["val_accuracy"] for row in rows)
    assert accuracy_of(folder / "best.keras") == pytest.approx(best, abs=1e-6)


def accuracy_of(path):
    model = keras.models.load_model(path)
    model.compile(objective="discriminative", metrics=["accuracy"])
    return model.evaluate(batches(0, 0), verbose=0, return_dict=True)["accuracy"]


def test_the_best_model_stays_when_later_ones_are_worse(tmp_path):
    """An epoch of right labels, then one of wrong ones."""
    right, wrong = (
        training.Phase("discriminative", 1, lambda: kt.CaffeSGD(0.02), read)
        for read in (batches, lambda *place: batches(*place).map(mislabelled))
    )
    rows = training.train(
        new_model(),
        [right, wrong],
        tmp_path / "run",
        settings={},
        validation=batches(0, 0),
        progress=False,
    )
    accuracies = [row["val_accuracy"] for row in rows]
    assert accuracies[1] < accuracies[0] - 0.2
    for name, accuracy in zip(("best", "last"), accuracies, strict=True):
        found = accuracy_of(tmp_path / "run" / f"{name}.keras")
        assert found == pytest.approx(accuracy, abs=1e-6)


def mislabelled(images, labels):
    return images, (labels + 1) % 4


def test_another_run_or_another_model_is_refused(whole, tmp_path):
    with pytest.raises(ValueError, match="holds another: seed 0 there, 1 here"):
        train(whole[0], settings={"seed": 1})
    with pytest.raises(ValueError, match="a run of this model.*other shapes"):
        train(whole[0], channels=5)
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(ValueError, match="mine.txt"):
        train(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_calibrations_take_the_prior_that_is_given(whole, halfway):
    """b = log rho - log Z at the switch; discriminative steps leave it."""
    prior = np.array([0.1, 0.2, 0.3, 0.4])
    model, _ = train(halfway, prior=prior)
    shares = np.bincount(trained_child.LABELS) / trained_child.NUM_IMAGES
    np.testing.assert_allclose(
        model.calibration_bias - whole[1][0].calibration_bias,
        np.log(prior / shares),
        atol=1e-5,
    )


def test_calibrating_needs_images(tmp_path):
    with pytest.raises(ValueError, match="`calibration` must be a data set"):
        training.train(new_model(), phases(), tmp_path / "run", settings={})
    assert not (tmp_path / "run").exists()


def test_a_run_that_goes_on_from_another_counts_its_epochs(whole, tmp_path):
    first, second = phases()
    model = new_model()
    common = {"settings": {}, "calibration": batches(0, 0), "progress": False}
    training.train(model, [first], tmp_path / "first", **common)
    rows = training.train(model, [second], tmp_path / "second", first_epoch=2, **common)
    assert [row["epoch"] for row in rows] == [3, 4]
    assert not (tmp_path / "second" / "best.keras").exists(), "nothing was validated"
    for ours, theirs in zip(model.weights, whole[1][0].weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def check_replicas(tmp_path, place, **options):
    """Weights bit for bit; logs are sums over replicas, in another order."""
    folder = tmp_path / "killed"
    copy = Copy(tmp_path / "whole", place[0] * STEPS + place[1] + 2, folder)
    expected, rows = train(tmp_path / "whole", [copy], **options)
    assert place_in(folder) == place, "it was killed two steps behind the save"
    model, resumed = train(folder, **options)
    for ours, theirs in zip(model.weights, expected.weights, strict=True):
        np.testing.assert_array_equal(*map(tf.convert_to_tensor, (ours, theirs)))
    for ours, theirs in zip(resumed, rows, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


@pytest.mark.slow
def test_under_replicas_a_resumed_phase_is_the_whole_phase(strategy, tmp_path):
    """Calibrated, of mixed objective, with a queue."""
    one = trained_child.mixed
    check_replicas(tmp_path, (0, SAVE_EVERY), strategy=strategy, phases=one)


@pytest.mark.slow
def test_under_replicas_a_resumed_run_is_the_whole_run(strategy, tmp_path):
    """Of two phases; the test above is of one that has all of them in it."""
    check_replicas(tmp_path, (1, SAVE_EVERY), strategy=strategy)


# Killed for good


def child(folder, log):
    """The same run in a process of its own."""
    return children.Child([trained_child.__file__, folder], stdout=log, stderr=log)


def killed_at_random(folder, log, kills, random):
    """Runs the child until it ends by itself; returns how it was killed before.

    For every kill whether it was to be within a save of the state, as every other one,
    and whether it was.
    """
    part, state, found = folder / "state.npz.part", folder / "state.npz", []
    while True:
        process = child(folder, log)
        before = state.stat().st_mtime_ns if state.exists() else 0
        in_a_save = len(found) % 2 == 0
        while process.poll() is None and len(found) < kills:
            moved = state.exists() and state.stat().st_mtime_ns > before
            if not moved:
                time.sleep(0.01)
            elif part.exists() or not in_a_save:
                if not in_a_save:
                    time.sleep(random.uniform(0.0, 0.3))
                process.send_signal(signal.SIGKILL)
                break
        if process.wait() != -signal.SIGKILL:
            assert process.returncode == 0
            return found
        found.append((in_a_save, part.exists()))


def check_killed(whole, tmp_path, kills):
    """Runs are killed, the next one once one has ended in spite of it; all are equal.

    They equal the run of this process that was not killed. More kills than asked for
    where no save was torn: the writes were faster.
    """
    random, found, runs = np.random.default_rng(kills), [], 0
    with open(tmp_path / "log.txt", "wb") as log:
        while len(found) < kills or not any(torn for _, torn in found):
            folder = tmp_path / f"run{runs}"
            found += killed_at_random(folder, log, max(1, kills - len(found)), random)
            assert_same_files(whole[0], folder)
            runs += 1
    return f"{len(found)} kills, {sum(t for _, t in found)} within a save, {runs} runs"


def assert_same_files(one, other):
    """States bit for bit, tables but for their seconds."""
    whole, resumed = (np.load(folder / "state.npz") for folder in (one, other))
    assert whole.files == resumed.files
    for name in set(whole.files) - {"place"}:
        np.testing.assert_array_equal(whole[name], resumed[name], err_msg=name)
    assert table_in(one) == table_in(other)


@pytest.mark.slow
def test_killed_by_the_system_twenty_times_it_is_the_whole_run(whole, tmp_path):
    """Every other one at random, the others in the middle of a save."""
    print(check_killed(whole, tmp_path, 20))


# Data sets of Grain


def of_grain(epoch, step):
    """The same batches: a function of their index, read from `step` on."""
    order = np.random.default_rng([1, epoch]).permutation(trained_child.NUM_IMAGES)

    def image(number):
        return trained_child.IMAGES[number], trained_child.LABELS[number]

    batched = grain.MapDataset.source(order.tolist()).map(image).batch(BATCH)
    return batched[step:]


def test_batches_of_grain_train_as_those_of_tensorflow_killed_and_resumed(
    whole, tmp_path
):
    run, folder = functools.partial(trained_child.run, batches=of_grain), tmp_path / "r"
    options = {"save_every": SAVE_EVERY, "batch_size": BATCH}
    for steps in (STEPS + SAVE_EVERY + 1, 2 * STEPS):
        with pytest.raises(KilledError):
            run(new_model(), folder, callbacks=[KillAfter(steps)], **options)
    model = new_model()
    assert_same_run((model, run(model, folder, **options)), whole[1])


def test_batches_of_unknown_number_are_refused(tmp_path):
    def endless(epoch, step):
        return batches(epoch, step).repeat()

    def generated(epoch, step):
        return of_grain(epoch, step).to_iter_dataset()

    for read in (endless, generated):
        with pytest.raises(ValueError, match="of a known number of batches"):
            trained_child.run(new_model(), tmp_path / "run", read)
