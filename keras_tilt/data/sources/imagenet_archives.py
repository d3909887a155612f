"""ImageNet (ILSVRC 2012), built by TFDS from the two archives as distributed.

    ILSVRC2012_img_train.tar   one .tar per class, named by its WordNet id (wnid)
    ILSVRC2012_img_val.tar     the images; TFDS knows their classes by rank of the name

Source: Russakovsky et al., "ImageNet large scale visual recognition challenge", 2015.
"""

__all__ = ["imagenet"]

import os
import pathlib
import shutil
import tarfile

from keras_tilt.data import tfds_builders
from keras_tilt.data.sources.array_records import allow_open_files
from keras_tilt.data.sources.image_source import Source
from keras_tilt.data.sources.tfds_sources import of_builder

_ARCHIVES = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")


def imagenet(data_dir: str | os.PathLike[str], split: str) -> Source:
    """Return the source of ImageNet (ILSVRC 2012), prepared by TFDS on first use.

    If `data_dir` does not hold imagenet2012/<version>, TFDS builds it from the two
    archives as distributed; it takes as much disk space as they do. A build that was
    interrupted starts over.

    Args:
        data_dir: folder with imagenet2012, or with ILSVRC2012_img_train.tar and
            ILSVRC2012_img_val.tar.
        split: "train" (1,281,167 images), "validation" (50,000), or a part, such as
            "train[:10%]".

    Returns:
        source: `Source`; class names are the 1,000 wnids in order, such as "n01440764".

    Raises:
        FileNotFoundError: neither the prepared data nor both archives are there.
        ValueError: an archive that is damaged or has other files.
        OSError: too little disk space.
    """
    data_dir = pathlib.Path(data_dir).expanduser()
    builder = tfds_builders.find("imagenet2012", data_dir) or _built_imagenet(data_dir)
    return of_builder(builder, split)


def _built_imagenet(data_dir):
    """Return the builder of TFDS, after it has prepared the two archives."""
    import tensorflow_datasets as tfds

    archives = [data_dir / name for name in _ARCHIVES]
    _check_present(data_dir, archives)
    builder = tfds.builder(
        "imagenet2012",
        data_dir=data_dir,
        file_format=tfds.core.FileFormat.ARRAY_RECORD,
    )
    _check_train_archive(archives[0], builder.info.features["label"].names)
    _check_val_archive(archives[1])
    _check_room(data_dir, sum(archive.stat().st_size for archive in archives))
    allow_open_files(1024)  # TFDS shuffles through 1,000 files
    try:
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(manual_dir=data_dir)
        )
    except Exception as error:
        raise ValueError(
            f"Expected {' and '.join(_ARCHIVES)} in {data_dir} to become a data set "
            f"there. Received: {type(error).__name__}: {error}. Compare their MD5 "
            "sums with those of image-net.org, and see that the disk has room."
        ) from error
    return builder


def _check_present(data_dir, archives):
    missing = [archive.name for archive in archives if not archive.is_file()]
    if missing:
        raise FileNotFoundError(
            f"Expected {data_dir} to hold imagenet2012 prepared by TFDS, or the "
            f"archives {' and '.join(_ARCHIVES)}. Received: no imagenet2012, and no "
            f"{' and no '.join(missing)}. Whoever registers at image-net.org may "
            "download them there."
        )


def _check_train_archive(path, wnids):
    names = _members(path)
    _check_members(path, names, {f"{wnid}.tar" for wnid in wnids}, "n01440764.tar")


def _check_val_archive(path):
    """Check that no image is missing: TFDS labels them by the rank of their names.

    There may be fewer than 50,000, if they are the first ones.
    """
    names = _members(path)
    expected = {f"ILSVRC2012_val_{i + 1:08d}.JPEG" for i in range(len(names))}
    _check_members(path, names, expected, "ILSVRC2012_val_00000001.JPEG, one by one")


def _members(path):
    """Return the names in a tar file, once the zeros that end it are found."""
    try:
        with tarfile.open(path, "r:") as archive, path.open("rb") as file:
            members = archive.getmembers()
            blocks = -(-members[-1].size // tarfile.BLOCKSIZE)
            file.seek(members[-1].offset_data + blocks * tarfile.BLOCKSIZE)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("its end is missing")
    except (tarfile.TarError, OSError, IndexError) as error:
        raise ValueError(
            f"Expected {path} to be a complete tar file. Received: one of "
            f"{path.stat().st_size} bytes that is not ({error}). It may be truncated: "
            "fetch it again."
        ) from error
    return [member.name for member in members]


def _check_members(path, names, expected, example):
    other = sorted(set(names) - expected)
    if other or len(set(names)) < len(names):
        raise ValueError(
            f"Expected {path} to hold files named {example}. Received: {len(names)} "
            f"files, of which {len(other)} are named otherwise, such as "
            f"{', '.join(other[:3]) or 'none'}. Fetch it again."
        )


def _check_room(data_dir, size):
    free = shutil.disk_usage(data_dir).free
    if free < size:
        left = sorted(map(str, (data_dir / "imagenet2012").glob("incomplete.*")))
        raise OSError(
            f"Expected room for {size} bytes in {data_dir}. Received: {free} bytes. "
            f"Make room{', or remove what a killed build left: ' * bool(left)}"
            f"{', '.join(left)}."
        )
