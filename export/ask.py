"""Asks an exported sampler for images, without a server, with TensorFlow alone.

    python export/ask.py served/digits --unit 3 --seed 7 --out three.png

What it shows, and how long that takes, is in `keras_tilt.cli.ask`.
"""

from keras_tilt.cli.ask import main

if __name__ == "__main__":
    main()
