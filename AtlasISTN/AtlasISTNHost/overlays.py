"""Foregrounds of slice views: ours laid over an input, and the user's own put back when ours is taken off."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import slicer

from . import nodes

#: Reference of a slice view's layers: the foreground that the user had.
_USERS = "AtlasISTN.UserForeground"
#: Attribute beside it: its opacity. It is there as long as something is remembered, be it that there was no foreground.
_OPACITY = "AtlasISTN.UserForegroundOpacity"


def lay_over(input_node: Any, volume: Any, opacity: float) -> int:
    """Show a volume of ours as the foreground of every slice view whose background is the input.

    Args:
        input_node: a view that shows another background stays as it is.
        volume: one of our nodes.
        opacity: in [0, 1].

    Returns:
        how many views there are.
    """
    count = 0
    for layers in _layers(input_node.GetScene()):
        if layers.GetBackgroundVolumeID() != input_node.GetID():
            continue
        count += 1
        with slicer.util.NodeModify(layers):
            if not _shows_ours(layers):
                _remember(layers)
            layers.SetForegroundVolumeID(volume.GetID())
            layers.SetForegroundOpacity(opacity)
    return count


def take_off(scene: Any, volume: Any = None) -> None:
    """Put the user's foregrounds back where ours are shown.

    Args:
        scene: where the views are.
        volume: take off this one only; by default any of ours.
    """
    for layers in _layers(scene):
        remembers = layers.GetAttribute(_OPACITY) is not None
        shown = layers.GetForegroundVolumeID()
        if _shows_ours(layers):
            if volume is None or shown == volume.GetID():
                with slicer.util.NodeModify(layers):
                    _restore(layers)
        elif remembers and not shown:
            _restore(layers)  # ours has left the scene meanwhile
        elif remembers:
            _forget(layers)  # the user has chosen another one since


def covers(volume: Any) -> bool:
    """Whether a volume is the foreground of any slice view."""
    if volume is None or volume.GetScene() is None:
        return False
    return any(layers.GetForegroundVolumeID() == volume.GetID() for layers in _layers(volume.GetScene()))


def _layers(scene: Any) -> Iterator[Any]:
    for i in range(scene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode")):
        yield scene.GetNthNodeByClass(i, "vtkMRMLSliceCompositeNode")


def _shows_ours(layers: Any) -> bool:
    shown = layers.GetForegroundVolumeID()
    node = layers.GetScene().GetNodeByID(shown) if shown else None
    return node is not None and nodes.is_ours(node)


def _remember(layers: Any) -> None:
    layers.SetNodeReferenceID(_USERS, layers.GetForegroundVolumeID() or None)
    layers.SetAttribute(_OPACITY, repr(layers.GetForegroundOpacity()))


def _restore(layers: Any) -> None:
    before = layers.GetNodeReference(_USERS)  # None where it has left the scene
    layers.SetForegroundVolumeID(before.GetID() if before is not None else None)
    opacity = layers.GetAttribute(_OPACITY)
    layers.SetForegroundOpacity(float(opacity) if opacity else 0.0)
    _forget(layers)


def _forget(layers: Any) -> None:
    layers.SetNodeReferenceID(_USERS, None)
    layers.RemoveAttribute(_OPACITY)
