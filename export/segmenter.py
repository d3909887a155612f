"""Exports a segmenter, for TensorFlow Serving.

    image [, segments] -> label map, score of every pixel, share and score of classes

    python export/segmenter.py out/segmentation/segmenter.keras --out served/streets

Expected: the golden request of the export, a made landscape, and its labels; half a
minute on two cores for a network like EfficientNet-Lite0.

The same as: keras-tilt export segmenter
"""

from keras_tilt.cli.export_segmenter import main

if __name__ == "__main__":
    main()
