# %% [markdown]
# # How to choose a reference
#
# The reference q says what an image is like before the unit has its say. A logit is one
# number; most of what a sample looks like comes from q. Choose it by what you want to
# know.
#
# | you want to know | reference | what you see |
# |---|---|---|
# | the density of the paper, or a closed form | `kt.white_noise(shape, mean, stddev)` | noise, in which the unit moves some pixels |
# | what the unit responds to among all images in the pixel range | `kt.box(shape, low, high)` | noise that never leaves the range |
# | what it responds to among images with natural correlations | `kt.spectral_noise(shape, mean, stddev, exponent)`, within `kt.squash` | clouds that take the form of the unit |
# | the same with your own images' spectrum | `kt.spectral_noise(shape, spectrum=kt.fit_spectrum(images))` | the same in their texture |
# | the same among images with edges and calm surfaces, as photographs have | `kt.wavelet_noise(shape)`, within `kt.squash`; `wavelets=kt.fit_wavelets(images)` for your own; `field=0.5` for busy and calm regions | sparse edges and patches in the colours of photographs |
# | which images of the data's kind it prefers: the model that was trained | `kt.latent(kt.fit_latent(images))`; of photographs `fit_latent(images, latent_size=128, stddev=0.1, principal=True)` | digits among digits |
# | the same among the layouts and colours of photographs, in some hundred numbers: where chains of an ImageNet class converge | `kt.latent(kt.fit_components(images, latent_size=600).resized(shape, 0, 255))`, in half a minute for 50,000 images of 64 pixels | blurred scenes |
# | the same with texture: learned images and the detail that the generator leaves out | `kt.squash(kt.sum_of(kt.latent(generator), detail))`, with `detail = kt.wavelet_noise(shape, wavelets=kt.fit_wavelets(images - decoded))` | learned images with texture, grainy to the eye |
# | which images of another generator | `kt.latent(generator)` | images of that generator |
# | something else | any `tfd.Distribution` of images | sampled in image space, more slowly |
#
# All but the last are transports x = T(z) of white noise z. The sampler works on z,
# where every reference is N(0, I), so that one sampler and one set of tests serve all.
#
# Here they are for one unit, the class 3 of a small network, at the same strength.

# %%
import keras_tilt as kt
import keras
import numpy as np
import tensorflow as tf

(images, labels), _ = kt.data.embedded_mnist()
keras.utils.set_random_seed(0)
model = kt.GenerativeClassifier(kt.lenet(scale=1 / 256))
model.compile("adam", objective="generative")
batches = kt.data.pipeline(images, labels, batch_size=64, shuffle_seed=0, scale=1)
model.fit(batches, epochs=4, shuffle=False, verbose=0)
three = kt.unit(model, class_index=3)
shape = three.input_shape

pixels = images.reshape(len(images), -1).astype(np.float32)
mean = pixels.mean(axis=0)
_, sizes, directions = np.linalg.svd(pixels - mean, full_matrices=False)
components = directions[:40] * sizes[:40, None] / np.sqrt(len(pixels))


def generator(z):
    flat = tf.clip_by_value(mean + z @ components, 0.0, 255.0)
    return tf.reshape(flat, [-1, 28, 28, 1])


natural = kt.spectral_noise(shape, mean=127.5, stddev=76.0, exponent=1.7)
fitted = kt.spectral_noise(shape, spectrum=kt.fit_spectrum(images))
references = {
    "white noise": kt.white_noise(shape, mean=127.5, stddev=60.0),
    "box": kt.box(shape, low=0.0, high=255.0),
    "1/f, squashed": kt.squash(natural, low=0.0, high=255.0),
    "fitted, squashed": kt.squash(fitted, low=0.0, high=255.0),
    "latent": kt.latent(generator, latent_shape=[40]),
}

# %% a row for each reference: four of its own draws, then four draws of its tilt by class 3
rows, titles = [], []
for name, reference in references.items():
    tilt = kt.Tilt(three, reference, scale=4.0)
    run = kt.sample(tilt, 4, 40, 40, max_leapfrog_steps=8, seed=7, progress=False)
    ratio = np.mean(tilt.signal_to_noise(noise=run.noise[-1]))
    outside = np.mean((run.images[-1] < 0) | (run.images[-1] > 255))
    print(
        f"{name:<17} f of q {np.mean(three(reference.sample(64, seed=[1, 7]))):6.1f}"
        f"   f of p {run.f.mean():5.1f}   signal to noise {ratio:.3f}"
        f"   outside [0, 255] {outside:.0%}"
    )
    rows += [np.asarray(reference.sample(4, seed=[0, 7])), run.images[-1]]
    titles += [name] + [""] * 7
kt.plotting.image_grid(
    np.concatenate(rows), columns=8, low=0, high=255, titles=titles, inches=1.0
)

# %% [markdown]
# In each row: four draws of q, then four draws of its tilt.
#
# ## How strong
#
# Two numbers set the strength of a tilt: the spread of q, and `scale`. The signal to
# noise ratio per pixel, `tilt.signal_to_noise(noise=run.noise[-1])`, combines them. Far
# below 1 the reference drowns the unit in every single pixel, which can still add up to
# a visible form over many. Far above 1 the chains freeze.
#
# * **One network, one reference**: try scales 1, 3, 10, and look at f of p against f of
#   q, as above. A scale has the unit of 1 / f: 5 for a trained LeNet and 660 for random
#   weights are as ordinary as each other.
# * **Several units or networks**: `kt.scale_for_signal(tilt, signal, seed=...)` finds the
#   scale at which the tilt moves the noise by that share of its norm. 0.65 of weak noise
#   for whole ImageNet images and 0.6 for patches have worked.
#
# ## Stay in the range of the pixels
#
# A logit is unbounded. Under an unbounded reference a strong tilt runs far out of the
# range of the pixels, where neither the network nor the eye knows the class. Two
# remedies:
#
# * a bounded reference: `kt.box`, or `kt.squash` around any other;
# * a bounded unit: `kt.unit(..., posterior=True)`, the log posterior, at most 0.
#
# ## Classes of natural images
#
# They become visible in five steps, all of which `keras-tilt see --photographs FOLDER`
# takes:
#
# 1. Noise in the colours of photographs, of low contrast and without the finest details
#    (`cutoff`), within a squash of long tails: the tilt draws the thing, not the noise.
# 2. A strong tilt, `scale_for_signal(..., 0.65)`.
# 3. A class is read at several sizes of the image, with its log posterior.
# 4. While the tilt rises, every trajectory sees the image in another view,
#    `kt.RandomViews`: what the network answers in one view alone does not grow.
# 5. The features of the image are as probable as those of photographs. A unit alone may
#    be answered by features that no photograph has together. `kt.fit_feature_statistics`
#    takes their mean and standard deviation from a thousand photographs, such as the
#    network was trained on, and its unit is added to the exponent:
#    exp(scale f + g) q / Z.
#
# Here they are, on a network of random weights and on images of noise, which shows
# nothing but runs in seconds:

# %%
layers = keras.layers
network = keras.Sequential(  # in its place: yours, of images [height, width, 3]
    [
        keras.Input((64, 64, 3)),
        layers.Rescaling(1 / 127.5, offset=-1),
        layers.Conv2D(16, 5, strides=2, activation="relu"),
        layers.Conv2D(32, 5, strides=2, activation="relu"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(10),
    ]
)
photographs = np.random.default_rng(0).uniform(0, 255, [100, 64, 64, 3])  # yours

colours = kt.spectral_noise(
    (64, 64, 3), mean=127.5, stddev=25.5, exponent=1.5, cutoff=0.2
)
reference = kt.squash(colours, low=0.0, high=255.0, scale=76.5, law="student")
units, statistics = [], []
for size, mirrored in [((64, 64), False), ((48, 48), True)]:
    seen = {"resize": size, "preprocess": kt.RandomViews(rests_mirrored=mirrored)}
    units.append(kt.unit(network, class_index=1, posterior_weight=4.0, **seen))
    fitted = kt.fit_feature_statistics(network, photographs, resize=size)
    statistics.append(fitted.unit(network, **seen))
goldfish = kt.Tilt(sum(units) / len(units), reference)
goldfish = kt.scale_for_signal(goldfish, 0.3, seed=7, step_size=0.04, progress=False)
plausible = 4.0 * sum(statistics) / len(statistics)
tilt = kt.Tilt(goldfish.unit + plausible / goldfish.scale, reference, goldfish.scale)
samples = kt.sample(
    tilt,
    2,
    4,
    10,
    approach_step_size=0.05,  # an unadjusted warm-up, for strong tilts
    max_leapfrog_steps=4,
    seed=7,
    progress=False,
)
print(
    goldfish.unit.name, "| scale", round(goldfish.scale, 1), "|", samples.images.shape
)
