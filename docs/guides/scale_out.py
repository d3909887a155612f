# %% [markdown]
# # Many devices and machines
#
# Training and sampling run under `tf.distribute` strategies, and give the numbers of a
# single device. This guide uses two logical CPU devices in place of two GPUs; nothing
# else would change.

# %%
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2
)

import keras_tilt as kt
import keras
import numpy as np

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
print("replicas:", strategy.num_replicas_in_sync)

# %% [markdown]
# ## Train
#
# Create model and optimizer within `strategy.scope()`, as always. The softmax of the
# generative gradient runs over the *global* batch: three numbers per class are gathered
# across replicas, never the logits. So the loss of a batch does not depend on how many
# devices share it.

# %%
train, test = kt.data.embedded_mnist()


def trained():
    keras.utils.set_random_seed(0)
    batches = kt.data.pipeline(*train, batch_size=64, shuffle_seed=0, scale=1)
    model = kt.GenerativeClassifier(kt.lenet(scale=1 / 256))
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), objective="generative")
    losses = model.fit(batches, epochs=1, shuffle=False, verbose=0).history
    return model, losses["generative_loss"][0]


with strategy.scope():
    model, on_two = trained()
_, on_one = trained()
print(f"generative loss on two devices {on_two:.5f}, on one {on_one:.5f}")

# %% [markdown]
# Every pass over a pipeline has an order of its own, so each training makes its own
# pipeline. The two losses agree to rounding, which grows from step to step.
#
# ## Sample
#
# Within the scope the chains are split over the replicas. Every chain has its own random
# numbers, so it does not matter where it runs.

# %%
three = kt.unit(model, class_index=3)
tilt = kt.Tilt(three, kt.box(three.input_shape, low=0.0, high=255.0), scale=2.0)
settings = dict(seed=7, max_leapfrog_steps=5, progress=False)
with strategy.scope():
    split = kt.sample(tilt, 8, 20, 20, **settings)
alone = kt.sample(tilt, 8, 20, 20, **settings)
print("largest difference of f:", np.abs(split.f - alone.f).max())

# %% [markdown]
# ## Stop and resume
#
# A run with a `directory` saves its chains at least every half minute. Kill the process,
# repeat the call, and it goes on; the draws are those of the uninterrupted run, bit for
# bit on one machine. A larger `num_results` lengthens a finished run.

# %%
short = kt.sample(tilt, 8, 20, 20, directory="runs/three", **settings)
longer = kt.sample(tilt, 8, 60, 20, directory="runs/three", **settings)
print("the first draws are the same:", np.array_equal(short.f, longer.f[:20]))
print(longer.diagnostics)

# %% [markdown]
# `kt.log_partition` takes a `directory`, too, and `kt.train` always has one: see
# [pre-train](pretrain.md).
#
# ## Memory
#
# `thin=10` keeps the state of every tenth draw, and numbers of all. `callback=` hands
# every draw to your function and keeps none. With a `directory` states are on disk.
#
# ## Several machines
#
# `keras-tilt train` uses all GPUs of a machine, and several machines where `TF_CONFIG`
# names them. Start the same command on each machine, with its own index. Here are two
# workers on one machine, on made-up images:

# %% [bash]
# worker() {
#   TF_CONFIG='{"cluster": {"worker": ["localhost:29951", "localhost:29952"]},
#     "task": {"type": "worker", "index": '$1'}}' \
#   keras-tilt train --dataset synthetic --smoke --out runs/workers \
#     > worker$1.txt 2> worker$1.log
# }
# worker 1 &
# worker 0
# wait
# tail -n 8 worker0.txt

# %% [markdown]
# Folders of runs must be on a file system that all machines share. If one machine is
# told to stop (SIGTERM), all end the step and save; the same commands go on from there.
#
# ## What Keras and TensorFlow refuse
#
# Under several replicas `steps_per_execution` above 1, `jit_compile=True` and gradient
# accumulation fail in Keras itself; `compile` says so before training starts. Use
# `keras.layers.BatchNormalization(synchronized=True)` for statistics of the global
# batch.
