"""Networks, units and noise are what their names on a command line say."""

import importlib
import inspect
import json
import random
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import slow

import keras_tilt as kt
from keras_tilt.cli import flags, named, process


def test_names_are_a_list_or_a_dict_of_names_or_pairs(tmp_path):
    path = tmp_path / "names.json"
    for names in (["cat", ["n1", "dog"]], {"0": ["n0", "cat"], "1": "dog"}):
        path.write_text(json.dumps(names))
        assert named.load_names(path) == {0: "cat", 1: "dog"}
    assert named.load_names(None) == {}


def test_a_unit_of_a_dense_layer_is_read_on_the_whole_image():
    network = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(2, 3, name="conv"),
            keras.layers.Flatten(),
            keras.layers.Dense(4, name="hidden"),
            keras.layers.Dense(3),
        ]
    )
    unit = named.unit_of(network, "hidden:2", "tf")
    images = tf.random.stateless_uniform([5, 8, 8, 1], [0, 1], 0.0, 255.0)
    hidden = keras.Model(network.inputs, network.get_layer("hidden").output)
    np.testing.assert_allclose(
        unit(images), hidden(images / 127.5 - 1.0)[:, 2], rtol=1e-4, atol=1e-5
    )
    patch = named.unit_of(network, "conv:1", "tf")
    assert patch.input_shape == (3, 3, 1)
    conv = keras.Model(network.inputs, network.get_layer("conv").output)
    np.testing.assert_allclose(
        patch(images[:, 2:5, 4:7]),
        conv(images / 127.5 - 1.0)[:, 2, 4, 1],
        rtol=1e-4,
        atol=1e-5,
    )
    with pytest.raises(ValueError, match="Here: pass --sizes 1"):
        named.unit_of(network, "class:0", sizes=(1.0, 0.5))
    assert named.unit_of(network, "class:0").input_shape == (8, 8, 1)
    with pytest.raises(ValueError, match=r"0\.\.2\. Received: 7.* 3 classes\.$"):
        named.unit_of(network, "class:7")


def test_a_class_in_several_sizes_is_the_mean_of_its_views():
    network = keras.Sequential(
        [
            keras.Input((16, 16, 1)),
            keras.layers.Conv2D(2, 3),
            keras.layers.GlobalMaxPooling2D(),
        ]
    )
    images = tf.random.stateless_uniform([3, 16, 16, 1], [0, 1])
    half = tf.image.resize(images, [8, 8], antialias=True)
    mirrored = tf.reverse(half, [2])
    any_size = keras.Sequential([keras.Input((None, None, 1)), *network.layers])
    expected = (network(images) + any_size(mirrored)) / 2
    for moving in (False, True):
        unit = named.unit_of(network, "class:1", sizes=(1.0, 0.5), moving=moving)
        np.testing.assert_allclose(unit(images), expected[:, 1], rtol=1e-5, atol=1e-6)


def test_a_network_without_a_size_is_an_error():
    pooling = [keras.Input((None, None, 3)), keras.layers.GlobalAveragePooling2D()]
    with pytest.raises(ValueError, match="images of one size"):
        named.unit_of(keras.Sequential(pooling), "class:0")
    inputs = [keras.Input((8, 8, 3)), keras.Input((8, 8, 3))]
    with pytest.raises(ValueError, match="a network of one input"):
        named.unit_of(keras.Model(inputs, keras.layers.Add()(inputs)), "class:0")


def test_labels_name_single_units():
    assert named.labels(["class:0-2", "a/b:7"]) == [
        "class:0",
        "class:1",
        "class:2",
        "a/b:7",
    ]
    assert named.class_number("class:12") == 12
    assert named.class_number("conv:12") is None


@pytest.mark.parametrize("kind", flags.NOISES)
@pytest.mark.parametrize("channels", [1, 3])
def test_noise_has_the_middle_and_the_contrast_asked_for(kind, channels):
    reference = named.noise(kind, (32, 32, channels), -1.0, 3.0, contrast=0.1)
    images = reference.sample(200, seed=[0, 1]).numpy()
    means = images.mean(axis=(1, 2, 3))
    assert abs(means.mean() - 1.0) < 4 * means.std() / np.sqrt(200)
    if kind != "white":
        assert -1.0 <= images.min() and images.max() <= 3.0
    if kind not in ("spectral", "wavelets"):
        spread = 0.4 if kind == "white" else 4.0 / np.sqrt(12)
        assert abs(images.std() / spread - 1) < 0.02


# Networks


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("lenet", (28, 28, 1)),
        ("convnet", (8, 8, 3)),
        slow("alexnet", (39, 39, 3)),
        slow("zf_fast", (47, 47, 3)),
        slow("small_alexnet", (15, 15, 3)),
    ],
)
def test_a_network_of_this_library_is_named_as_its_function(name, shape):
    network = named.network(name, shape, 7, seed=3)
    same = getattr(kt, name)(shape, 7, seed=3)
    assert network.name == name
    for one, other in zip(network.get_weights(), same.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_lenet_by_name_takes_pixels_of_0_to_255():
    images = tf.random.stateless_uniform([2, 28, 28, 1], [0, 1], 0.0, 255.0)
    lenet = named.network("lenet", (28, 28, 1), 10)
    np.testing.assert_array_equal(lenet(images), kt.lenet()(images / 256))
    assert lenet.count_params() == 431_080


def test_a_network_of_keras_applications_ends_in_logits_of_new_weights():
    network = named.network("MobileNet", (32, 48, 3), 7)
    assert network.input_shape == (None, 32, 48, 3)
    assert network.output_shape == (None, 7)
    logits = network(tf.random.stateless_normal([4, 32, 48, 3], [0, 1])).numpy()
    assert np.abs(logits.sum(axis=1) - 1).min() > 0.1  # no probabilities


def test_equal_seeds_give_equal_applications_and_leave_python_s_generator_alone():
    state = random.getstate()
    first, same, other = (
        named.network("MobileNet", (32, 32, 3), 7, seed).get_weights()
        for seed in (0, 0, 1)
    )
    assert random.getstate() == state
    for one, two in zip(first, same, strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(first[0], other[0])


def test_every_application_can_be_asked_for_logits():
    builders = inspect.getmembers(keras.applications, inspect.isfunction)
    assert {"ResNet50", "VGG16", "ConvNeXtTiny"} <= dict(builders).keys()
    for _, builder in builders:
        arguments = inspect.signature(builder).parameters.keys()
        assert {"weights", "input_shape", "classes"} <= arguments
        assert "classifier_activation" in arguments


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resnet50", r"'resnet50'\. Near it: ResNet50, "),
        ("LeNet", r"Near it: lenet[.,]"),
        ("zffast", r"Near it: zf_fast[.,]"),
        ("?", r"Networks: lenet, convnet, .*, ConvNeXtBase.*, Xception\.$"),
        ("network.h5", r"name a network, or a \.keras file"),
        ("nowhere/network.keras", "which is not there"),
    ],
)
def test_an_unknown_network_is_an_error_that_names_those_near(text, message):
    with pytest.raises(ValueError, match=message):
        named.network(text, (28, 28, 1), 10)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_saved_network_is_named_by_its_path(tmp_path, wrapped):
    lenet = kt.lenet(num_classes=3, seed=1)
    path = tmp_path / "network.keras"
    (kt.GenerativeClassifier(lenet) if wrapped else lenet).save(path)
    network = named.network(str(path), (28, 28, 1), 3)
    images = tf.random.stateless_uniform([2, 28, 28, 1], [0, 1])
    np.testing.assert_array_equal(network(images), lenet(images))


@pytest.mark.parametrize(
    ("shape", "classes", "activation", "message"),
    [
        ((8, 8, 1), 3, None, r"ends in 4 logits.* and outputs \[\(None, 3\)\]"),
        ((8, 9, 1), 4, None, r"images \(8, 8, 1\).* of inputs \[\(None, 8, 9, 1\)\]"),
        ((8, 8, 1), 4, "softmax", "ends in a softmax.* without an activation"),
        ((8, 8, 1), 4, "sigmoid", "ends in a sigmoid"),
    ],
)
def test_a_saved_network_of_other_images_or_outputs_is_refused(
    tmp_path, shape, classes, activation, message
):
    flat = [keras.Input(shape), keras.layers.Flatten()]
    top = keras.layers.Dense(classes, activation=activation)
    keras.Sequential([*flat, top]).save(tmp_path / "network.keras")
    with pytest.raises(ValueError, match=message):
        named.network(str(tmp_path / "network.keras"), (8, 8, 1), 4)


def test_a_saved_network_without_a_graph_is_refused(tmp_path):
    path = tmp_path / "network.keras"
    keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(4)]).save(path)
    with pytest.raises(ValueError, match=r"functional or Sequential.*, Sequential\."):
        named.network(str(path), (8, 8, 1), 4)


# Layers of one's own

OWN = """
import keras

class Half(keras.layers.Layer):
    def call(self, inputs):
        return inputs / 2

def doubled(inputs):
    return 2 * inputs
"""


@pytest.fixture
def own_layers(tmp_path, monkeypatch):
    """Paths of a network with a layer and an activation of its own, and of a module."""
    (tmp_path / "own_layers.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    own = importlib.import_module("own_layers")
    layers = [keras.Input((4, 4, 1)), own.Half(), keras.layers.Flatten()]
    layers += [keras.layers.Dense(2, activation=own.doubled)]
    keras.Sequential(layers).save(tmp_path / "network.keras")
    forget("own_layers", tmp_path)
    yield tmp_path / "network.keras", tmp_path / "own_layers.py"
    forget("own_layers", tmp_path)


def forget(name, folder):
    sys.modules.pop(name, None)
    sys.path[:] = [entry for entry in sys.path if entry != str(folder)]
    for key in ("Half", "doubled"):
        keras.saving.get_custom_objects().pop(key, None)


@pytest.mark.parametrize("by_file", [True, False])
def test_a_module_with_layers_of_ones_own_is_imported(own_layers, monkeypatch, by_file):
    """By its file, or by its name from the folder that one is in."""
    network, module = own_layers
    monkeypatch.chdir(module.parent)
    process.use_modules([str(module) if by_file else module.stem])
    loaded = named.load_model(network)
    ones, weights = np.ones([1, 4, 4, 1], np.float32), loaded.get_weights()[0]
    expected = weights.sum(axis=0)  # halved, and doubled
    np.testing.assert_allclose(loaded(ones)[0], expected, rtol=1e-5, atol=1e-6)


def test_an_unknown_layer_names_itself_and_the_flag(own_layers):
    with pytest.raises(ValueError) as error:
        named.load_model(own_layers[0])
    text = f"{error.value}"
    assert "'Half' is not Keras's own" in text and "--import MODULE" in text
    assert len(text) < 300 and "\n" not in text  # without its configuration


@pytest.mark.parametrize("name", ["no_such_module", "nowhere/module.py"])
def test_a_module_that_is_not_there_is_named(name):
    with pytest.raises(ValueError, match=rf"that Python finds\. Received: '{name}'"):
        process.use_modules([name])


# Pixels


@pytest.mark.parametrize(
    ("layer", "white"),
    [
        (keras.layers.Rescaling(1 / 255), 255),
        (keras.layers.Rescaling(1 / 256), 255),
        (keras.layers.Rescaling(1 / 127.5, -1), 255),
        (keras.layers.Rescaling(2, -1), 1),
        (keras.layers.Rescaling(255), 1),
        (keras.layers.Rescaling([1 / 58, 1 / 57, 1 / 57], [-2.1, -2.0, -1.8]), 255),
        (keras.layers.Normalization(mean=[0.5] * 3, variance=[0.06] * 3), 1),
        (keras.layers.Normalization(mean=[120.0] * 3, variance=[3600.0] * 3), 255),
        (keras.layers.Rescaling(1.0), None),
        (keras.layers.ReLU(), None),
    ],
    ids=lambda value: getattr(value, "name", None),
)
@pytest.mark.parametrize("nested", [False, True])
def test_a_network_says_what_white_is_by_its_first_scaling(layer, white, nested):
    layers = [keras.layers.RandomFlip(), layer, keras.layers.Conv2D(2, 3)]
    layers += [keras.layers.Rescaling(1 / 100)]  # of no pixels
    network = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    if nested:
        network = keras.Sequential([keras.Input((8, 8, 3)), network])
    low, high, reason = named.pixel_range(network)
    assert (low, high) == (0.0, white or 255.0)
    assert (layer.name in reason) == (white is not None) != ("assumed" in reason)


def test_pixels_that_are_given_win_over_what_a_network_says():
    layers = [keras.Input((8, 8, 3)), keras.layers.Rescaling(2, -1)]
    network = keras.Sequential(layers)
    assert named.pixel_range(network, -1.0, 3.0)[:2] == (-1.0, 3.0)
    assert named.pixel_range(network, high=2.0)[:2] == (0.0, 2.0)
    assert named.pixel_range(network, mode="caffe")[:2] == (0.0, 255.0)
    with pytest.raises(ValueError, match="--low below --high. Received: 1, 1"):
        named.pixel_range(network, low=1.0)


# Units by name

NAMES = {0: "goldfish, Carassius auratus", 1: "school_bus", 2: "crane", 3: "crane"}
NAMES |= {4: "black-and-tan coonhound", 5: "all"}


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("goldfish", 0),
        ("Carassius Auratus", 0),
        ("goldfish, Carassius auratus", 0),
        ("school bus", 1),
        ("School_Bus", 1),
        ("black-and-tan coonhound", 4),
    ],
)
def test_a_class_is_named_by_one_of_its_names(name, number):
    assert named.labels([f"class:{name}"], names=NAMES) == [f"class:{number}"]


@pytest.mark.parametrize(
    ("text", "names", "message"),
    [
        ("class:gold fish", NAMES, r"Received: class:gold fish\. Near it: goldfish"),
        ("class:xyzw", NAMES, r"class:xyzw\. The first names: all, black-and-tan"),
        ("class:crane", NAMES, "name of 2. Write class:2 or class:3"),
        ("class:goldfish", {}, "no names. Pass --names FILE.json"),
        ("conv:goldfish", NAMES, "LAYER:12, LAYER:0-7 or LAYER:all"),
    ],
)
def test_a_name_of_no_class_or_of_several_is_told(text, names, message):
    with pytest.raises(ValueError, match=message):
        named.labels([text], names=names)


def test_all_names_every_channel_and_every_class():
    lenet = kt.lenet(num_classes=7)
    assert named.labels(["conv1:all"], lenet) == [f"conv1:{c}" for c in range(20)]
    assert named.labels(["class:all"], lenet) == [f"class:{c}" for c in range(7)]
    with pytest.raises(ValueError, match="conv9"):
        named.labels(["conv9:all"], lenet)


def test_the_table_of_layers_names_units_that_there_are():
    lenet = kt.lenet(num_classes=7)
    head, *rows = [line.split("  ") for line in named.layer_table(lenet).splitlines()]
    rows = [[cell.strip() for cell in row if cell] for row in rows]
    assert rows[0] == ["conv1:0-19", "24 x 24 x 20", "5 x 5", "what it sees"]
    assert rows[-1] == ["class:0-6", "7", "-", "the whole image"]
    for text, _, sees, drawn in rows:
        label = named.labels([text])[-1]
        shape = named.unit_of(lenet, label).input_shape
        if drawn == "what it sees":
            assert sees == f"{shape[0]} x {shape[1]}"
        else:
            assert shape == (28, 28, 1)


def test_a_model_has_the_names_of_the_file_beside_it(tmp_path):
    """Or in the folder above, if they are of as many classes; given ones win."""
    (tmp_path / "run").mkdir()
    for path in (tmp_path / "run" / "last.keras", tmp_path / "last.keras"):
        assert named.names_of(None, path) == {}
        (tmp_path / "class_names.json").write_text(json.dumps(["cat", "dog"]))
        assert named.names_of(None, path, 2) == {0: "cat", 1: "dog"}
        assert named.names_of(None, path, 3) == {}
        given = tmp_path / "given.json"
        given.write_text(json.dumps(["Katze"]))
        assert named.names_of(given, path, 2) == {0: "Katze"}
        (tmp_path / "class_names.json").unlink()


# Sizes and outputs


def test_sizes_that_a_network_does_not_take_are_left_out():
    layers = [keras.Input((16, 16, 3)), keras.layers.Conv2D(4, 3)]
    any_size = keras.Sequential([*layers, keras.layers.GlobalMaxPooling2D()])
    one_size = keras.Sequential(
        [*layers, keras.layers.Flatten(), keras.layers.Dense(4)]
    )
    assert named.readable_sizes(any_size, [1.0, 0.7, 0.5]) == [1.0, 0.7, 0.5]
    assert named.readable_sizes(one_size, [1.0, 0.7, 0.5]) == [1.0]
    assert named.readable_sizes(one_size, [0.7]) == [1.0]


def test_classes_are_counted_of_one_output_alone():
    inputs = keras.Input((4, 4, 1))
    flat = keras.layers.Flatten()(inputs)
    one, other = keras.layers.Dense(3)(flat), keras.layers.Dense(2)(flat)
    counts = {
        3: [one, [one], {"a": one}],
        None: [[one, other], {"a": one, "b": other}, keras.layers.ReLU()(inputs)],
    }
    for count, several in counts.items():
        for made in several:
            assert named.num_classes(keras.Model(inputs, made)) == count
    assert named.num_classes(keras.Sequential([keras.layers.Dense(2)])) is None


def test_within_as_exit_files_that_fail_end_in_a_sentence(tmp_path):
    with pytest.raises(SystemExit, match="can be read and folders .*nowhere: No such"):
        with process.as_exit():
            open(tmp_path / "nowhere")
    with pytest.raises(SystemExit, match="^Expected room: file$"):
        with process.as_exit():
            raise OSError(28, "Expected room", "file")
    with pytest.raises(SystemExit, match="^of a network$"):
        with process.as_exit():
            raise OSError("of a network")
