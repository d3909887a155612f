"""The wings read as the equation, and import downwards only.

    p(x) = exp(f(x)) q(x) / Z      f: units, q: reference, p: tilt and sampling,
                                   Z: partition

A new wing must be entered in WINGS, with the wings that it may import from.
"""

import ast

import house
import pytest

MODULES = house.modules()
BASE = {"validation", "storage"}
# From the bottom to the top: each may import from those named, and from itself.
WINGS = {
    "_start": set(),
    "plotting": set(),
    "validation": set(),
    "workers": set(),
    "storage": {"validation"},
    "networks": {"validation", "workers"},
    "data": BASE,
    "reference": BASE | {"networks"},
    "tilt": {"reference"},
    "units": {"validation", "networks", "reference"},
    "sampling": BASE | {"networks", "reference", "units", "tilt"},
    "partition": BASE | {"reference", "units", "tilt", "sampling"},
    "training": BASE | {"networks", "workers"},
    "serving": BASE | {"networks", "data", "reference", "units", "tilt", "sampling"},
    "masking": BASE | {"networks", "data", "serving"},
}
WINGS["cli"] = {*WINGS, "__init__"}
WINGS["__main__"] = {"cli"}
WINGS["__init__"] = {"_start"}  # and the stub beside it, of which names are imported

# The only places that may import a library.
ONLY_IN = {
    "matplotlib": {"plotting"},
    "pycocotools": {"masking.segments.run_lengths"},
    "skimage": {"masking.proposals", "masking.scenes.labelled_images"},
    "sklearn": {"masking.proposals", "masking.svm"},
    "tensorflow_datasets": {"data", "masking.scenes.coco"},
}
# Keras is known where networks are: to all others they are functions of tensors.
WITH_KERAS = {
    "_start",
    "cli",
    "masking.backbones",
    "masking.layers",
    "masking.projection",
    "masking.segmenter",
    "masking.serving",
    "masking.superpixels",
    "networks",
    "reference.learned",
    "sampling.callbacks",
    "sampling.kept",
    "sampling.tilt_groups",
    "serving.classifier",
    "serving.requests",
    "training.batch_checks",
    "training.calibrated",
    "training.centering",
    "training.classifier",
    "training.compile_checks",
    "training.evaluation",
    "training.metrics",
    "training.optimizers",
    "training.runs",
    "training.shares",
    "units",
}
# Private names of Keras and TFP are for this file.
CALLS_INTERNALS = {"networks.keras_internals"}
INTERNALS = (
    "keras.src",
    "tensorflow.python",
    "tensorflow_probability.python",
    "tfp.python",
)
# Reading flags is left to the commands, writing files to their work and to these.
READS_FLAGS = {"cli"}
WRITES_FILES = {"cli.jobs", "cli.process", "storage"}
WRITES_FILES |= {"serving.asking", "serving.servable"}
WRITES_FILES |= {"units.statistics"}  # where a user says so, FeatureStatistics.save
FLAGS = {"argparse", "getopt", "optparse"}
WRITERS = {"write_text", "write_bytes", "savefig", "save", "savez", "savez_compressed"}


def wing_of(name):
    """ "sampling" of sampling.kernels; "__init__" of the package's own face."""
    return name.split(".")[0]


def is_in(name, places):
    """Whether a module is one of some places, or within one."""
    return any(f"{name}.".startswith(f"{place}.") for place in places)


def libraries_of(source):
    """Top-level packages imported."""
    return {name.split(".")[0] for name in house.imports_of(source)}


def text_of(name):
    return MODULES[name].read_text(encoding="utf-8")


def wings_imported(name):
    """Wings that a module imports from, its own left out."""
    return {wing_of(other) for other in house.imported_by(name)} - {wing_of(name)}


def written_by(source):
    """Calls that write a file: open with a mode to write, and WRITERS.

    A method of a Keras class that hands on to `super()` writes what its caller asks.
    """
    calls = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call)]
    calls = [call for call in calls if not ast.unparse(call).startswith("super().")]
    named = [(getattr(c.func, "attr", getattr(c.func, "id", "")), c) for c in calls]
    modes = [
        node.value
        for name, call in named
        if name == "open"
        for argument in [*call.args, *(k.value for k in call.keywords)]
        for node in [argument]
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    opened = {mode for mode in modes if len(mode) < 4 and set(mode) & set("wax+")}
    return opened | ({name for name, _ in named} & WRITERS)


def internals_called(source):
    """Private modules and attributes of libraries that a file names.

    An attribute with an underscore is one of a library if the file does not define it.
    """
    nodes = list(ast.walk(ast.parse(source)))
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    names = {node.attr for node in attributes} | set(map(name_asked_for, nodes))
    here = {node.attr for node in attributes if isinstance(node.ctx, ast.Store)}
    here |= {getattr(node, "name", "") for node in nodes}  # functions and classes
    fields = [node.target for node in nodes if isinstance(node, ast.AnnAssign)]
    here |= set(map(ast.unparse, fields))
    modules = house.imports_of(source) | set(map(ast.unparse, attributes))
    modules = {name for name in modules if is_in(name, INTERNALS)}
    return {name for name in names - here if house.is_private(name)} | modules


def name_asked_for(node):
    """ "_name" of getattr(value, "_name") and the like, else ""."""
    is_asked = isinstance(node, ast.Call) and len(node.args) > 1
    if is_asked and ast.unparse(node.func) in ("getattr", "hasattr", "setattr"):
        return str(getattr(node.args[1], "value", ""))
    return ""


def test_every_wing_is_in_the_table():
    assert {wing_of(name) for name in MODULES} == WINGS.keys()


def test_the_table_points_downwards():
    above = list(WINGS)
    for wing, below in WINGS.items():
        if wing not in ("__init__", "__main__", "cli"):
            assert all(above.index(one) < above.index(wing) for one in below), wing


@pytest.mark.parametrize("name", MODULES)
def test_wings_import_downwards_only(name):
    assert wings_imported(name) <= WINGS[wing_of(name)]


def test_no_circle_is_in_a_wing():
    """Modules can be read one after the other, each after all it imports from."""
    imports = {
        name: house.imported_by(name) for name in MODULES if "__init__" not in name
    }
    read = {name for name in MODULES if "__init__" in name}  # faces hand names on
    while ready := {n for n in imports.keys() - read if imports[n] <= read}:
        read |= ready
    assert read == MODULES.keys()


@pytest.mark.parametrize("name", MODULES)
def test_libraries_stay_in_their_rooms(name):
    libraries = libraries_of(text_of(name))
    for library, places in ONLY_IN.items():
        assert library not in libraries or is_in(name, places), library
    assert not libraries & {"keras", "tf_keras"} or is_in(name, WITH_KERAS)


@pytest.mark.parametrize("name", MODULES)
def test_only_scripts_read_flags_or_write_files(name):
    source = text_of(name)
    assert is_in(name, READS_FLAGS) or not libraries_of(source) & FLAGS
    assert "sys.argv" not in source
    assert is_in(name, WRITES_FILES) or not written_by(source)


@pytest.mark.parametrize(
    "measure, limit",
    [
        (house.files_by_folder, house.FILES),
        (house.lines_by_module, house.MODULE_LINES),
        (house.lines_by_class, house.CLASS_LINES),
        (house.lines_by_function, house.FUNCTION_LINES),
    ],
)
def test_rooms_are_small(measure, limit):
    sizes = measure()
    assert sizes and not {name: size for name, size in sizes.items() if size > limit}


def test_every_public_parameter_is_annotated():
    annotated, count = house.annotated()
    assert annotated == count > 1000


def test_no_name_with_an_underscore_crosses_files():
    assert not house.private_names_taken()


@pytest.mark.parametrize("name", MODULES)
def test_private_names_of_libraries_are_called_in_one_file(name):
    assert is_in(name, CALLS_INTERNALS) or not internals_called(text_of(name))


@pytest.mark.parametrize(
    "line",
    [
        "import keras.src.layers",
        "from keras.src import backend",
        "keras.src.backend.standardize_dtype(x)",
        "from tensorflow.python.framework import ops",
        "from tensorflow_probability.python.internal import prefer_static",
        "tensor._keras_history",
        "layer._inbound_nodes[0].operation",
        "getattr(layer, '_inbound_nodes')",
    ],
)
def test_no_form_of_a_private_call_escapes(line):
    assert internals_called(line)
    assert not internals_called("state._replace(x=1); self._x = 0; self._x")
    assert not internals_called("import keras, tensorflow as tf; tf.nn.relu(x)")


@pytest.mark.parametrize(
    "line",
    [
        "from keras_tilt import tilt",
        "from keras_tilt import tilt as t",
        "from keras_tilt.tilt import Tilt",
        "import keras_tilt.tilt",
        "from . import tilt",
        "from .tilt import Tilt",
        "def f():\n    from keras_tilt.tilt import Tilt",
    ],
)
def test_no_form_of_import_escapes(line, monkeypatch, tmp_path):
    path = tmp_path / "new.py"
    path.write_text(line)
    monkeypatch.setattr(house, "modules", lambda: MODULES | {"networks.new": path})
    assert wings_imported("networks.new") == {"tilt"}
    assert not wings_imported("networks.new") <= WINGS["networks"]


def test_a_module_of_a_wing_is_told_from_its_face(monkeypatch, tmp_path):
    path = tmp_path / "new.py"
    path.write_text("from keras_tilt.units import Unit\nimport keras_tilt.units.groups")
    monkeypatch.setattr(house, "modules", lambda: MODULES | {"new": path})
    assert house.imported_by("new") == {"units.__init__", "units.groups"}


@pytest.mark.parametrize(
    "line",
    [
        "open(path, 'w')",
        "path.open(mode='a')",
        "open(path, 'r+b')",
        "path.write_text('')",
        "np.savez(path, x)",
    ],
)
def test_no_form_of_writing_escapes(line):
    assert written_by(line)
    assert not written_by("open(path); path.open('rb'); path.read_text()")
    assert not written_by("super().save(path)")
