"""Time and peak memory of a training step: generative, discriminative, stock Keras.

What it shows: what the generative gradient costs beside the discriminative one, and our
model beside stock Keras with cross-entropy. Wanted: every ratio at most 1.02.
Measured on two cores: 1.000 to 1.010, see the README. About four minutes.

    python benchmarks/train_step.py --out results/bench_train_step.json

Every round takes one training step of each variant, in an order that rotates, by the
function that `fit` calls for each batch; the ratio is taken within a round and the
median over rounds is reported with its quartiles and standard error, so that a machine
that slows down slows both sides. (Whole calls of `fit` cannot be compared: their return
can wait as long again as they ran.) Peak memory is the maximal resident size of a
process that trains one variant alone.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time

from keras_tilt.cli.flags import command_parser, count, file


def parse_flags():
    """The command line."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("--rounds", type=count, default=600, help="steps of every variant")
    add("--seed", type=int, default=0, help="of images and labels")
    add("--out", type=file, default="out/bench_train_step.json", help="table")
    add("--smoke", action="store_true", help="ten rounds")
    add("--memory-of", nargs=2, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.smoke:
        flags.rounds = 10
    return flags


if __name__ == "__main__":
    parse_flags()  # may end here, before the seconds that TensorFlow takes

import keras_tilt as kt
import keras
import numpy as np
import tensorflow as tf

VARIANTS = ("generative", "discriminative", "stock")
RATIOS = {
    "generative / discriminative": ("generative", "discriminative"),
    "discriminative / stock": ("discriminative", "stock"),
    "generative / stock": ("generative", "stock"),
}
BATCH_SIZE = {"lenet": 64, "thousand_classes": 128}


def main():
    """Measures every network, writes the table, prints it."""
    flags = parse_flags()
    if flags.memory_of:
        print(peak_memory(*flags.memory_of))
        return
    results = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "rounds": flags.rounds,
        "networks": {},
    }
    for name in BATCH_SIZE:
        times = measured_times(name, flags.rounds, flags.seed)
        memory = {v: memory_in_own_process(name, v) for v in VARIANTS}
        results["networks"][name] = summary(times, memory)
        flags.out.parent.mkdir(parents=True, exist_ok=True)
        flags.out.write_text(json.dumps(results, indent=1) + "\n")
        print(table(name, results["networks"][name]), flush=True)
    print(f"Written to {flags.out}")


def build_network(name):
    """LeNet, or a small convolutional network with a thousand classes."""
    if name == "lenet":
        return kt.lenet()
    images = keras.Input([32, 32, 3])
    x = keras.layers.Conv2D(32, 3, activation="relu")(images)
    x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.Conv2D(64, 3, activation="relu")(x)
    x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(512, activation="relu")(x)
    return keras.Model(images, keras.layers.Dense(1000)(x))


def compiled(name, variant):
    """One model of one variant, with the same optimizer and the same metric."""
    network = build_network(name)
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    if variant == "stock":
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        network.compile(optimizer, loss, metrics=["accuracy"])
        return network
    model = kt.GenerativeClassifier(network)
    model.compile(optimizer, variant, metrics=["accuracy"])
    return model


def batches(name, seed):
    """The same random batch, for ever."""
    random = np.random.default_rng(seed)
    network = build_network(name)
    shape = (BATCH_SIZE[name], *network.input_shape[1:])
    images = random.uniform(size=shape).astype(np.float32)
    labels = random.integers(0, network.output_shape[1], BATCH_SIZE[name])
    return tf.data.Dataset.from_tensors((images, labels.astype(np.int32))).repeat()


def measured_times(name, rounds, seed):
    """Seconds of one step, by variant, [rounds]."""
    models = {variant: compiled(name, variant) for variant in VARIANTS}
    for model in models.values():
        model.make_train_function()
    iterators = {variant: iter(batches(name, seed)) for variant in VARIANTS}
    times = {variant: [] for variant in VARIANTS}
    for turn in range(-20, rounds):  # the first ones warm up
        for place in range(len(VARIANTS)):
            variant = VARIANTS[(turn + place) % len(VARIANTS)]
            started = time.perf_counter()
            logs = models[variant].train_function(iterators[variant])
            logs["loss"].numpy()
            if turn >= 0:
                times[variant].append(time.perf_counter() - started)
    return times


def peak_memory(name, variant):
    """MiB of this process after a few steps of one variant."""
    model = compiled(name, variant)
    model.fit(batches(name, 0), steps_per_epoch=10, shuffle=False, verbose=0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory_in_own_process(name, variant):
    """Median of three processes, MiB."""
    command = [sys.executable, __file__, "--memory-of", name, variant]
    runs = [subprocess.run(command, capture_output=True, text=True) for _ in range(3)]
    for run in runs:
        run.check_returncode()
    return float(np.median([float(run.stdout) for run in runs]))


def summary(times, memory):
    """Medians, and ratios with standard error and quartiles over rounds."""
    ratios = {}
    for label, (first, second) in RATIOS.items():
        by_round = np.divide(times[first], times[second])
        quartiles = np.quantile(by_round, [0.25, 0.5, 0.75])
        ratios[label] = {
            "time": round(quartiles[1], 4),
            "time_standard_error": round(error_of_median(by_round), 4),
            "time_quartiles": [round(quartiles[0], 4), round(quartiles[2], 4)],
            "memory": round(memory[first] / memory[second], 4),
        }
    return {
        "milliseconds": {v: round(1e3 * np.median(t), 3) for v, t in times.items()},
        "peak_memory_mib": {v: round(m, 1) for v, m in memory.items()},
        "ratios": ratios,
    }


def error_of_median(values):
    """Standard error of a median, by 200 bootstrap resamples."""
    random = np.random.default_rng(0)
    resamples = random.choice(values, [200, len(values)])
    return float(np.median(resamples, axis=1).std())


def table(name, measured):
    """The summary of one network as text."""
    lines = [f"{name}, batch {BATCH_SIZE[name]}"]
    for variant in VARIANTS:
        lines.append(
            f"  {variant:28}{measured['milliseconds'][variant]:9.2f} ms"
            f"{measured['peak_memory_mib'][variant]:9.0f} MiB"
        )
    for label, ratio in measured["ratios"].items():
        low, high = ratio["time_quartiles"]
        lines.append(
            f"  {label:28}{ratio['time']:9.3f} +- {ratio['time_standard_error']:.3f} "
            f"time ({low:.3f} to {high:.3f})"
            f"{ratio['memory']:9.3f} memory"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
