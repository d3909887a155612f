"""Effective samples per gradient where pictures form."""

import dataclasses

import keras_tilt as kt
import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from networks import natural_noise
from rounds import in_turns, ratio_of_sums, timed
from runs import Run, bulk_ess, chains_of

SMALL = 12  # pixels of an edge of the image as a thumbnail
LAG = 240  # gradients, a multiple of all numbers of steps
SAMPLERS = ("hmc", "split", "kept")
PAIRS = (("split", "hmc"), ("kept", "hmc"), ("kept", "split"))
# By which samplers are compared, each at its own best settings, per chain.
MEASURES = ("ess_per_1000_gradients", "ess_of_small_per_1000_gradients")
MEASURES += ("moved_of_small",)


def ess_picture(
    start,
    unit_of,
    reference,
    strength,
    num_chains,
    num_gradients,
    num_burnin_steps,
    num_adaptation_gradients,
    mass_exponents,
    rounds,
    steps,
    kept,
    smoothed,
    seed,
):
    """Samplers and masses side by side, from one state where the pictures have formed.

    `start` is the file of that state; a picture is put beside it. The chains sit in
    different modes: the ESS is that of a single chain, and the mean of it over chains.
    `strength` is a scale or a signal. `steps` are those of whole momenta, `kept` pairs
    (share, steps). `smoothed` are the widths of corners of ReLUs by which the force is
    that of a smoothed network, with the first of `kept`, while the Metropolis test
    takes f as it is.
    """
    unit = unit_of()
    tilt = tilt_of(unit, reference, seed, **strength)
    noise, burnin_f = equilibrated(tilt, start, num_chains, num_burnin_steps, seed)
    images, (share, n) = draw(start.with_suffix(".png"), tilt, noise), kept[0]
    variants = whole_and_kept(tilt, mass_exponents, steps, kept)
    for width in smoothed:
        force = with_force_of(unit, unit_of(width=width, images=images))
        chains = chains_of(dataclasses.replace(tilt, unit=force), "split")
        variants[f"smoothed {width}, kept {share}, {n} steps"] = (chains, n, share)
    runs = adapted_runs(variants, tilt.scale, noise, num_adaptation_gradients, seed)
    records = {name: Record(run, tilt) for name, run in runs.items()}
    for _, name in in_turns(records, rounds, "rounds"):
        records[name].advance(num_gradients // rounds)
    variants = {name: record.summary() for name, record in records.items()}
    eighths = [part.mean() for part in np.array_split(burnin_f, 8)]
    found = {"scale": tilt.scale, "burnin_mean_f_by_eighths": eighths}
    return found | compared(variants)


def tilt_of(unit, reference, seed, scale=None, signal=None):
    """A tilt of a scale, or of that by which it moves a share of the noise."""
    tilt = kt.Tilt(unit, natural_noise(unit, reference), scale=scale or 1.0)
    if scale is not None:
        return tilt
    return kt.scale_for_signal(tilt, signal, seed=seed, step_size=0.04, progress=False)


def whole_and_kept(tilt, mass_exponents, steps, kept):
    """Chains, leapfrog steps and the share of the momentum kept, by name."""
    hmc = chains_of(tilt, "hmc")
    variants = {f"hmc, {n} steps": (hmc, n, 0.0) for n in steps}
    for exponent in mass_exponents:
        mass = 1.0  # for coordinates that are no frequencies, the only one
        if exponent:
            cycles = cycles_per_image(tilt.event_shape)
            mass = np.maximum(cycles, 1.0) ** exponent
        split = chains_of(tilt, "split", mass)
        mass = f"mass cycles^{exponent}"
        variants |= {f"split, {mass}, {n} steps": (split, n, 0.0) for n in steps}
        variants |= {
            f"kept {share}, {mass}, {n} steps": (split, n, share) for share, n in kept
        }
    return variants


def compared(variants):
    """Ratios of what samplers reach, by every measure at the best settings by it."""
    best = {
        measure: {name: best_variant(variants, name, measure) for name in SAMPLERS}
        for measure in MEASURES
    }
    ratios = {
        measure: {
            f"{one} / {other}": ratio_of_sums(
                variants[of[one]][measure], variants[of[other]][measure]
            )
            for one, other in PAIRS
        }
        for measure, of in best.items()
    }
    return {"variants": variants, "best": best, "ratios": ratios}


def with_force_of(unit, smooth):
    """f of a unit, with the gradient of another one."""

    def f(images):
        value = smooth(images)
        return value + tf.stop_gradient(unit(images) - value)

    return f


def equilibrated(tilt, path, num_chains, num_burnin_steps, seed):
    """Noise [num_chains, ...] after a burn-in with momenta kept, and f on the way.

    Kept in a file beside the table, and read from there by the next call.
    """
    asked = tilt.event_shape, tilt.scale, num_chains, num_burnin_steps, seed
    if not path.is_file() or str(np.load(path)["made_by"]) != str(asked):
        half = num_burnin_steps // 2
        samples = kt.sample(
            tilt,
            num_chains,
            half,
            num_burnin_steps - half,
            seed=seed,
            num_leapfrog_steps=8,
            momentum_persistence=0.8,
            thin=half,
        )
        f = np.concatenate([samples.warmup_f, samples.f])
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, made_by=str(asked), noise=samples.noise[-1], f=f)
    with np.load(path) as kept:
        return kept["noise"], kept["f"]


def draw(path, tilt, noise):
    """Draw the images of all chains, with their f; the images."""
    images = tilt.to_images(noise)
    titles = [f"f {f:.0f}" for f in tilt.response(images)]
    figure = kt.plotting.image_grid(
        images, columns=len(noise), low=0, high=255, titles=titles, inches=2
    )
    figure.savefig(path, dpi=110)
    return images


def cycles_per_image(shape):
    """Radial frequency of every coordinate of spectral noise, of the noise's shape."""
    rows, columns = (size * np.fft.fftfreq(size) for size in shape[:2])
    radius = np.hypot(rows[:, None], columns)
    return np.broadcast_to(radius[:, :, None], shape)


def adapted_runs(variants, scale, noise, num_gradients, seed):
    """A run of all chains of every variant, its step found beforehand."""
    runs = {}
    for name, (chains, num_steps, kept) in tqdm(variants.items(), "adaptation"):
        run = Run(chains, scale, noise, num_steps, 0.01, seed, kept=kept)
        run.adapt(num_gradients // num_steps)
        step = run.step_size
        runs[name] = Run(chains, scale, noise, num_steps, step, seed + 1, kept=kept)
    return runs


def best_variant(variants, sampler, measure):
    """The name of the variant of a sampler with the largest measure."""
    return max(
        (name for name in variants if name.startswith(sampler)),
        key=lambda name: np.mean(variants[name][measure]),
    )


class Record:
    """What a run goes through, round after round."""

    def __init__(self, run, tilt):
        self.run, self.tilt = run, tilt
        self.f, self.small, self.is_accepted, self.seconds = [], [], [], []

    def advance(self, num_gradients):
        """One round."""
        for _ in range(max(4, num_gradients // self.run.num_steps)):
            seconds, numbers = timed(self.run.advance)
            self.seconds.append(seconds)
            self.f.append(numbers["f"])
            self.is_accepted.append(numbers["is_accepted"])
            self.small.append(thumbnails(self.tilt.to_images(self.run.noise)))

    def summary(self):
        """Numbers per gradient: of f, and of the image as a thumbnail."""
        f, small, num_steps = np.stack(self.f), np.stack(self.small), self.run.num_steps
        per_1000 = 1000 / (len(f) * num_steps)
        of_chains = [bulk_ess(chain[:, None]) for chain in f.T]
        of_small = [
            np.mean([bulk_ess(pixel[:, None]) for pixel in chain.T])
            for chain in np.swapaxes(small, 0, 1)
        ]
        lag = max(1, LAG // num_steps)
        return {
            "step_size": self.run.step_size,
            "accept_rate": np.mean(self.is_accepted),
            "num_draws": len(f),
            "mean_f_of_halves": [half.mean() for half in np.array_split(f, 2)],
            "ess_per_1000_gradients": [per_1000 * ess for ess in of_chains],
            "ess_of_small_per_1000_gradients": [per_1000 * ess for ess in of_small],
            "moved_of_f": moved(f, lag),
            "moved_of_small": moved(small, lag),
            "milliseconds_per_gradient": 1e3 * np.median(self.seconds) / num_steps,
        }


def thumbnails(images):
    """Means over areas, [n, height, width, channels] -> [n, SMALL SMALL channels]."""
    small = tf.image.resize(images, [SMALL, SMALL], method="area")
    return tf.reshape(small, [len(images), -1]).numpy()


def moved(values, lag):
    """Mean squared change over a number of draws, of values [draws, chains, ...]."""
    lag = min(lag, len(values) - 1)
    squares = np.square(values[lag:] - values[:-lag])
    return squares.mean(axis=(0, *range(2, squares.ndim)))
