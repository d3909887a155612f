# %% [markdown]
# # How to extend
#
# ## A unit of your own
#
# A unit is any function, images `[n, ...]` to f `[n]`, made of TensorFlow or `keras.ops`
# operations with a gradient.

# %%
import keras_tilt as kt
import numpy as np
import tensorflow as tf


def brightness(images):
    return tf.reduce_mean(images, axis=[1, 2, 3])


tilt = kt.Tilt(brightness, kt.white_noise([8, 8, 1]), scale=64.0)
samples = kt.sample(tilt, 8, 100, 50, seed=7, progress=False)
print("mean pixel", np.asarray(samples.images).mean().round(2), "(exactly 1)")

# %% [markdown]
# ## A reference
#
# A reference is a distribution of images. If it is the law of x = T(z), z ~ N(0, I), it
# gets the fast sampler. Two ways to make one, and a third for any other distribution.
#
# **A function of noise.** `kt.latent` needs T alone, and no inverse. Here: noise with a
# vertical symmetry.


# %% four draws of a reference with a vertical symmetry, and four of its tilt
def symmetric(z):
    left = 127.5 + 60.0 * z
    return tf.clip_by_value(tf.concat([left, left[:, :, ::-1]], axis=2), 0.0, 255.0)


mirror = kt.latent(symmetric, latent_shape=[16, 8, 1])


def bright_center(images):
    return tf.reduce_mean(images[:, 5:11, 5:11], axis=[1, 2, 3]) / 10


run = kt.sample(kt.Tilt(bright_center, mirror), 4, 20, 20, seed=7, progress=False)
kt.plotting.image_grid(
    np.concatenate([mirror.sample(4, seed=[0, 7]), run.images[-1]]),
    columns=8,
    low=0,
    high=255,
)

# %% [markdown]
# **A bijector.** With an inverse and a Jacobian, `log_prob` works as well, and with it
# log densities of images. Compose bijectors of TFP: here a heavy-tailed pixel.

# %%
import tensorflow_probability as tfp

tfb, tfd = tfp.bijectors, tfp.distributions
normal = tfd.Sample(tfd.Normal(0.0, 1.0), sample_shape=[8, 8, 1])
heavy = tfd.TransformedDistribution(normal, tfb.SinhArcsinh(tailweight=1.5))
tilt = kt.Tilt(brightness, heavy, scale=20.0)
print("log q of a zero image:", heavy.log_prob(tf.zeros([8, 8, 1])).numpy().round(2))
print(kt.log_partition(tilt, num_chains=32, seed=7, progress=False))

# %% [markdown]
# **Any distribution.** A `tfd.Distribution` that is no transport is sampled in image
# space, with its own `log_prob` and the leapfrog of the paper.

# %%
laplace = tfd.Independent(tfd.Laplace(tf.zeros([8, 8, 1]), 1.0), 3)
run = kt.sample(
    kt.Tilt(brightness, laplace, scale=10.0), 8, 50, 50, seed=7, progress=False
)
print(run.diagnostics)

# %% [markdown]
# Test a reference as `tests/test_reference.py` does: T of the inverse is the identity,
# the density integrates to what the closed form says, and a linear tilt has the mean that
# it must have.
#
# ## A kernel
#
# Noise coordinates are all a kernel needs: `tilt.noise_log_prob` is the density, and
# `tilt.base` draws the starts. Any `tfp.mcmc.TransitionKernel`, or a sampler of another
# library, can use them. Here is the No-U-Turn sampler of TFP:

# %%
tilt = kt.Tilt(brightness, kt.white_noise([8, 8, 1]), scale=64.0)


@tf.function
def draw():
    nuts = tfp.mcmc.NoUTurnSampler(tilt.noise_log_prob, step_size=0.3)
    return tfp.mcmc.sample_chain(
        50,
        tilt.base.sample(8, seed=[0, 7]),
        kernel=nuts,
        num_burnin_steps=50,
        trace_fn=None,
        seed=[1, 7],
    )


images = tilt.to_images(tf.reshape(draw(), [-1, 8, 8, 1]))
print("mean pixel", np.mean(images).round(2), "(exactly 1)")

# %% [markdown]
# To make it a kernel of `kt.sample`, with warm-up, resume and verdict, add it in the wing
# `sampling`, beside the split kernel, and let it pass the same tests: reversible,
# volume-preserving, exact on the targets of `tests/targets.py`, and failing on a density
# that is off by a tenth.
#
# ## A data source
#
# For `model.fit` any `tf.data.Dataset` of `(images, labels)` will do. For `kt.train`,
# which resumes within an epoch, images are read by number. `kt.sources.arrays` wraps
# whatever you can load into memory; for more than that, write `.npz`, a folder of images
# for each class, or a TFDS data set, and use `kt.sources.npz`, `.folder`, `.tfds_named`.

# %%
import pathlib

from PIL import Image

rng = np.random.default_rng(0)
for name, gray in {"dark": 60, "light": 200}.items():
    folder = pathlib.Path("photos", name)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(6):
        pixels = rng.normal(gray, 20, size=[40, 40, 3]).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")

source = kt.sources.folder("photos")
order = kt.batches.uniform_order(len(source.labels), seed=0, epoch=0)
batches = kt.batches.training_batches(source, order, 4, seed=0, epoch=0, crop=(32, 32))
for images, labels in batches:
    print(images.shape, labels.numpy(), source.class_names)
