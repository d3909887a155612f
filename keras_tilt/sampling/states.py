"""Where the states of the draws go: memory, a file, or a callback."""

__all__ = ["KeptStates"]

from collections.abc import Callable

import numpy as np

from keras_tilt.sampling.schedule import Plan
from keras_tilt.storage.run_folder import Run


class KeptStates:
    """Where the states of the draws go: memory, a file, or a callback.

    Args:
        plan: a `keras_tilt.sampling.schedule.Plan`.
        noise: [tilts, chains, ...], an array like the states.
        callback: None, or a function of the index of a draw and its noise.
        run: None, or the `keras_tilt.storage.run_folder.Run` of the file.
    """

    def __init__(
        self,
        plan: Plan,
        noise: np.ndarray,
        callback: Callable[[int, np.ndarray], object] | None,
        run: Run | None,
    ) -> None:
        self.thin, self.callback = plan.thin, callback
        self.kept: np.ndarray | None = None
        if callback is None:
            shape = (plan.num_results // plan.thin, *noise.shape)
            make = run.draws if run else np.empty
            self.kept = make(shape, noise.dtype)

    def add(self, draw: int, noise_of: Callable[[], np.ndarray]) -> None:
        """Keep the state after a draw, if it is one of every `thin`-th."""
        index, remainder = divmod(draw + 1, self.thin)
        if remainder:
            return
        if self.kept is not None:
            self.kept[index - 1] = noise_of()
        elif self.callback is not None:
            self.callback(draw, noise_of())

    def of(
        self, index: int, num_draws: int, noise_of: Callable[[], np.ndarray]
    ) -> np.ndarray:
        """Return the kept states of a tilt, [draws, chains, ...], or only the last."""
        if self.kept is None:
            return noise_of()[None, index]
        states = self.kept[: num_draws // self.thin, index]
        states.flags.writeable = False  # on the disk they are those of the run
        return states

    def flush(self) -> None:
        """Write the states to disk, if they are kept there."""
        if isinstance(self.kept, np.memmap):
            self.kept.flush()
