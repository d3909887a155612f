"""Bennett's acceptance ratio: log Z from the log weights of walks in two directions.

    mean over forward of sigmoid(w - log Z)  =  mean over reverse of sigmoid(log Z - w)

It is the number at which a walk is as likely to be taken for one of the other direction
as the other way round.

Source: Bennett (1976), "Efficient estimation of free energy differences from Monte
Carlo data"; Crooks (2000), "Path ensemble averages".
"""

__all__ = ["bennett", "log_weights"]

import math

import numpy as np
from scipy import optimize, special


def log_weights(f: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the log weights of forward and reverse walks.

    Args:
        f: [1 + 3 K, walks], scale f at the start and after each iteration, nats.
        share: [K + 1], b_0 ... b_K.

    Returns:
        forward: [walks], nats.
        reverse: [walks], nats.
    """
    num_steps = len(share) - 1
    rises = np.diff(share)
    return rises @ f[:num_steps], rises[::-1] @ f[2 * num_steps + 1 :]


def bennett(forward: np.ndarray, reverse: np.ndarray) -> tuple[float, float]:
    """Return Bennett's acceptance ratio for as many forward walks as reverse ones.

    The error allows for a reverse walk that depends on the forward one it goes on from.

    Args:
        forward: [walks], log weights, nats.
        reverse: [walks], log weights, nats.

    Returns:
        value: log Z, nats.
        standard_error: nats; infinite where no forward walk is like a reverse one.
    """
    if not np.all(np.isfinite([forward, reverse])):
        return math.nan, math.inf

    def terms(value):
        return special.expit(forward - value), special.expit(value - reverse)

    def imbalance(value):
        ahead, behind = terms(value)
        return np.mean(ahead - behind)

    low, high = min(forward.min(), reverse.min()), max(forward.max(), reverse.max())
    value = optimize.brentq(imbalance, low - 1.0, high + 1.0, xtol=1e-12)
    ahead, behind = terms(value)
    slope = np.mean(ahead * (1 - ahead) + behind * (1 - behind))
    error = np.std(ahead - behind, ddof=1) / math.sqrt(len(forward))
    if slope < 1 / len(forward):  # fewer than one walk lies between the two
        return value, math.inf
    return value, error / slope
