"""Does the generative gradient help on natural images? CIFAR-10, a small ConvNet.

    DG            discriminative
    GG            generative
    GG+DG         generative up to the switch, calibrated, then discriminative
    mix           (1 - a) discriminative + a generative
    mix+queue     the same with past batches among the draws of q
    with the labels of a tenth of the images:
    DG 10%        on these
    mix 10%       on these
    GG+DG 10%     on these
    GG(u)+DG 10%  the same, the images without label among the draws of q
    mix(u) 10%    a mix, half of a batch without label

Schemes of one run have the same initial weights, number of steps and learning rate
(cosine to 0 over the run). A record has the errors and, of log p(x) against digits and
noise, the area under the ROC curve; both raw and with biases by Bayes' rule.

    python benchmarks/cifar10.py --data-dir DIR --results results/cifar10.json

takes 7 minutes a run on one core. DIR holds CIFAR-10, prepared by TFDS, or a .npz that
--dataset names. A run goes on where it was interrupted; two sweeps may share a results
file (start each with --threads 1).
"""

import argparse
import functools
import hashlib
import itertools
import json
import os
import pathlib

from keras_tilt.cli.flags import (
    add_seeds,
    add_threads,
    command_parser,
    count,
    file,
    folder,
    natural,
)

# Phases: the objective (None: the mix), whether it ends at the switch, the images.
SCHEMES = {
    "DG": [("discriminative", False, "all")],
    "GG": [("generative", False, "all")],
    "GG+DG": [("generative", True, "all"), ("discriminative", False, "all")],
    "mix": [(None, False, "all")],
    "mix+queue": [(None, False, "all")],
    "DG 10%": [("discriminative", False, "labelled")],
    "mix 10%": [(None, False, "labelled")],
    "GG+DG 10%": [
        ("generative", True, "labelled"),
        ("discriminative", False, "labelled"),
    ],
    "GG(u)+DG 10%": [
        ("generative", True, "half labelled"),
        ("discriminative", False, "labelled"),
    ],
    "mix(u) 10%": [(None, False, "half labelled")],
}


def parse_flags():
    """The command line; --smoke shrinks the defaults."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("--data-dir", default=os.environ.get("KERAS_TILT_DATA"), help="folder")
    add("--dataset", default="cifar10", help="name of TFDS, or of a .npz in it")
    add("--schemes", nargs="+", default=list(SCHEMES), choices=SCHEMES, help="to run")
    add_seeds(add, range(3))
    add("--epochs", type=count, default=16, help="of every scheme")
    add("--switch", type=count, default=6, help="generative epochs before DG")
    add("--mix-weight", type=float, default=0.5, help="a")
    add("--queue", type=count, default=16, help="past batches")
    add("--batch-size", type=count, default=128, help="images per step")
    add("--learning-rate", type=float, default=0.01, help="at step 0")
    add(
        "--pad",
        type=natural,
        default=4,
        help="of random crops, and mirrored; 0: neither",
    )
    either = argparse.BooleanOptionalAction
    add("--batch-norm", action=either, default=False, help="in the network")
    add_threads(add)
    add("--results", type=file, help="records, default OUT/cifar10.json")
    add("--out", type=folder, default="out/cifar10", help="runs")
    add("--smoke", action="store_true", help="two epochs of the embedded digits")
    flags = parser.parse_args()
    if flags.seed is not None:
        flags.seeds = [flags.seed]
    if flags.smoke:
        flags.seeds, flags.epochs, flags.switch = flags.seeds[:1], 2, 1
        flags.schemes = ["DG", "GG+DG", "mix+queue", "mix(u) 10%"]
    if not 0 < flags.switch < flags.epochs:
        parser.error(
            "--switch must lie between 1 and --epochs - 1. Received: "
            f"{flags.switch} of {flags.epochs}."
        )
    flags.results = flags.results or flags.out / "cifar10.json"
    return flags


if __name__ == "__main__":
    parse_flags()  # may end here, before the seconds that TensorFlow takes

import keras_tilt as kt
import keras
import numpy as np
import tensorflow as tf

from keras_tilt.cli import process
from keras_tilt.data import batches, sources
from keras_tilt.training import evaluation, results

PAIRS = [
    ("DG", "GG"),
    ("DG", "GG+DG"),
    ("GG", "GG+DG"),
    ("DG", "mix"),
    ("DG", "mix+queue"),
    ("mix", "mix+queue"),
    ("DG 10%", "GG+DG 10%"),
    ("DG 10%", "mix 10%"),
    ("DG 10%", "GG(u)+DG 10%"),
    ("GG+DG 10%", "GG(u)+DG 10%"),
    ("mix 10%", "mix(u) 10%"),
]
CROP = (32, 32)


def main():
    """Runs what is missing, prints the table."""
    flags = parse_flags()
    process.use_threads(flags.threads)
    with process.as_exit():
        train, test = opened(flags.dataset, flags.data_dir, flags.smoke)
    strangers = others()
    settings = {
        "epochs": flags.epochs,
        "switch": flags.switch,
        "mix_weight": flags.mix_weight,
        "queue": flags.queue,
        "batch_size": flags.batch_size,
        "learning_rate": flags.learning_rate,
        "pad": flags.pad,
        "batch_norm": flags.batch_norm,
        "train_images": len(train.labels),
    }
    flags.out.mkdir(parents=True, exist_ok=True)
    for seed, scheme in itertools.product(flags.seeds, flags.schemes):
        run = {"scheme": scheme, "seed": seed, **settings}
        if not results.records_of(run, flags.results):
            record = trained(run, train, test, strangers, flags.out)
            results.append_records(flags.results, [record])
    print(table(results.read_records(flags.results), settings))
    print(f"Records: {flags.results}")


def opened(dataset, data_dir, smoke):
    """The images to train on and those to test on."""
    if smoke:
        train, test = kt.data.embedded_mnist()
        few = (train[0][:1280], train[1][:1280]), (test[0][:500], test[1][:500])
        return tuple(sources.arrays(in_colour(x), y) for x, y in few)
    if not data_dir:
        raise ValueError(
            "Expected --data-dir, the folder of CIFAR-10. Received: none, and "
            "KERAS_TILT_DATA is not set. Or try --smoke."
        )
    if dataset.endswith(".npz"):
        path = pathlib.Path(data_dir) / dataset
        return sources.npz(path, "train"), sources.npz(path, "test")
    return tuple(sources.tfds_named(dataset, data_dir, s) for s in ("train", "test"))


def in_colour(digits):
    """Gray images [n, 28, 28, 1] as uint8 [n, 32, 32, 3]."""
    large = tf.image.resize(tf.repeat(digits, 3, axis=3), CROP)
    return tf.cast(tf.round(large), tf.uint8).numpy()


def others():
    """Images of other kinds, by name."""
    _, (digits, labels) = kt.data.embedded_mnist()
    noise = np.random.default_rng(0).integers(0, 256, [1000, *CROP, 3], np.uint8)
    return {
        "digits": sources.arrays(in_colour(digits), labels),
        "noise": sources.arrays(noise, labels),
    }


def trained(run, train, test, strangers, out):
    """The record of a run."""
    if "10%" in run["scheme"]:
        train = sources.with_labelled_fraction(train, 0.1, run["seed"])
    model = kt.GenerativeClassifier(
        kt.convnet(seed=run["seed"], batch_norm=run["batch_norm"])
    )
    digest = hashlib.sha256(json.dumps(run).encode()).hexdigest()[:8]
    name = "".join(c if c.isalnum() else "-" for c in run["scheme"])
    rows = kt.train(
        model,
        phases(run, train),
        out / f"{name}-seed{run['seed']}-{digest}",
        settings=run,
        calibration=whole(train),
        batch_size=run["batch_size"],
    )
    found = {
        "train_accuracy": rows[-1]["accuracy"],
        "seconds": round(sum(row["seconds"] for row in rows), 1),
        "raw": measured(model, test, strangers),
    }
    model.calibrate(whole(train))
    return {**run, **found, "calibrated": measured(model, test, strangers)}


def whole(source):
    """All images, as they are."""
    return batches.evaluation_batches(source, 500, crop=CROP)


def measured(model, test, strangers):
    """Errors in %, and areas under the ROC curve of log p(x)."""
    found = evaluation.predictions(model, whole(test))
    areas = {
        name: evaluation.area_under_roc(
            found.scores, evaluation.predictions(model, whole(images)).scores
        )
        for name, images in strangers.items()
    }
    return {
        "error": round(100 * evaluation.top_error(found), 3),
        "ece": round(100 * evaluation.calibration_error(found), 3),
        "auroc": {name: round(area, 4) for name, area in areas.items()},
    }


def phases(run, source):
    """The phases of a scheme; the learning rate goes on from one to the next."""
    steps = len(source.labels) // run["batch_size"]
    schedule = keras.optimizers.schedules.CosineDecay(
        run["learning_rate"], run["epochs"] * steps
    )
    found, first = [], 0
    for objective, to_switch, images in SCHEMES[run["scheme"]]:
        last = run["switch"] if to_switch else run["epochs"]
        phase = kt.Phase(
            run["mix_weight"] if objective is None else objective,
            last - first,
            functools.partial(optimizer, schedule, first * steps),
            functools.partial(epoch_batches, run, source, images),
            queue=run["queue"] if "queue" in run["scheme"] else 0,
            calibrate=first > 0,
        )
        found.append(phase)
        first = last
    return found


def optimizer(schedule, first_step):
    """Momentum and weight decay as Caffe has them."""
    return kt.CaffeSGD(kt.Continued(schedule, first_step), bias_multiplier=1.0)


def epoch_batches(run, source, images, epoch, step):
    """What is left of an epoch; one has as many steps whatever the labels."""
    size, place = run["batch_size"], (run["seed"], epoch)
    if images == "all":
        order = batches.uniform_order(len(source.labels), *place)
    else:
        labelled = {"labelled": size, "half labelled": size // 2}[images]
        order = batches.by_labelled(source.labels, size, labelled, *place)
    return batches.training_batches(
        source,
        order,
        size,
        seed=run["seed"],
        epoch=epoch,
        first_step=step,
        crop=CROP,
        pad=run["pad"],
        mirror=run["pad"] > 0,
        drop_remainder=True,
    )


def table(records, settings):
    """A line for each scheme, mean +- sd over seeds; then paired tests."""
    runs = {
        scheme: {
            r["seed"]: r
            for r in records
            if {"scheme": scheme, **settings}.items() <= r.items()
        }
        for scheme in SCHEMES
    }
    columns = {
        "error": lambda r: r["raw"]["error"],
        "calibrated": lambda r: r["calibrated"]["error"],
        "ECE": lambda r: r["raw"]["ece"],
        "ECE calibr.": lambda r: r["calibrated"]["ece"],
        "digits": lambda r: r["calibrated"]["auroc"]["digits"],
        "noise": lambda r: r["calibrated"]["auroc"]["noise"],
    }
    lines = [
        ", ".join(f"{name} {value}" for name, value in settings.items()),
        "% of the test images, area under the ROC curve of log p(x); mean +- sd",
        f"{'scheme':14}{'seeds':>6}" + "".join(f"{name:>17}" for name in columns),
    ]
    for scheme, by_seed in runs.items():
        if by_seed:
            cells = (
                results.mean_sd([of(r) for r in by_seed.values()])
                for of in columns.values()
            )
            shown = "".join(f"{cell:>17}" for cell in cells)
            lines.append(f"{scheme:14}{len(by_seed):6}{shown}")
    for one, other in PAIRS:
        lines += results.paired_test(one, runs[one], other, runs[other], _error)
    return "\n".join(lines)


def _error(record):
    """The better of raw and calibrated is not chosen: calibrated where GG is last."""
    return record["calibrated" if record["scheme"] == "GG" else "raw"]["error"]


if __name__ == "__main__":
    main()
