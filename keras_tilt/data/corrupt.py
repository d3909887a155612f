"""Images that cannot be decoded: which they are, and how many are too many.

    allowed = ceil(limit n) of the n images of a source

A file that cannot be read should not end a training of days, nor should many be missed.
"""

__all__ = ["Corrupt"]

import math

_SHOWN = 10  # names in an error


class Corrupt:
    """The images that could not be decoded, and how many of them are too many.

    Pass one object to the batches of every epoch: an image is counted once.

    Args:
        limit: share of the images of a source, in 0..1, that may be left out, rounded
            up to whole images: any limit above 0 allows one image, 0 allows none.
    """

    def __init__(self, limit=0.001):
        if not 0 <= limit <= 1:
            raise ValueError(
                "`limit` must be a share of the images, in 0..1. "
                f"Received: {limit!r}. Pass for example limit=0.001."
            )
        self.limit = limit
        self._found = {}  # by id of the source: it, and names by number

    @property
    def names(self):
        """What the sources call the images left out so far, sorted."""
        return sorted(
            {name for _, names in self._found.values() for name in names.values()}
        )

    def add(self, source, numbers):
        """Record images of a source; raise a ValueError once they are too many."""
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
