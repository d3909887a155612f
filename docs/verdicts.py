# %% [markdown]
# # How to read a verdict
#
# Every run ends in one sentence, `samples.diagnostics.verdict`: converged, or the
# reasons why not. This page says what the numbers mean, and what to do.
#
# To see verdicts of both kinds we need a density that a chain can explore in seconds: a
# linear unit, for which everything is known exactly.

# %%
import keras_tilt as kt
import numpy as np
import tensorflow as tf

rng = np.random.default_rng(0)
slope = tf.constant(rng.normal(size=[8, 8, 1], scale=0.3), tf.float32)


def linear(images):
    return tf.reduce_sum(images * slope, axis=[1, 2, 3])


tilt = kt.Tilt(linear, kt.white_noise([8, 8, 1]))
long = kt.sample(tilt, 16, 400, 100, seed=7, progress=False)
print(long.diagnostics)

# %% [markdown]
# And one that is too short:

# %%
short = kt.sample(tilt, 4, 20, 5, seed=7, progress=False)
print(short.diagnostics)

# %% [markdown]
# ## What is checked
#
# | number | limit | what it says |
# |---|---|---|
# | R-hat (rank-normalized, split) | below 1.01 | chains from different starts have the same distribution |
# | effective sample size, bulk and tail | above 400 | the draws are worth that many independent ones |
# | rise of f | 4 standard errors | f is no longer climbing |
# | acceptance | above 10 % in every chain | no chain is stuck |
# | divergences | none | no trajectory lost its energy by 1,000 nats or more |
# | E-BFMI | above 0.3 | the momenta reach the tails |
# | R-hat of the worst pixel | below a limit of 1.01 to about 1.03, printed with it | the largest of many R-hats: its limit rises with the number of pixels and falls with that of chains |
#
# `accepted` is the mean acceptance, `MCSE` the Monte Carlo standard error of the mean of
# f, and `step` the step size of the leapfrog as adapted, in units of noise. `projection
# 6` is the noise projected onto a fixed random direction, `low frequency 1,0` a
# coefficient of the image's cosine transform.
#
# R-hat and effective sample size are computed, by ArviZ, for f, log q, the norm and the
# low frequencies of the image, random projections, and the worst pixel. f alone can look
# settled while the image still drifts.

# %%
for name, scalar in list(long.diagnostics.scalars.items())[:6]:
    print(f"{name:<18} R-hat {scalar.r_hat:.3f}   ESS {scalar.ess:6.0f}")

# %% [markdown]
# How far can it be trusted? In 100 seeded trials of 16 chains of 200, exact draws were
# called converged 100 times. A stuck chain, a chain in another mode, and an f that rises
# by one standard deviation over the run were called converged 0 times
# (`pytest -m slow tests/test_verdict.py`).
#
# ## When it says no
#
# The diagnostics then have an advice, as text and as numbers: the scalar that needs most
# draws and what it is, how many more draws and gradients that takes by extrapolation of
# ESS and R-hat, which two chains differ most, and what to change.

# %%
print(short.diagnostics.advice)
print(short.diagnostics.advice.more_draws)

# %% [markdown]
# `kt.sample_until_converged` follows it: one run that goes on until the verdict is
# "converged", or its minutes are over. With a `directory` the same call goes on again.

# %%
enough = kt.sample_until_converged(
    tilt,
    num_results=20,
    seed=7,
    max_minutes=5,
    on_verdict=lambda samples: print(len(samples.f), samples.diagnostics.verdict),
    progress=False,
)

# %% [markdown]
# Of chains that sit in places of their own no extrapolation holds. The advice says so,
# and `samples.far_images` shows the two that differ most, here in the sign of all:


# %% the images of two chains, alike but for the sign
def two_modes(images):
    return 4 * tf.abs(linear(images))


apart = kt.sample(
    kt.Tilt(two_modes, tilt.reference), 4, 100, 50, seed=7, progress=False
)
print(apart.diagnostics.advice)
kt.plotting.image_grid(apart.far_images, columns=2, low=-4, high=4)

# %% [markdown]
# | the verdict names | what to do |
# |---|---|
# | effective sample size alone, R-hat near 1.01 | run longer: the same call with a `directory` and a larger `num_results` |
# | f is still rising | a longer `num_burnin_steps`; of a strong tilt, `approach_step_size=0.06` to 0.08 |
# | R-hat of f above 1.1 | the chains sit in different modes: lower `scale`, or use parallel tempering, `inverse_temperatures=(1, 0.5, 0.2)` |
# | R-hat of the worst pixel or of a projection | run longer, as in the first row, or reduce the spread of q: some directions mix slowly |
# | low acceptance, divergences | a smaller `step_size`, or a higher `target_accept_prob`; of white noise with ReLU networks, a smaller spread of q |
# | that chains are short, and you want many short ones | `num_superchains=8`: they start in 8 groups, and nested R-hat judges them |
#
# Going on with a run that was too short:

# %%
settings = dict(seed=7, directory="runs/linear", progress=False)
first = kt.sample(tilt, 16, 50, 50, **settings)
print("50 draws: ", first.diagnostics.verdict)
more = kt.sample(tilt, 16, 400, 50, **settings)
print("400 draws:", more.diagnostics.verdict)
print("the first draws are kept:", np.array_equal(first.f, more.f[:50]))

# %% [markdown]
# Many short chains:

# %%
many = kt.sample(tilt, 64, 10, 50, num_superchains=8, seed=7, progress=False)
print(
    f"nested R-hat of f {many.diagnostics.nested_r_hat:.4f}:", many.diagnostics.verdict
)

# %% [markdown]
# ## When it keeps saying no
#
# Some densities will not converge in any time you have. Pictures of ImageNet classes in
# the noise of all pixels, at strengths at which the eye sees something, are of this kind:
# each chain finds a place of its own and stays there. In a reference of some hundred
# numbers, `kt.fit_components`, classes do converge: see
# [results](results.md#units-of-an-imagenet-network-that-converge). Else
#
# * show the chains side by side; what they share is what the unit asks for;
# * say "not converged" beside the picture, as `train/visualize.py` does;
# * do not quote expectations under p, spreads, or log Z from that run.
#
# A verdict of "converged" rests on the chains agreeing. It cannot exclude a mode that
# none of them has found. Starts are exact draws of q, which are over-dispersed, and that
# is the best protection there is.
#
# ## More to look at
#
# `samples.to_arviz()` opens all of ArviZ. `kt.plotting.trace_plot` shows f along the
# chains, warm-up included:

# %% traces of f of 16 chains, the warm-up shaded
kt.plotting.trace_plot(
    np.concatenate([long.warmup_f, long.f]), num_burnin_steps=len(long.warmup_f)
)

# %% [markdown]
# For log Z, `LogPartition` has a verdict of its own: see
# [compare by log Z](guides/compare.md#when-to-trust-log-z).
