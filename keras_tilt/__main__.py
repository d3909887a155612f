"""The commands, as python -m keras_tilt runs them."""

from keras_tilt.cli.commands import main

if __name__ == "__main__":
    main()
