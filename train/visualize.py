"""Draws what any units of a trained network want: samples of their densities.

    p(x) = exp(scale f(x)) q(x) / Z,     f: a class, or a channel of a layer

    python train/visualize.py MODEL.keras --unit class:963 --unit fire5_expand3x3:0-7 \\
        --preprocess caffe --out out/pizza
    python train/visualize.py out/demo/models/gg-dg-seed0-epoch25.keras \\
        --unit class:0-9 --unit conv2:0-7 --sizes 1 --out out/digits

Every unit gets a folder with numbers.npz, then images.png, traces.png and report.json,
with the verdict on convergence; all of one size together overview_HxW.png, and all
summary.json. A run that was interrupted goes on where it was; units that are done are
not sampled again.

A class is read as the mean over several sizes of the image of its logit and, weighted,
its log posterior (Dai, Lu, Wu 2015 take the logit at one size). That is what makes the
class visible: see README. A channel is read on its receptive field. Pixels are those
that the network, or its --preprocess, takes: --low and --high say which. The scale of
the tilt follows from --signal, the share of the noise's norm that the tilt moves it by.

Expected for an ImageNet network of 224 x 224 pixels with the defaults: the network
calls its draws the class; a verdict of "not converged". About five minutes for a class
of four chains on two cores.
"""

import argparse
import hashlib
import json
import math
import pathlib
import sys
import time

from keras_tilt.cli.flags import (
    MODES,
    add_import,
    add_names,
    add_pixels,
    add_reference,
    add_units,
    check_units,
    count,
    folder,
    positive,
)

# Of the norm of the noise. A patch has few pixels, and its noise little to hide a unit.
SIGNAL_OF_IMAGE, SIGNAL_OF_PATCH = 0.14, 0.6
SIZES = (1.0, 0.7, 0.5, 0.35)  # of the image


def parse_flags():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("model", type=pathlib.Path, help=".keras file of a network of images")
    add_import(add)
    add_units(add)
    add("--out", type=folder, default="out/units", help="folder")
    add_pixels(add)
    add_reference(add)
    add(
        "--sizes",
        type=positive,
        nargs="+",
        help="of the image at which a class is read, 1 as the network takes it; if it "
        f"is not given, those of {' '.join(map(str, SIZES))} that the network can take",
    )
    add("--posterior-weight", type=float, default=2.0, help="of log p(class | x)")
    add(
        "--signal",
        type=float,
        help="share that the tilt moves noise by; if it is not given, "
        f"{SIGNAL_OF_IMAGE} for units of the whole image, else {SIGNAL_OF_PATCH}",
    )
    add("--scale", type=float, help="of the tilt instead, in place of --signal")
    add("--chains", type=count, default=4, help="for each unit")
    add("--draws", type=count, default=10, help="of each chain")
    add(
        "--burnin",
        type=count,
        default=30,
        help="iterations before the first draw",
    )
    add("--approach-step", type=float, default=0.06, help="while the tilt rises")
    add(
        "--max-leapfrog-steps",
        type=count,
        default=20,
        help="gradients per iteration",
    )
    add(
        "--compare",
        choices=("langevin", "maximisation"),
        nargs="+",
        default=[],
        help="with as many gradients, beside the samples",
    )
    add_names(add)
    add(
        "--judge", type=pathlib.Path, help=".keras file of another network, for classes"
    )
    add("--judge-preprocess", choices=MODES, default="none", help="of its pixels")
    add("--seed", type=int, default=7, help="equal seeds give equal samples")
    add("--smoke", action="store_true", help="two chains, a few short iterations")
    parser.set_defaults(scale_step=0.1)  # of the leapfrog that finds the scale
    flags = parser.parse_args()
    check_units(parser, flags)
    if flags.smoke:
        flags.chains, flags.draws, flags.burnin, flags.max_leapfrog_steps = 2, 4, 6, 2
        flags.approach_step, flags.sizes = 0.5, flags.sizes and flags.sizes[:2]
        flags.scale_step = 0.4
    return flags


if __name__ == "__main__":
    parse_flags()  # may end here, before the seconds that TensorFlow takes

import keras_tilt as kt
import numpy as np
import tensorflow as tf
from scipy.spatial.distance import pdist
from tqdm.auto import tqdm

from keras_tilt.cli import named
from keras_tilt.networks import graph

COARSE = 16  # pixels along an edge of the images whose distances are compared
KEPT = 10  # states of each chain


def main():
    """The pictures, which the same command goes on with if they are interrupted."""
    try:
        visualize(parse_flags())
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on from here.", file=sys.stderr)
        sys.exit(130)


def visualize(flags):
    """Samples unit by unit, numbers first; then one picture and one table of all."""
    with named.as_exit():
        named.use_modules(flags.modules)
        network = load_network(flags.model)
        if flags.list:
            print(named.layer_table(network))
            return
        flags.low, flags.high, reason = named.pixel_range(
            network, flags.low, flags.high, flags.preprocess
        )
        print(
            f"Pixels: black {flags.low:g}, white {flags.high:g}, {reason}", flush=True
        )
        judges = judges_of(network, flags)
        names = named.names_of(flags.names, flags.model, named.num_classes(network))
        labels = named.labels(flags.unit, network, names)
        flags.sizes = sizes_of(network, labels, flags)
        units = units_of(network, labels, flags)
    found, left_out = [], []
    for label, unit in units.items():
        name = names.get(named.class_number(label), label)
        try:
            signal = signal_of(unit, network, flags)
            found.append(visualized(unit, label, name, signal, judges, flags))
        except ValueError as error:  # of one unit: the others may well have samples
            left_out.append(f"{label} is left out. {error}")
            continue
        overviews = save_overview(flags.out, found)
    if not found:
        raise SystemExit("\n".join(left_out))
    print(table(found))
    print(f"\nPictures: {', '.join(overviews)}, and in the folder of each unit")
    print(f"Numbers:  {flags.out / 'summary.json'}")
    if left_out:
        raise SystemExit("\n".join(left_out))


# The units


def sizes_of(network, labels, flags):
    """Sizes at which classes are read: those asked for, or those that can be."""
    if flags.sizes:
        return flags.sizes
    wanted = list(SIZES[:2] if flags.smoke else SIZES)
    if all(named.class_number(label) is None for label in labels):
        return wanted
    found = named.readable_sizes(network, wanted, flags.preprocess)
    if others := [f"{size:g}" for size in wanted if size not in found]:
        print(
            f"Sizes: classes are read at {' '.join(f'{size:g}' for size in found)} of "
            f"the image alone, as the network does not take {' '.join(others)} of it",
            flush=True,
        )
    return found


def units_of(network, labels, flags):
    """All units by their labels, before any is sampled."""
    return {
        label: named.unit_of(
            network, label, flags.preprocess, flags.sizes, flags.posterior_weight
        )
        for label in labels
    }


def load_network(path):
    """The network of logits, without a calibration."""
    model = named.load_model(path)
    return graph.network_of(model)


def judges_of(network, flags):
    """The network itself, and another one if there is one; or a plain exit."""
    own = Judge(network, flags.preprocess)
    judges = {"own": own} if own.num_classes > 1 else {}
    if not flags.judge:
        return judges
    judge = Judge(load_network(flags.judge), flags.judge_preprocess)
    if not judge.num_classes == own.num_classes > 1:
        raise ValueError(
            f"Expected a --judge of the {own.num_classes} classes of the network, two "
            f"or more. Received: one of {judge.num_classes}. Leave it out."
        )
    return judges | {"judge": judge}


class Judge:
    """What a network calls images of any size."""

    def __init__(self, network, mode):
        self.network, self.preprocess = network, named.preprocessing(mode)
        self.num_classes = named.num_classes(network) or 0  # of several outputs

    def __call__(self, images):
        """Outputs, [n, classes]."""
        size = self.network.input_shape[1:3]
        resized = tf.image.resize(images, size, antialias=True)
        return self.network(self.preprocess(resized), training=False).numpy()


# Sampling


def signal_of(unit, network, flags):
    """The share asked for, or one that suits an image or a patch of it."""
    if flags.signal is not None:
        return flags.signal
    is_whole = unit.input_shape == network.input_shape[1:]
    return SIGNAL_OF_IMAGE if is_whole else SIGNAL_OF_PATCH


def visualized(unit, label, name, signal, judges, flags):
    """Report and images of one unit: those of before, or new ones."""
    folder = flags.out / label.replace("/", "_").replace(":", "_")
    settings = settings_of(flags) | {"unit": label}
    if (folder / "report.json").is_file():
        return visualized_before(folder, settings)
    print(f"{label} {name if name != label else ''}".strip(), flush=True)
    start = time.monotonic()
    tilt = scaled_tilt(unit, signal, flags)
    samples = kt.sample(
        tilt,
        flags.chains,
        flags.draws,
        flags.burnin,
        seed=flags.seed,
        approach_step_size=flags.approach_step,
        max_leapfrog_steps=flags.max_leapfrog_steps,
        thin=thinning(flags.draws),
        directory=folder / "run",
    )
    check_whole(samples, flags.draws)
    images = {"samples": np.asarray(samples.images[-1])}
    num_gradients = flags.burnin * flags.max_leapfrog_steps
    num_gradients += flags.draws * samples.num_leapfrog_steps
    for method in flags.compare:
        images[method] = METHODS[method](tilt, num_gradients, flags)
    report = {
        "unit": label,
        "name": name,
        "settings": settings,
        "scale": tilt.scale,
        "seconds": round(time.monotonic() - start),
        "f_of_q": mean_under_q(tilt, flags),
        **numbers_of(samples),
        "images": {
            method: judged(of_method, unit, label, judges, flags)
            for method, of_method in images.items()
        },
    }
    save(folder, report, images, samples, flags)
    return report, images["samples"]


def settings_of(flags):
    """What samples depend on: the flags, and what is in the files they name."""
    files = {"model": flags.model, "judge": flags.judge}
    digests = {
        f"sha256 of {key}": hashlib.sha256(path.read_bytes()).hexdigest()
        for key, path in files.items()
        if path
    }
    return digests | {
        key: str(value)
        for key, value in sorted(vars(flags).items())
        if key not in ("unit", "list", "out", "names", "modules", *files)
    }


def visualized_before(folder, settings):
    """Report and images of a unit that is done, or a plain exit."""
    report = json.loads((folder / "report.json").read_text())
    if report["settings"] != settings:
        raise SystemExit(
            f"Expected a folder of this run. Received: {folder}, which holds one with "
            f"another {', '.join(differing(report['settings'], settings))}. "
            "Pass another --out."
        )
    with np.load(folder / "numbers.npz") as numbers:
        return report, numbers["images"]


def differing(one, other):
    """The names of what two settings do not share."""
    return sorted(k for k in one | other if one.get(k) != other.get(k))


def thinning(num_draws):
    """Every how many draws the state is kept: at most KEPT are, if that divides."""
    divisors = [t for t in range(1, num_draws + 1) if num_draws % t == 0]
    return next(t for t in divisors if num_draws // t <= KEPT)


def scaled_tilt(unit, signal, flags):
    """The tilt, as strong as asked for."""
    reference = named.noise(
        flags.reference,
        unit.input_shape,
        flags.low,
        flags.high,
        flags.contrast,
        flags.exponent,
    )
    if flags.scale is not None:
        return kt.Tilt(unit, reference, flags.scale)
    tilt = kt.Tilt(unit, reference)
    return kt.scale_for_signal(
        tilt, signal, seed=flags.seed, num_chains=2, step_size=flags.scale_step
    )


def check_whole(samples, num_draws):
    """Go on with the interruption after which sampling returned what there was."""
    if len(samples.f) < num_draws:
        raise KeyboardInterrupt


def langevin(tilt, num_gradients, flags):
    """Images at the end of Metropolis-adjusted Langevin chains."""
    half = max(4, num_gradients // 2)
    samples = kt.sample(
        tilt, flags.chains, half, half, seed=flags.seed, kernel="mala", thin=half
    )
    check_whole(samples, half)
    return np.asarray(samples.images[-1])


def maximisation(tilt, num_gradients, flags):
    """Images after plain gradient ascent on f, in steps of one pixel unit rms."""
    images = tf.Variable(tilt.reference.sample(flags.chains, seed=[0, flags.seed]))
    step = (flags.high - flags.low) / 255

    @tf.function
    def ascend():
        with tf.GradientTape() as tape:
            f = tilt.response(images)
        gradient = tape.gradient(f, images)
        size = tf.sqrt(tf.reduce_mean(gradient**2, axis=[1, 2, 3], keepdims=True))
        images.assign_add(step * tf.math.divide_no_nan(gradient, size))

    for _ in tqdm(range(num_gradients), "maximisation"):
        ascend()
    return images.numpy()


METHODS = {"langevin": langevin, "maximisation": maximisation}


# The report


def mean_under_q(tilt, flags):
    """f of untilted noise."""
    images = tilt.reference.sample(4 * flags.chains, seed=[1, flags.seed])
    return float(tf.reduce_mean(tilt.response(images)))


def numbers_of(samples):
    """What a unit's samples are judged by."""
    diagnostics = samples.diagnostics
    return {
        "verdict": diagnostics.verdict,
        "r_hat": diagnostics.r_hat,
        "worst_r_hat": diagnostics.worst_r_hat,
        "ess": diagnostics.ess,
        "accept_rate": diagnostics.accept_rate,
        "step_size": samples.step_size,
        "num_leapfrog_steps": samples.num_leapfrog_steps,
        "f": [float(f) for f in samples.f[-1]],
    }


def judged(images, unit, label, judges, flags):
    """f of images, how far they are apart, and what networks call them."""
    outside = (images < flags.low) | (images > flags.high)
    report = {
        "f": [float(f) for f in unit(tf.constant(images))],
        "outside": float(np.mean(outside)),
        "distance": distance(images),
        "coarse_distance": distance(
            tf.image.resize(images, [COARSE, COARSE], antialias=True).numpy()
        ),
    }
    index = named.class_number(label)
    if index is None:
        return report
    for name, judge in judges.items():
        outputs = judge(images)
        higher = np.sum(outputs > outputs[:, index : index + 1], axis=1)
        report[name] = {
            "rank": higher.tolist(),
            "output": [float(value) for value in outputs[:, index]],
            "called": np.argmax(outputs, axis=1).tolist(),
        }
    return report


def distance(images):
    """Mean over pairs of the root mean square difference of their pixels."""
    flat = images.reshape(len(images), -1)
    if len(flat) < 2:
        return math.nan
    return float(np.mean(pdist(flat)) / math.sqrt(flat.shape[1]))


def share(of_method, name, ranks=1):
    """Of the images that a network calls their class, or nearly; None for channels."""
    judged_by = of_method.get(name)
    return judged_by and float(np.mean(np.array(judged_by["rank"]) < ranks))


# Files


def save(folder, report, images, samples, flags):
    """Numbers, then pictures, then the report, which says that the unit is done."""
    f = np.concatenate([samples.warmup_f, samples.f])
    rest = {method: of_method for method, of_method in images.items()}
    np.savez_compressed(folder / "numbers.npz", images=rest.pop("samples"), f=f, **rest)
    names = dict.fromkeys([report["name"], report["unit"]])
    title = f"{', '.join(names)}, scale {report['scale']:g}\n{report['verdict']}"
    titles = [
        f"{method} f {value:.4g}"
        for method in images
        for value in report["images"][method]["f"]
    ]
    kt.plotting.image_grid(
        np.clip(np.concatenate(list(images.values())), flags.low, flags.high),
        columns=flags.chains,
        low=flags.low,
        high=flags.high,
        titles=titles,
        title=title,
        inches=2,
    ).savefig(folder / "images.png", dpi=110)
    kt.plotting.trace_plot(
        {report["name"]: f}, num_burnin_steps=len(samples.warmup_f), title=title
    ).savefig(folder / "traces.png", dpi=80)
    part = folder / "report.json.part"
    part.write_text(json.dumps(report, indent=1) + "\n")
    part.replace(folder / "report.json")


def save_overview(out, found):
    """A picture of all units of one size, two chains of each, and the reports."""
    reports = [report for report, _ in found]
    (out / "summary.json").write_text(json.dumps(reports, indent=1) + "\n")
    names = []
    for shape in sorted({images.shape[1:] for _, images in found}):
        chosen = [(r, i[:2]) for r, i in found if i.shape[1:] == shape]
        settings = chosen[0][0]["settings"]
        low, high = float(settings["low"]), float(settings["high"])
        titles = [r["name"] if k == 0 else "" for r, i in chosen for k in range(len(i))]
        names.append(str(out / f"overview_{shape[0]}x{shape[1]}.png"))
        kt.plotting.image_grid(
            np.clip(np.concatenate([images for _, images in chosen]), low, high),
            columns=8,
            low=low,
            high=high,
            titles=titles,
        ).savefig(names[-1], dpi=110)
    return names


def table(found):
    """One line per unit, verdict last."""
    lines = [
        "own, judge: share of the images that the network, and the judge, call the "
        "class; top 5: nearly; outside: share of the pixels beyond black or white",
        f"{'unit':<24}{'scale':>8}{'f of q':>8}{'f':>8}{'own':>6}{'judge':>7}"
        f"{'top 5':>7}{'outside':>9}{'R-hat':>7}  verdict",
    ]
    for report, _ in found:
        start = f"{report['name'][:23]:<24}{report['scale']:8g}{report['f_of_q']:8.1f}"
        end = f"{report['r_hat']:7.2f}  {report['verdict']}"
        for method, of_method in report["images"].items():
            if method != "samples":
                start, end = f"  {method:<38}", ""
            lines.append(start + columns_of(of_method) + end)
    return "\n".join(lines)


def columns_of(of_method):
    """What the table says of some images."""
    shares = [share(of_method, "own"), share(of_method, "judge")]
    shares.append(share(of_method, "judge", 5))
    own, judge, top = ("-" if s is None else f"{s:.0%}" for s in shares)
    return (
        f"{np.mean(of_method['f']):8.4g}{own:>6}{judge:>7}{top:>7}"
        f"{of_method['outside']:9.1%}"
    )


if __name__ == "__main__":
    main()
