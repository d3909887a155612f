"""Exports a sampler of any units of a trained network, for TensorFlow Serving.

    unit, seed, temperature -> an image of p(x) = exp(f(x) / temperature) q(x) / Z

    python export/sampler.py out/demo/models/gg-dg-seed0-epoch25.keras \\
        --unit class:0-9 --reference white --stddev 128 --out served/digits
    python export/ask.py served/digits --unit class:3 --seed 7 --out three.png

Expected: the ten digits of the example are certified, with chains of about 40
iterations, in three to five minutes on two cores. A run that was interrupted goes on
where it was.

The same as: keras-tilt export sampler
"""

from keras_tilt.cli.export_sampler import main

if __name__ == "__main__":
    main()
