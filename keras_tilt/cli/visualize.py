"""Draws what any units of a trained network want: samples of their densities.

    p(x) = exp(scale f(x)) q(x) / Z,     f: a class, or a channel of a layer

A class is read as the mean over several sizes of the image of its logit and, weighted,
its log posterior (Dai, Lu, Wu 2015 take the logit at one size), in views that change
early in the warm-up. With --photographs its draws have features such as theirs,
p(x) = exp(scale f(x) + g(x)) q(x) / Z. That is what makes the class visible. A channel
is read on its receptive field. Pixels are those that the network, or its --preprocess,
takes: --low and --high say which. The scale of the tilt follows from --signal, the
share of the noise's norm that the tilt moves it by.

Every unit gets a folder with numbers.npz, then images.png, traces.png, means.png, the
mean of each chain, and report.json, with the verdict on convergence, and far_apart.png,
the two chains that differ most, if they have not converged; all of one size together
overview_HxW.png, and all summary.json. A run that was interrupted goes on where it was.
"""

__all__ = ["main", "parse_flags"]

import argparse
import pathlib
from collections.abc import Sequence

from keras_tilt.cli.flags import (
    MODES,
    SPECTRUM,
    add_import,
    add_names,
    add_pixels,
    add_reference,
    add_units,
    check_units,
    command_parser,
    count,
    folder,
    positive,
)

# Of the norm of the noise. A patch has few pixels, and its noise little to hide a unit.
SIGNALS = (0.65, 0.6)  # of units of the whole image, and of a patch
SIZES = (1.0, 0.7, 0.5, 0.35)  # of the image
METHODS = ("langevin", "maximisation")
# What the drawing is given of the flags.
STEPS = ("approach_step", "max_leapfrog_steps", "leapfrog_steps")
CHAINS = ("chains", "draws", "burnin", *STEPS, "momentum_persistence", "compare")
UNTIL = ("until_converged", "max_minutes")
DRAWING = ("reference", *SPECTRUM, "scale", "scale_step", *CHAINS, *UNTIL, "seed")
# What no sample depends on, or what counts by the bytes of a file.
NOT_OF_SAMPLES = ("unit", "list", "out", "names", "modules", "model", "judge", *UNTIL)


def parse_flags(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the flags of a command line, or end with what is wrong with them."""
    parser = command_parser(__doc__, "see", argv)
    add = parser.add_argument
    add("model", type=pathlib.Path, help=".keras file of a network of images")
    add_import(add)
    add_units(add)
    add("--out", type=folder, default="out/units", help="folder")
    add_pixels(add)
    add_reference(add)
    _add_tilt(add)
    _add_photographs(add)
    _add_chains(add)
    add_names(add)
    add(
        "--judge", type=pathlib.Path, help=".keras file of another network, for classes"
    )
    add("--judge-preprocess", choices=MODES, default="none", help="of its pixels")
    add("--seed", type=int, default=7, help="equal seeds give equal samples")
    add("--smoke", action="store_true", help="two chains, a few short iterations")
    parser.set_defaults(scale_step=0.04)  # of the leapfrog that finds the scale
    flags = parser.parse_args(argv)
    check_units(parser, flags.unit, flags.list)
    if (given := flags.photographs) and given != "digits":
        if not pathlib.Path(given).exists():
            parser.error(
                "Expected --photographs FOLDER, NAME.npz, or digits. Received: "
                f"{given}, which is not there."
            )
    if flags.smoke:
        flags.chains, flags.draws, flags.burnin, flags.max_leapfrog_steps = 2, 4, 6, 2
        flags.approach_step, flags.sizes = 0.5, flags.sizes and flags.sizes[:2]
        flags.scale_step = 0.4
    return flags


def _add_tilt(add):
    """Add how a class is read, and how strong the tilt is."""
    add(
        "--sizes",
        type=positive,
        nargs="+",
        help="of the image at which a class is read, 1 as the network takes it; if it "
        f"is not given, those of {' '.join(map(str, SIZES))} that the network can take",
    )
    add("--posterior-weight", type=float, default=4.0, help="of log p(class | x)")
    add(
        "--signal",
        type=float,
        help="share that the tilt moves noise by; if it is not given, "
        f"{SIGNALS[0]} for units of the whole image, else {SIGNALS[1]}",
    )
    add("--scale", type=float, help="of the tilt instead, in place of --signal")


def _add_photographs(add):
    """Add the images whose features the draws have."""
    add(
        "--photographs",
        metavar="FOLDER|NAME.npz|digits",
        help="images such as the network was trained on, a thousand are enough: draws "
        "of classes then have features such as theirs",
    )
    add(
        "--photographs-weight",
        type=positive,
        default=24_000.0,
        help="of the mean log density of a statistic of these features",
    )


def _add_chains(add):
    """Add how many draws there are, and what they are compared with."""
    add("--chains", type=count, default=4, help="for each unit")
    add("--draws", type=count, default=10, help="of each chain")
    add("--burnin", type=count, default=30, help="iterations before the first draw")
    add("--approach-step", type=float, default=0.05, help="early in the warm-up")
    add("--max-leapfrog-steps", type=count, default=20, help="gradients per iteration")
    add("--leapfrog-steps", type=count, help="in place of whole trajectories")
    add(
        "--momentum-persistence",
        type=float,
        default=0.0,
        help="share of the momentum that an iteration keeps, such as .8",
    )
    add(
        "--until-converged",
        action="store_true",
        help="go on until the verdict is converged; the same command goes on again",
    )
    add("--max-minutes", type=positive, default=60.0, help="of that, for each unit")
    add(
        "--compare",
        choices=METHODS,
        nargs="+",
        default=[],
        help="with as many gradients, beside the samples",
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the pictures, which the same command goes on with if it is interrupted."""
    flags = parse_flags(argv)
    from keras_tilt.cli import named, process  # with TensorFlow, which takes seconds
    from keras_tilt.cli.jobs.pictures import judges, unit_pictures

    with process.resumable():
        with process.as_exit():
            process.use_modules(flags.modules)
            network = named.load_network(flags.model)
            if flags.list:
                print(named.layer_table(network))
                return
            pixels = named.printed_range(
                network, flags.low, flags.high, flags.preprocess
            )
            asked = judges.judges_of(
                network, flags.preprocess, flags.judge, flags.judge_preprocess
            )
            number = named.num_classes(network)
            names = named.names_of(flags.names, flags.model, number)
            labels = named.labels(flags.unit, network, names)
            sizes = flags.sizes or unit_pictures.sizes_of(
                network, labels, SIZES[:2] if flags.smoke else SIZES, flags.preprocess
            )
            reading = flags.preprocess, sizes, flags.posterior_weight, True
            units = {x: named.unit_of(network, x, *reading) for x in labels}
            photographs = _photographs(flags, network, labels, sizes, pixels)
        drawing = _drawing(flags, network, pixels, photographs)
        settings = _settings(flags, pixels, sizes, photographs)
        unit_pictures.draw(units, names, drawing, asked, settings, flags.out)


def _photographs(flags, network, labels, sizes, pixels):
    """What makes a class plausible, or None."""
    from keras_tilt.cli import named
    from keras_tilt.cli.jobs.pictures import photographs

    no_class = all(named.class_number(label) is None for label in labels)
    if flags.photographs is None or no_class:
        return None
    asked = flags.photographs, flags.preprocess, sizes, pixels
    weight, folder = flags.photographs_weight, flags.out
    return photographs.fitted(network, flags.model, *asked, weight, folder)


def _drawing(flags, network, pixels, photographs):
    from keras_tilt.cli.jobs.pictures import unit_chains

    return unit_chains.Drawing(
        **{name: getattr(flags, name) for name in DRAWING},
        low=pixels[0],
        high=pixels[1],
        signals=SIGNALS if flags.signal is None else 2 * (flags.signal,),
        image_shape=network.input_shape[1:],
        plausible=photographs and photographs.unit,
    )


def _settings(flags, pixels, sizes, photographs):
    """What samples depend on, as text."""
    from keras_tilt.cli.jobs.pictures import unit_pictures

    values = {k: v for k, v in vars(flags).items() if k not in NOT_OF_SAMPLES}
    values |= {"low": pixels[0], "high": pixels[1], "sizes": sizes}
    values["photographs"] = photographs and photographs.digest
    files = {"model": flags.model, "judge": flags.judge}
    return unit_pictures.settings_of(values, files)
