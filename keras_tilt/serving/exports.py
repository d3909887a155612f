"""A sampler or a classifier on disk, with its certificate and its README.

    sampler      units, schedule, certificates -> the next version of a servable
    classifier   model -> the next version of a servable

Each has a golden request with its response, and requests of every signature for the
server to warm up with. The layout on disk is that of `keras_tilt.serving.servable`.
"""

__all__ = ["write_classifier", "write_sampler"]

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_tilt.serving import servable
from keras_tilt.serving.certify import CertifiedSampler
from keras_tilt.serving.classifier import ServedClassifier
from keras_tilt.serving.image_bytes import MOST_PIXELS
from keras_tilt.serving.requests import MOST_REQUESTS
from keras_tilt.serving.sampler import requests_of

# A sampler


def write_sampler(
    folder: str | os.PathLike,
    certified: CertifiedSampler,
    reference: str,
    *,
    log_partitions: Sequence[Sequence[Any]] | None = None,
    seed: int = 7,
    jit_compile: bool = False,
) -> pathlib.Path:
    """Write the next version of a sampler, its certificate in it and in its answers.

    Args:
        folder: of the servable; its name is that of the model.
        certified: what is served, converged or not.
        reference: what the certificate calls it.
        log_partitions: None, or a `LogPartition` of every unit at every temperature,
            [temperatures][units]; one that is not reliable is served as NaN.
        seed: whole number, of the golden request.
        jit_compile: whether chains are compiled by XLA, which stock servers refuse.

    Returns:
        version: path of the new version.
    """
    known = None if log_partitions is None else _reliable(log_partitions)
    sampler = certified.served(known, jit_compile)
    last, temperature = sampler.num_units - 1, certified.temperatures[0]
    golden = "sample_png" if "sample_png" in sampler.functions else "serving_default"
    return servable.write_servable(
        folder,
        sampler,
        (golden, requests_of(last, [seed], temperature)),
        _warmup(sampler, certified.tilts[0]),
        {"certificate.json": _document(certified, reference, log_partitions)},
        MOST_REQUESTS,
        _sampler_readme(certified, sampler),
    )


def _reliable(log_partitions):
    """log Z [temperatures, units], NaN where the estimate is not to be trusted."""
    return np.array(
        [[z.value if z.is_reliable else np.nan for z in row] for row in log_partitions]
    )


def _warmup(sampler, tilt):
    """A request of every signature, by name."""
    one = {name: values[:1] for name, values in requests_of(0, [0]).items()}
    image = np.zeros([1, *tilt.event_shape], np.float32)
    noise = np.zeros([1, *tilt.base.event_shape], np.float32)
    warmup = {name: one for name in sampler.functions}
    warmup |= {"evaluate": {"image": image}, "resume": one | {"noise": noise}}
    return list(warmup.items())


def _document(certified, reference, log_partitions):
    """All that is known of the chains, of values that JSON knows."""
    schedule = certified.schedule
    return {
        "converged": not certified.refused,
        "forced": bool(certified.refused),
        "units": certified.names,
        "temperatures": certified.temperatures,
        "log_partition": log_partitions
        and [[z.value for z in row] for row in log_partitions],
        "log_partition_standard_error": log_partitions
        and [[z.standard_error for z in row] for row in log_partitions],
        "reference": reference,
        "black": certified.low,
        "white": certified.high,
        "scale": certified.tilts[0].scale,
        "num_iterations": schedule.num_iterations,
        "num_iterations_at_full_tilt": schedule.num_full,
        "step_size": schedule.step_size[:, -1].tolist(),
        "num_leapfrog_steps": schedule.num_leapfrog_steps.mean(axis=1).tolist(),
        "num_gradients": schedule.num_gradients.tolist(),
        "environment": servable.environment(),
        "certificates": [dataclasses.asdict(one) for one in certified.certificates],
    }


def _sampler_readme(certified, sampler):
    schedule, temperatures = certified.schedule, certified.temperatures
    normalized = "log_prob" in sampler.functions["start"].structured_outputs
    has_density = "log_q" in sampler.functions["evaluate"].structured_outputs
    values = {
        "verdict": _verdict(certified.refused),
        "units": "\n".join(f"| {i} | {n} |" for i, n in enumerate(certified.names)),
        "low": f"{certified.low:g}",
        "high": f"{certified.high:g}",
        "evaluated": _EVALUATED if has_density else "`f` of every unit",
        "reference": "log q" if has_density else _OF_NOISE,
        "normalized": _NORMALIZED if normalized else ", not normalized",
        "temperatures": ", ".join(f"{t:g}" for t in temperatures),
        "lowest": f"{min(temperatures):g}",
        "highest": f"{max(temperatures):g}",
        "iterations": schedule.num_iterations,
        "rising": schedule.num_rising,
        "gradients": schedule.num_gradients.max(),
        "most": MOST_REQUESTS,
        "shape": ", ".join(map(str, sampler.shape)),
        "png": _PNG if "sample_png" in sampler.functions else "",
        "xla": _XLA if sampler.jit_compile else "",
    }
    return servable.readme("sampler.md", values)


def _verdict(refused):
    if not refused:
        return "All units are certified."
    lines = [
        f"* {c.unit} at temperature {c.temperature:g}: {c.verdict}" for c in refused
    ]
    return "\n".join(["NOT CERTIFIED, exported by force:\n", *lines])


_PNG = "\n* `sample_png`: the same, with `png_bytes` in place of `image`"
_EVALUATED = """`f` and `log_density`
  of every unit, `log_q`"""
_OF_NOISE = "log N(z; 0, I) of its noise z (images have no density)"
_NORMALIZED = """; `log_prob`, less log Z, is normalized; it is NaN at
  temperatures other than {temperatures}"""
_XLA = """
The chains are compiled by XLA, which the stock server refuses: start one built with it.
"""


# A classifier


def write_classifier(
    folder: str | os.PathLike, classifier: ServedClassifier, seed: int = 7
) -> pathlib.Path:
    """Write the next version of a classifier; its golden request is an image of noise.

    Args:
        folder: of the servable; its name is that of the model.
        classifier: of images that files have, of 1, 3 or 4 channels.
        seed: whole number, of the noise.

    Returns:
        version: path of the new version.
    """
    noise = np.random.default_rng(seed).integers(
        0, 256, classifier.shape, dtype=np.uint8
    )
    golden = {"image_bytes": np.array([tf.io.encode_png(noise).numpy()])}
    image = np.zeros([1, *classifier.shape], np.uint8)
    return servable.write_servable(
        folder,
        classifier,
        ("classify_bytes", golden),
        [("classify_bytes", golden), ("serving_default", {"image": image})],
        {"class_names.json": list(classifier.class_names)},
        MOST_REQUESTS,
        _classifier_readme(classifier),
    )


def _classifier_readme(classifier):
    kind = "classes" if classifier.has_classes else "labels"
    output = "class_name" if classifier.has_classes else "probabilities"
    program = f'print(tf.make_ndarray(response.outputs["{output}"]))'
    values = {
        "head": servable.template(f"{kind}_head.md"),
        "answer": servable.template(f"{kind}_answer.md"),
        "asking": servable.asking("classify_bytes", program),
        "shape": ", ".join(map(str, classifier.shape)),
        "classes": len(classifier.class_names),
        "low": f"{classifier.pixels.low:g}",
        "high": f"{classifier.pixels.high:g}",
        "most": MOST_REQUESTS,
        "pixels": f"{MOST_PIXELS:,}",
    }
    return servable.readme("classifier.md", values)
