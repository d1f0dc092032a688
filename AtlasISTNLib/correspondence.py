"""Correspondence: which point of the image is which point of the atlas, both ways, in millimetres.

Kept as it was computed, an affine and a displacement field, so that it is small, exact and readable by ITK as a
composite transform. Needs no torch.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import scipy  # opens its parts when they are first used: the panel need not wait for them
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray

from .errors import ConfigError, GeometryError
from .geometry import VOXEL, WORLD, Float, Grid, Plane, slice_of, transform_points
from .volume import Volume, write_atomically

IMAGE_FROM_ATLAS = "image_from_atlas"
ATLAS_FROM_IMAGE = "atlas_from_image"

#: The two maps are first made to undo each other to this many mm at the nodes of the field, where that is possible.
INVERSE_TOLERANCE_MM = 0.002
_INVERSE_STEPS = 60
_NODES_SHARE, _EVENED_MM = 0.7, 0.5
#: How often the spacing of a field is halved, by dimension; in 2D it costs nothing.
_HALVINGS = {2: 2, 3: 1}
#: Vector images are resampled in slabs of at most so many values.
_SLAB_VALUES = 1 << 26


@dataclass(frozen=True, eq=False)
class Correspondence:
    """One affine θ and one diffeomorphism φ between an image and the atlas, in WORLD (LPS mm).

    The map named `outward` is p ↦ φ(θp); the other one is p ↦ θ⁻¹(φ⁻¹(p)).

    Attributes:
        outward: "atlas_from_image" or "image_from_atlas".
        theta: (D+1, D+1), mm.
        displacement: φ(p) − p in mm, D channels in x, y, z order, on a grid in the space that θ leads to. The grid
            reaches so far beyond the anatomy that what lies outside of it, where ITK takes no displacement, does not
            matter.
        displacement_back: φ⁻¹(p) − p on the same grid.
        image_grid: the model grid where it was placed on the image.
        atlas_grid: the model grid in atlas space.
    """

    outward: str
    theta: Float
    displacement: Volume
    displacement_back: Volume
    image_grid: Grid
    atlas_grid: Grid

    @classmethod
    def build(
        cls,
        outward: str,
        theta: Float,
        displacement: NDArray[Any] | None,
        displacement_back: NDArray[Any] | None,
        image_grid: Grid,
        atlas_grid: Grid,
        fine: bool = True,
    ) -> Correspondence:
        """From what a model computes in CUBE units.

        Args:
            outward: which map is φ∘θ.
            theta: (D, D+1) or (D+1, D+1), CUBE to CUBE.
            displacement: φ's, (D, *shape) in CUBE units, components x, y, z; None without a non-rigid part.
            displacement_back: φ⁻¹'s, the same.
            image_grid: the model grid on the image.
            atlas_grid: the model grid in atlas space, of the same shape.
            fine: whether to keep the fields at half the grid's spacing (a quarter in 2D), interpolated smoothly. ITK's
                linear interpolation of a field has a kink at every node, and two such fields undo each other between
                their nodes only as well as the kinks are small: halving makes what is left four times smaller. Without
                it, this is an eighth of the work and of the size, enough to look at.

        The map that brings labels onto the image is kept as it is at the model grid's nodes; the other is improved
        until they undo each other.
        """
        if outward not in (IMAGE_FROM_ATLAS, ATLAS_FROM_IMAGE):
            raise ConfigError(f"no map is named '{outward}'")
        source, target = (image_grid, atlas_grid) if outward == ATLAS_FROM_IMAGE else (atlas_grid, image_grid)
        cube = np.eye(target.ndim + 1)
        cube[: target.ndim] = np.asarray(theta, dtype=np.float64)[: target.ndim]
        theta_mm = target.matrix(WORLD, "cube") @ cube @ source.matrix("cube", WORLD)
        linear = target.matrix(WORLD, "cube")[: target.ndim, : target.ndim]
        zero = np.zeros((target.ndim, *target.shape))
        fields = [
            zero if field is None else np.einsum("ij,j...->i...", linear, np.asarray(field, dtype=np.float64))
            for field in (displacement, displacement_back)
        ]
        # Far enough that nothing from beyond the widened grid is carried into the atlas, where ITK and we could differ.
        reach = np.array([np.abs(field).reshape(target.ndim, -1).max(axis=1) for field in fields]).max(axis=0)
        steps = np.abs(np.linalg.inv(np.array(target.direction) * np.array(target.spacing))) @ reach
        margin = [int(np.ceil(s)) + 2 for s in steps]
        wide = _widened(target, margin)
        fields = [np.pad(f, [(0, 0), *((m, m) for m in reversed(margin))], mode="edge") for f in fields]
        if fine and displacement is not None:
            for _ in range(_HALVINGS[target.ndim]):
                for axis in range(1, target.ndim + 1):
                    fields = [_halved(field, axis) for field in fields]
                half = tuple(step / 2 for step in wide.spacing)
                wide = Grid(fields[0].shape[1:], half, wide.origin, wide.direction)
        volumes = [Volume.from_array(field, wide) for field in fields]
        kept, other = (0, 1) if outward == ATLAS_FROM_IMAGE else (1, 0)
        volumes[other] = _undoing(volumes[kept], volumes[other])
        if fine and displacement is not None:
            volumes[other] = _evened(volumes[kept], volumes[other])
        return cls(outward, theta_mm, volumes[0], volumes[1], image_grid, atlas_grid)

    def image_from_atlas(self, points: ArrayLike) -> Float:
        """Image points (..., D) of atlas points (..., D), both WORLD mm, x, y, z."""
        return self._map(IMAGE_FROM_ATLAS, points)

    def atlas_from_image(self, points: ArrayLike) -> Float:
        """Atlas points (..., D) of image points (..., D), both WORLD mm, x, y, z."""
        return self._map(ATLAS_FROM_IMAGE, points)

    def field(self, which: str, grid: Grid) -> Volume:
        """Displacement of a map in mm (target minus source point) at all voxels of a grid: D channels x, y, z, float64.

        Args:
            which: "image_from_atlas" (then `grid` lies in atlas space) or "atlas_from_image" (then in the image's).
            grid: where to evaluate.
        """
        points = grid.points(WORLD)
        return Volume.from_array(np.moveaxis(self._map(which, points) - points, -1, 0), grid, which)

    def transform(self, which: str) -> sitk.Transform:
        """A map as an ITK transform (LPS mm). ITK resamples the *atlas* onto the image with "atlas_from_image"."""
        transform = sitk.CompositeTransform(self.theta.shape[0] - 1)
        # ITK applies what was added last first.
        if self._is_outward(which):
            transform.AddTransform(_itk_displacement(self.displacement))
            transform.AddTransform(_itk_affine(self.theta))
        else:
            transform.AddTransform(_itk_affine(self._theta_inverse))
            transform.AddTransform(_itk_displacement(self.displacement_back))
        return transform

    def write(self, which: str, path: str | os.PathLike[str]) -> Path:
        """Write a map as an ITK transform file; .h5 and .tfm are known.

        Raises:
            OutputError: the place cannot be written.
        """
        transform = self.transform(which)
        return write_atomically(path, lambda partial: sitk.WriteTransform(transform, str(partial)))

    def lifted(self, plane: Plane) -> Correspondence:
        """A 2D correspondence of a single slice as a 3D one; the atlas lies at z = 0 of a 3D atlas space."""
        thick = np.eye(4)
        thick[np.ix_([0, 1, 3], [0, 1, 3])] = self.theta
        world = plane.world_from_plane
        to_image = self.outward == IMAGE_FROM_ATLAS
        theta = world @ thick if to_image else thick @ np.linalg.inv(world)
        fields = []
        for field in (self.displacement, self.displacement_back):
            grid = slice_of(field.grid)
            values = np.concatenate([field.array, np.zeros((1, *field.grid.shape))])[:, np.newaxis]
            if to_image:
                grid = _moved(grid, world)
                values = np.einsum("ij,j...->i...", world[:3, :3], values)
            fields.append(Volume.from_array(values, grid))
        image_grid = _moved(slice_of(self.image_grid), world)
        return replace(
            self,
            theta=theta,
            displacement=fields[0],
            displacement_back=fields[1],
            image_grid=image_grid,
            atlas_grid=slice_of(self.atlas_grid),
        )

    def _is_outward(self, which: str) -> bool:
        if which not in (IMAGE_FROM_ATLAS, ATLAS_FROM_IMAGE):
            raise ConfigError(f"no map is named '{which}'", f"use {IMAGE_FROM_ATLAS} or {ATLAS_FROM_IMAGE}")
        return which == self.outward

    def _map(self, which: str, points: ArrayLike) -> Float:
        p = np.asarray(points, dtype=np.float64)
        d = self.theta.shape[0] - 1
        if p.shape[-1:] != (d,):
            raise GeometryError(f"points need {d} components, not shape {p.shape}")
        if self._is_outward(which):
            p = transform_points(self.theta, p)
            return p + _sampled(self.displacement, p)
        return transform_points(self._theta_inverse, p + _sampled(self.displacement_back, p))

    @cached_property
    def _theta_inverse(self) -> Float:
        return np.asarray(np.linalg.inv(self.theta), dtype=np.float64)


def carried(source: Volume, grid: Grid, transform: sitk.Transform) -> Volume:
    """A volume resampled linearly through a transform (grid to source points), 0 beyond it; float32, C channels."""
    image = source.with_array(source.array.astype(np.float32)).to_sitk()
    default = 0.0
    result = sitk.Resample(
        image,
        grid.size,
        transform,
        sitk.sitkLinear,
        grid.origin,
        grid.spacing,
        np.ravel(grid.direction).tolist(),
        default,
    )
    return replace(Volume.from_sitk(result, source.name), grid=grid)


def carried_labels(soft: Volume, values: Sequence[int], grid: Grid, transform: sitk.Transform, where: Grid) -> Volume:
    """The label of largest weight at each voxel of a grid, (1, *shape).

    The soft map is sampled at the voxels themselves: boundaries are as fine as the grid.

    Args:
        soft: K channels, background first.
        values: the value of each label, background first.
        grid: the grid to fill.
        transform: takes points of `grid` to points of `soft`.
        where: the part of `grid` in which labels can lie; the rest is background.
    """
    kind = np.uint8 if max(values) < 256 else np.int32
    codes = np.asarray(values, dtype=kind)
    labels = np.full(grid.shape, values[0], dtype=kind)
    place = place_of(where, grid)
    rows = max(1, _SLAB_VALUES // (len(values) * int(np.prod(where.shape[1:]))))
    for low in range(0, where.shape[0], rows):
        high = min(where.shape[0], low + rows)
        part = where.box([low] + [0] * (grid.ndim - 1), [high, *where.shape[1:]])
        weights = carried(soft, part, transform).array
        # Beyond the soft map all weights are 0, and the first of equals is the background.
        rows_here = slice(place[0].start + low, place[0].start + high)
        labels[(rows_here, *place[1:])] = codes[weights.argmax(axis=0)]
    return Volume.from_array(labels, grid, soft.name)


def place_of(part: Grid, grid: Grid) -> tuple[slice, ...]:
    """Where the voxels of a part of a grid (see `Grid.box`) lie in the grid's array."""
    start = np.rint(grid.transform_points(np.array(part.origin), VOXEL, WORLD)[::-1]).astype(int).tolist()
    return tuple(slice(a, a + n) for a, n in zip(start, part.shape, strict=True))


def part_around(grid: Grid, points: Float, margin_mm: float) -> Grid | None:
    """The part of a grid that holds WORLD points (M, D) and `margin_mm` around them; None if that is no voxel."""
    voxel = grid.transform_points(points, VOXEL, WORLD)
    margin = margin_mm / np.array(grid.spacing)
    low = np.floor(voxel.min(axis=0) - margin).clip(0, None).astype(int)
    high = np.minimum(np.ceil(voxel.max(axis=0) + margin).astype(int) + 1, np.array(grid.size))
    if (high <= low).any():
        return None
    return grid.box(low[::-1].tolist(), high[::-1].tolist())


def _halved(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Values at half the spacing along an axis, N to 2N − 1: the old ones, and cubic interpolation between them."""
    v = np.moveaxis(values, axis, 0)
    padded = np.concatenate([v[:1], v, v[-1:]])
    fine = np.empty((2 * len(v) - 1, *v.shape[1:]))
    fine[::2] = v
    fine[1::2] = (9 * (padded[1:-2] + padded[2:-1]) - padded[:-3] - padded[3:]) / 16
    return np.moveaxis(fine, 0, axis)


def _widened(grid: Grid, margin: Sequence[int]) -> Grid:
    """The grid with `margin` more voxels on both sides of x, y, z."""
    start = [-m for m in reversed(margin)]
    stop = [n + m for n, m in zip(grid.shape, reversed(margin), strict=True)]
    return grid.box(start, stop)


def _moved(grid: Grid, matrix: Float) -> Grid:
    """The grid after a rotation and translation (4, 4) of the world."""
    direction = matrix[:3, :3] @ np.array(grid.direction)
    origin = transform_points(matrix, np.array(grid.origin))
    return Grid(grid.shape, grid.spacing, tuple(origin), tuple(tuple(row) for row in direction))


def _sampled(field: Volume, points: Float) -> Float:
    """A vector field at WORLD points (..., D), linear, border values beyond it: (..., D)."""
    d = field.grid.ndim
    index = field.grid.transform_points(points.reshape(-1, d), VOXEL, WORLD)[:, ::-1].T
    values = np.stack([scipy.ndimage.map_coordinates(c, index, order=1, mode="nearest") for c in field.array], axis=-1)
    return values.reshape(points.shape)


def _undoing(field: Volume, start: Volume) -> Volume:
    """The displacement that undoes `field`: u'(p) = −u(p + u'(p)), by damped fixed-point iteration from `start`.

    exp(−v) is the inverse of exp(v) only up to the discretisation. Where the field folds there is no inverse and the
    best iterate stays.
    """
    d = field.grid.ndim
    points = field.grid.points(WORLD).reshape(-1, d)
    back = np.moveaxis(start.array, 0, -1).reshape(-1, d).astype(np.float64)
    todo = np.arange(len(points))
    step = np.ones(len(points))
    residual = back + _sampled(field, points + back)
    size = np.linalg.norm(residual, axis=-1)
    for _ in range(_INVERSE_STEPS):
        todo = todo[size[todo] > INVERSE_TOLERANCE_MM]
        if not len(todo):
            break
        trial = back[todo] - step[todo, np.newaxis] * residual[todo]
        trial_residual = trial + _sampled(field, points[todo] + trial)
        trial_size = np.linalg.norm(trial_residual, axis=-1)
        better = trial_size < size[todo]
        taken = todo[better]
        back[taken], residual[taken], size[taken] = trial[better], trial_residual[better], trial_size[better]
        # Where the field is steep the plain iteration overshoots; a shorter step converges there.
        step[todo[~better]] /= 2
    return start.with_array(np.moveaxis(back.reshape(*field.grid.shape, d), -1, 0))


def _evened(field: Volume, back: Volume) -> Volume:
    """A displacement that undoes `field` about as well between the nodes as at them.

    Two piecewise linear fields that undo each other exactly at the nodes err most in the middle of the cells, and there
    to one side, as both are curved. Each node gives up a share of the mean error of the cells around it, which takes
    two fifths off the largest error and halves the mean one.
    """
    corners = list(itertools.product((slice(None, -1), slice(1, None)), repeat=field.grid.ndim))
    points, moved = field.grid.points(WORLD), np.moveaxis(back.array, 0, -1)
    middle, there = (np.mean([values[corner] for corner in corners], axis=0) for values in (points, moved))
    d = field.grid.ndim
    error = there + _sampled(field, (middle + there).reshape(-1, d)).reshape(there.shape)
    # Where the field folds nothing undoes it, and what is left there must not be spread.
    error[np.linalg.norm(error, axis=-1) > _EVENED_MM] = 0
    total, count = np.zeros(moved.shape), np.zeros((*field.grid.shape, 1))
    for corner in corners:
        total[corner] += error
        count[corner] += 1
    return back.with_array(np.moveaxis(moved - _NODES_SHARE * total / count, -1, 0))


def _itk_affine(matrix: Float) -> sitk.AffineTransform:
    d = matrix.shape[0] - 1
    transform = sitk.AffineTransform(d)
    transform.SetMatrix(matrix[:d, :d].ravel().tolist())
    transform.SetTranslation(matrix[:d, d].tolist())
    return transform


def _itk_displacement(field: Volume) -> sitk.DisplacementFieldTransform:
    image = sitk.Cast(field.with_array(field.array.astype(np.float64)).to_sitk(), sitk.sitkVectorFloat64)
    return sitk.DisplacementFieldTransform(image)
