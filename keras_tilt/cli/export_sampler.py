"""Exports a sampler of any units of a trained network, for TensorFlow Serving.

    unit, seed, temperature -> an image of p(x) = exp(f(x) / temperature) q(x) / Z

Writes the next version of the folder, a SavedModel of TensorFlow's own operations, and
beside it model.config, batching.config, compose.yaml and README.md with the lines that
start a server and ask it. Equal seeds give equal images, whatever else is in a batch.

Before that the chains are certified (`keras_tilt.serving.certificate`): long adapted
chains of every unit must converge, a served chain must be ten autocorrelation times
long, and the ends of served chains must agree with the long ones. An export that fails
is refused unless --force, and then says so in its certificate and in every answer.
Steps and counts are found here, and frozen.
"""

__all__ = ["main", "parse_flags"]

import argparse
import pathlib
import shutil
from collections.abc import Sequence

from keras_tilt.cli.flags import (
    SPECTRUM,
    add_import,
    add_names,
    add_pixels,
    add_reference,
    add_servable,
    add_units,
    check_units,
    command_parser,
    count,
    positive,
)

# What each step is given of the flags.
READING = ("preprocess", "sizes", "posterior_weight")
PIXELS = ("low", "high", "preprocess", "mean", "stddev")
NOISE = ("reference", *SPECTRUM, "mean", "stddev", "scale")
CHAINS = ("chains", "draws", "burnin", "max_leapfrog_steps", "approach_step", "seed")
SERVED = ("ends", "most_iterations", "approach_step", "seed")
# Long chains do not depend on these: with others of them the same run resumes.
NOT_OF_CHAINS = ("out", "force", "xla", "log_partition", "ends", "most_iterations")


def parse_flags(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the flags of a command line, or end with what is wrong with them."""
    parser = command_parser(__doc__, "export sampler", argv)
    add = parser.add_argument
    add("model", type=pathlib.Path, help=".keras file of a network of images")
    add_import(add)
    add_units(add, "; a request names a unit by its place in this list, from 0")
    add_names(add)
    add_servable(add, "served/sampler")
    add_pixels(add)
    add_reference(add)
    _add_density(add)
    _add_long_chains(add)
    _add_served_chains(add)
    add("--log-partition", action="store_true", help="estimate log Z, serve log_prob")
    add("--force", action="store_true", help="export chains that do not converge, too")
    add("--xla", action="store_true", help="compile chains; stock servers refuse that")
    add("--seed", type=int, default=7, help="of the measurements, not of requests")
    add("--smoke", action="store_true", help="a few short chains, exported by force")
    flags = parser.parse_args(argv)
    check_units(parser, flags.unit, flags.list)
    error = _noise_error(flags.reference, flags.mean, flags.stddev) or _chains_error(
        flags.chains, flags.draws, flags.most_iterations, flags.seed
    )
    if error:
        parser.error(error)
    flags.temperatures = list(dict.fromkeys(flags.temperatures))
    if flags.smoke:
        flags.chains, flags.draws, flags.burnin, flags.ends = 2, 8, 8, 2
        flags.max_leapfrog_steps, flags.most_iterations, flags.force = 2, 4, True
    return flags


def _add_density(add):
    """Add what is sampled: the noise, the views of a class, the scale of the tilt."""
    add(
        "--stddev",
        type=positive,
        help="of a pixel of white noise, in place of --contrast; black and white are "
        "then 3 of it below and above --mean, if they are not given",
    )
    add("--mean", type=float, default=0.0, help="of white noise with a --stddev")
    add(
        "--sizes",
        type=positive,
        nargs="+",
        default=[1.0],
        help="of the image at which a class is read, 1 as the network takes it",
    )
    add("--posterior-weight", type=float, default=0.0, help="of log p(class | x)")
    add("--scale", type=positive, default=1.0, help="of the tilt")
    add(
        "--temperatures",
        type=positive,
        nargs="+",
        default=[1.0],
        help="at which chains are certified; answers between the lowest and the "
        "highest count as certified",
    )


def _add_long_chains(add):
    """Add how chains are drawn that show what the density is."""
    add("--chains", type=count, default=16, help="long ones, of each unit")
    add("--draws", type=count, default=300, help="of each long chain")
    add("--burnin", type=count, default=100, help="iterations before their first draw")
    add("--max-leapfrog-steps", type=count, default=20, help="gradients per iteration")
    add(
        "--approach-step",
        type=positive,
        help="of an unadjusted warm-up, while a strong tilt rises",
    )


def _add_served_chains(add):
    """Add how long a served chain may be, and how many of them are looked at."""
    add(
        "--most-iterations",
        type=count,
        default=200,
        help="of a served chain, if ten autocorrelation times are longer",
    )
    add("--ends", type=count, default=32, help="served chains of each unit looked at")


def _noise_error(reference, mean, stddev):
    """Return what is wrong with the flags of the noise, or None."""
    if (stddev or mean) and reference != "white":
        return (
            "Expected --stddev and --mean with --reference white alone. Received: "
            f"--reference {reference}. Leave them out."
        )
    if mean and not stddev:
        return f"Expected a --stddev for a --mean. Received: {mean:g}."
    return None


def _chains_error(chains, draws, most_iterations, seed):
    """Return what is wrong with the flags of the chains, or None."""
    if chains < 2 or draws < 4:  # of which there is no R-hat
        return (
            "Expected two --chains and four --draws or more. Received: "
            f"{chains}, {draws}."
        )
    if most_iterations < 2:  # of which the last has the full tilt
        return f"Expected two --most-iterations or more. Received: {most_iterations}."
    if not 0 <= seed < 2**31:
        return f"Expected a --seed from 0 to {2**31 - 1}. Received: {seed}."
    return None


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, judge, write; the same command goes on if it is interrupted."""
    flags = parse_flags(argv)
    from keras_tilt.cli import named, process  # with TensorFlow, which takes seconds
    from keras_tilt.cli.jobs import exporting
    from keras_tilt.serving import exports, servable

    def given(names):
        return {name: getattr(flags, name) for name in names}

    with process.resumable(), process.as_exit():
        process.use_modules(flags.modules)
        network = named.load_network(flags.model)
        if flags.list:
            print(named.layer_table(network))
            return
        servable.check_can_write(flags.out)
        names = named.names_of(flags.names, flags.model, named.num_classes(network))
        units = exporting.units_of(network, flags.unit, names, **given(READING))
        low, high = exporting.black_and_white(network, **given(PIXELS))
        tilts = exporting.tilts_of(units, network, low, high, **given(NOISE))
        settings = {k: v for k, v in vars(flags).items() if k not in NOT_OF_CHAINS}
        settings |= {"low": low, "high": high}
        folder = exporting.work_folder(flags.out, flags.model, settings)
        runs = exporting.long_runs(tilts, flags.temperatures, folder, **given(CHAINS))
        certified = exporting.certified(tilts, low, high, runs, **given(SERVED))
        exporting.check_converged(certified, flags.force)
        log_z = flags.log_partition and exporting.log_partitions(certified, flags.seed)
        version = exports.write_sampler(
            flags.out,
            certified,
            flags.reference,
            log_partitions=log_z or None,
            seed=flags.seed,
            jit_compile=flags.xla,
        )
        shutil.rmtree(flags.out / ".work", ignore_errors=True)
    number = f"{len(tilts)} unit{'s' * (len(tilts) > 1)}"
    print(f"\nWritten: {version}, a sampler of {number}")
    print(f"Ask it:  keras-tilt ask {flags.out} --unit 0 --seed 7")
    print(f"Serve it: {flags.out / 'README.md'}")
