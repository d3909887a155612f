"""Importing is silent, the public face is documented, and its examples run."""

import doctest
import importlib
import inspect
import os
import pathlib
import pkgutil
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import keras_tilt as kt

ROOT = pathlib.Path(__file__).parents[1]
DEFAULTS = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "1"}
MODULES = [kt] + [
    importlib.import_module(module.name)
    for module in pkgutil.walk_packages(kt.__path__, "keras_tilt.")
]
NAMES = {
    "kt": kt,
    "keras_tilt": kt,
    "np": np,
    "tf": tf,
    "tfd": tfp.distributions,
    "keras": keras,
}
EXAMPLES = {
    test.name: test
    for module in MODULES
    for test in doctest.DocTestFinder().find(module, extraglobs=NAMES)
    if test.examples
}


def run_python(code, *, path=(), **environment):
    """A fresh interpreter in which this package's defaults are not set before."""
    kept = {k: v for k, v in os.environ.items() if k not in DEFAULTS}
    places = os.pathsep.join(map(str, [*path, ROOT]))
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "PYTHONPATH": places, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def speaking_tensorflow(tmp_path):
    """A folder with a TensorFlow that prints the defaults below Python, and fails."""
    source = f"""
import os
for name in {list(DEFAULTS)}:
    os.write(2, (os.environ[name] + os.linesep).encode())
raise ImportError("no such driver")
"""
    (tmp_path / "tensorflow.py").write_text(source)
    return tmp_path


def test_importing_and_a_first_operation_print_nothing():
    operation = "kt.lenet()(tf.zeros([2, 28, 28, 1])).numpy()"
    run = run_python(f"import keras_tilt as kt, tensorflow as tf; {operation}")
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_another_backend_of_keras_is_refused_in_a_sentence():
    """Named in the environment, or that of a Keras imported before."""
    imported = (
        "import sys, types; keras = types.ModuleType('keras'); sys.modules['keras'] = "
        "keras; keras.config = types.SimpleNamespace(backend=lambda: 'torch'); "
    )
    for before, environment, backend in (
        ("", {"KERAS_BACKEND": "jax"}, "jax"),
        (imported, {}, "torch"),
    ):
        run = run_python(f"{before}import keras_tilt", **environment)
        said = run.stderr.splitlines()[-1]
        assert run.returncode == 1 and said.startswith("ImportError: keras_tilt needs")
        assert f"Received: the backend '{backend}'. Set KERAS_BACKEND=tensor" in said


def test_a_failing_start_shows_what_was_held_back(speaking_tensorflow):
    run = run_python("import keras_tilt", path=[speaking_tensorflow])
    assert run.returncode == 1
    assert run.stderr.splitlines()[:2] == list(DEFAULTS.values())
    assert "ImportError: no such driver" in run.stderr


def test_values_set_before_win(speaking_tensorflow):
    chosen = {"TF_CPP_MIN_LOG_LEVEL": "1", "TF_ENABLE_ONEDNN_OPTS": "0"}
    run = run_python("import keras_tilt", path=[speaking_tensorflow], **chosen)
    assert run.stderr.splitlines()[:2] == list(chosen.values())


def test_the_public_face_is_complete():
    public = {
        name
        for name, value in vars(kt).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert public <= set(kt.__all__)
    assert len(kt.__all__) == len(set(kt.__all__))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_what_a_module_offers_exists(module):
    assert module.__doc__
    for name in getattr(module, "__all__", []):
        assert hasattr(module, name), name


def methods_of(value):
    """Public functions and properties that a class defines itself."""
    if not inspect.isclass(value):
        return {}
    return {
        name: member
        for name, member in vars(value).items()
        if not name.startswith("_")
        and (inspect.isfunction(member) or isinstance(member, property))
    }


@pytest.mark.parametrize("name", kt.__all__)
def test_every_public_name_is_documented(name):
    value = getattr(kt, name)
    if name.isupper():  # a constant: its comment is in the source, its type has the doc
        return
    # dataclasses and named tuples without a docstring are given their signature.
    assert value.__doc__ and not value.__doc__.startswith(f"{name}(")
    for method, member in methods_of(value).items():
        assert member.__doc__, f"{name}.{method}"


@pytest.mark.parametrize("name", EXAMPLES)
def test_docstring_examples_run(name):
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    report = []
    runner = doctest.DocTestRunner(optionflags=options)
    outcome = runner.run(EXAMPLES[name], out=report.append, clear_globs=False)
    assert outcome.attempted > 0
    assert outcome.failed == 0, "".join(report)


def test_the_examples_are_found():
    """Otherwise the test above could pass without running anything."""
    assert len(EXAMPLES) >= 12
    assert {
        "keras_tilt.units.selection.unit",
        "keras_tilt.sampling.sampler.sample",
    } <= EXAMPLES.keys()
