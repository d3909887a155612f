"""GG+DG on ImageNet, from the two tars: the paper's second experiment.

    45 epochs generative, calibrated, then 25 epochs discriminative at a lower rate

Paper: Dai, Lu, Wu, "Generative Modeling of Convolutional Neural Networks", ICLR 2015.
Its top-1 errors, as remembered and not verified, center and 4 corner crops:
AlexNet DG 40.7, GG 45.8, GG+DG 39.6 %; ZF fast 38.4, 44.3, 37.4 %. Not repeated by us:
AlexNet's 70 epochs are 6.5e16 multiplications forward and twice as many back, by
arithmetic two hours of eight A100 at 40 % of their float32, with 64 cores that read.

    python train/imagenet.py --data-dir DIR

DIR holds ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, or what TFDS prepared of
them, or folders train and val with a folder for each class. A run that has ended early
goes on when the same is run again; SIGTERM makes it save at once. --dry-run says what
would be done; --dataset synthetic does it with made-up images.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import sys
import typing

from keras_tilt.cli.flags import (
    MODES,
    add_import,
    count,
    folder,
    natural,
    positive,
    share,
)

OBJECTIVES = ("generative", "discriminative", "mix")
SCHEDULES = ("step", "inverse", "cosine", "constant")


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
    if flags.objective == "generative" and flags.generative_epochs > flags.epochs:
        parser.error(
            "--generative-epochs must not exceed --epochs. Received: "
            f"{flags.generative_epochs} of {flags.epochs}."
        )
    of_batches = ("queue", "classes_per_batch", "labelled_per_batch")
    given = [f"--{n.replace('_', '-')}" for n in of_batches if getattr(flags, n)]
    if given and flags.objective == "discriminative":
        parser.error(
            f"{given[0]} is for --objective generative or mix. "
            "Received: discriminative."
        )
    if flags.classes_per_batch and flags.labelled_per_batch:
        parser.error(
            "--classes-per-batch and --labelled-per-batch each say what a batch is. "
            "Received: both. Leave one out."
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
    add("--size", type=count, help="of the crop in pixels; the network's own")
    add("--shorter-side", type=count, help="before it; of photos 8/7 of the crop")
    add("--pad", type=natural, help="pixels around small images; an eighth of the crop")
    add("--mirror", action=argparse.BooleanOptionalAction, default=True, help="half")
    add("--preprocess", choices=MODES, default="none", help="of pixels, Keras's")
    add("--max-corrupt", type=share, default=0.001, help="share that may be unreadable")


def _add_training(add):
    add(
        "--network",
        default="alexnet",
        help="alexnet, zf_fast, lenet, convnet, one of keras.applications, or a .keras "
        "file",
    )
    add_import(add)
    add("--objective", choices=OBJECTIVES, default="generative", help="to begin with")
    add("--mix-weight", type=share, default=0.5, help="of the generative loss in a mix")
    add("--epochs", type=count, default=70, help="in all")
    add(
        "--generative-epochs",
        type=count,
        default=45,
        help="before the discriminative",
    )
    add("--batch-size", type=count, default=256, help="images, of all replicas")
    add("--learning-rate", type=positive, default=0.01, help="at the start")
    add("--refining-learning-rate", type=positive, default=0.003, help="DG after GG")
    add("--schedule", choices=SCHEDULES, default="step", help="of each phase")
    add("--decay-steps", type=count, default=100_000, help="to a tenth (step)")
    add("--warmup-steps", type=natural, default=0, help="in which the rate rises")
    add("--momentum", type=share, default=0.9, help="of SGD")
    add("--weight-decay", type=share, default=5e-4, help="on weights, not on biases")
    add("--queue", type=natural, default=0, help="past images kept as draws of q")
    add("--classes-per-batch", type=count, help="equally many images of each")
    add("--labelled-per-batch", type=count, help="where others have no label")
    add(
        "--calibrate",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="set the biases by Bayes' rule at the switch",
    )
    add("--calibration-images", type=count, default=50_000, help="for that")
    add("--sync-batch-norm", action="store_true", help="statistics of all replicas")
    add("--seed", type=natural, default=0, help="of weights, order, crops and dropout")


def _add_running(add):
    add("--out", type=folder, default="out/imagenet", help="folder")
    add("--save-every", type=count, default=500, help="steps")
    add("--eval-only", type=pathlib.Path, help="a .keras file to evaluate")
    add("--dry-run", action="store_true", help="say what would be done")
    add("--smoke", action="store_true", help="two epochs of a few made-up images")


def shrink(flags):
    """The same in a minute."""
    flags.dataset, flags.size = "synthetic", 67
    flags.epochs, flags.generative_epochs, flags.batch_size = 2, 1, 16
    flags.queue = 0 if flags.objective == "discriminative" else 32
    flags.calibration_images = 64


if __name__ == "__main__":
    parse_flags()  # may end here, before the seconds that TensorFlow takes

import keras_tilt as kt
import keras
import numpy as np
import tensorflow as tf

from keras_tilt import validation, storage
from keras_tilt.cli import named
from keras_tilt.training import evaluation
from keras_tilt.data import batches
from keras_tilt.data import sources
from keras_tilt.networks import graph
from keras_tilt import training

# Pixels of the crop. Others take the size of the images, or else of SMALL, or 224.
SIZES = {
    "alexnet": 227,
    "zf_fast": 224,
    "InceptionResNetV2": 299,
    "InceptionV3": 299,
    "Xception": 299,
    "NASNetLarge": 331,
}
SMALL = {"lenet": 28, "convnet": 32}
ILSVRC = (1_281_167, 50_000)  # images, of 1,000 classes
SYNTHETIC = 256  # pixels
CROPS = {"center": "center crop", "five": "center + 4 corners"}
# Flags that the result does not depend on, or that show in what is trained.
UNSAVED = ("data_dir", "out", "save_every", "eval_only", "dry_run", "smoke", "modules")


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
    preprocess: str  # of `named.preprocessing`
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
        images = self.batch_size if crops == "center" else -(-self.batch_size // 5)
        return self._prepared(
            batches.evaluation_batches(
                self.test,
                images,
                crop=self.crop,
                shorter_side=self.shorter_side,
                crops=crops,
                corrupt=self.corrupt,
            )
        )

    def shape(self):
        """Of what the network sees; files are read in colour."""
        channels = self.train.image_shape[2] if self.train.image_shape else 3
        return (*self.crop, channels)

    def class_shares(self):
        """rho [classes], of the labelled images."""
        labels = self.train.labels[self.train.labels >= 0]
        counts = np.bincount(labels, minlength=len(self.train.class_names))
        return counts / counts.sum()

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
        return self._prepared(
            batches.training_batches(
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
        )

    def _prepared(self, dataset):
        if self.preprocess == "none":
            return dataset
        preprocessing = named.preprocessing(self.preprocess)

        @tf.autograph.experimental.do_not_convert
        def prepared(images, labels):
            return preprocessing(images), labels

        return dataset.map(prepared)


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
            found = kt.WarmUp(found, self.warmup_steps)
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
    network = str(flags.eval_only or flags.network)
    chief = strategy.extended.should_checkpoint
    with plain_exit(), quiet(unless=chief):
        named.use_modules(flags.modules)
        train, test = opened(flags.dataset, flags.data_dir, flags.seed, flags.dry_run)
        train = with_labels_of(
            train, flags.labelled_fraction, flags.unlabelled, flags.seed
        )
        images = Images(
            train,
            test,
            batches.Corrupt(flags.max_corrupt),
            flags.batch_size,
            flags.seed,
            *views(train, network, flags.size, flags.shorter_side, flags.pad),
            flags.mirror,
            flags.preprocess,
            flags.classes_per_batch,
            flags.labelled_per_batch,
        )
        check_images(images)
        if flags.eval_only:
            model = named.saved_model(
                flags.eval_only, images.shape(), len(train.class_names)
            )
            print(table(errors(model, images), images))
            return
        with strategy.scope():
            model = built(network, images, flags.seed, flags.sync_batch_norm)
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
        prior = prior_of(images, any(phase.calibrate for phase in phases))
        if flags.dry_run:
            print(plan(model, images, phases))
            return
        save_names(train.class_names, flags.out)
        found = trained(
            model,
            phases,
            images,
            flags.out,
            settings_of(vars(flags), images),
            flags.save_every,
            images.calibration(flags.calibration_images),
            prior,
        )
        print(table(found, images))
        print(f"Models and records: {flags.out / 'run'}")


@contextlib.contextmanager
def plain_exit():
    """Within it an error that says what to do ends the script with its sentence."""
    try:
        with named.as_exit():
            yield
    except tf.errors.InvalidArgumentError as error:
        sentence = validation.sentence_of(error)
        if sentence is None:
            raise
        raise SystemExit(sentence) from error
    except KeyboardInterrupt as error:
        print("\nInterrupted. Run the same again to go on.", file=sys.stderr)
        raise SystemExit(130) from error


def chosen_strategy():
    """One machine's devices; those of all workers where TF_CONFIG names them."""
    if os.environ.get("TF_CONFIG"):
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.MirroredStrategy()


@contextlib.contextmanager
def quiet(unless):
    """Within it nothing is printed: of several workers only the chief speaks."""
    if unless:
        yield
        return
    with (
        open(os.devnull, "w") as nothing,
        contextlib.redirect_stdout(nothing),
        contextlib.redirect_stderr(nothing),
    ):
        yield


def opened(dataset, data_dir, seed, dry_run=False):
    """The images to train on and those to test on."""
    if dataset == "synthetic":
        made = functools.partial(sources.synthetic, (SYNTHETIC, SYNTHETIC, 3))
        return made(8, 128, seed), made(8, 32, seed + 1)
    if dry_run and dataset == "imagenet2012" and not is_there(data_dir):
        return assumed_imagenet()
    if data_dir is None:
        raise ValueError(
            "Expected --data-dir, the folder of the images. Received: none, and "
            "KERAS_TILT_DATA is not set. Or try --dataset synthetic."
        )
    if dataset.endswith(".npz"):
        train = sources.npz(data_dir / dataset, "train")
        return train, sources.npz(data_dir / dataset, "test", train.class_names)
    if dataset != "imagenet2012":
        splits = ("train", "test")
        return tuple(sources.tfds_named(dataset, data_dir, s) for s in splits)
    if (data_dir / "train").is_dir():
        train = sources.folder(data_dir / "train")
        return train, sources.folder(data_dir / "val", train.class_names)
    return tuple(sources.imagenet(data_dir, s) for s in ("train", "validation"))


def is_there(data_dir):
    """Whether a folder has images that can be read at once."""
    found = ("train", "imagenet2012")
    return data_dir is not None and any((data_dir / name).is_dir() for name in found)


def assumed_imagenet():
    """Images of the number and the kind of ILSVRC-2012's, to plan for."""
    print("Assumed: ILSVRC-2012. Its tars are made into records first, 150 GB more.")
    made = functools.partial(sources.synthetic, (SYNTHETIC, SYNTHETIC, 3), 1000)
    return tuple(dataclasses.replace(made(n), image_shape=None) for n in ILSVRC)


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
    own = taken_by(network) or 2 * (smallest or SMALL.get(network, 224),)
    crop = (size, size) if size else own
    size = max(crop)
    if shorter_side is None and smallest is None:
        shorter_side = 8 * round(size / 7)  # 256 of AlexNet's 227
    if shorter_side is None and size > smallest:
        raise ValueError(
            f"Expected --size of at most {smallest} pixels, those of the images. "
            f"Received: {size}, of --network {network} unless it was given. Pass "
            "--shorter-side to enlarge the images, or another --network."
        )
    if pad is None:
        pad = size // 8 if size == smallest else 0
    return crop, shorter_side, pad


def taken_by(network):
    """Height and width of a network's own images; None of one for any."""
    if not network.endswith(".keras"):
        size = SIZES.get(network)
        return size and (size, size)
    found = named.load_model(pathlib.Path(network))
    shape = getattr(graph.network_of(found), "input_shape", None)
    known = isinstance(shape, tuple) and len(shape) == 4 and None not in shape[1:3]
    return shape[1:3] if known else None


def check_images(images):
    """Two classes or more, in colour where --preprocess has a mean of three."""
    names = images.train.class_names
    if len(names) < 2 or images.train.labels.max() < 0:
        raise ValueError(
            "Expected labelled images of two classes or more, of each a folder. "
            f"Received: {len(names)} classes. Put every class into a folder of its own."
        )
    if images.preprocess in ("caffe", "torch") and images.shape()[2] != 3:
        raise ValueError(
            "Expected images in colour, of which --preprocess "
            f"{images.preprocess} takes the mean. Received: images of shape "
            f"{images.shape()}. Pass --preprocess tf or none."
        )


def prior_of(images, needed):
    """rho [classes], or None where a class has no image and it is not needed."""
    shares = images.class_shares()
    absent = [images.train.class_names[c] for c in np.flatnonzero(shares == 0)]
    if absent and needed:
        raise ValueError(
            "Expected an image of every class, of which the biases are calibrated. "
            f"Received: none of {len(absent)} of {len(shares)} classes: "
            f"{', '.join(absent[:3])}. Complete the images, or pass --no-calibrate."
        )
    return None if absent else shares


def built(network, images, seed, sync_batch_norm):
    """The model to train, of the network that was named."""
    classes = len(images.train.class_names)
    found = named.network(network, images.shape(), classes, seed)
    if sync_batch_norm:
        found = synchronized(found)
    return kt.GenerativeClassifier(found)


def save_names(class_names, out):
    """Writes class_names.json, of which scripts take the names of a model's classes."""
    text = json.dumps(list(class_names)) + "\n"
    out.mkdir(parents=True, exist_ok=True)
    storage.replace(out / "class_names.json", lambda part: part.write(text.encode()))


def settings_of(values, images):
    """What the result depends on, by flag."""
    settings = {
        f"--{name.replace('_', '-')}": value
        if isinstance(value, int | float)
        else str(value)
        for name, value in values.items()
        if name not in UNSAVED
    }
    return {**settings, "training images": len(images.train.labels)}


def trained(model, phases, images, out, settings, save_every, calibration, prior):
    """Trains from wherever the run stands; errors by name, of GG calibrated first."""
    with Unreadable(images.corrupt, out / "unreadable.txt") as unreadable:
        training.train(
            model,
            phases,
            out / "run",
            settings=settings,
            validation=images.evaluation(),
            calibration=calibration,
            prior=prior,
            save_every=save_every,
            batch_size=images.batch_size,
            callbacks=[unreadable],
            metrics=["accuracy", "sparse_top_k_categorical_accuracy"],
        )
        if phases[-1].objective != "generative":
            return errors(model, images)
        found = errors(model, images, ", uncalibrated")
        if prior is not None:
            # What was saved stays as it was trained.
            model.calibrate(calibration, prior=prior)
            found = errors(model, images) | found
    return found


def synchronized(network):
    """The network with batch statistics of all replicas."""

    def copied(layer):
        config = layer.get_config()
        if isinstance(layer, keras.layers.BatchNormalization):
            config["synchronized"] = True
        return layer.__class__.from_config(config)

    found = keras.models.clone_model(network, clone_function=copied, recursive=True)
    found.set_weights(network.get_weights())
    return found


class Unreadable(keras.callbacks.Callback, contextlib.AbstractContextManager):
    """Writes down which images could not be read: after an epoch, and at the end.

    Every worker reads all images, so that one of them can write; others have no path.
    """

    def __init__(self, corrupt, path):
        super().__init__()
        self.corrupt, self.path = corrupt, path

    def on_epoch_end(self, epoch, logs=None):
        """All names so far, those of before an interruption among them."""
        if not (self.corrupt.names and self.path):
            return
        before = self.path.read_text().splitlines() if self.path.exists() else []
        names = sorted({*before, *self.corrupt.names})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("\n".join(names) + "\n")

    def __exit__(self, *error):
        self.on_epoch_end(None)
        if self.corrupt.names:
            print(f"Images that could not be read: {self.path}", file=sys.stderr)


def errors(model, images, suffix=""):
    """Top-1 and top-5 error and ECE, by name of the crops."""
    found = {}
    for crops, name in CROPS.items():
        predicted = evaluation.predictions(model, images.evaluation(crops))
        found[name + suffix] = (
            *(evaluation.top_error(predicted, k) for k in (1, 5)),
            evaluation.calibration_error(predicted),
        )
    return found


def table(found, images):
    """A line for each way to cut and to calibrate."""
    lines = [f"{'':34}{'top-1 error':>12}{'top-5 error':>12}{'ECE':>8}"]
    for name, (first, fifth, ece) in found.items():
        shares = f"{100 * first:12.2f}{100 * fifth:12.2f}{100 * ece:8.2f}"
        lines.append(f"{name:34}{shares}")
    end = "; ECE: expected calibration error, of the probabilities"
    return "\n".join([*lines, f"in %, {len(images.test.labels):,} images{end}"])


def plan(model, images, phases):
    """What would be done, in lines."""
    network, size = model.network, images.batch_size
    labels, tested = images.train.labels, len(images.test.labels)
    shapes = shapes_of(network)
    lines = [
        f"{len(labels):,} images to train on, {np.sum(labels < 0):,} of them without "
        f"label; {tested:,} to test on; {model.num_classes:,} classes",
        f"Shorter side {images.shorter_side or 'as it is'}, border {images.pad}, crop "
        f"{images.crop[0]} x {images.crop[1]}{', mirrored' * images.mirror}",
        "",
        f"{network.name}: {network.count_params():,} parameters",
        *(f"  {name:30}{' x '.join(map(str, s)):>20}" for name, s in shapes),
        "",
    ]
    for phase in phases:
        steps = int(phase.batches(0, 0).cardinality())
        first, largest, last = rates_of(phase, phase.epochs * steps)
        risen = f"rising to {largest:g}, " * (largest > first)
        lines.append(
            f"{phase.epochs} epoch{'s' * (phase.epochs > 1)} of {steps:,} steps of "
            f"{size}: {phase.objective}, learning rate {first:g}, "
            f"{risen}at the end {last:.2g}"
            f"{', calibrated before' * phase.calibrate}"
            + (f", queue of {phase.queue} batches" if phase.queue else "")
        )
    weights = 4 * network.count_params()
    maps = 4 * sum(int(np.prod(shape)) for _, shape in shapes)
    queue = 4 * 3 * model.num_classes * max(phase.queue for phase in phases)
    return "\n".join(
        [
            *lines,
            f"Memory, about: weights, momenta, gradients {_mb(3 * weights)}; maps and "
            f"their gradients {_mb(2 * maps * size)} over all replicas; queue "
            f"{_mb(queue)}; TensorFlow itself 1,000 MB. A saved state: "
            f"{_mb(2 * weights + queue)}, and as much in memory while it is written",
        ]
    )


def shapes_of(network):
    """Names of layers, those of nested networks too, and shapes of their maps."""
    return [
        (step.path, tensor.shape[1:])
        for step in graph.steps(network)
        for tensor in step.node.output_tensors
    ]


def rates_of(phase, steps):
    """The first, the largest and the last learning rate of a phase."""
    optimizer, rates = phase.optimizer(), []
    for step in np.unique(np.linspace(0, steps - 1, 1000, dtype=int)):
        optimizer.iterations.assign(step)
        rates.append(float(tf.convert_to_tensor(optimizer.learning_rate)))
    return rates[0], max(rates), rates[-1]


def _mb(size):
    return f"{size / 2**20:,.0f} MB"


if __name__ == "__main__":
    main()
