"""Importing is quick and silent, the public face is documented, its examples run."""

import ast
import doctest
import importlib
import inspect
import os
import pathlib
import pkgutil
import subprocess
import sys
import types

import house
import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import keras_tilt as kt
from keras_tilt import _start

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


def run_python(code, *arguments, path=(), **environment):
    """A fresh interpreter in which this package's defaults are not set before."""
    kept = {k: v for k, v in os.environ.items() if k not in DEFAULTS}
    places = os.pathsep.join(map(str, [*path, ROOT]))
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
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


def test_importing_is_light_and_lists_every_name():
    run = run_python(
        "import sys, keras_tilt as kt, keras_tilt.cli.flags; print(*dir(kt)); "
        "print(*{'keras', 'numpy', 'tensorflow'} & sys.modules.keys())"
    )
    names, heavy = run.stdout.splitlines()
    assert names.split() == sorted(kt.__all__) and heavy == ""


# What each order ends with, in a process of its own.
FOUND = f"""
import keras, os, sys, tensorflow as tf
model = keras.saving.load_model(sys.argv[1])
print(type(model).__module__, type(model.network.layers[0]).__module__)
print(*(os.environ[name] for name in {list(DEFAULTS)}))
assert sys.modules["keras"] is keras and tf.keras.Model is keras.Model
for name, module in list(sys.modules.items()):
    if name.startswith("keras_tilt") or name in ("keras", "tensorflow"):
        assert name == module.__spec__.name == module.__name__, name
starters = [*sys.meta_path, keras.__spec__.loader, tf.__spec__.loader]
assert "keras_tilt._start" not in [type(each).__module__ for each in starters]
"""


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    """A file of a GenerativeClassifier, of a network with a layer of ours."""
    normalization = kt.networks.LocalResponseNormalization()
    layers = [keras.Input((4, 4, 2)), normalization, keras.layers.Flatten()]
    model = kt.GenerativeClassifier(
        keras.Sequential([*layers, keras.layers.Dense(3)]),
    )
    model.compile(kt.CaffeSGD(0.1), "generative", metrics=["accuracy"])
    path = tmp_path_factory.mktemp("saved") / "ours.keras"
    model.save(path)
    return path


ORDERS = (
    "import keras_tilt as kt, tensorflow as tf; "
    "kt.lenet()(tf.zeros([2, 28, 28, 1])).numpy()",
    "from keras_tilt.cli import named; from keras_tilt import *; sample, networks",
    "import keras_tilt, keras",
    "import keras_tilt, tensorflow_probability",
    "import keras_tilt.training.runs.run, keras_tilt.networks.graph",
    "import keras_tilt as kt; kt.sources.npz, kt.unit",
)
QUIET = [
    "keras_tilt.training.classifier keras_tilt.networks.architectures",
    " ".join(DEFAULTS.values()),
]


@pytest.mark.slow
@pytest.mark.parametrize("first", ORDERS)
def test_in_every_order_the_start_is_quiet_and_keras_knows_our_classes(
    first, saved_model
):
    """The quick tests are of a start that fails and is tried again, and test_saved."""
    run = run_python(first + FOUND, saved_model)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.splitlines() == QUIET


@pytest.mark.slow
def test_keras_imported_before_us_knows_our_classes_at_once(saved_model):
    run = run_python(
        "import sys, keras, keras_tilt\n"
        "print(type(keras.saving.load_model(sys.argv[1])).__module__)",
        saved_model,
    )
    assert run.returncode == 0 and run.stdout == "keras_tilt.training.classifier\n"


def test_the_modules_that_register_classes_are_known_to_the_start():
    """Those of masking are on top of it: who loads a segmenter imports it."""
    calls = {
        name
        for name, path in house.modules().items()
        if 'register_keras_serializable("keras_tilt")' in path.read_text()
    }
    expected = {f"keras_tilt.{n}" for n in calls if not n.startswith("masking.")}
    assert set(_start.REGISTERING) == expected


def test_looking_for_tensorflow_does_not_start_it():
    run = run_python(
        "import keras_tilt, importlib.util, sys\n"
        "spec = importlib.util.find_spec('tensorflow')\n"
        "assert spec.origin.endswith('__init__.py') and spec.has_location\n"
        "assert 'tensorflow' not in sys.modules\n"
        "assert importlib.util.find_spec('keras_tilt.no_such') is None\n"
        "try: import keras_tilt.no_such\n"
        "except ModuleNotFoundError as error: print(error)\n"
        "print('tensorflow' in sys.modules)"
    )
    assert run.stderr == ""
    assert run.stdout.splitlines() == ["No module named 'keras_tilt.no_such'", "False"]


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
    for use in ("import tensorflow", "import keras", "keras_tilt.sample"):
        run = run_python(f"import keras_tilt; {use}", path=[speaking_tensorflow])
        assert run.returncode == 1
        assert run.stderr.splitlines()[:2] == list(DEFAULTS.values())
        assert "ImportError: no such driver" in run.stderr


@pytest.mark.slow
def test_a_start_that_failed_is_tried_again(speaking_tensorflow, saved_model):
    """By a name of ours, then by an import of a TensorFlow that works, quietly."""
    run = run_python(
        "import keras_tilt, sys\n"
        "try: keras_tilt.sample\n"
        "except ImportError as error: print(error)\n"
        "sys.path.remove(sys.argv.pop())\n"
        "import tensorflow" + FOUND,
        saved_model,
        speaking_tensorflow,
        path=[speaking_tensorflow],
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["no such driver", *QUIET]
    assert run.stderr.splitlines() == list(DEFAULTS.values())


def test_values_set_before_win(speaking_tensorflow):
    chosen = {"TF_CPP_MIN_LOG_LEVEL": "1", "TF_ENABLE_ONEDNN_OPTS": "0"}
    code = "import keras_tilt, tensorflow"
    run = run_python(code, path=[speaking_tensorflow], **chosen)
    assert run.stderr.splitlines()[:2] == list(chosen.values())


def test_the_public_face_is_complete():
    public = {
        name
        for name, value in vars(kt).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert public <= set(kt.__all__)
    assert len(kt.__all__) == len(set(kt.__all__))


def test_the_stub_names_every_public_name_as_itself():
    """Without "as" a type checker takes a name of a stub for a private one."""
    tree = ast.parse((ROOT / "keras_tilt" / "__init__.pyi").read_text())
    aliases = [a for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names]
    assert all(alias.name == alias.asname for alias in aliases)
    assert sorted(alias.name for alias in aliases) == sorted(kt.__all__)


def test_the_version_is_stated_once():
    command = [sys.executable, "setup.py", "-q", "--version"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.split()[-1] == kt.__version__


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
