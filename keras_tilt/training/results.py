"""Runs of several schemes with several seeds: their records, and how they compare.

    mean +- sd over seeds;    d = error of A - error of B, of each seed
    t = mean(d) sqrt(n) / sd(d)

Records are dicts of what JSON knows, a list of them in a file, a line each.
"""

__all__ = [
    "append_records",
    "mean_sd",
    "paired_test",
    "read_records",
    "records_of",
]

import json

import numpy as np
import scipy.stats

from keras_tilt import storage


def read_records(path):
    """Return all records of a results file; none if it is not there."""
    return json.loads(path.read_text()) if path.exists() else []


def records_of(run, path):
    """Return the records that agree with a dict, in the order of the file."""
    return [r for r in read_records(path) if run.items() <= r.items()]


def append_records(path, records):
    """Add records to a results file that other processes may be writing, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with storage.locked(path.with_suffix(".lock")):
        lines = [json.dumps(record) for record in read_records(path) + records]
        whole = "[\n" + ",\n".join(lines) + "\n]\n"
        storage.replace(path, lambda part: part.write(whole.encode()))


def mean_sd(values):
    """Return "0.87 +- 0.05", or a dash where a number is missing."""
    if not values or None in values:
        return "-"
    sd = f" +- {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{sd}"


def paired_test(one, runs, other, other_runs, value):
    """Return one line: mean difference over common seeds, t, p (two-sided).

    Args:
        one: name of the first scheme.
        runs: dict of its records by seed.
        other: name of the second scheme.
        other_runs: dict of its records by seed.
        value: function of a record, in %.

    Returns:
        lines: list of one text, of none for fewer than two common seeds.
    """
    seeds = sorted(runs.keys() & other_runs.keys())
    if len(seeds) < 2:
        return []
    values = [[value(by_seed[s]) for s in seeds] for by_seed in (runs, other_runs)]
    test = scipy.stats.ttest_rel(*values)
    mean = np.mean(np.subtract(*values))
    return [
        f"{one} - {other}: {mean:+.3f} points over {len(seeds)} seeds, paired "
        f"t = {test.statistic:.2f}, p = {test.pvalue:.4f}"
    ]
