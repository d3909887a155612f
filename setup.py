"""Package keras_tilt: convolutional classifiers as probability densities."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).resolve().parent


def requirements(file="requirements.txt"):
    """Return the lines of a file that name a package."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and line.strip()[0] != "#"]


def version():
    """Return the version, which keras_tilt/__init__.py alone states."""
    text = (ROOT / "keras_tilt" / "__init__.py").read_text(encoding="utf-8")
    return re.search('^__version__ = "(.*)"$', text, re.MULTILINE)[1]


setup(
    name="keras_tilt",
    version=version(),
    description="Any convolutional classifier as densities p(x) = exp(f(x)) q(x) / Z",
    author="The keras_tilt authors",
    license="MIT",
    license_files=["LICENSE"],
    packages=find_packages(include=["keras_tilt", "keras_tilt.*"]),
    package_data={"": ["*.pyi", "py.typed", "embedded/*", "templates/*"]},
    entry_points={"console_scripts": ["keras-tilt = keras_tilt.cli.commands:main"]},
    python_requires=">=3.11",
    install_requires=requirements(),
    extras_require={
        "docs": requirements("requirements-docs.txt"),
        # The messages of TensorFlow Serving, to write requests to warm up with.
        "serving": ["tensorflow-serving-api>=2.21"],
        "tensorboard": ["tensorboard"],
        "test": [
            "grain>=0.2.18",
            "mypy",
            "pytest",
            "pytest-xdist",
            "ruff",
            "tensorboard",
            "tensorflow-serving-api>=2.21",
        ],
    },
)
