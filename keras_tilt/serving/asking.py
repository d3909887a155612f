"""A sampler on disk asked without a server, by TensorFlow and NumPy alone.

    folder -> highest version -> signatures
    golden request -> its response, bit for bit on the machine that exported it
    unit, seed, temperature -> images, as one picture

Nothing of this package is imported: what is on disk needs none of it.
"""

__all__ = [
    "MARGIN",
    "SMALLEST",
    "answers_of",
    "golden_responses",
    "newest_version",
    "picture_of",
    "same",
    "signatures_of",
]

import base64
import json
import logging
import re

import numpy as np
import tensorflow as tf

SMALLEST = 112  # pixels of the height of an image in the picture
MARGIN = 4  # white pixels around it
_MOST_ROWS = 64  # of a request


def newest_version(folder):
    """Return the path of the highest version of a servable.

    Raises:
        ValueError: for a folder without any.
    """
    versions = [p for p in folder.glob("*") if p.name.isascii() and p.name.isdigit()]
    if not versions:
        raise ValueError(
            f"Expected a folder with a version of a servable. Received: {folder}. "
            f"Write one with: python export/sampler.py MODEL.keras --out {folder}"
        )
    return max(versions, key=lambda path: int(path.name))


def signatures_of(version):
    """Return the signatures of a SavedModel of a sampler, name -> function.

    Raises:
        ValueError: for another SavedModel, or none.
    """
    logging.getLogger("absl").setLevel(logging.ERROR)  # gradients nobody asks for
    try:
        signatures = tf.saved_model.load(str(version)).signatures
    except OSError as error:
        raise ValueError(f"Expected a SavedModel. Received: {error}") from error
    if "sample_each" not in signatures:
        raise ValueError(
            f"Expected a sampler. Received: {version}, with the signatures "
            f"{', '.join(sorted(signatures))}. See its README.md."
        )
    return signatures


# The golden request


def golden_responses(version, signatures):
    """Return the response to the golden request, as it was and as it is now.

    Returns:
        expected: dict of JSON.
        found: dict of arrays, of the same names.
    """
    extra = version / "assets.extra"
    request = json.loads((extra / "golden_request.json").read_text())
    expected = json.loads((extra / "golden_response.json").read_text())["outputs"]
    signature = signatures[request["signature_name"]]
    specs, inputs = signature.structured_input_signature[1], request["inputs"]
    tensors = {name: tf.constant(inputs[name], specs[name].dtype) for name in inputs}
    answer = signature(**tensors)
    return expected, {name: answer[name].numpy() for name in expected}


def same(found, expected):
    """Return whether an array is bit for bit what JSON says."""
    if found.dtype == object:
        return [base64.b64decode(part["b64"]) for part in expected] == found.tolist()
    return np.array(expected).astype(found.dtype).tobytes() == found.tobytes()


# Images


def answers_of(signatures, pairs, seed, temperature):
    """Return the answers to requests for images, as arrays [pairs, ...].

    Args:
        signatures: from `signatures_of`.
        pairs: list of (unit, second half of the seed), of any length.
        seed: the first half of the seeds.
        temperature: f is divided by it.

    Raises:
        ValueError: with what the graph says, for what it refuses.
    """
    parts = [pairs[i : i + _MOST_ROWS] for i in range(0, len(pairs), _MOST_ROWS)]
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
    """What the graph says, without where it says it.

    Messages to clients have no mark of this package, by which `sentence_of` of
    `keras_tilt.validation` would know them.
    """
    said = re.search(r"assertion failed: \[\[?[b\"']*(.*?)[\"']?\]", error.message)
    return said[1] if said else error.message


def picture_of(images, columns):
    """Return a PNG of images in rows; small ones enlarged.

    Args:
        images: [rows * columns, height, width, channels] uint8.
        columns: images in a row.

    Raises:
        ValueError: for images of channels that no PNG has.
    """
    if images.shape[-1] not in (1, 3, 4):
        raise ValueError(f"Images of {images.shape[-1]} channels: no PNG is written.")
    factor = max(1, SMALLEST // images.shape[1])
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    edge = [(0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)]
    images = np.pad(images, edge, constant_values=255)
    height, width, channels = images.shape[1:]
    grid = images.reshape(-1, columns, height, width, channels)
    grid = grid.transpose(0, 2, 1, 3, 4).reshape(-1, columns * width, channels)
    return tf.io.encode_png(grid).numpy()
