"""DG, GG and GG+DG on MNIST: the paper's first experiment, with Caffe's LeNet.

    DG      25 epochs discriminative
    GG      25 epochs generative
    GG+DG   16 epochs generative, calibrated, then 9 epochs discriminative

Paper: Dai, Lu, Wu, "Generative Modeling of Convolutional Neural Networks", ICLR 2015.
Its test errors, as remembered and not verified: 1.03, 0.85 and 0.76 %.
Ours: results/mnist.json, tabled in the README.

    python train/mnist.py --data-dir DIR --seeds 0 1 2 3 4

takes about 10 s an epoch on two cores. The networks take pixels in [0, 255]. A sweep
that was interrupted goes on where it stood, and two sweeps with different seeds may
share one results file (start each with --threads 1).
"""

from keras_tilt.cli.mnist import main

if __name__ == "__main__":
    main()
