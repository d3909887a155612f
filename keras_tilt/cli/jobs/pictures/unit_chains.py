"""How a unit is drawn: noise, strength of the tilt, chains, and what they are beside.

    samples        exact HMC under p(x) = exp(scale f(x)) q(x) / Z
    langevin       Metropolis-adjusted Langevin, with as many gradients
    maximisation   plain gradient ascent on f, with as many gradients

With the features of photographs f + g / scale is in the place of f. All of them start
at draws of the same reference.
"""

__all__ = ["Drawing"]

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from keras_tilt.cli.flags import CONTRASTS
from keras_tilt.cli.named.references import noise
from keras_tilt.sampling.sampler import sample
from keras_tilt.sampling.samples import Samples
from keras_tilt.sampling.tilt_scale import scale_for_signal
from keras_tilt.sampling.until import sample_until_converged
from keras_tilt.tilt import Tilt
from keras_tilt.units.selection import Unit

KEPT = 10  # states of each chain


class Drawing(NamedTuple):
    """How units are drawn; the same for all of a run."""

    low: float  # black
    high: float  # white
    image_shape: tuple[int, int, int]  # of the network
    reference: str  # of `named.noise`
    contrast: float | None  # None if it follows from the kind of the unit
    exponent: float
    cutoff: float
    scale: float | None  # of the tilt; None if it follows from the signal
    signals: tuple[float, float]  # of units of the whole image, and of a patch
    scale_step: float  # of the leapfrog that finds the scale
    chains: int
    draws: int  # of each chain
    burnin: int
    approach_step: float  # early in the warm-up
    max_leapfrog_steps: int
    compare: Sequence[str]  # other methods
    seed: int
    leapfrog_steps: int | None = None  # instead
    momentum_persistence: float = 0.0
    until_converged: bool = False
    max_minutes: float = 60.0  # for each unit, until it has converged
    plausible: Unit | None = None  # g of photographs, of units of the whole image

    def tilt(self, unit: Unit) -> Tilt:
        """Return the tilt, as strong as asked for, with the features of photographs.

        Raises:
            ValueError: if the unit does not respond, so that no scale will do.
        """
        is_patch = unit.input_shape != self.image_shape
        reference = noise(
            self.reference,
            unit.input_shape,
            self.low,
            self.high,
            self.contrast or CONTRASTS[is_patch],
            self.exponent,
            self.cutoff,
        )
        tilt = Tilt(unit, reference, self.scale or 1.0)
        if self.scale is None:
            tilt = scale_for_signal(
                tilt,
                self.signals[is_patch],
                seed=self.seed,
                num_chains=1,
                step_size=self.scale_step,
            )
        if self.plausible is None or is_patch:
            return tilt
        both = unit + self.plausible / tilt.scale  # exp(scale f + g) q
        return dataclasses.replace(tilt, unit=both)

    def samples(self, tilt: Tilt, directory: pathlib.Path) -> Samples:
        """Return the samples of a tilt; the chains resume within a folder.

        Raises:
            KeyboardInterrupt: if the sampling was interrupted.
        """
        drawn: Callable[..., Samples] = sample
        until: dict[str, Any] = {}
        if self.until_converged:
            drawn = sample_until_converged
            until = {"max_minutes": self.max_minutes, "on_verdict": _say}
        samples = drawn(
            tilt,
            self.chains,
            self.draws,
            self.burnin,
            seed=self.seed,
            approach_step_size=self.approach_step,
            num_leapfrog_steps=self.leapfrog_steps,
            max_leapfrog_steps=self.max_leapfrog_steps,
            momentum_persistence=self.momentum_persistence,
            thin=_thinning(self.draws),
            directory=directory,
            **until,
        )
        _check_whole(samples)
        return samples

    def compared(self, tilt: Tilt, samples: Samples) -> dict[str, np.ndarray]:
        """Return images of other methods, with as many gradients, by their names."""
        num_gradients = self.burnin * (self.leapfrog_steps or self.max_leapfrog_steps)
        num_gradients += self.draws * samples.num_leapfrog_steps
        methods = {"langevin": self.langevin, "maximisation": self.maximisation}
        return {name: methods[name](tilt, num_gradients) for name in self.compare}

    def langevin(self, tilt: Tilt, num_gradients: int) -> np.ndarray:
        """Return images at the end of Metropolis-adjusted Langevin chains."""
        half = max(4, num_gradients // 2)
        samples = sample(
            tilt, self.chains, half, half, seed=self.seed, kernel="mala", thin=half
        )
        _check_whole(samples)
        return np.asarray(samples.images[-1])

    def maximisation(self, tilt: Tilt, num_gradients: int) -> np.ndarray:
        """Return images after gradient ascent on f, in steps of one pixel unit rms."""
        images = tf.Variable(tilt.reference.sample(self.chains, seed=[0, self.seed]))
        step = (self.high - self.low) / 255

        @tf.function(autograph=False)
        def ascend():
            with tf.GradientTape() as tape:
                f = tilt.response(images)
            gradient = tape.gradient(f, images)
            size = tf.sqrt(tf.reduce_mean(gradient**2, axis=[1, 2, 3], keepdims=True))
            images.assign_add(step * tf.math.divide_no_nan(gradient, size))

        for _ in tqdm(range(num_gradients), "maximisation"):
            ascend()
        return images.numpy()

    def mean_under_q(self, unit: Unit, tilt: Tilt) -> float:
        """Return the mean of a unit over the untilted noise of a tilt."""
        images = tilt.reference.sample(4 * self.chains, seed=[1, self.seed])
        return float(tf.reduce_mean(unit(images)))


def _say(samples):
    """Print what a run on the way to convergence is told."""
    tqdm.write(f"{len(samples.f)} draws: {samples.diagnostics.verdict}")


def _thinning(num_draws):
    """Return every how many draws the state is kept: at most KEPT, if that divides."""
    divisors = [t for t in range(1, num_draws + 1) if num_draws % t == 0]
    return next(t for t in divisors if num_draws // t <= KEPT)


def _check_whole(samples):
    """Go on with the interruption after which sampling returned what there was."""
    if samples.diagnostics.num_missing:
        raise KeyboardInterrupt
