"""A network whose logits have a bias per class, which Bayes' rule sets.

    F_y(x) + b_y,    b_y = log rho_y - log Z_y,    Z_y = E_q exp F_y(x)

Source: Dai, Lu, Wu, "Generative Modeling of Convolutional Neural Networks", ICLR 2015,
section 2.
"""

__all__ = ["CalibratedNetwork"]

import contextlib
import pathlib

import keras
import numpy as np
import tensorflow as tf

from keras_tilt.networks import graph, outputs
from keras_tilt.training import calibration
from keras_tilt.training.batch_checks import first_of
from keras_tilt.training.compile_checks import dtype_policy_of, num_classes_of


class CalibratedNetwork(keras.Model):
    """What `GenerativeClassifier` is before it is compiled: outputs, bias, files.

    Args:
        network: as `GenerativeClassifier`.

    Attributes:
        num_classes: number of logits.
        calibration_bias: variable `[classes]` nats, b.
        running_log_means: variable `[2, classes]` over recent batches: log N_y / n and
            log Z_y, of the calibrated outputs.
        generative_weight: a of the objective; None before `compile`.
    """

    def __init__(self, network, name, **kwargs):
        super().__init__(name=name, dtype=dtype_policy_of(network), **kwargs)
        self.num_classes = num_classes_of(network)
        self.network = network
        # What a generative step leaves as it is, by `id`: Keras would track variables.
        self._constants = frozenset(map(id, outputs.constants_per_class(network)))
        self.calibration_bias = self._state("calibration_bias", [self.num_classes])
        self.running_log_means = self._state("running_log_means", [2, self.num_classes])
        self.generative_weight = None
        self.built = True

    def _state(self, name, shape):
        return self.add_weight(
            shape=shape,
            initializer="zeros",
            dtype="float32",
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
            name=name,
        )

    @graph.adds_calibration
    def call(self, images, training=False):
        """Calibrated logits `[batch, classes]` float32, F_y(x) + b_y in nats."""
        logits = tf.cast(self.network(images, training=training), tf.float32)
        return logits + self.calibration_bias

    def logits_of_share(self, images, training):
        """The output, also for the empty batch that a replica may be given.

        Convolutions of empty batches fail in some kernels, and batch statistics of
        none are NaN: a blank image stands in, and its logits are dropped.
        """
        if self.num_replicas == 1:
            return self(images, training=training)
        num_images = tf.shape(first_of(images))[0]
        blank = keras.tree.map_structure(_blank, images)
        images = tf.cond(num_images > 0, lambda: images, lambda: blank)
        return self(images, training=training)[:num_images]

    @property
    def num_replicas(self):
        """Number of replicas that a batch is shared by."""
        return self.distribute_strategy.num_replicas_in_sync

    def moving_variables(self):
        """What a step moves: in generative training all but the output bias.

        A constant per class has exactly zero generative gradient, with a queue zero on
        average; Adam would turn the noise of its computed one into a random walk.
        """
        fixed = self._constants if self.generative_weight == 1.0 else ()
        return [v for v in self.trainable_variables if id(v) not in fixed]

    @property
    def input_shape(self):
        """That of the network, batch first."""
        return self.network.input_shape

    @property
    def output_shape(self):
        """(None, classes)."""
        return (None, self.num_classes)

    # Calibrating

    def calibrate(self, x, y=None, batch_size=256, prior=None):
        """Sets the bias by Bayes' rule: b_y = log rho_y - log Z_y, in one pass.

        Z_y = mean over all images of exp F_y(x), F the network's own logits; rho_y is
        the share of class y among the labelled images. Meant for generatively trained
        networks, whose logits are log densities up to a constant per class; a
        discriminatively trained network has learned its biases and loses by it. Of
        several workers each passes over all images by itself.

        Args:
            x: `tf.data.Dataset` of batches (images, labels), that ends, or an array of
                images; images as the network takes them, also a dict of arrays.
            y: labels if `x` is an array, in the forms that `fit` takes; -1 =
                unlabelled.
            batch_size: images per batch if `x` is an array.
            prior: optional `[classes]` class probabilities rho instead of the shares.

        Returns:
            calibration: `Calibration`, also stored in the model.

        Raises:
            ValueError: an empty or endless data set, a class that never occurs and no
                `prior`, a prior that is not a positive distribution, or logits not
                finite.

        Source: Dai, Lu, Wu 2015, section 2 (the bias carries the normalizers).
        """
        if y is not None:
            x = tuple(x) if isinstance(x, list) else x  # of several inputs
            x = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size)
        sums = calibration.column_sums(self.network, x, self.num_classes)
        found = calibration.calibration_of(sums, prior)
        log_share = np.log(sums.counts.sum() / sums.num_images)
        at_rest = calibration.log_means_at_rest(found.log_prior, log_share)
        self.calibration_bias.assign(found.bias)
        self.running_log_means.assign(at_rest)
        return found

    def running_bias(self):
        """`[classes]` nats: log rho - log Z of recent batches; 0 after `calibrate`."""
        return calibration.bias_of_log_means(self.running_log_means.value)

    @contextlib.contextmanager
    def calibrated_by_recent_batches(self):
        """Within it the outputs are those of which generative training logs metrics.

        Their calibration is that of recent batches, as good as its estimate of Z; it
        costs no pass over the images. A model that has just been calibrated, or that
        does not train generatively, is as it was.
        """
        variables = self.calibration_bias, self.running_log_means
        before = [variable.numpy() for variable in variables]
        if self.generative_weight == 1.0:
            self.calibration_bias.assign_add(self.running_bias())
            log_prior = tf.nn.log_softmax(before[1][0])
            self.running_log_means.assign(calibration.log_means_at_rest(log_prior))
        try:
            yield self
        finally:
            for variable, value in zip(variables, before, strict=True):
                variable.assign(value)

    # Files

    def get_config(self):
        """Constructor arguments."""
        network = keras.saving.serialize_keras_object(self.network)
        return {"network": network, "name": self.name}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """A model with the configured network, untrained."""
        network = keras.saving.deserialize_keras_object(
            config["network"], custom_objects
        )
        return cls(network, name=config["name"])

    def save(self, filepath, *args, **kwargs):
        """As `keras.Model.save`, in Keras's own format.

        Raises:
            ValueError: an HDF5 file, which holds no model that is itself a class.
        """
        if str(filepath).endswith((".h5", ".hdf5")):
            raise ValueError(
                "`filepath` must end in .keras: HDF5 files hold neither the objective "
                f"nor the calibration. Received: {filepath}. Save it as "
                f"{pathlib.Path(filepath).stem}.keras, or `network` alone as HDF5."
            )
        super().save(filepath, *args, **kwargs)

    def export(self, filepath, format="tf_saved_model", verbose=None, **kwargs):
        """As `keras.Model.export`, of the calibrated outputs.

        Args:
            filepath: folder or file.
            format: as in Keras.
            verbose: as in Keras.
            **kwargs: as in Keras; `input_signature` is by default that of the network.
        """
        specs = keras.tree.map_structure(_spec, self.network.input)
        kwargs.setdefault("input_signature", [specs])
        return super().export(filepath, format, verbose, **kwargs)


def _spec(tensor):
    return keras.InputSpec(dtype=tensor.dtype, shape=(None, *tensor.shape[1:]))


def _blank(images):
    """One image of zeros."""
    blank = tf.zeros(tf.concat([[1], tf.shape(images)[1:]], 0), images.dtype)
    return tf.ensure_shape(blank, [1, *images.shape[1:]])
