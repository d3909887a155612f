"""The figure of records: test errors over the epochs, and Kish's ESS of a batch."""

__all__ = ["figure_of"]

import numpy as np
from matplotlib.figure import Figure

SHOWN = {
    "DG": "tab:blue",
    "DG+DG": "tab:cyan",
    "GG": "tab:red",
    "GG+DG": "tab:purple",
    "ramp": "tab:green",
}


def figure_of(records, settings):
    """A line for every run, and one in the mean over seeds, of each scheme."""
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    errors, sizes = figure.subplots(1, 2, width_ratios=(3, 2))
    for scheme, colour in SHOWN.items():
        wanted = {"scheme": scheme, **settings}.items()
        courses = [r["course"] for r in records if wanted <= r.items()]
        _draw(errors, [_column(c, "error") for c in courses], colour, scheme)
        with_size = [c for c in courses if c[0]["kish_ess"] is not None]
        _draw(sizes, [_column(c, "kish_ess") for c in with_size], colour, scheme)
    errors.set_ylabel("test error, top-1, %")
    errors.legend(fontsize=8)
    sizes.set_ylabel(f"Kish's ESS of a class, of {settings['batch_size']} images")
    for axes in (errors, sizes):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
    return figure


def _column(course, name):
    return np.array([np.nan if e[name] is None else e[name] for e in course], float)


def _draw(axes, rows, colour, name):
    """The runs thin, their mean thick."""
    if not rows:
        return
    epochs = np.arange(1, len(rows[0]) + 1)
    for row in rows:
        axes.plot(epochs, row, color=colour, linewidth=0.5, alpha=0.5)
    mean = np.mean(rows, axis=0)
    axes.plot(epochs, mean, color=colour, linewidth=2.0, label=f"{name} ({len(rows)})")
