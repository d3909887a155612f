"""Exports a sampler of any units of a trained network, for TensorFlow Serving.

    python export/sampler.py out/demo/models/gg-dg-seed0-epoch25.keras \\
        --unit class:0-9 --reference white --stddev 128 --out served/digits

What it writes, and how long that takes, is in `keras_tilt.cli.export_sampler`.
"""

from keras_tilt.cli.export_sampler import main

if __name__ == "__main__":
    main()
