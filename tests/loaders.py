"""Four ways to run a SavedModel without this package, and what its graph holds.

Every `run_in_...` takes a version folder, the name of a signature and a dict of arrays,
and returns a dict of arrays; each runs in a process of its own, with TensorFlow alone.
"""

import atexit
import contextlib
import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry

__all__ = [
    "NoCompilerError",
    "graph_writes",
    "operations",
    "python_ops",
    "run_in_c",
    "run_in_cli",
    "run_in_python",
    "run_in_session",
    "signature_def",
]

HERE = pathlib.Path(__file__).parent

# Ops that take a resource or a reference and leave it as it is.
READERS = {
    "IsVariableInitialized",
    "LookupTableFindV2",
    "LookupTableSizeV2",
    "ReadVariableOp",
    "ResourceGather",
    "ResourceGatherNd",
    "VarIsInitializedOp",
    "VariableShape",
}
PYTHON_OPS = {"EagerPyFunc", "PyFunc", "PyFuncStateless"}


class NoCompilerError(Exception):
    """gcc is not on this machine."""


def run_in_python(version_folder, signature_name, inputs):
    """`tf.saved_model.load`, as a Python program."""
    return _run_child("python", version_folder, signature_name, inputs)


def run_in_session(version_folder, signature_name, inputs):
    """The loader of graph sessions, whose C++ twin a server runs."""
    return _run_child("session", version_folder, signature_name, inputs)


def run_in_cli(version_folder, signature_name, inputs):
    """`saved_model_cli run`, as a shell does."""
    return _run_child("cli", version_folder, signature_name, inputs)


def run_in_c(version_folder, signature_name, inputs):
    """`TF_LoadSessionFromSavedModel`, in C; outputs that are strings are left out.

    Raises:
        NoCompilerError: there is no gcc.
    """
    definition = signature_def(version_folder, signature_name)
    feeds, fetches = dict(definition.inputs), _without_strings(definition.outputs)
    with _folder() as scratch:
        command = [_compiled(), version_folder, len(inputs)]
        for name, value in inputs.items():
            command += _feed(feeds[name], value, scratch / f"{name}.in")
        for name, info in fetches.items():
            command += [*info.name.rsplit(":", 1), scratch / f"{name}.out"]
        shapes = _run(command).splitlines()
        return {
            name: _fetched(info, shape, scratch / f"{name}.out")
            for (name, info), shape in zip(fetches.items(), shapes, strict=True)
        }


def signature_def(version_folder, name):
    """The `SignatureDef` of this name."""
    # A protobuf map would answer an unknown name with an empty message.
    return dict(_graph_of(version_folder).signature_def)[name]


def operations(version_folder):
    """Names of all operations in the graph and its functions."""
    graph, functions = _nodes_of(version_folder)
    return {node.op for nodes in (graph, *functions.values()) for node in nodes}


def graph_writes(version_folder):
    """Names of operations behind a signature's outputs that may write a variable.

    An operation that is handed a resource or a reference writes, unless it is one of
    READERS. A function that is called runs all its stateful operations, whatever it
    returns, so that all of them count.
    """
    graph, functions = _nodes_of(version_folder)
    by_name = {node.name: node for node in graph}
    names = _closure(
        _outputs_of(version_folder),
        lambda name: [_node_of(tensor) for tensor in by_name[name].input],
    )
    nodes = [by_name[name] for name in names]
    called = _closure(
        _called_by(nodes, functions),
        lambda name: _called_by(functions[name], functions),
    )
    nodes += [node for name in called for node in functions[name]]
    return {node.op for node in nodes if _may_write(node.op)}


def python_ops(version_folder):
    """Names of operations that TensorFlow alone does not have, or that call Python."""
    _, functions = _nodes_of(version_folder)
    found = operations(version_folder) - functions.keys()
    return (found - _registered()) | (found & PYTHON_OPS)


# Processes


def _run(command):
    """Standard output of a command.

    Raises:
        RuntimeError: it failed; the message ends with what it said.
    """
    run = subprocess.run(
        list(map(str, command)),
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    return _checked(command[0], run.returncode, run.stdout, run.stderr)


def _environment():
    """Without this package's PYTHONPATH.

    All else is passed on: TF_ENABLE_ONEDNN_OPTS and the number of threads decide the
    last bits of float32 sums.
    """
    return {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}


def _checked(program, code, out, err):
    """What a program printed, if it did not fail."""
    if code:
        said = "\n".join(err.splitlines()[-20:])
        raise RuntimeError(f"{program} ended with {code}:\n{said}")
    return out


@functools.cache
def _starter():
    """The process of loader_child.py, which ends with this one."""
    # -P: neither the working directory nor the script's is on the path.
    return subprocess.Popen(
        [sys.executable, "-P", HERE / "loader_child.py"],
        env=_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _python(*job):
    """Standard output of a job of loader_child.py."""
    with _folder() as said:
        starter = _starter()
        starter.stdin.write(json.dumps([str(said), *map(str, job)]) + "\n")
        starter.stdin.flush()
        code = int(starter.stdout.readline())
        out, err = ((said / name).read_text() for name in ("out", "err"))
    return _checked("loader_child.py", code, out, err)


def _run_child(loader, version_folder, signature_name, inputs):
    with _folder() as given, _folder() as got:
        for name, value in inputs.items():
            np.save(given / f"{name}.npy", value)
        _python(loader, version_folder, signature_name, given, got)
        # Strings are objects, saved as pickles.
        return {
            path.stem: np.load(path, allow_pickle=True) for path in got.glob("*.npy")
        }


@contextlib.contextmanager
def _folder():
    with tempfile.TemporaryDirectory() as folder:
        yield pathlib.Path(folder)


def _without_strings(outputs):
    string = tf.string.as_datatype_enum
    return {name: info for name, info in outputs.items() if info.dtype != string}


def _feed(info, value, path):
    """Write an array to a file, and name it as the C program's arguments do."""
    value = np.asarray(value, tf.as_dtype(info.dtype).as_numpy_dtype)
    value.tofile(path)
    shape = ",".join(map(str, value.shape)) or "-"
    return [*info.name.rsplit(":", 1), info.dtype, shape, path]


def _fetched(info, shape, path):
    """The array that the C program wrote, whose shape it printed."""
    flat = np.fromfile(path, tf.as_dtype(info.dtype).as_numpy_dtype)
    return flat.reshape([int(size) for size in shape.split()])


@functools.cache
def _compiled():
    """The C program, compiled once in this process."""
    if shutil.which("gcc") is None:
        raise NoCompilerError("gcc is not here: tests/load_saved_model.c is not run.")
    folder = pathlib.Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    libraries = pathlib.Path(tf.sysconfig.get_lib())
    command = ["gcc", "-Wall", HERE / "load_saved_model.c", "-o", folder / "program"]
    command += [f"-I{tf.sysconfig.get_include()}", f"-Wl,-rpath,{libraries}"]
    command += sorted(libraries.glob("libtensorflow_[cf]*.so.2"))
    if shutil.which("ld.gold"):  # 2 s instead of 10 for libraries of a gigabyte
        command.append("-fuse-ld=gold")
    _run(command)
    return folder / "program"


@functools.cache
def _registered():
    """Names of the operations of a process that imported TensorFlow alone."""
    return set(_python("operations").split())


# Graphs


def _graph_of(version_folder):
    """The `MetaGraphDef` that servers load."""
    model = saved_model_pb2.SavedModel()
    model.ParseFromString(pathlib.Path(version_folder, "saved_model.pb").read_bytes())
    (graph,) = [g for g in model.meta_graphs if "serve" in g.meta_info_def.tags]
    return graph


def _nodes_of(version_folder):
    """Nodes of the graph, and those of each function by the name of the function."""
    graph = _graph_of(version_folder).graph_def
    functions = {f.signature.name: f.node_def for f in graph.library.function}
    return graph.node, functions


def _outputs_of(version_folder):
    """Names of nodes that the signatures return; what runs while loading is none."""
    signatures = _graph_of(version_folder).signature_def.items()
    return {
        _node_of(info.name)
        for name, signature in signatures
        if not name.startswith("__saved_model_")
        for info in signature.outputs.values()
    }


def _node_of(tensor):
    """Node of "node", "node:0" or "^node", the last a control input."""
    return tensor.removeprefix("^").split(":")[0]


def _called_by(nodes, functions):
    """Names of the functions that nodes call, as their operation or an attribute."""
    values = [value for node in nodes for value in node.attr.values()]
    names = [node.op for node in nodes]
    names += [value.func.name for value in values]
    names += [function.name for value in values for function in value.list.func]
    return [name for name in names if name in functions]


def _closure(start, next_of):
    """All that is reached from `start`, itself included."""
    reached, waiting = set(), list(start)
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += next_of(name)
    return reached


def _may_write(op):
    """Whether an operation is handed a resource or a reference and is no reader."""
    definition = op_def_registry.get(op)
    return op not in READERS and any(
        argument.type == tf.resource.as_datatype_enum or argument.is_ref
        for argument in (definition.input_arg if definition else ())
    )
