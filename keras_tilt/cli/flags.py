"""Flags that several commands share, with the standard library alone.

TensorFlow takes seconds to import. A command parses its flags before that, so that
--help and a mistyped flag are answered at once. What the flags mean is in
`keras_tilt.cli.named`.
"""

__all__ = [
    "MODES",
    "NOISES",
    "add_import",
    "add_names",
    "add_pixels",
    "add_reference",
    "add_units",
    "check_units",
    "count",
    "file",
    "folder",
    "import_flags",
    "natural",
    "positive",
    "share",
]

import argparse
import os
import pathlib

MODES = ("none", "caffe", "tf", "torch")  # of keras.applications
NOISES = ("spectral", "box", "white")


# Types


def count(text):
    """Return a whole number from 1, or raise a ValueError: the type of a flag."""
    if not int(text) >= 1:
        raise ValueError
    return int(text)


def natural(text):
    """Return a whole number from 0, or raise a ValueError: the type of a flag."""
    if not int(text) >= 0:
        raise ValueError
    return int(text)


def positive(text):
    """Return a finite number above 0, or raise a ValueError: the type of a flag."""
    if not 0.0 < float(text) < float("inf"):
        raise ValueError
    return float(text)


def share(text):
    """Return a number in [0, 1], or raise a ValueError: the type of a flag."""
    if not 0.0 <= float(text) <= 1.0:
        raise ValueError
    return float(text)


def folder(text):
    """Return the path of a folder to write to, which need not exist.

    Raises:
        argparse.ArgumentTypeError: if a file is in the way, or it cannot be written.
    """
    path = pathlib.Path(text)
    _check_writable(path, "a folder")
    return path


def file(text):
    """Return the path of a file to write, in a folder that need not exist.

    Raises:
        argparse.ArgumentTypeError: if it is a folder, a file is in the way of its
            folder, or it cannot be written.
    """
    path = pathlib.Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(
            f"Expected a file. Received: {path}, which is a folder. Name a file in it."
        )
    _check_writable(path.parent, "a file in a folder")
    return path


def _check_writable(path, what):
    """Raise an error unless the folder can be written to, or made."""
    there = next(p for p in (path, *path.absolute().parents) if os.path.lexists(p))
    if not there.is_dir():
        found = f"{there}, which is a file"
    elif not os.access(there, os.W_OK | os.X_OK):
        found = f"{path}, where nothing can be written"
    else:
        return
    raise argparse.ArgumentTypeError(
        f"Expected {what}. Received: {found}. Name another one."
    )


# Flags


def add_import(add):
    """Add --import: modules with layers of one's own, before networks are loaded."""
    add(
        "--import",
        dest="modules",
        action="append",
        default=[],
        metavar="MODULE",
        help="module, or file that ends in .py, with layers of the network that are "
        "not of Keras; may be repeated",
    )


def import_flags(modules):
    """Return the flags that hand --import on to another script."""
    return [part for module in modules for part in ("--import", module)]


def add_names(add):
    """Add --names: those of the classes."""
    add(
        "--names",
        type=pathlib.Path,
        help="JSON of the names of the classes: a list, or a dict by their numbers; "
        "if it is not given, class_names.json beside the model",
    )


def add_units(add, note=""):
    """Add --unit and --list: which units, and which there are."""
    add(
        "--unit",
        action="append",
        default=[],
        help="class:3, class:0-9, class:goldfish by its name, LAYER:12, LAYER:0-7 or "
        f"LAYER:all; may be repeated{note}",
    )
    add(
        "--list",
        action="store_true",
        help="say which layers there are, of how many channels, and how large a patch "
        "of the image each of them sees; and nothing else",
    )


def check_units(parser, flags):
    """End with a sentence if no unit is named, nor a list of them asked for."""
    if not (flags.unit or flags.list):
        parser.error(
            "Expected a --unit. Received: none. To see which there are: --list"
        )


def add_pixels(add):
    """Add --preprocess, --low and --high: what a network's pixels are."""
    add(
        "--preprocess",
        choices=MODES,
        default="none",
        help="of pixels, as keras.applications does for a network",
    )
    add(
        "--low",
        type=float,
        help="black, as a pixel of the network before --preprocess; 0 if not given",
    )
    add(
        "--high",
        type=float,
        help="white, for example 255 or 1; if it is not given, what a Rescaling or "
        "Normalization at the network's start says, else 255",
    )


def add_reference(add):
    """Add --reference, --exponent and --contrast: the noise that is tilted."""
    add(
        "--reference",
        choices=NOISES,
        default="spectral",
        help="noise of a 1/f spectrum between black and white; uniform there; Gaussian "
        "(white)",
    )
    add("--exponent", type=float, default=1.7, help="of 1/f")
    add(
        "--contrast",
        type=positive,
        default=0.3,
        help="standard deviation of a pixel, as a share of white less black",
    )
