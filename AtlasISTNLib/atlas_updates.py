"""The atlas of a training: the mean that it starts as, its update after each epoch, and its centring.

    zᵃ ← (1 − η) zᵃ + η mean_i(z_i∘Φ_i)        (Sinclair et al. 2022, doi:10.1016/j.media.2022.102383)

With many processes each goes through its share of the cases; sums are added up over all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .augmentation import on_grid
from .distributed import Processes
from .model import AtlasISTN
from .prepared import Prepared
from .warp import displacement_from_velocity, identity, sample


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


__all__ = ["RunningMean", "mean_case", "update_atlas"]
