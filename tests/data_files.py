"""Real data and networks, which the tests that need them find beside the project."""

import os
import pathlib

import pytest

_BESIDE = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"


def data_file(name):
    """A file of $KERAS_TILT_DATA or ../shared/data; the test is skipped without."""
    for place in (os.environ.get("KERAS_TILT_DATA"), _BESIDE):
        if place and (found := pathlib.Path(place) / name).is_file():
            return found
    pytest.skip(
        f"{name} is not there: set KERAS_TILT_DATA to its folder, or put it in "
        "../shared/data beside the project"
    )
