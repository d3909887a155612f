"""A servable on disk: what TensorFlow Serving takes, and what its users need beside it.

    NAME/
      1/                        a version; the server takes the highest
        saved_model.pb, variables/
        assets/                 the certificate, the names of classes: JSON
        assets.extra/           requests to warm up with, a golden request and response
      model.config              for --model_config_file
      batching.config           for --batching_parameters_file
      compose.yaml  README.md   how to start it, and how to ask it

A version appears whole or not at all: the server looks at the folder all the time.
"""

__all__ = [
    "asking",
    "check_can_write",
    "environment",
    "filled",
    "golden_of",
    "next_version",
    "numbers_as_json",
    "readme",
    "template",
    "write_servable",
]

import base64
import importlib
import importlib.resources
import json
import os
import pathlib
import re
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

Request = tuple[str, Mapping[str, ArrayLike]]  # name of a signature, its inputs

# The server's own ports, and how many batches may wait before it says that it is busy.
_NUMBERS = {"grpc": 8500, "rest": 8501, "waiting": 100}
_BESIDE = ("model.config", "batching.config", "compose.yaml")  # and README.md


def write_servable(
    folder: str | os.PathLike,
    module: tf.Module,
    golden: Request,
    warmup: Sequence[Request],
    assets: Mapping[str, Any],
    batch_size: int,
    readme: str,
) -> pathlib.Path:
    """Write the next version of a servable, and the files beside it.

    Args:
        folder: of the servable; its name is that of the model.
        module: with `functions`, name of a signature -> its graph.
        golden: (name of a signature, arrays), a request to keep with its response.
        warmup: requests that the server makes before it is ready.
        assets: file name -> value that JSON knows.
        batch_size: most requests of a batch.
        readme: text of README.md, in which {name}, {version} and {tree} are filled in.

    Returns:
        version: path of the new version.

    Raises:
        ValueError: for a folder whose name cannot be that of a model, or without the
            package of the server's messages.
    """
    check_can_write(folder)
    folder = pathlib.Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    version = folder / str(next_version(folder))
    part = folder / f".{version.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(module, str(part), dict(module.functions), options)
    for name, value in assets.items():
        _write(part / "assets" / name, json.dumps(value, indent=1) + "\n")
    extra = part / "assets.extra"
    extra.mkdir()
    _write_warmup(extra / "tf_serving_warmup_requests", folder.name, warmup)
    request, response = golden_of(module, *golden)
    _write(extra / "golden_request.json", numbers_as_json(request) + "\n")
    _write(extra / "golden_response.json", numbers_as_json(response) + "\n")
    os.replace(part, version)
    texts = {name: template(name) + "\n" for name in _BESIDE} | {"README.md": readme}
    values = {"start": template("start.md"), "name": folder.name}
    values |= {"version": version.name, "tree": _tree(version)}
    values |= {"batch_size": batch_size} | _NUMBERS | environment()
    for name, text in texts.items():
        _write(folder / name, filled(text, values))
    return version


def check_can_write(folder: str | os.PathLike) -> None:
    """Raise a ValueError where `write_servable` could not write, before long work.

    Args:
        folder: of the servable, whose name goes into addresses and configurations.
    """
    name = pathlib.Path(folder).resolve().name
    if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ValueError(
            "Expected a folder with a name of letters, digits, '_', '-' and '.', which "
            f"is that of the model. Received: {name!r}. Choose another --out."
        )
    try:
        importlib.import_module("tensorflow_serving")
    except ImportError as error:
        raise ValueError(
            "Expected tensorflow-serving-api, for requests to warm up with. Received: "
            "none. Get it with: pip install tensorflow-serving-api"
        ) from error


def next_version(folder: str | os.PathLike) -> int:
    """Return the number after the highest version of a folder, 1 if there is none."""
    names = [path.name for path in pathlib.Path(folder).glob("*")]
    numbers = [int(name) for name in names if name.isascii() and name.isdigit()]
    return max(numbers, default=0) + 1


def environment() -> dict[str, Any]:
    """Return what the bits of a response depend on besides the processor."""
    onednn = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1")
    return {
        "tensorflow": tf.__version__,
        "onednn": f"TF_ENABLE_ONEDNN_OPTS={onednn}",
        "threads": tf.config.threading.get_intra_op_parallelism_threads()
        or os.cpu_count(),
    }


def golden_of(
    module: tf.Module, name: str, inputs: Mapping[str, ArrayLike]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a request as the REST interface takes it, and its response."""
    outputs = module.functions[name](**{k: tf.constant(v) for k, v in inputs.items()})
    request = {"signature_name": name, "inputs": inputs}
    return request, {"outputs": {k: outputs[k].numpy() for k in sorted(outputs)}}


def numbers_as_json(value: Any) -> str:
    """Return arrays as JSON, from which float32 numbers come back bit for bit.

    As in the REST interface, strings are base64 where their name ends in `_bytes`, and
    text elsewhere.

    Args:
        value: dicts, lists and arrays, within each other.
    """
    return json.dumps(_plain(value))


def _plain(value, name=""):
    if isinstance(value, dict):
        return {key: _plain(part, key) for key, part in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(part, name) for part in value]
    if isinstance(value, bytes):
        is_text = not name.endswith("_bytes")
        return value.decode() if is_text else {"b64": base64.b64encode(value).decode()}
    return _with_few_digits(value)


def _with_few_digits(value):
    """A float32 as the number of the fewest digits that give its bits again."""
    if isinstance(value, np.float32):
        return float(str(value))
    return value.item() if isinstance(value, np.generic) else value


def _write_warmup(path, name, requests):
    """The requests that a server makes of a version before it takes others."""
    # Imported here: the library is of use without it.
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in requests:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = name
            request.model_spec.signature_name = signature
            for key, value in inputs.items():
                request.inputs[key].CopyFrom(_short_proto(np.asarray(value)))
            log = prediction_log_pb2.PredictLog(request=request)
            record = prediction_log_pb2.PredictionLog(predict_log=log)
            writer.write(record.SerializeToString())


def _short_proto(value):
    """A `TensorProto`; of an array of one number that number, and the shape."""
    if value.dtype.kind in "iuf" and value.size and np.ptp(value) == 0:
        return tf.make_tensor_proto(value.flat[0], value.dtype, value.shape)
    return tf.make_tensor_proto(value)


def _write(path, text):
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    part.replace(path)


# Texts


def template(name: str) -> str:
    """Return the text of a file in `templates`, without the last end of line."""
    folder = importlib.resources.files("keras_tilt.serving") / "templates"
    return (folder / name).read_text(encoding="utf-8").removesuffix("\n")


def filled(text: str, values: Mapping[str, Any]) -> str:
    """Return a text with values in the place of their names in braces."""
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", str(value))
    return text


def readme(name: str, values: Mapping[str, Any]) -> str:
    """Return README.md of a template, with values filled in, for `write_servable`."""
    return filled(template(name), values) + "\n"


def asking(signature: str, program: str) -> str:
    """Return text for README.md: how to ask a signature of `image_bytes`.

    Args:
        signature: its name.
        program: lines of Python that do something with `response`.
    """
    values = {"signature": signature, "program": program}
    return filled(template("asking.md"), values)


def _tree(version):
    """The files of a version, with their sizes in kB, as lines of code in a README."""
    files = [path for path in sorted(version.rglob("*")) if path.is_file()]
    return "\n    ".join(
        f"{str(path.relative_to(version.parent)):<52}"
        f"{-(-path.stat().st_size // 1000):>7} kB"
        for path in files
    )
