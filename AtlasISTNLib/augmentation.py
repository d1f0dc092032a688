"""Augmentation: training cases moved, deformed and changed in intensity at random, in 2D and 3D by one code.

What happens to a case depends on the seed, the epoch and the case alone: not on the order of the batches, nor on which
process draws it, nor on what was drawn before. So a training that goes on from a checkpoint needs no random state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .bundle import half_extent
from .configs import TrainConfig
from .geometry import Grid
from .prepared import Prepared
from .warp import apply_matrix, cropped, identity, invert_matrix, metric_affine, sample

#: Control points of the elastic deformation between the grid's ends, along each axis.
_INTERVALS = 4
#: Voxels between the control points of smooth random fields; each field draws one of them.
_WAVELENGTHS = (3, 6, 12)
#: Below 0.48 of the control points' distance a cubic B-spline deformation cannot fold (Choi & Lee 2000).
_LARGEST_DISPLACEMENT = 0.4


@dataclass(frozen=True)
class _Draws:
    """What was drawn for one case: affine parameters, control displacements (share of the largest), intensities."""

    affine: Tensor
    control: Tensor
    contrast: float
    brightness: float
    noise: float
    blur: float
    bias: float
    seed: int


def batch_of(
    data: Prepared, index: Tensor, grid: Grid, config: TrainConfig, epoch: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Some cases of an epoch on the model grid, augmented.

    Args:
        index: (N,) which cases.
        epoch: from 1; with the seed and the case it decides what is drawn.

    Returns:
        Images (N, 1, *shape) and soft labels (N, K, *shape).
    """
    moved = bool(config.rotation or config.translation or config.scale or config.elastic)
    if not (moved or config.intensity or config.noise or config.blur or config.bias):
        return on_grid(data, index, device)
    draws = [_drawn(config, grid, epoch, int(i)) for i in index]
    if moved:
        image, labels = (torch.from_numpy(values[index.numpy()]).to(device) for values in (data.images, data.labels))
        points = _points(draws, data.margin, grid, config).to(device)
        image, labels = sample(image, points), sample(labels.float(), points)
    else:
        image, labels = on_grid(data, index, device)
    return _intensities(image, draws, config), labels


def prediction_noise(
    index: Tensor, channels: int, grid: Grid, config: TrainConfig, epoch: int, device: torch.device
) -> Tensor | None:
    """What is added to the predictions of some cases before the STN sees them: (N, channels, *shape), or None."""
    if not config.prediction_noise:
        return None
    fields = []
    for case in index.tolist():
        draw = torch.Generator().manual_seed(_seed(config, epoch, case) ^ 0xF1E1D)
        level = float(torch.rand(1, generator=draw)) * config.prediction_noise
        fields.append(level * _smooth_field(channels, grid.shape, draw))
    return torch.stack(fields).to(device)


def _smooth_field(channels: int, shape: Sequence[int], draw: torch.Generator) -> Tensor:
    """A random field (channels, *shape) of about unit variance, smooth over a wavelength that is drawn, too."""
    step = _WAVELENGTHS[int(torch.randint(len(_WAVELENGTHS), (1,), generator=draw))]
    coarse = torch.randn((1, channels, *(n // step + 2 for n in shape)), generator=draw)
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    return F.interpolate(coarse, size=tuple(shape), mode=mode, align_corners=True)[0]


def on_grid(data: Prepared, index: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images and labels of some cases on the model grid, as they are."""
    shape = [n - 2 * data.margin for n in data.images.shape[2:]]
    pair = (torch.from_numpy(values[index.numpy()]) for values in (data.images, data.labels))
    image, labels = (cropped(values, shape, data.margin).to(device) for values in pair)
    return image.contiguous(), labels.float().contiguous()


def _drawn(config: TrainConfig, grid: Grid, epoch: int, case: int) -> _Draws:
    seed = _seed(config, epoch, case)
    draw = torch.Generator().manual_seed(seed)
    d = grid.ndim
    uniform = 2 * torch.rand(2 * d + (1 if d == 2 else 3), generator=draw) - 1
    half = torch.tensor(half_extent(grid))
    affine = torch.cat(
        [
            torch.atanh((uniform[:d] * config.translation / half).clamp(-0.9, 0.9)),
            torch.atanh(uniform[d:-d] * math.radians(config.rotation) / (math.pi / 2)),
            torch.atanh(torch.log1p(uniform[-d:] * config.scale)),
        ]
    )
    control = 2 * torch.rand((d,) + (_INTERVALS + 3,) * d, generator=draw) - 1
    choice = torch.rand(7, generator=draw).tolist()
    return _Draws(
        affine=affine,
        control=control if config.elastic and choice[0] < 0.5 else torch.zeros_like(control),
        contrast=1 + (2 * choice[1] - 1) * config.intensity,
        brightness=(2 * choice[2] - 1) * config.intensity,
        noise=choice[3] * config.noise,
        blur=choice[5] * config.blur if choice[4] < 0.5 else 0.0,
        bias=choice[6] * config.bias,
        seed=seed,
    )


def _seed(config: TrainConfig, epoch: int, case: int) -> int:
    # Large odd factors keep neighbouring seeds, epochs and cases apart.
    return ((config.seed * 1_000_003 + epoch) * 1_000_003 + case) % 2**63


def _points(draws: Sequence[_Draws], margin: int, grid: Grid, config: TrainConfig) -> Tensor:
    """Where to sample the larger prepared cases for each voxel of the model grid: (N, *shape, D), their CUBE."""
    theta = metric_affine(torch.stack([draw.affine for draw in draws]), half_extent(grid))
    points = identity(grid.shape, theta)
    if config.elastic:
        points = points + _elastic(torch.stack([draw.control for draw in draws]), grid, config.elastic)
    inner = torch.tensor(grid.size, dtype=torch.float32) - 1
    # Both grids are centred on one point.
    return apply_matrix(invert_matrix(theta), points) * (inner / (inner + 2 * margin))


def _elastic(control: Tensor, grid: Grid, largest: float) -> Tensor:
    """Smooth displacement (N, *shape, D) in CUBE units from control values (N, D, M, ...) in [-1, 1].

    Args:
        largest: mm that a displacement cannot exceed; less where it could fold.
    """
    half = torch.tensor(half_extent(grid), dtype=control.dtype)
    limit = torch.minimum(torch.full_like(half, largest), _LARGEST_DISPLACEMENT * 2 * half / _INTERVALS)
    field = control
    for axis, n in enumerate(grid.shape, start=2):
        field = torch.tensordot(field, _spline_basis(n), dims=([axis], [1])).movedim(-1, axis)
    return field.movedim(1, -1) * (limit / half)


def _spline_basis(n: int) -> Tensor:
    """Cubic B-spline basis (n, intervals + 3) at n points that reach from the first knot to the last."""
    position = torch.linspace(0, _INTERVALS, n).unsqueeze(1) - torch.arange(-1, _INTERVALS + 2)
    t = position.abs()
    near, far = 2 / 3 - t**2 + t**3 / 2, (2 - t).clamp(min=0) ** 3 / 6
    return torch.where(t < 1, near, far)


def _intensities(image: Tensor, draws: Sequence[_Draws], config: TrainConfig) -> Tensor:
    changed = []
    for one, draw in zip(image, draws, strict=True):
        if draw.blur > 0.1:  # below it a kernel is one voxel
            one = _blurred(one, draw.blur)
        if draw.bias:
            field = _smooth_field(1, one.shape[1:], torch.Generator().manual_seed(draw.seed ^ 0xB1A5))
            one = one + draw.bias * field.to(one.device)
        if config.intensity:
            one = one * draw.contrast + draw.brightness
        if draw.noise:
            # On the CPU, so that every device trains on the same images.
            noise = torch.randn(one.shape, generator=torch.Generator().manual_seed(draw.seed ^ 0x5EED))
            one = one + draw.noise * noise.to(one.device)
        changed.append(one)
    return torch.stack(changed)


def _blurred(image: Tensor, sigma: float) -> Tensor:
    """An image (1, *shape) after a Gaussian blur of σ voxels; its border values continue outside."""
    radius = math.ceil(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=image.device) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).reshape(1, 1, -1)
    for axis in range(1, image.ndim):
        lines = image.movedim(axis, -1)
        flat = F.pad(lines.reshape(-1, 1, lines.shape[-1]), (radius, radius), mode="replicate")
        image = F.conv1d(flat, kernel).reshape(lines.shape).movedim(-1, axis)
    return image


__all__ = ["batch_of", "on_grid", "prediction_noise"]
