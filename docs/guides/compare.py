# %% [markdown]
# # Compare two units and two networks by log Z
#
# A response of 7 of one unit and of 9 of another cannot be compared: each has a scale of
# its own. Densities can. log Z turns a response into a normalized log density,
#
#     log p(x) = scale f(x) + log q(x) - log Z
#
# and log densities of images are nats, whatever unit or network they come from.

# %%
import keras_tilt as kt
import keras
import numpy as np

train, test = kt.data.embedded_mnist()
batches = kt.data.pipeline(*train, batch_size=64, shuffle_seed=0, scale=1)


def trained(objective):
    keras.utils.set_random_seed(0)
    model = kt.GenerativeClassifier(kt.lenet(scale=1 / 256))
    model.compile("adam", objective=objective)
    model.fit(batches, epochs=4, shuffle=False, verbose=0)
    return model


generative, discriminative = trained("generative"), trained("discriminative")

# %% [markdown]
# ## Two units
#
# Both units need the same reference, here white noise of the contrast of the digits.
# `kt.log_partition` runs forward and reverse annealed importance sampling and reports
# log Z, its standard error, and a bracket: two estimates, one of which is below log Z on
# average and the other above. The bracket is not an error bar.

# %%
white = kt.white_noise((28, 28, 1), mean=33.0, stddev=79.0)
tilts = [kt.Tilt(kt.unit(generative, class_index=k), white) for k in (3, 8)]
three, eight = kt.log_partition(tilts, num_chains=32, seed=7, progress=False)
print("3:", three)
print("8:", eight)

# %% [markdown]
# Now images of the test set can be told apart by the ratio of the two densities. q drops
# out of the ratio.

# %%
images, labels = test
for digit in (3, 8):
    chosen = images[labels == digit]
    ratio = np.asarray(three.log_density_ratio(eight, chosen))
    print(
        f"test images of {digit}: log p(x|3) - log p(x|8) = {ratio.mean():6.2f} "
        f"+- {ratio.std():.2f} nats, above 0 for {np.mean(ratio > 0):.0%}"
    )

# %% [markdown]
# `kt.generative_log_prob([three, eight], images)` returns the log densities themselves,
# `[images, classes]`. They carry the standard error of log Z, which is common to all
# images.
#
# ## Two networks
#
# Which network has the better density of the digit 3, relative to this reference? The one
# that gives real threes the higher log p. Here are the network trained with the
# generative gradient and one trained as usual.

# %%
usual = kt.log_partition(
    kt.Tilt(kt.unit(discriminative, class_index=3), white),
    num_chains=32,
    seed=7,
    progress=False,
)
print("usual training:", usual)
threes = images[labels == 3]
for name, density in {"generative": three, "usual": usual}.items():
    ratio = np.asarray(density.tilt.response(threes)) - density.value  # log p / q
    error = ratio.std() / np.sqrt(len(ratio))
    print(
        f"{name:>10}: log p(x|3)/q(x) of test threes {ratio.mean():.2f} +- {error:.2f}"
    )

# %% [markdown]
# Under white noise, the network trained as usual is ahead, by 7.5 nats per image. That is no
# contradiction: the generative gradient maximizes the likelihood with the training images
# as q, where everything is a digit, and was never asked to tell a digit from noise. log Z
# and log p depend on the reference: compare units and networks under one q, and say which.
#
# In absolute terms neither is a good density of digits. q is white noise, and one logit
# cannot make digits of it.
#
# ## When to trust log Z
#
# `is_reliable` and `verdict` say so. A bracket that is wide, an effective sample size of
# a few walks, or a lower bound far from the estimate are reasons against. The remedy is
# more steps: `num_steps=` overrides what the pilot run has chosen. For weak tilts
# `method="importance"` is enough, and its verdict says where it is not.

# %%
simple = kt.log_partition(tilts[0], "importance", seed=7, progress=False)
print(simple)

# %% [markdown]
# Importance sampling has no upper bound, so its bracket ends in `inf`. Its verdict rests
# on the effective sample size, and on the tail of the weights.
