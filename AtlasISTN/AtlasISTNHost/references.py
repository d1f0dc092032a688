"""A user's segmentation as the truth to measure against: which segment is which structure, and where it lies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

from AtlasISTNLib.errors import VolumeError
from AtlasISTNLib.topology import foreground_box

from . import frames, structure_names
from .measures import Masked, Reference
from .structure_names import code_and_side, side, words


def reference_labels(segmentation_node: Any, input_node: Any, labels: Sequence[Any]) -> Reference:
    """The masks of a segmentation on the voxels of the input, under whatever transforms either lies.

    A segment is taken for a structure when their SNOMED codes agree and no other does, or else when their names do, see
    `structure_names`. The order of segments never counts. The segmentation itself stays as it is.

    Args:
        segmentation_node: a vtkMRMLSegmentationNode.
        input_node: the volume on whose voxels the result lies.
        labels: the model's labels; the background is ignored.

    Raises:
        VolumeError: the segmentation is empty or cannot be brought to voxels.
    """
    name, segmentation = segmentation_node.GetName(), segmentation_node.GetSegmentation()
    if segmentation is None or not segmentation.GetNumberOfSegments():
        raise VolumeError(
            _("{name} has no segments").format(name=name), _("choose a segmentation to compare with that has some")
        )
    structures = [label for label in labels if label.value != 0]
    matched, unused = match_segments(segmentation, structures)
    with with_voxels(segmentation_node, input_node) as source:
        masks = {value: mask_on_voxels(source, segment_id, input_node) for value, segment_id in matched.items()}
    return Reference(
        name=name,
        grid=frames.grid_of(input_node),
        masks=masks,
        matched={value: segmentation.GetSegment(segment_id).GetName() for value, segment_id in matched.items()},
        missing=tuple(label.name for label in structures if label.value not in matched),
        unused=tuple(segmentation.GetSegment(segment_id).GetName() for segment_id in unused),
    )


def match_segments(segmentation: Any, labels: Sequence[Any]) -> tuple[dict[int, str], list[str]]:
    """Which segment is which structure.

    Args:
        segmentation: a vtkSegmentation.
        labels: structures with `value`, `name`, `snomed_code` and `snomed_meaning`.

    Returns:
        the segment's id by label value, and the ids of segments that are nobody's. Where more than one segment or more
        than one structure could be meant, none is taken.
    """
    ids = [segmentation.GetNthSegmentID(i) for i in range(segmentation.GetNumberOfSegments())]
    segments = {segment_id: segmentation.GetSegment(segment_id) for segment_id in ids}
    matched: dict[int, str] = {}
    # The surest first; what one way finds is out of the others' reach.
    ways: tuple[tuple[Callable[[Any], Any], Callable[[Any], Any]], ...] = (
        (lambda label: _full(label.snomed_code, side(label.name)), lambda segment: _full(*code_and_side(segment))),
        (lambda label: words(label.name), lambda segment: words(segment.GetName())),
        (lambda label: structure_names.specific(label.snomed_code), lambda segment: code_and_side(segment)[0]),
        (lambda label: words(label.snomed_meaning), lambda segment: words(segment.GetName())),
    )
    for of_label, of_segment in ways:
        open_labels = {label.value: label for label in labels if label.value not in matched}
        open_segments = {i: segment for i, segment in segments.items() if i not in matched.values()}
        pairs = _pairs(
            {value: of_label(label) for value, label in open_labels.items()},
            {i: of_segment(segment) for i, segment in open_segments.items()},
        )
        for value, segment_id in pairs.items():
            sides = {side(open_labels[value].name), code_and_side(open_segments[segment_id])[1]} - {""}
            if len(sides) < 2:  # never left for right
                matched[value] = segment_id
    return matched, [i for i in ids if i not in matched.values()]


def _pairs(labels: Mapping[int, Any], segments: Mapping[str, Any]) -> dict[int, str]:
    """Pairs of equal keys that occur once on either side; empty keys are equal to nothing."""
    found = {}
    for value, key in labels.items():
        same = [i for i, other in segments.items() if other == key]
        alone = sum(other == key for other in labels.values()) == 1
        if key and alone and len(same) == 1:
            found[value] = same[0]
    return found


def _full(code: str, side: str) -> tuple[str, ...]:
    """The key of a code with its side; a code that says nothing has none."""
    return (code, side) if structure_names.specific(code) else ()


@contextmanager
def with_voxels(node: Any, input_node: Any) -> Any:
    """The segmentation, or a copy that is made of voxels where it has none; the copy leaves the scene again."""
    kind = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    if node.GetSegmentation().ContainsRepresentation(kind):
        yield node
        return
    copy = slicer.vtkMRMLSegmentationNode()
    copy.SetHideFromEditors(True)
    copy.SetName("AtlasISTN reference")
    slicer.mrmlScene.AddNode(copy)
    try:
        copy.GetSegmentation().DeepCopy(node.GetSegmentation())
        copy.SetAndObserveTransformNodeID(node.GetTransformNodeID())
        copy.SetReferenceImageGeometryParameterFromVolumeNode(input_node)  # as fine as what it is for
        if not copy.GetSegmentation().CreateRepresentation(kind):
            raise VolumeError(
                _("{name} cannot be brought to voxels").format(name=node.GetName()),
                _("give it a binary labelmap representation in the Segmentations module"),
            )
        yield copy
    finally:
        slicer.mrmlScene.RemoveNode(copy)


def mask_on_voxels(node: Any, segment_id: str, input_node: Any) -> Masked:
    """One segment of a segmentation that has voxels, on those of the input, under whatever transforms either lies.

    Raises:
        VolumeError: it cannot be brought there.
    """
    merged = slicer.vtkOrientedImageData()
    wanted = vtk.vtkStringArray()
    wanted.InsertNextValue(segment_id)
    slicer.vtkSlicerSegmentationsModuleLogic.GenerateMergedLabelmapInReferenceGeometry(
        node, input_node, wanted, slicer.vtkSegmentation.EXTENT_REFERENCE_GEOMETRY, merged
    )
    shape = tuple(reversed(input_node.GetImageData().GetDimensions()))
    scalars = merged.GetPointData().GetScalars() if merged.GetPointData() else None
    if scalars is None or tuple(reversed(merged.GetDimensions())) != shape:
        raise VolumeError(
            _("{segment} of {name} cannot be brought to the voxels of {volume}").format(
                segment=node.GetSegmentation().GetSegment(segment_id).GetName(),
                name=node.GetName(),
                volume=input_node.GetName(),
            )
        )
    mask = vtk_to_numpy(scalars).reshape(shape) != 0
    box = foreground_box(mask)
    return box, mask[box].copy()
