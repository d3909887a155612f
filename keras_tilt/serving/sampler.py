"""A sampler as functions of a server: rows in, rows out, no state.

    sample     unit, seed, temperature -> image,    image ~ exp(f / temperature) q / Z
    evaluate   image -> f of all units, log q, log densities

A row of `sample` is a chain of its own: it starts from a draw of q, the tilt rises, and
its random numbers are those of its seed. The network sees rows one at a time, never in
a batch, because a convolution may round differently at another place or size of it: a
row is the same, bit for bit, whatever stands beside it. How long a chain is is in the
graph, and no client can change it.

Source: Dai, Lu and Wu (2015) for the densities; for the chains see
`keras_tilt.serving.chain`.
"""

__all__ = ["ServedSampler", "requests_of"]

import functools
import math

import numpy as np
import tensorflow as tf

from keras_tilt.sampling.chains import is_standard_normal
from keras_tilt.sampling.tilt_groups import checked_tilts
from keras_tilt.serving.answers import Answers
from keras_tilt.serving.image_bytes import PixelRange
from keras_tilt.serving.requests import after, checked_rows, each_row, traced
from keras_tilt.units.groups import choice, variables_of

_AT_ONCE = 16  # rows that may run beside each other, each in its own piece of graph


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
        tilts, pixels = checked_tilts(tilts), PixelRange(low, high)
        _check_tilts(tilts)
        certified = certified if len(certified) else [False] * len(tilts)
        self._first = tilts[0]
        self.shape = tilts[0].event_shape
        self.num_units = len(tilts)
        self.schedule = schedule
        self.jit_compile = jit_compile
        self._answers = Answers(
            tilts[0],
            choice([tilt.unit for tilt in tilts]),
            np.array([tilt.scale for tilt in tilts], np.float32),
            schedule,
            pixels,
            np.asarray(certified, bool),
            np.asarray(temperatures, np.float32),
            log_partition,
            jit_compile,
        )
        self._weights = [variable.value for variable in self._read]  # to be saved

    @functools.cached_property  # as of a Keras variable, of which it saves two
    def _read(self):
        return variables_of(self._answers.f_of)

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
        errors = self._errors_of(rows)
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
        checked = after([_no_errors(self._errors_of(rows))], rows)
        return self._new_chains(**checked)

    def resume(self, noise, unit, seed, temperature):
        """Chains at given noise, continued at the full tilt: as `start`."""
        rows = checked_rows(noise=noise, unit=unit, seed=seed, temperature=temperature)
        checks = [
            _no_errors(self._errors_of(rows)),
            _all_finite("noise", rows["noise"]),
        ]
        return self._given_chains(**after(checks, rows))

    def evaluate(self, image):
        """f, log_density [units] and log_q of images of the network's pixels."""
        rows = checked_rows(image=image)
        rows = after([_all_finite("image", rows["image"])], rows)
        answers, specs = self._answers, self._answers.specs_of_evaluate
        return each_row(answers.evaluate, rows, specs, self._read, _AT_ONCE)

    def _run(self, **rows):
        """Every row by itself: dict of [rows, ...] -> dict of [rows, ...]."""
        answers = self._answers
        return each_row(answers.draw, rows, answers.specs_of_draw, self._read, _AT_ONCE)

    def _errors_of(self, rows):
        return _errors(rows["unit"], rows["temperature"], self.num_units)


def requests_of(unit, seeds, temperature=1.0):
    """Return requests for draws of one unit, as arrays.

    Args:
        unit: its place in the list of tilts.
        seeds: [requests], whole numbers; the pairs of a signature are (0, seed).
        temperature: f is divided by it.
    """
    seeds = np.asarray(seeds, np.int32)
    return {
        "unit": np.full(len(seeds), unit, np.int32),
        "seed": np.stack([np.zeros_like(seeds), seeds], axis=1),
        "temperature": np.full(len(seeds), temperature, np.float32),
    }


# Checks in the graph


def _errors(unit, temperature, num_units):
    """A sentence for each bad row, an empty one for the others: [rows]."""
    beyond = (unit < 0) | (unit >= num_units)
    bad = ~((temperature > 0.0) & tf.math.is_finite(temperature))
    of_unit = tf.strings.join(
        [
            f"`unit` must lie in 0..{num_units - 1}. Received: ",
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


def _no_errors(errors):
    """An assertion that names the rows that have one."""
    bad = tf.where(errors != "")[:, 0]
    rows = tf.strings.as_string(bad)
    sentences = tf.strings.join(["Row ", rows, ": ", tf.gather(errors, bad)])
    return tf.debugging.Assert(tf.size(bad) == 0, [sentences])


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


def _check_tilts(tilts):
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
