"""A sampler as functions of a server: a batch of requests in, no state.

    sample     unit, seed, temperature -> image,    image ~ exp(f / temperature) q / Z
    evaluate   image -> f of all units, log q, log densities

Each request for a sample has a chain of its own: it starts from a draw of q, the tilt
rises, and its random numbers are those of its seed. The network takes images one at a
time, since a convolution may round differently at another place in a batch or in a
batch of another size. Hence equal requests give equal answers, bit for bit, whatever
else is in the batch. How long a chain is is fixed in the graph: no client can change
it.

Source: Dai, Lu and Wu (2015) for the densities; for the chains see
`keras_tilt.serving.chain`.
"""

__all__ = ["ServedSampler", "requests_of"]

import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tilt.reference.distributions import is_standard_normal
from keras_tilt.sampling.tilt_groups import checked_tilts
from keras_tilt.serving.answers import Answers
from keras_tilt.serving.image_bytes import PixelRange
from keras_tilt.serving.requests import (
    Signatures,
    after,
    checked_requests,
    each_request,
    traced,
)
from keras_tilt.serving.schedule import Schedule
from keras_tilt.tilt import Tilt
from keras_tilt.units.groups import choice, variables_of

_AT_ONCE = 16  # requests that may run side by side, each in its own piece of graph


class ServedSampler(tf.Module):
    """Samplers of several units of one reference, a chain for each request.

    Args:
        tilts: a `Tilt`, or a list of them, of one reference, a transport of N(0, I).
        schedule: a `Schedule` of as many units.
        low: pixel that is black, byte 0 of an image.
        high: pixel that is white, byte 255.
        certified: [units], whether chains of the schedule were found to converge; empty
            for none.
        temperatures: those of the certificates; an answer counts as converged only
            within their range.
        log_partition: None, or log Z [temperatures, units], NaN where it is not known.
        jit_compile: whether chains are compiled by XLA, which stock servers refuse.

    Attributes:
        functions: mapping, name of a signature -> the graph of its function, made when
            it is first asked for.
        shape: of an image, (height, width, channels).
        num_units: how many there are.
        schedule: as passed.
        jit_compile: as passed.

    Raises:
        TypeError: for anything but tilts.
        ValueError: for tilts of several references, noise that is not N(0, I), or
            pixels that are not a range.
    """

    def __init__(
        self,
        tilts: Tilt | Sequence[Tilt],
        schedule: Schedule,
        low: float,
        high: float,
        certified: Sequence[bool] = (),
        temperatures: Sequence[float] = (1.0,),
        log_partition: ArrayLike | None = None,
        jit_compile: bool = False,
    ):
        super().__init__(name="sampler")
        checked, pixels = checked_tilts(tilts), PixelRange(low, high)
        _check_tilts(checked)
        self._first = checked[0]
        self.shape = self._first.event_shape
        self.num_units = len(checked)
        self.schedule = schedule
        self.jit_compile = jit_compile
        self._answers = Answers(
            self._first,
            choice([tilt.unit for tilt in checked]),
            np.array([tilt.scale for tilt in checked], np.float32),
            schedule,
            pixels,
            np.asarray(certified if len(certified) else [False] * len(checked), bool),
            np.asarray(temperatures, np.float32),
            log_partition,
            jit_compile,
        )
        self._weights = [variable.value for variable in self._read]  # to be saved

    @functools.cached_property  # as of a Keras variable, of which it saves two
    def _read(self):
        return variables_of(self._answers.read)

    # Signatures

    @functools.cached_property  # of which TensorFlow does not know, nor saves it twice
    def functions(self) -> Mapping[str, tf.types.experimental.ConcreteFunction]:
        """The graphs of all signatures, by name."""
        request = list(self._request_specs.values())
        image = tf.TensorSpec([None, *self.shape], name="image")
        functions = {
            "serving_default": (self.sample, *request),
            "sample_each": (self.sample_each, *request),
            "start": (self.start, *request),
            "resume": (self.resume, self._noise_spec, *request),
            "evaluate": (self.evaluate, image),
        }
        if self.shape[-1] in (1, 3, 4):
            functions["sample_png"] = (self.sample_png, *request)
        return Signatures(functions)

    @property
    def _request_specs(self):
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
        return traced(self._draws, **self._request_specs)

    @functools.cached_property
    def _given_chains(self):
        return traced(self._draws, noise=self._noise_spec, **self._request_specs)

    def _draws(self, **requests):
        answers, specs = self._answers, self._answers.specs_of_draw
        return each_request(answers.draw, requests, specs, self._read, _AT_ONCE)

    def sample(
        self, unit: tf.Tensor, seed: tf.Tensor, temperature: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Return a draw for each request.

        Args:
            unit: [requests] int32, places in the list of tilts.
            seed: [requests, 2] int32; equal seeds give equal draws.
            temperature: [requests] float32, f is divided by it.

        Returns:
            image: [requests, height, width, channels] uint8.
            f: [requests], nats.
            log_density: [requests], scale f / temperature + log q, nats; where the
                reference has no density of images, log N(z; 0, I) of the noise in
                place of log q.
            accept_rate: [requests], of the iterations at the full tilt.
            converged: [requests], whether a certificate says so, and the chain moved.
            log_prob: [requests], nats, if log Z is known.
        """
        answer = self.start(unit, seed, temperature)
        answer.pop("noise")
        return answer

    def sample_png(
        self, unit: tf.Tensor, seed: tf.Tensor, temperature: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Return what `sample` does, with images as PNG files, `png_bytes`."""
        answer = self.sample(unit, seed, temperature)
        image = answer.pop("image")
        encoded = tf.map_fn(tf.io.encode_png, image, fn_output_signature=tf.string)
        return answer | {"png_bytes": encoded}

    def sample_each(
        self, unit: tf.Tensor, seed: tf.Tensor, temperature: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Return what `sample` does; an invalid request does not fail the others.

        Returns:
            error: [requests], a message for each invalid one, whose other answers are
                NaN, 0 or False; else empty.
        """
        requests = checked_requests(unit=unit, seed=seed, temperature=temperature)
        errors = self._errors_of(requests)
        valid = errors == ""
        drawn = self._new_chains(
            seed=requests["seed"],
            unit=tf.where(valid, requests["unit"], 0),
            temperature=tf.where(valid, requests["temperature"], 1.0),
        )
        drawn.pop("noise")
        answer = {name: _where(valid, value) for name, value in drawn.items()}
        return answer | {"error": errors}

    def start(
        self, unit: tf.Tensor, seed: tf.Tensor, temperature: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Return what `sample` does, and the noise of the images, to `resume` from."""
        requests = checked_requests(unit=unit, seed=seed, temperature=temperature)
        checks = [_all_valid(self._errors_of(requests))]
        return self._new_chains(**after(checks, requests))

    def resume(
        self,
        noise: tf.Tensor,
        unit: tf.Tensor,
        seed: tf.Tensor,
        temperature: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """Return what `start` does, of chains resumed from noise at the full tilt."""
        requests = checked_requests(
            noise=noise, unit=unit, seed=seed, temperature=temperature
        )
        checks = [
            _all_valid(self._errors_of(requests)),
            _all_finite("noise", requests["noise"]),
        ]
        return self._given_chains(**after(checks, requests))

    def evaluate(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return f and log densities of images; f alone if images have no density.

        Args:
            image: [requests, height, width, channels], pixels of the network.

        Returns:
            f: [requests, units], nats.
            log_density: [requests, units], scale f + log q, nats.
            log_q: [requests], nats.
            log_prob: [requests, units], nats, if log Z is known.
        """
        requests = checked_requests(image=image)
        requests = after([_all_finite("image", requests["image"])], requests)
        answers, specs = self._answers, self._answers.specs_of_evaluate
        return each_request(answers.evaluate, requests, specs, self._read, _AT_ONCE)

    def _errors_of(self, requests):
        return _errors(requests["unit"], requests["temperature"], self.num_units)


def requests_of(
    unit: int, seeds: ArrayLike, temperature: float = 1.0
) -> dict[str, np.ndarray]:
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
    """A message for each invalid request, an empty one for the others: [requests]."""
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


def _all_valid(errors):
    """An assertion that names the requests that have an error."""
    bad = tf.where(errors != "")[:, 0]
    numbers = tf.strings.as_string(bad)
    messages = tf.strings.join(["Request ", numbers, ": ", tf.gather(errors, bad)])
    return tf.debugging.Assert(tf.size(bad) == 0, [messages])


def _all_finite(name, values):
    finite = tf.math.is_finite(values)
    bad = tf.size(finite) - tf.math.count_nonzero(finite, dtype=tf.int32)
    return tf.debugging.Assert(
        bad == 0, [f"`{name}` must be finite. Received: NaN or infinite numbers, ", bad]
    )


def _where(valid, values):
    """Values of the valid requests; of the others NaN, zeros or False."""
    blank = math.nan if values.dtype.is_floating else 0
    shape = [-1] + [1] * (values.shape.rank - 1)
    return tf.where(tf.reshape(valid, shape), values, tf.cast(blank, values.dtype))


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
            "A sampler must have images [height, width, channels]. Received: "
            f"{list(tilts[0].event_shape)}. Reshape them."
        )
