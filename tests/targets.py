"""Tilts with exact answers, against which every part of the library is held.

    p(x) = exp(f(x)) q(x) / Z

| q             | f                    | log Z                                         |
|---------------|----------------------|-----------------------------------------------|
| N(0, s^2 I)   | w.x + b              | b + s^2 w.w / 2                               |
| N(0, s^2 I)   | -sum a_i x_i^2 / 2   | -sum log(1 + s^2 a_i) / 2                     |
| N(0, s^2 I)   | relu(w.x)            | log(1/2 + exp(s^2 w.w / 2) Phi(s |w|))        |
| box [l, h]    | w.x                  | sum log((exp(w h) - exp(w l)) / (w (h - l)))  |
| N(0, s^2 I)   | c                    | c                                             |

Each is itself verified by quadrature and by Monte Carlo in test_targets.py.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from scipy import stats

from keras_tilt.reference.distributions import box, white_noise

SHAPE = (3, 3, 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """A tilt and what is known of it exactly.

    Attributes:
        name: of the test case.
        unit: f, images [n, ...] -> [n], in nats.
        reference: builds q; a function, so that no tensor exists before a test runs.
        log_partition: log Z, in nats.
        mean: [...], of each pixel under p.
        variance: [...], of each pixel under p.
        direction: [...], a vector u of length 1.
        cdf: t -> P(u.x <= t) under p.
        kish_limit: (E_q e^f)^2 / E_q e^2f, the limit of Kish ESS / n.
        scores: images [n, ...] -> [n, pixels], independent N(0, 1) if images ~ p.
        from_scores: the inverse; of standard normal numbers it makes exact draws of p.
    """

    name: str
    unit: Callable
    reference: Callable
    log_partition: float
    mean: np.ndarray
    variance: np.ndarray
    direction: np.ndarray
    cdf: Callable
    kish_limit: float
    scores: Callable
    from_scores: Callable

    def draw(self, num_draws, seed):
        """Exact draws of p: [num_draws, ...], float32."""
        size = (num_draws, self.mean.size)
        scores = np.random.default_rng(seed).standard_normal(size)
        return self.from_scores(scores).astype(np.float32)

    def project(self, images):
        """u.x for images [n, ...]: [n]."""
        return _flat(images) @ self.direction.ravel()

    def p_values(self, images):
        """Kolmogorov-Smirnov along the direction, and of the radius of the scores."""
        radius = np.sum(self.scores(images) ** 2, axis=1)
        return (
            stats.kstest(self.project(images), self.cdf).pvalue,
            stats.kstest(radius, stats.chi2(self.mean.size).cdf).pvalue,
        )


def linear(shape=SHAPE, stddev=2.0, bias=0.7, scale=0.25):
    """f = w.x + b: p = N(s^2 w, s^2 I)."""
    weights = _weights(shape, scale)
    mean, size = stddev**2 * weights, np.linalg.norm(weights)
    return Target(
        name="linear",
        unit=lambda images: _dot(images, weights) + bias,
        reference=lambda: white_noise(shape, 0.0, stddev),
        log_partition=bias + (stddev * size) ** 2 / 2,
        mean=mean,
        variance=np.full(shape, stddev**2),
        direction=weights / size,
        cdf=stats.norm(stddev**2 * size, stddev).cdf,
        kish_limit=np.exp(-((stddev * size) ** 2)),
        scores=lambda images: _flat(images - mean) / stddev,
        from_scores=lambda scores: mean + stddev * scores.reshape(-1, *shape),
    )


def quadratic(shape=SHAPE, stddev=1.5):
    """f = -sum a_i x_i^2 / 2: p = N(0, 1 / (1/s^2 + a_i))."""
    curvature = np.abs(_weights(shape, 0.5)) + 0.1
    variance = 1 / (1 / stddev**2 + curvature)

    def log_partition(factor):
        return -np.sum(np.log1p(stddev**2 * factor * curvature)) / 2

    return Target(
        name="quadratic",
        unit=lambda images: -0.5 * _dot(images**2, curvature),
        reference=lambda: white_noise(shape, 0.0, stddev),
        log_partition=log_partition(1),
        mean=np.zeros(shape),
        variance=variance,
        direction=_first_pixel(shape),
        cdf=stats.norm(0, np.sqrt(variance.flat[0])).cdf,
        kish_limit=np.exp(2 * log_partition(1) - log_partition(2)),
        scores=lambda images: _flat(images / np.sqrt(variance)),
        from_scores=lambda scores: np.sqrt(variance) * scores.reshape(-1, *shape),
    )


def relu(shape=SHAPE, stddev=1.5, scale=0.35):
    """f = relu(w.x): along w half a Gaussian and a shifted one, across w still q.

    With y = u.x / s, u = w / |w| and a = s |w| the density along w is
    exp(relu(a y)) N(y; 0, 1) / Z: N(y; 0, 1) for y < 0, exp(a^2 / 2) N(y; a, 1) above.
    """
    weights = _weights(shape, scale)
    direction = weights / np.linalg.norm(weights)
    slope = stddev * np.linalg.norm(weights)

    def log_partition(slope):
        return np.logaddexp(np.log(0.5), slope**2 / 2 + stats.norm.logcdf(slope))

    share_below = 0.5 / np.exp(log_partition(slope))
    above = stats.truncnorm(-slope, np.inf, loc=slope)
    below = stats.truncnorm(-np.inf, 0)
    mean = (1 - share_below) * above.mean() + share_below * below.mean()
    second = (1 - share_below) * above.moment(2) + share_below * below.moment(2)

    def cdf(y):
        return share_below * below.cdf(y) + (1 - share_below) * above.cdf(y)

    def quantile(share):
        inside = np.clip((share - share_below) / (1 - share_below), 0, 1)
        outside = np.clip(share / share_below, 0, 1)
        return np.where(share < share_below, below.ppf(outside), above.ppf(inside))

    def replace_along(noise, change):
        """Noise [n, pixels] with its component along u changed."""
        along = noise @ direction.ravel()
        return noise + np.outer(change(along) - along, direction.ravel())

    def scores(images):
        return replace_along(_flat(images) / stddev, lambda y: stats.norm.ppf(cdf(y)))

    def from_scores(scores):
        noise = replace_along(scores, lambda score: quantile(stats.norm.cdf(score)))
        return stddev * noise.reshape(-1, *shape)

    return Target(
        name="relu",
        unit=lambda images: tf.nn.relu(_dot(images, weights)),
        reference=lambda: white_noise(shape, 0.0, stddev),
        log_partition=log_partition(slope),
        mean=stddev * mean * direction,
        variance=stddev**2 * (1 + (second - mean**2 - 1) * direction**2),
        direction=direction,
        cdf=lambda t: cdf(t / stddev),
        kish_limit=np.exp(2 * log_partition(slope) - log_partition(2 * slope)),
        scores=scores,
        from_scores=from_scores,
    )


def box_linear(shape=SHAPE, low=-0.5, high=2.0, scale=0.8):
    """f = w.x on a uniform box: independent truncated exponentials."""
    weights = _weights(shape, scale)
    width = high - low
    rate = weights * width

    def log_partition(factor):
        rise = factor * rate
        return np.sum(factor * weights * low + np.log(np.expm1(rise) / rise))

    def share(images):
        return np.expm1(weights * (images - low)) / np.expm1(rate)

    def from_scores(scores):
        shares = stats.norm.cdf(scores.reshape(-1, *shape))
        return low + np.log1p(shares * np.expm1(rate)) / weights

    return Target(
        name="box",
        unit=lambda images: _dot(images, weights),
        reference=lambda: box(shape, low, high),
        log_partition=log_partition(1),
        mean=low + width * (1 / -np.expm1(-rate) - 1 / rate),
        variance=width**2 * (1 / rate**2 - 1 / (4 * np.sinh(rate / 2) ** 2)),
        direction=_first_pixel(shape),
        cdf=lambda t: (
            np.expm1(weights.flat[0] * (np.clip(t, low, high) - low))
            / np.expm1(rate.flat[0])
        ),
        kish_limit=np.exp(2 * log_partition(1) - log_partition(2)),
        scores=lambda images: stats.norm.ppf(_flat(share(np.float64(images)))),
        from_scores=from_scores,
    )


def constant(shape=SHAPE, stddev=2.0, value=0.0):
    """f = c: p is q itself and Z = exp(c)."""
    return Target(
        name=f"constant {value:g}",
        unit=lambda images: tf.fill(tf.shape(images)[:1], value),
        reference=lambda: white_noise(shape, 0.0, stddev),
        log_partition=value,
        mean=np.zeros(shape),
        variance=np.full(shape, stddev**2),
        direction=_first_pixel(shape),
        cdf=stats.norm(0, stddev).cdf,
        kish_limit=1.0,
        scores=lambda images: _flat(images) / stddev,
        from_scores=lambda scores: stddev * scores.reshape(-1, *shape),
    )


def all_targets(shape=SHAPE):
    """One of each, on images of one shape."""
    curved = [linear(shape), quadratic(shape), relu(shape), box_linear(shape)]
    return [*curved, constant(shape), constant(shape, value=-1.5)]


def _weights(shape, scale):
    """Fixed weights of both signs, none of them near zero."""
    generator = np.random.default_rng(0)
    signs = generator.choice([-1.0, 1.0], size=shape)
    return scale * signs * generator.uniform(0.5, 1.5, size=shape)


def _first_pixel(shape):
    return np.eye(1, int(np.prod(shape))).reshape(shape)


def _dot(images, weights):
    product = images * tf.constant(weights, tf.float32)
    return tf.reduce_sum(tf.reshape(product, [tf.shape(images)[0], -1]), axis=1)


def _flat(images):
    return np.reshape(np.asarray(images, np.float64), [len(images), -1])
