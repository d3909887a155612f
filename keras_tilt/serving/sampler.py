"""Samplers and classifiers as functions of a server: rows in, rows out, no state.

    sample     unit, seed, temperature -> image,    image ~ exp(f / temperature) q / Z
    evaluate   image -> f of all units, log q, log densities
    classify   image -> logits, p(y | x), log p(x) up to a constant; of a network of
                        labels beside each other, logits and p of each label

A row of `sample` is a chain of its own: it starts from a draw of q, the tilt rises, and
its random numbers are those of its seed. The network sees rows one at a time, never in
a batch, because a convolution may round differently at another place or size of it: a
row is the same, bit for bit, whatever stands beside it. How long a chain is is in the
graph, and no client can change it.

Source: Dai, Lu and Wu (2015) for the densities; for the chains see
`keras_tilt.sampling.kernels`.
"""

__all__ = ["Schedule", "ServedClassifier", "ServedSampler", "planned"]

import dataclasses
import functools
import math

import numpy as np
import tensorflow as tf

from keras_tilt.networks import graph, output_activations
from keras_tilt.sampling.adaptation import (
    QUARTER_TURN,
    annealed_scale,
    jittered,
    leapfrog_steps,
)
from keras_tilt.sampling.kernels import (
    SplitHamiltonianMonteCarlo,
    chain_seeds,
    is_standard_normal,
)
from keras_tilt.sampling.response import Response
from keras_tilt.sampling.tilt_groups import checked_tilts
from keras_tilt.serving.requests import after, checked_rows, read_once, traced, upright
from keras_tilt.units.groups import choice, variables_of
from keras_tilt.units.selection import unit
from keras_tilt.validation import as_names, check_count

_AT_ONCE = 16  # rows that may run beside each other, each in its own piece of graph
# Factors of f below this are this: the smallest float32 are flushed to 0, by which f
# could not be told any more. At so high a temperature p is q all the same.
_WEAKEST = 1e-30


@dataclasses.dataclass(frozen=True)
class Schedule:
    """What a chain does in every iteration, unit by unit.

    Attributes:
        rise: [iterations], factor of the tilt, in (0, 1]; 1 from some iteration on.
        step_size: [units, iterations], of the leapfrog, in units of noise.
        num_leapfrog_steps: [units, iterations].
        is_adjusted: [iterations], whether the Metropolis test is made.
    """

    rise: np.ndarray
    step_size: np.ndarray
    num_leapfrog_steps: np.ndarray
    is_adjusted: np.ndarray

    @property
    def num_rising(self):
        """Iterations before the tilt is at its full scale."""
        return int(np.argmax(self.rise == 1))

    @property
    def num_iterations(self):
        return len(self.rise)

    @property
    def num_full(self):
        """Iterations at the full scale."""
        return self.num_iterations - self.num_rising

    @property
    def num_gradients(self):
        """[units], of f in a whole chain."""
        return 1 + self.num_leapfrog_steps.sum(axis=1)


def planned(
    step_size, num_leapfrog_steps, num_iterations, seed, approach_step_size=None
):
    """Return the `Schedule` of chains whose steps are known.

    The tilt rises as in a warm-up of as many iterations, and the numbers of steps vary
    as they do there; nothing is adapted.

    Args:
        step_size: [units], frozen, of the lowest temperature.
        num_leapfrog_steps: [units], their mean.
        num_iterations: of a chain, the rise of the tilt included.
        seed: pair of whole numbers, of the variation.
        approach_step_size: None, or the step without Metropolis test while the tilt
            rises, with as many steps at most.

    Raises:
        ValueError: for less than two iterations, of which none has the full tilt.
    """
    check_count("num_iterations", num_iterations, 2)
    iterations = range(num_iterations)
    rise = np.array([annealed_scale(i, num_iterations) for i in iterations])
    frozen = np.asarray(num_leapfrog_steps)
    is_adjusted = np.ones(num_iterations, bool)
    step_size = np.tile(np.asarray(step_size)[:, None], [1, num_iterations])
    means = np.tile(frozen[:, None], [1, num_iterations])
    if approach_step_size is not None:
        is_adjusted = rise == 1
        step_size[:, ~is_adjusted] = approach_step_size
        steps = leapfrog_steps(approach_step_size, QUARTER_TURN, int(frozen.max()))
        means[:, ~is_adjusted] = steps
    counts = [[jittered(int(n), seed, i) for i, n in enumerate(row)] for row in means]
    return Schedule(
        rise.astype(np.float32),
        step_size.astype(np.float32),
        np.array(counts, np.int32),
        is_adjusted,
    )


class ServedSampler(tf.Module):
    """Chains of several units of one reference, one for each row of a request.

    Args:
        tilts: a `Tilt`, or a list of them, of one reference, a transport of N(0, I).
        schedule: a `Schedule` of as many units.
        low: pixel that is black in an image of bytes, 0.
        high: pixel that is white, 255.
        certified: [units], whether chains of the schedule were found to converge.
        temperatures: those at which they were, whose range the answer holds for.
        log_partition: None, or log Z [temperatures, units], NaN where it is not known.
        jit_compile: whether chains are compiled by XLA, which stock servers refuse.

    Attributes:
        functions: dict, name of a signature -> the graph of its function.

    Raises:
        TypeError: for anything but tilts.
        ValueError: for tilts of several references, a noise that is not N(0, I), a
            reference without a density of images, or pixels that are no range.
    """

    def __init__(
        self,
        tilts,
        schedule,
        low,
        high,
        certified=(),
        temperatures=(1.0,),
        log_partition=None,
        jit_compile=False,
    ):
        super().__init__(name="sampler")
        tilts = checked_tilts(tilts)
        _check_tilts(tilts, low, high)
        self._first = tilts[0]
        self.shape = tilts[0].event_shape
        self._choice = choice([tilt.unit for tilt in tilts])
        self._weights = [variable.value for variable in self._read]  # to be saved
        self._scale = np.array([tilt.scale for tilt in tilts], np.float32)
        self.schedule = schedule
        self._range = np.array([low, high], np.float32)
        certified = certified if len(certified) else [False] * len(tilts)
        self._certified = np.asarray(certified, bool)
        self._temperatures = np.asarray(temperatures, np.float32)
        self._log_partition = log_partition
        self._jit_compile = jit_compile

    @property
    def num_units(self):
        return len(self._scale)

    @functools.cached_property  # as of a Keras variable, of which it saves two
    def _read(self):
        return variables_of(self._choice)

    # Signatures

    @functools.cached_property  # of which TensorFlow does not know, nor saves it twice
    def functions(self):
        row = list(self._row_specs.values())
        functions = {
            "serving_default": traced(self.sample, *row),
            "sample_each": traced(self.sample_each, *row),
            "start": traced(self.start, *row),
            "resume": traced(self.resume, self._noise_spec, *row),
            "evaluate": traced(
                self.evaluate, tf.TensorSpec([None, *self.shape], name="image")
            ),
        }
        if self.shape[-1] in (1, 3, 4):
            functions["sample_png"] = traced(self.sample_png, *row)
        return functions

    @property
    def _row_specs(self):
        return {
            "unit": tf.TensorSpec([None], tf.int32, "unit"),
            "seed": tf.TensorSpec([None, 2], tf.int32, "seed"),
            "temperature": tf.TensorSpec([None], tf.float32, "temperature"),
        }

    @property
    def _noise_spec(self):
        return tf.TensorSpec([None, *self._first.base.event_shape], name="noise")

    @functools.cached_property
    def _new_chains(self):
        return traced(self._run, **self._row_specs)

    @functools.cached_property
    def _given_chains(self):
        return traced(self._run, noise=self._noise_spec, **self._row_specs)

    def sample(self, unit, seed, temperature):
        """A draw for each row: image, f, log_density, accept_rate, converged."""
        answer = self.start(unit, seed, temperature)
        answer.pop("noise")
        return answer

    def sample_png(self, unit, seed, temperature):
        """The same with the image as bytes of a PNG."""
        answer = self.sample(unit, seed, temperature)
        image = answer.pop("image")
        encoded = tf.map_fn(tf.io.encode_png, image, fn_output_signature=tf.string)
        return answer | {"png_bytes": encoded}

    def sample_each(self, unit, seed, temperature):
        """The same where a bad row has an error of its own, and spoils no other."""
        rows = checked_rows(unit=unit, seed=seed, temperature=temperature)
        errors = self._errors(rows["unit"], rows["temperature"])
        good = errors == ""
        drawn = self._new_chains(
            seed=rows["seed"],
            unit=tf.where(good, rows["unit"], 0),
            temperature=tf.where(good, rows["temperature"], 1.0),
        )
        drawn.pop("noise")
        answer = {name: _where(good, value) for name, value in drawn.items()}
        return answer | {"error": errors}

    def start(self, unit, seed, temperature):
        """The same as `sample`, and the noise of the image, to `resume` from."""
        rows = checked_rows(unit=unit, seed=seed, temperature=temperature)
        checks = self._check(rows["unit"], rows["temperature"])
        return self._new_chains(**after(checks, rows))

    def resume(self, noise, unit, seed, temperature):
        """Chains at given noise, continued at the full tilt: as `start`."""
        rows = checked_rows(noise=noise, unit=unit, seed=seed, temperature=temperature)
        checks = self._check(rows["unit"], rows["temperature"])
        checks.append(_all_finite("noise", rows["noise"]))
        return self._given_chains(**after(checks, rows))

    def evaluate(self, image):
        """f, log_density [units] and log_q of images of the network's pixels."""
        rows = checked_rows(image=image)
        rows = after([_all_finite("image", rows["image"])], rows)
        with read_once(self._read):
            return tf.map_fn(
                self._evaluated,
                rows["image"],
                fn_output_signature=self._evaluation_specs(),
                parallel_iterations=_AT_ONCE,
            )

    # Rows

    def _run(self, **rows):
        """Every row by itself: dict of [rows, ...] -> dict of [rows, ...]."""
        with read_once(self._read):
            return tf.map_fn(
                lambda row: self._answer(**row),
                rows,
                fn_output_signature=self._specs(),
                parallel_iterations=_AT_ONCE,
            )

    def _answer(self, unit, seed, temperature, noise=None):
        """One row: the end of its chain, and what is known of it."""
        scale = tf.gather(self._scale, unit) / temperature
        of_start, of_steps, of_resumed = tf.unstack(tf.random.split(seed, 3))
        if noise is None:
            shape = self._first.base.event_shape
            noise = tf.random.stateless_normal([1, *shape], of_start)
            first = 0
        else:
            noise, of_steps = noise[None], of_resumed
            first = self.schedule.num_rising
        chain = self._chain
        if self._jit_compile:
            chain = tf.function(chain, jit_compile=True, autograph=False)
        noise, f, accept_rate = chain(noise, unit, scale, of_steps, first)
        images = self._first.to_images(noise)
        log_density = scale * f + self._first.reference.log_prob(images)[0]
        answer = {
            "image": self._bytes(images[0]),
            "f": f,
            "log_density": log_density,
            "accept_rate": accept_rate,
            "converged": self._is_converged(unit, temperature, f, accept_rate),
            "noise": noise[0],
        }
        if self._log_partition is not None:
            log_z = tf.gather(self._log_z(temperature), unit)
            answer["log_prob"] = log_density - log_z
        return answer

    def _chain(self, noise, unit, scale, seed, first):
        """Noise [1, ...] after the iterations from `first` on, f, share accepted."""
        schedule = self.schedule
        last = schedule.num_iterations
        step_size = tf.gather(schedule.step_size, unit)
        num_steps = tf.gather(schedule.num_leapfrog_steps, unit)
        seeds = chain_seeds(seed, tf.range(last))

        response = Response(
            lambda noise: self._choice(self._first.to_images(noise), unit)
        )

        def iterate(i, noise, f, gradient, accepted):
            factor = tf.maximum(scale * tf.gather(schedule.rise, i), _WEAKEST)
            kernel = SplitHamiltonianMonteCarlo(
                response.times(factor),
                step_size[i],
                num_steps[i],
                is_adjusted=tf.gather(schedule.is_adjusted, i),
            )
            here = kernel.results_of(noise, factor * f, factor * gradient)
            noise, results = kernel.one_step(noise, here, seed=seeds[i][None])
            there = results.accepted_results
            counts = tf.cast(i >= schedule.num_rising, tf.float32)
            accepted += counts * tf.cast(results.is_accepted[0], tf.float32)
            (gradient,) = there.grads_target_log_prob
            return (
                i + 1,
                noise,
                there.target_log_prob / factor,
                gradient / factor,
                accepted,
            )

        f, gradient = response.value_and_gradient(noise)
        _, noise, f, _, accepted = tf.while_loop(
            lambda i, *_: i < last,
            iterate,
            (first, noise, f, gradient, 0.0),
            parallel_iterations=1,
        )
        return noise, f[0], accepted / (last - schedule.num_rising)

    def _evaluated(self, image):
        f = self._choice.every(image[None])[0]
        log_q = self._first.reference.log_prob(image[None])[0]
        log_density = self._scale * f + log_q
        answer = {"f": f, "log_q": log_q, "log_density": log_density}
        if self._log_partition is not None:
            answer["log_prob"] = log_density - self._log_z(1.0)
        return answer

    def _bytes(self, image):
        """uint8 of pixels: low is 0, high is 255, what is beyond is cut."""
        low, high = self._range
        shares = tf.clip_by_value((image - low) / (high - low), 0.0, 1.0)
        return tf.cast(tf.round(255.0 * shares), tf.uint8)

    def _is_converged(self, unit, temperature, f, accept_rate):
        """Of a unit and in a range that are certified, and of a chain that moved."""
        inside = temperature >= self._temperatures.min()
        inside &= temperature <= self._temperatures.max()
        moved = tf.math.is_finite(f) & (accept_rate > 0.0)
        return tf.gather(self._certified, unit) & inside & moved

    def _log_z(self, temperature):
        """log Z [units] at a temperature at which it is known; elsewhere NaN."""
        known = tf.equal(self._temperatures, temperature)[:, None]
        log_z = tf.constant(self._log_partition, tf.float32)
        found = tf.reduce_sum(tf.where(known, log_z, 0.0), axis=0)
        return tf.where(tf.reduce_any(known), found, math.nan)

    def _specs(self):
        specs = {
            "image": tf.TensorSpec(self.shape, tf.uint8),
            "noise": tf.TensorSpec(self._first.base.event_shape),
            "converged": tf.TensorSpec([], tf.bool),
        }
        names = ["f", "log_density", "accept_rate", *self._normalized]
        return specs | {name: tf.TensorSpec([]) for name in names}

    def _evaluation_specs(self):
        specs = {"log_q": tf.TensorSpec([])}
        names = ["f", "log_density", *self._normalized]
        return specs | {name: tf.TensorSpec([self.num_units]) for name in names}

    @property
    def _normalized(self):
        return [] if self._log_partition is None else ["log_prob"]

    # Checks in the graph

    def _errors(self, unit, temperature):
        """A sentence for each bad row, an empty one for the others: [rows]."""
        beyond = (unit < 0) | (unit >= self.num_units)
        bad = ~((temperature > 0.0) & tf.math.is_finite(temperature))
        of_unit = tf.strings.join(
            [
                f"`unit` must lie in 0..{self.num_units - 1}. Received: ",
                tf.strings.as_string(unit),
                ". ",
            ]
        )
        of_temperature = tf.strings.join(
            [
                "`temperature` must be positive and finite. Received: ",
                tf.strings.as_string(temperature, shortest=True),
                ". Pass 1 for the density itself.",
            ]
        )
        parts = [tf.where(beyond, of_unit, ""), tf.where(bad, of_temperature, "")]
        return tf.strings.strip(tf.strings.join(parts))

    def _check(self, unit, temperature):
        errors = self._errors(unit, temperature)
        bad = tf.where(errors != "")[:, 0]
        rows = tf.strings.as_string(bad)
        sentences = tf.strings.join(["Row ", rows, ": ", tf.gather(errors, bad)])
        return [tf.debugging.Assert(tf.size(bad) == 0, [sentences])]


class ServedClassifier(tf.Module):
    """A classifier of images of bytes.

        p(y | x)  = softmax over y of F_y(x) + b_y
        log p(x)  = log sum over y of exp(F_y(x) + b_y) + log q(x) + constant

    The sum over y is the density of all classes together, each with its own share,
    relative to that of the images q that the network was trained on: b_y = log rho_y -
    log Z_y of a calibrated `GenerativeClassifier`. Of any other network b_y is 0, and
    the sum is what its logits say of it.

    A network that ends in sigmoids gives labels that may hold beside each other:

        p(label y | x) = sigmoid of F_y(x)

    Its probabilities are these. No label is the class, and exp(F_y) is no density of
    images: `class`, `class_name` and `log_density` are not in the answer.

    Args:
        model: `keras.Model`, images [n, height, width, channels] -> logits; a softmax,
            a sigmoid or the like at its end is left out, and makes the probabilities.
        low: pixel that byte 0 stands for.
        high: pixel that byte 255 stands for.
        class_names: list of text, one for each class or label.
        preprocess: None, or a function of pixels, as in `keras_tilt.unit`.

    Attributes:
        functions: dict, name of a signature -> the graph of its function.
        has_classes: False for a network of labels.

    Raises:
        ValueError: for a model without logits of two classes or more, or of labels;
            probabilities whose logits are out of reach; pixels that are no range; or
            another number of names.

    Source: Dai, Lu and Wu (2015), section 2; Grathwohl et al. (2020), "Your classifier
    is secretly an energy based model and you should treat it like one", for the sum
    over classes as a density.
    """

    def __init__(self, model, low, high, class_names, preprocess=None):
        super().__init__(name="classifier")
        _check_range(low, high)
        of_first = unit(model, class_index=0, preprocess=preprocess)
        ((self._logits, weights),) = of_first.terms
        network = graph.network_of(model)
        _, self._activation = output_activations.output_activation(network)
        self.has_classes = not output_activations.of_labels(self._activation)
        _check_names(class_names, len(weights), self.has_classes)
        self.shape = of_first.input_shape
        self._bias = None if network is model else model.calibration_bias.value
        read = variables_of(self._logits)
        self._weights = [variable.value for variable in read]  # to be saved
        self._range = np.array([low, high], np.float32)
        self.class_names = tuple(as_names("class_names", class_names))

    @functools.cached_property
    def functions(self):
        image = tf.TensorSpec([None, *self.shape], tf.uint8, "image")
        encoded = tf.TensorSpec([None], tf.string, "image_bytes")
        return {
            "serving_default": traced(self.classify, image),
            "classify_bytes": traced(self.classify_bytes, encoded),
        }

    def classify(self, image):
        """logits, probabilities [classes]; of classes log_density, class, name."""
        (image,) = checked_rows(image=image).values()
        return self._classified(tf.cast(image, tf.float32))

    def classify_bytes(self, image_bytes):
        """The same of JPEG, PNG or BMP files, upright and in the network's size."""
        (image_bytes,) = checked_rows(image_bytes=image_bytes).values()
        images = tf.map_fn(
            self._file_pixels,
            image_bytes,
            fn_output_signature=tf.TensorSpec(self.shape),
        )
        return self._classified(images)

    def _file_pixels(self, data):
        """Of one file, its pixels 0 ... 255 in the network's size."""
        *size, channels = self.shape
        resized = tf.image.resize(upright(data, channels), size, antialias=True)
        return tf.clip_by_value(resized, 0.0, 255.0)

    def _classified(self, images):
        low, high = self._range
        logits = self._logits(low + (high - low) * images / 255.0)
        if self._bias is not None:
            logits += self._bias
        probabilities = output_activations.probabilities(self._activation, logits)
        answer = {"logits": logits, "probabilities": probabilities}
        if not self.has_classes:
            return answer
        index = tf.argmax(logits, axis=1, output_type=tf.int32)
        return answer | {
            "log_density": tf.reduce_logsumexp(logits, axis=1),
            "class": index,
            "class_name": tf.gather(tf.constant(self.class_names), index),
        }


# Checks


def _all_finite(name, rows):
    finite = tf.math.is_finite(rows)
    bad = tf.size(finite) - tf.math.count_nonzero(finite, dtype=tf.int32)
    return tf.debugging.Assert(
        bad == 0, [f"`{name}` must be finite. Received: NaN or infinite numbers, ", bad]
    )


def _where(good, values):
    """Rows of values where they are good; elsewhere NaN, zeros or False."""
    blank = math.nan if values.dtype.is_floating else 0
    rows = [-1] + [1] * (values.shape.rank - 1)
    return tf.where(tf.reshape(good, rows), values, tf.cast(blank, values.dtype))


def _check_tilts(tilts, low, high):
    _check_range(low, high)
    if any(tilt.reference is not tilts[0].reference for tilt in tilts):
        raise ValueError(
            "The tilts of a sampler must have one reference. Received: several, of "
            f"{len(tilts)} tilts. Make it once, or export a sampler for each."
        )
    if not is_standard_normal(tilts[0].base):
        raise ValueError(
            "The noise of the reference must be N(0, I). Received: "
            f"{tilts[0].base.name!r}. Pass for example white_noise(shape)."
        )
    if len(tilts[0].event_shape) != 3:
        raise ValueError(
            "A sampler is of images [height, width, channels]. Received: "
            f"{list(tilts[0].event_shape)}. Reshape them."
        )
    image = tilts[0].to_images(tf.zeros([1, *tilts[0].base.event_shape]))
    try:
        tilts[0].reference.log_prob(image)
    except NotImplementedError as error:
        raise ValueError(
            "The reference must have a density of images. Received: "
            f"{tilts[0].reference.name!r}, which has none. Pass another."
        ) from error


def _check_range(low, high):
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(
            "`low` and `high` must be finite pixels, black below white. Received: "
            f"{low!r}, {high!r}. Pass for example 0 and 255."
        )


def _check_names(names, num_classes, has_classes):
    if has_classes and num_classes < 2:
        raise ValueError(
            "A classifier has two classes or more. Received: a network of one output. "
            "Give it a second one."
        )
    if len(names) != num_classes:
        raise ValueError(
            f"`class_names` must be {num_classes} names, one for each class. Received: "
            f"{len(names)}. Name them all."
        )
