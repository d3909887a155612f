"""Draws what any units of a trained network want: samples of their densities.

    p(x) = exp(scale f(x)) q(x) / Z,     f: a class, or a channel of a layer

    python train/visualize.py MODEL.keras --unit class:963 --unit fire5_expand3x3:0-7 \\
        --preprocess caffe --out out/pizza
    python train/visualize.py out/demo/models/gg-dg-seed0-epoch25.keras \\
        --unit class:0-9 --unit conv2:0-7 --sizes 1 --out out/digits

Expected for an ImageNet network of 224 x 224 pixels with the defaults: the network
calls its draws the class; a verdict of "not converged". About five minutes for a class
of four chains on two cores. A run that was interrupted goes on where it was; units that
are done are not sampled again.

The same as: keras-tilt see
"""

from keras_tilt.cli.visualize import main

if __name__ == "__main__":
    main()
