# %% [markdown]
# # Segment with masks of your own
#
# Convolutional feature masking computes the features of an image once, projects the
# masks of its segments onto them, and classifies each segment from its masked features.
# The masks can come from anywhere: superpixels, an annotation tool, another model.
#
# Here the images are synthetic scenes with sky, ground, trees, discs and squares, and
# the masks are the true regions, one for every label and object.

# %%
import keras_tilt as kt
import keras
import numpy as np
from keras_tilt import masking

size = (60, 80)
scenes = masking.scenes.synthetic(12, size, seed=1)
scene = scenes[0]
print(scenes.class_names, scene.image.shape, scene.labels.shape)

# %% [markdown]
# ## Masks in
#
# Three functions take masks: `of_masks` (a stack of booleans, which may overlap),
# `of_label_map` (one segment per value), and `of_rle` (run lengths of COCO).

# %%
masks = np.stack([scene.labels == value for value in np.unique(scene.labels)])
segments = masking.segments.of_masks(masks)
same = masking.segments.of_label_map(scene.labels)
print(len(segments), "segments of", segments.areas, "pixels; the same:", same.areas)

# %% [markdown]
# ## Layers for a model of your own
#
# `MaskProjection` brings masks of pixels to the map of a layer: a pixel goes to the cell
# with the nearest receptive-field center, and a cell is in the mask where half of its
# pixels are. `FeatureMasking` multiplies, and its gradient is the mask times the
# gradient from above.

# %%
keras.utils.set_random_seed(0)
backbone = masking.backbone(kt.convnet((*size, 3), 5), "relu3", size)
cells = masking.cells_of(backbone, "relu3")
projected = masking.MaskProjection(cells)(masks[None])
features = backbone(scene.image[None].astype(np.float32))
masked = masking.FeatureMasking()([features, projected])
print("features", features.shape, "masks", projected.shape, "masked", masked.shape)

# %% [markdown]
# ## A segmenter
#
# `Segmenter` puts these parts together: a pyramid over the box of each segment, with the
# mask (`design="A"`: one branch for the box, one for the masked features; `"B"`: the finest
# level of the pyramid masked) or without (`"box"`). `assign` says what a segment is trained
# as. An object, which can be counted, is known by its IoU with a segment; stuff, such as
# sky, by the purity of the segment, the share of its pixels in the class. Of pure segments,
# *segment pursuit* picks a few large ones for each region, as in the paper.

# %%
keras.utils.set_random_seed(0)
segmenter = masking.Segmenter(
    backbone, "relu3", num_classes=5, design="A", hidden=(64,), train_network=True
)


def read(number):
    """Return an image, and what its segments are trained as."""
    scene = scenes[number]
    objects = masking.scenes.objects(scene, {3, 4})
    own = masking.segments.of_label_map(scene.labels)
    return scene.image, masking.assign(
        own, scene.labels, objects, num_classes=5, stuff=scenes.stuff
    )


segmenter.compile(
    keras.optimizers.Adam(2e-3),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)
for epoch in range(20):
    batches = masking.examples.training_batches(
        read, len(scenes), size, seed=0, epoch=epoch, segments=8
    )
    history = segmenter.fit(batches, shuffle=False, verbose=0)
    if epoch % 5 == 4:
        print(f"epoch {epoch + 1}: loss {history.history['loss'][0]:.3f}")

# %% [markdown]
# ## A label for every pixel
#
# On new scenes, segments are scored, and labels are pasted, the best segment first, or
# voted by all segments of a pixel.

# %% three new scenes: image, true labels, found labels
new = [masking.scenes.synthetic(3, size, seed=2)[i] for i in range(3)]
found = []
for scene in new:
    own = masking.segments.of_label_map(scene.labels)
    inputs = masking.examples.inputs_of(scene.image, own, size)
    scores = np.asarray(segmenter.scores(inputs)[0])  # [segments, classes]
    found.append(masking.label_map(own, scores, "paste"))
right = [
    np.mean(labels == scene.labels) for labels, scene in zip(found, new, strict=True)
]
print("pixels right:", np.round(right, 2))
kt.plotting.label_maps(
    [scene.image for scene in new],
    [[scene.labels for scene in new], found],
    scenes.class_names,
    ["true", "found"],
)

# %% [markdown]
# With true regions as masks only the classes can be wrong. Sky, ground and trees are
# right. Of five objects one is: two discs are taken for sky and two squares for discs. Twelve
# scenes are too few to learn objects, and most pixels are right because objects are small.
# Segments for images without annotation come from `masking.proposals.proposals(image)`: superpixels at several
# scales and their unions, up to 1,500.
#
# ## The whole pipeline
#
# `keras-tilt segment` goes from images to a label for every pixel, with a softmax or
# support vector machines, on PASCAL VOC with SBD, PASCAL-Context, COCO panoptic, or an
# `.npz`. `--smoke` trains two epochs on a few scenes: it shows that the command runs, not
# what it can do. For usable labels put `--train-network --epochs 6 --hidden 64`, which
# takes some minutes, in its place.

# %% [bash]
# keras-tilt segment --data synthetic --smoke --out segmentation

# %% [markdown]
# What masks and pursuit contribute on CamVid: [results](../results.md#camvid-a-label-for-every-pixel). A
# segmenter is exported with `keras-tilt export segmenter SEGMENTER.keras --out DIR`; a
# client may then send segments of its own, or leave superpixels to the graph.
