"""The terms of Atlas-ISTN's losses (Sinclair et al. 2022, doi:10.1016/j.media.2022.102383, eqs. of section 3).

As in the released code, squared norms are means over voxels and channels, which is what the published λ belongs to.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def label_distance(labels: Tensor, others: Tensor) -> Tensor:
    """Mean squared difference of soft labels (N, C, *shape): L_s on all channels, L_a2s and L_s2a on the foreground."""
    return F.mse_loss(labels, others.expand_as(labels))


def weighted_label_distance(labels: Tensor, others: Tensor, weight: Tensor) -> Tensor:
    """As `label_distance`, each squared difference times its weight, broadcast to (N, C, *shape).

    The mean is over all voxels and channels, whatever their weights: where the weight is 1 a difference counts as much
    as it does there, so that the balance with the smoothness, the meaning of λ*, stays what it was.
    """
    return (weight * (labels - others).square()).mean()


def landmark_distances(found: Tensor, wanted: Tensor, half_extent: Tensor) -> Tensor:
    """Squared distances in mm² between CUBE points (P, D) of a grid that reaches `half_extent` mm (D) from its middle.

    Millimetres, so that their weight in a loss does not depend on how many voxels the grid has.
    """
    return ((found - wanted) * half_extent).square().sum(dim=-1)


def folded_share(displacement: Tensor | None) -> float:
    """Share of a grid's cells that a displacement (N, D, *shape) in CUBE units turns inside out.

    Looks at one determinant a cell, of its forward differences: enough to watch; `folding.folding` looks at all. An
    affine part with positive scales changes nothing of it.
    """
    if displacement is None:
        return 0.0
    d = displacement.shape[1]
    field = displacement[0].detach()
    rows = []
    for component in range(d):
        row = []
        for axis in range(d):  # x, y, z, which lie last to first
            step = field[component].diff(dim=d - 1 - axis)
            for other in range(d):
                if other != d - 1 - axis:
                    step = step.narrow(other, 0, step.shape[other] - 1)
            # A step of one voxel along the axis is 2/(N−1) in CUBE units.
            row.append(step * ((field.shape[d - axis] - 1) / 2) + float(component == axis))
        rows.append(torch.stack(row, dim=-1))
    return float((torch.linalg.det(torch.stack(rows, dim=-2)) <= 0).float().mean())


def cross_entropy_dice(prediction: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy plus one minus the mean soft Dice of the foreground, for L_s in place of the mean squared error.

    Args:
        prediction: (N, K, *shape), probabilities: the output of an ITN that ends in a softmax.
        labels: (N, K, *shape), soft.
    """
    entropy = -(labels * prediction.clamp(min=1e-6).log()).sum(dim=1).mean()
    axes = (0, *range(2, labels.ndim))
    shared = (prediction[:, 1:] * labels[:, 1:]).sum(dim=axes)
    sizes = prediction[:, 1:].sum(dim=axes) + labels[:, 1:].sum(dim=axes)
    # A label that is in no case of the batch counts as found where nothing was predicted.
    return entropy + 1 - ((2 * shared + 1) / (sizes + 1)).mean()


def smoothness(displacement: Tensor | None, like: Tensor) -> Tensor:
    """L_reg: mean squared forward difference of a displacement (N, D, *shape) in CUBE units, averaged over the axes.

    Zero, on the device of `like`, without a displacement.
    """
    if displacement is None:
        return torch.zeros((), device=like.device, dtype=like.dtype)
    axes = range(2, displacement.ndim)
    return torch.stack([displacement.diff(dim=axis).square().mean() for axis in axes]).mean()


def strength_in_voxels(strength: float, shape: tuple[int, ...]) -> tuple[float, ...]:
    """λ in voxel units for each displacement component x, y, z: λ·4/(N−1)², N the voxels along that axis.

    The regulariser of CUBE displacements times λ equals that of voxel displacements times this, so it is what stays the
    same when a model is moved to another grid size.
    """
    return tuple(strength * 4 / (n - 1) ** 2 for n in reversed(shape))
