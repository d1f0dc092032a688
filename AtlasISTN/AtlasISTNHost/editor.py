"""Slicer's Segment Editor, opened on a segment of a segmentation, with a volume to see."""

from __future__ import annotations

from typing import Any

import slicer

_TAG = "SegmentEditor"


def open_on(segmentation: Any, volume: Any, segment_id: str = "", effect: str = "") -> None:
    """Switch to the Segment Editor. What is edited is shown, where it was hidden.

    Args:
        segmentation: what is to be edited; one of ours.
        volume: the volume beneath.
        segment_id: of the segment that is chosen there; the first one by default.
        effect: what is chosen there, such as "Paint".
    """
    _show(segmentation, segment_id)
    choices = _choices(segmentation.GetScene())
    # The module makes a segmentation of its own where none is chosen when it is entered.
    choices.SetAndObserveSegmentationNode(segmentation)
    slicer.util.selectModule("SegmentEditor")
    # On its way in it chooses the volume that the segmentation was made for, and the first segment.
    with slicer.util.NodeModify(choices):
        choices.SetAndObserveSourceVolumeNode(volume)
        if segment_id:
            choices.SetSelectedSegmentID(segment_id)
        if effect:
            choices.SetActiveEffectName(effect)


def _show(segmentation: Any, segment_id: str) -> None:
    """Slicer asks at the first stroke in what cannot be seen."""
    segmentation.CreateDefaultDisplayNodes()
    display = segmentation.GetDisplayNode()
    with slicer.util.NodeModify(display):
        display.SetVisibility(True)
        if segment_id:
            display.SetSegmentVisibility(segment_id, True)


def _choices(scene: Any) -> Any:
    """The node with the choices made in the Segment Editor; made as the module does, where it has not been opened."""
    found = scene.GetSingletonNode(_TAG, "vtkMRMLSegmentEditorNode")
    if found is None:
        node = slicer.vtkMRMLSegmentEditorNode()
        node.SetSingletonTag(_TAG)
        found = scene.AddNode(node)
    return found
