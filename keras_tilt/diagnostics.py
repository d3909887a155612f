"""Have the chains forgotten where they started? One record and one verdict.

    R-hat = sqrt(variance over all chains / variance within a chain)  -> 1
    MCSE  = standard deviation of f / sqrt(ESS)

computed by ArviZ (rank-normalized, split chains) for f and for other scalars, such as
random projections of the noise: f can look settled while the image still drifts.

Source: Vehtari, Gelman, Simpson, Carpenter and Buerkner (2021), "Rank-normalization,
folding, and localization: an improved R-hat", sections 4.1 and 5.
"""

__all__ = [
    "ESS_LIMIT",
    "R_HAT_LIMIT",
    "Diagnostics",
    "diagnose",
    "inference_data",
]

import dataclasses
import math
import warnings

import numpy as np

# Vehtari et al. (2021): R-hat below 1.01, and an ESS above 400, which is 100 for each
# of the four chains they ask for at least; below that both are noise themselves.
# Neither is relaxed for short runs. At equilibrium R-hat is about 1 + (t - 1) / n for
# chains of n draws and t iterations of autocorrelation: a short run cannot show
# convergence, and "not converged" is then the right answer.
R_HAT_LIMIT = 1.01
ESS_LIMIT = 400

_MIN_DRAWS = 4  # the shortest chain that can be split in two halves with a variance


@dataclasses.dataclass(frozen=True)
class Diagnostics:
    """What must be read beside any sample.

    A number that could not be computed is NaN, and the verdict says why.

    Attributes:
        accept_rate: share of accepted proposals, of all chains.
        r_hat: rank-normalized split R-hat of f.
        ess: bulk effective sample size of f, in draws.
        ess_tail: tail effective sample size of f, in draws.
        mcse: Monte Carlo standard error of the mean of f, in nats.
        worst_r_hat: largest R-hat over f, squared norm and projections of the noise.
        smallest_ess: smallest bulk or tail ESS over the same.
        step_size: of the leapfrog, in units of noise.
        num_nonfinite: proposals with a non-finite energy, all rejected.
        num_nonfinite_warmup: the same before the first kept draw.
        num_draws: draws kept per chain.
        num_chains: chains.
        converged: whether nothing speaks against it.
        verdict: one sentence with the reasons.
    """

    accept_rate: float
    r_hat: float
    ess: float
    ess_tail: float
    mcse: float
    worst_r_hat: float
    smallest_ess: float
    step_size: float
    num_nonfinite: int
    num_nonfinite_warmup: int
    num_draws: int
    num_chains: int
    converged: bool
    verdict: str

    def __str__(self):
        return (
            f"{self.num_chains} chains x {self.num_draws} draws, accepted "
            f"{self.accept_rate:.0%}, R-hat of f {self.r_hat:.3f}, ESS of f "
            f"{self.ess:.0f}, MCSE {self.mcse:.2g} nats, step {self.step_size:.3g}: "
            f"{self.verdict}"
        )


def diagnose(
    functionals,
    is_accepted,
    step_size,
    num_nonfinite=0,
    num_nonfinite_warmup=0,
    num_missing=0,
):
    """Judge the draws of several chains.

    Args:
        functionals: dict of [num_draws, num_chains]: f in nats, and other scalars by
            which the chains are compared.
        is_accepted: [num_draws, num_chains], booleans.
        step_size: of the leapfrog, in units of noise.
        num_nonfinite: proposals rejected for a non-finite energy.
        num_nonfinite_warmup: the same during warm-up.
        num_missing: draws per chain that were asked for and not made.

    Returns:
        diagnostics: a `Diagnostics`.
    """
    observed = {name: np.float64(values) for name, values in functionals.items()}
    unusable = {name: _unusable(values) for name, values in observed.items()}
    usable = {name: values for name, values in observed.items() if not unusable[name]}
    r_hat = {name: _r_hat(values) for name, values in usable.items()}
    ess = {name: _ess(values, "bulk") for name, values in usable.items()}
    ess_tail = {name: _ess(values, "tail") for name, values in usable.items()}
    smallest_ess = {name: min(ess[name], ess_tail[name]) for name in usable}
    reasons = _reasons(unusable, r_hat, smallest_ess)
    return Diagnostics(
        accept_rate=float(np.mean(is_accepted)),
        r_hat=r_hat.get("f", math.nan),
        ess=ess.get("f", math.nan),
        ess_tail=ess_tail.get("f", math.nan),
        mcse=_mcse(observed["f"]) if "f" in usable else math.nan,
        worst_r_hat=max(r_hat.values(), default=math.nan),
        smallest_ess=min(smallest_ess.values(), default=math.nan),
        step_size=float(step_size),
        num_nonfinite=int(num_nonfinite),
        num_nonfinite_warmup=int(num_nonfinite_warmup),
        num_draws=len(observed["f"]),
        num_chains=observed["f"].shape[1],
        converged=not reasons,
        verdict=_verdict(reasons, num_nonfinite, num_nonfinite_warmup, num_missing),
    )


def inference_data(functionals, log_prob, is_accepted):
    """The functionals behind a verdict as an `arviz.InferenceData`.

    Group `posterior` has the functionals; group `sample_stats` has lp, the log density,
    and accepted. The noise itself is left out: ArviZ would compute one R-hat per pixel.

    Args:
        functionals: dict of [num_draws, num_chains], f among them.
        log_prob: [num_draws, num_chains], in nats, up to a constant.
        is_accepted: [num_draws, num_chains], booleans.

    Returns:
        inference_data: an `arviz.InferenceData`.
    """
    return _import_arviz().from_dict(
        posterior={name: values.T for name, values in functionals.items()},
        sample_stats={"lp": np.transpose(log_prob), "accepted": is_accepted.T},
    )


def _unusable(values):
    """Why ArviZ should not be asked about these values; empty if it should."""
    num_draws, num_chains = values.shape
    if num_draws < _MIN_DRAWS:
        return f"{num_draws} draws a chain are fewer than {_MIN_DRAWS}"
    if num_chains < 2:
        return "one chain has no other to be compared with"
    if not np.all(np.isfinite(values)):
        return f"{np.sum(~np.isfinite(values))} values are not finite"
    if np.ptp(values) == 0:
        return "it is constant over all draws"
    return ""


def _reasons(unusable, r_hat, smallest_ess):
    """What speaks against convergence; for each number the functional that is worst."""
    reasons = [
        f"nothing can be said about {name}: {why}"
        for name, why in unusable.items()
        if why
    ]
    if len(reasons) > 1 and len(set(unusable.values())) == 1:
        reasons = [f"nothing can be said: {unusable['f']}"]
    if r_hat:
        name = max(r_hat, key=_nan_as(math.inf, r_hat))
        if not r_hat[name] <= R_HAT_LIMIT:
            reasons.append(f"R-hat of {name} is {r_hat[name]:.3g} (> {R_HAT_LIMIT})")
        name = min(smallest_ess, key=_nan_as(-math.inf, smallest_ess))
        if not smallest_ess[name] >= ESS_LIMIT:
            reasons.append(f"ESS of {name} is {smallest_ess[name]:.0f} (< {ESS_LIMIT})")
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


def _r_hat(values):
    # Stuck chains have no variance within: R-hat is then infinite, as it should be.
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(_import_arviz().rhat(values.T, method="rank"))


def _ess(values, method):
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(_import_arviz().ess(values.T, method=method))


def _mcse(values):
    return float(_import_arviz().mcse(values.T, method="mean"))


def _import_arviz():
    """ArviZ, imported late (1.5 s) and without its daily notice of a refactoring."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore",
            message=r"\s*ArviZ is undergoing a major refactor",
            category=FutureWarning,
        )
        import arviz
    return arviz
