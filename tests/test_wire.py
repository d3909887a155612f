"""An exported sampler keeps its contract over the wire: gRPC and REST, any batching.

The server is `serving_stand_in.StandIn`, and `tensorflow_model_server` where that is
on the PATH. -s shows how malformed requests were answered.
"""

import base64
import collections
import http.client
import json
import shutil
import socket
import threading
import urllib.parse
from concurrent import futures

import grpc
import numpy as np
import pytest
import tensorflow as tf
from cases import slow_but
from google.protobuf.message import DecodeError
from serving_stand_in import (
    Batcher,
    ModelServer,
    StandIn,
    batching_parameters,
    written_object,
)
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

from keras_tilt.serving.requests import MOST_REQUESTS

SAMPLER = {"unit": "int32", "seed": "int32", "temperature": "float32"}
SAMPLE = {
    "image": "uint8",
    **dict.fromkeys(["f", "log_density", "accept_rate"], "float32"),
    "converged": "bool",
}
NOISE = {"noise": "float32"}
PNG = {k: v for k, v in SAMPLE.items() if k != "image"} | {"png_bytes": "string"}
VALUES = dict.fromkeys(["f", "log_q", "log_density"], "float32")
CONTRACT = {
    "serving_default": (SAMPLER, SAMPLE),
    "sample_png": (SAMPLER, PNG),
    "evaluate": ({"image": "float32"}, VALUES),
    "start": (SAMPLER, SAMPLE | NOISE),
    "resume": (SAMPLER | NOISE, SAMPLE | NOISE),
    "sample_each": (SAMPLER, SAMPLE | {"error": "string"}),
}
SHAPES = {"seed": [2], "image": [8, 8, 1], "noise": [8, 8, 1]}
SECONDS = 30  # within which every request is answered


# The client


def request_of(inputs, signature="", name="small", version=None):
    """PredictRequest of arrays."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    for key, value in inputs.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    return request


def columns_of(inputs, signature="serving_default"):
    """Body of a request by columns."""
    columns = {k: np.asarray(v).tolist() for k, v in inputs.items()}
    return json.dumps({"signature_name": signature, "inputs": columns})


def instances_of(inputs, signature="serving_default"):
    """Body of a request by rows."""
    rows = zip(*(v.tolist() for v in inputs.values()), strict=True)
    instances = [dict(zip(inputs, row, strict=True)) for row in rows]
    return json.dumps({"signature_name": signature, "instances": instances})


class Client:
    """Talks to one server over both protocols."""

    def __init__(self, server):
        self.host = urllib.parse.urlsplit(server.rest_url).netloc
        self.channel = grpc.insecure_channel(
            server.grpc_address, options=[("grpc.max_receive_message_length", -1)]
        )
        self.stub = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        path = "/tensorflow.serving.PredictionService/Predict"
        self.raw = self.channel.unary_unary(path)  # of bytes

    def grpc(self, inputs, signature="", **spec):
        request = request_of(inputs, signature, **spec)
        return arrays_of(self.stub.Predict(request, timeout=SECONDS))

    def rest(self, body, path="/v1/models/small:predict", method="POST"):
        """Status and JSON of an answer."""
        connection = http.client.HTTPConnection(self.host, timeout=SECONDS)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def columns(self, inputs, signature="serving_default"):
        """Arrays of an answer by columns."""
        status, answer = self.rest(columns_of(inputs, signature))
        assert status == 200, answer
        return typed(answer["outputs"], signature)

    def rows(self, inputs, signature="serving_default"):
        """Arrays of an answer by rows."""
        status, answer = self.rest(instances_of(inputs, signature))
        assert status == 200, answer
        rows = answer["predictions"]
        return typed({k: [row[k] for row in rows] for k in rows[0]}, signature)


def arrays_of(response):
    return {k: tf.make_ndarray(proto) for k, proto in response.outputs.items()}


def typed(columns, signature):
    """Arrays of JSON, of the signature's types."""
    types = CONTRACT[signature][1]
    assert set(columns) == set(types)
    arrays = {}
    for key, values in columns.items():
        if key.endswith("_bytes"):
            values = [base64.b64decode(value["b64"]) for value in values]
        elif types[key] == "string":
            values = [value.encode() for value in values]
        dtype = tf.dtypes.as_dtype(types[key]).as_numpy_dtype
        arrays[key] = np.array(values, dtype)
    return arrays


def assert_same(left, right):
    """The same names, types, shapes and bits."""
    assert set(left) == set(right)
    for key in left:
        assert left[key].dtype == right[key].dtype, key
        assert left[key].shape == right[key].shape, key
        np.testing.assert_array_equal(left[key], right[key], err_msg=key)
        if left[key].dtype != object:
            assert left[key].tobytes() == right[key].tobytes(), key


def rows_of(inputs, rows):
    return {k: v[rows] for k, v in inputs.items()}


def random_inputs(random, rows):
    return {
        "unit": random.integers(0, 3, rows, dtype=np.int32),
        "seed": random.integers(-(2**31), 2**31, [rows, 2], dtype=np.int32),
        "temperature": random.uniform(0.1, 3.0, rows).astype(np.float32),
    }


SERVERS = {"stand-in": (StandIn, False), "stand-in, batching": (StandIn, True)}
if ModelServer.binary is not None:
    SERVERS |= {"model server": (ModelServer, False)}
    SERVERS |= {"model server, batching": (ModelServer, True)}


def test_the_model_server_itself_was_there():
    """All tests of this file run with it, too, where it is on the PATH."""
    if ModelServer.binary is None:
        pytest.skip("no tensorflow_model_server on the PATH: the stand-in alone ran")


@pytest.fixture(scope="module")
def padding(tmp_path_factory):
    """A batching.config that waits for others, and pads: harder than the export's."""
    path = tmp_path_factory.mktemp("batching") / "batching.config"
    path.write_text(
        f"max_batch_size {{ value: {MOST_REQUESTS} }}\n"
        "batch_timeout_micros { value: 2000 }\n"
        "max_enqueued_batches { value: 100 }\nnum_batch_threads { value: 2 }\n"
        + "".join(f"allowed_batch_sizes: {n}\n" for n in (4, 16, MOST_REQUESTS))
    )
    return path


# The harder one is quick; without batching it does less.
@pytest.fixture(scope="module", params=slow_but([*SERVERS][1:], SERVERS))
def server(request, served, padding):
    kind, batching = SERVERS[request.param]
    with kind(served, "small", padding if batching else None) as it:
        yield it


@pytest.fixture(scope="module")
def client(server):
    client = Client(server)
    yield client
    client.channel.close()


@pytest.fixture(scope="session")
def golden(served):
    """Inputs and outputs that came with the export."""
    extra = served / "1" / "assets.extra"
    request = json.loads((extra / "golden_request.json").read_text())
    response = json.loads((extra / "golden_response.json").read_text())
    assert request["signature_name"] == "serving_default"
    inputs = {k: np.array(v, SAMPLER[k]) for k, v in request["inputs"].items()}
    return inputs, typed(response["outputs"], "serving_default")


# What is right is answered rightly


def test_the_golden_request_has_the_golden_response(client, golden):
    inputs, outputs = golden
    assert_same(client.grpc(inputs), outputs)
    assert_same(client.columns(inputs), outputs)


@pytest.mark.parametrize("signature", ["serving_default", "sample_png", "start"])
def test_rows_columns_and_grpc_answer_with_the_same_bits(client, golden, signature):
    inputs, _ = golden
    outputs = client.grpc(inputs, signature)
    assert_same(client.columns(inputs, signature), outputs)
    assert_same(client.rows(inputs, signature), outputs)


def test_the_version_may_be_named(client, golden):
    inputs, outputs = golden
    assert_same(client.grpc(inputs, version=1), outputs)
    path = "/v1/models/small/versions/1:predict"
    status, answer = client.rest(columns_of(inputs), path)
    assert status == 200
    assert_same(typed(answer["outputs"], "serving_default"), outputs)


def test_filtered_outputs_are_those_of_all(client, golden):
    inputs, outputs = golden
    request = request_of(inputs)
    request.output_filter.extend(["f", "converged"])
    filtered = arrays_of(client.stub.Predict(request, timeout=SECONDS))
    assert_same(filtered, {k: outputs[k] for k in ("f", "converged")})


def test_png_bytes_decode_to_the_image(client, golden):
    inputs, outputs = golden
    for answer in (client.grpc, client.columns, client.rows):
        files = answer(inputs, "sample_png")["png_bytes"]
        images = [tf.io.decode_png(file).numpy() for file in files]
        np.testing.assert_array_equal(images, outputs["image"])


def test_what_is_resumed_with_its_noise_has_the_contract(client, golden):
    inputs, _ = golden
    start = client.grpc(inputs, "start")
    resumed = client.grpc(inputs | {"noise": start["noise"]}, "resume")
    columns = client.columns(inputs | {"noise": start["noise"]}, "resume")
    assert_same(resumed, columns)
    assert {k: (v.dtype, v.shape) for k, v in resumed.items()} == {
        k: (v.dtype, v.shape) for k, v in start.items()
    }


def test_an_image_is_evaluated_for_every_unit(client, golden):
    images = golden[1]["image"].astype(np.float32)
    values = client.grpc({"image": images}, "evaluate")
    assert {k: v.shape for k, v in values.items()} == {
        "f": (len(images), 3),
        "log_q": (len(images),),
        "log_density": (len(images), 3),
    }
    assert_same(client.columns({"image": images}, "evaluate"), values)


def test_metadata_name_the_inputs_and_outputs(client):
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = "small"
    request.metadata_field.append("signature_def")
    response = client.stub.GetModelMetadata(request, timeout=SECONDS)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    over_grpc = {
        key: tuple(
            {k: tf.dtypes.as_dtype(info.dtype).name for k, info in infos.items()}
            for infos in (signature.inputs, signature.outputs)
        )
        for key, signature in signatures.signature_def.items()
        if key != "__saved_model_init_op"  # TensorFlow's own
    }
    assert over_grpc == CONTRACT
    status, answer = client.rest(None, "/v1/models/small/metadata", "GET")
    assert status == 200 and answer["model_spec"]["version"] == "1"
    found = answer["metadata"]["signature_def"]["signature_def"]
    for key, (inputs, outputs) in CONTRACT.items():
        assert set(found[key]["inputs"]) == set(inputs)
        assert set(found[key]["outputs"]) == set(outputs)


def test_metadata_say_the_shapes_of_the_inputs(client):
    _, answer = client.rest(None, "/v1/models/small/metadata", "GET")
    found = answer["metadata"]["signature_def"]["signature_def"]
    for key, (inputs, _) in CONTRACT.items():
        for name in inputs:
            dims = found[key]["inputs"][name]["tensor_shape"]["dim"]
            sizes = [int(dim["size"]) for dim in dims]
            assert sizes == [-1, *SHAPES.get(name, [])], (key, name)


def test_the_model_is_available(client):
    status, answer = client.rest(None, "/v1/models/small", "GET")
    assert status == 200
    (version,) = answer["model_version_status"]
    assert (version["version"], version["state"]) == ("1", "AVAILABLE")


# A row is a chain of its own


@pytest.mark.parametrize("signature", ["serving_default", "start", "sample_each"])
def test_a_row_alone_is_the_row_in_a_batch(client, signature):
    inputs = random_inputs(np.random.default_rng(1), MOST_REQUESTS)
    batch = client.grpc(inputs, signature)
    for row in range(0, MOST_REQUESTS, 5):
        one = slice(row, row + 1)
        alone = client.grpc(rows_of(inputs, one), signature)
        assert_same(alone, rows_of(batch, one))


def test_rows_sent_at_once_are_the_rows_in_a_batch(client):
    inputs = random_inputs(np.random.default_rng(2), MOST_REQUESTS)
    batch = client.grpc(inputs)
    one_by_one = [rows_of(inputs, slice(i, i + 1)) for i in range(MOST_REQUESTS)]
    requests = [request_of(one) for one in one_by_one]
    calls = [client.stub.Predict.future(r, timeout=SECONDS) for r in requests]
    for i, call in enumerate(calls):
        assert_same(arrays_of(call.result()), rows_of(batch, slice(i, i + 1)))


def test_another_seed_is_another_image(client, golden):
    inputs, outputs = golden
    moved = client.grpc(inputs | {"seed": inputs["seed"] ^ 1})
    for before, after in zip(outputs["image"], moved["image"], strict=True):
        assert (before != after).any()


@pytest.mark.parametrize("count", [120, pytest.param(500, marks=pytest.mark.slow)])
def test_eight_clients_at_once_have_the_answers_of_one(client, count):
    """Requests of many kinds and 1 to 8 rows; every fourth over REST.

    The many are slow; the few guard the same lines.
    """
    random = np.random.default_rng(3)
    inputs = [random_inputs(random, random.integers(1, 9)) for _ in range(count // 12)]
    alone = [client.grpc(each) for each in inputs]
    order = random.integers(0, len(inputs), count)

    def ask(i):
        ask_over = client.columns if i % 4 == 0 else client.grpc
        assert_same(ask_over(inputs[order[i]]), alone[order[i]])

    with futures.ThreadPoolExecutor(8) as clients:
        list(clients.map(ask, range(count)))


# What is wrong is said

SAMPLERS = [key for key, (inputs, _) in CONTRACT.items() if "unit" in inputs]
STRICT = [key for key in SAMPLERS if key != "sample_each"]
BAD = [("unit", -1), ("unit", 3)]
BAD += [("temperature", value) for value in (0.0, -1.0, np.nan, np.inf)]


def inputs_of(signature, inputs):
    noise = np.zeros([len(inputs["unit"]), 8, 8, 1], np.float32)
    return inputs | ({"noise": noise} if signature == "resume" else {})


def assert_refused(client, inputs, signature, sentence):
    """INVALID_ARGUMENT and 400, both with the sentence."""
    with pytest.raises(grpc.RpcError) as raised:
        client.grpc(inputs, signature)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert sentence in raised.value.details()
    status, answer = client.rest(columns_of(inputs, signature))
    assert status == 400 and sentence in answer["error"]


@pytest.mark.parametrize("name, value", BAD)
@pytest.mark.parametrize("signature", STRICT)
def test_a_bad_row_is_refused_with_a_sentence(client, golden, signature, name, value):
    inputs = {k: v.copy() for k, v in inputs_of(signature, golden[0]).items()}
    inputs[name][1] = value
    assert_refused(client, inputs, signature, f"`{name}` must")


@pytest.mark.parametrize("signature", CONTRACT)
def test_more_rows_than_a_request_may_have_are_refused(client, signature):
    inputs = random_inputs(np.random.default_rng(4), MOST_REQUESTS + 1)
    inputs = inputs_of(signature, inputs)
    if signature == "evaluate":
        inputs = {"image": np.zeros([MOST_REQUESTS + 1, 8, 8, 1], np.float32)}
    # A server that merges refuses the rows before the graph does.
    assert_refused(client, inputs, signature, str(MOST_REQUESTS))


def test_sample_each_keeps_the_good_rows(client):
    inputs = random_inputs(np.random.default_rng(5), 8)
    good = client.grpc(inputs)
    inputs["unit"][[1, 5]] = [-7, 3]
    inputs["temperature"][[3, 5]] = [np.nan, 0.0]
    kept = np.isin(np.arange(8), [0, 2, 4, 6, 7])
    for answer in (client.grpc, client.columns, client.rows):
        outputs = answer(inputs, "sample_each")
        errors = outputs.pop("error")
        assert [len(error) > 0 for error in errors] == (~kept).tolist()
        assert b"`unit` must" in errors[1] and b"`temperature` must" in errors[3]
        assert_same(rows_of(outputs, kept), rows_of(good, kept))


def test_what_is_not_served_is_not_found(client, golden):
    for spec in ({"name": "large"}, {"version": 2}):
        with pytest.raises(grpc.RpcError) as raised:
            client.grpc(golden[0], **spec)
        assert raised.value.code() == grpc.StatusCode.NOT_FOUND
    for path in ("/v1/models/large:predict", "/v1/models/small/versions/2:predict"):
        status, answer = client.rest(columns_of(golden[0]), path)
        assert status == 404 and answer["error"]


# Malformed requests: each kind makes a request out of a good one


def any_of(random, values):
    return values[random.integers(len(values))]


def of_wrong_rank(random, inputs):
    name = any_of(random, [*inputs])
    value = inputs[name]
    shapes = [(), (1, *value.shape), (*value.shape, 1), (len(value), 1, -1)]
    shapes += [(-1,)] * (value.ndim > 1)
    shape = any_of(random, shapes)
    wrong = value.ravel()[0].reshape(()) if shape == () else value.reshape(shape)
    return inputs | {name: wrong}


def of_wrong_width(random, inputs):
    width = any_of(random, [0, 1, 3, 4])
    return inputs | {"seed": np.resize(inputs["seed"], [len(inputs["unit"]), width])}


def of_uneven_rows(random, inputs):
    name, rows = any_of(random, [*inputs]), len(inputs["unit"])
    other = any_of(random, sorted({0, 1, rows - 1, rows + 1, 2 * rows} - {rows}))
    return inputs | {name: np.resize(inputs[name], [other, *inputs[name].shape[1:]])}


def of_wrong_name(random, inputs):
    name = any_of(random, [*inputs])
    fewer = {k: v for k, v in inputs.items() if k != name}
    return any_of(random, [fewer, fewer | {name + "s": inputs[name]}, {}])


def of_bad_values(random, inputs):
    name, value = any_of(
        random,
        [("unit", n) for n in (-1, 3, 2**31 - 1, -(2**31))]
        + [("temperature", x) for x in (0.0, -0.0, -1e30, np.nan, np.inf, -np.inf)],
    )
    values = inputs[name].copy()
    values[random.integers(len(values))] = value
    return inputs | {name: values}


def of_extreme_values(random, inputs):
    """Extreme but right: to be answered."""
    heat = any_of(random, [1e-45, 1e-30, 1e30, 3.4028235e38])
    return inputs | {
        "seed": np.full_like(inputs["seed"], any_of(random, [-(2**31), 2**31 - 1])),
        "temperature": np.full_like(inputs["temperature"], heat),
    }


def of_too_many_rows(random, inputs):
    rows = any_of(random, [MOST_REQUESTS + 1, 100, 1000])
    return {k: np.resize(v, [rows, *v.shape[1:]]) for k, v in inputs.items()}


INPUTS = {  # kinds of arrays, for either protocol
    "wrong rank": of_wrong_rank,
    "wrong width": of_wrong_width,
    "uneven rows": of_uneven_rows,
    "wrong name": of_wrong_name,
    "bad values": of_bad_values,
    "extreme values": of_extreme_values,
    "too many rows": of_too_many_rows,
}


def of_wrong_type(random, inputs):
    name = any_of(random, [*inputs])
    types = ["float64", "int64", "uint8", "float16", "complex64", "bool", "S"]
    dtype = any_of(random, [*types, tf.bfloat16.as_numpy_dtype])
    return request_of(inputs | {name: np.ones_like(inputs[name], dtype)})


def of_broken_tensor(random, inputs):
    request = request_of(inputs)
    proto = request.inputs[any_of(random, [*inputs])]
    dim = proto.tensor_shape.dim
    breakages = [
        lambda: setattr(proto, "tensor_content", proto.tensor_content[:-1]),
        lambda: setattr(proto, "tensor_content", 3 * proto.tensor_content + b"x"),
        lambda: setattr(proto, "dtype", any_of(random, [0, 20, 21, 101, 9999])),
        lambda: setattr(dim[0], "size", any_of(random, [-1, 2**40, 2**62])),
        lambda: dim.extend(300 * [dim[0]]),
        lambda: proto.Clear(),
    ]
    any_of(random, breakages)()
    return request


def of_filled_tensor(random, inputs):
    """Values that are missing: TensorFlow reads zeros, or repeats the last."""
    name = any_of(random, [*inputs])
    request = request_of(inputs)
    proto = request.inputs[name]
    proto.tensor_content = b""
    proto.tensor_shape.unknown_rank = random.random() < 0.5
    if random.random() < 0.5:
        values = proto.float_val if name == "temperature" else proto.int_val
        values.append(1)
    return request


def of_wrong_spec(random, inputs):
    signature = any_of(random, ["no", "SERVING_DEFAULT", "serving_default "])
    requests = [
        request_of(inputs, signature),
        request_of(inputs, name=any_of(random, ["", "large", "small/1", "\0"])),
        request_of(inputs, version=any_of(random, [0, 2, -1, 2**62])),
    ]
    for outputs in (["no"], ["f", "f"], [""]):
        requests.append(request_of(inputs))
        requests[-1].output_filter.extend(outputs)
    requests.append(request_of(inputs))
    requests[-1].ClearField("model_spec")
    return any_of(random, requests)


def of_wrong_images(random, _):
    """For `evaluate`: often as many numbers as two images have."""
    shapes = [(2, 64), (2, 16, 4, 1), (2, 8, 8, 1, 1), (2, 1, 8, 8), (1, 8, 16, 1)]
    shapes += [(2, 8, 8), (8, 8, 1), (2, 8, 8, 3), (2, 0, 8, 1), (128,), ()]
    return request_of({"image": np.ones(any_of(random, shapes), "float32")}, "evaluate")


def of_wrong_noise(random, inputs):
    rows = len(inputs["unit"])
    shapes = [(rows, 64), (rows, 8, 8), (rows, 4, 16, 1), (rows + 1, 8, 8, 1), (1,)]
    shapes += [(rows, 8, 8, 1, 1), (rows, 1, 8, 8), (64 * rows,), (0, 8, 8, 1), ()]
    noise = np.ones(any_of(random, shapes), "float32")
    return request_of(inputs | {"noise": noise}, "resume")


def of_broken_bytes(random, inputs):
    """Bytes that hold no PredictRequest, or half of one."""
    whole = request_of(inputs).SerializeToString()
    half = whole[: random.integers(1, len(whole))]
    wholes = [b"\xff" + whole, whole + b"\x0a\x7f"]
    return any_of(random, [half, random.bytes(40), *wholes])


MESSAGES = {  # kinds for gRPC alone
    "wrong type": of_wrong_type,
    "broken tensor": of_broken_tensor,
    "filled tensor": of_filled_tensor,
    "wrong spec": of_wrong_spec,
    "wrong images": of_wrong_images,
    "wrong noise": of_wrong_noise,
    "broken bytes": of_broken_bytes,
}


def of_broken_json(random, inputs):
    body = any_of(random, [columns_of, instances_of])(inputs)
    cut = body[: random.integers(len(body))]
    deep = "[" * 900 + "]" * 900
    texts = [cut, body + "}", body.replace(":", ";", 1), "", "null", "[]", "NaN", deep]
    return any_of(random, [*texts, random.bytes(30), b"\xff\xfe" + body.encode()])


def of_wrong_json(random, inputs):
    columns = {k: v.tolist() for k, v in inputs.items()}
    rows = json.loads(instances_of(inputs))["instances"]
    uneven = [None, 1, [], {}, {"unit": 1}, rows[0] | {"unit": [1]}]
    bodies = [{"inputs": columns, "instances": rows}, {}, {"input": columns}]
    bodies += [{"inputs": value} for value in (None, 1, "x", [], [columns], {})]
    bodies += [{"instances": value} for value in (None, 1, {}, [], [[]], [1], [None])]
    bodies += [{"instances": [*rows, row]} for row in uneven]
    names = ["no", 1, None, ["f"]]
    bodies += [{"inputs": columns, "signature_name": name} for name in names]
    return json.dumps(any_of(random, bodies))


def of_wrong_json_value(random, inputs):
    columns = {k: v.tolist() for k, v in inputs.items()}
    wrong = [None, True, "1", [], [[1]], {}, {"b64": "AA=="}]
    name, value = any_of(
        random,
        [("unit", x) for x in [*wrong, 1.5, 2**31, 10**400]]
        + [("temperature", x) for x in [*wrong, 1e39, -1e300, 2**24 + 1, "NaN"]],
    )
    columns[name][random.integers(len(columns[name]))] = value
    return json.dumps({"inputs": columns})


def of_wrong_path(random, inputs):
    ends = [
        "large:predict",
        "small",
        "small:classify",
        "small:no",
        "small:predict/",
        "",
    ]
    ends += ["small/versions/7:predict", "small/versions/x:predict", "small/predict"]
    return ("POST", "/v1/models/" + any_of(random, ends), columns_of(inputs))


def of_wrong_question(random, _):
    paths = ["small:predict", "large", "large/metadata", "small/versions/9", "small/no"]
    return ("GET", "/v1/models/" + any_of(random, paths), None)


BODIES = {  # kinds for REST alone
    "broken JSON": of_broken_json,
    "wrong JSON": of_wrong_json,
    "wrong JSON value": of_wrong_json_value,
    "wrong path": of_wrong_path,
    "wrong question": of_wrong_question,
}
# Of these some are right all the same.
MAY_BE_RIGHT = {"extreme values", "filled tensor", "broken bytes"}
MAY_BE_RIGHT |= {"bad values for sample_each"}
CLIENTS_FAULT = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
}


def over_grpc(client, message):
    """Code of the answer to a message or to bytes."""
    if isinstance(message, predict_pb2.PredictRequest):
        message = message.SerializeToString()
    try:
        answer = client.raw(message, timeout=SECONDS)
    except grpc.RpcError as error:
        code = error.code()
        # gRPC itself, of either server, refuses so what it cannot decode.
        undecoded = code is grpc.StatusCode.INTERNAL and not is_message(message)
        assert undecoded or code in CLIENTS_FAULT, error
        return code.name
    arrays = arrays_of(predict_pb2.PredictResponse.FromString(answer))
    assert arrays and len({len(array) for array in arrays.values()}) == 1
    return "OK"


def is_message(data):
    try:
        predict_pb2.PredictRequest.FromString(data)
    except DecodeError:
        return False
    return True


def over_rest(client, question):
    if not isinstance(question, tuple):
        question = ("POST", "/v1/models/small:predict", question)
    method, path, body = question
    status, answer = client.rest(body, path, method)
    if status == 200:
        assert set(answer) <= {"outputs", "predictions"} and answer
    else:
        assert 400 <= status < 500 and answer["error"], (status, answer)
    return "OK" if status == 200 else str(status)


def malformed(random, inputs):
    """Kind of a request, and the function that sends it to a client."""
    kind = any_of(random, [*INPUTS, *MESSAGES, *BODIES])
    if kind in MESSAGES:
        message = MESSAGES[kind](random, inputs)
        return kind, lambda client: over_grpc(client, message)
    if kind in BODIES:
        body = BODIES[kind](random, inputs)
        return kind, lambda client: over_rest(client, body)
    signature = any_of(random, SAMPLERS)
    altered = INPUTS[kind](random, inputs_of(signature, inputs))
    if (kind, signature) == ("bad values", "sample_each"):
        kind = "bad values for sample_each"
    if random.random() < 0.5:
        return kind, lambda client: over_grpc(client, request_of(altered, signature))
    return kind, lambda client: over_rest(client, columns_of(altered, signature))


@pytest.mark.parametrize("count", [400, pytest.param(2000, marks=pytest.mark.slow)])
def test_malformed_requests_are_the_clients_fault(client, golden, count):
    """From one seed; none hangs, fails the server, or spoils the next answer.

    The many are slow; the few guard the same lines, with requests of every kind.
    """
    random, outcomes = np.random.default_rng(6), collections.Counter()
    for i in range(count):
        kind, send = malformed(random, random_inputs(random, random.integers(2, 5)))
        outcome = send(client)
        assert outcome != "OK" or kind in MAY_BE_RIGHT, kind
        outcomes[kind, outcome] += 1
        if i % 200 == 199:
            assert_same(client.grpc(golden[0]), golden[1])
            assert_same(client.columns(golden[0]), golden[1])
    kinds = {kind for kind, _ in outcomes}
    assert kinds >= {*INPUTS, *MESSAGES, *BODIES}
    for (kind, outcome), times in sorted(outcomes.items()):
        print(f"{kind:30} {outcome:20} {times:5}")


def test_a_request_without_rows_is_answered(server, client):
    if isinstance(server, ModelServer) and server.batching:
        pytest.skip("its queue keeps a request without rows until others come")
    none = random_inputs(np.random.default_rng(7), 0)
    assert over_grpc(client, request_of(none)) in ("OK", "INVALID_ARGUMENT")
    assert over_rest(client, columns_of(none)) in ("OK", "400")


def test_a_body_cut_off_holds_up_nobody(client, golden):
    body = columns_of(golden[0])
    head = f"POST /v1/models/small:predict HTTP/1.1\r\nContent-Length: {len(body)}"
    host, port = client.host.split(":")
    for _ in range(40):
        with socket.create_connection((host, int(port)), timeout=SECONDS) as half:
            half.sendall(f"{head}\r\n\r\n{body[:100]}".encode())
    assert_same(client.columns(golden[0]), golden[1])


# The stand-in itself


def batcher(run, **parameters):
    defaults = {
        **{"max_enqueued_batches": 2, "num_batch_threads": 1},
        **{"batch_timeout_micros": 60_000_000, "allowed_batch_sizes": []},
    }
    return Batcher(run, defaults | parameters)


def test_requests_at_once_are_run_as_one_and_padded():
    sizes = []

    def run(arrays):
        sizes.append(len(arrays[0]))
        return [arrays[0] * 10]

    batch = batcher(run, max_batch_size=6, allowed_batch_sizes=[4, 8])
    with futures.ThreadPoolExecutor(3) as clients:
        answers = clients.map(lambda i: batch([np.array([i, i + 1])]), (0, 2, 4))
        assert [a.tolist() for (a,) in answers] == [[0, 10], [20, 30], [40, 50]]
    assert sizes == [8]
    batch.close()


def test_a_full_queue_is_unavailable():
    """One batch runs, two wait, and there is no place for a fourth."""
    running = threading.Event()
    batch = batcher(lambda arrays: running.wait() and arrays, max_batch_size=1)
    with futures.ThreadPoolExecutor(4) as clients:
        waiting = [clients.submit(batch, [np.ones(1)]) for _ in range(4)]
        failed, _ = futures.wait(waiting, return_when="FIRST_COMPLETED")
        running.set()
        errors = [each.exception() for each in failed]
    assert all(isinstance(error, tf.errors.UnavailableError) for error in errors)
    batch.close()


def test_one_error_fails_every_request_of_its_batch():
    def run(_):
        raise tf.errors.InvalidArgumentError(None, None, "no")

    batch = batcher(run, max_batch_size=2)
    with futures.ThreadPoolExecutor(2) as clients:
        waiting = [clients.submit(batch, [np.ones(1)]) for _ in range(2)]
        assert all("no" in str(each.exception()) for each in waiting)
    batch.close()


def test_parameters_of_batching_are_read_or_refused(served, tmp_path):
    assert (
        batching_parameters(served / "batching.config")["max_batch_size"]
        == MOST_REQUESTS
    )
    path = tmp_path / "batching.config"
    for text in ("max_size { value: 8 }", "max_batch_size: eight", "}"):
        path.write_text(text)
        with pytest.raises(ValueError, match="Expected numbers"):
            batching_parameters(path)
    path.write_text("max_batch_size { value: 8 }\nallowed_batch_sizes: 4")
    with pytest.raises(ValueError, match="end with max_batch_size"):
        batching_parameters(path)


def test_the_stand_in_does_not_hold_feeds_against_shapes(tmp_path):
    """As the server does not; what a graph does not check goes through it."""
    spec = tf.TensorSpec([None], tf.float32, "x")
    double = tf.function(lambda x: {"y": 2 * x}, input_signature=[spec])
    module = tf.Module()
    module.double = double
    tf.saved_model.save(module, str(tmp_path / "1"), {"serving_default": double})
    with StandIn(tmp_path, "small") as server:
        client = Client(server)
        assert client.grpc({"x": np.ones([2, 3], "float32")})["y"].shape == (2, 3)
        client.channel.close()


def test_a_warm_up_that_fails_is_a_failure_to_start(served, tmp_path):
    folder = shutil.copytree(served, tmp_path / "small")
    path = folder / "1" / "assets.extra" / "tf_serving_warmup_requests"
    request = request_of({"unit": np.array([0], "int32")})
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.CopyFrom(request)
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(log.SerializeToString())
    with pytest.raises(tf.errors.InvalidArgumentError, match="does not match"):
        StandIn(folder, "small").__enter__()


def test_json_brings_the_same_floats_back():
    words = ["NaN", "Infinity", "-Infinity"]
    values = np.array([*map(float, words), -0.0, 1e-38, 0.1, 1 / 3, 3e38], "float32")
    text = written_object({"f": values})
    assert [word for word in words if word in text.split("[")[1]] == words
    assert np.array(json.loads(text), "float32").tobytes() == values.tobytes()
