"""Flags that several commands share, with the standard library alone.

TensorFlow takes seconds to import. A command parses its flags before that, so that
--help and a mistyped flag are answered at once. What the flags mean is in
`keras_tilt.cli.named`.
"""

__all__ = [
    "CONTRASTS",
    "MODES",
    "NOISES",
    "RULES",
    "SPECTRUM",
    "add_import",
    "add_names",
    "add_pixels",
    "add_reference",
    "add_seeds",
    "add_servable",
    "add_threads",
    "add_units",
    "check_units",
    "command_parser",
    "count",
    "file",
    "folder",
    "import_flags",
    "natural",
    "positive",
    "reference",
    "share",
    "whole",
]

import argparse
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence

Add = Callable[..., argparse.Action]  # `add_argument` of a parser, or of a group

MODES = ("none", "caffe", "tf", "torch")  # of keras.applications
# Standard deviation of a pixel of noise as a share of white less black: of units of the
# whole image, which a strong tilt draws out of weak noise, and of a patch.
CONTRASTS = (0.1, 0.3)
SPECTRUM = ("contrast", "exponent", "cutoff")  # flags of noise
NOISES = ("spectral", "wavelets", "box", "white")
RULES = ("vote", "paste")  # of `keras_tilt.masking`


# Types


def count(text: str) -> int:
    """Return a whole number from 1: the type of a flag.

    Raises:
        argparse.ArgumentTypeError: for anything else, as the other types do.
    """
    return _number(text, int, lambda n: n >= 1, "a whole number from 1")


def natural(text: str) -> int:
    """Return a whole number from 0: the type of a flag."""
    return _number(text, int, lambda n: n >= 0, "a whole number from 0")


def whole(text: str) -> int:
    """Return a whole number of 32 bits: the type of a flag."""
    in_range = "a whole number of 32 bits"
    return _number(text, int, lambda n: -(2**31) <= n < 2**31, in_range)


def positive(text: str) -> float:
    """Return a finite number above 0: the type of a flag."""
    return _number(text, float, lambda x: 0 < x < math.inf, "a finite number above 0")


def share(text: str) -> float:
    """Return a number in [0, 1]: the type of a flag."""
    return _number(text, float, lambda x: 0 <= x <= 1, "a number from 0 to 1")


def reference(text: str) -> str:
    """Return the name of a reference: the type of a flag.

    Raises:
        argparse.ArgumentTypeError: for another name, or a file that is not there.
    """
    kind, _, path = text.partition(":")
    if text in NOISES:
        return text
    if kind != "latent" or not path:
        raise argparse.ArgumentTypeError(
            f"Expected {', '.join(NOISES)} or latent:FILE.keras. Received: {text}."
        )
    if not pathlib.Path(path).is_file():
        raise argparse.ArgumentTypeError(
            f"Expected latent:FILE.keras of a generator. Received: {path}, which is "
            "not there. Fit one with: keras-tilt reference DATA --out q.keras"
        )
    return text


def _number(text, read, is_valid, wanted):
    """The number in a text, if it is what is wanted."""
    try:
        number = read(text)
    except ValueError:
        number = None
    if number is None or not is_valid(number):
        raise argparse.ArgumentTypeError(
            f"Expected {wanted}. Received: {text}. Pass for example 1."
        )
    return number


def folder(text: str) -> pathlib.Path:
    """Return the path of a folder to write to, which need not exist.

    Raises:
        argparse.ArgumentTypeError: if a file is in the way, or it cannot be written.
    """
    path = pathlib.Path(text)
    _check_writable(path, "a folder")
    return path


def file(text: str) -> pathlib.Path:
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


def command_parser(
    doc: str, name: str | None = None, argv: Sequence[str] | None = None
) -> argparse.ArgumentParser:
    """Return the parser of a command, whose help prints all defaults.

    Args:
        doc: docstring of its module, of which the first paragraph is in its help.
        name: that follows `keras-tilt`, if it has one.
        argv: its arguments; None if it is a script, which is called by its own name.
    """
    return argparse.ArgumentParser(
        prog=None if argv is None or name is None else f"keras-tilt {name}",
        description=doc.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )


def add_import(add: Add) -> None:
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


def import_flags(modules: Iterable[str]) -> list[str]:
    """Return the flags that hand --import on to another script."""
    return [part for module in modules for part in ("--import", module)]


def add_seeds(add: Add, seeds: Sequence[int], note: str = "") -> None:
    """Add --seeds, a run for each, and --seed for a single one."""
    add("--seeds", nargs="+", type=int, default=list(seeds), help=f"{note}one run each")
    add("--seed", type=int, help="one seed; short for --seeds SEED")


def add_threads(add: Add) -> None:
    """Add --threads."""
    add("--threads", type=count, help="TensorFlow threads; all cores by default")


def add_names(add: Add) -> None:
    """Add --names: those of the classes."""
    add(
        "--names",
        type=pathlib.Path,
        help="JSON of the names of the classes: a list, or a dict by class index; "
        "if it is not given, class_names.json beside the model",
    )


def add_units(add: Add, note: str = "") -> None:
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
        help="list the layers, their channels and how large a patch of the image each "
        "of them sees, and exit",
    )


def check_units(
    parser: argparse.ArgumentParser, units: Sequence[str], listed: bool
) -> None:
    """End with a sentence if no unit is named, nor a list of them asked for."""
    if not (units or listed):
        parser.error(
            "Expected a --unit. Received: none. To see which there are: --list"
        )


def add_servable(add: Add, default: str) -> None:
    """Add --out of an export: the folder of a servable."""
    add(
        "--out",
        type=folder,
        default=default,
        help="folder; its name becomes that of the model",
    )


def add_pixels(add: Add) -> None:
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


def add_reference(add: Add) -> None:
    """Add --reference, --exponent, --cutoff and --contrast: what is tilted."""
    add(
        "--reference",
        type=reference,
        default="spectral",
        metavar="|".join((*NOISES, "latent:FILE.keras")),
        help="noise of a 1/f spectrum between black and white; that of the wavelet "
        "coefficients of photographs; uniform there; Gaussian (white); images of a "
        "generator, as `keras-tilt reference` fits it",
    )
    add("--exponent", type=float, default=1.5, help="of 1/f")
    add(
        "--cutoff",
        type=positive,
        default=45.0,
        help="cycles along an edge, above which details of 1/f noise fade",
    )
    add(
        "--contrast",
        type=positive,
        help="standard deviation of a pixel, as a share of white less black; if it is "
        f"not given, {CONTRASTS[0]} of whole images, and {CONTRASTS[1]} of patches",
    )
