"""The answer to one request: the end of its chain, or the densities of its image.

    draw       unit, seed, temperature [, noise] -> image, f, log p + constant, ...
    evaluate   image -> f of every unit, log q, log p + constant

Where a reference has no density of images, as that of a generator, log p is of the
noise z of an image: scale f(T(z)) + log N(z; 0, I) - log Z.

Source: Dai, Lu and Wu (2015), for the densities.
"""

__all__ = ["Answers"]

import dataclasses
import functools
import math

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tilt.reference.generators import generators_of, has_density
from keras_tilt.serving.chain import end_of_chain
from keras_tilt.serving.image_bytes import PixelRange
from keras_tilt.serving.schedule import Schedule
from keras_tilt.tilt import Tilt
from keras_tilt.units.groups import UnitChoice


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """Functions of one request, of several units of one reference.

    No part of the served module, which would save the network with all its functions.

    Attributes:
        first: `Tilt` of the first unit, with the reference of all.
        f_of: (images [1, ...], unit []) -> f of that unit [1]; `f_of.every(images)`
            returns f of all units, [1, units].
        scale: [units], of the tilts.
        schedule: a `Schedule` of as many units.
        pixels: what is black and white in an image.
        certified: [units], whether chains of the schedule were found to converge.
        temperatures: those at which they were.
        log_partition: None, or log Z [temperatures, units], NaN where it is not known.
        jit_compile: whether chains are compiled by XLA.
    """

    first: Tilt
    f_of: UnitChoice
    scale: np.ndarray
    schedule: Schedule
    pixels: PixelRange
    certified: np.ndarray
    temperatures: np.ndarray
    log_partition: ArrayLike | None
    jit_compile: bool

    def draw(
        self,
        unit: tf.Tensor,
        seed: tf.Tensor,
        temperature: tf.Tensor,
        noise: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """Return the end of a chain, and what is known of it.

        Args:
            unit: [].
            seed: [2]; by equal seeds a chain that goes on draws other numbers than one
                that starts.
            temperature: [], f is divided by it.
            noise: None, or [...], where a chain goes on at the full tilt.
        """
        scale = tf.gather(self.scale, unit) / temperature
        of_start, of_steps, of_resumed = tf.unstack(tf.random.split(seed, 3))
        if noise is None:
            shape = self.first.base.event_shape
            noise = tf.random.stateless_normal([1, *shape], of_start)
            first = 0
        else:
            noise, of_steps = noise[None], of_resumed
            first = self.schedule.num_rising
        chain = self._end_of_chain
        if self.jit_compile:
            chain = tf.function(chain, jit_compile=True, autograph=False)
        noise, f, accept_rate = chain(unit, noise, scale, of_steps, first)
        images = self.first.to_images(noise)
        log_density = scale * f + self._log_reference(images, noise)[0]
        answer = {
            "image": self.pixels.bytes_of(images[0]),
            "f": f,
            "log_density": log_density,
            "accept_rate": accept_rate,
            "converged": self._is_converged(unit, temperature, f, accept_rate),
            "noise": noise[0],
        }
        if self.log_partition is not None:
            log_z = tf.gather(self._log_z(temperature), unit)
            answer["log_prob"] = log_density - log_z
        return answer

    def evaluate(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return f and log densities of every unit, [units], of one image.

        Of a reference without a density of images, f alone.
        """
        f = self.f_of.every(image[None])[0]
        if not self.has_density:
            return {"f": f}
        log_q = self.first.reference.log_prob(image[None])[0]
        log_density = self.scale * f + log_q
        answer = {"f": f, "log_q": log_q, "log_density": log_density}
        if self.log_partition is not None:
            answer["log_prob"] = log_density - self._log_z(1.0)
        return answer

    @functools.cached_property
    def specs_of_draw(self) -> dict[str, tf.TensorSpec]:
        """What `draw` returns."""
        specs = {
            "image": tf.TensorSpec(self.first.event_shape, tf.uint8),
            "noise": tf.TensorSpec(self.first.base.event_shape),
            "converged": tf.TensorSpec([], tf.bool),
        }
        names = ["f", "log_density", "accept_rate", *self._normalized]
        return specs | {name: tf.TensorSpec([]) for name in names}

    @functools.cached_property
    def specs_of_evaluate(self) -> dict[str, tf.TensorSpec]:
        """What `evaluate` returns."""
        if not self.has_density:
            return {"f": tf.TensorSpec(self.scale.shape)}
        specs = {"log_q": tf.TensorSpec([])}
        names = ["f", "log_density", *self._normalized]
        return specs | {name: tf.TensorSpec(self.scale.shape) for name in names}

    @functools.cached_property
    def has_density(self) -> bool:
        """Whether images have a density; if not, their noise has."""
        return has_density(self.first.reference)

    @property
    def read(self) -> tuple:
        """The networks of the units and of the reference."""
        return self.f_of, *generators_of(self.first.reference)

    def _log_reference(self, images, noise):
        """log q(x), or log N(z; 0, I) where only noise has a density."""
        if self.has_density:
            return self.first.reference.log_prob(images)
        return self.first.base.log_prob(noise)

    @property
    def _normalized(self):
        return [] if self.log_partition is None else ["log_prob"]

    def _end_of_chain(self, unit, noise, scale, seed, first):
        def f(noise):
            return self.f_of(self.first.to_images(noise), unit)

        autograph = not self.f_of.is_of_networks
        return end_of_chain(
            f, self.schedule, unit, noise, scale, seed, first, autograph
        )

    def _is_converged(self, unit, temperature, f, accept_rate):
        """Of a unit and in a range that are certified, and of a chain that moved."""
        inside = temperature >= self.temperatures.min()
        inside &= temperature <= self.temperatures.max()
        moved = tf.math.is_finite(f) & (accept_rate > 0.0)
        return tf.gather(self.certified, unit) & inside & moved

    def _log_z(self, temperature):
        """log Z [units] at a temperature at which it is known; elsewhere NaN."""
        known = tf.equal(self.temperatures, temperature)[:, None]
        log_z = tf.constant(self.log_partition, tf.float32)
        found = tf.reduce_sum(tf.where(known, log_z, 0.0), axis=0)
        return tf.where(tf.reduce_any(known), found, math.nan)
