"""Arrays of .npz files, or an error that says what is there instead.

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

import zipfile
import zlib

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


def read_npz(path, keys, advice=""):
    """Return the arrays of an .npz that have one of the names.

    Args:
        path: the file, a `pathlib.Path`.
        keys: names of arrays.
        advice: what else to say of a file that cannot be read.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected an .npz file. Received: {path}, which is none. Check the path."
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


def keys_of(path):
    """Return the names of the arrays of an .npz as text, for an error."""
    with np.load(path, allow_pickle=False) as archive:
        return ", ".join(sorted(archive.files)) or "none"


def are_encoded(buffer, offsets, count):
    """Return whether offsets [count + 1] rise from 0 on within a buffer of bytes."""
    return (
        buffer.dtype == np.uint8
        and offsets.shape == (count + 1,)
        and offsets[0] >= 0
        and np.all(np.diff(offsets) >= 0)
        and offsets[-1] <= len(buffer)
    )


def encoded_image(buffer, offsets, i):
    """Return the bytes of image i."""
    return buffer[offsets[i] : offsets[i + 1]].tobytes()
