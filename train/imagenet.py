"""GG+DG on ImageNet, from the two tars: the paper's second experiment.

    45 epochs generative, calibrated, then 25 epochs discriminative at a lower rate

Paper: Dai, Lu, Wu, "Generative Modeling of Convolutional Neural Networks", ICLR 2015.
Its top-1 errors, as remembered and not verified, center and 4 corner crops:
AlexNet DG 40.7, GG 45.8, GG+DG 39.6 %; ZF fast 38.4, 44.3, 37.4 %. Not repeated by us:
AlexNet's 70 epochs are 6.5e16 multiplications forward and twice as many back, by
arithmetic two hours of eight A100 at 40 % of their float32, with 64 cores that read.

    python train/imagenet.py --data-dir DIR

DIR holds ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, or what TFDS prepared of
them, or folders train and val with a folder for each class. A run that has ended early
goes on when the same is run again; SIGTERM makes it save at once. --dry-run says what
would be done; --dataset synthetic does it with made-up images.

The same as: keras-tilt train
"""

from keras_tilt.cli.imagenet import main

if __name__ == "__main__":
    main()
