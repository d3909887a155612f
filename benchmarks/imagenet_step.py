"""AlexNet on ImageNet's shapes: the step, the queue, the input, what replicas exchange.

What it shows, for AlexNet at 227 pixels and 1,000 classes: generative over
discriminative step (wanted: at most 1.01), our step over stock Keras (1.02), a queue of
65,536 images over none (1.03); images per second of the input alone over those of the
step (at least 2); and the bytes per step that the generative objective adds to what two
replicas exchange, which do not depend on the batch. Three minutes on two cores.

    python benchmarks/imagenet_step.py --images PHOTOS.npz

Without --images they are made of noise, which takes longer to decode. Rounds are those
of benchmarks/train_step.py: one step of each variant in an order that rotates, ratios
within a round.
"""

import itertools
import json
import os
import pathlib
import platform
import time

from keras_tilt.cli.flags import command_parser, count, file


def parse_flags():
    """The command line."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("--images", type=pathlib.Path, help=".npz of JPEG images, arrays buf and off")
    add("--batch-size", type=count, default=32, help="images")
    add("--rounds", type=count, default=40, help="steps of every variant")
    add("--seed", type=int, default=0, help="of images and labels")
    add("--out", type=file, default="out/bench_imagenet_step.json", help="table")
    add("--smoke", action="store_true", help="two rounds of 67 pixels, batch 4")
    flags = parser.parse_args()
    if flags.smoke:
        flags.rounds, flags.batch_size = 2, 4
    return flags


if __name__ == "__main__":
    parse_flags()  # may end here, before the seconds that TensorFlow takes

import keras_tilt as kt
import keras
import numpy as np
import tensorflow as tf
from train_step import error_of_median

from keras_tilt.data import batches, sources

SIDE, CLASSES, QUEUE = 227, 1000, 65_536
VARIANTS = ("stock", "discriminative", "generative", "queue")
RATIOS = {
    "generative / discriminative": ("generative", "discriminative"),
    "discriminative / stock": ("discriminative", "stock"),
    "generative / stock": ("generative", "stock"),
    "queue / generative": ("queue", "generative"),
}


def main():
    """Measures, writes, prints."""
    flags = parse_flags()
    tf.config.set_logical_device_configuration(  # two replicas
        tf.config.list_physical_devices("CPU")[0],
        2 * [tf.config.LogicalDeviceConfiguration()],
    )
    side = 67 if flags.smoke else SIDE
    times = step_times(side, flags.batch_size, flags.rounds, flags.seed)
    source = opened(flags.images, flags.seed)
    rates = [input_rate(source, side, flags.batch_size, seed) for seed in range(3)]
    results = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "rounds": flags.rounds,
        "batch_size": flags.batch_size,
        "side": side,
        "milliseconds": {v: round(1e3 * np.median(t), 1) for v, t in times.items()},
        "ratios": {label: ratio(times, *pair) for label, pair in RATIOS.items()},
        "input_images_per_second": round(float(np.median(rates)), 1),
        "step_images_per_second": round(
            flags.batch_size / float(np.median(times["generative"])), 1
        ),
        "bytes_to_another_replica": {
            str(size): gathered_bytes(size) for size in (2, 32, 256)
        },
    }
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    flags.out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    print(f"Written to {flags.out}")


def compiled(variant, side, batch_size):
    """A new AlexNet, with the optimizer and the metric that all have."""
    network = kt.alexnet((side, side, 3), CLASSES)
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    if variant == "stock":
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        network.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)
        return network
    model = kt.GenerativeClassifier(network)
    objective = "discriminative" if variant == "discriminative" else "generative"
    queue = QUEUE // batch_size if variant == "queue" else 0
    model.compile(
        optimizer, objective, queue=queue, metrics=["accuracy"], jit_compile=False
    )
    return model


def step_times(side, batch_size, rounds, seed):
    """Seconds of one step, by variant, [rounds]."""
    random = np.random.default_rng(seed)
    images = random.uniform(0.0, 255.0, [batch_size, side, side, 3]).astype(np.float32)
    labels = random.integers(0, CLASSES, batch_size).astype(np.int32)
    endless = tf.data.Dataset.from_tensors((images, labels)).repeat()
    models = {variant: compiled(variant, side, batch_size) for variant in VARIANTS}
    for model in models.values():
        model.make_train_function()
    iterators = {variant: iter(endless) for variant in VARIANTS}
    times = {variant: [] for variant in VARIANTS}
    for turn, place in itertools.product(range(-2, rounds), range(len(VARIANTS))):
        variant = VARIANTS[(turn + place) % len(VARIANTS)]
        started = time.perf_counter()
        logs = models[variant].train_function(iterators[variant])
        logs["loss"].numpy()
        if turn >= 0:  # the first ones warm up
            times[variant].append(time.perf_counter() - started)
    return times


def ratio(times, first, second):
    """Median over rounds, with its standard error and quartiles."""
    by_round = np.divide(times[first], times[second])
    low, middle, high = np.quantile(by_round, [0.25, 0.5, 0.75])
    return {
        "time": round(middle, 4),
        "standard_error": round(error_of_median(by_round), 4),
        "quartiles": [round(low, 4), round(high, 4)],
    }


def opened(path, seed):
    """JPEG images, those of a file or made ones, which stay encoded."""
    if path is None:
        random = np.random.default_rng(seed)
        noise = random.integers(0, 256, [256, 256, 256, 3], np.uint8)
        found = [tf.io.encode_jpeg(image, quality=90).numpy() for image in noise]
    else:
        with np.load(path) as archive:
            bytes_, offsets = archive["buf"], archive["off"]
        pairs = itertools.pairwise(offsets)
        found = [bytes_[first:last].tobytes() for first, last in pairs]
    held = tf.constant(found)
    return sources.Source(
        labels=np.zeros(len(found), np.int32),
        class_names=["any"],
        image_shape=None,
        fetch=lambda numbers: tf.gather(held, numbers),
        decode=lambda content: tf.io.decode_jpeg(content, channels=3),
        name="image {}".format,
    )


def input_rate(source, side, batch_size, seed):
    """Images per second of the training batches alone, the first ones left out."""
    order = batches.uniform_order(len(source.labels), seed, 0)
    order = np.tile(order, -(-2048 // len(order)))
    found = iter(
        batches.training_batches(
            source, order, batch_size, seed=seed, epoch=0, crop=(side, side)
        )
    )
    for _ in range(8):
        next(found)
    started, count = time.perf_counter(), 0
    for images, _ in found:
        count += len(images)
    return count / (time.perf_counter() - started)


def gathered_bytes(batch_size):
    """What a replica sends for the objective, beside the gradients of the weights."""
    devices = tf.config.list_logical_devices("CPU")
    strategy = tf.distribute.MirroredStrategy(devices)
    sent = []

    def step():
        context = tf.distribute.get_replica_context()
        original = context.all_gather

        def spy(value, axis):
            sent.append(value.shape.num_elements() * value.dtype.size)
            return original(value, axis)

        context.all_gather = spy
        return kt.generative_loss(
            tf.zeros([batch_size], tf.int32), tf.zeros([batch_size, CLASSES])
        )

    tf.function(lambda: strategy.run(step))()
    return sum(sent) // max(1, len(devices))


def table(results):
    """All numbers as text."""
    lines = [f"AlexNet, {results['side']} pixels, batch {results['batch_size']}"]
    lines += [f"  {v:28}{ms:9.1f} ms" for v, ms in results["milliseconds"].items()]
    for label, found in results["ratios"].items():
        low, high = found["quartiles"]
        lines.append(
            f"  {label:28}{found['time']:9.3f} +- {found['standard_error']:.3f} "
            f"({low:.3f} to {high:.3f})"
        )
    rates = results["input_images_per_second"], results["step_images_per_second"]
    lines.append(f"  input {rates[0]:.0f} images/s, step {rates[1]:.0f} images/s")
    for size, sent in results["bytes_to_another_replica"].items():
        lines.append(f"  {sent:,} bytes a step for {size} images a replica")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
