"""Servers and programs without this package get the numbers of who exported.

No test starts a container: `compose.yaml` and the lines for docker in the README of a
servable are written, and not run.
"""

import re

import loaders
import numpy as np
import pytest
import tensorflow as tf
from cases import slow_but

from keras_tilt.masking.serving import ServedSegmenter

LOADERS = [
    loaders.run_in_python,
    loaders.run_in_session,
    loaders.run_in_cli,
    loaders.run_in_c,
]
# Quick are those that are no Python: the server's own command, and its C library.
every_loader = pytest.mark.parametrize(
    "run_in", slow_but(LOADERS[2:], LOADERS), ids=lambda f: f.__name__
)


@pytest.fixture(scope="module")
def inputs():
    """Rows of all units, two of them the same."""
    return {
        "unit": np.array([2, 0, 1, 2], np.int32),
        "seed": np.array([[0, 7], [0, 7], [5, -1], [0, 7]], np.int32),
        "temperature": np.array([1.0, 0.5, 2.0, 1.0], np.float32),
    }


@pytest.fixture(scope="module")
def exported(served):
    return served / "1"


def tensors(inputs):
    return {name: tf.constant(value) for name, value in inputs.items()}


def load(run_in, *arguments):
    """Without gcc the C program is skipped, and the others are not."""
    try:
        return run_in(*arguments)
    except loaders.NoCompilerError as error:
        pytest.skip(str(error))


def assert_same_bits(run_in, version, module, signature, inputs):
    """What a loader gives is what the module does, of all that is no string."""
    expected = module.functions[signature](**tensors(inputs))
    expected = {name: value.numpy() for name, value in expected.items()}
    found = load(run_in, version, signature, inputs)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape
        assert found[name].tobytes() == value.tobytes(), name


@every_loader
def test_every_loader_gives_the_numbers_of_the_exporting_process(
    run_in, exported, small_sampler, inputs
):
    """With the noise, float32 numbers that round off nothing."""
    assert_same_bits(run_in, exported, small_sampler, "start", inputs)


@pytest.fixture(scope="module")
def labelled(small_segmenter, tmp_path_factory):
    """A served segmenter, and the folder that it is saved in."""
    served = ServedSegmenter(small_segmenter, ["sky", "road", "car"], superpixels=20)
    folder = tmp_path_factory.mktemp("labelled")
    tf.saved_model.save(served, str(folder), served.functions)
    return served, folder


@pytest.mark.slow
@every_loader
def test_every_loader_gives_the_labels_of_the_exporting_process(run_in, labelled):
    served, folder = labelled
    image = np.random.default_rng(0).integers(0, 256, [2, 20, 30, 3], np.uint8)
    assert_same_bits(run_in, folder, served, "serving_default", {"image": image})


@pytest.mark.slow
@every_loader
def test_every_loader_gives_the_labels_of_segments_too(run_in, labelled):
    served, folder = labelled
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, [2, 20, 30, 3], np.uint8)
    segments = rng.integers(-1, 5, [2, 20, 30], np.int32)
    inputs = {"image": image, "segments": segments}
    assert_same_bits(run_in, folder, served, "label_segments", inputs)


@pytest.mark.slow
def test_labels_write_nothing_and_call_no_python(labelled):
    _, folder = labelled
    assert "NonMaxSuppressionWithOverlaps" not in loaders.operations(folder)  # a vote
    assert loaders.graph_writes(folder) == set()
    assert loaders.python_ops(folder) == set()


@every_loader
def test_what_the_graph_refuses_is_an_error_that_says_so(run_in, exported, inputs):
    inputs = inputs | {"unit": np.array([2, 0, 3, 2], np.int32)}
    with pytest.raises(RuntimeError) as raised:
        load(run_in, exported, "serving_default", inputs)
    assert "Request 2: `unit` must lie in 0..2. Received: 3." in str(raised.value)
    assert re.search("InvalidArgument|INVALID_ARGUMENT", str(raised.value))


def test_without_a_compiler_the_c_program_is_skipped(exported, inputs, monkeypatch):
    loaders._compiled.cache_clear()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(pytest.skip.Exception, match="gcc is not here"):
        load(loaders.run_in_c, exported, "serving_default", inputs)


def test_requests_write_nothing_and_call_no_python(exported):
    found = loaders.operations(exported)
    # A gradient within a loop, behind calls; and restoring, which does write.
    assert {"Conv2DBackpropInput", "AssignVariableOp", "RestoreV2"} <= found
    assert loaders.graph_writes(exported) == set()
    assert loaders.python_ops(exported) == set()


def read(count):
    return count.read_value()


def write_in_a_loop(count):
    return tf.while_loop(
        lambda i: i < 3.0, lambda i: [i + count.assign_add(1.0)], [tf.constant(0.0)]
    )[0]


def call_python(count):
    return tf.py_function(lambda: 1.0, [], tf.float32)


@pytest.mark.parametrize(
    "function, writes, python",
    [
        pytest.param(read, set(), set(), id="neither"),
        pytest.param(write_in_a_loop, {"AssignAddVariableOp"}, set(), id="writes"),
        pytest.param(call_python, set(), {"EagerPyFunc"}, id="calls"),
    ],
)
def test_writes_and_calls_of_python_are_found(function, writes, python, tmp_path):
    module = tf.Module()
    module.count = tf.Variable(0.0)
    module.serve = tf.function(lambda: function(module.count), input_signature=[])
    tf.saved_model.save(module, tmp_path, signatures=module.serve)
    assert loaders.graph_writes(tmp_path) == writes
    assert loaders.python_ops(tmp_path) == python


def test_writes_without_a_function_are_found(tmp_path):
    """As in graphs of TensorFlow 1, whose variables are references."""
    folder = str(tmp_path / "1")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        count = tf.compat.v1.get_variable("count", [], use_resource=False)
        more = tf.compat.v1.placeholder(tf.float32, [])
        with tf.control_dependencies([tf.compat.v1.assign_add(count, more)]):
            outputs = {"more": more + 1.0}
        session.run(count.initializer)
        tf.compat.v1.saved_model.simple_save(session, folder, {"by": more}, outputs)
    assert loaders.graph_writes(folder) == {"AssignAdd"}
