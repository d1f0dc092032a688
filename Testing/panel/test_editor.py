"""The Segment Editor opened on what is to be edited."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import slicer
import standin  # noqa: F401 - it is what slicer is here
from house import MODULE
from standin import mrml

sys.path.insert(0, str(MODULE))

from AtlasISTNHost import editor


@pytest.fixture
def scan() -> Iterator[Any]:
    slicer.mrmlScene.Clear(0)
    slicer.modules.segmenteditor = mrml.Module("SegmentEditor")
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Scan")
    slicer.util.updateVolumeFromArray(node, np.zeros((4, 5, 6), np.float32))
    yield node
    slicer.mrmlScene.Clear(0)
    del slicer.modules.segmenteditor


def test_what_was_hidden_is_seen(scan):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Ours")
    for name in ("One", "Two"):
        node.GetSegmentation().AddEmptySegment(name, name)
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetVisibility(False)
    for name in ("One", "Two"):
        display.SetSegmentVisibility(name, False)
    editor.open_on(node, scan, "Two", "Paint")
    assert display.GetVisibility()
    assert display.GetSegmentVisibility("Two")
    assert not display.GetSegmentVisibility("One")  # nobody has asked for it
    choices = slicer.mrmlScene.GetSingletonNode("SegmentEditor", "vtkMRMLSegmentEditorNode")
    assert (choices.GetSegmentationNode(), choices.GetSourceVolumeNode()) == (node, scan)
    assert (choices.GetSelectedSegmentID(), choices.GetActiveEffectName()) == ("Two", "Paint")
