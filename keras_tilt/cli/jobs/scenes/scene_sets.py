"""Labelled scenes by the name of a data set: those to train on, those to judge on."""

__all__ = ["named_scenes", "settings_of"]

import pathlib
from collections.abc import Sequence
from typing import Any

from keras_tilt.masking import scenes
from keras_tilt.masking.scenes import Scenes


def named_scenes(
    data: str | None,
    data_dir: str | None,
    dataset: str | None,
    sbd: str | None,
    voc: str | None,
    stuff: Sequence[str],
    background: str | None,
    split: str,
    short: bool = False,
) -> tuple[Scenes, Scenes]:
    """Return the scenes to train on, and those to judge on.

    Args:
        data: an .npz, a folder, or "synthetic".
        data_dir: in which it may be.
        dataset: its kind; None for that of its name.
        sbd: folder of SBD, for more images of VOC to train on.
        voc: VOCdevkit folder with the images of PASCAL-Context.
        stuff: classes of an .npz that are stuff.
        background: class of an .npz that is none of the others.
        split: to judge on.
        short: whether a few small synthetic scenes will do.

    Raises:
        ValueError: for scenes that are not named, or cannot be read.
    """
    if not data:
        raise ValueError(
            "Expected --data, an .npz or a folder. Received: none. To see what comes "
            "out, try --data synthetic."
        )
    path = pathlib.Path(data_dir or ".", data)
    path = path if path.exists() else pathlib.Path(data)
    kind = dataset or ("synthetic" if data == "synthetic" else "npz")
    if kind == "voc" and sbd:
        return scenes.voc_and_sbd(path, sbd), scenes.voc(path, split)
    if kind == "context" and not voc:
        raise ValueError(
            "Expected --voc, the VOCdevkit folder with the images of "
            "PASCAL-Context. Received: none. Name it beside --data."
        )
    opened = {
        "voc": lambda part: scenes.voc(path, part),
        "coco": lambda part: scenes.coco_panoptic(path, part),
        "context": lambda part: scenes.pascal_context(path, voc or "", part),
        "npz": lambda part: scenes.npz(path, part, stuff, background),
        "synthetic": lambda part: _synthetic(part == "train", short),
    }[kind]
    return opened("train"), opened(split)


def _synthetic(trained_on, short):
    """Return landscapes: to train on, or others; small and few if they are short."""
    number = (12 if short else 200) if trained_on else 10
    size = (60, 80) if short else (120, 160)
    return scenes.synthetic(number, size, seed=int(trained_on))


def settings_of(
    train: Scenes, test: Scenes, fine_tuned: pathlib.Path | None
) -> dict[str, Any]:
    """Return what a run depends on, of its scenes and of a segmenter of before."""
    return {
        "fine_tuned": fine_tuned and str(fine_tuned),
        "images_of_splits": [len(train), len(test)],
        "classes": train.class_names,
        "stuff": sorted(train.stuff),
    }
