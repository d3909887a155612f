"""A classifier that `fit` trains by the generative gradient, and that can calibrate.

    generative      p_y(x) = exp(F_y(x)) q(x) / Z_y,     softmax of F over the images
    discriminative  p(y|x) = softmax over y of F_y(x) + b_y
    calibration     b_y = log rho_y - log Z_y,           Z_y = E_q exp F_y(x)

Source: Dai, Lu, Wu, "Generative Modeling of Convolutional Neural Networks", ICLR 2015,
sections 2 and 3.
"""

import contextlib
import numbers
import re
import typing

import keras
import numpy as np
import tensorflow as tf

from keras_tilt import graph, outputs
from keras_tilt import objective as objectives
from keras_tilt.arguments import check_count
from keras_tilt.reference_queue import ReferenceQueue, pooled

__all__ = ["Calibration", "GenerativeClassifier"]

_OBJECTIVES = {"discriminative": 0.0, "generative": 1.0}
_RUNNING_AVERAGE_STEPS = 100
_NO_MASS = 1e-30  # keeps the logarithm of an absent class finite
_ALL = 2**31 - 1  # entries of a tensor that a failed assertion prints
_GENERATIVE_METRICS = (
    "calibrated_accuracy",
    "kish_ess",
    "absent_classes",
    "queue_drift",
)


class Calibration(typing.NamedTuple):
    """One pass over a data set, per class: b = log_prior - log_partition.

    Attributes:
        bias: `[classes]` nats, what the classifier adds to its logits.
        log_partition: `[classes]` nats, log Z_y = log mean_x exp F_y(x).
        log_prior: `[classes]` nats, log rho_y.
        kish_ess: `[classes]` effective number of images in each log Z_y.
        num_images: number of images in the pass.
    """

    bias: np.ndarray
    log_partition: np.ndarray
    log_prior: np.ndarray
    kish_ess: np.ndarray
    num_images: int


@keras.saving.register_keras_serializable("keras_tilt")
class GenerativeClassifier(keras.Model):
    """Trains a network as class densities, as a classifier, or as a mix of both.

    The model's output is `network(images) + b`, where the calibration b is zero until
    `calibrate` sets it. Adding a constant per class changes nothing in the generative
    objective, so b only matters to predictions and to discriminative training, which
    starts from it.

    Args:
        network: `keras.Model` of one input, images, to logits `[batch, classes]`: no
            softmax or sigmoid at its end.

    Raises:
        ValueError: a network of several inputs, or whose output is not `[batch,
            classes]` logits.

    Example:
        >>> network = keras_tilt.lenet()
        >>> model = keras_tilt.GenerativeClassifier(network)
        >>> model.compile("sgd", objective="generative", metrics=["accuracy"])

    Source: Dai, Lu, Wu 2015. Whether the paper calibrated is not known.
    """

    def __init__(self, network, name="generative_classifier", **kwargs):
        super().__init__(name=name, dtype=_policy(network), **kwargs)
        self.num_classes = _num_classes(network)
        self.network = network
        # What a generative step leaves as it is, by `id`: Keras would track variables.
        self._constants = frozenset(map(id, outputs.constants_per_class(network)))
        self.calibration_bias = self._state("calibration_bias", [self.num_classes])
        # Over recent batches: log N_y / n and log Z_y, of the calibrated outputs.
        self.running_log_means = self._state("running_log_means", [2, self.num_classes])
        self._averages = _Averages(("loss", "objective", *_GENERATIVE_METRICS))
        self.generative_weight = None
        self.reference_queue = None
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
    ):
        """Chooses optimizer and objective; calibration and weights stay.

        Args:
            optimizer: a Keras optimizer or its name.
            objective: "generative", "discriminative", or a number a in [0, 1] for
                (1 - a) discriminative + a generative.
            queue: number of past batches whose logits stay as more draws of q in the
                sums over images: see `keras_tilt.reference_queue`. It starts empty.
            metrics: Keras metrics of (labels, calibrated logits); labelled images only.
            weighted_metrics: the same, weighted by the sample weights.
            run_eagerly: as in Keras.
            steps_per_execution: as in Keras; 1 under several replicas.
            jit_compile: as in Keras; not under several replicas. XLA leaves out the
                checks of labels and of images that are not finite.

        Raises:
            ValueError: an unknown objective, a queue of a discriminative one, or an
                option that Keras itself cannot run under several replicas.
        """
        self.generative_weight = _generative_weight(objective)
        self.objective = objective
        self.reference_queue = self._new_queue(queue)
        optimizer = keras.optimizers.get(optimizer)
        if self.distribute_strategy.num_replicas_in_sync > 1:
            _refuse_unreplicable(optimizer, steps_per_execution, jit_compile)
        with self.distribute_strategy.scope():
            super().compile(
                optimizer=optimizer,
                metrics=metrics,
                weighted_metrics=weighted_metrics,
                run_eagerly=run_eagerly,
                steps_per_execution=steps_per_execution,
                jit_compile=jit_compile,
            )
            self._build_for_training()

    def _new_queue(self, num_batches):
        check_count("queue", num_batches, 0)
        if not num_batches:
            return None
        if not self.generative_weight:
            raise ValueError(
                "`queue` is for the sums of an objective with a generative part. "
                f"Received: queue={num_batches}, objective={self.objective!r}. "
                "Leave it out."
            )
        with self.distribute_strategy.scope():
            return ReferenceQueue(num_batches, self.num_classes)

    @property
    def has_workers(self):
        """Whether its replicas are in several processes, as TF_CONFIG has them."""
        strategy = self.distribute_strategy
        several = tf.distribute.MultiWorkerMirroredStrategy
        if not isinstance(strategy, several):
            return False
        cluster = strategy.cluster_resolver.cluster_spec().as_dict()
        return sum(len(cluster.get(job, [])) for job in ("chief", "worker")) > 1

    @property
    def training_state(self):
        """Variables that the next step depends on, beside its images, or that it logs.

        Weights, calibration, random states, the optimizer's, metrics', the queue.
        """
        queue = self.reference_queue
        of_queue = [] if queue is None else [queue.pushed, queue.rows]
        of_keras = [*self.variables, *self.optimizer.variables, *self.metrics_variables]
        return [variable.value for variable in of_keras] + of_queue

    @property
    def loss_name(self):
        """Key of the objective, in nats, in the logs of `fit` and `evaluate`."""
        names = {0.0: "discriminative_loss", 1.0: "generative_loss"}
        return names.get(self.generative_weight, "mixed_loss")

    def _build_for_training(self):
        # Optimizer slots and metrics must exist before the step is traced under a
        # strategy; Keras would build them from a batch, which must then split evenly.
        self.optimizer.build(self.trainable_variables)
        if self._compile_metrics is not None:
            self._compile_metrics.build(
                keras.KerasTensor([None], "int32"),
                keras.KerasTensor([None, self.num_classes], "float32"),
            )

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Nothing is left to build: see `_build_for_training`."""

    @property
    def metrics(self):
        """Keras's metrics; the loss is among our own averages."""
        return [m for m in super().metrics if m is not self._loss_tracker]

    def get_metrics_result(self):
        """Results by name; the objective under its own name, `loss_name`."""
        results = super().get_metrics_result()
        unused = () if self.generative_weight else _GENERATIVE_METRICS
        if self.reference_queue is None:
            unused = (*unused, "queue_drift")
        results = {k: v for k, v in results.items() if k not in unused}
        return {self.loss_name: results.pop("objective"), **results}

    def _get_metrics_result_or_logs(self, logs):
        """The metrics that a step logs, over all replicas.

        Keras has it only where the step logs them all, which `test_step` does not; and
        a step's own numbers are those of its replica.
        """
        results = self.get_metrics_result()
        return {name: value for name, value in results.items() if name in logs}

    def get_compile_config(self):
        """Arguments of `compile`."""
        config = super().get_compile_config()
        if not config:
            return config
        unused = ("loss", "loss_weights")
        kept = {key: value for key, value in config.items() if key not in unused}
        queue = self.reference_queue
        length = 0 if queue is None else queue.num_batches
        return {**kept, "objective": self.objective, "queue": length}

    def compile_from_config(self, config):
        """Compiles as saved."""
        self.compile(**keras.saving.deserialize_keras_object(config))

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

    # Fitting

    def fit(self, *args, **kwargs):
        """As `keras.Model.fit`; bad batches end it with a plain error."""
        with _plain_errors():
            return super().fit(*args, **kwargs)

    def evaluate(self, *args, **kwargs):
        """As `keras.Model.evaluate`; bad batches end it with a plain error."""
        with _plain_errors():
            return super().evaluate(*args, **kwargs)

    def train_step(self, data):
        """One step of the objective on the global batch."""
        images, labels, sample_weight = _unpacked(data)
        step = tf.convert_to_tensor(self.optimizer.iterations)
        with tf.GradientTape() as tape:
            logits = self._logits(images, training=True)
            logits = _checked(images, logits, "the batch of training step", step)
            statistics = self._statistics(labels, logits, sample_weight)
            used = self._with_queue(statistics)
            loss = self._objective(labels, logits, sample_weight, used)
            loss = _several_images(loss, statistics)
            penalties = [self._aggregate_additional_loss(p) for p in self.losses]
            scaled = self.optimizer.scale_loss(tf.add_n([loss, *penalties]))
        variables = self._moving_variables()
        gradients = tape.gradient(scaled, variables)
        self.optimizer.apply(self._given_to_optimizer(gradients), variables)
        if statistics is not None:
            self._update_running_means(statistics, step)
        if self.reference_queue is not None:
            self.reference_queue.push(statistics)
        return self._update_metrics(labels, logits, sample_weight, loss, used)

    def test_step(self, data):
        """The objective and the metrics on one batch."""
        images, labels, sample_weight = _unpacked(data)
        logits = self._logits(images, training=False)
        logits = _checked(images, logits, "an evaluation batch")
        statistics = self._statistics(labels, logits, sample_weight)
        loss = self._objective(labels, logits, sample_weight, statistics)
        results = self._update_metrics(labels, logits, sample_weight, loss, statistics)
        return {name: v for name, v in results.items() if name != "queue_drift"}

    def _logits(self, images, training):
        """The output, also for the empty batch that a replica may be given.

        Convolutions of empty batches fail in some kernels, and batch statistics of
        none are NaN: a blank image stands in, and its logits are dropped.
        """
        if self.distribute_strategy.num_replicas_in_sync == 1:
            return self(images, training=training)
        num_images = tf.shape(images)[0]
        blank = tf.zeros(tf.concat([[1], tf.shape(images)[1:]], 0), images.dtype)
        blank.set_shape([1, *images.shape[1:]])
        images = tf.cond(num_images > 0, lambda: images, lambda: blank)
        return self(images, training=training)[:num_images]

    def _statistics(self, labels, logits, sample_weight):
        """The column statistics, or None if the objective has no generative part."""
        if not self.generative_weight:
            return None
        return objectives.column_statistics(labels, logits, sample_weight)

    def _with_queue(self, statistics):
        """The same with the queue among the draws of q."""
        if self.reference_queue is None:
            return statistics
        return pooled(statistics, self.reference_queue.rows)

    def _objective(self, labels, logits, sample_weight, statistics):
        """The loss in nats.

        The generative part is logged as mean -log p_y(x)/q(x), comparable across batch
        sizes: L_G - log(number of images in the global batch).
        """
        weight = self.generative_weight
        loss = objectives.mixed_loss(labels, logits, weight, sample_weight, statistics)
        if statistics is None:
            return loss
        return loss - weight * tf.math.log(statistics.num_images)

    def _moving_variables(self):
        """What a step moves: in generative training all but the output bias.

        A constant per class has exactly zero generative gradient, with a queue zero on
        average; Adam would turn the noise of its computed one into a random walk.
        """
        fixed = self._constants if self.generative_weight == 1.0 else ()
        return [v for v in self.trainable_variables if id(v) not in fixed]

    def _given_to_optimizer(self, gradients):
        """Gradients as the optimizer is to see them.

        Loss scaling looks for overflow on one replica only, so that under several it is
        given the sum over replicas, divided since the optimizer will sum again.
        """
        replicas = self.distribute_strategy.num_replicas_in_sync
        if replicas == 1 or not _scales_loss(self.optimizer):
            return gradients
        context = tf.distribute.get_replica_context()
        summed = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        return [gradient / replicas for gradient in summed]

    def _update_running_means(self, statistics, step):
        """Averages N_y / n and Z_y over batches: all so far, then the last hundred."""
        rate = 1.0 / tf.cast(tf.minimum(step + 1, _RUNNING_AVERAGE_STEPS), tf.float32)
        log_sums = [tf.math.log(statistics.mass + _NO_MASS), statistics.log_sum]
        new = tf.stack(log_sums) + tf.math.log(rate / statistics.num_images)
        old = self.running_log_means + tf.math.log1p(-rate)
        self.running_log_means.assign(new + tf.math.softplus(old - new))

    def _update_metrics(self, labels, logits, sample_weight, loss, statistics):
        labelled = labels >= 0
        count = tf.reduce_sum(tf.cast(labelled, tf.float32))
        total = tf.add_n([loss, *map(tf.reduce_sum, self.losses)])
        sums, weights = [count * total, count * loss], [count, count]
        if statistics is not None:
            present = tf.cast(statistics.mass > 0.0, tf.float32)
            kish_ess = tf.math.divide_no_nan(present, statistics.square_sum)
            num_present = tf.reduce_sum(present)
            sums += [
                self._num_right_calibrated(labels, logits),
                tf.reduce_sum(kish_ess),
                self.num_classes - num_present,
            ]
            weights += [count, num_present, float(self.num_classes)]
            if self.reference_queue is not None:
                sums.append(self.reference_queue.drift())
                weights.append(1.0)
        self._averages.update_state(sums, weights)
        if self._compile_metrics is not None:
            kept = tf.squeeze(tf.where(labelled), axis=1)
            rows = [
                None if part is None else tf.gather(part, kept)
                for part in (labels, logits, sample_weight)
            ]
            self._compile_metrics.update_state(*rows)
        results = self.get_metrics_result()
        if self.has_workers:  # Keras averages over them along the first axis
            results = {name: value[tf.newaxis] for name, value in results.items()}
        return results

    def _num_right_calibrated(self, labels, logits):
        """Images whose label is the running Bayes rule's; none of the unlabelled."""
        log_prior, log_partition = tf.unstack(self.running_log_means.value)
        calibrated = logits + (log_prior - log_partition)
        predictions = tf.argmax(calibrated, axis=1, output_type=labels.dtype)
        return tf.reduce_sum(tf.cast(predictions == labels, tf.float32))

    # Calibrating

    def calibrate(self, x, y=None, batch_size=256, prior=None):
        """Sets the bias by Bayes' rule: b_y = log rho_y - log Z_y, in one pass.

        Z_y = mean over all images of exp F_y(x), F the network's own logits; rho_y is
        the share of class y among the labelled images. Meant for generatively trained
        networks, whose logits are log densities up to a constant per class; a
        discriminatively trained network has learned its biases and loses by it. Of
        several workers each passes over all images by itself.

        Args:
            x: `tf.data.Dataset` of batches (images, labels), or an array of images.
            y: `[n]` labels if `x` is an array; -1 = unlabelled.
            batch_size: images per batch if `x` is an array.
            prior: optional `[classes]` class probabilities rho instead of the shares.

        Returns:
            calibration: `Calibration`, also stored in the model.

        Raises:
            ValueError: an empty data set, a class that never occurs and no `prior`,
                a prior that is not a positive distribution, or logits not finite.

        Source: Dai, Lu, Wu 2015, section 2 (the bias carries the normalizers).
        """
        if y is not None:
            x = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size)
        log_sum, log_square_sum, counts, num_images = self._sums_over(x)
        log_partition = log_sum - np.log(num_images)
        log_prior = _log_prior(counts, prior)
        calibration = Calibration(
            bias=(log_prior - log_partition).astype(np.float32),
            log_partition=log_partition.astype(np.float32),
            log_prior=log_prior.astype(np.float32),
            kish_ess=np.exp(2.0 * log_sum - log_square_sum).astype(np.float32),
            num_images=num_images,
        )
        self.calibration_bias.assign(calibration.bias)
        at_rest = np.log(counts.sum() / num_images) + calibration.log_prior
        self.running_log_means.assign(np.stack([at_rest, calibration.log_prior]))
        return calibration

    def _sums_over(self, dataset):
        """Per class: logsumexp F, logsumexp 2F, label counts; number of images."""
        column_sums = tf.function(self._column_sums, reduce_retracing=True)
        log_sums = np.full([2, self.num_classes], -np.inf)
        counts, num_images = np.zeros(self.num_classes), 0
        with _plain_errors():  # of the data set, too
            for step, (images, labels, *_) in enumerate(dataset):
                sums = column_sums(images, labels, tf.constant(step))
                log_sum, square_sum, mass = map(np.float64, sums)
                log_square_sum = 2.0 * log_sum + np.log(square_sum)
                log_sums = np.logaddexp(log_sums, [log_sum, log_square_sum])
                counts, num_images = counts + mass, num_images + len(labels)
        if num_images == 0:
            raise ValueError(
                "`calibrate` needs a data set with at least one batch. Received: none. "
                "Pass the training images."
            )
        return *log_sums, counts, num_images

    def _column_sums(self, images, labels, step):
        logits = self.network(images, training=False)
        logits = _checked(images, logits, "calibration batch", step)
        statistics = objectives.column_statistics(labels, logits)
        return statistics.log_sum, statistics.square_sum, statistics.mass


class _Averages(keras.metrics.Metric):
    """Weighted averages of several numbers in one variable, one assignment a step.

    A step of a small network feels every operation; a `Mean` each has many.
    """

    def __init__(self, names, name="averages"):
        super().__init__(name=name, dtype="float32")
        self._names = names
        self._sums = self.add_variable([2 * len(names)], "zeros", name="sums")

    def update_state(self, sums, weights):
        """Adds sums of weighted values and sums of weights; missing ones are 0."""
        missing = [0.0] * (len(self._names) - len(sums))
        self._sums.assign_add(tf.stack([*sums, *missing, *weights, *missing]))

    def result(self):
        """Averages by name."""
        sums, weights = tf.split(self._sums, 2)
        averages = tf.unstack(tf.math.divide_no_nan(sums, weights))
        return dict(zip(self._names, averages, strict=True))


def _log_prior(counts, prior):
    if prior is None:
        if not (counts > 0).all():
            raise ValueError(
                "`calibrate` needs every class among the labels, or a `prior`. "
                f"Received: no image of class {np.flatnonzero(counts == 0).tolist()}. "
                "Pass more images, or the class probabilities as `prior`."
            )
        return np.log(counts) - np.log(counts.sum())
    prior = np.asarray(prior, np.float64)
    if prior.shape != counts.shape or not (prior > 0).all():
        raise ValueError(
            f"`prior` must be {len(counts)} positive class probabilities. "
            f"Received: {prior}. A uniform prior is `np.full(classes, 1 / classes)`."
        )
    return np.log(prior) - np.log(prior.sum())


def _generative_weight(objective):
    if isinstance(objective, str) and objective in _OBJECTIVES:
        return _OBJECTIVES[objective]
    if isinstance(objective, numbers.Real) and 0.0 <= objective <= 1.0:
        return float(objective)
    raise ValueError(
        '`objective` must be "generative", "discriminative" or a number a in [0, 1] '
        "for (1 - a) discriminative + a generative. "
        f"Received: {objective!r}."
    )


def _policy(network):
    if not isinstance(network, keras.Model):
        raise ValueError(
            "`network` must be a keras.Model from images to logits. "
            f"Received: {type(network).__name__}. Wrap a function in a Model first."
        )
    return network.dtype_policy


def _num_classes(network):
    inputs = getattr(network, "inputs", None) or []
    if len(inputs) > 1:
        raise ValueError(
            "`network` must have one input, images. Received: "
            f"{[tensor.name for tensor in inputs]}. Build one of the images alone, "
            "with the others fixed: keras.Model(images, network([images, ...]))."
        )
    shape = getattr(network, "output_shape", None)
    if isinstance(shape, list | dict):
        raise ValueError(
            "`network` must have one output, logits [batch, classes]. Received: "
            f"outputs {shape}. Build one of the output that is meant: "
            "keras.Model(network.inputs, network.outputs[0])."
        )
    is_logits = isinstance(shape, tuple) and len(shape) == 2 and shape[1]
    if not is_logits or shape[1] < 2:
        raise ValueError(
            "`network` must be a built functional or Sequential model whose output is "
            f"logits [batch, classes]. Received: output shape {shape}. Flatten or pool "
            "maps first, and end in at least two classes."
        )
    _check_logits(network)
    return shape[1]


def _check_logits(network):
    """Raise for outputs that are probabilities, or their logarithms."""
    output = outputs.output_of(network)
    if output.activation is None:
        return
    if outputs.of_labels(output.activation):
        why = "F of a network of labels that are no classes lies in [0, 1]"
    else:
        why = "both objectives apply their own softmax"
    raise ValueError(
        f"`network` must end in logits: {why}. Received: outputs with the values of a "
        f"{output.activation}, by layer {output.layer!r}. Remove it, or build the last "
        "layer with activation=None."
    )


def _scales_loss(optimizer):
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


def _refuse_unreplicable(optimizer, steps_per_execution, jit_compile):
    """Options that fail, or silently compute something else, in Keras itself."""
    inner = optimizer.inner_optimizer if _scales_loss(optimizer) else optimizer
    refused = {
        "steps_per_execution": steps_per_execution > 1,
        "jit_compile": jit_compile is True,
        "optimizer.gradient_accumulation_steps": inner.gradient_accumulation_steps,
        "optimizer.clipnorm": inner.clipnorm,
        "optimizer.global_clipnorm": inner.global_clipnorm,
        "optimizer.clipvalue": inner.clipvalue,
    }
    received = [name for name, value in refused.items() if value]
    if received:
        raise ValueError(
            "Under several replicas Keras cannot run these options, or applies them to "
            f"each replica's share of the gradient. Received: {', '.join(received)}. "
            "Leave them out, or train on one device."
        )


def _several_images(loss, statistics):
    """The loss, once the global batch is known to hold several images."""
    if statistics is None:
        return loss
    message = (
        "keras_tilt: the generative objective needs at least two images in a batch: "
        "with one the softmax over images is 1 and the gradient zero. Received: 1 "
        "image. Use a larger batch size, or drop the remainder of the data set."
    )
    check = tf.debugging.Assert(statistics.num_images > 1.0, [message])
    with tf.control_dependencies([] if check is None else [check]):
        return tf.identity(loss)


def _unpacked(data):
    """Images, labels and sample weights or None; a column of labels as a vector."""
    images, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    if labels is None:
        raise ValueError(
            "Training and evaluation need labels: a data set of (images, labels). "
            "Received: images only. Mark unlabelled images by the label -1."
        )
    if labels.shape.rank == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    return images, labels, sample_weight


def _checked(images, logits, where, index=-1):
    """The logits, once images and logits are known to be finite.

    XLA has no assertions: there `keras.callbacks.TerminateOnNaN` is the check.
    """
    sums = _image_sums(images)
    finite = tf.math.is_finite(tf.reduce_sum(sums) + tf.reduce_sum(logits))
    data = [f"keras_tilt: not finite in {where}", index, sums]
    check = tf.debugging.Assert(finite, data, summarize=_ALL)
    with tf.control_dependencies([] if check is None else [check]):
        return tf.identity(logits)


def _image_sums(images):
    """[batch]. Logits alone do not tell bad images: a ReLU can swallow NaN."""
    if not images.dtype.is_floating:
        return tf.zeros(tf.shape(images)[:1])
    axes = list(range(1, images.shape.rank))
    return tf.reduce_sum(tf.cast(images, tf.float32), axes)


@contextlib.contextmanager
def _plain_errors():
    """Raises our own in-graph errors as ValueError, without TensorFlow's wrapping."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = re.search(r"keras_tilt: ([^\n]*)", error.message or "")
        if found is None:
            raise
        message = _not_finite(error.message) or found.group(1)
        raise ValueError(message) from error


def _not_finite(message):
    """The error of `_checked` in words, or None if it is another one.

    Counting the bad images here costs the training step nothing.
    """
    separator = r"(?:\] \[|'\n|\n)"  # in graph mode, in eager mode
    pattern = rf"not finite in ([a-z ]+){separator}(-?\d+){separator}([^\]\n]+)"
    found = re.search(pattern, message)
    if found is None:
        return None
    where, index, sums = found.groups()
    where = where if index == "-1" else f"{where} {index}"
    sums = re.split("[ ,]+", sums.strip())
    bad = sum("nan" in value or "inf" in value for value in sums)
    return (
        f"Images and logits must be finite. Received: in {where}, {bad} of {len(sums)} "
        "images with NaN or infinite pixels. If there is none, the weights have "
        "diverged: lower the learning rate. The weights are those before this batch."
    )
