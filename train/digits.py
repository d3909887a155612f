"""Draws what the ten class units of a trained digit network want, by exact HMC.

    p_k(x) = exp(f_k(x)) q(x) / Z_k,     q white noise, k = 0 ... 9

    python train/digits.py out/mnist/gg-dg-seed0-epoch25.keras --out out/digits

A few minutes on two cores. Expected: the network calls every draw its digit; the means
of the draws show some digits to the eye and strokes of others. The verdict on
convergence stands beside every unit.

How strong the noise is follows the signal-to-noise rule: far below 1 per pixel the
noise drowns the unit, far above it the chains freeze. A short pilot run measures the
ratio, which grows in proportion to the standard deviation for a network of ReLUs, and
the standard deviation is set for --signal-to-noise.

    python train/digits.py MODEL --paper --out out/paper

runs the setting of Dai, Lu, Wu 2015 for LeNet instead (as remembered, unverified):
N(0, 10^2) for pixels / 256, 300 iterations of 100 leapfrog steps from draws of q. It is
far from equilibrium, and the verdict says so. About ten minutes on two cores.
"""

import argparse
import json
import pathlib

from keras_tilt.cli.flags import add_import, count, folder, positive


def parse_flags():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
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
    add("--high", type=positive, help="white, as a pixel of the network; else it says")
    add("--paper", action="store_true", help="the paper's setting for LeNet")
    add("--seed", type=int, default=7, help="equal seeds give equal samples")
    add("--smoke", action="store_true", help="two chains, a few short iterations")
    flags = parser.parse_args()
    if flags.smoke:
        flags.chains, flags.draws, flags.burnin, flags.leapfrog_steps = 2, 8, 8, 2
    return flags


if __name__ == "__main__":
    parse_flags()  # may end here, before the seconds that TensorFlow takes

import keras_tilt as kt
import numpy as np

from keras_tilt.cli import named
from keras_tilt.networks import graph

PILOT_STDDEV = 10.0  # of Caffe's pixels, which are those of a file / 256
PAPER_STDDEV = 10.0


def main():
    """Chooses the reference, samples, writes numbers, then pictures."""
    flags = parse_flags()
    with named.as_exit():
        named.use_modules(flags.modules)
        network = load_network(flags.model)
        _, flags.high, _ = named.pixel_range(network, None, flags.high)
    if flags.paper:
        stddev, settings = PAPER_STDDEV * caffe_pixel(flags), dict(kt.PAPER_LENET)
        if flags.smoke:
            settings |= {"num_results": 8, "num_leapfrog_steps": 2}
    else:
        stddev = flags.stddev or chosen_stddev(network, flags)
        settings = {
            "num_results": flags.draws,
            "num_burnin_steps": flags.burnin,
            "num_leapfrog_steps": flags.leapfrog_steps,
        }
    tilts = class_tilts(network, stddev)
    samples = kt.sample(tilts, flags.chains, seed=flags.seed, **settings)
    print("Judging the chains (up to a minute)", flush=True)
    report = [
        report_of(digit, *pair, network)
        for digit, pair in enumerate(zip(tilts, samples, strict=True))
    ]
    flags.out.mkdir(parents=True, exist_ok=True)
    save_numbers(flags, settings, stddev, samples, report)
    save_pictures(flags.out, samples, stddev)
    print(table(report, stddev))
    print_places(flags.out)


def load_network(path):
    """The network of logits of a saved GenerativeClassifier, or a plain exit."""
    if not path.is_file():
        raise SystemExit(
            f"Expected a .keras file. Received: {path}, which is not there. "
            "Train one with: python train/mnist.py --embedded --out out/mnist"
        )
    model = named.load_model(path)
    network = graph.network_of(model)
    shape = named.image_shape(network)
    if named.num_classes(network) is None:
        raise ValueError(
            "Expected a network of images and one output [n, digits]. Received: "
            f"{path}, of images {shape} and other outputs. Train one with: "
            "python train/mnist.py --embedded --out out/mnist"
        )
    return network


def class_tilts(network, stddev):
    """The tilts of all classes by one reference, to be sampled together."""
    reference = kt.white_noise(network.input_shape[1:], stddev=stddev)
    units = [kt.unit(network, class_index=k) for k in range(network.output_shape[1])]
    return [kt.Tilt(unit, reference) for unit in units]


def caffe_pixel(flags):
    """What 1 of Caffe's pixels is in those of the network, a byte / 256 in any unit."""
    return flags.high * 256 / 255


def chosen_stddev(network, flags):
    """The standard deviation for the wanted ratio, by a pilot of one chain a class."""
    unit = caffe_pixel(flags)
    tilts = class_tilts(network, PILOT_STDDEV * unit)
    pilot = kt.sample(
        tilts,
        num_chains=1,
        num_results=1,
        num_burnin_steps=flags.burnin // 2,
        num_leapfrog_steps=flags.leapfrog_steps,
        seed=flags.seed,
    )
    pairs = zip(tilts, pilot, strict=True)
    ratios = [tilt.signal_to_noise(samples.images[-1]) for tilt, samples in pairs]
    measured = float(np.mean(ratios))
    stddev = unit * float(f"{PILOT_STDDEV * flags.signal_to_noise / measured:.2g}")
    print(
        f"Signal-to-noise per pixel {measured:.2f} at stddev {PILOT_STDDEV * unit:g}: "
        f"reference N(0, {stddev:g}^2) for {flags.signal_to_noise:g}"
    )
    return stddev


def report_of(digit, tilt, samples, network):
    """Diagnostics of one unit, and what the network calls its last draws."""
    last = samples.images[-1]
    diagnostics = samples.diagnostics
    predictions = network(last, training=False).numpy().argmax(axis=1)
    return {
        "digit": digit,
        "accept_rate": diagnostics.accept_rate,
        "step_size": samples.step_size,
        "num_leapfrog_steps": samples.num_leapfrog_steps,
        "r_hat": diagnostics.r_hat,
        "ess": diagnostics.ess,
        "worst_r_hat": diagnostics.worst_r_hat,
        "mean_f": float(samples.f.mean()),
        "signal_to_noise": float(np.mean(tilt.signal_to_noise(last))),
        "share_classified": float(np.mean(predictions == digit)),
        "verdict": diagnostics.verdict,
    }


def save_numbers(flags, settings, stddev, samples, report):
    """samples.npz: per digit the last draw and the mean of every chain, and f."""
    np.savez_compressed(
        flags.out / "samples.npz",
        last=[one.images[-1] for one in samples],
        mean=[mean_images(one) for one in samples],
        f=[f_of(one) for one in samples],
    )
    settings = {
        "model": flags.model.name,
        "stddev": stddev,
        "seed": flags.seed,
        "chains_per_digit": flags.chains,
        **settings,
    }
    text = json.dumps({"settings": settings, "units": report}, indent=1)
    (flags.out / "report.json").write_text(text + "\n")


def mean_images(samples):
    """Mean of the draws of every chain, [chains, height, width, channels]."""
    return np.mean(samples.images, axis=0)


def f_of(samples):
    """f along all iterations, warm-up first: [iterations, chains]."""
    return np.concatenate([samples.warmup_f, samples.f])


def save_pictures(out, samples, stddev):
    """Four rows, one column per digit: two draws, and the means of half the chains.

    The draws are shown at +-3 stddev, the means at +-1: both in units of stddev on one
    scale, the draws divided by 3.
    """
    rows = [[], [], [], []]
    for one in samples:
        draws, means = one.images[-1], mean_images(one)
        half = len(means) // 2
        rows[0].append(draws[0] / 3.0)
        rows[1].append(draws[half] / 3.0)
        rows[2].append(means[:half].mean(axis=0))
        rows[3].append(means[half:].mean(axis=0))
    digits = range(len(samples))
    kt.plotting.image_grid(
        np.concatenate(rows) / stddev,
        columns=len(digits),
        titles=[f"{digit}" for digit in digits] + [""] * (3 * len(digits)),
        low=-1.0,
        high=1.0,
        title="Draws of two chains (at 1/3), means over one and the other half of the "
        "chains; in units of the reference's stddev",
    ).savefig(out / "digits.png", dpi=100)
    kt.plotting.trace_plot(
        {f"digit {digit}": f_of(one) for digit, one in enumerate(samples)},
        num_burnin_steps=len(samples[0].warmup_f),
    ).savefig(out / "traces.png", dpi=100)


def table(report, stddev):
    """One line per unit, verdict last."""
    lines = [
        f"Units of the network under white noise of stddev {stddev:g}; "
        "called: share of last draws that the network calls the digit",
        f"{'digit':>5}{'accepted':>10}{'R-hat':>8}{'ESS':>7}{'SNR':>6}{'f':>9}"
        f"{'called':>8}  verdict",
    ]
    for unit in report:
        lines.append(
            f"{unit['digit']:5}{unit['accept_rate']:10.0%}{unit['r_hat']:8.3f}"
            f"{unit['ess']:7.0f}{unit['signal_to_noise']:6.2f}{unit['mean_f']:9.1f}"
            f"{unit['share_classified']:8.0%}  {unit['verdict']}"
        )
    return "\n".join(lines)


def print_places(out):
    """Where to look."""
    print(
        f"\nPictures: {out / 'digits.png'}  draws and means of the ten densities\n"
        f"          {out / 'traces.png'}  f along the iterations\n"
        f"Numbers:  {out / 'report.json'}, {out / 'samples.npz'}"
    )


if __name__ == "__main__":
    main()
