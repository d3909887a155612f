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
# Folders of runs must be on a file system that all machines share.
#
# **What a machine reads.** Each worker reads and decodes the images of its own replicas
# and no others: of two workers half of every batch. Order, crops and mirror images are
# functions of seed, epoch, step and place in the batch, so that the weights are those of
# one process to rounding. Validation, calibration and the errors at the end are read in the
# same way. In Python, functions of a context do it: `batches` of a phase that says
# `reads_parts`, `validation` and `calibration` of `kt.train`, and what `model.calibrate` and
# `kt.evaluation.predictions` read:

# %%
from keras_tilt import batches, sources

source = sources.arrays(*train)


def epoch_batches(epoch, step, context=None):
    """The rest of an epoch, or the parts of a worker."""
    order = batches.uniform_order(len(source.labels), seed=0, epoch=epoch)
    place = dict(seed=0, epoch=epoch, first_step=step, context=context)
    return batches.training_batches(source, order, 64, crop=(28, 28), **place)


phase = kt.Phase("generative", 1, keras.optimizers.SGD, epoch_batches, reads_parts=True)
second_of_four = tf.distribute.InputContext(4, 1, 4)
images, labels = next(iter(phase.batches(0, 0, second_of_four)))
print(len(labels), "images of a batch of 64")

# %% [markdown]
# **When one is stopped** (SIGTERM), all end the same step and save. **When one is lost**,
# killed or cut off, the others end within a minute and say so. Either way start the same
# command again, on all machines or on those that are left: it goes on from the last save,
# at most `--save-every` steps back.
#
# **Where to start them.** In `docs/launchers` are files to begin with:
#
# | file | for |
# |---|---|
# | `worker.sh` | any launcher: writes `TF_CONFIG` from a list of hosts and an index, and runs a command |
# | `slurm.sh` | Slurm, a worker on each node; queued again when the time is up or a node fails |
# | `slurm_array.sh` | Slurm, a sweep of seeds, each a run of its own |
# | `kubernetes.yaml` | Kubernetes, an indexed Job |
# | `ray_workers.py` | Ray; all workers start again when one is lost |
#
# Vertex AI and others that set `TF_CONFIG` themselves need none. They were tried as far
# as one machine goes: two workers by `worker.sh` and by Ray, Slurm's commands stood in
# for. No cluster has run them.
#
# ## Eight and sixty-four GPUs: the arithmetic
#
# None was at hand. A step of AlexNet exchanges its gradient, 4 bytes for each of
# 60,965,224 parameters, and 12,012 bytes for the generative objective, measured, whatever
# the batch ([cost of a step](../results.md#cost-of-a-training-step)). A ring
# of N replicas sends 2 (N - 1) / N of the gradient:
#
# | | 8 GPUs of one machine | 64 GPUs, 8 machines |
# |---|---|---|
# | gradient that a GPU sends in a step | 427 MB | 480 MB |
# | by the slowest link of the ring | 2.8 ms at 150 GB/s between GPUs | 38 ms at 12.5 GB/s (100 Gb/s) between machines |
# | for the objective, received of all | 96 kB | 769 kB |
# | read by a machine at 1,000 images/s a GPU | 8,000 files/s, 880 MB/s at 110 kB each | the same, of 8 times as many |
# | cores to decode and crop them, at 4,497 images/s of two (measured) | 3.6 | 3.6 a machine |
#
# So what is to be watched is the gradient between machines, as with any objective, and
# reading, which no longer grows with the number of machines.
#
# ## Grain
#
# A phase takes a `grain.MapDataset` of batches, too: it is read from any step on, and the
# run resumes bit for bit. Our own batches cost less of a core for an image
# ([measured](../results.md#reading)), leave out images that cannot be read, and are those
# that workers share.
#
# ## What Keras and TensorFlow refuse
#
# Under several replicas `steps_per_execution` above 1, `jit_compile=True` and gradient
# accumulation fail in Keras itself; `compile` says so before training starts. Use
# `keras.layers.BatchNormalization(synchronized=True)` for statistics of the global
# batch.
