"""Segments of an image as unions of atoms, the pieces of a partition of its pixels.

    s         = union of the atoms a with members[s, a]
    |s and t| = sum_ab members[s, a] |a and b| members[t, b]

so that areas, overlaps and counts of labels are matrix products, whose size does not
depend on that of the image.

Source: IoU of segments, Everingham et al. 2010.
"""

__all__ = [
    "Segments",
    "best_iou",
    "check_same_size",
    "checked_binary",
    "joined",
    "over_few_atoms",
    "recall",
]

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike

from keras_tilt.validation import as_label_map, check_count


@dataclasses.dataclass(frozen=True, eq=False)
class Segments:
    """Segments of one image, which may overlap.

    Attributes:
        atoms: the atom of every pixel, int32 [height, width]; each of 0..atoms - 1 has
            a pixel, -1 is in no segment.
        members: the atoms of every segment, bool [segments, atoms].

    Raises:
        ValueError: atoms and members that do not match, or a segment without pixels.

    Example:
        >>> segments = Segments([[0, 0, 1], [2, 2, -1]], [[1, 1, 0], [0, 1, 1]])
        >>> segments.areas
        array([3, 3])
        >>> segments.overlap(segments)
        array([[3, 1],
               [1, 3]])
    """

    atoms: np.ndarray
    members: np.ndarray

    def __post_init__(self):
        atoms = as_label_map("atoms", self.atoms)
        members = checked_binary("members", self.members, "[segments, atoms]")
        _check_fit(atoms, members)
        _check_have_pixels(members)
        object.__setattr__(self, "atoms", atoms)
        object.__setattr__(self, "members", members)

    def __len__(self) -> int:
        return len(self.members)

    @property
    def shape(self) -> tuple[int, int]:
        """Return (height, width) of the image."""
        return self.atoms.shape

    @functools.cached_property
    def sizes(self) -> np.ndarray:
        """Return the number of pixels of every atom, int64 [atoms]."""
        inside = self.atoms[self.atoms >= 0]
        return np.bincount(inside, minlength=self.members.shape[1])

    @functools.cached_property
    def areas(self) -> np.ndarray:
        """Return the number of pixels of every segment, int64 [segments]."""
        return self.members @ self.sizes

    @functools.cached_property
    def boxes(self) -> np.ndarray:
        """Return the bounding box of every segment, int32 [segments, 4].

        Top, left, bottom, right; the last two are exclusive.
        """
        rows, columns = np.indices(self.shape)
        starts = [self._smallest(rows), self._smallest(columns)]
        ends = [1 - self._smallest(-rows), 1 - self._smallest(-columns)]
        return np.stack(starts + ends, axis=1).astype(np.int32)

    def _smallest(self, values):
        """Return the smallest value of a map in every segment, [segments]."""
        inside = self.atoms >= 0
        of_atoms = np.full(self.members.shape[1], values.max())
        np.minimum.at(of_atoms, self.atoms[inside], values[inside])
        of_atoms = np.broadcast_to(of_atoms, self.members.shape)
        return of_atoms.min(axis=1, where=self.members, initial=values.max())

    def masks(self, indices: np.ndarray | Sequence[int] | None = None) -> np.ndarray:
        """Return the masks of segments, bool [k, height, width].

        Args:
            indices: indices of segments, [k]; by default all.
        """
        members = self.members if indices is None else self.members[indices]
        return np.pad(members, [(0, 0), (0, 1)])[:, self.atoms]  # -1 is the added atom

    def select(self, indices: np.ndarray | Sequence[int]) -> "Segments":
        """Return some of the segments, in this order, over as few atoms as they need.

        Args:
            indices: indices of segments, [k], or bool [segments].

        Returns:
            segments: `Segments`; atoms that lie in the same segments are merged, those
                in none of them become -1.
        """
        return over_few_atoms(self.atoms, self.members[indices])

    def pixels_by_label(self, labels: ArrayLike, num_labels: int) -> np.ndarray:
        """Return the pixels of each segment with each label, int64 [segments, labels].

        Args:
            labels: integers in -1..num_labels - 1, [height, width]; pixels of -1 are
                not counted.
            num_labels: number of labels.

        Raises:
            ValueError: a map of another size, or labels out of this range.
        """
        check_count("num_labels", num_labels, 0)
        labels = as_label_map("labels", labels)
        _check_below(labels, num_labels)
        return self._pixels_under(labels, num_labels).astype(np.int64)

    def overlap(self, other: "Segments") -> np.ndarray:
        """Return the pixels that every segment shares with every other, int64 [s, t].

        Args:
            other: `Segments` of the same image, with any atoms.

        Raises:
            ValueError: images of different sizes.
        """
        pixels = self._pixels_under(other.atoms, other.members.shape[1])
        return (pixels @ other.members.T.astype(pixels.dtype)).astype(np.int64)

    def iou(self, other: "Segments") -> np.ndarray:
        """Return |s and t| / |s or t|, float64 [s, t]; the argument as in `overlap`."""
        common = self.overlap(other)
        return common / (self.areas[:, np.newaxis] + other.areas - common)

    def _pixels_under(self, labels, num_labels):
        """Return `pixels_by_label` as floats, which are exact and multiply fast."""
        check_same_size(self.shape, labels.shape)
        exact = np.float32 if labels.size <= 2**24 else np.float64
        counted = (self.atoms >= 0) & (labels >= 0)
        pixels = scipy.sparse.coo_array(
            (np.ones(counted.sum(), exact), (labels[counted], self.atoms[counted])),
            shape=(num_labels, self.members.shape[1]),
        )
        return (pixels.tocsr() @ self.members.T.astype(exact)).T


def best_iou(proposals: Segments, truth: Segments) -> np.ndarray:
    """Return the IoU of every true segment with its best proposal, [t]; 0 without any.

    Args:
        proposals: `Segments`.
        truth: `Segments` of the same image, t of them.
    """
    return truth.iou(proposals).max(axis=1, initial=0.0)


def recall(proposals: Segments, truth: Segments, threshold: float = 0.5) -> np.ndarray:
    """Return which true segments have a proposal, bool [t]; the mean is the recall.

    Args:
        proposals: `Segments`.
        truth: `Segments` of the same image, t of them.
        threshold: IoU at or above which a segment is found.
    """
    return best_iou(proposals, truth) >= threshold


# Fewer atoms, and those of several sets


def over_few_atoms(atoms: np.ndarray, members: np.ndarray) -> Segments:
    """Return segments with those atoms merged that lie in the same segments.

    Args:
        atoms: the atom of every pixel, [height, width]; -1 for none.
        members: bool [segments, atoms].
    """
    used = members.any(axis=0)
    numbers = _numbered(members[:, used].T)
    renumbered = np.full(members.shape[1] + 1, -1)
    renumbered[:-1][used] = numbers
    return Segments(renumbered[atoms], members[:, used][:, _first_places(numbers)])


def joined(*several: Segments) -> Segments:
    """Return all segments of several sets of one image, each once, in order.

    Args:
        *several: `Segments`.

    Returns:
        segments: `Segments`; their atoms are the common refinement of all partitions.
            Of segments of the same pixels the first is kept.

    Raises:
        ValueError: no set, or images of different sizes.

    Example:
        >>> from keras_tilt.masking.segments import of_masks
        >>> first = of_masks([[[1, 1, 0]]])
        >>> second = of_masks([[[0, 1, 1]], [[1, 1, 0]]])
        >>> joined(first, second).masks().astype(int).tolist()
        [[[1, 1, 0]], [[0, 1, 1]]]
    """
    _check_any(several)
    pieces, parts = _common_pieces([segments.atoms for segments in several])
    members = np.concatenate(
        [
            np.pad(segments.members, [(0, 0), (0, 1)])[:, part]
            for segments, part in zip(several, parts, strict=True)
        ]
    )
    return over_few_atoms(pieces, members[_first_places(_numbered(members))])


def _common_pieces(several):
    """Return the common refinement of several partitions.

    Args:
        several: maps of atoms, list of [height, width].

    Returns:
        pieces: the piece of every pixel, [height, width].
        parts: for every map, the atom that holds every piece, [pieces].
    """
    pieces = np.zeros(several[0].shape, int)
    for atoms in several:
        pairs = pieces * (atoms.max() + 2) + atoms
        pieces = np.unique(pairs, return_inverse=True)[1]
    first = _first_places(pieces.ravel())
    return pieces, [atoms.ravel()[first] for atoms in several]


def _numbered(rows):
    """Return a number for every row of bool [rows, columns], the same if rows agree."""
    known = {}
    packed = np.packbits(rows, axis=1)
    return np.array(
        [known.setdefault(row.tobytes(), len(known)) for row in packed], int
    )


def _first_places(numbers):
    """Return the index at which every number occurs first."""
    return np.unique(numbers, return_index=True)[1]


# Checks


def checked_binary(name: str, values: ArrayLike, axes: str) -> np.ndarray:
    """Return a bool array, from one of bool or of 0 and 1.

    Args:
        name: of the argument, for an error.
        values: the array.
        axes: their names, such as "[segments, height, width]".
    """
    try:
        values = np.asarray(values)
    except ValueError as error:  # rows of several lengths
        raise ValueError(
            f"`{name}` must be one array {axes}. Received: parts of different sizes "
            f"({error}). Make them equally large."
        ) from error
    if values.ndim != axes.count(",") + 1 or values.dtype.kind not in "biuf":
        raise ValueError(
            f"`{name}` must be bool {axes}. Received: {values.dtype} "
            f"{list(values.shape)}. Stack them along the first axis."
        )
    if values.dtype != bool and not np.all((values == 0) | (values == 1)):
        raise ValueError(
            f"`{name}` must be bool, or 0 and 1. Received: values from {values.min()} "
            f"to {values.max()}. Compare with a threshold first."
        )
    return values.astype(bool, copy=False)


def _check_fit(atoms, members):
    count = members.shape[1]
    inside = atoms[atoms >= 0]
    if atoms.max() >= count or not np.bincount(inside, minlength=count).all():
        raise ValueError(
            "Expected as many atoms on the map as columns of `members`, each with a "
            f"pixel. Received: {len(np.unique(inside))}, up to number {atoms.max()}, "
            f"and {count} columns. Number the atoms without gaps."
        )


def _check_have_pixels(members):
    (empty,) = np.nonzero(~members.any(axis=1))
    if len(empty):
        raise ValueError(
            "Expected segments of a pixel or more. Received: empty ones, number "
            f"{', '.join(map(str, empty[:3]))}, {len(empty)} of {len(members)} in all. "
            "Leave them out."
        )


def _check_below(labels, num_labels):
    if labels.max() >= num_labels:
        raise ValueError(
            f"`labels` must be in -1..{num_labels - 1}, as there are {num_labels} "
            f"labels. Received: {labels.max()}. Set what must not count to -1."
        )


def check_same_size(expected: Sequence[int], received: Sequence[int]) -> None:
    """Raise a ValueError unless two pairs (height, width) are equal."""
    if tuple(expected) != tuple(received):
        raise ValueError(
            f"Expected the height and width of one image, {tuple(expected)}. Received: "
            f"{tuple(received)}. Pass what belongs to the same image, at one size."
        )


def _check_any(several):
    if not several:
        raise ValueError(
            "Expected one set of segments or more. Received: none. For an image "
            "without segments pass an empty set."
        )
    for segments in several:
        check_same_size(several[0].shape, segments.shape)
