"""A classifier that `fit` trains by the generative gradient, and that can calibrate.

    generative      p_y(x) = exp(F_y(x)) q(x) / Z_y,     softmax of F over the images
    discriminative  p(y|x) = softmax over y of F_y(x) + b_y
    calibration     b_y = log rho_y - log Z_y,           Z_y = E_q exp F_y(x)

While it trains generatively, rho and Z are kept over recent batches, and every metric
is one of outputs that are calibrated by these.

Source: Dai, Lu, Wu, "Generative Modeling of Convolutional Neural Networks", ICLR 2015,
sections 2 and 3.
"""

import contextlib
import numbers
import pathlib
import re
import typing
import warnings

import keras
import numpy as np
import tensorflow as tf

from keras_tilt.networks import graph, output_activations
from keras_tilt.networks.class_constants import constants_per_class
from keras_tilt.training import losses as objectives
from keras_tilt.training.metrics import given_rows
from keras_tilt.training.reference_queue import ReferenceQueue, pooled
from keras_tilt.validation import check_count, given, one_pass, sentence_of

__all__ = ["Calibration", "GenerativeClassifier"]

_OBJECTIVES = {"discriminative": 0.0, "generative": 1.0}
_STEPS_OF_SHARES = 100  # over which the shares of classes are averaged
_IMAGES_PER_CLASS = 32  # over which Z is: weights move, and it with them
_NO_MASS = 1e-30  # keeps the logarithm of an absent class finite
_GENERATIVE_METRICS = (
    "calibrated_accuracy",
    "kish_ess",
    "absent_classes",
    "uncalibrated_accuracy",
    "queue_drift",
)


_TOO_FEW = (
    "The generative objective needs at least two images in a batch: with one the "
    "softmax over images is 1 and the gradient zero. Received: 1 image. Use a larger "
    "batch size, or drop the remainder of the data set."
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
        super().__init__(name=name, dtype=_policy(network), **kwargs)
        self.num_classes = _num_classes(network)
        self.network = network
        # What a generative step leaves as it is, by `id`: Keras would track variables.
        self._constants = frozenset(map(id, constants_per_class(network)))
        self.calibration_bias = self._state("calibration_bias", [self.num_classes])
        # Over recent batches: log N_y / n and log Z_y, of the calibrated outputs.
        self.running_log_means = self._state("running_log_means", [2, self.num_classes])
        self._averages = _Averages(("loss", "objective", *_GENERATIVE_METRICS))
        self.num_left_out = _counter("batches_of_one_image")
        self._leaves_out = self._has_warned = False
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

    @property
    def input_shape(self):
        """That of the network, batch first."""
        return self.network.input_shape

    @property
    def output_shape(self):
        """(None, classes)."""
        return (None, self.num_classes)

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
        _refuse_others(others)
        self.generative_weight = _generative_weight(objective)
        self._has_warned = False
        self.objective = objective
        self.reference_queue = self._new_queue(queue)
        optimizer = keras.optimizers.get(optimizer)
        if self.distribute_strategy.num_replicas_in_sync > 1:
            _refuse_unreplicable(optimizer, steps_per_execution, jit_compile)
        with self.distribute_strategy.scope():
            super().compile(
                optimizer=optimizer,
                metrics=given_rows(metrics),
                weighted_metrics=given_rows(weighted_metrics),
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
            # Some make their variables only where they are told of a first label.
            one = tf.zeros([1], tf.int32), tf.zeros([1, self.num_classes])
            self._compile_metrics.update_state(*one)
            self._compile_metrics.reset_state()

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

    def _flatten_metrics_in_order(self, logs):
        """The loss, as all of Keras's have it, the metrics of `compile`, all others."""
        compiled = self._compile_metrics
        names = [] if compiled is None else [metric.name for metric in compiled.metrics]
        first = [name for name in ("loss", *names) if name in logs]
        return [logs[name] for name in (*first, *sorted(logs.keys() - set(first)))]

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
        _refuse_text(y, kwargs.get("validation_data"))
        if not self.generative_weight:
            # Outputs that were once calibrated by these now have other biases.
            self.running_log_means.assign(tf.zeros_like(self.running_log_means))
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = [_SingleImages(), *_listed(callbacks)]
        with _plain_errors():
            return super().fit(
                x, y, batch_size, epochs, verbose, callbacks, *args, **kwargs
            )

    def evaluate(self, x=None, y=None, *args, **kwargs):
        """As `keras.Model.evaluate`; bad batches end it with a plain error.

        The sums over images of the generative loss are those of a batch, so that it is
        0 for a batch of one image.
        """
        _refuse_text(y)
        with _plain_errors():
            return super().evaluate(x, y, *args, **kwargs)

    def make_train_function(self, force=False):
        """As Keras; the function leaves out batches of one image."""
        replicas = self.distribute_strategy.num_replicas_in_sync
        self._leaves_out = bool(self.generative_weight) and replicas == 1
        super().make_train_function(force)
        self._leaves_out = False

    def _autoconvert_optionals(self, step_function):
        """Keras's step on a batch; of one image none, where that is to be left out."""
        step = super()._autoconvert_optionals(step_function)
        if not self._leaves_out:
            return step

        def step_of_several(data):
            images, _, _ = keras.utils.unpack_x_y_sample_weight(data)
            several = tf.shape(_first(images))[0] > 1
            return tf.cond(several, lambda: step(data), self._left_out)

        return step_of_several

    def _left_out(self):
        self.num_left_out.assign_add(1)
        return self.get_metrics_result()

    def _of_several(self, loss, statistics):
        """The loss; 0 of a single image under replicas, where no step is conditional.

        Such a step is one without a gradient.
        """
        replicas = self.distribute_strategy.num_replicas_in_sync
        if statistics is None or replicas == 1:
            return loss
        several = statistics.num_images > 1.0
        self.num_left_out.assign_add(tf.cast(~several, tf.int32))
        return tf.where(several, loss, 0.0)

    def train_step(self, data):
        """One step of the objective on the global batch."""
        images, labels, sample_weight = _unpacked(data, self.num_classes)
        step = tf.convert_to_tensor(self.optimizer.iterations)
        with tf.GradientTape() as tape:
            logits = self._logits(images, training=True)
            logits = _checked(images, logits, "the batch of training step", step)
            statistics = self._statistics(labels, logits, sample_weight)
            used = self._with_queue(statistics)
            loss = self._objective(labels, logits, sample_weight, statistics, used)
            penalties = [self._aggregate_additional_loss(p) for p in self.losses]
            total = self._of_several(tf.add_n([loss, *penalties]), statistics)
            scaled = self.optimizer.scale_loss(total)
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
        images, labels, sample_weight = _unpacked(data, self.num_classes)
        logits = self._logits(images, training=False)
        logits = _checked(images, logits, "an evaluation batch")
        statistics = self._statistics(labels, logits, sample_weight)
        loss = self._objective(labels, logits, sample_weight, statistics, statistics)
        results = self._update_metrics(labels, logits, sample_weight, loss, statistics)
        return {name: v for name, v in results.items() if name != "queue_drift"}

    def _logits(self, images, training):
        """The output, also for the empty batch that a replica may be given.

        Convolutions of empty batches fail in some kernels, and batch statistics of
        none are NaN: a blank image stands in, and its logits are dropped.
        """
        if self.distribute_strategy.num_replicas_in_sync == 1:
            return self(images, training=training)
        num_images = tf.shape(_first(images))[0]
        blank = keras.tree.map_structure(_blank, images)
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

    def _objective(self, labels, logits, sample_weight, statistics, used):
        """The loss in nats; its sums over images are those of `used`.

        The generative part is logged as mean -w_i log p_y(x)/q(x), comparable across
        batch sizes: of every w_i L_G holds the log of the number of images.
        """
        weight = self.generative_weight
        loss = objectives.mixed_loss(labels, logits, weight, sample_weight, used)
        if statistics is None:
            return loss
        mass = tf.reduce_sum(statistics.mass)
        mean_weight = tf.math.divide_no_nan(mass, statistics.num_labelled)
        return loss - weight * mean_weight * tf.math.log(statistics.num_images)

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
        """Averages N_y / n and Z_y over batches: all so far, then the last of them.

        The shares of classes stay as they are, so that a hundred batches are averaged;
        Z is that of past weights, so that they are as few as are enough.
        """
        least = 1.0 / _STEPS_OF_SHARES
        share = statistics.num_images / (_IMAGES_PER_CLASS * self.num_classes)
        rates = tf.stack([least, tf.clip_by_value(share, least, 0.5)])[:, tf.newaxis]
        rate = tf.maximum(rates, 1.0 / tf.cast(step + 1, tf.float32))
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
                _num_right(labels, logits + self._running_bias()),
                tf.reduce_sum(kish_ess),
                self.num_classes - num_present,
                _num_right(labels, logits),
            ]
            weights += [count, num_present, float(self.num_classes), count]
            if self.reference_queue is not None:
                sums.append(self.reference_queue.drift())
                weights.append(1.0)
        self._averages.update_state(sums, weights)
        if self._compile_metrics is not None:
            if self.generative_weight == 1.0:
                logits += self._running_bias()
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

    def _running_bias(self):
        """`[classes]` nats: log rho - log Z of recent batches; 0 after `calibrate`."""
        log_share, log_partition = tf.unstack(self.running_log_means.value)
        return tf.nn.log_softmax(log_share) - log_partition

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
            self.calibration_bias.assign_add(self._running_bias())
            log_prior = tf.nn.log_softmax(before[1][0])
            self.running_log_means.assign(tf.stack([log_prior, log_prior]))
        try:
            yield self
        finally:
            for variable, value in zip(variables, before, strict=True):
                variable.assign(value)

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
            batches = one_pass("x", dataset, "calibrating")
            for step, batch in enumerate(batches):
                images, labels, _ = _unpacked(batch, self.num_classes)
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
        logits = tf.cast(self.network(images, training=False), tf.float32)
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


def _refuse_others(arguments):
    if arguments:
        received = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise TypeError(
            "`compile` of a GenerativeClassifier takes `objective=` in place of a "
            f"loss, and the network's outputs are logits. Received: {received}. "
            'Pass for example objective="generative", or "discriminative" for the '
            "cross-entropy."
        )


def _refuse_text(labels, validation=None):
    """Keras itself only says that a dtype is invalid."""
    given = [labels, *validation[1:2]] if isinstance(validation, tuple) else [labels]
    if any(np.asarray(each).dtype.kind in "SU" for each in given):
        raise ValueError(
            "`y` must be class indices or one-hot rows. Received: text. Class names "
            "become indices by `np.unique(y, return_inverse=True)[1]`."
        )


def _counter(name):
    first = tf.VariableAggregation.ONLY_FIRST_REPLICA
    return tf.Variable(0, trainable=False, aggregation=first, name=name)


def _policy(network):
    if not isinstance(network, keras.Model):
        raise ValueError(
            "`network` must be a keras.Model from images to logits. "
            f"Received: {type(network).__name__}. Wrap a function in a Model first."
        )
    return network.dtype_policy


def _num_classes(network):
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
    output = output_activations.output_of(network)
    if output.activation is None:
        return
    if output_activations.of_labels(output.activation):
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


class _SingleImages(keras.callbacks.Callback):
    """Says once that batches of one image were left out; an error if all were."""

    def on_epoch_begin(self, epoch, logs=None):
        """Of every epoch anew."""
        self._before, self._num_batches = self._num_left_out(), 0

    def on_train_batch_end(self, batch, logs=None):
        """Numbers of batches begin at 0."""
        self._num_batches = batch + 1

    def on_epoch_end(self, epoch, logs=None):
        """Before anything is written of the epoch."""
        left_out = self._num_left_out() - self._before
        if left_out and left_out == self._num_batches:
            raise ValueError(_TOO_FEW)
        if left_out and not self.model._has_warned:
            self.model._has_warned = True
            warnings.warn(
                "A batch of a single image has no generative gradient. Received: "
                f"{left_out} of {self._num_batches} batches of an epoch, which were "
                "left out. Choose another batch size, or drop the remainder.",
                stacklevel=2,
            )

    def _num_left_out(self):
        return int(tf.convert_to_tensor(self.model.num_left_out))


def _unpacked(data, num_classes):
    """Images, labels as int32 `[batch]`, and sample weights or None."""
    images, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    if labels is None:
        raise ValueError(
            "Training and evaluation need labels: a data set of (images, labels). "
            "Received: images only. Mark unlabelled images by the label -1."
        )
    return images, objectives.class_numbers(labels, num_classes), sample_weight


def _checked(images, logits, where, index=-1):
    """The logits, once images and logits are known to be finite.

    XLA has no assertions: there `keras.callbacks.TerminateOnNaN` is the check.
    """
    sums = _image_sums(images)
    finite = tf.math.is_finite(tf.reduce_sum(sums) + tf.reduce_sum(logits))
    return given(logits, finite, f"not finite in {where}", index, sums)


def _image_sums(images):
    """[batch]. Logits alone do not tell bad images: a ReLU can swallow NaN."""
    return tf.add_n([_sums(each) for each in keras.tree.flatten(images)])


def _sums(images):
    if not images.dtype.is_floating:
        return tf.zeros(tf.shape(images)[:1])
    axes = list(range(1, images.shape.rank))
    return tf.reduce_sum(tf.cast(images, tf.float32), axes)


def _spec(tensor):
    return keras.InputSpec(dtype=tensor.dtype, shape=(None, *tensor.shape[1:]))


def _first(images):
    """The images, or the first of several inputs."""
    return keras.tree.flatten(images)[0]


def _blank(images):
    """One image of zeros."""
    blank = tf.zeros(tf.concat([[1], tf.shape(images)[1:]], 0), images.dtype)
    return tf.ensure_shape(blank, [1, *images.shape[1:]])


def _num_right(labels, logits):
    """Images whose label is the class of the largest logit; none of the unlabelled."""
    predictions = tf.argmax(logits, axis=1, output_type=labels.dtype)
    return tf.reduce_sum(tf.cast(predictions == labels, tf.float32))


def _listed(callbacks):
    return keras.tree.flatten(callbacks or [])


@contextlib.contextmanager
def _plain_errors():
    """Raises our own in-graph errors as ValueError, without TensorFlow's wrapping."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        sentence = sentence_of(error)
        if sentence is None:
            raise
        raise ValueError(_not_finite(sentence) or sentence) from error


def _not_finite(sentence):
    """The error of `_checked` in words, or None if it is another one.

    Counting the bad images here costs the training step nothing.
    """
    found = re.fullmatch(r"not finite in ([a-z ]+) (-?\d+) (.+)", sentence)
    if found is None:
        return None
    where, index, sums = found.groups()
    where = where if index == "-1" else f"{where} {index}"
    sums = sums.split()
    bad = sum("nan" in value or "inf" in value for value in sums)
    return (
        f"Images and logits must be finite. Received: in {where}, {bad} of {len(sums)} "
        "images with NaN or infinite pixels. If there is none, the weights have "
        "diverged: lower the learning rate. The weights are those before this batch."
    )
