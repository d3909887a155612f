"""What a batch of 256 images knows of 1,000 densities: four estimates of one gradient.

The generative gradient is an expectation over all images, estimated by a batch in which
most classes have one image or none. Here everything is known: 20,000 images, 20 of each
class, with logits N(0, 1), higher by t for the image's own class (t = 0 at the start of
a training, 6 late in it). For batches

    uniform       drawn from all images
    K classes     of 256 / K images each (`batches.by_classes`)
    queue         uniform, with N past images (`keras_tilt.training.reference_queue`)

this prints the mean of the estimates along the true gradient (1 = unbiased), and the
cosine between the estimate of one step and the true one. A minute on two cores.

    python benchmarks/estimators.py --out results/estimators.json
"""

import json

from keras_tilt.cli.flags import command_parser, count, file


def parse_flags():
    """The command line."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("--steps", type=count, default=400, help="batches of each estimate")
    add("--rises", nargs="+", type=float, default=[0.0, 3.0, 6.0], help="t, nats")
    add("--seed", type=int, default=0, help="of logits and batches")
    add("--out", type=file, default="out/estimators.json", help="numbers")
    add("--smoke", action="store_true", help="three batches")
    flags = parser.parse_args()
    if flags.smoke:
        flags.steps, flags.rises = 3, [0.0]
    return flags


if __name__ == "__main__":
    parse_flags()  # may end here, before the seconds that TensorFlow takes

import numpy as np
import tensorflow as tf
from tqdm import auto as tqdm

from keras_tilt.data import batches
from keras_tilt.training.losses import column_statistics, generative_loss
from keras_tilt.training.reference_queue import ReferenceQueue, pooled

CLASSES, IMAGES_OF_CLASS, BATCH = 1000, 20, 256
LABELS = np.repeat(np.arange(CLASSES, dtype=np.int32), IMAGES_OF_CLASS)


def main():
    """Measures every estimate at every t, writes, prints."""
    flags = parse_flags()
    kinds = {
        "uniform": (uniform, 0),
        "128 classes": (by_classes(128), 0),
        "32 classes": (by_classes(32), 0),
        "queue of 4,096": (uniform, 16),
        "queue of 65,536": (uniform, 256),
    }
    results = {"steps": flags.steps, "seed": flags.seed, "estimates": []}
    for rise in flags.rises:
        logits = made(rise, flags.seed)
        true = true_gradient(logits)
        for name, (orders, queue) in kinds.items():
            along, cosine = compared(
                logits,
                true,
                orders(flags.seed),
                queue,
                flags.steps,
                f"t = {rise:g}, {name}",
            )
            results["estimates"].append(
                {"t": rise, "batches": name, "along": along, "cosine": cosine}
            )
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    flags.out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results["estimates"]))
    print(f"Written to {flags.out}")


def made(rise, seed):
    """Logits float32 [images, classes]."""
    logits = np.random.default_rng(seed).standard_normal([len(LABELS), CLASSES])
    logits[np.arange(len(LABELS)), LABELS] += rise
    return logits.astype(np.float32)


def true_gradient(logits):
    """(rho_c exp(F) / Z_c - 1[y = c]) / N of all images, [images, classes]."""
    gradient = np.exp(logits) / np.exp(logits).mean(axis=0) / CLASSES
    gradient[np.arange(len(LABELS)), LABELS] -= 1.0
    return gradient / len(LABELS)


def uniform(seed):
    """Batches for ever, each of BATCH image indices."""
    return _batches(lambda epoch: batches.uniform_order(len(LABELS), seed, epoch))


def by_classes(count):
    """The same, with so many classes in each."""
    return lambda seed: _batches(
        lambda epoch: batches.by_classes(LABELS, BATCH, count, seed, epoch)
    )


def _batches(order_of):
    epoch = 0
    while True:
        order = order_of(epoch)
        yield from order[: len(order) // BATCH * BATCH].reshape(-1, BATCH)
        epoch += 1


def compared(logits, true, orders, queue_length, steps, name):
    """Mean of the estimates along the true gradient; mean cosine of one of them."""
    queue = ReferenceQueue(queue_length, CLASSES) if queue_length else None

    @tf.function
    def estimate(labels, logits):
        statistics = column_statistics(labels, logits)
        used = statistics if queue is None else pooled(statistics, queue.rows)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = generative_loss(labels, logits, statistics=used)
        if queue is not None:
            queue.push(statistics)
        return tape.gradient(loss, logits)

    for _ in range(queue_length):  # it fills; the logits do not change
        images = next(orders)
        estimate(LABELS[images], logits[images])
    products, squares = [], []
    for _ in tqdm.trange(steps, desc=name, leave=False):
        images = next(orders)
        found = estimate(LABELS[images], logits[images]).numpy()
        products.append(np.vdot(found, true[images]))
        squares.append(np.vdot(found, found))
    # Of N images a batch shows m: its gradient along the true one is m / N of a pass.
    square = np.vdot(true, true)
    along = np.mean(products) / square
    cosine = np.mean(products / np.sqrt(np.multiply(squares, square)))
    return round(float(along), 4), round(float(cosine), 4)


def table(estimates):
    """A line for each kind of batches, two columns for each t."""
    rises = list(dict.fromkeys(each["t"] for each in estimates))
    names = list(dict.fromkeys(each["batches"] for each in estimates))
    lines = [f"{'':18}" + "".join(f"{f't = {rise:g}':>18}" for rise in rises)]
    for name in names:
        cells = [
            f"{each['along']:.3f} ({each['cosine']:.4f})"
            for each in estimates
            if each["batches"] == name
        ]
        lines.append(f"{name:18}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join([*lines, "mean along the true gradient (cosine of one step)"])


if __name__ == "__main__":
    main()
