"""Units f of a network: the exponent of the tilted density, in nats.

    p(x) = exp(f(x)) q(x) / Z,      f: images [n, height, width, channels] -> [n]
    f(x) = sum over terms of  features(x) . weights

f is a class logit, the value *before* the softmax, or the response of one channel of an
inner layer, before its activation (Dai, Lu and Wu 2015, section 2: an inner node is a
class of its own); and every weighted sum of such. log softmax is another function: it
subtracts the log-sum-exp over classes, and with it the part of f that the density p_y
is made of. As a bounded f, log p(y|x), it is there on request.
"""

__all__ = ["Unit", "common_shape", "nonzero", "read_out", "unit", "weighted_sum"]

import dataclasses
import hashlib
import math
import numbers

import numpy as np
import tensorflow as tf

from keras_tilt.networks import graph, inner_values
from keras_tilt.networks.receptive_fields.intervals import hull
from keras_tilt.networks.receptive_fields.single_cells import Cell, cell_and_window
from keras_tilt.units.features import (
    Features,
    check_preprocess,
    class_reading,
    inputs_of,
    integer,
    layer_reading,
    prepare,
)
from keras_tilt.validation import as_array, as_number

_LISTED = 4  # more channels than this have one name, "conv5:direction 3f2a1b"


@dataclasses.dataclass(frozen=True, eq=False)
class Unit:
    """One number of a network as a function of the image; units form a vector space.

        f: images [n, height, width, channels] -> [n], nats
        f(x) = sum over terms of  features(x) . weights

    u + v, u - v, -u, 2.0 * u and u / 2.0 are units. Units are equal if they read the
    same features with the same weights.

    Attributes:
        name: "class 3", "conv5:12", "conv5:12@0,4" at a position, "u - 2 v"; "class 3
            at 14 px" of resized images, "class 3 over 28, 14 px" of the mean over
            sizes, "conv5:direction 3f2a1b" of more than four channels.
        input_shape: (height, width, channels); None where the network takes any size.
        terms: tuple of (`Features`, weights [channels] float64), no features twice.
            They read the network's own weights: after a weight update the unit is the
            new one.
    """

    name: str
    input_shape: tuple
    terms: tuple = dataclasses.field(repr=False)

    # numpy numbers and arrays leave the arithmetic to the unit.
    __array_ufunc__ = None

    def __call__(self, images):
        """Return f(images): float32 [n], nats."""
        return tf.add_n(
            [read_out(term(images), weights) for term, weights in self.terms]
        )

    def __eq__(self, other):
        if not isinstance(other, Unit):
            return NotImplemented
        mine, theirs = dict(self.terms), dict(other.terms)
        return mine.keys() == theirs.keys() and all(
            np.array_equal(mine[features], theirs[features]) for features in mine
        )

    def __hash__(self):
        return hash(self.features)

    @property
    def features(self):
        """The `Features` that the unit reads, a frozenset."""
        return frozenset(features for features, _ in self.terms)

    def __add__(self, other):
        if isinstance(other, numbers.Number) and other == 0:  # the start of sum(units)
            return self
        return _sum(self, other) if isinstance(other, Unit) else NotImplemented

    __radd__ = __add__

    def __sub__(self, other):
        return self + -other if isinstance(other, Unit) else NotImplemented

    def __neg__(self):
        return _scaled(self, -1.0)

    def __mul__(self, scalar):
        return _scaled(self, _finite_number(scalar))

    __rmul__ = __mul__

    def __truediv__(self, scalar):
        if _finite_number(scalar) == 0.0:
            raise ValueError(
                "Expected a number other than zero, to divide a unit by. Received: "
                f"{scalar!r}. Write for example unit / 2.0."
            )
        return _scaled(self, _finite_number(1.0 / scalar))

    def crop(self):
        """Return the unit of the pixels that it sees, and of nothing around them.

            f_crop(patch) = f(image),   patch the part of the image that f sees

        wherever f sees no padding. The network's own layers run without padding, each
        on the window it needs, so that the response of a map is one cell. A sum of
        several units keeps their places relative to each other: its patch is the
        smallest that holds all they see.

        Returns:
            unit: `Unit` with input_shape (rows, columns, channels) of the patch.

        Raises:
            ValueError: a unit that sees the whole image (a class, a dense layer, the
                mean of a map), or whose receptive field is not known; one that sees
                padding at every place, as where its receptive field is larger than the
                network's image. Such a unit is read on the whole image, without crop.

        Example:
            >>> f = unit(keras_tilt.lenet(), "conv2:7").crop()
            >>> f.input_shape
            (14, 14, 1)
        """
        seen = [_seen_by(features, self) for features, _ in self.terms]
        patch = hull([window for _, window in seen])
        _check_within(patch, self)
        return _unit_of(
            (_cropped(features, cell, patch), weights)
            for (cell, _), (features, weights) in zip(seen, self.terms, strict=True)
        )


def unit(
    network,
    layer_channel=None,
    *,
    class_index=None,
    direction=None,
    position=None,
    activation="pre",
    posterior=False,
    posterior_weight=0.0,
    preprocess=None,
    fixed_inputs=None,
    input_shape=None,
    resize=None,
):
    """Return one unit of a network: a class, or a channel or direction of a layer.

    The network runs as in inference: dropout off, BatchNorm with its moving statistics.
    A layer with weights is read before its activation, because a unit behind a ReLU has
    no gradient where it is off. A softmax, a sigmoid or the like at the end of a
    functional or Sequential model is left out, by whatever name it is called there.

    Args:
        network: functional or Sequential `keras.Model`, or a `GenerativeClassifier`,
            whose network is then used without the calibration bias. Of a subclassed
            model, or of one with a `call` of its own, the output and the layers it
            calls can be read, in full passes; it must be built, or `input_shape` given.
        layer_channel: "layer:channel", for example "conv5:12"; "outer/inner:channel"
            inside a nested network; "layer" alone with a `direction`.
        class_index: number of the class, in place of `layer_channel`.
        direction: [channels] weights of the layer's channels.
        position: where the layer is read. Of a map [n, height, width, channels]
            "center", as by default, (row, column), or "mean" over all places; of tokens
            or steps [n, places, channels] "mean", as by default, an index, or "center";
            of more axes "center", as by default, an index for each, or "mean". In
            transformers place 0 is often the token of the class.
        activation: "pre" or "post": before or after the layer's own activation.
        posterior: True for f = log p(class | x) <= 0, by the network's softmax or
            sigmoid (of one output: of the label 1), by a softmax of its logits, or by
            the calibrated output of a `GenerativeClassifier`.
        posterior_weight: a number a for f = logit + a log p(class | x): the logit alone
            may rise with those of other classes.
        preprocess: function of the images, of TensorFlow or keras.ops operations, from
            the unit's pixels, as float32, to what the network takes.
        fixed_inputs: {name: array} for all inputs but the images, without batch axis.
        input_shape: shape of one image, where it is not that of the network's input: if
            `preprocess` changes it, or the network takes any size.
        resize: (height, width) that images are brought to before `preprocess`. The
            layers then run on that size, whichever the network was built for, if they
            can. The mean of a class over several sizes is a unit that wants the class
            in coarse and in fine: sum(units) / len(units).

    Returns:
        unit: `Unit`, images [n, height, width, channels] -> float32 [n], nats.

    Raises:
        ValueError: an unknown layer, channel, class, position or input (the error lists
            what exists); channels first; a network without a graph of layers that is
            not built; outputs that are probabilities and whose logits are out of reach;
            a layer of one's own, with an activation, before its activation.

    Example:
        >>> network = keras.Sequential([
        ...     keras.Input((28, 28, 1)),
        ...     keras.layers.Conv2D(20, 5, activation="relu", name="conv1"),
        ...     keras.layers.Flatten(),
        ...     keras.layers.Dense(10, activation="softmax"),
        ... ])
        >>> unit(network, class_index=3)(tf.zeros([2, 28, 28, 1])).shape
        TensorShape([2])
        >>> unit(network, "conv1:12", position=(0, 4)).name
        'conv1:12@0,4'
        >>> (unit(network, class_index=3) - 2 * unit(network, class_index=5)).name
        'class 3 - 2 class 5'
        >>> f = unit(network, class_index=3, posterior=True)  # at most 0
        >>> f = unit(network, "conv1", direction=np.ones(20), position="mean")

    Source: Dai, Lu and Wu 2015, sections 2 and 4.
    """
    model, network = network, graph.network_of(network)
    _check_one_choice(layer_channel, class_index)
    prepared = prepare(network, preprocess, fixed_inputs, input_shape, resize)
    if class_index is not None:
        _check_class_options(position, activation, direction)
        weight = _checked_posterior_weight(posterior, posterior_weight)
        reading, classes = class_reading(model, prepared, posterior, weight)
        weights = _one_hot(_check_class_index(class_index, classes), classes)
    else:
        _check_layer_options(activation, posterior or posterior_weight)
        name, channel = _layer_and_channel(network, layer_channel, direction)
        reading, channels = layer_reading(prepared, name, position, activation)
        weights = _weights(name, channel, direction, channels)
    return _unit_of([(dataclasses.replace(prepared, reading=reading), weights)])


# The vector space


def _unit_of(terms):
    """Return the unit of some terms: equal features merged, those of no weight out."""
    merged = {}
    for features, weights in terms:
        merged[features] = merged.get(features, 0.0) + weights
    kept = {features: w for features, w in merged.items() if np.any(w)}
    terms = tuple((kept or dict([*merged.items()][:1])).items())
    return Unit(_name(terms), common_shape(merged), terms)


def _sum(one, other):
    return _unit_of(one.terms + other.terms)


def _scaled(unit, scalar):
    return _unit_of((features, scalar * weights) for features, weights in unit.terms)


def read_out(values, weights):
    """Return sum_c values[n, c] weights[c]: [n].

    Channels of weight 0 are not read, whatever they hold, and one channel of weight 1
    is returned bit by bit.

    Args:
        values: float32 [n, channels].
        weights: array [channels].
    """
    channels, weights = nonzero(weights)
    return weighted_sum(tf.gather(values, channels, axis=-1), weights)


def nonzero(weights):
    """Return the channels that have a weight, and their weights: [..., most of them].

    Where there are fewer, channels of weight 0 fill up the row.
    """
    count = int(np.max(np.count_nonzero(weights, axis=-1)))
    channels = np.argsort(weights == 0, axis=-1, kind="stable")[..., :count]
    return channels, np.take_along_axis(weights, channels, axis=-1).astype(np.float32)


def weighted_sum(values, weights):
    """Return the sum over the last axis; what has weight 0 may be NaN."""
    products = tf.math.multiply_no_nan(values, weights)
    alone = products.shape[-1] == 1
    return products[..., 0] if alone else tf.reduce_sum(products, axis=-1)


def _name(terms):
    """Return "conv1:3 - 2 conv1:5"; "class 3 over 28, 14 px" of a mean over sizes.

    Networks are named where there are several. What differs in nothing but the way of
    the images into the network is one part of the formula: the mean over those ways.
    """
    several = len({id(features.network) for features, _ in terms}) > 1
    found = {}  # label -> [(weight, features)]
    for features, weights in terms:
        prefix = f"{features.network.name}/" * several
        for weight, channel in _listed(weights):
            label = prefix + features.reading.label(channel)
            found.setdefault(label, []).append((weight, features))
    parts = [part for label, ways in found.items() for part in _parts(label, ways)]
    return "".join(
        _signed(weight, first=i == 0) + label for i, (weight, label) in enumerate(parts)
    )


def _parts(label, ways):
    """Return (weight, label) of the parts that are read in several ways.

    Args:
        label: of what is read.
        ways: list of (weight, `Features`).
    """
    if len(ways) == 1:
        ((weight, features),) = ways
        size = "" if features.resize is None else f" at {_size(features)} px"
        return [(weight, label + size)]
    weights, several = zip(*ways, strict=True)
    names, unit = _ways(several)
    if len(set(weights)) == 1:
        return [(sum(weights), f"{label} over {', '.join(names)}{unit}")]
    names = [f"{label} at {name}{unit}" for name in names]
    return list(zip(weights, names, strict=True))


def _ways(several):
    """Return what tells ways of the images apart, and the unit of it.

    Their sizes; or the functions that prepare them; or both; or numbers.
    """
    sizes, functions = map(_size, several), map(_function, several)
    pairs = list(zip(sizes, functions, strict=True))
    for names, unit in (
        ([size for size, _ in pairs], " px"),
        ([function for _, function in pairs], ""),
        ([f"{size} px {function}" for size, function in pairs], ""),
    ):
        if len(set(names)) == len(several):
            return names, unit
    return [f"input {i}" for i in range(1, len(several) + 1)], ""


def _size(features):
    """Return "28" or "28x20", rows and columns of the images that a network gets."""
    sizes = features.resize or features.input_shape[:-1]
    square = len(sizes) == 2 and sizes[0] == sizes[1]
    return "x".join(str(size) for size in (sizes[:1] if square else sizes))


def _function(features):
    """Return the name of a `preprocess`."""
    preprocess = features.preprocess
    named = preprocess is None or hasattr(preprocess, "__name__")
    return getattr(preprocess if named else type(preprocess), "__name__", "as it is")


def _listed(weights):
    """Return (weight, channel) of each channel, or one pair for a direction of many.

    Two directions have two names: its end is of their weights.
    """
    channels = np.flatnonzero(weights)
    if len(channels) > _LISTED:
        digest = hashlib.sha256(weights.tobytes()).hexdigest()
        return [(1.0, f"direction {digest[:6]}")]
    return [(weights[c], c) for c in channels] or [(0.0, 0)]


def _signed(weight, first):
    sign = ("-" if weight < 0 else "") if first else (" - " if weight < 0 else " + ")
    size = f"{abs(weight):g}"
    return sign if size == "1" else f"{sign}{size} "


def common_shape(several):
    """Return the one input shape of all features, sizes filled in where one is any."""
    shape = tf.TensorShape(None)
    for features in several:
        if not shape.is_compatible_with(features.input_shape):
            raise ValueError(
                "Expected units of images of one shape. Received: "
                f"{tuple(shape)} and {features.input_shape}. Make both of the same "
                "image, with `preprocess` and `input_shape` of kt.unit."
            )
        shape = shape.merge_with(features.input_shape)
    return tuple(shape)


# Crops


def _seen_by(features, unit):
    """Return the cell that features read, and the window of pixels that it sees."""
    reading, alone = features.reading, len(unit.terms) == 1
    is_place = isinstance(reading, inner_values.Channels) and reading.place != "mean"
    if not is_place or reading.axes != 2:
        raise ValueError(
            "Expected a unit at one place of a map [n, height, width, channels]. "
            f"Received: {reading.label('channel')!r} in {unit.name!r}, "
            f"{_why_no_crop(reading)}. Leave crop() out and read it on the whole "
            "image, or crop a unit of a convolution layer, 'layer:channel'."
        )
    network = features.network
    cell, window, name = cell_and_window(network, reading.layer, reading.place, alone)
    taken = tf.TensorShape(inputs_of(network)[name].shape[1:])
    fits = taken.is_compatible_with(features.input_shape)
    fits = fits and features.resize is None
    if not fits or name in dict(features.fixed_inputs):
        raise ValueError(
            "Expected a unit of the pixels that the network takes. Received: images "
            f"{features.input_shape}, the network's input {name!r} takes "
            f"{tuple(taken)}. Crop the unit without `preprocess`, `input_shape` and "
            "`resize`."
        )
    return cell, window


def _why_no_crop(reading):
    if isinstance(reading, Cell):
        return "which is a crop already"
    axes = getattr(reading, "axes", 0)
    if axes in (0, 2):
        return "which sees the whole image"
    return f"of a layer with {axes} {'axis' if axes == 1 else 'axes'} of places"


def _check_within(patch, unit):
    """Raise if a patch is larger than the images, so that it sees padding everywhere.

    The parts of a sum may see none, each at a place of its own.
    """
    rows, columns = (end - first for first, end in patch)
    height, width = unit.input_shape[:2]
    if rows > (height or rows) or columns > (width or columns):
        raise ValueError(
            "Expected a unit that sees no padding at some place. Received: "
            f"{unit.name!r}, which sees {rows} x {columns} pixels, of images of "
            f"{height} x {width}. Leave crop() out and read it on the whole image, or "
            "build the network for larger images."
        )


def _cropped(features, cell, window):
    """Return the same features of the pixels in a window."""
    shape = *(end - first for first, end in window), features.input_shape[-1]
    if features.preprocess is not None:
        check_preprocess(features.preprocess, shape, shape)
    reading = Cell(features.reading.layer, cell, features.reading.post, window)
    return Features(features.network, reading, shape, features.preprocess)


def _weights(name, channel, direction, channels):
    """Return weights [channels] float64 of a direction, or of one channel."""
    if direction is None:
        return _one_hot(_check_channel(name, channel, channels), channels)
    weights = as_array("direction", direction)
    if weights.shape != (channels,) or not np.all(np.isfinite(weights)):
        raise ValueError(
            f"Expected `direction` to hold {channels} finite weights, one for each "
            f"channel of {name!r}. Received: {direction!r}. Pass [channels] numbers."
        )
    return weights


def _one_hot(index, count):
    return np.eye(1, count, index)[0]


# Checks


def _check_one_choice(layer_channel, class_index):
    if (layer_channel is None) == (class_index is None):
        raise ValueError(
            "Expected either `layer_channel` or `class_index`. Received: "
            f"{layer_channel!r} and {class_index!r}. "
            "Pass unit(network, 'conv5:12') or unit(network, class_index=3)."
        )


def _check_class_options(position, activation, direction):
    if position is not None and not np.array_equal(position, "center"):
        raise ValueError(
            "Expected no `position` for a class logit, which has no map. "
            f"Received: {position!r}. Leave it out."
        )
    if activation != "pre" or direction is not None:
        raise ValueError(
            "Expected no `activation` and no `direction` for a class. Received: "
            f"{activation!r} and {direction!r}. For log p(class | x) pass "
            "posterior=True; add units for a direction."
        )


def _checked_posterior_weight(posterior, weight):
    weight = as_number("posterior_weight", weight)
    if not math.isfinite(weight) or (posterior and weight):
        raise ValueError(
            "Expected `posterior_weight` to be a finite number, without `posterior`. "
            f"Received: {weight!r}, posterior={posterior!r}. Scale the tilt for the "
            "log posterior alone."
        )
    return weight


def _check_layer_options(activation, posterior):
    if activation not in ("pre", "post"):
        raise ValueError(
            "Expected `activation` to be 'pre' or 'post', before or after the layer's "
            f"own. Received: {activation!r}. Leave it out for 'pre'."
        )
    if posterior:
        raise ValueError(
            "Expected no `posterior` for a channel of a layer. Received: "
            f"{posterior!r}. Name a class, kt.unit(network, class_index=3, "
            "posterior=True)."
        )


def _check_class_index(class_index, classes):
    index = integer(class_index)
    if index is None or not 0 <= index < classes:
        raise ValueError(
            f"Expected `class_index` to lie in 0..{classes - 1}. "
            f"Received: {class_index!r}. The network has {classes} classes."
        )
    return index


def _layer_and_channel(network, layer_channel, direction):
    """Return (layer, channel) of "layer:channel"; no channel with a direction."""
    if direction is not None:
        return str(layer_channel), None
    name, colon, channel = str(layer_channel).rpartition(":")
    if not colon or integer(channel) is None:
        raise ValueError(
            "Expected `layer_channel` to read 'layer:channel'. Received: "
            f"{layer_channel!r}. Write for example 'conv5:12', or 'conv5' with a "
            f"`direction`. {graph.listing(network)}"
        )
    return name, integer(channel)


def _check_channel(name, channel, channels):
    if not 0 <= channel < channels:
        raise ValueError(
            f"Expected the channel of {name!r} to lie in 0..{channels - 1}. "
            f"Received: {channel}. The layer has {channels} channels."
        )
    return channel


def _finite_number(scalar):
    """Return a scalar as a float."""
    if not isinstance(scalar, numbers.Real) or isinstance(scalar, bool):
        raise TypeError(
            "Expected a number, to scale a unit by. Received: "
            f"{scalar!r}. Write for example 2.0 * unit."
        )
    if not math.isfinite(scalar):
        raise ValueError(
            "Expected a finite number, to scale a unit by. Received: "
            f"{scalar!r}. Write for example 2.0 * unit."
        )
    return float(scalar)
