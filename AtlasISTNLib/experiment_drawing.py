"""What the figures of an experiment draw: a page, outlines, boxes and curves, in the look of a journal.

No global state of matplotlib is touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cbook import boxplot_stats
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from .bundle import Label
from .metrics import Spread
from .panels import visible
from .topology import foreground_box
from .views import View, outline
from .volume import Volume

INK, FAINT, RULE = "#1a1a1a", "#6b6b6b", "#d9d9d9"
#: Distinct in print and for the colour-blind (Okabe and Ito).
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#404040")
TINY, SMALL, TEXT = 6.5, 7.5, 8.5  # points
#: Widths in points of the outlines of results and of the truth under them.
LINE, TRUE_LINE = 1.0, 0.6
_DPI = 200


class Page:
    """A white page on which axes are placed in inches from the upper left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
        self.canvas = FigureCanvasAgg(self.figure)

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes with their upper left corner at x, y."""
        return self.figure.add_axes(
            (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        )

    def text(self, x: float, y: float, text: str, size: float = SMALL, **more: Any) -> None:
        """Text centred at x, y."""
        look = {"color": INK, "ha": "center", "va": "center", **more}
        self.figure.text(x / self.width, 1 - y / self.height, text, fontsize=size, parse_math=False, **look)


def ink_of(label: Label) -> str:
    """A structure's colour as it is drawn on images."""
    red, green, blue = visible(label.color)
    return to_hex((red, green, blue))


def draw_outlines(
    axes: Axes, structures: Sequence[Label], view: View, labels: Volume, width: float, color: str | None = None
) -> None:
    """The outline of every structure, in one colour or in its own."""
    at = (np.arange(view.grid.shape[-1]) + 0.5) * view.pixel
    for label in structures:
        field = outline(labels, view, label.value)
        rows, columns = foreground_box(field > 0)
        field = field[rows, columns]
        if field.size and min(field.shape) > 1 and field.min() < 0.5 < field.max():
            ink = color or ink_of(label)
            lines = axes.contour(at[columns], at[rows], field, [0.5], colors=[ink], linewidths=width)
            if color is None:
                lines.set_path_effects([withStroke(linewidth=width + 0.7, foreground="#00000080")])


def draw_boxes(axes: Axes, values: Sequence[Sequence[float]]) -> None:
    """Quartiles and median from top to bottom; whiskers to the last value within 1.5 boxes; others as dots."""
    for i, own in enumerate(values):
        if not own:
            continue
        y, color = i + 1, COLORS[i % len(COLORS)]
        (box,) = boxplot_stats(list(own))
        axes.hlines(y, box["whislo"], box["q1"], color=FAINT, linewidth=0.7)
        axes.hlines(y, box["q3"], box["whishi"], color=FAINT, linewidth=0.7)
        axes.vlines([box["whislo"], box["whishi"]], y - 0.16, y + 0.16, color=FAINT, linewidth=0.7)
        width = box["q3"] - box["q1"]
        axes.barh(y, width, 0.62, left=box["q1"], facecolor=color + "55", edgecolor=color, linewidth=0.8)
        axes.vlines(box["med"], y - 0.31, y + 0.31, color=INK, linewidth=1.2)
        axes.plot(box["fliers"], [y] * len(box["fliers"]), "o", markersize=1.6, color=FAINT, markeredgewidth=0)
    axes.set_ylim(len(values) + 0.6, 0.4)
    axes.grid(axis="x", color=RULE, linewidth=0.5)
    axes.set_axisbelow(True)
    _plain(axes)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(4))


def draw_curve(axes: Axes, strengths: Sequence[float], spreads: Sequence[Spread], color: str, title: str) -> None:
    """Mean over cases with its 95 % confidence interval (normal)."""
    mean = np.array([s.mean for s in spreads])
    half = np.array([1.96 * s.deviation / np.sqrt(s.n) if s.n > 1 else 0.0 for s in spreads])
    axes.fill_between(strengths, mean - half, mean + half, color=color, alpha=0.15, linewidth=0)
    axes.plot(strengths, mean, "-o", color=color, linewidth=1.3, markersize=3, label=title)


def strength_text(value: float) -> str:
    """λ* in three digits, or as a whole number."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def strength_axis(axes: Axes, strengths: Sequence[float]) -> None:
    """A logarithmic axis whose ticks are the λ* that were measured."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(list(strengths)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: strength_text(value)))
    axes.grid(color=RULE, linewidth=0.5)
    _plain(axes)
    axes.tick_params(axis="x", rotation=45)


def _plain(axes: Axes) -> None:
    for side, spine in axes.spines.items():
        spine.set_visible(side in {"left", "bottom"})
        spine.set(color=FAINT, linewidth=0.6)
    axes.tick_params(labelsize=TINY, length=2.5, width=0.6, colors=INK, pad=2)


__all__ = [
    "COLORS",
    "FAINT",
    "INK",
    "LINE",
    "SMALL",
    "TEXT",
    "TINY",
    "TRUE_LINE",
    "Page",
    "draw_boxes",
    "draw_curve",
    "draw_outlines",
    "ink_of",
    "strength_axis",
    "strength_text",
]
