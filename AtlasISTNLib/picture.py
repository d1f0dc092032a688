"""The picture of a result: slices with outlines at each stage, the deformation, the losses and a table of figures.

Everything is placed in inches from the page's upper left corner, so that nothing moves or overlaps whatever the number
of structures. No global state of matplotlib is touched: pictures can be drawn in any thread.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from .configs import NormalisationConfig
from .panels import (
    BACK,
    FAINT,
    INK,
    PALE,
    PANEL,
    RULE,
    WARN,
    draw_grid,
    draw_losses,
    draw_outlines,
    draw_scale,
    shades,
    show,
    visible,
)
from .result import Result
from .tables import Table, figure_tables
from .views import View, bounds, position, views_of
from .volume import Volume

_DPI = 200
_SMALL, _TEXT, _TITLE = 7.5, 8.5, 14.0  # points
_CHARACTER = 0.0085  # inches of a character's width for every point of its size, about
# Inches from here.
_WIDTHS = {3: 8.0, 4: 10.0}  # of the page, by panels in a row
_MARGIN, _GAP, _ROW_TITLE, _COLUMN_TITLE = 0.22, 0.06, 0.28, 0.36
_LINE, _ROW = 0.22, 0.185  # of the legend, of tables
_SWATCH = 0.1
_LOSS_WIDTH, _LOSS_HEIGHT, _LOSS_ROOM = 2.55, (2.1, 3.2), 0.25
_TABLE_GAP, _GROUP_GAP, _CELL = 0.3, 0.12, 0.6
#: Pixels of a slice; a panel is about as wide on the page.
_PIXELS = 480
#: Room around the structures, and the least width that is shown, mm.
_AROUND, _LEAST_MM = 1.2, 20.0
#: Structures that are named above the table.
_LEGEND_MOST = 12


class _Page:
    """A figure on which things are placed in inches from the upper left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), dpi=_DPI, facecolor=BACK)
        self.canvas = FigureCanvasAgg(self.figure)

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        box = (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box, facecolor=PANEL)

    def text(self, x: float, y: float, text: str, size: float = _TEXT, color: str = INK, **more: Any) -> None:
        """Text whose base line (by default) is at y."""
        # Names of cases and structures are not formulas, whatever dollars they hold.
        at = x / self.width, 1 - y / self.height
        self.figure.text(*at, text, fontsize=size, color=color, parse_math=False, **more)

    def rule(self, x: float, y: float, width: float, color: str = RULE) -> None:
        ends = [x / self.width, (x + width) / self.width]
        self.figure.add_artist(Line2D(ends, [1 - y / self.height] * 2, color=color, linewidth=0.8))

    def swatch(self, x: float, y: float, color: Any) -> None:
        """A square of 0.1 inch whose lower edge is at y."""
        size = _SWATCH
        at = x / self.width, 1 - y / self.height
        self.figure.add_artist(Rectangle(at, size / self.width, size / self.height, facecolor=color, linewidth=0))


@dataclass(frozen=True)
class _Column:
    title: str
    note: str
    labels: Volume
    reference: Volume | None = None
    grid: bool = False


@dataclass(frozen=True)
class _Entry:
    """A name of the legend at x inches; `color` is None for the reference, which is a line."""

    x: float
    name: str
    color: Any


def draw(
    result: Result, normalisation: NormalisationConfig, figures: Mapping[str, Any], reference: Volume | None
) -> FigureCanvasAgg:
    """Draw the picture; `print_png` of what it gives writes it.

    Args:
        result: from `segment` or `refine`.
        normalisation: the model's, for the window in which its images are looked at.
        figures: what `report.summary` gives for the result and the reference.
        reference: true labels on the image's grid, or None.
    """
    columns = _columns(result, figures, reference)
    views = _views(result, columns, reference)
    tables = figure_tables(figures)
    width = _WIDTHS[len(columns)]
    left = _MARGIN + (_ROW_TITLE if views[0].title else 0)
    panel = (width - left - _MARGIN - _GAP * (len(columns) - 1)) / len(columns)
    warnings = [part for line in figures["placement"]["warnings"] for part in textwrap.wrap(line, int(width * 14))]
    legend = _legend_lines(result, reference, width)
    top = 1.02 + 0.17 * len(warnings) + (_LINE * len(legend) + 0.06 if legend else 0)
    below = top + _COLUMN_TITLE + len(views) * (panel + _GAP) + 0.2
    bottom = sum(table.lines * _ROW for table in tables) + _TABLE_GAP * (len(tables) - 1) + 0.1
    if result.trace:
        bottom = max(bottom, _LOSS_HEIGHT[0])
    page = _Page(width, below + bottom + 0.6)
    _header(page, figures, warnings)
    _legend(page, legend, 1.1 + 0.17 * len(warnings))
    _slices(page, result, normalisation, columns, views, (left, top, panel))
    if result.trace:
        page.text(_MARGIN, below + 0.1, "Refinement loss", weight="bold")
        height = min(bottom, _LOSS_HEIGHT[1]) - 0.62
        draw_losses(page.axes(_MARGIN + 0.5, below + 0.24, _LOSS_WIDTH - 0.5, height), figures["refinement"])
    x = _MARGIN + (_LOSS_WIDTH + _LOSS_ROOM if result.trace else 0)
    y = below
    for table in tables:
        _draw_table(page, table, x, y, width - _MARGIN - x)
        y += table.lines * _ROW + _TABLE_GAP
    _footer(page, figures)
    return page.canvas


def _slices(
    page: _Page,
    result: Result,
    normalisation: NormalisationConfig,
    columns: Sequence[_Column],
    views: Sequence[View],
    place: tuple[float, float, float],
) -> None:
    """All panels with their titles; `place` is their left and upper edge and the width of one."""
    left, top, panel = place
    grey = shades(result.image, views, normalisation)
    for c, column in enumerate(columns):
        x = left + c * (panel + _GAP)
        page.text(x, top + 0.14, column.title, weight="bold")
        page.text(x, top + 0.29, column.note, _SMALL, FAINT)
        for r, view in enumerate(views):
            y = top + _COLUMN_TITLE + r * (panel + _GAP)
            axes = page.axes(x, y, panel, panel)
            show(axes, view, grey[r])
            if column.grid:
                draw_grid(axes, view, result.correspondence)
            draw_outlines(axes, view, result.structures[1:], column.labels, column.reference)
            if c == 0:
                draw_scale(axes, view)
                name = " · ".join(part for part in (view.title, view.position) if part)
                page.text(_MARGIN + 0.14, y + panel / 2, name, color=FAINT, rotation=90, ha="center", va="center")


def _columns(result: Result, figures: Mapping[str, Any], reference: Volume | None) -> list[_Column]:
    scores, refinement = figures["scores"], figures["refinement"]

    def note(stage: str, otherwise: str) -> str:
        mean = scores[stage]["mean"]["dice"] if scores else None
        word = "Dice" if len(result.structures) == 2 else "mean Dice"
        return otherwise if mean is None else f"{word} {mean:.3f}"

    shown = [
        ("ITN prediction", note("prediction", "the network's labels"), result.prediction),
        ("Atlas, one pass", note("one_pass", "registered to them at once"), result.one_pass_labels),
    ]
    if refinement:
        shown.append(("Atlas, refined", note("final", f"after {refinement['best']} iterations"), result.labels))
    folds = figures["folding"]
    folded = f"{folds['percent']:.2g} % folded" if folds["volume_voxels"] else "no folding"
    text = f"{folded}, smallest Jacobian {folds['smallest_jacobian']:.2f}"
    grid = _Column("Atlas grid on the image", text, result.labels, grid=True)
    return [*(_Column(*entry, reference) for entry in shown), grid]


def _views(result: Result, columns: Sequence[_Column], reference: Volume | None) -> tuple[View, ...]:
    """Views through the middle of the final structures that show all structures of every stage."""
    background = result.values[0]
    volumes = [*(column.labels for column in columns), *([] if reference is None else [reference])]
    boxes = {id(volume): bounds(volume, background) for volume in {id(v): v for v in volumes}.values()}
    final = boxes[id(result.labels)]
    found = [box for box in boxes.values() if box]
    if not found:
        whole = result.placement.grid.corners()
        found = [(whole.min(axis=0), whole.max(axis=0))]
    low = np.min([box[0] for box in found], axis=0)
    high = np.max([box[1] for box in found], axis=0)
    corners = result.image.grid.corners()
    first, last = corners.min(axis=0), corners.max(axis=0)
    side = max(min(float((high - low).max()) * _AROUND, float((last - first).max())), _LEAST_MM)
    center = (low + high) / 2 if final is None else (final[0] + final[1]) / 2
    # As little as can be of what is shown lies beyond the image.
    room = np.maximum(last - first - side, 0) / 2
    middle = np.clip((low + high) / 2, (first + last) / 2 - room, (first + last) / 2 + room)
    return views_of(result.image.grid, center, middle - side / 2, middle + side / 2, _PIXELS)


def _header(page: _Page, figures: Mapping[str, Any], warnings: Sequence[str]) -> None:
    model, image = figures["model"], figures["image"]
    room = int((page.width - 2 * _MARGIN) / (1.1 * _CHARACTER * _TITLE))  # characters
    case = _short(image["name"] or "unnamed image", room * 3 // 5)
    name = _short(f"{model['title'] or model['name']}, version {model['version']}", room - len(case) - 4)
    page.text(_MARGIN, 0.42, case, _TITLE, weight="bold")
    page.text(page.width - _MARGIN, 0.42, name, _TITLE, FAINT, ha="right")
    size = " × ".join(str(n) for n in image["size"])
    spacing = " × ".join(f"{s:.3g}" for s in image["spacing"])
    parts = [f"{size} voxels of {spacing} mm", _placed(figures["placement"])]
    page.text(_MARGIN, 0.66, "   |   ".join(parts), _TEXT, FAINT)
    page.text(_MARGIN, 0.85, _refined(figures), _TEXT, FAINT)
    for i, line in enumerate(warnings):
        page.text(_MARGIN, 1.04 + 0.17 * i, line, _TEXT, WARN)


def _placed(placement: Mapping[str, Any]) -> str:
    center = placement["center"]
    at = ", ".join(position(i, mm) if len(center) == 3 else f"{mm:.0f} mm" for i, mm in enumerate(center))
    ways = {"auto": "by the anatomy found", "center": "at the image's centre", "given": "as given"}
    how = {**ways, "target": "by the labels given"}[placement["how"]]
    return f"model grid placed {how}: {at}"


def _refined(figures: Mapping[str, Any]) -> str:
    refinement = figures["refinement"]
    if not refinement:
        return "not refined: one pass of the registration network"
    config = refinement["config"]
    parts = [
        f"refined ({config['mode']}), {refinement['stopped']} after {refinement['iterations']} iterations, "
        f"best at {refinement['best']}",
        f"λ* = {config['strength']:g}   β* = {config['beta']:g}   γ* = {config['gamma']:g}",
        f"{figures['seconds'].get('refine', 0.0):.1f} s on {figures['device']}",
    ]
    return "   |   ".join(parts)


def _footer(page: _Page, figures: Mapping[str, Any]) -> None:
    y = page.height - 0.2
    page.rule(_MARGIN, y - 0.2, page.width - 2 * _MARGIN)
    page.text(_MARGIN, y, "Not for clinical use", _TEXT, WARN, weight="bold")
    software, date = figures["software"], figures["date"].replace("T", " ").replace("+00:00", " UTC")
    page.text(
        page.width - _MARGIN, y, f"{software['name']} {software['version']}   |   {date}", _TEXT, FAINT, ha="right"
    )


def _legend_lines(result: Result, reference: Volume | None, width: float) -> list[list[_Entry]]:
    """Names with their colours, in as many lines as they need."""
    named: list[tuple[str, Any]] = [(_short(s.name, 34), visible(s.color)) for s in result.structures[1:]]
    if len(named) > _LEGEND_MOST:
        return []  # the table shows the colours as well
    if reference is not None:
        named.append(("reference", None))
    lines: list[list[_Entry]] = [[]]
    x = _MARGIN
    for name, color in named:
        step = 0.38 + _CHARACTER * _TEXT * len(name)
        if x + step > width and lines[-1]:
            lines.append([])
            x = _MARGIN
        lines[-1].append(_Entry(x, name, color))
        x += step
    return lines


def _legend(page: _Page, lines: Sequence[Sequence[_Entry]], y: float) -> None:
    for r, line in enumerate(lines):
        for entry in line:
            base = y + _LINE * r
            if entry.color is None:
                page.rule(entry.x, base - 0.045, _SWATCH, INK)
            else:
                page.swatch(entry.x, base, entry.color)
            page.text(entry.x + 0.16, base, entry.name)


def _draw_table(page: _Page, table: Table, x: float, y: float, width: float) -> None:
    """A table from its upper left corner."""
    longest = max(_SMALL * len(row.name) for row in table.rows), _TEXT * 1.08 * len(table.title) - 10
    at = x + 0.16 + _CHARACTER * max(longest)
    count = sum(len(group.heads) for group in table.groups)
    cell = min(_CELL, (x + width - at - _GROUP_GAP * len(table.groups)) / count)
    ends: list[float] = []  # right edges of the columns
    first = y + 0.1
    page.text(x, first, table.title, weight="bold")
    for group in table.groups:
        start, at = at + _GROUP_GAP, at + _GROUP_GAP + len(group.heads) * cell
        ends += [start + (i + 1) * cell for i in range(len(group.heads))]
        page.text((start + 0.1 + at) / 2, first, group.title, _SMALL, ha="center")
        page.rule(start + 0.1, first + 0.05, at - start - 0.1)
    for end, head in zip(ends, (head for group in table.groups for head in group.heads), strict=True):
        page.text(end, first + _ROW, head, _SMALL, FAINT, ha="right")
    page.rule(x, first + _ROW + 0.06, at - x)
    for r, row in enumerate(table.rows):
        base = first + (r + 2) * _ROW + 0.02
        if row.color is not None:
            page.swatch(x, base, visible(row.color))
        page.text(x + 0.16, base, row.name, _SMALL)
        for end, mark in zip(ends, row.cells, strict=False):
            color = {"odd": WARN, "best": "#ffffff"}.get(mark.style, PALE)
            page.text(
                end, base, mark.text, _SMALL, color, ha="right", weight="bold" if mark.style == "best" else "normal"
            )


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


__all__ = ["draw"]
