"""The draws of a sampler, their images, and the numbers that they are judged by."""

__all__ = ["Images", "Samples", "inference_data", "samples_of"]

import dataclasses
import json
import math
import numbers
import os
import pathlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from keras_tilt.sampling.schedule import Plan
from keras_tilt.sampling.verdict.advice import Advice
from keras_tilt.sampling.verdict.diagnostics import (
    Diagnostics,
    Scalar,
    diagnose,
)
from keras_tilt.sampling.verdict.estimates import import_arviz
from keras_tilt.sampling.verdict.functionals import functional_names, worst_pixel
from keras_tilt.storage.files import replace_path
from keras_tilt.tilt import Tilt

if TYPE_CHECKING:
    import arviz

_AVERAGED = 200  # draws of a chain, at most: those of a generator take time to make
_NUMBERS = "keras_tilt"  # attribute of a file, of what are no arrays of draws


class Images(Sequence):
    """The images T(z) of the draws, computed on access.

    images[-1] are those of the last draw, images[:, 0] those of the first chain,
    images[..., 0] their first channel, and np.asarray(images) all of them.

    Args:
        noise: [draws, chains, ...].
        to_images: T, noise [n, ...] -> images [n, ...].
        event_shape: shape of one image.
    """

    def __init__(
        self,
        noise: np.ndarray,
        to_images: Callable[[np.ndarray], tf.Tensor],
        event_shape: Sequence[int],
    ) -> None:
        self._noise = noise
        self._to_images = to_images
        self.shape = (*noise.shape[:2], *event_shape)
        self.ndim = len(self.shape)

    def __len__(self):
        return len(self._noise)

    def __getitem__(self, index):
        of_draws, of_pixels = self._split(index)
        images = self._images(np.asarray(self._noise[of_draws]))
        batch = images.ndim - (self.ndim - 2)
        return images[(slice(None),) * batch + of_pixels]

    def _images(self, noise):
        """T of noise [..., event], draw by draw."""
        batch = noise.ndim - (self._noise.ndim - 2)
        if not noise.size:
            return np.empty((*noise.shape[:batch], *self.shape[2:]), noise.dtype)
        if batch == 0:
            return np.asarray(self._to_images(noise[None]))[0]
        if batch == 1:
            return np.asarray(self._to_images(noise))
        return np.stack([np.asarray(self._to_images(one)) for one in noise])

    def _split(self, index):
        """The part of an index that is of draws and chains, and that of the pixels."""
        index = index if isinstance(index, tuple) else (index,)
        dots = [i for i, part in enumerate(index) if part is Ellipsis]
        if len(dots) == 1:
            missing = (slice(None),) * (self.ndim - len(index) + 1)
            index = index[: dots[0]] + missing + index[dots[0] + 1 :]
        of_draws, of_pixels = index[:2], index[2:]
        simple = all(isinstance(part, slice | numbers.Integral) for part in of_pixels)
        whole = all(part is not None and np.ndim(part) < 2 for part in of_draws)
        if not simple or not whole or len(dots) > 1 or len(index) > self.ndim:
            raise IndexError(
                "Expected an index of draws and chains, then numbers or slices of "
                f"rows, columns and channels. Received: {index!r}. For any other take "
                "np.asarray(samples.images)."
            )
        return of_draws, of_pixels

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self[:], dtype)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Samples:
    """The draws of several chains, with everything needed to judge them.

    Attributes:
        noise: [num_results / thin, num_chains, ...], states z of the chains. An array
            on disk if there was a directory; only the last state with a callback.
        f: [num_results, num_chains], the unit's response in nats.
        log_prob: [num_results, num_chains], scale f(T(z)) + log base(z), in nats.
        is_accepted: [num_results, num_chains], booleans.
        is_divergent: [num_results, num_chains], booleans: proposals with an energy
            error above 1,000 nats or not finite.
        energy: [num_results, num_chains], nats, of position and momentum at the start
            of each trajectory; None for "mala" and ladders.
        functionals: dict of [num_results, num_chains]: log q, norm, low frequencies and
            random projections, by which chains are compared besides f.
        warmup_f: [num_burnin_steps, num_chains], f before the first draw, in nats.
        step_size: of the leapfrog, in units of noise, the same for all chains.
        num_leapfrog_steps: per iteration, on average.
        swap_accept_rate: [temperatures - 1], share of accepted swaps between neighbours
            on the ladder; empty without a ladder.
        diagnostics: a `keras_tilt.sampling.verdict.diagnostics.Diagnostics`.
        to_images: T, noise [n, ...] -> images [n, ...]; None for loaded samples.
        event_shape: shape of one image.
        saved_images: of loaded samples [num_results / thin, num_chains, ...], or None.
    """

    noise: np.ndarray
    f: np.ndarray
    log_prob: np.ndarray
    is_accepted: np.ndarray
    is_divergent: np.ndarray
    energy: np.ndarray | None
    functionals: dict[str, np.ndarray]
    warmup_f: np.ndarray
    step_size: float
    num_leapfrog_steps: int
    swap_accept_rate: np.ndarray
    diagnostics: Diagnostics
    to_images: Callable | None
    event_shape: tuple[int, ...]
    saved_images: np.ndarray | None = None

    @property
    def images(self) -> Images | np.ndarray:
        """T(z): [num_results / thin, num_chains, ...], computed on access."""
        if self.to_images is None:
            return np.asarray(self.saved_images)
        return Images(self.noise, self.to_images, self.event_shape)

    @property
    def far_images(self) -> np.ndarray:
        """The last images of the two chains that differ most: [2, ...].

        Of those that `diagnostics.advice` names, in the scalar that is worst.

        Raises:
            ValueError: if there is no advice, as of draws that have converged.
        """
        advice = self.diagnostics.advice
        if advice is None:
            raise ValueError(
                "`far_images` are those of draws that have not converged. Received: "
                f"{self.diagnostics.verdict} Look at `images`."
            )
        return np.asarray(self.images[-1])[list(advice.far_chains)]

    @property
    def mean_images(self) -> np.ndarray:
        """The mean image of each chain, [num_chains, ...]: all alike if they converged.

        Over the draws that are kept, or, of more than 200, over evenly spaced ones, 200
        at most. In units of a pixel. What the unit wants everywhere shows in it, and
        what one draw adds by chance does not.
        """
        images = self.images
        kept = range(0, len(images), -(-len(images) // _AVERAGED))
        total = sum(np.asarray(images[i], np.float64) for i in kept)
        return np.asarray(total / len(kept), np.asarray(images[-1]).dtype)

    def to_arviz(self) -> "arviz.InferenceData":
        """Return an `arviz.InferenceData`, as `inference_data` makes it."""
        functionals = {"f": self.f, **self.functionals}
        return inference_data(
            functionals,
            self.log_prob,
            self.is_accepted,
            self.is_divergent,
            self.energy,
        )

    def save(self, path: str | os.PathLike) -> None:
        """Write everything, images included, to a netCDF file that ArviZ reads.

        Groups `posterior` and `sample_stats` are as in `to_arviz`; `warmup_posterior`
        has f before the first draw, and `states` the noise and the images.

        Args:
            path: file, such as "samples.nc"; an existing one is replaced as a whole.

        Raises:
            OSError: if it cannot be written; the old one is still there.
        """
        path = pathlib.Path(path).expanduser()
        data = self.to_arviz()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of more chains than draws
            data.add_groups(
                {
                    "warmup_posterior": {"f": np.float64(self.warmup_f).T},
                    "states": {
                        "noise": np.swapaxes(np.asarray(self.noise), 0, 1),
                        "images": np.swapaxes(np.asarray(self.images), 0, 1),
                    },
                },
                warn_on_custom_groups=False,
            )
        diagnostics = dataclasses.asdict(self.diagnostics)
        data.attrs[_NUMBERS] = json.dumps(
            {
                "step_size": self.step_size,
                "num_leapfrog_steps": self.num_leapfrog_steps,
                "swap_accept_rate": self.swap_accept_rate.tolist(),
                "functionals": list(self.functionals),
                "event_shape": self.event_shape,
                "diagnostics": diagnostics,
            },
            default=lambda number: number.item(),
        )
        replace_path(path, lambda part: data.to_netcdf(str(part)))

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Samples":
        """Return the samples of a file that `save` has written.

        They are the same numbers, bit for bit; `to_images` is None.

        Args:
            path: the file.

        Raises:
            ValueError: if there is no such file, or `save` has not written it.
        """
        data = _read_netcdf(path)
        if _NUMBERS not in data.attrs:
            raise ValueError(
                f"Expected a file of samples. Received: {path}, which has none. Write "
                "one with samples.save('samples.nc')."
            )
        numbers = json.loads(data.attrs[_NUMBERS])

        def drawn(group, name, dtype=None):
            values = np.swapaxes(data[group][name].values, 0, 1)
            return values if dtype is None else values.astype(dtype)

        noise = drawn("states", "noise")
        names = numbers["functionals"]
        has_energy = "energy" in data["sample_stats"]
        diagnostics = numbers["diagnostics"]
        scalars = {k: Scalar(*v) for k, v in diagnostics["scalars"].items()}
        if advice := diagnostics.get("advice"):
            diagnostics["advice"] = Advice(*map(_frozen, advice))
        return cls(
            noise=noise,
            f=drawn("posterior", "f", noise.dtype),
            log_prob=drawn("sample_stats", "lp"),
            is_accepted=drawn("sample_stats", "accepted", bool),
            is_divergent=drawn("sample_stats", "diverging", bool),
            energy=drawn("sample_stats", "energy") if has_energy else None,
            functionals={n: drawn("posterior", n, noise.dtype) for n in names},
            warmup_f=drawn("warmup_posterior", "f", noise.dtype),
            step_size=numbers["step_size"],
            num_leapfrog_steps=numbers["num_leapfrog_steps"],
            swap_accept_rate=np.array(numbers["swap_accept_rate"], noise.dtype),
            diagnostics=Diagnostics(**diagnostics | {"scalars": scalars}),
            to_images=None,
            event_shape=tuple(numbers["event_shape"]),
            saved_images=drawn("states", "images"),
        )

    def __repr__(self):
        return f"Samples of shape {list(self.event_shape)}: {self.diagnostics}"


def inference_data(
    functionals: Mapping[str, np.ndarray],
    log_prob: np.ndarray,
    is_accepted: np.ndarray,
    is_divergent: np.ndarray,
    energy: np.ndarray | None = None,
) -> "arviz.InferenceData":
    """Return the functionals behind a verdict as an `arviz.InferenceData`.

    Group `posterior` has the functionals; group `sample_stats` has lp, the log density,
    accepted, diverging and, if there is one, energy. The noise itself is left out:
    ArviZ would compute an R-hat per pixel.

    Args:
        functionals: dict of [num_draws, num_chains], f among them.
        log_prob: [num_draws, num_chains], in nats, up to a constant.
        is_accepted: [num_draws, num_chains], booleans.
        is_divergent: [num_draws, num_chains], booleans.
        energy: None, or [num_draws, num_chains], in nats.

    Returns:
        inference_data: an `arviz.InferenceData`.
    """
    statistics = {"lp": log_prob, "accepted": is_accepted, "diverging": is_divergent}
    if energy is not None:
        statistics["energy"] = energy
    return import_arviz().from_dict(
        # In float64, for the numbers of a `Diagnostics` to the last digit.
        posterior={name: np.float64(values).T for name, values in functionals.items()},
        sample_stats={name: values.T for name, values in statistics.items()},
    )


def _read_netcdf(path):
    """Return the `arviz.InferenceData` of a file, held in memory.

    Raises:
        ValueError: if it is not there, or no such file.
    """
    try:
        return import_arviz().from_netcdf(str(path)).load()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"Expected a netCDF file that ArviZ reads. Received: {path}: {error}. "
            "Write one with samples.save('samples.nc')."
        ) from error


def samples_of(
    tilt: Tilt,
    plan: Plan,
    noise: np.ndarray,
    numbers: Mapping[str, np.ndarray],
    step_sizes: np.ndarray,
    index: int,
) -> Samples:
    """Return the `Samples` of one tilt, with their diagnostics.

    Args:
        tilt: the `Tilt`.
        plan: the `keras_tilt.sampling.schedule.Plan` of its run.
        noise: [draws, chains, ...], the states kept.
        numbers: dict of [iterations, chains], those of `Chains.advance`.
        step_sizes: [tilts], or on a ladder [tilts, ladder], after the warm-up.
        index: of the tilt among those sampled together.
    """
    burnin, step_size = plan.num_burnin_steps, float(step_sizes[index].flat[0])
    warmup = {name: values[:burnin] for name, values in numbers.items()}
    draws = {name: values[burnin:] for name, values in numbers.items()}
    return Samples(
        noise=noise,
        f=draws["f"],
        log_prob=draws["log_prob"],
        is_accepted=draws["is_accepted"],
        is_divergent=draws["is_divergent"],
        energy=draws.get("energy"),
        functionals={name: draws[name] for name in functional_names(tilt.event_shape)},
        warmup_f=warmup["f"],
        step_size=step_size,
        num_leapfrog_steps=plan.mean_steps(step_sizes),
        swap_accept_rate=_swap_accept_rate(draws),
        diagnostics=_judged(tilt, plan, noise, warmup, draws, step_sizes[index]),
        to_images=tilt.to_images,
        event_shape=tilt.event_shape,
    )


def _judged(tilt, plan, noise, warmup, draws, step_sizes):
    """The `Diagnostics` of the draws of one tilt; step sizes of a ladder, or one."""
    images = Images(noise, tilt.to_images, tilt.event_shape)
    names = ("f", *functional_names(tilt.event_shape))
    return diagnose(
        {name: draws[name] for name in names},
        draws["is_accepted"],
        step_sizes.flat[0],
        energy=draws.get("energy"),
        pixel=worst_pixel(images, plan.num_superchains),
        num_pixels=math.prod(tilt.event_shape),
        num_superchains=plan.num_superchains,
        num_divergences=np.sum(draws["is_divergent"]),
        num_nonfinite=np.sum(~draws["is_finite"]),
        num_nonfinite_warmup=np.sum(~warmup["is_finite"]),
        num_missing=plan.num_results - len(draws["f"]),
        moved=plan.trajectories(step_sizes),
    )


def _frozen(value):
    """A list of JSON as the tuple that it was."""
    return tuple(value) if isinstance(value, list) else value


def _swap_accept_rate(draws):
    """[temperatures - 1], empty without a ladder."""
    swaps = draws.get("swap_accepted")
    return np.empty(0, draws["f"].dtype) if swaps is None else np.nanmean(swaps, (0, 1))
