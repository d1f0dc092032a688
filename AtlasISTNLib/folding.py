"""Folding of a map that is given as points on a grid.

A diffeomorphism keeps the orientation of every small piece of space. Central differences do not show whether a sampled
map does: they never look at the voxel itself. Liu, Chen, Wei, Carass and Prince, "On Finite Difference Jacobian
Computation in Deformable Image Registration", IJCV 2024 (arXiv:2212.06060), show which finite differences do, and add
up the volume that is turned inside out, the non-diffeomorphic volume.

Between grid points the map is taken as linear on simplices. In 2D each cell of four grid points is cut into two
triangles, along either diagonal. Their four signed areas are half the determinants of the four combinations of forward
and backward differences. In 3D each cell of eight grid points is cut into five tetrahedra: four at alternate corners
of the cell, for which there are two choices, and a central one. The eight corner tetrahedra have signed volumes of one
sixth of the determinants of the eight combinations of forward and backward differences; the two central ones add two
determinants of their own. All 4 (2D) or 10 (3D) have to be positive. As neither way of cutting is preferred, each
counts one half.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from math import factorial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .correspondence import Correspondence
from .errors import GeometryError
from .geometry import VOXEL, WORLD

Float = NDArray[np.float64]
Corner = tuple[int, ...]

#: Cells that are looked at together: bounds the memory for large maps to tens of MB, and fits caches.
_CELLS_AT_ONCE = 100_000


@dataclass(frozen=True)
class Folding:
    """How much of a map is folded.

    Attributes:
        volume: non-diffeomorphic volume (2D: area) in voxels of the grid, measured after mapping.
        percent: the same in percent of the grid's cells, of which there are (Z-1)(Y-1)(X-1). It can exceed 100 where
            folded pieces are also stretched.
        voxels: grid points at which one of the 10 (2D: 4) determinants is not positive. A determinant of forward and
            backward differences belongs to the point where they are taken, one of a central tetrahedron to the point of
            its cell with the lowest indices.
        smallest: the smallest of all determinants; 1 for the identity, 0 or less where the map is no diffeomorphism.
    """

    volume: float
    percent: float
    voxels: int
    smallest: float


def folding(points: ArrayLike) -> Folding:
    """Non-diffeomorphic volume of a map.

    Args:
        points: where each grid point goes, (Z, Y, X, 3) or (Y, X, 2), components x, y, z in voxels of the grid, so that
            the identity holds each point's own index. A map between two grids has to be given in the voxels of the grid
            on which it is sampled.

    Raises:
        GeometryError: another shape, fewer than two points along an axis, or values that are not finite.

    Source: Liu et al., IJCV 2024, arXiv:2212.06060.
    """
    array = _checked_points(points)
    shape = array.shape[:-1]
    bad = np.zeros(shape, dtype=np.bool_)
    volume, smallest = 0.0, np.inf
    rows = max(1, int(_CELLS_AT_ONCE // np.prod(shape[1:])))
    for start in range(0, shape[0] - 1, rows):
        # Cells need the points on both sides, so slabs overlap by one layer of points.
        slab = slice(start, min(start + rows, shape[0] - 1) + 1)
        for owner, share, determinant in _determinants(_by_component(array[slab])):
            volume += share * float(np.maximum(-determinant, 0).sum())
            smallest = min(smallest, float(determinant.min()))
            bad[slab][_at(owner)] |= determinant <= 0
    cells = np.prod([n - 1 for n in shape])
    return Folding(volume, float(100 * volume / cells), int(np.count_nonzero(bad)), smallest)


def atlas_map_folding(correspondence: Correspondence) -> Folding:
    """Folding of the map that brings the atlas onto the image, over the placed model grid, in voxels of the atlas."""
    placed, atlas = correspondence.image_grid, correspondence.atlas_grid
    points = atlas.transform_points(correspondence.atlas_from_image(placed.points(WORLD)), VOXEL, WORLD)
    if placed.ndim == 3 and placed.shape[0] == 1:
        points = points[0, ..., :2]  # a 2D model's map, lifted to a single slice
    return folding(points)


def jacobian_determinant(points: ArrayLike) -> Float:
    """Jacobian determinant of a map by central differences (one-sided at the border), for display.

    It averages over neighbours and so hides folds; ask `folding` whether a map is a diffeomorphism.

    Args:
        points: as for `folding`: (Z, Y, X, 3) or (Y, X, 2), components x, y, z in voxels of the grid.

    Returns:
        (Z, Y, X) or (Y, X): new volume per old volume, 1 for the identity.

    Raises:
        GeometryError: another shape, fewer than two points along an axis, or values that are not finite.
    """
    components = _by_component(_checked_points(points))
    return _determinant([np.gradient(components, axis=axis) for axis in range(components.ndim - 1, 0, -1)])


def _checked_points(points: ArrayLike) -> NDArray[np.floating]:
    array = np.asarray(points)
    if array.ndim not in (3, 4) or array.shape[-1] != array.ndim - 1:
        raise GeometryError(f"points need the shape (Z, Y, X, 3) or (Y, X, 2), not {array.shape}")
    if min(array.shape[:-1]) < 2:
        raise GeometryError(f"points need two or more along every axis of the grid, not shape {array.shape}")
    if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise GeometryError(f"points of shape {array.shape} hold values that are not finite numbers")
    return array


def _by_component(points: NDArray[np.floating]) -> Float:
    """(..., D) as float64 (D, ...): arithmetic on whole components is twice as fast when each lies in one piece."""
    return np.ascontiguousarray(np.moveaxis(points, -1, 0), dtype=np.float64)


def _determinants(points: Float) -> Iterator[tuple[Corner, float, Float]]:
    """The 4 or 10 determinants of every cell, all 1 for the identity, of points (D, Z, Y, X) or (D, Y, X).

    Yields:
        the corner of the cell to which the determinant belongs (array order), the volume in voxels that a determinant
        of 1 stands for, and the determinants of all cells.
    """
    d = len(points)
    corners = list(itertools.product((0, 1), repeat=d))
    position = {corner: points[(slice(None), *_at(corner))] for corner in corners}
    edges: dict[tuple[int, Corner], Float] = {}
    for axis, corner in itertools.product(range(d), corners):
        if corner[axis] == 0:
            edges[axis, corner] = position[_moved(corner, axis, 1)] - position[corner]
    for corner in corners:
        # Along each axis the difference leads forward from a low corner and backward from a high one.
        differences = [edges[axis, _moved(corner, axis, 0)] for axis in reversed(range(d))]
        yield corner, 0.5 / factorial(d), _determinant(differences)
    if d == 3:
        for parity in (0, 1):
            alternate = [corner for corner in corners if sum(corner) % 2 == parity]
            first, others = alternate[0], alternate[1:]
            unit = [np.subtract(corner, first)[::-1].astype(np.float64) for corner in others]
            vectors = [position[corner] - position[first] for corner in others]
            # The central tetrahedron fills a third of the cell.
            yield (0, 0, 0), 0.5 / 3, _determinant(vectors) / float(_determinant(unit))


def _moved(corner: Corner, axis: int, end: int) -> Corner:
    return (*corner[:axis], end, *corner[axis + 1 :])


def _at(corner: Corner) -> tuple[slice, ...]:
    """The points that are this corner of some cell."""
    return tuple(slice(1, None) if end else slice(None, -1) for end in corner)


def _determinant(vectors: list[Float]) -> Float:
    """Determinant of D vectors (D, ...)."""
    if len(vectors) == 2:
        (ax, ay), (bx, by) = vectors
        return np.asarray(ax * by - ay * bx)
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = vectors
    return np.asarray(ax * (by * cz - bz * cy) - ay * (bx * cz - bz * cx) + az * (bx * cy - by * cx))
