"""How well segments are proposed and labelled: IoU, recall and average precision.

    labels      of two rules, and the best that the proposals allow
    recall      share of the true segments that the first n proposals come near
    AP          of objects, by their masks

Source: Dai, He, Sun, CVPR 2015.
"""

__all__ = ["Found", "draw", "found_in", "judged", "table", "write"]

import collections
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tqdm import auto as tqdm

from keras_tilt import plotting, storage
from keras_tilt.masking import examples, scores, segments
from keras_tilt.masking import scenes as labelled
from keras_tilt.masking.labelling import RULES, found_objects, label_map
from keras_tilt.masking.scenes import Scenes
from keras_tilt.masking.segmenter import Segmenter
from keras_tilt.masking.segments import Segments

AP_THRESHOLDS = (0.5, 0.7)
RECALL_OF = (100, 200, 500, 1000)  # proposals, and of all

LabelMaps = dict[str, np.ndarray]  # by the rule


class Found(NamedTuple):
    """What a segmenter finds in scenes."""

    segments: list[tuple[Segments, np.ndarray]]  # of each image, and their scores
    shown: dict[int, LabelMaps]  # of some images
    counts: dict[str, np.ndarray]  # pixels by true and found class, of each rule


def found_in(
    scenes: Scenes,
    read: Callable[[int], Segments],
    segmenter: Segmenter,
    size: tuple[int, int],
    max_iou: float,
    pictures: int,
) -> Found:
    """Return segments and scores of every image, some label maps, their agreement.

    Args:
        scenes: to judge on.
        read: the proposed segments of a number.
        segmenter: fine-tuned.
        size: of its images, pixels.
        max_iou: of segments that are pasted.
        pictures: images whose label maps are kept.
    """
    signature = examples.input_signature(size)
    scores_of = tf.function(segmenter.scores, signature, autograph=False)
    number, num_classes = len(scenes), len(scenes.class_names)
    drawn = np.linspace(0, number - 1, min(pictures, number)).astype(int)
    counts: dict[str, Any] = collections.defaultdict(int)
    found, shown = [], {}
    for i in tqdm.trange(number, desc="Labels", unit="image"):
        scene = scenes[i]
        segments_of = read(i)
        inputs = examples.inputs_of(scene.image, segments_of, size)
        found.append((segments_of, scores_of(inputs).numpy()[0]))
        maps = _label_maps(*found[-1], scenes.background, max_iou)
        maps["best"] = _majority(segments_of, scene.labels, num_classes)
        for rule, labels in maps.items():
            counts[rule] += scores.confusion(scene.labels, labels, num_classes)
        if i in drawn:
            shown[i] = maps
    return Found(found, shown, counts)


def _label_maps(segments_of, scores_of, background, max_iou):
    """Return the label of every pixel, by each rule."""
    bounds = {"max_iou": max_iou, "fill": background is None}
    return {
        "paste": label_map(segments_of, scores_of, background=background, **bounds),
        "vote": label_map(segments_of, scores_of, "vote", background),
    }


def _majority(segments_of, truth, num_classes):
    """Return the best labels that unions of the segments' atoms can have."""
    atoms = segments_of.select(np.arange(len(segments_of))).atoms
    pieces = segments.of_label_map(atoms)
    counts = pieces.pixels_by_label(truth, num_classes)
    return np.append(counts.argmax(axis=1), -1)[atoms]


def judged(found: Found, scenes: Scenes, smallest: int, ranked: bool) -> dict[str, Any]:
    """Return the numbers of a run.

    Args:
        found: by the segmenter.
        scenes: the truth.
        smallest: object that counts, pixels.
        ranked: whether the first proposals are the best; superpixels come in no order.
    """
    objects = set(range(len(scenes.class_names))) - scenes.stuff - {scenes.background}
    counts = [len(proposed) for proposed, _ in found.segments]
    numbers = (*(RECALL_OF if ranked else ()), max(counts))
    return {
        "proposals": float(np.mean(counts)),
        "recall": _recalls(found.segments, scenes, smallest, numbers),
        "labels": {
            rule: _agreement(of_rule, scenes.class_names)
            for rule, of_rule in found.counts.items()
        },
        "ap": _precisions(found.segments, scenes, sorted(objects), smallest),
    }


def _agreement(counts, names):
    """Return mean IoU, IoU by class and share of pixels of label maps."""
    iou = scores.class_iou(counts)
    return {
        "mean_iou": float(np.nanmean(iou)),
        "iou": dict(zip(names, iou.tolist(), strict=True)),
        "pixel_accuracy": float(counts.diagonal().sum() / counts.sum()),
    }


def _recalls(found, scenes, smallest, numbers):
    """Return shares of the true segments that the first proposals come near."""
    classes = set(range(len(scenes.class_names))) - {scenes.background}
    best = [np.zeros([len(numbers), 0])]
    for i, (proposed, _) in enumerate(found):
        objects = labelled.objects(scenes[i], classes)
        masks = [mask for _, mask in objects if mask.sum() >= smallest]
        if masks:
            iou = segments.of_masks(np.stack(masks)).iou(proposed)
            best.append(np.stack([iou[:, :n].max(1, initial=0.0) for n in numbers]))
    return {
        str(n): {str(t): _share(some >= t) for t in AP_THRESHOLDS}
        | {"mean_best_iou": _share(some)}
        for n, some in zip(numbers, np.concatenate(best, axis=1), strict=True)
    }


def _share(values):
    """Return the mean, NaN of none."""
    return float(np.mean(values)) if len(values) else float("nan")


def _precisions(found, scenes, classes, smallest):
    """Return the average precision of objects, by threshold and name of the class."""
    matches = {c: [] for c in classes}
    for i, (proposed, scores_of) in enumerate(found):
        objects = labelled.objects(scenes[i], classes)
        for c in classes:
            true = [mask for label, mask in objects if label == c]
            true = [mask for mask in true if mask.sum() >= smallest]
            best = found_objects(proposed, scores_of[:, c])
            iou = np.zeros([len(best), 0])
            if true:
                truth = segments.of_masks(np.stack(true))
                iou = proposed.select(best).iou(truth)
            matches[c].append((iou, scores_of[best, c]))
    return {
        str(threshold): {
            scenes.class_names[c]: _precision(matches[c], threshold) for c in classes
        }
        for threshold in AP_THRESHOLDS
    }


def _precision(matches, threshold):
    """Return it, of IoU and scores of what was found, image by image."""
    hits = [scores.matched(iou, of_found, threshold) for iou, of_found in matches]
    return scores.average_precision(
        np.concatenate(hits),
        np.concatenate([of_found for _, of_found in matches]),
        sum(iou.shape[1] for iou, _ in matches),
    )


def write(result: Mapping[str, Any], path: pathlib.Path) -> None:
    """Write the numbers as JSON."""
    text = json.dumps(result, indent=1) + "\n"
    storage.replace(path, lambda part: part.write(text.encode()))


def table(result: Mapping[str, Any]) -> str:
    """Return the numbers of `judged` as text."""
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


def draw(shown: Mapping[int, LabelMaps], scenes: Scenes, path: pathlib.Path) -> None:
    """Write a picture of images, truth and labels of some scenes."""
    maps = [[scenes[i].labels for i in shown]]
    maps += [[found[rule] for found in shown.values()] for rule in RULES]
    plotting.label_maps(
        [scenes[i].image for i in shown],
        maps,
        scenes.class_names,
        ["truth", *RULES],
    ).savefig(path, dpi=150)
    print(f"Pictures: {path}")
