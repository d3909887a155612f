"""A stand-in for `tensorflow_model_server`, for where that binary is not installed.

`StandIn` is not TensorFlow Serving: it answers the server's messages from Python, so
that a SavedModel can be tested over the wire. `ModelServer` starts the real one.

As the real one it
- serves the highest version from a session of the "serve" graph, and checks names and
  types of what it feeds, not shapes;
- replays assets.extra/tf_serving_warmup_requests before it is ready;
- answers Predict and GetModelMetadata over gRPC, predict, status and metadata over
  REST, with the server's codes and much of its wording;
- merges requests that wait, given a file of BatchingParameters as `batching`; an
  error fails every request of its batch.

Unlike the real one it
- knows no Classify, Regress, labels, second model, or reloading;
- runs all outputs, also of a request that filters them;
- reads HTTP and JSON with Python's libraries, which word their errors differently;
- refuses a request of another type before it is merged, where the real one may fail
  the batch, and one of no rows, which the real one keeps until others come.

Source: tensorflow/serving: predict_util.cc, batching_session.cc, json_tensor.cc,
http_rest_api_util.cc; https://www.tensorflow.org/tfx/serving/api_rest.
"""

import base64
import collections
import dataclasses
import http.server
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from concurrent import futures

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.protobuf import config_pb2
from tensorflow_serving.apis import get_model_metadata_pb2 as metadata_pb2
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

__all__ = ["Batcher", "ModelServer", "StandIn", "batching_parameters"]

GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}
HTTP_CODES = {
    tf.errors.INVALID_ARGUMENT: 400,
    tf.errors.FAILED_PRECONDITION: 400,
    tf.errors.NOT_FOUND: 404,
    tf.errors.UNAVAILABLE: 503,
}


def invalid(message):
    return tf.errors.InvalidArgumentError(None, None, message)


def unmet(message):
    return tf.errors.FailedPreconditionError(None, None, message)


class Model:
    """The highest version of a SavedModel, in a session."""

    def __init__(self, folder, name, batching):
        self.name = name
        self.version = max(int(p.name) for p in folder.iterdir() if p.name.isdigit())
        path = folder / str(self.version)
        self.session = tf.compat.v1.Session(graph=tf.Graph())
        graph = tf.compat.v1.saved_model.loader.load(self.session, ["serve"], str(path))
        self.signatures = dict(graph.signature_def)
        parameters = batching and batching_parameters(batching)
        self.runs = {}
        for key, signature in self.signatures.items():
            if signature.method_name == "tensorflow/serving/predict":
                run = run_of(self.session, signature)
                self.runs[key] = Batcher(run, parameters) if parameters else run
        self.warm_up(path / "assets.extra" / "tf_serving_warmup_requests")

    def close(self):
        for run in self.runs.values():
            if isinstance(run, Batcher):
                run.close()
        self.session.close()

    def warm_up(self, path):
        for record in tf.data.TFRecordDataset(str(path)) if path.exists() else ():
            log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
            self.run(log.predict_log.request)

    def check(self, spec):
        """NOT_FOUND unless `spec` names this model and, if any, this version."""
        version = spec.version.value if spec.HasField("version") else self.version
        if (spec.name, version) != (self.name, self.version):
            message = f"Servable not found for request: {spec.name}, version {version}"
            raise tf.errors.NotFoundError(None, None, message)

    def predict(self, request):
        """PredictResponse of a PredictRequest."""
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        self.check(request.model_spec)
        return self.run(request)

    def run(self, request):
        key = request.model_spec.signature_name or "serving_default"
        if key not in self.runs:
            raise unmet(f'Serving signature key "{key}" not found.')
        signature = self.signatures[key]
        kept = kept_of(request.output_filter, signature.outputs)
        outputs = self.runs[key](arrays_of(request.inputs, signature.inputs))
        response = predict_pb2.PredictResponse()
        self.name_in(response.model_spec, key)
        infos = sorted(signature.outputs.items())
        for (alias, info), output in zip(infos, outputs, strict=True):
            if alias in kept:
                proto = tf.make_tensor_proto(output, info.dtype, output.shape)
                response.outputs[alias].CopyFrom(proto)
        return response

    def metadata(self, request):
        """GetModelMetadataResponse with the signatures."""
        if list(request.metadata_field) != ["signature_def"]:
            raise invalid(f"Metadata field {request.metadata_field} is not supported")
        self.check(request.model_spec)
        response = metadata_pb2.GetModelMetadataResponse()
        self.name_in(response.model_spec)
        signatures = metadata_pb2.SignatureDefMap(signature_def=self.signatures)
        response.metadata["signature_def"].Pack(signatures)
        return response

    def name_in(self, spec, signature_name=""):
        spec.name, spec.signature_name = self.name, signature_name
        spec.version.value = self.version


def run_of(session, signature):
    """A function of arrays, both they and its values in the order of their names."""
    options = config_pb2.CallableOptions()
    options.feed.extend(info.name for _, info in sorted(signature.inputs.items()))
    options.fetch.extend(info.name for _, info in sorted(signature.outputs.items()))
    # Session.run and make_callable would hold feeds against the placeholders' shapes.
    run = session._make_callable_from_options(options)
    return lambda arrays: run(*arrays)


def arrays_of(protos, inputs):
    if extra := set(protos) ^ set(inputs):
        raise invalid(
            f"input size does not match signature: {len(protos)}!={len(inputs)}. Sent "
            f"extra or missing: {sorted(extra)}"
        )
    return [array_of(protos[alias], inputs[alias], alias) for alias in sorted(inputs)]


def array_of(proto, info, alias):
    """Array of a TensorProto, parsed by TensorFlow's C++ as in the server."""
    dtype = tf.dtypes.as_dtype(info.dtype)
    if proto.dtype != info.dtype:
        raise invalid(f"Expects {alias} to be {dtype.name}, not type {proto.dtype}")
    try:
        array = tf.io.parse_tensor(proto.SerializeToString(), dtype).numpy()
    except tf.errors.OpError as error:
        raise invalid(f"tensor parsing error: {alias}") from error
    return np.asarray(array, dtype.as_numpy_dtype)


def kept_of(asked, outputs):
    for alias in asked:
        if alias not in outputs:
            raise invalid(f"output tensor alias not found in signature: {alias}")
    if len(set(asked)) < len(asked):
        raise invalid(f"duplicate output tensor alias: {list(asked)}")
    return set(asked or outputs)


# Batching


def batching_parameters(path):
    """Fields of BatchingParameters in a text proto, or the server's defaults."""
    parameters = {
        "max_batch_size": 1000,
        "batch_timeout_micros": 0,
        "max_enqueued_batches": 10,
        "num_batch_threads": os.cpu_count(),
        "allowed_batch_sizes": [],
    }
    field = r"(\w+)\s*(?::|\{\s*value\s*:)\s*(\d+)\s*\}?\s*"
    text = re.sub("#.*", "", pathlib.Path(path).read_text())
    found = re.findall(field, text)
    unknown = {key for key, _ in found} - set(parameters)
    if unknown or re.sub(field, "", text).strip():
        raise ValueError(f"Expected numbers for {list(parameters)}. Received: {text}")
    parameters |= {key: int(value) for key, value in found}
    sizes = [int(value) for key, value in found if key == "allowed_batch_sizes"]
    if sizes and sizes[-1] != parameters["max_batch_size"]:
        raise ValueError(f"{sizes} must end with max_batch_size.")
    return parameters | {"allowed_batch_sizes": sizes}


@dataclasses.dataclass
class Batch:
    """Requests to be run as one, by `deadline`: arrays, rows and future of each."""

    deadline: float
    tasks: list = dataclasses.field(default_factory=list)

    @property
    def rows(self):
        return sum(rows for _, rows, _ in self.tasks)


class Batcher:
    """`run`, of requests that come at the same time merged along dimension 0."""

    def __init__(self, run, parameters):
        self.run, self.parameters, self.is_open = run, parameters, True
        self.queue, self.changed = collections.deque(), threading.Condition()
        for _ in range(parameters["num_batch_threads"]):
            threading.Thread(target=self.work, daemon=True).start()

    def close(self):
        with self.changed:
            self.is_open = False
            self.changed.notify_all()

    def __call__(self, arrays):
        rows, future = self.rows_of(arrays), futures.Future()
        with self.changed:
            most = self.parameters["max_batch_size"]
            if not self.queue or self.queue[-1].rows + rows > most:
                self.start_batch()
            self.queue[-1].tasks.append((arrays, rows, future))
            self.changed.notify_all()
        return future.result()

    def rows_of(self, arrays):
        if min(array.ndim for array in arrays) == 0:
            raise invalid("Batching input tensors must have at least one dimension")
        if len({len(array) for array in arrays}) > 1:
            raise invalid("Batching input tensors must have equal 0th-dimension size")
        rows, most = len(arrays[0]), self.parameters["max_batch_size"]
        if not 1 <= rows <= most:
            raise invalid(f"Task size {rows} is not in 1..{most}, the input batch size")
        return rows

    def start_batch(self):
        if len(self.queue) >= self.parameters["max_enqueued_batches"]:
            message = "The batch scheduling queue to which this task was submitted"
            raise tf.errors.UnavailableError(None, None, f"{message} is full")
        seconds = self.parameters["batch_timeout_micros"] / 1e6
        self.queue.append(Batch(time.monotonic() + seconds))

    def work(self):
        while batch := self.next_batch():
            try:
                outputs = split(batch, self.run(self.merged(batch)))
            except Exception as error:
                for _, _, future in batch.tasks:
                    future.set_exception(error)
            else:
                for (_, _, future), output in zip(batch.tasks, outputs, strict=True):
                    future.set_result(output)

    def next_batch(self):
        """The oldest batch, once it is full or its time is up; None at the end."""
        with self.changed:
            while self.is_open:
                seconds = self.seconds_left()
                if self.queue and seconds <= 0:
                    return self.queue.popleft()
                self.changed.wait(seconds)

    def seconds_left(self):
        if not self.queue:
            return None
        full = self.queue[0].rows >= self.parameters["max_batch_size"]
        if full or len(self.queue) > 1:
            return 0.0
        return self.queue[0].deadline - time.monotonic()

    def merged(self, batch):
        """Arrays of all requests, padded to an allowed size with a row of the last."""
        sizes = [n for n in self.parameters["allowed_batch_sizes"] if n >= batch.rows]
        padding = min(sizes, default=batch.rows) - batch.rows
        columns = list(zip(*(arrays for arrays, _, _ in batch.tasks), strict=True))
        if any(len({array.shape[1:] for array in column}) > 1 for column in columns):
            raise unmet("Tensors of one name from different tasks differ in shape")
        return [np.concatenate([*c, *padding * [c[-1][:1]]]) for c in columns]


def split(batch, outputs):
    """Every request's rows of `outputs`; what is left over is padding."""
    if any(output.shape[:1] < (batch.rows,) for output in outputs):
        raise unmet("Batched output tensor's 0th dimension is not that of the input")
    ends = np.cumsum([rows for _, rows, _ in batch.tasks])
    starts = [0, *ends[:-1]]
    return [[o[i:j] for o in outputs] for i, j in zip(starts, ends, strict=True)]


# JSON


def read_json(body, spec, signatures):
    """PredictRequest of a body in JSON, and whether it lists rows."""
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise invalid(f"JSON Parse error: {error}") from error
    if not isinstance(asked, dict) or ("instances" in asked) == ("inputs" in asked):
        raise invalid("Expecting an object with one of 'inputs' or 'instances'")
    key = asked.get("signature_name", "serving_default")
    if not isinstance(key, str) or key not in signatures:
        raise invalid(f'Serving signature name: "{key}" not found in signature def')
    inputs, by_row = signatures[key].inputs, "instances" in asked
    read = rows_of_json if by_row else columns_of_json
    arrays = read(asked["instances" if by_row else "inputs"], inputs)
    request = predict_pb2.PredictRequest(model_spec=spec)
    request.model_spec.signature_name = key
    for alias, array in arrays.items():
        proto = tf.make_tensor_proto(array, inputs[alias].dtype, array.shape)
        request.inputs[alias].CopyFrom(proto)
    return request, by_row


def rows_of_json(rows, inputs):
    if not isinstance(rows, list) or not rows:
        raise invalid("Expecting 'instances' to be a list with values")
    read = [columns_of_json(row, inputs) for row in rows]
    for row, arrays in zip(rows, read, strict=True):
        if len(inputs) > 1 and set(row) != set(inputs):
            raise invalid(f"keys of {row} must be equal to: {sorted(inputs)}")
        if any(arrays[alias].shape != read[0][alias].shape for alias in inputs):
            raise invalid(f"Expecting the shapes of the first instance in {row}")
    return {alias: np.stack([arrays[alias] for arrays in read]) for alias in inputs}


def columns_of_json(columns, inputs):
    if len(inputs) == 1 and (not isinstance(columns, dict) or is_b64(columns)):
        columns = dict.fromkeys(inputs, columns)
    if not isinstance(columns, dict):
        raise invalid("Expecting an object, as there are several inputs")
    if missing := sorted(set(inputs) - set(columns)):
        raise invalid(f"Missing named input: {missing[0]}")
    return {k: array_of_json(columns[k], info.dtype) for k, info in inputs.items()}


def array_of_json(value, dtype):
    dtype = tf.dtypes.as_dtype(dtype)
    is_right = test_of(dtype)
    objects = np.array(value, object)  # where lists are uneven, lists are left in it
    for leaf in objects.ravel():
        if not is_right(leaf):
            raise invalid(f"JSON Value: {leaf!r} is not of expected type: {dtype.name}")
    leaves = [base64.b64decode(x["b64"]) if is_b64(x) else x for x in objects.ravel()]
    return np.array(leaves, dtype.as_numpy_dtype).reshape(objects.shape)


def test_of(dtype):
    """Whether a number, a word or a flag of JSON is of the type, without rounding."""
    if dtype.is_integer:
        low, high = dtype.min, dtype.max
        return lambda x: type(x) is int and low <= x <= high
    if dtype.is_floating:
        limits = np.finfo(dtype.as_numpy_dtype)
        most, exact = float(limits.max), 2 ** (limits.nmant + 1)
        return lambda x: (
            (type(x) is int and abs(x) < exact)
            or (type(x) is float and not most < abs(x) < np.inf)
        )
    return lambda x: (
        (dtype == tf.string and is_b64(x))
        or (type(x) is {tf.string: str, tf.bool: bool}[dtype])
    )


def is_b64(value):
    return isinstance(value, dict) and [*value] == ["b64"] and type(value["b64"]) is str


def written_json(response, by_row):
    """{"predictions": [row, ...]} or {"outputs": columns}."""
    arrays = {k: tf.make_ndarray(proto) for k, proto in response.outputs.items()}
    if not by_row:
        return f'{{"outputs": {written_object(arrays)}}}'
    if len({array.shape[:1] or None for array in arrays.values()}) > 1:
        raise invalid("Tensors have inconsistent batch size")
    names, columns = arrays.keys(), zip(*arrays.values(), strict=True)
    rows = [written_object(dict(zip(names, row, strict=True))) for row in columns]
    return f'{{"predictions": [{", ".join(rows)}]}}'


def written_object(arrays):
    """A JSON object of arrays by name; of one array, the array."""
    texts = {k: written(np.asarray(v), k) for k, v in sorted(arrays.items())}
    if len(texts) == 1:
        return texts.popitem()[1]
    return "{" + ", ".join(f'"{k}": {text}' for k, text in texts.items()) + "}"


def written(array, name):
    if array.ndim:
        return "[" + ", ".join(written(np.asarray(part), name) for part in array) + "]"
    value = array[()]
    if isinstance(value, np.floating):  # the fewest digits with the same bits
        bare = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
        return bare.get(str(value), str(value))
    if name.endswith("_bytes"):
        return json.dumps({"b64": base64.b64encode(value).decode()})
    return json.dumps(value.decode() if isinstance(value, bytes) else value.item())


# The servers


def method(function, request):
    """`function` as a method of gRPC, TensorFlow's errors as gRPC's of their number."""

    def answer(message, context):
        try:
            return function(message).SerializeToString()
        except tf.errors.OpError as error:
            context.abort(GRPC_CODES[error.error_code], error.message)

    return grpc.unary_unary_rpc_method_handler(answer, request.FromString)


def grpc_server(model):
    """A started server of `model` on localhost, and its port."""
    metadata = method(model.metadata, metadata_pb2.GetModelMetadataRequest)
    predict = method(model.predict, predict_pb2.PredictRequest)
    methods = {"Predict": predict, "GetModelMetadata": metadata}
    service = "tensorflow.serving.PredictionService"
    server = grpc.server(
        futures.ThreadPoolExecutor(32),
        handlers=[grpc.method_handlers_generic_handler(service, methods)],
        options=[("grpc.max_receive_message_length", -1)],
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


class Rest(http.server.BaseHTTPRequestHandler):
    """The REST API of `self.server.model`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def reply(self):
        try:
            code, text = 200, self.answer()
        except tf.errors.OpError as error:
            code = HTTP_CODES.get(error.error_code, 500)
            text = json.dumps({"error": error.message})
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_POST = reply  # noqa: N815

    def log_message(self, *args):
        pass

    def answer(self):
        length = self.headers.get("Content-Length", "0")
        body = self.rfile.read(int(length) if length.isdecimal() else 0)
        kind = {"POST": "(:predict)", "GET": "(/metadata)?"}[self.command]
        path = r"(?i)/v1/models/([^/:]+)(?:/versions/(\d{1,18}))?" + kind
        if not (found := re.fullmatch(path, self.path)):
            raise invalid(f"Malformed request: {self.command} {self.path}")
        name, version, kind = found.groups()
        spec = predict_pb2.PredictRequest().model_spec
        spec.name = name
        if version:
            spec.version.value = int(version)
        self.server.model.check(spec)
        answers = {":predict": predict_json, "/metadata": metadata_json}
        return answers.get(kind, status_json)(self.server.model, spec, body)


class RestServer(http.server.ThreadingHTTPServer):
    """A server of `model`; a client that hangs up is no error."""

    request_queue_size = 128

    def __init__(self, model):
        super().__init__(("127.0.0.1", 0), Rest)
        self.model = model

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def predict_json(model, spec, body):
    request, by_row = read_json(body, spec, model.signatures)
    return written_json(model.predict(request), by_row)


def metadata_json(model, spec, _):
    request = metadata_pb2.GetModelMetadataRequest(model_spec=spec)
    request.metadata_field.append("signature_def")
    answer = json_format.MessageToDict(
        model.metadata(request),
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
    )
    answer["metadata"]["signature_def"].pop("@type")
    return json.dumps(answer)


def status_json(model, *_):
    status = {"error_code": "OK", "error_message": ""}
    version = {"version": str(model.version), "state": "AVAILABLE", "status": status}
    return json.dumps({"model_version_status": [version]})


@dataclasses.dataclass
class StandIn:
    """Serves the versions in `folder` as `name`, on localhost, within a context."""

    folder: pathlib.Path
    name: str
    batching: pathlib.Path | None = None

    def __enter__(self):
        self._model = Model(self.folder, self.name, self.batching)
        self._grpc, port = grpc_server(self._model)
        self._rest = RestServer(self._model)
        threading.Thread(target=self._rest.serve_forever, daemon=True).start()
        self.grpc_address = f"127.0.0.1:{port}"
        self.rest_url = f"http://127.0.0.1:{self._rest.server_port}"
        return self

    def __exit__(self, *_):
        self._rest.shutdown()
        self._rest.server_close()
        self._grpc.stop(grace=None).wait()
        self._model.close()


@dataclasses.dataclass
class ModelServer:
    """`tensorflow_model_server` in a process of its own, used as `StandIn` is."""

    folder: pathlib.Path
    name: str
    batching: pathlib.Path | None = None
    binary = shutil.which("tensorflow_model_server")

    def __enter__(self):
        rpc, rest = free_ports(2)
        self.grpc_address, self.rest_url = (
            f"127.0.0.1:{rpc}",
            f"http://127.0.0.1:{rest}",
        )
        command = [self.binary, f"--port={rpc}", f"--rest_api_port={rest}"]
        command += [f"--model_name={self.name}", f"--model_base_path={self.folder}"]
        if self.batching:
            command += ["--enable_batching"]
            command += [f"--batching_parameters_file={self.batching}"]
        self._log = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        self._wait(until=time.monotonic() + 120)
        return self

    def _wait(self, until):
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > until:
                self._log.seek(0)
                log = self._log.read()[-2000:]
                self.__exit__()
                raise RuntimeError(f"The server is not ready. Its log ends: {log}")
            time.sleep(0.2)

    def _is_ready(self):
        url = f"{self.rest_url}/v1/models/{self.name}"
        try:
            return b'"AVAILABLE"' in urllib.request.urlopen(url, timeout=5).read()
        except OSError:
            return False

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait()
        self._log.close()


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [bound.getsockname()[1] for bound in sockets]
    for bound in sockets:
        bound.close()
    return ports
