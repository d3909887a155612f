"""Objects and stuff by convolutional feature masking: a label for every pixel.

    proposals -> fine-tuning by segments -> [linear SVMs] -> labels

Paper: Dai, He, Sun, "Convolutional feature masking for joint object and stuff
segmentation", CVPR 2015.

    python train/segmentation.py --data camvid.npz --stuff sky building road pavement \\
        tree fence --network NETWORK.keras --layer block10_add --size 540 720

trains on the split "train" and judges on "val" (--split test for the last numbers).
--data is an .npz, `synthetic`, or a folder of the kind that --dataset names. A run that
is interrupted goes on where it stood. Ours: results/camvid.json, tabled in the README.

The same as: keras-tilt segment
"""

from keras_tilt.cli.segmentation import main

if __name__ == "__main__":
    main()
