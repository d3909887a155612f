"""Records of several training schemes with several seeds, and how they compare.

    mean +- sd over seeds;    d = error of A - error of B for each seed
    t = mean(d) sqrt(n) / sd(d)

A results file is a JSON list of records, which are dicts, one on each line.
"""

__all__ = [
    "append_records",
    "mean_sd",
    "paired_test",
    "read_records",
    "records_of",
]

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

from keras_tilt import storage


def read_records(path: pathlib.Path) -> list[dict[str, Any]]:
    """Return all records of a results file; none if there is no file."""
    return json.loads(path.read_text()) if path.exists() else []


def records_of(run: Mapping[str, Any], path: pathlib.Path) -> list[dict[str, Any]]:
    """Return the records that have all items of `run`, in the order of the file."""
    return [r for r in read_records(path) if run.items() <= r.items()]


def append_records(path: pathlib.Path, records: list[dict[str, Any]]) -> None:
    """Append records to a results file, to which other processes may append, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with storage.locked(path.with_suffix(".lock")):
        lines = [json.dumps(record) for record in read_records(path) + records]
        whole = "[\n" + ",\n".join(lines) + "\n]\n"
        storage.replace(path, lambda part: part.write(whole.encode()))


def mean_sd(values: Sequence[float | None]) -> str:
    """Return text like "0.870 +- 0.050", or a dash if a number is missing."""
    if not values or None in values:
        return "-"
    found = np.array(values, float)
    sd = f" +- {np.std(found, ddof=1):.3f}" if len(found) > 1 else ""
    return f"{np.mean(found):.3f}{sd}"


def paired_test(
    one: str,
    runs: Mapping[int, Any],
    other: str,
    other_runs: Mapping[int, Any],
    value: Callable[[Any], float],
) -> list[str]:
    """Return a line on the paired t-test of two schemes over their common seeds.

    Args:
        one: name of the first scheme.
        runs: its records by seed.
        other: name of the second scheme.
        other_runs: its records by seed.
        value: function of a record that returns an error in percent.

    Returns:
        lines: list of one line (mean difference, t, two-sided p), or empty for fewer
            than two common seeds.
    """
    seeds = sorted(runs.keys() & other_runs.keys())
    if len(seeds) < 2:
        return []
    first, second = (
        np.array([value(by_seed[s]) for s in seeds]) for by_seed in (runs, other_runs)
    )
    test = scipy.stats.ttest_rel(first, second)
    mean = np.mean(first - second)
    return [
        f"{one} - {other}: {mean:+.3f} points over {len(seeds)} seeds, paired "
        f"t = {test.statistic:.2f}, p = {test.pvalue:.4f}"
    ]
