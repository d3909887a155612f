"""Imports obey the page of rooms: data flows one way, effects live at the edges.

    data -> network -> logits or unit -> tilt -> samples -> diagnostics -> figure

A new module must be entered in ROOMS, with the rooms it may import from.
"""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "keras_tilt"


def room_of(path):
    """ "sampler" of sampler.py, "masking.layers" of masking/layers.py."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[1:] and parts[-1] == "__init__" else parts)


MODULES = {room_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}

ROOMS = {
    "_start": set(),
    "adaptation": set(),
    "arguments": set(),
    "assertions": set(),
    "batches": {"arguments"},
    "callbacks": {"arguments", "sampler", "tilt"},
    "certificate": {"adaptation", "chains"},
    "chains": {"arguments", "kernels"},
    "comparison": {"storage"},
    "data": {"arguments", "batches", "prepared"},
    "diagnostics": set(),
    "evaluation": {"objective", "passes"},
    "features": {"gradients", "graph", "outputs"},
    "flags": set(),
    "gradients": set(),
    "graph": set(),
    "image_files": set(),
    "importance": set(),
    "kept": {"graph"},
    "kernels": {"gradients"},
    "masking.assignment": {"masking.segments"},
    "masking.backbone": {"graph"},
    "masking.examples": {"masking.assignment"},
    "masking.layers": {"masking.pooling", "masking.projection"},
    "masking.pasting": set(),
    "masking.pooling": set(),
    "masking.projection": {"graph", "receptive_field"},
    "masking.proposals": {"arguments", "masking.segments"},
    "masking.scenes": {"arguments", "prepared"},
    "masking.scores": set(),
    "masking.segmenter": {
        "arguments",
        "graph",
        "masking.pooling",
        "masking.projection",
    },
    "masking.segments": {"arguments"},
    "masking.serving": {
        "arguments",
        "masking.examples",
        "masking.pasting",
        "masking.segmenter",
        "masking.superpixels",
        "signatures",
    },
    "masking.superpixels": {"arguments", "masking.examples"},
    "masking.svm": set(),
    "model": {
        "arguments",
        "assertions",
        "graph",
        "objective",
        "outputs",
        "passes",
        "reference_queue",
        "row_metrics",
    },
    "named": {
        "graph",
        "networks",
        "outputs",
        "receptive_field",
        "reference",
        "units",
    },
    "networks": set(),
    "objective": {"assertions"},
    "optimizer": set(),
    "outputs": {"graph"},
    "partition": {
        "adaptation",
        "arguments",
        "chains",
        "diagnostics",
        "importance",
        "plan",
        "storage",
        "tilt",
        "tilt_groups",
    },
    "passes": set(),
    "plan": {"adaptation", "arguments", "chains", "kernels", "storage"},
    "plotting": set(),
    "receptive_field": {"graph"},
    "prepared": set(),
    "reference_queue": set(),
    "reference": {"arguments", "gradients", "spectrum", "transports"},
    "row_metrics": set(),
    "sampler": {
        "adaptation",
        "arguments",
        "chains",
        "diagnostics",
        "plan",
        "samples",
        "storage",
        "tilt",
        "tilt_groups",
    },
    "samples": {"diagnostics", "storage"},
    "scale": {"adaptation", "arguments", "chains", "plan", "tilt", "tilt_groups"},
    "servable": set(),
    "serving": {
        "adaptation",
        "arguments",
        "chains",
        "graph",
        "kernels",
        "outputs",
        "several",
        "signatures",
        "tilt_groups",
        "units",
    },
    "several": {"units"},
    "signatures": {"image_files"},
    "sources": {"arguments", "image_files", "prepared", "storage"},
    "spectrum": {"arguments", "passes"},
    "storage": set(),
    "tilt": {"gradients", "transports"},
    "tilt_groups": {"chains", "kept", "several", "tilt", "units"},
    "training": {"arguments", "storage"},
    "transports": set(),
    "units": {"arguments", "features", "graph", "receptive_field"},
}
ROOMS["masking"] = {room for room in ROOMS if room.startswith("masking.")}
ROOMS["__init__"] = set(ROOMS) - {"masking"} - ROOMS["masking"]

# The only rooms that may import a library.
ONLY_IN = {
    "matplotlib": {"plotting"},
    "pycocotools": {"masking.segments"},
    "skimage": {"masking.proposals", "masking.scenes"},
    "sklearn": {"masking.proposals", "masking.svm"},
    "tensorflow_datasets": {
        "data",
        "masking.scenes",
        "prepared",
        "sources",
    },
}
WITHOUT_KERAS = {
    "adaptation",
    "arguments",
    "assertions",
    "batches",
    "certificate",
    "chains",
    "comparison",
    "diagnostics",
    "evaluation",
    "image_files",
    "importance",
    "kernels",
    "masking.assignment",
    "masking.examples",
    "masking.pasting",
    "masking.pooling",
    "masking.proposals",
    "masking.scenes",
    "masking.scores",
    "masking.segments",
    "masking.svm",
    "objective",
    "partition",
    "passes",
    "plan",
    "plotting",
    "prepared",
    "reference",
    "reference_queue",
    "sampler",
    "samples",
    "scale",
    "servable",
    "sources",
    "spectrum",
    "storage",
    "tilt",
    "transports",
}
# Reading flags is left to the scripts, writing files to them and to two rooms.
WRITING_ROOMS = {"servable", "storage"}
FLAGS = {"argparse", "getopt", "optparse"}
WRITERS = {"write_text", "write_bytes", "savefig", "save", "savez", "savez_compressed"}


def imports_of(source):
    """Every module imported, also inside functions, as dotted names."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = ["keras_tilt"] * bool(node.level) + [node.module] * bool(
                node.module
            )
            names |= {".".join([*origin, alias.name]) for alias in node.names}
    return names


def rooms_of(source):
    """The rooms imported from; the package itself counts as one, "keras_tilt"."""
    paths = [name.split(".") for name in imports_of(source)]
    return {_room_within(path) for path in paths if path[0] == PACKAGE.name}


def _room_within(path):
    """The room of a dotted path that begins with the package: of a.b.name, a.b."""
    inner = ".".join(path[1:3])
    return inner if inner in ROOMS else ".".join(path[:2][-1:])


def libraries_of(source):
    """Top-level packages imported."""
    return {name.split(".")[0] for name in imports_of(source)}


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


def test_every_room_is_on_the_page():
    assert MODULES.keys() == ROOMS.keys(), "Enter a new module in ROOMS."


@pytest.mark.parametrize("room", MODULES)
def test_rooms_import_only_what_the_page_allows(room):
    assert rooms_of(MODULES[room].read_text()) <= ROOMS.get(room, set())


def test_the_page_has_no_circle():
    """Rooms can be entered one after the other, each after all it imports from."""
    entered = set()
    while ready := {r for r in ROOMS.keys() - entered if ROOMS[r] <= entered}:
        entered |= ready
    assert entered == ROOMS.keys()


@pytest.mark.parametrize("room", MODULES)
def test_libraries_stay_in_their_rooms(room):
    libraries = libraries_of(MODULES[room].read_text())
    assert (
        not {name for name, rooms in ONLY_IN.items() if room not in rooms} & libraries
    )
    assert not (room in WITHOUT_KERAS and libraries & {"keras", "tf_keras"})


@pytest.mark.parametrize("room", MODULES)
def test_only_scripts_read_flags_or_write_files(room):
    source = MODULES[room].read_text()
    assert room == "flags" or not libraries_of(source) & FLAGS
    assert "sys.argv" not in source
    assert room in WRITING_ROOMS or not written_by(source)


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
def test_no_form_of_import_escapes(line):
    assert rooms_of(line) == {"tilt"}


@pytest.mark.parametrize(
    "line",
    [
        "from keras_tilt.masking import layers",
        "from keras_tilt.masking.layers import FeatureMasking",
        "import keras_tilt.masking.layers as layers",
        "from .masking import layers",
    ],
)
def test_rooms_of_a_folder_are_told_apart(line):
    assert rooms_of(line) == {"masking.layers"}
    assert rooms_of("from keras_tilt.masking import Segmenter") == {"masking"}


def test_the_package_itself_is_no_way_around():
    assert rooms_of("import keras_tilt as kt") == {"keras_tilt"}
    assert rooms_of("import keras, keras_tilted") == set()


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
