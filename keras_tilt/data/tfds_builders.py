"""Data sets that TFDS has prepared: the builder that reads one, or how to make it.

Nothing is ever downloaded, and nothing prepared here.
"""

__all__ = ["check_room", "check_split", "find", "required"]

import os

# Sets of encoded images that can only be read from the start are held in memory.
_LARGEST_IN_MEMORY = 2**31  # bytes


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


def check_room(builder, split):
    """Raise a ValueError for more bytes than are to be held in memory."""
    size = builder.info.splits[split].num_bytes
    if size > _LARGEST_IN_MEMORY:
        raise ValueError(
            f"Expected {builder.data_path} in array_record, or at most "
            f"{_LARGEST_IN_MEMORY} bytes. Received: {size} bytes in "
            f"{builder.info.file_format.value}, which is read only from the start. "
            "Convert it (needs apache-beam): tfds convert_format "
            f"--dataset_version_dir={builder.data_path} --out_file_format=array_record."
        )
