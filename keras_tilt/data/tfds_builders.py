"""Builders of data sets that TFDS has prepared, or an error that says how to.

Nothing is ever downloaded or prepared here.
"""

__all__ = ["check_room", "check_split", "find", "required"]

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder


# Sets of encoded images without random access are held in memory, up to this size.
_LARGEST_IN_MEMORY = 2**31  # bytes


def find(name: str, data_dir: str | os.PathLike[str]) -> "DatasetBuilder | None":
    """Return the builder of a prepared data set, or None.

    Args:
        name: such as "cifar10" or "coco/2017_panoptic".
        data_dir: the folder of TFDS, which holds <name>/<version>.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import read_only_builder

    data_dir = os.path.expanduser(data_dir)
    try:
        return read_only_builder.builder_from_files(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        return None


def required(name: str, data_dir: str | os.PathLike[str]) -> "DatasetBuilder":
    """Return the builder of a prepared data set, as `find`.

    Raises:
        FileNotFoundError: it is not prepared; the message says how to.
    """
    builder = find(name, data_dir)
    if builder is None:
        raise FileNotFoundError(
            f"Expected {name} prepared by TFDS in {data_dir}. Received: a folder "
            f"without it. Prepare it: tfds.builder('{name}', data_dir='{data_dir}', "
            "file_format='array_record').download_and_prepare()."
        )
    return builder


def check_split(builder: "DatasetBuilder", split: str) -> None:
    """Raise a ValueError unless `split` is a split of the data set, or part of one."""
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


def check_room(builder: "DatasetBuilder", split: str) -> None:
    """Raise a ValueError if the split is too large to be held in memory."""
    size = builder.info.splits[split].num_bytes
    if size > _LARGEST_IN_MEMORY:
        raise ValueError(
            f"Expected {builder.data_path} in array_record, or at most "
            f"{_LARGEST_IN_MEMORY} bytes. Received: {size} bytes in "
            f"{builder.info.file_format.value}, which is read only from the start. "
            "Convert it (needs apache-beam): tfds convert_format "
            f"--dataset_version_dir={builder.data_path} --out_file_format=array_record."
        )
