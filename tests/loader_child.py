"""Runs SavedModels with TensorFlow alone, in processes of their own: see loaders.py.

It imports TensorFlow, which takes seconds, runs no operation, and forks for each job.
A job is a line of its input, in JSON, and the answer is the exit code of the fork:

    [SAID, "python" or "session" or "cli", FOLDER, SIGNATURE, INPUTS, OUTPUTS]
    [SAID, "operations"]

INPUTS and OUTPUTS are folders with one .npy file per tensor of the signature; SAID is
one for the files "out" and "err".
"""

import json
import os
import pathlib
import signal
import sys
import traceback

# To import them is an error from here on. TensorFlow itself does without Keras.
for absent in ("keras", "keras_tilt", "tensorflow_probability", "tf_keras"):
    sys.modules[absent] = None

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from tensorflow.core.framework import op_def_pb2  # noqa: E402
from tensorflow.python.client import pywrap_tf_session  # noqa: E402
from tensorflow.python.tools import saved_model_cli  # noqa: E402

SECONDS = 300  # after which a job is ended


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
    files = [f"{path.stem}={path}" for path in pathlib.Path(inputs).iterdir()]
    sys.argv = ["saved_model_cli", "run", "--dir", folder, "--tag_set", "serve"]
    sys.argv += ["--signature_def", signature, "--inputs", ";".join(files)]
    sys.argv += ["--outdir", outputs]
    saved_model_cli.main()


def print_operations():
    """Print the names of TensorFlow's registered operations."""
    registered = pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList())
    print(*(op.name for op in op_def_pb2.OpList.FromString(registered).op))


def run(loader, *arguments):
    """Run one loader between the two folders."""
    if loader == "operations":
        return print_operations()
    if loader == "cli":
        return run_cli(*arguments)
    folder, signature, inputs, outputs = arguments
    arrays = {path.stem: np.load(path) for path in pathlib.Path(inputs).iterdir()}
    function = {"python": run_python, "session": run_session}[loader]
    for name, value in function(folder, signature, arrays).items():
        np.save(pathlib.Path(outputs, name), np.asarray(value))


def become(said, job):
    """Run a job as a program would, and end this process."""
    signal.alarm(SECONDS)
    code = 1
    try:
        for place, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(pathlib.Path(said, name), os.O_CREAT | os.O_WRONLY), place)
        run(*job)
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main():
    """Fork for every line."""
    for line in sys.stdin:
        said, *job = json.loads(line)
        pid = os.fork()
        if not pid:
            become(said, job)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
