"""Draws samples from the densities of a digit network's ten classes, by exact HMC.

    p_k(x) = exp(f_k(x)) q(x) / Z_k,     k = 0 ... 9

With --reference latent:q.keras, q is a generator that `keras-tilt reference digits`
has learned. The draws are then digits; --data says on which images log Z is compared
with its value under q. By default q is white noise.

How strong white noise is follows the signal-to-noise rule: far below 1 per pixel the
noise drowns the unit, far above it the chains freeze. A short pilot run measures the
ratio, which grows in proportion to the standard deviation for a network of ReLUs, and
the standard deviation is set for --signal-to-noise.

--paper is the setting of Dai, Lu, Wu 2015 for LeNet instead, as remembered and not
verified: N(0, 10^2) for pixels / 256, 300 iterations of 100 leapfrog steps from draws
of q.
"""

__all__ = ["main", "parse_flags"]

import argparse
import pathlib
from collections.abc import Sequence

from keras_tilt.cli.flags import (
    add_import,
    command_parser,
    count,
    folder,
    positive,
    reference,
)

# Of a learned reference, which mixes fast; of white noise the flags say it.
LEARNED = {"chains": 16, "draws": 300, "burnin": 40, "leapfrog_steps": None}
WHITE = {"chains": 8, "draws": 200, "burnin": 150, "leapfrog_steps": 20}
SIGNAL_TO_NOISE = 0.8
NOISE = ("paper", "stddev", "signal_to_noise")


def parse_flags(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the flags of a command line; --smoke shrinks them."""
    parser = command_parser(__doc__, "digits", argv)
    add = parser.add_argument
    add("model", type=pathlib.Path, help=".keras file of a digit network")
    add_import(add)
    add("--out", type=folder, default="out/digits", help="folder")
    add(
        "--reference",
        type=reference,
        default="white",
        metavar="white|latent:FILE.keras",
        help="noise, or the images of a generator",
    )
    add("--data", help="digits or NAME.npz: compare log Z under q with log Z of those")
    _add_chains(add)
    add("--scale", type=positive, default=1.0, help="of the tilt")
    add("--signal-to-noise", type=positive, help="per pixel, wanted; 0.8 if not given")
    add("--stddev", type=positive, help="of white noise instead, in units of a pixel")
    add("--high", type=positive, help="white, as a network pixel; by default its own")
    add("--paper", action="store_true", help="the paper's setting for LeNet")
    add("--seed", type=int, default=7, help="equal seeds give equal samples")
    add("--smoke", action="store_true", help="two chains, a few short iterations")
    flags = parser.parse_args(argv)
    if error := _of_white_noise_alone(flags):
        parser.error(error)
    flags.signal_to_noise = flags.signal_to_noise or SIGNAL_TO_NOISE
    for name, value in (WHITE if flags.reference == "white" else LEARNED).items():
        if getattr(flags, name) is None:
            setattr(flags, name, value)
    if flags.smoke:
        flags.chains, flags.draws, flags.burnin, flags.leapfrog_steps = 2, 8, 8, 2
    return flags


def _of_white_noise_alone(flags):
    """The error of flags that another reference would not heed, or None."""
    if flags.reference == "white":
        return None
    given = [name for name in NOISE if getattr(flags, name)]
    names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
    return given and (
        f"Expected {names} with white noise, the default of --reference. Received: "
        f"--reference {flags.reference}. Leave one of them out."
    )


def _add_chains(add):
    """Add how chains are drawn; what is not given depends on the reference."""
    add("--chains", type=count, help="chains per digit; 8, of a generator 16")
    add("--draws", type=count, help="draws kept per chain; 200, of a generator 300")
    add("--burnin", type=count, help="iterations before them; 150, of a generator 40")
    add(
        "--leapfrog-steps",
        type=count,
        help="per iteration; 20, of a generator a trajectory of length pi / 2",
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Choose the reference, sample, write numbers, then pictures."""
    flags = parse_flags(argv)
    from keras_tilt.cli import process  # with TensorFlow, which takes seconds
    from keras_tilt.cli.jobs import digit_units

    with process.as_exit():
        process.use_modules(flags.modules)
        network, high = digit_units.loaded(flags.model, flags.high)
    lengths = {
        "num_results": flags.draws,
        "num_burnin_steps": flags.burnin,
        "num_leapfrog_steps": flags.leapfrog_steps,
    }
    flags.out.mkdir(parents=True, exist_ok=True)
    draw = _draw_in_noise if flags.reference == "white" else _draw_among_images
    draw(flags, network, high, lengths)
    out = flags.out
    print(f"\nPictures: {out / 'digits.png'}  draws of the ten densities")
    print(f"          {out / 'traces.png'}  f along the iterations")
    print(f"Numbers:  {out / 'report.json'}, {out / 'samples.npz'}")


def _draw_in_noise(flags, network, high, lengths):
    """Draw under white noise of a strength that is chosen first."""
    from keras_tilt.cli.jobs import digit_units, white_digits
    from keras_tilt.reference.distributions import white_noise

    if flags.paper:
        stddev, lengths = white_digits.paper_setting(high, short=flags.smoke)
    else:
        stddev = flags.stddev or white_digits.chosen_stddev(
            network, high, flags.signal_to_noise, lengths, flags.seed
        )
    noise = white_noise(network.input_shape[1:], stddev=stddev)
    tilts = digit_units.class_tilts(network, noise, flags.scale)
    samples, report = _drawn(flags, network, tilts, lengths, stddev=stddev)
    white_digits.save_pictures(flags.out, samples, stddev)
    print(digit_units.table(report, f"white noise of stddev {stddev:g}"))


def _draw_among_images(flags, network, high, lengths):
    """Draw under another reference, and compare log Z with that of data."""
    from keras_tilt.cli import named, process
    from keras_tilt.cli.jobs import digit_units, learning, two_halves

    with process.as_exit():
        q = named.noise(flags.reference, network.input_shape[1:], 0.0, high)
        data = flags.data and learning.held_out_arrays(flags.data, high)
    tilts = digit_units.class_tilts(network, q, flags.scale)
    samples, report = _drawn(flags, network, tilts, lengths)
    digit_units.save_draws(flags.out, samples, q, 0.0, high)
    digit_units.save_traces(flags.out, samples)
    print(digit_units.table(report, flags.reference))
    if data:
        tilts = digit_units.class_tilts(network, q)
        number = 200 if flags.smoke else two_halves.NUM_DRAWS
        rows = two_halves.compared(network, tilts, *data, number, flags.seed)
        two_halves.write(flags.out, rows)
        print(f"\n{two_halves.table(rows)}")


def _drawn(flags, network, tilts, lengths, **settings):
    """Return samples and report, which are saved at once."""
    from keras_tilt.cli.jobs import digit_units

    samples, report = digit_units.drawn(
        network, tilts, flags.chains, flags.seed, lengths
    )
    settings |= {
        "model": flags.model.name,
        "reference": flags.reference,
        "scale": flags.scale,
        "seed": flags.seed,
        "chains_per_digit": flags.chains,
        **lengths,
    }
    digit_units.save_numbers(flags.out, settings, samples, report)
    return samples, report
