"""Exports a sampler of any units of a trained network, for TensorFlow Serving.

    unit, seed, temperature -> an image of p(x) = exp(f(x) / temperature) q(x) / Z

    python export/sampler.py out/demo/models/gg-dg-seed0-epoch25.keras \\
        --unit class:0-9 --reference white --stddev 128 --out served/digits
    python export/ask.py served/digits --unit 3 --seed 7 --out three.png

Writes served/digits/1/ (served/digits/2/ the next time), a SavedModel of TensorFlow's
own operations, and beside it model.config, batching.config, compose.yaml and README.md
with the lines that start a server and ask it. Equal seeds give equal images, whatever
else is in a request.

Before that the chains are certified (`keras_tilt.serving.certificate`): long adapted
chains of every unit must converge, a served chain must be ten autocorrelation times
long, and the ends of served chains must agree with the long ones. An export that fails
is refused unless --force, and then says so in its certificate and in every answer.
Steps and counts are found here, and frozen.

Expected: the ten digits of the example are certified, with chains of about 40
iterations, in three to five minutes on two cores. A run that was interrupted goes on
where it was.
"""

import argparse
import dataclasses
import hashlib
import json
import pathlib
import shutil
import sys

from keras_tilt.cli.flags import (
    add_import,
    add_names,
    add_pixels,
    add_reference,
    add_units,
    check_units,
    count,
    folder,
    positive,
)

SPREAD = 3.0  # standard deviations of white noise from its mean to black and to white


def parse_flags():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("model", type=pathlib.Path, help=".keras file of a network of images")
    add_import(add)
    add_units(add, "; a request names a unit by its place in this list, from 0")
    add_names(add)
    add(
        "--out",
        type=folder,
        default="served/sampler",
        help="folder; its last name is that of the model",
    )
    add_pixels(add)
    add_reference(add)
    add(
        "--stddev",
        type=positive,
        help="of a pixel of white noise, in place of --contrast; black and white are "
        f"then {SPREAD:g} of it below and above --mean, if they are not given",
    )
    add("--mean", type=float, default=0.0, help="of white noise with a --stddev")
    add(
        "--sizes",
        type=positive,
        nargs="+",
        default=[1.0],
        help="of the image at which a class is read, 1 as the network takes it",
    )
    add("--posterior-weight", type=float, default=0.0, help="of log p(class | x)")
    add("--scale", type=positive, default=1.0, help="of the tilt")
    add(
        "--temperatures",
        type=positive,
        nargs="+",
        default=[1.0],
        help="at which chains are certified; answers between the lowest and the "
        "highest are",
    )
    add("--chains", type=count, default=16, help="long ones, of each unit")
    add("--draws", type=count, default=300, help="of each long chain")
    add(
        "--burnin",
        type=count,
        default=100,
        help="iterations before their first draw",
    )
    add(
        "--max-leapfrog-steps",
        type=count,
        default=20,
        help="gradients per iteration",
    )
    add(
        "--approach-step",
        type=positive,
        help="of a leapfrog without Metropolis test, while a strong tilt rises",
    )
    add(
        "--most-iterations",
        type=count,
        default=200,
        help="of a served chain, if ten autocorrelation times are longer",
    )
    add(
        "--ends",
        type=count,
        default=32,
        help="served chains of each unit looked at",
    )
    add("--log-partition", action="store_true", help="estimate log Z, serve log_prob")
    add("--force", action="store_true", help="export chains that do not converge, too")
    add("--xla", action="store_true", help="compile chains; stock servers refuse that")
    add("--seed", type=int, default=7, help="of the measurements, not of requests")
    add("--smoke", action="store_true", help="a few short chains, exported by force")
    flags = parser.parse_args()
    check_units(parser, flags.unit, flags.list)
    if (flags.stddev or flags.mean) and flags.reference != "white":
        parser.error("Expected --stddev and --mean with --reference white alone.")
    if flags.mean and not flags.stddev:
        parser.error(f"Expected a --stddev for a --mean. Received: {flags.mean:g}.")
    if flags.chains < 2 or flags.draws < 4:  # of which there is no R-hat
        parser.error(
            "Expected two --chains and four --draws or more: "
            f"{flags.chains}, {flags.draws}."
        )
    if flags.most_iterations < 2:  # of which the last has the full tilt
        parser.error(f"Expected two --most-iterations: {flags.most_iterations}.")
    if not 0 <= flags.seed < 2**31:
        parser.error(f"Expected a --seed from 0 to {2**31 - 1}: {flags.seed}.")
    flags.temperatures = list(dict.fromkeys(flags.temperatures))
    if flags.smoke:
        flags.chains, flags.draws, flags.burnin, flags.ends = 2, 8, 8, 2
        flags.max_leapfrog_steps, flags.most_iterations, flags.force = 2, 4, True
    return flags


if __name__ == "__main__":
    parse_flags()  # may end here, before the seconds that TensorFlow takes

import keras_tilt as kt
import numpy as np
from tqdm.auto import tqdm

from keras_tilt import serving
from keras_tilt.cli import named
from keras_tilt.serving import certificate
from keras_tilt.serving import servable
from keras_tilt.serving import requests
from keras_tilt.networks import graph


def main():
    """Measures, judges, writes; the same command goes on if it is interrupted."""
    flags = parse_flags()
    try:
        with named.as_exit():
            export(flags)
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on from here.", file=sys.stderr)
        sys.exit(130)


def export(flags):
    """The next version of the servable, or an error that says why there is none."""
    named.use_modules(flags.modules)
    if flags.list:
        print(named.layer_table(graph.network_of(named.load_model(flags.model))))
        return
    servable.check_can_write(flags.out)
    tilts = tilts_of(flags)
    long_runs = {t: long_run(tilts, t, flags) for t in flags.temperatures}
    schedule = schedule_of(long_runs, flags)
    sampler = serving.ServedSampler(tilts, schedule, flags.low, flags.high)
    certificates = certified(sampler, tilts, long_runs, flags)
    print(table(certificates))
    refused = [one for one in certificates if not one.converged]
    if refused and not flags.force:
        raise ValueError(
            f"Expected chains that converge. Received: {len(refused)} of "
            f"{len(certificates)} that do not. Ask for more --draws, --burnin or "
            "--most-iterations, for a weaker --scale, for higher --temperatures, or "
            "export them with --force, at once, which every answer will say."
        )
    log_partition = log_partitions(tilts, flags) if flags.log_partition else None
    version = write(tilts, sampler, certificates, log_partition, flags)
    shutil.rmtree(flags.out / ".work", ignore_errors=True)
    units = f"{len(tilts)} unit{'s' * (len(tilts) > 1)}"
    print(f"\nWritten: {version}, a sampler of {units}")
    print(f"Ask it:  python export/ask.py {flags.out} --unit 0 --seed 7")
    print(f"Serve it: {flags.out / 'README.md'}")


# What is sampled


def tilts_of(flags):
    """The tilts of all units by one reference; what is black and white is settled."""
    model = named.load_model(flags.model)
    network = graph.network_of(model)
    units = [
        named.unit_of(
            network, label, flags.preprocess, flags.sizes, flags.posterior_weight
        )
        for label in distinct_labels(network, flags)
    ]
    shapes = {unit.input_shape for unit in units}
    if len(shapes) > 1:
        raise ValueError(
            f"Expected units of images of one size. Received: {sorted(shapes)}, by "
            "what they see. Export a sampler for each."
        )
    settle_pixels(network, flags)
    reference = reference_of(units[0].input_shape, flags)
    return [kt.Tilt(unit, reference, flags.scale) for unit in units]


def distinct_labels(network, flags):
    """Those of --unit, of which a place in the list is one unit's."""
    names = named.names_of(flags.names, flags.model, named.num_classes(network))
    labels = named.labels(flags.unit, network, names)
    twice = [label for i, label in enumerate(labels) if label in labels[:i]]
    if twice:
        raise ValueError(
            f"Expected every --unit once. Received: {', '.join(twice)}, twice. "
            "Leave one out."
        )
    return labels


def settle_pixels(network, flags):
    """Set and say the pixels that bytes 0 and 255 stand for."""
    low, high, of_noise = flags.low, flags.high, flags.stddev and flags.high is None
    if flags.stddev:
        edge = SPREAD * flags.stddev
        low = flags.mean - edge if low is None else low
        high = flags.mean + edge if high is None else high
    flags.low, flags.high, reason = named.pixel_range(
        network, low, high, flags.preprocess
    )
    reason = "of the noise" if of_noise else reason
    print(f"Pixels: black {flags.low:g}, white {flags.high:g}, {reason}", flush=True)


def reference_of(shape, flags):
    """The noise that is tilted: as of train/visualize.py, or that of a --stddev."""
    if flags.stddev:
        return kt.white_noise(shape, flags.mean, flags.stddev)
    return named.noise(
        *(flags.reference, shape, flags.low, flags.high),
        *(flags.contrast, flags.exponent),
    )


def at_temperature(tilts, temperature):
    """The same tilts with f divided by a temperature."""
    return [dataclasses.replace(t, scale=t.scale / temperature) for t in tilts]


# What is measured


def long_run(tilts, temperature, flags):
    """Long adapted chains of all units at one temperature."""
    print(f"Long chains at temperature {temperature:g}", flush=True)
    samples = kt.sample(
        at_temperature(tilts, temperature),
        flags.chains,
        flags.draws,
        flags.burnin,
        seed=flags.seed,
        max_leapfrog_steps=flags.max_leapfrog_steps,
        approach_step_size=flags.approach_step,
        directory=work_folder(flags) / f"temperature{temperature!r}",
    )
    if len(samples[0].f) < flags.draws:
        raise KeyboardInterrupt
    return samples


def work_folder(flags):
    """Where the long chains of these flags and this model are, while they run."""
    ignored = ("out", "force", "xla", "log_partition", "ends", "most_iterations")
    settings = {k: str(v) for k, v in vars(flags).items() if k not in ignored}
    settings["sha256"] = hashlib.sha256(flags.model.read_bytes()).hexdigest()
    text = json.dumps(settings, sort_keys=True)
    return flags.out / ".work" / hashlib.sha256(text.encode()).hexdigest()[:16]


def schedule_of(long_runs, flags):
    """The steps of the lowest temperature, and as many iterations as all need."""
    times = [
        certificate.autocorrelation_time(samples)
        for of_units in long_runs.values()
        for samples in of_units
    ]
    coldest = long_runs[min(long_runs)]
    return serving.planned(
        [samples.step_size for samples in coldest],
        [samples.num_leapfrog_steps for samples in coldest],
        certificate.needed_iterations(max(times), flags.most_iterations),
        (0, flags.seed),
        flags.approach_step,
    )


def certified(sampler, tilts, long_runs, flags):
    """A certificate of every unit at every temperature, by ends of served chains."""
    pairs = [(t, i) for t in long_runs for i in range(len(tilts))]
    found = []
    for temperature, i in tqdm(pairs, "ends of served chains"):
        noise, f, accept_rate = ends_of(sampler, i, temperature, flags)
        scalars = certificate.scalars_of(tilts[i], noise, f)
        found.append(
            certificate.certificate_of(
                tilts[i].unit.name,
                temperature,
                long_runs[temperature][i],
                scalars,
                accept_rate,
                sampler.schedule.num_full,
            )
        )
    return found


def ends_of(sampler, unit, temperature, flags):
    """Noise, f and acceptance of served chains of one unit."""
    parts = []
    for first in range(0, flags.ends, requests.MOST_ROWS):
        rows = np.arange(first, min(flags.ends, first + requests.MOST_ROWS))
        parts.append(sampler.functions["start"](**request(unit, rows, temperature)))
    joined = ("noise", "f", "accept_rate")
    return [np.concatenate([part[name] for part in parts]) for name in joined]


def request(unit, seeds, temperature=1.0):
    """Rows of one unit, as arrays."""
    seeds = np.asarray(seeds, np.int32)
    return {
        "unit": np.full(len(seeds), unit, np.int32),
        "seed": np.stack([np.zeros_like(seeds), seeds], axis=1),
        "temperature": np.full(len(seeds), temperature, np.float32),
    }


def log_partitions(tilts, flags):
    """`LogPartition`s, [temperatures][units]."""
    found = []
    for temperature in flags.temperatures:
        print(f"log Z at temperature {temperature:g}", flush=True)
        several = kt.log_partition(at_temperature(tilts, temperature), seed=flags.seed)
        for unit, one in zip(tilts, several, strict=True):
            print(f"{unit.unit.name}: {one}")
        found.append(several)
    return found


def reliable(log_partitions):
    """log Z [temperatures, units], NaN where the estimate is not to be trusted."""
    return np.array(
        [[z.value if z.is_reliable else np.nan for z in row] for row in log_partitions]
    )


# What is written


def write(tilts, sampler, certificates, log_partition, flags):
    """The servable, with its certificate in it and in its answers."""
    names = [tilt.unit.name for tilt in tilts]
    converged = {name: True for name in names}
    for one in certificates:
        converged[one.unit] &= one.converged
    final = serving.ServedSampler(
        tilts,
        sampler.schedule,
        flags.low,
        flags.high,
        list(converged.values()),
        flags.temperatures,
        None if log_partition is None else reliable(log_partition),
        jit_compile=flags.xla,
    )
    rows = {name: values[:1] for name, values in request(0, [0]).items()}
    image = np.zeros([1, *tilts[0].event_shape], np.float32)
    noise = np.zeros([1, *tilts[0].base.event_shape], np.float32)
    warmup = {name: rows for name in final.functions}
    warmup |= {"evaluate": {"image": image}, "resume": rows | {"noise": noise}}
    golden = "sample_png" if "sample_png" in final.functions else "serving_default"
    document = certificate_document(names, certificates, log_partition, final, flags)
    return servable.write_servable(
        flags.out,
        final,
        (golden, request(len(tilts) - 1, [flags.seed], flags.temperatures[0])),
        list(warmup.items()),
        {"certificate.json": document},
        requests.MOST_ROWS,
        readme(names, final, certificates, flags),
    )


def certificate_document(names, certificates, log_partition, sampler, flags):
    """All that is known of the chains, of values that JSON knows."""
    schedule = sampler.schedule
    return {
        "converged": all(one.converged for one in certificates),
        "forced": not all(one.converged for one in certificates),
        "units": names,
        "temperatures": flags.temperatures,
        "log_partition": log_partition
        and [[z.value for z in row] for row in log_partition],
        "log_partition_standard_error": log_partition
        and [[z.standard_error for z in row] for row in log_partition],
        "reference": flags.reference,
        "black": flags.low,
        "white": flags.high,
        "scale": flags.scale,
        "num_iterations": schedule.num_iterations,
        "num_iterations_at_full_tilt": schedule.num_full,
        "step_size": schedule.step_size[:, -1].tolist(),
        "num_leapfrog_steps": schedule.num_leapfrog_steps.mean(axis=1).tolist(),
        "num_gradients": schedule.num_gradients.tolist(),
        "environment": servable.environment(),
        "certificates": [dataclasses.asdict(one) for one in certificates],
    }


def table(certificates):
    """One line per unit and temperature, verdict last."""
    lines = [
        "accepted, R-hat, ESS: of the long chains, the worst scalar; time: iterations "
        "of autocorrelation; ends: of served chains, largest difference in standard "
        "errors",
        f"{'unit':<20}{'temperature':>12}{'accepted':>9}{'R-hat':>7}{'ESS':>6}"
        f"{'time':>6}{'served':>8}{'ends':>6}  verdict",
    ]
    for one in certificates:
        lines.append(
            f"{one.unit[:19]:<20}{one.temperature:12g}{one.accept_rate:9.0%}"
            f"{one.worst_r_hat:7.3f}{one.smallest_ess:6.0f}"
            f"{one.autocorrelation_time:6.1f}{one.served_accept_rate:8.0%}"
            f"{one.largest_difference:6.1f}  {one.verdict}"
        )
    return "\n".join(lines)


def readme(names, sampler, certificates, flags):
    """README.md of the servable."""
    bad = [one for one in certificates if not one.converged]
    verdict = (
        "NOT CERTIFIED, exported by force:\n" if bad else "All units are certified."
    )
    for one in bad:
        verdict += f"\n* {one.unit} at temperature {one.temperature:g}: {one.verdict}"
    units = "\n".join(f"| {i} | {name} |" for i, name in enumerate(names))
    schedule = sampler.schedule
    values = {
        "verdict": verdict,
        "units": units,
        "low": f"{flags.low:g}",
        "high": f"{flags.high:g}",
        "normalized": NORMALIZED if flags.log_partition else ", not normalized",
        "temperatures": ", ".join(f"{t:g}" for t in flags.temperatures),
        "lowest": f"{min(flags.temperatures):g}",
        "highest": f"{max(flags.temperatures):g}",
        "iterations": schedule.num_iterations,
        "rising": schedule.num_rising,
        "gradients": schedule.num_gradients.max(),
        "rows": requests.MOST_ROWS,
        "shape": ", ".join(map(str, sampler.shape)),
        "png": PNG if "sample_png" in sampler.functions else "",
        "xla": XLA if flags.xla else "",
    }
    return servable.readme("sampler.md", values)


PNG = "\n* `sample_png`: the same, with `png_bytes` in place of `image`"
NORMALIZED = """; `log_prob` is it less log Z, normalized, at temperature
  {temperatures}, and NaN at any other"""
XLA = """
The chains are compiled by XLA, which the stock server refuses: start one that has it.
"""
if __name__ == "__main__":
    main()
