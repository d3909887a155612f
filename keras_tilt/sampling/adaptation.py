"""The warm-up: the tilt rises, the step size follows it, and then both are frozen.

    scale(i)   rises to 1 in the first part of the warm-up
    log step  += gain (acceptance - target)
    step       = exp(mean of log step over the last iterations)
    steps      = ceil(trajectory length / step),     trajectory length = pi / 2

An adapting chain has no stationary density: after the warm-up nothing is adapted. While
the tilt is weak the chains move in long steps, and find their way to the modes of a
strong one. Without a tilt a trajectory of length pi / 2 replaces the noise by the
momentum, an independent draw; longer ones come back, and shorter ones diffuse.

Source: Robbins and Monro (1951) for the adaptation, Polyak and Juditsky (1992) for the
mean, Kesten (1958) for a gain that falls by changes of sign; Kirkpatrick, Gelatt and
Vecchi (1983) for annealing.
"""

__all__ = [
    "QUARTER_TURN",
    "StepSize",
    "annealed_scale",
    "jittered",
    "leapfrog_steps",
    "num_rising",
]

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

QUARTER_TURN = math.pi / 2  # trajectory length that replaces noise by momentum

_ANNEALED = 0.4  # share of the warm-up in which the tilt rises
_GAIN = 1.0  # a step always accepted grows by a fifth, one never accepted halves
_GAIN_OF_GUESS = 2.0  # of a first step that is a guess, until one is on the other side
_DECAY = 0.6  # of the gain, once the tilt has risen
_UNSETTLED = 0.5  # share of the iterations at full tilt that the mean leaves out


def annealed_scale(iteration: int, num_burnin_steps: int) -> float:
    """Return the factor of the tilt in an iteration of the warm-up, in (0, 1]."""
    return min(1.0, (iteration + 1) / (_ANNEALED * num_burnin_steps + 1))


def num_rising(num_burnin_steps: int) -> int:
    """Return the iterations of a warm-up before the tilt is at its full scale."""
    iterations = range(num_burnin_steps)
    return sum(annealed_scale(i, num_burnin_steps) < 1 for i in iterations)


class StepSize(NamedTuple):
    """Step sizes while they are adapted, one per tilt.

    On a ladder of temperatures every [tilts] is [tilts, ladder].

    Attributes:
        log_step: [tilts], in use.
        log_mean: [tilts], mean of log_step over the settled iterations.
        num_settled: [], how many those are.
        sign: [tilts], whether more was accepted last than the target, 1, or less, -1.
        num_changes: [tilts], how often that has changed.
    """

    log_step: np.ndarray
    log_mean: np.ndarray
    num_settled: np.ndarray
    sign: np.ndarray
    num_changes: np.ndarray

    @classmethod
    def first(cls, step_size: float, shape: int | Sequence[int]) -> "StepSize":
        """Return one step size for all tilts, before any iteration."""
        log_step = np.full(shape, math.log(step_size))
        zeros = np.zeros(shape)
        return cls(log_step, zeros, np.array(0), zeros, zeros)

    @classmethod
    def restored(cls, saved: Mapping[str, np.ndarray]) -> "StepSize":
        """Return the step sizes of a run that was saved, by the names of the fields.

        Raises:
            ValueError: if some are missing, as in a run of another version.
        """
        missing = [name for name in cls._fields if name not in saved]
        if missing:
            raise ValueError(
                "`directory` must hold a run of this version of keras_tilt. Received: "
                f"one without {', '.join(missing)}. Pass another folder."
            )
        return cls(*(saved[name] for name in cls._fields))

    def learn(
        self,
        accept_prob: np.ndarray,
        target: float,
        iteration: int,
        num_burnin_steps: int,
        longest: float = math.inf,
        begun: float = 0.0,
    ) -> "StepSize":
        """Return longer steps where more was accepted than the target, or shorter ones.

        Args:
            accept_prob: [tilts], mean over chains, in iteration `iteration`.
            target: of the acceptance.
            iteration: 0 ... num_burnin_steps - 1.
            num_burnin_steps: iterations of the warm-up.
            longest: largest step size to use, and to learn: a larger one would take
                iterations to come back when a stronger tilt needs a smaller one.
            begun: iteration before which nothing was learned. The first step is then a
                guess, and the gain falls each time that the acceptance passes the
                target, in place of each iteration.
        """
        error = accept_prob - target
        sign = np.where(error == 0, self.sign, np.sign(error))
        num_changes = self.num_changes + (sign * self.sign < 0)
        risen = max(_ANNEALED * num_burnin_steps, begun)
        if begun:
            gain = _GAIN_OF_GUESS * (1 + num_changes) ** -_DECAY
        else:
            gain = _GAIN * (1 + max(0.0, iteration - risen)) ** -_DECAY
        log_step = self.log_step + gain * error
        log_step = np.minimum(log_step, math.log(longest))
        learned = self._replace(log_step=log_step, sign=sign, num_changes=num_changes)
        if iteration < risen + _UNSETTLED * (num_burnin_steps - risen):
            return learned
        count = self.num_settled + 1
        log_mean = self.log_mean + (log_step - self.log_mean) / count
        return learned._replace(log_mean=log_mean, num_settled=count)

    @property
    def current(self) -> np.ndarray:
        """The step size to use next, [tilts]."""
        return np.exp(self.log_step)

    @property
    def settled(self) -> np.ndarray:
        """The step size to freeze, [tilts]."""
        return np.exp(self.log_mean if self.num_settled else self.log_step)


def leapfrog_steps(step_size: ArrayLike, length: float, most: int) -> int:
    """Return how many of the smallest steps a trajectory of a length takes."""
    return int(np.clip(np.ceil(length / np.min(step_size)), 1, most))


def jittered(num_leapfrog_steps: int, seed: Sequence[int], iteration: int) -> int:
    """Return a number of steps that varies by iteration, with the given mean.

    Uniform on ceil(n / 2) ... n + floor(n / 2). With a fixed length, directions that
    the trajectory brings back to their start would never mix.

    Args:
        num_leapfrog_steps: n.
        seed: pair of whole numbers.
        iteration: equal iterations and seeds give equal numbers.
    """
    key = [int(part) & 0xFFFFFFFF for part in seed]
    random = np.random.Generator(np.random.Philox(key=key, counter=iteration))
    spread = num_leapfrog_steps // 2
    return int(random.integers(-spread, spread + 1)) + num_leapfrog_steps
