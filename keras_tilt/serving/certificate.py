"""Do served chains reach their density? The measurements that decide it.

    the density   long adapted chains have converged: R-hat, ESS (`keras_tilt.sample`)
    the length    a chain is LENGTHS autocorrelation times long once the tilt has risen
    the ends      means of f, log q, norm, frequencies, projections over the ends of
                  many served chains are those of the long chains:
                  |difference| / sqrt(variance / ends + MCSE^2) within its quantile

Long chains show what the density is and how soon a chain forgets its start; the ends
show that what is served is drawn from it. A difference of means is noticed from about
4 / sqrt(ends) standard deviations of a scalar.

Source: Vehtari et al. (2021) for R-hat and ESS; Bonferroni's bound for the quantile.
"""

__all__ = [
    "LENGTHS",
    "Certificate",
    "autocorrelation_time",
    "certificate_of",
    "needed_iterations",
    "scalars_of",
]

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from keras_tilt.sampling.adaptation import num_rising
from keras_tilt.sampling.samples import Samples
from keras_tilt.sampling.verdict.functionals import functionals, projection_directions
from keras_tilt.tilt import Tilt

LENGTHS = 10  # autocorrelation times, after which exp(-10) of the start is left
_FALSE_ALARMS = 1e-3  # share of units refused though their ends are right
_FEWEST_ITERATIONS = 10


@dataclasses.dataclass(frozen=True)
class Certificate:
    """What is known of the served chains of one unit at one temperature.

    Attributes:
        unit: its name.
        temperature: f is divided by it.
        accept_rate: of the long chains.
        r_hat: of f along them.
        worst_r_hat: the largest over f and the other scalars.
        ess: effective sample size of f.
        smallest_ess: over f and the other scalars.
        long_run: the verdict on the long chains, one sentence.
        autocorrelation_time: iterations, of the slowest scalar.
        num_iterations: of a served chain, at the full tilt.
        num_ends: served chains whose ends were compared.
        served_accept_rate: of those.
        largest_difference: of a mean of ends and long chains, in standard errors.
        limit: what the largest difference of equal distributions exceeds for one unit
            in a thousand.
        differing: the scalar with the largest difference.
        converged: whether all three measurements agree.
        verdict: one sentence, with the reasons where it has not converged.
    """

    unit: str
    temperature: float
    accept_rate: float
    r_hat: float
    worst_r_hat: float
    ess: float
    smallest_ess: float
    long_run: str
    autocorrelation_time: float
    num_iterations: int
    num_ends: int
    served_accept_rate: float
    largest_difference: float
    limit: float
    differing: str
    converged: bool
    verdict: str


def autocorrelation_time(samples: Samples) -> float:
    """Return the iterations per effective draw of the slowest scalar, at least 1."""
    slowest = min(scalar.ess for scalar in _scalars(samples).values())
    return max(1.0, samples.f.size / slowest) if slowest > 0 else math.inf


def needed_iterations(time: float, most: int) -> int:
    """Return the iterations of a chain: the rise, and LENGTHS autocorrelation times.

    Args:
        time: autocorrelation time, iterations.
        most: iterations of a chain, however long the time is.

    Example:
        >>> needed_iterations(2.0, most=200)
        34
    """
    for count in range(_FEWEST_ITERATIONS, most):
        if count - num_rising(count) >= LENGTHS * time:
            return count
    return most


def scalars_of(tilt: Tilt, noise: np.ndarray, f: ArrayLike) -> dict[str, np.ndarray]:
    """Return the scalars of the ends of chains, [ends] each, by name.

    Args:
        tilt: of the chains.
        noise: [ends, ...].
        f: [ends], nats.
    """
    directions = projection_directions(tilt.base.event_shape)
    images = tilt.to_images(noise)
    found = functionals(noise[None], images[None], tilt.base, directions)
    return {"f": np.asarray(f)} | {n: np.asarray(v)[0] for n, v in found.items()}


def certificate_of(
    name: str,
    temperature: float,
    samples: Samples,
    ends: Mapping[str, np.ndarray],
    accept_rate: np.ndarray,
    num_iterations: int,
) -> Certificate:
    """Judge the served chains of one unit.

    Args:
        name: of the unit.
        temperature: of the long chains and of the served ones.
        samples: of the long chains.
        ends: scalars of the ends of served chains, from `scalars_of`.
        accept_rate: [ends], of the served chains.
        num_iterations: of a served chain, at the full tilt.
    """
    diagnostics = samples.diagnostics
    time = autocorrelation_time(samples)
    differences = _differences(samples, ends)
    differing = max(differences, key=lambda name: _nan_last(differences[name]))
    limit = stats.norm.isf(_FALSE_ALARMS / 2 / len(differences))
    reasons = [
        *_against_long_chains(diagnostics),
        *_against_length(num_iterations, time),
        *_against_ends(differing, differences[differing], limit),
    ]
    return Certificate(
        unit=name,
        temperature=float(temperature),
        accept_rate=float(diagnostics.accept_rate),
        r_hat=float(diagnostics.r_hat),
        worst_r_hat=float(diagnostics.worst_r_hat),
        ess=float(diagnostics.ess),
        smallest_ess=float(diagnostics.smallest_ess),
        long_run=diagnostics.verdict,
        autocorrelation_time=float(time),
        num_iterations=int(num_iterations),
        num_ends=len(accept_rate),
        served_accept_rate=float(np.mean(accept_rate)),
        largest_difference=float(differences[differing]),
        limit=float(limit),
        differing=differing,
        converged=not reasons,
        verdict=f"not converged: {'; '.join(reasons)}." if reasons else "converged.",
    )


# Reasons why it has not converged


def _against_long_chains(diagnostics):
    if not diagnostics.converged:
        why = diagnostics.verdict.removeprefix("not converged: ").rstrip(".")
        yield f"the long chains have not ({why})"


def _against_length(num_iterations, time):
    if not num_iterations >= LENGTHS * time:
        yield (
            f"{num_iterations} iterations are {num_iterations / time:.2g} "
            f"autocorrelation times (< {LENGTHS})"
        )


def _against_ends(name, difference, limit):
    if not difference <= limit:
        yield (
            f"the mean {name} of the ends is {difference:.2g} standard errors off "
            f"(> {limit:.2g})"
        )


# What is compared


def _differences(samples, ends):
    """|mean of the ends - mean of the long chains| in standard errors, by name."""
    found = {}
    for name, scalar in _scalars(samples).items():
        long = samples.f if name == "f" else samples.functionals[name]
        long = np.float64(long)
        of_ends = np.float64(ends[name])
        error = math.sqrt(long.var() * (1 / of_ends.size + 1 / scalar.ess))
        difference = abs(of_ends.mean() - long.mean())
        found[name] = difference / error if error > 0 else math.nan
    return found


def _scalars(samples):
    """Diagnostics of f and the functionals; the worst pixel of ends is not known."""
    scalars = samples.diagnostics.scalars
    return {n: s for n, s in scalars.items() if n == "f" or n in samples.functionals}


def _nan_last(difference):
    return math.inf if math.isnan(difference) else difference
