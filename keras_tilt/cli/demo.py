"""Does the main job on the embedded digits, command by command, and makes one page.

    train f -> learn q -> draw exp(f) q / Z of all ten -> log Z both ways -> serve two

Each command is printed before it runs, and could be typed by itself. After an
interruption the networks are not trained again, and a fit or an export goes on in its
middle; a fit that was done, and the chains of the digits, begin again.
"""

__all__ = ["main", "parse_flags"]

import argparse
import importlib
import pathlib
import time
from collections.abc import Sequence

from keras_tilt.cli.flags import command_parser, folder

EPOCHS = 25
_LONG_CHAINS = ("--draws", "300", "--burnin", "40", "--ends", "16")


def parse_flags(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the flags of a command line; --smoke shrinks all commands."""
    parser = command_parser(__doc__, "demo", argv)
    parser.add_argument("--out", type=folder, default="out/demo", help="folder")
    parser.add_argument("--smoke", action="store_true", help="every command in short")
    return parser.parse_args(argv)


def commands(out: pathlib.Path, smoke: bool) -> dict[str, list[str]]:
    """Return the commands by the modules that run them, in their order.

    Args:
        out: folder of everything.
        smoke: whether to run each in short.
    """
    epochs = 2 if smoke else EPOCHS
    model = f"{out / 'models'}/gg-dg-seed0-epoch{epochs:02d}.keras"
    learned, served = f"latent:{out / 'q.keras'}", f"{out / 'served' / 'digits'}"
    short = ["--smoke"] * smoke
    return {
        "mnist": ["mnist", "--embedded", "--schemes", "GG+DG", "--seeds", "0"]
        + ["--out", f"{out / 'models'}", *short],
        "reference": ["reference", "digits", "--width", "16"]
        + ["--out", f"{out / 'q.keras'}", *short],
        "digits": ["digits", model, "--reference", learned, "--data", "digits"]
        + ["--out", f"{out}", *short],
        "export_sampler": ["export", "sampler", model, "--unit", "class:0"]
        + ["--unit", "class:7", "--reference", learned, *_LONG_CHAINS]
        + ["--out", served, *short],
        "ask": ["ask", served, "--unit", "class:0", "class:7"]
        + ["--out", f"{out / 'served.png'}", *short],
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run all commands in this process, and write the page."""
    flags = parse_flags(argv)
    from keras_tilt.cli.jobs import demo_page

    steps = []
    for module, words in commands(flags.out, flags.smoke).items():
        print(f"\n$ keras-tilt {' '.join(words)}", flush=True)
        start = time.monotonic()
        command = importlib.import_module(f"keras_tilt.cli.{module}")
        command.main(words[2 if words[0] == "export" else 1 :])
        seconds = round(time.monotonic() - start, 1)
        steps.append({"command": words, "seconds": seconds})
    page = demo_page.write(flags.out, steps)
    print(f"\nEverything on one page: {page}")
