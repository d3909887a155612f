"""Certify the chains of a sampler before it is served: long chains, schedule, ends.

    long chains   adapted, of every unit at every temperature: they show what p is
    schedule      their steps at the lowest temperature, frozen, and as many iterations
                  as LENGTHS autocorrelation times of the slowest unit
    ends          of served chains, seeds 0, 1, ...: compared with the long chains

What the three must show is in `keras_tilt.serving.certificate`.
"""

__all__ = [
    "CertifiedSampler",
    "at_temperature",
    "certificates_of",
    "long_chains",
    "schedule_of",
    "table_of",
]

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from tqdm.auto import tqdm

from keras_tilt.sampling.sampler import sample
from keras_tilt.sampling.samples import Samples
from keras_tilt.serving.certificate import (
    Certificate,
    autocorrelation_time,
    certificate_of,
    needed_iterations,
    scalars_of,
)
from keras_tilt.serving.requests import MOST_REQUESTS
from keras_tilt.serving.sampler import ServedSampler, requests_of
from keras_tilt.serving.schedule import Schedule, planned
from keras_tilt.tilt import Tilt


@dataclasses.dataclass(frozen=True, eq=False)
class CertifiedSampler:
    """What is to be served, and what is known of its chains.

    Attributes:
        tilts: of one reference.
        schedule: of the chains, from `schedule_of`.
        low: pixel that byte 0 stands for.
        high: pixel that byte 255 stands for.
        temperatures: those at which chains were certified, or not.
        certificates: of every unit at each of them, from `certificates_of`.
    """

    tilts: Sequence[Tilt]
    schedule: Schedule
    low: float
    high: float
    temperatures: Sequence[float]
    certificates: Sequence[Certificate]

    @property
    def names(self) -> list[str]:
        """Of the units."""
        return [_name_of(tilt) for tilt in self.tilts]

    @property
    def refused(self) -> list[Certificate]:
        """The certificates of chains that have not converged."""
        return [one for one in self.certificates if not one.converged]

    @property
    def converged(self) -> list[bool]:
        """Whether the chains of a unit converge at every temperature, [units]."""
        refused = {one.unit for one in self.refused}
        return [name not in refused for name in self.names]

    def served(
        self, log_partition: ArrayLike | None = None, jit_compile: bool = False
    ) -> ServedSampler:
        """Return the sampler whose answers say what is known.

        Args:
            log_partition: None, or log Z [temperatures, units], NaN where it is not
                known.
            jit_compile: whether chains are compiled by XLA, which stock servers refuse.
        """
        return ServedSampler(
            self.tilts,
            self.schedule,
            self.low,
            self.high,
            self.converged,
            self.temperatures,
            log_partition,
            jit_compile,
        )


def _name_of(tilt):
    """Of its unit; "f" of a function without a name of ours."""
    return getattr(tilt.unit, "name", "f")


def at_temperature(tilts: Sequence[Tilt], temperature: float) -> list[Tilt]:
    """Return the same tilts, f divided by a temperature."""
    return [dataclasses.replace(t, scale=t.scale / temperature) for t in tilts]


def long_chains(
    tilts: Sequence[Tilt],
    temperature: float,
    num_chains: int,
    num_results: int,
    num_burnin_steps: int,
    **rest: Any,
) -> list[Samples]:
    """Return long adapted chains of every unit at one temperature.

    Args:
        tilts: of one reference.
        temperature: f is divided by it.
        num_chains: of each unit.
        num_results: draws of each chain.
        num_burnin_steps: iterations before its first draw.
        **rest: of `keras_tilt.sample`.

    Returns:
        samples: [units].

    Raises:
        KeyboardInterrupt: if sampling was interrupted, as fewer draws show nothing.
            With a `directory` the same call resumes.
    """
    tilts = at_temperature(tilts, temperature)
    samples = sample(tilts, num_chains, num_results, num_burnin_steps, **rest)
    if len(samples[0].f) < num_results:
        raise KeyboardInterrupt
    return samples


def schedule_of(
    long_runs: Mapping[float, Sequence[Samples]],
    most_iterations: int,
    seed: int,
    approach_step_size: float | None = None,
) -> Schedule:
    """Return the schedule of served chains: the coldest steps, long enough for all.

    Args:
        long_runs: temperature -> samples of every unit, from `long_chains`.
        most_iterations: of a served chain, if LENGTHS autocorrelation times are longer.
        seed: whole number, by which the number of leapfrog steps varies.
        approach_step_size: None, or the step of an unadjusted warm-up.
    """
    times = [
        autocorrelation_time(samples)
        for of_units in long_runs.values()
        for samples in of_units
    ]
    coldest = long_runs[min(long_runs)]
    return planned(
        [samples.step_size for samples in coldest],
        [samples.num_leapfrog_steps for samples in coldest],
        needed_iterations(max(times), most_iterations),
        (0, seed),
        approach_step_size,
    )


def certificates_of(
    sampler: ServedSampler,
    tilts: Sequence[Tilt],
    long_runs: Mapping[float, Sequence[Samples]],
    num_ends: int,
) -> list[Certificate]:
    """Return a certificate of every unit at every temperature.

    Args:
        sampler: of the tilts.
        tilts: of one reference.
        long_runs: temperature -> samples of every unit, from `long_chains`.
        num_ends: served chains of each unit whose ends are compared with those.
    """
    pairs = [(t, i) for t in long_runs for i in range(len(tilts))]
    found = []
    for temperature, i in tqdm(pairs, "ends of served chains"):
        noise, f, accept_rate = _ends_of(sampler, i, temperature, num_ends)
        found.append(
            certificate_of(
                _name_of(tilts[i]),
                temperature,
                long_runs[temperature][i],
                scalars_of(tilts[i], noise, f),
                accept_rate,
                sampler.schedule.num_full,
            )
        )
    return found


def _ends_of(sampler, unit, temperature, num_ends):
    """Noise, f and acceptance of served chains of one unit, [num_ends, ...] each."""
    parts = []
    for first in range(0, num_ends, MOST_REQUESTS):
        seeds = np.arange(first, min(num_ends, first + MOST_REQUESTS))
        parts.append(
            sampler.functions["start"](**requests_of(unit, seeds, temperature))
        )
    joined = ("noise", "f", "accept_rate")
    return [np.concatenate([part[name] for part in parts]) for name in joined]


def table_of(certificates: Sequence[Certificate]) -> str:
    """Return certificates as text: a line for each, its verdict last."""
    lines = [
        "accepted, R-hat, ESS: of the long chains, the worst scalar; time: iterations "
        "of autocorrelation; ends: of served chains, largest difference in standard "
        "errors",
        f"{'unit':<20}{'temperature':>12}{'accepted':>9}{'R-hat':>7}{'ESS':>6}"
        f"{'time':>6}{'served':>8}{'ends':>6}  verdict",
    ]
    for one in certificates:
        lines.append(
            f"{one.unit[:19]:<20}{one.temperature:12g}{one.accept_rate:9.0%}"
            f"{one.worst_r_hat:7.3f}{one.smallest_ess:6.0f}"
            f"{one.autocorrelation_time:6.1f}{one.served_accept_rate:8.0%}"
            f"{one.largest_difference:6.1f}  {one.verdict}"
        )
    return "\n".join(lines)
