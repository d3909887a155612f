"""Ask a sampler on disk, without a server, by TensorFlow and NumPy alone.

    folder -> highest version -> signatures
    golden request -> its response, bit for bit on the machine that exported it
    unit, seed, temperature -> images, as one picture

Nothing else of this package is imported: what is on disk needs none of it.
"""

__all__ = [
    "MARGIN",
    "SMALLEST",
    "answers_of",
    "golden_responses",
    "newest_version",
    "places_of",
    "same",
    "signatures_of",
    "write_picture",
]

import base64
import json
import logging
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

SMALLEST = 112  # pixels of the height of an image in the picture
MARGIN = 4  # white pixels around it
_MOST_REQUESTS = 64  # of a batch


def newest_version(folder: pathlib.Path) -> pathlib.Path:
    """Return the path of the highest version of a servable.

    Raises:
        ValueError: for a folder without versions.
    """
    versions = [p for p in folder.glob("*") if p.name.isascii() and p.name.isdigit()]
    if not versions:
        raise ValueError(
            f"Expected a folder with a version of a servable. Received: {folder}. "
            f"Write one with: keras-tilt export sampler MODEL.keras --out {folder}"
        )
    return max(versions, key=lambda path: int(path.name))


def signatures_of(version: pathlib.Path) -> Mapping[str, Any]:
    """Return the signatures of the SavedModel of a sampler, by name.

    Raises:
        ValueError: for another SavedModel, or none.
    """
    logging.getLogger("absl").setLevel(logging.ERROR)  # of gradients that no one takes
    try:
        signatures = tf.saved_model.load(str(version)).signatures
    except OSError as error:
        raise ValueError(
            f"Expected a SavedModel. Received: {error}. Pass a version of a servable."
        ) from error
    if "sample_each" not in signatures:
        raise ValueError(
            f"Expected a sampler. Received: {version}, with the signatures "
            f"{', '.join(sorted(signatures))}. See its README.md."
        )
    return signatures


def places_of(version: pathlib.Path, units: Sequence[str]) -> list[int]:
    """Return the places of units in the list of an export.

    Args:
        version: from `newest_version`.
        units: of each its place, from 0, or its name, as the command of the export
            takes it, "class:3", or as the certificate has it, "class 3".

    Raises:
        ValueError: for a name that is not in the list.
    """
    certificate = json.loads((version / "assets" / "certificate.json").read_text())
    names = certificate["units"]
    return [_place_of(unit, names) for unit in units]


def _place_of(unit, names):
    """A place, whose range the graph checks, or that of a name."""
    if re.fullmatch(r"-?[0-9]{1,9}", unit):
        return int(unit)
    short = [_short(name) for name in names]
    for known in (short, names):
        if unit in known:
            return known.index(unit)
    raise ValueError(
        f"Expected a unit of the export: {', '.join(short)}, or its place from 0. "
        f"Received: {unit!r}. Pass for example {short[0]!r}."
    )


def _short(name):
    """ "(class 3 + 4 log p)" -> "class:3", "conv5:12 crop" -> "conv5:12"."""
    return re.match(r"\(?(class \d+|\S+)", name)[1].replace("class ", "class:")


# The golden request


def golden_responses(
    version: pathlib.Path, signatures: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the response to the golden request, as it was and as it is now.

    Returns:
        expected: of JSON, by name.
        found: arrays of the same names.
    """
    extra = version / "assets.extra"
    request = json.loads((extra / "golden_request.json").read_text())
    expected = json.loads((extra / "golden_response.json").read_text())["outputs"]
    signature = signatures[request["signature_name"]]
    specs, inputs = signature.structured_input_signature[1], request["inputs"]
    tensors = {name: tf.constant(inputs[name], specs[name].dtype) for name in inputs}
    answer = signature(**tensors)
    return expected, {name: answer[name].numpy() for name in expected}


def same(found: np.ndarray, expected: list) -> bool:
    """Return whether an array is bit for bit what JSON says."""
    if found.dtype == object:
        return [base64.b64decode(part["b64"]) for part in expected] == found.tolist()
    return np.array(expected).astype(found.dtype).tobytes() == found.tobytes()


# Images


def answers_of(
    signatures: Mapping[str, Any],
    pairs: Sequence[tuple[int, int]],
    seed: int,
    temperature: float,
) -> dict[str, np.ndarray]:
    """Return the answers to requests for images, arrays [pairs, ...] by name.

    Args:
        signatures: from `signatures_of`.
        pairs: (unit, second half of the seed) of each image, as many as one likes.
        seed: first half of the seeds.
        temperature: f is divided by it.

    Raises:
        ValueError: for a unit or a temperature that the graph refuses, with its
            message.
    """
    parts = [
        pairs[i : i + _MOST_REQUESTS] for i in range(0, len(pairs), _MOST_REQUESTS)
    ]
    try:
        answers = [_answer(signatures, part, seed, temperature) for part in parts]
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(_message_of(error)) from error
    return {k: np.concatenate([answer[k] for answer in answers]) for k in answers[0]}


def _answer(signatures, pairs, seed, temperature):
    units, seeds = zip(*pairs, strict=True)
    answer = signatures["serving_default"](
        unit=tf.constant(units),
        seed=tf.constant([(seed, each) for each in seeds]),
        temperature=tf.fill([len(pairs)], temperature),
    )
    return {name: value.numpy() for name, value in answer.items()}


def _message_of(error):
    """The message of a graph, without the place in the graph.

    `keras_tilt.validation.sentence_of` finds marked messages alone; those to clients
    have no mark.
    """
    said = re.search(r"assertion failed: \[\[?[b\"']*(.*?)[\"']?\]", error.message)
    return said[1] if said else error.message


def write_picture(path: pathlib.Path, images: np.ndarray, columns: int) -> None:
    """Write a PNG of a grid of images; small ones are enlarged.

    Args:
        path: of the file, in a folder that need not exist.
        images: [rows * columns, height, width, channels] uint8.
        columns: images in a row of the grid.

    Raises:
        ValueError: for images of 2 or more than 4 channels, which no PNG has.
    """
    if images.shape[-1] not in (1, 3, 4):
        raise ValueError(
            "Expected images of 1, 3 or 4 channels, as a PNG has. Received: "
            f"{images.shape[-1]}. Take `image` from the answer instead."
        )
    factor = max(1, SMALLEST // images.shape[1])
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    edge = [(0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)]
    images = np.pad(images, edge, constant_values=255)
    height, width, channels = images.shape[1:]
    grid = images.reshape(-1, columns, height, width, channels)
    grid = grid.transpose(0, 2, 1, 3, 4).reshape(-1, columns * width, channels)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tf.io.encode_png(grid).numpy())
