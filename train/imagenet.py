"""GG+DG on ImageNet, from the two tars: the paper's second experiment.

    45 epochs generative, calibrated, then 25 epochs discriminative at a lower rate

Paper: Dai, Lu, Wu, "Generative Modeling of Convolutional Neural Networks", ICLR 2015.
Its top-1 errors, as remembered and not verified, center and 4 corner crops:
AlexNet DG 40.7, GG 45.8, GG+DG 39.6 %; ZF fast 38.4, 44.3, 37.4 %. Not repeated by us:
the 70 epochs are 1.9e17 multiplications forward and twice as many back.

    python train/imagenet.py --data-dir DIR

DIR holds ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, or what TFDS prepared of
them, or folders train and val with a folder for each class. A run that has ended early
goes on when the same is run again; SIGTERM makes it save at once. --dry-run says what
would be done, --synthetic does it with made-up images.
"""

import argparse
import contextlib
import functools
import json
import os
import pathlib
import typing

import keras_tilt as kt
import keras
import numpy as np
import tensorflow as tf

from keras_tilt import batches, evaluation, named, sources, training
from keras_tilt.optimizer import WarmUp

OBJECTIVES = ("generative", "discriminative", "mix")
SCHEDULES = ("step", "inverse", "cosine", "constant")
SIZES = {"alexnet": 227, "zf_fast": 224, "lenet": 28}  # pixels of the crop
PHOTOGRAPH = 256  # pixels of the shorter side, where images differ in size
SYNTHETIC = 256  # pixels
# Flags that the result does not depend on, or that show in what is trained.
UNSAVED = ("data_dir", "out", "save_every", "eval_only", "dry_run", "smoke")


class Images(typing.NamedTuple):
    """Images to train on and to test on, and how they are cut and put in batches."""

    train: sources.Source
    test: sources.Source
    corrupt: batches.Corrupt
    batch_size: int
    seed: int
    crop: tuple  # height and width, pixels
    shorter_side: int | None  # pixels, before the crop
    pad: int  # pixels
    mirror: bool
    classes_per_batch: int | None
    labelled_per_batch: int | None

    def epoch(self, labelled_only, epoch, step):
        """What is left of an epoch from a step on."""
        return self._batches(self._order(labelled_only, epoch), epoch, step)

    def calibration(self, count):
        """As many images of the first epoch; the crops of training are draws of q."""
        order = batches.uniform_order(len(self.train.labels), self.seed, 0)[:count]
        return self._batches(order, 0, 0)

    def evaluation(self, crops="center"):
        """The test images, one crop or five each."""
        return batches.evaluation_batches(
            self.test,
            self.batch_size,
            crop=self.crop,
            shorter_side=self.shorter_side,
            crops=crops,
            corrupt=self.corrupt,
        )

    def channels(self):
        """Of the images: 3 where they are files."""
        return self.train.image_shape[2] if self.train.image_shape else 3

    def _order(self, labelled_only, epoch):
        labels, place = self.train.labels, (self.seed, epoch)
        if labelled_only and labels.min() < 0:
            labelled = np.flatnonzero(labels >= 0)
            return labelled[batches.uniform_order(len(labelled), *place)]
        if self.classes_per_batch and not labelled_only:
            share = self.classes_per_batch
            return batches.by_classes(labels, self.batch_size, share, *place)
        if self.labelled_per_batch and not labelled_only:
            share = self.labelled_per_batch
            return batches.by_labelled(labels, self.batch_size, share, *place)
        return batches.uniform_order(len(labels), *place)

    def _batches(self, order, epoch, step):
        return batches.training_batches(
            self.train,
            order,
            self.batch_size,
            seed=self.seed,
            epoch=epoch,
            crop=self.crop,
            first_step=step,
            shorter_side=self.shorter_side,
            pad=self.pad,
            mirror=self.mirror,
            corrupt=self.corrupt,
            drop_remainder=len(order) >= self.batch_size,
        )


class Recipe(typing.NamedTuple):
    """The optimizer of a phase: Caffe's, at a rate that a schedule lowers."""

    schedule: str
    decay_steps: int  # from one rate to the next, of "step"
    warmup_steps: int
    momentum: float
    weight_decay: float

    def optimizer(self, rate, steps):
        """A new one, for a phase of so many steps that begins at the rate."""
        schedules = keras.optimizers.schedules
        found = {
            "constant": lambda: schedules.PolynomialDecay(rate, 1, rate),
            "cosine": lambda: schedules.CosineDecay(rate, steps),
            "inverse": lambda: kt.InverseDecay(rate),
            "step": lambda: schedules.ExponentialDecay(
                rate, self.decay_steps, 0.1, staircase=True
            ),
        }[self.schedule]()
        if self.warmup_steps:
            found = WarmUp(found, self.warmup_steps)
        return kt.CaffeSGD(
            found, self.momentum, l2=self.weight_decay, bias_l2_multiplier=0.0
        )


class Course(typing.NamedTuple):
    """What is trained, for how long, at which rates."""

    objective: str
    mix_weight: float
    epochs: int
    generative_epochs: int
    rate: float
    refining_rate: float
    queue: int  # past batches
    calibrate: bool

    def phases(self, images, recipe):
        """Generative epochs, then discriminative ones; or one phase alone."""
        every, labelled = False, True
        if self.objective == "mix":
            return [self._phase(self.mix_weight, self.epochs, every, images, recipe)]
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
        rate = self.refining_rate if refines else self.rate
        read = functools.partial(images.epoch, labelled_only)
        steps = epochs * int(read(0, 0).cardinality())
        return training.Phase(
            objective,
            epochs,
            functools.partial(recipe.optimizer, rate, steps),
            read,
            queue=0 if objective == "discriminative" else self.queue,
            calibrate=refines and self.calibrate,
        )


def main():
    """Opens the images, builds the network, plans, trains, evaluates."""
    flags = parse_flags()
    strategy = chosen_strategy()
    with plain_exit():
        train, test = opened(flags.dataset, flags.data_dir, flags.seed)
        train = with_labels_of(
            train, flags.labelled_fraction, flags.unlabelled, flags.seed
        )
        images = Images(
            train,
            test,
            batches.Corrupt(flags.max_corrupt),
            flags.batch_size,
            flags.seed,
            *views(train, flags.network, flags.size, flags.shorter_side, flags.pad),
            flags.mirror,
            flags.classes_per_batch,
            flags.labelled_per_batch,
        )
        if flags.eval_only:
            print(report(named.load_model(flags.eval_only), images))
            return
        with strategy.scope():
            model = built(flags.network, images, flags.seed, flags.sync_batch_norm)
        phases = Course(
            flags.objective,
            flags.mix_weight,
            flags.epochs,
            flags.generative_epochs,
            flags.learning_rate,
            flags.refining_learning_rate,
            flags.queue // flags.batch_size,
            flags.calibrate,
        ).phases(
            images,
            Recipe(
                flags.schedule,
                flags.decay_steps,
                flags.warmup_steps,
                flags.momentum,
                flags.weight_decay,
            ),
        )
        if flags.dry_run:
            print(plan(model, images, phases))
            return
        flags.out.mkdir(parents=True, exist_ok=True)
        settings = {
            name: value if isinstance(value, int | float) else str(value)
            for name, value in vars(flags).items()
            if name not in UNSAVED
        }
        (flags.out / "args.json").write_text(json.dumps(settings, indent=1) + "\n")
        training.train(
            model,
            phases,
            flags.out / "run",
            settings=settings,
            validation=images.evaluation(),
            calibration=images.calibration(flags.calibration_images),
            save_every=flags.save_every,
            batch_size=flags.batch_size,
            callbacks=[Unreadable(images.corrupt, flags.out / "unreadable.txt")],
            metrics=["accuracy", "sparse_top_k_categorical_accuracy"],
        )
        print(report(model, images))
        print(f"Models and records: {flags.out / 'run'}")


def parse_flags():
    """The command line; --smoke shrinks the defaults."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _add_images(parser.add_argument_group("images").add_argument)
    _add_training(parser.add_argument_group("training").add_argument)
    _add_running(parser.add_argument_group("running").add_argument)
    flags = parser.parse_args()
    if flags.smoke:
        shrink(flags)
    if flags.generative_epochs > flags.epochs:
        parser.error(
            "--generative-epochs must not exceed --epochs. Received: "
            f"{flags.generative_epochs} of {flags.epochs}."
        )
    if flags.queue % flags.batch_size:
        parser.error(
            f"--queue must be a multiple of --batch-size, {flags.batch_size}, since "
            f"whole batches are kept. Received: {flags.queue}."
        )
    return flags


def _add_images(add):
    add(
        "--data-dir",
        type=pathlib.Path,
        default=os.environ.get("KERAS_TILT_DATA"),
        help="folder of the images",
    )
    add(
        "--dataset",
        default="imagenet2012",
        help="a name of TFDS, a .npz in --data-dir, or synthetic",
    )
    add("--labelled-fraction", type=share, help="of each class; the rest: draws of q")
    add("--unlabelled", type=pathlib.Path, help="folder of images, more draws of q")
    add("--size", type=named.count, help="of the crop in pixels; the network's own")
    add("--shorter-side", type=named.count, help=f"before it; {PHOTOGRAPH} for photos")
    add("--pad", type=int, help="pixels around small images; an eighth of the crop")
    add("--mirror", action=argparse.BooleanOptionalAction, default=True, help="half")
    add("--max-corrupt", type=share, default=0.001, help="share that may be unreadable")


def _add_training(add):
    add(
        "--network",
        default="alexnet",
        help="alexnet, zf_fast, lenet, one of keras.applications, or a .keras file",
    )
    add("--objective", choices=OBJECTIVES, default="generative", help="to begin with")
    add("--mix-weight", type=share, default=0.5, help="of the generative loss in a mix")
    add("--epochs", type=named.count, default=70, help="in all")
    add("--generative-epochs", type=int, default=45, help="before the discriminative")
    add("--batch-size", type=named.count, default=256, help="images, of all replicas")
    add("--learning-rate", type=float, default=0.01, help="at the start")
    add("--refining-learning-rate", type=float, default=0.003, help="DG after GG")
    add("--schedule", choices=SCHEDULES, default="step", help="of each phase")
    add("--decay-steps", type=named.count, default=100_000, help="to a tenth (step)")
    add("--warmup-steps", type=int, default=0, help="in which the rate rises")
    add("--momentum", type=float, default=0.9, help="of SGD")
    add("--weight-decay", type=float, default=5e-4, help="on weights, not on biases")
    add("--queue", type=int, default=0, help="past images kept as draws of q")
    add("--classes-per-batch", type=named.count, help="equally many images of each")
    add("--labelled-per-batch", type=named.count, help="where others have no label")
    add(
        "--calibrate",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="set the biases by Bayes' rule at the switch",
    )
    add("--calibration-images", type=named.count, default=50_000, help="for that")
    add("--sync-batch-norm", action="store_true", help="statistics of all replicas")
    add("--seed", type=int, default=0, help="of weights, order, crops and dropout")


def _add_running(add):
    add("--out", type=pathlib.Path, default=pathlib.Path("out/imagenet"), help="folder")
    add("--save-every", type=named.count, default=500, help="steps")
    add("--eval-only", type=pathlib.Path, help="a .keras file to evaluate")
    add("--dry-run", action="store_true", help="say what would be done")
    add("--smoke", action="store_true", help="two epochs of a few made-up images")


def share(text):
    """A number in [0, 1]: the type of a flag."""
    if not 0.0 <= float(text) <= 1.0:
        raise ValueError
    return float(text)


def shrink(flags):
    """The same in a minute."""
    flags.dataset, flags.size = "synthetic", 67
    flags.epochs, flags.generative_epochs, flags.batch_size = 2, 1, 16
    flags.queue, flags.calibration_images = 32, 64


@contextlib.contextmanager
def plain_exit():
    """Within it an error that says what to do ends the script with its sentence."""
    try:
        with named.as_exit():
            yield
    except OSError as error:
        raise SystemExit(f"{error}") from error


def chosen_strategy():
    """One machine's devices; those of all workers where TF_CONFIG names them."""
    if os.environ.get("TF_CONFIG"):
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.MirroredStrategy()


def opened(dataset, data_dir, seed):
    """The images to train on and those to test on."""
    if dataset == "synthetic":
        made = functools.partial(sources.synthetic, (SYNTHETIC, SYNTHETIC, 3))
        return made(8, 128, seed), made(8, 32, seed + 1)
    if data_dir is None:
        raise ValueError(
            "Expected --data-dir, the folder of the images. Received: none, and "
            "KERAS_TILT_DATA is not set. Or try --dataset synthetic."
        )
    if dataset.endswith(".npz"):
        return tuple(sources.npz(data_dir / dataset, s) for s in ("train", "test"))
    if (data_dir / "train").is_dir():
        train = sources.folder(data_dir / "train")
        return train, sources.folder(data_dir / "val", train.class_names)
    if dataset == "imagenet2012":
        return tuple(sources.imagenet(data_dir, s) for s in ("train", "validation"))
    return tuple(sources.tfds_named(dataset, data_dir, s) for s in ("train", "test"))


def with_labels_of(train, fraction, unlabelled, seed):
    """The images with fewer labels, and with more images that have none."""
    if fraction is not None:
        train = sources.with_labelled_fraction(train, fraction, seed)
    if unlabelled is not None:
        train = sources.concatenated(
            train, sources.unlabelled(sources.folder(unlabelled))
        )
    return train


def views(source, network, size, shorter_side, pad):
    """Crop, shorter side and border: what was asked for, or what suits the images."""
    smallest = min(source.image_shape[:2]) if source.image_shape else None
    size = size or SIZES.get(network) or smallest or 224
    if shorter_side is None and smallest is None:
        shorter_side = max(PHOTOGRAPH, round(size / 0.875))
    if pad is None:
        pad = size // 8 if size == smallest else 0
    return (size, size), shorter_side, pad


def built(network, images, seed, sync_batch_norm):
    """The model to train, of the network that was named."""
    shape = (*images.crop, images.channels())
    found = named.network(network, shape, len(images.train.class_names), seed)
    if sync_batch_norm:
        found = synchronized(found)
    return kt.GenerativeClassifier(found)


def synchronized(network):
    """The network with batch statistics of all replicas."""

    def copied(layer):
        config = layer.get_config()
        if isinstance(layer, keras.layers.BatchNormalization):
            config["synchronized"] = True
        return layer.__class__.from_config(config)

    found = keras.models.clone_model(network, clone_function=copied)
    found.set_weights(network.get_weights())
    return found


class Unreadable(keras.callbacks.Callback):
    """Writes down, after every epoch, which images could not be read."""

    def __init__(self, corrupt, path):
        super().__init__()
        self.corrupt, self.path = corrupt, path

    def on_epoch_end(self, epoch, logs=None):
        """All names so far."""
        if self.corrupt.names:
            self.path.write_text("\n".join(sorted(self.corrupt.names)) + "\n")


def report(model, images):
    """Errors of one crop and of five."""
    lines = [f"{'':18}{'top-1 error':>12}{'top-5 error':>12}{'ECE':>12}"]
    for crops in ("center", "five"):
        found = evaluation.predictions(model, images.evaluation(crops))
        errors = [evaluation.top_error(found, k) for k in (1, 5)]
        numbers = [*errors, evaluation.calibration_error(found)]
        name = {"center": "center crop", "five": "center + 4 corners"}[crops]
        shown = "".join(
            f"{100 * x:{width}.2f}"
            for x, width in zip(numbers, (12, 12, 8), strict=True)
        )
        lines.append(f"{name:18}{shown}")
    return "\n".join([*lines, f"in %, {len(found.labels):,} images"])


def plan(model, images, phases):
    """What would be done, in lines."""
    network, size = model.network, images.batch_size
    labels, tested = images.train.labels, len(images.test.labels)
    lines = [
        f"{len(labels):,} images to train on, {np.sum(labels < 0):,} of them without "
        f"label; {tested:,} to test on; {model.num_classes:,} classes",
        f"Shorter side {images.shorter_side or 'as it is'}, border {images.pad}, crop "
        f"{images.crop[0]} x {images.crop[1]}{', mirrored' * images.mirror}",
        "",
        f"{network.name}: {network.count_params():,} parameters",
        *(f"  {layer.name:24}{_shape(layer):>20}" for layer in network.layers),
        "",
    ]
    for phase in phases:
        steps = int(phase.batches(0, 0).cardinality())
        rate = float(tf.convert_to_tensor(phase.optimizer().learning_rate))
        lines.append(
            f"{phase.epochs} epochs of {steps:,} steps of {size}: {phase.objective}, "
            f"learning rate {rate:g}{', calibrated before' * phase.calibrate}"
            + (f", queue of {phase.queue} batches" if phase.queue else "")
        )
    weights = 4 * network.count_params()
    maps = 4 * sum(np.prod(layer.output.shape[1:]) for layer in network.layers)
    queue = 4 * 3 * model.num_classes * max(phase.queue for phase in phases)
    return "\n".join(
        [
            *lines,
            f"Memory, about: weights, momenta, gradients {_mb(3 * weights)}; maps and "
            f"their gradients {_mb(2 * maps * size)} over all replicas; queue "
            f"{_mb(queue)}. A saved state: {_mb(2 * weights + queue)}",
        ]
    )


def _shape(layer):
    return " x ".join(str(size) for size in layer.output.shape[1:])


def _mb(size):
    return f"{size / 2**20:,.0f} MB"


if __name__ == "__main__":
    main()
