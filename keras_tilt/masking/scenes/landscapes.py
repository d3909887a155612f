"""Synthetic scenes, generated on demand, to try a segmenter without any data.

    sky, ground, trees   stuff, which differs in colour and texture
    discs, squares       objects of random colours, which differ in shape

Scene i is a function of (seed, i).
"""

__all__ = ["synthetic"]

import numpy as np

from keras_tilt.masking.scenes.labelled_images import Scene, Scenes
from keras_tilt.validation import check_count, check_seed

_STUFF_COLOURS = np.array([[120, 170, 230], [130, 110, 80], [50, 110, 50]])
_STUFF_GRAIN = np.array([4.0, 18.0, 30.0])  # sd of the noise of a pixel


def synthetic(
    num_images: int, image_shape: tuple[int, int] = (60, 80), seed: int = 0
) -> Scenes:
    """Return synthetic scenes: discs and squares in front of a landscape.

    Sky, ground and trees are stuff, which differs in colour and texture; discs and
    squares are objects of random colours, which differ only in shape. Scene i is a
    function of (seed, i).

    Args:
        num_images: number of scenes.
        image_shape: (height, width), pixels.
        seed: integer.

    Example:
        >>> scenes = synthetic(10)
        >>> scenes.class_names
        ['sky', 'ground', 'tree', 'disc', 'square']
        >>> scenes[3].image.shape
        (60, 80, 3)
    """
    check_count("num_images", num_images, 1)
    check_seed(seed)
    height, width = image_shape

    def made(number):
        rng = np.random.default_rng([seed, number])
        return _landscape(height, width, rng)

    return Scenes(
        class_names=["sky", "ground", "tree", "disc", "square"],
        stuff=frozenset([0, 1, 2]),
        background=None,
        keys=list(range(num_images)),
        read=made,
        called="scene_{}".format,
    )


def _landscape(height, width, rng):
    rows, columns = np.indices([height, width])
    horizon = height * rng.uniform(0.35, 0.65)
    tops = horizon - height * 0.2 * np.sin(columns / width * 6 + rng.uniform(0, 6))
    labels = np.where(rows < np.minimum(tops, horizon), 0, 2)
    labels[rows >= horizon] = 1
    colours = (
        _STUFF_COLOURS[labels]
        + rng.normal(size=[height, width, 1]) * (_STUFF_GRAIN[labels][..., np.newaxis])
    )
    instances = np.zeros([height, width], np.int32)
    for number in range(1, rng.integers(2, 5)):
        size = height * rng.uniform(0.08, 0.2)
        row, column = rng.uniform(size, [height - size, width - size])
        distance = np.abs(rows - row), np.abs(columns - column)
        label = rng.integers(3, 5)
        inside = (np.hypot if label == 3 else np.maximum)(*distance) <= size
        labels[inside], instances[inside] = label, number
        colours[inside] = rng.uniform(30, 226, 3)
    image = np.clip(colours + rng.normal(scale=4, size=colours.shape), 0, 255)
    return Scene(image.astype(np.uint8), labels.astype(np.int32), instances)
