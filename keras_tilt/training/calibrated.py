"""A network with a calibration: a bias per class that Bayes' rule sets.

    outputs F_y(x) + b_y,    b_y = log rho_y - log Z_y,    Z_y = E_q exp F_y(x)
    p(y|x) = softmax of (F_y(x) + b_y) / T

The outputs are joint log densities of image and class whatever the temperature T, which
makes their posterior as sure as it is right.

Source: Dai, Lu, Wu, "Generative Modeling of Convolutional Neural Networks", ICLR 2015,
section 2; Guo et al., "On calibration of modern neural networks", 2017, for T.
"""

__all__ = ["CalibratedNetwork"]

import contextlib
import os
import pathlib
from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule
from numpy.typing import ArrayLike

from keras_tilt.networks import graph
from keras_tilt.networks.class_constants import constants_per_class
from keras_tilt.training import calibration, evaluation
from keras_tilt.training.compile_checks import dtype_policy_of, num_classes_of


class CalibratedNetwork(keras.Model):
    """What a `GenerativeClassifier` is before it is compiled: outputs, bias, files.

    Args:
        network: `keras.Model`, as for `GenerativeClassifier`.
        name: of the model.
        **kwargs: as for `keras.Model`.

    Attributes:
        network: the network.
        num_classes: number of logits.
        calibration_bias: variable `[classes]` nats, b.
        temperature: variable `[]`, T; 1 until one is fitted.
        running_log_means: variable `[2, classes]`, log N_y / n and log Z_y of the
            calibrated outputs, means over recent batches.
        generative_weight: a of the objective, or its schedule; None before `compile`.
    """

    def __init__(self, network: keras.Model, name: str, **kwargs: Any):
        super().__init__(name=name, dtype=dtype_policy_of(network), **kwargs)
        self.num_classes = num_classes_of(network)
        self.network = network
        # What generative training does not change, by `id`: Keras tracks variables.
        self._constants = frozenset(map(id, constants_per_class(network)))
        self.calibration_bias = self._state("calibration_bias", [self.num_classes])
        self.running_log_means = self._state("running_log_means", [2, self.num_classes])
        self.temperature = self._state("temperature", [], "ones")
        self.generative_weight: float | LearningRateSchedule | None = None
        self.built = True

    def _state(self, name, shape, initializer="zeros"):
        return self.add_weight(
            shape=shape,
            initializer=initializer,
            dtype="float32",
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
            name=name,
        )

    @graph.adds_calibration
    def call(self, images: Any, training: bool = False) -> tf.Tensor:
        """Return calibrated logits F_y(x) + b_y, `[batch, classes]` float32 nats."""
        logits = tf.cast(self.network(images, training=training), tf.float32)
        return logits + self.calibration_bias

    @property
    def num_replicas(self) -> int:
        """Number of replicas, each of which takes a share of every batch."""
        return self.distribute_strategy.num_replicas_in_sync

    def moving_variables(self) -> list[keras.Variable]:
        """Return what a step changes: in generative training all but the output bias.

        The generative gradient of a constant per class is exactly zero, with a queue
        zero on average; Adam would turn its rounding errors into a random walk.
        """
        fixed = self._constants if self.generative_weight == 1.0 else ()
        return [v for v in self.trainable_variables if id(v) not in fixed]

    @property
    def input_shape(self) -> Any:
        """Input shape of the network, batch first."""
        return self.network.input_shape

    @property
    def output_shape(self) -> tuple[None, int]:
        """Output shape, (None, classes)."""
        return (None, self.num_classes)

    # Calibrating

    def calibrate(
        self,
        x: Any,
        y: ArrayLike | None = None,
        batch_size: int = 256,
        prior: ArrayLike | None = None,
        held_out: Iterable | tuple[ArrayLike, ArrayLike] | None = None,
    ) -> calibration.Calibration:
        """Set the bias by Bayes' rule, in one pass over a data set.

            b_y = log rho_y - log Z_y,    Z_y = mean over all images of exp F_y(x)

        F is the network's own logits; rho_y is the share of class y among the labelled
        images. Calibrate generatively trained networks, whose logits are log densities
        up to a constant per class; a discriminatively trained network has learned its
        biases, and calibration makes it worse. Several workers must all call it, and
        share the pass if `x` is a function.

        Args:
            x: `tf.data.Dataset` of batches (images, labels), that ends; or a function
                that returns it, of the `tf.distribute.InputContext` of one of several
                workers, its part alone, or of None, all of it; or an array of images.
                Images as the network takes them, also a dict of arrays.
            y: labels if `x` is an array, in the forms that `fit` takes; -1 =
                unlabelled.
            batch_size: images per batch if `x` is an array.
            prior: optional `[classes]` class probabilities rho in place of the shares.
            held_out: images that were not trained on, to fit the temperature to with
                the new bias, as in `fit_temperature`; by default it is 1.

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
        strategy = self.distribute_strategy
        sums = calibration.shared_sums(self.network, x, self.num_classes, strategy)
        found = calibration.calibration_of(sums, prior)
        log_share = np.log(sums.counts.sum() / sums.num_images)
        at_rest = calibration.log_means_at_rest(found.log_prior, log_share)
        self.calibration_bias.assign(found.bias)
        self.running_log_means.assign(at_rest)
        self.temperature.assign(1.0)
        if held_out is not None:
            self.fit_temperature(held_out)
        return found

    def fit_temperature(
        self, held_out: Iterable | tuple[ArrayLike, ArrayLike], batch_size: int = 256
    ) -> float:
        """Set and return the temperature T at which labels are most probable.

            T = argmax of the sum of log p(y_i|x_i),    p(y|x) = softmax of (F + b) / T

        The bias stays as it is, so that it may be that of a discriminatively trained
        network. The outputs do not change, and neither does any density or error: T is
        for probabilities, those of `evaluation.predictions` and of a served classifier.

        Args:
            held_out: labelled images that were not trained on, as a `tf.data.Dataset`
                of batches (images, labels) that ends, a function that returns it, as
                in `calibrate`, or (images, labels).
            batch_size: images per batch of arrays.

        Raises:
            ValueError: no image with a label, or logits not finite.

        Source: Guo et al. 2017, section 4.2.
        """
        if isinstance(held_out, tuple):
            held_out = tf.data.Dataset.from_tensor_slices(held_out).batch(batch_size)
        self.temperature.assign(1.0)
        found = evaluation.fitted_temperature(evaluation.predictions(self, held_out))
        self.temperature.assign(found)
        return found

    def running_bias(self) -> tf.Tensor:
        """Return log rho - log Z of recent batches, `[classes]` nats.

        It is 0 after `calibrate`.
        """
        return calibration.bias_of_log_means(self.running_log_means.value)

    @contextlib.contextmanager
    def calibrated_by_recent_batches(self) -> Iterator[Self]:
        """Calibrate by recent batches within a context, without a pass over images.

        The outputs are then those whose metrics generative training logs, as good as
        the estimate of Z from recent batches. A model that has just been calibrated, or
        that is not trained generatively, does not change.
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

    def load_own_variables(self, store: MutableMapping[str, Any]) -> None:
        """Load b, the running means and T, which is 1 in files of before there was one.

        Args:
            store: arrays by the place of a variable.
        """
        known = {name: store[name] for name in store.keys()}  # noqa: SIM118
        super().load_own_variables({"2": np.ones([], np.float32), **known})

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments."""
        network = keras.saving.serialize_keras_object(self.network)
        return {"network": network, "name": self.name}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Self:
        """Return an untrained model with the configured network."""
        network = keras.saving.deserialize_keras_object(
            config["network"], custom_objects
        )
        return cls(network, name=config["name"])

    def save(self, filepath: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Save the model as `keras.Model.save` does, in Keras's own format.

        Raises:
            ValueError: the name of an HDF5 file, which cannot hold a subclassed model.
        """
        if str(filepath).endswith((".h5", ".hdf5")):
            raise ValueError(
                "`filepath` must end in .keras: HDF5 files hold neither the objective "
                f"nor the calibration. Received: {filepath}. Save it as "
                f"{pathlib.Path(filepath).stem}.keras, or `network` alone as HDF5."
            )
        super().save(filepath, *args, **kwargs)

    def export(
        self,
        filepath: str | os.PathLike,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Export the calibrated outputs as `keras.Model.export` does.

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
