"""log Z of every class by both halves of the model: from data, and under a reference.

    of data          log mean over images x of exp(f_y(x)), as `calibrate` finds it
    of a reference   log E_q exp(f_y(x)), by draws of q

They are one number where q is the law of the images. Where it is not, they differ by
their errors and by log E_q exp(f_y) - log E_data exp(f_y), which is what one learns.

Source: Dai, Lu and Wu (2015), section on the model, for q.
"""

__all__ = ["NUM_DRAWS", "compared", "table", "write"]

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_tilt import plotting
from keras_tilt.data.pipelines import pipeline
from keras_tilt.partition.estimators import log_partition
from keras_tilt.tilt import Tilt
from keras_tilt.training.calibration import calibration_of, column_sums

NUM_DRAWS = 10_000  # of q for each class
_BATCH = 500


def compared(
    network: keras.Model,
    tilts: Sequence[Tilt],
    images: np.ndarray,
    labels: np.ndarray,
    num_draws: int,
    seed: int,
    num_walks: int = 0,
) -> list[dict[str, Any]]:
    """Return log Z of every class both ways, with standard errors, nats.

    Of a sharp network few draws of q carry all the weight. Its log Z can be annealed.

    Args:
        network: of logits.
        tilts: of its classes at scale 1, by one reference.
        images: [n, height, width, channels], pixels of the network.
        labels: [n].
        num_draws: of the reference, for each class.
        seed: of those, and of the walks.
        num_walks: of an annealing of the classes for which draws are not to be trusted,
            20 or more; 0: they stay as they are.
    """
    batches = pipeline(images, labels, min(_BATCH, len(images)), scale=1.0)
    sums = column_sums(network, batches, len(tilts))
    # log Z does not depend on the prior; with one, no class has to be among the labels.
    found = calibration_of(sums, np.full(len(tilts), 1 / len(tilts)))
    of_data = found.log_partition.astype(float)
    error = np.sqrt(np.maximum(1 / found.kish_ess - 1 / found.num_images, 0.0))
    under_q = log_partition(tilts, "importance", num_draws=num_draws, seed=seed)
    poor = [y for y, one in enumerate(under_q) if num_walks and not one.is_reliable]
    if poor:
        again = [tilts[y] for y in poor]
        annealed = log_partition(again, seed=seed, num_chains=num_walks)
        for y, one in zip(poor, annealed, strict=True):
            under_q[y] = one
    return [
        {
            "class": y,
            "of_data": of_data[y],
            "of_data_error": float(error[y]),
            "of_reference": one.value,
            "of_reference_error": one.standard_error,
            "annealed": y in poor,
            "verdict": one.verdict,
            "difference": one.value - of_data[y],
        }
        for y, one in enumerate(under_q)
    ]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a line for each class, and the root mean square of the differences."""
    lines = [f"log Z{'of the data':>19}{'under q':>17}{'difference':>14}"]
    for row in rows:
        lines.append(
            f"{row['class']:5}{row['of_data']:12.2f} +- {row['of_data_error']:.2f}"
            f"{row['of_reference']:10.2f} +- {row['of_reference_error']:.2f}"
            f"{row['difference']:13.2f}"
        )
    square = float(np.mean([row["difference"] ** 2 for row in rows]))
    return "\n".join(
        [*lines, f"Root mean square difference {math.sqrt(square):.2f} nats"]
    )


def write(out: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write log_partition.json and a picture of it into a folder."""
    (out / "log_partition.json").write_text(json.dumps(rows, indent=1) + "\n")
    plotting.error_bars(
        {
            "of held-out images": _with_errors(rows, "of_data"),
            "under the reference": _with_errors(rows, "of_reference"),
        },
        [f"{row['class']}" for row in rows],
        "log Z, nats",
    ).savefig(out / "log_partition.png", dpi=100)


def _with_errors(rows, name):
    """Return values and standard errors, [2, classes]."""
    return np.array([[row[name], row[f"{name}_error"]] for row in rows]).T
