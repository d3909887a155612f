"""DG, GG and GG+DG on MNIST: the paper's first experiment, with Caffe's LeNet.

    DG      25 epochs discriminative
    GG      25 epochs generative
    GG+DG   16 epochs generative, calibrated, then 9 epochs discriminative

Paper: Dai, Lu, Wu, "Generative Modeling of Convolutional Neural Networks", ICLR 2015.
Its test errors, as remembered and not verified: 1.03, 0.85 and 0.76 %.
Ours: results/mnist.json, tabled in the README.

    python train/mnist.py --data-dir DIR --seeds 0 1 2 3 4

takes about 10 s an epoch on two cores. The networks take pixels in [0, 255]. A sweep
that was interrupted goes on where it stood, and two sweeps with different seeds may
share one results file (start each with --threads 1).
"""

import argparse

from keras_tilt.cli.flags import count, file, folder, positive

PAPER_ERROR = {"DG": 1.03, "GG": 0.85, "GG+DG": 0.76}  # from memory, unverified


def parse_flags():
    """The command line; --smoke shrinks the defaults."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data-dir", help="folder of mnist.npz or of prepared TFDS data")
    add("--embedded", action="store_true", help="the package's 6,000 images instead")
    add(
        "--schemes",
        nargs="+",
        default=list(PAPER_ERROR),
        choices=PAPER_ERROR,
        help="which to run",
    )
    add(
        "--seeds",
        nargs="+",
        type=int,
        default=[0, 1, 2, 3, 4],
        help="of initial weights and order of images, one run each",
    )
    add("--seed", type=int, help="one seed; short for --seeds SEED")
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
    add("--threads", type=count, help="TensorFlow threads; all cores by default")
    add("--results", type=file, help="records, default OUT/mnist.json")
    add("--out", type=folder, default="out/mnist", help="models")
    add("--smoke", action="store_true", help="one seed, two epochs, embedded images")
    flags = parser.parse_args()
    if flags.seed is not None:
        flags.seeds = [flags.seed]
    if flags.smoke:
        flags.seeds, flags.epochs, flags.generative_epochs = flags.seeds[:1], 2, 1
    if not 0 < flags.generative_epochs < flags.epochs:
        parser.error(
            "--generative-epochs must lie between 1 and --epochs - 1. Received: "
            f"{flags.generative_epochs} of {flags.epochs}."
        )
    flags.results = flags.results or flags.out / "mnist.json"
    return flags


if __name__ == "__main__":
    parse_flags()  # may end here, before the seconds that TensorFlow takes

import keras_tilt as kt
import keras
import numpy as np
from tqdm import auto as tqdm

from keras_tilt import storage, training
from keras_tilt.cli import named
from keras_tilt.training import results

SWITCH = "generative_epochs"
PAPER_IMAGES = 60_000  # that it trains on


class EpochEnd(keras.callbacks.Callback):
    """After every epoch: moves the bar, and keeps the model where it is wanted."""

    def __init__(self, run, out, progress):
        super().__init__()
        self.run, self.out, self.progress = run, out, progress
        self.before = progress.n

    def on_epoch_end(self, epoch, logs=None):
        """Of GG the model that GG+DG begins with is kept, and of all the last."""
        done = epoch + 1
        begins_another = self.run["scheme"] == "GG" and done == self.run[SWITCH]
        if begins_another or done == self.run["epochs"]:
            storage.save_model(checkpoint(self.run, self.out, done), self.model)
        error = percent(logs["val_accuracy"])
        self.progress.set_postfix_str(f"test error {error:.2f} %", refresh=False)
        self.progress.n = self.before + done  # some of them before an interruption
        self.progress.refresh()


def percent(accuracy):
    """Error in %, from an accuracy in [0, 1]."""
    return round(100.0 * (1.0 - accuracy), 3)


def main():
    """Reads the flags, runs what is missing, prints the table."""
    flags = parse_flags()
    named.use_threads(flags.threads)
    embedded = flags.embedded or flags.smoke
    train, test = kt.data.embedded_mnist() if embedded else load(flags.data_dir)
    flags.out.mkdir(parents=True, exist_ok=True)
    settings = {
        "epochs": flags.epochs,
        "generative_epochs": flags.generative_epochs,
        "learning_rate": flags.learning_rate,
        "refining_learning_rate": flags.refining_learning_rate,
        "batch_size": flags.batch_size,
        "calibrate": flags.calibrate,
        "train_images": len(train[1]),
    }
    runs = [
        {"scheme": scheme, "seed": seed, **settings}
        for seed in flags.seeds
        for scheme in flags.schemes
    ]
    with tqdm.tqdm(total=len(runs) * flags.epochs, unit="epoch") as progress:
        for run in runs:
            progress.set_description(f"{run['scheme']} seed {run['seed']}")
            with named.as_exit():
                train_run(run, train, test, flags.results, flags.out, progress)
    print(table(results.read_records(flags.results), settings))
    print(f"Records: {flags.results}\nModels:  {flags.out}")


def load(data_dir):
    """MNIST, or a plain exit that says how to get it."""
    try:
        return kt.data.load_mnist(data_dir)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f"{error}\nOr run with --embedded.") from error


def pixels(images_and_labels, batch_size, **order):
    """Batches of pixels in [0, 255], which the network itself scales."""
    return kt.data.pipeline(*images_and_labels, batch_size, scale=1.0, **order)


def phases(run, train):
    """DG, GG, or one after the other."""
    switch, last = run[SWITCH], run["epochs"]

    def phase(objective, epochs, rate, calibrate=False):
        def optimizer():
            return kt.CaffeSGD(kt.InverseDecay(rate))

        def batches(epoch, step):
            order = {"shuffle_seed": run["seed"], "first_epoch": epoch}
            return pixels(train, run["batch_size"], **order, first_step=step)

        return training.Phase(
            objective, epochs, optimizer, batches, calibrate=calibrate
        )

    if run["scheme"] == "DG":
        return [phase("discriminative", last, run["learning_rate"])]
    if run["scheme"] == "GG":
        return [phase("generative", last, run["learning_rate"])]
    rates = run["learning_rate"], run["refining_learning_rate"]
    return [
        phase("generative", switch, rates[0]),
        phase("discriminative", last - switch, rates[1], run["calibrate"]),
    ]


def train_run(run, train, test, results, out, progress):
    """Trains one scheme with one seed from wherever it stands, and records it."""
    done, before = len(results.records_of(run, results)), progress.n
    if done == run["epochs"]:
        progress.update(done)
        return
    model, plan, shared = starting_point(run, phases(run, train), results, out)
    first_epoch = run["epochs"] - sum(phase.epochs for phase in plan)
    rows = training.train(
        model,
        plan,
        out / "runs" / (name(run) + "-after-gg" * bool(shared)),
        settings=run,
        validation=pixels(test, 500),
        calibration=pixels(train, 500),
        first_epoch=first_epoch,
        callbacks=[EpochEnd(run, out, progress)],
        progress=False,
    )
    records = [*shared, *(record(run, row) for row in rows)]
    if run["scheme"] == "GG":
        records[-1]["test_error_calibrated"] = calibrated_error(model, train, test)
    results.append_records(results, records[done:])
    progress.n = before + run["epochs"]
    progress.refresh()


def starting_point(run, plan, results, out):
    """A new model and its phases; or, for GG+DG, GG's of that epoch and its records."""
    shared = results.records_of({**run, "scheme": "GG"}, results)[: run[SWITCH]]
    path = checkpoint({**run, "scheme": "GG"}, out, run[SWITCH])
    network = kt.lenet(seed=run["seed"], scale=kt.data.PIXEL_SCALE)
    model = kt.GenerativeClassifier(network)
    if run["scheme"] == "GG+DG" and len(shared) == run[SWITCH] and path.exists():
        model.set_weights(keras.models.load_model(path).get_weights())
        return model, plan[1:], [{**one, **run} for one in shared]
    return model, plan, []


def record(run, row):
    """What is recorded of an epoch."""
    generative = row["objective"] == "generative"
    as_trained = "val_uncalibrated_accuracy" if generative else "val_accuracy"
    return {
        **run,
        "epoch": row["epoch"],
        "objective": row["objective"],
        "loss": row["loss"],
        "test_error": percent(row[as_trained]),
        "test_error_calibrated": percent(row["val_accuracy"]) if generative else None,
        "seconds": row["seconds"],
    }


def calibrated_error(model, train, test):
    """By a pass over the training images, where epochs have the running Z_y."""
    model.calibrate(pixels(train, 500))
    logits = model.predict(pixels(test, 500), verbose=0)
    return percent(np.mean(logits.argmax(axis=1) == test[1]))


def name(run):
    """What the files of a run are called."""
    return f"{run['scheme'].lower().replace('+', '-')}-seed{run['seed']}"


def checkpoint(run, out, epoch):
    """Where the model of a run is kept after so many epochs."""
    return out / f"{name(run)}-epoch{epoch:02d}.keras"


def table(records, settings):
    """Mean +- sd of the final test error per scheme, and DG against GG+DG, paired."""
    of_paper = settings["train_images"] == PAPER_IMAGES
    final = {
        scheme: {
            r["seed"]: r
            for r in records
            if {"scheme": scheme, "epoch": settings["epochs"], **settings}.items()
            <= r.items()
        }
        for scheme in PAPER_ERROR
    }
    lines = [
        f"Test error in % after {settings['epochs']} epochs, mean +- sd over seeds",
        f"{'scheme':8}{'seeds':>6}{'as trained':>16}{'calibrated':>16}"
        f"{'paper*' if of_paper else '':>9}".rstrip(),
    ]
    for scheme, runs in final.items():
        raw = [r["test_error"] for r in runs.values()]
        calibrated = [r["test_error_calibrated"] for r in runs.values()]
        lines.append(
            f"{scheme:8}{len(runs):6}{results.mean_sd(raw):>16}{results.mean_sd(calibrated):>16}"
            + (f"{PAPER_ERROR[scheme]:9.2f}" if of_paper else "")
        )
    if of_paper:
        lines.append("* from memory, unverified; one run")
    return "\n".join([*lines, *compared(final["DG"], final["GG+DG"])])


def compared(discriminative, refined):
    """The line of the paired test."""
    return results.paired_test(
        "DG", discriminative, "GG+DG", refined, lambda record: record["test_error"]
    )


if __name__ == "__main__":
    main()
