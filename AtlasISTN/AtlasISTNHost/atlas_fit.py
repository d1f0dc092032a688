"""The fitted atlas as segments of a segmentation that somebody edits: which it replaces, where, and the replacement.

Only segments that are a structure of the model, one each, are replaced. Others stay as they are, voxel by voxel, even
where the atlas comes to lie over them: segments may overlap. The editor's editable area and intensities hold; a segment
keeps the voxels that it had outside of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk
from numpy.typing import NDArray
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from AtlasISTNLib.errors import GeometryError, VolumeError
from AtlasISTNLib.volume import Volume

from . import frames, targets

_BETWEEN = "; "
#: So many names of a list are said.
_FEW = 8


@dataclass(frozen=True)
class Plan:
    """What a fit does to the segments of a segmentation.

    Attributes:
        matches: of every segment, see `targets.match`; those with a value are what the atlas is fitted to.
        replaced: label value by the ID of each segment that the atlas replaces.
        names: of those segments; it is said where one is hidden.
        kept: names of the segments that stay as they are.
        absent: names of structures that no segment stands for.
        undrawn: label values of structures that no segment stands for.
    """

    matches: tuple[targets.Match, ...]
    replaced: Mapping[str, int]
    names: tuple[str, ...]
    kept: tuple[str, ...]
    absent: tuple[str, ...]
    undrawn: tuple[int, ...]

    @property
    def text(self) -> str:
        """The plan in a sentence or two, for people; of long lists, the beginning."""
        return self._say(_FEW)

    @property
    def full_text(self) -> str:
        """The same with all names."""
        return self._say(None)

    def _say(self, most: int | None) -> str:
        if not self.replaced:
            return _("No segment is a structure of this model: name the segments as the model's structures.")
        parts = [_("To be replaced: {names}.").format(names=_listed(self.names, most))]
        if self.kept:
            parts.append(_("Stay as they are: {names}.").format(names=_listed(self.kept, most)))
        if self.absent:
            parts.append(_("Without a segment: {names}.").format(names=_listed(self.absent, most)))
        return " ".join(parts)


@dataclass(frozen=True, eq=False)
class Change:
    """New label maps for segments, ready to be written.

    Attributes:
        images: by segment ID, a vtkOrientedImageData of 0 and 1 in the segmentation's own coordinates.
    """

    images: Mapping[str, Any]


def plan(segmentation_node: Any, labels: Sequence[Any]) -> Plan:
    """Which segments a model's atlas would be fitted to, and which of them it would replace.

    A structure that several segments stand for is fitted to all of them together, and replaces none.

    Args:
        segmentation_node: a vtkMRMLSegmentationNode.
        labels: the model's labels, background first.
    """
    matches = targets.match(segmentation_node, labels)
    values = [match.value for match in matches]
    alone = [match for match in matches if match.value != targets.UNUSED and values.count(match.value) == 1]
    return Plan(
        matches=matches,
        replaced={match.segment_id: match.value for match in alone},
        names=tuple(_named(match, segmentation_node) for match in alone),
        kept=tuple(match.name for match in matches if match not in alone),
        absent=tuple(label.name for label in labels[1:] if label.value not in values),
        undrawn=tuple(label.value for label in labels[1:] if label.value not in values),
    )


def change(
    segmentation_node: Any,
    labels: Volume,
    replaced: Mapping[str, int],
    input_node: Any,
    editor_node: Any = None,
) -> Change:
    """Prepare the replacement of segments by structures of a label map; nothing in the scene changes.

    Args:
        segmentation_node: what is edited; under any transform.
        labels: label values (1, Z, Y, X) on the voxels of the input, as the engine gave them.
        replaced: label value by segment ID.
        input_node: the volume that was given to the engine; under any transform.
        editor_node: the vtkMRMLSegmentEditorNode whose editable area and intensities hold; None for everywhere.

    Raises:
        GeometryError: the input's voxels have changed since.
        VolumeError: a segment is gone, or has no voxels.
    """
    frames.frame_of_result(labels.grid, input_node)  # raises where the voxels are others now
    _check_segments(segmentation_node, replaced)
    reference = reference_geometry(segmentation_node, input_node)
    carried = _array(_on_reference(_label_image(labels, input_node), reference, input_node, segmentation_node))
    images = {}
    for segment_id, value in replaced.items():
        mask = carried == value
        barred = _barred(segmentation_node, segment_id, reference, input_node, editor_node)
        if barred is not None:
            mask = np.where(barred, _voxels(segmentation_node, segment_id, reference), mask)
        images[segment_id] = _image(mask.astype(np.uint8), reference)
    return Change(images)


def apply(segmentation_node: Any, prepared: Change) -> None:
    """Write a change into the segmentation. If anything fails, the segments are as they were.

    Whoever wants it to be one step that can be undone saves the state just before.

    Raises:
        VolumeError: a segment is gone, or Slicer could not write it.
    """
    _check_segments(segmentation_node, prepared.images)
    logic, segmentation = slicer.vtkSlicerSegmentationsModuleLogic, segmentation_node.GetSegmentation()
    before = slicer.vtkSegmentationHistory()
    before.SetSegmentation(segmentation)
    before.SaveState()
    try:
        with slicer.util.NodeModify(segmentation_node):
            for segment_id, image in prepared.images.items():
                if not logic.SetBinaryLabelmapToSegment(image, segmentation_node, segment_id, logic.MODE_REPLACE):
                    name = segmentation.GetSegment(segment_id).GetName()
                    raise VolumeError(_("{segment} could not be replaced").format(segment=name))
                segment = segmentation.GetSegment(segment_id)
                if logic.GetSegmentStatus(segment) == logic.NotStarted:
                    logic.SetSegmentStatus(segment, logic.InProgress)
    except BaseException:
        before.RestorePreviousState()
        raise
    finally:
        before.SetSegmentation(None)


def reference_geometry(segmentation_node: Any, input_node: Any) -> Any:
    """The voxels on which a segmentation is edited, as the Segment Editor has them: a vtkOrientedImageData, no values.

    Those that the segmentation says, grown to where its segments reach; else those of its label maps; else the input's.

    Raises:
        GeometryError: there are none.
    """
    segmentation, converter = segmentation_node.GetSegmentation(), slicer.vtkSegmentationConverter
    text = segmentation.GetConversionParameter(converter.GetReferenceImageGeometryParameterName())
    if not text and segmentation.ContainsRepresentation(converter.GetBinaryLabelmapRepresentationName()):
        text = segmentation.DetermineCommonLabelmapGeometry()
    found = slicer.vtkOrientedImageData()
    if not text:
        found.SetExtent(*input_node.GetImageData().GetExtent())
        matrix = vtk.vtkMatrix4x4()
        input_node.GetIJKToRASMatrix(matrix)
        found.SetGeometryFromImageToWorldMatrix(matrix)
    else:
        converter.DeserializeImageGeometry(text, found, False)
        reached = [0, -1, 0, -1, 0, -1]
        segmentation.DetermineCommonLabelmapExtent(reached, found, vtk.vtkStringArray())
        if all(low <= high for low, high in zip(reached[::2], reached[1::2], strict=True)):
            sides = zip((min, max) * 3, found.GetExtent(), reached, strict=True)
            found.SetExtent(*(farther(own, other) for farther, own, other in sides))
    if min(found.GetDimensions()) < 1:
        raise GeometryError(
            _("{name} has no voxels to be edited on").format(name=segmentation_node.GetName()),
            _("choose a source volume in the Segment Editor"),
        )
    return found


def _listed(names: Sequence[str], most: int | None) -> str:
    if most is None or len(names) <= most:
        return _BETWEEN.join(names)
    said = _BETWEEN.join(names[: most - 1])
    return _("{names} and {count} more").format(names=said, count=len(names) - most + 1)


def _named(match: targets.Match, segmentation_node: Any) -> str:
    display = segmentation_node.GetDisplayNode()
    if display is None or (display.GetVisibility() and display.GetSegmentVisibility(match.segment_id)):
        return match.name
    return _("{segment} (hidden)").format(segment=match.name)


def _check_segments(segmentation_node: Any, ids: Any) -> None:
    segmentation = segmentation_node.GetSegmentation()
    kind = slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
    for segment_id in ids:
        segment = segmentation.GetSegment(segment_id)
        if segment is None:
            raise VolumeError(
                _("A segment of {name} was removed").format(name=segmentation_node.GetName()), _("fit the atlas again")
            )
        if segmentation.GetSourceRepresentationName() != kind or segment.GetRepresentation(kind) is None:
            raise VolumeError(
                _("{segment} has no voxels").format(segment=segment.GetName()),
                _("make the binary labelmap the source representation, in the Segmentations module"),
            )


def _label_image(labels: Volume, input_node: Any) -> Any:
    """A label map as an image in the input's own coordinates."""
    array = labels.array[0]
    kind = np.uint8 if array.max(initial=0) < 256 else np.int32
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(*array.shape[::-1])
    image.SetGeometryFromImageToWorldMatrix(frames.vtk_matrix(frames.ijk_to_ras(input_node)))
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(array, dtype=kind).ravel(), deep=True))
    return image


def _on_reference(image: Any, reference: Any, input_node: Any, segmentation_node: Any, linear: bool = False) -> Any:
    """An image of the input's coordinates on the voxels of the reference, in the segmentation's coordinates."""
    parents = input_node.GetParentTransformNode(), segmentation_node.GetParentTransformNode()
    transform = None
    if parents[0] is not parents[1]:
        transform = vtk.vtkGeneralTransform()
        slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(*parents, transform)
    found = slicer.vtkOrientedImageData()
    resample = slicer.vtkOrientedImageDataResample
    if not resample.ResampleOrientedImageToReferenceOrientedImage(image, reference, found, linear, False, transform):
        raise GeometryError(
            _("The atlas cannot be brought to the voxels of {name}").format(name=segmentation_node.GetName())
        )
    return found


def _barred(
    segmentation_node: Any, segment_id: str, reference: Any, input_node: Any, editor_node: Any
) -> NDArray[np.bool_] | None:
    """Where a segment may not be edited, on the reference's voxels; None where it may be everywhere."""
    if editor_node is None:
        return None
    mode = editor_node.GetMaskMode()
    intensities = bool(editor_node.GetSourceVolumeIntensityMask())
    if mode == slicer.vtkMRMLSegmentationNode.EditAllowedEverywhere and not intensities:
        return None
    found = slicer.vtkOrientedImageData()
    inside = editor_node.GetMaskSegmentID() or ""
    if not segmentation_node.GenerateEditMask(found, mode, reference, segment_id, inside):
        raise VolumeError(_("The editable area of {name} is unclear").format(name=segmentation_node.GetName()))
    barred = _array(found) != 0
    if intensities:
        barred |= ~_in_range(segmentation_node, reference, input_node, editor_node.GetSourceVolumeIntensityMaskRange())
    return barred


def _in_range(
    segmentation_node: Any, reference: Any, input_node: Any, limits: tuple[float, float]
) -> NDArray[np.bool_]:
    image, source, matrix = input_node.GetImageData(), slicer.vtkOrientedImageData(), vtk.vtkMatrix4x4()
    source.SetExtent(*image.GetExtent())
    source.GetPointData().SetScalars(image.GetPointData().GetScalars())
    input_node.GetIJKToRASMatrix(matrix)
    source.SetGeometryFromImageToWorldMatrix(matrix)
    values = _array(_on_reference(source, reference, input_node, segmentation_node, linear=True))
    return np.asarray((values >= limits[0]) & (values <= limits[1]))


def _voxels(segmentation_node: Any, segment_id: str, reference: Any) -> NDArray[np.bool_]:
    """A segment's own voxels, on those of the reference."""
    own, found = slicer.vtkOrientedImageData(), slicer.vtkOrientedImageData()
    segmentation_node.GetBinaryLabelmapRepresentation(segment_id, own)
    if min(own.GetDimensions()) < 1:  # empty
        return np.zeros(reference.GetDimensions()[::-1], dtype=np.bool_)
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(own, reference, found)
    return _array(found) != 0


def _image(array: NDArray[np.uint8], reference: Any) -> Any:
    matrix = vtk.vtkMatrix4x4()
    reference.GetImageToWorldMatrix(matrix)
    image = slicer.vtkOrientedImageData()
    image.SetExtent(*reference.GetExtent())
    image.SetGeometryFromImageToWorldMatrix(matrix)
    scalars = numpy_to_vtk(np.ascontiguousarray(array).ravel(), deep=True)
    scalars.SetName("ImageScalars")
    image.GetPointData().SetScalars(scalars)
    return image


def _array(image: Any) -> NDArray[Any]:
    """Values (K, J, I) of an image, not copied."""
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
