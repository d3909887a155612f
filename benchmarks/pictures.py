"""Classes and inner units of two networks, each judged by the other, in one table.

    python benchmarks/pictures.py squeezenet.keras efficientnet.keras \\
        --preprocess caffe tf \\
        --layer fire5_expand3x3 block4_project_conv \\
        --photos imagenet_sample1000_256.npz --out out/pictures

Runs train/visualize.py for twenty-four classes of ImageNet with the features of
photographs, and without; for twelve of them, and eight channels of a layer, under white
noise; what is done is not done again, and --run names some alone. Settings were chosen
by twelve of the classes, CLASSES; OTHERS are others, fixed before any was drawn. It
takes hours on two cores, about two minutes a class.

own         share of the samples that their network calls the class
first       share that the other one calls the class; five: that it ranks so high
rank        median of the rank of the class under the other network, 0 the first
distance    of two chains, root mean square over pixels, mean over pairs; over that of
            photos of the class and of its ten neighbours among the classes of ImageNet,
            which WordNet orders by kind; coarse: of images of 16 x 16 pixels

The photos are an npz of JPEG bytes: `buf`, from `off[i]` to `off[i + 1]`, and classes
`y`. Expected: the networks call nearly all their own samples the class, and, with the
features of photographs, about half of those of the other; no run is converged.
"""

import itertools
import json
import pathlib
import subprocess
import sys

from keras_tilt.cli.flags import add_import, command_parser, folder, import_flags

# Orange, pizza, goldfish, zebra, daisy, school bus, lemon, strawberry, monarch,
# flamingo, volcano, broccoli.
CLASSES = [950, 963, 1, 340, 985, 779, 951, 949, 323, 130, 980, 937]
# Peacock, jellyfish, lion, ladybug, starfish, banana, pineapple, mushroom, castle,
# balloon, fire engine, teapot.
OTHERS = [84, 107, 291, 301, 327, 954, 953, 947, 483, 417, 555, 849]
RUNS = ("photographs", "spectral", "white", "spectral_inner", "white_inner")


def parse_flags():
    """The command line."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("networks", nargs=2, type=pathlib.Path, help=".keras files")
    add_import(add)
    add("--preprocess", nargs=2, default=["none"] * 2, help="of train/visualize.py")
    add("--layer", nargs=2, required=True, help="of the inner units")
    both = [*CLASSES, *OTHERS]
    add("--classes", nargs="+", type=int, default=both, help="in both networks")
    add("--photos", type=pathlib.Path, required=True, help="npz, one of each class")
    add("--run", nargs="+", choices=RUNS, default=RUNS, help="which runs")
    add("--names", help="JSON list of the names of the classes")
    add("--seed", type=int, default=7, help="equal seeds give equal samples")
    add("--out", type=folder, default="out/pictures", help="folder")
    add("--smoke", action="store_true", help="a few short iterations")
    flags = parser.parse_args()
    if flags.networks[0].stem == flags.networks[1].stem:
        raise SystemExit(
            "Expected files of two names, after which the runs are called. Received: "
            f"{flags.networks[0]} and {flags.networks[1]}. Rename one."
        )
    return flags


if __name__ == "__main__":
    parse_flags()  # may end here, before the seconds that TensorFlow takes

import numpy as np
import tensorflow as tf
from scipy.spatial.distance import pdist

VISUALIZE = pathlib.Path(__file__).parents[1] / "train" / "visualize.py"
NUM_CHANNELS = 8
# In place of the 800 gradients of a chain that train/visualize.py makes as it comes.
OF_CLASSES = ["--chains", "2", "--max-leapfrog-steps", "18"]
OF_CLASSES += ["--burnin", "24", "--draws", "4"]
SHORT = ["--approach-step", "0.035", "--max-leapfrog-steps", "16"]
SHORT += ["--burnin", "12", "--draws", "4"]
WHITE = ["--reference", "white", "--contrast", "0.12"]
NEIGHBOURS = 5  # on either side of a class
COARSE = 16  # pixels along an edge, as in train/visualize.py


def main():
    """Run by run, one table each, all numbers as JSON."""
    flags = parse_flags()
    photos = Photos(flags.photos)
    photos.write(flags.out / "photographs")
    found, failed = {}, []
    for name, command in runs(flags).items():
        if subprocess.run(command).returncode:
            failed.append(name)  # and it said why: perhaps it left out a unit
        if (flags.out / name / "summary.json").is_file():
            found[name] = summary_of(flags.out / name, photos)
    if not found:
        raise SystemExit("Expected samples. Received: none, for the reasons above.")
    (flags.out / "pictures.json").write_text(json.dumps(found, indent=1) + "\n")
    for name, run in found.items():
        print(f"\n{name}\n{table(run['units'])}")
    print(f"\nNumbers: {flags.out / 'pictures.json'}, beside the folders of pictures")
    if failed:
        raise SystemExit(f"With errors, see above: {', '.join(failed)}")


def runs(flags):
    """The commands of all runs by their names."""
    commands = {}
    for i, network in enumerate(flags.networks):
        common = [sys.executable, VISUALIZE, network, "--seed", str(flags.seed)]
        common += ["--preprocess", flags.preprocess[i]]
        common += ["--smoke"] * flags.smoke + import_flags(flags.modules)
        classes = ["--judge", flags.networks[1 - i]]
        classes += ["--judge-preprocess", flags.preprocess[1 - i]]
        classes += ["--names", flags.names] if flags.names else []
        for label in flags.classes:
            classes += ["--unit", f"class:{label}"]
        channels = ["--unit", f"{flags.layer[i]}:0-{NUM_CHANNELS - 1}"]
        as_photographs = ["--photographs", flags.out / "photographs"]
        settings_of = {
            "photographs": [*classes, *OF_CLASSES, *as_photographs],
            "spectral": [*classes, *OF_CLASSES],
            "white": [*classes, *SHORT, *WHITE, "--sizes", "1", "--signal", "0.1"],
            "spectral_inner": [*channels, *SHORT],
            "white_inner": [*channels, *SHORT, *WHITE],
        }
        for name, settings in settings_of.items():
            if name not in flags.run:
                continue
            run = f"{network.stem}_{name}"
            commands[run] = [*common, *settings, "--out", flags.out / run]
    return commands


class Photos:
    """Photos by their classes, and how far apart those of one kind are."""

    def __init__(self, path):
        with np.load(path) as arrays:
            self.bytes, self.starts = arrays["buf"], arrays["off"]
            labels = arrays["y"]
        self.place = {int(label): i for i, label in enumerate(labels)}

    def write(self, folder):
        """As files, which train/visualize.py reads."""
        folder.mkdir(parents=True, exist_ok=True)
        for place, (first, last) in enumerate(itertools.pairwise(self.starts)):
            data = self.bytes[first:last].tobytes()
            (folder / f"{place:04d}.jpg").write_bytes(data)

    def of_kind(self, label):
        """Of a class and its neighbours, [n, height, width, 3], 0 ... 255."""
        kind = range(label - NEIGHBOURS, label + NEIGHBOURS + 1)
        return tf.stack([self.image(self.place[k]) for k in kind if k in self.place])

    def image(self, place):
        """[height, width, 3]."""
        first, last = self.starts[place : place + 2]
        return tf.io.decode_jpeg(self.bytes[first:last].tobytes(), channels=3)


def distances(images, size):
    """Of images as large as the samples, and of coarse ones."""
    found = []
    for edges in (size, (COARSE, COARSE)):
        resized = tf.image.resize(images, edges, antialias=True).numpy()
        flat = resized.reshape(len(resized), -1)
        found.append(float(np.mean(pdist(flat)) / np.sqrt(flat.shape[1])))
    return found


def summary_of(run, photos):
    """What was found for each unit of a run, and how it was made."""
    reports = json.loads((run / "summary.json").read_text())
    settings = {k: v for k, v in reports[0]["settings"].items() if k != "unit"}
    units = [unit_of(run, report, photos) for report in reports]
    return {"settings": settings, "units": units}


def unit_of(run, report, photos):
    """The numbers of one unit."""
    samples = report["images"]["samples"]
    keys = ("name", "scale", "verdict", "r_hat", "accept_rate", "f_of_q", "seconds")
    unit = {key: report[key] for key in keys} | {"f": samples["f"]}
    for name in ("own", "judge"):
        if name in samples:
            unit[f"{name}_rank"] = samples[name]["rank"]
    with np.load(run / folder_of(report["unit"]) / "numbers.npz") as numbers:
        images = numbers["images"]
    far = distances(images, images.shape[1:3])
    if report["unit"].startswith("class:"):
        kind = photos.of_kind(int(report["unit"][6:]))
        far = np.divide(far, distances(kind, images.shape[1:3])).tolist()
    return unit | dict(zip(("distance", "coarse_distance"), far, strict=True))


def folder_of(unit):
    """As train/visualize.py names it."""
    return unit.replace("/", "_").replace(":", "_")


def shares(ranks):
    """Share first, share among five, median rank."""
    ranks = np.array(ranks)
    return np.mean(ranks == 0), np.mean(ranks < 5), np.median(ranks)


def table(units):
    """One line per unit, then the medians over units and the means."""
    heads = ("own", "first", "five", "rank", "distance", "coarse", "R-hat")
    lines = [f"{'':<16}{'scale':>7}" + "".join(f"{head:>10}" for head in heads)]
    rows = np.array([row_of(unit) for unit in units])
    for unit, row in zip(units, rows, strict=True):
        lines.append(line(unit["name"], f"{unit['scale']:g}", row))
    lines.append(line("median", "", np.median(rows, axis=0)))
    lines.append(line("mean", "", np.mean(rows, axis=0)))
    return "\n".join(lines)


def row_of(unit):
    """Its numbers in the order of the heads; NaN where there is none."""
    own = shares(unit["own_rank"])[0] if "own_rank" in unit else np.nan
    judge = shares(unit["judge_rank"]) if "judge_rank" in unit else [np.nan] * 3
    return [own, *judge, unit["distance"], unit["coarse_distance"], unit["r_hat"]]


def line(name, scale, row):
    return f"{name:<16}{scale:>7}" + "".join(f"{value:10.2f}" for value in row)


if __name__ == "__main__":
    main()
