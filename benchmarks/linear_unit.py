"""A linear unit, of which everything is known, by sampling and by maximisation.

    f(x) = w.x,  q = N(0, s^2 I):   p = N(s^2 w, s^2 I) exactly

    pip install tf-keras-vis
    python benchmarks/linear_unit.py --out results/bench_linear_unit.json

Two minutes on two cores. Expected: the samples have the exact mean |x| and spread.
Activation maximisation (tf-keras-vis) grows with the steps it is given, to no end, or
as it comes, with regularizers and a range of pixels, to a scale that is theirs.
"""

import importlib.util
import json

from keras_tilt.cli.flags import command_parser, count, file


def parse_flags():
    """The command line."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("--runs", type=count, default=16, help="chains, and seeds of the maximisation")
    add("--draws", type=count, default=200, help="of each chain")
    add(
        "--steps", type=count, nargs="+", default=[50, 200, 800], help="of maximisation"
    )
    add("--seed", type=int, default=7, help="equal seeds give equal numbers")
    add("--out", type=file, default="out/linear_unit.json", help="file of the numbers")
    add("--smoke", action="store_true", help="few runs of few steps")
    flags = parser.parse_args()
    if flags.smoke:
        flags.runs, flags.draws, flags.steps = 2, 8, [3]
    return flags


if __name__ == "__main__":
    parse_flags()  # may end here, before the seconds that TensorFlow takes

import keras_tilt as kt
import keras
import numpy as np

SHAPE = (28, 28, 1)
STDDEV = 20.0
SLOPE = 0.015  # of a pixel: the mean of p is 0.3 standard deviations away on average


def main():
    """Both ways, one table."""
    flags = parse_flags()
    if importlib.util.find_spec("tf_keras_vis") is None:
        raise SystemExit(
            "Expected the package tf-keras-vis, for the maximisation. Received: none. "
            "Install it: pip install tf-keras-vis"
        )
    network = linear_network(flags.seed)
    found = {"exact": exact(network)}
    found["samples"] = sampled(network, flags.runs, flags.draws, flags.seed)
    for steps in flags.steps:
        for plain in (True, False):
            name = f"maximisation, {'plain' if plain else 'as it comes'}, {steps} steps"
            found[name] = maximised(network, flags.runs, steps, flags.seed, plain)
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    flags.out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{'':<45}{'mean |x|':>10}{'spread':>10}")
    for name, numbers in found.items():
        print(f"{name:<45}{numbers['mean_abs']:10.2f}{numbers['spread']:10.2f}")
    print(f"\nNumbers: {flags.out}")


def linear_network(seed):
    """One logit, w.x."""
    keras.utils.set_random_seed(seed)
    start = keras.initializers.RandomNormal(stddev=SLOPE)
    layers = [keras.layers.Flatten(), keras.layers.Dense(1, kernel_initializer=start)]
    return keras.Sequential([keras.Input(SHAPE), *layers])


def exact(network):
    """Of p = N(s^2 w, s^2 I): the mean of |x|, and the sd of a pixel."""
    means = STDDEV**2 * network.get_weights()[0].ravel()
    draws = np.random.default_rng(0).standard_normal([4000, means.size])
    return {
        "mean_abs": float(np.mean(np.abs(means + STDDEV * draws))),
        "spread": STDDEV,
    }


def sampled(network, num_chains, num_draws, seed):
    """By `kt.sample`; the spread is the sd over draws and chains."""
    unit = kt.unit(network, class_index=0)
    tilt = kt.Tilt(unit, kt.white_noise(SHAPE, stddev=STDDEV))
    samples = kt.sample(tilt, num_chains, num_draws, num_draws // 2, seed=seed)
    images = np.asarray(samples.images).reshape(-1, *SHAPE)
    return numbers_of(images) | {"verdict": samples.diagnostics.verdict}


def maximised(network, num_runs, num_steps, seed, plain):
    """By tf-keras-vis, with jitter, rotations and regularizers or without."""
    from tf_keras_vis.activation_maximization import ActivationMaximization
    from tf_keras_vis.utils.scores import CategoricalScore

    keras.utils.set_random_seed(seed)
    start = np.random.default_rng(seed).uniform(0, 255, [num_runs, *SHAPE])
    nothing = {"input_modifiers": None, "regularizers": None, "input_range": None}
    images = ActivationMaximization(network, clone=False)(
        CategoricalScore([0] * num_runs),
        seed_input=start.astype(np.float32),
        steps=num_steps,
        **(nothing if plain else {}),
    )
    return numbers_of(np.asarray(images))


def numbers_of(images):
    """Mean of |x|, and the sd of a pixel from image to image."""
    return {
        "mean_abs": float(np.mean(np.abs(images))),
        "spread": float(np.mean(np.std(images, axis=0, ddof=1))),
    }


if __name__ == "__main__":
    main()
