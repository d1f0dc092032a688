"""Thumbnails: a small picture of a result, one slice of the scan with the structures' outlines in their colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import slicer
from numpy.typing import NDArray

from AtlasISTNLib.manifest import Label
from AtlasISTNLib.views import View, bounds, outline, sampled, views_of
from AtlasISTNLib.volume import Volume

from . import volumes

#: Pixels along each side.
SIDE = 112
#: Of the structures' size, to every side of them.
_AROUND = 0.12
#: Percentiles of the grey values that become black and white where the scan has no window of its own.
_RANGE = (1.0, 99.0)
#: How much darker than in the views the scan is, so that the outlines stand out.
_DIMMED = 0.85


def thumbnail(input_node: Any, labels: Volume, structures: Sequence[Label], side: int = SIDE) -> NDArray[np.uint8]:
    """The axial slice (of a single slice: itself) through the middle of the structures, with their outlines.

    Args:
        input_node: the scan; its window and level are followed.
        labels: (1, *shape of the scan), label values, where the scan lies.
        structures: background first.
        side: pixels.

    Returns:
        (side, side, 3) uint8, row 0 on top; without grey values where the scan has other voxels by now.
    """
    flat = volumes.lifted(labels)
    view = _view(flat, structures[0].value, side)
    grey = _grey(input_node, flat, view)
    picture = np.repeat(grey[..., np.newaxis], 3, axis=2)
    for label in structures[1:]:
        inside = outline(flat, view, label.value) > 0.5
        picture[inside & ~_eroded(inside)] = np.array(label.color) / 255
    return np.asarray(np.rint(255 * np.clip(picture, 0, 1)), dtype=np.uint8)


def _view(labels: Volume, background: int, side: int) -> View:
    box = bounds(labels, background)
    if box is None:
        corners = labels.grid.corners()
        box = corners.min(axis=0), corners.max(axis=0)
    around = _AROUND * float((box[1] - box[0]).max())
    return views_of(labels.grid, (box[0] + box[1]) / 2, box[0] - around, box[1] + around, side)[0]


def _grey(input_node: Any, labels: Volume, view: View) -> NDArray[np.float64]:
    """The scan's values in the view, (rows, columns) in [0, 1]."""
    array = slicer.util.arrayFromVolume(input_node)
    if array is None or array.shape != labels.grid.shape:
        return np.zeros(view.grid.shape[-2:])
    # Only what the view shows is copied of it.
    values = sampled(Volume(array[np.newaxis], labels.grid), view, "linear", np.nan).astype(np.float64)
    display = input_node.GetDisplayNode()
    window = float(display.GetWindow()) if display is not None else 0.0
    if window > 0:
        low, high = display.GetLevel() - window / 2, display.GetLevel() + window / 2
    else:
        found = values[np.isfinite(values)]
        low, high = np.percentile(found, _RANGE) if found.size else (0.0, 1.0)
    shown = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    return _DIMMED * np.nan_to_num(shown, nan=0.0)


def _eroded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask (rows, columns) without the pixels at its border."""
    padded = np.pad(mask, 1)
    return np.asarray(mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:])


__all__ = ["SIDE", "thumbnail"]
