"""Statistics of photographs, of channels red, green and blue from 0 to 255.

    covariance = E (x - E x)(x - E x)^T    of the colours x of a pixel

Source: 1,000 photographs, one of each class of ImageNet (Deng et al., 2009).
"""

__all__ = ["COLOUR_COVARIANCE", "colour_correlation"]

import numpy as np

COLOUR_COVARIANCE = [[4852, 4247, 3865], [4247, 4647, 4403], [3865, 4403, 5075]]


def colour_correlation() -> np.ndarray:
    """Return the correlation of red, green and blue of a pixel, [3, 3]."""
    stddev = np.sqrt(np.diag(COLOUR_COVARIANCE))
    return COLOUR_COVARIANCE / np.outer(stddev, stddev)
