"""Samples of the class units of a digit network under white noise of one strength.

    signal-to-noise(stddev) / stddev = constant for a network of ReLUs

by which a pilot run of one chain a class sets the standard deviation.
"""

__all__ = [
    "chosen_stddev",
    "class_tilts",
    "drawn",
    "loaded",
    "paper_setting",
    "save_numbers",
    "save_pictures",
    "table",
]

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_tilt import plotting
from keras_tilt.cli.named.networks import image_shape, load_network, num_classes
from keras_tilt.cli.named.pixels import pixel_range
from keras_tilt.reference.distributions import white_noise
from keras_tilt.sampling.sampler import PAPER_LENET, sample
from keras_tilt.sampling.samples import Samples
from keras_tilt.tilt import Tilt
from keras_tilt.units.selection import unit

PILOT_STDDEV = 10.0  # of Caffe's pixels, which are those of a file / 256
PAPER_STDDEV = 10.0


def loaded(path: pathlib.Path, high: float | None) -> tuple[keras.Model, float]:
    """Return the network of logits of a saved classifier, and its white.

    Args:
        path: of a .keras file.
        high: white, if it is given; else the network says.

    Raises:
        SystemExit: if there is no such file.
        ValueError: for a network of other images or outputs.
    """
    if not path.is_file():
        raise SystemExit(
            f"Expected a .keras file. Received: {path}, which is not there. "
            "Train one with: keras-tilt mnist --embedded --out out/mnist"
        )
    network = load_network(path)
    shape = image_shape(network)
    if num_classes(network) is None:
        raise ValueError(
            "Expected a network of images and one output [n, digits]. Received: "
            f"{path}, of images {shape} and other outputs. Train one with: "
            "keras-tilt mnist --embedded --out out/mnist"
        )
    _, white, _ = pixel_range(network, None, high)
    return network, white


def class_tilts(network: keras.Model, stddev: float) -> list[Tilt]:
    """Return the tilts of all classes by one reference, to be sampled together."""
    reference = white_noise(network.input_shape[1:], stddev=stddev)
    units = [unit(network, class_index=k) for k in range(network.output_shape[1])]
    return [Tilt(one, reference) for one in units]


def _caffe_pixel(high):
    """Return what 1 of Caffe's pixels, a byte / 256, is in those of the network."""
    return high * 256 / 255


def paper_setting(high: float, short: bool) -> tuple[float, dict[str, Any]]:
    """Return the paper's standard deviation and lengths of chains.

    Args:
        high: white.
        short: whether a few short iterations will do.
    """
    lengths: dict[str, Any] = dict(PAPER_LENET)
    if short:
        lengths |= {"num_results": 8, "num_leapfrog_steps": 2}
    return PAPER_STDDEV * _caffe_pixel(high), lengths


def chosen_stddev(
    network: keras.Model,
    high: float,
    signal_to_noise: float,
    lengths: Mapping[str, int],
    seed: int,
) -> float:
    """Return the standard deviation for a ratio, by a pilot of one chain a class.

    Args:
        network: of logits.
        high: white.
        signal_to_noise: wanted, per pixel.
        lengths: of the chains to come.
        seed: of the pilot.
    """
    unit_of_pixel = _caffe_pixel(high)
    tilts = class_tilts(network, PILOT_STDDEV * unit_of_pixel)
    pilot = sample(
        tilts,
        num_chains=1,
        num_results=1,
        num_burnin_steps=lengths["num_burnin_steps"] // 2,
        num_leapfrog_steps=lengths["num_leapfrog_steps"],
        seed=seed,
    )
    pairs = zip(tilts, pilot, strict=True)
    ratios = [tilt.signal_to_noise(samples.images[-1]) for tilt, samples in pairs]
    measured = float(np.mean(ratios))
    stddev = unit_of_pixel * float(f"{PILOT_STDDEV * signal_to_noise / measured:.2g}")
    print(
        f"Signal-to-noise per pixel {measured:.2f} at stddev "
        f"{PILOT_STDDEV * unit_of_pixel:g}: reference N(0, {stddev:g}^2) for "
        f"{signal_to_noise:g}"
    )
    return stddev


def drawn(
    network: keras.Model,
    tilts: Sequence[Tilt],
    num_chains: int,
    seed: int,
    lengths: Mapping[str, int],
) -> tuple[list[Samples], list[dict[str, Any]]]:
    """Return samples of all units, and what they are judged by.

    Args:
        network: of logits, which says what the last draws are.
        tilts: of its classes.
        num_chains: of each.
        seed: equal seeds give equal samples.
        lengths: of the chains, as `keras_tilt.sample` takes them.
    """
    samples = sample(tilts, num_chains, seed=seed, **lengths)
    print("Judging the chains (up to a minute)", flush=True)
    pairs = zip(tilts, samples, strict=True)
    return samples, [_report(k, *pair, network) for k, pair in enumerate(pairs)]


def _report(digit, tilt, samples, network):
    """Return diagnostics of one unit, and what the network calls its last draws."""
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


def save_numbers(
    out: pathlib.Path,
    settings: Mapping[str, Any],
    samples: Sequence[Samples],
    report: Sequence[Mapping[str, Any]],
) -> None:
    """Write samples.npz, of each digit last draws, means and f, and report.json."""
    np.savez_compressed(
        out / "samples.npz",
        last=[one.images[-1] for one in samples],
        mean=[_mean_images(one) for one in samples],
        f=[_f_of(one) for one in samples],
    )
    text = json.dumps({"settings": settings, "units": report}, indent=1)
    (out / "report.json").write_text(text + "\n")


def _mean_images(samples):
    """Return the mean of the draws of each chain, [chains, height, width, channels]."""
    return np.mean(samples.images, axis=0)


def _f_of(samples):
    """Return f along all iterations, warm-up first: [iterations, chains]."""
    return np.concatenate([samples.warmup_f, samples.f])


def save_pictures(out: pathlib.Path, samples: Sequence[Samples], stddev: float) -> None:
    """Draw four rows, a column for each digit: two draws, the means of half the chains.

    The draws are shown at +-3 stddev, the means at +-1: both in units of stddev on one
    scale, the draws divided by 3.
    """
    rows: list[list[np.ndarray]] = [[], [], [], []]
    for one in samples:
        draws, means = one.images[-1], _mean_images(one)
        half = len(means) // 2
        rows[0].append(draws[0] / 3.0)
        rows[1].append(draws[half] / 3.0)
        rows[2].append(means[:half].mean(axis=0))
        rows[3].append(means[half:].mean(axis=0))
    digits = range(len(samples))
    plotting.image_grid(
        np.concatenate(rows) / stddev,
        columns=len(digits),
        titles=[f"{digit}" for digit in digits] + [""] * (3 * len(digits)),
        low=-1.0,
        high=1.0,
        title="Draws of two chains (at 1/3), means over one and the other half of the "
        "chains; in units of the reference's stddev",
    ).savefig(out / "digits.png", dpi=100)
    plotting.trace_plot(
        {f"digit {digit}": _f_of(one) for digit, one in enumerate(samples)},
        num_burnin_steps=len(samples[0].warmup_f),
    ).savefig(out / "traces.png", dpi=100)


def table(report: Sequence[Mapping[str, Any]], stddev: float) -> str:
    """Return a line for each unit, the verdict last."""
    lines = [
        f"Units of the network under white noise of stddev {stddev:g}; "
        "called: share of last draws that the network calls the digit",
        f"{'digit':>5}{'accepted':>10}{'R-hat':>8}{'ESS':>7}{'SNR':>6}{'f':>9}"
        f"{'called':>8}  verdict",
    ]
    for one in report:
        lines.append(
            f"{one['digit']:5}{one['accept_rate']:10.0%}{one['r_hat']:8.3f}"
            f"{one['ess']:7.0f}{one['signal_to_noise']:6.2f}{one['mean_f']:9.1f}"
            f"{one['share_classified']:8.0%}  {one['verdict']}"
        )
    return "\n".join(lines)
