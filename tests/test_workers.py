"""Two workers, processes with a TF_CONFIG each, train as one process does.

As a script it is one of them: FOLDER, and the step to wait at if there is one.
"""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import keras_tilt as kt  # (first: it sets TensorFlow's environment defaults)
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_tilt import training

BATCH, NUM_IMAGES, SAVE_EVERY = 16, 61, 3
STEPS = -(-NUM_IMAGES // BATCH)  # the last batch has 13 images, 7 and 6
TOTAL = 4 * STEPS
RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 4, NUM_IMAGES).astype(np.int32)
PROTOTYPES = RANDOM.uniform(size=[4, 8, 8, 1])
IMAGES = (
    PROTOTYPES[LABELS] + 0.5 * RANDOM.standard_normal([NUM_IMAGES, 8, 8, 1])
).astype(np.float32)


def batches(epoch, step):
    """What is left of an epoch."""
    order = np.random.default_rng([1, epoch]).permutation(NUM_IMAGES)[step * BATCH :]
    arrays = (IMAGES[order], LABELS[order])
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    dataset = tf.data.Dataset.from_tensor_slices(arrays).batch(BATCH)
    return dataset.with_options(options)


def new_model():
    """Equal weights at every call; nothing at random."""
    images = keras.Input([8, 8, 1])
    kernel = keras.initializers.GlorotUniform
    x = keras.layers.Conv2D(4, 3, kernel_initializer=kernel(1))(images)
    x = keras.layers.BatchNormalization(synchronized=True)(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(4, kernel_initializer=kernel(4))(x)
    return kt.GenerativeClassifier(keras.Model(images, x))


def phases():
    """Two epochs each."""
    return [
        training.Phase("generative", 2, lambda: kt.CaffeSGD(0.01), batches, queue=3),
        training.Phase(
            "discriminative",
            2,
            lambda: keras.optimizers.Adam(0.002),
            batches,
            calibrate=True,
        ),
    ]


def train(folder, strategy=None, callbacks=()):
    """Model and rows of the run in a folder."""
    with (strategy or tf.distribute.get_strategy()).scope():
        model = new_model()
    rows = training.train(
        model,
        phases(),
        folder,
        settings={"seed": 0},
        validation=batches(0, 0),
        calibration=batches(0, 0),
        save_every=SAVE_EVERY,
        batch_size=BATCH,
        callbacks=callbacks,
        progress=strategy is not None,
    )
    return model, rows


class WaitAt(keras.callbacks.Callback):
    """Says at which step it stands, and waits at one of them until it is killed."""

    def __init__(self, file, last):
        super().__init__()
        self.file, self.last, self.step = file, last, 0

    def on_train_batch_begin(self, batch, logs=None):
        """Before every step."""
        self.file.write_text(str(self.step))
        while self.step == self.last:
            time.sleep(0.1)
        self.step += 1


# The workers


def worker(folder, last=None):
    """One of them: writes what it has at the end beside the run."""
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    own = folder.with_name(f"{folder.name}-{strategy.cluster_resolver.task_id}")
    wait = WaitAt(own.with_suffix(".step"), last)
    model, rows = train(folder, strategy, [wait])
    own.with_suffix(".json").write_text(json.dumps(rows))
    np.savez(own.with_suffix(".npz"), *map(tf.convert_to_tensor, model.weights))


class Workers:
    """Two processes of one run."""

    def __init__(self, folder, *arguments):
        self.folder = folder
        here = pathlib.Path(__file__)
        path = os.pathsep.join([str(here.parent.parent), *sys.path])
        cluster = {"worker": [f"localhost:{port}" for port in free_ports(2)]}
        self.processes = []
        for index in range(2):
            config = {"cluster": cluster, "task": {"type": "worker", "index": index}}
            environment = {"PYTHONPATH": path, "TF_CONFIG": json.dumps(config)}
            with open(self.file(index, ".log"), "wb") as log:
                process = subprocess.Popen(
                    [sys.executable, here, folder, *map(str, arguments)],
                    env=os.environ | environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            self.processes.append(process)

    def file(self, index, suffix):
        """What a worker writes for itself."""
        return self.folder.with_name(f"{self.folder.name}-{index}{suffix}")

    def wait_for(self, step):
        """Until both stand at a step."""
        while self.steps() != [step, step]:
            assert all(process.poll() is None for process in self.processes)
            time.sleep(0.1)

    def steps(self):
        files = [self.file(index, ".step") for index in range(2)]
        return [int(f.read_text() or -1) if f.exists() else -1 for f in files]

    def ended(self, code=0):
        """Logs, once both have ended as they should."""
        codes = [process.wait(timeout=200) for process in self.processes]
        logs = [self.file(index, ".log").read_text() for index in range(2)]
        assert codes == [code, code], "\n\n".join(logs)
        return logs

    def weights(self, index):
        with np.load(self.file(index, ".npz")) as arrays:
            return list(arrays.values())

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


def largest_difference(ours, theirs):
    return max(np.abs(a - b).max() for a, b in zip(ours, theirs, strict=True))


# The tests


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two workers that ran to the end, and their logs."""
    with Workers(tmp_path_factory.mktemp("whole") / "run") as workers:
        yield workers, workers.ended()


def test_two_workers_train_as_one_process(whole, tmp_path):
    workers, _ = whole
    model, rows = train(tmp_path / "run")
    expected = [np.asarray(weight) for weight in model.weights]
    for index in range(2):
        off = largest_difference(workers.weights(index), expected)
        print(f"worker {index}: weights off by {off:.1e}")
        assert off < 1e-5
        for ours, theirs in zip(workers.rows(index), rows, strict=True):
            assert ours == pytest.approx(without_seconds(theirs), rel=1e-5, abs=1e-6)


if __name__ == "__main__":
    worker(pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:]))
