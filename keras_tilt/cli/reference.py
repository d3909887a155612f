"""Learns a reference q from images: a generator of images like them.

    x = T(u),     u ~ N(0, I),     q = the law of x

With --components they are principal components, in seconds and of any size; else a
variational autoencoder, in minutes, of up to 96 pixels along an edge.

With it any unit is drawn among such images: `keras-tilt see NETWORK.keras --unit ...
--reference latent:q.keras`, and likewise in `digits` and `export sampler`. A fit that
was interrupted goes on where it was, and one that is done is not done again.
"""

__all__ = ["main", "parse_flags"]

import argparse
import os
import pathlib
import shutil
from collections.abc import Sequence

from keras_tilt.cli.flags import (
    add_threads,
    command_parser,
    count,
    file,
    positive,
    whole,
)

# What `fit_components`, and `fit_latent`, are given of the flags.
COMPONENTS = ("latent_size", "seed")
FITTED = ("latent_size", "width", "stddev", "principal", "epochs", "batch_size", "seed")


def parse_flags(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the flags of a command line; --smoke shrinks them."""
    parser = command_parser(__doc__, "reference", argv)
    add = parser.add_argument
    add(
        "data",
        help="digits (embedded), NAME.npz, a folder of images, one of train and val, "
        "Tiny ImageNet, or a data set that TFDS has prepared in --data-dir",
    )
    add(
        "--data-dir",
        type=pathlib.Path,
        default=os.environ.get("KERAS_TILT_DATA"),
        help="folder of a data set by name",
    )
    add("--size", type=count, help="scale and crop images to so many pixels an edge")
    add("--out", type=file, default="out/q.keras", help=".keras file")
    add("--latent-size", type=count, default=24, help="numbers of noise of one image")
    add(
        "--components",
        action="store_true",
        help="principal components alone; a latent size of 300 to 1000",
    )
    _add_networks(add)
    add("--seed", type=whole, default=0, help="equal seeds give equal generators")
    add("--force", action="store_true", help="fit though --out is there")
    add_threads(add)
    add("--smoke", action="store_true", help="two epochs of a small generator")
    flags = parser.parse_args(argv)
    if flags.out.suffix != ".keras":
        parser.error(f"Expected --out FILE.keras. Received: {flags.out}.")
    if flags.smoke:
        flags.epochs, flags.width, flags.latent_size = 2, 4, 4
    return flags


def _add_networks(add):
    """Add what only the networks of an autoencoder have."""
    add("--width", type=count, default=32, help="channels of the finest cells")
    add("--stddev", type=positive, default=0.14, help="of a pixel, share of white")
    add(
        "--principal",
        action="store_true",
        help="begin at principal components, for photographs; with a latent size of "
        "about 128 and a stddev of .1",
    )
    add("--epochs", type=count, default=30, help="passes over the images")
    add("--batch-size", type=count, default=64, help="images per step")


def main(argv: Sequence[str] | None = None) -> None:
    """Fit, measure, write; the same command goes on if it is interrupted."""
    flags = parse_flags(argv)
    from keras_tilt.cli import process  # with TensorFlow, which takes seconds
    from keras_tilt.cli.jobs import learning
    from keras_tilt.reference.learned import fit_components, fit_latent

    process.use_threads(flags.threads)
    named = COMPONENTS if flags.components else FITTED
    settings = {name: getattr(flags, name) for name in named}
    said = {"data": flags.data, "size": flags.size, **settings}
    work = flags.out.with_suffix(".fit")
    with process.resumable(), process.as_exit():
        law = None if flags.force else learning.law_of_before(flags.out, said)
        if law is None:
            pair = learning.image_pairs(flags.data, flags.data_dir, flags.size)
            if flags.components:
                generator = fit_components(pair[0], held_out=pair[1], **settings)
            else:
                generator = fit_latent(
                    pair[0], held_out=pair[1], directory=work, **settings
                )
            law = generator.law
            learning.write(flags.out, generator, said)
    shutil.rmtree(work, ignore_errors=True)
    print(learning.law_table(law))
    print(f"\nGenerator: {flags.out}; its law: {flags.out.with_suffix('.json')}")
    print(f"Picture:   {flags.out.with_suffix('.png')}")
    print(f"Use it:    --reference latent:{flags.out}")
