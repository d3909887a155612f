"""DG, GG and GG+DG on MNIST: the paper's first experiment, with Caffe's LeNet.

    DG      25 epochs discriminative
    GG      25 epochs generative
    GG+DG   16 epochs generative, calibrated, then 9 epochs discriminative

The networks take pixels in [0, 255].

Source: Dai, Lu, Wu, "Generative Modeling of Convolutional Neural Networks", ICLR 2015.
"""

__all__ = ["main", "parse_flags"]

import argparse
from collections.abc import Sequence

from keras_tilt.cli.flags import (
    add_seeds,
    add_threads,
    command_parser,
    count,
    file,
    folder,
    positive,
)

SCHEMES = ("DG", "GG", "GG+DG")
# What the result of a run depends on, besides the images.
RATES = ("learning_rate", "refining_learning_rate")
SETTINGS = ("epochs", "generative_epochs", *RATES, "batch_size", "calibrate")


def parse_flags(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the flags of a command line; --smoke shrinks the defaults."""
    parser = command_parser(__doc__, "mnist", argv)
    add = parser.add_argument
    add("--data-dir", help="folder of mnist.npz or of prepared TFDS data")
    add("--embedded", action="store_true", help="the package's 6,000 images instead")
    _add_training(add)
    add_threads(add)
    add("--results", type=file, help="records, default OUT/mnist.json")
    add("--out", type=folder, default="out/mnist", help="models")
    add("--smoke", action="store_true", help="one seed, two epochs, embedded images")
    flags = parser.parse_args(argv)
    if flags.seed is not None:
        flags.seeds = [flags.seed]
    if flags.smoke:
        flags.seeds, flags.epochs, flags.generative_epochs = flags.seeds[:1], 2, 1
        flags.embedded = True
    if not 0 < flags.generative_epochs < flags.epochs:
        parser.error(
            "--generative-epochs must lie between 1 and --epochs - 1. Received: "
            f"{flags.generative_epochs} of {flags.epochs}."
        )
    flags.results = flags.results or flags.out / "mnist.json"
    return flags


def _add_training(add):
    """Add which runs there are, and how each is trained."""
    add(
        "--schemes",
        nargs="+",
        default=list(SCHEMES),
        choices=SCHEMES,
        help="which to run",
    )
    add_seeds(add, range(5), "of initial weights and order of images, ")
    add("--epochs", type=count, default=25, help="epochs of every scheme")
    add("--generative-epochs", type=count, default=16, help="of GG+DG")
    add("--learning-rate", type=positive, default=0.01, help="at step 0 of DG and GG")
    add("--refining-learning-rate", type=positive, default=0.003, help="DG after GG")
    add("--batch-size", type=count, default=64, help="images per step")
    add(
        "--calibrate",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="fold the calibrated bias in at the switch from GG to DG",
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing of the sweep, and print the table."""
    flags = parse_flags(argv)
    from keras_tilt.cli import process  # with TensorFlow, which takes seconds
    from keras_tilt.cli.jobs import mnist_sweep

    process.use_threads(flags.threads)
    train, test = mnist_sweep.images(flags.embedded, flags.data_dir)
    flags.out.mkdir(parents=True, exist_ok=True)
    settings = {name: getattr(flags, name) for name in SETTINGS}
    settings["train_images"] = len(train[1])
    runs = [
        {"scheme": scheme, "seed": seed, **settings}
        for seed in flags.seeds
        for scheme in flags.schemes
    ]
    with process.as_exit():
        mnist_sweep.sweep(runs, train, test, flags.results, flags.out)
    print(mnist_sweep.table_of(flags.results, settings))
    print(f"Records: {flags.results}\nModels:  {flags.out}")
