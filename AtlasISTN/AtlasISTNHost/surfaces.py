"""Surfaces: the atlas's structures as models on the patient. They are made once for an atlas and then only moved.

A vertex keeps its index in every patient, so that vertices of two patients correspond.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray, vtk_to_numpy

from AtlasISTNLib.correspondence import Correspondence
from AtlasISTNLib.geometry import VOXEL, WORLD, Float
from AtlasISTNLib.manifest import Label, Manifest
from AtlasISTNLib.volume import Volume

from . import frames, nodes

#: Windowed sinc: takes the steps of voxels away and leaves size and shape.
_ROUNDS, _PASS_BAND = 20, 0.1
#: Attribute of a model's node: the colour that we gave to it.
_COLOR = "AtlasISTN.Color"


@dataclass(frozen=True, eq=False)
class Surface:
    """A closed triangle mesh of one structure of an atlas.

    Attributes:
        points: (V, 3), LPS mm in atlas space, float64.
        triangles: (T, 3), indices of points, counter-clockwise seen from outside.
    """

    points: Float
    triangles: NDArray[np.int64]


def atlas_surfaces(manifest: Manifest, soft_labels: Volume) -> dict[int, Surface]:
    """The surface of every structure of an atlas by its label value, always with the same vertices in the same order.

    The surface lies where the structure's weight equals the largest of the others. A structure that is nowhere the
    largest has none, and so have those of a 2D atlas.

    Args:
        manifest: says which channel is which label.
        soft_labels: (K, Z, Y, X), background first.
    """
    if soft_labels.grid.ndim != 3:
        return {}
    matrix = soft_labels.grid.matrix(WORLD, VOXEL)
    weights = soft_labels.array.astype(np.float32)
    found = {}
    for channel, label in enumerate(manifest.labels[1:], 1):
        others = np.delete(weights, channel, axis=0).max(axis=0)
        surface = _surface(weights[channel] - others, matrix)
        if surface is not None:
            found[label.value] = surface
    return found


def show_surfaces(
    surfaces: Mapping[int, Surface],
    correspondence: Correspondence,
    input_node: Any,
    manifest: Manifest,
    labels: Sequence[Label],
    frame: frames.Frame | None = None,
    changes: nodes.Changes | None = None,
) -> dict[int, Any]:
    """Create or update our model nodes of an input and a model, under the input's parent transform.

    Args:
        surfaces: see `atlas_surfaces`.
        correspondence: 3D, in the processing frame.
        manifest: of the model.
        labels: with the colours to show; the background is passed over.
        frame: of the input when the correspondence was computed; as it is now by default.
        changes: where to register how to undo it.

    Returns:
        The nodes by label value.
    """
    frame = frame or frames.processing_frame(input_node)
    made = {
        label.value: (label, poly_data(surfaces[label.value], correspondence, frame))
        for label in labels
        if label.value in surfaces
    }
    return place_surfaces(made, input_node, manifest.about.name, changes)


def place_surfaces(
    made: Mapping[int, tuple[Label, Any]], input_node: Any, model: str, changes: nodes.Changes | None = None
) -> dict[int, Any]:
    """Put meshes (label and vtkPolyData by value) into our model nodes."""
    found = {}
    for value, (label, mesh) in made.items():
        node = nodes.get_or_add(
            input_node.GetScene(),
            "vtkMRMLModelNode",
            nodes.surface_role(value),
            input_node,
            model,
            label.name,
            changes,
        )
        if changes is not None:
            before = node.GetPolyData()
            changes.undo_with(lambda node=node, before=before: node.SetAndObservePolyData(before))
        with slicer.util.NodeModify(node):
            node.SetAndObservePolyData(mesh)
            _color(node, label)
        found[value] = node
    return found


def show_outlines(model_nodes: Mapping[int, Any], on: bool) -> None:
    """Draw surfaces as outlines in the slices, too: while they move, a label map that stands still says less."""
    for node in model_nodes.values():
        if nodes.in_scene(node) and node.GetDisplayNode() is not None:
            node.GetDisplayNode().SetVisibility2D(on)
            node.GetDisplayNode().SetSliceIntersectionThickness(2)


def move_surfaces(
    model_nodes: Mapping[int, Any],
    surfaces: Mapping[int, Surface],
    correspondence: Correspondence,
    frame: frames.Frame,
) -> None:
    """Move the vertices of model nodes in place, as a live preview wants; a mesh that is no longer ours is replaced.

    Args:
        model_nodes: by label value, from `show_surfaces`.
        surfaces: from which they were made.
        correspondence: the new one.
        frame: of the input.
    """
    values = [value for value in model_nodes if value in surfaces]
    if not values:
        return
    # One call for all vertices: most of its cost is that of being called.
    points = np.concatenate([surfaces[value].points for value in values])
    local = frame.to_local(correspondence.image_from_atlas(points)).astype(np.float32)
    ends = np.cumsum([len(surfaces[value].points) for value in values])[:-1]
    for value, part in zip(values, np.split(local, ends), strict=True):
        node, mesh = model_nodes[value], model_nodes[value].GetPolyData()
        if mesh is None or mesh.GetNumberOfPoints() != len(part) or mesh.GetPoints().GetDataType() != vtk.VTK_FLOAT:
            node.SetAndObservePolyData(_mesh(surfaces[value], part, _mirrored(frame)))
            continue
        vtk_to_numpy(mesh.GetPoints().GetData())[:] = part
        mesh.GetPoints().Modified()
        _set_normals(mesh)
        mesh.Modified()


def poly_data(surface: Surface, correspondence: Correspondence, frame: frames.Frame) -> Any:
    """A surface carried to the patient, as vtkPolyData in local RAS with normals at its points."""
    local = frame.to_local(correspondence.image_from_atlas(surface.points))
    return _mesh(surface, local.astype(np.float32), _mirrored(frame))


def _surface(field: NDArray[np.float32], matrix: Float) -> Surface | None:
    """The surface of a field's zero, (Z, Y, X), positive inside, in the world of `matrix` (voxel index to mm)."""
    if not (field > 0).any():
        return None
    # A layer of outside closes the surface where a structure touches the border.
    padded = np.pad(field, 1, constant_values=min(-1.0, float(field.min())))
    image = vtk.vtkImageData()
    image.SetDimensions(padded.shape[::-1])
    image.SetOrigin(-1, -1, -1)
    image.GetPointData().SetScalars(numpy_to_vtk(padded.ravel(), deep=True))
    contour = vtk.vtkFlyingEdges3D()
    contour.SetInputData(image)
    contour.SetValue(0, 0.0)
    contour.ComputeNormalsOff()
    contour.ComputeGradientsOff()
    contour.ComputeScalarsOff()
    smooth = vtk.vtkWindowedSincPolyDataFilter()
    smooth.SetInputConnection(contour.GetOutputPort())
    smooth.SetNumberOfIterations(_ROUNDS)
    smooth.SetPassBand(_PASS_BAND)
    smooth.NormalizeCoordinatesOn()
    smooth.NonManifoldSmoothingOn()
    smooth.FeatureEdgeSmoothingOff()
    smooth.BoundarySmoothingOff()
    smooth.Update()
    mesh = smooth.GetOutput()
    if not mesh.GetNumberOfPolys():
        return None
    index = vtk_to_numpy(mesh.GetPoints().GetData()).astype(np.float64)
    points = index @ matrix[:3, :3].T + matrix[:3, 3]
    triangles = vtk_to_numpy(mesh.GetPolys().GetConnectivityArray()).reshape(-1, 3).astype(np.int64)
    if _signed_volume(points, triangles) < 0:
        triangles = triangles[:, ::-1]
    return Surface(points, np.ascontiguousarray(triangles))


def _signed_volume(points: Float, triangles: NDArray[np.int64]) -> float:
    """mm³ enclosed by a closed mesh, positive where its triangles look outwards."""
    a, b, c = (points[triangles[:, corner]] - points[0] for corner in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def _mesh(surface: Surface, points: NDArray[np.float32], mirrored: bool) -> Any:
    triangles = surface.triangles[:, ::-1] if mirrored else surface.triangles
    mesh = vtk.vtkPolyData()
    vertices = vtk.vtkPoints()
    vertices.SetDataTypeToFloat()
    vertices.SetData(numpy_to_vtk(np.ascontiguousarray(points), deep=True))
    mesh.SetPoints(vertices)
    cells = vtk.vtkCellArray()
    cells.SetData(3, numpy_to_vtkIdTypeArray(np.ascontiguousarray(triangles).ravel(), deep=True))
    mesh.SetPolys(cells)
    _set_normals(mesh)
    return mesh


def _set_normals(mesh: Any) -> None:
    """Normals at the points, of unit length, in the same order as the points."""
    normals = vtk.vtkTriangleMeshPointNormals()
    normals.SetInputData(mesh)
    normals.Update()
    mesh.GetPointData().SetNormals(normals.GetOutput().GetPointData().GetNormals())


def _mirrored(frame: frames.Frame) -> bool:
    return bool(np.linalg.det(frame.matrix[:3, :3]) < 0)


def _color(node: Any, label: Label) -> None:
    """The label's colour, unless the user has set another one since we last did; a first display besides."""
    display = node.GetDisplayNode()
    known = nodes.recall(node, _COLOR)
    if display is None:
        node.CreateDefaultDisplayNodes()
        display, known = node.GetDisplayNode(), None
        display.SetVisibility2D(False)
    if known is None or [round(c * 255) for c in display.GetColor()] == known:
        display.SetColor(*(c / 255 for c in label.color))
        node.SetAttribute(_COLOR, json.dumps(list(label.color)))
