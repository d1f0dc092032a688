"""Figures of an experiment, as a journal prints them: outlines on cases, spreads of scores, and scores against λ*.

Everything is placed in inches from the page's upper left corner. No global state of matplotlib is touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from .datasets import Case
from .errors import ConfigError
from .experiment_drawing import (
    COLORS,
    FAINT,
    INK,
    LINE,
    SMALL,
    TEXT,
    TINY,
    TRUE_LINE,
    Page,
    draw_boxes,
    draw_curve,
    draw_outlines,
    ink_of,
    strength_axis,
    strength_text,
)
from .experiment_runs import Lists, Places
from .experiment_tables import Measured, case_means, look
from .experiments import RANKS, Experiment, FigureEntry
from .geometry import Grid
from .metrics import Spread
from .panels import shades
from .views import View, bounds, views_of
from .volume import Volume, flattened, write_atomically

_WIDTH = 7.4  # inches, of every figure
_MARGIN, _GAP, _HEAD, _SIDE, _FOOT = 0.08, 0.04, 0.24, 0.3, 0.18  # inches
_PIXELS = 400
#: Room around the structures of a 3D image, as a share of their width.
_AROUND = 1.25
_LARGEST_PANEL = 1.7
_HALO = [withStroke(linewidth=1.8, foreground="#000000c0")]


@dataclass(frozen=True)
class _Seen:
    """A case in a view: its grey values, its truth and what rows gave."""

    view: View
    shade: np.ndarray
    truth: Volume
    labels: tuple[Volume, ...]


def write_figure(
    experiment: Experiment, figure: FigureEntry, measured: Measured, places: Places, lists: Lists, folder: Path
) -> Path | None:
    """Draw a figure of what has been measured; None where none of its rows has been, or λ* has fewer than two values.

    Raises:
        ConfigError: it names a case that was not measured, or its images' path was not given.
        VolumeError: an image or a label map cannot be read.
        OutputError: the place cannot be written.
    """
    rows = [row for row in figure.rows if any((test, row) in measured for test in figure.tests)]
    tests = [test for test in figure.tests if any((test, row) in measured for row in rows)]
    if not rows or (figure.kind == "strengths" and len(rows) < 2):
        return None
    draw = {"cases": _cases, "boxes": _boxes, "strengths": _strengths}[figure.kind]
    page = draw(experiment, figure, rows, tests, measured, places, lists)
    return write_atomically(folder / f"{figure.name}.png", lambda partial: page.canvas.print_png(str(partial)))


def ranked(lines: Mapping[str, float], more: bool) -> list[str]:
    """Cases by their figure, the best first; those without a figure last."""
    worst = -np.inf if more else np.inf
    order = {case: value if isfinite(value) else worst for case, value in lines.items()}
    return sorted(order, key=lambda case: (-order[case] if more else order[case], case))


def _cases(
    experiment: Experiment,
    figure: FigureEntry,
    rows: Sequence[str],
    tests: Sequence[str],
    measured: Measured,
    places: Places,
    lists: Lists,
) -> Page:
    """A line of panels for each case and plane: image, truth, and the outlines of every row."""
    chosen = [(test, name, what) for test in tests for name, what in _chosen(figure, test, measured)]
    titles = ["Image", "Truth", *(experiment.rows[row].title for row in rows)]
    flat = experiment.grid.ndim == 2
    planes = ("",) if flat else figure.planes
    count = len(titles)
    panel = min(_LARGEST_PANEL, (_WIDTH - 2 * _MARGIN - _SIDE - _GAP * (count - 1)) / count)
    legend = 0.22 if len(experiment.names) > 1 else 0.0
    many = len(tests) > 1
    height = _MARGIN + _HEAD + len(chosen) * len(planes) * (panel + _GAP) + legend + _FOOT + _MARGIN
    page = Page(2 * _MARGIN + _SIDE + count * panel + _GAP * (count - 1), height)
    for c, title in enumerate(titles):
        page.text(_MARGIN + _SIDE + c * (panel + _GAP) + panel / 2, _MARGIN + _HEAD / 2, title, _fitting(titles, panel))
    y = _MARGIN + _HEAD
    for test, name, what in chosen:
        side = f"{experiment.tests[test].title}, {what}" if many else what
        page.text(_MARGIN + _SIDE * 0.35, y + (len(planes) * (panel + _GAP) - _GAP) / 2, side, SMALL, rotation=90)
        for seen in _seen(experiment, figure, rows, test, name, places, lists):
            for c in range(count):
                axes = page.axes(_MARGIN + _SIDE + c * (panel + _GAP), y, panel, panel)
                _show(axes, seen)
                if c == 1:
                    draw_outlines(axes, experiment.labels[1:], seen.view, seen.truth, LINE)
                elif c > 1:
                    _show_result(axes, experiment, seen, c - 2, _score(figure, measured, test, rows[c - 2], name))
            y += panel + _GAP
    if legend:
        _legend(page, experiment, y + legend / 2)
    _note(page, figure, y + legend + _FOOT / 2)
    return page


def _boxes(
    experiment: Experiment,
    figure: FigureEntry,
    rows: Sequence[str],
    tests: Sequence[str],
    measured: Measured,
    places: Places,
    lists: Lists,
) -> Page:
    """Boxes of the scores over cases: a line of axes for each test set, one of them for each measure."""
    names = [experiment.rows[row].title for row in rows]
    left = 0.3 + 0.062 * max(len(name) for name in names)
    line = 0.2 * len(rows) + 0.1
    gap, head, foot = 0.18, 0.26, 0.42
    width = (_WIDTH - left - 0.12 - gap * (len(figure.measures) - 1)) / len(figure.measures)
    page = Page(_WIDTH, len(tests) * (head + line + foot) + 0.02)
    limits = {m: _limits(figure, rows, tests, measured, m) for m in figure.measures}
    for t, test in enumerate(tests):
        y = t * (head + line + foot) + head
        page.text(left, y - 0.12, experiment.tests[test].title, TEXT, ha="left", weight="bold")
        for m, measure in enumerate(figure.measures):
            axes = page.axes(left + m * (width + gap), y, width, line)
            values = [
                [v for v in case_means(measured.get((test, row), ()), measure).values() if isfinite(v)] for row in rows
            ]
            draw_boxes(axes, values)
            axes.set_xlim(*limits[measure])
            axes.set_yticks(range(1, len(rows) + 1), names if m == 0 else [""] * len(rows), fontsize=SMALL)
            axes.set_xlabel(look(measure)[0], fontsize=SMALL, labelpad=2, color=INK)
    return page


def _strengths(
    experiment: Experiment,
    figure: FigureEntry,
    rows: Sequence[str],
    tests: Sequence[str],
    measured: Measured,
    places: Places,
    lists: Lists,
) -> Page:
    """Curves of the scores against λ*, a line for each test set, over panels of one case at every λ*."""
    rows = sorted(rows, key=lambda row: _strength(experiment, row))
    strengths = [_strength(experiment, row) for row in rows]
    chosen = [(test, name, what) for test in tests for name, what in _chosen(figure, test, measured)]
    planes = ("",) if experiment.grid.ndim == 2 else figure.planes
    panel = min(_LARGEST_PANEL, (_WIDTH - 2 * _MARGIN - _SIDE - _GAP * (len(rows) - 1)) / len(rows))
    left = _MARGIN + _SIDE + (_WIDTH - 2 * _MARGIN - _SIDE - len(rows) * (panel + _GAP) + _GAP) / 2
    curves, foot = 1.75, 0.52
    below = curves + foot
    page = Page(_WIDTH, 0.1 + below + _HEAD + len(chosen) * len(planes) * (panel + _GAP) + _FOOT + _MARGIN)
    width = (_WIDTH - 0.14 - 0.62 * len(figure.measures)) / len(figure.measures)
    for m, measure in enumerate(figure.measures):
        axes = page.axes(0.58 + m * (width + 0.62), 0.1, width, curves)
        for t, test in enumerate(tests):
            own = [Spread.of(case_means(measured.get((test, row), ()), measure).values()) for row in rows]
            draw_curve(axes, strengths, own, COLORS[t % len(COLORS)], experiment.tests[test].title)
        axes.set_ylabel(look(measure)[0], fontsize=SMALL, labelpad=2)
        axes.set_xlabel("λ*", fontsize=SMALL, labelpad=1)
        strength_axis(axes, strengths)
        if m == 0 and len(tests) > 1:
            axes.legend(fontsize=TINY, frameon=False, handlelength=1.4, borderpad=0.2)
    y = 0.1 + below
    for c, strength in enumerate(strengths):
        page.text(left + c * (panel + _GAP) + panel / 2, y + _HEAD / 2, f"λ* = {strength_text(strength)}", SMALL)
    y += _HEAD
    for test, name, what in chosen:
        side = (
            experiment.tests[test].title if figure.cases == ("median",) else f"{experiment.tests[test].title}, {what}"
        )
        page.text(left - _SIDE * 0.65, y + (len(planes) * (panel + _GAP) - _GAP) / 2, side, SMALL, rotation=90)
        for seen in _seen(experiment, figure, rows, test, name, places, lists):
            for c, row in enumerate(rows):
                axes = page.axes(left + c * (panel + _GAP), y, panel, panel)
                _show(axes, seen)
                _show_result(axes, experiment, seen, c, _score(figure, measured, test, row, name))
            y += panel + _GAP
    _note(page, figure, y + _FOOT / 2)
    return page


def _chosen(figure: FigureEntry, test: str, measured: Measured) -> list[tuple[str, str]]:
    """The cases that a figure shows of a test set, and what they are called."""
    by = figure.by if (test, figure.by) in measured else next((r for r in figure.rows if (test, r) in measured), None)
    if by is None:
        return []
    measure = figure.measures[0]
    order = ranked(case_means(measured[test, by], measure), bool(look(measure)[2]))
    place = {"best": 0, "median": (len(order) - 1) // 2, "worst": len(order) - 1}
    chosen = []
    for case in figure.cases:
        if case not in RANKS and case not in order:
            if figure.cases and len(figure.tests) > 1:
                continue  # a named case is in one of the test sets
            raise ConfigError(f"the figure '{figure.name}' shows the case '{case}', which was not measured on '{test}'")
        chosen.append((order[place[case]], case) if case in RANKS else (case, case))
    return list(dict.fromkeys(chosen))


def _seen(
    experiment: Experiment,
    figure: FigureEntry,
    rows: Sequence[str],
    test: str,
    name: str,
    places: Places,
    lists: Lists,
) -> list[_Seen]:
    """A case in each of the figure's planes."""
    found: dict[str, Case] = {case.name: case for case in lists.test(experiment.tests[test])}
    if name not in found:
        raise ConfigError(f"the case '{name}' is not in the test set '{test}' any more", "measure the rows again")
    image, truth = found[name].load()
    empty = truth.with_array(np.zeros_like(truth.array))
    labels = []
    for row in rows:
        path = places.labels(test, row, name)
        labels.append(Volume.read(path) if path.is_file() else empty)
    if experiment.grid.ndim == 2 and image.grid.ndim == 3:
        image, truth, *labels = (flattened(volume)[0] for volume in (image, truth, *labels))
    views = _views(image.grid, truth, figure.planes)
    grey = shades(image, views, experiment.normalisation)
    return [_Seen(view, shade, truth, tuple(labels)) for view, shade in zip(views, grey, strict=True)]


def _views(image: Grid, truth: Volume, planes: Sequence[str]) -> list[View]:
    """The whole of a 2D image; in 3D, the planes through the middle of the structures and what is around them."""
    if image.ndim == 2:
        corners = image.corners()
        return list(views_of(image, image.center, corners.min(axis=0), corners.max(axis=0), _PIXELS))
    box = bounds(truth, 0)
    low, high = box if box is not None else (image.corners().min(axis=0), image.corners().max(axis=0))
    inside = np.argwhere(truth.array[0] != 0)
    index = inside.mean(axis=0)[::-1] if len(inside) else (np.array(image.size) - 1) / 2
    middle, half = (low + high) / 2, _AROUND * (high - low).max() / 2
    views = views_of(image, image.transform_points(index, "world", "voxel"), middle - half, middle + half, _PIXELS)
    return [view for plane in planes for view in views if view.title == plane]


def _show(axes: Axes, seen: _Seen) -> None:
    side = seen.view.side
    axes.imshow(seen.shade, cmap="gray", vmin=0, vmax=1, extent=(0, side, side, 0), interpolation="bilinear")
    axes.set(xlim=(0, side), ylim=(side, 0))
    axes.set_axis_off()


def _show_result(axes: Axes, experiment: Experiment, seen: _Seen, index: int, score: str) -> None:
    draw_outlines(axes, experiment.labels[1:], seen.view, seen.truth, TRUE_LINE, "white")
    draw_outlines(axes, experiment.labels[1:], seen.view, seen.labels[index], LINE)
    axes.text(
        0.03, 0.03, score, transform=axes.transAxes, fontsize=TINY, color="white", path_effects=_HALO, va="bottom"
    )


def _score(figure: FigureEntry, measured: Measured, test: str, row: str, case: str) -> str:
    measure = figure.measures[0]
    value = case_means(measured.get((test, row), ()), measure).get(case, nan)
    return f"{value:.{look(measure)[1]}f}" if isfinite(value) else "–"


def _note(page: Page, figure: FigureEntry, y: float) -> None:
    text = f"White: truth. Numbers: {look(figure.measures[0])[0]}."
    page.text(page.width - _MARGIN, y, text, TINY, ha="right", color=FAINT)


def _legend(page: Page, experiment: Experiment, y: float) -> None:
    handles = [Line2D([], [], color=ink_of(label), linewidth=1.6, label=label.name) for label in experiment.labels[1:]]
    page.figure.legend(
        handles=handles,
        loc="center",
        bbox_to_anchor=(0.5, 1 - y / page.height),
        ncols=len(handles),
        fontsize=TINY,
        frameon=False,
        handlelength=1.2,
        columnspacing=1.2,
        borderpad=0.0,
    )


def _fitting(titles: Sequence[str], panel: float) -> float:
    """Size in points at which the longest title fits over its panel."""
    return min(SMALL, panel / (0.0082 * max(len(title) for title in titles)))


def _limits(
    figure: FigureEntry, rows: Sequence[str], tests: Sequence[str], measured: Measured, measure: str
) -> tuple[float, float]:
    """From the lowest to the highest value, so that test sets can be compared; room at both ends."""
    values = [v for t in tests for r in rows for v in case_means(measured.get((t, r), ()), measure).values()]
    finite = [v for v in values if isfinite(v)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    room = 0.04 * ((high - low) or 1.0)
    return (low - room, high + room) if look(measure)[2] else (min(0.0, low), high + room)


def _strength(experiment: Experiment, row: str) -> float:
    refine = experiment.rows[row].refine
    return refine.strength or nan if refine else nan


__all__ = ["ranked", "write_figure"]
