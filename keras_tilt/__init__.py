"""Any convolutional classifier as probability densities: p(x) = exp(f(x)) q(x) / Z.

The public names are those of `__init__.pyi`, each imported when it is first used.
Source: Scientific Python Ecosystem Coordination, SPEC 1 (lazy loading).
"""

import lazy_loader

from keras_tilt import _start

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

_start.watch()
