"""Windows of cells and of pixels, along one axis.

    cell o of a layer reads    (o stride - pad) // up
                            .. (o stride - pad + size - 1) // up, cells of the map below
    cell i of a map sees       windows[i % n], moved by i // n step, pixels

Only a layer that makes a map larger has an `up` other than 1. Going up, a layer
(k, s, p, 1) makes of (size, stride, start)

    (size + (k - 1) stride,  stride s,  start - p stride)

Past an enlarged map neighbouring cells may see windows of different sizes, which repeat
after a few cells. Branches that meet see the union.

Source: Araujo, Norris and Sim, "Computing receptive fields of convolutional neural
networks", Distill 2019.
"""

__all__ = [
    "NOWHERE",
    "CellsRead",
    "Interval",
    "PixelsSeen",
    "composed",
    "hull",
    "united",
    "whole_image",
]

import fractions
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

# (first, end): of cells or pixels along one axis; the end is outside, and None where
# the size of the image is not known.
Interval = tuple[int, Any]

NOWHERE = (0, 0)  # no cell can be cropped


class CellsRead(NamedTuple):
    """What cell o of a step reads, along one axis.

        cells (o stride - pad) // up .. (o stride - pad + size - 1) // up

    Attributes:
        size: cells that a kernel or a pool spans.
        stride: cells between what neighbouring cells read.
        pad: cells of padding before the first.
        up: by how much the layer makes a map larger.
    """

    size: int
    stride: int
    pad: int
    up: int = 1

    def first(self, cell: int) -> int:
        """Return the first cell that a cell reads."""
        return (cell * self.stride - self.pad) // self.up

    def last(self, cell: int) -> int:
        """Return the last cell that a cell reads."""
        return (cell * self.stride - self.pad + self.size - 1) // self.up

    def full(self, first: int, end: int) -> Interval:
        """Return (first, end) of the cells that read only cells first .. end - 1."""
        return (
            -(-(first * self.up + self.pad) // self.stride),
            (end * self.up + self.pad - self.size) // self.stride + 1,
        )


class PixelsSeen(NamedTuple):
    """What the cells of a map see along one axis.

        cell i sees pixels windows[i % n], moved by i // n step

    Attributes:
        windows: ((first, end), ...) of cells 0 .. n - 1.
        step: pixels by which the windows of the next n cells are shifted.
        clean: (first, end) of the cells that can be cropped: they see a part of the
            image, and no padding.
        image: (name, pixels along the axis or None) of the input that these are of.
    """

    windows: tuple[Interval, ...]
    step: int
    clean: Interval
    image: tuple[str, int | None]

    def window(self, cell: int) -> Interval:
        """Return (first, end) of the pixels that a cell sees."""
        moved = cell // len(self.windows) * self.step
        first, end = self.windows[cell % len(self.windows)]
        return first + moved, end + moved

    @property
    def stride(self) -> fractions.Fraction:
        """Pixels between neighbouring cells, on average."""
        return fractions.Fraction(self.step, len(self.windows))

    @property
    def size(self) -> int | None:
        """The most pixels that a cell sees; None: the whole image, of unknown size."""
        (first, end), *others = self.windows
        return None if end is None else max([end - first, *(b - a for a, b in others)])


def whole_image(below: PixelsSeen) -> PixelsSeen:
    """Return what cells see that see the whole image, as `below` names it."""
    return PixelsSeen(((0, below.image[1]),), 0, NOWHERE, below.image)


def composed(reads: CellsRead, below: PixelsSeen, clean: Interval) -> PixelsSeen:
    """Return what a cell sees, by the cells below that it reads and what these see.

    Args:
        reads: `CellsRead`.
        below: `PixelsSeen` of the cells below.
        clean: (first, end) of the cells that can be cropped.
    """
    count = len(below.windows)
    period = reads.up * count // math.gcd(reads.stride, reads.up * count)
    ends = [(reads.first(cell), reads.last(cell)) for cell in range(period)]
    windows = tuple((below.window(a)[0], below.window(b)[1]) for a, b in ends)
    moved = period * reads.stride // (reads.up * count) * below.step
    windows, moved = _shortest(windows, moved)
    return PixelsSeen(windows, moved, clean, below.image)


def _shortest(windows, step):
    """Return the same windows of as few cells as say all, and their step."""
    cells = len(windows)
    for count in range(1, cells):
        moved = step * count // cells
        short = [
            (a + i // count * moved, b + i // count * moved)
            for i, (a, b) in enumerate(windows[:count] * (cells // count))
        ]
        if tuple(short) == windows and moved * cells == step * count:
            return windows[:count], moved
    return windows, step


def united(fields: Sequence[PixelsSeen]) -> PixelsSeen:
    """Return what a cell sees through several inputs: the union.

    Args:
        fields: list of `PixelsSeen` of one image and one stride.
    """
    count = math.lcm(*(len(field.windows) for field in fields))
    windows = tuple(
        hull([(field.window(cell),) for field in fields])[0] for cell in range(count)
    )
    starts, ends = zip(*(field.clean for field in fields), strict=True)
    moved = int(fields[0].stride * count)
    return PixelsSeen(windows, moved, (max(starts), min(ends)), fields[0].image)


def hull(several: Iterable[Sequence[Interval]]) -> tuple[Interval, ...]:
    """Return the smallest window that holds several windows, of as many axes."""
    axes = [list(zip(*axis, strict=True)) for axis in zip(*several, strict=True)]
    return tuple((min(first), max(end)) for first, end in axes)
