"""Exports a classifier with its generative score, for TensorFlow Serving.

    image -> logits, p(y | x), log p(x) up to a constant, class, name of the class
    image -> logits, p(label y | x), of a network that ends in sigmoids

    python export/classifier.py out/demo/models/gg-dg-seed0-epoch25.keras \\
        --out served/digits_classifier

Images come as bytes of pixels, or as JPEG and PNG files of any size. Writes the next
version of the folder with model.config, batching.config, compose.yaml and README.md
beside it.
Labels that may hold beside each other, of a network that ends in sigmoids, have no
density and no class: their answer is the logits and the probability of each label.

Expected: the golden request of the export, an image of noise, and its class; a few
seconds on two cores.
"""

import argparse
import pathlib

from keras_tilt.cli.flags import add_import, add_names, add_pixels, folder


def parse_flags():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("model", type=pathlib.Path, help=".keras file of a network of images")
    add_import(add)
    add(
        "--out",
        type=folder,
        default="served/classifier",
        help="folder; its last name is that of the model",
    )
    add_pixels(add)
    add_names(add)
    add("--seed", type=int, default=7, help="of the image of the golden request")
    add("--smoke", action="store_true", help="changes nothing: it is short as it is")
    return parser.parse_args()


if __name__ == "__main__":
    parse_flags()  # may end here, before the seconds that TensorFlow takes

import keras_tilt as kt  # noqa: F401  (first: it sets TensorFlow's defaults)
import numpy as np
import tensorflow as tf

from keras_tilt import serving
from keras_tilt.cli import named
from keras_tilt.serving import servable
from keras_tilt.serving import image_bytes
from keras_tilt.serving import requests
from keras_tilt.networks import graph


def main():
    """Reads, writes the servable, says where it is."""
    flags = parse_flags()
    with named.as_exit():
        classifier = classifier_of(flags)
    golden = {"image_bytes": np.array([noise_file(classifier.shape, flags.seed)])}
    image = np.zeros([1, *classifier.shape], np.uint8)
    names = classifier.class_names
    version = servable.write_servable(
        flags.out,
        classifier,
        ("classify_bytes", golden),
        [("classify_bytes", golden), ("serving_default", {"image": image})],
        {"class_names.json": list(names)},
        requests.MOST_ROWS,
        readme(classifier, flags),
    )
    kind = "classes" if classifier.has_classes else "labels"
    print(f"Written: {version}, a classifier of {len(names)} {kind}")
    print(f"Serve it: {flags.out / 'README.md'}")


def classifier_of(flags):
    """What is exported."""
    servable.check_can_write(flags.out)
    named.use_modules(flags.modules)
    model = named.load_model(flags.model)
    network = graph.network_of(model)
    check_channels(named.image_shape(network))
    names = named.class_names(flags.names, checked_classes(network), flags.model)
    flags.low, flags.high, reason = named.pixel_range(
        network, flags.low, flags.high, flags.preprocess
    )
    print(f"Pixels: black {flags.low:g}, white {flags.high:g}, {reason}", flush=True)
    return serving.ServedClassifier(
        model,
        flags.low,
        flags.high,
        names,
        named.preprocessing(flags.preprocess),
    )


def checked_classes(network):
    """Number of classes, or a ValueError for a network of other outputs."""
    number = named.num_classes(network)
    if number is None:
        shapes = [tuple(tensor.shape) for tensor in network.outputs]
        raise ValueError(
            "Expected a network of one output [n, classes]. Received: outputs "
            f"{shapes}. Save a model of one of them: keras.Model(network.inputs, "
            "network.outputs[0])."
        )
    return number


def check_channels(shape):
    """Raise a ValueError for images that are in no file."""
    if shape[-1] not in (1, 3, 4):
        raise ValueError(
            "Expected images of 1, 3 or 4 channels, as files have. Received: "
            f"{shape[-1]}. Serve the network itself with model.export(...)."
        )


def noise_file(shape, seed):
    """A PNG of noise."""
    image = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    return tf.io.encode_png(image).numpy()


def readme(classifier, flags):
    """README.md of the servable."""
    has_classes = classifier.has_classes
    kind = "classes" if has_classes else "labels"
    output = "class_name" if has_classes else "probabilities"
    shown = f'print(tf.make_ndarray(response.outputs["{output}"]))'
    values = {
        "head": servable.template(f"{kind}_head.md"),
        "answer": servable.template(f"{kind}_answer.md"),
        "asking": servable.asking("classify_bytes", shown),
        "shape": ", ".join(map(str, classifier.shape)),
        "classes": len(classifier.class_names),
        "low": f"{flags.low:g}",
        "high": f"{flags.high:g}",
        "rows": requests.MOST_ROWS,
        "pixels": f"{image_bytes.MOST_PIXELS:,}",
    }
    return servable.readme("classifier.md", values)


if __name__ == "__main__":
    main()
