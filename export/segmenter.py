"""Exports a segmenter, for TensorFlow Serving.

    image [, segments] -> label map, score of every pixel, share and score of classes

    python export/segmenter.py out/segmentation/segmenter.keras --out served/streets

Takes what train/segmentation.py writes, and the names of the classes from its run.json,
if --names has no others. A client sends pixels, or files of images of any size; and if
it likes, segments of its own, numbered in a map. Without them superpixels and their
unions are made in the graph, of TensorFlow's own operations. Writes the next version of
the folder with model.config, batching.config, compose.yaml and README.md beside it.

Expected: the golden request of the export, a made landscape, and its labels; half a
minute on two cores for a network like EfficientNet-Lite0.
"""

import argparse
import json
import pathlib

from keras_tilt.cli.flags import add_import, add_names, count, folder

RULES = {
    "vote": "the highest mean over its segments, small ones counting more",
    "paste": "that of the segment that is pasted there, 0 where none is",
}


def parse_flags():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("model", type=pathlib.Path, help="segmenter.keras of train/segmentation.py")
    add_import(add)
    add(
        "--out",
        type=folder,
        default="served/segmenter",
        help="folder; its last name is that of the model",
    )
    add_names(add)
    add("--rule", choices=RULES, default="vote", help="of labels")
    add("--max-iou", type=float, default=0.3, help="of segments that are pasted")
    add("--superpixels", type=count, default=500, help="of an image, at most")
    add("--side", type=count, default=320, help="of it for them, pixels, at most")
    add("--seed", type=int, default=7, help="of the image of the golden request")
    add("--smoke", action="store_true", help="few superpixels")
    flags = parser.parse_args()
    if flags.smoke:
        flags.superpixels = 50
    return flags


if __name__ == "__main__":
    parse_flags()  # may end here, before the seconds that TensorFlow takes

import keras_tilt as kt  # noqa: F401  (first: it sets TensorFlow's defaults)
import numpy as np
import tensorflow as tf

from keras_tilt import masking
from keras_tilt.cli import named
from keras_tilt.serving import servable
from keras_tilt.serving import image_bytes
from keras_tilt.serving import requests
from keras_tilt.masking import serving


def main():
    """Reads, writes the servable, says where it is."""
    flags = parse_flags()
    with named.as_exit():
        segmenter = segmenter_of(flags)
    image = masking.scenes.synthetic(1, IMAGE, flags.seed)[0].image
    golden = {"image_bytes": np.array([tf.io.encode_png(image).numpy()])}
    pieces = np.zeros([1, *IMAGE], np.int32)
    piece = tf.io.encode_png(np.zeros([*IMAGE, 1], np.uint8)).numpy()
    warmup = {
        "label_bytes": golden,
        "serving_default": {"image": image[np.newaxis]},
        "label_segments": {"image": image[np.newaxis], "segments": pieces},
        "label_segments_bytes": golden | {"segments_bytes": np.array([piece])},
    }
    version = servable.write_servable(
        flags.out,
        segmenter,
        ("label_bytes", golden),
        list(warmup.items()),
        {"class_names.json": list(segmenter.class_names)},
        requests.MOST_ROWS,
        readme(segmenter, flags),
    )
    print(f"Written: {version}, a segmenter of {len(segmenter.class_names)} classes")
    print(f"Serve it: {flags.out / 'README.md'}")


IMAGE = (96, 128)  # of the golden request


def segmenter_of(flags):
    """What is exported."""
    servable.check_can_write(flags.out)
    named.use_modules(flags.modules)
    model = named.load_model(flags.model)
    if not isinstance(model, masking.Segmenter):
        raise ValueError(
            f"Expected a Segmenter. Received: {flags.model}, a {type(model).__name__}. "
            "Fit one with train/segmentation.py."
        )
    return serving.ServedSegmenter(
        model,
        names_of(flags, model.num_classes),
        flags.rule,
        flags.superpixels,
        flags.side,
        flags.max_iou,
    )


def names_of(flags, number):
    """Names of the classes: given, or those that the run knows."""
    run = flags.model.parent / "run.json"
    if flags.names is None and run.exists():
        names = json.loads(run.read_text()).get("classes", [])
        if len(names) == number:
            return names
    return named.class_names(flags.names, number, flags.model)


def readme(segmenter, flags):
    """README.md of the servable."""
    written = (
        'open("labels.png", "wb").write(response.outputs["label_png_bytes"]'
        ".string_val[0])"
    )
    values = {
        "asking": servable.asking("label_bytes", written),
        "classes": len(segmenter.class_names),
        "rows": requests.MOST_ROWS,
        "pixels": f"{image_bytes.MOST_PIXELS:,}",
        "last": serving.MOST_SEGMENTS - 1,
        "rule": RULES[flags.rule],
        "superpixels": flags.superpixels,
        "side": flags.side,
        "none": 255 if len(segmenter.class_names) < 255 else 65535,
        "size": " x ".join(map(str, segmenter.size)),
    }
    return servable.readme("segmenter.md", values)


if __name__ == "__main__":
    main()
