"""Figures of a training report, each as the bytes of a PNG: curves, the atlas, scores by structure, and single cases.

Curves come for light and for dark pages. Slices are always on black, as images are looked at. No global state of
matplotlib is touched. Colours are those of Okabe and Ito, which colour-blind readers tell apart; lines differ in their
dashes, too.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from .atlas_pictures import atlas_views, grey, grey_range, mixed
from .bundle import Label
from .case_scores import ITN, ONE_PASS, REFINED, STAGE_TITLES, CaseScores, CohortScores
from .configs import NormalisationConfig, TrainConfig
from .panels import BACK, INK, PALE, draw_outlines, draw_scale, shades, show, visible
from .result import Result
from .views import View, bounds, views_of
from .volume import Volume


@dataclass(frozen=True)
class Theme:
    """Colours of a page: of the page itself, of what is written, of rules, and of six kinds of data."""

    back: str
    ink: str
    faint: str
    rule: str
    blue: str
    orange: str
    green: str
    purple: str


LIGHT = Theme("#ffffff", "#1b1f24", "#5b6570", "#dde2e7", "#0072b2", "#d55e00", "#009e73", "#aa4499")
DARK = Theme("#15181c", "#e6eaef", "#9aa5b1", "#343c45", "#56b4e9", "#f0a13c", "#2fc79a", "#dd9cc4")
THEMES = (LIGHT, DARK)

_DPI = 160
_WIDTH = 4.6  # inches of a figure that fills half a page
_TEXT, _SMALL = 8.5, 7.5  # points
#: Epochs that are marked one by one, at most.
_MARKED = 12
#: Decades below the largest loss in which terms are shown.
_DECADES = 4
#: Pixels of a slice.
_PIXELS = 320
#: Width of what is shown of a case over that of its structures, and the least one in mm.
_AROUND, _LEAST_MM = 1.2, 20.0
_SOLID, _DASHED, _DOTTED, _DASHDOT = "-", (0, (5, 1.8)), (0, (1.2, 1.4)), (0, (5, 1.5, 1.2, 1.5))


def losses(
    history: Sequence[Mapping[str, float]], config: TrainConfig, strength: float, theme: Theme, tall: bool = True
) -> bytes:
    """The loss and its terms by epoch, each with its weight, so that they add up to it.

    Args:
        history: figures of each epoch.
        config: of the training.
        strength: λ as it was on the training's grid.
        theme: of the page.
        tall: as high as the Dice and the schedules below one another.
    """
    figure, (axes,) = _curves(theme, 1, 4.2 if tall else 2.75)
    terms = (
        ("segmentation", "segmentation", theme.blue, _DASHED, config.segmentation_weight),
        ("a2s", "ω · atlas to image", theme.orange, _SOLID, 1.0),
        ("s2a", "ω · image to atlas", theme.green, _DASHDOT, 1.0),
        ("reg", "ωλ · regularity", theme.purple, _DOTTED, strength),
    )
    total = [entry.get("loss", np.nan) for entry in history]
    high = max((value for value in total if np.isfinite(value)), default=1.0)
    _line(axes, total, "total", theme.ink, _SOLID, 1.8)
    typical = [_median(total)]
    for key, name, color, dashes, weight in terms:
        omegas = [1.0 if key == "segmentation" else entry.get("omega", 1.0) for entry in history]
        values = [weight * o * entry.get(key, np.nan) for o, entry in zip(omegas, history, strict=True)]
        if max(_median(values), values[-1] if values else 0.0) > high / 10**_DECADES:
            _line(axes, values, name, color, dashes)
            typical.append(_median(values))
    if high > 0:
        # Terms that ω lets grow from nothing are not followed all the way down.
        low = max(min(value for value in typical if value > 0) / 4, high / 10**_DECADES)
        axes.set_yscale("log")
        axes.set_ylim(low, high * 1.3)
        _log_ticks(axes, high / low)
    axes.set_ylabel("loss", fontsize=_TEXT, color=theme.faint)
    _epoch_axis(axes, theme)
    _legend(axes, theme, 2 if tall else 3)
    return _png(figure)


def dice_curves(history: Sequence[Mapping[str, float]], best: int, theme: Theme) -> bytes:
    """Mean Dice of the held-out cases by epoch; the epoch whose model was kept is marked."""
    figure, (axes,) = _curves(theme, 1, 2.55)
    lines = (("dice_itn", "ITN", theme.blue, _DASHED), ("dice_one_pass", "atlas, one pass", theme.orange, _SOLID))
    seen = []
    for key, name, color, dashes in lines:
        values = [entry.get(key, np.nan) for entry in history]
        known = [value for value in values if np.isfinite(value)]
        if known:
            seen += known
            _line(axes, values, name, color, dashes)
            if 0 < best <= len(values):
                axes.plot([best], [values[best - 1]], "o", color=color, markersize=5, mec=theme.back, mew=1, zorder=4)
    low = float(np.percentile(seen, 2)) if seen else 0.0
    high = max(seen, default=1.0)
    room = max(high - low, 0.02) * 0.08
    axes.set_ylim(max(low - room, 0), min(high + room, 1.0) if high < 1 - room else 1.005)
    axes.axvline(best, color=theme.faint, linewidth=0.9, linestyle=_DOTTED, zorder=1)
    side = "right" if best > len(history) / 2 else "left"
    text = f" kept: epoch {best} "
    axes.text(best, 0.03, text, transform=axes.get_xaxis_transform(), ha=side, fontsize=_SMALL, color=theme.faint)
    axes.set_ylabel("mean Dice", fontsize=_TEXT, color=theme.faint)
    _epoch_axis(axes, theme)
    _legend(axes, theme, 2)
    return _png(figure)


def schedules(history: Sequence[Mapping[str, float]], theme: Theme) -> bytes:
    """ω and the learning rate by epoch."""
    figure, axes = _curves(theme, 2, 1.55)
    for place, key, name in zip(axes, ("omega", "learning_rate"), ("ω", "learning rate"), strict=True):
        values = [entry.get(key, np.nan) for entry in history]
        _line(place, values, "", theme.ink, _SOLID)
        top = max((value for value in values if np.isfinite(value)), default=1.0)
        place.set_ylim(0, 1.08 * (top or 1.0))
        place.yaxis.set_major_locator(MaxNLocator(3))
        place.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        place.set_title(name, fontsize=_TEXT, color=theme.ink, loc="left")
        _epoch_axis(place, theme)
    return _png(figure)


def dice_points(scores: CohortScores, labels: Sequence[Label], theme: Theme) -> bytes:
    """Dice of every case by structure and stage, with their medians."""
    stages = [(stage, *_LOOKS[stage]) for stage in scores.stages]
    height = 0.75 + 0.13 * (len(stages) + 1) * (len(labels) - 1)
    figure = _figure(theme, (1.6 * _WIDTH, height))
    axes = figure.add_subplot()
    drawn = np.random.default_rng(0)
    step = 1 / (len(stages) + 1)
    for row, label in enumerate(labels[1:]):
        for s, (stage, color, marker) in enumerate(stages):
            values = np.array([case.value(stage, label.value, "dice") for case in scores.cases])
            values = values[np.isfinite(values)]
            y = row + (s - (len(stages) - 1) / 2) * step
            jitter = drawn.uniform(-0.22, 0.22, len(values)) * step
            paint = getattr(theme, color)
            name = STAGE_TITLES[stage] if row == 0 else None
            axes.plot(values, y + jitter, marker, color=paint, markersize=4.4, alpha=0.75, mew=0, label=name)
            if len(values) > 1:
                middle = float(np.median(values))
                axes.plot([middle, middle], [y - 0.4 * step, y + 0.4 * step], color=theme.ink, linewidth=1.8, zorder=4)
        if row:
            axes.axhline(row - 0.5, color=theme.rule, linewidth=0.7)
    axes.set_ylim(len(labels) - 1.5, -0.5)
    axes.set_xlim(right=1.0)
    axes.set_yticks(range(len(labels) - 1), [_short(label.name, 28) for label in labels[1:]], parse_math=False)
    axes.set_xlabel("Dice", fontsize=_TEXT, color=theme.faint)
    _frame(axes, theme, "x")
    axes.tick_params(axis="y", labelsize=_TEXT, labelcolor=theme.ink, length=0)
    _legend(axes, theme, 3)
    return _png(figure)


_LOOKS = {ITN: ("blue", "s"), ONE_PASS: ("orange", "^"), REFINED: ("green", "o")}


def atlas_images(before: Volume, after: Volume, soft: Volume) -> bytes:
    """The atlas image at the start and at the end, in the same views and the same grey window.

    Args:
        before, after: one channel each.
        soft: the label map at the end, which chooses the planes.
    """
    views, between = atlas_views(soft, _PIXELS), grey_range(before, after)
    rows = [[grey(volume, view, between) for view in views] for volume in (before, after)]
    return _atlas(views, rows, ())


def atlas_labels(before: Volume, after: Volume, labels: Sequence[Label]) -> bytes:
    """The soft label map at the start and at the end: where labels overlap, their colours mix."""
    colors = [visible(label.color) for label in labels[1:]]
    views = atlas_views(after, _PIXELS)
    rows = [[mixed(volume, view, colors) for view in views] for volume in (before, after)]
    return _atlas(views, rows, labels[1:])


def case_slices(result: Result, truth: Volume, scores: CaseScores, normalisation: NormalisationConfig) -> bytes:
    """Slices of a case through the middle of its truth, with outlines of the truth and of the stages.

    Args:
        result: of the case.
        truth: on the image's grid.
        scores: of the case; their stages are shown, the first and the last.
        normalisation: the model's, for the window in which its images are looked at.
    """
    volumes = {ITN: result.prediction, ONE_PASS: result.one_pass_labels, REFINED: result.labels}
    stages = list(dict.fromkeys((next(iter(scores.stages)), list(scores.stages)[-1])))
    views = _case_views(result, truth, [volumes[stage] for stage in stages])
    columns = [("truth", truth), *((STAGE_TITLES[stage], volumes[stage]) for stage in stages)]
    notes = ["", *(f"mean Dice {scores.mean(stage, 'dice'):.3f}" for stage in stages)]
    figure, cells = _panels((len(views), len(columns)), 5.4, 0.06 if len(views) == 1 else 0.24, 0.34, 0.0)
    shown = shades(result.image, views, normalisation)
    for r, view in enumerate(views):
        for c, (title, volume) in enumerate(columns):
            axes = cells[r][c]
            show(axes, view, shown[r])
            draw_outlines(axes, view, result.structures[1:], volume, None if c == 0 else truth)
            if r == 0:
                axes.set_title(f"{title}\n{notes[c]}", fontsize=_TEXT, color=INK, pad=3, linespacing=1.25)
        draw_scale(cells[r][0], view)
        _side_title(cells[r][0], " · ".join(part for part in (view.title, view.position) if part))
    return _png(figure)


def _case_views(result: Result, truth: Volume, shown: Sequence[Volume]) -> tuple[View, ...]:
    background = result.values[0]
    found = [box for box in (bounds(volume, background) for volume in (truth, *shown)) if box]
    corners = result.image.grid.corners()
    first, last = corners.min(axis=0), corners.max(axis=0)
    if not found:
        return views_of(result.image.grid, (first + last) / 2, first, last, _PIXELS)
    low, high = np.min([box[0] for box in found], axis=0), np.max([box[1] for box in found], axis=0)
    side = max(min(float((high - low).max()) * _AROUND, float((last - first).max())), _LEAST_MM)
    middle = (low + high) / 2
    center = (found[0][0] + found[0][1]) / 2
    return views_of(result.image.grid, center, middle - side / 2, middle + side / 2, _PIXELS)


def _atlas(views: Sequence[View], rows: Sequence[Sequence[Any]], labels: Sequence[Label]) -> bytes:
    """Two rows of views in 3D; in 2D the two pictures beside one another."""
    flat = len(views) == 1
    names = ("at the start", "at the end")
    lines = -(-len(labels) // 2)
    count = (1, 2) if flat else (2, len(views))
    figure, cells = _panels(count, _WIDTH, 0.06 if flat else 0.24, 0.2, 0.19 * lines + 0.1 * bool(lines))
    for n, pictures in enumerate(rows):
        for v, (view, picture) in enumerate(zip(views, pictures, strict=True)):
            axes = cells[0][n] if flat else cells[n][v]
            show(axes, view, np.zeros_like(picture) if picture.ndim == 3 else picture)
            if picture.ndim == 3:
                axes.imshow(picture, extent=(0, view.side, view.side, 0), interpolation="bilinear")
            if flat or n == 0:
                axes.set_title(names[n] if flat else view.title, fontsize=_TEXT, color=INK, pad=3)
            if v == 0 and not flat:
                _side_title(axes, names[n])
            if v == 0 and n == 0:
                draw_scale(axes, view)
    if labels:
        marks = [Patch(color=_hex(label), label=_short(label.name, 30)) for label in labels]
        look: dict[str, Any] = {"frameon": False, "handlelength": 0.9, "handleheight": 0.9, "borderaxespad": 0.0}
        legend = figure.legend(
            handles=marks,
            loc="lower left",
            bbox_to_anchor=(0.05, 0.02),
            ncols=2,
            fontsize=_SMALL,
            labelcolor=PALE,
            **look,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
    return _png(figure)


def _panels(
    count: tuple[int, int], width: float, left: float, above: float, below: float
) -> tuple[Figure, list[list[Axes]]]:
    """Rows and columns of square axes on a dark figure, with room in inches left, above and below for text."""
    rows, columns = count
    gap, edge = 0.05, 0.06
    side = (width - left - edge - gap * (columns - 1)) / columns
    height = above + edge + rows * side + (rows - 1) * gap + edge + below
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor=BACK)
    FigureCanvasAgg(figure)
    cells = []
    for r in range(rows):
        bottom = below + edge + (rows - 1 - r) * (side + gap)
        places = [(left + c * (side + gap)) / width for c in range(columns)]
        cells.append([figure.add_axes((x, bottom / height, side / width, side / height)) for x in places])
    return figure, cells


def _side_title(axes: Axes, text: str) -> None:
    axes.set_ylabel(text, fontsize=_SMALL, color=PALE, labelpad=3)


def _figure(theme: Theme, size: tuple[float, float]) -> Figure:
    figure = Figure(figsize=size, dpi=_DPI, facecolor=theme.back, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _curves(theme: Theme, count: int, height: float) -> tuple[Figure, list[Axes]]:
    figure = _figure(theme, (_WIDTH, height))
    return figure, [figure.add_subplot(1, count, i + 1) for i in range(count)]


def _line(axes: Axes, values: Sequence[float], name: str, color: str, dashes: Any, width: float = 1.5) -> None:
    marker = "o" if len(values) <= _MARKED else ""
    epochs = np.arange(1, len(values) + 1)
    axes.plot(epochs, values, color=color, linestyle=dashes, linewidth=width, marker=marker, markersize=3, label=name)


def _median(values: Sequence[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.median(known)) if known else 0.0


def _epoch_axis(axes: Axes, theme: Theme) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("epoch", fontsize=_TEXT, color=theme.faint)
    axes.margins(x=0.02)
    _frame(axes, theme, "both")


def _frame(axes: Axes, theme: Theme, grid: Any) -> None:
    axes.set_facecolor(theme.back)
    axes.set_axisbelow(True)
    axes.grid(color=theme.rule, linewidth=0.6, axis=grid)
    axes.tick_params(colors=theme.faint, labelsize=_SMALL, length=2.5, which="both")
    for side, spine in axes.spines.items():
        spine.set_visible(side in {"left", "bottom"})
        spine.set_color(theme.faint)


def _log_ticks(axes: Axes, ratio: float) -> None:
    """Ticks at 1, 2 and 5 of each decade where there is room for them, as plain figures."""
    subs = (1.0, 2.0, 5.0) if ratio < 200 else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=20))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _legend(axes: Axes, theme: Theme, columns: int) -> None:
    if axes.get_legend_handles_labels()[0]:
        look: dict[str, Any] = {"frameon": False, "handlelength": 2.0, "columnspacing": 1.4, "borderaxespad": 0.2}
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, fontsize=_SMALL, labelcolor=theme.ink, **look
        )


def _hex(label: Label) -> str:
    r, g, b = visible(label.color)
    return to_hex((r, g, b))


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


__all__ = [
    "DARK",
    "LIGHT",
    "THEMES",
    "Theme",
    "atlas_images",
    "atlas_labels",
    "case_slices",
    "dice_curves",
    "dice_points",
    "losses",
    "schedules",
]
