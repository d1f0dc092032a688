"""Grids: where the voxels of an image lie in the world.

Three frames, one convention each, with points and vectors in x, y, z order:

- WORLD: millimetres, LPS (x to the patient's left, y to posterior, z to superior), the world of SimpleITK and DICOM.
- VOXEL: continuous index along the x, y, z index axes; (0, 0, 0) is the centre of the first voxel.
- CUBE: [-1, 1] from the centre of the first voxel to the centre of the last one (torch's align_corners=True). An axis
  of one voxel has no such length; there the cube is one voxel wide and 0 is its centre.

Everything is float64 here. Arrays of an image have axes Z, Y, X (2D: Y, X): the reverse of point components.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import GeometryError

WORLD = "world"
VOXEL = "voxel"
CUBE = "cube"

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """Shape, spacing, origin and direction of an image; immutable.

    Args:
        shape: voxels along the array axes, (Z, Y, X) or (Y, X).
        spacing: millimetres between voxel centres along x, y, z; positive.
        origin: WORLD position in mm of the centre of the first voxel, x, y, z.
        direction: D x D, orthonormal to 1e-3; column j is the WORLD direction of index axis j (as in ITK).
            Left-handed axes are fine.

    Raises:
        GeometryError: a value is impossible; the message names it.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        d = len(shape)
        if d not in (2, 3):
            raise GeometryError(f"a grid has 2 or 3 axes, not {d} (shape {shape})", "use a 2D or a 3D image")
        if min(shape) < 1:
            raise GeometryError(f"a grid needs at least one voxel along every axis, not shape {shape}")
        spacing = _vector(self.spacing, d, "spacing")
        origin = _vector(self.origin, d, "origin")
        direction = np.asarray(self.direction, dtype=np.float64)
        if direction.size != d * d:
            raise GeometryError(f"direction needs {d}x{d} values for a {d}D grid, not shape {direction.shape}")
        direction = direction.reshape(d, d)
        if not (spacing > 0).all():
            raise GeometryError(
                f"spacing must be positive along every axis, not {tuple(spacing.tolist())} mm",
                "correct the image's header, for instance in Slicer's Volumes module",
            )
        if not np.isfinite(direction).all() or np.abs(direction.T @ direction - np.eye(d)).max() > 1e-3:
            raise GeometryError(
                f"direction is not orthonormal: {direction.round(4).tolist()}",
                "a sheared or singular image has to be resampled onto straight axes first",
            )
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "spacing", tuple(spacing.tolist()))
        object.__setattr__(self, "origin", tuple(origin.tolist()))
        object.__setattr__(self, "direction", tuple(tuple(row) for row in direction.tolist()))

    @classmethod
    def centered(
        cls,
        shape: Sequence[int],
        spacing: Sequence[float],
        center: ArrayLike | None = None,
        direction: ArrayLike | None = None,
    ) -> Grid:
        """The grid of `shape` (array axes) and `spacing` (x, y, z; mm) with its middle at `center` (default 0)."""
        d = len(shape)
        axes = np.eye(d) if direction is None else np.asarray(direction, dtype=np.float64).reshape(d, d)
        middle = np.zeros(d) if center is None else _vector(center, d, "center")
        half = (np.array(shape[::-1], dtype=np.float64) - 1) / 2 * np.asarray(spacing, dtype=np.float64)
        origin = middle - axes @ half
        return cls(tuple(shape), tuple(spacing), tuple(origin), tuple(tuple(row) for row in axes))

    @property
    def ndim(self) -> int:
        """Number of axes, 2 or 3."""
        return len(self.shape)

    @property
    def size(self) -> tuple[int, ...]:
        """Voxels along x, y, z: the reverse of `shape`."""
        return self.shape[::-1]

    @property
    def extent(self) -> tuple[float, ...]:
        """Length in mm along x, y, z, voxels counted whole."""
        return tuple(n * s for n, s in zip(self.size, self.spacing, strict=True))

    @property
    def center(self) -> tuple[float, ...]:
        """WORLD position in mm of the middle of the grid."""
        return tuple(self.transform_points(np.zeros(self.ndim), WORLD, CUBE).tolist())

    @property
    def voxel_volume(self) -> float:
        """mm³ of a voxel (mm² in 2D)."""
        return float(np.prod(self.spacing))

    @cached_property
    def _world_from(self) -> dict[str, Float]:
        d = self.ndim
        world_from_voxel = np.eye(d + 1)
        world_from_voxel[:d, :d] = np.array(self.direction) * np.array(self.spacing)
        world_from_voxel[:d, d] = self.origin
        last = np.array(self.size, dtype=np.float64) - 1
        voxel_from_cube = np.eye(d + 1)
        voxel_from_cube[range(d), range(d)] = np.where(last > 0, last, 1) / 2
        voxel_from_cube[:d, d] = last / 2
        return {WORLD: np.eye(d + 1), VOXEL: world_from_voxel, CUBE: world_from_voxel @ voxel_from_cube}

    def matrix(self, target: str, source: str) -> Float:
        """Homogeneous (D+1, D+1) matrix that takes points of frame `source` to frame `target`."""
        frames = self._world_from
        if target not in frames or source not in frames:
            raise GeometryError(
                f"no frame '{target if target not in frames else source}'", f"use one of {list(frames)}"
            )
        return np.asarray(np.linalg.solve(frames[target], frames[source]), dtype=np.float64)

    def transform_points(self, points: ArrayLike, target: str, source: str) -> Float:
        """Take points (..., D), components x, y, z, from frame `source` to frame `target`."""
        return transform_points(self.matrix(target, source), points)

    def points(self, frame: str = WORLD) -> Float:
        """Centres of all voxels in `frame`: (*shape, D), components x, y, z."""
        index = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float64) for n in self.shape), indexing="ij"), axis=-1)
        return self.transform_points(index[..., ::-1], frame, VOXEL)

    def corners(self, frame: str = WORLD) -> Float:
        """The 2^D outer corners, half a voxel beyond the outermost centres: (2^D, D) in `frame`."""
        ends = [(-0.5, n - 0.5) for n in self.size]
        voxel = np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, self.ndim)
        return self.transform_points(voxel, frame, VOXEL)

    def contains(self, points: ArrayLike) -> NDArray[np.bool_]:
        """Which WORLD points (..., D) lie inside the grid's voxels."""
        voxel = self.transform_points(points, VOXEL, WORLD)
        return np.asarray(((voxel >= -0.5) & (voxel <= np.array(self.size) - 0.5)).all(axis=-1))

    def same_as(self, other: Grid, tolerance: float = 1e-3) -> bool:
        """Whether shapes are equal and all corners agree within `tolerance` of the smallest voxel's width."""
        if self.shape != other.shape:
            return False
        limit = tolerance * min(*self.spacing, *other.spacing)
        return bool(np.abs(self.corners() - other.corners()).max() <= limit)

    def with_spacing(self, spacing: Sequence[float]) -> Grid:
        """A grid of the same directions that covers the same extent with voxels of `spacing` (x, y, z; mm)."""
        size = [max(1, int(np.ceil(e / s - 1e-6))) for e, s in zip(self.extent, spacing, strict=True)]
        return Grid.centered(size[::-1], spacing, self.center, self.direction)

    def box(self, start: Sequence[int], stop: Sequence[int]) -> Grid:
        """The part of the grid from voxel `start` up to but without `stop`, both in array order."""
        shape = tuple(int(b) - int(a) for a, b in zip(start, stop, strict=True))
        origin = self.transform_points(np.array(start[::-1], dtype=np.float64), WORLD, VOXEL)
        return Grid(shape, self.spacing, tuple(origin), self.direction)

    def __str__(self) -> str:
        size = " x ".join(str(n) for n in self.size)
        return f"{size} voxels of {' x '.join(f'{s:g}' for s in self.spacing)} mm"


@dataclass(frozen=True, eq=False)
class Plane:
    """A 3D grid of a single slice seen as a 2D grid, for models of 2D images.

    Attributes:
        grid: the 2D grid, in plane coordinates u, v (mm).
        world_from_plane: (4, 4) rotation and translation from (u, v, w) to WORLD, w along the slice's normal. u and v
            run along the slice's axes, turned towards the positive LPS axes, so that one picture stored in two axis
            orders is one picture.
        shape: the 3D grid's.
    """

    grid: Grid
    world_from_plane: Float
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, grid: Grid) -> Plane:
        """The plane of a 3D grid of exactly one slice.

        Raises:
            GeometryError: it is not 3D, or not exactly one of its axes has one voxel.
        """
        thin = [axis for axis, n in enumerate(grid.size) if n == 1]
        if grid.ndim != 3 or len(thin) != 1:
            raise GeometryError(f"a grid of size {grid.size} is not a single slice")
        direction = np.array(grid.direction)
        kept = [axis for axis in range(3) if axis not in thin]
        main = [int(np.argmax(np.abs(direction[:, axis]).round(6))) for axis in kept]
        signs = [float(np.sign(direction[m, axis])) for axis, m in zip(kept, main, strict=True)]
        turned = [sign * direction[:, axis] for sign, axis in zip(signs, kept, strict=True)]
        # In oblique slices both axes may lie nearest to one LPS axis; then their components decide.
        order = sorted((0, 1), key=lambda i: (main[i], (-turned[i]).round(6).tolist()))
        u, v = (turned[i] for i in order)
        world_from_plane = np.eye(4)
        world_from_plane[:3, :3] = np.stack([u, v, np.cross(u, v)], axis=1)
        world_from_plane[:3, 3] = grid.origin
        axes = np.zeros((2, 2))
        for column, i in enumerate((0, 1)):
            axes[order.index(i), column] = signs[i]
        flat = Grid(
            tuple(n for n in grid.shape if n > 1),
            tuple(grid.spacing[axis] for axis in kept),
            (0.0, 0.0),
            tuple(tuple(row) for row in axes),
        )
        return cls(flat, world_from_plane, grid.shape)  # type: ignore[arg-type]


def slice_of(grid: Grid, thickness: float = 1.0) -> Grid:
    """A 2D grid as a 3D grid of one slice at z = 0, `thickness` mm thick."""
    direction = np.eye(3)
    direction[:2, :2] = grid.direction
    return Grid((1, *grid.shape), (*grid.spacing, thickness), (*grid.origin, 0.0), tuple(tuple(r) for r in direction))


def transform_points(matrix: ArrayLike, points: ArrayLike) -> Float:
    """Apply a homogeneous (D+1, D+1) matrix to points (..., D), components x, y, z."""
    m = np.asarray(matrix, dtype=np.float64)
    d = m.shape[0] - 1
    return np.asarray(points, dtype=np.float64) @ m[:d, :d].T + m[:d, d]


def _vector(values: ArrayLike, d: int, name: str) -> Float:
    vector = np.asarray(values, dtype=np.float64).reshape(-1)
    if vector.size != d:
        raise GeometryError(f"{name} needs {d} values for a {d}D grid, not {vector.size}")
    if not np.isfinite(vector).all():
        raise GeometryError(f"{name} has values that are not finite: {vector.tolist()}", "correct the image's header")
    return vector
