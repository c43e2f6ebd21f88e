"""Figures for pages: matplotlib without a screen, an `<svg>` or `<img>` to put into HTML, and scores with intervals."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

from vocable.errors import missing_extra

INK, ACCENT, FAINT = "#222222", "#2d6a8e", "#b8b8b8"
ROW_INCHES = 0.24


class Estimate(NamedTuple):
    """One row of a panel: a value and its interval, where it has one."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None


class Panel(NamedTuple):
    """Estimates on one axis."""

    title: str
    rows: Sequence[Estimate]
    reference: float | None = None
    """Where to draw a line: 0 for differences."""


def forest_plot(panels: Sequence[Panel]) -> str:
    """Draw each panel below the last: dots for values, bars for intervals; returns an `<svg>` element.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    plt = load_pyplot()
    heights = [len(panel.rows) + 2.5 for panel in panels]
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(7.6, ROW_INCHES * sum(heights) + 0.4), height_ratios=heights, squeeze=False
    )
    for axis, panel in zip(axes[:, 0], panels):
        _draw_panel(axis, panel)
    return figure_svg(figure)


def _draw_panel(axis: Any, panel: Panel) -> None:
    places = range(len(panel.rows))
    if panel.reference is not None:
        axis.axvline(panel.reference, color=FAINT, linewidth=1)
    for place, row in zip(places, panel.rows):
        if row.low is not None and row.high is not None:
            axis.plot([row.low, row.high], [place, place], color=ACCENT, linewidth=1.6, solid_capstyle="butt")
        axis.plot([row.value], [place], marker="o", markersize=4.5, color=ACCENT)
    axis.set_yticks(list(places), [row.label for row in panel.rows])
    axis.set_ylim(len(panel.rows) - 0.4, -0.6)
    axis.set_title(panel.title, loc="left", fontsize=9, color=INK)
    axis.tick_params(axis="y", length=0)


def load_pyplot() -> Any:
    """Import pyplot without a screen, with the style of our pages.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise missing_extra("matplotlib", "report", "Drawing the report") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update(
        {
            "axes.spines.top": False,
            "axes.spines.right": False,
            "svg.fonttype": "none",
            "font.size": 9,
            "text.parse_math": False,
        }
    )
    return pyplot


def figure_svg(figure: Any) -> str:
    """Return the figure as an `<svg>` element, and close it."""
    buffer = io.StringIO()
    _save(figure, buffer, "svg")
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def figure_png(figure: Any, description: str) -> str:
    """Return the figure as an `<img>` element with the picture inside, and close it."""
    buffer = io.BytesIO()
    _save(figure, buffer, "png")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="{html.escape(description)}" src="data:image/png;base64,{data}">'


def _save(figure: Any, target: Any, kind: str) -> None:
    figure.tight_layout()
    figure.savefig(target, format=kind, dpi=120)
    load_pyplot().close(figure)
