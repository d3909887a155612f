"""Sources made of other sources: two concatenated, or with fewer labels.

    image i of both = image i of the first where i < n, else image i - n of the second

Images stay where they are: only indices and labels change.
"""

__all__ = ["concatenated", "unlabelled", "with_labelled_fraction"]

import dataclasses

import numpy as np
import tensorflow as tf

from keras_tilt.data.sources.image_source import Source
from keras_tilt.validation import check_seed


def concatenated(first: Source, second: Source) -> Source:
    """Return the source of the images of one source followed by those of another.

    Args:
        first: a `Source`.
        second: a `Source`. Images of a source that holds pixels must be of the size of
            the other's, unless the first has images of many sizes. Both must have as
            many channels, and the same classes unless `second` has no labels.

    Raises:
        ValueError: the two do not match.
    """
    _check_alike(first, second)
    fetch, decode = _joined_reading(first, second)
    count = len(first.labels)
    return Source(
        labels=np.concatenate([first.labels, second.labels]),
        class_names=first.class_names,
        image_shape=first.image_shape
        if first.image_shape == second.image_shape
        else None,
        fetch=fetch,
        decode=decode,
        name=lambda i: first.name(i) if i < count else second.name(i - count),
    )


def _joined_reading(first, second):
    """Return `fetch` and `decode` of both; a prefix marks the source of a string."""
    count = len(first.labels)
    same = first.decode == second.decode
    if not same:
        first, second = map(_in_strings, (first, second))

    def fetch(numbers):
        here = numbers < count
        parts = [
            first.fetch(tf.boolean_mask(numbers, here)),
            second.fetch(tf.boolean_mask(numbers - count, ~here)),
        ]
        if not same:
            parts = [
                tf.strings.join([mark, z]) for mark, z in zip("12", parts, strict=True)
            ]
        sorted_places = tf.argsort(tf.cast(~here, tf.int32), stable=True)
        return tf.gather(tf.concat(parts, 0), tf.math.invert_permutation(sorted_places))

    def decode(element):
        rest = tf.strings.substr(element, 1, 2**31 - 1)
        return tf.cond(
            tf.strings.substr(element, 0, 1) == "1",
            lambda: first.decode(rest),
            lambda: second.decode(rest),
        )

    return fetch, first.decode if same else decode


def _in_strings(source):
    """Return a source of the same images whose elements are strings."""
    with tf.device("CPU"):
        one = source.fetch(tf.constant([0], tf.int64))
    if one.dtype == tf.string:
        return source

    def fetch(numbers):
        write = tf.io.serialize_tensor
        return tf.map_fn(write, source.fetch(numbers), fn_output_signature=tf.string)

    def decode(element):
        read = tf.ensure_shape(tf.io.parse_tensor(element, one.dtype), one.shape[1:])
        return read if source.decode is None else source.decode(read)

    return dataclasses.replace(source, fetch=fetch, decode=decode)


def _channels(source):
    """Return their number, or None where nothing says it; no image is read."""
    if source.image_shape is not None:
        return source.image_shape[2]
    number = tf.TensorSpec([], tf.int64)
    read = tf.function(lambda number: source.decode(source.fetch(number[None])[0]))
    shape = read.get_concrete_function(number).structured_outputs.shape
    return None if shape.rank is None else shape[-1]


def _check_alike(first, second):
    channels = [_channels(source) for source in (first, second)]
    if None not in channels and channels[0] != channels[1]:
        raise ValueError(
            "Expected images of equally many channels. Received: "
            f"{channels[0]} and {channels[1]}. Convert one of them."
        )
    shapes = first.image_shape, second.image_shape
    pixels = first.decode is None, second.decode is None
    if shapes[0] != shapes[1] and (pixels[0] or (pixels[1] and shapes[0])):
        raise ValueError(
            "Expected two sources of images of one shape, where one of them holds "
            f"pixels. Received: shapes {shapes[0]} and {shapes[1]}. Store them alike."
        )
    if first.class_names != second.class_names and np.any(second.labels >= 0):
        raise ValueError(
            "Expected the class names of both sources to be the same. Received: "
            f"{', '.join(first.class_names[:3])}, ... and "
            f"{', '.join(second.class_names[:3])}, .... Pass `class_names` of the "
            "first to the second, or `unlabelled(second)`."
        )


def unlabelled(source: Source) -> Source:
    """Return the source of the same images, all without labels, -1."""
    return dataclasses.replace(source, labels=np.full_like(source.labels, -1))


def with_labelled_fraction(source: Source, fraction: float, seed: int) -> Source:
    """Return the source of the same images, of which only some keep their labels.

    Of the n_c images of class c, max(1, round(fraction n_c)) do, the first ones of a
    permutation drawn from (seed, c): a smaller fraction keeps a subset of a larger
    one's labels.

    Args:
        source: a `Source`.
        fraction: share of the labelled images of each class, in [0, 1].
        seed: a non-negative integer.
    """
    check_seed(seed)
    if not 0 <= fraction <= 1:
        raise ValueError(
            "`fraction` must be a share of the labelled images, in 0..1. "
            f"Received: {fraction!r}. Pass for example fraction=0.1."
        )
    labels = np.full_like(source.labels, -1)
    for c in np.unique(source.labels[source.labels >= 0]):
        members = np.flatnonzero(source.labels == c)
        count = max(1, round(fraction * len(members)))
        kept = np.random.default_rng([seed, c]).permutation(members)[:count]
        labels[kept] = c
    return dataclasses.replace(source, labels=labels)
