"""Numbers of a command line are those that a program can take, or a sentence."""

import argparse

import pytest

from keras_tilt.cli import flags


@pytest.mark.parametrize(
    "kind, taken, refused",
    [
        (flags.count, ["1", "7", "100000"], ["0", "-1", "1.5", "one", ""]),
        (flags.natural, ["0", "7"], ["-1", "0.5", "none"]),
        (flags.whole, ["0", str(-(2**31)), str(2**31 - 1)], [str(2**31), "1e3"]),
        (flags.positive, ["1e-9", "2", "0.5"], ["0", "-1", "inf", "nan", "x"]),
        (flags.share, ["0", "0.5", "1"], ["-0.1", "1.1", "nan"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_number_is_taken_within_its_range_alone(kind, taken, refused):
    assert [kind(text) for text in taken] == [float(text) for text in taken]
    for text in refused:
        with pytest.raises(argparse.ArgumentTypeError) as raised:
            kind(text)
        said = str(raised.value)
        assert said.startswith("Expected a ") and f"Received: {text}. Pass" in said
