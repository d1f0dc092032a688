"""Parts of synthetic images: smooth fields, resolution, what scanners and patients spoil, in 2D and 3D by one code.

Pure functions of tensors (*shape) without channels. Whatever is random comes in drawn; blurring and resampling go axis
by axis as products with small matrices, which CPUs do faster than convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .warp import exponential

_INTERPOLATE = {2: "bilinear", 3: "trilinear"}
#: Least σ in voxels of a blur: it ends between voxels what is otherwise aliased.
_LEAST_SIGMA = 0.3
#: Frequencies, as shares of the highest one, that no patient's motion touches: they say where the head is.
_STILL = 0.12


def enlarged(coarse: Tensor, shape: Sequence[int]) -> Tensor:
    """Coarse values (C, *small) interpolated onto a grid of `shape` of the same ends: (C, *shape)."""
    mode = _INTERPOLATE[len(shape)]
    return F.interpolate(coarse.unsqueeze(0), size=tuple(shape), mode=mode, align_corners=True)[0]


def spline_field(control: Tensor, shape: Sequence[int]) -> Tensor:
    """A smooth field (C, *shape) from cubic B-spline coefficients (C, M + 3, …) of M intervals along each axis."""
    for axis, n in enumerate(shape, start=1):
        basis = _spline_basis(n, control.shape[axis] - 3).to(control)
        control = torch.tensordot(control, basis, dims=([axis], [1])).movedim(-1, axis)
    return control


def diffeomorphism(control: Tensor, shape: Sequence[int], reach: Tensor) -> Tensor:
    """Displacement (D, *shape), in the units of `reach`, of the exponential of a smooth velocity.

    Args:
        control: (D, M + 3, …) spline coefficients of the velocity.
        shape: of the grid; the exponential itself is computed on a coarser one.
        reach: (D,) from the grid's middle to its ends along x, y, z, in the units of the velocity.
    """
    coarse = [max(8, min(n, 32)) for n in shape]
    column = (-1,) + (1,) * len(shape)
    velocity = spline_field(control, coarse) / reach.reshape(column)
    return enlarged(exponential(velocity.unsqueeze(0), 5)[0], shape) * reach.reshape(column)


def coarser(image: Tensor, size: Sequence[int], sigma: Sequence[float]) -> Tensor:
    """An image after a blur of σ voxels along each array axis, on `size` larger voxels over the same extent."""
    for axis, (n, m, s) in enumerate(zip(image.shape, size, sigma, strict=True)):
        if m != n or s > _LEAST_SIGMA:
            image = _along(image, axis, _smoothing(n, m, max(s, _LEAST_SIGMA)))
    return image.contiguous()


def finer(image: Tensor, shape: Sequence[int]) -> Tensor:
    """An image of few voxels, interpolated linearly onto more of them over the same extent."""
    for axis, (m, n) in enumerate(zip(image.shape, shape, strict=True)):
        if m != n:
            image = _along(image, axis, _interpolation(m, n))
    return image.contiguous()


def blurred_channels(values: Tensor, sigma: float) -> Tensor:
    """Channels (C, *shape) after a Gaussian blur of σ voxels; border values continue outside."""
    radius = math.ceil(3 * sigma) if sigma > 0.2 else 0
    if radius == 0:
        return values
    weights = torch.exp(-0.5 * (torch.arange(radius + 1) / sigma) ** 2)
    shares: list[float] = (weights / (2 * weights.sum() - weights[0])).tolist()
    for axis in range(1, values.ndim):
        n = values.shape[axis]
        total = values * shares[0]
        for step, weight in enumerate(shares[1:], start=1):
            k = min(step, n)
            total.narrow(axis, k, n - k).add_(values.narrow(axis, 0, n - k), alpha=weight)
            total.narrow(axis, 0, n - k).add_(values.narrow(axis, k, n - k), alpha=weight)
            total.narrow(axis, 0, k).add_(values.narrow(axis, 0, 1), alpha=weight)
            total.narrow(axis, n - k, k).add_(values.narrow(axis, n - 1, 1), alpha=weight)
        values = total
    return values


def ringing(image: Tensor, axis: int, kept: float) -> Tensor:
    """Gibbs' ringing: only this share of the frequencies along an axis was measured."""
    spectrum = torch.fft.rfft(image, dim=axis)
    last = max(2, round(kept * spectrum.shape[axis]))
    spectrum.narrow(axis, last, spectrum.shape[axis] - last).zero_()
    return torch.fft.irfft(spectrum, n=image.shape[axis], dim=axis)


def ghosts(image: Tensor, axis: int, count: int, weight: float) -> Tensor:
    """Copies of the image, `count` of them evenly along an axis, each of this weight, as pulsation leaves them."""
    n = image.shape[axis]
    copies = sum(
        (image.roll(round(k * n / (count + 1)), dims=axis) for k in range(1, count + 1)), torch.zeros_like(image)
    )
    return image + weight * copies


def moved_patient(image: Tensor, axis: int, start: float, width: float, shift: float) -> Tensor:
    """What is measured of a patient who moved for a while.

    Args:
        axis: of the phase encoding, along which the patient moved.
        start, width: which frequencies were measured meanwhile, as shares of all; the lowest ones never were.
        shift: voxels.
    """
    n = image.shape[axis]
    frequency = torch.fft.rfftfreq(n, device=image.device)
    share = 2 * frequency
    first = _STILL + start * (1 - _STILL)
    moved = (share >= first) & (share < first + width)
    phase = torch.exp(-2j * math.pi * frequency * shift)
    factor = torch.where(moved, phase, torch.ones_like(phase))
    spectrum = torch.fft.rfft(image, dim=axis)
    column = [1] * image.ndim
    column[axis] = -1
    return torch.fft.irfft(spectrum * factor.reshape(column), n=n, dim=axis)


def robust_ends(values: Tensor, shares: Sequence[float], most: int = 1 << 16) -> tuple[float, float]:
    """Two percentiles (0 to 100) of the values above the lowest one, of an even part of them where there are many."""
    flat = values.flatten()
    flat = flat[:: max(1, flat.numel() // most)]
    lowest = flat.min()
    above = flat[flat > lowest].sort().values
    if above.numel() == 0:
        return float(lowest), float(lowest) + 1.0
    low, high = (float(above[round(share / 100 * (above.numel() - 1))]) for share in shares)
    return (low, high) if low < high else (float(lowest), float(above[-1]))


def _along(image: Tensor, axis: int, matrix: Tensor) -> Tensor:
    return torch.tensordot(matrix.to(image), image, dims=([1], [axis])).movedim(0, axis)


def _smoothing(n: int, m: int, sigma: float) -> Tensor:
    """(m, n): Gaussian weights of n voxels for m larger ones over the same extent; each row adds up to 1."""
    middle = (torch.arange(m) + 0.5) * (n / m) - 0.5
    weights = torch.exp(-0.5 * ((torch.arange(n) - middle.unsqueeze(1)) / sigma) ** 2)
    return weights / weights.sum(dim=1, keepdim=True)


def _interpolation(m: int, n: int) -> Tensor:
    """(n, m): linear interpolation of m voxels at n smaller ones over the same extent."""
    place = ((torch.arange(n) + 0.5) * (m / n) - 0.5).clamp(0, m - 1)
    return (1 - (torch.arange(m) - place.unsqueeze(1)).abs()).clamp(min=0)


def _spline_basis(n: int, intervals: int) -> Tensor:
    """Cubic B-spline basis (n, intervals + 3) at n points that reach from the first knot to the last."""
    position = torch.linspace(0, intervals, n).unsqueeze(1) - torch.arange(-1, intervals + 2)
    t = position.abs()
    near, far = 2 / 3 - t**2 + t**3 / 2, (2 - t).clamp(min=0) ** 3 / 6
    return torch.where(t < 1, near, far)


__all__ = [
    "blurred_channels",
    "coarser",
    "diffeomorphism",
    "enlarged",
    "finer",
    "ghosts",
    "moved_patient",
    "ringing",
    "robust_ends",
    "spline_field",
]
