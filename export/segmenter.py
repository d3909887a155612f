"""Exports a segmenter, for TensorFlow Serving.

    python export/segmenter.py out/segmentation/segmenter.keras --out served/streets

What it writes, and how long that takes, is in `keras_tilt.cli.export_segmenter`.
"""

from keras_tilt.cli.export_segmenter import main

if __name__ == "__main__":
    main()
