"""Package keras_tilt: convolutional classifiers as probability densities."""

import pathlib

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).resolve().parent


def requirements(file="requirements.txt"):
    """Return the lines of a file that name a package."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and line.strip()[0] != "#"]


setup(
    name="keras_tilt",
    version="0.1.0",
    description="Any convolutional classifier as densities p(x) = exp(f(x)) q(x) / Z",
    author="The keras_tilt authors",
    license="MIT",
    license_files=["LICENSE"],
    packages=[*find_packages(include=["keras_tilt*"]), "keras_tilt_flags"],
    # Outside of keras_tilt for Python, as to import that imports TensorFlow.
    package_dir={"keras_tilt_flags": "keras_tilt/flags"},
    package_data={"keras_tilt.data": ["embedded/*"]},
    python_requires=">=3.11",
    install_requires=requirements(),
    extras_require={
        "docs": requirements("requirements-docs.txt"),
        # The messages of TensorFlow Serving, to write requests to warm up with.
        "serving": ["tensorflow-serving-api>=2.21"],
        "tensorboard": ["tensorboard"],
        "test": [
            "pytest",
            "pytest-xdist",
            "ruff",
            "tensorboard",
            "tensorflow-serving-api>=2.21",
        ],
    },
)
