"""How strong to make a tilt: so that it moves the noise by a share of its norm.

    scale (E_p f - E_q f) = signal^2 dimensions

A linear f = g.z + b moves the mean of the noise by scale g, and f by scale |g|^2: the
left side is the squared length of that move, the right side that share of E|z|^2. The
logits of two networks differ in scale; this rule does not depend on it.

Source: ours; for the dynamics see `keras_tilt.sampling.kernels`.
"""

__all__ = ["scale_for_signal"]

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from keras_tilt.reference.distributions import is_standard_normal
from keras_tilt.sampling.adaptation import QUARTER_TURN
from keras_tilt.sampling.chains import KernelParameters, State
from keras_tilt.sampling.schedule import stateless_seed
from keras_tilt.sampling.tilt_groups import chains_of, check_start
from keras_tilt.storage.loop import iterate
from keras_tilt.tilt import Tilt
from keras_tilt.units.random_views import RunOfViews
from keras_tilt.validation import as_number, check_count

_NUM_DRAWS = 64  # of q, for the mean and the spread of f there
_BLOCK = 16  # of them at a time
_WEAKEST = 8  # times weaker than a linear f would need
_CHANGE = 1.8  # of the scale, from one trajectory to the next, at most
_RISING = 12  # trajectories, in which what is wanted rises
_MOST_STEPS = 18  # of a trajectory, which ends before a quarter turn if they are short
_MOST = 18  # trajectories; the scale is the mean of those after the rise
_CHAINS = 16  # times nats wanted: then f varies by a quarter of what it should rise
_ENOUGH = 0.5  # of what is wanted, or there is no such scale


def scale_for_signal(
    tilt: Tilt,
    signal: float = 0.1,
    *,
    seed: int | Sequence[int],
    num_chains: int = 4,
    step_size: float = 0.1,
    progress: bool = True,
) -> Tilt:
    """Return a tilt with the scale at which it moves the noise by a share of its norm.

        scale (mean f - E_q f) = signal^2 dimensions

    Unadjusted chains follow the tilt. After every trajectory the scale changes towards
    the one that would move them as far as wanted, which rises over the first two thirds
    and stays: a rule, not an estimate.

    Args:
        tilt: a `Tilt` whose noise is N(0, I); its own scale does not matter.
        signal: share of the norm of the noise, above 0 and below 1.
        seed: a whole number or a pair of them.
        num_chains: chains over which f is averaged; more of them, up to 64, where the
            move is so small that their noise would hide it.
        step_size: of the leapfrog, in units of noise.
        progress: whether to show a bar.

    Returns:
        tilt: the same with another scale, rounded to two digits.

    Raises:
        TypeError: if `tilt` is not a `Tilt`.
        ValueError: for an argument out of range, a noise that is not N(0, I), a
            constant f, or one that does not rise far enough at any scale, such as a log
            posterior near zero.

    Example:
        >>> from keras_tilt.reference.distributions import white_noise
        >>> total = lambda images: tf.reduce_sum(images, axis=[1, 2, 3])
        >>> tilt = Tilt(total, white_noise([10, 10, 1]))
        >>> 0.3 < scale_for_signal(tilt, 0.4, seed=7, progress=False).scale < 0.6
        True
    """
    _check(tilt, signal, num_chains, step_size)
    seed = stateless_seed(seed)
    rise = _Rise(tilt, signal, num_chains, step_size, seed)
    bar = tqdm(total=_MOST, disable=not progress, desc="scale", unit="trajectory")
    with bar, rise.views.at_rest_again():
        end = iterate(
            rise.start,
            rise.advance,
            is_over=lambda at: at.trajectories == _MOST,
            show=lambda at: rise.show(at, bar),
        )
    scale = math.exp(np.mean(np.log(end.scales[_RISING:])))
    moved = np.mean(end.moved[_RISING:])
    if moved >= _ENOUGH * rise.wanted:
        return dataclasses.replace(tilt, scale=float(f"{scale:.2g}"))
    raise ValueError(
        f"f must rise far enough under some scale. Received: {moved:.3g} nats at scale "
        f"{scale:.3g}; wanted {rise.wanted:.3g}. Lower `signal`, or choose a scale."
    )


class _Position(NamedTuple):
    """Where the chains are after some trajectories, and the scales of these.

    Attributes:
        trajectories: how many.
        state: of the chains.
        scales: of the tilt in all trajectories, and in the next.
        moved: scale (mean f - E_q f), nats, at the end of each of them.
    """

    trajectories: int
    state: State
    scales: tuple[float, ...]
    moved: tuple[float, ...]


class _Rise:
    """Chains that follow a tilt whose scale follows how far they have moved."""

    def __init__(self, tilt, signal, num_chains, step_size, seed):
        self.wanted = float(signal) ** 2 * math.prod(tilt.base.event_shape)
        self.seed = seed
        num_chains = min(_NUM_DRAWS, max(num_chains, math.ceil(_CHAINS / self.wanted)))
        self.chains = chains_of([tilt], "split", [0], num_chains)
        self.views = RunOfViews([tilt.unit], lambda count: True, seed)
        draws = tilt.base.sample(_NUM_DRAWS, seed=tf.random.fold_in(seed, 0))
        self.parameters = KernelParameters(
            np.array([float(step_size)]),
            max(1, min(_MOST_STEPS, round(QUARTER_TURN / step_size))),
            np.zeros([1]),
            is_adjusted=False,
        )
        noise = draws[None, :num_chains].numpy()
        state, numbers = self.chains.start(noise, self.parameters)
        check_start([tilt], numbers)
        self.f_of_q = _f_of(tilt, draws)
        scale = math.sqrt(self.wanted) / np.std(self.f_of_q, ddof=1) / _WEAKEST
        self.start = _Position(0, state, (scale,), ())

    def advance(self, position):
        """Return the position after one more trajectory, and the scale of the next."""
        count, scale = position.trajectories + 1, position.scales[-1]
        state = position.state
        if self.views.show(count):
            state = state._replace(results=None)  # f is another
        state, numbers = self.chains.advance(
            state,
            self.parameters._replace(scale=np.array([scale])),
            tf.random.fold_in(self.seed, count),
        )
        moved = scale * (np.mean(np.float64(numbers["f"])) - np.mean(self.f_of_q))
        scales = *position.scales, scale * self.change(count, moved)
        return _Position(count, state, scales, (*position.moved, moved))

    def change(self, count, moved):
        """Return the factor of the scale by which a linear f would move as wanted."""
        wanted = self.wanted * min(1.0, (count + 1) / _RISING) ** 2
        factor = math.sqrt(wanted / max(moved, wanted / 100))
        return min(max(factor, 1 / _CHANGE), _CHANGE)

    def show(self, position, bar):
        """Show the scale, and how far f has risen, in the bar."""
        bar.set_postfix(
            scale=f"{position.scales[-1]:.2g}",
            moved=f"{position.moved[-1] / self.wanted:.0%}",
            refresh=False,
        )
        bar.update()


def _f_of(tilt, noise):
    """f(T(z)), some of the noise at a time; not the same everywhere, or an error."""
    parts = [noise[i : i + _BLOCK] for i in range(0, len(noise), _BLOCK)]
    f = np.concatenate([tilt.response(tilt.to_images(part)) for part in parts])
    if not np.ptp(f) > 0:
        raise ValueError(
            "The unit must respond to the reference. Received: an f that is "
            f"{f[0]:.4g} for the first of {len(f)} draws and no other number for the "
            "rest. Read the unit before its activation, or choose a scale by hand."
        )
    return np.float64(f)


def _check(tilt, signal, num_chains, step_size):
    if not isinstance(tilt, Tilt):
        raise TypeError(
            f"`tilt` must be a Tilt. Received: {tilt!r}. Pass Tilt(unit, reference); "
            "for a list, call it for each."
        )
    if not 0 < as_number("signal", signal) < 1:
        raise ValueError(
            "`signal` must lie between 0 and 1, a share of the norm of the noise. "
            f"Received: {signal!r}. Pass for example 0.1."
        )
    check_count("num_chains", num_chains, 1, _NUM_DRAWS)
    if not 0 < as_number("step_size", step_size) < QUARTER_TURN:
        raise ValueError(
            "`step_size` must lie between 0 and pi / 2. "
            f"Received: {step_size!r}. Pass for example 0.1."
        )
    if not is_standard_normal(tilt.base):
        raise ValueError(
            "The noise of the reference must be N(0, I). Received: "
            f"{tilt.base.name!r}. Choose a scale by hand."
        )
