"""Samples of the class units of a digit network under one reference.

p_k(x) = exp(scale f_k(x)) q(x) / Z_k,     k = 0 ... 9
"""

__all__ = [
    "class_tilts",
    "drawn",
    "loaded",
    "save_draws",
    "save_numbers",
    "save_traces",
    "table",
]

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from tensorflow_probability import distributions as tfd

from keras_tilt import plotting
from keras_tilt.cli.named.networks import image_shape, load_network, num_classes
from keras_tilt.cli.named.pixels import pixel_range
from keras_tilt.sampling.sampler import sample
from keras_tilt.sampling.samples import Samples
from keras_tilt.tilt import Tilt
from keras_tilt.units.selection import unit

_CHAINS = 6  # in the picture


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


def class_tilts(
    network: keras.Model, reference: tfd.Distribution, scale: float = 1.0
) -> list[Tilt]:
    """Return the tilts of all classes by one reference, to be sampled together."""
    units = [unit(network, class_index=k) for k in range(network.output_shape[1])]
    return [Tilt(one, reference, scale) for one in units]


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
        "signal_to_noise": float(
            np.mean(tilt.signal_to_noise(noise=samples.noise[-1]))
        ),
        "share_classified": float(np.mean(predictions == digit)),
        "verdict": diagnostics.verdict,
    }


def _signal_to_noise(tilt, samples):
    """Return the mean over the last draws."""
    return float(np.mean(tilt.signal_to_noise(noise=samples.noise[-1])))


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
        mean=[one.mean_images for one in samples],
        f=[_f_of(one) for one in samples],
    )
    text = json.dumps({"settings": settings, "units": report}, indent=1)
    (out / "report.json").write_text(text + "\n")


def _f_of(samples):
    """Return f along all iterations, warm-up first: [iterations, chains]."""
    return np.concatenate([samples.warmup_f, samples.f])


def save_draws(
    out: pathlib.Path,
    samples: Sequence[Samples],
    reference: tfd.Distribution,
    low: float,
    high: float,
) -> None:
    """Draw a column for each digit: a draw of q, then the last draws of six chains.

    Args:
        out: folder.
        samples: of the digits.
        reference: q.
        low: pixel that is black.
        high: pixel that is white.
    """
    rows = [reference.sample(len(samples), seed=[0, 1]).numpy()]
    rows += [
        np.stack([one.images[-1][chain] for one in samples])
        for chain in range(min(_CHAINS, samples[0].images.shape[1]))
    ]
    titles = [f"{digit}" for digit in range(len(samples))]
    plotting.image_grid(
        np.concatenate(rows),
        columns=len(samples),
        titles=titles + [""] * (len(titles) * (len(rows) - 1)),
        low=low,
        high=high,
        title="Upper row: the reference q. Below: chains of the ten units",
        inches=0.8,
    ).savefig(out / "digits.png", dpi=100)


def save_traces(out: pathlib.Path, samples: Sequence[Samples]) -> None:
    """Draw f along the iterations of every digit."""
    plotting.trace_plot(
        {f"digit {digit}": _f_of(one) for digit, one in enumerate(samples)},
        num_burnin_steps=len(samples[0].warmup_f),
    ).savefig(out / "traces.png", dpi=100)


def table(report: Sequence[Mapping[str, Any]], reference: str) -> str:
    """Return a line for each unit, the verdict last.

    Args:
        report: from `drawn`.
        reference: its name.
    """
    lines = [
        f"Units of the network under {reference}; "
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
