"""A classifier that `fit` trains by the generative gradient, and that can calibrate.

    generative      p_y(x) = exp(F_y(x)) q(x) / Z_y,     softmax of F over the images
    discriminative  p(y|x) = softmax over y of F_y(x) + b_y
    calibration     b_y = log rho_y - log Z_y,           Z_y = E_q exp F_y(x)

While it trains generatively, rho and Z are kept over recent batches, and every metric
is one of outputs that are calibrated by these.

Source: Dai, Lu, Wu, "Generative Modeling of Convolutional Neural Networks", ICLR 2015,
sections 2 and 3.
"""

__all__ = ["GenerativeClassifier"]

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
    check_queue,
    generative_weight_of,
    refuse_others,
    refuse_unreplicable,
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


@keras.saving.register_keras_serializable("keras_tilt")
class GenerativeClassifier(keras_internals.LogsItsSteps, CalibratedNetwork):
    """Trains a network as class densities, as a classifier, or as a mix of both.

    The model's output is `network(images) + b`, where the calibration b is zero until
    `calibrate` sets it. Adding a constant per class changes nothing in the generative
    objective, so b only matters to predictions and to discriminative training, which
    starts from it.

    Args:
        network: `keras.Model`, images, or several inputs with images first, to logits
            `[batch, classes]`: no softmax or sigmoid at its end.

    Raises:
        ValueError: a network whose output is not `[batch, classes]` logits.

    Example:
        >>> network = keras_tilt.lenet()
        >>> model = keras_tilt.GenerativeClassifier(network)
        >>> model.compile("sgd", objective="generative", metrics=["accuracy"])

    Source: Dai, Lu, Wu 2015. Whether the paper calibrated is not known.
    """

    def __init__(self, network, name="generative_classifier", **kwargs):
        super().__init__(network, name, **kwargs)
        self._averages = Averages(("loss", "objective", *GENERATIVE_METRICS))
        self.num_left_out = _counter("batches_of_one_image")
        self.has_warned = False
        self.reference_queue = None

    # Compiling

    def compile(
        self,
        optimizer="sgd",
        objective="generative",
        *,
        queue=0,
        metrics=None,
        weighted_metrics=None,
        run_eagerly=False,
        steps_per_execution=1,
        jit_compile="auto",
        **others,
    ):
        """Chooses optimizer and objective; calibration and weights stay.

        Args:
            optimizer: a Keras optimizer or its name.
            objective: "generative", "discriminative", or a number a in [0, 1] for
                (1 - a) discriminative + a generative.
            queue: number of past batches whose logits stay as more draws of q in the
                sums over images, empty at first: `keras_tilt.training.reference_queue`.
            metrics: Keras metrics, of labelled images and their logits, whether they
                compare class indices (`SparseCategoricalAccuracy`) or one-hot rows
                (`CategoricalAccuracy`); one's own are given class indices. In
                generative training the logits are calibrated by the rho and Z of recent
                batches, and the accuracy of the outputs as they stand is logged as
                `uncalibrated_accuracy`.
            weighted_metrics: the same, weighted by the sample weights.
            run_eagerly: as in Keras.
            steps_per_execution: as in Keras; 1 under several replicas.
            jit_compile: as in Keras; not under several replicas. XLA leaves out the
                checks of labels and of images that are not finite.
            **others: none; a loss of Keras has no place here.

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
            new = ReferenceQueue(queue, self.num_classes) if queue else None
            self.reference_queue = new
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
    def training_state(self):
        """Variables that the next step depends on, beside its images, or that it logs.

        Weights, calibration, random states, the optimizer's, metrics', the queue.
        """
        queue = self.reference_queue
        of_queue = [] if queue is None else queue.variables
        of_keras = [*self.variables, *self.optimizer.variables, *self.metrics_variables]
        return [variable.value for variable in of_keras] + of_queue

    @property
    def loss_name(self):
        """Key of the objective, in nats, in the logs of `fit` and `evaluate`."""
        names = {0.0: "discriminative_loss", 1.0: "generative_loss"}
        return names.get(self.generative_weight, "mixed_loss")

    def get_compile_config(self):
        """Arguments of `compile`."""
        config = super().get_compile_config()
        if not config:
            return config
        kept = {k: v for k, v in config.items() if k not in ("loss", "loss_weights")}
        queue = self.reference_queue
        length = 0 if queue is None else queue.num_batches
        return {**kept, "objective": self.objective, "queue": length}

    def compile_from_config(self, config):
        """Compiles as saved."""
        self.compile(**keras.saving.deserialize_keras_object(config))

    def get_metrics_result(self):
        """Results by name; the objective under its own name, `loss_name`."""
        unused = () if self.generative_weight else GENERATIVE_METRICS
        if self.reference_queue is None:
            unused = (*unused, "queue_drift")
        results = super().get_metrics_result()
        results = {k: v for k, v in results.items() if k not in unused}
        return {self.loss_name: results.pop("objective"), **results}

    # Fitting

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        *args,
        **kwargs,
    ):
        """As `keras.Model.fit`; bad batches end it with a plain error.

        A batch of one image has no generative gradient: it is left out, with a warning,
        where the objective has a generative part. Under several replicas it makes a
        step without a gradient, that what is left of past ones may move.

        Raises:
            ValueError: labels, images or weights that are none; batches of one image
                and no others.
        """
        refuse_text(y, kwargs.get("validation_data"))
        if not self.generative_weight:
            # Outputs that were once calibrated by these now have other biases.
            self.running_log_means.assign(tf.zeros_like(self.running_log_means))
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = [SingleImages(), *keras.tree.flatten(callbacks or [])]
        with plain_errors():
            return super().fit(
                x, y, batch_size, epochs, verbose, callbacks, *args, **kwargs
            )

    def evaluate(self, x=None, y=None, *args, **kwargs):
        """As `keras.Model.evaluate`; bad batches end it with a plain error.

        The sums over images of the generative loss are those of a batch, so that it is
        0 for a batch of one image.
        """
        refuse_text(y)
        with plain_errors():
            return super().evaluate(x, y, *args, **kwargs)

    # Steps

    def around_train_step(self, step):
        """Keras's step on a batch; of one image none, where that is to be left out."""
        if not self.generative_weight or self.num_replicas > 1:
            return step
        return step_of_several(self, step)

    def train_step(self, data):
        """One step of the objective on the global batch."""
        images, labels, sample_weight = unpacked(data, self.num_classes)
        step = tf.convert_to_tensor(self.optimizer.iterations)
        with tf.GradientTape() as tape:
            logits = self.logits_of_share(images, training=True)
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

    def test_step(self, data):
        """The objective and the metrics on one batch."""
        images, labels, sample_weight = unpacked(data, self.num_classes)
        logits = self.logits_of_share(images, training=False)
        logits = finite_logits(images, logits, "an evaluation batch")
        loss, _, used = self._loss(labels, logits, sample_weight)
        results = self._logged(labels, logits, sample_weight, loss, used)
        return {name: v for name, v in results.items() if name != "queue_drift"}

    def _loss(self, labels, logits, sample_weight, queue=None):
        """The loss in nats, the statistics of the batch, and those with the queue."""
        weight, batch = self.generative_weight, None
        if weight:
            batch = column_statistics(labels, logits, sample_weight)
        used = batch if queue is None else pooled(batch, queue.rows)
        arguments = labels, logits, weight, sample_weight, batch, used
        return loss_per_image(*arguments), batch, used

    def _logged(self, labels, logits, sample_weight, loss, statistics):
        """The logs of a step, once all metrics have seen it."""
        queue = self.reference_queue
        bias = self.running_bias() if self.generative_weight else 0.0
        drift = None if queue is None else queue.drift()
        numbers = labels, logits, loss, self.losses, statistics, bias, drift
        self._averages.update_state(*sums_of_step(*numbers))
        compiled = keras_internals.compiled_metrics(self)
        if compiled is not None:
            if self.generative_weight == 1.0:
                logits += bias
            compiled.update_state(*of_labelled(labels, logits, sample_weight))
        return self.logs_of_step()


def _counter(name):
    first = tf.VariableAggregation.ONLY_FIRST_REPLICA
    return tf.Variable(0, trainable=False, aggregation=first, name=name)
