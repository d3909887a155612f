"""What masked features of many segments cost, and what memory.

    features   one pass of the network over the image, up to the layer
    masks      projection, masking and pyramids of all segments, chunk by chunk
    regions    the network once for each segment, on its box as an image of its own

    python benchmarks/masking.py --network NETWORK.keras --layer block10_add \\
        --size 540 720 --image street.jpg --out results/bench_masking.json

The segments are superpixels of the image, merged, of one drawn if there is none. The
three are timed in turn, in rounds; what is reported are medians of ratios over rounds,
with standard errors. Memory is the peak of a process that makes features and masks of
so many rectangles, by chunks and, to compare with, all at once. Expected: features and
masks of 1,000 segments cost a fiftieth of regions or less, masks not more than
features, and memory hardly grows with the segments.

Source: Dai, He and Sun, CVPR 2015: 0.38 s an image at five scales and 0.12 s at one,
against 17.9 s with each region run through the network.
"""

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import time

from keras_tilt.cli.flags import add_import, command_parser, count, file

MEMORY_OF = (250, 1000, 4000)  # segments


def parse_flags():
    """The command line; --smoke shrinks the defaults."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("--network", default="alexnet", help="NETWORK.keras, or a name: new weights")
    add_import(add)
    add("--layer", default="relu5", help="whose map is masked")
    add("--size", type=count, nargs=2, default=[480, 640], help="of the image")
    add("--region", type=count, default=227, help="side of a region, pixels")
    add("--image", type=pathlib.Path, help="file; by default a scene is drawn")
    add("--segments", type=count, default=1000, help="of the image")
    add("--chunk", type=count, default=64, help="segments at a time")
    add("--regions", type=count, default=64, help="of a round, for all segments")
    add("--rounds", type=count, default=15, help="of all three")
    add("--memory", type=count, nargs="*", default=MEMORY_OF, help="segments")
    add("--memory-of", type=count, help=argparse.SUPPRESS)
    add("--seed", type=int, default=0, help="of new weights and the scene")
    add(
        "--out", type=file, default="out/bench_masking.json", help="JSON of all numbers"
    )
    add("--smoke", action="store_true", help="two rounds of a small network")
    flags = parser.parse_args()
    if flags.smoke:
        flags.network, flags.layer, flags.size = "convnet", "relu3", [120, 160]
        flags.region, flags.segments, flags.regions, flags.rounds = 32, 100, 8, 2
        flags.memory = [100]
    return flags


if __name__ == "__main__":
    parse_flags()  # may end here, before the seconds that TensorFlow takes

import keras_tilt as kt  # noqa: F401  (first: it sets TensorFlow's defaults)
import keras
import numpy as np
import tensorflow as tf
from tqdm import auto as tqdm

from keras_tilt import masking
from keras_tilt.cli import named, process
from keras_tilt.masking import pooling, projection

REGIONS_AT_ONCE = 32
BLOCKS = 32  # along each side of the image, of which rectangles are made


def main():
    """Times, memory, JSON, table."""
    flags = parse_flags()
    if flags.memory_of:
        print(peak_of(flags))
        return
    with process.as_exit():
        process.use_modules(flags.modules)
        image = picture(flags)
        problem = Problem(flags, image, some_segments(image, flags.segments))
    steps = problem.steps()
    rounds = [
        timed_round(steps, flags) for _ in tqdm.trange(flags.rounds, unit="round")
    ]
    memory = [in_own_process(n, flags.chunk) for n in flags.memory]
    memory += [in_own_process(n, n) for n in flags.memory[-1:]]
    result = summary(rounds, memory, flags, problem)
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    flags.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    print(f"Numbers: {flags.out}")


class Problem:
    """The network, the image and its segments, and what is compared of them."""

    def __init__(self, flags, image, segments):
        self.flags = flags
        size = tuple(flags.size)
        self.backbone = self.network(size)
        self.cells = projection.cells_of(self.backbone, self.backbone.layers[-1].name)
        self.inputs = masking.examples.inputs_of(image, segments, size)
        self.maps = self.backbone(self.inputs["image"], training=False)

    def steps(self):
        """What is timed, by name: functions that have run once."""
        flags = self.flags
        side = (flags.region, flags.region)
        of_region = self.network(side)
        regions = tf.random.stateless_uniform(
            [at_once(flags), *side, 3], [flags.seed, 0], 0, 255
        )
        found = {
            "features": tf.function(self.features),
            "masks": tf.function(self.masks),
            "boxes": tf.function(lambda: self.masks(masked=False)),
            "regions": tf.function(lambda: of_region(regions, training=False)),
        }
        for step in found.values():
            step()
        return found

    def network(self, size):
        """The network up to the layer, for images of a size."""
        flags = self.flags
        if flags.network.endswith(".keras"):
            whole = named.load_model(pathlib.Path(flags.network))
        else:
            side = (flags.region, flags.region, 3)
            whole = named.network(flags.network, side, 1000, flags.seed)
        return masking.backbone(whole, flags.layer, size)

    def features(self):
        """The map of the image."""
        return self.backbone(self.inputs["image"], training=False)

    def masks(self, masked=True):
        """Sums over the pyramids of all segments, made a chunk at a time."""
        counts = projection.segment_counts(
            self.inputs["atoms"], self.inputs["members"], self.cells
        )
        kept = projection.thresholded(counts, self.cells.totals, 0.5)
        parts = projection.boxes_of(counts > 0), kept

        def of_chunk(part):
            boxes, kept = part
            pooled = pooling.pyramid_pool(self.maps, boxes, kept if masked else None)
            return tf.reduce_sum(pooled)

        chunks = [self.in_chunks(part) for part in parts]
        return tf.map_fn(of_chunk, tuple(chunks), fn_output_signature=tf.float32)

    def in_chunks(self, part):
        """[1, segments, ...] as [chunks, 1, chunk, ...], the last filled up."""
        missing = -part.shape[1] % self.flags.chunk
        part = tf.pad(part[0], [[0, missing]] + [[0, 0]] * (part.shape.rank - 2))
        return tf.reshape(part, [-1, 1, self.flags.chunk, *part.shape[1:]])


def at_once(flags):
    """Regions that the network runs on at once."""
    return min(REGIONS_AT_ONCE, flags.regions)


def timed_round(steps, flags):
    """Seconds of each, of regions scaled up to all segments."""
    batches = {name: 1 for name in steps} | {"regions": flags.regions // at_once(flags)}
    found = {}
    for name, step in steps.items():
        start = time.perf_counter()
        for _ in range(batches[name]):
            keras.tree.map_structure(np.asarray, step())
        found[name] = time.perf_counter() - start
    found["regions"] *= flags.segments / (batches["regions"] * at_once(flags))
    return found


def picture(flags):
    """The image, uint8 [height, width, 3]."""
    if flags.image is None:
        return masking.scenes.synthetic(1, tuple(flags.size), flags.seed)[0].image
    content = tf.io.read_file(str(flags.image))
    return tf.io.decode_image(content, 3, expand_animations=False).numpy()


def some_segments(image, number):
    """So many proposals, some of them again if there are fewer."""
    found = masking.proposals.proposals(image)
    return found.select(np.arange(number) % len(found))


# Memory


def peak_of(flags):
    """Peak MB of this process after features and masks of so many rectangles."""
    image = picture(flags)
    problem = Problem(flags, image, rectangles(image, flags.memory_of, flags.seed))
    for step in (problem.features, problem.masks):
        tf.function(step)()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def rectangles(image, number, seed):
    """So many segments, rectangles of blocks: they take no memory to find."""
    rows, columns = (np.arange(size) * BLOCKS // size for size in image.shape[:2])
    atoms = rows[:, np.newaxis] * BLOCKS + columns
    rng = np.random.default_rng(seed)
    first = rng.integers(BLOCKS, size=[2, number, 1])
    end = first + rng.integers(1, BLOCKS // 2, [2, number, 1])
    inside = (np.arange(BLOCKS) >= first) & (np.arange(BLOCKS) < end)
    members = inside[0][:, :, np.newaxis] & inside[1][:, np.newaxis]
    return masking.Segments(atoms, members.reshape(number, -1))


def in_own_process(number, chunk):
    """Segments, chunk, and the peak MB of a process of its own with these flags."""
    own = ["--memory-of", str(number), "--chunk", str(chunk)]
    command = [sys.executable, *sys.argv, *own]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    peak = float(run.stdout.splitlines()[-1])
    return {"segments": number, "chunk": chunk, "peak_MB": peak}


# Report


def summary(rounds, memory, flags, problem):
    """Medians with standard errors, and what they are of."""
    ratios = {
        "regions / (features + masks)": [
            r["regions"] / (r["features"] + r["masks"]) for r in rounds
        ],
        "masks / features": [r["masks"] / r["features"] for r in rounds],
        "boxes alone / features": [r["boxes"] / r["features"] for r in rounds],
    }
    return {
        "network": pathlib.Path(flags.network).stem,
        "layer": flags.layer,
        "image": list(flags.size),
        "map": list(problem.backbone.output_shape[1:]),
        "region": flags.region,
        "segments": flags.segments,
        "chunk": flags.chunk,
        "rounds": flags.rounds,
        "ratios": {name: median(values) for name, values in ratios.items()},
        "seconds": {k: median([r[k] for r in rounds])["median"] for k in rounds[0]},
        "memory": memory,
    }


def median(values):
    """Median, and its standard error by the normal law."""
    error = 1.253 * np.std(values, ddof=1) / np.sqrt(len(values))
    return {"median": float(np.median(values)), "standard_error": float(error)}


def table(result):
    """The numbers as text."""
    lines = [f"{result['network']} {result['layer']}, map {result['map']}"]
    for name, value in result["ratios"].items():
        lines.append(
            f"{name:>30} {value['median']:8.2f} +- {value['standard_error']:.2f}"
        )
    for name, value in result["seconds"].items():
        lines.append(f"{f'seconds of {name}':>30} {value:8.3f}")
    for run in result["memory"]:
        what = f"peak MB, {run['segments']} by {run['chunk']}"
        lines.append(f"{what:>30} {run['peak_MB']:8.0f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
