"""Schemes of training: phases of a run, each with its objective, images and optimizer.

    DG            discriminative
    DG+DG         the same in two phases, as a control of what follows
    GG            generative
    GG+DG         generative up to the switch, calibrated, then discriminative
    mix           (1 - a) discriminative + a generative
    mix+queue     the same with past batches among the draws of q
    mix+noise     the same with Gaussians and wavelets, fitted to the images, among them
    mix+outliers  the same with these and shapes of two colours among them
    ramp          a mix whose a falls from 1 to 0, linearly up to twice the switch
    with the labels of a tenth of the images:
    ... 10%       on these
    GG(u)+DG 10%  GG also on the images without label, among the draws of q
    mix(u) 10%    a mix, half of a batch without label

Schemes of one run have the same initial weights and the same number of steps.
"""

__all__ = ["OUTLIERS", "SCHEMES", "phases"]

import functools

import keras

import keras_tilt as kt
from keras_tilt.cli.jobs.course import cooldown
from keras_tilt.data import batches

# Phases: the objective (None: the mix), whether it ends at the switch, the images.
D, G = "discriminative", "generative"
WHOLE = {
    "DG": [(D, False, "all")],
    "DG+DG": [(D, True, "all"), (D, False, "all")],
    "GG": [(G, False, "all")],
    "GG+DG": [(G, True, "all"), (D, False, "all")],
    "mix": [(None, False, "all")],
    "mix+queue": [(None, False, "all")],
    "mix+noise": [(None, False, "labelled and others")],
    "mix+outliers": [(None, False, "labelled and others")],
    "ramp": [("ramp", False, "all")],
}
TENTH = {
    f"{scheme} 10%": [(*phase[:2], "labelled") for phase in found]
    for scheme, found in WHOLE.items()
    if found[0][2] == "all"
}
# Share of a batch that has labels, or is to have some.
LABELLED = {"labelled": 1, "half labelled": 1 / 2, "labelled and others": 3 / 4}
# Kinds of `kt.outliers` among the images.
OUTLIERS = {
    "mix+noise": ("gaussians", "wavelets"),
    "mix+outliers": ("gaussians", "wavelets", "shapes"),
}
SCHEMES = (
    WHOLE
    | TENTH
    | {
        "GG(u)+DG 10%": [(G, True, "half labelled"), (D, False, "labelled")],
        "mix(u) 10%": [(None, False, "half labelled")],
    }
)


def phases(run, source):
    """The phases of a run, by its settings."""
    steps = run["train_images"] // run["batch_size"]
    found, first = [], 0
    for objective, last, images in plan(run):
        rate = learning_rate(run, first * steps, last * steps, run["epochs"] * steps)
        phase = kt.Phase(
            objective,
            last - first,
            functools.partial(optimizer, run, rate),
            functools.partial(epoch_batches, run, source, images),
            queue=run["queue"] if "queue" in run["scheme"] else 0,
            calibrate=first > 0 and run["scheme"].startswith("GG"),
        )
        found.append(phase)
        first = last
    return found


def plan(run):
    """Objective, last epoch and images of each phase."""
    found = []
    for objective, to_switch, images in SCHEMES[run["scheme"]]:
        last = run["switch"] if to_switch else run["epochs"]
        if objective == "ramp":
            steps = 2 * run["switch"] * (run["train_images"] // run["batch_size"])
            objective = keras.optimizers.schedules.PolynomialDecay(1.0, steps, 0.0)
        elif objective is None:
            objective = run["mix_weight"]
        found.append((objective, last, images))
    return found


def learning_rate(run, first, last, total):
    """That of a phase, from one step of the run to another.

    cosine    to 0 over the whole run, whatever its phases
    cooldown  the same over its last third, and constant before
    restart   constant until the last phase, then a cosine to 0 from the refining rate
    """
    cosine = keras.optimizers.schedules.CosineDecay
    whole = {"cosine": cosine, "cooldown": cooldown}.get(run["schedule"])
    if whole is not None:
        return kt.Continued(whole(run["learning_rate"], total), first)
    rate = run["refining_rate"] if first else run["learning_rate"]
    return cosine(rate, last - first) if last == total else rate


def optimizer(run, rate):
    """A new one, of a rate or of a schedule of rates."""
    if run["optimizer"] == "sgd":
        return kt.CaffeSGD(rate, l2=run["weight_decay"], bias_multiplier=1.0)
    found = keras.optimizers.AdamW(rate, weight_decay=run["weight_decay"])
    found.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
    return found


def epoch_batches(run, source, images, epoch, step):
    """What is left of an epoch; one has as many steps whatever the labels."""
    size, place = run["batch_size"], (run["seed"], epoch)
    share = run["classes_per_batch"]
    if share:
        order = batches.by_classes(source.labels, size, share, *place)
    elif images == "all":
        order = batches.uniform_order(len(source.labels), *place)
    else:
        labelled = round(LABELLED[images] * size)
        order = batches.by_labelled(source.labels, size, labelled, *place)
    order = order[: run["train_images"]]  # not longer for outliers
    side = run["size"]
    return batches.training_batches(
        source,
        order,
        size,
        seed=run["seed"],
        epoch=epoch,
        first_step=step,
        crop=(side, side),
        pad=run["pad"],
        mirror=run["pad"] > 0,
        drop_remainder=True,
    )
