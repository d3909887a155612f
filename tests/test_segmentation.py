"""train/segmentation.py finds objects and stuff, and goes on where it was killed."""

import json
import signal
import subprocess
import time

import children
import keras
import numpy as np
import pytest
from data_files import data_file
from test_scripts import ROOT, run_script

from keras_tilt import masking
from keras_tilt.cli import segmentation
from keras_tilt.cli.jobs.scenes import fine_tuning

SCRIPT = "train/segmentation.py"


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A function that runs in this process, with a small network and two pictures."""
    path = tmp_path_factory.mktemp("network") / "network.keras"
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((60, 80, 3)),
        keras.layers.Rescaling(1 / 128, -1),
        keras.layers.Conv2D(8, 5, 4, activation="relu", name="conv1"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(5),
    ]
    keras.Sequential(layers).save(path)

    def run(out, *given):
        return children.call(segmentation.main, flags_of(path, out, *given))

    run.network = path
    return run


def flags_of(network, out, *given):
    flags = ("--smoke", "--network", network, "--layer", "conv1", "--pictures", 2)
    return [*flags, "--out", out, *given]


@pytest.fixture(scope="module")
def whole_run(smoke, tmp_path_factory):
    """The folder of a run that was not interrupted."""
    out = tmp_path_factory.mktemp("segmentation") / "run"
    run = smoke(out)
    assert run.returncode == 0, run.stderr
    return out, run


def weights_of(out, name="segmenter.keras"):
    return keras.models.load_model(out / name).get_weights()


def test_a_run_leaves_numbers_pictures_and_a_segmenter(whole_run):
    out, run = whole_run
    result = json.loads((out / "result.json").read_text())
    names = ["sky", "ground", "tree", "disc", "square"]
    best = result["labels"]["best"]["mean_iou"]
    for labels in result["labels"].values():
        assert list(labels["iou"]) == names
        mean = np.mean(list(labels["iou"].values()))
        assert labels["mean_iou"] == pytest.approx(mean)
        assert labels["mean_iou"] <= best <= 1
        assert f"{100 * mean:.1f}" in run.stdout
    assert list(result["ap"]["0.5"]) == ["disc", "square"]
    recall = [found["0.5"] for found in result["recall"].values()]
    assert recall == sorted(recall) and 0.5 < recall[-1] <= 1
    assert all(r["0.7"] <= r["0.5"] for r in result["recall"].values())
    assert (out / "pictures.png").stat().st_size > 10_000
    assert len(list((out / "proposals/train").glob("*.npz"))) == 12
    segmenter = keras.models.load_model(out / "segmenter.keras")
    scene = masking.scenes.synthetic(1, (60, 80))[0]
    segments = masking.proposals.proposals(scene.image)
    inputs = masking.examples.inputs_of(scene.image, segments, (60, 80))
    scores = segmenter.scores(inputs)[0].numpy()
    assert scores.shape == (len(segments), 5)
    labels = masking.label_map(segments, scores, fill=True)
    assert labels.shape == (60, 80) and labels.min() >= 0


def test_a_network_is_made_by_its_name():
    """The default one, up to the layer whose map is masked."""
    flags = segmentation.parse_flags(["--smoke"])
    given = {name: getattr(flags, name) for name in segmentation.RECIPE}
    recipe = fine_tuning.Recipe(**given, size=tuple(flags.size), seed=flags.seed)
    network = recipe.backbone(flags.network, flags.layer, 5)
    assert network.input_shape == (None, 60, 80, 3)
    assert network.layers[-1].name == "relu3" and len(network.output_shape) == 4


@pytest.mark.slow
def test_a_killed_run_ends_as_one_that_was_not(smoke, whole_run, tmp_path):
    """Killed after the first epoch, its network trained on."""
    whole, _ = whole_run
    given = "--proposals", whole / "proposals"
    flags = flags_of(smoke.network, tmp_path / "run", *given)
    process = children.Child([SCRIPT, *flags], cwd=ROOT, stdout=subprocess.DEVNULL)
    saved = tmp_path / "run" / "fine_tuned.keras"
    while not saved.exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "run" / "result.json").exists()
    assert smoke(tmp_path / "run", *given).returncode == 0
    for one, other in zip(weights_of(tmp_path / "run"), weights_of(whole), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_what_is_fine_tuned_is_judged_on_other_segments(smoke, whole_run, tmp_path):
    """On those of a server, without any of the training images."""
    out, _ = whole_run
    given = "--proposed-by", "superpixels", "--fine-tuned", out / "fine_tuned.keras"
    run = smoke(tmp_path / "run", *given)
    assert run.returncode == 0, run.stderr
    found = sorted((tmp_path / "run" / "proposals").rglob("*.npz"))
    assert len(found) == 10 and {path.parent.name for path in found} == {"val"}
    segments = masking.segments.of_file(found[0])
    assert segments.sizes.sum() == 60 * 80  # superpixels leave no pixel out
    for one, other in zip(weights_of(tmp_path / "run"), weights_of(out), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_folder_holds_one_run(smoke, whole_run):
    out, _ = whole_run
    again = smoke(out, "--design", "B")
    assert again.returncode == 1
    assert "holds another: design 'A' there, 'B' here" in again.stderr
    given = "--proposals", out / "proposals", "--proposed-by", "superpixels"
    again = smoke(out.parent / "new", *given)
    assert again.returncode == 1 and not (out.parent / "new").exists()
    assert "proposed_by 'proposals' there, 'superpixels' here" in again.stderr


@pytest.mark.slow
def test_machines_take_the_place_of_the_softmax(smoke, whole_run, tmp_path):
    """Of a segmenter that another run fine-tuned, and that is not trained again."""
    out, _ = whole_run
    given = "--proposals", out / "proposals", "--fine-tuned", out / "fine_tuned.keras"
    run = smoke(tmp_path / "run", "--classifier", "svm", *given)
    assert run.returncode == 0, run.stderr
    assert not (tmp_path / "run" / "fine_tuned.keras").exists()
    segmenter = keras.models.load_model(tmp_path / "run" / "segmenter.keras")
    kernel, bias = segmenter.classifier.get_weights()
    assert segmenter.margins and not np.any(kernel[:, -1]) and bias[-1] == 0
    assert not np.any(weights_of(out)[-2] == kernel, where=kernel != 0)
    before = weights_of(out)
    for one, other in zip(segmenter.get_weights()[:-2], before[:-2], strict=True):
        np.testing.assert_array_equal(one, other)
    other = smoke(tmp_path / "other", "--design", "B", *given)
    assert other.returncode == 1 and "of design B for 5 classes" in other.stderr
    assert "fine_tuned.keras, A, 5, (60, 80), None, False" in other.stderr
    given = "--fine-tuned", tmp_path / "run" / "segmenter.keras"
    other = smoke(tmp_path / "other", *given)
    assert other.returncode == 1 and "without linear SVMs" in other.stderr


def test_without_data_or_with_other_classes_the_error_says_what_to_do(tmp_path):
    run = run_script(SCRIPT, "--out", tmp_path / "run")
    assert run.returncode == 1 and run.stderr.startswith("Expected --data")
    run = run_script(
        SCRIPT, "--data", tmp_path, "--dataset", "context", "--out", tmp_path / "run"
    )
    assert run.returncode == 1 and run.stderr.startswith("Expected --voc")
    camvid = data_file("camvid_180x240_jpg.npz")
    run = run_script(
        SCRIPT, "--data", camvid, "--stuff", "heaven", "--out", tmp_path / "run"
    )
    assert run.returncode == 1 and "heaven" in run.stderr and "sky" in run.stderr
    assert not (tmp_path / "run").exists()
