"""Two workers, processes with a TF_CONFIG each, train as one process does.

Each reads its parts of every batch alone, cropped and mirrored at random, or whole
batches. As a script it is one of them: FOLDER, a function of PHASES, and, where it is
not to run to its end, "wait", "term" or "lost INDEX" and the step at which it waits to
be killed, the second worker is asked to end, or that one kills itself.
"""

import functools
import json
import os
import pathlib
import signal
import socket
import sys
import time

import children
import keras
import numpy as np
import pytest
import tensorflow as tf
import trained_child

import keras_tilt as kt  # (first: it sets TensorFlow's environment defaults)
from keras_tilt.data import batches, sources
from keras_tilt.training import evaluation
from keras_tilt.training.runs import run, watch

BATCH, SAVE_EVERY = 16, 3
NUM_IMAGES = 61  # four batches, the last of 13 images, 7 and 6


def source():
    """The images of `trained_child`, as pixels."""
    pixels = np.clip(96.0 * trained_child.IMAGES[:NUM_IMAGES] + 64.0, 0.0, 255.0)
    return sources.arrays(np.uint8(pixels), trained_child.LABELS[:NUM_IMAGES])


def parts(epoch, step, context=None):
    """What is left of an epoch, or of the parts of a worker."""
    return batches.training_batches(
        source(),
        batches.uniform_order(NUM_IMAGES, 1, epoch),
        BATCH,
        seed=1,
        epoch=epoch,
        first_step=step,
        crop=(8, 8),
        pad=1,
        context=context,
    )


def whole_batches(epoch, step):
    """The same, of which every worker reads all."""
    return parts(epoch, step)


def with_parts(phases):
    """Those of `trained_child`, read in parts."""
    return [phase._replace(reads_parts=True) for phase in phases(parts)]


PHASES = {
    "mixed": lambda: with_parts(trained_child.mixed),
    "phases": lambda: with_parts(trained_child.phases),
    "whole": lambda: trained_child.mixed(whole_batches),
}


def new_model():
    """Equal weights at every call; nothing at random, no bias without a gradient."""
    images = keras.Input([8, 8, 1])
    kernel = keras.initializers.GlorotUniform
    x = keras.layers.Rescaling(1 / 96)(images)
    x = keras.layers.Conv2D(4, 3, use_bias=False, kernel_initializer=kernel(1))(x)
    x = keras.layers.BatchNormalization(synchronized=True)(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(4, kernel_initializer=kernel(4))(x)
    return kt.GenerativeClassifier(keras.Model(images, x))


def train(folder, phases, strategy=None, callbacks=()):
    """Model and rows of the run in a folder."""
    with (strategy or tf.distribute.get_strategy()).scope():
        model = new_model()
    found = PHASES[phases]()
    first = functools.partial(found[0].batches, 0, 0)
    images = first if found[0].reads_parts else first()
    rows = run.train(
        model,
        found,
        folder,
        settings={"seed": 0},
        validation=images,
        calibration=images,
        save_every=SAVE_EVERY,
        batch_size=BATCH,
        callbacks=callbacks,
        progress=strategy is not None,
    )
    return model, rows


class EndAt(keras.callbacks.Callback):
    """Before a step waits to be killed, or asks for the end of the second worker."""

    def __init__(self, file, index, how, step):
        super().__init__()
        self.file, self.index, self.how, self.left = file, index, how, step

    def on_train_batch_begin(self, batch, logs=None):
        """Before every step."""
        if self.left == 0 and self.how == "wait":
            self.file.touch()
            time.sleep(1000)
        if self.left == 0 and self.how == f"lost {self.index}":
            signal.raise_signal(signal.SIGKILL)
        if self.left == 0 and self.how == "term" and self.index == 1:
            signal.raise_signal(signal.SIGTERM)
        self.left -= 1


# The workers


def worker(folder, phases, how="", step=-1):
    """One of them: writes what it has at the end beside the run."""
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    watch.AGREE_EVERY = 2
    index = strategy.cluster_resolver.task_id
    own = folder.with_name(f"{folder.name}-{index}")
    end = EndAt(own.with_suffix(".waits"), index, how, int(step))
    model, rows = train(folder, phases, strategy, [end])
    own.with_suffix(".json").write_text(json.dumps(rows))
    np.savez(own.with_suffix(".npz"), *map(tf.convert_to_tensor, model.weights))
    np.savez(own.with_suffix(".judged.npz"), **judged(model))


def judged(model):
    """What a model predicts and is calibrated to be, and how many images that read."""
    read = []

    def noted(part):
        def of_worker(context):
            images = part(context)
            read.append(sum(len(labels) for _, labels in images))
            return images

        return of_worker

    crops = functools.partial(batches.evaluation_batches, source(), BATCH, crops="five")
    five = noted(lambda context: crops(crop=(8, 8), context=context))
    one = noted(lambda context: and_an_empty_batch(parts(0, 0, context)))
    few = model.calibrate(a_single_image, prior=np.full(4, 0.25))
    calibrated = model.calibrate(one)
    whole = model.calibrate(parts(0, 0))  # read by each, counted once
    return {
        **evaluation.predictions(model, one)._asdict(),
        "of five crops": evaluation.predictions(model, five).probabilities,
        **calibrated._asdict(),
        "of all": whole.num_images,
        "of one": few.log_partition,
        "read": np.int64(read),
    }


def and_an_empty_batch(images):
    """Batches and one more of which nothing could be read; labels as Keras has them."""
    images = images.map(lambda x, y: (x, tf.cast(y, tf.uint8)))
    return images.concatenate(images.take(1).map(lambda x, y: (x[:0], y[:0])))


def a_single_image(context):
    """One for all workers: others have none."""
    one = {"crop": (8, 8), "seed": 1, "epoch": 0, "context": context}
    return batches.training_batches(source(), [5], 1, **one)


class Workers:
    """Processes of one run."""

    def __init__(self, folder, phases, *arguments, folders=None, count=2):
        self.folder, self.count = folder, count
        here = pathlib.Path(__file__)
        cluster = {"worker": [f"localhost:{port}" for port in free_ports(count)]}
        folders = folders or [folder] * count
        self.processes = []
        for index in range(count):
            config = {"cluster": cluster, "task": {"type": "worker", "index": index}}
            command = [here, folders[index], phases, *arguments]
            environment = os.environ | {"TF_CONFIG": json.dumps(config)}
            with open(self.file(index, ".log"), "wb") as log:
                process = children.Child(
                    command, env=environment, stdout=log, stderr=log
                )
            self.processes.append(process)

    def file(self, index, suffix):
        """What a worker writes for itself."""
        return self.folder.with_name(f"{self.folder.name}-{index}{suffix}")

    def kill(self):
        """Once both wait for it."""
        waits = [self.file(index, ".waits") for index in range(self.count)]
        while not all(file.exists() for file in waits):
            assert all(process.poll() is None for process in self.processes)
            time.sleep(0.1)
        for process in self.processes:
            process.kill()
        return self.ended(-signal.SIGKILL)

    def ended(self, code=0, lost=None):
        """Logs, once all have ended as they should, of which one was lost."""
        codes = [process.wait(timeout=200) for process in self.processes]
        logs = [self.file(index, ".log").read_text() for index in range(self.count)]
        expected = [code] * self.count
        if lost is not None:
            expected[lost] = -signal.SIGKILL
        assert codes == expected, "\n\n".join(logs)
        return logs

    def weights(self, index):
        with np.load(self.file(index, ".npz")) as arrays:
            return list(arrays.values())

    def judged(self, index):
        with np.load(self.file(index, ".judged.npz")) as arrays:
            return dict(arrays)

    def rows(self, index):
        rows = json.loads(self.file(index, ".json").read_text())
        return [without_seconds(row) for row in rows]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for process in self.processes:
            process.kill()
            process.wait()


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def without_seconds(row):
    return {name: value for name, value in row.items() if name != "seconds"}


def numbers(row):
    return {k: v for k, v in without_seconds(row).items() if k != "objective"}


def largest_difference(ours, theirs):
    return max(np.abs(a - b).max() for a, b in zip(ours, theirs, strict=True))


# The tests


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two workers that ran to the end of one phase, which has all that phases have."""
    with Workers(tmp_path_factory.mktemp("whole") / "run", "mixed") as workers:
        workers.ended()
        yield workers


def check_as_one(workers, folder, phases):
    """Weights and rows are those of a run in this process."""
    model, rows = train(folder, phases)
    expected = [np.asarray(weight) for weight in model.weights]
    for index in range(workers.count):
        off = largest_difference(workers.weights(index), expected)
        print(f"worker {index}: weights off by {off:.1e}")
        assert off < 1e-5
        for ours, theirs in zip(workers.rows(index), rows, strict=True):
            assert ours["objective"] == theirs["objective"]
            expected_row = pytest.approx(numbers(theirs), rel=1e-5, abs=1e-6)
            assert numbers(ours) == expected_row


@pytest.mark.slow
def test_two_workers_train_as_one_process(whole, tmp_path):
    check_as_one(whole, tmp_path / "run", "mixed")


@pytest.mark.slow
@pytest.mark.parametrize(("phases", "count"), [("whole", 2), ("mixed", 3)])
def test_so_do_three_and_those_that_read_whole_batches(phases, count, tmp_path):
    with Workers(tmp_path / "run", phases, count=count) as workers:
        workers.ended()
    check_as_one(workers, tmp_path / "one", phases)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_workers_judge_and_calibrate_as_one_process_each_reading_its_parts(
    count, tmp_path
):
    with Workers(tmp_path / "run", "mixed", count=count) as workers:
        workers.ended()
    found = [workers.judged(index) for index in range(count)]
    model, _ = train(tmp_path / "one", "mixed")
    expected = judged(model)
    assert sum(each["read"] for each in found).tolist() == [NUM_IMAGES] * 3
    np.testing.assert_array_equal(expected.pop("read"), NUM_IMAGES)
    for index, each in enumerate(found):
        read = each.pop("read")
        print(f"worker {index} of {count}: {read} of {NUM_IMAGES} images")
        assert np.all(read < NUM_IMAGES / count + 4)  # batches: four, rounded up
        assert each.keys() == expected.keys()
        for name, value in each.items():
            np.testing.assert_allclose(
                value, expected[name], rtol=1e-4, atol=1e-4, err_msg=name
            )


@pytest.mark.slow
def test_killed_and_asked_to_end_and_resumed_they_train_as_if_never(tmp_path):
    """Killed within the 2nd epoch; of the 3rd, asked before its 2nd step.

    In two phases: that workers are as one process is quickly tested in one.
    """
    with Workers(tmp_path / "whole", "phases") as whole:
        whole.ended()
    check_as_one(whole, tmp_path / "one", "phases")
    folder = tmp_path / "run"
    with Workers(folder, "phases", "wait", 7) as workers:
        workers.kill()
    assert place_in(folder) == (1, 3)
    with Workers(folder, "phases", "term", 2) as workers:
        logs = workers.ended(128 + signal.SIGTERM)
    assert place_in(folder) == (2, 2)
    said = "Stopped by SIGTERM and saved after epoch 2, step 2."
    assert [said in log for log in logs] == [True, False]
    with Workers(folder, "phases") as workers:
        workers.ended()
    for index in range(2):
        ours, theirs = workers.weights(index), whole.weights(index)
        print(f"worker {index}: {largest_difference(ours, theirs):.1e}")
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)
        for one, other in zip(workers.rows(index), whole.rows(index), strict=True):
            assert numbers(one) == pytest.approx(numbers(other), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("lost", "left"), [(1, 2), (0, 3)])
def test_when_one_is_lost_the_others_end_and_those_left_go_on(lost, left, tmp_path):
    """The second of three, and then two go on; the chief, and then all three."""
    folder = tmp_path / "run"
    with Workers(folder, "phases", f"lost {lost}", 7, count=3) as workers:
        workers.processes[lost].wait(timeout=200)
        begin = time.monotonic()
        logs = workers.ended(1, lost=lost)
    assert time.monotonic() - begin < 60.0
    for log in logs[:lost] + logs[lost + 1 :]:
        assert "WorkerLost: Expected all 3 workers to go on." in log
        assert f"{folder} holds the state after epoch 1, step 3." in log
    assert place_in(folder) == (1, 3)
    with Workers(folder, "phases", count=left) as workers:
        workers.ended()
    check_as_one(workers, tmp_path / "one", "phases")


def place_in(folder):
    with np.load(folder / "state.npz") as state:
        place = json.loads(str(state["place"]))
    return place["epoch"], place["step"]


@pytest.mark.slow
def test_workers_that_do_not_share_their_folder_are_refused(whole, tmp_path):
    folders = [whole.folder, tmp_path / "run"]
    with Workers(tmp_path / "run", "mixed", folders=folders) as workers:
        logs = workers.ended(1)
    for log in logs:
        assert "must be one folder that all workers share" in log
    assert not (tmp_path / "run").exists()


if __name__ == "__main__":
    worker(pathlib.Path(sys.argv[1]), *sys.argv[2:])
