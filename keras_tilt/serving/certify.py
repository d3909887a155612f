"""Certify the chains of a sampler before it is served: long chains, schedule, ends.

    long chains   adapted, of every unit at every temperature: show what p is
    schedule      their steps at the lowest temperature, frozen, and as many iterations
                  as LENGTHS autocorrelation times of the slowest unit take
    ends          of served chains, by seeds 0, 1, ...: their means are held against
                  those of the long chains

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

import numpy as np
from tqdm.auto import tqdm

from keras_tilt.sampling.sampler import sample
from keras_tilt.serving.certificate import (
    Certificate,
    autocorrelation_time,
    certificate_of,
    needed_iterations,
    scalars_of,
)
from keras_tilt.serving.requests import MOST_ROWS
from keras_tilt.serving.sampler import ServedSampler, requests_of
from keras_tilt.serving.schedule import Schedule, planned
from keras_tilt.tilt import Tilt


@dataclasses.dataclass(frozen=True, eq=False)
class CertifiedSampler:
    """What is served, and what is known of its chains.

    Attributes:
        tilts: list of `Tilt`, of one reference.
        schedule: `Schedule` of the chains, from `schedule_of`.
        low: pixel that byte 0 stands for.
        high: pixel that byte 255 stands for.
        temperatures: list of those at which chains were certified.
        certificates: list of `Certificate`, from `certificates_of`.
    """

    tilts: list[Tilt]
    schedule: Schedule
    low: float
    high: float
    temperatures: list[float]
    certificates: list[Certificate]

    @property
    def names(self):
        """[units], text."""
        return [tilt.unit.name for tilt in self.tilts]

    @property
    def refused(self):
        """Those of the certificates that are not given."""
        return [one for one in self.certificates if not one.converged]

    @property
    def converged(self):
        """[units], whether the chains of a unit do at every temperature."""
        refused = {one.unit for one in self.refused}
        return [name not in refused for name in self.names]

    def served(self, log_partition=None, jit_compile=False):
        """Return the `ServedSampler` whose answers say what is known.

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


def at_temperature(tilts, temperature):
    """Return the same tilts with f divided by a temperature."""
    return [dataclasses.replace(t, scale=t.scale / temperature) for t in tilts]


def long_chains(tilts, temperature, num_chains, num_results, num_burnin_steps, **rest):
    """Return long adapted chains of every unit at one temperature.

    Args:
        tilts: list of `Tilt`, of one reference.
        temperature: f is divided by it.
        num_chains: of each unit.
        num_results: draws of each chain.
        num_burnin_steps: iterations before its first draw.
        **rest: of `keras_tilt.sample`.

    Returns:
        samples: list of `Samples`, one for each unit.

    Raises:
        KeyboardInterrupt: if sampling was interrupted, as fewer draws show nothing.
            With a `directory` the same call resumes.
    """
    tilts = at_temperature(tilts, temperature)
    samples = sample(tilts, num_chains, num_results, num_burnin_steps, **rest)
    if len(samples[0].f) < num_results:
        raise KeyboardInterrupt
    return samples


def schedule_of(long_runs, most_iterations, seed, approach_step_size=None):
    """Return the `Schedule` of served chains: steps of the coldest, length for all.

    Args:
        long_runs: dict, temperature -> list of `Samples`, from `long_chains`.
        most_iterations: of a served chain, if LENGTHS autocorrelation times are longer.
        seed: whole number, of the variation of the numbers of steps.
        approach_step_size: None, or the step without Metropolis test while the tilt
            rises.
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


def certificates_of(sampler, tilts, long_runs, num_ends):
    """Return a `Certificate` of every unit at every temperature, by ends of chains.

    Args:
        sampler: `ServedSampler` of the tilts.
        tilts: list of `Tilt`.
        long_runs: dict, temperature -> list of `Samples`, from `long_chains`.
        num_ends: served chains of each unit whose ends are looked at.
    """
    pairs = [(t, i) for t in long_runs for i in range(len(tilts))]
    found = []
    for temperature, i in tqdm(pairs, "ends of served chains"):
        noise, f, accept_rate = _ends_of(sampler, i, temperature, num_ends)
        found.append(
            certificate_of(
                tilts[i].unit.name,
                temperature,
                long_runs[temperature][i],
                scalars_of(tilts[i], noise, f),
                accept_rate,
                sampler.schedule.num_full,
            )
        )
    return found


def _ends_of(sampler, unit, temperature, num_ends):
    """Return noise, f and acceptance of served chains of one unit: [num_ends, ...]."""
    parts = []
    for first in range(0, num_ends, MOST_ROWS):
        seeds = np.arange(first, min(num_ends, first + MOST_ROWS))
        parts.append(
            sampler.functions["start"](**requests_of(unit, seeds, temperature))
        )
    joined = ("noise", "f", "accept_rate")
    return [np.concatenate([part[name] for part in parts]) for name in joined]


def table_of(certificates):
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
