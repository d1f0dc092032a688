"""Segments: label maps of a result as segmentation nodes, and what in them belongs to the user.

All structures share one binary label map, so that writing is quick and no surface is made. What we gave to a segment
(name, colour, terminology and a fingerprint of its voxels) stands in an attribute of the node; what differs from it was
changed by the user and is kept. A segmentation whose voxels the user changed is never written over.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk
from numpy.typing import NDArray
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from AtlasISTNLib.geometry import Float, transform_points
from AtlasISTNLib.manifest import Label
from AtlasISTNLib.topology import label_boxes
from AtlasISTNLib.volume import Volume

from . import frames, nodes

#: Attribute of the node: what we gave to its segments, as JSON.
WRITTEN = "AtlasISTN.Written"
_TERMINOLOGY = "Segmentation category and type - 3D Slicer General Anatomy list"
_REGIONS = "Anatomic codes - DICOM master list"
_CATEGORY = "SCT^123037004^Anatomical Structure"
_NO_CODE = "^^"
#: How far voxels may have moved by being written to a file and read again, as a part of the smallest voxel side.
_MOVED = 0.01


@dataclass(frozen=True, eq=False)
class Layer:
    """A label map ready for a segmentation node.

    Attributes:
        image: vtkOrientedImageData, cut to where labels are. It replaces the one before, which a segment that the user
            drew into it keeps.
        prints: fingerprint of each structure's voxels by its value; None where it has none.
    """

    image: Any
    prints: Mapping[int, dict[str, Any] | None]


def segment_id(value: int) -> str:
    """The ID of the segment of a label; the same in every run."""
    return f"AtlasISTN_{value}"


def layer_of(labels: Volume, structures: Sequence[Label], matrix: Float) -> Layer:
    """Prepare a label map; nothing in the scene changes.

    Args:
        labels: (1, Z, Y, X), label values.
        structures: background first.
        matrix: (4, 4), voxel index to local RAS of the node.
    """
    array = labels.array[0]
    values = [label.value for label in structures[1:]]
    found = {value: box for value, box in label_boxes(array).items() if value in values}
    start = [min((box[axis].start for box in found.values()), default=0) for axis in range(3)]
    stop = [max((box[axis].stop for box in found.values()), default=1) for axis in range(3)]
    part = array[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    # The Segment Editor looks for free values beyond the largest, which a byte may not have.
    kind = np.uint8 if max(values, default=0) < 255 else np.int16 if max(values) < 32767 else np.int32
    own = np.where(np.isin(part, values), part, 0).astype(kind)
    image = slicer.vtkOrientedImageData()
    extent = [n for axis in (2, 1, 0) for n in (start[axis], stop[axis] - 1)]
    image.SetExtent(*extent)
    image.SetGeometryFromImageToWorldMatrix(frames.vtk_matrix(matrix))
    scalars = numpy_to_vtk(own.ravel(), deep=True)
    scalars.SetName("ImageScalars")
    image.GetPointData().SetScalars(scalars)
    prints = {
        value: _fingerprint(array[found[value]] == value, found[value], matrix) if value in found else None
        for value in values
    }
    return Layer(image, prints)


def write_segmentation(
    layer: Layer,
    role: str,
    name: str,
    structures: Sequence[Label],
    input_node: Any,
    model: str,
    changes: nodes.Changes | None = None,
) -> Any:
    """Create or update one of our segmentation nodes for an input and a model.

    The user's own segments in it, and names, colours, terminology and visibility that the user gave to ours, stay. A
    node whose voxels were edited is left to the user as "<name> (edited)", and a new one is made.

    Args:
        layer: see `layer_of`.
        role: of the node.
        name: see `nodes.get_or_add`.
        structures: background first.
        model: the model's name.
        changes: where to register how to undo it.
    """
    scene = input_node.GetScene()
    node = nodes.find(scene, role, input_node, model)
    if node is not None and edited(node):
        nodes.leave_to_user(node, _("{name} (edited)").format(name=node.GetName()), changes)
        node = None
    fresh = node is None
    node = nodes.get_or_add(scene, "vtkMRMLSegmentationNode", role, input_node, model, name, changes)
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().SetVisibility(role == nodes.SEGMENTATION)
    if changes is not None and not fresh:
        changes.undo_with(_memory_of(node))
    with slicer.util.NodeModify(node):
        node.SetReferenceImageGeometryParameterFromVolumeNode(input_node)
        _fill(node, layer, structures)
    return node


def edited(node: Any) -> bool:
    """Whether voxels of our segments in a node of ours are no longer those that we wrote; removed ones do not count."""
    given = _given(node)
    segmentation = node.GetSegmentation()
    present = [key for key in given if segmentation.GetSegment(key) is not None]
    if not present:
        return False
    if segmentation.GetSourceRepresentationName() != _labelmap_name():
        return True
    now = _prints_of(segmentation, present)
    return any(not _same_voxels(given[key]["voxels"], now[key]) for key in present)


def terminology(label: Label) -> str:
    """The terminology entry of a structure as Slicer writes it; empty without a SNOMED CT code."""
    if not label.snomed_code:
        return ""
    meaning = label.snomed_meaning or label.name
    for mark in "~^|":  # they separate the parts of an entry, and entries
        meaning = meaning.replace(mark, " ")
    parts = (_TERMINOLOGY, _CATEGORY, f"SCT^{label.snomed_code}^{meaning}", _NO_CODE, _REGIONS, _NO_CODE, _NO_CODE)
    return "~".join(parts)


def _fill(node: Any, layer: Layer, structures: Sequence[Label]) -> None:
    segmentation = node.GetSegmentation()
    given = _given(node)
    wanted = {segment_id(label.value): label for label in structures[1:]}
    for key in set(given) - set(wanted):  # structures that the model had once
        segmentation.RemoveSegment(key)
    written = {}
    for key, label in wanted.items():
        segment = segmentation.GetSegment(key)
        fresh = segment is None
        if fresh:
            segment = slicer.vtkSegment()
        segment.SetLabelValue(label.value)
        segment.AddRepresentation(_labelmap_name(), layer.image)
        known = {} if fresh else given.get(key, {})
        written[key] = {**_describe(segment, label, known, fresh), "voxels": layer.prints[label.value]}
        if fresh:
            segmentation.AddSegment(segment, key)
    node.SetAttribute(WRITTEN, json.dumps(written, ensure_ascii=False))
    layer.image.Modified()  # now surfaces of the old voxels go, and displays and editors are told


def _describe(segment: Any, label: Label, known: Mapping[str, Any], fresh: bool) -> dict[str, Any]:
    """Give a segment its name, colour and terminology, except for what the user changed; what we gave, in our words."""
    tag = segment.GetTerminologyEntryTagName()
    entry = terminology(label)
    if fresh or segment.GetName() == known.get("name"):
        segment.SetName(label.name)
        segment.SetNameAutoGenerated(False)
    if fresh or _color(segment) == known.get("color"):
        segment.SetColor(*(c / 255 for c in label.color))
        segment.SetColorAutoGenerated(False)
    if fresh or _tag(segment, tag) == known.get("terminology"):
        if entry:
            segment.SetTag(tag, entry)
        else:
            segment.RemoveTag(tag)
    return {"name": label.name, "color": list(label.color), "terminology": entry}


def _memory_of(node: Any) -> Any:
    """An action that brings our segments back to what they are now: label maps are replaced, never changed."""
    segmentation, written = node.GetSegmentation(), node.GetAttribute(WRITTEN)
    name = _labelmap_name()
    ours = [(key, segmentation.GetSegment(key)) for key in _given(node)]
    kept = []
    for key, segment in ours:
        if segment is not None:
            copy = slicer.vtkSegment()
            copy.DeepCopyMetadata(segment)
            kept.append((key, segment, segment.GetRepresentation(name), copy))

    def again() -> None:
        for key in _given(node):
            if key not in {k for k, *_others in kept}:
                segmentation.RemoveSegment(key)
        for key, segment, image, copy in kept:
            segment.DeepCopyMetadata(copy)
            segment.AddRepresentation(name, image)
            if segmentation.GetSegment(key) is None:
                segmentation.AddSegment(segment, key)
        node.SetAttribute(WRITTEN, written)

    return again


def _given(node: Any) -> dict[str, Any]:
    """What we gave to the segments of a node, by ID; empty where the attribute is absent or damaged."""
    found = nodes.recall(node, WRITTEN)
    return found if isinstance(found, dict) else {}


def _prints_of(segmentation: Any, keys: Sequence[str]) -> dict[str, dict[str, Any] | None]:
    """Fingerprints of segments as they are; every label map is looked through once."""
    seen: list[tuple[Any, NDArray[Any] | None, Mapping[int, Any]]] = []
    found: dict[str, dict[str, Any] | None] = {}
    for key in keys:
        segment = segmentation.GetSegment(key)
        image = segment.GetRepresentation(_labelmap_name())
        if not any(image is other for other, *_rest in seen):
            voxels = _array(image)
            seen.append((image, voxels, {} if voxels is None else label_boxes(voxels)))
        _image, array, boxes = next(entry for entry in seen if entry[0] is image)
        value = segment.GetLabelValue()
        box = boxes.get(value)
        if array is None or box is None:
            found[key] = None
            continue
        matrix = vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(matrix)
        first = image.GetExtent()[::2][::-1]
        place = tuple(slice(s.start + a, s.stop + a) for s, a in zip(box, first, strict=True))
        found[key] = _fingerprint(array[box] == value, place, slicer.util.arrayFromVTKMatrix(matrix))
    return found


def _array(image: Any) -> NDArray[Any] | None:
    """Voxels (K, J, I) of a label map; None where there are none."""
    scalars = image.GetPointData().GetScalars() if image is not None else None
    if scalars is None or not scalars.GetNumberOfTuples():
        return None
    return vtk_to_numpy(scalars).reshape(image.GetDimensions()[::-1])


def _fingerprint(mask: NDArray[np.bool_], box: Sequence[slice], matrix: Float) -> dict[str, Any]:
    """What tells a mask (Z, Y, X) in its tight box from every other: its voxels and where in the world they lie."""
    corner = transform_points(matrix, np.array([s.start for s in box][::-1], dtype=np.float64))
    return {
        "sha256": hashlib.sha256(np.packbits(mask).tobytes()).hexdigest(),
        "size": list(mask.shape),
        "corner": corner.tolist(),
        "axes": np.asarray(matrix)[:3, :3].ravel().tolist(),
    }


def _same_voxels(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    if one is None or other is None:
        return one is other
    if one["sha256"] != other["sha256"] or list(one["size"]) != list(other["size"]):
        return False
    axes = np.array(one["axes"]).reshape(3, 3)
    near = _MOVED * np.linalg.norm(axes, axis=0).min()
    # The far corner moves most where the axes turn.
    reach = max(one["size"])
    turned = np.abs(axes.ravel() - np.array(other["axes"])).max() * reach
    return bool(np.abs(np.array(one["corner"]) - np.array(other["corner"])).max() <= near and turned <= near)


def _color(segment: Any) -> list[int]:
    return [round(c * 255) for c in segment.GetColor()]


def _tag(segment: Any, name: str) -> str:
    value = vtk.reference("")
    return str(value) if segment.GetTag(name, value) else ""


def _labelmap_name() -> str:
    return str(slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName())
