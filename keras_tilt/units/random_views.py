"""Views of an image, turned, zoomed, moved or mirrored, drawn anew in a warm-up.

    f(view(x)),    view: x -> x[A i + b],    A a rotation, zoom and mirror

While the tilt rises in an unadjusted warm-up (`approach_step_size` of
`keras_tilt.sample`), every trajectory sees the image in another view: what a network
answers in one view alone does not grow. Then the view rests, and f is one function.

Source: Olah, Mordvintsev and Schubert (2017), "Feature visualization", section on
transformation robustness.
"""

__all__ = ["RandomViews", "RunOfViews"]

import contextlib
from collections.abc import Callable, Iterable, Iterator

import keras
import tensorflow as tf

from keras_tilt.validation import as_number


class RandomViews:
    """A function of images, [n, height, width, channels], for `preprocess` of a unit.

        view(x) at pixel i = x at the pixel c + M R (i - c) zoom + shift

    with c the middle, R a rotation, M a mirror image of the columns; bilinear, and
    reflected beyond the edges. At rest it is the image, or its mirror image.

    All units that read one object see its view: of several runs in threads, each needs
    one of its own.

    Args:
        preprocess: function of the view, to what the network takes; None for the view.
        rotation: largest angle, radians.
        zoom: largest logarithm of a zoom, in or out.
        shift: largest shift along either axis, as a share of it.
        mirror: whether half of the views are mirrored.
        rests_mirrored: whether the view at rest is.

    Raises:
        ValueError: for a number that is not from 0 to 10.

    Example:
        >>> views = RandomViews(rotation=0.2)
        >>> images = tf.random.stateless_uniform([2, 8, 8, 3], [0, 1])
        >>> bool(tf.reduce_all(views(images) == images))
        True
    """

    def __init__(
        self,
        preprocess: Callable[[tf.Tensor], tf.Tensor] | None = None,
        *,
        rotation: float = 0.2,
        zoom: float = 0.24,
        shift: float = 0.08,
        mirror: bool = True,
        rests_mirrored: bool = False,
    ) -> None:
        largest = {"rotation": rotation, "zoom": zoom, "shift": shift}
        for name, value in largest.items():
            if not 0 <= as_number(name, value) <= 10:
                raise ValueError(
                    f"`{name}` must be a number from 0 to 10. Received: {value!r}. "
                    "Pass for example 0.1, or 0 to leave it out."
                )
        self.preprocess, self.mirror = preprocess, mirror
        self._largest = tf.constant([rotation, zoom, shift, shift], tf.float32)
        self._at_rest = tf.constant(
            [0, 0, 0, 0, -1 if rests_mirrored else 1], "float32"
        )
        # Of the view: angle, logarithm of the zoom, shifts, and -1 if it is mirrored. A
        # variable, so that a new view traces no graph.
        self.view = keras.Variable(self._at_rest, trainable=False)

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """Return what the network takes of the view: [n, ...]."""
        images = tf.cast(images, tf.float32)
        edges = tf.shape(images)[1:3]
        seen = tf.raw_ops.ImageProjectiveTransformV3(
            images=images,
            transforms=_transform(self.view.value, edges)[None],
            output_shape=edges,
            fill_value=0.0,
            interpolation="BILINEAR",
            fill_mode="REFLECT",
        )
        seen = tf.ensure_shape(seen, images.shape)
        return seen if self.preprocess is None else self.preprocess(seen)

    def redraw(self, seed: tf.Tensor) -> None:
        """Draw another view, the same for equal seeds.

        Args:
            seed: [2] int32.
        """
        seeds = tf.random.split(seed)
        numbers = self._largest * tf.random.stateless_uniform([4], seeds[0], -1.0, 1.0)
        other = self._at_rest[4]
        if self.mirror:
            other = tf.sign(tf.random.stateless_uniform([], seeds[1], -1.0, 1.0))
        self.view.assign(tf.concat([numbers, [other]], axis=0))

    def rest(self) -> None:
        """Return to the view that densities are of."""
        self.view.assign(self._at_rest)


def _transform(view, edges):
    """The eight numbers of ImageProjectiveTransformV3: from the view to the image."""
    height, width = tf.unstack(tf.cast(edges, tf.float32))
    angle, log_zoom, down, right, side = tf.unstack(view)
    cosine, sine = tf.exp(log_zoom) * tf.cos(angle), tf.exp(log_zoom) * tf.sin(angle)
    x, y = (width - 1) / 2, (height - 1) / 2
    rows = [
        [side * cosine, -sine, x - side * cosine * x + sine * y + right * width],
        [side * sine, cosine, y - side * sine * x - cosine * y + down * height],
    ]
    return tf.stack([*rows[0], *rows[1], 0.0, 0.0])


class RunOfViews:
    """The views that the units of a run are seen in, iteration by iteration.

    Args:
        units: of which some may be seen in `RandomViews`.
        is_random: function of an iteration.
        seed: [2] int32, of the run.
    """

    def __init__(
        self,
        units: Iterable[Callable],
        is_random: Callable[[int], bool],
        seed: tf.Tensor,
    ) -> None:
        terms = [term for unit in units for term, _ in getattr(unit, "terms", ())]
        found = (term.preprocess for term in terms)
        views = [one for one in found if isinstance(one, RandomViews)]
        self._views = list({id(one): one for one in views}.values())
        self._is_random, self._seed = is_random, seed

    def show(self, iteration: int) -> bool:
        """Show the views of an iteration; return whether f may be another for it."""
        if not self._views:
            return False
        if not self._is_random(iteration):
            self.rest()
            return iteration > 0 and self._is_random(iteration - 1)
        of_iteration = tf.random.fold_in(self._seed, iteration)
        for number, views in enumerate(self._views):
            views.redraw(tf.random.fold_in(of_iteration, number))
        return True

    def rest(self) -> None:
        """Return all views to rest."""
        for views in self._views:
            views.rest()

    @contextlib.contextmanager
    def at_rest_again(self) -> Iterator[None]:
        """Return all views to rest at the end, also of an interrupted run."""
        try:
            yield
        finally:
            self.rest()
