"""Every family of keras.applications is drawn, trained, saved and served.

    python -m pytest -m slow tests/test_applications.py [-k mobilenet_v2]

The smallest network of each, with random weights, on images of 96 x 96 pixels and ten
classes. Its units are what the network says, their crops see what their gradients see.
"""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tilt as kt
from keras_tilt import serving

pytestmark = pytest.mark.slow

SIDE, CLASSES, CLASS = 96, 10, 3
SHAPE = (SIDE, SIDE, 3)
# The smallest network of every module; a convolution behind its first block, which
# sees a part of the image, or all where channels are weighted by means of the map; and
# its last one, which sees more than there is. Layers without names of their own are
# numbered from a cleared session on.
FAMILIES = {
    "convnext": (
        "ConvNeXtTiny",
        "convnext_tiny_stage_0_block_1_depthwise_conv",
        "convnext_tiny_stage_3_block_2_depthwise_conv",
    ),
    "densenet": ("DenseNet121", "conv2_block6_2_conv", "conv5_block16_2_conv"),
    "efficientnet": ("EfficientNetB0", "block1a_dwconv", "top_conv"),
    "efficientnet_v2": ("EfficientNetV2B0", "block4a_expand_conv", "top_conv"),
    "inception_resnet_v2": ("InceptionResNetV2", "conv2d_11", "conv_7b"),
    "inception_v3": ("InceptionV3", "conv2d_11", "conv2d_93"),
    "mobilenet": ("MobileNet", "conv_pw_6", "conv_pw_13"),
    "mobilenet_v2": ("MobileNetV2", "block_5_project", "Conv_1"),
    "mobilenet_v3": ("MobileNetV3Small", "expanded_conv_depthwise", "conv_1"),
    "nasnet": ("NASNetMobile", "adjust_conv_1_0", "separable_conv_2_normal_left5_12"),
    "resnet": ("ResNet50", "conv3_block1_3_conv", "conv5_block3_3_conv"),
    "resnet_v2": ("ResNet50V2", "conv3_block1_3_conv", "conv5_block3_3_conv"),
    "vgg16": ("VGG16", "block3_conv3", "block5_conv3"),
    "vgg19": ("VGG19", "block3_conv4", "block5_conv4"),
    "xception": ("Xception", "block4_sepconv1", "block14_sepconv2"),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    """The network of a family, its inner layer and its last one."""
    name, inner, last = FAMILIES[request.param]
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    network = getattr(keras.applications, name)(
        weights=None, input_shape=SHAPE, classes=CLASSES, classifier_activation=None
    )
    yield network, inner, last
    keras.utils.clear_session()


def images(count=2, seed=0):
    """Pixels in 0 ... 255, float32 [count, *SHAPE]."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, *SHAPE))
    return pixels.astype(np.float32)


def tilt_of(network):
    """Of a class whose chains move: f has a standard deviation of 1 under q."""
    unit = kt.unit(network, class_index=CLASS)
    reference = kt.white_noise(SHAPE, mean=127.5, stddev=30.0)
    f = unit(reference.sample(8, seed=[0, 1]))
    return kt.Tilt(unit, reference, 1 / float(np.std(f)))


def middle_unit(network, name):
    """Unit of a convolution in the middle of its map; the cell, and the map."""
    layer = network.get_layer(name)
    rows, columns, channels = layer.output.shape[1:]
    cell = rows // 2, columns // 2
    return kt.unit(network, f"{name}:{channels // 2}", position=cell), cell, layer


def assert_close(found, expected):
    """To a thousand times the rounding of float32, of the largest number."""
    tolerance = 1e3 * np.finfo(np.float32).eps * np.max(np.abs(expected))
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def test_no_family_is_missing():
    modules = dict(inspect.getmembers(keras.applications, inspect.ismodule))
    assert set(FAMILIES) == modules.keys() - {"imagenet_utils", "resnet50"}


def test_a_class_unit_is_a_logit(family):
    network, _, _ = family
    unit = kt.unit(network, class_index=CLASS)
    assert_close(unit(images()), network.predict(images(), verbose=0)[:, CLASS])


def test_an_inner_unit_is_a_cell_of_its_map(family):
    network, inner, _ = family
    unit, (row, column), layer = middle_unit(network, inner)
    maps = keras.Model(network.inputs, layer.output).predict(images(), verbose=0)
    activation = keras.activations.get(layer.activation)
    found = activation(unit(images()))  # read before it
    assert_close(found, maps[:, row, column, maps.shape[-1] // 2])


def window_of(network, name, cell):
    """What a cell sees, slices of an image; it sees no padding."""
    window = kt.receptive_field(network, name).window(*cell)
    assert all(0 <= first < end <= SIDE for first, end in window)
    return tuple(slice(*ends) for ends in window)


def test_a_gradient_is_where_the_receptive_field_is_and_nowhere_else(family):
    network, inner, _ = family
    unit, cell, _ = middle_unit(network, inner)
    image = tf.constant(images(1))
    with tf.GradientTape() as tape:
        tape.watch(image)
        f = unit(image)
    moved = np.any(tape.gradient(f, image)[0] != 0, axis=-1)
    rows, columns = window_of(network, inner, cell)
    assert moved[rows, columns].any()
    moved[rows, columns] = False
    assert not moved.any()


def test_an_inner_unit_is_cropped_to_what_it_sees(family):
    network, inner, _ = family
    unit, cell, _ = middle_unit(network, inner)
    rows, columns = window_of(network, inner, cell)
    cropped, patch = unit.crop(), images()[:, rows, columns]
    assert cropped.input_shape == patch.shape[1:]
    assert_close(cropped(patch), unit(images()))


def test_a_unit_that_sees_more_than_the_image_is_not_cropped_in_silence(family):
    network, _, last = family
    unit, _, _ = middle_unit(network, last)
    with pytest.raises(ValueError, match=r"\. Received: |\. Sample |\. Read "):
        unit.crop()


def test_the_last_convolution_has_a_receptive_field(family):
    """Of some cells: padding is seen, too, so that it may be larger than the image."""
    network, _, last = family
    field = kt.receptive_field(network, last)
    assert min(field.size) >= SIDE or field.stride == (0, 0)


def test_four_draws_are_made_of_a_class(family):
    network, _, _ = family
    tilt = tilt_of(network)
    samples = kt.sample(tilt, 2, 2, 2, num_leapfrog_steps=2, seed=1, progress=False)
    drawn = np.asarray(samples.images).reshape(4, *SHAPE)
    assert np.all(np.isfinite(drawn)) and len(np.unique(drawn[:, 0, 0, 0])) > 1
    assert_close(samples.f.ravel(), tilt.unit(drawn))


def test_a_generative_step_changes_weights_that_are_saved(family, tmp_path):
    network, _, _ = family
    before = network.get_weights()
    model = kt.GenerativeClassifier(network)
    model.compile(keras.optimizers.SGD(1e-3), objective="generative")
    labels = np.arange(8) % 4
    logs = model.fit(images(8), labels, batch_size=8, verbose=0).history
    assert np.isfinite(logs["loss"][0])
    after = network.get_weights()
    assert any(np.any(a != b) for a, b in zip(before, after, strict=True))
    assert all(np.all(np.isfinite(weights)) for weights in after)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    expected = model.predict(images(), verbose=0)
    network.set_weights(before)
    assert_close(loaded.predict(images(), verbose=0), expected)


def served_again(module, folder, name, **inputs):
    """What a signature answers in this process, and as loaded from the disk."""
    tf.saved_model.save(module, str(folder), signatures=module.functions)
    loaded = tf.saved_model.load(str(folder)).signatures[name]
    return module.functions[name](**inputs), loaded(**inputs)


def test_an_exported_sampler_draws_the_same(family, tmp_path):
    network, _, _ = family
    schedule = serving.planned([0.2], [1], 2, (0, 7))
    sampler = serving.ServedSampler([tilt_of(network)], schedule, 0.0, 255.0)
    row = {
        "unit": tf.constant([0]),
        "seed": tf.constant([[1, 2]]),
        "temperature": tf.constant([1.0]),
    }
    here, there = served_again(sampler, tmp_path, "serving_default", **row)
    assert here["image"].shape == (1, *SHAPE)
    np.testing.assert_array_equal(here["image"], there["image"])
    assert_close(there["f"], here["f"])


def test_an_exported_classifier_says_the_same(family, tmp_path):
    network, _, _ = family
    names = [f"class {c}" for c in range(CLASSES)]
    classifier = serving.ServedClassifier(network, 0.0, 255.0, names)
    image = tf.cast(images(1), tf.uint8)
    _, there = served_again(classifier, tmp_path, "serving_default", image=image)
    assert_close(there["logits"], network.predict(images(1), verbose=0))
