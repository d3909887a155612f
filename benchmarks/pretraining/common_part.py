"""How much of the noise of the discriminative gradient is common to all images?

    d_i = softmax(z_i) - onehot(y_i)          the gradient in the logits of image i
    g   = 1/n sum_i J_i^T d_i                 that in the weights
    c   = 1/n sum_i J_i^T (d_i - mean of d)   the same, centered over the batch

with J of `training=True`, through the statistics of batch norm. At fixed weights, over
batches at random, this prints for every kernel

    left = trace Cov(c) / trace Cov(g)

the share of its noise that is left when the logits are centered. What goes follows the
class counts of a batch. For the last kernel, g = 1/n sum_i h_i d_i^T, it is

    predicted = trace Cov(h) / E |h|^2

if d does not depend on the features h. Weights are those of the start, and those after
some steps of DG; moving statistics have seen the batches once before. Two minutes a
network on one core. A network without normalization needs a rate of .001.

    python benchmarks/pretraining/common_part.py --data-dir DIR \\
        --dataset CIFAR10.npz --normalizations group layer batch ghost moving \\
        --out results/common_part.json
"""

import os

from keras_tilt.cli.flags import (
    add_threads,
    command_parser,
    count,
    file,
    natural,
    positive,
)

SETTINGS = (
    *("dataset", "size", "pad", "batch_size", "learning_rate", "steps", "looks"),
    "seed",
)
KINDS = ("none", "group", "layer", "batch", "ghost", "moving")


def parse_flags():
    """The command line; --smoke shrinks the defaults."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("--data-dir", default=os.environ.get("KERAS_TILT_DATA"), help="folder")
    add("--dataset", default="cifar10", help="name of TFDS, or of a file or folder")
    add("--size", type=count, default=32, help="of the crop, pixels")
    add("--pad", type=natural, default=4, help="of crops and mirrors")
    add("--normalizations", nargs="+", choices=KINDS, default=KINDS, help="to compare")
    add("--learning-rate", type=positive, default=0.008, help="of AdamW, constant")
    add("--steps", type=count, default=390, help="of training before the second look")
    add("--looks", type=count, default=60, help="batches")
    add("--batch-size", type=count, default=128, help="images")
    add("--seed", type=int, default=0, help="of weights and batches")
    add_threads(add)
    add("--out", type=file, default="out/common_part.json", help="records")
    add("--smoke", action="store_true", help="three batches of the embedded digits")
    flags = parser.parse_args()
    if flags.smoke:
        flags.steps, flags.looks, flags.normalizations = 2, 3, ("group", "batch")
    return flags


if __name__ == "__main__":
    parse_flags()  # may end here, before the seconds that TensorFlow takes

import keras
import numpy as np
import tensorflow as tf
from images import opened
from networks import network

import keras_tilt as kt
from keras_tilt.cli import process
from keras_tilt.data import batches
from keras_tilt.training import results


def main():
    """Looks at every network twice, prints, writes."""
    flags = parse_flags()
    process.use_threads(flags.threads)
    with process.as_exit():
        train, _ = opened(flags.dataset, flags.data_dir, flags.smoke)
    run = {name: getattr(flags, name) for name in SETTINGS}
    run["network"] = "pooled_convnet"
    for kind in flags.normalizations:
        run["normalization"] = kind
        if not results.records_of(run, flags.out):
            with process.as_exit():
                record = {**run, **looked_at(run, train)}
            results.append_records(flags.out, [record])
        (record,) = results.records_of(run, flags.out)
        for when in ("at the start", "trained"):
            values = " ".join(f"{value:7.3f}" for value in record[when].values())
            print(f"{kind:8}{when:14}{values}")
        print(f"{kind:8}last, predicted at the start {record['predicted']:.3f}")
    print(f"Records: {flags.out}")


def looked_at(run, source):
    """The noise left at the start, and after the steps of a run."""
    model = kt.GenerativeClassifier(network(run, len(source.class_names)))
    rate = keras.optimizers.AdamW(run["learning_rate"], weight_decay=4e-3)
    model.compile(rate, "discriminative")
    others = drawn(source, run, run["seed"] + 1, run["looks"])
    predicted = spread_of_features(model.network, others)
    first = noise_left(model.network, others)
    model.fit(drawn(source, run, run["seed"], run["steps"]), shuffle=False, verbose=0)
    return {
        "predicted": predicted,
        "at the start": first,
        "trained": noise_left(model.network, others),
    }


def drawn(source, run, seed, steps):
    """Batches at random, with crops and mirror images."""
    size, side = run["batch_size"], run["size"]
    per_epoch = len(source.labels) // size
    epochs = range(-(-steps // per_epoch))
    orders = [
        batches.uniform_order(len(source.labels), seed, epoch)[: per_epoch * size]
        for epoch in epochs
    ]
    return batches.training_batches(
        source,
        np.concatenate(orders)[: steps * size],
        size,
        seed=seed,
        epoch=0,
        crop=(side, side),
        pad=run["pad"],
        mirror=run["pad"] > 0,
    )


def spread_of_features(net, images_and_labels):
    """trace Cov(h) / E |h|^2 of the inputs of the last layer with a kernel."""
    (*_, last) = (each for each in net.layers if hasattr(each, "kernel"))
    features = keras.Model(net.input, last.input)
    found = [features(images, training=True) for images, _ in images_and_labels]
    h = np.concatenate([keras.ops.convert_to_numpy(part) for part in found])
    return round(float(h.var(axis=0).sum() / np.square(h).sum(axis=1).mean()), 4)


def noise_left(net, images_and_labels):
    """trace Cov(c) / trace Cov(g), by the path of each kernel."""
    kernels = [v for v in net.trainable_variables if v.path.endswith("kernel")]
    look = tf.function(lambda *batch: gradients(net, kernels, *batch))
    looks = [look(*batch) for batch in images_and_labels]
    found = {}
    for i, kernel in enumerate(kernels):
        whole, centered = (
            sum(np.var([part[i].numpy() for part in which], axis=0).ravel())
            for which in zip(*looks, strict=True)
        )
        if not 0 < whole < np.inf:
            raise ValueError(
                f"Expected a gradient of {kernel.path} that differs between batches. "
                f"Received: one of variance {whole}; its activations may all be off. "
                "Lower --learning-rate."
            )
        found[kernel.path] = round(float(centered / whole), 4)
    return found


def gradients(net, kernels, images, labels):
    """g and c of a batch, each a list of as many as there are kernels."""
    values = [kernel.value for kernel in kernels]
    with tf.GradientTape(persistent=True) as tape:
        logits = net(images, training=True)
    d = tf.nn.softmax(logits) - tf.one_hot(tf.cast(labels, tf.int32), logits.shape[-1])
    d /= tf.cast(tf.shape(logits)[0], d.dtype)
    centered = d - tf.reduce_mean(d, axis=0)
    return tuple(
        tape.gradient(logits, values, output_gradients=part) for part in (d, centered)
    )


if __name__ == "__main__":
    main()
