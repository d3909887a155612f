"""The draws of a sampler, their images, and the numbers that they are judged by."""

__all__ = ["Images", "Samples"]

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from keras_tilt.diagnostics import Diagnostics, inference_data


class Images(Sequence):
    """The images T(z) of the draws, made when they are asked for.

    images[-1] are those of the last draw, images[:, 0] those of the first chain, and
    np.asarray(images) all of them.

    Args:
        noise: [draws, chains, ...].
        to_images: T, noise [n, ...] -> images [n, ...].
        event_shape: shape of one image.
    """

    def __init__(self, noise, to_images, event_shape):
        self._noise = noise
        self._to_images = to_images
        self.shape = (*noise.shape[:2], *event_shape)
        self.ndim = len(self.shape)

    def __len__(self):
        return len(self._noise)

    def __getitem__(self, index):
        noise = np.asarray(self._noise[index])
        batch = noise.ndim - (self._noise.ndim - 2)
        if batch == 0:
            return np.asarray(self._to_images(noise[None]))[0]
        if batch == 1:
            return np.asarray(self._to_images(noise))
        return np.stack([np.asarray(self._to_images(one)) for one in noise])

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self[:], dtype)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Samples:
    """The draws of several chains, with everything needed to judge them.

    Attributes:
        noise: [num_results / thin, num_chains, ...], states z of the chains. An array
            on disk if a directory was given; the last state alone if a callback was.
        f: [num_results, num_chains], the unit's response in nats.
        log_prob: [num_results, num_chains], scale f(T(z)) + log base(z), in nats.
        is_accepted: [num_results, num_chains], booleans.
        functionals: dict of [num_results, num_chains]: squared norm and projections of
            the noise, by which chains are compared besides f.
        warmup_f: [num_burnin_steps, num_chains], f before the first draw, in nats.
        step_size: of the leapfrog, in units of noise, the same for all chains.
        num_leapfrog_steps: per iteration, on average.
        swap_accept_rate: [temperatures - 1], share of accepted swaps between neighbours
            on the ladder; empty without one.
        diagnostics: a `keras_tilt.diagnostics.Diagnostics`.
        to_images: T, noise [n, ...] -> images [n, ...].
        event_shape: shape of one image.
    """

    noise: np.ndarray
    f: np.ndarray
    log_prob: np.ndarray
    is_accepted: np.ndarray
    functionals: dict
    warmup_f: np.ndarray
    step_size: float
    num_leapfrog_steps: int
    swap_accept_rate: np.ndarray
    diagnostics: Diagnostics
    to_images: Callable
    event_shape: tuple

    @property
    def images(self):
        """T(z): [num_results / thin, num_chains, ...], made when asked for."""
        return Images(self.noise, self.to_images, self.event_shape)

    def to_arviz(self):
        """An `arviz.InferenceData`: see `keras_tilt.diagnostics.inference_data`."""
        functionals = {"f": self.f, **self.functionals}
        return inference_data(functionals, self.log_prob, self.is_accepted)

    def __repr__(self):
        return f"Samples of shape {list(self.event_shape)}: {self.diagnostics}"
