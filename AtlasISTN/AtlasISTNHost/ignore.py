"""Regions to ignore: where the image shows what the atlas cannot, such as metal, a tumour or what lies off its edge."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

from AtlasISTNLib.volume import Volume

from . import frames, nodes, targets

#: Role of the segmentation that the user paints it in.
IGNORE = "ignore"
#: Its segment.
SEGMENT_ID = "AtlasISTN_ignore"
_COLOR = (0.22, 0.22, 0.26)
_FILL, _OUTLINE = 0.55, 1.0


def region(input_node: Any) -> Any:
    """Our segmentation with the region to ignore on an input, for whatever model it was made; None without one."""
    for node in nodes.all_nodes(input_node.GetScene()):
        if is_region(node) and belongs_to(node, input_node):
            return node
    return None


def is_region(node: Any) -> bool:
    """Whether a node is a segmentation of ours with a region to ignore."""
    return node is not None and node.GetAttribute(nodes.ROLE) == IGNORE and nodes.is_ours(node)


def belongs_to(node: Any, input_node: Any) -> bool:
    """Whether a node of ours is one of this input."""
    return bool(node.GetNodeReferenceID(nodes.INPUT) == input_node.GetID())


def make_region(input_node: Any, model: str) -> Any:
    """The segmentation to paint a region in, with its one segment, empty at first; one that is there stays as it is."""
    node = region(input_node)
    if node is None:
        node = nodes.get_or_add(
            input_node.GetScene(), "vtkMRMLSegmentationNode", IGNORE, input_node, model, _("– ignore")
        )
        node.SetReferenceImageGeometryParameterFromVolumeNode(input_node)
        node.CreateDefaultDisplayNodes()
        with slicer.util.NodeModify(node.GetDisplayNode()):
            node.GetDisplayNode().SetOpacity2DFill(_FILL)
            node.GetDisplayNode().SetOpacity2DOutline(_OUTLINE)
            node.GetDisplayNode().SetOpacity3D(_FILL)
    if node.GetSegmentation().GetSegment(SEGMENT_ID) is None:
        node.GetSegmentation().AddEmptySegment(SEGMENT_ID, _("Ignore"), _COLOR)
    return node


def mask(segmentation_node: Any, segment_id: str, input_node: Any) -> Volume:
    """A segment as 0 and 1 (1, Z, Y, X) on the input's grid, in the processing frame.

    Raises:
        VolumeError, GeometryError: as `targets.target_volume`.
    """
    array = targets.merged(segmentation_node, [segment_id], input_node).astype(np.uint8)[np.newaxis]
    return Volume(array, frames.grid_of(input_node), segmentation_node.GetName() or "")


def size(segmentation_node: Any, segment_id: str) -> float:
    """mm³ of a segment in its own coordinates; 0 of one that is not there."""
    segment = segmentation_node.GetSegmentation().GetSegment(segment_id)
    converter = slicer.vtkSegmentationConverter
    if segment is None:
        return 0.0
    image = segment.GetRepresentation(converter.GetSegmentationBinaryLabelmapRepresentationName())
    if image is None:
        surface = segment.GetRepresentation(converter.GetSegmentationClosedSurfaceRepresentationName())
        return _enclosed(surface)
    scalars = image.GetPointData().GetScalars()
    if scalars is None or image.IsEmpty():
        return 0.0
    count = np.count_nonzero(vtk_to_numpy(scalars) == segment.GetLabelValue())
    return float(count * np.prod(image.GetSpacing()))


def _enclosed(surface: Any) -> float:
    if surface is None or not surface.GetNumberOfCells():
        return 0.0
    triangles, mass = vtk.vtkTriangleFilter(), vtk.vtkMassProperties()
    triangles.SetInputData(surface)
    mass.SetInputConnection(triangles.GetOutputPort())
    mass.Update()
    return float(mass.GetVolume())
