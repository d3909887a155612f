"""Exports a classifier with its unnormalized log density, for TensorFlow Serving.

    image -> logits, p(y | x), log p(x) up to a constant, class, name of the class
    image -> logits, p(label y | x), of a network that ends in sigmoids

Images come as bytes of pixels, or as JPEG and PNG files of any size. Writes the next
version of the folder with model.config, batching.config, compose.yaml and README.md
beside it. Several labels of a network that ends in sigmoids may hold at once: there is
no class and no density, and the answer is the logits and the probability of each label.
"""

__all__ = ["main", "parse_flags"]

import argparse
import pathlib
from collections.abc import Sequence

from keras_tilt.cli.flags import (
    add_import,
    add_names,
    add_pixels,
    add_servable,
    command_parser,
)


def parse_flags(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the flags of a command line, or end with what is wrong with them."""
    parser = command_parser(__doc__, "export classifier", argv)
    add = parser.add_argument
    add("model", type=pathlib.Path, help=".keras file of a network of images")
    add_import(add)
    add_servable(add, "served/classifier")
    add_pixels(add)
    add_names(add)
    add("--seed", type=int, default=7, help="of the image of the golden request")
    add("--smoke", action="store_true", help="changes nothing: it is short as it is")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Read a model, write its servable, say where it is."""
    flags = parse_flags(argv)
    from keras_tilt.cli import process  # with TensorFlow, which takes seconds
    from keras_tilt.cli.jobs import exporting
    from keras_tilt.serving import exports, servable

    with process.as_exit():
        servable.check_can_write(flags.out)
        process.use_modules(flags.modules)
        classifier = exporting.classifier_of(
            flags.model, flags.names, flags.preprocess, flags.low, flags.high
        )
    version = exports.write_classifier(flags.out, classifier, flags.seed)
    kind = "classes" if classifier.has_classes else "labels"
    number = len(classifier.class_names)
    print(f"Written: {version}, a classifier of {number} {kind}")
    print(f"Serve it: {flags.out / 'README.md'}")
