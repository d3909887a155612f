"""What do masks, pursuit and linear SVMs give? Labels of CamVid's pixels, by each.

    box            pyramids over boxes, no mask
    A, B           the paper's designs
    A, no pursuit  all stuff of an image is one object
    A, svm         linear SVMs in the place of A's softmax
    box, svm       the same of box
    A, superpixels A judged on the segments that a server makes, trained on proposals

Each is one run of train/segmentation.py on 367 images, judged on the 233 of the split
"test"; runs share their proposals, and linear SVMs the fine-tuning of their design. A
record has what that script's result.json has: mean IoU and IoU of each class of labels
that are pasted, voted and the best for the proposals; AP of objects by their masks.

    python benchmarks/camvid.py --data-dir DIR --network efficientnet_lite0.keras \\
        --layer efficientnet_lite0/block10_add --results results/camvid.json

trains for 20 to 25 minutes and judges for 2 to 6, a run, on one core. DIR holds CamVid
as a .npz of `images`, `labels`, `names` and splits, which --data names. A run goes on
where it was interrupted; two sweeps may share a folder and a results file (start each
with --threads 1, and make the proposals with the first).
"""

import argparse
import hashlib
import itertools
import json
import os
import pathlib
import subprocess
import sys

from keras_tilt.cli.flags import (
    add_import,
    add_seeds,
    add_threads,
    command_parser,
    count,
    file,
    folder,
    import_flags,
)

RUNS = {
    "box": ["--design", "box"],
    "A": ["--design", "A"],
    "B": ["--design", "B"],
    "A, no pursuit": ["--design", "A", "--no-pursuit"],
    "A, svm": ["--design", "A", "--classifier", "svm"],
    "box, svm": ["--design", "box", "--classifier", "svm"],
    "A, superpixels": ["--design", "A", "--proposed-by", "superpixels"],
}


def parse_flags():
    """The command line; --smoke shrinks the defaults."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("--data-dir", default=os.environ.get("KERAS_TILT_DATA"), help="folder")
    add("--data", default="camvid_180x240_jpg.npz", help="file in it")
    add("--network", default="convnet", help="NETWORK.keras, or a name: new weights")
    add_import(add)
    add("--network-name", help="in the records; by default that of the file")
    add("--layer", default="relu3", help="whose map is masked")
    add("--size", type=count, nargs=2, default=[540, 720], help="of its images")
    add(
        "--train-network",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="all weights, not only those above the map",
    )
    add("--runs", nargs="+", default=list(RUNS), choices=RUNS, help="to make")
    add_seeds(add, range(3))
    add("--epochs", type=count, default=10, help="of every run")
    add("--learning-rate", type=float, default=3e-4, help="at step 0")
    add_threads(add)
    add("--results", type=file, help="records, default OUT/camvid.json")
    add("--out", type=folder, default="out/camvid", help="runs")
    add("--smoke", action="store_true", help="a few made scenes and a small network")
    flags = parser.parse_args()
    if flags.seed is not None:
        flags.seeds = [flags.seed]
    if flags.smoke:
        flags.seeds, flags.runs = flags.seeds[:1], ["box", "A", "A, svm"]
        flags.data, flags.network, flags.network_name = "synthetic", "convnet", None
        flags.layer, flags.size, flags.epochs = "relu3", [60, 80], 2
    flags.results = flags.results or flags.out / "camvid.json"
    return flags


if __name__ == "__main__":
    parse_flags()  # may end here, before the seconds that TensorFlow takes

import numpy as np

from keras_tilt import storage
from keras_tilt.training import results

SCRIPT = pathlib.Path(__file__).parents[1] / "train" / "segmentation.py"
STUFF = ("sky", "building", "road", "pavement", "tree", "fence")
PAIRS = [
    ("A", "box"),
    ("B", "box"),
    ("A", "B"),
    ("A", "A, no pursuit"),
    ("A, svm", "A"),
    ("A, svm", "box, svm"),
    ("A", "A, superpixels"),
]
SAME_TRAINING = {"A, svm": "A", "box, svm": "box", "A, superpixels": "A"}


def main():
    """Runs what is missing, prints the table."""
    flags = parse_flags()
    settings = {
        "data": flags.data,
        "network": flags.network_name or pathlib.Path(flags.network).stem,
        "layer": flags.layer,
        "size": list(flags.size),
        "epochs": flags.epochs,
        "learning_rate": flags.learning_rate,
        "train_network": flags.train_network,
    }
    folder = flags.out / folder_of(settings)
    folder.mkdir(parents=True, exist_ok=True)
    for seed, run in itertools.product(flags.seeds, flags.runs):
        key = {"run": run, "seed": seed, **settings}
        with alone(folder, run, seed):
            if not results.records_of(key, flags.results):
                record = key | {"result": result_of(run, seed, folder, flags)}
                results.append_records(flags.results, [record])
    print(table(results.read_records(flags.results), settings))
    print(f"Records: {flags.results}")


def folder_of(settings):
    """Name of the folder of all runs with these settings."""
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]
    return f"{settings['network']}-{digest}"


def alone(folder, run, seed):
    """Within it no other sweep makes this run."""
    return storage.locked(folder / f".{name_of(run, seed)}.lock")


def result_of(run, seed, folder, flags):
    """The result.json of a run, which is made if it is not there."""
    out = folder / name_of(run, seed)
    if not (out / "result.json").exists():
        segments = "superpixels" if run == "A, superpixels" else "proposals"
        command = [sys.executable, SCRIPT, *RUNS[run], *common(flags)]
        command += ["--proposals", flags.out / segments]
        if run in SAME_TRAINING:
            with alone(folder, SAME_TRAINING[run], seed):
                result_of(SAME_TRAINING[run], seed, folder, flags)
            before = folder / name_of(SAME_TRAINING[run], seed)
            command += ["--fine-tuned", before / "fine_tuned.keras"]
        print(f"{run}, seed {seed}: {out}", flush=True)
        command += ["--seed", seed, "--out", out]
        ended = subprocess.run([str(part) for part in command])
        if ended.returncode:
            raise SystemExit(ended.returncode)
    return json.loads((out / "result.json").read_text())


def name_of(run, seed):
    """Name of the folder of a run."""
    return "-".join([*run.replace(",", "").split(), f"seed{seed}"])


def common(flags):
    """Flags of the script that all runs have."""
    shared = ["--threads", flags.threads] if flags.threads else []
    if flags.smoke:
        return [*shared, "--smoke"]
    shared += ["--data-dir", flags.data_dir or ".", "--data", flags.data]
    shared += ["--stuff", *STUFF, "--split", "test", "--network", flags.network]
    shared += import_flags(flags.modules)
    shared += ["--layer", flags.layer, "--size", *flags.size]
    shared += ["--train-network" if flags.train_network else "--no-train-network"]
    return [*shared, "--epochs", flags.epochs, "--learning-rate", flags.learning_rate]


# Report


COLUMNS = {
    "paste": lambda r: mean_iou(r, "paste"),
    "vote": lambda r: mean_iou(r, "vote"),
    "paste, stuff": lambda r: stuff_iou(r, "paste"),
    "vote, stuff": lambda r: stuff_iou(r, "vote"),
    "best": lambda r: mean_iou(r, "best"),
    "mAP^r .5": lambda r: precision(r, "0.5"),
    "mAP^r .7": lambda r: precision(r, "0.7"),
}


def table(records, settings):
    """A line for each run, mean +- sd over seeds, and paired tests; so by network."""
    found = by_value(records, settings, "run")
    runs = {run: found[run] for run in RUNS if run in found}
    lines = [
        ", ".join(f"{name} {value}" for name, value in settings.items()),
        "% IoU of labels, mean over classes, over stuff; best for the proposals",
        *rows("run", runs),
        *classes(runs),
        *tests(runs, [(a, b) for a, b in PAIRS if a in runs and b in runs]),
    ]
    shared = {name: settings[name] for name in settings if name != "network"}
    networks = by_value(records, shared | {"run": "A"}, "network")
    if len(networks) > 1:
        lines += ["", "A, by network", *rows("network", networks)]
        lines += tests(networks, itertools.combinations(networks, 2))
    return "\n".join(lines)


def by_value(records, settings, name):
    """Results by the value of a name and by seed, of records with these settings."""
    found = {}
    for r in records:
        if settings.items() <= r.items():
            found.setdefault(r[name], {})[r["seed"]] = r["result"]
    return found


def rows(what, runs):
    """A line for each, mean +- sd over seeds."""
    width = max(map(len, [what, *runs]))
    lines = [f"{what:{width}}  seeds" + "".join(f"{name:>17}" for name in COLUMNS)]
    for name, by_seed in runs.items():
        cells = [[of(r) for r in by_seed.values()] for of in COLUMNS.values()]
        shown = "".join(f"{results.mean_sd(values):>17}" for values in cells)
        lines.append(f"{name:{width}}{len(by_seed):7}{shown}")
    return lines


def classes(runs):
    """IoU of each class, mean over seeds: a line for each run, by either rule."""
    lines, width = [], max(map(len, runs), default=0)
    for rule in ("paste", "vote"):
        found = {
            run: [r["labels"][rule]["iou"] for r in by_seed.values()]
            for run, by_seed in runs.items()
        }
        names = list(next(iter(found.values()))[0]) if found else []
        lines.append(f"{rule + ':':{width}}" + "".join(f"{n:>14}" for n in names))
        lines += [
            f"{run:{width}}"
            + "".join(f"{100 * np.mean([iou[n] for iou in ious]):14.1f}" for n in names)
            for run, ious in found.items()
        ]
    return lines


def tests(runs, pairs):
    """Paired tests of mean IoU, of labels that are pasted and voted."""
    lines, pairs = [], list(pairs)
    for name in ("paste", "vote", "paste, stuff", "vote, stuff"):
        found = [
            results.paired_test(one, runs[one], other, runs[other], COLUMNS[name])
            for one, other in pairs
        ]
        lines += [f"{name}:", *sum(found, [])] if any(found) else []
    return lines


def mean_iou(result, rule):
    """In %."""
    return 100 * result["labels"][rule]["mean_iou"]


def stuff_iou(result, rule):
    """Mean IoU of the classes that are no objects, in %."""
    iou, objects = result["labels"][rule]["iou"], result["ap"]["0.5"]
    return 100 * np.nanmean([iou[name] for name in iou if name not in objects])


def precision(result, threshold):
    """Mean average precision of objects, in %."""
    return 100 * np.nanmean(list(result["ap"][threshold].values()))


if __name__ == "__main__":
    main()
