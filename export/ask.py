"""Asks an exported sampler for images, without a server, with TensorFlow alone.

    python export/ask.py served/digits --unit 3 --seed 7 --out three.png

Loads the highest version of the folder, makes the golden request, whose response must
come back bit for bit on the machine that exported it, and then that of the flags:
--images images of each unit, with seeds (--seed, 0), (--seed, 1), ..., in a PNG with
a row for each unit. Expected: f, acceptance and what the certificate says, for every
image; a few seconds on two cores, most of them for loading TensorFlow.
"""

import argparse
import base64
import contextlib
import json
import logging
import os
import pathlib
import re
import sys
import time


def parse_flags():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("folder", type=pathlib.Path, help="written by export/sampler.py")
    add(
        "--unit", type=whole, nargs="+", default=[0], help="places in the export's list"
    )
    add("--seed", type=whole, default=7, help="equal seeds give equal images")
    add("--temperature", type=float, default=1.0, help="f is divided by it")
    add("--images", type=count, default=8, help="of each unit")
    add("--out", type=file, default="out/asked.png", help="PNG")
    add("--smoke", action="store_true", help="one image of each unit")
    return parser.parse_args()


def count(text):
    """A whole number from 1."""
    if not int(text) >= 1:
        raise ValueError
    return int(text)


def whole(text):
    """A whole number of 32 bits, as a signature takes it."""
    if not -(2**31) <= int(text) < 2**31:
        raise ValueError
    return int(text)


def file(text):
    """A file to write, in a folder that need not exist."""
    path = pathlib.Path(text)
    there = next(p for p in path.absolute().parents if os.path.lexists(p))
    for taken, what in ((path.is_dir(), path), (not there.is_dir(), there)):
        if taken:
            raise argparse.ArgumentTypeError(
                f"Expected a file in a folder. Received: {what}, which is a "
                f"{'folder' if what == path else 'file'}. Name another one."
            )
    return path


@contextlib.contextmanager
def silence():
    """Within it nothing is written to file descriptor 2, TensorFlow's greetings."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as at the export: bits differ
    logging.getLogger("absl").setLevel(logging.ERROR)  # gradients nobody asks for
    sys.stderr.flush()
    original = os.dup(2)
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(original, 2)
        os.close(original)


if __name__ == "__main__":
    parse_flags()  # may end here, before the seconds that TensorFlow takes

with silence():
    import numpy as np
    import tensorflow as tf


def main():
    """Loads, checks, asks, prints, draws."""
    flags = parse_flags()
    version = newest_version(flags.folder)
    signatures = load(version)
    check_golden(version, signatures)
    seeds = range(1 if flags.smoke else flags.images)
    rows = [(unit, seed) for unit in flags.unit for seed in seeds]
    start = time.monotonic()
    answer = ask(signatures, rows, flags.seed, flags.temperature)
    seconds = time.monotonic() - start
    print(f"{len(rows)} rows in {seconds:.2f} s, the first call of its signature")
    for i, (unit, seed) in enumerate(rows):
        numbers = [f"{n} {answer[n][i]:.4g}" for n in NUMBERS if n in answer]
        verdict = "converged" if answer["converged"][i] else "not certified to converge"
        print(
            f"unit {unit}, seed ({flags.seed}, {seed}): {', '.join(numbers)}, {verdict}"
        )
    save(flags.out, answer["image"], columns=len(seeds))


SAME = "the golden response, bit for bit"
ANOTHER = "ANOTHER RESPONSE, as another processor, build or number of threads has"
MOST_ROWS = 64  # of a request
NUMBERS = ("f", "log_density", "log_prob", "accept_rate")


def newest_version(folder):
    """The highest version, or a plain exit."""
    versions = [p for p in folder.glob("*") if p.name.isascii() and p.name.isdigit()]
    if not versions:
        raise SystemExit(
            f"Expected a folder with a version of a servable. Received: {folder}. "
            f"Write one with: python export/sampler.py MODEL.keras --out {folder}"
        )
    return max(versions, key=lambda path: int(path.name))


def load(version):
    """The signatures of a SavedModel of a sampler, or a plain exit."""
    try:
        signatures = tf.saved_model.load(str(version)).signatures
    except OSError as error:
        raise SystemExit(f"Expected a SavedModel. Received: {error}") from error
    if "sample_each" not in signatures:
        raise SystemExit(
            f"Expected a sampler. Received: {version}, with the signatures "
            f"{', '.join(sorted(signatures))}. See its README.md."
        )
    return signatures


def check_golden(version, signatures):
    """Makes the golden request and says whether the golden response comes back."""
    extra = version / "assets.extra"
    request = json.loads((extra / "golden_request.json").read_text())
    expected = json.loads((extra / "golden_response.json").read_text())["outputs"]
    arrays = arrays_of(signatures[request["signature_name"]], request["inputs"])
    found = signatures[request["signature_name"]](**arrays)
    equal = all(same(found[name].numpy(), expected[name]) for name in expected)
    print(f"Golden request: {SAME if equal else ANOTHER}")
    if not equal:
        print("  expected f", expected["f"], "received f", found["f"].numpy())


def arrays_of(signature, inputs):
    """Values of JSON as tensors of the signature's types."""
    specs = signature.structured_input_signature[1]
    return {name: tf.constant(inputs[name], specs[name].dtype) for name in inputs}


def same(found, expected):
    """Whether an array is bit for bit what JSON says."""
    if found.dtype == object:
        return [base64.b64decode(part["b64"]) for part in expected] == found.tolist()
    return np.array(expected).astype(found.dtype).tobytes() == found.tobytes()


def ask(signatures, rows, seed, temperature):
    """The answers to requests of some rows each, as arrays, or a plain exit."""
    parts = [rows[i : i + MOST_ROWS] for i in range(0, len(rows), MOST_ROWS)]
    try:
        answers = [asked(signatures, part, seed, temperature) for part in parts]
    except tf.errors.InvalidArgumentError as error:
        raise SystemExit(sentence_of(error)) from error
    return {k: np.concatenate([answer[k] for answer in answers]) for k in answers[0]}


def asked(signatures, rows, seed, temperature):
    """The answer to one request."""
    units, seeds = zip(*rows, strict=True)
    answer = signatures["serving_default"](
        unit=tf.constant(units),
        seed=tf.constant([(seed, each) for each in seeds]),
        temperature=tf.fill([len(rows)], temperature),
    )
    return {name: value.numpy() for name, value in answer.items()}


def sentence_of(error):
    """What the graph says, without where it says it."""
    said = re.search(r"assertion failed: \[\[?[b\"']*(.*?)[\"']?\]", error.message)
    return said[1] if said else error.message


def save(path, images, columns):
    """Images in rows, as one PNG; small ones enlarged."""
    if images.shape[-1] not in (1, 3, 4):
        raise SystemExit(f"Images of {images.shape[-1]} channels: no PNG is written.")
    factor = max(1, SMALLEST // images.shape[1])
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    edge = [(0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)]
    images = np.pad(images, edge, constant_values=255)
    height, width, channels = images.shape[1:]
    grid = images.reshape(-1, columns, height, width, channels)
    grid = grid.transpose(0, 2, 1, 3, 4).reshape(-1, columns * width, channels)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tf.io.encode_png(grid).numpy())
    print(f"Picture: {path}")


SMALLEST = 112  # pixels of the height of an image in the picture
MARGIN = 4  # white pixels around it
if __name__ == "__main__":
    main()
