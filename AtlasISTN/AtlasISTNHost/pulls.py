"""Pulls: points of the warped atlas, and where they belong. One markups node of ours holds them for input and model.

A control point lies where a point of the atlas belongs. Which point of the atlas that is stands in the control point's
description, in atlas space: so it is saved, copied, sorted and undone together with the control point. Where the
atlas's points lie now is drawn by `pull_lines`. In the views a control point bears only its number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from AtlasISTNLib.correspondence import Correspondence
from AtlasISTNLib.geometry import Float, Grid, Plane, transform_points
from AtlasISTNLib.manifest import Manifest
from AtlasISTNLib.steering import LANDMARK_WEIGHT

from . import frames, nodes, placing

#: Role of a node that only this room knows.
PULLS = "pulls"
#: Attribute of the node: how hard its points pull, per mm².
_WEIGHT = "AtlasISTN.PullWeight"
#: A point that is placed so near to a surface of the warped atlas is about that surface.
SNAP_MM = 5.0
_COLOR = (1.0, 0.9, 0.2)
_NUMBER = r"\s+(-?\d+(?:\.\d+)?)"
_POINT = re.compile(r"(?:(?P<structure>[^;]+); )?atlas LPS mm:" + 3 * _NUMBER)

Map = Callable[[Float], Float]


@dataclass(frozen=True, eq=False)
class Maps:
    """How atlas and input correspond at a moment.

    Attributes:
        to_atlas: takes points (N, 3) in the input's local RAS to atlas LPS, mm.
        to_local: the other way.
    """

    to_atlas: Map
    to_local: Map


@dataclass(frozen=True, eq=False)
class Pull:
    """One pull as it is at a moment.

    Attributes:
        index: of the control point in its node.
        name: the control point's, and the structure on whose surface it is.
        atlas: (3,), the atlas's point, LPS mm; None where it is not known yet.
        target: (3,), where it belongs: processing frame, LPS mm; on the slice for a 2D model.
        now: (3,), where it lies now, the same; None where there is no result.
        problem: why the pull cannot be used; empty where it can.
    """

    index: int
    name: str
    atlas: Float | None
    target: Float
    now: Float | None
    problem: str

    @property
    def distance(self) -> float:
        """mm from where the atlas's point lies now to where it belongs; NaN where that is not known."""
        return math.nan if self.now is None else float(np.linalg.norm(self.now - self.target))


def maps_of(correspondence: Correspondence, frame: frames.Frame) -> Maps:
    """By a correspondence (3D) in the processing frame, as in a preview."""
    return Maps(
        lambda points: correspondence.atlas_from_image(frame.to_lps(points)),
        lambda points: frame.to_local(correspondence.image_from_atlas(points)),
    )


def maps_of_node(image_from_atlas: Any) -> Maps | None:
    """By our transform node of a result, as after a scene was loaded; None where it has left the scene."""
    if not nodes.in_scene(image_from_atlas) or image_from_atlas.GetTransformFromParent() is None:
        return None
    flip, to_atlas = frames.FLIP, image_from_atlas.GetTransformFromParent()
    to_local = image_from_atlas.GetTransformToParent()
    return Maps(
        lambda points: transform_points(flip, frames.through(to_atlas, points)),
        lambda points: frames.through(to_local, transform_points(flip, points)),
    )


def find(input_node: Any, model: str) -> Any:
    """The node of an input's pulls for a model (its name), under the input's parent transform; None without one."""
    node = nodes.find(input_node.GetScene(), PULLS, input_node, model)
    if node is not None and node.GetTransformNodeID() != input_node.GetTransformNodeID():
        node.SetAndObserveTransformNodeID(input_node.GetTransformNodeID())
    return node


def get_or_add(input_node: Any, model: str) -> Any:
    """As `find`; made now where there is none."""
    node = find(input_node, model)
    if node is None:
        scene = input_node.GetScene()
        with placing.undisturbed(scene):
            node = nodes.get_or_add(scene, "vtkMRMLMarkupsFiducialNode", PULLS, input_node, model, _("– pulls"))
        node.SetControlPointLabelFormat("%d")
        node.CreateDefaultDisplayNodes()
        _style(node.GetDisplayNode())
    return node


def weight_of(node: Any) -> float:
    """How hard the points of a node pull, per mm²."""
    found = nodes.recall(node, _WEIGHT)
    number = isinstance(found, (int, float)) and not isinstance(found, bool)
    usable = number and math.isfinite(found) and found >= 0
    return float(found) if usable else LANDMARK_WEIGHT


def set_weight(node: Any, weight: float) -> None:
    """Note how hard the points of a node pull."""
    node.SetAttribute(_WEIGHT, repr(float(weight)))


def adopt(node: Any, maps: Maps, meshes: Mapping[str, Any]) -> int:
    """Give every placed point that has none yet its point of the atlas: the one that lies there, or nearly there, now.

    Args:
        node: of the pulls.
        maps: of what is shown.
        meshes: surfaces of the warped atlas in local RAS (vtkPolyData) by the structure's name.

    Returns:
        how many points there were.
    """
    new = [i for i in _placed(node) if atlas_point(node.GetNthControlPointDescription(i)) is None]
    for i in new:
        point = np.array(node.GetNthControlPointPosition(i))
        near = nearest(meshes, point)
        structure, point = near if near is not None else ("", point)
        x, y, z = maps.to_atlas(point[np.newaxis])[0]
        where = structure.replace(";", ",") + "; " if structure else ""
        node.SetNthControlPointDescription(i, f"{where}atlas LPS mm: {x:.4f} {y:.4f} {z:.4f}")
    return len(new)


def atlas_point(description: str) -> Float | None:
    """The point of the atlas, (3,) LPS mm, that a control point's description names; None where it names none."""
    found = _POINT.search(description)
    return None if found is None else np.array([float(number) for number in found.groups()[1:]])


def nearest(meshes: Mapping[str, Any], point: Float) -> tuple[str, Float] | None:
    """Name of the mesh, and point on it, nearest to a point; None where none is within `SNAP_MM`."""
    best, found = SNAP_MM, None
    for name, mesh in meshes.items():
        if mesh is None or not mesh.GetNumberOfCells():
            continue
        locator = vtk.vtkStaticCellLocator()
        locator.SetDataSet(mesh)
        locator.BuildLocator()
        closest, cell, part, square = np.zeros(3), vtk.reference(0), vtk.reference(0), vtk.reference(0.0)
        locator.FindClosestPoint(point, closest, cell, part, square)
        distance = math.sqrt(float(square))
        if distance <= best:
            best, found = distance, (name, closest)
    return found


def read(node: Any, input_node: Any, manifest: Manifest, maps: Maps | None = None) -> tuple[Pull, ...]:
    """The pulls of a node.

    Args:
        node: from `find`.
        input_node: the volume.
        manifest: of the model.
        maps: of what is shown; without, nobody knows where the atlas's points lie now.

    Raises:
        VolumeError, GeometryError: as `frames.grid_of`.
    """
    placed = _placed(node)
    if not placed:
        return ()
    frame, image = frames.processing_frame(input_node), frames.grid_of(input_node)
    flat = manifest.grid.ndim == 2
    targets = frame.to_lps(np.array([node.GetNthControlPointPosition(i) for i in placed]))
    if flat:
        targets = _onto_slice(targets, image)
    found = []
    for i, target in zip(placed, targets, strict=True):
        atlas = atlas_point(node.GetNthControlPointDescription(i))
        if atlas is not None and flat:
            atlas[2] = 0.0
        now = None if atlas is None or maps is None else frame.to_lps(maps.to_local(atlas[np.newaxis])[0])
        problem = _problem(atlas, target, manifest.grid, image)
        found.append(Pull(i, _name(node, i), atlas, target, now, problem))
    return tuple(found)


def landmarks(pulls: Sequence[Pull], weight: float) -> dict[str, Any] | None:
    """A request's "landmarks" of the pulls that can be used; None where there are none."""
    used = [pull for pull in pulls if not pull.problem and pull.atlas is not None]
    if not used:
        return None
    return {
        "atlas": [pull.atlas.tolist() for pull in used if pull.atlas is not None],
        "image": [pull.target.tolist() for pull in used],
        "weight": float(weight),
        "names": [pull.name for pull in used],
    }


def signature(node: Any) -> tuple[Any, ...]:
    """What of a node steers a refinement; equal as long as nothing of it changed. Empty for None."""
    if not nodes.in_scene(node):
        return ()
    known = [(i, atlas_point(node.GetNthControlPointDescription(i))) for i in _placed(node)]
    points = tuple((*node.GetNthControlPointPosition(i), *atlas) for i, atlas in known if atlas is not None)
    return (*points, weight_of(node)) if points else ()


def remove_point(node: Any, index: int) -> None:
    """Take one pull away; can be undone where the scene undoes."""
    node.GetScene().SaveStateForUndo()
    node.RemoveNthControlPoint(index)


def remove_points(node: Any) -> None:
    """Take all pulls away; can be undone where the scene undoes."""
    node.GetScene().SaveStateForUndo()
    node.RemoveAllControlPoints()


def _style(display: Any) -> None:
    with slicer.util.NodeModify(display):
        display.SetSelectedColor(*_COLOR)
        display.SetColor(*_COLOR)
        display.SetGlyphScale(2.5)
        display.SetTextScale(3.0)
        display.SetPointLabelsVisibility(True)
        # A point that is dragged in a 3D view leaves the atlas's surface; snapping would keep it there.
        display.SetSnapMode(display.SnapModeUnconstrained)
        display.SetOccludedVisibility(True)
        display.SetOccludedOpacity(0.6)


def _placed(node: Any) -> list[int]:
    """Indices of the points that are placed: not those that follow the mouse until a click."""
    defined = node.PositionDefined
    return [i for i in range(node.GetNumberOfControlPoints()) if node.GetNthControlPointPositionStatus(i) == defined]


def _name(node: Any, index: int) -> str:
    found = _POINT.search(node.GetNthControlPointDescription(index))
    structure = found["structure"] if found is not None else None
    return " ".join(part for part in (node.GetNthControlPointLabel(index), structure) if part)


def _onto_slice(points: Float, image: Grid) -> Float:
    """The points (N, 3) of a single slice that are nearest to points beside it."""
    world_from_plane = Plane.of(image).world_from_plane
    flat = transform_points(np.linalg.inv(world_from_plane), points)
    flat[:, 2] = 0.0
    return transform_points(world_from_plane, flat)


def _problem(atlas: Float | None, target: Float, grid: Grid, image: Grid) -> str:
    if atlas is None:
        return _("It is not known yet which point of the atlas this is")
    if not grid.contains(atlas[: grid.ndim]):
        return _("This point lies outside the atlas and is not used")
    if not image.contains(target):
        return _("This point lies outside the scan and is not used")
    return ""


__all__ = [
    "PULLS",
    "SNAP_MM",
    "Maps",
    "Pull",
    "adopt",
    "atlas_point",
    "find",
    "get_or_add",
    "landmarks",
    "maps_of",
    "maps_of_node",
    "nearest",
    "read",
    "remove_point",
    "remove_points",
    "set_weight",
    "signature",
    "weight_of",
]
