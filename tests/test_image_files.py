"""Files of images: what is trained on and served is what a viewer shows, or refused."""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from cases import slow_but
from PIL import Image, ImageOps

from keras_tilt.data import batches, sources
from keras_tilt.masking import scenes

SIZE = (32, 40)


def photo():
    rough = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    return Image.fromarray(rough).resize(SIZE[::-1], Image.BICUBIC)


def as_file(image, format="JPEG", **arguments):
    file = io.BytesIO()
    image.save(file, format, **arguments)
    return file.getvalue()


def bmp(bits, pixels, masks=(), header=40):
    """A BMP file of rows from the bottom, with masks of red, green and blue."""
    content = np.ascontiguousarray(pixels[::-1]).tobytes()
    masks = struct.pack(f"<{len(masks)}I", *masks)
    first = 14 + header + len(masks)
    height, width = pixels.shape[:2]
    start = struct.pack("<2sIII", b"BM", first + len(content), 0, first)
    if header == 12:
        described = struct.pack("<IHHHH", header, width, height, 1, bits)
    else:
        described = struct.pack(
            "<IiiHHIIiiII", 40, width, height, 1, bits, 3 * bool(masks), *[0] * 5
        )
    return start + described + masks + content


def with_big_endian_exif(orientation):
    """A JPEG whose EXIF data, one entry, begin with its highest byte, as Canon's do."""
    entry = struct.pack(">HHIHH", 0x112, 3, 1, orientation, 0)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + entry + bytes(4)
    content = as_file(photo())
    return content[:2] + struct.pack(">HH", 0xFFE1, len(exif) + 2) + exif + content[2:]


def with_exif(orientation):
    exif = Image.Exif()
    exif[0x10F], exif[0x112], exif[0x131] = "a maker", orientation, "a program"
    return as_file(photo(), exif=exif)


PIXELS = np.asarray(photo())
WITH_FOURTH = np.dstack([PIXELS, np.zeros(SIZE, np.uint8)])
FIVE_BITS = (PIXELS.astype(np.uint16) >> 3) @ np.array([1024, 32, 1], np.uint16)
RED_FIRST, BLUE_FIRST = (0xFF, 0xFF00, 0xFF0000), (0xFF0000, 0xFF00, 0xFF)
READ = {
    "a palette": as_file(photo().convert("P"), "PNG"),
    "one bit": as_file(photo().convert("1"), "PNG"),
    "16 bits in colour": tf.io.encode_png(PIXELS.astype(np.uint16) * 257).numpy(),
    "CMYK": as_file(photo().convert("CMYK")),
    "BMP": as_file(photo(), "BMP"),
    "BMP of 32 bits": as_file(photo().convert("RGBA"), "BMP"),
    "BMP with masks": bmp(32, WITH_FOURTH[..., [2, 1, 0, 3]], BLUE_FIRST),
    "an interrupted EXIF": as_file(photo(), exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
    "no EXIF": as_file(photo(), comment=b"Exif\0\0"),
} | {f"orientation {i}": with_exif(i) for i in range(10)}
READ |= {f"big-endian {i}": with_big_endian_exif(i) for i in range(1, 9)}
REFUSED = {
    "BMP with a palette": as_file(photo().convert("P"), "BMP"),
    "gray BMP": as_file(photo().convert("L"), "BMP"),
    "BMP of one bit": as_file(photo().convert("1"), "BMP"),
    "BMP of 16 bits": bmp(16, FIVE_BITS),
    "BMP with red first": bmp(32, WITH_FOURTH, RED_FIRST),
    "BMP of OS/2": bmp(24, PIXELS[..., ::-1], header=12),
    "a part of BMP": as_file(photo(), "BMP")[:30],
}


def shown(content):
    """What a viewer shows, [height, width, 3]."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    return np.asarray(image.convert("RGB"), int)


@pytest.mark.parametrize("content", READ.values(), ids=READ.keys())
def test_a_training_image_is_what_a_viewer_shows(content, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(content)
    source, expected = sources.folder(tmp_path), shown(content)
    found = source.decode(source.fetch([0])[0]).numpy().astype(int)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 8  # of two JPEG decoders


@pytest.mark.parametrize("name", slow_but([*REFUSED][::4], REFUSED))
def test_what_would_be_read_as_another_image_is_named_and_left_out(name, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(as_file(photo(), "PNG"))
    (tmp_path / "a" / "2.png").write_bytes(REFUSED[name])
    corrupt = batches.Corrupt(limit=0.5)
    source = sources.folder(tmp_path)
    dataset = batches.evaluation_batches(source, 2, crop=SIZE, corrupt=corrupt)
    ((images, _),) = dataset.as_numpy_iterator()
    np.testing.assert_array_equal(images, PIXELS[np.newaxis])
    assert [name.split("/")[-1] for name in corrupt.names] == ["2.png"]
    with pytest.raises(tf.errors.InvalidArgumentError):
        source.decode(source.fetch([1])[0])


def test_encoded_images_in_an_npz_are_read_by_the_same_decoder(tmp_path):
    contents = [with_exif(6), REFUSED["BMP with a palette"]]
    np.savez(
        tmp_path / "x.npz",
        buf=np.frombuffer(b"".join(contents), np.uint8),
        off=np.cumsum([0, *map(len, contents)]),
        y=[0, 1],
    )
    source = sources.npz(tmp_path / "x.npz")
    elements = source.fetch([0, 1])
    assert source.decode(elements[0]).shape == (40, 32, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="no palette"):
        source.decode(elements[1])


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_a_scene_of_16_bits_has_their_upper_8(tmp_path, dtype):
    """Pillow cuts them off at 255, which leaves an image of almost only white."""
    gray = np.asarray(photo().convert("L")).astype(dtype)
    content = as_file(
        Image.fromarray(gray * 256 + 7), "PNG" if dtype == np.uint16 else "TIFF"
    )
    np.savez(
        tmp_path / "x.npz",
        val_buf=np.frombuffer(content, np.uint8),
        val_off=[0, len(content)],
        y_val=np.zeros([1, *SIZE], np.uint8),
        class_names=["all"],
    )
    image = scenes.npz(tmp_path / "x.npz", "val")[0].image
    np.testing.assert_array_equal(image, np.repeat(gray[..., np.newaxis], 3, axis=2))


def test_a_scene_of_other_numbers_is_refused(tmp_path):
    content = as_file(Image.fromarray(np.full(SIZE, 0.5, np.float32)), "TIFF")
    np.savez(
        tmp_path / "x.npz",
        val_buf=np.frombuffer(content, np.uint8),
        val_off=[0, len(content)],
        y_val=np.zeros([1, *SIZE], np.uint8),
        class_names=["all"],
    )
    with pytest.raises(ValueError, match="image 0 of val .*8 or 16 bits.*float32"):
        scenes.npz(tmp_path / "x.npz", "val")[0]
