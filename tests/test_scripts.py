"""Every script helps; a sweep of train/mnist.py is whole however often interrupted.

One run of each script is a process of its own, as a user has it; of a sweep a slow one.
"""

import argparse
import fcntl
import importlib
import json
import os
import pathlib
import re
import runpy
import shutil
import signal
import subprocess
import sys

import children
import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import slow
from small_transformer import small_transformer

import keras_tilt as kt
from keras_tilt import masking
from keras_tilt.cli import demo, mnist, named, visualize
from keras_tilt.cli import digits as digits_command
from keras_tilt.cli.commands import COMMANDS
from keras_tilt.cli.flags import MODES
from keras_tilt.cli.jobs import learning, mnist_sweep, two_halves
from keras_tilt.cli.jobs.pictures import judges, unit_chains, unit_pictures
from keras_tilt.sampling import sampler
from keras_tilt.training.runs import run as training

ROOT = pathlib.Path(__file__).parents[1]
# A folder with a __main__.py is a script, too.
SCRIPTS = sorted(
    path
    for folder in ("train", "export", "benchmarks")
    for path in ROOT.glob(f"{folder}/*")
    if path.suffix == ".py" or (path / "__main__.py").is_file()
)
PROGRESS = re.compile(r"(.*: )? *\d+%\|.*\| (\d+/\d+ \[.*\]|.* left, .*)")


def run_script(*command):
    """Exit code, output and errors of a script, run from the root of the checkout."""
    kept = {k: v for k, v in os.environ.items() if k != "KERAS_TILT_DATA"}
    return children.run(command, cwd=ROOT, env=kept)


def beside_progress(stderr):
    """Lines on stderr that are not a state of the progress bar."""
    lines = re.split(r"[\r\n]+", stderr.strip())
    return [line for line in lines if not PROGRESS.fullmatch(line.strip())]


# Every script


def help_of(script, monkeypatch, capsys):
    """What --help prints, one line per flag, and the parser that printed it."""
    parsers = []
    print_help = argparse.ArgumentParser.print_help
    monkeypatch.setattr(
        argparse.ArgumentParser,
        "print_help",
        lambda parser: (parsers.append(parser), print_help(parser)),
    )
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.syspath_prepend(script.parent)  # as Python does for a script
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(script), run_name="__main__")
    assert not stopped.value.code
    (parser,) = parsers
    return capsys.readouterr().out, parser


def test_there_are_scripts():
    assert ROOT / "train" / "mnist.py" in SCRIPTS


every_script = pytest.mark.parametrize(
    "script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}"
)


@every_script
def test_help_prints_every_default(script, monkeypatch, capsys):
    text, parser = help_of(script, monkeypatch, capsys)
    assert "(default: " in text
    entries = re.split(r"\n  (?=\S)", text)
    for action in parser._actions:
        silent = argparse.SUPPRESS in (action.default, action.help)
        if silent or action.default is None or action.default is False:
            continue
        flag = re.escape((action.option_strings or [action.dest])[0])
        (entry,) = [entry for entry in entries if re.match(rf"{flag}[ ,]", entry)]
        assert f"(default: {action.default})" in entry


@every_script
def test_every_script_takes_seed_out_and_smoke(script, monkeypatch, capsys):
    text, _ = help_of(script, monkeypatch, capsys)
    for flag in ("--seed", "--out", "--smoke"):
        assert re.search(rf"^ +{flag}\b(?!-)", text, re.MULTILINE), flag


@every_script
def test_flags_are_in_kebab_case(script, monkeypatch, capsys):
    _, parser = help_of(script, monkeypatch, capsys)
    flags = [flag for action in parser._actions for flag in action.option_strings]
    assert all(re.fullmatch(r"-h|--[a-z]+(-[a-z]+)*", flag) for flag in flags), flags


# Flags that are read before TensorFlow is

READ_FLAGS = """\
import contextlib, io, json, os, runpy, sys
found, commands = [], json.load(sys.stdin)
for script, *flags in commands:
    sys.argv = [script, *flags]
    sys.path[0] = os.path.dirname(script)
    said, code = io.StringIO(), None
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            code = end.code
    heavy = {"keras", "matplotlib", "numpy", "scipy", "tensorflow"}
    found.append([code, said.getvalue(), sorted(heavy & sys.modules.keys())])
json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def read_flags(tmp_path_factory):
    """{(script, case): (code, text, heavy modules)}, all in one process without any."""
    folder = tmp_path_factory.mktemp("flags")
    (folder / "file").write_text("")
    cases = {
        "help": ["--help"],
        "typo": ["--sede", "3"],
        "out is a file": ["--out", str(folder / "file"), "--sede"],
        "out is a folder": ["--out", str(folder), "--sede"],
        "out is below a file": ["--out", str(folder / "file" / "a" / "b"), "--sede"],
    }
    keys = [(script, case) for script in SCRIPTS for case in cases]
    mains = [s / "__main__.py" if s.is_dir() else s for s, _ in keys]
    commands = [[str(m), *cases[c]] for m, (_, c) in zip(mains, keys, strict=True)]
    run = subprocess.run(
        [sys.executable, "-c", READ_FLAGS],
        input=json.dumps(commands),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return dict(zip(keys, json.loads(run.stdout), strict=True))


@every_script
def test_help_and_typos_are_told_before_tensorflow_is_imported(script, read_flags):
    assert read_flags[script, "help"][0] == 0
    assert read_flags[script, "typo"][0] == 2
    for case in ("help", "typo"):
        code, text, heavy = read_flags[script, case]
        assert "usage: " in text and heavy == [], (case, text)


@every_script
def test_an_out_that_cannot_be_written_is_told_at_once(script, read_flags):
    """A script writes either a folder or a file, and neither below a file."""
    told = {
        case: f"Expected a f{text.partition('Expected a f')[2]}"
        for (of_script, case), (code, text, heavy) in read_flags.items()
        if of_script == script and code == 2 and "which is a f" in text and not heavy
    }
    assert len(told) == 2 and "which is a file" in told["out is below a file"]
    (other,) = told.keys() - {"out is below a file"}
    taken = other.removeprefix("out is a ")
    wanted = {"file": "folder", "folder": "file"}[taken]
    assert told[other].startswith(f"Expected a {wanted}")
    assert f"which is a {taken}. Name " in told[other]


READ_WORDS = """\
import contextlib, io, json, sys
from keras_tilt.cli.commands import main
found = []
for words in json.load(sys.stdin):
    said, code = io.StringIO(), None
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main(words)
        except SystemExit as end:
            code = end.code
    found.append([code, said.getvalue()])
assert not {"keras", "matplotlib", "numpy", "scipy", "tensorflow"} & sys.modules.keys()
json.dump(found, sys.stdout)
"""


def test_one_command_leads_to_all_others_before_tensorflow_is_imported():
    """In one process: --help and typos of each, of no command and of a wrong one."""
    cases = [["--help"], [], ["trian"], ["export"], ["export", "sampel"]]
    cases += [[*name.split(), "--help"] for name in COMMANDS]
    cases += [[*name.split(), "--sede"] for name in COMMANDS]
    run = subprocess.run(
        [sys.executable, "-c", READ_WORDS],
        input=json.dumps(cases),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    whole, *rest = json.loads(run.stdout)
    wrong, helped = rest[:4], rest[4 : 4 + len(COMMANDS)]
    mistyped = rest[4 + len(COMMANDS) :]
    assert whole[0] == 0
    assert all(f"\n  {name} " in whole[1] for name in COMMANDS)
    for code, text in wrong:
        assert code == 2 and "Expected a command. Received: " in text
        assert ", ".join(COMMANDS) in text
    for name, (code, text) in zip(COMMANDS, helped, strict=True):
        assert code == 0 and text.startswith(f"usage: keras-tilt {name} [-h]"), text
    for name, (code, text) in zip(COMMANDS, mistyped, strict=True):
        assert code == 2 and f"keras-tilt {name}: error: " in text


def test_the_package_is_the_command():
    command = [sys.executable, "-m", "keras_tilt", "see", "--help"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("usage: keras-tilt see")


@pytest.mark.parametrize(
    ("script", "flag", "choices"),
    [
        ("train/segmentation.py", "--design", masking.DESIGNS),
        ("export/segmenter.py", "--rule", masking.RULES),
        ("train/visualize.py", "--preprocess", MODES),
    ],
)
def test_choices_are_those_of_the_library(script, flag, choices, read_flags):
    """They are written down where TensorFlow is not imported."""
    text = read_flags[ROOT / script, "help"][1]
    shown = re.search(rf"{flag} {{([^}}]*)}}", text)
    assert sorted(shown[1].split(",")) == sorted(choices)


# train/mnist.py

MNIST = "train/mnist.py"
KEYS = [(s, e) for s in ("GG", "DG", "GG+DG") for e in (1, 2)]


def records_in(folder):
    return json.loads((folder / "mnist.json").read_text())


def keys_of(records):
    return [(record["scheme"], record["epoch"]) for record in records]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder with mnist.npz, of some of the images that the package holds."""
    (x_train, y_train), (x_test, y_test) = kt.data.embedded_mnist()
    folder = tmp_path_factory.mktemp("digits")
    np.savez(
        folder / "mnist.npz",
        **{"x_train": x_train[:1000], "y_train": y_train[:1000]},
        **{"x_test": x_test[:500], "y_test": y_test[:500]},
    )
    return folder


@pytest.fixture(scope="module")
def short(digits):
    """Flags of a short sweep: of one seed, of two epochs of 16 steps."""
    return (
        *("--data-dir", digits, "--seed", 0),
        *("--epochs", 2, "--generative-epochs", 1),
    )


@pytest.fixture(scope="module")
def sweep(short, tmp_path_factory):
    """A sweep interrupted after GG: folder, records then, the run that ended it."""
    out = tmp_path_factory.mktemp("sweep")
    begun = begun_sweep(short, out, "--schemes", "GG")
    assert begun.returncode == 0, begun.stderr
    first_records = records_in(out)
    whole = begun_sweep(short, out)
    assert whole.returncode == 0, whole.stderr
    return out, first_records, whole


def begun_sweep(short, out, *flags):
    """A sweep in this process, of a network that is quick to train."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(mnist_sweep, "lenet", linear_network)
        return children.call(mnist.main, [*short, "--out", out, *flags])


def linear_network(seed, scale):
    """Of pixels that are averages of 16."""
    layers = [
        keras.Input((28, 28, 1)),
        keras.layers.Rescaling(scale),
        keras.layers.AveragePooling2D(4),
        keras.layers.Flatten(),
        keras.layers.Dense(10, kernel_initializer=keras.initializers.HeNormal(seed)),
    ]
    return keras.Sequential(layers)


@pytest.mark.slow
def test_a_sweep_of_lenet_in_a_process_of_its_own_shows_its_table(short, tmp_path):
    run = run_script(MNIST, *short, "--schemes", "GG+DG", "--out", tmp_path)
    assert run.returncode == 0, run.stderr
    assert "2/2" in run.stderr and beside_progress(run.stderr) == []
    assert keys_of(records_in(tmp_path)) == KEYS[4:]
    assert str(tmp_path / "mnist.json") in run.stdout


def test_a_sweep_continues_one_of_fewer_schemes(sweep):
    out, first_records, _ = sweep
    assert keys_of(first_records) == KEYS[:2]
    assert records_in(out)[:2] == first_records


def test_a_sweep_records_three_schemes_times_two_epochs(sweep):
    records = records_in(sweep[0])
    assert keys_of(records) == KEYS
    objectives = [record["objective"] for record in records]
    assert objectives == 2 * ["generative"] + 2 * ["discriminative"] + [
        "generative",
        "discriminative",
    ]
    for record in records:
        assert record["seed"] == 0 and record["epochs"] == 2
        assert 0 < record["test_error"] < 90  # better than a guess among ten
        calibrated = record["test_error_calibrated"]
        assert (calibrated is None) == (record["objective"] == "discriminative")


def test_the_generative_epochs_of_both_schemes_are_one_training(sweep):
    by_key = dict(zip(KEYS, records_in(sweep[0]), strict=True))
    assert by_key["GG+DG", 1] == by_key["GG", 1] | {"scheme": "GG+DG"}


def test_a_sweep_prints_its_table(sweep):
    out, _, run = sweep
    rows = [line.split() for line in run.stdout.splitlines()]
    final = {r["scheme"]: r for r in records_in(out) if r["epoch"] == 2}
    for scheme, record in final.items():
        (row,) = [row for row in rows if row[:1] == [scheme]]
        assert row[1:3] == ["1", f"{record['test_error']:.3f}"]
    assert str(out / "mnist.json") in run.stdout


@pytest.mark.parametrize("train_images, shown", [(60_000, True), (5_000, False)])
def test_the_paper_stands_beside_runs_on_its_images_alone(train_images, shown):
    text = mnist_sweep.table([], {"epochs": 25, "train_images": train_images})
    assert ("paper*" in text) == ("1.03" in text) == ("unverified" in text) == shown


def test_a_sweep_shows_nothing_but_its_progress(sweep):
    run = sweep[2]
    assert "6/6" in run.stderr
    assert beside_progress(run.stderr) == []


def test_a_sweep_leaves_the_model_of_every_scheme(sweep):
    """And of GG the one that GG+DG began with."""
    names = sorted(path.name for path in sweep[0].glob("*.keras"))
    assert names == [
        "dg-seed0-epoch02.keras",
        "gg-dg-seed0-epoch02.keras",
        "gg-seed0-epoch01.keras",
        "gg-seed0-epoch02.keras",
    ]


def test_its_models_take_pixels_as_files_have_them(sweep, digits):
    model = keras.models.load_model(sweep[0] / "gg-dg-seed0-epoch02.keras")
    _, (images, labels) = kt.data.load_mnist(digits)
    logits = model.predict(images.astype(np.float32), batch_size=500, verbose=0)
    last = records_in(sweep[0])[-1]
    assert last["scheme"] == "GG+DG"
    error = 100 * np.mean(logits.argmax(axis=1) != labels)
    assert error == pytest.approx(last["test_error"], abs=0.21)


def test_a_finished_sweep_trains_nothing_again(sweep, short):
    out, _, whole = sweep
    before = (out / "mnist.json").stat(), records_in(out)
    again = begun_sweep(short, out)
    assert again.returncode == 0, again.stderr
    after = (out / "mnist.json").stat(), records_in(out)
    assert after[0].st_mtime_ns == before[0].st_mtime_ns
    assert after[1] == before[1]
    assert again.stdout == whole.stdout
    assert beside_progress(again.stderr) == []


def assert_same_records(records, expected):
    """But for seconds, and for one image in five hundred that rounding may turn."""
    assert keys_of(records) == keys_of(expected)
    measured = {"loss", "test_error", "test_error_calibrated", "seconds"}
    for record, other in zip(records, expected, strict=True):
        assert record.keys() == other.keys()
        for key in record.keys() - measured:
            assert record[key] == other[key]
        assert record["loss"] == pytest.approx(other["loss"], rel=1e-3)
        for key in ("test_error", "test_error_calibrated"):
            assert record[key] == pytest.approx(other[key], abs=0.21)


def stopped_sweep(monkeypatch, steps, number, *sweep):
    """What one prints on stderr that is sent a signal after so many steps."""
    seen = []

    class Sender(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(batch)
            if len(seen) == steps:
                signal.raise_signal(number)

    train = training.train
    with monkeypatch.context() as patched:
        patched.setattr(
            training,
            "train",
            lambda *args, callbacks, **options: train(
                *args, callbacks=[*callbacks, Sender()], **options
            ),
        )
        run = begun_sweep(*sweep)
    assert run.returncode == 128 + number
    return run.stderr


@pytest.mark.slow
def test_a_sweep_stopped_in_the_middle_of_epochs_ends_as_the_uninterrupted_one(
    sweep, short, monkeypatch, tmp_path
):
    """In the second epoch of GG, in the first of DG, in the last of GG+DG."""
    epoch = 16  # steps
    again = (short, tmp_path, "--schemes", "GG", "DG", "GG+DG")
    for steps, number in [
        (epoch + 9, signal.SIGTERM),
        (epoch - 9 + 7, signal.SIGINT),
        (epoch - 7 + epoch + 5, signal.SIGTERM),
    ]:
        said = stopped_sweep(monkeypatch, steps, number, *again)
        assert "Run the same command to resume." in said
    assert begun_sweep(*again).returncode == 0
    assert_same_records(records_in(tmp_path), records_in(sweep[0]))
    names = [path.name for path in (tmp_path / "runs").iterdir()]
    assert sorted(names) == ["dg-seed0", "gg-dg-seed0-after-gg", "gg-seed0"]


def test_a_sweep_whose_run_is_lost_trains_it_again(sweep, short, tmp_path):
    """Cut off in GG+DG between its last checkpoint and its record."""
    out = shutil.copytree(sweep[0], tmp_path / "out")
    shutil.rmtree(out / "runs" / "gg-dg-seed0-after-gg")
    records = records_in(out)
    (out / "mnist.json").write_text(json.dumps(records[:-1]))
    run = begun_sweep(short, out)
    assert run.returncode == 0, run.stderr
    assert_same_records(records_in(out), records)


@pytest.mark.slow
def test_a_run_begun_alone_is_not_gone_on_with_after_that_of_another(
    sweep, short, monkeypatch, tmp_path
):
    """GG+DG stopped in its first epoch, then GG trained, of which it can begin."""
    alone = (short, tmp_path, "--schemes", "GG+DG")
    stopped_sweep(monkeypatch, 6, signal.SIGTERM, *alone)
    assert begun_sweep(short, tmp_path, "--schemes", "GG", "GG+DG").returncode == 0
    expected = records_in(sweep[0])
    assert_same_records(records_in(tmp_path), [*expected[:2], *expected[4:]])


def test_a_folder_of_a_sweep_with_other_settings_is_refused(sweep, short, tmp_path):
    out = shutil.copytree(sweep[0], tmp_path / "out")
    run = begun_sweep(short, out, "--schemes", "GG", "--learning-rate", 0.02)
    assert run.returncode == 1
    assert "learning_rate 0.01 there, 0.02 here" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_smoke_run_is_short_and_needs_no_data():
    flags = mnist.parse_flags(["--smoke", "--seeds", "3", "4"])
    assert (flags.seeds, flags.epochs, flags.generative_epochs) == ([3], 2, 1)
    train, test = mnist_sweep.images(flags.embedded, "nowhere")
    assert len(train[1]) == 5000 and len(test[1]) == 1000


def test_missing_data_are_refused_with_the_path_and_the_way_to_get_them(tmp_path):
    out = tmp_path / "out"
    run = run_script(MNIST, "--data-dir", tmp_path, "--out", out)
    assert run.returncode == 1
    assert str(tmp_path / "mnist.npz") in run.stderr
    assert "keras.datasets.mnist.load_data()" in run.stderr
    assert "--embedded" in run.stderr
    assert "Traceback" not in run.stderr
    assert not out.exists()


# train/digits.py


@pytest.mark.parametrize("preset", [[], slow(["--paper"])], ids=["adapted", "paper"])
def test_digits_leave_numbers_and_pictures_of_ten_units(sweep, tmp_path, preset):
    model = sweep[0] / "gg-dg-seed0-epoch02.keras"
    run = run_script("train/digits.py", model, "--smoke", "--out", tmp_path, *preset)
    assert run.returncode == 0, run.stderr
    assert beside_progress(run.stderr) == []
    report = json.loads((tmp_path / "report.json").read_text())
    assert [unit["digit"] for unit in report["units"]] == list(range(10))
    assert all("not converged" in unit["verdict"] for unit in report["units"])
    stddev = report["settings"]["stddev"]
    assert f"stddev {stddev:g}" in run.stdout
    assert (stddev == 2560.0) or not preset  # 10 of pixels / 256
    for name in ("digits.png", "traces.png", "samples.npz"):
        assert str(tmp_path / name) in run.stdout
        assert (tmp_path / name).stat().st_size > 0


@pytest.mark.parametrize("number", [slow(1000), 60])
def test_digits_are_drawn_under_a_learned_reference_and_log_z_is_compared(
    sweep, tmp_path, number
):
    """With a generator of noise: nothing that is written may depend on its law.

    Of 60 held-out digits none is a 9.
    """
    kt.ImageGenerator((28, 28, 1), 3, 4).save(tmp_path / "q.keras")
    out, data = tmp_path / "out", "digits"
    images, labels = kt.data.embedded_mnist()[1]
    if number < len(images):
        data, few = tmp_path / "few.npz", np.flatnonzero(labels < 9)[:number]
        images, labels = images[few], labels[few]
        arrays = {"x_train": images, "y_train": labels}
        np.savez(data, **arrays, x_test=images, y_test=labels)
    flags = ["--reference", f"latent:{tmp_path / 'q.keras'}", "--data", str(data)]
    model = sweep[0] / "gg-dg-seed0-epoch02.keras"
    digits_command.main(["--smoke", "--out", str(out), str(model), *flags])
    report = json.loads((out / "report.json").read_text())
    assert [unit["digit"] for unit in report["units"]] == list(range(10))
    rows = json.loads((out / "log_partition.json").read_text())
    network = keras.models.load_model(model).network
    f = network.predict(images.astype(np.float32), verbose=0).astype(float)
    of_data = np.log(np.mean(np.exp(f), axis=0))
    np.testing.assert_allclose([row["of_data"] for row in rows], of_data, atol=1e-4)
    assert all(row["of_reference_error"] >= 0 for row in rows)
    for row in rows:
        difference = row["of_reference"] - row["of_data"]
        np.testing.assert_allclose(row["difference"], difference)
    for name in ("digits.png", "traces.png", "log_partition.png"):
        assert (out / name).stat().st_size > 0


def test_log_z_is_annealed_where_draws_are_not_to_be_trusted():
    """Of linear logits w^T x + b under N(0, s^2 I) it is b + s^2 |w|^2 / 2."""
    rng = np.random.default_rng(5)
    kernel = rng.normal(size=(48, 3))
    kernel *= np.array([0.5, 1.0, 7.0]) / np.linalg.norm(kernel, axis=0)
    bias, stddev = np.array([1.0, 0.0, -2.0]), 1.5
    layers = [keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(3)]
    network = keras.Sequential(layers)
    network.set_weights([kernel, bias])
    q = kt.white_noise((4, 4, 3), 0.0, stddev)
    tilts = [kt.Tilt(kt.unit(network, class_index=y), q) for y in range(3)]
    data = rng.normal(size=(50, 4, 4, 3)).astype(np.float32), np.zeros(50, int)
    rows = two_halves.compared(network, tilts, *data, 2_000, 3, 64)
    exact = bias + stddev**2 * np.sum(kernel**2, axis=0) / 2
    errors = [row["of_reference_error"] for row in rows]
    found = [row["of_reference"] for row in rows]
    assert [row["annealed"] for row in rows] == [False, False, True]
    assert np.max(errors) < 1 and np.all(np.abs(found - exact) < 5 * np.array(errors))
    rows = two_halves.compared(network, tilts, *data, 2_000, 3)
    assert np.isinf(rows[2]["of_reference_error"]) and not rows[2]["annealed"]


@pytest.mark.slow
def test_the_demo_makes_a_page_of_all_that_its_commands_leave(tmp_path):
    demo.main(["--smoke", "--out", str(tmp_path)])
    page = (tmp_path / "index.html").read_text()
    assert "$" not in page.replace("$ keras-tilt", "")
    for picture in re.findall('src="([^"]*)"', page):
        assert (tmp_path / picture).stat().st_size > 0
    assert len(json.loads((tmp_path / "steps.json").read_text())) == 5
    assert page.count("keras-tilt ") >= 10


def test_digits_without_a_model_say_how_to_train_one(tmp_path):
    run = run_script("train/digits.py", tmp_path / "none.keras", "--out", tmp_path)
    assert run.returncode == 1
    assert f"{tmp_path / 'none.keras'}" in run.stderr
    assert "keras-tilt mnist" in run.stderr and "Traceback" not in run.stderr


# train/visualize.py


@pytest.fixture(scope="module")
def colour_network(tmp_path_factory):
    """A .keras file of a network that takes any size, of pixels in [0, 255]."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((24, 24, 3)),
        keras.layers.Rescaling(1 / 128, -1.0),
        keras.layers.Conv2D(8, 5, activation="relu", name="conv1"),
        keras.layers.Conv2D(8, 3, activation="relu", name="conv2"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(3, activation="softmax", name="classes"),
    ]
    path = tmp_path_factory.mktemp("network") / "network.keras"
    keras.Sequential(layers).save(path)
    return path


def seen(*flags):
    """What train/visualize.py does, in this process."""
    return children.call(visualize.main, flags)


def visualized(network, out, *flags):
    units = ("--unit", "class:1", "--unit", "conv2:5")
    common = ("--smoke", "--scale", "5", "--out", out)
    return seen(network, *units, *common, *flags)


def test_units_of_any_network_leave_numbers_pictures_and_a_verdict(
    colour_network, tmp_path
):
    out, names = tmp_path / "out", tmp_path / "names.json"
    names.write_text(json.dumps(["cat", ["n1", "dog"], "bird"]))
    flags = ("--judge", colour_network, "--names", names)
    flags += ("--compare", "langevin", "maximisation")
    run = visualized(colour_network, out, *flags)
    assert run.returncode == 0, run.stderr
    assert beside_progress(run.stderr) == []
    summary = json.loads((out / "summary.json").read_text())
    assert [unit["name"] for unit in summary] == ["dog", "conv2:5"]
    for unit, folder in zip(summary, ["class_1", "conv2_5"], strict=True):
        assert "not converged" in unit["verdict"]
        assert unit["verdict"] in run.stdout
        assert json.loads((out / folder / "report.json").read_text()) == unit
        for name in ("images.png", "traces.png", "means.png"):
            assert (out / folder / name).stat().st_size > 0
        with np.load(out / folder / "numbers.npz") as numbers:
            methods = {"langevin", "maximisation"}
            assert set(numbers) == {"images", "means", "f"} | methods
            assert numbers["means"].shape == numbers["images"].shape
            assert numbers["f"].shape == (6 + 4, 2)
        methods = unit["images"]
        rows = [line.strip().split(" ")[0] for line in run.stdout.splitlines()]
        assert rows.count("langevin") == rows.count("maximisation") == len(summary)
        assert methods["samples"]["outside"] == 0.0  # of squashed noise
        assert set(methods) == {"samples", "langevin", "maximisation"}
        assert np.mean(methods["maximisation"]["f"]) > unit["f_of_q"]
        for of_method in methods.values():
            assert ("judge" in of_method) == folder.startswith("class")
            if folder.startswith("class"):
                assert of_method["own"] == of_method["judge"]
    with np.load(out / "conv2_5" / "numbers.npz") as numbers:
        assert numbers["images"].shape == (2, 7, 7, 3)  # what conv2 sees
    assert (out / "overview_24x24.png").stat().st_size > 0

    before = (out / "class_1" / "numbers.npz").stat().st_mtime_ns
    again = visualized(colour_network, out, *flags)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-1] == run.stdout.splitlines()[-1]
    assert (out / "class_1" / "numbers.npz").stat().st_mtime_ns == before
    other = visualized(colour_network, out, "--seed", "8", *flags)
    assert other.returncode == 1 and "holds one with another seed." in other.stderr
    assert "Traceback" not in other.stderr


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["white", "box"])
def test_units_have_a_scale_by_the_signal(colour_network, tmp_path, reference):
    run = run_script(
        "train/visualize.py",
        colour_network,
        *("--unit", "conv2:5", "--reference", reference, "--signal", "0.4"),
        *("--smoke", "--out", tmp_path),
    )
    assert run.returncode == 0, run.stderr
    (unit,) = json.loads((tmp_path / "summary.json").read_text())
    assert unit["scale"] > 0


@pytest.mark.slow
def test_units_of_a_transformer_are_drawn_on_the_whole_image(
    tmp_path, monkeypatch, capsys
):
    """In this process, which knows the layers of the file."""
    small_transformer().save(tmp_path / "network.keras")
    names = ["block2_attention:1"]
    units = [flag for name in names for flag in ("--unit", name)]
    command = ["visualize.py", str(tmp_path / "network.keras"), *units]
    command += ["--smoke", "--scale", "200", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_path(str(ROOT / "train" / "visualize.py"), run_name="__main__")
    printed = capsys.readouterr().out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [unit["name"] for unit in summary] == names
    for unit, folder in zip(summary, ["block2_attention_1"], strict=True):
        assert unit["verdict"] in printed
        assert np.mean(unit["f"]) > unit["f_of_q"]
        with np.load(tmp_path / "out" / folder / "numbers.npz") as numbers:
            assert numbers["images"].shape == (2, 16, 16, 3)
    assert (tmp_path / "out" / "overview_16x16.png").stat().st_size > 0


def test_a_unit_that_says_nothing_is_left_out_and_named(colour_network, tmp_path):
    network = keras.models.load_model(colour_network)
    weights = network.get_layer("conv2").get_weights()
    weights[0][..., 4] = 0.0
    network.get_layer("conv2").set_weights(weights)
    network.save(tmp_path / "network.keras")
    run = seen(
        *(tmp_path / "network.keras", "--unit", "conv2:4-5"),
        *("--signal", "0.4", "--smoke", "--out", tmp_path / "out"),
    )
    assert run.returncode == 1
    assert "conv2:4 is left out. The unit must respond" in run.stderr
    assert "Traceback" not in run.stderr
    (unit,) = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert unit["name"] == "conv2:5" and "conv2:5 " in run.stdout


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--unit", "conv2"), "Expected --unit class:3"),
        (("--unit", "class:x"), "Expected --unit class:3"),
        (("--unit", "conv7:1"), "conv7"),
        (("--unit", "class:9"), "9"),
        (("--unit", "class:1", "--judge", "none.keras"), "none.keras"),
        (("--unit", "class:2-1"), "a range that rises"),
        (("--unit", "class:1", "--names", "none.json"), "none.json"),
        (("--unit", "class:1", "--low", "1", "--high", "0"), "Expected --low below"),
    ],
)
def test_units_that_are_not_there_end_in_a_sentence(
    colour_network, tmp_path, flags, message
):
    run = run_script(
        "train/visualize.py", colour_network, "--smoke", "--out", tmp_path, *flags
    )
    assert run.returncode in (1, 2)  # 2 of argparse
    assert message in run.stderr and "Traceback" not in run.stderr


def command_of(*flags):
    """A command line of `keras-tilt see`, for a class."""
    return ["--unit", "class:0", *map(str, flags)]


def network_of(shape, units):
    return keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(units),
        ]
    )


def test_judges_have_the_same_classes_and_one_output_is_no_class(tmp_path):
    path = tmp_path / "judge.keras"
    network_of((8, 8, 3), 5).save(path)

    def judges_of(outputs, other):
        network = network_of((8, 8, 3), outputs)
        return judges.judges_of(network, "none", other, "none")

    assert set(judges_of(5, path)) == {"own", "judge"}
    for outputs in (1, 6):
        with pytest.raises(ValueError, match=f"of the {outputs} classes"):
            judges_of(outputs, path)
    network_of((8, 8, 3), 1).save(path)  # would call everything its one class
    with pytest.raises(ValueError, match="of the 1 classes"):
        judges_of(1, path)
    assert judges_of(1, None) == {}


def folder_of_images(path, n=12, size=24):
    """Smooth images in colour, as JPEG."""
    path.mkdir()
    rng = np.random.default_rng(0)
    for i in range(n):
        coarse = rng.uniform(0, 255, [1, 4, 4, 3]).astype(np.float32)
        image = tf.cast(tf.image.resize(coarse, [size, size])[0], tf.uint8)
        (path / f"{i}.jpg").write_bytes(tf.io.encode_jpeg(image).numpy())
    return path


def test_pictures_have_features_of_photographs(colour_network, tmp_path, monkeypatch):
    """exp(scale f + weight mean g) q, where statistics are fitted once."""
    photographs = folder_of_images(tmp_path / "photographs")
    flags = [colour_network, "--unit", "class:1", "--unit", "conv2:0", "--scale", 5]
    flags += ["--photographs", photographs, "--sizes", 1, 0.75]
    flags += ["--out", tmp_path / "out", "--smoke"]
    tilts = {}

    def drawn(units, names, drawing, *rest):
        tilts.update((label, drawing.tilt(unit)) for label, unit in units.items())

    monkeypatch.setattr(unit_pictures, "draw", drawn)
    visualize.main(command_of(*flags))
    files = sorted(path.name for path in (tmp_path / "out").glob("statistics_*"))
    assert [name.rpartition("_")[2] for name in files] == ["18x18.npz", "24x24.npz"]
    fitted = [
        kt.FeatureStatistics.load(tmp_path / "out" / name) for name in reversed(files)
    ]
    assert fitted[0].num_images == 12
    network = keras.models.load_model(colour_network)
    images = np.random.default_rng(1).uniform(0, 255, [3, 24, 24, 3])
    g = [
        fitted[0].unit(network)(images),
        fitted[1].unit(network, resize=(18, 18))(images[:, :, ::-1]),
    ]
    f = named.unit_of(network, "class:1", "none", (1, 0.75), 4.0)(images)
    exact = 5 * f + 24_000 * (g[0] + g[1]) / (2 * fitted[0].mean.size)
    found = tilts["class:1"].scale * tilts["class:1"].unit(images)
    np.testing.assert_allclose(found, exact, rtol=1e-3)
    assert "statistics" not in tilts["conv2:0"].unit.name  # of a patch
    fits = []
    fitting = "keras_tilt.cli.jobs.pictures.photographs.fit_feature_statistics"
    fit = kt.fit_feature_statistics
    monkeypatch.setattr(fitting, lambda *a, **k: fits.append(a) or fit(*a, **k))
    visualize.main(command_of(*flags))  # they are read
    assert not fits
    (photographs / "1.jpg").unlink()  # others are fitted to
    visualize.main(command_of(*flags))
    assert len(fits) == 2


def test_photographs_that_are_not_there_are_refused_at_once(capsys):
    with pytest.raises(SystemExit):
        visualize.parse_flags(["a.keras", "--unit=class:0", "--photographs=nowhere"])
    assert "Received: nowhere, which is not there" in capsys.readouterr().err


def test_photographs_are_cropped_to_a_network_that_is_not_square(tmp_path):
    folder = folder_of_images(tmp_path / "photographs")
    pairs, _ = learning.image_pairs(str(folder), None, (16, 20))
    shapes = {images.shape[1:] for images, _ in pairs.as_numpy_iterator()}
    assert shapes == {(16, 20, 3)}


@pytest.mark.slow
def test_pictures_that_are_interrupted_are_not_done_and_go_on(
    monkeypatch, colour_network, tmp_path, capsys
):
    """Sampling returns what it has drawn then: fewer draws than were asked for."""
    flags = [colour_network, "--unit", "conv2:5", "--scale", "5", "--out", tmp_path]
    flags += ["--chains", "2", "--burnin", "4", "--draws", "8", "--sizes", "1"]
    flags += ["--max-leapfrog-steps", "2"]
    draw = sampler._Together.advance

    def interrupted(self, position):
        if position.iteration == 10:
            raise KeyboardInterrupt
        return draw(self, position)

    with monkeypatch.context() as patched, pytest.warns(match="2 of 8 draws"):
        patched.setattr(sampler._Together, "advance", interrupted)
        with pytest.raises(SystemExit) as stop:
            visualize.main(command_of(*flags))
    assert stop.value.code == 130
    assert "Run the same command to resume" in capsys.readouterr().err
    assert not list(tmp_path.rglob("report.json"))

    begun = []

    def first(self, position):
        begun.append(position.iteration)
        return draw(self, position)

    monkeypatch.setattr(sampler._Together, "advance", first)
    visualize.main(command_of(*flags))
    assert begun[:3] == [10, 11, 0]  # then the class
    assert len(list(tmp_path.rglob("report.json"))) == 2


@pytest.mark.slow
def test_interrupted_langevin_chains_are_not_taken_for_whole(monkeypatch):
    flags = visualize.parse_flags(command_of("a.keras", "--chains", 2))
    drawing = unit_chains.Drawing(
        **{name: getattr(flags, name) for name in visualize.DRAWING},
        **{"low": 0.0, "high": 255.0, "signals": visualize.SIGNALS},
        image_shape=(2, 2, 1),
    )
    tilt = kt.Tilt(
        lambda images: tf.reduce_sum(images, axis=[1, 2, 3]),
        kt.white_noise((2, 2, 1)),
    )
    assert drawing.langevin(tilt, 12).shape == (2, 2, 2, 1)
    draw = sampler._Together.advance

    def interrupted(self, position):
        if position.iteration == 11:
            raise KeyboardInterrupt
        return draw(self, position)

    monkeypatch.setattr(sampler._Together, "advance", interrupted)
    with pytest.warns(match="1 of 6 draws"), pytest.raises(KeyboardInterrupt):
        drawing.langevin(tilt, 12)


def test_another_network_in_the_same_file_is_another_run(colour_network, tmp_path):
    path = shutil.copy(colour_network, tmp_path / "network.keras")
    files = {"model": path, "judge": None}
    before = unit_pictures.settings_of({}, files)
    assert unit_pictures.settings_of({}, files) == before
    network_of((24, 24, 3), 3).save(path)
    assert unit_pictures.settings_of({}, files) != before


def test_a_folder_of_another_unit_is_not_taken_for_this_one(tmp_path):
    report = {"settings": {"unit": "a/b:1"}}
    (tmp_path / "report.json").write_text(json.dumps(report))
    with pytest.raises(SystemExit, match="another unit"):
        unit_pictures.finished(tmp_path, {"unit": "a_b:1"})


def listed_output(capsys, *flags):
    """What train/visualize.py prints, in this process."""
    visualize.main([*map(str, flags)])
    return capsys.readouterr().out


def flat_network(tmp_path):
    """A .keras file of an ordinary network, of a Flatten and a Dense."""
    layers = [
        keras.Input((16, 16, 3)),
        keras.layers.Rescaling(1 / 255),
        keras.layers.Conv2D(4, 3, activation="relu", name="conv"),
        keras.layers.Flatten(),
        keras.layers.Dense(3, name="dense"),
    ]
    keras.Sequential(layers).save(tmp_path / "network.keras")
    return tmp_path / "network.keras"


SHORT = ("--smoke", "--scale", "1", "--draws", "4")


def test_a_network_of_one_size_is_read_at_it_and_said(capsys, tmp_path):
    """By a name beside it, too; a --sizes that cannot be is refused."""
    network, out = flat_network(tmp_path), tmp_path / "out"
    (tmp_path / "class_names.json").write_text(json.dumps(["cat", "dog", "bird"]))
    flags = (network, "--unit", "class:bird", *SHORT, "--out", out)
    said = listed_output(capsys, *flags)
    assert "read at 1 of the image alone, as the network does not take 0.7" in said
    assert "Pixels: black 0, white 255, as its layer 'rescaling" in said
    (unit,) = json.loads((out / "summary.json").read_text())
    assert (unit["unit"], unit["name"]) == ("class:2", "bird")
    assert unit["settings"]["sizes"] == "[1.0]"
    with pytest.raises(SystemExit, match="pass --sizes 1"):
        listed_output(capsys, *flags, "--sizes", "1", "0.5")


def test_a_list_of_layers_names_units_and_draws_nothing(capsys, tmp_path):
    flags = (flat_network(tmp_path), "--list", "--out", tmp_path / "out")
    said = listed_output(capsys, *flags)
    rows = [line.split() for line in said.splitlines()]
    assert ["conv:0-3", "14", "x", "14", "x", "4"] in [row[:6] for row in rows]
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        listed_output(capsys, flags[0])
    assert "Expected a --unit. Received: none." in capsys.readouterr().err


def two_headed(tmp_path):
    inputs = keras.Input((12, 12, 3))
    x = keras.layers.Conv2D(4, 3, name="conv")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = {"kind": keras.layers.Dense(3)(x), "age": keras.layers.Dense(1)(x)}
    keras.Model(inputs, outputs).save(tmp_path / "two.keras")
    return tmp_path / "two.keras"


@pytest.mark.slow
def test_inner_units_of_a_network_of_several_outputs_are_drawn(capsys, tmp_path):
    """A class of it is refused in a sentence: of which output, it does not say."""
    network, out = two_headed(tmp_path), tmp_path / "out"
    flags = (network, *SHORT, "--out", out)
    listed_output(capsys, *flags, "--unit", "conv:1")
    (unit,) = json.loads((out / "summary.json").read_text())
    assert unit["unit"] == "conv:1"
    with pytest.raises(SystemExit, match="Expected a network .*output"):
        listed_output(capsys, *flags, "--unit", "class:0")


def test_layers_of_ones_own_are_imported_by_the_script(monkeypatch, capsys, tmp_path):
    """A network that does not load without --import."""
    module = tmp_path / "layers_of_mine.py"
    module.write_text(
        "import keras\nclass Mine(keras.layers.Layer):\n"
        "    pointwise = True\n    def call(self, x):\n        return x / 2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    mine = importlib.import_module("layers_of_mine").Mine
    layers = [keras.Input((8, 8, 1)), mine(), keras.layers.Conv2D(2, 3, name="conv")]
    keras.Sequential(layers).save(tmp_path / "mine.keras")
    sys.modules.pop("layers_of_mine")
    sys.path.remove(str(tmp_path))
    flags = (tmp_path / "mine.keras", "--list")
    with pytest.raises(SystemExit, match="'Mine' is not .* --import MODULE"):
        listed_output(capsys, *flags)
    said = listed_output(capsys, *flags, "--import", module)
    assert "conv:0-1" in said and "3 x 3" in said
    keras.saving.get_custom_objects().pop("Mine")


# benchmarks


def test_the_table_of_pictures_has_shares_ranks_and_distances(tmp_path):
    """Two chains of one grey each are as far apart as their greys."""
    (tmp_path / "class_5").mkdir()
    greys = np.array([100.0, 160.0])[:, None, None, None]
    images = greys + np.zeros([2, 8, 8, 3])
    np.savez(tmp_path / "class_5" / "numbers.npz", images=images)
    samples = {"f": [1.0, 2.0], "own": {"rank": [0, 0]}, "judge": {"rank": [0, 4]}}
    report = {
        **{"unit": "class:5", "name": "grey", "scale": 3.0, "verdict": "-"},
        "settings": {"seed": "7", "unit": "class:5"},
        **{"r_hat": 1.5, "accept_rate": 0.8, "f_of_q": 0.0, "seconds": 1},
        "images": {"samples": samples},
    }
    (tmp_path / "summary.json").write_text(json.dumps([report]))
    pictures = runpy.run_path(str(ROOT / "benchmarks" / "pictures.py"))
    photos = pictures["Photos"](grey_photos(tmp_path))
    found = pictures["summary_of"](tmp_path, photos)
    assert found["settings"] == {"seed": "7"}
    (unit,) = found["units"]
    of_kind = (100 + 100 + 200) / 3  # pairs of 0, 100 and 200
    assert unit["distance"] == pytest.approx(60 / of_kind, rel=1e-3)
    assert unit["coarse_distance"] == pytest.approx(60 / of_kind, rel=1e-3)
    first = pictures["table"](found["units"]).splitlines()[1]
    assert first.split() == "grey 3 1.00 0.50 1.00 2.00 0.45 0.45 1.50".split()


def grey_photos(folder):
    """Of 20 a class, of which three are among the eleven around class 5."""
    labels = np.array([0, 10, 5, 11])
    photos = [np.full([16, 16, 3], 20 * label, np.uint8) for label in labels]
    jpegs = [tf.io.encode_jpeg(photo, quality=100).numpy() for photo in photos]
    np.savez(
        folder / "photos.npz",
        buf=np.frombuffer(b"".join(jpegs), np.uint8),
        off=np.cumsum([0, *map(len, jpegs)]),
        y=labels,
    )
    return folder / "photos.npz"


@pytest.mark.slow
def test_the_benchmark_of_pictures_runs_through(colour_network, tmp_path):
    other = shutil.copy(colour_network, tmp_path / "other.keras")
    run = run_script(
        *("benchmarks/pictures.py", colour_network, other, "--smoke"),
        *("--layer", "conv2", "conv1", "--classes", 0, 2),
        *("--photos", grey_photos(tmp_path), "--out", tmp_path / "out"),
    )
    assert run.returncode == 0, run.stderr
    found = json.loads((tmp_path / "out" / "pictures.json").read_text())
    assert len(found) == 8
    for name, found_in_run in found.items():
        assert len(found_in_run["units"]) == (8 if "inner" in name else 2)
        assert f"\n{name}\n" in run.stdout
        assert list((tmp_path / "out" / name).glob("overview*.png"))


@pytest.mark.slow
def test_classes_are_drawn_over_a_learned_layout_and_without_it(
    colour_network, tmp_path
):
    other = shutil.copy(colour_network, tmp_path / "other.keras")
    small = kt.ImageGenerator((8, 8, 3), 4, 4, 0.0, 255.0)
    small.save(tmp_path / "q.keras")
    photographs = folder_of_images(tmp_path / "photographs")
    run = run_script(
        *("benchmarks/composed_reference.py", colour_network, tmp_path / "q.keras"),
        *("--judge", other, "--photographs", photographs, "--classes", 0, 2),
        *("--out", tmp_path / "out", "--smoke"),
    )
    assert run.returncode == 0, run.stderr
    out = tmp_path / "out"
    found = json.loads((out / "composed_reference.json").read_text())
    names = [f"{q}, class {y}" for q in ("layout", "noise") for y in (0, 2)]
    assert list(found) == names
    for told in found.values():
        assert told["own"] == told["judge"] and len(told["own"]["rank"]) == 2
    assert (out / "composed_reference.png").is_file()


@pytest.mark.slow
def test_units_that_converge_are_screened_drawn_and_billed(colour_network, tmp_path):
    other = shutil.copy(colour_network, tmp_path / "other.keras")
    photographs = np.random.default_rng(0).uniform(0, 255, [600, 24, 24, 3])
    kt.fit_components(photographs, latent_size=8).save(tmp_path / "q.keras")
    command = ["benchmarks/converging.py", colour_network, other, "--smoke"]
    command += ["--reference", f"latent:{tmp_path / 'q.keras'}"]
    command += ["--out", tmp_path / "out"]
    screen = run_script(*command, "--screen", 70)
    assert screen.returncode == 0, screen.stderr
    drawn = ["--classes", 0, 2, "--layer", "conv2", "--channels", "5-6"]
    run = run_script(*command, *drawn)
    assert run.returncode == 0, run.stderr
    found = json.loads((tmp_path / "out" / "converging.json").read_text())
    assert list(found) == ["screen", "classes", "channels"]
    assert {row["class"] for row in found["screen"]} == {0, 1, 2}
    assert all(row["five"] == 1 for row in found["screen"])  # of three classes
    for kind in ("classes", "channels"):
        assert (tmp_path / "out" / kind / "overview.png").stat().st_size > 0
        for unit in found[kind]:
            assert unit["converged"] and unit["worst_r_hat"] < 1.01
            assert 1 <= unit["picture_gradients"] < unit["gradients"]
            assert unit["bill"] == unit["gradients"] / unit["picture_gradients"]


def test_weights_of_the_screen_are_as_far_from_equal_as_is_asked(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    script = runpy.run_path(str(ROOT / "benchmarks" / "converging.py"))
    log_p = np.random.default_rng(0).normal(size=2048)
    weights = script["weights"](log_p)
    nats = np.sum(weights * np.log(weights * len(weights)))
    np.testing.assert_allclose([weights.sum(), nats], [1, script["NATS"]], rtol=1e-6)
    ratio = np.diff(np.log(weights)) / np.diff(log_p)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)


@pytest.mark.slow
def test_the_statistics_of_photographs_are_fitted_and_printed(tmp_path):
    rng = np.random.default_rng(0)
    photos = rng.integers(0, 256, [9, 40, 40, 3]).astype(np.uint8)
    jpegs = [tf.io.encode_jpeg(photo, quality=100).numpy() for photo in photos]
    offsets = np.cumsum([0, *map(len, jpegs)])
    content = np.frombuffer(b"".join(jpegs), np.uint8)
    np.savez(tmp_path / "photos.npz", buf=content, off=offsets)
    out = tmp_path / "found.json"
    command = ["benchmarks/photo_statistics.py", "--smoke", "--out", out]
    run = run_script(*command, "--photos", tmp_path / "photos.npz")
    assert run.returncode == 0, run.stderr
    found = json.loads(out.read_text())
    assert np.shape(found["amplitude"]) == np.shape(found["pooled_kurtosis"])
    assert "approximation_kurtosis = [" in run.stdout


def test_runs_of_camvid_with_other_settings_are_in_other_folders(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    folder_of = runpy.run_path(str(ROOT / "benchmarks" / "camvid.py"))["folder_of"]
    settings = {"network": "net", "layer": "relu3", "size": [540, 720], "epochs": 10}
    others = [settings | {"layer": "relu1"}, settings | {"size": [540, 540]}]
    names = [folder_of(each) for each in (settings, *others)]
    assert len(set(names)) == 3 and names[0] == folder_of(dict(settings))


def test_a_run_of_camvid_is_made_by_one_sweep_at_a_time(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    script = runpy.run_path(str(ROOT / "benchmarks" / "camvid.py"))
    name_of = script["name_of"]
    assert len({name_of(run, s) for run in script["RUNS"] for s in (0, 1)}) == 14
    with script["alone"](tmp_path, "A, svm", 1):
        (file,) = tmp_path.iterdir()
        assert name_of("A, svm", 1) in file.name
        with open(file, "w") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.slow
def test_the_benchmark_of_camvid_runs_through_and_makes_nothing_twice(tmp_path):
    command = ["benchmarks/camvid.py", "--smoke", "--out", tmp_path / "out"]
    first = run_script(*command)
    assert first.returncode == 0, first.stderr
    records = json.loads((tmp_path / "out" / "camvid.json").read_text())
    assert [record["run"] for record in records] == ["box", "A", "A, svm"]
    best = {r["result"]["labels"]["best"]["mean_iou"] for r in records}
    assert len(best) == 1  # of the same proposals
    again = run_script(*command)
    assert again.returncode == 0 and again.stderr == ""
    assert again.stdout == first.stdout[first.stdout.index("data ") :]


@pytest.mark.slow
def test_the_benchmark_of_training_runs_through(tmp_path):
    out = tmp_path / "bench.json"
    run = run_script("benchmarks/train_step.py", "--smoke", "--out", out)
    assert run.returncode == 0, run.stderr
    assert json.loads(out.read_text())


@pytest.mark.slow
def test_the_benchmark_of_sampling_runs_through_and_measures_nothing_twice(tmp_path):
    out = tmp_path / "bench.json"
    command = ["benchmarks/sampling", "--smoke", "--out", out, "--parts"]
    parts = "cost", "ess", "pixels", "smc", "microcanonical"
    first = run_script(*command, *parts)
    assert first.returncode == 0, first.stderr
    found = json.loads(out.read_text())
    assert len(found) == 11  # without a learned reference
    for case in found:
        assert f"\n{case}\n" in f"\n{first.stdout}"
    assert (tmp_path / "bench_pizza.png").stat().st_size > 0
    again = run_script(*command, *parts)
    assert again.stdout == first.stdout and again.stderr == ""
    assert json.loads(out.read_text()) == found


@pytest.mark.slow
def test_the_benchmark_of_schemes_runs_through_and_trains_nothing_twice(tmp_path):
    records, figure = tmp_path / "records.json", tmp_path / "figure.png"
    command = ["benchmarks/pretraining", "--smoke", "--out", tmp_path / "out"]
    command += ["--results", records, "--figure", figure]
    first = run_script(*command)
    assert first.returncode == 0, first.stderr
    found = json.loads(records.read_text())
    assert [r["scheme"] for r in found] == ["DG", "GG+DG", "mix+queue", "mix(u) 10%"]
    assert all(len(r["course"]) == 2 for r in found)
    assert figure.stat().st_size > 0
    again = run_script(*command)
    assert again.stdout == first.stdout and json.loads(records.read_text()) == found


@pytest.mark.slow
def test_what_images_have_in_common_is_the_noise_without_batch_norm_alone(tmp_path):
    out = tmp_path / "common_part.json"
    command = ["benchmarks/pretraining/common_part.py", "--smoke", "--out", out]
    first = run_script(*command)
    assert first.returncode == 0, first.stderr
    found = json.loads(out.read_text())
    left = {r["normalization"]: list(r["trained"].values()) for r in found}
    assert max(left["group"]) < 0.5 < 0.9 < min(left["batch"][:-1])
    assert run_script(*command).stdout == first.stdout


@pytest.mark.slow
def test_the_benchmark_of_reading_finds_one_nth_of_the_images_for_each(tmp_path):
    out = tmp_path / "reading.json"
    run = run_script("benchmarks/reading.py", "--smoke", "--out", out)
    assert run.returncode == 0, run.stderr
    found = json.loads(out.read_text())
    for row in found["workers"]:
        assert row["parts"]["images"] == [128 // row["workers"]] * row["workers"]
        assert row["whole"]["images"] == [128] * row["workers"]
        parts = np.multiply(row["parts"]["bytes"], row["workers"])
        np.testing.assert_allclose(parts, row["whole"]["bytes"], rtol=0.05)
    assert len(found["cost"]) == 4
