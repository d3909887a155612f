"""The work of `keras-tilt segment`."""
