"""Starts TensorFlow and Keras quietly, and makes our classes known to Keras, once.

`import keras_tilt` takes milliseconds, since it imports neither. The first import of
either, or of a module of ours that needs them, starts everything, in this order:

    TensorFlow    with our environment defaults, its start-up messages held back
    Keras         which must compute by TensorFlow
    REGISTERING   our modules whose classes `keras.saving` finds by their names

so that `keras.saving.load_model` knows our classes, whatever is imported first.
"""

__all__ = ["watch"]

import contextlib
import importlib
import os
import sys
import tempfile

REGISTERING = (
    "keras_tilt.networks.architectures",
    "keras_tilt.networks.coupling_flow",
    "keras_tilt.networks.image_generator",
    "keras_tilt.networks.principal_path",
    "keras_tilt.training.centering",
    "keras_tilt.training.classifier",
    "keras_tilt.training.metrics",
    "keras_tilt.training.optimizers",
)
# Of our own: these read flags before TensorFlow is imported, or do without it.
LIGHT = ("__main__", "_start", "cli")


def watch() -> None:
    """Start now if TensorFlow or Keras is imported, else as soon as one is needed."""
    _check_backend()
    if sys.modules.keys() & {"tensorflow", "keras"}:
        _start()
    elif _STARTER not in sys.meta_path:
        sys.meta_path.insert(0, _STARTER)


class _Starter:
    """A finder and loader that starts everything before the first module needing it.

    TensorFlow imports Keras in the middle of its own import, and our modules import
    each other. Hence nothing of ours runs after half an import: the module asked for
    has not begun to load when `create_module` is called, and is whole when it returns.
    """

    def find_spec(self, name, path=None, target=None):
        """Return the spec that other finders have, with this loader; None of others."""
        if not _needs_start(*name.split(".")):
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next(filter(None, found), None)
        if spec is not None:
            spec.loader = self
        return spec

    def create_module(self, spec):
        """Start, and return the module, imported as it would have been without us."""
        begins = self._is_taken_away()
        try:
            if begins:
                _start()
            module = importlib.import_module(spec.name)
        except BaseException:
            if begins:
                sys.meta_path.insert(0, self)  # for another attempt
            raise
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module):
        """Put back the module's own spec: it has been executed."""
        module.__spec__ = module.__spec__.loader_state

    def _is_taken_away(self):
        """Return whether this call, not one of another thread, removed the finder."""
        try:
            sys.meta_path.remove(self)
        except ValueError:
            return False
        return True


_STARTER = _Starter()


def _needs_start(package, *inner):
    """Return whether the first import of a module, "package.inner...", starts."""
    if package == "keras_tilt":
        return bool(inner) and inner[0] not in LIGHT
    return package in ("tensorflow", "keras") and not inner


def _start():
    """Import TensorFlow, Keras, and our modules that register classes."""
    _check_backend()
    if "tensorflow" not in sys.modules:
        # A value set before wins. The first hides TensorFlow's messages below errors in
        # C++; the second turns oneDNN on also where TensorFlow leaves it off (x86
        # without AVX-512), where a LeNet training step takes 0.6 of the time with it.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
        with _held_back_stderr():
            importlib.import_module("tensorflow")
    importlib.import_module("keras")
    _check_backend()
    for name in REGISTERING:
        importlib.import_module(name)


def _check_backend():
    """Raise an ImportError unless Keras computes, or will compute, by TensorFlow."""
    if "keras" in sys.modules:
        backend = sys.modules["keras"].config.backend()
    else:  # TensorFlow imports Keras, and fails if this is another
        backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if backend != "tensorflow":
        raise ImportError(
            "keras_tilt needs the TensorFlow backend of Keras. Received: the backend "
            f"{backend!r}. Set KERAS_BACKEND=tensorflow, or `backend` in "
            "~/.keras/keras.json, before Keras is imported."
        )


@contextlib.contextmanager
def _held_back_stderr():
    """Within it, what is written to file descriptor 2 is held back; shown on an error.

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
