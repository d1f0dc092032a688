"""Small pictures for the panel: the chart of a training's loss and slices of an atlas, as pixmaps."""

from __future__ import annotations

import colorsys
import itertools
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import qt
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk

from AtlasISTNLib.views import View, bounds, sampled, views_of
from AtlasISTNLib.volume import Volume

Colors = np.ndarray

#: Percentiles of the grey values that become black and white.
_RANGE = (0.5, 99.5)
#: Height of the pictures, and their width before the panel has one; in pixels.
_CHART_HEIGHT, _ATLAS_HEIGHT, _WIDTH = 220, 150, 420
#: How much of a structure's colour lies over the grey.
_TINT = 0.45
#: mm of an atlas around its structures that are shown, as a share of their size.
_AROUND = 0.15
#: Golden section: hues that follow one another in its steps stay far apart.
_GOLDEN = 0.618034
#: Colours that are told apart, also by people who do not tell red from green, on light and on dark panels.
_BLUE, _ORANGE, _GREEN, _PURPLE, _GREY = "#3b82d0", "#e08a1e", "#2a9d76", "#b565c4", "#8a8a8a"
_RED, _CYAN = "#d1495b", "#38a3c8"


@dataclass(frozen=True)
class Curve:
    """One line of the chart: what the history calls it, its title, its colour, and whether it is a Dice score."""

    key: str
    title: str
    color: str
    score: bool = False


def curves() -> tuple[Curve, ...]:
    """All that the chart knows to draw."""
    return (
        Curve("loss", _("loss"), _GREY),
        Curve("segmentation", _("segmentation"), _BLUE),
        Curve("a2s", _("atlas to image"), _ORANGE),
        Curve("s2a", _("image to atlas"), _GREEN),
        Curve("reg", _("smoothness"), _PURPLE),
        Curve("dice_itn", _("Dice, network"), _RED, score=True),
        Curve("dice_one_pass", _("Dice, atlas"), _CYAN, score=True),
    )


# ---------------------------------------------------------------------------------------------------------- the chart


@dataclass(frozen=True)
class _Area:
    """Where the curves lie in the picture, in pixels, and what its sides stand for."""

    left: int
    top: int
    right: int
    bottom: int
    epochs: int
    low: float  # log10 of the lowest loss
    high: float

    def x(self, epoch: float) -> int:
        return round(self.left + (self.right - self.left) * (epoch - 1) / max(self.epochs - 1, 1))

    def y(self, value: float, score: bool) -> int:
        share = value if score else (math.log10(value) - self.low) / (self.high - self.low)
        return round(self.bottom - (self.bottom - self.top) * min(max(share, 0.0), 1.0))


def loss_chart(history: Sequence[Mapping[str, float]], width: int, height: int, text: Any, ratio: float = 1.0) -> Any:
    """The loss and its terms on a logarithmic axis and, where there are any, Dice scores on a second one, by epoch.

    Args:
        history: figures of each epoch from the first, by name.
        width, height: of the picture, in the panel's pixels.
        text: QColor of axes and words.
        ratio: of the screen's pixels to the panel's.

    Returns:
        A QPixmap with a transparent background; all of it is transparent where there is nothing to show.
    """
    pixmap = qt.QPixmap(max(1, round(width * ratio)), max(1, round(height * ratio)))
    pixmap.setDevicePixelRatio(ratio)
    pixmap.fill(qt.QColor(0, 0, 0, 0))
    drawn = [curve for curve in curves() if any(_usable(entry.get(curve.key), curve.score) for entry in history)]
    if not drawn or width < 120 or height < 80:
        return pixmap
    painter = qt.QPainter()
    painter.begin(pixmap)
    try:
        painter.setRenderHint(qt.QPainter.Antialiasing)
        top = _draw_legend(painter, drawn, width, text)
        area = _area(history, drawn, width, height, top)
        _draw_axes(painter, area, drawn, text)
        for curve in drawn:
            _draw_curve(painter, area, history, curve)
    finally:
        painter.end()
    return pixmap


def decades(low: float, high: float) -> list[int]:
    """The powers of ten between two exponents that an axis names: at most five, evenly apart."""
    first, last = math.ceil(low - 1e-9), math.floor(high + 1e-9)
    step = max(1, math.ceil((last - first + 1) / 5))
    return list(range(first, last + 1, step))


def epoch_ticks(epochs: int) -> list[int]:
    """The epochs that the axis names: round numbers, at most six, and the first."""
    step = next(s for p in range(9) for s in (10**p, 2 * 10**p, 5 * 10**p) if epochs / s <= 5)
    return [1, *[e for e in range(step, epochs + 1, step) if e > 1]]


def _usable(value: Any, score: bool) -> bool:
    return value is not None and math.isfinite(value) and (score or value > 0)


def _area(history: Sequence[Mapping[str, float]], drawn: Sequence[Curve], width: int, height: int, top: int) -> _Area:
    logs = [
        math.log10(entry[curve.key])
        for curve in drawn
        for entry in history
        if not curve.score and _usable(entry.get(curve.key), False)
    ] or [-1.0, 0.0]
    low, high = math.floor(min(logs) * 2) / 2, math.ceil(max(logs) * 2) / 2
    if math.floor(high) < math.ceil(low):  # no power of ten between them to name
        low, high = math.floor(low), math.ceil(high)
    scores = any(curve.score for curve in drawn)
    return _Area(46, top + 6, width - (30 if scores else 10), height - 34, len(history), low, max(high, low + 0.5))


def _draw_legend(painter: Any, drawn: Sequence[Curve], width: int, text: Any) -> int:
    """Names of the curves in as many rows as they need; gives where these end."""
    x, y, row = 46, 2, 16
    for curve in drawn:
        needed = 18 + painter.fontMetrics().boundingRect(curve.title).width() + 12
        if x + needed > width and x > 46:
            x, y = 46, y + row
        _pen(painter, curve.color, 2)
        painter.drawLine(x, y + row // 2, x + 14, y + row // 2)
        _pen(painter, text)
        painter.drawText(qt.QRect(x + 18, y, needed, row), _flags(qt.Qt.AlignLeft), curve.title)
        x += needed
    return y + row


def _draw_axes(painter: Any, area: _Area, drawn: Sequence[Curve], text: Any) -> None:
    faint = qt.QColor(text)
    faint.setAlphaF(0.18)
    for exponent in decades(area.low, area.high):
        y = area.y(10.0**exponent, False)
        _pen(painter, faint)
        painter.drawLine(area.left, y, area.right, y)
        _pen(painter, text)
        label = f"{10.0**exponent:g}" if -3 <= exponent <= 4 else f"1e{exponent}"
        painter.drawText(qt.QRect(0, y - 8, area.left - 5, 16), _flags(qt.Qt.AlignRight), label)
    if any(curve.score for curve in drawn):
        for score in (0.0, 0.5, 1.0):
            place = qt.QRect(area.right + 4, area.y(score, True) - 8, 26, 16)
            painter.drawText(place, _flags(qt.Qt.AlignLeft), f"{score:g}")
    painter.drawLine(area.left, area.bottom, area.right, area.bottom)
    painter.drawLine(area.left, area.top, area.left, area.bottom)
    for epoch in epoch_ticks(area.epochs):
        x = area.x(epoch)
        painter.drawLine(x, area.bottom, x, area.bottom + 3)
        painter.drawText(qt.QRect(x - 24, area.bottom + 3, 48, 15), _flags(qt.Qt.AlignHCenter), str(epoch))
    title = qt.QRect(area.left, area.bottom + 17, area.right - area.left, 16)
    painter.drawText(title, _flags(qt.Qt.AlignHCenter), _("epoch"))


def _draw_curve(painter: Any, area: _Area, history: Sequence[Mapping[str, float]], curve: Curve) -> None:
    points = [
        (area.x(index + 1), area.y(entry[curve.key], curve.score))
        for index, entry in enumerate(history)
        if _usable(entry.get(curve.key), curve.score)
    ]
    _pen(painter, curve.color, 2)
    if len(points) == 1:  # a line of one point would be invisible
        (x, y), *_rest = points
        points = [(x - 2, y), (x + 2, y)]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        painter.drawLine(x0, y0, x1, y1)


def _pen(painter: Any, color: Any, width: int = 1) -> None:
    pen = qt.QPen()
    pen.setColor(qt.QColor(color))
    pen.setWidth(width)
    painter.setPen(pen)


def _flags(horizontal: Any) -> int:
    return int(horizontal) | int(qt.Qt.AlignVCenter)


# ---------------------------------------------------------------------------------------------------------- the atlas


def atlas_picture(image: Volume, soft: Volume, colors: Sequence[Sequence[int]], pixels: int) -> Colors:
    """Middle slices of an atlas side by side, the structures' colours over its image.

    Args:
        image: atlas image, 1 channel.
        soft: soft labels, K channels, background first, on the same grid.
        colors: RGB from 0 to 255 of the K − 1 structures.
        pixels: height of the picture and width of each slice.

    Returns:
        (pixels, n pixels, 3) uint8, row 0 on top; three slices in 3D, one in 2D.
    """
    low, high = np.percentile(image.array, _RANGE).tolist()
    table = np.array(colors, dtype=np.float64).reshape(-1, 3) / 255
    return np.concatenate(
        [_slice(image, soft, view, table, (low, high if high > low else low + 1)) for view in _views(soft, pixels)],
        axis=1,
    )


def pixmap_of(picture: Colors, ratio: float = 1.0) -> Any:
    """A picture (rows, columns, 3) uint8 as a QPixmap. By way of a file: bytes do not reach a QImage safely."""
    with tempfile.TemporaryDirectory(prefix="atlas-istn-") as folder:
        path = Path(folder) / "picture.png"
        write_png(picture, path)
        pixmap = qt.QPixmap(str(path))
    pixmap.setDevicePixelRatio(ratio)
    return pixmap


def write_png(picture: Colors, path: Path) -> None:
    """Write a picture (rows, columns, 3) uint8, row 0 on top, as a PNG."""
    rows, columns = picture.shape[:2]
    data = vtk.vtkImageData()
    data.SetDimensions(columns, rows, 1)
    values = numpy_to_vtk(np.ascontiguousarray(picture[::-1]).reshape(-1, 3), deep=True)
    data.GetPointData().SetScalars(values)
    writer = vtk.vtkPNGWriter()
    writer.SetFileName(str(path))
    writer.SetInputData(data)
    writer.Write()


def distinct_color(index: int) -> tuple[int, int, int]:
    """RGB, 0–255, of a structure that has no colour of its own yet, told apart from those before it."""
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb((index * _GOLDEN) % 1, 0.6, 0.9))
    return red, green, blue


def _views(soft: Volume, pixels: int) -> tuple[View, ...]:
    """Through the middle of the structures, and around them."""
    corners = soft.grid.corners()
    box = bounds(Volume.from_array(soft.array.argmax(axis=0), soft.grid), 0)
    if box is None:
        return views_of(soft.grid, soft.grid.center, corners.min(axis=0), corners.max(axis=0), pixels)
    around = _AROUND * (box[1] - box[0]).max()
    return views_of(soft.grid, (box[0] + box[1]) / 2, box[0] - around, box[1] + around, pixels)


def _slice(image: Volume, soft: Volume, view: View, colors: np.ndarray, between: tuple[float, float]) -> Colors:
    low, high = between
    grey = np.nan_to_num(np.clip((sampled(image, view, "linear", np.nan) - low) / (high - low), 0, 1), nan=0.0)
    picture = np.repeat(grey[..., np.newaxis], 3, axis=2)
    for channel, color in zip(soft.array[1:], colors, strict=True):
        share = np.clip(sampled(Volume.from_array(channel, soft.grid), view, "linear", 0.0), 0, 1)
        tint = _TINT * share[..., np.newaxis]
        picture = (1 - tint) * picture + tint * color
    return np.asarray(np.rint(255 * np.clip(picture, 0, 1)), dtype=np.uint8)


# ------------------------------------------------------------------------------------------------------- on the panel


class TrainingPictures:
    """Shows a training: its chart in one label, slices of its atlas in another; each is hidden while it is empty."""

    def __init__(self, chart: Any, atlas: Any) -> None:
        self._chart, self._atlas = chart, atlas
        chart.visible = atlas.visible = False

    def show_history(self, history: Sequence[Mapping[str, float]]) -> None:
        """Draw the chart of all epochs so far."""
        label = self._chart
        label.visible = bool(history)
        if history:
            color, ratio = label.palette.text().color(), float(label.devicePixelRatioF())
            label.setMinimumHeight(_CHART_HEIGHT)
            label.setPixmap(loss_chart(history, _width_of(label), _CHART_HEIGHT, color, ratio))
            label.toolTip = _("Loss and its terms by epoch, on a logarithmic axis")

    def show_atlas(self, atlas: tuple[Volume, Volume] | None, epoch: int = 0) -> None:
        """Draw the atlas's image and soft labels; None for no atlas."""
        label = self._atlas
        label.visible = atlas is not None
        if atlas is None:
            return
        image, labels = atlas
        ratio = float(label.devicePixelRatioF())
        count = 3 if labels.grid.ndim == 3 and 1 not in labels.grid.shape else 1
        pixels = max(40, min(_ATLAS_HEIGHT, _width_of(label) // count))
        colors = [distinct_color(index) for index in range(labels.array.shape[0] - 1)]
        label.setMinimumHeight(pixels)
        label.setPixmap(pixmap_of(atlas_picture(image, labels, colors, round(pixels * ratio)), ratio))
        label.toolTip = _("The atlas after epoch {epoch}").format(epoch=epoch)


def _width_of(label: Any) -> int:
    """What the panel has room for; a label is as wide as its last picture and would never let the next one shrink."""
    parent = label.parent()
    width = int(parent.width) - 30 if parent is not None else 0
    return width if width > 150 else _WIDTH


__all__ = [
    "TrainingPictures",
    "atlas_picture",
    "curves",
    "decades",
    "distinct_color",
    "epoch_ticks",
    "loss_chart",
    "pixmap_of",
    "write_png",
]
