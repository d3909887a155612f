"""Draws samples from the densities of a digit network's ten classes, by exact HMC.

    p_k(x) = exp(f_k(x)) q(x) / Z_k,     q white noise, k = 0 ... 9

How strong the noise is follows the signal-to-noise rule: far below 1 per pixel the
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

from keras_tilt.cli.flags import add_import, command_parser, count, folder, positive


def parse_flags(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the flags of a command line; --smoke shrinks them."""
    parser = command_parser(__doc__, "digits", argv)
    add = parser.add_argument
    add("model", type=pathlib.Path, help=".keras file of a digit network")
    add_import(add)
    add("--out", type=folder, default="out/digits", help="folder")
    add("--chains", type=count, default=8, help="chains per digit")
    add("--draws", type=count, default=200, help="draws kept per chain")
    add("--burnin", type=count, default=150, help="iterations before the first draw")
    add("--leapfrog-steps", type=count, default=20, help="per iteration")
    add("--signal-to-noise", type=positive, default=0.8, help="per pixel, wanted")
    add("--stddev", type=positive, help="of the reference instead, in units of a pixel")
    add("--high", type=positive, help="white, as a network pixel; by default its own")
    add("--paper", action="store_true", help="the paper's setting for LeNet")
    add("--seed", type=int, default=7, help="equal seeds give equal samples")
    add("--smoke", action="store_true", help="two chains, a few short iterations")
    flags = parser.parse_args(argv)
    if flags.smoke:
        flags.chains, flags.draws, flags.burnin, flags.leapfrog_steps = 2, 8, 8, 2
    return flags


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
    if flags.paper:
        stddev, lengths = digit_units.paper_setting(high, short=flags.smoke)
    else:
        stddev = flags.stddev or digit_units.chosen_stddev(
            network, high, flags.signal_to_noise, lengths, flags.seed
        )
    tilts = digit_units.class_tilts(network, stddev)
    samples, report = digit_units.drawn(
        network, tilts, flags.chains, flags.seed, lengths
    )
    settings = {
        "model": flags.model.name,
        "stddev": stddev,
        "seed": flags.seed,
        "chains_per_digit": flags.chains,
        **lengths,
    }
    flags.out.mkdir(parents=True, exist_ok=True)
    digit_units.save_numbers(flags.out, settings, samples, report)
    digit_units.save_pictures(flags.out, samples, stddev)
    print(digit_units.table(report, stddev))
    out = flags.out
    print(f"\nPictures: {out / 'digits.png'}  draws and means of the ten densities")
    print(f"          {out / 'traces.png'}  f along the iterations")
    print(f"Numbers:  {out / 'report.json'}, {out / 'samples.npz'}")
