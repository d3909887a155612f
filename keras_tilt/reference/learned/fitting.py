"""A learned reference: a generator fitted to images.

    q = law of T(u),   T = argmax mean over images of the bound on log p(image)

The generative gradient is derived for q = the law of the training images. With q
learned from these images, p_y = exp(f_y) q / Z_y is the very model that was trained.

Source: Dai, Lu and Wu (2015), section on the gradient, for q; for the bound see
`keras_tilt.reference.learned.objective`.
"""

__all__ = ["fit_latent"]

import math
import os
from collections.abc import Iterable

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike
from tqdm.auto import tqdm

from keras_tilt import storage
from keras_tilt.networks.image_generator import ImageGenerator
from keras_tilt.networks.initial_weights import initialize
from keras_tilt.reference.learned import images as reading
from keras_tilt.reference.learned.components import start_at_components
from keras_tilt.reference.learned.law import law_of
from keras_tilt.reference.learned.objective import bound, terms
from keras_tilt.validation import as_number, check_count

_LEARNING_RATE = 2e-3  # of Adam, at the start; it falls to 0 along a cosine
_LARGEST_GRADIENT = 0.25  # norm, of the bound per pixel
_LARGEST_EDGE = 96  # pixels; larger images take more than transposed convolutions


def fit_latent(
    images: ArrayLike | Iterable,
    *,
    held_out: ArrayLike | Iterable | None = None,
    low: float = 0.0,
    high: float = 255.0,
    latent_size: int = 24,
    width: int = 32,
    stddev: float = 0.14,
    principal: bool = False,
    epochs: int = 30,
    batch_size: int = 64,
    seed: int = 0,
    directory: str | os.PathLike | None = None,
    progress: bool = True,
) -> ImageGenerator:
    """Return a generator whose images have the law of some images, nearly.

        x = T(u) = low + (high - low) sigmoid(logits(flow(u))),     u ~ N(0, I)

    A variational autoencoder with a flow as its prior, for images of up to 96 pixels
    along an edge. 5,000 digits take one or two minutes on two cores. Equal arguments
    give equal weights on one machine.

    How near its law is to that of images is measured on images that it has not seen,
    and kept as `generator.law`; see `keras_tilt.reference.learned.law`.

    Args:
        images: [n, height, width, channels], or an iterable of such batches, such as a
            `tf.data.Dataset`, also of pairs (images, labels). They are kept in memory.
        held_out: images to measure by, in the same form; by default every tenth of
            `images`, which is then left out of the fit.
        low: black, in units of a pixel. The images of the generator lie between it and
            `high`, as all of `images` must.
        high: white.
        latent_size: numbers of noise of one image, from 2. More of them show more
            detail, and need more images.
        width: channels of the finest cells of the networks.
        stddev: sigma, by which a pixel may be off, as a share of white. A smaller one
            shows more detail, and needs more images.
        principal: whether the logits begin as principal components of the images, to
            which the networks add. For photographs, with a `latent_size` of a hundred
            or more: without it their networks of a few minutes show less than the
            components do.
        epochs: passes over the images.
        batch_size: images in a step.
        seed: of the initial weights, the order and the noise.
        directory: folder in which the fit is saved twice a minute and resumes, or None.
        progress: whether to show a bar.

    Returns:
        generator: an `ImageGenerator`, to be passed to `latent`.

    Raises:
        ValueError: for images that are too few, constant, not finite, outside of the
            range, or of different shapes, for an argument out of its range, or a folder
            of another run.

    Example:
        >>> images = np.random.default_rng(0).uniform(0, 255, [40, 8, 8, 1])
        >>> generator = fit_latent(images, latent_size=2, epochs=1, progress=False)
        >>> tuple(generator(tf.zeros([3, 2])).shape)
        (3, 8, 8, 1)
    """
    _check_counts(latent_size, width, epochs, batch_size, seed)
    stddev = _checked_stddev(stddev)
    fitted, unseen = reading.fitted_and_held_out(images, held_out, low, high)
    shape = fitted.images.shape[1:]
    _check_edges(shape)
    generator = ImageGenerator(shape, latent_size, width, low, high, principal)
    fit = _Fit(generator, fitted, stddev, epochs, batch_size, seed)
    identity = {
        "kind": "fit_latent",
        "images": [storage.fingerprint(one.images) for one in (fitted, unseen)],
        "range": [low, high],
        "sizes": [latent_size, width, epochs, batch_size],
        "stddev": stddev,
        "seed": seed,
    }
    identity |= {"principal": True} if principal else {}
    start_at_components(generator, fitted, stddev, seed)
    run = None if directory is None else storage.Run(directory, identity)
    fit.run_through(run, progress)
    generator.law = law_of(generator, fitted, unseen, stddev, seed)
    return generator


class _Fit:
    """Networks, optimizer, and the steps of a fit: a function of the step's number.

    A step is one graph, and counts itself in the optimizer. An interrupt can only come
    between two of them, and what is saved then is the state after a whole number.
    """

    def __init__(self, generator, fitted, stddev, epochs, batch_size, seed):
        self.generator, self.seed = generator, seed
        self.batch_size = batch_size = min(batch_size, len(fitted.images))
        self.images, self.stddev = fitted, stddev
        weights = generator.trainable_variables
        initialize(weights, seed)
        self.steps_per_epoch = len(fitted.images) // batch_size
        self.num_steps = epochs * self.steps_per_epoch
        self.optimizer = keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(_LEARNING_RATE, self.num_steps),
            global_clipnorm=_LARGEST_GRADIENT,
        )
        self.optimizer.build(weights)
        self.weights = weights
        self._bound = math.nan

    @property
    def state(self):
        """All variables that the next step depends on."""
        return [*self.weights, *self.optimizer.variables]

    def run_through(self, run, progress):
        """Go through all steps, or those that are left."""
        checkpoints = storage.Checkpoints(run, self._packed, self._restored)
        step = checkpoints.resumed() or 0
        with tqdm(
            total=self.num_steps, initial=step, unit="step", disable=not progress
        ) as bar:
            bar.set_description("fitting a generator")
            storage.iterate(
                step,
                self._advance,
                is_over=lambda step: step >= self.num_steps,
                show=lambda step: self._show(bar, step),
                keep=checkpoints.keep,
            )

    def _advance(self, step):
        self._bound = self._step(
            tf.constant(self._batch(step)), tf.constant([self.seed, step])
        )
        return step + 1

    def _batch(self, step):
        """The images of a step, as shares of white."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(
            len(self.images.images)
        )
        chosen = order[place * self.batch_size : (place + 1) * self.batch_size]
        return self.images.shares(chosen)

    @tf.function(autograph=False, reduce_retracing=True)
    def _step(self, shares, seed):
        """Update all weights, and return the bound per pixel."""
        normal = tf.random.stateless_normal(
            [tf.shape(shares)[0], self.generator.latent_size], seed
        )
        num_pixels = math.prod(self.generator.image_shape)
        with tf.GradientTape() as tape:
            found = terms(self.generator, shares, normal)
            loss = -bound(found, self.stddev, num_pixels) / num_pixels
        gradients = tape.gradient(loss, self.weights)
        self.optimizer.apply_gradients(zip(gradients, self.weights, strict=True))
        return -loss

    def _show(self, bar, step):
        bar.set_postfix_str(
            f"epoch {-(-step // self.steps_per_epoch)}, "
            f"bound {float(self._bound):.3f} nats a pixel",
            refresh=False,
        )
        bar.update()

    def _packed(self, _):
        return storage.under("state ", [np.asarray(one) for one in self.state])

    def _restored(self, saved):
        for variable, value in zip(
            self.state, storage.parts_within(saved, "state "), strict=True
        ):
            variable.assign(value)
        return int(self.optimizer.iterations)


def _check_counts(latent_size, width, epochs, batch_size, seed):
    """Raise a ValueError for one that is out of its range."""
    check_count("latent_size", latent_size, 2)
    check_count("width", width, 1)
    check_count("epochs", epochs, 1)
    check_count("batch_size", batch_size, 1)
    check_count("seed", seed, 0)


def _check_edges(shape):
    if max(shape[:2]) > _LARGEST_EDGE:
        raise ValueError(
            f"`images` must be at most {_LARGEST_EDGE} pixels along an edge. Received: "
            f"shape {shape}. Resize them, or pass a generator of your own to latent()."
        )


def _checked_stddev(stddev):
    """A float, or a ValueError."""
    stddev = as_number("stddev", stddev)
    if not 0 < stddev <= 1:
        raise ValueError(
            "`stddev` must be a share of white, above 0 and at most 1. Received: "
            f"{stddev:g}. Pass for example 0.14."
        )
    return stddev
