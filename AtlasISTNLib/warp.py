"""Warps: affine matrices, exponentials of velocity fields, composition and sampling, in 2D and 3D by one code.

Pure functions of tensors. Conventions, everywhere in the engine:

- points (N, Z, Y, X, D) and displacements (N, D, Z, Y, X) have components x, y, z in CUBE units (align_corners=True);
- velocities (N, D, Z/2, Y/2, X/2) have components x, y, z in voxels of the full-resolution grid;
- a matrix (N, D, D+1) takes CUBE points to CUBE points.

A transformation has two maps. With θ affine and φ = exp(v), one is p ↦ φ(θp), the other p ↦ θ⁻¹(φ⁻¹(p)). Which of them
takes image points to atlas points is the model's `direction`; see `Transformation`.

Source of the formulas: Sinclair et al. 2022, doi:10.1016/j.media.2022.102383; scaling and squaring: Arsigny et al.
2006, doi:10.1007/11866565_113.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .configs import ModelConfig

_INTERPOLATE = {2: "bilinear", 3: "trilinear"}


def identity(shape: Sequence[int], like: Tensor) -> Tensor:
    """CUBE points of the voxel centres of a grid: (1, *shape, D), on the device and of the type of `like`."""
    axes = [2 * torch.arange(n, device=like.device, dtype=like.dtype) / (n - 1) - 1 for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1).unsqueeze(0)


def sample(values: Tensor, points: Tensor, padding: str = "border") -> Tensor:
    """Linear interpolation of `values` (N, C, *shape) at CUBE `points` (N, *out, D): (N, C, *out)."""
    if values.shape[0] != points.shape[0]:
        n = max(values.shape[0], points.shape[0])
        values, points = values.expand(n, *values.shape[1:]), points.expand(n, *points.shape[1:])
    return F.grid_sample(values, points, mode="bilinear", padding_mode=padding, align_corners=True)


def apply_matrix(matrix: Tensor, points: Tensor) -> Tensor:
    """Take points (N, *shape, D) through matrices (N, D, D+1)."""
    n, d = matrix.shape[0], matrix.shape[1]
    flat = points.expand(n, *points.shape[1:]).reshape(n, -1, d)
    moved = torch.baddbmm(matrix[:, :, d].unsqueeze(1), flat, matrix[:, :, :d].transpose(1, 2))
    return moved.reshape(n, *points.shape[1:])


def cropped(x: Tensor, shape: Sequence[int], start: int = 0) -> Tensor:
    """The part of (N, C, ...) that has `shape`, from voxel `start` of every axis on."""
    for axis, n in enumerate(shape, start=2):
        x = x.narrow(axis, start, n)
    return x


def to_components_last(field: Tensor) -> Tensor:
    """(N, D, *shape) → (N, *shape, D)."""
    return field.movedim(1, -1)


def exponential(velocity: Tensor, squarings: int) -> Tensor:
    """Displacement of exp(v) of a stationary velocity field by scaling and squaring.

    Args:
        velocity: (N, D, *shape) in CUBE units of its own grid.
        squarings: number s of squarings; the first step is v / 2^s.

    Returns:
        Displacement (N, D, *shape) in the same units; its border values continue outside.
    """
    points = identity(velocity.shape[2:], velocity)
    displacement = velocity / 2**squarings
    for _ in range(squarings):
        displacement = displacement + sample(displacement, points + to_components_last(displacement))
    return displacement


def displacement_from_velocity(velocity: Tensor, shape: Sequence[int], convention: str, squarings: int) -> Tensor:
    """Full-resolution displacement of exp(v), v given at half resolution.

    Args:
        velocity: (N, D, *half) in voxels of the full grid; `half` may belong to a grid padded beyond `shape`.
        shape: the full grid's shape; what lies beyond it is cut off.
        convention: "metric" keeps a half-resolution voxel at the centre of the block of voxels that it covers;
            "reference" identifies the corner centres of both grids, as the released code does.
        squarings: steps of scaling and squaring.

    Returns:
        (N, D, *shape) in CUBE units of the full grid.
    """
    half = torch.tensor(velocity.shape[:1:-1], dtype=velocity.dtype, device=velocity.device)
    full = torch.tensor(tuple(shape)[::-1], dtype=velocity.dtype, device=velocity.device)
    column = (1, -1) + (1,) * len(shape)
    # Twice the half grid's width in full voxels, between the points that its cube ends at.
    width = (2 * half - 1 if convention == "reference" else 2 * half - 2).reshape(column)
    small = exponential(2 * velocity / width, squarings)
    large = F.interpolate(small, scale_factor=2, mode=_INTERPOLATE[len(shape)], align_corners=False)
    large = cropped(large, shape)
    return large * (width / (full - 1).reshape(column))


def rotation_from_vector(vector: Tensor) -> Tensor:
    """Rotation matrices (N, D, D) of rotation vectors: (N, 1) angles in 2D, (N, 3) in 3D; radians.

    The matrix exponential of the cross-product matrix: smooth everywhere, with the identity at zero.
    """
    n, count = vector.shape
    if count == 1:
        cos, sin = torch.cos(vector[:, 0]), torch.sin(vector[:, 0])
        return torch.stack([cos, -sin, sin, cos], dim=-1).reshape(n, 2, 2)
    zero = torch.zeros_like(vector[:, 0])
    x, y, z = vector.unbind(dim=1)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).reshape(n, 3, 3)
    return torch.linalg.matrix_exp(cross)


def metric_affine(parameters: Tensor, half_extent: Sequence[float]) -> Tensor:
    """θ = S·R·T from free parameters, rotating in millimetres about the grid's centre.

    Args:
        parameters: (N, 2D + R), R = 1 in 2D and 3 in 3D: translation, rotation, scaling, all 0 at the identity.
            Translations are tanh(·) of half the grid, rotation vectors π/2·tanh(·) radians, scales exp(tanh(·)).
        half_extent: mm from the centre of the grid to its outermost voxel centres, x, y, z.

    Returns:
        (N, D, D+1) in CUBE units.
    """
    d = len(half_extent)
    shift, turn, stretch = parameters[:, :d], parameters[:, d:-d], parameters[:, -d:]
    half = torch.tensor(half_extent, dtype=parameters.dtype, device=parameters.device)
    linear = torch.exp(torch.tanh(stretch)).unsqueeze(-1) * rotation_from_vector(math.pi / 2 * torch.tanh(turn))
    linear = linear * half / half.unsqueeze(-1)
    return torch.cat([linear, linear @ torch.tanh(shift).unsqueeze(-1)], dim=-1)


def reference_affine(parameters: Tensor) -> Tensor:
    """θ = S·R·T as the released code has it: in the normalised cube, R = R₁₂(a₁)·R₂₃(a₂)·R₁₂(a₃) in array-order axes.

    Args:
        parameters: (N, 2D + R): translation and scaling in x, y, z order, rotation angles as the code orders them.

    Returns:
        (N, D, D+1) in CUBE units, x, y, z order.
    """
    d = 2 if parameters.shape[1] == 5 else 3
    # In array order z, y, x as published, and turned to x, y, z at the end.
    shift, turn, stretch = parameters[:, :d].flip(1), parameters[:, d:-d], parameters[:, -d:].flip(1)
    angles = torch.tanh(turn) * (math.pi / 4)
    if d == 2:
        rotation = rotation_from_vector(angles)
    else:
        rotation = (
            _plane_rotation(angles[:, 0], 0) @ _plane_rotation(angles[:, 1], 1) @ _plane_rotation(angles[:, 2], 0)
        )
    linear = torch.exp(torch.tanh(stretch)).unsqueeze(-1) * rotation
    offset = linear @ torch.tanh(shift).unsqueeze(-1)
    return torch.cat([linear.flip(1, 2), offset.flip(1)], dim=-1)


def _plane_rotation(angle: Tensor, first: int) -> Tensor:
    """(N, 3, 3) rotation in the plane of axes `first` and `first` + 1."""
    matrix = torch.eye(3, dtype=angle.dtype, device=angle.device).repeat(angle.shape[0], 1, 1)
    cos, sin = torch.cos(angle), torch.sin(angle)
    matrix[:, first, first], matrix[:, first, first + 1] = cos, -sin
    matrix[:, first + 1, first], matrix[:, first + 1, first + 1] = sin, cos
    return matrix


def invert_matrix(matrix: Tensor) -> Tensor:
    """The inverse of affine matrices (N, D, D+1)."""
    d = matrix.shape[1]
    linear = torch.linalg.inv(matrix[:, :, :d])
    return torch.cat([linear, -linear @ matrix[:, :, d:]], dim=-1)


@dataclass(frozen=True)
class Transformation:
    """One affine and one diffeomorphism between an image and the atlas, on grids of one shape.

    Attributes:
        theta: (N, D, D+1), CUBE.
        velocity: (N, D, *half) in voxels, or None without a non-rigid part.
        config: the model's; gives shape, convention and direction.

    φ and φ⁻¹ are integrated when they are asked for, so that a loss that needs one does not pay for the other.
    """

    theta: Tensor
    velocity: Tensor | None
    config: ModelConfig

    def displacement(self, sign: int = 1) -> Tensor | None:
        """Displacement of exp(sign·v): (N, D, *shape), CUBE; None without a non-rigid part."""
        if self.velocity is None:
            return None
        c = self.config
        return displacement_from_velocity(self.velocity * sign, c.shape, c.convention, c.squarings)

    def displacements(self) -> tuple[Tensor | None, Tensor | None]:
        """Displacements of exp(v) and of exp(−v), integrated as one batch: cheaper than one after the other."""
        if self.velocity is None:
            return None, None
        c = self.config
        both = torch.cat([self.velocity, -self.velocity])
        plus, minus = displacement_from_velocity(both, c.shape, c.convention, c.squarings).chunk(2)
        return plus, minus

    def after_affine(self, displacement: Tensor | None, at: Tensor | None = None) -> Tensor:
        """The map p ↦ φ(θp) at all voxel centres, or `at` points (N, *out, D): points. `displacement` is φ's."""
        still = identity(self.config.shape, self.theta)
        points = apply_matrix(self.theta, still if at is None else at)
        if displacement is None:
            return points
        if self.config.convention == "reference":
            # The released code samples the warp field itself, so that its border values end the identity part too.
            field = still.movedim(-1, 1) + displacement
            return to_components_last(sample(field, points))
        return points + to_components_last(sample(displacement, points))

    def before_affine(self, displacement: Tensor | None, at: Tensor | None = None) -> Tensor:
        """The map p ↦ θ⁻¹(φ⁻¹(p)) at all voxel centres, or `at` points (N, *out, D). `displacement` is φ⁻¹'s."""
        points = identity(self.config.shape, self.theta) if at is None else at
        if displacement is not None:
            points = points + to_components_last(displacement if at is None else sample(displacement, at))
        return apply_matrix(invert_matrix(self.theta), points)

    def atlas_from_image(self, displacement: Tensor | None = None) -> Tensor:
        """Atlas points of all image voxels; sampling the atlas there brings the *atlas onto the image*.

        `displacement` may give the one that is needed, when the caller has it already: +v for the direction
        "atlas_from_image", −v otherwise.
        """
        return self._points("atlas_from_image", displacement)

    def image_from_atlas(self, displacement: Tensor | None = None, at: Tensor | None = None) -> Tensor:
        """Image points of all atlas voxels; sampling the image there brings the *image onto the atlas*.

        `displacement` as for `atlas_from_image`, the other way round; `at` gives other atlas points (N, *out, D), CUBE,
        with as many axes between the first and the last as the grid has.
        """
        return self._points("image_from_atlas", displacement, at)

    def _points(self, which: str, displacement: Tensor | None, at: Tensor | None = None) -> Tensor:
        outward = which == self.config.direction
        if displacement is None:
            displacement = self.displacement(1 if outward else -1)
        return self.after_affine(displacement, at) if outward else self.before_affine(displacement, at)
