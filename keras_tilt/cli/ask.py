"""Asks an exported sampler for images, without a server, with TensorFlow alone.

    golden request, then units and seeds -> a picture

Loads the highest version of the folder, makes the golden request, whose response must
come back bit for bit on the machine that exported it, and then that of the flags:
--images images of each unit, with seeds (--seed, 0), (--seed, 1), ..., in a PNG with
a row for each unit.
"""

__all__ = ["main", "parse_flags"]

import argparse
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from keras_tilt.cli.flags import command_parser, count, file, whole

UNIT = "units of the export, by name, class:3, or by place from 0"
NUMBERS = ("f", "log_density", "log_prob", "accept_rate")
SAME = "the golden response, bit for bit"
ANOTHER = "ANOTHER RESPONSE, as another processor, build or number of threads has"


def parse_flags(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the flags of a command line, or end with what is wrong with them."""
    parser = command_parser(__doc__, "ask", argv)
    add = parser.add_argument
    add("folder", type=pathlib.Path, help="written by keras-tilt export sampler")
    add("--unit", nargs="+", default=["0"], metavar="UNIT", help=UNIT)
    add("--seed", type=whole, default=7, help="equal seeds give equal images")
    add("--temperature", type=float, default=1.0, help="f is divided by it")
    add("--images", type=count, default=8, help="of each unit")
    add("--out", type=file, default="out/asked.png", help="PNG")
    add("--smoke", action="store_true", help="one image of each unit")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Load, check, ask, print, draw."""
    flags = parse_flags(argv)
    from keras_tilt.serving import asking  # with TensorFlow, which takes seconds

    try:
        version = asking.newest_version(flags.folder)
        signatures = asking.signatures_of(version)
        units = asking.places_of(version, flags.unit)
        expected, found = asking.golden_responses(version, signatures)
        is_same = all(asking.same(found[name], expected[name]) for name in expected)
        print(f"Golden request: {SAME if is_same else ANOTHER}")
        if not is_same:
            print("  expected f", expected["f"], "received f", found["f"])
        seeds = range(1 if flags.smoke else flags.images)
        pairs = [(unit, seed) for unit in units for seed in seeds]
        start = time.monotonic()
        answer = asking.answers_of(signatures, pairs, flags.seed, flags.temperature)
        seconds = time.monotonic() - start
        spent = f"{seconds:.2f} s, the first call of its signature"
        print(f"{len(pairs)} images in {spent}")
        print("\n".join(lines_of(answer, pairs, flags.seed)))
        asking.write_picture(flags.out, answer["image"], columns=len(seeds))
    except ValueError as error:
        raise SystemExit(f"{error}") from error
    print(f"Picture: {flags.out}")


def lines_of(
    answer: Mapping[str, Any], pairs: Sequence[tuple[int, int]], seed: int
) -> list[str]:
    """Return what is known of each image, as lines of text.

    Args:
        answer: arrays [pairs] by name.
        pairs: (unit, second half of the seed) of each image.
        seed: first half of the seeds.
    """
    lines = []
    for i, (unit, each) in enumerate(pairs):
        numbers = [f"{n} {answer[n][i]:.4g}" for n in NUMBERS if n in answer]
        verdict = "converged" if answer["converged"][i] else "not certified to converge"
        lines.append(
            f"unit {unit}, seed ({seed}, {each}): {', '.join(numbers)}, {verdict}"
        )
    return lines
