"""Segments from files: an .npz of masks, labels or atoms, a .json of run lengths.

    of_arrays(arrays(segments)) = segments

Members are stored as bits, eight to a byte.
"""

__all__ = ["arrays", "of_arrays", "of_file"]

import json
import os
import pathlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from keras_tilt.masking.segments.atoms import Segments, check_same_size
from keras_tilt.masking.segments.masks import of_label_map, of_masks
from keras_tilt.masking.segments.run_lengths import of_rle
from keras_tilt.validation import as_label_map

_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError)


def of_file(
    path: str | os.PathLike[str], shape: Sequence[int] | None = None
) -> Segments:
    """Return the segments of an image from a file in one of two formats.

    An .npz holds `masks` [segments, height, width], or `labels` [height, width], or
    what `arrays` returns. A .json holds a list of run lengths, as `of_rle` takes them,
    or of dicts with run lengths under "segmentation".

    Args:
        path: the file.
        shape: (height, width) of the image; required if a .json may be an empty list.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds something else, or segments of another image size.
    """
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected a file of segments. Received: {path}, which is not a file. "
            "Check the path."
        )
    try:
        is_json = path.suffix == ".json"
        segments = _of_json(path, shape) if is_json else _of_npz(path)
        if shape is not None:
            check_same_size(shape, segments.shape)
    except _UNREADABLE as error:
        raise ValueError(
            f"Expected {path} to hold the segments of an image. Received: a file that "
            f"does not. {error}"
        ) from error
    return segments


def _of_json(path, shape):
    items = json.loads(path.read_bytes())
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ValueError(
            "Expected a list of run lengths, each a dict. Received: "
            f"{str(items)[:60]}. Write a list, even for one segment."
        )
    return of_rle([item.get("segmentation", item) for item in items], shape)


def _of_npz(path):
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"Expected an .npz or a .json. Received: {path.name}, which is no archive. "
            "Write it with np.savez, or fetch it again."
        )
    with np.load(path, allow_pickle=False) as archive:
        found = dict(archive)
    if {"atoms", "members"} <= found.keys():
        return of_arrays(found)
    if "masks" in found:
        return of_masks(found["masks"])
    if "labels" in found:
        return of_label_map(found["labels"])
    raise ValueError(
        "Expected the array `masks`, or `labels`, or `atoms` and `members`. Received: "
        f"{', '.join(found) or 'none'}. Rename it."
    )


def arrays(segments: Segments) -> dict[str, np.ndarray]:
    """Return segments as arrays for an .npz, the inverse of `of_arrays`.

    Args:
        segments: `Segments`.

    Returns:
        arrays: "atoms", integers of the smallest type that holds them [height, width],
            and "members", uint8 [segments, ceil(atoms / 8)].

    Example:
        >>> arrays(of_masks([[[1, 1, 0]], [[0, 1, 0]]]))["members"]
        array([[192],
               [ 64]], dtype=uint8)
    """
    smallest = np.min_scalar_type(-1 - segments.members.shape[1])
    return {
        "atoms": segments.atoms.astype(smallest),
        "members": np.packbits(segments.members, axis=1),
    }


def of_arrays(arrays: Mapping[str, ArrayLike]) -> Segments:
    """Return the segments that `arrays` was given: the same atoms and members.

    Args:
        arrays: "atoms" and "members".

    Raises:
        ValueError: one is missing, or they do not match.
    """
    if not {"atoms", "members"} <= arrays.keys():
        raise ValueError(
            "Expected the arrays `atoms` and `members`. Received: "
            f"{', '.join(arrays) or 'none'}. Pass what `arrays` returned."
        )
    atoms = as_label_map("atoms", arrays["atoms"])
    members = np.asarray(arrays["members"])
    count = int(atoms.max()) + 1
    if members.dtype != np.uint8 or members.shape[1:] != (-(-count // 8),):
        raise ValueError(
            f"Expected `members` uint8 [segments, {-(-count // 8)}], packed bits of "
            f"{count} atoms. Received: {members.dtype} {list(members.shape)}. "
            "Pass what `arrays` returned."
        )
    return Segments(atoms, np.unpackbits(members, axis=1, count=count).astype(bool))
