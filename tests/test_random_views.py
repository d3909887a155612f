"""Random views move images as they say, only while a tilt rises, and rest after it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage
from small_network import SHAPE, small_network

import keras_tilt as kt
from keras_tilt import serving

SIZE = 21  # an odd one has a pixel in its middle


def smooth_images(size=SIZE, n=2):
    rng = np.random.default_rng(0)
    return ndimage.gaussian_filter(rng.normal(size=[n, size, size, 3]), [0, 2, 2, 0])


def seen(view, images):
    views = kt.RandomViews()
    views.view.assign(view)
    return views(images.astype(np.float32)).numpy()


def inside(images):
    """Without the edges, where a view shows reflections."""
    return images[:, 5:-5, 5:-5]


def test_at_rest_it_is_the_image_or_its_mirror_image():
    images = smooth_images().astype(np.float32)
    np.testing.assert_array_equal(kt.RandomViews()(images), images)
    mirrored = kt.RandomViews(lambda x: 2 * x, rests_mirrored=True)(images)
    np.testing.assert_array_equal(mirrored, 2 * images[:, :, ::-1])


def test_a_quarter_turn_is_a_quarter_turn():
    images = smooth_images()
    turned = seen([np.pi / 2, 0, 0, 0, 1], images)
    np.testing.assert_allclose(turned, np.rot90(images, 1, (1, 2)), atol=1e-5)


def test_a_shift_and_a_mirror_image_are_those_of_numpy():
    images = smooth_images()
    moved = seen([0, 0, 2 / SIZE, -3 / SIZE, 1], images)
    by_hand = np.roll(images, [-2, 3], axis=(1, 2))
    np.testing.assert_allclose(inside(moved), inside(by_hand), atol=1e-5)
    mirrored = seen([0, 0, 0, 0, -1], images)
    np.testing.assert_allclose(mirrored, images[:, :, ::-1], atol=1e-6)


def test_networks_of_any_size_are_seen_in_views():
    layers = [keras.layers.Conv2D(2, 3), keras.layers.GlobalAveragePooling2D()]
    network = keras.Sequential([keras.Input((None, None, 3)), *layers])
    f = kt.unit(network, class_index=1, preprocess=kt.RandomViews())
    for size in (9, SIZE):
        images = smooth_images(size).astype(np.float32)
        np.testing.assert_allclose(f(images), network(images)[:, 1], rtol=1e-5)


def test_a_zoom_and_a_turn_are_those_of_scipy():
    images = smooth_images()
    angle, zoom = 0.3, 1.2
    found = seen([angle, np.log(zoom), 0, 0, 1], images)
    matrix = zoom * np.array(
        [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    )
    middle = np.full(2, (SIZE - 1) / 2)
    planes = [
        ndimage.affine_transform(
            images[0, :, :, c], matrix, middle - matrix @ middle, order=1
        )
        for c in range(3)
    ]
    np.testing.assert_allclose(
        inside(found[:1]), inside(np.stack(planes, -1)[None]), atol=1e-4
    )


def test_views_are_drawn_within_their_ranges_and_as_the_seed_says():
    views = kt.RandomViews(rotation=0.2, zoom=0.3, shift=0.1)
    drawn = []
    for i in range(400):
        views.redraw(tf.constant([3, i]))
        drawn.append(views.view.numpy())
    drawn = np.array(drawn)
    largest = np.array([0.2, 0.3, 0.1, 0.1])
    assert np.all(np.abs(drawn[:, :4]) <= largest)
    # Uniform: the mean of squares is a third, to 4 standard errors.
    squares = np.mean((drawn[:, :4] / largest) ** 2, axis=0)
    assert np.all(np.abs(squares - 1 / 3) < 4 * np.sqrt(4 / 45 / 400))
    assert abs(drawn[:, 4].mean()) < 4 / np.sqrt(400) and set(drawn[:, 4]) == {-1, 1}
    views.redraw(tf.constant([3, 7]))
    np.testing.assert_array_equal(views.view, drawn[7])
    still = kt.RandomViews(rotation=0.0, zoom=0.0, shift=0.0, mirror=False)
    still.redraw(tf.constant([3, 7]))
    np.testing.assert_array_equal(still.view, [0, 0, 0, 0, 1])


class Watched(kt.RandomViews):
    """Writes down whether it is redrawn or comes to rest."""

    def __init__(self, **options):
        self.history = []
        super().__init__(**options)

    def redraw(self, seed):
        self.history.append(tuple(np.asarray(seed).tolist()))
        super().redraw(seed)

    def rest(self):
        self.history.append("rest")
        super().rest()


def tilt_of(views, scale=3.0):
    f = kt.unit(small_network(), class_index=1, preprocess=views)
    return kt.Tilt(f, kt.white_noise(SHAPE, 0.0, 1.0), scale)


SAMPLING = {"max_leapfrog_steps": 8, "seed": 4, "progress": False}


def test_the_unit_is_one_function_after_an_unadjusted_warm_up():
    views = Watched(shift=0.3)
    tilt = tilt_of(views)
    samples = kt.sample(tilt, 3, 6, 20, approach_step_size=0.1, **SAMPLING)
    drawn = [entry for entry in views.history if entry != "rest"]
    first_rest = views.history.index("rest")
    assert len(set(drawn)) == len(drawn) == first_rest > 5
    assert set(views.history[first_rest:]) == {"rest"}
    np.testing.assert_array_equal(views.view, [0, 0, 0, 0, 1])
    # What is reported of the draws is f of the view at rest.
    f = [tilt.unit(images) for images in samples.images]
    np.testing.assert_allclose(samples.f, f, rtol=1e-4, atol=1e-4)


def test_without_an_approach_there_are_no_random_views():
    views = Watched()
    kt.sample(tilt_of(views), 2, 4, 4, **SAMPLING)
    assert set(views.history) == {"rest"}
    plain = kt.unit(small_network(), class_index=1)
    alike = kt.Tilt(plain, tilt_of(views).reference, 3.0)
    one = kt.sample(tilt_of(kt.RandomViews()), 2, 4, 4, **SAMPLING)
    other = kt.sample(alike, 2, 4, 4, **SAMPLING)
    np.testing.assert_allclose(one.f, other.f, rtol=1e-4, atol=1e-5)


def test_an_interrupted_approach_resumes_bit_for_bit(tmp_path):
    def run(folder, stop=None):
        views = kt.RandomViews(shift=0.3)
        calls = []
        redraw = views.redraw

        def counted(seed):
            calls.append(1)
            if len(calls) == stop:
                raise KeyboardInterrupt
            redraw(seed)

        views.redraw = counted
        options = {**SAMPLING, "directory": folder, "approach_step_size": 0.1}
        try:
            return kt.sample(tilt_of(views), 3, 6, 20, **options), views
        except KeyboardInterrupt:
            return None, views

    whole, _ = run(tmp_path / "whole")
    stopped, views = run(tmp_path / "parts", stop=5)
    assert stopped is None
    np.testing.assert_array_equal(views.view, [0, 0, 0, 0, 1])
    resumed, _ = run(tmp_path / "parts")
    np.testing.assert_array_equal(whole.f, resumed.f)
    np.testing.assert_array_equal(whole.warmup_f, resumed.warmup_f)
    np.testing.assert_array_equal(whole.noise, resumed.noise)


def test_the_scale_is_found_in_random_views_and_they_rest_after_it():
    views = Watched()
    tilt = kt.scale_for_signal(tilt_of(views, 1.0), 0.2, seed=3, progress=False)
    assert tilt.scale > 0
    assert len({entry for entry in views.history if entry != "rest"}) > 3
    assert views.history[-1] == "rest"


def test_a_unit_seen_in_views_is_served_at_rest(tmp_path):
    tilt = tilt_of(kt.RandomViews(rests_mirrored=True))
    schedule = serving.planned([0.3], [3], 4, (0, 7))
    sampler = serving.ServedSampler(tilt, schedule, -1.0, 1.0)
    tf.saved_model.save(sampler, str(tmp_path), signatures=sampler.functions)
    images = np.random.default_rng(1).normal(size=[2, *SHAPE]).astype(np.float32)
    answer = tf.saved_model.load(str(tmp_path)).signatures["evaluate"](
        image=tf.constant(images)
    )
    plain = kt.unit(small_network(), class_index=1)(images[:, :, ::-1])
    np.testing.assert_allclose(answer["f"][:, 0], plain, rtol=1e-4)


@pytest.mark.parametrize("name", ["rotation", "zoom", "shift"])
@pytest.mark.parametrize("value", [-0.1, np.nan, np.inf])
def test_a_range_that_is_none_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"`{name}` must be .*Received: {value}"):
        kt.RandomViews(**{name: value})


def test_two_views_of_one_class_are_two_terms_of_a_sum():
    network = small_network()
    one, other = kt.RandomViews(), kt.RandomViews(rests_mirrored=True)
    total = kt.unit(network, class_index=0, preprocess=one) + kt.unit(
        network, class_index=0, preprocess=other
    )
    images = np.random.default_rng(1).normal(size=[2, *SHAPE]).astype(np.float32)
    plain = kt.unit(network, class_index=0)
    expected = plain(images) + plain(images[:, :, ::-1])
    np.testing.assert_allclose(total(images), expected, rtol=1e-5)
