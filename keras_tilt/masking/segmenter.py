"""The classes of segments, from one pass of a network over their image.

    box         pyramid over the box ----------------------------> fc -> classes
    design A    the same pathway and  pyramid over the masked box -> fc -> classes
    design B    pyramid over the box, its finest level masked ----> fc -> classes

Source: Dai, He and Sun, CVPR 2015; "box" is their baseline. The mask of design B
applies their rule for cells to the bins of the finest level: a bin is kept if at least
half of the pixels of its cells are in the segment.
"""

__all__ = ["DESIGNS", "Segmenter"]

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tilt.masking.pooling import PYRAMID, bin_sums, pyramid_pool
from keras_tilt.masking.projection import (
    boxes_of,
    cells_of,
    segment_counts,
    thresholded,
)
from keras_tilt.networks import graph, inner_values
from keras_tilt.validation import check_count

if TYPE_CHECKING:
    from keras_tilt.masking.svm import LinearSVMs

DESIGNS = ("box", "A", "B")
_THRESHOLD = 0.5


@keras.saving.register_keras_serializable("keras_tilt")
class Segmenter(keras.Model):
    """Classifies segments: one logit per class, and a last one for no class.

    A batch is {"image": [n, height, width, channels], "atoms": int32 [n, height,
    width], "members": bool [n, segments, atoms]}, as `keras_tilt.masking.examples`
    makes it. A segment is a union of atoms; one without pixels is padding. The network
    runs once per image. At inference `chunk` segments at a time are pooled and
    classified, so that only masks and embeddings grow with their number.

    Args:
        network: functional or Sequential `keras.Model` of images of one size.
        layer: name of the layer whose feature map is masked, such as "conv5" or
            "backbone/conv5".
        num_classes: number of classes; the logits have one more, for no class.
        design: "box", "A" or "B".
        hidden: widths of the fully connected layers of a pathway.
        dropout: rate of dropout after each of them, in training.
        levels: bins along each axis, one number per level of the pyramid; design B
            masks the first, which must be the finest.
        chunk: segments at a time at inference.
        train_network: whether the weights of the network are trained, too; this sets
            its `trainable`. Batch normalization stays in inference mode.
        margins: whether the logits are margins of linear SVMs, so that the scores are
            not a softmax of them.
        background: class of pixels that belong to no other, if there is one: no segment
            is trained on it, and its score is that of no class.

    Raises:
        ValueError: an unknown design; a layer without a feature map; a background that
            is not a class.

    Example:
        >>> network = keras.Sequential([
        ...     keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="conv1"),
        ... ])
        >>> segmenter = Segmenter(network, "conv1", num_classes=2, design="B")
        >>> image, left = np.zeros([8, 8, 3], np.uint8), np.zeros([1, 8, 8], bool)
        >>> left[:, :, :4] = True
        >>> segments = keras_tilt.masking.segments.of_masks(left)
        >>> inputs = keras_tilt.masking.examples.inputs_of(image, segments, (8, 8))
        >>> segmenter(inputs).shape
        TensorShape([1, 1, 3])
    """

    def __init__(
        self,
        network: keras.Model,
        layer: str,
        num_classes: int,
        design: Literal["box", "A", "B"] = "A",
        hidden: Sequence[int] = (512,),
        dropout: float = 0.5,
        levels: Sequence[int] = PYRAMID,
        chunk: int = 64,
        train_network: bool = False,
        margins: bool = False,
        background: int | None = None,
        name: str = "segmenter",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        _check_arguments(num_classes, design, levels, chunk, background)
        self.cells = cells_of(network, layer)
        network.trainable = train_network
        self.network, self.layer = network, layer
        self.num_classes, self.design = num_classes, design
        self.hidden, self.dropout = tuple(hidden), dropout
        self.levels, self.chunk = tuple(levels), chunk
        self.margins, self.background = margins, background
        pathways = ("box", "masked") if design == "A" else ("box",)
        self.pathways = [self._pathway(name) for name in pathways]
        self.classifier = keras.layers.Dense(num_classes + 1, name="classifier")
        self._build(graph.find(network, layer).node.output_tensors[0].shape[-1])

    def _pathway(self, name):
        layers = [keras.layers.Flatten("channels_last")]
        for i, width in enumerate(self.hidden):
            layers += [
                keras.layers.Dense(width, "relu", name=f"{name}_fc{i + 1}"),
                keras.layers.Dropout(self.dropout, name=f"{name}_drop{i + 1}"),
            ]
        return keras.Sequential(layers, name=f"{name}_pathway")

    def _build(self, channels):
        bins = sum(level**2 for level in self.levels)
        for pathway in self.pathways:
            pathway.build((None, bins, channels))
        width = sum(pathway.output_shape[-1] for pathway in self.pathways)
        self.classifier.build((None, width))
        self.built = True

    def call(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Return logits, float32 [n, segments, num_classes + 1].

        Args:
            inputs: a batch, as above.
            training: whether dropout is applied.
        """
        return self.classifier(self.embed(inputs, training=training))

    def scores(self, inputs: dict[str, tf.Tensor]) -> tf.Tensor:
        """Return the scores of the classes, float32 [n, segments, num_classes].

        These are probabilities, or the margins of linear SVMs.

        Args:
            inputs: a batch, as above.
        """
        logits = self(inputs)
        values = logits if self.margins else tf.nn.softmax(logits)
        columns = list(range(self.num_classes))
        if self.background is not None:
            columns[self.background] = self.num_classes
        return tf.gather(values, columns, axis=-1)

    def set_svms(self, svms: "LinearSVMs") -> None:
        """Replace the last layer by linear SVMs.

        Args:
            svms: `keras_tilt.masking.svm.LinearSVMs`, fitted to what `embed` returns.
        """
        kernel = np.pad(svms.kernel, [(0, 0), (0, 1)])
        self.classifier.set_weights([kernel, np.append(svms.bias, 0)])
        self.margins = True

    set_machines = set_svms  # its first name

    def embed(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Return what the classifier reads of each segment, [n, segments, width].

        Args:
            inputs: a batch, as above.
            training: whether dropout is applied.
        """
        features = self.features(inputs["image"])
        counts = segment_counts(inputs["atoms"], inputs["members"], self.cells)
        boxes = boxes_of(counts > 0)

        def of_segments(boxes, kept):
            return self._embedded(self._pooled(features, boxes, kept), training)

        parts = boxes, self._kept(counts, boxes)
        if training:
            return of_segments(*parts)
        return _in_chunks(of_segments, parts, self.chunk)

    def features(self, images: ArrayLike | tf.Tensor) -> tf.Tensor:
        """Return the feature map, [n, rows, columns, channels], in inference mode.

        Args:
            images: [n, height, width, channels], as the network takes them.
        """
        feeds = {self.network.inputs[0].name: images}
        return inner_values.layer_values(self.network, feeds, self.layer, False)

    def _kept(self, counts, boxes):
        """Return which cells, or bins, of a segment are in its mask; none for "box"."""
        if self.design == "box":
            return tf.zeros(tf.concat([tf.shape(boxes)[:2], [0]], axis=0), tf.bool)
        inside, whole = counts, self.cells.totals
        if self.design == "B":
            inside, whole = (
                bin_sums(each, boxes, self.levels[0]) for each in (inside, whole)
            )
        return thresholded(inside, whole, _THRESHOLD)

    def _pooled(self, features, boxes, kept):
        """Return what each pathway reads, a list of [n, segments, bins, channels]."""
        whole = pyramid_pool(features, boxes, levels=self.levels)
        if self.design == "A":
            return [whole, pyramid_pool(features, boxes, kept, self.levels)]
        if self.design == "B":
            bins = self.levels[0] ** 2
            shape = tf.concat([tf.shape(kept)[:2], [bins, 1]], axis=0)
            fine = tf.where(tf.reshape(kept, shape), whole[:, :, :bins], 0)
            return [tf.concat([fine, whole[:, :, bins:]], axis=2)]
        return [whole]

    def _embedded(self, pooled, training):
        shape = tf.shape(pooled[0])[:2]
        parts = [
            pathway(tf.reshape(one, [-1, *one.shape[2:]]), training=training)
            for pathway, one in zip(self.pathways, pooled, strict=True)
        ]
        embedded = tf.concat(parts, axis=-1)
        return tf.reshape(embedded, [shape[0], shape[1], embedded.shape[-1]])

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        network = keras.saving.serialize_keras_object(self.network)
        return {
            "network": network,
            "layer": self.layer,
            "num_classes": self.num_classes,
            "design": self.design,
            "hidden": list(self.hidden),
            "dropout": self.dropout,
            "levels": list(self.levels),
            "chunk": self.chunk,
            "train_network": self.network.trainable,
            "margins": self.margins,
            "background": self.background,
            "name": self.name,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> "Segmenter":
        """Return the segmenter of a configuration.

        Args:
            config: of `get_config`.
            custom_objects: classes of the network, by name.
        """
        network = keras.saving.deserialize_keras_object(
            config["network"], custom_objects
        )
        return cls(**{**config, "network": network})


def _in_chunks(function, parts, chunk):
    """Return function(*parts), [n, s, width], for `chunk` segments at a time."""
    images, segments = tf.unstack(tf.shape(parts[0])[:2])
    chunks = tf.maximum(-(-segments // chunk), 1)

    def split(part):
        part = tf.pad(
            part,
            [[0, 0], [0, chunks * chunk - segments]] + [[0, 0]] * (part.shape.rank - 2),
        )
        rest = tf.shape(part)[2:]
        part = tf.reshape(part, tf.concat([[images, chunks, chunk], rest], axis=0))
        return tf.transpose(part, [1, 0, *range(2, part.shape.rank)])

    made = tf.map_fn(
        lambda some: function(*some),
        tuple(map(split, parts)),
        fn_output_signature=tf.float32,
    )
    made = tf.transpose(made, [1, 0, 2, 3])
    made = tf.reshape(made, [images, chunks * chunk, made.shape[-1]])
    return made[:, :segments]


def _check_arguments(num_classes, design, levels, chunk, background):
    if design not in DESIGNS:
        raise ValueError(
            f"`design` must be one of {', '.join(DESIGNS)}. Received: {design!r}. "
            'Choose "A", which masks a pathway of its own.'
        )
    if not levels or max(levels) != levels[0]:
        raise ValueError(
            "`levels` must begin with the finest, which design B masks. Received: "
            f"{levels}. Pass for example {PYRAMID}."
        )
    check_count("num_classes", num_classes, 1)
    check_count("chunk", chunk, 1)
    if background is not None and not 0 <= background < num_classes:
        raise ValueError(
            f"`background` must be one of the classes 0..{num_classes - 1}. "
            f"Received: {background!r}. Leave it out if every pixel has a class."
        )
