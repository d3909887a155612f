"""Figures state one scale, hold every image and every chain, and show nothing."""

import io
import sys

import matplotlib.figure
import matplotlib.image
import numpy as np
import pytest

from keras_tilt.plotting import error_bars, image_grid, label_maps, trace_plot

GRAY = np.random.default_rng(0).uniform(-2.0, 5.0, size=[7, 6, 4, 1])


def texts(figure):
    return [figure.get_supxlabel(), figure.get_supylabel(), figure.get_suptitle()]


def shown(figure):
    return [axes.images[0].get_array() for axes in figure.axes]


def test_all_images_share_one_scale_that_the_figure_states():
    figure = image_grid(GRAY)
    low, high = GRAY.min(), GRAY.max()
    assert f"black {low:.4g}, white {high:.4g}" in texts(figure)[0]
    np.testing.assert_allclose(
        np.stack(shown(figure)), (GRAY[..., 0] - low) / (high - low), atol=1e-12
    )
    assert {axes.images[0].get_clim() for axes in figure.axes} == {(0, 1)}


def test_a_stated_scale_is_kept_and_pixels_beyond_it_saturate():
    figure = image_grid(GRAY, low=0.0, high=1.0)
    assert "black 0, white 1" in texts(figure)[0]
    np.testing.assert_allclose(np.stack(shown(figure)), np.clip(GRAY[..., 0], 0, 1))


def test_gray_images_may_leave_out_the_channel_and_color_images_keep_it():
    assert len(image_grid(GRAY[..., 0]).axes) == 7
    color = np.repeat(GRAY, 3, axis=-1)
    assert shown(image_grid(color))[0].shape == (6, 4, 3)


@pytest.mark.parametrize("columns, rows", [(None, 3), (2, 4), (7, 1), (20, 1)])
def test_the_grid_has_the_columns_asked_for(columns, rows):
    figure = image_grid(GRAY, columns=columns)
    assert figure.axes[0].get_gridspec().nrows == rows


def test_titles_and_a_constant_image_are_drawn(tmp_path):
    figure = image_grid(np.full([2, 3, 3, 1], 4.0), titles=[3, "five"], title="digits")
    assert [axes.get_title() for axes in figure.axes] == ["3", "five"]
    assert "black 3.5, white 4.5" in texts(figure)[0]
    figure.savefig(tmp_path / "grid.png")
    assert (tmp_path / "grid.png").stat().st_size > 0


@pytest.mark.parametrize("columns", [1, 2, 4])
@pytest.mark.parametrize("inches", [1.2, 2.0])
def test_a_long_title_stays_within_the_figure_and_beside_the_images(columns, inches):
    title = "class 3, scale 7\nnot converged: R-hat of f is 2.4; " + 6 * "Worst pixel, "
    images = np.zeros([columns, 9, 9, 1])
    grid = image_grid(images, columns=columns, inches=inches, title=title)
    for figure in (grid, trace_plot(np.zeros([9, 2]), title=title)):
        figure.draw_without_rendering()
        (drawn,) = [text for text in figure.texts if "converged" in text.get_text()]
        box = drawn.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width
        assert box.y1 <= figure.bbox.height
        assert drawn.get_text().split() == title.split()
        assert all(axes.bbox.y1 < box.y0 for axes in figure.axes)
        assert figure.axes[0].bbox.height > 0.5 * figure.dpi


@pytest.mark.parametrize(
    "arguments, name",
    [
        ({"images": np.zeros([3, 4])}, "images"),
        ({"images": np.zeros([2, 3, 4, 2])}, "images"),
        ({"images": np.zeros([0, 3, 4, 1])}, "images"),
        ({"images": np.full([2, 3, 4, 1], np.nan)}, "images"),
        ({"images": GRAY, "low": 2.0, "high": 2.0}, "low"),
        ({"images": GRAY, "titles": ["a"]}, "titles"),
    ],
)
def test_what_is_no_grid_is_an_error_that_names_it(arguments, name):
    with pytest.raises(ValueError, match=rf"`{name}` must .* Received: "):
        image_grid(**arguments)


def test_a_trace_plot_has_a_panel_per_unit_and_a_line_per_chain(tmp_path):
    f = {"digit 3": np.zeros([20, 4]), "digit 5": np.ones([30, 2])}
    figure = trace_plot(f, num_burnin_steps=5, title="chains")
    assert [axes.get_title() for axes in figure.axes] == ["digit 3", "digit 5"]
    assert [len(axes.lines) for axes in figure.axes] == [4, 2]
    assert texts(figure) == ["iteration (warm-up shaded)", "f [nats]", "chains"]
    figure.savefig(tmp_path / "trace.png")


def test_a_single_array_is_one_panel():
    figure = trace_plot(np.arange(6.0).reshape(3, 2))
    np.testing.assert_array_equal(figure.axes[0].lines[1].get_ydata(), [1.0, 3.0, 5.0])


@pytest.mark.parametrize("f", [{}, np.zeros([3]), {"a": np.zeros([2, 3, 4])}])
def test_what_is_no_trace_is_an_error_that_quotes_its_shape(f):
    with pytest.raises(ValueError, match="`f` must .* Received: shapes"):
        trace_plot(f)


def test_plotting_does_not_touch_pyplot():
    import keras_tilt.plotting as plotting

    names = vars(plotting)
    assert "plt" not in names and "pyplot" not in names
    pyplot = sys.modules.get("matplotlib.pyplot")
    before = pyplot.get_fignums() if pyplot else []
    image_grid(GRAY)
    assert (pyplot.get_fignums() if pyplot else []) == before


def test_label_maps_have_a_column_each_and_white_where_there_is_no_class():
    shapes = [(4, 6), (8, 5)]
    images = [np.zeros([*shape, 3], np.uint8) for shape in shapes]
    truth = [np.arange(np.prod(shape)).reshape(shape) % 2 for shape in shapes]
    nothing = [np.full(shape, -1) for shape in shapes]
    figure = label_maps(images, [truth, nothing], ["sky", "road"], ["truth", "found"])
    assert [axes.get_title() for axes in figure.axes[:3]] == ["image", "truth", "found"]
    _, first, second, _, other, _ = shown(figure)
    assert other.shape == (8, 5, 3)
    assert len(np.unique(first.reshape(-1, 3), axis=0)) == 2
    assert np.all(second == 1)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["sky", "road"]
    colours = [patch.get_facecolor()[:3] for patch in legend.get_patches()]
    np.testing.assert_allclose(first[0, :2], colours)


# Notebooks


def figures():
    images = np.linspace(0, 1, 2 * 8 * 8).reshape(2, 8, 8, 1)
    coloured = np.zeros([8, 8, 3], np.uint8)
    return [
        image_grid(images),
        trace_plot(np.zeros([9, 2])),
        label_maps([coloured], [[np.zeros([8, 8], int)]], ["sky"], ["found"]),
    ]


@pytest.mark.parametrize("figure", figures(), ids=["grid", "traces", "maps"])
def test_a_notebook_is_handed_a_png_without_pyplot(figure):
    """IPython asks an object for `_repr_png_`, and takes a PNG before text."""
    png = figure._repr_png_()
    height, width = decoded(png).shape[:2]
    inches = figure.get_size_inches()
    assert (width, height) == tuple((inches * figure.dpi).astype(int))
    assert decoded(png).std() > 0
    assert isinstance(figure, matplotlib.figure.Figure)


def decoded(png):
    return matplotlib.image.imread(io.BytesIO(png))


def test_displaying_a_figure_leaves_it_as_it_is():
    """It can be saved, and displayed again, with equal bytes."""
    figure = figures()[0]
    before, canvas = figure._repr_png_(), figure.canvas
    assert figure._repr_png_() == before and figure.canvas is canvas


def test_error_bars_are_two_standard_errors_around_the_numbers():
    values = {"a": np.array([[1.0, 3.0], [0.5, 0.1]]), "b": [[2.0, 2.0], [0.0, 1.0]]}
    figure = error_bars(values, ["left", "right"], "log Z, nats")
    (axes,) = figure.axes
    assert axes.get_ylabel() == "log Z, nats"
    assert [text.get_text() for text in axes.get_xticklabels()] == ["left", "right"]
    for (numbers, errors), bars in zip(values.values(), axes.containers, strict=True):
        np.testing.assert_array_equal(bars[0].get_ydata(), numbers)
        ends = np.array([line[:, 1] for line in bars[2][0].get_segments()])
        np.testing.assert_allclose(ends[:, 1] - ends[:, 0], 4 * np.array(errors))


@pytest.mark.parametrize("values", [{}, {"a": [1.0, 2.0]}, {"a": np.zeros([2, 3])}])
def test_error_bars_of_another_shape_are_refused(values):
    with pytest.raises(ValueError, match=r"arrays \[2, 2\] by name.*Received: shapes"):
        error_bars(values, ["left", "right"], "nats")
