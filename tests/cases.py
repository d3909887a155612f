"""Which cases of a test are quick: the others say the same of more, and are slow."""

import pytest


def slow(*values, **of_param):
    """A case that `make test-slow` alone runs, of one value for each argument."""
    return pytest.param(*values, marks=pytest.mark.slow, **of_param)


def slow_but(quick, cases):
    """All cases in their order, and slow but for the quick ones."""
    cases = list(cases)
    assert all(one in cases for one in quick), quick
    return [
        one if one in quick else slow(*(one if isinstance(one, tuple) else (one,)))
        for one in cases
    ]
