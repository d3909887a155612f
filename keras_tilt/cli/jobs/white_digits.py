"""White noise for the ten classes of a digit network: its strength, and its pictures.

    signal-to-noise(stddev) / stddev = constant for a network of ReLUs

by which a pilot run of one chain a class sets the standard deviation.
"""

__all__ = ["chosen_stddev", "paper_setting", "save_pictures"]

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_tilt import plotting
from keras_tilt.cli.jobs.digit_units import class_tilts, save_traces
from keras_tilt.reference.distributions import white_noise
from keras_tilt.sampling.sampler import PAPER_LENET, sample
from keras_tilt.sampling.samples import Samples

PILOT_STDDEV = 10.0  # of Caffe's pixels, which are those of a file / 256
PAPER_STDDEV = 10.0


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
    stddev = PILOT_STDDEV * unit_of_pixel
    noise = white_noise(network.input_shape[1:], stddev=stddev)
    tilts = class_tilts(network, noise)
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


def save_pictures(out: pathlib.Path, samples: Sequence[Samples], stddev: float) -> None:
    """Draw four rows, a column for each digit: two draws, the means of half the chains.

    The draws are shown at +-3 stddev, the means at +-1: both in units of stddev on one
    scale, the draws divided by 3.
    """
    rows: list[list[np.ndarray]] = [[], [], [], []]
    for one in samples:
        draws, means = one.images[-1], one.mean_images
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
    save_traces(out, samples)


def _caffe_pixel(high):
    """Return what 1 of Caffe's pixels, a byte / 256, is in those of the network."""
    return high * 256 / 255
