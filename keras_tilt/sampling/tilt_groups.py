"""Several tilts in one graph: f(T(z)) of several units, each on noise of its own.

    noise [tilts, chains, ...] -> f [tilts, chains]

Tilts of one reference whose units read the same features of a network share a graph.
The channels that they read are arguments of it, so that the graph traced for one class
serves all others. It is kept with the network, and freed with it.
"""

__all__ = [
    "chains_of",
    "check_start",
    "checked_tilts",
    "sampled_together",
    "stacked_response",
]

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tilt.sampling import kept
from keras_tilt.sampling.chains import ChainGraphs, Chains
from keras_tilt.sampling.kernels import Kernel
from keras_tilt.tilt import Tilt
from keras_tilt.units.algebra import Unit
from keras_tilt.units.groups import shared, stack
from keras_tilt.validation import few


def checked_tilts(tilt: Tilt | Sequence[Tilt]) -> list[Tilt]:
    """Return a list of one `Tilt` or of several, or raise an error."""
    tilts: list[Any] = list(tilt) if isinstance(tilt, list | tuple) else [tilt]
    for one in tilts:
        if not isinstance(one, Tilt):
            raise TypeError(
                "`tilt` must be a Tilt, or a list of them. "
                f"Received: {one!r}. Pass Tilt(unit, reference)."
            )
    if not tilts:
        raise ValueError("`tilt` must hold a Tilt. Received: an empty list. Add one.")
    return tilts


def stacked_response(tilts: Sequence[Tilt]) -> Callable[..., tf.Tensor]:
    """Return f(T(z)) of several tilts, each on noise of its own.

    Args:
        tilts: list of `Tilt`, of one reference.

    Returns:
        response: function, (noise [tilts, chains, ...], *read_outs) -> f [tilts,
            chains], nats; `read_outs` are those of a `UnitStack`, and may be left out.
    """
    first = tilts[0]
    several = stack([tilt.unit for tilt in tilts])
    of_units = all(isinstance(tilt.unit, Unit) for tilt in tilts)

    def response(noise, *read_outs):
        batch, event = noise.shape[:2], noise.shape[2:]
        images = first.to_images(tf.reshape(noise, [-1, *event]))
        if not of_units and len(tilts) == 1:
            return first.response(images)[None]
        f = several(tf.reshape(images, [*batch, *first.event_shape]), *read_outs)
        return tf.cast(f, first.reference.dtype)

    return response


def sampled_together(tilts: Sequence[Tilt]) -> list[list[int]]:
    """Return groups of tilts of one reference whose units read the same features.

    Args:
        tilts: list of `Tilt`.

    Returns:
        groups: list of lists of indices.
    """
    return [
        [i for i in group if tilts[i].reference is reference]
        for group in shared([tilt.unit for tilt in tilts])
        for reference in _distinct(tilts[i].reference for i in group)
    ]


def _distinct(objects):
    return list({id(one): one for one in objects}.values())


def chains_of(
    tilts: Sequence[Tilt],
    kernel: Kernel,
    places: Sequence[int],
    num_chains: int,
    mass: ArrayLike = 1.0,
    ladder: Sequence[float] | None = None,
) -> Chains:
    """Return the `Chains` of tilts that are sampled together.

    Graphs of units of one network are traced once, and kept with it for later calls
    with other classes or channels, as long as nothing else changes: the layers of the
    network and their attributes (weights may), the preprocessing, the reference, the
    kernel, and the number of chains.

    Args:
        tilts: list of `Tilt`, one group of `sampled_together`.
        kernel: name, as of `keras_tilt.sampling.kernels.transition_kernel`.
        places: of the tilts in their list, by which their chains draw.
        num_chains: of each tilt.
        mass: of the kernel "split", broadcastable to the noise of one chain.
        ladder: None, or inverse temperatures.
    """
    first = tilts[0]
    units: list[Any] = [tilt.unit for tilt in tilts]
    of_units = all(isinstance(unit, Unit) for unit in units)
    ladder = None if ladder is None else tuple(np.asarray(ladder).tolist())

    def made():
        return ChainGraphs(
            stacked_response(tilts),
            first.to_images,
            first.base,
            kernel,
            ladder,
            autograph=not of_units,
        )

    if not of_units:
        return Chains(made(), places, mass=mass)
    features = [features for unit in units for features, _ in unit.terms]
    key = (
        stack(units).groups,
        tuple(kept.state_of_features(one) for one in dict.fromkeys(features)),
        kept.state_of_reference(first.reference),
        tf.distribute.get_strategy(),
        (kernel, ladder, num_chains),
    )
    networks = {id(one.network): one.network for one in features}
    graphs = kept.kept([*networks.values()], key, made)
    return Chains(graphs, places, stack(units).read_outs, mass)


def check_start(tilts: Sequence[Tilt], start: Mapping[str, np.ndarray]) -> None:
    """Raise a ValueError unless f has a gradient, and both are finite, everywhere."""
    for tilt, f, slope in zip(tilts, start["f"], start["slope"], strict=True):
        name = getattr(tilt.unit, "name", "the unit")
        bad = np.flatnonzero(~(np.isfinite(f) & np.isfinite(slope)))
        if bad.size:
            raise ValueError(
                "f(x) and its gradient must be finite where a chain starts. Received: "
                f"{bad.size} of {f.size} chains where those of {name} are not, the "
                f"first of them chain {bad[0]} with f = {f[bad[0]]}. Check the unit "
                "for NaN, or pass another `initial_noise`."
            )
        if np.ptp(f) > 0 and not slope.any():
            raise ValueError(
                "The unit must have a gradient with respect to the image. Received: "
                f"{name}, whose gradient is zero in all {f.size} chains although f is "
                f"not the same, {few(f)}. Look for argmax, rounding, integers or "
                "NumPy in the network or in `preprocess`; read a layer before them."
            )
