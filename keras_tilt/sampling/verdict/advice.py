"""What to do about draws that have not converged: how many more, and what to change.

    draws needed = n max(400 / ESS, (R-hat - 1) / .01)

of the scalar that needs most, and of the worst pixel by a limit of its own: the ESS of
chains that mix grows as their draws, and R-hat is about 1 + (t - 1) / n for n draws and
t draws of autocorrelation. Of chains that sit in places of their own this is the least:
each of them alone has a larger ESS than all of them together, and no draws of theirs
say how rarely they leave.

Source: Vehtari, Gelman, Simpson, Carpenter and Buerkner (2021), "Rank-normalization,
folding, and localization: an improved R-hat", for the limits.
"""

__all__ = ["UNKNOWN", "Advice", "Trajectories", "advise", "needed_share"]

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from keras_tilt.sampling.verdict.functionals import meaning

_APART = 4.0  # times the ESS of all chains together, of chains that alone have more
_MARGIN = 1.2  # of draws: R-hat and ESS are estimates, and the worst of many


class Trajectories(NamedTuple):
    """How the chains moved.

    Attributes:
        num_gradients: of f for a draw of all chains.
        turn: share of a quarter turn, which replaces noise by momentum, that an
            iteration follows, with mass 1; NaN where it was not to be that long.
        wanted_steps: leapfrog steps of a whole quarter turn.
        renewed: share of the kinetic energy that an iteration draws anew, 1 - a^2 of a
            momentum of which the share a is kept.
    """

    num_gradients: float
    turn: float = math.nan
    wanted_steps: int = 0
    renewed: float = 1.0


UNKNOWN = Trajectories(math.nan)


class Advice(NamedTuple):
    """What a run that has not converged lacks.

    Attributes:
        worst: name of the scalar that needs most draws.
        meaning: what that scalar is.
        far_chains: the two chains whose means of it differ most, the smaller first.
        are_apart: whether the chains sit in places of their own: each mixes, and
            together they do not. More draws alone will then hardly do.
        more_draws: of each chain, by extrapolation; at least so many if they are apart,
            NaN where nothing can be extrapolated, 0 where R-hat and ESS are not what is
            wrong.
        more_gradients: of f, for those draws of all chains.
        changes: sentences that say what else to change, the most useful first.
    """

    worst: str
    meaning: str
    far_chains: tuple[int, int]
    are_apart: bool
    more_draws: float
    more_gradients: float
    changes: tuple[str, ...]

    def __str__(self):
        one, other = self.far_chains
        parts = [
            f"Worst is {self.worst}, {self.meaning}: chains {one} and {other} differ "
            "most."
        ]
        if self.are_apart:
            parts.append("The chains sit in places of their own.")
        if self.more_draws > 0:
            word = "At least" if self.are_apart else "About"
            parts.append(
                f"{word} {self.more_draws:,.0f} more draws of each chain are needed"
                f"{self._of_gradients()}."
            )
        return " ".join([*parts, *self.changes])

    def _of_gradients(self):
        number = self.more_gradients
        return "" if math.isnan(number) else f", {number:,.0f} gradients"


def needed_share(
    r_hat: float, ess: float, r_hat_limit: float, ess_limit: float
) -> float:
    """Return draws needed over draws made, by extrapolation; NaN if it is not known.

    Args:
        r_hat: of the draws made.
        ess: of the draws made, the smaller of bulk and tail.
        r_hat_limit: that R-hat must be below.
        ess_limit: that the ESS must be above.
    """
    if not (math.isfinite(r_hat) and ess > 0):
        return math.nan
    return max(ess_limit / ess, (r_hat - 1) / (r_hat_limit - 1))


def advise(
    values: Mapping[str, np.ndarray],
    needed: Mapping[str, float],
    ess: Callable[[np.ndarray], float],
    moved: Trajectories,
    others: Sequence[str] = (),
) -> Advice | None:
    """Return what draws that have not converged lack; None if nothing can be said.

    Args:
        values: dict of [num_draws, num_chains], or of [num_kept, num_chains].
        needed: dict of the same names, draws needed over draws made, of `needed_share`.
        ess: values -> their ESS.
        moved: how the chains moved.
        others: further sentences that say what to change.
    """
    if not needed:
        return None
    worst = max(needed, key=lambda x: math.inf if math.isnan(needed[x]) else needed[x])
    chains = np.float64(values[worst])
    means = chains.mean(axis=0)
    are_apart = _are_apart(chains, ess)
    more = math.nan
    if not math.isnan(needed[worst]):
        num_draws = len(next(iter(values.values())))
        share = _MARGIN * needed[worst] if needed[worst] > 1 else 1
        more = math.ceil(num_draws * (share - 1))
    return Advice(
        worst,
        meaning(worst),
        (int(np.argmin(means)), int(np.argmax(means))),
        are_apart,
        more,
        more * moved.num_gradients,
        (*_changes(are_apart, moved), *others),
    )


def _are_apart(values, ess):
    """Whether each chain alone mixes far better than all of them together."""
    alone = [ess(chain[:, None]) for chain in values.T if np.ptp(chain) > 0]
    return bool(sum(alone) > _APART * ess(values))


def _changes(are_apart, moved):
    if moved.turn < 1:
        yield (
            f"Trajectories are {moved.turn:.2f} of a quarter turn long: pass "
            f"max_leapfrog_steps={moved.wanted_steps} for whole ones."
        )
    if are_apart:
        yield (
            "Weaken the tilt, by a lower signal or scale, take a reference of fewer "
            "numbers, or pass inverse_temperatures."
        )
