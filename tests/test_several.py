"""A unit that is chosen in the graph is the unit that was chosen in Python."""

import keras
import numpy as np
import pytest
import small_network
import tensorflow as tf

import keras_tilt as kt
from keras_tilt.units.groups import choice, stack, variables_of


def images(n=4):
    return tf.random.stateless_normal([n, *small_network.SHAPE], [0, n])


def several_units():
    """Of two networks, of classes, channels, sums, and a function."""
    one, other = small_network.small_network(0), small_network.small_network(1)
    classes = [kt.unit(one, class_index=k) for k in range(3)]
    return [
        *classes,
        kt.unit(other, class_index=1, posterior=True),
        classes[0] - 2.0 * classes[2],
        kt.unit(one, "conv1:3"),
        classes[1] + kt.unit(other, "conv1:0", position="mean"),
        lambda images: tf.reduce_sum(images, axis=[1, 2, 3]),
    ]


@pytest.mark.parametrize("in_graph", [False, True], ids=["eager", "graph"])
def test_the_chosen_unit_is_that_unit(in_graph):
    units = several_units()
    chosen = choice(units)
    call = tf.function(chosen) if in_graph else chosen
    for i, unit in enumerate(units):
        np.testing.assert_allclose(
            call(images(), tf.constant(i)), unit(images()), rtol=1e-5, atol=1e-5
        )


def test_every_unit_is_read_of_every_image():
    units = several_units()
    expected = np.stack([unit(images()) for unit in units], axis=1)
    np.testing.assert_allclose(
        choice(units).every(images()), expected, rtol=1e-5, atol=1e-5
    )


def test_the_chosen_unit_has_the_gradient_of_that_unit():
    units = several_units()

    @tf.function
    def gradient(images, i):
        return tf.gradients(choice(units)(images, i), images)[0]

    for i, unit in enumerate(units):
        with tf.GradientTape() as tape:
            tape.watch(x := images())
            f = unit(x)
        np.testing.assert_allclose(
            gradient(x, tf.constant(i)), tape.gradient(f, x), rtol=1e-5, atol=1e-6
        )


def test_classes_of_one_network_are_in_the_graph_once():
    network = small_network.small_network()
    units = [kt.unit(network, class_index=k) for k in range(3)]
    traced = tf.function(choice(units)).get_concrete_function(
        tf.TensorSpec([None, *small_network.SHAPE]), tf.TensorSpec([], tf.int32)
    )
    operations = [operation.type for operation in traced.graph.get_operations()]
    assert operations.count("Conv2D") == 1 and "Case" not in operations


def test_variables_are_those_of_all_networks_each_once():
    one, other = small_network.small_network(0), small_network.small_network(1)
    model = kt.GenerativeClassifier(other)
    units = (
        kt.unit(one, class_index=0) + kt.unit(one, "conv1:1"),
        kt.unit(model, class_index=1, posterior=True),
    )
    found = variables_of(choice(units))
    expected = {id(v) for v in [*one.variables, *model.variables]}
    assert {id(v) for v in found} == expected and len(found) == len(expected)
    assert variables_of(choice([tf.identity])) == []


@pytest.mark.parametrize("make", [choice, stack])
def test_units_of_images_of_several_shapes_are_refused(make):
    small = kt.unit(small_network.small_network(), class_index=0)
    layers = [keras.Input((9, 9, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    large = kt.unit(keras.Sequential(layers), class_index=0)
    with pytest.raises(ValueError, match="images of one shape"):
        make([small, large])
    with pytest.raises(ValueError, match="one or several units"):
        make([])
