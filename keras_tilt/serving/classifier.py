"""A classifier as functions of a server: images in, classes or labels out.

    classify   image -> logits, p(y | x), log p(x) up to a constant
    of a network of labels, each present or not: logits, p of each label

Source: Dai, Lu and Wu (2015), section 2; Grathwohl et al. (2020), "Your classifier is
secretly an energy based model and you should treat it like one".
"""

__all__ = ["ServedClassifier"]

import functools
from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf

from keras_tilt.networks import graph, output_activations
from keras_tilt.serving.image_bytes import PixelRange, upright
from keras_tilt.serving.requests import Signatures, checked_requests
from keras_tilt.units.groups import variables_of
from keras_tilt.units.selection import unit
from keras_tilt.validation import as_names


class ServedClassifier(tf.Module):
    """A classifier of images whose pixels are bytes.

        p(y | x)  = softmax over y of (F_y(x) + b_y) / T
        log p(x)  = log sum over y of exp(F_y(x) + b_y) + log q(x) + constant

    The sum over y is the density of all classes together, each with its own share,
    relative to the density q of the training images: b_y = log rho_y -
    log Z_y and T the temperature of a calibrated `GenerativeClassifier`. For any other
    network b_y is 0 and T is 1, and the sum is what its logits imply.

    A network that ends in sigmoids gives labels, several of which may hold at once:

        p(label y | x) = sigmoid of F_y(x)

    There is no single class, and exp(F_y) is not a density of images: `class`,
    `class_name` and `log_density` are not in the answer.

    Args:
        model: `keras.Model`, images [n, height, width, channels] -> logits; an output
            activation, such as a softmax, is left out of the logits and makes
            the probabilities.
        low: pixel that byte 0 stands for.
        high: pixel that byte 255 stands for.
        class_names: list of text, one for each class or label.
        preprocess: None, or a function of pixels, as in `keras_tilt.unit`.

    Attributes:
        functions: mapping, name of a signature -> the graph of its function, made when
            it is first asked for.
        shape: of an image.
        pixels: `PixelRange`, what is black and white.
        class_names: of the classes or labels, in their order.
        has_classes: False for a network of labels.

    Raises:
        ValueError: for a model without logits of labels, or of two classes or more;
            probabilities whose logits cannot be found; pixels that are not a range; or
            another number of names.

    Source: Dai, Lu and Wu (2015), section 2; Grathwohl et al. (2020), "Your classifier
    is secretly an energy based model and you should treat it like one", for the sum
    over classes as a density.
    """

    def __init__(
        self,
        model: keras.Model,
        low: float,
        high: float,
        class_names: Sequence[str],
        preprocess: Callable[[tf.Tensor], tf.Tensor] | None = None,
    ):
        super().__init__(name="classifier")
        self.pixels = PixelRange(low, high)
        of_first = unit(model, class_index=0, preprocess=preprocess)
        ((self._logits, weights),) = of_first.terms
        network = graph.network_of(model)
        self._activation = output_activations.output_activation(network)[1]
        self.has_classes = not output_activations.of_labels(self._activation)
        _check_names(class_names, len(weights), self.has_classes)
        self.shape = of_first.input_shape
        self._bias = self._temperature = None
        if network is not model:
            self._bias = model.calibration_bias.value
            self._temperature = model.temperature.value
        read = variables_of(self._logits)
        self._weights = [variable.value for variable in read]  # to be saved
        self.class_names = tuple(as_names("class_names", class_names))

    @functools.cached_property
    def functions(self) -> Mapping[str, tf.types.experimental.ConcreteFunction]:
        """The graphs of all signatures, by name."""
        image = tf.TensorSpec([None, *self.shape], tf.uint8, "image")
        encoded = tf.TensorSpec([None], tf.string, "image_bytes")
        functions = {
            "serving_default": (self.classify, image),
            "classify_bytes": (self.classify_bytes, encoded),
        }
        return Signatures(functions)

    def classify(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return what the classifier says of images.

        Args:
            image: [requests, height, width, channels] uint8.

        Returns:
            logits: [requests, classes], nats.
            probabilities: [requests, classes].
            log_density: [requests], nats; of classes, as are the next two.
            class: [requests] int32.
            class_name: [requests], text.
        """
        (image,) = checked_requests(image=image).values()
        return self._classified(tf.cast(image, tf.float32))

    def classify_bytes(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return what `classify` does, for JPEG, PNG or BMP, upright and resized."""
        (image_bytes,) = checked_requests(image_bytes=image_bytes).values()
        images = tf.map_fn(
            self._file_pixels,
            image_bytes,
            fn_output_signature=tf.TensorSpec(self.shape),
        )
        return self._classified(images)

    def _file_pixels(self, data):
        """Pixels 0 ... 255 of one file, in the network's size."""
        *size, channels = self.shape
        resized = tf.image.resize(upright(data, channels), size, antialias=True)
        return tf.clip_by_value(resized, 0.0, 255.0)

    def _classified(self, images):
        logits = self._logits(self.pixels.pixels_of(images))
        tempered = logits
        if self._bias is not None:
            logits += self._bias
            tempered = logits / self._temperature
        probabilities = output_activations.probabilities(self._activation, tempered)
        answer = {"logits": logits, "probabilities": probabilities}
        if not self.has_classes:
            return answer
        index = tf.argmax(logits, axis=1, output_type=tf.int32)
        return answer | {
            "log_density": tf.reduce_logsumexp(logits, axis=1),
            "class": index,
            "class_name": tf.gather(tf.constant(self.class_names), index),
        }


# Checks


def _check_names(names, num_classes, has_classes):
    if has_classes and num_classes < 2:
        raise ValueError(
            "A classifier must have two classes or more. Received: a network with one. "
            "Give it a second one."
        )
    if len(names) != num_classes:
        raise ValueError(
            f"`class_names` must be {num_classes} names, one for each class. Received: "
            f"{len(names)}. Name them all."
        )
