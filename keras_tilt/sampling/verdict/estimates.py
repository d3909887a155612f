"""R-hat, ESS, standard errors and E-BFMI of chains, as ArviZ computes them."""

__all__ = ["MIN_DRAWS_OF_ESS", "e_bfmi", "ess", "import_arviz", "mcse", "r_hat"]

import math
import warnings
from types import ModuleType

import numpy as np

from keras_tilt.sampling.verdict.functionals import MIN_DRAWS

MIN_DRAWS_OF_ESS = 10  # the shortest chain with an autocorrelation that ArviZ looks at


def r_hat(values: np.ndarray, num_superchains: int | None = None) -> float:
    """Return R-hat of split chains, rank-normalized; of superchains the nested one.

    Args:
        values: [num_draws, num_chains].
        num_superchains: of groups of chains with one start, or None.
    """
    if num_superchains is not None:
        return _nested_r_hat(values, num_superchains)
    # Stuck chains have no variance within: R-hat is then infinite, as it should be.
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(import_arviz().rhat(values.T, method="rank"))


def _nested_r_hat(values, num_superchains):
    # Of ArviZ's successor; ArviZ itself has none.
    from arviz_stats.base import array_stats

    groups = np.repeat(np.arange(num_superchains), values.shape[1] // num_superchains)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(array_stats.rhat_nested(values.T, superchain_ids=groups))


def ess(values: np.ndarray) -> list[float]:
    """Return bulk and tail ESS; chains too short to tell count as one draw each."""
    if len(values) < MIN_DRAWS_OF_ESS:
        return [float(values.shape[1])] * 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return [
            float(import_arviz().ess(values.T, method=method))
            for method in ("bulk", "tail")
        ]


def e_bfmi(energy: np.ndarray) -> float:
    """Return E-BFMI of the worst chain; NaN for energies that say nothing."""
    values = np.asarray(energy, np.float64)
    if len(values) < MIN_DRAWS or not np.all(np.ptp(values, axis=0) > 0):
        return math.nan
    return float(np.min(import_arviz().bfmi(values.T)))


def mcse(values: np.ndarray) -> float:
    """Return the standard error of the mean."""
    if len(values) < MIN_DRAWS_OF_ESS:
        return float(np.std(values, ddof=1) / math.sqrt(values.shape[1]))
    return float(import_arviz().mcse(values.T, method="mean"))


def import_arviz() -> ModuleType:
    """Import ArviZ: late (1.5 s), and without its daily notice of a refactoring."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore",
            message=r"\s*ArviZ is undergoing a major refactor",
            category=FutureWarning,
        )
        import arviz
    return arviz
