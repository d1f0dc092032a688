"""Frames: where the voxels of a MRML volume lie, for the engine. RAS exists only in this bridge; the engine speaks LPS.

Three frames of an input volume:

- local: RAS mm of the node itself, without the transform that it lies under. Results are stored in it.
- world: RAS mm as the user sees it, after all parent transforms, linear or not.
- processing: what the engine gets, in LPS mm. It is local after a similarity that takes the volume's centre where the
  parent transform takes it, and turns and scales the volume as the parent does there; so the network sees the patient
  upright and as large as the user does. Under a parent that is a rigid motion or a similarity it is the world.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import slicer
import vtk
from numpy.typing import ArrayLike
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from AtlasISTNLib.errors import ConfigError, GeometryError, VolumeError
from AtlasISTNLib.geometry import VOXEL, WORLD, Float, Grid, transform_points
from AtlasISTNLib.volume import Volume

from . import nodes

#: RAS to LPS and back: both x and y change their signs.
FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
#: mm to either side of the centre, over which the turn of a transform that is not linear is measured.
_REACH_MM = 0.5
#: How far axes may be from right angles; as the engine's grids.
_RIGHT_ANGLE = 1e-3


@dataclass(frozen=True, eq=False)
class Frame:
    """The similarity from a node's local RAS to processing RAS (mm).

    Attributes:
        matrix: (4, 4); its linear part is orthogonal up to a factor, mirrored where the parent transform mirrors.
    """

    matrix: Float = field(default_factory=lambda: np.eye(4))

    @property
    def lps_from_local(self) -> Float:
        """(4, 4): local RAS to processing LPS."""
        return FLIP @ self.matrix

    @property
    def local_from_lps(self) -> Float:
        """(4, 4): processing LPS to local RAS."""
        return np.linalg.inv(self.matrix) @ FLIP

    def to_lps(self, points: ArrayLike) -> Float:
        """Processing LPS of local RAS points (..., 3)."""
        return transform_points(self.lps_from_local, points)

    def to_local(self, points: ArrayLike) -> Float:
        """Local RAS of processing LPS points (..., 3)."""
        return transform_points(self.local_from_lps, points)


def ijk_to_ras(volume_node: Any) -> Float:
    """(4, 4): indices i, j, k of the node's voxel array to local RAS mm, without parent transforms.

    Raises:
        VolumeError: the node has no voxels.
    """
    matrix = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    found = slicer.util.arrayFromVTKMatrix(matrix)
    # An image cut out of another one may begin at other indices than 0; arrays begin at 0.
    first = np.array(_image(volume_node).GetExtent()[::2], dtype=np.float64)
    found[:3, 3] = transform_points(found, first)
    return found


def grid_of(volume_node: Any) -> Grid:
    """The node's grid in the processing frame (LPS mm).

    Raises:
        VolumeError: the node has no voxels.
        GeometryError: its axes are not at right angles, or its spacing or parent transform is impossible.
    """
    return _grid(volume_node, processing_frame(volume_node))


def processing_frame(node: Any) -> Frame:
    """The frame in which the engine sees a volume: see the module's text.

    Raises:
        VolumeError: the node has no voxels.
        GeometryError: its parent transform is not invertible at the volume's centre.
    """
    parent = node.GetParentTransformNode()
    if parent is None:
        return Frame()
    last = np.array(_image(node).GetDimensions(), dtype=np.float64) - 1
    center = transform_points(ijk_to_ras(node), last / 2)
    to_world, jacobian = _linear_part(parent, center)
    if not (np.isfinite(jacobian).all() and np.isfinite(to_world).all()):
        raise _no_way(node, parent)
    left, stretch, right = np.linalg.svd(jacobian)
    if stretch[-1] <= 1e-6 * stretch[0]:
        raise _no_way(node, parent)
    matrix = np.eye(4)
    matrix[:3, :3] = np.cbrt(stretch.prod()) * left @ right
    matrix[:3, 3] = to_world - matrix[:3, :3] @ center
    return Frame(matrix)


def frame_of_result(grid: Grid, volume_node: Any) -> Frame:
    """The frame that a volume had when it was given to the engine, from the grid that came back.

    The user may have moved the volume since; results still belong on its voxels.

    Raises:
        VolumeError: the node has no voxels.
        GeometryError: its voxels are no longer those that were given to the engine.
    """
    fits = grid.shape == _image(volume_node).GetDimensions()[::-1]
    if fits:
        local = np.linalg.inv(ijk_to_ras(volume_node))
        matrix = FLIP @ grid.matrix(WORLD, VOXEL) @ local
        square = matrix[:3, :3].T @ matrix[:3, :3]
        scale = float(np.trace(square)) / 3
        fits = scale > 0 and bool(np.abs(square / scale - np.eye(3)).max() < _RIGHT_ANGLE)
    if not fits:
        raise GeometryError(
            _("The voxels of {name} have changed since they were given to the engine").format(
                name=volume_node.GetName()
            ),
            _("segment the volume again"),
        )
    return Frame(matrix)


def check_parents(volume_node: Any) -> None:
    """Refuse a volume that lies under a transform that was made from it: it would be made from itself.

    Raises:
        GeometryError: it does.
    """
    above = nodes.own_transform_above(volume_node)
    if above is not None:
        raise GeometryError(
            _("{name} lies under {transform}, which is a result of it").format(
                name=volume_node.GetName(), transform=above.GetName()
            ),
            _("take the volume out of this transform first"),
        )


def volume_from_node(node: Any) -> Volume:
    """A copy of the voxels, (1, K, J, I), in the processing frame.

    Raises:
        VolumeError: no voxels, several values per voxel, or less than two axes with more than one voxel.
        GeometryError: as `grid_of`, or as `check_parents`.
    """
    check_parents(node)
    name = node.GetName() or ""
    scalars = _image(node).GetPointData().GetScalars()
    if scalars is None:
        raise VolumeError(_("{name} has no grey values").format(name=name), _("choose a scalar volume"))
    if scalars.GetNumberOfComponents() != 1:
        raise VolumeError(
            _("{name} has {count} values per voxel").format(name=name, count=scalars.GetNumberOfComponents()),
            _("convert it to a scalar volume first, with the module Vector to Scalar Volume"),
        )
    grid = grid_of(node)
    if sum(n > 1 for n in grid.shape) < 2:
        size = " × ".join(str(n) for n in grid.size)
        raise VolumeError(_("{name} has only {size} voxels").format(name=name, size=size), _("choose another volume"))
    array = vtk_to_numpy(scalars).reshape(1, *grid.shape).copy()
    return Volume(array, grid, name)


def placement_from_roi(roi_node: Any, volume_node: Any) -> dict[str, Any]:
    """Where a region of interest asks for the model grid: fields of `PlacementConfig`, LPS mm in the processing frame.

    Args:
        roi_node: a vtkMRMLMarkupsROINode, anywhere and under any transform.
        volume_node: the input.

    Raises:
        ConfigError: the region has no extent.
        VolumeError, GeometryError: as `grid_of`.
    """
    half = np.array(roi_node.GetSize()) / 2
    if roi_node.GetNumberOfControlPoints() < 1 or half.min() <= 0:
        raise ConfigError(
            _("The region {name} has no extent").format(name=roi_node.GetName()),
            _("draw it around the anatomy, or choose no region"),
        )
    corners = np.stack(np.meshgrid(*([-h, h] for h in half), indexing="ij"), axis=-1).reshape(-1, 3)
    world = transform_points(slicer.util.arrayFromVTKMatrix(roi_node.GetObjectToWorldMatrix()), corners)
    local = moved(world, volume_node.GetParentTransformNode(), to_world=False)
    points = processing_frame(volume_node).to_lps(local)
    low, high = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return {"how": "given", "box": tuple(value for pair in zip(low, high, strict=True) for value in pair)}


def moved(points: Float, transform_node: Any, to_world: bool = True) -> Float:
    """RAS points (N, 3) taken from under a transform node to the world, or from the world to under it.

    Args:
        points: mm.
        transform_node: None for no transform.
        to_world: the direction.
    """
    if transform_node is None:
        return points
    transform = vtk.vtkGeneralTransform()
    if to_world:
        transform_node.GetTransformToWorld(transform)
    else:
        transform_node.GetTransformFromWorld(transform)
    return through(transform, points)


def through(transform: Any, points: Float) -> Float:
    """Points (N, 3) through a vtkAbstractTransform."""
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    source.SetData(numpy_to_vtk(np.ascontiguousarray(points, dtype=np.float64)))
    target.SetDataTypeToDouble()
    transform.TransformPoints(source, target)
    return vtk_to_numpy(target.GetData()).copy()


def vtk_matrix(matrix: Float) -> Any:
    """A (4, 4) array as a vtkMatrix4x4."""
    return slicer.util.vtkMatrixFromArray(np.asarray(matrix, dtype=np.float64))


def _grid(volume_node: Any, frame: Frame) -> Grid:
    matrix = frame.lps_from_local @ ijk_to_ras(volume_node)
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    direction = matrix[:3, :3] / np.where(spacing > 0, spacing, 1)
    if (spacing > 0).all() and np.abs(direction.T @ direction - np.eye(3)).max() > _RIGHT_ANGLE:
        raise GeometryError(
            _("The axes of {name} are not at right angles").format(name=volume_node.GetName()),
            _("resample it first, for instance with the module Resample Scalar/Vector/DWI Volume"),
        )
    shape = _image(volume_node).GetDimensions()[::-1]
    return Grid(shape, tuple(spacing), tuple(matrix[:3, 3]), tuple(tuple(row) for row in direction))


def _image(node: Any) -> Any:
    image = node.GetImageData()
    if image is None or min(image.GetDimensions()) < 1:
        raise VolumeError(_("{name} has no voxels").format(name=node.GetName()), _("choose another volume"))
    return image


def _linear_part(parent: Any, center: Float) -> tuple[Float, Float]:
    """Where a parent transform takes a local point, and its Jacobian there."""
    if parent.IsTransformToWorldLinear():
        matrix = vtk.vtkMatrix4x4()
        parent.GetMatrixTransformToWorld(matrix)
        found = slicer.util.arrayFromVTKMatrix(matrix)
        return transform_points(found, center), found[:3, :3]
    steps = np.concatenate([[np.zeros(3)], np.eye(3), -np.eye(3)]) * _REACH_MM
    world = moved(center + steps, parent)
    return world[0], ((world[1:4] - world[4:7]) / (2 * _REACH_MM)).T


def _no_way(node: Any, parent: Any) -> GeometryError:
    return GeometryError(
        _("The transform {transform} is not invertible at the centre of {name}").format(
            transform=parent.GetName(), name=node.GetName()
        ),
        _("correct it, or take the volume out of it"),
    )
