"""Comparison: a second result of the same scan as outlines over the first, and how far the two agree."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import nan
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from AtlasISTNLib.errors import GeometryError
from AtlasISTNLib.manifest import Label
from AtlasISTNLib.metrics import dice
from AtlasISTNLib.topology import label_boxes
from AtlasISTNLib.volume import Volume

from . import frames, nodes, segments

#: Role of the segmentation that shows the second result.
COMPARISON = "comparison"
#: Of the outlines of the second result, so that they stand out from any colour of anatomy.
_SATURATION, _VALUE = 0.9, 1.0


@dataclass(frozen=True)
class Row:
    """How two results agree on a structure.

    Attributes:
        value, name, color: as the model has them.
        other_color: of its outline in the second result.
        dice: 2 |A ∩ B| / (|A| + |B|); nan where neither has a voxel.
        volumes: mL of the first and the second one, in 2D mm².
    """

    value: int
    name: str
    color: tuple[int, int, int]
    other_color: tuple[int, int, int]
    dice: float
    volumes: tuple[float, float]


def agreement(
    first: Volume, second: Volume, structures: Sequence[Label], volumes: Sequence[Sequence[float]]
) -> list[Row]:
    """Dice of every structure between two label maps of one scan.

    Args:
        first, second: (1, *shape), label values.
        structures: background first.
        volumes: of each structure in the first and the second one.

    Raises:
        GeometryError: they are not of one scan.
    """
    if first.grid.shape != second.grid.shape:
        raise GeometryError(
            _("The two results do not lie on the same voxels"), _("compare results of the scan as it is now")
        )
    boxes = [label_boxes(volume.array[0]) for volume in (first, second)]
    rows = []
    for label, pair in zip(structures[1:], volumes, strict=True):
        places = [found[label.value] for found in boxes if label.value in found]
        value = nan
        if places:
            joint = tuple(
                slice(min(s.start for s in sides), max(s.stop for s in sides)) for sides in zip(*places, strict=True)
            )
            value = dice(first.array[0][joint] == label.value, second.array[0][joint] == label.value)
        rows.append(
            Row(label.value, label.name, label.color, other_color(label.color), value, (float(pair[0]), float(pair[1])))
        )
    return rows


def show(labels: Volume, structures: Sequence[Label], input_node: Any, model: str) -> Any:
    """Draw a label map as outlines over the slices, each structure in the colour opposite to its own.

    Returns:
        our segmentation node, which is not saved with the scene.
    """
    layer = segments.layer_of(labels, structures, frames.ijk_to_ras(input_node))
    colored = [replace(label, color=other_color(label.color)) for label in structures]
    node = segments.write_segmentation(layer, COMPARISON, _("comparison"), colored, input_node, model)
    display = node.GetDisplayNode()
    with slicer.util.NodeModify(node), slicer.util.NodeModify(display):
        for part in (node, display):
            part.SetSaveWithScene(False)
        display.SetVisibility(True)
        display.SetVisibility2DFill(False)
        display.SetVisibility2DOutline(True)
        display.SetVisibility3D(False)
    return node


def hide(input_node: Any, model: str) -> None:
    """Take the outlines of a second result away, where there are any."""
    scene = input_node.GetScene()
    node = None if scene is None else nodes.find(scene, COMPARISON, input_node, model)
    if node is not None:
        nodes.remove(node)


def other_color(color: Sequence[int]) -> tuple[int, int, int]:
    """The bright colour opposite to a colour (RGB, 0 to 255); magenta where it is a grey, which has none."""
    hue, saturation, _value = colorsys.rgb_to_hsv(*(part / 255 for part in color))
    opposite = (hue + 0.5) % 1 if saturation > 0.1 else 5 / 6
    found = np.rint(np.array(colorsys.hsv_to_rgb(opposite, _SATURATION, _VALUE)) * 255).astype(int)
    red, green, blue = found.tolist()
    return red, green, blue


__all__ = ["COMPARISON", "Row", "agreement", "hide", "other_color", "show"]
