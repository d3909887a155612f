"""What an export leaves behind is whole, says what it is, and answers without us.

    export/sampler.py       a version of a servable with its certificate, or a refusal
    export/ask.py           the golden response and a picture, by TensorFlow alone
    export/classifier.py    logits and probabilities of files of images
    keras_tilt/serving/servable.py  the writer of both

A process of its own starts TensorFlow anew, for 10 s: two scripts run in one, the
others in this process.
"""

import base64
import contextlib
import dataclasses
import functools
import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import serving_stand_in
import small_network
import tensorflow as tf
from cases import slow
from google.protobuf import text_format
from scipy import special
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2
from test_scripts import ROOT, beside_progress, run_script

import keras_tilt as kt
from keras_tilt import masking
from keras_tilt.cli import export_sampler, named, visualize
from keras_tilt.cli.jobs import exporting
from keras_tilt.cli.jobs.pictures import unit_chains
from keras_tilt.masking.serving import ServedSegmenter
from keras_tilt.sampling import sampler
from keras_tilt.serving import asking, certificate, requests, servable

SAMPLER, ASK, CLASSIFIER, SEGMENTER = (
    f"export/{name}.py" for name in ("sampler", "ask", "classifier", "segmenter")
)
WHITE = ("--reference", "white", "--stddev", "0.5")  # tight, for a weak tilt
UNITS = ("--unit", "class:0-2", *WHITE)
ENOUGH = ("--chains", "64", "--draws", "80", "--burnin", "60", "--ends", "8")
TOO_FEW = ("--chains", "2", "--draws", "8", "--burnin", "4", "--ends", "2")
SIGNATURES = {"serving_default", "sample_png", "sample_each", "start", "resume"}
SIGNATURES |= {"evaluate"}
LABELS = {"serving_default", "label_segments", "label_bytes", "label_segments_bytes"}
VERSION = {
    "saved_model.pb",
    "fingerprint.pb",
    "variables/variables.index",
    "variables/variables.data-00000-of-00001",
    "assets.extra/tf_serving_warmup_requests",
    "assets.extra/golden_request.json",
    "assets.extra/golden_response.json",
}
BESIDE = {"README.md", "model.config", "batching.config", "compose.yaml"}


# Running


def run_here(script, *arguments):
    """As `run_script`, in this process, where TensorFlow has started."""
    said, shown = io.StringIO(), io.StringIO()
    command = [script, *map(str, arguments)]
    with contextlib.ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(sys, "argv", command)
        stack.enter_context(contextlib.redirect_stdout(said))
        stack.enter_context(contextlib.redirect_stderr(shown))
        code, last = 0, ""
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as end:  # with a sentence it is 1, as Python does
            code, last = (1, end.code) if isinstance(end.code, str) else (end.code, "")
    return subprocess.CompletedProcess(
        command, code, said.getvalue(), shown.getvalue() + last
    )


ALONE = """\
import runpy, sys, types
root, *sys.argv = sys.argv[1:]
names = ["cli", "cli.ask", "cli.flags", "serving", "serving.asking"]

class OnlyAsking:
    def find_spec(name, path=None, target=None):
        package, _, inner = name.partition(".")
        if package == "keras_tilt" and inner not in names:
            raise ImportError(f"{name} is not needed to ask")

sys.meta_path.insert(0, OnlyAsking)
sys.modules.update(dict.fromkeys(["keras", "tensorflow_probability"]))
for name in ("keras_tilt", "keras_tilt.cli", "keras_tilt.serving"):
    sys.modules[name] = package = types.ModuleType(name)  # its __init__ does not run
    package.__path__ = [f"{root}/{name.replace('.', '/')}"]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_alone(script, *arguments):
    """Run where to import anything of this package but what asks is an error."""
    return subprocess.run(
        [sys.executable, "-c", ALONE, ROOT, ROOT / script, *map(str, arguments)],
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@contextlib.contextmanager
def iterations(interrupt_at=None):
    """List of the iterations of long chains within it, with Ctrl-C at one of them."""
    begun = []
    draw = sampler._Together.advance

    def advance(self, position):
        if position.iteration == interrupt_at:
            raise KeyboardInterrupt
        begun.append(position.iteration)
        return draw(self, position)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler._Together, "advance", advance)
        yield begun


# Reading


def files_in(folder):
    """Contents of all files by their paths, hidden ones too."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def document_of(folder, version=1):
    text = (folder / str(version) / "assets" / "certificate.json").read_text()
    return json.loads(text, parse_constant=pytest.fail)  # NaN is no JSON


def golden_of(folder, version=1):
    """Request and outputs."""
    extra = folder / str(version) / "assets.extra"
    request = json.loads((extra / "golden_request.json").read_text())
    return request, json.loads((extra / "golden_response.json").read_text())["outputs"]


def image_of(encoded):
    """Pixels of an image file in base64."""
    return tf.io.decode_image(base64.b64decode(encoded["b64"])).numpy()


def versions_in(folder):
    return sorted(path.name for path in folder.glob("*") if path.name.isdigit())


# A sampler of three classes whose chains converge


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A .keras file of the small network."""
    path = tmp_path_factory.mktemp("network") / "small.keras"
    small_network.small_network().save(path)
    return path


@pytest.fixture(scope="module")
def export(network, tmp_path_factory):
    """The run of an export in a process of its own, and its folder."""
    folder = tmp_path_factory.mktemp("served") / "classes"
    run = run_script(SAMPLER, network, *UNITS, *ENOUGH, "--out", folder)
    assert run.returncode == 0, run.stderr
    return run, folder


@pytest.fixture(scope="module")
def exported(export):
    return export[1]


def test_an_export_is_a_version_and_four_files_and_nothing_else(exported):
    files = {f"1/{name}" for name in VERSION | {"assets/certificate.json"}}
    assert set(files_in(exported)) == files | BESIDE
    assert not list(exported.glob(".*"))


def test_the_certificate_says_of_every_unit_all_that_is_known(exported):
    document = document_of(exported)
    assert document["converged"] is True and document["forced"] is False
    assert document["units"] == ["class 0", "class 1", "class 2"]
    assert [one["unit"] for one in document["certificates"]] == document["units"]
    assert document["environment"] == servable.environment()
    for one in document["certificates"]:
        assert certificate.Certificate(**one).verdict == "converged."
        assert one["converged"] is True and one["temperature"] == 1.0
        assert one["largest_difference"] <= one["limit"]


def test_served_chains_are_ten_autocorrelation_times_long_at_the_full_tilt(exported):
    document = document_of(exported)
    full = document["num_iterations_at_full_tilt"]
    assert full < document["num_iterations"]
    for one in document["certificates"]:
        assert one["num_iterations"] == full >= 10 * one["autocorrelation_time"]


def test_the_certificate_says_what_a_chain_costs_and_where_its_images_lie(exported):
    document = document_of(exported)
    for name in ("step_size", "num_leapfrog_steps", "num_gradients"):
        assert len(document[name]) == 3 and min(document[name]) > 0
    assert min(document["num_gradients"]) > document["num_iterations"]
    assert (document["black"], document["white"]) == (-1.5, 1.5)  # 3 times 0.5
    assert document["temperatures"] == [1.0] and document["scale"] == 1.0
    assert document["reference"] == "white" and document["log_partition"] is None


@pytest.mark.parametrize(
    "fixture, expected", [("exported", SIGNATURES), ("segmented", LABELS)]
)
def test_a_server_warms_every_signature_up(fixture, expected, request):
    folder = request.getfixturevalue(fixture)
    path = folder / "1" / "assets.extra" / "tf_serving_warmup_requests"
    records = [r.numpy() for r in tf.data.TFRecordDataset(str(path))]
    logs = [prediction_log_pb2.PredictionLog.FromString(r) for r in records]
    requests = [log.predict_log.request for log in logs]
    assert {one.model_spec.name for one in requests} == {folder.name}
    names = [one.model_spec.signature_name for one in requests]
    assert len(names) == len(expected) and set(names) == expected
    signatures = signatures_of(folder / "1")
    assert set(signatures) == expected
    for name, one in zip(names, requests, strict=True):
        assert {k: info.dtype for k, info in signatures[name].inputs.items()} == {
            k: proto.dtype for k, proto in one.inputs.items()
        }


def signatures_of(version):
    """Those that a servable says it has, by their names."""
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((version / "saved_model.pb").read_bytes())
    (graph,) = saved.meta_graphs
    initial = {"__saved_model_init_op"}
    return {k: v for k, v in graph.signature_def.items() if k not in initial}


def test_the_golden_response_is_an_image_of_the_last_unit(exported):
    request, outputs = golden_of(exported)
    inputs = {"unit": [2], "seed": [[0, 7]], "temperature": [1.0]}
    assert request == {"signature_name": "sample_png", "inputs": inputs}
    (encoded,) = outputs["png_bytes"]
    assert image_of(encoded).shape == small_network.SHAPE
    assert outputs["converged"] == [True]
    numbers = {"f", "log_density", "accept_rate"}
    assert outputs.keys() == numbers | {"png_bytes", "converged"}
    assert all(np.isfinite(outputs[name]) for name in numbers)


def test_the_configurations_are_what_the_server_reads(exported):
    config = model_server_config_pb2.ModelServerConfig()
    text_format.Parse((exported / "model.config").read_text(), config)
    (model,) = config.model_config_list.config
    assert model.name == "classes" and model.base_path == "/models/classes"
    assert model.model_platform == "tensorflow"
    found = serving_stand_in.batching_parameters(exported / "batching.config")
    assert found["max_batch_size"] == requests.MOST_REQUESTS
    assert found["batch_timeout_micros"] == 0 and not found["allowed_batch_sizes"]


def test_the_container_mounts_the_folder_where_its_configuration_looks(exported):
    text = (exported / "compose.yaml").read_text()
    assert text.startswith("services:\n  classes:\n    image: tensorflow/serving\n")
    # A list of YAML in one line, of texts in double quotes, is one of JSON.
    lists = re.findall(r"^    (\w+): (\[.*\])$", text, re.MULTILINE)
    assert {name: json.loads(values) for name, values in lists} == {
        "command": ["--model_config_file=/models/classes/model.config"],
        "ports": ["8500:8500", "8501:8501"],
        "volumes": [".:/models/classes:ro"],
        "environment": [servable.environment()["onednn"]],
    }


def test_an_export_shows_nothing_but_its_progress(export):
    run, _ = export
    assert "sampling: 100%" in run.stderr
    assert beside_progress(run.stderr) == []


def test_an_export_prints_the_verdict_of_every_unit(export):
    run, folder = export
    lines = run.stdout.splitlines()
    for one in document_of(folder)["certificates"]:
        (line,) = [line for line in lines if line.startswith(one["unit"])]
        assert line.endswith(f"  {one['verdict']}")
        assert f"{one['accept_rate']:.0%}" in line.split()
        assert f"{one['worst_r_hat']:.3f}" in line.split()
    assert f"Written: {folder / '1'}, a sampler of 3 units" in lines
    assert f"keras-tilt ask {folder} " in run.stdout
    assert str(folder / "README.md") in run.stdout


# Again


@pytest.fixture(scope="module")
def again(network, exported, tmp_path_factory):
    """A copy of the folder with a second version, of the same flags."""
    folder = shutil.copytree(exported, tmp_path_factory.mktemp("again") / "classes")
    run = run_here(SAMPLER, network, *UNITS, *ENOUGH, "--out", folder)
    assert run.returncode == 0, run.stderr
    return folder


@pytest.mark.slow
def test_a_second_export_is_version_2_and_leaves_version_1_as_it_was(exported, again):
    assert versions_in(again) == ["1", "2"]
    assert files_in(again / "1") == files_in(exported / "1")
    assert "2/saved_model.pb" in (again / "README.md").read_text()


@pytest.mark.slow
def test_equal_flags_give_equal_certificates_and_golden_responses(again):
    assert document_of(again, 1) == document_of(again, 2)
    assert golden_of(again, 1) == golden_of(again, 2)


@pytest.mark.slow
def test_a_golden_response_of_another_bit_is_another_response(again, tmp_path):
    """Of the highest version; the lower one is not looked at."""
    folder = shutil.copytree(again, tmp_path / "classes")
    _, outputs = golden_of(folder, 2)
    outputs["f"] = [np.nextafter(np.float32(outputs["f"][0]), np.float32(np.inf))]
    path = folder / "2" / "assets.extra" / "golden_response.json"
    path.write_text(servable.numbers_as_json({"outputs": outputs}))
    run = run_here(ASK, folder, "--smoke", "--out", tmp_path / "asked.png")
    assert "ANOTHER RESPONSE" in run.stdout and "bit for bit" not in run.stdout


# Asking


@pytest.fixture(scope="module")
def asked(exported, tmp_path_factory):
    """The run of export/ask.py without the rest of this package, and its picture."""
    path = tmp_path_factory.mktemp("asked") / "new" / "asked.png"
    flags = ("--unit", 0, 2, "--images", 8, "--seed", 0, "--out", path)
    run = run_alone(ASK, exported, *flags)
    assert run.returncode == 0, run.stderr
    return run, path


def test_without_what_made_it_the_golden_response_comes_back_bit_for_bit(asked):
    run, _ = asked
    assert "Golden request: the golden response, bit for bit" in run.stdout


def test_every_image_that_is_asked_for_has_its_numbers_and_verdict(asked):
    run, path = asked
    lines = [line for line in run.stdout.splitlines() if line.startswith("unit ")]
    names = [f"unit {unit}, seed (0, {i}): " for unit in (0, 2) for i in range(8)]
    for line, name in zip(lines, names, strict=True):
        assert line.startswith(name) and line.endswith(", converged")
        assert all(f"{n} " in line for n in ("f", "log_density", "accept_rate"))
    assert f"Picture: {path}" in run.stdout


def test_the_picture_has_a_row_for_each_unit_and_shows_the_golden_image(
    asked, exported
):
    """Which is that of unit 2 and seed (0, 7): the last."""
    picture = tf.io.decode_png(asked[1].read_bytes()).numpy()
    times, margin = asking.SMALLEST // 8, asking.MARGIN
    side = 8 * times + 2 * margin
    assert picture.shape == (2 * side, 8 * side, 1)
    last = picture[-side:, -side:][margin:-margin, margin:-margin]
    (encoded,) = golden_of(exported)[1]["png_bytes"]
    enlarged = image_of(encoded).repeat(times, axis=0).repeat(times, axis=1)
    np.testing.assert_array_equal(last, enlarged)


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (("--unit", 0, 3), "`unit` must lie in 0..2. Received: 3."),
        (("--unit", "class:3"), "class:0, class:1, class:2, or its place from 0."),
        (("--temperature", 0), "`temperature` must be positive and finite."),
    ],
    ids=["place", "name", "temperature"],
)
def test_what_cannot_be_asked_ends_in_its_sentence(exported, tmp_path, flags, sentence):
    out = tmp_path / "asked.png"
    run = run_here(ASK, exported, *flags, "--images", 1, "--out", out)
    assert run.returncode == 1 and sentence in run.stderr.splitlines()[-1]
    assert not out.exists()


def test_units_are_asked_for_by_place_and_by_name(exported, tmp_path):
    """As --unit of the export names them, and as its certificate does."""
    out, pictures = tmp_path / "asked.png", []
    for units in ((2, 0), ("class:2", "class 0")):
        run = run_here(ASK, exported, "--unit", *units, "--images", 1, "--out", out)
        assert run.returncode == 0, run.stderr
        lines = run.stdout.splitlines()[2:4]
        assert [line.split(",")[0] for line in lines] == ["unit 2", "unit 0"]
        pictures.append(out.read_bytes())
    assert pictures[0] == pictures[1]


def test_names_of_units_are_those_of_the_command_that_exported_them(network, tmp_path):
    """However they are read, and whatever their certificate calls them then."""
    read = ("none", (1.0,), 4.0)
    wanted = ["class:2", "class:1", "conv1:2", "conv1:0"]
    small = named.load_network(network)
    names = [named.unit_of(small, label, *read).name for label in wanted]
    assert not {*names} & {*wanted}
    (tmp_path / "assets").mkdir()
    file = tmp_path / "assets" / "certificate.json"
    file.write_text(json.dumps({"units": names}))
    assert asking.places_of(tmp_path, wanted) == [0, 1, 2, 3]
    assert asking.places_of(tmp_path, names[::-1]) == [3, 2, 1, 0]
    assert asking.places_of(tmp_path, ["3", "-1"]) == [3, -1]
    with pytest.raises(ValueError, match="class:2, class:1, conv1:2, conv1:0, or its"):
        asking.places_of(tmp_path, ["conv1:3"])


def test_more_images_than_a_request_has_rows_are_asked_for_all_the_same(
    exported, tmp_path
):
    count = requests.MOST_REQUESTS + 1
    run = run_here(ASK, exported, "--images", count, "--out", tmp_path / "asked.png")
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("unit 0, seed ") == count


def test_where_no_sampler_is_asking_says_how_to_write_one(classified, tmp_path):
    run = run_here(ASK, tmp_path, "--out", tmp_path / "asked.png")
    assert run.returncode == 1
    assert f"Received: {tmp_path}. Write one with: keras-tilt export" in run.stderr
    run = run_here(ASK, classified, "--out", tmp_path / "asked.png")
    assert run.returncode == 1 and "Expected a sampler." in run.stderr
    assert "classify_bytes" in run.stderr


# Chains that do not converge


@dataclasses.dataclass
class Attempts:
    """One command interrupted, repeated, and repeated with --force."""

    folder: object
    interrupted: object
    refused: object
    forced: object
    begun: list  # iterations, of each
    kept: list  # files after the first two


@pytest.fixture(scope="module")
def attempts(network, tmp_path_factory):
    """Of two units, by chains too few and too short: 4 iterations and 8 draws.

    At temperature 1/2, for which log Z is known.
    """
    folder = tmp_path_factory.mktemp("short") / "short"
    units = ("--unit", "class:0", "--unit", "class:2", *WHITE)
    units += ("--temperatures", "0.5", "--log-partition")
    command = (SAMPLER, network, *units, *TOO_FEW, "--out", folder)
    with iterations(interrupt_at=10) as first, pytest.warns(match="2 of 8 draws"):
        interrupted = run_here(*command)
    kept = [files_in(folder)]
    with iterations() as second:
        refused = run_here(*command)
    kept.append(files_in(folder))
    with iterations() as third:
        forced = run_here(*command, "--force")
    begun = [first, second, third]
    return Attempts(folder, interrupted, refused, forced, begun, kept)


def test_an_interrupted_export_writes_no_version_and_goes_on_where_it_was(attempts):
    assert attempts.interrupted.returncode == 130
    assert "Run the same command to resume" in attempts.interrupted.stderr
    assert all(name.startswith(".work/") for name in attempts.kept[0])
    assert attempts.begun[:2] == [[*range(10)], [10, 11]]


def test_chains_that_do_not_converge_are_refused_with_what_to_do(attempts):
    run = attempts.refused
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert "Expected chains that converge. Received: 2 of 2 that do not." in last
    assert all(flag in last for flag in ("--draws", "--scale", "--force"))
    assert run.stdout.count("not converged: the long chains have not") == 2
    assert all(name.startswith(".work/") for name in attempts.kept[1])


def test_by_force_they_are_exported_and_the_long_chains_are_not_drawn_again(attempts):
    assert attempts.forced.returncode == 0, attempts.forced.stderr
    assert attempts.begun[2] == []
    assert versions_in(attempts.folder) == ["1"]
    assert not list(attempts.folder.glob(".*"))


def test_what_is_exported_by_force_says_so_everywhere(attempts, tmp_path):
    document = document_of(attempts.folder)
    assert document["forced"] is True and document["converged"] is False
    readme = (attempts.folder / "README.md").read_text()
    assert "NOT CERTIFIED" in readme and "All units are certified" not in readme
    for one in document["certificates"]:
        assert one["verdict"].startswith("not converged: ")
        assert re.search(
            rf"^\* {one['unit']}\b.*: {re.escape(one['verdict'])}$", readme, re.M
        )
    run = run_here(ASK, attempts.folder, "--smoke", "--out", tmp_path / "asked.png")
    assert run.returncode == 0 and ", not certified" in run.stdout


# What is black and white


def scaled_network(path, scale):
    """The small network, of pixels that a Rescaling brings to its own."""
    first = keras.layers.Rescaling(scale, name="pixels")
    layers = [keras.Input(small_network.SHAPE), first]
    keras.Sequential([*layers, *small_network.small_network().layers]).save(path)
    return path


def pixels_and_tilts(monkeypatch, command):
    """Black and white of an export, and its tilts, which are not sampled."""
    settled = []

    def settle(tilts, low, high, *_, **__):
        settled.append((low, high, tilts))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(exporting, "long_runs", lambda *_, **__: {})
        patched.setattr(exporting, "certified", settle)
        with pytest.raises(SystemExit):
            export_sampler.main([*map(str, command)])
    return settled[0]


def test_a_sampler_has_the_noise_and_the_pixels_of_pictures_by_default(
    monkeypatch, tmp_path
):
    """Both scripts have one reference, for a network of 0 ... 255: not static."""
    model = scaled_network(tmp_path / "network.keras", 1 / 255)
    command = [model, "--unit", "class:0", "--out", tmp_path / "out"]
    low, high, (tilt,) = pixels_and_tilts(monkeypatch, command)
    assert (low, high) == (0.0, 255.0)
    of_pictures = visualize.parse_flags([*map(str, command)])
    drawing = unit_chains.Drawing(
        **{name: getattr(of_pictures, name) for name in visualize.DRAWING},
        **{"low": 0.0, "high": 255.0, "signals": visualize.SIGNALS},
        image_shape=small_network.SHAPE,
    )
    other = drawing._replace(scale=1.0).tilt(tilt.unit)
    images = tilt.reference.sample(50, seed=[0, 1]).numpy()
    np.testing.assert_array_equal(images, other.reference.sample(50, seed=[0, 1]))
    assert images.min() >= 0 and images.max() <= 255 and images.std() > 20


@pytest.mark.parametrize(
    ("scale", "flags", "low", "high"),
    [
        (1 / 255, "", 0, 255),
        (2.0, "", 0, 1),
        (2.0, "--preprocess tf", 0, 255),
        (2.0, "--high 4 --low -1", -1, 4),
        (2.0, "--reference white", 0, 1),
        (2.0, "--reference white --stddev 0.5", -1.5, 1.5),
        (2.0, "--reference white --stddev 0.5 --mean 1 --high 2", -0.5, 2),
    ],
)
def test_black_and_white_are_given_found_or_those_of_the_noise(
    monkeypatch, tmp_path, capsys, scale, flags, low, high
):
    model = scaled_network(tmp_path / "network.keras", scale)
    command = [model, "--unit", "class:0", *flags.split(), "--out", tmp_path / "out"]
    assert pixels_and_tilts(monkeypatch, command)[:2] == (low, high)
    assert f"black {low:g}, white {high:g}, " in capsys.readouterr().out


def test_a_classifier_of_several_outputs_is_refused_in_a_sentence(tmp_path):
    inputs = keras.Input((8, 8, 3))
    flat = keras.layers.Flatten()(inputs)
    outputs = [keras.layers.Dense(3)(flat), keras.layers.Dense(2)(flat)]
    for several in (outputs, dict(zip("ab", outputs, strict=True))):
        keras.Model(inputs, several).save(tmp_path / "two.keras")
        run = run_here(CLASSIFIER, tmp_path / "two.keras", "--out", tmp_path / "out")
        assert run.returncode == 1 and not (tmp_path / "out").exists()
        assert "Expected a network of one output [n, classes]. Received" in run.stderr
        assert "[(None, 3), (None, 2)]" in run.stderr


def test_asking_says_what_it_was_asked_and_nothing_else(exported, tmp_path):
    """In a process of its own, where TensorFlow has its say when it starts."""
    out = tmp_path / "asked.png"
    run = run_script(ASK, exported, "--unit", 0, "--images", 2, "--out", out)
    assert (run.returncode, run.stderr) == (0, "")
    lines = run.stdout.splitlines()
    assert len(lines) == 5 and lines[0].startswith("Golden request: the golden")


# Flags


@pytest.mark.parametrize(
    "flags, sentence",
    [
        ("--unit conv9:0", "Received: 'conv9'. Layers: "),
        ("--unit conv1:4", "lie in 0..3. Received: 4."),
        ("--unit class:3", "lie in 0..2. Received: 3."),
        ("--unit class", "Expected --unit class:3, class:0-9,"),
        ("--unit class:2-0", "Received: class:2-0. Swap its ends."),
        ("--unit class:1 --unit class:0-2", "Received: class:1"),
        ("--unit class:0 --unit conv1:0", "[(3, 3, 1), (8, 8, 1)], by what they see."),
        ("--unit class:0 --low 2 --high 1", "--low below --high. Received: 2, 1."),
        ("--unit class:0 --sizes 0.5", "Here: pass --sizes 1."),
        ("--unit class:0 --stddev 1", "with --reference white alone"),
        ("--unit class:0 --reference white --mean 1", "a --stddev for a --mean"),
        ("--unit class:0 --chains 1", "two --chains"),
        ("--unit class:0 --draws 3", "four --draws"),
        ("--unit class:0 --most-iterations 1", "two --most-iterations"),
        ("--unit class:0 --seed 2147483648", "2147483648"),
    ],
)
def test_flags_that_cannot_be_end_in_a_sentence(network, tmp_path, flags, sentence):
    """With --draws and --chains last, which stand for themselves."""
    out = tmp_path / "out"
    shared = ("--draws", 8, "--chains", 2, "--burnin", 4, "--force", "--out", out)
    run = run_here(SAMPLER, network, *shared, *flags.split())
    assert run.returncode in (1, 2)
    assert sentence in run.stderr.splitlines()[-1]
    assert not out.exists()


@pytest.mark.parametrize("script", [SAMPLER, CLASSIFIER])
@pytest.mark.parametrize("text", [None, "no network"], ids=["none", "another"])
def test_without_a_network_there_is_a_sentence_and_no_folder(script, text, tmp_path):
    model, out = tmp_path / "model.keras", tmp_path / "out"
    if text:
        model.write_text(text)
    units = UNITS if script == SAMPLER else ()
    run = run_here(script, model, *units, "--out", out)
    assert run.returncode == 1
    assert "Expected a .keras file" in run.stderr and str(model) in run.stderr
    assert not out.exists()


@pytest.mark.parametrize("script", [SAMPLER, CLASSIFIER])
def test_without_the_messages_of_the_server_nothing_is_begun(
    script, network, tmp_path, monkeypatch
):
    """Not after minutes of long chains: they are needed to write a version."""
    for name in ("tensorflow_serving", "tensorflow_serving.apis"):
        monkeypatch.setitem(sys.modules, name, None)
    units = (*UNITS, *TOO_FEW, "--force") if script == SAMPLER else ()
    with iterations() as begun:
        run = run_here(script, network, *units, "--out", tmp_path / "out")
    assert run.returncode == 1 and "pip install" in run.stderr
    assert begun == [] and not (tmp_path / "out").exists()


def test_a_temperature_given_twice_is_one():
    """A sum over the rows of the table of log Z would count it twice."""
    command = ["a.keras", "--unit", "class:0", "--temperatures", "1", "2", "1"]
    flags = export_sampler.parse_flags(command)
    assert flags.temperatures == [1.0, 2.0]


# log Z


def test_log_prob_is_the_log_density_less_log_z_where_that_is_known(attempts):
    """At temperature 1/2, not at 1."""
    loaded = tf.saved_model.load(str(attempts.folder / "1")).signatures
    rows = {"unit": [0, 0, 1, 1], "seed": 4 * [[0, 1]]}
    rows = {name: tf.constant(value) for name, value in rows.items()}
    temperature = tf.constant([0.5, 1.0, 0.5, 1.0])
    answer = loaded["serving_default"](temperature=temperature, **rows)
    log_prob, log_density = answer["log_prob"].numpy(), answer["log_density"].numpy()
    log_z = np.ravel(document_of(attempts.folder)["log_partition"])
    rounding = 4 * np.finfo(np.float32).eps
    np.testing.assert_allclose(log_prob[::2], log_density[::2] - log_z, rtol=rounding)
    assert np.all(np.isnan(log_prob[1::2])) and np.all(np.isfinite(log_density))


def test_log_z_is_the_log_of_the_mean_of_the_weights(attempts):
    """That of exp(2 f) over q at temperature 1/2."""
    log_z = np.ravel(document_of(attempts.folder)["log_partition"])
    images = 0.5 * tf.random.stateless_normal([50_000, *small_network.SHAPE], [0, 1])
    logits = np.float64(small_network.small_network()(images))
    for number, found in zip((0, 2), log_z, strict=True):
        said = rf"class {number}: log Z \S+ \+- (\S+) nats"
        error = float(re.search(said, attempts.forced.stdout)[1])
        weights = np.exp(2 * logits[:, number])
        of_weights = weights.std() / weights.mean() / np.sqrt(len(weights))
        assert abs(found - np.log(weights.mean())) < 4 * np.hypot(error, of_weights)


# A classifier


BIAS, TEMPERATURE = np.float32([0.5, -1.0, 2.0]), 2.5


@pytest.fixture(scope="module")
def classified(tmp_path_factory):
    """The folder of a calibrated classifier of three names, of pixels -1 to 1."""
    folder = tmp_path_factory.mktemp("classified")
    model = kt.GenerativeClassifier(small_network.small_network())
    model.calibration_bias.assign(BIAS)
    model.temperature.assign(TEMPERATURE)
    model.save(folder / "model.keras")
    (folder / "names.json").write_text(json.dumps(["cat", ["n1", "dog"], "Käfer"]))
    flags = ("--low", "-1", "--high", "1", "--names", folder / "names.json")
    out = folder / "animals"
    run = run_here(CLASSIFIER, folder / "model.keras", *flags, "--out", out)
    assert run.returncode == 0, run.stderr
    assert "a classifier of 3 classes" in run.stdout and run.stderr == ""
    return out


def test_a_classifier_is_a_version_and_four_files_and_nothing_else(classified):
    files = {f"1/{name}" for name in VERSION | {"assets/class_names.json"}}
    assert set(files_in(classified)) == files | BESIDE
    path = classified / "1" / "assets" / "class_names.json"
    assert json.loads(path.read_text()) == ["cat", "dog", "Käfer"]


def test_the_golden_response_is_what_the_calibrated_model_says(classified):
    """Of the image in the golden request; Keras may run the layers in another order."""
    request, outputs = golden_of(classified)
    assert request["signature_name"] == "classify_bytes"
    (encoded,) = request["inputs"]["image_bytes"]
    pixels = -1 + 2 * np.float32(image_of(encoded)) / 255
    logits = small_network.small_network()(pixels[None]).numpy() + BIAS
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    close(outputs["logits"], logits)
    close(outputs["probabilities"], special.softmax(logits / TEMPERATURE, axis=1))
    close(outputs["log_density"], special.logsumexp(logits, axis=1))
    (index,) = outputs["class"]
    assert index == logits.argmax()
    assert outputs["class_name"] == [["cat", "dog", "Käfer"][index]]


@pytest.mark.parametrize(
    "shape, sentence",
    [((8, 8, 2), "Received: 2."), ((None, None, 3), "images of one size")],
    ids=["channels", "size"],
)
def test_networks_whose_images_are_no_files_are_refused(shape, sentence, tmp_path):
    layers = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)]
    keras.Sequential([keras.Input(shape), *layers]).save(tmp_path / "model.keras")
    run = run_here(CLASSIFIER, tmp_path / "model.keras", "--out", tmp_path / "out")
    assert run.returncode == 1 and sentence in run.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("names", [3, "abc", [1, 2, 3], {"a": "b"}, ["a"] * 4])
def test_names_that_are_none_of_the_classes_are_refused(names, network, tmp_path):
    (tmp_path / "names.json").write_text(json.dumps(names))
    flags = ("--names", tmp_path / "names.json", "--out", tmp_path / "out")
    run = run_here(CLASSIFIER, network, *flags)
    assert run.returncode == 1 and "Expected --names" in run.stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """The folder of a network of three labels, sigmoids in a wrapper."""
    folder = tmp_path_factory.mktemp("labelled")
    keras.utils.set_random_seed(0)
    top = keras.layers.Dense(3, "sigmoid", bias_initializer="normal")
    layers = [keras.Input(small_network.SHAPE), keras.layers.Flatten()]
    network = keras.Sequential([*layers, keras.layers.SpectralNormalization(top)])
    network.save(folder / "model.keras")
    out = folder / "labels"
    run = run_here(CLASSIFIER, folder / "model.keras", "--high", "1", "--out", out)
    assert run.returncode == 0, run.stderr
    assert "a classifier of 3 labels" in run.stdout and run.stderr == ""
    return out


def test_labels_are_exported_with_the_probabilities_of_the_network(labelled):
    """Without a class or a density, which a softmax of their logits would give."""
    request, outputs = golden_of(labelled)
    (encoded,) = request["inputs"]["image_bytes"]
    network = keras.models.load_model(labelled.parent / "model.keras")
    expected = network(np.float32(image_of(encoded))[None] / 255)
    np.testing.assert_allclose(outputs["probabilities"], expected, rtol=1e-5)
    assert outputs.keys() == {"logits", "probabilities"}
    readme = (labelled / "README.md").read_text()
    assert "Several labels may hold at once" in readme
    assert "log_density" not in readme and "`class`" not in readme


# A segmenter


@pytest.fixture(scope="module")
def segmented(small_segmenter, tmp_path_factory):
    """The folder of a segmenter whose names are in the run.json beside it."""
    folder = tmp_path_factory.mktemp("segmented")
    small_segmenter.save(folder / "segmenter.keras")
    (folder / "run.json").write_text(json.dumps({"classes": ["sky", "road", "car"]}))
    flags = ("--superpixels", 20, "--side", 64, "--out", folder / "streets")
    run = run_here(SEGMENTER, folder / "segmenter.keras", *flags)
    assert run.returncode == 0, run.stderr
    assert "a segmenter of 3 classes" in run.stdout and run.stderr == ""
    return folder / "streets"


def test_a_segmenter_is_a_version_and_four_files_and_nothing_else(segmented):
    files = {f"1/{name}" for name in VERSION | {"assets/class_names.json"}}
    assert set(files_in(segmented)) == files | BESIDE
    path = segmented / "1" / "assets" / "class_names.json"
    assert json.loads(path.read_text()) == ["sky", "road", "car"]


def test_the_golden_response_is_a_map_of_the_golden_image(segmented, small_segmenter):
    """A made landscape, which is in the request."""
    request, outputs = golden_of(segmented)
    assert request["signature_name"] == "label_bytes"
    (encoded,) = request["inputs"]["image_bytes"]
    image = masking.scenes.synthetic(1, (96, 128), 7)[0].image
    np.testing.assert_array_equal(image_of(encoded), image)
    served = ServedSegmenter(small_segmenter, ["a"] * 3, superpixels=20, side=64)
    pixels = tf.TensorSpec([None, None, None, 3], tf.uint8)
    found = requests.traced(served.label, pixels)(image=tf.constant(image[None]))
    (encoded,) = outputs["label_png_bytes"]
    np.testing.assert_array_equal(image_of(encoded)[..., 0], found["label_map"][0])
    np.testing.assert_allclose(outputs["share"], found["share"])


def test_names_are_those_that_are_given_or_numbers(segmented, monkeypatch, tmp_path):
    """And what is no segmenter is refused."""
    written = []

    def write(folder, segmenter, image):
        written.append((folder, segmenter.class_names))
        return folder

    monkeypatch.setattr(masking.serving, "write_segmenter", write)
    model = shutil.copy(segmented.parent / "segmenter.keras", tmp_path)
    (tmp_path / "names.json").write_text(json.dumps({"1": "way"}))
    flags = ("--smoke", "--names", tmp_path / "names.json", "--out", tmp_path / "a")
    assert run_here(SEGMENTER, model, *flags).returncode == 0
    assert written == [(tmp_path / "a", ("class 0", "way", "class 2"))]
    small_network.small_network().save(tmp_path / "other.keras")
    run = run_here(SEGMENTER, tmp_path / "other.keras", "--out", tmp_path / "b")
    assert run.returncode == 1 and "Expected a Segmenter. Received:" in run.stderr
    assert not (tmp_path / "b").exists() and len(written) == 1


# What is beside the versions


@pytest.fixture(
    scope="module", params=["exported", "classified", "labelled", "segmented"]
)
def either(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("name", sorted(BESIDE))
def test_nothing_is_left_to_be_filled_in(either, name):
    text = (either / name).read_text()
    assert re.findall(r"[{<][a-z_]+[}>]", text) == []


def test_the_readme_lists_every_file_of_the_version(either):
    readme = (either / "README.md").read_text()
    for path, content in files_in(either).items():
        size = -(-len(content) // 1000)
        listed = re.search(rf"^    {re.escape(path)} +{size} kB$", readme, re.M)
        assert listed or path in BESIDE


@pytest.fixture(
    scope="module",
    params=["exported", *map(slow, ("classified", "labelled", "segmented"))],
)
def started(request, tmp_path_factory):
    """A server of a copy of the folder, in which there is an image.png, and that."""
    folder = request.getfixturevalue(request.param)
    folder = shutil.copytree(folder, tmp_path_factory.mktemp("started") / folder.name)
    image = np.random.default_rng(0).integers(0, 256, (20, 10, 3), np.uint8)
    (folder / "image.png").write_bytes(tf.io.encode_png(image).numpy())
    with serving_stand_in.StandIn(folder, folder.name) as server:
        yield server, folder


def asked_by_shell(server, folder):
    """Answers to the commands with curl of the README."""
    blocks = re.findall(r"(?:^    .*\n)+", (folder / "README.md").read_text(), re.M)
    commands = [textwrap.dedent(block) for block in blocks if "curl" in block]
    local = [c.replace("http://localhost:8501", server.rest_url) for c in commands]
    run = functools.partial(subprocess.run, shell=True, cwd=folder, timeout=60)
    return [json.loads(run(c, stdout=subprocess.PIPE).stdout) for c in local]


def asked_by_program(server, folder):
    """Names of the program in the README, once it has run."""
    text = (folder / "README.md").read_text()
    program = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    names = {}
    with contextlib.chdir(folder):
        exec(program.replace("localhost:8500", server.grpc_address), names)
    names["channel"].close()
    return names


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not here.")
def test_what_the_readme_asks_is_answered_to_shell_and_program(started):
    server, folder = started
    golden, answer = asked_by_shell(server, folder)
    assert golden["outputs"] == golden_of(folder)[1]
    names = asked_by_program(server, folder)
    if "image" in names:
        assert names["image"].tolist() == answer["outputs"]["image"]
        assert names["image"].shape == (1, *small_network.SHAPE)
    elif "class_name" in names["response"].outputs:
        (found,) = tf.make_ndarray(names["response"].outputs["class_name"])
        assert [found.decode()] == answer["outputs"]["class_name"]
    elif "probabilities" in names["response"].outputs:
        found = tf.make_ndarray(names["response"].outputs["probabilities"])
        answered = np.float32(answer["outputs"]["probabilities"])
        np.testing.assert_array_equal(found, answered)
    else:
        (encoded,) = answer["outputs"]["label_png_bytes"]
        written = (folder / "labels.png").read_bytes()
        assert written == base64.b64decode(encoded["b64"])
        assert image_of(encoded).shape == (20, 10, 1)


# The writer


class Doubling(tf.Module):
    """A module of one signature."""

    @functools.cached_property
    def functions(self):
        spec = tf.TensorSpec([None], tf.float32, "number")
        double = tf.function(lambda number: {"double": 2.0 * number})
        return {"serving_default": double.get_concrete_function(spec)}


def write(folder):
    request = ("serving_default", {"number": np.float32([1.5])})
    return servable.write_servable(
        folder, Doubling(), request, [request], {}, 8, "{start} {tree}"
    )


@pytest.mark.parametrize("step", ["_write_warmup", "golden_of"])
def test_a_version_is_whole_or_not_there(step, monkeypatch, tmp_path):
    def fail(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(servable, step, fail)
        with pytest.raises(OSError, match="no space left"):
            write(tmp_path)
    assert versions_in(tmp_path) == []
    assert write(tmp_path) == tmp_path / "1"
    assert set(files_in(tmp_path)) == BESIDE | {f"1/{name}" for name in VERSION}
    assert golden_of(tmp_path)[1] == {"double": [3.0]}


def test_the_next_version_is_the_number_after_the_highest(tmp_path):
    assert servable.next_version(tmp_path / "none") == 1
    for name in ("3", "7", "x9", "9.old", ".10.part", "-11", "1e3", "²"):
        (tmp_path / name).mkdir()
    assert servable.next_version(tmp_path) == 8


def test_a_servable_of_the_working_directory_has_its_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    write(".")
    assert f'name: "{tmp_path.name}"' in (tmp_path / "model.config").read_text()


def test_float32_come_back_from_json_to_the_same_bits():
    bits = np.random.default_rng(0).integers(0, 2**32, 200_000, np.uint32)
    bits[:4] = 0x00000000, 0x80000000, 0x00000001, 0x807FFFFF  # zeros, denormals
    bits[4:8] = 0x7F800000, 0xFF800000, 0x7F7FFFFF, 0x7FC00000  # infinite, last, NaN
    values = bits.view(np.float32)
    text = servable.numbers_as_json({"f": values})
    back = np.array(json.loads(text)["f"]).astype(np.float32)
    is_number = ~np.isnan(values)
    np.testing.assert_array_equal(back.view(np.uint32)[is_number], bits[is_number])
    assert np.isnan(back[~is_number]).all() and not is_number.all()


def test_strings_are_text_unless_their_name_ends_in_bytes():
    values = {
        "png_bytes": np.array([b"\xff\x00"], object),
        "error": np.array(["Käfer".encode(), b""], object),
        "nested": {"image_bytes": [b"a"], "converged": np.array([True])},
        "unit": np.int32([[1, -2]]),
    }
    assert json.loads(servable.numbers_as_json(values)) == {
        "png_bytes": [{"b64": "/wA="}],
        "error": ["Käfer", ""],
        "nested": {"image_bytes": [{"b64": "YQ=="}], "converged": [True]},
        "unit": [[1, -2]],
    }
