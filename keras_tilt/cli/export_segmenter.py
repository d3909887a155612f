"""Exports a segmenter, for TensorFlow Serving.

    image [, segments] -> label map, score of every pixel, share and score of classes

Takes what train/segmentation.py writes, and the names of the classes from its run.json,
if --names has no others. A client sends pixels, or files of images of any size, and may
send segments of its own, numbered in a map. Without them superpixels and their unions
are made in the graph, of TensorFlow's own operations. Writes the next version of the
folder with model.config, batching.config, compose.yaml and README.md beside it.
"""

__all__ = ["main", "parse_flags"]

import argparse
import pathlib
from collections.abc import Sequence

from keras_tilt.cli.flags import (
    RULES,
    add_import,
    add_names,
    add_servable,
    command_parser,
    count,
)

IMAGE = (96, 128)  # of the golden request, pixels


def parse_flags(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the flags of a command line, or end with what is wrong with them."""
    parser = command_parser(__doc__, "export segmenter", argv)
    add = parser.add_argument
    add("model", type=pathlib.Path, help="segmenter.keras of keras-tilt segment")
    add_import(add)
    add_servable(add, "served/segmenter")
    add_names(add)
    add("--rule", choices=RULES, default="vote", help="how segments label pixels")
    add("--max-iou", type=float, default=0.3, help="of segments that are pasted")
    add("--superpixels", type=count, default=500, help="of an image, at most")
    add("--side", type=count, default=320, help="longest side to find them at, pixels")
    add("--seed", type=int, default=7, help="of the image of the golden request")
    add("--smoke", action="store_true", help="few superpixels")
    flags = parser.parse_args(argv)
    if flags.smoke:
        flags.superpixels = 50
    return flags


def main(argv: Sequence[str] | None = None) -> None:
    """Read a segmenter, write its servable, say where it is."""
    flags = parse_flags(argv)
    from keras_tilt.cli import process  # with TensorFlow, which takes seconds
    from keras_tilt.cli.jobs import exporting
    from keras_tilt.masking import scenes
    from keras_tilt.masking.serving import write_segmenter
    from keras_tilt.serving import servable

    with process.as_exit():
        servable.check_can_write(flags.out)
        process.use_modules(flags.modules)
        segmenter = exporting.segmenter_of(
            flags.model,
            flags.names,
            flags.rule,
            flags.superpixels,
            flags.side,
            flags.max_iou,
        )
    image = scenes.synthetic(1, IMAGE, flags.seed)[0].image
    version = write_segmenter(flags.out, segmenter, image)
    print(f"Written: {version}, a segmenter of {len(segmenter.class_names)} classes")
    print(f"Serve it: {flags.out / 'README.md'}")
