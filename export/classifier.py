"""Exports a classifier with its generative score, for TensorFlow Serving.

    python export/classifier.py out/demo/models/gg-dg-seed0-epoch25.keras \\
        --out served/digits_classifier

What it writes, and how long that takes, is in `keras_tilt.cli.export_classifier`.
"""

from keras_tilt.cli.export_classifier import main

if __name__ == "__main__":
    main()
