"""Data that are there, as TFDS has prepared them or in an .npz, or what is there.

Nothing is ever downloaded, and nothing prepared here.
"""

__all__ = [
    "UNREADABLE",
    "check_room",
    "check_split",
    "find",
    "keys_of",
    "read_npz",
    "required",
]

import os
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


# TFDS


def find(name, data_dir):
    """Return the builder of TFDS that reads what is there, or None.

    Args:
        name: such as "cifar10" or "coco/2017_panoptic".
        data_dir: the folder of TFDS, that holds <name>/<version>.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import read_only_builder

    data_dir = os.path.expanduser(data_dir)
    try:
        return read_only_builder.builder_from_files(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        return None


def required(name, data_dir):
    """Return the builder, or raise a FileNotFoundError that says how to make it."""
    builder = find(name, data_dir)
    if builder is None:
        raise FileNotFoundError(
            f"Expected {name} prepared by TFDS in {data_dir}. Received: a folder "
            f"without it. Prepare it: tfds.builder('{name}', data_dir='{data_dir}', "
            "file_format='array_record').download_and_prepare()."
        )
    return builder


def check_split(builder, split):
    """Raise a ValueError unless it is a split of the builder, or a part of one."""
    try:
        count = builder.info.splits[split].num_examples
    except (KeyError, ValueError, AssertionError):
        count = 0
    if not count:
        raise ValueError(
            f"Expected a split of {builder.data_path}. Received: {split!r}. "
            f"Choose among {', '.join(builder.info.splits)}, or a part of one, "
            "such as 'train[:10%]'."
        )


def check_room(builder, split, largest):
    """Raise a ValueError for more bytes than are to be held in memory."""
    size = builder.info.splits[split].num_bytes
    if size > largest:
        raise ValueError(
            f"Expected {builder.data_path} in array_record, or at most "
            f"{largest} bytes. Received: {size} bytes in "
            f"{builder.info.file_format.value}, which is read only from the start. "
            "Convert it (needs apache-beam): tfds convert_format "
            f"--dataset_version_dir={builder.data_path} --out_file_format=array_record."
        )


# Archives


def read_npz(path, keys):
    """Return the arrays of an .npz that have one of the names.

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
            "It may be truncated: fetch it again."
        ) from error


def keys_of(path):
    """Return the names of the arrays of an .npz as text, for an error."""
    with np.load(path, allow_pickle=False) as archive:
        return ", ".join(sorted(archive.files)) or "none"
