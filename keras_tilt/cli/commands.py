"""Trains, looks into and serves convolutional classifiers as densities of images.

    p(x) = exp(f(x)) q(x) / Z

Each command is a module beside this one, imported when it is called.
"""

__all__ = ["COMMANDS", "main"]

import argparse
import importlib
from collections.abc import Sequence

from keras_tilt import __version__

# Command: its module, and what it does.
COMMANDS = {
    "demo": ("demo", "do all of it on embedded digits, and make a page"),
    "train": (
        "imagenet",
        "train a classifier, generatively, discriminatively, or both",
    ),
    "reference": ("reference", "learn a reference q from images"),
    "see": ("visualize", "draw what units of a network respond to"),
    "segment": ("segmentation", "train a segmenter of objects and stuff"),
    "export sampler": ("export_sampler", "write a sampler for TensorFlow Serving"),
    "export classifier": ("export_classifier", "write a classifier with log densities"),
    "export segmenter": ("export_segmenter", "write a segmenter"),
    "ask": ("ask", "ask an exported sampler for images, without a server"),
    "mnist": ("mnist", "compare DG, GG and GG+DG on MNIST"),
    "digits": ("digits", "draw the ten classes of a digit network"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that is named first, with the flags that follow it."""
    parser = argparse.ArgumentParser(
        prog="keras-tilt",
        usage="%(prog)s COMMAND [--help] ...",
        description=__doc__.split("\n\n")[0],
        epilog=_listed(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    words = parser.parse_args(argv).words
    for count in (2, 1):
        if " ".join(words[:count]) in COMMANDS:
            module, _ = COMMANDS[" ".join(words[:count])]
            command = importlib.import_module(f"keras_tilt.cli.{module}")
            command.main(words[count:])
            return
    parser.error(
        f"Expected a command. Received: {' '.join(words[:1]) or 'none'}. "
        f"Commands: {', '.join(COMMANDS)}."
    )


def _listed():
    """Return the commands as text, one a line."""
    lines = [f"  {name:<20}{what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(["commands:", *lines])
