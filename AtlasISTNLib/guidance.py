"""Guidance: how steering enters the loss of one refinement, as tensors on the model's grid.

The steered loss is L* = β* L*_a2s + γ* L*_s2a + λ* L_reg + w L_landmarks with

- L*_a2s and L*_s2a as published, each squared difference times a weight. The means stay those over all voxels and
  channels: where nothing is ignored a difference pulls as hard against λ* as it does without steering.
- the weight of a voxel x and a structure j is (how much of x is not ignored) · (certainty at x over its mean) · (weight
  of j). The mean certainty is that over the foreground that counts, so that labels which are equally uncertain
  everywhere pull as they do without. For L*_s2a the weight is looked up at image_from_atlas(p) and not differentiated:
  nothing is to be gained by hiding in what is ignored.
- L_landmarks = mean_p ‖image_from_atlas(p) − q‖² in mm², whatever the grid's size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .bundle import Bundle
from .geometry import CUBE, WORLD, Float, Grid
from .losses import label_distance, landmark_distances, weighted_label_distance
from .result import Result
from .steering import Landmarks, Steering, as_values, certainty_of, check_steering, in_model, kept_share, soft_target
from .volume import Volume
from .warp import Transformation, sample


@dataclass(frozen=True, eq=False)
class Pairs:
    """Landmarks as a loss takes them.

    Attributes:
        atlas: (1, 1, ..., P, D), CUBE of the atlas grid, with as many axes as `warp.sample` wants.
        image: (P, D), CUBE of the placed grid.
        half_extent: (D,) mm from the placed grid's middle to its outermost voxel centres.
        weight: per mm².
    """

    atlas: Tensor
    image: Tensor
    half_extent: Tensor
    weight: float

    def distances(self, warp: Transformation, displacement: Tensor | None = None) -> Tensor:
        """Squared distance in mm² that each landmark still has, (P,); `displacement` as for `image_from_atlas`."""
        found = warp.image_from_atlas(displacement, self.atlas).reshape(self.image.shape)
        return landmark_distances(found, self.image, self.half_extent)


@dataclass(frozen=True, eq=False)
class Guidance:
    """What one refinement is guided by.

    Attributes:
        labels: (1, K, *shape), what the atlas is fitted to.
        target: the same as a volume on the placed grid where it is not the ITN's; else None.
        voxels: (1, 1, *shape), weight of each voxel of the placed grid; None where all count 1.
        channels: (1, K−1, 1, ...), weight of each structure; None where all count 1.
        pairs: the landmarks; None without.
        marks: the landmarks in WORLD, for the record; None without.
        record: what steered, as plain values; None where nothing did.
    """

    labels: Tensor
    target: Volume | None = None
    voxels: Tensor | None = None
    channels: Tensor | None = None
    pairs: Pairs | None = None
    marks: Landmarks | None = None
    record: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, bundle: Bundle, result: Result, steering: Steering | None, flat: Grid) -> Guidance:
        """The guidance of a case.

        Args:
            bundle: the model.
            result: of the case.
            steering: what the user wants; None or an empty one leaves everything as published.
            flat: the placed grid as the model sees it, 2D for single slices.

        Raises:
            ConfigError, VolumeError, GeometryError: see `steering.check_steering`.
        """
        target = None if result.source == "itn" else result.soft_prediction
        labels = _tensor(result.soft_prediction.array, bundle)
        if steering is not None:
            check_steering(steering, bundle.labels, bundle.grid, result.image.grid)
        if not steering:
            return cls(labels, target)
        placed = result.placement.grid
        if steering.target is not None:
            soft = soft_target(steering.target, steering.target_map, bundle.labels, placed)
            target, labels = Volume(soft, placed, steering.target.name), _tensor(soft, bundle)
        weights = [(steering.label_weights or {}).get(label.value, 1.0) for label in bundle.labels[1:]]
        channels = None
        if any(weight != 1 for weight in weights):
            channels = labels.new_tensor(weights).reshape(1, -1, *[1] * bundle.config.ndim)
        record = as_values(steering)
        kept = np.ones(bundle.config.shape, dtype=np.float32)
        if steering.ignore is not None:
            kept = kept_share(steering.ignore, placed).reshape(bundle.config.shape)
            record["ignored_percent"] = float(100 * (kept == 0).mean())
        if steering.certainty:
            kept = kept * _relative_certainty(labels[0].cpu().numpy(), kept, [weight > 0 for weight in weights])
        voxels = _tensor(kept, bundle) if steering.certainty or steering.ignore is not None else None
        marks = steering.landmarks
        pairs = None if marks is None else _pairs(bundle, result.image.grid, marks, flat)
        return cls(labels, target, voxels, channels, pairs, marks, record)

    def a2s(self, warped: Tensor) -> Tensor:
        """L*_a2s of the atlas's foreground brought onto the image, (1, K−1, *shape)."""
        return _distance(self.labels[:, 1:], warped, self.voxels, self.channels)

    def s2a(self, points: Tensor, atlas: Tensor) -> Tensor:
        """L*_s2a of the foreground brought onto the atlas (1, K−1, *shape), at image points (1, *shape, D)."""
        voxels = None if self.voxels is None else sample(self.voxels, points.detach())
        return _distance(sample(self.labels[:, 1:], points), atlas, voxels, self.channels)


def _distance(labels: Tensor, others: Tensor, voxels: Tensor | None, channels: Tensor | None) -> Tensor:
    if voxels is None and channels is None:
        return label_distance(labels, others)
    ones = labels.new_ones(())
    weight = (ones if voxels is None else voxels) * (ones if channels is None else channels)
    return weighted_label_distance(labels, others, weight)


def _tensor(array: NDArray[Any], bundle: Bundle) -> Tensor:
    """(1, C, *shape) on the model's device."""
    return torch.from_numpy(array.copy()).reshape(1, -1, *bundle.config.shape).to(bundle.device)


def _relative_certainty(
    soft: NDArray[np.float32], kept: NDArray[np.float32], counting: Sequence[bool]
) -> NDArray[np.float32]:
    """Certainty of soft labels (K, *shape) over its mean in the foreground that counts."""
    certainty = certainty_of(soft)
    mass = soft[1:][np.array(counting)].clip(0, 1).sum(axis=0) * kept
    mean = float((certainty * mass).sum() / mass.sum()) if mass.sum() > 0 else float(certainty.mean())
    return np.asarray(certainty / max(mean, 1e-3), dtype=np.float32)


def _pairs(bundle: Bundle, image: Grid, landmarks: Landmarks, flat: Grid) -> Pairs:
    known, seen = in_model(landmarks, bundle.grid, image)

    def tensor(values: Float) -> Tensor:
        return torch.from_numpy(values).to(bundle.device, bundle.model.atlas_labels.dtype)

    atlas = tensor(bundle.grid.transform_points(known, CUBE, WORLD))
    half = (np.array(flat.size, dtype=np.float64) - 1) / 2 * np.array(flat.spacing)
    return Pairs(
        atlas.reshape(*[1] * flat.ndim, *atlas.shape),
        tensor(flat.transform_points(seen, CUBE, WORLD)),
        tensor(half),
        float(landmarks.weight),
    )


__all__ = ["Guidance", "Pairs"]
