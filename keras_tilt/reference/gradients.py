"""Operations without a gradient are named, in place of TensorFlow's registry.

gradient registry has no entry for: ResizeArea
"""

__all__ = ["named_if_missing"]

import contextlib


@contextlib.contextmanager
def named_if_missing(function, variable):
    """Within it a gradient that TensorFlow does not have is a ValueError.

    Args:
        function: what is differentiated, for the sentence: "The unit".
        variable: with respect to what: "the image".
    """
    try:
        yield
    except LookupError as error:
        said = ValueError(
            f"{function} must have a gradient with respect to {variable}. Received: "
            f"an operation that has none ({error}). Write it with another, for example "
            "resize with interpolation='bilinear' and antialias=True in place of "
            "'area', or read a layer before it."
        )
        said.ag_pass_through = True  # tf.function adds no lines of code to it
        raise said from error
