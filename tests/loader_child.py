"""Runs a SavedModel with TensorFlow alone, in a process of its own: see loaders.py.

    loader_child.py python|session|cli FOLDER SIGNATURE INPUTS OUTPUTS
    loader_child.py operations

INPUTS and OUTPUTS are folders with one .npy file per tensor of the signature.
"""

import pathlib
import sys

# To import them is an error from here on. TensorFlow itself does without Keras.
for absent in ("keras", "keras_tilt", "tensorflow_probability", "tf_keras"):
    sys.modules[absent] = None

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402


def run_python(folder, signature, inputs):
    """Load as a Python program does."""
    return tf.saved_model.load(folder).signatures[signature](
        **{name: tf.constant(value) for name, value in inputs.items()}
    )


def run_session(folder, signature, inputs):
    """Load into a graph session, as a server does."""
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        loaded = tf.compat.v1.saved_model.loader.load(session, ["serve"], folder)
        definition = dict(loaded.signature_def)[signature]
        return session.run(
            {name: info.name for name, info in definition.outputs.items()},
            {definition.inputs[name].name: value for name, value in inputs.items()},
        )


def run_cli(folder, signature, inputs, outputs):
    """Give the two folders to saved_model_cli."""
    from tensorflow.python.tools import saved_model_cli

    files = [f"{path.stem}={path}" for path in pathlib.Path(inputs).iterdir()]
    sys.argv = ["saved_model_cli", "run", "--dir", folder, "--tag_set", "serve"]
    sys.argv += ["--signature_def", signature, "--inputs", ";".join(files)]
    sys.argv += ["--outdir", outputs]
    saved_model_cli.main()


def print_operations():
    """Print the names of TensorFlow's registered operations."""
    from tensorflow.core.framework import op_def_pb2
    from tensorflow.python.client import pywrap_tf_session

    registered = pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList())
    print(*(op.name for op in op_def_pb2.OpList.FromString(registered).op))


def main(loader, *arguments):
    """Run one loader between the two folders."""
    if loader == "operations":
        return print_operations()
    if loader == "cli":
        return run_cli(*arguments)
    folder, signature, inputs, outputs = arguments
    arrays = {path.stem: np.load(path) for path in pathlib.Path(inputs).iterdir()}
    run = {"python": run_python, "session": run_session}[loader]
    for name, value in run(folder, signature, arrays).items():
        np.save(pathlib.Path(outputs, name), np.asarray(value))


if __name__ == "__main__":
    main(*sys.argv[1:])
