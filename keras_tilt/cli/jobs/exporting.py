"""What the export commands serve, from what a command line says.

    --unit, --reference, --low, --high  ->  tilts of one reference, black and white
    --temperatures, --chains, --draws   ->  long chains, schedule, certificates
    MODEL.keras, --names                ->  a classifier, a segmenter

Functions of plain values, named as their flags, which print what they are about to do.
"""

__all__ = [
    "black_and_white",
    "certified",
    "check_converged",
    "classifier_of",
    "log_partitions",
    "long_runs",
    "segmenter_of",
    "tilts_of",
    "units_of",
    "work_folder",
]

import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras

from keras_tilt.cli.flags import CONTRASTS
from keras_tilt.cli.named.classes import class_names
from keras_tilt.cli.named.networks import image_shape, load_model, num_classes
from keras_tilt.cli.named.pixels import preprocessing, printed_range
from keras_tilt.cli.named.references import noise
from keras_tilt.cli.named.units import labels, unit_of
from keras_tilt.masking.segmenter import Segmenter
from keras_tilt.masking.serving import ServedSegmenter
from keras_tilt.networks import graph
from keras_tilt.partition.estimators import LogPartition, log_partition
from keras_tilt.reference.distributions import white_noise
from keras_tilt.sampling.samples import Samples
from keras_tilt.serving import certify
from keras_tilt.serving.classifier import ServedClassifier
from keras_tilt.serving.sampler import ServedSampler
from keras_tilt.tilt import Tilt
from keras_tilt.units.selection import Unit

SPREAD = 3.0  # standard deviations of white noise from its mean to black and to white


# A sampler: what is drawn


def units_of(
    network: keras.Model,
    specifications: Sequence[str],
    names: Mapping[int, str],
    preprocess: str,
    sizes: Sequence[float],
    posterior_weight: float,
) -> list[Unit]:
    """Return the units that --unit names, each once, of images of one size.

    Args:
        network: of images.
        specifications: of --unit.
        names: of the classes, by their numbers.
        preprocess: of --preprocess.
        sizes: of the image at which a class is read.
        posterior_weight: of log p(class | x).

    Raises:
        ValueError: for a unit that is named twice, or that is not there; for units that
            see patches of several sizes.
    """
    found = labels(specifications, network, names)
    twice = [label for i, label in enumerate(found) if label in found[:i]]
    if twice:
        raise ValueError(
            f"Expected every --unit once. Received: {', '.join(twice)}, twice. "
            "Leave one out."
        )
    reading = preprocess, sizes, posterior_weight
    units = [unit_of(network, label, *reading) for label in found]
    shapes = {unit.input_shape for unit in units}
    if len(shapes) > 1:
        raise ValueError(
            f"Expected units of images of one size. Received: {sorted(shapes)}, by "
            "what they see. Export a sampler for each."
        )
    return units


def black_and_white(
    network: keras.Model,
    low: float | None,
    high: float | None,
    preprocess: str,
    mean: float = 0.0,
    stddev: float | None = None,
) -> tuple[float, float]:
    """Return the pixels that bytes 0 and 255 stand for, and print them.

    Args:
        network: its first layers say what they are if nothing else does.
        low: black, or None.
        high: white, or None.
        preprocess: of --preprocess.
        mean: of white noise.
        stddev: None, or that of white noise, which settles what is not given.
    """
    of_noise = stddev and high is None
    if stddev:
        low = mean - SPREAD * stddev if low is None else low
        high = mean + SPREAD * stddev if high is None else high
    reason = "of the noise" if of_noise else None
    return printed_range(network, low, high, preprocess, reason)


def tilts_of(
    units: Sequence[Unit],
    network: keras.Model,
    low: float,
    high: float,
    *,
    reference: str,
    contrast: float | None,
    exponent: float,
    cutoff: float,
    mean: float,
    stddev: float | None,
    scale: float,
) -> list[Tilt]:
    """Return a tilt of each unit: of white noise if it has a stddev, else as named.

    Args:
        units: of images of one size.
        network: of the units.
        low: black.
        high: white.
        reference: of --reference.
        contrast: standard deviation of a pixel, as a share of white less black; None
            for that of whole images, or of patches.
        exponent: of 1/f.
        cutoff: cycles along an edge, above which details of a spectrum fade.
        mean: of white noise with a stddev.
        stddev: None, or that of white noise.
        scale: of the tilts.
    """
    shape = units[0].input_shape
    if stddev:
        q = white_noise(shape, mean, stddev)
    else:
        contrast = contrast or CONTRASTS[shape != network.input_shape[1:]]
        q = noise(reference, shape, low, high, contrast, exponent, cutoff)
    return [Tilt(unit, q, scale) for unit in units]


# A sampler: what is measured


def work_folder(
    folder: pathlib.Path, model: pathlib.Path, settings: Mapping[str, Any]
) -> pathlib.Path:
    """Return where long chains are while they run: another folder for other settings.

    Args:
        folder: of the servable.
        model: path of the model, whose bytes count.
        settings: all that the chains depend on.
    """
    known = {name: str(value) for name, value in settings.items()}
    known["sha256"] = hashlib.sha256(model.read_bytes()).hexdigest()
    text = json.dumps(known, sort_keys=True)
    return folder / ".work" / hashlib.sha256(text.encode()).hexdigest()[:16]


def long_runs(
    tilts: Sequence[Tilt],
    temperatures: Sequence[float],
    folder: pathlib.Path,
    *,
    chains: int,
    draws: int,
    burnin: int,
    max_leapfrog_steps: int,
    approach_step: float | None,
    seed: int,
) -> dict[float, list[Samples]]:
    """Return long chains of every unit, by temperature.

    Args:
        tilts: of one reference.
        temperatures: f is divided by each.
        folder: in which the run of each temperature resumes.
        chains: how many, of each unit.
        draws: of each chain.
        burnin: iterations before the first draw.
        max_leapfrog_steps: of an iteration, on average.
        approach_step: of an unadjusted warm-up, or None.
        seed: of the draws.
    """
    runs = {}
    for t in temperatures:
        print(f"Long chains at temperature {t:g}", flush=True)
        runs[t] = certify.long_chains(
            *(tilts, t, chains, draws, burnin),
            seed=seed,
            max_leapfrog_steps=max_leapfrog_steps,
            approach_step_size=approach_step,
            directory=folder / f"temperature{t!r}",
        )
    return runs


def certified(
    tilts: Sequence[Tilt],
    low: float,
    high: float,
    runs: Mapping[float, Sequence[Samples]],
    *,
    ends: int,
    most_iterations: int,
    approach_step: float | None,
    seed: int,
) -> certify.CertifiedSampler:
    """Return the sampler that long chains justify, and print its certificates.

    Args:
        tilts: of one reference.
        low: black.
        high: white.
        runs: from `long_runs`.
        ends: served chains of each unit whose ends are compared with those.
        most_iterations: of a served chain.
        approach_step: of an unadjusted warm-up, or None.
        seed: by which the number of leapfrog steps varies.
    """
    schedule = certify.schedule_of(runs, most_iterations, seed, approach_step)
    sampler = ServedSampler(tilts, schedule, low, high)
    certificates = certify.certificates_of(sampler, tilts, runs, ends)
    print(certify.table_of(certificates))
    return certify.CertifiedSampler(
        tilts, schedule, low, high, list(runs), certificates
    )


def check_converged(certified: certify.CertifiedSampler, force: bool) -> None:
    """Raise a ValueError that says what to do, if chains have not converged.

    Args:
        certified: of all units.
        force: whether such chains are exported, too.
    """
    if certified.refused and not force:
        raise ValueError(
            f"Expected chains that converge. Received: {len(certified.refused)} of "
            f"{len(certified.certificates)} that do not. Ask for more --draws, "
            "--burnin or --most-iterations, for a weaker --scale, for higher "
            "--temperatures, or export them with --force, at once, which every answer "
            "will say."
        )


def log_partitions(
    certified: certify.CertifiedSampler, seed: int
) -> list[list[LogPartition]]:
    """Return log Z, [temperatures][units], and print it."""
    found = []
    for t in certified.temperatures:
        print(f"log Z at temperature {t:g}", flush=True)
        several = log_partition(certify.at_temperature(certified.tilts, t), seed=seed)
        for name, one in zip(certified.names, several, strict=True):
            print(f"{name}: {one}")
        found.append(several)
    return found


# A classifier


def classifier_of(
    path: pathlib.Path,
    names: pathlib.Path | None,
    preprocess: str,
    low: float | None,
    high: float | None,
) -> ServedClassifier:
    """Return what serves the classifier of a .keras file.

    Args:
        path: of the file.
        names: path of --names, or None.
        preprocess: of --preprocess.
        low: black, or None.
        high: white, or None.

    Raises:
        ValueError: for a model of images that no file has, or of other outputs.
    """
    model = load_model(path)
    network = graph.network_of(model)
    _check_channels(image_shape(network))
    of_classes = class_names(names, _num_classes(network), path)
    low, high = printed_range(network, low, high, preprocess)
    prepared = preprocessing(preprocess)
    return ServedClassifier(model, low, high, of_classes, prepared)


def _num_classes(network):
    number = num_classes(network)
    if number is None:
        shapes = [tuple(tensor.shape) for tensor in network.outputs]
        raise ValueError(
            "Expected a network of one output [n, classes]. Received: outputs "
            f"{shapes}. Save a model of one of them: keras.Model(network.inputs, "
            "network.outputs[0])."
        )
    return number


def _check_channels(shape):
    if shape[-1] not in (1, 3, 4):
        raise ValueError(
            "Expected images of 1, 3 or 4 channels, as files have. Received: "
            f"{shape[-1]}. Serve the network itself with model.export(...)."
        )


# A segmenter


def segmenter_of(
    path: pathlib.Path,
    names: pathlib.Path | None,
    rule: Literal["vote", "paste"],
    superpixels: int,
    side: int,
    max_iou: float,
) -> ServedSegmenter:
    """Return what serves the segmenter of a file that train/segmentation.py writes.

    Args:
        path: of the file.
        names: path of --names; None for those that the run knows.
        rule: by which segments label pixels.
        superpixels: of an image, at most.
        side: of the image that they are made of, at most, in pixels.
        max_iou: of segments that are pasted.

    Raises:
        ValueError: for a file of another model.
    """
    model = load_model(path)
    if not isinstance(model, Segmenter):
        raise ValueError(
            f"Expected a Segmenter. Received: {path}, a {type(model).__name__}. "
            "Fit one with `keras-tilt segment`."
        )
    of_classes = _names_of_segmenter(path, names, model.num_classes)
    return ServedSegmenter(model, of_classes, rule, superpixels, side, max_iou)


def _names_of_segmenter(path, names, number):
    run = path.parent / "run.json"
    if names is None and run.exists():
        found = json.loads(run.read_text()).get("classes", [])
        if len(found) == number:
            return found
    return class_names(names, number, path)
