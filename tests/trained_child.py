"""A small training of two phases; as a script, in a process of its own: FOLDER.

Everything that has a state is in it: dropout, batch norm, momenta, Adam, the queue, the
calibration, an order and noise that are those of the epoch and the step.
"""

import sys

import keras
import numpy as np
import tensorflow as tf

import keras_tilt as kt
from keras_tilt import training

BATCH, STEPS, SAVE_EVERY = 20, 8, 4
NUM_IMAGES = BATCH * STEPS
RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 4, NUM_IMAGES).astype(np.int32)
PROTOTYPES = RANDOM.uniform(size=[4, 8, 8, 1])
IMAGES = (
    PROTOTYPES[LABELS] + 0.5 * RANDOM.standard_normal([NUM_IMAGES, 8, 8, 1])
).astype(np.float32)


def batches(epoch, step, size=BATCH, count=NUM_IMAGES):
    """What is left of an epoch; of several workers each takes its share of a batch."""
    order = np.random.default_rng([1, epoch]).permutation(count)[step * size :]
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    dataset = tf.data.Dataset.from_tensor_slices((IMAGES[order], LABELS[order]))
    return dataset.batch(size).with_options(options)


def new_model(channels=4, synchronized=False):
    """Equal weights at every call."""
    images = keras.Input([8, 8, 1])
    kernel = keras.initializers.GlorotUniform
    x = keras.layers.Conv2D(channels, 3, kernel_initializer=kernel(1))(images)
    x = keras.layers.BatchNormalization(synchronized=synchronized)(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dropout(0.5, seed=3)(x)
    x = keras.layers.Dense(4, kernel_initializer=kernel(4))(x)
    return kt.GenerativeClassifier(keras.Model(images, x))


def phases(batches=batches):
    """Two epochs each."""
    return [
        training.Phase("generative", 2, lambda: kt.CaffeSGD(0.01), batches, queue=4),
        training.Phase(
            "discriminative",
            2,
            lambda: keras.optimizers.Adam(0.002),
            batches,
            calibrate=True,
        ),
    ]


def mixed(batches=batches):
    """One phase, of one epoch, that has all of this at once."""
    return [
        training.Phase(
            0.3,
            1,
            lambda: keras.optimizers.Adam(0.002),
            batches,
            calibrate=True,
            queue=4,
        )
    ]


def train(folder, callbacks=(), channels=4, strategy=None, **options):
    """Model and rows of the run in a folder."""
    with (strategy or tf.distribute.get_strategy()).scope():
        model = new_model(channels, synchronized=strategy is not None)
    rows = run(
        model,
        folder,
        batches,
        callbacks=callbacks,
        save_every=SAVE_EVERY,
        batch_size=BATCH,
        **options,
    )
    return model, rows


def run(
    model, folder, batches, phases=phases, settings=None, progress=False, **options
):
    """Rows of a training of a model on some batches."""
    return training.train(
        model,
        phases(batches),
        folder,
        settings=settings or {"seed": 0},
        validation=batches(0, 0),
        calibration=batches(0, 0),
        progress=progress,
        **options,
    )


if __name__ == "__main__":
    SAVE_EVERY = 1  # most of the time is spent in saving
    train(sys.argv[1])
