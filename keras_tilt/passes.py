"""One pass over a data set: it must end, and shows a bar where it takes long."""

__all__ = ["one_pass"]

import tensorflow as tf
from tqdm import auto as tqdm

_QUIET = 10.0  # seconds before the bar is shown


def one_pass(name, batches, doing):
    """The batches of a data set, one after the other.

    Args:
        name: of the argument, for an error.
        batches: `tf.data.Dataset` or another iterable.
        doing: word of the bar.

    Raises:
        ValueError: a data set that says of itself that it has no end.
    """
    cardinality = getattr(batches, "cardinality", None)
    count = int(cardinality() if callable(cardinality) else cardinality or -2)
    if count == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            f"`{name}` must be a data set that ends, as it is read once from the first "
            "batch to the last. Received: one without an end. Leave out `repeat()`, or "
            "pass a part, `.take(steps)`."
        )
    total = count if count >= 0 else None  # that of a generator is not known
    return tqdm.tqdm(batches, doing, total, unit="batch", leave=False, delay=_QUIET)
