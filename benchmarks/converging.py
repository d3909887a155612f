"""Units of a network whose chains converge, and what that costs beside a picture.

    keras-tilt reference tiny-imagenet-100 --components --latent-size 600 --out q.keras
    python benchmarks/converging.py squeezenet.keras efficientnet_lite0.keras \\
        --preprocess caffe tf --reference latent:q.keras --screen 2048 \\
        --classes 912 974 766 --layer fire5_expand3x3 --out out/converging

Runs train/visualize.py --until-converged: for classes under a learned reference, and
for ten channels of a layer, on the pixels that they see, under 1/f noise. The classes
are judged by the other network. What is done is not done again, and what is not goes on
where it was. One to two hours a class and up to ten minutes a channel, on one core.

draws       of a chain, in all
gradients   of all chains, the warm-up included
picture     gradients of all chains until the mean of f over them is within a standard
            deviation of that of the draws: the image is there, its law is not
bill        gradients / picture

--screen says beforehand which classes may converge as something that both networks call
so. It takes draws of the reference alone, and weights w = p(class | x)^a of the first
network, with a such that the weighted draws are 3.3 nats from the others: what a weak
tilt does, as far as so few draws can tell.

five        share of the draws that the other network ranks among its five
weighted    the same of the weighted draws
"""

import json
import pathlib
import subprocess
import sys

from keras_tilt.cli.flags import add_import, command_parser, folder, import_flags

NATS = 3.3  # from the reference: 2,048 draws are then worth some 75


def parse_flags():
    """The command line."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("networks", nargs=2, type=pathlib.Path, help=".keras files: drawn, and judge")
    add_import(add)
    add("--preprocess", nargs=2, default=["none"] * 2, help="of train/visualize.py")
    add("--reference", required=True, help="latent:FILE.keras, of the classes")
    add("--screen", type=int, default=0, help="draws for it; none by default")
    add("--classes", nargs="*", type=int, default=[], help="to be drawn")
    add("--layer", help="of the inner units, which are left out without it")
    add("--channels", default="0-9", help="of that layer")
    add("--max-minutes", nargs=2, default=["120", "10"], help="a class, a channel")
    add("--seed", type=int, default=7, help="equal seeds give equal samples")
    add("--out", type=folder, default="out/converging", help="folder")
    add("--smoke", action="store_true", help="weak tilts, and a few draws")
    return parser.parse_args()


if __name__ == "__main__":
    parse_flags()  # may end here, before the seconds that TensorFlow takes

import keras_tilt as kt
import numpy as np
from keras_tilt.cli import named
from keras_tilt.cli.jobs.pictures.judges import Judge
from scipy.optimize import brentq
from scipy.special import logsumexp
from tqdm.auto import tqdm

VISUALIZE = pathlib.Path(__file__).parents[1] / "train" / "visualize.py"
KEPT_MOMENTA = ["--leapfrog-steps", "8", "--momentum-persistence", "0.8"]
OF_CLASSES = ["--sizes", "1", "--scale", "1", "--draws", "200", "--burnin", "150"]
OF_CHANNELS = ["--contrast", "0.1", "--signal", "0.05"]
OF_CHANNELS += ["--draws", "100", "--burnin", "100"]
FEW = ["--scale", "0.001", "--draws", "20", "--burnin", "20", "--approach-step", "0.5"]
AT_ONCE = 32  # draws of the screen
LISTED = 20  # classes of the screen
FEW_UNITS = 4  # have a row each in the picture
KEYS = ("converged", "scale", "f_of_q", "num_draws", "worst_r_hat")
KEYS += ("smallest_ess", "accept_rate", "step_size", "draws")


def main():
    """The screen, classes, channels: tables, pictures, and all numbers as JSON."""
    flags = parse_flags()
    found = {}
    if flags.screen:
        found["screen"] = screened(flags)
        print(screen_table(found["screen"]), flush=True)
    for kind, command in runs(flags).items():
        failed = subprocess.run(command).returncode
        if failed:
            raise SystemExit(failed)  # and it said why
        found[kind] = units_of(flags.out / kind)
        save_picture(flags.out / kind, found[kind])
        print(f"\n{kind}\n{table(found[kind])}")
    flags.out.mkdir(parents=True, exist_ok=True)
    path = flags.out / "converging.json"
    before = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(before | found, indent=1) + "\n")
    print(f"\nNumbers: {path}, beside the folders of pictures")


# The screen


def screened(flags):
    """The classes on which the networks agree most, [{class, five, weighted}]."""
    network, other = map(named.load_network, flags.networks)
    own, judge = map(Judge, (network, other), flags.preprocess)
    shape = network.input_shape[1:]
    reference = named.noise(flags.reference, shape, 0.0, 255.0, 0.1, 1.5, 45.0)
    log_p, ranks = [], []
    for first in tqdm(range(0, flags.screen, AT_ONCE), "screen"):
        number = min(AT_ONCE, flags.screen - first)
        images = reference.sample(number, seed=[first, flags.seed])
        log_p.append(np.log(np.maximum(own(images), 1e-30)))
        outputs = judge(images)
        order = np.argsort(-outputs, axis=1)
        ranks.append(np.argsort(order, axis=1))
    log_p, five = np.concatenate(log_p), np.concatenate(ranks) < 5
    rows = [
        {
            "class": index,
            "five": float(np.mean(five[:, index])),
            "weighted": float(weights(log_p[:, index]) @ five[:, index]),
        }
        for index in range(log_p.shape[1])
    ]
    return sorted(rows, key=lambda row: -row["weighted"])[:LISTED]


def weights(log_p):
    """w = p^a / sum, a number of nats from equal weights; a is 100 at most."""

    def tilted(a):
        return np.exp(a * log_p - logsumexp(a * log_p))

    def excess(a):
        w = tilted(a)
        return np.sum(w * np.log(np.maximum(w * len(w), 1e-30))) - NATS

    return tilted(brentq(excess, 0.0, 100.0) if excess(100.0) > 0 else 100.0)


def screen_table(rows):
    """A line for each class."""
    lines = [f"{'class':>6}{'five':>8}{'weighted':>10}"]
    lines += [
        f"{row['class']:>6}{row['five']:>8.2f}{row['weighted']:>10.2f}" for row in rows
    ]
    return "\n".join(lines)


# The runs


def runs(flags):
    """The commands by the names of their folders."""
    common = [sys.executable, VISUALIZE, flags.networks[0], "--until-converged"]
    common += ["--preprocess", flags.preprocess[0], "--seed", str(flags.seed)]
    common += KEPT_MOMENTA + import_flags(flags.modules)
    few = FEW if flags.smoke else []
    classes = [part for c in flags.classes for part in ("--unit", f"class:{c}")]
    classes += [*OF_CLASSES, *few, "--reference", flags.reference]
    classes += ["--max-minutes", flags.max_minutes[0], "--judge", flags.networks[1]]
    classes += ["--judge-preprocess", flags.preprocess[1]]
    channels = ["--unit", f"{flags.layer}:{flags.channels}"]
    channels += [*OF_CHANNELS, *few, "--max-minutes", flags.max_minutes[1]]
    commands = {"classes": classes} if flags.classes else {}
    commands |= {"channels": channels} if flags.layer else {}
    return {
        kind: [*common, *command, "--out", flags.out / kind]
        for kind, command in commands.items()
    }


def units_of(run):
    """What was found for each unit of a run."""
    return [
        unit_of(report, run / report["unit"].replace("/", "_").replace(":", "_"))
        for report in json.loads((run / "summary.json").read_text())
    ]


def unit_of(report, folder):
    """The numbers of one unit, and what they cost."""
    with np.load(folder / "numbers.npz") as numbers:
        f = numbers["f"]  # of all iterations, [iterations, chains]
    draws = f[-report["num_draws"] :]
    low = draws.mean() - draws.std()
    reached = int(np.argmax(f.mean(axis=1) >= low)) + 1
    per_iteration = report["num_leapfrog_steps"] * f.shape[1]
    return {key: report[key] for key in ("name", "verdict", *KEYS)} | {
        "folder": folder.name,
        "mean_f": float(draws.mean()),
        "gradients": len(f) * per_iteration,
        "picture_gradients": reached * per_iteration,
        "bill": len(f) / reached,
    }


def save_picture(run, units):
    """Draws of two chains of each unit, and the means of both: a row, or a column."""
    pictures, titles = [], []
    for unit in units:
        with np.load(run / unit["folder"] / "numbers.npz") as numbers:
            draws, means = numbers["images"][:2], numbers["means"][:2]
        stretched = 255 * (means - means.min()) / max(np.ptp(means), 1e-6)
        pictures.append([*np.clip(draws, 0, 255), *stretched])
        titles.append([unit["name"], "", *["mean of the chain"] * len(means)])
    pictures, titles = np.array(pictures), np.array(titles)
    if len(units) > FEW_UNITS:
        pictures, titles = np.swapaxes(pictures, 0, 1), titles.T
        titles[2:] = ""
    kt.plotting.image_grid(
        pictures.reshape(-1, *pictures.shape[2:]),
        columns=pictures.shape[1],
        low=0,
        high=255,
        titles=titles.ravel(),
        inches=1.2 if len(units) > FEW_UNITS else 2.0,
    ).savefig(run / "overview.png", dpi=110)


def table(units):
    """One line per unit."""
    heads = ("draws", "gradients", "picture", "bill", "R-hat", "ESS")
    lines = [f"{'':<20}" + "".join(f"{head:>11}" for head in heads) + "  judge's five"]
    for unit in units:
        judge = unit["draws"].get("judge")
        numbers = f"{unit['num_draws']:11,}{unit['gradients']:11,}"
        numbers += f"{unit['picture_gradients']:11,}{unit['bill']:11.0f}"
        numbers += f"{unit['worst_r_hat']:11.4f}{unit['smallest_ess']:11.0f}"
        five = f"{judge['among_five']:14.0%}" if judge else f"{'-':>14}"
        mark = "" if unit["converged"] else "  not converged"
        lines.append(f"{unit['name'][:19]:<20}{numbers}{five}{mark}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
