"""GG+DG on ImageNet, from the two tars: the paper's second experiment.

    45 epochs generative, calibrated, then 25 epochs discriminative at a lower rate

or the same on any images, with any network, objective and schedule.

Source: Dai, Lu, Wu, "Generative Modeling of Convolutional Neural Networks", ICLR 2015.
"""

__all__ = ["main", "parse_flags"]

import argparse
import functools
import os
import pathlib
from collections.abc import Sequence

from keras_tilt.cli.flags import (
    MODES,
    add_import,
    command_parser,
    count,
    folder,
    natural,
    positive,
    share,
)

OBJECTIVES = ("generative", "discriminative", "mix", "annealed")
OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("step", "inverse", "cosine", "cooldown", "constant")
# What each step is given of the flags.
DATA = (
    *("dataset", "data_dir", "seed", "dry_run"),
    *("labelled_fraction", "unlabelled", "outliers"),
)
CROPS = (
    "size",
    "shorter_side",
    "pad",
    "mirror",
    "preprocess",
)
BATCHES = ("batch_size", "max_corrupt", "classes_per_batch", "labelled_per_batch")
IMAGES = (*DATA, *CROPS, *BATCHES)
RECIPE = (
    *("schedule", "generative_schedule", "decay_steps", "warmup_steps"),
    *("momentum", "weight_decay"),
)
RATES = ("learning_rate", "refining_learning_rate")
EPOCHS = ("objective", "mix_weight", "epochs", "generative_epochs", "calibrate")
COURSE = (*EPOCHS, *RATES)
# Flags of what batches are made of: those of draws of q, and of images without label.
UNLABELLED = {"--labelled-per-batch", "--unlabelled", "--outliers"}
DRAWS = {"--queue", "--labelled-per-batch", "--outliers"}
OF_BATCHES = (
    *("queue", "classes_per_batch"),
    *("labelled_per_batch", "unlabelled", "outliers"),
)
FEWEST = 3  # outliers, one of each kind
# What the result does not depend on, or what shows in the images or the network.
UNSAVED = ("data_dir", "out", "save_every", "eval_only", "dry_run", "smoke", "modules")
LATER = ("outliers",)  # runs of before there were these can be resumed without them


def parse_flags(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the flags of a command line, or end with what is wrong with them."""
    parser = command_parser(__doc__, "train", argv)
    _add_images(parser.add_argument_group("images").add_argument)
    training = parser.add_argument_group("training").add_argument
    _add_phases(training)
    _add_optimizer(training)
    _add_draws(training)
    _add_running(parser.add_argument_group("running").add_argument)
    flags = parser.parse_args(argv)
    if flags.smoke:
        flags.dataset, flags.size = "synthetic", 67
        flags.epochs, flags.generative_epochs, flags.batch_size = 2, 1, 16
        flags.queue = 0 if flags.objective == "discriminative" else 32
        flags.calibration_images = 64
    if flags.eval_only:
        flags.outliers = 0
    has_generative_epochs = flags.objective in ("generative", "annealed")
    if has_generative_epochs and flags.generative_epochs > flags.epochs:
        parser.error(
            "--generative-epochs must not exceed --epochs. Received: "
            f"{flags.generative_epochs} of {flags.epochs}."
        )
    given = [f"--{n.replace('_', '-')}" for n in OF_BATCHES if getattr(flags, n)]
    error = _error_of_batches(given, flags)
    if error:
        parser.error(error)
    return flags


def _error_of_batches(given, flags):
    """Return what is wrong with the flags of batches that are given, or None."""
    draws = [flag for flag in given if flag in DRAWS]
    if draws and flags.objective == "discriminative":
        return (
            f"{draws[0]} is for an --objective with a generative part. "
            "Received: discriminative."
        )
    if "--classes-per-batch" in given and (others := {*given} & UNLABELLED):
        return (
            "--classes-per-batch makes batches of images with labels alone. Received: "
            f"{', '.join(sorted(others))}, too. Leave one out."
        )
    if flags.queue % flags.batch_size:
        return (
            f"--queue must be a multiple of --batch-size, {flags.batch_size}, since "
            f"whole batches are kept. Received: {flags.queue}."
        )
    if 0 < flags.outliers < FEWEST:
        return (
            f"--outliers must be 0 or at least {FEWEST}, one of each kind. "
            f"Received: {flags.outliers}."
        )
    return None


def _add_images(add):
    """Add what is read, and how it is cut."""
    add(
        "--data-dir",
        type=pathlib.Path,
        default=os.environ.get("KERAS_TILT_DATA"),
        help="folder of the images",
    )
    add(
        "--dataset",
        default="imagenet2012",
        help="a name of TFDS, a .npz in --data-dir, or synthetic",
    )
    add("--labelled-fraction", type=share, help="share per class; the rest: draws of q")
    add("--unlabelled", type=pathlib.Path, help="folder of images, more draws of q")
    add("--size", type=count, help="of the crop, pixels; default: the network's")
    add("--shorter-side", type=count, help="pixels before the crop; photos: 8/7 of it")
    add("--pad", type=natural, help="border, pixels; of small images 1/8 of the crop")
    add("--mirror", action=argparse.BooleanOptionalAction, default=True, help="random")
    add("--preprocess", choices=MODES, default="none", help="of pixels, Keras's")
    add("--max-corrupt", type=share, default=0.001, help="share that may be unreadable")


def _add_phases(add):
    """Add the network, and what it is trained by for how long."""
    add(
        "--network",
        default="alexnet",
        help="alexnet, zf_fast, small_alexnet, pooled_convnet, lenet, convnet, one of "
        "keras.applications, or a .keras file",
    )
    add_import(add)
    add(
        "--objective",
        choices=OBJECTIVES,
        default="generative",
        help="to begin with; annealed: a mix of falling weight, from 1 to 0",
    )
    add("--mix-weight", type=share, default=0.5, help="of the generative loss in a mix")
    add("--epochs", type=count, default=70, help="in all")
    add(
        "--generative-epochs",
        type=count,
        default=45,
        help="before the discriminative ones; annealed: until the weight is 0",
    )
    add("--batch-size", type=count, default=256, help="images, of all replicas")


def _add_optimizer(add):
    """Add the rates, and what else the optimizer takes."""
    add("--learning-rate", type=positive, default=0.01, help="at the start")
    add("--refining-learning-rate", type=positive, default=0.003, help="DG after GG")
    add("--optimizer", choices=OPTIMIZERS, default="sgd", help="Caffe's SGD, or AdamW")
    add(
        "--schedule",
        choices=SCHEDULES,
        default="step",
        help="of each phase; cooldown: constant, then a cosine over the last third",
    )
    add("--generative-schedule", choices=SCHEDULES, help="of GG; default: the same")
    add("--decay-steps", type=count, default=100_000, help="steps to a tenth (step)")
    add("--warmup-steps", type=natural, default=0, help="in which the rate rises")
    add("--momentum", type=share, default=0.9, help="of SGD")
    add("--weight-decay", type=share, default=5e-4, help="on weights, not on biases")


def _add_draws(add):
    """Add what a batch is, which images stand for q, and the calibration by them."""
    add("--queue", type=natural, default=0, help="past images kept as draws of q")
    add("--outliers", type=natural, default=0, help="made-up draws of q, in memory")
    add("--classes-per-batch", type=count, help="equally many images of each")
    add("--labelled-per-batch", type=count, help="where others have no label")
    add(
        "--calibrate",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="set the biases by Bayes' rule at the switch",
    )
    add("--calibration-images", type=count, default=50_000, help="to calibrate on")
    add("--sync-batch-norm", action="store_true", help="statistics of all replicas")
    add("--center-logits", action="store_true", help="over the batch, if no norm does")
    add("--seed", type=natural, default=0, help="of weights, order, crops and dropout")


def _add_running(add):
    """Add where the run is kept, and what else may be done."""
    add("--out", type=folder, default="out/imagenet", help="folder")
    add("--save-every", type=count, default=500, help="steps")
    add("--eval-only", type=pathlib.Path, help="a .keras file to evaluate")
    add("--dry-run", action="store_true", help="say what would be done")
    add("--smoke", action="store_true", help="two epochs of a few made-up images")


def _settings(flags):
    """Return what the result depends on, by name."""
    unsaved = {*UNSAVED, *(name for name in LATER if not getattr(flags, name))}
    return {k: v for k, v in vars(flags).items() if k not in unsaved}


def main(argv: Sequence[str] | None = None) -> None:
    """Open the images, build the network, plan, train, evaluate."""
    flags = parse_flags(argv)
    from keras_tilt.cli import process  # with TensorFlow, which takes seconds
    from keras_tilt.cli.jobs import course, image_batches, image_training

    def given(names):
        return {name: getattr(flags, name) for name in names}

    strategy = process.chosen_strategy()
    with (
        process.resumable(),
        process.graph_errors_as_exit(),
        process.as_exit(),
        process.quiet(unless=strategy.extended.should_checkpoint),
    ):
        process.use_modules(flags.modules)
        network = str(flags.eval_only or flags.network)
        images = image_batches.opened(network, **given(IMAGES))
        if flags.eval_only:
            print(image_training.evaluated(flags.eval_only, images))
            return
        with strategy.scope():
            model = image_training.built(
                network, images, flags.sync_batch_norm, flags.center_logits
            )
        queue = flags.queue // flags.batch_size  # in batches
        taken = course.Course(**given(COURSE), queue=queue)
        phases = taken.phases(images, course.Recipe(flags.optimizer, **given(RECIPE)))
        prior = image_batches.prior_of(images, any(p.calibrate for p in phases))
        if flags.dry_run:
            print(course.plan(model, images, phases))
            return
        calibration = functools.partial(images.calibration, flags.calibration_images)
        plan = image_training.Plan(
            phases, _settings(flags), flags.save_every, calibration, prior
        )
        found = image_training.trained(model, images, flags.out, plan)
        print(image_training.table(found, images))
        print(f"Models and records: {flags.out / 'run'}")
