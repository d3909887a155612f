"""Images that cannot be decoded: which they are, and how many are too many.

    allowed = ceil(limit n) of the n images of a source

One damaged file should not end a training of days, and a damaged disk should not go
unnoticed.
"""

__all__ = ["Corrupt"]

import math
from collections.abc import Iterable

from keras_tilt.data.sources.image_source import Source

_SHOWN = 10  # names in an error


class Corrupt:
    """Collects the images that could not be decoded; too many are an error.

    Pass one object to the batches of every epoch: an image is counted once.

    Args:
        limit: share of the images of a source, in [0, 1], that may be left out,
            rounded up to whole images: any limit above 0 allows one, 0 allows none.
    """

    def __init__(self, limit: float = 0.001) -> None:
        if not 0 <= limit <= 1:
            raise ValueError(
                "`limit` must be a share of the images, in 0..1. "
                f"Received: {limit!r}. Pass for example limit=0.001."
            )
        self.limit = limit
        # By id of the source: the source, and names by image index.
        self._found: dict[int, tuple[Source, dict[int, str]]] = {}

    @property
    def names(self) -> list[str]:
        """Return the names of the images left out so far, sorted."""
        return sorted(
            {name for _, names in self._found.values() for name in names.values()}
        )

    def add(self, source: Source, numbers: Iterable[int]) -> None:
        """Record images of a source.

        Args:
            source: a `sources.Source`.
            numbers: image indices.

        Raises:
            ValueError: once they are more than the limit.
        """
        _, names = self._found.setdefault(id(source), (source, {}))
        names.update({int(i): source.name(int(i)) for i in numbers})
        allowed = math.ceil(self.limit * len(source.labels))
        if len(names) > allowed:
            first = sorted(names.values())
            more = ["..."] * (len(first) > _SHOWN)
            raise ValueError(
                f"keras_tilt: At most {allowed} of {len(source.labels)} images may be "
                f"unreadable (limit {self.limit:g}). Received: {len(names)}, "
                f"{', '.join(first[:_SHOWN] + more)}. Save them as PNG or JPEG, or "
                "raise the limit."
            )
