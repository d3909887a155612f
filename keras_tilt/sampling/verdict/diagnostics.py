"""Have the chains forgotten where they started? One record and one verdict.

    R-hat  = sqrt(variance over all chains / variance within a chain)  -> 1
    nested = sqrt(1 + variance between superchains / variance within one)  -> 1
    MCSE   = standard deviation of f / sqrt(ESS)
    E-BFMI = mean (change of the energy)^2 / variance of the energy / renewed

computed by ArviZ (rank-normalized, split chains) for f and for other scalars, such as
random projections of the noise: f can look settled while the image still drifts.
Renewed is 1, or of momenta kept in part the share of their energy drawn anew. In
chains of fewer than ten draws the autocorrelation cannot be estimated, and ArviZ's ESS
may exceed their number: each such chain counts as one draw.

A superchain is a group of chains with one start. The variance of short chains within
it comes from the sampler, the variance between superchains also from their starts:
nested R-hat compares the two, and needs many chains instead of long ones.

Source: Vehtari, Gelman, Simpson, Carpenter and Buerkner (2021), "Rank-normalization,
folding, and localization: an improved R-hat", sections 4.1 and 5; Margossian, Hoffman,
Sountsov, Riou-Durand, Vehtari and Gelman (2024), "Nested R-hat"; Betancourt (2016),
"Diagnosing suboptimal cotangent disintegrations in Hamiltonian Monte Carlo"; Geweke
(1992) for the comparison of the beginning of a chain with its end.
"""

__all__ = [
    "ESS_LIMIT",
    "E_BFMI_LIMIT",
    "R_HAT_LIMIT",
    "Diagnostics",
    "Scalar",
    "diagnose",
]

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats

from keras_tilt.sampling.verdict import estimates
from keras_tilt.sampling.verdict.advice import (
    UNKNOWN,
    Advice,
    Trajectories,
    advise,
    needed_share,
)
from keras_tilt.sampling.verdict.functionals import MIN_DRAWS

# Vehtari et al. (2021): R-hat below 1.01, and an ESS above 400, which is 100 for each
# of the four chains they ask for at least; below that both are noise themselves.
# Neither is relaxed for short runs. At equilibrium R-hat is about 1 + (t - 1) / n for
# chains of n draws and t iterations of autocorrelation: a short run cannot show
# convergence, and "not converged" is then the right answer.
R_HAT_LIMIT = 1.01
ESS_LIMIT = 400
E_BFMI_LIMIT = 0.3  # as in Stan: below, the momenta do not reach the tails

_RISE_LIMIT = 4.0  # standard errors; of independent draws 1 in 16,000 is beyond
# Of reasons that more draws do not help, by words in them.
_CHANGES = (
    ("f still", "A longer num_burnin_steps lets f come to rest before the first draw."),
    ("moved in less", "A longer warm-up finds a smaller step_size."),
    ("divergent", "A higher target_accept_prob makes steps too short to diverge."),
)
_MOVED_LIMIT = 0.1  # share of iterations; a sampler aims at .6 or more


class Scalar(NamedTuple):
    """What is known of one scalar of the chains.

    Attributes:
        r_hat: rank-normalized split R-hat; of superchains, if there are any, the
            nested one.
        ess: bulk effective sample size, in draws.
        ess_tail: tail effective sample size, in draws.
    """

    r_hat: float
    ess: float
    ess_tail: float


@dataclasses.dataclass(frozen=True)
class Diagnostics:
    """What must be read beside any sample.

    A number that could not be computed is NaN, and the verdict says why.

    Attributes:
        accept_rate: share of accepted proposals, of all chains.
        r_hat: rank-normalized split R-hat of f.
        nested_r_hat: of f; NaN without superchains, which are judged by it.
        ess: bulk effective sample size of f, in draws.
        ess_tail: tail effective sample size of f, in draws.
        mcse: Monte Carlo standard error of the mean of f, in nats.
        e_bfmi: energy Bayesian fraction of missing information, the smallest of all
            chains, over the share of the momenta's energy that is drawn anew; NaN for a
            kernel without momenta and for a ladder.
        worst_r_hat: largest R-hat over f and the other scalars, without the worst
            pixel, which has another limit.
        smallest_ess: smallest bulk or tail ESS over the same.
        worst_pixel_r_hat: largest R-hat over the pixels; NaN where the states were not
            kept.
        scalars: dict, name -> `Scalar`, all that the verdict rests on.
        step_size: of the leapfrog, in units of noise.
        num_divergences: proposals with an energy error above 1,000 nats, or a
            non-finite one; all rejected.
        num_nonfinite: proposals with a non-finite energy.
        num_nonfinite_warmup: the same before the first kept draw.
        num_draws: draws kept per chain.
        num_chains: chains.
        converged: whether no reason against it was found.
        verdict: one sentence with the reasons.
        num_missing: draws per chain that were asked for and not made, by an interrupt.
        advice: an `Advice`, what to do about it, as numbers and, by `str`, as text;
            None if they have converged, or nothing can be said.
    """

    accept_rate: float
    r_hat: float
    nested_r_hat: float
    ess: float
    ess_tail: float
    mcse: float
    e_bfmi: float
    worst_r_hat: float
    smallest_ess: float
    worst_pixel_r_hat: float
    scalars: dict[str, Scalar]
    step_size: float
    num_divergences: int
    num_nonfinite: int
    num_nonfinite_warmup: int
    num_draws: int
    num_chains: int
    converged: bool
    verdict: str
    num_missing: int = 0
    advice: Advice | None = None

    def __str__(self):
        advice = "" if self.advice is None else f" {self.advice}"
        return (
            f"{self.num_chains} chains x {self.num_draws} draws, accepted "
            f"{self.accept_rate:.0%}, R-hat of f {self.r_hat:.3f}, ESS of f "
            f"{self.ess:.0f}, MCSE {self.mcse:.2g} nats, step {self.step_size:.3g}: "
            f"{self.verdict}{advice}"
        )


def diagnose(
    functionals: Mapping[str, np.ndarray],
    is_accepted: np.ndarray,
    step_size: float,
    *,
    energy: np.ndarray | None = None,
    pixel: np.ndarray | None = None,
    num_pixels: int = 1,
    num_superchains: int | None = None,
    num_divergences: int = 0,
    num_nonfinite: int = 0,
    num_nonfinite_warmup: int = 0,
    num_missing: int = 0,
    moved: Trajectories = UNKNOWN,
) -> Diagnostics:
    """Judge the draws of several chains.

    They have converged if there is no reason to doubt it: R-hat of every scalar is
    below 1.01 and its ESS above 400; f neither rises nor falls from the first to the
    last third of the draws by more than 4 standard errors (for short chains, of their
    differences); every chain moves; no proposal diverged; E-BFMI is above 0.3.

    Args:
        functionals: dict of [num_draws, num_chains]: f in nats, and other scalars by
            which chains are compared.
        is_accepted: [num_draws, num_chains], booleans.
        step_size: of the leapfrog, in units of noise.
        energy: [num_draws, num_chains], nats, at the start of every trajectory; None
            for a kernel without one.
        pixel: [num_kept, num_chains], the pixel with the largest R-hat, from
            `worst_pixel`; None if it is not known.
        num_pixels: how many pixels it is the worst of. The largest R-hat of many
            exceeds that of one by chance: its limit is further from 1 by the ratio of
            the chi-squared quantiles.
        num_superchains: number of groups of equally many chains, with one start in
            each; None if every chain has its own start.
        num_divergences: proposals with an energy error above 1,000 nats.
        num_nonfinite: proposals rejected for a non-finite energy.
        num_nonfinite_warmup: the same during warm-up.
        num_missing: draws per chain that were requested and not made.
        moved: how the chains moved, for the advice, and for E-BFMI.

    Returns:
        diagnostics: a `Diagnostics`.
    """
    usable, unusable = _parted(functionals)
    f = np.asarray(functionals["f"], np.float64)
    of_pixel = _of_pixel(pixel, num_superchains, num_pixels, f.shape[1])
    measured = _measured(f, usable, energy, num_superchains, moved.renewed)
    reasons = [
        *_unusable_reasons(unusable),
        *_scalar_reasons(measured["scalars"]),
        *_pixel_reasons(*of_pixel),
        *_rise_reasons(usable.get("f"), num_superchains or f.shape[1]),
        *_chain_reasons(is_accepted),
        *_energy_reasons(measured["e_bfmi"], num_divergences),
    ]
    return Diagnostics(
        **measured,
        worst_pixel_r_hat=of_pixel.r_hat,
        accept_rate=float(np.mean(is_accepted)),
        step_size=float(step_size),
        num_divergences=int(num_divergences),
        num_nonfinite=int(num_nonfinite),
        num_nonfinite_warmup=int(num_nonfinite_warmup),
        converged=not reasons,
        verdict=_verdict(reasons, num_nonfinite, num_nonfinite_warmup, num_missing),
        num_missing=int(num_missing),
        advice=_advice(reasons, usable, measured["scalars"], pixel, of_pixel, moved),
    )


def _advice(reasons, usable, scalars, pixel, of_pixel, moved):
    """What to do, if there is a reason."""
    if not reasons:
        return None
    needed = {
        name: needed_share(
            one.r_hat, min(one.ess, one.ess_tail), R_HAT_LIMIT, ESS_LIMIT
        )
        for name, one in scalars.items()
    }
    if not math.isnan(of_pixel.r_hat):
        r_hat, limit = of_pixel
        needed["worst pixel"] = needed_share(r_hat, math.inf, limit, ESS_LIMIT)
    others = [say for word, say in _CHANGES if any(word in one for one in reasons)]
    values = usable | {"worst pixel": pixel}
    return advise(values, needed, _bulk_ess, moved, others)


def _bulk_ess(values):
    return estimates.ess(values)[0]


def _measured(f, usable, energy, num_superchains, renewed):
    """The attributes of `Diagnostics` that follow from f and the usable scalars."""
    scalars = {
        name: Scalar(estimates.r_hat(values, num_superchains), *estimates.ess(values))
        for name, values in usable.items()
    }
    of_f = scalars.get("f", Scalar(math.nan, math.nan, math.nan))
    return {
        "r_hat": estimates.r_hat(f) if "f" in usable else math.nan,
        "nested_r_hat": math.nan if num_superchains is None else of_f.r_hat,
        "ess": of_f.ess,
        "ess_tail": of_f.ess_tail,
        "mcse": estimates.mcse(f) if "f" in usable else math.nan,
        "e_bfmi": math.nan if energy is None else estimates.e_bfmi(energy) / renewed,
        "worst_r_hat": max((one.r_hat for one in scalars.values()), default=math.nan),
        "smallest_ess": min(
            (min(one.ess, one.ess_tail) for one in scalars.values()), default=math.nan
        ),
        "scalars": scalars,
        "num_draws": len(f),
        "num_chains": f.shape[1],
    }


def _parted(functionals):
    """The scalars that can be judged, and why the others cannot, or ""."""
    observed = {k: np.asarray(v, np.float64) for k, v in functionals.items()}
    unusable = {name: _unusable(values) for name, values in observed.items()}
    usable = {k: values for k, values in observed.items() if not unusable[k]}
    return usable, unusable


def _unusable(values):
    """Why ArviZ should not be asked about these values; empty if it should."""
    num_draws, num_chains = values.shape
    if num_draws < MIN_DRAWS:
        return f"{num_draws} draws a chain are fewer than {MIN_DRAWS}"
    if num_chains < 2:
        return "one chain has no other to be compared with"
    if not np.all(np.isfinite(values)):
        return f"{np.sum(~np.isfinite(values))} values are not finite"
    if np.ptp(values) == 0:
        return "it is constant over all draws"
    return ""


def _unusable_reasons(unusable):
    reasons = [
        f"nothing can be said about {name}: {why}"
        for name, why in unusable.items()
        if why
    ]
    if len(reasons) > 1 and len(set(unusable.values())) == 1:
        return [f"nothing can be said: {unusable['f']}"]
    return reasons


def _scalar_reasons(scalars):
    """For each number the scalar that is worst."""
    if not scalars:
        return []
    r_hat = {name: one.r_hat for name, one in scalars.items()}
    ess = {name: min(one.ess, one.ess_tail) for name, one in scalars.items()}
    reasons = []
    name = max(r_hat, key=_nan_as(math.inf, r_hat))
    if not r_hat[name] <= R_HAT_LIMIT:
        reasons.append(f"R-hat of {name} is {r_hat[name]:.3g} (> {R_HAT_LIMIT})")
    name = min(ess, key=_nan_as(-math.inf, ess))
    if not ess[name] >= ESS_LIMIT:
        reasons.append(f"ESS of {name} is {ess[name]:.0f} (< {ESS_LIMIT})")
    return reasons


class _OfPixel(NamedTuple):
    """R-hat of the worst pixel, NaN if it is not known, and its limit."""

    r_hat: float
    limit: float


def _of_pixel(pixel, num_superchains, num_pixels, num_chains):
    """With the limit of the largest of as many R-hats, from as many groups each."""
    num_groups = num_superchains or 2 * num_chains
    one, worst = (
        stats.chi2.isf(0.05 / number, num_groups - 1) for number in (1, num_pixels)
    )
    limit = 1 + (R_HAT_LIMIT - 1) * worst / one
    if pixel is None or _unusable(np.float64(pixel)):
        return _OfPixel(math.nan, limit)
    return _OfPixel(estimates.r_hat(np.float64(pixel), num_superchains), limit)


def _pixel_reasons(r_hat, limit):
    if not r_hat > limit:
        return []
    return [f"R-hat of the worst pixel is {r_hat:.3g} (> {limit:.3g})"]


def _rise_reasons(f, num_groups):
    """Whether f still rises or falls: the last third of the draws against the first."""
    third = 0 if f is None else len(f) // 3
    if third < 1:
        return []
    first, last = f[:third], f[len(f) - third :]
    if np.ptp(first) == 0 or np.ptp(last) == 0:
        return []
    rises = last.mean(axis=0) - first.mean(axis=0)
    rise = np.mean(rises)
    if third < estimates.MIN_DRAWS_OF_ESS:
        error, limit = _error_of_short_rise(rises, num_groups)
    else:
        errors = estimates.mcse(first), estimates.mcse(last)
        error, limit = math.hypot(*errors), _RISE_LIMIT
    if not abs(rise) > limit * error:
        return []
    word = "rises" if rise > 0 else "falls"
    return [f"f still {word}, by {abs(rise):.3g} +- {error:.2g} nats"]


def _error_of_short_rise(rises, num_groups):
    """Of the mean rise of chains, from how it differs between groups of one start.

    And the limit in such errors, that of many groups by Student's t.
    """
    of_groups = rises.reshape(num_groups, -1).mean(axis=1)
    error = np.std(of_groups, ddof=1) / math.sqrt(num_groups)
    return error, stats.t.isf(stats.norm.sf(_RISE_LIMIT), num_groups - 1)


def _chain_reasons(is_accepted):
    """Chains that hardly moved, which the other numbers need not notice."""
    num_stuck = np.sum(np.mean(is_accepted, axis=0) < _MOVED_LIMIT)
    if not num_stuck:
        return []
    return [
        f"{num_stuck} of {is_accepted.shape[1]} chains moved in less than "
        f"{_MOVED_LIMIT:.0%} of the draws"
    ]


def _energy_reasons(e_bfmi, num_divergences):
    reasons = []
    if e_bfmi < E_BFMI_LIMIT:
        reasons.append(f"E-BFMI is {e_bfmi:.2g} (< {E_BFMI_LIMIT})")
    if num_divergences:
        reasons.append(f"{num_divergences} proposals were divergent")
    return reasons


def _nan_as(worst, numbers):
    return lambda name: worst if math.isnan(numbers[name]) else numbers[name]


def _verdict(reasons, num_nonfinite, num_nonfinite_warmup, num_missing):
    sentence = f"not converged: {'; '.join(reasons)}" if reasons else "converged"
    if num_missing:
        sentence += f"; interrupted {num_missing} draws before the end"
    if num_nonfinite:
        sentence += f"; {num_nonfinite} proposals had a non-finite energy"
    if num_nonfinite_warmup:
        sentence += f"; {num_nonfinite_warmup} such proposals in the warm-up"
    return sentence + "."
