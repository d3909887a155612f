"""Does reading scale? What each of several workers reads, and what an image costs.

Two parts (`--parts`), of photographs in the layout of Tiny ImageNet, or made up:

    workers   1, 2 and 4 processes read one epoch, each its parts of every batch: bytes
              read, images decoded, images/s of all at once. Wanted: 1/N each. Beside
              it whole batches, of which each worker then drops the others' parts
    cost      milliseconds an image of one thread, by `training_batches` and by Grain,
              pixels in memory and files, padded, cropped and mirrored; both in turns

    python benchmarks/reading.py --data-dir tiny-imagenet-100 --out results/reading.json

takes four minutes on two cores with nothing beside it. The second part alone needs
Grain: pip install grain.
"""

import concurrent.futures
import functools
import importlib.metadata
import io
import json
import multiprocessing
import pathlib
import tempfile
import time

from keras_tilt.cli.flags import command_parser, count, file

WORKERS = (1, 2, 4)
TIMED = 12_800  # images of a round of "cost"


def parse_flags():
    """The command line; --smoke reads a few files that are made up."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("--data-dir", type=pathlib.Path, help="in the layout of Tiny ImageNet")
    parts = ("workers", "cost")
    add("--parts", nargs="+", choices=parts, default=list(parts), help="to measure")
    add("--images", type=count, default=50_000, help="read in an epoch by workers")
    add("--rounds", type=count, default=5, help="of each way of reading")
    add("--seed", type=int, default=0, help="of the order and the crops")
    add("--out", type=file, default="out/reading.json", help="file of results")
    add("--smoke", action="store_true", help="128 images, one round")
    flags = parser.parse_args()
    if flags.smoke:
        flags.images, flags.rounds = 128, 1
    if not flags.smoke and flags.data_dir is None:
        parser.error("--data-dir is needed. Received: none. Or try --smoke.")
    return flags


if __name__ == "__main__":
    parse_flags()  # may end here, before the seconds that TensorFlow takes

import numpy as np
import tensorflow as tf
from PIL import Image

from keras_tilt.cli import process
from keras_tilt.data import batches, sources

BATCH, SIDE, PAD = 128, 64, 8


def main():
    """Measures both parts, and prints and writes them."""
    flags = parse_flags()
    with tempfile.TemporaryDirectory() as made, process.as_exit():
        folder = flags.data_dir or write_made_up(pathlib.Path(made), flags.images)
        found = {"images": flags.images, "batch_size": BATCH, "seed": flags.seed}
        if "workers" in flags.parts:
            found["workers"] = of_workers(folder, flags.images, flags.seed)
        if "cost" in flags.parts:
            found["grain"] = importlib.metadata.version("grain")
            few = min(flags.images, TIMED)
            found["cost"] = costs(folder, few, flags.seed, flags.rounds)
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    flags.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))
    print(f"Written to {flags.out}")


def write_made_up(folder, images):
    """A folder in the layout, of two classes of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, [SIDE, SIDE, 3], np.uint8)
    names = ("n1", "n2")
    for name in names:
        (folder / "train" / name / "images").mkdir(parents=True)
        for i in range(-(-images // 2)):
            path = folder / "train" / name / "images" / f"{i}.JPEG"
            Image.fromarray(np.roll(pixels, i, 0)).save(path)
    (folder / "wnids.txt").write_text("\n".join(names))
    return folder


# What workers read


def of_workers(folder, images, seed):
    """By number of workers: of each, images, bytes, and images/s of all at once."""
    return [
        {
            "workers": workers,
            "parts": read_at_once(folder, images, seed, workers, True),
            "whole": read_at_once(folder, images, seed, workers, False),
        }
        for workers in WORKERS
    ]


def read_at_once(folder, images, seed, workers, in_parts):
    """What several processes read that begin together."""
    spawned = multiprocessing.get_context("spawn")
    with spawned.Manager() as manager:
        barrier = manager.Barrier(workers)
        with concurrent.futures.ProcessPoolExecutor(workers, spawned) as pool:
            arguments = (folder, images, seed, workers, in_parts, barrier)
            done = [pool.submit(read, i, *arguments) for i in range(workers)]
            found = [one.result() for one in done]
    return {
        "images": [one["images"] for one in found],
        "bytes": [one["bytes"] for one in found],
        "images_per_second": round(images / max(one["seconds"] for one in found)),
    }


def read(index, folder, images, seed, workers, in_parts, barrier):
    """What one process reads of an epoch."""
    process.use_threads(1)
    source = sources.tiny_imagenet(folder)
    context = tf.distribute.InputContext(workers, index, workers) if in_parts else None
    dataset = epoch_of(source, images, seed, context)
    first, _ = next(iter(epoch_of(source, BATCH, seed, None)))  # everything is traced
    assert len(first)
    barrier.wait()
    before, begin = bytes_read(), time.monotonic()
    seen = sum(len(labels) for _, labels in dataset)
    seconds = time.monotonic() - begin
    return {"images": seen, "bytes": bytes_read() - before, "seconds": seconds}


def bytes_read():
    """Bytes that this process has read of files."""
    lines = pathlib.Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


def epoch_of(source, images, seed, context=None):
    """The batches of our own."""
    order = batches.uniform_order(len(source.labels), seed, 0)[:images]
    return batches.training_batches(
        source,
        order,
        BATCH,
        seed=seed,
        epoch=0,
        crop=(SIDE, SIDE),
        pad=PAD,
        context=context,
    )


# What an image costs


def costs(folder, images, seed, rounds):
    """Milliseconds an image, each way in turn, median and range."""
    process.use_threads(1)
    source = sources.tiny_imagenet(folder)
    order = batches.uniform_order(len(source.labels), seed, 0)[:images]
    paths = [p.decode() for p in source.fetch(order).numpy()]
    encoded = [pathlib.Path(path).read_bytes() for path in paths]
    pixels = np.stack([decoded(io.BytesIO(one)) for one in encoded])
    held = sources.arrays(pixels, source.labels[order], source.class_names)
    ways = {
        "ours, memory": functools.partial(epoch_of, held, images, seed),
        "Grain, memory": functools.partial(of_grain, pixels.__getitem__, images, seed),
        "ours, files": functools.partial(epoch_of, source, images, seed),
        "Grain, files": functools.partial(
            of_grain, lambda i: decoded(paths[i]), images, seed
        ),
    }
    found = {name: [] for name in ways}
    for _ in range(rounds):
        for name, batches_of in ways.items():
            begin = time.monotonic()
            seen = sum(len(part) for part, _ in batches_of())
            found[name].append(1000 * (time.monotonic() - begin) / seen)
    return {
        name: {
            "median": round(float(np.median(times)), 4),
            "range": [round(min(times), 4), round(max(times), 4)],
        }
        for name, times in found.items()
    }


def decoded(file):
    """The pixels of a file in colour."""
    return np.asarray(Image.open(file).convert("RGB"))


def of_grain(image, images, seed):
    """The same by Grain: shuffled, cut at random, batched."""
    import grain

    class Cut(grain.transforms.RandomMap):
        """Pads by reflection, crops and mirrors."""

        def random_map(self, number, rng):
            """The cut of an image."""
            border = ((PAD, PAD), (PAD, PAD), (0, 0))
            padded = np.pad(image(number), border, "reflect")
            top, left = rng.integers(0, 2 * PAD + 1, 2)
            cut = padded[top : top + SIDE, left : left + SIDE]
            return np.float32(cut[:, ::-1] if rng.random() < 0.5 else cut), number

    numbers = grain.MapDataset.range(images).seed(seed).shuffle()
    return numbers.random_map(Cut()).batch(BATCH)


def table(found):
    """What was found, in lines."""
    lines = []
    for row in found.get("workers", []):
        for how in ("parts", "whole"):
            one = row[how]
            images = ", ".join(f"{n:,}" for n in one["images"])
            mb = ", ".join(f"{n / 1e6:.2f}" for n in one["bytes"])
            lines.append(
                f"{row['workers']} workers, {how}: {images} images; {mb} MB; "
                f"{one['images_per_second']:,} images/s of the epoch"
            )
    for name, cost in found.get("cost", {}).items():
        low, high = cost["range"]
        lines.append(f"{name:14} {cost['median']:.3f} ms ({low:.3f} to {high:.3f})")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
