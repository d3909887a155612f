# %% [markdown]
# # Pre-train a classifier
#
# A softmax classifier is trained by comparing the classes of one image. The
# *generative gradient* compares the images of one class instead. It runs the same
# softmax over the batch:
#
# | | softmax over | trains |
# |---|---|---|
# | discriminative | the classes of an image | p(class given image) |
# | generative | the images of the batch | p(image given class) = exp(f) q / Z |
#
# Both cost the same. With part of the epochs generative (16 of 25 on MNIST, 4 of 12 on
# photographs of a hundred classes) and the rest as usual, the test error was lower than
# with all of them as usual ([results](../results.md#mnist-the-three-training-schemes)).
# Part of that is the schedule: a rate that stays, and falls in the last third alone, helps
# discriminative training, too (`keras-tilt train --schedule cooldown`). Of the switches that
# were tried, the one after two thirds of the epochs was best
# ([results](../results.md#photographs-of-a-hundred-classes)).
#
# **Who should use it.**
#
# * *Networks without batch normalization* (group or layer normalization, or none): use
#   [`center_logits`](#center-the-logits) first, with such a schedule. That is one layer, and
#   on photographs it has most of the gain or all of it: on CIFAR-10 22.6 % of errors became
#   19.8 ([results](../results.md#the-same-network-on-cifar-10)). Generative epochs before the
#   others are worth a try on top.
# * *Whoever wants densities*: to draw images of a class, to compare by log Z, to tell
#   images of other kinds. Discriminative training makes boundaries instead.
#
# **Who should not.** *Networks with batch normalization*: its backward pass has already
# done what helps the others
# ([why](../results.md#why-it-helps-the-common-part-of-a-batch)).
#
# This guide shows the calls on the 5,000 digits that come with the package; it does not
# measure the gain.

# %%
import keras
import keras_tilt as kt
import numpy as np
import tensorflow as tf

(x_train, y_train), (x_test, y_test) = kt.data.embedded_mnist()
batches = kt.data.pipeline(x_train, y_train, batch_size=64, shuffle_seed=0, scale=1)
held_out = kt.data.pipeline(x_test, y_test, batch_size=500, scale=1)
print(x_train.shape, x_test.shape)

# %% [markdown]
# `pipeline` returns a `tf.data.Dataset`. Any other dataset of `(images, labels)` will
# do, and so will arrays.
#
# ## Train generatively
#
# Wrap any network that ends in logits. A network that ends in a softmax is refused with
# a message that says what to remove.

# %%
keras.utils.set_random_seed(0)
network = kt.lenet(scale=1 / 256)  # takes pixels in [0, 255]
model = kt.GenerativeClassifier(network)
model.compile("adam", objective="generative", metrics=["accuracy"])
history = model.fit(
    batches, validation_data=held_out, epochs=4, shuffle=False, verbose=0
)
for epoch in range(4):
    loss = history.history["generative_loss"][epoch]
    accuracy = history.history["val_accuracy"][epoch]
    print(f"epoch {epoch + 1}: loss {loss:.3f} nats, val_accuracy {accuracy:.3f}")

# %% [markdown]
# The log has a few numbers that a Keras user may not know:
#
# * `generative_loss` is the mean of -log p(x given y) / q(x), in nats. It does not
#   depend on the batch size.
# * `accuracy` is that of the *calibrated* model, with a running estimate of the
#   calibration. Callbacks such as early stopping can rely on it.
#   `uncalibrated_accuracy` is the accuracy of the raw logits.
# * `kish_ess` is the effective number of images in the softmax of a class, and
#   `absent_classes` the share of classes without an image in the batch. In a
#   trained network `kish_ess` approaches the number of images of a class in the batch,
#   here 6. Near 1, a few images dominate the gradient: go on to the discriminative
#   training, or use a queue or a larger batch.

# %%
print(*history.history, sep="\n")

# %% [markdown]
# ## Calibrate
#
# The generative gradient never moves a constant that is added to a class. Bayes' rule
# provides it: b_y = log prior(y) - log Z_y. One pass over the training images estimates
# every log Z_y.

# %%
calibration = model.calibrate(
    kt.data.pipeline(x_train, y_train, batch_size=500, scale=1)
)
print("log Z  ", calibration.log_partition.round(1))
print("bias   ", calibration.bias.round(2))

# %% [markdown]
# Do not skip this step: on CIFAR-10 it lowers the test error from 37 to 25 %. And do not
# apply it after discriminative training, which has found its own constants.
#
# ## Refine discriminatively
#
# Compile the same model again. Weights and calibration stay.

# %%
model.compile("adam", objective="discriminative", metrics=["accuracy"])
history = model.fit(
    batches, validation_data=held_out, epochs=2, shuffle=False, verbose=0
)
print("val_accuracy after each epoch:", history.history["val_accuracy"])
model.save("digits.keras")

# %% [markdown]
# The saved file loads with `keras.models.load_model` wherever `keras_tilt` has been
# imported. `model.network` is the plain Keras network.
#
# ## Center the logits
#
# The generative gradient sums to zero over the images of a batch, for each class. The
# discriminative gradient does not: its mean over the batch follows the class counts,
# mostly noise, and it is multiplied by what the features of all images have in common,
# which after ReLUs is much. A network without batch normalization has that taken away
# by one more layer, which subtracts the mean over the batch from the logits and adds a
# bias per class:

# %%
steps = len(batches)  # of an epoch: the rate stays for two, and falls in the third
for change in (lambda network: network, kt.center_logits):
    model = kt.GenerativeClassifier(change(kt.lenet(scale=1 / 256)))
    rate = keras.optimizers.schedules.CosineDecay(
        1e-3, steps, warmup_target=1e-3, warmup_steps=2 * steps
    )
    model.compile(keras.optimizers.Adam(rate), "discriminative", metrics=["accuracy"])
    history = model.fit(
        batches, validation_data=held_out, epochs=3, shuffle=False, verbose=0
    )
    print([round(value, 3) for value in history.history["val_accuracy"]])

# %% [markdown]
# First without, then with it. On digits it makes no difference in the end. On CIFAR-10
# the test error was 2.8 points lower with this schedule, and 4.9 with one that falls all
# along (five seeds each; [results](../results.md#the-same-network-on-cifar-10)). In
# use a moving mean is subtracted, which lags behind for as long as the learning rate is
# large: end with a schedule that lowers the rate, or set the mean of all images, in one
# pass:

# %%
model.compile("adam", "discriminative", metrics=["accuracy"])  # its rate is constant
model.fit(batches, epochs=1, shuffle=False, verbose=0)
before = model.evaluate(held_out, verbose=0, return_dict=True)
change = kt.recenter(model, x_train)
after = model.evaluate(held_out, verbose=0, return_dict=True)
for name in ("loss", "accuracy"):
    print(f"{name:9} {before[name]:.3f} {after[name]:.3f}")
print("nats:", change.round(1))

# %% [markdown]
# The loss falls; the accuracy of a thousand digits may go either way. The densities of
# the classes are those of the network. `keras-tilt train
# --center-logits` adds the layer, and `kt.batches.by_classes`, or `--classes-per-batch`,
# makes the class counts equal instead.
#
# ## Tell images of another kind
#
# The outputs of a generatively trained classifier are log densities, but these were only
# ever compared over the images of a batch: what they are on images of another kind,
# nothing has said. Put others among them. `kt.outliers` draws noise that is fitted to the
# images, and shapes. The label -1 enters them in the normalizers, and nowhere else.

# %%
outliers = kt.outliers(x_train, len(x_train) // 5, seed=0)
both = np.concatenate([x_train, outliers])
labels = np.concatenate([y_train, np.full(len(outliers), -1)])
strangers = {
    "noise": np.random.default_rng(0).uniform(0, 255, x_test.shape),
    "quarters of digits swapped": np.roll(x_test, 14, axis=(1, 2)),
    "two digits at once": np.maximum(x_test, x_test[::-1]),
}


def log_density(model, images):
    dataset = tf.data.Dataset.from_tensor_slices((images, y_test)).batch(500)
    return kt.evaluation.predictions(model, dataset).scores


for images, classes in ((x_train, y_train), (both, labels)):
    keras.utils.set_random_seed(0)
    model = kt.GenerativeClassifier(kt.lenet(scale=1 / 256))
    model.compile("adam", objective=0.5, metrics=["accuracy"])
    shown = kt.data.pipeline(images, classes, batch_size=64, shuffle_seed=0, scale=1)
    model.fit(shown, epochs=4, shuffle=False, verbose=0)
    model.calibrate(x_train, y_train)
    found = model.evaluate(held_out, verbose=0, return_dict=True)
    print(f"of {len(images)} images: val_accuracy {found['accuracy']:.3f}")
    for name, others in strangers.items():
        scores = log_density(model, x_test), log_density(model, others)
        print(f"  {name}: {kt.evaluation.area_under_roc(*scores):.3f}")

# %% [markdown]
# The numbers are areas under the ROC curve: 1 if log p(x) of every digit is above that of
# every stranger, 0.5 by chance, less if strangers seem likelier than digits. What is like
# nothing that was shown, such as two digits at once, is told less surely. On CIFAR-10
# digits are told (.95), and photographs of other classes less surely (.78;
# [results](../results.md#telling-images-of-another-kind)). `keras-tilt train --dataset cifar10
# --objective mix --outliers 10000` makes so many, in memory, and puts them among its images.
#
# ## A run that survives being killed
#
# `kt.train` runs phases of `fit` one after the other and saves everything that the next
# step depends on: weights, momenta, calibration, metrics, random states, and the place
# in the data. Run the same command again and it goes on from there. On a CPU the result
# is that of the uninterrupted run, bit for bit.

# %%
source = kt.sources.arrays(x_train, y_train)  # or .npz, .folder, .tfds_named, .imagenet


def epoch_batches(epoch, step):
    order = kt.batches.uniform_order(len(source.labels), seed=0, epoch=epoch)
    place = {"epoch": epoch, "first_step": step}
    views = {"crop": (28, 28), "pad": 2, "mirror": False}  # a mirrored digit is none
    return kt.batches.training_batches(source, order, 64, seed=0, **place, **views)


def optimizer():
    return kt.CaffeSGD(0.01)


rows = kt.train(
    kt.GenerativeClassifier(kt.lenet(scale=1 / 256)),
    [
        kt.Phase("generative", 2, optimizer, epoch_batches, queue=16),
        kt.Phase("discriminative", 1, optimizer, epoch_batches, calibrate=True),
    ],
    "runs/digits",
    settings={"seed": 0},
    validation=kt.batches.evaluation_batches(
        kt.sources.arrays(x_test, y_test), 500, crop=(28, 28)
    ),
    calibration=epoch_batches(0, 0),
    save_every=50,
    batch_size=64,
)
for row in rows:
    print(row["epoch"], row["objective"], round(row["val_accuracy"], 3))

# %% [markdown]
# Three epochs of plain SGD on shifted digits, to show the mechanics: the accuracy is not
# to be compared with that of Adam above. The folder has `summary.csv`, `tensorboard/`,
# `best.keras` and `last.keras`.
#
# ## What else there is
#
# * **A mix.** `objective=0.5` trains both at once, with the weight 0.5 for the
#   generative part. In its place a schedule of Keras lets the weight follow the steps:
#   `keras.optimizers.schedules.PolynomialDecay(1.0, steps, 0.0)` goes from generative to
#   discriminative training in one `fit`, without a switch; `keras-tilt train --objective
#   annealed` does.
# * **A queue.** `queue=16` in `compile` keeps the logits of the last 16 batches as more
#   draws of q. It costs three numbers per class and batch. `queue_drift` in the log says
#   how stale they are.
# * **Unlabelled images.** A label of -1 marks an image that contributes only to the
#   normalizer.
# * **Labels.** Integers of any type, columns `[n, 1]`, or one-hot rows.
# * **A last batch of one image** has no generative gradient. It is left out, and a
#   warning says so once.
# * **ImageNet**, from the two archives to a refined classifier, is one command:
#   `keras-tilt train --data-dir DIR --network alexnet`. Add `--dry-run` to see
#   what it would do.
# * **Several GPUs or machines**: see [many devices and machines](scale_out.md).
