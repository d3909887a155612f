"""Exports a classifier with its unnormalized log density, for TensorFlow Serving.

    image -> logits, p(y | x), log p(x) up to a constant, class, name of the class
    image -> logits, p(label y | x), of a network that ends in sigmoids

    python export/classifier.py out/demo/models/gg-dg-seed0-epoch25.keras \\
        --out served/digits_classifier

Expected: the golden request of the export, an image of noise, and its class; a few
seconds on two cores.

The same as: keras-tilt export classifier
"""

from keras_tilt.cli.export_classifier import main

if __name__ == "__main__":
    main()
