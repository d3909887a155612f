"""Numbers are taken as they come, and what is none is an error that names it."""

import numpy as np
import pytest
import tensorflow as tf

from keras_tilt.arguments import as_array, as_number


@pytest.mark.parametrize(
    "value", [3, 3.0, True, np.float32(3), np.int64(3), np.array(3), tf.constant(3.0)]
)
def test_numbers_of_any_kind_are_numbers(value):
    number = as_number("size", value)
    assert number == float(value) and type(number) is float


def test_arrays_keep_their_shape_and_take_the_type():
    array = as_array("size", [[1, 2], [3, 4]], np.float32)
    assert array.dtype == np.float32 and array.tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    "value",
    ["3", b"3", None, 1j, object(), ["a"], [[1], [1, 2]], np.datetime64(3, "s")],
)
def test_what_is_no_number_is_named_and_quoted(value):
    with pytest.raises(ValueError, match=r"`size` must be a number.* Received: "):
        as_array("size", value)
    with pytest.raises(ValueError, match="`size` must be a number. Received: "):
        as_number("size", value)


def test_an_array_is_no_single_number():
    with pytest.raises(ValueError, match=r"`size` must be a number.* shape \(2,\)"):
        as_number("size", [1.0, 2.0])


def test_a_long_value_is_quoted_in_part():
    with pytest.raises(ValueError) as raised:
        as_array("size", ["a"] * 1000)
    assert len(str(raised.value)) < 200
