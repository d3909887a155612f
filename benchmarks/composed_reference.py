"""Classes of ImageNet under a layout learned from small photographs, with noise on top.

    x = squash(middle + share (up(q(z)) - middle) + noise),    z ~ N(0, I)

up enlarges the images of a small generator to those of the network, bicubically; the
noise is that of train/visualize.py, as are the sizes at which a class is read and the
features of photographs. Beside it the same without the layout, at the same scale.

    keras-tilt reference SMALL --size 32 --principal --latent-size 128 --stddev 0.1 \\
        --epochs 10 --batch-size 128 --seed 7 --out q.keras
    python benchmarks/composed_reference.py NETWORK.keras q.keras --photographs DIR \\
        --preprocess caffe --judge OTHER.keras --judge-preprocess tf

own, judge  ranks of the class among those of the network, and of the other one: 0 is
            the first
R-hat       of f

SMALL is a folder of photographs, with a folder for each class. Five minutes on two
cores, and as many for the generator. Expected: without the layout all draws are their
class for the network; with it edges of the small images show in some, not all are their
class, and the judge knows about as few.
"""

import json
import pathlib

from keras_tilt.cli.flags import (
    CONTRASTS,
    MODES,
    add_import,
    command_parser,
    count,
    folder,
    positive,
)


def parse_flags():
    """The command line."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("network", type=pathlib.Path, help=".keras file")
    add("generator", type=pathlib.Path, help=".keras file of keras-tilt reference")
    add_import(add)
    add("--preprocess", choices=MODES, default="none", help="of the network's pixels")
    add("--judge", type=pathlib.Path, required=True, help=".keras file of another one")
    add("--judge-preprocess", choices=MODES, default="none", help="of its pixels")
    add("--photographs", required=True, help="folder, or .npz")
    add("--classes", nargs="+", type=int, default=[1, 340, 130], help="in both")
    add("--share", type=positive, default=0.4, help="of the contrast of the layout")
    add("--scale", type=positive, default=50.0, help="of the tilt")
    add("--chains", type=count, default=2, help="of each class")
    add("--burnin", type=count, default=24, help="iterations before the draws")
    add("--seed", type=int, default=7, help="equal seeds give equal numbers")
    add("--out", type=folder, default="out/composed_reference", help="folder")
    add("--smoke", action="store_true", help="a few short iterations")
    return parser.parse_args()


if __name__ == "__main__":
    parse_flags()  # may end here, before the seconds that TensorFlow takes

import keras
import keras_tilt as kt
import numpy as np
import tensorflow as tf
from keras_tilt.cli import named, process
from keras_tilt.cli.jobs.pictures import judges, photographs
from keras_tilt.cli.visualize import SIZES

LOW, HIGH = 0.0, 255.0  # pixels
MIDDLE = (LOW + HIGH) / 2
EXPONENT, CYCLES = 1.5, 45  # of the noise of train/visualize.py
WEIGHT = 24_000.0  # of the features, as there
DRAWS = 4


def main():
    """Class by class under both references, one picture and one table."""
    flags = parse_flags()
    process.use_modules(flags.modules)
    network = named.load_network(flags.network)
    generator = keras.models.load_model(flags.generator)
    asked = judges.judges_of(
        network, flags.preprocess, flags.judge, flags.judge_preprocess
    )
    sizes = SIZES[:1] if flags.smoke else SIZES
    how = flags.preprocess, sizes, (LOW, HIGH), WEIGHT, flags.out
    plausible = photographs.fitted(network, flags.network, flags.photographs, *how).unit
    shape = network.input_shape[1:]
    references = {
        "layout": over_layout(shape, generator, flags.share),
        "noise": named.noise("spectral", shape, LOW, HIGH, CONTRASTS[False]),
    }
    found, pictures = {}, []
    for name, q in references.items():
        pictures.append(q.sample(len(flags.classes) * flags.chains, seed=[0, 3]))
        drawn = []
        for label in flags.classes:
            unit = named.unit_of(
                network, f"class:{label}", flags.preprocess, sizes, 4.0, True
            )
            both = unit + plausible / flags.scale
            samples = draws(kt.Tilt(both, q, flags.scale), flags)
            drawn.append(np.asarray(samples.images[-1]))
            told = judges.judged(drawn[-1], unit, f"class:{label}", asked, LOW, HIGH)
            told |= {"r_hat": samples.diagnostics.r_hat}
            found[f"{name}, class {label}"] = told
            print(line(name, label, told), flush=True)
        pictures.append(np.concatenate(drawn))
    grid = kt.plotting.image_grid(
        np.concatenate(pictures), columns=len(pictures[0]), low=LOW, high=HIGH
    )
    grid.savefig(flags.out / "composed_reference.png")
    path = flags.out / "composed_reference.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(f"Numbers: {path}, beside the picture: rows of a reference and its draws")


def over_layout(shape, generator, share):
    """The noise of `named.noise` over a layout, in the same squash."""

    def layout(z):
        large = tf.image.resize(generator(z), shape[:2], "bicubic")
        return MIDDLE + share * (large - MIDDLE)

    contrast, fade = CONTRASTS[False] * (HIGH - LOW), CYCLES / max(shape[:2])
    noise = kt.spectral_noise(shape, 0.0, contrast, EXPONENT, cutoff=fade)
    both = kt.sum_of(kt.latent(layout, generator.input_shape[1:]), noise)
    return kt.squash(both, LOW, HIGH, scale=0.3 * (HIGH - LOW), law="student")


def draws(tilt, flags):
    """Chains with a warm-up as of train/visualize.py, in smaller steps."""
    burnin = 4 if flags.smoke else flags.burnin
    return kt.sample(
        tilt,
        flags.chains,
        DRAWS,
        burnin,
        seed=flags.seed,
        approach_step_size=0.03,
        max_leapfrog_steps=2 if flags.smoke else 18,
    )


def line(name, label, told):
    """A line of the table."""
    ranks = f"own {told['own']['rank']}  judge {told['judge']['rank']}"
    return f"{name:<8}class {label:<5}{ranks}  R-hat {told['r_hat']:.2f}"


if __name__ == "__main__":
    main()
