"""What it costs to serve a sampler: latency, rows, threads, start-up, bytes.

    python benchmarks/serving.py digits.keras squeezenet.keras \\
        --preprocess none caffe --low 0 0 --high 1 255 --contrast 0.5 0.12 \\
        --step-size 0.3 0.1 --iterations 20 4 --most-rows 32 8 --rounds 30 10 \\
        --out results/bench_serving.json

Of each network a sampler of two classes under white noise is exported, with chains of
a fixed length, and measured part by part:

latency      the SavedModel, loaded by Python and by the loader of graph sessions, over
             the graph it was saved from: time ratio at most 1.05
rows         time of a row's gradient, in the loaded sampler and of the bare network:
             of all rows in one batch, which is all that the network allows; of rows
             one after the other; and of rows beside each other, as in the sampler.
             Beside over batch is the price of rows that know nothing of each other,
             sampler over beside what the sampler adds.
one thread   the same in a process with one intra-op thread
start        seconds to import TensorFlow, without Keras, to load, and of two requests
size         bytes on disk: at most 1.5 times the weights and 1 MB
image        bytes of one image on the wire
concurrency  one-row requests of a graph session, from one thread and from eight

Sides take turns in rounds, in an order that rotates; a ratio is taken within a round,
and medians over rounds (of start over processes) have standard errors. Every part is
in the file as soon as it is measured, and under the same settings is not measured again
while it is there. Expected: about forty minutes on two cores with nothing else to do.
"""

import argparse
import base64
import concurrent.futures
import dataclasses
import functools
import inspect
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

from keras_tilt.cli.flags import (
    MODES,
    add_import,
    command_parser,
    count,
    file,
    folder,
    import_flags,
)

SIZES = (1, 8, 32)  # rows of a request
# Flags of which every network may have its own value: type, default, help.
EACH = {
    "preprocess": (str, "none", f"of pixels, Keras's: {' '.join(MODES)}"),
    "low": (float, 0.0, "black"),
    "high": (float, 1.0, "white"),
    "contrast": (float, 0.5, "standard deviation of a pixel, as a share of the range"),
    "step-size": (float, 0.3, "of the leapfrog, in units of noise"),
    "leapfrog-steps": (int, 5, "of an iteration"),
    "iterations": (int, 20, "of a chain"),
    "most-rows": (int, 32, f"of requests of {SIZES} rows, the largest"),
    "rounds": (int, 30, "of all sides"),
}


def parse_flags():
    """The command line."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    text = ".keras files of classifiers; without one LeNet, untrained"
    add("networks", nargs="*", default=[], help=text)
    add_import(add)
    for name, (kind, default, text) in EACH.items():
        add(f"--{name}", nargs="+", type=kind, default=[default], help=text)
    add("--starts", type=count, default=5, help="processes in which start is timed")
    add("--seed", type=int, default=0, help="of chains and images")
    add("--folder", type=folder, help="for the exports, which else are deleted")
    add("--out", type=file, default="out/bench_serving.json", help="table")
    add("--smoke", action="store_true", help="two rounds of short chains")
    add("--one-thread-of", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.smoke:
        flags.iterations, flags.leapfrog_steps, flags.starts = [2], [2], 1
        flags.most_rows, flags.rounds = [8], [2]
    for name in EACH:
        if len(getattr(flags, key_of(name))) not in (1, len(flags.networks)):
            parser.error(f"--{name}: one value for all networks, or one for each")
    if len({pathlib.Path(path).stem for path in flags.networks}) < len(flags.networks):
        parser.error("networks: files of different names, by which results are kept")
    return flags


def key_of(name):
    return name.replace("-", "_")


if __name__ == "__main__":
    parse_flags()  # may end here, before the seconds that TensorFlow takes

import keras_tilt as kt
import keras
import numpy as np
import tensorflow as tf
from keras_tilt import serving
from keras_tilt.cli import named, process
from keras_tilt.networks.graph import network_of
from keras_tilt.sampling.response import value_and_gradient
from keras_tilt.serving import requests, servable
from keras_tilt.units.groups import variables_of
from tqdm.auto import tqdm

UNITS = ("class:0", "class:1")
AT_ONCE = 16  # rows beside each other, as in the sampler
THREADS, REQUESTS = 8, 16  # of concurrency, in a round


def main():
    """Part by part of every network: measures, writes, prints."""
    flags = parse_flags()
    networks = settings_of(flags)
    process.use_modules(flags.modules)
    if flags.one_thread_of:
        print(json.dumps(with_one_thread(flags.one_thread_of, networks[0])))
        return
    found = json.loads(flags.out.read_text()) if flags.out.is_file() else {}
    with tempfile.TemporaryDirectory() as temporary:
        for settings in networks:
            measure(settings, flags.folder or temporary, found, flags.out)
    for settings in networks:
        print(*lines(name_of(settings), found[name_of(settings)]), sep="\n")
    print(f"Written to {flags.out}")


def settings_of(flags):
    """Of each network its path, or None, and the values of its flags."""
    common = {"starts": flags.starts, "seed": flags.seed}
    common |= {"modules": flags.modules} if flags.modules else {}
    values = {key: getattr(flags, key) for key in map(key_of, EACH)}
    return [
        {"network": path} | {k: v[i % len(v)] for k, v in values.items()} | common
        for i, path in enumerate(flags.networks or [None])
    ]


def name_of(settings):
    return pathlib.Path(settings["network"] or "lenet").stem


def measure(settings, folder, found, out):
    """Add to `found`, and to its file, the parts that are not in there."""
    name = name_of(settings)
    here = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "environment": servable.environment(),
        "settings": settings,
    }
    if any(found.get(name, {}).get(key) != value for key, value in here.items()):
        found[name] = here
    missing = [part for part in PARTS if part not in found[name]]
    with process.as_exit():
        served = exported(settings, pathlib.Path(folder, name)) if missing else None
    for part in missing:
        print(f"{name}: {part}", file=sys.stderr)
        found[name][part] = PARTS[part](served)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(found, indent=1) + "\n")


# The sampler, and ways to call it


@dataclasses.dataclass(frozen=True)
class Served:
    """A sampler, its version on disk, and how it is to be measured."""

    sampler: serving.ServedSampler
    unit: kt.Unit
    version: pathlib.Path
    settings: dict

    @property
    def sizes(self):
        return [n for n in SIZES if n <= self.settings["most_rows"]]

    @property
    def num_gradients(self):
        """Of a chain of either unit, which have as many."""
        return int(self.sampler.schedule.num_gradients[0])

    def request(self, num_rows):
        """Rows of both units in turn, as arrays."""
        rows = np.arange(num_rows, dtype=np.int32)
        return {
            "unit": rows % len(UNITS),
            "seed": np.stack([np.full_like(rows, self.settings["seed"]), rows], axis=1),
            "temperature": np.ones(num_rows, np.float32),
        }


def built(settings, version=None):
    """The sampler in this process."""
    path, low, high = settings["network"], settings["low"], settings["high"]
    keras.utils.set_random_seed(settings["seed"])
    model = named.load_model(pathlib.Path(path)) if path else kt.lenet()
    network = network_of(model)
    units = [named.unit_of(network, unit, settings["preprocess"]) for unit in UNITS]
    shape = units[0].input_shape
    reference = named.noise("white", shape, low, high, settings["contrast"])
    schedule = serving.planned(
        [settings["step_size"]] * len(UNITS),
        [settings["leapfrog_steps"]] * len(UNITS),
        settings["iterations"],
        (0, settings["seed"]),
    )
    tilts = [kt.Tilt(unit, reference) for unit in units]
    sampler = serving.ServedSampler(tilts, schedule, low, high)
    return Served(sampler, units[0], version, settings)


def exported(settings, folder):
    """The same and its next version on disk, of all files as export/sampler.py's."""
    served = built(settings)
    functions, row = served.sampler.functions, served.request(1)
    images = np.zeros([1, *served.sampler.shape], np.float32)
    warmup = {name: row for name in functions}
    warmup |= {"resume": row | {"noise": images}, "evaluate": {"image": images}}
    version = servable.write_servable(
        folder,
        served.sampler,
        ("sample_png" if "sample_png" in functions else "serving_default", row),
        list(warmup.items()),
        {"certificate.json": settings},
        requests.MOST_REQUESTS,
        "{name}\n\n{start}\n\n    {tree}\n",
    )
    return dataclasses.replace(served, version=version)


def in_process(function):
    """A function of arrays that returns when the answer is there."""

    def call(request):
        answer = function(**{k: tf.constant(v) for k, v in request.items()})
        return {name: value.numpy() for name, value in answer.items()}

    return call


def loaded(version):
    """The same of a SavedModel, loaded as a Python program does."""
    return in_process(tf.saved_model.load(version).signatures["serving_default"])


def in_session(version):
    """The same, loaded into a graph session as a server does."""
    tf.get_logger().setLevel("ERROR")  # which calls that loader out of date
    session = tf.compat.v1.Session(graph=tf.Graph())
    graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(version))
    signature = graph.signature_def["serving_default"]
    names = sorted(signature.inputs)
    run = session.make_callable(
        [info.name for info in signature.outputs.values()],
        [signature.inputs[name].name for name in names],
    )
    return lambda request: run(*[request[name] for name in names])


def output_of(command, stderr=None):
    """The last line that a process prints, of JSON."""
    run = subprocess.run(
        list(map(str, command)),
        check=True,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
    return json.loads(run.stdout.splitlines()[-1])


# Parts


def latency(served):
    """Loaded in two ways over the graph in this process."""
    calls = {
        "saved from": in_process(served.sampler.functions["serving_default"]),
        "loaded": loaded(served.version),
        "session": in_session(served.version),
    }
    ratios = [("loaded", "saved from"), ("session", "saved from")]
    found = {}
    for n in served.sizes[:2]:
        sides = {k: functools.partial(f, served.request(n)) for k, f in calls.items()}
        found[f"rows: {n}"] = compared(sides, ratios, served.settings["rounds"])
    return found


def rows(served):
    """The sampler beside bare gradients, in requests of every size."""
    return cost_of_rows(served, served.sizes)


def one_thread(served):
    """The same in a process of its own."""
    settings, network = served.settings, served.settings["network"]
    command = [sys.executable, __file__, *([network] if network else [])]
    command += import_flags(settings.get("modules", []))
    command += ["--one-thread-of", served.version, "--seed", settings["seed"]]
    for name in EACH:
        command += [f"--{name}", settings[key_of(name)]]
    return output_of(command)


def with_one_thread(version, settings):
    """What that process does."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    served = built(settings, pathlib.Path(version))
    return cost_of_rows(served, served.sizes[:2])


def cost_of_rows(served, sizes):
    """Time of a gradient of one row, and ratios, by number of rows."""
    sampler, bare = loaded(served.version), bare_sides(served)
    rounds = served.settings["rounds"]
    ratios = [("sampler", name) for name in bare]
    ratios += [("bare rows", "bare batch"), ("bare beside", "bare batch")]
    found = {}
    for n in sizes:
        images = tf.random.stateless_uniform(
            [n, *served.sampler.shape],
            [0, served.settings["seed"]],
            served.settings["low"],
            served.settings["high"],
        )
        sides = {k: functools.partial(f, images) for k, f in bare.items()}
        sides["sampler"] = functools.partial(sampler, served.request(n))
        count = n * served.num_gradients
        found[f"rows: {n}"] = compared(sides, ratios, rounds, count, "gradient")
    return found


def bare_sides(served):
    """As many gradients as a chain has, of images [n, ...], and nothing else."""

    def batch(images):
        def step(i, images, _):
            f, gradient = value_and_gradient(served.unit, images)
            return i + 1, images + 1e-3 * gradient, f  # so that no step is left out

        return tf.while_loop(
            lambda i, *_: i < served.num_gradients,
            step,
            (0, images, tf.zeros(tf.shape(images)[:1])),
            parallel_iterations=1,
        )[1:]

    def by_rows(images, at_once):
        return tf.map_fn(
            lambda image: tuple(part[0] for part in batch(image[None])),
            images,
            parallel_iterations=at_once,
            fn_output_signature=(tf.float32, tf.float32),
        )

    def with_weights(function, images):
        # Read before all loops: a loop that reads variables runs row after row.
        read = [(v, tf.convert_to_tensor(v.value)) for v in variables_of(served.unit)]
        with keras.StatelessScope(read):
            return function(images)

    sides = {
        "bare batch": batch,
        "bare rows": functools.partial(by_rows, at_once=1),
        "bare beside": functools.partial(by_rows, at_once=AT_ONCE),
    }
    spec = [tf.TensorSpec([None, *served.sampler.shape])]
    graphs = {
        name: tf.function(functools.partial(with_weights, side), input_signature=spec)
        for name, side in sides.items()
    }
    return {k: lambda images, k=k: graphs[k](images)[1].numpy() for k in sides}


def start(served):
    """Seconds of processes that do nothing else, one after the other."""
    code = f"{inspect.getsource(fresh_process)}fresh_process({str(served.version)!r})"
    processes = tqdm(range(served.settings["starts"]), "start")
    command = [sys.executable, "-c", code]
    runs = [output_of(command, subprocess.DEVNULL) for _ in processes]
    return {f"seconds, {k}": median_of([times[k] for times in runs]) for k in runs[0]}


def fresh_process(version):
    """Prints seconds. Its text alone runs, where to import Keras is an error."""
    import json
    import sys
    import time

    for absent in ("keras", "keras_tilt", "tensorflow_probability", "tf_keras"):
        sys.modules[absent] = None
    times = [time.perf_counter()]
    import tensorflow as tf

    times.append(time.perf_counter())
    sample = tf.saved_model.load(version).signatures["serving_default"]
    times.append(time.perf_counter())
    row = {"unit": [0], "seed": [[0, 7]], "temperature": [1.0]}
    for _ in range(2):
        sample(**{k: tf.constant(v) for k, v in row.items()})["f"].numpy()
        times.append(time.perf_counter())
    parts = ("import", "load", "first request", "second request")
    print(json.dumps({part: times[i + 1] - times[i] for i, part in enumerate(parts)}))


def size(served):
    """Bytes of the version, file by file, and of the weights."""
    files = {
        str(path.relative_to(served.version)): path.stat().st_size
        for path in sorted(served.version.rglob("*"))
        if path.is_file()
    }
    weights = sum(v.value.numpy().nbytes for v in variables_of(served.unit))
    total = sum(files.values())
    return {
        "total / weights": total / weights,
        "bytes, total": total,
        "bytes, at most wanted": 1_000_000 + weights * 3 // 2,
        "bytes, weights": weights,
        "bytes, by file": files,
    }


def image(served):
    """Bytes of one image in the forms it may be asked for, means over eight."""
    functions, request = served.sampler.functions, served.request(8)
    images = in_process(functions["serving_default"])(request)["image"]
    texts = [json.dumps(one.tolist(), separators=(",", ":")) for one in images]
    forms = {"gRPC, uint8": list(map(bytes, images)), "REST, numbers": texts}
    if "sample_png" in functions:
        files = in_process(functions["sample_png"])(request)["png_bytes"]
        forms |= {"gRPC, PNG": files, "REST, PNG": list(map(base64.b64encode, files))}
    return {f"bytes, {k}": float(np.mean(list(map(len, v)))) for k, v in forms.items()}


def concurrency(served):
    """Requests of one row from one thread and from eight."""
    call, request = in_session(served.version), served.request(1)

    def ask(num_threads):
        with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
            list(pool.map(call, [request] * REQUESTS))

    sides = {f"threads: {n}": functools.partial(ask, n) for n in (1, THREADS)}
    found = compared(sides, [tuple(sides)], served.settings["rounds"], REQUESTS)
    times = found["milliseconds a request"].items()
    return found | {"requests a second": {k: 1e3 / t["value"] for k, t in times}}


PARTS = {
    "latency": latency,
    "rows": rows,
    "one thread": one_thread,
    "start": start,
    "size": size,
    "image": image,
    "concurrency": concurrency,
}


# Rounds


def compared(sides, ratios, rounds, count=1, what="request"):
    """Milliseconds of each of `count`, and ratios of sides: medians of rounds."""
    names, times = list(sides), {name: [] for name in sides}
    for turn in tqdm(range(-2, rounds), ", ".join(names)):  # the first two warm up
        for place in range(len(names)):
            name = names[(turn + place) % len(names)]
            started = time.perf_counter()
            sides[name]()
            if turn >= 0:
                times[name].append(time.perf_counter() - started)
    times = {name: np.array(seconds) for name, seconds in times.items()}
    return {
        f"milliseconds a {what}": {
            k: median_of(1e3 * seconds / count) for k, seconds in times.items()
        },
        "ratio": {f"{a} / {b}": median_of(times[a] / times[b]) for a, b in ratios},
    }


def median_of(values):
    """With its standard error, by 200 bootstrap resamples."""
    resamples = np.random.default_rng(0).choice(values, [200, len(values)])
    error = np.median(resamples, axis=1).std()
    return {"value": float(np.median(values)), "standard_error": float(error)}


def lines(name, found, depth=0):
    """Results as text, one number a line."""
    name = "  " * depth + name
    if not isinstance(found, dict):
        number = f"{found:,.2f}" if isinstance(found, float) else f"{found}"
        yield f"{name:46}{number:>14}"
    elif "standard_error" in found:
        yield f"{name:46}{found['value']:14.3f} +- {found['standard_error']:.3f}"
    else:
        yield name
        for key, value in found.items():
            yield from lines(key, value, depth + 1)


if __name__ == "__main__":
    main()
