"""Figures of arrays: every function returns a Figure and shows nothing.

Save it with `figure.savefig(path)`. A notebook displays the figure that a cell ends
with, or `display(figure)`. The state of pyplot is never touched.
"""

__all__ = ["error_bars", "image_grid", "label_maps", "trace_plot"]

import io
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import figure as matplotlib_figure
from matplotlib.colors import hsv_to_rgb
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

_TITLE_POINTS = 10
_LETTER_WIDTH = 0.68  # share of the font size, at most, averaged over a line


class Figure(matplotlib_figure.Figure):
    """A figure that notebooks display as a PNG, without pyplot."""

    def _repr_png_(self):
        """Return the bytes of a PNG, for IPython."""
        part = io.BytesIO()
        self.canvas.print_figure(part, format="png")
        return part.getvalue()


def image_grid(
    images: ArrayLike,
    columns: int | None = None,
    low: float | None = None,
    high: float | None = None,
    titles: Sequence[str] | None = None,
    title: str | None = None,
    inches: float = 1.2,
) -> Figure:
    """Return a grid of images on one gray or colour scale, which is written below.

    Args:
        images: [n, height, width, channels] with 1 or 3 channels, or
            [n, height, width].
        columns: images per row; by default as many as rows.
        low: pixel value shown black; by default the smallest of all images.
        high: pixel value shown white; by default the largest of all images.
        titles: n short texts, one above each image.
        title: text above the grid, wrapped.
        inches: width of one image in the figure.

    Returns:
        figure: a `matplotlib.figure.Figure`.

    Raises:
        ValueError: an array that is not a batch of images, pixels that are not finite,
            an empty scale, or other than n titles.

    Example:
        >>> figure = image_grid(np.zeros([10, 8, 8, 1]), columns=5, low=0, high=1)
        >>> len(figure.axes)
        10
    """
    images = _checked_images(images)
    low, high = _scale(images, low, high)
    if titles is not None and len(titles) != len(images):
        raise ValueError(
            f"`titles` must have one text per image, {len(images)}. "
            f"Received: {len(titles)}. Leave it out or complete it."
        )
    columns = min(columns or int(np.ceil(np.sqrt(len(images)))), len(images))
    rows = -(-len(images) // columns)
    titles = [""] * len(images) if titles is None else [str(text) for text in titles]
    titled_rows = sum(
        any(titles[i : i + columns]) for i in range(0, len(images), columns)
    )
    height = rows * images.shape[1] / images.shape[2] + 0.2 * titled_rows
    width = max(columns * inches, 2.4)
    title = _wrapped(title, width)
    more_lines = title.count("\n")
    figure = Figure(
        figsize=(width, height * inches + 0.5 + 0.17 * more_lines),
        layout="constrained",
    )
    for index, image in enumerate(np.clip((images - low) / (high - low), 0, 1)):
        axes = figure.add_subplot(rows, columns, index + 1)
        _draw_image(axes, image, titles[index])
    figure.supxlabel(f"black {low:.4g}, white {high:.4g}", fontsize=8)
    if title:
        figure.suptitle(title, fontsize=_TITLE_POINTS)
    return figure


def _draw_image(axes, image, title):
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()
    if title:
        axes.set_title(title, fontsize=8)


def label_maps(
    images: Sequence[np.ndarray],
    maps: Sequence[Sequence[np.ndarray]],
    class_names: Sequence[str],
    titles: Sequence[str],
    inches: float = 2.0,
) -> Figure:
    """Return images beside their label maps, with a legend of the classes.

    Args:
        images: n images, uint8 [height, width, 3], of any sizes.
        maps: columns of n label maps each, int [height, width], in 0..classes - 1; -1,
            no class, is white.
        class_names: names by class.
        titles: texts above the columns of label maps.
        inches: width of an image in the figure.

    Returns:
        figure: a `matplotlib.figure.Figure`.

    Example:
        >>> image, found = np.zeros([4, 6, 3], np.uint8), np.zeros([4, 6], int)
        >>> figure = label_maps([image], [[found]], ["sky", "road"], ["found"])
        >>> [axes.get_title() for axes in figure.axes]
        ['image', 'found']
    """
    colours = _class_colours(len(class_names))
    columns = [list(images)] + [
        [np.vstack([colours, [[1, 1, 1]]])[values] for values in column]
        for column in maps
    ]
    ratios = [image.shape[0] / image.shape[1] for image in images]
    height = sum(ratios) * inches + 0.25 + 0.22 * -(-len(class_names) // len(columns))
    figure = Figure(figsize=(len(columns) * inches, height), layout="constrained")
    grid = figure.subplots(
        len(images), len(columns), squeeze=False, height_ratios=ratios
    )
    for axes, image in zip(grid.T.flat, sum(columns, []), strict=True):
        axes.imshow(image, interpolation="nearest")
        axes.set_axis_off()
    for axes, title in zip(grid[0], ["image", *titles], strict=True):
        axes.set_title(title, fontsize=8)
    patches = [
        Patch(color=colour, label=name)
        for colour, name in zip(colours, class_names, strict=True)
    ]
    figure.legend(
        handles=patches, loc="outside lower center", ncols=2 * len(columns), fontsize=6
    )
    return figure


def _class_colours(number):
    """Return colours that differ between neighbours, [number, 3] in [0, 1]."""
    hues = np.arange(number) * 0.618034 % 1
    values = np.where(np.arange(number) % 2, 0.65, 0.95)
    saturations = np.where(np.arange(number) % 3, 0.75, 0.45)
    return hsv_to_rgb(np.stack([hues, saturations, values], axis=1))


def error_bars(
    values: Mapping[str, ArrayLike], names: Sequence[str], label: str
) -> Figure:
    """Return a plot of numbers with their standard errors, two of which are drawn.

    Args:
        values: of each series by its name, [2, n]: numbers and standard errors.
        names: n short texts, below the numbers.
        label: what is plotted, with its unit of measurement.

    Returns:
        figure: a `matplotlib.figure.Figure`.

    Raises:
        ValueError: for a series of another shape, or none.

    Example:
        >>> figure = error_bars({"log Z": [[0.5, 1.0], [0.1, 0.1]]}, ["a", "b"], "nats")
        >>> len(figure.axes)
        1
    """
    series = {name: np.asarray(both, float) for name, both in values.items()}
    shapes = [both.shape for both in series.values()]
    if not shapes or any(shape != (2, len(names)) for shape in shapes):
        raise ValueError(
            f"`values` must be arrays [2, {len(names)}] by name, numbers and their "
            f"standard errors. Received: shapes {shapes}. Stack the two."
        )
    figure = Figure(figsize=(6.0, 3.0), layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(names))
    for i, (name, (numbers, errors)) in enumerate(series.items()):
        beside = 0.2 * (i - (len(series) - 1) / 2)
        axes.errorbar(
            places + beside, numbers, 2 * errors, fmt="o", markersize=4, label=name
        )
    axes.set_xticks(places, names)
    axes.set_ylabel(label)
    axes.legend(fontsize=8)
    return figure


def trace_plot(
    f: ArrayLike | Mapping[str, ArrayLike],
    num_burnin_steps: int = 0,
    label: str = "f [nats]",
    title: str | None = None,
) -> Figure:
    """Return a plot of f over iterations, a line per chain and a panel per unit.

    Args:
        f: values, nats [iterations, chains], or a mapping from names of units to such
            arrays.
        num_burnin_steps: iterations before the first kept draw, shaded.
        label: what is plotted, with its unit of measurement.
        title: text above the panels, wrapped.

    Returns:
        figure: a `matplotlib.figure.Figure`.

    Raises:
        ValueError: an empty mapping, or an array of another rank.

    Example:
        >>> figure = trace_plot({"digit 3": np.zeros([20, 4])}, num_burnin_steps=10)
        >>> len(figure.axes[0].lines)
        4
    """
    by_name = f if isinstance(f, Mapping) else {"": f}
    panels = {name: np.asarray(values) for name, values in by_name.items()}
    shapes = {name: values.shape for name, values in panels.items()}
    if not panels or any(len(shape) != 2 for shape in shapes.values()):
        raise ValueError(
            "`f` must be an array [iterations, chains] or a dict of them. "
            f"Received: shapes {shapes}. Concatenate warmup_f and f along axis 0."
        )
    columns = min(len(panels), 5)
    rows = -(-len(panels) // columns)
    width = 6.0 if len(panels) == 1 else 2.6 * columns
    figure = Figure(figsize=(width, 2.2 * rows + 0.6), layout="constrained")
    for index, (name, values) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.plot(np.arange(1, len(values) + 1), values, linewidth=0.6, alpha=0.8)
        if num_burnin_steps:
            axes.axvspan(0.5, num_burnin_steps + 0.5, color="0.92", zorder=0)
        axes.set_title(str(name), fontsize=8)
        axes.tick_params(labelsize=7)
    figure.supxlabel("iteration" + (" (warm-up shaded)" if num_burnin_steps else ""))
    figure.supylabel(label)
    if title:
        figure.suptitle(_wrapped(title, width), fontsize=_TITLE_POINTS)
    return figure


def _wrapped(title, inches):
    """Return a title wrapped to the width of a figure; "" for None."""
    letters = int(inches / (_LETTER_WIDTH * _TITLE_POINTS / 72))
    lines = [] if title is None else str(title).split("\n")
    return "\n".join(textwrap.fill(line, letters) for line in lines)


def _checked_images(images: ArrayLike) -> np.ndarray:
    images = np.asarray(images)
    images = images[..., None] if images.ndim == 3 else images
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not images.size:
        raise ValueError(
            "`images` must have shape [n, height, width, channels], channels 1 or 3. "
            f"Received: shape {images.shape}. Select a batch, such as images[-1]."
        )
    if not np.all(np.isfinite(images)):
        raise ValueError(
            "`images` must be finite. Received: "
            f"{np.sum(~np.isfinite(images))} pixels that are not. Leave those out."
        )
    return images.astype(np.float64)


def _scale(images, low, high):
    """Return the one scale, of width 1 around the value of constant images."""
    if low is None and high is None and np.ptp(images) == 0:
        return images.min() - 0.5, images.min() + 0.5
    low = images.min() if low is None else low
    high = images.max() if high is None else high
    if not low < high:
        raise ValueError(
            f"`low` must be below `high`. Received: low={low}, high={high}. "
            "Leave one out, or widen the scale."
        )
    return low, high
