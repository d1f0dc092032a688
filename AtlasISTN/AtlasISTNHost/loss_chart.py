"""The chart of a refinement's loss, drawn while it goes on, and the line that says how much of the atlas is folded."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import qt
from slicer.i18n import tr as _

from .course import Course, Point

#: Height of the picture, and its width before the panel has one; in pixels.
_HEIGHT, _WIDTH = 130, 420
#: Milliseconds between two pictures, at least.
REDRAW_MS = 200
#: Parts that are smaller than this share of the largest total lie below the axis.
_LEAST_SHARE = 1e-2
#: Colours that are told apart, also by people who do not tell red from green, on light and on dark panels.
_BLUE, _ORANGE, _GREEN, _PURPLE, _GREY = "#3b82d0", "#e08a1e", "#2a9d76", "#b565c4", "#8a8a8a"
#: More points than these tell the eye nothing more, and cost time while it refines.
_MOST_POINTS = 160
#: Pixels to the left, to the right and below the curves.
_LEFT, _RIGHT, _BELOW, _ROW = 46, 12, 18, 16


@dataclass(frozen=True)
class Curve:
    """One line of the chart: an attribute of `Point`, its title and its colour."""

    key: str
    title: str
    color: str


def curves() -> tuple[Curve, ...]:
    """All lines, those below first."""
    return (
        Curve("a2s", _("atlas to image"), _ORANGE),
        Curve("s2a", _("image to atlas"), _GREEN),
        Curve("reg", _("λ* × smoothness"), _PURPLE),
        Curve("landmarks", _("points"), _BLUE),
        Curve("total", _("total"), _GREY),
    )


class LossChart:
    """Shows a course in one label, and its folding in another; a picture is drawn when there is something new.

    Args:
        label: for the picture.
        folding: for the line.
    """

    def __init__(self, label: Any, folding: Any) -> None:
        self._label, self._folding = label, folding
        self._course: Course | None = None
        self._drawn: tuple[int, int] | None = None  # changes of the course, and width, of the last picture
        self._at = 0.0
        self._closed = False
        self._timer = qt.QTimer()
        self._timer.connect("timeout()", self._on_timer)
        label.visible = folding.visible = False
        label.toolTip = _(
            "The loss by step, on a logarithmic axis, and what it is made of: how far the labels of atlas and image "
            "are apart, and how much the atlas is deformed, times λ*. A line stands where a run went on with other "
            "settings."
        )
        folding.toolTip = _("Where the atlas is folded it is turned inside out; more λ* unfolds it")

    def show(self, course: Course, running: bool) -> None:
        """Show a course now, or soon where the last picture is fresh."""
        if self._closed:
            return
        self._course = course
        self._say_folding(course.folding if running else None)
        self._label.visible = len(course.points) > 1
        if self._drawn == (course.changes, self._width()):
            return
        left = REDRAW_MS - 1000 * (time.monotonic() - self._at)
        if left <= 0:
            self._draw()
        else:
            self._timer.start(max(1, math.ceil(left)))

    def close(self) -> None:
        """Draw no more: the labels are about to go."""
        self._timer.stop()
        self._closed = True

    def _on_timer(self) -> None:
        self._timer.stop()
        self._draw()

    def _draw(self) -> None:
        self._timer.stop()
        course, label = self._course, self._label
        if course is None or self._closed:
            return
        width = self._width()
        self._drawn, self._at = (course.changes, width), time.monotonic()
        if len(course.points) > 1:  # also while the panel is out of sight: nobody tells when it comes back
            label.setMinimumHeight(_HEIGHT)
            color, ratio = label.palette.text().color(), float(label.devicePixelRatioF())
            label.setPixmap(chart(course.points, course.starts, width, _HEIGHT, color, ratio))

    def _say_folding(self, share: float | None) -> None:
        self._folding.visible = share is not None
        if share is not None:
            self._folding.text = folding_text(share)

    def _width(self) -> int:
        """The panel's room; a label is as wide as its last picture and would never let the next one shrink."""
        parent = self._label.parent()
        width = int(parent.width) - 24 if parent is not None else 0
        return width if width > 150 else _WIDTH


def folding_text(share: float) -> str:
    """What is said of a share of folded cells."""
    if share <= 0:
        return _("No folding")
    percent = 100 * share
    return _("Folded: {percent} % of the atlas").format(percent="< 0.01" if percent < 0.01 else f"{percent:.2f}")


# ----------------------------------------------------------------------------------------------------------- the chart


@dataclass(frozen=True)
class _Area:
    """Where the curves lie in the picture, in pixels, and what its sides stand for."""

    left: int
    top: int
    right: int
    bottom: int
    first: int
    last: int
    low: float  # log10 of the lowest value
    high: float

    def x(self, step: float) -> int:
        return round(self.left + (self.right - self.left) * (step - self.first) / max(self.last - self.first, 1))

    def y(self, value: float) -> int:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return round(self.bottom - (self.bottom - self.top) * min(max(share, 0.0), 1.0))


def chart(
    points: Sequence[Point], starts: Sequence[int], width: int, height: int, text: Any, ratio: float = 1.0
) -> Any:
    """The loss and its parts by step on a logarithmic axis.

    Args:
        points: by step.
        starts: steps where a line stands.
        width, height: of the picture, in the panel's pixels.
        text: QColor of axes and words.
        ratio: of the screen's pixels to the panel's.

    Returns:
        A QPixmap with a transparent background; all of it is transparent where there is nothing to show.
    """
    pixmap = qt.QPixmap(max(1, round(width * ratio)), max(1, round(height * ratio)))
    pixmap.setDevicePixelRatio(ratio)
    pixmap.fill(qt.QColor(0, 0, 0, 0))
    points = thinned(points, _MOST_POINTS)
    reach = limits(points)
    if reach is None or width < 120 or height < 80:
        return pixmap
    floor = 10.0 ** reach[0]
    drawn = [curve for curve in curves() if any(getattr(point, curve.key) > floor for point in points)]
    painter = qt.QPainter()
    painter.begin(pixmap)
    try:
        painter.setRenderHint(qt.QPainter.Antialiasing)
        top = _draw_legend(painter, drawn, width, text)
        ends = (points[0].step, points[-1].step)
        area = _Area(_LEFT, top + 6, width - _RIGHT, height - _BELOW, *ends, *reach)
        _draw_axes(painter, area, starts, text)
        for curve in drawn:
            _draw_curve(painter, area, points, curve)
    finally:
        painter.end()
    return pixmap


def limits(points: Sequence[Point]) -> tuple[float, float] | None:
    """log10 of the least and the largest value that the axis holds; None where there is nothing to show."""
    totals = [point.total for point in points if point.total > 0]
    if len(totals) < 2:
        return None
    high = max(totals)
    least = _LEAST_SHARE * high
    low = min(v for p in points for v in (p.total, p.a2s, p.s2a, p.reg, p.landmarks) if v >= least)
    lower, upper = math.log10(low), math.log10(high)
    around = max(0.05 * (upper - lower), 0.02)
    return lower - around, upper + around


def ticks(low: float, high: float) -> list[float]:
    """Round numbers between two powers of ten (exponents), at most six, evenly apart as far as that goes."""
    exponents = range(math.floor(low), math.floor(high) + 1)
    for heads in ((1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 5), (1, 3), (1,)):
        found = [head * 10.0**e for e in exponents for head in heads if low <= math.log10(head) + e <= high]
        if len(found) <= 6:
            return found
    return found[:: math.ceil(len(found) / 6)]


def step_ticks(first: int, last: int) -> list[int]:
    """Round numbers between two steps, at most six."""
    size = next(s for p in range(9) for s in (10**p, 2 * 10**p, 5 * 10**p) if (last - first) / s <= 5)
    return list(range(math.ceil(first / size) * size, last + 1, size))


def thinned(points: Sequence[Point], most: int) -> Sequence[Point]:
    """Not many more points than `most`, first and last among them."""
    stride = max(1, math.ceil(len(points) / most))
    return [*points[:-1:stride], *points[-1:]]


def _draw_legend(painter: Any, drawn: Sequence[Curve], width: int, text: Any) -> int:
    """Names of the curves in as many rows as they need; gives where these end."""
    x, y = _LEFT, 0
    for curve in reversed(drawn):
        needed = 18 + painter.fontMetrics().boundingRect(curve.title).width() + 12
        if x + needed > width and x > _LEFT:
            x, y = _LEFT, y + _ROW
        _pen(painter, curve.color, 2)
        painter.drawLine(x, y + _ROW // 2, x + 14, y + _ROW // 2)
        _pen(painter, text)
        painter.drawText(qt.QRect(x + 18, y, needed, _ROW), _flags(qt.Qt.AlignLeft), curve.title)
        x += needed
    return y + _ROW


def _draw_axes(painter: Any, area: _Area, starts: Sequence[int], text: Any) -> None:
    faint = qt.QColor(text)
    faint.setAlphaF(0.18)
    below = area.bottom + _ROW  # names that would lie on one another are left out
    for value in ticks(area.low, area.high):
        y = area.y(value)
        _pen(painter, faint)
        painter.drawLine(area.left, y, area.right, y)
        if below - y >= _ROW - 3:
            below = y
            _pen(painter, text)
            painter.drawText(qt.QRect(0, y - 8, area.left - 5, 16), _flags(qt.Qt.AlignRight), f"{value:.3g}")
    for start in starts:
        if area.first < start < area.last:
            _pen(painter, faint, 2)
            painter.drawLine(area.x(start), area.top, area.x(start), area.bottom)
    _pen(painter, text)
    painter.drawLine(area.left, area.bottom, area.right, area.bottom)
    painter.drawLine(area.left, area.top, area.left, area.bottom)
    for step in step_ticks(area.first, area.last):
        x = area.x(step)
        painter.drawLine(x, area.bottom, x, area.bottom + 3)
        painter.drawText(qt.QRect(x - 24, area.bottom + 2, 48, 15), _flags(qt.Qt.AlignHCenter), str(step))


def _draw_curve(painter: Any, area: _Area, points: Sequence[Point], curve: Curve) -> None:
    found = [(area.x(p.step), area.y(getattr(p, curve.key))) for p in points if getattr(p, curve.key) > 0]
    _pen(painter, curve.color, 2)
    for (x0, y0), (x1, y1) in itertools.pairwise(found):
        painter.drawLine(x0, y0, x1, y1)


def _pen(painter: Any, color: Any, width: int = 1) -> None:
    pen = qt.QPen()
    pen.setColor(qt.QColor(color))
    pen.setWidth(width)
    painter.setPen(pen)


def _flags(horizontal: Any) -> int:
    return int(horizontal) | int(qt.Qt.AlignVCenter)


__all__ = ["Curve", "LossChart", "chart", "curves", "folding_text", "limits", "step_ticks", "thinned", "ticks"]
