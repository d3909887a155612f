"""Both halves of the model on digits or CIFAR-10: draws under a learned q, judged.

    python benchmarks/learned_reference.py digits --data-dir DIR --out out/digits_half
    python benchmarks/learned_reference.py cifar10 --data-dir DIR --out out/cifar_half

DIR holds mnist.npz, or cifar10.npz or another --dataset. Networks DG, GG, GG+DG and a
mixture of both objectives learn one set of images, and a judge others: of digits the
5,000 that are embedded, and the 55,000 training digits of MNIST that are not; of
CIFAR-10 a half of the training images each, as they are and as q shows them, from their
codes: mirrored of the judge. A reference q learns the digits of the networks, or all
training images of CIFAR-10. Of each network:

called       share of 1,000 draws of its ten densities that the judge calls their class
converged    of ten verdicts
spread       of the draws of a class over that of real ones: root of the mean variance
             of a pixel, mean over classes
told         accuracy of a network that tells draws from real images of their class, on
             others than it was trained on; coarse: of images four times smaller
log Z        root mean square over classes of log Z under q less that of 10,000 held-out
             images, nats; beside their standard errors; and of these from their codes.
             With --walks it is annealed where draws of q do not find it: with 64 walks
             a quarter of an hour for GG+DG on CIFAR-10, and hours for DG

What is done is not done again. About an hour on two cores.
"""

import json
import pathlib
from typing import NamedTuple

from keras_tilt.cli.flags import command_parser, count, folder, natural, positive

SCHEMES = ("DG", "GG", "GG+DG", "mix")


def parse_flags():
    """The command line."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("problem", choices=("digits", "cifar10"))
    add("--data-dir", type=pathlib.Path, help="folder of the images")
    add("--dataset", default="cifar10.npz", help="file in it, of CIFAR-10")
    add("--schemes", nargs="+", default=list(SCHEMES), choices=SCHEMES, help="to run")
    add("--chains", type=count, default=16, help="of each class")
    add("--draws", type=count, default=300, help="of each chain")
    add("--burnin", type=count, default=40, help="iterations before them")
    add("--scale", type=positive, default=1.0, help="of f; log Z is compared at 1")
    add("--walks", type=natural, default=0, help="that anneal log Z, from 20; 0: none")
    add("--seed", type=int, default=7, help="equal seeds give equal numbers")
    add("--out", type=folder, default="out/learned_reference", help="folder")
    add("--smoke", action="store_true", help="everything in short, embedded digits")
    flags = parser.parse_args()
    if 0 < flags.walks < 20:
        parser.error(f"Expected --walks 0, or 20 or more. Received: {flags.walks}.")
    if flags.smoke:
        flags.chains, flags.draws, flags.burnin = 2, 8, 4
    elif flags.data_dir is None:
        parser.error("Expected --data-dir, or --smoke. Received: neither.")
    return flags


if __name__ == "__main__":
    parse_flags()  # may end here, before the seconds that TensorFlow takes

import keras
import numpy as np

import keras_tilt as kt
from keras_tilt.cli.jobs import two_halves
from keras_tilt.data import sources
from keras_tilt.data.batches import evaluation_batches
from keras_tilt.reference.learned.law import two_sample_accuracies
from keras_tilt.training.calibration import calibration_of, column_sums

JUDGED = 100  # draws of each class
ROWS = 6  # of them in the picture


class Images(NamedTuple):
    """Pairs of images and labels: who learns which."""

    networks: tuple[np.ndarray, np.ndarray]
    reference: tuple[np.ndarray, np.ndarray]
    judge: tuple[np.ndarray, np.ndarray]
    held_out: tuple[np.ndarray, np.ndarray]


def main():
    """Part by part, each kept on disk."""
    flags = parse_flags()
    images = images_of(flags)
    flags.out.mkdir(parents=True, exist_ok=True)
    q = made(flags.out / "q.keras", lambda: learned(images, flags))
    if flags.problem == "cifar10":
        images = as_q_shows(images, q)
    judge = made(flags.out / "judge.keras", lambda: trained_judge(images.judge, flags))
    found = {"law of q": q.law, "error of the judge": error_of(judge, images.held_out)}
    found |= called_again(q, judge, images.held_out)
    how = f"scale{flags.scale:g}-{flags.chains}x{flags.burnin}+{flags.draws}"
    how += f"-walks{flags.walks}"
    for scheme in flags.schemes:
        path = flags.out / f"{scheme}.keras"
        model = made(path, lambda s=scheme: trained(s, images.networks, flags))
        path = flags.out / f"{scheme}-{how}.json"
        if not path.is_file():
            numbers, picture = numbers_of(model, q, judge, images.held_out, flags)
            picture.savefig(path.with_suffix(".png"))
            path.write_text(json.dumps(numbers, indent=1) + "\n")
        found[scheme] = json.loads(path.read_text())
    scale = "" if flags.scale == 1 else f"_scale{flags.scale:g}"
    path = flags.out / f"learned_{flags.problem}{scale}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


def images_of(flags):
    """Who learns what: the judge nothing that a network learns."""
    own, test = kt.data.embedded_mnist()
    if flags.smoke and flags.problem == "digits":
        return Images(own, own, test, test)
    if flags.smoke:
        own, test = in_colour(own), in_colour(test)
        return Images(own, own, test, test)
    if flags.problem == "digits":
        (images, labels), held_out = kt.data.load_mnist(flags.data_dir)
        known = {image.tobytes() for image in own[0]}
        is_other = np.array([image.tobytes() not in known for image in images])
        return Images(own, own, (images[is_other], labels[is_other]), held_out)
    train, held_out = (arrays_of(flags, split) for split in ("train", "test"))
    halves = [tuple(part[half::2] for part in train) for half in (0, 1)]
    return Images(halves[0], train, halves[1], held_out)


def as_q_shows(images, q):
    """The same, with images from their codes: q is the law of what networks learn."""

    def both(pair, turn):
        pixels, labels = pair
        again = from_codes(q, pixels)[:, :, ::turn]
        return np.concatenate([pixels, again]), np.tile(labels, 2)

    networks, judge = both(images.networks, 1), both(images.judge, -1)
    return images._replace(networks=networks, judge=judge)


def from_codes(q, pixels):
    """Images from the codes of some, bytes."""
    batches = np.split(pixels, range(500, len(pixels), 500))
    again = [q(q.encode(batch.astype(np.float32))) for batch in batches]
    return np.concatenate(again).round().astype(np.uint8)


def arrays_of(flags, split):
    """Images and labels of CIFAR-10."""
    source = sources.npz(flags.data_dir / flags.dataset, split)
    batches = evaluation_batches(source, 500, crop=(32, 32)).as_numpy_iterator()
    images, labels = map(np.concatenate, zip(*batches, strict=True))
    return images.astype(np.uint8), labels


def in_colour(pair):
    """A few gray images as large ones of three channels."""
    few = np.pad(pair[0][:1000], [(0, 0), (2, 2), (2, 2), (0, 0)])
    return np.repeat(few, 3, axis=3), pair[1][:1000]


def called_again(q, judge, held_out):
    """What a judge can make of images as sharp as those of q."""
    images, labels = held_out
    right = float(np.mean(called(judge, from_codes(q, images)) == labels))
    return {"called when decoded from their codes": right}


def made(path, make):
    """The model of a file, made if it is not there."""
    if not path.is_file():
        make().save(path)
    return keras.models.load_model(path)


def trained_judge(others, flags):
    """A network of another kind, on other images."""
    layers = keras.layers
    keras.utils.set_random_seed(flags.seed)
    of_digits = flags.problem == "digits"
    stack = [keras.Input(others[0].shape[1:]), layers.Rescaling(1 / 255)]
    for width in (32, 64) if of_digits else (32, 64, 128):
        same = {"padding": "valid" if of_digits else "same"}
        if of_digits:
            stack += [layers.Conv2D(width, 3, activation="relu", **same)]
        stack += [layers.Conv2D(width, 3, **same)]
        stack += [layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling2D()]
    stack += [layers.Flatten(), layers.Dropout(0.5), layers.Dense(10)]
    judge = keras.Sequential(stack)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    judge.compile("adam", loss, jit_compile=False)
    epochs = 1 if flags.smoke else 3 if of_digits else 5
    images = others[0].astype(np.float32)
    judge.fit(images, others[1], batch_size=128, epochs=epochs, verbose=2)
    return judge


def error_of(judge, pair):
    """Percent."""
    return 100 * float(np.mean(called(judge, pair[0]) != pair[1]))


def called(judge, images):
    logits = judge.predict(images.astype(np.float32), batch_size=500, verbose=0)
    return np.argmax(logits, axis=1)


def learned(images, flags):
    """The reference."""
    settings = {"epochs": 30}
    if flags.problem == "cifar10":
        settings = {"latent_size": 128, "stddev": 0.1, "principal": True}
        settings |= {"epochs": 10, "batch_size": 128}
    if flags.smoke:
        settings |= {"epochs": 1, "width": 8}
    work = flags.out / "q.fit"
    held_out = images.held_out
    return kt.fit_latent(
        images.reference,
        held_out=held_out,
        seed=flags.seed,
        directory=work,
        **settings,
    )


def trained(scheme, train, flags):
    """A network by one of the schemes, as many epochs each."""
    keras.utils.set_random_seed(flags.seed)
    if flags.problem == "digits":
        network, (whole, part), size = kt.lenet(scale=1 / 256), (16, 10), 64
    else:
        network, (whole, part), size = kt.convnet(batch_norm=False), (8, 4), 128
    whole, part = (2, 1) if flags.smoke else (whole, part)
    model = kt.GenerativeClassifier(network)
    objectives = {
        "DG": [("discriminative", whole)],
        "GG": [("generative", whole)],
        "GG+DG": [("generative", part), ("discriminative", whole - part)],
        "mix": [(0.5, whole)],
    }[scheme]
    for objective, epochs in objectives:
        if objective == "discriminative" and len(objectives) > 1:
            model.calibrate(batches_of(train, size))
        model.compile("adam", objective=objective, metrics=["accuracy"])
        batches = batches_of(train, size, flags.seed)
        model.fit(batches, epochs=epochs, shuffle=False, verbose=2)
    return model


def batches_of(pair, size, shuffle_seed=None):
    return kt.data.pipeline(*pair, size, shuffle_seed=shuffle_seed, scale=1)


def numbers_of(model, generator, judge, held_out, flags):
    """All that is known of the ten densities of a network, and a picture of draws."""
    q = kt.latent(generator)
    units = [kt.unit(model, class_index=k) for k in range(10)]
    tilts = [kt.Tilt(unit, q, flags.scale) for unit in units]
    runs = kt.sample(tilts, flags.chains, flags.draws, flags.burnin, seed=flags.seed)
    draws = [some_of(one.images) for one in runs]
    real = [held_out[0][held_out[1] == k][: len(draws[0])] for k in range(10)]
    told, coarse = two_sample_accuracies(
        np.concatenate(real) / 255, np.concatenate(draws) / 255, flags.seed
    )
    halves = two_halves.compared(
        model.network,
        [kt.Tilt(unit, q) for unit in units],
        *held_out,
        200 if flags.smoke else two_halves.NUM_DRAWS,
        flags.seed,
        flags.walks,
    )
    found = {
        "error": error_of(model, held_out),
        "scale": flags.scale,
        "called": [float(np.mean(called(judge, x) == k)) for k, x in enumerate(draws)],
        "verdicts": [one.diagnostics.verdict for one in runs],
        "worst_r_hat": [one.diagnostics.worst_r_hat for one in runs],
        "smallest_ess": [one.diagnostics.smallest_ess for one in runs],
        "spread": [
            spread(x) / spread(held_out[0][held_out[1] == k])
            for k, x in enumerate(draws)
        ],
        "told": told,
        "coarse": coarse,
        "halves": halves,
        "log Z from codes": log_partition(model.network, generator, held_out),
    }
    return found, picture_of(draws)


def log_partition(network, generator, pair):
    """log Z of held-out images as q shows them."""
    again = from_codes(generator, pair[0])
    batches = kt.data.pipeline(again, pair[1], 500, scale=1.0)
    return calibration_of(column_sums(network, batches, 10)).log_partition.tolist()


def picture_of(draws):
    """A column for each class."""
    rows = np.stack([one[:: max(1, len(one) // ROWS)][:ROWS] for one in draws], axis=1)
    flat = rows.reshape(-1, *rows.shape[2:])
    return kt.plotting.image_grid(flat, columns=10, low=0, high=255, inches=0.8)


def some_of(images):
    """JUDGED draws, as far apart as they can be, of all chains."""
    every = max(1, len(images) * images.shape[1] // JUDGED)
    flat = np.swapaxes(images, 0, 1).reshape(-1, *images.shape[2:])
    return np.asarray(flat[::every][:JUDGED])


def spread(images):
    """Root of the mean variance of a pixel."""
    return float(np.sqrt(np.mean(np.var(images.astype(float), axis=0))))


def table(found):
    """A line for each network."""
    heads = ("error", "called", "converged", "spread", "told", "coarse", "log Z")
    lines = [f"{'':<8}" + "".join(f"{head:>11}" for head in heads)]
    for scheme in filter(found.get, SCHEMES):
        one = found[scheme]
        converged = sum(v.startswith("converged") for v in one["verdicts"])
        far = np.sqrt(np.mean([row["difference"] ** 2 for row in one["halves"]]))
        numbers = [np.mean(one["called"]), np.mean(one["spread"]), one["told"]]
        lines.append(
            f"{scheme:<8}{one['error']:11.2f}{numbers[0]:11.3f}{converged:11d}"
            f"{numbers[1]:11.2f}{numbers[2]:11.2f}{one['coarse']:11.2f}{far:11.2f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
