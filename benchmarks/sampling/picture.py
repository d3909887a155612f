"""Effective samples per gradient where pictures form."""

import keras_tilt as kt
import numpy as np
from tqdm.auto import tqdm

from networks import natural_noise
from rounds import in_turns, median_ratio, ratio_of_sums, timed
from runs import KERNELS, Run, bulk_ess, chains_of

LOW_FREQUENCY = 6  # cycles per image


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

    `start` is the file of that state; a picture is put beside it. The chains sit in
    different modes: the ESS is that of a single chain, and the mean of it over chains.
    """
    tilt = kt.Tilt(unit, natural_noise(unit), scale=10.0)
    noise, burnin_f = equilibrated(
        tilt, start, num_chains, num_burnin_steps, max(steps), seed
    )
    draw(start.with_suffix(".png"), tilt, noise)
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
    eighths = [part.mean() for part in np.array_split(burnin_f, 8)]
    return {"burnin_mean_f_by_eighths": eighths} | compared(variants)


def compared(variants):
    """The best variant of each kernel, and ratios of what they reach."""
    split, hmc = best = [best_variant(variants, kernel) for kernel in KERNELS]
    return {
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


def draw(path, tilt, noise):
    """The images of all chains, with their f."""
    images = tilt.to_images(noise)
    titles = [f"f {f:.0f}" for f in tilt.response(images)]
    figure = kt.plotting.image_grid(
        images, columns=len(noise), low=0, high=255, titles=titles, inches=2
    )
    figure.savefig(path, dpi=110)


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
