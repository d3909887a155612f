"""The partition function, by importance sampling and by annealing in two directions.

    Z = E_q[exp(scale f(x))]

Importance sampling averages exp(scale f) over draws of q. Annealed importance sampling
walks from q to p in small steps, forward and reverse, with log weights w such that

    E[w forward]  <=  log Z  <=  E[w reverse]

by Jensen's inequality; between them lies Bennett's acceptance ratio. See
`keras_tilt.partition.annealing` and `keras_tilt.partition.bennett`.

Source: Neal (2001), "Annealed importance sampling"; Grosse, Ancha and Roy (2016),
"Measuring the reliability of MCMC inference with bidirectional Monte Carlo".
"""

__all__ = ["METHODS", "LogPartition", "check_log_partitions", "log_partition"]

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any, Literal, overload

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike
from scipy import special
from tqdm.auto import tqdm

from keras_tilt.partition.annealing import MOST_STEPS, NUM_PILOT, Walks
from keras_tilt.partition.bennett import bennett, log_weights
from keras_tilt.partition.importance import kish_ess, pareto_k
from keras_tilt.sampling.kernels import Kernel
from keras_tilt.sampling.schedule import Leapfrog, plan_of, stateless_seed
from keras_tilt.sampling.tilt_groups import checked_tilts, sampled_together
from keras_tilt.tilt import Tilt
from keras_tilt.validation import check_count

METHODS = ("annealed", "importance")

# Above that of sampling: with less the chains stay where f is far from its mean, and
# lag behind the tilt.
_ACCEPT = 0.9
_PARETO_LIMIT = 0.7  # Vehtari, Simpson, Gelman, Yao and Gabry (2024)
_FEWEST_DRAWS = 100  # from which the tail of the weights can be estimated
_ESS_LIMIT = 10  # below, a few weights make the mean, and its error is not known
_FEWEST_WALKS = 2 * _ESS_LIMIT  # of which about half are effective
_MOVED_LIMIT = 0.1  # share of accepted steps
_LOPSIDED = 4.0  # one side of the bracket over the other
_FEW_ERRORS = 4.0  # of independent walks 1 in 16,000 is beyond
_BLOCK = 2**22  # pixels whose f is computed at a time


@dataclasses.dataclass(frozen=True, eq=False)
class LogPartition:
    """log Z of one tilt, with its error, and the normalized density.

    Attributes:
        tilt: the `Tilt`.
        value: log Z, nats.
        standard_error: of the value, nats; infinite if the verdict is not to trust it.
        ess: Kish's effective sample size, the smaller of both directions.
        lower: mean log weight of the forward walks, in expectation at most log Z, nats.
        upper: mean log weight of the reverse walks, in expectation at least log Z;
            infinite for importance sampling.
        num_steps: K; 0 for importance sampling.
        log_weights: [walks] of the forward walks, or [draws].
        reverse_log_weights: [walks] of the reverse walks; empty for importance
            sampling.
        is_reliable: whether no reason against the number was found.
        verdict: one sentence with the reasons.
    """

    tilt: Tilt
    value: float
    standard_error: float
    ess: float
    lower: float
    upper: float
    num_steps: int
    log_weights: np.ndarray = dataclasses.field(repr=False)
    reverse_log_weights: np.ndarray = dataclasses.field(repr=False)
    is_reliable: bool
    verdict: str

    def __str__(self):
        return (
            f"log Z {self.value:.6g} +- {self.standard_error:.2g} nats, between "
            f"{self.lower:.6g} and {self.upper:.6g}, ESS {self.ess:.3g} of "
            f"{len(self.log_weights)}: {self.verdict}"
        )

    def log_prob(self, images: ArrayLike) -> tf.Tensor:
        """Return log p(x): images [n, ...] -> [n], nats.

            log p(x) = scale f(x) + log q(x) - log Z

        All share the error of log Z, `standard_error`. In float64, so that log q of
        many pixels does not round off the difference between two units.
        """
        images = tf.convert_to_tensor(images, self.tilt.reference.dtype)
        relative = self._relative_log_prob(images)
        return relative + tf.cast(self.tilt.reference.log_prob(images), tf.float64)

    def log_density_ratio(self, other: "LogPartition", images: ArrayLike) -> tf.Tensor:
        """Return log p(x) - log p'(x) of two tilts: images [n, ...] -> [n], nats.

        If both tilts have the same reference, q cancels.

        Args:
            other: `LogPartition` of the other tilt.
            images: [n, ...].

        Raises:
            TypeError: if `other` is not a `LogPartition`.
        """
        check_log_partitions("other", [other])
        if other.tilt.reference is not self.tilt.reference:
            return self.log_prob(images) - other.log_prob(images)
        mine, theirs = (one._relative_log_prob(images) for one in (self, other))
        return mine - theirs

    def _relative_log_prob(self, images):
        """Return log p(x) / q(x): images [n, ...] -> [n], nats."""
        images = tf.convert_to_tensor(images, self.tilt.reference.dtype)
        f = tf.cast(self.tilt.response(images), tf.float64)
        return self.tilt.scale * f - self.value


def check_log_partitions(name: str, values: Sequence[LogPartition]) -> None:
    """Raise a TypeError unless they are a list of what `log_partition` returns."""
    is_list = isinstance(values, list | tuple) and len(values) > 0
    if not is_list or not all(isinstance(one, LogPartition) for one in values):
        raise TypeError(
            f"`{name}` must come from `log_partition`. Received: {values!r}. "
            "Pass what kt.log_partition returns for a list of tilts."
        )


@overload
def log_partition(tilt: Tilt, *args: Any, **kwargs: Any) -> LogPartition: ...
@overload
def log_partition(
    tilt: Sequence[Tilt], *args: Any, **kwargs: Any
) -> list[LogPartition]: ...
def log_partition(
    tilt: Tilt | Sequence[Tilt],
    method: Literal["annealed", "importance"] = "annealed",
    *,
    seed: int | Sequence[int],
    num_chains: int = 64,
    num_steps: int | None = None,
    num_draws: int = 10_000,
    kernel: Kernel | None = None,
    num_leapfrog_steps: int | None = None,
    max_leapfrog_steps: int = 16,
    mass: ArrayLike = 1.0,
    directory: str | os.PathLike | None = None,
    progress: bool = True,
) -> LogPartition | list[LogPartition]:
    """Estimate log Z = log E_q[exp(scale f(x))], with its standard error.

    Importance sampling is enough where the tilt is weak, so that draws of p are among
    those of q. Annealing is enough where transitions follow the tilt as it rises. A
    pilot finds the step sizes of the leapfrog, and a path of constant thermodynamic
    speed; reverse walks start where the forward ones have arrived, K transitions later.
    Neither direction knows of modes that no walk has found.

    With a `directory` a killed process loses the pilot or half a minute: the same call
    resumes the run, and returns the same numbers.

    Args:
        tilt: a `Tilt`, or a list of them; units that share a layer share a graph.
        method: "annealed" or "importance".
        seed: a whole number or a pair of them; equal seeds give equal numbers.
        num_chains: walks in each direction, 20 or more. The error falls as
            1 / sqrt(num_chains).
        num_steps: K; None for log weights with a variance of about a half.
        num_draws: of q, for importance sampling.
        kernel: as in `keras_tilt.sample`, as are the next three.
        num_leapfrog_steps: gradients of f per transition; None for a trajectory length
            of pi / 2.
        max_leapfrog_steps: limit on their mean, if `num_leapfrog_steps` is None.
        mass: of the kernel "split".
        directory: folder of an annealing, new or left by the same call.
        progress: whether to show a bar.

    Returns:
        log_partition: a `LogPartition`; for a list of tilts a list of them.

    Raises:
        TypeError: if `tilt` is not a `Tilt`, or `seed` is not one or two integers.
        ValueError: for an unknown method, a number out of range, an f that is not
            finite under q, a tilt that would need more than 100,000 steps, a
            `directory` for tilts that cannot share a graph, or one with another run.

    Example:
        >>> from keras_tilt.reference.distributions import white_noise
        >>> total = lambda images: tf.reduce_sum(images, axis=[1, 2, 3])
        >>> tilt = Tilt(total, white_noise([2, 2, 1]))
        >>> found = log_partition(tilt, seed=7, progress=False)  # exactly 2
        >>> bool(abs(found.value - 2.0) < 4 * found.standard_error)
        True

    Source: Neal (2001), "Annealed importance sampling"; Grosse, Ancha and Roy (2016),
    "Measuring the reliability of MCMC inference with bidirectional Monte Carlo".
    """
    tilts = checked_tilts(tilt)
    if method not in METHODS:
        raise ValueError(
            f"`method` must be one of {', '.join(map(repr, METHODS))}. "
            f"Received: {method!r}. Leave it out for the more robust one."
        )
    if method == "importance":
        found = _all_by_importance(tilts, num_draws, seed, progress)
        return found[0] if isinstance(tilt, Tilt) else found
    check_count("num_chains", num_chains, _FEWEST_WALKS)
    if num_steps is not None:
        check_count("num_steps", num_steps, 1, MOST_STEPS)
    plan = plan_of(
        tilts,
        Leapfrog(kernel, num_leapfrog_steps, max_leapfrog_steps, None, mass),
        seed=seed,
        num_chains=num_chains,
        num_results=1,
        num_burnin_steps=NUM_PILOT,
        is_annealed=False,
        target_accept_prob=_ACCEPT,
    )
    found = _by_annealing(tilts, plan, num_steps, directory, progress)
    return found[0] if isinstance(tilt, Tilt) else found


# Importance sampling


def _all_by_importance(tilts, num_draws, seed, progress):
    """Return log Z of every tilt, each from its own draws."""
    check_count("num_draws", num_draws, _FEWEST_DRAWS)
    seeds = stateless_seed(seed)
    return [
        _by_importance(one, num_draws, tf.random.fold_in(seeds, i), progress)
        for i, one in enumerate(tilts)
    ]


def _by_importance(tilt, num_draws, seed, progress):
    """Return log Z as the log of the mean weight of draws of q."""
    size = max(1, _BLOCK // math.prod(tilt.event_shape))
    starts = range(0, num_draws, size)
    blocks = []
    for start in tqdm(starts, disable=not progress, desc="draws of q"):
        noise = tilt.base.sample(
            min(size, num_draws - start), seed=tf.random.fold_in(seed, start)
        )
        blocks.append(tilt.response(tilt.to_images(noise)).numpy())
    f = np.concatenate(blocks).astype(np.float64)
    if not np.all(np.isfinite(f)):
        raise ValueError(
            "f(x) must be finite for draws of the reference. Received: "
            f"{np.sum(~np.isfinite(f))} of {num_draws} where it is not. Check the unit."
        )
    log_weights = tilt.scale * f
    ess = _ess(log_weights)
    k = pareto_k(log_weights)
    reasons = _constant_reasons(f)
    if not ess >= _ESS_LIMIT:
        reasons.append(f"ESS of the weights is {ess:.3g} of {num_draws}")
    if not k <= _PARETO_LIMIT:
        reasons.append(
            f"their tail has Pareto's k {k:.2g} (> {_PARETO_LIMIT}), as if they had no "
            "mean that draws can find"
        )
    relative_variance = max(0.0, 1 / ess - 1 / num_draws) * num_draws / (num_draws - 1)
    return LogPartition(
        tilt=tilt,
        value=_log_mean_exp(log_weights),
        standard_error=math.inf if reasons else math.sqrt(relative_variance),
        ess=ess,
        lower=float(np.mean(log_weights)),
        upper=math.inf,
        num_steps=0,
        log_weights=log_weights,
        reverse_log_weights=np.empty(0),
        is_reliable=not reasons,
        verdict=_verdict(reasons, "anneal, or weaken the tilt"),
    )


# Annealing


def _by_annealing(tilts, plan, num_steps, directory, progress):
    """Return log Z of every tilt; those that share a layer share a graph."""
    groups = sampled_together(tilts)
    if directory is not None and len(groups) > 1:
        raise ValueError(
            "`directory` holds one run. Received: tilts that make "
            f"{len(groups)} runs. Call once for each, with folders of their own."
        )
    walks = [
        Walks([tilts[i] for i in group], group, plan, num_steps, directory)
        for group in groups
    ]
    found = {}
    for group, of_group in zip(groups, walks, strict=True):
        for i, annealed in zip(group, of_group.run(progress), strict=True):
            found[i] = _from_walks(tilts[i], annealed)
    return [found[i] for i in sorted(found)]


def _from_walks(tilt, annealed):
    """Return log Z of one tilt, from f along its walks."""
    f, num_steps = annealed.f, len(annealed.share) - 1
    forward, reverse = log_weights(f, annealed.share)
    value, error = bennett(forward, reverse)
    ess = min(_ess(forward), _ess(-reverse))
    at_p = f[num_steps + 1 : 2 * num_steps + 1]
    reasons = [
        *_constant_reasons(f),
        *_weight_reasons(forward, reverse, ess, error),
        *_bracket_reasons(forward, reverse, value),
        *_walk_reasons(at_p, annealed.is_accepted),
    ]
    return LogPartition(
        tilt=tilt,
        value=value,
        standard_error=math.inf if reasons else error,
        ess=ess,
        lower=float(np.mean(forward)),
        upper=float(np.mean(reverse)),
        num_steps=num_steps,
        log_weights=forward,
        reverse_log_weights=reverse,
        is_reliable=not reasons,
        verdict=_verdict(reasons, "take more steps or chains, or weaken the tilt"),
    )


def _weight_reasons(forward, reverse, ess, error):
    if not np.all(np.isfinite([forward, reverse])):
        return ["log weights are not finite"]
    reasons = []
    if not ess >= _ESS_LIMIT:
        reasons.append(f"ESS of the weights is {ess:.3g} of {len(forward)} (< 10)")
    elif not math.isfinite(error):
        reasons.append("no forward walk is like a reverse one")
    gap = np.mean(forward) - np.mean(reverse)
    gap_error = math.sqrt((np.var(forward) + np.var(reverse)) / len(forward))
    if gap > _FEW_ERRORS * gap_error:
        reasons.append(
            f"forward walks weigh {gap:.3g} nats more than reverse walks, which began "
            "where p is not"
        )
    return reasons


def _bracket_reasons(forward, reverse, value):
    """Whether one side of the bracket is by far the wider.

    Log weights near a normal law of variance s^2 lie s^2 / 2 below log Z forward and as
    far above it in reverse. Those of reverse walks from a p that cannot be normalized
    have no mean.
    """
    gaps = [value - np.mean(forward), np.mean(reverse) - value]
    narrow = int(np.argmin(gaps))
    error = np.std((forward, reverse)[narrow]) / math.sqrt(len(forward))
    if not max(gaps) > _LOPSIDED * (max(0.0, gaps[narrow]) + 2 * error):
        return []
    return [
        f"log Z is {gaps[0]:.3g} nats above the forward walks and {gaps[1]:.3g} below "
        "the reverse ones, as if one of them had no mean"
    ]


def _constant_reasons(f):
    """Whether f may have been seen only where it says nothing."""
    if not np.ptp(f) == 0:
        return []
    return ["f was the same in all draws, which is exact only if it is constant"]


def _walk_reasons(f_at_p, is_accepted):
    """Whether the forward walks had reached p at their end, and moved at all."""
    reasons = []
    third = len(f_at_p) // 3
    if third:
        rises = np.mean(f_at_p[-third:], axis=0) - np.mean(f_at_p[:third], axis=0)
        error = np.std(rises, ddof=1) / math.sqrt(len(rises))
        if abs(np.mean(rises)) > _FEW_ERRORS * error:
            word = "rises" if np.mean(rises) > 0 else "falls"
            reasons.append(f"f still {word} at the full tilt")
    if not np.mean(is_accepted) >= _MOVED_LIMIT:
        reasons.append(f"only {np.mean(is_accepted):.0%} of the steps were accepted")
    return reasons


def _verdict(reasons, remedy):
    if not reasons:
        return "reliable."
    return f"not to be trusted: {'; '.join(reasons)}. Remedy: {remedy}."


def _log_mean_exp(values):
    return float(special.logsumexp(values) - math.log(len(values)))


def _ess(log_weights):
    """Kish's, 0 for weights that are not finite."""
    if not np.all(np.isfinite(log_weights)):
        return 0.0
    return float(kish_ess(log_weights))
