"""Sampling that goes on until its draws have converged, or its time is over.

    draws  ->  verdict  ->  as many more as its advice says  ->  verdict  ->  ...

A run is one run in a folder, however often it is judged: its first draws stay, and a
process that was killed loses nothing. To look at the verdict again and again, and to
stop when it is "converged", favours runs that have just passed. The looks are few:
their number grows as the logarithm of the draws.
"""

__all__ = ["sample_until_converged"]

import contextlib
import math
import os
import pathlib
import tempfile
import time
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_tilt.sampling.sampler import sample
from keras_tilt.sampling.samples import Samples
from keras_tilt.tilt import Tilt
from keras_tilt.validation import as_number

_MOST_AT_ONCE = 3.0  # times the draws made: an extrapolation further is a guess
_LEAST_AT_ONCE = 0.25
_PROBE = 0.1  # of the draws of a run that was found: how long they take is not known


def sample_until_converged(
    tilt: Tilt,
    num_chains: int = 4,
    num_results: int = 100,
    num_burnin_steps: int = 100,
    *,
    max_minutes: float = 60.0,
    directory: str | os.PathLike | None = None,
    thin: int = 1,
    on_verdict: Callable[[Samples], object] | None = None,
    **options: Any,
) -> Samples:
    """Draw as `sample` does, and go on until the draws have converged.

    After every part the advice of the diagnostics says how many more draws are needed;
    the next part has these, but at least a quarter as many as there are, at most three
    times as many, and no more than the time that is left allows. Four chains need the
    fewest gradients: R-hat asks for as many draws of each chain, however many chains
    there are.

    Args:
        tilt: a `Tilt`.
        num_chains: chains.
        num_results: draws of each chain before the first verdict.
        num_burnin_steps: iterations before the first draw.
        max_minutes: time, after which the draws are returned as they are. A part that
            has begun is finished, which can take longer than it was thought to.
        directory: folder of the run, as in `sample`: the same call goes on with it, for
            as long again. None for one that is removed at the end.
        thin: as in `sample`; a divisor of `num_results`.
        on_verdict: called with the draws so far, after every part.
        **options: further arguments of `sample`, `seed` among them.

    Returns:
        samples: a `Samples`.

    Raises:
        TypeError: if `tilt` is not a `Tilt`.
        ValueError: if `max_minutes` is not positive, or as `sample`.

    Example:
        >>> from keras_tilt.reference.distributions import white_noise
        >>> total = lambda images: tf.reduce_sum(images, axis=[1, 2, 3])
        >>> tilt = Tilt(total, white_noise([2, 2, 1]))
        >>> samples = sample_until_converged(tilt, seed=7, progress=False)
        >>> samples.diagnostics.converged
        True
    """
    if not isinstance(tilt, Tilt):
        raise TypeError(
            f"`tilt` must be one keras_tilt.Tilt. Received: {tilt!r}. Sample several "
            "one by one, each until it has converged."
        )
    if not 0 < as_number("max_minutes", max_minutes) < math.inf:
        raise ValueError(
            f"`max_minutes` must be positive. Received: {max_minutes!r}. Pass for "
            "example 60."
        )
    end = time.monotonic() + 60 * max_minutes
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(directory or temporary)

        def drawn(num_results):
            return sample(
                tilt,
                num_chains,
                num_results,
                num_burnin_steps,
                directory=folder,
                thin=thin,
                **options,
            )

        made = _draws_in(folder, num_burnin_steps)
        first = max(num_results, made // thin * thin)
        return _until_converged(drawn, first, made, thin, end, on_verdict)


def _until_converged(drawn, num_results, made, thin, end, on_verdict):
    """Draw more and more, at the speed of the part before; a few if it is unknown."""
    while True:
        begun = time.monotonic()
        samples = drawn(num_results)
        if on_verdict is not None:
            on_verdict(samples)
        if samples.diagnostics.converged or samples.diagnostics.num_missing:
            return samples
        now = time.monotonic()
        new, made = num_results - made, num_results
        left = (end - now) / (now - begun) * new if new > 0 else _PROBE * made + thin
        num_results = _next(samples, left if now < end else 0, thin)
        if num_results <= made:
            return samples


def _next(samples, affordable, thin):
    """The number of draws to be made, within what the time allows."""
    made, advice = len(samples.f), samples.diagnostics.advice
    wanted = math.nan if advice is None else advice.more_draws
    wanted = made if math.isnan(wanted) else wanted
    more = min(max(wanted, _LEAST_AT_ONCE * made), _MOST_AT_ONCE * made, affordable)
    return made + int(more) // thin * thin


def _draws_in(folder, num_burnin_steps):
    """Draws of each chain that a run has made; damaged files are for `sample`."""
    with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile):
        with np.load(folder / "state.npz") as saved:
            return max(0, int(saved["iteration"]) - num_burnin_steps)
    return 0
