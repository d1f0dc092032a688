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
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from .configs import NormalisationConfig
from .geometry import VOXEL, WORLD
from .result import Result
from .tables import Table, figure_tables
from .topology import foreground_box
from .views import View, bounds, outline, position, sampled, views_of
from .volume import Volume

_DPI = 200
_BACK, _PANEL, _INK, _FAINT, _RULE, _WARN, _GRID = (
    "#111418",
    "#000000",
    "#eceff3",
    "#98a1ac",
    "#343b44",
    "#ffb74d",
    "#66d9ef",
)
_SMALL, _TEXT, _TITLE = 7.5, 8.5, 14.0  # points
# Inches.
_MARGIN, _GAP, _ROW_TITLE, _ROW = 0.22, 0.06, 0.28, 0.185
_WIDTHS = {3: 8.0, 4: 10.0}  # of the page, by panels in a row
_LOSS_WIDTH = 2.75
#: Pixels of a slice; a panel is about as wide on the page.
_PIXELS = 480
#: Room around the structures, and the least width that is shown, mm.
_AROUND, _LEAST_MM = 1.2, 20.0
#: Lines of the atlas's grid across a panel, about.
_LINES = 16
#: Structures that are named above the table.
_LEGEND_MOST = 12
_HALO = [withStroke(linewidth=2.2, foreground="#000000aa")]


class _Page:
    """A figure on which things are placed in inches from the upper left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), dpi=_DPI, facecolor=_BACK)
        self.canvas = FigureCanvasAgg(self.figure)

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        box = (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box, facecolor=_PANEL)

    def text(self, x: float, y: float, text: str, size: float = _TEXT, color: str = _INK, **more: Any) -> None:
        """Text whose base line (by default) is at y."""
        # Names of cases and structures are not formulas, whatever dollars they hold.
        at = x / self.width, 1 - y / self.height
        self.figure.text(*at, text, fontsize=size, color=color, parse_math=False, **more)

    def rule(self, x: float, y: float, width: float, color: str = _RULE) -> None:
        ends = [x / self.width, (x + width) / self.width]
        self.figure.add_artist(Line2D(ends, [1 - y / self.height] * 2, color=color, linewidth=0.8))

    def swatch(self, x: float, y: float, color: Any) -> None:
        """A square of 0.1 inch whose lower edge is at y."""
        size = 0.1
        at = x / self.width, 1 - y / self.height
        self.figure.add_artist(Rectangle(at, size / self.width, size / self.height, facecolor=color, linewidth=0))


@dataclass(frozen=True)
class _Column:
    title: str
    note: str
    labels: Volume | None  # None for the deformation


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
    columns = _columns(result, figures)
    views = _views(result, columns, reference)
    tables = figure_tables(figures)
    width = _WIDTHS[len(columns)]
    left = _MARGIN + (_ROW_TITLE if len(views) > 1 or views[0].title else 0)
    panel = (width - left - _MARGIN - _GAP * (len(columns) - 1)) / len(columns)
    warnings = _wrapped(figures["placement"]["warnings"], int(width * 17))
    legend = _legend_lines(result, reference, width)
    top = 0.98 + 0.17 * len(warnings) + (0.22 * len(legend) + 0.1 if legend else 0)
    below = top + 0.36 + len(views) * (panel + _GAP) + 0.2
    bottom = max(2.1 if result.trace else 0.0, sum(table.lines for table in tables) * _ROW + 0.32 * len(tables))
    page = _Page(width, below + bottom + 0.52)
    _header(page, figures, warnings)
    _legend(page, legend, 1.1 + 0.17 * len(warnings))
    shades = _shades(result.image, views, normalisation)
    for c, column in enumerate(columns):
        x = left + c * (panel + _GAP)
        page.text(x, top + 0.14, column.title, weight="bold")
        page.text(x, top + 0.29, column.note, _SMALL, _FAINT)
        for r, view in enumerate(views):
            y = top + 0.36 + r * (panel + _GAP)
            axes = _image_panel(page.axes(x, y, panel, panel), view, shades[r])
            if column.labels is None:
                _draw_grid(axes, result, view)
                _draw_outlines(axes, result, view, result.labels, None)
            else:
                _draw_outlines(axes, result, view, column.labels, reference)
            if c == 0:
                _draw_scale(axes, view)
                name = " · ".join(part for part in (view.title, view.position) if part)
                at = _MARGIN + 0.14, y + panel / 2
                page.text(*at, name, color=_FAINT, rotation=90, ha="center", va="center")
    x = _MARGIN
    if result.trace:
        _loss_panel(page, figures["refinement"], below, bottom)
        x += _LOSS_WIDTH + 0.3
    y = below
    for table in tables:
        _draw_table(page, table, x, y, width - _MARGIN - x)
        y += table.lines * _ROW + 0.32
    _footer(page, figures)
    return page.canvas


def _columns(result: Result, figures: Mapping[str, Any]) -> list[_Column]:
    scores, refinement = figures["scores"], figures["refinement"]

    def note(stage: str, otherwise: str) -> str:
        mean = scores[stage]["mean"]["dice"] if scores else None
        word = "Dice" if len(result.structures) == 2 else "mean Dice"
        return otherwise if mean is None else f"{word} {mean:.3f}"

    columns = [
        _Column("ITN prediction", note("prediction", "the network's labels"), result.prediction),
        _Column("Atlas, one pass", note("one_pass", "registered to them at once"), result.one_pass_labels),
    ]
    if refinement:
        text = f"after {refinement['best']} iterations"
        columns.append(_Column("Atlas, refined", note("final", text), result.labels))
    folds = figures["folding"]
    folded = "no folding" if folds["volume_voxels"] == 0 else f"{folds['percent']:.2g} % folded"
    text = f"{folded}, smallest Jacobian {folds['smallest_jacobian']:.2f}"
    return [*columns, _Column("Atlas grid on the image", text, None)]


def _views(result: Result, columns: Sequence[_Column], reference: Volume | None) -> tuple[View, ...]:
    """Views through the middle of the final structures that show all structures of every stage."""
    background = result.values[0]
    final = bounds(result.labels, background)
    volumes = [column.labels for column in columns if column.labels] + ([reference] if reference else [])
    found = [box for box in (bounds(volume, background) for volume in volumes) if box]
    if not found:
        box = result.placement.grid.corners()
        found = [(box.min(axis=0), box.max(axis=0))]
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


def _shades(image: Volume, views: Sequence[View], normalisation: NormalisationConfig) -> list[NDArray[np.floating]]:
    """Each view of the image as grey values from 0 to 1, in one window for all."""
    slices = [sampled(image, view, "linear", np.nan) for view in views]
    if normalisation.kind == "window":
        low, high = normalisation.center - normalisation.width / 2, normalisation.center + normalisation.width / 2
    else:
        seen = np.concatenate([s[np.isfinite(s)] for s in slices])
        low, high = np.percentile(seen, [0.5, 99.5]) if seen.size else (0.0, 1.0)
    scale = (high - low) or 1.0
    return [np.nan_to_num(np.clip((s - low) / scale, 0, 1), nan=0.0) for s in slices]


def _image_panel(axes: Axes, view: View, shade: NDArray[np.floating]) -> Axes:
    axes.imshow(shade, cmap="gray", vmin=0, vmax=1, extent=(0, view.side, view.side, 0), interpolation="bilinear")
    axes.set_xlim(0, view.side)
    axes.set_ylim(view.side, 0)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(_RULE)
    places = ((0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center"))
    places += ((0.5, 0.98, "center", "top"), (0.5, 0.02, "center", "bottom"))
    for letter, (x, y, ha, va) in zip(view.sides, places, strict=False):
        axes.text(
            x, y, letter, transform=axes.transAxes, ha=ha, va=va, fontsize=7, color=_INK, alpha=0.85, path_effects=_HALO
        )
    return axes


def _centres(view: View) -> NDArray[np.floating]:
    """Where the pixels of a view are in its panel, mm."""
    return (np.arange(view.grid.shape[-1]) + 0.5) * view.pixel


def _draw_outlines(axes: Axes, result: Result, view: View, labels: Volume, reference: Volume | None) -> None:
    at, background = _centres(view), result.values[0]
    for label in result.structures[1:]:
        pairs: list[tuple[Volume, Any, float]] = [] if reference is None else [(reference, _INK, 0.7)]
        pairs.append((labels, visible(label.color), 1.5))
        for volume, color, width in pairs:
            field = outline(volume, view, label.value, background)
            rows, columns = foreground_box(field > 0)
            field = field[rows, columns]
            if field.size and field.min() < 0.5 < field.max():
                lines = axes.contour(at[columns], at[rows], field, [0.5], colors=[color], linewidths=width)
                if volume is labels:
                    lines.set_path_effects([withStroke(linewidth=width + 1, foreground="#00000090")])


def _draw_grid(axes: Axes, result: Result, view: View) -> None:
    """The planes of the atlas's grid where the view cuts them: contours of the atlas coordinates of its pixels."""
    correspondence, d = result.correspondence, view.grid.ndim
    atlas = correspondence.atlas_grid
    world = view.grid.points(WORLD).reshape(*view.grid.shape[-2:], d)[::2, ::2]
    voxel = atlas.transform_points(correspondence.atlas_from_image(world), VOXEL, WORLD)
    last = np.array(atlas.size) - 1
    used = [axis for axis in range(d) if last[axis] > 0]
    if len(used) == 3:
        normal = np.array(view.grid.direction)[:, 2]
        used.remove(int(np.abs(np.array(result.placement.grid.direction).T @ normal).argmax()))
    outside = ((voxel < 0) | (voxel > last))[..., [axis for axis in range(d) if last[axis] > 0]].any(axis=-1)
    at = _centres(view)[::2]
    for axis in used:
        step = max(1, round(view.side / _LINES / atlas.spacing[axis]))
        levels = np.arange(last[axis] / 2 % step, last[axis] + 0.5, step)
        field = np.ma.masked_where(outside, voxel[..., axis])
        if not outside.all():
            axes.contour(at, at, field, levels, colors=[_GRID], linewidths=0.6, linestyles=["solid"], alpha=0.75)


def _draw_scale(axes: Axes, view: View) -> None:
    """A scale bar in the lower left corner."""
    wanted = view.side / 4
    power = 10 ** np.floor(np.log10(wanted))
    length = max(n * power for n in (1, 2, 5) if n * power <= wanted)
    x, y = view.side * 0.04, view.side * 0.96
    axes.plot([x, x + length], [y, y], color=_INK, linewidth=2, solid_capstyle="butt", path_effects=_HALO)
    axes.text(x, y - view.side * 0.02, f"{length:g} mm", fontsize=7, color=_INK, path_effects=_HALO)


def _header(page: _Page, figures: Mapping[str, Any], warnings: Sequence[str]) -> None:
    model, image = figures["model"], figures["image"]
    page.text(_MARGIN, 0.42, _short(image["name"] or "unnamed image", int(page.width * 6)), _TITLE, weight="bold")
    name = f"{model['title'] or model['name']}, version {model['version']}"
    page.text(page.width - _MARGIN, 0.42, name, _TITLE, _FAINT, ha="right")
    size = " × ".join(str(n) for n in image["size"])
    spacing = " × ".join(f"{s:.3g}" for s in image["spacing"])
    parts = [f"{size} voxels of {spacing} mm", _placed(figures["placement"])]
    page.text(_MARGIN, 0.66, "   |   ".join(parts), _TEXT, _FAINT)
    page.text(_MARGIN, 0.85, _refined(figures), _TEXT, _FAINT)
    for i, line in enumerate(warnings):
        page.text(_MARGIN, 1.04 + 0.17 * i, line, _TEXT, _WARN)


def _placed(placement: Mapping[str, Any]) -> str:
    center = placement["center"]
    at = ", ".join(position(i, mm) if len(center) == 3 else f"{mm:.0f} mm" for i, mm in enumerate(center))
    how = {"auto": "by the anatomy found", "center": "at the image's centre", "given": "as given"}[placement["how"]]
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
    page.text(_MARGIN, y, "Not for clinical use", _TEXT, _WARN, weight="bold")
    software, date = figures["software"], figures["date"].replace("T", " ").replace("+00:00", " UTC")
    page.text(
        page.width - _MARGIN, y, f"{software['name']} {software['version']}   |   {date}", _TEXT, _FAINT, ha="right"
    )


def _legend_lines(result: Result, reference: Volume | None, width: float) -> list[list[tuple[str, Any]]]:
    """Names with their colours, line by line, in columns of one width."""
    entries: list[tuple[str, Any]] = [(_short(s.name, 34), visible(s.color)) for s in result.structures[1:]]
    if len(entries) > _LEGEND_MOST:
        return []  # the table shows the colours as well
    entries += [("reference", None)] if reference else []
    across = max(1, int((width - 2 * _MARGIN) / (0.35 + 0.072 * max(len(name) for name, _ in entries))))
    return [entries[i : i + across] for i in range(0, len(entries), across)]


def _legend(page: _Page, lines: list[list[tuple[str, Any]]], y: float) -> None:
    if not lines:
        return
    step = 0.35 + 0.072 * max(len(name) for line in lines for name, _ in line)
    for r, line in enumerate(lines):
        for c, (name, color) in enumerate(line):
            x, base = _MARGIN + c * step, y + 0.22 * r
            if color is None:
                page.rule(x, base - 0.045, 0.1, _INK)
            else:
                page.swatch(x, base, color)
            page.text(x + 0.16, base, name, _TEXT)


def _loss_panel(page: _Page, refinement: Mapping[str, Any], y: float, height: float) -> None:
    page.text(_MARGIN, y + 0.1, "Refinement loss", _TEXT, weight="bold")
    left, config = 0.5, refinement["config"]
    axes = page.axes(_MARGIN + left, y + 0.22, _LOSS_WIDTH - left, min(height, 3.2) - 0.62)
    axes.set_facecolor(_BACK)
    steps = [entry["step"] for entry in refinement["trace"]]
    curves = [("total", _INK, 1.0), ("a2s", "#4fc3f7", config["beta"])]
    curves += [("s2a", "#aed581", config["gamma"])] if config["gamma"] else []
    curves += [("reg", "#f48fb1", config["strength"])]
    names = {"total": "total", "a2s": "atlas to image", "s2a": "image to atlas", "reg": "λ* · regularity"}
    for key, color, weight in curves:
        values = [weight * entry[key] for entry in refinement["trace"]]
        axes.plot(steps, values, color=color, linewidth=1.4, label=names[key])
    best = refinement["losses"]["best"]["total"]
    axes.plot([refinement["best"]], [best], "o", color=_INK, markersize=4, label="best", linestyle="none")
    axes.set_ylim(0, 1.28 * max(entry["total"] for entry in refinement["trace"]) or 1.0)
    axes.margins(x=0.02)
    axes.tick_params(colors=_FAINT, labelsize=7, length=2.5)
    axes.grid(color=_RULE, linewidth=0.5)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("iteration", fontsize=_SMALL, color=_FAINT)
    for side, spine in axes.spines.items():
        spine.set_visible(side in {"left", "bottom"})
        spine.set_color(_RULE)
    axes.legend(
        fontsize=7,
        labelcolor=_INK,
        frameon=False,
        ncols=2,
        loc="upper right",
        handlelength=1.2,
        columnspacing=1,
        borderpad=0,
    )


def _draw_table(page: _Page, table: Table, x: float, y: float, width: float) -> None:
    """A table whose first line of text is at y + one row."""
    name_width = min(2.1, max(1.0, 0.3 + 0.066 * max(len(row.name) for row in table.rows)))
    count = sum(len(group.heads) for group in table.groups)
    between = 0.12  # before each group of columns
    cell = min(0.6, (width - name_width - between * len(table.groups)) / count)
    ends: list[float] = []  # right edges of the columns
    page.text(x, y + 0.1, table.title, _TEXT, weight="bold")
    first, at = y + 0.1, x + name_width
    for group in table.groups:
        span = len(group.heads) * cell
        page.text(at + between + (span + 0.1) / 2, first, group.title, _SMALL, _INK, ha="center")
        page.rule(at + between + 0.1, first + 0.05, span - 0.1)
        ends += [at + between + (i + 1) * cell for i in range(len(group.heads))]
        at += between + span
    for end, head in zip(ends, (head for group in table.groups for head in group.heads), strict=True):
        page.text(end, first + _ROW, head, _SMALL, _FAINT, ha="right")
    page.rule(x, first + _ROW + 0.06, at - x)
    for r, row in enumerate(table.rows):
        base = first + (r + 2) * _ROW + 0.02
        if row.color is not None:
            page.swatch(x, base, visible(row.color))
        page.text(x + 0.16, base, row.name, _SMALL)
        for end, mark in zip(ends, row.cells, strict=False):
            color = {"odd": _WARN, "best": "#ffffff"}.get(mark.style, "#c5ccd4")
            weight = "bold" if mark.style == "best" else "normal"
            page.text(end, base, mark.text, _SMALL, color, ha="right", weight=weight)


def visible(color: Sequence[int]) -> tuple[float, ...]:
    """A structure's colour (RGB, 0–255) as 0–1, brightened where it would not be seen on black."""
    rgb = np.asarray(color, dtype=np.float64) / 255
    light = float(rgb @ [0.2126, 0.7152, 0.0722])
    least = 0.3
    if light < least:
        rgb = rgb + (1 - rgb) * (least - light) / (1 - light)
    return tuple(rgb.tolist())


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _wrapped(lines: Sequence[str], most: int) -> list[str]:
    return [part for line in lines for part in textwrap.wrap(line, most)]


__all__ = ["draw", "visible"]
