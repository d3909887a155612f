"""Time to the first draw of `kt.sample`, beside one plain gradient of the same network.

    first     kt.sample of a class of a network that has never been sampled
    second    the same network, another class
    plain     tf.function of a GradientTape around network(images)[:, class]: its trace
              and first call

    python benchmarks/first_draw.py --out results/bench_first_draw.json

Both sides alternate in one process, each time on a network that was newly built, and
medians are compared. Beside the seconds of the clock stand those of the processor,
which say less of what else the machine does.

Expected: first / plain below 2 for these networks of keras.applications, and 9 for
LeNet, whose gradient is traced in a twentieth of a second; a second draw in well under
a second. About six minutes on two cores.

Source: ours.
"""

import gc
import json
import pathlib
import time

from keras_tilt.cli.flags import command_parser, count, file

NETWORKS = ["lenet", "MobileNetV2", "EfficientNetB0", "DenseNet121"]


def parse_flags():
    """The command line; --smoke shrinks the defaults."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("--networks", nargs="+", default=NETWORKS, metavar="NAME", help="to measure")
    add("--size", type=count, default=96, help="side of the images, pixels")
    add("--chains", type=count, default=4, help="of every draw")
    add("--pairs", type=count, default=5, help="of first and plain")
    add("--units", type=count, default=100, help="to look at memory with")
    add("--seed", type=int, default=1, help="of images and draws")
    add("--out", type=file, default="out/bench_first_draw.json", help="numbers")
    add("--smoke", action="store_true", help="one pair of one network")
    flags = parser.parse_args()
    if flags.smoke:
        flags.networks, flags.pairs, flags.units = ["lenet"], 1, 3
    return flags


if __name__ == "__main__":
    parse_flags()  # may end here, before the seconds that TensorFlow takes

import keras_tilt as kt
import keras
import numpy as np
import tensorflow as tf


def main():
    """Network by network: measures, prints, writes."""
    options = parse_flags()
    results = {}
    for name in options.networks:
        results[name] = measured(name, options)
        show(name, results[name])
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(results, indent=1) + "\n")


def measured(name, options):
    """Return medians [s] and ratios of one network."""
    build = builder(name, options.size)
    plain_gradient(build(), options)  # what is done once in a process
    first_draw(build(), 0, options)
    pairs = []
    for _ in range(options.pairs):
        plain = plain_gradient(build(), options)
        network = build()
        first = first_draw(network, 0, options)
        second = first_draw(network, 1, options)
        pairs.append([plain, first, second])
        gc.collect()
    clock, processor = np.median(pairs, axis=0).T
    ratios = [np.array(pairs)[:, 1, i] / np.array(pairs)[:, 0, i] for i in (0, 1)]
    return {
        "plain": clock[0],
        "first": clock[1],
        "second": clock[2],
        "plain, processor": processor[0],
        "first, processor": processor[1],
        "second, processor": processor[2],
        "first / plain": float(np.median(ratios[0])),
        "first / plain, processor": float(np.median(ratios[1])),
        "pairs": np.array(pairs).tolist(),
        "memory": memory(network, options),
    }


def builder(name, size):
    """Return a function that makes the network anew."""
    if name == "lenet":
        return kt.lenet
    make = getattr(keras.applications, name)
    shape = (size, size, 3)
    return lambda: make(weights=None, input_shape=shape, classifier_activation=None)


def plain_gradient(network, options):
    """Return seconds [clock, processor] of the trace and first call of a gradient."""
    shape = [options.chains, *network.input_shape[1:]]
    images = tf.random.stateless_normal(shape, [0, options.seed])

    @tf.function
    def gradient(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            f = network(images, training=False)[:, 0]
        return tape.gradient(f, images)

    began = now()
    gradient(images).numpy()
    return since(began)


def first_draw(network, class_index, options):
    """Return seconds until the first draw is there, the unit made anew as well."""
    drawn = []
    began = now()
    unit = kt.unit(network, class_index=class_index)
    kt.sample(
        kt.Tilt(unit, kt.white_noise(unit.input_shape)),
        options.chains,
        1,
        0,
        seed=options.seed,
        step_size=0.05,
        num_leapfrog_steps=1,
        callback=lambda draw, noise: drawn.append(since(began)),
        progress=False,
    )
    return drawn[0]


def memory(network, options):
    """Return megabytes after a tenth of the units, and after all of them."""
    found = []
    for i in range(options.units):
        first_draw(network, i % 10, options)
        if i + 1 in (max(1, options.units // 10), options.units):
            gc.collect()
            found.append(resident())
    return found


def resident():
    """Return the memory of this process in megabytes."""
    pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * 4096 / 2**20


def now():
    return time.perf_counter(), time.process_time()


def since(began):
    return [end - start for start, end in zip(began, now(), strict=True)]


def show(name, numbers):
    print(
        f"{name}: plain {numbers['plain']:.2f} s, first {numbers['first']:.2f} s, "
        f"second {numbers['second']:.2f} s; first / plain "
        f"{numbers['first / plain']:.2f} (processor "
        f"{numbers['first / plain, processor']:.2f}); memory "
        f"{' -> '.join(f'{mb:.0f}' for mb in numbers['memory'])} MB",
        flush=True,
    )


if __name__ == "__main__":
    main()
