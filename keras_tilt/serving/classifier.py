"""A classifier as functions of a server: images of bytes in, classes or labels out.

    classify   image -> logits, p(y | x), log p(x) up to a constant; of a network of
                        labels beside each other, logits and p of each label

Source: Dai, Lu and Wu (2015), section 2; Grathwohl et al. (2020), "Your classifier is
secretly an energy based model and you should treat it like one".
"""

__all__ = ["ServedClassifier"]

import functools

import tensorflow as tf

from keras_tilt.networks import graph, outputs
from keras_tilt.serving.image_bytes import PixelRange, upright
from keras_tilt.serving.requests import checked_rows, traced
from keras_tilt.units.groups import variables_of
from keras_tilt.units.selection import unit
from keras_tilt.validation import as_names


class ServedClassifier(tf.Module):
    """A classifier of images of bytes.

        p(y | x)  = softmax over y of F_y(x) + b_y
        log p(x)  = log sum over y of exp(F_y(x) + b_y) + log q(x) + constant

    The sum over y is the density of all classes together, each with its own share,
    relative to that of the images q that the network was trained on: b_y = log rho_y -
    log Z_y of a calibrated `GenerativeClassifier`. Of any other network b_y is 0, and
    the sum is what its logits say of it.

    A network that ends in sigmoids gives labels that may hold beside each other:

        p(label y | x) = sigmoid of F_y(x)

    Its probabilities are these. No label is the class, and exp(F_y) is no density of
    images: `class`, `class_name` and `log_density` are not in the answer.

    Args:
        model: `keras.Model`, images [n, height, width, channels] -> logits; a softmax,
            a sigmoid or the like at its end is left out, and makes the probabilities.
        low: pixel that byte 0 stands for.
        high: pixel that byte 255 stands for.
        class_names: list of text, one for each class or label.
        preprocess: None, or a function of pixels, as in `keras_tilt.unit`.

    Attributes:
        functions: dict, name of a signature -> the graph of its function.
        shape: of an image.
        pixels: `PixelRange`, what is black and white.
        class_names: of the classes or labels, in their order.
        has_classes: False for a network of labels.

    Raises:
        ValueError: for a model without logits of two classes or more, or of labels;
            probabilities whose logits are out of reach; pixels that are no range; or
            another number of names.

    Source: Dai, Lu and Wu (2015), section 2; Grathwohl et al. (2020), "Your classifier
    is secretly an energy based model and you should treat it like one", for the sum
    over classes as a density.
    """

    def __init__(self, model, low, high, class_names, preprocess=None):
        super().__init__(name="classifier")
        self.pixels = PixelRange(low, high)
        of_first = unit(model, class_index=0, preprocess=preprocess)
        ((self._logits, weights),) = of_first.terms
        network = graph.network_of(model)
        _, self._activation = outputs.output_activation(network)
        self.has_classes = not outputs.of_labels(self._activation)
        _check_names(class_names, len(weights), self.has_classes)
        self.shape = of_first.input_shape
        self._bias = None if network is model else model.calibration_bias.value
        read = variables_of(self._logits)
        self._weights = [variable.value for variable in read]  # to be saved
        self.class_names = tuple(as_names("class_names", class_names))

    @functools.cached_property
    def functions(self):
        image = tf.TensorSpec([None, *self.shape], tf.uint8, "image")
        encoded = tf.TensorSpec([None], tf.string, "image_bytes")
        return {
            "serving_default": traced(self.classify, image),
            "classify_bytes": traced(self.classify_bytes, encoded),
        }

    def classify(self, image):
        """logits, probabilities [classes]; of classes log_density, class, name."""
        (image,) = checked_rows(image=image).values()
        return self._classified(tf.cast(image, tf.float32))

    def classify_bytes(self, image_bytes):
        """The same of JPEG, PNG or BMP files, upright and in the network's size."""
        (image_bytes,) = checked_rows(image_bytes=image_bytes).values()
        images = tf.map_fn(
            self._file_pixels,
            image_bytes,
            fn_output_signature=tf.TensorSpec(self.shape),
        )
        return self._classified(images)

    def _file_pixels(self, data):
        """Of one file, its pixels 0 ... 255 in the network's size."""
        *size, channels = self.shape
        resized = tf.image.resize(upright(data, channels), size, antialias=True)
        return tf.clip_by_value(resized, 0.0, 255.0)

    def _classified(self, images):
        logits = self._logits(self.pixels.pixels_of(images))
        if self._bias is not None:
            logits += self._bias
        probabilities = outputs.probabilities(self._activation, logits)
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
            "A classifier has two classes or more. Received: a network of one output. "
            "Give it a second one."
        )
    if len(names) != num_classes:
        raise ValueError(
            f"`class_names` must be {num_classes} names, one for each class. Received: "
            f"{len(names)}. Name them all."
        )
