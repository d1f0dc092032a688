"""Lines from where points of the atlas lie now to where they belong, in all views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import slicer

from AtlasISTNLib.geometry import Float

from . import nodes, placing

#: Role of a node that only this room knows.
LINE = "pull-line"
_COLOR = (0.2, 0.9, 1.0)


class Lines:
    """The lines from where points of the atlas lie now to where they belong.

    Each is a hidden, locked node of its own, because Slicer fades a markups line with its distance from a slice, while
    a model's lines are seen in a slice as points only.
    """

    def __init__(self) -> None:
        self._nodes: list[Any] = []

    def show(self, scene: Any, ends: Sequence[tuple[Float, Float]], transform_id: str | None, visible: bool) -> None:
        """Draw lines between pairs of points (now, target) in local RAS.

        Args:
            scene: where to draw.
            ends: of the lines.
            transform_id: of the input's parent transform.
            visible: whether the pulls are.
        """
        kept = [node for node in self._nodes if nodes.in_scene(node) and node.GetDisplayNode() is not None]
        for node in kept[len(ends) :]:
            nodes.remove(node)
        self._nodes = kept[: len(ends)]
        while len(self._nodes) < len(ends):
            self._nodes.append(_add_line(scene))
        for node, points in zip(self._nodes, ends, strict=True):
            if node.GetTransformNodeID() != transform_id:
                node.SetAndObserveTransformNodeID(transform_id)
            _move_line(node, points)
            if bool(node.GetDisplayNode().GetVisibility()) != visible:
                node.GetDisplayNode().SetVisibility(visible)

    def clear(self) -> None:
        """Take all lines out of the scene."""
        for node in self._nodes:
            if nodes.in_scene(node):
                nodes.remove(node)
        self._nodes = []


def _add_line(scene: Any) -> Any:
    node = slicer.vtkMRMLMarkupsLineNode()
    node.SetName("pull")
    node.SetHideFromEditors(True)  # before it is in the scene, or the subject hierarchy would list it
    node.SetSaveWithScene(False)
    node.SetAttribute(nodes.ROLE, LINE)
    node.SetLocked(True)
    with placing.undisturbed(scene):
        node = scene.AddNode(node)
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetSaveWithScene(False)
    with slicer.util.NodeModify(display):
        display.SetSelectedColor(*_COLOR)
        display.SetColor(*_COLOR)
        display.SetPropertiesLabelVisibility(False)
        display.SetPointLabelsVisibility(False)
        display.SetGlyphScale(1.6)
        display.SetLineThickness(0.25)
        display.SetOccludedVisibility(True)
        display.SetOccludedOpacity(0.6)
    for _end in range(2):
        node.AddControlPoint(0.0, 0.0, 0.0)
    node.SetNthControlPointVisibility(1, False)  # the pull's own mark is there
    return node


def _move_line(node: Any, ends: tuple[Float, Float]) -> None:
    while node.GetNumberOfControlPoints() < len(ends):
        node.AddControlPoint(0.0, 0.0, 0.0)
    moved = [i for i, end in enumerate(ends) if not np.allclose(node.GetNthControlPointPosition(i), end, atol=1e-6)]
    if moved:
        with slicer.util.NodeModify(node):
            for i in moved:
                node.SetNthControlPointPosition(i, *ends[i])


__all__ = ["LINE", "Lines"]
