"""Statistics of photographs, of channels red, green and blue from 0 to 255.

    covariance = E (x - E x)(x - E x)^T                 of the colours x of a pixel
    amplitude^2 = E c^2,  kurtosis = E c^4 / (E c^2)^2  of the wavelet coefficients c

Source: 1,000 photographs, one of each class of ImageNet (Deng et al., 2009), by
`benchmarks/photo_statistics.py`; squares of 224 pixels for the wavelets.
"""

__all__ = ["COLOUR_COVARIANCE", "colour_correlation", "photographs"]

import numpy as np

from keras_tilt.reference.wavelets import Wavelets

COLOUR_COVARIANCE = [[4852, 4247, 3865], [4247, 4647, 4403], [3865, 4403, 5075]]

# By decorrelated colour: luminance, red against blue, green against both.
_MEAN = [125.1, 116.9, 104.3]
_COLOURS = [
    [0.5673, -0.7294, 0.3824],
    [0.5827, 0.02737, -0.8122],
    [0.5819, 0.6836, 0.4405],
]
# A row for a level, the finest first: horizontal, vertical, diagonal details.
_AMPLITUDE = [
    [[25.5, 2.73, 1.51], [23.8, 2.38, 1.45], [12.8, 0.667, 0.513]],
    [[62.6, 9.51, 5.35], [59.1, 8.67, 5.15], [33.4, 2.54, 1.82]],
    [[148, 32.7, 16.9], [138, 30.5, 16.2], [76.9, 13.3, 8.18]],
    [[355, 90.7, 44.3], [326, 84.1, 41.9], [176, 42.7, 23.1]],
    [[857, 229, 108], [761, 210, 102], [424, 112, 58.1]],
]
_KURTOSIS = [
    [[26.2, 85.6, 51.9], [29.7, 96.8, 50.7], [24.9, 34.1, 16.9]],
    [[13.8, 25.9, 19.8], [15.6, 29.1, 21.8], [16.6, 19.7, 15.4]],
    [[8.74, 12.3, 12.2], [10.1, 14.1, 12.8], [10.9, 14.1, 12.4]],
    [[5.9, 7.69, 8.29], [6.71, 8.13, 8.7], [6.91, 8.4, 8.34]],
    [[4.03, 4.54, 5.04], [4.45, 4.98, 5.31], [4.33, 4.91, 5.15]],
]
_APPROXIMATION_AMPLITUDE = [2980.0, 969.0, 476.0]
_APPROXIMATION_KURTOSIS = [3.0, 6.71, 14.2]


def colour_correlation() -> np.ndarray:
    """Return the correlation of red, green and blue of a pixel, [3, 3]."""
    stddev = np.sqrt(np.diag(COLOUR_COVARIANCE))
    return COLOUR_COVARIANCE / np.outer(stddev, stddev)


def photographs(channels: int) -> Wavelets:
    """Return the wavelet statistics of photographs, five levels of "sym8".

    Of three channels in their colours. Of others each channel is independent and has
    the luminance of photographs: of three colours it is one in the direction
    (1, 1, 1) / sqrt(3), which is sqrt(3) times as large.

    Args:
        channels: their number.
    """
    colours = np.linalg.qr(_COLOURS)[0]  # of rounded numbers, orthonormal again
    found = Wavelets(
        mean=np.array(_MEAN),
        colours=colours,
        amplitude=np.array(_AMPLITUDE),
        kurtosis=np.array(_KURTOSIS),
        approximation_amplitude=np.array(_APPROXIMATION_AMPLITUDE),
        approximation_kurtosis=np.array(_APPROXIMATION_KURTOSIS),
        wavelet="sym8",
    )
    return found if channels == 3 else _luminance(found, channels)


def _luminance(found, channels):
    def alike(values, factor=1.0):
        return factor * np.repeat(values[..., :1], channels, axis=-1)

    return Wavelets(
        mean=np.full(channels, np.mean(found.mean)),
        colours=np.eye(channels),
        amplitude=alike(found.amplitude, 3**-0.5),
        kurtosis=alike(found.kurtosis),
        approximation_amplitude=alike(found.approximation_amplitude, 3**-0.5),
        approximation_kurtosis=alike(found.approximation_kurtosis),
        wavelet=found.wavelet,
    )
