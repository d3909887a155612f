"""Cost and efficiency of the exact-rotation kernel: beside TFP's HMC, and BlackJAX's.

What it shows, part by part (`--parts`), and what is wanted:

    cost      one iteration of L leapfrog steps, over L bare gradients of the network:
              time ratio at most 1.05
    ess       effective samples of f per gradient, split / hmc, and kept / hmc, which is
              split with a share of the momentum kept, each at its own best number of
              leapfrog steps, acceptance and share: at least 6 under a weak tilt
              (SqueezeNet, white noise), 2.2 on LeNet, 2 where pictures form
              (SqueezeNet: pizza under spectral noise at scale 10, goldfish under
              wavelets and worm fence under a learned reference, by signal; there at
              80 % acceptance, and also how far the image as a thumbnail moves in as
              many gradients, and kept with the force of a smoothed network)
    pixels    the step of 80 % acceptance against the number of pixels, for a tilt with
              the same law whatever their number, both logarithmic: slopes 0 (split)
              and -1/4 (hmc) with trajectories of length pi/2; hmc with four steps,
              whose trajectories shorten with the step, has -1/6
    smc       sequential Monte Carlo along the tilt, by repetitions: effective samples
              of f, log Z, and how many of the first particles have descendants
    microcanonical  isokinetic kicks in the place of Hamilton's: effective samples per
              gradient on LeNet, and where pictures form how far apart the two
              trajectories from one place with one momentum end
    blackjax  effective samples of f per second beside BlackJAX's HMC and its adjusted
              MCLMC, on the same network rewritten in JAX

Measured: see results/bench_sampling.json and docs/results.md. Four hours on a machine
with nothing else to do, without which times (cost, blackjax) mean nothing: cost 3
minutes; ess 25 (weak), 12 (lenet), and where pictures form 90 (spectral) and 45
(wavelets, learned); pixels 8; blackjax 13. Those of weak, lenet and blackjax are of
fewer settings, before momenta were kept.

    python benchmarks/sampling --out results/bench_sampling.json

Variants take turns in rounds, in an order that rotates; a ratio is taken within a round
and its median over rounds is reported with a standard error. A gradient is one of all
chains at once. A finished case is in the file at once, and a second call with the same
settings measures only what is missing.

In `ess`, weak and lenet run through `kt.sample`, which adapts the step in its warm-up
and never makes a trajectory longer than pi/2: with many steps more are accepted than
was aimed at. A draw is then worth one independent draw at most, and L steps 1 / L
effective samples per gradient: numbers of steps for which that is less than the best
found are left out. ESS / draws above 0.8 is marked: there the trajectory is longer than
it need be. The best number of steps is chosen in a first pass and judged in rounds with
other seeds. Where pictures form the graph of `kt.sample` is driven from here, so that
all variants take turns from one state at the full tilt.

BlackJAX is no requirement of keras_tilt and has an environment of its own:

    python -m venv BLACKJAX && BLACKJAX/bin/pip install -e . blackjax
    BLACKJAX/bin/python benchmarks/sampling --parts blackjax
"""

import functools
import json
import os
import pathlib
import platform

from keras_tilt.cli.flags import command_parser, file

PARTS = ("cost", "ess", "pixels", "smc", "microcanonical", "blackjax")
REGIMES = ("weak", "lenet", "spectral", "wavelets", "learned")
# Arguments of the function that measures a case; steps are leapfrog steps.
STEPS = (1, 2, 3, 4, 6, 8, 12, 16)
ACCEPTS = (0.65, 0.8)  # that are aimed at
SHARES = (0.4, 0.6, 0.8)  # of the momentum, that are kept
PIXELS = (100, 1_000, 10_000, 100_000, 1_000_000)
TURNS = ((0.5, 3, 0.0), (0.5, 1, 0.6))  # step, steps, share of the momentum kept
PICTURE = (
    dict(num_chains=4, rounds=8, steps=(10, 30), network="squeezenet")
    | dict(num_gradients=1200, num_burnin_steps=250, num_adaptation_gradients=600)
    | dict(mass_exponents=(0,), kept=((0.8, 8), (0.9, 4)), smoothed=())
)
FULL = {
    "cost lenet": dict(num_chains=64, num_steps=20, rounds=150),
    "cost squeezenet": dict(
        num_chains=4, num_steps=10, rounds=50, network="squeezenet"
    ),
    "ess weak": dict(num_chains=4, rounds=3, steps=STEPS, network="squeezenet")
    | dict(num_gradients=800, num_burnin_steps=60)
    | dict(accepts=ACCEPTS, shares=SHARES),
    "ess lenet": dict(num_chains=32, rounds=6, steps=STEPS)
    | dict(num_gradients=3000, num_burnin_steps=150)
    | dict(accepts=ACCEPTS, shares=SHARES),
    "ess spectral": PICTURE
    | dict(name="pizza", reference="spectral", strength=dict(scale=10.0))
    | dict(num_gradients=1920, mass_exponents=(0, 0.5), smoothed=(0.03,)),
    "ess wavelets": PICTURE
    | dict(name="goldfish", reference="wavelets", strength=dict(signal=0.1)),
    "ess learned": PICTURE
    | dict(name="worm fence", reference="latent:", strength=dict(signal=0.65)),
    "pixels quadratic": dict(num_chains=8, num_steps=4, num_pixels=PIXELS)
    | dict(num_burnin_steps=80, num_results=30),
    "smc lenet": dict(repetitions=20, num_particles=128, moves=(2, 8), num_steps=3),
    "smc picture": dict(repetitions=2, num_particles=8, moves=(2,), num_steps=10)
    | dict(network="squeezenet"),
    "microcanonical lenet": dict(num_chains=32, rounds=6, settings=TURNS)
    | dict(num_gradients=1200, num_burnin_steps=150),
    "microcanonical picture": dict(num_draws=5, num_steps=8, network="squeezenet")
    | dict(step_sizes=(0.01, 0.02)),
    "blackjax lenet": dict(num_chains=32, rounds=8, steps=STEPS)
    | dict(num_gradients=1200, num_burnin_steps=400)
    | dict(kept=(0.6, 0.7), targets=(0.65, 0.9)),
}


def parse_flags():
    """The command line."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="to measure")
    add("--regimes", nargs="+", choices=REGIMES, default=list(REGIMES), help="of ess")
    add("--learned", help="latent:FILE.keras; `learned` is left out without")
    add(
        "--data-dir",
        type=pathlib.Path,
        default=pathlib.Path(os.environ.get("KERAS_TILT_DATA", "../shared/data")),
        help="folder of squeezenet_keras.npz and squeezenet_keras.py",
    )
    add("--seed", type=int, default=0, help="of all chains")
    add("--out", type=file, default="out/bench_sampling.json", help="table")
    add("--again", action="store_true", help="measure also what is in the file")
    add("--smoke", action="store_true", help="few gradients, and no SqueezeNet")
    return parser.parse_args()


if __name__ == "__main__":
    parse_flags()  # may end here, before the seconds that TensorFlow takes

from cost import cost_of_lenet, cost_of_squeezenet
from efficiency import ess_lenet, ess_weak
from isokinetic import microcanonical_lenet, microcanonical_picture
from networks import colour_unit
from other_library import beside_blackjax
from picture import ess_picture
from pixels import pixels
from rounds import rounded
from sequential import smc_lenet, smc_picture
from tables import table

import keras
import tensorflow as tf

FEW = dict(num_gradients=20, num_burnin_steps=10, rounds=1)
FEW_OF_PICTURE = (
    FEW | dict(steps=(1, 2), network="lenet") | dict(num_adaptation_gradients=10)
) | dict(kept=((0.8, 2),))
SMOKE = {
    "cost lenet": dict(num_steps=3, rounds=3),
    "cost squeezenet": dict(num_steps=2, rounds=3, network="lenet"),
    "ess weak": FEW | dict(steps=(2,), network="lenet"),
    "ess lenet": FEW | dict(steps=(2,)),
    "ess spectral": FEW_OF_PICTURE | dict(mass_exponents=(1,)),
    "ess wavelets": FEW_OF_PICTURE,
    "ess learned": FEW_OF_PICTURE,
    "pixels quadratic": dict(num_burnin_steps=20, num_results=4, num_pixels=PIXELS[:2]),
    "smc lenet": dict(repetitions=2, num_particles=4, moves=(1,)),
    "smc picture": dict(num_particles=4, moves=(1,), num_steps=1, network="lenet"),
    "microcanonical lenet": FEW | dict(settings=TURNS[:1]),
    "microcanonical picture": dict(num_draws=1, num_steps=2, network="lenet"),
    "blackjax lenet": FEW | dict(steps=(2,), num_burnin_steps=20),
}


def main():
    """Measures every case that is asked for and not yet in the file, and prints it."""
    flags = parse_flags()
    asked = cases(flags.parts, flags.regimes, flags.smoke, flags.learned)
    found = json.loads(flags.out.read_text()) if flags.out.is_file() else {}
    for case, settings in asked.items():
        settings["seed"] = flags.seed
        if flags.again or found.get(case, {}).get("settings") != settings:
            result = measured(case, flags, **settings)
            found[case] = {"settings": settings, **surroundings(), "result": result}
            save(flags.out, found)
        print(table(case, found[case]["result"]), flush=True)
    print(f"Written to {flags.out}")


def cases(parts, regimes, smoke, learned):
    """Case -> settings, as JSON would return them."""
    names = [f"{part} " for part in parts if part != "ess"]
    names += [f"ess {regime}" for regime in regimes if "ess" in parts]
    settings = {case: FULL[case] for case in FULL if case.startswith(tuple(names))}
    if learned is None:
        settings.pop("ess learned", None)
    if smoke:
        settings = {case: settings[case] | SMOKE[case] for case in settings}
    return json.loads(json.dumps(settings))


def measured(case, flags, network=None, **settings):
    """The result of one case, rounded to what a reader can use."""
    measure = {
        "cost lenet": cost_of_lenet,
        "cost squeezenet": cost_of_squeezenet,
        "ess weak": ess_weak,
        "ess lenet": ess_lenet,
        "pixels quadratic": pixels,
        "smc lenet": smc_lenet,
        "smc picture": smc_picture,
        "microcanonical lenet": microcanonical_lenet,
        "microcanonical picture": microcanonical_picture,
        "blackjax lenet": beside_blackjax,
    }.get(case, ess_picture)
    unit_of = functools.partial(colour_unit, network, flags.data_dir)
    name = settings.pop("name", "pizza")
    start = flags.out.with_name(f"{flags.out.stem}_{name.replace(' ', '_')}.npz")
    if measure is ess_picture:
        if settings["reference"] == "latent:":
            settings["reference"] = flags.learned
        measure = functools.partial(measure, start, functools.partial(unit_of, name))
    elif measure is microcanonical_picture:
        measure = functools.partial(measure, unit_of(), start)
    elif network is not None:
        measure = functools.partial(measure, unit_of())
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


if __name__ == "__main__":
    main()
