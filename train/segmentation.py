"""Objects and stuff by convolutional feature masking: a label for every pixel.

    proposals -> fine-tuning by segments -> [support vector machines] -> labels

Paper: Dai, He, Sun, "Convolutional feature masking for joint object and stuff
segmentation", CVPR 2015.

    python train/segmentation.py --data camvid.npz --stuff sky building road pavement \\
        tree fence --network NETWORK.keras --layer block10_add --size 540 720

trains on the split "train" and judges on "val" (--split test for the last numbers).
--data is an .npz, `synthetic`, or a folder of the kind that --dataset names. The
network is any classifier that Keras saved, of pixels in [0, 255]; its layers up to
--layer are used, on images of --size. A run that is interrupted goes on where it stood:
after the last image whose segments were proposed, and after the last epoch.

Writes OUT/result.json (mean IoU and IoU of each class, of labels that are pasted, voted
and the best that the proposals allow; AP of objects by their masks; recall of true
segments by the proposals), OUT/segmenter.keras and OUT/pictures.png.
"""

import argparse
import collections
import json
import os
import pathlib

from keras_tilt.cli.flags import add_import, count, folder

DATASETS = ("npz", "voc", "context", "coco", "synthetic")
PROPOSED_BY = ("proposals", "superpixels")


def parse_flags():
    """The command line; --smoke shrinks the defaults."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data", help=".npz, folder, or `synthetic`; in --data-dir if it is there")
    add("--data-dir", default=os.environ.get("KERAS_TILT_DATA"), help="folder")
    add("--dataset", choices=DATASETS, help="kind of data, where it is not plain")
    add("--sbd", help="folder of SBD, for more images of VOC to train on")
    add("--voc", help="VOCdevkit folder with the images of PASCAL-Context")
    add("--stuff", nargs="*", default=[], help="classes of an .npz that are stuff")
    add("--background", help="class of an .npz that is none of the others")
    add("--split", help="to judge on, default val; of COCO validation")
    add("--network", default="convnet", help="NETWORK.keras, or a name: new weights")
    add_import(add)
    add("--layer", default="relu3", help="whose map is masked")
    add("--size", type=count, nargs=2, default=[120, 160], help="of its images")
    add("--design", choices=("A", "B", "box"), default="A", help="box: without masks")
    add(
        "--pursuit",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="of segments of stuff; without it stuff is an object",
    )
    add("--classifier", choices=("softmax", "svm"), default="softmax", help="at last")
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
        help="fine_tuned.keras of a run with this design, not to do it again",
    )
    add("--learning-rate", type=float, default=1e-3, help="Adam's, cosine to 0")
    add("--hidden", type=count, default=512, help="width of a pathway")
    add("--images", type=count, default=4, help="in a batch")
    add("--segments", type=count, default=64, help="of an image in a batch")
    add(
        "--none-up-to",
        type=float,
        default=0.5,
        help="IoU or purity below which a segment is none; the paper's is 0.3",
    )
    add("--smallest-object", type=count, default=20, help="to train on, pixels")
    add("--max-iou", type=float, default=0.3, help="of segments that are pasted")
    add("--proposals", type=folder, help="folder, default OUT/proposals")
    add(
        "--proposed-by",
        choices=PROPOSED_BY,
        default="proposals",
        help="superpixels: those that a server makes",
    )
    add("--pictures", type=count, default=10, help="images drawn")
    add("--threads", type=count, help="TensorFlow threads; all cores by default")
    add("--seed", type=int, default=0, help="of weights, order and pursuit")
    add("--out", type=folder, default="out/segmentation", help="folder of the run")
    add("--smoke", action="store_true", help="2 epochs of a few synthetic scenes")
    flags = parser.parse_args()
    if flags.smoke:
        flags.data, flags.epochs, flags.size = "synthetic", 2, [60, 80]
        flags.hidden, flags.train_network = 32, True
    flags.proposals = flags.proposals or flags.out / "proposals"
    flags.split = flags.split or ("validation" if flags.dataset == "coco" else "val")
    return flags


if __name__ == "__main__":
    parse_flags()  # may end here, before the seconds that TensorFlow takes

import keras_tilt as kt
import keras
import numpy as np
import tensorflow as tf
from tqdm import auto as tqdm

from keras_tilt import masking, storage
from keras_tilt.cli import named

AP_THRESHOLDS = (0.5, 0.7)
RECALL_OF = (100, 200, 500, 1000)  # proposals, and of all


def main():
    """Proposals, training, judgement, pictures."""
    flags = parse_flags()
    named.use_threads(flags.threads)
    with named.as_exit():
        named.use_modules(flags.modules)
        train, test = scenes_of(flags)
        backbone = backbone_of(flags, len(train.class_names))
        segmenter = segmenter_of(flags, train)
        run = storage.Run(flags.out, settings_of(flags, train, test))
        proposals = storage.Run(flags.proposals, settings_of_proposals(flags))
    run.create()
    proposals.create()
    if segmenter is None or flags.classifier == "svm":
        propose(train, "train", flags)
        read = assignments(train, flags)
    if segmenter is None:
        segmenter = fine_tuned(flags, backbone, train, read)
    if flags.classifier == "svm":
        segmenter = with_machines(flags, segmenter, len(train), read)
    propose(test, flags.split, flags)
    found, maps, counts = predicted(segmenter, test, flags)
    result = judged(found, counts, test, flags)
    storage.replace(
        flags.out / "result.json",
        lambda part: part.write((json.dumps(result, indent=1) + "\n").encode()),
    )
    print(table(result))
    draw(maps, test, flags.out / "pictures.png")


def scenes_of(flags):
    """The scenes to train on and those to judge on."""
    if not flags.data:
        raise ValueError(
            "Expected --data, an .npz or a folder. Received: none. To see what comes "
            "out, try --data synthetic."
        )
    path = pathlib.Path(flags.data_dir or ".", flags.data)
    path = path if path.exists() else pathlib.Path(flags.data)
    kind = flags.dataset or ("synthetic" if flags.data == "synthetic" else "npz")
    if kind == "voc" and flags.sbd:
        train = masking.scenes.voc_and_sbd(path, flags.sbd)
        return train, masking.scenes.voc(path, flags.split)
    return tuple(opened(kind, path, s, flags) for s in ("train", flags.split))


def opened(kind, path, split, flags):
    """The scenes of one split."""
    if kind == "synthetic":
        number = (12 if flags.smoke else 200) if split == "train" else 10
        size = (60, 80) if flags.smoke else (120, 160)
        return masking.scenes.synthetic(number, size, seed=int(split == "train"))
    if kind == "voc":
        return masking.scenes.voc(path, split)
    if kind == "coco":
        return masking.scenes.coco_panoptic(path, split)
    if kind == "context":
        if not flags.voc:
            raise ValueError(
                "Expected --voc, the VOCdevkit folder with the images of "
                "PASCAL-Context. Received: none. Name it beside --data."
            )
        return masking.scenes.pascal_context(path, flags.voc, split)
    return masking.scenes.npz(path, split, flags.stuff, flags.background)


def backbone_of(flags, num_classes):
    """The network up to the layer, for images of the size."""
    size = tuple(flags.size)
    if flags.network.endswith(".keras"):
        network = named.load_model(pathlib.Path(flags.network))
    else:
        network = named.network(flags.network, (*size, 3), num_classes, flags.seed)
    return masking.backbone(network, flags.layer, size)


def segmenter_of(flags, scenes):
    """The segmenter that another run has fine-tuned, if one is named."""
    if flags.fine_tuned is None:
        return None
    segmenter = named.load_model(flags.fine_tuned)
    num_classes = len(scenes.class_names)
    expected = masking.Segmenter, flags.design, num_classes, tuple(flags.size)
    expected += scenes.background, False
    found = (type(segmenter),)
    if isinstance(segmenter, masking.Segmenter):
        found += segmenter.design, segmenter.num_classes, segmenter.cells.image_shape
        found += segmenter.background, segmenter.margins
    if found != expected:
        raise ValueError(
            f"Expected --fine-tuned, a segmenter of design {flags.design} for "
            f"{num_classes} classes and images of {tuple(flags.size)}, of the "
            f"background {scenes.background} and without machines. Received: "
            f"{flags.fine_tuned}, {', '.join(map(str, found[1:])) or found[0].__name__}"
            ". Name fine_tuned.keras of a run with the same --design and --size."
        )
    return segmenter


def settings_of(flags, train, test):
    """What a run depends on: a folder holds one run."""
    names = ("data", "dataset", "sbd", "voc", "background", "network")
    names += ("layer", "size", "design", "pursuit", "classifier")
    names += ("train_network", "epochs", "learning_rate", "hidden", "images")
    names += ("segments", "none_up_to", "smallest_object", "max_iou", "seed")
    return {name: getattr(flags, name) for name in names} | {
        "fine_tuned": flags.fine_tuned and str(flags.fine_tuned),
        "proposed_by": flags.proposed_by,
        "split": flags.split,
        "images_of_splits": [len(train), len(test)],
        "classes": train.class_names,
        "stuff": sorted(train.stuff),
    }


def settings_of_proposals(flags):
    """What the segments of the images depend on, which runs may share."""
    names = ("data", "dataset", "sbd", "voc", "proposed_by")
    return {name: getattr(flags, name) for name in names} | {"smoke": flags.smoke}


# Segments


def propose(scenes, split, flags):
    """Writes the proposals of every image of a split that has none yet."""
    folder = flags.proposals / split
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{scenes.name(i)}.npz" for i in range(len(scenes))]
    missing = [i for i, file in enumerate(files) if not file.exists()]
    of_image = {
        "proposals": masking.proposals.proposals,
        "superpixels": superpixels_of(),
    }[flags.proposed_by]
    for i in tqdm.tqdm(missing, desc=f"Proposals of {split}", unit="image"):
        arrays = masking.segments.arrays(of_image(scenes[i].image))
        storage.replace(files[i], lambda part, a=arrays: np.savez_compressed(part, **a))


def superpixels_of():
    """Function of an image: the segments that a server makes of it."""
    pixels = tf.TensorSpec([None, None, 3], tf.uint8)
    graph = tf.function(masking.superpixels.segments_of, input_signature=[pixels])
    return lambda image: masking.Segments(*(part.numpy() for part in graph(image)))


def proposals_of(scenes, folder, i):
    """The proposals of an image."""
    return masking.segments.of_file(folder / f"{scenes.name(i)}.npz")


def assignments(scenes, flags):
    """Function of a number: the image, and what its segments are trained as."""
    stuff = scenes.stuff if flags.pursuit else ()
    known = {}

    def read(i):
        scene = scenes[i]
        if i not in known:
            proposed = proposals_of(scenes, flags.proposals / "train", i)
            known[i] = assigned(scene, proposed, scenes, stuff, flags.smallest_object)
        return scene.image, known[i]

    for i in tqdm.trange(len(scenes), desc="True segments", unit="image"):
        read(i)
    return read


def assigned(scene, proposed, scenes, stuff, smallest):
    """Proposals and true objects of a scene, and what they are trained as."""
    num_classes = len(scenes.class_names)
    classes = set(range(num_classes)) - {scenes.background}
    objects = masking.scenes.objects(scene, classes - set(scenes.stuff))
    objects = [(c, mask) for c, mask in objects if mask.sum() >= smallest]
    for c in set(scenes.stuff) - set(stuff):
        objects += [(c, scene.labels == c)] * bool(np.any(scene.labels == c))
    if objects:
        true = masking.segments.of_masks(np.stack([mask for _, mask in objects]))
        proposed = masking.segments.joined(proposed, true)
    return masking.assign(proposed, scene.labels, objects, num_classes, stuff)


# Training


def fine_tuned(flags, backbone, scenes, read):
    """The segmenter after all epochs; those before an interruption are not redone."""
    file = flags.out / "fine_tuned.keras"
    steps = -(-len(scenes) // flags.images)
    if file.exists():
        segmenter = keras.models.load_model(file)
    else:
        segmenter = new_segmenter(
            flags, backbone, len(scenes.class_names), scenes.background, steps
        )
    done = int(segmenter.optimizer.iterations)
    with tqdm.tqdm(
        total=steps * flags.epochs, initial=done, desc="Fine-tuning", unit="batch"
    ) as bar:
        for epoch in range(done // steps, flags.epochs):
            seed_dropout(segmenter, flags.seed, epoch)
            segmenter.fit(
                batches_of(epoch, flags, len(scenes), read),
                shuffle=False,
                verbose=0,
                callbacks=[moving(bar)],
            )
            storage.save_model(file, segmenter)
    return segmenter


def batches_of(epoch, flags, number, read):
    """The batches of an epoch."""
    return masking.examples.training_batches(
        read,
        number,
        tuple(flags.size),
        seed=flags.seed,
        epoch=epoch,
        images=flags.images,
        segments=flags.segments,
        negative=(0.1, flags.none_up_to),
    )


def moving(bar):
    """A callback that moves the bar; loss and accuracy are means over the epoch."""

    def batch_end(batch, logs):
        shown = {name: f"{logs[name]:.3f}" for name in ("loss", "accuracy")}
        bar.set_postfix(shown, refresh=False)
        bar.update()

    return keras.callbacks.LambdaCallback(on_train_batch_end=batch_end)


def seed_dropout(segmenter, seed, epoch):
    """Makes what an epoch drops a function of seed and epoch: no file holds it."""
    states = [v for v in segmenter.variables if v.path.endswith("generator_state")]
    for number, state in enumerate(states):
        rng = np.random.default_rng([seed, epoch, number])
        state.assign(rng.integers(2**31, size=2))


def new_segmenter(flags, backbone, num_classes, background, steps):
    """A segmenter, compiled."""
    keras.utils.set_random_seed(flags.seed)
    segmenter = masking.Segmenter(
        backbone,
        backbone.layers[-1].name,
        num_classes,
        design=flags.design,
        hidden=(flags.hidden,),
        train_network=flags.train_network,
        background=background,
    )
    segmenter.compile(
        keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(
                flags.learning_rate, steps * flags.epochs
            )
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
        jit_compile=False,
    )
    return segmenter


def with_machines(flags, segmenter, number, read):
    """The segmenter with support vector machines in the place of its softmax."""
    embed = tf.function(segmenter.embed, reduce_retracing=True)

    def vectors(i):
        image, assignment = read(i)
        size = tuple(flags.size)
        return embed(
            masking.examples.inputs_of(image, assignment.segments, size)
        ).numpy()[0]

    machines = masking.svm.fit(vectors, lambda i: read(i)[1], number, seed=flags.seed)
    segmenter.set_machines(machines)
    return segmenter


# Judging


def predicted(segmenter, scenes, flags):
    """Of every image its segments and their scores; some label maps; their agreement.

    Agreement is pixels by true and found class, of all images together.
    """
    storage.save_model(flags.out / "segmenter.keras", segmenter)
    scores_of = tf.function(segmenter.scores, reduce_retracing=True)
    number, num_classes = len(scenes), len(scenes.class_names)
    drawn = np.linspace(0, number - 1, min(flags.pictures, number)).astype(int)
    found, shown, counts = [], {}, collections.Counter()
    for i in tqdm.trange(number, desc="Labels", unit="image"):
        scene = scenes[i]
        segments = proposals_of(scenes, flags.proposals / flags.split, i)
        inputs = masking.examples.inputs_of(scene.image, segments, tuple(flags.size))
        scores = scores_of(inputs).numpy()[0]
        maps = label_maps(segments, scores, scenes, flags)
        maps["best"] = majority(segments, scene.labels, num_classes)
        for rule, labels in maps.items():
            counts[rule] += masking.scores.confusion(scene.labels, labels, num_classes)
        if i in drawn:
            shown[i] = maps
        found.append((segments, scores))
    return found, shown, counts


def label_maps(segments, scores, scenes, flags):
    """The label of every pixel, by each rule."""
    background = scenes.background
    bounds = {"max_iou": flags.max_iou, "fill": background is None}
    return {
        "paste": masking.label_map(segments, scores, background=background, **bounds),
        "vote": masking.label_map(segments, scores, "vote", background),
    }


def judged(found, counts, scenes, flags):
    """The numbers of the run."""
    objects = sorted(
        set(range(len(scenes.class_names))) - scenes.stuff - {scenes.background}
    )
    return {
        "design": flags.design,
        "pursuit": flags.pursuit,
        "classifier": flags.classifier,
        "seed": flags.seed,
        "split": flags.split,
        "proposals": float(np.mean([len(segments) for segments, _ in found])),
        "recall": recalls(found, scenes, flags),
        "labels": {
            rule: agreement(counts[rule], scenes.class_names) for rule in counts
        },
        "ap": precisions(found, scenes, objects, flags.smallest_object),
    }


def agreement(counts, names):
    """Of label maps with the truth: mean IoU, IoU by class, share of pixels."""
    iou = masking.scores.class_iou(counts)
    return {
        "mean_iou": float(np.nanmean(iou)),
        "iou": dict(zip(names, iou.tolist(), strict=True)),
        "pixel_accuracy": float(counts.diagonal().sum() / counts.sum()),
    }


def majority(segments, truth, num_classes):
    """The best labels that unions of the segments' atoms can have."""
    atoms = segments.select(np.arange(len(segments))).atoms
    pieces = masking.segments.of_label_map(atoms)
    counts = pieces.pixels_by_label(truth, num_classes)
    return np.append(counts.argmax(axis=1), -1)[atoms]


def recalls(found, scenes, flags):
    """Shares of the true segments, of stuff and objects, that the first n come near.

    Superpixels come in no order: of them it is only all.
    """
    numbers = RECALL_OF if flags.proposed_by == "proposals" else ()
    numbers += (max(len(segments) for segments, _ in found),)
    classes = set(range(len(scenes.class_names))) - {scenes.background}
    best = [np.zeros([len(numbers), 0])]
    for i, (segments, _) in enumerate(found):
        objects = masking.scenes.objects(scenes[i], classes)
        masks = [mask for _, mask in objects if mask.sum() >= flags.smallest_object]
        if masks:
            iou = masking.segments.of_masks(np.stack(masks)).iou(segments)
            best.append(np.stack([iou[:, :n].max(1, initial=0.0) for n in numbers]))
    best = np.concatenate(best, axis=1)
    return {
        str(n): {str(t): share(some >= t) for t in AP_THRESHOLDS}
        | {"mean_best_iou": share(some)}
        for n, some in zip(numbers, best, strict=True)
    }


def share(values):
    """Mean, NaN of none."""
    return float(np.mean(values)) if len(values) else float("nan")


def precisions(found, scenes, classes, smallest):
    """Average precision of the objects of classes, by threshold and name."""
    matches = {c: [] for c in classes}
    for i, (segments, scores) in enumerate(found):
        objects = masking.scenes.objects(scenes[i], classes)
        for c in classes:
            true = [mask for label, mask in objects if label == c]
            true = [mask for mask in true if mask.sum() >= smallest]
            best = masking.found_objects(segments, scores[:, c])
            iou = np.zeros([len(best), 0])
            if true:
                truth = masking.segments.of_masks(np.stack(true))
                iou = segments.select(best).iou(truth)
            matches[c].append((iou, scores[best, c]))
    return {
        str(threshold): {
            scenes.class_names[c]: precision(matches[c], threshold) for c in classes
        }
        for threshold in AP_THRESHOLDS
    }


def precision(matches, threshold):
    """Average precision of IoU and scores of what was found, image by image."""
    hits = [masking.scores.matched(iou, scores, threshold) for iou, scores in matches]
    return masking.scores.average_precision(
        np.concatenate(hits),
        np.concatenate([scores for _, scores in matches]),
        sum(iou.shape[1] for iou, _ in matches),
    )


def table(result):
    """The numbers as text."""
    columns = result["labels"].values()
    lines = [f"{'IoU %':>20}" + "".join(f"{rule:>7}" for rule in result["labels"])]
    for name in result["labels"]["best"]["iou"]:
        cells = [f"{100 * column['iou'][name]:7.1f}" for column in columns]
        lines.append(f"{name:>20}" + "".join(cells))
    cells = [f"{100 * column['mean_iou']:7.1f}" for column in columns]
    lines.append(f"{'mean':>20}" + "".join(cells))
    for threshold, precisions in result["ap"].items():
        mean = np.nanmean(list(precisions.values()))
        lines.append(f"{f'mAP^r at {threshold}':>20} {100 * mean:6.1f}")
    for number, recall in result["recall"].items():
        lines.append(f"{f'recall by {number}':>20} {100 * recall['0.5']:6.1f}")
    lines.append("paste, vote: labels by either rule; best: of pieces of the proposals")
    lines.append("recall: of true segments by the first proposals, at an IoU of 0.5")
    return "\n".join(lines)


def draw(shown, scenes, path):
    """Image, truth and labels of some scenes."""
    maps = [[scenes[i].labels for i in shown]]
    maps += [[found[rule] for found in shown.values()] for rule in masking.RULES]
    kt.plotting.label_maps(
        [scenes[i].image for i in shown],
        maps,
        scenes.class_names,
        ["truth", *masking.RULES],
    ).savefig(path, dpi=150)
    print(f"Pictures: {path}")


if __name__ == "__main__":
    main()
