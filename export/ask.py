"""Asks an exported sampler for images, without a server, with TensorFlow alone.

    python export/ask.py served/digits --unit class:3 --seed 7 --out three.png

Expected: the golden response, and f, acceptance and what the certificate says, for
every image; a few seconds on two cores, most of them for loading TensorFlow.

The same as: keras-tilt ask
"""

from keras_tilt.cli.ask import main

if __name__ == "__main__":
    main()
