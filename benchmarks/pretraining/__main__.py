"""Does the generative gradient help on photographs? Schemes, networks and recipes.

Each run trains one network by one of the schemes of `schemes.py` - discriminatively
(DG), generatively (GG), one after the other, mixed, with few labels - for the same
number of steps from the same initial weights. A record has its course over the epochs
and what the model is at its end: top-1 and top-5 errors, ECE as it is and at a fitted
temperature, and, of log p(x) against images of other kinds, the area under the ROC
curve; both raw and with biases by Bayes' rule.

    python benchmarks/pretraining --data-dir DIR --results results/cifar10.json
    python benchmarks/pretraining --data-dir DIR --dataset tiny-imagenet-100 \\
        --size 64 --pad 8 --network pooled_convnet --normalization group \\
        --optimizer adamw --learning-rate 8e-3 --weight-decay 4e-3 --schedule restart \\
        --epochs 12 --switch 4 --results results/tiny_imagenet_100.json

The first takes 7 minutes a run on one core, the second 13. DIR holds the data sets:
CIFAR-10, prepared by TFDS, or a .npz that --dataset names, and folders in the layout of
Tiny ImageNet. A run goes on where it was interrupted; two sweeps may share a results
file (start each with --threads 1).
"""

import itertools
import os

from keras_tilt.cli.flags import (
    add_seeds,
    add_threads,
    command_parser,
    count,
    file,
    folder,
    natural,
    positive,
    share,
)

# Settings of a run, by the names of the flags.
SETTINGS = (
    *("dataset", "size", "pad", "network", "normalization"),
    *("epochs", "switch", "mix_weight", "queue", "batch_size"),
    "classes_per_batch",
    *("optimizer", "schedule", "learning_rate", "refining_rate", "weight_decay"),
)
UNCENTERED = ("convnet", "pooled_convnet", "convnext", "small_alexnet")
CENTERED = tuple(f"{name}_centered" for name in UNCENTERED)
NETWORKS = (*UNCENTERED, "pooled_convnet_batch_head", *CENTERED)
SCHEDULES = ("cosine", "cooldown", "restart")
NORMALIZATIONS = ("none", "batch", "ghost", "moving", "group", "layer")


def parse_flags():
    """The command line; --smoke shrinks the defaults."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    _add_images(add)
    _add_training(add)
    add_threads(add)
    add("--results", type=file, help="records, default OUT/records.json")
    add("--figure", type=file, help="picture of the course of these runs")
    add("--out", type=folder, default="out/pretraining", help="runs")
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
    flags.refining_rate = flags.refining_rate or flags.learning_rate
    flags.results = flags.results or flags.out / "records.json"
    return flags


def _add_images(add):
    """What is read, and how it is cut."""
    add("--data-dir", default=os.environ.get("KERAS_TILT_DATA"), help="folder")
    add("--dataset", default="cifar10", help="name of TFDS, or of a file or folder")
    add("--strangers", nargs="*", default=[], help="more data sets, to tell apart")
    add("--size", type=count, default=32, help="of the crop, pixels")
    add("--pad", type=natural, default=4, help="of crops and mirrors; 0: neither")
    add("--batch-size", type=count, default=128, help="images per step")
    add("--classes-per-batch", type=count, help="equally many images of each")


def _add_training(add):
    """Networks, schemes and recipes."""
    add("--network", choices=NETWORKS, default="convnet", help="to train")
    add("--normalization", choices=NORMALIZATIONS, default="none", help="in it")
    add("--schemes", nargs="+", help="to run; default: all")
    add_seeds(add, range(3))
    add("--epochs", type=count, default=16, help="of every scheme")
    add("--switch", type=count, default=6, help="epochs of the first of two phases")
    add("--mix-weight", type=share, default=0.5, help="a")
    add("--queue", type=count, default=16, help="past batches")
    add("--optimizer", choices=("sgd", "adamw"), default="sgd", help="with momentum")
    add("--schedule", choices=SCHEDULES, default="cosine", help="of rates")
    add("--learning-rate", type=positive, default=0.01, help="at step 0")
    add("--refining-rate", type=positive, help="of a last phase; default: the same")
    add("--weight-decay", type=share, default=5e-4, help="of weights")


if __name__ == "__main__":
    parse_flags()  # may end here, before the seconds that TensorFlow takes

from curves import figure_of
from images import opened, strangers
from runs import trained
from schemes import SCHEMES
from tables import table

from keras_tilt.cli import process
from keras_tilt.training import results


def main():
    """Runs what is missing, prints the table."""
    flags = parse_flags()
    process.use_threads(flags.threads)
    with process.as_exit():
        schemes = known(flags.schemes or list(SCHEMES))
        train, test = opened(flags.dataset, flags.data_dir, flags.smoke)
        others = strangers(flags.strangers, flags.data_dir, flags.size)
    settings = {name: getattr(flags, name) for name in SETTINGS}
    settings["train_images"] = len(train.labels)
    flags.out.mkdir(parents=True, exist_ok=True)
    for seed, scheme in itertools.product(flags.seeds, schemes):
        run = {"scheme": scheme, "seed": seed, **settings}
        if not results.records_of(run, flags.results):
            record = trained(run, train, test, others, flags.out)
            results.append_records(flags.results, [record])
    records = results.read_records(flags.results)
    print(table(records, settings))
    if flags.figure:
        figure_of(records, settings).savefig(flags.figure, dpi=150)
    print(f"Records: {flags.results}")


def known(schemes):
    """Names of schemes, once they are known to be ones."""
    unknown = sorted(set(schemes) - set(SCHEMES))
    if unknown:
        raise ValueError(
            f"Expected --schemes of {', '.join(SCHEMES)}. Received: "
            f"{', '.join(unknown)}."
        )
    return schemes


if __name__ == "__main__":
    main()
