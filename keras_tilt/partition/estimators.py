"""The partition function, by importance sampling and by annealing there and back.

    Z = E_q[exp(scale f(x))],      p_b(z) ~ exp(b scale f(T(z))) base(z)

Importance sampling averages exp(scale f) over draws of q. Annealing walks from q to p
through K densities p_b in between, b_0 = 0 < b_1 < ... < b_K = 1, and back:

    there   z_0 ~ q,  z_k from z_(k-1) by a transition that leaves p_(b_k) as it is
            w = sum over k of (b_(k+1) - b_k) scale f(z_k),        E[exp(w)]  = Z
    back    the same in reverse from draws of p,                   E[exp(-w)] = 1 / Z

so that by Jensen's inequality E[w there] <= log Z <= E[w back]. The estimate is the
number c between them at which a walk is as likely to be taken for one of the other
direction as the other way round (Bennett's acceptance ratio),

    mean over walks there of sigmoid(w - c)  =  mean over walks back of sigmoid(c - w)

Source: Neal (2001), "Annealed importance sampling"; Bennett (1976), "Efficient
estimation of free energy differences from Monte Carlo data"; Crooks (2000), "Path
ensemble averages", for the two in one; Grosse, Ancha and Roy (2016), "Measuring the
reliability of MCMC inference with bidirectional Monte Carlo".

The transitions are TensorFlow Probability's, or ours in their form, but the walk is not
`tfp.mcmc.sample_annealed_importance_chain`: it hands a kernel the log density of the
last state under the last b, with which its Metropolis test goes wrong.
"""

__all__ = ["LogPartition", "generative_log_prob", "log_partition"]

import dataclasses
import math
import time
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from scipy import optimize, special
from tqdm.auto import tqdm

from keras_tilt.partition.importance import kish_ess, pareto_k
from keras_tilt.sampling.adaptation import StepSize
from keras_tilt.sampling.chains import State
from keras_tilt.sampling.kernels import is_standard_normal
from keras_tilt.sampling.schedule import Plan, check_plan, stateless_seed
from keras_tilt.sampling.tilt_groups import (
    chains_of,
    check_start,
    checked_tilts,
    sampled_together,
)
from keras_tilt.storage.run_folder import (
    Record,
    Run,
    fingerprint,
    parts_within,
    under,
    within,
)
from keras_tilt.tilt import Tilt
from keras_tilt.validation import check_count

METHODS = ("annealed", "importance")

# Above that of sampling: with fewer the chains stick to where f is far from its mean,
# and lag behind the tilt.
_ACCEPT = 0.9
# Iterations in which the pilot finds the steps and how f spreads between q and p.
_NUM_PILOT = 64
_SMOOTHED = 5  # iterations of the pilot over which it is averaged
_FEWEST_STEPS = 32
_MOST_STEPS = 100_000
# Walks of K steps have log weights of variance (thermodynamic length)^2 / K if every
# transition makes an independent draw, and more if not.
_VARIANCE = 0.5
_PARETO_LIMIT = 0.7  # Vehtari, Simpson, Gelman, Yao and Gabry (2024)
_FEWEST_DRAWS = 100  # of which the tail of the weights can be told
_ESS_LIMIT = 10  # below, a few weights make the mean, and its error is not known
_FEWEST_WALKS = 2 * _ESS_LIMIT  # of which about half are effective
_MOVED_LIMIT = 0.1  # share of accepted steps
_LOPSIDED = 4.0  # one side of the bracket over the other
_FEW_ERRORS = 4.0  # of independent walks 1 in 16,000 is beyond
_BLOCK = 2**22  # pixels whose f is computed in one go
_SAVE_EVERY = 30.0  # seconds


@dataclasses.dataclass(frozen=True, eq=False)
class LogPartition:
    """log Z of one tilt, with its error, and what follows from it.

    Attributes:
        tilt: the `Tilt`.
        value: log Z, nats.
        standard_error: of the value, nats; infinite if the verdict is that the number
            is not to be trusted.
        ess: Kish's effective number of weights; of both directions the smaller.
        lower: mean log weight of the walks there, in expectation at most log Z, nats.
        upper: mean log weight of the walks back, in expectation at least log Z;
            infinite for importance sampling.
        num_steps: K; 0 for importance sampling.
        log_weights: [walks] of the walks there, or [draws].
        reverse_log_weights: [walks] of the walks back, empty for importance sampling.
        is_reliable: whether nothing speaks against the number.
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

    def log_prob(self, images):
        """log p(x) = scale f(x) + log q(x) - log Z: images [n, ...] -> [n], nats.

        All have the one error of log Z, `standard_error`. In float64, so that log q of
        many pixels does not round off what tells two units apart.
        """
        images = tf.convert_to_tensor(images, self.tilt.reference.dtype)
        relative = self._relative_log_prob(images)
        return relative + tf.cast(self.tilt.reference.log_prob(images), tf.float64)

    def log_density_ratio(self, other, images):
        """log p(x) - log p'(x) of two tilts: images [n, ...] -> [n], nats.

        Of one reference q drops out, as it does of the ratio of two units.

        Args:
            other: `LogPartition` of the other tilt.
            images: [n, ...].

        Raises:
            TypeError: if `other` is no `LogPartition`.
        """
        _check_log_partitions("other", [other])
        if other.tilt.reference is not self.tilt.reference:
            return self.log_prob(images) - other.log_prob(images)
        mine, theirs = (one._relative_log_prob(images) for one in (self, other))
        return mine - theirs

    def _relative_log_prob(self, images):
        """log p(x) / q(x): images [n, ...] -> [n], nats."""
        images = tf.convert_to_tensor(images, self.tilt.reference.dtype)
        f = tf.cast(self.tilt.response(images), tf.float64)
        return self.tilt.scale * f - self.value


def generative_log_prob(log_partitions, images):
    """log p(x | y) of images under the densities of several classes.

        log p(x | y) = scale f_y(x) + log q(x) - log Z_y

    Args:
        log_partitions: list of `LogPartition`, one for each class.
        images: [n, ...].

    Returns:
        log_prob: [n, classes], nats.

    Raises:
        TypeError: for anything but a list of `LogPartition`.
    """
    _check_log_partitions("log_partitions", log_partitions)
    return tf.stack([one.log_prob(images) for one in log_partitions], axis=1)


def _check_log_partitions(name, values):
    is_list = isinstance(values, list | tuple) and len(values) > 0
    if not is_list or not all(isinstance(one, LogPartition) for one in values):
        raise TypeError(
            f"`{name}` must come from `log_partition`. Received: {values!r}. "
            "Pass what kt.log_partition returns, of a list of tilts a list."
        )


def log_partition(
    tilt,
    method="annealed",
    *,
    seed,
    num_chains=64,
    num_steps=None,
    num_draws=10_000,
    kernel=None,
    num_leapfrog_steps=None,
    max_leapfrog_steps=16,
    mass=1.0,
    directory=None,
    progress=True,
):
    """Estimate log Z = log E_q[exp(scale f(x))], with its standard error.

    Importance sampling does where the tilt is weak, so that draws of p are among those
    of q. Annealing does where transitions follow the tilt as it rises. A pilot finds
    the steps of the leapfrog, and a path along which f is equally spread; the walks
    back start from where those there have come to, K transitions later. Neither
    direction knows of modes that no walk has found.

    With a `directory` a process that dies loses the pilot or half a minute: the same
    call goes on, and comes to the same numbers.

    Args:
        tilt: a `Tilt`, or a list of them; units that share a layer are walked together.
        method: "annealed" or "importance".
        seed: a whole number or a pair of them; equal seeds give equal numbers.
        num_chains: walks in each direction, 20 or more. The error falls as one over
            the root.
        num_steps: K; None for log weights with a variance of about a half.
        num_draws: of q, for importance sampling.
        kernel: as in `keras_tilt.sample`, and so the next three.
        num_leapfrog_steps: gradients of f per transition; None for a quarter turn.
        max_leapfrog_steps: the most of them, on average, if they are not given.
        mass: of the kernel "split".
        directory: folder of an annealing, new or left by the same call.
        progress: whether to show a bar.

    Returns:
        log_partition: a `LogPartition`; for a list of tilts a list of them.

    Raises:
        TypeError: if `tilt` is not a `Tilt`, or `seed` not whole numbers.
        ValueError: for an unknown method, a number out of range, an f that is not
            finite under q, a tilt that would need more than 100,000 steps, a list of
            tilts that cannot be walked together with a `directory`, or a `directory`
            with another run.

    Example:
        >>> from keras_tilt.reference.distributions import white_noise
        >>> total = lambda images: tf.reduce_sum(images, axis=[1, 2, 3])
        >>> tilt = Tilt(total, white_noise([2, 2, 1]))
        >>> found = log_partition(tilt, seed=7, progress=False)  # exactly 2
        >>> bool(abs(found.value - 2.0) < 4 * found.standard_error)
        True

    Source: see the module.
    """
    tilts = checked_tilts(tilt)
    if method not in METHODS:
        raise ValueError(
            f"`method` must be one of {', '.join(map(repr, METHODS))}. "
            f"Received: {method!r}. Leave it out for the one that holds further."
        )
    if method == "importance":
        check_count("num_draws", num_draws, _FEWEST_DRAWS)
        seeds = stateless_seed(seed)
        found = [
            _by_importance(one, num_draws, tf.random.fold_in(seeds, i), progress)
            for i, one in enumerate(tilts)
        ]
        return found[0] if isinstance(tilt, Tilt) else found
    check_count("num_chains", num_chains, _FEWEST_WALKS)
    if num_steps is not None:
        check_count("num_steps", num_steps, 1, _MOST_STEPS)
    is_normal = all(is_standard_normal(one.base) for one in tilts)
    plan = Plan(
        num_chains=num_chains,
        num_results=1,
        num_burnin_steps=_NUM_PILOT,
        seed=stateless_seed(seed),
        kernel=kernel or ("split" if is_normal else "hmc"),
        is_normal=is_normal,
        is_annealed=False,
        num_leapfrog_steps=num_leapfrog_steps,
        max_leapfrog_steps=max_leapfrog_steps,
        target_accept_prob=_ACCEPT,
        mass=mass,
    )
    check_plan(plan, tilts)
    found = _by_annealing(tilts, plan, num_steps, directory, progress)
    return found[0] if isinstance(tilt, Tilt) else found


# Importance sampling


def _by_importance(tilt, num_draws, seed, progress):
    """log Z as the mean weight of draws of q."""
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
    """log Z of every tilt, those that share a layer in one graph."""
    groups = sampled_together(tilts)
    if directory is not None and len(groups) > 1:
        raise ValueError(
            "`directory` holds one run. Received: tilts that make "
            f"{len(groups)} runs. Call once for each, with folders of their own."
        )
    runs = [
        _Walks([tilts[i] for i in group], group, plan, num_steps, directory)
        for group in groups
    ]
    found = {}
    for group, run in zip(groups, runs, strict=True):
        found |= zip(group, run.run(progress), strict=True)
    return [found[i] for i in sorted(found)]


class _Position(NamedTuple):
    """How many iterations of the walks are done, and where they are."""

    iteration: int
    state: State


class _Path(NamedTuple):
    """The way from q to p.

    Attributes:
        share: [K + 1], of the tilt: b_0 = 0 ... b_K = 1.
        step_size: [K + 1, rows], of the leapfrog.
    """

    share: np.ndarray
    step_size: np.ndarray

    @property
    def num_steps(self):
        return len(self.share) - 1


class _Walks:
    """Walks of some tilts in one graph: a pilot, there, a stay at p, and back."""

    def __init__(self, tilts, rows, plan, num_steps, directory):
        self.tilts, self.rows, self.plan, self.num_steps = tilts, rows, plan, num_steps
        self.scale = np.array([tilt.scale for tilt in tilts])
        self.chains = chains_of(tilts, plan.kernel, rows, plan.num_chains, plan.mass)
        self.start, self.f_at_start = self.drawn(part=0)
        self.store = None if directory is None else Run(directory, self.settings())

    def run(self, progress):
        """One `LogPartition` per tilt; from where the folder was left."""
        if self.store:
            self.store.create()
        path, position, record = self.resumed() or self.begun(progress)
        self.checkpoint(path, position, record)
        total = 3 * path.num_steps
        saved_at = time.monotonic()
        first = position.iteration
        with tqdm(total=total, initial=first, disable=not progress, unit="it") as bar:
            try:
                while position.iteration < total:
                    position = self.walk(path, position, record)
                    self.show(path, position, record, bar)
                    if time.monotonic() > saved_at + _SAVE_EVERY:
                        self.checkpoint(path, position, record)
                        saved_at = time.monotonic()
            finally:
                self.checkpoint(path, position, record)
        return [self.found(row, path, record) for row in range(len(self.tilts))]

    def begun(self, progress):
        """The path that a pilot finds, and walks at its beginning."""
        path = self.pilot(progress)
        state, f = self.drawn(part=1)
        record = Record(1 + 3 * path.num_steps)
        record.add(0, {"f": f, "is_accepted": np.ones_like(f, bool)})
        return path, _Position(0, state), record

    def drawn(self, part):
        """Chains at exact draws of q, without a tilt yet, and f there."""
        base, plan = self.tilts[0].base, self.plan
        seeds = [tf.random.fold_in(plan.seeds[0], 2 * row + part) for row in self.rows]
        noise = np.stack([base.sample(plan.num_chains, seed=seed) for seed in seeds])
        step_size = np.full(len(self.rows), plan.first_step(noise[0, 0].size))
        settings = plan.settings_with(step_size, 0, 0.0 * self.scale)
        state, numbers = self.chains.start(noise, settings)
        check_start(self.tilts, numbers)
        return state, numbers["f"]

    def pilot(self, progress):
        """Raise the tilt once, and see how f spreads and the steps shrink."""
        plan, state = self.plan, self.start
        step = StepSize.first(plan.first_step(self.num_pixels), [len(self.rows)])
        seed = tf.random.fold_in(plan.seeds[1], 0)
        shares = np.arange(1, _NUM_PILOT + 1) / _NUM_PILOT
        f, step_sizes = [self.f_at_start], []
        for i, share in enumerate(tqdm(shares, "pilot", disable=not progress)):
            settings = plan.settings(i, step, share * self.scale)
            step_sizes.append(settings.step_size)
            state, numbers = self.chains.advance(
                state, settings, tf.random.fold_in(seed, i)
            )
            accept_prob = numbers["accept_prob"].mean(axis=1)
            step = step.learn(
                accept_prob, plan.target_accept_prob, 0, _NUM_PILOT, plan.longest_step
            )
            f.append(numbers["f"])
        spread = np.std(self.scale[:, None] * np.float64(f), axis=2, ddof=1)
        return planned_path(spread, np.stack(step_sizes), self.num_steps)

    @property
    def num_pixels(self):
        return math.prod(self.tilts[0].base.event_shape)

    def walk(self, path, position, record):
        """One iteration: there, staying, or back."""
        iteration, state = position
        number = number_on_path(iteration, path.num_steps)
        place = min(number, path.num_steps)
        settings = self.plan.settings_with(
            path.step_size[place], number, path.share[place] * self.scale
        )
        seed = tf.random.fold_in(tf.random.fold_in(self.plan.seeds[1], 1), iteration)
        state, numbers = self.chains.advance(state, settings, seed)
        kept = {name: numbers[name] for name in ("f", "is_accepted")}
        record.add(iteration + 1, kept)
        return _Position(iteration + 1, state)

    def show(self, path, position, record, bar):
        """Direction, acceptance in the last steps, and mean f, in the bar."""
        part = (position.iteration - 1) // path.num_steps
        bar.set_description(("there", "at p", "back")[part], refresh=False)
        last = slice(max(1, position.iteration - 20), position.iteration + 1)
        bar.set_postfix(
            accepted=f"{record['is_accepted'][last].mean():.0%}",
            f=f"{record['f'][position.iteration].mean():.4g}",
            refresh=False,
        )
        bar.update()

    # A run on disk

    def settings(self):
        """What a run depends on."""
        return self.plan.of_run(self.tilts) | {
            "num_steps": self.num_steps,
            "f_at_start": fingerprint(self.f_at_start),
            "num_replicas": self.chains.num_replicas,
        }

    def checkpoint(self, path, position, record):
        """Everything that `resumed` needs, as one file."""
        if not self.store:
            return
        self.store.checkpoint(
            {"iteration": position.iteration}
            | under("path.", path._asdict())
            | under("state.", self.chains.pack(position.state))
            | under("record.", record.first(position.iteration + 1))
        )

    def resumed(self):
        """Path, position and record as they were saved; None before the first time."""
        saved = self.store and self.store.load()
        if not saved:
            return None
        path = _Path(**within(saved, "path."))
        state = self.chains.unpack(parts_within(saved, "state."), self.start)
        record = Record(1 + 3 * path.num_steps)
        record.restore(within(saved, "record."))
        return path, _Position(int(saved["iteration"]), state), record

    # The result

    def found(self, row, path, record):
        """log Z of one tilt, from f along the walks of its row."""
        f = self.scale[row] * record["f"][:, row].astype(np.float64)
        there, back = log_weights(f, path.share)
        value, error = bennett(there, back)
        ess = min(_ess(there), _ess(-back))
        at_p = f[path.num_steps + 1 : 2 * path.num_steps + 1]
        reasons = [
            *_constant_reasons(f),
            *_weight_reasons(there, back, ess, error),
            *_bracket_reasons(there, back, value),
            *_walk_reasons(at_p, record["is_accepted"][1:, row]),
        ]
        return LogPartition(
            tilt=self.tilts[row],
            value=value,
            standard_error=math.inf if reasons else error,
            ess=ess,
            lower=float(np.mean(there)),
            upper=float(np.mean(back)),
            num_steps=path.num_steps,
            log_weights=there,
            reverse_log_weights=back,
            is_reliable=not reasons,
            verdict=_verdict(reasons, "take more steps or chains, or weaken the tilt"),
        )


def planned_path(spread, step_sizes, num_steps=None):
    """The path along which f is equally spread: b_k at equal thermodynamic length.

        length(b) = integral of sd_b(scale f) db up to b,     K = length(1)^2 / variance

    Args:
        spread: [pilot + 1, rows], sd of scale f at equally spaced shares 0 ... 1.
        step_sizes: [pilot, rows], of the leapfrog at all of them but the first.
        num_steps: K; None for log weights with a variance of about a half.

    Returns:
        path: a `_Path`.

    Raises:
        ValueError: if f is too widely spread for a path.

    Source: Gelman and Meng (1998), "Simulating normalizing constants".
    """
    shares = np.linspace(0.0, 1.0, len(spread))
    widest = np.sqrt(np.max(_smooth(np.square(spread)), axis=1))
    with np.errstate(over="ignore", invalid="ignore"):
        pieces = (widest[1:] + widest[:-1]) / 2 * np.diff(shares)
        length = np.concatenate([[0.0], np.cumsum(pieces)])
        wanted = length[-1] ** 2 / _VARIANCE
    if num_steps is None and not wanted <= _MOST_STEPS:
        raise ValueError(
            "The tilt must be such that E_q[exp(scale f)] can be found in "
            f"{_MOST_STEPS} steps. Received: one that would need {wanted:.3g}, whose f "
            f"spreads over {widest[-1]:.3g} nats. It is too strong, or not integrable "
            "under the reference: weaken it, or pass `num_steps` and read the verdict."
        )
    if not np.all(np.isfinite(length)):
        length = np.zeros_like(length)
    num_steps = num_steps or max(_FEWEST_STEPS, math.ceil(wanted))
    # What is flat must rise a little, so that every length has one share.
    length += 1e-3 * (1 + length[-1]) * shares
    share = np.interp(np.linspace(0.0, length[-1], num_steps + 1), length, shares)
    share[0], share[-1] = 0.0, 1.0
    log_steps = _smooth(np.log(step_sizes))
    step_size = [np.interp(share, shares[1:], of_row) for of_row in log_steps.T]
    return _Path(share, np.exp(np.stack(step_size, axis=1)))


def _smooth(values):
    """Running means along axis 0, of fewer values at both ends."""
    reach = _SMOOTHED // 2
    return np.stack(
        [
            np.mean(values[max(0, i - reach) : i + reach + 1], axis=0)
            for i in range(len(values))
        ]
    )


def number_on_path(iteration, num_steps):
    """Of an iteration: 1 ... K there and K ... 1 back, under b_k; K or more at p.

    By it the leapfrog steps vary: back they must be those there, at p merely many.
    """
    return min(iteration + 1, 3 * num_steps - iteration)


def log_weights(f, share):
    """The log weights of walks there and back.

    Args:
        f: [1 + 3 K, walks], scale f at the start and after each iteration, nats.
        share: [K + 1], b_0 ... b_K.

    Returns:
        there: [walks], nats.
        back: [walks], nats.
    """
    num_steps = len(share) - 1
    rises = np.diff(share)
    return rises @ f[:num_steps], rises[::-1] @ f[2 * num_steps + 1 :]


def bennett(there, back):
    """Bennett's acceptance ratio for as many walks there as back.

    The error allows for a walk back that depends on the walk there it goes on from.

    Args:
        there: [walks], log weights, nats.
        back: [walks], log weights, nats.

    Returns:
        value: log Z, nats.
        standard_error: nats; infinite where no walk there is like one back.
    """
    if not np.all(np.isfinite([there, back])):
        return math.nan, math.inf

    def terms(value):
        return special.expit(there - value), special.expit(value - back)

    def imbalance(value):
        ahead, behind = terms(value)
        return np.mean(ahead - behind)

    low, high = min(there.min(), back.min()), max(there.max(), back.max())
    value = optimize.brentq(imbalance, low - 1.0, high + 1.0, xtol=1e-12)
    ahead, behind = terms(value)
    slope = np.mean(ahead * (1 - ahead) + behind * (1 - behind))
    error = np.std(ahead - behind, ddof=1) / math.sqrt(len(there))
    if slope < 1 / len(there):  # fewer than one walk says where between the two
        return value, math.inf
    return value, error / slope


def _weight_reasons(there, back, ess, error):
    if not np.all(np.isfinite([there, back])):
        return ["log weights are not finite"]
    reasons = []
    if not ess >= _ESS_LIMIT:
        reasons.append(f"ESS of the weights is {ess:.3g} of {len(there)} (< 10)")
    elif not math.isfinite(error):
        reasons.append("no walk there is like one back")
    gap = np.mean(there) - np.mean(back)
    gap_error = math.sqrt((np.var(there) + np.var(back)) / len(there))
    if gap > _FEW_ERRORS * gap_error:
        reasons.append(
            f"walks there weigh {gap:.3g} nats more than walks back, which began where "
            "p is not"
        )
    return reasons


def _bracket_reasons(there, back, value):
    """Whether one side of the bracket is by far the wider.

    Log weights near a normal law of variance s^2 lie s^2 / 2 below log Z there and as
    far above it back. Those of walks back from a p that has no norm have no mean.
    """
    gaps = [value - np.mean(there), np.mean(back) - value]
    narrow = int(np.argmin(gaps))
    error = np.std((there, back)[narrow]) / math.sqrt(len(there))
    if not max(gaps) > _LOPSIDED * (max(0.0, gaps[narrow]) + 2 * error):
        return []
    return [
        f"log Z is {gaps[0]:.3g} nats above the walks there and {gaps[1]:.3g} below "
        "those back, as if one of them had no mean"
    ]


def _constant_reasons(f):
    """Whether f may have been seen only where it says nothing."""
    if not np.ptp(f) == 0:
        return []
    return ["f was the same in all draws, which is exact only if it is constant"]


def _walk_reasons(f_at_p, is_accepted):
    """Whether the walks had come to p when they turned, and moved at all."""
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
