# %% [markdown]
# # Start
#
# ## Install
#
# Python 3.11 or later. From a checkout of the repository:
#
# ```sh
# pip install .              # the library
# pip install '.[serving]'   # and what exporting a sampler needs
# ```
#
# or `make venv && . .venv/bin/activate`, an environment in `.venv` with all of it.
# `make demo` trains on the embedded digits, learns their law, draws all ten and serves
# two, in minutes on two cores.
#
# ## The equation
#
# Take any unit f of a trained network: a class logit, or a channel of an inner layer.
# Take a distribution q over images that you can draw from. Then
#
#     p(x) = exp(f(x)) q(x) / Z
#
# is a density over images: q, tilted towards what the unit responds to. The package
# consists of what follows from this line:
#
# | symbol | what it is | in the package |
# |---|---|---|
# | f | a unit of a network | `kt.unit` |
# | q | the reference: what images are like before the unit has its say | `kt.white_noise`, `kt.box`, `kt.spectral_noise`, `kt.squash`, `kt.latent` |
# | p | the tilted density | `kt.Tilt`, drawn by `kt.sample` |
# | Z | its normalizer, the partition function | `kt.log_partition` |
#
# And if q is the images themselves, p is a classifier's model of each class, and its
# likelihood can be trained: `kt.GenerativeClassifier`.
#
# ## First pictures in five minutes
#
# Train a small network on the 5,000 digits that come with the package.

# %%
import keras_tilt as kt
import keras
import numpy as np

(images, labels), test = kt.data.embedded_mnist()
keras.utils.set_random_seed(0)
model = kt.GenerativeClassifier(kt.lenet(scale=1 / 256))  # pixels in [0, 255]
model.compile("adam", objective="generative", metrics=["accuracy"])
batches = kt.data.pipeline(images, labels, batch_size=64, shuffle_seed=0, scale=1)
history = model.fit(batches, epochs=4, shuffle=False, verbose=0)
print("accuracy after each epoch:", np.round(history.history["accuracy"], 3))

# %% [markdown]
# Choose a unit and a reference. This one is learned from the same digits, in about a
# minute: it knows what digits look like, and nothing of classes. How near its law is to
# theirs is measured on digits that it has not seen:
# `keras-tilt reference digits` says it in words.

# %%
generator = kt.fit_latent(images, held_out=test, progress=False)
print({name: round(value, 2) for name, value in generator.law.items()})

# %% eight draws of the reference in the first row, then of its tilts by 0, 3, 4 and 8
reference = kt.latent(generator)
tilts = [kt.Tilt(kt.unit(model, class_index=k), reference) for k in (0, 3, 4, 8)]
runs = kt.sample(
    tilts,
    num_chains=16,
    num_results=300,
    num_burnin_steps=40,
    seed=7,
    progress=False,
)
untilted = reference.sample(8, seed=[0, 7])
kt.plotting.image_grid(
    np.concatenate([untilted, *(run.images[-1][:8] for run in runs)]),
    columns=8,
    low=0,
    high=255,
)

# %% [markdown]
# The first row shows the reference. Below it is its tilt by the classes 0, 3, 4 and 8; each
# column is a chain. The same unit under other references shows
# other things: see [how to choose a reference](references.md).
#
# Every run comes with a verdict. Do not show pictures without reading it.

# %%
for tilt, run in zip(tilts, runs, strict=True):
    print(f"{tilt.unit.name}: {run.diagnostics}")

# %% [markdown]
# [How to read a verdict](verdicts.md) says what these numbers mean and what to do when
# the verdict is no.
#
# ## Words
#
# | word | what it means here |
# |---|---|
# | nat | a unit of log density: one nat is a factor of e = 2.718 |
# | tilt | exp(f) times q; its `scale` multiplies f |
# | noise, z | what the reference turns into an image x = T(z); chains move in z |
# | chain | a run from a start of its own; its states after the warm-up are its draws |
# | warm-up, burn-in | iterations in which f rises and the step size is learned; no draws |
# | step size, leapfrog step | how far a proposal moves at a time; one gradient each |
# | ladder | chains at several scales that swap states, so that they leave a mode |
# | verdict | converged, or the reasons why not; [what is checked](verdicts.md#what-is-checked) |
# | calibration | the constant of each class, which the generative gradient leaves free |
# | certified | of a unit that is served: its chains were found to reach the density |
#
# ## From the command line
#
# `pip install` brings a command. `keras-tilt COMMAND --help` lists its flags, and the
# scripts of a checkout do the same.
#
# | command | script | what it does |
# |---|---|---|
# | `keras-tilt train` | `train/imagenet.py` | train a classifier, generatively, discriminatively, or both |
# | `keras-tilt reference` | `train/reference.py` | learn a reference q from images |
# | `keras-tilt see` | `train/visualize.py` | draw any units of any `.keras` file |
# | `keras-tilt segment` | `train/segmentation.py` | train a segmenter of objects and stuff |
# | `keras-tilt export sampler`, `classifier`, `segmenter` | `export/*.py` | write a SavedModel for TensorFlow Serving |
# | `keras-tilt ask` | `export/ask.py` | ask an exported sampler for images, without a server |
# | `keras-tilt mnist`, `digits` | `train/mnist.py`, `train/digits.py` | the paper's experiments on digits |
# | `keras-tilt demo` | | `make demo`: all of it on the embedded digits, on one page |
#
# ## Where to go on
#
# <div class="grid cards" markdown>
#
# - [**Pre-train a classifier**](guides/pretrain.md)<br>The generative gradient in
#   `model.fit`, and runs that survive being killed.
# - [**Draw a class and an inner unit**](guides/look.md)<br>Samples of any unit of any
#   Keras network.
# - [**Compare by log Z**](guides/compare.md)<br>Two units, two networks, in nats.
# - [**Serve and query a sampler**](guides/serve.md)<br>A certified SavedModel for
#   TensorFlow Serving.
# - [**Segment with masks of your own**](guides/segment.md)<br>Convolutional feature
#   masking, and a label for every pixel.
# - [**Many devices and machines**](guides/scale_out.md)<br>The same numbers on two devices
#   as on one.
#
# </div>
