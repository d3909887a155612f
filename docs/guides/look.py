# %% [markdown]
# # Draw a class and an inner unit
#
# What does a unit of a network respond to? Activation maximization answers with one
# image, pushed as far as the optimizer goes. A density answers with a distribution:
#
#     p(x) = exp(scale f(x)) q(x) / Z
#
# f is the unit, q says what an image looks like before the unit has its say. Draws of p
# have a stated strength, a spread, and a test that says whether to believe them.
#
# First, a network: LeNet, a few epochs on the 5,000 digits of the package. Any other
# Keras network will do, trained by anyone.

# %%
import keras_tilt as kt
import keras
import numpy as np

train, test = kt.data.embedded_mnist()
keras.utils.set_random_seed(0)
model = kt.GenerativeClassifier(kt.lenet(scale=1 / 256))  # pixels in [0, 255]
model.compile("adam", objective="generative")
batches = kt.data.pipeline(*train, batch_size=64, shuffle_seed=0, scale=1)
model.fit(batches, epochs=4, shuffle=False, verbose=0)
model.save("digits.keras")

# %% [markdown]
# ## A class
#
# `kt.unit` reads a class before the softmax. The reference is noise with the spectrum of
# the digits themselves, squashed into the range of the pixels.

# %% eight draws of the class 3 in the upper row, the mean of each chain in the lower row
three = kt.unit(model, class_index=3)
noise = kt.spectral_noise(three.input_shape, spectrum=kt.fit_spectrum(train[0]))
reference = kt.squash(noise, low=0.0, high=255.0)
tilt = kt.Tilt(three, reference, scale=6.0)
samples = kt.sample(
    tilt,
    num_chains=8,
    num_results=100,
    num_burnin_steps=60,
    max_leapfrog_steps=10,
    seed=7,
    progress=False,
)
print(samples.diagnostics)
draws, means = samples.images[-1], samples.mean_images
kt.plotting.image_grid(np.concatenate([draws, means]), columns=8, low=0, high=255)

# %% [markdown]
# Single draws are noisy, as the density says they are. The means over the draws agree
# from chain to chain: dark left of the middle, bright right of it. That is what this
# logit measures, and no more. Not even the network calls all of these images a 3: the
# density asks for a high logit of the class, not for one above those of other classes.
# `posterior_weight` adds the log posterior, which does.

# %%
both = kt.Tilt(
    kt.unit(model, class_index=3, posterior_weight=2.0), reference, scale=6.0
)
with_posterior = kt.sample(
    both, 8, 100, 60, max_leapfrog_steps=10, seed=7, progress=False
)
for name, run in {"logit": samples, "logit and posterior": with_posterior}.items():
    outputs = np.asarray(model.network(run.images[-1]))
    print(f"{name:<20} called", outputs.argmax(axis=1))

# %% [markdown]
# The last words of the diagnostics are the verdict. 100 draws of a chain are few, and
# the verdict says so. With a `directory` the same call with a larger `num_results` goes
# on where the run ended: see [how to read a verdict](../verdicts.md).
#
# ## A better reference
#
# The reference decides what one sees. Give it more knowledge of digits and the same unit
# draws digits. `kt.fit_latent` learns a generator of images like those it is given, here
# the digits that the network was trained on: q is then the q of the generative
# gradient, and p the very model that was trained. `kt.latent` takes any other generator.

# %% eight draws each of the classes 0, 3 and 8 under a learned reference
digits = kt.latent(kt.fit_latent(train, held_out=test, progress=False))
tilts = [kt.Tilt(kt.unit(model, class_index=k), digits) for k in (0, 3, 8)]
runs = kt.sample(tilts, 16, 300, 40, seed=7, progress=False)
for run in runs:
    print(run.diagnostics)
kt.plotting.image_grid(
    np.concatenate([run.images[-1][:8] for run in runs]), columns=8, low=0, high=255
)

# %% [markdown]
# Zeros, threes and eights, one of each chain. The three classes share a layer and a reference, so `kt.sample` drew them in one graph.
# [How to choose a reference](../references.md) compares all references.
#
# ## An inner unit
#
# `"conv2:12"` is channel 12 of the layer `conv2`, before its activation, at the center
# of the map. `crop` reduces it to the pixels that it sees.

# %% eight draws of each of two channels of conv2, on patches of 14 by 14 pixels
channels = [kt.unit(model, name).crop() for name in ("conv2:12", "conv2:30")]
patch = kt.spectral_noise(channels[0].input_shape, mean=127.5, stddev=76.0)
patch = kt.squash(patch, low=0.0, high=255.0)
tilts = [
    kt.scale_for_signal(kt.Tilt(channel, patch), 0.6, seed=7, num_chains=2)
    for channel in channels
]
runs = kt.sample(tilts, 8, 100, 60, max_leapfrog_steps=10, seed=7, progress=False)
for tilt, run in zip(tilts, runs, strict=True):
    print(f"{tilt.unit.name}, scale {tilt.scale:.3g}, {run.diagnostics}")
kt.plotting.image_grid(
    np.concatenate([run.images[-1] for run in runs]), columns=8, low=0, high=255
)

# %% [markdown]
# The first channel asks for a dark spot below a bright edge, the second for a dark blob in
# a bright corner. `scale_for_signal` chose the scale: as strong as it takes to move the noise by 0.6 of
# its norm. It makes tilts of different units and networks equally strong.
#
# ## Sums, differences, directions
#
# Units form a vector space.

# %%
contrast = kt.unit(model, "conv2:12") - 0.5 * kt.unit(model, "conv2:30")
posterior = kt.unit(model, class_index=3, posterior=True)  # log p(3 | x), at most 0
direction = kt.unit(model, "conv2", direction=np.ones(50), position="mean")
field = kt.receptive_field(model.network, "conv2")
print(contrast.name, "|", posterior.name, "|", direction.name)
print(field)

# %% [markdown]
# Also: `activation="post"`, `preprocess=` inside the unit so that images stay in
# [0, 255], `resize=` for another size of image, `fixed_inputs=` of a network with
# several, `"outer/inner:channel"` in nested networks. Transformers are read at the mean
# over tokens unless a `position` says where. A softmax or sigmoid at the end is left out.
#
# ## Which networks
#
# | Keras network | `kt.unit` | `kt.GenerativeClassifier` | `export classifier` |
# |---|---|---|---|
# | functional or Sequential, to logits | yes | yes | yes |
# | the same, to a softmax | yes, without it | no: end it in logits | yes |
# | the same, to sigmoids | yes, without them | no: end it in logits | yes, as labels |
# | subclassed | classes, layers called once | as `keras.Model(x, network(x))` | yes |
# | of several outputs | inner units | no: build one of one | no |
# | of several inputs | with `fixed_inputs` | yes, images first | no |
# | of images of any size | with `input_shape` | yes | yes |
#
# Weights and layers stay as they are; networks of mixed precision keep it, and f is
# float32. Units are read with channels last alone. All families of `keras.applications`
# are tested.
#
# ## From the command line
#
# `train/visualize.py` does this for any units of any `.keras` file. `--list` says which
# there are.

# %% [bash]
# keras-tilt see digits.keras --list
# keras-tilt see digits.keras --unit class:3 --unit conv2:0-1 \
#     --sizes 1 --smoke --out units

# %% [markdown]
# For an ImageNet network the defaults read a class at four sizes of the image, with its
# log posterior, under noise with the colours of photographs. That is what makes a
# goldfish visible (left; [how it was made](../results.md#goldfish-by-two-methods)):
#
# ![samples of goldfish beside activation maximization](../pictures/beside_activation_maximization.jpg)
#
# During training, the callback `kt.UnitSamples` draws units to TensorBoard.
