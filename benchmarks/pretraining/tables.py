"""The table of records: a line for each scheme, and paired tests of two of them."""

__all__ = ["table"]

import itertools

from schemes import SCHEMES

from keras_tilt.training import results

# Columns of numbers, of the raw model and of that with biases by Bayes' rule.
COLUMNS = {
    "error": ("raw", "error"),
    "top-5": ("raw", "top5"),
    "ECE": ("raw", "ece"),
    "tempered": ("raw", "tempered_ece"),
    "calibrated": ("calibrated", "error"),
    "its top-5": ("calibrated", "top5"),
    "its ECE": ("calibrated", "ece"),
    "tempered ": ("calibrated", "tempered_ece"),
}
PAIRS = [
    ("DG", "DG+DG"),
    ("DG", "GG"),
    ("DG", "GG+DG"),
    ("DG+DG", "GG+DG"),
    ("GG", "GG+DG"),
    ("DG", "mix"),
    ("DG", "mix+queue"),
    ("mix", "mix+queue"),
    ("DG", "ramp"),
    ("GG+DG", "ramp"),
]
MORE_PAIRS = [
    ("DG 10%", "GG(u)+DG 10%"),
    ("GG+DG 10%", "GG(u)+DG 10%"),
    ("mix 10%", "mix(u) 10%"),
]


def table(records, settings):
    """A line for each scheme, mean +- sd over seeds; then paired tests."""
    runs = {
        scheme: {
            r["seed"]: r
            for r in records
            if {"scheme": scheme, **settings}.items() <= r.items()
        }
        for scheme in SCHEMES
    }
    names = sorted({n for r in records for n in r["calibrated"]["auroc"]})
    lines = [
        ", ".join(f"{name} {value}" for name, value in settings.items()),
        "% of the test images, area under the ROC curve of log p(x); mean +- sd",
        f"{'scheme':14}{'seeds':>6}" + _row([*COLUMNS, *names]),
    ]
    for scheme, by_seed in runs.items():
        if by_seed:
            found = list(by_seed.values())
            cells = [
                results.mean_sd([r[kind].get(name) for r in found])
                for kind, name in COLUMNS.values()
            ]
            areas = ([r["calibrated"]["auroc"].get(n) for r in found] for n in names)
            cells += map(results.mean_sd, areas)
            lines.append(f"{scheme:14}{len(by_seed):6}{_row(cells)}")
    tenth = [(f"{one} 10%", f"{other} 10%") for one, other in PAIRS]
    for one, other in itertools.chain(PAIRS, tenth, MORE_PAIRS):
        lines += results.paired_test(one, runs[one], other, runs[other], _error)
    return "\n".join(lines)


def _row(cells):
    return "".join(f"{cell:>17}" for cell in cells)


def _error(record):
    """The better of raw and calibrated is not chosen: calibrated where GG is last."""
    is_last = record["scheme"].split()[0] == "GG"
    return record["calibrated" if is_last else "raw"]["error"]
