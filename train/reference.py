"""Learns a reference q from images, a generator of images like them.

    x = T(u),     u ~ N(0, I),     q = the law of x

    python train/reference.py digits --out out/q.keras

learns the embedded digits in about a minute on two cores. Expected: draws that look
like digits; a network tells them from held-out digits by their smooth edges (accuracy
.95), hardly at a quarter of the size (.6), and they cover as much as the data do.

    python train/reference.py DIR/mnist.npz --out out/q60000.keras --epochs 10
    python train/reference.py photographs/ --size 32 --latent-size 128 --width 64
"""

from keras_tilt.cli.reference import main

if __name__ == "__main__":
    main()
