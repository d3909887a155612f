"""Samples from the densities of a network's units while it learns, in TensorBoard.

    after every epoch    p(x) = exp(scale f(x)) q(x) / Z    of the weights as they are

The chains go on from where the last epoch of a training left them: a unit changes
little from one to the next, and so does its density.
"""

__all__ = ["UnitSamples"]

import os
from collections.abc import Callable, Mapping
from typing import Any, cast

import keras
import numpy as np
import tensorflow as tf

from keras_tilt.sampling.sampler import sample
from keras_tilt.sampling.samples import Samples
from keras_tilt.tilt import Tilt
from keras_tilt.validation import as_number, check_count


class UnitSamples(keras.callbacks.Callback):
    """Write samples from units' densities to TensorBoard during `fit`.

    For every unit the images of all chains, f and its R-hat as curves, and the verdict
    on convergence as text.

    Args:
        log_dir: folder for TensorBoard.
        tilts: dict, name -> `Tilt` of a unit of the network that is fitted; or a
            function of the model that returns it, called when training begins.
        seed: a whole number; equal seeds give equal samples for equal weights.
        num_chains: chains of each unit.
        num_results: draws of each chain after an epoch, 4 or more.
        num_burnin_steps: iterations before them, in which the step is adapted.
        every: epochs from one sampling to the next.
        low: pixel value shown black.
        high: pixel value shown white.

    Raises:
        ImportError: where TensorBoard is not installed.
        TypeError: if `tilts` is neither a dict of tilts nor a function.
        ValueError: for a number out of range.

    Example:
        >>> import keras_tilt as kt
        >>> network = kt.lenet()
        >>> unit = kt.unit(network, class_index=3)
        >>> callback = UnitSamples(
        ...     "logs", {"three": kt.Tilt(unit, kt.box(unit.input_shape))}, seed=7
        ... )
    """

    def __init__(
        self,
        log_dir: str | os.PathLike,
        tilts: Mapping[str, Tilt] | Callable[[keras.Model], Mapping[str, Tilt]],
        *,
        seed: int,
        num_chains: int = 4,
        num_results: int = 10,
        num_burnin_steps: int = 20,
        every: int = 1,
        low: float = 0.0,
        high: float = 1.0,
    ) -> None:
        super().__init__()
        _import_tensorboard()
        if not callable(tilts):
            _check_tilts(tilts)
        check_count("seed", seed, 0)
        check_count("num_chains", num_chains, 1)
        check_count("num_results", num_results, 4)
        check_count("num_burnin_steps", num_burnin_steps, 1)
        check_count("every", every, 1)
        if not as_number("low", low) < as_number("high", high):
            raise ValueError(
                f"`low` must be below `high`. Received: {low!r} and {high!r}. "
                "Pass the pixels that are to be black and white."
            )
        self.log_dir, self._tilts_or_maker, self._seed = log_dir, tilts, seed
        self._counts: dict[str, Any] = {
            "num_chains": num_chains,
            "num_results": num_results,
            "num_burnin_steps": num_burnin_steps,
        }
        self._every, self._low, self._high = every, low, high

    def on_train_begin(self, logs: Mapping | None = None) -> None:
        """Make the tilts, and open the file."""
        tilts = self._tilts_or_maker
        if callable(tilts):
            tilts = _check_tilts(tilts(self.model))
        self._tilts: Mapping[str, Tilt] = tilts
        self._noise: dict[str, np.ndarray] = {}
        self._writer = tf.summary.create_file_writer(str(self.log_dir))

    def on_train_end(self, logs: Mapping | None = None) -> None:
        """Close the file."""
        self._writer.close()

    def on_epoch_end(self, epoch: int, logs: Mapping | None = None) -> None:
        """Sample all units; their chains continue from the last time."""
        if (epoch + 1) % self._every:
            return
        with self._writer.as_default(step=epoch + 1):
            for i, (name, tilt) in enumerate(self._tilts.items()):
                drawn = sample(
                    tilt,
                    **self._counts,
                    seed=[self._seed + i, epoch],
                    initial_noise=self._noise.get(name),
                    thin=self._counts["num_results"],
                    progress=False,
                )
                samples = cast(Samples, drawn)  # of one tilt, not of a list
                self._noise[name] = samples.noise[-1]
                self._write(name, samples)

    def _write(self, name, samples):
        images = np.asarray(samples.images[-1], np.float32)
        shown = np.clip((images - self._low) / (self._high - self._low), 0.0, 1.0)
        tf.summary.image(f"{name}/samples", shown, max_outputs=len(shown))
        tf.summary.scalar(f"{name}/f", samples.f.mean())
        tf.summary.scalar(f"{name}/R-hat of f", samples.diagnostics.r_hat)
        tf.summary.text(f"{name}/verdict", str(samples.diagnostics))


def _check_tilts(tilts):
    is_dict = isinstance(tilts, Mapping) and tilts
    if not is_dict or not all(isinstance(one, Tilt) for one in tilts.values()):
        raise TypeError(
            "`tilts` must be a dict of Tilts by name, or a function of the model that "
            f"makes one. Received: {tilts!r}. Pass for example "
            "{'three': kt.Tilt(kt.unit(network, class_index=3), reference)}."
        )
    return tilts


def _import_tensorboard():
    try:
        import tensorboard  # noqa: F401  (tf.summary writes with it)
    except ImportError as error:
        raise ImportError(
            "UnitSamples needs TensorBoard. Received: no package `tensorboard`. "
            "Install it: pip install tensorboard."
        ) from error
