"""DG, GG and GG+DG on MNIST: the paper's first experiment, with Caffe's LeNet.

    DG      25 epochs discriminative
    GG      25 epochs generative
    GG+DG   16 epochs generative, calibrated, then 9 epochs discriminative

Paper: Dai, Lu, Wu, "Generative Modeling of Convolutional Neural Networks", ICLR 2015.
Its test errors, as remembered and not verified: 1.03, 0.85 and 0.76 %.
Ours: results/mnist.json, tabled in the README.

    python train/mnist.py --data-dir DIR --seeds 0 1 2 3 4

takes about 10 s an epoch on two cores. Every epoch is recorded and saved: a sweep that
was interrupted goes on where it stood, and two sweeps with different seeds may share
one results file (start each with --threads 1).
"""

import argparse
import fcntl
import json
import pathlib
import time

import keras_tilt as kt
import keras
import numpy as np
import scipy.stats
import tensorflow as tf
import tqdm

PAPER_ERROR = {"DG": 1.03, "GG": 0.85, "GG+DG": 0.76}  # from memory, unverified
PAPER_IMAGES = 60_000  # that it trains on


class EpochLog(keras.callbacks.Callback):
    """After every epoch: saves the model, records the epoch, moves the bar."""

    def __init__(self, run, train, test, results, out, progress):
        super().__init__()
        self.run, self.results, self.out = run, results, out
        self.train, self.test, self.progress = train, test, progress

    def on_epoch_begin(self, epoch, logs=None):
        """Starts the clock."""
        self.started = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        """The new checkpoint is whole before its record, the old one goes after it."""
        done, seconds = epoch + 1, time.monotonic() - self.started
        self.model.save(checkpoint(self.run, self.out, done))
        record = {
            **self.run,
            "epoch": done,
            "objective": self.model.objective,
            "loss": logs["loss"],
            "test_error": percent(logs["val_accuracy"]),
            "test_error_calibrated": self.calibrated_error(done, logs),
            "seconds": round(seconds, 2),
        }
        append_records(self.results, [record])
        if not self.starts_another_run(epoch):
            checkpoint(self.run, self.out, epoch).unlink(missing_ok=True)
        self.progress.set_postfix_str(f"test error {record['test_error']:.2f} %")
        self.progress.update()

    def starts_another_run(self, epoch):
        """Whether GG+DG begins with this model of GG."""
        return self.run["scheme"] == "GG" and epoch == self.run["generative_epochs"]

    def calibrated_error(self, done, logs):
        """By a pass over the training images at the end, by the running Z_y before."""
        if self.model.objective != "generative":
            return None
        if done < self.run["epochs"]:
            return percent(logs["val_calibrated_accuracy"])
        self.model.calibrate(kt.data.pipeline(*self.train, 500))
        logits = self.model.predict(kt.data.pipeline(*self.test, 500), verbose=0)
        return percent(np.mean(logits.argmax(axis=1) == self.test[1]))


def percent(accuracy):
    """Error in %, from an accuracy in [0, 1]."""
    return round(100.0 * (1.0 - accuracy), 3)


def main():
    """Reads the flags, runs what is missing, prints the table."""
    flags = parse_flags()
    if flags.threads:
        tf.config.threading.set_intra_op_parallelism_threads(flags.threads)
        tf.config.threading.set_inter_op_parallelism_threads(flags.threads)
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
            train_run(run, train, test, flags.results, flags.out, progress)
    print(table(read_records(flags.results), settings))
    print(f"Records: {flags.results}\nModels:  {flags.out}")


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
    add("--epochs", type=int, default=25, help="epochs of every scheme")
    add("--generative-epochs", type=int, default=16, help="of GG+DG")
    add("--learning-rate", type=float, default=0.01, help="at step 0 of DG and GG")
    add("--refining-learning-rate", type=float, default=0.003, help="DG after GG")
    add("--batch-size", type=int, default=64, help="images per step")
    add(
        "--calibrate",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="fold the calibrated bias in at the switch from GG to DG",
    )
    add("--threads", type=int, help="TensorFlow threads; all cores by default")
    add("--results", type=pathlib.Path, help="records, default OUT/mnist.json")
    add("--out", type=pathlib.Path, default=pathlib.Path("out/mnist"), help="models")
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


def load(data_dir):
    """MNIST, or a plain exit that says how to get it."""
    try:
        return kt.data.load_mnist(data_dir)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f"{error}\nOr run with --embedded.") from error


def phases(run):
    """Objective, first and last epoch, initial learning rate of each phase."""
    last, rate = run["epochs"], run["learning_rate"]
    if run["scheme"] == "DG":
        return [("discriminative", 0, last, rate)]
    if run["scheme"] == "GG":
        return [("generative", 0, last, rate)]
    switch = run["generative_epochs"]
    return [
        ("generative", 0, switch, rate),
        ("discriminative", switch, last, run["refining_learning_rate"]),
    ]


def train_run(run, train, test, results, out, progress):
    """Trains one scheme with one seed from wherever its records end."""
    done = len(records_of(run, results)) or adopt_generative_epochs(run, results)
    progress.update(done)
    for objective, first, last, rate in phases(run):
        start = max(first, done)
        if start >= last:
            continue
        model = starting_model(run, out, start)
        if start == first:
            if objective == "discriminative" and start > 0 and run["calibrate"]:
                model.calibrate(kt.data.pipeline(*train, 500))
            optimizer = kt.CaffeSGD(kt.InverseDecay(rate))
            model.compile(optimizer, objective=objective, metrics=["accuracy"])
        order = {"shuffle_seed": run["seed"], "first_epoch": start}
        model.fit(
            kt.data.pipeline(*train, run["batch_size"], **order),
            validation_data=kt.data.pipeline(*test, 500),
            initial_epoch=start,
            epochs=last,
            callbacks=[EpochLog(run, train, test, results, out, progress)],
            shuffle=False,  # the pipeline does
            verbose=0,
        )


def starting_model(run, out, epoch):
    """A new model, or the one saved after `epoch` epochs."""
    if epoch == 0:
        return kt.GenerativeClassifier(kt.lenet(seed=run["seed"]))
    path = checkpoint(run, out, epoch)
    if not path.exists() and run["scheme"] == "GG+DG":
        path = checkpoint({**run, "scheme": "GG"}, out, epoch)
    if not path.exists():
        raise SystemExit(
            f"The records hold {epoch} epochs of {run['scheme']} seed {run['seed']}, "
            f"but {path} is missing. Pass that sweep's --out, or other --results."
        )
    return keras.models.load_model(path)


def checkpoint(run, out, epoch):
    """Where the model of a run is kept after so many epochs."""
    name = run["scheme"].lower().replace("+", "-")
    return out / f"{name}-seed{run['seed']}-epoch{epoch:02d}.keras"


def adopt_generative_epochs(run, results):
    """GG+DG begins as GG of the same seed: takes its records over, if any."""
    shared = run["generative_epochs"]
    generative = records_of({**run, "scheme": "GG"}, results)[:shared]
    if run["scheme"] != "GG+DG" or len(generative) < shared:
        return 0
    append_records(results, [{**record, **run} for record in generative])
    return shared


def read_records(path):
    """All records of a results file."""
    return json.loads(path.read_text()) if path.exists() else []


def records_of(run, path):
    """The records of one run, in the order of its epochs."""
    return [r for r in read_records(path) if run.items() <= r.items()]


def append_records(path, records):
    """Adds records to a results file that other sweeps may be writing, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lines = [json.dumps(record) for record in read_records(path) + records]
        whole = path.with_suffix(".tmp")
        whole.write_text("[\n" + ",\n".join(lines) + "\n]\n")
        whole.replace(path)


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
        f"{'scheme':8}{'seeds':>6}{'error':>16}{'calibrated':>16}"
        f"{'paper*' if of_paper else '':>9}".rstrip(),
    ]
    for scheme, runs in final.items():
        raw = [r["test_error"] for r in runs.values()]
        calibrated = [r["test_error_calibrated"] for r in runs.values()]
        lines.append(
            f"{scheme:8}{len(runs):6}{mean_sd(raw):>16}{mean_sd(calibrated):>16}"
            + (f"{PAPER_ERROR[scheme]:9.2f}" if of_paper else "")
        )
    if of_paper:
        lines.append("* from memory, unverified; one run")
    return "\n".join([*lines, *paired_test(final["DG"], final["GG+DG"])])


def mean_sd(errors):
    """ "0.87 +- 0.05", or a dash where a number is missing."""
    if not errors or None in errors:
        return "-"
    sd = f" +- {np.std(errors, ddof=1):.3f}" if len(errors) > 1 else ""
    return f"{np.mean(errors):.3f}{sd}"


def paired_test(first, second):
    """One line: mean difference over common seeds, t, p (two-sided)."""
    seeds = sorted(first.keys() & second.keys())
    if len(seeds) < 2:
        return []
    errors = [[runs[s]["test_error"] for s in seeds] for runs in (first, second)]
    test = scipy.stats.ttest_rel(*errors)
    return [
        f"DG - GG+DG: {np.mean(np.subtract(*errors)):+.3f} points over {len(seeds)} "
        f"seeds, paired t = {test.statistic:.2f}, p = {test.pvalue:.4f}"
    ]


if __name__ == "__main__":
    main()
