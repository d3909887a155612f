"""One class of a network by its density, and by activation maximization.

    pip install tf-keras-vis
    python benchmarks/beside_activation_maximization.py squeezenet.keras \\
        --preprocess caffe --unit class:1 --posterior-weight 4 \\
        --judge efficientnet_lite0.keras \\
        --out docs/pictures/beside_activation_maximization.jpg \\
        --results results/beside_activation_maximization.json

Left: four chains of train/visualize.py with its defaults, 800 gradients each. Right:
four seeds of tf-keras-vis with its defaults (200 steps of RMSprop from uniform noise,
jitter, rotation, total variation, norm), on the logit, as its documentation advises.
Both read the same weights and pixels in [0, 255]. The numbers say at which place the
network and the judge put the class, for each image, 0 the first.

About six minutes on two cores, all but seconds of them for the samples. Expected, for
class 1 of SqueezeNet 1.1: goldfish with eyes and fins on the left, gray texture with
eyes on the right. SqueezeNet calls all eight images a goldfish. EfficientNet-Lite0 puts
goldfish first for those on the left, and at places 4 to 35 for those on the right. No
chain has converged, and the verdict says so.
"""

import argparse
import importlib.util
import json
import pathlib
import subprocess
import sys

from keras_tilt.cli.flags import MODES, add_names, count, file


def parse_flags():
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("model", type=pathlib.Path, help=".keras file of a network of colour images")
    add("--unit", default="class:1", help="the class, as in train/visualize.py")
    add("--preprocess", choices=MODES, default="none", help="of pixels in [0, 255]")
    add("--posterior-weight", type=float, default=2.0, help="of train/visualize.py")
    add("--judge", type=pathlib.Path, help=".keras file of another network")
    add("--judge-preprocess", choices=MODES, default="none", help="of its pixels")
    add_names(add)
    add("--steps", type=count, default=200, help="of activation maximization")
    add("--seed", type=int, default=7, help="equal seeds give equal pictures")
    add("--out", type=file, default="out/beside/beside.jpg", help="the picture")
    add("--results", type=file, default="out/beside/beside.json", help="the numbers")
    add("--smoke", action="store_true", help="a few short iterations")
    flags = parser.parse_args()
    if flags.smoke:
        flags.steps = 3
    return flags


if __name__ == "__main__":
    parse_flags()  # may end here, before the seconds that TensorFlow takes

import keras_tilt as kt
import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from keras_tilt.cli import named

VISUALIZE = pathlib.Path(__file__).parents[1] / "train" / "visualize.py"
RUNS = 4  # chains, and seeds of the maximization


def main():
    """Both ways; the numbers, then the picture."""
    flags = parse_flags()
    if importlib.util.find_spec("tf_keras_vis") is None:
        raise SystemExit(
            "Expected the package tf-keras-vis, for the maximization. Received: none. "
            "Install it: pip install tf-keras-vis"
        )
    run = flags.results.parent / f"{flags.results.stem}_samples"
    report, samples = sampled(flags, run)
    index = named.class_number(report["unit"])
    own = (named.load_model(flags.model), named.preprocessing(flags.preprocess))
    logit = kt.unit(own[0], class_index=index, preprocess=own[1])
    maximized = maximization(logit, len(samples), flags.steps, flags.seed)
    judges = {"own": own}
    if flags.judge:
        preprocess = named.preprocessing(flags.judge_preprocess)
        judges["judge"] = (named.load_model(flags.judge), preprocess)
    numbers = {key: report[key] for key in ("unit", "name", "scale", "verdict")}
    for name, images in {"samples": samples, "maximization": maximized}.items():
        numbers[name] = {
            f"rank under {judge}": ranks(*model, images, index)
            for judge, model in judges.items()
        }
    for path in (flags.results, flags.out):
        path.parent.mkdir(parents=True, exist_ok=True)
    flags.results.write_text(json.dumps(numbers, indent=1) + "\n")
    picture(samples, maximized, report["name"]).savefig(
        flags.out, dpi=150, pil_kwargs={"quality": 85}
    )
    print(f"{json.dumps(numbers, indent=1)}\nPicture: {flags.out}")


def sampled(flags, run):
    """Return the report of train/visualize.py, and the last image of each chain."""
    command = [sys.executable, VISUALIZE, flags.model, "--unit", flags.unit]
    command += ["--preprocess", flags.preprocess, "--chains", RUNS, "--out", run]
    command += ["--posterior-weight", flags.posterior_weight, "--seed", flags.seed]
    command += ["--names", flags.names] if flags.names else []
    command += ["--smoke"] * flags.smoke
    subprocess.run([str(part) for part in command], check=True)
    (report,) = json.loads((run / "summary.json").read_text())
    with np.load(run / report["unit"].replace(":", "_") / "numbers.npz") as numbers:
        return report, numbers["images"]


def maximization(logit, number, steps, seed):
    """Return images [number, height, width, 3] of tf-keras-vis with its defaults."""
    from tf_keras_vis.activation_maximization import ActivationMaximization
    from tf_keras_vis.utils.scores import CategoricalScore

    keras.utils.set_random_seed(seed)
    start = np.random.default_rng(seed).uniform(0, 255, [number, *logit.input_shape])
    images = keras.Input(logit.input_shape)
    column = keras.layers.Lambda(lambda x: logit(x)[:, None], output_shape=(1,))
    return np.asarray(
        ActivationMaximization(keras.Model([images], column(images)), clone=False)(
            CategoricalScore([0] * number),
            seed_input=start.astype(np.float32),
            steps=steps,
        )
    )


def ranks(network, preprocess, images, index):
    """Return how many classes the network puts before this one, for each image."""
    resized = tf.image.resize(images, network.input_shape[1:3], antialias=True)
    outputs = network(preprocess(resized), training=False).numpy()
    return np.sum(outputs > outputs[:, index : index + 1], axis=1).tolist()


def picture(samples, maximized, name):
    """Return both halves, two by two, in pixels from 0 to 255."""
    figure = Figure(figsize=(9, 4.9), layout="constrained")
    halves = figure.subfigures(1, 2, wspace=0.03)
    titles = (f"samples of p(x | {name})", f"activation maximization of {name}")
    for half, images, title in zip(halves, (samples, maximized), titles, strict=True):
        half.suptitle(title)
        grid = half.subplots(2, -(-len(images) // 2), squeeze=False)
        for axes, image in zip(grid.flat, images, strict=False):
            axes.imshow(np.clip(image / 255, 0, 1), interpolation="nearest")
            axes.set_axis_off()
    return figure


if __name__ == "__main__":
    main()
