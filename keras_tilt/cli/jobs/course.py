"""The course of a training: its phases, their optimizers, and the plan in words.

    objective generative       generative epochs, calibration, discriminative epochs
    objective discriminative   one phase
    objective mix              one phase, of (1 - w) DG + w GG
    objective annealed         the same, w falls from 1 to 0 over the generative epochs

DG: discriminative, GG: generative gradient (Dai, Lu, Wu, ICLR 2015).
"""

__all__ = ["Course", "Recipe", "cooldown", "plan", "rates_of"]

import functools
from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_tilt.cli.jobs.image_batches import Images
from keras_tilt.networks import graph
from keras_tilt.training.classifier import GenerativeClassifier
from keras_tilt.training.compile_checks import objective_in_words
from keras_tilt.training.optimizers import CaffeSGD, InverseDecay, WarmUp
from keras_tilt.training.runs.phases import Phase, num_batches


class Recipe(NamedTuple):
    """The optimizer of a phase: Caffe's SGD or AdamW, at a rate that a schedule lowers.

    SGD decays no biases, AdamW neither biases nor what scales normalized maps.
    """

    kind: str  # "sgd" or "adamw"
    schedule: str
    generative_schedule: str | None  # of generative phases; None: the same
    decay_steps: int  # from one rate to the next, of "step"
    warmup_steps: int
    momentum: float
    weight_decay: float

    def optimizer(
        self, rate: float, steps: int, generative: bool = False
    ) -> keras.optimizers.Optimizer:
        """Return a new one, for a phase of so many steps that begins at the rate."""
        schedules = keras.optimizers.schedules
        name = (self.generative_schedule if generative else None) or self.schedule
        found = {
            "constant": lambda: schedules.PolynomialDecay(rate, 1, rate),
            "cosine": lambda: schedules.CosineDecay(rate, steps),
            "cooldown": lambda: cooldown(rate, steps),
            "inverse": lambda: InverseDecay(rate),
            "step": lambda: schedules.ExponentialDecay(
                rate, self.decay_steps, 0.1, staircase=True
            ),
        }[name]()
        if self.warmup_steps:
            found = WarmUp(found, self.warmup_steps)
        if self.kind == "adamw":
            adamw = keras.optimizers.AdamW(found, weight_decay=self.weight_decay)
            adamw.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
            return adamw
        return CaffeSGD(
            found, self.momentum, l2=self.weight_decay, bias_l2_multiplier=0.0
        )


def cooldown(
    rate: float, steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Return a rate that stays for two thirds of the steps, and then falls to 0.

        lr(t) = rate (1 + cos(pi max(0, t - steps + n) / n)) / 2,    n = ceil(steps / 3)

    Keras has it as a cosine with a "warm-up" to the rate that it begins with.

    Args:
        rate: learning rate at the start.
        steps: in all.

    Source: Hägele et al. 2024, "Scaling laws and compute-optimal training beyond fixed
    training durations".
    """
    falling = -(-steps // 3)
    return keras.optimizers.schedules.CosineDecay(
        rate, falling, warmup_target=rate, warmup_steps=steps - falling
    )


class Course(NamedTuple):
    """What is trained, for how long, at which rates."""

    objective: str
    mix_weight: float
    epochs: int
    generative_epochs: int
    calibrate: bool
    learning_rate: float
    refining_learning_rate: float
    queue: int  # past batches

    def phases(self, images: Images, recipe: Recipe) -> list[Phase]:
        """Return generative epochs, then discriminative ones; or one phase alone."""
        every, labelled = False, True
        if self.objective == "mix":
            return [self._phase(self.mix_weight, self.epochs, every, images, recipe)]
        if self.objective == "annealed":
            steps = self.generative_epochs * images.steps(every)
            weight = keras.optimizers.schedules.PolynomialDecay(1.0, steps, 0.0)
            return [self._phase(weight, self.epochs, every, images, recipe)]
        if self.objective == "discriminative":
            found = [("discriminative", self.epochs, labelled)]
        else:
            rest = self.epochs - self.generative_epochs
            found = [
                ("generative", self.generative_epochs, every),
                ("discriminative", rest, labelled),
            ]
        return [
            self._phase(objective, epochs, kind, images, recipe)
            for objective, epochs, kind in found
            if epochs
        ]

    def _phase(self, objective, epochs, labelled_only, images, recipe):
        refines = objective == "discriminative" and self.objective == "generative"
        rate = self.refining_learning_rate if refines else self.learning_rate
        read = functools.partial(images.epoch, labelled_only)
        steps = epochs * images.steps(labelled_only)
        return Phase(
            objective,
            epochs,
            functools.partial(recipe.optimizer, rate, steps, objective == "generative"),
            read,
            queue=0 if objective == "discriminative" else self.queue,
            calibrate=refines and self.calibrate,
            reads_parts=True,
        )


def plan(model: GenerativeClassifier, images: Images, phases: Sequence[Phase]) -> str:
    """Return what would be done, in lines: images, network, phases, memory."""
    network, size = model.network, images.batch_size
    labels, tested = images.train.labels, len(images.test.labels)
    shapes = _shapes_of(network)
    weights = 4 * network.count_params()
    maps = 4 * sum(int(np.prod(shape)) for _, shape in shapes)
    queue = 4 * 3 * model.num_classes * max(phase.queue for phase in phases)
    lines = [
        f"{len(labels):,} images to train on, {np.sum(labels < 0):,} of them without "
        f"label; {tested:,} to test on; {model.num_classes:,} classes",
        f"Shorter side {images.shorter_side or 'as it is'}, border {images.pad}, crop "
        f"{images.crop[0]} x {images.crop[1]}{', mirrored' * images.mirror}",
        "",
        f"{network.name}: {network.count_params():,} parameters",
        *(f"  {name:30}{' x '.join(map(str, s)):>20}" for name, s in shapes),
        "",
        *(_phase_in_words(phase, size) for phase in phases),
        f"Memory, about: weights, momenta, gradients {_mb(3 * weights)}; maps and "
        f"their gradients {_mb(2 * maps * size)} over all replicas; queue "
        f"{_mb(queue)}; TensorFlow itself 1,000 MB. A saved state: "
        f"{_mb(2 * weights + queue)}, and as much in memory while it is written",
    ]
    return "\n".join(lines)


def _phase_in_words(phase, batch_size):
    steps = num_batches(phase.batches(0, 0))
    first, largest, last = rates_of(phase, phase.epochs * steps)
    risen = f"rising to {largest:g}, " * (largest > first)
    objective = objective_in_words(phase.objective)
    return (
        f"{phase.epochs} epoch{'s' * (phase.epochs > 1)} of {steps:,} steps of "
        f"{batch_size}: {objective}, learning rate {first:g}, "
        f"{risen}at the end {last:.2g}"
        f"{', calibrated before' * phase.calibrate}"
        + (f", queue of {phase.queue} batches" if phase.queue else "")
    )


def _shapes_of(network):
    """Return names of layers, also of nested networks, and shapes of their maps."""
    return [
        (step.path, tensor.shape[1:])
        for step in graph.steps(network)
        for tensor in step.node.output_tensors
    ]


def rates_of(phase: Phase, steps: int) -> tuple[float, float, float]:
    """Return the first, the largest and the last learning rate of a phase."""
    optimizer, rates = phase.optimizer(), []
    for step in np.unique(np.linspace(0, steps - 1, 1000, dtype=int)):
        optimizer.iterations.assign(step)
        rates.append(float(tf.convert_to_tensor(optimizer.learning_rate)))
    return rates[0], max(rates), rates[-1]


def _mb(size):
    return f"{size / 2**20:,.0f} MB"
