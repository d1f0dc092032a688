"""Targets: a segmentation in place of the network's prediction. Which segment is which structure, and its voxels.

A target is never changed: it is exported to a label map on the input's voxels, in the processing frame as the input is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

from AtlasISTNLib.errors import VolumeError
from AtlasISTNLib.topology import label_boxes
from AtlasISTNLib.volume import Volume

from . import frames, nodes, segments, structure_names
from .references import with_voxels

#: Role of the copy of the prediction that the user edits.
EDITED = "edited-prediction"
#: Label of a segment that is not used.
UNUSED = 0
_MOST_SEGMENTS = 32767  # Slicer merges segments into short integers


@dataclass(frozen=True)
class Match:
    """A segment of a target and what it stands for.

    Attributes:
        segment_id: in the segmentation.
        name: of the segment.
        color: RGB, 0 to 255.
        value: of the model's structure; `UNUSED` for none.
        chosen: whether the user said so.
    """

    segment_id: str
    name: str
    color: tuple[int, int, int]
    value: int
    chosen: bool = False


def match(
    segmentation_node: Any,
    labels: Sequence[Any],
    corrections: Mapping[str, int] | None = None,
) -> tuple[Match, ...]:
    """Which of a model's structures each segment of a segmentation is: by its name, else by its terminology.

    Several segments may be one structure. A segment that could be more than one structure is none, and left is never
    taken for right.

    Args:
        segmentation_node: a vtkMRMLSegmentationNode.
        labels: the model's labels, background first.
        corrections: what the user said, label value by segment ID; values that the model has not are ignored.
    """
    known = {label.value for label in labels[1:]} | {UNUSED}
    said = {key: value for key, value in (corrections or {}).items() if value in known}
    own = segmentation_node.GetAttribute(nodes.ROLE) == EDITED and nodes.is_ours(segmentation_node)
    found = []
    for segment_id in segment_ids(segmentation_node):
        segment = segmentation_node.GetSegmentation().GetSegment(segment_id)
        value = said.get(segment_id)
        if value is None:
            value = _own_value(segment_id, labels) if own else UNUSED
            value = value or _structure_of(segment, labels[1:])
        color = tuple(round(255 * c) for c in segment.GetColor())
        found.append(Match(segment_id, segment.GetName() or segment_id, color, value, segment_id in said))
    return tuple(found)


def segment_ids(segmentation_node: Any) -> list[str]:
    """IDs of all segments, in their order."""
    segmentation = segmentation_node.GetSegmentation()
    count = segmentation.GetNumberOfSegments() if segmentation is not None else 0
    return [segmentation.GetNthSegmentID(i) for i in range(count)]


def target_volume(segmentation_node: Any, matches: Sequence[Match], input_node: Any) -> Volume:
    """The matched segments as the model's label values (1, Z, Y, X) on the input's grid, in the processing frame.

    Segments may have any geometry, be closed surfaces only, and lie under any transforms. Where they overlap, the later
    one has the voxel.

    Raises:
        VolumeError: no segment is matched, or they cannot be brought to the input's voxels.
        GeometryError: as `frames.grid_of`.
    """
    used = [entry for entry in matches if entry.value != UNUSED][:_MOST_SEGMENTS]
    if not used:
        raise VolumeError(
            _("No segment of {name} is one of the model's structures").format(name=segmentation_node.GetName()),
            _("say which segment is which structure, in the table of Steer"),
        )
    order = merged(segmentation_node, [entry.segment_id for entry in used], input_node)
    values = np.array([0, *(entry.value for entry in used)])
    kind = np.uint8 if values.max() < 256 else np.int32
    array = values.astype(kind)[order][np.newaxis]
    if not array.any():
        raise VolumeError(
            _("No structure of {name} lies on {volume}").format(
                name=segmentation_node.GetName(), volume=input_node.GetName()
            ),
            _("does it belong to this volume, and is it under the right transform?"),
        )
    return Volume(array, frames.grid_of(input_node), segmentation_node.GetName() or "")


def merged(segmentation_node: Any, ids: Sequence[str], input_node: Any) -> np.ndarray:
    """Segments on the voxels of the input (Z, Y, X): 0, or the place in `ids` of a voxel's last segment, from 1.

    Raises:
        VolumeError: they cannot be brought there.
    """
    shape = input_node.GetImageData().GetDimensions()[::-1]
    wanted, numbers = vtk.vtkStringArray(), vtk.vtkIntArray()
    image = slicer.vtkOrientedImageData()
    with with_voxels(segmentation_node, input_node) as source:
        present = _with_content(source.GetSegmentation(), ids)  # Slicer refuses to merge what has no voxels
        for place, segment_id in enumerate(ids, 1):
            if segment_id in present:
                wanted.InsertNextValue(segment_id)
                numbers.InsertNextValue(place)
        if not present:
            return np.zeros(shape, dtype=np.int16)
        slicer.vtkSlicerSegmentationsModuleLogic.GenerateMergedLabelmapInReferenceGeometry(
            source, input_node, wanted, slicer.vtkSegmentation.EXTENT_REFERENCE_GEOMETRY, image, numbers
        )
    scalars = image.GetPointData().GetScalars() if image.GetPointData() else None
    if scalars is None or image.GetDimensions()[::-1] != shape:
        raise VolumeError(
            _("{name} cannot be brought to the voxels of {volume}").format(
                name=segmentation_node.GetName(), volume=input_node.GetName()
            ),
            _("does it belong to this volume?"),
        )
    return vtk_to_numpy(scalars).reshape(shape).copy()


def _with_content(segmentation: Any, ids: Sequence[str]) -> set[str]:
    """Those of the segments that have voxels; every label map is looked through once."""
    kind = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    seen: list[tuple[Any, set[int]]] = []
    found = set()
    for segment_id in ids:
        segment = segmentation.GetSegment(segment_id)
        image = segment.GetRepresentation(kind) if segment is not None else None
        scalars = image.GetPointData().GetScalars() if image is not None else None
        if scalars is None or not scalars.GetNumberOfTuples():
            continue
        if not any(image is other for other, _values in seen):
            seen.append((image, set(label_boxes(vtk_to_numpy(scalars).reshape(image.GetDimensions()[::-1])))))
        values = next(values for other, values in seen if other is image)
        if segment.GetLabelValue() in values:
            found.add(segment_id)
    return found


def refusal(segmentation_node: Any) -> str:
    """Why a segmentation can be no target; empty where it can."""
    if not segment_ids(segmentation_node):
        return _("{name} has no segments").format(name=segmentation_node.GetName())
    written = (nodes.SEGMENTATION, nodes.ONE_PASS, nodes.PREDICTION)
    if nodes.is_ours(segmentation_node) and segmentation_node.GetAttribute(nodes.ROLE) in written:
        return _("{name} is itself a result, which the next run replaces: fit to a copy of it").format(
            name=segmentation_node.GetName()
        )
    return ""


def edited_prediction(input_node: Any, model: str) -> Any:
    """The copy of the prediction that the user edits; None where there is none."""
    return nodes.find(input_node.GetScene(), EDITED, input_node, model)


def copy_prediction(input_node: Any, model: str) -> Any:
    """The copy of the prediction that the user edits, made now where there is none; one that is there stays as it is.

    Raises:
        VolumeError: there is no prediction to copy.
    """
    scene = input_node.GetScene()
    found = nodes.find(scene, EDITED, input_node, model)
    if found is not None:
        return found
    prediction = nodes.find(scene, nodes.PREDICTION, input_node, model)
    if prediction is None:
        raise VolumeError(_("There is no prediction to edit"), _("segment the volume first"))
    copy = nodes.get_or_add(scene, "vtkMRMLSegmentationNode", EDITED, input_node, model, _("– edited prediction"))
    with slicer.util.NodeModify(copy):
        copy.GetSegmentation().DeepCopy(prediction.GetSegmentation())
        copy.SetReferenceImageGeometryParameterFromVolumeNode(input_node)
    copy.CreateDefaultDisplayNodes()
    copy.GetDisplayNode().SetVisibility(True)
    return copy


def start_over(input_node: Any, model: str) -> Any:
    """A new copy of the prediction to edit; an earlier one is left to the user under another name.

    Raises:
        VolumeError: there is no prediction to copy.
    """
    scene = input_node.GetScene()
    before = nodes.find(scene, EDITED, input_node, model)
    if before is not None and nodes.find(scene, nodes.PREDICTION, input_node, model) is not None:
        nodes.leave_to_user(before, _("{name} (earlier)").format(name=before.GetName()))
    return copy_prediction(input_node, model)


def content_stamp(segmentation_node: Any, ids: Sequence[str]) -> tuple[Any, ...]:
    """What changes when the voxels or surfaces of segments do, or when a transform moves them."""
    segmentation = segmentation_node.GetSegmentation()
    source = segmentation.GetSourceRepresentationName()
    times = []
    for segment_id in ids:
        segment = segmentation.GetSegment(segment_id)
        shape = segment.GetRepresentation(source) if segment is not None else None
        times.append(
            (segment_id, -1 if segment is None else segment.GetLabelValue(), 0 if shape is None else shape.GetMTime())
        )
    return (segmentation_node.GetID(), source, tuple(times), placed_at(segmentation_node))


def placed_at(node: Any) -> tuple[Any, ...]:
    """What changes when the transforms above a node do."""
    parent = node.GetParentTransformNode()
    return () if parent is None else (parent.GetID(), parent.GetTransformToWorldMTime())


def _own_value(segment_id: str, labels: Sequence[Any]) -> int:
    return next((label.value for label in labels[1:] if segments.segment_id(label.value) == segment_id), UNUSED)


def _structure_of(segment: Any, labels: Sequence[Any]) -> int:
    """The value of the only structure that a segment can be, the surest way first; `UNUSED` where there is none."""
    name, (code, side) = segment.GetName() or "", structure_names.code_and_side(segment)
    own, said = structure_names.words(name), structure_names.words(structure_names.meaning(segment))
    whole = structure_names.whole_of(own)
    ways: tuple[Callable[[Any], bool], ...] = (
        lambda label: structure_names.plain_words(label.name) == structure_names.plain_words(name),
        lambda label: structure_names.words(label.name) == own,
        lambda label: structure_names.specific(label.snomed_code) == code != "" and _side_of(label) == side,
        lambda label: structure_names.specific(label.snomed_code) == code != "",
        lambda label: bool(said) and structure_names.words(label.name) == said,
        lambda label: structure_names.words(label.snomed_meaning) == own != (),
        lambda label: structure_names.words(label.name) == whole != (),
    )
    for way in ways:
        found = [label for label in labels if way(label)]
        if len(found) == 1 and len({_side_of(found[0]), side} - {""}) < 2:
            return int(found[0].value)
        if len(found) > 1:
            return UNUSED
    return UNUSED


def _side_of(label: Any) -> str:
    return structure_names.side(label.name) or structure_names.side(label.snomed_meaning)
