"""Draws what the ten class units of a trained digit network want, by exact HMC.

    p_k(x) = exp(f_k(x)) q(x) / Z_k,     q white noise, k = 0 ... 9

    python train/digits.py out/mnist/gg-dg-seed0-epoch25.keras --out out/digits

A few minutes on two cores. Expected: the network calls every draw its digit; the means
of the draws show some digits to the eye and strokes of others. The verdict on
convergence stands beside every unit.

    python train/digits.py MODEL --paper --out out/paper

runs the setting of Dai, Lu, Wu 2015 for LeNet instead (as remembered, unverified). It
is far from equilibrium, and the verdict says so. About ten minutes on two cores.
"""

from keras_tilt.cli.digits import main

if __name__ == "__main__":
    main()
