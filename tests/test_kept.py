"""A network is traced once, whatever is drawn from it; and its graphs go with it."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import slow
from small_network import SHAPE, small_network

import keras_tilt as kt
from keras_tilt.sampling import kept


class Counter:
    """Of calls; no setting of a layer, to Keras and to us."""

    def __init__(self):
        self.count = 0


class Counted(keras.layers.Layer):
    """Hands its inputs on, times a factor, and counts how often it is called."""

    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor, self.options, self.calls = factor, {"power": 1.0}, Counter()

    def call(self, inputs):
        self.calls.count += 1
        return self.factor * inputs ** self.options["power"]


def counted_network():
    inner = small_network()
    counted = Counted(name="counted")
    outputs = inner.layers[0](counted(inner.inputs[0]))
    for layer in inner.layers[1:]:
        outputs = layer(outputs)
    return keras.Model(inner.inputs, outputs), counted.calls


def draw(unit, reference=None, **kwargs):
    reference = kt.white_noise(SHAPE) if reference is None else reference
    arguments = {"num_chains": 2, "num_results": 4, "num_burnin_steps": 3, "seed": 1}
    tilt = kt.Tilt(unit, reference)
    return kt.sample(tilt, progress=False, **arguments | kwargs)


def traces(calls, action):
    before = calls.count
    action()
    return calls.count - before


@pytest.mark.parametrize(
    "options", [{}, {"inverse_temperatures": (1.0, 0.5)}], ids=["chains", "ladder"]
)
def test_a_first_run_traces_the_network_once(options):
    network, calls = counted_network()
    unit = kt.unit(network, class_index=0)
    once = 2 if options else 1  # a ladder computes f anew for the record
    assert traces(calls, lambda: draw(unit, **options)) == once


def test_other_classes_and_channels_do_not_trace_it_again():
    network, calls = counted_network()
    draw(kt.unit(network, class_index=0))
    draw(kt.unit(network, "conv1:0"))
    draw(kt.unit(network, class_index=0) - kt.unit(network, class_index=1))
    other = [
        kt.unit(network, class_index=2),
        kt.unit(network, "conv1:3"),
        kt.unit(network, class_index=2) - 3.0 * kt.unit(network, class_index=0),
    ]
    for unit in other:
        assert traces(calls, lambda unit=unit: draw(unit)) == 0
    assert traces(calls, lambda: draw(other[0], seed=5, step_size=0.1, mass=2.0)) == 0


def test_of_equal_references_there_is_one_graph_and_of_others_another():
    network, calls = counted_network()
    unit = kt.unit(network, class_index=0)

    def spectral(stddev):
        return kt.squash(kt.spectral_noise(SHAPE, stddev=stddev), -1.0, 1.0)

    one = draw(unit, spectral(0.5))
    again = []
    assert traces(calls, lambda: again.append(draw(unit, spectral(0.5)))) == 0
    np.testing.assert_array_equal(again[0].noise, one.noise)
    other = draw(unit, spectral(0.25))
    assert np.all(other.images[-1] != one.images[-1])
    images = np.asarray(other.images[-1])
    np.testing.assert_allclose(unit(images), other.f[-1], rtol=1e-5, atol=1e-5)


def test_log_partition_and_scale_share_the_graph_of_sampling():
    network, calls = counted_network()
    reference = kt.white_noise(SHAPE)
    tilts = [kt.Tilt(kt.unit(network, class_index=c), reference) for c in range(2)]
    draw(tilts[0].unit, reference, num_chains=20)
    quiet = {"seed": 3, "progress": False}
    eager = traces(
        calls,
        lambda: kt.scale_for_signal(tilts[1], signal=0.5, num_chains=20, **quiet),
    )  # a signal that needs no more chains
    assert eager == 4  # f of 64 draws of q, without a graph, and no trace
    assert (
        traces(calls, lambda: kt.log_partition(tilts[1], num_chains=20, **quiet)) == 0
    )


# What a kept graph must not forget


def fresh(unit, **kwargs):
    """The same unit of a copy of its network, for which nothing is kept."""
    ((features, weights),) = unit.terms
    copy = keras.models.clone_model(features.network)
    copy.set_weights(features.network.get_weights())
    (index,) = np.flatnonzero(weights)
    return kt.unit(copy, class_index=index, **kwargs)


def assert_is_that_of(unit, expected, **kwargs):
    np.testing.assert_array_equal(
        draw(unit, **kwargs).noise, draw(expected, **kwargs).noise
    )


def test_weights_that_change_are_those_of_the_next_run():
    network = small_network()
    unit = kt.unit(network, class_index=1)
    before = draw(unit)
    network.set_weights([1.5 * w for w in network.get_weights()])
    assert np.any(draw(unit).f != before.f)
    assert_is_that_of(unit, fresh(unit))


def changed_activation(network):
    network.layers[0].activation = keras.activations.tanh


def changed_layers(network):
    network.pop()
    network.add(keras.layers.Dense(3))


def changed_number(network):
    network.layers[0].factor = 2.0


def changed_option(network):
    network.layers[0].options["power"] = 2.0


@pytest.mark.parametrize(
    "change",
    [changed_activation, slow(changed_layers), slow(changed_number), changed_option],
)
def test_a_network_that_is_changed_is_traced_anew(change):
    network = small_network()
    if change in (changed_number, changed_option):
        network = keras.Sequential(
            [keras.Input(SHAPE), Counted(), *small_network().layers]
        )
    unit = kt.unit(network, class_index=1)
    before = draw(unit)
    change(network)
    after = draw(unit)
    assert np.any(after.f != before.f)
    images = np.asarray(after.images[-1])
    np.testing.assert_allclose(network(images)[:, 1], after.f[-1], rtol=1e-5, atol=1e-5)


def test_a_preprocessing_that_changed_is_traced_anew():
    factor = [1.0]

    def preprocess(images):
        return factor[0] * images

    unit = kt.unit(small_network(), class_index=1, preprocess=preprocess)
    before = draw(unit)
    factor[0] = 0.5
    after = draw(unit)
    assert np.any(after.f != before.f)
    np.testing.assert_allclose(
        unit(np.asarray(after.images[-1])), after.f[-1], rtol=1e-5, atol=1e-5
    )


def test_a_function_is_traced_in_every_run():
    factor = [1.0]

    def unit(images):
        return factor[0] * tf.reduce_sum(images, axis=[1, 2, 3])

    draw(unit)
    factor[0] = 2.0
    after = draw(unit)
    np.testing.assert_allclose(
        unit(np.asarray(after.images[-1])), after.f[-1], rtol=1e-5
    )


def test_graphs_under_a_strategy_are_its_own(strategy):
    unit = kt.unit(small_network(), class_index=1)
    alone = draw(unit)
    with strategy.scope():
        split = draw(unit)
    np.testing.assert_allclose(split.noise, alone.noise, atol=1e-4)
    np.testing.assert_array_equal(draw(unit).noise, alone.noise)


# Memory


def test_a_network_that_is_dropped_is_freed_with_all_its_graphs():
    network = small_network(seed=3)
    for kernel in ("split", "hmc"):
        draw(kt.unit(network, class_index=0), kernel=kernel)
    draw(kt.unit(network, "conv1:0").crop(), kt.white_noise((3, 3, 1)))
    kernels = [weakref.ref(weight.value) for weight in network.weights]
    alive = [weakref.ref(network), *kernels]
    del network
    gc.collect()
    assert [one() for one in alive if one() is not None] == []


@pytest.mark.slow
def test_a_network_that_is_dropped_is_freed_beside_one_that_stays():
    """A sum over two networks must not tie them together."""
    stays, goes = small_network(1), small_network(2)
    draw(kt.unit(stays, class_index=0) + kt.unit(goes, class_index=0))
    gone = weakref.ref(goes)
    del goes
    gc.collect()
    assert gone() is None
    draw(kt.unit(stays, class_index=0))


def graphs_alive():
    gc.collect()
    kind = tf.Graph
    return sum(isinstance(one, kind) for one in gc.get_objects())


def test_thirty_units_leave_no_more_graphs_than_one():
    network = small_network()
    reference = kt.white_noise(SHAPE)
    few = {"num_results": 1, "num_burnin_steps": 0, "step_size": 0.1}
    units = [kt.unit(network, class_index=c) for c in range(3)]
    draw(units[0], reference, **few)
    before = graphs_alive()
    for i in range(30):
        draw(units[i % 3], reference, seed=i, **few)
    assert graphs_alive() == before


@pytest.mark.slow
def test_of_many_shapes_the_graphs_used_last_stay(monkeypatch):
    monkeypatch.setattr(kept, "_MOST", 2)
    network = small_network()
    few = {"num_results": 1, "num_burnin_steps": 0, "step_size": 0.1}
    unit = kt.unit(network, class_index=0)
    counts = []
    for num_chains in range(1, 6):
        draw(unit, num_chains=num_chains, **few)
        counts.append(graphs_alive())
    assert counts[-1] == counts[-2] == counts[-3] > counts[0]


def test_a_network_is_saved_as_before(tmp_path):
    network = small_network()
    images = np.random.default_rng(0).random((2, *SHAPE), np.float32)
    draw(kt.unit(network, class_index=0))
    network.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras")
    np.testing.assert_array_equal(loaded(images), network(images))
    network.export(str(tmp_path / "exported"), verbose=False)
    served = tf.saved_model.load(str(tmp_path / "exported"))
    np.testing.assert_allclose(served.serve(images), network(images), atol=1e-6)
