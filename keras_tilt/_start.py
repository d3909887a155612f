"""Imports TensorFlow once, with this package's defaults and without start-up noise."""

import contextlib
import os
import sys
import tempfile


@contextlib.contextmanager
def _held_back_stderr():
    """Holds back what libraries write to file descriptor 2; shows it on an error.

    TensorFlow reports missing GPU drivers and its CPU kernels before its own log level
    is in force, so that no environment variable silences them.
    """
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(original, held.read())
            raise
        finally:
            os.dup2(original, 2)
            os.close(original)


def _check_backend(backend):
    """Raises an error unless Keras computes by TensorFlow."""
    if backend != "tensorflow":
        raise ImportError(
            "keras_tilt needs Keras to compute by TensorFlow. Received: the backend "
            f"{backend!r}. Set KERAS_BACKEND=tensorflow, or `backend` in "
            "~/.keras/keras.json, before Keras is imported."
        )


if "keras" not in sys.modules:  # TensorFlow imports it, and fails if it does
    _check_backend(os.environ.get("KERAS_BACKEND") or "tensorflow")
if "tensorflow" not in sys.modules:
    # A value set before wins. The first hides TensorFlow's messages below errors in
    # C++; the second turns oneDNN on also where TensorFlow leaves it off (x86 without
    # AVX-512), where a LeNet training step takes 0.6 of the time with it.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    with _held_back_stderr():
        import tensorflow  # noqa: F401
import keras  # noqa: E402

_check_backend(keras.config.backend())
