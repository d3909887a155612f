"""Cost and efficiency of the exact-rotation kernel: beside TFP's HMC, and BlackJAX's.

What it shows, part by part (`--parts`), and what is wanted:

    cost      one iteration of L leapfrog steps, over L bare gradients of the network:
              time ratio at most 1.05
    ess       effective samples of f per gradient at 80 % acceptance, split / hmc, each
              at its own best number of leapfrog steps: at least 6 under a weak tilt
              (SqueezeNet, white noise), 2 on LeNet, 2 where pictures form (SqueezeNet,
              spectral noise, scale 10)
    pixels    the step of 80 % acceptance against the number of pixels, for a tilt with
              the same law whatever their number, both logarithmic: slopes 0 (split)
              and -1/4 (hmc) with trajectories of a quarter turn; hmc with four steps,
              whose trajectories shorten with the step, has -1/6
    blackjax  effective samples of f per second beside BlackJAX's HMC, on the same
              network rewritten in JAX

Measured so far: the cost, see the README. About three hours on a machine with nothing
else to do, without which times mean nothing: cost 5 minutes; ess 40 (weak), 15 (lenet)
and 70 (picture); pixels 15; blackjax 15.

    python benchmarks/sampling.py --out results/bench_sampling.json

Variants take turns in rounds, in an order that rotates; a ratio is taken within a round
and its median over rounds is reported with a standard error. A gradient is one of all
chains at once. A finished case is in the file at once, and a second call with the same
settings measures only what is missing.

In `ess`, weak and lenet run through `kt.sample`, which adapts the step in its warm-up
and never makes a trajectory longer than a quarter turn of the noise, pi / 2: with many
steps more than 80 % are accepted. A draw is then worth one independent draw at most,
and L steps 1 / L effective samples per gradient: numbers of steps for which that is
less than the best found are left out. ESS / draws above 0.8 is marked: there the
trajectory is longer than it need be. The best number of steps is chosen in a first pass
and judged in rounds with other seeds. In the picture regime the graph of `kt.sample` is
driven from here, so that all variants take turns from one state at the full tilt.

BlackJAX is no requirement of keras_tilt and has an environment of its own:

    python -m venv BLACKJAX && BLACKJAX/bin/pip install -e . blackjax
    BLACKJAX/bin/python benchmarks/sampling.py --parts blackjax
"""

import argparse
import functools
import importlib.util
import json
import os
import pathlib
import platform
import time

import keras_tilt as kt
import arviz
import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_tilt.adaptation import QUARTER_TURN, StepSize
from keras_tilt.chains import Chains, Settings
from keras_tilt.tilt import stacked_response

PARTS = ("cost", "ess", "pixels", "blackjax")
REGIMES = ("weak", "lenet", "picture")
KERNELS = ("split", "hmc")
ACCEPT = 0.8
TOO_LONG = 0.8  # effective samples per draw

DIGIT = 3  # class of LeNet
PIZZA = 963  # class of SqueezeNet
CAFFE_MEAN = np.float32([103.939, 116.779, 123.68])  # blue, green, red
# Of the pixels of 1,000 photographs, one of each ImageNet class: red, green, blue.
COLOUR_COVARIANCE = [[4852, 4247, 3865], [4247, 4647, 4403], [3865, 4403, 5075]]
LOW_FREQUENCY = 6  # cycles per image

# Arguments of the function that measures a case; steps are leapfrog steps.
STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
PIXELS = (100, 1_000, 10_000, 100_000, 1_000_000)
FULL = {
    "cost lenet": dict(num_chains=64, num_steps=20, rounds=150),
    "cost squeezenet": dict(
        num_chains=4, num_steps=10, rounds=50, network="squeezenet"
    ),
    "ess weak": dict(num_chains=4, rounds=5, steps=STEPS, network="squeezenet")
    | dict(num_gradients=800, num_burnin_steps=60),
    "ess lenet": dict(num_chains=32, rounds=8, steps=STEPS)
    | dict(num_gradients=3000, num_burnin_steps=150),
    "ess picture": dict(num_chains=4, rounds=8, steps=(10, 30), network="squeezenet")
    | dict(num_gradients=2400, num_burnin_steps=200, num_adaptation_gradients=600)
    | dict(mass_exponents=(0, 0.5, 1)),
    "pixels quadratic": dict(num_chains=16, num_steps=4, num_pixels=PIXELS)
    | dict(num_burnin_steps=80, num_results=30),
    "blackjax lenet": dict(num_chains=32, rounds=8, steps=STEPS[:8])
    | dict(num_gradients=1200, num_burnin_steps=400),
}
FEW = dict(num_gradients=20, num_burnin_steps=10, rounds=1)
SMOKE = {
    "cost lenet": dict(num_steps=3, rounds=3),
    "cost squeezenet": dict(num_steps=2, rounds=3, network="lenet"),
    "ess weak": FEW | dict(steps=(2,), network="lenet"),
    "ess lenet": FEW | dict(steps=(2,)),
    "ess picture": FEW
    | dict(steps=(1, 2), network="lenet")
    | dict(num_adaptation_gradients=10, mass_exponents=(1,)),
    "pixels quadratic": dict(num_burnin_steps=20, num_results=4, num_pixels=PIXELS[:2]),
    "blackjax lenet": FEW | dict(steps=(2,), num_burnin_steps=20),
}


def main():
    """Measures every case that is asked for and not yet in the file, and prints it."""
    flags = parse_flags()
    asked = cases(flags.parts, flags.regimes, flags.smoke, flags.picture_gradients)
    found = json.loads(flags.out.read_text()) if flags.out.is_file() else {}
    start = flags.out.with_name(f"{flags.out.stem}_picture_start.npz")
    for case, settings in asked.items():
        settings["seed"] = flags.seed
        if flags.again or found.get(case, {}).get("settings") != settings:
            result = measured(case, flags.data_dir, start, **settings)
            found[case] = {"settings": settings, **surroundings(), "result": result}
            save(flags.out, found)
        print(table(case, found[case]["result"]), flush=True)
    print(f"Written to {flags.out}")


def parse_flags():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="to measure")
    add("--regimes", nargs="+", choices=REGIMES, default=list(REGIMES), help="of ess")
    add("--picture-gradients", type=int, default=2400, help="of every variant")
    add(
        "--data-dir",
        type=pathlib.Path,
        default=pathlib.Path(os.environ.get("KERAS_TILT_DATA", "../shared/data")),
        help="folder of squeezenet_keras.npz and squeezenet_keras.py",
    )
    add("--seed", type=int, default=0, help="of all chains")
    add(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("out/bench_sampling.json"),
        help="table",
    )
    add("--again", action="store_true", help="measure also what is in the file")
    add("--smoke", action="store_true", help="few gradients, and no SqueezeNet")
    return parser.parse_args()


def cases(parts, regimes, smoke, picture_gradients):
    """Case -> settings, as JSON would return them."""
    names = [f"{part} " for part in parts if part != "ess"]
    names += [f"ess {regime}" for regime in regimes if "ess" in parts]
    settings = {case: FULL[case] for case in FULL if case.startswith(tuple(names))}
    if "ess picture" in settings:
        picture = FULL["ess picture"] | {"num_gradients": picture_gradients}
        settings["ess picture"] = picture
    if smoke:
        settings = {case: settings[case] | SMOKE[case] for case in settings}
    return json.loads(json.dumps(settings))


def measured(case, data_dir, start, network=None, **settings):
    """The result of one case, rounded to what a reader can use."""
    measure = {
        "cost lenet": cost_of_lenet,
        "cost squeezenet": cost_of_squeezenet,
        "ess weak": ess_weak,
        "ess lenet": ess_lenet,
        "ess picture": functools.partial(ess_picture, start),
        "pixels quadratic": pixels,
        "blackjax lenet": beside_blackjax,
    }[case]
    if network is not None:
        measure = functools.partial(measure, colour_unit(network, data_dir))
    return rounded(measure(**settings))


def surroundings():
    """What a time depends on besides the code; a load beside this script spoils it."""
    return {
        "load_average": round(os.getloadavg()[1], 2),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }


def save(path, found):
    """The file whole, or the one before it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(found, indent=1) + "\n")
    new.replace(path)


# Networks, units, references


def trained_lenet():
    """LeNet after one epoch of generative training on 5,000 embedded digits."""
    train, _ = kt.data.embedded_mnist()
    model = kt.GenerativeClassifier(kt.lenet())
    model.compile("adam", objective="generative")
    batches = kt.data.pipeline(*train, batch_size=64, shuffle_seed=0)
    model.fit(batches, shuffle=False, verbose=0)
    return model.network


def digit_tilt(network):
    """White noise of standard deviation 1, where digits are images in [0, 1)."""
    unit = kt.unit(network, class_index=DIGIT)
    return kt.Tilt(unit, kt.white_noise(unit.input_shape))


def colour_unit(network, data_dir):
    """One class of SqueezeNet, or to try the script LeNet's, of RGB in [0, 255]."""
    if network == "lenet":
        unit = functools.partial(kt.unit, kt.lenet([32, 32, 3]), class_index=DIGIT)
    else:
        unit = functools.partial(kt.unit, squeezenet(data_dir), class_index=PIZZA)
    return unit(preprocess=as_caffe)


def squeezenet(data_dir):
    """SqueezeNet 1.1 for images of 227 x 227, trained on ImageNet."""
    code, weights = (data_dir / f"squeezenet_keras.{end}" for end in ("py", "npz"))
    if not (code.is_file() and weights.is_file()):
        raise SystemExit(
            f"Expected {code}, and squeezenet_keras.npz beside it. Received: a folder "
            "without them. Pass --data-dir, or leave out the cases that need it."
        )
    spec = importlib.util.spec_from_file_location(code.stem, code)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load(weights)


def as_caffe(images):
    """RGB in [0, 255] -> BGR minus mean."""
    return tf.reverse(images, [-1]) - CAFFE_MEAN


def gray_noise(unit):
    """White noise on the pixel range."""
    return kt.white_noise(unit.input_shape, mean=127.0, stddev=30.0)


def natural_noise(unit):
    """Noise with the correlations of photographs, on the pixel range for ever."""
    noise = kt.spectral_noise(
        unit.input_shape,
        mean=127.5,
        exponent=1.1,
        colour_covariance=COLOUR_COVARIANCE,
    )
    return kt.squash(noise, 0, 255, scale=80)


# Chains that are advanced from here


class Run:
    """The chains of `kt.sample` in its own graph, advanced one iteration at a time.

    `chains` may be shared by several runs. No adapted step makes a trajectory longer
    than `longest`.
    """

    def __init__(
        self, chains, scale, noise, num_steps, step_size, seed, longest=QUARTER_TURN
    ):
        self.chains, self.scale = chains, np.array([scale])
        self.num_steps, self.step_size = num_steps, step_size
        self.longest = longest
        self.seed, self.iteration = tf.constant([0, seed]), 0
        self.state, _ = chains.start(np.asarray(noise)[None], self.settings)

    @property
    def settings(self):
        """What `Chains` runs under."""
        return Settings(np.array([self.step_size]), self.num_steps, self.scale)

    @property
    def noise(self):
        """Where the chains are, [num_chains, ...]."""
        return self.chains.noise_of(self.state)[0]

    def advance(self):
        """One iteration; its numbers, name -> [num_chains]."""
        seed = tf.random.fold_in(self.seed, self.iteration)
        self.iteration += 1
        self.state, numbers = self.chains.advance(self.state, self.settings, seed)
        return {name: values[0] for name, values in numbers.items()}

    def adapt(self, iterations, turn=None):
        """Find the step of 80 % acceptance as a warm-up does, but at the full tilt.

        With `turn` the number of steps follows, so that trajectories are that long.
        """
        step = StepSize.first(self.step_size, 1)
        for iteration in range(iterations):
            self.set_step(step.current, turn)
            accept_prob = self.advance()["accept_prob"].mean(keepdims=True)
            step = step.learn(accept_prob, ACCEPT, iteration, iterations)
        self.set_step(step.settled, turn)

    def set_step(self, step_size, turn=None):
        """A step no longer than the longest."""
        if turn is not None:
            self.num_steps = max(1, round(turn / step_size.item()))
        self.step_size = min(step_size.item(), self.longest / self.num_steps)

    def draws(self, num_draws):
        """f [num_draws, num_chains], and the share of proposals that was accepted."""
        numbers = [self.advance() for _ in range(num_draws)]
        f = np.stack([of_draw["f"] for of_draw in numbers])
        return f, np.mean([of_draw["is_accepted"] for of_draw in numbers])


def chains_of(tilt, kernel, mass=1.0):
    """The graph in which `kt.sample` advances the chains of one tilt."""
    return Chains(stacked_response([tilt]), tilt.base, kernel, [0], mass)


# Part 1: cost


def cost_of_lenet(**settings):
    """Of an untrained LeNet, which computes as much as a trained one."""
    tilt = digit_tilt(kt.lenet())
    return cost(tilt.unit, {"white noise": tilt.reference}, **settings)


def cost_of_squeezenet(unit, **settings):
    """Under white noise and, for information, under the reference of pictures."""
    references = {"white noise": gray_noise(unit), "natural noise": natural_noise(unit)}
    return cost(unit, references, **settings)


def cost(unit, references, num_chains, num_steps, rounds, seed):
    """Time of a leapfrog step of the split kernel over that of a bare gradient.

    The bare gradients are taken at images of the first reference.
    """
    calls = {}
    for name, reference in references.items():
        noise = reference.distribution.sample(num_chains, seed=[0, seed])
        chains = chains_of(kt.Tilt(unit, reference), "split")
        calls[name] = Run(chains, 1.0, noise, num_steps, 0.01, seed).advance
    images = next(iter(references.values())).sample(num_chains, seed=[0, seed])
    calls["bare"] = functools.partial(bare_gradients(unit), images, num_steps)
    times = {name: [] for name in calls}
    for turn, name in in_turns(calls, 2 + rounds, "cost"):
        seconds, _ = timed(calls[name])
        if turn >= 2:  # the first ones trace the graphs
            times[name].append(seconds / num_steps)
    return {
        "milliseconds_per_gradient": {
            name: 1e3 * np.median(times[name]) for name in times
        },
        "time_over_bare": {
            name: median_ratio(times[name], times["bare"]) for name in references
        },
    }


def bare_gradients(unit):
    """A function that takes f and its gradient by the image, again and again."""

    @tf.function
    def gradient(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            f = unit(images)
        return f, tape.gradient(f, images)

    def run(images, count):
        for _ in range(count):
            gradient(images)[0].numpy()

    return run


# Part 2: effective samples per gradient


def ess_weak(unit, **settings):
    """SqueezeNet under white noise: f hardly bends what the chains do."""
    return ess(kt.Tilt(unit, gray_noise(unit)), **settings)


def ess_lenet(**settings):
    """LeNet under white noise."""
    return ess(digit_tilt(trained_lenet()), **settings)


def ess(tilt, num_chains, num_gradients, num_burnin_steps, rounds, steps, seed):
    """Both kernels through `kt.sample`, each at its own best number of steps."""

    def run(kernel, seed, num_steps):
        num_results = max(10, num_gradients // num_steps)
        samples = kt.sample(
            tilt,
            num_chains,
            num_results,
            num_burnin_steps,
            seed=seed,
            kernel=kernel,
            num_leapfrog_steps=num_steps,
            target_accept_prob=ACCEPT,
            thin=num_results,
            progress=False,
        )
        accept_rate = samples.is_accepted.mean()
        return worth(samples.f, num_steps, samples.step_size, accept_rate)

    first_pass = {
        kernel: scan(kernel, steps, functools.partial(run, kernel, seed))
        for kernel in KERNELS
    }
    best = {kernel: best_of(first_pass[kernel])["num_steps"] for kernel in KERNELS}
    judged = {kernel: [] for kernel in KERNELS}
    for turn, kernel in in_turns(KERNELS, rounds, "rounds"):
        judged[kernel].append(run(kernel, seed + 1 + turn, best[kernel]))
    return {
        "first_pass": first_pass,
        "best": {kernel: mean_of(judged[kernel]) for kernel in KERNELS},
        "ess_per_gradient": ratio_of(judged, *KERNELS, "ess_per_1000_gradients"),
    }


def scan(name, steps, run):
    """Runs with more and more steps, until no more of them can be better."""
    found = []
    for num_steps in tqdm(steps, desc=name):
        if found and 1000 / num_steps < best_of(found)["ess_per_1000_gradients"]:
            break  # even if every draw were an independent one
        found.append(run(num_steps))
    return found


def best_of(found, number="ess_per_1000_gradients"):
    """The run with the largest of some number."""
    return max(found, key=lambda run: run[number])


def worth(f, num_steps, step_size, accept_rate):
    """What the draws of a run are worth; f [draws, chains]."""
    per_draw = bulk_ess(f) / f.size
    return {
        "num_steps": num_steps,
        "step_size": step_size,
        "accept_rate": accept_rate,
        "mean_f": f.mean(),
        "r_hat": arviz.rhat(np.float64(f.T)),
        "ess_per_draw": per_draw,
        "ess_per_1000_gradients": 1000 * per_draw / num_steps,
    }


def bulk_ess(values):
    """Effective number of all the draws of values [draws, chains] together."""
    if np.ptp(values) == 0:  # nothing has moved
        return 0.0
    return float(arviz.ess(np.float64(values.T), method="bulk"))


def mean_of(runs):
    """Means of all numbers over runs."""
    return {name: np.mean([run[name] for run in runs]) for name in runs[0]}


# Part 2, where pictures form


def ess_picture(
    start,
    unit,
    num_chains,
    num_gradients,
    num_burnin_steps,
    num_adaptation_gradients,
    mass_exponents,
    rounds,
    steps,
    seed,
):
    """Kernels and masses side by side, from one state where the pictures have formed.

    `start` is the file of that state. The chains sit in different modes: the ESS is
    that of a single chain, and the mean of it over chains.
    """
    tilt = kt.Tilt(unit, natural_noise(unit), scale=10.0)
    noise, burnin_f = equilibrated(
        tilt, start, num_chains, num_burnin_steps, max(steps), seed
    )
    cycles = cycles_per_image(tilt.event_shape)
    chains = {"hmc": chains_of(tilt, "hmc")} | {
        f"split, mass cycles^{exponent}": chains_of(
            tilt, "split", np.maximum(cycles, 1.0) ** exponent
        )
        for exponent in mass_exponents
    }
    runs = adapted_runs(
        chains, tilt.scale, noise, steps, num_adaptation_gradients, seed
    )
    records = {name: Record(run, cycles <= LOW_FREQUENCY) for name, run in runs.items()}
    for _, name in in_turns(records, rounds, "rounds"):
        records[name].advance(num_gradients // rounds)
    variants = {name: record.summary() for name, record in records.items()}
    split, hmc = best = [best_variant(variants, kernel) for kernel in KERNELS]
    return {
        "burnin_mean_f_by_eighths": [
            part.mean() for part in np.array_split(burnin_f, 8)
        ],
        "variants": variants,
        "best": best,
        "ess_per_gradient": ratio_of_sums(
            variants[split]["ess_per_1000_gradients"],
            variants[hmc]["ess_per_1000_gradients"],
        ),
        "jump_of_f": median_ratio(
            variants[split]["jump_of_f"], variants[hmc]["jump_of_f"]
        ),
        "jump_of_low": median_ratio(
            variants[split]["jump_of_low"], variants[hmc]["jump_of_low"]
        ),
    }


def equilibrated(tilt, path, num_chains, num_burnin_steps, num_steps, seed):
    """Noise [num_chains, ...] after a burn-in with the split kernel, and f on the way.

    Kept in a file beside the table, and read from there by the next call.
    """
    made_by = str((tilt.event_shape, num_chains, num_burnin_steps, num_steps, seed))
    if not path.is_file() or str(np.load(path)["made_by"]) != made_by:
        half = num_burnin_steps // 2
        samples = kt.sample(
            tilt,
            num_chains,
            half,
            num_burnin_steps - half,
            seed=seed,
            kernel="split",
            num_leapfrog_steps=num_steps,
            thin=half,
        )
        f = np.concatenate([samples.warmup_f, samples.f])
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, made_by=made_by, noise=samples.noise[-1], f=f)
    with np.load(path) as kept:
        return kept["noise"], kept["f"]


def cycles_per_image(shape):
    """Radial frequency of every coordinate of spectral noise, of the noise's shape."""
    rows, columns = (size * np.fft.fftfreq(size) for size in shape[:2])
    radius = np.hypot(rows[:, None], columns)
    return np.broadcast_to(radius[:, :, None], shape)


def adapted_runs(chains, scale, noise, steps, num_gradients, seed):
    """A run of all chains with every number of steps, its step found beforehand."""
    runs = {}
    for name in tqdm(chains, desc="adaptation"):
        step_size = 0.01
        for num_steps in steps:
            run = Run(chains[name], scale, noise, num_steps, step_size, seed)
            run.adapt(num_gradients // num_steps)
            step_size = run.step_size  # where the next one begins
            run = Run(chains[name], scale, noise, num_steps, step_size, seed + 1)
            runs[f"{name}, {num_steps} steps"] = run
    return runs


def best_variant(variants, kernel):
    """The name of the variant of a kernel with the largest ESS per gradient."""
    return max(
        (name for name in variants if name.startswith(kernel)),
        key=lambda name: np.mean(variants[name]["ess_per_1000_gradients"]),
    )


class Record:
    """What a run goes through, round after round.

    `low` are the coordinates of the noise with a low frequency, [...] booleans.
    """

    def __init__(self, run, low):
        self.run, self.low = run, low
        self.f, self.noise, self.is_accepted, self.seconds = [], [], [], []
        self.ends = []  # number of draws at the end of each round

    def advance(self, num_gradients):
        """One round."""
        for _ in range(max(4, num_gradients // self.run.num_steps)):
            seconds, numbers = timed(self.run.advance)
            self.seconds.append(seconds)
            self.f.append(numbers["f"])
            self.is_accepted.append(numbers["is_accepted"])
            self.noise.append(self.run.noise[:, self.low])
        self.ends.append(len(self.f))

    def summary(self):
        """Numbers per gradient: of f, and of the low frequencies of the noise."""
        f, noise, num_steps = np.stack(self.f), np.stack(self.noise), self.run.num_steps
        per_1000 = 1000 / (len(f) * num_steps)
        of_chains = [bulk_ess(chain[:, None]) for chain in f.T]
        of_low = [bulk_ess(z[:, None]) for z in noise.reshape(len(noise), -1).T]
        return {
            "step_size": self.run.step_size,
            "accept_rate": np.mean(self.is_accepted),
            "num_draws": len(f),
            "mean_f_of_halves": [half.mean() for half in np.array_split(f, 2)],
            "ess_per_1000_gradients": [per_1000 * ess for ess in of_chains],
            "ess_of_low_per_1000_gradients": per_1000 * np.mean(of_low),
            "jump_of_f": self.jumps(f) / num_steps,
            "jump_of_low": self.jumps(noise) / num_steps,
            "milliseconds_per_gradient": 1e3 * np.median(self.seconds) / num_steps,
        }

    def jumps(self, values):
        """Mean squared change from a draw to the next, [rounds]."""
        squares = np.square(np.diff(values, axis=0)).reshape(len(values) - 1, -1)
        rounds = np.split(squares.mean(axis=1), self.ends[:-1])
        return np.array([squares.mean() for squares in rounds])


# Part 3: pixels


def pixels(num_chains, num_steps, num_pixels, num_burnin_steps, num_results, seed):
    """The step of 80 % acceptance for more and more pixels, and its slope.

    Not by `kt.sample`, which would cut the step where a trajectory exceeded a quarter
    turn. The leapfrog's error in d dimensions has the variance

        d step^4 sin(step num_steps)^2 / 16,

    so that the step of hmc falls as d^(-1/4) at a given length of the trajectory, and
    as d^(-1/6) at a given number of steps, as trajectories shorten with the step.
    """
    found = {
        "quarter turn": {kernel: [] for kernel in KERNELS},
        f"{num_steps} steps": {kernel: [] for kernel in KERNELS},
    }
    for size in tqdm(num_pixels, desc="pixels"):
        tilt = kt.Tilt(quadratic(size), kt.white_noise([size]))
        noise = tilt.base.sample(num_chains, seed=[0, seed])
        for kernel in KERNELS:
            chains = chains_of(tilt, kernel)
            first = 0.5 if kernel == "split" else size**-0.25
            for length, of_kernel in found.items():
                run = Run(chains, 1.0, noise, num_steps, first, seed, longest=np.inf)
                turn = QUARTER_TURN if length == "quarter turn" else None
                run.adapt(num_burnin_steps, turn)
                _, accept_rate = run.draws(num_results)
                of_kernel[kernel].append(
                    {
                        "pixels": size,
                        "num_steps": run.num_steps,
                        "step_size": run.step_size,
                        "accept_rate": accept_rate,
                    }
                )
    slopes = {
        length: {kernel: slope(of_kernel[kernel]) for kernel in KERNELS}
        for length, of_kernel in found.items()
    }
    return {"steps": found, "slopes": slopes}


def quadratic(size):
    """A function of images [n, size] with the same law for every even size.

    f(x) = w.x - 2 (u.x)^2,   |w| = |u| = 1,   w.u = 0
    """
    w = np.full(size, size**-0.5)
    u = w * (-1.0) ** np.arange(size)
    directions = tf.constant(np.stack([w, u], axis=1), tf.float32)

    def f(images):
        along_w, along_u = tf.unstack(images @ directions, axis=1)
        return along_w - 2.0 * along_u**2

    return f


def slope(found):
    """Of log step by log pixels, by least squares."""
    x = np.log([run["pixels"] for run in found])
    y = np.log([run["step_size"] for run in found])
    x, y = x - x.mean(), y - y.mean()
    value = x @ y / (x @ x)
    variance = np.sum((y - value * x) ** 2) / max(1, len(x) - 2)
    return {"value": value, "standard_error": np.sqrt(variance / (x @ x))}


# Part 4: BlackJAX


def beside_blackjax(num_chains, num_gradients, num_burnin_steps, rounds, steps, seed):
    """Effective samples of f per second, each sampler at its best number of steps.

    All start from one state near equilibrium and adapt there to 80 % acceptance: ours
    the step; BlackJAX step and diagonal mass by its window adaptation, or the step
    alone (mass 1).
    """
    jax, blackjax = imported_blackjax()
    tilt = digit_tilt(trained_lenet())
    noise = kt.sample(
        tilt, num_chains, 10, num_burnin_steps, seed=seed, progress=False
    ).noise[-1]
    f_in_jax = lenet_in_jax(jax, tilt.unit.terms[0][0].network, DIGIT)
    error = check_same_f(jax.vmap(f_in_jax)(noise), tilt.response(noise))
    samplers = {
        "blackjax": functools.partial(BlackjaxRun, f_in_jax, True),
        "blackjax, mass 1": functools.partial(BlackjaxRun, f_in_jax, False),
        "hmc": functools.partial(Run, chains_of(tilt, "hmc"), 1.0),
        "split": functools.partial(Run, chains_of(tilt, "split"), 1.0),
    }

    def adapted(name, num_steps):
        run = samplers[name](noise, num_steps, 0.1, seed)
        run.adapt(num_burnin_steps)
        return run

    first_pass = {
        name: scan(
            name, steps, lambda n, name=name: judged(adapted(name, n), num_gradients)
        )
        for name in samplers
    }
    runs = {
        name: adapted(name, best_of(found, "ess_per_second")["num_steps"])
        for name, found in first_pass.items()
    }
    by_round = {name: [] for name in runs}
    for _, name in in_turns(runs, rounds, "rounds"):
        by_round[name].append(judged(runs[name], num_gradients))
    pairs = [("split", "blackjax"), ("split", "blackjax, mass 1"), ("split", "hmc")]
    pairs += [("hmc", "blackjax"), ("hmc", "blackjax, mass 1")]
    numbers = ("ess_per_second", "milliseconds_per_gradient")
    return {
        "jax": jax.__version__,
        "blackjax": blackjax.__version__,
        "largest_relative_error_of_f": error,
        "first_pass": first_pass,
        "best": {name: mean_of(found) for name, found in by_round.items()},
        "ratios": {
            f"{one} / {other}": {
                number: ratio_of(by_round, one, other, number) for number in numbers
            }
            for one, other in pairs
        },
    }


def imported_blackjax():
    """JAX and BlackJAX, or how to get them."""
    try:
        import blackjax
        import jax
    except ImportError as error:
        raise SystemExit(
            f"Expected BlackJAX, for --parts blackjax. Received: {error}. Make an "
            "environment of its own: python -m venv BLACKJAX && BLACKJAX/bin/pip "
            "install -e . blackjax, and run the part with BLACKJAX/bin/python."
        ) from error
    return jax, blackjax


def lenet_in_jax(jax, network, class_index):
    """The same logit by the same weights: image [height, width, channels] -> []."""
    jnp = jax.numpy
    weights = {
        layer.name: [jnp.asarray(w) for w in layer.get_weights()]
        for layer in network.layers
    }

    # As a matrix product of patches, and by a reshape: inside of a loop the gradients
    # of XLA's own convolution and pooling take eight times as long on a CPU.
    def convolution(x, kernel, bias):
        rows, columns = kernel.shape[:2]
        height, width = x.shape[0] - rows + 1, x.shape[1] - columns + 1
        patches = [
            x[i : i + height, j : j + width]
            for i in range(rows)
            for j in range(columns)
        ]
        flat = kernel.reshape(-1, kernel.shape[-1])
        return jnp.concatenate(patches, axis=-1) @ flat + bias

    def max_pool(x):
        height, width, channels = x.shape
        x = x.reshape(height // 2, 2, width // 2, 2, channels)
        return x.max(axis=(1, 3))

    def f(image):
        x = max_pool(convolution(image, *weights["conv1"]))
        x = max_pool(convolution(x, *weights["conv2"]))
        kernel, bias = weights["ip1"]
        x = jax.nn.relu(x.reshape(-1) @ kernel + bias)
        kernel, bias = weights["ip2"]
        return x @ kernel[:, class_index] + bias[class_index]

    return f


def check_same_f(one, other):
    """The largest relative difference, which must be rounding."""
    one, other = np.asarray(one), np.asarray(other)
    error = np.max(np.abs(one - other) / np.maximum(1.0, np.abs(other)))
    if not error <= 1e-4:
        raise SystemExit(
            "Expected f to be the same in JAX and in TensorFlow, to 1e-4. Received: "
            f"{one[:4]} and {other[:4]}. Compare the layers."
        )
    return error


class BlackjaxRun:
    """BlackJAX's HMC behind the methods of `Run`, compiled with its loop over draws."""

    chunk = 10  # draws

    def __init__(self, f, adapts_mass, noise, num_steps, step_size, seed):
        self.jax, blackjax = imported_blackjax()
        self.num_steps, self.step_size = num_steps, step_size
        self.noise, self.key = noise, self.jax.random.key(seed)
        kernel = blackjax.hmc.build_kernel()

        def log_prob(noise):
            return f(noise) - (noise**2).sum() / 2

        def warm_up(key, noise, iterations):
            adaptation = blackjax.window_adaptation(
                blackjax.hmc,
                log_prob,
                imm_shrinkage_to_previous=0.0 if adapts_mass else 1e9,
                initial_step_size=step_size,
                target_acceptance_rate=ACCEPT,
                num_integration_steps=num_steps,
            )
            (state, found), _ = adaptation.run(key, noise, iterations)
            return state, (found["step_size"], found["inverse_mass_matrix"])

        def iterate(key, state, step_size, inverse_mass):
            parameters = step_size, inverse_mass, num_steps
            state, info = kernel(key, state, log_prob, *parameters)
            f = state.logdensity + (state.position**2).sum() / 2
            return state, (f, info.is_accepted)

        def loop(keys, state, parameters):
            def one_draw(state, keys):
                return self.jax.vmap(iterate)(keys, state, *parameters)

            return self.jax.lax.scan(one_draw, state, keys)

        of_chains = self.jax.vmap(warm_up, in_axes=(0, 0, None))
        self.warm_up = self.jax.jit(of_chains, static_argnums=2)
        self.loop = self.jax.jit(loop)

    def keys(self, *shape):
        """Keys that were not used before."""
        self.key, key = self.jax.random.split(self.key)
        return self.jax.random.split(key, shape)

    def adapt(self, iterations):
        """Step and mass, of every chain on its own."""
        keys = self.keys(len(self.noise))
        self.state, self.parameters = self.warm_up(keys, self.noise, iterations)
        self.step_size = float(self.parameters[0].mean())
        self.draws(self.chunk)  # compiles

    def draws(self, num_draws):
        """f [num_draws, num_chains], and the share of proposals that was accepted."""
        chunks = []
        for _ in range(num_draws // self.chunk):
            keys = self.keys(self.chunk, len(self.noise))
            self.state, numbers = self.loop(keys, self.state, self.parameters)
            chunks.append([np.asarray(values) for values in numbers])
        f, is_accepted = (
            np.concatenate(values) for values in zip(*chunks, strict=True)
        )
        return f, is_accepted.mean()


def judged(run, num_gradients):
    """What some draws of an adapted run are worth, and the time they take."""
    num_draws = max(10, num_gradients // run.num_steps // 10 * 10)
    seconds, (f, accept_rate) = timed(run.draws, num_draws)
    found = worth(f, run.num_steps, run.step_size, accept_rate)
    return found | {
        "milliseconds_per_gradient": 1e3 * seconds / (num_draws * run.num_steps),
        "ess_per_second": found["ess_per_draw"] * f.size / seconds,
    }


# Rounds, and numbers over rounds


def in_turns(names, rounds, title):
    """(round, name): every name once a round, in an order that rotates."""
    names = list(names)
    for turn in tqdm(range(rounds), desc=title):
        for place in range(len(names)):
            yield turn, names[(turn + place) % len(names)]


def timed(function, *args):
    """Seconds, and what the function returns."""
    started = time.perf_counter()
    result = function(*args)
    return time.perf_counter() - started, result


def ratio_of(by_round, one, other, number):
    """One number of two variants: see `median_ratio`."""
    first, second = ([run[number] for run in by_round[name]] for name in (one, other))
    return median_ratio(first, second)


def median_ratio(first, second):
    """Median of the ratios within a round, with standard error and quartiles."""
    by_round = np.divide(first, second)
    low, median, high = np.quantile(by_round, [0.25, 0.5, 0.75])
    error = error_of_median(by_round)
    return {"value": median, "standard_error": error, "quartiles": [low, high]}


def error_of_median(values):
    """Standard error of a median, by 200 bootstrap resamples."""
    random = np.random.default_rng(0)
    resamples = random.choice(values, [200, len(values)])
    return np.median(resamples, axis=1).std()


def ratio_of_sums(first, second):
    """Over chains, with the standard error by leaving out each chain in turn."""
    first, second = np.array(first), np.array(second)
    n = len(first)
    without = (first.sum() - first) / (second.sum() - second)
    error = np.sqrt((n - 1) / n * np.sum((without - without.mean()) ** 2))
    return {"value": first.sum() / second.sum(), "standard_error": error}


def rounded(found):
    """The same with all numbers to five digits."""
    if isinstance(found, dict):
        return {name: rounded(value) for name, value in found.items()}
    if isinstance(found, list | np.ndarray) and np.ndim(found):
        return [rounded(value) for value in found]
    if isinstance(found, str | int):
        return found
    return float(f"{found:.5g}")


# Tables


def table(case, result):
    """The result of one case as text."""
    lines = {
        "cost lenet": cost_lines,
        "cost squeezenet": cost_lines,
        "ess weak": ess_lines,
        "ess lenet": ess_lines,
        "ess picture": picture_lines,
        "pixels quadratic": pixels_lines,
        "blackjax lenet": blackjax_lines,
    }[case](result)
    return "\n".join([case, *(f"  {line}" for line in lines)])


def ratio_line(name, ratio, what):
    """Value and standard error."""
    return f"{name:28}{ratio['value']:9.3f} +- {ratio['standard_error']:.3f} {what}"


def run_line(name, run):
    """Settings of a run, and what it is worth."""
    mark = ", longer than need be" if run["ess_per_draw"] > TOO_LONG else ""
    return (
        f"{name:20}{run['num_steps']:3.0f} steps of {run['step_size']:.4f}, accepted "
        f"{run['accept_rate']:4.0%}, R-hat {run['r_hat']:.3f}, ESS per draw "
        f"{run['ess_per_draw']:.3f}, per 1000 gradients "
        f"{run['ess_per_1000_gradients']:.2f}{mark}"
    )


def cost_lines(result):
    for name, milliseconds in result["milliseconds_per_gradient"].items():
        yield f"{name:28}{milliseconds:9.2f} ms a gradient"
    for name, ratio in result["time_over_bare"].items():
        low, high = ratio["quartiles"]
        yield ratio_line(f"{name} / bare", ratio, f"time ({low:.3f} to {high:.3f})")


def ess_lines(result):
    for kernel in KERNELS:
        for run in result["first_pass"][kernel]:
            yield run_line(kernel, run)
    for kernel in KERNELS:
        yield run_line(f"best {kernel}", result["best"][kernel])
    yield ratio_line("split / hmc", result["ess_per_gradient"], "ESS per gradient")


def picture_lines(result):
    burnin = " ".join(f"{f:.2f}" for f in result["burnin_mean_f_by_eighths"])
    yield f"mean f in the eighths of the burn-in: {burnin}"
    for name, run in result["variants"].items():
        one, other = run["mean_f_of_halves"]
        yield (
            f"{name:34} step {run['step_size']:.4f}, accepted {run['accept_rate']:4.0%}"
            f", mean f {one:.2f} then {other:.2f}"
        )
        yield (
            f"  per 1000 gradients: ESS {np.mean(run['ess_per_1000_gradients']):.2f}, "
            f"of low frequencies {run['ess_of_low_per_1000_gradients']:.2f}, squared "
            f"jumps {1000 * np.mean(run['jump_of_f']):.4g} nats^2, "
            f"of low frequencies {1000 * np.mean(run['jump_of_low']):.4g}"
        )
    yield " / ".join(result["best"])
    yield ratio_line("ESS of f", result["ess_per_gradient"], "per gradient")
    yield ratio_line("squared jump of f", result["jump_of_f"], "per gradient")
    yield ratio_line("of low frequencies", result["jump_of_low"], "per gradient")


def pixels_lines(result):
    for length, of_kernel in result["steps"].items():
        for runs in zip(*of_kernel.values(), strict=True):
            yield f"{length:14}{runs[0]['pixels']:9d} pixels" + "".join(
                f"  {kernel} {run['num_steps']:2d} steps of {run['step_size']:.4f}, "
                f"accepted {run['accept_rate']:4.0%}"
                for kernel, run in zip(of_kernel, runs, strict=True)
            )
    for length, slopes in result["slopes"].items():
        for kernel, found in slopes.items():
            yield ratio_line(f"{length}, {kernel}", found, "slope of log step")


def blackjax_lines(result):
    yield f"f differs by {result['largest_relative_error_of_f']:.1g}, relatively"
    for name, run in result["best"].items():
        yield run_line(name, run)
        yield (
            f"  {run['milliseconds_per_gradient']:.2f} ms a gradient, "
            f"ESS per second {run['ess_per_second']:.1f}"
        )
    for name, ratios in result["ratios"].items():
        yield ratio_line(name, ratios["ess_per_second"], "ESS per second")
        yield ratio_line(name, ratios["milliseconds_per_gradient"], "time per gradient")


if __name__ == "__main__":
    main()
