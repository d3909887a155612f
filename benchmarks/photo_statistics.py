"""The statistics of photographs that the library is shipped with, fitted again.

    keras_tilt/reference/photographs.py     amplitude and kurtosis by wavelet band

From photographs in a file of JPEGs (`buf`, `off`: bytes, and where each begins), the
square of 224 pixels in the middle of each, channels 0 ... 255. It prints the numbers as
they stand in that module, and beside them the kurtosis over all images together.

    python benchmarks/photo_statistics.py --photos imagenet_sample1000_256.npz

Expected: standard deviations of the first colour of 26, 63, 148, 355 and 857 from the
finest level to the coarsest, and kurtosis of 26, 14, 8.7, 5.9 and 4.0. About two
minutes on two cores.

Source: ours.
"""

import json
import pathlib

from keras_tilt.cli.flags import command_parser, count, file


def parse_flags():
    """The command line; --smoke shrinks the defaults."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("--photos", type=pathlib.Path, required=True, help="an .npz of JPEGs")
    add("--size", type=count, default=224, help="side of the square, pixels")
    add("--number", type=count, default=1000, help="of photographs, at most")
    add("--wavelet", default="sym8", help="of PyWavelets")
    add("--seed", type=int, default=0, help="unused: nothing is drawn")
    add("--out", type=file, default="out/photo_statistics.json", help="numbers")
    add("--smoke", action="store_true", help="eight photographs of 32 pixels")
    flags = parser.parse_args()
    if flags.smoke:
        flags.size, flags.number = 32, 8
    return flags


if __name__ == "__main__":
    parse_flags()  # may end here, before the seconds that TensorFlow takes

import keras_tilt as kt
import numpy as np
import tensorflow as tf


def main():
    """Reads, fits, writes, prints."""
    flags = parse_flags()
    images = photographs(flags.photos, flags.size, flags.number)
    by_image, pooled = (
        kt.fit_wavelets(images, flags.wavelet, pooled=pooled)
        for pooled in (False, True)
    )
    found = {name: np.asarray(value) for name, value in vars(by_image).items()}
    found["pooled_kurtosis"] = pooled.kurtosis
    numbers = {name: value.tolist() for name, value in found.items()}
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    flags.out.write_text(json.dumps(numbers, indent=1) + "\n")
    for name, value in found.items():
        print(f"{name} = {rounded(value)}")


def photographs(path, size, number):
    """[n, size, size, 3] of uint8, the square in the middle of each."""
    with np.load(path) as stored:
        content, offsets = stored["buf"], stored["off"][: number + 1]
    images = []
    for start, end in zip(offsets[:-1], offsets[1:], strict=True):
        jpeg = content[start:end].tobytes()
        image = tf.io.decode_jpeg(jpeg, 3, dct_method="INTEGER_ACCURATE")
        images.append(tf.image.resize_with_crop_or_pad(image, size, size))
    return np.stack(images)


def rounded(value):
    """The numbers to three digits, in the notation of Python."""
    if value.dtype.kind != "f":
        return repr(value.item())
    digits = np.vectorize(lambda number: float(f"{number:.4g}"))
    return digits(value).tolist()


if __name__ == "__main__":
    main()
