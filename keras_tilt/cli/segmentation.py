"""Objects and stuff by convolutional feature masking: a label for every pixel.

    proposals -> fine-tuning by segments -> [linear SVMs] -> labels

The network is any classifier that Keras saved, of pixels in [0, 255]; its layers up to
--layer are used, on images of --size. A run that is interrupted goes on where it stood:
after the last image whose segments were proposed, and after the last epoch.

Writes OUT/result.json (mean IoU and IoU of each class, of labels that are pasted, voted
and the best that the proposals allow; AP of objects by their masks; recall of true
segments by the proposals), OUT/segmenter.keras and OUT/pictures.png.

Source: Dai, He, Sun, "Convolutional feature masking for joint object and stuff
segmentation", CVPR 2015.
"""

__all__ = ["main", "parse_flags"]

import argparse
import functools
import os
import pathlib
from collections.abc import Sequence

from keras_tilt.cli.flags import (
    add_import,
    add_threads,
    command_parser,
    count,
    folder,
)

DATASETS = ("npz", "voc", "context", "coco", "synthetic")
PROPOSED_BY = ("proposals", "superpixels")
DESIGNS = ("A", "B", "box")  # of `keras_tilt.masking`
# What each step is given of the flags.
DATA = ("data", "dataset", "sbd", "voc")
SCENES = (*DATA, "data_dir", "stuff", "background", "split")
SEGMENTER = ("design", "hidden", "train_network")
RECIPE = (*SEGMENTER, "epochs", "learning_rate", "images", "segments", "none_up_to")
NETWORK = ("network", "layer", "size", "background")
JUDGING = ("pursuit", "classifier", "smallest_object", "max_iou", "split")
# What a run depends on; what the segments of images depend on, which runs may share.
SETTINGS = (*DATA, *NETWORK, *RECIPE, *JUDGING, "seed", "proposed_by")
OF_PROPOSALS = (*DATA, "proposed_by", "smoke")
SHOWN = ("design", "pursuit", "classifier", "seed", "split")


def parse_flags(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the flags of a command line; --smoke shrinks the defaults."""
    parser = command_parser(__doc__, "segment", argv)
    add = parser.add_argument
    _add_scenes(add)
    _add_network(add)
    _add_training(add)
    _add_segments(add)
    add("--pictures", type=count, default=10, help="images drawn")
    add_threads(add)
    add("--seed", type=int, default=0, help="of weights, order and pursuit")
    add("--out", type=folder, default="out/segmentation", help="folder of the run")
    add("--smoke", action="store_true", help="2 epochs of a few synthetic scenes")
    flags = parser.parse_args(argv)
    if flags.smoke:
        flags.data, flags.epochs, flags.size = "synthetic", 2, [60, 80]
        flags.hidden, flags.train_network = 32, True
    flags.proposals = flags.proposals or flags.out / "proposals"
    flags.split = flags.split or ("validation" if flags.dataset == "coco" else "val")
    return flags


def _add_scenes(add):
    """Add which images there are, and what is stuff."""
    add("--data", help=".npz, folder, or `synthetic`; in --data-dir if it is there")
    add("--data-dir", default=os.environ.get("KERAS_TILT_DATA"), help="folder")
    add("--dataset", choices=DATASETS, help="kind of data, if --data does not say")
    add("--sbd", help="folder of SBD, for more images of VOC to train on")
    add("--voc", help="VOCdevkit folder with the images of PASCAL-Context")
    add("--stuff", nargs="*", default=[], help="classes of an .npz that are stuff")
    add("--background", help="class of an .npz that is none of the others")
    add("--split", help="to judge on, default val; of COCO validation")


def _add_network(add):
    """Add the network, and what is made of it."""
    add("--network", default="convnet", help="NETWORK.keras, or a name: new weights")
    add_import(add)
    add("--layer", default="relu3", help="whose map is masked")
    add("--size", type=count, nargs=2, default=[120, 160], help="height, width, pixels")
    add("--design", choices=DESIGNS, default="A", help="box: without masks")
    add(
        "--pursuit",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="of segments of stuff; without it stuff is an object",
    )
    add(
        "--classifier",
        choices=("softmax", "svm"),
        default="softmax",
        help="of segments, after fine-tuning",
    )


def _add_training(add):
    """Add how the segmenter is fine-tuned."""
    add(
        "--train-network",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="all weights, not only those above the map",
    )
    add("--epochs", type=count, default=8, help="of fine-tuning")
    add(
        "--fine-tuned",
        type=pathlib.Path,
        help="fine_tuned.keras of a run with this design, to skip fine-tuning",
    )
    add("--learning-rate", type=float, default=1e-3, help="Adam's, cosine to 0")
    add("--hidden", type=count, default=512, help="width of a pathway")
    add("--images", type=count, default=4, help="in a batch")
    add("--segments", type=count, default=64, help="of an image in a batch")


def _add_segments(add):
    """Add where segments come from, and what they are trained and pasted as."""
    add(
        "--none-up-to",
        type=float,
        default=0.5,
        help="IoU or purity up to which a segment has no class; the paper's is 0.3",
    )
    add("--smallest-object", type=count, default=20, help="area that counts, pixels")
    add("--max-iou", type=float, default=0.3, help="of segments that are pasted")
    add("--proposals", type=folder, help="folder, default OUT/proposals")
    add(
        "--proposed-by",
        choices=PROPOSED_BY,
        default="proposals",
        help="superpixels: those that a server makes",
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Propose segments, train, judge, draw."""
    flags = parse_flags(argv)
    from keras_tilt import storage
    from keras_tilt.cli import process  # with TensorFlow, which takes seconds
    from keras_tilt.cli.jobs.scenes import fine_tuning, proposing, scene_sets, scoring

    def given(names):
        return {name: getattr(flags, name) for name in names}

    process.use_threads(flags.threads)
    with process.as_exit():
        process.use_modules(flags.modules)
        train, test = scene_sets.named_scenes(**given(SCENES), short=flags.smoke)
        size = tuple(flags.size)
        recipe = fine_tuning.Recipe(**given(RECIPE), size=size, seed=flags.seed)
        backbone = recipe.backbone(flags.network, flags.layer, len(train.class_names))
        segmenter = recipe.loaded(flags.fine_tuned, train)
        known = scene_sets.settings_of(train, test, flags.fine_tuned)
        run = storage.Run(flags.out, given(SETTINGS) | known)
        shared = storage.Run(flags.proposals, given(OF_PROPOSALS))
    run.create()
    shared.create()
    proposals = proposing.Proposals(flags.proposals, flags.proposed_by)
    smallest, svms = flags.smallest_object, flags.classifier == "svm"
    if segmenter is None or svms:
        read = proposing.assignments(train, proposals, flags.pursuit, smallest)
        start = backbone if segmenter is None else segmenter
        segmenter = recipe.trained(flags.out, start, train, read, svms)
    proposals.make(test, flags.split)
    storage.save_model(flags.out / "segmenter.keras", segmenter)
    read_test = functools.partial(proposals.read, test, flags.split)
    found = scoring.found_in(
        test, read_test, segmenter, size, flags.max_iou, flags.pictures
    )
    ranked = flags.proposed_by == "proposals"
    result = given(SHOWN) | scoring.judged(found, test, smallest, ranked)
    scoring.write(result, flags.out / "result.json")
    print(scoring.table(result))
    scoring.draw(found.shown, test, flags.out / "pictures.png")
