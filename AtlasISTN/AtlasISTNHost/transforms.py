"""Transforms: the correspondence between atlas and patient as transform nodes.

Each node stores the direction that Slicer resamples with and writes to files (from parent) as a grid of displacements:

- image-from-atlas takes atlas RAS to the input's local RAS and lies under the input's parent transform: the atlas
  volume or a landmark of the atlas, put under it, lies on the patient. It stores patient to atlas.
- atlas-from-image takes the patient's world RAS to atlas RAS and lies under nothing: the input's parent transform is
  part of it. It stores atlas to patient.

So both directions come from the network, one node each. A transform node cannot hold both at once, and finds the other
one by iteration; where the map turns space by much that could end in a wrong place, and the turn is split off as a
linear part in front of the grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk
from numpy.typing import NDArray
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk

from AtlasISTNLib.correspondence import ATLAS_FROM_IMAGE, IMAGE_FROM_ATLAS, Correspondence
from AtlasISTNLib.geometry import VOXEL, WORLD, Float, Grid, transform_points

from . import frames, nodes

#: A grid has at most so many nodes (12 bytes each); what is left of them goes to covering more of the image.
MOST_NODES = 3_000_000
#: Beyond this angle the turn is split off. Below 90° a grid that ends somewhere has one inverse.
_TURN = np.deg2rad(30.0)
#: mm, of the grid of a single slice across its plane.
_THICK = 10.0
#: Nodes that are evaluated at once.
_SLAB = 1 << 18

Map = Callable[[Float], Float]


@dataclass(frozen=True, eq=False)
class Sampling:
    """A lattice on which a map is sampled.

    Attributes:
        shape: nodes along k, j, i.
        matrix: (4, 4), index i, j, k to the map's source points, RAS mm.
    """

    shape: tuple[int, int, int]
    matrix: Float


def write_transforms(
    correspondence: Correspondence,
    input_node: Any,
    frame: frames.Frame,
    model: str,
    changes: nodes.Changes | None = None,
) -> tuple[Any, Any]:
    """Create or update both transform nodes of an input and a model.

    Args:
        correspondence: 3D (that of a single slice lifted), in the processing frame.
        frame: of the input when the correspondence was computed.
        model: the model's name.
        changes: where to register how to undo it.

    Returns:
        The nodes image-from-atlas and atlas-from-image.
    """
    made = build_transforms(correspondence, input_node, frame)
    return place_transforms(made, input_node, model, changes)


def build_transforms(correspondence: Correspondence, input_node: Any, frame: frames.Frame) -> tuple[Any, Any]:
    """Both VTK transforms, patient to atlas and atlas to patient's world; nothing in the scene changes."""
    c, parent = correspondence, input_node.GetParentTransformNode()
    flip = frames.FLIP
    corners = _image_corners(input_node, frame)

    def atlas_of_local(points: Float) -> Float:
        return transform_points(flip, c.atlas_from_image(frame.to_lps(points)))

    def world_of_atlas(points: Float) -> Float:
        return frames.moved(frame.to_local(c.image_from_atlas(transform_points(flip, points))), parent)

    on_image = _sampling(c, ATLAS_FROM_IMAGE, corners, frame.local_from_lps)
    on_atlas = _sampling(c, IMAGE_FROM_ATLAS, c.atlas_from_image(corners), flip)
    return _transform(atlas_of_local, on_image), _transform(world_of_atlas, on_atlas)


def place_transforms(
    made: tuple[Any, Any], input_node: Any, model: str, changes: nodes.Changes | None = None
) -> tuple[Any, Any]:
    """Put what `build_transforms` made into our nodes."""
    names = (_("image from atlas"), _("atlas from image"))
    found = []
    for role, name, transform in zip((nodes.IMAGE_FROM_ATLAS, nodes.ATLAS_FROM_IMAGE), names, made, strict=True):
        node = nodes.get_or_add(input_node.GetScene(), "vtkMRMLTransformNode", role, input_node, model, name, changes)
        if changes is not None:
            before = node.GetTransformFromParent()
            changes.undo_with(lambda node=node, before=before: node.SetAndObserveTransformFromParent(before))
        node.SetAndObserveTransformFromParent(transform)
        found.append(node)
    return found[0], found[1]


def _transform(points_of: Map, sampling: Sampling) -> Any:
    """A map as a vtkOrientedGridTransform, or as a linear one and such a grid after it."""
    turn = _turn(points_of, sampling)
    matrix = turn @ sampling.matrix
    back = np.linalg.inv(turn)
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    direction = np.eye(4)
    direction[:3, :3] = matrix[:3, :3] / spacing
    total = int(np.prod(sampling.shape))
    displacement = np.empty((total, 3), dtype=np.float32)
    for low in range(0, total, _SLAB):
        index = np.stack(np.unravel_index(np.arange(low, min(low + _SLAB, total)), sampling.shape)[::-1], axis=-1)
        nodes_here = transform_points(matrix, index)
        displacement[low : low + _SLAB] = points_of(transform_points(back, nodes_here)) - nodes_here
    image = vtk.vtkImageData()
    image.SetDimensions(sampling.shape[::-1])
    image.SetOrigin(matrix[:3, 3])
    image.SetSpacing(spacing)
    image.GetPointData().SetScalars(numpy_to_vtk(displacement, deep=True))
    grid = slicer.vtkOrientedGridTransform()
    grid.SetGridDirectionMatrix(frames.vtk_matrix(direction))
    grid.SetDisplacementGridData(image)
    grid.SetInverseTolerance(1e-3)
    grid.SetInterpolationModeToCubic()  # as Slicer sets it for a grid that it reads from a file
    if np.allclose(turn, np.eye(4), atol=0):
        return grid
    linear = vtk.vtkTransform()
    linear.SetMatrix(frames.vtk_matrix(turn))
    both = vtk.vtkGeneralTransform()
    both.PostMultiply()
    both.Concatenate(linear)
    both.Concatenate(grid)
    return both


def _turn(points_of: Map, sampling: Sampling) -> Float:
    """The rigid part of a map about the middle of its lattice, (4, 4); the identity where it turns by little."""
    middle = transform_points(sampling.matrix, (np.array(sampling.shape[::-1]) - 1) / 2)
    target = points_of(middle + np.concatenate([[np.zeros(3)], np.eye(3), -np.eye(3)]))
    left, _stretch, right = np.linalg.svd((target[1:4] - target[4:7]).T / 2)
    rotation = left @ right
    matrix = np.eye(4)
    cosine = (np.trace(rotation) - 1) / 2
    if np.linalg.det(rotation) < 0 or cosine < np.cos(_TURN):
        matrix[:3, :3] = rotation
        matrix[:3, 3] = target[0] - rotation @ middle
    return matrix


def _sampling(c: Correspondence, which: str, wanted: Float, ras_from_lps: Float) -> Sampling:
    """Where to sample a map of a correspondence: as finely as its own field where there are nodes enough.

    What has to be covered is the model grid, and from where the map leads to it on the other side. Then landmarks
    anywhere on the image should go to and fro as well, so that covering it goes before fineness.

    Args:
        c: the correspondence.
        which: the map.
        wanted: points (N, 3) in LPS mm of the map's source space.
        ras_from_lps: (4, 4), from there to the RAS in which the nodes lie.
    """
    source, other = (c.image_grid, c.atlas_grid) if which == ATLAS_FROM_IMAGE else (c.atlas_grid, c.image_grid)
    back = c.atlas_from_image if which == IMAGE_FROM_ATLAS else c.image_from_atlas
    needed = np.concatenate([source.corners(), back(_border(other))])
    # A map that begins with its field is exact at the field's nodes.
    base = c.displacement_back.grid if which != c.outward else source
    fine = base.matrix(WORLD, VOXEL)
    thin = np.array(base.size) == 1
    fine[:3, :3] = np.array(base.direction) * np.where(thin, _THICK, c.displacement.grid.spacing)
    coarse = _coarser(fine, thin)
    for lattice in (fine, coarse):
        low, high = _span(lattice, np.concatenate([needed, wanted]), thin)
        if np.prod(high - low + 1) <= MOST_NODES:
            return _part(lattice, low, high, ras_from_lps)
    low, high = _span(coarse, needed, thin)
    while np.prod(high - low + 1) > MOST_NODES:
        coarse = _coarser(coarse, thin)
        low, high = _span(coarse, needed, thin)
    far_low, far_high = _span(coarse, np.concatenate([needed, wanted]), thin)
    for share in np.linspace(1, 0, 41):
        first = np.rint(low + share * (far_low - low)).astype(int)
        last = np.rint(high + share * (far_high - high)).astype(int)
        if np.prod(last - first + 1) <= MOST_NODES:
            break
    return _part(coarse, first, last, ras_from_lps)


def _coarser(lattice: Float, thin: NDArray[np.bool_]) -> Float:
    """A lattice of every second node, save across a single slice."""
    coarse = lattice.copy()
    coarse[:3, :3] *= np.where(thin, 1, 2)
    return coarse


def _span(lattice: Float, points: Float, thin: NDArray[np.bool_]) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """First and last index i, j, k of the nodes around points, one more on either side."""
    index = transform_points(np.linalg.inv(lattice), points)
    low, high = np.floor(index.min(axis=0)).astype(int) - 1, np.ceil(index.max(axis=0)).astype(int) + 1
    return np.where(thin, -1, low), np.where(thin, 1, high)


def _part(lattice: Float, first: NDArray[np.int_], last: NDArray[np.int_], ras_from_lps: Float) -> Sampling:
    matrix = ras_from_lps @ lattice
    matrix[:3, 3] = transform_points(matrix, first)
    i, j, k = (int(n) for n in last - first + 1)
    return Sampling((k, j, i), matrix)


def _border(grid: Grid) -> Float:
    """Points (N, 3) on the outside of a grid, LPS mm."""
    points = grid.points()
    sides = [points.take(end, axis=axis).reshape(-1, 3) for axis in range(3) for end in (0, -1)]
    return np.concatenate(sides)


def _image_corners(input_node: Any, frame: frames.Frame) -> Float:
    """Outer corners (8, 3) of the input in the processing frame, LPS mm."""
    last = np.array(input_node.GetImageData().GetDimensions(), dtype=np.float64) - 1
    ends = np.stack(np.meshgrid(*zip(np.full(3, -0.5), last + 0.5, strict=True), indexing="ij"), axis=-1)
    return frame.to_lps(transform_points(frames.ijk_to_ras(input_node), ends.reshape(-1, 3)))
