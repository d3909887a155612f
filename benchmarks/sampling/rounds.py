"""Rounds in which variants take turns, and numbers over rounds."""

import time

import numpy as np
from tqdm.auto import tqdm


def in_turns(names, rounds, title):
    """(round, name): every name once a round, in an order that rotates."""
    names = list(names)
    for turn in tqdm(range(rounds), desc=title):
        for place in range(len(names)):
            yield turn, names[(turn + place) % len(names)]


def timed(function, *args):
    """Seconds, and what the function returns."""
    started = time.perf_counter()
    result = function(*args)
    return time.perf_counter() - started, result


def ratio_of(by_round, one, other, number):
    """One number of two variants: see `median_ratio`."""
    first, second = ([run[number] for run in by_round[name]] for name in (one, other))
    return median_ratio(first, second)


def median_ratio(first, second):
    """Median of the ratios within a round, with standard error and quartiles."""
    by_round = np.divide(first, second)
    low, median, high = np.quantile(by_round, [0.25, 0.5, 0.75])
    error = error_of_median(by_round)
    return {"value": median, "standard_error": error, "quartiles": [low, high]}


def error_of_median(values):
    """Standard error of a median, by 200 bootstrap resamples."""
    random = np.random.default_rng(0)
    resamples = random.choice(values, [200, len(values)])
    return np.median(resamples, axis=1).std()


def ratio_of_sums(first, second):
    """Over chains, with the standard error by leaving out each chain in turn."""
    first, second = np.array(first), np.array(second)
    n = len(first)
    without = (first.sum() - first) / (second.sum() - second)
    error = np.sqrt((n - 1) / n * np.sum((without - without.mean()) ** 2))
    return {"value": first.sum() / second.sum(), "standard_error": error}


def rounded(found):
    """The same with all numbers to five digits."""
    if isinstance(found, dict):
        return {name: rounded(value) for name, value in found.items()}
    if isinstance(found, list | np.ndarray) and np.ndim(found):
        return [rounded(value) for value in found]
    if isinstance(found, str | int):
        return found
    return float(f"{found:.5g}")
