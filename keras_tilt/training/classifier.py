"""A classifier that `fit` trains by the generative gradient, and that is calibrated.

    generative      p_y(x) = exp(F_y(x)) q(x) / Z_y,     softmax of F over the images
    discriminative  p(y|x) = softmax over y of F_y(x) + b_y
    calibration     b_y = log rho_y - log Z_y,           Z_y = E_q exp F_y(x)

In generative training rho and Z are averaged over recent batches, and every metric is
that of outputs calibrated by these.

Source: Dai, Lu, Wu, "Generative Modeling of Convolutional Neural Networks", ICLR 2015,
sections 2 and 3.
"""

__all__ = ["GenerativeClassifier"]

from collections.abc import Callable
from typing import Any, Literal

import keras
import tensorflow as tf

from keras_tilt.networks import keras_internals
from keras_tilt.training.batch_checks import (
    SingleImages,
    finite_logits,
    loss_of_several,
    plain_errors,
    refuse_text,
    step_of_several,
    unpacked,
)
from keras_tilt.training.calibrated import CalibratedNetwork
from keras_tilt.training.calibration import updated_log_means
from keras_tilt.training.compile_checks import (
    Objective,
    check_queue,
    generative_weight_of,
    name_of_loss,
    refuse_others,
    refuse_unreplicable,
    weight_at,
)
from keras_tilt.training.losses import column_statistics, loss_per_image
from keras_tilt.training.metrics import (
    GENERATIVE_METRICS,
    Averages,
    given_rows,
    of_labelled,
    sums_of_step,
)
from keras_tilt.training.optimizers import gradients_to_apply
from keras_tilt.training.reference_queue import ReferenceQueue, pooled
from keras_tilt.training.shares import logits_of_share


@keras.saving.register_keras_serializable("keras_tilt")
class GenerativeClassifier(keras_internals.LogsItsSteps, CalibratedNetwork):
    """A network trained as class densities, as a classifier, or as a mix of both.

    The model's output is `network(images) + b`, where the calibration b is zero until
    `calibrate` sets it. Adding a constant per class changes nothing in the generative
    objective, so that b only matters to predictions and to discriminative training,
    which starts from it.

    Args:
        network: `keras.Model`, images, or several inputs with images first, to logits
            `[batch, classes]`: no softmax or sigmoid at its end.
        name: of the model.
        **kwargs: as for `keras.Model`.

    Raises:
        ValueError: a network whose output is not `[batch, classes]` logits.

    Example:
        >>> network = keras_tilt.lenet()
        >>> model = keras_tilt.GenerativeClassifier(network)
        >>> model.compile("sgd", objective="generative", metrics=["accuracy"])

    Source: Dai, Lu, Wu 2015. Whether the paper calibrated is not known.
    """

    def __init__(
        self,
        network: keras.Model,
        name: str = "generative_classifier",
        **kwargs: Any,
    ):
        super().__init__(network, name, **kwargs)
        self._averages = Averages(("loss", "objective", *GENERATIVE_METRICS))
        self.num_left_out = _counter("batches_of_one_image")
        self.has_warned = False
        self.reference_queue: ReferenceQueue | None = None

    # Compiling

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer | str = "sgd",
        objective: Objective = "generative",
        *,
        queue: int = 0,
        metrics: Any = None,
        weighted_metrics: Any = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: bool | Literal["auto"] = "auto",
        **others: Any,
    ) -> None:
        """Choose optimizer and objective; weights and calibration stay as they are.

        Args:
            optimizer: a Keras optimizer or its name.
            objective: "generative", "discriminative", or a number a in [0, 1] for
                (1 - a) discriminative + a generative; or a of every step of the
                optimizer, a schedule in `keras.optimizers.schedules`.
            queue: number of past batches whose logits are more draws of q for the
                normalizers; empty at first: `keras_tilt.training.reference_queue`.
            metrics: Keras metrics of the labelled images, whether they compare class
                indices (`SparseCategoricalAccuracy`) or one-hot rows
                (`CategoricalAccuracy`); your own are given class indices and logits. In
                generative training the logits are calibrated by rho and Z of recent
                batches, and the accuracy of the outputs themselves is logged as
                `uncalibrated_accuracy`.
            weighted_metrics: the same, weighted by the sample weights.
            run_eagerly: as in Keras.
            steps_per_execution: as in Keras; 1 under several replicas.
            jit_compile: as in Keras; not under several replicas. XLA leaves out the
                checks of labels and of images that are not finite.
            **others: refused; the objective takes the place of a loss of Keras.

        Raises:
            TypeError: other arguments of Keras.
            ValueError: an unknown objective, a queue of a discriminative one, or an
                option that Keras itself cannot run under several replicas.
        """
        refuse_others(others)
        self.generative_weight = generative_weight_of(objective)
        self.objective, self.has_warned = objective, False
        check_queue(queue, objective)
        optimizer = keras.optimizers.get(optimizer)
        if self.num_replicas > 1:
            refuse_unreplicable(optimizer, steps_per_execution, jit_compile)
        with self.distribute_strategy.scope():
            past = ReferenceQueue(queue, self.num_classes) if queue else None
            self.reference_queue = past
            super().compile(
                optimizer=optimizer,
                metrics=given_rows(metrics),
                weighted_metrics=given_rows(weighted_metrics),
                run_eagerly=run_eagerly,
                steps_per_execution=steps_per_execution,
                jit_compile=jit_compile,
            )
            # Optimizer slots and metrics must exist before the step is traced under a
            # strategy; Keras would build them from a batch, which must split evenly.
            self.optimizer.build(self.trainable_variables)
            keras_internals.build_compiled_metrics(self, self.num_classes)

    @property
    def training_state(self) -> list[tf.Variable]:
        """Variables that the next step, or what it logs, depends on, besides its batch.

        Weights, calibration, states of random generators, optimizer, metrics, queue.
        """
        queue = self.reference_queue
        of_keras = [*self.variables, *self.optimizer.variables, *self.metrics_variables]
        state = [variable.value for variable in of_keras]
        return state if queue is None else state + queue.variables

    @property
    def loss_name(self) -> str:
        """Name of the objective, in nats, in the logs of `fit` and `evaluate`."""
        return name_of_loss(self.generative_weight)

    def get_compile_config(self) -> dict[str, Any]:
        """Return the arguments of `compile`."""
        config = super().get_compile_config()
        if not config:
            return config
        queue, objective = self.reference_queue, self.objective
        kept = {k: v for k, v in config.items() if k not in ("loss", "loss_weights")}
        kept["objective"] = keras.saving.serialize_keras_object(objective)
        return {**kept, "queue": 0 if queue is None else queue.num_batches}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile with saved arguments."""
        self.compile(**keras.saving.deserialize_keras_object(config))

    def get_metrics_result(self) -> dict[str, tf.Tensor]:
        """Return results by name; the objective has its own, `loss_name`."""
        unused = set() if self.generative_weight else set(GENERATIVE_METRICS)
        if self.reference_queue is None:
            unused.add("queue_drift")
        results = super().get_metrics_result()
        results = {k: v for k, v in results.items() if k not in unused}
        return {self.loss_name: results.pop("objective"), **results}

    # Fitting

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Train as `keras.Model.fit` does; a bad batch ends it with a plain error.

        A batch of one image has no generative gradient: if the objective has a
        generative part, it is left out with a warning. Under several replicas the step
        is taken with a gradient of zero: momentum still moves the weights.

        Raises:
            ValueError: invalid labels, images or weights, or no batch with more than
                one image.
        """
        refuse_text(y, kwargs.get("validation_data"))
        if not self.generative_weight:
            # Discriminative training changes the biases that these would calibrate.
            self.running_log_means.assign(tf.zeros_like(self.running_log_means))
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = [SingleImages(), *keras.tree.flatten(callbacks or [])]
        with plain_errors():
            return super().fit(
                x, y, batch_size, epochs, verbose, callbacks, *args, **kwargs
            )

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Evaluate as `keras.Model.evaluate` does; a bad batch raises a plain error.

        The normalizers of the generative loss are sums over a batch, so that it is 0
        for a batch of one image.
        """
        refuse_text(y)
        with plain_errors():
            return super().evaluate(x, y, *args, **kwargs)

    # Steps

    def around_train_step(self, step: Callable) -> Callable:
        """Return the step of `fit`, which leaves out batches of one image."""
        if not self.generative_weight or self.num_replicas > 1:
            return step
        return step_of_several(self, step)

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Take a step of the optimizer on the global batch; return the logs."""
        images, labels, sample_weight = unpacked(data, self.num_classes)
        step = tf.convert_to_tensor(self.optimizer.iterations)
        with tf.GradientTape() as tape:
            logits = logits_of_share(self, images, training=True)
            logits = finite_logits(images, logits, "the batch of training step", step)
            queue = self.reference_queue
            loss, batch, used = self._loss(labels, logits, sample_weight, queue)
            penalties = [keras_internals.share_of_penalty(self, p) for p in self.losses]
            total = tf.add_n([loss, *penalties])
            if batch is not None and self.num_replicas > 1:
                total = loss_of_several(self, total, batch.num_images)
            scaled = self.optimizer.scale_loss(total)
        variables = self.moving_variables()
        gradients = tape.gradient(scaled, variables)
        gradients = gradients_to_apply(self.optimizer, gradients, self.num_replicas)
        self.optimizer.apply(gradients, variables)
        if batch is not None:
            new = updated_log_means(self.running_log_means, batch, step)
            self.running_log_means.assign(new)
        if queue is not None:
            queue.push(batch)
        return self._logged(labels, logits, sample_weight, loss, used)

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Evaluate objective and metrics on a batch; return the logs."""
        images, labels, sample_weight = unpacked(data, self.num_classes)
        logits = logits_of_share(self, images, training=False)
        logits = finite_logits(images, logits, "an evaluation batch")
        loss, _, used = self._loss(labels, logits, sample_weight)
        results = self._logged(labels, logits, sample_weight, loss, used)
        return {name: v for name, v in results.items() if name != "queue_drift"}

    def _loss(self, labels, logits, sample_weight, queue=None):
        """Return the loss in nats, the batch's statistics, and those with the queue."""
        step = tf.convert_to_tensor(self.optimizer.iterations)
        weight, batch = weight_at(self.generative_weight, step), None
        if self.generative_weight:
            batch = column_statistics(labels, logits, sample_weight)
        used = batch if queue is None else pooled(batch, queue.rows)
        loss = loss_per_image(labels, logits, weight, sample_weight, batch, used)
        return loss, batch, used

    def _logged(self, labels, logits, sample_weight, loss, statistics):
        """Update all metrics by a step, and return its logs."""
        queue = self.reference_queue
        bias = self.running_bias() if self.generative_weight else 0.0
        drift = None if queue is None else queue.drift()
        numbers = labels, logits, loss, self.losses, statistics, bias, drift
        self._averages.update_state(*sums_of_step(*numbers, self.num_replicas))
        compiled = keras_internals.compiled_metrics(self)
        if compiled is not None:
            if self.generative_weight == 1.0:
                logits += bias
            compiled.update_state(*of_labelled(labels, logits, sample_weight))
        return self.logs_of_step()


def _counter(name):
    first = tf.VariableAggregation.ONLY_FIRST_REPLICA
    return tf.Variable(0, trainable=False, aggregation=first, name=name)
