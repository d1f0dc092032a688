"""Disagreement: where the fitted atlas and what it was fitted to are not of one mind, and how much.

A refinement ends where the labels' pull and the atlas's shape balance. What still disagrees there is either a mistake
of the prediction that the atlas bridges, or anatomy that the atlas does not reach: places to look at, worst first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # opens its parts when they are first used
from numpy.typing import NDArray

from .correspondence import ATLAS_FROM_IMAGE, carried
from .geometry import VOXEL, WORLD, Grid
from .metrics import mask_volume
from .result import Result
from .steering import check_target, soft_target
from .volume import Volume

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class StructureDisagreement:
    """How much of one structure disagrees.

    Attributes:
        value, name: of the structure.
        share: voxels of the model grid that only one of the two calls so, over those that at least one does; 0 to 1.
            None where neither does.
        missing: mL (2D: mm²) that only the target calls so: the atlas does not fill them.
        extra: mL (2D: mm²) that only the atlas calls so.
        blob: size in mL (2D: mm²) of the largest piece of those, of one kind and, where there is such a piece, two
            voxels thick: seams along boundaries are thinner. 0 where nothing disagrees.
        blob_kind: "missing" or "extra"; empty without a blob.
        blob_center: WORLD mm of the voxel of the blob nearest to its centroid; None without a blob.
    """

    value: int
    name: str
    share: float | None
    missing: float
    extra: float
    blob: float
    blob_kind: str
    blob_center: tuple[float, ...] | None


@dataclass(frozen=True, eq=False)
class Disagreement:
    """Where fitted atlas and target disagree.

    Attributes:
        map: on the placed model grid, (1, *shape), float32: half the summed absolute difference of both soft label
            maps at each voxel, their total variation distance: 0 where they are alike, 1 where no label has weight in
            both.
        structures: by share, worst first.
        unit: of the sizes, "mL" or "mm²".
    """

    map: Volume
    structures: tuple[StructureDisagreement, ...]
    unit: str

    def on(self, grid: Grid) -> Volume:
        """The map on another grid of the image's world, such as the image's own; 0 beyond the model grid."""
        return self.map.resampled(grid)

    def as_values(self) -> list[dict[str, Any]]:
        """The structures' figures as plain values for JSON."""
        return [
            {
                "value": s.value,
                "name": s.name,
                "share": s.share,
                "unit": self.unit,
                "missing": s.missing,
                "extra": s.extra,
                "blob": s.blob,
                "blob_kind": s.blob_kind,
                "blob_center": None if s.blob_center is None else list(s.blob_center),
            }
            for s in self.structures
        ]


def disagreement(result: Result, target: Volume | None = None) -> Disagreement:
    """Compare the fitted atlas with what it was fitted to, on the placed model grid.

    Args:
        result: from `segment` or `refine`.
        target: a label map or soft labels (see `steering.Steering`) to compare with instead of what the atlas was last
            fitted to.

    Raises:
        VolumeError, GeometryError: the target cannot be used.
    """
    grid = result.placement.grid
    if target is not None:
        check_target(target, None, result.structures, result.image.grid)
        wanted = soft_target(target, None, result.structures, grid)
    else:
        wanted = (result.soft_prediction if result.target is None else result.target).array
    fitted = carried(result.soft_atlas, grid, result.correspondence.transform(ATLAS_FROM_IMAGE)).array
    fitted = fitted.copy()
    fitted[0] += 1 - fitted.sum(axis=0)  # beyond the atlas lies background
    one, other = (_weights(values) for values in (wanted, fitted))
    found = Volume.from_array((0.5 * np.abs(one - other).sum(axis=0)).clip(0, 1), grid, "disagreement")
    ours, theirs = other.argmax(axis=0), one.argmax(axis=0)
    structures = [
        _structure(label.value, label.name, theirs == k, ours == k, grid)
        for k, label in enumerate(result.structures)
        if k > 0
    ]
    structures.sort(key=lambda s: -1.0 if s.share is None else s.share, reverse=True)
    return Disagreement(found, tuple(structures), "mm²" if _is_flat(grid) else "mL")


def _is_flat(grid: Grid) -> bool:
    return grid.ndim == 2 or grid.shape[0] == 1


def _weights(soft: NDArray[Any]) -> NDArray[np.float32]:
    """Soft labels (K, *shape) as probabilities: an ITN without a softmax may leave [0, 1] and not sum to 1."""
    kept = np.asarray(soft, dtype=np.float32).clip(0, None)
    total = kept.sum(axis=0, keepdims=True)
    return np.asarray(kept / np.maximum(total, 1e-6))


def _structure(value: int, name: str, wanted: Mask, fitted: Mask, grid: Grid) -> StructureDisagreement:
    kinds = {"missing": wanted & ~fitted, "extra": fitted & ~wanted}
    sizes = {kind: _size(mask, grid) for kind, mask in kinds.items()}
    union = int((wanted | fitted).sum())
    share = None if union == 0 else float(sum(int(mask.sum()) for mask in kinds.values()) / union)
    blobs = {kind: _largest_piece(mask) for kind, mask in kinds.items() if mask.any()}
    thick = {kind: blob for kind, (blob, is_thick) in blobs.items() if is_thick}
    chosen = thick or {kind: blob for kind, (blob, _) in blobs.items()}
    if not chosen:
        return StructureDisagreement(value, name, share, 0.0, 0.0, 0.0, "", None)
    kind = max(chosen, key=lambda k: int(chosen[k].sum()))
    voxels = np.argwhere(chosen[kind])
    middle = voxels[((voxels - voxels.mean(axis=0)) ** 2).sum(axis=1).argmin()]
    center = grid.transform_points(middle[::-1].astype(np.float64), WORLD, VOXEL)
    blob = _size(chosen[kind], grid)
    return StructureDisagreement(
        value, name, share, sizes["missing"], sizes["extra"], blob, kind, tuple(center.tolist())
    )


def _size(mask: Mask, grid: Grid) -> float:
    flat = _is_flat(grid) and grid.ndim == 3
    return mask_volume(mask[0] if flat else mask, grid.spacing[:2] if flat else grid.spacing)


def _largest_piece(mask: Mask) -> tuple[Mask, bool]:
    """The largest connected piece of a mask without what is one voxel thin, or with it if all of it is thin."""
    cube = np.ones([min(2, n) for n in mask.shape], dtype=bool)
    thick = scipy.ndimage.binary_opening(mask, cube)
    pieces, _ = scipy.ndimage.label(thick if thick.any() else mask)
    return pieces == np.bincount(pieces.ravel())[1:].argmax() + 1, bool(thick.any())


__all__ = ["Disagreement", "StructureDisagreement", "disagreement"]
