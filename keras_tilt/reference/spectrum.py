"""The spectrum of a stationary Gaussian on the torus: given, or fitted to images.

    covariance(x[i], x[i + d]) = colours diag(IDFT2(amplitude^2)[d]) colours^T

Frequencies are radial and in cycles per pixel, so they mean the same along both axes of
an image that is not square.

Source: Field (1987), "Relations between the statistics of natural images and the
response properties of cortical cells", for amplitudes that fall as 1/f.
"""

__all__ = ["Spectrum", "fit_spectrum", "power_law"]

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from keras_tilt.reference.image_batches import (
    check_has_variance,
    check_number_of_images,
    image_batches,
)
from keras_tilt.validation import as_array, as_number


@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum:
    """The spectrum of stationary images, by frequency and decorrelated colour.

        power[k, m] = amplitude[k, m]^2 = E |DFT2(colours[:, m] . (x - mean))[k]|^2 / hw

    Attributes:
        mean: [channels], in units of a pixel.
        colours: [channels, channels], orthonormal columns, one per decorrelated colour,
            that of the largest variance first.
        amplitude: [height, width, channels], positive, in units of a pixel; its last
            axis counts decorrelated colours, its first two frequencies as `np.fft`.
            Equal at k and -k, as the power of real images is.

    Raises:
        ValueError: for shapes that do not fit each other, or attributes that are not
            what they should be.
    """

    mean: np.ndarray
    colours: np.ndarray
    amplitude: np.ndarray = dataclasses.field(repr=False)

    def __post_init__(self):
        amplitude = _checked_amplitude(self.amplitude)
        channels = amplitude.shape[2]
        colours = checked_colours(self.colours, channels)
        mean = np.asarray(self.mean, np.float64)
        if mean.shape != (channels,):
            raise ValueError(
                f"`mean` must have one number per channel, shape {(channels,)}. "
                f"Received: shape {mean.shape}. Pass a mean over images and pixels."
            )
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "colours", colours)
        object.__setattr__(self, "amplitude", amplitude)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        return tuple(self.amplitude.shape)

    @property
    def colour_covariance(self) -> np.ndarray:
        """The covariance of the colours of a pixel, [channels, channels], pixels^2."""
        variance = np.mean(self.amplitude**2, axis=(0, 1))
        return self.colours * variance @ self.colours.T


def power_law(
    shape: Sequence[int],
    stddev: float | None = None,
    exponent: float | None = None,
    colour_covariance: ArrayLike | None = None,
    cutoff: float | None = None,
) -> Spectrum:
    """Return the spectrum amplitude ~ exp(-(f / cutoff)^2 / 2) / f^exponent, of mean 0.

    At f = 0, where the power law has no value, it takes the one of the lowest other
    frequency.

    Args:
        shape: [height, width, channels] of one image.
        stddev: positive scalar, of one pixel; by default 1.
        exponent: by default 1, about that of photographs; 0 is white noise.
        colour_covariance: [channels, channels], of one pixel, symmetric and positive
            definite, in units of pixel^2. Excludes `stddev`.
        cutoff: positive scalar, cycles per pixel, above which details fade; by default
            none do. The finest that an image can show are of 0.5 along an edge.

    Returns:
        spectrum: a `Spectrum` of exactly that standard deviation or covariance.

    Raises:
        ValueError: for a parameter out of its range or of a wrong shape, or for two
            that exclude each other.

    Example:
        >>> spectrum = power_law([4, 6, 1], stddev=3.0)
        >>> spectrum.colour_covariance.round(12)
        array([[9.]])
    """
    height, width, channels = _checked_shape(shape)
    exponent = _checked_exponent(1.0 if exponent is None else exponent)
    if colour_covariance is None:
        stddev = _checked_stddev(1.0 if stddev is None else stddev)
        colour_covariance = stddev**2 * np.eye(channels)
    else:
        check_left_out("stddev", stddev, where="colour_covariance")
        colour_covariance = _checked_covariance(colour_covariance, channels)
    frequency = radial_frequency(height, width)
    lowest = np.min(frequency[frequency > 0], initial=1.0)
    # Relative to the lowest frequency, so that no power of f overflows.
    falloff = (np.maximum(frequency, lowest) / lowest) ** -exponent
    if cutoff is not None:
        falloff *= np.exp(-((frequency / _checked_cutoff(cutoff)) ** 2) / 2)
    falloff /= np.sqrt(np.mean(falloff**2))
    variance, colours = principal_colours(colour_covariance)
    return Spectrum(
        mean=np.zeros(channels),
        colours=colours,
        amplitude=falloff[:, :, None] * np.sqrt(variance),
    )


def fit_spectrum(images: ArrayLike | Iterable, isotropic: bool = True) -> Spectrum:
    """Return the stationary Gaussian on the torus that makes the images most likely.

        mean           = mean over images and pixels of x
        colours        = eigenvectors of the covariance of x over images and pixels
        amplitude[k]^2 = mean over images of |DFT2(colours^T (x - mean))[k]|^2 / hw

    The colours are decorrelated by the principal components of the pixel's covariance,
    the same ones at every frequency; given these, mean and amplitude have the largest
    likelihood. With n images, each power has a relative standard error of 1 / sqrt(n)
    or, where the DFT is real, sqrt(2 / n). `isotropic` averages over rings of equal
    radial frequency, one ring per cycle in the longer side of the image, and is then
    the maximum of the likelihood among spectra that are equal along a ring.

    Args:
        images: [n, height, width, channels], or an iterable of such batches, such as a
            `tf.data.Dataset`, also of pairs (images, labels). It is read once, and only
            sums over images are kept.
        isotropic: whether to average over rings; False needs thousands of images.

    Returns:
        spectrum: a `Spectrum`, to be passed to `spectral_noise`.

    Raises:
        ValueError: for a data set without end, fewer than two images, pixels that are
            not finite, batches that differ in shape, or images that leave a colour or a
            frequency without variance, under which no density exists.

    Example:
        >>> images = np.random.default_rng(0).normal(100.0, 20.0, [500, 8, 8, 1])
        >>> spectrum = fit_spectrum(images)
        >>> spectrum.mean.round()
        array([100.])
        >>> np.sqrt(spectrum.colour_covariance).round()
        array([[20.]])
    """
    mean, cross_power = _sufficient_statistics(image_batches(images))
    variance, colours = principal_colours(cross_power.mean(axis=(0, 1)))
    power = np.einsum("im,hwij,jm->hwm", colours, cross_power, colours)
    if isotropic:
        power = _ring_means(power)
    check_has_variance("decorrelated colour", variance)
    check_has_variance("frequency", power)
    return Spectrum(mean=mean, colours=colours, amplitude=np.sqrt(power))


def radial_frequency(height: int, width: int) -> np.ndarray:
    """Return radial frequencies [height, width], cycles per pixel, as `np.fft.fft2`."""
    return np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))


def log_rings(height: int, width: int, num_rings: int = 16) -> np.ndarray:
    """Return the index of the ring of each frequency: int32 [height, width].

    The rings are equally wide in log f. Those without a frequency are left out, so that
    small images have less than `num_rings`; f = 0 belongs to the innermost.
    """
    frequency = radial_frequency(height, width)
    lowest = np.min(frequency[frequency > 0], initial=1.0)
    octaves = np.log2(np.maximum(frequency, lowest) / lowest)
    width_of_ring = max(octaves.max(), 1.0) / num_rings
    rings = np.minimum(np.floor(octaves / width_of_ring), num_rings - 1)
    return np.unique(rings, return_inverse=True)[1].reshape(rings.shape).astype("int32")


def _ring_means(power):
    """[height, width, channels] averaged over rings, each one cycle per image wide."""
    height, width, _ = power.shape
    rings = np.rint(radial_frequency(height, width) * max(height, width)).astype(int)
    sums = np.zeros([rings.max() + 1, power.shape[2]])
    np.add.at(sums, rings, power)
    counts = np.bincount(rings.ravel())[:, None]
    return (sums / np.maximum(counts, 1))[rings]


def principal_colours(colour_covariance: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return variances [channels] and orthonormal columns [channels, channels]."""
    variance, colours = np.linalg.eigh(np.asarray(colour_covariance))
    order = np.argsort(-variance, kind="stable")
    return variance[order], colours[:, order]


def _sufficient_statistics(batches):
    """mean [channels] and the centred power of every pair of channels at every k.

    cross_power[k, i, j] = mean over images of Re DFT2(x_i)[k] conj(DFT2(x_j)[k]) / hw:
    that of any real mixture of channels follows from it, after the last image is read.
    """
    count, offset, total, cross = 0, None, 0.0, 0.0
    for batch in batches:
        if offset is None:  # near the mean, so that centring cancels few digits
            offset = batch.mean(axis=(0, 1, 2))
        transform = np.fft.fft2(batch - offset, axes=(1, 2))
        total = total + transform[:, 0, 0].real.sum(axis=0)
        for part in (transform.real, transform.imag):
            cross = cross + np.einsum("nhwi,nhwj->hwij", part, part)
        count += len(batch)
    check_number_of_images(count)
    pixels = cross.shape[0] * cross.shape[1]
    cross_power = cross / (count * pixels)
    shift = total / (count * pixels)
    cross_power[0, 0] -= pixels * np.outer(shift, shift)
    return offset + shift, cross_power


def _checked_amplitude(amplitude):
    amplitude = np.asarray(amplitude, np.float64)
    if amplitude.ndim != 3 or 0 in amplitude.shape:
        raise ValueError(
            "`amplitude` must have shape [height, width, channels]. "
            f"Received: shape {amplitude.shape}. Reshape it."
        )
    if not np.all((0 < amplitude) & (amplitude < np.inf)):
        raise ValueError(
            "`amplitude` must be positive and finite. Received: smallest value "
            f"{np.min(amplitude)}. A frequency without power has no density."
        )
    opposite = np.roll(amplitude[::-1, ::-1], [1, 1], axis=[0, 1])
    asymmetry = np.max(np.abs(opposite / amplitude - 1))
    if asymmetry > 1e-4:
        raise ValueError(
            "`amplitude` must be equal at opposite frequencies, k and -k. Received: "
            f"relative differences up to {asymmetry:.2g}. Average the two."
        )
    return amplitude


def checked_colours(colours: ArrayLike, channels: int) -> np.ndarray:
    """Return orthonormal columns [channels, channels], or raise a ValueError."""
    colours = np.asarray(colours, np.float64)
    is_square = colours.shape == (channels, channels)
    if not is_square or not np.allclose(colours.T @ colours, np.eye(channels)):
        raise ValueError(
            "`colours` must be orthonormal columns, one per channel of `amplitude`, "
            f"{channels}. Received: {colours.tolist()}. Pass np.eye({channels}) to "
            "leave the channels as they are."
        )
    return colours


def _checked_shape(shape):
    if len(shape) != 3:
        raise ValueError(
            "`shape` must be the height, width and channels of one image. "
            f"Received: {shape}. Pass for example [28, 28, 1]."
        )
    return tuple(shape)


def _checked_exponent(exponent):
    exponent = as_number("exponent", exponent)
    if not np.isfinite(exponent):
        raise ValueError(
            "`exponent` must be a finite number. "
            f"Received: {exponent}. Pass for example 1.0."
        )
    return exponent


def _checked_cutoff(cutoff):
    if not 0 < as_number("cutoff", cutoff) < np.inf:
        raise ValueError(
            "`cutoff` must be a positive number, in cycles per pixel. "
            f"Received: {cutoff!r}. Pass for example 0.2."
        )
    return float(cutoff)


def _checked_stddev(stddev):
    stddev = as_array("stddev", stddev)
    if stddev.ndim or not 0 < stddev < np.inf:
        raise ValueError(
            "`stddev` must be a positive number, the same for every pixel. Received: "
            f"{stddev.tolist()}. Pass `colour_covariance` to tell channels apart."
        )
    return float(stddev)


def check_left_out(name: str, value: object, where: str) -> None:
    """Raise a ValueError for an argument that another one determines."""
    if value is not None:
        raise ValueError(
            f"`{name}` must be left out where `{where}` is passed, which sets it. "
            f"Received: {name}={value!r}. Leave out one of the two."
        )


def _checked_covariance(colour_covariance, channels):
    covariance = as_array("colour_covariance", colour_covariance)
    if covariance.shape != (channels, channels):
        raise ValueError(
            f"`colour_covariance` must have shape {(channels, channels)}, by the "
            f"channels of an image. Received: shape {covariance.shape}. Reshape it."
        )
    if not np.all(np.isfinite(covariance)) or not np.allclose(covariance, covariance.T):
        raise ValueError(
            "`colour_covariance` must be finite and symmetric. "
            f"Received: {covariance.tolist()}. Pass for example np.cov(pixels.T)."
        )
    smallest = np.linalg.eigvalsh(covariance)[0]
    if smallest <= 0:
        raise ValueError(
            "`colour_covariance` must be positive definite. Received: smallest "
            f"eigenvalue {smallest}. Add a small multiple of the identity."
        )
    return covariance
