"""The process of a command: its threads, the modules it imports, and how it ends."""

__all__ = [
    "as_exit",
    "chosen_strategy",
    "graph_errors_as_exit",
    "quiet",
    "resumable",
    "use_modules",
    "use_threads",
]

import contextlib
import importlib
import importlib.util
import inspect
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator

import keras
import tensorflow as tf

from keras_tilt import validation

# How it begins


def use_threads(number: int | None) -> None:
    """Let TensorFlow use so many threads, before it has started; None for all cores."""
    if number:
        tf.config.threading.set_intra_op_parallelism_threads(number)
        tf.config.threading.set_inter_op_parallelism_threads(number)


def chosen_strategy() -> tf.distribute.Strategy:
    """Return that of this machine's devices, or of all workers that TF_CONFIG names."""
    if os.environ.get("TF_CONFIG"):
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.MirroredStrategy()


def use_modules(names: Iterable[str]) -> None:
    """Import modules with layers of one's own, which Keras then knows by their names.

    Layers that are registered, by `keras.saving.register_keras_serializable`, need the
    import alone; others, and functions, are known by their plain names afterwards.

    Args:
        names: of modules, as in an import, also of the current folder; or of files that
            end in .py.

    Raises:
        ValueError: for a module that is not found, or that imports one that is not.
    """
    for name in names:
        module = _imported(name)
        own = {
            key: value
            for key, value in vars(module).items()
            if (inspect.isclass(value) or inspect.isfunction(value))
            and value.__module__ == module.__name__
        }
        keras.saving.get_custom_objects().update(own)


def _imported(name):
    """Return a module by its name, or of a file."""
    path = pathlib.Path(name)
    try:
        if path.suffix != ".py":
            sys.path.append(os.getcwd())
            return importlib.import_module(name)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    except (ImportError, OSError) as error:
        raise ValueError(
            f"Expected --import of a module that Python finds. Received: {name!r}: "
            f"{error}. Name it as in an import, or its file, which ends in .py."
        ) from error


@contextlib.contextmanager
def quiet(unless: bool) -> Iterator[None]:
    """Within it nothing is printed: of several workers only the chief prints."""
    if unless:
        yield
        return
    with (
        open(os.devnull, "w") as nothing,
        contextlib.redirect_stdout(nothing),
        contextlib.redirect_stderr(nothing),
    ):
        yield


# How it ends


@contextlib.contextmanager
def as_exit() -> Iterator[None]:
    """Within it a ValueError or an OSError ends the command, with its message alone."""
    try:
        yield
    except ValueError as error:
        raise SystemExit(f"{error}") from error
    except OSError as error:
        raise SystemExit(_message_of(error)) from error


def _message_of(error):
    """Return what an OSError says, as a sentence."""
    if error.filename is None:
        return str(error)
    if str(error.strerror).startswith("Expected"):
        return f"{error.strerror}: {error.filename}"
    return (
        "Expected files that can be read and folders that can be written. Received: "
        f"{error.filename}: {error.strerror}. Fix the permissions, or name another one."
    )


@contextlib.contextmanager
def graph_errors_as_exit() -> Iterator[None]:
    """Within it a failed check of a graph ends the command, with its message alone."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        sentence = validation.sentence_of(error)
        if sentence is None:
            raise
        raise SystemExit(sentence) from error


@contextlib.contextmanager
def resumable(
    advice: str = "Run the same command to resume.",
) -> Iterator[None]:
    """Within it Ctrl-C ends the command with advice, and exit code 130."""
    try:
        yield
    except KeyboardInterrupt as error:
        print(f"\nInterrupted. {advice}", file=sys.stderr)
        raise SystemExit(130) from error
