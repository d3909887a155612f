"""Both halves of the model on digits: draws under a learned q, judged by others.

    python benchmarks/digits.py --data-dir DIR --out out/digits_benchmark

DIR holds mnist.npz. Networks DG, GG, GG+DG and a mixture of both objectives, and one
reference q, learn the same 5,000 embedded digits. A judge learns the 55,000 training
digits of MNIST that are not among them. Of each network:

called       share of 1,000 draws of its ten densities that the judge calls their digit
converged    of ten verdicts
spread       of the draws of a digit over that of real ones: root of the mean variance
             of a pixel, mean over digits
told         accuracy of a network that tells draws from real digits of their class, on
             others than it was trained on; coarse: of images four times smaller
log Z        root mean square over digits of log Z under q less that of 10,000 held-out
             digits, nats; beside their standard errors

What is done is not done again. About an hour on two cores. Expected, from shorter runs
of GG and GG+DG alone: .98 called and more, spread of .8 to .9; log Z .5 nats for GG and
1.3 for GG+DG.
"""

import json
import pathlib

from keras_tilt.cli.flags import command_parser, count, folder

SCHEMES = ("DG", "GG", "GG+DG", "mix")


def parse_flags():
    """The command line."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("--data-dir", type=pathlib.Path, help="folder of mnist.npz")
    add("--chains", type=count, default=16, help="of each digit")
    add("--draws", type=count, default=300, help="of each chain")
    add("--burnin", type=count, default=40, help="iterations before them")
    add("--seed", type=int, default=7, help="equal seeds give equal numbers")
    add("--out", type=folder, default="out/digits_benchmark", help="folder")
    add("--smoke", action="store_true", help="everything in short, embedded digits")
    flags = parser.parse_args()
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
from keras_tilt.reference.learned.law import two_sample_accuracies
from keras_tilt.units.selection import unit

JUDGED = 100  # draws of each digit


def main():
    """Part by part, each kept on disk."""
    flags = parse_flags()
    train, test = kt.data.embedded_mnist()
    others, held_out = images_of_others(flags, train, test)
    flags.out.mkdir(parents=True, exist_ok=True)
    judge = made(flags.out / "judge.keras", lambda: trained_judge(others, flags))
    q = made(flags.out / "q.keras", lambda: learned(train, test, flags))
    found = {"law of q": q.law, "error of the judge": error_of(judge, held_out)}
    for scheme in SCHEMES:
        model = made(
            flags.out / f"{scheme}.keras", lambda s=scheme: trained(s, train, flags)
        )
        path = flags.out / f"{scheme}.json"
        if not path.is_file():
            numbers = numbers_of(model, q, judge, held_out, flags)
            path.write_text(json.dumps(numbers, indent=1) + "\n")
        found[scheme] = json.loads(path.read_text())
    (flags.out / "digits.json").write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


def images_of_others(flags, train, test):
    """Digits for the judge, none of them embedded, and held-out ones."""
    if flags.smoke:
        return test, test
    (images, labels), held_out = kt.data.load_mnist(flags.data_dir)
    known = {image.tobytes() for image in train[0]}
    is_other = np.array([image.tobytes() not in known for image in images])
    return (images[is_other], labels[is_other]), held_out


def made(path, make):
    """The model of a file, made if it is not there."""
    if not path.is_file():
        make().save(path)
    return keras.models.load_model(path)


def trained_judge(others, flags):
    """A network of another kind than LeNet, on other digits."""
    layers = keras.layers
    keras.utils.set_random_seed(flags.seed)
    stack = [keras.Input((28, 28, 1)), layers.Rescaling(1 / 255)]
    for width in (32, 64):
        stack += [layers.Conv2D(width, 3, activation="relu"), layers.Conv2D(width, 3)]
        stack += [layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling2D()]
    stack += [layers.Flatten(), layers.Dropout(0.5), layers.Dense(10)]
    judge = keras.Sequential(stack)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    judge.compile("adam", loss, jit_compile=False)
    epochs = 1 if flags.smoke else 3
    images = others[0].astype(np.float32)
    judge.fit(images, others[1], batch_size=128, epochs=epochs, verbose=2)
    return judge


def error_of(judge, pair):
    """Percent."""
    return 100 * float(np.mean(called(judge, pair[0]) != pair[1]))


def called(judge, images):
    logits = judge.predict(images.astype(np.float32), batch_size=500, verbose=0)
    return np.argmax(logits, axis=1)


def learned(train, test, flags):
    """The reference."""
    epochs = 1 if flags.smoke else 30
    return kt.fit_latent(train, held_out=test, epochs=epochs, seed=flags.seed)


def trained(scheme, train, flags):
    """A LeNet by one of the schemes, as many epochs each."""
    keras.utils.set_random_seed(flags.seed)
    model = kt.GenerativeClassifier(kt.lenet(scale=1 / 256))
    whole, part = (2, 1) if flags.smoke else (16, 10)
    objectives = {
        "DG": [("discriminative", whole)],
        "GG": [("generative", whole)],
        "GG+DG": [("generative", part), ("discriminative", whole - part)],
        "mix": [(0.5, whole)],
    }[scheme]
    for objective, epochs in objectives:
        if objective == "discriminative" and len(objectives) > 1:
            model.calibrate(batches_of(train))
        model.compile("adam", objective=objective, metrics=["accuracy"])
        model.fit(batches_of(train, flags.seed), epochs=epochs, shuffle=False)
    return model


def batches_of(pair, shuffle_seed=None):
    return kt.data.pipeline(*pair, batch_size=64, shuffle_seed=shuffle_seed, scale=1)


def numbers_of(model, generator, judge, held_out, flags):
    """All that is known of the ten densities of a network."""
    q = kt.latent(generator)
    tilts = [kt.Tilt(unit(model, class_index=k), q) for k in range(10)]
    runs = kt.sample(tilts, flags.chains, flags.draws, flags.burnin, seed=flags.seed)
    draws = [some_of(one.images) for one in runs]
    real = [held_out[0][held_out[1] == k][: len(draws[0])] for k in range(10)]
    told, coarse = two_sample_accuracies(
        np.concatenate(real) / 255, np.concatenate(draws) / 255, flags.seed
    )
    halves = two_halves.compared(
        model.network,
        tilts,
        *held_out,
        200 if flags.smoke else two_halves.NUM_DRAWS,
        flags.seed,
    )
    return {
        "error": error_of(model, held_out),
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
    }


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
    for scheme in SCHEMES:
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
