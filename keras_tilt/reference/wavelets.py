"""Statistics of wavelet coefficients: given, or fitted to images.

    amplitude^2 = E c^2,   kurtosis = E c^4 / (E c^2)^2   of coefficients c of a band

A band is one orientation of one level of one decorrelated colour. Levels are counted
from the finest, of about two pixels, so that they mean the same in images of any size.

Source: Field (1987) and Mallat (1989): wavelet coefficients of photographs are sparse.
"""

__all__ = ["Wavelets", "checked_levels", "fit_wavelets"]

import dataclasses
from collections.abc import Iterable

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_tilt.reference.image_batches import (
    check_has_variance,
    check_number_of_images,
    image_batches,
)
from keras_tilt.reference.spectrum import checked_colours, principal_colours
from keras_tilt.reference.wavelet_transform import (
    bands_of_coefficients,
    check_wavelet,
    default_levels,
    transforms,
)
from keras_tilt.validation import as_array


@dataclasses.dataclass(frozen=True, eq=False)
class Wavelets:
    """Statistics of the wavelet coefficients of images, by band.

    A record of photographs of one size serves images of others: see `at_levels`.

    Attributes:
        mean: [channels], in units of a pixel.
        colours: [channels, channels], orthonormal columns, one per decorrelated colour.
        amplitude: [levels, 3, channels], positive: standard deviations of the details,
            in units of a pixel, the finest level first; horizontal, vertical and
            diagonal; by decorrelated colour.
        kurtosis: [levels, 3, channels], of the same, 3 (Gaussian) or more.
        approximation_amplitude: [channels], of the approximations of the coarsest
            level, by decorrelated colour.
        approximation_kurtosis: [channels], of the same.
        wavelet: name of an orthogonal wavelet of PyWavelets.

    Raises:
        ValueError: for shapes that do not fit each other, or attributes that are not
            what they should be.
    """

    mean: np.ndarray
    colours: np.ndarray = dataclasses.field(repr=False)
    amplitude: np.ndarray = dataclasses.field(repr=False)
    kurtosis: np.ndarray = dataclasses.field(repr=False)
    approximation_amplitude: np.ndarray = dataclasses.field(repr=False)
    approximation_kurtosis: np.ndarray = dataclasses.field(repr=False)
    wavelet: str = "sym8"

    def __post_init__(self):
        check_wavelet(self.wavelet)
        amplitude = as_array("amplitude", self.amplitude)
        if amplitude.ndim != 3 or amplitude.shape[1] != 3 or 0 in amplitude.shape:
            raise ValueError(
                "`amplitude` must have shape [levels, 3, channels]. Received: shape "
                f"{amplitude.shape}. Put the finest level first."
            )
        channels = amplitude.shape[2]
        shapes = {
            "mean": (channels,),
            "amplitude": amplitude.shape,
            "kurtosis": amplitude.shape,
            "approximation_amplitude": (channels,),
            "approximation_kurtosis": (channels,),
        }
        least = {"amplitude": 0, "kurtosis": 3}
        for name, shape in shapes.items():
            lowest = least.get(name.removeprefix("approximation_"))
            value = _checked(name, getattr(self, name), shape, lowest)
            object.__setattr__(self, name, value)
        object.__setattr__(self, "colours", checked_colours(self.colours, channels))

    @property
    def levels(self) -> int:
        """The number of levels."""
        return len(self.amplitude)

    @property
    def colour_covariance(self) -> np.ndarray:
        """The covariance of the colours of a pixel, [channels, channels], pixels^2.

        A mean over pixels; exact where 2^levels divides both sides of the image.
        """
        return self.colours * self._variance_above(0) @ self.colours.T

    def at_levels(self, levels: int) -> "Wavelets":
        """Return the statistics of the same images, of fewer or more levels.

        Fewer: exact, by W orthonormal: approximations of level l have the variance

            sum over levels j > l and orientations of 4^(l - j) amplitude_j^2 + ...

        More: the amplitude of details doubles from level to level, as under a 1/f
        spectrum, at most to that of the approximations that they are taken from; the
        variance of a pixel stays. Kurtosis stays as at the coarsest known level.

        Args:
            levels: their number, from 1.

        Raises:
            ValueError: for a number of levels that is not a positive whole number.
        """
        _check_levels(levels)
        if levels > self.levels:
            return self._with_one_more().at_levels(levels)
        variance = self._variance_above(levels) * 4.0**levels
        return dataclasses.replace(
            self,
            amplitude=self.amplitude[:levels],
            kurtosis=self.kurtosis[:levels],
            approximation_amplitude=np.sqrt(variance),
        )

    def _variance_above(self, level):
        """[channels] variance of a pixel by what is coarser than a level."""
        shares = 4.0 ** -np.arange(1, self.levels + 1)
        details = shares[:, None, None] * self.amplitude**2
        coarsest = shares[-1] * self.approximation_amplitude**2
        return details[level:].sum(axis=(0, 1)) + coarsest

    def _with_one_more(self):
        details = np.minimum(2 * self.amplitude[-1], self.approximation_amplitude)
        left = 4 * self.approximation_amplitude**2 - np.sum(details**2, axis=0)
        return dataclasses.replace(
            self,
            amplitude=np.concatenate([self.amplitude, details[None]]),
            kurtosis=np.concatenate([self.kurtosis, self.kurtosis[-1:]]),
            approximation_amplitude=np.sqrt(left),
        )


def fit_wavelets(
    images: ArrayLike | Iterable,
    wavelet: str = "sym8",
    levels: int | None = None,
    pooled: bool = False,
) -> Wavelets:
    """Return the amplitude and kurtosis of the wavelet coefficients of images.

        mean         = mean over images and pixels of x
        colours      = eigenvectors of the covariance of x over images and pixels
        amplitude^2  = mean over images and places of c^2
        kurtosis     = mean over images of mean c^4 / (mean c^2)^2, means over places

    The contrast of photographs differs from image to image. So does the standard
    deviation of coefficients, and the kurtosis over all images is larger than that of
    one. By default each image is taken by its own standard deviation: draws without a
    field of scales have all the same contrast, and the tails of one photograph.
    `pooled` takes the kurtosis over all images, mean c^4 / (mean c^2)^2: the law of a
    coefficient is then right on average, and with a field of scales, which carries its
    part of it, contrast varies. Below 3, of tails lighter than Gaussian, it is raised
    to 3; that of the approximations is always pooled.

    Args:
        images: [n, height, width, channels], or an iterable of such batches, such as a
            `tf.data.Dataset`, also of pairs (images, labels). It is read once. Moments
            are kept, for an image of three channels about 350 bytes a band.
        wavelet: name of an orthogonal wavelet of PyWavelets.
        levels: their number; by default as many as leave about 7 x 7 approximations.
        pooled: whether kurtosis is over all images instead of by image.

    Returns:
        wavelets: a `Wavelets`, to be passed to `wavelet_noise`.

    Raises:
        ValueError: for a data set without end, fewer than two images, pixels that are
            not finite, batches that differ in shape, images too small for the levels or
            without variance in a colour or a band, or an unknown wavelet.

    Example:
        >>> images = np.random.default_rng(0).normal(100.0, 20.0, [500, 8, 8, 1])
        >>> wavelets = fit_wavelets(images)
        >>> wavelets.amplitude.round()
        array([[[20.],
                [20.],
                [20.]]])
        >>> wavelets.kurtosis.round(1).ravel()
        array([3., 3., 3.])

    Source: Wainwright and Simoncelli (2000), for the contrast that varies.
    """
    check_wavelet(wavelet)
    sums = _Sums(wavelet, levels)
    for batch in image_batches(images):
        sums.add(batch)
    check_number_of_images(sums.count)
    mean, covariance = sums.colours()
    variance, colours = principal_colours(covariance)
    check_has_variance("decorrelated colour", variance)
    approximation = sums.approximations(colours)
    details = [sums.details(band, colours, pooled) for band in range(sums.num_details)]
    square = np.array([square for square, _ in [approximation, *details]])
    check_has_variance("band of coefficients", square / variance)
    kurtosis = np.maximum([kurtosis for _, kurtosis in [approximation, *details]], 3.0)
    shape = [-1, 3, len(mean)]
    return Wavelets(
        mean=mean,
        colours=colours,
        amplitude=np.sqrt(square[1:]).reshape(shape),
        kurtosis=kurtosis[1:].reshape(shape),
        approximation_amplitude=np.sqrt(square[0]),
        approximation_kurtosis=kurtosis[0],
        wavelet=wavelet,
    )


class _Sums:
    """Moments of the pixels and the coefficients of images, of any mixture of channels.

    Second and fourth moments of a mixture v.c follow from the products of pairs:

        E (v.c)^2 = w.E p,   E (v.c)^4 = w.E(p p^T) w,   p_ij = c_i c_j,  w_ij = v_i v_j
    """

    def __init__(self, wavelet, levels):
        self.wavelet, self.levels = wavelet, levels
        self.count, self.offset, self.pixels = 0, None, 0.0
        self.approximation, self.by_image = 0.0, []

    @property
    def num_details(self):
        return 3 * self.levels

    def add(self, batch):
        """Add the moments of images [n, height, width, channels]."""
        if self.offset is None:  # near the mean, so that centring cancels few digits
            height, width, _ = batch.shape[1:]
            self.offset = batch.mean(axis=(0, 1, 2))
            self.levels = checked_levels(self.levels, height, width)
            self.bands = bands_of_coefficients(height, width, self.levels)
        # One more channel of ones: with it the mean can be subtracted from moments.
        centred = batch - self.offset
        ones = np.ones_like(centred[..., :1])
        planes = np.moveaxis(np.concatenate([centred, ones], axis=-1), -1, 1)
        self.pixels += np.einsum("nihw,njhw->ij", planes, planes) / planes[0, 0].size
        analysis, _ = transforms(self.wavelet, self.levels)
        coefficients = analysis(tf.constant(planes)).numpy()
        approximation, *details = (
            coefficients[:, :, band.rows, band.columns] for band in self.bands
        )
        second, fourth = _moments(approximation)
        self.approximation += np.concatenate([second[:, None], fourth], 1).sum(axis=0)
        self.by_image += [[_moments(detail[:, :-1]) for detail in details]]
        self.count += len(batch)

    def colours(self):
        """Mean and covariance of the channels of a pixel."""
        moments = self.pixels / self.count
        self.shift = moments[:-1, -1]
        covariance = moments[:-1, :-1] - np.outer(self.shift, self.shift)
        return self.offset + self.shift, covariance

    def approximations(self, colours):
        """Variance and kurtosis [channels] over all images, around the mean."""
        directions = np.concatenate([colours, -self.shift[None] @ colours])
        weights = _pairs(directions)
        second, *fourth = self.approximation / self.count
        square = weights @ second
        return square, np.einsum("mp,pq,mq->m", weights, fourth, weights) / square**2

    def details(self, band, colours, pooled):
        """Variance and kurtosis [channels] of one band."""
        moments = [batch[band] for batch in self.by_image]
        weights = _pairs(colours)
        square = np.concatenate([second for second, _ in moments]) @ weights.T
        fourth = [
            np.einsum("mp,npq,mq->nm", weights, fourth, weights)
            for _, fourth in moments
        ]
        fourth = np.concatenate(fourth)
        if not pooled:
            has_contrast = square > 1e-12 * square.mean(axis=0)
            relative = np.divide(
                fourth, square**2, out=np.zeros_like(fourth), where=has_contrast
            )
            count = np.maximum(has_contrast.sum(axis=0), 1)
            return square.mean(axis=0), relative.sum(axis=0) / count
        mean = square.mean(axis=0)
        return mean, fourth.mean(axis=0) / np.where(mean > 0, mean, 1.0) ** 2


def _moments(coefficients):
    """Means over places of pairs [n, p] and of pairs of pairs [n, p, p]."""
    first, second = np.triu_indices(coefficients.shape[1])
    products = coefficients[:, first] * coefficients[:, second]
    products = products.reshape(*products.shape[:2], -1)
    fourth = products @ products.swapaxes(1, 2) / products.shape[2]
    return products.mean(axis=2), fourth


def _pairs(directions):
    """w [m, p] of directions [channels, m], each pair of channels once."""
    first, second = np.triu_indices(len(directions))
    return (
        directions[first]
        * directions[second]
        * np.where(first == second, 1, 2)[:, None]
    ).T


def checked_levels(levels: int | None, height: int, width: int) -> int:
    """Return the number of levels of images of a size, or raise a ValueError."""
    most = int(np.ceil(np.log2(min(height, width))))
    if most < 1:
        raise ValueError(
            "Images must be at least 2 x 2 pixels to have wavelet coefficients. "
            f"Received: {height} x {width}. Use white_noise or spectral_noise."
        )
    if levels is None:
        return default_levels(height, width)
    _check_levels(levels)
    if levels > most:
        raise ValueError(
            f"`levels` must be at most {most} for images of {height} x {width} pixels. "
            f"Received: {levels}. Pass fewer, about {default_levels(height, width)}."
        )
    return int(levels)


def _check_levels(levels):
    whole = isinstance(levels, int | np.integer) and not isinstance(levels, bool)
    if not whole or levels < 1:
        raise ValueError(
            "`levels` must be a whole number from 1. "
            f"Received: {levels!r}. Leave it out for as many as the size permits."
        )


def _checked(name, value, shape, lowest):
    value = as_array(name, value)
    if value.shape != shape:
        raise ValueError(
            f"`{name}` must have shape {shape}, by the levels and channels of "
            f"`amplitude`. Received: shape {value.shape}. Reshape it."
        )
    low = -np.inf if lowest is None else lowest
    fits = np.isfinite(value) & (value > low if lowest == 0 else value >= low)
    if not np.all(fits):
        what = {None: "finite", 0: "positive and finite", 3: "finite and 3 or more"}
        raise ValueError(
            f"`{name}` must be {what[lowest]}. Received: smallest value "
            f"{np.min(value)}. A kurtosis of 3 is Gaussian."
        )
    return value
