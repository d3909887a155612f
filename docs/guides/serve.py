# %% [markdown]
# # Serve and query a sampler
#
# A sampler can be exported as a SavedModel of TensorFlow's own operations. TensorFlow
# Serving runs it without Python, and without this package. A request names a unit, a
# seed and a temperature. Equal seeds give equal images, whatever else is in the request.
#
# First, a trained network in a file, and a reference learned from the same digits:

# %%
import keras_tilt as kt
import keras

train, test = kt.data.embedded_mnist()
keras.utils.set_random_seed(0)
model = kt.GenerativeClassifier(kt.lenet(scale=1 / 256))
batches = kt.data.pipeline(*train, batch_size=64, shuffle_seed=0, scale=1)
model.compile("adam", objective="generative")
model.fit(batches, epochs=4, shuffle=False, verbose=0)
model.calibrate(batches)
model.compile("adam", objective="discriminative")
model.fit(batches, epochs=2, shuffle=False, verbose=0)
model.save("digits.keras")

# %% [bash]
# keras-tilt reference digits --out q.keras

# %% [markdown]
# ## Export
#
# The export measures before it writes. Long chains of every unit must converge; a
# served chain must be ten autocorrelation times long; and the ends of served chains must
# agree with the long ones. If a unit fails, nothing is written, unless you pass
# `--force`; the certificate and `converged` in every answer then say so.

# %% [bash]
# keras-tilt export sampler digits.keras --unit class:3 --unit class:8 \
#     --reference latent:q.keras --draws 300 --burnin 40 --ends 16 --out served/digits

# %% [markdown]
# The folder is ready for `tensorflow_model_server`. Its `README.md` has the exact lines
# for docker, curl and a Python client.

# %% [bash]
# ls served/digits served/digits/1
# head -n 20 served/digits/README.md

# %% [markdown]
# ## Ask
#
# `keras-tilt ask` asks a servable without a server, with TensorFlow alone. Its first line
# says that the SavedModel repeats, bit for bit, an answer stored at the export.

# %% [bash]
# keras-tilt ask served/digits --unit class:3 class:8 --images 4 --seed 7 --out answer.png

# %% four served images of each of the two units
from matplotlib.image import imread
from matplotlib.figure import Figure

figure = Figure(figsize=(6, 3.2), layout="constrained")
axes = figure.add_subplot()
axes.imshow(imread("answer.png"), cmap="gray")
axes.set_axis_off()
figure

# %% [markdown]
# The generator is in the SavedModel, with the network: a request runs both. Other
# references are `spectral`, for networks of photographs, and `box`, uniform noise, which
# needs no images to learn from.
#
# ## The same from Python
#
# `sample` takes one row per image. Each row draws its own random numbers, so that row 0
# alone gives, bit for bit, what row 0 gives in a batch.

# %%
import numpy as np
import tensorflow as tf

sample = tf.saved_model.load("served/digits/1").signatures["serving_default"]
requests = sample.structured_input_signature[1]
print({name: requests[name].shape for name in sorted(requests)})
rows = {
    "unit": tf.constant([0, 1]),
    "seed": tf.constant([[7, 0], [7, 1]]),
    "temperature": tf.constant([1.0, 1.0]),
}
both = sample(**rows)
alone = sample(**{name: value[:1] for name, value in rows.items()})
print({name: tuple(both[name].shape) for name in sorted(both)})
print("equal bits:", np.array_equal(both["image"][0], alone["image"][0]))

# %% [markdown]
# A request has at most 64 rows. An invalid unit or temperature returns INVALID_ARGUMENT
# with a message; `sample_each` gives such a row an `error` of its own instead.
#
# | signature | what it returns |
# |---|---|
# | `serving_default` | images, f, whether the unit is certified |
# | `sample_png` | the same as PNG files |
# | `sample_each` | the same, with an `error` for each row |
# | `start`, `resume` | the state of a chain, and a chain that goes on from it |
# | `evaluate` | f and the unnormalized log densities of images |
#
# ## A classifier
#
# A classifier is exported with logits, calibrated probabilities, and log p(x) up to a
# constant, of pixels or of JPEG and PNG files.

# %% [bash]
# keras-tilt export classifier digits.keras --out served/classifier
# ls served/classifier/1

# %% [markdown]
# What rows that do not depend on each other cost, and how fast the answers are:
# [results](../results.md#serving).
