"""Arrays of .npz files, or an error that says what a file holds instead.

    image i of encoded images = the bytes buffer[offsets[i] : offsets[i + 1]]

Nothing is unpickled.
"""

__all__ = [
    "UNREADABLE",
    "are_encoded",
    "encoded_image",
    "keys_of",
    "read_npz",
]

import pathlib
import zipfile
import zlib
from collections.abc import Collection

import numpy as np

# What NumPy raises on damaged archives; TypeError when it is a single array instead.
UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    TypeError,
)


def read_npz(
    path: pathlib.Path, keys: Collection[str], advice: str = ""
) -> dict[str, np.ndarray]:
    """Return those arrays of an .npz file that have one of the names.

    Args:
        path: the file.
        keys: names of arrays.
        advice: last sentence of the error for a file that cannot be read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected an .npz file. Received: {path}, which is not a file. "
            "Check the path."
        )
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in keys if key in archive.files}
    except UNREADABLE as error:
        raise ValueError(
            f"Expected {path} to be a complete .npz archive. Received: a file of "
            f"{path.stat().st_size} bytes that cannot be read ({error}). "
            f"It may be truncated: fetch it again. {advice}".rstrip()
        ) from error


def keys_of(path: pathlib.Path) -> str:
    """Return the names of all arrays of an .npz file as text, for an error."""
    with np.load(path, allow_pickle=False) as archive:
        return ", ".join(sorted(archive.files)) or "none"


def are_encoded(buffer: np.ndarray, offsets: np.ndarray, count: int) -> bool:
    """Return whether offsets [count + 1] are those of images in a buffer of bytes."""
    return bool(
        buffer.dtype == np.uint8
        and offsets.shape == (count + 1,)
        and offsets[0] >= 0
        and np.all(np.diff(offsets) >= 0)
        and offsets[-1] <= len(buffer)
    )


def encoded_image(buffer: np.ndarray, offsets: np.ndarray, i: int) -> bytes:
    """Return the bytes of image i."""
    return buffer[offsets[i] : offsets[i + 1]].tobytes()
