"""The atlas of a training: the mean that it starts as, its update after each epoch, and its centring.

    zᵃ ← (1 − η) zᵃ + η mean_i(z_i∘Φ_i)        (Sinclair et al. 2022, doi:10.1016/j.media.2022.102383)

With many processes each goes through its share of the cases; sums are added up over all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .augmentation import on_grid
from .distributed import Processes
from .losses import label_distance, smoothness
from .model import AtlasISTN
from .prepared import Prepared
from .warp import displacement_from_velocity, identity, sample

#: Steps in which a case is registered to the atlas by itself, and Adam's rates at their start: of the velocity in
#: voxels, and of the affine parameters. They fall to 0 along a cosine.
_STEPS, _VELOCITY_RATE, _AFFINE_RATE = 50, 0.2, 0.02


@torch.no_grad()
def mean_case(data: Prepared, cases: Tensor, batch_size: int, group: Processes) -> tuple[Tensor, Tensor]:
    """The atlas at t = 0: the means of images (1, *shape) and soft labels (K, *shape), on the CPU.

    Args:
        cases: (N,) which of the prepared cases.
        batch_size: cases in memory at a time.
    """
    shape = [n - 2 * data.margin for n in data.images.shape[2:]]
    sums = [torch.zeros((values.shape[1], *shape), device=group.device) for values in (data.images, data.labels)]
    for index in group.share(cases).split(batch_size):
        for total, values in zip(sums, on_grid(data, index, group.device), strict=True):
            total += values.sum(dim=0)
    group.add_up(sums)
    return (sums[0] / len(cases)).cpu(), (sums[1] / len(cases)).cpu()


class RunningMean:
    """The mean of an epoch's cases on the atlas, added up while they are trained on.

    Each case counts as the networks warped it in its own step. That saves a pass over all cases at the end of the
    epoch, a fifth to a third of its time; the weights of one step and of the epoch's end differ little.
    """

    def __init__(self, model: AtlasISTN) -> None:
        self._sums = [torch.zeros_like(model.atlas_image), torch.zeros_like(model.atlas_labels)]

    @torch.no_grad()
    def add(self, image: Tensor, labels: Tensor, points: Tensor) -> None:
        """Add a batch: image (N, 1, *shape), labels (N, K, *shape), and for each atlas voxel its image point, CUBE."""
        found = sample(torch.cat([image, labels], dim=1), points).sum(dim=0)
        self._sums[0] += found[:1]
        self._sums[1] += found[1:]

    @torch.no_grad()
    def move(self, model: AtlasISTN, cases: int, group: Processes, eta: float) -> None:
        """Move the atlas of a model by η towards the mean of `cases` cases, over all processes."""
        group.add_up(self._sums)
        _move_towards(model, self._sums, cases, eta)


@torch.no_grad()
def update_atlas(
    model: AtlasISTN, data: Prepared, cases: Tensor, batch_size: int, group: Processes, eta: float, center: bool
) -> None:
    """Move the atlas image and labels of a model by η towards the mean of all cases brought onto the atlas.

    Args:
        cases: (N,) which of the prepared cases: all that are trained on.
        batch_size: cases registered at a time.
        eta: η, from 0 to 1.
        center: also move the atlas by η of the mean velocity, so that the cases' velocities become zero in the mean.
    """
    model.eval()
    sums = [torch.zeros_like(model.atlas_image), torch.zeros_like(model.atlas_labels)]
    drift = torch.zeros_like(_velocity_of_atlas(model)) if center and model.config.nonrigid else None
    for index in group.share(cases).split(batch_size):
        image, labels = on_grid(data, index, group.device)
        _, warp = model(image)
        points = warp.image_from_atlas()
        for total, values in zip(sums, (image, labels), strict=True):
            total += sample(values, points).sum(dim=0)
        if drift is not None and warp.velocity is not None:
            drift += warp.velocity.sum(dim=0, keepdim=True)
    group.add_up(sums if drift is None else [*sums, drift])
    _move_towards(model, sums, len(cases), eta)
    if drift is not None:
        _move_atlas(model, eta * drift / len(cases))


def renew_atlas(
    model: AtlasISTN,
    data: Prepared,
    cases: Tensor,
    strength: float,
    group: Processes,
    before_case: Callable[[int, int], None],
) -> None:
    """Make the atlas anew: the mean of all cases, each brought onto the atlas as closely as its labels tell.

    The STN's one pass is only where a case begins; velocity and affine parameters are then fitted to its known labels
    by themselves, L = L_a2s + λ L_reg, as in a refinement. An atlas from such a fit is as sharp as the cases allow,
    however little the STN has learnt.

    Args:
        cases: (N,) which of the prepared cases: all that were trained on.
        strength: λ on this grid.
        before_case: told the number of cases done and of all of this process, before each of them.
    """
    model.eval()
    sums = [torch.zeros_like(model.atlas_image), torch.zeros_like(model.atlas_labels)]
    own = group.share(cases)
    for number, index in enumerate(own.split(1)):
        before_case(number, len(own))
        image, labels = on_grid(data, index, group.device)
        points = _registered(model, image, labels, strength)
        for total, values in zip(sums, (image, labels), strict=True):
            total += sample(values, points)[0]
    group.add_up(sums)
    _move_towards(model, sums, len(cases), 1.0)


def _registered(model: AtlasISTN, image: Tensor, labels: Tensor, strength: float) -> Tensor:
    """Image points (1, *shape, D) in CUBE for the atlas's voxels, from a fit to the labels (1, K, *shape) of a case."""
    with torch.no_grad():
        begun = model.stn(model.stn_input(labels, image))
    parts = [None if part is None else part.detach().clone().requires_grad_(True) for part in begun]
    rates = (_VELOCITY_RATE, _AFFINE_RATE)
    moving = [{"params": [part], "lr": rate} for part, rate in zip(parts, rates, strict=True) if part is not None]
    adam = torch.optim.Adam(moving)
    slower = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: (1 + math.cos(math.pi * step / _STEPS)) / 2)
    atlas = model.atlas_labels[1:].unsqueeze(0)
    for _ in range(_STEPS):
        warp = model.transformation(*parts)
        plus = warp.displacement(1)
        outward = warp.config.direction == "atlas_from_image"
        found = sample(atlas, warp.atlas_from_image(plus if outward else None))
        loss = label_distance(labels[:, 1:], found) + strength * smoothness(plus, labels)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        slower.step()
    with torch.no_grad():
        return model.transformation(*parts).image_from_atlas()


@torch.no_grad()
def _move_towards(model: AtlasISTN, sums: Sequence[Tensor], cases: int, eta: float) -> None:
    for atlas, total in zip((model.atlas_image, model.atlas_labels), sums, strict=True):
        atlas.mul_(1 - eta).add_(total / cases, alpha=eta)


def _velocity_of_atlas(model: AtlasISTN) -> Tensor:
    """A velocity of the shape that the STN gives, (1, D, *half)."""
    pair = model.stn_input(model.atlas_labels.unsqueeze(0), model.atlas_image.unsqueeze(0))
    velocity: Tensor = model.stn(pair)[0]
    return velocity


def _move_atlas(model: AtlasISTN, velocity: Tensor) -> None:
    """Move the atlas along a velocity (1, D, *half) in voxels.

    With φ = exp(v) towards the atlas, exp(−u)∘φ ends at the atlas z∘exp(u); with φ from the atlas, at z∘exp(−u).
    """
    c = model.config
    sign = 1 if c.direction == "atlas_from_image" else -1
    moved = displacement_from_velocity(sign * velocity, c.shape, c.convention, c.squarings)
    points = identity(c.shape, moved) + moved.movedim(1, -1)
    for atlas in (model.atlas_image, model.atlas_labels):
        atlas.copy_(sample(atlas.unsqueeze(0), points)[0])


__all__ = ["RunningMean", "mean_case", "renew_atlas", "update_atlas"]
